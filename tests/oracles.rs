//! Other people's tests as judges: CPython's own, of sockets and of all that stands on them, Twisted's and Tornado's have
//! the outcome under the library that they have without it, though keepalive and user timeout are set on everything.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use libtest_mimic::Trial;

use crate::support::{plain, preloaded, scratch, test_with, text};

/// Name, what Python has to have, modules (of CPython's `test` package older and newer versions lack some), and how many
/// tests are the least.
const SUITES: [(&str, &str, &str, usize); 5] = [
    ("python_socket", "libpython3-testsuite", "test.test_socket", 300),
    (
        "python_asyncio",
        "libpython3-testsuite",
        "test.test_asyncio.test_events test.test_asyncio.test_sock_lowlevel test.test_asyncio.test_server \
        test.test_asyncio.test_streams test.test_asyncio.test_sendfile",
        150,
    ),
    (
        "python_protocols",
        "libpython3-testsuite",
        "test.test_asyncore test.test_asynchat test.test_docxmlrpc test.test_epoll test.test_httplib test.test_httpservers \
        test.test_select test.test_smtplib test.test_socketserver test.test_telnetlib test.test_urllib2_localnet \
        test.test_xmlrpc",
        200,
    ),
    (
        "twisted",
        "python3 module twisted",
        "twisted.internet.test.test_tcp twisted.test.test_tcp twisted.internet.test.test_endpoints \
        twisted.internet.test.test_socket twisted.internet.test.test_udp",
        600,
    ),
    (
        "tornado",
        "python3 module tornado",
        "tornado.test.iostream_test tornado.test.tcpclient_test tornado.test.tcpserver_test tornado.test.netutil_test \
        tornado.test.httpserver_test tornado.test.simple_httpclient_test tornado.test.websocket_test",
        250,
    ),
];

/// Sockets that are not the library's, long waits, what is tried with one kind of event loop after the other, and one
/// that holds keepalive to be off where nobody switched it on; and one that has a tenth of a second for a TLS handshake, which fails
/// without the library too if the machine is busy.
const LEFT_OUT: &str = "*VSOCK*,*VSock*,*Bluetooth*,*UDP*,*RFC3542*,*NetworkConnectionBehaviourTest*,*ReadAfterTimeout,\
    *WithTimeoutTriggeredSend,*test_sendall_interrupted*,*testInterruptedTimeout,\
    *.PollEventLoopTests.*,*.SelectEventLoopTests.*,*test_subprocess_*,*_pty_*,*CGIHTTPServerTestCase*,\
    *_GIReactorTests.*,*_Glib2ReactorTests.*,*test_tcpKeepAlive,\
    *SimpleHTTPSClientTestCase.test_request_timeout";

/// Prints every test's name and outcome. The resource "network" is the internet, but for test_socketserver.
const OUTCOMES: &str = r#"
import sys, unittest, warnings
from fnmatch import fnmatchcase
from importlib.util import find_spec
from test import support
left_out, names = sys.argv[1].split(","), sys.argv[2:]
support.use_resources = {"network": None} if "test.test_socketserver" in names else {}
warnings.simplefilter("ignore")

class Outcomes(unittest.TestResult):
    def startTest(self, test):
        super().startTest(test)
        self.outcome = "passed"
    def fails(self, test, error=None):
        self.outcome = "failed"
        if error:
            print(self._exc_info_to_string(error, test), file=sys.stderr)
        if not isinstance(test, unittest.TestCase):
            print("failed", test.id())
    addError = addFailure = addUnexpectedSuccess = fails
    def addSubTest(self, test, part, error):
        if error:
            self.fails(test, error)
    def addSkip(self, test, why):
        self.outcome = "skipped"
        if not isinstance(test, unittest.TestCase):
            print("skipped", test.id())
    def stopTest(self, test):
        super().stopTest(test)
        print(self.outcome, test.id(), flush=True)

def single(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from single(item)
        else:
            yield item

def is_there(name):
    return name.count(".") > 2 or find_spec(name)

names = [name for name in names if is_there(name)]
tests = single(unittest.defaultTestLoader.loadTestsFromNames(names))
wanted = [test for test in tests if not any(fnmatchcase(test.id(), glob) for glob in left_out)]
unittest.TestSuite(wanted).run(Outcomes())
print("end")
"#;

pub(crate) fn trials() -> Vec<Trial> {
    let suite = |(name, needs, modules, least): (&'static str, &'static str, &'static str, usize)| {
        let (python, needs) = match interpreter() {
            Some(python) if needs == "libpython3-testsuite" => (python, "timeout"),
            _ => ("/usr/bin/python3", needs),
        };
        let names: Vec<String> = modules.split_whitespace().map(str::to_owned).collect();
        test_with(&[needs, "timeout"], format!("oracles::{name}"), move || same_outcomes(python, name, &names, least))
    };
    SUITES.into_iter().map(suite).collect()
}

/// The path of a Python that has its own tests, past wrappers.
fn interpreter() -> Option<&'static str> {
    static FOUND: OnceLock<Option<String>> = OnceLock::new();
    let find = || {
        let script = "import sys, importlib.util as u; u.find_spec('test.test_socket') and print(sys.executable)";
        let output = plain("python3").args(["-I", "-c", script]).output().ok()?;
        let path = text(&output).0.trim().to_owned();
        (!path.is_empty()).then_some(path)
    };
    FOUND.get_or_init(find).as_deref()
}

type Outcomes = BTreeMap<String, String>;

fn outcomes(output: &Output) -> Outcomes {
    let (stdout, stderr) = text(output);
    assert!(stdout.ends_with("end\n"), "{:?}: {stdout}\n{stderr}", output.status);
    let outcome = |line: &str| line.split_once(' ').map(|(outcome, name)| (name.to_owned(), outcome.to_owned()));
    // What the tests print themselves is none of theirs.
    let is_outcome = |line: &&str| ["passed ", "failed ", "skipped "].iter().any(|word| line.starts_with(word));
    stdout.lines().filter(is_outcome).filter_map(outcome).collect()
}

/// Runs the tests without and with the library at the same time. Seen to fail with a setsockopt that answers every call
/// with success and carries out none.
fn same_outcomes(python: &str, suite: &str, names: &[String], least: usize) {
    let mut names = names.to_vec();
    for attempt in 0.. {
        let (without, with, said) = both(python, &format!("oracles-{suite}-{attempt}"), &names);
        if attempt == 0 {
            let passed = without.0.values().filter(|outcome| *outcome == "passed").count();
            assert!(passed >= least, "{passed} tests of {suite} passed");
        }
        let differs = |name: &&String| without.0.get(*name) != with.0.get(*name);
        let different: Vec<String> = without.0.keys().chain(with.0.keys()).filter(differs).cloned().collect();
        if different.is_empty() {
            return;
        }
        // Some wait for so long and no longer, which fails on a busy machine: such a one differs by chance.
        assert!(attempt < 2, "{different:?}\nwithout:\n{}\nwith:\n{}\n{said}", without.1, with.1);
        if different.iter().all(|name| !name.contains(' ')) {
            names = different;
        }
    }
}

/// Outcomes and stderr without the library and with it, and what it said.
fn both(python: &str, folder: &str, names: &[String]) -> ((Outcomes, String), (Outcomes, String), String) {
    let start = |command: &mut Command, folder: String| {
        let folder = scratch(&folder);
        command.args(["-k", "1", "300", python, "-I", "-c", OUTCOMES, LEFT_OUT]);
        command.args(names).current_dir(&folder).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("timeout can be started")
    };
    let log = scratch(&format!("{folder}-log")).join("log");
    let mut library = preloaded("timeout");
    library.env("SOCKOPT_KEEPALIVE", "60s,20s,4").env("SOCKOPT_USER_TIMEOUT", "auto");
    library.env("SOCKOPT_LOG", "info").env("SOCKOPT_LOG_FILE", &log);
    let with = start(&mut library, format!("{folder}-with"));
    let without = start(&mut plain("timeout"), format!("{folder}-without"));
    let [without, with] = [without, with].map(|child| {
        // Its streams are read by a thread each, or the other would wait for a full pipe.
        std::thread::spawn(|| child.wait_with_output().expect("timeout ends"))
    });
    let [without, with] = [without, with].map(|waiting| {
        let output = waiting.join().expect("the thread ends");
        (outcomes(&output), text(&output).1)
    });
    let said = fs::read_to_string(&log).unwrap_or_default();
    assert!(said.contains(" info: configuration: "), "the library was not there: {said}");
    assert!(said.lines().all(|line| line.contains("]: info: ")), "{said}");
    (without, with, said)
}

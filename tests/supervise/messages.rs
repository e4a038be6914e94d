//! What `sockopt run`, `show` and `check` say of the supervisor, and its log.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use libtest_mimic::Trial;

use super::processes::{RULE, kill, port, program, supervised};
use crate::command::{outcome, run};
use crate::support::{plain, probe, test, test_with};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        test("supervise::messages::sandboxes", sandboxes),
        test("supervise::messages::log", log),
        test_with(&["python3"], "supervise::messages::not_available", not_available),
        test("supervise::messages::what_it_cannot", what_it_cannot),
        test("supervise::messages::check_for", check_for),
        test("supervise::messages::shown", shown),
    ]
}

/// What sandboxes refuse is found before the program starts, and said.
fn sandboxes() {
    let port = port();
    let start = |call: i64, errno: i32, arguments: &[&str]| {
        let mut command = plain(probe("refuse"));
        command.args([call.to_string(), errno.to_string()]).arg(crate::support::sockopt()).args(["run", RULE]);
        command.args(arguments).arg(program()).args(["dial", &port]);
        outcome(&mut command)
    };
    for (call, errno, why) in [
        (libc::SYS_pidfd_open, libc::ENOSYS, "the program's descriptors cannot be copied: ENOSYS"),
        (libc::SYS_ioctl, libc::EPERM, "the kernel does not report the program's calls: EPERM"),
        (libc::SYS_seccomp, libc::EINVAL, "the kernel, or a sandbox, offers no seccomp user notification (EINVAL)"),
        (libc::SYS_seccomp, libc::EPERM, "the kernel refuses the seccomp filter: EPERM"),
    ] {
        let (code, printed, stderr) = start(call, errno, &[]);
        assert_eq!((code, printed.as_str()), (Some(1), ""), "{why}: {stderr}");
        assert!(stderr.starts_with("error: ") && stderr.contains(why), "{why}: {stderr}");
        // As it would start without.
        let (code, printed, stderr) = start(call, errno, &["--force"]);
        assert_eq!(code, Some(0), "{why}: {stderr}");
        assert!(printed.starts_with("keepalive 0 7200 user_timeout 0"), "{why}: {printed}");
        assert!(stderr.starts_with("warning: ") && stderr.contains(why), "{why}: {stderr}");
    }
}

/// The lines are those of the library, with the program's process id.
fn log() {
    let port = port();
    let mut command = supervised();
    command.arg("--log=debug").arg(program()).args(["dial", &port]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let id = child.id();
    let output = child.wait_with_output().expect("it ends");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let wanted = format!(
        "sockopt[{id}]: info: configuration: no file: 0 rules, 0 for this process, options from the environment\n\
         sockopt[{id}]: debug: connect fd 3 127.0.0.1:{port}: environment: TCP_KEEPIDLE=5 SO_KEEPALIVE=1 TCP_KEEPINTVL=3 TCP_KEEPCNT=3 TCP_USER_TIMEOUT=14000\n\
         sockopt[{id}]: info: setsockopt fd 3 SO_KEEPALIVE: not carried out: environment enforces it\n\
         sockopt[{id}]: info: setsockopt fd 3 TCP_KEEPIDLE: not carried out: environment enforces it\n"
    );
    assert_eq!(stderr, wanted);
    // The library's own, for the same calls of a dynamic program.
    let mut command = run();
    command.args([RULE, "--log=debug", "--by=library"]).arg(probe("supervised")).args(["dial", &port]);
    let (_, _, of_library) = outcome(&mut command);
    let without_id =
        |text: &str| text.lines().filter_map(|line| Some(line.split_once("]: ")?.1.to_owned())).collect::<Vec<_>>();
    assert_eq!(without_id(&of_library), without_id(&stderr));
    let file = crate::support::scratch("supervise-log").join("log");
    let (code, _, stderr) =
        outcome(supervised().args(["--log=debug", "--log-file"]).arg(&file).arg(program()).args(["dial", &port]));
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert_eq!(fs::read_to_string(&file).expect("a log").lines().count(), 4);
}

/// What sockets of a kind do not have is no error, and the line about the others names it, in the library too. Seen to fail: MPTCP's
/// missing user timeout was told by nothing.
fn not_available() {
    const CONNECT: &str = "import socket; l = socket.create_server(('127.0.0.1', 0)); \
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262).connect(l.getsockname())";
    for way in ["--by=library", "--by=supervisor"] {
        let (code, _, stderr) = outcome(run().args([RULE, "--log=debug", way, "python3", "-c", CONNECT]));
        let told = stderr.lines().find(|line| line.contains("debug: connect fd")).unwrap_or_default();
        let wanted = " TCP_KEEPCNT=3; not available with MPTCP: user_timeout";
        assert!(code == Some(0) && told.ends_with(wanted), "{way}: {stderr}");
        assert!(!stderr.contains("warn"), "{way}: {stderr}");
    }
}

/// `sockopt show` tells by which way a program has its options.
fn shown() {
    let shell = format!("{} sleep & echo $!; wait", program().display());
    let (own, dynamic) = (program().display().to_string(), probe("supervised").display().to_string());
    for (way, option, words) in [
        ("supervisor", "supervisor", vec![&*own, "sleep"]),
        ("supervisor", "supervisor", vec!["sh", "-c", &shell]),
        ("library", "library", vec![&*dynamic, "sleep"]),
        ("", "", vec![&*own, "sleep"]),
    ] {
        let mut command = if option.is_empty() { plain(words[0]) } else { supervised() };
        let rest = if option.is_empty() { &words[1..] } else { &words };
        if !option.is_empty() {
            command.arg(format!("--by={option}"));
        }
        let mut child = command.args(rest).stdout(Stdio::piped()).spawn().expect("it starts");
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        output.read_line(&mut line).expect("a line");
        // The shell's child, which may have said so first.
        let both = words[0] == "sh";
        let mut other = String::new();
        if both {
            output.read_line(&mut other).expect("a line");
        }
        let id = [&line, &other].into_iter().find_map(|line| line.trim().parse::<u32>().ok()).unwrap_or(child.id());
        let show = |arguments: &[&str]| {
            outcome(plain(crate::support::sockopt()).arg("show").args(arguments).arg(id.to_string())).1
        };
        let report: serde_json::Value = serde_json::from_str(&show(&["--json"])).expect("JSON");
        let told = report["processes"][0]["way"].as_str().unwrap_or_default();
        let heading = show(&[]);
        kill(id as i32, "TERM");
        let _ = child.kill();
        let _ = child.wait();
        assert_eq!(told, way, "{words:?} {report}");
        assert_eq!(heading.contains(&format!("({id}), options set by the {way}")), !way.is_empty(), "{heading}");
    }
}

/// `sockopt check --for` says what `sockopt run` says when it starts a program.
fn check_for() {
    let toml = "[[rule]]\nname = \"db\"\nto = [\"db.example:5432\"]\nprocess = [\"other\"]\nnodelay = true\n";
    let check = |toml: &str, arguments: &[&str]| {
        let mut command = plain(crate::support::sockopt());
        outcome(command.env("SOCKOPT_CONFIG_TOML", toml).arg("check").args(arguments))
    };
    let lost =
        "rule \"db\": the supervisor does not see the program look up names: db.example never matches; use addresses";
    let (code, _, said) = check(toml, &["--for=supervisor"]);
    assert_eq!((code, said), (Some(0), format!("warning: {lost}\n")));
    // Seen to fail: with the warnings of the text alone counted.
    assert_eq!(check(toml, &["--for=supervisor", "--deny-advice"]).0, Some(1));
    assert_eq!(check(toml, &["--for=library", "--deny-advice"]).0, Some(0));
    let (code, printed, _) = check(toml, &["--for=supervisor", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&printed).expect("JSON");
    assert_eq!((code, &report["cannot"]), (Some(0), &serde_json::json!([lost])));
    let (_, printed, _) = check(toml, &["--json"]);
    assert!(!printed.contains("cannot"), "{printed}");
    assert_eq!(check(toml, &["--for=library"]).2, "note: the library can do everything in this configuration\n");
    assert_eq!(check("[[rule]]\nto = [1]\n", &["--for=supervisor"]).0, Some(78));
    assert_eq!(check(toml, &["--for=nothing"]).0, Some(2));
}

/// Said when the program starts.
fn what_it_cannot() {
    let start = |toml: &str| {
        let mut command = run();
        outcome(command.env("SOCKOPT_CONFIG_TOML", toml).arg(program()).arg("self")).2
    };
    let said = start("[[rule]]\nname = \"db\"\nto = [\"db.example:5432\", \"10.0.0.0/8\"]\nnodelay = true\n");
    assert_eq!(
        said,
        "warning: rule \"db\": the supervisor does not see the program look up names: db.example never matches; use addresses\n"
    );
    assert_eq!(start("[[rule]]\nto = [\"10.0.0.0/8\"]\nnodelay = true\n"), "");
    let said = start("[[rule]]\nfrom = [\"10.0.0.0/8\"]\nuser_timeout = \"9s\"\n");
    assert!(said.starts_with("warning: accepted sockets do not inherit some options"), "{said}");
    let (_, _, said) = outcome(run().args(["--to=db.example,10.0.0.0/8", "--nodelay=true"]).arg(program()).arg("self"));
    assert!(said.starts_with("warning: --to: the supervisor does not see the program look up names"), "{said}");
}

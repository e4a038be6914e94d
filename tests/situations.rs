//! Every interposed call in every situation that a program can make it in: on small stacks, in signal handlers, after
//! fork, where memory or descriptors end, under filters, among other preload libraries (tests/probes/situation.c).
//!
//! Each situation is run plain and under the library, once for each call that may be the one that sets the library up.
//! Results, errno, exit status and the open descriptors must be the same; what the kernel has must be the rule's.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::{env, process};

use libtest_mimic::Trial;

use crate::faults::{Build, built as built_library};
use crate::support::{self, scratch, test_with};

const CONFIGURATION: &str = "[defaults]\ndead_peer_timeout = \"15s\"\npriority = 5\nreuse_port = true\n";
/// What stands in what the probe prints, without the library and under it.
const SET: [(&str, &str); 4] = [
    (" TCP_KEEPIDLE=7000", " TCP_KEEPIDLE=5"),
    (" TCP_KEEPIDLE=99", " TCP_KEEPIDLE=5"),
    (" SO_PRIORITY=0", " SO_PRIORITY=5"),
    (" SO_REUSEPORT=0", " SO_REUSEPORT=1"),
];
/// Lines with values in a round: one for each call.
const ROUND: usize = 13;
/// The calls that can be the first, by their place in the round: connect, bind, listen, accept, accept4, setsockopt,
/// sendto, sendmsg, sendmmsg. close, close_range, dup2 and dup3 never set anything up.
const FIRST: std::ops::Range<usize> = 0..9;
/// A signal handler's stack, as a program gives one that goes by MINSIGSTKSZ or SIGSTKSZ. What is not optimised has frames several
/// times as large.
const SIGNAL_STACK: &str = "8192";
const SIGNAL_STACK_UNOPTIMISED: &str = "16384";

/// One situation; the steps are those of the probe.
#[derive(Debug, Clone)]
struct Situation {
    steps: String,
    /// How many values are read back; None where it is not ours to say.
    values: Option<usize>,
    /// Whether the library can set the options at all.
    is_set: bool,
    environment: Vec<(String, String)>,
    /// Other preload libraries, before and after ours.
    before: Option<PathBuf>,
    after: Option<PathBuf>,
    /// What runs the probe.
    wrapper: Vec<String>,
    /// Whether the library, made to talk, has somewhere to talk to.
    is_heard: bool,
    build: Build,
}

#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    status: Option<i32>,
    signal: Option<i32>,
    stdout: String,
    stderr: String,
}

fn at(steps: &str, rounds: usize) -> Situation {
    under(Build::Debug, steps, rounds)
}

fn under(build: Build, steps: &str, rounds: usize) -> Situation {
    let is_optimised = build == Build::Release || !cfg!(debug_assertions);
    let size = if is_optimised { SIGNAL_STACK } else { SIGNAL_STACK_UNOPTIMISED };
    let words = steps.split_whitespace().flat_map(|step| match step {
        "signal" | "malloc" => vec![step, size],
        _ => vec![step],
    });
    Situation {
        steps: words.collect::<Vec<_>>().join(" "),
        values: Some(ROUND * rounds),
        is_set: true,
        environment: Vec::new(),
        before: None,
        after: None,
        wrapper: Vec::new(),
        is_heard: true,
        build,
    }
    .with("SOCKOPT_CONFIG_TOML", CONFIGURATION)
}

impl Situation {
    fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    fn without_effect(mut self) -> Self {
        self.is_set = false;
        self
    }

    fn run(&self, preload: bool, program: &Path, arguments: &[String]) -> Outcome {
        let mut command = match self.wrapper.split_first() {
            Some((wrapper, more)) => {
                let mut command = support::plain(wrapper);
                command.args(more).arg("env");
                command
            }
            None => support::plain("env"),
        };
        let ours = preload.then(|| built_library(self.build));
        let list: Vec<String> = [&self.before, &ours, &self.after]
            .into_iter()
            .flatten()
            .map(|library| library.display().to_string())
            .collect();
        if !list.is_empty() {
            command.arg(format!("LD_PRELOAD={}", list.join(":")));
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        finish(command.arg(program).args(arguments))
    }

    /// Both ways, from one first call.
    fn compare(&self, program: &Path, arguments: &[String]) {
        let (plain, preloaded) = (self.run(false, program, arguments), self.run(true, program, arguments));
        let context = || format!("{self:#?}\n{arguments:?}\nwithout the library: {plain:#?}\nunder it: {preloaded:#?}");
        assert_eq!((plain.status, plain.stderr.as_str()), (Some(0), ""), "{}", context());
        assert_eq!((preloaded.status, preloaded.signal), (plain.status, plain.signal), "{}", context());
        let wanted = if self.is_set { set(&plain.stdout) } else { plain.stdout.clone() };
        for (found, wanted) in preloaded.stdout.lines().zip(wanted.lines()) {
            assert_eq!(found, wanted, "{}", context());
        }
        assert_eq!(preloaded.stdout, wanted, "{}", context());
        let values = plain.stdout.lines().filter(|line| line.starts_with('@')).count();
        assert_eq!(values, self.values.unwrap_or(values), "{}", context());
        let is_changed = |(found, before): (&str, &str)| found == before && !found.contains("=-");
        let unset = wanted.lines().zip(plain.stdout.lines()).filter(|(line, _)| line.starts_with('@')).any(is_changed);
        assert_eq!(unset, !self.is_set, "{}", context());
        let talks = self.environment.iter().any(|(name, value)| name == "SOCKOPT_LOG" && value == "debug");
        let said: Vec<&str> = preloaded.stderr.lines().collect();
        assert_eq!(!said.is_empty(), talks && self.is_heard, "{}", context());
        assert!(said.iter().all(|line| line.starts_with("sockopt[")), "{}", context());
    }

    /// From every first call, quietly and talking.
    fn check(&self) {
        let probe = probe();
        for first in FIRST {
            let words = self.steps.split_whitespace().map(str::to_owned);
            let arguments: Vec<String> = [first.to_string()].into_iter().chain(words).collect();
            self.compare(&probe, &arguments);
            // The log's own path, from two of them.
            if self.is_set && first % 5 == 0 {
                self.clone().with("SOCKOPT_LOG", "debug").compare(&probe, &arguments);
            }
        }
    }
}

/// What is to be found under the library, from what is found without.
fn set(text: &str) -> String {
    let one = |line: &str| {
        let set = |line: String, (from, to): &(&str, &str)| line.replace(from, to);
        if line.starts_with('@') { SET.iter().fold(line.to_owned(), set) } else { line.to_owned() }
    };
    text.lines().map(|line| one(line) + "\n").collect()
}

fn finish(command: &mut Command) -> Outcome {
    let output = command.output().expect("a command");
    let (stdout, stderr) = support::text(&output);
    Outcome { status: output.status.code(), signal: output.status.signal(), stdout, stderr }
}

/// Compiles sources of tests/probes once; what is made of them.
fn built(name: &str, compiler: &str, options: &[&str], sources: &[PathBuf]) -> PathBuf {
    static BUILT: OnceLock<Mutex<HashMap<String, PathBuf>>> = OnceLock::new();
    let mut built = BUILT.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if !built.contains_key(name) {
        let mut command = Command::new(compiler);
        command.args(["-O1", "-g", "-Wall", "-Werror", "-pthread", "-Wl,-z,now", "-o"]).arg(&path);
        let made = finish(command.args(options).args(sources));
        assert_eq!(made.status, Some(0), "{name}: {}", made.stderr);
        built.insert(name.to_owned(), path.clone());
    }
    path
}

fn source(name: &str) -> PathBuf {
    support::root().join("tests/probes").join(name)
}

fn probe() -> PathBuf {
    built("situation", "cc", &[], &[source("situation.c")])
}

/// The round as a library's constructor or destructor.
fn round_library() -> PathBuf {
    built("situation.so", "cc", &["-shared", "-fPIC", "-DLIBRARY"], &[source("situation.c")])
}

/// The other preload library, of one kind.
fn between(kind: &str) -> PathBuf {
    let name = format!("situation_{}.so", kind.to_lowercase());
    built(&name, "cc", &["-shared", "-fPIC", &format!("-D{kind}")], &[source("situation_between.c")])
}

/// A shared library of the system.
fn installed(file: &str) -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    folders.chain(["/usr/lib".into(), "/usr/lib64".into()]).map(|folder| folder.join(file)).find(|path| path.is_file())
}

/// The tests of this file.
#[derive(Default)]
struct Tests(Vec<Trial>);

impl Tests {
    fn add(&mut self, name: impl AsRef<str>, run: impl FnOnce() + Send + 'static) {
        self.with(&[], name, run);
    }
    fn with(&mut self, needs: &[&'static str], name: impl AsRef<str>, run: impl FnOnce() + Send + 'static) {
        self.0.push(test_with(needs, format!("situations::{}", name.as_ref()), run));
    }
}

/// Where a round is made, and how many of them. Each row, if sockets can be made there, fails where errno is not put
/// back (`guard::contained`) and where close, close_range, dup2 or dup3 do not take back a hint; and what is more:
const PLACES: [(&str, &str, usize); 27] = [
    ("main", "", 1),
    ("main, the second round", "again", 2),
    ("thread", "thread", 1),
    // Fail with set-up on the caller's stack: `arena::run` calls `work` itself.
    ("thread of 16 KiB", "small", 1),
    ("thread of 16 KiB, in a child", "fork small", 3),
    ("signal handler", "signal", 1),
    ("signal handler of a thread of 16 KiB", "small signal", 1),
    ("signal handler in a child", "fork signal", 3),
    // Fails with `std::alloc::System` for the library's allocator: it waits for the lock that malloc holds.
    ("signal handler inside malloc", "malloc", 1),
    // Fail with rules that are in force only in the process that loaded the library.
    ("fork", "fork", 3),
    ("fork after a round", "again fork", 6),
    ("vfork", "vfork", 2),
    ("vfork after a round", "again vfork", 4),
    // Fail with a library that takes LD_PRELOAD out of the environment.
    ("posix_spawn", "spawn", 1),
    ("posix_spawn from a thread of 16 KiB", "small spawn thread", 1),
    ("exec", "exec", 1),
    ("exit handler", "atexit", 1),
    ("exit handler, in a signal handler there", "atexit signal", 1),
    // Fail with a descriptor that the library keeps.
    ("no descriptor left", "nofile 3", 1),
    ("one descriptor left", "nofile 4", 1),
    ("two descriptors left", "nofile 5", 1),
    ("just enough descriptors", "nofile 6", 1),
    ("no descriptor left in a thread", "thread nofile 3", 1),
    ("one descriptor left before exec", "nofile 4 exec", 1),
    // Fails with room for compiling that is reserved when it is needed.
    ("no address space left", "space 1", 1),
    // Fail with an environment that is read at the first call.
    ("clearenv", "clearenv", 1),
    ("environ is NULL", "noenviron", 1),
];

/// Where nothing may be written: there is no standard error, or a socket in its place. Those with sockets fail without
/// `is_socket` in `log::begin`, all of them with a descriptor that the library keeps.
const SILENT: [(&str, &str); 6] = [
    ("descriptors 0 to 2 closed", "closed"),
    ("descriptors 0 to 2 closed before exec", "closed exec"),
    ("descriptors 0 to 2 closed, signal handler", "closed signal"),
    ("descriptors 0 to 2 are sockets", "sockets"),
    ("descriptors 0 to 2 are sockets before exec", "sockets exec"),
    ("descriptors 0 to 2 are sockets, thread of 16 KiB", "sockets exec small"),
];

pub(crate) fn trials() -> Vec<Trial> {
    let mut tests = Tests::default();
    for (name, steps, rounds) in PLACES {
        tests.add(name, move || at(steps, rounds).check());
    }
    // On a handler's stack of the usual size, what is shipped. Fail with `Memory` that holds its own books: the set-up's frames
    // do not fit, and the program dies of SIGSEGV.
    for (name, steps, rounds) in
        PLACES.into_iter().filter(|(_, steps, _)| steps.split(' ').any(|step| matches!(step, "signal" | "malloc")))
    {
        tests.add(format!("{name}, Release"), move || under(Build::Release, steps, rounds).check());
    }
    for (name, steps) in SILENT {
        tests.add(name, move || Situation { is_heard: false, ..at(steps, 1) }.check());
    }
    libraries(&mut tests);
    limits(&mut tests);
    environments(&mut tests);
    filters(&mut tests);
    // `throw` fails with hooks that are `extern "C"`, `jump` with a mark that stands while the real call is made.
    for leaving in ["throw", "jump"] {
        for call in ["accept", "accept4", "connect", "sendto", "sendmsg", "sendmmsg"] {
            tests.with(&["g++"], format!("{leaving} out of a blocked {call}"), move || left(leaving, call));
        }
    }
    // Fails where accept's hook reads the length.
    tests.add("bad arguments", || Situation { values: None, ..at("arguments", 1) }.check());
    // Fails with a file that is read at the first call, or stays open.
    tests.with(&["namespaces"], "chroot before the first connect", chroot);
    // What is ignored here is the loader's choice; without the bit the same program has the options set.
    match setuid_unable() {
        None => tests.add("setuid", setuid),
        Some(reason) => tests.with(&[reason], "setuid", || ()),
    }
    tests.0
}

/// Constructors, destructors, and other preload libraries.
fn libraries(tests: &mut Tests) {
    // The library listed last is initialised first, and ended last. Fail where errno is not put back; the constructor
    // before ours with real functions that are found only in ours, the destructors after ours with one that gives up.
    for (name, phase, steps, is_first) in [
        ("constructor before ours", "constructor", "", false),
        ("constructor after ours", "constructor", "", true),
        ("destructor before ours", "destructor", "", true),
        ("destructor after ours", "destructor", "", false),
        ("destructor after a round of a thread", "destructor", "thread", false),
    ] {
        tests.add(name, move || beside(round_library(), is_first, steps, 2).with("SITUATION_AT", phase).check());
    }
    // Fail where errno is not put back.
    for (name, steps) in [("dlopen", "dlopen"), ("dlopen in a thread", "thread dlopen")] {
        tests.add(name, move || {
            at(&format!("{steps} {}", round_library().display()), 2).with("SITUATION_AT", "constructor").check();
        });
    }
    // With connect: fails where the real function is called twice or not at all. A malloc that connects: where
    // errno is not put back. One that fails: with the program's allocator (`std::alloc::System`).
    for (order, is_first) in [("before", true), ("after", false)] {
        for (place, steps, rounds) in
            [("main", "", 1), ("thread", "thread", 1), ("fork", "fork", 3), ("signal handler", "signal", 1)]
        {
            for (kind, about) in [
                ("PASSING", "a library with connect"),
                ("DIALLING", "a malloc that connects"),
                ("FAILING", "a malloc that fails"),
            ] {
                // A process whose other threads open sockets has no list of descriptors to compare.
                let (steps, rounds) =
                    if kind == "DIALLING" && steps == "fork" { ("vfork", 2) } else { (steps, rounds) };
                let steps = if kind == "FAILING" { format!("{steps} nomalloc") } else { steps.to_owned() };
                tests.add(format!("{about}, {order} ours: {place}"), move || {
                    beside(between(kind), is_first, &steps, rounds).check();
                });
            }
            for (package, file) in [("libfaketime", "faketime/libfaketime.so.1"), ("libjemalloc2", "libjemalloc.so.2")]
            {
                let path = installed(file);
                let needs = if path.is_some() { vec![] } else { vec![package] };
                tests.with(&needs, format!("{package}, {order} ours: {place}"), move || {
                    let path = path.expect("the trial is left out otherwise");
                    beside(path, is_first, steps, rounds).with("FAKETIME", "-1d").check();
                });
            }
        }
    }
}

fn beside(other: PathBuf, is_first: bool, steps: &str, rounds: usize) -> Situation {
    let mut situation = at(steps, rounds);
    *(if is_first { &mut situation.before } else { &mut situation.after }) = Some(other);
    situation
}

/// Limits of address space, and a log that cannot be opened.
fn limits(tests: &mut Tests) {
    // Fails without `FILE_FAILED`, and where `append` does not close the file.
    tests.add("no descriptor left for the log file", || {
        let file = scratch("log-file").join("log").display().to_string();
        let situation = at("nofile 3", 1).with("SOCKOPT_LOG", "debug").with("SOCKOPT_LOG_FILE", &file);
        let arguments = ["0", "nofile", "3"].map(str::to_owned);
        situation.compare(&probe(), &arguments);
        assert!(!Path::new(&file).exists());
        let said = situation.run(true, &probe(), &arguments).stderr;
        let complaints = said.lines().filter(|line| line.contains("SOCKOPT_LOG_FILE") && line.contains("EMFILE"));
        assert_eq!(complaints.count(), 1, "{said}");
        let closed = Situation { is_heard: false, ..situation };
        closed.compare(&probe(), &["0", "closed", "exec"].map(str::to_owned));
        assert!(fs::read_to_string(&file).is_ok_and(|text| text.lines().count() > ROUND));
    });
    // Fails with an abort where memory ends.
    tests.add("address space limited before exec", || {
        // Not one program dies that lives without the library. Below some limit the loader leaves the library out, or
        // the library itself, with a line each; from another on all is set.
        let (probe, mut seen) = (probe(), BTreeSet::new());
        let mut limit = 2 << 20;
        while limit < 128 << 20 {
            let situation = at(&format!("space {limit} exec"), 1);
            let arguments: Vec<String> = format!("0 {}", situation.steps).split(' ').map(str::to_owned).collect();
            let plain = situation.run(false, &probe, &arguments);
            if plain.status == Some(0) {
                let found = situation.run(true, &probe, &arguments);
                let is_ours =
                    found.stderr.starts_with("sockopt[") && found.stderr.contains("no memory for the configuration");
                let what = match found.stderr.lines().count() {
                    0 => "set",
                    1 if is_ours => "no memory",
                    _ => "not loaded",
                };
                let wanted = if what == "set" { set(&plain.stdout) } else { plain.stdout };
                let context = format!("{limit}: {what}: {}", found.stderr);
                // All of them are the loader's own.
                let is_loaders = |text: &str| found.stderr.contains(text);
                assert!(
                    what != "not loaded"
                        || ["ld.so", "shared librar", "cannot allocate TLS"].into_iter().any(is_loaders),
                    "{context}"
                );
                if found.status != Some(127) {
                    assert_eq!((found.status, &found.stdout), (Some(0), &wanted), "{context}");
                }
                seen.insert(what);
            }
            limit += limit / 12;
        }
        assert!(seen.contains("set") && seen.contains("no memory"), "{seen:?}");
    });
}

/// What the environment holds.
fn environments(tests: &mut Tests) {
    let lines = |count: usize| {
        (0..count).map(|n| format!("# {n:040}\n[[rule]]\nto = [\"10.0.{}.{}\"]\nnodelay = true\n", n / 256, n % 256))
    };
    // Fails with room for compiling that does not grow with the configuration.
    tests.add("a configuration of 100 KB in the environment", move || {
        let toml: String = [CONFIGURATION.to_owned()].into_iter().chain(lines(1200)).collect();
        assert!((100_000..128 << 10).contains(&toml.len()), "{}", toml.len());
        at("", 1).with("SOCKOPT_CONFIG_TOML", &toml).check();
        at("signal", 1).with("SOCKOPT_CONFIG_TOML", &toml).check();
        at("space 1", 1).with("SOCKOPT_CONFIG_TOML", &toml).check();
    });
    // Fails where only the environment's first hundred entries are looked at.
    tests.add("a long environment", || {
        let long =
            (0..2000).map(|n| (format!("A{n}"), "x".repeat(400))).chain([("ALL".to_owned(), "y".repeat(120_000))]);
        let mut situation = at("", 1);
        situation.environment.extend(long);
        situation.check();
    });
    // Fails with options that are set where nothing is configured.
    let name = "an environment of LD_PRELOAD alone";
    if Path::new("/etc/sockopt/sockopt.toml").exists() {
        tests.with(&["no /etc/sockopt/sockopt.toml"], name, || ());
    } else {
        tests.add(name, || {
            Situation { environment: vec![], wrapper: vec!["env".into(), "-i".into()], ..at("", 1) }
                .without_effect()
                .check()
        });
    }
}

/// Filters that end the process at any system call but those that it makes without the library, and those that
/// docs/design.md lists.
fn filters(tests: &mut Tests) {
    // Fail with process_vm_readv(2) in `is_readable`, and with a name less in the document's list.
    for (name, before, steps, is_loaded) in [
        ("seccomp from exec on", "only LIST exec", "", false),
        ("seccomp from exec on: thread", "only LIST exec", "thread", false),
        ("seccomp once it is loaded", "only LIST", "", true),
        ("seccomp once it is loaded: thread of 16 KiB", "only LIST", "small", true),
        ("seccomp once it is loaded: signal handler", "only LIST", "signal", true),
    ] {
        tests.with(&["strace"], name, move || {
            let plain = plain_calls(&before.replace("only LIST", "mark"), steps);
            let all: BTreeSet<i64> = plain.into_iter().chain(documented(is_loaded)).collect();
            let list: Vec<String> = all.iter().map(i64::to_string).collect();
            at(&format!("{} {steps}", before.replace("LIST", &list.join(","))), 1).check();
        });
    }
}

/// The numbers of the system calls that the probe makes behind its mark.
fn plain_calls(before: &str, steps: &str) -> BTreeSet<i64> {
    let situation = at(&format!("{before} {steps}"), 1);
    let file = scratch(&format!("calls{before}{steps}").replace(' ', "-")).join("trace");
    let traced = finish(
        support::plain("strace")
            .args(["-f", "-n", "-o"])
            .arg(&file)
            .arg(probe())
            .arg("0")
            .args(situation.steps.split_whitespace()),
    );
    assert_eq!(traced.status, Some(0), "{}", traced.stderr);
    let trace = fs::read_to_string(&file).expect("strace has written");
    let behind = trace.lines().skip_while(|line| !line.contains("0xabc"));
    let number = |line: &str| line.split_once('[')?.1.split_once(']')?.0.trim().parse().ok();
    let calls: BTreeSet<i64> = behind.filter_map(number).collect();
    assert!(calls.len() > 5, "{trace}");
    calls
}

/// The numbers of the system calls that docs/design.md lists for a filter: all, or those after loading.
fn documented(is_loaded: bool) -> Vec<i64> {
    const NUMBERS: [(&str, i64); 27] = [
        ("fcntl", libc::SYS_fcntl),
        ("setsockopt", libc::SYS_setsockopt),
        ("getsockopt", libc::SYS_getsockopt),
        ("getsockname", libc::SYS_getsockname),
        ("getpeername", libc::SYS_getpeername),
        ("socket", libc::SYS_socket),
        ("rt_sigprocmask", libc::SYS_rt_sigprocmask),
        ("futex", libc::SYS_futex),
        ("rt_sigpending", libc::SYS_rt_sigpending),
        ("rt_sigtimedwait", libc::SYS_rt_sigtimedwait),
        ("newfstatat", libc::SYS_newfstatat),
        ("mmap", libc::SYS_mmap),
        ("mprotect", libc::SYS_mprotect),
        ("munmap", libc::SYS_munmap),
        ("madvise", libc::SYS_madvise),
        ("getpid", libc::SYS_getpid),
        ("fstat", libc::SYS_fstat),
        #[cfg(target_arch = "x86_64")]
        ("poll", libc::SYS_poll),
        #[cfg(not(target_arch = "x86_64"))]
        ("poll", libc::SYS_ppoll),
        ("ppoll", libc::SYS_ppoll),
        ("pwritev2", libc::SYS_pwritev2),
        ("write", libc::SYS_write),
        ("openat", libc::SYS_openat),
        ("close", libc::SYS_close),
        ("faccessat", libc::SYS_faccessat),
        ("statx", libc::SYS_statx),
        ("read", libc::SYS_read),
        ("readlink", libc::SYS_readlink),
    ];
    let design = fs::read_to_string(support::root().join("docs/design.md")).expect("docs/design.md");
    let (_, list) = design.split_once("For a seccomp filter").expect("the list of system calls");
    let (list, _) = list.split_once("\n## ").expect("its end");
    let (later, loading) = list.split_once("While the loader is loading").expect("what is called while it is loaded");
    let number = |name: &str| NUMBERS.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("{name}")).1;
    let text = if is_loaded { later.to_owned() } else { format!("{later}{loading}") };
    // Every other piece between backquotes is a name; a new piece would be one as well.
    text.split('`').skip(1).step_by(2).map(number).collect()
}

/// Leaving a blocked call from a signal handler, by an exception or by longjmp.
fn left(leaving: &str, call: &str) {
    let round = built("situation.o", "cc", &["-c", "-DLIBRARY"], &[source("situation.c")]);
    let sources = [source("situation_jump.cpp"), round];
    let program = built("situation_jump", "g++", &["-fnon-call-exceptions"], &sources);
    at("", 1).compare(&program, &[leaving.to_owned(), call.to_owned()]);
}

/// The configuration is a file that the program cannot reach any more.
fn chroot() {
    let folder = scratch("chroot");
    let (file, root) = (folder.join("config.toml"), folder.join("root"));
    fs::create_dir(&root).expect("a folder");
    fs::write(&file, CONFIGURATION).expect("a file");
    for steps in ["", "thread", "signal"] {
        let mut situation = at(&format!("chroot {} {steps}", root.display()), 1);
        situation.environment = vec![("SOCKOPT_CONFIG".to_owned(), file.display().to_string())];
        situation.wrapper = ["unshare", "-Ur"].map(str::to_owned).into();
        situation.check();
    }
}

/// Why a privileged program cannot be made here.
fn setuid_unable() -> Option<&'static str> {
    let is_root = fs::metadata("/proc/self").is_ok_and(|itself| std::os::unix::fs::MetadataExt::uid(&itself) == 0);
    (!is_root).then_some("root, for a program with the setuid bit")
}

/// The loader ignores the library in a program with the setuid bit; without the bit it is the same program.
fn setuid() {
    const NOBODY: u32 = 65534;
    let folder = env::temp_dir().join(format!("sockopt-setuid-{}", process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let (program, library) = (folder.join("situation"), folder.join("libsockopt.so"));
    crate::command::copy(probe(), &program);
    crate::command::copy(support::library(), &library);
    let run = |mode: u32, is_preloaded: bool| {
        fs::set_permissions(&program, Permissions::from_mode(mode)).expect("its own file");
        let mut command = support::plain(&program);
        command.args(["0", "secure"]).uid(NOBODY).gid(NOBODY).env("SOCKOPT_CONFIG_TOML", CONFIGURATION);
        if is_preloaded {
            command.env("LD_PRELOAD", &library);
        }
        finish(&mut command)
    };
    let (plain, usual, privileged) = (run(0o755, false), run(0o755, true), run(0o4755, true));
    fs::remove_dir_all(&folder).expect("its own folder");
    assert_eq!(usual.stdout, set(&plain.stdout), "{usual:#?}");
    let wanted = plain.stdout.replace("AT_SECURE = 0", "AT_SECURE = 1");
    assert_ne!(wanted, plain.stdout);
    let found = (privileged.status, privileged.stdout);
    assert_eq!(found, (Some(0), wanted), "{}: or is the bit ignored where this is?", privileged.stderr);
}

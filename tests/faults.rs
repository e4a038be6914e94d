//! Faults of our own and what is done to a thread in the middle of a hook: panics in every stage, memory that is not
//! there, functions that libc has not, cancellation. The program must not notice.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use libtest_mimic::Trial;

use crate::script::NEEDS;
use crate::support::{self, library, plain, probe, root, scratch, test, test_with, text};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for build in [Build::FaultyDebug, Build::FaultyRelease] {
        for (stage, says) in STAGES {
            let name = format!("faults::contained: {stage}, {build:?}");
            trials.push(test_with(NEEDS, name, move || contained(build, stage, says, EVERYTHING, &CALLS)));
        }
        let name = format!("faults::contained: connected, {build:?}");
        trials.push(test_with(NEEDS, name, move || contained(build, "connected", PANIC, ENDS, &ENDING)));
        let name = format!("faults::contained: keepalive, {build:?}");
        trials.push(test_with(NEEDS, name, move || contained(build, "keepalive", PANIC, FILLS, &FILLING)));
        for stage in ["compile", "exhaust compile"] {
            let name = format!("faults::said_once: {stage} in 64 threads, {build:?}");
            trials.push(test(name, move || said_once(build, stage)));
        }
        trials.push(test(format!("faults::64_panics_at_once, {build:?}"), move || many_panics(build)));
        trials.push(test(format!("faults::strict, {build:?}"), move || strict(build)));
    }
    trials.push(test("faults::nothing_of_it_is_shipped", nothing_is_shipped));
    trials.push(test("faults::log_file_with_a_long_name", log_file_with_a_long_name));
    trials.push(test("faults::libc_lacks_a_function", libc_lacks_a_function));
    trials.push(test("faults::deeply_nested_configuration", deeply_nested));
    for build in [Build::Debug, Build::Release] {
        trials.push(test_with(NEEDS, format!("faults::cancelled_in_each_call, {build:?}"), move || cancelled(build)));
        trials.push(test_with(NEEDS, format!("faults::cancelled_at_any_moment, {build:?}"), move || running(build)));
        trials.push(test(format!("faults::no_landing_pads_in_hooks, {build:?}"), move || no_landing_pads(build)));
    }
    trials
}

/// Builds of the library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Build {
    /// The one beside this test.
    Debug,
    /// What is shipped.
    Release,
    /// Those two with panics on request.
    FaultyDebug,
    FaultyRelease,
}

/// The library so built; cargo does it once, and is up to date the next time.
pub(crate) fn built(build: Build) -> PathBuf {
    static BUILT: [OnceLock<PathBuf>; 4] = [const { OnceLock::new() }; 4];
    if build == Build::Debug {
        return library();
    }
    let make = || {
        // Features have folders of their own, or each would build the other's anew.
        let faulty = build != Build::Release;
        let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let folder = tmp.parent().unwrap_or(tmp).join(if faulty { "faulty" } else { "shipped" });
        let mut cargo = plain(env!("CARGO"));
        cargo.args(["build", "--quiet", "--offline", "-p", "sockopt-preload", "--target-dir"]).arg(&folder);
        cargo.args(faulty.then_some(["--features", "fault-injection"]).into_iter().flatten());
        cargo.args((build != Build::FaultyDebug).then_some("--release"));
        let output = cargo.current_dir(root()).output().expect("cargo runs");
        assert!(output.status.success(), "{}", text(&output).1);
        folder.join(if build == Build::FaultyDebug { "debug" } else { "release" }).join("libsockopt.so")
    };
    BUILT[build as usize].get_or_init(make).clone()
}

const PANIC: &str = "internal error";
const MEMORY: &str = "no memory for the configuration";

/// Where fault.rs panics, and what is said about it.
const STAGES: [(&str, &str); 13] = [
    ("load", PANIC),
    ("exhaust load", MEMORY),
    ("compile", PANIC),
    ("exhaust compile", MEMORY),
    ("report", PANIC),
    ("connect", PANIC),
    ("bind", PANIC),
    ("before listen", PANIC),
    ("after listen", PANIC),
    ("accept", PANIC),
    ("setsockopt", PANIC),
    ("apply", PANIC),
    ("log", PANIC),
];

const EVERYTHING: &str = "[defaults]\ndead_peer_timeout = \"15s\"\nreuse_port = true\n\
                          [[rule]]\nfrom = [\"127.0.0.1\"]\nuser_timeout = \"9s\"\n";

/// Every stage is passed, in the situation, and then the sockets behind it are without options.
const CALLS: [&str; 20] = [
    "socket l inet stream",
    "IN bind l 127.0.0.1:4001",
    "IN listen l 8",
    "socket s inet stream",
    "IN connect s 127.0.0.1:4001",
    "IN accept c l",
    "IN set s TCP_USER_TIMEOUT 96",
    // From here on nothing may be set.
    "socket t inet stream",
    "IN connect t 127.0.0.1:4000",
    "get t TCP_KEEPIDLE",
    "IN set t TCP_USER_TIMEOUT 97",
    "get t TCP_USER_TIMEOUT",
    "socket m inet stream",
    "IN bind m 127.0.0.1:4002",
    "IN listen m 8",
    "get m SO_REUSEPORT",
    "get m TCP_USER_TIMEOUT",
    "socket u inet stream",
    "IN connect u 127.0.0.1:4009",
    "IN connect u unspec",
];

const ENDS: &str = "[defaults]\nconnect_timeout = \"3s\"\nkeepalive = { time = \"9s\" }\n";

/// The stages that come later in a connection's life, in their order.
const ENDING: [&str; 9] = [
    "socket s inet stream",
    "IN connect s 127.0.0.1:4000",
    "IN close s",
    // From here on nothing may be set.
    "socket t inet stream",
    "IN connect t unspec",
    "IN connect t 127.0.0.1:4000",
    "IN get t 1/4",
    "get t TCP_KEEPIDLE",
    "IN close t",
];

const FILLS: &str = "[defaults]\nenforce = \"fill\"\ndead_peer_timeout = \"15s\"\nnodelay = true\n";

/// The program chooses a keepalive of its own after its connect, when the library looks again.
const FILLING: [&str; 8] = [
    "socket s inet stream",
    "IN connect s 127.0.0.1:4000",
    "IN set s TCP_KEEPIDLE 60",
    "IN close s",
    // From here on nothing may be set.
    "socket t inet stream",
    "IN connect t 127.0.0.1:4000",
    "get t TCP_NODELAY",
    "IN close t",
];

/// A program in a network of its own, with the outside in front.
fn outside(before: &[&str], library: Option<&Path>, environment: &[(&str, &str)], program: &[String]) -> Output {
    let mut command = plain("unshare");
    command.arg("-Urn").arg(probe("readback")).args(before).arg("env");
    command.args(library.map(|library| format!("LD_PRELOAD={}", library.display())));
    command.envs(environment.iter().copied()).args(program).output().expect("unshare runs")
}

/// After a panic in a stage: the same answers and exit status as without the library, no options, one line. In the
/// main thread, in another and in a signal handler. Seen to fail without set_errno in guard::contained, and with a
/// give_up that leaves STATE as it is; `report` without any change: that panic is said, and STATE stays ON.
fn contained(build: Build, stage: &str, says: &str, toml: &str, calls: &[&str]) {
    for situation in ["", "thread ", "signal "] {
        let calls = calls.iter().map(|call| call.replace("IN ", situation));
        let program: Vec<String> = [probe("calls").display().to_string()].into_iter().chain(calls).collect();
        let run = |library: Option<&Path>, stage: &str| {
            let level = if stage == "log" { "debug" } else { "error" };
            let environment = [("SOCKOPT_CONFIG_TOML", toml), ("SOCKOPT_TEST_FAULT", stage), ("SOCKOPT_LOG", level)];
            outside(&["@listen 127.0.0.1:4000"], library, &environment, &program)
        };
        let (without, library) = (run(None, ""), built(build));
        assert!(without.status.success(), "{without:?}");
        let with = run(Some(&library), stage);
        assert_eq!((text(&with).0, with.status), (text(&without).0, without.status), "{situation}{}", text(&with).1);
        let said = text(&with).1;
        let errors: Vec<&str> = said.lines().filter(|line| line.contains("error:")).collect();
        assert!(matches!(errors[..], [line] if line.contains(says)), "{situation}{said}");
        // At debug: the configuration's line and one about the variable come first, then nothing but that error.
        assert!(said.lines().count() == 1 || (stage == "log" && !said.contains("debug:")), "{situation}{said}");
        // The test of the test: without a fault there are options to be seen.
        let healthy = run(Some(&library), "none");
        assert_ne!(text(&healthy).0, text(&without).0, "{situation}");
    }
}

/// Threads that fail together in set-up: one line. Seen to fail without any change: each thread that is in set-up says
/// it, as `failed` does not ask who was first.
fn said_once(build: Build, stage: &str) {
    let folder = scratch(&format!("once-{build:?}-{stage}").replace(' ', "-"));
    let configuration = crate::races::many_rules(&folder, 50);
    let mut command = plain(probe("race"));
    command.args(["times", "10", "first"]).env("LD_PRELOAD", built(build)).env("SOCKOPT_CONFIG", configuration);
    let output = command.env("SOCKOPT_TEST_FAULT", stage).env("SOCKOPT_LOG", "error").output().expect("it runs");
    let (stdout, stderr) = text(&output);
    assert_eq!(stdout, "0 of 64\n".repeat(10), "{stderr}");
    // Of the ten processes each says it once; the eleventh, which starts them, opens no socket.
    assert_eq!(stderr.lines().count(), 10, "{stderr}");
}

/// A C program with what it needs to be put in front of libgcc.
fn compile(folder: &Path, name: &str, source: &Path, arguments: &[&str]) -> PathBuf {
    let path = folder.join(name);
    let mut cc = Command::new("cc");
    cc.args(["-O1", "-Wall", "-Werror", "-pthread"]).args(arguments).arg("-o").arg(&path).arg(source);
    let output = cc.output().expect("cc runs");
    assert!(output.status.success(), "{}", text(&output).1);
    path
}

/// 64 threads that panic, none before all are about to. Seen to fail with a spare memory of arena.rs of a quarter
/// and without its mapping: std aborts.
fn many_panics(build: Build) {
    let mut command = plain(probe("fault"));
    command.arg("64").env("LD_PRELOAD", built(build)).env("SOCKOPT_NODELAY", "1").env("SOCKOPT_LOG", "error");
    let output = command.env("SOCKOPT_TEST_FAULT", "64 connect").output().expect("it runs");
    let (stdout, stderr) = text(&output);
    assert_eq!((stdout.as_str(), output.status.code()), ("64 refused\n", Some(3)), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

/// Under SOCKOPT_STRICT a set-up that fails ends the process before main, whatever the reason. Seen to fail without
/// the exit in setup::failed.
fn strict(build: Build) {
    for (stage, says) in STAGES.iter().filter(|(stage, _)| stage.ends_with("load") || stage.ends_with("compile")) {
        let mut command = plain("echo");
        command.arg("started").env("LD_PRELOAD", built(build)).env("SOCKOPT_CONFIG_TOML", EVERYTHING);
        command.env("SOCKOPT_TEST_FAULT", stage).env("SOCKOPT_STRICT", "1");
        let output = command.output().expect("it runs");
        let (stdout, stderr) = text(&output);
        assert_eq!((output.status.code(), stdout.as_str()), (Some(78), ""), "{stage}: {stderr}");
        assert!(stderr.contains(says) && stderr.lines().count() == 1, "{stage}: {stderr}");
    }
}

/// On the build with the feature each of them is found, or nothing would be tested.
fn nothing_is_shipped() {
    let has = |library: &Path, text: &str| {
        let bytes = fs::read(library).expect("a library");
        bytes.windows(text.len()).any(|part| part == text.as_bytes())
    };
    // Stages with a name that nothing else has.
    for text in
        ["SOCKOPT_TEST_FAULT", "injected at", "exhaust load", "exhaust compile", "before listen", "after listen"]
    {
        assert!(!has(&built(Build::Release), text), "{text}");
        assert!(has(&built(Build::FaultyRelease), text), "{text} is to be found where it is");
    }
    assert!(!has(&library(), "SOCKOPT_TEST_FAULT"));
}

/// A log file whose name is no UTF-8 and long, and that cannot be written, when a hook has to say something. Seen to
/// fail without any change: log.rs makes a String of the name, out of the spare memory, and std aborts.
fn log_file_with_a_long_name() {
    for length in [10, 1_000, 4_000] {
        let name = [&b"/nowhere/"[..], &vec![0xff; length]].concat();
        let mut command = support::preloaded(probe("race"));
        command.arg("first").env("SOCKOPT_CONGESTION", "no-such");
        let output = command.env("SOCKOPT_LOG_FILE", std::ffi::OsStr::from_bytes(&name)).output().expect("it runs");
        assert_eq!((text(&output).0.as_str(), output.status.signal()), ("0 of 64\n", None), "{}", text(&output).1);
    }
}

/// A libc that lacks an interposed function (an older one has no close_range): nothing is said, nothing else changes.
/// Seen to fail with a real::next that calls redhook there: it panics before the panic hook is ours, std writes to
/// stderr, and with RUST_BACKTRACE set runs out of the spare memory and hangs.
fn libc_lacks_a_function() {
    let folder = scratch("lacks");
    let source = folder.join("audit.c");
    let code = "#define _GNU_SOURCE\n#include <link.h>\n#include <stdint.h>\n#include <string.h>\n\
        unsigned la_version(unsigned v) { return v; }\n\
        unsigned la_objopen(struct link_map *m, Lmid_t l, uintptr_t *c) { return LA_FLG_BINDTO | LA_FLG_BINDFROM; }\n\
        uintptr_t la_symbind64(Elf64_Sym *s, unsigned n, uintptr_t *r, uintptr_t *d, unsigned *f, const char *name) {\n\
            return *f & LA_SYMB_DLSYM && !strcmp(name, \"close_range\") ? 0 : s->st_value;\n}\n";
    fs::write(&source, code).expect("a source");
    let audit = compile(&folder, "audit.so", &source, &["-shared", "-fPIC"]);
    for backtrace in ["0", "1"] {
        let mut command = plain("timeout");
        command.args(["-s", "KILL", "10", "env"]).arg(format!("LD_AUDIT={}", audit.display()));
        command.arg(format!("LD_PRELOAD={}", library().display())).arg(probe("race")).arg("first");
        command.env("RUST_BACKTRACE", backtrace).env("SOCKOPT_DEAD_PEER_TIMEOUT", "15s");
        let output = command.output().expect("it runs");
        assert_eq!((text(&output), output.status.code()), (("64 of 64\n".into(), String::new()), Some(0)));
    }
}

/// Set-up's stack has an end: what nests for ever is refused before it. Seen to fail without any
/// change in the debug build: 79 levels are more than its stack holds, which is SIGSEGV.
fn deeply_nested() {
    let (levels, folder) = (20_000, scratch("nested"));
    for (name, toml) in [
        ("arrays", format!("[defaults]\nraw = {}{}", "[".repeat(levels), "]".repeat(levels))),
        ("unclosed", format!("[defaults]\nraw = {}", "[".repeat(levels))),
        ("tables", format!("defaults = {}1{}", "{a=".repeat(levels), "}".repeat(levels))),
        ("keys", format!("{}a = 1", "a.".repeat(levels))),
        ("headers", format!("[{}a]", "a.".repeat(levels))),
    ] {
        let file = folder.join(name);
        fs::write(&file, toml).expect("a configuration");
        for build in [Build::Debug, Build::Release] {
            let mut command = plain(probe("race"));
            command.arg("first").env("LD_PRELOAD", built(build)).env("SOCKOPT_CONFIG", &file);
            let output = command.output().expect("it runs");
            let (stdout, stderr) = text(&output);
            assert_eq!((stdout.as_str(), output.status.code()), ("0 of 64\n", Some(0)), "{name}: {stderr}");
            assert!(!stderr.is_empty(), "{name}");
        }
    }
}

const FULL: [&str; 2] = ["@listen 127.0.0.1:4000", "@full 127.0.0.1:4002"];
const KEPT: &str = "@look s TCP_KEEPIDLE=5";

/// Runs cancel2 plain and under a build, logging all there is to log; the same lines but the last.
fn cancel(build: Build, arguments: &[&str]) {
    let program = [probe("cancel2").display().to_string()].into_iter();
    let program: Vec<String> = program.chain(arguments.iter().map(|&argument| argument.to_owned())).collect();
    let log = scratch(&format!("cancel-{}-{build:?}", arguments[0])).join("log").display().to_string();
    let environment = [
        ("SOCKOPT_DEAD_PEER_TIMEOUT", "15s"),
        ("SOCKOPT_CONNECT_TIMEOUT", "99s"),
        ("SOCKOPT_LOG", "debug"),
        ("SOCKOPT_LOG_FILE", log.as_str()),
    ];
    let run = |library: Option<&Path>| {
        let output = outside(&FULL, library, &environment, &program);
        assert!(output.status.success(), "{output:?}");
        let lines: Vec<String> = text(&output).0.lines().map(str::to_owned).collect();
        assert!(lines.len() > 2 && text(&output).1.is_empty(), "{output:?}");
        lines
    };
    // A send that was to block finds room now and then, with the library or without: the peer's acknowledgement came
    // late. Whatever the library does shows each time.
    let both = || (run(Some(&built(build))), run(None));
    let same = |(with, without): &(Vec<String>, Vec<String>)| with[..with.len() - 1] == without[..without.len() - 1];
    let (with, without) = (0..12).map(|_| both()).find(same).unwrap_or_else(both);
    assert_eq!(with[..with.len() - 1], without[..without.len() - 1]);
    assert_eq!(with.last().map(String::as_str), Some(KEPT));
    assert_ne!(with.last(), without.last());
    assert!(fs::read_to_string(&log).is_ok_and(|log| log.contains("TCP_KEEPIDLE")), "nothing was logged");
}

/// No C or C++ peer fails here, but Rust ones do: the process aborts. Deferred and asynchronous, blocked and pending,
/// in every call that is interposed; setsockopt, bind, listen, dup2, dup3 and close_range are no cancellation points.
/// Seen to fail with libc's openat in place of the system call in ffi::append.
fn cancelled(build: Build) {
    cancel(build, &["calls", "127.0.0.1:4001", "127.0.0.1:4002", "127.0.0.1:4000", KEPT]);
}

/// A thread that has asked for asynchronous cancellation gets it in the middle of our part of a hook. Seen to fail
/// without any change: a forced unwinding meets guard::contained's catch_unwind, and the process aborts.
fn running(build: Build) {
    cancel(build, &["running", "127.0.0.1:4000", "1000", KEPT]);
}

/// What asynchronous cancellation may strike has no landing pads: an unwinding that begins at an instruction which no
/// call-site entry covers ends the process, though rarely enough that `running` may miss it. Followed from the hooks
/// through the calls of the machine code up to guard::caught, where cancellation waits. Functions with landing pads
/// are those whose unwinding data says where these are ('L', Linux Standard Base Core, "Augmentation String Format").
/// Seen to fail with `caught` inlined, and in an opt-level of 0 for Option::filter. The shipped library has the names
/// of its hooks alone.
fn no_landing_pads(build: Build) {
    let library = built(build);
    let read = |tool: &str, arguments: &[&str]| {
        let output = plain(tool).args(arguments).arg(&library).output().expect("binutils are there");
        text(&output).0
    };
    let address = |text: &str| u64::from_str_radix(text, 16).expect("an address");
    let frames = read("readelf", &["--debug-dump=frames", "-W"]);
    let (mut with_pads, mut current, mut have_pads) = (Vec::new(), "", BTreeSet::new());
    for line in frames.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [id, .., "CIE"] => current = id,
            ["Augmentation:", text] if text.contains('L') => with_pads.push(current),
            [.., "FDE", cie, place] if with_pads.contains(&cie.trim_start_matches("cie=")) => {
                have_pads.insert(address(place.trim_start_matches("pc=").split('.').next().unwrap_or_default()));
            }
            _ => {}
        }
    }
    let named = |arguments: &[&str]| -> BTreeMap<u64, String> {
        let parts = |line: &str| {
            let mut words = line.splitn(3, ' ');
            let (start, _, name) = (words.next()?, words.next()?, words.next()?);
            Some((address(start), name.to_owned()))
        };
        read("nm", arguments).lines().filter_map(parts).collect()
    };
    // Of each function, the functions it calls or jumps to.
    let mut calls: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    let mut within = 0;
    let code = read("objdump", &["-d", "--no-show-raw-insn", "--wide"]);
    for line in code.lines() {
        if let Some((start, _)) = line.split_once(" <").filter(|_| line.ends_with(">:")) {
            within = address(start);
        } else if let Some((_, target)) = line.split_once("\tcall ").or_else(|| line.split_once("\tjmp ")) {
            let target = target.split_whitespace().next().and_then(|text| u64::from_str_radix(text, 16).ok());
            calls.entry(within).or_default().extend(target);
        }
    }
    let names = named(&["-C", "--defined-only"]);
    // Found when the library is loaded; asked for later only under a libc that lacks the function.
    let is_end =
        |at: &u64| names.get(at).is_some_and(|name| name.ends_with("guard::caught") || name.ends_with("real::next"));
    let hooks = named(&["-D", "--defined-only"]);
    let (mut open, mut seen) = (hooks.keys().copied().collect::<Vec<u64>>(), BTreeSet::new());
    while let Some(at) = open.pop() {
        if !seen.insert(at) || is_end(&at) {
            continue;
        }
        assert!(!have_pads.contains(&at), "{:?} at {at:x} has landing pads", names.get(&at).or(hooks.get(&at)));
        if build == Build::Debug {
            open.extend(calls.get(&at).into_iter().flatten());
        }
    }
    assert!(hooks.len() > 10 && have_pads.len() > 10, "{} hooks", hooks.len());
    assert!(build != Build::Debug || seen.iter().any(is_end), "the way to the catch was not found");
}

//! One library for every libc: what it asks of the loader, and that it works under musl and under an older glibc.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use libtest_mimic::{Failed, Trial};

use crate::faults::{Build, built};
use crate::support::{plain, probe, root, scratch, test, test_with, text};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for build in [Build::Debug, Build::Release] {
        trials.push(test(format!("libcs::needs_libc_alone, {build:?}"), move || needs_libc_alone(build)));
        trials.push(test(format!("libcs::protected, {build:?}"), move || protected(build)));
        trials.push(test_with(&MUSL, format!("libcs::musl: threads, {build:?}"), move || musl_threads(build)));
        trials.push(test_with(&MUSL, format!("libcs::musl: rules, {build:?}"), move || musl_rules(build)));
        trials
            .push(test_with(&MUSL, format!("libcs::musl: cancellation, {build:?}"), move || musl_cancellation(build)));
        trials.push(test_with(&MUSL, format!("libcs::musl: what it has not, {build:?}"), move || musl_absent(build)));
        trials.push(test_with(&MUSL, format!("libcs::musl: dlopen, {build:?}"), move || musl_dlopen(build)));
        let name = format!("libcs::loaded_by_the_program, {build:?}");
        trials.push(test_with(&MUSL, name, move || loaded_by_the_program(build)));
    }
    // A debug build, of many objects, asks for dlsym without condition.
    trials.push(old("libcs::glibc 2.31: without libdl", old_plain));
    trials.push(old("libcs::glibc 2.31: threads", old_threads));
    trials.push(old("libcs::glibc 2.31: cancellation", old_cancellation));
    trials.push(old("libcs::glibc 2.31: what it has not", old_absent));
    trials.push(old("libcs::glibc 2.31: RTLD_DEEPBIND", old_deepbind));
    trials.push(test("libcs::symbol_versions", symbol_versions));
    trials
}

const MUSL: [&str; 3] = ["musl-gcc", "unshare", "namespaces"];

fn readelf(build: Build, what: &str) -> String {
    let output = plain("readelf").args([what, "-W"]).arg(built(build)).output().expect("binutils are there");
    text(&output).0
}

/// libgcc_s, ld-linux, libdl and libpthread are what costs an exec, or is not there under musl. Seen to fail without
/// each of the two libraries in src/preload/build.rs.
fn needs_libc_alone(build: Build) {
    let dynamic = readelf(build, "-d");
    let needed: Vec<&str> = dynamic.lines().filter(|line| line.contains("(NEEDED)")).collect();
    assert!(matches!(needed[..], [one] if one.contains("[libc.so.6]")), "{needed:?}");
}

/// No executable stack, all relocations done and read-only before the program begins, nothing writable and executable.
fn protected(build: Build) {
    let segments = readelf(build, "-l");
    let flags = |kind: &str| {
        // Type, offset, two addresses, two sizes, flags, alignment; the flags may stand apart.
        let lines = segments.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        lines
            .filter(|words| words.first() == Some(&kind))
            .map(|words| words[6..words.len() - 1].concat())
            .collect::<Vec<_>>()
    };
    assert_eq!(flags("GNU_STACK"), ["RW"], "{segments}");
    assert_eq!(flags("GNU_RELRO"), ["R"], "{segments}");
    let loaded = flags("LOAD");
    assert!(loaded.len() > 1 && loaded.iter().all(|flags| !(flags.contains('W') && flags.contains('E'))), "{segments}");
    assert!(readelf(build, "-d").contains("BIND_NOW"), "nothing is bound later");
    if build == Build::Release {
        assert_eq!(readelf(build, "-S").matches(".symtab").count(), 0, "it is stripped");
    }
}

/// Every symbol has a version that glibc 2.17 has, or is one that the library does without. Seen to fail with a line
/// less in build.rs.
fn symbol_versions() {
    let symbols = readelf(Build::Release, "--dyn-syms");
    let mut checked = 0;
    for line in symbols.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, _, _, _, binding, _, "UND", name, ..] = words[..] else { continue };
        let version = name.split_once("@GLIBC_").map(|(_, version)| version);
        let Some(version) = version else {
            assert_eq!(binding, "WEAK", "{name} has no version");
            continue;
        };
        checked += 1;
        let parts: Vec<u32> = version.split('.').map(|part| part.parse().expect("a number")).collect();
        assert!(parts <= vec![2, 17], "{name}");
    }
    assert!(checked > 20, "{symbols}");
}

const RULE: (&str, &str) = ("SOCKOPT_DEAD_PEER_TIMEOUT", "15s");

/// A probe, compiled otherwise than for this machine's libc. Each test has its own.
fn compiled(compiler: &str, name: &str, arguments: &[&str], libraries: &[PathBuf]) -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let path = scratch(&format!("libcs-{name}-{}", COUNT.fetch_add(1, Relaxed))).join(name);
    let mut command = Command::new(compiler);
    command.args(["-O1", "-pthread"]).args(arguments).arg("-o").arg(&path);
    let output = command.arg(root().join(format!("tests/probes/{name}.c"))).args(libraries).output();
    let output = output.expect("the compiler runs");
    assert!(output.status.success(), "{}", text(&output).1);
    path
}

/// Runs a program in a network of its own, where one address is listened on and one never answers.
fn inside(program: &mut Command) -> Output {
    let mut outer = plain("unshare");
    outer.arg("-Urn").arg(probe("readback")).args(["@listen 127.0.0.1:4000", "@full 127.0.0.1:4002"]);
    outer.arg("env").arg(format!("{}={}", RULE.0, RULE.1));
    outer
        .arg("SOCKOPT_LOG=error")
        .args(program.get_envs().filter_map(|(name, value)| Some(format!("{}={}", name.to_str()?, value?.to_str()?))));
    outer.arg(program.get_program()).args(program.get_args()).output().expect("unshare runs")
}

/// What a program prints under the library and without.
fn both(library: &Path, program: impl Fn(Option<&Path>) -> Command) -> (String, String) {
    [Some(library), None]
        .map(|library| {
            let output = inside(&mut program(library));
            assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
            text(&output).0
        })
        .into()
}

const LOOK: &str = "@look s TCP_KEEPIDLE=5";

/// Every line but the last, which is the option, is the same. On a busy machine a call ends before or after the cancellation
/// now and then, whoever makes it: what the library does to a call shows each time.
fn same_but_for_the_option(run: impl Fn() -> (String, String)) {
    const MOST_RUNS: usize = 12;
    // The lines, by their numbers, that were never the same yet.
    let mut differ: Option<Vec<usize>> = None;
    for left in (0..MOST_RUNS).rev() {
        let (with, without) = run();
        let (with, without): (Vec<&str>, Vec<&str>) = (with.lines().collect(), without.lines().collect());
        let last = with.len() - 1;
        assert_eq!((with.len(), with[last]), (without.len(), LOOK));
        assert_ne!(with[last], without[last]);
        let mut now = differ.unwrap_or_else(|| (0..last).collect());
        now.retain(|line| with[*line] != without[*line]);
        match now[..] {
            [] => return,
            [line, ..] => assert!(left > 0, "differs each time: {:?} with, {:?} without", with[line], without[line]),
        }
        differ = Some(now);
    }
}

fn preloaded(program: &Path, library: Option<&Path>) -> Command {
    let mut command = Command::new(program);
    if let Some(library) = library {
        command.env("LD_PRELOAD", library);
    }
    command
}

/// 64 threads of a program linked to musl whose first use comes at once.
fn musl_threads(build: Build) {
    let race = compiled("musl-gcc", "race", &[], &[]);
    let (with, without) = both(&built(build), |library| {
        let mut command = preloaded(&race, library);
        command.arg("first");
        command
    });
    assert_eq!((with.as_str(), without.as_str()), ("64 of 64\n", "0 of 64\n"));
}

fn musl_rules(build: Build) {
    let plain = compiled("musl-gcc", "plain", &[], &[]);
    let toml =
        "[[rule]]\nto = [\"127.0.0.1:4000\"]\nkeepalive = { time = \"77s\" }\n[[rule]]\nto = [\"*\"]\nnodelay = true\n";
    for (port, wanted) in [("4000", "connect 0, TCP_KEEPIDLE 77\n"), ("4009", "connect -1, TCP_KEEPIDLE 7200\n")] {
        let mut command = preloaded(&plain, Some(&built(build)));
        command.arg(port).env("SOCKOPT_CONFIG_TOML", toml).env(RULE.0, "");
        let output = inside(&mut command);
        assert_eq!(text(&output), (wanted.to_owned(), String::new()));
    }
}

fn musl_cancellation(build: Build) {
    let cancel = compiled("musl-gcc", "cancel2", &[], &[]);
    for arguments in [
        &["calls", "127.0.0.1:4001", "127.0.0.1:4002", "127.0.0.1:4000", LOOK][..],
        &["running", "127.0.0.1:4000", "300", LOOK],
    ] {
        same_but_for_the_option(|| {
            both(&built(build), |library| {
                let mut command = preloaded(&cancel, library);
                command.args(arguments);
                command
            })
        });
    }
}

/// What the two lines of the probe are: dlerror has nothing to say that the program did not ask for, and who finds a
/// close_range where libc has none finds one that works. Seen to fail without libc_compat::forget_error, and with ENOSYS for
/// an answer.
fn absent(with_and_without: (String, String)) {
    let wanted = ["dlerror: nothing\nclose_range: 0, closed\n", "dlerror: nothing\nclose_range: none\n"];
    assert_eq!([with_and_without.0, with_and_without.1], wanted);
}

fn musl_absent(build: Build) {
    let program = compiled("musl-gcc", "absent", &[], &[]);
    absent(both(&built(build), |library| preloaded(&program, library)));
}

/// A program that loads the library itself has functions that work. Under musl no others come after them. Seen to fail there: redhook
/// panicked in each look-up, which ended the program ("thread panicked while processing panic") or wrote to its standard error and
/// gave ENOSYS for close.
fn loaded_by_the_program(build: Build) {
    let line = "dlerror: nothing\ngetsockopt 0 1, close 0, closed\n";
    for compiler in ["musl-gcc", "cc"] {
        let program = compiled(compiler, "loaded", &[], &[]);
        for trace in ["0", "1"] {
            let output = inside(Command::new(&program).arg(built(build)).env("RUST_BACKTRACE", trace));
            let (stdout, stderr) = text(&output);
            assert_eq!((output.status.code(), stdout, stderr), (Some(0), line.repeat(2), String::new()), "{compiler}");
        }
    }
}

fn old_absent() {
    absent(both(&built(Build::Release), |library| old_program("absent", library)));
}

/// An older Debian's C library, unpacked by tests/libcs/old-glibc.sh.
fn old_libraries() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("old-glibc/lib/x86_64-linux-gnu")
}

/// A test that needs it: ignored where it was not fetched, failing in CI.
fn old(name: &str, run: impl FnOnce() + Send + 'static) -> Trial {
    const REASON: &str = "needs tests/libcs/old-glibc.sh target/tmp/old-glibc";
    if old_libraries().join("libc.so.6").exists() {
        return test_with(&["unshare", "namespaces"], name, run);
    }
    if env::var_os("CI").is_some() {
        return Trial::test(name, || Err(Failed::from(REASON)));
    }
    test(name, run).with_kind(REASON).with_ignored_flag(true)
}

/// A probe that is linked to the old library, and run by its loader.
fn old_program(name: &str, library: Option<&Path>) -> Command {
    let folder = old_libraries();
    let libraries =
        ["libpthread.so.0", "libdl.so.2", "libc.so.6", "ld-linux-x86-64.so.2"].map(|file| folder.join(file));
    // Only what is asked for: a program without threads has no libpthread.
    let arguments = ["-DOLD_LIBC", "-nodefaultlibs", "-Wl,--as-needed"];
    let program = compiled("cc", name, &arguments, &libraries);
    let mut command = Command::new(folder.join("ld-linux-x86-64.so.2"));
    command.arg("--library-path").arg(&folder);
    if let Some(library) = library {
        command.arg("--preload").arg(library);
    }
    command.arg(program);
    command
}

/// A program that has neither libdl, where dlsym was before 2.34, nor libpthread. Seen to fail (a jump to 0) without
/// libc_compat::has_dlsym.
fn old_plain() {
    let (with, without) = both(&built(Build::Release), |library| {
        let mut command = old_program("plain", library);
        command.arg("4000");
        command
    });
    let wanted = ("connect 0, TCP_KEEPIDLE 5\n", "connect 0, TCP_KEEPIDLE 7200\n");
    assert_eq!((with.as_str(), without.as_str()), wanted);
}

fn old_threads() {
    let (with, without) = both(&built(Build::Release), |library| {
        let mut command = old_program("race", library);
        command.arg("first");
        command
    });
    assert_eq!((with.as_str(), without.as_str()), ("64 of 64\n", "0 of 64\n"));
}

fn old_cancellation() {
    same_but_for_the_option(|| {
        both(&built(Build::Release), |library| {
            let mut command = old_program("cancel2", library);
            command.args(["calls", "127.0.0.1:4001", "127.0.0.1:4002", "127.0.0.1:4000", LOOK]);
            command
        })
    });
}

/// The libraries that the probe loads, by another compiler or for another libc.
fn loaded(compiler: &str, folder: &Path, libraries: &[PathBuf]) -> String {
    let make = |name: &str, more: &[&str]| {
        let mut command = Command::new(compiler);
        command.args(["-O1", "-shared", "-fPIC", "-o"]).arg(format!("lib{name}.so"));
        command.arg(root().join(format!("tests/probes/deep/{name}.c"))).args(more).args(libraries);
        let output = command.current_dir(folder).output().expect("the compiler runs");
        assert!(output.status.success(), "{}", text(&output).1);
    };
    let alone: &[&str] = if libraries.is_empty() { &[] } else { &["-DOLD_LIBC", "-nodefaultlibs"] };
    make("dependency", alone);
    make("extension", &[alone, &["-L.", "-ldependency", "-Wl,-rpath,$ORIGIN"]].concat());
    folder.join("libextension.so").display().to_string()
}

/// Every connection of the probe has its options under the library, and none without.
fn all_are_set((with, without): (String, String)) {
    let line = |options: &str| format!("open: done\nown {options}, table {options}, accepted {options}\n");
    assert_eq!((with, without), (line("5 14000"), line("7200 96000")));
}

/// musl knows no RTLD_DEEPBIND: what is loaded is bound to the hooks by musl itself.
fn musl_dlopen(build: Build) {
    let extension = loaded("musl-gcc", &scratch(&format!("libcs-musl-dlopen-{build:?}")), &[]);
    let program = compiled("musl-gcc", "deep", &[], &[]);
    all_are_set(both(&built(build), |library| {
        let mut command = preloaded(&program, library);
        command.args(["open", "nd", &extension, "go", "4000"]);
        command
    }));
}

/// Where dlopen is in libdl and connect in libpthread as well.
fn old_deepbind() {
    let libraries = ["libpthread.so.0", "libc.so.6"].map(|file| old_libraries().join(file));
    let extension = loaded("cc", &scratch("libcs-old-deepbind"), &libraries);
    for flags in ["nd", "ld"] {
        all_are_set(both(&built(Build::Release), |library| {
            let mut command = old_program("deep", library);
            command.args(["open", flags, &extension, "go", "4000"]);
            command
        }));
    }
}

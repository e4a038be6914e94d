//! Libraries that a program loads with RTLD_DEEPBIND, dlopen(3): their calls find libc's functions before those of any
//! preload library, and are led to the hooks all the same. PHP's extensions are loaded so; they are among the programs
//! (tests/programs.rs).
//!
//! The probe loads a library that needs another; both connect, and the other listens. Each test compares it with what it
//! does without the library. Seen to fail with dlopen not interposed: nothing that was loaded has its options.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use libtest_mimic::Trial;

use crate::faults::{Build, built};
use crate::support::{plain, probe, root, scratch, sockopt, test_with, text};

const NEEDS: &[&str] = &["unshare", "namespaces"];

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for build in [Build::Debug, Build::Release] {
        for kind in KINDS {
            for flags in ["nd", "ld", "ldg"] {
                let name = format!("deepbind::reached: {}, {flags}, {build:?}", kind.name);
                trials.push(test_with(NEEDS, name, move || reached(build, kind, flags)));
            }
            let mut add = |name: &str, run: fn(Build, Kind)| {
                let name = format!("deepbind::{name}: {}, {build:?}", kind.name);
                trials.push(test_with(NEEDS, name, move || run(build, kind)));
            };
            add("another_in_front", another_in_front);
            add("another_behind", another_behind);
            add("poll_of_another", poll_of_another);
            add("nested", nested);
            add("filter_of_mprotect", filter_of_mprotect);
        }
        let mut add = |name: &str, run: fn(Build)| {
            trials.push(test_with(NEEDS, format!("deepbind::{name}, {build:?}"), move || run(build)));
        };
        add("names_without_path", names_without_path);
        add("errors", errors);
        add("threads", threads);
        add("loaded_at_once", loaded_at_once);
        add("own_namespace", own_namespace);
        add("a_dependency_has_its_own", a_dependency_has_its_own);
    }
    for build in [Build::FaultyDebug, Build::FaultyRelease] {
        trials.push(test_with(NEEDS, format!("deepbind::panic, {build:?}"), move || panic(build)));
    }
    trials.push(test_with(&["php"], "deepbind::run_says_what_is_so", run_says_what_is_so));
    trials.push(test_with(&["strace"], "deepbind::costs_nothing_where_nothing_is_set", costs_nothing));
    trials
}

/// How libraries are linked, which makes how their calls are bound.
#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    options: &'static [&'static str],
}

const KINDS: [Kind; 4] = [
    Kind { name: "read-only", options: &["-Wl,-z,relro,-z,now"] },
    Kind { name: "read-only without PLT", options: &["-fno-plt", "-Wl,-z,relro,-z,now"] },
    Kind { name: "lazy", options: &["-Wl,-z,relro,-z,lazy"] },
    Kind { name: "lazy and writable", options: &["-Wl,-z,norelro,-z,lazy"] },
];
const READ_ONLY: Kind = KINDS[0];

/// The probe's libraries in a folder.
struct Libraries {
    folder: PathBuf,
    kind: Kind,
}

impl Libraries {
    fn new(test: &str, kind: Kind) -> Libraries {
        let libraries =
            Libraries { folder: scratch(&format!("deepbind-{test}-{}", kind.name).replace(' ', "-")), kind };
        libraries.compile("dependency", "dependency", &[]);
        libraries.compile("extension", "extension", &["-L.", "-ldependency", "-Wl,-rpath,$ORIGIN"]);
        libraries
    }

    fn compile(&self, name: &str, source: &str, options: &[&str]) {
        let mut cc = Command::new("cc");
        cc.args(["-O1", "-Wall", "-Werror", "-shared", "-fPIC"]).args(self.kind.options).arg("-o");
        cc.arg(format!("lib{name}.so")).arg(root().join(format!("tests/probes/deep/{source}.c"))).args(options);
        let output = cc.current_dir(&self.folder).output().expect("cc runs");
        assert!(output.status.success(), "{}", text(&output).1);
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(format!("lib{name}.so")).display().to_string()
    }

    /// What else is preloaded: it says each call of its connect.
    fn another(&self) -> String {
        self.compile("other", "other", &[]);
        self.path("other")
    }
}

const RULE: (&str, &str) = ("SOCKOPT_DEAD_PEER_TIMEOUT", "15s");
const PORT: &str = "4000";

/// The probe in a network of its own, with these preload libraries.
fn run_with(program: &Path, preload: &[&str], environment: &[(&str, &str)], steps: &[&str]) -> Output {
    let mut command = plain("unshare");
    command.arg("-Urn").arg(probe("readback")).arg(format!("@listen 127.0.0.1:{PORT}"));
    command.args(["timeout", "-s", "KILL", "60", "env"]).arg(format!("LD_PRELOAD={}", preload.join(":")));
    command.env(RULE.0, RULE.1).envs(environment.iter().copied()).arg(program).args(steps);
    let output = command.output().expect("unshare runs");
    assert!(output.status.success(), "{steps:?}: {output:?}");
    output
}

fn run(preload: &[&str], steps: &[&str]) -> (String, String) {
    text(&run_with(&probe("deep"), preload, &[], steps))
}

fn shown(build: Build) -> String {
    built(build).display().to_string()
}

/// What the probe prints where options are set: keepalive and user timeout are the rule's, also over its own.
fn set(plain: &str) -> String {
    assert!(plain.contains("7200 96000"), "{plain}");
    plain.replace("7200 96000", "5 14000")
}

/// The one warning that was given.
fn warning(stderr: &str) -> &str {
    let line = stderr.strip_suffix('\n').filter(|line| !line.contains('\n'));
    let warning = line.and_then(|line| line.split_once("warning: "));
    warning.unwrap_or_else(|| panic!("not one warning: {stderr}")).1
}

/// In the library that is loaded and in what it needs: by a call, by an address in its data, as a listener; and once more
/// after it was unloaded. Also what the program itself does is as it was. Seen to fail without the table for lazy binding, without
/// the relocations of data, and without what the library needs.
fn reached(build: Build, kind: Kind, flags: &str) {
    let extension = Libraries::new(&format!("reached-{flags}-{build:?}"), kind).path("extension");
    let steps = [
        ["open", flags, &extension].as_slice(),
        &["go", PORT, "near", PORT, "close", "open", flags, &extension, "go", PORT, "near", PORT],
    ]
    .concat();
    let without = run(&[], &steps);
    assert_eq!(without.1, "");
    assert_eq!(run(&[&shown(build)], &steps), (set(&without.0), String::new()));
}

/// Another preload library in front of ours: the program's connects go through it and what is loaded goes past it, as
/// without ours. Seen to fail with the first definition of connect in place of our own.
fn another_in_front(build: Build, kind: Kind) {
    let libraries = Libraries::new(&format!("front-{build:?}"), kind);
    let (other, extension) = (libraries.another(), libraries.path("extension"));
    for flags in ["nd", "ld"] {
        let steps = ["near", PORT, "open", flags, &extension, "go", PORT];
        let without = run(&[&other], &steps);
        assert_eq!(without.0.matches("other\n").count(), 1, "{without:?}");
        assert_eq!(run(&[&other, &shown(build)], &steps), (set(&without.0), String::new()));
    }
}

/// Behind ours: our hook would lead to its connect what goes past it without ours. So connect stays libc's, and it is said
/// once; all else is reached. Seen to fail without `ends_alike`: "other" four times.
fn another_behind(build: Build, kind: Kind) {
    let libraries = Libraries::new(&format!("behind-{build:?}"), kind);
    let (other, extension) = (libraries.another(), libraries.path("extension"));
    for flags in ["nd", "ld"] {
        let steps = ["near", PORT, "open", flags, &extension, "go", PORT, "close", "open", flags, &extension];
        let (stdout, stderr) = run(&[&shown(build), &other], &steps);
        let loaded = "own 7200 14000, table 7200 14000, accepted 5 14000";
        assert_eq!(stdout, format!("other\nnear 5 14000\nopen: done\n{loaded}\nclose: 0\nopen: done\n"));
        let wanted = "RTLD_DEEPBIND: another preload library has connect too";
        assert!(warning(&stderr).contains(wanted), "{stderr}");
    }
}

/// libfaketime has poll and select, and no connect: what is loaded gets a time for connecting, which is not taken back when it has
/// waited. That is said where a rule has `connect_timeout`. Seen to fail with the functions that set options alone: nothing said.
fn poll_of_another(build: Build, kind: Kind) {
    let libraries = Libraries::new(&format!("poll-{build:?}"), kind);
    libraries.compile("waiting", "waiting", &[]);
    libraries.compile("poll", "other", &["-DPOLL"]);
    let (other, waiting) = (libraries.path("poll"), libraries.path("waiting"));
    for flags in ["nd", "ld"] {
        let said = |environment: &[(&str, &str)]| {
            let preload = [&*shown(build), &other];
            text(&run_with(&probe("deep"), &preload, environment, &["open", flags, &waiting])).1
        };
        let stderr = said(&[("SOCKOPT_CONNECT_TIMEOUT", "2s")]);
        let wanted = "another preload library has poll too: what is loaded goes past both, and a socket that it connects \
                      without waiting may keep the user timeout of connect_timeout; with libsockopt.so behind it, this would \
                      be taken back";
        assert!(warning(&stderr).ends_with(wanted), "{stderr}");
        assert_eq!(said(&[]), "");
    }
}

/// What a library loads while it is loaded itself. Where that is without RTLD_DEEPBIND, its calls go through another
/// preload library in front, as they do without ours, although they are new as well. Seen to fail with all that is new taken for
/// what was loaded together: no "other" where it is bound lazily.
fn nested(build: Build, kind: Kind) {
    let libraries = Libraries::new(&format!("nested-{build:?}"), kind);
    libraries.compile("second", "dependency", &[]);
    let other = libraries.another();
    for (inner, is_deep) in [("RTLD_NOW|RTLD_DEEPBIND", true), ("RTLD_NOW", false), ("RTLD_LAZY", false)] {
        let nested = format!("-DNESTED=\"{}\"", libraries.path("second"));
        let options = ["-L.", "-ldependency", "-Wl,-rpath,$ORIGIN", &nested, &format!("-DFLAGS={inner}")];
        libraries.compile("nesting", "extension", &options);
        let nesting = libraries.path("nesting");
        for flags in ["nd", "ld", "n"] {
            let steps = ["open", flags, &nesting, "go", PORT];
            for before in [&[][..], &[other.as_str()]] {
                let without = run(before, &steps);
                // The extension with its dependency three times, and twice what it loads.
                let calls = if flags == "n" { 3 } else { 0 } + if is_deep { 0 } else { 2 };
                assert_eq!(without.0.matches("other\n").count(), if before.is_empty() { 0 } else { calls });
                let library = shown(build);
                let with = run(&[before, &[&library]].concat(), &steps);
                assert_eq!(with, (set(&without.0), String::new()), "{inner} in {flags}");
            }
        }
    }
}

/// Where no page may be made writable the program goes on, and it is said once which call was not reached. What is
/// writable as it is needs no such call.
fn filter_of_mprotect(build: Build, kind: Kind) {
    let extension = Libraries::new(&format!("filter-{build:?}"), kind).path("extension");
    let steps = ["filter", "open", "nd", &extension, "go", PORT, "close", "open", "nd", &extension, "go", PORT];
    let (without, with) = (run(&[], &steps), run(&[&shown(build)], &steps));
    if kind.name == "lazy and writable" {
        return assert_eq!(with, (set(&without.0), String::new()));
    }
    if kind.name == "lazy" {
        // Only the table in its data is read-only.
        assert!(with.0.contains("own 5 14000, table 7200 96000, accepted 5 14000"), "{with:?}");
    } else {
        assert_eq!(with.0, without.0);
    }
    let wanted = format!("dlopen {extension}: RTLD_DEEPBIND: mprotect: EPERM: ");
    assert!(warning(&with.1).starts_with(&wanted), "{}", with.1);
}

/// The caller's file says where a name without a path is looked for. It is found as without the library, whoever says so;
/// where only the caller's own file does, it is said once that what is loaded is not reached. Seen to fail with a hook that always
/// calls dlopen itself: not found.
fn names_without_path(build: Build) {
    let libraries = Libraries::new(&format!("names-{build:?}"), READ_ONLY);
    let program = |name: &str, options: &[&str]| {
        let path = libraries.folder.join(name);
        let mut cc = Command::new("cc");
        cc.args(["-O1", "-pthread", "-o"]).arg(&path).arg(root().join("tests/probes/deep.c")).args(options);
        let output = cc.output().expect("cc runs");
        assert!(output.status.success(), "{}", text(&output).1);
        path
    };
    let folder = libraries.folder.display().to_string();
    let runpath = program("runpath", &["-Wl,--enable-new-dtags,-rpath,$ORIGIN"]);
    let rpath = program("rpath", &["-Wl,--disable-new-dtags,-rpath,$ORIGIN"]);
    let only_own =
        program("only_own", &["-Wl,-z,nodefaultlib,--enable-new-dtags,-rpath,$ORIGIN:/lib/x86_64-linux-gnu"]);
    let plain = program("plain", &[]);
    let path = [("LD_LIBRARY_PATH", folder.as_str())];
    for (program, environment, name, is_reached) in [
        (&runpath, &[][..], "libextension.so", false),
        (&runpath, &[], "$ORIGIN/libextension.so", false),
        (&only_own, &[], "libextension.so", false),
        (&rpath, &[], "libextension.so", true),
        (&plain, &path, "libextension.so", true),
        (&plain, &[], "$ORIGIN/libextension.so", false),
    ] {
        let steps = ["open", "nd", name, "go", PORT, "close", "open", "nd", name, "go", PORT];
        let run = |preload: &[&str]| text(&run_with(program, preload, environment, &steps));
        let (without, with) = (run(&[]), run(&[&shown(build)]));
        assert!(without.0.contains("open: done"), "{}: {without:?}", program.display());
        if is_reached {
            assert_eq!(with, (set(&without.0), String::new()), "{}", program.display());
        } else {
            assert_eq!(with.0, without.0, "{}", program.display());
            assert!(warning(&with.1).starts_with(&format!("dlopen {name}: RTLD_DEEPBIND, ")), "{}", with.1);
        }
    }
    // Only asked for, or the program itself: nothing is loaded, and nothing said. Seen to fail where an empty name was looked for:
    // a warning that its sockets get no options.
    for steps in [["open", "ndo", "libextension.so"], ["open", "nd", ""], ["open", "ld", ""]] {
        let without = text(&run_with(&runpath, &[], &[], &steps)).0;
        assert_eq!(text(&run_with(&runpath, &[&shown(build)], &[], &steps)), (without, String::new()), "{steps:?}");
    }
}

/// What cannot be loaded: dlerror(3) says the same.
fn errors(build: Build) {
    let libraries = Libraries::new(&format!("errors-{build:?}"), READ_ONLY);
    let text = libraries.folder.join("libtext.so");
    fs::write(&text, "no library").expect("a file");
    libraries.compile("lacking", "extension", &["-Wl,--unresolved-symbols=ignore-all"]);
    for file in [&libraries.path("lacking"), &*text.display().to_string(), "/no/such", "libno-such.so", ""] {
        for flags in ["nd", "ld", "d", "ndo"] {
            let steps = ["open", flags, file, "near", PORT];
            let without = run(&[], &steps);
            assert_eq!(run(&[&shown(build)], &steps), (set(&without.0), String::new()), "{flags} {file}");
        }
    }
    // The test of the test.
    let steps = ["open", "nd", &libraries.path("lacking"), "near", PORT];
    assert!(run(&[], &steps).0.contains("undefined symbol: dependency"));
}

/// Eight threads that load and unload the same. Seen to fail where each thread led to the hooks only what was new since its own
/// call began: the second comes back before the first has done it.
fn threads(build: Build) {
    let extension = Libraries::new(&format!("threads-{build:?}"), READ_ONLY).path("extension");
    for flags in ["nd", "ld"] {
        let steps = ["threads", PORT, flags, &extension];
        let without = run(&[], &steps).0;
        assert!(without.ends_with("wrong: 0\n"), "{without}");
        assert_eq!(run(&[&shown(build)], &steps), (set(&without), String::new()));
    }
}

/// Two threads load and unload libraries again and again: while the first has its pages made read-only by one, the loader writes to
/// those of the other, which takes it long. Seen to fail with pages made read-only that were not yet: SIGSEGV in the loader.
fn loaded_at_once(build: Build) {
    const FUNCTIONS: usize = 4000;
    let folder = scratch(&format!("deepbind-at-once-{build:?}"));
    let each = |text: &dyn Fn(usize) -> String| (0..FUNCTIONS).map(text).collect::<String>();
    let compile = |name: &str, source: String, options: &[&str]| {
        let file = folder.join(format!("{name}.c"));
        fs::write(&file, source).expect("a file");
        let mut cc = Command::new("cc");
        cc.args(["-O1", "-Wl,-z,relro,-z,now", "-o"]).arg(name).arg(&file).args(options);
        let output = cc.current_dir(&folder).output().expect("cc runs");
        assert!(output.status.success(), "{}", text(&output).1);
    };
    let shared = ["-shared", "-fPIC"];
    compile("functions.so", each(&|number| format!("int f{number}(void) {{ return {number}; }}\n")), &shared);
    let connects = "#include <sys/socket.h>\nint connects(void) { return connect(-1, 0, 0); }\n";
    let declared = each(&|number| format!("int f{number}(void);\n"));
    let calls = each(&|number| format!(" + f{number}()"));
    compile("large.so", format!("{connects}{declared}int all(void) {{ return 0{calls}; }}\n"), &shared);
    compile("small.so", connects.to_owned(), &shared);
    let program = r#"
        #include <dlfcn.h>
        #include <pthread.h>
        #include <stdio.h>
        #include <stdlib.h>
        static int is_over;
        static void load(const char *file) {
            void *handle = dlopen(file, RTLD_NOW | RTLD_DEEPBIND);
            if (!handle) { puts(dlerror()); exit(3); }
            dlclose(handle);
        }
        static void *small(void *nothing) {
            while (!__atomic_load_n(&is_over, __ATOMIC_RELAXED)) load("./small.so");
            return nothing;
        }
        int main(void) {
            pthread_t thread;
            if (!dlopen("./functions.so", RTLD_NOW | RTLD_GLOBAL)) { puts(dlerror()); return 3; }
            if (pthread_create(&thread, 0, small, 0)) return 4;
            for (int i = 0; i < 1000; i++) load("./large.so");
            __atomic_store_n(&is_over, 1, __ATOMIC_RELAXED);
            pthread_join(thread, 0);
            puts("over");
        }"#;
    compile("program", program.to_owned(), &["-pthread", "-ldl"]);
    let mut command = plain(folder.join("program"));
    command.current_dir(&folder).env(RULE.0, RULE.1).env("LD_PRELOAD", shown(build));
    let output = command.output().expect("it starts");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(text(&output), ("over\n".to_owned(), String::new()));
}

/// Another libc with an errno of its own is not reached, and that is said once.
fn own_namespace(build: Build) {
    let extension = Libraries::new(&format!("namespace-{build:?}"), READ_ONLY).path("extension");
    let steps = ["space", &extension, "go", PORT, "space", &extension, "go", PORT];
    let (without, with) = (run(&[], &steps), run(&[&shown(build)], &steps));
    assert_eq!(with.0, without.0);
    assert_eq!(
        warning(&with.1),
        format!("dlmopen {extension}: it gets a libc of its own, and the library does not reach its sockets")
    );
}

/// A library among those that are loaded has a connect itself: that is what the others mean. Seen to fail with every call
/// that is not bound yet taken for libc's.
fn a_dependency_has_its_own(build: Build) {
    for kind in KINDS {
        let libraries = Libraries::new(&format!("own-{build:?}"), kind);
        libraries.another();
        let options = ["-L.", "-lother", "-ldependency", "-Wl,--no-as-needed,-rpath,$ORIGIN"];
        libraries.compile("extension", "extension", &options);
        let extension = libraries.path("extension");
        for flags in ["nd", "ld"] {
            let steps = ["open", flags, &extension, "go", PORT];
            let (without, with) = (run(&[], &steps), run(&[&shown(build)], &steps));
            assert_eq!(without.0.matches("other\n").count(), 3, "{without:?}");
            assert_eq!(with.0.matches("other\n").count(), 3, "{with:?}");
            assert!(with.0.contains("accepted 5 14000"), "{with:?}");
        }
    }
}

/// A fault of ours there ends our work and no more.
fn panic(build: Build) {
    let extension = Libraries::new(&format!("panic-{build:?}"), READ_ONLY).path("extension");
    let steps = ["near", PORT, "open", "ld", &extension, "go", PORT, "near", PORT];
    let fault = [("SOCKOPT_TEST_FAULT", "dlopen"), ("SOCKOPT_LOG", "error")];
    let (stdout, stderr) = text(&run_with(&probe("deep"), &[&shown(build)], &fault, &steps));
    let without = run(&[], &steps).0;
    // What was before has its options.
    assert_eq!(stdout, without.replacen("7200 96000", "5 14000", 1));
    assert!(stderr.lines().count() == 1 && stderr.contains("internal error"), "{stderr}");
}

/// `sockopt run` judges PHP to be covered, and its extensions are (programs::run_php).
fn run_says_what_is_so() {
    let mut run = plain(sockopt());
    run.args(["run", "--dead-peer-timeout", "15s", "--dry-run", "--", "php", "-r", "1;"]);
    let output = run.env("SOCKOPT_LIBRARY", shown(Build::Debug)).output().expect("sockopt runs");
    assert!(output.status.success() && text(&output).1.contains("the library takes effect in it"), "{output:?}");
}

/// The same system calls where nothing is configured. Where something is, and not for this process, only the first call reads
/// it.
fn costs_nothing() {
    let extension = Libraries::new("costs", READ_ONLY).path("extension");
    // Addresses and the numbers of files are chance.
    let calls = |library: Option<String>, environment: &[(&str, &str)]| {
        let open = ["open", "nd", &extension, "close", "mark"];
        let mut command = plain("strace");
        command.arg("-E").arg(format!("LD_PRELOAD={}", library.unwrap_or_default())).arg(probe("deep")).arg("mark");
        let output = command.args(open).args(open).envs(environment.iter().copied()).output().expect("strace runs");
        let trace = text(&output).1;
        let calls: Vec<&str> = trace.lines().map(|line| line.split('(').next().unwrap_or_default()).collect();
        let parts: Vec<String> = calls.split(|call| *call == "getpgid").map(|part| part.join(" ")).collect();
        assert_eq!(parts.len(), 4, "{trace}");
        [parts[1].clone(), parts[2].clone()]
    };
    let (without, library) = (calls(None, &[]), || Some(shown(Build::Release)));
    assert!(without[1].contains("mprotect"), "{without:?}");
    assert_eq!(calls(library(), &[]), without);
    assert_eq!(calls(library(), &[RULE, ("SOCKOPT_PROCESS", "java")])[1], without[1]);
    // The test of the test.
    assert_ne!(calls(library(), &[RULE])[1], without[1]);
}

//! Which program `sockopt run` starts, and what it says of it: the judgement is held against what the loader and the
//! kernel really do with each file.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::Trial;

use crate::command::{compile, copy, install, outcome, run as run_by_choice, run_by_library as run, script, write};
use crate::support::{library, plain, root, scratch, sockopt, test, test_with};

use launch::privilege::{Caller, Capabilities, Elevation, Rights, elevation};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        test_with(&["cc"], "executables::static_programs", static_programs),
        test_with(&["cc", "objcopy"], "executables::go_programs", go_programs),
        test_with(&["cc"], "executables::other_machines", other_machines),
        test_with(&["cc"], "executables::a_glibc_that_is_too_old", a_glibc_that_is_too_old),
        test_with(&["cc"], "executables::what_the_library_needs_is_missing", what_the_library_needs_is_missing),
        test_with(&["cc"], "executables::musl", musl),
        test_with(&["cc"], "executables::unknown_loaders", unknown_loaders),
        test_with(&["cc"], "executables::loaders", loaders),
        test("executables::elevation", elevation_as_the_kernel_has_it),
        test("executables::capabilities", capabilities),
        test_with(&["cc", "setpriv", "python3"], "executables::elevation_as_measured", elevation_as_measured),
        test_with(&["cc", "setpriv"], "executables::unreadable", unreadable),
        test("executables::path", path),
        test("executables::interpreters", interpreters),
        test_with(&["cc"], "executables::shells", shells),
        test("executables::env", env_is_followed),
        test_with(&["cc", "strace", "unshare"], "executables::wrappers", wrappers),
        test_with(&["cc", "unshare"], "executables::other_roots", other_roots)
            .with_ignored_flag(!crate::support::can_unshare()),
        test_with(
            &["cc", "gosu", "tini-static", "dumb-init", "catatonit", "sudo", "time", "setpriv"],
            "executables::wrappers_of_containers",
            wrappers_of_containers,
        ),
        test_with(
            &["cc"],
            "executables::servers_with_an_environment_of_their_own",
            servers_with_an_environment_of_their_own,
        ),
        test_with(&["cc"], "executables::daemons_that_start_it", daemons_that_start_it),
        test_with(&["cc"], "executables::found_by_the_wrapper_alone", found_by_the_wrapper_alone),
        test_with(
            &["cc", "s6-setuidgid", "chpst", "fakeroot", "faketime"],
            "executables::wrappers_of_supervision",
            wrappers_of_supervision,
        ),
        test_with(
            &["cc", "python3", "socksify", "trickle", "mptcpize", "hugectl"],
            "executables::wrappers_with_another_library",
            wrappers_with_another_library,
        ),
        test_with(&["sudo", "python3", "setpriv"], "executables::sudo", sudo)
            .with_ignored_flag(!crate::support::is_root()),
        test_with(&["cc"], "executables::wrappers_that_are_not_followed", wrappers_that_are_not_followed),
        test_with(&["cc"], "executables::wrappers_by_name", wrappers_by_name),
        test_with(&["cc"], "executables::programs_among_the_arguments", programs_among_the_arguments),
        test_with(&["cc", "bash"], "executables::programs_in_a_script", programs_in_a_script),
        test("executables::missing_interpreters", missing_interpreters),
        test_with(&["python3"], "executables::python", python),
    ]
}

/// Exit code and messages of a dry run.
fn judged(program: &Path) -> (Option<i32>, String) {
    judged_with(&library(), program)
}

fn judged_with(library: &Path, program: &Path) -> (Option<i32>, String) {
    let mut command = run();
    let (code, _, stderr) =
        outcome(command.args(["--nodelay=true", "--dry-run", "--library"]).arg(library).arg(program));
    (code, stderr)
}

/// The library takes effect, which only a dry run says.
fn assert_works(program: &Path, what: &str) {
    let (code, stderr) = judged(program);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.starts_with("note: ") && stderr.contains(what), "{what}: {stderr}");
    assert!(stderr.contains("the library takes effect") && stderr.lines().count() == 1, "{stderr}");
}

/// Refused with a sentence and an advice; started all the same with --force.
fn assert_refused(program: &Path, why: &str, started: (i32, &str)) {
    let (code, stdout, stderr) = outcome(run().arg("--nodelay=true").arg(program));
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
    assert!(stderr.starts_with("error: ") && stderr.contains(why) && stderr.contains("\nhelp: "), "{stderr}");
    assert_eq!(judged(program), (Some(1), stderr), "a dry run says something else");
    let (code, stdout, stderr) = outcome(run().args(["--nodelay=true", "--force"]).arg(program));
    assert_eq!((code, stdout.as_str()), (Some(started.0), started.1), "{stderr}");
    assert!(stderr.starts_with("warning: ") && stderr.contains(why), "{stderr}");
}

/// Builds from a text; `name` is where it goes.
pub(crate) fn build(folder: &Path, name: &str, text: &str, options: &[&str]) -> PathBuf {
    let source = write(folder, &format!("{name}.c"), text);
    let built = folder.join(name);
    let (code, _, stderr) = outcome(Command::new("cc").arg("-o").arg(&built).arg(&source).args(options));
    assert_eq!(code, Some(0), "{stderr}");
    built
}

pub(crate) fn shared(folder: &Path, name: &str, text: &str, options: &[&str]) -> PathBuf {
    let options: Vec<&str> = ["-shared", "-fPIC"].iter().chain(options).copied().collect();
    build(folder, name, text, &options)
}

/// Seen to fail with PT_INTERP taken to be everywhere.
fn static_programs() {
    let folder = scratch("executables-static");
    let program = compile(&folder, "static", &["-static"]);
    let why = format!("{} is statically linked", program.display());
    assert_refused(&program, &why, (3, "built\n"));
    let program = compile(&folder, "static-pie", &["-static-pie"]);
    assert_refused(&program, "is statically linked", (3, "built\n"));
    // A script is as its interpreter.
    let interpreted = script(&folder, "script", &format!("#!{}\n", program.display()));
    let why = format!("{} (which runs {}) is statically linked", program.display(), interpreted.display());
    assert_refused(&interpreted, &why, (3, "built\n"));
    let dynamic = compile(&folder, "dynamic", &[]);
    assert_works(&dynamic, "is dynamically linked with glibc 2.");
    assert_eq!(outcome(run().arg("--nodelay=true").arg(dynamic)), (Some(3), "built\n".into(), String::new()));
}

/// Programs with what Go's linker leaves: a section, or a note where there are no sections' names. Seen to fail with
/// either overlooked, and where C code that connects did not count.
fn go_programs() {
    let folder = scratch("executables-go");
    let program = build(&folder, "c", "#include <stdio.h>\nint main(void) { puts(\"built\"); return 3; }\n", &[]);
    let (note, marked) = (write(&folder, "note", "id"), folder.join("go"));
    let section = format!(".note.go.buildid={}", note.display());
    let added = outcome(Command::new("objcopy").args(["--add-section", &section]).arg(&program).arg(&marked));
    assert_eq!(added.0, Some(0), "{}", added.2);
    assert_refused(
        &marked,
        "is a Go program: though dynamically linked, it makes its system calls without libc",
        (3, "built\n"),
    );
    const NOTE: &str = "asm(\".section .note.other,\\\"a\\\",@note\\n.long 4, 4, 4\\n.ascii \\\"Go\\\\0\\\\0abcd\\\"\\n.previous\");\n";
    let noted = build(&folder, "noted", &format!("{NOTE}int main(void) {{ return 4; }}\n"), &[]);
    assert_refused(&noted, "is a Go program: though", (4, ""));
    let fixed = build(&folder, "static", &format!("{NOTE}int main(void) {{ return 4; }}\n"), &["-static"]);
    assert_refused(&fixed, "is a Go program: it makes", (4, ""));
    // One with C in it that connects.
    let text = format!("{NOTE}#include <sys/socket.h>\nint main(void) {{ return connect(-1, 0, 0) + 1; }}\n");
    let (code, _, stderr) = outcome(run().arg("--nodelay=true").arg(build(&folder, "mixed", &text, &[])));
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.starts_with("warning: ") && stderr.contains("works for the C code that it calls"), "{stderr}");
}

/// Seen to fail with the word size, and with the machine, left out of the comparison.
fn other_machines() {
    let folder = scratch("executables-machine");
    // A loader that exists, since the kernel looks for it first.
    let loader = "-Wl,--dynamic-linker=/proc/self/exe";
    let text = "void _start(void) {}\n";
    let narrow = build(&folder, "narrow", text, &["-m32", "-nostdlib", "-pie", loader]);
    let (code, stderr) = judged(&narrow);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("narrow is for 32-bit x86, the library for x86-64"), "{stderr}");
    // Seen to fail: help spoke of a library, and there is none.
    let helps = |stderr: &str| stderr.contains("\nhelp: use `sockopt attach`, ") && !stderr.contains("--library");
    assert!(helps(&stderr), "{stderr}");
    let fixed = build(&folder, "fixed", text, &["-m32", "-nostdlib", "-static"]);
    let (code, stderr) = judged(&fixed);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("fixed is statically linked for 32-bit x86: "), "{stderr}");
    assert!(helps(&stderr), "{stderr}");
    // A static one of this host is the supervisor's, whatever the library is for. Seen to fail: help spoke of another library.
    let other = shared(&folder, "other.so", "int nothing;\n", &["-m32", "-nostdlib"]);
    let (code, stderr) = judged_with(&other, &compile(&folder, "still", &["-static"]));
    assert_eq!((code, stderr.contains("leave out --by library")), (Some(1), true), "{stderr}");
    // A script that names one, and the supervisor, which reaches none of them. Seen to fail: nothing was said.
    for (program, way) in [(&fixed, "library"), (&narrow, "library"), (&fixed, "supervisor"), (&narrow, "supervisor")] {
        let named = script(&folder, "names", &format!("#!/bin/sh\n{} 1\n", program.display())).display().to_string();
        let (by, text) = (format!("--by={way}"), format!("{}; :", program.display()));
        for words in [&[named.as_str()][..], &["sh", "-c", &text]] {
            let mut command = run_by_choice();
            let (code, _, stderr) = outcome(command.args(["--nodelay=true", "--dry-run", &by]).args(words));
            let said = format!("names a program that the {way} would not reach: {} is ", program.display());
            assert_eq!((code, stderr.contains(&said)), (Some(0), true), "{words:?}: {stderr}");
            assert!(stderr.contains("; `sockopt attach` covers it too\n"), "{words:?}: {stderr}");
        }
    }
    // e_machine, elf(5): 183 is AArch64; 62 with 32 bits is x32.
    for (file, machine, name) in [(compile(&folder, "dynamic", &[]), 183_u16, "AArch64"), (narrow.clone(), 62, "x32")] {
        let mut bytes = fs::read(file).expect("a program");
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        let foreign = folder.join(name);
        install("755", &write(&folder, "bytes", bytes), &foreign);
        let (code, stderr) = judged(&foreign);
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains(&format!("{name} is for {name}, the library for x86-64")), "{stderr}");
        let help = format!("help: use --library with a libsockopt.so for {name}\n");
        assert_eq!((stderr.contains(&help), helps(&stderr)), (machine == 183, machine == 62), "{stderr}");
    }
    // A library for the other architecture is for it.
    let other = shared(&folder, "narrow.so", "int nothing;\n", &["-m32", "-nostdlib"]);
    let (code, stderr) = judged_with(&other, &narrow);
    assert_eq!((code, stderr.contains("is for")), (Some(0), false), "{stderr}");
    assert_eq!(judged_with(&other, Path::new("/bin/true")).0, Some(1));
}

/// A library that needs GLIBC_2.99. Seen to fail with versions not compared.
fn a_glibc_that_is_too_old() {
    let folder = scratch("executables-glibc");
    let versions = write(&folder, "versions", "GLIBC_2.99 { future; };\n");
    let script = format!("-Wl,--version-script={}", versions.display());
    let options = ["-nostdlib", "-Wl,-soname,libc.so.6", &script];
    let libc = shared(&folder, "libc.so.6", "int future(void) { return 1; }\n", &options);
    let libc = libc.display().to_string();
    let text = "int future(void);\nint now(void) { return future(); }\n";
    let new = shared(&folder, "new.so", text, &["-nostdlib", &libc]);
    let program = compile(&folder, "program", &[]);
    let (code, stderr) = judged_with(&new, &program);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("program runs with glibc 2.") && stderr.contains("new.so needs 2.99"), "{stderr}");
    // That is how it is.
    let (code, stdout, _) = outcome(plain(&program).env("LD_PRELOAD", &new));
    assert_ne!((code, stdout.as_str()), (Some(3), "built\n"));
    // By a libc of its own the program has it.
    let path = format!("-Wl,-rpath,{}", folder.display());
    let (code, stderr) = judged_with(&new, &compile(&folder, "own", &[&path, "-Wl,--enable-new-dtags"]));
    assert_eq!(code, Some(0), "{stderr}");
    let origin = compile(&folder, "origin", &["-Wl,-rpath,$ORIGIN/."]);
    assert_eq!(judged_with(&new, &origin).0, Some(0));
    // One from there too new for others is no matter.
    assert_works(&program, "with glibc 2.");
}

/// Seen to fail without the search for what the library needs.
fn what_the_library_needs_is_missing() {
    let folder = scratch("executables-needed");
    let other = shared(&folder, "libother.so", "int other(void) { return 1; }\n", &["-Wl,-soname,libother.so"]);
    let text = "int other(void);\nint own(void) { return other(); }\n";
    let needing = shared(&folder, "needing.so", text, &[&other.display().to_string()]);
    let program = compile(&folder, "program", &[]);
    let (code, stderr) = judged_with(&needing, &program);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("needing.so needs libother.so, which is missing"), "{stderr}");
    let (code, stdout, _) = outcome(plain(&program).env("LD_PRELOAD", &needing));
    assert_ne!((code, stdout.as_str()), (Some(3), "built\n"));
    let found = |command: &mut Command| {
        outcome(
            command.env("LD_LIBRARY_PATH", &folder).args(["--nodelay=true", "--library"]).arg(&needing).arg(&program),
        )
    };
    assert_eq!(found(&mut run()), (Some(3), "built\n".into(), String::new()));
    // One that is built for musl, where no libc of that name is.
    let musl = shared(
        &folder,
        "libc.musl-x86_64.so.1",
        "int other(void) { return 1; }\n",
        &["-Wl,-soname,libc.musl-x86_64.so.1"],
    );
    let needing = shared(&folder, "musl.so", text, &[&musl.display().to_string()]);
    let (code, stderr) = judged_with(&needing, &program);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("program runs with glibc, and") && stderr.contains("with musl"), "{stderr}");
}

/// A program with a loader called like musl's, which is its libc as well. Seen to fail with names of libraries or of
/// symbols not looked at, and without open for open64.
fn musl() {
    let folder = scratch("executables-musl");
    let text = "int open(void) { return 1; }\nint close(void) { return 1; }\n";
    let loader = shared(&folder, "ld-musl-x86_64.so.1", text, &["-nostdlib", "-Wl,-soname,libc.so"]);
    let named = format!("-Wl,--dynamic-linker={}", loader.display());
    let program = compile(&folder, "program", &[&named]);
    let judged = |library: &Path| judged_with(library, &program);
    let nothing = shared(&folder, "nothing.so", "int nothing;\n", &["-nostdlib"]);
    let (code, stderr) = judged(&nothing);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("program is dynamically linked with musl: the library takes effect in it"), "{stderr}");
    let text = "int open64(void), close(void);\n__attribute__((weak)) int absent(void);\nint own(void) { return open64() + close() + (absent ? absent() : 0); }\n";
    let (code, stderr) = judged(&shared(&folder, "libc.so", text, &[]));
    assert_eq!(code, Some(0), "glibc's libc.so.6 is a name for musl's: {stderr}");
    let text = "int gnu_get_libc_version(void);\nint own(void) { return gnu_get_libc_version(); }\n";
    let (code, stderr) = judged(&shared(&folder, "glibc.so", text, &[]));
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("runs with musl, which has no gnu_get_libc_version for"), "{stderr}");
    let other = shared(
        &folder,
        "libother.so.1",
        "int other(void) { return 1; }\n",
        &["-nostdlib", "-Wl,-soname,libother.so.1"],
    );
    let text = "int other(void);\nint own(void) { return other(); }\n";
    let needing = shared(&folder, "needing.so", text, &["-nostdlib", &other.display().to_string()]);
    let (code, stderr) = judged(&needing);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("runs with musl, which has no libother.so.1 for"), "{stderr}");
    // Where it is installed, nothing is said against it.
    let elsewhere = folder.join("prefix/lib/ld-musl-x86_64.so.1");
    copy(&loader, &elsewhere);
    fs::create_dir_all(folder.join("prefix/etc")).expect("a folder");
    write(&folder, "prefix/etc/ld-musl-x86_64.path", format!("/does/not/exist\n{}", folder.display()));
    let named = format!("-Wl,--dynamic-linker={}", elsewhere.display());
    let (code, stderr) = judged_with(&needing, &compile(&folder, "other", &[&named]));
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("it is not known whether the library loads there"), "{stderr}");
}

fn unknown_loaders() {
    let folder = scratch("executables-loader");
    let loader = shared(&folder, "ld-uClibc.so.0", "int nothing;\n", &["-nostdlib"]);
    let program = compile(&folder, "program", &[&format!("-Wl,--dynamic-linker={}", loader.display())]);
    let (code, stderr) = judged(&program);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.starts_with("note: ") && stderr.contains("neither glibc's nor musl's"), "{stderr}");
    // A file that is no program for this kernel, and one that is not ELF at all.
    let odd = folder.join("odd");
    install("755", &write(&folder, "odd.bytes", b"\x01\x02\x00 nothing"), &odd);
    let (code, stderr) = judged(&odd);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("is neither an ELF file nor a script"), "{stderr}");
    // execvp(3) has sh try it.
    assert_eq!(outcome(run().arg("--nodelay=true").arg(&odd)).0, outcome(plain("env").arg(&odd)).0);
}

/// The loader itself as a program, which loads another: not static, though it has no loader. Seen to fail with
/// DT_SONAME overlooked.
fn loaders() {
    let program = compile(&scratch("executables-direct"), "program", &[]);
    let mut command = run();
    let bytes = fs::read(&program).expect("a program");
    let start = bytes.windows(8).position(|window| window == b"/lib64/l").expect("a loader's path");
    let loader: Vec<u8> = bytes[start..].iter().copied().take_while(|byte| *byte != 0).collect();
    let loader = String::from_utf8(loader).expect("a path");
    let (code, stdout, stderr) = outcome(command.args(["--nodelay=true", &loader]).arg(&program));
    assert_eq!((code, stdout.as_str()), (Some(3), "built\n"), "{stderr}");
    assert!(stderr.starts_with("note: ") && stderr.contains("is a dynamic loader"), "{stderr}");
}

const S_ISUID: u32 = 0o4755;
const S_ISGID: u32 = 0o2755;

/// fs/exec.c and security/commoncap.c, case by case.
fn elevation_as_the_kernel_has_it() {
    let user = Caller {
        user: 1000,
        effective_user: 1000,
        group: 1000,
        effective_group: 1000,
        no_new_privileges: false,
        permitted: 0,
        inheritable: 0,
        bounding: u64::MAX,
    };
    let root = Caller { user: 0, effective_user: 0, group: 0, effective_group: 0, ..user };
    let file = Rights { owner: 0, group: 0, mode: 0o755, nosuid: false, is_unmapped: false, capabilities: None };
    let caps = |effective: u32, permitted: u32, inheritable: u32| {
        let words = [0x0200_0000 | effective, permitted, inheritable, 0, 0];
        Capabilities::read(&words.map(u32::to_le_bytes).concat())
    };
    let (setuid, setgid) = (Rights { mode: S_ISUID, ..file }, Rights { mode: S_ISGID, ..file });
    let raw = Rights { capabilities: caps(1, 1 << 13, 0), ..file };
    let permitted = Rights { capabilities: caps(0, 1 << 13, 0), ..file };
    let inheritable = Rights { capabilities: caps(0, 0, 1 << 13), ..file };
    for (caller, file, expected) in [
        (user, file, None),
        (user, setuid, Some(Elevation::User(0))),
        (user, setgid, Some(Elevation::Group(0))),
        // To those whom they have already, the bits give nothing.
        (root, setuid, None),
        (root, setgid, None),
        (root, Rights { owner: 1000, ..setuid }, Some(Elevation::User(1000))),
        (user, Rights { owner: 1000, ..setuid }, None),
        (user, Rights { group: 1000, ..setgid }, None),
        (user, Rights { mode: 0o2745, ..file }, None),
        (user, Rights { nosuid: true, ..setuid }, None),
        (user, Rights { is_unmapped: true, ..setuid }, None),
        (Caller { no_new_privileges: true, ..user }, setuid, None),
        (user, raw, Some(Elevation::Capabilities)),
        (root, raw, None),
        (user, Rights { nosuid: true, ..raw }, None),
        (Caller { no_new_privileges: true, ..user }, raw, Some(Elevation::Capabilities)),
        (user, permitted, Some(Elevation::Capabilities)),
        (Caller { no_new_privileges: true, ..user }, permitted, None),
        (Caller { bounding: 0, ..user }, permitted, None),
        (user, inheritable, None),
        (Caller { inheritable: 1 << 13, ..user }, inheritable, Some(Elevation::Capabilities)),
        (user, Rights { capabilities: caps(0, 0, 0), ..file }, None),
        (Caller { effective_user: 0, ..user }, file, Some(Elevation::Caller)),
        (Caller { effective_group: 0, ..user }, file, Some(Elevation::Caller)),
    ] {
        assert_eq!(elevation(caller, file), expected, "{caller:?} {file:?}");
    }
}

/// struct vfs_cap_data in its forms; anything else is none.
fn capabilities() {
    let read =
        |words: &[u32]| Capabilities::read(&words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>());
    assert!(read(&[0x0200_0001, 1, 0, 0, 0]).is_some());
    // For another user namespace's root; too short; a form that does not exist; nothing.
    for other in [&[0x0300_0001, 1, 0, 0, 0, 1000][..], &[0x0200_0001, 1, 0, 0], &[0x0500_0001, 1, 0, 0, 0], &[]] {
        assert_eq!(read(other), None, "{other:?}");
    }
}

/// What is said of setuid and setgid programs and of those with capabilities, held against what the loader of each
/// says itself (AT_SECURE): by this user, by nobody where this is root, in a user namespace, and without new
/// privileges. Seen to fail with each condition of privilege.rs turned.
fn elevation_as_measured() {
    const PROGRAM: &str = "#include <stdlib.h>\n#include <sys/auxv.h>\n\
        int main(void) { return getauxval(AT_SECURE) ? 11 : getenv(\"LD_PRELOAD\") ? 10 : 12; }\n";
    // Where everybody may go.
    let folder = env::temp_dir().join(format!("sockopt-elevation-{}", std::process::id()));
    fs::create_dir(&folder).expect("a folder of our own");
    let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
    open(&folder, 0o755);
    copy(sockopt(), folder.join("sockopt"));
    copy(library(), folder.join("libsockopt.so"));
    let program = build(&folder, "plain", PROGRAM, &[]);
    let (is_root, nobody) = (rustix::process::geteuid().is_root(), 65_534);
    let mut files = vec!["plain"];
    for (name, mode, owner) in
        [("setuid", 0o4755, 0), ("setgid", 0o2755, 0), ("locking", 0o2745, 0), ("nobody", 0o4755, nobody)]
    {
        copy(&program, folder.join(name));
        if is_root {
            std::os::unix::fs::chown(folder.join(name), Some(owner), Some(owner)).expect("root may");
        }
        open(&folder.join(name), mode);
        files.push(name);
    }
    const GIVE: &str = "import os, struct, sys\nos.setxattr(sys.argv[1], 'security.capability', struct.pack('<5I', 0x2000000 | int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), 0, 0))";
    for (name, sets) in
        [("effective", ["1", "8192", "0"]), ("permitted", ["0", "8192", "0"]), ("inheritable", ["0", "0", "8192"])]
    {
        copy(&program, folder.join(name));
        // Only root may give them.
        let (code, _, stderr) = outcome(plain("python3").args(["-c", GIVE]).arg(folder.join(name)).args(sets));
        assert!(code == Some(0) || !is_root, "{stderr}");
        files.push(name);
    }
    let mut callers = vec![vec!["env"], vec!["setpriv", "--no-new-privs"]];
    let becoming = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    if is_root {
        callers.push(becoming.to_vec());
        callers.push(becoming.iter().copied().chain(["--no-new-privs"]).collect());
        callers.push(becoming.iter().copied().chain(["--inh-caps=+net_raw"]).collect());
        callers.push(vec!["setpriv", "--ruid=65534"]);
    }
    if crate::support::can_unshare() {
        callers.push(vec!["unshare", "-Ur"]);
    }
    let mut seen = BTreeMap::new();
    for caller in &callers {
        for name in &files {
            let run = |option: &str| {
                let mut command = plain(caller[0]);
                command.current_dir(&folder).args(&caller[1..]).arg("./sockopt").args([
                    "run",
                    "--by=library",
                    "--nodelay=true",
                    option,
                ]);
                outcome(command.arg(format!("./{name}")))
            };
            let (Some(measured @ (10 | 11)), _, _) = run("--force") else {
                panic!("{caller:?} {name}: {:?}", run("--force"));
            };
            let (code, _, stderr) = run("--dry-run");
            assert_eq!(
                code == Some(1),
                measured == 11,
                "{caller:?} {name} ends with {measured}, but is judged: {stderr}"
            );
            *seen.entry(measured).or_insert(0) += 1;
        }
    }
    fs::remove_dir_all(&folder).expect("it is ours");
    // The test of the test: as root, both were met.
    assert!(!is_root || seen.len() == 2, "{seen:?}");
}

/// What may be executed and not read is started, and not judged. Seen to fail with such a file taken for one of
/// another format.
fn unreadable() {
    let folder = env::temp_dir().join(format!("sockopt-unreadable-{}", std::process::id()));
    fs::create_dir(&folder).expect("a folder of our own");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("it is ours");
    copy(sockopt(), folder.join("sockopt"));
    copy(library(), folder.join("libsockopt.so"));
    install("0111", &compile(&folder, "program", &["-static"]), &folder.join("closed"));
    let is_root = rustix::process::geteuid().is_root();
    let mut command = plain(if is_root { "setpriv" } else { "env" });
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"].iter().filter(|_| is_root));
    let program = folder.join("closed");
    let ran = outcome(command.arg(folder.join("sockopt")).args(["run", "--nodelay=true"]).arg(&program));
    let note =
        format!("note: {} cannot be read: it is not known whether the library takes effect\n", program.display());
    fs::remove_dir_all(&folder).expect("it is ours");
    assert_eq!(ran, (Some(3), "built\n".into(), note));
}

/// Finds what env(1) finds, and fails as it fails. Seen to fail with empty elements left out, with a folder or a file
/// without the execute bit taken, and with 127 for what may not be executed.
fn path() {
    let folder = scratch("executables-path");
    let say = |name: &str| format!("#!/bin/sh\necho {name} \"$@\"\n");
    for name in ["first/tool", "second/tool", "second/other", "here"] {
        fs::create_dir_all(folder.join(name).parent().expect("a folder")).expect("a folder");
        install("755", &write(&folder, "text", say(name)), &folder.join(name));
    }
    install("644", &write(&folder, "text", say("unused")), &folder.join("first/other"));
    install("644", &write(&folder, "text", say("unused")), &folder.join("first/never"));
    install("755", &write(&folder, "text", "echo without \"$@\"\n"), &folder.join("second/bare"));
    install("755", &write(&folder, "text", ""), &folder.join("second/empty"));
    fs::create_dir(folder.join("first/folder")).expect("a folder");
    symlink("nothing", folder.join("first/dangling")).expect("a link");
    symlink("../second/tool", folder.join("first/linked")).expect("a link");
    let (first, second) = (folder.join("first").display().to_string(), folder.join("second").display().to_string());
    let paths = [
        format!("{first}:{second}:/usr/bin:/bin"),
        format!("{second}:{first}:/usr/bin:/bin"),
        format!(":{first}:/usr/bin:/bin"),
        format!("{first}::/usr/bin:/bin"),
        format!("{first}:/usr/bin:/bin:"),
        format!("/does/not/exist:{first}/tool:{second}:/usr/bin:/bin"),
        format!("first:second:/usr/bin:/bin:{first}"),
    ];
    let programs = [
        "tool",
        "other",
        "never",
        "bare",
        "empty",
        "folder",
        "dangling",
        "linked",
        "here",
        "absent",
        "./here",
        "./absent",
        "first/never",
        "first/tool",
        "first",
        "first/tool/below",
        "true",
        "",
    ];
    let mut codes = BTreeMap::new();
    for path in &paths {
        for program in programs {
            let mut env = plain("/usr/bin/env");
            let mut ours = run();
            let ran = |command: &mut Command| {
                let (code, stdout, stderr) =
                    outcome(command.current_dir(&folder).env("PATH", path).args(["--", program, "a"]));
                (code, stdout, stderr.is_empty())
            };
            let expected = ran(&mut env);
            assert_eq!(ran(ours.arg("--nodelay=true")), expected, "{program:?} in {path}");
            let mut dry = run();
            dry.args(["--nodelay=true", "--dry-run"]);
            let foretold = outcome(dry.current_dir(&folder).env("PATH", path).args(["--", program]));
            assert_eq!(foretold.0, expected.0, "{program:?} in {path}: {}", foretold.2);
            *codes.entry(expected.0).or_insert(0) += 1;
        }
    }
    assert_eq!(codes.keys().copied().collect::<Vec<_>>(), [Some(0), Some(126), Some(127)], "{codes:?}");
    // Without PATH.
    let without = |command: &mut Command| outcome(command.env_remove("PATH").args(["true"])).0;
    assert_eq!(without(run().arg("--nodelay=true")), Some(0));
    assert_eq!(without(run().args(["--nodelay=true", "--dry-run"])), Some(0));
}

/// Follows `#!` to the file that is executed, which a dry run names.
fn interpreters() {
    let folder = scratch("executables-script");
    let first = script(&folder, "first", "#!/bin/sh\necho \"$LD_PRELOAD\"; exit 5\n");
    let at = |path: &Path| path.display().to_string();
    for (name, line, names) in [
        ("sh", "#!/bin/sh".to_owned(), "/bin/sh"),
        ("spaces", "#! \t/bin/sh -e  ".to_owned(), "/bin/sh"),
        ("env", "#!/usr/bin/env sh".to_owned(), "/sh"),
        ("env-s", "#!/usr/bin/env -S sh -e".to_owned(), "/sh"),
        ("env-quoted", "#!/usr/bin/env -S  A=\"b c\" 'sh' -e # why".to_owned(), "/sh"),
        ("env-vs", "#!/usr/bin/env -S -u FOO -C/ sh".to_owned(), "/sh"),
        ("twice", format!("#!{}", at(&first)), "/bin/sh"),
        ("long", format!("#!/bin/sh {}", "x".repeat(300)), "/bin/sh"),
        ("none", "# without".to_owned(), "/bin/sh"),
    ] {
        let program = script(&folder, name, &format!("{line}\necho \"$LD_PRELOAD\"; exit 5\n"));
        // An option of that length is no shell's.
        if name != "long" {
            let ran = outcome(run().arg("--nodelay=true").arg(&program));
            assert_eq!(ran, (Some(5), format!("{}\n", library().display()), String::new()), "{line}");
        }
        let (code, stderr) = judged(&program);
        assert_eq!(code, Some(0), "{line}: {stderr}");
        assert!(stderr.contains(&format!("{names} (which runs {})", program.display())), "{line}: {stderr}");
    }
    // A chain without an end is the kernel's to refuse.
    let loops = folder.join("loops");
    let text = write(&folder, "loops.text", format!("#!{}\n", loops.display()));
    install("755", &text, &loops);
    assert_eq!(outcome(run().arg("--nodelay=true").arg(&loops)).0, Some(126));
}

/// A static shell is no reason to refuse what it starts. Seen to fail without the exception for shells.
fn shells() {
    let folder = scratch("executables-shell");
    let shell = compile(&folder, "bash", &["-static"]);
    let program = script(&folder, "script", &format!("#!{}\n", shell.display()));
    for program in [&shell, &program] {
        let (code, stdout, stderr) = outcome(run().arg("--nodelay=true").arg(program));
        assert_eq!((code, stdout.as_str()), (Some(3), "built\n"), "{stderr}");
        assert!(
            stderr.starts_with("warning: ") && stderr.contains("programs that it starts get the library"),
            "{stderr}"
        );
    }
}

/// env(1) as a program: what it starts is what is judged, and what it takes away is seen.
fn env_is_followed() {
    let folder = scratch("executables-env");
    let still = compile(&folder, "still", &["-static"]);
    let outcome_of = |arguments: &[&str]| {
        let (code, _, stderr) = outcome(run().args(["--nodelay=true", "--dry-run", "env"]).args(arguments));
        (code, stderr)
    };
    let still = still.display().to_string();
    let path = format!("PATH={}", folder.display());
    for arguments in [
        &[still.as_str()][..],
        &["A=b", &still],
        &["-u", "A", &still],
        &["--", &still],
        &[&path, "still"],
        &["--unset=A", "-vuB", &still],
        &["--chdir=/", &still],
    ] {
        let (code, stderr) = outcome_of(arguments);
        assert_eq!(code, Some(1), "{arguments:?}: {stderr}");
        assert!(stderr.contains("still is statically linked"), "{arguments:?}: {stderr}");
    }
    for (arguments, how) in [
        (&["-i", "true"][..], "env clears the environment: "),
        (&["-", "A=b", "/bin/true"], "env clears the environment: "),
        (&["-u", "LD_PRELOAD", "true"], "env unsets LD_PRELOAD: "),
        (&["-uLD_PRELOAD", "true"], "env unsets LD_PRELOAD: "),
        (&["--unset=LD_PRELOAD", "true"], "env unsets LD_PRELOAD: "),
        (&["LD_PRELOAD=", "true"], "env sets LD_PRELOAD to another value: "),
        (&["-S", "-i true"], "env clears the environment: "),
    ] {
        let (code, stderr) = outcome_of(arguments);
        assert_eq!(code, Some(1), "{arguments:?}: {stderr}");
        assert!(
            stderr.contains(how) && stderr.contains("/true is started without the library"),
            "{arguments:?}: {stderr}"
        );
    }
    // By itself it prints, and what is not followed is not judged.
    assert!(
        outcome_of(&[])
            .1
            .ends_with(": no options are set in it; dynamically linked programs that it starts get the library\n")
    );
    for arguments in
        [&["--argv0=x", "true"][..], &["-S", "$HOME true"], &["-C", "/", "./x"], &["-C", "/", "PATH=bin", "true"]]
    {
        let (code, stderr) = outcome_of(arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {stderr}");
        assert!(stderr.contains("in a way that sockopt does not know"), "{arguments:?}: {stderr}");
    }
}

/// Says whether the library is in it.
const HAS_LIBRARY: &str = "#include <stdio.h>\n#include <string.h>\n#include <sys/socket.h>\n\
    int main(int count, char **words) { if (count > 99) connect(count, 0, 0); char line[4096]; FILE *maps = fopen(\"/proc/self/maps\", \"r\");\n\
    while (fgets(line, sizeof line, maps)) if (strstr(line, \"libsockopt.so\")) { puts(\"library\"); return 5; }\n\
    puts(\"nothing\"); return 5; }\n";

/// A folder that every user gets to, with the command, the library and a program of each sort, and its end.
struct Open(PathBuf);

impl Open {
    fn new(name: &str) -> Self {
        let folder = env::temp_dir().join(format!("sockopt-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).expect("a folder of our own");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("it is ours");
        copy(sockopt(), folder.join("sockopt"));
        copy(library(), folder.join("libsockopt.so"));
        build(&folder, "dynamic", HAS_LIBRARY, &[]);
        build(&folder, "static", HAS_LIBRARY, &["-static"]);
        Self(folder)
    }

    /// `sockopt run`, with `%` for the program's path and `~` for blanks within a word.
    fn run(&self, option: &str, line: &str, program: &str) -> (Option<i32>, String, String) {
        let path = self.0.join(program).display().to_string();
        let mut command = plain(self.0.join("sockopt"));
        command.current_dir(&self.0).env("PATH", crate::support::search_path()).args([
            "run",
            "--by=library",
            "--nodelay=true",
            option,
        ]);
        outcome(command.args(line.split(' ').map(|word| word.replace('~', " ").replace('%', &path))))
    }

    /// By whichever way the command takes.
    fn start(&self, option: &str, program: &Path) -> (Option<i32>, String, String) {
        outcome(plain(self.0.join("sockopt")).args(["run", "--nodelay=true", option]).arg(program))
    }

    /// What is said of each line is so: with a dynamic program behind the wrapper, and with one that has no loader.
    fn assert_followed(&self, lines: &[&str]) {
        for line in lines {
            let (code, printed, stderr) = self.run("--log=off", line, "dynamic");
            assert_eq!((printed.trim_end(), stderr.as_str()), ("library", ""), "{line}: {code:?}");
            let (code, _, stderr) = self.run("--dry-run", line, "dynamic");
            assert_eq!(code, Some(0), "{line}: {stderr}");
            let judged = format!("note: {}/dynamic is dynamically linked with glibc", self.0.display());
            assert!(stderr.starts_with(&judged) && stderr.contains("the library takes effect"), "{line}: {stderr}");
            let (code, printed, stderr) = self.run("--log=off", line, "static");
            assert_eq!((code, printed.as_str()), (Some(1), ""), "{line}: {stderr}");
            assert!(
                stderr.starts_with("error: ") && stderr.contains("/static is statically linked"),
                "{line}: {stderr}"
            );
            let (_, printed, _) = self.run("--force", line, "static");
            assert_eq!(printed.trim_end(), "nothing", "{line}");
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Wrappers are followed to the program that they start. Seen to fail: of `timeout 5 ./static` it was said that the library
/// takes effect, for only `timeout` was judged.
fn wrappers() {
    let open = Open::new("wrappers");
    open.assert_followed(&[
        "timeout 5 %",
        "timeout -k 1 -s KILL 5 %",
        "timeout --foreground --kill-after=1 -- 5 %",
        "timeout -k1 --signal TERM 5 env A=b nice -n 1 %",
        "nice %",
        "nice -n1 %",
        "nice -5 %",
        "nice --adjustment 1 %",
        "nohup %",
        "setsid -w %",
        "stdbuf -oL -e 0 %",
        "env -u A B=c %",
        "taskset -c 0 %",
        "taskset 1 %",
        "ionice -c3 %",
        "ionice -c 2 -n 5 %",
        "chrt -o 0 %",
        "chrt --batch 0 %",
        "prlimit --nofile=99 -c0 %",
        "xargs -r0a /proc/self/comm %",
        "xargs -a /proc/self/comm -I{} %",
        "flock ./lock %",
        "flock -w 1 -E 3 ./lock %",
        "flock ./lock -c %",
        "linux64 -R %",
        "setarch x86_64 -R %",
        "setpriv --no-new-privs %",
        "sh -c %",
        "bash -ec exec~%~argument",
        "busybox timeout 5 %",
        "busybox setsid %",
        "busybox sh -c %",
        "strace -f -o ./trace %",
        "strace -fo./trace -e trace=read -- %",
    ]);
    if crate::support::can_unshare() {
        open.assert_followed(&[
            "unshare -Ur %",
            "unshare --user --map-root-user -n --fork %",
            "unshare -Ur --propagation private -m %",
            "unshare -Ur chroot / %",
            "unshare -Urn nsenter -n/proc/self/ns/net %",
            "unshare -Urn nsenter --net=/proc/self/ns/net -- timeout 5 %",
            "unshare -Urw / %",
        ]);
        // In another root there is another library, or none.
        let (code, _, stderr) = open.run("--dry-run", "unshare -Ur chroot /proc /x", "dynamic");
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains("starts a program in the root directory /proc, which has no "), "{stderr}");
        let below = open.0.join("root").join(open.0.strip_prefix("/").expect("absolute"));
        copy(library(), below.join("libsockopt.so"));
        // A static program there, by its path, by a link that is absolute there, and by its name, whether the library is there or not:
        // the supervisor sets its options. Seen to fail: refused without the library, and started without options with it.
        fs::create_dir(open.0.join("bare")).expect("a folder of our own");
        for root in ["root", "bare"] {
            copy(open.0.join("static"), open.0.join(root).join("static"));
            std::os::unix::fs::symlink("/static", open.0.join(root).join("link")).expect("a link");
            for word in ["/static", "static", "./static", "/link", "link"] {
                let line = format!("env PATH=/:{} unshare -Ur -R ./{root} {word}", crate::support::search_path());
                let (code, _, stderr) = open.run("--dry-run", &line, "static");
                assert_eq!(code, Some(1), "{line}: {stderr}");
                assert!(
                    stderr.contains(" is statically linked: ") && stderr.contains("leave out --by library"),
                    "{stderr}"
                );
                let mut command = run_by_choice();
                command.current_dir(&open.0).args(["--nodelay=true", "--dry-run"]).args(line.split(' '));
                let (code, _, stderr) = outcome(&mut command);
                assert_eq!((code, stderr.contains("; the supervisor sets its options\n")), (Some(0), true), "{stderr}");
            }
        }
        // Whatever it is, the supervisor gets there.
        let mut command = run_by_choice();
        command.current_dir(&open.0).args(["--nodelay=true", "--dry-run", "unshare", "-Ur", "-R", "./bare", "/x"]);
        let (code, _, stderr) = outcome(&mut command);
        assert_eq!((code, stderr.contains("; the supervisor sets its options\n")), (Some(0), true), "{stderr}");
    }
    // By its name, where the wrapper finds it.
    let (code, _, stderr) = open.run("--dry-run", "timeout 5 env PATH=. static", "static");
    assert_eq!(code, Some(1), "{stderr}");
    // Where the wrapper has a better word for it, it has it.
    let (code, _, stderr) = open.run("--log=off", "setsid -w ./absent", "dynamic");
    assert_eq!(code, outcome(plain("setsid").args(["-w", "./absent"])).0, "{stderr}");
    assert!(
        stderr.starts_with("note: ./absent, which ") && stderr.contains(" should start, was not found"),
        "{stderr}"
    );
}

/// In another root the library is for programs whose root has the libc that it needs, at least as new. A program that needs no libc runs
/// where there is none. Seen to fail: the library was chosen in each of these roots, so that the program ended with 127 where there is no
/// libc; and for the shell that chroot and unshare start in a root without the library.
fn other_roots() {
    let open = Open::new("other-roots");
    let run = |line: &str, options: &[&str], shell: Option<&str>| {
        let mut command = plain(open.0.join("sockopt"));
        command.current_dir(&open.0).env("PATH", crate::support::search_path()).env_remove("SHELL");
        command.envs(shell.map(|shell| ("SHELL", shell)));
        let line = format!("unshare -Ur {line}");
        outcome(command.args(["run", "--nodelay=true"]).args(options).args(line.split(' ')))
    };
    let alone = build(&open.0, "alone", "void _start(void) { __builtin_trap(); }\n", &["-nostdlib", "-fPIE", "-pie"]);
    let maps = fs::read_to_string("/proc/self/maps").expect("of this process");
    let mapped = |start: &str| {
        let files = maps.lines().filter_map(|line| line.find('/').and_then(|at| line.get(at..)));
        let mut files = files
            .map(Path::new)
            .filter(|file| file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(start.as_bytes())));
        files.next().expect("it is mapped").to_owned()
    };
    let libc = mapped("libc.so.6");
    let header = outcome(plain("readelf").args(["-lW"]).arg(&alone)).1;
    let loader = header
        .split("interpreter: ")
        .nth(1)
        .and_then(|rest| rest.split(']').next())
        .expect("it has a loader")
        .to_owned();
    let versions = write(&open.0, "versions", "GLIBC_2.1 { past; };\n");
    let script = format!("-Wl,--version-script={}", versions.display());
    let old =
        shared(&open.0, "old.so", "int past(void) { return 1; }\n", &["-nostdlib", "-Wl,-soname,libc.so.6", &script]);
    let script = write(&open.0, "text", "#!/alone\n");
    for root in ["without", "old", "full"] {
        let below = |path: &Path| open.0.join(root).join(path.strip_prefix("/").expect("absolute"));
        copy(open.0.join("libsockopt.so"), below(&open.0).join("libsockopt.so"));
        copy(Path::new(&loader).canonicalize().expect("it is there"), below(Path::new(&loader)));
        copy(&alone, open.0.join(root).join("alone"));
        copy(&script, open.0.join(root).join("script"));
        copy(open.0.join("static"), open.0.join(root).join("static"));
        if root != "without" {
            // By a link that is absolute there.
            copy(if root == "old" { &old } else { &libc }, open.0.join(root).join("real/libc"));
            fs::create_dir_all(below(&libc).parent().expect("a folder")).expect("a folder");
            symlink("/real/libc", below(&libc)).expect("a link");
        }
    }
    fs::create_dir(open.0.join("bare")).expect("a folder of our own");
    for (root, program) in [("without", "/alone"), ("without", "/script"), ("without", "/x"), ("old", "/alone")] {
        let line = format!("-R ./{root} {program}");
        let (code, _, stderr) = run(&line, &["--dry-run"], None);
        let why = if root == "old" { "which has no libc.so.6 with GLIBC_2." } else { "which has no libc.so.6 for " };
        let is_supervised = stderr.contains(why) && stderr.contains("; the supervisor sets its options\n");
        assert_eq!((code, is_supervised), (Some(0), true), "{line}: {stderr}");
        let (code, _, stderr) = run(&line, &["--dry-run", "--by=library"], None);
        assert_eq!((code, stderr.contains("leave out --by library")), (Some(1), true), "{line}: {stderr}");
    }
    for root in ["without", "old", "full"] {
        // By the signal that it gives itself.
        let (code, _, stderr) = run(&format!("-R ./{root} /alone"), &["--log=off"], None);
        assert_eq!(code, None, "{root}: {stderr}");
    }
    for (program, shell) in [("/alone", None), ("/script", None), ("/x", None), ("", Some("/alone")), ("", None)] {
        let line = format!("-R ./full {program}");
        let (code, _, stderr) = run(line.trim_end(), &["--dry-run"], shell);
        let is_library = stderr.contains(" in the root directory ./full, where sockopt does not judge it\n");
        assert_eq!((code, is_library), (Some(0), true), "{line}: {stderr}");
    }
    // What is started if nothing is named.
    for (line, shell, why) in [
        ("-R ./bare", None, "the root directory ./bare, which has no "),
        ("chroot ./bare", None, "the root directory ./bare, which has no "),
        ("chroot ./without", Some("/alone"), "which has no libc.so.6 for "),
        ("chroot ./full", Some("/static"), "./full/static is statically linked: "),
    ] {
        let (code, _, stderr) = run(line, &["--dry-run"], shell);
        let is_supervised = stderr.contains(why) && stderr.contains("; the supervisor sets its options\n");
        assert_eq!((code, is_supervised), (Some(0), true), "{line}: {stderr}");
    }
    // In the same root it is judged as it would be by its name.
    let (code, _, stderr) = run("chroot /", &["--dry-run"], Some("/bin/sh"));
    assert_eq!((code, stderr.contains("chroot")), (Some(0), false), "{stderr}");
    let (code, _, stderr) = run("-R ./bare --help", &["--dry-run"], None);
    assert_eq!((code, stderr.contains("starts a program in")), (Some(0), false), "{stderr}");
}

/// Those that containers begin with, which may be Go or static: that is no reason to refuse. Seen to fail: gosu and
/// tini-static were refused, and behind sudo the library was said to take effect.
fn wrappers_of_containers() {
    let open = Open::new("containers");
    open.assert_followed(&[
        "tini -s %",
        "tini -s -- %",
        "tini-static -sw -- %",
        "tini -gsp SIGTERM %",
        "tini-static -s timeout 5 %",
        "dumb-init -c %",
        "dumb-init --rewrite 15:3 -- %",
        "catatonit %",
        "catatonit -- %",
        "/usr/bin/time -o ./time %",
        "/usr/bin/time -f x -ao ./time %",
    ]);
    if !crate::support::is_root() {
        return;
    }
    open.assert_followed(&[
        "gosu root %",
        "gosu nobody %",
        "gosu 65534:65534 tini-static -s -- %",
        "setpriv --reuid=65534 --regid 65534 --clear-groups %",
        "runuser -u nobody -- %",
        "unshare -S 65534 %",
        "chroot --userspec=65534:65534 / %",
    ]);
    // What another user cannot read the loader leaves out.
    let library = open.0.join("libsockopt.so");
    fs::set_permissions(&library, fs::Permissions::from_mode(0o600)).expect("it is ours");
    for (line, has) in [("gosu nobody %", false), ("gosu root %", true), ("setpriv --reuid=65534 %", false)] {
        let (_, printed, stderr) = open.run("--log=off", line, "dynamic");
        assert_eq!((printed.trim_end() == "library", stderr.starts_with("warning: ")), (has, !has), "{line}: {stderr}");
        assert!(has || stderr.contains(", who may not read "), "{stderr}");
    }
    fs::set_permissions(&library, fs::Permissions::from_mode(0o755)).expect("it is ours");
    // sudo starts it without.
    let (code, _, stderr) = open.run("--log=off", "sudo %", "dynamic");
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("leave out --by library") && stderr.contains("sudo sockopt run"), "{stderr}");
    assert_eq!(open.run("--force", "sudo %", "dynamic").1, "nothing\n");
    // As another user, a program's own rights count anew.
    copy(open.0.join("dynamic"), open.0.join("setuid"));
    fs::set_permissions(open.0.join("setuid"), fs::Permissions::from_mode(0o4755)).expect("it is ours");
    let (code, _, stderr) = open.run("--dry-run", "gosu nobody %", "setuid");
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.starts_with("note: ") && stderr.contains("gains privileges, and is started"), "{stderr}");
    // Root's own becomes another user, maybe. Seen to fail: the library was said to take effect, which it did not in what exim
    // delivers.
    let (code, _, stderr) = open.run("--dry-run", "%", "setuid");
    let may_lose = "setuid: if it becomes another user and executes itself again, the loader ignores LD_PRELOAD; --by supervisor covers";
    assert_eq!((code, stderr.contains(may_lose)), (Some(0), true), "{stderr}");
    let (_, _, stderr) = open.run("--dry-run", "setpriv --no-new-privs %", "setuid");
    assert!(!stderr.contains("setuid: "), "{stderr}");
    // Where it is another user's, the supervisor sets root's options, whether there is a loader or not. Seen to fail: refused, and it was
    // said of the static one too that its loader ignores LD_PRELOAD.
    for (program, why) in
        [("static", "statically linked: no library can"), ("dynamic", "so the loader ignores LD_PRELOAD")]
    {
        let file = open.0.join(format!("of-nobody-{program}"));
        copy(open.0.join(program), &file);
        std::os::unix::fs::chown(&file, Some(65534), Some(65534)).expect("root may");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o4755)).expect("it is ours");
        let start = |option: &str| open.start(option, &file);
        let (code, _, stderr) = start("--dry-run");
        let is_said = stderr.contains(why) && stderr.contains("; the supervisor sets its options\n");
        assert_eq!((code, is_said), (Some(0), true), "{stderr}");
        assert_eq!(start("--log=off"), (Some(5), "nothing\n".to_owned(), String::new()));
    }
    let (code, _, stderr) = open.run("--dry-run", "gosu nobody setpriv --no-new-privs %", "dynamic");
    assert_eq!((code, stderr.contains("the library takes effect")), (Some(0), true), "{stderr}");
}

/// Servers that give what they start an environment of its own. Seen to fail: of all it was said that the library takes effect in them, and
/// Dovecot's and Postfix's connections had no options.
fn servers_with_an_environment_of_their_own() {
    let open = Open::new("servers");
    for (name, found, said) in [
        (
            "dovecot",
            "nothing\n",
            "but its services (imap-login, lmtp, ...) start without it; the supervisor sets its options\n",
        ),
        (
            "postfix",
            "nothing\n",
            "but its services (smtp, smtpd, ...) start without it; the supervisor sets its options\n",
        ),
        (
            "nginx",
            "library\n",
            "; in an upgrade (SIGUSR2) the new one starts without it; --by supervisor covers that too\n",
        ),
        ("sshd", "library\n", "; its sessions start without it; --by supervisor covers that too\n"),
    ] {
        let file = open.0.join(name);
        copy(open.0.join("dynamic"), &file);
        let start = |option: &str| open.start(option, &file);
        let (code, _, stderr) = start("--dry-run");
        assert_eq!((code, stderr.contains(said)), (Some(0), true), "{name}: {stderr}");
        assert_eq!(start("--log=off"), (Some(5), found.to_owned(), String::new()), "{name}");
        // An init script of the same name is not it.
        let script = open.0.join("init.d").join(name);
        fs::create_dir_all(open.0.join("init.d")).expect("a folder of our own");
        fs::write(&script, "#!/bin/sh\nexec env\n").expect("a folder of our own");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("it is ours");
        let (_, _, stderr) = open.start("--dry-run", &script);
        assert!(!stderr.contains("start without it"), "{name}: {stderr}");
        // What asks for the library gets it, and is told.
        let (code, stdout, stderr) = open.run("--log=off", "timeout 9 %", name);
        assert_eq!((code, &*stdout), (Some(5), "library\n"), "{name}: {stderr}");
        assert_eq!(stderr.contains("start without it"), found == "nothing\n", "{name}: {stderr}");
    }
}

/// What a daemon starts for a program is not what the options are for. Seen to fail: nothing was said.
fn daemons_that_start_it() {
    let open = Open::new("daemons");
    for (name, words, note) in [
        (
            "systemctl",
            "restart nginx",
            "note: systemd starts the service, without the library and without the supervisor: ",
        ),
        ("systemctl", "status nginx", ""),
        ("docker", "--debug run image", "note: what runs in the container does not get the options: "),
        ("docker", "pull image", ""),
        ("kubectl", "exec -it pod", "note: what runs in the cluster does not get the options: "),
    ] {
        let file = open.0.join(name);
        copy(open.0.join("dynamic"), &file);
        let mut command = plain(open.0.join("sockopt"));
        command.args(["run", "--nodelay=true"]).arg(&file).args(words.split(' '));
        let (code, stdout, stderr) = outcome(&mut command);
        assert_eq!((code, &*stdout), (Some(5), "library\n"), "{name} {words}: {stderr}");
        assert!(stderr.starts_with(note) && stderr.is_empty() == note.is_empty(), "{name} {words}: {stderr}");
    }
}

/// What is not found from here, and there by the wrapper, is started with the options. Seen to fail: without, and nothing was said, either way.
fn found_by_the_wrapper_alone() {
    let open = Open::new("elsewhere");
    let script = open.0.join("script");
    fs::write(&script, "#!./dynamic\n").expect("a folder of our own");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("it is ours");
    let start = |by: &str| {
        let mut command = plain(open.0.join("sockopt"));
        outcome(command.current_dir("/").args(["run", by, "--nodelay=true", "env", "-C"]).args([&open.0, &script]))
    };
    assert_eq!(start("--by=library"), (Some(5), "library\n".to_owned(), String::new()));
    const IS_FILTERED: &str = "#include <sys/prctl.h>\nint main(void) { return prctl(PR_GET_SECCOMP); }\n";
    build(&open.0, "dynamic", IS_FILTERED, &[]);
    assert_eq!((start("--by=library").0, start("--by=supervisor").0), (Some(0), Some(2)));
}

/// Those of s6, runit and daemontools, and those that put a library of their own beside this one. Seen to fail: of s6-setuidgid and
/// the like it was said that the library takes effect in themselves, whatever they start; chpst was not followed.
fn wrappers_of_supervision() {
    let open = Open::new("supervision");
    fs::create_dir(open.0.join("variables")).expect("a folder of our own");
    open.assert_followed(&[
        "s6-softlimit -o 99 -c0 %",
        "s6-applyuidgid %",
        "s6-envdir -If ./variables %",
        "s6-setsid -b %",
        "s6-setlock -n -t 100 ./lock2 %",
        "s6-fghack %",
        "chpst %",
        "chpst -vP -o 99 -n +1 -e ./variables %",
        "chpst -L ./lock3 timeout 5 %",
        "fakeroot %",
        "faketime -f +1d %",
    ]);
    for line in ["chpst -e ./variables %", "s6-envdir ./variables %"] {
        fs::write(open.0.join("variables/LD_PRELOAD"), "").expect("it is ours");
        let (code, printed, stderr) = open.run("--log=off", line, "dynamic");
        assert_eq!((code, printed.as_str()), (Some(1), ""), "{line}: {stderr}");
        assert!(stderr.contains(" sets LD_PRELOAD to another value: "), "{line}: {stderr}");
        assert_eq!(open.run("--force", line, "dynamic").1, "nothing\n", "{line}");
    }
    if crate::support::is_root() {
        open.assert_followed(&["s6-setuidgid nobody %", "s6-applyuidgid -u 65534 -g 65534 %", "chpst -u nobody %"]);
    }
    for line in ["s6-svscan .", "runsvdir .", "s6-sudo -t 1 ./socket"] {
        let (code, _, stderr) = open.run("--dry-run", line, "dynamic");
        // Not every system has them all.
        assert!(code == Some(127) || stderr.contains("the program that it starts is not judged"), "{line}: {stderr}");
    }
}

/// Connects to itself, and prints what its socket has.
const KEEPALIVE: &str = "import socket\nl = socket.socket()\nl.bind(('127.0.0.1', 0))\nl.listen(5)\ns = socket.socket()\n\
    s.connect(l.getsockname())\nprint(s.getsockopt(1, 9), s.getsockopt(6, 4))\n";

/// Those that put a library of their own in the place of this one: the supervisor is for what they start. Seen to fail: the library was
/// said to take effect behind socksify, trickle, mptcpize and hugectl, and the program got no option.
fn wrappers_with_another_library() {
    let open = Open::new("another-library");
    for (line, name) in [
        ("socksify %", "socksify"),
        ("trickle -s -d 99 -u 99 %", "trickle"),
        ("mptcpize run %", "mptcpize"),
        ("mptcpize run -d %", "mptcpize"),
        ("hugectl %", "hugectl"),
        ("hugectl --heap=2M timeout 5 %", "hugectl"),
        ("hugectl --shm -v %", "hugectl"),
    ] {
        let (code, printed, stderr) = open.run("--log=off", line, "dynamic");
        assert_eq!((code, printed.as_str()), (Some(1), ""), "{line}: {stderr}");
        let why = format!("error: {name} sets LD_PRELOAD to another value: ");
        assert!(stderr.starts_with(&why) && stderr.contains("leave out --by library"), "{line}: {stderr}");
        assert_eq!(open.run("--force", line, "dynamic").1, "nothing\n", "{line}");
    }
    open.assert_followed(&["hugectl --no-preload %"]);
    for words in [&["hugectl"][..], &["trickle", "-s"], &["mptcpize", "run"]] {
        let mut command = run_by_choice();
        let found = outcome(command.arg("--dead-peer-timeout=15s").args(words).args(["python3", "-c", KEEPALIVE]));
        assert_eq!((found.0, found.1.as_str()), (Some(0), "1 5\n"), "{words:?}: {}", found.2);
    }
}

/// As root the supervisor gets through sudo. For another user sudo cannot become root under it, and that is said. Seen to fail: refused
/// with "sudo and doas remove LD_PRELOAD" under the supervisor too; with --force the program was started without it.
fn sudo() {
    for option in ["--log=off", "--by=supervisor"] {
        let mut command = run_by_choice();
        command.args(["--dead-peer-timeout=15s", option, "sudo", "-n", "python3", "-c", KEEPALIVE]);
        let (code, printed, stderr) = outcome(&mut command);
        assert_eq!((code, printed.as_str()), (Some(0), "1 5\n"), "{option}: {stderr}");
    }
    let open = Open::new("sudo");
    let start = |options: &[&str]| {
        let mut command = plain("setpriv");
        command.current_dir("/").args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(open.0.join("sockopt"));
        outcome(command.args(["run", "--nodelay=true"]).args(options).args(["sudo", "-n", "true"]))
    };
    let why = "sudo gains privileges from its file (setuid, setgid or capabilities): under a supervisor without CAP_SYS_ADMIN it would not \
        gain them";
    for (options, begins) in [
        (&[][..], "error: sudo and doas remove LD_PRELOAD; "),
        (&["--by=supervisor"], "error: /"),
        (&["--by=supervisor", "--force"], "error: /"),
    ] {
        let (code, _, stderr) = start(options);
        assert_eq!(code, Some(1), "{options:?}: {stderr}");
        assert!(stderr.starts_with(begins) && stderr.contains(why), "{options:?}: {stderr}");
        // Seen to fail: --force did nothing, and it was not said why.
        let says_why = stderr.contains("\nhelp: leave out --by supervisor, and --force starts it without options; or ");
        assert_eq!(says_why, options.len() == 2, "{options:?}: {stderr}");
    }
}

/// What is not understood is said to be so, and what takes the library away is. Seen to fail: each was taken for a program
/// of its own in which the library takes effect; wrappers that start nothing (`chrt -m`) were said to start something.
fn wrappers_that_are_not_followed() {
    let open = Open::new("not-followed");
    for line in
        ["timeout --unknown 5 %", "nsenter -m -t 1 %", "strace -E A=b %", "su -c %", "/usr/sbin/runuser man -c %"]
    {
        let (code, _, stderr) = open.run("--dry-run", line, "dynamic");
        assert_eq!(code, Some(0), "{line}: {stderr}");
        let said = "is called in a way that sockopt does not know: the program that it starts is not judged\n";
        assert!(stderr.starts_with("note: ") && stderr.ends_with(said), "{line}: {stderr}");
    }
    for (line, why) in [
        ("timeout 5 env -i %", "env clears the environment: "),
        ("setpriv --reset-env %", "setpriv clears the environment: "),
        ("nice env -u LD_PRELOAD %", "env unsets LD_PRELOAD: "),
        ("systemd-run --wait %", "the program is started by systemd, "),
        ("systemd-run --user -p A=b -- %", "the program is started by systemd, "),
        ("systemd-socket-activate -l 127.0.0.1:9 -E A=b --inetd %", "systemd-socket-activate clears the environment: "),
    ] {
        let (code, _, stderr) = open.run("--dry-run", line, "dynamic");
        assert_eq!(code, Some(1), "{line}: {stderr}");
        assert!(stderr.starts_with("error: ") && stderr.contains(why), "{line}: {stderr}");
    }
    for line in ["systemd-run --scope --user -q %", "systemd-inhibit --what=sleep --mode block %"] {
        let (code, _, stderr) = open.run("--dry-run", line, "static");
        assert_eq!((code, stderr.contains("/static is statically linked")), (Some(1), true), "{line}: {stderr}");
    }
    // They start nothing, or what a shell makes of more than a plain command.
    for line in [
        "env",
        "env -0",
        "nice",
        "timeout 5",
        "timeout --help %",
        "xargs",
        "taskset -cp 0 %",
        "ionice -p 1",
        "chrt -m",
        "prlimit --pid 1 --nofile",
        "strace -p 1",
        "sh -c %~|~cat",
        "sh -c cd~/;~%",
        "sh -c A=b~%",
        "sh script",
        "watch ls",
    ] {
        let (code, _, stderr) = open.run("--dry-run", line, "static");
        let is_judged = stderr.contains("takes effect in it") || stderr.contains("are set in it; dynamically linked");
        assert_eq!((code, is_judged), (Some(0), true), "{line}: {stderr}");
    }
}

/// Debuggers and the like, by programs of their names that do nothing. Seen to fail: valgrind, a script in Debian, and the
/// others were taken for the program itself, in which the library takes effect.
fn wrappers_by_name() {
    let open = Open::new("by-name");
    for name in ["valgrind", "eatmydata", "parallel"] {
        script(&open.0, name, "#!/bin/sh\n");
    }
    for name in ["gdb", "ip", "bwrap", "perf", "start-stop-daemon"] {
        copy(Path::new("/bin/true"), open.0.join(name));
    }
    for line in [
        "./valgrind -q --leak-check=full %",
        "./eatmydata %",
        "./gdb -batch -ex run --args % argument",
        "./ip netns exec x %",
        "./ip -4 net e x timeout 5 %",
        "./ip vrf exec x %",
    ] {
        let (code, _, stderr) = open.run("--dry-run", line, "static");
        assert_eq!((code, stderr.contains("/static is statically linked: ")), (Some(1), true), "{line}: {stderr}");
        let (code, _, stderr) = open.run("--dry-run", line, "dynamic");
        let judged = format!("note: {}/dynamic is dynamically linked with glibc", open.0.display());
        assert_eq!((code, stderr.starts_with(&judged)), (Some(0), true), "{line}: {stderr}");
    }
    for line in [
        "./parallel %",
        "./gdb %",
        "./ip -n x netns exec x %",
        "./bwrap --bind / / %",
        "./perf stat %",
        "./start-stop-daemon -Sx %",
    ] {
        let (code, _, stderr) = open.run("--dry-run", line, "dynamic");
        let said = "is called in a way that sockopt does not know: the program that it starts is not judged\n";
        assert_eq!((code, stderr.ends_with(said)), (Some(0), true), "{line}: {stderr}");
    }
    for line in ["./ip link", "./ip"] {
        let (_, _, stderr) = open.run("--dry-run", line, "static");
        assert!(!stderr.contains("not followed"), "{line}: {stderr}");
    }
}

/// What a script starts is not known, but programs among its arguments are seen. Seen to fail: of `./entrypoint ./static` it
/// was said that what it starts has the library.
fn programs_among_the_arguments() {
    let open = Open::new("arguments");
    script(&open.0, "entrypoint", "#!/bin/sh\nexec \"$@\"\n");
    script(&open.0, "wrapper", "#!/bin/sh\nshift; eval \"$*\"\n");
    let said = "note: an argument names a program that the library would not reach: ";
    for line in [
        "./entrypoint %",
        "./entrypoint timeout 5 %",
        "./wrapper -x %",
        "./wrapper --verbose true&&%",
        "sh -c cd~/;~exec~%",
        "sh ./entrypoint %",
        "./entrypoint env PATH=. static",
    ] {
        let (code, printed, stderr) = open.run("--log=warn", line, "static");
        assert_eq!((code, printed.as_str()), (Some(5), "nothing\n"), "{line}: {stderr}");
        assert!(stderr.starts_with(said) && stderr.contains("static is statically linked"), "{line}: {stderr}");
        if line.contains('%') {
            let (code, printed, stderr) = open.run("--log=warn", line, "dynamic");
            assert_eq!((code, &*printed, &*stderr), (Some(5), "library\n", ""), "{line}");
        }
    }
    let (_, printed, stderr) = open.run("--log=warn", "./entrypoint env -i %", "dynamic");
    assert!(printed == "nothing\n" && stderr.contains("not reach: env clears the environment"), "{stderr}");
    // Files that are no programs, folders, and the program itself are none.
    for line in ["sh -c true~/etc/passwd~/", "./entrypoint true ./libsockopt.so /", "cat /dev/null"] {
        let (code, _, stderr) = open.run("--log=warn", line, "static");
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{line}");
    }
}

/// What a shell's text starts is seen too, where it stands there in plain words. Seen to fail: nothing was said; and where a line that is
/// continued began a word of its own.
fn programs_in_a_script() {
    let open = Open::new("script");
    std::fs::create_dir_all(open.0.join("sub")).expect("a folder");
    let run = |text: &str, line: &str, program: &str| {
        script(&open.0, "script", &text.replace('%', program));
        // The name alone is found in the folder too.
        let mut command = plain(open.0.join("sockopt"));
        let path = format!("{}:{}", open.0.display(), crate::support::search_path());
        command.current_dir(&open.0).env("PATH", path).args(["run", "--by=library", "--nodelay=true"]);
        outcome(command.args(line.split(' ').map(|word| word.replace('~', " ").replace('%', program))))
    };
    let named = |who: &str, how: &str| {
        let folder = open.0.display();
        format!(
            "note: {who} names a program that the library would not reach: {how}static is statically linked: there is no loader that could \
             preload a library; --by supervisor covers it too\n"
        )
        .replace("FOLDER", &folder.to_string())
    };
    for (text, how) in [
        ("#!/bin/sh\n./%\n", "./"),
        ("#!/bin/bash -e\n%\n", "FOLDER/"),
        ("#!/usr/bin/env bash\nif true; then exec timeout 9 ./%; fi\n", "./"),
        ("#!/bin/sh\nx=1 \\\n  ./% && true\n", "./"),
        ("./% a\n", "./"),
        ("#!/bin/sh\nx=$(./%); echo $x; exit 5\n", "./"),
        // From where it goes. Seen to fail: nothing was said of the second.
        ("#!/bin/sh\ncd \"$(dirname \"$0\")\" && exec ./%\n", "./"),
        ("#!/bin/sh\ncd sub && exec ../%\n", "sub/../"),
        ("#!/bin/sh\ncd -P sub/.. 2>/dev/null; ./%\n", "sub/../"),
        ("#!/bin/sh\nx=$(cd /tmp && pwd); (cd /; true); ./%\n", "./"),
    ] {
        let (code, printed, stderr) = run(text, "./script", "static");
        assert_eq!((code, &*printed, stderr), (Some(5), "nothing\n", named("./script", how)), "{text}");
        let found = run(text, "./script", "dynamic");
        assert_eq!(found, (Some(5), "library\n".to_owned(), String::new()), "{text}");
    }
    for line in ["sh -e script", "bash -euo pipefail script"] {
        let (_, _, stderr) = run("./%\n", line, "static");
        assert_eq!(stderr, named("script", "./"), "{line}");
    }
    // As much is read as stands in front of it.
    for line in ["sh -c %;true", "bash -o errexit -c true~&&~%", "sh -c A=1~%~#"] {
        let (_, _, stderr) = run("", line, "static");
        assert_eq!(stderr, named("the shell's command line", "FOLDER/"), "{line}");
    }
    for text in [
        "#!/bin/sh\n# ./%\necho ./% x; x=./%\n",
        "#!/bin/sh\ncat >/dev/null <<E\n./%\nE\ncase $1 in %|./%) ;; esac\n",
        "#!/bin/sh\n\"$1\" || sockopt --version >/dev/null; false && $x ./%\n",
        "#!/bin/echo\n./%\n",
    ] {
        let (_, _, stderr) = run(text, "./script true", "static");
        assert_eq!(stderr, "", "{text}");
    }
    // What comes far behind is not read.
    let text = format!("#!/bin/sh\n{}./%\n", "true\n".repeat(20_000));
    assert_eq!(run(&text, "./script", "static"), (Some(5), "nothing\n".to_owned(), String::new()));
}

fn missing_interpreters() {
    let folder = scratch("executables-missing");
    let program = compile(&folder, "program", &["-Wl,--dynamic-linker=/does/not/exist"]);
    for (program, says) in [
        (script(&folder, "absent", "#!/does/not/exist\n"), "its interpreter /does/not/exist does not exist"),
        (script(&folder, "windows", "#!/bin/sh\r\necho\r\n"), "remove the carriage returns"),
        (program, "its loader /does/not/exist does not exist"),
    ] {
        let (code, stdout, stderr) = outcome(run().arg("--nodelay=true").arg(&program));
        assert_eq!((code, stdout.as_str()), (Some(127), ""), "{stderr}");
        assert!(stderr.starts_with("error: ") && stderr.contains(says), "{stderr}");
        assert_eq!(judged(&program), (Some(127), stderr));
    }
    let denied = script(&folder, "denied", &format!("#!{}\n", root().join("README.md").display()));
    let (code, _, stderr) = outcome(run().arg("--nodelay=true").arg(&denied));
    assert_eq!(code, Some(126), "{stderr}");
    assert!(stderr.contains("README.md may not be executed"), "{stderr}");
}

fn python() {
    let program = script(
        &scratch("executables-python"),
        "script",
        "#!/usr/bin/env python3\nimport os, sys\nprint(sys.argv[1:], os.environ['LD_PRELOAD'])\n",
    );
    let (code, stdout, stderr) = outcome(run().arg("--nodelay=true").arg(&program).args(["-x", "a b"]));
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert_eq!(stdout, format!("['-x', 'a b'] {}\n", library().display()));
}

//! What a process is to the configuration: by which names rules know it, and which of its variables count. Options are
//! read back from the kernel.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use libtest_mimic::Trial;

use crate::command::{lines_of_the_library, script, write};
use crate::faults::{Build, built};
use crate::support::{library, plain, preloaded, probe, root, scratch, sockopt, test, test_with, text};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        test("processes::the_first_of_two_variables", the_first_of_two_variables),
        test("processes::the_first_of_two_switches", the_first_of_two_switches),
        test("processes::a_script_has_its_own_name", a_script_has_its_own_name),
        test("processes::a_key_that_is_written_with_an_escape", a_key_that_is_written_with_an_escape),
        test_with(&["namespaces"], "processes::where_there_is_no_proc", where_there_is_no_proc),
        test_with(&["python3", "perl"], "processes::scripts_of_python_and_perl", scripts_of_python_and_perl),
        test("processes::a_program_behind_its_loader", a_program_behind_its_loader),
        test_with(&["musl-gcc"], "processes::a_program_behind_the_loader_of_musl", behind_musl),
        test_with(&["python3"], "processes::show_and_apply_find_a_script", show_and_apply_find_a_script),
    ]
}

/// What a connect to a port where nobody listens leaves as user timeout, by tests/probes/names.c.
const CONNECTS: [&str; 2] = ["do", "connect 127.0.0.1:9"];

/// The user timeout that was found, milliseconds.
fn user_timeout(output: &Output) -> u32 {
    let (stdout, stderr) = text(output);
    let found = stdout.trim().strip_prefix("connect 127.0.0.1:9 = ").and_then(|number| number.parse().ok());
    found.unwrap_or_else(|| panic!("{}: {stdout}{stderr}", output.status))
}

/// A program with this environment and no more, in which names may be there twice.
fn with_environment(environment: &[&str], program: &Path, arguments: &[&str]) -> Output {
    let mut command = plain(probe("twice"));
    command.args(environment).arg("--").arg(program).args(arguments);
    command.output().expect("the probe runs")
}

/// As getenv(3) has it, in the library by each way to read it, and in the command. Seen to fail: with the last one in
/// `load::from_variables`.
fn the_first_of_two_variables() {
    let preload = format!("LD_PRELOAD={}", library().display());
    let rules = |time: &str| format!("SOCKOPT_CONFIG_TOML=[defaults]\nuser_timeout = \"{time}\"\n");
    let folder = scratch("processes-twice");
    let files = ["5s", "6s"].map(|time| {
        let file = write(&folder, &format!("{time}.toml"), format!("[defaults]\nuser_timeout = \"{time}\"\n"));
        format!("SOCKOPT_CONFIG={}", file.display())
    });
    let library_variable = format!("SOCKOPT_LIBRARY={}", library().display());
    for [first, second] in [
        // Noted at load time, and read when the first socket needs it.
        ["SOCKOPT_USER_TIMEOUT=5s".to_owned(), "SOCKOPT_USER_TIMEOUT=6s".to_owned()],
        // Read at load time.
        [rules("5s"), rules("6s")],
        files,
    ] {
        for (pair, expected) in [([&*first, &*second], 5_000), ([&*second, &*first], 6_000)] {
            let output = with_environment(&[&preload, pair[0], pair[1]], &probe("names"), &CONNECTS);
            assert_eq!((user_timeout(&output), text(&output).1.as_str()), (expected, ""), "{pair:?}");
            let program = probe("names");
            let run = ["run", "--", &program.to_string_lossy(), CONNECTS[0], CONNECTS[1]];
            let output = with_environment(&[&library_variable, pair[0], pair[1]], sockopt(), &run);
            assert_eq!(user_timeout(&output), expected, "run: {pair:?}");
            let output = with_environment(&[pair[0], pair[1]], sockopt(), &["explain", "--json", "10.1.2.3:80"]);
            let (stdout, stderr) = text(&output);
            assert!(
                stdout.contains(&format!("\"value\": {expected}\n"))
                    || stdout.contains(&format!("\"value\": {expected},")),
                "{stdout}{stderr}"
            );
        }
    }
}

/// The switches that count before anything is read. Seen to fail: with any SOCKOPT_STRICT=1 in `setup::asked`.
fn the_first_of_two_switches() {
    let preload = format!("LD_PRELOAD={}", library().display());
    let wrong = "SOCKOPT_CONFIG_TOML=[defaults]\nttl = 300\n";
    let names = probe("names");
    let start = |first: &str, second: &str| with_environment(&[&preload, wrong, first, second], &names, &CONNECTS);
    let output = start("SOCKOPT_STRICT=0", "SOCKOPT_STRICT=1");
    assert_eq!(user_timeout(&output), 0);
    assert_eq!(lines_of_the_library(&text(&output).1).len(), 1);
    assert_eq!(start("SOCKOPT_STRICT=1", "SOCKOPT_STRICT=0").status.code(), Some(78));
    let output = start("SOCKOPT_DISABLE=1", "SOCKOPT_DISABLE=0");
    assert_eq!((user_timeout(&output), text(&output).1.as_str()), (0, ""));
    assert_eq!(text(&start("SOCKOPT_DISABLE=0", "SOCKOPT_DISABLE=1")).1.lines().count(), 1);
    assert_eq!(text(&start("SOCKOPT_LOG=off", "SOCKOPT_LOG=debug")).1, "");
    // A fault of ours: who asks for strictness does not want the program without its options either.
    let faulty = format!("LD_PRELOAD={}", built(Build::FaultyDebug).display());
    let fault = "SOCKOPT_TEST_FAULT=exhaust load";
    let with_fault =
        |first: &str, second: &str| with_environment(&[&faulty, wrong, fault, first, second], &names, &CONNECTS);
    let output = with_fault("SOCKOPT_STRICT=0", "SOCKOPT_STRICT=1");
    assert!(user_timeout(&output) == 0 && text(&output).1.contains("no memory"), "{}", text(&output).1);
    assert_eq!(with_fault("SOCKOPT_STRICT=1", "SOCKOPT_STRICT=0").status.code(), Some(78));
    assert_eq!(with_fault("SOCKOPT_STRICT=yes", "SOCKOPT_STRICT=0").status.code(), Some(78));
}

/// A rule for processes of this name.
fn rule_for(name: &str) -> String {
    format!("[[rule]]\nprocess = [\"{name}\"]\nuser_timeout = \"7s\"\n")
}

/// How many rules are for a process, as it says itself.
fn rules_here(command: &mut Command, name: &str) -> String {
    let output = command.env("SOCKOPT_CONFIG_TOML", rule_for(name)).env("SOCKOPT_LOG", "info").output();
    let (_, stderr) = text(&output.expect("it runs"));
    let said = stderr.lines().find_map(|line| line.split_once(": 1 rule, ")).map(|(_, said)| said.to_owned());
    said.unwrap_or_else(|| panic!("{stderr}"))
}

const HERE: &str = "1 for this process";
const NOT_HERE: &str = "0 for this process";

/// A script that the kernel starts by its first line, with an option there and without, and one that its interpreter is
/// given. Seen to fail: with the names of the executable and of the first word alone.
fn a_script_has_its_own_name() {
    let folder = scratch("processes-script");
    let connects = "exec 3<>/dev/tcp/127.0.0.1/9";
    for (first_line, interpreter) in
        [("#!/bin/bash", "bash"), ("#!/bin/bash -e", "bash"), ("#!/usr/bin/env bash", "bash")]
    {
        let file = script(&folder, "my-service", &format!("{first_line}\n{connects}\n"));
        assert_eq!(rules_here(&mut preloaded(&file), "my-service"), HERE, "{first_line}");
        assert_eq!(rules_here(&mut preloaded(&file), interpreter), HERE, "{first_line}");
        assert_eq!(rules_here(&mut preloaded(&file), "my-servic"), NOT_HERE, "{first_line}");
        let given = |words: &[&str]| {
            let mut command = preloaded("bash");
            command.args(words).arg(&file);
            command
        };
        assert_eq!(rules_here(&mut given(&["-o", "pipefail", "--"]), "my-service"), HERE);
        // What is run is the text; the file is its argument.
        assert_eq!(rules_here(&mut given(&["-ec", connects]), "my-service"), NOT_HERE);
        let mut run = plain(sockopt());
        run.env("SOCKOPT_LIBRARY", library()).args(["run", "--"]).arg(&file);
        assert_eq!(rules_here(&mut run, "my-service"), HERE);
    }
}

/// Seen to fail where the text was searched for the key as it is read: the rule was for no process at all.
fn a_key_that_is_written_with_an_escape() {
    let toml = "[[rule]]\n\"pr\\u006fcess\" = [\"names\"]\nuser_timeout = \"7s\"\n";
    let output = preloaded(probe("names")).args(CONNECTS).env("SOCKOPT_CONFIG_TOML", toml).output();
    assert_eq!(user_timeout(&output.expect("it runs")), 7_000);
}

/// A root that has no /proc, such as a small chroot: a process is known as it was started. Seen to fail: it had no name and no
/// command line, and nothing was said of that.
fn where_there_is_no_proc() {
    let folder = scratch("processes-without-proc");
    let file = script(&folder, "my-service", "#!/bin/bash -e\nexec 3<>/dev/tcp/127.0.0.1/9\n");
    let without = |program: &Path| {
        let mut command = plain("unshare");
        command.args(["-Urm", "sh", "-c", "mount -t tmpfs none /proc && exec env LD_PRELOAD=\"$0\" \"$@\""]);
        command.arg(library()).arg(program);
        command
    };
    for (name, rules) in [("my-service", HERE), ("bash", HERE), ("another", NOT_HERE)] {
        assert_eq!(rules_here(&mut without(&file), name), rules, "{name}");
    }
    for (command, expected) in [("*names do connect*", 7_000), ("*names do bind*", 0)] {
        let toml = format!("[[rule]]\ncommand = [\"{command}\"]\nuser_timeout = \"7s\"\n");
        let output = without(&probe("names")).args(CONNECTS).env("SOCKOPT_CONFIG_TOML", toml).output();
        assert_eq!(user_timeout(&output.expect("it runs")), expected, "{command}");
    }
}

const PYTHON: &str = "#!/usr/bin/python3 -u
import socket
s = socket.socket()
s.connect_ex(('127.0.0.1', 9))
print('connect 127.0.0.1:9 =', s.getsockopt(6, 18))
";
const PERL: &str = "#!/usr/bin/perl -w
use Socket;
socket(my $s, PF_INET, SOCK_STREAM, 0);
connect($s, pack_sockaddr_in(9, inet_aton('127.0.0.1')));
print 'connect 127.0.0.1:9 = ', unpack('i', getsockopt($s, 6, 18)), \"\\n\";
";

/// The option itself.
fn scripts_of_python_and_perl() {
    let folder = scratch("processes-scripts");
    for (name, content) in [("gunicorn", PYTHON), ("probe.pl", PERL)] {
        let file = script(&folder, name, content);
        let started = |process: &str| {
            let output = preloaded(&file).env("SOCKOPT_CONFIG_TOML", rule_for(process)).output().expect("it runs");
            user_timeout(&output)
        };
        assert_eq!([started(name), started("another")], [7_000, 0], "{name}");
    }
    write(&folder, "module.py", PYTHON);
    let mut command = preloaded("python3");
    command.args(["-um", "module"]).current_dir(&folder).env("SOCKOPT_CONFIG_TOML", rule_for("module"));
    assert_eq!(user_timeout(&command.output().expect("it runs")), 7_000);
}

/// The loader of a program, from its own headers.
fn loader_of(program: &Path) -> PathBuf {
    let bytes = fs::read(program).expect("a program");
    let start = bytes.windows(4).position(|window| window == b"/lib").expect("a loader's path");
    let path: Vec<u8> = bytes[start..].iter().copied().take_while(|byte| *byte != 0).collect();
    PathBuf::from(OsString::from_vec(path))
}

fn behind_its_loader(program: &Path) {
    let loader = loader_of(program);
    let started = |process: &str| {
        let mut command = preloaded(&loader);
        command.arg(program).args(CONNECTS).env("SOCKOPT_CONFIG_TOML", rule_for(process));
        user_timeout(&command.output().expect("it runs"))
    };
    assert_eq!([started("names"), started("ld-*")], [7_000, 0], "{}", loader.display());
}

/// Its executable is the loader. Seen to fail: with that for its name.
fn a_program_behind_its_loader() {
    behind_its_loader(&probe("names"));
}

fn behind_musl() {
    let program = scratch("processes-musl").join("names");
    let mut compiler = Command::new("musl-gcc");
    compiler.args(["-O1", "-pthread", "-o"]).arg(&program).arg(root().join("tests/probes/names.c"));
    let output = compiler.output().expect("the compiler runs");
    assert!(output.status.success(), "{}", text(&output).1);
    behind_its_loader(&program);
}

/// By the same function, which reads another process's proc(5).
fn show_and_apply_find_a_script() {
    let file = script(
        &scratch("processes-show"),
        "my-long-named-service",
        "#!/usr/bin/python3\nimport socket, sys\nl = socket.create_server(('127.0.0.1', 0))\n\
         s = socket.create_connection(l.getsockname())\nprint('ready', flush=True)\nsys.stdin.read()\n",
    );
    let mut program = plain(&file).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut line = String::new();
    let _ = BufReader::new(program.stdout.take().expect("a pipe")).read_line(&mut line);
    let run = |words: &[&str]| {
        let output = plain(sockopt()).args(words).output().expect("sockopt runs");
        (output.status.code(), text(&output))
    };
    let shown = run(&["show", "my-long-named-*"]);
    let rule = write(&scratch("processes-show-rule"), "rule.toml", rule_for("my-long-named-service"));
    let applied = run(&["apply", "--dry-run", "--config", &rule.to_string_lossy(), &program.id().to_string()]);
    // A connection may be another rule's by a name that is not known any more. Seen to fail: the second rule's value, and nothing said.
    let by_name = "[[rule]]\nname = \"db\"\nto = [\"localhost\"]\nttl = 9\n[[rule]]\nto = [\"127.0.0.0/8\"]\nttl = 8\n";
    let rule = write(&scratch("processes-show-name"), "rule.toml", by_name);
    let left = run(&["apply", "--dry-run", "--config", &rule.to_string_lossy(), &program.id().to_string()]);
    let nowhere = run(&["apply", "--dry-run", "--to=localhost", "--ttl=8", &program.id().to_string()]);
    let ended = program.kill().and_then(|()| program.wait());
    assert_eq!(line, "ready\n");
    assert!(ended.is_ok());
    assert!(shown.0 == Some(0) && shown.1.0.contains("127.0.0.1"), "{shown:?}");
    assert!(applied.0 == Some(0) && applied.1.0.contains("7"), "{applied:?}");
    let reason =
        "left alone, as rule \"db\" names a host, and by which name a program has connected is not known: 1 socket";
    assert!(left.1.0.contains(reason) && left.1.0.ends_with("0 sockets would change\n"), "{left:?}");
    assert!(nowhere.1.1.contains("warning: --to names a host"), "{nowhere:?}");
}

//! The command, and what the library says and does about its configuration in a program: exit codes, messages, files.

use std::collections::HashMap;
use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use policy::CATALOG;
use policy::catalog::Accepts;

use crate::support::{library, plain, preloaded, root, scratch, sockopt, test, test_with, text};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        test("command::check::shows_five_errors_with_carets", check_shows_five_errors_with_carets),
        test("command::check::says_that_a_file_is_fine", check_says_that_a_file_is_fine),
        test_with(&["script"], "command::check::breaks_lines_between_words", check_breaks_lines_between_words),
        test("command::stdout_that_takes_nothing", stdout_that_takes_nothing),
        test("command::check::files_that_cannot_be_taken", check_files_that_cannot_be_taken),
        test("command::check::the_null_device", check_the_null_device),
        test_with(&["mkfifo"], "command::check::does_not_wait_for_a_fifo", check_does_not_wait_for_a_fifo),
        test_with(&["strace"], "command::check::file_that_changes_meanwhile", check_file_that_changes_meanwhile),
        test("command::check::what_a_program_would_get", check_what_a_program_would_get),
        test("command::check::paths_need_not_be_utf8", check_paths_need_not_be_utf8),
        test("command::check::reports_every_failure", check_reports_every_failure),
        test("command::check::warns_of_unknown_variables", check_warns_of_unknown_variables),
        test("command::usage", usage),
        test("command::run::refuses_unknown_options", run_refuses_unknown_options),
        test("command::run::refuses_a_broken_configuration", run_refuses_a_broken_configuration),
        test("command::run::sets_the_variables", run_sets_the_variables),
        test("command::run::has_an_option_for_every_variable", run_has_an_option_for_every_variable),
        test("command::run::options_over_the_environment", run_options_over_the_environment),
        test("command::run::errors_name_the_option", run_errors_name_the_option),
        test("command::run::warnings_are_said_once", run_warnings_are_said_once),
        test("command::run::is_off_where_the_library_is", run_is_off_where_the_library_is),
        test("command::run::dry", run_dry),
        test("command::run::takes_the_library_named", run_takes_the_library_named),
        test_with(&["env", "grep"], "command::run::signals_go_over_as_they_are", run_signals_go_over_as_they_are),
        test("command::run::makes_paths_absolute", run_makes_paths_absolute),
        test("command::run::passes_arguments_untouched", run_passes_arguments_untouched),
        test("command::run::becomes_the_program", run_becomes_the_program),
        test("command::run::exit_codes", run_exit_codes),
        test_with(&["cc"], "command::run::keeps_what_is_preloaded", run_keeps_what_is_preloaded),
        test("command::run::finds_the_library_beside_itself", run_finds_the_library_beside_itself),
        test("command::run::takes_the_library_for_this_machine", run_takes_the_library_for_this_machine),
        test("command::run::never_looks_in_the_current_directory", run_never_looks_in_the_current_directory),
        test("command::run::refuses_a_library_that_cannot_be_named", run_refuses_a_library_that_cannot_be_named),
        test("command::run::is_forced_without_the_library", run_is_forced_without_the_library),
        test("command::run::says_that_nothing_is_configured", run_says_that_nothing_is_configured),
        test_with(&["bash"], "command::run::the_library_works_in_the_program", run_the_library_works_in_the_program),
    ];
    let without_file: [(&str, fn()); 3] = [
        ("command::check::nothing_configured", check_nothing_configured),
        ("command::run::nothing_configured", run_nothing_configured),
        ("command::run::an_empty_variable_configures_nothing", run_an_empty_variable_configures_nothing),
    ];
    trials.extend(without_file.map(|(name, run)| {
        let is_there = Path::new(load::DEFAULT_FILE).exists();
        test(name, run).with_ignored_flag(is_there).with_kind(if is_there {
            "needs no system configuration"
        } else {
            ""
        })
    }));
    let with_bash: [(&str, fn()); 14] = [
        ("broken_configuration_is_reported_and_harmless", broken_configuration_is_reported_and_harmless),
        ("many_errors_are_bounded", many_errors_are_bounded),
        ("a_long_line_is_cut", a_long_line_is_cut),
        ("strict_ends_before_main", strict_ends_before_main),
        ("relative_configuration_path", relative_configuration_path),
        ("log_file", log_file),
        ("log_file_is_an_unread_fifo", log_file_is_an_unread_fifo),
        ("log_file_is_no_symbolic_link", log_file_is_no_symbolic_link),
        ("log_off", log_off),
        ("log_info_is_one_line", log_info_is_one_line),
        ("log_level_misspelt", log_level_misspelt),
        ("disabled", disabled),
        ("stderr_that_is_a_socket", stderr_that_is_a_socket),
        ("without_a_socket_nothing_is_said", without_a_socket_nothing_is_said),
    ];
    trials.extend(with_bash.map(|(name, run)| test_with(&["bash"], format!("library::{name}"), run)));
    trials
}

// What the tests below share.

/// Runs a command to its end, but not for ever.
pub(crate) fn finish(command: &mut Command) -> Output {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let end = Instant::now() + Duration::from_secs(60);
    while child.try_wait().expect("a child of ours").is_none() {
        if Instant::now() > end {
            let _ = child.kill();
            panic!("{command:?} does not end");
        }
        thread::sleep(Duration::from_millis(2));
    }
    child.wait_with_output().expect("a child of ours")
}

/// Exit code, stdout, stderr.
pub(crate) fn outcome(command: &mut Command) -> (Option<i32>, String, String) {
    let output = finish(command);
    let (stdout, stderr) = text(&output);
    (output.status.code(), stdout, stderr)
}

/// `sockopt run`, with the library that was just built.
pub(crate) fn run() -> Command {
    let mut command = plain(sockopt());
    command.env("SOCKOPT_LIBRARY", library()).arg("run");
    command
}

/// The same where the library alone is to be judged.
pub(crate) fn run_by_library() -> Command {
    let mut command = run();
    command.arg("--by=library");
    command
}

fn five_errors() -> PathBuf {
    root().join("tests/fixtures/errors/five_errors.toml")
}

pub(crate) fn write(folder: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, content).expect("a file in a scratch folder");
    path
}

/// A file that can be started. install(1) writes it: were it open for writing here, another test's child could inherit
/// that at its fork, and starting the file would fail with ETXTBSY.
pub(crate) fn install(mode: &str, content: &Path, to: &Path) {
    let (code, _, stderr) = outcome(Command::new("install").args(["-D", "-m", mode]).arg(content).arg(to));
    assert_eq!(code, Some(0), "{stderr}");
}

pub(crate) fn script(folder: &Path, name: &str, content: &str) -> PathBuf {
    let path = folder.join(name);
    install("755", &write(folder, &format!("{name}.text"), content), &path);
    path
}

pub(crate) fn copy(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    install("755", from.as_ref(), to.as_ref());
}

/// Compiles a program that says `built` and ends with 3, and that would connect if it were told to.
pub(crate) fn compile(folder: &Path, name: &str, options: &[&str]) -> PathBuf {
    let source = write(
        folder,
        "program.c",
        "#include <stdio.h>\n#include <sys/socket.h>\nint main(int count, char **words) { if (count > 99) connect(count, 0, 0); puts(\"built\"); return 3; }\n",
    );
    let program = folder.join(name);
    let (code, _, stderr) = outcome(Command::new("cc").args(options).arg("-o").arg(&program).arg(&source));
    assert_eq!(code, Some(0), "{stderr}");
    program
}

/// The variables that `env` printed.
pub(crate) fn variables(stdout: &str) -> HashMap<&str, &str> {
    stdout.lines().filter_map(|line| line.split_once('=')).collect()
}

/// Every line begins with `sockopt[PID]: `, which is taken off.
pub(crate) fn lines_of_the_library(stderr: &str) -> Vec<&str> {
    let behind = |line| {
        let rest: Option<&str> = str::strip_prefix(line, "sockopt[");
        let (pid, said) = rest.and_then(|rest| rest.split_once("]: ")).unwrap_or_else(|| panic!("not ours: {line}"));
        assert!(pid.parse::<u32>().is_ok(), "{line}");
        said
    };
    stderr.lines().map(behind).collect()
}

/// A server on 127.0.0.1 that greets whoever connects; its port.
pub(crate) fn greeter() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port of 127.0.0.1");
    let port = listener.local_addr().expect("it is bound").port();
    thread::spawn(move || {
        for client in listener.incoming() {
            let _ = client.and_then(|mut client| client.write_all(b"hello\n"));
        }
    });
    port
}

/// A program that connects once, says what it was greeted with, and ends with 7.
pub(crate) fn client(mut bash: Command) -> Command {
    let program = format!("exec 3<>/dev/tcp/127.0.0.1/{} && read -r line <&3 && echo \"$line\"; exit 7", greeter());
    bash.args(["-c", &program]);
    bash
}

/// What [`client`] does, whatever the library thinks of its configuration.
fn assert_worked((code, stdout, stderr): &(Option<i32>, String, String)) {
    assert_eq!((*code, stdout.as_str()), (Some(7), "hello\n"), "{stderr}");
}

// sockopt check

fn check(arguments: &[&OsStr]) -> (Option<i32>, String, String) {
    outcome(plain(sockopt()).arg("check").args(arguments))
}

fn check_shows_five_errors_with_carets() {
    let file = five_errors();
    let (code, stdout, stderr) = check(&[file.as_os_str()]);
    assert_eq!((code, stdout.as_str()), (Some(78), ""), "{stderr}");
    assert!(stderr.ends_with("error: 5 errors in the configuration\n"), "{stderr}");
    let places = ["2:22", "2:26", "3:1", "6:6", "7:15"];
    let marked = ["time = 60,", "intervall = ", "user_timeot = ", "to = \"10.0.0.1/8\"", "syn_retries = 200"];
    let carets = ["^^", "^^^^^^^^^", "^^^^^^^^^^^", "^^^^^^^^^^^^", "^^^"];
    let excerpts: Vec<&str> = stderr.split("\nerror").collect();
    for (index, place) in places.iter().enumerate() {
        let excerpt = excerpts.get(index).copied().unwrap_or_default();
        assert!(excerpt.contains(&format!("--> {}:{place}\n", file.display())), "{place}: {excerpt}");
        assert!(excerpt.contains(marked[index]), "{excerpt}");
        let line = excerpt.lines().find(|line| line.contains('^')).unwrap_or_default();
        assert_eq!(line.trim_start_matches([' ', '|']).trim_end(), carets[index], "{excerpt}");
        assert!(excerpt.contains("help: "), "{excerpt}");
    }
    assert!(!stderr.contains('\u{1b}'), "colours in a pipe: {stderr}");
}

/// Seen to fail: messages that the terminal broke within a word.
fn check_breaks_lines_between_words() {
    let folder = scratch("check-terminal");
    let text = "[[rule]]\nto = \":80\"\ndead_peer_timeout = \"15s\"\nsend_buffer = \"4MiB\"\n";
    write(&folder, "long.toml", text);
    for columns in [80, 220] {
        let command = format!("stty cols {columns} rows 50; {} check long.toml", sockopt().display());
        let (code, shown, stderr) =
            outcome(plain("script").current_dir(&folder).env("NO_COLOR", "1").args(["-qec", &command, "/dev/null"]));
        assert_eq!(code, Some(0), "{shown}{stderr}");
        let too_long: Vec<&str> = shown.lines().filter(|line| line.trim_end().chars().count() > columns).collect();
        assert!(too_long.is_empty(), "more than {columns} columns: {too_long:#?}");
        let one_line = shown.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(one_line.contains("on what looks like bulk transfer (send_buffer): a living reader"), "{shown}");
        let first = shown.lines().find(|line| line.starts_with("advice[")).unwrap_or_default().trim_end();
        assert_eq!(first.ends_with(" s"), columns == 220, "{shown}");
    }
}

/// A report that is lost is no success; one that nobody wants any more is.
/// Seen to fail: with every failed write ignored.
fn stdout_that_takes_nothing() {
    let file = root().join("config/sockopt.toml");
    let file = file.to_string_lossy();
    let dry = ["run", "--dry-run", "--ttl=9", "true"];
    for arguments in
        [&["check", &file][..], &["check", "--json", &file], &["explain", "192.0.2.1"], &["show", "self"], &dry]
    {
        let own = std::process::id().to_string();
        let arguments = arguments.iter().map(|word| if *word == "self" { &own } else { *word });
        let shell = "exec \"$0\" \"$@\" > /dev/full";
        let mut command = plain("sh");
        command.env("SOCKOPT_LIBRARY", library()).args(["-c", shell]).arg(sockopt()).args(arguments.clone());
        let (code, _, stderr) = outcome(&mut command);
        assert_eq!(code, Some(1), "{command:?}: {stderr}");
        assert_eq!(stderr.matches("error: stdout cannot be written: ").count(), 1, "{stderr}");
        let shell = "{ \"$0\" \"$@\"; echo $? >&2; } | true";
        let mut command = plain("sh");
        command.env("SOCKOPT_LIBRARY", library()).args(["-c", shell]).arg(sockopt()).args(arguments);
        let (_, _, stderr) = outcome(&mut command);
        assert!(stderr.ends_with("0\n") && !stderr.contains("error:"), "{command:?}: {stderr}");
    }
}

/// Seen to fail: with [defaults] named where the file has none.
fn check_says_that_a_file_is_fine() {
    let folder = scratch("check fine");
    let several = write(&folder, "a file.toml", "[[rule]]\nto = \":1\"\nnodelay = true\n\n[[rule]]\nnodelay = true\n");
    let line = format!("{}: no errors, 2 rules\n", several.display());
    assert_eq!(check(&[several.as_os_str()]), (Some(0), line, String::new()));
    let one = write(&folder, "one.toml", "[[rule]]\nnodelay = true\n");
    assert_eq!(check(&[one.as_os_str()]), (Some(0), format!("{}: no errors, 1 rule\n", one.display()), String::new()));
    // A path from the current directory is taken as every command takes it.
    let relative = outcome(plain(sockopt()).current_dir(&folder).args(["check", "one.toml"]));
    assert_eq!(relative, (Some(0), "one.toml: no errors, 1 rule\n".into(), String::new()));
    let nothing = write(&folder, "empty.toml", "");
    let line = format!("{}: no errors, nothing is set\n", nothing.display());
    assert_eq!(check(&[nothing.as_os_str()]), (Some(0), line, String::new()));
    let both = write(&folder, "both.toml", "[defaults]\nttl = 9\n[[rule]]\nnodelay = true\n");
    let line = format!("{}: no errors, [defaults] and 1 rule, options from the environment\n", both.display());
    let mut command = plain(sockopt());
    command.env("SOCKOPT_CONFIG", &both).env("SOCKOPT_TTL", "7").arg("check");
    assert_eq!(outcome(&mut command), (Some(0), line, String::new()));
}

fn refused(file: &Path, why: &str) {
    let (code, stdout, stderr) = check(&[file.as_os_str()]);
    assert_eq!((code, stdout.as_str()), (Some(78), ""), "{stderr}");
    assert_eq!(stderr, format!("error: {} {why}\nerror: 1 error in the configuration\n", file.display()));
}

fn check_files_that_cannot_be_taken() {
    let folder = scratch("check-refused");
    let missing = "cannot be read: No such file or directory (os error 2)\nhelp: the manual page sockopt.toml(5) shows how to write one; \
                   without a file, give options such as --dead-peer-timeout 15s";
    refused(&folder.join("missing.toml"), missing);
    refused(&folder, "is not a regular file");
    refused(Path::new("/dev/zero"), "is not a regular file");
    let large = folder.join("large.toml");
    File::create(&large).and_then(|file| file.set_len((16 << 20) + 1)).expect("a sparse file");
    refused(&large, "is larger than 16 MiB");
    refused(&write(&folder, "latin1.toml", b"name = \"\xe4\"\n"), "is not UTF-8 at byte 8");
    let below = write(&folder, "file", "").join("x");
    refused(&below, "cannot be read: Not a directory (os error 20)");
    symlink("loop", folder.join("loop")).expect("a link");
    refused(&folder.join("loop"), "cannot be read: Too many levels of symbolic links (os error 40)");
}

/// /dev/null, and a link to it, mask a configuration, as they mask units of systemd: nothing is set, and that is no error. Seen to
/// fail where each is no regular file.
fn check_the_null_device() {
    let folder = scratch("check-null");
    let empty = write(&folder, "empty.toml", "");
    let masked = folder.join("masked.toml");
    symlink("/dev/null", &masked).expect("a link");
    let of = |file: &Path| {
        let (code, stdout, stderr) = check(&[file.as_os_str()]);
        (code, stdout.replace(&file.display().to_string(), "FILE"), stderr.replace(&file.display().to_string(), "FILE"))
    };
    let expected = of(&empty);
    assert_eq!(expected.0, Some(0), "{expected:?}");
    assert_eq!(of(Path::new("/dev/null")), expected);
    assert_eq!(of(&masked), expected);
    // What is given besides counts on.
    let printed = |variables: &[(&str, &str)]| {
        let mut command = run();
        command.args(["--dry-run", "--", "true"]).envs(variables.iter().copied());
        let (code, stdout, stderr) = outcome(&mut command);
        assert_eq!(code, Some(0), "{stdout}{stderr}");
        stdout + &stderr
    };
    let is_built_in = |printed: &str| printed.contains("60s");
    let plainly = printed(&[]);
    assert!(is_built_in(&plainly), "{plainly}");
    let masked = printed(&[("SOCKOPT_CONFIG", "/dev/null")]);
    assert!(!is_built_in(&masked), "{masked}");
}

/// A file that is written to between the two looks at it. The reading is held up meanwhile. Seen to fail without the
/// comparison of the stamps in load::read_text: the half that was there is taken.
fn check_file_that_changes_meanwhile() {
    let folder = scratch("check-changing");
    for grows in [true, false] {
        let file = write(&folder, "changing.toml", "[defaults]\nnodelay = true\n");
        let mut command = plain("strace");
        command.args(["-qq", "-o", "/dev/null", "-e", "trace=read", "-e", "inject=read:delay_enter=400000", "-P"]);
        command.arg(&file).arg(sockopt()).arg("check").arg(&file).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("strace runs");
        let mut content = String::from("[defaults]\nnodelay = true\n");
        while child.try_wait().expect("it is ours").is_none() {
            // Written in place, as careless editors do; the same length changes the time alone.
            if grows {
                content.push('#');
            }
            File::options().write(true).open(&file).and_then(|mut f| f.write_all(content.as_bytes())).expect("a file");
            thread::sleep(Duration::from_millis(20));
        }
        let (_, stderr) = text(&child.wait_with_output().expect("its output"));
        assert!(stderr.contains("changed while it was read"), "grows: {grows}: {stderr}");
    }
}

fn check_does_not_wait_for_a_fifo() {
    let fifo = scratch("check-fifo").join("fifo.toml");
    assert_eq!(outcome(Command::new("mkfifo").arg(&fifo)).0, Some(0));
    refused(&fifo, "is not a regular file");
    // Seen to fail: " cannot be read: No such file or directory", of a file without a name.
    assert!(check(&[OsStr::new("")]).2.starts_with("error: the name of the file is empty\n"));
}

fn check_nothing_configured() {
    let (code, stdout, stderr) = check(&[]);
    assert_eq!((code, stdout.as_str()), (Some(0), ""), "{stderr}");
    assert!(stderr.starts_with("note: no configuration: ") && stderr.lines().count() == 1, "{stderr}");
    // These alone set nothing.
    let controls = outcome(plain(sockopt()).arg("check").envs([("SOCKOPT_LOG", "debug"), ("SOCKOPT_STRICT", "1")]));
    assert!(controls.2.starts_with("note: no configuration: "), "{}", controls.2);
}

fn check_what_a_program_would_get() {
    let file = write(&scratch("check-environment"), "sockopt.toml", "[defaults]\nnodelay = true\n");
    let checked = |variables: &[(&str, &OsStr)]| outcome(plain(sockopt()).arg("check").envs(variables.iter().copied()));
    let broken = OsStr::new("[defaults]\nnodelay = 1\n");
    let fine = (Some(0), format!("{}: no errors, [defaults]\n", file.display()), String::new());
    assert_eq!(checked(&[("SOCKOPT_CONFIG", file.as_os_str())]), fine);
    // The file comes before the inline configuration.
    assert_eq!(checked(&[("SOCKOPT_CONFIG", file.as_os_str()), ("SOCKOPT_CONFIG_TOML", broken)]), fine);
    let (code, _, stderr) = checked(&[("SOCKOPT_CONFIG_TOML", broken)]);
    assert_eq!(code, Some(78), "{stderr}");
    assert!(stderr.contains("--> SOCKOPT_CONFIG_TOML:2:11\n"), "{stderr}");
    let (code, _, stderr) = checked(&[("SOCKOPT_CONFIG", OsStr::new("sockopt.toml"))]);
    let line = "error: SOCKOPT_CONFIG: \"sockopt.toml\" is not an absolute path\nerror: 1 error in the configuration\n";
    assert_eq!((code, stderr.as_str()), (Some(78), line));
    let (code, _, stderr) = checked(&[("SOCKOPT_KEEPALIVE", OsStr::new("60s,20,4"))]);
    assert_eq!(code, Some(78), "{stderr}");
    assert!(stderr.contains("--> SOCKOPT_KEEPALIVE:1:5\n") && stderr.contains("60s,20,4\n  |     ^^\n"), "{stderr}");
    let (code, stdout, stderr) = checked(&[("SOCKOPT_NODELAY", OsStr::new("1"))]);
    assert_eq!(
        (code, stdout.as_str(), stderr.as_str()),
        (Some(0), "environment: no errors, options from the environment\n", "")
    );
    let (code, _, stderr) = checked(&[("SOCKOPT_DISABLE", OsStr::new("1")), ("SOCKOPT_CONFIG_TOML", broken)]);
    assert_eq!((code, stderr.as_str()), (Some(0), "note: SOCKOPT_DISABLE is set: the library does nothing\n"));
}

fn check_paths_need_not_be_utf8() {
    let file = scratch("check-path").join(OsStr::from_bytes(b"\xff.toml"));
    fs::write(&file, "[defaults]\nnodelay = true\n").expect("a file in a scratch folder");
    assert_eq!(check(&[file.as_os_str()]).0, Some(0));
    let (code, _, stderr) = outcome(plain(sockopt()).arg("check").env("SOCKOPT_CONFIG", &file));
    assert_eq!(code, Some(0), "{stderr}");
}

fn check_reports_every_failure() {
    let variables =
        [("SOCKOPT_CONFIG", "/does/not/exist.toml"), ("SOCKOPT_LOG_FILE", "relative.log"), ("SOCKOPT_TTL", "0")];
    let (code, _, stderr) = outcome(plain(sockopt()).arg("check").envs(variables));
    assert_eq!(code, Some(78), "{stderr}");
    for part in [
        "/does/not/exist.toml cannot be read: No such file or directory",
        "SOCKOPT_LOG_FILE: \"relative.log\" is not an absolute path",
        "ttl = 0",
    ] {
        assert!(stderr.contains(part), "{part} is missing in\n{stderr}");
    }
    assert!(stderr.ends_with("error: 3 errors in the configuration\n"), "{stderr}");
}

fn check_warns_of_unknown_variables() {
    let variables = [("SOCKOPT_NODELAY", "1"), ("SOCKOPT_LINGR", "reset"), ("SOCKOPT_LOG", "wran")];
    let (code, stdout, stderr) = outcome(plain(sockopt()).arg("check").envs(variables));
    assert_eq!(
        (code, stdout.as_str()),
        (Some(0), "environment: no errors, options from the environment\n"),
        "{stderr}"
    );
    assert_eq!(stderr.lines().filter(|line| line.starts_with("warning[")).count(), 2, "{stderr}");
    assert!(
        stderr.contains("did you mean \"SOCKOPT_LINGER\"?") && stderr.contains("did you mean \"warn\"?"),
        "{stderr}"
    );
}

fn usage() {
    let exit = |arguments: &[&str]| outcome(plain(sockopt()).args(arguments));
    for wrong in [&[][..], &["unknown"], &["run"], &["run", "--"], &["check", "a", "b"], &["check", "--unknown"]] {
        let (code, stdout, stderr) = exit(wrong);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{wrong:?}: {stderr}");
        assert!(!stderr.is_empty(), "{wrong:?}");
    }
    let (code, stdout, _) = exit(&["--help"]);
    assert_eq!(code, Some(0));
    for code in ["0 ", "1 ", "2 ", "78 ", "126 ", "127 "] {
        assert!(stdout.lines().any(|line| line.trim_start().starts_with(code)), "no exit status {code}in\n{stdout}");
    }
    assert_eq!(exit(&["--version"]).1, format!("sockopt {}\n", env!("CARGO_PKG_VERSION")));
}

// sockopt run

fn run_refuses_unknown_options() {
    for (given, hint) in [("--dead-peer-timout=15s", "--dead-peer-timeout"), ("--unknown", "")] {
        let (code, stdout, stderr) = outcome(run().args([given, "echo", "started"]));
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{given}: {stderr}");
        assert!(stderr.contains("unexpected argument") && stderr.contains(hint), "{given}: {stderr}");
        assert!(stderr.contains("\n  help: to pass") && !stderr.contains("tip:"), "another voice: {stderr}");
    }
}

fn run_refuses_a_broken_configuration() {
    let marker = scratch("run-broken").join("started");
    let (code, stdout, stderr) = outcome(run().arg("--config").arg(five_errors()).arg("touch").arg(&marker));
    assert_eq!((code, stdout.as_str()), (Some(78), ""), "{stderr}");
    assert!(!marker.exists(), "the program was started");
    assert_eq!(stderr.matches("--> ").count(), 5, "{stderr}");
    assert!(stderr.contains("^^^^^^^^^^^"), "{stderr}");
    // The same by variables, and by an option of its own.
    let (code, _, stderr) = outcome(run().env("SOCKOPT_CONFIG", "/does/not/exist").arg("touch").arg(&marker));
    assert_eq!((code, marker.exists()), (Some(78), false), "{stderr}");
    let (code, _, stderr) = outcome(run().args(["--keepalive", "60,20s,4", "touch"]).arg(&marker));
    assert_eq!((code, marker.exists()), (Some(78), false), "{stderr}");
    // What was given as an option is called by it.
    assert!(stderr.contains("--> --keepalive:1:1\n"), "{stderr}");
    // Even for a program that does not exist.
    assert_eq!(outcome(run().args(["--dead-peer-timeout", "15", "/does/not/exist"])).0, Some(78));
}

fn run_sets_the_variables() {
    let (code, stdout, stderr) =
        outcome(run().args(["--dead-peer-timeout", "15s", "--to", ":443", "--to", "10.0.0.0/8", "--", "env"]));
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let found = variables(&stdout);
    assert_eq!(found.get("SOCKOPT_TO"), Some(&":443,10.0.0.0/8"));
    assert_eq!(found.get("SOCKOPT_DEAD_PEER_TIMEOUT"), Some(&"15s"));
    assert_eq!(found.get("LD_PRELOAD").copied().map(PathBuf::from), Some(library()));
    let more = ["--nodelay=true", "--process", "java", "--process=python*", "--log=debug", "--strict"];
    let (_, stdout, stderr) = outcome(run().args(more).arg("env"));
    let found = variables(&stdout);
    assert_eq!(found.get("SOCKOPT_PROCESS"), Some(&"java,python*"), "{stderr}");
    assert_eq!(found.get("SOCKOPT_LOG"), Some(&"debug"));
    assert_eq!(found.get("SOCKOPT_STRICT"), Some(&"1"));
}

/// A value for each option.
pub(crate) const VALUES: &[(&str, &str)] = &[
    ("keepalive", "60s,20s,4"),
    ("user-timeout", "auto"),
    ("connect-timeout", "5s"),
    ("linger", "reset"),
    ("nodelay", "true"),
    ("quickack", "false"),
    ("syn-retries", "3"),
    ("defer-accept", "3s"),
    ("receive-timeout", "5s"),
    ("send-timeout", "off"),
    ("receive-buffer", "1MiB"),
    ("send-buffer", "1MiB"),
    ("max-segment", "1400"),
    ("congestion", "reno"),
    ("notsent-lowat", "16KiB"),
    ("fin-timeout", "30s"),
    ("max-pacing-rate", "unlimited"),
    ("fastopen", "true"),
    ("ttl", "64"),
    ("dscp", "af41"),
    ("priority", "1"),
    ("mark", "1"),
    ("interface", "lo"),
    ("local-ports-late", "true"),
    ("reuse-address", "true"),
    ("reuse-port", "true"),
    ("freebind", "true"),
    ("transparent", "true"),
    ("enforce", "false"),
];

fn run_has_an_option_for_every_variable() {
    let mut command = run();
    for (option, value) in VALUES {
        command.arg(format!("--{option}")).arg(value);
    }
    let (code, stdout, stderr) = outcome(command.arg("env"));
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let found = variables(&stdout);
    for (option, value) in VALUES {
        let name = format!("SOCKOPT_{}", option.replace('-', "_").to_ascii_uppercase());
        assert_eq!(found.get(name.as_str()), Some(value), "{name}");
    }
    // What another of them excludes.
    let (_, stdout, stderr) = outcome(run().args(["--time-wait", "false", "env"]));
    assert_eq!(variables(&stdout).get("SOCKOPT_TIME_WAIT"), Some(&"false"), "{stderr}");
    let known = |key: &str| {
        ["dead_peer_timeout", "time_wait"].contains(&key)
            || VALUES.iter().any(|(option, _)| option.replace('-', "_") == key)
    };
    for entry in CATALOG.iter().filter(|entry| entry.accepts != Accepts::Raw) {
        assert!(known(entry.key.name()), "no option tried for {}", entry.key.name());
    }
}

fn run_options_over_the_environment() {
    let variable = ("SOCKOPT_USER_TIMEOUT", "5s");
    let (_, stdout, stderr) = outcome(run().envs([variable]).args(["--user-timeout=9s", "env"]));
    assert_eq!(variables(&stdout).get("SOCKOPT_USER_TIMEOUT"), Some(&"9s"), "{stderr}");
    let (_, stdout, stderr) = outcome(run().envs([variable]).args(["--ttl", "9", "env"]));
    assert_eq!(variables(&stdout).get("SOCKOPT_USER_TIMEOUT"), Some(&"5s"), "{stderr}");
    // A variable that is wrong does not matter where an option takes its place.
    assert_eq!(outcome(run().env("SOCKOPT_TTL", "0").args(["--ttl", "9", "true"])).0, Some(0));
}

/// Seen to fail without names given to output.rs, and with SOCKOPT_LOG taken for the start of SOCKOPT_LOG_FILE.
fn run_errors_name_the_option() {
    let refused = |command: &mut Command| {
        let (code, stdout, stderr) = outcome(command.arg("true"));
        assert_eq!((code, stdout.as_str()), (Some(78), ""), "{stderr}");
        stderr
    };
    let stderr =
        refused(run().args(["--dead-peer-timeout=15s", "--keepalive=60s,20s,4", "--to", ":443", "--to=bad:x"]));
    assert!(
        stderr.contains(
            "error[conflicting-keys]: --keepalive conflicts with --dead-peer-timeout, which already sets it\n"
        ),
        "{stderr}"
    );
    assert!(stderr.contains("--> --to:1:6\n") && !stderr.contains("SOCKOPT_"), "{stderr}");
    // What came by the environment keeps its name.
    let stderr = refused(run().env("SOCKOPT_DEAD_PEER_TIMEOUT", "15s").args(["--keepalive", "60s,20s,4"]));
    assert!(
        stderr.contains(
            "error[conflicting-keys]: --keepalive conflicts with SOCKOPT_DEAD_PEER_TIMEOUT, which already sets it\n"
        ),
        "{stderr}"
    );
    let stderr = refused(run().env("SOCKOPT_LOG_FILE", "here").args(["--log=info", "--nodelay=true"]));
    assert!(stderr.starts_with("error: SOCKOPT_LOG_FILE: \"here\" is not an absolute path\n"), "{stderr}");
    let (_, _, stderr) = outcome(run().args(["--to=:443", "--nodelay=true", "--log", "wran", "true"]));
    assert!(stderr.contains("'wran'") && stderr.contains("'warn'"), "{stderr}");
}

/// The library keeps to itself what the command has said. Seen to fail without SOCKOPT_CHECKED.
fn run_warnings_are_said_once() {
    let warned = |prepare: &dyn Fn(&mut Command), program: &str| {
        let mut command = run();
        command.env("SOCKOPT_LINGR", "reset").args(["--nodelay=true", "bash", "-c"]);
        prepare(&mut command);
        command.arg(format!("{program} exec 3<>/dev/tcp/127.0.0.1/{}", greeter()));
        let (code, _, stderr) = outcome(&mut command);
        assert_eq!(code, Some(0), "{stderr}");
        (
            stderr.matches("warning[unknown-variable]: unknown variable SOCKOPT_LINGR\n").count(),
            stderr.matches("sockopt[").count(),
            stderr,
        )
    };
    assert_eq!(warned(&|_| {}, ""), warned(&|_| {}, "true;"));
    let (by_command, by_library, stderr) = warned(&|_| {}, "");
    assert_eq!((by_command, by_library), (1, 0), "{stderr}");
    // A warning that is new is said by the library.
    let (_, by_library, stderr) =
        warned(&|_| {}, "SOCKOPT_TTTL=9 bash -c 'exec 3<>/dev/tcp/127.0.0.1/1' 2>&1 >&2 | grep -v connect;");
    assert_eq!(by_library, 0, "{stderr}");
    let program = format!("export SOCKOPT_TTTL=9; bash -c 'exec 3<>/dev/tcp/127.0.0.1/{}';", greeter());
    let (_, by_library, stderr) = warned(&|_| {}, &program);
    assert_eq!(by_library, 2, "{stderr}");
    assert!(stderr.contains("unknown variable SOCKOPT_TTTL"), "{stderr}");
}

/// Seen to fail where the configuration was checked, or the library preloaded, all the same.
fn run_is_off_where_the_library_is() {
    let disabled = || {
        let mut command = run();
        command.env("SOCKOPT_DISABLE", "1").env("SOCKOPT_LIBRARY", "/does/not/exist").arg("--ttl=0");
        command
    };
    let (code, stdout, stderr) = outcome(disabled().args(["--", "env"]));
    assert_eq!(
        (code, stderr.as_str()),
        (Some(0), "note: SOCKOPT_DISABLE is set: the program runs without the library\n")
    );
    assert_eq!(variables(&stdout).get("LD_PRELOAD"), None);
    assert_eq!(variables(&stdout).get("SOCKOPT_TTL"), None);
    assert_eq!(outcome(disabled().arg("/does/not/exist")).0, Some(127));
    assert_eq!(outcome(disabled().args(["--dry-run", "/does/not/exist"])).0, Some(127));
}

/// Seen to fail without quotes, and with the program started.
fn run_dry() {
    let marker = scratch("run-dry").join("started");
    let mut command = run();
    command.args(["--dry-run", "--congestion=it's", "--process=a b", "--log=debug", "touch"]).arg(&marker);
    let (code, stdout, stderr) = outcome(&mut command);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(!marker.exists(), "started");
    let first = format!("LD_PRELOAD={}\n", library().display());
    assert!(stdout.starts_with(&first), "{stdout}");
    assert!(stdout.contains("SOCKOPT_PROCESS='a b'\nSOCKOPT_LOG=debug\nSOCKOPT_CONGESTION='it'\\''s'\n"), "{stdout}");
    assert!(stderr.starts_with("note: /") && stderr.contains("/touch is dynamically linked with glibc"), "{stderr}");
    // The options are for another.
    assert!(stderr.contains("\nnote: no option is set in touch itself: "), "{stderr}");
    let (_, _, stderr) = outcome(run().args(["--dry-run", "--ttl=9", "--process=touch", "touch"]));
    assert!(!stderr.contains("no option is set in touch itself"), "{stderr}");
    // A shell takes it.
    let shell = format!("set -a; {stdout} exec env");
    let (_, printed, stderr) = outcome(plain("sh").args(["-c", &shell]));
    let found = variables(&printed);
    assert_eq!(found.get("SOCKOPT_CONGESTION"), Some(&"it's"), "{stderr}");
    assert_eq!(found.get("SOCKOPT_PROCESS"), Some(&"a b"));
    // As a start would end.
    let exit = |arguments: &[&str]| outcome(run().arg("--dry-run").args(arguments)).0;
    assert_eq!(exit(&["--ttl=0", "true"]), Some(78));
    assert_eq!(exit(&["--ttl=9", "/does/not/exist"]), Some(127));
    assert_eq!(exit(&["--ttl=9", "/etc/passwd"]), Some(126));
    assert_eq!(exit(&["--ttl=9", "--library=/does/not/exist", "true"]), Some(1));
    // A start that is refused has no variables to print. Seen to fail: they were printed before it was judged.
    for arguments in [&["--by=supervisor", "/does/not/exist"][..], &["--library=/etc/passwd", "true"], &["/etc/passwd"]]
    {
        let (code, stdout, _) = outcome(run().args(["--dry-run", "--ttl=9"]).args(arguments));
        assert!(code != Some(0) && stdout.is_empty(), "{arguments:?}: {stdout}");
    }
    // What is used without a configuration is among it.
    if !Path::new(load::DEFAULT_FILE).exists() {
        let (_, stdout, stderr) = outcome(run().args(["--dry-run", "true"]));
        assert!(stdout.ends_with("SOCKOPT_DEAD_PEER_TIMEOUT=60s\n"), "{stdout}");
        assert_eq!(stderr.lines().count(), 2, "{stderr}");
    }
}

/// Seen to fail with --library below SOCKOPT_LIBRARY, and with a path that is left relative.
fn run_takes_the_library_named() {
    let folder = scratch("run-named");
    copy(library(), folder.join("other.so"));
    let mut command = run();
    command.current_dir(&folder).args(["--library", "other.so", "--nodelay=true", "env"]);
    let (code, stdout, stderr) = outcome(&mut command);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let preloaded = variables(&stdout).get("LD_PRELOAD").map(PathBuf::from);
    assert_eq!(preloaded, Some(folder.join("other.so")));
    write(&folder, "text.so", "no library");
    let (code, _, stderr) = outcome(run().current_dir(&folder).args(["--library=text.so", "--nodelay=true", "env"]));
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("text.so is not a shared library"), "{stderr}");
    // The rules are where the configuration is.
    let file = write(&folder, "rules.toml", "[[rule]]\nttl = 9\n");
    let (code, stdout, stderr) = outcome(run().arg("--rule-file").arg(&file).arg("env"));
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert_eq!(variables(&stdout).get("SOCKOPT_CONFIG").map(PathBuf::from), Some(file));
}

/// What the command's starter ignores, blocks or leaves alone is so in the program. Seen to fail with std's
/// `Command::exec`, which ends every blocking, and has SIGPIPE end a program that systemd meant to ignore it.
fn run_signals_go_over_as_they_are() {
    let masks = |signals: &[&str], through: bool| {
        let mut command = plain("env");
        command.args(signals);
        if through {
            command
                .arg(format!("SOCKOPT_LIBRARY={}", library().display()))
                .arg(sockopt())
                .args(["run", "--nodelay=true"]);
        }
        let (code, stdout, stderr) = outcome(command.args(["grep", "-E", "Sig(Blk|Ign|Cgt)", "/proc/self/status"]));
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{signals:?}");
        stdout
    };
    let cases = [
        &["--default-signal=PIPE"][..],
        &["--ignore-signal=PIPE"],
        &["--default-signal=PIPE", "--ignore-signal=HUP", "--block-signal=USR1"],
        &["--ignore-signal=PIPE", "--block-signal=PIPE"],
    ];
    let plain: Vec<String> = cases.iter().map(|signals| masks(signals, false)).collect();
    assert!(plain.iter().skip(1).all(|masks| *masks != plain[0]), "nothing differs: {plain:?}");
    for (signals, expected) in cases.iter().zip(plain) {
        assert_eq!(masks(signals, true), expected, "{signals:?}");
    }
}

fn run_makes_paths_absolute() {
    let folder = scratch("run-relative");
    write(&folder, "here.toml", "[defaults]\nnodelay = true\n");
    fs::create_dir(folder.join("below")).expect("a folder");
    let arguments = ["--config", "../here.toml", "--log-file", "here.log", "env"];
    let (code, stdout, stderr) = outcome(run().current_dir(folder.join("below")).args(arguments));
    assert_eq!(code, Some(0), "{stderr}");
    let found = variables(&stdout);
    let config = Path::new(found.get("SOCKOPT_CONFIG").copied().unwrap_or_default());
    assert!(config.is_absolute(), "{stdout}");
    assert_eq!(config.canonicalize().ok(), folder.join("here.toml").canonicalize().ok());
    let log = Path::new(found.get("SOCKOPT_LOG_FILE").copied().unwrap_or_default());
    assert!(log.is_absolute() && log.ends_with("below/here.log"), "{stdout}");
}

fn run_nothing_configured() {
    let (code, stdout, stderr) = outcome(run().arg("env"));
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(stderr, "note: no configuration: using dead_peer_timeout = \"60s\"\n");
    assert_eq!(variables(&stdout).get("SOCKOPT_DEAD_PEER_TIMEOUT"), Some(&"60s"));
    // What is not an option does not configure, and stays.
    // Seen to fail: nothing was said of the option that is missing.
    let (_, stdout, stderr) = outcome(run().args(["--to", ":443", "--log", "error", "env"]));
    assert_eq!(
        stderr,
        "note: no configuration, and no option together with --to: using dead_peer_timeout = \"60s\" there\n"
    );
    let found = variables(&stdout);
    assert_eq!(found.get("SOCKOPT_DEAD_PEER_TIMEOUT"), Some(&"60s"));
    assert_eq!(found.get("SOCKOPT_TO"), Some(&":443"));
    // An option or a file does.
    let file = write(&scratch("run-configured"), "empty.toml", "");
    for configured in [run().args(["--ttl", "9"]), run().arg("--config").arg(&file)] {
        let (_, stdout, stderr) = outcome(configured.arg("env"));
        assert_eq!((stderr.as_str(), variables(&stdout).get("SOCKOPT_DEAD_PEER_TIMEOUT")), ("", None));
    }
}

fn run_an_empty_variable_configures_nothing() {
    // As a manifest leaves them: `SOCKOPT_DEAD_PEER_TIMEOUT=`.
    for name in ["SOCKOPT_DEAD_PEER_TIMEOUT", "SOCKOPT_LINGER", "SOCKOPT_CONFIG", "SOCKOPT_CONFIG_TOML"] {
        let (code, stdout, stderr) = outcome(run().env(name, "").arg("env"));
        assert_eq!(code, Some(0), "{stderr}");
        assert_eq!(stderr, "note: no configuration: using dead_peer_timeout = \"60s\"\n", "{name}");
        assert_eq!(variables(&stdout).get("SOCKOPT_DEAD_PEER_TIMEOUT"), Some(&"60s"), "{name}");
    }
}

fn run_passes_arguments_untouched() {
    let arguments = ["--config", "--ttl", "999", "-x", "--", "--force", "", "a b", "$HOME", "--help", "-"];
    let expected = arguments.map(|argument| format!("[{argument}]\n")).concat();
    let folder = scratch("run-arguments");
    let program = script(&folder, "print", "#!/bin/sh\nprintf '[%s]\\n' \"$@\"\n");
    for separator in [&[][..], &["--"]] {
        let (code, stdout, stderr) =
            outcome(run().args(["--nodelay", "true"]).args(separator).arg(&program).args(arguments));
        assert_eq!((code, stdout.as_str(), stderr.as_str()), (Some(0), expected.as_str(), ""), "{separator:?}");
    }
    // Arguments need not be UTF-8, nor begin with a letter.
    let output = finish(run().args(["--nodelay=true", "printf", "%s"]).arg(OsStr::from_bytes(b"-\xff\xfe")));
    assert_eq!(output.stdout, b"-\xff\xfe");
}

fn run_becomes_the_program() {
    let mut command = run();
    command.args(["--nodelay=true", "sh", "-c", "echo $$; exit 42"]).stdout(Stdio::piped());
    let child = command.spawn().expect("sockopt can be started");
    let id = child.id();
    let output = child.wait_with_output().expect("a child of ours");
    assert_eq!(text(&output).0, format!("{id}\n"), "a process stands in between");
    assert_eq!(output.status.code(), Some(42));
    // Killed by a signal it is seen to be.
    let killed = finish(run().args(["--nodelay=true", "sh", "-c", "kill -9 $$"]));
    assert_eq!(killed.status.code(), None);
    // Standard input is the program's.
    let mut command = run();
    command.args(["--nodelay=true", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("sockopt can be started");
    child.stdin.take().expect("a pipe").write_all(b"through").expect("cat reads");
    assert_eq!(child.wait_with_output().expect("a child of ours").stdout, b"through");
}

fn run_exit_codes() {
    let folder = scratch("run-exit");
    let plain_file = write(&folder, "not-executable", "#!/bin/sh\nexit 0\n");
    let no_interpreter = script(&folder, "no-interpreter", "#!/does/not/exist\n");
    let exit = |program: &Path| outcome(run().arg("--nodelay=true").arg(program));
    for (program, expected) in [
        (Path::new("/does/not/exist"), 127),
        (Path::new("no-such-program-in-path"), 127),
        (&plain_file, 126),
        (&folder, 126),
        (Path::new("true"), 0),
        (Path::new("false"), 1),
    ] {
        let (code, stdout, stderr) = exit(program);
        assert_eq!((code, stdout.as_str()), (Some(expected), ""), "{}: {stderr}", program.display());
        let says = if expected > 1 { 1 } else { 0 };
        assert_eq!(stderr.matches(&*program.to_string_lossy()).count(), says, "{stderr}");
        assert_eq!(stderr.lines().count(), says, "{stderr}");
    }
    // env(1) and shells call a missing interpreter a program that was not found, too.
    assert!(matches!(exit(&no_interpreter).0, Some(126 | 127)));
}

fn run_keeps_what_is_preloaded() {
    let folder = scratch("run-preload");
    let other = folder.join("other.so");
    let empty = write(&folder, "empty.c", "typedef int nothing;\n");
    assert_eq!(outcome(Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&other).arg(&empty)).0, Some(0));
    let (ours, other) = (library().display().to_string(), other.display().to_string());
    let preloads = |existing: &str| {
        let (code, stdout, stderr) = outcome(run().env("LD_PRELOAD", existing).args(["--nodelay=true", "env"]));
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{existing}");
        variables(&stdout).get("LD_PRELOAD").copied().unwrap_or_default().to_owned()
    };
    assert_eq!(preloads(&other), format!("{ours}:{other}"));
    assert_eq!(preloads(""), ours);
    // Once is enough.
    for existing in [ours.clone(), format!("{ours}:{other}"), format!("{other} {ours}")] {
        assert_eq!(preloads(&existing), existing);
    }
}

/// Whether there is a library where the command looks last.
fn is_installed() -> bool {
    let triplet = format!("lib/{}-linux-gnu", env::consts::ARCH);
    let folders = ["lib", "lib/sockopt", &triplet, "lib64"];
    folders.iter().any(|folder| Path::new("/usr/local").join(folder).join("libsockopt.so").is_file())
}

fn run_finds_the_library_beside_itself() {
    let folder = scratch("run-installed");
    let command = folder.join("bin/sockopt");
    copy(sockopt(), &command);
    let found = || {
        let (code, stdout, stderr) = outcome(plain(&command).args(["run", "--nodelay=true", "env"]));
        (code, variables(&stdout).get("LD_PRELOAD").copied().unwrap_or_default().to_owned(), stderr)
    };
    let triplet = format!("lib/{}-linux-gnu/libsockopt.so", env::consts::ARCH);
    let places =
        ["bin/libsockopt.so", "lib/libsockopt.so", "lib/sockopt/libsockopt.so", &triplet, "lib64/libsockopt.so"];
    let places = places.map(|place| folder.join(place));
    if !is_installed() {
        let (code, _, stderr) = found();
        assert_eq!(code, Some(1), "{stderr}");
        assert!(places.iter().all(|place| stderr.contains(&*place.to_string_lossy())), "{stderr}");
        assert!(stderr.contains(" /usr/local/lib/libsockopt.so,"), "{stderr}");
    }
    // The last place first: each next one comes before it.
    for place in places.iter().rev() {
        copy(library(), place);
        assert_eq!(found(), (Some(0), place.display().to_string(), String::new()));
    }
    // By a symbolic link, as /usr/local/bin has them.
    symlink(&command, folder.join("link")).expect("a link");
    let (code, stdout, _) = outcome(plain(folder.join("link")).args(["run", "--nodelay=true", "env"]));
    assert_eq!((code, variables(&stdout).get("LD_PRELOAD").map(PathBuf::from)), (Some(0), Some(places[0].clone())));
}

/// Where an image for several machines has a library for each, the one for this machine is taken; where there is another's alone,
/// the program is not started. Seen to fail with the first that is there: "the library for AArch64".
fn run_takes_the_library_for_this_machine() {
    let folder = scratch("run-machine");
    let command = folder.join("bin/sockopt");
    copy(sockopt(), &command);
    let (foreign, own) = (folder.join("bin/libsockopt.so"), folder.join("lib/libsockopt.so"));
    let mut bytes = fs::read(library()).expect("the library");
    bytes[18] = if cfg!(target_arch = "aarch64") { 62 } else { 183 };
    fs::write(&foreign, &bytes).expect("a file in a scratch folder");
    let run = || outcome(plain(&command).args(["run", "--nodelay=true", "--by=library", "env"]));
    let (code, stdout, stderr) = run();
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
    let name = if cfg!(target_arch = "aarch64") { "x86-64" } else { "AArch64" };
    assert!(stderr.contains(&format!("the library for {name}: the loader cannot load it")), "{stderr}");
    copy(library(), &own);
    let (code, stdout, stderr) = run();
    assert_eq!((code, variables(&stdout).get("LD_PRELOAD").map(PathBuf::from)), (Some(0), Some(own)), "{stderr}");
}

fn run_never_looks_in_the_current_directory() {
    let folder = scratch("run-current");
    let command = folder.join("installed/bin/sockopt");
    copy(sockopt(), &command);
    for place in ["libsockopt.so", "lib/libsockopt.so", "deps/libsockopt.so"] {
        let fake = folder.join("work").join(place);
        fs::create_dir_all(fake.parent().expect("a folder")).expect("a scratch folder");
        fs::write(&fake, "not a library").expect("a file in a scratch folder");
    }
    let mut here = plain(&command);
    here.current_dir(folder.join("work")).env("LD_LIBRARY_PATH", ".").env("SOCKOPT_LIBRARY", "");
    let (code, stdout, stderr) = outcome(here.args(["run", "--nodelay=true", "env"]));
    if is_installed() {
        assert!(stdout.contains("LD_PRELOAD=/usr/local/"), "{stdout}");
        return;
    }
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
    assert!(
        stderr.contains("libsockopt.so is in none of these places") && stderr.contains("SOCKOPT_LIBRARY"),
        "{stderr}"
    );
    assert!(!stderr.contains(&folder.join("work").display().to_string()), "{stderr}");
}

fn run_refuses_a_library_that_cannot_be_named() {
    let folder = scratch("run-library");
    copy(library(), folder.join("a folder/libsockopt.so"));
    copy(library(), folder.join("libsockopt.so"));
    for (name, why) in [
        ("libsockopt.so".to_owned(), "SOCKOPT_LIBRARY: libsockopt.so is not an absolute path"),
        ("./libsockopt.so".to_owned(), "SOCKOPT_LIBRARY: ./libsockopt.so is not an absolute path"),
        (folder.join("missing.so").display().to_string(), "missing.so: no such file"),
        (folder.join("a folder/libsockopt.so").display().to_string(), "LD_PRELOAD cannot name a path with a space"),
        (folder.display().to_string(), ": not a file"),
    ] {
        let mut command = run();
        command.current_dir(&folder).env("SOCKOPT_LIBRARY", &name).args(["--nodelay=true", "echo", "started"]);
        let (code, stdout, stderr) = outcome(&mut command);
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{name}: {stderr}");
        assert!(stderr.contains(why), "{name}: {stderr}");
    }
}

/// With --force the program runs without it. Seen to fail: it did not.
fn run_is_forced_without_the_library() {
    let mut command = run();
    command.env("SOCKOPT_LIBRARY", "/no/such.so").args([
        "--by=library",
        "--force",
        "--nodelay=true",
        "echo",
        "started",
    ]);
    let (code, stdout, stderr) = outcome(&mut command);
    assert_eq!((code, stdout.as_str()), (Some(0), "started\n"), "{stderr}");
    assert_eq!(stderr, "warning: SOCKOPT_LIBRARY: /no/such.so: no such file\n");
}

/// Seen to fail: "the configuration is for other processes".
fn run_says_that_nothing_is_configured() {
    let mut command = run();
    command.env("SOCKOPT_CONFIG", "/dev/null").args(["--dry-run", "echo", "started"]);
    let (code, _, stderr) = outcome(&mut command);
    assert_eq!(code, Some(0));
    assert!(stderr.contains("note: no option is set: the configuration has none\n"), "{stderr}");
}

fn run_the_library_works_in_the_program() {
    let mut command = run();
    command.args(["--log=debug", "--user-timeout=9s", "--to=127.0.0.0/8", "bash"]);
    let outcome = outcome(&mut client(command));
    assert_worked(&outcome);
    assert!(outcome.2.contains("TCP_USER_TIMEOUT=9000"), "{}", outcome.2);
}

// The library

/// A program under the library with this configuration file.
fn configured(file: &Path) -> Command {
    let mut command = preloaded("bash");
    command.env("SOCKOPT_CONFIG", file);
    command
}

fn broken_configuration_is_reported_and_harmless() {
    let file = five_errors();
    let outcome = outcome(&mut client(configured(&file)));
    assert_worked(&outcome);
    let expected = fs::read_to_string(file.with_extension("expected")).expect("an expectation");
    let path = |line: &str| line.replace("five_errors.toml", &file.display().to_string());
    assert_eq!(lines_of_the_library(&outcome.2), expected.lines().map(path).collect::<Vec<_>>());
    // It is reported once, and by each process for itself.
    let port = greeter();
    let twice = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; exec 4<>/dev/tcp/127.0.0.1/{port}");
    let output = finish(configured(&file).args(["-c", &twice]));
    assert_eq!(text(&output).1.lines().count(), 5);
}

fn many_errors_are_bounded() {
    let text: String = (0..150).map(|number| format!("[[rule]]\nttl = {}\n", 300 + number)).collect();
    let file = write(&scratch("library-many"), "many.toml", text);
    let outcome = outcome(&mut client(configured(&file)));
    assert_worked(&outcome);
    let lines = lines_of_the_library(&outcome.2);
    assert_eq!(lines.len(), 101);
    assert!(lines.iter().take(100).all(|line| line.starts_with(&*file.to_string_lossy())));
    assert_eq!(lines.last().copied(), Some("error: and 50 more"));
}

fn a_long_line_is_cut() {
    let text = format!("[[rule]]\nttl = \"{}\"\n[[rule]]\nttl = \"a\\nb\\u001b\"\n", "x".repeat(3_000));
    let file = write(&scratch("library-long"), "long.toml", text);
    let outcome = outcome(&mut client(configured(&file)));
    assert_worked(&outcome);
    let lines = lines_of_the_library(&outcome.2);
    assert_eq!(lines.len(), 2, "{}", outcome.2);
    assert!(outcome.2.ends_with('\n') && outcome.2.lines().all(|line| line.len() < 1_024), "{}", outcome.2);
    assert!(
        lines.last().is_some_and(|line| line.contains("not \"a\\nb\\u{1b}\"; accepted: 1 to 255")),
        "{}",
        outcome.2
    );
}

fn strict_ends_before_main() {
    for (config, lines) in [(five_errors(), 5), (PathBuf::from("/does/not/exist"), 1), (PathBuf::from("relative"), 1)] {
        let mut command = preloaded("echo");
        command.env("SOCKOPT_CONFIG", &config).env("SOCKOPT_STRICT", "1").arg("started");
        let (code, stdout, stderr) = outcome(&mut command);
        assert_eq!((code, stdout.as_str()), (Some(78), ""), "{}: {stderr}", config.display());
        assert_eq!(lines_of_the_library(&stderr).len(), lines, "{stderr}");
    }
    // A configuration that is right, and a warning, end nothing.
    let mut command = preloaded("echo");
    command.envs([("SOCKOPT_STRICT", "1"), ("SOCKOPT_NODELAY", "1"), ("SOCKOPT_LINGR", "reset")]).arg("started");
    let (code, stdout, stderr) = outcome(&mut command);
    assert_eq!((code, stdout.as_str()), (Some(0), "started\n"), "{stderr}");
    assert_eq!(lines_of_the_library(&stderr).len(), 1, "{stderr}");
    // Off means off.
    let mut command = preloaded("echo");
    command.env("SOCKOPT_CONFIG", five_errors()).env("SOCKOPT_STRICT", "0").arg("started");
    assert_eq!(outcome(&mut command), (Some(0), "started\n".into(), String::new()));
}

fn relative_configuration_path() {
    let folder = scratch("library-relative");
    write(&folder, "here.toml", "[defaults]\nnodelay = true\n");
    let mut command = configured(Path::new("here.toml"));
    command.current_dir(&folder).env("SOCKOPT_LOG", "debug");
    let outcome = outcome(&mut client(command));
    assert_worked(&outcome);
    assert_eq!(lines_of_the_library(&outcome.2), ["error: SOCKOPT_CONFIG: \"here.toml\" is not an absolute path"]);
}

fn log_file() {
    let folder = scratch("library-log");
    let log = folder.join("sockopt.log");
    let run = || {
        let mut command = configured(&five_errors());
        command.env("SOCKOPT_LOG_FILE", &log);
        let outcome = outcome(&mut client(command));
        assert_worked(&outcome);
        assert_eq!(outcome.2, "", "stderr beside the log file");
        fs::read_to_string(&log).expect("the log file")
    };
    let once = run();
    assert_eq!(fs::metadata(&log).expect("the log file").permissions().mode() & 0o777, 0o600);
    assert_eq!(lines_of_the_library(&once).len(), 5, "{once}");
    let twice = run();
    assert!(twice.starts_with(&once), "not appended: {twice}");
    assert_eq!(lines_of_the_library(&twice).len(), 10, "{twice}");
    // A folder that is not there: stderr, and why.
    let mut command = configured(&five_errors());
    command.env("SOCKOPT_LOG_FILE", folder.join("missing/sockopt.log"));
    let outcome = outcome(&mut client(command));
    assert_worked(&outcome);
    let lines = lines_of_the_library(&outcome.2);
    assert_eq!(lines.len(), 6, "{}", outcome.2);
    assert!(lines[0].contains("missing/sockopt.log: ENOENT; logging to stderr"), "{}", outcome.2);
}

/// A FIFO that nobody reads. Seen to fail: "errno 6".
fn log_file_is_an_unread_fifo() {
    let fifo = scratch("library-log-fifo").join("fifo");
    let (code, _, stderr) = outcome(plain("mkfifo").arg(&fifo));
    assert_eq!(code, Some(0), "{stderr}");
    let mut command = configured(&five_errors());
    command.env("SOCKOPT_LOG_FILE", &fifo);
    let outcome = outcome(&mut client(command));
    assert_worked(&outcome);
    let lines = lines_of_the_library(&outcome.2);
    assert_eq!(lines[0], format!("error: SOCKOPT_LOG_FILE {}: ENXIO; logging to stderr", fifo.display()));
    assert_eq!(lines.len(), 6, "{}", outcome.2);
}

fn log_file_is_no_symbolic_link() {
    let folder = scratch("library-log-link");
    let (target, link) = (write(&folder, "target", "precious\n"), folder.join("link.log"));
    symlink(&target, &link).expect("a link");
    let mut command = configured(&five_errors());
    command.env("SOCKOPT_LOG_FILE", &link);
    let outcome = outcome(&mut client(command));
    assert_worked(&outcome);
    assert_eq!(fs::read_to_string(&target).expect("the target"), "precious\n");
    let lines = lines_of_the_library(&outcome.2);
    assert_eq!(lines[0], format!("error: SOCKOPT_LOG_FILE {}: ELOOP; logging to stderr", link.display()));
    assert_eq!(lines.len(), 6, "{}", outcome.2);
}

fn log_off() {
    let mut command = configured(&five_errors());
    command.env("SOCKOPT_LOG", "off");
    let outcome = outcome(&mut client(command));
    assert_worked(&outcome);
    assert_eq!(outcome.2, "");
}

fn log_info_is_one_line() {
    let text = "[[rule]]\nprocess = \"bash\"\nnodelay = true\n[[rule]]\nprocess = \"java\"\nnodelay = true\n";
    let file = write(&scratch("library-info"), "sockopt.toml", text);
    let mut command = configured(&file);
    command.env("SOCKOPT_LOG", "info").env("SOCKOPT_TTL", "9");
    let outcome = outcome(&mut client(command));
    assert_worked(&outcome);
    let expected =
        format!("info: configuration: {}: 2 rules, 1 for this process, options from the environment", file.display());
    assert_eq!(lines_of_the_library(&outcome.2), [expected]);
}

fn log_level_misspelt() {
    let mut command = preloaded("bash");
    command.env("SOCKOPT_LOG", "wran").env("SOCKOPT_NODELAY", "1");
    let outcome = outcome(&mut client(command));
    assert_worked(&outcome);
    let expected = "SOCKOPT_LOG:1:1: warning: unknown log level \"wran\"; did you mean \"warn\"?";
    assert_eq!(lines_of_the_library(&outcome.2), [expected]);
}

fn disabled() {
    let mut command = configured(&five_errors());
    command.env("SOCKOPT_DISABLE", "1").env("SOCKOPT_STRICT", "1").env("SOCKOPT_LOG", "debug");
    let outcome = outcome(&mut client(command));
    assert_worked(&outcome);
    assert_eq!(outcome.2, "");
    // With a configuration that is right nothing is done either.
    let mut command = preloaded("bash");
    command.envs([("SOCKOPT_DISABLE", "yes"), ("SOCKOPT_NODELAY", "1"), ("SOCKOPT_LOG", "debug")]);
    let outcome = self::outcome(&mut client(command));
    assert_worked(&outcome);
    assert_eq!(outcome.2, "");
}

fn stderr_that_is_a_socket() {
    let (mut ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    let mut command = client(configured(&five_errors()));
    command.stderr(OwnedFd::from(theirs)).stdout(Stdio::piped());
    let output = command.spawn().and_then(|child| child.wait_with_output()).expect("bash can be started");
    // The descriptor in it is the last other end.
    drop(command);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(7), &b"hello\n"[..]));
    let mut said = String::new();
    ours.read_to_string(&mut said).expect("the other end is closed");
    assert_eq!(said, "");
}

fn without_a_socket_nothing_is_said() {
    let mut command = configured(&five_errors());
    command.env("SOCKOPT_LOG", "debug").args(["-c", "echo quiet; exit 7"]);
    assert_eq!(outcome(&mut command), (Some(7), "quiet\n".into(), String::new()));
}

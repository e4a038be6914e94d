//! Texts that are no configuration, or an absurd one: what reading them costs grows with their length and no faster. It
//! is done inside of somebody else's program, with signals blocked.
//!
//! Each is a small piece many times over. The command and a program under the library read it with so much processor
//! time (RLIMIT_CPU, not the clock on the wall) and address space as a linear reader needs, and some more.
//!
//! Seen to fail: with a reader that asked the parser for all errors of the whole text, counted lines anew for each, and
//! looked behind every `to` up to the end of the file, 31 of these 83 tests failed (`equals`, `dots`, `wrong_rules`,
//! `lists_without_an_end` and `one_long_key` among them), by their processor time, by their memory, or by output of many megabytes.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use libtest_mimic::Trial;

use crate::command::write;
use crate::support::{library, plain, scratch, sockopt, test, test_with, text as text_of};

/// Before the pieces, the piece, behind them. `{n}` is the number of the piece, `{a}` an address of its own.
type Shape = (&'static str, [&'static str; 3]);

/// The text of a file.
#[rustfmt::skip] // a table reads by its columns
const FILES: &[Shape] = &[
    ("equals", ["", "=", ""]),
    ("dots", ["", ".", ""]),
    ("carriage_returns", ["", "\r", ""]),
    ("lists_without_an_end", ["", "to=[\"1\" ", ""]),
    ("lists_of_open_quotes", ["", "to=['", ""]),
    ("equal_keys_in_a_line", ["x={", "a=1,", "}"]),
    ("keys_without_a_value", ["", "to=", ""]),
    ("equals_in_lines", ["", "=\n", ""]),
    ("open_brackets", ["", "[", ""]),
    ("open_braces", ["", "{", ""]),
    ("lists_in_lists", ["x=", "[", ""]),
    ("tables_in_tables", ["x=", "{a=", ""]),
    ("quotes", ["", "\"", ""]),
    ("equal_keys", ["", "a=1\n", ""]),
    ("unknown_keys", ["", "a{n}=1\n", ""]),
    ("misspelt_keys", ["[defaults]\n", "keepaliv{n}=1\n", ""]),
    ("unknown_tables", ["", "[a{n}]\n", ""]),
    ("tables_between_rules", ["", "[[rule]]\n[a{n}]\n", ""]),
    ("one_long_key", ["", "keepalive", "=1"]),
    ("one_long_value", ["[defaults]\nlinger=\"", "1", "\""]),
    ("one_long_name", ["[[rule]]\nto=\"", "a.", "\""]),
    ("one_long_glob", ["[[rule]]\ncommand=\"", "*a", "b\""]),
    ("wrong_addresses", ["[[rule]]\nto=[", "\"\",", "]"]),
    ("wrong_rules", ["", "[[rule]]\nto=\"{a}\"\nlinger=\"rest\"\n", ""]),
    ("syntax_errors_in_rules", ["", "[[rule]]\n=====\n", ""]),
    ("wrong_rules_by_defaults", ["[defaults]\nuser_timeout=\"auto\"\n", "[[rule]]\nto=\"{a}\"\n", ""]),
    ("headers_in_a_string", ["x=\"\"\"", "\n[[rule]]\n", "\"\"\""]),
    ("many_raw_options", ["[defaults]\nraw=[", "{level=6,name={n},value=1},", "]"]),
];

/// The same that is accepted.
#[rustfmt::skip] // a table reads by its columns
const SOUND: &[Shape] = &[
    ("line_breaks", ["", "\n", ""]),
    ("many_rules", ["[defaults]\nraw=[{level=1,name=2,value=3}]\n", "[[rule]]\nto=\"{a}\"\n", ""]),
    ("rules_like_each_other", ["", "[[rule]]\nto=\"*\"\n", ""]),
    ("many_addresses", ["[[rule]]\nto=[", "\"{a}\",", "]\nttl=5"]),
    ("many_hosts", ["[[rule]]\nto=[", "\"h{n}.example\",", "]\nttl=5"]),
    ("many_processes", ["[[rule]]\nprocess=[", "\"*a{n}\",", "]\nttl=5"]),
    ("many_different_options", ["", "[[rule]]\nraw=[{level=7,name={n},value=1}]\n", ""]),
    ("times_one_below_the_other", ["", "[[rule]]\nuser_timeout=\"1{n}ms\"\n[[rule]]\nconnect_timeout=\"90s\"\n", ""]),
    ("keys_that_look_like_hosts", ["", "# auto='x' [\n", ""]),
];

/// Variables, one a line.
#[rustfmt::skip] // a table reads by its columns
const VARIABLES: &[Shape] = &[
    ("unknown_variables", ["", "SOCKOPT_KEEPALIV{n}=1\n", ""]),
    ("addresses", ["SOCKOPT_TTL=5\nSOCKOPT_TO=", "{a},", "10.1.2.3"]),
    ("wrong_addresses", ["SOCKOPT_TTL=5\nSOCKOPT_TO=", ",", ""]),
    ("wrong_processes", ["SOCKOPT_TTL=5\nSOCKOPT_PROCESS=", ",", ""]),
    ("a_long_name", ["SOCKOPT_", "KEEPALIVE", "=1"]),
    ("a_long_value", ["SOCKOPT_LINGER=", "reset", ""]),
    ("equals_inline", ["SOCKOPT_CONFIG_TOML=", "=", ""]),
];

/// Bytes of a file, and of the environment, which the kernel limits (execve(2): 128 KiB a string).
const FILE: usize = 256 << 10;
const ENVIRONMENT: usize = 120 << 10;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        test_with(&["prlimit"], "bounds::the_limits_are_limits", the_limits_are_limits),
        test("bounds::far_from_the_beginning", far_from_the_beginning),
        test_with(&["prlimit"], "bounds::many_ports_of_a_long_name", many_ports_of_a_long_name),
    ];
    for (shapes, is_sound) in [(FILES, false), (SOUND, true)] {
        for &(name, shape) in shapes {
            trials.push(test_with(&["prlimit"], format!("bounds::check: {name}"), move || {
                checked(name, shape, is_sound)
            }));
            trials.push(test_with(&["prlimit"], format!("bounds::library: {name}"), move || loaded(name, shape)));
        }
    }
    for &(name, shape) in VARIABLES {
        trials.push(test_with(&["prlimit"], format!("bounds::environment: {name}"), move || in_environment(shape)));
    }
    trials
}

/// A text of about so many bytes.
fn of([before, piece, behind]: [&str; 3], bytes: usize) -> String {
    let mut text = before.to_owned();
    for number in 0.. {
        if text.len() >= bytes {
            break;
        }
        let [_, high, middle, low] = u32::to_be_bytes(number);
        let address = format!("10.{high}.{middle}.{low}");
        text.push_str(&piece.replace("{n}", &number.to_string()).replace("{a}", &address));
    }
    text + behind
}

/// A program with so many seconds of processor time and bytes of address space, under a library or not. What sets the
/// limits is not under it: it would have none yet.
fn limited(seconds: u32, bytes: usize, library: Option<&Path>, program: &Path) -> Command {
    let mut command = plain("prlimit");
    command.arg(format!("--cpu={seconds}")).arg(format!("--as={bytes}")).args(["--core=0", "--", "env"]);
    if let Some(library) = library {
        command.arg(format!("LD_PRELOAD={}", library.display()));
    }
    command.arg(program);
    command
}

/// Debug builds need ten times as much of both as what is shipped.
const SECONDS: u32 = 20;
const SPACE: usize = (96 << 20) + FILE * 100;

fn file(name: &str, shape: [&str; 3]) -> PathBuf {
    write(&scratch(&format!("bounds-{name}")), "sockopt.toml", of(shape, FILE))
}

/// Its processor time ends it, if nothing else does.
fn end(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn assert_ended(output: &Output, codes: &[i32]) {
    let (_, stderr) = text_of(output);
    let start: String = stderr.chars().take(2_000).collect();
    assert!(output.status.code().is_some_and(|code| codes.contains(&code)), "{:?}: {start}", output.status);
}

/// `sockopt check`: everything is read, and said in few lines of few columns.
fn checked(name: &str, shape: [&str; 3], is_sound: bool) {
    let file = file(&format!("check-{name}"), shape);
    let output = end(limited(SECONDS, SPACE, None, sockopt()).arg("check").arg(&file));
    assert_ended(&output, &[if is_sound { 0 } else { 78 }]);
    let (_, stderr) = text_of(&output);
    assert!(stderr.len() < 200_000, "{} bytes are said", stderr.len());
}

/// A program that connects, under the library: the file is read when it is loaded, and again when it connects.
fn loaded(name: &str, shape: [&str; 3]) {
    let file = file(&format!("library-{name}"), shape);
    let connect = "exec 3<>/dev/tcp/127.0.0.1/9 || :; echo alive";
    let mut command = limited(SECONDS, SPACE + (64 << 20), Some(&library()), Path::new("bash"));
    command.arg("-c").arg(connect).env("SOCKOPT_CONFIG", &file);
    let output = end(&mut command);
    assert_ended(&output, &[0]);
    let (stdout, stderr) = text_of(&output);
    assert_eq!(stdout, "alive\n", "{stderr}");
    assert!(!stderr.contains("no memory") && stderr.lines().count() <= 103, "{stderr}");
}

/// A fault far from the beginning of its line is shown by what stands there, in its place.
fn far_from_the_beginning() {
    let before = "\"10.1.1.1\",".repeat(90_000);
    let text = format!("[[rule]]\nto = [{before}\"x y\",{before}]\n");
    let file = write(&scratch("bounds-far"), "sockopt.toml", &text);
    let (_, stderr) = text_of(&end(plain(sockopt()).arg("check").arg(&file)));
    let column = "to = [".len() + before.len() + 1;
    assert!(
        stderr.contains(&format!("error[bad-address]: \"x y\" is not an address\n--> {}:2:{column}\n", file.display())),
        "{stderr}"
    );
    assert!(stderr.contains("note: there: \"x y\",\"10.1.1.1\",") && stderr.len() < 1_000, "{stderr}");
}

/// What an error suggests grows with what stands there, not with its square. Seen to fail: with an entry for each port in it.
fn many_ports_of_a_long_name() {
    let text = format!("[[rule]]\nto = [\"{}:{}\"]\n", "a".repeat(FILE / 2), "1,".repeat(FILE / 4));
    let file = write(&scratch("bounds-ports"), "sockopt.toml", text);
    let output = end(limited(SECONDS, SPACE, None, sockopt()).arg("check").arg(&file));
    assert_ended(&output, &[78]);
}

fn in_environment(shape: [&str; 3]) {
    let text = of(shape, ENVIRONMENT);
    let variables = || text.lines().filter_map(|line| line.split_once('='));
    let library = library();
    for (library, program, arguments, codes) in [
        (None, sockopt(), ["check", "--json"], &[0, 78][..]),
        (Some(&*library), Path::new("bash"), ["-c", "exec 3<>/dev/tcp/127.0.0.1/9 || :"], &[0]),
    ] {
        let mut command = limited(SECONDS, SPACE + (64 << 20), library, program);
        assert_ended(&end(command.args(arguments).envs(variables())), codes);
    }
}

/// The tests above would pass without limits; SIGXCPU is 24.
fn the_limits_are_limits() {
    let output = end(limited(1, SPACE, None, Path::new("bash")).args(["-c", "while :; do :; done"]));
    assert!(matches!(output.status.signal(), Some(9 | 24)), "{:?}", output.status);
    let output =
        end(limited(1, 64 << 20, None, Path::new("bash")).args(["-c", "x=$(head -c 90000000 /dev/zero | tr '\\0' x)"]));
    assert!(!output.status.success());
}

//! What the library says, and what becomes of the program when it cannot be said: full and broken pipes, files that may
//! not grow, descriptors that are something else by now, filters, handlers that jump away (tests/probes/says.c).

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use libtest_mimic::Trial;

use crate::faults::{Build, built};
use crate::support::{plain, probe, scratch, test, text};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for build in [Build::Debug, Build::Release] {
        let mut add = |name: &str, run: fn(Build)| {
            trials.push(test(format!("says::{name}, {build:?}"), move || run(build)));
        };
        add("full_pipe", full_pipe);
        add("full_pipe_in_set_up", full_pipe_in_set_up);
        add("terminal", terminal);
        add("signals_that_wait", signals_that_wait);
        add("descriptor_2_is_another", descriptor_2_is_another);
        add("filters_of_rt_sigprocmask", filters);
        add("filters_that_send_sigsys", trapped);
        add("handlers_that_jump_away", jumps);
        add("handlers_that_jump_out_of_set_up", jumps_out_of_set_up);
    }
    trials
}

const RULES: &str = "[defaults]\nkeepalive = { time = \"5s\" }\n";

/// The probe under a build that logs everything; one that hangs is ended.
fn command(build: Build, arguments: &[&str]) -> Command {
    let mut command = plain("timeout");
    command.args(["-s", "KILL", "60", "env"]).arg(format!("LD_PRELOAD={}", built(build).display()));
    command.arg(probe("says")).args(arguments).env("SOCKOPT_CONFIG_TOML", RULES).env("SOCKOPT_LOG", "debug");
    command
}

fn run(command: &mut Command) -> (String, String) {
    let output: Output = command.output().expect("timeout runs");
    let (stdout, stderr) = text(&output);
    assert!(output.status.success(), "{}\n{stdout}{stderr}", output.status);
    (stdout, stderr)
}

/// A line that finds no room is lost, no hook waits, and it is said how many. Seen to fail where a line was simply
/// written: no connect came back.
fn full_pipe(build: Build) {
    for threads in [1_usize, 64] {
        let (stdout, _) = run(&mut command(build, &["full", &threads.to_string()]));
        let lines: Vec<&str> = stdout.lines().collect();
        let [done, lost, last] = lines[..] else { panic!("{stdout}") };
        assert_eq!(done, format!("{0} of {0}", 20 * threads));
        let count =
            lost.split_once("warning: ").and_then(|(_, rest)| rest.split_once(" lines before this one are lost"));
        let count: usize = count.and_then(|(count, _)| count.parse().ok()).unwrap_or_else(|| panic!("{stdout}"));
        // One is about the configuration; some find room in a page that is begun.
        assert!((20 * threads - 20..=20 * threads + 1).contains(&count), "{stdout}");
        assert!(last.contains("debug: connect fd"), "{stdout}");
    }
}

/// The same of what set-up has to say. Seen to fail where it was written with all signals blocked: the program hung,
/// and nothing but SIGKILL ended it.
fn full_pipe_in_set_up(build: Build) {
    let unknown: String = (0..120).map(|n| format!("{}{n} = 1\n", "x".repeat(900))).collect();
    let (stdout, _) = run(command(build, &["full", "1"]).env("SOCKOPT_CONFIG_TOML", format!("[defaults]\n{unknown}")));
    // A configuration with errors sets nothing.
    assert!(stdout.starts_with("0 of 20\n"), "{stdout}");
}

/// A terminal that takes no more, or that has room for a part of a line. Seen to fail where a line was written if there was any
/// room: it waited for more, with all signals blocked.
fn terminal(build: Build) {
    for how in ["stopped", "unread", "last"] {
        let (stdout, _) = run(&mut command(build, &["terminal", how, "500"]));
        assert_eq!(stdout, "500 of 500\n", "{how}");
    }
}

/// What waits for the program stays, be it for the thread or for the process; what a line of the library's would raise
/// does not reach it. Seen to fail where every failing write took one away: "waits before 1, after 0".
fn signals_that_wait(build: Build) {
    let folder = scratch(&format!("says-signals-{build:?}"));
    for signal in ["SIGPIPE", "SIGXFSZ"] {
        for (how, waits) in [("none", 0), ("raised", 1), ("sent", 1)] {
            for log in [None, Some(folder.join("log"))] {
                let mut command = command(build, &["broken", signal, how]);
                command.stderr(fs::File::create(folder.join("stderr")).expect("a file"));
                if let Some(log) = &log {
                    let _ = fs::remove_file(log);
                    command.env("SOCKOPT_LOG_FILE", log);
                }
                let wanted = format!("waits before {waits}, after {waits}, delivered {waits}\n");
                assert_eq!(run(&mut command).0, wanted, "{signal} {how} {log:?}");
                // Nothing was written where nothing may grow.
                let size = |file: &Path| fs::metadata(file).map_or(0, |file| file.len());
                if signal == "SIGXFSZ" {
                    assert_eq!(size(&folder.join("stderr")) + log.as_deref().map_or(0, size), 0);
                }
            }
        }
    }
}

/// Nothing is written to what the program has opened by the number 2, or has put there: that it is its standard error
/// cannot be told from a file of its data. Seen to fail where the number alone counted: the lines were in the file.
fn descriptor_2_is_another(build: Build) {
    let file = scratch(&format!("says-reused-{build:?}")).join("data");
    let name = file.display().to_string();
    for (how, opened) in [("open", 2), ("dup2", 2), ("closed", 2)] {
        let mut command = command(build, &["reused", how, &name]);
        if how == "closed" {
            let mut shell = plain("sh");
            shell.args(["-c", "exec \"$@\" 2>&-", "sh"]).arg(command.get_program()).args(command.get_args());
            command.get_envs().filter_map(|(name, value)| Some((name, value?))).for_each(|(name, value)| {
                shell.env(name, value);
            });
            command = shell;
        }
        let stderr = run(&mut command);
        assert_eq!(stderr, (format!("{opened}: data\n"), String::new()), "{how}");
    }
    // The test of the test: where it is the same still, lines are written.
    let (_, stderr) = run(&mut command(build, &["filter", "none"]));
    assert!(stderr.contains("debug: connect"), "{stderr}");
}

/// A mask that cannot be changed is not put back, and where a look at an address is refused another is taken. Seen to
/// fail where the failure went unnoticed: the mask was wiped, and SIGUSR1 ended the program; and where any other errno
/// than EINVAL meant that an address cannot be read: "options 7200 7200 5".
fn filters(build: Build) {
    for (what, options, known) in [
        ("none", "5 5 5", true),
        ("block", "5 5 5", true),
        ("set", "5 5 5", true),
        ("all", "5 5 5", false),
        ("blind", "7200 7200 5", true),
        // Seen to fail where that a socket is none was all that was said, at debug: no warning.
        ("options", "-1 -1 -1", true),
    ] {
        let (stdout, stderr) = run(&mut command(build, &["filter", what]));
        let mask = if known { "mask 1 0 0\n" } else { "" };
        assert_eq!(stdout, format!("options {options}, waits 1\n{mask}"), "{what}: {stderr}");
        let warnings = stderr.lines().filter(|line| line.contains("warning: a seccomp filter refuses")).count();
        assert_eq!(warnings, usize::from(["blind", "options"].contains(&what)), "{stderr}");
    }
}

/// A filter may answer by SIGSYS, which ends the process if it is blocked: the program's handler answers then, as it does
/// outside of the library. Seen to fail with every signal blocked: SIGSYS ended the program, in each of the three.
fn trapped(build: Build) {
    let log = scratch(&format!("says-trapped-{build:?}")).join("log");
    #[cfg(target_arch = "x86_64")]
    const POLL: i64 = libc::SYS_poll;
    #[cfg(not(target_arch = "x86_64"))]
    const POLL: i64 = libc::SYS_ppoll;
    for (calls, is_to_file) in [(&[libc::SYS_openat][..], true), (&[POLL], false), (&[libc::SYS_munmap], false)] {
        let calls = calls.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
        let mut command = command(build, &["trapped", &calls]);
        if is_to_file {
            command.env("SOCKOPT_LOG_FILE", &log);
        }
        assert_eq!(run(&mut command).0, "options 5 5, trapped 1\n", "{calls}");
    }
}

/// A handler that leaves by longjmp, which keeps the mask as it is: nothing of ours is left in it, nor open. Seen to
/// fail where a line was written with three signals blocked and the rest not: these three were left blocked, and 653
/// descriptors of the log file open.
fn jumps(build: Build) {
    let log = scratch(&format!("says-jumps-{build:?}")).join("log");
    let (stdout, stderr) = run(command(build, &["jump", "3000"]).env("SOCKOPT_LOG_FILE", &log));
    assert_eq!((stdout.as_str(), stderr.as_str()), ("left open: 0\noption 5\n", ""));
    assert!(fs::read_to_string(&log).is_ok_and(|log| log.lines().count() > 3000));
}

/// The same in the first connect of a process. Seen to fail, in 114 of 8000 processes, where signals were blocked only
/// within set-up's own stack: the thread counted as being in set-up for ever.
fn jumps_out_of_set_up(build: Build) {
    let (stdout, stderr) = run(command(build, &["first", "2000"]).env("SOCKOPT_LOG", "warn"));
    assert_eq!((stdout.as_str(), stderr.as_str()), ("2000 of 2000\n", ""));
}

//! Threads and processes that come at once: set-up and first use, fork in the middle of it, descriptors that others
//! close and put in place, the environment. The long forms are in tests/thorough.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use libtest_mimic::Trial;

use crate::support::{plain, preloaded, probe, scratch, test, text};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        test("races::same_descriptors", || {
            // Neighbours with a table of descriptors go stale here or hang, and those that call getenv on every
            // socket crash against setenv. Seen to fail with an ffi::append that does not close.
            race("churn", &["churn", "200000"], 20, "descriptors left 0, option 1\n", Some(1));
        }),
        test("races::first_use_in_64_threads", || {
            // Every socket has the options and one configuration is reported, in each of 50 processes. Seen to fail
            // with a compile_into that reports before it has set ACTIVE.
            race("first", &["times", "50", "first"], 50, &"64 of 64\n".repeat(50), Some(50));
        }),
        test("races::fork_in_set_up", || {
            // Of ip2unix, torsocks and proxychains-rs some children hang for ever. Seen to fail with set-up under a
            // std::sync::Mutex.
            race("fork", &["times", "5", "fork"], 200, &"100 of 100 children, thread 1\n".repeat(5), None);
        }),
        test("races::memory_for_one_set_up", first_use_with_little_memory),
    ]
}

/// So many rules for elsewhere, and one for 127.0.0.1: set-up takes a while.
pub(crate) fn many_rules(folder: &Path, count: usize) -> PathBuf {
    let mut rules = String::new();
    for i in 0..count {
        let _ = write!(rules, "[[rule]]\nto = [\"10.{}.{}.1:80\"]\nuser_timeout = \"2s\"\n", i / 256, i % 256);
    }
    rules += "[[rule]]\nto = [\"127.0.0.1\"]\ndead_peer_timeout = \"15s\"\n";
    let file = folder.join("sockopt.toml");
    fs::write(&file, rules).expect("a configuration");
    file
}

/// Runs the probe under the library, with that many rules; what it prints, and how many configurations are reported.
fn race(name: &str, arguments: &[&str], rules: usize, prints: &str, reports: Option<usize>) {
    let folder = scratch(&format!("race-{name}"));
    let (configuration, log) = (many_rules(&folder, rules), folder.join("log"));
    let mut command = preloaded(probe("race"));
    command.args(arguments).env("SOCKOPT_CONFIG", configuration).env("SOCKOPT_LOG", "info");
    if reports.is_some() {
        command.env("SOCKOPT_LOG_FILE", &log);
    }
    let output = command.output().expect("it runs");
    assert_eq!((text(&output).0.as_str(), output.status.success()), (prints, true), "{}", text(&output).1);
    if let Some(reports) = reports {
        let said = fs::read_to_string(&log).expect("a log");
        assert_eq!(said.matches("info: configuration").count(), reports, "{said}");
    }
}

/// Address space for one set-up but not for 64 at once: who is late must not switch off what the first has set up.
/// Not seen to fail.
fn first_use_with_little_memory() {
    let configuration = many_rules(&scratch("race-memory"), 50);
    for megabytes in [100, 120, 160, 250] {
        let mut command = plain("prlimit");
        command.args([format!("--as={}", megabytes << 20), "env".into()]);
        command.arg(format!("LD_PRELOAD={}", crate::support::library().display())).arg(probe("race"));
        command.args(["times", "5", "first"]).env("SOCKOPT_CONFIG", &configuration);
        let output = command.output().expect("prlimit runs");
        let wanted = ("64 of 64\n".repeat(5), String::new());
        assert_eq!(text(&output), wanted, "{megabytes} MiB");
    }
}

//! Java shuts a socket down just before it closes it, so that its FIN is out when close comes. Whether the kernel can still
//! leave TIME_WAIT out depends on how soon the peer's FIN is there: a peer on this machine that closes at once may be
//! faster, one that a network lies between is not.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use libtest_mimic::Trial;

use super::{WITHOUT, server, time_waits};
use crate::support::lab::{Lab, Place, Running, SERVER, needs};
use crate::support::{HTTP_CLIENT4, find, plain, root, scratch, test_with, text};

const COUNT: usize = 400;
const RUNS: usize = 5;

/// What HttpClient 4 needs, as Debian has it.
const JARS: [&str; 4] = ["httpclient", "httpcore", "commons-logging", "commons-codec"];

pub(super) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for how in ["socket", "url", "client4"] {
        for delay in [0, 1_000, 5_000] {
            let name = format!("time_wait::java::{how}_peer_closes_after_{delay}_us");
            trials.push(test_with(&needs(["ss", "java", "javac", HTTP_CLIENT4]), name, move || closes(how, delay)));
        }
    }
    trials
}

/// Seen to fail: with 0 in place of -1.
fn closes(how: &'static str, delay: u32) {
    // One at a time: they measure.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let path = class_path(&format!("{how} {delay}"));
    let left = |environment: &[&str]| {
        let lab = Lab::with_link();
        let _server = server(&lab, &["answer", "8001", &delay.to_string()]);
        let mut command = lab.covered(Place::Client, environment, find("java").expect("java"));
        command.args(["-XX:-UsePerfData", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-Xmx96m", "-cp", &path]);
        command.args(["Ends", how, SERVER, "8001", &COUNT.to_string()]);
        let (said, errors) = text(&Running::start(command).finish_within(Duration::from_secs(60)));
        assert_eq!(said, "done\n", "{errors}");
        time_waits(&lab, Place::Client)
    };
    let mut with: Vec<usize> = (0..RUNS).map(|_| left(&[WITHOUT])).collect();
    with.sort_unstable();
    let without = left(&[]);
    eprintln!("Java, {how}, peer closes after {delay} us: of {COUNT} TIME_WAIT {with:?} with, {without} without");
    assert!(without > COUNT * 9 / 10, "{without} without the library");
    // A machine that has much else to do may well stop Java for 1 ms between the two calls; on a quiet one it is 0 of 400.
    let most = match delay {
        0 => without - 1,
        1_000 => COUNT / 20,
        _ => COUNT / 100,
    };
    assert!(with[RUNS / 2] <= most, "{with:?} of {COUNT} are left, {without} without");
}

fn class_path(name: &str) -> String {
    let folder = scratch(&format!("java {name}"));
    let jars = JARS.map(|name| format!("/usr/share/java/{name}.jar")).join(":");
    let source = root().join("tests/java/Ends.java");
    let output = plain("javac").args(["-cp", &jars, "-d"]).arg(&folder).arg(source).output().expect("javac");
    assert!(output.status.success(), "{}", text(&output).1);
    format!("{jars}:{}", folder.display())
}

//! The program's memory: read as far as the call itself would read it, and never where it cannot be read.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use libtest_mimic::Trial;

use crate::command::{outcome, write};
use crate::executables::build;
use crate::faults::{Build, built};
use crate::names::{self, LOOK_UPS};
use crate::support::lab::{Lab, Place::Here, needs};
use crate::support::{plain, probe, root, scratch, test, test_with, text};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for build in [Build::Debug, Build::Release] {
        for judge in [Judge::Sanitizer, Judge::SanitizerFirst, Judge::Valgrind] {
            let needed = if judge == Judge::Valgrind { "valgrind" } else { "cc" };
            let name = format!("memory::look_ups, {judge:?}, {build:?}");
            trials.push(test_with(&needs([needed]), name, move || look_ups(judge, build)));
            trials.push(test_with(&[needed], format!("memory::calls, {judge:?}, {build:?}"), move || {
                calls(judge, build)
            }));
        }
        trials.push(test(format!("memory::taken_away_after_accept, {build:?}"), move || {
            taken_away("unmapped", RULES, build);
        }));
        trials.push(test(format!("memory::taken_away_after_sendmsg, {build:?}"), move || {
            taken_away("message", RULES, build);
        }));
    }
    trials.push(test_with(&["cc"], "memory::locked", locked));
    trials
}

/// Says how much it has mapped, locks it within the usual limit of who is not root, allows itself no more of it, and connects:
/// kB of VmSize, errno of mlockall, the user timeout.
const LOCKS: &str = r#"
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
int main(int count, char **words) {
    char text[4096] = "";
    int file = open("/proc/self/status", O_RDONLY);
    if (read(file, text, sizeof text - 1) < 0 || close(file)) return 2;
    struct rlimit locked = { 8 << 20, 8 << 20 }, none = { 4096, 4096 };
    if (setrlimit(RLIMIT_MEMLOCK, &locked) || (!getuid() && setuid(65534))) return 3;
    int error = mlockall(MCL_CURRENT | MCL_FUTURE) ? errno : 0;
    if (setrlimit(RLIMIT_AS, &none)) return 4;
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(atoi(words[1])) };
    inet_pton(AF_INET, "127.0.0.1", &to.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0), value = -1;
    if (connect(fd, (void *)&to, sizeof to)) return 5;
    socklen_t size = sizeof value;
    getsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &value, &size);
    dprintf(1, "%d %d %d\n", atoi(strstr(text, "VmSize:") + 7), error, value);
    return 0;
}
"#;

/// What waits for the first socket, mapped, is little with a thousand rules, too: a program can lock its memory, and have no
/// more of it afterwards. Seen to fail: ENOMEM with 300 rules (9.8 MB) and with 1,000 (21 MB).
fn locked() {
    let folder = scratch("memory-locked");
    let program = build(&folder, "program", LOCKS, &[]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port of 127.0.0.1");
    let port = listener.local_addr().expect("it is bound").port().to_string();
    let run = |variables: &[(&str, String)]| {
        let mut command = plain("env");
        command.args(variables.iter().map(|(name, value)| format!("{name}={value}"))).arg(&program).arg(&port);
        let (code, stdout, stderr) = outcome(&mut command);
        let numbers: Vec<i32> = stdout.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [kilobytes, error, user_timeout] = numbers[..] else { panic!("{code:?} {stdout} {stderr}") };
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        (kilobytes, error, user_timeout)
    };
    let (plain, ..) = run(&[]);
    for rules in [1, 300, 1000] {
        let mut text = String::new();
        for rule in 1..rules {
            let (high, low) = (rule / 256, rule % 256);
            text += &format!("[[rule]]\nname = \"service {rule}\"\nto = [\"10.{high}.{low}.0/24:443\"]\n");
            text += "dead_peer_timeout = \"15s\"\n\n";
        }
        text += "[[rule]]\nto = [\"127.0.0.1\"]\nuser_timeout = \"9s\"\n";
        let file = write(&folder, "rules.toml", &text).display().to_string();
        let library = built(Build::Release).display().to_string();
        let (kilobytes, error, user_timeout) = run(&[("SOCKOPT_CONFIG", file), ("LD_PRELOAD", library)]);
        assert_eq!((error, user_timeout), (0, 9000), "{rules} rules, {kilobytes} kB");
        assert!(kilobytes - plain < 2048 + 3 * rules, "{rules} rules: {kilobytes} kB, {plain} kB without the library");
    }
}

/// Who says when memory is read that is none of the call's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judge {
    /// GCC's AddressSanitizer, in the program.
    Sanitizer,
    /// The same as a library before ours.
    SanitizerFirst,
    Valgrind,
}

impl Judge {
    /// The probe as it is built for this.
    fn probe(self, name: &str, folder: &Path) -> PathBuf {
        let options: &[&str] = match self {
            Self::Sanitizer => &["-fsanitize=address", "-static-libasan"],
            Self::SanitizerFirst => &["-fsanitize=address"],
            Self::Valgrind => return probe(name),
        };
        let path = folder.join(name);
        let mut compiler = Command::new("cc");
        compiler.args(["-O1", "-g", "-Wall", "-Werror", "-pthread"]).args(options).arg("-o").arg(&path);
        let output = compiler.arg(root().join("tests/probes").join(format!("{name}.c"))).output().expect("cc runs");
        assert!(output.status.success(), "{}", text(&output).1);
        path
    }

    /// The words before the program's name.
    fn wrapper(self) -> Vec<String> {
        let suppressions = root().join("tests/thorough/valgrind.supp").display().to_string();
        match self {
            // Set-up changes stacks, which valgrind remarks upon.
            Self::Valgrind => vec![
                "valgrind".into(),
                "--quiet".into(),
                "--vgdb=no".into(),
                "--error-exitcode=9".into(),
                "--max-stackframe=16384".into(),
                format!("--suppressions={suppressions}"),
            ],
            _ => vec![],
        }
    }

    /// What is loaded before the program's own libraries.
    fn preload(self, build: Build) -> String {
        let ours = built(build).display().to_string();
        if self != Self::SanitizerFirst {
            return ours;
        }
        let runtime = Command::new("cc").arg("-print-file-name=libasan.so").output().expect("cc runs");
        format!("{}:{ours}", text(&runtime).0.trim())
    }

    /// What was printed, if the judge has nothing to say.
    fn verdict(self, output: &Output) -> String {
        let (stdout, stderr) = text(output);
        // The kernel is asked by a call that changes nothing, which valgrind says something about.
        let said: Vec<&str> = stderr.lines().filter(|line| !line.contains("unknown 'how' field -1")).collect();
        assert!(output.status.success() && said.is_empty(), "{}\n{stdout}{}", output.status, said.join("\n"));
        stdout
    }
}

const EVERY: &str = "\"redis*\", \"*.example\", \"*.com\", \"*.local\", \"*name\", \"*.test\"";

/// Every look-up, with a rule for every name, under a judge of what is read. Seen to fail with 256 bytes copied of each
/// name: AddressSanitizer ends the program, and valgrind reports an invalid read.
fn look_ups(judge: Judge, build: Build) {
    let name = format!("look-ups-{judge:?}-{build:?}");
    let lab = names::network(&name, names::SEARCH);
    let program = judge.probe("names", &scratch(&format!("memory-{name}")));
    let environment =
        [format!("LD_PRELOAD={}", judge.preload(build)), format!("SOCKOPT_CONFIG_TOML={}", names::rules(&[EVERY]))];
    let run = |environment: &[&str]| {
        let words = judge.wrapper().into_iter().chain([program.display().to_string()]);
        let mut command = lab.command(Here, environment, "env");
        judge.verdict(&command.args(words).arg("do").args(LOOK_UPS).output().expect("nsenter"))
    };
    let with = run(&environment.iter().map(String::as_str).collect::<Vec<_>>());
    let environment = [if judge == Judge::Valgrind { "A=" } else { "ASAN_OPTIONS=detect_leaks=0" }];
    assert_eq!(with, run(&environment));
    assert_eq!(with.lines().count(), LOOK_UPS.len());
    drop::<Lab>(lab);
}

const RULES: &str = "[defaults]\nkeepalive = { time = \"5s\" }\nlinger = \"off\"\nreuse_address = true\n\
                     [[rule]]\nfrom = [\"127.0.0.1\"]\nkeepalive = { time = \"5s\" }\n";

/// Every call whose arguments are looked at, with arguments in blocks of the heap. Seen to fail with 28 bytes read of
/// every address that is said to have more: AddressSanitizer ends the program.
fn calls(judge: Judge, build: Build) {
    let program = judge.probe("memory", &scratch(&format!("memory-calls-{judge:?}-{build:?}")));
    let run = |preload: Option<String>| {
        let mut command = plain("env");
        command.args(preload.map(|preload| format!("LD_PRELOAD={preload}")));
        command.env("SOCKOPT_CONFIG_TOML", RULES).args(judge.wrapper()).arg(&program).arg("exact");
        judge.verdict(&command.output().expect("env runs"))
    };
    let (with, without) = (run(Some(judge.preload(build))), run(None));
    let set = |line: &str| line.replace("option = 7200", "option = 5").replace("option = 99", "option = 5");
    assert_eq!(with.lines().collect::<Vec<_>>(), without.lines().map(set).collect::<Vec<_>>());
    assert!(with.matches("option = 5").count() > 7, "{with}");
}

/// Memory that another thread takes away as soon as the kernel is done with it. Of accept's answer seen to fail where
/// the address was read afterwards if its length was on the stack: SIGSEGV.
fn taken_away(mode: &str, toml: &str, build: Build) {
    let mut command = plain(probe("memory"));
    command.args([mode, "1000"]).env("LD_PRELOAD", built(build)).env("SOCKOPT_CONFIG_TOML", toml);
    let output = command.output().expect("it runs");
    assert_eq!((text(&output), output.status.code()), (("1000 of 1000\n".into(), String::new()), Some(0)));
}

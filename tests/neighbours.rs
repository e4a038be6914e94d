//! Other libraries in LD_PRELOAD, or that a program brings with it: whether it starts, and whether its connection has the
//! options, in each order; and what `sockopt run` makes of it.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::Trial;

use crate::command::{outcome, run, variables, write};
use crate::executables::build;
use crate::support::lab::{Lab, Place, needs};
use crate::support::{library, plain, scratch, sockopt, test, test_with};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        test_with(&["gcc", "chpst"], "neighbours::sanitizers", sanitizers),
        test_with(&["gcc"], "neighbours::sanitizers_that_are_preloaded", sanitizers_that_are_preloaded),
        test_with(&needs(["cc", "proxychains4", "torsocks", "python3"]), "neighbours::proxies", proxies),
        test_with(&["cc"], "neighbours::socket_wrapper", socket_wrapper),
        test_with(&["cc"], "neighbours::dlsym_of_its_own", dlsym_of_its_own),
        test_with(&["cc"], "neighbours::functions_that_are_not_ready", functions_that_are_not_ready),
        test("neighbours::order", order),
    ]
}

/// Connects to the address and port given, bound before if there is a third word, and says what user timeout it has.
const CLIENT: &str = r#"
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(int count, char **words) {
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(atoi(words[2])) }, any = { .sin_family = AF_INET };
    inet_pton(AF_INET, words[1], &to.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (count > 3) bind(fd, (void *)&any, sizeof any);
    if (connect(fd, (void *)&to, sizeof to)) { perror("connect"); return 1; }
    int value = -1;
    socklen_t size = sizeof value;
    syscall(SYS_getsockopt, fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &value, &size);
    char *volatile leak = malloc(10);
    if (getenv("OVERRUN")) leak[10] = 1;
    free(leak);
    printf("%d\n", value);
    return 0;
}
"#;

/// Exit code, the user timeout it has, stderr, of a program that connects to a port here.
fn connected(command: &mut Command, program: &Path) -> (Option<i32>, String, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port of 127.0.0.1");
    let port = listener.local_addr().expect("it is bound").port().to_string();
    let (code, stdout, stderr) = outcome(command.arg(program).args(["127.0.0.1", &port]));
    (code, stdout.trim_end().to_owned(), stderr)
}

fn run_9s() -> Command {
    let mut command = run();
    command.arg("--user-timeout=9s");
    command
}

/// Programs that were built with a sanitizer. Seen to fail: one with AddressSanitizer ended at once, its runtime not being the
/// first of all libraries; then behind `env ASAN_OPTIONS=...`, and there with --force.
fn sanitizers() {
    let folder = scratch("neighbours-sanitizers");
    let variables = folder.join("variables");
    fs::create_dir_all(&variables).expect("a folder of our own");
    for (name, options) in [
        ("address", &["-fsanitize=address"][..]),
        ("both", &["-fsanitize=address,undefined"]),
        ("undefined", &["-fsanitize=undefined"]),
        ("thread", &["-fsanitize=thread"]),
        ("leak", &["-fsanitize=leak"]),
        ("static-runtime", &["-fsanitize=address", "-static-libasan"]),
    ] {
        let program = build(&folder, name, CLIENT, &[&["-g", "-Wno-stringop-overflow"], options].concat());
        assert_eq!(connected(&mut run_9s(), &program), (Some(0), "9000".into(), String::new()), "{name}");
        // Behind a wrapper it is the same.
        let mut wrapped = run_9s();
        assert_eq!(
            connected(wrapped.args(["timeout", "60"]), &program),
            (Some(0), "9000".into(), String::new()),
            "{name}"
        );
        let needs_it = matches!(name, "address" | "both");
        if needs_it || name == "static-runtime" {
            // It still does what it is for.
            let (code, _, stderr) = connected(run_9s().env("OVERRUN", "1"), &program);
            assert!(code == Some(1) && stderr.contains("heap-buffer-overflow"), "{name}: {code:?} {stderr}");
        }
        let (_, stdout, _) = outcome(run_9s().env("ASAN_OPTIONS", "color=never").arg("--dry-run").arg(&program));
        let expected = "ASAN_OPTIONS=color=never:verify_asan_link_order=0\n";
        assert_eq!(stdout.contains(expected), needs_it, "{name}: {stdout}");
        assert!(needs_it || !stdout.contains("ASAN_OPTIONS"), "{name}: {stdout}");
        // A wrapper that changes the variable: the supervisor, unless it keeps what is needed.
        for (change, is_kept) in [
            (&["ASAN_OPTIONS=color=never"][..], false),
            (&["-u", "ASAN_OPTIONS"], false),
            (&["ASAN_OPTIONS=verify_asan_link_order=0:verify_asan_link_order=1"], false),
            (&["ASAN_OPTIONS=color=never:verify_asan_link_order=0"], true),
            (&["ASAN_OPTIONS=color=never", "env", "ASAN_OPTIONS=verify_asan_link_order=0"], true),
        ] {
            let context = format!("{name}: {change:?}");
            let found = connected(run_9s().arg("env").args(change), &program);
            assert_eq!(found, (Some(0), "9000".into(), String::new()), "{context}");
            let (_, stdout, _) = outcome(run_9s().args(["--dry-run", "--", "env"]).args(change).arg(&program));
            assert_eq!(stdout.contains("LD_PRELOAD="), is_kept || !needs_it, "{context}: {stdout}");
            let (code, _, stderr) = connected(run_9s().args(["--by", "library", "env"]).args(change), &program);
            assert_eq!(code, Some(if is_kept || !needs_it { 0 } else { 1 }), "{context}: {stderr}");
            // Without options it starts all the same.
            let forced = connected(run_9s().args(["--by", "library", "--force", "env"]).args(change), &program);
            let timeout = if is_kept || !needs_it { "9000" } else { "0" };
            assert_eq!((forced.0, &*forced.1), (Some(0), timeout), "{context}: {}", forced.2);
            assert_eq!(stderr.contains("env changes ASAN_OPTIONS"), !is_kept && needs_it, "{context}: {stderr}");
        }
        // Of a file in a folder of variables the first line counts. Seen to fail with all of it.
        fs::write(variables.join("ASAN_OPTIONS"), "color=never\nverify_asan_link_order=0\n")
            .expect("a folder of our own");
        let found = connected(run_9s().args(["chpst", "-e"]).arg(&variables), &program);
        assert_eq!(found, (Some(0), "9000".into(), String::new()), "{name}");
    }
}

/// Where gcc has a sanitizer's runtime.
fn runtime(name: &str) -> Option<PathBuf> {
    let (_, stdout, _) = outcome(plain("gcc").arg(format!("-print-file-name={name}")));
    PathBuf::from(stdout.trim_end()).canonicalize().ok()
}

/// Runtimes that were preloaded by who starts the command. Seen to fail: the program ended at once under libasan.
fn sanitizers_that_are_preloaded() {
    let folder = scratch("neighbours-preloaded");
    let program = build(&folder, "plain", CLIENT, &[]);
    let instrumented = build(&folder, "address", CLIENT, &["-fsanitize=address"]);
    let mut tried = 0;
    // Under liblsan no program in Rust starts, so the command does not either.
    for name in ["libasan.so", "libtsan.so", "libubsan.so"] {
        let Some(runtime) = runtime(name) else { continue };
        tried += 1;
        // The command itself would have it in it as well; and it is not the one that is tested.
        let started = |program: &Path| {
            let mut command = plain("env");
            command.args([format!("LD_PRELOAD={}", runtime.display()), "ASAN_OPTIONS=detect_leaks=0".into()]);
            command.arg(format!("SOCKOPT_LIBRARY={}", library().display()));
            connected(command.arg(sockopt()).args(["run", "--user-timeout=9s"]), program)
        };
        assert_eq!(started(&program), (Some(0), "9000".into(), String::new()), "{name}");
        if name == "libasan.so" {
            assert_eq!(started(&instrumented), (Some(0), "9000".into(), String::new()), "{name}");
        }
    }
    assert!(tried > 0, "gcc has no runtime at all");
}

/// A SOCKS server that says yes to everything and connects to nothing.
const SOCKS: &str = r#"
import socket, threading
def serve(c):
    if c.recv(1) == b'\x05':
        c.recv(c.recv(1)[0]); c.sendall(b'\x05\x00')
        kind = c.recv(4)[3]; c.recv({1: 6, 4: 18}.get(kind) or c.recv(1)[0] + 2)
        c.sendall(b'\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50')
    while c.recv(99): pass
s = socket.socket(); s.bind(('127.0.0.1', 9050)); s.listen(9); print('ready', flush=True)
while True: threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
"#;

/// Libraries that send connections to a proxy: in the one order their connections have the options, in the other they do not,
/// and that is said. Seen to fail: `run` put the library first whatever there was, and nobody said anything.
fn proxies() {
    let folder = scratch("neighbours-proxies");
    let client = build(&folder, "client", CLIENT, &[]);
    let configuration = "strict_chain\nquiet_mode\ntcp_read_time_out 15000\ntcp_connect_time_out 8000\n[ProxyList]\nsocks5 127.0.0.1 9050\n";
    let configuration = write(&folder, "proxychains.conf", configuration);
    let lab = Lab::new();
    lab.shell(Place::Here, "ip route add 198.18.0.0/15 dev lo");
    let server =
        lab.command(Place::Here, &[], "python3").args(["-c", SOCKS]).stdout(std::process::Stdio::piped()).spawn();
    let mut server = server.expect("python3");
    let mut ready = String::new();
    let _ =
        std::io::BufRead::read_line(&mut std::io::BufReader::new(server.stdout.take().expect("a pipe")), &mut ready);
    assert_eq!(ready, "ready\n");
    let proxychains =
        std::fs::read_dir(format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH)).expect("libraries").flatten();
    let proxychains =
        proxychains.map(|entry| entry.path()).find(|path| path.to_string_lossy().contains("/libproxychains.so."));
    let proxychains = proxychains.expect("proxychains4 has a library").display().to_string();
    let torsocks = format!("/usr/lib/{}-linux-gnu/torsocks/libtorsocks.so", std::env::consts::ARCH);
    let ours = library().display().to_string();

    let lab_outcome = |preload: &str, to: &str, program: &[&str]| {
        let file = format!("PROXYCHAINS_CONF_FILE={}", configuration.display());
        let library = format!("SOCKOPT_LIBRARY={ours}");
        let (to, preload) = (format!("SOCKOPT_TO={to}"), format!("LD_PRELOAD={preload}"));
        let environment = [&*file, &*library, "SOCKOPT_USER_TIMEOUT=9s", &*to, &*preload];
        let mut command = lab.command(Place::Here, &environment, program[0]);
        let (code, stdout, stderr) = outcome(command.args(&program[1..]));
        (code, stdout.lines().next_back().unwrap_or_default().to_owned(), stderr)
    };
    let to = ["198.18.0.9", "7777"];
    let client = client.display().to_string();
    let by_itself = [&*client, to[0], to[1]];
    let [set, not_set] = ["9000", "0"];
    // As it is: by what address rules match, and in which order nothing is set at all.
    for (list, address, expected, says) in [
        (
            format!("{ours}:{proxychains}"),
            "198.18.0.9",
            not_set,
            "libproxychains is behind libsockopt.so in LD_PRELOAD",
        ),
        (format!("{proxychains}:{ours}"), "127.0.0.1:9050", set, ""),
        (format!("{proxychains}:{ours}"), "198.18.0.9", not_set, ""),
        (format!("{ours}:{torsocks}"), "198.18.0.9:7777", set, ""),
        (format!("{torsocks}:{ours}"), "127.0.0.1:9050", not_set, ""),
        (format!("{torsocks}:{ours}"), "198.18.0.9:7777", not_set, ""),
    ] {
        let (code, measured, stderr) = lab_outcome(&list, address, &by_itself);
        assert_eq!((code, &*measured), (Some(0), expected), "{list} to {address}: {stderr}");
        assert_eq!(stderr.contains(says) && stderr.lines().count() == 1, !says.is_empty(), "{list}: {stderr}");
    }
    // Where any call gets as far as the library, it says so.
    let bound = [&*client, to[0], to[1], "bind"];
    let (_, measured, stderr) = lab_outcome(&format!("{torsocks}:{ours}"), "198.18.0.9", &bound);
    assert_eq!(measured, not_set);
    let reached = stderr.contains("libtorsocks is in front of libsockopt.so in LD_PRELOAD");
    assert!(reached || stderr.is_empty(), "{stderr}");

    // `run` puts it where it works.
    let command = sockopt().display().to_string();
    let run = [&*command, "run", &*client, to[0], to[1]];
    const NOTE: &str = "note: proxychains connects to the proxy: rules must match the proxy's address";
    for (list, address, note) in [
        (proxychains.clone(), "127.0.0.1:9050", NOTE),
        (format!("{ours}:{proxychains}"), "127.0.0.1:9050", NOTE),
        (torsocks.clone(), "198.18.0.9", ""),
        (format!("{torsocks} {ours}"), "198.18.0.9", ""),
    ] {
        let (code, measured, stderr) = lab_outcome(&list, address, &run);
        assert_eq!((code, &*measured), (Some(0), set), "{list}: {stderr}");
        assert!(stderr.starts_with(note) && stderr.lines().count() == note.lines().count(), "{list}: {stderr}");
    }
    // And as wrappers, on either side of it.
    for program in [
        &[&*command, "run", "proxychains4", "-q", &*client, to[0], to[1]][..],
        &["proxychains4", "-q", &*command, "run", &*client, to[0], to[1]],
    ] {
        let (code, measured, stderr) = lab_outcome("", "127.0.0.1:9050", program);
        assert_eq!((code, &*measured), (Some(0), set), "{program:?}: {stderr}");
        assert!(stderr.contains(NOTE), "{program:?}: {stderr}");
    }
    let (code, measured, stderr) =
        lab_outcome("", "198.18.0.9", &["torsocks", &*command, "run", &*client, to[0], to[1]]);
    assert_eq!((code, &*measured), (Some(0), set), "{stderr}");
    let (code, _, stderr) = lab_outcome("", "198.18.0.9", &[&*command, "run", "torsocks", &*client, to[0], to[1]]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(
        stderr.starts_with("error: torsocks puts its own library first") && stderr.contains("torsocks sockopt run"),
        "{stderr}"
    );
    let _ = (server.kill(), server.wait());
}

/// Its sockets are no TCP. Seen to fail: nothing was said of it.
fn socket_wrapper() {
    let list = "/usr/lib/libsocket_wrapper.so.0";
    let (_, stdout, stderr) = outcome(run_9s().env("LD_PRELOAD", list).args(["--dry-run", "bash"]));
    assert!(stdout.starts_with(&format!("LD_PRELOAD={}:{list}\n", library().display())), "{stdout}{stderr}");
    assert!(stderr.contains("note: socket_wrapper replaces TCP by Unix sockets"), "{stderr}");
}

/// Looks up in the place of whoever calls, as those do that follow what a program loads.
const DLSYM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
void *dlsym(void *restrict handle, const char *restrict name) {
    void *(*real)(void *, const char *) = dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.34");
    if (!real) real = dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.2.5");
    return real(handle, name);
}
"#;

/// Another library's dlsym, on either side: what comes next after that library, if it is in front, is our own hook. Seen to
/// fail: in front it had each hook call itself, until the stack was full (SIGSEGV).
fn dlsym_of_its_own() {
    let folder = scratch("neighbours-dlsym");
    let client = build(&folder, "client", CLIENT, &[]);
    let other = build(&folder, "other.so", DLSYM, &["-shared", "-fPIC"]).display().to_string();
    let ours = library().display().to_string();
    for list in [format!("{other}:{ours}"), format!("{ours}:{other}")] {
        let mut command = plain("env");
        command.arg(format!("LD_PRELOAD={list}")).env("SOCKOPT_USER_TIMEOUT", "9s");
        assert_eq!(connected(&mut command, &client), (Some(0), "9000".into(), String::new()), "{list}");
    }
}

/// What many libraries wrap, each by functions of its own that end the process until its constructor has run: they have not
/// found the real ones.
const NOT_READY: &str = r#"
#include <sys/syscall.h>
extern long syscall(long, ...);
static int is_ready;
__attribute__((constructor)) static void begin(void) { is_ready = 1; }
static void check(const char *name) {
    if (is_ready) return;
    long length = 0;
    while (name[length]) length++;
    syscall(SYS_write, 2, name, length);
    syscall(SYS_write, 2, " is not ready\n", 14L);
    syscall(SYS_exit_group, 77L);
}
#define WRAP(name, number) \
    long name(long a, long b, long c, long d, long e, long f) { check(#name); return syscall(number, a, b, c, d, e, f); }
#define AT(name, number) \
    long name(long a, long b, long c, long d) { check(#name); return syscall(number, -100L, a, b, c, d); }
AT(open, SYS_openat) AT(open64, SYS_openat) AT(readlink, SYS_readlinkat) AT(access, SYS_faccessat)
WRAP(openat, SYS_openat) WRAP(openat64, SYS_openat) WRAP(faccessat, SYS_faccessat) WRAP(readlinkat, SYS_readlinkat)
WRAP(read, SYS_read) WRAP(readv, SYS_readv) WRAP(pread64, SYS_pread64) WRAP(write, SYS_write) WRAP(writev, SYS_writev)
WRAP(close, SYS_close) WRAP(close_range, SYS_close_range) WRAP(dup, SYS_dup) WRAP(dup3, SYS_dup3)
WRAP(fcntl, SYS_fcntl) WRAP(fcntl64, SYS_fcntl) WRAP(ioctl, SYS_ioctl) WRAP(fstat, SYS_fstat) WRAP(fstat64, SYS_fstat)
WRAP(fstatat, SYS_newfstatat) WRAP(fstatat64, SYS_newfstatat) WRAP(statx, SYS_statx) WRAP(lseek, SYS_lseek) WRAP(lseek64, SYS_lseek)
WRAP(ppoll, SYS_ppoll) WRAP(getpid, SYS_getpid) WRAP(gettid, SYS_gettid) WRAP(mmap, SYS_mmap) WRAP(mmap64, SYS_mmap)
WRAP(munmap, SYS_munmap) WRAP(mprotect, SYS_mprotect) WRAP(madvise, SYS_madvise) WRAP(socket, SYS_socket)
WRAP(getsockname, SYS_getsockname) WRAP(getpeername, SYS_getpeername) WRAP(setsockopt, SYS_setsockopt)
WRAP(getsockopt, SYS_getsockopt) WRAP(clock_gettime, SYS_clock_gettime)
#ifdef SYS_stat
WRAP(stat, SYS_stat) WRAP(stat64, SYS_stat) WRAP(lstat, SYS_lstat) WRAP(lstat64, SYS_lstat) WRAP(poll, SYS_poll) WRAP(dup2, SYS_dup2)
#endif
"#;

/// The number of its first socket, and the user timeout that it has.
const FIRST: &str = r#"
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
int main(int count, char **words) {
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(atoi(words[2])) };
    inet_pton(AF_INET, words[1], &to.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0), value = -1;
    if (connect(fd, (void *)&to, sizeof to)) { perror("connect"); return 1; }
    socklen_t size = sizeof value;
    getsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &value, &size);
    printf("%d %d\n", fd, value);
    return 0;
}
"#;

/// A library before ours has its constructor run after ours, and is asked for nothing until then: by the file, the names of the
/// process, the resolver's configuration and the log. Seen to fail: "mmap is not ready"; of those wrapped alone, "statx is not
/// ready" and "close is not ready". With a library that answers with an error then (tsocks) the file stayed open as 3.
fn functions_that_are_not_ready() {
    let folder = scratch("neighbours-not-ready");
    let client = build(&folder, "client", FIRST, &[]);
    let flags = ["-shared", "-fPIC", "-fno-builtin"];
    let other = build(&folder, "other.so", NOT_READY, &flags).display().to_string();
    let rules = "rule = [{ to = [\"127.0.0.0/8\", \"db.example\"], user_timeout = \"9s\", process = [\"client\"] }]\n";
    let file = write(&folder, "rules.toml", rules);
    // Strict: all of it, and lines of log, while ours is loaded.
    for (strict, level) in [("", "warn"), ("", "debug"), ("1", "warn"), ("1", "debug")] {
        let mut command = plain("env");
        command.arg(format!("LD_PRELOAD={other}:{}", library().display())).env("SOCKOPT_STRICT", strict);
        command.env("SOCKOPT_CONFIG", &file).env("SOCKOPT_LOG", level).env("SOCKOPT_LOG_FILE", folder.join("log"));
        let found = connected(&mut command, &client);
        assert_eq!(found, (Some(0), "3 9000".into(), String::new()), "{strict} {level}");
    }
    assert!(std::fs::read_to_string(folder.join("log")).is_ok_and(|log| log.contains("TCP_USER_TIMEOUT")));
}

/// Where the library goes in a list. Seen to fail: always first, beside another copy of itself too.
fn order() {
    let ours = library().display().to_string();
    for (existing, expected) in [
        ("", "ours"),
        ("/a.so", "ours:/a.so"),
        ("/a.so:/b.so", "ours:/a.so:/b.so"),
        ("/a.so /b.so", "ours:/a.so:/b.so"),
        ("/x/libasan.so.8", "/x/libasan.so.8:ours"),
        ("libclang_rt.asan-x86_64.so /a.so", "libclang_rt.asan-x86_64.so:ours:/a.so"),
        ("/a.so:/libtsan.so.2:/b.so", "/a.so:/libtsan.so.2:ours:/b.so"),
        ("libproxychains.so.4", "libproxychains.so.4:ours"),
        ("/x/libtorsocks.so:/a.so", "ours:/x/libtorsocks.so:/a.so"),
        ("libasan.so.8:/x/libtorsocks.so", "libasan.so.8:ours:/x/libtorsocks.so"),
        // It is there, and stays where it is if that is right.
        ("ours", "ours"),
        ("/a.so ours", "/a.so ours"),
        ("ours:/a.so", "ours:/a.so"),
        ("/libasan.so.8:/a.so:ours", "/libasan.so.8:/a.so:ours"),
        ("ours:/libasan.so.8", "/libasan.so.8:ours"),
        ("/x/libtorsocks.so:ours", "ours:/x/libtorsocks.so"),
        // Another copy is not loaded beside it.
        ("libsockopt.so", "ours"),
        ("/elsewhere/libsockopt.so:/a.so", "ours:/a.so"),
        ("/a.so:ours:/elsewhere/libsockopt.so", "ours:/a.so"),
    ] {
        let existing = existing.replace("ours", &ours);
        // The loader complains of libraries that are not there, to the command as well.
        let (_, stdout, _) = outcome(run().env("LD_PRELOAD", &existing).args(["--nodelay=true", "--dry-run", "env"]));
        let list = variables(&stdout).get("LD_PRELOAD").map(|list| list.trim_matches('\'').to_owned());
        assert_eq!(list, Some(expected.replace("ours", &ours)), "{existing}");
    }
}

//! The library for aarch64, run by qemu's emulation of that machine's programs on this kernel. Another process, which is not
//! emulated, reads the options back.

use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::Trial;

use crate::script::Script;
use crate::support::lab::{Lab, Options, Place::Here, Running};
use crate::support::{
    AARCH64_GCC, AARCH64_LIBRARY, QEMU_AARCH64, aarch64_library, plain, root, scratch, test_with, text,
};
use crate::{hooks, options};

const NEEDS: [&str; 4] = ["namespaces", QEMU_AARCH64, AARCH64_GCC, AARCH64_LIBRARY];

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        test_with(&NEEDS, "aarch64::symbol_versions", symbol_versions),
        test_with(&NEEDS, "aarch64::glibc, this Debian's", || sets_options(&Libc::here())),
        test_with(&[&NEEDS[..], &[OLD]].concat(), "aarch64::glibc 2.31", || sets_options(&Libc::old())),
        test_with(&[&NEEDS[..], &[MUSL]].concat(), "aarch64::musl", || sets_options(&Libc::musl())),
        test_with(
            &[&NEEDS[..], &[MUSL]].concat(),
            "aarch64::musl, library of another architecture",
            another_architecture,
        ),
        test_with(&[&NEEDS[..], &[CURL]].concat(), "aarch64::curl", curl),
    ];
    let scripts = options::scripts().into_iter().map(|(name, script)| (format!("options: {name}"), script));
    let scripts = scripts.chain(hooks::scripts().into_iter().map(|(name, script)| (format!("hooks: {name}"), script)));
    trials.extend(scripts.filter(|(name, _)| !is_beyond_qemu(name)).map(|(name, script): (String, Script)| {
        test_with(&NEEDS, format!("aarch64::{name}"), move || script.check_aarch64())
    }));
    trials
}

/// What qemu 7.2 does not pass on to the kernel, or answers by itself, with the library and without.
fn is_beyond_qemu(name: &str) -> bool {
    const BEYOND: [&str; 18] = [
        // SO_PEERNAME, by which an option that the program sets is told to be a rule's.
        "hooks: enforce: ",
        "hooks: received: ",
        "hooks: unspecified: ",
        "hooks: fastopen: the program's own word comes too late",
        "hooks: arguments: setsockopt ",
        // SO_MARK, SO_MAX_PACING_RATE, IP_BIND_ADDRESS_NO_PORT, IP_TRANSPARENT.
        "mark = ",
        "MARK=",
        "max_pacing_rate = ",
        "MAX_PACING_RATE=",
        "local_ports_late = ",
        "the port is chosen late",
        "transparent = ",
        "a UDP server may bind to an address that this machine does not have",
        "options: TCP's options are not for UDP",
        // Memory that is not there.
        "hooks: pointers: ",
        // vfork(2) is a fork(2) there, and what a child prints comes in another order.
        "hooks: hard: vfork",
        "hooks: hard: spawn",
        "hooks: hard: fork",
    ];
    BEYOND.iter().any(|part| name.contains(part))
}

/// Every symbol has glibc 2.17's version, the oldest that there is for this machine, or is one that the library does without. Seen
/// to fail with a build.rs that makes the stub for x86-64 alone.
fn symbol_versions() {
    let output =
        plain("readelf").args(["--dyn-syms", "-W"]).arg(aarch64_library()).output().expect("binutils are there");
    let symbols = text(&output).0;
    let mut checked = 0;
    for line in symbols.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, _, _, _, binding, _, "UND", name, ..] = words[..] else { continue };
        match name.split_once("@GLIBC_") {
            Some((_, version)) => assert_eq!(version, "2.17", "{name}"),
            None => assert_eq!(binding, "WEAK", "{name} has no version"),
        }
        checked += 1;
    }
    assert!(checked > 20, "{symbols}");
    let output = plain("readelf").args(["-d", "-W"]).arg(aarch64_library()).output().expect("binutils are there");
    let dynamic = text(&output).0;
    let needed: Vec<&str> = dynamic.lines().filter(|line| line.contains("(NEEDED)")).collect();
    assert!(matches!(needed[..], [one] if one.contains("[libc.so.6]")), "{needed:?}");
}

/// A C library of that machine.
struct Libc {
    /// Where qemu looks for the loader.
    root: PathBuf,
    /// What a program is linked to.
    libraries: Vec<PathBuf>,
    options: &'static [&'static str],
}

/// Where .ci/run unpacks them.
pub(crate) const OLD: &str = "target/tmp/aarch64-glibc/unpacked";
pub(crate) const MUSL: &str = "target/tmp/aarch64-musl/unpacked";
const CURL: &str = "target/tmp/aarch64-curl/unpacked";

impl Libc {
    fn here() -> Self {
        Self { root: "/usr/aarch64-linux-gnu".into(), libraries: Vec::new(), options: &[] }
    }

    fn old() -> Self {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("aarch64-glibc");
        let libraries = ["lib/aarch64-linux-gnu/libc.so.6", "lib/ld-linux-aarch64.so.1"];
        Self { libraries: libraries.map(|file| root.join(file)).into(), root, options: &["-nodefaultlibs"] }
    }

    fn musl() -> Self {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("aarch64-musl");
        let start = ["usr/lib/aarch64-linux-musl/Scrt1.o", "lib/aarch64-linux-musl/libc.so"];
        let options = &["-nostdlib", "-Wl,--dynamic-linker=/lib/ld-musl-aarch64.so.1"];
        Self { libraries: start.map(|file| root.join(file)).into(), root, options }
    }

    /// What a program prints that connects once.
    fn run(&self, name: &str, library: Option<&Path>) -> (i32, String) {
        let program = scratch(&format!("aarch64-{name}")).join("plain");
        let mut compiler = Command::new(AARCH64_GCC);
        compiler.args(["-O1", "-o"]).arg(&program).args(self.options);
        let output = compiler.arg(root().join("tests/probes/plain.c")).args(&self.libraries).output();
        let output = output.expect("the compiler runs");
        assert!(output.status.success(), "{}", text(&output).1);
        let mut command = plain("unshare");
        command.args(["-rn", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh", QEMU_AARCH64, "-L"]).arg(&self.root);
        if let Some(library) = library {
            command.arg("-E").arg(format!("LD_PRELOAD={}", library.display()));
        }
        command.args(["-E", "SOCKOPT_DEAD_PEER_TIMEOUT=15s"]).arg(&program).arg("4000");
        let output = command.output().expect("unshare runs");
        (output.status.code().unwrap_or(-1), text(&output).0)
    }
}

/// Seen to fail with the library of a build.rs without the stub (glibc 2.31: version not found, musl: relocating fails).
fn sets_options(libc: &Libc) {
    let name = libc.root.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let with = libc.run(&format!("{name}-with"), Some(&aarch64_library()));
    let without = libc.run(&format!("{name}-without"), None);
    assert_eq!(with, (0, "connect -1, TCP_KEEPIDLE 5\n".to_owned()));
    assert_eq!(without, (0, "connect -1, TCP_KEEPIDLE 7200\n".to_owned()));
}

/// musl does not look at the machine of a library, and ends the program: whoever chooses the library must (docs/limits.md).
fn another_architecture() {
    let library = crate::support::library();
    assert_eq!(Libc::musl().run("another", Some(&library)), (127, String::new()));
    assert_eq!(Libc::here().run("another-glibc", Some(&library)).1, "connect -1, TCP_KEEPIDLE 7200\n");
}

/// Debian's curl for that machine, over IPv4 and IPv6. Seen to fail with another library in its place.
fn curl() {
    const RULE: [&str; 2] = ["SOCKOPT_KEEPALIVE=11s,4s,6", "SOCKOPT_USER_TIMEOUT=9s"];
    const OWN: Options = [1, 60, 60, 9, 0];
    const SET: Options = [1, 11, 4, 6, 9000];
    const WAYS: [(&str, u16, bool, Options); 4] = [
        ("127.0.0.1", 8001, false, OWN),
        ("::1", 8002, false, OWN),
        ("127.0.0.1", 8003, true, SET),
        ("::1", 8004, true, SET),
    ];
    let ports = WAYS.map(|(_, port, ..)| port);
    let system = Path::new(env!("CARGO_TARGET_TMPDIR")).join("aarch64-curl");
    let preload = format!("LD_PRELOAD={}", aarch64_library().display());
    let lab = Lab::new();
    let mut server = lab.serve(Here, &ports);
    let running = WAYS.map(|(ip, port, is_covered, _)| {
        let mut command = lab.command(Here, &RULE, QEMU_AARCH64);
        command.arg("-L").arg(&system);
        if is_covered {
            command.args(["-E", &preload]);
        }
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        command.arg(system.join("usr/bin/curl")).args(["-q", "-sS", "-g", "--noproxy", "*"]);
        command.arg(format!("http://{host}:{port}/"));
        Running::start(command)
    });
    server.wait_for(&ports);
    let sockets = lab.sockets();
    for (ip, port, _, options) in WAYS {
        let found: Vec<Options> =
            sockets.iter().filter(|socket| socket.is_to(ip, port)).map(|socket| socket.options).collect();
        assert_eq!(found, [options], "{ip} {port}");
    }
    server.release();
    for running in running {
        let output = running.finish();
        let (answer, said) = text(&output);
        assert!(output.status.success() && answer.contains("hello from /") && said.is_empty(), "{output:?}");
    }
}

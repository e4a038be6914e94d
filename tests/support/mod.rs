//! What the tests share: the built products, probes in C, requirements, network namespaces.

pub(crate) mod lab;

use std::collections::HashMap;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};

/// The repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// `libsockopt.so`, which cargo built beside this test.
pub(crate) fn library() -> PathBuf {
    let executable = env::current_exe().expect("the test has a path");
    let library = executable.with_file_name("libsockopt.so");
    assert!(library.is_file(), "{} was not built", library.display());
    library
}

/// The `sockopt` command.
pub(crate) fn sockopt() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_sockopt"))
}

/// A fresh folder of this test's own.
pub(crate) fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a scratch folder");
    folder
}

/// A command without any configuration of ours in its environment, and with nothing on its standard input.
pub(crate) fn plain(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"SOCKOPT_") || name == "LD_PRELOAD" {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// The same under the library.
pub(crate) fn preloaded(program: impl AsRef<OsStr>) -> Command {
    let mut command = plain(program);
    command.env("LD_PRELOAD", library());
    command
}

/// A probe: `tests/probes/NAME.c`, compiled once.
pub(crate) fn probe(name: &str) -> PathBuf {
    compiled(name, name, &[])
}

/// The same, linked statically: no loader puts a library into it.
pub(crate) fn static_probe(name: &str) -> PathBuf {
    compiled(name, &format!("{name}-static"), &["-static"])
}

/// The same for aarch64, linked to Debian's glibc for that machine.
pub(crate) fn aarch64_probe(name: &str) -> PathBuf {
    compiled_by(AARCH64_GCC, name, &format!("{name}-aarch64"), &[])
}

/// The same as C++, in which a signal handler may throw.
pub(crate) fn cpp_probe(name: &str) -> PathBuf {
    compiled_by("g++", name, &format!("{name}-cpp"), &["-x", "c++", "-fnon-call-exceptions", "-fno-omit-frame-pointer"])
}

fn compiled(name: &str, as_name: &str, options: &[&str]) -> PathBuf {
    compiled_by("cc", name, as_name, options)
}

fn compiled_by(compiler: &str, name: &str, as_name: &str, options: &[&str]) -> PathBuf {
    static BUILT: OnceLock<Mutex<HashMap<String, PathBuf>>> = OnceLock::new();
    let mut built = lock(BUILT.get_or_init(Mutex::default));
    if let Some(path) = built.get(as_name) {
        return path.clone();
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("probes");
    fs::create_dir_all(&folder).expect("a folder for probes");
    let path = folder.join(as_name);
    let source = root().join("tests/probes").join(format!("{name}.c"));
    let compiler = Command::new(compiler)
        .args(["-O1", "-g", "-Wall", "-Werror", "-pthread"])
        .args(options)
        .arg("-o")
        .arg(&path)
        .arg(&source)
        .output();
    let compiler = compiler.expect("cc is installed: Rust links with it");
    assert!(compiler.status.success(), "{}: {}", source.display(), String::from_utf8_lossy(&compiler.stderr));
    built.insert(as_name.to_owned(), path.clone());
    path
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A program in Go, `tests/go/NAME.go`, without libc; compiled once.
pub(crate) fn go_program(name: &str) -> PathBuf {
    static BUILT: OnceLock<Mutex<HashMap<String, PathBuf>>> = OnceLock::new();
    let mut built = lock(BUILT.get_or_init(Mutex::default));
    if let Some(path) = built.get(name) {
        return path.clone();
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go");
    fs::create_dir_all(&folder).expect("a folder for programs");
    let path = folder.join(name);
    let mut compiler = plain("go");
    // What Debian has of Go's libraries comes with it.
    let libraries = format!("{}:/usr/share/gocode", folder.join("path").display());
    compiler.env("PATH", search_path()).env("GOCACHE", folder.join("cache")).env("GOPATH", libraries);
    compiler.envs([("CGO_ENABLED", "0"), ("GO111MODULE", "off"), ("GOFLAGS", "")]);
    let output = compiler.args(["build", "-o"]).arg(&path).arg(root().join(format!("tests/go/{name}.go"))).output();
    let output = output.expect("go");
    assert!(output.status.success(), "{}", text(&output).1);
    built.insert(name.to_owned(), path.clone());
    path
}

/// The two streams of a finished command, as text.
pub(crate) fn text(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// Where programs are looked for. The distribution's come first: a wrapper in front of one would be what is tested.
pub(crate) fn search_path() -> String {
    format!("/usr/sbin:/usr/bin:/sbin:/bin:{}", env::var("PATH").unwrap_or_default())
}

/// A program, also one of PostgreSQL's, which Debian keeps apart.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let mut apart: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .map(|versions| versions.flatten().map(|version| version.path().join("bin")).collect())
        .unwrap_or_default();
    apart.sort();
    let path = search_path();
    let folders = apart.into_iter().rev().chain(env::split_paths(&path));
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Whether the Python that the labs run has a module.
fn has_module(name: &str) -> bool {
    let find = format!("import sys, importlib.util as i; sys.exit(i.find_spec({name:?}) is None)");
    Command::new("python3").env("PATH", search_path()).args(["-c", &find]).status().is_ok_and(|status| status.success())
}

/// Whether PHP has these extensions, separated by blanks.
fn has_extensions(names: &str) -> bool {
    let list = Command::new("php").env("PATH", search_path()).arg("-m").output();
    list.is_ok_and(|output| names.split(' ').all(|name| text(&output).0.lines().any(|line| line == name)))
}

/// Whether this user may make user and network namespaces.
pub(crate) fn can_unshare() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| {
        Command::new("unshare").args(["-Urn", "true"]).output().is_ok_and(|output| output.status.success())
    })
}

/// Whether this user may make namespaces with more users than one: root may, others need newuidmap and a range.
fn can_map_users() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| {
        if is_root() {
            let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
            let first: Vec<u64> = map.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            return can_unshare() && first.first() == Some(&0) && first.get(2).is_some_and(|count| *count >= USERS);
        }
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", "--map-root-user", "--map-auto", "setpriv", "--reuid=1", "--clear-groups", "true"]);
        unshare.output().is_ok_and(|output| output.status.success())
    })
}

/// What [`lab::Lab::with_users`] needs, where one is not root.
pub(crate) const MORE_USERS: &str = "newuidmap and a range in /etc/subuid";

/// Java's, as JMeter has it.
pub(crate) const HTTP_CLIENT4: &str = "HttpClient 4";

/// Go's gRPC, as Debian has it.
pub(crate) const GRPC_GO: &str = "golang-google-grpc-dev";

/// From a wheel (`tests/time_wait/envoy.sh`), or installed.
pub(crate) const ENVOY: &str = "envoy";

pub(crate) fn envoy() -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_TARGET_TMPDIR")).join("envoy/envoy");
    if own.exists() { Some(own) } else { find(ENVOY) }
}

/// Built by `tests/supervise/easeprobe.sh` where its source can be had.
pub(crate) const EASEPROBE: &str = "EaseProbe's source";

pub(crate) fn easeprobe() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("easeprobe/easeprobe")
}

/// The compiler for aarch64, and what runs its programs here.
pub(crate) const AARCH64_GCC: &str = "aarch64-linux-gnu-gcc";
pub(crate) const QEMU_AARCH64: &str = "qemu-aarch64-static";

/// The library for that machine.
pub(crate) const AARCH64_LIBRARY: &str = "cargo build --release -p sockopt-preload --target aarch64-unknown-linux-gnu";

pub(crate) fn aarch64_library() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("../aarch64-unknown-linux-gnu/release/libsockopt.so")
}

/// What the kernel may lack, or refuse.
pub(crate) const MULTIPATH: &str = "Multipath TCP";
pub(crate) const CAN_IO_URING: &str = "io_uring";

fn can_io_uring() -> bool {
    let setup = "import ctypes, sys; sys.exit(ctypes.CDLL(None).syscall(425, 1, ctypes.create_string_buffer(120)) < 0)";
    let python = Command::new("python3").env("PATH", search_path()).args(["-c", setup]).status();
    python.is_ok_and(|status| status.success())
}

/// How many users root maps.
pub(crate) const USERS: u64 = 65_536;

pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// How long a test may take: several times what the longest does, on a machine that has much else to do.
const LONGEST: Duration = Duration::from_secs(300);

/// A test. One that hangs fails, and the others go on; what it has started ends with this process ([`lab`]).
pub(crate) fn test(name: impl Into<String>, run: impl FnOnce() + Send + 'static) -> Trial {
    Trial::test(name, move || {
        let (sender, done) = mpsc::channel();
        let thread = thread::spawn(move || {
            // Dropped as well when it panics.
            let _done: Sender<()> = sender;
            run();
        });
        if done.recv_timeout(LONGEST) == Err(RecvTimeoutError::Timeout) {
            return Err(Failed::from(format!("still runs after {LONGEST:?}")));
        }
        thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        Ok(())
    })
}

/// A test that needs programs (or `"namespaces"`, [`MORE_USERS`], `"python3 module …"`, `"php extension …"`). Where one is missing it is ignored,
/// with the reason in brackets; in CI it fails instead, since there everything is installed and nothing may be skipped, but for what
/// has to be fetched from where CI may not reach.
pub(crate) fn test_with(needs: &[&str], name: impl Into<String>, run: impl FnOnce() + Send + 'static) -> Trial {
    match missing(needs) {
        None => test(name, run),
        Some(reason) if env::var_os("CI").is_some() && !needs.contains(&EASEPROBE) => {
            Trial::test(name, move || Err(Failed::from(reason)))
        }
        Some(reason) => test(name, run).with_kind(reason).with_ignored_flag(true),
    }
}

fn missing(needs: &[&str]) -> Option<String> {
    let has = |need: &&&str| match (**need, need.strip_prefix("python3 module "), need.strip_prefix("php extension ")) {
        ("namespaces", ..) => can_unshare(),
        (MORE_USERS, ..) => can_map_users(),
        (HTTP_CLIENT4, ..) => Path::new("/usr/share/java/httpclient.jar").exists(),
        (GRPC_GO, ..) => Path::new("/usr/share/gocode/src/google.golang.org/grpc/health").exists(),
        (ENVOY, ..) => envoy().is_some(),
        (EASEPROBE, ..) => easeprobe().exists(),
        (AARCH64_LIBRARY, ..) => aarch64_library().exists(),
        (file, ..) if file.starts_with("target/tmp/") => {
            Path::new(env!("CARGO_TARGET_TMPDIR")).join("../..").join(file).exists()
        }
        (CAN_IO_URING, ..) => can_io_uring(),
        (MULTIPATH, ..) => Path::new("/proc/sys/net/mptcp/enabled").exists(),
        (_, Some(module), _) => has_module(module),
        (_, _, Some(extensions)) => has_extensions(extensions),
        (program, None, None) => find(program).is_some(),
    };
    let missing: Vec<&str> = needs.iter().filter(|need| !has(need)).copied().collect();
    (!missing.is_empty()).then(|| format!("needs {}", missing.join(", ")))
}

/// HAProxy's configuration, for one server behind it, in a mode of its own: `tcp` or `http`.
pub(crate) fn haproxy_configuration(mode: &str) -> String {
    format!(
        "
defaults
    mode {mode}
    timeout connect 20s
    timeout client 20s
    timeout server 20s
listen proxy
    bind 127.0.0.1:9000
    server one 127.0.0.1:8001
"
    )
}

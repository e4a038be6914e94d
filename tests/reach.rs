//! What `sockopt run` says of dynamic programs, by the functions that they and their libraries call: held against whether a
//! connection of theirs has the option.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use libtest_mimic::Trial;

use crate::command::{outcome, run_by_library as run, write};
use crate::executables::{build, shared};
use crate::support::{find, library, plain, root, scratch, test_with};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        test_with(&["cc"], "reach::system_calls_of_its_own", system_calls_of_its_own),
        test_with(&["cargo"], "reach::rustix", rustix),
        test_with(&["fpc"], "reach::free_pascal", free_pascal),
        test_with(&["cc"], "reach::libraries", libraries),
        test_with(&["cc"], "reach::what_is_loaded_later", what_is_loaded_later),
        test_with(&["cc"], "reach::without_connections", without_connections),
        test_with(&["cc", "namespaces", "busybox"], "reach::an_image_without_libc", an_image_without_libc),
    ]
}

/// An image for a program that needs no libc: a loader, and a shell that is linked statically. Preloaded there, the library ends
/// the program with 127, so the wrapper for containers leaves it out and says so. Seen to fail: with a wrapper that tries the
/// library on the shell alone.
fn an_image_without_libc() {
    const PROGRAM: &str = "void _start(void) { __asm__ volatile(\"mov $60, %eax\\n xor %edi, %edi\\n syscall\"); }\n";
    let loader = Path::new("/lib64/ld-linux-x86-64.so.2");
    let busybox = find("busybox").expect("it was looked for");
    let ldd = plain("ldd").arg(&busybox).output().expect("libc has ldd");
    assert!(!ldd.status.success(), "busybox is to be linked statically: Debian's busybox-static");
    let image = scratch("reach-without-libc");
    for folder in ["bin", "dev", "lib64", "usr/local/bin", "usr/local/lib"] {
        fs::create_dir_all(image.join(folder)).expect("a folder");
    }
    fs::write(image.join("dev/null"), "").expect("a place to mount over");
    fs::write(image.join("program.c"), PROGRAM).expect("a file");
    let mut cc = plain("cc");
    cc.args([
        "-nostdlib",
        "-pie",
        "-fPIE",
        "-fno-stack-protector",
        "-Wl,--dynamic-linker=/lib64/ld-linux-x86-64.so.2",
        "-o",
    ]);
    assert!(cc.arg(image.join("bin/program")).arg(image.join("program.c")).status().expect("cc runs").success());
    crate::command::copy(loader, image.join("lib64/ld-linux-x86-64.so.2"));
    crate::command::copy(busybox, image.join("bin/busybox"));
    for applet in ["sh", "dd", "readlink", "printf"] {
        std::os::unix::fs::symlink("busybox", image.join("bin").join(applet)).expect("a link");
    }
    crate::command::copy(library(), image.join("usr/local/lib/libsockopt.so"));
    let wrapper = "examples/container/sockopt-entrypoint";
    crate::command::copy(root().join(wrapper), image.join("usr/local/bin/sockopt-entrypoint"));
    let within = |line: &str| {
        let mount = "mount --bind /dev/null \"$0/dev/null\" && exec chroot \"$0\" /bin/sh -c \"$1\"";
        let mut command = plain("unshare");
        command.args(["-Urm", "sh", "-c", mount]).arg(&image).arg(line).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        let (code, _, stderr) = outcome(&mut command);
        (code, stderr)
    };
    assert_eq!(within("/bin/program"), (Some(0), String::new()), "the program itself");
    let preloaded = within("LD_PRELOAD=/usr/local/lib/libsockopt.so /bin/program");
    assert_eq!(preloaded.0, Some(127), "{}", preloaded.1);
    let (code, stderr) = within("sh /usr/local/bin/sockopt-entrypoint /bin/program");
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("does not load here") && stderr.contains("libc.so.6"), "{stderr}");
}

/// What a connection to the port of the first argument has for a user timeout; the function `ask` asks libc, or the kernel.
const CLIENT: &str = r#"
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
long ask(long call, long a, long b, long c, long d, long e);
int client(char *port) {
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(atoi(port)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int value = -1, size = sizeof value;
    long fd = ask(SYS_socket, AF_INET, SOCK_STREAM, 0, 0, 0);
    if (ask(SYS_connect, fd, (long)&to, sizeof to, 0, 0)) return 1;
    ask(SYS_getsockopt, fd, IPPROTO_TCP, TCP_USER_TIMEOUT, (long)&value, (long)&size);
    printf("%d\n", value);
    return 0;
}
"#;
const BY_LIBC: &str = r#"
#include <sys/socket.h>
long ask(long call, long a, long b, long c, long d, long e) {
    switch (call) {
    case SYS_socket: return socket(a, b, c);
    case SYS_connect: return connect(a, (void *)b, c);
    default: return getsockopt(a, b, c, (void *)d, (void *)e);
    }
}
"#;
const BY_ITSELF: &str = r#"
long ask(long call, long a, long b, long c, long d, long e) {
#if defined(__x86_64__)
    register long r10 asm("r10") = d, r8 asm("r8") = e;
    asm volatile("syscall" : "+a"(call) : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8) : "rcx", "r11", "memory");
    return call;
#else
    register long x8 asm("x8") = call, x0 asm("x0") = a, x1 asm("x1") = b, x2 asm("x2") = c, x3 asm("x3") = d, x4 asm("x4") = e;
    asm volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
    return x0;
#endif
}
"#;
const MAIN: &str = "int client(char *port);\nint main(int count, char **words) { return client(words[1]); }\n";

/// The program's connection's user timeout where 9 s are configured, and what was said of the program before.
fn measured(program: &Path, environment: &[(&str, &Path)]) -> (String, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port of 127.0.0.1");
    let port = listener.local_addr().expect("it is bound").port().to_string();
    let with = |option: &str| {
        let mut command = run();
        command.args(["--user-timeout=9s", option]).arg(program).arg(&port).envs(environment.iter().copied());
        outcome(&mut command)
    };
    let (code, printed, stderr) = with("--log=off");
    assert_eq!(code, Some(0), "{}: {stderr}", program.display());
    let (code, _, said) = with("--dry-run");
    assert_eq!(code, Some(0), "{said}");
    // A note that all is well is for a dry run only.
    assert!(stderr.is_empty() || stderr == said, "{stderr}\n{said}");
    (printed.trim_end().to_owned(), said)
}

const SEES: &str = "calls none of the functions that the library interposes (connect, listen, accept, sendto, ...)";

fn assert_reached(program: &Path, environment: &[(&str, &Path)]) {
    let (measured, said) = measured(program, environment);
    assert_eq!(measured, "9000", "{}", program.display());
    assert!(said.starts_with("note: ") && said.ends_with(": the library takes effect in it\n"), "{said}");
}

fn assert_past_it(program: &Path, environment: &[(&str, &Path)]) {
    let (measured, said) = measured(program, environment);
    assert_eq!(measured, "0", "{}", program.display());
    let why = format!("warning: {} {SEES}, and contains system calls: no preloaded library sees", program.display());
    assert!(said.starts_with(&why) && said.contains("\nhelp: "), "{said}");
}

/// Seen to fail: that the library takes effect was said of both.
fn system_calls_of_its_own() {
    let folder = scratch("reach-own");
    let text = |ask: &str| format!("{CLIENT}{ask}{MAIN}");
    assert_reached(&build(&folder, "by-libc", &text(BY_LIBC), &[]), &[]);
    assert_past_it(&build(&folder, "by-itself", &text(BY_ITSELF), &[]), &[]);
    // What it starts is another matter.
    let starts =
        format!("{}#include <unistd.h>\nvoid go(char **words) {{ execv(words[0], words); }}\n", text(BY_ITSELF));
    let program = build(&folder, "starts", &starts, &[]);
    assert_past_it(&program, &[]);
    assert!(measured(&program, &[]).1.contains(
        "no preloaded library sees its connections; dynamically linked programs that it starts get the library\n"
    ));
}

/// Rust on rustix, whose own backend for Linux makes the system calls. Seen to fail: as above.
fn rustix() {
    const MANIFEST: &str = "[package]\nname = \"raw\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[workspace]\n[dependencies]\n\
        rustix = { version = \"1.1.6\", default-features = false, features = [\"std\", \"net\"] }\n";
    const PROGRAM: &str = r#"
use rustix::net::{AddressFamily, SocketType, connect, socket, sockopt};
use std::net::{Ipv4Addr, SocketAddrV4};
fn main() {
    let port: u16 = std::env::args().nth(1).unwrap().parse().unwrap();
    let s = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    connect(&s, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)).unwrap();
    println!("{}", sockopt::tcp_user_timeout(&s).unwrap());
}
"#;
    let folder = scratch("reach-rustix");
    fs::create_dir(folder.join("src")).expect("a folder");
    write(&folder, "Cargo.toml", MANIFEST);
    write(&folder, "src/main.rs", PROGRAM);
    // The versions that this project has: they are there.
    crate::command::copy(root().join("Cargo.lock"), folder.join("Cargo.lock"));
    let target = folder.join("target");
    let mut cargo = plain("cargo");
    cargo.current_dir(&folder).args(["build", "--quiet", "--offline", "--target-dir"]).arg(&target);
    for (variable, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CARGO_")) {
        if variable != "CARGO_HOME" {
            cargo.env_remove(variable);
        }
    }
    let (code, _, stderr) = outcome(&mut cargo);
    assert_eq!(code, Some(0), "{stderr}");
    assert_past_it(&target.join("debug/raw"), &[]);
}

/// Free Pascal's own run-time library loads code while it runs, so it is not certain. Seen to fail: as above.
fn free_pascal() {
    const PROGRAM: &str = "program raw;\nuses cthreads, sockets;\nvar s, v: longint; n: TSockLen; a: TInetSockAddr; c: integer; p: word;\n\
        begin\n  val(paramstr(1), p, c);\n  s := fpSocket(AF_INET, SOCK_STREAM, 0);\n  a.sin_family := AF_INET;\n  a.sin_port := htons(p);\n\
        a.sin_addr := StrToNetAddr('127.0.0.1');\n  if fpConnect(s, @a, sizeof(a)) <> 0 then halt(1);\n  n := sizeof(v);\n\
        fpGetSockOpt(s, 6, 18, @v, @n);\n  writeln(v);\nend.\n";
    let folder = scratch("reach-pascal");
    let source = write(&folder, "raw.pas", PROGRAM);
    let (code, stdout, stderr) = outcome(plain("fpc").current_dir(&folder).arg(&source));
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    let program = folder.join("raw");
    let (measured, said) = measured(&program, &[]);
    assert_eq!(measured, "0");
    let why = format!("note: {} {SEES}, contains system calls, and loads code", program.display());
    assert!(
        said.starts_with(&why)
            && said.ends_with("it is not known whether the library sees its connections; --by supervisor sees them\n"),
        "{said}"
    );
}

/// A program that leaves it to its libraries, found in each of the ways of ld.so(8). Seen to fail: that the library takes
/// effect was said of all of them, also of one that the loader cannot start.
fn libraries() {
    let folder = scratch("reach-libraries");
    let text = |ask: &str| format!("{CLIENT}{ask}");
    let at = |path: &Path| path.display().to_string();
    for (name, ask, check) in
        [("libc", BY_LIBC, assert_reached as fn(&Path, &[(&str, &Path)])), ("itself", BY_ITSELF, assert_past_it)]
    {
        let below = folder.join(name);
        fs::create_dir_all(&below).expect("a folder");
        let soname = |name: &str| format!("-Wl,-soname,{name}.so");
        let first = shared(&below, "first.so", &text(ask), &[&soname("first")]);
        // Another one that needs it.
        let middle = "int client(char *port);\nint through(char *port) { return client(port); }\n";
        let second = shared(&below, "second.so", middle, &[&at(&first), &soname("second")]);
        let main = MAIN.replace("client", "through");
        let program = |name: &str, text: &str, options: &[&str]| build(&folder, name, text, options);
        let first = at(&first);
        let (rpath, runpath) = ("-Wl,--disable-new-dtags", "-Wl,--enable-new-dtags");
        let absolute = format!("-Wl,-rpath,{}", at(&below));
        let origin = format!("-Wl,-rpath,$ORIGIN/{name}");
        for (index, options) in
            [[runpath, &*absolute], [runpath, &*origin], [rpath, &*absolute], [rpath, &*origin]].iter().enumerate()
        {
            let options: Vec<&str> = options.iter().copied().chain([&*first]).collect();
            check(&program(&format!("{name}-{index}"), MAIN, &options), &[]);
        }
        let bare = program(&format!("{name}-bare"), MAIN, &[&first]);
        check(&bare, &[("LD_LIBRARY_PATH", &below)]);
        // DT_RPATH is for what is needed in turn as well.
        let second = at(&second);
        let unresolved = "-Wl,--allow-shlib-undefined";
        check(&program(&format!("{name}-in-turn"), &main, &[rpath, &absolute, &second, unresolved]), &[]);
        // DT_RUNPATH is not: the loader does not find it, and neither does this.
        let lost = program(&format!("{name}-lost"), &main, &[runpath, &absolute, &second, unresolved]);
        let (code, _, stderr) = outcome(&mut plain(&lost));
        assert_eq!(code, Some(127), "{stderr}");
        let (code, _, stderr) = outcome(run().args(["--nodelay=true", "--dry-run"]).arg(&lost));
        assert_eq!(code, Some(0), "{stderr}");
        assert!(
            stderr.contains(", and needs first.so, which was not found or cannot be read: it is not known whether"),
            "{stderr}"
        );
        // By a path.
        let here = shared(&folder, &format!("{name}-path.so"), &text(ask), &[]);
        check(&program(&format!("{name}-by-path"), MAIN, &[&at(&here)]), &[]);
    }
    // From ld.so.cache: Debian's libselinux, which is everywhere, connects.
    let system = PathBuf::from(format!("/lib/{}-linux-gnu/libselinux.so.1", std::env::consts::ARCH));
    if system.is_file() {
        let program = build(&folder, "cached", "int main(void) { return 0; }\n", &["-Wl,--no-as-needed", &at(&system)]);
        let (_, _, stderr) = outcome(run().args(["--nodelay=true", "--dry-run"]).arg(&program));
        assert!(stderr.ends_with(": the library takes effect in it\n"), "{stderr}");
    }
}

/// What dlopen brings in cannot be known from the file, so nothing is said against it. Seen to fail: that the library takes
/// effect in it was said without a word of that.
fn what_is_loaded_later() {
    let folder = scratch("reach-later");
    let library = shared(&folder, "later.so", &format!("{CLIENT}{BY_LIBC}"), &[]);
    let main = format!(
        "#include <dlfcn.h>\nint main(int count, char **words) {{ int (*client)(char *) = dlsym(dlopen(\"{}\", RTLD_NOW), \"client\"); return client(words[1]); }}\n",
        library.display()
    );
    let (measured, said) = measured(&build(&folder, "later", &main, &[]), &[]);
    assert_eq!(measured, "9000");
    assert!(said.starts_with("note: ") && said.contains(", and loads code while it runs: "), "{said}");
    assert!(said.contains(": the library takes effect in the code that calls "), "{said}");
}

/// Programs that make no connection are no cause for a warning. Seen to fail: that the library takes effect was said of them.
fn without_connections() {
    let folder = scratch("reach-without");
    let program = build(&folder, "nothing", "int main(void) { return 0; }\n", &[]);
    // Bytes that only look like the instruction: distances, places in memory, numbers.
    let alike = "int main(void) { asm(\".byte 0xeb,0x40,0x0f,0x05,0,0,0,0,0x48,0x8d,0x3d,0x0f,5,1,0,0x90,0x90,0x90,0xf,0xb6,0x7c,0xf,5,0xc1,0xe7,0x10,9,0xf8,\\\n\
        0xc6,0x44,0x24,0xf,5,0xb8,5,0,0,0,0x41,0x90,0x48,0xb9,0xc7,0xc0,0xf,0,0,0,0xf,5,0x48,0x39,0x4a,1\\n.zero 40, 0x90\"); return 0; }\n";
    let alike = build(&folder, "alike", alike, &[]);
    for program in [&program, &alike] {
        let (code, _, stderr) = outcome(run().args(["--nodelay=true", "--dry-run"]).arg(program));
        assert_eq!(code, Some(0), "{stderr}");
        assert!(
            stderr.starts_with("note: ") && stderr.ends_with(&format!(", and {SEES}: no options are set in it\n")),
            "{stderr}"
        );
        assert_eq!(outcome(run().arg("--nodelay=true").arg(program)).2, "");
    }
    let starts = build(&folder, "starts", "#include <stdlib.h>\nint main(void) { return system(\"true\"); }\n", &[]);
    let (_, _, stderr) = outcome(run().args(["--nodelay=true", "--dry-run"]).arg(&starts));
    assert!(
        stderr.ends_with(": no options are set in it; dynamically linked programs that it starts get the library\n"),
        "{stderr}"
    );
}

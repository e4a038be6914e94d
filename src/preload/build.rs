//! Links `libsockopt.so` so that it loads in every C library from glibc 2.17 and musl 1.2 on and needs libc alone.
//! A missing tool costs portability, not the build. docs/design.md has the reasons.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What of glibc is needed in which version: the oldest there is, where the linker would take the newest of the
/// machine that builds. Machines that came with 2.17 (aarch64) or later have no older version. An empty version is for what
/// the library does without (weak references). All of it lies in libc.so.6 here, so that neither libdl, libpthread nor
/// ld-linux is needed: newer glibc has it there, older programs have those libraries loaded or none (`dlsym`: see
/// libc_compat.rs). From `readelf --dyn-syms` of glibc 2.17, x86-64.
const SYMBOLS: [(&str, &str); 7] = [
    (
        "GLIBC_2.2.5",
        "__errno_location _exit abort dl_iterate_phdr dlerror dlsym environ fcntl free getenv malloc \
         memcmp memmove memset mmap pthread_setcanceltype realloc strchr strlen syscall writev",
    ),
    ("GLIBC_2.3", "__tls_get_addr"),
    ("GLIBC_2.3.4", "__xpg_strerror_r"),
    ("GLIBC_2.14", "memcpy"),
    ("GLIBC_2.16", "getauxval"),
    ("GLIBC_2.17", "clock_gettime"),
    ("", "__pthread_key_create pthread_mutex_lock pthread_mutex_unlock pthread_once"),
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-check-cfg=cfg(sockopt_tsan)");
    let target = |key: &str| env::var(format!("CARGO_CFG_TARGET_{key}")).unwrap_or_default();
    if target("OS") != "linux" {
        return;
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let compiler = env::var_os("RUSTC_LINKER").unwrap_or_else(|| "cc".into());
    // Cargo takes that from here, and would not run this again when it changes.
    let triple = env::var("TARGET").unwrap_or_default().to_uppercase().replace('-', "_");
    println!("cargo:rerun-if-env-changed=CARGO_TARGET_{triple}_LINKER");
    let native = env::var("HOST") == env::var("TARGET") || env::var_os("RUSTC_LINKER").is_some();
    // The unwinder becomes ours instead of libgcc_s's, whose loading is half of what the library adds to an exec.
    // It comes before std's own request, and what is not needed is not linked.
    if native && let Some(folder) = folder_of(&compiler, "libgcc_eh.a") {
        println!("cargo:rustc-link-search=native={}", folder.display());
        println!("cargo:rustc-link-lib=static:-bundle=gcc_eh");
    }
    let is_known = matches!(target("ARCH").as_str(), "x86_64" | "aarch64");
    if native && target("ENV") == "gnu" && is_known && make_stub(&compiler, &target("ARCH"), &out).is_some() {
        // For the library alone, in the place of the machine's: a test has start files, which ask for more than the stub has.
        println!("cargo:rustc-cdylib-link-arg=-L{}", out.display());
    }
    // What every process runs lies together: pages that a program never needs do not become its memory.
    let layout = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("layout.ld");
    println!("cargo:rerun-if-changed=layout.ld");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-T,{}", layout.display());
    // No start files: nothing of ours is in _init.
    for argument in ["-nostartfiles", "-Wl,-z,relro,-z,now,-z,noexecstack", "-Wl,--as-needed"] {
        println!("cargo:rustc-cdylib-link-arg={argument}");
    }
    // Of rustc's own linker, which it takes here if nobody says otherwise. Three segments in place of four: each costs an
    // exec two calls; and each begins with a page, since the loader writes to every page of two of them.
    let is_chosen = env::var("CARGO_ENCODED_RUSTFLAGS").is_ok_and(|flags| flags.contains("fuse-ld"));
    if target("ENV") == "gnu" && target("ARCH") == "x86_64" && !is_chosen {
        for argument in ["-Wl,--no-rosegment", "-Wl,-z,separate-loadable-segments"] {
            println!("cargo:rustc-cdylib-link-arg={argument}");
        }
    }
}

/// Where the compiler keeps one of its libraries.
fn folder_of(compiler: &std::ffi::OsStr, library: &str) -> Option<PathBuf> {
    let output = Command::new(compiler).arg(format!("-print-file-name={library}")).output().ok()?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    path.is_absolute().then(|| path.parent().map(Path::to_owned)).flatten()
}

/// An empty libc.so.6 whose only content is names and versions; it is linked against and never loaded.
fn make_stub(compiler: &std::ffi::OsStr, machine: &str, out: &Path) -> Option<()> {
    let version_on =
        |version: &'static str| if machine == "x86_64" || version.is_empty() { version } else { "GLIBC_2.17" };
    let mut versions = BTreeMap::<&str, Vec<&str>>::new();
    for (version, names) in SYMBOLS {
        versions.entry(version_on(version)).or_default().extend(names.split_whitespace());
    }
    let source: String = versions.values().flatten().map(|name| format!(".globl {name}\n{name}: ret\n")).collect();
    let versions: String = versions
        .iter()
        .filter(|(version, _)| !version.is_empty())
        .map(|(version, names)| format!("{version} {{ {}; }};\n", names.join("; ")))
        .collect();
    let (assembly, script) = (out.join("glibc.s"), out.join("glibc.map"));
    fs::write(&assembly, format!(".text\n{source}.section .note.GNU-stack,\"\",%progbits\n")).ok()?;
    fs::write(&script, versions).ok()?;
    let built = Command::new(compiler)
        .args(["-shared", "-nostdlib", "-Wl,-soname,libc.so.6", "-o"])
        .arg(out.join("libc.so"))
        .arg(format!("-Wl,--version-script={}", script.display()))
        .arg(assembly)
        .status();
    built.is_ok_and(|status| status.success()).then_some(())
}

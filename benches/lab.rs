//! Where everything runs: namespaces of the harness's own, with nothing in them but the loopback.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use object::read::elf::{Dyn, ElfFile64, FileHeader};
use object::{Endianness, Object, elf};

pub(crate) type Failure = Box<dyn std::error::Error>;

/// Ends with its owner.
pub(crate) struct Server(pub(crate) Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs this program again, in new namespaces. All that runs there ends with its first process.
pub(crate) fn enter(arguments: &[std::ffi::OsString], groups: Option<&Path>) -> Result<(), Failure> {
    let mut command = Command::new("unshare");
    command.args(["-Urn", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]).arg(std::env::current_exe()?);
    command.arg("--inside").args(arguments);
    if let Some(groups) = groups {
        command.arg("--groups").arg(groups);
    }
    let status = command.status().map_err(|error| format!("unshare(1) does not start: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("in the namespaces: {status}").into()) }
}

/// A command with nothing preloaded, in a control group if one is meant.
pub(crate) fn within(group: Option<&Path>, program: impl AsRef<OsStr>) -> Command {
    let Some(group) = group else { return plain(program) };
    let mut command = plain("sh");
    command.args(["-c", "echo 0 >\"$0\"/cgroup.procs && exec \"$@\""]).arg(group).arg(program.as_ref());
    command
}

/// Makes the loopback ready.
pub(crate) fn set_up() -> Result<(), Failure> {
    run(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    // A socket that waits out TIME_WAIT occupies a port for a minute, and later rounds would pay for those of earlier
    // ones. No such sockets here, with or without the library.
    fs::write("/proc/sys/net/ipv4/tcp_max_tw_buckets", "0")?;
    Ok(())
}

/// Standard output of a command that has to succeed.
pub(crate) fn run(command: &mut Command) -> Result<String, Failure> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)).into());
    }
    // The loader and the library report there; what is not loaded, or not in force, would be measured as fast.
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("ld.so:") || said.contains("sockopt[") {
        return Err(format!("{command:?} says {said}").into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// A command with nothing preloaded and no configuration.
pub(crate) fn plain(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear();
    for name in ["PATH", "HOME", "LANG", "TMPDIR"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

pub(crate) fn is_installed(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}

/// Compiles what `benches/workloads` has; a source without functions makes a library of nothing.
pub(crate) fn compile(scratch: &Path) -> Result<(), Failure> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/workloads");
    for name in ["tcp", "calls", "spawn", "memory", "used"] {
        run(Command::new("cc")
            .args(["-O2", "-Wall", "-Wextra", "-Werror", "-o"])
            .arg(scratch.join(name))
            .arg(sources.join(name).with_extension("c")))?;
    }
    let nothing = scratch.join("empty.c");
    fs::write(&nothing, "typedef int nothing;\n")?;
    run(Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(scratch.join("empty.so")).arg(nothing))?;
    Ok(())
}

/// What identifies a library: size, what it needs, build id.
pub(crate) fn identity(library: &Path) -> Result<String, Failure> {
    let bytes = fs::read(library).map_err(|error| format!("{}: {error}", library.display()))?;
    let file = ElfFile64::<Endianness>::parse(&*bytes)?;
    let endian = file.endian();
    let sections = file.elf_header().sections(endian, &*bytes)?;
    let mut needed = Vec::new();
    if let Some((entries, strings)) = sections.dynamic(endian, &*bytes)? {
        let strings = sections.strings(endian, &*bytes, strings)?;
        for entry in entries.iter().filter(|entry| entry.d_tag(endian) == elf::DT_NEEDED) {
            let name = strings.get(u32::try_from(entry.d_val(endian))?).map_err(|()| "a name that is not there")?;
            needed.push(String::from_utf8_lossy(name).into_owned());
        }
    }
    let id: String = file.build_id()?.unwrap_or_default().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("libsockopt.so {id}: {} KiB, needs {}", bytes.len() / 1024, needed.join(", ")))
}

fn first_line(command: &mut Command) -> String {
    run(command).ok().and_then(|text| text.lines().next().map(str::to_owned)).unwrap_or_else(|| "unknown".to_owned())
}

fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once([':', '='])?.1.trim().trim_matches('"').to_owned())
}

/// The machine, as the results name it.
pub(crate) fn machine() -> String {
    let unknown = || "unknown".to_owned();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let is_virtual = field("/proc/cpuinfo", "flags").is_some_and(|flags| flags.contains("hypervisor"));
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!(
        "- {}, {cores} cores{}\n- {}, Linux {}, {}\n- {}\n- other work on the machine: load average {} when it began\n",
        field("/proc/cpuinfo", "model name").unwrap_or_else(unknown),
        if is_virtual { ", virtual" } else { "" },
        field("/etc/os-release", "PRETTY_NAME").unwrap_or_else(unknown),
        fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_else(|_| unknown()).trim(),
        first_line(Command::new("getconf").arg("GNU_LIBC_VERSION")),
        first_line(Command::new("rustc").arg("--version")),
        load.split(' ').next().unwrap_or_default(),
    )
}

/// The first of these that exists.
pub(crate) fn find(names: &[&str]) -> Option<PathBuf> {
    let folders =
        ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib", "/usr/lib64", "/usr/local/lib"];
    folders
        .iter()
        .flat_map(|folder| names.iter().map(move |name| Path::new(folder).join(name)))
        .find(|path| path.exists())
}

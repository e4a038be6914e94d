//! Network namespaces without root, and an end to everything in them.
//!
//! The process that the user starts only starts a second one inside new namespaces, and holds a
//! pipe to it. When the first goes, for whatever reason, the second sees the end of the pipe and
//! goes too. It is process 1 of its process namespace, so the kernel ends everything else with it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::OnceLock;

use super::{Failure, NAME, NOT_AS_PROMISED};

/// The reverse path filter must be off: with it the router would, after the cut, not even answer ARP.
const SYSCTLS: &str = "
    echo 1 >/proc/sys/net/ipv4/ip_forward
    echo 0 >/proc/sys/net/ipv4/conf/all/rp_filter
    echo 0 >/proc/sys/net/ipv4/conf/default/rp_filter
";

static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();

/// Runs `inside` in new namespaces: by this program once more, which is told the test bed's directory.
/// The tools are those that it needs, each with its Debian package.
pub(crate) fn run(
    tools: &[(&str, &str)],
    directory: Option<&Path>,
    inside: impl FnOnce(&Path) -> Result<u8, Failure>,
) -> ExitCode {
    let Some(directory) = directory else {
        return outside(tools).unwrap_or_else(|failure| failure.complain()).into();
    };
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        leave(NOT_AS_PROMISED);
    });
    let result = mount(directory).and_then(|()| inside(directory));
    leave(result.unwrap_or_else(|failure| failure.complain()))
}

/// Takes the directory away and ends this process, and with it every other one in the test bed.
pub(crate) fn leave(code: u8) -> ! {
    if let Some(directory) = DIRECTORY.get() {
        let _ = Command::new("umount").arg("-l").arg(directory).stderr(Stdio::null()).status();
        let _ = std::fs::remove_dir(directory);
    }
    std::process::exit(code.into())
}

/// Starts this program again in namespaces of its own and passes on how it ended.
fn outside(tools: &[(&str, &str)]) -> Result<u8, Failure> {
    // Administrators' tools may be where only root's PATH leads.
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let base = ["unshare", "nsenter", "mount"].map(|tool| (tool, "util-linux"));
    let mut missing = Vec::new();
    for (tool, package) in base.iter().chain([&("ip", "iproute2")]).chain(tools) {
        let look = format!("command -v {tool} >/dev/null");
        if !Command::new("/bin/sh").args(["-c", &look]).env("PATH", &path).status()?.success() {
            missing.push(format!("no {tool} (package {package})"));
        }
    }
    if !missing.is_empty() {
        return Err(Failure::CannotRun(missing.join(", ")));
    }
    let mut refusal = String::new();
    // Root needs no user namespace, and may not be allowed one; everybody else does.
    for options in ["-nmpf", "-nmpfr"] {
        let trial = Command::new("unshare").args([options, "true"]).output()?;
        if !trial.status.success() {
            refusal = String::from_utf8_lossy(&trial.stderr).trim().to_owned();
            continue;
        }
        let directory = std::env::temp_dir().join(format!("{NAME}.{}", std::process::id()));
        let mut command = Command::new("unshare");
        command.arg(options).arg("--").arg(std::env::current_exe()?);
        command.args(std::env::args_os().skip(1)).arg("--inside").arg(&directory);
        let mut child = command.env("PATH", &path).stdin(Stdio::piped()).spawn()?;
        let pipe = child.stdin.take();
        let status = child.wait()?;
        drop(pipe);
        let _ = std::fs::remove_dir(&directory); // there only if the process inside was killed
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        return code.ok_or_else(|| Failure::Broken(format!("the test bed: {status}")));
    }
    Err(Failure::CannotRun(format!(
        "no namespaces ({refusal}).\n\
         Root may make them. For other users the system must allow user namespaces:\n\
         \x20 Ubuntu 23.10 and newer  sysctl kernel.apparmor_restrict_unprivileged_userns=0\n\
         \x20 older Debian            sysctl kernel.unprivileged_userns_clone=1\n\
         \x20 where it is 0           sysctl user.max_user_namespaces=10000\n\
         A container must be privileged."
    )))
}

/// The test bed's files are on a tmpfs that only these namespaces see.
fn mount(directory: &Path) -> Result<(), Failure> {
    let text = directory.to_str().filter(|text| !text.contains([' ', ':']));
    let text =
        text.ok_or_else(|| Failure::CannotRun("the temporary directory's name has a blank or a colon".into()))?;
    std::fs::create_dir(directory).map_err(|e| Failure::CannotRun(format!("{text}: {e}")))?;
    let _ = DIRECTORY.set(directory.to_owned());
    let status = Command::new("mount").args(["-t", "tmpfs", "tmpfs", text]).status()?;
    if status.success() { Ok(()) } else { Err(Failure::CannotRun("no file system can be mounted".into())) }
}

/// A network namespace, by the file that holds it.
pub(crate) struct Namespace(PathBuf);

impl Namespace {
    /// A new one, with its loopback up. It is held by the file of this name, which a shell script may name.
    pub(crate) fn new(directory: &Path, name: &str) -> Result<Namespace, Failure> {
        let namespace = Namespace(directory.join(name));
        std::fs::write(&namespace.0, "")?;
        let hold =
            Command::new("unshare").args(["-n", "mount", "--bind", "/proc/self/ns/net"]).arg(&namespace.0).output()?;
        if !hold.status.success() {
            return Err(Failure::CannotRun(format!(
                "no network namespace: {}",
                String::from_utf8_lossy(&hold.stderr).trim()
            )));
        }
        namespace.shell("ip link set lo up")?;
        Ok(namespace)
    }

    /// One that forwards.
    pub(crate) fn router(directory: &Path, name: &str) -> Result<Namespace, Failure> {
        let router = Namespace::new(directory, name)?;
        router.shell(SYSCTLS)?;
        Ok(router)
    }

    /// Joins this namespace's `eth0`, `network.2`, by a cable to the router's `network.1`, its default route.
    pub(crate) fn plug(&self, router: &Namespace, port: &str, network: &str) -> Result<(), Failure> {
        let path = self.0.display();
        router.shell(&format!(
            "ip link add name {port} type veth peer name eth0 netns {path}
             ip address add {network}.1/24 dev {port}
             ip link set dev {port} up"
        ))?;
        self.shell(&format!(
            "ip address add {network}.2/24 dev eth0
             ip link set eth0 up
             ip route add default via {network}.1"
        ))
    }

    /// A command in it.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.0.display())).arg("--");
        command
    }

    /// A shell script in it, which ends at the first failure.
    pub(crate) fn shell(&self, script: &str) -> Result<(), Failure> {
        let output = self.command().args(["sh", "-euc", script]).stdin(Stdio::null()).output()?;
        let reason = String::from_utf8_lossy(&output.stderr);
        let failed = || Failure::CannotRun(format!("the network cannot be made: {}", reason.trim()));
        if output.status.success() { Ok(()) } else { Err(failed()) }
    }

    /// Starts this very program again in it, as a server.
    pub(crate) fn serve(&self, argument: &str) -> Result<Child, Failure> {
        let mut command = self.command();
        command.arg(std::env::current_exe()?).args(["--serve", argument]);
        Ok(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?)
    }
}

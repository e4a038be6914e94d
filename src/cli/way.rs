//! By which way the options of a running program's sockets are set, as far as that can be known.

use std::fs;

use serde::Serialize;

/// The ways that leave a trace in a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Way {
    /// The library is loaded in it.
    Library,
    /// A supervisor answers its calls.
    Supervisor,
}

impl Way {
    /// In words.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Library => "library",
            Self::Supervisor => "supervisor",
        }
    }

    /// That of a process; none where it is not known.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        if has_library(&fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default()) {
            return Some(Self::Library);
        }
        // A process with a filter (proc_pid_status(5)).
        (field(pid, "Seccomp:") == Some(2) && is_supervised(pid)).then_some(Self::Supervisor)
    }
}

/// The control groups that programs in the kernel are attached to (`sockopt attach`), as far as one may look.
pub(crate) struct Attached(Vec<u64>);

impl Attached {
    pub(crate) fn now() -> Self {
        let all = cgroup::status().unwrap_or_default();
        Self(all.iter().filter(|one| one.is_in_force()).map(|one| one.group_id).collect())
    }

    /// Whether they run for what a process does.
    pub(crate) fn is_for(&self, pid: i32) -> bool {
        let numbers = || u32::try_from(pid).map(cgroup::group::numbers_of_process).unwrap_or_default();
        !self.0.is_empty() && numbers().iter().any(|number| self.0.contains(number))
    }
}

/// Whether a process has a descriptor of an io_uring.
pub(crate) fn has_ring(pid: i32) -> bool {
    let mut descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    descriptors.any(|one| fs::read_link(one.path()).is_ok_and(|what| what.as_os_str() == "anon_inode:[io_uring]"))
}

/// Whether the library is among what a process has mapped.
fn has_library(maps: &str) -> bool {
    let files = maps.lines().filter_map(|line| line.split_once('/').map(|(_, path)| path));
    files.map(|path| path.trim_end_matches(" (deleted)")).any(|path| path.rsplit('/').next() == Some("libsockopt.so"))
}

/// A number in a process's status.
fn field(pid: i32, name: &str) -> Option<i32> {
    let status = fs::read(format!("/proc/{pid}/status")).ok()?;
    String::from_utf8_lossy(&status).lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
}

/// Whether it or one of its ancestors is the program of a guardian, which holds a pidfd of it.
fn is_supervised(pid: i32) -> bool {
    let programs = programs_of_guardians();
    let mut ancestors = std::iter::successors(Some(pid), |pid| field(*pid, "PPid:").filter(|parent| *parent > 0));
    !programs.is_empty() && ancestors.any(|ancestor| programs.contains(&ancestor))
}

fn programs_of_guardians() -> Vec<i32> {
    let mut programs = Vec::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let folder = process.path();
        let is_guardian = fs::read(folder.join("comm")).is_ok_and(|name| name == b"sockopt-guard\n");
        if !is_guardian {
            continue;
        }
        for descriptor in fs::read_dir(folder.join("fdinfo")).into_iter().flatten().flatten() {
            let about = fs::read_to_string(descriptor.path()).unwrap_or_default();
            let process = about.lines().find_map(|line| line.strip_prefix("Pid:"));
            programs.extend(process.and_then(|pid| pid.trim().parse::<i32>().ok()).filter(|pid| *pid > 0));
        }
    }
    programs
}

#[cfg(test)]
mod tests {
    use super::has_library;

    #[test]
    fn maps() {
        let line = |path: &str| format!("7f00-7f01 r-xp 00000000 fe:00 12   {path}\n");
        assert!(has_library(&line("/usr/local/lib/libsockopt.so")));
        assert!(has_library(&line("/usr/lib/my libraries/libsockopt.so (deleted)")));
        assert!(!has_library(&line("/usr/lib/notlibsockopt.so")));
        assert!(!has_library(&line("/usr/lib/libsockopt.so.bak")));
        assert!(!has_library("7ffd-7ffe rw-p 00000000 00:00 0   [stack]\n"));
    }
}

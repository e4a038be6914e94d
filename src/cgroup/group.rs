//! Control groups: which one is meant, and where.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use crate::refusal::Refusal;

/// The file systems of both versions of control groups, linux/magic.h.
const CGROUP2: u64 = 0x6367_7270;
const CGROUP1: u64 = 0x0027_e0eb;
/// The number of the root of all control groups.
const ROOT: u64 = 1;

/// A control group (version 2).
#[derive(Debug)]
pub struct Group {
    /// Its folder, open.
    pub(crate) folder: OwnedFd,
    /// Its folder.
    pub(crate) path: PathBuf,
    /// Its number in the kernel: that of the folder's inode.
    pub(crate) id: u64,
}

fn kind_of(path: &Path) -> Option<u64> {
    rustix::fs::statfs(path).ok().map(|found| found.f_type as u64)
}

/// Where control groups of version 2 are mounted, by /proc/self/mountinfo (proc(5)).
fn mounts() -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts_in(&text)
}

fn mounts_in(mountinfo: &str) -> Vec<PathBuf> {
    let of_line = |line: &str| {
        let (before, behind) = line.split_once(" - ")?;
        let is_group = behind.split(' ').next() == Some("cgroup2");
        let place = before.split(' ').nth(4)?;
        // Blanks and the like are octal there.
        let place = place.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\");
        is_group.then(|| PathBuf::from(place))
    };
    mountinfo.lines().filter_map(of_line).collect()
}

/// The same, or why there is none.
pub(crate) fn mounts_or_refusal() -> Result<Vec<PathBuf>, Refusal> {
    let mounts = mounts();
    if mounts.is_empty() { Err(Refusal::Target(V1_ONLY.to_owned())) } else { Ok(mounts) }
}

const V1_ONLY: &str = "only control groups of version 1 are mounted here; version 2 is needed \
                       (systemd.unified_cgroup_hierarchy=1, or mount -t cgroup2 none DIRECTORY; `ip netns exec` hides what is mounted, so run it outside)";

impl Group {
    /// By its folder (`/sys/fs/cgroup/system.slice/x.service`), or as /proc/PID/cgroup has it (`/system.slice/x.service`).
    ///
    /// # Errors
    /// Why there is none, or none that programs may be attached to.
    pub fn at(target: &Path) -> Result<Self, Refusal> {
        let mounts = mounts();
        let is_up = target.components().any(|part| part == Component::ParentDir);
        let of_mount = |mount: &PathBuf| mount.join(target.strip_prefix("/").unwrap_or(target));
        let candidates = std::iter::once(target.to_owned()).chain(mounts.iter().filter(|_| !is_up).map(of_mount));
        let mut is_of_version_1 = false;
        for path in candidates {
            match kind_of(&path) {
                Some(CGROUP2) => return Self::open(&path),
                Some(CGROUP1) => is_of_version_1 = true,
                _ => {}
            }
        }
        let shown = target.display();
        Err(Refusal::Target(match (mounts.is_empty(), is_of_version_1) {
            (true, _) => V1_ONLY.to_owned(),
            (false, is_of_version_1) => {
                let places: Vec<String> = mounts.iter().map(|mount| mount.display().to_string()).collect();
                let what = if is_of_version_1 { "a control group of version 1" } else { "no control group" };
                format!("{shown} is {what}; those of version 2 are below {}", places.join(", "))
            }
        }))
    }

    /// That of a process.
    ///
    /// # Errors
    /// As for [`Self::at`].
    pub fn of_process(pid: u32) -> Result<Self, Refusal> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))
            .map_err(|why| Refusal::Target(format!("the control group of process {pid} cannot be read: {why}")))?;
        let Some(path) = text.lines().find_map(|line| line.strip_prefix("0::")) else {
            return Err(Refusal::Target(V1_ONLY.to_owned()));
        };
        if path.starts_with("/..") {
            return Err(Refusal::Target(format!(
                "the control group of process {pid} ({path}) lies outside of this one's"
            )));
        }
        let path = path.strip_suffix(" (deleted)").unwrap_or(path);
        let mounts = mounts();
        if mounts.is_empty() {
            return Err(Refusal::Target(V1_ONLY.to_owned()));
        }
        let found = mounts.iter().map(|mount| mount.join(path.trim_start_matches('/'))).find(|path| path.is_dir());
        found.map_or_else(
            || Err(Refusal::Target(format!("the control group of process {pid} ({path}) is not mounted here"))),
            |found| Self::open(&found),
        )
    }

    fn open(path: &Path) -> Result<Self, Refusal> {
        let no = |why: std::io::Error| Refusal::Target(format!("{}: {why}", path.display()));
        let path = fs::canonicalize(path).map_err(no)?;
        let folder = fs::File::open(&path).map_err(no)?;
        let found = folder.metadata().map_err(no)?;
        if !found.is_dir() {
            return Err(Refusal::Target(format!("{} is not the directory of a control group", path.display())));
        }
        if found.ino() == ROOT {
            return Err(Refusal::Target(format!(
                "{} is the root of all control groups: nothing is attached there, since it would be for every program of \
                 the machine, and other tools replace what they find there; name a control group below it",
                path.display()
            )));
        }
        Ok(Self { folder: folder.into(), path, id: found.ino() })
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its number in the kernel.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The processes in it and in all groups within it, and whether there are others that this PID namespace does not show.
    #[must_use]
    pub fn processes(&self) -> (Vec<i32>, bool) {
        let (mut found, mut has_others) = (Vec::new(), false);
        let mut left = vec![self.path.clone()];
        while let Some(folder) = left.pop() {
            let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
            left.extend(
                entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()),
            );
            // Where threads of a process are in several groups, their processes are not listed (cgroups(7), "threaded").
            let list = fs::read_to_string(folder.join("cgroup.procs"))
                .or_else(|_| fs::read_to_string(folder.join("cgroup.threads")))
                .unwrap_or_default();
            for id in list.lines().filter_map(|line| line.trim().parse::<i32>().ok()) {
                if id == 0 { has_others = true } else { found.push(id) }
            }
        }
        found.sort_unstable();
        found.dedup();
        (found, has_others)
    }

    /// The folders of the groups that it lies in, the nearest first.
    pub(crate) fn ancestors(&self) -> impl Iterator<Item = &Path> {
        self.path.ancestors().skip(1).take_while(|path| kind_of(path) == Some(CGROUP2))
    }
}

/// The numbers of a process's control group and of all that it lies in; none where they are not known.
#[must_use]
pub fn numbers_of_process(pid: u32) -> Vec<u64> {
    let path = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let Some(path) = path.lines().find_map(|line| line.strip_prefix("0::")) else { return Vec::new() };
    let path = Path::new(path.strip_suffix(" (deleted)").unwrap_or(path).trim_start_matches('/'));
    let of_mount =
        |mount: PathBuf| -> Vec<u64> { path.ancestors().filter_map(|part| id_at(&mount.join(part))).collect() };
    mounts().into_iter().map(of_mount).find(|numbers| !numbers.is_empty()).unwrap_or_default()
}

/// The number of the control group with this folder, if it is one.
pub(crate) fn id_at(path: &Path) -> Option<u64> {
    (kind_of(path) == Some(CGROUP2)).then(|| fs::metadata(path).ok().map(|found| found.ino()))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_version_2() {
        let text = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                    40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                    41 31 0:38 / /sys/fs/cgroup/a\\040b rw,relatime shared:4 - cgroup2 cgroup2 rw\n";
        assert_eq!(mounts_in(text), [PathBuf::from("/sys/fs/cgroup/a b")]);
        assert!(mounts_in("").is_empty());
    }
}

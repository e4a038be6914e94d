//! Finds the control group of a unit of systemd, of a container, or of all pods of a Kubernetes node, by its folder's name.
//!
//! No daemon is asked: the kernel has the folders, and who made them named them after what is in them. So it works with every
//! container runtime, inside another mount namespace, and while the daemon is down.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::group::{Group, mounts_or_refusal};
use crate::refusal::Refusal;

/// Folders that are looked at, at most: a node with thousands of containers has tens of thousands.
const MOST_FOLDERS: usize = 200_000;
/// Hexadecimal digits of a container's number that are enough to name it, as for `docker` and `crictl`.
const FEWEST_DIGITS: usize = 4;
/// Those of a whole one.
const ALL_DIGITS: usize = 64;
/// Endings of systemd's units that have a control group (systemd.unit(5)).
const UNITS: [&str; 5] = [".service", ".slice", ".scope", ".socket", ".mount"];

/// Everything below the mounts that `is_meant`, by its name. What lies within something that was found is not looked at.
pub(crate) fn search(mounts: &[PathBuf], is_meant: &dyn Fn(&str) -> bool) -> Vec<PathBuf> {
    walk(mounts, &|folder| folder.file_name().and_then(OsStr::to_str).is_some_and(is_meant))
}

fn walk(mounts: &[PathBuf], is_meant: &dyn Fn(&Path) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left: Vec<PathBuf> = mounts.to_vec();
    let mut seen = 0;
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if seen == MOST_FOLDERS {
                return found;
            }
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            seen += 1;
            let path = entry.path();
            if is_meant(&path) { found.push(path) } else { left.push(path) }
        }
    }
    found.sort();
    found
}

/// The folder of the control group that this process is in. In a namespace of control groups its path is only known from that
/// group on, while the mount may be the node's: then it is the one that lists this process.
pub(crate) fn own_folder() -> Option<PathBuf> {
    let own = std::process::id().to_string();
    let is_own = |folder: &Path| {
        let members = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        members.lines().any(|pid| pid == own)
    };
    let mounts = mounts_or_refusal().ok()?;
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let found = mounts.iter().map(|mount| mount.join(path)).find(|folder| is_own(folder));
    found.or_else(|| walk(&mounts, &is_own).into_iter().next())
}

/// The only one that was found.
fn only(mut found: Vec<PathBuf>, what: &str, none: &str) -> Result<PathBuf, Refusal> {
    match found.len() {
        0 => Err(Refusal::Target(format!("{what}: {none}"))),
        1 => Ok(found.remove(0)),
        count => {
            let shown: Vec<String> = found.iter().take(5).map(|path| path.display().to_string()).collect();
            let more = if count > shown.len() { ", and others" } else { "" };
            let list = shown.join(", ");
            Err(Refusal::Target(format!(
                "{what} names {count} control groups: {list}{more}; give the one that is meant as TARGET"
            )))
        }
    }
}

/// Whether a folder is that of a container: `ID` (cgroupfs), `docker-ID.scope`, `cri-containerd-ID.scope`, `crio-ID.scope`,
/// `libpod-ID.scope` (systemd). What a runtime has beside it (`crio-conmon-ID.scope`, `libpod-conmon-ID.scope`) is none.
fn is_container(folder: &str, id: &str) -> bool {
    let name = folder.strip_suffix(".scope").unwrap_or(folder);
    let (before, number) = name.rsplit_once('-').unwrap_or(("", name));
    let is_number = number.len() == ALL_DIGITS && number.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_number && number.starts_with(id) && before != "conmon" && !before.ends_with("-conmon")
}

/// Whether a folder is that of all pods of a node: `kubepods` (cgroupfs), `kubepods.slice` (systemd), or one of these below a
/// root of the kubelet's own (`kubelet-kubepods.slice`).
fn is_of_pods(folder: &str) -> bool {
    folder == "kubepods"
        || folder.strip_suffix(".slice").is_some_and(|name| name == "kubepods" || name.ends_with("-kubepods"))
}

/// A unit of systemd with its ending, `.service` if it has none.
fn unit_name(name: &str) -> String {
    if UNITS.iter().any(|ending| name.ends_with(ending)) { name.to_owned() } else { format!("{name}.service") }
}

impl Group {
    /// That of a unit of systemd. Its folder is there while the unit is active, and has another number after each start.
    ///
    /// # Errors
    /// If there is none, or if several users' managers have a unit of this name.
    pub fn of_unit(name: &str) -> Result<Self, Refusal> {
        let name = unit_name(name);
        let found = search(&mounts_or_refusal()?, &|folder| folder == name);
        let none = "no control group has this name; a unit has one while it is active (systemctl status)";
        Self::at(&only(found, &format!("unit {name}"), none)?)
    }

    /// That of a container, by its number or the beginning of it. The runtime does not matter.
    ///
    /// # Errors
    /// If there is none, or several.
    pub fn of_container(id: &str) -> Result<Self, Refusal> {
        // As CRI has it in a pod's status: containerd://ID
        let id = id.rsplit_once("://").map_or(id, |(_, id)| id);
        let id = id.to_ascii_lowercase();
        let is_number =
            (FEWEST_DIGITS..=ALL_DIGITS).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_number {
            return Err(Refusal::Target(format!(
                "{id:?} is not the ID of a container, which has {FEWEST_DIGITS} to {ALL_DIGITS} hexadecimal digits; \
                 `docker inspect -f '{{{{.Id}}}}' NAME` or `crictl ps` tells it"
            )));
        }
        let found = search(&mounts_or_refusal()?, &|folder| is_container(folder, &id));
        let none = "no control group is named after it; it has one while it runs";
        Self::at(&only(found, &format!("container {id}"), none)?)
    }

    /// That of all pods of this node.
    ///
    /// # Errors
    /// If there is none, or several.
    pub fn of_pods() -> Result<Self, Refusal> {
        let found = search(&mounts_or_refusal()?, &is_of_pods);
        let none = "no control group is called kubepods.slice or kubepods; this is no node of Kubernetes, \
                    or the node's control groups are not mounted here";
        Self::at(&only(found, "--kubernetes", none)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4f1c3cbd0e7a4b5f9d2e8a6c7b1f0e3d5a4c9b8e7f6d1a2b3c4d5e6f7a8b9c0d";

    #[test]
    fn containers_of_every_runtime() {
        for before in ["docker-", "cri-containerd-", "crio-", "libpod-", "nerdctl-", ""] {
            for ending in [".scope", ""] {
                assert!(is_container(&format!("{before}{ID}{ending}"), "4f1c"), "{before}{ending}");
            }
        }
        for other in ["crio-conmon-", "libpod-conmon-", "conmon-"] {
            assert!(!is_container(&format!("{other}{ID}.scope"), "4f1c"), "{other}");
        }
        assert!(!is_container(&format!("docker-{ID}.scope"), "5f1c"));
        assert!(!is_container("docker-4f1c.scope", "4f1c"), "a short name is nobody's number");
    }

    #[test]
    fn pods_of_every_driver() {
        for name in ["kubepods", "kubepods.slice", "kubelet-kubepods.slice"] {
            assert!(is_of_pods(name), "{name}");
        }
        for name in ["kubepods-burstable.slice", "kubelet.slice", "burstable", "mykubepods"] {
            assert!(!is_of_pods(name), "{name}");
        }
    }

    #[test]
    fn units_have_an_ending() {
        assert_eq!(unit_name("nginx"), "nginx.service");
        assert_eq!(unit_name("user.slice"), "user.slice");
        assert_eq!(unit_name("a@b.c"), "a@b.c.service");
    }
}

//! Whether a program will be started with other rights than those of who starts it: the kernel says so to the loader
//! (AT_SECURE, getauxval(3)), which then ignores LD_PRELOAD (ld.so(8), "secure-execution mode").
//!
//! The kernel's way of deciding it: fs/exec.c, bprm_fill_uid, and security/commoncap.c, cap_bprm_creds_from_file.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::OnceLock;

use rustix::fs::{StatVfsMountFlags, getxattr, statvfs};
use rustix::process::{getegid, geteuid, getgid, getuid};
use rustix::thread::{CapabilitySet, capabilities, capability_is_in_bounding_set, no_new_privs};

/// Who starts a program.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// Its real user id.
    pub user: u32,
    /// The user id that counts for its rights.
    pub effective_user: u32,
    /// Its real group id.
    pub group: u32,
    /// The group id that counts for its rights.
    pub effective_group: u32,
    /// prctl(2), PR_SET_NO_NEW_PRIVS.
    pub no_new_privileges: bool,
    /// Its capabilities, capabilities(7), and those that a file may still give it.
    pub permitted: u64,
    /// Kept over exec, capabilities(7).
    pub inheritable: u64,
    /// Never gained beyond these, capabilities(7).
    pub bounding: u64,
}

/// What a program's file says of rights.
#[derive(Debug, Clone, Copy)]
pub struct Rights {
    /// The file's user id.
    pub owner: u32,
    /// The file's group id.
    pub group: u32,
    /// Its mode, inode(7).
    pub mode: u32,
    /// Mounted so that what follows does not count, mount(8), or owned by nobody that this user namespace knows.
    pub nosuid: bool,
    /// Of another user namespace, user_namespaces(7): its set-id bits do not count.
    pub is_unmapped: bool,
    /// What setcap(8) has given it.
    pub capabilities: Option<Capabilities>,
}

/// The file's capabilities, capabilities(7), xattr security.capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    effective: bool,
    permitted: u64,
    inheritable: u64,
}

/// Why the loader will not preload anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Elevation {
    /// It is setuid, to this user.
    User(u32),
    /// It is setgid, to this group.
    Group(u32),
    /// It has capabilities that the user may not have.
    Capabilities,
    /// The one who starts it has an effective user or group that is not the real one.
    Caller,
}

const S_ISUID: u32 = 0o4000;
const S_ISGID: u32 = 0o2000;
const S_IXGRP: u32 = 0o0010;

/// What the kernel will tell the loader.
pub fn elevation(caller: Caller, file: Rights) -> Option<Elevation> {
    // Setgid without the group's execute bit once meant mandatory locking.
    let is_setgid = file.counts(caller) && file.mode & (S_ISGID | S_IXGRP) == S_ISGID | S_IXGRP;
    let is_setuid = file.sets_user(caller);
    let user = if is_setuid { file.owner } else { caller.effective_user };
    let group = if is_setgid { file.group } else { caller.effective_group };
    // Linux 6.16 and newer ask the effective ids as well; older ones only the real ones.
    if user != caller.user || user != caller.effective_user {
        return Some(if is_setuid { Elevation::User(user) } else { Elevation::Caller });
    }
    if group != caller.group || group != caller.effective_group {
        return Some(if is_setgid { Elevation::Group(group) } else { Elevation::Caller });
    }
    let gives = |has: Capabilities| {
        let given = (has.permitted & caller.bounding) | (has.inheritable & caller.inheritable);
        has.effective || given & if caller.no_new_privileges { caller.permitted } else { u64::MAX } != 0
    };
    // Root has them all anyway.
    let is_given = caller.user != 0 && !file.nosuid && file.capabilities.is_some_and(gives);
    is_given.then_some(Elevation::Capabilities)
}

impl Caller {
    /// Whether it may have its calls filtered and still start programs that get rights by their files (seccomp(2)).
    pub fn may_filter_with_rights(self) -> bool {
        const CAP_SYS_ADMIN: u32 = 21;
        self.permitted >> CAP_SYS_ADMIN & 1 != 0
    }

    /// Whether it may look into every process of its user, CAP_SYS_PTRACE; else Yama lets it look only into those that it is told by
    /// (prctl(2), PR_SET_PTRACER), and into none that these start.
    pub fn may_look_into_children(self) -> bool {
        const CAP_SYS_PTRACE: u32 = 19;
        let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
        self.permitted >> CAP_SYS_PTRACE & 1 != 0 || matches!(scope.trim(), "" | "0")
    }

    /// This process, as it was when it was first asked for.
    pub fn this() -> Self {
        static THIS: OnceLock<Caller> = OnceLock::new();
        *THIS.get_or_init(Self::ask)
    }

    /// By system calls: the kernel takes longer to write /proc/self/status.
    fn ask() -> Self {
        let sets = capabilities(None).ok();
        let is_bounding = |bit: &u32| capability_is_in_bounding_set(CapabilitySet::from_bits_retain(1 << bit));
        // The kernel refuses the first that it does not know.
        let known: Vec<bool> = (0..u64::BITS).map_while(|bit| is_bounding(&bit).ok()).collect();
        let bounding = known.iter().zip(0..).filter(|(is_in, _)| **is_in).fold(0, |set, (_, bit)| set | 1 << bit);
        Self {
            user: getuid().as_raw(),
            effective_user: geteuid().as_raw(),
            group: getgid().as_raw(),
            effective_group: getegid().as_raw(),
            no_new_privileges: no_new_privs().unwrap_or(false),
            permitted: sets.map_or(0, |sets| sets.permitted.bits()),
            inheritable: sets.map_or(0, |sets| sets.inheritable.bits()),
            bounding: if known.is_empty() { u64::MAX } else { bounding },
        }
    }
}

impl Rights {
    /// Whether they may be more than those of who starts it, whoever that is.
    pub fn may_elevate(&self) -> bool {
        self.mode & (S_ISUID | S_ISGID) != 0 || self.capabilities.is_some()
    }

    /// Whether it is setuid, and the kernel heeds that.
    pub fn sets_user(&self, caller: Caller) -> bool {
        self.counts(caller) && self.mode & S_ISUID != 0
    }

    fn counts(&self, caller: Caller) -> bool {
        !self.nosuid && !caller.no_new_privileges && !self.is_unmapped
    }

    /// Those of a file.
    pub fn of(file: &Path) -> Option<Self> {
        let metadata = fs::metadata(file).ok()?;
        let nosuid = statvfs(file).is_ok_and(|mount| mount.f_flag.contains(StatVfsMountFlags::NOSUID));
        let mut value = [0; 64];
        // The kernel gives what counts in this user namespace in its second form, and refuses what does not.
        let length = getxattr(file, c"security.capability", &mut value[..]).unwrap_or(0);
        let rights = Self {
            owner: metadata.uid(),
            group: metadata.gid(),
            mode: metadata.mode(),
            nosuid,
            is_unmapped: false,
            capabilities: value.get(..length).and_then(Capabilities::read),
        };
        // Only these rights depend on it.
        let is_mapped = |rights: &Self| {
            is_mapped("/proc/self/uid_map", rights.owner) && is_mapped("/proc/self/gid_map", rights.group)
        };
        Some(Self { is_unmapped: rights.may_elevate() && !is_mapped(&rights), ..rights })
    }
}

/// Whether a user, by name or number, may read a file, as far as the owners and modes on the way to it tell; a group's
/// rights do not count.
pub fn may_read(user: &OsStr, file: &Path) -> bool {
    // USER:GROUP and USER.GROUP (chroot, gosu) name both.
    let user = user.as_bytes().split(|byte| *byte == b':').next().unwrap_or_default();
    let id = std::str::from_utf8(user).ok().and_then(|user| user.parse::<u32>().ok()).or_else(|| {
        let users = fs::read("/etc/passwd").ok()?;
        let mut lines = users.split(|byte| *byte == b'\n').map(|line| line.split(|byte| *byte == b':'));
        let mut columns = lines.find_map(|mut columns| (columns.next() == Some(user)).then_some(columns))?;
        std::str::from_utf8(columns.nth(1)?).ok()?.parse().ok()
    });
    let allows = |path: &Path, bit: u32| {
        fs::metadata(path)
            .is_ok_and(|found| found.mode() & bit != 0 || (Some(found.uid()) == id && found.mode() & (bit << 6) != 0))
    };
    const READ: u32 = 0o4;
    const SEARCH: u32 = 0o1;
    id == Some(0) || (allows(file, READ) && file.ancestors().skip(1).all(|folder| allows(folder, SEARCH)))
}

/// Whether a user or group, as this user namespace shows it, is one that it has: others are shown as the overflow id.
fn is_mapped(map: &str, id: u32) -> bool {
    let Ok(map) = fs::read_to_string(map) else { return true };
    map.lines().any(|line| {
        let mut columns = line.split_whitespace().map(str::parse::<u64>);
        let (Some(Ok(first)), _, Some(Ok(count))) = (columns.next(), columns.next(), columns.next()) else {
            return false;
        };
        (first..first.saturating_add(count)).contains(&u64::from(id))
    })
}

impl Capabilities {
    /// struct vfs_cap_data, linux/capability.h: little-endian words, of which the third form has one more.
    pub fn read(value: &[u8]) -> Option<Self> {
        const REVISION_2: u32 = 0x0200_0000;
        const EFFECTIVE: u32 = 1;
        let word = |index: usize| -> Option<u32> {
            value.get(index * 4..index * 4 + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes)
        };
        let magic = word(0)?;
        // The third form is for another user namespace's root, the first was never written by a tool.
        if magic & 0xff00_0000 != REVISION_2 {
            return None;
        }
        let set = |low: usize| Some(u64::from(word(low)?) | u64::from(word(low + 2)?) << 32);
        Some(Self { effective: magic & EFFECTIVE != 0, permitted: set(1)?, inheritable: set(2)? })
    }
}

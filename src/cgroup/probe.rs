//! What this kernel lets programs set: each option is tried, on a socket in a control group that is made for that.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use policy::constants::{SOL_IPV6, SOL_SOCKET};
use rustix::fs::{FlockOperation, flock};
use socket::{Errno, ffi};

use crate::assembler::{Map, NoProgram};
use crate::compile::{MOST_OPTIONS, Tables};
use crate::dns;
use crate::executable::{self, Fields};
use crate::fill;
use crate::group::{Group, mounts_or_refusal};
use crate::layout::{RESULT_READ, RESULT_VALUE};
use crate::learned::Addresses;
use crate::maps;
use crate::others::refuse_others;
use crate::place::Place;
use crate::programs;
use crate::refusal::Refusal;
use crate::rows::Rows;
use crate::search::{own_folder, search};
use crate::settable::{HostNames, OptionRow, Refused};
use crate::sys::{self, ProgramType, borrowed};

/// A control group for a moment. It is locked for as long as it is used, whatever PID namespace its maker is in: one that nobody has
/// locked was left by a process that was killed.
struct Trial {
    path: PathBuf,
    folder: OwnedFd,
}

impl Drop for Trial {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

/// What its name begins with; the number of the process follows.
const PREFIX: &str = "sockopt-probe-";
/// Another command may take it for one that was left, before it is locked, and removes it.
const MOST_TRIES: usize = 10;

impl Trial {
    fn below(parent: &Path) -> Result<Self, Refusal> {
        let path = parent.join(format!("{PREFIX}{}", std::process::id()));
        let step = || format!("{} cannot be made", path.display());
        for _ in 0..MOST_TRIES {
            match fs::create_dir(&path) {
                // Of a process that had this number.
                Err(why) if why.kind() == std::io::ErrorKind::AlreadyExists => {}
                made => made.map_err(Refusal::file(step()))?,
            }
            let Ok(folder) = fs::File::open(&path).map(OwnedFd::from) else { continue };
            // Whoever removes it has the lock until that is done.
            if flock(&folder, FlockOperation::LockExclusive).is_ok() && path.is_dir() {
                return Ok(Self { path, folder });
            }
        }
        Err(Refusal::kernel(step())(Errno(libc::EBUSY)))
    }
}

/// Removes the control groups in which options were tried by commands that were killed meanwhile, wherever they are.
pub fn clear_away() {
    let mounts = mounts_or_refusal().unwrap_or_default();
    for path in search(&mounts, &|name| name.starts_with(PREFIX)) {
        let Ok(folder) = fs::File::open(&path) else { continue };
        if flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = fs::remove_dir(path);
        }
    }
}

/// Tries what a policy needs. Nothing is sent.
///
/// # Errors
/// Why it could not be tried.
pub fn probe(group: &Group, tables: &Tables) -> Result<Refused, Refusal> {
    refuse_others(group, &[Place::Connect4, Place::Connect6])?;
    tried(group.ancestors().last().unwrap_or(group.path()), tables)
}

/// The same where no group is meant.
///
/// # Errors
/// Why it could not be tried.
pub fn probe_anywhere(tables: &Tables) -> Result<Refused, Refusal> {
    let mounts = mounts_or_refusal()?;
    tried(mounts.first().map_or(Path::new("/sys/fs/cgroup"), PathBuf::as_path), tables)
}

fn tried(top: &Path, tables: &Tables) -> Result<Refused, Refusal> {
    clear_away();
    maps::allow_locked_memory();
    let mut found = options(top, &tables.options)?;
    found.process = if tables.names.are_asked_for() { why_no_process() } else { None };
    found.host_names = tables.host_names();
    if tables.asks_for_hosts()
        && let Some(why) = why_no_host_names()
    {
        found.host_names = HostNames::Refused(why);
    }
    if tables.fills_in {
        found.new.extend(buffers_of_udp().unwrap_or_default());
    } else {
        (found.unread, found.new) = Default::default();
    }
    Ok(found)
}

/// UDP's own: those of a socket that is made for that.
fn buffers_of_udp() -> Option<BTreeMap<(bool, i32, i32), [u8; 16]>> {
    let made = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    let of = |name| -> Option<_> {
        let mut value = [0; 16];
        let number = ffi::get_int(made.as_raw_fd(), SOL_SOCKET, name).ok()?;
        value.iter_mut().zip(number.to_ne_bytes()).for_each(|(to, from)| *to = from);
        Some(((true, SOL_SOCKET, name), value))
    };
    [libc::SO_SNDBUF, libc::SO_RCVBUF].into_iter().map(of).collect()
}

/// Why programs cannot know the process that they run for, if so.
fn why_no_process() -> Option<String> {
    if let Err(why) = Fields::of_kernel() {
        return Some(why.to_owned());
    }
    let program = executable::trial().ok()?;
    let connect = ProgramType { kind: 18, place: 10 };
    let refused = sys::load(connect, program.name, &program.code).err()?;
    Some(format!(
        "this kernel lets programs read no memory ({}): CAP_PERFMON is needed, and no lockdown",
        refused.errno
    ))
}

/// Why programs cannot learn host names from the answers of name servers, if so: by loading the one that does.
#[must_use]
pub fn why_no_host_names() -> Option<String> {
    maps::allow_locked_memory();
    let trial = || -> Result<(), Refusal> {
        let state = Rows::array(Map::Hosts, std::iter::once([0_u8; 4]));
        let (states, addresses) = (maps::of_rows(&state)?, Addresses::make(64)?);
        let step = "the program for ingress is refused";
        let program = dns::answers().map_err(|NoProgram| Refusal::kernel(step)(Errno(libc::EINVAL)))?;
        let code = program.with_maps(|map| if map == Map::Hosts { &states } else { &addresses.0 }.as_raw_fd());
        let loaded = sys::load(Place::Answers.kind(), program.name, &code);
        loaded.map(drop).map_err(|refused| Refusal::kernel(step)(refused.errno))
    };
    let refusal = trial().err()?;
    Some(format!("this kernel lets no program learn them from answers of name servers: {refusal}"))
}

/// The options that this kernel refuses, and what a new socket has.
fn options(top: &Path, options: &[OptionRow]) -> Result<Refused, Refusal> {
    let mut known = BTreeMap::new();
    for option in options {
        known.entry((option.level, option.name)).or_insert(*option);
    }
    let mut found = Refused::default();
    for is_v6 in [false, true] {
        let is_meant = |row: &&OptionRow| (row.level == SOL_IPV6) == is_v6;
        let tried: Vec<OptionRow> = known.values().filter(is_meant).copied().take(MOST_OPTIONS).collect();
        if tried.is_empty() {
            continue;
        }
        for (row, Answer { set, read, value }) in tried.iter().zip(answers(top, &tried, is_v6)?) {
            let option = (row.level, row.name);
            if read == 0 {
                found.new.insert((false, row.level, row.name), value);
            } else {
                found.unread.insert(option, Errno(-read));
            }
            // Others depend on the value, and on the network namespace: a device that is not there.
            if let libc::EINVAL | libc::ENOPROTOOPT | libc::EOPNOTSUPP = -set {
                found.options.insert(option, Errno(-set));
            }
        }
    }
    Ok(found)
}

/// What the kernel answers about an option.
struct Answer {
    /// When it is set: 0, or an error below 0.
    set: i32,
    /// When it is asked for.
    read: i32,
    /// What a new socket has.
    value: [u8; 16],
}

/// What it answers about each.
///
/// Not in the group itself: others may watch it, and its programs may be somebody's. In this process's own group that takes no
/// privilege and works within a namespace of control groups, as containers have; but not every process has one that may have
/// groups below it. Then at the top.
fn answers(top: &Path, tried: &[OptionRow], is_v6: bool) -> Result<Vec<Answer>, Refusal> {
    match own_folder() {
        Some(own) if own != top => {
            answers_within(&own, tried, is_v6).or_else(|refusal| answers_within(top, tried, is_v6).map_err(|_| refusal))
        }
        _ => answers_within(top, tried, is_v6),
    }
}

/// The same, in a group that is made below this one.
fn answers_within(parent: &Path, tried: &[OptionRow], is_v6: bool) -> Result<Vec<Answer>, Refusal> {
    let step = "testing options on this kernel failed";
    let trial = Trial::below(parent)?;
    let options = maps::of_rows(&Rows::options(tried))?;
    // What it is before an answer is there.
    let unknown = |row: &OptionRow| -> [u8; 32] {
        let mut bytes = [0; 32];
        let words = [-libc::EIO, -libc::EIO, fill::length(row.level, row.name) as i32];
        bytes.iter_mut().zip(words.iter().flat_map(|word| word.to_ne_bytes())).for_each(|(to, from)| *to = from);
        bytes
    };
    let results = maps::of_rows(&Rows::array(Map::Results, tried.iter().map(unknown)))?;
    let program = programs::probe().map_err(|NoProgram| Refusal::kernel(step)(Errno(libc::EINVAL)))?;
    let code = program.with_maps(|map| if map == Map::Results { &results } else { &options }.as_raw_fd());
    let kind = ProgramType { kind: 18, place: if is_v6 { 11 } else { 10 } };
    let program = sys::load(kind, program.name, &code).map_err(|refused| Refusal::Kernel {
        step: step.to_owned(),
        errno: refused.errno,
        log: refused.log,
    })?;
    let _link =
        sys::create_link(borrowed(&program), borrowed(&trial.folder), kind.place).map_err(Refusal::kernel(step))?;
    let members = fs::File::options().write(true).open(trial.path.join("cgroup.procs")).map_err(Refusal::file(step))?;
    let members = OwnedFd::from(members);
    sys::connect_within(borrowed(&members), is_v6).map_err(Refusal::kernel(step))?;
    (0..tried.len() as u32)
        .map(|number| {
            let value = sys::lookup(borrowed(&results), &number.to_ne_bytes(), 32).map_err(Refusal::kernel(step))?;
            let word = |at: usize| {
                let bytes = value.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
                i32::from_ne_bytes(bytes.unwrap_or_default())
            };
            let new = value.get(RESULT_VALUE as usize..).and_then(|bytes| bytes.try_into().ok());
            Ok(Answer { set: word(0), read: word(RESULT_READ as usize), value: new.unwrap_or_default() })
        })
        .collect()
}

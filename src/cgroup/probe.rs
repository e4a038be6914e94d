//! What this kernel lets programs set: each option is tried, on a socket in a control group that is made for that.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use policy::constants::SOL_IPV6;
use socket::Errno;

use crate::assembler::{Map, NoProgram};
use crate::attach::{self, Place};
use crate::compile::{MOST_OPTIONS, Tables};
use crate::executable::{self, Fields};
use crate::group::{Group, mounts_or_refusal};
use crate::maps;
use crate::programs;
use crate::refusal::Refusal;
use crate::rows::Rows;
use crate::search::own_folder;
use crate::settable::{OptionRow, Refused};
use crate::sys::{self, ProgramType, borrowed};

/// A control group for a moment.
struct Trial(PathBuf);

impl Drop for Trial {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// What its name begins with; the number of the process follows.
const PREFIX: &str = "sockopt-probe-";

/// Removes those of processes that were killed.
fn clear_away(top: &Path) {
    for entry in fs::read_dir(top).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
        if !Path::new("/proc").join(pid).exists() {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Tries what a policy needs. Nothing is sent.
///
/// # Errors
/// Why it could not be tried.
pub fn probe(group: &Group, tables: &Tables) -> Result<Refused, Refusal> {
    attach::refuse_others(group, &[Place::Connect4, Place::Connect6])?;
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
    attach::allow_locked_memory();
    let options = refused(top, &tables.options)?;
    let process = if tables.names.are_asked_for() { why_no_process() } else { None };
    Ok(Refused { options, process })
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

/// The options that this kernel refuses.
fn refused(top: &Path, options: &[OptionRow]) -> Result<BTreeMap<(i32, i32), Errno>, Refusal> {
    let mut known = BTreeMap::new();
    for option in options {
        known.entry((option.level, option.name)).or_insert(*option);
    }
    let mut refused = BTreeMap::new();
    for is_v6 in [false, true] {
        let is_meant = |row: &&OptionRow| (row.level == SOL_IPV6) == is_v6;
        let tried: Vec<OptionRow> = known.values().filter(is_meant).copied().take(MOST_OPTIONS).collect();
        if tried.is_empty() {
            continue;
        }
        for (row, answer) in tried.iter().zip(answers(top, &tried, is_v6)?) {
            // Others depend on the value, and on the network namespace: a device that is not there.
            if let libc::EINVAL | libc::ENOPROTOOPT | libc::EOPNOTSUPP = -answer {
                refused.insert((row.level, row.name), Errno(-answer));
            }
        }
    }
    Ok(refused)
}

/// What the kernel answers to each.
///
/// Not in the group itself: others may watch it, and its programs may be somebody's. In this process's own group that takes no
/// privilege and works within a namespace of control groups, as containers have; but not every process has one that may have
/// groups below it. Then at the top.
fn answers(top: &Path, tried: &[OptionRow], is_v6: bool) -> Result<Vec<i32>, Refusal> {
    match own_folder() {
        Some(own) if own != top => {
            answers_within(&own, tried, is_v6).or_else(|refusal| answers_within(top, tried, is_v6).map_err(|_| refusal))
        }
        _ => answers_within(top, tried, is_v6),
    }
}

/// The same, in a group that is made below this one.
fn answers_within(parent: &Path, tried: &[OptionRow], is_v6: bool) -> Result<Vec<i32>, Refusal> {
    let step = "options cannot be tried";
    clear_away(parent);
    let trial = parent.join(format!("{PREFIX}{}", std::process::id()));
    fs::create_dir(&trial).map_err(Refusal::file(format!("{} cannot be made", trial.display())))?;
    let trial = Trial(trial);
    let options = maps::of_rows(&Rows::options(tried))?;
    // What it is before an answer is there.
    let unknown = (-libc::EIO).to_ne_bytes();
    let results = maps::of_rows(&Rows::array(Map::Results, tried.iter().map(|_| unknown)))?;
    let program = programs::probe().map_err(|NoProgram| Refusal::kernel(step)(Errno(libc::EINVAL)))?;
    let code = program.with_maps(|map| if map == Map::Results { &results } else { &options }.as_raw_fd());
    let kind = ProgramType { kind: 18, place: if is_v6 { 11 } else { 10 } };
    let program = sys::load(kind, program.name, &code).map_err(|refused| Refusal::Kernel {
        step: step.to_owned(),
        errno: refused.errno,
        log: refused.log,
    })?;
    let folder = OwnedFd::from(fs::File::open(&trial.0).map_err(Refusal::file(step))?);
    let _link = sys::create_link(borrowed(&program), borrowed(&folder), kind.place).map_err(Refusal::kernel(step))?;
    let members = fs::File::options().write(true).open(trial.0.join("cgroup.procs")).map_err(Refusal::file(step))?;
    let members = OwnedFd::from(members);
    sys::connect_within(borrowed(&members), is_v6).map_err(Refusal::kernel(step))?;
    (0..tried.len() as u32)
        .map(|number| {
            let value = sys::lookup(borrowed(&results), &number.to_ne_bytes(), 4).map_err(Refusal::kernel(step))?;
            Ok(i32::from_ne_bytes(value.try_into().unwrap_or_default()))
        })
        .collect()
}

//! Somebody else's programs.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::group::Group;
use crate::pins::FILE_SYSTEM;
use crate::place::Place;
use crate::refusal::{Other, Refusal};
use crate::sys::{self, borrowed};

/// Somebody else's programs that ours would displace, or that let none be attached.
pub(crate) fn refuse_others(group: &Group, places: &[Place]) -> Result<(), Refusal> {
    /// BPF_F_ALLOW_MULTI
    const MULTI: u32 = 2;
    let folders = std::iter::once(group.path.as_path()).chain(group.ancestors());
    for folder in folders {
        let Ok(open) = fs::File::open(folder) else { continue };
        let open = OwnedFd::from(open);
        for place in places {
            let step = format!("the programs of {} cannot be asked for", folder.display());
            let (flags, ids) = sys::query(borrowed(&open), place.kind().place).map_err(Refusal::kernel(step))?;
            if let (Some(&id), 0) = (ids.first(), flags & MULTI) {
                let name = sys::program_by_id(id).and_then(|program| sys::program_info(borrowed(&program)));
                return Err(Refusal::Other(Other {
                    id,
                    name: name.map(|(_, name)| name).unwrap_or_default(),
                    group: folder.to_owned(),
                    place: place.name(),
                    pin: pin_of(Path::new(FILE_SYSTEM), id, 4),
                    is_exclusive: flags == 0,
                }));
            }
        }
    }
    Ok(())
}

/// Where a program, or a link of it, is pinned.
fn pin_of(folder: &Path, program: u32, depth: usize) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?;
    for entry in entries.flatten().take(4096) {
        let path = entry.path();
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let found = match (is_folder, depth) {
            (true, 0) => None,
            (true, _) => pin_of(&path, program, depth - 1),
            (false, _) => is_pin_of(&path, program).then_some(path),
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

fn is_pin_of(pin: &Path, program: u32) -> bool {
    let Ok(object) = sys::open_pin(pin) else { return false };
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", object.as_raw_fd())).unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("prog_id:"));
    lines.any(|id| id.trim().parse() == Ok(program))
}

//! Puts a policy on a control group, replaces it, takes it away.
//!
//! What is attached is held by links that are pinned in the BPF file system, so that it stays in force when the command is
//! gone: `/sys/fs/bpf/sockopt/NUMBER/`, by the number of the control group.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use socket::Errno;

use crate::assembler::Map;
use crate::compile::Tables;
use crate::counters::Counting;
use crate::executable::Fields;
use crate::group::Group;
use crate::learned::Addresses;
use crate::maps;
use crate::others::refuse_others;
use crate::pins::{Folder, Undo, keep_program, program_of_link, program_pin, remove, remove_link, replace_pin};
use crate::place::Place;
use crate::programs::Parts;
use crate::refusal::Refusal;
use crate::remembered::Remembered;
use crate::rows::Rows;
use crate::status::{ABOUT, About, about_at, attachments};
use crate::sys::{self, CLONE, MapForm, MapType, NO_PREALLOCATION, borrowed};

/// What came of attaching.
#[derive(Debug)]
pub struct Attached {
    /// 1 for the first time.
    pub generation: u64,
    /// Whether the BPF file system had to be mounted.
    pub has_mounted: bool,
    /// What the programs remember of sockets.
    pub remembered: Remembered,
}

/// Attaches a policy to a control group, or puts it in the place of the one that is attached, without a gap. If
/// that fails, everything is as it was.
///
/// # Errors
/// Why nothing was changed.
pub fn attach(group: &Group, tables: &Tables, configuration: &str, rules: usize) -> Result<Attached, Refusal> {
    maps::allow_locked_memory();
    let mut places = Place::needed(tables);
    refuse_others(group, &places)?;
    let (folder, has_mounted) = Folder::make()?;
    // What earlier ones enforce stays enforced on the sockets that they were for.
    if !places.contains(&Place::Enforce) && folder.pins_of(group).join(Place::Enforce.name()).exists() {
        places.insert(0, Place::Enforce);
    }
    collect(&folder);
    let mut undo = Undo::default();
    match attached(group, tables, &places, &folder, &mut undo, configuration, rules) {
        Ok((generation, remembered)) => Ok(Attached { generation, has_mounted, remembered }),
        Err(refusal) => {
            undo.all();
            // Only if nothing else is there.
            let _ = fs::remove_dir(&folder.path);
            Err(refusal)
        }
    }
}

fn attached(
    group: &Group,
    tables: &Tables,
    places: &[Place],
    folder: &Folder,
    undo: &mut Undo,
    configuration: &str,
    rules: usize,
) -> Result<(u64, Remembered), Refusal> {
    let pins = folder.pins_of(group);
    if !pins.is_dir() {
        fs::create_dir(&pins).map_err(Refusal::file(format!("{} cannot be made", pins.display())))?;
        undo.folder = Some(pins.clone());
    }
    let before = about_at(&pins).unwrap_or_default();
    let counting = if tables.counts { Counting::of(&pins, &tables.counted)? } else { Counting::NONE };
    let (loaded, remembered) = load(tables, places, &pins, undo, &counting)?;
    for (place, program) in &loaded {
        let at = pins.join(place.name());
        let step = || format!("the program for {} cannot be attached to {}", place.name(), group.path.display());
        let link = sys::open_pin(&at).ok().and_then(|link| {
            let info = sys::link_info(borrowed(&link)).ok().filter(|info| info.group == group.id)?;
            Some((link, info.program))
        });
        if let Some((link, old)) = link {
            let old = program_of_link(&pins, *place, old);
            sys::update_link(borrowed(&link), borrowed(program)).map_err(Refusal::kernel(step()))?;
            undo.replaced.extend(old.map(|old| (link, old)));
            continue;
        }
        // What is left of one that was taken off by somebody else.
        let _ = fs::remove_file(&at);
        let link = sys::create_link(borrowed(program), borrowed(&group.folder), place.kind().place)
            .map_err(Refusal::kernel(step()))?;
        sys::pin(borrowed(&link), &at).map_err(Refusal::kernel(format!("{} cannot be made", at.display())))?;
        undo.pins.push(at);
    }
    let about = About {
        group: group.path.display().to_string(),
        configuration: configuration.to_owned(),
        rules,
        generation: before.generation + 1,
        adopted: before.adopted,
    };
    for (name, map) in counting.pins()? {
        replace_pin(&map, &pins.join(name), undo)?;
    }
    replace_pin(&maps::of_text(c"sockopt_about", &about.to_text())?, &pins.join(ABOUT), undo)?;
    for place in Place::ALL.iter().filter(|place| !places.contains(place)) {
        remove_link(&pins.join(place.name()));
        let _ = fs::remove_file(program_pin(&pins, *place));
    }
    if !places.contains(&Place::Answers) {
        // They would not be the newest any more.
        let _ = fs::remove_file(pins.join(Map::Addresses.name()));
    }
    loaded.iter().for_each(|(place, program)| keep_program(&pins, *place, program));
    Ok((about.generation, remembered))
}

/// Notes that so many sockets more were adopted.
///
/// # Errors
/// Why that could not be noted.
pub fn note_adopted(group: &Group, more: usize) -> Result<(), Refusal> {
    let Some(folder) = Folder::existing()? else { return Ok(()) };
    let pins = folder.pins_of(group);
    let Some(about) = about_at(&pins) else { return Ok(()) };
    let adopted = about.adopted + more;
    let text = About { adopted, ..about }.to_text();
    replace_pin(&maps::of_text(c"sockopt_about", &text)?, &pins.join(ABOUT), &mut Undo::default())
}

/// Makes the tables and loads the programs. What is remembered of sockets is the same map as before.
fn load(
    tables: &Tables,
    places: &[Place],
    pins: &Path,
    undo: &mut Undo,
    counting: &Counting,
) -> Result<(Vec<(Place, OwnedFd)>, Remembered), Refusal> {
    let mut maps: BTreeMap<Map, OwnedFd> = BTreeMap::new();
    let types = sys::load_types().map_err(Refusal::kernel("the types of a table cannot be loaded"))?;
    let storage = |name| MapForm {
        kind: MapType::SocketStorage,
        key: 4,
        value: 8,
        entries: 0,
        flags: NO_PREALLOCATION | CLONE,
        name,
        types: Some(borrowed(&types)),
    };
    // Sockets that connect while the configuration is replaced have their user timeout when they have connected.
    let connecting = tables.limits() || tables.fills_in;
    let kept = [(Map::Sockets, c"sockopt_sockets", true), (Map::Connecting, c"sockopt_connect", connecting)];
    for (map, name, _) in kept.into_iter().filter(|(.., is_needed)| *is_needed) {
        let at = pins.join(map.name());
        let made = match sys::open_pin(&at) {
            Ok(made) => made,
            Err(_) => {
                let made = maps::make(&storage(name))?;
                sys::pin(borrowed(&made), &at).map_err(Refusal::kernel(format!("{} cannot be made", at.display())))?;
                undo.pins.push(at);
                made
            }
        };
        maps.insert(map, made);
    }
    let addresses = if tables.asks_for_hosts() { Some(kept_addresses(pins, undo)?) } else { None };
    maps.insert(Map::Listeners, maps::make(&storage(c"sockopt_listen"))?);
    for rows in Rows::of(tables).into_iter().chain([counting.numbers()]) {
        let made = maps::of_rows(&rows)?;
        maps.insert(rows.map, made);
    }
    let process = tables.names.are_asked_for().then(Fields::of_kernel).transpose();
    let process = process.map_err(|why| Refusal::Target(why.to_owned()))?;
    let parts = Parts { process, fills: tables.fills_in, hosts: tables.asks_for_hosts() };
    let mut loaded = Vec::new();
    for place in places {
        let (step, program) = (place.step(), place.program(parts)?);
        let of = |map| match map {
            Map::Counters => counting.counters(),
            Map::Addresses => addresses.as_ref().map(|known| &known.0),
            map => maps.get(&map),
        };
        let code = program.with_maps(|map| of(map).map_or(-1, AsRawFd::as_raw_fd));
        let program = sys::load(place.kind(), program.name, &code).map_err(|refused| Refusal::Kernel {
            step,
            errno: refused.errno,
            log: refused.log,
        })?;
        loaded.push((*place, program));
    }
    let mut of_sockets =
        |map| maps.remove(&map).ok_or_else(|| Refusal::kernel("a table is missing")(Errno(libc::ENOENT)));
    let remembered =
        Remembered { sockets: of_sockets(Map::Sockets)?, listeners: of_sockets(Map::Listeners)?, addresses };
    Ok((loaded, remembered))
}

/// The addresses that are known already, or a table for them. They are as good for another configuration.
fn kept_addresses(pins: &Path, undo: &mut Undo) -> Result<Addresses, Refusal> {
    if let Some(known) = Addresses::at(pins) {
        return Ok(known);
    }
    let made = Addresses::new()?;
    replace_pin(&made.0, &pins.join(Map::Addresses.name()), undo)?;
    Ok(made)
}

/// Takes away what was for control groups that exist no more.
fn collect(folder: &Folder) {
    for attachment in attachments(folder).into_iter().filter(|attachment| attachment.is_gone) {
        let _ = remove(&attachment.pins);
    }
}

/// Takes everything off a control group: what that was.
///
/// # Errors
/// What is left, and why.
pub fn detach(group: &Group) -> Result<About, Refusal> {
    let nothing = || Refusal::NothingAttached(group.path.clone());
    let folder = Folder::existing()?.ok_or_else(nothing)?;
    let pins = folder.pins_of(group);
    if !pins.is_dir() {
        return Err(nothing());
    }
    let about = about_at(&pins).unwrap_or_default();
    remove(&pins)?;
    collect(&folder);
    let _ = fs::remove_dir(&folder.path);
    Ok(about)
}

//! Puts a policy on a control group, replaces it, takes it away, and tells what is attached.
//!
//! What is attached is held by links that are pinned in the BPF file system, so that it stays in force when the command is
//! gone: `/sys/fs/bpf/sockopt/NUMBER/`, by the number of the control group.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use socket::Errno;

use crate::assembler::{Map, NoProgram, Program};
use crate::compile::Tables;
use crate::counters::{self, Counting, Counts};
use crate::ended;
use crate::executable::Fields;
use crate::group::{Group, id_at};
use crate::maps;
use crate::programs::{self, Parts};
use crate::refusal::{Other, Refusal};
use crate::remembered::Remembered;
use crate::rows::Rows;
use crate::sys::{self, CLONE, MapForm, MapType, NO_PREALLOCATION, ProgramType, borrowed};

/// Where BPF file systems are by custom; systemd mounts it, and so do bpftool and libbpf where nobody has.
pub const FILE_SYSTEM: &str = "/sys/fs/bpf";
/// BPF_FS_MAGIC
const BPF_FS: u64 = 0xcafe_4a11;
/// The folder in it.
const FOLDER: &str = "sockopt";
/// What is said of an attachment.
const ABOUT: &str = "about";
/// The end of a file's name that is renamed to one without.
const NEW: &str = "_new";

/// Where a program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Enforce,
    Events,
    Ended,
    Connect4,
    Connect6,
}

impl Place {
    /// In the order in which they are attached.
    pub(crate) const ALL: [Self; 5] = [Self::Enforce, Self::Events, Self::Ended, Self::Connect4, Self::Connect6];

    /// The name of the pin.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Enforce => "setsockopt",
            Self::Events => "sock_ops",
            Self::Ended => "sock_ops_metrics",
            Self::Connect4 => "connect4",
            Self::Connect6 => "connect6",
        }
    }

    /// linux/bpf.h
    const fn kind(self) -> ProgramType {
        match self {
            Self::Enforce => ProgramType { kind: 25, place: 22 },
            Self::Events | Self::Ended => ProgramType { kind: 13, place: 3 },
            Self::Connect4 => ProgramType { kind: 18, place: 10 },
            Self::Connect6 => ProgramType { kind: 18, place: 11 },
        }
    }

    fn program(self, parts: Parts) -> Result<Program, Refusal> {
        let made = match self {
            Self::Enforce => programs::setsockopt(parts),
            Self::Events => programs::events(parts),
            Self::Ended => ended::ended(&ended::Fields::of_kernel()?),
            Self::Connect4 => programs::connect4(parts),
            Self::Connect6 => programs::connect6(parts),
        };
        made.map_err(|NoProgram| Refusal::kernel(self.step())(Errno(libc::EINVAL)))
    }

    /// What is done when it is loaded.
    fn step(self) -> String {
        let name = self.name();
        match self {
            Self::Ended => format!("the program for {name} is refused by the kernel (--metrics needs CAP_PERFMON too)"),
            _ => format!("the program for {name} is refused by the kernel"),
        }
    }

    /// Those that a policy needs.
    fn needed(tables: &Tables) -> Vec<Self> {
        let is_needed = |place: &Self| match place {
            Self::Enforce => tables.enforces || tables.takes_back(),
            Self::Events => tables.listens || tables.limits(),
            Self::Ended => tables.counts,
            Self::Connect4 | Self::Connect6 => tables.connects,
        };
        Self::ALL.into_iter().filter(is_needed).collect()
    }
}

/// What there is to know of an attachment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    /// The folder of the control group when it was attached.
    pub group: String,
    /// Where the configuration came from.
    pub configuration: String,
    /// How many rules it has.
    pub rules: usize,
    /// How often it was attached and replaced.
    pub generation: u64,
    /// How many sockets have its options that were there before.
    pub adopted: usize,
}

impl About {
    fn to_text(&self) -> String {
        let line = |text: &str| text.replace('\n', "\u{fffd}");
        let Self { rules, generation, adopted, .. } = self;
        format!("{}\n{}\n{rules}\n{generation}\n{adopted}\n", line(&self.group), line(&self.configuration))
    }

    fn from_text(text: &str) -> Self {
        let mut lines = text.lines();
        let mut next = || lines.next().unwrap_or_default();
        Self {
            group: next().to_owned(),
            configuration: next().to_owned(),
            rules: next().parse().unwrap_or_default(),
            generation: next().parse().unwrap_or_default(),
            adopted: next().parse().unwrap_or_default(),
        }
    }
}

/// Something that is attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The number of the control group.
    pub group_id: u64,
    /// Where its links are pinned.
    pub pins: PathBuf,
    /// What was said of it.
    pub about: About,
    /// Whether the control group exists no more.
    pub is_gone: bool,
    /// What is attached: `connect4`, and the number of the program.
    pub programs: Vec<(&'static str, u32)>,
}

impl Attachment {
    /// Whether its programs run.
    #[must_use]
    pub fn is_in_force(&self) -> bool {
        !self.programs.is_empty()
    }

    /// What was counted so far for each rule, if it is.
    #[must_use]
    pub fn counts(&self) -> Option<Vec<Counts>> {
        let is_counted = self.programs.iter().any(|(name, _)| *name == Place::Ended.name());
        if is_counted { counters::read(&self.pins) } else { None }
    }
}

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

/// The folder of all attachments, for one process at a time.
struct Folder {
    path: PathBuf,
    _lock: OwnedFd,
}

impl Folder {
    /// Makes it where it is not.
    fn make() -> Result<(Self, bool), Refusal> {
        let is_there = || rustix::fs::statfs(FILE_SYSTEM).is_ok_and(|found| found.f_type as u64 == BPF_FS);
        let has_mounted = !is_there();
        if has_mounted {
            let step = format!("{FILE_SYSTEM}: a BPF file system cannot be mounted");
            rustix::mount::mount("bpf", FILE_SYSTEM, "bpf", rustix::mount::MountFlags::empty(), None)
                .map_err(|errno| Refusal::kernel(step)(Errno(errno.raw_os_error())))?;
        }
        loop {
            let path = Path::new(FILE_SYSTEM).join(FOLDER);
            match fs::create_dir(&path) {
                Err(why) if why.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(Refusal::file(format!("{} cannot be made", path.display()))(why));
                }
                _ => {}
            }
            if let Some(folder) = Self::lock(path)? {
                return Ok((folder, has_mounted));
            }
        }
    }

    /// The one that is there, if it is.
    fn existing() -> Result<Option<Self>, Refusal> {
        let path = Path::new(FILE_SYSTEM).join(FOLDER);
        while path.is_dir() {
            if let Some(folder) = Self::lock(path.clone())? {
                return Ok(Some(folder));
            }
        }
        Ok(None)
    }

    /// None if somebody has removed it in the meantime.
    fn lock(path: PathBuf) -> Result<Option<Self>, Refusal> {
        let step = format!("{} cannot be locked", path.display());
        let folder = match fs::File::open(&path) {
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            folder => folder.map_err(Refusal::file(step.clone()))?,
        };
        flock(&folder, FlockOperation::LockExclusive)
            .map_err(|errno| Refusal::kernel(step)(Errno(errno.raw_os_error())))?;
        let id = |found: std::io::Result<fs::Metadata>| found.map(|found| found.ino()).ok();
        let is_it = id(folder.metadata()) == id(fs::metadata(&path));
        Ok(is_it.then(|| Self { path, _lock: folder.into() }))
    }

    fn pins_of(&self, group: &Group) -> PathBuf {
        self.path.join(group.id.to_string())
    }
}

/// What was done so far, to be undone if something fails.
#[derive(Default)]
struct Undo {
    pins: Vec<PathBuf>,
    folder: Option<PathBuf>,
    /// Links, with the program that they had.
    replaced: Vec<(OwnedFd, OwnedFd)>,
    /// Pins, with what they were for.
    replaced_pins: Vec<(PathBuf, OwnedFd)>,
}

impl Undo {
    fn all(self) {
        for (link, program) in &self.replaced {
            let _ = sys::update_link(borrowed(link), borrowed(program));
        }
        for (pin, object) in &self.replaced_pins {
            let _ = fs::remove_file(pin);
            let _ = sys::pin(borrowed(object), pin);
        }
        // A link without a pin is taken off by and by.
        self.pins.iter().for_each(|pin| remove_link(pin));
        if let Some(folder) = self.folder {
            let _ = fs::remove_dir(folder);
        }
    }
}

/// Before Linux 5.11 tables count as locked memory, of which there is little by default.
pub(crate) fn allow_locked_memory() {
    let all = rustix::process::Rlimit { current: None, maximum: None };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Memlock, all);
}

/// Attaches a policy to a control group, or puts it in the place of the one that is attached: at no moment there is none. If
/// that fails, everything is as it was.
///
/// # Errors
/// Why nothing was changed.
pub fn attach(group: &Group, tables: &Tables, configuration: &str, rules: usize) -> Result<Attached, Refusal> {
    allow_locked_memory();
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

/// Where the program of a link has a name, besides the link itself.
fn program_pin(pins: &Path, place: Place) -> PathBuf {
    pins.join(format!("{}_program", place.name()))
}

/// The program that a link has. The kernel gives a program by its number only to CAP_SYS_ADMIN, a pin to whoever owns it.
fn program_of_link(pins: &Path, place: Place, id: u32) -> Option<OwnedFd> {
    let is_it = |program: &OwnedFd| sys::program_info(borrowed(program)).is_ok_and(|(number, _)| number == id);
    sys::open_pin(&program_pin(pins, place)).ok().filter(is_it).or_else(|| sys::program_by_id(id).ok())
}

/// Gives the program that is in force now a name. Without one it is in force as well, and only cannot be put back without
/// CAP_SYS_ADMIN if the next replacement fails halfway.
fn keep_program(pins: &Path, place: Place, program: &OwnedFd) {
    let at = program_pin(pins, place);
    let _ = fs::remove_file(&at);
    let _ = sys::pin(borrowed(program), &at);
}

/// Pins a map in place of the one that is pinned there, at once.
fn replace_pin(map: &OwnedFd, at: &Path, undo: &mut Undo) -> Result<(), Refusal> {
    let step = || format!("{} cannot be made", at.display());
    let Ok(old) = sys::open_pin(at) else {
        sys::pin(borrowed(map), at).map_err(Refusal::kernel(step()))?;
        undo.pins.push(at.to_owned());
        return Ok(());
    };
    // No dot: the file system takes none.
    let new = PathBuf::from(format!("{}{NEW}", at.display()));
    let _ = fs::remove_file(&new);
    sys::pin(borrowed(map), &new).map_err(Refusal::kernel(step()))?;
    if let Err(why) = fs::rename(&new, at) {
        let _ = fs::remove_file(&new);
        return Err(Refusal::file(step())(why));
    }
    undo.replaced_pins.push((at.to_owned(), old));
    Ok(())
}

fn about_at(pins: &Path) -> Option<About> {
    maps::text_at(&pins.join(ABOUT)).ok().map(|text| About::from_text(&text))
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
    maps.insert(Map::Listeners, maps::make(&storage(c"sockopt_listen"))?);
    for rows in Rows::of(tables).into_iter().chain([counting.numbers()]) {
        let made = maps::of_rows(&rows)?;
        maps.insert(rows.map, made);
    }
    let process = tables.names.are_asked_for().then(Fields::of_kernel).transpose();
    let process = process.map_err(|why| Refusal::Target(why.to_owned()))?;
    let parts = Parts { process, fills: tables.fills_in };
    let mut loaded = Vec::new();
    for place in places {
        let (step, program) = (place.step(), place.program(parts)?);
        let of = |map| if map == Map::Counters { counting.counters() } else { maps.get(&map) };
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
    let remembered = Remembered { sockets: of_sockets(Map::Sockets)?, listeners: of_sockets(Map::Listeners)? };
    Ok((loaded, remembered))
}

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

/// Takes a link off, and its pin away.
fn remove_link(pin: &Path) {
    if let Ok(link) = sys::open_pin(pin) {
        let _ = sys::detach_link(borrowed(&link));
    }
    let _ = fs::remove_file(pin);
}

/// Takes away everything below a folder of pins.
fn remove(pins: &Path) -> Result<(), Refusal> {
    for place in Place::ALL {
        remove_link(&pins.join(place.name()));
    }
    let step = || format!("{} cannot be removed", pins.display());
    for entry in fs::read_dir(pins).map_err(Refusal::file(step()))?.flatten() {
        fs::remove_file(entry.path()).map_err(Refusal::file(step()))?;
    }
    fs::remove_dir(pins).map_err(Refusal::file(step()))
}

/// Takes away what was for control groups that exist no more.
fn collect(folder: &Folder) {
    for attachment in attachments(folder).into_iter().filter(|attachment| attachment.is_gone) {
        let _ = remove(&attachment.pins);
    }
}

/// Takes everything off a control group.
///
/// # Errors
/// What is left, and why.
pub fn detach(group: &Group) -> Result<(), Refusal> {
    let nothing = || Refusal::NothingAttached(group.path.clone());
    let folder = Folder::existing()?.ok_or_else(nothing)?;
    let pins = folder.pins_of(group);
    if !pins.is_dir() {
        return Err(nothing());
    }
    remove(&pins)?;
    collect(&folder);
    let _ = fs::remove_dir(&folder.path);
    Ok(())
}

/// Everything that is attached.
///
/// # Errors
/// Why that is not known.
pub fn status() -> Result<Vec<Attachment>, Refusal> {
    Ok(Folder::existing()?.map(|folder| attachments(&folder)).unwrap_or_default())
}

fn attachments(folder: &Folder) -> Vec<Attachment> {
    let entries = fs::read_dir(&folder.path).into_iter().flatten().flatten();
    let mut found: Vec<Attachment> = entries
        .filter_map(|entry| {
            let group_id = entry.file_name().to_str()?.parse().ok()?;
            let pins = entry.path();
            let about = about_at(&pins).unwrap_or_default();
            let link = |place: &Place| {
                let link = sys::open_pin(&pins.join(place.name())).ok()?;
                let info = sys::link_info(borrowed(&link)).ok()?;
                (info.group == group_id && info.place == place.kind().place).then_some((place.name(), info.program))
            };
            let programs: Vec<(&'static str, u32)> = Place::ALL.iter().filter_map(link).collect();
            let is_gone = programs.is_empty() && id_at(Path::new(&about.group)) != Some(group_id);
            Some(Attachment { group_id, pins, about, is_gone, programs })
        })
        .collect();
    found.sort_by(|one, other| one.about.group.cmp(&other.about.group));
    found
}

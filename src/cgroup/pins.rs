//! What holds an attachment: links, programs and tables with names in the BPF file system, `/sys/fs/bpf/sockopt/NUMBER/`.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use socket::Errno;

use crate::group::Group;
use crate::place::Place;
use crate::refusal::Refusal;
use crate::sys::{self, borrowed};

/// Where BPF file systems are by custom; systemd mounts it, and so do bpftool and libbpf where nobody has.
pub const FILE_SYSTEM: &str = "/sys/fs/bpf";
/// BPF_FS_MAGIC
const BPF_FS: u64 = 0xcafe_4a11;
/// The folder in it.
const FOLDER: &str = "sockopt";
/// The end of a file's name that is renamed to one without.
const NEW: &str = "_new";

/// The folder of all attachments, for one process at a time.
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    _lock: OwnedFd,
}

impl Folder {
    /// Makes it where it is not.
    pub(crate) fn make() -> Result<(Self, bool), Refusal> {
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
    pub(crate) fn existing() -> Result<Option<Self>, Refusal> {
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

    pub(crate) fn pins_of(&self, group: &Group) -> PathBuf {
        self.path.join(group.id.to_string())
    }
}

/// What was done so far, to be undone if something fails.
#[derive(Default)]
pub(crate) struct Undo {
    pub(crate) pins: Vec<PathBuf>,
    pub(crate) folder: Option<PathBuf>,
    /// Links, with the program that they had.
    pub(crate) replaced: Vec<(OwnedFd, OwnedFd)>,
    /// Pins, with what they were for.
    pub(crate) replaced_pins: Vec<(PathBuf, OwnedFd)>,
}

impl Undo {
    pub(crate) fn all(self) {
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

/// Where the program of a link has a name, besides the link itself.
pub(crate) fn program_pin(pins: &Path, place: Place) -> PathBuf {
    pins.join(format!("{}_program", place.name()))
}

/// The program that a link has. The kernel gives a program by its number only to CAP_SYS_ADMIN, a pin to whoever owns it.
pub(crate) fn program_of_link(pins: &Path, place: Place, id: u32) -> Option<OwnedFd> {
    let is_it = |program: &OwnedFd| sys::program_info(borrowed(program)).is_ok_and(|(number, _)| number == id);
    sys::open_pin(&program_pin(pins, place)).ok().filter(is_it).or_else(|| sys::program_by_id(id).ok())
}

/// Gives the program that is in force now a name. Without one it is in force as well, and only cannot be put back without
/// CAP_SYS_ADMIN if the next replacement fails halfway.
pub(crate) fn keep_program(pins: &Path, place: Place, program: &OwnedFd) {
    let at = program_pin(pins, place);
    let _ = fs::remove_file(&at);
    let _ = sys::pin(borrowed(program), &at);
}

/// Pins a map in place of the one that is pinned there, at once.
pub(crate) fn replace_pin(map: &OwnedFd, at: &Path, undo: &mut Undo) -> Result<(), Refusal> {
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

/// Takes a link off, and its pin away.
pub(crate) fn remove_link(pin: &Path) {
    if let Ok(link) = sys::open_pin(pin) {
        let _ = sys::detach_link(borrowed(&link));
    }
    let _ = fs::remove_file(pin);
}

/// Takes away everything below a folder of pins.
pub(crate) fn remove(pins: &Path) -> Result<(), Refusal> {
    for place in Place::ALL {
        remove_link(&pins.join(place.name()));
    }
    let step = || format!("{} cannot be removed", pins.display());
    for entry in fs::read_dir(pins).map_err(Refusal::file(step()))?.flatten() {
        fs::remove_file(entry.path()).map_err(Refusal::file(step()))?;
    }
    fs::remove_dir(pins).map_err(Refusal::file(step()))
}

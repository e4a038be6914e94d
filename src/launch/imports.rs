//! What of a dynamic program the library can see: whether the program, or a library that it needs, calls one of the
//! functions that set options. The libraries are found as the loader finds them (ld.so(8)).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::blocks;
use crate::executable::{self, Image, Libc, glibcs_folders};
use crate::library::musls_folders;

/// What the library sees of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// It calls a function that sets options.
    Calls,
    /// It calls none, but loads code while it runs, which may.
    Loads,
    /// The same, and it has system calls of its own.
    LoadsOrMakes,
    /// It calls none, and has no system calls of its own either: it makes no connections. Whether it starts programs.
    Nothing {
        /// Whether it starts other programs.
        starts: bool,
    },
    /// It calls none, and has system calls of its own. Whether it starts programs.
    Makes {
        /// Whether it starts other programs.
        starts: bool,
    },
    /// It calls none, and syscall(2), by which it may.
    Asks,
    /// A library that it needs is not found, or cannot be read.
    Unknown(String),
}

/// Functions in which the library sets options.
const SETTING: &[&str] = &["connect", "listen", "accept", "accept4", "bind", "sendto", "sendmsg", "sendmmsg"];
/// Functions that bring in code that cannot be known from the files.
const LOADING: &[&str] = &["dlopen", "dlmopen", "dlsym", "dlvsym"];
/// Functions that start programs.
const STARTING: &[&str] = &[
    "execl",
    "execle",
    "execlp",
    "execv",
    "execve",
    "execveat",
    "execvp",
    "execvpe",
    "fexecve",
    "popen",
    "posix_spawn",
    "posix_spawnp",
    "system",
];

/// What is found out of one file after the other.
#[derive(Default)]
struct Found {
    loads: bool,
    starts: bool,
    makes: bool,
    /// It calls syscall(2), for whatever.
    asks: bool,
}

/// What the library sees of a program; `first` are the folders of LD_LIBRARY_PATH.
pub fn reach(file: &Path, image: &Image, first: &[PathBuf]) -> Reach {
    let mut search = Search::new(image, first);
    let mut found = Found::default();
    let mut seen = HashSet::new();
    let mut queue = vec![(file.to_owned(), image.clone(), Vec::new())];
    while let Some((path, image, inherited)) = queue.pop() {
        let Some(imports) = imports(&path) else { return Reach::Unknown(path.display().to_string()) };
        let calls = |names: &[&str]| names.iter().any(|name| imports.contains(*name));
        if calls(SETTING) {
            return Reach::Calls;
        }
        found.loads |= calls(LOADING);
        found.starts |= calls(STARTING);
        found.asks |= calls(&["syscall"]);
        found.makes |= blocks::open(&path).is_ok_and(|file| executable::makes_system_calls(&file));
        let origin = path.canonicalize().ok().and_then(|path| path.parent().map(Path::to_owned)).unwrap_or_default();
        let own = folders(image.search.as_deref().unwrap_or_default(), &origin);
        // DT_RPATH counts for what is loaded in turn as well, DT_RUNPATH does not.
        let handed_on: Vec<PathBuf> =
            if image.is_rpath { [own.clone(), inherited.clone()].concat() } else { inherited };
        for name in image.needed.iter().filter(|name| !is_of_libc(name)) {
            if !seen.insert(name.clone()) {
                continue;
            }
            match search.find(name, &own, &handed_on, image.is_rpath) {
                Some((path, image)) => queue.push((path, image, handed_on.clone())),
                None => return Reach::Unknown(name.clone()),
            }
        }
    }
    match found {
        Found { loads: true, makes: true, .. } => Reach::LoadsOrMakes,
        Found { loads: true, .. } => Reach::Loads,
        Found { makes: true, starts, .. } => Reach::Makes { starts },
        // What it starts has the library; by itself it may connect so.
        Found { asks: true, starts: false, .. } => Reach::Asks,
        Found { starts, .. } => Reach::Nothing { starts },
    }
}

fn imports(file: &Path) -> Option<BTreeSet<String>> {
    let cache = blocks::open(file).ok()?;
    Some(executable::imports(&cache)?.into_iter().map(|name| name.into_owned()).collect())
}

/// Parts of libc, and its loader: what they do among themselves is no call that the library would see.
fn is_of_libc(name: &str) -> bool {
    let stem = name.split(".so").next().unwrap_or(name);
    name.starts_with("ld-")
        || name.starts_with("ld64.")
        || name.starts_with("libc.musl-")
        || matches!(
            stem,
            "libc" | "libm" | "libmvec" | "libdl" | "libpthread" | "librt" | "libutil" | "libresolv" | "libanl"
        )
}

/// Folders of a list such as DT_RUNPATH, with the loader's tokens replaced; others stay, and name nothing.
fn folders(list: &str, origin: &Path) -> Vec<PathBuf> {
    let origin = origin.display().to_string();
    let mut folders = Vec::new();
    for folder in list.split(':').filter(|folder| !folder.is_empty()) {
        let folder = folder.replace("${ORIGIN}", &origin).replace("$ORIGIN", &origin);
        if folder.contains("$LIB") || folder.contains("${LIB}") {
            let triplet = format!("lib/{}-linux-gnu", std::env::consts::ARCH);
            folders.extend(
                [&*triplet, "lib64", "lib"].map(|lib| folder.replace("${LIB}", lib).replace("$LIB", lib).into()),
            );
        } else {
            folders.push(folder.into());
        }
    }
    folders
}

/// Where a loader looks.
struct Search<'a> {
    program: &'a Image,
    first: &'a [PathBuf],
    /// Its own folders, in their order.
    last: Vec<PathBuf>,
    /// /etc/ld.so.cache, read when it is needed.
    cache: Option<HashMap<Vec<u8>, Vec<PathBuf>>>,
    is_musl: bool,
}

impl<'a> Search<'a> {
    fn new(program: &'a Image, first: &'a [PathBuf]) -> Self {
        let loader = program.loader_path().unwrap_or(Path::new(""));
        let is_musl = program.libc() == Some(Libc::Musl);
        let last = if is_musl {
            musls_folders(loader)
        } else {
            let beside = loader.canonicalize().ok().and_then(|loader| loader.parent().map(Path::to_owned));
            beside.into_iter().chain(glibcs_folders()).collect()
        };
        Self { program, first, last, cache: None, is_musl }
    }

    fn find(&mut self, name: &str, own: &[PathBuf], handed_on: &[PathBuf], is_rpath: bool) -> Option<(PathBuf, Image)> {
        if name.contains('/') {
            return self.read(Path::new(name));
        }
        // musl takes both in the same place, behind LD_LIBRARY_PATH.
        let (before, after) = match (self.is_musl, is_rpath) {
            (false, true) => (handed_on, &[][..]),
            (false, false) => (handed_on, own),
            (true, _) => (&[][..], own),
        };
        let behind = if self.is_musl { handed_on } else { &[] };
        let named = before.iter().chain(self.first).chain(after).chain(behind);
        if let Some(found) = named.flat_map(|folder| variants(folder)).find_map(|folder| self.read(&folder.join(name)))
        {
            return Some(found);
        }
        if !self.is_musl {
            let cache = self.cache.get_or_insert_with(|| read_cache(&fs::read("/etc/ld.so.cache").unwrap_or_default()));
            let paths = cache.get(name.as_bytes()).cloned().unwrap_or_default();
            if let Some(found) = paths.iter().find_map(|path| self.read(path)) {
                return Some(found);
            }
        }
        self.last.iter().flat_map(|folder| variants(folder)).find_map(|folder| self.read(&folder.join(name)))
    }

    /// A file for another architecture is passed over.
    fn read(&self, path: &Path) -> Option<(PathBuf, Image)> {
        let image = Image::read(&blocks::open(path).ok()?)?;
        (image.architecture == self.program.architecture).then(|| (path.to_owned(), image))
    }
}

/// A folder, and those below it for newer processors: the names in their files are the same.
fn variants(folder: &Path) -> [PathBuf; 2] {
    [folder.to_owned(), folder.join("glibc-hwcaps/x86-64-v2")]
}

/// The names in ld.so.cache with the files that they stand for (sysdeps/generic/dl-cache.h in glibc: a header of 48 bytes,
/// entries of 24, and texts whose places count from the header).
fn read_cache(cache: &[u8]) -> HashMap<Vec<u8>, Vec<PathBuf>> {
    const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
    const HEADER: usize = 48;
    const ENTRY: usize = 24;
    let mut found: HashMap<Vec<u8>, Vec<PathBuf>> = HashMap::new();
    // An older format may stand in front of it.
    let Some(start) = cache.windows(MAGIC.len()).position(|window| window == MAGIC) else { return found };
    let cache = cache.get(start..).unwrap_or_default();
    let number = |at: usize| -> Option<usize> {
        let bytes = cache.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_ne_bytes(bytes)).ok()
    };
    let text = |at: usize| cache.get(at..)?.split(|byte| *byte == 0).next();
    let count = number(MAGIC.len()).unwrap_or(0).min(cache.len() / ENTRY);
    for entry in (0..count).map(|index| HEADER + index * ENTRY) {
        if let (Some(name), Some(path)) = (number(entry + 4).and_then(text), number(entry + 8).and_then(text)) {
            found.entry(name.to_vec()).or_default().push(OsStr::from_bytes(path).into());
        }
    }
    found
}

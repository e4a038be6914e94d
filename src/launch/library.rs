//! Finds `libsockopt.so` for the command, never in the current directory, and holds what it needs against a program's
//! libc.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::env::{self, consts};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{StatVfsMountFlags, statvfs};

use crate::blocks;
use crate::executable::{self, Image, Libc, Outlook, TAKES_EFFECT, Verdict, glibc_version, glibcs_folders};
use crate::root::Root;

const NAME: &str = "libsockopt.so";
/// Where it was to be installed: `SOCKOPT_PREFIX=/opt/sockopt cargo build`.
const PREFIX: &str = match option_env!("SOCKOPT_PREFIX") {
    Some(prefix) => prefix,
    None => "/usr/local",
};

/// The library that was found.
#[derive(Debug)]
pub struct Library {
    /// Absolute.
    pub path: PathBuf,
    /// What its file says.
    pub image: Image,
}

impl Library {
    /// The library that `--library` or SOCKOPT_LIBRARY names, or that lies where the command is installed: an image for
    /// several machines may have one for each.
    ///
    /// # Errors
    /// Where it was looked for, or why it cannot be preloaded.
    pub fn find(named: Option<&OsStr>) -> Result<Self, String> {
        let variable = env::var_os("SOCKOPT_LIBRARY").filter(|path| !path.is_empty());
        let named_by = match (named, &variable) {
            (Some(_), _) => Some("--library"),
            (None, Some(_)) => Some("SOCKOPT_LIBRARY"),
            (None, None) => None,
        };
        let candidates = match (named, variable) {
            (Some(path), _) => vec![std::path::absolute(path).unwrap_or_else(|_| path.into())],
            (None, Some(path)) if !path.as_bytes().starts_with(b"/") => {
                return Err(format!("SOCKOPT_LIBRARY: {} is not an absolute path", path.display()));
            }
            (None, Some(path)) => vec![PathBuf::from(path)],
            (None, None) => beside_the_command(),
        };
        let mut there = candidates.iter().filter(|path| path.is_file()).map(|path| (path, read(path)));
        let is_for_this_machine = |image: &Result<Image, String>| image.as_ref().is_ok_and(Image::is_for_this_machine);
        let first = there.next();
        let is_first = first.as_ref().is_some_and(|(_, image)| is_for_this_machine(image));
        let found = if is_first { first } else { there.find(|(_, image)| is_for_this_machine(image)).or(first) };
        let (found, image) = found.ok_or_else(|| {
            let places: Vec<String> = candidates.iter().map(|path| path.display().to_string()).collect();
            if let [place] = &*places
                && let Some(by) = named_by
            {
                let what = if Path::new(place).exists() { "not a file" } else { "no such file" };
                return format!("{by}: {place}: {what}");
            }
            format!("{NAME} is in none of these places: {}; use --library or SOCKOPT_LIBRARY", places.join(", "))
        })?;
        let shown = found.display();
        let image = image?;
        if found.as_os_str().as_bytes().iter().any(|byte| b": \t\n$".contains(byte)) {
            return Err(format!(
                "{shown}: LD_PRELOAD cannot name a path with a space, a colon or a dollar sign (ld.so(8)); move the library"
            ));
        }
        if statvfs(found).is_ok_and(|mount| mount.f_flag.contains(StatVfsMountFlags::NOEXEC)) {
            return Err(format!(
                "{shown} is on a file system that is mounted noexec: no loader can map it; move the library"
            ));
        }
        Ok(Self { path: found.clone(), image })
    }

    /// In a program with glibc's loader: `folders` are those where that looks first, if they are known.
    pub fn beside_glibc(&self, name: &str, folders: Option<&[PathBuf]>, loader: &Path) -> Verdict {
        let needs = &self.image.needed;
        if let Some(musl) = needs.iter().find(|file| file.starts_with("libc.musl-") || *file == "libc.so") {
            return Verdict::cannot(
                format!(
                    "{name} runs with glibc, and {} with musl ({musl}): the loader ends the program at once",
                    self.path.display()
                ),
                "use --library with a libsockopt.so that is built for glibc",
            );
        }
        if let Some(missing) = folders.and_then(|folders| self.missing_beside(folders, loader)) {
            return Verdict::cannot(
                format!("{} needs {missing}, which is missing: the loader ends {name} at once", self.path.display()),
                format!("install the package that has {missing}"),
            );
        }
        let beside = loader.canonicalize().ok().and_then(|loader| loader.parent().map(PathBuf::from));
        let libc = folders.and_then(|folders| {
            folders.iter().chain(&beside).map(|folder| folder.join("libc.so.6")).find(|file| file.is_file())
        });
        let offers = libc.and_then(|file| Image::read(&blocks::open(&file).ok()?));
        let offers = offers.map(|libc| libc.versions).unwrap_or_default();
        let newest = |versions: &mut dyn Iterator<Item = &String>| {
            versions.filter_map(|version| glibc_version(version)).max().map(|(major, minor)| format!("{major}.{minor}"))
        };
        let Some(has) = newest(&mut offers.iter()) else {
            return Verdict::works(format!("{name} is dynamically linked with glibc{TAKES_EFFECT}"));
        };
        let asks = self.image.needs.iter().filter(|(file, _)| file == "libc.so.6").map(|(_, version)| version);
        let missing: Vec<&String> = asks.filter(|version| !offers.contains(*version)).collect();
        if missing.is_empty() {
            return Verdict::works(format!("{name} is dynamically linked with glibc {has}{TAKES_EFFECT}"));
        }
        let wants =
            newest(&mut missing.iter().copied()).unwrap_or_else(|| missing.iter().map(|v| v.as_str()).collect());
        Verdict::cannot(
            format!(
                "{name} runs with glibc {has}, and {} needs {wants}: the loader ends the program at once",
                self.path.display()
            ),
            "build the library on the oldest system where it should run, and use it with --library",
        )
    }

    /// A file that the library needs and that glibc's loader finds nowhere (ld.so(8)).
    fn missing_beside(&self, folders: &[PathBuf], loader: &Path) -> Option<&String> {
        let cache = fs::read("/etc/ld.so.cache").unwrap_or_default();
        let cached = |name: &str| cache.windows(name.len()).any(|window| window == name.as_bytes());
        let system = glibcs_folders();
        let beside = loader.canonicalize().ok()?.parent()?.to_owned();
        let places = || {
            folders.iter().map(PathBuf::as_path).chain([beside.as_path()]).chain(system.iter().map(PathBuf::as_path))
        };
        self.image.needed.iter().find(|name| !places().any(|place| place.join(name).is_file()) && !cached(name))
    }

    /// What a program of another root must have, and has not as far as can be seen: else the loader may end it.
    pub(crate) fn lacks(&self, root: &Root, program: Option<&Image>) -> Option<String> {
        if let Some(image) = program.filter(|image| image.libc() == Some(Libc::Musl)) {
            let loader = image.loader_path().and_then(|loader| root.file(loader));
            let is_enough = loader.is_some_and(|loader| self.beside_musl("", &loader).outlook == Outlook::Works);
            return (!is_enough).then(|| "musl that is known to be enough".to_owned());
        }
        let missing = self.image.needed.iter().find(|file| root.library(file, program).is_none());
        if missing.is_some() {
            return missing.cloned();
        }
        let libc = || Image::read(&blocks::open(&root.library("libc.so.6", program)?).ok()?);
        let offers = libc().map(|libc| libc.versions).unwrap_or_default();
        let missing = self.image.needs.iter().find(|(file, version)| file == "libc.so.6" && !offers.contains(version));
        missing.map(|(file, version)| format!("{file} with {version}"))
    }

    /// In a program with musl's loader, which is its libc.
    pub fn beside_musl(&self, name: &str, loader: &Path) -> Verdict {
        let cannot = |what: &str| {
            Verdict::cannot(
                format!(
                    "{name} runs with musl, which has no {what} for {}: the loader ends the program at once",
                    self.path.display()
                ),
                "build the library with musl, for example on Alpine, and use it with --library",
            )
        };
        let others: Vec<&String> = self.image.needed.iter().filter(|file| !is_part_of_musl(file)).collect();
        let folders = musls_folders(loader);
        let is_missing = |file: &&&String| {
            // glibc's own loader is nothing that musl's could load.
            file.starts_with("ld-linux")
                || file.starts_with("ld64")
                || !folders.iter().any(|folder| folder.join(file).is_file())
        };
        if let Some(missing) = others.iter().find(is_missing) {
            return cannot(missing);
        }
        let read = |file: &Path, defined| {
            let cache = blocks::open(file).ok()?;
            let names = executable::symbols(&cache, defined)?;
            Some(names.into_iter().map(Cow::into_owned).collect::<BTreeSet<String>>())
        };
        let (Some(asks), Some(offers), true) = (read(&self.path, false), read(loader, true), others.is_empty()) else {
            return Verdict::unknown(format!(
                "{name} is dynamically linked with musl: it is not known whether the library loads there"
            ));
        };
        // musl's loader takes open for open64, and so on (ldso/dynlink.c, get_lfs64).
        let has =
            |symbol: &String| offers.contains(symbol) || symbol.strip_suffix("64").is_some_and(|s| offers.contains(s));
        match asks.iter().find(|symbol| !has(symbol)) {
            Some(missing) => cannot(missing),
            None => Verdict::works(format!("{name} is dynamically linked with musl{TAKES_EFFECT}")),
        }
    }
}

/// What the file of a shared library says, or why it says nothing.
fn read(path: &Path) -> Result<Image, String> {
    let shown = path.display();
    let file = blocks::open(path).map_err(|error| format!("{shown} cannot be read: {error}"))?;
    let image = Image::read(&file).filter(Image::is_shared_library);
    image.ok_or_else(|| format!("{shown} is not a shared library"))
}

/// Names that musl's loader takes for itself, whatever their version (ldso/dynlink.c, load_library).
fn is_part_of_musl(file: &str) -> bool {
    let stem = file.strip_prefix("lib").and_then(|rest| rest.split('.').next());
    matches!(stem, Some("c" | "pthread" | "rt" | "m" | "dl" | "util" | "xnet"))
}

/// Where musl's loader looks: the folders in etc/ld-musl-ARCH.path beside its lib, or three.
pub fn musls_folders(loader: &Path) -> Vec<PathBuf> {
    let list = || {
        let name = Path::new(loader.file_name()?).file_stem()?.to_str()?;
        let file = loader.parent()?.parent()?.join("etc").join(format!("{}.path", name.trim_end_matches(".so")));
        fs::read_to_string(file).ok()
    };
    let list = list().unwrap_or_else(|| "/lib:/usr/local/lib:/usr/lib".to_owned());
    list.split([':', '\n']).filter(|folder| !folder.is_empty()).map(PathBuf::from).collect()
}

/// Beside the command, in the lib folders of where it is installed, and of where it was to be.
fn beside_the_command() -> Vec<PathBuf> {
    let command = env::current_exe().ok().and_then(|path| path.canonicalize().ok());
    let folder = command.as_deref().and_then(Path::parent).unwrap_or(Path::new("/"));
    // One library is for every libc, whichever the command itself has.
    let [gnu, musl] = ["gnu", "musl"].map(|libc| format!("lib/{}-linux-{libc}", consts::ARCH));
    let mut places = vec![folder.join(NAME)];
    for prefix in folder.parent().into_iter().chain([Path::new(PREFIX)]) {
        for below in ["lib", "lib/sockopt", &gnu, &musl, "lib64"] {
            let place = prefix.join(below).join(NAME);
            if !places.contains(&place) {
                places.push(place);
            }
        }
    }
    places
}

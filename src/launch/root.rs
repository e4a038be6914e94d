//! Files of a directory that becomes a program's root, where absolute links lead to files of that root.

use std::env;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::executable::{Image, glibcs_folders};

/// Such a directory.
pub(crate) struct Root(OwnedFd);

impl Root {
    pub(crate) fn open(path: &Path) -> Option<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).ok().map(Self)
    }

    /// Where one of its files lies for this process. What is no file is none: it could block.
    pub(crate) fn file(&self, path: &Path) -> Option<PathBuf> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let found = rustix::fs::openat2(&self.0, path, flags, Mode::empty(), ResolveFlags::IN_ROOT).ok()?;
        let file = fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd())).ok()?;
        file.is_file().then_some(file)
    }

    /// A library of that name, where the loader of a program there usually looks for it.
    pub(crate) fn library(&self, name: &str, program: Option<&Image>) -> Option<PathBuf> {
        let own = program.and_then(|image| image.search.as_deref()).unwrap_or_default();
        let environment = env::var("LD_LIBRARY_PATH").unwrap_or_default().replace(';', ":");
        let beside = program.and_then(Image::loader_path).and_then(Path::parent);
        let first = own.split(':').chain(environment.split(':')).filter(|folder| !folder.is_empty()).map(Path::new);
        let system = glibcs_folders();
        first.chain(beside).chain(system.iter().map(PathBuf::as_path)).find_map(|folder| self.file(&folder.join(name)))
    }
}

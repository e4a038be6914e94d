//! The programs under test, and the library.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Failure;

/// Whatever the user's environment says about sockets or Java must not get into the comparison.
const NOT_INHERITED: &[&str] = &["LD_PRELOAD", "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS"];

/// The command without what the user's environment might add, and speaking English.
pub(crate) fn neutral(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("SOCKOPT_") || NOT_INHERITED.contains(&&*name) {
            command.env_remove(&*name);
        }
    }
    command.env("LC_ALL", "C")
}

/// The library that cargo built along with this program, or the one that the user names.
pub(crate) fn library() -> Result<PathBuf, Failure> {
    let program = std::env::current_exe()?;
    let profile = program.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
    let candidates = match std::env::var_os("SOCKOPT_LIBRARY").filter(|path| !path.is_empty()) {
        Some(path) => vec![PathBuf::from(path)],
        None => ["deps/libsockopt.so", "libsockopt.so"].map(|name| profile.join(name)).to_vec(),
    };
    let age = |path: &&PathBuf| path.metadata().and_then(|data| data.modified()).ok();
    match candidates.iter().filter(|path| path.is_file()).max_by_key(age) {
        Some(path) => Ok(path.canonicalize()?),
        None => Err(Failure::CannotRun(format!("there is no {} (`cargo build` makes it)", candidates[0].display()))),
    }
}

/// What `env` is to be told: the library, by a name in the test bed that LD_PRELOAD can hold (no blank, no colon).
pub(crate) fn preload(directory: &Path, library: &Path) -> std::io::Result<String> {
    let link = directory.join("libsockopt.so");
    std::os::unix::fs::symlink(library, &link)?;
    Ok(format!("LD_PRELOAD={}", link.display()))
}

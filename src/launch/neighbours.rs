//! Other libraries in LD_PRELOAD: some must come before this one, some after it, and the order decides whether anything is set.
//! Each was measured (tests/neighbours.rs).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Where another library has to stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In front of this one.
    Before,
    /// Behind this one.
    After,
    /// No matter.
    Anywhere,
}

struct Neighbour {
    /// What its file's name begins with.
    stems: &'static [&'static str],
    place: Place,
    /// What is to be known of it.
    note: Option<&'static str>,
}

const NEIGHBOURS: &[Neighbour] = &[
    // AddressSanitizer ends the program unless it is first; the others are there for the same.
    Neighbour {
        stems: &["libasan.so", "libclang_rt.", "libhwasan.so", "liblsan.so", "libtsan.so", "libubsan.so"],
        place: Place::Before,
        note: None,
    },
    // It connects a socket of its own and puts that in the place of the program's.
    Neighbour {
        stems: &["libproxychains"],
        place: Place::Before,
        note: Some("proxychains connects to the proxy: rules must match the proxy's address, not the destination's"),
    },
    // It calls libc's functions past whatever is behind it.
    Neighbour { stems: &["libtorsocks.so"], place: Place::After, note: None },
    Neighbour {
        stems: &["libsocket_wrapper"],
        place: Place::Anywhere,
        note: Some("socket_wrapper replaces TCP by Unix sockets, on which there is nothing to set"),
    },
];

/// A name for messages.
const NAME: &[u8] = b"libsockopt.so";

fn base_name(entry: &[u8]) -> &[u8] {
    entry.rsplit(|byte| *byte == b'/').next().unwrap_or(entry)
}

fn known(entry: &[u8]) -> Option<&'static Neighbour> {
    let name = base_name(entry);
    NEIGHBOURS.iter().find(|known| known.stems.iter().any(|stem| name.starts_with(stem.as_bytes())))
}

/// LD_PRELOAD with the library where it works: in front of what is there already, unless that must come first. What is
/// there under the library's name is the library.
pub fn with_library(library: &Path, existing: Option<&OsStr>) -> OsString {
    let ours = library.as_os_str().as_bytes();
    let entries: Vec<&[u8]> = entries(existing);
    let is_ours = |entry: &&[u8]| *entry == ours || base_name(entry) == NAME;
    let others: Vec<&[u8]> = entries.iter().copied().filter(|entry| !is_ours(entry)).collect();
    let has = |place: Place| move |entry: &&[u8]| known(entry).is_some_and(|known| known.place == place);
    let least = others.iter().rposition(has(Place::Before)).map_or(0, |last| last + 1);
    let most = others.iter().position(has(Place::After)).unwrap_or(others.len()).max(least);
    let alone = entries.iter().filter(|entry| is_ours(entry)).count() == 1;
    // Where it stands already, if that is right, is where somebody wanted it.
    if let Some(existing) = existing
        && alone
        && let Some(at) = entries.iter().position(|entry| *entry == ours)
        && (least..=most).contains(&at)
    {
        return existing.to_owned();
    }
    let mut list = others;
    list.insert(least, ours);
    OsString::from_vec(list.join(&b':'))
}

/// The entries of LD_PRELOAD, ld.so(8).
fn entries(list: Option<&OsStr>) -> Vec<&[u8]> {
    let list = list.map(OsStrExt::as_bytes).unwrap_or_default();
    list.split(|byte| b": ".contains(byte)).filter(|entry| !entry.is_empty()).collect()
}

/// What is to be known of the others in the list, and of those that wrappers preload.
pub fn notes(list: &OsStr, wrappers: &[PathBuf]) -> Vec<&'static str> {
    let preloading = wrappers.iter().filter_map(|wrapper| {
        let name = wrapper.file_name()?.as_bytes();
        name.starts_with(b"proxychains").then_some(&b"libproxychains"[..])
    });
    let mut notes: Vec<&str> = Vec::new();
    for note in entries(Some(list)).into_iter().chain(preloading).filter_map(|entry| known(entry)?.note) {
        if !notes.contains(&note) {
            notes.push(note);
        }
    }
    notes
}

/// The variable that AddressSanitizer reads.
pub const SANITIZER_VARIABLE: &str = "ASAN_OPTIONS";

/// What lets it start behind other libraries.
pub(crate) const SANITIZER_SETTING: &str = "verify_asan_link_order=0";

/// Whether the variable's value does; the last word counts.
pub(crate) fn lets_sanitizer_start(value: &[u8]) -> bool {
    let (setting, name) = (SANITIZER_SETTING.as_bytes(), SANITIZER_SETTING.len() - 1);
    value.windows(setting.len()).rfind(|part| part.starts_with(&setting[..name])).is_some_and(|last| last == setting)
}

/// Whether its runtime is among these libraries.
fn has_sanitizer<'a>(mut libraries: impl Iterator<Item = &'a [u8]>) -> bool {
    libraries.any(|name| name.starts_with(b"libasan.so") || name.starts_with(b"libclang_rt.asan"))
}

/// Whether a program's own files ask for its runtime, which is not preloaded in front of everything.
pub(crate) fn loads_sanitizer_late(needed: &[String]) -> bool {
    let preloaded = std::env::var_os("LD_PRELOAD");
    has_sanitizer(needed.iter().map(String::as_bytes))
        && !has_sanitizer(entries(preloaded.as_deref()).into_iter().map(base_name))
}

/// The variable with what lets it start, if the program's own files ask for its runtime; it is not enough to put that in front,
/// since every program that is started then would have it.
pub fn address_sanitizer(needed: &[String], options: Option<OsString>) -> Option<(String, OsString)> {
    if !has_sanitizer(needed.iter().map(String::as_bytes)) {
        return None;
    }
    let mut options = options.unwrap_or_default();
    if !options.is_empty() {
        options.push(":");
    }
    options.push(SANITIZER_SETTING);
    Some((SANITIZER_VARIABLE.to_owned(), options))
}

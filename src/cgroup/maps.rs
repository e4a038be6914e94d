//! Tables in the kernel.

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::path::Path;

use socket::Errno;

use crate::refusal::Refusal;
use crate::rows::{Kind, Rows};
use crate::sys::{self, MapForm, MapType, NO_PREALLOCATION, borrowed};

/// Before Linux 5.11 tables count as locked memory, of which there is little by default.
pub(crate) fn allow_locked_memory() {
    let all = rustix::process::Rlimit { current: None, maximum: None };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Memlock, all);
}

/// A map of a policy's own.
pub(crate) fn make(form: &MapForm<'_>) -> Result<OwnedFd, Refusal> {
    sys::create_map(form).map_err(Refusal::kernel(format!("the table {} cannot be made", form.name.to_string_lossy())))
}

/// One with these rows.
pub(crate) fn of_rows(rows: &Rows) -> Result<OwnedFd, Refusal> {
    let name = CString::new(rows.map.name()).unwrap_or_default();
    let count = rows.keys.len() / rows.key;
    let form = MapForm {
        kind: match rows.kind {
            Kind::Hash => MapType::Hash,
            Kind::Array => MapType::Array,
            Kind::LongestPrefix => MapType::LongestPrefix,
        },
        key: rows.key as u32,
        value: rows.value as u32,
        entries: count.max(1) as u32,
        flags: if rows.kind == Kind::Array { 0 } else { NO_PREALLOCATION },
        name: &name,
        types: None,
    };
    let made = make(&form)?;
    sys::update_all(borrowed(&made), &rows.keys, rows.key, &rows.values, rows.value)
        .map_err(Refusal::kernel(format!("the table {} cannot be filled", rows.map.name())))?;
    Ok(made)
}

/// One that has nothing but a text.
pub(crate) fn of_text(name: &CStr, text: &str) -> Result<OwnedFd, Refusal> {
    let length = text.len() as u32;
    let made = make(&MapForm { kind: MapType::Array, key: 4, value: length, entries: 1, flags: 0, name, types: None })?;
    sys::update(borrowed(&made), &[0; 4], text.as_bytes())
        .map_err(Refusal::kernel(format!("the table {} cannot be filled", name.to_string_lossy())))?;
    Ok(made)
}

/// The text of such a one that is pinned.
pub(crate) fn text_at(pin: &Path) -> Result<String, Errno> {
    let map = sys::open_pin(pin)?;
    let length = sys::value_size(borrowed(&map))?;
    let text = sys::lookup(borrowed(&map), &[0; 4], length as usize)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

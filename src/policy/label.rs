//! Short texts that lie in their table themselves, not behind an address: of a shared library the loader writes each address
//! that stands in its data, in every process that it is loaded into.

use std::fmt;

/// A text of at most `N` bytes.
#[derive(Clone, Copy)]
pub struct Label<const N: usize> {
    bytes: [u8; N],
    length: u8,
}

impl<const N: usize> Label<N> {
    /// Of a text. In a table one that is too long fails the build.
    pub(crate) const fn new(text: &str) -> Self {
        let mut bytes = [0; N];
        let mut at = 0;
        while at < text.len() {
            bytes[at] = text.as_bytes()[at];
            at += 1;
        }
        Self { bytes, length: text.len() as u8 }
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8] {
        self.bytes.split_at(self.length as usize).0
    }

    /// The text.
    #[must_use]
    pub const fn as_str(&self) -> &str {
        match std::str::from_utf8(self.as_bytes()) {
            Ok(text) => text,
            Err(_) => "",
        }
    }
}

impl<const N: usize> PartialEq<str> for Label<N> {
    fn eq(&self, other: &str) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl<const N: usize> fmt::Debug for Label<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

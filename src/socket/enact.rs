//! Carries a plan out on one socket: each setting by itself, so that one that fails does not keep the next from being made.

use policy::{Enforce, Setting};

use crate::errno::Errno;
use crate::fill::{self, AsNew, Left};
use crate::setting::{self, Outcome};

/// The settings of one plan on one socket.
#[derive(Debug, Clone, Copy)]
pub struct Enactment {
    fd: i32,
    /// What the program has left at the system's default, where only that is set.
    left: Option<Left>,
}

impl Enactment {
    /// Before the first setting. Where only what the program has left alone is filled in, the socket is looked at, and
    /// `unknown` is told of each option that could not be read; it is taken for the program's.
    pub fn begin<'a>(
        fd: i32,
        enforce: Enforce,
        settings: impl Iterator<Item = &'a Setting>,
        new: &AsNew,
        unknown: impl FnMut(&'a Setting, Errno),
    ) -> Self {
        let left = (enforce == Enforce::Fill).then(|| fill::left(fd, settings, new, unknown));
        Self { fd, left }
    }

    /// Whether a setting is made; else the program has chosen.
    #[must_use]
    pub fn makes(&self, setting: &Setting) -> bool {
        self.left.is_none_or(|left| left.has(setting))
    }

    /// Makes one.
    #[must_use]
    pub fn make(&self, setting: &Setting) -> Outcome {
        match self.left {
            _ if !self.makes(setting) => Outcome::LeftToProgram,
            Some(_) => fill::fill_in(self.fd, setting),
            None => setting::set(self.fd, setting),
        }
    }
}

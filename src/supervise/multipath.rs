//! What Multipath TCP lacks (the user timeout, for one). A socket that is accepted from a client of plain TCP is plain TCP, whatever its
//! listener is: it has these options, and cannot inherit them from a listener of Multipath TCP, as Go's are from Go 1.24 on.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, OwnedFd};

use policy::options::Family;
use policy::{Phase, Rules, Setting};
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, socket_with};
use socket::fill::{self, AsNew, Left};
use socket::setting::{Outcome, set};

/// The options of some rules that Multipath TCP lacks.
#[derive(Default)]
pub(crate) struct Multipath {
    /// Level and name, sorted.
    lacking: Vec<(i32, i32)>,
    /// What a new socket of plain TCP has of them.
    new: AsNew,
}

impl Multipath {
    /// Asks this kernel, since each version has more of them. None where there is no Multipath TCP.
    pub(crate) fn of(rules: &Rules) -> Self {
        let decisions = rules.rules().flat_map(|rule| [false, true].map(|with| rule.decision(with)));
        let all = decisions.chain([false, true].map(|with| rules.otherwise(with)));
        let settings = all.flat_map(|decision| decision.profile().settings());
        let inherited: BTreeMap<(i32, i32), &Setting> = settings
            .filter(|setting| setting.phases.contains(Phase::Accept))
            .map(|setting| ((setting.level, setting.name), setting))
            .collect();
        if inherited.is_empty() {
            return Self::default();
        }
        // One of IPv6 has the options of IPv4 as well.
        let (socket, has_both) = match new_socket(AddressFamily::INET6) {
            Some(socket) => (socket, true),
            None => match new_socket(AddressFamily::INET) {
                Some(socket) => (socket, false),
                None => return Self::default(),
            },
        };
        let is_lacking = |setting: &Setting| {
            (has_both || setting.family != Family::V6) && set(socket.as_raw_fd(), setting) == Outcome::Absent
        };
        let lacking: Vec<(i32, i32)> =
            inherited.into_iter().filter(|(_, setting)| is_lacking(setting)).map(|(option, _)| option).collect();
        let new = AsNew::ask(&lacking);
        Self { lacking, new }
    }

    /// Whether there is such an option.
    pub(crate) fn lacks_any(&self) -> bool {
        !self.lacking.is_empty()
    }

    /// Whether it is one.
    pub(crate) fn lacks(&self, setting: &Setting) -> bool {
        self.lacking.binary_search(&(setting.level, setting.name)).is_ok()
    }

    /// Those that nobody has set yet on a socket that was accepted.
    pub(crate) fn left<'a>(&self, fd: i32, settings: impl Iterator<Item = &'a Setting>) -> Left {
        fill::left(fd, settings.filter(|setting| self.lacks(setting)), &self.new, |_, _| ())
    }
}

fn new_socket(family: AddressFamily) -> Option<OwnedFd> {
    let protocol = NonZeroU32::new(libc::IPPROTO_MPTCP.unsigned_abs()).map(Protocol::from_raw);
    socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, protocol).ok()
}

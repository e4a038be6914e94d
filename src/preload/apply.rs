//! Makes the settings of a plan and says what became of them; what the hooks around connect and the others share.

use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use policy::variables::Level;
use policy::{Decision, Endpoint, Phases, Setting};
use socket::describe::kind;
use socket::enact::{Enacted, Hindrance};
use socket::memory;
use socket::{Errno, Kind};

use crate::setup::Runtime;
use crate::{fault, log};

/// Whether anything is set at these phases, or at least logged.
pub(crate) fn concerns(runtime: &Runtime, phases: Phases) -> bool {
    runtime.rules.phases().intersects(phases) || log::enabled(Level::Debug)
}

/// Where an address could not be read because nothing tells what can be read, that is said once.
pub(crate) fn say_if_blind() {
    static SAID: AtomicBool = AtomicBool::new(false);
    if memory::is_blind() && !SAID.swap(true, Relaxed) {
        log::warn(format_args!(
            "a seccomp filter refuses both rt_sigprocmask and futex: the library cannot read addresses safely, and leaves options out"
        ));
    }
}

/// What kind of socket a descriptor is, if it is one. Where that may not be asked, it is said once.
pub(crate) fn kind_of(fd: c_int) -> Option<Kind> {
    static SAID: AtomicBool = AtomicBool::new(false);
    let kind = kind(fd);
    if let Err(errno) = kind
        && !matches!(errno, Errno(libc::EBADF | libc::ENOTSOCK))
        && !SAID.swap(true, Relaxed)
    {
        log::warn(format_args!(
            "a seccomp filter refuses getsockopt ({errno}): the library cannot tell the kind of a socket, and leaves its options out"
        ));
    }
    kind.ok()
}

/// Makes settings, but for the `first`, which was made already; reports them, and reports each that fails once.
pub(crate) fn apply_settings<'a>(
    runtime: &Runtime,
    fd: c_int,
    decision: &Decision<'_>,
    first: Option<&'a Setting>,
    settings: impl Iterator<Item = &'a Setting> + Clone,
    call: &str,
    endpoint: Endpoint,
) {
    let hindered = |setting: &Setting, why| report_once(runtime, setting, why, (call, fd, endpoint), decision);
    runtime.in_use.store(true, Relaxed);
    let each = settings.clone().inspect(|_| fault::point("apply"));
    let enacted = Enacted::make(fd, decision.profile().enforce(), first, each, &runtime.new, hindered);
    if log::enabled(Level::Debug) && !enacted.is_empty() {
        log::debug(format_args!("{call} fd {fd} {endpoint}: {decision}:{}", enacted.of(first, settings)));
    }
}

/// Says what keeps a setting from being made, unless that was said.
#[cold]
#[inline(never)]
fn report_once(
    runtime: &Runtime,
    setting: &Setting,
    why: Hindrance,
    (call, fd, endpoint): (&str, c_int, Endpoint),
    decision: &Decision<'_>,
) {
    if runtime.warned.get(setting.id as usize).is_none_or(|warned| !warned.swap(true, Relaxed)) {
        log::warn(format_args!("{call} fd {fd} {endpoint}: {decision}: {setting} {why}"));
    }
}

//! Makes the settings of a plan and says what became of them; what the hooks around connect and the others share.

use std::ffi::c_int;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use policy::variables::Level;
use policy::{Decision, Endpoint, Phases, Setting};
use socket::describe::kind;
use socket::enact::{Enactment, Made};
use socket::memory;
use socket::setting::Outcome;
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
    if let Err(errno @ Errno(libc::EPERM | libc::EACCES | libc::ENOSYS)) = kind
        && !SAID.swap(true, Relaxed)
    {
        log::warn(format_args!(
            "a seccomp filter refuses getsockopt ({errno}): the library cannot tell the kind of a socket, and leaves its options out"
        ));
    }
    kind.ok()
}

/// Makes settings, but for the `first`, which was made already, and for what the program has chosen where only the rest is
/// filled in; reports them, and reports each that fails once.
pub(crate) fn apply_settings<'a>(
    runtime: &Runtime,
    fd: c_int,
    decision: &Decision<'_>,
    first: Option<&'a Setting>,
    settings: impl Iterator<Item = &'a Setting> + Clone,
    call: &str,
    endpoint: Endpoint,
) {
    let (mut made, mut chosen) = (Made::default(), Made::default());
    let is_new_to_report =
        |setting: &Setting| runtime.warned.get(setting.id as usize).is_none_or(|warned| !warned.swap(true, Relaxed));
    let enactment = Enactment::begin(
        fd,
        decision.profile().enforce(),
        settings.clone(),
        &runtime.new,
        |setting, errno| {
            if is_new_to_report(setting) {
                log::warn(format_args!(
                    "{call} fd {fd} {endpoint}: {decision}: {setting} is left out: whether the program has set it is not known: {errno}"
                ));
            }
        },
    );
    runtime.in_use.store(true, Relaxed);
    first.into_iter().for_each(|setting| made.note(setting));
    for setting in settings.filter(|setting| first.is_none_or(|first| !ptr::eq(first, *setting))) {
        fault::point("apply");
        match enactment.make(setting) {
            Outcome::LeftToProgram => chosen.note(setting),
            Outcome::Done => made.note(setting),
            Outcome::Absent => {}
            // Another thread has closed it.
            Outcome::Failed(Errno(libc::EBADF | libc::ENOTSOCK)) => {}
            Outcome::Failed(errno) if is_new_to_report(setting) => {
                log::warn(format_args!("{call} fd {fd} {endpoint}: {decision}: {setting} failed: {errno}"));
            }
            Outcome::Failed(_) => {}
        }
    }
    match (made.count, chosen.count) {
        (0, 0) => {}
        (_, 0) => log::debug(format_args!("{call} fd {fd} {endpoint}: {decision}:{made}")),
        (0, _) => {
            log::debug(format_args!("{call} fd {fd} {endpoint}: {decision}: left to the program:{}", chosen.keys()))
        }
        _ => log::debug(format_args!(
            "{call} fd {fd} {endpoint}: {decision}:{made}; left to the program:{}",
            chosen.keys()
        )),
    }
}

//! Around connect, and around what connects as well: options before it, and the user timeout that belongs to
//! connecting alone (`connect_timeout`).
//!
//! Nothing is remembered about a connection that is being made: the socket's user timeout tells. While it is a rule's
//! time for connecting, which no program sets by itself nor any rule otherwise (`policy::rules`, a millisecond less), it is
//! to be taken back. So it does not matter by which descriptor, copy or process the program learns that it has connected.

use std::ffi::c_int;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use libc::{sockaddr, socklen_t};
use policy::plan::Plan;
use policy::timers::syn_retries_for;
use policy::{Bypass, Connection, Endpoint, Enforce, Key, Phase, Phases, Setting, Value};
use socket::memory::{Near, Place};
use socket::standing::local_endpoint;
use socket::{Address, enact, ffi};

use crate::intercept::{apply_settings, concerns, kind_of, say_if_blind};
use crate::setup::{Runtime, runtime};
use crate::{fault, guard, log};

const TCP: Phases = Phases::of(&[Phase::Connect]);
/// Before it is known which of both it is.
const CONNECT: Phases = Phases::of(&[Phase::Connect, Phase::Datagram]);
const CONNECTED: Phases = Phases::of(&[Phase::Connected]);

/// A socket that has a time for connecting.
#[derive(Clone, Copy)]
pub(crate) struct Connecting {
    peer: Endpoint,
    plan: Plan<'static>,
    /// The time, milliseconds.
    limit: c_int,
    /// What the socket is to have when it has connected.
    afterwards: &'static Setting,
    /// The user timeout that the program has set itself and that comes back, milliseconds; 0 where there is none.
    own: c_int,
    /// Whether the time was left on it by a connect before this one.
    is_running: bool,
}

/// Before connect.
pub(crate) fn before_connect(fd: c_int, address: *const sockaddr, length: socklen_t) -> Option<Connecting> {
    let runtime = runtime().filter(|runtime| concerns(runtime, CONNECT))?;
    let place = Place::here();
    let near = place.page();
    let own = near.own_address(address, length);
    // UNIX sockets, mostly: not worth a guard.
    if own.is_some_and(|own| own.is_foreign()) && !log::enabled(policy::variables::Level::Debug) {
        return None;
    }
    connect_to(runtime, fd, ("connect", false), || own.or_else(|| near.address(address, length)))
}

/// Before a send that connects, and goes on to send in the same call.
pub(crate) fn before_send(
    fd: c_int,
    call: &str,
    flags: c_int,
    address: impl FnOnce(Near<'_>) -> Option<Address> + Copy,
) -> Option<Connecting> {
    let runtime = runtime().filter(|runtime| concerns(runtime, CONNECT))?;
    let place = Place::here();
    let near = place.page();
    connect_to(runtime, fd, (call, flags & libc::MSG_DONTWAIT == 0), || address(near))
}

#[inline]
fn connect_to(
    runtime: &'static Runtime,
    fd: c_int,
    (call, may_send_on): (&str, bool),
    address: impl FnOnce() -> Option<Address> + Copy,
) -> Option<Connecting> {
    guard::contained(|| {
        fault::point("connect");
        let peer = match address().ok_or(Bypass::BadAddress).and_then(|address| address.endpoint()) {
            Ok(peer) if peer.ip().is_unspecified() => {
                local_endpoint(fd).map_or(peer.as_destination_of_any(), |local| peer.as_destination(local.ip()))
            }
            Ok(peer) => peer,
            Err(reason) => {
                log::debug(format_args!("{call} fd {fd}: left alone: {reason}"));
                say_if_blind();
                return None;
            }
        };
        let plan = runtime.plan(Connection::Outbound { peer }, CONNECT);
        let limit = time_limit(runtime, fd, peer, plan);
        if matches!(limit, Limit::None) {
            end_of_limit(runtime, fd);
        }
        let sends_on = may_send_on && matches!(limit, Limit::Rule(_)) && !ffi::is_non_blocking(fd);
        let plan = if sends_on || limit.is_left_out() { plan.without(Key::ConnectTimeout) } else { plan };
        match enact::before_connect(fd, plan, kind_of) {
            Ok((plan, first)) => {
                apply_settings(runtime, fd, &plan.decision(), first, plan.settings(), call, peer);
                let connecting = limit.connecting().filter(|_| plan.at(TCP) == plan)?;
                if !sends_on {
                    return Some(connecting);
                }
                // The call may last long after the connection stands: a time for connecting would end it then.
                if connecting.own == 0 {
                    apply_settings(
                        runtime,
                        fd,
                        &plan.decision(),
                        None,
                        [connecting.afterwards].into_iter(),
                        call,
                        peer,
                    );
                }
                limit_syns(fd, connecting.limit);
                return None;
            }
            // Connect once more: by that as well a program learns that it is done.
            Err(_) if limit.is_running() => return limit.connecting(),
            Err(reason) => log::debug(format_args!("{call} fd {fd} {peer}: left alone: {reason}")),
        }
        None
    })
}

/// What the time for connecting is on a socket, before anything is set on it.
#[derive(Clone, Copy)]
enum Limit {
    /// None, by the rule or by the kind of socket.
    None,
    /// The program's own user timeout, which is no longer.
    Own,
    /// The rule's.
    Rule(Connecting),
    /// The same, and it runs already.
    Running(Connecting),
}

impl Limit {
    fn connecting(self) -> Option<Connecting> {
        match self {
            Self::Rule(connecting) | Self::Running(connecting) => Some(connecting),
            Self::None | Self::Own => None,
        }
    }

    fn is_left_out(self) -> bool {
        matches!(self, Self::Own)
    }

    fn is_running(self) -> bool {
        matches!(self, Self::Running(_))
    }
}

fn time_limit(runtime: &Runtime, fd: c_int, peer: Endpoint, plan: Plan<'static>) -> Limit {
    let (Some(limit), Some(afterwards)) = (limit_of(plan), afterwards(plan)) else { return Limit::None };
    // Multipath TCP has no user timeout; neither has what is not TCP.
    let Ok(current) = ffi::get_int(fd, afterwards.level, afterwards.name) else { return Limit::None };
    let is_running = current == limit;
    let connecting = |own| Connecting { peer, plan, limit, afterwards, own, is_running };
    if is_running {
        return Limit::Running(connecting(0));
    }
    // Only what the program has left is filled in.
    let is_own = current != 0 && !runtime.rules.is_time_for_connecting(current);
    if plan.enforce() == Enforce::Fill && is_own {
        return Limit::Own;
    }
    // The rule has a user timeout of its own, or the program has none: another rule's time is left over from another connect.
    if afterwards.key != Key::ConnectTimeout || !is_own {
        return Limit::Rule(connecting(0));
    }
    if current <= limit { Limit::Own } else { Limit::Rule(connecting(current)) }
}

/// The user timeout while connecting, milliseconds.
fn limit_of(plan: Plan<'_>) -> Option<c_int> {
    let time = plan.at(TCP).settings().find(|setting| setting.key == Key::ConnectTimeout)?;
    match time.value {
        Value::Int(milliseconds) => Some(milliseconds),
        _ => None,
    }
}

fn afterwards(plan: Plan<'_>) -> Option<&Setting> {
    plan.at(CONNECTED).settings().next()
}

/// After connect, whatever came of it: the socket gets the user timeout that it is to have from here on, unless it is
/// still connecting and the program will ask how that ended.
#[inline]
pub(crate) fn after_connect(fd: c_int, connecting: Option<Connecting>, result: i64) {
    if let Some(connecting) = connecting {
        guard::contained(|| connect_returned(fd, &connecting, result));
    }
}

#[cold]
fn connect_returned(fd: c_int, connecting: &Connecting, result: i64) {
    let Some(runtime) = runtime() else { return };
    let goes_on = result < 0 && matches!(ffi::errno().0, libc::EINPROGRESS | libc::EINTR | libc::EALREADY);
    if goes_on && connecting.own == 0 {
        if !connecting.is_running {
            LEFT.fetch_add(1, Relaxed);
        }
        return;
    }
    // With TCP Fast Open the call returns before there is a connection, and nobody asks for it afterwards. Who goes on with
    // a user timeout of his own must have that back, which cannot be remembered. The number of SYNs can stay.
    if goes_on || (result >= 0 && ffi::connected_peer(fd).is_err()) {
        limit_syns(fd, connecting.limit);
    }
    if finish(runtime, fd, connecting) && connecting.is_running {
        one_is_back();
    }
}

/// Bounds the time for connecting by the number of SYNs (TCP_SYNCNT).
fn limit_syns(fd: c_int, limit: c_int) {
    let retries = syn_retries_for(limit.unsigned_abs().into()) as c_int;
    let current = ffi::get_int(fd, libc::SOL_TCP, libc::TCP_SYNCNT);
    if current.is_ok_and(|current| retries < current) {
        let _ = ffi::set(fd, libc::SOL_TCP, libc::TCP_SYNCNT, &retries);
    }
}

/// On how many sockets a time for connecting was left and not taken back since: at least, also those that were closed so.
/// Where it is 0 nothing is asked of any socket.
static LEFT: AtomicUsize = AtomicUsize::new(0);

#[inline]
pub(crate) fn has_left_limits() -> bool {
    LEFT.load(Relaxed) > 0
}

/// Another process may have taken back what this one left, or the other way about.
fn one_is_back() {
    let _ = LEFT.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
}

/// Before a socket is used for something else than the connect that it has a time for: one that failed, and nobody asked how,
/// or that was undone (AF_UNSPEC).
pub(crate) fn end_of_limit(runtime: &Runtime, fd: c_int) {
    if has_left_limits() && running_limit(runtime, fd).is_some() && ffi::is_closed(fd) {
        let _ = ffi::set(fd, libc::SOL_TCP, libc::TCP_USER_TIMEOUT, &0);
        one_is_back();
    }
}

/// Sets the user timeout that a connection is to have, unless the program has set another meanwhile; whether it did.
fn finish(runtime: &Runtime, fd: c_int, connecting: &Connecting) -> bool {
    fault::point("connected");
    let Connecting { peer, ref plan, limit, afterwards, own, .. } = *connecting;
    if ffi::get_int(fd, afterwards.level, afterwards.name) != Ok(limit) {
        return false;
    }
    if own > 0 {
        let _ = ffi::set(fd, afterwards.level, afterwards.name, &own);
    } else {
        if plan.enforce() == Enforce::Fill {
            // It is filled in if it fits the keepalive that the socket has by now.
            let _ = ffi::set(fd, afterwards.level, afterwards.name, &0);
        }
        apply_settings(runtime, fd, &plan.decision(), None, [afterwards].into_iter(), "connected", peer);
    }
    true
}

/// When a program of an event loop changes what it waits for on a socket, or waits no more: most have learned then that it
/// has connected, and some never ask how (HAProxy, wrk).
#[inline]
pub(crate) fn before_epoll_ctl(change: c_int, fd: c_int) {
    if has_left_limits() && matches!(change, libc::EPOLL_CTL_MOD | libc::EPOLL_CTL_DEL) {
        after_so_error(fd);
    }
}

/// After a program has asked for a socket's error.
#[inline]
pub(crate) fn after_so_error(fd: c_int) {
    if let Some(runtime) = runtime().filter(|runtime| runtime.rules.phases().intersects(CONNECTED)) {
        guard::contained(|| error_was_asked(runtime, fd));
    }
}

#[cold]
fn error_was_asked(runtime: &'static Runtime, fd: c_int) {
    let Some(limit) = running_limit(runtime, fd) else { return };
    let peer = match ffi::connected_peer(fd) {
        // It failed; the socket may be connected once more.
        Err(_) if ffi::is_closed(fd) => ffi::peer_address(fd),
        peer => peer,
    };
    let Some(peer) = peer.ok().and_then(|address| address.endpoint().ok()) else { return };
    let plan = runtime.plan(Connection::Outbound { peer }, TCP);
    let is_user_timeout = |setting: &&Setting| (setting.level, setting.name) == (libc::SOL_TCP, libc::TCP_USER_TIMEOUT);
    // The names that the address is known by may have changed meanwhile, and with them the rule.
    let of_this_rule = || plan.settings().find(is_user_timeout);
    let is_back = match afterwards(plan).or_else(of_this_rule) {
        Some(afterwards) => {
            finish(runtime, fd, &Connecting { peer, plan, limit, afterwards, own: 0, is_running: true })
        }
        None => ffi::set(fd, libc::SOL_TCP, libc::TCP_USER_TIMEOUT, &0).is_ok(),
    };
    if is_back {
        one_is_back();
    }
}

/// A socket's user timeout, if it is some rule's time for connecting.
fn running_limit(runtime: &Runtime, fd: c_int) -> Option<c_int> {
    let current = ffi::get_int(fd, libc::SOL_TCP, libc::TCP_USER_TIMEOUT).ok()?;
    runtime.rules.is_time_for_connecting(current).then_some(current)
}

/// Whether a socket's user timeout is that for connecting, and it has not connected yet.
pub(crate) fn is_connecting(runtime: &Runtime, fd: c_int) -> bool {
    running_limit(runtime, fd).is_some() && ffi::connected_peer(fd).is_err()
}

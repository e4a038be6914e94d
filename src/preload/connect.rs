//! Around connect, and around what connects as well: options before it, and the user timeout that belongs to
//! connecting alone (`connect_timeout`).
//!
//! Nothing is remembered about a connection that is being made: the socket's user timeout tells. While it is a rule's
//! time for connecting, which no program sets by itself nor any rule otherwise (`policy::rules`, a millisecond less), it is
//! to be taken back. So it does not matter by which descriptor or copy the program learns that it has connected, nor whether
//! that is in a child; what is only a hint is gone after exec (`left`).

use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use libc::{fd_set, nfds_t, pollfd, sockaddr, socklen_t};
use policy::{Bypass, Connection, Phase, Phases, Setting};
use socket::connecting::{self, Finish, Limit, afterwards, limit_syns, running_limit};
use socket::memory::{Near, Place};
use socket::standing::local_endpoint;
use socket::{Address, Errno, enact, ffi, filter};

use crate::apply::{apply_settings, concerns, kind_of, say_if_blind};
use crate::setup::{Runtime, runtime};
use crate::{fault, guard, left, log};

const TCP: Phases = Phases::of(&[Phase::Connect]);
/// Before it is known which of both it is.
const CONNECT: Phases = Phases::of(&[Phase::Connect, Phase::Datagram]);
/// What is made when a connection stands: the time for connecting is taken back.
pub(crate) const CONNECTED: Phases = Phases::of(&[Phase::Connected]);

/// A socket that has a time for connecting.
pub(crate) type Connecting = connecting::Connecting<'static>;

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
    connect_to(runtime, fd, ("connect", false), move || own.or_else(|| near.address(address, length)))
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
    connect_to(runtime, fd, (call, flags & libc::MSG_DONTWAIT == 0), move || address(near))
}

#[inline]
fn connect_to(
    runtime: &'static Runtime,
    fd: c_int,
    (call, may_send_on): (&str, bool),
    address: impl FnOnce() -> Option<Address> + Copy,
) -> Option<Connecting> {
    guard::contained(move || {
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
        let limit = Limit::of(fd, &runtime.rules, peer, plan);
        if matches!(limit, Limit::None) {
            end_of_limit(runtime, fd);
        }
        let connecting = limit.connecting();
        // The call may last long after the connection stands: a time for connecting would end it then.
        let by_syns = connecting.filter(|_| may_send_on && !ffi::is_non_blocking(fd));
        match by_syns {
            // Of a connect before this call, which it may not have been told of.
            Some(connecting) if connecting.is_running => {
                let _ = finish(runtime, fd, &connecting);
                left::forget(fd);
            }
            Some(_) if running_limit(fd, &runtime.rules).is_some() => {
                let _ = ffi::set(fd, libc::SOL_TCP, libc::TCP_USER_TIMEOUT, &0);
            }
            _ => {}
        }
        let plan = if by_syns.is_some() || limit.is_left_out() { plan.without_limit() } else { plan };
        let rule_for = |peer| runtime.plan(Connection::Outbound { peer }, CONNECT).decision();
        match enact::before_connect(fd, plan, kind_of, rule_for) {
            Ok((plan, first)) => {
                apply_settings(runtime, fd, &plan.decision(), first, plan.settings(), call, peer);
                if matches!(limit, Limit::Unreadable) && plan.phases() == TCP {
                    say_limit_is_left_out();
                }
                if by_syns.is_none() {
                    return connecting.filter(|_| plan.phases() == TCP);
                }
            }
            // Connect once more: by that as well a program learns that it is done.
            Err(_) if limit.is_running() && by_syns.is_none() => return connecting,
            Err(reason) => log::debug(format_args!("{call} fd {fd} {peer}: left alone: {reason}")),
        }
        if let Some(connecting) = by_syns {
            limit_syns(fd, connecting.limit);
        }
        None
    })
}

/// Of a time for connecting that could not be taken back.
#[cold]
#[inline(never)]
fn say_limit_is_left_out() {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Relaxed) {
        log::warn(format_args!(
            "a seccomp filter refuses getsockopt: the library could not take connect_timeout back later, and so leaves it out"
        ));
    }
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
            left::remember(fd);
        }
        return;
    }
    // With TCP Fast Open the call returns before there is a connection, and nobody asks for it afterwards. Who goes on with
    // a user timeout of his own must have that back, which cannot be remembered. The number of SYNs can stay.
    if goes_on || (result >= 0 && ffi::connected_peer(fd).is_err() && ffi::tcp_state(fd) == Ok(ffi::SYN_SENT)) {
        limit_syns(fd, connecting.limit);
    }
    if finish(runtime, fd, connecting) && connecting.is_running {
        left::forget(fd);
    }
}

/// Before a socket is used for something else than the connect that it has a time for: one that failed, and nobody asked how,
/// or that was undone (AF_UNSPEC).
pub(crate) fn end_of_limit(runtime: &Runtime, fd: c_int) {
    if left::is_any() && running_limit(fd, &runtime.rules).is_some() && ffi::is_closed(fd) {
        let _ = ffi::set(fd, libc::SOL_TCP, libc::TCP_USER_TIMEOUT, &0);
        left::forget(fd);
    }
}

/// Sets the user timeout that a connection is to have, unless the program has set another meanwhile; whether it did.
fn finish(runtime: &Runtime, fd: c_int, connecting: &Connecting) -> bool {
    fault::point("connected");
    match connecting.finish(fd) {
        Finish::Changed => return false,
        Finish::Back => {}
        Finish::Make(afterwards) => {
            let Connecting { peer, plan, .. } = connecting;
            apply_settings(runtime, fd, &plan.decision(), None, [afterwards].into_iter(), "connected", *peer);
        }
    }
    true
}

/// When a program of an event loop changes what it waits for on a socket, or waits no more: most have learned then that it
/// has connected, and some never ask how (HAProxy, wrk).
#[inline]
pub(crate) fn before_epoll_ctl(change: c_int, fd: c_int) {
    if left::is_any() && matches!(change, libc::EPOLL_CTL_MOD | libc::EPOLL_CTL_DEL) {
        take_back_if_connected(fd);
    }
}

/// After a program has been told who its peer is, so that it knows the connection stands.
#[inline]
pub(crate) fn after_getpeername(fd: c_int) {
    if left::is_any() {
        take_back_if_connected(fd);
    }
}

/// Sockets with a time for connecting that a program waits for to be writable.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Awaited {
    fds: [c_int; MOST_AWAITED],
    count: usize,
}

/// Of so many sockets it is asked, in one call of poll or select, whether they have one.
const MOST_AWAITED: usize = 64;

impl Awaited {
    /// Notes a socket, if it is one.
    fn note(&mut self, runtime: &Runtime, fd: c_int) {
        if let Some(place) = self.fds.get_mut(self.count)
            && running_limit(fd, &runtime.rules).is_some()
        {
            *place = fd;
            self.count += 1;
        }
    }
}

/// Before a program waits: afterwards its memory may be gone, and who has found out that it has connected may ask no more (Rust's
/// `TcpStream::connect_timeout`, httperf, LuaSocket).
#[inline]
pub(crate) fn before_poll(entries: *const pollfd, count: nfds_t) -> Option<Awaited> {
    awaited(move |near, call| near.writable_of_poll(entries, usize::try_from(count).unwrap_or(usize::MAX), call))
}

/// The same for select.
#[inline]
pub(crate) fn before_select(end: c_int, set: *const fd_set) -> Option<Awaited> {
    awaited(move |near, call| near.writable_of_select(set, end, call))
}

#[inline]
fn awaited(each: impl Fn(Near<'_>, &mut dyn FnMut(c_int) -> bool) + Copy) -> Option<Awaited> {
    guard::contained(move || {
        let runtime = runtime()?;
        let place = Place::here();
        let (mut found, mut asked) = (Awaited { fds: [0; MOST_AWAITED], count: 0 }, 0);
        each(place.page(), &mut |fd| {
            found.note(runtime, fd);
            asked += 1;
            asked < MOST_AWAITED
        });
        (found.count > 0).then_some(found)
    })
}

/// Whether a program may wait for one of these. A filter that came while a socket connects may end the program at a call of ours.
#[inline]
pub(crate) fn awaits_any() -> bool {
    left::is_any() && !filter::is_expected()
}

/// A call that waits, where that is so. Apart, for the stack that it takes.
#[cold]
#[inline(never)]
pub(crate) fn waiting(before: impl FnOnce() -> Option<Awaited>, call: impl FnOnce() -> c_int) -> c_int {
    let awaited = before();
    let happened = call();
    if let Some(Awaited { fds, count }) = awaited
        && happened > 0
    {
        fds.iter().take(count).copied().for_each(take_back_if_connected);
    }
    happened
}

/// After a program has asked for a socket's error. It may go on though a filter refuses to tell it.
#[inline]
pub(crate) fn after_so_error(fd: c_int, result: c_int) {
    if result >= 0 || !matches!(ffi::errno().0, libc::EBADF | libc::ENOTSOCK) {
        take_back_if_connected(fd);
    }
}

#[inline]
fn take_back_if_connected(fd: c_int) {
    if let Some(runtime) = runtime().filter(|runtime| runtime.rules.phases().intersects(CONNECTED)) {
        guard::contained(|| take_back(runtime, fd));
    }
}

#[cold]
fn take_back(runtime: &'static Runtime, fd: c_int) {
    let Some(limit) = running_limit(fd, &runtime.rules) else { return };
    const NOT_CONNECTED: Errno = Errno(libc::ENOTCONN);
    let peer = ffi::connected_peer(fd).or_else(|errno| match ffi::tcp_state(fd) {
        Ok(ffi::SYN_SENT) => Err(NOT_CONNECTED),
        Err(_) if errno == NOT_CONNECTED => Err(errno),
        // It failed, and the socket may be connected once more; or a filter refuses the call above.
        _ => ffi::peer_address(fd),
    });
    if peer.is_err_and(|errno| errno == NOT_CONNECTED) {
        return;
    }
    take_limit_back(runtime, fd, limit, peer.ok());
}

fn take_limit_back(runtime: &'static Runtime, fd: c_int, limit: c_int, peer: Option<Address>) {
    // The names that the address is known by may have changed meanwhile, and with them the rule.
    let is_user_timeout = |setting: &&Setting| (setting.level, setting.name) == (libc::SOL_TCP, libc::TCP_USER_TIMEOUT);
    let connecting = peer.and_then(|address| address.endpoint().ok()).and_then(|peer| {
        let plan = runtime.plan(Connection::Outbound { peer }, TCP);
        let afterwards = afterwards(plan).or_else(|| plan.settings().find(is_user_timeout))?;
        Some(Connecting { peer, plan, limit, afterwards, own: 0, is_running: true })
    });
    let is_back = match connecting {
        Some(connecting) => finish(runtime, fd, &connecting),
        None => ffi::set(fd, libc::SOL_TCP, libc::TCP_USER_TIMEOUT, &0).is_ok(),
    };
    if is_back {
        left::forget(fd);
    }
}

/// Before a descriptor ends. A program that closes a socket while it connects has given it up: counted on, it would make poll and
/// select ask each socket for good.
#[inline]
pub(crate) fn before_close(fd: c_int) {
    if awaits_any() {
        give_up(fd);
    }
}

#[cold]
fn give_up(fd: c_int) {
    guard::contained(|| {
        let Some(runtime) = runtime().filter(|_| left::is_ours(fd)) else { return };
        // It may go on by another descriptor, of which nothing is known: then the number of SYNs bounds it.
        if let Some(limit) = running_limit(fd, &runtime.rules) {
            limit_syns(fd, limit);
            take_limit_back(runtime, fd, limit, ffi::peer_address(fd).ok());
        }
        left::forget(fd);
    });
}

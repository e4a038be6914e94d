//! What happens around each call: is it of interest, which rule is for it, what is set.
//!
//! Cheap checks first, by loads alone; only what a rule is about costs a system call.

use std::ffi::{c_int, c_void};
use std::sync::atomic::Ordering::Relaxed;

use libc::{sockaddr, socklen_t};
use policy::enforce::is_of_keepalive;
use policy::plan::Plan;
use policy::rules::Inheritance;
use policy::{Connection, Endpoint, Enforce, Phase, Phases, Setting, constants};
use socket::connecting::is_connecting;
use socket::describe::{is_accepted_tcp, kind};
use socket::enact::probed;
use socket::fill;
use socket::memory::{Near, Place};
use socket::setting::{Outcome, is_in_force, set};
use socket::standing::{self, Standing, local_endpoint};
use socket::{Address, Kind, ffi};

use crate::apply::{apply_settings, concerns, kind_of, say_if_blind};
use crate::descriptors::{self, Known, Look, Seen};
use crate::setup::{Runtime, runtime, sets_nothing_at};
use crate::{connect, fault, guard, left, log};

/// Before bind: options that the kernel looks at there and never again.
pub(crate) fn bind(fd: c_int, address: *const sockaddr, length: socklen_t) {
    const BIND: Phases = Phases::of(&[Phase::Bind]);
    const UDP: Phases = Phases::of(&[Phase::BindDatagram]);
    let Some(runtime) = runtime().filter(|runtime| runtime.rules.phases().intersects(BIND | UDP)) else { return };
    let place = Place::here();
    let near = place.page();
    guard::contained(|| {
        fault::point("bind");
        let Some(Ok(local)) = near.address_to_bind(address, length).map(|address| address.endpoint()) else {
            return say_if_blind();
        };
        let of_tcp = runtime.plan(Connection::Binding { local }, BIND);
        let of_udp = runtime.plan(Connection::BindingUdp { local }, UDP);
        if of_tcp.bypass().is_some() && of_udp.bypass().is_some() {
            return;
        }
        let plan = match kind(fd) {
            Ok(Kind::Tcp | Kind::Mptcp) => of_tcp,
            Ok(Kind::Udp) => of_udp,
            _ => return,
        };
        // The call fails on what is bound already: the program has had the last word since.
        let is_again = || plan.enforce() != Enforce::Always && standing::is_bound(fd);
        if plan.bypass().is_none() && !is_again() {
            apply_settings(runtime, fd, &plan.decision(), None, plan.settings(), "bind", local);
        }
    });
}

/// What [`before_listen`] tells [`after_listen`].
#[derive(Clone, Copy, Default)]
pub(crate) enum Listening {
    /// Not TCP, or no rule for what is accepted.
    #[default]
    Ignored,
    /// The options are set.
    Prepared(Look, Endpoint, Known),
    /// The port is chosen by listen itself: then.
    Unbound(Look, Kind),
}

/// Before listen: options on the listener, which the sockets that it accepts inherit.
pub(crate) fn before_listen(fd: c_int) -> Listening {
    let Some(runtime) = runtime().filter(|runtime| concerns(runtime, Phases::INBOUND) || left::is_any()) else {
        return Listening::Ignored;
    };
    guard::contained(|| {
        fault::point("before listen");
        connect::end_of_limit(runtime, fd);
        if !concerns(runtime, Phases::INBOUND) {
            return Listening::Ignored;
        }
        let before = descriptors::see(fd);
        let look = descriptors::look(fd);
        match (tcp(fd), local_endpoint(fd)) {
            (Some(kind), Some(local)) if local.port() != 0 => {
                let known = prepare_listener(runtime, fd, kind, local, Occasion::Listen);
                // It may listen already: who was started for a connection calls listen as well (sd_listen_fds(3)). Who
                // does it twice (nginx) has given it its options before the first.
                let known = if before.is_settled() { known } else { with_queue(fd, known) };
                Listening::Prepared(look, local, known)
            }
            (Some(kind), Some(_)) => Listening::Unbound(look, kind),
            _ => Listening::Ignored,
        }
    })
}

/// After a listen that succeeded: remembers what the sockets accepted on the descriptor need.
pub(crate) fn after_listen(fd: c_int, listening: Listening) {
    let Some(runtime) = runtime() else { return };
    guard::contained(|| {
        fault::point("after listen");
        let (look, local, known) = match listening {
            Listening::Ignored => return,
            Listening::Prepared(look, local, known) => (look, local, known),
            Listening::Unbound(look, kind) => {
                let Some(local) = local_endpoint(fd) else { return };
                (look, local, prepare_listener(runtime, fd, kind, local, Occasion::Anew))
            }
        };
        descriptors::remember_port(fd, local);
        look.found(known);
    });
}

/// Why a listener is given its options.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Occasion {
    /// It is told to listen, be it for the first time or once more.
    Listen,
    /// It begins to listen.
    Anew,
    /// It listened before this process saw it, or before it had this number.
    Found,
    /// The same on a port that this process has listened on: it is a listener of ours, most likely.
    Again,
}

/// Sets a listener's options. One of ours has them already, unless the program has the last word and has changed them.
fn prepare_listener(runtime: &Runtime, fd: c_int, kind: Kind, local: Endpoint, why: Occasion) -> Known {
    let plan = runtime.plan(Connection::Listening { local }, Phases::of(&[Phase::Listen]));
    let call = if matches!(why, Occasion::Listen | Occasion::Anew) { "listen" } else { "inherited listener" };
    let is_again = || standing::is_listening(fd) && descriptors::is_port_known(local);
    let why = match why {
        // Where the program has the last word, it has it since the first time.
        Occasion::Listen if plan.enforce() != Enforce::Always && is_again() => Occasion::Again,
        other => other,
    };
    let settings = plan.settings().filter(|setting| match why {
        Occasion::Again => plan.enforce() == Enforce::Always && is_in_force(fd, setting) != Ok(true),
        Occasion::Listen | Occasion::Anew | Occasion::Found => true,
    });
    match plan.bypass() {
        None => {
            apply_settings(runtime, fd, &plan.decision(), None, settings, call, local);
            if plan.inheritance() == Inheritance::None {
                log::debug(format_args!("{call} fd {fd} {local}: decided for each accepted socket"));
            }
        }
        Some(reason) => log::debug(format_args!("{call} fd {fd} {local}: left alone: {reason}")),
    }
    match plan.inheritance() {
        // A client of plain TCP gives a socket of plain TCP, which has options that the listener has not.
        _ if kind == Kind::Mptcp => Known::PerPeer,
        Inheritance::Full => Known::Settled,
        Inheritance::Partial => Known::SomeOptions,
        Inheritance::None => Known::PerPeer,
    }
}

/// What accept has to do where connections wait that came before the listener had its options; nothing more where it does not
/// listen yet.
fn with_queue(listener: c_int, known: Known) -> Known {
    /// Handshakes that are being finished meanwhile, one on a processor: the socket is made, as the listener was before, and not
    /// in the queue yet (net/ipv4/tcp_minisocks.c, tcp_check_req).
    const FINISHING: u32 = 8;
    match (known, ffi::accept_queue(listener)) {
        (Known::Settled, Ok(Some(queue))) => {
            Known::Waiting(u16::try_from(queue.saturating_add(FINISHING)).unwrap_or(u16::MAX))
        }
        // One by one anyway; who waited lacks what the others inherit, so everything is set on all.
        (Known::SomeOptions, Ok(Some(_))) => Known::PerPeer,
        (other, _) => other,
    }
}

/// Before an accept: what is known of the listener, and how many bytes the program has room for where it is told the peer. None
/// where nothing is set on what is accepted. Nobody asks for the peer where the listener has its options.
#[inline(always)]
pub(crate) fn before_accept(listener: c_int, room: impl FnOnce() -> socklen_t) -> Option<(Seen, socklen_t)> {
    if sets_nothing_at(Phases::INBOUND) {
        return None;
    }
    let seen = descriptors::see(listener);
    Some((seen, if seen.is_settled() { 0 } else { room() }))
}

/// After an accept that succeeded, and has maybe told who the peer is.
#[inline]
pub(crate) fn accepted(listener: c_int, fd: c_int, seen: Seen, told: impl FnOnce() -> Option<Address> + Copy) {
    let Some(runtime) = runtime().filter(|runtime| runtime.rules.phases().intersects(Phases::INBOUND)) else { return };
    let known = descriptors::on_accept(listener, seen);
    if known != Known::Settled {
        guard::contained(move || accepted_with_work(runtime, listener, fd, (known, seen), told()));
    }
}

#[cold]
fn accepted_with_work(
    runtime: &Runtime,
    listener: c_int,
    fd: c_int,
    (known, seen): (Known, Seen),
    told: Option<Address>,
) {
    fault::point("accept");
    let known = if known == Known::Nothing { seen_first(runtime, listener) } else { Some(known) };
    let Some(known) = known.filter(|known| *known != Known::Settled) else { return };
    let peer = told.or_else(|| ffi::connected_peer(fd).ok());
    let Some(peer) = peer.and_then(|address| address.endpoint().ok()) else { return };
    let of_listener =
        || local_endpoint(listener).filter(|_| known != Known::Unsure && descriptors::holds(listener, seen));
    let local = match runtime.rules.asks_for_listener() {
        true => of_listener().or_else(|| accepted_on(listener, fd)),
        false => Some(Endpoint::ANY),
    };
    let Some(local) = local else { return };
    let inheritance = if known == Known::SomeOptions { Inheritance::Partial } else { Inheritance::None };
    let plan = runtime.plan(Connection::Inbound { local, peer }, inheritance.phases());
    if let Some(reason) = plan.bypass() {
        return log::debug(format_args!("accept fd {fd} {peer}: left alone: {reason}"));
    }
    // Where the program has the last word, it has it on its listener for those who wait there too.
    let of_its_listener = || runtime.plan(Connection::Listening { local }, Phases::NONE).inheritance();
    let has_last_word = plan.enforce() != Enforce::Always && of_its_listener() != Inheritance::None;
    // listen itself undoes TCP_QUICKACK (net/ipv4/inet_connection_sock.c, inet_csk_listen_start), so it says nothing there.
    let is_changed = |setting: &Setting| {
        let tells = setting.phases.contains(Phase::Listen)
            && (setting.level, setting.name) != (libc::SOL_TCP, libc::TCP_QUICKACK);
        has_last_word && tells && is_in_force(listener, setting) == Ok(false)
    };
    let first = probed(fd, plan.probe().filter(|setting| !is_changed(setting)));
    // A listener that something is known of is one of TCP's. Even if the program has closed it in a way that is not seen, and another
    // has its number, what that accepts from an Internet address is TCP too, unless it is SCTP or DCCP.
    if first.is_some() || known != Known::Unsure || is_accepted_tcp(fd) {
        let settings = plan.settings().filter(|setting| !is_changed(setting));
        apply_settings(runtime, fd, &plan.decision(), first, settings, "accept", peer);
    }
}

/// The address of the listener that a socket was accepted on. Another thread may have closed it since, or put another in its
/// place: then what the socket itself says.
fn accepted_on(listener: c_int, fd: c_int) -> Option<Endpoint> {
    let own = local_endpoint(fd)?;
    let is_it = |local: &Endpoint| local.port() == own.port();
    let by_port = || Some(descriptors::ports()?.listener_of(fd, own)?.local);
    local_endpoint(listener).filter(is_it).or_else(by_port).or(Some(own))
}

/// A listener that did not come by listen in this process, or not by this number: it gets the options now, and those who
/// have been waiting in its queue get them one by one. What the one gets that was accepted first; none if that is none of
/// TCP's.
fn seen_first(runtime: &Runtime, listener: c_int) -> Option<Known> {
    let look = descriptors::look(listener);
    match (kind_of(listener), local_endpoint(listener)) {
        (Some(kind @ (Kind::Tcp | Kind::Mptcp)), Some(local)) => {
            let why = if descriptors::is_port_known(local) { Occasion::Again } else { Occasion::Found };
            let known = prepare_listener(runtime, listener, kind, local, why);
            descriptors::remember_port(listener, local);
            look.found(with_queue(listener, known));
        }
        (Some(Kind::Udp | Kind::Other), _) => {
            // A UNIX listener is asked about once.
            look.found(Known::Settled);
            return None;
        }
        _ => {}
    }
    Some(Known::Unsure)
}

/// Who has the last word where the program sets an option.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum LastWord {
    /// The program's: the call is carried out.
    #[default]
    Program,
    /// The rule's: the call is answered and not carried out. The socket has a rule that set this very option and enforces it.
    Rule,
    /// The same, and there is no value, or not enough of it. That the kernel mostly refuses, and sometimes takes for 0 (IP_TOS with no
    /// bytes, IPV6_TCLASS by a null pointer): the call is carried out, and then the rule's value is set again.
    RuleAgain,
}

/// Before setsockopt.
#[inline]
pub(crate) fn enforce(fd: c_int, level: c_int, name: c_int, value: *const c_void, length: socklen_t) -> LastWord {
    match runtime() {
        Some(runtime) if runtime.in_use.load(Relaxed) && runtime.rules.enforces(level, name) => {
            let place = Place::here();
            let near = place.page();
            guard::contained(move || enforce_here(runtime, fd, level, name, (value, length, near)))
        }
        _ => LastWord::Program,
    }
}

#[cold]
fn enforce_here(
    runtime: &Runtime,
    fd: c_int,
    level: c_int,
    name: c_int,
    (value, length, near): (*const c_void, socklen_t, Near<'_>),
) -> LastWord {
    fault::point("setsockopt");
    let Some((standing, plan, setting)) = enforced(runtime, fd, level, name) else { return LastWord::Program };
    if !standing.enforces(fd, setting, &runtime.rules) {
        return LastWord::Program;
    }
    let decision = plan.decision();
    // The kernel reads so much of the value.
    let read = setting.bytes_read(length as usize);
    if i32::try_from(length).is_err() || (length as usize) < read || !near.is_readable(value, read) {
        return LastWord::RuleAgain;
    }
    // The rule's value in place of the program's: mostly it is there already, but the socket may have come by exec, or
    // the kernel may refuse the rule's value, and then the program's call is the program's.
    // While it connects, the user timeout is another one; the rule's comes when the connection stands.
    let is_for_later = setting.phases.contains(Phase::Connected) && is_connecting(fd, &runtime.rules);
    if !is_for_later && set(fd, setting) != Outcome::Done {
        return LastWord::Program;
    }
    match constants::option_name(level, name) {
        Some(name) => log::info(format_args!("setsockopt fd {fd} {name}: not carried out: {decision} enforces it")),
        None => {
            log::info(format_args!(
                "setsockopt fd {fd} level {level} option {name}: not carried out: {decision} enforces it"
            ));
        }
    }
    LastWord::Rule
}

/// The setting that has the last word about an option of a socket, with the rule that it is of.
fn enforced(runtime: &Runtime, fd: c_int, level: c_int, name: c_int) -> Option<(Standing, Plan<'_>, &Setting)> {
    let standing = standing_of(runtime, fd)?;
    let plan = runtime.plan(standing.connection, standing.phases);
    plan.enforced(level, name).map(|setting| (standing, plan, setting))
}

/// After a setsockopt that was carried out and has succeeded.
#[inline]
pub(crate) fn was_set(fd: c_int, level: c_int, name: c_int, last_word: LastWord) {
    if last_word == LastWord::RuleAgain
        && let Some(runtime) = runtime()
    {
        guard::contained(|| set_again(runtime, fd, level, name));
    }
    if left::is_any() && (level, name) == (libc::SOL_TCP, libc::TCP_USER_TIMEOUT) {
        guard::contained(|| left::forget(fd));
    }
    keepalive_was_set(fd, level, name);
}

#[cold]
fn set_again(runtime: &Runtime, fd: c_int, level: c_int, name: c_int) {
    fault::point("setsockopt");
    if let Some((_, plan, setting)) = enforced(runtime, fd, level, name)
        && set(fd, setting) == Outcome::Done
    {
        let decision = plan.decision();
        log::info(format_args!("setsockopt fd {fd}: {setting} is set again: {decision} enforces it"));
    }
}

/// After the program has set an option of the keepalive: a user timeout that was filled in to go with the rule's keepalive is
/// taken back if it does not go with the program's.
#[inline]
fn keepalive_was_set(fd: c_int, level: c_int, name: c_int) {
    if !is_of_keepalive(level, name) {
        return;
    }
    if let Some(runtime) =
        runtime().filter(|runtime| runtime.in_use.load(Relaxed) && runtime.rules.fills_computed_timeouts())
    {
        guard::contained(|| keepalive_was_chosen(runtime, fd));
    }
}

#[cold]
fn keepalive_was_chosen(runtime: &Runtime, fd: c_int) {
    fault::point("keepalive");
    let plan = || standing_of(runtime, fd).map(|standing| runtime.plan(standing.connection, standing.phases));
    if let Some(setting) = fill::take_back(fd, &runtime.rules, plan) {
        log::info(format_args!(
            "setsockopt fd {fd}: {setting} is taken back: the program has chosen its own keepalive"
        ));
    }
}

/// What a socket is, asked of the kernel. None before connect or listen, when the program's options are yet to be set over.
fn standing_of(runtime: &Runtime, fd: c_int) -> Option<Standing> {
    standing::of(fd, &runtime.rules, kind_of, descriptors::ports())
}

fn tcp(fd: c_int) -> Option<Kind> {
    kind_of(fd).filter(|kind| matches!(kind, Kind::Tcp | Kind::Mptcp))
}

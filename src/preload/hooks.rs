//! The exported symbols: everything that is interposed, on one screen.
//!
//! Each hook is `extern "C-unwind"`, calls the real function exactly once with the program's own arguments, outside
//! of any `catch_unwind` and with nothing alive that has a destructor: pthread_cancel unwinds through here.
//! What is not interposed, and why, stands in docs/design.md.
#![expect(unsafe_code, reason = "exported symbols, and calls through to the real functions")]

use std::ffi::{c_char, c_int, c_uint, c_ulong, c_void};

use libc::{
    MSG_FASTOPEN, SO_ERROR, SOL_SOCKET, addrinfo, epoll_event, fd_set, hostent, mmsghdr, msghdr, nfds_t, pollfd,
    sigset_t, size_t, sockaddr, socklen_t, ssize_t, timespec, timeval,
};
use socket::filter;
use socket::memory::Place;

use crate::{connect, descriptors, intercept, lookups, real, setup};

/// Exports hooks, each with the function behind it. All lie in one section: layout.ld puts it where it costs least.
macro_rules! interpose {
    ($(fn $name:ident($($arg:ident: $type:ty),*) -> $return:ty {
        $(without_libc $otherwise:expr;)?
        $(awaits $awaited:expr;)?
        $(before $state:pat = $before:expr;)? $(answer $answer:expr;)?
        $(after $result:ident $after:expr;)? $(always $outcome:ident $always:expr;)?
    })*) => {$(
        /// Interposed; see the manual page of the function of the same name.
        ///
        /// # Safety
        /// That of the real function.
        #[unsafe(no_mangle)]
        #[unsafe(link_section = ".text.sockopt_hooks")]
        pub(crate) unsafe extern "C-unwind" fn $name($($arg: $type),*) -> $return {
            // SAFETY: the program's own arguments, for the function that it meant.
            let meant = move || unsafe { behind::$name()($($arg),*) };
            $(if connect::awaits_any() { return connect::waiting(move || $awaited, meant); })?
            $(let $state = $before;)?
            $(if let Some(answer) = $answer { return answer; })?
            let result = meant();
            $(if result >= 0 { let $result = result; $after; })?
            $(let $outcome = result; $always;)?
            result
        }
    )*
        /// What is behind the hooks.
        pub(crate) mod behind {
            use super::*;
            real::real! { $(fn $name($($arg: $type),*) -> $return $({ $otherwise })?)* }
        }

        /// The names of all that is interposed, each with a NUL behind it; the last two are in rebind.rs.
        pub(crate) const NAMES: &str = concat!($(stringify!($name), "\0",)* "dlopen\0dlmopen\0");
    };
}

interpose! {
    fn connect(fd: c_int, address: *const sockaddr, length: socklen_t) -> c_int {
        before connecting = connect::before_connect(fd, address, length);
        always result connect::after_connect(fd, connecting, i64::from(result));
    }
    fn bind(fd: c_int, address: *const sockaddr, length: socklen_t) -> c_int {
        before () = intercept::bind(fd, address, length);
    }
    fn listen(fd: c_int, backlog: c_int) -> c_int {
        before prepared = intercept::before_listen(fd);
        after _done intercept::after_listen(fd, prepared);
    }
    fn accept(fd: c_int, address: *mut sockaddr, length: *mut socklen_t) -> c_int {
        before waiting = intercept::before_accept(fd, || Place::here().page().room_for_peer(address, length));
        after accepted if let Some((seen, room)) = waiting {
            let place = Place::here();
            let near = place.page();
            intercept::accepted(fd, accepted, seen, move || near.told_peer(address, length, room));
        };
    }
    fn accept4(fd: c_int, address: *mut sockaddr, length: *mut socklen_t, flags: c_int) -> c_int {
        before waiting = intercept::before_accept(fd, || Place::here().page().room_for_peer(address, length));
        after accepted if let Some((seen, room)) = waiting {
            let place = Place::here();
            let near = place.page();
            intercept::accepted(fd, accepted, seen, move || near.told_peer(address, length, room));
        };
    }
    // What the rule of this socket enforces is answered with success and not carried out, mostly.
    fn setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, length: socklen_t) -> c_int {
        before last_word = intercept::enforce(fd, level, name, value, length);
        answer (last_word == intercept::LastWord::Rule).then_some(0);
        after _done intercept::was_set(fd, level, name, last_word);
    }
    // By SO_ERROR a program learns that a connect which it did not wait for has come to an end, connect(2): then the time
    // for connecting (`connect_timeout`) is taken back.
    fn getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, length: *mut socklen_t) -> c_int {
        always result if level == SOL_SOCKET && name == SO_ERROR { connect::after_so_error(fd, result) };
    }
    // The other way to learn it: there is a peer only if there is a connection (tcpclient, OpenLDAP).
    fn getpeername(fd: c_int, address: *mut sockaddr, length: *mut socklen_t) -> c_int {
        after _done connect::after_getpeername(fd);
    }
    // For those programs of an event loop that never ask: the same, when they next say what they wait for on a socket.
    fn epoll_ctl(epoll: c_int, change: c_int, fd: c_int, event: *mut epoll_event) -> c_int {
        before () = connect::before_epoll_ctl(change, fd);
    }
    // For those that wait once, and ask no more: the same, when what they have waited for has happened.
    fn poll(entries: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int {
        awaits connect::before_poll(entries, count);
    }
    fn ppoll(entries: *mut pollfd, count: nfds_t, timeout: *const timespec, mask: *const sigset_t) -> c_int {
        awaits connect::before_poll(entries, count);
    }
    // Those of programs that are built with _FORTIFY_SOURCE, of glibc alone; who finds them elsewhere gets the others.
    fn __poll_chk(entries: *mut pollfd, count: nfds_t, timeout: c_int, size: size_t) -> c_int {
        // SAFETY: the program's own arguments.
        without_libc unsafe { poll()(entries, count, timeout) };
        awaits connect::before_poll(entries, count);
    }
    fn __ppoll_chk(entries: *mut pollfd, count: nfds_t, timeout: *const timespec, mask: *const sigset_t, size: size_t) -> c_int {
        // SAFETY: as above.
        without_libc unsafe { ppoll()(entries, count, timeout, mask) };
        awaits connect::before_poll(entries, count);
    }
    fn select(end: c_int, read: *mut fd_set, write: *mut fd_set, except: *mut fd_set, timeout: *mut timeval) -> c_int {
        awaits connect::before_select(end, write);
    }
    fn pselect(end: c_int, read: *mut fd_set, write: *mut fd_set, except: *mut fd_set, timeout: *const timespec, mask: *const sigset_t) -> c_int {
        awaits connect::before_select(end, write);
    }
    // These connect where MSG_FASTOPEN is set, tcp(7).
    fn sendto(fd: c_int, data: *const c_void, size: size_t, flags: c_int, address: *const sockaddr, length: socklen_t) -> ssize_t {
        before connecting = if flags & MSG_FASTOPEN != 0 { connect::before_send(fd, "sendto", flags, |near| near.address(address, length)) } else { None };
        always result connect::after_connect(fd, connecting, result as i64);
    }
    fn sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t {
        before connecting = if flags & MSG_FASTOPEN != 0 { connect::before_send(fd, "sendmsg", flags, |near| near.message_address(message)) } else { None };
        always result connect::after_connect(fd, connecting, result as i64);
    }
    fn sendmmsg(fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: real::BatchFlags) -> c_int {
        // The first message connects; an mmsghdr begins with its msghdr.
        before connecting = if flags & MSG_FASTOPEN as real::BatchFlags != 0 && count > 0 { connect::before_send(fd, "sendmmsg", flags as c_int, |near| near.message_address(messages.cast())) } else { None };
        always result connect::after_connect(fd, connecting, i64::from(result));
    }
    // A descriptor that ends takes with it what is known of the listener behind it: the next listener with this number may
    // come by a way on which it gets no options (dup, SCM_RIGHTS). Also what another thread has found out about it meanwhile.
    fn close(fd: c_int) -> c_int {
        before () = { connect::before_close(fd); descriptors::forget(fd) };
        always _result descriptors::forget(fd);
    }
    fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
        // Who finds ours where libc has none (a weak reference, dlsym) gets what a newer libc would give.
        without_libc socket::ffi::close_range(first, last, flags);
        before () = descriptors::forget_range(first, last, flags);
        always _result descriptors::forget_range(first, last, flags);
    }
    fn dup2(from: c_int, to: c_int) -> c_int {
        before () = if from != to { connect::before_close(to); descriptors::forget(to) };
        always _result if from != to { descriptors::forget(to) };
    }
    fn dup3(from: c_int, to: c_int, flags: c_int) -> c_int {
        before () = { if from != to { connect::before_close(to) } descriptors::forget(to) };
        always _result descriptors::forget(to);
    }
    // A seccomp filter may end the program at a call of ours. libseccomp and others set no_new_privs so, just before seccomp(2),
    // which has no function in libc. A child of vfork notes it for its parent too, whom that costs a call or two,
    // and poll and select take nothing back in it any more.
    fn prctl(option: c_int, second: c_ulong, third: c_ulong, fourth: c_ulong, fifth: c_ulong) -> c_int {
        before () = if matches!(option, libc::PR_SET_SECCOMP | libc::PR_SET_NO_NEW_PRIVS) { filter::expect() };
    }
    // What the program is told of host names that rules are for.
    fn getaddrinfo(node: *const c_char, service: *const c_char, hints: *const addrinfo, answer: *mut *mut addrinfo) -> c_int {
        always status lookups::after_getaddrinfo(status, node, answer);
    }
    fn gethostbyname(name: *const c_char) -> *mut hostent {
        always host lookups::after_gethostbyname(name, host);
    }
    fn gethostbyname2(name: *const c_char, family: c_int) -> *mut hostent {
        always host lookups::after_gethostbyname(name, host);
    }
    fn gethostbyname_r(name: *const c_char, host: *mut hostent, buffer: *mut c_char, size: size_t, answer: *mut *mut hostent, error: *mut c_int) -> c_int {
        always status lookups::after_gethostbyname_r(status, name, answer);
    }
    fn gethostbyname2_r(name: *const c_char, family: c_int, host: *mut hostent, buffer: *mut c_char, size: size_t, answer: *mut *mut hostent, error: *mut c_int) -> c_int {
        always status lookups::after_gethostbyname_r(status, name, answer);
    }
}

/// Run by the loader before main.
extern "C" fn on_load() {
    behind::find_all();
    setup::on_load();
}

#[used]
#[unsafe(link_section = ".init_array")]
static ON_LOAD: extern "C" fn() = on_load;

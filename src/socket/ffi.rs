//! The system calls.
//!
//! setsockopt and whatever touches a file go through syscall(2), not through libc's functions of the same name:
//! inside the preload library those names are our own hooks, and `open`, `write` and `close` are cancellation
//! points (pthreads(7)) where the program's own call may be none.
#![expect(unsafe_code, reason = "the system calls; every block says what makes it sound")]

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::ptr;

use policy::Bypass;

use crate::address::Address;
use crate::errno::Errno;

/// Checks the policy's numbers against libc's on the machine that is built for.
macro_rules! same_as_libc {
    ($($level:ident: $($name:ident)*;)*) => {
        $(const _: () = assert!(policy::constants::$level == libc::$level);
        $(const _: () = assert!(number_of(libc::$level, stringify!($name)) == libc::$name);)*)*
    };
}

const fn number_of(level: i32, name: &str) -> i32 {
    let table = policy::constants::OPTIONS;
    let mut row = 0;
    while row < table.len() {
        if table[row].0 == level && same(table[row].1.as_bytes(), name.as_bytes()) {
            return table[row].2;
        }
        row += 1;
    }
    -1
}

const fn same(left: &[u8], right: &[u8]) -> bool {
    let mut index = 0;
    while index < left.len() && index < right.len() && left[index] == right[index] {
        index += 1;
    }
    index == left.len() && index == right.len()
}

same_as_libc! {
    SOL_SOCKET: SO_REUSEADDR SO_KEEPALIVE SO_LINGER SO_REUSEPORT SO_RCVTIMEO SO_SNDTIMEO SO_RCVBUF SO_SNDBUF
        SO_PRIORITY SO_MARK SO_BINDTODEVICE SO_MAX_PACING_RATE;
    SOL_TCP: TCP_NODELAY TCP_MAXSEG TCP_KEEPIDLE TCP_KEEPINTVL TCP_KEEPCNT TCP_SYNCNT TCP_LINGER2 TCP_DEFER_ACCEPT
        TCP_QUICKACK TCP_CONGESTION TCP_USER_TIMEOUT TCP_FASTOPEN TCP_NOTSENT_LOWAT TCP_FASTOPEN_CONNECT;
    SOL_IP: IP_TOS IP_TTL IP_FREEBIND IP_TRANSPARENT IP_BIND_ADDRESS_NO_PORT;
    SOL_IPV6: IPV6_UNICAST_HOPS IPV6_TCLASS;
}

/// The calling thread's errno.
#[must_use]
pub fn errno() -> Errno {
    // SAFETY: errno(3): the location is valid for the life of the thread.
    Errno(unsafe { *libc::__errno_location() })
}

/// Sets the calling thread's errno.
pub fn set_errno(errno: Errno) {
    // SAFETY: errno(3): the location is valid for the life of the thread.
    unsafe { *libc::__errno_location() = errno.0 }
}

pub(crate) fn checked(result: libc::c_long) -> Result<libc::c_long, Errno> {
    if result < 0 { Err(errno()) } else { Ok(result) }
}

/// setsockopt(2) with a plain value.
///
/// # Errors
/// Those of setsockopt(2).
pub fn set<T: Copy>(fd: c_int, level: c_int, name: c_int, value: &T) -> Result<(), Errno> {
    set_raw(fd, level, name, ptr::from_ref(value).cast(), mem::size_of::<T>())
}

/// setsockopt(2) with bytes.
///
/// # Errors
/// Those of setsockopt(2).
pub fn set_bytes(fd: c_int, level: c_int, name: c_int, value: &[u8]) -> Result<(), Errno> {
    set_raw(fd, level, name, value.as_ptr().cast(), value.len())
}

/// The same where a program gives a null pointer, with a length.
///
/// # Errors
/// Those of setsockopt(2).
pub fn set_nothing(fd: c_int, level: c_int, name: c_int, length: usize) -> Result<(), Errno> {
    set_raw(fd, level, name, std::ptr::null(), length)
}

fn set_raw(fd: c_int, level: c_int, name: c_int, value: *const c_void, length: usize) -> Result<(), Errno> {
    // SAFETY: setsockopt(2) reads `length` bytes at `value`, which two of the callers have borrowed; none at a null pointer.
    checked(unsafe { libc::syscall(libc::SYS_setsockopt, fd, level, name, value, length as libc::socklen_t) }).map(drop)
}

/// getsockopt(2) into a buffer, of which it fills the beginning: the bytes written. A raw system call, as setsockopt
/// above: the name is a hook's.
///
/// # Errors
/// Those of getsockopt(2).
pub fn get_bytes(fd: c_int, level: c_int, name: c_int, value: &mut [u8]) -> Result<usize, Errno> {
    let mut length = value.len() as libc::socklen_t;
    // SAFETY: getsockopt(2) writes at most `length` bytes.
    let result = unsafe { libc::syscall(libc::SYS_getsockopt, fd, level, name, value.as_mut_ptr(), &raw mut length) };
    checked(result).map(|_| length as usize)
}

/// getsockopt(2) of an integer option.
///
/// # Errors
/// Those of getsockopt(2).
pub fn get_int(fd: c_int, level: c_int, name: c_int) -> Result<c_int, Errno> {
    let mut value = [0; mem::size_of::<c_int>()];
    get_bytes(fd, level, name, &mut value).map(|_| c_int::from_ne_bytes(value))
}

/// What the kernel gives each socket and no other (SO_COOKIE, since Linux 4.12).
///
/// # Errors
/// Those of getsockopt(2).
pub fn cookie(fd: c_int) -> Result<u64, Errno> {
    let mut cookie = [0; 8];
    get_bytes(fd, libc::SOL_SOCKET, libc::SO_COOKIE, &mut cookie).map(|_| u64::from_ne_bytes(cookie))
}

/// The connections that wait in a listener's accept queue (tcp_info.tcpi_unacked, net/ipv4/tcp.c); none if it does not listen.
///
/// # Errors
/// Those of getsockopt(2).
pub fn accept_queue(fd: c_int) -> Result<Option<u32>, Errno> {
    // include/net/tcp_states.h
    const LISTEN: u8 = 10;
    /// Offset of tcpi_unacked in struct tcp_info, part of the kernel's ABI.
    const UNACKED: usize = 24;
    let mut info = [0_u8; UNACKED + 4];
    // TCP_INFO cuts the structure off where the buffer ends.
    get_bytes(fd, libc::SOL_TCP, libc::TCP_INFO, &mut info)?;
    let [state, .., a, b, c, d] = info;
    Ok((state == LISTEN).then(|| u32::from_ne_bytes([a, b, c, d])))
}

/// A state of TCP (include/net/tcp_states.h): it has sent its SYN and has no answer yet.
pub const SYN_SENT: u8 = 2;

/// The state of a TCP socket (tcp_info.tcpi_state, tcp(7)).
///
/// # Errors
/// Those of getsockopt(2), for what is not TCP as well.
pub fn tcp_state(fd: c_int) -> Result<u8, Errno> {
    let mut state = [0_u8];
    get_bytes(fd, libc::SOL_TCP, libc::TCP_INFO, &mut state)?;
    Ok(state[0])
}

/// Whether a TCP socket has no connection: it never had, could not, or has no more. False for whatever is not TCP.
#[must_use]
pub fn is_closed(fd: c_int) -> bool {
    const CLOSE: u8 = 7;
    tcp_state(fd) == Ok(CLOSE)
}

/// Whether a TCP socket has begun a connection, be it that nothing came of it (tcp_info.tcpi_advmss, which connect sets and nothing
/// takes back, net/ipv4/tcp_output.c); not where that is not told.
#[must_use]
pub fn has_begun_to_connect(fd: c_int) -> bool {
    /// Offset of tcpi_advmss in struct tcp_info, part of the kernel's ABI.
    const ADVERTISED: usize = 84;
    let mut info = [0_u8; ADVERTISED + 4];
    get_bytes(fd, libc::SOL_TCP, libc::TCP_INFO, &mut info) == Ok(info.len()) && info[ADVERTISED..] != [0; 4]
}

/// Whether calls on a descriptor never wait (O_NONBLOCK, fcntl(2)); false where that is not told.
#[must_use]
pub fn is_non_blocking(fd: c_int) -> bool {
    // SAFETY: takes numbers.
    let flags = unsafe { libc::syscall(libc::SYS_fcntl, fd, libc::F_GETFL) };
    checked(flags).is_ok_and(|flags| flags & libc::c_long::from(libc::O_NONBLOCK) != 0)
}

/// Bytes of the send queue, by one of the two requests of tcp(7).
fn queued(fd: c_int, request: libc::Ioctl) -> Result<u32, Errno> {
    let mut bytes: c_int = 0;
    // SAFETY: both requests write one int.
    let result = unsafe { libc::ioctl(fd, request, &raw mut bytes) };
    checked(result.into()).map(|_| u32::try_from(bytes).unwrap_or(0))
}

/// The peer of a connection that stands, getpeername(2). A raw system call, as setsockopt above.
///
/// # Errors
/// ENOTCONN, also while connecting; those of getpeername(2).
pub fn connected_peer(fd: c_int) -> Result<Address, Errno> {
    name_by(|address, length| {
        // SAFETY: getpeername(2) writes at most `length` bytes at `address`.
        unsafe { libc::syscall(libc::SYS_getpeername, fd, address, length) as c_int }
    })
}

/// close_range(2), for a libc that has it not: 0, or -1 and errno.
#[must_use]
pub fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    // SAFETY: takes numbers, which the program means.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) as c_int }
}

/// The bytes that are not acknowledged, sent or not (SIOCOUTQ), and those of them that are not sent (SIOCOUTQNSD), tcp(7).
///
/// # Errors
/// Those of ioctl(2): EINVAL for a listener.
pub fn send_queue(fd: c_int) -> Result<(u32, u32), Errno> {
    /// linux/sockios.h; libc has them not. SIOCOUTQ is TIOCOUTQ.
    const SIOCOUTQNSD: libc::Ioctl = 0x894B;
    Ok((queued(fd, libc::TIOCOUTQ)?, queued(fd, SIOCOUTQNSD)?))
}

/// Which task pidfd_open(2) is to open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// A process, by its process id.
    Process,
    /// A thread, by its thread id; since Linux 6.9.
    Thread,
}

/// pidfd_open(2).
///
/// # Errors
/// Those of pidfd_open(2): ESRCH, EINVAL for a thread on an older kernel, ENOSYS before Linux 5.3.
pub fn pidfd_open(id: c_int, task: Task) -> Result<OwnedFd, Errno> {
    /// include/uapi/linux/pidfd.h.
    const PIDFD_THREAD: c_int = libc::O_EXCL;
    let flags = if task == Task::Thread { PIDFD_THREAD } else { 0 };
    // SAFETY: takes two numbers and gives a descriptor that is nobody else's.
    unsafe { owned(libc::syscall(libc::SYS_pidfd_open, id, flags)) }
}

/// A copy of another task's descriptor, pidfd_getfd(2): the same open socket. It is closed on exec.
///
/// # Errors
/// Those of pidfd_getfd(2): EBADF, EPERM, ESRCH, ENOSYS before Linux 5.6.
pub fn pidfd_getfd(task: BorrowedFd<'_>, fd: c_int) -> Result<OwnedFd, Errno> {
    // SAFETY: takes three numbers and gives a descriptor that is nobody else's.
    unsafe { owned(libc::syscall(libc::SYS_pidfd_getfd, task.as_raw_fd(), fd, 0)) }
}

/// # Safety
/// A result that is no error is a descriptor that nobody else owns.
unsafe fn owned(result: libc::c_long) -> Result<OwnedFd, Errno> {
    // SAFETY: as the caller promises; a descriptor fits an int.
    checked(result).map(|fd| unsafe { OwnedFd::from_raw_fd(fd as c_int) })
}

/// Whether two tasks have the same table of descriptors, kcmp(2).
///
/// # Errors
/// Those of kcmp(2): EPERM, ESRCH, ENOSYS where the kernel is built without it.
pub fn share_descriptors(one: c_int, other: c_int) -> Result<bool, Errno> {
    /// include/uapi/linux/kcmp.h.
    const KCMP_FILES: c_int = 2;
    // SAFETY: takes numbers only.
    checked(unsafe { libc::syscall(libc::SYS_kcmp, one, other, KCMP_FILES, 0, 0) }).map(|order| order == 0)
}

/// Whether a descriptor of this process and one of another task are the same open file, kcmp(2).
///
/// # Errors
/// Those of kcmp(2): EBADF, EPERM, ESRCH, ENOSYS where the kernel is built without it.
pub fn is_same_file(own: BorrowedFd<'_>, task: c_int, fd: c_int) -> Result<bool, Errno> {
    /// include/uapi/linux/kcmp.h.
    const KCMP_FILE: c_int = 0;
    // SAFETY: takes numbers only.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, libc::getpid(), task, KCMP_FILE, own.as_raw_fd(), fd) };
    checked(order).map(|order| order == 0)
}

/// Makes a TCP socket of an address family, closed on exec, which lasts as long as the function. No cancellation point.
///
/// # Errors
/// Those of socket(2).
pub fn with_new_tcp_socket<T>(family: c_int, function: impl FnOnce(c_int) -> T) -> Result<T, Errno> {
    // SAFETY: takes three numbers.
    let fd = checked(unsafe { libc::syscall(libc::SYS_socket, family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
    let answer = function(fd as c_int);
    // SAFETY: made above, and nobody else's.
    unsafe { libc::syscall(libc::SYS_close, fd) };
    Ok(answer)
}

/// Closes a file by the system call. libc's function is whatever library comes first with one: in LD_PRELOAD before ours, and
/// with its constructor still to run while ours is loaded.
pub fn close(file: impl Into<OwnedFd>) {
    // SAFETY: nobody else has it.
    unsafe { libc::syscall(libc::SYS_close, file.into().into_raw_fd()) };
}

/// Takes the calling thread into a network namespace, setns(2).
///
/// # Errors
/// Those of setns(2): EPERM without CAP_SYS_ADMIN.
pub fn enter_network_namespace(namespace: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: takes two numbers.
    checked(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) }.into()).map(drop)
}

/// The address that a socket is bound to, getsockname(2).
///
/// # Errors
/// Those of getsockname(2).
pub fn local_address(fd: c_int) -> Result<Address, Errno> {
    name_by(|address, length| {
        // SAFETY: getsockname(2) writes at most `length` bytes at `address`.
        unsafe { libc::syscall(libc::SYS_getsockname, fd, address, length) as c_int }
    })
}

/// The address of the peer, also of one that is still being connected to: SO_PEERNAME answers in SYN_SENT, where
/// getpeername(2) says ENOTCONN (net/ipv4/af_inet.c, inet_getname with peer == 2).
///
/// # Errors
/// ENOTCONN before connect(2); those of getsockopt(2).
pub fn peer_address(fd: c_int) -> Result<Address, Errno> {
    /// asm-generic/socket.h; libc has it not.
    const SO_PEERNAME: c_int = 28;
    let by_size = |size: libc::socklen_t| {
        name_by(|address, length| {
            // SAFETY: `length` is the size of `address`, cut to `size`; getsockopt(2) writes no more.
            unsafe {
                *length = size;
                libc::syscall(libc::SYS_getsockopt, fd, libc::SOL_SOCKET, SO_PEERNAME, address, length) as c_int
            }
        })
    };
    // The kernel refuses to give fewer bytes than were asked for, and cuts off what is longer: first as many as IPv4 has.
    match by_size(size_of::<libc::sockaddr_in>() as _) {
        Ok(beginning) if beginning.endpoint() == Err(Bypass::BadAddress) => {
            by_size(size_of::<libc::sockaddr_in6>() as _)
        }
        other => other,
    }
}

fn name_by(call: impl Fn(*mut libc::sockaddr, *mut libc::socklen_t) -> c_int) -> Result<Address, Errno> {
    let mut storage = [0_u8; mem::size_of::<libc::sockaddr_storage>()];
    let mut length = storage.len() as libc::socklen_t;
    checked(call(storage.as_mut_ptr().cast(), &raw mut length).into())?;
    Ok(Address::new(storage.get(..length as usize).unwrap_or(&storage)))
}

/// Asks for a file, faccessat(2).
///
/// # Errors
/// Those of faccessat(2): ENOENT and ENOTDIR where there is none of this name.
pub fn find(path: &std::ffi::CStr) -> Result<(), Errno> {
    // SAFETY: faccessat(2) reads the string up to its NUL.
    let found = unsafe { libc::syscall(libc::SYS_faccessat, libc::AT_FDCWD, path.as_ptr(), libc::F_OK) };
    checked(found).map(drop)
}

unsafe extern "C-unwind" {
    // libc has it not. Restoring the type can be where the thread ends: it unwinds then.
    fn pthread_setcanceltype(kind: c_int, old: *mut c_int) -> c_int;
}

/// pthread.h, the same in glibc and musl.
const PTHREAD_CANCEL_DEFERRED: c_int = 0;

/// Makes cancellation of the calling thread wait for a cancellation point, pthread_setcanceltype(3); the type before.
#[must_use]
pub fn defer_cancellation() -> c_int {
    let mut before = PTHREAD_CANCEL_DEFERRED;
    // SAFETY: writes one int.
    unsafe { pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, &raw mut before) };
    before
}

/// Puts the type of cancellation back. A thread that was cancelled meanwhile may end here.
pub fn restore_cancellation(before: c_int) {
    if before != PTHREAD_CANCEL_DEFERRED {
        let mut ours = 0;
        // SAFETY: writes one int; a type that was in force before.
        unsafe { pthread_setcanceltype(before, &raw mut ours) };
    }
}

/// How many times a second the kernel's timers tick (CONFIG_HZ): what the coarse clock resolves, clock_getres(2). None
/// if that is no rate that a kernel is built with.
#[must_use]
pub fn ticks_per_second() -> Option<u64> {
    let mut tick = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: clock_getres(2) writes one timespec.
    let result = unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &raw mut tick) };
    let nanoseconds = u64::try_from(tick.tv_nsec).ok().filter(|_| result == 0 && tick.tv_sec == 0)?;
    let rate = 1_000_000_000_u64.checked_div(nanoseconds)?;
    (24..=1_200).contains(&rate).then_some(rate)
}

/// Whether the loader runs this process with privileges that its user does not have (AT_SECURE, getauxval(3)).
#[must_use]
pub fn runs_privileged() -> bool {
    // SAFETY: getauxval(3) takes any number.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// The file that this process was started by (AT_EXECFN, getauxval(3)): the script, where it is one.
#[must_use]
pub fn started_file() -> Option<&'static CStr> {
    // SAFETY: getauxval(3) takes any number; the kernel has put a string there, which stays for the life of the process.
    unsafe {
        let file = libc::getauxval(libc::AT_EXECFN) as *const c_char;
        (!file.is_null()).then(|| CStr::from_ptr(file))
    }
}

/// Ends the process at once, without atexit handlers, _exit(2).
pub fn exit_now(status: c_int) -> ! {
    // SAFETY: _exit(2) takes any status.
    unsafe { libc::_exit(status) }
}

/// The process's id.
#[must_use]
pub fn process_id() -> i32 {
    // SAFETY: getpid(2) cannot fail.
    unsafe { libc::getpid() }
}

/// Becomes a program, found in PATH as execvp(3) does, and only returns if that failed. Signal mask and dispositions go
/// over as they are, where std's `Command::exec` resets them. For the command alone: it allocates.
#[must_use]
pub fn become_program(program: &CStr, arguments: &[CString], environment: &[CString]) -> Errno {
    let pointers = |texts: &[CString]| -> Vec<*const c_char> {
        texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: execvp(3) reads strings that end with NUL and two lists of such that end with null, all borrowed here.
    unsafe { libc::execvpe(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    errno()
}

/// Whether SIGPIPE is ignored, signal(7).
#[must_use]
pub fn is_sigpipe_ignored() -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: sigaction(2) with null changes nothing and writes one structure, for which all zeroes is valid.
    let action = unsafe {
        libc::sigaction(libc::SIGPIPE, ptr::null(), action.as_mut_ptr());
        action.assume_init()
    };
    action.sa_sigaction == libc::SIG_IGN
}

/// Ignores SIGPIPE, or has it end the process, signal(2).
pub fn ignore_sigpipe(is_ignored: bool) {
    // SAFETY: signal(2) takes both dispositions; no handler of ours is involved.
    unsafe { libc::signal(libc::SIGPIPE, if is_ignored { libc::SIG_IGN } else { libc::SIG_DFL }) };
}

/// Has the loader call an `extern "C" fn()` before main, and before Rust's runtime touches anything.
#[macro_export]
macro_rules! before_main {
    ($function:path) => {
        const _: () = {
            #[used]
            // SAFETY: .init_array holds functions that are called with C's convention (gABI, Dynamic Linking); one that
            // takes no arguments may be given some.
            #[unsafe(link_section = ".init_array")]
            static BEFORE_MAIN: extern "C" fn() = $function;
        };
    };
}

//! The system calls. The only file of this crate with `unsafe`.
//!
//! setsockopt and whatever touches a file go through syscall(2), not through libc's functions of the same name:
//! inside the preload library those names are our own hooks, and `open`, `write` and `close` are cancellation
//! points (pthreads(7)) where the program's own call may be none.
#![expect(unsafe_code, reason = "the system calls; every block says what makes it sound")]

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use crate::address::{Address, LONGEST};
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
    SOL_IP: IP_TOS IP_TTL IP_BIND_ADDRESS_NO_PORT;
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

fn checked(result: libc::c_long) -> Result<libc::c_long, Errno> {
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

fn set_raw(fd: c_int, level: c_int, name: c_int, value: *const c_void, length: usize) -> Result<(), Errno> {
    // SAFETY: setsockopt(2) reads `length` bytes at `value`, which the two callers have borrowed.
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

/// The connections that wait in a listener's accept queue (tcp_info.tcpi_unacked, net/ipv4/tcp.c).
///
/// # Errors
/// Those of getsockopt(2).
pub fn accept_queue(fd: c_int) -> Result<u32, Errno> {
    /// Offset of tcpi_unacked in struct tcp_info, part of the kernel's ABI.
    const UNACKED: usize = 24;
    let mut info = [0_u8; UNACKED + 4];
    // TCP_INFO cuts the structure off where the buffer ends.
    get_bytes(fd, libc::SOL_TCP, libc::TCP_INFO, &mut info)?;
    let [.., a, b, c, d] = info;
    Ok(u32::from_ne_bytes([a, b, c, d]))
}

/// Whether a TCP socket has no connection: it never had, could not, or has no more. False for whatever is not TCP.
#[must_use]
pub fn is_closed(fd: c_int) -> bool {
    // include/net/tcp_states.h
    const CLOSE: u8 = 7;
    let mut state = [0_u8];
    get_bytes(fd, libc::SOL_TCP, libc::TCP_INFO, &mut state) == Ok(1) && state == [CLOSE]
}

/// Bytes of the send queue, by one of the two requests of tcp(7).
fn queued(fd: c_int, request: libc::Ioctl) -> Result<u32, Errno> {
    let mut bytes: c_int = 0;
    // SAFETY: both requests write one int.
    let result = unsafe { libc::ioctl(fd, request, &raw mut bytes) };
    checked(result.into()).map(|_| u32::try_from(bytes).unwrap_or(0))
}

/// The peer of a connection that stands, getpeername(2).
///
/// # Errors
/// ENOTCONN, also while connecting; those of getpeername(2).
pub fn connected_peer(fd: c_int) -> Result<Address, Errno> {
    name_by(|address, length| {
        // SAFETY: getpeername(2) writes at most `length` bytes at `address`.
        unsafe { libc::getpeername(fd, address, length) }
    })
}

/// How many bytes the program has room for where accept(2) tells it the peer: 0 if that is nowhere, or cannot be read
/// without asking the kernel. To be asked before the call, which writes there.
#[must_use]
#[inline]
pub fn room_for_peer(address: *const libc::sockaddr, length: *const libc::socklen_t) -> libc::socklen_t {
    let first = length as usize;
    let is_at_hand = first.checked_add(3).is_some_and(|last| is_stack(first, last));
    if address.is_null() || !is_at_hand {
        return 0;
    }
    // SAFETY: four bytes of the stack. Nobody else is asked once more, who might ask the kernel: errno is the program's here.
    libc::socklen_t::from_ne_bytes(unsafe { ptr::read_unaligned(length.cast::<[u8; 4]>()) })
}

/// close_range(2), for a libc that has it not: 0, or -1 and errno.
#[must_use]
pub fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    // SAFETY: takes numbers, which the program means.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) as c_int }
}

/// The peer that accept(2) has told the program, if it had room for all of it.
///
/// # Safety
/// accept(2) must have succeeded with these pointers, and `room` be what [`room_for_peer`] said of them before.
#[must_use]
pub unsafe fn told_peer(
    address: *const libc::sockaddr,
    length: *const libc::socklen_t,
    room: libc::socklen_t,
) -> Option<Address> {
    if room == 0 {
        return None;
    }
    // SAFETY: the kernel has written the length, and so many bytes of the address if there was room.
    unsafe {
        let length = ptr::read_unaligned(length);
        (length <= room).then(|| Address::new(std::slice::from_raw_parts(address.cast(), length as usize)))
    }
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

/// The address that a socket is bound to, getsockname(2).
///
/// # Errors
/// Those of getsockname(2).
pub fn local_address(fd: c_int) -> Result<Address, Errno> {
    name_by(|address, length| {
        // SAFETY: getsockname(2) writes at most `length` bytes at `address`.
        unsafe { libc::getsockname(fd, address, length) }
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
    // The kernel refuses to give fewer bytes than were asked for: first as many as IPv6 has, then as IPv4.
    match by_size(size_of::<libc::sockaddr_in6>() as _) {
        Err(Errno(libc::EINVAL)) => by_size(size_of::<libc::sockaddr_in>() as _),
        other => other,
    }
}

fn name_by(call: impl Fn(*mut libc::sockaddr, *mut libc::socklen_t) -> c_int) -> Result<Address, Errno> {
    let mut storage = [0_u8; mem::size_of::<libc::sockaddr_storage>()];
    let mut length = storage.len() as libc::socklen_t;
    checked(call(storage.as_mut_ptr().cast(), &raw mut length).into())?;
    Ok(Address::new(storage.get(..length as usize).unwrap_or(&storage)))
}

/// Whether a descriptor is a socket, fstat(2).
#[must_use]
pub fn is_socket(fd: c_int) -> bool {
    let mut status = MaybeUninit::<libc::stat>::zeroed();
    // Not by libc's function, which is another system call in each libc.
    // SAFETY: fstat(2) fills the structure; all zeros is valid where it does not.
    unsafe {
        libc::syscall(libc::SYS_fstat, fd, status.as_mut_ptr()) == 0
            && status.assume_init().st_mode & libc::S_IFMT == libc::S_IFSOCK
    }
}

/// Copies a socket address out of the program's memory; None where it cannot be read.
/// `address` may be any value.
#[must_use]
pub fn copy_address(address: *const libc::sockaddr, length: libc::socklen_t) -> Option<Address> {
    let length = usize::try_from(length).ok()?.min(LONGEST);
    let mut bytes = [0_u8; LONGEST];
    copy(address.cast(), bytes.get_mut(..length)?).then(|| Address::new(bytes.get(..length).unwrap_or_default()))
}

/// The address and its length that a message names (`msg_name`); None where there is none to be read.
#[must_use]
pub fn message_address(message: *const libc::msghdr) -> Option<Address> {
    let mut bytes = [0_u8; mem::offset_of!(libc::msghdr, msg_iov)];
    if !copy(message.cast(), &mut bytes) {
        return None;
    }
    let (pointer, rest) = bytes.split_first_chunk::<{ mem::size_of::<usize>() }>()?;
    let length = u32::from_ne_bytes(*rest.first_chunk::<4>()?);
    copy_address(usize::from_ne_bytes(*pointer) as *const libc::sockaddr, length)
}

/// Copies a text out of the program's memory, without its NUL; None where it cannot be read or does not fit.
#[must_use]
pub fn copy_text(from: *const c_char, to: &mut [u8; 256]) -> Option<&[u8]> {
    let mut length = 0;
    while length < to.len() {
        let start = from.cast::<u8>().wrapping_add(length);
        // What lies in the same page as its beginning can be read if that can.
        let within = SMALLEST_PAGE - start as usize % SMALLEST_PAGE;
        let piece = to.get_mut(length..).and_then(|rest| {
            let size = rest.len().min(within);
            rest.get_mut(..size)
        })?;
        if from.is_null() || !copy(start, piece) {
            return None;
        }
        if let Some(end) = piece.iter().position(|byte| *byte == 0) {
            return to.get(..length + end);
        }
        length += piece.len();
    }
    None
}

/// Copies so many bytes out of the program's memory.
#[must_use]
pub fn bytes_at<const N: usize>(from: *const c_char) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    copy(from.cast(), &mut bytes).then_some(bytes)
}

/// The pointer at an index of the program's array; None where it is null or cannot be read.
#[must_use]
pub fn pointer_at<T>(array: *const *mut T, index: usize) -> Option<*mut T> {
    let bytes = bytes_at::<{ mem::size_of::<usize>() }>(array.wrapping_add(index).cast())?;
    let pointer = usize::from_ne_bytes(bytes) as *mut T;
    (!pointer.is_null()).then_some(pointer)
}

/// Copies an element of getaddrinfo(3)'s list.
#[must_use]
pub fn addrinfo_at(from: *const libc::addrinfo) -> Option<libc::addrinfo> {
    let bytes = bytes_at::<{ mem::size_of::<libc::addrinfo>() }>(from.cast())?;
    // SAFETY: a structure of integers and raw pointers, of any value.
    Some(unsafe { mem::transmute::<[u8; mem::size_of::<libc::addrinfo>()], libc::addrinfo>(bytes) })
}

/// Copies what gethostbyname(3) answers.
#[must_use]
pub fn hostent_at(from: *const libc::hostent) -> Option<libc::hostent> {
    let bytes = bytes_at::<{ mem::size_of::<libc::hostent>() }>(from.cast())?;
    // SAFETY: as above.
    Some(unsafe { mem::transmute::<[u8; mem::size_of::<libc::hostent>()], libc::hostent>(bytes) })
}

/// Copies fewer bytes than a page from anywhere, if they can be read.
fn copy(from: *const u8, to: &mut [u8]) -> bool {
    let readable = is_readable(from.cast(), to.len());
    if readable {
        // SAFETY: the kernel has just read from the pages of the first and the last byte, and there is none between
        // them. Another thread that unmaps one in this moment races with the program's own call as well.
        unsafe { ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len()) };
    }
    readable
}

/// Whether fewer bytes than a page can be read. A pointer that is none must end in the program's own EFAULT, not in our
/// SIGSEGV, so the kernel looks where it is not certain.
#[must_use]
pub fn is_readable(start: *const c_void, length: usize) -> bool {
    let first = start as usize;
    let Some(last) = first.checked_add(length.saturating_sub(1)) else { return false };
    length == 0
        || is_stack(first, last)
        // A word that is aligned lies in one page, the one of the byte in it.
        || (word_is_readable(first & !(PROBE - 1))
            && (first / SMALLEST_PAGE == last / SMALLEST_PAGE || word_is_readable(last & !(PROBE - 1))))
}

/// Whether an address can be read without asking the kernel, and is of no family that this is about.
#[must_use]
#[inline]
pub fn is_surely_foreign(address: *const libc::sockaddr, length: libc::socklen_t) -> bool {
    let first = address as usize;
    if length < 2 || !first.checked_add(1).is_some_and(|last| is_stack(first, last)) {
        return false;
    }
    // SAFETY: two bytes of the stack, the family.
    let family = unsafe { ptr::read_unaligned(address.cast::<u16>()) };
    !matches!(i32::from(family), libc::AF_INET | libc::AF_INET6)
}

/// Whether the bytes surely lie on the stack: in the page of this very call, or on the main thread's stack, above where
/// this call stands on it: all of it up to the program's name at its end is mapped. Nothing else is mapped by itself
/// within 128 MiB of it (arch/x86/mm/mmap.c, MIN_GAP), so whatever stands that near its end stands on it. Of no other
/// memory is so much certain: the heap may be protected, the stack of another thread may end anywhere.
#[inline]
fn is_stack(first: usize, last: usize) -> bool {
    const NEAR: usize = 8 << 20;
    let here = &raw const first as usize;
    let end = main_stack_end();
    (first / SMALLEST_PAGE == here / SMALLEST_PAGE && last / SMALLEST_PAGE == here / SMALLEST_PAGE)
        || (here <= first && last < end && end - here < NEAR)
}

/// Where the main thread's stack ends, less the program's name; getauxval(3) walks through a list for it.
#[inline]
fn main_stack_end() -> usize {
    static END: AtomicUsize = AtomicUsize::new(0);
    match END.load(Relaxed) {
        0 => {
            let errno = errno();
            // SAFETY: getauxval(3) takes any number; 0 and ENOENT where there is none.
            let end = unsafe { libc::getauxval(libc::AT_EXECFN) } as usize;
            set_errno(errno);
            END.store(end, Relaxed);
            end
        }
        end => end,
    }
}

/// No page is smaller, so that what lies within so much lies in one.
const SMALLEST_PAGE: usize = 4096;

/// The size of the kernel's `sigset_t`.
const PROBE: usize = 8;

/// Whether the 8 bytes at `address` can be read: rt_sigprocmask(2) copies the set before it finds that there is
/// no such `how` (kernel/signal.c), so it answers EFAULT or EINVAL and changes nothing. Every program calls it,
/// so no seccomp filter forbids it.
fn word_is_readable(address: usize) -> bool {
    const NO_SUCH_HOW: c_int = -1;
    // SAFETY: nothing is written, and the kernel checks what it reads.
    let result = unsafe { libc::syscall(libc::SYS_rt_sigprocmask, NO_SUCH_HOW, address, 0, PROBE) };
    address != 0 && result < 0 && errno() == Errno(libc::EINVAL)
}

/// A set of signals in the kernel's form, bit n - 1 for signal n.
type SignalSet = u64;

const fn signals(list: &[c_int]) -> SignalSet {
    let mut set = 0;
    let mut index = 0;
    while index < list.len() {
        set |= 1 << (list[index] - 1);
        index += 1;
    }
    set
}

fn mask(how: c_int, set: SignalSet) -> SignalSet {
    let mut old: SignalSet = 0;
    // SAFETY: rt_sigprocmask(2) reads one set and writes the other, both of the size that is passed.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, how, &raw const set, &raw mut old, size_of::<SignalSet>()) };
    old
}

/// Runs `work` with every signal blocked.
pub fn without_signals<R>(work: impl FnOnce() -> R) -> R {
    let old = mask(libc::SIG_SETMASK, SignalSet::MAX);
    let result = work();
    mask(libc::SIG_SETMASK, old);
    result
}

/// Blocks these signals in the calling thread: they are left for [`wait_for`].
pub fn block(list: &[c_int]) {
    mask(libc::SIG_BLOCK, signals(list));
}

/// Waits for one of these signals, which must be blocked, or until the time is over: none then. sigtimedwait(2).
#[must_use]
pub fn wait_for(list: &[c_int], at_most: Duration) -> Option<c_int> {
    let set = signals(list);
    let time =
        libc::timespec { tv_sec: at_most.as_secs().min(i32::MAX as u64) as _, tv_nsec: at_most.subsec_nanos() as _ };
    // SAFETY: rt_sigtimedwait(2) reads a set of the size that is passed, and a time.
    let signal =
        unsafe { libc::syscall(libc::SYS_rt_sigtimedwait, &raw const set, 0, &raw const time, size_of::<SignalSet>()) };
    checked(signal).ok().map(|signal| signal as c_int)
}

/// Writes a line to a descriptor, without being a cancellation point; what cannot be written is lost. A pipe that nobody
/// reads (SIGPIPE), a limit on files (SIGXFSZ) and a terminal in the background (SIGTTOU) do not reach the program.
pub fn write(fd: c_int, bytes: &[u8]) {
    const OURS: SignalSet = signals(&[libc::SIGPIPE, libc::SIGXFSZ, libc::SIGTTOU]);
    let old = mask(libc::SIG_BLOCK, OURS);
    // SAFETY: write(2) reads the slice; rt_sigtimedwait(2) a set of the size that is passed, and a time.
    unsafe {
        if libc::syscall(libc::SYS_write, fd, bytes.as_ptr(), bytes.len()) < 0 {
            let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            libc::syscall(libc::SYS_rt_sigtimedwait, ptr::from_ref(&OURS), 0, &raw const now, size_of::<SignalSet>());
        }
    }
    mask(libc::SIG_SETMASK, old);
}

/// Appends a line to a file: opened for it and closed again, not followed if a link, created 0600.
///
/// # Errors
/// Those of open(2).
pub fn append(path: &std::ffi::CStr, bytes: &[u8]) -> Result<(), Errno> {
    const FLAGS: c_int = libc::O_WRONLY
        | libc::O_APPEND
        | libc::O_CREAT
        | libc::O_NOFOLLOW
        | libc::O_CLOEXEC
        | libc::O_NOCTTY
        | libc::O_NONBLOCK;
    // SAFETY: openat(2) reads the string up to its NUL; the descriptor is ours alone until it is closed here.
    unsafe {
        let fd = checked(libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), FLAGS, 0o600))? as c_int;
        write(fd, bytes);
        libc::syscall(libc::SYS_close, fd);
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "asks the kernel, by rt_sigprocmask(2)")]
    fn unreadable_addresses_are_refused() {
        let page = 4096_usize;
        for bad in [0, 1, page - 1, usize::MAX, usize::MAX - 7, 0xffff_8000_0000_0000] {
            assert!(copy_address(bad as *const libc::sockaddr, 16).is_none(), "{bad:#x}");
        }
        let good = [2_u8, 0, 0, 80, 10, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0];
        let copied = copy_address(good.as_ptr().cast(), 16).expect("readable");
        assert_eq!(copied.endpoint().map(|e| e.to_string()), Ok("10.1.2.3:80".into()));
    }

    #[test]
    #[cfg_attr(miri, ignore = "asks the kernel, by rt_sigprocmask(2)")]
    fn an_address_that_ends_in_an_unmapped_page_is_refused() {
        let page = 4096_usize;
        // SAFETY: a fresh mapping of two pages, of which the second is taken away again.
        let start = unsafe {
            let start =
                libc::mmap(ptr::null_mut(), 2 * page, libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
            libc::munmap(start.byte_add(page), page);
            start as usize
        };
        assert!(copy_address((start + page - 16) as *const libc::sockaddr, 16).is_some());
        assert!(is_readable((start + page - 4) as *const c_void, 4), "an int that ends with the page");
        assert!(!is_readable((start + page - 4) as *const c_void, 5));
        assert!(copy_address((start + page - 8) as *const libc::sockaddr, 16).is_none());
        assert!(copy_address((start + page - 15) as *const libc::sockaddr, 16).is_none());
    }
}

//! The system calls that neither std nor rustix has.
#![expect(unsafe_code, reason = "system calls; every block says what makes it sound")]

use std::ffi::{CStr, c_int, c_long, c_uint, c_ulong, c_void};
use std::io::{BufRead, BufReader};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use socket::ports::Ports;
use socket::{Errno, ffi};

use crate::filter::Instruction;
use crate::notification::WORDS;

// `struct sock_filter` as libc has it.
const _: () = assert!(size_of::<Instruction>() == size_of::<libc::sock_filter>());
const _: () = assert!(align_of::<Instruction>() == align_of::<libc::sock_filter>());
const _: () = assert!(size_of::<libc::seccomp_notif>() == WORDS * size_of::<u64>());

fn checked(result: c_long) -> Result<c_long, Errno> {
    if result < 0 { Err(ffi::errno()) } else { Ok(result) }
}

/// Puts a filter in front of all further system calls of this process, and gives what tells of those that wait. Only for a
/// process with one thread.
///
/// # Errors
/// Those of seccomp(2): EBUSY where there is such a filter already, EACCES without privilege and no_new_privs.
pub(crate) fn install(filter: &[Instruction], flags: c_ulong) -> Result<OwnedFd, Errno> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(|_| Errno(libc::EINVAL))?,
        filter: filter.as_ptr().cast_mut().cast(),
    };
    // SAFETY: seccomp(2) reads the structure and the instructions, whose layout was held against libc's above; the descriptor
    // that it gives is nobody else's.
    unsafe {
        let fd = checked(libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program))?;
        Ok(OwnedFd::from_raw_fd(fd as c_int))
    }
}

/// The sizes of the kernel's structures: a notification, an answer, the numbers of the kernel.
///
/// # Errors
/// Those of seccomp(2).
pub(crate) fn sizes() -> Result<(u16, u16), Errno> {
    let mut sizes = libc::seccomp_notif_sizes { seccomp_notif: 0, seccomp_notif_resp: 0, seccomp_data: 0 };
    // SAFETY: seccomp(2) writes one structure.
    checked(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_NOTIF_SIZES, 0, &raw mut sizes) })?;
    Ok((sizes.seccomp_notif, sizes.seccomp_notif_resp))
}

/// The number of an ioctl (asm-generic/ioctl.h) of seccomp's.
const fn request(writes: bool, reads: bool, number: u32, size: usize) -> u32 {
    let direction = (writes as u32) | (reads as u32) << 1;
    direction << 30 | (size as u32) << 16 | (b'!' as u32) << 8 | number
}

pub(crate) const RECEIVE: u32 = request(true, true, 0, size_of::<libc::seccomp_notif>());
pub(crate) const SEND: u32 = request(true, true, 1, size_of::<libc::seccomp_notif_resp>());
pub(crate) const IS_VALID: u32 = request(true, false, 2, size_of::<u64>());
pub(crate) const ADD_DESCRIPTOR: u32 = request(true, false, 3, size_of::<libc::seccomp_notif_addfd>());
pub(crate) const SET_FLAGS: u32 = request(true, false, 4, size_of::<u64>());

/// Takes the next call that waits into memory that is all zeroes.
///
/// # Errors
/// ENOENT where the one that waited waits no more, EINTR.
pub(crate) fn receive(listener: BorrowedFd<'_>, into: &[AtomicU64; WORDS]) -> Result<(), Errno> {
    // SAFETY: the kernel writes one structure of the size that the request names; atomics may be written through a shared reference.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), RECEIVE as libc::Ioctl, into.as_ptr()) };
    checked(result.into()).map(drop)
}

/// What becomes of a call that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The kernel carries it out.
    Continue,
    /// It is over, with this result.
    Result(i64),
    /// It is over, with this error.
    Error(Errno),
}

/// Answers.
///
/// # Errors
/// ENOENT where the call waits no more.
pub(crate) fn send(listener: BorrowedFd<'_>, id: u64, answer: Answer) -> Result<(), Errno> {
    let (val, error, flags) = match answer {
        Answer::Continue => (0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
        Answer::Result(value) => (value, 0, 0),
        Answer::Error(errno) => (0, -errno.0, 0),
    };
    let response = libc::seccomp_notif_resp { id, val, error, flags };
    // SAFETY: the kernel reads one structure.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), SEND as libc::Ioctl, &raw const response) };
    checked(result.into()).map(drop)
}

/// Gives a descriptor to the program whose call waits on: the number that the program has it under.
///
/// Not together with the answer (SECCOMP_ADDFD_FLAG_SEND): if this process is killed meanwhile, the kernel takes the descriptor back
/// and the program gets 0 for an answer, which is its standard input (kernel/seccomp.c, seccomp_notify_addfd).
///
/// # Errors
/// EMFILE where the program has all the descriptors that it may have, ENOENT where the call waits no more.
pub(crate) fn give(
    listener: BorrowedFd<'_>,
    id: u64,
    descriptor: BorrowedFd<'_>,
    closes_on_exec: bool,
) -> Result<c_int, Errno> {
    let newfd_flags = if closes_on_exec { libc::O_CLOEXEC as u32 } else { 0 };
    let srcfd = descriptor.as_raw_fd().unsigned_abs();
    let given = libc::seccomp_notif_addfd { id, flags: 0, srcfd, newfd: 0, newfd_flags };
    // SAFETY: the kernel reads one structure.
    checked(unsafe { libc::ioctl(listener.as_raw_fd(), ADD_DESCRIPTOR as libc::Ioctl, &raw const given) }.into())
        .map(|fd| fd as c_int)
}

/// A copy of a descriptor of this process.
///
/// # Errors
/// EBADF, EMFILE.
pub(crate) fn copy_own(fd: c_int) -> Result<OwnedFd, Errno> {
    // SAFETY: fcntl(2) takes numbers; the descriptor that it gives is nobody else's.
    unsafe { Ok(OwnedFd::from_raw_fd(checked(libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3).into())? as c_int)) }
}

/// The descriptors that this process has open.
pub(crate) fn descriptors() -> Vec<c_int> {
    /// The higher ones are looked up.
    const FIRST: c_int = 4096;
    // How many there are, since Linux 6.2; to list the folder takes the kernel far longer.
    let count = std::fs::metadata("/proc/self/fd").map_or(0, |folder| folder.len());
    // SAFETY: fcntl(2) takes numbers.
    let is_open = |fd: &c_int| unsafe { libc::fcntl(*fd, libc::F_GETFD) >= 0 };
    let found: Vec<c_int> = (0..FIRST).filter(is_open).take(usize::try_from(count).unwrap_or(0)).collect();
    if count > 0 && found.len() as u64 == count {
        return found;
    }
    let listed = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    listed.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Whether a call still waits: then the thread that makes it is the one that was told of.
pub(crate) fn is_waiting(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: the kernel reads one number.
    unsafe { libc::ioctl(listener.as_raw_fd(), IS_VALID as libc::Ioctl, &raw const id) == 0 }
}

/// Has the kernel go over to the supervisor on the same processor, and back: two to three times as fast (Linux 6.6).
pub(crate) fn wake_up_at_once(listener: BorrowedFd<'_>) {
    /// SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP.
    const SYNC_WAKE_UP: u64 = 1;
    // SAFETY: takes a number by value.
    unsafe { libc::ioctl(listener.as_raw_fd(), SET_FLAGS as libc::Ioctl, SYNC_WAKE_UP) };
}

/// The number (inode) of the socket that a thread has under a descriptor, as proc(5) tells it; none where it has no socket there.
///
/// # Errors
/// EACCES where this process may not look.
pub(crate) fn socket_of(thread: i32, fd: i32) -> Result<Option<u64>, Errno> {
    match std::fs::read_link(format!("/proc/{thread}/fd/{fd}")) {
        Ok(link) => Ok(link.to_str().and_then(|link| link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Errno(error.raw_os_error().unwrap_or(libc::EIO))),
    }
}

/// The kernel writes a page of it at a time, at most.
const MOST_OF_MAPS: usize = 4096;

/// So many bytes from an address on a process may read itself, by its /proc/PID/maps, proc_pid_maps(5).
fn readable(mut maps: impl BufRead, at: u64, length: usize) -> usize {
    let end = at.saturating_add(length as u64);
    let mut reached = at;
    let mut line = Vec::new();
    while reached < end && maps.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        let mut fields = line.split(|byte| b"- ".contains(byte)).map(|field| str::from_utf8(field).unwrap_or_default());
        let mut place = || u64::from_str_radix(fields.next()?, 16).ok();
        let (Some(first), Some(last)) = (place(), place()) else { break };
        let may_be_read = fields.next().is_some_and(|access| access.starts_with('r'));
        line.clear();
        if last <= reached {
            continue;
        }
        if first > reached || !may_be_read {
            break;
        }
        reached = last;
    }
    usize::try_from(reached.min(end) - at).unwrap_or(0)
}

/// What of a process's memory is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All that is there, for a call that the process then makes itself.
    All,
    /// What it may read itself, for a call that is answered in its place.
    Readable,
}

/// Reads another process's memory: the bytes that could be read, process_vm_readv(2); where that is refused, /proc/TID/mem, where the
/// kernel shows also what the process may not read itself: to find that out takes far longer.
///
/// # Errors
/// EFAULT where nothing can be read, EPERM, ESRCH.
pub(crate) fn read_memory(thread: i32, at: u64, into: &mut [u8], extent: Extent) -> Result<usize, Errno> {
    let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    let remote = libc::iovec { iov_base: ptr::without_provenance_mut(at as usize), iov_len: into.len() };
    // SAFETY: process_vm_readv(2) writes into the slice; the other address is another process's.
    let read = unsafe { libc::process_vm_readv(thread, &raw const local, 1, &raw const remote, 1, 0) };
    match checked(read as c_long) {
        // By a seccomp filter, mostly, which says nothing of files.
        Err(Errno(refused @ (libc::EPERM | libc::ENOSYS))) => {
            let open = |name| std::fs::File::open(format!("/proc/{thread}/{name}")).map_err(|_| Errno(refused));
            let length = match extent {
                Extent::All => into.len(),
                Extent::Readable => readable(BufReader::with_capacity(MOST_OF_MAPS, open("maps")?), at, into.len()),
            };
            let into = into.get_mut(..length).filter(|into| !into.is_empty()).ok_or(Errno(libc::EFAULT))?;
            let file = open("mem")?;
            file.read_at(into, at).map_err(|error| Errno(error.raw_os_error().unwrap_or(libc::EIO)))
        }
        read => read.map(|read| read as usize),
    }
}

/// The two sides of a fork.
pub(crate) enum Side {
    /// The process that was there, with the other's id.
    Parent(i32),
    /// The new one.
    Child,
}

/// fork(2). Only for a process with one thread: the child may do whatever the parent may.
///
/// # Errors
/// Those of fork(2).
pub(crate) fn fork() -> Result<Side, Errno> {
    // SAFETY: nothing of another thread's is copied, since there is none.
    match checked(unsafe { libc::fork() }.into())? {
        0 => Ok(Side::Child),
        child => Ok(Side::Parent(child as i32)),
    }
}

/// The same, of which the parent is not told when the child ends: no wait(2) of its own sees it (clone(2), exit signal 0).
///
/// # Errors
/// Those of clone(2).
pub(crate) fn fork_unseen() -> Result<Side, Errno> {
    // SAFETY: as for fork; without flags nothing is shared, and the child goes on on its copy of the stack.
    match checked(unsafe { libc::syscall(libc::SYS_clone, 0, 0, 0, 0, 0) })? {
        0 => Ok(Side::Child),
        child => Ok(Side::Parent(child as i32)),
    }
}

/// Whether this process gets the orphans among its descendants: it is the first of its namespace, or asked for them.
pub(crate) fn adopts_orphans() -> bool {
    let mut is_reaper: c_int = 0;
    // SAFETY: prctl(2) writes one int.
    let result = unsafe { libc::prctl(libc::PR_GET_CHILD_SUBREAPER, &raw mut is_reaper) };
    ffi::process_id() == 1 || (result == 0 && is_reaper != 0)
}

/// Lets a process and its descendants look into this one where Yama would not (PR_SET_PTRACER); without Yama there is nothing
/// to be done.
pub(crate) fn let_look_in(by: i32) {
    // SAFETY: prctl(2) takes numbers.
    unsafe { libc::prctl(libc::PR_SET_PTRACER, by as c_ulong, 0, 0, 0) };
}

/// Where the arguments of this program lie, and their end; zeroes as long as nobody has asked. Children have them in the same place.
static ARGUMENTS: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

/// Gives this process's thread another name, and its command line too, in as far as there is room.
pub(crate) fn rename(name: &CStr) {
    // SAFETY: prctl(2) reads the string up to its NUL.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) };
    if ARGUMENTS[1].load(Relaxed) == 0 {
        let Ok(status) = std::fs::read_to_string("/proc/self/stat") else { return };
        // Behind the name, which may hold anything, the third field and those that follow: arg_start and arg_end are 48 and 49 (proc(5)).
        let fields = status.rsplit(')').next().unwrap_or_default().split_ascii_whitespace().skip(45);
        let places = fields.map(|field| field.parse::<usize>().ok().filter(|place| *place != 0));
        for (place, found) in ARGUMENTS.iter().zip(places) {
            let Some(found) = found else { return };
            place.store(found, Relaxed);
        }
    }
    let [start, end] = ARGUMENTS.each_ref().map(|place| place.load(Relaxed));
    let bytes = name.to_bytes();
    for at in start..end {
        let byte = bytes.get(at - start).copied().filter(|_| at + 1 < end).unwrap_or(0);
        // SAFETY: the arguments' memory lies on this process's stack, may be written, and is not read any more: the command line
        // was parsed before.
        unsafe { ptr::with_exposed_provenance_mut::<u8>(at).write_volatile(byte) };
    }
}

/// Blocks every signal of this process.
pub(crate) fn block_signals() {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset(3) fills the set, which sigprocmask(2) reads.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, all.as_ptr(), ptr::null_mut());
    }
}

/// Closes the descriptors of a range.
pub(crate) fn close_range(first: c_uint, last: c_uint) {
    if ffi::close_range(first, last, 0) < 0 {
        // Before Linux 5.9, or behind a filter. None is open above the limit, mostly.
        for fd in first..=last.min(65_535) {
            // SAFETY: who calls this owns none of them as a value.
            unsafe { libc::close(fd as c_int) };
        }
    }
}

/// Gives back the pages of this program's own file: its code and constants. What is needed from here on is read again when it is
/// used; what only the start needed is no more in this process.
pub(crate) fn give_back_code() {
    /// So many segments are looked at; a program has four or five.
    const MOST: usize = 8;
    type Ranges = [(usize, usize); MOST];
    /// The first object is the program itself.
    unsafe extern "C" fn of_program(object: *mut libc::dl_phdr_info, _size: usize, data: *mut c_void) -> c_int {
        // SAFETY: libc, or the loader, gives what the program was loaded by, and `data` is what was passed along.
        let (object, segments, ranges) = unsafe {
            let object = &*object;
            let segments = std::slice::from_raw_parts(object.dlpi_phdr, object.dlpi_phnum.into());
            (object, segments, &mut *data.cast::<Ranges>())
        };
        let are_read_alone = segments.iter().filter(|one| one.p_type == libc::PT_LOAD && one.p_flags & libc::PF_W == 0);
        for (range, segment) in ranges.iter_mut().zip(are_read_alone) {
            let start = (object.dlpi_addr + segment.p_vaddr) as usize;
            *range = (start, start + segment.p_memsz as usize);
        }
        1
    }
    let mut ranges: Ranges = [(0, 0); MOST];
    // SAFETY: the function writes into the ranges alone.
    unsafe { libc::dl_iterate_phdr(Some(of_program), (&raw mut ranges).cast()) };
    // All are known before the first is given back: the list itself lies in one.
    for (start, end) in ranges {
        let start = start & !4095;
        // SAFETY: pages of the program's file that nobody can have written to: the same bytes are there when they are next read.
        // A start that is no page's, where pages are larger, is refused.
        unsafe { libc::madvise(ptr::with_exposed_provenance_mut(start), end - start, libc::MADV_DONTNEED) };
    }
}

/// Memory that stays the same one over fork.
pub(crate) struct Shared {
    /// The call that is being worked on; all zeroes where there is none.
    pub(crate) call: [AtomicU64; WORDS],
    /// How many were answered.
    pub(crate) answered: AtomicU64,
    /// Whether the guardian looks again and again whether calls are answered: 0 where there were none for a while.
    pub(crate) is_watched: AtomicU64,
    /// The thread whose call kept a worker that had to be ended; 0 where there is none to be told of.
    pub(crate) kept_by: AtomicU64,
    /// One more than the number under which the caller of the present `socket` has the socket already; 0 where it has none.
    pub(crate) given: AtomicU64,
    /// Whether the programs have listened on any port: 0 where they have not.
    pub(crate) has_listened: AtomicU64,
    /// How the programs listened on each port.
    pub(crate) ports: Ports,
}

impl Shared {
    /// Zeroes.
    ///
    /// # Errors
    /// ENOMEM.
    pub(crate) fn new() -> Result<&'static Self, Errno> {
        // SAFETY: a mapping of our own, which is never unmapped; zeroes are valid for atomics, and a page is aligned for all.
        unsafe {
            let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
            let at = libc::mmap(ptr::null_mut(), size_of::<Self>(), access, kind, -1, 0);
            if at == libc::MAP_FAILED { Err(ffi::errno()) } else { Ok(&*at.cast::<Self>()) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{descriptors, readable};
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

    /// Neighbours that may be read are one piece; what may not, and a gap, ends it. Seen to fail: with the letters not looked at.
    #[test]
    fn readable_memory() {
        let maps = "1000-2000 r--p 00000000 fe:00 12   /usr/bin/a - b\n2000-3000 rw-p 00000000 00:00 0\n\
            3000-4000 ---p 00000000 00:00 0\n5000-6000 -w-p 00000000 00:00 0\n6000-7000 r-xp 00000000 00:00 0\n";
        for (at, length, found) in [
            (0x1000, 16, 16),
            (0x1ff8, 16, 16),
            (0x2ffc, 16, 4),
            (0x3000, 4, 0),
            (0x4ffc, 4, 0),
            (0x5000, 4, 0),
            (0x6ffc, 4, 4),
            (0x6ffd, 4, 3),
            (0x7000, 4, 0),
            (0, 4, 0),
            (u64::MAX - 1, 4, 0),
        ] {
            assert_eq!(readable(maps.as_bytes(), at, length), found, "{at:x}");
        }
    }

    /// Seen to fail: without the folder, where there are higher ones than are tried.
    #[test]
    fn descriptors_with_gaps() {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        // Many a shell starts with a limit of 1,024, which may be raised.
        let maximum = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let may_be = |above: &i32| maximum.is_none_or(|most| u64::from(above.unsigned_abs()) < most);
        for above in [700, 4_500].into_iter().filter(may_be) {
            // SAFETY: fcntl(2) takes numbers; the descriptor that it gives is nobody else's.
            let copy = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, above) };
            assert!(copy >= above, "the limit of descriptors is below {above}");
            // SAFETY: as above.
            let copy = unsafe { OwnedFd::from_raw_fd(copy) };
            let found = descriptors();
            assert!(found.contains(&copy.as_raw_fd()) && found.contains(&file.as_raw_fd()), "{above}: {found:?}");
        }
    }
}

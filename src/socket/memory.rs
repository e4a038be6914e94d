//! The program's memory: read as far as the call itself would read it, and no further.
//!
//! A pointer that is none must end in the kernel's EFAULT, not in our SIGSEGV. So the kernel is asked about each page
//! first, but for the one that the hook itself stands on. What is read is read by loads of our own, not by memcpy:
//! sanitizers put theirs in its place, which judges the length that the program gave and the kernel does not need.
#![expect(unsafe_code, reason = "reads where the program points; every block says what makes it sound")]

use std::ffi::{c_char, c_int, c_void};
use std::marker::PhantomData;
use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use crate::address::{Address, LONGEST};
use crate::errno::Errno;
use crate::ffi::errno;

/// No page is smaller, so that what lies within so much lies in one.
const PAGE: usize = 4096;

/// A place on the stack of whoever asks: it lends out the page that it lies in.
pub struct Place(u8);

impl Place {
    /// A place in the caller's own frame.
    #[must_use]
    #[inline(always)]
    pub fn here() -> Self {
        Self(0)
    }

    /// Its page.
    #[must_use]
    #[inline(always)]
    pub fn page(&self) -> Near<'_> {
        let place = ptr::from_ref(&self.0);
        // SAFETY: a reference. Read in truth, so that the page is there: a stack may end here.
        unsafe { ptr::read_volatile(place) };
        Near { page: place as usize / PAGE, place: PhantomData }
    }
}

/// A page that can be read as long as this lives: something in it is borrowed. The arguments of most programs that have
/// them on the stack lie there, some tens of bytes above the hook. Of no other memory is as much certain: the rest of a
/// stack or of the heap may be protected.
#[derive(Debug, Clone, Copy)]
pub struct Near<'a> {
    page: usize,
    place: PhantomData<&'a u8>,
}

impl Near<'_> {
    #[inline(always)]
    fn covers(self, start: usize, length: usize) -> bool {
        let last = start.checked_add(length.saturating_sub(1));
        start / PAGE == self.page && last.is_some_and(|last| last / PAGE == self.page)
    }

    /// Whether so many bytes can be read.
    #[must_use]
    pub fn is_readable(self, start: *const c_void, length: usize) -> bool {
        let start = start as usize;
        let Some(last) = start.checked_add(length.saturating_sub(1)) else { return false };
        let mut at = start;
        length == 0
            || self.covers(start, length)
            || loop {
                let end = at | (PAGE - 1);
                if at / PAGE != self.page && !page_is_readable(at, end.min(last)) {
                    break false;
                }
                if end >= last {
                    break true;
                }
                at = end + 1;
            }
    }

    /// Copies so many bytes, if they can be read.
    #[inline(always)]
    fn bytes<const N: usize>(self, from: *const u8) -> Option<[u8; N]> {
        // SAFETY: in the page that is borrowed, or the kernel has just read from each page. Another thread that unmaps
        // one in this moment races with the program's own call as well.
        (self.covers(from as usize, N) || self.is_readable(from.cast(), N)).then(|| unsafe { load(from) })
    }

    /// The same where it costs nothing: in the page that is borrowed.
    #[inline(always)]
    fn own_bytes<const N: usize>(self, from: *const u8) -> Option<[u8; N]> {
        // SAFETY: in the page that is borrowed.
        self.covers(from as usize, N).then(|| unsafe { load(from) })
    }

    /// Copies a socket address; None where it cannot be read.
    #[must_use]
    pub fn address(self, address: *const libc::sockaddr, length: libc::socklen_t) -> Option<Address> {
        // The page of the family can be read, and is asked about once.
        let known = Self { page: (address as usize).wrapping_add(FAMILY - 1) / PAGE, place: PhantomData };
        read_address(address.cast(), length, |at| self.bytes(at), |at| known.bytes(at), |at| known.bytes(at))
    }

    /// The same for bind(2).
    #[must_use]
    pub fn address_to_bind(self, address: *const libc::sockaddr, length: libc::socklen_t) -> Option<Address> {
        let found = self.address(address, length)?;
        let length = length as usize;
        if !found.is_foreign() || length < V4 {
            return Some(found);
        }
        let of = |beginning: [u8; V4]| Address::of_to_bind(&beginning, length);
        Some(self.bytes(address.cast()).map_or(found, of))
    }

    /// The same where the kernel need not be asked.
    #[must_use]
    #[inline(always)]
    pub fn own_address(self, address: *const libc::sockaddr, length: libc::socklen_t) -> Option<Address> {
        read_address(address.cast(), length, |at| self.own_bytes(at), |at| self.own_bytes(at), |at| self.own_bytes(at))
    }

    /// The address that a message names (`msg_name`); None where there is none to be read.
    #[must_use]
    pub fn message_address(self, message: *const libc::msghdr) -> Option<Address> {
        let message = message.cast::<u8>();
        let name = message.wrapping_add(mem::offset_of!(libc::msghdr, msg_name));
        let length = message.wrapping_add(mem::offset_of!(libc::msghdr, msg_namelen));
        let name = usize::from_ne_bytes(self.bytes(name)?) as *const libc::sockaddr;
        self.address(name, libc::socklen_t::from_ne_bytes(self.bytes(length)?))
    }

    /// Calls for each descriptor that poll(2) waits for to be writable, as long as it is answered with true.
    pub fn writable_of_poll(self, entries: *const libc::pollfd, count: usize, mut call: impl FnMut(c_int) -> bool) {
        const SIZE: usize = size_of::<libc::pollfd>();
        if count.checked_mul(SIZE).is_none_or(|bytes| !self.is_readable(entries.cast(), bytes)) {
            return;
        }
        for at in 0..count {
            // SAFETY: the kernel has just read from each page, see `bytes`.
            let [a, b, c, d, e, f, ..] = unsafe { load::<SIZE>(entries.wrapping_add(at).cast()) };
            let (fd, events) = (c_int::from_ne_bytes([a, b, c, d]), i16::from_ne_bytes([e, f]));
            if fd >= 0 && events & (libc::POLLOUT | libc::POLLWRNORM) != 0 && !call(fd) {
                return;
            }
        }
    }

    /// The same for a set of select(2), of descriptors below `end`. What is beyond a set of the usual size is not looked at: programs
    /// pass the limit of descriptors as well, of which the kernel takes as many as there are.
    pub fn writable_of_select(self, set: *const libc::fd_set, end: c_int, mut call: impl FnMut(c_int) -> bool) {
        const SIZE: usize = size_of::<usize>();
        const BITS: usize = usize::BITS as usize;
        let end = usize::try_from(end).unwrap_or(0).min(libc::FD_SETSIZE);
        let words = end.div_ceil(BITS);
        if set.is_null() || !self.is_readable(set.cast(), words * SIZE) {
            return;
        }
        for at in 0..words {
            // Bits beyond the end need not have been written, and valgrind would judge them.
            let meant = usize::MAX >> (BITS - (end - at * BITS).min(BITS));
            // SAFETY: as above.
            let set = unsafe { load::<SIZE>(set.cast::<u8>().wrapping_add(at * SIZE)) };
            let mut left = usize::from_ne_bytes(set) & meant;
            while left != 0 {
                let fd = (at * BITS) as c_int + left.trailing_zeros() as c_int;
                left &= left - 1;
                if !call(fd) {
                    return;
                }
            }
        }
    }

    /// Copies a text without its NUL; None where it cannot be read or does not fit.
    #[must_use]
    pub fn text(self, from: *const c_char, to: &mut [u8; 256]) -> Option<&[u8]> {
        let from = from.cast::<u8>();
        for index in 0..to.len() {
            let at = from.wrapping_add(index);
            let is_new_page = index == 0 || (at as usize).is_multiple_of(PAGE);
            if is_new_page && !self.is_readable(at.cast(), 1) {
                return None;
            }
            // SAFETY: its page can be read, see `bytes`.
            match unsafe { ptr::read_volatile(at) } {
                0 => return to.get(..index),
                byte => *to.get_mut(index)? = byte,
            }
        }
        None
    }

    /// Copies the address of a host in gethostbyname(3)'s answer; the list that it is in has been read. Mostly both are in one page, which
    /// is not asked about again: an address of 4 bytes is less than the kernel can be asked about, and valgrind judges the rest.
    #[must_use]
    pub fn host_address<const N: usize>(self, list: *const *mut c_char, from: *const c_char) -> Option<[u8; N]> {
        let known = Self { page: list as usize / PAGE, place: PhantomData };
        known.bytes(from.cast())
    }

    /// The pointer at an index of an array; None where it is null or cannot be read.
    #[must_use]
    pub fn pointer<T>(self, array: *const *mut T, index: usize) -> Option<*mut T> {
        let pointer = usize::from_ne_bytes(self.bytes(array.wrapping_add(index).cast())?) as *mut T;
        (!pointer.is_null()).then_some(pointer)
    }

    /// Copies an element of getaddrinfo(3)'s list.
    #[must_use]
    pub fn addrinfo(self, from: *const libc::addrinfo) -> Option<libc::addrinfo> {
        let bytes = self.bytes::<{ size_of::<libc::addrinfo>() }>(from.cast())?;
        // SAFETY: a structure of integers and raw pointers, of any value.
        Some(unsafe { mem::transmute::<[u8; size_of::<libc::addrinfo>()], libc::addrinfo>(bytes) })
    }

    /// Copies what gethostbyname(3) answers.
    #[must_use]
    pub fn hostent(self, from: *const libc::hostent) -> Option<libc::hostent> {
        let bytes = self.bytes::<{ size_of::<libc::hostent>() }>(from.cast())?;
        // SAFETY: as above.
        Some(unsafe { mem::transmute::<[u8; size_of::<libc::hostent>()], libc::hostent>(bytes) })
    }

    /// How many bytes the program has room for where accept(2) tells it the peer: 0 if what is told could not be read
    /// afterwards, when another thread may have seen it and have taken the memory away. To be asked before the call,
    /// which writes there.
    #[must_use]
    #[inline(always)]
    pub fn room_for_peer(self, address: *const libc::sockaddr, length: *const libc::socklen_t) -> libc::socklen_t {
        match self.own_bytes(length.cast()).map(libc::socklen_t::from_ne_bytes) {
            Some(room) if self.covers(address as usize, (room as usize).min(LONGEST)) => room,
            _ => 0,
        }
    }

    /// The peer that a successful accept(2) has told the program, where [`Self::room_for_peer`] was so many bytes
    /// before.
    #[must_use]
    pub fn told_peer(
        self,
        address: *const libc::sockaddr,
        length: *const libc::socklen_t,
        room: libc::socklen_t,
    ) -> Option<Address> {
        let told = libc::socklen_t::from_ne_bytes(self.own_bytes(length.cast()).filter(|_| room > 0)?);
        (told <= room).then(|| self.own_address(address, told)).flatten()
    }
}

/// Copies what lies there.
///
/// # Safety
/// So many bytes can be read.
#[inline(always)]
unsafe fn load<const N: usize>(from: *const u8) -> [u8; N] {
    // SAFETY: as the caller promises. Whatever lies there is bytes.
    unsafe { ptr::read_unaligned(from.cast()) }
}

/// The longest address that the kernel takes, `sizeof(struct sockaddr_storage)`.
const LONGEST_OF_ALL: usize = 128;
/// The family.
const FAMILY: usize = 2;
/// Family, port and address of `struct sockaddr_in`.
const V4: usize = 8;
/// Family, port, flow and address of `struct sockaddr_in6`.
const V6: usize = 24;

/// Reads of an address what says where it is; of all other families nothing but the family.
#[inline(always)]
fn read_address(
    from: *const u8,
    length: libc::socklen_t,
    family: impl FnOnce(*const u8) -> Option<[u8; FAMILY]>,
    v4: impl FnOnce(*const u8) -> Option<[u8; V4]>,
    v6: impl FnOnce(*const u8) -> Option<[u8; V6]>,
) -> Option<Address> {
    let length = usize::try_from(length).ok().filter(|length| (FAMILY..=LONGEST_OF_ALL).contains(length))?;
    let family = family(from)?;
    match i32::from(u16::from_ne_bytes(family)) {
        libc::AF_INET if length >= V4 => Some(Address::of(&v4(from)?, length)),
        libc::AF_INET6 if length >= V6 => Some(Address::of(&v6(from)?, length)),
        _ => Some(Address::of(&family, length)),
    }
}

/// The size of the kernel's `sigset_t`.
const PROBE: usize = 8;

/// Whether the page can be read in which these two bytes lie, by a word between them where there is room for one, since
/// valgrind judges the word.
#[cold]
fn page_is_readable(first: usize, last: usize) -> bool {
    let is_wide = last - first >= PROBE - 1;
    // A word that is aligned lies in one page, the one of the byte in it.
    word_is_readable(if is_wide { first } else { first & !(PROBE - 1) })
}

/// What the kernel is asked by: a filter may refuse the one or the other.
static ASKED_BY: AtomicU8 = AtomicU8::new(BY_MASK);
const BY_MASK: u8 = 0;
const BY_FUTEX: u8 = 1;
const BY_NOTHING: u8 = 2;

/// Whether nothing tells what can be read: a seccomp filter refuses whatever the kernel could be asked by. Then
/// addresses count as unreadable.
#[must_use]
pub fn is_blind() -> bool {
    ASKED_BY.load(Relaxed) == BY_NOTHING
}

/// Whether the 8 bytes at `address` can be read.
fn word_is_readable(address: usize) -> bool {
    if address == 0 {
        return false;
    }
    let by = ASKED_BY.load(Relaxed);
    let answer = if by == BY_MASK { by_mask(address) } else { None };
    answer.unwrap_or_else(|| {
        let answer = by_futex(address);
        let found = if answer.is_some() { BY_FUTEX } else { BY_NOTHING };
        if found != by {
            ASKED_BY.store(found, Relaxed);
        }
        answer.unwrap_or(false)
    })
}

/// rt_sigprocmask(2) copies the set before it finds that there is no such `how` (kernel/signal.c), so it answers EFAULT
/// or EINVAL and changes nothing. Every program calls it, so hardly a seccomp filter forbids it.
fn by_mask(address: usize) -> Option<bool> {
    const NO_SUCH_HOW: c_int = -1;
    // SAFETY: nothing is written, and the kernel checks what it reads.
    let result = unsafe { libc::syscall(libc::SYS_rt_sigprocmask, NO_SUCH_HOW, address, 0, PROBE) };
    answer(result, &[libc::EINVAL])
}

/// futex(2) waits for no time at all if it reads a number that nobody writes there, and not even that otherwise. For
/// filters that look at `how`.
fn by_futex(address: usize) -> Option<bool> {
    const NOBODY_S: u32 = 0x5ca1_ab1e;
    let no_time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let operation = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: nothing is written, and the kernel checks what it reads; aligned as it must be.
    let result =
        unsafe { libc::syscall(libc::SYS_futex, address & !3, operation, NOBODY_S, &raw const no_time, 0_usize, 0) };
    answer(result, &[libc::EAGAIN, libc::ETIMEDOUT, libc::EINTR])
}

/// What an answer says; None where it is none of the kernel's.
fn answer(result: libc::c_long, readable: &[c_int]) -> Option<bool> {
    match errno() {
        _ if result >= 0 => Some(true),
        Errno(libc::EFAULT) => Some(false),
        Errno(other) => readable.contains(&other).then_some(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No page is near.
    fn far() -> Near<'static> {
        Near { page: usize::MAX, place: PhantomData }
    }

    #[test]
    #[cfg_attr(miri, ignore = "asks the kernel, by rt_sigprocmask(2)")]
    fn unreadable_addresses_are_refused() {
        for bad in [0, 1, PAGE - 1, usize::MAX, usize::MAX - 7, 0xffff_8000_0000_0000] {
            assert!(far().address(bad as *const libc::sockaddr, 16).is_none(), "{bad:#x}");
        }
        let good = [2_u8, 0, 0, 80, 10, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0];
        let place = Place::here();
        for near in [far(), place.page()] {
            let copied = near.address(good.as_ptr().cast(), 16).expect("readable");
            assert_eq!(copied.endpoint().map(|e| e.to_string()), Ok("10.1.2.3:80".into()));
            assert!(near.address(good.as_ptr().cast(), 129).is_none(), "the kernel takes none that is longer");
        }
    }

    /// Mapped pages, of which the last is taken away again.
    fn pages(count: usize) -> usize {
        // SAFETY: a fresh mapping.
        unsafe {
            let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            let start = libc::mmap(ptr::null_mut(), count * PAGE, protection, flags, -1, 0);
            libc::munmap(start.byte_add((count - 1) * PAGE), PAGE);
            start as usize
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "asks the kernel, by rt_sigprocmask(2)")]
    fn an_address_that_ends_in_an_unmapped_page_is_refused() {
        let (start, family) = (pages(2), libc::AF_INET as u16);
        let address = |before: usize, length: libc::socklen_t| {
            let at = start + PAGE - before;
            // SAFETY: two bytes of that mapping.
            unsafe { ptr::copy_nonoverlapping(family.to_ne_bytes().as_ptr(), at as *mut u8, 2) };
            far().address(at as *const libc::sockaddr, length)
        };
        assert!(address(16, 16).is_some());
        assert!(address(8, 16).is_some(), "all that is of interest is there");
        assert!(address(7, 16).is_none());
        assert!(address(2, 2).is_some());
        let readable = |before: usize, length| far().is_readable((start + PAGE - before) as *const c_void, length);
        assert!(readable(4, 4) && !readable(4, 5) && readable(PAGE, PAGE) && !readable(PAGE, PAGE + 1));
        assert!(readable(0, 0) && !readable(0, 1));
    }

    #[test]
    #[cfg_attr(miri, ignore = "asks the kernel, by rt_sigprocmask(2)")]
    fn a_hole_between_pages_is_found() {
        let start = pages(4);
        // SAFETY: the page in the middle of that mapping.
        unsafe { libc::munmap((start + PAGE) as *mut c_void, PAGE) };
        assert!(!far().is_readable(start as *const c_void, 3 * PAGE));
        assert!(far().bytes::<{ 3 * PAGE }>(start as *const u8).is_none());
        assert!(far().bytes::<PAGE>((start + 2 * PAGE) as *const u8).is_some());
    }

    #[test]
    #[cfg_attr(miri, ignore = "asks the kernel, by rt_sigprocmask(2)")]
    fn both_ways_to_ask_agree() {
        let start = pages(2);
        for at in [start, start + PAGE - 8, start + PAGE, 8, usize::MAX & !7, 0xffff_8000_0000_0000] {
            assert!(by_mask(at).is_some() && by_mask(at) == by_futex(at), "{at:#x}");
        }
        assert!(!is_blind());
    }

    #[test]
    #[cfg_attr(miri, ignore = "asks the kernel, by rt_sigprocmask(2)")]
    fn texts_up_to_their_end() {
        let start = pages(3);
        let text_at = |at: usize, text: &[u8]| {
            // SAFETY: within the two pages.
            unsafe { ptr::copy_nonoverlapping(text.as_ptr(), at as *mut u8, text.len()) };
            far().text(at as *const c_char, &mut [0; 256]).map(<[u8]>::to_vec)
        };
        assert_eq!(text_at(start + 2 * PAGE - 4, b"abc\0"), Some(b"abc".to_vec()));
        assert_eq!(text_at(start + 2 * PAGE - 1, b"\0"), Some(Vec::new()));
        assert_eq!(text_at(start + 2 * PAGE - 3, b"abc"), None, "no end");
        assert_eq!(text_at(start + PAGE - 2, b"abc\0"), Some(b"abc".to_vec()), "over two pages");
        assert_eq!(text_at(start, &[b'x'; 256]), None, "too long");
        assert_eq!(text_at(start, &[&[b'x'; 255][..], b"\0"].concat()), Some(vec![b'x'; 255]));
    }

    /// Seen to fail with every entry taken for one that is waited for to be writable.
    #[test]
    fn what_poll_waits_for_to_be_writable() {
        #[repr(align(4096))]
        struct Page([libc::pollfd; 6]);
        let entry = |fd, events| libc::pollfd { fd, events, revents: 0 };
        let both = libc::POLLIN | libc::POLLOUT;
        let page = Page([
            entry(3, both),
            entry(4, libc::POLLIN),
            entry(-1, both),
            entry(5, libc::POLLOUT),
            entry(6, 0),
            entry(7, both),
        ]);
        let near = Near { page: page.0.as_ptr() as usize / PAGE, place: PhantomData };
        let found = |count: usize, most: usize| {
            let mut found = Vec::new();
            near.writable_of_poll(page.0.as_ptr(), count, |fd| {
                found.push(fd);
                found.len() < most
            });
            found
        };
        assert_eq!(
            (found(6, 9), found(5, 9), found(6, 2), found(0, 9)),
            (vec![3, 5, 7], vec![3, 5], vec![3, 5], vec![])
        );
        assert_eq!(found(usize::MAX, 9), []);
    }

    /// Seen to fail with the last word left out, and without the end.
    #[test]
    fn what_select_waits_for_to_be_writable() {
        #[repr(align(4096))]
        struct Page([usize; 1024 / usize::BITS as usize]);
        let mut page = Page([0; 1024 / usize::BITS as usize]);
        const BITS: usize = usize::BITS as usize;
        for fd in [0, 1, 63, 64, 900, 1023] {
            page.0[fd / BITS] |= 1 << (fd % BITS);
        }
        let near = Near { page: page.0.as_ptr() as usize / PAGE, place: PhantomData };
        let found = |end: c_int, most: usize| {
            let mut found = Vec::new();
            near.writable_of_select(page.0.as_ptr().cast(), end, |fd| {
                found.push(fd);
                found.len() < most
            });
            found
        };
        assert_eq!(
            (found(1024, 9), found(c_int::MAX, 9)),
            (vec![0, 1, 63, 64, 900, 1023], vec![0, 1, 63, 64, 900, 1023])
        );
        assert_eq!((found(64, 9), found(63, 9), found(901, 2)), (vec![0, 1, 63], vec![0, 1], vec![0, 1]));
        assert_eq!((found(0, 9), found(-5, 9)), (vec![], vec![]));
        near.writable_of_select(ptr::null(), 64, |fd| panic!("{fd}"));
    }
}

//! bpf(2).
#![expect(unsafe_code, reason = "a system call; every block says what makes it sound")]

use std::ffi::{CStr, CString, c_int};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use socket::{Errno, ffi};

use crate::assembler::Instruction;

/// linux/bpf.h, `enum bpf_cmd`.
mod command {
    pub(super) const MAP_CREATE: i32 = 0;
    pub(super) const MAP_LOOKUP: i32 = 1;
    pub(super) const MAP_UPDATE: i32 = 2;
    pub(super) const MAP_NEXT_KEY: i32 = 4;
    pub(super) const PROG_LOAD: i32 = 5;
    pub(super) const OBJ_PIN: i32 = 6;
    pub(super) const OBJ_GET: i32 = 7;
    pub(super) const PROG_GET_FD_BY_ID: i32 = 13;
    pub(super) const OBJ_GET_INFO: i32 = 15;
    pub(super) const PROG_QUERY: i32 = 16;
    pub(super) const BTF_LOAD: i32 = 18;
    pub(super) const MAP_UPDATE_BATCH: i32 = 26;
    pub(super) const LINK_CREATE: i32 = 28;
    pub(super) const LINK_UPDATE: i32 = 29;
    pub(super) const LINK_DETACH: i32 = 34;
}

/// `union bpf_attr`: as many bytes as the newest of the commands above reads.
#[repr(C, align(8))]
struct Attributes([u8; 128]);

impl Attributes {
    fn new() -> Self {
        Self([0; 128])
    }

    fn put(mut self, offset: usize, bytes: &[u8]) -> Self {
        self.0.iter_mut().skip(offset).zip(bytes).for_each(|(to, from)| *to = *from);
        self
    }

    fn number(self, offset: usize, number: u32) -> Self {
        self.put(offset, &number.to_ne_bytes())
    }

    fn descriptor(self, offset: usize, fd: BorrowedFd<'_>) -> Self {
        self.number(offset, fd.as_raw_fd() as u32)
    }

    /// The address of memory that has to outlive the call.
    fn address<T>(self, offset: usize, at: *const T) -> Self {
        self.put(offset, &(at.expose_provenance() as u64).to_ne_bytes())
    }

    fn number_at(&self, offset: usize) -> u32 {
        let bytes = self.0.get(offset..offset + 4).and_then(|bytes| bytes.try_into().ok());
        u32::from_ne_bytes(bytes.unwrap_or_default())
    }

    /// # Safety
    /// What the command reads and writes through addresses must be there, and long enough.
    unsafe fn call(&mut self, command: i32) -> Result<c_int, Errno> {
        // SAFETY: the attributes are 128 bytes, and the caller answers for what they point to.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_mut_ptr(), self.0.len()) };
        if result < 0 { Err(ffi::errno()) } else { Ok(result as c_int) }
    }

    /// # Safety
    /// As for [`Self::call`]; and the command gives a descriptor.
    unsafe fn call_for_descriptor(&mut self, command: i32) -> Result<OwnedFd, Errno> {
        // SAFETY: the caller answers for it; the descriptor is nobody else's.
        unsafe { Ok(OwnedFd::from_raw_fd(self.call(command)?)) }
    }
}

/// linux/bpf.h, `enum bpf_map_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum MapType {
    Hash = 1,
    Array = 2,
    /// Where there is no room, what was asked for least recently goes.
    RecentHash = 9,
    LongestPrefix = 11,
    SocketStorage = 24,
}

/// BPF_F_NO_PREALLOC
pub(crate) const NO_PREALLOCATION: u32 = 1;
/// BPF_F_CLONE: accepted sockets have it from their listener.
pub(crate) const CLONE: u32 = 1 << 9;

/// What a map is to be like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MapForm<'a> {
    pub(crate) kind: MapType,
    pub(crate) key: u32,
    pub(crate) value: u32,
    pub(crate) entries: u32,
    pub(crate) flags: u32,
    pub(crate) name: &'a CStr,
    /// Types of key and value, which only the storage of sockets needs: both are numbers.
    pub(crate) types: Option<BorrowedFd<'a>>,
}

/// Makes a map.
///
/// # Errors
/// Those of bpf(2).
pub(crate) fn create_map(form: &MapForm<'_>) -> Result<OwnedFd, Errno> {
    let mut attributes = Attributes::new()
        .number(0, form.kind as u32)
        .number(4, form.key)
        .number(8, form.value)
        .number(12, form.entries)
        .number(16, form.flags)
        .put(28, form.name.to_bytes().get(..15).unwrap_or(form.name.to_bytes()));
    if let Some(types) = form.types {
        attributes = attributes.descriptor(48, types).number(52, 1).number(56, 2);
    }
    // SAFETY: no addresses.
    unsafe { attributes.call_for_descriptor(command::MAP_CREATE) }
}

/// The types of a socket storage's key (a number of 4 bytes) and value (one of 8), as the kernel wants them (BTF).
///
/// # Errors
/// Those of bpf(2).
pub(crate) fn load_types() -> Result<OwnedFd, Errno> {
    const INTEGER: u32 = 1 << 24;
    const STRINGS: &[u8] = b"\0u32\0u64\0";
    let types: [u32; 8] = [1, INTEGER, 4, 32, 5, INTEGER, 8, 64];
    let types_length = size_of_val(&types) as u32;
    // Magic and version, then the length of the header, and where types and strings lie.
    let head = [0x0001_eb9f, 24, 0, types_length, types_length, STRINGS.len() as u32];
    let mut btf: Vec<u8> = head.iter().chain(&types).flat_map(|number| number.to_ne_bytes()).collect();
    btf.extend(STRINGS);
    let mut attributes = Attributes::new().address(0, btf.as_ptr()).number(16, btf.len() as u32);
    // SAFETY: the kernel reads as many bytes.
    unsafe { attributes.call_for_descriptor(command::BTF_LOAD) }
}

/// Puts a row into a map.
///
/// # Errors
/// Those of bpf(2).
pub(crate) fn update(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> Result<(), Errno> {
    let mut attributes = Attributes::new().descriptor(0, map).address(8, key.as_ptr()).address(16, value.as_ptr());
    // SAFETY: the kernel reads as many bytes of both as the map was made with, and all callers pass those.
    unsafe { attributes.call(command::MAP_UPDATE) }.map(drop)
}

/// ENOTSUPP, which the kernel has for itself.
const NOT_SUPPORTED: i32 = 524;

/// Puts many rows into a map: keys and values one after the other. One by one where the kernel cannot do it at once.
///
/// # Errors
/// Those of bpf(2).
pub(crate) fn update_all(
    map: BorrowedFd<'_>,
    keys: &[u8],
    key: usize,
    values: &[u8],
    value: usize,
) -> Result<(), Errno> {
    let count = keys.len() / key.max(1);
    if count == 0 {
        return Ok(());
    }
    let mut attributes = Attributes::new()
        .address(16, keys.as_ptr())
        .address(24, values.as_ptr())
        .number(32, count as u32)
        .descriptor(36, map);
    // SAFETY: the kernel reads `count` keys and values.
    match unsafe { attributes.call(command::MAP_UPDATE_BATCH) } {
        Ok(_) => Ok(()),
        Err(Errno(libc::EINVAL | NOT_SUPPORTED | libc::EOPNOTSUPP)) => {
            keys.chunks_exact(key).zip(values.chunks_exact(value)).try_for_each(|(key, value)| update(map, key, value))
        }
        Err(errno) => Err(errno),
    }
}

/// Reads a row of a map, whose values have this length.
///
/// # Errors
/// Those of bpf(2).
pub(crate) fn lookup(map: BorrowedFd<'_>, key: &[u8], length: usize) -> Result<Vec<u8>, Errno> {
    let mut value = vec![0; length.next_multiple_of(8)];
    let mut attributes = Attributes::new().descriptor(0, map).address(8, key.as_ptr()).address(16, value.as_mut_ptr());
    // SAFETY: the kernel reads a key, and writes a value of the length that the caller knows from the map.
    unsafe { attributes.call(command::MAP_LOOKUP) }?;
    value.truncate(length);
    Ok(value)
}

/// The key that follows one of a map's, the first if there is none; both have this length.
///
/// # Errors
/// Those of bpf(2): ENOENT behind the last.
pub(crate) fn next_key(map: BorrowedFd<'_>, key: Option<&[u8]>, length: usize) -> Result<Vec<u8>, Errno> {
    let mut next = vec![0; length];
    let mut attributes = Attributes::new().descriptor(0, map).address(16, next.as_mut_ptr());
    if let Some(key) = key {
        attributes = attributes.address(8, key.as_ptr());
    }
    // SAFETY: the kernel reads a key and writes one, of the length that the caller knows from the map.
    unsafe { attributes.call(command::MAP_NEXT_KEY) }?;
    Ok(next)
}

/// The size of a map's values.
///
/// # Errors
/// Those of bpf(2).
pub(crate) fn value_size(map: BorrowedFd<'_>) -> Result<u32, Errno> {
    let info: [u8; 24] = info(map)?;
    Ok(number(&info, 12))
}

/// How many rows a map has room for.
///
/// # Errors
/// Those of bpf(2).
pub(crate) fn entries(map: BorrowedFd<'_>) -> Result<u32, Errno> {
    let info: [u8; 24] = info(map)?;
    Ok(number(&info, 16))
}

/// linux/bpf.h, `enum bpf_prog_type`, and what the kernel is told of the place beforehand (`enum bpf_attach_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProgramType {
    pub(crate) kind: u32,
    pub(crate) place: u32,
}

/// A program that the kernel refuses.
#[derive(Debug)]
pub(crate) struct NotLoaded {
    pub(crate) errno: Errno,
    /// What its verifier says, which may be nothing.
    pub(crate) log: String,
}

/// Loads a program.
///
/// # Errors
/// Why the kernel refuses it.
pub(crate) fn load(kind: ProgramType, name: &str, code: &[Instruction]) -> Result<OwnedFd, NotLoaded> {
    /// Helpers are for programs of this licence, which this one is compatible with.
    const LICENSE: &CStr = c"Dual MIT/GPL";
    let attributes = || {
        Attributes::new()
            .number(0, kind.kind)
            .number(4, code.len() as u32)
            .address(8, code.as_ptr())
            .address(16, LICENSE.as_ptr())
            .put(48, name.as_bytes().get(..15).unwrap_or(name.as_bytes()))
            .number(68, kind.place)
    };
    // SAFETY: the kernel reads the instructions and the string.
    let errno = match unsafe { attributes().call_for_descriptor(command::PROG_LOAD) } {
        Ok(program) => return Ok(program),
        Err(errno) => errno,
    };
    // Again, to be told why.
    let mut log = vec![0_u8; 1 << 20];
    let mut attributes = attributes().number(24, 1).number(28, log.len() as u32).address(32, log.as_mut_ptr());
    // SAFETY: as above; the kernel writes as many bytes of log.
    match unsafe { attributes.call_for_descriptor(command::PROG_LOAD) } {
        Ok(program) => Ok(program),
        Err(_) => {
            let text = CStr::from_bytes_until_nul(&log).map(CStr::to_string_lossy).unwrap_or_default();
            Err(NotLoaded { errno, log: text.trim_end().to_owned() })
        }
    }
}

/// Attaches a program to a control group: in force until the link's last descriptor and pin are gone.
///
/// # Errors
/// Those of bpf(2).
pub(crate) fn create_link(program: BorrowedFd<'_>, group: BorrowedFd<'_>, place: u32) -> Result<OwnedFd, Errno> {
    let mut attributes = Attributes::new().descriptor(0, program).descriptor(4, group).number(8, place);
    // SAFETY: no addresses.
    unsafe { attributes.call_for_descriptor(command::LINK_CREATE) }
}

/// Puts another program in place of a link's, at once.
///
/// # Errors
/// Those of bpf(2).
pub(crate) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut attributes = Attributes::new().descriptor(0, link).descriptor(4, program);
    // SAFETY: no addresses.
    unsafe { attributes.call(command::LINK_UPDATE) }.map(drop)
}

/// Takes a link's program off its control group, whoever else has the link.
///
/// # Errors
/// Those of bpf(2).
pub(crate) fn detach_link(link: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut attributes = Attributes::new().descriptor(0, link);
    // SAFETY: no addresses.
    unsafe { attributes.call(command::LINK_DETACH) }.map(drop)
}

fn path(path: &Path) -> Result<CString, Errno> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno(libc::EINVAL))
}

/// Gives a map, program or link a name in a BPF file system.
///
/// # Errors
/// Those of bpf(2).
pub(crate) fn pin(object: BorrowedFd<'_>, at: &Path) -> Result<(), Errno> {
    let at = path(at)?;
    let mut attributes = Attributes::new().address(0, at.as_ptr()).descriptor(8, object);
    // SAFETY: the kernel reads the string.
    unsafe { attributes.call(command::OBJ_PIN) }.map(drop)
}

/// Opens what has a name.
///
/// # Errors
/// Those of bpf(2).
pub(crate) fn open_pin(at: &Path) -> Result<OwnedFd, Errno> {
    let at = path(at)?;
    let mut attributes = Attributes::new().address(0, at.as_ptr());
    // SAFETY: the kernel reads the string.
    unsafe { attributes.call_for_descriptor(command::OBJ_GET) }
}

fn info<const N: usize>(object: BorrowedFd<'_>) -> Result<[u8; N], Errno> {
    #[repr(C, align(8))]
    struct Info<const N: usize>([u8; N]);
    let mut info = Info([0_u8; N]);
    let mut attributes = Attributes::new().descriptor(0, object).number(4, N as u32).address(8, info.0.as_mut_ptr());
    // SAFETY: the kernel writes at most N bytes; zeroes in it tell it of no further memory.
    unsafe { attributes.call(command::OBJ_GET_INFO) }?;
    Ok(info.0)
}

fn number(bytes: &[u8], at: usize) -> u32 {
    let bytes = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    u32::from_ne_bytes(bytes.unwrap_or_default())
}

/// What is known of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LinkInfo {
    pub(crate) program: u32,
    /// Its control group, 0 where that is gone.
    pub(crate) group: u64,
    pub(crate) place: u32,
}

/// Asks for it.
///
/// # Errors
/// Those of bpf(2).
pub(crate) fn link_info(link: BorrowedFd<'_>) -> Result<LinkInfo, Errno> {
    let info: [u8; 32] = info(link)?;
    let group = u64::from(number(&info, 16)) | u64::from(number(&info, 20)) << 32;
    let group = if cfg!(target_endian = "big") { group.rotate_left(32) } else { group };
    Ok(LinkInfo { program: number(&info, 8), group, place: number(&info, 24) })
}

/// A program by its number.
///
/// # Errors
/// Those of bpf(2).
pub(crate) fn program_by_id(id: u32) -> Result<OwnedFd, Errno> {
    let mut attributes = Attributes::new().number(0, id);
    // SAFETY: no addresses.
    unsafe { attributes.call_for_descriptor(command::PROG_GET_FD_BY_ID) }
}

/// The number and the name of a program.
///
/// # Errors
/// Those of bpf(2).
pub(crate) fn program_info(program: BorrowedFd<'_>) -> Result<(u32, String), Errno> {
    let info: [u8; 80] = info(program)?;
    let name = info.get(64..).unwrap_or_default();
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok((number(&info, 4), String::from_utf8_lossy(name).into_owned()))
}

/// The programs that are attached to a control group itself, and how (BPF_F_ALLOW_OVERRIDE, BPF_F_ALLOW_MULTI, or neither).
///
/// # Errors
/// Those of bpf(2).
pub(crate) fn query(group: BorrowedFd<'_>, place: u32) -> Result<(u32, Vec<u32>), Errno> {
    let mut ids = [0_u32; 64];
    let mut attributes = Attributes::new()
        .descriptor(0, group)
        .number(4, place)
        .address(16, ids.as_mut_ptr())
        .number(24, ids.len() as u32);
    // SAFETY: the kernel writes at most as many numbers.
    match unsafe { attributes.call(command::PROG_QUERY) } {
        // Those that there is room for.
        Ok(_) | Err(Errno(libc::ENOSPC)) => {}
        Err(errno) => return Err(errno),
    }
    let count = (attributes.number_at(24) as usize).min(ids.len());
    Ok((attributes.number_at(12), ids.iter().take(count).copied().collect()))
}

/// A descriptor, borrowed.
pub(crate) fn borrowed(fd: &OwnedFd) -> BorrowedFd<'_> {
    fd.as_fd()
}

/// Makes a socket in another control group, from which it connects to nowhere: the port is the discard service's, and a program
/// is expected to refuse it. `members` is the group's file of processes, open for writing.
///
/// # Errors
/// Those of fork(2), and what the other process met: the error of write(2), if it cannot enter the group.
pub(crate) fn connect_within(members: BorrowedFd<'_>, is_v6: bool) -> Result<(), Errno> {
    const DISCARD: u16 = 9;
    // SAFETY: sockaddr_in and sockaddr_in6 may be all zeroes.
    let (mut v4, mut v6): (libc::sockaddr_in, libc::sockaddr_in6) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    v4.sin_family = libc::AF_INET as libc::sa_family_t;
    v4.sin_port = DISCARD.to_be();
    v4.sin_addr.s_addr = u32::from(std::net::Ipv4Addr::LOCALHOST).to_be();
    v6.sin6_family = libc::AF_INET6 as libc::sa_family_t;
    v6.sin6_port = DISCARD.to_be();
    v6.sin6_addr.s6_addr = std::net::Ipv6Addr::LOCALHOST.octets();
    // SAFETY: what the child does is allowed after a fork whatever other threads do: system calls alone, on memory of its own.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: as above; the addresses are as long as is said.
        unsafe {
            if libc::write(members.as_raw_fd(), c"0".as_ptr().cast(), 1) != 1 {
                libc::_exit(ffi::errno().0);
            }
            let family = if is_v6 { libc::AF_INET6 } else { libc::AF_INET };
            let socket = libc::socket(family, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, libc::IPPROTO_TCP);
            if socket < 0 {
                libc::_exit(libc::ENOTCONN);
            }
            if is_v6 {
                libc::connect(socket, (&raw const v6).cast(), size_of_val(&v6) as libc::socklen_t);
            } else {
                libc::connect(socket, (&raw const v4).cast(), size_of_val(&v4) as libc::socklen_t);
            }
            libc::_exit(0);
        }
    }
    if child < 0 {
        return Err(ffi::errno());
    }
    let mut status = 0;
    // SAFETY: waitpid(2) writes one int; the child is ours.
    while unsafe { libc::waitpid(child, &raw mut status, 0) } < 0 {
        match ffi::errno() {
            Errno(libc::EINTR) => {}
            errno => return Err(errno),
        }
    }
    match libc::WEXITSTATUS(status) {
        0 if libc::WIFEXITED(status) => Ok(()),
        0 => Err(Errno(libc::ENOTCONN)),
        errno => Err(Errno(errno)),
    }
}

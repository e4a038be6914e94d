//! What not every glibc has in its libc.so.6: so that one library loads in all of them (docs/design.md).
//!
//! Assembly gives the symbols their names: what Rust exports by name would be seen by the program as well.
#![expect(unsafe_code, reason = "symbols for the linker, and functions that only the loader knows")]

use std::arch::global_asm;
#[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
use std::ffi::c_int;
use std::ffi::{c_char, c_void};
use std::ptr;

use crate::elf;

global_asm!(
    // Before 2.34 they are in libdl, which few programs have; where it is missing, the addresses are 0.
    ".weak dlsym",
    ".weak dlerror",
    ".pushsection .data.rel.ro.sockopt_dlsym,\"aw\",@progbits",
    ".balign 8",
    ".hidden sockopt_dlsym",
    ".globl sockopt_dlsym",
    "sockopt_dlsym: .quad dlsym",
    ".hidden sockopt_dlerror",
    ".globl sockopt_dlerror",
    "sockopt_dlerror: .quad dlerror",
    ".popsection",
);

unsafe extern "C" {
    static sockopt_dlsym: usize;
    static sockopt_dlerror: Option<unsafe extern "C" fn() -> *const c_char>;
}

/// Whether this libc has dlsym(3) in reach.
pub(crate) fn has_dlsym() -> bool {
    // SAFETY: a constant that the loader has filled in.
    unsafe { ptr::read_volatile(&raw const sockopt_dlsym) != 0 }
}

/// Forgets that a function was not found: the program would be told in its own first dlerror(3).
pub(crate) fn forget_error() {
    // SAFETY: a constant that the loader has filled in; dlerror(3) takes nothing.
    unsafe {
        if let Some(dlerror) = ptr::read_volatile(&raw const sockopt_dlerror) {
            dlerror();
        }
    }
}

/// The next definition of a function in the objects after ours, in the loader's order: dlsym(3)'s RTLD_NEXT by hand,
/// for programs without libdl. The name ends in NUL.
pub(crate) fn next_definition(name: &'static str) -> *mut c_void {
    let (name, mut is_behind_us, mut found) = (name.trim_end_matches('\0').as_bytes(), false, ptr::null_mut());
    elf::locked(|objects| {
        objects.each(|object| {
            if is_behind_us {
                found = object.object().map_or(ptr::null_mut(), |object| object.definition(name));
            }
            is_behind_us |= object.is_this_library();
            found.is_null()
        });
    });
    found
}

/// What a function's name means to who has got this handle from dlopen(3), null if nothing; the name ends in NUL.
pub(crate) fn definition_for(handle: *mut c_void, name: &str) -> *mut c_void {
    if !has_dlsym() || !name.ends_with('\0') {
        return ptr::null_mut();
    }
    // SAFETY: dlsym(3) with a handle that the program has just got, and a name that ends in NUL.
    let found = unsafe { libc::dlsym(handle, name.as_ptr().cast()) };
    if found.is_null() {
        forget_error();
    }
    found
}

/// What glibc's `_dl_find_object` (2.35) fills in, dlfcn.h.
#[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
#[repr(C)]
struct FoundObject {
    flags: u64,
    start: usize,
    end: usize,
    link_map: usize,
    eh_frame_header: usize,
    reserved: [u64; 7],
}

#[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
const PT_GNU_EH_FRAME: u32 = 0x6474_e550;

/// Tells the unwinder that is linked in where the unwinding tables are: those of this library, since a panic of ours
/// is caught before it leaves. GCC's asks glibc 2.35 and up by this name; here nobody is asked, and no lock is taken.
#[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
extern "C" fn find_object(address: usize, result: &mut FoundObject) -> c_int {
    let (segments, base) = (elf::own_segments(), elf::own_base());
    let loaded = segments.iter().filter(|segment| segment.p_type == libc::PT_LOAD);
    let end = base + loaded.map(|segment| (segment.p_vaddr + segment.p_memsz) as usize).max().unwrap_or(0);
    let tables = segments.iter().find(|segment| segment.p_type == PT_GNU_EH_FRAME);
    let Some(tables) = tables.filter(|_| (base..end).contains(&address)) else { return -1 };
    *result = FoundObject {
        flags: 0,
        start: base,
        end,
        link_map: 0,
        eh_frame_header: base + tables.p_vaddr as usize,
        reserved: [0; 7],
    };
    0
}

// x86-64 only: elsewhere glibc's structure has another shape, and no glibc is older than these functions' names.
#[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
global_asm!(
    ".macro sockopt_own name",
    ".hidden \\name",
    ".globl \\name",
    ".type \\name, @function",
    "\\name:",
    ".endm",
    ".macro sockopt_call name number",
    "sockopt_own \\name",
    "mov r9, r8",
    "mov r8, rcx",
    "mov rcx, rdx",
    "mov rdx, rsi",
    "mov rsi, rdi",
    "mov edi, \\number",
    "xor eax, eax",
    "jmp [rip + syscall@GOTPCREL]",
    ".endm",
    ".pushsection .text.sockopt_libc_compat,\"ax\",@progbits",
    "sockopt_own _dl_find_object",
    "jmp {find_object}",
    // Before 2.33 these had no symbols of their own.
    "sockopt_call stat64 {stat}",
    "sockopt_call fstat64 {fstat}",
    // What the loader need not look up when a program starts: the system calls that std makes, by syscall(2).
    "sockopt_call getpid {getpid}",
    "sockopt_call ioctl {ioctl}",
    "sockopt_call lseek64 {lseek}",
    "sockopt_call madvise {madvise}",
    "sockopt_call mprotect {mprotect}",
    "sockopt_call munmap {munmap}",
    "sockopt_call open64 {open}",
    "sockopt_call read {read}",
    "sockopt_call readlink {readlink}",
    "sockopt_call write {write}",
    "sockopt_own bcmp",
    "jmp [rip + memcmp@GOTPCREL]",
    "sockopt_own mmap64",
    "jmp [rip + mmap@GOTPCREL]",
    // For std's backtraces alone, which nobody asks for here: null.
    "sockopt_own getcwd",
    "sockopt_own realpath",
    "xor eax, eax",
    "ret",
    ".popsection",
    find_object = sym find_object,
    stat = const libc::SYS_stat,
    fstat = const libc::SYS_fstat,
    getpid = const libc::SYS_getpid,
    ioctl = const libc::SYS_ioctl,
    lseek = const libc::SYS_lseek,
    madvise = const libc::SYS_madvise,
    mprotect = const libc::SYS_mprotect,
    munmap = const libc::SYS_munmap,
    open = const libc::SYS_open,
    read = const libc::SYS_read,
    readlink = const libc::SYS_readlink,
    write = const libc::SYS_write,
);

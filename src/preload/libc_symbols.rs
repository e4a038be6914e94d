//! Functions that glibc has had for a few years only, or that cost the loader a look-up: our own, so that one library loads in
//! glibc from 2.17 on and in musl (docs/design.md). Nobody else sees them.
#![expect(unsafe_code, reason = "symbols for the linker")]

use std::arch::global_asm;
use std::ffi::c_int;

use crate::elf;

/// What glibc's `_dl_find_object` (2.35) fills in, dlfcn.h: the same on x86-64 and aarch64, where it has neither a base for data
/// (`DLFO_STRUCT_HAS_EH_DBASE`) nor a count (`DLFO_STRUCT_HAS_EH_COUNT`).
#[repr(C)]
struct FoundObject {
    flags: u64,
    start: usize,
    end: usize,
    link_map: usize,
    eh_frame_header: usize,
    reserved: [u64; 7],
}

const PT_GNU_EH_FRAME: u32 = 0x6474_e550;

/// Tells the unwinder that is linked in where the unwinding tables are: those of this library, since a panic of ours
/// is caught before it leaves. GCC's asks glibc 2.35 and up by this name; here nobody is asked, and no lock is taken.
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

/// The functions, made of what a machine needs for it: `sockopt_call` makes a system call of a function's arguments, by
/// syscall(2); `sockopt_jump` goes on in a function of libc; `sockopt_zero` returns 0.
macro_rules! symbols {
    ([$($machine:literal,)*] [$($own:literal,)*] $($name:ident = $number:ident,)*) => {
        global_asm!(
            ".macro sockopt_own name, binding=globl",
            ".hidden \\name",
            ".\\binding \\name",
            ".type \\name, %function",
            "\\name:",
            ".endm",
            $($machine,)*
            ".pushsection .text.sockopt_libc_compat,\"ax\",%progbits",
            ".balign 4",
            // What the loader need not look up when a program starts: the system calls that std makes. Before 2.33 fstat64
            // and stat64 had no symbols of their own. Nor are they those of another preload library, which may not be ready.
            "sockopt_call fstat64 {fstat}",
            "sockopt_call getpid {getpid}",
            "sockopt_call gettid {gettid}, weak",
            "sockopt_call ioctl {ioctl}",
            "sockopt_call lseek64 {lseek}",
            "sockopt_call madvise {madvise}",
            "sockopt_call mprotect {mprotect}",
            "sockopt_call munmap {munmap}",
            "sockopt_call read {read}",
            "sockopt_call statx {statx}, weak",
            "sockopt_call write {write}",
            $($own,)*
            "sockopt_jump bcmp memcmp",
            "sockopt_jump mmap64 mmap",
            // For std's backtraces alone, which nobody asks for here: null.
            "sockopt_own getcwd",
            "sockopt_zero realpath",
            ".popsection",
            find_object = sym find_object,
            fstat = const libc::SYS_fstat,
            getpid = const libc::SYS_getpid,
            gettid = const libc::SYS_gettid,
            ioctl = const libc::SYS_ioctl,
            lseek = const libc::SYS_lseek,
            madvise = const libc::SYS_madvise,
            mprotect = const libc::SYS_mprotect,
            munmap = const libc::SYS_munmap,
            read = const libc::SYS_read,
            statx = const libc::SYS_statx,
            write = const libc::SYS_write,
            $($name = const libc::$number,)*
        );
    };
}

#[cfg(target_arch = "x86_64")]
symbols! {
    [
        ".macro sockopt_call name, number, binding=globl",
        "sockopt_own \\name, \\binding",
        "mov r9, r8",
        "mov r8, rcx",
        "mov rcx, rdx",
        "mov rdx, rsi",
        "mov rsi, rdi",
        "mov edi, \\number",
        "xor eax, eax",
        "jmp [rip + syscall@GOTPCREL]",
        ".endm",
        ".macro sockopt_jump name other",
        "sockopt_own \\name",
        "jmp [rip + \\other@GOTPCREL]",
        ".endm",
        ".macro sockopt_zero name",
        "sockopt_own \\name",
        "xor eax, eax",
        "ret",
        ".endm",
    ]
    [
        "sockopt_own _dl_find_object",
        "jmp {find_object}",
        "sockopt_call stat64 {stat}",
        "sockopt_call open64 {open}",
        "sockopt_call readlink {readlink}",
    ]
    stat = SYS_stat,
    open = SYS_open,
    readlink = SYS_readlink,
}

// The kernel has no stat, open and readlink here, but what takes a folder first: AT_FDCWD, the current one.
#[cfg(target_arch = "aarch64")]
symbols! {
    [
        ".macro sockopt_go_on other",
        "adrp x16, :got:\\other",
        "ldr x16, [x16, :got_lo12:\\other]",
        "br x16",
        ".endm",
        ".macro sockopt_call name, number, binding=globl",
        "sockopt_own \\name, \\binding",
        "mov x6, x5",
        "mov x5, x4",
        "mov x4, x3",
        "mov x3, x2",
        "mov x2, x1",
        "mov x1, x0",
        "mov x0, #\\number",
        "sockopt_go_on syscall",
        ".endm",
        ".macro sockopt_call_in_folder name number",
        "sockopt_own \\name",
        "mov x4, x2",
        "mov x3, x1",
        "mov x2, x0",
        "mov x1, #{folder}",
        "mov x0, #\\number",
        "sockopt_go_on syscall",
        ".endm",
        ".macro sockopt_jump name other",
        "sockopt_own \\name",
        "sockopt_go_on \\other",
        ".endm",
        ".macro sockopt_zero name",
        "sockopt_own \\name",
        "mov x0, #0",
        "ret",
        ".endm",
    ]
    [
        "sockopt_own _dl_find_object",
        "b {find_object}",
        // No flags.
        "sockopt_own stat64",
        "mov x2, #0",
        "sockopt_call_in_folder sockopt_fstatat {fstatat}",
        "sockopt_call_in_folder open64 {openat}",
        "sockopt_call_in_folder readlink {readlinkat}",
    ]
    fstatat = SYS_newfstatat,
    openat = SYS_openat,
    readlinkat = SYS_readlinkat,
    folder = AT_FDCWD,
}

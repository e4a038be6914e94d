//! What not every glibc has in its libc.so.6: so that one library loads in all of them (src/README.md).
//!
//! Assembly gives the symbols their names: what Rust exports by name would be seen by the program as well.
#![expect(unsafe_code, reason = "symbols for the linker, and the loader's own tables")]

use std::arch::global_asm;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::slice;

use libc::dl_phdr_info;

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
    /// The library's own ELF header, made by the linker.
    static __ehdr_start: elf::Header;
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
    struct Search {
        name: &'static str,
        behind_us: bool,
        found: *mut c_void,
    }
    unsafe extern "C" fn visit(info: *mut dl_phdr_info, _: libc::size_t, search: *mut c_void) -> c_int {
        // SAFETY: dl_iterate_phdr(3) passes a description that lives for this call, and our own pointer.
        let (info, search) = unsafe { (&*info, &mut *search.cast::<Search>()) };
        if search.behind_us {
            // SAFETY: an object that is loaded; the loader holds its lock meanwhile.
            search.found = unsafe { elf::definition(info, search.name) };
        }
        search.behind_us |= info.dlpi_addr == own_base() as u64;
        c_int::from(!search.found.is_null())
    }
    let mut search = Search { name, behind_us: false, found: ptr::null_mut() };
    // SAFETY: dl_iterate_phdr(3) with a callback of its type, and a pointer that outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut search).cast()) };
    search.found
}

fn own_base() -> usize {
    // Our first segment begins with the header, at address 0 of the file.
    &raw const __ehdr_start as usize
}

/// ELF's tables, elf(5).
mod elf {
    use super::{CStr, c_char, c_void, dl_phdr_info, ptr, slice};
    use libc::{Elf64_Ehdr, Elf64_Sym};

    pub(super) type Header = Elf64_Ehdr;

    const DT_STRTAB: u64 = 5;
    const DT_SYMTAB: u64 = 6;
    const DT_GNU_HASH: u64 = 0x6fff_fef5;
    const DT_VERSYM: u64 = 0x6fff_fff0;
    const STT_FUNC: u8 = 2;
    /// Of a version that is kept for old programs alone.
    const HIDDEN: u16 = 0x8000;

    /// The default version of a function in an object, null if it has none.
    ///
    /// # Safety
    /// The object must be loaded by glibc and stay so during the call.
    pub(super) unsafe fn definition(object: &dl_phdr_info, name: &str) -> *mut c_void {
        let base = object.dlpi_addr as usize;
        // SAFETY: all of it is the object's own tables, where its dynamic section says they are; the hash table is
        // walked as the loader walks it.
        unsafe {
            let segments = slice::from_raw_parts(object.dlpi_phdr, usize::from(object.dlpi_phnum));
            let Some(dynamic) = segments.iter().find(|segment| segment.p_type == libc::PT_DYNAMIC) else {
                return ptr::null_mut();
            };
            let (mut strings, mut symbols, mut hashes, mut versions) = (0, 0, 0, 0);
            let mut entry = (base + dynamic.p_vaddr as usize) as *const [u64; 2];
            while (*entry)[0] != 0 {
                let [tag, value] = *entry;
                // The loader relocates these, but for the kernel's own object.
                let address = if (value as usize) < base { base + value as usize } else { value as usize };
                match tag {
                    DT_STRTAB => strings = address,
                    DT_SYMTAB => symbols = address,
                    DT_GNU_HASH => hashes = address,
                    DT_VERSYM => versions = address,
                    _ => {}
                }
                entry = entry.add(1);
            }
            if strings == 0 || symbols == 0 || hashes == 0 {
                return ptr::null_mut();
            }
            let name = name.trim_end_matches('\0');
            let hash = name.bytes().fold(5381_u32, |hash, byte| hash.wrapping_mul(33).wrapping_add(byte.into()));
            let [buckets, first, bloom, _] = *(hashes as *const [u32; 4]);
            if buckets == 0 {
                return ptr::null_mut();
            }
            let bucket = (hashes + 16 + bloom as usize * 8) as *const u32;
            let chain = bucket.add(buckets as usize);
            let mut index = *bucket.add((hash % buckets) as usize);
            while index >= first {
                let end_and_hash = *chain.add((index - first) as usize);
                let symbol = &*(symbols as *const Elf64_Sym).add(index as usize);
                let is_default = versions == 0 || *(versions as *const u16).add(index as usize) & HIDDEN == 0;
                if end_and_hash | 1 == hash | 1
                    && symbol.st_shndx != 0
                    && symbol.st_info & 15 == STT_FUNC
                    && is_default
                    && CStr::from_ptr((strings + symbol.st_name as usize) as *const c_char).to_bytes()
                        == name.as_bytes()
                {
                    return (base + symbol.st_value as usize) as *mut c_void;
                }
                if end_and_hash & 1 != 0 {
                    break;
                }
                index += 1;
            }
            ptr::null_mut()
        }
    }

    /// The segments of the object that a header begins.
    ///
    /// # Safety
    /// It must be the header of a loaded object whose first segment begins with it.
    #[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
    pub(super) unsafe fn segments(header: &Header) -> &[libc::Elf64_Phdr] {
        let start = ptr::from_ref(header) as usize + header.e_phoff as usize;
        // SAFETY: the program headers lie in the first segment, behind the header.
        unsafe { slice::from_raw_parts(start as *const libc::Elf64_Phdr, usize::from(header.e_phnum)) }
    }
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
    // SAFETY: our own header.
    let segments = unsafe { elf::segments(&__ehdr_start) };
    let base = own_base();
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
    ".pushsection .text.sockopt_portable,\"ax\",@progbits",
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

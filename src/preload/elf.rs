//! The objects that the loader has loaded, and their tables, elf(5): read where they lie.
#![expect(unsafe_code, reason = "the loader's own tables")]

use std::any::Any;
use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::{ptr, slice};

use libc::{Elf64_Ehdr, Elf64_Phdr, Elf64_Rela, Elf64_Sym, dl_phdr_info};

const DT_NEEDED: u64 = 1;
const DT_PLTRELSZ: u64 = 2;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_RELA: u64 = 7;
const DT_RELASZ: u64 = 8;
const DT_SONAME: u64 = 14;
const DT_RPATH: u64 = 15;
const DT_JMPREL: u64 = 23;
const DT_RUNPATH: u64 = 29;
const DT_GNU_HASH: u64 = 0x6fff_fef5;
const DT_VERSYM: u64 = 0x6fff_fff0;
const DT_FLAGS_1: u64 = 0x6fff_fffb;
const DF_1_NODEFLIB: u64 = 0x800;
const STT_FUNC: u8 = 2;
/// Of a version that is kept for old programs alone.
const HIDDEN: u16 = 0x8000;

/// Relocations that leave the address of a function: in the table for lazy binding, in that for the rest, in the
/// object's data.
#[cfg(target_arch = "x86_64")]
const KINDS: [u64; 3] = [7, 6, 1]; // R_X86_64_JUMP_SLOT, R_X86_64_GLOB_DAT, R_X86_64_64
#[cfg(target_arch = "aarch64")]
const KINDS: [u64; 3] = [1026, 1025, 257]; // R_AARCH64_JUMP_SLOT, R_AARCH64_GLOB_DAT, R_AARCH64_ABS64

unsafe extern "C" {
    /// The library's own ELF header, made by the linker.
    static __ehdr_start: Elf64_Ehdr;
}

/// Where this library lies: our first segment begins with the header, at address 0 of the file.
pub(crate) fn own_base() -> usize {
    &raw const __ehdr_start as usize
}

/// This library's segments.
pub(crate) fn own_segments() -> &'static [Elf64_Phdr] {
    // SAFETY: the program headers lie in our first segment, where the header says.
    unsafe {
        let start = own_base() + __ehdr_start.e_phoff as usize;
        slice::from_raw_parts(start as *const Elf64_Phdr, usize::from(__ehdr_start.e_phnum))
    }
}

/// Whether an address lies in this library.
pub(crate) fn is_own(address: usize) -> bool {
    own_segments()
        .iter()
        .filter(|segment| segment.p_type == libc::PT_LOAD)
        .any(|segment| place_of(own_base(), segment).contains(&address))
}

/// The loader's list, which nobody changes meanwhile.
pub(crate) struct Objects<'lock> {
    /// How many were unloaded since the process began.
    pub(crate) unloaded: u64,
    _lock: PhantomData<Cell<&'lock ()>>,
}

/// Runs `work` while the loader holds the lock of its list. Nothing may be loaded, nor looked up by dlsym(3), in that.
pub(crate) fn locked<R>(work: impl FnOnce(&Objects<'_>) -> R) -> Option<R> {
    let (mut work, mut result) = (Some(work), None);
    iterate(|info| {
        result = work.take().map(|work| work(&Objects { unloaded: info.dlpi_subs, _lock: PhantomData }));
        false
    });
    result
}

/// A look at each object, until one says false, and the panic that one of them was.
struct Visit<F> {
    look: F,
    panic: Option<Box<dyn Any + Send>>,
}

/// dl_iterate_phdr(3).
fn iterate<F: FnMut(&dl_phdr_info) -> bool>(look: F) {
    unsafe extern "C" fn call<F: FnMut(&dl_phdr_info) -> bool>(
        info: *mut dl_phdr_info,
        _: libc::size_t,
        visit: *mut c_void,
    ) -> c_int {
        // SAFETY: dl_iterate_phdr(3) passes a description that lives for this call, and our own pointer.
        let (info, visit) = unsafe { (&*info, &mut *visit.cast::<Visit<F>>()) };
        // The loader would keep its lock.
        let goes_on = catch_unwind(AssertUnwindSafe(|| (visit.look)(info)));
        c_int::from(!goes_on.unwrap_or_else(|panic| {
            visit.panic = Some(panic);
            false
        }))
    }
    let mut visit = Visit { look, panic: None };
    // SAFETY: dl_iterate_phdr(3) with a callback of its type, and a pointer that outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(call::<F>), (&raw mut visit).cast()) };
    if let Some(panic) = visit.panic {
        resume_unwind(panic);
    }
}

impl<'lock> Objects<'lock> {
    /// Calls for each object in the order in which they were loaded, the program first, until that says false.
    pub(crate) fn each(&self, mut visit: impl FnMut(Listed<'lock>) -> bool) {
        // SAFETY: on the list, of which nobody takes it while the lock is held.
        iterate(|info| visit(unsafe { Listed::of(info) }));
    }
}

/// An object on the list, which stays loaded for `'lock`.
#[derive(Clone, Copy)]
pub(crate) struct Listed<'lock> {
    base: usize,
    /// The file, empty for the program.
    name: &'lock CStr,
    segments: &'lock [Elf64_Phdr],
}

/// One whose tables have been found.
#[derive(Clone, Copy)]
pub(crate) struct Object<'lock> {
    listed: Listed<'lock>,
    dynamic: Dynamic<'lock>,
    symbols: usize,
    hashes: usize,
    versions: usize,
    relocations: [Table; 2],
    pub(crate) search: Search,
}

/// The start of a table and its size in bytes.
type Table = (usize, usize);

/// What an object says of where the libraries that it asks for are looked up, ld.so(8).
#[derive(Clone, Copy, Default)]
pub(crate) struct Search {
    pub(crate) rpath: bool,
    pub(crate) runpath: bool,
    /// Nothing of the system's.
    pub(crate) no_default: bool,
}

/// An object's dynamic section: pairs of tag and value, the last tag is 0.
#[derive(Clone, Copy)]
pub(crate) struct Dynamic<'lock> {
    start: usize,
    strings: usize,
    _lock: PhantomData<&'lock ()>,
}

impl<'lock> Dynamic<'lock> {
    fn entries(self) -> impl Iterator<Item = [u64; 2]> {
        let mut entry = self.start as *const [u64; 2];
        std::iter::from_fn(move || {
            // SAFETY: the section of an object that is loaded for `'lock`; nothing is read behind its end.
            let [tag, value] = unsafe { *entry };
            entry = entry.wrapping_add(1);
            (tag != 0).then_some([tag, value])
        })
    }

    fn text(self, offset: u64) -> &'lock CStr {
        // SAFETY: a string of the object's table, at a place that the object names.
        unsafe { CStr::from_ptr((self.strings + offset as usize) as *const c_char) }
    }

    /// The libraries that the object needs.
    pub(crate) fn needs(self) -> impl Iterator<Item = &'lock CStr> {
        self.entries().filter(|[tag, _]| *tag == DT_NEEDED).map(move |[_, name]| self.text(name))
    }
}

/// A place that holds the address of a function.
#[derive(Clone, Copy)]
pub(crate) struct Slot<'lock> {
    pub(crate) place: usize,
    name: (Dynamic<'lock>, u32),
    /// Whether it may be resolved when it is first called.
    pub(crate) may_be_lazy: bool,
}

impl<'lock> Slot<'lock> {
    /// The function's name.
    pub(crate) fn name(&self) -> &'lock CStr {
        let (dynamic, name) = self.name;
        dynamic.text(name.into())
    }
}

impl<'lock> Listed<'lock> {
    /// # Safety
    /// The object must stay loaded for `'lock`.
    unsafe fn of(info: &dl_phdr_info) -> Self {
        // SAFETY: what the loader says of an object that is loaded.
        let (segments, name) = unsafe {
            let name = if info.dlpi_name.is_null() { c"" } else { CStr::from_ptr(info.dlpi_name) };
            (slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)), name)
        };
        Self { base: info.dlpi_addr as usize, name, segments }
    }

    pub(crate) fn is_this_library(&self) -> bool {
        self.base == own_base()
    }

    /// The address of its dynamic section, which tells it from all others that are loaded; 0 if it has none.
    pub(crate) fn identity(&self) -> usize {
        let dynamic = self.segments.iter().find(|segment| segment.p_type == libc::PT_DYNAMIC);
        dynamic.map_or(0, |dynamic| self.base + dynamic.p_vaddr as usize)
    }

    fn loaded(&self) -> impl Iterator<Item = (Range<usize>, u32)> {
        let base = self.base;
        let segments = self.segments.iter().filter(|segment| segment.p_type == libc::PT_LOAD);
        segments.map(move |segment| (place_of(base, segment), segment.p_flags))
    }

    /// Whether an address lies in one of its segments.
    pub(crate) fn contains(&self, address: usize) -> bool {
        self.loaded().any(|(segment, _)| segment.contains(&address))
    }

    /// Its tables; None for what has no dynamic section.
    pub(crate) fn object(self) -> Option<Object<'lock>> {
        let (start, base) = (self.identity(), self.base);
        if start == 0 {
            return None;
        }
        let mut object = Object {
            listed: self,
            dynamic: Dynamic { start, strings: 0, _lock: PhantomData },
            symbols: 0,
            hashes: 0,
            versions: 0,
            relocations: [(0, 0); 2],
            search: Search::default(),
        };
        for [tag, value] in object.dynamic.entries() {
            // The loader relocates these, but for the kernel's own object, and under musl.
            let address = if (value as usize) < base { base + value as usize } else { value as usize };
            let [bound_lazily, others] = &mut object.relocations;
            match tag {
                DT_STRTAB => object.dynamic.strings = address,
                DT_SYMTAB => object.symbols = address,
                DT_GNU_HASH => object.hashes = address,
                DT_VERSYM => object.versions = address,
                DT_JMPREL => bound_lazily.0 = address,
                DT_PLTRELSZ => bound_lazily.1 = value as usize,
                DT_RELA => others.0 = address,
                DT_RELASZ => others.1 = value as usize,
                DT_RPATH => object.search.rpath = true,
                DT_RUNPATH => object.search.runpath = true,
                DT_FLAGS_1 => object.search.no_default = value & DF_1_NODEFLIB != 0,
                _ => {}
            }
        }
        (object.dynamic.strings != 0 && object.symbols != 0).then_some(object)
    }
}

/// Where a segment lies.
fn place_of(base: usize, segment: &Elf64_Phdr) -> Range<usize> {
    let start = base + segment.p_vaddr as usize;
    start..start + segment.p_memsz as usize
}

impl<'lock> Object<'lock> {
    pub(crate) fn listed(&self) -> Listed<'lock> {
        self.listed
    }

    pub(crate) fn dynamic(&self) -> Dynamic<'lock> {
        self.dynamic
    }

    /// Whether this is what others need by a name: it has told so itself, or is a file of that name.
    pub(crate) fn is_called(&self, name: &CStr) -> bool {
        let file = self.listed.name.to_bytes();
        let is_file = file.rsplit(|byte| *byte == b'/').next() == Some(name.to_bytes()) || file == name.to_bytes();
        is_file || self.soname() == Some(name)
    }

    /// The name that others need it by.
    pub(crate) fn soname(&self) -> Option<&'lock CStr> {
        self.dynamic.entries().find(|[tag, _]| *tag == DT_SONAME).map(|[_, name]| self.dynamic.text(name))
    }

    /// From its first segment to its last.
    pub(crate) fn whole(&self) -> Range<usize> {
        let segments = || self.listed.loaded().map(|(segment, _)| segment);
        let start = segments().map(|segment| segment.start).min().unwrap_or(0);
        start..segments().map(|segment| segment.end).max().unwrap_or(0)
    }

    /// Whether a place is an aligned word of a segment that the file lets be written, at least until it is relocated.
    pub(crate) fn may_write(&self, place: usize) -> bool {
        let mut data = self.listed.loaded().filter(|(_, flags)| flags & libc::PF_W != 0);
        place.is_multiple_of(size_of::<usize>()) && data.any(|(data, _)| data.contains(&place))
    }

    /// The pages that the loader has made read-only when they were relocated; may be empty.
    pub(crate) fn read_only(&self, page: usize) -> Range<usize> {
        let relro = self.listed.segments.iter().find(|segment| segment.p_type == libc::PT_GNU_RELRO);
        let relro = relro.map_or(0..0, |segment| place_of(self.listed.base, segment));
        relro.start & !(page - 1)..relro.end & !(page - 1)
    }

    /// Where it keeps the addresses of the functions that it calls and does not have itself.
    pub(crate) fn slots(&self) -> impl Iterator<Item = Slot<'lock>> {
        let object = *self;
        let tables = self.relocations.into_iter().filter(|(start, _)| *start != 0);
        let entries = tables.flat_map(|(start, bytes)| {
            // SAFETY: a table of an object that stays loaded, in the length that the object says.
            unsafe { slice::from_raw_parts(start as *const Elf64_Rela, bytes / size_of::<Elf64_Rela>()) }
        });
        entries.filter_map(move |entry| {
            let (kind, symbol) = (entry.r_info & 0xffff_ffff, (entry.r_info >> 32) as usize);
            if symbol == 0 || !KINDS.contains(&kind) || entry.r_addend != 0 {
                return None;
            }
            // SAFETY: the symbol that the entry is for.
            let symbol = unsafe { &*(object.symbols as *const Elf64_Sym).add(symbol) };
            (symbol.st_shndx == 0).then(|| Slot {
                place: object.listed.base + entry.r_offset as usize,
                name: (object.dynamic, symbol.st_name),
                may_be_lazy: kind == KINDS[0],
            })
        })
    }

    /// The default version of a function in this object, null if it has none.
    pub(crate) fn definition(&self, name: &[u8]) -> *mut c_void {
        if self.hashes == 0 {
            return ptr::null_mut();
        }
        let hash = name.iter().fold(5381_u32, |hash, byte| hash.wrapping_mul(33).wrapping_add(u32::from(*byte)));
        // SAFETY: the tables of an object that stays loaded; the hash table is walked as the loader walks it.
        unsafe {
            let [buckets, first, bloom, _] = *(self.hashes as *const [u32; 4]);
            if buckets == 0 {
                return ptr::null_mut();
            }
            let bucket = (self.hashes + 16 + bloom as usize * 8) as *const u32;
            let chain = bucket.add(buckets as usize);
            let mut index = *bucket.add((hash % buckets) as usize);
            while index >= first {
                let end_and_hash = *chain.add((index - first) as usize);
                let symbol = &*(self.symbols as *const Elf64_Sym).add(index as usize);
                let is_default = self.versions == 0 || *(self.versions as *const u16).add(index as usize) & HIDDEN == 0;
                if end_and_hash | 1 == hash | 1
                    && symbol.st_shndx != 0
                    && symbol.st_info & 15 == STT_FUNC
                    && is_default
                    && self.dynamic.text(symbol.st_name.into()).to_bytes() == name
                {
                    return (self.listed.base + symbol.st_value as usize) as *mut c_void;
                }
                if end_and_hash & 1 != 0 {
                    break;
                }
                index += 1;
            }
            ptr::null_mut()
        }
    }
}

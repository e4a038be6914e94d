//! What a program loads with RTLD_DEEPBIND, dlopen(3): its calls find libc's functions before any preload library's. Here
//! they are led to the hooks, once it is loaded. docs/design.md says why so.
#![expect(unsafe_code, reason = "exported symbols, and the tables by which other objects call")]

use std::arch::naked_asm;
use std::ffi::{CStr, OsStr, c_char, c_int, c_long, c_void};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};

use socket::{Errno, ffi};

use crate::elf::{self, Dynamic, Object, Objects, Search, Slot};
use crate::hooks::{self, NAMES};
use crate::{connect, fault, guard, libc_compat, log, real, setup};

/// dlfcn.h of glibc. musl has no such flag, and binds everything to the hooks by itself.
const RTLD_DEEPBIND: c_int = 8;
/// dlfcn.h: the namespace that this library is in.
const LM_ID_BASE: c_long = 0;

/// What is behind these hooks; found when it is called first, since both take the loader's lock and set what dlerror(3) says.
mod behind {
    use super::*;
    real::real! {
        fn dlopen(file: *const c_char, mode: c_int) -> *mut c_void
        fn dlmopen(namespace: c_long, file: *const c_char, mode: c_int) -> *mut c_void
    }
}

/// Exports a hook that asks for its way and jumps there, its arguments and its caller's address as they were: libc looks for a
/// library where the caller's file says, and in the caller's namespace.
macro_rules! jump {
    (fn $name:ident($($type:ty),*) by $way:ident) => {
        /// Interposed; see the manual page of the function of the same name.
        ///
        /// # Safety
        /// That of the real function.
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        pub(crate) unsafe extern "C-unwind" fn $name($(_: $type),*) -> *mut c_void {
            #[cfg(target_arch = "x86_64")]
            naked_asm!(
                ".cfi_startproc",
                "push rdi",
                ".cfi_adjust_cfa_offset 8",
                "push rsi",
                ".cfi_adjust_cfa_offset 8",
                "push rdx",
                ".cfi_adjust_cfa_offset 8",
                "mov rcx, [rsp + 24]",
                "call {way}",
                "pop rdx",
                ".cfi_adjust_cfa_offset -8",
                "pop rsi",
                ".cfi_adjust_cfa_offset -8",
                "pop rdi",
                ".cfi_adjust_cfa_offset -8",
                "jmp rax",
                ".cfi_endproc",
                way = sym $way,
            );
            #[cfg(target_arch = "aarch64")]
            naked_asm!(
                ".cfi_startproc",
                "stp x29, x30, [sp, #-48]!",
                ".cfi_def_cfa_offset 48",
                ".cfi_offset x29, -48",
                ".cfi_offset x30, -40",
                "stp x0, x1, [sp, #16]",
                "str x2, [sp, #32]",
                "mov x29, sp",
                "mov x3, x30",
                "bl {way}",
                "mov x16, x0",
                "ldr x2, [sp, #32]",
                "ldp x0, x1, [sp, #16]",
                "ldp x29, x30, [sp], #48",
                ".cfi_def_cfa_offset 0",
                ".cfi_restore x29",
                ".cfi_restore x30",
                "br x16",
                ".cfi_endproc",
                way = sym $way,
            );
        }
    };
}

jump! { fn dlopen(*const c_char, c_int) by way_of_dlopen }
jump! { fn dlmopen(c_long, *const c_char, c_int) by way_of_dlmopen }

const fn is_deep(mode: c_int) -> bool {
    mode & (RTLD_DEEPBIND | libc::RTLD_NOLOAD) == RTLD_DEEPBIND
}

extern "C-unwind" fn way_of_dlopen(file: *const c_char, mode: c_int, _: usize, caller: usize) -> usize {
    if is_deep(mode) && can_be_followed(file, caller) {
        dlopen_and_bind as *const () as usize
    } else {
        behind::dlopen() as usize
    }
}

extern "C-unwind" fn way_of_dlmopen(namespace: c_long, file: *const c_char, mode: c_int, caller: usize) -> usize {
    if namespace != LM_ID_BASE {
        say_out_of_reach(file);
    } else if is_deep(mode) && can_be_followed(file, caller) {
        return dlmopen_and_bind as *const () as usize;
    }
    behind::dlmopen() as usize
}

/// # Safety
/// That of dlopen(3).
unsafe extern "C-unwind" fn dlopen_and_bind(file: *const c_char, mode: c_int) -> *mut c_void {
    guard::contained(|| MARK.begin());
    // SAFETY: the program's own arguments, for the function that it meant.
    let handle = unsafe { behind::dlopen()(file, mode) };
    after(file, mode, handle);
    handle
}

/// # Safety
/// That of dlmopen(3).
unsafe extern "C-unwind" fn dlmopen_and_bind(namespace: c_long, file: *const c_char, mode: c_int) -> *mut c_void {
    guard::contained(|| MARK.begin());
    // SAFETY: the program's own arguments, for the function that it meant.
    let handle = unsafe { behind::dlmopen()(namespace, file, mode) };
    after(file, mode, handle);
    handle
}

/// The file that the program names.
fn named<'a>(file: *const c_char) -> Option<&'a CStr> {
    // SAFETY: a string of the program's, which dlopen(3) reads as well; used while the program waits for the call.
    (!file.is_null()).then(|| unsafe { CStr::from_ptr(file) })
}

fn shown(name: &CStr) -> impl std::fmt::Display {
    OsStr::from_bytes(name.to_bytes()).display()
}

/// A warning that is given once.
struct Once(AtomicBool);

impl Once {
    fn say(&self, text: std::fmt::Arguments<'_>) {
        if !self.0.swap(true, Relaxed) {
            log::warn(text);
        }
    }
}

/// Its libc is another, with an errno of its own.
fn say_out_of_reach(file: *const c_char) {
    static SAID: Once = Once(AtomicBool::new(false));
    if setup::runtime().is_some() {
        guard::contained(|| {
            let Some(file) = named(file) else { return };
            SAID.say(format_args!(
                "dlmopen {}: it gets a libc of its own, and the library does not reach its sockets",
                shown(file)
            ));
        });
    }
}

/// Whether libc finds the same file if this library calls it, which it has to in order to go on afterwards.
fn can_be_followed(file: *const c_char, caller: usize) -> bool {
    static SAID: Once = Once(AtomicBool::new(false));
    setup::runtime().is_some()
        && guard::contained(|| {
            // An empty name is the program itself: nothing is loaded.
            let Some(file) = named(file).filter(|file| !file.is_empty()) else { return false };
            let has = |byte| file.to_bytes().contains(&byte);
            // $ORIGIN is the caller's folder.
            if !has(b'$') && (has(b'/') || is_found_by_all(caller)) {
                return true;
            }
            SAID.say(format_args!(
                "dlopen {}: RTLD_DEEPBIND, and looked for where only its caller looks: the sockets of what it loads get no \
                 options; a whole path would be followed",
                shown(file)
            ));
            false
        })
}

/// Whether a name without a path is looked up for this caller as it is for this library, ld.so(8): where no file but the
/// program's own says where.
fn is_found_by_all(caller: usize) -> bool {
    // Code that lies in no file is taken for the program's.
    let (mut program, mut of_caller, mut of_others) = (None, None, false);
    let look = |objects: &Objects<'_>| {
        objects.each(|listed| {
            let search = listed.object().map_or_else(Search::default, |object| object.search);
            if listed.contains(caller) {
                of_caller = Some(search);
            }
            // RPATH counts for what was loaded for its file as well; a RUNPATH sets it aside.
            of_others |= program.is_some() && search.rpath && !search.runpath;
            program.get_or_insert(search);
            true
        });
    };
    elf::locked(look);
    let own = of_caller.or(program).unwrap_or_default();
    !(of_others || own.runpath || own.no_default)
}

/// How far down the loader's list objects were led to the hooks, or had no need: what comes later stands behind these.
struct Mark {
    objects: AtomicUsize,
    /// How many had been unloaded by then.
    unloaded: AtomicU64,
    /// Calls under way. Of two threads that load the same, the second comes back before the first has led it to the hooks:
    /// it does so as well.
    calls: AtomicUsize,
}

/// Read and written under the loader's lock.
static MARK: Mark = Mark { objects: AtomicUsize::new(0), unloaded: AtomicU64::new(0), calls: AtomicUsize::new(0) };

impl Mark {
    /// Before a call.
    fn begin(&self) {
        elf::locked(|objects| {
            // One that never came back (a constructor that throws) keeps the mark where it is, which only costs time.
            if self.calls.fetch_add(1, Relaxed) == 0 {
                let mut count = 0;
                objects.each(|_| {
                    count += 1;
                    true
                });
                self.objects.store(count, Relaxed);
                self.unloaded.store(objects.unloaded, Relaxed);
            }
        });
    }

    /// After it.
    fn end(&self) {
        let _ = self.calls.fetch_update(Relaxed, Relaxed, |calls| calls.checked_sub(1));
    }

    /// The place of the first object behind the mark, or of one before that.
    fn first_new(&self, objects: &Objects<'_>) -> usize {
        let unloaded = objects.unloaded.wrapping_sub(self.unloaded.load(Relaxed));
        self.objects.load(Relaxed).saturating_sub(usize::try_from(unloaded).unwrap_or(usize::MAX))
    }
}

/// How many functions are interposed.
const COUNT: usize = ends().1;

/// Where in `NAMES` each name ends, with its NUL; and how many there are.
const fn ends() -> ([usize; 32], usize) {
    let (names, mut ends, mut at, mut count) = (NAMES.as_bytes(), [0; 32], 0, 0);
    while at < names.len() {
        at += 1;
        if names[at - 1] == 0 {
            ends[count] = at;
            count += 1;
        }
    }
    (ends, count)
}

/// Their names, each with a NUL behind it.
fn names() -> impl Iterator<Item = &'static str> {
    const ENDS: [usize; 32] = ends().0;
    let mut start = 0;
    ENDS.iter().take(COUNT).map_while(move |end| NAMES.get(std::mem::replace(&mut start, *end)..*end))
}

/// An address for each name.
type Addresses = [usize; COUNT];

fn addresses(of: impl Fn(&'static str) -> usize) -> Addresses {
    let mut found = [0; COUNT];
    found.iter_mut().zip(names()).for_each(|(place, name)| *place = of(name));
    found
}

/// What came of it.
#[derive(Default)]
struct Outcome {
    calls: usize,
    objects: usize,
    /// Why some could not be led to the hooks.
    refused: Option<Errno>,
    /// A function that another preload library has as well, behind this one, and what its hook would do.
    contended: Option<(&'static str, Effect)>,
}

/// What is missing where a hook is not called.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Effect {
    /// Options are set, or kept.
    Options,
    /// The time for connecting is taken back.
    TakenBack,
}

impl Effect {
    /// Of the hook of this name, where this configuration needs it.
    fn of(name: &str) -> Option<Self> {
        const SETS: &str = "connect\0bind\0listen\0accept\0accept4\0setsockopt\0sendto\0sendmsg\0sendmmsg\0";
        const TAKES_BACK: &str =
            "getsockopt\0getpeername\0epoll_ctl\0poll\0ppoll\0__poll_chk\0__ppoll_chk\0select\0pselect\0";
        let is_in = |list: &str| list.split_inclusive('\0').any(|one| one == name);
        if is_in(SETS) {
            return Some(Self::Options);
        }
        let has_limit =
            || setup::runtime().is_some_and(|runtime| runtime.rules.phases().intersects(connect::CONNECTED));
        (is_in(TAKES_BACK) && has_limit()).then_some(Self::TakenBack)
    }
}

impl Outcome {
    /// Notes a function that another preload library has as well. Options that are missing say more than a time that stays.
    fn contend(&mut self, name: &'static str) {
        if let Some(effect) = Effect::of(name)
            && self.contended.is_none_or(|(_, noted)| effect < noted)
        {
            self.contended = Some((name.trim_end_matches('\0'), effect));
        }
    }
}

/// After a call.
fn after(file: *const c_char, mode: c_int, handle: *mut c_void) {
    let is_wanted = !handle.is_null() && setup::runtime().is_some();
    guard::contained(|| {
        if let Some(file) = named(file).filter(|_| is_wanted) {
            fault::point("dlopen");
            lead(file, mode, handle);
        }
        MARK.end();
    });
}

/// Leads what is new to the hooks.
fn lead(file: &CStr, mode: c_int, handle: *mut c_void) {
    static REFUSED: Once = Once(AtomicBool::new(false));
    static CONTENDED: Once = Once(AtomicBool::new(false));
    let (file, is_lazy) = (shown(file), mode & libc::RTLD_LAZY != 0);
    // Looked up before the loader's list is locked: dlsym(3) takes another lock of the loader's.
    let behind = addresses(|name| {
        let name = name.trim_end_matches('\0');
        hooks::behind::address(name).or_else(|| behind::address(name)).unwrap_or(0)
    });
    let meant = if is_lazy { addresses(|name| libc_compat::definition_for(handle, name) as usize) } else { [0; COUNT] };
    let outcome = elf::locked(|objects| {
        let binding = Binding::of(objects, &behind, &meant)?;
        Some(binding.bind(objects, if is_lazy { identity(handle) } else { 0 }))
    });
    let Some(Outcome { calls, objects, refused, contended }) = outcome.flatten() else { return };
    if calls > 0 {
        log::debug(format_args!("dlopen {file}: RTLD_DEEPBIND: bound to the hooks: {calls}, in files: {objects}"));
    }
    if let Some(errno) = refused {
        REFUSED.say(format_args!(
            "dlopen {file}: RTLD_DEEPBIND: mprotect: {errno}: sockets of what it loads get no options"
        ));
    }
    if let Some((name, effect)) = contended {
        let (missing, otherwise) = match effect {
            Effect::Options => ("", "options would be set"),
            Effect::TakenBack => (
                ", and a socket that it connects without waiting may keep the user timeout of connect_timeout",
                "this would be taken back",
            ),
        };
        CONTENDED.say(format_args!(
            "dlopen {file}: RTLD_DEEPBIND: another preload library has {name} too: what is loaded goes past both{missing}; with \
             libsockopt.so behind it, {otherwise}"
        ));
    }
}

/// The identity of the object that a handle stands for.
fn identity(handle: *mut c_void) -> usize {
    /// link.h: the beginning of what glibc gives as a handle.
    #[repr(C)]
    struct LinkMap {
        address: usize,
        name: *const c_char,
        dynamic: usize,
    }
    // SAFETY: a handle that the program has just got of glibc (`Binding::of`), and has not closed yet.
    unsafe { (*handle.cast::<LinkMap>()).dynamic }
}

/// Where glibc's own functions lie. Before 2.34 it is three libraries.
#[derive(Default)]
struct Glibc {
    files: [Range<usize>; 3],
}

const GLIBC: &str = "libc.so.6\0libpthread.so.0\0libdl.so.2\0";

impl Glibc {
    fn is_there(&self) -> bool {
        self.files.first().is_some_and(|libc| !libc.is_empty())
    }

    fn contains(&self, address: usize) -> bool {
        self.files.iter().any(|file| file.contains(&address))
    }
}

/// What leads to which hook.
struct Binding {
    glibc: Glibc,
    hooks: Addresses,
    /// By hook: whether it ends in glibc's function, as the call does that is led to it. Otherwise another preload library's
    /// would come in between, which such a call is to go past.
    ends_alike: [bool; COUNT],
    /// By hook: whether a call that is not bound yet will be to glibc's function.
    is_meant: [bool; COUNT],
}

impl Binding {
    /// None where this is no glibc.
    fn of(objects: &Objects<'_>, behind: &Addresses, meant: &Addresses) -> Option<Self> {
        let (mut glibc, mut hooks) = (Glibc::default(), [0; COUNT]);
        objects.each(|listed| {
            let Some(object) = listed.object() else { return true };
            if listed.is_this_library() {
                hooks = addresses(|name| object.definition(name.trim_end_matches('\0').as_bytes()) as usize);
            }
            let soname = object.soname().map_or(&b""[..], CStr::to_bytes_with_nul);
            let files = glibc.files.iter_mut().zip(GLIBC.split_inclusive('\0'));
            files.filter(|(_, name)| name.as_bytes() == soname).for_each(|(file, _)| *file = object.whole());
            true
        });
        let in_glibc = |addresses: &Addresses| addresses.map(|address| glibc.contains(address));
        let (ends_alike, is_meant) = (in_glibc(behind), in_glibc(meant));
        glibc.is_there().then_some(Self { glibc, hooks, ends_alike, is_meant })
    }

    /// Leads what is new to the hooks. The root, if there is one, is what the program has named, and may be bound lazily.
    fn bind(&self, objects: &Objects<'_>, root: usize) -> Outcome {
        let (mut outcome, mut together) = (Outcome::default(), Together::from(root));
        let (mut place, first_new) = (0, MARK.first_new(objects));
        objects.each(|listed| {
            if place >= first_new
                && let Some(object) = listed.object()
            {
                let is_together = root != 0 && together.takes(&object);
                self.bind_object(&object, is_together, &mut outcome);
            }
            place += 1;
            true
        });
        outcome
    }

    fn bind_object(&self, object: &Object<'_>, is_together: bool, outcome: &mut Outcome) {
        let (mut pages, calls) = (ReadOnly::of(object), outcome.calls);
        for slot in object.slots().filter(|slot| object.may_write(slot.place)) {
            let leads_back = |to| is_together && slot.may_be_lazy && object.listed().contains(to);
            let found = load(slot.place);
            // Mostly neither.
            if self.glibc.contains(found) || leads_back(found) {
                self.bind_slot(&slot, found, leads_back, &mut pages, outcome);
            }
        }
        outcome.objects += usize::from(outcome.calls > calls);
    }

    fn bind_slot(
        &self,
        slot: &Slot<'_>,
        found: usize,
        leads_back: impl Fn(usize) -> bool,
        pages: &mut ReadOnly,
        outcome: &mut Outcome,
    ) {
        let wanted = slot.name().to_bytes_with_nul();
        let Some((index, name)) = names().enumerate().find(|(_, name)| name.as_bytes() == wanted) else { return };
        let holds = |of: &[bool; COUNT]| of.get(index).copied().unwrap_or_default();
        let is_wanted = |to| self.glibc.contains(to) || (holds(&self.is_meant) && leads_back(to));
        let Some(&hook) = self.hooks.get(index).filter(|hook| **hook != 0 && is_wanted(found)) else { return };
        if !holds(&self.ends_alike) {
            outcome.contend(name);
            return;
        }
        match pages.write(slot.place, hook, is_wanted) {
            Ok(is_written) => outcome.calls += usize::from(is_written),
            Err(errno) => outcome.refused = Some(errno),
        }
    }
}

/// What was loaded by one call of dlopen: the object that it names, and what that needs, in this order. What its
/// constructors load stands behind them in the loader's list, and is looked up otherwise.
struct Together<'lock> {
    root: usize,
    needed_by: [Option<Dynamic<'lock>>; 128],
    count: usize,
}

impl<'lock> Together<'lock> {
    fn from(root: usize) -> Self {
        Self { root, needed_by: [None; 128], count: 0 }
    }

    /// Whether this object, the next of the loader's list, is one of them.
    fn takes(&mut self, object: &Object<'lock>) -> bool {
        let mut others = self.needed_by.iter().flatten();
        let is_one = object.listed().identity() == self.root
            || others.any(|other| other.needs().any(|name| object.is_called(name)));
        match self.needed_by.get_mut(self.count) {
            Some(free) if is_one => {
                *free = Some(object.dynamic());
                self.count += 1;
                true
            }
            _ => false,
        }
    }
}

/// An object's pages that the loader makes read-only when it has relocated the object; they are writable from the first `write`
/// until this ends. If they are not read-only yet, another thread is loading the object. They are left to it: it comes here too
/// when it has done that.
struct ReadOnly {
    pages: Range<usize>,
    opened: Option<Result<(), Errno>>,
}

impl ReadOnly {
    fn of(object: &Object<'_>) -> Self {
        // SAFETY: getauxval(3) takes any number.
        let page = unsafe { libc::getauxval(libc::AT_PAGESZ) } as usize;
        Self { pages: object.read_only(page), opened: None }
    }

    /// Writes the hook over what is wanted; says whether it did.
    fn write(&mut self, place: usize, hook: usize, is_wanted: impl Fn(usize) -> bool) -> Result<bool, Errno> {
        if !self.pages.contains(&place) {
            return Ok(replace(place, hook, is_wanted));
        }
        if self.opened.is_none() && is_writable(place) {
            return Ok(false);
        }
        let pages = &self.pages;
        self.opened
            .get_or_insert_with(|| protect(pages, libc::PROT_READ | libc::PROT_WRITE))
            .map(|()| replace(place, hook, is_wanted))
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        if self.opened == Some(Ok(())) {
            // Should the kernel refuse it, they stay as they were before the loader's own call of it.
            let _ = protect(&self.pages, libc::PROT_READ);
        }
    }
}

fn protect(pages: &Range<usize>, how: c_int) -> Result<(), Errno> {
    // SAFETY: whole pages of an object that is loaded, which the loader has made read-only in this way (`ReadOnly::write`), and does
    // so once; no other thread does the same meanwhile, since the loader's list is locked.
    let result = unsafe { libc::mprotect(pages.start as *mut c_void, pages.len(), how) };
    if result == 0 { Ok(()) } else { Err(ffi::errno()) }
}

/// Whether a word can be written, as the kernel sees it. It does not change: FUTEX_WAKE_OP (futex(2)) sets none of its bits, in one
/// step. Filters of system calls let futex through, and not those that are for debuggers.
fn is_writable(place: usize) -> bool {
    /// FUTEX_OP_OR with 0, and whatever comparison.
    const SETS_NO_BIT: c_int = libc::FUTEX_OP_OR << 28;
    let nobody_waits = 0u32;
    // SAFETY: futex(2) takes any address of the second word; the first is ours.
    let result = unsafe {
        let operation = libc::FUTEX_WAKE_OP | libc::FUTEX_PRIVATE_FLAG;
        libc::syscall(libc::SYS_futex, &raw const nobody_waits, operation, 0, 0usize, place, SETS_NO_BIT)
    };
    result >= 0
}

fn slot_at(place: usize) -> &'static AtomicUsize {
    // SAFETY: a word of an object that is loaded while the loader's lock is held, aligned and in a writable segment
    // (`Object::may_write`). The loader and others write it as one word.
    unsafe { AtomicUsize::from_ptr(place as *mut usize) }
}

fn load(place: usize) -> usize {
    slot_at(place).load(Acquire)
}

/// Writes the hook over what is wanted. Another thread may bind a call meanwhile, by making it.
fn replace(place: usize, hook: usize, is_wanted: impl Fn(usize) -> bool) -> bool {
    slot_at(place).fetch_update(AcqRel, Acquire, |found| is_wanted(found).then_some(hook)).is_ok()
}

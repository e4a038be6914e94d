//! Memory and a stack of our own for set-up, which runs wherever the program's first socket happens to be: in a
//! signal handler, on a thread with 16 KiB of stack, between fork and exec, while another thread holds malloc's lock,
//! under a malloc that fails.
//!
//! Nothing here calls the program's malloc. Memory is reserved in one piece before set-up begins and costs only what
//! is touched; where it is refused, or turns out too small, set-up is abandoned and the program runs on without it.
//! The fourth file with `unsafe`: a global allocator and the switch of stacks cannot be written without.
#![expect(unsafe_code, reason = "a global allocator, mappings, and a stack to switch to")]

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use corosensei::stack::{Stack, StackPointer};
use corosensei::{CoroutineResult, ScopedCoroutine, Yielder};
use once_cell::race::OnceRef;
use zerocopy::FromZeros;

/// Why set-up did not come to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The kernel refused the memory, or more was needed than was reserved.
    Memory,
    /// A panic: a fault of ours.
    Panic,
}

/// A private anonymous mapping, taken back when dropped. Where pieces are handed out, it begins with its [`Header`]: the value
/// itself is small, since it lies on the stack of whoever comes first, which may be a signal handler's.
pub(crate) struct Memory {
    start: usize,
    length: usize,
}

/// Which pieces of a mapping are free. Zeroes, as a new mapping has them, say that all is.
#[derive(FromZeros)]
#[repr(align(16))] // a grain
struct Header {
    /// Where the rest begins that nobody has had; 0 is behind the header.
    next: Cell<usize>,
    /// By size, the piece that was given back last; it begins with the one before.
    free: [Cell<usize>; SIZES],
}

const PAGE: usize = 4096;

/// Pieces are multiples of this, aligned to it.
const GRAIN: usize = 16;
/// Sizes of pieces that are used again, up to 128 KiB.
const SIZES: usize = 48;

/// What a piece of so many bytes occupies: one of few sizes, four to each power of two, so that one that was given back
/// is likely to fit again. The number of the size, unless the piece is too large to be used again.
fn occupied(size: usize) -> (usize, Option<usize>) {
    let grains = size.div_ceil(GRAIN).max(1);
    // Up to 8 grains each number is a size.
    let Some(shift) = grains.ilog2().checked_sub(2).filter(|_| grains > 8) else {
        return (grains * GRAIN, Some(grains - 1));
    };
    // Between two powers of two in quarters: 10, 12, 14, 16, then 20, 24, 28, 32.
    let quarters = ((grains - 1) >> shift) + 1;
    let number = 4 * shift as usize + quarters - 1;
    match number {
        ..SIZES => ((quarters << shift) * GRAIN, Some(number)),
        _ => (grains * GRAIN, None),
    }
}

impl Memory {
    /// Reserves address space; pages come with their first use (mmap(2), MAP_NORESERVE).
    pub(crate) fn reserve(length: usize) -> Option<Self> {
        let length = length.checked_next_multiple_of(PAGE)?;
        let (access, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
        // ThreadSanitizer is to see that memory is new: another thread may have had some at the same place.
        #[cfg(sockopt_tsan)]
        // SAFETY: a fresh mapping at a place of the kernel's choice.
        let start = unsafe { libc::mmap(ptr::null_mut(), length, access, flags, -1, 0) } as isize;
        #[cfg(not(sockopt_tsan))]
        let [access, flags, no_file] = [access, flags, -1].map(libc::c_long::from);
        #[cfg(not(sockopt_tsan))]
        // SAFETY: as above.
        let start = unsafe { libc::syscall(libc::SYS_mmap, 0_usize, length, access, flags, no_file, 0_usize) };
        (start != -1).then(|| Self::at(start as usize, length))
    }

    fn at(start: usize, length: usize) -> Self {
        Self { start, length }
    }

    /// The first so many bytes, whole pages, as a piece of their own. Nothing was handed out yet.
    pub(crate) fn split_off(&mut self, length: usize) -> Self {
        let piece = Self::at(self.start, length);
        self.start += length;
        self.length -= length;
        piece
    }

    fn header(&self) -> &Header {
        let header: *const Header = ptr::with_exposed_provenance(self.start);
        // SAFETY: a mapping begins with a page, larger than the header, that held zeroes when it was new; pieces are handed out
        // behind them, and no other thread has the value.
        unsafe { &*header }
    }

    /// Where the rest begins that nobody has had.
    fn next(&self) -> usize {
        match self.header().next.get() {
            0 => self.start + size_of::<Header>(),
            next => next,
        }
    }

    fn end(&self) -> usize {
        self.start + self.length
    }

    fn take(&self, layout: Layout) -> *mut u8 {
        let (size, number) = occupied(layout.size());
        if let Some(free) = number.and_then(|number| self.header().free.get(number))
            && layout.align() <= GRAIN
            && free.get() != 0
        {
            let piece = free.get() as *mut usize;
            // SAFETY: `give_back` wrote there which was the one before, and nobody has had it since.
            free.set(unsafe { *piece });
            return piece.cast();
        }
        let start = self.next().checked_next_multiple_of(layout.align());
        match start.and_then(|start| Some((start, start.checked_add(size)?))) {
            Some((start, end)) if end <= self.end() => {
                self.header().next.set(end);
                start as *mut u8
            }
            _ => ptr::null_mut(),
        }
    }

    /// Whether a piece was handed out here, and is of those that can be used again.
    fn is_ours(&self, piece: *mut u8, layout: Layout) -> bool {
        (self.start..self.end()).contains(&(piece as usize)) && layout.align() <= GRAIN
    }

    /// Keeps a piece for whoever asks for this size next: the same few pages serve again and again.
    ///
    /// # Safety
    /// Nobody uses it any more.
    unsafe fn give_back(&self, piece: *mut u8, layout: Layout) {
        if !self.is_ours(piece, layout) {
            return;
        }
        let (size, number) = occupied(layout.size());
        if piece as usize + size == self.next() {
            self.header().next.set(piece as usize);
        } else if let Some(free) = number.and_then(|number| self.header().free.get(number)) {
            // SAFETY: a piece of ours, of a grain at least and aligned to one, that is the caller's to give.
            unsafe { piece.cast::<usize>().write(free.replace(piece as usize)) };
        }
    }

    /// Whether a piece can have another size where it is: because it has room, or is the last.
    fn resize(&self, piece: *mut u8, layout: Layout, size: usize) -> bool {
        let ((old, _), (new, _)) = (occupied(layout.size()), occupied(size));
        let end = (piece as usize).checked_add(new).filter(|end| *end <= self.end());
        match end {
            _ if !self.is_ours(piece, layout) => false,
            Some(end) if piece as usize + old == self.next() => {
                self.header().next.set(end);
                true
            }
            _ => new == old,
        }
    }

    /// Makes `work` allocate here.
    pub(crate) fn during<R>(&self, work: impl FnOnce() -> R) -> R {
        struct Outer(*const Memory);
        impl Drop for Outer {
            fn drop(&mut self) {
                CURRENT.set(self.0);
            }
        }
        let _outer = Outer(CURRENT.replace(self));
        work()
    }

    /// Keeps what was handed out for the life of the process, and gives back the rest.
    pub(crate) fn keep(mut self) {
        let used = (self.next() - self.start).next_multiple_of(PAGE);
        self.start += used;
        self.length -= used;
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.length > 0 {
            // SAFETY: our own mapping, or the unused rest of it; nothing points there any more.
            unsafe { libc::munmap(self.start as *mut libc::c_void, self.length) };
        }
    }
}

/// A table for the life of the process, in a mapping of its own: pages come with their first use. None where the kernel
/// refuses it.
pub(crate) fn zeroes<T: FromZeros + Sync>() -> Option<&'static T> {
    let memory = Memory::reserve(size_of::<T>())?;
    let table: *const T = ptr::with_exposed_provenance(memory.start);
    std::mem::forget(memory);
    // SAFETY: a mapping of zeroes of that size, page-aligned, that nobody else has and nobody takes back.
    Some(unsafe { &*table })
}

/// The stack that set-up runs on, with a guard page below.
pub(crate) struct SetUpStack(Memory);

/// The TOML parser nests 80 levels deep at most; the need is under 64 KiB, and ten times that
/// in debug builds.
const STACK: usize = if cfg!(debug_assertions) { 1 << 20 } else { 256 << 10 };

/// What set-up needs, in one mapping.
pub(crate) struct SetupMemory {
    /// Gone when set-up ends.
    pub(crate) stack: SetUpStack,
    /// Gone when set-up ends.
    pub(crate) scratch: Memory,
    /// For what is to stay.
    pub(crate) outcome: Memory,
}

impl SetupMemory {
    /// Reserves it. Where several megabytes will be filled, the kernel is asked for pages of that size: most of the
    /// time goes into page faults otherwise.
    pub(crate) fn reserve(scratch: usize, outcome: usize, is_filled: bool) -> Option<Self> {
        let outcome = outcome.checked_next_multiple_of(PAGE)?;
        let whole = Memory::reserve(scratch.checked_add(outcome)?.checked_add(PAGE + STACK)?)?;
        if is_filled {
            // SAFETY: our own mapping. Where the kernel has no such pages, it says so, and all is as it was.
            unsafe { libc::madvise(whole.start as *mut libc::c_void, whole.length, libc::MADV_HUGEPAGE) };
        }
        // SAFETY: the lowest page of the piece that is for the stack.
        let guarded = unsafe { libc::mprotect(whole.start as *mut libc::c_void, PAGE, libc::PROT_NONE) } == 0;
        guarded.then(|| Self::of(whole, outcome))
    }

    fn of(mut whole: Memory, outcome: usize) -> Self {
        let stack = whole.split_off(PAGE + STACK);
        let outcome = whole.split_off(outcome);
        Self { stack: SetUpStack(stack), scratch: whole, outcome }
    }
}

/// A room that waits for the first who needs it.
pub(crate) struct Reserved {
    start: AtomicUsize,
    length: AtomicUsize,
    outcome: AtomicUsize,
}

impl Reserved {
    pub(crate) const fn none() -> Self {
        Self { start: AtomicUsize::new(0), length: AtomicUsize::new(0), outcome: AtomicUsize::new(0) }
    }

    /// Puts an unused room there, if nobody ever did.
    pub(crate) fn put(&self, room: SetupMemory) {
        let SetupMemory { stack: SetUpStack(stack), scratch, outcome } = room;
        if self.length.compare_exchange(0, scratch.end() - stack.start, Relaxed, Relaxed).is_ok() {
            self.outcome.store(outcome.length, Relaxed);
            self.start.store(stack.start, Release);
            let _kept = [stack, scratch, outcome].map(std::mem::forget);
        }
    }

    /// Takes it, for the first.
    pub(crate) fn take(&self) -> Option<SetupMemory> {
        let start = self.start.swap(0, Acquire);
        let whole = || Memory::at(start, self.length.load(Relaxed));
        (start != 0).then(|| SetupMemory::of(whole(), self.outcome.load(Relaxed)))
    }
}

// SAFETY: base and limit are the ends of one mapping that lives as long as the value, and page-aligned.
unsafe impl Stack for SetUpStack {
    fn base(&self) -> StackPointer {
        StackPointer::new(self.0.end()).unwrap_or(StackPointer::MIN)
    }
    fn limit(&self) -> StackPointer {
        StackPointer::new(self.0.start).unwrap_or(StackPointer::MIN)
    }
}

thread_local! {
    // Neither has a destructor, so nothing is registered for the end of the thread.
    static CURRENT: Cell<*const Memory> = const { Cell::new(ptr::null()) };
    static WAY_OUT: Cell<*const Yielder<(), ()>> = const { Cell::new(ptr::null()) };
}

/// Runs `work` on a stack of its own, which is gone afterwards, allocating from `heap`. Where a handler may be called,
/// signals are to be blocked: on this stack the kernel would take an alternate one (sigaltstack(2)) to have been left,
/// and a handler might jump away.
///
/// # Errors
/// [`Failure`]; what `work` had on its stack is forgotten then.
pub(crate) fn run<R>(stack: SetUpStack, heap: &Memory, work: impl FnOnce() -> R) -> Result<R, Failure> {
    let on_stack = |yielder: &Yielder<(), ()>, ()| {
        WAY_OUT.set(yielder);
        heap.during(|| catch_unwind(AssertUnwindSafe(work)).map_err(|_| Failure::Panic))
    };
    let outcome = ScopedCoroutine::with_stack(stack, on_stack).scope(|mut coroutine| match coroutine.resume(()) {
        CoroutineResult::Return(result) => result,
        CoroutineResult::Yield(()) => {
            // SAFETY: set-up asked for memory that is not there and is never resumed. What it had on its stack owns
            // nothing but memory of `heap`.
            unsafe { coroutine.force_reset() };
            Err(Failure::Memory)
        }
    });
    CURRENT.set(ptr::null());
    WAY_OUT.set(ptr::null());
    outcome
}

/// The allocator of everything in this library.
struct Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// For what is allocated outside of set-up: the payload of a panic of ours.
#[derive(FromZeros)]
pub(crate) struct Reserve([AtomicUsize; 1024]);

/// None before anything is configured, when nothing panics.
static RESERVE: OnceRef<'static, Reserve> = OnceRef::new();
static SPARE_USED: AtomicUsize = AtomicUsize::new(0);

/// Makes it the reserve, if it is the first.
pub(crate) fn install_reserve(reserve: &'static Reserve) {
    let _ = RESERVE.set(reserve);
}

// SAFETY: pieces are aligned, do not overlap, and lie in memory that is kept while anything points there: that of a
// set-up until its end, the reserve for ever. Nothing unwinds. Out of line: there are thousands of callers.
unsafe impl GlobalAlloc for Allocator {
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: set by `during` and reset before the memory goes.
        match unsafe { CURRENT.get().as_ref() } {
            Some(memory) => {
                let piece = memory.take(layout);
                if piece.is_null() {
                    // SAFETY: set by `run` while its coroutine is the one that runs.
                    unsafe { WAY_OUT.get().as_ref() }.into_iter().for_each(|way_out| way_out.suspend(()));
                }
                piece
            }
            None => from_reserve(layout),
        }
    }

    #[inline(never)]
    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        // SAFETY: as above; the caller has no more use for the piece.
        unsafe {
            if let Some(memory) = CURRENT.get().as_ref() {
                memory.give_back(piece, layout);
            }
        }
    }

    #[inline(never)]
    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        if let Some(memory) = unsafe { CURRENT.get().as_ref() }
            && memory.resize(piece, layout, size)
        {
            return piece;
        }
        // SAFETY: the caller's layout with another size, which it vouches for; the pieces do not overlap.
        unsafe {
            let grown = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !grown.is_null() {
                ptr::copy_nonoverlapping(piece, grown, layout.size().min(size));
                self.dealloc(piece, layout);
            }
            grown
        }
    }
}

#[cold]
fn from_reserve(layout: Layout) -> *mut u8 {
    let room = layout.size() + layout.align();
    if let Some(reserve) = RESERVE.get() {
        let used = SPARE_USED.fetch_add(room, Relaxed);
        if used + room <= size_of_val(reserve) {
            return (reserve.0.as_ptr() as usize + used).next_multiple_of(layout.align()) as *mut u8;
        }
    }
    // More panics at once than anybody thought of.
    let Some(memory) = Memory::reserve(size_of::<Header>() + room) else { return ptr::null_mut() };
    let piece = memory.take(layout);
    memory.keep();
    piece
}

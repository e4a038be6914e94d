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
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use corosensei::stack::{Stack, StackPointer};
use corosensei::{CoroutineResult, ScopedCoroutine, Yielder};
use socket::ffi;

/// Why set-up did not come to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The kernel refused the memory, or more was needed than was reserved.
    Memory,
    /// A panic: a fault of ours.
    Panic,
}

/// A private anonymous mapping, taken back when dropped.
pub(crate) struct Memory {
    start: usize,
    length: usize,
    next: Cell<usize>,
}

const PAGE: usize = 4096;

impl Memory {
    /// Reserves address space; pages come with their first use (mmap(2), MAP_NORESERVE).
    pub(crate) fn reserve(length: usize) -> Option<Self> {
        let length = length.checked_next_multiple_of(PAGE)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh mapping at a place of the kernel's choice.
        let start = unsafe { libc::mmap(ptr::null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        (start != libc::MAP_FAILED).then(|| Self { start: start as usize, length, next: Cell::new(start as usize) })
    }

    /// The first so many bytes, whole pages, as a piece of their own.
    fn split_off(&mut self, length: usize) -> Self {
        let piece = Self { start: self.start, length, next: Cell::new(self.start) };
        self.start += length;
        self.length -= length;
        self.next.set(self.start);
        piece
    }

    fn end(&self) -> usize {
        self.start + self.length
    }

    fn take(&self, layout: Layout) -> *mut u8 {
        let start = self.next.get().checked_next_multiple_of(layout.align());
        match start.and_then(|start| Some((start, start.checked_add(layout.size())?))) {
            Some((start, end)) if end <= self.end() => {
                self.next.set(end);
                start as *mut u8
            }
            _ => ptr::null_mut(),
        }
    }

    /// The piece handed out last is taken back, or grows where it is: most are short-lived.
    fn is_last(&self, piece: *mut u8, size: usize) -> bool {
        piece as usize + size == self.next.get()
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
        let used = (self.next.get() - self.start).next_multiple_of(PAGE);
        self.start += used;
        self.length -= used;
        self.next.set(self.start);
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

/// The stack that set-up runs on, with a guard page below.
pub(crate) struct SetUpStack(Memory);

/// The TOML parser nests 80 levels deep at most; the need is under 64 KiB, and ten times that
/// in debug builds.
const STACK: usize = 1 << 20;

/// What set-up needs, in one mapping.
pub(crate) struct Room {
    /// Gone when set-up ends.
    pub(crate) stack: SetUpStack,
    /// Gone when set-up ends.
    pub(crate) scratch: Memory,
    /// For what is to stay.
    pub(crate) outcome: Memory,
}

impl Room {
    /// Reserves it.
    pub(crate) fn reserve(scratch: usize, outcome: usize) -> Option<Self> {
        let outcome = outcome.checked_next_multiple_of(PAGE)?;
        let mut whole = Memory::reserve(scratch.checked_add(outcome)?.checked_add(PAGE + STACK)?)?;
        let stack = whole.split_off(PAGE + STACK);
        let outcome = whole.split_off(outcome);
        // SAFETY: the lowest page of the piece that is for the stack.
        let guarded = unsafe { libc::mprotect(stack.start as *mut libc::c_void, PAGE, libc::PROT_NONE) } == 0;
        guarded.then(|| Self { stack: SetUpStack(stack), scratch: whole, outcome })
    }
}

/// Takes what [`Box::into_raw`] gave.
pub(crate) fn reclaim(room: *mut Room) -> Option<Room> {
    // SAFETY: null, or a box that nobody else has: it was swapped out of where it lay.
    (!room.is_null()).then(|| *unsafe { Box::from_raw(room) })
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

/// Runs `work` on a stack of its own, which is gone afterwards, allocating from `heap`; with all signals blocked, since
/// the kernel would take a handler for an alternate stack (sigaltstack(2)) to have left it, and a handler might jump away.
///
/// # Errors
/// [`Failure`]; what `work` had on its stack is forgotten then.
pub(crate) fn run<R>(stack: SetUpStack, heap: &Memory, work: impl FnOnce() -> R) -> Result<R, Failure> {
    let on_stack = |yielder: &Yielder<(), ()>, ()| {
        WAY_OUT.set(yielder);
        heap.during(|| catch_unwind(AssertUnwindSafe(work)).map_err(|_| Failure::Panic))
    };
    let outcome = ffi::without_signals(|| {
        ScopedCoroutine::with_stack(stack, on_stack).scope(|mut coroutine| match coroutine.resume(()) {
            CoroutineResult::Return(result) => result,
            CoroutineResult::Yield(()) => {
                // SAFETY: set-up asked for memory that is not there and is never resumed. What it had on its stack owns
                // nothing but memory of `heap`.
                unsafe { coroutine.force_reset() };
                Err(Failure::Memory)
            }
        })
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
static SPARE: [AtomicUsize; 1024] = [const { AtomicUsize::new(0) }; 1024];
static SPARE_USED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: pieces are aligned, do not overlap, and lie in memory that is kept while anything points there: that of a
// set-up until its end, the spare memory for ever. Nothing unwinds.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: set by `during` and reset before the memory goes.
        match unsafe { CURRENT.get().as_ref() } {
            Some(memory) => {
                let piece = memory.take(layout);
                // SAFETY: set by `run` while its coroutine is the one that runs.
                if let (true, Some(way_out)) = (piece.is_null(), unsafe { WAY_OUT.get().as_ref() }) {
                    way_out.suspend(());
                }
                piece
            }
            None => spare(layout),
        }
    }

    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        // SAFETY: as above.
        if let Some(memory) = unsafe { CURRENT.get().as_ref() }
            && memory.is_last(piece, layout.size())
        {
            memory.next.set(piece as usize);
        }
    }

    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        if let Some(memory) = unsafe { CURRENT.get().as_ref() }
            && memory.is_last(piece, layout.size())
            && piece as usize + size <= memory.end()
        {
            memory.next.set(piece as usize + size);
            return piece;
        }
        // SAFETY: the caller's layout with another size, which it vouches for; the pieces do not overlap.
        unsafe {
            let grown = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !grown.is_null() {
                ptr::copy_nonoverlapping(piece, grown, layout.size().min(size));
            }
            grown
        }
    }
}

fn spare(layout: Layout) -> *mut u8 {
    let start = SPARE.as_ptr() as usize;
    let room = layout.size() + layout.align();
    let used = SPARE_USED.fetch_add(room, Relaxed);
    if used + room > size_of_val(&SPARE) {
        // More panics at once than anybody thought of.
        let Some(memory) = Memory::reserve(room) else { return ptr::null_mut() };
        let piece = memory.take(layout);
        memory.keep();
        return piece;
    }
    (start + used).next_multiple_of(layout.align()) as *mut u8
}

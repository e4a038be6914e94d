//! The first memory of the command: a piece of its own data, from which everything small is cut until it is used up; then comes
//! libc's. musl's malloc makes a system call for nearly every page at the start of a process, and gives many back at once: a third
//! of what `sockopt run` asked of the kernel.
//!
//! What is freed is used again: pieces of up to [`SMALL`] bytes for others of the same size, longer ones are cut anew.
#![expect(unsafe_code, reason = "a global allocator; every block says what makes it sound")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release};

/// So much is there. `sockopt run` needs half of it; what it does not touch is no memory.
const ROOM: usize = 256 * 1024;
/// Pieces are multiples of this, and so are their places.
const GRAIN: usize = 16;
/// Up to so many bytes, a piece that was freed waits for another one of its size.
const SMALL: usize = 1024;
/// What is longer comes from libc.
const LONGEST: usize = 64 * 1024;
/// No piece: places count from 1 grain.
const NONE: usize = 0;

#[repr(C, align(4096))]
struct Room(UnsafeCell<[u8; ROOM]>);

/// What is free; places are offsets in the room, lengths multiples of [`GRAIN`].
struct Free {
    /// So much was cut from the beginning on; nothing behind it is used.
    used: usize,
    /// What is cut at present, before the frontier is moved on: place and end.
    cut: (usize, usize),
    /// By size in grains: the piece that was freed last. It begins with the place of the one before.
    small: [usize; SMALL / GRAIN + 1],
    /// The longer piece that was freed last. It begins with the place of the one before, and its own length.
    long: usize,
}

/// The command's memory, as `#[global_allocator]`.
#[derive(Debug)]
pub struct Heap;

static OWN: Store = Store::new();

/// Gives whole pages back to the kernel that hold nothing any more.
pub(crate) fn give_back() {
    OWN.give_back();
}

// SAFETY: the store's.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise, as in all of these.
        unsafe { OWN.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { OWN.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { OWN.dealloc(piece, layout) }
    }

    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        unsafe { OWN.realloc(piece, layout, size) }
    }
}

/// A room and what is free in it. No thread waits for another one here: who comes second gets libc's memory, and what it frees is not
/// used again.
struct Store {
    is_used: AtomicBool,
    free: UnsafeCell<Free>,
    room: Room,
}

// SAFETY: what is in the cells is touched by who has set `is_used` alone, but for pieces that were given out: those are their owners'.
unsafe impl Sync for Store {}

impl Store {
    /// Nothing is used yet.
    const fn new() -> Self {
        // Zeroes alone: else the room would lie in the file.
        let free = Free { used: 0, cut: (NONE, NONE), small: [NONE; SMALL / GRAIN + 1], long: NONE };
        Self { is_used: AtomicBool::new(false), free: UnsafeCell::new(free), room: Room(UnsafeCell::new([0; ROOM])) }
    }

    fn start(&self) -> *mut u8 {
        self.room.0.get().cast()
    }

    /// Its place, if it is a piece of the room.
    fn place_of(&self, piece: *mut u8) -> Option<usize> {
        (piece as usize).checked_sub(self.start() as usize).filter(|place| *place < ROOM)
    }

    /// Does something with what is free, unless another thread does.
    fn with<R>(&self, work: impl FnOnce(&mut Free, Words) -> R) -> Option<R> {
        if self.is_used.swap(true, Acquire) {
            return None;
        }
        // SAFETY: nobody else is here. Nothing in `work` allocates.
        let result = work(unsafe { &mut *self.free.get() }, Words(self.start()));
        self.is_used.store(false, Release);
        Some(result)
    }

    /// They are zeroes when they are next used.
    fn give_back(&self) {
        // SAFETY: sysconf(3) takes a number.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let Ok(page @ 1..) = usize::try_from(page) else { return };
        self.with(|free, words| {
            let give = |from: usize, to: usize| {
                let (from, to) = (from.next_multiple_of(page), to - to % page);
                if from < to {
                    // SAFETY: pages of the room in which no piece lies that was given out; what is known of the free ones lies before.
                    // Where the room begins in the middle of a larger page, the kernel refuses it.
                    unsafe { libc::madvise(words.0.add(from).cast(), to - from, libc::MADV_DONTNEED) };
                }
            };
            give(free.frontier(), ROOM);
            give(free.cut.0, free.cut.1);
            let mut at = free.long;
            while at != NONE {
                give(at + GRAIN, at + words.get(at + 8));
                at = words.get(at);
            }
        });
    }
}

/// The room as words, of pieces that are free.
#[derive(Clone, Copy)]
struct Words(*mut u8);

impl Words {
    fn get(self, place: usize) -> usize {
        // SAFETY: only asked for places in free pieces, which lie in the room and are aligned.
        unsafe { self.0.add(place).cast::<usize>().read() }
    }

    fn set(self, place: usize, word: usize) {
        // SAFETY: as above.
        unsafe { self.0.add(place).cast::<usize>().write(word) }
    }
}

/// What so many bytes occupy.
fn occupied(size: usize) -> usize {
    size.next_multiple_of(GRAIN).max(GRAIN)
}

impl Free {
    /// Nothing behind it is used.
    fn frontier(&self) -> usize {
        GRAIN + self.used
    }

    fn move_frontier(&mut self, to: usize) {
        self.used = to - GRAIN;
    }

    /// A piece of so many bytes.
    fn take(&mut self, length: usize, words: Words) -> Option<usize> {
        if length <= SMALL {
            let at = self.small[length / GRAIN];
            if at != NONE {
                self.small[length / GRAIN] = words.get(at);
                return Some(at);
            }
            if self.cut.1 - self.cut.0 < length && self.long != NONE {
                let next = self.long;
                self.long = words.get(next);
                let rest = std::mem::replace(&mut self.cut, (next, next + words.get(next + 8)));
                self.put(rest.0, rest.1 - rest.0, words);
            }
        } else if let Some(at) = self.take_long(length, words) {
            return Some(at);
        }
        if self.cut.1 - self.cut.0 >= length {
            let at = self.cut.0;
            self.cut.0 += length;
            return Some(at);
        }
        let at = self.frontier();
        let end = at + length;
        (end <= ROOM).then(|| {
            self.move_frontier(end);
            at
        })
    }

    /// The beginning of the longer piece that was freed and fits best.
    fn take_long(&mut self, length: usize, words: Words) -> Option<usize> {
        /// So many are looked at: there are few.
        const MOST: usize = 16;
        let (mut before, mut at) = (NONE, self.long);
        let mut best: Option<(usize, usize, usize)> = None;
        for _ in 0..MOST {
            if at == NONE {
                break;
            }
            let has = words.get(at + 8);
            if has >= length && best.is_none_or(|(_, _, other)| has < other) {
                best = Some((before, at, has));
            }
            (before, at) = (at, words.get(at));
        }
        let (before, at, has) = best?;
        match before {
            NONE => self.long = words.get(at),
            before => words.set(before, words.get(at)),
        }
        self.put(at + length, has - length, words);
        Some(at)
    }

    /// A piece is free again.
    fn put(&mut self, at: usize, length: usize, words: Words) {
        if length == 0 {
            return;
        }
        if at + length == self.frontier() {
            self.move_frontier(at);
        } else if length <= SMALL {
            words.set(at, self.small[length / GRAIN]);
            self.small[length / GRAIN] = at;
        } else {
            words.set(at, self.long);
            words.set(at + 8, length);
            self.long = at;
        }
    }

    /// Whether a piece has become longer where it is.
    fn lengthen(&mut self, at: usize, from: usize, to: usize) -> bool {
        let end = at + to;
        if at + from == self.frontier() && end <= ROOM {
            self.move_frontier(end);
        } else if at + from == self.cut.0 && end <= self.cut.1 {
            self.cut.0 = end;
        } else {
            return false;
        }
        true
    }
}

// SAFETY: pieces do not overlap, and are as long and as aligned as asked for: lengths and places are multiples of GRAIN, and what is
// longer or more aligned is libc's.
unsafe impl GlobalAlloc for Store {
    // Whatever allocates would have a copy of these.
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() <= LONGEST && layout.align() <= GRAIN {
            let place = self.with(|free, words| free.take(occupied(layout.size()), words)).flatten();
            if let Some(place) = place {
                // SAFETY: a place in the room.
                return unsafe { self.start().add(place) };
            }
        }
        // SAFETY: the caller's promise is libc's condition.
        unsafe { System.alloc(layout) }
    }

    #[inline(never)]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.size() > LONGEST {
            // SAFETY: the caller's promise is libc's condition. It knows which pages are zeroes already.
            return unsafe { System.alloc_zeroed(layout) };
        }
        // SAFETY: the caller's promise, and what was given is as long as was asked for.
        unsafe {
            let piece = self.alloc(layout);
            if !piece.is_null() {
                ptr::write_bytes(piece, 0, layout.size());
            }
            piece
        }
    }

    #[inline(never)]
    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        match self.place_of(piece) {
            Some(place) => drop(self.with(|free, words| free.put(place, occupied(layout.size()), words))),
            // SAFETY: it is libc's, the rest is the caller's promise.
            None => unsafe { System.dealloc(piece, layout) },
        }
    }

    #[inline(never)]
    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Some(place) = self.place_of(piece) else {
            // SAFETY: it is libc's, the rest is the caller's promise.
            return unsafe { System.realloc(piece, layout, size) };
        };
        let (from, to) = (occupied(layout.size()), occupied(size));
        if from == to || (to > from && self.with(|free, _| free.lengthen(place, from, to)) == Some(true)) {
            return piece;
        }
        // SAFETY: the caller's promise; as much is copied as both have.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !new.is_null() {
                ptr::copy_nonoverlapping(piece, new, layout.size().min(size));
                self.dealloc(piece, layout);
            }
            new
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{LONGEST, ROOM, SMALL, Store};
    use std::alloc::{GlobalAlloc, Layout};
    use std::sync::atomic::Ordering::Relaxed;

    /// A piece that is held, and what it is full of.
    struct Piece(*mut u8, Layout, u8);

    impl Piece {
        fn check(&self) {
            let Self(piece, layout, mark) = self;
            // SAFETY: it is held, and so long.
            let bytes = unsafe { std::slice::from_raw_parts(*piece, layout.size()) };
            assert!(bytes.iter().all(|byte| byte == mark), "{layout:?} at {piece:?}");
        }

        fn fill(&self) {
            // SAFETY: as above.
            unsafe { self.0.write_bytes(self.2, self.1.size()) };
        }
    }

    /// Takes, lengthens, shortens, frees and gives back by chance; every piece keeps what was written into it.
    fn by_chance(heap: &Store, seed: u32, rounds: u32, mark: u8) {
        let mut held: Vec<Piece> = Vec::new();
        let mut state = seed;
        let mut any = |below: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % below
        };
        for round in 0..rounds {
            let most = [40, 200, SMALL as u32 + 60, 9_000, LONGEST as u32 + 5_000][any(5) as usize];
            let layout = Layout::from_size_align(any(most) as usize + 1, 1 << any(6)).unwrap();
            match any(8) {
                // SAFETY: a size that is not 0.
                0..3 => held.push(unsafe { Piece(heap.alloc(layout), layout, mark ^ round as u8) }),
                3 => {
                    // SAFETY: as above.
                    let piece = unsafe { Piece(heap.alloc_zeroed(layout), layout, 0) };
                    piece.check();
                    held.push(piece);
                }
                4 if !held.is_empty() => {
                    let index = any(held.len() as u32) as usize;
                    let Piece(piece, old, is) = held.swap_remove(index);
                    let new = Layout::from_size_align(layout.size(), old.align()).unwrap();
                    // SAFETY: it was given for `old`.
                    let moved = unsafe { heap.realloc(piece, old, new.size()) };
                    let same = Layout::from_size_align(old.size().min(new.size()), old.align()).unwrap();
                    Piece(moved, same, is).check();
                    held.push(Piece(moved, new, is));
                }
                5.. if !held.is_empty() => {
                    let piece = held.swap_remove(any(held.len() as u32) as usize);
                    piece.check();
                    // SAFETY: it was given so, and is not used any more.
                    unsafe { heap.dealloc(piece.0, piece.1) };
                    continue;
                }
                _ => {
                    heap.give_back();
                    continue;
                }
            }
            let last = held.last().unwrap();
            assert!(!last.0.is_null() && (last.0 as usize).is_multiple_of(last.1.align()), "{:?}", last.1);
            last.fill();
        }
        for piece in held {
            piece.check();
            // SAFETY: as above.
            unsafe { heap.dealloc(piece.0, piece.1) };
        }
    }

    /// Seen to fail: with pieces that wait by a size rounded down, "Layout { size: 168 ...}" holds another one's bytes.
    #[test]
    fn pieces_keep_what_is_written() {
        for seed in 0..10 {
            by_chance(Box::leak(Box::new(Store::new())), seed, 2_000, 0x55);
        }
    }

    /// One that comes while another one is there gets libc's memory.
    #[test]
    fn threads() {
        static HEAP: Store = Store::new();
        std::thread::scope(|scope| {
            for seed in 0..4 {
                scope.spawn(move || by_chance(&HEAP, seed, 2_000, seed as u8));
            }
        });
        HEAP.is_used.store(true, Relaxed);
        let layout = Layout::new::<u64>();
        // SAFETY: a size that is not 0; it is freed as it was given.
        unsafe {
            let piece = HEAP.alloc(layout);
            assert!(!piece.is_null() && HEAP.place_of(piece).is_none());
            HEAP.dealloc(piece, layout);
        }
    }

    /// What was freed is used again: much more than there is room for comes out of the room, piece by piece.
    #[test]
    fn freed_pieces_are_used_again() {
        static HEAP: Store = Store::new();
        for round in 0..20 * ROOM / LONGEST {
            let sizes = [5_000, 10_000, 100, 20_000, 40_000, SMALL];
            let layouts = sizes.map(|size| Layout::from_size_align(size, 8).unwrap());
            // SAFETY: sizes that are not 0; each is freed as it was given.
            unsafe {
                let pieces = layouts.map(|layout| HEAP.alloc(layout));
                for (piece, layout) in pieces.into_iter().zip(layouts) {
                    assert!(HEAP.place_of(piece).is_some(), "round {round}, {layout:?}");
                    HEAP.dealloc(piece, layout);
                }
            }
        }
    }
}

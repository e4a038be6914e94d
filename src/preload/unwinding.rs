//! Lets the program's own unwinding pass: a signal handler that calls pthread_exit(3) in the middle of a hook, or throws.
//!
//! libgcc unwinds the thread's frames then, and asks the personality routine of each what is to be done in it. std's runs drops,
//! stops in `catch_unwind` and ends the process there, and also where a function with landing pads was interrupted between two
//! calls. Ours has nothing done: the hook is left, and what is dropped in one is memory on its stack. Our own panics are std's to
//! answer.
#![expect(unsafe_code, reason = "the routine that every frame of this library names, called by the unwinder")]

use std::ffi::{c_int, c_void};
use std::mem;
use std::sync::atomic::AtomicPtr;
use std::sync::atomic::Ordering::{Acquire, Release};

/// What an unwinder calls ("Exception Handling ABI", 2.5): the version, what it does, whose exception it is, the exception, and
/// the frame.
type Personality = unsafe extern "C" fn(c_int, c_int, u64, *mut c_void, *mut c_void) -> c_int;

/// `_UA_FORCE_UNWIND` and `_URC_CONTINUE_UNWIND`.
const FORCED: c_int = 8;
const CONTINUE: c_int = 8;
/// The class of std's panics, in the machine's order of bytes or, in older ones, in the other; the rest are of other languages.
const OF_PANICS: [u64; 2] = [u64::from_le_bytes(*b"MOZ\0RUST"), u64::from_be_bytes(*b"MOZ\0RUST")];

unsafe extern "C" {
    /// Where the unwinding data of every function with landing pads has the address of its routine from: the compiler makes this one
    /// word, and the loader fills it in.
    #[link_name = "DW.ref.rust_eh_personality"]
    static ROUTINE: AtomicPtr<c_void>;
}

/// std's routine.
static OF_STD: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

/// Puts ours before std's.
pub(crate) fn begin() {
    let ours = personality as Personality as *mut c_void;
    // SAFETY: a word of this library's data that can be written; nobody else does.
    let routine = unsafe { &ROUTINE };
    let found = routine.load(Acquire);
    if found != ours {
        OF_STD.store(found, Release);
        routine.store(ours, Release);
    }
}

unsafe extern "C" fn personality(
    version: c_int,
    actions: c_int,
    class: u64,
    exception: *mut c_void,
    frame: *mut c_void,
) -> c_int {
    if actions & FORCED != 0 || !OF_PANICS.contains(&class) {
        return CONTINUE;
    }
    // SAFETY: std's routine, which was stored before this one could be called; the arguments are the unwinder's.
    unsafe {
        let std = mem::transmute::<*mut c_void, Personality>(OF_STD.load(Acquire));
        std(version, actions, class, exception, frame)
    }
}

//! Panics on request, for the tests of panic containment. The shipped library has none of it: without the feature
//! `fault-injection` [`point`] is empty.

/// A place where a panic is to be survived; `SOCKOPT_TEST_FAULT` names the one that panics.
#[cfg(feature = "fault-injection")]
#[expect(clippy::panic, reason = "a panic is what is asked for")]
pub(crate) fn point(name: &str) {
    let Some(wanted) = std::env::var_os("SOCKOPT_TEST_FAULT") else { return };
    let wanted = wanted.to_str().unwrap_or_default();
    // "64 connect": in 64 threads, none before all have come so far.
    let (threads, wanted) = match wanted.split_once(' ') {
        Some((count, stage)) => count.parse::<u32>().map_or((1, wanted), |count| (count, stage)),
        None => (1, wanted),
    };
    if wanted == name {
        use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
        static HERE: AtomicU32 = AtomicU32::new(0);
        HERE.fetch_add(1, SeqCst);
        while HERE.load(SeqCst) < threads {
            std::thread::yield_now();
        }
        if name.starts_with("exhaust") {
            // More than any set-up has: the allocation fails.
            std::hint::black_box(Vec::<u8>::with_capacity(1 << 40));
        }
        panic!("injected at {name}");
    }
}

#[cfg(not(feature = "fault-injection"))]
pub(crate) fn point(_name: &str) {}

//! Other libraries in LD_PRELOAD, beside which the order decides whether anything is set. The command knows the same
//! (launch/neighbours.rs) and puts this library in its place; whoever sets LD_PRELOAD by hand is told.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use crate::real;

const NAME: &[u8] = b"libsockopt.so";
/// Behind this library it puts another socket in the place of that which has the options.
const PROXYCHAINS: &[u8] = b"libproxychains";
/// In front of this library it calls libc past it.
const TORSOCKS: &[u8] = b"libtorsocks.so";

static FOUND: AtomicU8 = AtomicU8::new(0);

/// Looks at LD_PRELOAD, while the library is loaded.
pub(crate) fn look() {
    real::each_variable("LD_PRELOAD=", |list| {
        let mut is_behind = false;
        for entry in list.split(|byte| b": =".contains(byte)) {
            let name = entry.rsplit(|byte| *byte == b'/').next().unwrap_or(entry);
            if name == NAME {
                is_behind = true;
            } else if name.starts_with(PROXYCHAINS) && is_behind {
                FOUND.store(1, Relaxed);
            } else if name.starts_with(TORSOCKS) && !is_behind {
                FOUND.store(2, Relaxed);
            }
        }
    });
}

/// What is wrong with the order.
pub(crate) fn trouble() -> Option<&'static str> {
    match FOUND.load(Relaxed) {
        1 => Some(
            "libproxychains is behind libsockopt.so in LD_PRELOAD: it replaces the socket that has the options by another \
             one; it must come first",
        ),
        2 => Some(
            "libtorsocks is in front of libsockopt.so in LD_PRELOAD: it calls libc directly, and its connections get no \
             options; libsockopt.so must come first",
        ),
        _ => None,
    }
}

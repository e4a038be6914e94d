//! What not every glibc has in its libc.so.6: so that one library loads in all of them (docs/design.md).
//!
//! Assembly gives the symbols their names: what Rust exports by name would be seen by the program as well.
#![expect(unsafe_code, reason = "symbols for the linker, and functions that only the loader knows")]

use std::arch::global_asm;
use std::ffi::{c_char, c_void};
use std::ptr;

use crate::elf;

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
    let (name, mut is_behind_us, mut found) = (name.trim_end_matches('\0').as_bytes(), false, ptr::null_mut());
    elf::locked(|objects| {
        objects.each(|object| {
            if is_behind_us {
                found = object.object().map_or(ptr::null_mut(), |object| object.definition(name));
            }
            is_behind_us |= object.is_this_library();
            found.is_null()
        });
    });
    found
}

/// What a function's name means to who has got this handle from dlopen(3), null if nothing; the name ends in NUL.
pub(crate) fn definition_for(handle: *mut c_void, name: &str) -> *mut c_void {
    if !has_dlsym() || !name.ends_with('\0') {
        return ptr::null_mut();
    }
    // SAFETY: dlsym(3) with a handle that the program has just got, and a name that ends in NUL.
    let found = unsafe { libc::dlsym(handle, name.as_ptr().cast()) };
    if found.is_null() {
        forget_error();
    }
    found
}

//! The functions behind ours: libc's, or those of the next preload library.
#![expect(unsafe_code, reason = "dlsym(3) gives an untyped pointer")]

use std::ffi::{c_int, c_void};
#[cfg(target_env = "gnu")]
use std::panic::catch_unwind;
use std::ptr;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use crate::{elf, libc_compat};
use libc::ssize_t;

/// The type of sendmmsg's flags: `int` in glibc, `unsigned int` in musl.
#[cfg(not(target_env = "musl"))]
pub(crate) type BatchFlags = c_int;
#[cfg(target_env = "musl")]
pub(crate) type BatchFlags = std::ffi::c_uint;

/// What a function answers that libc has not.
pub(crate) trait Failed {
    const FAILED: Self;
}
impl Failed for c_int {
    const FAILED: Self = -1;
}
impl Failed for ssize_t {
    const FAILED: Self = -1;
}
impl<T> Failed for *mut T {
    const FAILED: Self = ptr::null_mut();
}

/// The functions of these names and types behind ours.
macro_rules! real {
    ($(fn $name:ident($($arg:ident: $type:ty),*) -> $return:ty $({ $otherwise:expr })?)*) => {
        $(
            pub(crate) fn $name() -> unsafe extern "C-unwind" fn($($type),*) -> $return {
                use std::{ffi::c_void, ptr, sync::atomic::{AtomicPtr, Ordering}};
                use $crate::real::{Failed, next};

                static FOUND: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
                unsafe extern "C-unwind" fn missing($($arg: $type),*) -> $return {
                    let _ = ($($arg,)*);
                    $(return $otherwise;)?
                    #[allow(unreachable_code, reason = "where the kernel is asked instead")]
                    {
                        socket::ffi::set_errno(socket::Errno(libc::ENOSYS));
                        <$return>::FAILED
                    }
                }
                // Held against libc's.
                const _: unsafe extern "C" fn($($type),*) -> $return = $crate::real::declared::$name;
                let mut found = FOUND.load(Ordering::Relaxed);
                if found.is_null() {
                    // Two threads that are here at once find the same.
                    found = next(concat!(stringify!($name), "\0"));
                    FOUND.store(found, Ordering::Relaxed);
                }
                if found.is_null() {
                    return missing;
                }
                // SAFETY: dlsym(3) found the next definition of this very name, whose type is held against libc's above;
                // "C-unwind" has the same calling convention as "C".
                unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C-unwind" fn($($type),*) -> $return>(found) }
            }
        )*

        /// Finds every function, so that no hook has to: dlsym takes the loader's lock, and forgets what dlerror(3) was to say.
        #[allow(dead_code, reason = "some are found when they are called first")]
        pub(crate) fn find_all() {
            $($name();)*
        }

        /// What a hook of this name calls.
        pub(crate) fn address(name: &str) -> Option<usize> {
            match name {
                $(stringify!($name) => Some($name() as usize),)*
                _ => None,
            }
        }
    };
}
pub(crate) use real;

/// The types of what is interposed: the crate libc's, and of netdb.h what it has not.
pub(crate) mod declared {
    use std::ffi::c_ulong;
    #[cfg(target_env = "musl")]
    use std::ffi::{c_long, c_uint};

    pub(crate) use libc::*;

    unsafe extern "C" {
        #[cfg(target_env = "musl")]
        pub(crate) fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int;
        #[cfg(target_env = "musl")]
        pub(crate) fn dlmopen(namespace: c_long, file: *const c_char, mode: c_int) -> *mut c_void;
        /// It takes as many as the option has. Integers come in the same registers either way, on x86-64 and aarch64, and those that
        /// the program has not passed are handed on as they are.
        pub(crate) fn prctl(option: c_int, second: c_ulong, third: c_ulong, fourth: c_ulong, fifth: c_ulong) -> c_int;
        pub(crate) fn __poll_chk(entries: *mut pollfd, count: nfds_t, timeout: c_int, size: size_t) -> c_int;
        pub(crate) fn __ppoll_chk(
            entries: *mut pollfd,
            count: nfds_t,
            timeout: *const timespec,
            mask: *const sigset_t,
            size: size_t,
        ) -> c_int;
        pub(crate) fn gethostbyname(name: *const c_char) -> *mut hostent;
        pub(crate) fn gethostbyname2(name: *const c_char, family: c_int) -> *mut hostent;
        pub(crate) fn gethostbyname_r(
            name: *const c_char,
            host: *mut hostent,
            buffer: *mut c_char,
            size: size_t,
            answer: *mut *mut hostent,
            error: *mut c_int,
        ) -> c_int;
        pub(crate) fn gethostbyname2_r(
            name: *const c_char,
            family: c_int,
            host: *mut hostent,
            buffer: *mut c_char,
            size: size_t,
            answer: *mut *mut hostent,
            error: *mut c_int,
        ) -> c_int;
    }
}

/// The next definition of a symbol after ours, null where there is none; the name ends in NUL.
#[cold]
#[inline(never)] // it catches, and hooks must have no landing pads
pub(crate) fn next(name: &'static str) -> *mut c_void {
    if !libc_compat::has_dlsym() {
        return libc_compat::next_definition(name);
    }
    let found = by_dlsym(name);
    // RTLD_NEXT is what comes after the library that calls. If another library in front of this one has a dlsym of its own, that
    // library is the one that calls, and what comes after it may be this very hook.
    if elf::is_own(found as usize) { libc_compat::next_definition(name) } else { found }
}

fn by_dlsym(name: &'static str) -> *mut c_void {
    let is_behind = is_behind_libc();
    #[cfg(target_env = "gnu")]
    if !is_behind && !["close_range\0", "dlopen\0", "dlmopen\0", "__poll_chk\0", "__ppoll_chk\0"].contains(&name) {
        // SAFETY: the name ends in NUL.
        let found = catch_unwind(|| unsafe { redhook::ld_preload::dlsym_next(name) });
        return found.map_or(ptr::null_mut(), |found| found.cast_mut().cast());
    }
    // redhook knows glibc only, and panics where there is no such function: close_range came with 2.34, __poll_chk and
    // __ppoll_chk with 2.16, dlopen and dlmopen are in libdl before.
    found_from(if is_behind { libc::RTLD_DEFAULT } else { libc::RTLD_NEXT }, name)
}

/// Whether libc comes before this library in the loader's order, so that nothing comes after: musl's has what the program itself
/// loads by dlopen(3) behind all else. Such a library has nothing to interpose, but the program may look up its functions.
fn is_behind_libc() -> bool {
    const UNKNOWN: u8 = 2;
    static IS_BEHIND: AtomicU8 = AtomicU8::new(UNKNOWN);
    match IS_BEHIND.load(Relaxed) {
        UNKNOWN => {
            let is_behind = found_from(libc::RTLD_NEXT, "connect\0").is_null();
            IS_BEHIND.store(is_behind.into(), Relaxed);
            is_behind
        }
        known => known == 1,
    }
}

/// What dlsym(3) finds from there; the name ends in NUL.
fn found_from(handle: *mut c_void, name: &'static str) -> *mut c_void {
    // SAFETY: the name ends in NUL.
    let found = unsafe { libc::dlsym(handle, name.as_ptr().cast()) };
    if found.is_null() {
        libc_compat::forget_error();
    }
    found
}

/// Calls for each variable (`NAME=VALUE`) that begins so; std would copy all of them. For load time alone: later the
/// program may change them.
pub(crate) fn each_variable(prefix: &str, mut call: impl FnMut(&[u8])) {
    unsafe extern "C" {
        static environ: *const *const std::ffi::c_char;
    }
    // SAFETY: environ(7): null, or an array of strings that ends with a null pointer. Read while the library is
    // loaded, or by another library's constructor, before the program can change it.
    unsafe {
        let mut entry = environ;
        while !entry.is_null() && !(*entry).is_null() {
            let variable = std::ffi::CStr::from_ptr(*entry).to_bytes();
            if variable.starts_with(prefix.as_bytes()) {
                call(variable);
            }
            entry = entry.add(1);
        }
    }
}

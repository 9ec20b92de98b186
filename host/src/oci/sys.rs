//! Whose process this is.
#![allow(unsafe_code, reason = "a C interface; the use says why it is sound")]

/// The user that files are made as.
pub fn effective_user() -> u32 {
    // SAFETY: geteuid takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

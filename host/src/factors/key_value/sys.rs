//! Who this process is.
#![allow(unsafe_code, reason = "a C interface; the use says why it is sound")]

/// The effective user.
pub fn user_id() -> u32 {
    // SAFETY: geteuid takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

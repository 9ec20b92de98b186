//! What every part of the host uses.
//!
//! - [`template`]: secrets, variables and the templates that name them.
//! - [`printable`]: text of others on its way to a log, a page or a terminal.
//! - [`private`]: files and folders of the host's own.
//! - [`memory`]: how much memory the host may use, and how much it does.
//! - [`clock`]: the time of day.
#![warn(missing_docs)]

pub mod clock;
pub mod memory;
pub mod printable;
pub mod private;
pub mod template;

/// Bytes in hex.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

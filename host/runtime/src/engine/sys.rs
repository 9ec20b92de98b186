//! Loading compiled code.
#![allow(unsafe_code, reason = "wasmtime runs compiled code as it stands; the caller says where it is from")]

use wasmtime::Engine;
use wasmtime::component::Component;

/// Code that a compiler of this very program made, and that nobody had in hands since.
pub struct Trusted(pub(super) Vec<u8>);

/// Loads compiled code.
pub fn load(engine: &Engine, code: &Trusted) -> wasmtime::Result<Component> {
    // SAFETY: `Trusted` is made of what this program's own compiler wrote to a pipe (`compiler`), or of a
    // file whose keyed hash was checked against the source's digest (`store`); wasmtime itself refuses code
    // of another version or other settings.
    unsafe { Component::deserialize(engine, &code.0) }
}

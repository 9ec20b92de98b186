//! What a trap says of where it happened.

use std::time::Duration;

use super::CallError;

/// Functions that a trap names.
const FRAMES_MAX: usize = 8;
/// Those of Rust's own between a panic and its trap: they say nothing.
const PANIC: [&str; 6] = ["abort", "std::", "core::panicking::", "__rustc::", "rust_", "alloc::"];

/// The error of a call that ended with `error`.
pub fn trapped(error: &wasmtime::Error, time_max: Duration, with_frames: bool) -> CallError {
    match error.downcast_ref::<wasmtime::Trap>() {
        Some(wasmtime::Trap::Interrupt) => CallError::TimedOut(time_max),
        _ => match with_frames.then(|| frames(error)).flatten() {
            Some(frames) => CallError::Trapped(format!("{}; {frames}", one_line(error))),
            None => CallError::Trapped(one_line(error)),
        },
    }
}

/// The functions that were being called, innermost first; none where the code has no names.
fn frames(error: &wasmtime::Error) -> Option<String> {
    let backtrace = error.downcast_ref::<wasmtime::WasmBacktrace>()?;
    let name = |frame: &wasmtime::FrameInfo| {
        let symbol = frame.symbols().first();
        let name = symbol.and_then(wasmtime::FrameSymbol::name).or(frame.func_name())?;
        let name = rustc_demangle::demangle(name);
        Some(match symbol.and_then(|symbol| Some((symbol.file()?, symbol.line()?))) {
            Some((file, line)) => format!("{name:#} ({file}:{line})"),
            None => format!("{name:#}"),
        })
    };
    let is_of_a_panic = |name: &String| PANIC.iter().any(|of| name.starts_with(of));
    let names = backtrace.frames().iter().filter_map(name).skip_while(is_of_a_panic);
    let names: Vec<String> = names.take(FRAMES_MAX).collect();
    (!names.is_empty()).then(|| format!("called by {}", names.join(" < ")))
}

/// The error's causes without the backtrace of the wasm code.
pub fn one_line(error: &wasmtime::Error) -> String {
    let causes: Vec<String> = error
        .chain()
        .map(ToString::to_string)
        .filter(|cause| !cause.starts_with("error while executing at wasm backtrace"))
        .collect();
    causes.join(": ").replace('\n', " ")
}

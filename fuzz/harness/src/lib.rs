//! What the fuzzed targets share.
//!
//! # Layout
//! - here: a target, and the replay of what is kept for it.
//! - [`input`]: a fuzzer's bytes, taken from the front.
//! - [`columns`]: the columns of a batch, written as plainly as they can be.
#![allow(clippy::panic, reason = "what a target and its replay find is said by a panic")]

pub mod columns;
pub mod input;

use std::path::{Path, PathBuf};

/// A property of what is read, by its name: it panics where the property does not hold.
pub type Target = (&'static str, fn(&[u8]));

/// The target of a name.
pub fn target(targets: &[Target], name: &str) -> fn(&[u8]) {
    let found = targets.iter().find(|(other, _)| *other == name);
    let names = || targets.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    found.unwrap_or_else(|| panic!("FUZZ_TARGET is {name:?}: there is {}", names())).1
}

/// Gives each target its seeds, and what once broke it.
pub fn replay(targets: &[Target]) {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (name, check) in targets {
        let seeds = files(&kept.join("seeds").join(name));
        assert!(!seeds.is_empty(), "fuzz/seeds/{name} has no seed");
        for path in seeds.into_iter().chain(files(&kept.join("regressions").join(name))) {
            let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            // A panic's own message says what; the line before it says of which input.
            println!("{name}: {}", path.display());
            check(&bytes);
        }
    }
}

/// The files of a folder, in order; none where there is no folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

//! Rules of ARCHITECTURE.md that a machine keeps.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// All Rust files below a folder: path from the root, and text.
fn sources(folder: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
                found.push((name, std::fs::read_to_string(path).unwrap()));
            }
        }
    }
    assert!(!found.is_empty(), "no sources in {folder}");
    found
}

/// Files below `folder` that have `text` outside comments and are not `allowed`.
fn offenders(folder: &str, text: &str, allowed: &[&str]) -> Vec<String> {
    let uses = |source: &str| source.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(text));
    sources(folder)
        .into_iter()
        .filter(|(name, source)| uses(source) && !allowed.iter().any(|allowed| name.contains(allowed)))
        .map(|(name, _)| name)
        .collect()
}

#[test]
fn sql_of_functions_stands_only_in_their_store() {
    for verb in ["SELECT ", "INSERT INTO", "UPDATE public", "DELETE FROM"] {
        assert_eq!(offenders("functions", verb, &["src/store.rs"]), [""; 0], "{verb}");
    }
}

#[test]
fn unsafe_stands_only_in_sys() {
    assert_eq!(offenders("host", "unsafe ", &["/sys.rs", "tests/tidy.rs"]), [""; 0]);
    assert_eq!(offenders("functions", "unsafe ", &[]), [""; 0]);
}

#[test]
fn the_window_crate_is_pure() {
    for text in ["async ", "SystemTime", "Instant::now", "std::fs", "std::net", "spin_sdk"] {
        assert_eq!(offenders("functions/window", text, &[]), [""; 0], "{text}");
    }
}

#[test]
fn files_have_one_job() {
    const LINES_MAX: usize = 500;
    let long: Vec<_> = ["host", "functions", "sdk"]
        .iter()
        .flat_map(|folder| sources(folder))
        .filter(|(_, text)| text.lines().count() > LINES_MAX)
        .map(|(name, _)| name)
        .collect();
    assert_eq!(long, [""; 0]);
}

//! Rules of ARCHITECTURE.md that a machine keeps.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

use clap::CommandFactory;
use exagg::cli::Cli;

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
    let map = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    assert!(map.lines().count() <= 150, "ARCHITECTURE.md is read in one go: 150 lines at most");
}

/// Folders below `folder` with a Cargo.toml, and its text.
fn crates(folder: &str) -> Vec<(String, String)> {
    let manifest = |entry: std::fs::DirEntry| {
        let text = std::fs::read_to_string(entry.path().join("Cargo.toml")).ok()?;
        Some((entry.file_name().to_string_lossy().into_owned(), text))
    };
    std::fs::read_dir(root().join(folder)).unwrap().filter_map(|entry| manifest(entry.unwrap())).collect()
}

/// What CONTRIBUTING.md lists and no compiler misses: files that have to name each other.
#[test]
fn no_step_of_an_addition_is_forgotten() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    let missing = |path: &str, wanted: String| (!read(path).contains(&wanted)).then(|| format!("{path}: {wanted}"));
    let mut forgotten = Vec::new();
    for (folder, manifest) in crates("functions") {
        if manifest.contains("cdylib") {
            // Built by `functions`, tested by `PURE`.
            let built = read("Makefile").split_whitespace().filter(|word| *word == folder).count();
            forgotten.push((built < 2).then(|| format!("Makefile: -p {folder} in `functions` and in `PURE`")));
            forgotten.push(missing("spin.toml", format!("/{}.wasm", folder.replace('-', "_"))));
        }
    }
    for folder in ["host", "host/triggers"] {
        for (_, manifest) in crates(folder) {
            let name = manifest.lines().find_map(|line| line.strip_prefix("name = \"")).unwrap().trim_end_matches('"');
            forgotten.push(missing("Makefile", format!("-p {name}")));
        }
    }
    for entry in std::fs::read_dir(root().join("migrations")).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        if name.starts_with(|first: char| first.is_ascii_digit()) {
            forgotten.push(missing("host/pipeline/src/migrate.rs", format!("migrations/{name}\")")));
        }
    }
    for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
        forgotten.push(missing("README.md", format!("exagg {}", command.get_name())));
    }
    assert_eq!(forgotten.into_iter().flatten().collect::<Vec<_>>(), [""; 0]);
}

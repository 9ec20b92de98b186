//! What a registry answers. The first byte chooses what the rest is:
//! a reference, an image manifest, an archive, or what is within an archive's gzip.
#![allow(clippy::unwrap_used, reason = "a target says by panicking what does not hold")]

use std::io::Write;
use std::path::{Path, PathBuf};

use exagg_app::oci::looks_like_reference;
use exagg_common::hex;
use flate2::Compression;
use flate2::write::GzEncoder;
use fuzz_harness::input::Input;
use oci_client::manifest::{OciImageManifest, OciManifest};
use sha2::{Digest, Sha256};

use crate::archive::unpack;

/// Far above what an input of some kilobytes should ever become on the disk.
const UNPACKED_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;

pub fn check(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    match input.byte() % 4 {
        0 => check_reference(&String::from_utf8_lossy(input.rest())),
        1 => check_manifest(input.rest()),
        2 => check_archive(input.rest()),
        _ => check_archive(&compressed(input.rest())),
    }
}

/// A path to a folder is never taken for an app in a registry.
fn check_reference(text: &str) {
    if looks_like_reference(text) {
        assert!(!text.starts_with(['.', '/']), "{text:?}");
        assert!(text.contains('/') && !text.contains(char::is_whitespace), "{text:?}");
    }
}

/// As `oci-client` reads it; what is read once is the same when it is read again.
fn check_manifest(bytes: &[u8]) {
    if let Ok(OciManifest::Image(manifest)) = serde_json::from_slice::<OciManifest>(bytes) {
        let again: OciImageManifest = serde_json::from_slice(&serde_json::to_vec(&manifest).unwrap()).unwrap();
        assert_eq!(format!("{again:?}"), format!("{manifest:?}"));
    }
}

/// Whatever an archive says: what it leaves in the folder are files, each by the digest of its content,
/// and beside the folder it leaves nothing.
fn check_archive(archive: &[u8]) {
    let outside = Folder::new();
    let folder = outside.0.join("blobs");
    std::fs::create_dir(&folder).unwrap();
    // Refused or not: what stands there afterwards is looked at.
    let _ = unpack(archive, &folder);
    assert_eq!(names(&outside.0), ["blobs"]);
    let mut bytes_unpacked = 0;
    for path in files(&folder) {
        assert!(path.symlink_metadata().unwrap().is_file(), "{}", path.display());
        let content = std::fs::read(&path).unwrap();
        bytes_unpacked += content.len() as u64;
        assert_eq!(path.file_name().unwrap().to_str(), Some(hex(&Sha256::digest(&content)).as_str()));
    }
    assert!(bytes_unpacked <= UNPACKED_BYTES_MAX, "{bytes_unpacked} bytes out of {}", archive.len());
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Files below a folder, at any depth; a link is not followed.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.symlink_metadata().unwrap().is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

/// A folder of this process's own, until it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let thread = std::thread::current().id();
        let folder = std::env::temp_dir().join(format!("exagg-fuzz-{}-{thread:?}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without this, an adapter that unpacks nothing would hold every property.
    #[test]
    fn a_good_archive_is_unpacked() {
        let seed = include_bytes!("../../seeds/oci/two-files");
        let folder = Folder::new();
        unpack(&compressed(&seed[1..]), &folder.0).unwrap();
        let mut sizes: Vec<_> = files(&folder.0).iter().map(|path| path.metadata().unwrap().len()).collect();
        sizes.sort_unstable();
        assert_eq!(sizes, [3, 5]);
    }
}

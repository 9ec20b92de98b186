//! Properties of what the host reads. A target is a module here, a line in [`TARGETS`], a folder of
//! `fuzz/seeds` and a word in `fuzz/run.sh`.

pub mod admin;
mod archive;
pub mod batch;
pub mod configuration;
pub mod locked;
pub mod manifest;
pub mod oci;
mod permits;

use fuzz_harness::Target;

pub const TARGETS: [Target; 6] = [
    ("admin", admin::check),
    ("batch", batch::check),
    ("configuration", configuration::check),
    ("locked", locked::check),
    ("manifest", manifest::check),
    ("oci", oci::check),
];

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_kept_is_replayed() {
        fuzz_harness::replay(&super::TARGETS);
    }
}

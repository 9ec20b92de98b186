//! Manifests that registries gave before: a host that starts again does not need a registry for what it has.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use exagg_common::private;
use oci_client::Reference;
use oci_client::manifest::OciImageManifest;

use super::blobs::{Blobs, digest_of};
use super::remote::{MANIFEST_BYTES_MAX, parse};

/// Which manifest each reference named when it was last asked for. Manifests are blobs, by their digest.
pub struct Known {
    folder: PathBuf,
    blobs: Blobs,
}

impl Known {
    pub fn open(cache: &Path, blobs: Blobs) -> Result<Self> {
        let folder = cache.join("references");
        private::folder(&folder)?;
        Ok(Self { folder, blobs })
    }

    /// Remembers what the reference names.
    pub fn note(&self, reference: &Reference, manifest: &[u8]) -> Result<()> {
        let digest = self.blobs.write(manifest)?;
        private::write(&self.path(reference), digest.as_bytes())
    }

    /// What it named; none where that is not here.
    pub fn manifest(&self, reference: &Reference) -> Option<(OciImageManifest, String)> {
        let digest = match reference.digest() {
            Some(digest) => digest.to_owned(),
            None => std::fs::read_to_string(self.path(reference)).ok()?,
        };
        let bytes = self.blobs.read(&digest, MANIFEST_BYTES_MAX).ok()?;
        Some((parse(&bytes).context("a manifest that is kept").ok()?, digest))
    }

    fn path(&self, reference: &Reference) -> PathBuf {
        self.folder.join(digest_of(reference.whole().as_bytes()).replace(':', "-"))
    }
}

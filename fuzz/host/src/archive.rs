//! The one place that knows by which function of the host an archive is unpacked.

use std::path::Path;

use anyhow::Result;

/// Unpacks an archive (tar, gzip) from a registry into a folder of blobs.
pub(crate) fn unpack(archive: &[u8], folder: &Path) -> Result<()> {
    exagg_app::oci::unpack_archive(archive, folder)
}

//! Blobs by digest in a folder, and what an archive may unpack to.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use exagg_common::{hex, private};
use flate2::read::GzDecoder;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

/// What all archives of an app together may unpack to.
const UNPACKED_BYTES_MAX: u64 = 256 * 1024 * 1024;
const UNPACKED_ENTRIES_MAX: u64 = 10_000;
/// The largest file in an archive.
const ENTRY_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// How much more may be written to disk.
#[derive(Debug)]
pub struct Room {
    pub bytes: u64,
    pub files: u64,
}

impl Room {
    /// For the archives of one app.
    pub fn to_unpack() -> Self {
        Self { bytes: UNPACKED_BYTES_MAX, files: UNPACKED_ENTRIES_MAX }
    }
}

/// Unpacks an archive's files into a folder, each under the SHA-256 of its content in hex. What a pull does with
/// a layer, for those who test it.
pub fn unpack_archive(archive: &[u8], folder: &Path) -> Result<()> {
    private::folder(folder)?;
    Blobs(folder.to_owned()).unpack_from(archive, &mut Room::to_unpack())
}

pub fn digest_of(bytes: &[u8]) -> String {
    named(&Sha256::digest(bytes))
}

fn named(sha256: &[u8]) -> String {
    format!("sha256:{}", hex(sha256))
}

/// The digest of a file's content.
pub fn digest_of_file(path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    pass(&mut private::open(path)?, |bytes| {
        hash.update(bytes);
        Ok(())
    })?;
    Ok(named(&hash.finalize()))
}

/// Hands over all that can be read, a piece at a time, and gives its length.
fn pass(from: &mut impl Read, mut to: impl FnMut(&[u8]) -> Result<()>) -> Result<u64> {
    let mut buffer = vec![0; 64 * 1024];
    let mut total = 0;
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            return Ok(total);
        }
        total += count as u64;
        to(buffer.get(..count).unwrap_or_default())?;
    }
}

/// A file that was not there, for this user alone.
pub fn create(path: &Path) -> Result<File> {
    private::create_new(path).with_context(|| format!("cannot make {}", path.display()))
}

/// A file that is being written, and goes away unless it is kept.
pub struct Part {
    path: PathBuf,
    file: File,
    hash: Sha256,
}

impl Part {
    fn new(folder: &Path) -> Result<Self> {
        let path = folder.join(format!("part-{}", uuid::Uuid::new_v4()));
        Ok(Self { file: create(&path)?, path, hash: Sha256::new() })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hash.update(bytes);
        self.file.write_all(bytes).with_context(|| format!("cannot write {}", self.path.display()))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // It has another name by now where it is kept.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Blobs by digest in a folder.
#[derive(Clone)]
pub struct Blobs(PathBuf);

impl Blobs {
    pub fn open(cache: &Path) -> Result<Self> {
        private::folder(cache)?;
        let folder = cache.join("sha256");
        private::folder(&folder)?;
        Ok(Self(folder))
    }

    pub fn path(&self, digest: &str) -> Result<PathBuf> {
        let hex = digest.strip_prefix("sha256:").context("its digest is not of sha256")?;
        ensure!(hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()), "its digest is {digest:?}");
        Ok(self.0.join(hex))
    }

    /// Whether the blob is here and whole.
    pub fn has(&self, digest: &str) -> Result<bool> {
        let path = self.path(digest)?;
        Ok(digest_of_file(&path).is_ok_and(|found| found == digest))
    }

    /// The blob, if it is whole and has no more bytes than that.
    pub fn read(&self, digest: &str, bytes_max: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        private::open(&self.path(digest)?)?.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
        ensure!(bytes.len() <= bytes_max, "it has more than {bytes_max} bytes, which is the most");
        ensure!(digest_of(&bytes) == digest, "it is not what its digest {digest} says");
        Ok(bytes)
    }

    /// Gives the digest.
    pub fn write(&self, bytes: &[u8]) -> Result<String> {
        let mut part = Part::new(&self.0)?;
        part.write(bytes)?;
        self.keep(part)
    }

    /// What arrives becomes a blob, if it is as long as it should be, and has that digest.
    pub fn receive(&self, digest: &str, size: u64, mut arriving: mpsc::Receiver<Bytes>) -> Result<()> {
        let mut part = Part::new(&self.0)?;
        let mut left = size;
        while let Some(bytes) = arriving.blocking_recv() {
            left = left
                .checked_sub(bytes.len() as u64)
                .with_context(|| format!("the registry sends more than the {size} bytes that the manifest says"))?;
            part.write(&bytes)?;
        }
        ensure!(left == 0, "the registry sent {} of its {size} bytes", size - left);
        let found = named(&part.hash.clone().finalize());
        ensure!(found == digest, "the registry sent content with the digest {found}");
        self.keep(part).map(|_| ())
    }

    /// Another host may write the same at the same time: whoever comes last wins, with the same bytes.
    fn keep(&self, part: Part) -> Result<String> {
        let digest = named(&part.hash.clone().finalize());
        let path = self.path(&digest)?;
        std::fs::rename(&part.path, &path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(digest)
    }

    /// An archive's files become blobs of their own: the locked app names them by digest.
    pub fn unpack(&self, digest: &str, room: &mut Room) -> Result<()> {
        self.unpack_from(private::open(&self.path(digest)?)?, room)
    }

    fn unpack_from(&self, archive: impl Read, room: &mut Room) -> Result<()> {
        let unzipped = GzDecoder::new(archive);
        let Room { bytes, files } = room;
        let mut archive = tar::Archive::new(Bounded { from: unzipped, left: bytes });
        // Raw: names do not matter, and long ones would be gathered in memory.
        for entry in archive.entries().context("it is not an archive")?.raw(true) {
            let mut entry = entry.context("it is not an archive")?;
            *files = files.checked_sub(1).with_context(|| {
                format!("the app's archives have more than {UNPACKED_ENTRIES_MAX} entries, which is the most")
            })?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let size = entry.size();
            ensure!(
                size <= ENTRY_BYTES_MAX,
                "the archive has a file of {size} bytes: at most {ENTRY_BYTES_MAX} are taken"
            );
            let mut part = Part::new(&self.0)?;
            let written = pass(&mut entry, |bytes| part.write(bytes)).context("the archive is cut off")?;
            ensure!(written == size, "the archive is cut off");
            self.keep(part)?;
        }
        Ok(())
    }
}

/// Gives so many bytes, and then an error: an end would look like that of the archive.
struct Bounded<'a, R> {
    from: R,
    left: &'a mut u64,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.from.read(buffer)?;
        *self.left = self.left.checked_sub(count as u64).ok_or_else(|| {
            let error = format!("the app's archives unpack to more than {UNPACKED_BYTES_MAX} bytes, which is the most");
            std::io::Error::other(error)
        })?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn blobs() -> (tempfile::TempDir, Blobs) {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(&folder.path().join("registry")).unwrap();
        (folder, blobs)
    }

    /// A gzipped archive of files of zeros.
    fn zeros(sizes: &[u64]) -> Vec<u8> {
        let zip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut archive = tar::Builder::new(zip);
        for size in sizes {
            let mut header = tar::Header::new_ustar();
            header.set_size(*size);
            header.set_cksum();
            archive.append_data(&mut header, "zeros", std::io::repeat(0).take(*size)).unwrap();
        }
        archive.into_inner().unwrap().finish().unwrap()
    }

    fn unpacked(blobs: &Blobs, archive: &[u8], room: &mut Room) -> String {
        let digest = blobs.write(archive).unwrap();
        blobs.unpack(&digest, room).map_or_else(|error| format!("{error:#}"), |()| String::new())
    }

    fn parts(blobs: &Blobs) -> usize {
        let names = std::fs::read_dir(&blobs.0).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with("part-")).count()
    }

    #[test]
    fn a_blob_that_was_changed_is_not_used() {
        let (_folder, blobs) = blobs();
        let digest = blobs.write(b"code").unwrap();
        assert!(blobs.has(&digest).unwrap() && blobs.read(&digest, 4).is_ok());
        assert!(blobs.read(&digest, 3).is_err());
        std::fs::write(blobs.path(&digest).unwrap(), b"evil").unwrap();
        assert!(!blobs.has(&digest).unwrap() && blobs.read(&digest, 4).is_err());
        assert!(blobs.path("sha256:../../etc/passwd").is_err() && blobs.path("md5:00").is_err());
    }

    #[test]
    fn what_is_written_is_for_this_user_alone_and_no_link_is_followed() {
        let (folder, blobs) = blobs();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let digest = blobs.write(b"code").unwrap();
        let path = blobs.path(&digest).unwrap();
        assert_eq!((mode(&blobs.0), mode(&path)), (0o700, 0o600));
        let elsewhere = folder.path().join("elsewhere");
        std::fs::rename(&path, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert!(!blobs.has(&digest).unwrap(), "the content is right, and somebody else's to change");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&blobs.0, &link).unwrap();
        assert!(private::folder(&link).is_err() && create(&link).is_err());
    }

    #[test]
    fn an_archive_that_unpacks_to_too_much_is_an_error() {
        let (_folder, blobs) = blobs();
        let many = zeros(&[60 * 1024 * 1024; 5]);
        assert!(many.len() < 4 * 1024 * 1024, "a bomb is small");
        let error = unpacked(&blobs, &many, &mut Room::to_unpack());
        assert!(error.contains("unpack to more than 268435456 bytes"), "{error}");
        let error = unpacked(&blobs, &zeros(&[ENTRY_BYTES_MAX + 1]), &mut Room::to_unpack());
        assert!(error.contains("a file of 67108865 bytes"), "{error}");
        let error = unpacked(&blobs, &zeros(&vec![0; 10_001]), &mut Room::to_unpack());
        assert!(error.contains("more than 10000 entries"), "{error}");
        assert_eq!(parts(&blobs), 0);
    }

    #[test]
    fn archives_share_their_room() {
        let (_folder, blobs) = blobs();
        let mut room = Room { bytes: 10_000, files: 10 };
        assert_eq!(unpacked(&blobs, &zeros(&[2000]), &mut room), "");
        assert!(blobs.has(&digest_of(&[0; 2000])).unwrap());
        assert!(room.bytes < 8000 && room.files == 9);
        assert!(unpacked(&blobs, &zeros(&[7000]), &mut room).contains("unpack to more"));
    }

    #[test]
    fn an_archive_that_is_cut_off_is_an_error() {
        let (_folder, blobs) = blobs();
        let whole = zeros(&[100_000]);
        let error = unpacked(&blobs, &whole[..whole.len() / 2], &mut Room::to_unpack());
        assert!(!error.is_empty() && parts(&blobs) == 0, "{error}");
    }

    #[test]
    fn a_long_name_is_not_gathered_in_memory() {
        let (_folder, blobs) = blobs();
        let zip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut archive = tar::Builder::new(zip);
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::GNULongName);
        header.set_size(100_000);
        header.set_cksum();
        archive.append(&header, std::io::repeat(b'n').take(100_000)).unwrap();
        let bytes = archive.into_inner().unwrap().finish().unwrap();
        // Not raw, it is a name without a file, and an error.
        assert_eq!(unpacked(&blobs, &bytes, &mut Room::to_unpack()), "");
    }
}

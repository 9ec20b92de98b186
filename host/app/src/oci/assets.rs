//! Content of an app that was pulled: its code, and its files in a folder a component.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use exagg_common::{hex, private};
use sha2::{Digest, Sha256};

use super::APP_BYTES_MAX;
use super::blobs::{Blobs, Room, create, digest_of_file};
use crate::CODE_BYTES_MAX;
use crate::locked::{ContentPath, ContentRef, Contents};
use crate::spec::Files;

/// The most files that all components together may mount.
const FILES_MAX: u64 = 10_000;

/// Content of an app that was pulled.
pub struct Pulled {
    blobs: Blobs,
    assets: PathBuf,
    /// One blob may be named many times.
    room: RefCell<Room>,
}

/// Paths below a component's folder, and the digests of what stands there.
type Wanted = BTreeMap<PathBuf, String>;

impl Pulled {
    pub fn new(blobs: Blobs, assets: PathBuf) -> Self {
        Self { blobs, assets, room: RefCell::new(Room { bytes: APP_BYTES_MAX, files: FILES_MAX }) }
    }

    /// The digest of a blob that holds the content, and is here and whole.
    fn blob(&self, content: &ContentRef) -> Result<String> {
        if let Some(inline) = &content.inline {
            let bytes = STANDARD.decode(inline).context("content that is not base64")?;
            return self.blobs.write(&bytes);
        }
        let digest = content.digest.as_deref().context("content without a digest")?;
        ensure!(self.blobs.has(digest)?, "no layer holds {digest}");
        Ok(digest.to_owned())
    }

    /// Where a path is named twice, the last one counts.
    fn wanted(&self, files: &[ContentPath]) -> Result<Wanted> {
        let mut wanted = Wanted::new();
        for file in files {
            let path = crate::files::inside(&file.path)?;
            ensure!(!path.as_os_str().is_empty(), "a file without a name");
            let blob = self.blob(&file.content).with_context(|| format!("file {}", file.path.display()))?;
            let bytes = private::open(&self.blobs.path(&blob)?)?.metadata()?.len();
            let mut room = self.room.borrow_mut();
            room.files =
                room.files.checked_sub(1).with_context(|| format!("the app has more than {FILES_MAX} files"))?;
            let left = room.bytes.checked_sub(bytes);
            room.bytes = left.with_context(|| format!("the app's files have more than {APP_BYTES_MAX} bytes"))?;
            wanted.insert(path, blob);
        }
        Ok(wanted)
    }

    fn build(&self, part: &Path, wanted: &Wanted) -> Result<()> {
        private::folder(part)?;
        for (path, digest) in wanted {
            let target = part.join(path);
            let parent = target.parent().unwrap_or(part);
            let made = DirBuilder::new().recursive(true).mode(0o700).create(parent);
            made.with_context(|| format!("cannot make {}", parent.display()))?;
            copy(&self.blobs.path(digest)?, digest, &target)?;
        }
        Ok(())
    }
}

impl Contents for Pulled {
    fn code(&self, _: &str, content: &ContentRef) -> Result<PathBuf> {
        let path = self.blobs.path(&self.blob(content)?)?;
        let bytes = private::open(&path)?.metadata()?.len();
        ensure!(bytes <= CODE_BYTES_MAX as u64, "its code has {bytes} bytes: at most {CODE_BYTES_MAX} are taken");
        Ok(path)
    }

    fn files(&self, component: &str, files: &[ContentPath]) -> Result<Vec<Files>> {
        if files.is_empty() {
            return Ok(Vec::new());
        }
        // Named by its content: another host, or another version, may use the same state directory.
        let named = format!("{component}-{}", hex(&Sha256::digest(serde_json::to_vec(files)?)));
        let name = crate::files::inside(Path::new(&named))?;
        ensure!(!named.contains('/') && name == Path::new(&named), "the id {component:?} is not the name of a folder");
        let wanted = self.wanted(files)?;
        private::folder(&self.assets)?;
        let folder = self.assets.join(name);
        if !holds(&folder, &wanted) {
            let part = self.assets.join(format!("part-{}", uuid::Uuid::new_v4()));
            let put = self.build(&part, &wanted).and_then(|()| replace(&folder, &part));
            let _ = std::fs::remove_dir_all(&part);
            // Somebody may have been faster, with the same.
            put.or_else(|error| if holds(&folder, &wanted) { Ok(()) } else { Err(error) })?;
        }
        Ok(vec![Files::Mount { folder, path: "/".to_owned() }])
    }
}

/// Whether a folder of this user's has these files, and no others.
fn holds(folder: &Path, wanted: &Wanted) -> bool {
    let mut folders = vec![folder.to_owned()];
    let mut found = 0;
    while let Some(next) = folders.pop() {
        let is_own = |metadata: std::fs::Metadata| metadata.is_dir() && metadata.uid() == private::user();
        if !std::fs::symlink_metadata(&next).is_ok_and(is_own) {
            return false;
        }
        let Ok(entries) = std::fs::read_dir(&next) else { return false };
        for path in entries.map(|entry| entry.map(|entry| entry.path())) {
            let Ok(path) = path else { return false };
            if std::fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir()) {
                folders.push(path);
                continue;
            }
            let digest = path.strip_prefix(folder).ok().and_then(|relative| wanted.get(relative));
            if digest.is_none() || digest_of_file(&path).ok().as_ref() != digest {
                return false;
            }
            found += 1;
        }
    }
    found == wanted.len()
}

/// Puts the part in the folder's place, whatever stands there.
fn replace(folder: &Path, part: &Path) -> Result<()> {
    if std::fs::symlink_metadata(folder).is_ok() {
        tracing::warn!("{} is not as it was made: it is made anew", folder.display());
        let aside = part.with_extension("aside");
        std::fs::rename(folder, &aside).with_context(|| format!("cannot put {} aside", folder.display()))?;
        // Of a link, or a file, this takes away nothing else.
        let _ = std::fs::remove_dir_all(&aside).or_else(|_| std::fs::remove_file(&aside));
    }
    std::fs::rename(part, folder).with_context(|| format!("cannot make {}", folder.display()))
}

/// Copies a blob, which must be whole at that moment.
fn copy(blob: &Path, digest: &str, target: &Path) -> Result<()> {
    let (mut from, mut to, mut hash) = (private::open(blob)?, create(target)?, Sha256::new());
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = from.read(&mut buffer)?;
        let bytes = buffer.get(..count).unwrap_or_default();
        if bytes.is_empty() {
            break;
        }
        hash.update(bytes);
        to.write_all(bytes).with_context(|| format!("cannot write {}", target.display()))?;
    }
    ensure!(digest == format!("sha256:{}", hex(&hash.finalize())), "{} was changed", blob.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn pulled(folder: &Path) -> Pulled {
        Pulled::new(Blobs::open(&folder.join("b")).unwrap(), folder.join("a"))
    }

    fn file(path: &str) -> ContentPath {
        let content = ContentRef { inline: Some(STANDARD.encode("x")), ..ContentRef::default() };
        ContentPath { content, path: path.into() }
    }

    fn mount(pulled: &Pulled, path: &str) -> PathBuf {
        match pulled.files("c", &[file(path)]).unwrap().remove(0) {
            Files::Mount { folder, .. } => folder,
            pattern @ Files::Pattern { .. } => panic!("{pattern:?}"),
        }
    }

    #[test]
    fn files_of_a_pulled_app_stay_in_their_folder() {
        let folder = tempfile::tempdir().unwrap();
        let pulled = pulled(folder.path());
        let mounted = mount(&pulled, "d/e.txt");
        assert_eq!(std::fs::read_to_string(mounted.join("d/e.txt")).unwrap(), "x");
        assert!(mounted.starts_with(folder.path().join("a")));
        assert_eq!(mount(&pulled, "d/e.txt"), mounted);
        assert_ne!(mount(&pulled, "d/f.txt"), mounted, "another version has a folder of its own");
        for (id, path) in [("c", "../../out"), ("../c", "x"), ("/c", "x"), ("a/b", "x"), ("./c", "x"), ("c", "/")] {
            assert!(pulled.files(id, &[file(path)]).is_err(), "{id} {path}");
        }
        assert_eq!(std::fs::read_dir(folder.path().join("a")).unwrap().count(), 2, "no part is left");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&mounted.join("d")), mode(&mounted.join("d/e.txt"))), (0o700, 0o600));
    }

    #[test]
    fn a_folder_that_was_changed_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let pulled = pulled(folder.path());
        let mounted = mount(&pulled, "e.txt");
        let whole = || {
            assert_eq!(mount(&pulled, "e.txt"), mounted);
            assert_eq!(std::fs::read_to_string(mounted.join("e.txt")).unwrap(), "x");
            assert_eq!(std::fs::read_dir(&mounted).unwrap().count(), 1);
            assert!(std::fs::symlink_metadata(&mounted).unwrap().is_dir());
        };
        std::fs::write(mounted.join("e.txt"), "evil").unwrap();
        whole();
        std::fs::write(mounted.join("more"), "evil").unwrap();
        whole();
        std::fs::remove_file(mounted.join("e.txt")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", mounted.join("e.txt")).unwrap();
        whole();
        let elsewhere = folder.path().join("elsewhere");
        std::fs::rename(&mounted, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &mounted).unwrap();
        whole();
        assert!(elsewhere.join("e.txt").exists(), "what a link leads to is not ours");
    }

    #[test]
    fn a_blob_that_is_named_again_and_again_does_not_fill_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let pulled = pulled(folder.path());
        pulled.room.replace(Room { bytes: 2, files: 10 });
        let error = pulled.files("c", &[file("1"), file("2"), file("3")]).unwrap_err();
        assert!(format!("{error:#}").contains("the app's files have more than"), "{error:#}");
        pulled.room.replace(Room { bytes: 10, files: 2 });
        let error = pulled.files("c", &[file("1"), file("2"), file("3")]).unwrap_err();
        assert!(format!("{error:#}").contains("more than 10000 files"), "{error:#}");
    }
}

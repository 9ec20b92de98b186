//! Compiled code on disk. Each file is bound to its source's digest and to the compiler's settings by a keyed
//! hash: one that was changed, or put in the place of another, is compiled anew.

use std::hash::{Hash, Hasher};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use exagg_common::{hex, private};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};

use super::sys::Trusted;

const KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 32;
/// What the hash is of, first: another use of the same key would begin with something else.
const PURPOSE: &[u8] = b"exagg compiled code 1\0";

/// A folder of compiled code, with the key that its files are bound by.
pub struct Store {
    folder: PathBuf,
    key: hmac::Key,
}

/// Which code: the source's digest, and how it is compiled.
pub struct Identity {
    source: [u8; 32],
    settings: [u8; 32],
}

impl Identity {
    pub fn new(engine: &wasmtime::Engine, source: &[u8]) -> Self {
        let mut settings = Sha256Hasher(Sha256::new());
        engine.precompile_compatibility_hash().hash(&mut settings);
        Self { source: Sha256::digest(source).into(), settings: settings.0.finalize().into() }
    }

    fn file_name(&self) -> String {
        format!("{}-{}", hex(&self.source), hex(&self.settings[..8]))
    }
}

/// Feeds what is hashed to SHA-256.
struct Sha256Hasher(Sha256);

impl Hasher for Sha256Hasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Nobody asks: the digest is taken.
    fn finish(&self) -> u64 {
        0
    }
}

fn read_key(path: &Path) -> Result<Vec<u8>> {
    let mut key = Vec::new();
    private::open(path)?.take(KEY_BYTES as u64 + 1).read_to_end(&mut key)?;
    ensure!(key.len() == KEY_BYTES, "{} is not a key", path.display());
    Ok(key)
}

/// Makes the key, whole or not at all; where another host was faster, its key stays.
fn make_key(folder: &Path, path: &Path) -> Result<()> {
    let mut key = [0; KEY_BYTES];
    SystemRandom::new().fill(&mut key).map_err(|_| anyhow::anyhow!("the system gives no random bytes"))?;
    let part = folder.join(format!("key-{}", uuid::Uuid::new_v4().simple()));
    private::write(&part, &key)?;
    let linked = std::fs::hard_link(&part, path);
    let _ = std::fs::remove_file(&part);
    match linked {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("cannot make {}", path.display()))
        }
        _ => Ok(()),
    }
}

impl Store {
    /// Opens the folder, which must be this user's own, and its key, which is made the first time.
    pub fn open(folder: &Path) -> Result<Self> {
        private::folder(folder)?;
        let path = folder.join("key");
        let key = match read_key(&path) {
            Ok(key) => key,
            Err(error) => {
                if path.symlink_metadata().is_ok() {
                    tracing::warn!("all code is compiled anew: {error:#}");
                    let _ = std::fs::remove_file(&path);
                }
                make_key(folder, &path)?;
                read_key(&path)?
            }
        };
        Ok(Self { folder: folder.to_owned(), key: hmac::Key::new(hmac::HMAC_SHA256, &key) })
    }

    fn tag(&self, identity: &Identity, code: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [PURPOSE, &identity.source, &identity.settings, code] {
            context.update(part);
        }
        context.sign()
    }

    /// The code, where it is there and nobody has changed it.
    pub fn get(&self, identity: &Identity) -> Option<Trusted> {
        let path = self.folder.join(identity.file_name());
        if !path.exists() {
            return None;
        }
        match self.read(&path, identity) {
            Ok(code) => Some(Trusted(code)),
            Err(error) => {
                tracing::warn!("compiled code is not used, and is made anew: {error:#}");
                None
            }
        }
    }

    fn read(&self, path: &Path, identity: &Identity) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        private::open(path)?.read_to_end(&mut bytes).with_context(|| format!("cannot read {}", path.display()))?;
        ensure!(bytes.len() >= TAG_BYTES, "{} is cut off", path.display());
        let code = bytes.split_off(TAG_BYTES);
        let expected = self.tag(identity, &code);
        let same = bytes.iter().zip(expected.as_ref()).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0;
        ensure!(same, "{} is not what was compiled from its source here", path.display());
        Ok(code)
    }

    /// Keeps code. A folder that cannot be written costs the next start its time, and nothing else.
    pub fn put(&self, identity: &Identity, code: &Trusted) {
        let mut bytes = self.tag(identity, &code.0).as_ref().to_vec();
        bytes.extend_from_slice(&code.0);
        if let Err(error) = private::write(&self.folder.join(identity.file_name()), &bytes) {
            tracing::warn!("compiled code is not kept: {error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(source: u8) -> Identity {
        Identity { source: [source; 32], settings: [7; 32] }
    }

    #[test]
    fn code_that_was_changed_or_belongs_to_another_source_is_not_used() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("compiled");
        let store = Store::open(&folder).unwrap();
        let (a, b) = (identity(1), identity(2));
        store.put(&a, &Trusted(b"code of a".to_vec()));
        assert_eq!(store.get(&a).unwrap().0, b"code of a");
        // Also after the host was started again.
        assert!(Store::open(&folder).unwrap().get(&a).is_some());
        std::fs::copy(folder.join(a.file_name()), folder.join(b.file_name())).unwrap();
        assert!(store.get(&b).is_none(), "another source's code");
        let path = folder.join(a.file_name());
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(store.get(&a).is_none(), "changed code");
        std::fs::write(&path, b"short").unwrap();
        assert!(store.get(&a).is_none());
        store.put(&a, &Trusted(b"made anew".to_vec()));
        assert_eq!(store.get(&a).unwrap().0, b"made anew");
    }

    #[test]
    fn a_key_that_cannot_be_used_is_made_anew() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("compiled");
        let store = Store::open(&folder).unwrap();
        store.put(&identity(1), &Trusted(b"x".to_vec()));
        for broken in [&b""[..], b"half of it"] {
            std::fs::write(folder.join("key"), broken).unwrap();
            assert!(Store::open(&folder).unwrap().get(&identity(1)).is_none());
        }
        let names = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(names.filter(|name| name.to_string_lossy().starts_with("key")).count(), 1);
    }

    #[test]
    fn another_key_is_another_store() {
        let scratch = tempfile::tempdir().unwrap();
        let (one, two) = (scratch.path().join("1"), scratch.path().join("2"));
        let store = Store::open(&one).unwrap();
        store.put(&identity(1), &Trusted(b"x".to_vec()));
        let other = Store::open(&two).unwrap();
        let name = identity(1).file_name();
        std::fs::copy(one.join(&name), two.join(&name)).unwrap();
        assert!(other.get(&identity(1)).is_none());
    }
}

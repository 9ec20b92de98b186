//! The file of all stores: its owner's, and no link.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use exagg_common::private;
use redb::{Database, ReadableDatabase};

use super::{quota, wit};

/// Pages in memory; without a number it would be a gigabyte.
const CACHE_BYTES: usize = 32 * 1024 * 1024;

/// Why the file cannot be used; it is tried once a process.
#[derive(Debug, thiserror::Error)]
enum FileError {
    /// It is a link, somebody else's, or its folder cannot be written.
    #[error("{0:#}")]
    Private(anyhow::Error),
    /// It is no file of stores, a damaged one, or in use by another process.
    #[error(transparent)]
    Database(#[from] redb::Error),
    #[error("{0:?}")]
    Totals(wit::Error),
}

/// It is made when a component first opens a store.
pub struct StoreFile {
    path: PathBuf,
    database: OnceLock<Result<Database, FileError>>,
}

impl StoreFile {
    pub fn new(path: PathBuf) -> Self {
        Self { path, database: OnceLock::new() }
    }

    pub fn database(&self) -> Result<&Database, wit::Error> {
        let open = || create(&self.path).and_then(database);
        let in_file = |error: &FileError| wit::Error::Other(format!("{}: {error}", self.path.display()));
        self.database.get_or_init(open).as_ref().map_err(in_file)
    }
}

/// Values may be secrets, and a link in a folder that others may write to would have another file overwritten.
fn create(path: &Path) -> Result<File, FileError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    private::state_folder(folder).and_then(|()| private::open_or_create(path)).map_err(FileError::Private)
}

fn database(file: File) -> Result<Database, FileError> {
    let database = Database::builder().set_cache_size(CACHE_BYTES).create_file(file).map_err(redb::Error::from)?;
    let read = database.begin_read().map_err(redb::Error::from)?;
    if matches!(read.open_table(quota::TOTALS), Err(redb::TableError::TableDoesNotExist(_))) {
        let write = database.begin_write().map_err(redb::Error::from)?;
        quota::count(&write).map_err(FileError::Totals)?;
        write.commit().map_err(redb::Error::from)?;
    }
    drop(read);
    Ok(database)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;
    use crate::factors::key_value::VALUES;

    /// Take out: a mode, or `O_NOFOLLOW`.
    #[test]
    fn the_file_is_its_owners_and_no_link() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.redb");
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        create(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let link = folder.path().join("link.redb");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(create(&link).is_err());
        assert!(create(folder.path()).is_err());
    }

    #[test]
    fn what_was_written_before_totals_were_kept_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.redb");
        let old = Database::builder().create_file(create(&path).unwrap()).unwrap();
        let write = old.begin_write().unwrap();
        {
            let mut values = write.open_table(VALUES).unwrap();
            values.insert(("default", "key"), b"value".as_slice()).unwrap();
            values.insert(("default", "k"), b"v".as_slice()).unwrap();
            values.insert(("other", "k"), b"".as_slice()).unwrap();
        }
        write.commit().unwrap();
        drop(old);
        let file = StoreFile::new(path);
        let read = file.database().unwrap().begin_read().unwrap();
        let totals = read.open_table(quota::TOTALS).unwrap();
        assert_eq!(quota::read(&totals, "default").unwrap(), quota::Totals { bytes: 10, keys: 2 });
        assert_eq!(quota::read(&totals, "other").unwrap(), quota::Totals { bytes: 1, keys: 1 });
    }
}

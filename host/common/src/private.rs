//! Folders and files of the host's own. They belong to the user that it runs as, nobody else may enter or
//! write them, and links are not followed: what was put in their place is refused where it is opened.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// What group and others may do with a thing that is private: nothing.
const OTHERS: u32 = 0o077;
const ROOT: u32 = 0;
/// A folder that anybody may put things into, `/tmp` for instance.
pub const STICKY: u32 = 0o1000;

/// The user that this process acts as.
pub fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Makes a private folder, or sees that the one there is: a real folder of this user's. One that others may
/// look into is closed to them.
pub fn folder(path: &Path) -> Result<()> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make_parents(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("cannot make {}", path.display()))
        }
        _ => check_folder(path),
    }
}

fn make_parents(path: &Path) -> std::io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn check_folder(path: &Path) -> Result<()> {
    let found = fs::symlink_metadata(path).with_context(|| format!("cannot look at {}", path.display()))?;
    ensure!(found.is_dir(), "{} is not a folder (a link is not followed): remove it", path.display());
    belongs(path, found.uid())?;
    if found.mode() & OTHERS != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))
            .with_context(|| format!("cannot close {} to others", path.display()))?;
    }
    Ok(())
}

fn belongs(path: &Path, owner: u32) -> Result<()> {
    let user = user();
    ensure!(
        owner == user,
        "{} belongs to the user {owner}, and this host runs as {user}: remove it, run as its owner, or name \
         another --state-dir",
        path.display()
    );
    Ok(())
}

/// The state directory itself. It may be a volume that belongs to root and is open to this user (an
/// `emptyDir` of Kubernetes is): what the host puts into it is private in any case.
pub fn state_folder(path: &Path) -> Result<()> {
    make_parents(path).with_context(|| format!("cannot make {}", path.display()))?;
    let found = fs::metadata(path).with_context(|| format!("cannot look at {}", path.display()))?;
    ensure!(found.is_dir(), "{} is not a folder", path.display());
    if found.uid() == user() && found.mode() & STICKY == 0 {
        // Others may pass through, which the embedded PostgreSQL's user has to, and see nothing.
        let mode = found.mode() & 0o7777;
        let closed = mode & !0o066;
        if mode != closed {
            fs::set_permissions(path, fs::Permissions::from_mode(closed))
                .with_context(|| format!("cannot close {} to others", path.display()))?;
        }
        return Ok(());
    }
    // One that all users share, a tmpfs for instance, stays as it is: what stands in it is looked at itself.
    if found.uid() != ROOT {
        belongs(path, found.uid())?;
    }
    Ok(())
}

/// Opens a file to read: a regular file of this user's that nobody else may write.
pub fn open(path: &Path) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    let found = file.metadata()?;
    ensure!(found.is_file(), "{} is not a file", path.display());
    belongs(path, found.uid())?;
    if found.mode() & 0o002 != 0 {
        bail!("{} may be written by others: remove it", path.display());
    }
    if found.mode() & 0o020 != 0 {
        // A volume that is mounted for a group (fsGroup of Kubernetes) opens all files to it.
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

/// Opens a file to read and write, and makes it where it is not there; one that others may look into is closed
/// to them.
pub fn open_or_create(path: &Path) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .with_context(|| format!("cannot open {} (a link is not followed)", path.display()))?;
    let found = file.metadata()?;
    ensure!(found.is_file(), "{} is not a file", path.display());
    belongs(path, found.uid())?;
    if found.mode() & OTHERS != 0 {
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

/// Makes a file that is not there yet, for this user alone.
pub fn create_new(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path)
}

/// Writes a file as a whole or not at all: a reader sees the old one or the new one.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let part = path.with_extension(format!("part-{}", uuid::Uuid::new_v4().simple()));
    let written = create_new(&part)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&part, path))
        .with_context(|| format!("cannot write {}", path.display()));
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn folders_and_files_are_closed_to_others_whatever_the_umask() {
        let scratch = tempfile::tempdir().unwrap();
        let made = scratch.path().join("a/b");
        folder(&made).unwrap();
        assert_eq!(mode(&made), 0o700);
        fs::set_permissions(&made, fs::Permissions::from_mode(0o755)).unwrap();
        folder(&made).unwrap();
        assert_eq!(mode(&made), 0o700);
        let file = made.join("x");
        write(&file, b"1").unwrap();
        write(&file, b"2").unwrap();
        assert_eq!((mode(&file), fs::read(&file).unwrap()), (0o600, b"2".to_vec()));
        assert_eq!(fs::read_dir(&made).unwrap().count(), 1, "nothing is left behind");
        let state = scratch.path().join("state");
        fs::create_dir(&state).unwrap();
        fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).unwrap();
        state_folder(&state).unwrap();
        assert_eq!(mode(&state), 0o711);
        fs::set_permissions(&state, fs::Permissions::from_mode(0o1777)).unwrap();
        state_folder(&state).unwrap();
        assert_eq!(mode(&state), 0o777, "others' folder is not closed to them");
    }

    #[test]
    fn links_and_things_that_others_may_write_are_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let (real, link) = (scratch.path().join("real"), scratch.path().join("link"));
        fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert!(format!("{:#}", folder(&link).unwrap_err()).contains("a link is not followed"));
        let file = real.join("file");
        fs::write(&file, "x").unwrap();
        let linked = scratch.path().join("linked");
        std::os::unix::fs::symlink(&file, &linked).unwrap();
        assert!(open(&linked).is_err());
        assert!(create_new(&linked).is_err());
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(format!("{:#}", open(&file).unwrap_err()).contains("may be written by others"));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(open(&file).is_ok());
    }

    /// Only the superuser can give a thing away to see that it is refused.
    #[test]
    fn what_belongs_to_somebody_else_is_refused() {
        if user() != ROOT {
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let (other, file) = (scratch.path().join("other"), scratch.path().join("file"));
        fs::create_dir(&other).unwrap();
        fs::write(&file, "x").unwrap();
        for path in [&other, &file] {
            std::os::unix::fs::chown(path, Some(12345), None).unwrap();
        }
        assert!(format!("{:#}", folder(&other).unwrap_err()).contains("belongs to the user 12345"));
        assert!(state_folder(&other).is_err() && open(&file).is_err());
    }
}

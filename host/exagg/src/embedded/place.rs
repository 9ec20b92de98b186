//! Where the embedded PostgreSQL's files are, and whose they are.
//!
//! PostgreSQL refuses to run as root. For a host that is root it runs as another user, who owns the folder
//! `data` and nothing beside it: the password, the log and the lock stand in a folder of root's. That folder
//! lies in the state directory where the other user can go there, else below `/var/lib`, where nobody but
//! root can have made it; a folder in a place that anybody can write would be somebody else's to prepare.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use exagg_common::private;

/// For a host that is root with a state directory that PostgreSQL's user cannot enter.
const SYSTEM_FOLDER: &str = "/var/lib/exagg";
/// What is there of a database that was set up to its end; initdb writes the second late.
const COMPLETE: [&str; 2] = ["PG_VERSION", "global/pg_control"];
/// How the names of folders begin that a database is set up in.
const SETUP: &str = "data.setup-";
/// Others may pass through and see nothing.
const PASSABLE: u32 = 0o711;

/// The user that PostgreSQL runs as when the host is root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemUser {
    pub uid: u32,
    pub gid: u32,
}

impl SystemUser {
    /// `postgres` where there is such a user, else `nobody`.
    pub fn unprivileged() -> Result<Self> {
        let users = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
        ["postgres", "nobody"]
            .iter()
            .find_map(|name| Self::find(&users, name))
            .context("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody")
    }

    fn find(users: &str, name: &str) -> Option<Self> {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some(Self { uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? })
    }
}

/// The folder of one embedded database.
#[derive(Clone)]
pub struct Place {
    /// The host's own: the password, the lock, the log.
    pub folder: PathBuf,
    /// Whom PostgreSQL runs as; none is the host's own user.
    pub user: Option<SystemUser>,
}

impl Place {
    /// Finds or makes the folder of a state directory.
    pub fn open(state_dir: &Path, user: Option<SystemUser>) -> Result<Self> {
        private::state_folder(state_dir)?;
        let state_dir = fs::canonicalize(state_dir)?;
        let found = fs::metadata(&state_dir)?;
        if user.is_some() && found.uid() == private::user() && found.mode() & private::STICKY == 0 {
            // PostgreSQL's user has to pass through; what is in it is private in any case.
            fs::set_permissions(&state_dir, fs::Permissions::from_mode(PASSABLE))?;
        }
        let folder = match &user {
            Some(user) if !passable(&state_dir) => {
                let folder = system_folder(&state_dir)?;
                tracing::info!(
                    "the embedded database lies in {}: its user ({}) cannot go to {}",
                    folder.display(),
                    user.uid,
                    state_dir.display()
                );
                folder
            }
            _ => state_dir.join("postgres"),
        };
        let place = Self { folder, user };
        place.take()?;
        Ok(place)
    }

    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Makes the folder this host's own.
    fn take(&self) -> Result<()> {
        let found = fs::symlink_metadata(&self.folder);
        if let (Some(user), Ok(found)) = (&self.user, &found)
            && found.is_dir()
            && found.uid() == user.uid
        {
            self.take_back()?;
        }
        private::folder(&self.folder)?;
        if self.user.is_some() {
            fs::set_permissions(&self.folder, fs::Permissions::from_mode(PASSABLE))?;
        }
        Ok(())
    }

    /// Earlier versions gave the whole folder to PostgreSQL's user: what it has put there is looked at first.
    fn take_back(&self) -> Result<()> {
        self.files()?;
        lchown(&self.folder, Some(private::user()), None)?;
        // Once more: now nobody else can put anything there.
        for path in self.files()? {
            lchown(&path, Some(private::user()), None)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        }
        Ok(())
    }

    /// The files of the folder, which has no links.
    fn files(&self) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let found = fs::symlink_metadata(&path)?;
            ensure!(
                found.is_file() || found.is_dir(),
                "{} is a link, which this host did not make: look at it, and remove it",
                path.display()
            );
            if found.is_file() {
                files.push(path);
            }
        }
        Ok(files)
    }

    /// Gives a file of the folder, which only this host can write, to PostgreSQL's user.
    pub fn give(&self, path: &Path) -> Result<()> {
        if let Some(user) = &self.user {
            lchown(path, Some(user.uid), Some(user.gid))
                .with_context(|| format!("cannot give {} to PostgreSQL's user", path.display()))?;
        }
        Ok(())
    }

    /// Whether there is a database that was set up to its end. A folder in its place that holds anything else is
    /// refused, and left as it is.
    pub fn has_database(&self) -> Result<bool> {
        let data = self.data();
        if fs::symlink_metadata(&data).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
            return Ok(false);
        }
        let missing = COMPLETE.into_iter().find(|file| !data.join(file).exists());
        let Some(missing) = missing else { return Ok(true) };
        let is_empty = fs::read_dir(&data).with_context(|| format!("cannot read {}", data.display()))?.next().is_none();
        ensure!(
            is_empty,
            "{} is no whole database ({missing} is missing), and is left as it is: move it away to begin with an \
             empty one, or name another --state-dir",
            data.display()
        );
        fs::remove_dir(&data).with_context(|| format!("cannot remove {}, which is empty", data.display()))?;
        Ok(false)
    }

    /// Makes the folder that a database is set up in, before it is renamed into its place. It has a name of its own:
    /// the initdb of a host that was killed may still be at work in another one. Those are removed.
    pub fn make_setup(&self) -> Result<PathBuf> {
        for entry in fs::read_dir(&self.folder)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(SETUP) {
                // What cannot be removed now, for somebody writes to it, is at the next start.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let setup = self.folder.join(format!("{SETUP}{}", uuid::Uuid::new_v4().simple()));
        fs::DirBuilder::new().mode(0o700).create(&setup).with_context(|| format!("cannot make {}", setup.display()))?;
        self.give(&setup)?;
        Ok(setup)
    }
}

/// Whether any user can pass through the folder and all above it, and none but root can have put another in
/// the place of one of them.
fn passable(folder: &Path) -> bool {
    folder.ancestors().all(|path| {
        fs::metadata(path).is_ok_and(|found| {
            let open_to_others = found.mode() & 0o002 != 0 && found.mode() & 0o1000 == 0;
            found.mode() & 0o001 != 0 && !open_to_others && found.uid() == private::user()
        })
    })
}

fn system_folder(state_dir: &Path) -> Result<PathBuf> {
    let system = Path::new(SYSTEM_FOLDER);
    private::folder(system).with_context(|| {
        format!(
            "the embedded PostgreSQL, which does not run as root, cannot go to {}: run as another user, or name a \
             --state-dir that every user can pass through",
            state_dir.display()
        )
    })?;
    fs::set_permissions(system, fs::Permissions::from_mode(PASSABLE))?;
    Ok(system.join(state_dir.to_string_lossy().trim_start_matches('/').replace('/', "-")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_name() {
        let users = "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65533:n:/:/bin/false\n";
        assert_eq!(SystemUser::find(users, "nobody"), Some(SystemUser { uid: 65534, gid: 65533 }));
        assert_eq!(SystemUser::find(users, "postgres"), None);
    }

    #[test]
    fn a_folder_that_somebody_else_prepared_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let state = scratch.path().join("state");
        let place = Place::open(&state, None).unwrap();
        assert_eq!(fs::metadata(&place.folder).unwrap().mode() & 0o777, 0o700);
        fs::remove_dir(&place.folder).unwrap();
        std::os::unix::fs::symlink(scratch.path(), &place.folder).unwrap();
        assert!(Place::open(&state, None).is_err(), "a link");
        if private::user() != 0 {
            return;
        }
        fs::remove_file(&place.folder).unwrap();
        fs::create_dir(&place.folder).unwrap();
        lchown(&place.folder, Some(12345), None).unwrap();
        assert!(Place::open(&state, None).is_err(), "another user's");
    }

    /// Take out: the look at `COMPLETE`, or at what a folder holds.
    #[test]
    fn nothing_but_a_whole_database_is_taken_for_one_and_nothing_is_deleted() {
        let scratch = tempfile::tempdir().unwrap();
        let place = Place { folder: scratch.path().to_owned(), user: None };
        assert!(!place.has_database().unwrap());
        fs::create_dir_all(place.data().join("global")).unwrap();
        fs::write(place.data().join("PG_VERSION"), "15").unwrap();
        let error = place.has_database().unwrap_err().to_string();
        assert!(error.contains("pg_control") && error.contains("move it away"), "{error}");
        assert!(place.data().join("PG_VERSION").exists(), "it is left as it is");
        fs::write(place.data().join("global/pg_control"), "").unwrap();
        assert!(place.has_database().unwrap());
        fs::remove_dir_all(place.data()).unwrap();
        fs::create_dir(place.data()).unwrap();
        assert!(!place.has_database().unwrap(), "an empty folder is no loss");
        // What a set-up left that was cut off is begun anew.
        let setup = place.make_setup().unwrap();
        fs::write(setup.join("PG_VERSION"), "15").unwrap();
        assert_eq!(fs::read_dir(place.make_setup().unwrap()).unwrap().count(), 0);
        assert!(!place.has_database().unwrap());
    }

    /// As root: the database's user owns its data, and none of the files that the host reads and writes.
    #[test]
    fn the_databases_user_owns_its_data_and_nothing_else() {
        if private::user() != 0 {
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("postgres");
        let user = SystemUser { uid: 12345, gid: 12345 };
        let place = Place { folder: folder.clone(), user: Some(user) };
        place.take().unwrap();
        fs::rename(place.make_setup().unwrap(), place.data()).unwrap();
        let owner = |path: &Path| fs::metadata(path).unwrap().uid();
        assert_eq!((owner(&folder), owner(&place.data())), (0, 12345));
        // As earlier versions left it, with a link that its user put there.
        lchown(&folder, Some(12345), None).unwrap();
        let (password, log) = (folder.join("password"), folder.join("postgres.log"));
        fs::write(&password, "x").unwrap();
        lchown(&password, Some(12345), None).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &log).unwrap();
        assert!(place.take().unwrap_err().to_string().contains("is a link"));
        fs::remove_file(&log).unwrap();
        place.take().unwrap();
        assert_eq!((owner(&folder), owner(&password), owner(&place.data())), (0, 0, 12345));
    }
}

//! Files that a component sees: gathered in one folder of the state directory, mounted read-only
//! at `/`, as Spin does it. A link is followed only where it stays within the folder that was named: one to
//! anywhere else would give a function the host's own files.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component as Part, Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use exagg_common::private;

use crate::spec::{App, Files};

/// Copies what the manifest's `files` name below `assets`, one folder a component, so that each
/// component has mounts only.
pub fn stage(app: &mut App, assets: &Path) -> Result<()> {
    for (id, component) in &mut app.components {
        if component.files.iter().all(|files| matches!(files, Files::Mount { folder, .. } if folder.is_dir())) {
            continue;
        }
        private::folder(assets)?;
        let folder = assets.join(id);
        let staged = fresh(&folder).and_then(|()| component.files.iter().try_for_each(|files| copy(files, &folder)));
        staged.with_context(|| format!("component {id}: files"))?;
        component.files = vec![Files::Mount { folder, path: "/".to_owned() }];
    }
    Ok(())
}

/// An empty folder, whatever stood there.
pub fn fresh(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot empty {}", folder.display()))
        }
        _ => private::folder(folder),
    }
}

/// The folder that files are taken from, and that no link may leave.
struct Origin(PathBuf);

impl Origin {
    fn new(folder: &Path) -> Result<Self> {
        let real = std::fs::canonicalize(folder).with_context(|| format!("cannot find {}", folder.display()))?;
        Ok(Self(real))
    }

    /// Where the path really is.
    fn resolve(&self, path: &Path) -> Result<PathBuf> {
        let real = std::fs::canonicalize(path).with_context(|| format!("cannot find {}", path.display()))?;
        ensure!(
            real.starts_with(&self.0),
            "{} leads out of {}: a component's files are those of its folder",
            path.display(),
            self.0.display()
        );
        Ok(real)
    }

    /// Reads a file; a link that somebody puts in its place meanwhile is not followed.
    fn read(&self, path: &Path) -> Result<Vec<u8>> {
        let real = self.resolve(path)?;
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&real);
        let mut file = file.with_context(|| format!("cannot read {}", path.display()))?;
        ensure!(file.metadata()?.is_file(), "{} is neither a file nor a folder", path.display());
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut file, &mut bytes).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(bytes)
    }

    /// All files below a path of this folder, with their paths from there, in order.
    fn walk(&self, path: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
        let mut found = Vec::new();
        let mut folders = vec![(path.to_owned(), 0)];
        while let Some((next, depth)) = folders.pop() {
            ensure!(depth < DEPTH_MAX, "{} is too deep: does a link lead back?", next.display());
            for entry in std::fs::read_dir(&next).with_context(|| format!("cannot read {}", next.display()))? {
                let entry = entry?.path();
                if self.resolve(&entry)?.is_dir() {
                    folders.push((entry, depth + 1));
                } else {
                    let relative = entry.strip_prefix(path).unwrap_or(&entry).to_owned();
                    found.push((entry, relative));
                }
            }
        }
        found.sort();
        Ok(found)
    }
}

/// Folders within folders.
const DEPTH_MAX: usize = 32;

fn copy(files: &Files, into: &Path) -> Result<()> {
    match files {
        Files::Mount { folder, path } => {
            // What the manifest names may be a link itself: its author chose it.
            let origin = Origin::new(folder)?;
            copy_tree(&origin, &origin.0, &into.join(inside(Path::new(path))?))
        }
        Files::Pattern { base, pattern } => {
            let origin = Origin::new(if base.as_os_str().is_empty() { Path::new(".") } else { base })?;
            ensure!(Path::new(pattern).is_relative(), "{pattern:?} is no path within the app's folder");
            let full = base.join(pattern);
            let full = full.to_str().context("a pattern that is not UTF-8")?;
            let mut found = false;
            for path in glob::glob(full).with_context(|| format!("the pattern {pattern:?}"))? {
                let path = path?;
                // The name of a folder is all that is in it; a pattern is the files that match.
                if path.is_file() || base.join(pattern) == path {
                    found = true;
                    let relative = path.strip_prefix(base).unwrap_or(&path);
                    copy_tree(&origin, &path, &into.join(inside(relative)?))?;
                }
            }
            ensure!(found, "no file matches {pattern:?}");
            Ok(())
        }
    }
}

fn copy_tree(origin: &Origin, from: &Path, to: &Path) -> Result<()> {
    if !origin.resolve(from)?.is_dir() {
        return copy_file(origin, from, to);
    }
    origin.walk(from)?.iter().try_for_each(|(file, relative)| copy_file(origin, file, &to.join(relative)))
}

fn copy_file(origin: &Origin, from: &Path, to: &Path) -> Result<()> {
    let bytes = origin.read(from)?;
    private::folder(to.parent().unwrap_or(Path::new(".")))?;
    private::write(to, &bytes)
}

/// A path below a folder: `/a/b` and `a/b` are, `../a` is not.
pub fn inside(path: &Path) -> Result<PathBuf> {
    let mut below = PathBuf::new();
    for part in path.components() {
        match part {
            Part::Normal(name) => below.push(name),
            Part::RootDir | Part::CurDir => {}
            Part::ParentDir | Part::Prefix(_) => bail!("{} leaves the component's folder", path.display()),
        }
    }
    Ok(below)
}

/// The files of a folder: what each holds, and its path from there, in order.
pub fn read_all(folder: &Path) -> Result<Vec<(Vec<u8>, PathBuf)>> {
    let origin = Origin::new(folder)?;
    let files = origin.walk(&origin.0)?;
    files.into_iter().map(|(file, relative)| Ok((origin.read(&file)?, relative))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An app's folder with a file, a link to it, and a link to a file of the host's.
    fn folder(scratch: &Path) -> PathBuf {
        let app = scratch.join("app");
        std::fs::create_dir_all(app.join("files/deep")).unwrap();
        std::fs::write(app.join("files/deep/a"), "a").unwrap();
        std::fs::write(scratch.join("secret"), "of the host").unwrap();
        std::os::unix::fs::symlink("deep/a", app.join("files/link")).unwrap();
        app
    }

    fn stage_one(files: Files, assets: &Path) -> Result<()> {
        fresh(assets)?;
        copy(&files, assets)
    }

    #[test]
    fn links_within_the_folder_are_files_and_links_out_of_it_are_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let (app, assets) = (folder(scratch.path()), scratch.path().join("assets"));
        let pattern = |pattern: &str| Files::Pattern { base: app.clone(), pattern: pattern.to_owned() };
        let mount = || Files::Mount { folder: app.join("files"), path: "/".to_owned() };
        stage_one(pattern("files"), &assets).unwrap();
        assert_eq!(std::fs::read(assets.join("files/link")).unwrap(), b"a");
        assert!(std::fs::symlink_metadata(assets.join("files/link")).unwrap().is_file());
        assert_eq!(read_all(&app.join("files")).unwrap().len(), 2);
        for (name, target) in [("out", "../../secret"), ("passwd", "/etc/passwd")] {
            let link = app.join("files").join(name);
            std::os::unix::fs::symlink(target, &link).unwrap();
            for files in [pattern("files"), pattern("files/*"), pattern(&format!("files/{name}")), mount()] {
                let staged = stage_one(files.clone(), &assets);
                assert!(staged.is_err(), "{name} by {files:?}");
            }
            assert!(read_all(&app.join("files")).is_err());
            std::fs::remove_file(&link).unwrap();
        }
        // A link to a folder above leads back into it for ever, or out of it.
        std::os::unix::fs::symlink("..", app.join("files/up")).unwrap();
        assert!(stage_one(pattern("files"), &assets).is_err() && stage_one(mount(), &assets).is_err());
        for wrong in ["/etc/passwd", "../secret", "files/../../secret"] {
            assert!(stage_one(pattern(wrong), &assets).is_err(), "{wrong}");
        }
    }

    #[test]
    fn paths_stay_inside() {
        assert_eq!(inside(Path::new("/a/./b")).unwrap(), Path::new("a/b"));
        assert!(inside(Path::new("../a")).is_err());
        assert!(inside(Path::new("/a/../../b")).is_err());
    }
}

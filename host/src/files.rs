//! Files that a component sees: gathered in one folder of the state directory, mounted read-only
//! at `/`, as Spin does it.

use std::path::{Component as Part, Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::app::{App, Files};

/// Copies what the manifest's `files` name below `assets`, one folder a component, so that each
/// component has mounts only.
pub fn stage(app: &mut App, assets: &Path) -> Result<()> {
    for (id, component) in &mut app.components {
        if component.files.iter().all(|files| matches!(files, Files::Mount { folder, .. } if folder.is_dir())) {
            continue;
        }
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
        _ => std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display())),
    }
}

fn copy(files: &Files, into: &Path) -> Result<()> {
    match files {
        Files::Mount { folder, path } => copy_tree(folder, &into.join(inside(Path::new(path))?)),
        Files::Pattern { base, pattern } => {
            let full = base.join(pattern);
            let full = full.to_str().context("a pattern that is not UTF-8")?;
            let mut found = false;
            for path in glob::glob(full).with_context(|| format!("the pattern {pattern:?}"))? {
                let path = path?;
                // The name of a folder is all that is in it; a pattern is the files that match.
                if path.is_file() || base.join(pattern) == path {
                    found = true;
                    let relative = path.strip_prefix(base).unwrap_or(&path);
                    copy_tree(&path, &into.join(inside(relative)?))?;
                }
            }
            ensure!(found, "no file matches {pattern:?}");
            Ok(())
        }
    }
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    if from.is_file() {
        return copy_file(from, to);
    }
    let entries = std::fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))?;
    for entry in entries {
        let entry = entry?;
        copy_tree(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to.parent().unwrap_or(Path::new(".")))?;
    std::fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(())
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

/// All files below a folder, with their paths from there, in order.
pub fn walk(folder: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).with_context(|| format!("cannot read {}", next.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let relative = path.strip_prefix(folder).unwrap_or(&path).to_owned();
                found.push((path, relative));
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside() {
        assert_eq!(inside(Path::new("/a/./b")).unwrap(), Path::new("a/b"));
        assert!(inside(Path::new("../a")).is_err());
        assert!(inside(Path::new("/a/../../b")).is_err());
    }
}

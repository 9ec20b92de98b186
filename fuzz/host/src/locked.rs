//! A locked app says where its content is, and where a component sees it: what is taken for a path stays
//! in the folder that it belongs to. What is read can be written, and is the same when it is read again.
#![allow(clippy::unwrap_used, reason = "a target says by panicking what does not hold")]

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};
use exagg_app::locked::{ContentPath, ContentRef, Contents, Local, LockedApp};
use exagg_app::{App, Files};

pub fn check(bytes: &[u8]) {
    let read = |kind, contents: &dyn Fn(LockedApp, Option<&str>) -> Result<App>| {
        LockedApp::parse(bytes).and_then(|app| contents(app, kind))
    };
    for kind in [None, Some("kafka"), Some("http")] {
        if let Ok(app) = read(kind, &|app, kind| app.into_app(kind, &Local)) {
            assert_local(&app);
        }
        if let Ok(app) = read(kind, &|app, kind| app.into_app(kind, &InFolder)) {
            assert!(app.triggers.iter().all(|trigger| kind.is_none_or(|kind| trigger.kind == kind)));
            assert!(app.triggers.iter().all(|trigger| app.components.contains_key(&trigger.component)));
            assert_survives(app);
        }
    }
}

/// What `spin up` prepared stands at whole paths: nothing depends on where the host was started.
fn assert_local(app: &App) {
    for component in app.components.values() {
        assert!(component.source.is_absolute(), "{component:?}");
        for files in &component.files {
            assert!(matches!(files, Files::Mount { folder, .. } if folder.is_absolute()), "{files:?}");
        }
    }
}

/// Puts content where a pull would, and writes nothing.
struct InFolder;

impl Contents for InFolder {
    fn code(&self, component: &str, _: &ContentRef) -> Result<PathBuf> {
        below(Path::new(component))
    }

    fn files(&self, _: &str, files: &[ContentPath]) -> Result<Vec<Files>> {
        let mount = |file: &ContentPath| Ok(Files::Mount { folder: below(&file.path)?, path: "/".to_owned() });
        files.iter().map(mount).collect()
    }
}

/// The path in the folder, which it does not leave.
fn below(path: &Path) -> Result<PathBuf> {
    let folder = Path::new("/assets");
    let below = folder.join(exagg_app::files::inside(path)?);
    assert!(below.starts_with(folder), "{}", below.display());
    let is_plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::RootDir);
    assert!(below.components().all(is_plain), "{}", below.display());
    Ok(below)
}

/// Finds again what the app had, whatever the locked app says of it.
struct AsBefore(BTreeMap<String, PathBuf>);

impl Contents for AsBefore {
    fn code(&self, component: &str, _: &ContentRef) -> Result<PathBuf> {
        self.0.get(component).cloned().context("a component that was not there")
    }

    fn files(&self, _: &str, _: &[ContentPath]) -> Result<Vec<Files>> {
        Ok(Vec::new())
    }
}

/// The app survives the way to a locked app and back.
pub(crate) fn assert_survives(mut app: App) {
    for component in app.components.values_mut() {
        // Files are put in by who pushes; commands are of no use there.
        component.files.clear();
        component.build = None;
    }
    for trigger in &mut app.triggers {
        // A setting of that name says which component is called, so it cannot be another thing as well.
        trigger.config.remove("component");
    }
    let sources = app.components.iter().map(|(id, component)| (id.clone(), component.source.clone())).collect();
    let json = LockedApp::new(&app).to_json().unwrap();
    let back = LockedApp::parse(&json).and_then(|locked| locked.into_app(None, &AsBefore(sources)));
    assert_eq!(back.unwrap(), app);
}

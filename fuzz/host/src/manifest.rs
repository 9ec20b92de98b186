//! A manifest that is taken can be locked, and what is read back from the locked app is the same app.
#![allow(clippy::unwrap_used, reason = "a target says by panicking what does not hold")]

use std::path::Path;

use exagg_app::manifest;

use crate::locked::assert_survives;

pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(app) = manifest::parse(text, Path::new("app")) else { return };
    for trigger in &app.triggers {
        assert!(app.components.contains_key(&trigger.component), "{trigger:?}");
    }
    let name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    assert!(app.variables.keys().all(|key| !key.is_empty() && key.chars().all(name)), "{:?}", app.variables);
    // `--component-id` with every component is all that has a trigger.
    let mut retained = app.clone();
    retained.retain(&app.components.keys().cloned().collect::<Vec<_>>()).unwrap();
    assert_eq!(retained.triggers, app.triggers);
    assert_survives(app);
}

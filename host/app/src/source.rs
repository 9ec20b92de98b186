//! Where an app comes from: a manifest, a registry, or `spin up`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use futures::future::BoxFuture;

use crate::oci::{Registry, Trust, looks_like_reference};
use crate::spec::App;

/// Where one app is read from: `--from` decides, or `spin up` where it started this program.
#[derive(Clone, Debug)]
pub enum Source {
    /// A `spin.toml`.
    Manifest(PathBuf),
    /// An app in a registry.
    Registry {
        /// `registry/name`, with or without `:tag` or `@sha256:…`.
        reference: String,
        /// Whom the operator lets go without TLS, and to whom credentials are given.
        trust: Trust,
    },
    /// What `spin up` left at a `file://` URL for the triggers of one type, and the app's own folder.
    Locked {
        /// A `file://` URL: Spin sets it in `SPIN_LOCKED_URL`.
        url: String,
        /// The type of the triggers that are run; those of other types are left out.
        kind: &'static str,
        /// By `SPIN_LOCAL_APP_DIR`; it is empty in the app's own folder, and for an app from a registry.
        folder: PathBuf,
    },
}

impl Source {
    /// What `--from` names: a file, a folder, or else a reference.
    pub fn find(from: &str, trust: Trust) -> Result<Self> {
        let path = Path::new(from);
        if !path.exists() && looks_like_reference(from) {
            return Ok(Self::Registry { reference: from.to_owned(), trust });
        }
        Ok(Self::Manifest(crate::manifest::locate(path)?))
    }

    /// The folder that `.env` and `.spin` stand in: the manifest's, else the current one.
    pub fn folder(&self) -> &Path {
        match self {
            Self::Manifest(path) => path.parent().unwrap_or(Path::new("")),
            Self::Locked { folder, .. } => folder,
            Self::Registry { .. } => Path::new(""),
        }
    }

    /// Reads the app; from a registry its content comes to the state directory. Its files are not
    /// gathered yet ([`crate::files::stage`]): a manifest may have to be built first.
    pub fn load<'a>(&'a self, state_dir: &'a Path) -> BoxFuture<'a, Result<App>> {
        Box::pin(async move {
            let app = self.read(state_dir).await?;
            app.check_names()?;
            Ok(app)
        })
    }

    async fn read(&self, state_dir: &Path) -> Result<App> {
        match self {
            Self::Manifest(path) => crate::manifest::load(path),
            Self::Registry { reference, trust } => {
                Registry::new(reference, trust.clone())?.pull(&state_dir.join("registry"), &assets(state_dir)).await
            }
            Self::Locked { url, kind, .. } => crate::locked::load(url, kind),
        }
    }
}

/// The host's state directory beside the manifest, unless another one is named.
pub const STATE_DIR_DEFAULT: &str = ".spin";

/// Where files of components are gathered.
pub fn assets(state_dir: &Path) -> PathBuf {
    state_dir.join("assets")
}

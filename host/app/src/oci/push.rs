//! `exagg registry push`: an app from its manifest to a registry, as `spin registry push` writes it.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::future::BoxFuture;
use oci_client::client::{Config, ImageLayer};
use oci_client::config::{Architecture, Config as Settings, ConfigFile, Os};
use oci_client::manifest::OciImageManifest;

use super::blobs::digest_of;
use super::remote::Access;
use super::{APP_TYPE, DATA_TYPE, Registry, Trust, WASM_TYPE, check_sizes};
use crate::locked::{ContentPath, ContentRef, LockedApp};
use crate::source::STATE_DIR_DEFAULT;
use crate::spec::{App, Files};

/// Content up to this size stands in the locked app: some registries refuse tiny blobs.
const INLINE_BYTES_MAX: usize = 128;

/// The label by which Spin's own pushes tell one app's configuration from another's.
const DIGEST_LABEL: &str = "com.fermyon.spin.lockedAppDigest";

/// The layers of an app, each once.
#[derive(Default)]
struct Layers {
    layers: Vec<ImageLayer>,
    known: Vec<String>,
}

impl Layers {
    fn add(&mut self, bytes: Vec<u8>, media_type: &str, inline: bool) -> ContentRef {
        let digest = digest_of(&bytes);
        if inline && bytes.len() <= INLINE_BYTES_MAX {
            return ContentRef { inline: Some(STANDARD.encode(bytes)), digest: Some(digest), source: None };
        }
        if !self.known.contains(&digest) {
            self.known.push(digest.clone());
            self.layers.push(ImageLayer::new(bytes, media_type.to_owned(), None));
        }
        ContentRef { digest: Some(digest), ..ContentRef::default() }
    }
}

/// Pushes the app that `from` names, a manifest or its folder, after its build commands where `build` is set. Gives
/// the digest of what was pushed.
pub fn push<'a>(from: &'a Path, build: bool, reference: &'a str, trust: Trust) -> BoxFuture<'a, Result<String>> {
    Box::pin(async move {
        let manifest = crate::manifest::locate(from)?;
        let mut app = crate::manifest::load(&manifest)?;
        if build {
            crate::manifest::build(&app)?;
        }
        let assets = manifest.parent().unwrap_or(Path::new("")).join(STATE_DIR_DEFAULT).join("assets-pushed");
        crate::files::stage(&mut app, &assets)?;
        push_app(&app, reference, trust).await
    })
}

async fn push_app(app: &App, reference: &str, trust: Trust) -> Result<String> {
    let registry = Registry::with_access(reference, trust, Access::Push)?;
    let mut layers = Layers::default();
    let mut locked = LockedApp::new(app);
    for component in &mut locked.components {
        let spec = app.components.get(&component.id).context("a component that the app does not have")?;
        let code = std::fs::read(&spec.source)
            .with_context(|| format!("component {}: cannot read {}", component.id, spec.source.display()))?;
        component.source.content = layers.add(code, WASM_TYPE, false);
        for files in &spec.files {
            let Files::Mount { folder, path } = files else { continue };
            for (bytes, relative) in crate::files::read_all(folder)? {
                let content = layers.add(bytes, DATA_TYPE, true);
                let path = crate::files::inside(Path::new(path))?.join(relative);
                component.files.push(ContentPath { content, path });
            }
        }
    }
    let locked = locked.to_json()?;
    let config = config(&digest_of(&locked))?;
    layers.layers.push(ImageLayer::new(locked, APP_TYPE.to_owned(), None));
    let manifest = OciImageManifest::build(&layers.layers, &config, Some(annotations(app)));
    // What this host would not take is not pushed either.
    check_sizes(&manifest).with_context(|| format!("cannot push {reference}"))?;
    send(&registry, layers, config, &manifest).await.with_context(|| format!("cannot push {reference}"))
}

/// Sends everything, the manifest last, and gives its digest.
async fn send(registry: &Registry, layers: Layers, config: Config, manifest: &OciImageManifest) -> Result<String> {
    for (layer, descriptor) in layers.layers.into_iter().zip(&manifest.layers) {
        registry.remote.put_blob(&descriptor.digest, layer.data).await?;
    }
    registry.remote.put_blob(&manifest.config.digest, config.data).await?;
    registry.remote.put_manifest(manifest).await?;
    // What the registry says, not what was meant.
    let (_, digest, _) = registry.remote.manifest().await?;
    Ok(digest)
}

/// An image configuration as the format wants it; the label makes it differ from app to app.
fn config(locked_digest: &str) -> Result<Config> {
    let labels = HashMap::from([(DIGEST_LABEL.to_owned(), locked_digest.to_owned())]);
    let file = ConfigFile {
        architecture: Architecture::Wasm,
        os: Os::Other("Wasip1".to_owned()),
        config: Some(Settings { labels: Some(labels), ..Settings::default() }),
        ..ConfigFile::default()
    };
    Config::oci_v1_from_config_file(file, None).context("the image configuration")
}

fn annotations(app: &App) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("org.opencontainers.image.title".to_owned(), app.name.clone()),
        ("org.opencontainers.image.version".to_owned(), app.version.clone()),
    ])
}

//! Apps in OCI registries, in the form that `spin registry push` gives them: the locked app, a
//! layer a component, a layer a file (or an archive of them), small content in the locked app.
//!
//! # Layout
//! - here: references, credentials, and pulling an app into a cache of blobs.
//! - `trust`: which registry is spoken to without TLS, and who is given its credentials.
//! - `remote`: what is said to a registry.
//! - `known`: manifests that registries gave before.
//! - `blobs`: the cache of blobs, and unpacking archives into it.
//! - `assets`: the code and the files of an app that was pulled.
//! - `push`: an app from a manifest to a registry.

mod assets;
mod blobs;
mod known;
pub mod push;
mod remote;
#[cfg(test)]
mod tests;
mod trust;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use bytes::Bytes;
use docker_credential::{CredentialRetrievalError, DockerCredential};
use exagg_common::template::Secret;
use oci_client::Reference;
use oci_client::manifest::{OciDescriptor, OciImageManifest};
use reqwest::Response;
use tokio::sync::mpsc;

use self::assets::Pulled;
pub use self::blobs::unpack_archive;
use self::blobs::{Blobs, Room};
use self::known::Known;
use self::remote::{Access, Credentials, Remote, is_away};
pub use self::trust::{Insecure, Trust};
use crate::CODE_BYTES_MAX;
use crate::locked::{LOCKED_APP_BYTES_MAX, LockedApp};
use crate::spec::App;

const APP_TYPE: &str = "application/vnd.fermyon.spin.application.v1+config";
const WASM_TYPE: &str = "application/vnd.wasm.content.layer.v1+wasm";
const DATA_TYPE: &str = "application/vnd.wasm.content.layer.v1+data";
const ARCHIVE_TYPE: &str = "application/vnd.wasm.content.bundle.v1.tar+gzip";
/// The most that all layers of an app may have, and the most that its files may.
const APP_BYTES_MAX: u64 = 512 * 1024 * 1024;
const LAYERS_MAX: usize = 1000;
/// How long bringing an app may take.
const PULL_TIME_MAX: Duration = Duration::from_secs(600);
/// How many pieces of a blob wait for the disk.
const PIECES_WAITING_MAX: usize = 8;

/// A registry's client for one app.
pub struct Registry {
    remote: Remote,
}

/// `registry/name`, with or without `:tag` or `@sha256:…`, which is no path: it begins with a host.
pub fn looks_like_reference(from: &str) -> bool {
    let Some((registry, name)) = from.split_once('/') else { return false };
    let is_host = registry == "localhost" || registry.contains(':') || registry.trim_matches('.').contains('.');
    is_host && !name.is_empty() && from.parse::<Reference>().is_ok()
}

impl Registry {
    /// A client that pulls, with the credentials of Docker's configuration; an error where `reference` is none.
    pub fn new(reference: &str, trust: impl Into<Trust>) -> Result<Self> {
        Self::with_access(reference, trust.into(), Access::Pull)
    }

    fn with_access(reference: &str, trust: Trust, access: Access) -> Result<Self> {
        let reference: Reference =
            reference.parse().with_context(|| format!("{reference:?} is not a reference (registry/name:tag)"))?;
        let credentials = credentials(reference.resolve_registry());
        Ok(Self { remote: Remote::new(reference, trust, credentials, access)? })
    }

    /// Brings the app, with its blobs below `cache` and its files below `assets`. Every blob is
    /// checked by its digest, also one that was there.
    pub async fn pull(&self, cache: &Path, assets: &Path) -> Result<App> {
        let pulled = tokio::time::timeout(PULL_TIME_MAX, self.pull_unnamed(cache, assets)).await;
        let late = |_| Err(anyhow!("it is not here after {} seconds", PULL_TIME_MAX.as_secs()));
        pulled.unwrap_or_else(late).with_context(|| format!("the app {} in its registry", self.remote.reference))
    }

    async fn pull_unnamed(&self, cache: &Path, assets: &Path) -> Result<App> {
        let cache = cache.to_owned();
        let (blobs, known) = aside(move || {
            let blobs = Blobs::open(&cache)?;
            Ok((blobs.clone(), Known::open(&cache, blobs)?))
        })
        .await?;
        let (manifest, digest) = self.manifest(known).await.context("cannot get its manifest")?;
        check_sizes(&manifest)?;
        // A layer of its own, or, as older versions of Spin wrote it, in the place of the configuration.
        let app = manifest.layers.iter().find(|layer| layer.media_type == APP_TYPE).unwrap_or(&manifest.config);
        self.bring(app, &blobs).await.context("cannot get the locked app")?;
        let mut room = Room::to_unpack();
        for layer in manifest.layers.iter().filter(|layer| layer.media_type != APP_TYPE) {
            let brought = self.bring(layer, &blobs).await;
            brought.with_context(|| format!("layer {}", layer.digest))?;
            if layer.media_type == ARCHIVE_TYPE {
                room = unpack(layer.digest.clone(), blobs.clone(), room).await?;
            }
        }
        tracing::info!("the app {} is here ({digest})", self.remote.reference);
        let (app, assets, kind) = (app.digest.clone(), assets.to_owned(), manifest.config.media_type);
        aside(move || {
            let locked = blobs.read(&app, LOCKED_APP_BYTES_MAX).and_then(|json| LockedApp::parse(&json));
            let locked = locked.with_context(|| format!("it is not a Spin app (its configuration is {kind})"))?;
            locked.into_app(None, &Pulled::new(blobs, assets))
        })
        .await
    }

    /// The manifest. One that is named by its digest does not change, and is not asked for where it is here; any other is
    /// the one of before while the registry is away.
    async fn manifest(&self, known: Known) -> Result<(OciImageManifest, String)> {
        let reference = self.remote.reference.clone();
        let (known, before) = aside(move || {
            let before = known.manifest(&reference);
            Ok((known, before))
        })
        .await?;
        let before = match before {
            Some(before) if self.remote.reference.digest().is_some() => return Ok(before),
            before => before,
        };
        match (self.remote.manifest().await, before) {
            (Ok((manifest, digest, bytes)), _) => {
                let reference = self.remote.reference.clone();
                aside(move || known.note(&reference, &bytes)).await?;
                Ok((manifest, digest))
            }
            (Err(error), Some(before)) if is_away(&error) => {
                tracing::warn!(
                    "the registry is away, and the app {} is the one of before ({}): {error:#}",
                    self.remote.reference,
                    before.1
                );
                Ok(before)
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Gets a blob, where it is not here.
    async fn bring(&self, layer: &OciDescriptor, blobs: &Blobs) -> Result<()> {
        let (here, digest) = (blobs.clone(), layer.digest.clone());
        if aside(move || here.has(&digest)).await? {
            return Ok(());
        }
        let response = self.remote.blob(&layer.digest).await?;
        let (pieces, arriving) = mpsc::channel(PIECES_WAITING_MAX);
        let (here, digest, size) = (blobs.clone(), layer.digest.clone(), size(layer)?);
        let received = tokio::task::spawn_blocking(move || here.receive(&digest, size, arriving));
        let forwarded = forward(response, pieces).await;
        let received = received.await?;
        forwarded.and(received)
    }
}

/// Hands on what arrives, until nobody wants more of it.
async fn forward(mut response: Response, pieces: mpsc::Sender<Bytes>) -> Result<()> {
    while let Some(piece) = response.chunk().await.map_err(reqwest::Error::without_url).context("it broke off")? {
        if pieces.send(piece).await.is_err() {
            break;
        }
    }
    Ok(())
}

async fn unpack(digest: String, blobs: Blobs, mut room: Room) -> Result<Room> {
    aside(move || {
        blobs.unpack(&digest, &mut room).with_context(|| format!("layer {digest}"))?;
        Ok(room)
    })
    .await
}

/// Work on files, and hashing, away from the threads that everything else waits for.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}

fn size(layer: &OciDescriptor) -> Result<u64> {
    u64::try_from(layer.size).with_context(|| format!("layer {} has a size of {}", layer.digest, layer.size))
}

/// An app that is larger than what is taken is refused before any of it is fetched.
fn check_sizes(manifest: &OciImageManifest) -> Result<()> {
    let count = manifest.layers.len();
    ensure!(count <= LAYERS_MAX, "it has {count} layers: at most {LAYERS_MAX} are taken");
    let has_app = manifest.layers.iter().any(|layer| layer.media_type == APP_TYPE);
    let layers = manifest.layers.iter().map(|layer| (layer, layer.media_type == APP_TYPE));
    let mut total: u64 = 0;
    for (layer, is_app) in layers.chain([(&manifest.config, !has_app)]) {
        let size = size(layer)?;
        let (what, most) = match layer.media_type.as_str() {
            _ if is_app => ("its locked app", LOCKED_APP_BYTES_MAX as u64),
            WASM_TYPE => ("the code in it", CODE_BYTES_MAX as u64),
            _ => ("a layer", APP_BYTES_MAX),
        };
        ensure!(size <= most, "{what} ({}) has {size} bytes: at most {most} are taken", layer.digest);
        total = total.saturating_add(size);
    }
    ensure!(total <= APP_BYTES_MAX, "its layers have {total} bytes together: at most {APP_BYTES_MAX} are taken");
    Ok(())
}

/// The credentials that Docker's configuration has for a registry; anonymous where it has none that can
/// be used, as Spin does it: the registry says what it wants.
fn credentials(registry: &str) -> Option<Credentials> {
    match docker_credential::get_credential(registry) {
        Ok(DockerCredential::UsernamePassword(user, password)) => {
            Some(Credentials { user, password: Secret::new(password) })
        }
        Ok(DockerCredential::IdentityToken(_)) => {
            tracing::warn!("the credentials for {registry} are an identity token, which is not supported");
            None
        }
        Err(
            CredentialRetrievalError::ConfigNotFound
            | CredentialRetrievalError::ConfigReadError
            | CredentialRetrievalError::NoCredentialConfigured,
        ) => None,
        Err(_) => {
            // What a helper says stays out of the log: it may be what it keeps.
            tracing::warn!("Docker's configuration, or its helper, has no credentials for {registry}: asked without");
            None
        }
    }
}

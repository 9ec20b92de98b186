//! Apps in OCI registries, in the form that `spin registry push` gives them: the locked app, a
//! layer a component, a layer a file (or an archive of them), small content in the locked app.
//!
//! # Layout
//! - here: references, credentials, and pulling an app into a cache of blobs.
//! - [`push`]: an app from a manifest to a registry.

pub mod push;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use anyhow::{Context as _, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use docker_credential::{CredentialRetrievalError, DockerCredential};
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::manifest::{OciDescriptor, OciImageManifest};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWrite;

use crate::app::{App, Files};
use crate::hex;
use crate::locked::{ContentPath, ContentRef, Contents, LockedApp};

const APP_TYPE: &str = "application/vnd.fermyon.spin.application.v1+config";
const WASM_TYPE: &str = "application/vnd.wasm.content.layer.v1+wasm";
const DATA_TYPE: &str = "application/vnd.wasm.content.layer.v1+data";
const ARCHIVE_TYPE: &str = "application/vnd.wasm.content.bundle.v1.tar+gzip";
/// The largest blob that is taken.
const BLOB_BYTES_MAX: usize = 256 * 1024 * 1024;
/// The largest that an archive may unpack to.
const ARCHIVE_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// Which registries are spoken to without TLS.
#[derive(Clone, Debug)]
pub enum Insecure {
    /// The one that is asked, or none (`--insecure`).
    Flag(bool),
    /// These (host:port; `[exagg] insecure_registries`).
    Registries(Vec<String>),
}

/// A registry's client for one app.
pub struct Registry {
    client: Client,
    reference: Reference,
    auth: RegistryAuth,
}

/// `registry/name`, with or without `:tag` or `@sha256:…`, which is no path: it begins with a host.
pub fn looks_like_reference(from: &str) -> bool {
    let Some((registry, name)) = from.split_once('/') else { return false };
    let is_host = registry == "localhost" || registry.contains(':') || registry.trim_matches('.').contains('.');
    is_host && !name.is_empty() && from.parse::<Reference>().is_ok()
}

impl Registry {
    pub fn new(reference: &str, insecure: &Insecure) -> Result<Self> {
        let reference: Reference =
            reference.parse().with_context(|| format!("{reference:?} is not a reference (registry/name:tag)"))?;
        // The client makes its TLS from what the process has installed; a second time is no error.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let protocol = match insecure {
            Insecure::Flag(true) => ClientProtocol::Http,
            Insecure::Flag(false) => ClientProtocol::Https,
            Insecure::Registries(list) => ClientProtocol::HttpsExcept(list.clone()),
        };
        let config = ClientConfig { protocol, ..ClientConfig::default() };
        let auth = credentials(reference.resolve_registry());
        Ok(Self { client: Client::new(config), reference, auth })
    }

    /// Brings the app, with its blobs below `cache` and its files below `assets`. Every blob is
    /// checked by its digest, also one that was there.
    pub async fn pull(&self, cache: &Path, assets: &Path) -> Result<App> {
        self.pull_unnamed(cache, assets).await.with_context(|| format!("the app {} in its registry", self.reference))
    }

    async fn pull_unnamed(&self, cache: &Path, assets: &Path) -> Result<App> {
        let (manifest, digest) =
            self.client.pull_image_manifest(&self.reference, &self.auth).await.context("cannot get its manifest")?;
        if let Some(wanted) = self.reference.digest() {
            ensure!(digest == wanted, "its manifest has the digest {digest}, {wanted} was asked for");
        }
        let blobs = Blobs::open(cache)?;
        let locked = self.locked_app(&manifest, &blobs).await?;
        for layer in manifest.layers.iter().filter(|layer| layer.media_type != APP_TYPE) {
            self.bring(layer, &blobs).await.with_context(|| format!("layer {}", layer.digest))?;
        }
        tracing::info!("the app {} is here ({digest})", self.reference);
        locked.into_app(None, &Pulled { blobs, assets: assets.to_owned() })
    }

    /// A layer of its own, or, as older versions of Spin wrote it, in the place of the configuration.
    async fn locked_app(&self, manifest: &OciImageManifest, blobs: &Blobs) -> Result<LockedApp> {
        let layer = manifest.layers.iter().find(|layer| layer.media_type == APP_TYPE).unwrap_or(&manifest.config);
        self.bring(layer, blobs).await.context("cannot get the locked app")?;
        LockedApp::parse(&std::fs::read(blobs.path(&layer.digest)?)?)
            .with_context(|| format!("it is not a Spin app (its configuration is {})", manifest.config.media_type))
    }

    async fn bring(&self, layer: &OciDescriptor, blobs: &Blobs) -> Result<()> {
        let bytes_max = usize::try_from(layer.size).ok().filter(|size| *size <= BLOB_BYTES_MAX);
        let bytes_max =
            bytes_max.with_context(|| format!("it has {} bytes: at most {BLOB_BYTES_MAX} are taken", layer.size))?;
        if !blobs.has(&layer.digest)? {
            let mut bounded = Bounded { bytes: Vec::new(), bytes_max };
            // It checks the digest.
            self.client.pull_blob(&self.reference, layer, &mut bounded).await?;
            blobs.write(&bounded.bytes)?;
        }
        if layer.media_type == ARCHIVE_TYPE {
            blobs.unpack(&layer.digest)?;
        }
        Ok(())
    }
}

/// The credentials that Docker's configuration has for a registry; anonymous where it has none that can
/// be used, as Spin does it: the registry says what it wants.
fn credentials(registry: &str) -> RegistryAuth {
    match docker_credential::get_credential(registry) {
        Ok(DockerCredential::UsernamePassword(user, password)) => RegistryAuth::Basic(user, password),
        Ok(DockerCredential::IdentityToken(_)) => {
            tracing::warn!("the credentials for {registry} are an identity token, which is not supported");
            RegistryAuth::Anonymous
        }
        Err(
            CredentialRetrievalError::ConfigNotFound
            | CredentialRetrievalError::ConfigReadError
            | CredentialRetrievalError::NoCredentialConfigured,
        ) => RegistryAuth::Anonymous,
        Err(_) => {
            // What a helper says stays out of the log: it may be what it keeps.
            tracing::warn!("Docker's configuration, or its helper, has no credentials for {registry}: asked without");
            RegistryAuth::Anonymous
        }
    }
}

/// Takes so many bytes and no more, whatever the registry sends.
struct Bounded {
    bytes: Vec<u8>,
    bytes_max: usize,
}

impl AsyncWrite for Bounded {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        if self.bytes.len() + bytes.len() > self.bytes_max {
            return Poll::Ready(Err(std::io::Error::other("the registry sends more than the manifest says")));
        }
        self.bytes.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Blobs by digest in a folder.
struct Blobs(PathBuf);

impl Blobs {
    fn open(cache: &Path) -> Result<Self> {
        let folder = cache.join("sha256");
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self(folder))
    }

    fn path(&self, digest: &str) -> Result<PathBuf> {
        let hex = digest.strip_prefix("sha256:").context("its digest is not of sha256")?;
        ensure!(hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()), "its digest is {digest:?}");
        Ok(self.0.join(hex))
    }

    /// Whether the blob is here and whole.
    fn has(&self, digest: &str) -> Result<bool> {
        let path = self.path(digest)?;
        Ok(std::fs::read(path).is_ok_and(|bytes| digest_of(&bytes) == digest))
    }

    /// Another host may write the same at the same time: whoever comes last wins, with the same bytes.
    fn write(&self, bytes: &[u8]) -> Result<()> {
        let path = self.path(&digest_of(bytes))?;
        let part = path.with_extension(format!("part-{}", uuid::Uuid::new_v4()));
        std::fs::write(&part, bytes)
            .and_then(|()| std::fs::rename(&part, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// An archive's files become blobs of their own: the locked app names them by digest.
    fn unpack(&self, digest: &str) -> Result<()> {
        let file = std::fs::File::open(self.path(digest)?)?;
        let bytes = flate2::read::GzDecoder::new(file).take(ARCHIVE_BYTES_MAX);
        for entry in tar::Archive::new(bytes).entries().context("it is not an archive")? {
            let mut entry = entry.context("it is not an archive")?;
            if entry.header().entry_type().is_file() {
                let mut content = Vec::new();
                entry.read_to_end(&mut content).context("the archive is cut off")?;
                self.write(&content)?;
            }
        }
        Ok(())
    }
}

fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

/// Content of an app that was pulled.
struct Pulled {
    blobs: Blobs,
    assets: PathBuf,
}

impl Pulled {
    /// The path of a blob that holds the content.
    fn blob(&self, content: &ContentRef) -> Result<PathBuf> {
        if let Some(inline) = &content.inline {
            let bytes = STANDARD.decode(inline).context("content that is not base64")?;
            self.blobs.write(&bytes)?;
            return self.blobs.path(&digest_of(&bytes));
        }
        let digest = content.digest.as_deref().context("content without a digest")?;
        ensure!(self.blobs.has(digest)?, "no layer holds {digest}");
        self.blobs.path(digest)
    }
}

impl Contents for Pulled {
    fn code(&self, _: &str, content: &ContentRef) -> Result<PathBuf> {
        self.blob(content)
    }

    fn files(&self, component: &str, files: &[ContentPath]) -> Result<Vec<Files>> {
        if files.is_empty() {
            return Ok(Vec::new());
        }
        // Named by its content: another host, or another version, may use the same state directory.
        let named = format!("{component}-{}", hex(&Sha256::digest(serde_json::to_vec(files)?)));
        let folder = self.assets.join(crate::files::inside(Path::new(&named))?);
        if !folder.exists() {
            let part = self.assets.join(format!("part-{}", uuid::Uuid::new_v4()));
            std::fs::create_dir_all(&part)?;
            for file in files {
                let path = part.join(crate::files::inside(&file.path)?);
                std::fs::create_dir_all(path.parent().unwrap_or(&part))?;
                let blob = self.blob(&file.content).with_context(|| format!("file {}", file.path.display()))?;
                std::fs::copy(blob, &path).with_context(|| format!("cannot write {}", path.display()))?;
            }
            // Somebody may have been faster, with the same.
            if std::fs::rename(&part, &folder).is_err() {
                let _ = std::fs::remove_dir_all(&part);
            }
            ensure!(folder.is_dir(), "cannot make {}", folder.display());
        }
        Ok(vec![Files::Mount { folder, path: "/".to_owned() }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_told_from_paths() {
        assert!(looks_like_reference("ghcr.io/a/b:1"));
        let digest = "0".repeat(64);
        assert!(looks_like_reference(&format!("localhost:5000/a@sha256:{digest}")));
        assert!(looks_like_reference("ghcr.io/a/b") && looks_like_reference("localhost/a"));
        assert!(!looks_like_reference("apps/mine") && !looks_like_reference("../a.b/c"));
        assert!(!looks_like_reference("./a:b"));
        assert!(!looks_like_reference("app"));
    }

    #[test]
    fn a_blob_that_was_changed_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).unwrap();
        blobs.write(b"code").unwrap();
        let digest = digest_of(b"code");
        assert!(blobs.has(&digest).unwrap());
        std::fs::write(blobs.path(&digest).unwrap(), b"evil").unwrap();
        assert!(!blobs.has(&digest).unwrap());
        assert!(blobs.path("sha256:../../etc/passwd").is_err() && blobs.path("md5:00").is_err());
    }

    #[test]
    fn files_of_a_pulled_app_stay_in_their_folder() {
        let folder = tempfile::tempdir().unwrap();
        let pulled = Pulled { blobs: Blobs::open(&folder.path().join("b")).unwrap(), assets: folder.path().join("a") };
        let file = |path: &str| ContentPath {
            content: ContentRef { inline: Some(STANDARD.encode("x")), ..ContentRef::default() },
            path: path.into(),
        };
        let mount = |path: &str| match pulled.files("c", &[file(path)]).unwrap().remove(0) {
            Files::Mount { folder, .. } => folder,
            pattern @ Files::Pattern { .. } => panic!("{pattern:?}"),
        };
        let mounted = mount("d/e.txt");
        assert_eq!(std::fs::read_to_string(mounted.join("d/e.txt")).unwrap(), "x");
        assert!(mounted.starts_with(folder.path().join("a")));
        assert_eq!(mount("d/e.txt"), mounted);
        assert_ne!(mount("d/f.txt"), mounted, "another version has a folder of its own");
        assert!(pulled.files("c", &[file("../../out")]).is_err());
        assert!(pulled.files("../c", &[file("x")]).is_err());
    }
}

//! `exagg swap`.

use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use exagg_app::CODE_BYTES_MAX;
use exagg_app::oci::{Insecure, Registry, Trust, looks_like_reference};
use tokio::io::AsyncReadExt;

use crate::admin_client::{endpoints, request};
use crate::cli::Swap;
use crate::config::Environment;

/// Lets other code run in a component's slot.
pub async fn run(args: &Swap, environment: &Environment) -> Result<()> {
    let (path, code) = match &args.code {
        None => (format!("/swap-back/{}", args.component), Bytes::new()),
        Some(code) => (format!("/swap/{}", args.component), code_of(args, code).await?),
    };
    let mut refused = None;
    for endpoint in endpoints(args.endpoint.admin, &args.endpoint.state_dir, environment)? {
        match request(&endpoint, "POST", &path, code.clone()).await {
            Ok(answer) if answer.status == 200 => {
                println!("{}: {} runs from the next call on", args.component, answer.body.trim_end());
                return Ok(());
            }
            // Another host of the same state directory may have the component.
            Ok(answer) if answer.status == 404 => refused = refused.or(Some(answer.body.trim_end().to_owned())),
            Ok(answer) => bail!("{}", answer.body.trim_end()),
            Err(error) => refused = refused.or(Some(format!("{error:#}"))),
        }
    }
    bail!("{}", refused.unwrap_or_default())
}

/// The code that the command line names: a file, or what an app in a registry has under that id.
async fn code_of(args: &Swap, code: &str) -> Result<Bytes> {
    let component = &args.component;
    let path = Path::new(code);
    if path.exists() || !looks_like_reference(code) {
        return read_code(path).await;
    }
    let folder = std::env::temp_dir().join(format!("exagg-swap-{}", uuid::Uuid::new_v4()));
    // It must not be there already, and nobody else may look into it.
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    let pulled = async {
        let trust = Trust::new(Insecure::Flag(args.insecure), &args.registry_realms)?;
        let registry = Registry::new(code, trust)?;
        let app = registry.pull(&folder.join("registry"), &folder.join("assets")).await?;
        let spec = app.components.get(component).with_context(|| format!("{code} has no component {component}"))?;
        read_code(&spec.source).await
    };
    let pulled = pulled.await;
    let _ = std::fs::remove_dir_all(&folder);
    pulled
}

/// A component's code, if it is not larger than what a host takes.
async fn read_code(path: &Path) -> Result<Bytes> {
    let file = tokio::fs::File::open(path).await.with_context(|| format!("cannot read {}", path.display()))?;
    let mut code = Vec::new();
    let read = file.take(CODE_BYTES_MAX as u64 + 1).read_to_end(&mut code).await;
    read.with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(code.len() <= CODE_BYTES_MAX, "{} has more than {CODE_BYTES_MAX} bytes: no host takes it", path.display());
    Ok(code.into())
}

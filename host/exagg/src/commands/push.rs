//! `exagg registry push`.

use std::path::Path;

use anyhow::Result;
use exagg_app::oci::{Insecure, Trust, push};

use crate::cli::RegistryPush;

/// Pushes the app and prints its digest.
pub async fn run(args: &RegistryPush) -> Result<()> {
    let trust = Trust::new(Insecure::Flag(args.insecure), &args.registry_realms)?;
    let digest = push::push(Path::new(&args.from), args.build, &args.reference, trust).await?;
    println!("pushed {} ({digest})", args.reference);
    Ok(())
}

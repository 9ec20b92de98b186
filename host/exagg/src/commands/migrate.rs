//! `exagg migrate`.

use anyhow::Result;
use exagg_pipeline::migrate::migrate;

use super::Target;
use crate::cli::AppArgs;
use crate::config::Environment;

/// Applies the migrations that are not applied yet.
pub async fn run(args: &AppArgs, environment: &Environment) -> Result<()> {
    let database = Target::find(args, environment).await?.database;
    match migrate(&database).await?.as_slice() {
        [] => println!("the database at {} is up to date", database.place()),
        applied => println!("the database at {} has {} now", database.place(), applied.join(", ")),
    }
    Ok(())
}

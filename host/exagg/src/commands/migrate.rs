//! `exagg migrate`.

use anyhow::Result;
use exagg_pipeline::migrate::{migrate, plan};

use super::Target;
use crate::cli::Migrate;
use crate::config::Environment;

/// Applies the migrations that are not applied yet, or says which those are.
pub async fn run(args: &Migrate, environment: &Environment) -> Result<()> {
    let database = Target::find(&args.app, environment).await?.database;
    if args.dry_run {
        for line in plan(&database).await?.lines(&database.place(), database.schema()) {
            println!("{line}");
        }
        return Ok(());
    }
    match migrate(&database).await?.as_slice() {
        [] => println!("the database at {} is up to date", database.place()),
        applied => println!("the database at {} has {} now", database.place(), applied.join(", ")),
    }
    Ok(())
}

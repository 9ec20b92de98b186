//! `exagg drop`.

use anyhow::{Result, bail, ensure};
use exagg_common::printable::printable;
use exagg_pipeline::drop::{Rows, drop, rows};

use super::Target;
use crate::cli::Drop;
use crate::config::Environment;

/// Says what there is of a stream, and removes it where that is wanted for sure.
pub async fn run(args: &Drop, environment: &Environment) -> Result<()> {
    let database = Target::find(&args.app, environment).await?.database;
    let (stream, there) = (printable(&args.stream), rows(&database, &args.stream).await?);
    ensure!(!there.is_empty(), "there is no stream {stream}: no table has rows of it");
    if !args.yes {
        bail!("stream {stream} has {}: --yes drops them all, and nothing brings them back", in_words(&there));
    }
    let gone = drop(&database, &args.stream).await?;
    println!("stream {stream} is dropped: {}", in_words(&gone));
    Ok(())
}

fn in_words(rows: &[Rows]) -> String {
    let tables = rows.iter().map(|of| format!("{} rows of {}", of.rows, of.table));
    tables.collect::<Vec<_>>().join(", ")
}

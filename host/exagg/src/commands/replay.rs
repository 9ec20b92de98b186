//! `exagg replay`.

use anyhow::Result;
use exagg_pipeline::replay::{Settings, Span, replay};

use super::Target;
use crate::cli::{Moment, Replay};
use crate::config::Environment;

/// Computes a stream's closed windows anew, and prints what came of it.
pub async fn run(args: &Replay, environment: &Environment) -> Result<()> {
    let Target { settings, app, database } = Target::find(&args.app_args(), environment).await?;
    let since = match args.from {
        Moment::Earliest => None,
        Moment::At(time) => Some(time),
    };
    let until = match args.to {
        None | Some(Moment::Earliest) => None,
        Some(Moment::At(time)) => Some(time),
    };
    let settings = Settings { kafka: settings.kafka, authorities: settings.authorities };
    let stream = args.stream.as_str();
    let done = replay(app, &settings, &database, Span { stream, since, until }).await?;
    println!(
        "stream {stream}: {} rows rebuilt, {} unchanged, {} left as they are",
        done.rebuilt,
        done.unchanged,
        done.left.len()
    );
    for line in done.left {
        println!("{line}");
    }
    Ok(())
}

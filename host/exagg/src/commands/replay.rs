//! `exagg replay`.

use anyhow::{Result, bail};
use exagg_common::printable::printable;
use exagg_pipeline::replay::{Advance, Course, Outcome, Replayed, Settings, Span, replay};
use tokio_util::sync::CancellationToken;

use super::Target;
use crate::cli::{Moment, Replay};
use crate::config::Environment;

/// Computes a stream's windows anew, and prints what came of it.
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
    let settings = Settings { kafka: settings.kafka, authorities: settings.authorities, limits: settings.limits };
    let stream = args.stream.as_str();
    let cancel = CancellationToken::new();
    let course = Course {
        is_dry_run: args.dry_run,
        is_afresh: args.restart,
        accepts_compacted: args.accept_compacted,
        cancel: cancel.clone(),
        tell: &|advance| eprintln!("{}", in_words(advance)),
    };
    let replaying = replay(app, &settings, &database, Span { stream, since, until }, course);
    tokio::pin!(replaying);
    let done = tokio::select! {
        done = &mut replaying => done?,
        _ = tokio::signal::ctrl_c() => {
            cancel.cancel();
            replaying.await?
        }
    };
    let Some(done) = done else {
        bail!("stopped: nothing is replaced, and the same command goes on from here");
    };
    for line in lines(stream, &done, args.dry_run) {
        println!("{line}");
    }
    Ok(())
}

fn in_words(Advance { done, of, elapsed }: Advance) -> String {
    let percent = (done * 100).checked_div(of).unwrap_or(100).min(100);
    let left = match of.saturating_sub(done) {
        left if done > 0 => format!(", about {} s left", (elapsed.as_secs() * left).div_ceil(done)),
        _ => String::new(),
    };
    format!("read {done} of {of} offsets ({percent} %){left}")
}

/// What a replay did, or would do: rows by outcome, and the kept ones with the reason and examples.
fn lines(stream: &str, done: &Replayed, is_dry_run: bool) -> Vec<String> {
    let rows = |name: &str| -> u64 {
        done.outcomes.iter().filter(|of| !of.is_kept && of.name == name).map(|of| of.rows).sum()
    };
    let kept: Vec<&Outcome> = done.outcomes.iter().filter(|of| of.is_kept).collect();
    let mut lines = vec![format!(
        "stream {}: {} rows added, {} changed, {} deleted, {} unchanged, {} kept{}",
        printable(stream),
        rows("added"),
        rows("changed"),
        rows("deleted"),
        rows("unchanged"),
        kept.iter().map(|of| of.rows).sum::<u64>(),
        if is_dry_run { " (dry run: nothing is replaced; without --dry-run it goes on from here)" } else { "" }
    )];
    let told = |of: &Outcome, word: &str| {
        let examples: Vec<_> = of.examples.iter().map(|example| printable(example)).collect();
        let more = if of.rows > examples.len() as u64 { ", …" } else { "" };
        format!("{word}: {} rows ({}{more})", of.rows, examples.join(", "))
    };
    if is_dry_run {
        let changes = done.outcomes.iter().filter(|of| ["added", "changed", "deleted"].contains(&of.name.as_str()));
        lines.extend(changes.filter(|of| !of.is_kept).map(|of| told(of, &of.name)));
    }
    lines.extend(kept.iter().map(|of| told(of, &format!("kept, for {}", of.name))));
    if done.poisoned > 0 {
        lines.push(format!("{} records could not be applied: the live stage's dead letters have them", done.poisoned));
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_came_of_it_is_told_with_examples() {
        let outcome = |name: &str, is_kept, rows| Outcome {
            name: name.to_owned(),
            is_kept,
            rows,
            examples: vec!["2026-01-01 00:00:00 A".to_owned()],
        };
        let done = Replayed {
            outcomes: vec![outcome("added", false, 1), outcome("deleted", false, 2), outcome("it is gone", true, 3)],
            poisoned: 0,
        };
        let told = lines("s", &done, false);
        assert_eq!(told[0], "stream s: 1 rows added, 0 changed, 2 deleted, 0 unchanged, 3 kept");
        assert_eq!(told[1], "kept, for it is gone: 3 rows (2026-01-01 00:00:00 A, …)");
        let dry = lines("s", &done, true);
        assert!(dry[0].contains("dry run") && dry[1] == "added: 1 rows (2026-01-01 00:00:00 A)", "{dry:?}");
    }

    #[test]
    fn how_far_it_is_is_told_with_the_time_left() {
        let advance = Advance { done: 100, of: 400, elapsed: Duration::from_secs(2) };
        assert_eq!(in_words(advance), "read 100 of 400 offsets (25 %), about 6 s left");
        assert_eq!(in_words(Advance { done: 0, ..advance }), "read 0 of 400 offsets (0 %)");
    }
}

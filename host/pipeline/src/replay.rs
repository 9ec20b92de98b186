//! A stream's windows computed anew from Kafka, by the same function that computed them first, while the pipeline runs.
//!
//! The function is given the records up to where the live progress is, under a stream name of its own
//! (`<stream>@replay`): so it writes rows of its own, behind a fence of its own. When it has read nearly all, the live
//! stream is held still, the rest is read, and one statement puts the new rows in the place of the old: what is closed
//! and what is pending. So both hold the same records, whatever settings they were made with, and readers see the one
//! or the other. What stays as it is, because the log no longer holds all its records, `exagg_replay_diff` decides
//! (`migrations/definitions.sql`).
//!
//! - [`stage`]: the function, and the partitions that it reads.

mod stage;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use chrono::{DateTime, Utc};
use exagg_app::Resolved;
use exagg_clients::database::Database;
use exagg_clients::kafka::{Offset, Partition, TopicId, TopicPartition};
use exagg_clients::postgres::Authorities;
use exagg_runtime::engine::Limits;
use futures::future::LocalBoxFuture;
use futures::{StreamExt, TryStreamExt};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};
use tokio_util::sync::CancellationToken;

use self::stage::{Reading, Stage};
use crate::claim::Claim;

/// Partitions that are read at a time.
const PARTITIONS_AT_ONCE: usize = 4;
/// So many rounds read what came meanwhile before the live stream is held still, if they leave more than so many
/// offsets.
const ROUNDS_MAX: usize = 5;
const LEFT_MAX: i64 = 20_000;
/// How long the live stream is held still at a time, so that the replay catches up, and how often.
const HELD_SECONDS: i64 = 20;
const TRIES_MAX: usize = 10;
/// The outcome of a replay that has not read all that the live stream has.
const BEHIND: &str = "behind";
const TELL_EVERY: Duration = Duration::from_secs(5);

/// What the host's settings say to a replay.
pub struct Settings {
    /// librdkafka's properties of all clients (`[exagg.kafka]`); templates.
    pub kafka: BTreeMap<String, String>,
    /// Whom to believe of PostgreSQL servers.
    pub authorities: Option<Authorities>,
    /// What each call may use, as in the live stage.
    pub limits: Limits,
}

/// What is to be computed anew: a stream's windows from `since` on, up to `until`; without a bound, all of them.
pub struct Span<'a> {
    /// The live stream's name: the value of its component's variable `stream`.
    pub stream: &'a str,
    /// Windows that start before this time are left out.
    pub since: Option<DateTime<Utc>>,
    /// Windows that end after this time are left out.
    pub until: Option<DateTime<Utc>>,
}

/// How it is done.
pub struct Course<'a> {
    /// Nothing is replaced: it is said what would be.
    pub is_dry_run: bool,
    /// What a replay that was stopped has read is read again.
    pub is_afresh: bool,
    /// Rows of other settings are made of what a compacted log still holds.
    pub accepts_compacted: bool,
    /// Stops it; the next one of the same part goes on where it was.
    pub cancel: CancellationToken,
    /// Told every few seconds how far it is.
    pub tell: &'a dyn Fn(Advance),
}

/// How far a replay is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advance {
    /// Offsets read in this run.
    pub done: u64,
    /// Offsets to read in this run.
    pub of: u64,
    /// Since it began to read.
    pub elapsed: Duration,
}

/// Rows that have one outcome in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// `added`, `changed`, `deleted`, `unchanged`, `pending`; or why the rows stay as they are.
    pub name: String,
    /// The rows stay as they are, for the log may not hold all their records.
    pub is_kept: bool,
    /// How many.
    pub rows: u64,
    /// Window start and code of the first three.
    pub examples: Vec<String>,
}

/// What a replay did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// What became of the rows, or would become of them.
    pub outcomes: Vec<Outcome>,
    /// Records that could not be applied, and are dead letters of the live stage.
    pub poisoned: u64,
}

/// A statement's parameter, with its type.
type Param<'a> = (&'a (dyn ToSql + Sync), Type);

/// How far the live pipeline is in a partition, and the replay.
struct Seen {
    partition: TopicPartition,
    topic_id: TopicId,
    from_offset: Option<Offset>,
    next_offset: Offset,
    max_future_seconds: i64,
}

impl Seen {
    fn of(row: &Row) -> Result<Self> {
        Ok(Self {
            partition: TopicPartition { topic: row.try_get("topic")?, partition: Partition(row.try_get("partition")?) },
            topic_id: TopicId(row.try_get("topic_id")?),
            from_offset: row.try_get::<_, Option<i64>>("from_offset")?.map(Offset),
            next_offset: Offset(row.try_get("next_offset")?),
            max_future_seconds: row.try_get("max_future_seconds")?,
        })
    }

    fn is_read(&self) -> bool {
        self.from_offset == Some(self.next_offset)
    }
}

/// Computes the windows anew; none where it was stopped. `app` is the one that made them.
///
/// # Errors
/// When the stream is not known, another replay of it is under way, a record cannot be applied where the live stage
/// would stop, Kafka or the database fails, or the part cannot be replaced by rows of other settings. Then all rows are
/// as they were.
pub fn replay<'a>(
    app: Resolved,
    settings: &'a Settings,
    database: &'a Database,
    span: Span<'a>,
    course: Course<'a>,
) -> LocalBoxFuture<'a, Result<Option<Replayed>>> {
    Box::pin(async move {
        let stream = span.stream;
        let name = format!("{stream}@replay");
        let stage = Stage::load(app, settings, stream, &name).await?;
        let Some(claim) =
            Claim::take(database, &format!("replay of {stream}")).await.context("the replay cannot be claimed")?
        else {
            bail!("another replay of the stream {stream} is under way, or was killed within the last minute");
        };
        let replay = Replay { stage: &stage, database, claim: &claim, name: &name, span, course };
        let done = replay.run().await;
        claim.release().await;
        done
    })
}

/// The replay of a stream that is this process's to replay.
struct Replay<'a> {
    stage: &'a Stage,
    database: &'a Database,
    claim: &'a Claim,
    name: &'a str,
    span: Span<'a>,
    course: Course<'a>,
}

impl Replay<'_> {
    async fn run(&self) -> Result<Option<Replayed>> {
        let client = self.database.connect().await?;
        if self.course.is_afresh {
            let forget = "SELECT public.exagg_replay_forget($1) FROM claim";
            self.claimed(&client, forget, &[(&self.name, Type::VARCHAR)]).await?;
        }
        let stream = self.span.stream;
        let mut seen = self.begin(&client).await?;
        ensure!(!seen.is_empty(), "there is no stream {stream}: nothing of it was ever aggregated");
        let mut log_begins = None;
        for round in 0.. {
            if round > 0 {
                seen = self.begin(&client).await?;
                let left: i64 =
                    seen.iter().map(|seen| seen.next_offset.0 - seen.from_offset.unwrap_or_default().0).sum();
                if left <= LEFT_MAX || round > ROUNDS_MAX {
                    break;
                }
            }
            log_begins = log_begins.max(self.read(&client, &seen).await?);
            if self.course.cancel.is_cancelled() {
                return Ok(None);
            }
        }
        for _ in 0..TRIES_MAX {
            if !self.course.is_dry_run {
                self.hold(&client).await?;
            }
            let mut rest = self.begin(&client).await?;
            rest.retain(|seen| !seen.is_read());
            if !rest.is_empty() {
                log_begins = log_begins.max(self.read(&client, &rest).await?);
            }
            if self.course.cancel.is_cancelled() {
                return Ok(None);
            }
            let rows = self.replace(&client, log_begins).await?;
            ensure!(
                self.course.is_dry_run || !rows.is_empty(),
                "another replay of the stream {stream} has begun meanwhile: nothing was replaced"
            );
            let outcomes = rows.iter().filter_map(|row| outcome(row).transpose()).collect::<Result<Vec<_>>>()?;
            if !outcomes.iter().any(|outcome| outcome.name == BEHIND) {
                return Ok(Some(Replayed { outcomes, poisoned: self.stage.poisoned.load(Ordering::Relaxed) }));
            }
        }
        bail!(
            "the live stream {stream} was ahead again {TRIES_MAX} times: nothing is replaced, and the same command goes \
             on from here"
        )
    }

    /// Lets the live stream's aggregators wait for a while. It ends by itself: a replay that is killed holds nothing for
    /// longer.
    async fn hold(&self, client: &Client) -> Result<()> {
        let statement = "UPDATE public.replays SET held_until = clock_timestamp() + $2::int8 * interval '1 second'
                         FROM claim WHERE replay = $1";
        self.claimed(client, statement, &[(&self.name, Type::VARCHAR), (&HELD_SECONDS, Type::INT8)]).await?;
        Ok(())
    }

    /// From where and up to where each partition is to be read.
    async fn begin(&self, client: &Client) -> Result<Vec<Seen>> {
        let statement = "SELECT b.* FROM claim CROSS JOIN LATERAL public.exagg_replay_begin(
                             $1, $2, $5, coalesce($3 AT TIME ZONE 'UTC', '-infinity'),
                             coalesce($4 AT TIME ZONE 'UTC', 'infinity')) AS b";
        let params = self.params([(&self.stage.identity, Type::TEXT)]);
        self.claimed(client, statement, &params).await?.iter().map(Seen::of).collect()
    }

    /// Reads the partitions to the end. Where the log has lost its beginning: the time from which on it holds all.
    async fn read(&self, client: &Client, seen: &[Seen]) -> Result<Option<DateTime<Utc>>> {
        let cancel = &self.course.cancel;
        let mut readings: Vec<Reading> = Vec::new();
        let topics: BTreeSet<&str> = seen.iter().map(|seen| seen.partition.topic.as_str()).collect();
        for (index, seen) in seen.iter().enumerate() {
            readings.push(self.stage.open(seen, self.span.since, cancel).await?);
            if index == 0 {
                // The function has told its settings.
                self.check(client).await?;
                self.check_logs(client, &topics).await?;
            }
        }
        let (done, of) = (AtomicU64::new(0), readings.iter().map(Reading::left).sum());
        let read = futures::stream::iter(
            readings.into_iter().map(|reading| self.stage.read(reading, self.claim, cancel, &done)),
        )
        .buffer_unordered(PARTITIONS_AT_ONCE)
        .try_collect::<Vec<_>>();
        let began = Instant::now();
        let telling = async {
            loop {
                tokio::time::sleep(TELL_EVERY).await;
                (self.course.tell)(Advance { done: done.load(Ordering::Relaxed), of, elapsed: began.elapsed() });
            }
        };
        let begins = tokio::select! {
            begins = read => begins?,
            () = telling => bail!("the replay cannot end"),
        };
        Ok(begins.into_iter().flatten().max())
    }

    /// Refuses a part that was made with other settings.
    async fn check(&self, client: &Client) -> Result<()> {
        let statement = "SELECT public.exagg_replay_refusal(
                             $1, $2, coalesce($3 AT TIME ZONE 'UTC', '-infinity'),
                             coalesce($4 AT TIME ZONE 'UTC', 'infinity'))";
        let rows = self.query(client, statement, &self.params([])).await?;
        match rows.first().map(|row| row.try_get::<_, Option<String>>(0)).transpose()?.flatten() {
            Some(reason) => bail!("stream {}: {reason}", self.span.stream),
            None => Ok(()),
        }
    }

    /// Refuses to make rows of other settings of a log that holds the last record of each key only. With the same
    /// settings, rows that would have fewer records are kept.
    async fn check_logs(&self, client: &Client, topics: &BTreeSet<&str>) -> Result<()> {
        let statement = "SELECT public.exagg_replay_resets(
                             $1, $2, coalesce($3 AT TIME ZONE 'UTC', '-infinity'),
                             coalesce($4 AT TIME ZONE 'UTC', 'infinity'))";
        let rows = self.query(client, statement, &self.params([])).await?;
        let resets = rows.first().map(|row| row.try_get::<_, Option<bool>>(0)).transpose()?.flatten();
        if resets != Some(true) || self.course.accepts_compacted {
            return Ok(());
        }
        for topic in topics {
            ensure!(
                self.stage.is_compacted(topic).await? != Some(true),
                "the topic {topic} is compacted: its log has the last record of each key only, and rows of other \
                 settings would be made of those. Nothing is replaced; with --accept-compacted they are"
            );
        }
        Ok(())
    }

    /// Puts the rows in the place of the old ones, or says what would become of them.
    async fn replace(&self, client: &Client, log_begins: Option<DateTime<Utc>>) -> Result<Vec<Row>> {
        let arguments = "$1, $2, $5 AT TIME ZONE 'UTC', coalesce($3 AT TIME ZONE 'UTC', '-infinity'),
                         coalesce($4 AT TIME ZONE 'UTC', 'infinity')";
        let statement = if self.course.is_dry_run {
            format!(
                "SELECT d.outcome, d.is_kept, count(*) AS row_count,
                        (array_agg(d.window_start::text || ' ' || d.code ORDER BY d.window_start, d.code))[1:3]
                            AS examples
                 FROM claim CROSS JOIN LATERAL public.exagg_replay_diff({arguments}) AS d GROUP BY 1, 2 ORDER BY 2, 1"
            )
        } else {
            format!("SELECT a.* FROM claim LEFT JOIN LATERAL public.exagg_replay_apply({arguments}) AS a ON true")
        };
        let params = self.params([(&log_begins, Type::TIMESTAMPTZ)]);
        self.claimed(client, &statement, &params).await
    }

    /// Parameters 1 to 4: the stream, the replay's name, the part's bounds; and more behind them.
    fn params<'p, const N: usize>(&'p self, more: [Param<'p>; N]) -> Vec<Param<'p>> {
        let Span { stream, since, until } = &self.span;
        let mut params: Vec<Param<'p>> = vec![
            (stream, Type::VARCHAR),
            (&self.name, Type::VARCHAR),
            (since, Type::TIMESTAMPTZ),
            (until, Type::TIMESTAMPTZ),
        ];
        params.extend(more);
        params
    }

    /// A statement over `claim`, the claim's row, which is locked: whoever takes it over waits, and nothing is done once
    /// somebody has.
    async fn claimed(&self, client: &Client, statement: &str, params: &[Param<'_>]) -> Result<Vec<Row>> {
        let claim = self.claim.condition();
        let statement = format!(
            "WITH claim AS MATERIALIZED (SELECT FROM public.exagg_claims WHERE {claim} FOR UPDATE) {statement}"
        );
        let rows = self.query(client, &statement, params).await?;
        self.claim.check()?;
        Ok(rows)
    }

    /// The parameters' types go with the statement, so that nothing is prepared: a pooler may stand in between.
    async fn query(&self, client: &Client, statement: &str, params: &[Param<'_>]) -> Result<Vec<Row>> {
        Ok(client.query_typed(&self.database.sql(statement), params).await?)
    }
}

/// None: the row says that there is none.
fn outcome(row: &Row) -> Result<Option<Outcome>> {
    let Some(name) = row.try_get("outcome")? else { return Ok(None) };
    Ok(Some(Outcome {
        name,
        is_kept: row.try_get("is_kept")?,
        rows: row.try_get::<_, i64>("row_count")?.try_into()?,
        examples: row.try_get::<_, Option<_>>("examples")?.unwrap_or_default(),
    }))
}

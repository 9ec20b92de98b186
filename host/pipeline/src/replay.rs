//! A stream's closed windows computed anew from Kafka, by the same function that computed them first, while the
//! pipeline runs.
//!
//! The function is given the records up to where the live progress was at the beginning, under a
//! stream name of its own (`<stream>@replay`): so it writes rows of its own, behind a fence of its
//! own. What may be replaced, and is, `exagg_replay_end` decides (`migrations/definitions.sql`).

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use chrono::{DateTime, Utc};
use exagg_app::{App, Resolved};
use exagg_clients::database::Database;
use exagg_clients::kafka::{Offset, Partition, Properties, TopicId, TopicPartition};
use exagg_clients::postgres::Authorities;
use exagg_common::template::Variables;
use exagg_runtime::app::Compiled;
use exagg_runtime::budget::plan::ComponentLimits;
use exagg_runtime::engine;
use exagg_runtime::engine::compiler::{Bounds, Place};
use exagg_runtime::factors::Factors;
use exagg_runtime::factors::key_value::{DEFAULT_STORE, KeyValueFactor};
use exagg_runtime::factors::outbound_http::OutboundHttpFactor;
use exagg_runtime::factors::outbound_kafka::OutboundKafkaFactor;
use exagg_runtime::factors::outbound_pg::OutboundPgFactor;
use exagg_runtime::factors::wasi::WasiFactor;
use exagg_runtime::instance::Component;
use exagg_runtime::metrics::Metrics;
use exagg_trigger_kafka::backlog::{Backlog, Range};
use exagg_trigger_kafka::config::Subscription;
use exagg_trigger_kafka::dispatch::{Dispatched, Dispatcher};
use exagg_trigger_kafka::{KafkaWorld, TYPE};
use futures::future::LocalBoxFuture;
use futures::{StreamExt, TryStreamExt};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};
use tokio_util::sync::CancellationToken;

use crate::claim::Claim;

/// Partitions that are read at a time.
const PARTITIONS_AT_ONCE: usize = 4;
/// Connections of the function.
const CONNECTIONS_MAX: usize = 8;

/// What the host's settings say to a replay.
pub struct Settings {
    /// librdkafka's properties of all clients (`[exagg.kafka]`); templates.
    pub kafka: BTreeMap<String, String>,
    /// Whom to believe of PostgreSQL servers.
    pub authorities: Option<Authorities>,
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

/// What a replay did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Rows of `aggregates` that were replaced, or added where there was none.
    pub rebuilt: usize,
    /// Rows whose values came out as before; sums may differ by a billionth of their size.
    pub unchanged: usize,
    /// Rows that were left as they are, each with the reason.
    pub left: Vec<String>,
}

/// How far the live pipeline was in a partition when the replay began.
struct Seen {
    partition: TopicPartition,
    topic_id: TopicId,
    next_offset: Offset,
    max_future_seconds: i64,
}

impl Seen {
    fn of(row: &Row) -> Result<Self> {
        Ok(Self {
            partition: TopicPartition { topic: row.try_get("topic")?, partition: Partition(row.try_get("partition")?) },
            topic_id: TopicId(row.try_get("topic_id")?),
            next_offset: Offset(row.try_get("next_offset")?),
            max_future_seconds: row.try_get("max_future_seconds")?,
        })
    }
}

/// Computes the windows anew. `app` is the one that made them.
pub fn replay<'a>(
    app: Resolved,
    settings: &'a Settings,
    database: &'a Database,
    span: Span<'a>,
) -> LocalBoxFuture<'a, Result<Replayed>> {
    Box::pin(async move {
        let stream = span.stream;
        let name = format!("{stream}@replay");
        let stage = Stage::load(app, settings, stream, &name).await?;
        let Some(claim) =
            Claim::take(database, &format!("replay of {stream}")).await.context("the replay cannot be claimed")?
        else {
            bail!("another replay of the stream {stream} is under way, or was killed within the last minute");
        };
        let done = computed(&stage, database, &claim, &name, span).await;
        claim.release().await;
        done
    })
}

/// The replay of a stream that is this process's to replay.
async fn computed(stage: &Stage, database: &Database, claim: &Claim, name: &str, span: Span<'_>) -> Result<Replayed> {
    let Span { stream, since, until } = span;
    let client = database.connect().await?;
    // What an earlier replay left.
    forget(database, &client, claim, name).await?;
    // The parameters' types go with the statement, so that nothing is prepared: a pooler may stand in between.
    let statement = "SELECT * FROM public.exagg_replay_begin(
                         $1, $2, coalesce($3 AT TIME ZONE 'UTC', '-infinity'), coalesce($4 AT TIME ZONE 'UTC', 'infinity'))";
    let [text, time] = [Type::VARCHAR, Type::TIMESTAMPTZ];
    let seen = client
        .query_typed(
            &database.sql(statement),
            &[(&stream, text.clone()), (&name, text.clone()), (&since, time.clone()), (&until, time.clone())],
        )
        .await?;
    drop(client);
    let seen = seen.iter().map(Seen::of).collect::<Result<Vec<_>>>()?;
    ensure!(!seen.is_empty(), "there is no stream {stream}: nothing of it was ever aggregated");
    let begins: Vec<_> = futures::stream::iter(seen.iter().map(|seen| stage.read(seen, since, claim)))
        .buffer_unordered(PARTITIONS_AT_ONCE)
        .try_collect()
        .await?;
    claim.check()?;
    let log_begins = begins.into_iter().flatten().max();
    // With the claim's row locked: whoever takes it over waits, and nothing is done once somebody has.
    let statement = format!(
        "WITH claim AS MATERIALIZED (SELECT FROM public.exagg_claims WHERE {} FOR UPDATE)
         SELECT outcome, window_start::text, code
         FROM claim LEFT JOIN LATERAL public.exagg_replay_end(
             $1, $2, coalesce($5 AT TIME ZONE 'UTC', '-infinity'), coalesce($3 AT TIME ZONE 'UTC', '-infinity'),
             coalesce($4 AT TIME ZONE 'UTC', 'infinity')) ON true",
        claim.condition()
    );
    let client = database.connect().await?;
    let rows = client
        .query_typed(
            &database.sql(&statement),
            &[
                (&stream, text.clone()),
                (&name, text),
                (&since, time.clone()),
                (&until, time.clone()),
                (&log_begins, time),
            ],
        )
        .await?;
    ensure!(!rows.is_empty(), "another replay of the stream {stream} has begun meanwhile: nothing was replaced");
    forget(database, &client, claim, name).await?;
    replayed(&rows)
}

/// Forgets what a replay has written of its own, unless it is another's to replay by now.
async fn forget(database: &Database, client: &Client, claim: &Claim, name: &str) -> Result<()> {
    let statement = format!(
        "WITH claim AS MATERIALIZED (SELECT FROM public.exagg_claims WHERE {} FOR UPDATE)
         SELECT public.exagg_replay_forget($1) FROM claim",
        claim.condition()
    );
    client.query_typed(&database.sql(&statement), &[(&name, Type::VARCHAR)]).await?;
    Ok(())
}

fn replayed(rows: &[Row]) -> Result<Replayed> {
    let mut replayed = Replayed::default();
    for row in rows {
        // There is one row without an outcome where there is nothing to replace.
        let Some(outcome) = row.try_get::<_, Option<String>>(0)? else { continue };
        let (start, code): (String, String) = (row.try_get(1)?, row.try_get(2)?);
        match outcome.as_str() {
            "rebuilt" => replayed.rebuilt += 1,
            "unchanged" => replayed.unchanged += 1,
            _ => replayed.left.push(format!("{start} {code}: {outcome}")),
        }
    }
    Ok(replayed)
}

/// The stream's kafka stage, its function set to write under another name.
struct Stage {
    subscription: Arc<Subscription>,
    dispatcher: Dispatcher<Component>,
    kafka: Properties,
    _compiled: Compiled,
    /// Files that the component sees stand there as long as the stage does.
    _scratch: Scratch,
}

/// A folder of one replay's own.
struct Scratch(std::path::PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // Most components have no files, and then it was never made.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Stage {
    async fn load(resolved: Resolved, settings: &Settings, stream: &str, name: &str) -> Result<Self> {
        let Resolved { mut app, variables } = resolved;
        let component = component(&app, &variables, stream)?;
        app.retain(std::slice::from_ref(&component))?;
        let spec = app.components.get_mut(&component).context("a component without a specification")?;
        for (variable, value) in [("stream", name), ("late", "revise")] {
            spec.variables.insert(variable.to_owned(), value.to_owned());
        }
        let kafka = exagg_clients::kafka::properties(&variables, &settings.kafka)?;
        let scratch = Scratch(std::env::temp_dir().join(format!("exagg-replay-{}", uuid::Uuid::new_v4())));
        exagg_app::files::stage(&mut app, &scratch.0)?;
        let factors = Arc::new(Factors {
            wasi: WasiFactor::default(),
            http: OutboundHttpFactor,
            pg: OutboundPgFactor::new(CONNECTIONS_MAX, settings.authorities.clone()),
            kafka: OutboundKafkaFactor::new(kafka.clone(), None),
            key_value: KeyValueFactor::new(&scratch.0, "key_value", [DEFAULT_STORE.to_owned()]),
        });
        let compile = Place::Apart(Bounds::default());
        let engine = engine::Settings { compile, ..engine::Settings::default() };
        let limits = ComponentLimits { connections_max: CONNECTIONS_MAX as u64, ..ComponentLimits::default() };
        let resolved = Resolved { app, variables };
        let compiled = Compiled::new(&resolved, &engine, limits, factors, &[Arc::new(KafkaWorld)]).await?;
        let trigger = compiled.app.triggers.first().context("the component has no trigger")?;
        let subscription = Arc::new(Subscription::new(trigger)?);
        let component = compiled.app.components.get(&component).context("the component was not loaded")?;
        let metrics = Arc::new(Metrics::new().context("the metrics cannot be set up")?);
        let dispatcher = Dispatcher::new(Arc::clone(component), Arc::clone(&subscription), None, metrics);
        Ok(Self { subscription, dispatcher, kafka, _compiled: compiled, _scratch: scratch })
    }

    /// Gives one partition to the function. Where the log has lost its beginning: the time of the
    /// first record that it still holds.
    async fn read(&self, seen: &Seen, since: Option<DateTime<Utc>>, claim: &Claim) -> Result<Option<DateTime<Utc>>> {
        let place = seen.partition.to_string();
        let range = Range {
            partition: seen.partition.clone(),
            topic_id: seen.topic_id.clone(),
            // A record is at most so much older than its event.
            since: since.map(|time| time - chrono::Duration::seconds(seen.max_future_seconds)),
            next_offset: seen.next_offset,
        };
        let mut backlog = Backlog::open(&self.subscription, &self.kafka, range).with_context(|| place.clone())?;
        let cancel = CancellationToken::new();
        while let Some(batch) = backlog.next().await.with_context(|| place.clone())? {
            claim.check()?;
            match self.dispatcher.dispatch(batch, &cancel, &|_| {}).await {
                Dispatched::Applied => {}
                Dispatched::ResumeAt(_) => bail!("{place}: something else writes under this replay's name"),
                Dispatched::Stopped(reason) => bail!("{place}: {reason}"),
                Dispatched::Cancelled => bail!("{place}: cancelled"),
            }
        }
        Ok(backlog.log_begins())
    }
}

/// The component whose variable `stream` is this stream.
fn component(app: &App, variables: &Variables, stream: &str) -> Result<String> {
    let is_of = |id: &String| {
        let template = app.components.get(id).and_then(|spec| spec.variables.get("stream"));
        template.is_some_and(|template| variables.expand(template).is_ok_and(|name| name == stream))
    };
    let found = app.triggers.iter().filter(|trigger| trigger.kind == TYPE).map(|trigger| &trigger.component);
    found.clone().find(|id| is_of(id)).cloned().with_context(|| {
        format!("no kafka stage of the app has the stream {stream} (their variable \"stream\" names it)")
    })
}

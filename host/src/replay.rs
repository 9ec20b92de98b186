//! `exagg replay`: a stream's closed windows computed anew from Kafka, by the same function that
//! computed them first, while the pipeline runs.
//!
//! The function is given the records up to where the live progress stood at the beginning, under a
//! stream name of its own (`<stream>@replay`): so it writes rows of its own, behind a fence of its
//! own. What may be replaced, and is, `exagg_replay_end` decides (`migrations/0004_edges_and_batches.sql`).

use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt};
use tokio_postgres::{Client, Row};
use tokio_util::sync::CancellationToken;

use crate::app::{App, LoadedApp};
use crate::budget::plan::ComponentLimits;
use crate::cli::{Moment, Replay};
use crate::config::{AppSettings, Environment};
use crate::database::Database;
use crate::engine::compiler::{Bounds, Place};
use crate::engine::{Engine, Settings};
use crate::factors::Factors;
use crate::factors::key_value::KeyValueFactor;
use crate::factors::outbound_http::OutboundHttpFactor;
use crate::factors::outbound_kafka::OutboundKafkaFactor;
use crate::factors::outbound_pg::OutboundPgFactor;
use crate::factors::wasi::WasiFactor;
use crate::kafka::Properties;
use crate::telemetry::Metrics;
use crate::template::Variables;
use crate::triggers::kafka::backlog::{Backlog, Range};
use crate::triggers::kafka::config::Subscription;
use crate::triggers::kafka::dispatch::{Dispatched, Dispatcher};

/// Partitions that are read at a time.
const PARTITIONS_AT_ONCE: usize = 4;
/// Connections of the function.
const CONNECTIONS_MAX: usize = 8;

/// How far the live pipeline was in a partition when the replay began.
struct Seen {
    topic: String,
    topic_id: String,
    partition: i32,
    next_offset: i64,
    max_future_seconds: i64,
}

impl Seen {
    fn of(row: &Row) -> Result<Self> {
        Ok(Self {
            topic: row.try_get("topic")?,
            topic_id: row.try_get("topic_id")?,
            partition: row.try_get("partition")?,
            next_offset: row.try_get("next_offset")?,
            max_future_seconds: row.try_get("max_future_seconds")?,
        })
    }
}

/// `exagg replay`.
pub async fn replay(args: &Replay, environment: &Environment) -> Result<()> {
    let settings = AppSettings::load(&args.app_args(), environment)?;
    let app = settings.app().await?;
    let variables = app.resolve(&settings.providers)?;
    let database = settings.database_needed(&variables)?;
    let name = format!("{}@replay", args.stream);
    let stage = Stage::load(app, &variables, &settings, &args.stream, &name).await?;
    let client = begin(&database, &args.stream, &name).await?;
    let since = match args.from {
        Moment::Earliest => None,
        Moment::At(time) => Some(time),
    };
    let until = match args.to {
        None | Some(Moment::Earliest) => None,
        Some(Moment::At(time)) => Some(time),
    };
    let seen = client
        .query(
            "SELECT * FROM public.exagg_replay_begin($1, $2, coalesce($3::timestamptz AT TIME ZONE 'UTC', '-infinity'),
                                                     coalesce($4::timestamptz AT TIME ZONE 'UTC', 'infinity'))",
            &[&args.stream, &name, &since, &until],
        )
        .await?;
    let seen = seen.iter().map(Seen::of).collect::<Result<Vec<_>>>()?;
    ensure!(!seen.is_empty(), "there is no stream {}: nothing of it was ever aggregated", args.stream);
    let begins: Vec<_> = futures::stream::iter(seen.iter().map(|seen| stage.read(seen, since)))
        .buffer_unordered(PARTITIONS_AT_ONCE)
        .try_collect()
        .await?;
    let log_begins = begins.into_iter().flatten().max();
    let rows = client
        .query(
            "SELECT outcome, window_start::text, code FROM public.exagg_replay_end($1, $2,
                 coalesce($5::timestamptz AT TIME ZONE 'UTC', '-infinity'),
                 coalesce($3::timestamptz AT TIME ZONE 'UTC', '-infinity'),
                 coalesce($4::timestamptz AT TIME ZONE 'UTC', 'infinity'))",
            &[&args.stream, &name, &since, &until, &log_begins],
        )
        .await?;
    client.execute("SELECT public.exagg_replay_forget($1)", &[&name]).await?;
    report(&args.stream, &rows)
}

fn report(stream: &str, rows: &[Row]) -> Result<()> {
    let (mut rebuilt, mut unchanged, mut left) = (0, 0, Vec::new());
    for row in rows {
        let (outcome, start, code): (String, String, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        match outcome.as_str() {
            "rebuilt" => rebuilt += 1,
            "unchanged" => unchanged += 1,
            _ => left.push(format!("{start} {code}: {outcome}")),
        }
    }
    println!("stream {stream}: {rebuilt} rows rebuilt, {unchanged} unchanged, {} left as they are", left.len());
    for line in left {
        println!("{line}");
    }
    Ok(())
}

/// A connection that holds the stream's replay lock, with what an earlier replay left forgotten.
async fn begin(database: &Database, stream: &str, name: &str) -> Result<Client> {
    let client = database.connect().await?;
    let locked =
        client.query_one("SELECT pg_try_advisory_lock(hashtextextended('exagg replay ' || $1, 0))", &[&stream]).await?;
    if !locked.try_get::<_, bool>(0)? {
        bail!("another replay of the stream {stream} is under way");
    }
    client.execute("SELECT public.exagg_replay_forget($1)", &[&name]).await.context("run exagg migrate first")?;
    Ok(client)
}

/// The stream's kafka stage, its function set to write under another name.
struct Stage {
    subscription: Arc<Subscription>,
    dispatcher: Dispatcher,
    kafka: Properties,
    _engine: Engine,
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
    async fn load(
        mut app: App,
        variables: &Variables,
        settings: &AppSettings,
        stream: &str,
        name: &str,
    ) -> Result<Self> {
        let component = component(&app, variables, stream)?;
        app.retain(std::slice::from_ref(&component))?;
        let spec = app.components.get_mut(&component).context("a component without a specification")?;
        for (variable, value) in [("stream", name), ("late", "revise")] {
            spec.variables.insert(variable.to_owned(), value.to_owned());
        }
        let kafka = crate::kafka::properties(variables, &settings.kafka)?;
        let scratch = Scratch(std::env::temp_dir().join(format!("exagg-replay-{}", uuid::Uuid::new_v4())));
        crate::files::stage(&mut app, &scratch.0)?;
        let factors = Arc::new(Factors {
            wasi: WasiFactor::default(),
            http: OutboundHttpFactor,
            pg: OutboundPgFactor::new(CONNECTIONS_MAX, settings.authorities.clone()),
            kafka: OutboundKafkaFactor::new(kafka.clone(), None),
            key_value: KeyValueFactor::new(&scratch.0, "key_value", std::iter::empty()),
        });
        let compile = Place::Apart(Bounds::default());
        let engine = Engine::new(&Settings { compile, ..Settings::default() })?;
        let limits = ComponentLimits { connections_max: CONNECTIONS_MAX as u64, ..ComponentLimits::default() };
        let loaded = LoadedApp::load(&app, variables, &engine, limits, &factors).await?;
        let trigger = loaded.triggers.first().context("the component has no trigger")?;
        let subscription = Arc::new(Subscription::new(trigger)?);
        let component = loaded.components.get(&component).context("the component was not loaded")?;
        let metrics = Arc::new(Metrics::new().context("the metrics cannot be set up")?);
        let dispatcher = Dispatcher::new(Arc::clone(component), Arc::clone(&subscription), None, metrics);
        Ok(Self { subscription, dispatcher, kafka, _engine: engine, _scratch: scratch })
    }

    /// Gives one partition to the function. Where the log has lost its beginning: the time of the
    /// first record that it still holds.
    async fn read(&self, seen: &Seen, since: Option<DateTime<Utc>>) -> Result<Option<DateTime<Utc>>> {
        let place = format!("topic {} partition {}", seen.topic, seen.partition);
        let range = Range {
            topic: seen.topic.clone(),
            topic_id: seen.topic_id.clone(),
            partition: seen.partition,
            // A record is at most so much older than its event.
            since: since.map(|time| time - chrono::Duration::seconds(seen.max_future_seconds)),
            next_offset: seen.next_offset,
        };
        let mut backlog = Backlog::open(&self.subscription, &self.kafka, range).with_context(|| place.clone())?;
        let cancel = CancellationToken::new();
        while let Some(batch) = backlog.next().await.with_context(|| place.clone())? {
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
    let found = app.triggers.iter().filter(|trigger| trigger.kind == "kafka").map(|trigger| &trigger.component);
    found.clone().find(|id| is_of(id)).cloned().with_context(|| {
        format!("no kafka stage of the app has the stream {stream} (their variable \"stream\" names it)")
    })
}

//! A run from its start to its end, in steps. Each is a value that only the one before can make:
//!
//! settings ([`HostConfig`]) → app ([`App`]) → resolved ([`Resolved`]) → compiled ([`Compiled`]) → set up ([`SetUp`])
//! → bound ([`Bound`]) → running → drained.
//!
//! Everything is checked before anything runs, and a stop drains from the sources to the sinks.
//!
//! # Layout
//! - here: the order, and the steps up to the compiled app.
//! - [`bind`]: triggers and clients set up, addresses taken.
//! - [`stages`]: the stages while they run, and their drain.
//! - [`database`]: the pipeline's database, before the stages run and meanwhile.

mod bind;
mod database;
mod stages;

use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use exagg_app::{App, Provider, Resolved, files, manifest, source};
use exagg_clients::kafka::{self, Properties};
use exagg_common::{memory, private};
use exagg_pipeline::streams;
use exagg_runtime::app::Compiled;
use exagg_runtime::factors::Factors;
use exagg_runtime::factors::key_value::KeyValueFactor;
use exagg_runtime::factors::outbound_http::OutboundHttpFactor;
use exagg_runtime::factors::outbound_kafka::{OutboundKafkaFactor, ProduceGate};
use exagg_runtime::factors::outbound_pg::OutboundPgFactor;
use exagg_runtime::factors::wasi::WasiFactor;

use self::bind::{Bound, SetUp};
use crate::cli::Up;
use crate::config::{Environment, HostConfig, did_you_mean};
use crate::embedded::Embedded;
use crate::embedded::broker::Guard;
use crate::shutdown::Shutdown;
use crate::triggers;

/// The embedded broker and PostgreSQL, and what is known of the broker's readers.
struct Local {
    embedded: Embedded,
    guard: Arc<Guard>,
    /// Topics that a stage reads.
    topics: Vec<String>,
}

/// `exagg up`.
pub async fn up(flags: Up, environment: &Environment) -> Result<()> {
    host(HostConfig::new(flags, environment)?).await
}

/// Runs the app until it ends or is told to stop.
pub async fn host(config: HostConfig) -> Result<()> {
    let shutdown = Shutdown::listen()?;
    if config.ends_with_parent {
        shutdown.end_with_parent();
    }
    let bound = tokio::select! {
        bound = Box::pin(start(config)) => match bound? {
            Some(bound) => bound,
            None => return Ok(()),
        },
        () = shutdown.drain.cancelled() => {
            tracing::info!("stopped before anything ran");
            return Ok(());
        }
    };
    tokio::select! {
        result = bound.run(&shutdown) => result,
        () = shutdown.abort.cancelled() => bail!("a second signal: stopped without draining"),
    }
}

/// Everything up to where stages may run; none where it was only to be checked. A signal ends it wherever it is.
async fn start(config: HostConfig) -> Result<Option<Bound>> {
    let state_dir = &config.app.state_dir;
    private::state_folder(state_dir).with_context(|| {
        format!("the state directory {} cannot be used: --state-dir names another one", state_dir.display())
    })?;
    let app = load(&config).await?;
    let (resolved, local) = resolve(app, &config)?;
    streams::check(&resolved)?;
    let properties = kafka::properties(&resolved.variables, &config.app.kafka)?;
    let compiled = compile(&resolved, &config, &properties, local.as_ref()).await?;
    let stages = resolved.app.triggers.len();
    let (is_check, name) = (config.check, resolved.app.name.clone());
    let set_up = SetUp::new(config, &resolved, compiled, properties, local)?;
    if is_check {
        println!("the app {name} can run: {stages} stages, their settings and components are checked");
        return Ok(None);
    }
    Ok(Some(set_up.bind().await?))
}

/// The app, built where that is asked for, with the stages that are to run and their files.
async fn load(config: &HostConfig) -> Result<App> {
    let mut app = config.app.app().await?;
    ensure!(!app.triggers.is_empty(), "the app {} has no triggers: nothing would run", app.name);
    // Under spin up a component may be another trigger's.
    let unknown = config.output.follow.iter().find(|id| !config.ends_with_parent && !app.components.contains_key(*id));
    if let Some(id) = unknown {
        bail!("--follow {id}: the app has no component of this id{}", did_you_mean(id, app.components.keys()));
    }
    if config.build {
        let building = app.clone();
        tokio::task::spawn_blocking(move || manifest::build(&building)).await??;
    }
    app.retain(&config.component_ids)?;
    files::stage(&mut app, &source::assets(&config.app.state_dir))?;
    Ok(app)
}

/// The variables' values, of which the embedded pair gives the addresses.
fn resolve(app: App, config: &HostConfig) -> Result<(Resolved, Option<Local>)> {
    let embedded = if config.embedded { Some(Embedded::plan(&config.app.state_dir)?) } else { None };
    let mut providers: Vec<Provider> = embedded.iter().map(Embedded::provider).collect();
    providers.extend(config.app.providers.iter().cloned());
    let resolved = app.resolve(&providers)?;
    let local = embedded.map(|embedded| {
        let topics = topics_read(&resolved.app);
        Local { embedded, guard: Guard::new(topics.clone()), topics }
    });
    Ok((resolved, local))
}

/// Topics that the app's kafka triggers read.
fn topics_read(app: &App) -> Vec<String> {
    let kafka = app.triggers.iter().filter(|trigger| trigger.kind == exagg_trigger_kafka::TYPE);
    let listed = kafka.filter_map(|trigger| trigger.config.get("topics")?.as_array()).flatten();
    let mut topics: Vec<String> = listed.filter_map(|topic| Some(topic.as_str()?.to_owned())).collect();
    topics.sort();
    topics.dedup();
    topics
}

/// The components, compiled and linked to the factors, each tried out.
async fn compile(
    resolved: &Resolved,
    config: &HostConfig,
    properties: &Properties,
    local: Option<&Local>,
) -> Result<Compiled> {
    let gate = local.map(|local| Arc::clone(&local.guard) as Arc<dyn ProduceGate>);
    let stores = config.key_value_stores.iter().cloned();
    let factors = Arc::new(Factors {
        wasi: WasiFactor { output: config.output.clone() },
        http: OutboundHttpFactor,
        pg: OutboundPgFactor::new(config.postgres_connections_max, config.app.authorities.clone()),
        kafka: OutboundKafkaFactor::new(properties.clone(), gate),
        key_value: KeyValueFactor::new(&config.app.state_dir, config.key_value_file, stores),
    });
    factors.key_value.set(&config.key_values).await?;
    memory::set_budget(config.engine.budget_bytes);
    let worlds = triggers::worlds();
    let compiled = Compiled::new(resolved, &config.engine, config.component_limits, factors, &worlds).await?;
    compiled.try_out().await?;
    Ok(compiled)
}

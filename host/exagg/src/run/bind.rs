//! The app, checked, with everything it needs, and its addresses taken.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use exagg_app::Resolved;
use exagg_clients::database::Database;
use exagg_clients::kafka::Properties;
use exagg_common::clock::SystemClock;
use exagg_common::template::{Secret, Variables};
use exagg_pipeline::alarm::Notifications;
use exagg_pipeline::lease::Leases;
use exagg_pipeline::streams;
use exagg_runtime::app::Compiled;
use exagg_runtime::health::Health;
use exagg_runtime::metrics::Metrics;
use exagg_runtime::trigger::Context;
use exagg_trigger_cron::stage::TickLease;
use exagg_trigger_cron::wake::Alarm;
use exagg_trigger_kafka::Settings as KafkaSettings;
use exagg_trigger_kafka::partition::AppliedObserver;
use futures::future::join_all;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Local;
use super::database::Told;
use super::stages::Stages;
use crate::admin::{ASKING_MAX, Admin};
use crate::config::HostConfig;
use crate::embedded::postgres::Postgres;
use crate::heartbeat::Heartbeat;
use crate::server::{AdminSocket, Guests, serve_admin, serve_admin_socket, serve_app};
use crate::shutdown::Shutdown;
use crate::swap::Swaps;
use crate::triggers::{Settings, Triggers};
use crate::{admin_client, server};

/// How long producers may take to deliver what is queued when the host stops.
const FLUSH: Duration = Duration::from_secs(2);
/// So long at least open connections have to end, however long the stages took.
const CLOSE_MIN: Duration = Duration::from_secs(1);

/// The app, checked, with everything it needs but its addresses.
pub struct SetUp {
    config: HostConfig,
    compiled: Compiled,
    context: Context,
    triggers: Arc<Triggers>,
    /// May change things at the admin address.
    token: Option<Secret>,
    database: Option<Database>,
    leases: Option<Database>,
    /// The stream of each component that writes one.
    streams: BTreeMap<String, String>,
    local: Option<Local>,
}

/// Ready to run.
pub struct Bound {
    set_up: SetUp,
    health: Arc<Health>,
    admin: Arc<Admin>,
    listeners: Listeners,
}

/// Where the host is reached.
struct Listeners {
    /// The app's own address; under `spin up` there is none.
    app: Option<TcpListener>,
    admin: Option<TcpListener>,
    socket: Option<AdminSocket>,
}

impl Listeners {
    /// Takes the addresses, before anything runs.
    async fn bind(config: &HostConfig) -> Result<Self> {
        let app = match config.listen {
            Some(address) => Some(server::bind("--listen", address).await?),
            None => None,
        };
        let admin = match config.admin {
            Some(address) => Some(server::bind("--admin", address).await?),
            None => None,
        };
        let path = admin_client::socket(&config.app.state_dir, config.admin_socket);
        let socket = AdminSocket::bind(&path)
            .inspect_err(|error| tracing::warn!("exagg swap reaches this host by its admin address only: {error:#}"))
            .ok();
        Ok(Self { app, admin, socket })
    }
}

impl SetUp {
    /// Sets up the triggers, whose settings are checked, and the host's clients.
    pub fn new(
        config: HostConfig,
        resolved: &Resolved,
        compiled: Compiled,
        properties: Properties,
        local: Option<Local>,
    ) -> Result<Self> {
        let variables = &resolved.variables;
        let context = Context {
            metrics: Arc::new(Metrics::new().context("the metrics cannot be set up")?),
            clock: Arc::new(SystemClock),
            drain_max: config.drain.time_max,
        };
        let leases = leases(&config, variables)?;
        let lease = leases.clone().map(|database| Arc::new(Leases::new(database)) as Arc<dyn TickLease>);
        // A plugin migrates where it is told to, whatever the app says.
        let asks_for_migrations = resolved.app.migrations || (config.ends_with_parent && config.migrate);
        let database = config.app.pipelines_database(variables, asks_for_migrations)?;
        let alarm = database.clone().map(|database| Arc::new(Notifications::new(database)) as Arc<dyn Alarm>);
        let settings = Settings { kafka: kafka(properties, local.as_ref()), lease, alarm };
        let mut triggers = Triggers::new(&context, settings);
        triggers.add(&compiled.app)?;
        let token = config.admin_token.as_ref().map(|token| variables.expand(token.expose())).transpose()?;
        let token = token.filter(|token| !token.is_empty()).map(Secret::new);
        let streams = streams::of_components(resolved)?;
        Ok(Self { config, compiled, context, triggers: Arc::new(triggers), token, database, leases, streams, local })
    }

    /// Takes the addresses.
    pub async fn bind(self) -> Result<Bound> {
        let listeners = Listeners::bind(&self.config).await?;
        let (app, metrics, health) = (&self.compiled.app, &self.context.metrics, Arc::default());
        let admin = Arc::new(Admin {
            swaps: Arc::new(Swaps::new(Arc::clone(app), Arc::clone(metrics))),
            token: self.token.clone(),
            asking: Semaphore::new(ASKING_MAX),
            hosts: self.config.admin_hosts.clone(),
            app: Arc::clone(app),
            triggers: Arc::clone(&self.triggers),
            health: Arc::clone(&health),
            metrics: Arc::clone(metrics),
            database: self.database.clone(),
        });
        Ok(Bound { set_up: self, health, admin, listeners })
    }
}

impl Bound {
    /// Runs the stages until they end or are told to stop, and what serves beside them.
    pub async fn run(self, shutdown: &Shutdown) -> Result<()> {
        let postgres = match &self.set_up.local {
            Some(local) => {
                local.embedded.broker.create(&local.topics)?;
                tokio::select! {
                    started = local.embedded.start_postgres() => Some(started?),
                    () = shutdown.drain.cancelled() => return Ok(()),
                }
            }
            None => None,
        };
        self.banner()?;
        let closing = CancellationToken::new();
        let Self { set_up, health, admin, listeners } = self;
        let SetUp { config, compiled, context, triggers, database, leases, streams, local, .. } = set_up;
        let servers = serve(listeners, &triggers, &admin, &config, &compiled, &closing);
        let stages = Stages {
            triggers,
            told: Told { health, metrics: context.metrics },
            heartbeat: Some(Heartbeat::new(Arc::clone(&admin), streams, shutdown.drain.clone())),
            clock: context.clock,
            database,
            leases,
            migrate: config.migrate,
            // The broker ends with `local`, which is kept until everything has ended.
            local: local.as_ref().map(|local| (Arc::clone(&local.guard), local.topics.clone())),
            drain: config.drain,
        };
        let result = stages.run(shutdown).await;
        compiled.factors.kafka.flush(FLUSH).await;
        closing.cancel();
        let left = shutdown.left_of(config.drain.time_max).max(CLOSE_MIN);
        if tokio::time::timeout(left, join_all(servers)).await.is_err() {
            tracing::warn!("requests in progress are cut: they did not end within {:?}", config.drain.time_max);
        }
        if let Some(postgres) = postgres {
            tokio::task::spawn_blocking(|| Postgres::stop(postgres)).await?;
        }
        result
    }

    /// Says where the host is reached.
    fn banner(&self) -> Result<()> {
        if let Some(listener) = &self.listeners.app {
            let address = listener.local_addr()?;
            for (stage, route) in self.set_up.triggers.http.stages() {
                println!("{stage}: http://{address}{}", route.trim_end_matches("..."));
            }
        }
        if let Some(listener) = &self.listeners.admin {
            println!("admin: http://{}/status (exagg status), /metrics, /livez, /readyz", listener.local_addr()?);
        }
        if let Some(local) = &self.set_up.local {
            println!(
                "embedded: a broker in memory at {} (for trying out: its records go with this process) and a \
                 PostgreSQL in the state directory; for a real cluster leave --embedded out and set kafka_brokers, \
                 kafka_host, postgres_url, postgres_host",
                local.embedded.broker.address()
            );
        }
        Ok(())
    }
}

/// What the kafka trigger is set to.
fn kafka(mut properties: Properties, local: Option<&Local>) -> KafkaSettings {
    let Some(local) = local else { return KafkaSettings { properties, ..KafkaSettings::default() } };
    // The mock cluster rebalances a second before the session would end.
    properties.insert("session.timeout.ms".to_owned(), Secret::new("6000"));
    KafkaSettings {
        properties,
        topics_are: Some(local.embedded.broker.description()),
        from_earliest: true,
        observer: Some(Arc::clone(&local.guard) as Arc<dyn AppliedObserver>),
    }
}

/// Where it is said who runs a cron tick, where several replicas would.
fn leases(config: &HostConfig, variables: &Variables) -> Result<Option<Database>> {
    let Some(template) = &config.cron_lease else { return Ok(None) };
    Ok(Some(config.app.database_at(&variables.expand(template)?, variables)?))
}

/// Serves all listeners, and watches files where that is asked for, until told to stop.
fn serve(
    listeners: Listeners,
    triggers: &Arc<Triggers>,
    admin: &Arc<Admin>,
    config: &HostConfig,
    compiled: &Compiled,
    closing: &CancellationToken,
) -> Vec<JoinHandle<()>> {
    let limits = config.connection_limits;
    let mut servers = Vec::new();
    if let Some(listener) = listeners.app {
        let guests = Guests { triggers: Arc::clone(triggers), runtime: compiled.engine.lanes.http() };
        servers.push(tokio::spawn(serve_app(listener, guests, Arc::clone(admin), limits, closing.clone())));
    }
    if let Some(listener) = listeners.admin {
        servers.push(tokio::spawn(serve_admin(listener, Arc::clone(admin), limits, closing.clone())));
    }
    if let Some(socket) = listeners.socket {
        servers.push(tokio::spawn(serve_admin_socket(socket, Arc::clone(admin), limits, closing.clone())));
    }
    if config.watch {
        let (swaps, closing) = (Arc::clone(&admin.swaps), closing.clone());
        let manifest = config.app.manifest().map(Path::to_owned);
        servers.push(tokio::spawn(async move { swaps.watch(manifest.as_deref(), closing).await }));
    }
    servers
}

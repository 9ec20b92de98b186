//! A run from its start to its end. Everything is checked before anything runs; a stop drains
//! from the sources to the sinks.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::admin::{ASKING_MAX, Admin};
use crate::app::{App, LoadedApp, Provider};
use crate::cli::Up;
use crate::clock::SystemClock;
use crate::config::{AppSettings, Environment, HostConfig};
use crate::database::Database;
use crate::embedded::broker::Guard;
use crate::embedded::postgres::Postgres;
use crate::embedded::{Embedded, retire_last_run};
use crate::engine::{Engine, Settings};
use crate::factors::Factors;
use crate::factors::key_value::KeyValueFactor;
use crate::factors::outbound_http::OutboundHttpFactor;
use crate::factors::outbound_kafka::{OutboundKafkaFactor, ProduceGate};
use crate::factors::outbound_pg::OutboundPgFactor;
use crate::factors::wasi::WasiFactor;
use crate::health::Health;
use crate::lease::Leases;
use crate::migrate::migrate;
use crate::server::{AdminSocket, ConnectionLimits, Guests, serve_admin, serve_admin_socket, serve_app};
use crate::shutdown::Shutdown;
use crate::swap::Swaps;
use crate::telemetry::Metrics;
use crate::template::{Secret, Variables};
use crate::triggers::kafka::partition::Follower;
use crate::triggers::{Context, Triggers};

/// How long the embedded readers may take to read what is stored when the host stops.
const EMBEDDED_DRAIN: Duration = Duration::from_secs(2);
/// How long producers may take to deliver what is queued when the host stops.
const FLUSH: Duration = Duration::from_secs(2);
/// How often the database is looked at, for readiness.
const DATABASE_LOOK: Duration = Duration::from_secs(3);
/// How long the start waits for components to start.
const TRY_OUT: Duration = Duration::from_secs(5);
/// Pauses between tries to reach the database at the start.
const MIGRATE_PAUSE_MIN: Duration = Duration::from_millis(200);
const MIGRATE_PAUSE_MAX: Duration = Duration::from_secs(5);

/// The app, checked, with everything it needs, and its addresses taken.
struct Prepared {
    config: HostConfig,
    triggers: Arc<Triggers>,
    factors: Arc<Factors>,
    context: Context,
    admin: Arc<Admin>,
    database: Option<Database>,
    leases: Option<Arc<Leases>>,
    embedded: Option<Embedded>,
    guard: Option<Arc<Guard>>,
    /// Topics that a stage reads.
    topics: Vec<String>,
    listeners: Listeners,
    /// Ends the epoch's thread, and those for guests, when it goes.
    engine: Engine,
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
            Some(address) => Some(crate::server::bind("--listen", address).await?),
            None => None,
        };
        let admin = match config.admin {
            Some(address) => Some(crate::server::bind("--admin", address).await?),
            None => None,
        };
        let path = crate::client::socket(&config.app.state_dir, config.admin_socket);
        let socket = AdminSocket::bind(&path)
            .inspect_err(|error| tracing::warn!("exagg swap reaches this host by its admin address only: {error:#}"))
            .ok();
        Ok(Self { app, admin, socket })
    }

    /// Serves all of them until told to stop.
    fn serve(
        self,
        context: &Context,
        admin: &Arc<Admin>,
        limits: ConnectionLimits,
        requests: Option<Handle>,
        closing: &CancellationToken,
    ) -> Vec<JoinHandle<()>> {
        let mut servers = Vec::new();
        if let Some(listener) = self.app {
            let routes = Arc::clone(&admin.triggers.http);
            let guests = Guests { routes, context: context.clone(), runtime: requests };
            let serving = serve_app(listener, guests, Arc::clone(admin), limits, closing.clone());
            servers.push(tokio::spawn(serving));
        }
        if let Some(listener) = self.admin {
            servers.push(tokio::spawn(serve_admin(listener, Arc::clone(admin), limits, closing.clone())));
        }
        if let Some(socket) = self.socket {
            servers.push(tokio::spawn(serve_admin_socket(socket, Arc::clone(admin), limits, closing.clone())));
        }
        servers
    }
}

/// `exagg up`.
pub async fn up(flags: Up, environment: &Environment) -> Result<()> {
    host(HostConfig::new(flags, environment)?).await
}

/// Runs the app until it ends or is told to stop.
pub async fn host(config: HostConfig) -> Result<()> {
    let shutdown = Shutdown::listen()?;
    let prepared = prepare(config).await?;
    let run = prepared.run(&shutdown);
    tokio::select! {
        result = run => result,
        () = shutdown.abort.cancelled() => bail!("a second signal: stopped without draining"),
    }
}

/// `exagg migrate`.
pub async fn migrate_command(args: &crate::cli::AppArgs, environment: &Environment) -> Result<()> {
    let settings = AppSettings::load(args, environment)?;
    let variables = settings.app().await?.resolve(&settings.providers)?;
    let database = settings.database_needed(&variables)?;
    match migrate(&database).await?.as_slice() {
        [] => println!("the database at {} is up to date", database.place()),
        applied => println!("the database at {} has {} now", database.place(), applied.join(", ")),
    }
    Ok(())
}

/// Topics of the app's kafka triggers, templates expanded.
fn topics_read(app: &App, variables: &Variables) -> Result<Vec<String>> {
    let mut topics = Vec::new();
    for trigger in app.triggers.iter().filter(|trigger| trigger.kind == "kafka") {
        let listed = trigger.config.get("topics").and_then(serde_json::Value::as_array);
        for topic in listed.into_iter().flatten().filter_map(serde_json::Value::as_str) {
            let topic = variables.expand(topic).with_context(|| format!("trigger {}: topics", trigger.id))?;
            if !topics.contains(&topic) {
                topics.push(topic);
            }
        }
    }
    Ok(topics)
}

/// The app, built where that is asked for, with the stages that are to run and their files.
async fn load(config: &HostConfig) -> Result<App> {
    let mut app = config.app.app().await?;
    if config.build {
        crate::manifest::build(&app)?;
    }
    app.retain(&config.component_ids)?;
    crate::files::stage(&mut app, &crate::source::assets(&config.app.state_dir))?;
    Ok(app)
}

/// The components, compiled and checked.
async fn compile(
    app: &App,
    variables: &Variables,
    config: &HostConfig,
    factors: &Arc<Factors>,
) -> Result<(Arc<LoadedApp>, Engine)> {
    let components = app.components_by_kind().values().sum();
    let engine = Engine::new(&Settings { components, ..config.engine.clone() })?;
    crate::memory::set_budget(engine.budget_bytes);
    let loaded = Arc::new(LoadedApp::load(app, variables, &engine, config.component_limits, factors).await?);
    try_out(&loaded).await?;
    Ok((loaded, engine))
}

/// Makes an instance of each component. One that cannot be made is its own stages' affair, unless there is no other;
/// one that takes long is not waited for.
async fn try_out(app: &LoadedApp) -> Result<()> {
    let components: Vec<_> = app.components.iter().map(|(id, slot)| (id.clone(), slot.current())).collect();
    let all = components.len();
    let mut trying = tokio::spawn(async move {
        let mut errors = Vec::new();
        // One at a time: memory that each may take at its start need not be there for all at once.
        for (id, component) in components {
            let tried = component.try_out().await.with_context(|| format!("component {id} does not start"));
            errors.extend(tried.inspect_err(|error| tracing::error!("{error:#}: its stages cannot run")).err());
        }
        errors
    });
    let wait_max = if all > 1 { TRY_OUT } else { Duration::MAX };
    let Ok(tried) = tokio::time::timeout(wait_max, &mut trying).await else { return Ok(()) };
    let mut errors = tried.context("the components cannot be tried out")?;
    match errors.pop() {
        Some(error) if errors.len() + 1 == all => Err(error),
        _ => Ok(()),
    }
}

async fn prepare(config: HostConfig) -> Result<Prepared> {
    crate::private::state_folder(&config.app.state_dir)?;
    let app = load(&config).await?;
    let embedded = if config.embedded { Some(Embedded::plan(&config.app.state_dir)?) } else { None };
    let mut providers: Vec<Provider> = embedded.iter().map(Embedded::provider).collect();
    providers.extend(config.app.providers.iter().cloned());
    let variables = app.resolve(&providers)?;
    let topics = topics_read(&app, &variables)?;
    let guard = embedded.as_ref().map(|_| Guard::new(topics.clone()));
    let mut kafka = crate::kafka::properties(&variables, &config.app.kafka)?;
    let gate = guard.as_ref().map(|guard| Arc::clone(guard) as Arc<dyn ProduceGate>);
    let factors = Arc::new(Factors {
        wasi: WasiFactor { output: config.output.clone() },
        http: OutboundHttpFactor,
        pg: OutboundPgFactor::new(config.postgres_connections_max, config.app.authorities.clone()),
        kafka: OutboundKafkaFactor::new(kafka.clone(), gate),
        key_value: KeyValueFactor::new(
            &config.app.state_dir,
            config.key_value_file,
            config.key_value_stores.iter().cloned(),
        ),
    });
    factors.key_value.set(&config.key_values).await?;
    let (loaded, engine) = compile(&app, &variables, &config, &factors).await?;
    if embedded.is_some() {
        // The mock cluster rebalances a second before the session would end.
        kafka.insert("session.timeout.ms".to_owned(), Secret::new("6000"));
    }
    let metrics = Arc::new(Metrics::new().context("the metrics cannot be set up")?);
    let context = Context {
        kafka,
        metrics,
        health: Arc::default(),
        clock: SystemClock,
        topics_are: embedded.as_ref().map(|embedded| embedded.broker.description()),
    };
    let triggers = Arc::new(Triggers::new(&loaded, &context, embedded.is_some())?);
    let authorities = config.app.authorities.as_ref();
    let database = config.app.database(&variables)?;
    let leases = match &config.cron_lease {
        Some(template) => Some(Arc::new(Leases::new(Database::parse(&variables.expand(template)?, authorities)?))),
        None => None,
    };
    let listeners = Listeners::bind(&config).await?;
    let token = config.admin_token.as_ref().map(|token| variables.expand(token.expose())).transpose()?;
    let admin = Arc::new(Admin {
        swaps: Arc::new(Swaps::new(Arc::clone(&loaded), Arc::clone(&context.metrics))),
        token: token.filter(|token| !token.is_empty()).map(Secret::new),
        asking: Semaphore::new(ASKING_MAX),
        hosts: config.admin_hosts.clone(),
        app: loaded,
        triggers: Arc::clone(&triggers),
        health: Arc::clone(&context.health),
        metrics: Arc::clone(&context.metrics),
        database: database.clone(),
    });
    Ok(Prepared {
        config,
        triggers,
        factors,
        context,
        admin,
        database,
        leases,
        embedded,
        guard,
        topics,
        listeners,
        engine,
    })
}

impl Prepared {
    async fn run(self, shutdown: &Shutdown) -> Result<()> {
        let postgres = match &self.embedded {
            Some(embedded) => {
                embedded.broker.create(&self.topics)?;
                Some(embedded.start_postgres().await?)
            }
            None => None,
        };
        banner(&self.triggers, &self.listeners, self.embedded.as_ref())?;
        let closing = CancellationToken::new();
        let (limits, requests) = (self.config.connection_limits, self.engine.lanes.http());
        let mut servers = self.listeners.serve(&self.context, &self.admin, limits, requests, &closing);
        if self.config.watch {
            let (swaps, closing) = (Arc::clone(&self.admin.swaps), closing.clone());
            servers.push(tokio::spawn(async move { swaps.watch(closing).await }));
        }
        let stages = Stages {
            triggers: self.triggers,
            context: self.context,
            database: self.database,
            migrate: self.config.migrate,
            leases: self.leases,
            guard: self.guard,
            topics: self.topics,
            drain_max: self.config.drain_max,
        };
        let result = stages.run(shutdown).await;
        self.factors.kafka.flush(FLUSH).await;
        closing.cancel();
        for server in servers {
            let _ = server.await;
        }
        if let Some(postgres) = postgres {
            tokio::task::spawn_blocking(|| Postgres::stop(postgres)).await?;
        }
        result
    }
}

/// What runs between the listeners' start and their end.
struct Stages {
    triggers: Arc<Triggers>,
    context: Context,
    database: Option<Database>,
    migrate: bool,
    leases: Option<Arc<Leases>>,
    guard: Option<Arc<Guard>>,
    topics: Vec<String>,
    drain_max: Duration,
}

impl Stages {
    async fn run(self, shutdown: &Shutdown) -> Result<()> {
        if let Some(database) = &self.database
            && !self.make_ready(database, shutdown).await?
        {
            return Ok(());
        }
        let (stop_cron, stop) = (CancellationToken::new(), CancellationToken::new());
        let looking = self
            .database
            .clone()
            .map(|database| tokio::spawn(look_at_database(database, Arc::clone(&self.context.health), stop.clone())));
        let follower = self.guard.as_ref().map(|guard| Arc::clone(guard) as Arc<dyn Follower>);
        let (triggers, context) = (Arc::clone(&self.triggers), self.context.clone());
        let (leases, cron, all) = (self.leases.clone(), stop_cron.clone(), stop.clone());
        let mut running = tokio::spawn(async move { triggers.run(&context, follower, leases, cron, all).await });
        // Without a kafka or cron stage the http routes alone keep the host up.
        let only_http = self.triggers.kafka.is_empty() && self.triggers.cron.is_empty();
        let ended = tokio::select! {
            () = shutdown.drain.cancelled() => None,
            ended = &mut running, if !only_http => Some(ended?),
        };
        stop_cron.cancel();
        let result = match ended {
            Some(result) => result,
            None => self.drain(&stop, running).await,
        };
        stop.cancel();
        if let Some(looking) = looking {
            let _ = looking.await;
        }
        result
    }

    /// Lets the readers finish, then the batches in flight.
    async fn drain(&self, stop: &CancellationToken, running: tokio::task::JoinHandle<Result<()>>) -> Result<()> {
        tracing::info!("stopping: batches in flight end first");
        if let Some(guard) = &self.guard
            && !guard.drained(EMBEDDED_DRAIN).await
        {
            tracing::warn!(
                "the embedded broker forgets records that were not read yet; the next start lists them in gaps"
            );
        }
        stop.cancel();
        match tokio::time::timeout(self.drain_max, running).await {
            Ok(ended) => ended?,
            Err(_) => bail!("not drained within {:?}", self.drain_max),
        }
    }

    /// Migrates the database, waiting until it can be reached; false when the host stops first.
    async fn make_ready(&self, database: &Database, shutdown: &Shutdown) -> Result<bool> {
        if !self.migrate && self.guard.is_none() {
            // Nothing is wanted of it before the stages run, and they wait for it themselves.
            self.context.health.note("database", Some("not reached yet".to_owned()));
            return Ok(true);
        }
        self.context.health.note("database", Some("not migrated yet".to_owned()));
        let mut pause = MIGRATE_PAUSE_MIN;
        loop {
            let error = match database.connect().await {
                Ok(_) => break,
                Err(error) => format!("{error:#}"),
            };
            tracing::warn!("{error}; next try in {pause:?}");
            self.context.health.note("database", Some(error));
            tokio::select! {
                () = shutdown.drain.cancelled() => return Ok(false),
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(MIGRATE_PAUSE_MAX);
        }
        if self.migrate {
            migrate(database).await?;
        }
        self.context.health.note("database", None);
        if self.guard.is_some() {
            let retired = retire_last_run(database, &self.topics).await?;
            if retired > 0 {
                tracing::info!(
                    "the embedded broker starts empty: the progress of {retired} partitions of the last run is retired"
                );
            }
        }
        Ok(true)
    }
}

/// Readiness follows the database.
async fn look_at_database(database: Database, health: Arc<Health>, stop: CancellationToken) {
    loop {
        health.note("database", database.connect().await.err().map(|error| format!("{error:#}")));
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(DATABASE_LOOK) => {}
        }
    }
}

fn banner(triggers: &Triggers, listeners: &Listeners, embedded: Option<&Embedded>) -> Result<()> {
    if let Some(listener) = &listeners.app {
        let address = listener.local_addr()?;
        for (stage, route) in triggers.http.stages() {
            println!("{stage}: http://{address}{}", route.trim_end_matches("..."));
        }
    }
    if let Some(listener) = &listeners.admin {
        println!("admin: http://{}/status (exagg status), /metrics, /livez, /readyz", listener.local_addr()?);
    }
    if let Some(embedded) = embedded {
        println!(
            "embedded: a broker in memory at {} (for trying out: its records go with this process) and a PostgreSQL in \
             the state directory; for a real cluster leave --embedded out and set kafka_brokers, kafka_host, \
             postgres_url, postgres_host",
            embedded.broker.address()
        );
    }
    Ok(())
}

//! The command line: the flags and meanings of `spin up`, and what a pipeline needs beside it.

use std::net::SocketAddr;
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use clap::{Args, Parser, Subcommand};
use window::defaults;

/// Where the admin interface listens unless told otherwise.
pub const ADMIN_DEFAULT: &str = "127.0.0.1:9464";

#[derive(Debug, Parser)]
#[command(name = "exagg", version, about = "Runs Spin apps with kafka, cron and http triggers")]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs an app
    Up(Up),
    /// Applies the migrations to the database of the variable `postgres_url`
    Migrate(Migrate),
    /// Shows what a running host does: stages, lag, watermarks and what holds them
    Status(Status),
    /// Lets other code run in a component's place, without a stop and without losing a record
    Swap(Swap),
    /// Lets a topic that was deleted and recreated start afresh for a stream
    Reset(Topic),
    /// Retires a stream's progress in a topic that is gone
    Forget(Forget),
    /// Computes a stream's windows anew from Kafka, while the pipeline runs
    Replay(Replay),
    /// Removes a stream with all its rows
    Drop(Drop),
    /// Lists a stream's rejected and late records
    Rejects(Rejects),
    /// Streams of an app: topics of your own
    #[command(subcommand)]
    Stream(Stream),
    /// Apps in OCI registries
    #[command(subcommand)]
    Registry(Registry),
    /// Compiles a component from standard input to standard output, within bounds (the host starts it)
    #[command(hide = true)]
    Compile(Compile),
    /// Runs as a trigger that spin up starts (also by the name trigger-kafka or trigger-cron)
    #[command(hide = true)]
    Trigger {
        kind: String,
        #[command(flatten)]
        plugin: Plugin,
    },
}

/// Which app, and the values of its variables.
#[derive(Args, Clone, Debug)]
pub struct AppArgs {
    /// A spin.toml, the folder of one, or an app in a registry
    #[arg(short = 'f', long, value_name = "FILE|DIR|OCI-REFERENCE", default_value = ".")]
    pub from: String,
    /// Value of a variable; K=@FILE reads it from a file
    #[arg(long = "variable", value_name = "K=V")]
    pub variables: Vec<String>,
    /// Runtime configuration (TOML); a file that is not there is ignored
    #[arg(long, value_name = "FILE", env = "RUNTIME_CONFIG_FILE")]
    pub runtime_config_file: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct Migrate {
    #[command(flatten)]
    pub app: AppArgs,
    /// Says what would be done, and does nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Args, Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub struct Up {
    /// A spin.toml, the folder of one, or an app in a registry
    #[arg(short = 'f', long, value_name = "FILE|DIR|OCI-REFERENCE", default_value = ".")]
    pub from: String,
    /// Speaks to the registry without TLS
    #[arg(short = 'k', long)]
    pub insecure: bool,
    #[command(flatten)]
    pub run: RunFlags,
    /// Where http triggers and the probes listen [default: 127.0.0.1:3000]
    #[arg(long, value_name = "ADDR", env = "SPIN_HTTP_LISTEN_ADDR")]
    pub listen: Option<SocketAddr>,
    /// Where /livez, /readyz, /metrics and /status listen [default: 127.0.0.1:9464]
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<SocketAddr>,
    /// Runs only the stages of this component; may be given several times
    #[arg(short = 'c', long = "component-id", value_name = "ID")]
    pub component_ids: Vec<String>,
    /// Builds the components first
    #[arg(long)]
    pub build: bool,
    /// Starts a broker (in memory, for trying out) and a PostgreSQL of its own
    #[arg(long)]
    pub embedded: bool,
    /// Does not apply the migrations
    #[arg(long)]
    pub no_migrate: bool,
    /// Checks everything that can be checked without running: settings, components, their own checks
    #[arg(long)]
    pub check: bool,
    /// Swaps a component when its file changes
    #[arg(long)]
    pub watch: bool,
}

/// The flags that every trigger of Spin's takes.
#[derive(Args, Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub struct RunFlags {
    /// Value of a variable; K=@FILE reads it from a file
    #[arg(long = "variable", value_name = "K=V")]
    pub variables: Vec<String>,
    /// Runtime configuration (TOML); a file that is not there is ignored
    #[arg(long, value_name = "FILE", env = "RUNTIME_CONFIG_FILE")]
    pub runtime_config_file: Option<PathBuf>,
    /// State of the host: key-value store, embedded database, compiled code [default: .spin beside the manifest]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Writes each component's output to files there as well
    #[arg(short = 'L', long, value_name = "DIR", env = "SPIN_LOG_DIR")]
    pub log_dir: Option<PathBuf>,
    /// Empties the files of --log-dir first
    #[arg(long)]
    pub truncate_logs: bool,
    /// Prints the output of these components only; may be given several times
    #[arg(long, value_name = "ID", conflicts_with = "quiet")]
    pub follow: Vec<String>,
    /// Prints warnings and errors only, and no component's output
    #[arg(short, long, aliases = ["sh", "shush"])]
    pub quiet: bool,
    /// Compiles components anew instead of using the cache
    #[arg(long, env = "DISABLE_WASMTIME_CACHE", value_parser = clap::builder::BoolishValueParser::new(),
          action = clap::ArgAction::SetTrue)]
    pub disable_cache: bool,
    /// wasmtime's own configuration of the cache of compiled code
    #[arg(long, value_name = "FILE", env = "WASMTIME_CACHE_FILE", conflicts_with = "disable_cache")]
    pub cache: Option<PathBuf>,
    /// Makes instances without a pool: slower, with less memory held
    #[arg(long)]
    pub disable_pooling: bool,
    /// Keeps what a debugger needs of the components' code, and names the functions that led to a trap
    #[arg(long)]
    pub debug_info: bool,
    /// Sets a key of the default key-value store; may be given several times
    #[arg(long = "key-value", value_name = "K=V")]
    pub key_values: Vec<String>,
    /// Memory of one instance in bytes
    #[arg(long, value_name = "BYTES", env = "SPIN_MAX_INSTANCE_MEMORY")]
    pub max_instance_memory: Option<usize>,
}

/// A trigger as `spin up` starts it: `trigger-kafka` and `trigger-cron`.
#[derive(Debug, Parser)]
#[command(version, about = "A trigger of Spin's, started by spin up", override_usage = "spin up [OPTIONS]")]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub struct Plugin {
    #[command(flatten)]
    pub run: RunFlags,
    /// Where /livez, /readyz, /metrics and /status of trigger-kafka listen, and one port above it those of trigger-cron;
    /// also `EXAGG_ADMIN_ADDR`, and `off` for nowhere [default: nowhere]
    #[arg(long, value_name = "ADDR|off")]
    pub admin: Option<String>,
    /// Applies the pipeline's migrations to the database of the variable `postgres_url`; also `EXAGG_MIGRATE`
    #[arg(long)]
    pub migrate: bool,
    #[arg(long, hide = true)]
    pub help_args_only: bool,
    #[arg(long, hide = true)]
    pub launch_metadata_only: bool,
    #[arg(long, hide = true)]
    pub precompose_only: bool,
    #[arg(long, hide = true)]
    pub precompose_component_id: Option<String>,
}

#[derive(Args, Debug)]
pub struct Compile {
    #[arg(long)]
    pub seconds_max: u64,
    #[arg(long)]
    pub memory_bytes_max: u64,
    /// Gives way to everything else
    #[arg(long)]
    pub beside: bool,
    #[arg(long)]
    pub debug_info: bool,
}

#[derive(Debug, Subcommand)]
pub enum Registry {
    /// Pushes an app, as spin registry push does
    Push(RegistryPush),
}

#[derive(Args, Debug)]
pub struct RegistryPush {
    /// Where to: registry/name:tag
    pub reference: String,
    /// A spin.toml, or the folder of one
    #[arg(short = 'f', long, value_name = "FILE|DIR", default_value = ".")]
    pub from: String,
    /// Speaks to the registry without TLS
    #[arg(short = 'k', long)]
    pub insecure: bool,
    /// Another host that gives this registry's tokens; may be given several times
    #[arg(long = "registry-realm", value_name = "REGISTRY=HOST")]
    pub registry_realms: Vec<String>,
    /// Builds the components first
    #[arg(long)]
    pub build: bool,
}

#[derive(Args, Debug)]
pub struct Status {
    /// The host's state directory: all hosts that share it are asked, those of spin up's triggers too
    #[arg(long, value_name = "DIR", default_value = ".spin")]
    pub state_dir: PathBuf,
    /// The host's admin address instead [default where the state directory has no host: 127.0.0.1:9464]
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<SocketAddr>,
    /// Prints the JSON as it came
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct Swap {
    /// The component's id in the manifest
    pub component: String,
    /// The new code: a component (.wasm), or the reference of an app in a registry that has it
    #[arg(value_name = "FILE|OCI-REFERENCE", required_unless_present = "back", conflicts_with = "back")]
    pub code: Option<String>,
    /// Lets the version before run again
    #[arg(long)]
    pub back: bool,
    /// Speaks to the registry without TLS
    #[arg(short = 'k', long)]
    pub insecure: bool,
    /// Another host that gives this registry's tokens; may be given several times
    #[arg(long = "registry-realm", value_name = "REGISTRY=HOST")]
    pub registry_realms: Vec<String>,
    #[command(flatten)]
    pub endpoint: AdminEndpoint,
}

/// Where a running host can be told to change something.
#[derive(Args, Debug)]
pub struct AdminEndpoint {
    /// The host's state directory, with its admin socket
    #[arg(long, value_name = "DIR", default_value = ".spin")]
    pub state_dir: PathBuf,
    /// The host's admin address instead; its token is taken from `EXAGG_ADMIN_TOKEN`
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<SocketAddr>,
}

#[derive(Args, Debug)]
pub struct Topic {
    #[command(flatten)]
    pub app: AppArgs,
    #[arg(long)]
    pub stream: String,
    #[arg(long)]
    pub topic: String,
}

#[derive(Args, Debug)]
pub struct Forget {
    #[command(flatten)]
    pub topic: Topic,
    /// Also while somebody reads the topic for the stream
    #[arg(long)]
    pub yes: bool,
}

#[derive(Debug, Subcommand)]
pub enum Stream {
    /// Adds a stage to spin.toml that averages a topic; all but the topic has a default
    Add(StreamAdd),
    /// Looks at the end of a topic, guesses its fields, and says what would come of it; writes nothing anywhere
    Preview(StreamPreview),
}

/// Where the fields of a topic's records are.
#[derive(Args, Clone, Debug)]
pub struct FieldArgs {
    /// Where the key is: a name, a path (/a/b, $.a.b), kafka:key or kafka:partition [preview guesses; add: kafka:key]
    #[arg(long, value_name = "PLACE")]
    pub key: Option<String>,
    /// Where the number is: a name or a path [preview guesses; add: value]
    #[arg(long, value_name = "PLACE")]
    pub value: Option<String>,
    /// Where the time is: a name, a path or kafka:timestamp [preview guesses; add: kafka:timestamp]
    #[arg(long, value_name = "PLACE")]
    pub time: Option<String>,
    /// How the time is written: auto, rfc3339, unix, … (docs/streams.md) or a strftime pattern [preview guesses; add: auto]
    #[arg(long, value_name = "FORMAT")]
    pub time_format: Option<String>,
    /// Numbers may stand in quotes
    #[arg(long)]
    pub numbers_in_text: bool,
}

#[derive(Args, Clone, Debug)]
pub struct StreamPreview {
    #[command(flatten)]
    pub app: AppArgs,
    /// Topic that is looked at
    #[arg(long)]
    pub topic: String,
    /// Brokers, host:port with commas between [default: those of the app's first kafka trigger]
    #[arg(long, value_name = "LIST")]
    pub brokers: Option<String>,
    /// Records that are looked at: the last ones, of all partitions together
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub records: u32,
    #[command(flatten)]
    pub fields: FieldArgs,
    /// Length of a window
    #[arg(
        long,
        value_name = "N",
        default_value = defaults::WINDOW_SECONDS,
        value_parser = clap::value_parser!(u32).range(1..=31_622_400)
    )]
    pub window_seconds: u32,
}

#[derive(Args, Clone, Debug)]
pub struct StreamAdd {
    /// Name of the stream: small letters, digits and -
    pub name: String,
    /// Topic that it reads; may be given several times
    #[arg(long = "topic", required = true, value_name = "TOPIC")]
    pub topics: Vec<String>,
    #[command(flatten)]
    pub fields: FieldArgs,
    /// Length of a window [default: 60]
    #[arg(long, value_name = "N")]
    pub window_seconds: Option<u32>,
    /// Where reading begins: earliest or latest
    #[arg(long, default_value = "earliest", value_parser = ["earliest", "latest"])]
    pub start: String,
    /// A spin.toml, or the folder of one
    #[arg(short = 'f', long, value_name = "FILE|DIR", default_value = ".")]
    pub from: PathBuf,
    /// Prints what would be added, and adds nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Args, Debug)]
pub struct Drop {
    #[command(flatten)]
    pub app: AppArgs,
    #[arg(long)]
    pub stream: String,
    /// Without it, it is said what would be dropped
    #[arg(long)]
    pub yes: bool,
}

#[derive(Args, Debug)]
pub struct Replay {
    /// A spin.toml, the folder of one, or an app in a registry
    #[arg(short = 'f', long, value_name = "FILE|DIR|OCI-REFERENCE", default_value = ".")]
    pub app: String,
    /// Value of a variable; K=@FILE reads it from a file
    #[arg(long = "variable", value_name = "K=V")]
    pub variables: Vec<String>,
    /// Runtime configuration (TOML); a file that is not there is ignored
    #[arg(long, value_name = "FILE", env = "RUNTIME_CONFIG_FILE")]
    pub runtime_config_file: Option<PathBuf>,
    #[arg(long)]
    pub stream: String,
    /// Windows that start then or later (RFC 3339), or all that the log holds
    #[arg(long, value_name = "TIME|earliest", value_parser = moment)]
    pub from: Moment,
    /// Windows that end by then (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub to: Option<Moment>,
    /// Replaces nothing, and says what would be replaced; the same command without this goes on from there
    #[arg(long)]
    pub dry_run: bool,
    /// Reads again what a replay that was stopped has read
    #[arg(long)]
    pub restart: bool,
    /// Makes rows of other settings of what a compacted topic still holds
    #[arg(long)]
    pub accept_compacted: bool,
}

impl Replay {
    pub fn app_args(&self) -> AppArgs {
        AppArgs {
            from: self.app.clone(),
            variables: self.variables.clone(),
            runtime_config_file: self.runtime_config_file.clone(),
        }
    }
}

/// A point in time, or as early as there is anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    Earliest,
    At(DateTime<Utc>),
}

/// A text that is no point in time.
#[derive(Debug, thiserror::Error)]
#[error("{0} (2026-01-31T12:00:00Z is wanted)")]
struct NoMoment(#[from] chrono::ParseError);

fn moment(text: &str) -> Result<Moment, NoMoment> {
    if text == "earliest" {
        return Ok(Moment::Earliest);
    }
    Ok(Moment::At(time(text)?))
}

fn time(text: &str) -> Result<DateTime<Utc>, NoMoment> {
    Ok(DateTime::parse_from_rfc3339(text)?.to_utc())
}

#[derive(Args, Debug)]
pub struct Rejects {
    #[command(flatten)]
    pub app: AppArgs,
    #[arg(long)]
    pub stream: String,
    /// Only those of this reason
    #[arg(long)]
    pub reason: Option<String>,
    /// Only those of this topic
    #[arg(long)]
    pub topic: Option<String>,
    /// Only those of this partition
    #[arg(long)]
    pub partition: Option<i32>,
    /// Only the record at this offset
    #[arg(long)]
    pub offset: Option<i64>,
    /// Only those that were rejected then or later (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub since: Option<DateTime<Utc>>,
    /// Only those that were rejected before (RFC 3339): the next page
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub before: Option<DateTime<Utc>>,
    /// The youngest so many
    #[arg(long, default_value_t = 20)]
    pub limit: u32,
    /// Prints JSON
    #[arg(long)]
    pub json: bool,
}

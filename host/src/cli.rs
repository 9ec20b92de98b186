//! The command line: the flags and meanings of `spin up`, and what a pipeline needs beside it.

use std::net::SocketAddr;
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use clap::{Args, Parser, Subcommand};

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
    Migrate(AppArgs),
    /// Shows what a running host does: stages, lag, watermarks and what holds them
    Status(Status),
    /// Lets a topic that was deleted and made again start afresh for a stream
    Reset(Topic),
    /// Retires a stream's progress in a topic that is gone
    Forget(Topic),
    /// Computes a stream's closed windows anew from Kafka, while the pipeline runs
    Replay(Replay),
    /// Lists a stream's rejected and late records
    Rejects(Rejects),
}

/// Which app, and the values of its variables.
#[derive(Args, Clone, Debug)]
pub struct AppArgs {
    /// A spin.toml, or the folder of one
    #[arg(short = 'f', long, value_name = "FILE|DIR", default_value = ".")]
    pub from: String,
    /// Value of a variable; K=@FILE reads it from a file
    #[arg(long = "variable", value_name = "K=V")]
    pub variables: Vec<String>,
    /// Runtime configuration (TOML); a file that is not there is passed over
    #[arg(long, value_name = "FILE", env = "RUNTIME_CONFIG_FILE")]
    pub runtime_config_file: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub struct Up {
    #[command(flatten)]
    pub app: AppArgs,
    /// Where http triggers and the probes listen [default: 127.0.0.1:3000]
    #[arg(long, value_name = "ADDR", env = "SPIN_HTTP_LISTEN_ADDR")]
    pub listen: Option<SocketAddr>,
    /// Where /livez, /readyz, /metrics and /status listen [default: 127.0.0.1:9464]
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<SocketAddr>,
    /// Runs only the stages of this component; may be given several times
    #[arg(short = 'c', long = "component-id", value_name = "ID")]
    pub component_ids: Vec<String>,
    /// State of the host: key-value store, embedded database, compiled code [default: .spin beside the manifest]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Writes each component's output to files there as well
    #[arg(short = 'L', long, value_name = "DIR", env = "SPIN_LOG_DIR")]
    pub log_dir: Option<PathBuf>,
    /// Builds the components first
    #[arg(long)]
    pub build: bool,
    /// Starts a broker (in memory, for trying out) and a PostgreSQL of its own
    #[arg(long)]
    pub embedded: bool,
    /// Does not apply the migrations
    #[arg(long)]
    pub no_migrate: bool,
    /// Compiles components anew instead of using the cache
    #[arg(long)]
    pub disable_cache: bool,
    /// Logs warnings and errors only
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Args, Debug)]
pub struct Status {
    /// The host's admin address
    #[arg(long, value_name = "ADDR", default_value = ADMIN_DEFAULT)]
    pub admin: SocketAddr,
    /// Prints the JSON as it came
    #[arg(long)]
    pub json: bool,
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
pub struct Replay {
    /// A spin.toml, or the folder of one
    #[arg(short = 'f', long, value_name = "FILE|DIR", default_value = ".")]
    pub app: String,
    /// Value of a variable; K=@FILE reads it from a file
    #[arg(long = "variable", value_name = "K=V")]
    pub variables: Vec<String>,
    /// Runtime configuration (TOML); a file that is not there is passed over
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

fn moment(text: &str) -> Result<Moment, String> {
    if text == "earliest" {
        return Ok(Moment::Earliest);
    }
    let time = DateTime::parse_from_rfc3339(text);
    time.map(|time| Moment::At(time.to_utc())).map_err(|error| format!("{error} (2026-01-31T12:00:00Z is wanted)"))
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
    /// The youngest so many
    #[arg(long, default_value_t = 20)]
    pub limit: u32,
}

//! Parses the command line, sets logging up, and runs.

use std::process::ExitCode;

use clap::Parser;
use exagg::cli::{Cli, Command};
use exagg::config::Environment;
use exagg::{rejects, replay, run, status, telemetry, topics};

fn main() -> ExitCode {
    let cli = Cli::parse();
    telemetry::init(matches!(&cli.command, Command::Up(up) if up.quiet));
    let environment: Environment = std::env::vars_os().collect();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("Error: the runtime cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        match cli.command {
            Command::Up(flags) => run::up(flags, &environment).await,
            Command::Migrate(args) => run::migrate_command(&args, &environment).await,
            Command::Status(args) => status::show(args.admin, args.json).await,
            Command::Reset(args) => topics::reset(&args, &environment).await,
            Command::Forget(args) => topics::forget(&args, &environment).await,
            Command::Replay(args) => replay::replay(&args, &environment).await,
            Command::Rejects(args) => rejects::list(&args, &environment).await,
        }
    });
    // A thread that waits for a broker must not hold the exit.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

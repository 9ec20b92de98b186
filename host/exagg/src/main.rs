//! Parses the command line, sets logging up, and runs.

#[cfg(target_os = "linux")]
mod sys;

use std::process::ExitCode;

use clap::Parser;
use exagg::cli::{Cli, Command, Plugin};
use exagg::config::Environment;
use exagg::{commands, plugin, shutdown, telemetry};
use exagg_common::memory;
use exagg_common::printable::printable_lines;
use exagg_runtime::engine::compiler;

fn main() -> ExitCode {
    shutdown::parent();
    let environment: Environment = std::env::vars_os().collect();
    let program = std::env::args().next().unwrap_or_default();
    let command = match plugin::type_of_program(&program) {
        Some(kind) => {
            if let Some(answered) = plugin::about_flags(std::env::args().skip(1)) {
                return exit_code(answered);
            }
            Command::Trigger { kind: kind.to_owned(), plugin: Plugin::parse() }
        }
        None => Cli::parse().command,
    };
    let quiet = match &command {
        Command::Up(up) => up.run.quiet,
        Command::Trigger { kind, plugin: flags } => {
            if let Some(answered) = plugin::answer(kind, flags, &environment) {
                return exit_code(answered);
            }
            flags.run.quiet
        }
        // No logging and no threads: it does one thing, within its bounds.
        Command::Compile(flags) => {
            let bounds = compiler::Bounds { seconds_max: flags.seconds_max, memory_bytes_max: flags.memory_bytes_max };
            let pace = if flags.beside { compiler::Pace::Beside } else { compiler::Pace::Full };
            return exit_code(compiler::run(bounds, pace, flags.debug_info));
        }
        _ => false,
    };
    memory::give_back();
    let tracing = telemetry::init(quiet, &environment);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("Error: the runtime cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(commands::run(command, &environment));
    // A thread that waits for a broker must not hold the exit.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    drop(tracing);
    exit_code(result)
}

fn exit_code(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {}", printable_lines(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

//! Developer automation: `cargo xtask tidy`, `cargo xtask test`, `cargo xtask sim`, `cargo xtask fuzz`.

mod fuzz;
mod oracle;
mod sim;
mod stages;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check crate edges, purity, file sizes, orphan files and licences
    Tidy,
    /// Everything: formatting, clippy, tidy, unit tests, recorded cases, end to end on real containers
    Test,
    /// Run simulated clusters with faults, in release mode, and check what the store promises
    Sim {
        /// Simulated hours
        #[arg(long, default_value_t = 100.0)]
        hours: f64,
        /// The first seed [default: from the clock]
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Feed hostile input to every decoder and parser for a bounded time
    Fuzz {
        /// Seconds altogether, building not counted
        #[arg(long, default_value_t = 30.0)]
        seconds: f64,
        /// Where to begin [default: from the clock]
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Replay the recorded Kubernetes exchanges against the server
    Oracle {
        /// Glob over area/name
        #[arg(long)]
        only: Option<String>,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Tidy => tidy::run(),
        Command::Test => stages::run(),
        Command::Sim { hours, seed } => sim::run(hours, seed),
        Command::Fuzz { seconds, seed } => fuzz::run(seconds, seed),
        Command::Oracle { only } => oracle::run(only.as_deref()).map(|r| r.failed() == 0),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

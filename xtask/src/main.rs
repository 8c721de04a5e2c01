//! Developer automation: `cargo xtask tidy`, `cargo xtask test`.

mod oracle;
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

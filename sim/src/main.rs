//! Runs simulated clusters, one seed after another, until enough hours have passed in them.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use coxswain_sim::{Mutant, run};

/// Simulate clusters with faults and check what the store promises.
#[derive(Parser)]
struct Cli {
    /// Simulated hours of clusters to run
    #[arg(long, default_value_t = 1.0)]
    hours: f64,
    /// The first seed; with `--hours 0` the only one
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Length of one run in simulated seconds
    #[arg(long, default_value_t = 120)]
    length: u64,
    /// Take one promise away, to see it caught
    #[arg(long)]
    mutant: Option<Mutant>,
    /// Show the members' log
    #[arg(long)]
    verbose: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.verbose {
        tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG)
            .with_writer(std::io::stderr)
            .without_time()
            .init();
    }
    // What fails in a run is reported as its violation.
    std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
    let length = Duration::from_secs(cli.length);
    let started = Instant::now();
    let mut simulated = Duration::ZERO;
    let (mut runs, mut answered, mut faults) = (0u64, 0, 0);
    while runs == 0 || simulated.as_secs_f64() < cli.hours * 3600.0 {
        match run(cli.seed + runs, length, cli.mutant) {
            Ok(report) => {
                answered += report.answered;
                faults += report.faults;
            }
            Err(violation) => {
                eprintln!("VIOLATION {violation}");
                eprintln!(
                    "again with: --seed {} --length {} --hours 0",
                    violation.seed, cli.length
                );
                return ExitCode::FAILURE;
            }
        }
        runs += 1;
        simulated += length + Duration::from_secs(30);
        if runs.is_multiple_of(100) {
            progress(runs, simulated, answered, faults, started);
        }
    }
    progress(runs, simulated, answered, faults, started);
    ExitCode::SUCCESS
}

fn progress(runs: u64, simulated: Duration, answered: u64, faults: u64, started: Instant) {
    let hours = simulated.as_secs_f64() / 3600.0;
    let minutes = started.elapsed().as_secs_f64() / 60.0;
    println!(
        "{runs} runs without a violation: {hours:.1} simulated hours in {minutes:.1} minutes ({:.1} a minute), {answered} operations, {faults} faults",
        hours / minutes
    );
}

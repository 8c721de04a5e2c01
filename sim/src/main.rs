//! Runs simulated clusters, one seed after another, until enough hours have passed in them.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use coxswain_sim::{Mutant, Report, Violation, run};

/// Simulate clusters with faults and check what the store promises.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Run seed after seed until so many hours have passed; goes on after a violation, and fails at the end
    Run(Run),
    /// Run one seed again
    Replay(Replay),
}

#[derive(Args)]
struct Run {
    /// Simulated hours of clusters to run
    #[arg(long, default_value_t = 1.0)]
    hours: f64,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Threads
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Seconds between two lines of progress
    #[arg(long, default_value_t = 60)]
    progress: u64,
    #[command(flatten)]
    each: Each,
}

#[derive(Args)]
struct Replay {
    /// The seed
    seed: u64,
    /// Show the members' log
    #[arg(long)]
    verbose: bool,
    #[command(flatten)]
    each: Each,
}

#[derive(Args, Clone, Copy)]
struct Each {
    /// Length of one run in simulated seconds, to which its last rest is added
    #[arg(long, default_value_t = 900)]
    length: u64,
    /// Take one promise away, to see it caught
    #[arg(long)]
    mutant: Option<Mutant>,
}

impl Each {
    fn run(self, seed: u64) -> Result<Report, Violation> {
        run(seed, Duration::from_secs(self.length), self.mutant)
    }
}

fn main() -> ExitCode {
    // What fails in a run is reported as its violation.
    std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
    let is_good = match Cli::parse().what {
        What::Run(run) => unattended(&run),
        What::Replay(replay) => again(&replay),
    };
    match is_good {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn again(replay: &Replay) -> bool {
    if replay.verbose {
        tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG)
            .with_writer(std::io::stderr)
            .without_time()
            .init();
    }
    match replay.each.run(replay.seed) {
        Ok(report) => {
            println!("no violation: {report}");
            true
        }
        Err(violation) => {
            println!("VIOLATION {violation}");
            false
        }
    }
}

/// What has come of the runs so far.
#[derive(Default)]
struct Sum {
    runs: u64,
    report: Report,
    violations: Vec<Violation>,
    shown: Duration,
}

fn unattended(settings: &Run) -> bool {
    let started = Instant::now();
    let next = AtomicU64::new(settings.seed);
    let sum = Mutex::new(Sum::default());
    let lock = || sum.lock().unwrap_or_else(PoisonError::into_inner);
    std::thread::scope(|threads| {
        for _ in 0..settings.jobs.max(1) {
            threads.spawn(|| {
                while lock().report.hours() < settings.hours {
                    let came = settings.each.run(next.fetch_add(1, Ordering::Relaxed));
                    let mut sum = lock();
                    sum.runs += 1;
                    match came {
                        Ok(report) => sum.report += report,
                        Err(violation) => {
                            println!("VIOLATION {violation}");
                            println!(
                                "again with: replay {} --length {}",
                                violation.seed, settings.each.length
                            );
                            sum.report.lasted += violation.at;
                            sum.violations.push(violation);
                        }
                    }
                    if started.elapsed() >= sum.shown + Duration::from_secs(settings.progress) {
                        sum.shown = started.elapsed();
                        show(&sum, started);
                    }
                }
            });
        }
    });
    let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    show(&sum, started);
    for violation in &sum.violations {
        println!("VIOLATION {violation}");
    }
    sum.violations.is_empty()
}

fn show(sum: &Sum, started: Instant) {
    let hours = sum.report.hours();
    let minutes = started.elapsed().as_secs_f64() / 60.0;
    let cpu = cpu_seconds() / 60.0;
    println!(
        "{hours:.1} simulated hours in {} runs with {} violations, {minutes:.1} minutes, {cpu:.1} of a processor ({:.1} hours each): {}",
        sum.runs,
        sum.violations.len(),
        hours / cpu,
        sum.report
    );
}

/// Processor time of this process so far; USER_HZ is 100 on every architecture that Linux shows to programs.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11);
    let ticks: f64 = fields.take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum();
    ticks / 100.0
}

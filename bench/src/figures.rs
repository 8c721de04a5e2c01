//! What a run measured, and the one table of it.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;

use crate::process::Process;

/// One line of the table.
#[derive(Debug)]
pub struct Figures {
    /// What was done.
    pub name: String,
    /// Finished operations.
    pub operations: usize,
    /// Operations that the server refused or that failed.
    pub failed: usize,
    /// How long it took.
    pub elapsed: Duration,
    /// Latency of each operation, in microseconds, sorted.
    pub micros: Vec<u64>,
    /// What it took the server, when its process is known.
    pub cost: Option<Cost>,
}

/// What a run took the server.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// CPU seconds.
    pub cpu_s: f64,
    /// Resident memory before, in MB.
    pub memory_mb: f64,
    /// By how much it rose above that, at most, in MB.
    pub rise_mb: f64,
}

impl Figures {
    /// The latency that this share (0 to 1) of the operations did not exceed, in milliseconds.
    #[must_use]
    pub fn percentile_ms(&self, share: f64) -> f64 {
        let last = self.micros.len().saturating_sub(1);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss
        )]
        let at = (share.clamp(0.0, 1.0) * last as f64).round() as usize;
        #[expect(clippy::cast_precision_loss)]
        self.micros.get(at).map_or(f64::NAN, |micros| *micros as f64 / 1000.0)
    }

    #[expect(clippy::cast_precision_loss)]
    fn rate(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64()
    }
}

/// Watches the server's process while something runs.
pub struct Meter {
    before: Option<(Process, f64, f64)>,
}

impl Meter {
    /// Starts to measure; without a process only time is known.
    ///
    /// # Errors
    /// When the process is gone or belongs to somebody else.
    pub fn start(process: Option<Process>) -> Result<Self> {
        let before = match process {
            Some(process) => {
                process.reset_peak()?;
                Some((process, process.cpu_s()?, process.memory_mb()?.0))
            }
            None => None,
        };
        Ok(Self { before })
    }

    /// Ends measuring.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn stop(self) -> Result<Option<Cost>> {
        let Some((process, cpu_s, memory_mb)) = self.before else {
            return Ok(None);
        };
        Ok(Some(Cost {
            cpu_s: process.cpu_s()? - cpu_s,
            memory_mb,
            rise_mb: process.memory_mb()?.1 - memory_mb,
        }))
    }
}

/// Everything as a Markdown table.
#[must_use]
pub fn table(all: &[Figures]) -> String {
    let mut out = String::from(
        "| what | operations | failed | per second | median ms | 99 % ms | most ms | server CPU s | CPU µs each | memory rise MB (from) |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for f in all {
        let _ = writeln!(
            out,
            "| {} | {} | {} | {:.0} | {:.2} | {:.2} | {:.2} | {} |",
            f.name,
            f.operations,
            f.failed,
            f.rate(),
            f.percentile_ms(0.5),
            f.percentile_ms(0.99),
            f.percentile_ms(1.0),
            f.cost
                .map_or_else(|| "- | - | -".to_owned(), |cost| costs(&cost, f.operations)),
        );
    }
    out
}

fn costs(cost: &Cost, operations: usize) -> String {
    #[expect(clippy::cast_precision_loss)]
    let each = cost.cpu_s * 1e6 / operations.max(1) as f64;
    format!(
        "{:.2} | {each:.0} | {:.1} ({:.0})",
        cost.cpu_s, cost.rise_mb, cost.memory_mb
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_latencies() {
        let figures = Figures {
            name: "x".to_owned(),
            operations: 5,
            failed: 0,
            elapsed: Duration::from_secs(1),
            micros: vec![1000, 2000, 3000, 4000, 100_000],
            cost: Some(Cost {
                cpu_s: 0.5,
                memory_mb: 40.0,
                rise_mb: 2.5,
            }),
        };
        for (share, ms) in [(0.0, 1.0), (0.5, 3.0), (0.99, 100.0), (1.0, 100.0)] {
            assert!((figures.percentile_ms(share) - ms).abs() < 1e-9, "{share}");
        }
        assert!(table(&[figures]).contains("| 0.50 | 100000 | 2.5 (40) |"));
    }
}

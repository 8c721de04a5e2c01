//! CPU time and memory of the server's process, from `/proc`.

use anyhow::{Context, Result};

/// A process on this machine.
#[derive(Clone, Copy)]
pub struct Process(pub u32);

impl Process {
    /// CPU seconds used so far, user and system.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn cpu_s(self) -> Result<f64> {
        let text = self.read("stat")?;
        let after_name = text.rsplit_once(')').context("stat has no name")?.1;
        let mut fields = after_name.split_whitespace().skip(11);
        let mut ticks = || {
            fields
                .next()
                .and_then(|t| t.parse::<f64>().ok())
                .context("stat is cut off")
        };
        // USER_HZ is 100 on every architecture that Linux shows to programs.
        Ok((ticks()? + ticks()?) / 100.0)
    }

    /// Resident memory now and at its highest since [`Process::reset_peak`], in MB.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn memory_mb(self) -> Result<(f64, f64)> {
        let text = self.read("status")?;
        let line = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name))
                .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<f64>().ok())
                .map(|kib| kib * 1024.0 / 1e6)
                .with_context(|| format!("status has no {name}"))
        };
        Ok((line("VmRSS:")?, line("VmHWM:")?))
    }

    /// Makes the highest resident memory what it is now.
    ///
    /// # Errors
    /// When the process belongs to somebody else.
    pub fn reset_peak(self) -> Result<()> {
        Ok(std::fs::write(format!("/proc/{}/clear_refs", self.0), "5")?)
    }

    fn read(self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.0);
        std::fs::read_to_string(&path).with_context(|| format!("read {path}"))
    }
}

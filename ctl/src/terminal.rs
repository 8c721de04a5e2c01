//! The user's terminal while a remote program has it: raw mode, size, and giving it back.

use std::io::IsTerminal as _;

use anyhow::{Context as _, Result};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Raw mode, ended when this is dropped.
pub struct Raw(Termios);

impl Raw {
    /// Puts standard input into raw mode.
    ///
    /// # Errors
    /// When it is no terminal.
    pub fn enter() -> Result<Self> {
        let stdin = rustix::stdio::stdin();
        let before = tcgetattr(stdin).context("read the terminal's mode")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin, OptionalActions::Now, &raw).context("set the terminal's mode")?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The program is leaving; there is nobody to tell.
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.0);
    }
}

/// Whether standard input is a terminal.
#[must_use]
pub fn is_present() -> bool {
    std::io::stdin().is_terminal()
}

/// Columns and rows of the terminal, when there is one.
#[must_use]
pub fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(rustix::stdio::stdout())
        .or_else(|_| tcgetwinsize(rustix::stdio::stdin()))
        .ok()?;
    Some((size.ws_col, size.ws_row))
}

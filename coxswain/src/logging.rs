//! Logs go to standard error, warnings and worse unless `COXSWAIN_LOG` says otherwise.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging. `RUST_LOG` syntax in `COXSWAIN_LOG`.
pub fn start() {
    let filter = EnvFilter::try_from_env("COXSWAIN_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    let done = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(true)
        .try_init();
    if let Err(error) = done {
        eprintln!("logging is off: {error}");
    }
}

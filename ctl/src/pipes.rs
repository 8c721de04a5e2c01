//! The output of `ctl get pods | head -1` ends quietly when its reader has seen enough.
//!
//! Rust starts programs with SIGPIPE ignored, so that the next `println!` would panic. The only unsafe code of `ctl`:
//! the default action is restored before any thread exists, and no handler of ours ever runs. Sockets are not
//! affected: the standard library writes to them with MSG_NOSIGNAL.
#![allow(unsafe_code)]

use nix::sys::signal::{SigHandler, Signal, signal};

/// From now on a write to a pipe that nobody reads ends the process, as it does every other command-line tool.
pub fn end_with_the_reader() {
    // SAFETY: the default action is no code of ours, and nothing else runs yet.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
}

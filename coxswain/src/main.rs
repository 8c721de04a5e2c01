//! The Coxswain daemon: composition only. Every part lives in a crate of its own.

mod agent;
mod backup;
mod claim;
mod cli;
mod control_plane;
mod defaults;
mod down;
mod estate;
mod housekeeping;
mod instance;
mod join;
mod kubeconfig;
mod leader;
mod listeners;
mod logging;
mod machine;
mod peers;
mod pki;
mod preflight;
mod report;
mod secrets;
mod tasks;
mod token;
mod up;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};

/// Objects are trees of small parts, made and dropped by several threads: the C library's allocator takes twice the time
/// for them and keeps more of what was given back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Up(args) => up::run(&args),
        Command::Down(args) => down::run(&args),
        Command::Server(args) => control_plane::run(&args),
        Command::Agent(args) => agent::run(&args),
        Command::Members(args) => peers::run(&args),
        Command::Backup(args) => backup::run(&args),
        Command::Restore(args) => backup::restore(&args),
        Command::RotateKey(args) => backup::rotate_key(&args),
        Command::Token(args) => token::run(&args),
        Command::Doctor(args) => up::doctor(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::error(&error);
            ExitCode::FAILURE
        }
    }
}

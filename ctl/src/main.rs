//! `ctl`: the cluster's command line, with kubectl's commands, flags and output.

mod apply;
mod archive;
mod certificate;
mod change;
mod cli;
mod completion;
mod config;
mod context;
mod cp;
mod create;
mod delete;
mod describe;
mod drain;
mod edit;
mod editor;
mod events;
mod exec;
mod explain;
mod expose;
mod follow;
mod get;
mod image;
mod info;
mod logs;
mod manifest;
mod pipes;
mod pods;
mod port_forward;
mod print;
mod replace;
mod resources;
mod rollout;
mod run;
mod scale;
mod set;
mod targets;
mod terminal;
mod top;
mod unpack;
mod wait;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    pipes::end_with_the_reader();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(run())
}

async fn run() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no failures. Where they go, and in which colours, clap knows best.
            let failed = error.use_stderr();
            let _ = error.print();
            return if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    match cli::run(cli).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{}", context::error_text(&error));
            ExitCode::FAILURE
        }
    }
}

//! The commands. A command is a file with its flags and `run`, and one row here.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

use crate::context::{Ctx, Global};
use crate::get;
use crate::resources::Resources;

/// ctl controls a Coxswain (or any Kubernetes) cluster.
#[derive(Parser)]
#[command(name = "ctl", version, about, disable_version_flag = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Display one or many resources
    Get(get::Get),
}

/// Runs one command.
///
/// # Errors
/// Whatever the command could not do.
pub async fn run(cli: Cli) -> Result<ExitCode> {
    let ctx = Ctx::new(&cli.global).await?;
    match &cli.command {
        Command::Get(args) => get::run(&ctx, args).await,
    }
}

/// `TYPE/NAME` of every object in some manifests.
///
/// # Errors
/// When a file cannot be read or holds a kind that the server does not know.
pub fn names_in_files(resources: &Resources, files: &[String]) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).with_context(|| format!("read {file}"))?;
        let documents = coxswain_api::codec::decode_yaml_documents(&text).map_err(|e| anyhow::anyhow!("{file}: {e}"))?;
        for document in documents {
            let (version, kind) = (&document.value["apiVersion"], &document.value["kind"]);
            let resource = resources.of_kind(version.as_str().unwrap_or_default(), kind.as_str().unwrap_or_default())?;
            names.push(format!("{}/{}", resource.qualified(), document.value["metadata"]["name"].as_str().unwrap_or_default()));
        }
    }
    Ok(names)
}

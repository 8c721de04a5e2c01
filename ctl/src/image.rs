//! `ctl image load`: an image archive from this machine into the cluster's nodes.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use http::Method;
use serde_json::Value;

use crate::context::{Ctx, encode};
use crate::pods::{list, text};

/// Archives are sent in one request; this is the largest, in bytes.
const ARCHIVE_MAX: u64 = 4 * 1024 * 1024 * 1024;

#[derive(Args)]
pub struct Image {
    #[command(subcommand)]
    pub what: What,
}

#[derive(Subcommand)]
pub enum What {
    /// Import an archive (OCI layout or `docker save`) into the nodes
    Load {
        #[arg(required = true)]
        file: Vec<String>,
        /// Only this node; may be given several times
        #[arg(long)]
        node: Vec<String>,
    },
}

/// Runs the command.
///
/// # Errors
/// When a file cannot be read or a node refuses it.
pub async fn run(ctx: &Ctx, args: &Image) -> Result<ExitCode> {
    let What::Load { file, node } = &args.what;
    let nodes = if node.is_empty() {
        let found = ctx.get("/api/v1/nodes").await?;
        list(&found, "/items")
            .iter()
            .map(|node| text(node, "/metadata/name").to_owned())
            .collect()
    } else {
        node.clone()
    };
    if nodes.is_empty() {
        bail!("the cluster has no nodes to load an image into");
    }
    for path in file {
        let size = std::fs::metadata(path).with_context(|| format!("open {path}"))?.len();
        if size > ARCHIVE_MAX {
            bail!("{path} is larger than {ARCHIVE_MAX} bytes");
        }
        for node in &nodes {
            let archive = tokio::fs::read(path).await.with_context(|| format!("read {path}"))?;
            let target = format!("/api/v1/nodes/{}/proxy/images/load", encode(node));
            let answer = ctx
                .text(Method::POST, &target, &[("content-type", "application/x-tar")], archive)
                .await?;
            for name in names(&answer) {
                println!("{node}: loaded {name}");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The image names in a node's answer: a JSON list, an object with one, or plain lines.
fn names(answer: &str) -> Vec<String> {
    let strings = |items: &[Value]| {
        items
            .iter()
            .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned))
            .collect()
    };
    match serde_json::from_str::<Value>(answer) {
        Ok(Value::Array(items)) => strings(&items),
        Ok(object @ Value::Object(_)) => strings(list(&object, "/images")),
        _ => answer
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_answers() {
        for answer in ["[\"a:1\"]", "{\"images\": [\"a:1\"]}", "a:1\n"] {
            assert_eq!(names(answer), ["a:1"], "{answer}");
        }
    }
}

//! `ctl top`: what nodes and pods use, as a metrics server tells it.

use std::process::ExitCode;

use anyhow::{Result, anyhow, bail};
use clap::{Args, Subcommand};
use coxswain_api::quantity::Quantity;
use serde_json::Value;

use crate::context::{Ctx, status_of, with_query};
use crate::pods::{list, text};
use crate::print::table::{Text, render};

const METRICS: &str = "/apis/metrics.k8s.io/v1beta1";

#[derive(Args)]
pub struct Top {
    #[command(subcommand)]
    pub what: What,
}

#[derive(Subcommand)]
pub enum What {
    /// What nodes use
    #[command(visible_aliases = ["nodes", "no"])]
    Node(Usage),
    /// What pods use
    #[command(visible_aliases = ["pods", "po"])]
    Pod(Usage),
}

#[derive(Args)]
pub struct Usage {
    pub name: Option<String>,
    #[arg(long, short = 'l')]
    pub selector: Option<String>,
    #[arg(long, short = 'A')]
    pub all_namespaces: bool,
    /// A line for each container
    #[arg(long)]
    pub containers: bool,
    /// cpu or memory
    #[arg(long, value_parser = ["cpu", "memory"])]
    pub sort_by: Option<String>,
    #[arg(long)]
    pub no_headers: bool,
}

/// Processor use in thousandths of a core, memory in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Used {
    cpu: i64,
    memory: i64,
}

/// Runs the command.
///
/// # Errors
/// When the cluster has no metrics server, or the server's answer.
pub async fn run(ctx: &Ctx, args: &Top) -> Result<ExitCode> {
    let (usage, plural) = match &args.what {
        What::Node(usage) => (usage, "nodes"),
        What::Pod(usage) => (usage, "pods"),
    };
    let mut path = if plural == "nodes" || usage.all_namespaces {
        format!("{METRICS}/{plural}")
    } else {
        format!("{METRICS}/namespaces/{}/{plural}", ctx.namespace)
    };
    if let Some(name) = &usage.name {
        path = format!("{path}/{}", crate::context::encode(name));
    }
    let answer = ctx
        .get(&with_query(&path, &[("labelSelector", usage.selector.as_deref())]))
        .await;
    let found = match answer {
        Ok(found) => found,
        Err(error) if status_of(&error) == Some(404) && ctx.get(METRICS).await.is_err() => {
            bail!("Metrics API not available")
        }
        Err(error) => return Err(error),
    };
    let items = if usage.name.is_some() {
        vec![found]
    } else {
        list(&found, "/items").to_vec()
    };
    if items.is_empty() {
        bail!("metrics not available yet");
    }
    let mut rows: Vec<(Used, Vec<String>)> = Vec::new();
    for item in &items {
        let mut start = Vec::new();
        if plural == "pods" && usage.all_namespaces {
            start.push(text(item, "/metadata/namespace").to_owned());
        }
        start.push(text(item, "/metadata/name").to_owned());
        let parts: Vec<(Vec<String>, Used)> = if plural == "nodes" {
            vec![(start, used(&item["usage"])?)]
        } else if usage.containers {
            let mut parts = Vec::new();
            for container in list(item, "/containers") {
                let name = text(container, "/name").to_owned();
                parts.push((
                    start.iter().cloned().chain([name]).collect(),
                    used(&container["usage"])?,
                ));
            }
            parts
        } else {
            let mut total = Used::default();
            for container in list(item, "/containers") {
                let one = used(&container["usage"])?;
                total = Used {
                    cpu: total.cpu + one.cpu,
                    memory: total.memory + one.memory,
                };
            }
            vec![(start, total)]
        };
        for (mut cells, used) in parts {
            cells.push(format!("{}m", used.cpu));
            if plural == "nodes" {
                let node = ctx
                    .get(&format!("/api/v1/nodes/{}", text(item, "/metadata/name")))
                    .await?;
                let whole = self::used(&node["status"]["allocatable"])?;
                cells.push(share(used.cpu, whole.cpu));
                cells.push(mebibytes(used.memory));
                cells.push(share(used.memory, whole.memory));
            } else {
                cells.push(mebibytes(used.memory));
            }
            rows.push((used, cells));
        }
    }
    match usage.sort_by.as_deref() {
        Some("cpu") => rows.sort_by_key(|(used, _)| std::cmp::Reverse(used.cpu)),
        Some(_) => rows.sort_by_key(|(used, _)| std::cmp::Reverse(used.memory)),
        None => rows.sort_by(|left, right| left.1.cmp(&right.1)),
    }
    let mut header: Vec<&str> = Vec::new();
    if plural == "nodes" {
        header.extend(["NAME", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)"]);
    } else {
        header.extend(usage.all_namespaces.then_some("NAMESPACE"));
        header.extend(if usage.containers {
            vec!["POD", "NAME"]
        } else {
            vec!["NAME"]
        });
        header.extend(["CPU(cores)", "MEMORY(bytes)"]);
    }
    let table = Text {
        header: header.into_iter().map(str::to_owned).collect(),
        rows: rows.into_iter().map(|(_, cells)| cells).collect(),
    };
    print!("{}", render(&table, usage.no_headers));
    Ok(ExitCode::SUCCESS)
}

fn used(amounts: &Value) -> Result<Used> {
    let read = |key: &str| Quantity::parse(text(amounts, key)).map_err(|e| anyhow!("{}: {e}", &key[1..]));
    Ok(Used {
        cpu: read("/cpu")?.milli(),
        memory: read("/memory")?.value(),
    })
}

fn share(part: i64, whole: i64) -> String {
    if whole > 0 {
        format!("{}%", part.saturating_mul(100) / whole)
    } else {
        "<unknown>".to_owned()
    }
}

fn mebibytes(bytes: i64) -> String {
    format!("{}Mi", bytes / (1024 * 1024))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn amounts() {
        let found = used(&json!({"cpu": "156340139n", "memory": "2097152Ki"})).expect("amounts");
        assert_eq!(
            found,
            Used {
                cpu: 157,
                memory: 2 * 1024 * 1024 * 1024
            }
        );
        assert_eq!(
            (share(157, 2000), mebibytes(found.memory)),
            ("7%".into(), "2048Mi".into())
        );
        assert!(used(&json!({"cpu": "1"})).is_err());
    }
}

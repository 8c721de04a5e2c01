//! `ctl cordon`, `uncordon`, `drain` and `taint`: taking a node out of service and back.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use clap::Args;
use futures::{AsyncBufReadExt as _, StreamExt as _};
use http::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::change::{Change, MERGE};
use crate::context::{Ctx, duration, encode, status_of, with_query};
use crate::pods::{list, text};

/// How long to wait before asking again when a disruption budget forbids an eviction.
const RETRY: Duration = Duration::from_secs(5);

#[derive(Args)]
pub struct Cordon {
    #[arg(value_name = "NODE")]
    pub nodes: Vec<String>,
    #[arg(long, short = 'l')]
    pub selector: Option<String>,
    #[command(flatten)]
    pub change: Change,
}

#[derive(Args)]
pub struct Drain {
    #[arg(value_name = "NODE")]
    pub nodes: Vec<String>,
    #[arg(long, short = 'l')]
    pub selector: Option<String>,
    /// Leave pods of DaemonSets alone
    #[arg(long)]
    pub ignore_daemonsets: bool,
    /// Go on although emptyDir volumes are lost
    #[arg(long)]
    pub delete_emptydir_data: bool,
    /// Go on although pods without a controller will not come back
    #[arg(long)]
    pub force: bool,
    /// Seconds for pods to end; -1 uses their own
    #[arg(long, default_value_t = -1, allow_hyphen_values = true)]
    pub grace_period: i64,
    /// Delete instead of evicting, past disruption budgets
    #[arg(long)]
    pub disable_eviction: bool,
    #[arg(long, default_value = "0", value_parser = duration)]
    pub timeout: Duration,
    /// Only pods with these labels
    #[arg(long)]
    pub pod_selector: Option<String>,
    #[command(flatten)]
    pub change: Change,
}

#[derive(Args)]
pub struct Taint {
    /// nodes NODE ... KEY[=VALUE]:EFFECT or KEY[:EFFECT]-
    #[arg(required = true, value_name = "nodes NODE TAINT")]
    pub words: Vec<String>,
    #[arg(long)]
    pub overwrite: bool,
    #[arg(long)]
    pub all: bool,
    /// Nodes with these labels
    #[arg(long, short = 'l')]
    pub selector: Option<String>,
    #[command(flatten)]
    pub change: Change,
}

async fn nodes(ctx: &Ctx, names: &[String], selector: Option<&str>) -> Result<Vec<Value>> {
    if let Some(selector) = selector {
        let path = with_query("/api/v1/nodes", &[("labelSelector", Some(selector))]);
        return Ok(ctx.get(&path).await?["items"]
            .as_array_mut()
            .map(std::mem::take)
            .unwrap_or_default());
    }
    if names.is_empty() {
        bail!("a node or a selector (-l) is needed");
    }
    let mut out = Vec::new();
    for name in names {
        out.push(
            ctx.get(&format!("/api/v1/nodes/{}", encode(name.trim_start_matches("node/"))))
                .await?,
        );
    }
    Ok(out)
}

/// Runs `ctl cordon` and `ctl uncordon`.
///
/// # Errors
/// The server's answer.
pub async fn cordon(ctx: &Ctx, args: &Cordon, closed: bool) -> Result<ExitCode> {
    for node in nodes(ctx, &args.nodes, args.selector.as_deref()).await? {
        close(ctx, &node, closed, &args.change).await?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn close(ctx: &Ctx, node: &Value, closed: bool, change: &Change) -> Result<()> {
    let name = text(node, "/metadata/name");
    let word = if closed { "cordoned" } else { "uncordoned" };
    if (node["spec"]["unschedulable"] == true) == closed {
        println!("node/{name} already {word}");
        return Ok(());
    }
    let patch = json!({"spec": {"unschedulable": if closed { Value::Bool(true) } else { Value::Null }}});
    if !change.client_only() {
        let path = change.query(&format!("/api/v1/nodes/{}", encode(name)), "ctl-cordon");
        ctx.patch(&path, MERGE, &patch).await?;
    }
    change.printer()?.done(&format!("node/{name}"), word, node)
}

/// What draining does with a pod.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Evict,
    /// Left alone, with a note.
    Skip(&'static str),
    Stay,
    /// Draining is refused because of it.
    Refuse(&'static str),
}

fn fate(pod: &Value, args: &Drain) -> Fate {
    let mirror = pod
        .pointer("/metadata/annotations")
        .is_some_and(|a| a.get("kubernetes.io/config.mirror").is_some());
    let owner = list(pod, "/metadata/ownerReferences")
        .iter()
        .find(|owner| owner["controller"] == true)
        .map(|owner| text(owner, "/kind"));
    let finished = matches!(text(pod, "/status/phase"), "Succeeded" | "Failed");
    let scratch = list(pod, "/spec/volumes")
        .iter()
        .any(|volume| volume["emptyDir"].is_object());
    match owner {
        _ if mirror => Fate::Stay,
        Some("DaemonSet") if finished => Fate::Evict,
        Some("DaemonSet") if args.ignore_daemonsets => Fate::Skip("ignoring DaemonSet-managed Pods"),
        Some("DaemonSet") => Fate::Refuse("cannot delete DaemonSet-managed Pods (use --ignore-daemonsets to ignore)"),
        _ if finished => Fate::Evict,
        None if !args.force => Fate::Refuse("cannot delete Pods that declare no controller (use --force to override)"),
        _ if scratch && !args.delete_emptydir_data => {
            Fate::Refuse("cannot delete Pods with local storage (use --delete-emptydir-data to override)")
        }
        _ => Fate::Evict,
    }
}

/// Runs `ctl drain`.
///
/// # Errors
/// Which pods stand in the way, that time ran out, or the server's answer.
pub async fn drain(ctx: &Ctx, args: &Drain) -> Result<ExitCode> {
    let deadline = (!args.timeout.is_zero()).then(|| Instant::now() + args.timeout);
    for node in nodes(ctx, &args.nodes, args.selector.as_deref()).await? {
        let name = text(&node, "/metadata/name");
        close(ctx, &node, true, &args.change).await?;
        let selector = format!("spec.nodeName={name}");
        let path = with_query(
            "/api/v1/pods",
            &[
                ("fieldSelector", Some(&selector)),
                ("labelSelector", args.pod_selector.as_deref()),
            ],
        );
        let pods = ctx.get(&path).await?["items"]
            .as_array_mut()
            .map(std::mem::take)
            .unwrap_or_default();
        let label = |pod: &Value| format!("{}/{}", text(pod, "/metadata/namespace"), text(pod, "/metadata/name"));
        let (mut going, mut refused, mut skipped) = (Vec::new(), Vec::new(), Vec::new());
        for pod in &pods {
            match fate(pod, args) {
                Fate::Evict => going.push(pod),
                Fate::Skip(why) => skipped.push(format!("{why}: {}", label(pod))),
                Fate::Refuse(why) => refused.push(format!("{why}: {}", label(pod))),
                Fate::Stay => {}
            }
        }
        if !refused.is_empty() {
            bail!("unable to drain node \"{name}\" due to error: {}", refused.join(", "));
        }
        skipped.iter().for_each(|note| eprintln!("Warning: {note}"));
        for pod in going {
            let pod_name = text(pod, "/metadata/name");
            println!("evicting pod {}", label(pod));
            if args.change.dry_run == "none" {
                let work = evict(ctx, args, pod);
                match deadline {
                    Some(at) => tokio::time::timeout_at(at, work)
                        .await
                        .map_err(|_| anyhow!("drain did not complete within {:?}", args.timeout))??,
                    None => work.await?,
                }
                println!("pod/{pod_name} evicted");
            }
        }
        println!(
            "node/{name} drained{}",
            if args.change.dry_run == "none" {
                ""
            } else {
                " (dry run)"
            }
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Evicts one pod and waits until it is gone.
async fn evict(ctx: &Ctx, args: &Drain, pod: &Value) -> Result<()> {
    let (namespace, name, uid) = (
        text(pod, "/metadata/namespace"),
        text(pod, "/metadata/name"),
        text(pod, "/metadata/uid"),
    );
    let collection = format!("/api/v1/namespaces/{namespace}/pods");
    let path = format!("{collection}/{}", encode(name));
    let mut options = json!({});
    if args.grace_period >= 0 {
        options["gracePeriodSeconds"] = args.grace_period.into();
    }
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": namespace}, "deleteOptions": options});
    loop {
        let sent = if args.disable_eviction {
            ctx.call(Method::DELETE, &path, &[], Some(&options)).await
        } else {
            ctx.call(Method::POST, &format!("{path}/eviction"), &[], Some(&eviction))
                .await
        };
        match sent {
            Ok(_) => break,
            Err(error) if status_of(&error) == Some(404) => return Ok(()),
            Err(error) if status_of(&error) == Some(429) => {
                eprintln!("error when evicting pods/\"{name}\" -n \"{namespace}\" (will retry after 5s): {error}");
                tokio::time::sleep(RETRY).await;
            }
            Err(error) => return Err(error),
        }
    }
    let selector = format!("metadata.name={name}");
    let mut lines = ctx
        .stream(
            &with_query(
                &collection,
                &[("watch", Some("true")), ("fieldSelector", Some(&selector))],
            ),
            false,
        )
        .await?
        .lines();
    // The watch begins with what is there: a pod that is gone already must be noticed by asking.
    match ctx.get(&path).await {
        Err(error) if status_of(&error) == Some(404) => return Ok(()),
        Ok(now) if text(&now, "/metadata/uid") != uid => return Ok(()),
        _ => {}
    }
    while let Some(line) = lines.next().await {
        let event: Value = serde_json::from_str(&line?)?;
        if event["type"] == "DELETED" && text(&event, "/object/metadata/uid") == uid {
            return Ok(());
        }
    }
    bail!("the server closed the watch while pod {namespace}/{name} was ending")
}

/// Runs `ctl taint`.
///
/// # Errors
/// What is wrong with the arguments, or the server's answer.
pub async fn taint(ctx: &Ctx, args: &Taint) -> Result<ExitCode> {
    let mut words = args.words.as_slice();
    if let [first, rest @ ..] = words
        && matches!(first.as_str(), "node" | "nodes" | "no")
    {
        words = rest;
    }
    let is_taint = |word: &String| word.contains(':') || word.contains('=') || word.ends_with('-');
    let split = words.iter().position(is_taint).unwrap_or(words.len());
    let (names, taints) = words.split_at(split);
    if taints.is_empty() {
        bail!("at least one taint update is required");
    }
    let printer = args.change.printer()?;
    let found = if args.all || args.selector.is_some() {
        nodes(ctx, &[], Some(args.selector.as_deref().unwrap_or_default())).await?
    } else {
        nodes(ctx, names, None).await?
    };
    for node in found {
        let name = text(&node, "/metadata/name");
        let changed = retainted(list(&node, "/spec/taints"), taints, args.overwrite)
            .map_err(|why| anyhow!("node {name} {why}"))?;
        let version = text(&node, "/metadata/resourceVersion");
        let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"taints": changed}});
        let after = if args.change.client_only() {
            node.clone()
        } else {
            let path = args
                .change
                .query(&format!("/api/v1/nodes/{}", encode(name)), "ctl-taint");
            ctx.patch(&path, MERGE, &patch).await?
        };
        let removed = taints.iter().all(|taint| taint.ends_with('-'));
        let word = if removed { "untainted" } else { "tainted" };
        printer.done(&format!("node/{name}"), word, &after)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn retainted(before: &[Value], words: &[String], overwrite: bool) -> Result<Vec<Value>, String> {
    let mut taints = before.to_vec();
    for word in words {
        if let Some(word) = word.strip_suffix('-') {
            let (key, effect) = word
                .split_once(':')
                .map_or((word, None), |(key, effect)| (key, Some(effect)));
            let key = key.split('=').next().unwrap_or(key);
            let count = taints.len();
            taints.retain(|taint| {
                text(taint, "/key") != key || effect.is_some_and(|effect| text(taint, "/effect") != effect)
            });
            if taints.len() == count {
                return Err(format!("does not have the taint {word}"));
            }
            continue;
        }
        let (pair, effect) = word
            .rsplit_once(':')
            .ok_or_else(|| format!("cannot have the taint {word}: it needs KEY[=VALUE]:EFFECT"))?;
        if !matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
            return Err(format!(
                "cannot have the taint effect {effect}: it is one of NoSchedule, PreferNoSchedule, NoExecute"
            ));
        }
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let mut taint = json!({"key": key, "effect": effect});
        if !value.is_empty() {
            taint["value"] = value.into();
        }
        match taints
            .iter_mut()
            .find(|other| text(other, "/key") == key && text(other, "/effect") == effect)
        {
            Some(_) if !overwrite => {
                return Err(format!(
                    "already has {key} taint(s) with same effect(s) and --overwrite is false"
                ));
            }
            Some(other) => *other = taint,
            None => taints.push(taint),
        }
    }
    Ok(taints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints() {
        let before = [json!({"key": "a", "effect": "NoSchedule"})];
        let check = |words: &[&str], overwrite: bool| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            retainted(&before, &words, overwrite)
        };
        assert_eq!(
            check(&["b=c:NoExecute"], false),
            Ok(vec![
                before[0].clone(),
                json!({"key": "b", "value": "c", "effect": "NoExecute"})
            ])
        );
        assert_eq!(check(&["a-"], false), Ok(Vec::new()));
        assert_eq!(
            check(&["a=x:NoSchedule"], true),
            Ok(vec![json!({"key": "a", "value": "x", "effect": "NoSchedule"})])
        );
        assert!(check(&["a=x:NoSchedule"], false).is_err());
        assert!(check(&["z-"], false).is_err());
        assert!(check(&["a:Sometimes"], false).is_err());
    }

    #[test]
    fn fates() {
        let args = |force: bool, daemons: bool| Drain {
            nodes: Vec::new(),
            selector: None,
            ignore_daemonsets: daemons,
            delete_emptydir_data: false,
            force,
            grace_period: -1,
            disable_eviction: false,
            timeout: Duration::ZERO,
            pod_selector: None,
            change: Change::default(),
        };
        let owned = |kind: &str| json!({"metadata": {"ownerReferences": [{"kind": kind, "controller": true}]}});
        assert_eq!(fate(&owned("ReplicaSet"), &args(false, false)), Fate::Evict);
        assert!(matches!(
            fate(&owned("DaemonSet"), &args(false, false)),
            Fate::Refuse(_)
        ));
        assert!(matches!(fate(&owned("DaemonSet"), &args(false, true)), Fate::Skip(_)));
        assert!(matches!(fate(&json!({}), &args(false, false)), Fate::Refuse(_)));
        assert_eq!(fate(&json!({}), &args(true, false)), Fate::Evict);
    }
}

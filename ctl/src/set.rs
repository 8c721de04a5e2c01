//! `ctl set image` and `ctl set env`: changes to the containers of a workload.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::context::Ctx;
use crate::edit::{STRATEGIC, change_query, path_of, print_change, reach};
use crate::resources::Resources;

#[derive(Args)]
pub struct Set {
    #[command(subcommand)]
    pub what: What,
}

#[derive(Subcommand)]
pub enum What {
    /// Change the images of containers
    Image(Change),
    /// Change the environment of containers
    Env(Change),
}

#[derive(Args)]
pub struct Change {
    /// TYPE/NAME CONTAINER=IMAGE ... or TYPE/NAME KEY=VALUE KEY- ...
    #[arg(required = true, value_name = "TYPE/NAME NAME=VALUE")]
    pub words: Vec<String>,
    /// Containers to change the environment of: a name, or * for all
    #[arg(long, short = 'c', default_value = "*")]
    pub containers: String,
    #[arg(long, short = 'l')]
    pub selector: Option<String>,
    #[arg(long)]
    pub all: bool,
    #[arg(long, num_args = 0..=1, default_missing_value = "client", require_equals = true)]
    pub dry_run: Option<String>,
}

/// Where the pod template of an object is.
///
/// # Errors
/// When the kind has none.
pub fn pod_spec_pointer(object_kind: &str) -> Result<&'static str> {
    Ok(match object_kind {
        "Pod" => "/spec",
        "CronJob" => "/spec/jobTemplate/spec/template/spec",
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" | "Job" | "ReplicationController" => {
            "/spec/template/spec"
        }
        other => bail!("a {other} has no containers"),
    })
}

/// Wraps `inner` in the objects that a pointer names.
#[must_use]
pub fn nest(pointer: &str, inner: Value) -> Value {
    pointer
        .rsplit('/')
        .filter(|p| !p.is_empty())
        .fold(inner, |value, key| json!({key: value}))
}

/// Runs the command.
///
/// # Errors
/// The server's answer, or what is wrong with the arguments.
pub async fn run(ctx: &Ctx, args: &Set) -> Result<ExitCode> {
    let (change, is_image) = match &args.what {
        What::Image(change) => (change, true),
        What::Env(change) => (change, false),
    };
    let is_assignment = |w: &&String| w.contains('=') || (!is_image && w.ends_with('-'));
    let first = change
        .words
        .iter()
        .position(|w| is_assignment(&w))
        .unwrap_or(change.words.len());
    let (words, assignments) = change.words.split_at(first);
    if assignments.is_empty() {
        bail!(
            "one or more {} updates are required",
            if is_image { "image" } else { "environment variable" }
        );
    }
    let resources = Resources::discover(ctx).await?;
    for (resource, object) in reach(ctx, &resources, words, change.selector.as_deref(), change.all, false).await? {
        let pointer = pod_spec_pointer(&resource.kind)?;
        let spec = object.pointer(pointer).cloned().unwrap_or(Value::Null);
        let patch = if is_image {
            images(&spec, assignments)?
        } else {
            environment(&spec, assignments, &change.containers)?
        };
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        if patch == Value::Null || change.dry_run.as_deref() == Some("client") {
            continue;
        }
        let manager = if is_image { "ctl-set-image" } else { "ctl-set-env" };
        let path = change_query(&path_of(resource, &object), manager, change.dry_run.as_deref());
        let after = ctx.patch(&path, STRATEGIC, &nest(pointer, patch)).await?;
        if after["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] {
            print_change(
                resource,
                name,
                if is_image { "image updated" } else { "env updated" },
                &after,
                None,
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn names<'a>(spec: &'a Value, list: &str) -> Vec<&'a str> {
    spec[list]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|c| c["name"].as_str())
        .collect()
}

fn images(spec: &Value, assignments: &[String]) -> Result<Value> {
    let mut patch = json!({});
    for assignment in assignments {
        let Some((container, image)) = assignment.split_once('=') else {
            bail!("{assignment:?} is not CONTAINER=IMAGE")
        };
        let mut found = false;
        for list in ["containers", "initContainers"] {
            for name in names(spec, list)
                .into_iter()
                .filter(|n| container == "*" || *n == container)
            {
                found = true;
                let row = json!({"name": name, "image": image});
                match patch[list].as_array_mut() {
                    Some(rows) => rows.push(row),
                    None => patch[list] = json!([row]),
                }
            }
        }
        if !found {
            bail!("unable to find container named \"{container}\"");
        }
    }
    Ok(patch)
}

fn environment(spec: &Value, assignments: &[String], containers: &str) -> Result<Value> {
    let env: Vec<Value> = assignments
        .iter()
        .map(|a| match a.split_once('=') {
            Some((key, value)) => json!({"name": key, "value": value}),
            None => json!({"name": a.strip_suffix('-').unwrap_or(a), "$patch": "delete"}),
        })
        .collect();
    let rows: Vec<Value> = names(spec, "containers")
        .into_iter()
        .filter(|n| containers == "*" || *n == containers)
        .map(|name| json!({"name": name, "env": env}))
        .collect();
    if rows.is_empty() {
        bail!("unable to find container named \"{containers}\"");
    }
    Ok(json!({"containers": rows}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_named_containers_change() -> Result<()> {
        let spec = json!({"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]});
        let list = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            images(&spec, &list(&["b=x:1"]))?,
            json!({"containers": [{"name": "b", "image": "x:1"}]})
        );
        assert!(images(&spec, &list(&["z=x:1"])).is_err());
        assert_eq!(
            nest("/spec/template/spec", environment(&spec, &list(&["K=v", "OLD-"]), "a")?),
            json!({"spec": {"template": {"spec": {"containers": [
                {"name": "a", "env": [{"name": "K", "value": "v"}, {"name": "OLD", "$patch": "delete"}]}]}}}})
        );
        Ok(())
    }
}

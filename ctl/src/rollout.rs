//! `ctl rollout`: status, history, undo, restart, pause and resume of Deployments, DaemonSets and StatefulSets.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use clap::{Args, Subcommand};
use futures::{AsyncBufReadExt as _, StreamExt as _};
use serde_json::{Value, json};

use crate::context::{Ctx, with_query};
use crate::edit::{STRATEGIC, change_query, path_of, print_change, reach};
use crate::resources::{Resource, Resources};

const REVISION: &str = "deployment.kubernetes.io/revision";
const CHANGE_CAUSE: &str = "kubernetes.io/change-cause";
const RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";
const TEMPLATE_HASH: &str = "pod-template-hash";

#[derive(Args)]
pub struct Rollout {
    #[command(subcommand)]
    pub what: What,
}

#[derive(Subcommand)]
pub enum What {
    /// Show the progress of a rollout until it is done
    Status(Target),
    /// List the revisions
    History(Target),
    /// Go back to an earlier revision
    Undo(Target),
    /// Replace all pods, a few at a time
    Restart(Target),
    /// Stop reacting to changes
    Pause(Target),
    /// React to changes again
    Resume(Target),
}

#[derive(Args)]
pub struct Target {
    /// TYPE NAME or TYPE/NAME
    #[arg(required = true, value_name = "TYPE[/NAME]")]
    pub what: Vec<String>,
    #[arg(long, short = 'l')]
    pub selector: Option<String>,
    /// The revision to show, or to wait for
    #[arg(long, default_value_t = 0)]
    pub revision: i64,
    /// The revision to go back to; 0 is the one before
    #[arg(long, default_value_t = 0)]
    pub to_revision: i64,
    /// Wait until it is done
    #[arg(long, short = 'w', default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub watch: bool,
    #[arg(long, default_value = "0", value_parser = crate::context::duration)]
    pub timeout: Duration,
    #[arg(long, num_args = 0..=1, default_missing_value = "client", require_equals = true)]
    pub dry_run: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// The server's answer, a rollout that failed, or what is wrong with the arguments.
pub async fn run(ctx: &Ctx, args: &Rollout) -> Result<ExitCode> {
    let target = match &args.what {
        What::Status(t) | What::History(t) | What::Undo(t) | What::Restart(t) | What::Pause(t) | What::Resume(t) => t,
    };
    let resources = Resources::discover(ctx).await?;
    for (resource, object) in reach(ctx, &resources, &target.what, target.selector.as_deref(), false, false).await? {
        match &args.what {
            What::Status(_) => follow(ctx, target, resource, &object).await?,
            What::History(_) => history(ctx, target, resource, &object).await?,
            What::Undo(_) => undo(ctx, target, resource, &object).await?,
            What::Restart(_) => restart(ctx, target, resource, &object).await?,
            What::Pause(_) => pause(ctx, target, resource, &object, true).await?,
            What::Resume(_) => pause(ctx, target, resource, &object, false).await?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

/// What a rollout's object says of its progress: a sentence, and whether it is done.
///
/// # Errors
/// When it says that it failed, or the kind has no rollouts.
pub fn progress(object: &Value, kind: &str) -> Result<(String, bool)> {
    let (spec, status, name) = (&object["spec"], &object["status"], name_of(object));
    let seen = number(&status["observedGeneration"]) >= number(&object["metadata"]["generation"]);
    let wanted = spec["replicas"].as_i64().unwrap_or(1);
    let updated = number(&status["updatedReplicas"]);
    let waiting = |text: String| Ok((text, false));
    match kind {
        "Deployment" => {
            if !seen {
                return waiting("Waiting for deployment spec update to be observed...".to_owned());
            }
            let conditions = status["conditions"].as_array().into_iter().flatten();
            if conditions
                .clone()
                .any(|c| c["type"] == "Progressing" && c["reason"] == "ProgressDeadlineExceeded")
            {
                bail!("deployment \"{name}\" exceeded its progress deadline");
            }
            let (total, available) = (number(&status["replicas"]), number(&status["availableReplicas"]));
            if updated < wanted {
                return waiting(format!(
                    "Waiting for deployment \"{name}\" rollout to finish: {updated} out of {wanted} new replicas have been updated..."
                ));
            }
            if total > updated {
                return waiting(format!(
                    "Waiting for deployment \"{name}\" rollout to finish: {} old replicas are pending termination...",
                    total - updated
                ));
            }
            if available < updated {
                return waiting(format!(
                    "Waiting for deployment \"{name}\" rollout to finish: {available} of {updated} updated replicas are available..."
                ));
            }
            Ok((format!("deployment \"{name}\" successfully rolled out"), true))
        }
        "DaemonSet" => {
            let (desired, updated, available) = (
                number(&status["desiredNumberScheduled"]),
                number(&status["updatedNumberScheduled"]),
                number(&status["numberAvailable"]),
            );
            if !seen {
                return waiting("Waiting for daemon set spec update to be observed...".to_owned());
            }
            if updated < desired {
                return waiting(format!(
                    "Waiting for daemon set \"{name}\" rollout to finish: {updated} out of {desired} new pods have been updated..."
                ));
            }
            if available < desired {
                return waiting(format!(
                    "Waiting for daemon set \"{name}\" rollout to finish: {available} of {desired} updated pods are available..."
                ));
            }
            Ok((format!("daemon set \"{name}\" successfully rolled out"), true))
        }
        "StatefulSet" => {
            let ready = number(&status["readyReplicas"]);
            if !seen {
                return waiting("Waiting for statefulset spec update to be observed...".to_owned());
            }
            if ready < wanted {
                return waiting(format!("Waiting for {} pods to be ready...", wanted - ready));
            }
            if status["updateRevision"] != status["currentRevision"] {
                return waiting(format!(
                    "waiting for statefulset rolling update to complete {updated} pods at revision {}...",
                    status["updateRevision"].as_str().unwrap_or_default()
                ));
            }
            Ok((
                format!(
                    "statefulset rolling update complete {} pods at revision {}...",
                    number(&status["currentReplicas"]),
                    status["currentRevision"].as_str().unwrap_or_default()
                ),
                true,
            ))
        }
        other => bail!("no status viewer has been implemented for {other}"),
    }
}

/// Prints each new sentence until the rollout is done.
async fn follow(ctx: &Ctx, args: &Target, resource: &Resource, object: &Value) -> Result<()> {
    let limit = if args.timeout.is_zero() {
        Duration::from_secs(7 * 24 * 3600)
    } else {
        args.timeout
    };
    let done = tokio::time::timeout(limit, follow_until_done(ctx, args, resource, object)).await;
    done.map_err(|_| anyhow!("timed out waiting for the condition"))?
}

async fn follow_until_done(ctx: &Ctx, args: &Target, resource: &Resource, object: &Value) -> Result<()> {
    let mut said = String::new();
    let mut say = |object: &Value| -> Result<bool> {
        let (text, done) = progress(object, &resource.kind)?;
        if text != said {
            println!("{text}");
            said = text;
        }
        Ok(done)
    };
    let mut now = object.clone();
    loop {
        if say(&now)? || !args.watch {
            return Ok(());
        }
        let field = format!("metadata.name={}", name_of(&now));
        let namespace = now["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        let path = with_query(
            &resource.collection(Some(&namespace)),
            &[
                ("watch", Some("true")),
                ("fieldSelector", Some(&field)),
                ("resourceVersion", now["metadata"]["resourceVersion"].as_str()),
            ],
        );
        let mut lines = ctx.stream(&path, false).await?.lines();
        while let Some(Ok(line)) = lines.next().await {
            let event: Value = serde_json::from_str(&line)?;
            match event["type"].as_str() {
                Some("DELETED") => bail!("object has been deleted"),
                Some("ADDED" | "MODIFIED") if say(&event["object"])? => return Ok(()),
                _ => {}
            }
        }
        now = ctx.get(&resource.object(&namespace, name_of(object))).await?;
    }
}

/// The ReplicaSets of a Deployment by revision.
async fn revisions(ctx: &Ctx, resource: &Resource, object: &Value) -> Result<BTreeMap<i64, Value>> {
    if resource.kind != "Deployment" {
        bail!("no history viewer has been implemented for {}", resource.kind);
    }
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
    let mut list = ctx
        .get(&format!("/apis/apps/v1/namespaces/{namespace}/replicasets"))
        .await?;
    let uid = &object["metadata"]["uid"];
    let owned = |set: &Value| {
        set["metadata"]["ownerReferences"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|o| o["uid"] == *uid && o["controller"] == true)
    };
    let sets = list["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
    Ok(sets
        .into_iter()
        .filter(owned)
        .filter_map(|s| Some((s["metadata"]["annotations"][REVISION].as_str()?.parse().ok()?, s)))
        .collect())
}

async fn history(ctx: &Ctx, args: &Target, resource: &Resource, object: &Value) -> Result<()> {
    let all = revisions(ctx, resource, object).await?;
    let name = name_of(object);
    if args.revision > 0 {
        let Some(set) = all.get(&args.revision) else {
            bail!("unable to find the specified revision")
        };
        println!("{}/{name} with revision #{}", resource.object_prefix(), args.revision);
        println!("Pod Template:");
        print!(
            "{}",
            indent(&coxswain_api::codec::to_yaml(&set["spec"]["template"]["spec"]), 2)
        );
        return Ok(());
    }
    println!("{}/{name} ", resource.object_prefix());
    let cause = |set: &Value| {
        set["metadata"]["annotations"][CHANGE_CAUSE]
            .as_str()
            .unwrap_or("<none>")
            .to_owned()
    };
    println!("{:<10}CHANGE-CAUSE", "REVISION");
    for (revision, set) in &all {
        println!("{revision:<10}{}", cause(set));
    }
    println!();
    Ok(())
}

fn indent(text: &str, by: usize) -> String {
    text.lines().map(|l| format!("{}{l}\n", " ".repeat(by))).collect()
}

async fn undo(ctx: &Ctx, args: &Target, resource: &Resource, object: &Value) -> Result<()> {
    if object["spec"]["paused"] == true {
        bail!("you cannot rollback a paused deployment; resume it first with 'ctl rollout resume' and try again");
    }
    let all = revisions(ctx, resource, object).await?;
    let set = match args.to_revision {
        0 => all
            .values()
            .rev()
            .nth(1)
            .ok_or_else(|| anyhow!("no rollout history found for deployment \"{}\"", name_of(object)))?,
        revision => all
            .get(&revision)
            .ok_or_else(|| anyhow!("unable to find specified revision {revision} in history"))?,
    };
    let mut template = set["spec"]["template"].clone();
    if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
        labels.remove(TEMPLATE_HASH);
    }
    let mut present = object["spec"]["template"].clone();
    for value in [&mut template, &mut present] {
        value["metadata"]["creationTimestamp"] = Value::Null;
    }
    if template == present {
        print_change(
            resource,
            name_of(object),
            &format!(
                "skipped rollback (current template already matches revision {})",
                set["metadata"]["annotations"][REVISION].as_str().unwrap_or_default()
            ),
            object,
            None,
        )?;
        return Ok(());
    }
    let patch = json!([{"op": "replace", "path": "/spec/template", "value": template}]);
    let path = change_query(&path_of(resource, object), "ctl-rollout", args.dry_run.as_deref());
    ctx.patch(&path, "application/json-patch+json", &patch).await?;
    print_change(resource, name_of(object), "rolled back", object, None)
}

async fn restart(ctx: &Ctx, args: &Target, resource: &Resource, object: &Value) -> Result<()> {
    if object["spec"]["template"].is_null() {
        bail!(
            "{} \"{}\" restarting is not supported",
            resource.plural,
            name_of(object)
        );
    }
    if object["spec"]["paused"] == true {
        bail!("can't restart paused deployment (run rollout resume first)");
    }
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let patch = json!({"spec": {"template": {"metadata": {"annotations": {RESTARTED_AT: now}}}}});
    ctx.patch(
        &change_query(&path_of(resource, object), "ctl-rollout", args.dry_run.as_deref()),
        STRATEGIC,
        &patch,
    )
    .await?;
    print_change(resource, name_of(object), "restarted", object, None)
}

async fn pause(ctx: &Ctx, args: &Target, resource: &Resource, object: &Value, pause: bool) -> Result<()> {
    if resource.kind != "Deployment" {
        bail!(
            "{}.{} \"{}\" {} is not supported",
            resource.plural,
            resource.group,
            name_of(object),
            if pause { "pausing" } else { "resuming" }
        );
    }
    if (object["spec"]["paused"] == true) == pause {
        bail!(
            "{} \"{}\" is {}",
            resource.qualified(),
            name_of(object),
            if pause { "already paused" } else { "not paused" }
        );
    }
    let value = if pause { json!(true) } else { Value::Null };
    let patch = json!({"spec": {"paused": value}});
    ctx.patch(
        &change_query(&path_of(resource, object), "ctl-rollout", args.dry_run.as_deref()),
        STRATEGIC,
        &patch,
    )
    .await?;
    print_change(
        resource,
        name_of(object),
        if pause { "paused" } else { "resumed" },
        object,
        None,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_of_a_deployment() {
        let check = |generation: i64, status: Value, want: Result<(&str, bool), &str>| {
            let object = json!({"metadata": {"name": "web", "generation": generation}, "spec": {"replicas": 3}, "status": status});
            let got = progress(&object, "Deployment").map_err(|e| e.to_string());
            assert_eq!(
                got.as_ref().map(|(t, d)| (t.as_str(), *d)).map_err(String::as_str),
                want
            );
        };
        check(
            2,
            json!({"observedGeneration": 1}),
            Ok(("Waiting for deployment spec update to be observed...", false)),
        );
        check(
            1,
            json!({"observedGeneration": 1, "replicas": 3, "updatedReplicas": 1}),
            Ok((
                "Waiting for deployment \"web\" rollout to finish: 1 out of 3 new replicas have been updated...",
                false,
            )),
        );
        check(
            1,
            json!({"observedGeneration": 1, "replicas": 4, "updatedReplicas": 3}),
            Ok((
                "Waiting for deployment \"web\" rollout to finish: 1 old replicas are pending termination...",
                false,
            )),
        );
        check(
            1,
            json!({"observedGeneration": 1, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 2}),
            Ok((
                "Waiting for deployment \"web\" rollout to finish: 2 of 3 updated replicas are available...",
                false,
            )),
        );
        check(
            1,
            json!({"observedGeneration": 1, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 3}),
            Ok(("deployment \"web\" successfully rolled out", true)),
        );
        check(
            1,
            json!({"observedGeneration": 1, "conditions": [{"type": "Progressing", "reason": "ProgressDeadlineExceeded"}]}),
            Err("deployment \"web\" exceeded its progress deadline"),
        );
    }
}

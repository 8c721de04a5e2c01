//! How far a rollout is: kubectl's sentences, and following them.

use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use futures::{AsyncBufReadExt as _, StreamExt as _};
use serde_json::Value;

use super::{Target, name_of};
use crate::context::{Ctx, with_query};
use crate::resources::Resource;

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

/// What a rollout's object says of its progress: a sentence, and whether it is done.
///
/// # Errors
/// When it says that it failed, or the kind has no rollouts.
fn progress(object: &Value, kind: &str) -> Result<(String, bool)> {
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
            let partition = number(&spec["updateStrategy"]["rollingUpdate"]["partition"]);
            if partition > 0 {
                let due = wanted - partition;
                return if updated < due {
                    waiting(format!(
                        "Waiting for partitioned roll out to finish: {updated} out of {due} new pods have been updated..."
                    ))
                } else {
                    Ok((
                        format!("partitioned roll out complete: {updated} new pods have been updated..."),
                        true,
                    ))
                };
            }
            if spec["updateStrategy"]["type"] == "OnDelete" {
                bail!("rollout status is only available for RollingUpdate strategy type");
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
pub(super) async fn follow(ctx: &Ctx, args: &Target, resource: &Resource, object: &Value) -> Result<()> {
    let limit = if args.timeout.is_zero() {
        Duration::from_secs(7 * 24 * 3600)
    } else {
        args.timeout
    };
    let done = tokio::time::timeout(limit, follow_until_done(ctx, args, resource, object)).await;
    done.map_err(|_| anyhow!("timed out waiting for the condition"))?
}

async fn follow_until_done(ctx: &Ctx, args: &Target, resource: &Resource, object: &Value) -> Result<()> {
    if args.revision > 0 {
        let now = super::revision_of(object);
        if now != args.revision {
            bail!(
                "desired revision ({}) is different from the running revision ({now})",
                args.revision
            );
        }
    }
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
            &resource.path(Some(&namespace)),
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

#[cfg(test)]
mod tests {
    use serde_json::json;

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

//! `ctl rollout`: status, history, undo, restart, pause and resume of Deployments, DaemonSets and StatefulSets.

mod progress;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::change::{Change, JSON, MERGE, Printer, STRATEGIC};
use crate::context::Ctx;
use crate::describe;
use crate::pods::{list, selector_text, text};
use crate::print::{Format, document};
use crate::resources::{Resource, Resources};
use crate::targets::Which;

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
    #[arg(value_name = "TYPE[/NAME]")]
    pub what: Vec<String>,
    #[command(flatten)]
    pub which: Which,
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
    #[command(flatten)]
    pub change: Change,
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
    let printer = target.change.printer()?;
    let found = target.which.objects(ctx, &resources, &target.what, false).await?;
    for (resource, object) in &found.objects {
        let work = Work {
            ctx,
            args: target,
            printer: &printer,
            resource,
            object,
        };
        match &args.what {
            What::Status(_) => progress::follow(ctx, target, resource, object).await?,
            What::History(_) => work.history().await?,
            What::Undo(_) => work.undo().await?,
            What::Restart(_) => work.restart().await?,
            What::Pause(_) => work.pause(true).await?,
            What::Resume(_) => work.pause(false).await?,
        }
    }
    Ok(if found.failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn name_of(object: &Value) -> &str {
    text(object, "/metadata/name")
}

fn revision_of(object: &Value) -> i64 {
    object["metadata"]["annotations"][REVISION]
        .as_str()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

/// One object that a command works on.
struct Work<'a> {
    ctx: &'a Ctx,
    args: &'a Target,
    printer: &'a Printer,
    resource: &'a Resource,
    object: &'a Value,
}

impl Work<'_> {
    /// What recorded the pod template of each revision: a Deployment's ReplicaSets, ControllerRevisions otherwise.
    async fn revisions(&self) -> Result<BTreeMap<i64, Value>> {
        let plural = match self.resource.kind.as_str() {
            "Deployment" => "replicasets",
            "DaemonSet" | "StatefulSet" => "controllerrevisions",
            other => bail!("no history viewer has been implemented for {other:?}"),
        };
        let namespace = text(self.object, "/metadata/namespace");
        let selector = selector_text(&self.object["spec"]["selector"]);
        let path = crate::context::with_query(
            &format!("/apis/apps/v1/namespaces/{namespace}/{plural}"),
            &[("labelSelector", Some(&selector))],
        );
        let mut found = self.ctx.get(&path).await?;
        let uid = &self.object["metadata"]["uid"];
        let owned = |object: &Value| {
            list(object, "/metadata/ownerReferences")
                .iter()
                .any(|owner| owner["uid"] == *uid && owner["controller"] == true)
        };
        let items = found["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
        Ok(items
            .into_iter()
            .filter(owned)
            .map(|mut object| {
                object["apiVersion"] = "apps/v1".into();
                (
                    object["revision"].as_i64().unwrap_or_else(|| revision_of(&object)),
                    object,
                )
            })
            .collect())
    }

    async fn history(&self) -> Result<()> {
        let all = self.revisions().await?;
        let label = format!("{}/{}", self.resource.object_prefix(), name_of(self.object));
        let format = Format::parse(self.args.change.output.as_deref())?;
        if self.args.revision > 0 {
            let Some(record) = all.get(&self.args.revision) else {
                bail!("unable to find the specified revision")
            };
            if format.wants_table() {
                println!("{label} with revision #{}", self.args.revision);
                print!("{}", describe::pod_template(template_of(record)));
            } else {
                self.printer.changed(self.resource, "", record)?;
            }
            return Ok(());
        }
        if !format.wants_table() {
            let items: Vec<&Value> = all.values().collect();
            let whole = json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items});
            print!("{}", document(&whole, format == Format::Yaml, false));
            return Ok(());
        }
        println!("{label} ");
        println!("REVISION  CHANGE-CAUSE");
        for (revision, record) in &all {
            let cause = record["metadata"]["annotations"][CHANGE_CAUSE]
                .as_str()
                .unwrap_or("<none>");
            println!("{revision:<10}{cause}");
        }
        println!();
        Ok(())
    }

    async fn undo(&self) -> Result<()> {
        if self.object["spec"]["paused"] == true {
            bail!(
                "you cannot rollback a paused deployment; resume it first with 'ctl rollout resume deployment/{}' and try again",
                name_of(self.object)
            );
        }
        let all = self.revisions().await?;
        let (revision, record) = match self.args.to_revision {
            0 => all.iter().rev().nth(1).ok_or_else(|| {
                anyhow!(
                    "no rollout history found for {} {:?}",
                    self.resource.kind.to_lowercase(),
                    name_of(self.object)
                )
            })?,
            revision => all
                .get_key_value(&revision)
                .ok_or_else(|| anyhow!("unable to find specified revision {revision} in history"))?,
        };
        let template = plain(template_of(record));
        if template == plain(&self.object["spec"]["template"]) {
            let what = format!("skipped rollback (current template already matches revision {revision})");
            return self.printer.changed(self.resource, &what, self.object);
        }
        let patch = json!([{"op": "replace", "path": "/spec/template", "value": template}]);
        self.patch(JSON, &patch, "rolled back").await
    }

    async fn restart(&self) -> Result<()> {
        let name = name_of(self.object);
        if !matches!(self.resource.kind.as_str(), "Deployment" | "DaemonSet" | "StatefulSet") {
            bail!("{} \"{name}\" restarting is not supported", self.resource.qualified());
        }
        if self.object["spec"]["paused"] == true {
            bail!(
                "{} \"{name}\" can't restart paused deployment (run rollout resume first)",
                self.resource.qualified()
            );
        }
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let patch = json!({"spec": {"template": {"metadata": {"annotations": {RESTARTED_AT: now}}}}});
        self.patch(STRATEGIC, &patch, "restarted").await
    }

    async fn pause(&self, pause: bool) -> Result<()> {
        let name = name_of(self.object);
        if self.resource.kind != "Deployment" {
            let what = if pause { "pausing" } else { "resuming" };
            bail!("{} \"{name}\" {what} is not supported", self.resource.qualified());
        }
        if (self.object["spec"]["paused"] == true) == pause {
            let what = if pause { "already paused" } else { "not paused" };
            bail!("{} \"{name}\" is {what}", self.resource.qualified());
        }
        let patch = json!({"spec": {"paused": if pause { json!(true) } else { Value::Null }}});
        self.patch(MERGE, &patch, if pause { "paused" } else { "resumed" })
            .await
    }

    async fn patch(&self, media_type: &str, patch: &Value, what: &str) -> Result<()> {
        let target = (self.resource, self.object);
        let after = self
            .args
            .change
            .patch(self.ctx, target, (media_type, patch), "ctl-rollout")
            .await?;
        self.printer.changed(self.resource, what, &after)
    }
}

/// The pod template that a revision recorded.
fn template_of(record: &Value) -> &Value {
    record
        .pointer("/data/spec/template")
        .unwrap_or(&record["spec"]["template"])
}

/// A template without what the controllers add to their records.
fn plain(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(fields) = template.as_object_mut() {
        fields.remove("$patch");
    }
    if let Some(metadata) = template["metadata"].as_object_mut() {
        metadata.remove("creationTimestamp");
        if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
            labels.remove(TEMPLATE_HASH);
        }
    }
    template
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_in_records() {
        let template = json!({"metadata": {"labels": {"app": "x"}}, "spec": {"a": 1}});
        let set = json!({"spec": {"template": {"metadata": {"creationTimestamp": null, "labels": {"app": "x", TEMPLATE_HASH: "h"}}, "spec": {"a": 1}}}});
        let revision = json!({"data": {"spec": {"template": {"$patch": "replace", "metadata": {"labels": {"app": "x"}}, "spec": {"a": 1}}}}});
        for record in [set, revision] {
            assert_eq!(plain(template_of(&record)), template);
        }
    }
}

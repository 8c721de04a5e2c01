//! `ctl wait`: until objects fulfil a condition.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use clap::Args;
use futures::{AsyncBufReadExt as _, StreamExt as _};
use serde_json::Value;
use tokio::time::Instant;

use crate::change::Change;
use crate::context::{Ctx, duration, status_of, with_query};
use crate::get::object_name;
use crate::pods::{list, text};
use crate::print::jsonpath::Template;
use crate::resources::{Resource, Resources};
use crate::targets::{Target, Which};

#[derive(Args)]
pub struct Wait {
    /// TYPE/NAME ..., or TYPE with --all or -l
    #[arg(value_name = "TYPE[/NAME]")]
    pub what: Vec<String>,
    /// delete, create, condition=NAME[=VALUE], or jsonpath='{PATH}'[=VALUE]
    #[arg(long = "for", required = true, value_name = "CONDITION")]
    pub condition: String,
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub timeout: Duration,
    #[arg(long)]
    pub all: bool,
    #[command(flatten)]
    pub which: Which,
    #[command(flatten)]
    pub change: Change,
}

/// What is waited for.
#[derive(Debug, PartialEq)]
pub enum Goal {
    Deleted,
    Created,
    Condition { name: String, value: String },
    Path { template: Template, value: Option<String> },
}

/// Runs the command.
///
/// # Errors
/// When time runs out, or the server's answer.
pub async fn run(ctx: &Ctx, args: &Wait) -> Result<ExitCode> {
    let goal = parse(&args.condition)?;
    let resources = Resources::discover(ctx).await?;
    let printer = args.change.printer()?;
    let deadline = Instant::now() + args.timeout;
    let mut failed = false;
    let mut waited = 0;
    for target in args.which.targets(ctx, &resources, &args.what)? {
        let named: Vec<(String, String)> = match &target.name {
            Some(name) => vec![(target.namespace.clone().unwrap_or_default(), name.clone())],
            None => listed(ctx, args, &target).await?,
        };
        for (namespace, name) in named {
            waited += 1;
            let label = format!("{}/{name}", target.resource.object_prefix());
            let reached = reach(ctx, target.resource, &namespace, &name, &goal);
            match tokio::time::timeout_at(deadline, reached).await {
                // It was gone before: as with kubectl, nothing to say.
                Ok(Ok(Value::Null)) => {}
                Ok(Ok(object)) => printer.done(&label, "condition met", &object)?,
                Ok(Err(error)) => {
                    eprintln!("{}", crate::context::error_text(&error));
                    failed = true;
                }
                Err(_) => {
                    eprintln!(
                        "error: timed out waiting for the condition on {}/{name}",
                        target.resource.plural
                    );
                    failed = true;
                }
            }
        }
    }
    if waited == 0 {
        bail!("no matching resources found");
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn listed(ctx: &Ctx, args: &Wait, target: &Target<'_>) -> Result<Vec<(String, String)>> {
    if !args.all && args.which.selector.is_none() && args.which.field_selector.is_none() {
        bail!("resource(s) were provided, but no name was specified");
    }
    let found = args.which.list(ctx, target).await?;
    let word = |object: &Value, pointer: &str| text(object, pointer).to_owned();
    Ok(found
        .iter()
        .map(|object| (word(object, "/metadata/namespace"), word(object, "/metadata/name")))
        .collect())
}

/// The goal that an object's status has this many replicas.
///
/// # Errors
/// Never for a number.
pub fn replicas(wanted: i32) -> Result<Goal> {
    parse(&format!("jsonpath={{.status.replicas}}={wanted}"))
}

/// Waits for one object, by a watch, and gives the state that met the goal.
///
/// # Errors
/// The server's answer, or that the object went away.
pub async fn reach(ctx: &Ctx, resource: &Resource, namespace: &str, name: &str, goal: &Goal) -> Result<Value> {
    let (uid, version) = match ctx.get(&resource.object(namespace, name)).await {
        Err(error) if status_of(&error) == Some(404) => match goal {
            Goal::Deleted => return Ok(Value::Null),
            Goal::Created => (String::new(), None),
            _ => return Err(error),
        },
        Err(error) => return Err(error),
        Ok(object) => {
            if met(goal, &object) {
                return Ok(object);
            }
            let text = |pointer| text(&object, pointer).to_owned();
            (text("/metadata/uid"), Some(text("/metadata/resourceVersion")))
        }
    };
    let selector = format!("metadata.name={name}");
    let path = resource.path(Some(namespace));
    let pairs = [
        ("watch", Some("true")),
        ("fieldSelector", Some(selector.as_str())),
        ("resourceVersion", version.as_deref()),
    ];
    let mut lines = ctx.stream(&with_query(&path, &pairs), false).await?.lines();
    while let Some(line) = lines.next().await {
        let event: Value = serde_json::from_str(&line?)?;
        let deleted = event["type"] == "DELETED" && text(&event, "/object/metadata/uid") == uid;
        match (goal, deleted) {
            (Goal::Deleted, true) => return Ok(event["object"].clone()),
            (Goal::Deleted, false) => {}
            (_, true) => bail!("{} was deleted", object_name(&event["object"])),
            (goal, false) if met(goal, &event["object"]) => return Ok(event["object"].clone()),
            _ => {}
        }
    }
    Err(anyhow!("the server closed the watch"))
}

fn parse(text: &str) -> Result<Goal> {
    let lower = text.to_lowercase();
    if lower == "delete" {
        return Ok(Goal::Deleted);
    }
    if lower == "create" {
        return Ok(Goal::Created);
    }
    if let Some(rest) = text.strip_prefix("condition=") {
        let (name, value) = rest.split_once('=').unwrap_or((rest, "true"));
        return Ok(Goal::Condition {
            name: name.to_owned(),
            value: value.to_owned(),
        });
    }
    if let Some(rest) = text.strip_prefix("jsonpath=") {
        // The value follows the closing brace; braces and equal signs inside belong to the path.
        let end = rest.rfind('}').map_or(rest.len(), |end| end + 1);
        let (path, value) = rest.split_at(end);
        let path = path.trim_matches('\'').to_owned();
        let path = if path.starts_with('{') {
            path
        } else {
            format!("{{{path}}}")
        };
        let value = value
            .trim_start_matches('\'')
            .strip_prefix('=')
            .map(|value| value.trim_matches(['"', '\'']).to_owned());
        return Ok(Goal::Path {
            template: Template::parse(&path)?,
            value,
        });
    }
    bail!("unrecognized condition: \"{text}\"")
}

fn met(goal: &Goal, object: &Value) -> bool {
    match goal {
        Goal::Deleted => false,
        Goal::Created => true,
        Goal::Condition { name, value } => {
            let (observed, generation) = (
                object.pointer("/status/observedGeneration"),
                object.pointer("/metadata/generation"),
            );
            let stale = matches!((observed.and_then(Value::as_i64), generation.and_then(Value::as_i64)), (Some(seen), Some(now)) if seen < now);
            let same = |left: &str, right: &str| left.eq_ignore_ascii_case(right);
            !stale
                && list(object, "/status/conditions")
                    .iter()
                    .any(|c| same(text(c, "/type"), name) && same(text(c, "/status"), value))
        }
        Goal::Path { template, value } => {
            let found = template.values(object);
            match value {
                None => !found.is_empty(),
                Some(value) => found
                    .iter()
                    .any(|found| found.as_str().map_or_else(|| found.to_string(), str::to_owned) == *value),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn goals() {
        let object = json!({"metadata": {"generation": 2}, "status": {"phase": "Running", "n": 3, "observedGeneration": 2,
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "Bad", "status": "False"}]}});
        let cases = [
            ("condition=Ready", true),
            ("condition=ready=True", true),
            ("condition=Bad", false),
            ("condition=Bad=False", true),
            ("jsonpath={.status.phase}=Running", true),
            ("jsonpath='{.status.phase}'=Pending", false),
            ("jsonpath={.status.n}=3", true),
            ("jsonpath={.status.none}", false),
            ("create", true),
            ("delete", false),
        ];
        for (text, expected) in cases {
            assert_eq!(met(&parse(text).expect("a goal"), &object), expected, "{text}");
        }
        assert!(parse("nonsense").is_err());
    }
}

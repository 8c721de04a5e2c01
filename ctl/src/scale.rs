//! `ctl scale` and `ctl autoscale`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::change::{Change, MERGE, path_of};
use crate::context::{Ctx, duration};
use crate::resources::{Resource, Resources};
use crate::targets::Which;

#[derive(Args)]
pub struct Scale {
    /// TYPE NAME or TYPE/NAME
    #[arg(value_name = "TYPE[/NAME]")]
    pub what: Vec<String>,
    #[arg(long, allow_negative_numbers = true)]
    pub replicas: i32,
    /// Change only if this is the present number; -1 is any
    #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
    pub current_replicas: i32,
    /// Change only if the object is still of this version
    #[arg(long)]
    pub resource_version: Option<String>,
    /// Wait this long until the number is reached; 0 does not wait
    #[arg(long, default_value = "0", value_parser = duration)]
    pub timeout: Duration,
    #[arg(long)]
    pub all: bool,
    #[command(flatten)]
    pub which: Which,
    #[command(flatten)]
    pub change: Change,
}

/// Runs `scale`.
///
/// # Errors
/// The server's answer, or what is wrong with the arguments.
pub async fn scale(ctx: &Ctx, args: &Scale) -> Result<ExitCode> {
    if args.replicas < 0 {
        bail!("The --replicas=COUNT flag is required, and COUNT must be greater than or equal to 0");
    }
    let resources = Resources::discover(ctx).await?;
    let printer = args.change.printer()?;
    let found = args.which.objects(ctx, &resources, &args.what, args.all).await?;
    for (resource, object) in &found.objects {
        let path = format!("{}/scale", path_of(resource, object));
        let mut body = json!({"spec": {"replicas": args.replicas}});
        if args.current_replicas >= 0 || args.resource_version.is_some() {
            let now = ctx.get(&path).await?;
            precondition(&now, args)?;
            body["metadata"] = json!({"resourceVersion": now["metadata"]["resourceVersion"]});
        }
        if !args.change.client_only() {
            ctx.patch(&args.change.query(&path, "ctl-scale"), MERGE, &body).await?;
            if !args.timeout.is_zero() {
                reached(ctx, args, resource, object).await?;
            }
        }
        printer.changed(resource, "scaled", object)?;
    }
    Ok(if found.failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn precondition(now: &Value, args: &Scale) -> Result<()> {
    let replicas = now["spec"]["replicas"].as_i64().unwrap_or(0);
    if args.current_replicas >= 0 && replicas != i64::from(args.current_replicas) {
        bail!("Expected replicas to be {}, was {replicas}", args.current_replicas);
    }
    let version = now["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    if let Some(expected) = args.resource_version.as_deref().filter(|expected| *expected != version) {
        bail!("Expected resource version to be {expected}, was {version}");
    }
    Ok(())
}

/// Waits until the object's status has the number.
async fn reached(ctx: &Ctx, args: &Scale, resource: &Resource, object: &Value) -> Result<()> {
    let goal = crate::wait::replicas(args.replicas)?;
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
    let waiting = crate::wait::reach(ctx, resource, namespace, name, &goal);
    match tokio::time::timeout(args.timeout, waiting).await {
        Ok(outcome) => outcome.map(|_| ()),
        Err(_) => bail!("timed out waiting for {:?} to be synced", name),
    }
}

#[derive(Args)]
pub struct Autoscale {
    /// TYPE NAME or TYPE/NAME
    #[arg(value_name = "TYPE[/NAME]")]
    pub what: Vec<String>,
    #[arg(long, allow_negative_numbers = true)]
    pub max: i32,
    #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
    pub min: i32,
    /// Target CPU use, in percent of what the pods request
    #[arg(long, alias = "cpu")]
    pub cpu_percent: Option<String>,
    /// Target memory use, in percent of what the pods request
    #[arg(long)]
    pub memory: Option<String>,
    /// Name of the autoscaler [default: the name of what it scales]
    #[arg(long)]
    pub name: Option<String>,
    #[command(flatten)]
    pub which: Which,
    #[command(flatten)]
    pub change: Change,
}

/// One metric: `80%` is a share of the request, `500m` an amount per pod.
fn metric(resource: &str, word: &str) -> Result<Value> {
    let target = if let Ok(percent) = word.trim_end_matches('%').parse::<i32>() {
        json!({"type": "Utilization", "averageUtilization": percent})
    } else if coxswain_api::quantity::Quantity::parse(word).is_ok() {
        json!({"type": "AverageValue", "averageValue": word})
    } else {
        bail!("invalid {resource} target {word:?}: it is a percentage such as 80% or an amount such as 500m");
    };
    Ok(json!({"type": "Resource", "resource": {"name": resource, "target": target}}))
}

/// Runs `autoscale`: creates a HorizontalPodAutoscaler.
///
/// # Errors
/// The server's answer, or what is wrong with the arguments.
pub async fn autoscale(ctx: &Ctx, args: &Autoscale) -> Result<ExitCode> {
    if args.max < 1 {
        bail!("--max=MAXPODS is required and must be at least 1, max: {}", args.max);
    }
    if args.max < args.min {
        bail!(
            "--max=MAXPODS must be larger or equal to --min=MINPODS, max: {}, min: {}",
            args.max,
            args.min
        );
    }
    let resources = Resources::discover(ctx).await?;
    let hpa = resources.find("horizontalpodautoscalers.v2.autoscaling")?;
    let printer = args.change.printer()?;
    let found = args.which.objects(ctx, &resources, &args.what, false).await?;
    for (resource, object) in &found.objects {
        if !resource.subresources.iter().any(|sub| sub == "scale") {
            bail!("cannot autoscale a {}: it has no scale", resource.kind);
        }
        let target = object["metadata"]["name"].as_str().unwrap_or_default();
        let name = args.name.as_deref().unwrap_or(target);
        let mut spec = json!({
            "maxReplicas": args.max,
            "scaleTargetRef": {"apiVersion": resource.api_version(), "kind": resource.kind, "name": target}});
        if args.min > 0 {
            spec["minReplicas"] = json!(args.min);
        }
        let mut metrics = Vec::new();
        for (resource, word) in [("cpu", &args.cpu_percent), ("memory", &args.memory)] {
            if let Some(word) = word.as_deref().filter(|word| *word != "-1") {
                metrics.push(metric(resource, word)?);
            }
        }
        if !metrics.is_empty() {
            spec["metrics"] = Value::Array(metrics);
        }
        let body = json!({"apiVersion": hpa.api_version(), "kind": hpa.kind, "metadata": {"name": name}, "spec": spec});
        let made = crate::create::made_or_planned(ctx, hpa, body, &args.change, "ctl-autoscale").await?;
        printer.changed(hpa, "autoscaled", &made)?;
    }
    Ok(if found.failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_from_words() {
        let cases = [
            ("50", json!({"type": "Utilization", "averageUtilization": 50})),
            ("50%", json!({"type": "Utilization", "averageUtilization": 50})),
            ("500m", json!({"type": "AverageValue", "averageValue": "500m"})),
        ];
        for (word, expected) in cases {
            assert_eq!(
                metric("cpu", word).expect("a metric")["resource"]["target"],
                expected,
                "{word}"
            );
        }
        assert!(metric("cpu", "much").is_err());
    }
}

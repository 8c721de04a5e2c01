//! `ctl scale` and `ctl autoscale`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use http::Method;
use serde_json::json;

use crate::context::Ctx;
use crate::edit::{MERGE, change_query, path_of, print_change, reach};
use crate::resources::Resources;

#[derive(Args)]
pub struct Scale {
    /// TYPE NAME or TYPE/NAME
    #[arg(required = true, value_name = "TYPE[/NAME]")]
    pub what: Vec<String>,
    #[arg(long)]
    pub replicas: i32,
    /// Change only if this is the present number
    #[arg(long)]
    pub current_replicas: Option<i32>,
    #[arg(long, short = 'l')]
    pub selector: Option<String>,
    #[arg(long)]
    pub all: bool,
    #[arg(long, num_args = 0..=1, default_missing_value = "client", require_equals = true)]
    pub dry_run: Option<String>,
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
    for (resource, object) in reach(ctx, &resources, &args.what, args.selector.as_deref(), args.all, false).await? {
        if !resource.subresources.iter().any(|s| s == "scale") {
            bail!("{} cannot be scaled", resource.qualified());
        }
        let path = format!("{}/scale", path_of(resource, &object));
        let mut body = json!({"spec": {"replicas": args.replicas}});
        if let Some(expected) = args.current_replicas {
            let now = ctx.get(&path).await?;
            if now["spec"]["replicas"].as_i64().unwrap_or(0) != i64::from(expected) {
                bail!("Expected replicas to be {expected}, was {}", now["spec"]["replicas"]);
            }
            body["metadata"] = json!({"resourceVersion": now["metadata"]["resourceVersion"]});
        }
        if args.dry_run.as_deref() != Some("client") {
            ctx.patch(&change_query(&path, "ctl-scale", args.dry_run.as_deref()), MERGE, &body)
                .await?;
        }
        print_change(
            resource,
            object["metadata"]["name"].as_str().unwrap_or_default(),
            "scaled",
            &object,
            None,
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Args)]
pub struct Autoscale {
    /// TYPE NAME or TYPE/NAME
    #[arg(required = true, value_name = "TYPE[/NAME]")]
    pub what: Vec<String>,
    #[arg(long)]
    pub max: i32,
    #[arg(long)]
    pub min: Option<i32>,
    /// Target CPU use, in percent of what the pods request
    #[arg(long, alias = "cpu")]
    pub cpu_percent: Option<String>,
    /// Name of the autoscaler [default: the name of what it scales]
    #[arg(long)]
    pub name: Option<String>,
}

/// Runs `autoscale`: creates a HorizontalPodAutoscaler.
///
/// # Errors
/// The server's answer, or what is wrong with the arguments.
pub async fn autoscale(ctx: &Ctx, args: &Autoscale) -> Result<ExitCode> {
    if args.max < 1 {
        bail!("--max=MAXPODS is required and must be at least 1, max: {}", args.max);
    }
    let resources = Resources::discover(ctx).await?;
    let hpa = resources.find("horizontalpodautoscalers.v2.autoscaling")?;
    for (resource, object) in reach(ctx, &resources, &args.what, None, false, false).await? {
        let target = object["metadata"]["name"].as_str().unwrap_or_default();
        let name = args.name.as_deref().unwrap_or(target);
        let mut spec = json!({
            "maxReplicas": args.max,
            "scaleTargetRef": {"apiVersion": resource.api_version(), "kind": resource.kind, "name": target}});
        if let Some(min) = args.min {
            spec["minReplicas"] = json!(min);
        }
        if let Some(percent) = &args.cpu_percent {
            let Ok(percent) = percent.trim_end_matches('%').parse::<i32>() else {
                bail!("--cpu-percent must be a number, not {percent:?}")
            };
            let target = json!({"type": "Utilization", "averageUtilization": percent});
            spec["metrics"] = json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]);
        }
        let body = json!({"apiVersion": hpa.api_version(), "kind": hpa.kind, "metadata": {"name": name}, "spec": spec});
        let path = change_query(&hpa.collection(Some(&ctx.namespace)), "ctl-autoscale", None);
        let made = ctx.call(Method::POST, &path, &[], Some(&body)).await?;
        print_change(hpa, name, "autoscaled", &made, None)?;
    }
    Ok(ExitCode::SUCCESS)
}

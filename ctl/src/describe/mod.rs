//! `ctl describe`: everything about an object on one page, with its events.

mod cluster;
mod parts;
mod pod;
#[cfg(test)]
mod tests;
mod workload;
mod writer;

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use jiff::Timestamp;
use serde_json::Value;

use crate::context::{Ctx, encode, status_of, with_query};
use crate::pods::{list, selector_text, text};
use crate::resources::{Resource, Resources};
use writer::Writer;

/// Events asked for of one object.
const EVENTS_MAX: &str = "500";

#[derive(Args)]
pub struct Describe {
    /// TYPE [NAME or beginning of a name ...] or TYPE/NAME ...
    #[arg(value_name = "TYPE[/NAME]")]
    pub what: Vec<String>,
    /// Files that name the objects
    #[arg(long, short = 'f', value_name = "FILE")]
    pub filename: Vec<String>,
    #[arg(long, short = 'A')]
    pub all_namespaces: bool,
    #[arg(long, short = 'l')]
    pub selector: Option<String>,
    /// Leave the events out with --show-events=false
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub show_events: bool,
}

/// What a page needs beyond the object itself.
#[derive(Default)]
pub struct Around {
    /// ReplicaSets of a Deployment, pods of a workload or node, slices of a Service, quotas of a Namespace.
    pub related: Vec<Value>,
    /// Limit ranges of a Namespace, the Lease of a Node.
    pub more: Vec<Value>,
    /// `None` leaves them out.
    pub events: Option<Vec<Value>>,
}

/// Runs the command.
///
/// # Errors
/// The server's answer.
pub async fn run(ctx: &Ctx, args: &Describe) -> Result<ExitCode> {
    let resources = Resources::discover(ctx).await?;
    let words = if args.filename.is_empty() {
        args.what.clone()
    } else {
        crate::cli::names_in_files(&resources, &args.filename)?
    };
    let mut pages = Vec::new();
    for (resource, names) in resources.select(&words)? {
        for object in objects(ctx, args, resource, &names).await? {
            let around = around(ctx, args, &object).await?;
            pages.push(page(&object, &around, Timestamp::now()));
        }
    }
    if pages.is_empty() {
        eprintln!("No resources found in {} namespace.", ctx.namespace);
        return Ok(ExitCode::SUCCESS);
    }
    print!("{}", pages.join("\n\n"));
    Ok(ExitCode::SUCCESS)
}

async fn objects(ctx: &Ctx, args: &Describe, resource: &Resource, names: &[String]) -> Result<Vec<Value>> {
    let mut out = Vec::new();
    let listed = async |selector: Option<&str>| -> Result<Vec<Value>> {
        let namespace = (!args.all_namespaces).then_some(ctx.namespace.as_str());
        let path = with_query(&resource.collection(namespace), &[("labelSelector", selector)]);
        let mut items = items(ctx, &path).await?;
        for item in &mut items {
            item["apiVersion"] = resource.api_version().into();
            item["kind"] = resource.kind.clone().into();
        }
        Ok(items)
    };
    if names.is_empty() {
        return listed(args.selector.as_deref()).await;
    }
    for name in names {
        match ctx.get(&resource.object(&ctx.namespace, name)).await {
            Ok(object) => out.push(object),
            // As kubectl: what is no name may be the beginning of some.
            Err(error) if status_of(&error) == Some(404) => {
                let begun: Vec<Value> = listed(None)
                    .await?
                    .into_iter()
                    .filter(|object| text(object, "/metadata/name").starts_with(name.as_str()))
                    .collect();
                if begun.is_empty() {
                    return Err(error);
                }
                out.extend(begun);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(out)
}

async fn items(ctx: &Ctx, path: &str) -> Result<Vec<Value>> {
    Ok(ctx.get(path).await?["items"]
        .as_array_mut()
        .map(std::mem::take)
        .unwrap_or_default())
}

async fn around(ctx: &Ctx, args: &Describe, object: &Value) -> Result<Around> {
    let (namespace, name, uid) = (
        text(object, "/metadata/namespace"),
        text(object, "/metadata/name"),
        text(object, "/metadata/uid"),
    );
    let core = format!("/api/v1/namespaces/{namespace}");
    let owned = |mut found: Vec<Value>| {
        found.retain(|other| {
            list(other, "/metadata/ownerReferences")
                .iter()
                .any(|owner| owner["uid"] == uid)
        });
        found
    };
    let selected = |path: &str| {
        with_query(
            path,
            &[("labelSelector", Some(&selector_text(&object["spec"]["selector"])))],
        )
    };
    let mut around = Around::default();
    match text(object, "/kind") {
        "Deployment" => {
            let sets = items(
                ctx,
                &selected(&format!("/apis/apps/v1/namespaces/{namespace}/replicasets")),
            )
            .await?;
            around.related = owned(sets);
        }
        "ReplicaSet" | "ReplicationController" | "StatefulSet" | "DaemonSet" => {
            around.related = owned(items(ctx, &selected(&format!("{core}/pods"))).await?);
        }
        "Service" => {
            let path = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices");
            around.related = items(
                ctx,
                &with_query(
                    &path,
                    &[("labelSelector", Some(&format!("kubernetes.io/service-name={name}")))],
                ),
            )
            .await?;
        }
        "Node" => {
            around.related = items(
                ctx,
                &with_query(
                    "/api/v1/pods",
                    &[("fieldSelector", Some(&format!("spec.nodeName={name}")))],
                ),
            )
            .await?;
            let lease = format!(
                "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{}",
                encode(name)
            );
            around.more.extend(ctx.get(&lease).await.ok());
        }
        "Namespace" => {
            // A server without these kinds has nothing to show for them.
            around.related = items(ctx, &format!("/api/v1/namespaces/{name}/resourcequotas"))
                .await
                .unwrap_or_default();
            around.more = items(ctx, &format!("/api/v1/namespaces/{name}/limitranges"))
                .await
                .unwrap_or_default();
        }
        _ => {}
    }
    if args.show_events {
        let about = if text(object, "/kind") == "Node" { name } else { uid };
        let selector = format!("involvedObject.name={name},involvedObject.uid={about}");
        let scope = if namespace.is_empty() {
            "/api/v1/events".to_owned()
        } else {
            format!("{core}/events")
        };
        let pairs = [("fieldSelector", Some(selector.as_str())), ("limit", Some(EVENTS_MAX))];
        around.events = Some(items(ctx, &with_query(&scope, &pairs)).await?);
    }
    Ok(around)
}

/// The page about one object.
#[must_use]
pub fn page(object: &Value, around: &Around, now: Timestamp) -> String {
    let mut out = Writer::default();
    let related = &around.related;
    match (text(object, "/apiVersion"), text(object, "/kind")) {
        ("v1", "Pod") => pod::pod(&mut out, object),
        ("apps/v1", "Deployment") => workload::deployment(&mut out, object, related),
        ("apps/v1", "ReplicaSet") | ("v1", "ReplicationController") => workload::replica_set(&mut out, object, related),
        ("apps/v1", "StatefulSet") => workload::stateful_set(&mut out, object, related),
        ("apps/v1", "DaemonSet") => workload::daemon_set(&mut out, object, related),
        ("batch/v1", "Job") => workload::job(&mut out, object),
        ("v1", "Service") => cluster::service(&mut out, object, related),
        ("v1", "Node") => cluster::node(&mut out, object, related, around.more.first()),
        ("v1", "Namespace") => cluster::namespace(&mut out, object, related, &around.more),
        ("v1", "ConfigMap") => cluster::config_map(&mut out, object),
        ("v1", "Secret") => cluster::secret(&mut out, object),
        _ => cluster::generic(&mut out, object),
    }
    let silent = matches!(text(object, "/kind"), "Secret" | "Namespace");
    if let Some(events) = around.events.as_ref().filter(|events| !silent || !events.is_empty()) {
        parts::events(&mut out, events, now);
    }
    out.finish()
}

//! `ctl describe`: everything about an object on one page, with its events.

pub mod access;
mod cluster;
mod network;
mod parts;
mod pod;
mod policy;
mod storage;
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
use crate::resources::Resources;
use crate::targets::{Target, Which};
use writer::Writer;

pub use parts::{last_seen, last_time, since};

/// Events asked for of one object.
const EVENTS_MAX: &str = "500";

#[derive(Args)]
pub struct Describe {
    /// TYPE [NAME or beginning of a name ...] or TYPE/NAME ...
    #[arg(value_name = "TYPE[/NAME]")]
    pub what: Vec<String>,
    #[command(flatten)]
    pub which: Which,
    /// Leave the events out with --show-events=false
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub show_events: bool,
    /// Objects per request of a long list
    #[arg(long, default_value_t = 500)]
    pub chunk_size: u32,
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
    let mut pages = String::new();
    let mut failed = false;
    let targets = args.which.targets(ctx, &resources, &args.what)?;
    for target in &targets {
        match objects(ctx, args, target).await {
            Ok((objects, begun)) => {
                for object in objects {
                    let around = around(ctx, args, &object).await?;
                    let page = page(&object, &around, Timestamp::now());
                    // As kubectl: pages found by the beginning of a name are less far apart.
                    if begun {
                        pages.push_str(&format!("{page}\n"));
                    } else {
                        pages.push_str(if pages.is_empty() { "" } else { "\n\n" });
                        pages.push_str(&page);
                    }
                }
            }
            Err(error) if targets.len() == 1 => return Err(error),
            Err(error) => {
                eprintln!("{}", crate::context::error_text(&error));
                failed = true;
            }
        }
    }
    if pages.is_empty() && !failed {
        if targets.iter().all(|target| target.resource.namespaced) && !args.which.all_namespaces {
            eprintln!("No resources found in {} namespace.", ctx.namespace);
        } else {
            eprintln!("No resources found");
        }
    }
    print!("{pages}");
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The objects of a target, and whether they were found by the beginning of their names.
async fn objects(ctx: &Ctx, args: &Describe, target: &Target<'_>) -> Result<(Vec<Value>, bool)> {
    let Some(name) = &target.name else {
        return Ok((args.which.list(ctx, target).await?, false));
    };
    match ctx.get(&target.path()).await {
        Ok(object) => Ok((vec![object], false)),
        // As kubectl: what is no name may be the beginning of some.
        Err(error) if status_of(&error) == Some(404) => {
            let all = Target {
                name: None,
                ..target.clone()
            };
            let mut begun = args.which.list(ctx, &all).await?;
            begun.retain(|object| text(object, "/metadata/name").starts_with(name.as_str()));
            if begun.is_empty() {
                Err(error)
            } else {
                Ok((begun, true))
            }
        }
        Err(error) => Err(error),
    }
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
        "Ingress" => {
            let slices = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices");
            around.related = items(ctx, &slices).await?;
            around.more = items(ctx, &format!("{core}/services")).await?;
        }
        "PersistentVolumeClaim" => around.related = items(ctx, &format!("{core}/pods")).await?,
        "ServiceAccount" => {
            let tokens = [("fieldSelector", Some("type=kubernetes.io/service-account-token"))];
            // Who may not read secrets still sees the rest.
            around.related = items(ctx, &with_query(&format!("{core}/secrets"), &tokens))
                .await
                .unwrap_or_default();
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

/// A pod template as describe shows it.
#[must_use]
pub fn pod_template(template: &Value) -> String {
    let mut out = Writer::default();
    pod::template(&mut out, template);
    out.finish()
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
        ("batch/v1", "CronJob") => workload::cron_job(&mut out, object),
        ("v1", "Service") => network::service(&mut out, object, related),
        ("v1", "Endpoints") => network::endpoints_object(&mut out, object),
        ("discovery.k8s.io/v1", "EndpointSlice") => network::endpoint_slice(&mut out, object),
        ("networking.k8s.io/v1", "Ingress") => network::ingress(&mut out, object, related, &around.more),
        ("networking.k8s.io/v1", "IngressClass") => network::ingress_class(&mut out, object),
        ("networking.k8s.io/v1", "NetworkPolicy") => network::network_policy(&mut out, object),
        ("v1", "PersistentVolume") => storage::volume(&mut out, object, now),
        ("v1", "PersistentVolumeClaim") => storage::claim(&mut out, object, related, now),
        ("storage.k8s.io/v1", "StorageClass") => storage::class(&mut out, object),
        ("v1", "ResourceQuota") => policy::quota(&mut out, object),
        ("v1", "LimitRange") => policy::limit_range(&mut out, object),
        ("policy/v1", "PodDisruptionBudget") => policy::disruption_budget(&mut out, object),
        ("scheduling.k8s.io/v1", "PriorityClass") => policy::priority_class(&mut out, object),
        ("autoscaling/v2", "HorizontalPodAutoscaler") => policy::autoscaler(&mut out, object),
        ("rbac.authorization.k8s.io/v1", "Role" | "ClusterRole") => access::role(&mut out, object),
        ("rbac.authorization.k8s.io/v1", "RoleBinding" | "ClusterRoleBinding") => access::binding(&mut out, object),
        ("v1", "ServiceAccount") => access::service_account(&mut out, object, related),
        ("v1", "Node") => cluster::node(&mut out, object, related, around.more.first()),
        ("v1", "Namespace") => cluster::namespace(&mut out, object, related, &around.more),
        ("v1", "ConfigMap") => cluster::config_map(&mut out, object),
        ("v1", "Secret") => cluster::secret(&mut out, object),
        _ => cluster::generic(&mut out, object),
    }
    // Pages that tell no events, as a rule or at all.
    let kind = text(object, "/kind");
    let never = matches!(
        kind,
        "Role"
            | "ClusterRole"
            | "RoleBinding"
            | "ClusterRoleBinding"
            | "NetworkPolicy"
            | "ResourceQuota"
            | "LimitRange"
    );
    if never {
        return out.finish();
    }
    let silent = matches!(kind, "Secret" | "Namespace");
    if let Some(events) = around.events.as_ref().filter(|events| !silent || !events.is_empty()) {
        parts::events(&mut out, events, now);
    }
    out.finish()
}

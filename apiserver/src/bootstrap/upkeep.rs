//! Brings back what a cluster cannot be without, a moment after somebody deleted it.
//!
//! Watches the resources of the start objects. Creates what is missing; puts right what Kubernetes puts right while it
//! runs: the type and ports of the `kubernetes` Service, flow control that follows the server's version, and what
//! extension servers are to trust. What people changed of roles, bindings and APIServices stays until the next start.
//!
//! Does not: keep Leases ([`super::identity`]) and endpoints ([`super::endpoints`]).

use std::sync::Arc;
use std::time::Duration;

use coxswain_api::kinds::access;
use coxswain_store::Snapshot;
use http::Method;
use serde_json::Value;

use super::{FLOW, SERVICE, authentication, create_missing, flowcontrol, is_refused, objects, place, refused, send};
use crate::StartError;
use crate::shared::Shared;

/// How long changes are collected before the next look.
const SETTLE: Duration = Duration::from_millis(500);
/// Until the next look when something could not be written.
const AGAIN_AFTER: Duration = Duration::from_secs(3);

/// A start object and where it is stored.
struct Wanted {
    path: String,
    resource: String,
    namespace: String,
    object: Value,
}

/// Runs until the server stops.
pub(super) async fn run(shared: Arc<Shared>) {
    let wanted: Vec<Wanted> = objects(&shared)
        .into_iter()
        .map(|(path, object)| {
            let (resource, namespace) = place(&path);
            Wanted {
                path,
                resource,
                namespace,
                object,
            }
        })
        .collect();
    let mut watched: Vec<&str> = wanted.iter().map(|wanted| &*wanted.resource).collect();
    watched.push(authentication::RESOURCE);
    watched.sort_unstable();
    watched.dedup();
    loop {
        let snapshot = shared.store.snapshot();
        let next = async {
            match look(&shared, &wanted, &snapshot).await {
                Ok(()) => {
                    if !shared.changed(snapshot.revision(), &watched).await {
                        // The store has stopped, and its own check says so.
                        std::future::pending::<()>().await;
                    }
                    tokio::time::sleep(SETTLE).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "a system object is not as it should be");
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
            }
        };
        if shared.stopping.run_until_cancelled(next).await.is_none() {
            return;
        }
    }
}

/// Brings back and puts right. One object that is refused does not keep the others from it.
async fn look(shared: &Arc<Shared>, all: &[Wanted], snapshot: &Snapshot) -> Result<(), StartError> {
    let mut result = Ok(());
    for wanted in all {
        let name = access::name(&wanted.object);
        let done = match snapshot.find(&wanted.resource, &wanted.namespace, name) {
            None => create_missing(shared, &wanted.path, &wanted.object).await,
            Some(live) => repair(shared, wanted, &live.value()).await,
        };
        if result.is_ok() {
            result = done;
        }
    }
    let published = authentication::keep(shared, snapshot).await;
    result.and(published)
}

async fn repair(shared: &Arc<Shared>, wanted: &Wanted, live: &Value) -> Result<(), StartError> {
    let reconciled = match &*wanted.path {
        path if path.starts_with(FLOW) => flowcontrol::reconciled,
        SERVICE => service,
        _ => return Ok(()),
    };
    let Some(repaired) = reconciled(live, &wanted.object).filter(|_| !is_terminating(live)) else {
        return Ok(());
    };
    let name = access::name(&wanted.object);
    let path = format!("{}/{name}", wanted.path);
    let reply = send(shared, Method::PUT, &path, &repaired).await;
    match is_refused(&reply) {
        false => Ok(()),
        true => Err(refused(&wanted.path, name, reply).await),
    }
}

fn is_terminating(live: &Value) -> bool {
    access::has(access::get(live, "metadata"), "deletionTimestamp")
}

/// The `kubernetes` Service with its own type and ports again, when it has others.
fn service(live: &Value, wanted: &Value) -> Option<Value> {
    let port = |port: &Value| ["name", "protocol", "port", "targetPort"].map(|field| access::get(port, field).clone());
    let ports =
        |service: &Value| -> Vec<[Value; 4]> { access::list_at(service, "/spec/ports").iter().map(port).collect() };
    let kind = "/spec/type";
    if ports(live) == ports(wanted) && access::text(live, kind) == access::text(wanted, kind) {
        return None;
    }
    let mut repaired = live.clone();
    let spec = access::child(&mut repaired, "spec");
    for field in ["ports", "type"] {
        access::set(spec, field, access::get(access::get(wanted, "spec"), field).clone());
    }
    Some(repaired)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_service_keeps_its_type_and_ports() {
        let ports = |port: u16, node_port: u16| json!([{"name": "https", "protocol": "TCP", "port": 443, "targetPort": port, "nodePort": node_port}]);
        let with = |kind: &str, ports: Value| json!({"metadata": {"labels": {"mine": "stays"}}, "spec": {"type": kind, "ports": ports}});
        let wanted = with("ClusterIP", ports(6443, 0));
        for (live, repaired) in [
            (with("ClusterIP", ports(6443, 0)), false),
            (with("ClusterIP", ports(6443, 30_001)), false),
            (with("NodePort", ports(6443, 30_001)), true),
            (with("ClusterIP", ports(80, 0)), true),
            (with("ClusterIP", json!([])), true),
        ] {
            let found = service(&live, &wanted);
            assert_eq!(found.is_some(), repaired, "{live}");
            if let Some(found) = found {
                assert_eq!(
                    (&found["spec"], &found["metadata"]),
                    (&wanted["spec"], &live["metadata"])
                );
            }
        }
    }
}

//! APIServices: one for each built-in group version, made or put right at every start and left to people until the next;
//! and the `Available` condition of all of them.
//!
//! Watches APIServices and, while one of them names a Service, Services and EndpointSlices; writes their status. Knows of
//! a named Service only what is stored: that it is missing or has nobody behind its port.
//!
//! Does not: send requests to the named Services, so it never says that one of them is available.

use std::sync::Arc;

use coxswain_api::kinds::access;
use coxswain_api::registry::Registry;
use coxswain_store::Snapshot;
use http::Method;
use serde_json::{Value, json};

use super::send;
use crate::answer::now_text;
use crate::shared::Shared;

pub(super) const PATH: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const APISERVICES: &str = "apiservices.apiregistration.k8s.io";
const SERVICES: &str = "services";
const SLICES: &str = "endpointslices.discovery.k8s.io";

/// The label that says who keeps an APIService.
const MANAGED: &str = "/metadata/labels/kube-aggregator.kubernetes.io~1automanaged";

/// A group, its priority, and its versions with theirs.
type Row = (&'static str, u32, &'static [(&'static str, u32)]);

/// The order in which clients are shown them.
const PRIORITIES: &[Row] = &[
    ("", 18_000, &[("v1", 1)]),
    ("apps", 17_800, &[("v1", 15)]),
    ("events.k8s.io", 17_750, &[("v1", 15)]),
    ("authentication.k8s.io", 17_700, &[("v1", 15)]),
    ("authorization.k8s.io", 17_600, &[("v1", 15)]),
    ("autoscaling", 17_500, &[("v2", 30), ("v1", 15)]),
    ("batch", 17_400, &[("v1", 15)]),
    ("certificates.k8s.io", 17_300, &[("v1", 15)]),
    ("networking.k8s.io", 17_200, &[("v1", 15)]),
    ("policy", 17_100, &[("v1", 15)]),
    ("rbac.authorization.k8s.io", 17_000, &[("v1", 15)]),
    ("storage.k8s.io", 16_800, &[("v1", 15)]),
    ("admissionregistration.k8s.io", 16_700, &[("v1", 15)]),
    ("apiextensions.k8s.io", 16_700, &[("v1", 15)]),
    ("scheduling.k8s.io", 16_600, &[("v1", 15)]),
    ("coordination.k8s.io", 16_500, &[("v1", 15)]),
    ("node.k8s.io", 16_300, &[("v1", 15)]),
    ("discovery.k8s.io", 16_200, &[("v1", 15)]),
    ("resource.k8s.io", 16_200, &[("v1", 20)]),
    ("flowcontrol.apiserver.k8s.io", 16_100, &[("v1", 21)]),
];

/// The APIServices of what is built in, with the path of their collection.
pub(super) fn objects(registry: &Registry) -> Vec<(String, Value)> {
    let mut out = Vec::new();
    for (group, priority, versions) in PRIORITIES {
        for (version, place) in *versions {
            if registry.in_version(group, version).next().is_some() {
                let object = json!({
                    "metadata": {
                        "name": format!("{version}.{group}"),
                        "labels": {"kube-aggregator.kubernetes.io/automanaged": "onstart"},
                    },
                    "spec": {
                        "group": group, "version": version,
                        "groupPriorityMinimum": priority, "versionPriority": place,
                    },
                });
                out.push((PATH.to_owned(), object));
            }
        }
    }
    out
}

/// The object with its own specification again, unless people have taken the label off to keep theirs.
pub(super) fn reconciled(current: &Value, wanted: &Value) -> Option<Value> {
    let managed = matches!(access::text(current, MANAGED), "onstart" | "true");
    if !managed || access::same(current.get("spec"), wanted.get("spec")) {
        return None;
    }
    let mut repaired = current.clone();
    access::copy(&mut repaired, wanted, "spec");
    Some(repaired)
}

/// Keeps the conditions right until the server stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    shared.look_again(look).await;
}

async fn look(shared: Arc<Shared>, snapshot: Snapshot) -> &'static [&'static str] {
    for (name, status) in plan(&snapshot, &now_text()) {
        let body = json!({"status": status});
        send(&shared, Method::PATCH, &format!("{PATH}/{name}/status"), &body).await;
    }
    match snapshot.list(APISERVICES, None, None).any(|s| is_remote(&s.value())) {
        true => &[APISERVICES, SERVICES, SLICES],
        false => &[APISERVICES],
    }
}

fn is_remote(object: &Value) -> bool {
    access::at(object, "/spec/service").is_object()
}

/// The APIServices whose condition is not what it should be, with their new status.
fn plan(snapshot: &Snapshot, now: &str) -> Vec<(String, Value)> {
    let all = snapshot.list(APISERVICES, None, None);
    all.filter_map(|stored| {
        let object = stored.value();
        let mut wanted = wanted(snapshot, &object, now);
        let conditions = access::list_at(&object, "/status/conditions");
        let (ours, others): (Vec<&Value>, Vec<&Value>) = conditions
            .iter()
            .partition(|c| access::str_of(c, "type") == "Available");
        let ours = ours.first().copied().unwrap_or(&Value::Null);
        if let Some(wanted) = wanted.as_mut().filter(|c| c["status"] == ours["status"]) {
            access::copy(wanted, ours, "lastTransitionTime");
        }
        if wanted.as_ref().unwrap_or(&Value::Null) == ours {
            return None;
        }
        let conditions: Vec<Value> = others.into_iter().cloned().chain(wanted).collect();
        Some((stored.key.name.to_string(), json!({"conditions": conditions})))
    })
    .collect()
}

/// The `Available` condition of an APIService; none while nobody knows.
fn wanted(snapshot: &Snapshot, object: &Value, now: &str) -> Option<Value> {
    let (status, (reason, message)) = if is_remote(object) {
        ("False", trouble(snapshot, access::at(object, "/spec/service"))?)
    } else {
        ("True", ("Local", "Local APIServices are always available".to_owned()))
    };
    Some(json!({
        "type": "Available", "status": status, "reason": reason, "message": message, "lastTransitionTime": now,
    }))
}

/// Why a Service cannot answer, as far as it is stored: a reason and a message.
fn trouble(snapshot: &Snapshot, reference: &Value) -> Option<(&'static str, String)> {
    let [namespace, name] = ["namespace", "name"].map(|field| access::str_of(reference, field));
    let subject = format!("service/{name} in {namespace:?}");
    let Some(service) = snapshot.find(SERVICES, namespace, name).map(|stored| stored.value()) else {
        return Some(("ServiceNotFound", format!("{subject} is not present")));
    };
    if access::text(&service, "/spec/type") != "ClusterIP" {
        return None;
    }
    let number = access::int_of(reference, "port").unwrap_or(443);
    let mut ports = access::list_at(&service, "/spec/ports").iter();
    let Some(port) = ports.find(|port| access::int_of(port, "port") == Some(number)) else {
        return Some((
            "ServicePortError",
            format!("{subject} is not listening on port {number}"),
        ));
    };
    let slices: Vec<Arc<Value>> = snapshot
        .list(SLICES, Some(namespace), None)
        .map(|stored| stored.value())
        .filter(|slice| access::text(slice, "/metadata/labels/kubernetes.io~1service-name") == name)
        .collect();
    if slices.is_empty() {
        return Some(("EndpointsNotFound", format!("cannot find endpointslices for {subject}")));
    }
    let port = access::str_of(port, "name");
    let answers = |slice: &Arc<Value>| {
        let ready = |endpoint: &Value| access::at(endpoint, "/conditions/ready") != &json!(false);
        let named = |listed: &Value| access::str_of(listed, "name") == port && listed.get("port").is_some();
        access::list(slice, "endpoints").iter().any(ready) && access::list(slice, "ports").iter().any(named)
    };
    let message = || format!("endpointslices for {subject} have no addresses with port name {port:?}");
    (!slices.iter().any(answers)).then(|| ("MissingEndpoints", message()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_versions_have_a_place() {
        let registry = Registry::builtin();
        let named: Vec<String> = objects(&registry)
            .iter()
            .map(|(_, object)| access::name(object).to_owned())
            .collect();
        for group in registry.groups() {
            for version in &group.versions {
                // The group of the APIServices themselves has none, as in Kubernetes.
                let wanted = &*group.name != "apiregistration.k8s.io";
                let name = format!("{version}.{}", group.name);
                assert_eq!(named.contains(&name), wanted, "{name}");
            }
        }
    }

    #[test]
    fn specifications_come_back_unless_the_label_is_gone() {
        let with = |label: &str, priority: u32| {
            json!({
                "metadata": {"labels": {"kube-aggregator.kubernetes.io/automanaged": label}},
                "spec": {"versionPriority": priority},
            })
        };
        for (current, repaired) in [
            (with("onstart", 1), true),
            (with("true", 1), true),
            (with("onstart", 15), false),
            (with("", 1), false),
            (json!({"spec": {"versionPriority": 1}}), false),
        ] {
            let found = reconciled(&current, &with("onstart", 15));
            assert_eq!(found.is_some(), repaired, "{current}");
        }
    }
}

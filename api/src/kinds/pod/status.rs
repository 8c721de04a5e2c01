//! Objections to a write of a pod's status.

use super::{security, update};
use crate::field::{ErrorList, Path, duplicate, forbidden, invalid, not_supported, required, too_long};
use crate::kinds::access::{at, get, has, int_of, list, str_of};
use crate::kinds::check;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Everything said against the new status of a pod.
pub fn check(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    update::annotation_change(&mut errors, new, old);
    let path = Path::new("status");
    let spec = at(old, "/spec");
    let (new_status, old_status) = (at(new, "/status"), at(old, "/status"));
    conditions(&mut errors, &path.child("conditions"), list(new_status, "conditions"));
    nominated_node(&mut errors, &path.child("nominatedNodeName"), new_status, old);
    observed(&mut errors, &path, new_status);
    check::immutable(
        &mut errors,
        &path.child("qosClass"),
        new_status.get("qosClass"),
        old_status.get("qosClass"),
    );
    for (key, containers) in [
        ("containerStatuses", Some("containers")),
        ("initContainerStatuses", Some("initContainers")),
        ("ephemeralContainerStatuses", None),
    ] {
        let (new, old) = (list(new_status, key), list(old_status, key));
        transitions(&mut errors, &path.child(key), new, old, containers, spec);
    }
    claims(&mut errors, &path.child("resourceClaimStatuses"), new);
    extended_claim(&mut errors, &path.child("extendedResourceClaimStatus"), new);
    addresses(&mut errors, &path, new_status, old_status);
    for key in [
        "containerStatuses",
        "initContainerStatuses",
        "ephemeralContainerStatuses",
    ] {
        for (i, container) in list(new_status, key).iter().enumerate() {
            user(
                &mut errors,
                &path.child(key).index(i).child("user").child("linux"),
                container,
                spec,
            );
        }
    }
    for (key, containers) in [
        ("containerStatuses", list(spec, "containers")),
        ("initContainerStatuses", list(spec, "initContainers")),
    ] {
        let containers = check::by_name(containers);
        for (i, status) in list(new_status, key).iter().enumerate() {
            let of = containers.get(str_of(status, "name")).copied();
            let at = path.child(key).index(i).child("allocatedResourcesStatus");
            health(&mut errors, &at, list(status, "allocatedResourcesStatus"), of);
        }
    }
    let key = "ephemeralContainerStatuses";
    for (i, status) in list(new_status, key).iter().enumerate() {
        if !list(status, "allocatedResourcesStatus").is_empty() {
            let at = path.child(key).index(i).child("allocatedResourcesStatus");
            errors.push(forbidden(&at, "must not be specified in container status"));
        }
    }
    errors
}

fn observed(errors: &mut ErrorList, path: &Path, owner: &Value) {
    if let Some(n) = int_of(owner, "observedGeneration").filter(|n| *n < 0) {
        let detail = "must be a non-negative integer";
        errors.push(invalid(&path.child("observedGeneration"), n, detail));
    }
}

fn conditions(errors: &mut ErrorList, path: &Path, conditions: &[Value]) {
    for (i, condition) in conditions.iter().enumerate() {
        observed(errors, &path.index(i), condition);
        let kind = str_of(condition, "type");
        if !["PodScheduled", "Ready", "Initialized"].contains(&kind) {
            check::qualified(errors, &path.index(i).child("Type"), kind);
        }
    }
}

fn nominated_node(errors: &mut ErrorList, path: &Path, status: &Value, old: &Value) {
    let node = str_of(status, "nominatedNodeName");
    if node.is_empty() || node == str_of(at(old, "/status"), "nominatedNodeName") {
        return;
    }
    check::dns_subdomain(errors, path, node);
    if !str_of(at(old, "/spec"), "nodeName").is_empty() {
        errors.push(forbidden(
            path,
            "may not be set on pods that are already bound to a node",
        ));
    }
}

/// A container that ended for good does not come back.
fn transitions(
    errors: &mut ErrorList,
    path: &Path,
    new: &[Value],
    old: &[Value],
    containers: Option<&str>,
    spec: &Value,
) {
    if containers.is_some() && restarts_all(spec) {
        return;
    }
    let statuses = check::by_name(new);
    let containers = check::by_name(containers.map_or(&[][..], |key| list(spec, key)));
    for (i, before) in old.iter().enumerate() {
        let (ended, name) = (at(before, "/state/terminated"), str_of(before, "name"));
        let after = statuses.get(name);
        if !ended.is_object() || after.is_none_or(|n| at(n, "/state/terminated").is_object()) {
            continue;
        }
        let container = containers.get(name);
        let code = int_of(ended, "exitCode").unwrap_or(0);
        if !container.is_some_and(|c| comes_back(c, spec, code)) {
            let detail = "may not be transitioned to non-terminated state";
            errors.push(forbidden(&path.index(i).child("state"), detail));
        }
    }
}

/// Whether some rule of some container restarts them all.
fn restarts_all(spec: &Value) -> bool {
    let all = ["containers", "initContainers"].iter().flat_map(|key| list(spec, key));
    all.flat_map(|c| list(c, "restartPolicyRules"))
        .any(|rule| str_of(rule, "action") == "RestartAllContainers")
}

/// Whether a container that ended with this code is started again: by its own rules, its own policy, or the pod's.
fn comes_back(container: &Value, spec: &Value, code: i64) -> bool {
    let own = has(container, "restartPolicy");
    let matches = |rule: &&Value| {
        let codes = get(rule, "exitCodes");
        let listed = list(codes, "values").iter().any(|v| v.as_i64() == Some(code));
        listed == (str_of(codes, "operator") == "In")
    };
    if own && list(container, "restartPolicyRules").iter().any(|rule| matches(&rule)) {
        return true;
    }
    match str_of(if own { container } else { spec }, "restartPolicy") {
        "Always" => true,
        "OnFailure" => code != 0,
        _ => false,
    }
}

fn claims(errors: &mut ErrorList, path: &Path, pod: &Value) {
    let known: BTreeSet<&str> = list(at(pod, "/spec"), "resourceClaims")
        .iter()
        .map(|c| str_of(c, "name"))
        .collect();
    let mut seen = BTreeSet::new();
    for (i, status) in list(at(pod, "/status"), "resourceClaimStatuses").iter().enumerate() {
        let (name, path) = (str_of(status, "name"), path.index(i));
        if !known.contains(name) {
            let detail = "must match the name of an entry in `spec.resourceClaims`";
            errors.push(invalid(&path.child("name"), name, detail));
        }
        if !seen.insert(name) {
            errors.push(duplicate(&path.child("name"), name));
        }
        if has(status, "resourceClaimName") {
            let claim = str_of(status, "resourceClaimName");
            check::dns_subdomain(errors, &path.child("resourceClaimName"), claim);
        }
    }
}

/// The claim that was made for resources asked for by name.
fn extended_claim(errors: &mut ErrorList, path: &Path, pod: &Value) {
    let (spec, status) = (at(pod, "/spec"), at(pod, "/status/extendedResourceClaimStatus"));
    if !status.is_object() {
        return;
    }
    let at_mappings = path.child("requestMappings");
    let mappings = list(status, "requestMappings");
    if mappings.is_empty() {
        errors.push(required(&at_mappings, "at least one request mapping is required"));
    }
    let mut seen = BTreeSet::new();
    let all = check::by_name(["containers", "initContainers"].iter().flat_map(|key| list(spec, key)));
    for (i, mapping) in mappings.iter().enumerate() {
        let at = at_mappings.index(i);
        let [container, resource, request] =
            ["containerName", "resourceName", "requestName"].map(|k| str_of(mapping, k));
        match all.get(container) {
            None => {
                let detail = "must match the name of an entry in spec.initContainers.name or spec.containers.name";
                errors.push(invalid(&at.child("containerName"), container, detail));
            }
            Some(c) if !has(get(get(c, "resources"), "requests"), resource) => {
                let detail = "must match the extended resource name of an entry in spec.initContainers.resources.requests or spec.containers.resources.requests";
                errors.push(invalid(&at.child("resourceName"), resource, detail));
            }
            Some(_) => {}
        }
        check::dns_label(errors, &path.child("requestName"), request);
        if !seen.insert([container, resource, request]) {
            errors.push(duplicate(&at.child("containerName"), container));
            errors.push(duplicate(&at.child("resourceName"), resource));
            errors.push(duplicate(&at.child("requestName"), request));
        }
    }
    let name = str_of(status, "resourceClaimName");
    check::required_subdomain(errors, &path.child("resourceClaimName"), name);
}

/// Addresses of the pod and of its host: at most one of each family. Those that were there before may stay.
fn addresses(errors: &mut ErrorList, path: &Path, new: &Value, old: &Value) {
    for key in ["podIPs", "hostIPs"] {
        let of = |status: &Value| -> Vec<String> {
            list(status, key).iter().map(|ip| str_of(ip, "ip").to_owned()).collect()
        };
        let (ips, before, path) = (of(new), of(old), path.child(key));
        if let ("hostIPs", Some(first)) = (key, ips.first())
            && *first != str_of(new, "hostIP")
        {
            errors.push(invalid(
                &path.index(0).child("ip"),
                first.as_str(),
                "must be equal to `hostIP`",
            ));
        }
        let before: BTreeSet<&String> = before.iter().collect();
        for (i, ip) in ips.iter().enumerate().filter(|(_, ip)| !before.contains(ip)) {
            check::ip(errors, &path.index(i), ip);
        }
        let sixes = ips.iter().filter(|ip| ip.contains(':')).count();
        if ips.len() > 2 || (ips.len() == 2 && sixes != 1) {
            let all: Vec<Value> = ips.iter().map(|ip| json!({"IP": ip})).collect();
            errors.push(invalid(
                &path,
                all,
                "may specify no more than one IP for each IP family",
            ));
        }
    }
}

/// Who a container runs as.
fn user(errors: &mut ErrorList, path: &Path, container: &Value, spec: &Value) {
    let linux = at(container, "/user/linux");
    if !linux.is_object() {
        return;
    }
    if str_of(get(spec, "os"), "name") == "windows" {
        errors.push(forbidden(path, "cannot be set for a windows pod"));
        return;
    }
    for key in ["uid", "gid"] {
        security::id(errors, &path.child(key), int_of(linux, key));
    }
    for (i, group) in list(linux, "supplementalGroups").iter().enumerate() {
        security::id(errors, &path.child("supplementalGroups").index(i), group.as_i64());
    }
}

/// How the devices of a container are.
fn health(errors: &mut ErrorList, path: &Path, allocated: &[Value], container: Option<&Value>) {
    const MESSAGE_BYTES_MAX: usize = 1024;
    const STATES: [&str; 3] = ["Healthy", "Unhealthy", "Unknown"];
    for (i, resource) in allocated.iter().enumerate() {
        let (path, name) = (path.index(i), str_of(resource, "name"));
        if let Some(detail) = container.and_then(|c| unknown_resource(name, get(c, "resources"))) {
            errors.push(invalid(&path.child("name"), name, detail));
        }
        let mut seen = BTreeSet::new();
        for (j, device) in list(resource, "resources").iter().enumerate() {
            let path = path.child("resources").index(j);
            let state = str_of(device, "health");
            if !STATES.contains(&state) {
                errors.push(not_supported(&path.child("health"), state, &STATES));
            }
            if has(device, "message") {
                match str_of(device, "message").len() {
                    0 => errors.push(required(&path.child("message"), "must be non-empty if specified")),
                    1..=MESSAGE_BYTES_MAX => {}
                    _ => errors.push(too_long(&path.child("message"), MESSAGE_BYTES_MAX)),
                }
            }
            let id = str_of(device, "resourceID");
            if !seen.insert(id) {
                errors.push(duplicate(&path.child("resourceID"), id));
            }
        }
    }
}

fn unknown_resource(name: &str, resources: &Value) -> Option<&'static str> {
    let Some(claim) = name.strip_prefix("claim:") else {
        let known = has(get(resources, "requests"), name);
        return (!known).then_some("must match one of the container's resource requests");
    };
    let known = list(resources, "claims").iter().any(|c| match str_of(c, "request") {
        "" => str_of(c, "name") == claim,
        request => format!("{}/{request}", str_of(c, "name")) == claim,
    });
    (!known).then_some("must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or 'claim:<claimName>' if request is empty")
}

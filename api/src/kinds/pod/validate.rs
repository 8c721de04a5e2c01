//! Objections to a pod spec, wherever it stands.

use super::{affinity, annotations, containers, dump, env, security, volumes, windows};
use crate::field::{ErrorList, FieldError, Path, duplicate, forbidden, invalid, not_supported, required, too_long};
use crate::kinds::access::{at, flag, get, has, int_of, list, name, str_of};
use crate::kinds::check::{self, strings};
use crate::kinds::{go, resources};
use crate::names;
use serde_json::Value;
use std::collections::BTreeSet;

/// Where a pod spec stands.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The pod's name, for the claims of ephemeral volumes. Templates have none.
    pub pod_name: Option<&'a str>,
    /// Whether it is a pod itself and not a template.
    pub is_pod: bool,
    /// Whether a node made the pod from a file.
    pub is_mirror: bool,
}

/// A template never names its pods.
pub const TEMPLATE: Context<'static> = Context {
    pod_name: None,
    is_pod: false,
    is_mirror: false,
};

/// The rules of a pod, without its metadata.
pub fn pod(obj: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = at(obj, "/spec");
    let path = Path::new("spec");
    annotations::check(
        &mut errors,
        &Path::new("metadata").child("annotations"),
        at(obj, "/metadata/annotations"),
        spec,
    );
    pod_spec(
        &mut errors,
        &path,
        spec,
        Context {
            pod_name: Some(name(obj)),
            is_pod: true,
            is_mirror: has(at(obj, "/metadata/annotations"), annotations::MIRROR),
        },
    );
    if str_of(spec, "serviceAccountName").is_empty() {
        for (v, volume) in list(spec, "volumes").iter().enumerate() {
            for (s, source) in list(get(volume, "projected"), "sources").iter().enumerate() {
                if has(source, "serviceAccountToken") {
                    let at = path
                        .child("volumes")
                        .index(v)
                        .child("projected")
                        .child("sources")
                        .index(s)
                        .child("serviceAccountToken");
                    errors.push(forbidden(
                        &at,
                        "must not be specified when serviceAccountName is not set",
                    ));
                }
            }
        }
    }
    for key in ["containers", "initContainers"] {
        for (i, container) in list(spec, key).iter().enumerate() {
            containers::image_has_no_spaces(
                &mut errors,
                &path.child(key).index(i).child("image"),
                str_of(container, "image"),
            );
        }
    }
    errors
}

/// What only holds for a pod that is being created.
pub fn pod_create(obj: &Value) -> ErrorList {
    let mut errors = pod(obj);
    let spec = at(obj, "/spec");
    let path = Path::new("spec");
    if !list(spec, "ephemeralContainers").is_empty() {
        errors.push(forbidden(&path.child("ephemeralContainers"), "cannot be set on create"));
    }
    if !str_of(spec, "nodeName").is_empty() && !list(spec, "schedulingGates").is_empty() {
        errors.push(forbidden(
            &path.child("nodeName"),
            "cannot be set until all schedulingGates have been cleared",
        ));
    }
    annotations::agree_with_fields(&mut errors, &path, at(obj, "/metadata/annotations"), spec);
    errors
}

/// The rules of a `template` member: its labels, annotations and spec.
pub fn template(errors: &mut ErrorList, path: &Path, template: &Value) {
    let metadata = get(template, "metadata");
    check::labels(errors, &path.child("labels"), metadata, "labels");
    check::annotations(errors, &path.child("annotations"), metadata);
    let (annotations, spec) = (get(metadata, "annotations"), get(template, "spec"));
    annotations::check(errors, &path.child("annotations"), annotations, spec);
    pod_spec(errors, &path.child("spec"), spec, TEMPLATE);
    annotations::agree_with_fields(errors, &path.child("spec"), annotations, spec);
    if !list(get(template, "spec"), "ephemeralContainers").is_empty() {
        errors.push(forbidden(
            &path.child("spec").child("ephemeralContainers"),
            "ephemeral containers not allowed in pod template",
        ));
    }
}

/// The rules of a pod spec.
pub fn pod_spec(errors: &mut ErrorList, path: &Path, spec: &Value, context: Context<'_>) {
    if !has(spec, "terminationGracePeriodSeconds") {
        errors.push(required(&path.child("terminationGracePeriodSeconds"), ""));
    }
    let volumes = volumes::check(errors, &path.child("volumes"), spec, context);
    let claims = resource_claims(errors, &path.child("resourceClaims"), spec, context);
    containers::check(errors, path, spec, &volumes, &claims);
    if has(spec, "resources") {
        resources::pod_level(errors, &path.child("resources"), spec);
    }
    host_network_ports(errors, path, spec, context);
    check::required_one_of(
        errors,
        &path.child("restartPolicy"),
        str_of(spec, "restartPolicy"),
        &["Always", "OnFailure", "Never"],
    );
    let dns_policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    check::required_one_of(
        errors,
        &path.child("dnsPolicy"),
        str_of(spec, "dnsPolicy"),
        &dns_policies,
    );
    check::labels(errors, &path.child("nodeSelector"), spec, "nodeSelector");
    security::pod(errors, path, spec);
    affinity::check(errors, &path.child("affinity"), get(spec, "affinity"));
    dns_config(errors, &path.child("dnsConfig"), spec);
    for (i, gate) in list(spec, "readinessGates").iter().enumerate() {
        check::qualified(
            errors,
            &path.child("readinessGates").index(i).child("conditionType"),
            str_of(gate, "conditionType"),
        );
    }
    scheduling_gates(errors, &path.child("schedulingGates"), spec);
    affinity::topology_spread(
        errors,
        &path.child("topologySpreadConstraints"),
        list(spec, "topologySpreadConstraints"),
    );
    windows::host_process(errors, path, spec);
    host_users(errors, path, spec);
    hostname_override(errors, &path.child("hostnameOverride"), spec);
    names_and_limits(errors, path, spec);
}

/// The short members at the end of a pod spec.
fn names_and_limits(errors: &mut ErrorList, path: &Path, spec: &Value) {
    for key in ["serviceAccountName", "nodeName"] {
        let value = str_of(spec, key);
        if !value.is_empty() {
            check::dns_subdomain(errors, &path.child(key), value);
        }
    }
    if let Some(seconds) = int_of(spec, "activeDeadlineSeconds").filter(|s| !(1..=i64::from(i32::MAX)).contains(s)) {
        errors.push(invalid(
            &path.child("activeDeadlineSeconds"),
            seconds,
            names::in_range(1, i64::from(i32::MAX)),
        ));
    }
    for key in ["hostname", "subdomain"] {
        let value = str_of(spec, key);
        if !value.is_empty() {
            check::dns_label(errors, &path.child(key), value);
        }
    }
    tolerations(errors, &path.child("tolerations"), list(spec, "tolerations"));
    for (i, alias) in list(spec, "hostAliases").iter().enumerate() {
        let path = path.child("hostAliases").index(i);
        check::ip(errors, &path.child("ip"), str_of(alias, "ip"));
        for (j, host) in strings(alias, "hostnames").iter().enumerate() {
            check::dns_subdomain(errors, &path.child("hostnames").index(j), host);
        }
    }
    for key in ["priorityClassName", "runtimeClassName"] {
        if has(spec, key) && !(key == "priorityClassName" && str_of(spec, key).is_empty()) {
            check::dns_subdomain(errors, &path.child(key), str_of(spec, key));
        }
    }
    if has(spec, "preemptionPolicy") {
        let policies = ["PreemptLowerPriority", "Never"];
        check::required_one_of(
            errors,
            &path.child("preemptionPolicy"),
            str_of(spec, "preemptionPolicy"),
            &policies,
        );
    }
    resources::overhead(errors, &path.child("overhead"), get(spec, "overhead"));
    if has(spec, "os") {
        windows::os(errors, path, spec);
    }
    env::file_volumes(errors, path, spec);
}

/// The rules of tolerations.
pub fn tolerations(errors: &mut ErrorList, path: &Path, tolerations: &[Value]) {
    for (i, t) in tolerations.iter().enumerate() {
        let path = path.index(i);
        let (key, operator, value, effect) = (
            str_of(t, "key"),
            str_of(t, "operator"),
            str_of(t, "value"),
            str_of(t, "effect"),
        );
        if !key.is_empty() {
            check::qualified(errors, &path.child("key"), key);
        }
        if key.is_empty() && operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(invalid(&path.child("operator"), operator, detail));
        }
        if has(t, "tolerationSeconds") && effect != "NoExecute" {
            errors.push(invalid(
                &path.child("effect"),
                effect,
                "effect must be 'NoExecute' when `tolerationSeconds` is set",
            ));
        }
        match operator {
            "" | "Equal" => {
                let messages = names::label_value(value);
                if !messages.is_empty() {
                    errors.push(invalid(&path.child("operator"), value, messages.join(";")));
                }
            }
            "Exists" if !value.is_empty() => {
                errors.push(invalid(
                    &path.child("operator"),
                    value,
                    "value must be empty when `operator` is 'Exists'",
                ));
            }
            "Exists" => {}
            // These two are not on by default. The one who tries them is told of them.
            "Lt" | "Gt" => errors.push(not_supported(
                &path.child("operator"),
                operator,
                &["Equal", "Exists", "Lt", "Gt"],
            )),
            _ => errors.push(not_supported(&path.child("operator"), operator, &["Equal", "Exists"])),
        }
        check::one_of_if(errors, &path.child("effect"), effect, TAINT_EFFECTS);
    }
}

/// Effects that taints and tolerations know.
pub const TAINT_EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

fn resource_claims<'a>(
    errors: &mut ErrorList,
    path: &Path,
    spec: &'a Value,
    context: Context<'_>,
) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    for (i, claim) in list(spec, "resourceClaims").iter().enumerate() {
        if context.is_mirror {
            let detail = "static pods do not support resource claims";
            errors.push(forbidden(&Path::root().key(""), detail));
            continue;
        }
        let path = path.index(i);
        let name = str_of(claim, "name");
        if name.is_empty() {
            errors.push(required(&path.child("name"), ""));
        } else if !seen.insert(name) {
            errors.push(duplicate(&path.child("name"), name));
        } else {
            check::dns_label(errors, &path.child("name"), name);
        }
        match (has(claim, "resourceClaimName"), has(claim, "resourceClaimTemplateName")) {
            (true, true) => errors.push(go::invalid_shown(
                &path,
                &dump::core("PodResourceClaim", claim).compact(),
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            )),
            (false, false) => errors.push(go::invalid_shown(
                &path,
                &dump::core("PodResourceClaim", claim).compact(),
                "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            )),
            _ => {}
        }
        for key in ["resourceClaimName", "resourceClaimTemplateName"] {
            if has(claim, key) {
                check::dns_subdomain(errors, &path.child(key), str_of(claim, key));
            }
        }
    }
    seen
}

fn host_network_ports(errors: &mut ErrorList, path: &Path, spec: &Value, context: Context<'_>) {
    if !flag(spec, "hostNetwork") {
        return;
    }
    for (i, container) in list(spec, "containers").iter().enumerate() {
        for (j, port) in list(container, "ports").iter().enumerate() {
            let (host, inside) = (
                int_of(port, "hostPort").unwrap_or(0),
                int_of(port, "containerPort").unwrap_or(0),
            );
            if (context.is_pod || host != 0) && host != inside {
                let at = path
                    .child("containers")
                    .index(i)
                    .child("ports")
                    .index(j)
                    .child("hostPort");
                errors.push(invalid(
                    &at,
                    host,
                    "must match `containerPort` when `hostNetwork` is true",
                ));
            }
        }
    }
}

fn dns_config(errors: &mut ErrorList, path: &Path, spec: &Value) {
    let config = get(spec, "dnsConfig");
    let servers = strings(config, "nameservers");
    if str_of(spec, "dnsPolicy") == "None" {
        if config.is_null() {
            errors.push(required(path, "must provide `dnsConfig` when `dnsPolicy` is None"));
            return;
        }
        if servers.is_empty() {
            errors.push(required(
                &path.child("nameservers"),
                "must provide at least one DNS nameserver when `dnsPolicy` is None",
            ));
            return;
        }
    }
    if servers.len() > 3 {
        errors.push(invalid(
            &path.child("nameservers"),
            get(config, "nameservers").clone(),
            "must not have more than 3 nameservers",
        ));
    }
    for (i, server) in servers.iter().enumerate() {
        check::ip(errors, &path.child("nameservers").index(i), server);
    }
    let searches = strings(config, "searches");
    if searches.len() > 32 {
        errors.push(invalid(
            &path.child("searches"),
            get(config, "searches").clone(),
            "must not have more than 32 search paths",
        ));
    }
    if searches.join(" ").len() > 2048 {
        let detail = "must not have more than 2048 characters (including spaces) in the search list";
        errors.push(invalid(
            &path.child("searches"),
            get(config, "searches").clone(),
            detail,
        ));
    }
    for (i, search) in searches.iter().enumerate().filter(|(_, s)| **s != ".") {
        let search = search.strip_suffix('.').unwrap_or(search);
        check::each(
            errors,
            &path.child("searches").index(i),
            search,
            names::dns1123_subdomain_with_underscore(search),
        );
    }
    for (i, option) in list(config, "options").iter().enumerate() {
        if str_of(option, "name").is_empty() {
            errors.push(required(&path.child("options").index(i), "must not be empty"));
        }
    }
}

fn scheduling_gates(errors: &mut ErrorList, path: &Path, spec: &Value) {
    let mut seen = BTreeSet::new();
    for (i, gate) in list(spec, "schedulingGates").iter().enumerate() {
        let name = str_of(gate, "name");
        check::qualified(errors, &path.index(i), name);
        if !seen.insert(name) {
            errors.push(duplicate(&path.index(i), name));
        }
    }
}

fn host_users(errors: &mut ErrorList, path: &Path, spec: &Value) {
    if get(spec, "hostUsers").as_bool() != Some(false) {
        return;
    }
    for (key, shown) in [
        ("hostNetwork", "hostNetwork"),
        ("hostPID", "HostPID"),
        ("hostIPC", "HostIPC"),
    ] {
        if flag(spec, key) {
            errors.push(forbidden(&path.child(shown), "when `hostUsers` is false"));
        }
    }
    for (at, c) in containers::all(path, spec) {
        if !list(c, "volumeDevices").is_empty() {
            errors.push(forbidden(&at.child("volumeDevices"), "when `hostUsers` is false"));
        }
    }
}

/// A host name of the pod's own, whatever the pod is called.
fn hostname_override(errors: &mut ErrorList, path: &Path, spec: &Value) {
    const BYTES_MAX: usize = 64;
    if !has(spec, "hostnameOverride") {
        return;
    }
    for other in ["setHostnameAsFQDN", "hostNetwork"] {
        if flag(spec, other) {
            errors.push(forbidden(path, format!("may not be specified when {other} is true")));
        }
    }
    let name = str_of(spec, "hostnameOverride");
    if name.len() > BYTES_MAX {
        errors.push(too_long(path, BYTES_MAX));
    }
    check::dns_subdomain(errors, path, name);
}

/// A missing thing with an explanation.
pub fn not_found_because(path: &Path, value: &str, detail: String) -> FieldError {
    FieldError {
        detail,
        ..crate::field::not_found(path, value)
    }
}

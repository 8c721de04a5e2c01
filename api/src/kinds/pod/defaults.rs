//! Defaults of pods and of the pod templates inside workloads.

use crate::Quantity;
use crate::kinds::access::{
    child, child_if, each_mut, ensure_object, flag, get, has, int_of, remove, set, set_default, set_text_default,
    str_of,
};
use crate::kinds::claim;
use crate::kinds::tidy;
use serde_json::{Value, json};

/// Mode of files in volumes made from objects: 0644.
const FILE_MODE: i64 = 0o644;

/// Defaults of a pod: those of its spec, and those that templates do not get.
pub fn pod(obj: &mut Value) {
    if let Some(status) = child_if(obj, "status") {
        tidy::first_of(status, "podIP", "podIPs", Some("ip"));
    }
    let spec = child(obj, "spec");
    if flag(spec, "hostNetwork") {
        host_ports(spec);
    }
    set_default(spec, "enableServiceLinks", true);
    pod_spec(spec);
    for list in ["containers", "initContainers"] {
        for container in each_mut(spec, list) {
            requests_from_limits(container);
        }
    }
    if let Some(resources) = child_if(spec, "resources") {
        copy_limits(resources);
    }
    child(obj, "status");
}

/// Defaults of a `template` member.
pub fn template(template: &mut Value) {
    ensure_object(template);
    child(template, "metadata");
    pod_spec(child(template, "spec"));
}

/// Defaults of a pod spec wherever it stands.
pub fn pod_spec(spec: &mut Value) {
    super::gates::drop_from(spec);
    tidy::pod_spec(spec);
    set_text_default(spec, "restartPolicy", "Always");
    set_text_default(spec, "dnsPolicy", "ClusterFirst");
    set_text_default(spec, "schedulerName", "default-scheduler");
    set_default(spec, "terminationGracePeriodSeconds", 30);
    child(spec, "securityContext");
    service_account_alias(spec);
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        each_mut(spec, list).for_each(container);
    }
    each_mut(spec, "volumes").for_each(volume);
}

/// `serviceAccount` is the old name of `serviceAccountName`; both are always shown.
fn service_account_alias(spec: &mut Value) {
    let name = match str_of(spec, "serviceAccountName") {
        "" => str_of(spec, "serviceAccount").to_owned(),
        name => name.to_owned(),
    };
    for key in ["serviceAccountName", "serviceAccount"] {
        if name.is_empty() {
            remove(spec, key);
        } else {
            set(spec, key, name.as_str());
        }
    }
}

fn host_ports(spec: &mut Value) {
    for list in ["containers", "initContainers"] {
        for container in each_mut(spec, list) {
            for port in each_mut(container, "ports") {
                if int_of(port, "hostPort").unwrap_or(0) == 0 {
                    let number = int_of(port, "containerPort").unwrap_or(0);
                    set(port, "hostPort", number);
                }
            }
        }
    }
}

fn requests_from_limits(container: &mut Value) {
    if let Some(resources) = child_if(container, "resources") {
        copy_limits(resources);
    }
}

fn copy_limits(resources: &mut Value) {
    let Some(limits) = resources
        .get("limits")
        .and_then(Value::as_object)
        .filter(|m| !m.is_empty())
        .cloned()
    else {
        return;
    };
    let requests = child(resources, "requests");
    for (name, quantity) in limits {
        set_default(requests, &name, quantity);
    }
}

fn container(c: &mut Value) {
    if !c.is_object() {
        return;
    }
    tidy::container(c);
    set_default(c, "name", "");
    whole_milli(child(c, "resources"));
    set_text_default(c, "terminationMessagePath", "/dev/termination-log");
    set_text_default(c, "terminationMessagePolicy", "File");
    let policy = pull_policy(str_of(c, "image"));
    set_text_default(c, "imagePullPolicy", policy);
    for port in each_mut(c, "ports") {
        set_text_default(port, "protocol", "TCP");
    }
    for variable in each_mut(c, "env") {
        set_default(variable, "name", "");
        if let Some(from) = child_if(variable, "valueFrom") {
            references(from);
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(p) = child_if(c, name) {
            probe(p);
        }
    }
    if let Some(lifecycle) = child_if(c, "lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(get) = child_if(lifecycle, hook).and_then(|h| child_if(h, "httpGet")) {
                http_get(get);
            }
        }
    }
}

/// Quantities are kept in thousandths at the finest, rounded up.
fn whole_milli(resources: &mut Value) {
    for kind in ["limits", "requests"] {
        let Some(quantities) = child_if(resources, kind).and_then(Value::as_object_mut) else {
            continue;
        };
        for quantity in quantities.values_mut() {
            let Some(parsed) = quantity.as_str().and_then(|text| Quantity::parse(text).ok()) else {
                continue;
            };
            if !parsed.is_whole_milli() {
                *quantity = Value::from(Quantity::from_milli(parsed.milli()).canonical());
            }
        }
    }
}

/// Images named by `latest` or by nothing are pulled always.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let after_slash = name.rfind('/').map_or(0, |i| i + 1);
    let (repository, tag) = match name[after_slash..].rfind(':') {
        Some(colon) => (&name[..after_slash + colon], Some(&name[after_slash + colon + 1..])),
        None => (name, None),
    };
    let unparsable = repository.is_empty() || repository.chars().any(|c| c.is_whitespace() || c.is_ascii_uppercase());
    match (tag, digest) {
        _ if unparsable => "IfNotPresent",
        (Some("latest"), _) | (None, None) => "Always",
        _ => "IfNotPresent",
    }
}

/// Defaults of field and resource references, in variables and in volumes.
fn references(from: &mut Value) {
    if let Some(field) = child_if(from, "fieldRef") {
        set_text_default(field, "apiVersion", "v1");
    }
    if let Some(resource) = child_if(from, "resourceFieldRef") {
        set_default(resource, "divisor", "0");
    }
}

fn probe(p: &mut Value) {
    for (key, value) in [
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ] {
        if int_of(p, key).unwrap_or(0) == 0 {
            set(p, key, value);
        }
    }
    if let Some(get) = child_if(p, "httpGet") {
        http_get(get);
    }
    if let Some(grpc) = child_if(p, "grpc") {
        set_default(grpc, "service", "");
    }
}

fn http_get(get: &mut Value) {
    set_text_default(get, "path", "/");
    set_text_default(get, "scheme", "HTTP");
}

/// Members of a volume that say where it comes from.
pub const SOURCES: &[&str] = &[
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];

fn volume(v: &mut Value) {
    if !v.is_object() {
        return;
    }
    set_default(v, "name", "");
    if !SOURCES.iter().any(|s| has(v, s)) {
        set(v, "emptyDir", json!({}));
        return;
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = child_if(v, source) {
            set_default(source, "defaultMode", FILE_MODE);
        }
    }
    if let Some(path) = child_if(v, "hostPath") {
        set_default(path, "type", "");
    }
    if let Some(items) = child_if(v, "downwardAPI") {
        each_mut(items, "items").for_each(references);
    }
    if let Some(projected) = child_if(v, "projected") {
        projected_sources(projected);
    }
    if let Some(claim) = child_if(v, "ephemeral").and_then(|e| child_if(e, "volumeClaimTemplate")) {
        child(claim, "metadata");
        claim::default_spec(child(claim, "spec"));
    }
    if let Some(image) = child_if(v, "image") {
        let policy = pull_policy(str_of(image, "reference"));
        set_text_default(image, "pullPolicy", policy);
    }
    network_volume(v);
}

fn projected_sources(projected: &mut Value) {
    for source in each_mut(projected, "sources") {
        if let Some(token) = child_if(source, "serviceAccountToken") {
            set_default(token, "expirationSeconds", 3600);
        }
        if let Some(items) = child_if(source, "downwardAPI") {
            each_mut(items, "items").for_each(references);
        }
    }
}

/// Defaults of the network storage kinds, shared with PersistentVolumes.
pub fn network_volume(v: &mut Value) {
    let defaults: &[(&str, &[(&str, Value)])] = &[
        ("iscsi", &[("iscsiInterface", json!("default"))]),
        (
            "rbd",
            &[
                ("pool", json!("rbd")),
                ("user", json!("admin")),
                ("keyring", json!("/etc/ceph/keyring")),
            ],
        ),
        (
            "azureDisk",
            &[
                ("cachingMode", json!("ReadWrite")),
                ("fsType", json!("ext4")),
                ("kind", json!("Shared")),
                ("readOnly", json!(false)),
            ],
        ),
        (
            "scaleIO",
            &[("storageMode", json!("ThinProvisioned")), ("fsType", json!("xfs"))],
        ),
    ];
    for (source, fields) in defaults {
        if let Some(source) = child_if(v, source) {
            for (key, value) in *fields {
                if !has(source, key) || get(source, key) == "" {
                    set(source, key, value.clone());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::pull_policy;

    #[test]
    fn pull_policies() {
        for (image, expected) in [
            ("img.example/app", "Always"),
            ("img.example/app:latest", "Always"),
            ("img.example/app:v1", "IfNotPresent"),
            ("hub.example:5000/app", "Always"),
            ("hub.example:5000/app:1", "IfNotPresent"),
            ("app@sha256:00", "IfNotPresent"),
            ("app:latest@sha256:00", "Always"),
            ("", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), expected, "{image}");
        }
    }
}

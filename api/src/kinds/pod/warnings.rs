//! What is accepted in a pod but most likely a mistake.

use crate::Quantity;
use crate::field::Path;
use crate::kinds::access::{at, entries, get, has, int_of, list, str_of};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Labels that got other names, with the version that deprecated them.
const OLD_LABELS: &[(&str, &str)] = &[
    (
        "beta.kubernetes.io/arch",
        "deprecated since v1.14; use \"kubernetes.io/arch\" instead",
    ),
    (
        "beta.kubernetes.io/os",
        "deprecated since v1.14; use \"kubernetes.io/os\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
];

/// What to say about a label name, if anything.
pub fn old_label(name: &str) -> Option<&'static str> {
    OLD_LABELS.iter().find(|(old, _)| *old == name).map(|(_, text)| *text)
}

/// The name that replaced an old label's.
pub fn stable_label(name: &str) -> Option<&'static str> {
    old_label(name)?.split('"').nth(1)
}

/// Volume kinds that no longer work.
const DEAD_VOLUMES: &[(&str, &str)] = &[
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// The name of a new object whose pods are called after it.
pub fn name_of_pods(obj: &Value, old: Option<&Value>) -> Vec<String> {
    host_name(obj, old, "used in Pod names and hostnames")
}

/// The name of a new pod.
pub fn name_of_pod(obj: &Value, old: Option<&Value>) -> Vec<String> {
    host_name(obj, old, "used in the Pod's hostname")
}

fn host_name(obj: &Value, old: Option<&Value>, used: &str) -> Vec<String> {
    let messages = crate::names::dns1123_label(crate::kinds::access::name(obj));
    if old.is_some() || messages.is_empty() {
        return Vec::new();
    }
    let why = "which can result in surprising behavior; a DNS label is recommended";
    vec![format!(
        "metadata.name: this is {used}, {why}: [{}]",
        messages.join(" ")
    )]
}

/// Warnings of a pod.
pub fn pod(pod: &Value) -> Vec<String> {
    spec(
        &Path::new("spec"),
        at(pod, "/spec"),
        at(pod, "/metadata"),
        &Path::new("metadata"),
    )
}

/// Warnings of a pod template at `path`.
pub fn template(path: &Path, template: &Value) -> Vec<String> {
    spec(
        &path.child("spec"),
        get(template, "spec"),
        get(template, "metadata"),
        &path.child("metadata"),
    )
}

fn spec(path: &Path, spec: &Value, metadata: &Value, metadata_path: &Path) -> Vec<String> {
    let mut out = Vec::new();
    for (key, _) in entries(spec, "nodeSelector") {
        if let Some(text) = old_label(key) {
            out.push(format!("{}: {text}", path.child("nodeSelector").key(key)));
        }
    }
    affinity(
        &mut out,
        &path.child("affinity").child("nodeAffinity"),
        get(get(spec, "affinity"), "nodeAffinity"),
    );
    topology(&mut out, &path.child("topologySpreadConstraints"), spec);
    let mut seen = BTreeMap::new();
    for (i, alias) in list(spec, "hostAliases").iter().enumerate() {
        let ip = str_of(alias, "ip");
        if seen.insert(ip, i).is_some() {
            out.push(format!(
                "{}: duplicate ip {ip:?}",
                path.child("hostAliases").index(i).child("ip")
            ));
        }
    }
    let mut secrets = BTreeSet::new();
    for (i, secret) in list(spec, "imagePullSecrets").iter().enumerate() {
        let at = path.child("imagePullSecrets").index(i).child("name");
        match str_of(secret, "name") {
            "" => out.push(format!("{at}: invalid empty name \"\"")),
            name if !secrets.insert(name) => out.push(format!("{at}: duplicate name {name:?}")),
            _ => {}
        }
    }
    for (i, volume) in list(spec, "volumes").iter().enumerate() {
        for (kind, text) in DEAD_VOLUMES.iter().filter(|(kind, _)| has(volume, kind)) {
            out.push(format!("{}: {text}", path.child("volumes").index(i).child(kind)));
        }
    }
    for (i, c) in list(spec, "initContainers").iter().enumerate() {
        container(&mut out, &path.child("initContainers").index(i), c);
    }
    for (i, c) in list(spec, "containers").iter().enumerate() {
        container(&mut out, &path.child("containers").index(i), c);
    }
    annotations(&mut out, &metadata_path.child("annotations"), metadata);
    out
}

fn affinity(out: &mut Vec<String>, path: &Path, affinity: &Value) {
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    for (i, term) in list(get(affinity, required), "nodeSelectorTerms").iter().enumerate() {
        term_labels(out, &path.child(required).child("nodeSelectorTerms").index(i), term);
    }
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    for (i, weighted) in list(affinity, preferred).iter().enumerate() {
        term_labels(
            out,
            &path.child(preferred).index(i).child("preference"),
            get(weighted, "preference"),
        );
    }
}

fn term_labels(out: &mut Vec<String>, path: &Path, term: &Value) {
    for (i, expression) in list(term, "matchExpressions").iter().enumerate() {
        if let Some(text) = old_label(str_of(expression, "key")) {
            out.push(format!(
                "{}: {} is {text}",
                path.child("matchExpressions").index(i).child("key"),
                str_of(expression, "key")
            ));
        }
    }
}

fn topology(out: &mut Vec<String>, path: &Path, spec: &Value) {
    for (i, constraint) in list(spec, "topologySpreadConstraints").iter().enumerate() {
        if let Some(text) = old_label(str_of(constraint, "topologyKey")) {
            out.push(format!(
                "{}: {} is {text}",
                path.index(i).child("topologyKey"),
                str_of(constraint, "topologyKey")
            ));
        }
    }
}

fn container(out: &mut Vec<String>, path: &Path, c: &Value) {
    let mut seen = BTreeSet::new();
    for (i, variable) in list(c, "env").iter().enumerate() {
        let name = str_of(variable, "name");
        if !seen.insert(name) && !str_of(variable, "value").contains(&format!("$({name})")) {
            let at = path.child("env").index(i);
            out.push(format!(
                "{at}: hides previous definition of {name:?}, which may be dropped when using apply"
            ));
        }
    }
    let resources = get(c, "resources");
    for kind in ["limits", "requests"] {
        for name in ["memory", "ephemeral-storage"] {
            let text = str_of(get(resources, kind), name);
            if Quantity::parse(text).is_ok_and(|q| q.milli() % 1000 != 0) {
                let at = path.child("resources").child(kind).key(name);
                out.push(format!(
                    "{at}: fractional byte value {text:?} is invalid, must be an integer"
                ));
            }
        }
    }
    let mut places = BTreeMap::new();
    for (i, port) in list(c, "ports").iter().enumerate() {
        let numbers = ["containerPort", "hostPort"].map(|key| int_of(port, key));
        let texts = ["protocol", "hostIP"].map(|key| str_of(port, key));
        let first = *places.entry((numbers, texts)).or_insert(i);
        if first < i {
            let (a, b) = (path.child("ports").index(i), path.child("ports").index(first));
            out.push(format!("{a}: duplicate port definition with {b}"));
        }
    }
}

fn annotations(out: &mut Vec<String>, path: &Path, metadata: &Value) {
    for (key, _) in entries(metadata, "annotations") {
        let text = if key == "scheduler.alpha.kubernetes.io/critical-pod" {
            "non-functional in v1.16+; use the \"priorityClassName\" field instead"
        } else if key == "seccomp.security.alpha.kubernetes.io/pod"
            || key.starts_with("container.seccomp.security.alpha.kubernetes.io/")
        {
            "non-functional in v1.27+; use the \"seccompProfile\" field instead"
        } else if key.starts_with("container.apparmor.security.beta.kubernetes.io/") {
            "deprecated since v1.30; use the \"appArmorProfile\" field instead"
        } else {
            continue;
        };
        out.push(format!("{}: {text}", path.key(key)));
    }
}

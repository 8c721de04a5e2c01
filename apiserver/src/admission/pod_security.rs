//! Pod Security Standards: what the labels of a namespace ask of its pods.
//!
//! `enforce` refuses pods, `warn` warns about pods and about workloads with a pod template, and whoever makes a
//! namespace stricter is told about the pods that are there. The checks are in [`checks`].

mod checks;

use coxswain_api::ApiError;
use coxswain_api::field::{ErrorList, FieldError, Path};
use coxswain_api::kinds::access::{self, at, get, list, str_of};
use serde_json::Value;

use super::{Operation, Write};

/// How much is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// What a label asks for.
struct Policy {
    level: Level,
    /// Minor version of the standard.
    minor: u32,
    /// `restricted:latest`
    name: String,
}

impl Policy {
    /// The policy for `mode` (`enforce` or `warn`) that a namespace's labels ask for.
    fn of(labels: &Value, mode: &str) -> Self {
        let label = |suffix: &str| str_of(labels, &format!("pod-security.kubernetes.io/{mode}{suffix}"));
        let (level, name) = match label("") {
            "baseline" => (Level::Baseline, "baseline"),
            "restricted" => (Level::Restricted, "restricted"),
            _ => (Level::Privileged, "privileged"),
        };
        let version = if label("-version").is_empty() {
            "latest"
        } else {
            label("-version")
        };
        let minor = version.strip_prefix("v1.").and_then(|minor| minor.parse().ok());
        Self {
            level,
            minor: minor.unwrap_or(u32::MAX),
            name: format!("{name}:{version}"),
        }
    }

    /// What a pod does that is not allowed: reasons with details, or reasons alone.
    fn objections(&self, spec: &Value, annotations: &Value, details: bool) -> Option<String> {
        let found = checks::violations(spec, annotations, self.level, self.minor);
        let texts: Vec<String> = found
            .into_iter()
            .map(|v| {
                if details {
                    format!("{} ({})", v.reason, v.detail)
                } else {
                    v.reason
                }
            })
            .collect();
        (!texts.is_empty()).then(|| texts.join(", "))
    }
}

/// Refuses or warns about a pod, and warns about a workload's template.
pub(super) fn check(write: &Write<'_>, object: &Value) -> Result<(), ApiError> {
    if write.is("", "namespaces") {
        check_labels(write, object)?;
        warn_of_pods(write, object);
        return Ok(());
    }
    let pod = is_checked_pod(write, object);
    let Some((spec, annotations)) = pod_spec(write, object, pod) else {
        return Ok(());
    };
    let Some(namespace) = write.snapshot.find("namespaces", "", write.call.namespace()) else {
        return Ok(());
    };
    let stored = namespace.value();
    let labels = at(&stored, "/metadata/labels");
    let enforced = Policy::of(labels, "enforce");
    if pod && let Some(objections) = enforced.objections(spec, annotations, true) {
        let why = format!("violates PodSecurity {:?}: {objections}", enforced.name);
        return Err(write.call.forbidden(access::name(object), why));
    }
    let warned = Policy::of(labels, "warn");
    if let Some(objections) = warned.objections(spec, annotations, true) {
        write
            .call
            .warn(format!("would violate PodSecurity {:?}: {objections}", warned.name));
    }
    Ok(())
}

/// Pods are looked at when they are made, when their images change and when they get ephemeral containers.
fn is_checked_pod(write: &Write<'_>, object: &Value) -> bool {
    let pods = &*write.call.row.plural == "pods" && write.call.row.group.is_empty();
    match (write.operation, write.sub) {
        _ if !pods => false,
        (Operation::Create, None) => true,
        (Operation::Update, None | Some("ephemeralcontainers" | "resize")) => write.old.is_some_and(|old| {
            ["containers", "initContainers", "ephemeralContainers"]
                .iter()
                .any(|key| {
                    let (new, old) = (list(get(object, "spec"), key), list(get(old, "spec"), key));
                    let parts = ["name", "image", "securityContext"];
                    let differ = |(n, o): (&Value, &Value)| parts.iter().any(|part| n.get(part) != o.get(part));
                    new.len() != old.len() || new.iter().zip(old).any(differ)
                })
        }),
        _ => false,
    }
}

/// Pods looked at when the labels of their namespace become stricter.
const EXISTING_PODS_MAX: usize = 3000;

/// Tells whoever makes a namespace stricter about the pods that are there already.
fn warn_of_pods(write: &Write<'_>, namespace: &Value) {
    let Some(old) = write.old.filter(|_| write.operation == Operation::Update) else {
        return;
    };
    let policy = Policy::of(at(namespace, "/metadata/labels"), "enforce");
    let before = Policy::of(at(old, "/metadata/labels"), "enforce");
    let relaxed = policy.minor == before.minor && policy.level <= before.level;
    if policy.level == Level::Privileged || relaxed {
        return;
    }
    let name = access::name(namespace);
    let mut found: Vec<(String, String, usize)> = Vec::new();
    for stored in write.snapshot.list("pods", Some(name), None).take(EXISTING_PODS_MAX) {
        let pod = stored.value();
        let (spec, annotations) = (get(&pod, "spec"), at(&pod, "/metadata/annotations"));
        let Some(reasons) = policy.objections(spec, annotations, false) else {
            continue;
        };
        match found.iter_mut().find(|(_, known, _)| *known == reasons) {
            Some((_, _, others)) => *others += 1,
            None => found.push((stored.key.name.to_string(), reasons, 0)),
        }
    }
    if found.is_empty() {
        return;
    }
    write.call.warn(format!(
        "existing pods in namespace {name:?} violate the new PodSecurity enforce level {:?}",
        policy.name
    ));
    for (pod, reasons, others) in found {
        let others = match others {
            0 => String::new(),
            1 => " (and 1 other pod)".to_owned(),
            n => format!(" (and {n} other pods)"),
        };
        write.call.warn(format!("{pod}{others}: {reasons}"));
    }
}

/// The labels themselves must make sense.
fn check_labels(write: &Write<'_>, namespace: &Value) -> Result<(), ApiError> {
    let labels = at(namespace, "/metadata/labels");
    let mut errors = ErrorList::new();
    for mode in ["enforce", "audit", "warn"] {
        let key = format!("pod-security.kubernetes.io/{mode}");
        let level = labels.get(&key).and_then(Value::as_str);
        if let Some(level) = level.filter(|level| !["privileged", "baseline", "restricted"].contains(level)) {
            let path = Path::new("metadata").child("labels").key(&key);
            errors.push(FieldError::invalid(
                &path,
                level,
                "must be one of privileged, baseline, restricted",
            ));
        }
        let key = format!("{key}-version");
        if let Some(version) = labels.get(&key).and_then(Value::as_str) {
            let minor = version
                .strip_prefix("v1.")
                .is_some_and(|minor| minor.parse::<u32>().is_ok());
            if version != "latest" && !minor {
                let path = Path::new("metadata").child("labels").key(&key);
                errors.push(FieldError::invalid(&path, version, "must be \"latest\" or \"v1.x\""));
            }
        }
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid(
            "",
            &write.call.row.kind,
            access::name(namespace),
            errors,
        ))
    }
}

/// Spec and annotations of a pod, or of the template of a workload that is being written.
fn pod_spec<'v>(write: &Write<'_>, object: &'v Value, pod: bool) -> Option<(&'v Value, &'v Value)> {
    if pod {
        return Some((object.get("spec")?, at(object, "/metadata/annotations")));
    }
    if write.sub.is_some() || write.operation == Operation::Delete {
        return None;
    }
    let pointer = match (&*write.call.row.group, &*write.call.row.plural) {
        ("apps", "deployments" | "replicasets" | "statefulsets" | "daemonsets")
        | ("", "replicationcontrollers")
        | ("batch", "jobs") => "/spec/template",
        ("batch", "cronjobs") => "/spec/jobTemplate/spec/template",
        ("", "podtemplates") => "/template",
        _ => return None,
    };
    let template = object.pointer(pointer)?;
    Some((template.get("spec")?, at(template, "/metadata/annotations")))
}

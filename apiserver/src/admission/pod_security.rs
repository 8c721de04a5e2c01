//! Pod Security Standards: what the labels of a namespace ask of its pods.
//!
//! `enforce` refuses pods, `warn` warns about pods and about workloads with a pod template. The
//! checks are those of the `baseline` and `restricted` levels of the newest version.

use coxswain_api::ApiError;
use coxswain_api::field::{ErrorList, FieldError, Path};
use coxswain_api::kinds::access::{self, at, flag, get, list, str_of, text};
use serde_json::Value;

use super::{Operation, Write};

/// Capabilities a baseline container may add.
const BASELINE_CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Sysctls a baseline pod may set.
const SAFE_SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// Volume types a restricted pod may use.
const RESTRICTED_VOLUMES: &[&str] = &[
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

/// How much is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// Refuses or warns about a pod, and warns about a workload's template.
pub(super) fn check(write: &Write<'_>, object: &Value) -> Result<(), ApiError> {
    if write.is("", "namespaces") {
        return check_labels(write, object);
    }
    let pod = write.creates("", "pods");
    let Some(spec) = pod_spec(write, object, pod) else {
        return Ok(());
    };
    let Some(namespace) = write.snapshot.find("namespaces", "", write.call.namespace()) else {
        return Ok(());
    };
    let level = |mode: &str| {
        let name = namespace
            .head
            .label(&format!("pod-security.kubernetes.io/{mode}"))
            .unwrap_or("privileged");
        let level = match name {
            "baseline" => Level::Baseline,
            "restricted" => Level::Restricted,
            _ => Level::Privileged,
        };
        let version = namespace
            .head
            .label(&format!("pod-security.kubernetes.io/{mode}-version"))
            .unwrap_or("latest");
        (level, format!("{name}:{version}"))
    };
    let (enforced, enforced_name) = level("enforce");
    if pod {
        let objections = violations(spec, enforced);
        if !objections.is_empty() {
            let why = format!("violates PodSecurity {enforced_name:?}: {}", objections.join(", "));
            return Err(write.call.forbidden(access::name(object), why));
        }
    }
    let (warned, warned_name) = level("warn");
    let objections = violations(spec, warned);
    if !objections.is_empty() {
        write.call.warn(format!(
            "would violate PodSecurity {warned_name:?}: {}",
            objections.join(", ")
        ));
    }
    Ok(())
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

/// The pod spec of a pod or of a workload whose template is being written.
fn pod_spec<'v>(write: &Write<'_>, object: &'v Value, pod: bool) -> Option<&'v Value> {
    if pod {
        return object.get("spec");
    }
    if write.sub.is_some() || write.operation == Operation::Delete {
        return None;
    }
    let pointer = match (&*write.call.row.group, &*write.call.row.plural) {
        ("apps", "deployments" | "replicasets" | "statefulsets" | "daemonsets")
        | ("", "replicationcontrollers")
        | ("batch", "jobs") => "/spec/template/spec",
        ("batch", "cronjobs") => "/spec/jobTemplate/spec/template/spec",
        ("", "podtemplates") => "/template/spec",
        _ => return None,
    };
    object.pointer(pointer)
}

/// Every container with its name.
fn containers(spec: &Value) -> Vec<(&str, &Value)> {
    ["initContainers", "containers", "ephemeralContainers"]
        .iter()
        .flat_map(|field| list(spec, field))
        .map(|container| (str_of(container, "name"), container))
        .collect()
}

/// `container "a"` or `containers "a", "b"`
fn named(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    format!(
        "{} {}",
        if names.len() == 1 { "container" } else { "containers" },
        quoted.join(", ")
    )
}

/// What a pod does that a level does not allow, in Kubernetes' words and order.
fn violations(spec: &Value, level: Level) -> Vec<String> {
    let mut out = Vec::new();
    if level >= Level::Restricted {
        restricted_escalation(spec, &mut out);
    }
    if level >= Level::Baseline {
        if level == Level::Baseline {
            baseline_capabilities(spec, &mut out);
        } else {
            restricted_capabilities(spec, &mut out);
        }
        baseline_host(spec, &mut out);
        baseline_rest(spec, &mut out);
    }
    if level >= Level::Restricted {
        restricted_rest(spec, &mut out);
    }
    out
}

fn restricted_escalation(spec: &Value, out: &mut Vec<String>) {
    let bad: Vec<&str> = containers(spec)
        .into_iter()
        .filter(|(_, container)| at(container, "/securityContext/allowPrivilegeEscalation") != &Value::Bool(false))
        .map(|(name, _)| name)
        .collect();
    if !bad.is_empty() {
        out.push(format!(
            "allowPrivilegeEscalation != false ({} must set securityContext.allowPrivilegeEscalation=false)",
            named(&bad)
        ));
    }
}

fn added(container: &Value) -> Vec<&str> {
    access::list_at(container, "/securityContext/capabilities/add")
        .iter()
        .filter_map(Value::as_str)
        .collect()
}

fn forbidden_capabilities<'v>(spec: &'v Value, allowed: &[&str]) -> (Vec<&'v str>, Vec<&'v str>) {
    let (mut bad, mut names) = (Vec::new(), Vec::new());
    for (name, container) in containers(spec) {
        let forbidden: Vec<&str> = added(container)
            .into_iter()
            .filter(|capability| !allowed.contains(capability))
            .collect();
        if !forbidden.is_empty() {
            bad.push(name);
            names.extend(forbidden);
        }
    }
    names.sort_unstable();
    names.dedup();
    (bad, names)
}

fn quoted(names: &[&str]) -> String {
    names
        .iter()
        .map(|name| format!("{name:?}"))
        .collect::<Vec<_>>()
        .join(", ")
}

fn baseline_capabilities(spec: &Value, out: &mut Vec<String>) {
    let (bad, names) = forbidden_capabilities(spec, BASELINE_CAPABILITIES);
    if !bad.is_empty() {
        out.push(format!(
            "non-default capabilities ({} must not include {} in securityContext.capabilities.add)",
            named(&bad),
            quoted(&names)
        ));
    }
}

fn restricted_capabilities(spec: &Value, out: &mut Vec<String>) {
    let keeps: Vec<&str> = containers(spec)
        .into_iter()
        .filter(|(_, container)| {
            !access::list_at(container, "/securityContext/capabilities/drop")
                .iter()
                .any(|item| item.as_str() == Some("ALL"))
        })
        .map(|(name, _)| name)
        .collect();
    let (bad, names) = forbidden_capabilities(spec, &["NET_BIND_SERVICE"]);
    let mut parts = Vec::new();
    if !keeps.is_empty() {
        parts.push(format!(
            "{} must set securityContext.capabilities.drop=[\"ALL\"]",
            named(&keeps)
        ));
    }
    if !bad.is_empty() {
        parts.push(format!(
            "{} must not include {} in securityContext.capabilities.add",
            named(&bad),
            quoted(&names)
        ));
    }
    if !parts.is_empty() {
        out.push(format!("unrestricted capabilities ({})", parts.join("; ")));
    }
}

fn baseline_host(spec: &Value, out: &mut Vec<String>) {
    let host: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .iter()
        .filter(|field| flag(spec, field))
        .map(|field| format!("{field}=true"))
        .collect();
    if !host.is_empty() {
        out.push(format!("host namespaces ({})", host.join(", ")));
    }
    let volumes: Vec<&str> = list(spec, "volumes")
        .iter()
        .filter(|volume| access::has(volume, "hostPath"))
        .map(|volume| str_of(volume, "name"))
        .collect();
    if !volumes.is_empty() {
        let word = if volumes.len() == 1 { "volume" } else { "volumes" };
        out.push(format!("hostPath volumes ({word} {})", quoted(&volumes)));
    }
    let mut ports: Vec<String> = Vec::new();
    let mut users = Vec::new();
    for (name, container) in containers(spec) {
        let used: Vec<i64> = list(container, "ports")
            .iter()
            .filter_map(|port| access::int_of(port, "hostPort"))
            .filter(|port| *port != 0)
            .collect();
        if !used.is_empty() {
            users.push(name);
            ports.extend(used.iter().map(i64::to_string));
        }
    }
    if !users.is_empty() {
        let word = if ports.len() == 1 { "hostPort" } else { "hostPorts" };
        let verb = if users.len() == 1 { "uses" } else { "use" };
        out.push(format!(
            "hostPort ({} {verb} {word} {})",
            named(&users),
            ports.join(", ")
        ));
    }
}

fn baseline_rest(spec: &Value, out: &mut Vec<String>) {
    let privileged: Vec<&str> = containers(spec)
        .into_iter()
        .filter(|(_, container)| at(container, "/securityContext/privileged") == &Value::Bool(true))
        .map(|(name, _)| name)
        .collect();
    if !privileged.is_empty() {
        out.push(format!(
            "privileged ({} must not set securityContext.privileged=true)",
            named(&privileged)
        ));
    }
    let masks: Vec<&str> = containers(spec)
        .into_iter()
        .filter(|(_, container)| !matches!(text(container, "/securityContext/procMount"), "" | "Default"))
        .map(|(name, _)| name)
        .collect();
    if !masks.is_empty() {
        out.push(format!(
            "procMount ({} must not set securityContext.procMount to \"Unmasked\")",
            named(&masks)
        ));
    }
    let unconfined: Vec<&str> = containers(spec)
        .into_iter()
        .filter(|(_, container)| text(container, "/securityContext/seccompProfile/type") == "Unconfined")
        .map(|(name, _)| name)
        .collect();
    let pod_unconfined = text(spec, "/securityContext/seccompProfile/type") == "Unconfined";
    if pod_unconfined || !unconfined.is_empty() {
        let mut who = Vec::new();
        if pod_unconfined {
            who.push("pod".to_owned());
        }
        if !unconfined.is_empty() {
            who.push(named(&unconfined));
        }
        out.push(format!(
            "seccompProfile ({} must not set securityContext.seccompProfile.type to \"Unconfined\")",
            who.join(" and ")
        ));
    }
    let sysctls: Vec<&str> = access::list_at(spec, "/securityContext/sysctls")
        .iter()
        .map(|sysctl| str_of(sysctl, "name"))
        .filter(|name| !SAFE_SYSCTLS.contains(name))
        .collect();
    if !sysctls.is_empty() {
        out.push(format!("forbidden sysctls ({})", sysctls.join(", ")));
    }
}

fn restricted_rest(spec: &Value, out: &mut Vec<String>) {
    let pod = get(spec, "securityContext");
    let volumes: Vec<&str> = list(spec, "volumes")
        .iter()
        .filter(|volume| !RESTRICTED_VOLUMES.iter().any(|kind| access::has(volume, kind)))
        .map(|volume| str_of(volume, "name"))
        .collect();
    if !volumes.is_empty() {
        let (word, verb) = if volumes.len() == 1 {
            ("volume", "uses restricted volume type")
        } else {
            ("volumes", "use restricted volume types")
        };
        out.push(format!("restricted volume types ({word} {} {verb})", quoted(&volumes)));
    }
    let non_root = |container: &Value| {
        let own = at(container, "/securityContext/runAsNonRoot").as_bool();
        own.unwrap_or_else(|| flag(pod, "runAsNonRoot"))
    };
    let roots: Vec<&str> = containers(spec)
        .into_iter()
        .filter(|(_, container)| !non_root(container))
        .map(|(name, _)| name)
        .collect();
    if !roots.is_empty() {
        out.push(format!(
            "runAsNonRoot != true (pod or {} must set securityContext.runAsNonRoot=true)",
            named(&roots)
        ));
    }
    let zero: Vec<&str> = containers(spec)
        .into_iter()
        .filter(|(_, container)| at(container, "/securityContext/runAsUser").as_i64() == Some(0))
        .map(|(name, _)| name)
        .collect();
    if !zero.is_empty() || access::int_of(pod, "runAsUser") == Some(0) {
        let who = if zero.is_empty() {
            "pod".to_owned()
        } else {
            named(&zero)
        };
        out.push(format!("runAsUser=0 ({who} must not set runAsUser=0)"));
    }
    let profiled = |container: &Value| {
        let own = text(container, "/securityContext/seccompProfile/type");
        let kind = if own.is_empty() {
            text(pod, "/seccompProfile/type")
        } else {
            own
        };
        matches!(kind, "RuntimeDefault" | "Localhost")
    };
    let bare: Vec<&str> = containers(spec)
        .into_iter()
        .filter(|(_, container)| !profiled(container))
        .map(|(name, _)| name)
        .collect();
    if !bare.is_empty() {
        out.push(format!(
            "seccompProfile (pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
            named(&bare)
        ));
    }
}

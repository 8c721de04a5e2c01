//! Objections to containers, init containers and ephemeral containers.

use super::probes;
use super::volumes::Volumes;
use super::{env, security};
use crate::field::{ErrorList, Path, duplicate, forbidden, invalid, not_found, not_supported, required, too_many};
use crate::kinds::access::{flag, get, has, int_of, list, str_of};
use crate::kinds::check;
use crate::kinds::resources;
use crate::names;
use crate::schema::choices::PROTOCOLS;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What the containers of one pod share.
struct Shared<'a> {
    volumes: &'a Volumes<'a>,
    claims: &'a BTreeSet<&'a str>,
    grace_s: Option<i64>,
    restart_policy: &'a str,
    host_users: bool,
}

/// All containers of a pod spec.
pub fn check(errors: &mut ErrorList, path: &Path, spec: &Value, volumes: &Volumes<'_>, claims: &BTreeSet<&str>) {
    let shared = Shared {
        volumes,
        claims,
        grace_s: int_of(spec, "terminationGracePeriodSeconds"),
        restart_policy: str_of(spec, "restartPolicy"),
        host_users: get(spec, "hostUsers").as_bool() != Some(false),
    };
    regular(errors, &path.child("containers"), spec, &shared);
    init(errors, &path.child("initContainers"), spec, &shared);
    ephemeral(errors, &path.child("ephemeralContainers"), spec, &shared);
}

/// Every container and its place, in the order in which Kubernetes visits them.
pub fn all<'a>(path: &Path, spec: &'a Value) -> Vec<(Path, &'a Value)> {
    ["initContainers", "containers", "ephemeralContainers"]
        .iter()
        .flat_map(|key| {
            let containers = list(spec, key).iter().enumerate();
            containers.map(|(i, c)| (path.child(key).index(i), c))
        })
        .collect()
}

fn regular(errors: &mut ErrorList, path: &Path, spec: &Value, shared: &Shared<'_>) {
    let containers = list(spec, "containers");
    if containers.is_empty() {
        errors.push(required(path, ""));
        return;
    }
    let mut seen = BTreeSet::new();
    for (i, c) in containers.iter().enumerate() {
        let path = path.index(i);
        common(errors, &path, c, shared);
        if !seen.insert(str_of(c, "name")) {
            errors.push(duplicate(&path.child("name"), str_of(c, "name")));
        }
        hooks_and_probes(errors, &path, c, shared);
        restart_policy(errors, &path, c);
    }
    host_port_conflicts(errors, path, containers);
}

fn init(errors: &mut ErrorList, path: &Path, spec: &Value, shared: &Shared<'_>) {
    let mut seen: BTreeSet<&str> = list(spec, "containers").iter().map(|c| str_of(c, "name")).collect();
    for (i, c) in list(spec, "initContainers").iter().enumerate() {
        let at = path.index(i);
        common(errors, &at, c, shared);
        let policy = str_of(c, "restartPolicy");
        restart_policy(errors, &at, c);
        let name = str_of(c, "name");
        if seen.contains(name) {
            errors.push(duplicate(&at.child("name"), name));
        } else if !name.is_empty() {
            seen.insert(name);
        }
        host_port_conflicts(errors, path, std::slice::from_ref(c));
        if policy == "Always" {
            hooks_and_probes(errors, &at, c, shared);
            continue;
        }
        for key in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            if has(c, key) {
                errors.push(forbidden(
                    &at.child(key),
                    "may not be set for init containers without restartPolicy=Always",
                ));
            }
        }
        for (j, resize) in list(c, "resizePolicy").iter().enumerate() {
            if str_of(resize, "restartPolicy") == "RestartContainer" {
                let at = at.child("resizePolicy").index(j).child("restartPolicy");
                let detail = "must not be set to 'RestartContainer' for non-sidecar initContainers";
                errors.push(invalid(&at, "RestartContainer", detail));
            }
        }
    }
}

fn ephemeral(errors: &mut ErrorList, path: &Path, spec: &Value, shared: &Shared<'_>) {
    const REFUSED: &[&str] = &[
        "ports",
        "resources",
        "resizePolicy",
        "restartPolicy",
        "restartPolicyRules",
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
        "lifecycle",
    ];
    let others: BTreeSet<&str> = ["containers", "initContainers"]
        .iter()
        .flat_map(|k| list(spec, k))
        .map(|c| str_of(c, "name"))
        .collect();
    let mut seen = others.clone();
    for (i, c) in list(spec, "ephemeralContainers").iter().enumerate() {
        let path = path.index(i);
        common(errors, &path, c, shared);
        image_has_no_spaces(errors, &path.child("image"), str_of(c, "image"));
        if !seen.insert(str_of(c, "name")) {
            errors.push(duplicate(&path.child("name"), str_of(c, "name")));
        }
        let target = str_of(c, "targetContainerName");
        if !target.is_empty() && !others.contains(target) {
            errors.push(not_found(&path.child("targetContainerName"), target));
        }
        for key in REFUSED {
            if c.get(*key).is_some_and(|v| !crate::kinds::access::is_empty(v)) {
                errors.push(forbidden(&path.child(key), "cannot be set for an Ephemeral Container"));
            }
        }
        for (j, mount) in list(c, "volumeMounts").iter().enumerate() {
            for key in ["subPath", "subPathExpr"] {
                if !str_of(mount, key).is_empty() {
                    errors.push(forbidden(
                        &path.child("volumeMounts").index(j).child(key),
                        "cannot be set for an Ephemeral Container",
                    ));
                }
            }
        }
    }
}

/// Images of pods have no spaces around them; templates are not checked for that.
pub fn image_has_no_spaces(errors: &mut ErrorList, path: &Path, image: &str) {
    if image.trim().len() != image.len() {
        errors.push(invalid(path, image, "must not have leading or trailing whitespace"));
    }
}

/// When a container comes back, by itself and by the codes it exits with.
fn restart_policy(errors: &mut ErrorList, path: &Path, c: &Value) {
    const RULES_MAX: usize = 20;
    const CODES_MAX: usize = 255;
    let rules = list(c, "restartPolicyRules");
    if has(c, "restartPolicy") {
        let policies = ["Always", "Never", "OnFailure"];
        check::one_of(
            errors,
            &path.child("restartPolicy"),
            str_of(c, "restartPolicy"),
            &policies,
        );
    } else if !rules.is_empty() {
        errors.push(required(
            &path.child("restartPolicy"),
            "must specify restartPolicy when restart rules are used",
        ));
    }
    let path = path.child("restartPolicyRules");
    if rules.len() > RULES_MAX {
        errors.push(too_many(&path, rules.len(), RULES_MAX));
    }
    for (i, rule) in rules.iter().enumerate() {
        let path = path.index(i);
        let actions = ["Restart", "RestartAllContainers"];
        check::one_of(errors, &path.child("action"), str_of(rule, "action"), &actions);
        let (codes, at) = (get(rule, "exitCodes"), path.child("exitCodes"));
        if !codes.is_object() {
            errors.push(required(&at, "must be specified"));
            continue;
        }
        check::one_of(
            errors,
            &at.child("operator"),
            str_of(codes, "operator"),
            &["In", "NotIn"],
        );
        let values = list(codes, "values");
        if values.len() > CODES_MAX {
            errors.push(too_many(&at.child("values"), values.len(), CODES_MAX));
        }
    }
}

fn hooks_and_probes(errors: &mut ErrorList, path: &Path, c: &Value, shared: &Shared<'_>) {
    let lifecycle = get(c, "lifecycle");
    if lifecycle.is_object() {
        probes::lifecycle(errors, &path.child("lifecycle"), lifecycle, shared.grace_s);
    }
    for (key, must_be_one) in [
        ("livenessProbe", true),
        ("readinessProbe", false),
        ("startupProbe", true),
    ] {
        let probe = get(c, key);
        if probe.is_object() {
            probes::probe(errors, &path.child(key), probe, must_be_one, shared.grace_s);
        }
    }
}

/// The rules that all three sorts of containers share.
fn common(errors: &mut ErrorList, path: &Path, c: &Value, shared: &Shared<'_>) {
    let name = str_of(c, "name");
    if name.is_empty() {
        errors.push(required(&path.child("name"), ""));
    } else {
        check::dns_label(errors, &path.child("name"), name);
    }
    if str_of(c, "image").is_empty() {
        errors.push(required(&path.child("image"), ""));
    }
    let policies = ["File", "FallbackToLogsOnError"];
    check::required_one_of(
        errors,
        &path.child("terminationMessagePolicy"),
        str_of(c, "terminationMessagePolicy"),
        &policies,
    );
    ports(errors, &path.child("ports"), list(c, "ports"));
    env::variables(errors, &path.child("env"), list(c, "env"));
    env::sources(errors, &path.child("envFrom"), list(c, "envFrom"));
    mounts(errors, &path.child("volumeMounts"), c, shared.volumes);
    devices(errors, &path.child("volumeDevices"), c, shared.volumes);
    let pull = ["Always", "IfNotPresent", "Never"];
    check::required_one_of(
        errors,
        &path.child("imagePullPolicy"),
        str_of(c, "imagePullPolicy"),
        &pull,
    );
    resources::container(errors, &path.child("resources"), get(c, "resources"), shared.claims);
    resize_policy(errors, &path.child("resizePolicy"), c, shared.restart_policy);
    security::container(
        errors,
        &path.child("securityContext"),
        get(c, "securityContext"),
        shared.host_users,
    );
}

fn ports(errors: &mut ErrorList, path: &Path, ports: &[Value]) {
    let mut seen = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        let name = str_of(port, "name");
        if !name.is_empty() {
            let messages = names::port_name(name);
            if messages.is_empty() {
                if !seen.insert(name) {
                    errors.push(duplicate(&path.child("name"), name));
                }
            } else {
                check::each(errors, &path.child("name"), name, messages);
            }
        }
        match int_of(port, "containerPort").unwrap_or(0) {
            0 => errors.push(required(&path.child("containerPort"), "")),
            number => check::port(errors, &path.child("containerPort"), number),
        }
        if let Some(number) = int_of(port, "hostPort").filter(|n| *n != 0) {
            check::port(errors, &path.child("hostPort"), number);
        }
        check::required_one_of(errors, &path.child("protocol"), str_of(port, "protocol"), PROTOCOLS);
    }
}

fn host_port_conflicts(errors: &mut ErrorList, path: &Path, containers: &[Value]) {
    let mut seen = BTreeSet::new();
    for (i, c) in containers.iter().enumerate() {
        for (j, port) in list(c, "ports").iter().enumerate() {
            let Some(number) = int_of(port, "hostPort").filter(|n| *n != 0) else {
                continue;
            };
            let key = format!("{}/{}/{number}", str_of(port, "protocol"), str_of(port, "hostIP"));
            if !seen.insert(key.clone()) {
                errors.push(duplicate(&path.index(i).child("ports").index(j).child("hostPort"), key));
            }
        }
    }
}

fn by_name<'a>(items: &'a [Value], place: &str) -> BTreeMap<&'a str, &'a str> {
    items.iter().map(|v| (str_of(v, "name"), str_of(v, place))).collect()
}

fn mounts(errors: &mut ErrorList, path: &Path, c: &Value, volumes: &Volumes<'_>) {
    let devices = by_name(list(c, "volumeDevices"), "devicePath");
    let device_paths: BTreeSet<&str> = devices.values().copied().collect();
    let mut seen = BTreeSet::new();
    for (i, mount) in list(c, "volumeMounts").iter().enumerate() {
        let at = path.index(i);
        let (name, place) = (str_of(mount, "name"), str_of(mount, "mountPath"));
        if name.is_empty() {
            errors.push(required(&at.child("name"), ""));
        }
        if !volumes.contains_key(name) {
            errors.push(not_found(&at.child("name"), name));
        }
        if place.is_empty() {
            errors.push(required(&at.child("mountPath"), ""));
        }
        if !seen.insert(place) {
            errors.push(invalid(&at.child("mountPath"), place, "must be unique"));
        }
        if devices.contains_key(name) {
            errors.push(invalid(
                &at.child("name"),
                name,
                "must not already exist in volumeDevices",
            ));
        }
        if device_paths.contains(place) {
            errors.push(invalid(
                &at.child("mountPath"),
                place,
                "must not already exist as a path in volumeDevices",
            ));
        }
        let (sub, expression) = (str_of(mount, "subPath"), str_of(mount, "subPathExpr"));
        if !sub.is_empty() {
            super::volumes::descending_path(errors, &path.child("subPath"), sub);
        }
        if !expression.is_empty() {
            if !sub.is_empty() {
                errors.push(invalid(
                    &at.child("subPathExpr"),
                    expression,
                    "subPathExpr and subPath are mutually exclusive",
                ));
            }
            super::volumes::descending_path(errors, &path.child("subPathExpr"), expression);
        }
        mount_modes(errors, path, mount, c);
    }
}

fn mount_modes(errors: &mut ErrorList, path: &Path, mount: &Value, c: &Value) {
    let propagation = str_of(mount, "mountPropagation");
    if has(mount, "mountPropagation") {
        let at = path.child("mountPropagation");
        check::one_of(errors, &at, propagation, &["Bidirectional", "HostToContainer", "None"]);
        if propagation == "Bidirectional" && !flag(get(c, "securityContext"), "privileged") {
            errors.push(forbidden(
                &at,
                "Bidirectional mount propagation is available only to privileged containers",
            ));
        }
    }
    if has(mount, "recursiveReadOnly") {
        let at = path.child("recursiveReadOnly");
        match str_of(mount, "recursiveReadOnly") {
            "Disabled" => {}
            "Enabled" | "IfPossible" => {
                if !flag(mount, "readOnly") {
                    errors.push(forbidden(&at, "may only be specified when readOnly is true"));
                }
                if !propagation.is_empty() && propagation != "None" {
                    errors.push(forbidden(
                        &at,
                        "may only be specified when mountPropagation is None or not specified",
                    ));
                }
            }
            other => errors.push(not_supported(&at, other, &["Disabled", "Enabled", "IfPossible"])),
        }
    }
}

fn devices(errors: &mut ErrorList, path: &Path, c: &Value, volumes: &Volumes<'_>) {
    let mounts = by_name(list(c, "volumeMounts"), "mountPath");
    let mount_paths: BTreeSet<&str> = mounts.values().copied().collect();
    let (mut seen_names, mut seen_paths) = (BTreeSet::new(), BTreeSet::new());
    for (i, device) in list(c, "volumeDevices").iter().enumerate() {
        let path = path.index(i);
        let (name, place) = (str_of(device, "name"), str_of(device, "devicePath"));
        if name.is_empty() {
            errors.push(required(&path.child("name"), ""));
        }
        if !name.is_empty() && !seen_names.insert(name) {
            errors.push(invalid(&path.child("name"), name, "must be unique"));
        }
        match volumes.get(name) {
            None => errors.push(not_found(&path.child("name"), name)),
            Some(v) if has(v, "persistentVolumeClaim") || has(v, "ephemeral") => {}
            Some(_) => {
                let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.push(invalid(&path.child("name"), name, detail));
            }
        }
        if place.is_empty() {
            errors.push(required(&path.child("devicePath"), ""));
        }
        if place.split('/').any(|part| part == "..") {
            errors.push(invalid(
                &path.child("devicePath"),
                place,
                "can not contain backsteps ('..')",
            ));
        } else if !seen_paths.insert(place) {
            errors.push(invalid(&path.child("devicePath"), place, "must be unique"));
        }
        if mounts.contains_key(name) {
            errors.push(invalid(
                &path.child("name"),
                name,
                "must not already exist in volumeMounts",
            ));
        }
        if mount_paths.contains(place) {
            errors.push(invalid(
                &path.child("devicePath"),
                place,
                "must not already exist as a path in volumeMounts",
            ));
        }
    }
}

fn resize_policy(errors: &mut ErrorList, path: &Path, c: &Value, restart_policy: &str) {
    let mut seen = BTreeSet::new();
    for (i, policy) in list(c, "resizePolicy").iter().enumerate() {
        let (resource, restart) = (str_of(policy, "resourceName"), str_of(policy, "restartPolicy"));
        if !seen.insert(resource) {
            errors.push(duplicate(&path.index(i), resource));
        }
        check::required_one_of(errors, path, resource, &["cpu", "memory"]);
        check::required_one_of(errors, path, restart, &["NotRequired", "RestartContainer"]);
        if restart_policy == "Never" && restart != "NotRequired" {
            errors.push(invalid(
                path,
                restart,
                "must be 'NotRequired' when pod `restartPolicy` is 'Never'",
            ));
        }
    }
}

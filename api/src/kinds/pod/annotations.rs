//! Objections to annotations that mean something to pods: mirrors, deletion cost, and the old way to give profiles.

use super::containers;
use super::volumes::descending_path;
use crate::field::{ErrorList, FieldError, Path, forbidden, invalid};
use crate::kinds::access::{get, has, str_of};
use serde_json::Value;
use std::collections::BTreeSet;

/// A pod that a node made from a file.
pub const MIRROR: &str = "kubernetes.io/config.mirror";
const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const LOCAL: &str = "localhost/";

/// The values of a pod's annotations, or of a template's.
pub fn check(errors: &mut ErrorList, path: &Path, annotations: &Value, spec: &Value) {
    if has(annotations, MIRROR) && str_of(spec, "nodeName").is_empty() {
        errors.push(invalid(
            &path.key(MIRROR),
            str_of(annotations, MIRROR),
            "must set spec.nodeName if mirror pod annotation is set",
        ));
    }
    if has(annotations, COST) && !is_cost(str_of(annotations, COST)) {
        errors.push(invalid(
            &path.key(COST),
            str_of(annotations, COST),
            "must be a 32bit integer",
        ));
    }
    let all = || annotations.as_object().into_iter().flatten();
    for (key, profile) in all().filter(|(key, _)| *key == SECCOMP_POD || key.starts_with(SECCOMP_CONTAINER)) {
        let profile = profile.as_str().unwrap_or("");
        match profile.strip_prefix(LOCAL) {
            Some(file) => descending_path(errors, &path.child(key), file),
            None if ["runtime/default", "docker/default", "unconfined"].contains(&profile) => {}
            None => errors.push(invalid(&path.child(key), profile, "must be a valid seccomp profile")),
        }
    }
    let containers = containers::all(&Path::root(), spec);
    let names: BTreeSet<&str> = containers.iter().map(|(_, c)| str_of(c, "name")).collect();
    for (key, profile) in all() {
        let Some(container) = key.strip_prefix(APP_ARMOR) else {
            continue;
        };
        if !names.contains(container) {
            errors.push(invalid(&path.key(key), container, "container not found"));
        }
        let profile = profile.as_str().unwrap_or("");
        if !["", "runtime/default", "unconfined"].contains(&profile) && !profile.starts_with(LOCAL) {
            let detail = format!("invalid AppArmor profile name: {}", crate::field::quote(profile));
            errors.push(invalid(&path.key(key), profile, detail));
        }
    }
}

/// A whole number without a plus or leading zeros.
fn is_cost(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = text == "0" || digits.starts_with(|c: char| ('1'..='9').contains(&c));
    plain && text.parse::<i32>().is_ok()
}

/// Profiles that are given both ways on creation have to be the same.
pub fn agree_with_fields(errors: &mut ErrorList, path: &Path, annotations: &Value, spec: &Value) {
    let of_pod = get(spec, "securityContext");
    let old = |key: &str| annotations.get(key).and_then(Value::as_str);
    let at = |path: &Path, key: &str| path.child("securityContext").child(key);
    if let Some(text) = old(SECCOMP_POD) {
        let names = ["runtime/default", "docker/default"];
        let profile = get(of_pod, "seccompProfile");
        errors.extend(disagreement(
            &at(path, "seccompProfile"),
            "seccomp",
            profile,
            text,
            &names,
        ));
    }
    let all = containers::all(path, spec);
    for (path, c) in &all {
        if let Some(text) = old(&format!("{SECCOMP_CONTAINER}{}", str_of(c, "name"))) {
            let names = ["runtime/default", "docker/default"];
            let profile = get(get(c, "securityContext"), "seccompProfile");
            errors.extend(disagreement(
                &at(path, "seccompProfile"),
                "seccomp",
                profile,
                text,
                &names,
            ));
        }
    }
    if str_of(get(spec, "os"), "name") == "windows" {
        return;
    }
    for (path, c) in &all {
        let own = get(get(c, "securityContext"), "appArmorProfile");
        let profile = if own.is_object() {
            own
        } else {
            get(of_pod, "appArmorProfile")
        };
        if let Some(text) = old(&format!("{APP_ARMOR}{}", str_of(c, "name"))) {
            let found = disagreement(
                &at(path, "appArmorProfile"),
                "apparmor",
                profile,
                text,
                &["runtime/default"],
            );
            errors.extend(found);
        }
    }
}

fn disagreement(path: &Path, noun: &str, profile: &Value, old: &str, defaults: &[&str]) -> Option<FieldError> {
    let type_differs = || {
        Some(forbidden(
            &path.child("type"),
            format!("{noun} type in annotation and field must match"),
        ))
    };
    match str_of(profile, "type") {
        "Unconfined" if old != "unconfined" => type_differs(),
        "RuntimeDefault" if !defaults.contains(&old) => type_differs(),
        "Localhost" => match old.strip_prefix(LOCAL) {
            None => type_differs(),
            Some(name) if name != str_of(profile, "localhostProfile") => Some(forbidden(
                &path.child("localhostProfile"),
                format!("{noun} profile in annotation and field must match"),
            )),
            Some(_) => None,
        },
        _ => None,
    }
}

/// Annotations that an update may not touch, and the values of all.
pub fn check_change(errors: &mut ErrorList, path: &Path, new: &Value, old: &Value, spec: &Value) {
    let keys =
        |map: &'_ Value| -> Vec<String> { map.as_object().into_iter().flatten().map(|(k, _)| k.clone()).collect() };
    let touched = keys(old).into_iter().filter(|key| new.get(key) != old.get(key));
    let added = keys(new).into_iter().filter(|key| old.get(key).is_none());
    for (key, verb) in touched
        .map(|k| (k, "remove or update"))
        .chain(added.map(|k| (k, "add")))
    {
        if key.starts_with(APP_ARMOR) {
            errors.push(forbidden(
                &path.key(&key),
                format!("may not {verb} AppArmor annotations"),
            ));
        } else if key == MIRROR {
            errors.push(forbidden(
                &path.key(&key),
                format!("may not {verb} mirror pod annotation"),
            ));
        }
    }
    check(errors, path, new, spec);
}

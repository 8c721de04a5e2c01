//! The recorded exchanges, replayed against the rules alone.
//!
//! A case's writes go through decoding, defaults, preparation and validation with a map as the store. What an API
//! server adds around that (admission, allocated addresses, identities) is not here, so members that come from
//! there are not compared. Without the recordings beside the workspace the test says so and passes.

use super::access::{at, child, list, namespace, set, str_of};
use crate::codec::{self, Validation};
use crate::patch;
use crate::registry::{Registry, Resource};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

mod cells;
mod changes;
mod kept;
mod pods;
mod refusals;

/// Members that come from outside the rules.
const NOT_RULES: &[&str] = &[
    "/metadata/uid",
    "/metadata/resourceVersion",
    "/metadata/creationTimestamp",
    "/status/lastPhaseTransitionTime",
    "/metadata/namespace",
    "/metadata/managedFields",
    "/spec/tolerations",
    "/spec/priority",
    "/spec/preemptionPolicy",
    "/spec/serviceAccountName",
    "/spec/serviceAccount",
    "/spec/clusterIP",
    "/spec/clusterIPs",
    "/spec/ipFamilies",
    "/spec/ipFamilyPolicy",
    "/spec/taints",
    "/spec/username",
    "/spec/groups",
    "/spec/extra",
    "/metadata/finalizers",
    "/spec/volumes",
];

/// Cases that are about what the rules do not decide.
const ELSEWHERE: &[&str] = &[
    "cluster-ip-taken",
    "name-mismatch",
    "conflict",
    "rv-forms",
    "not-found",
    "generate-name",
    "no-op",
    "access-reviews",
    "partial-metadata",
    "yaml",
    "sa-token",
    "sa-token-use",
    "rules-review",
    "podsecurity-warn",
    "vap-deny",
    "map-mutates",
];

struct World {
    registry: Registry,
    objects: BTreeMap<String, Value>,
}

/// What a write came to.
enum Answer {
    Object(Value, Vec<String>),
    Causes(Vec<Value>),
    Other,
}

#[test]
fn recorded_cases() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/oracle/cases");
    if !root.is_dir() {
        println!("no recorded cases beside the workspace: skipped");
        return;
    }
    let (mut compared, mut failures) = (0, Vec::new());
    for area in [
        "crud",
        "defaulting",
        "validation",
        "update",
        "list",
        "subresource",
        "patch",
        "admission",
        "dryrun",
    ] {
        let Ok(files) = std::fs::read_dir(root.join(area)) else {
            continue;
        };
        for file in files.flatten() {
            let Ok(text) = std::fs::read_to_string(file.path()) else {
                continue;
            };
            let case: Value = serde_json::from_str(&text).expect("a recorded case is JSON");
            if !ELSEWHERE.contains(&str_of(&case, "name")) {
                replay(area, &case, &mut compared, &mut failures);
            }
        }
    }
    let known = failures.len();
    println!("{compared} recorded writes compared, {known} differ");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn replay(area: &str, case: &Value, compared: &mut usize, failures: &mut Vec<String>) {
    let mut world = World {
        registry: Registry::builtin(),
        objects: BTreeMap::new(),
    };
    for (i, step) in list(case, "steps").iter().enumerate() {
        if step.to_string().contains("${") && str_of(step, "method") != "GET"
            || step.to_string().contains("dryRun=None")
        {
            continue;
        }
        if str_of(step, "method") == "GET" && str_of(at(step, "/expect/body"), "kind") == "Table" {
            *compared += 1;
            compare_table(
                &world,
                step,
                &format!("{area}/{}#{i} {}", str_of(case, "name"), str_of(step, "path")),
                failures,
            );
        }
        let Some(answer) = write(&mut world, step) else {
            continue;
        };
        let expected = at(step, "/expect/body");
        let place = format!(
            "{area}/{}#{i} {} {}",
            str_of(case, "name"),
            str_of(step, "method"),
            str_of(step, "path")
        );
        let status = at(step, "/expect/status");
        let wanted = status
            .as_u64()
            .or_else(|| status.get(0).and_then(Value::as_u64))
            .unwrap_or(0);
        if let (Answer::Causes(causes), 200..=299) = (&answer, wanted) {
            failures.push(format!("{place}: refused: {}", json!(causes)));
        }
        let ignores_messages = list(step, "ignore").iter().any(|p| p == "/details/causes/*/message");
        match (&answer, str_of(expected, "kind")) {
            // Ports are allocated before anything is validated.
            (Answer::Causes(_), "Status") if expected.to_string().contains("already allocated") => {}
            (Answer::Causes(causes), "Status") => {
                *compared += 1;
                let wanted: Vec<Value> = list(at(expected, "/details"), "causes").to_vec();
                let mut have = causes.clone();
                if ignores_messages {
                    have.iter_mut().for_each(|c| {
                        super::access::remove(c, "message");
                    });
                }
                if !wanted.is_empty() && neutral(&json!(wanted)) != neutral(&json!(have)) {
                    failures.push(format!(
                        "{place}:\n  expected {}\n  have     {}",
                        json!(wanted),
                        json!(have)
                    ));
                }
            }
            (Answer::Object(..), "Status") if needs_more(expected) => {}
            (Answer::Object(..), "Status") if wanted == 422 => {
                failures.push(format!("{place}: accepted, expected {expected}"))
            }
            (Answer::Object(object, warnings), kind) if !kind.is_empty() && kind != "Status" => {
                *compared += 1;
                compare_object(step, object, expected, &place, failures);
                compare_warnings(step, warnings, &place, failures);
            }
            _ => {}
        }
    }
}

/// Refusals that take an address allocator or an expression compiler.
fn needs_more(expected: &Value) -> bool {
    let text = expected.to_string();
    [
        "failed to allocate",
        "already allocated",
        "compilation failed",
        "must evaluate to bool",
    ]
    .iter()
    .any(|part| text.contains(part))
}

/// Addresses and ports were replaced by tokens when the cases were recorded.
fn neutral(v: &Value) -> String {
    let text = v.to_string();
    let mut out = String::new();
    for word in text.split_inclusive(|c: char| !(c.is_ascii_digit() || c == '.')) {
        let (body, tail) = word.split_at(word.len() - word.chars().next_back().map_or(0, char::len_utf8));
        if body.starts_with("10.") && body.split('.').count() == 4 {
            out.push_str("<ip>")
        } else {
            out.push_str(body)
        }
        out.push_str(tail);
    }
    out.replace("11111111-1111-1111-1111-111111111111", "<uid>")
}

fn compare_warnings(step: &Value, warnings: &[String], place: &str, failures: &mut Vec<String>) {
    let wanted: Vec<String> = list(at(step, "/expect/headers"), "warning")
        .iter()
        .filter_map(Value::as_str)
        .map(|w| {
            w.strip_prefix("299 - \"")
                .and_then(|w| w.strip_suffix('"'))
                .unwrap_or(w)
                .replace("\\\"", "\"")
        })
        .filter(|w| !w.contains("unknown field"))
        .collect();
    if wanted != warnings {
        failures.push(format!("{place}: warnings {warnings:?}, expected {wanted:?}"));
    }
}

fn compare_object(step: &Value, object: &Value, expected: &Value, place: &str, failures: &mut Vec<String>) {
    let mut differences = Vec::new();
    let selected =
        !list(step, "select").is_empty() || !list(step, "ignore").is_empty() || !str_of(step, "match").is_empty();
    compare("", expected, object, selected, &mut differences);
    if !differences.is_empty() {
        failures.push(format!("{place}:\n  {}", differences.join("\n  ")));
    }
}

fn compare(path: &str, expected: &Value, have: &Value, subset: bool, out: &mut Vec<String>) {
    if NOT_RULES.contains(&path)
        || path.ends_with("/volumeMounts")
        || path.ends_with("/nodePort")
        || path.ends_with("/healthCheckNodePort")
    {
        return;
    }
    match (expected, have) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in a {
                match b.get(key) {
                    Some(other) => compare(&format!("{path}/{key}"), value, other, subset, out),
                    None if NOT_RULES.contains(&format!("{path}/{key}").as_str())
                        || key == "volumeMounts"
                        || key.ends_with("odePort") => {}
                    None => out.push(format!("{path}/{key} missing, expected {value}")),
                }
            }
            for (key, value) in b.iter().filter(|(key, _)| !subset && !a.contains_key(*key)) {
                if !NOT_RULES.contains(&format!("{path}/{key}").as_str()) && key != "volumeMounts" {
                    out.push(format!("{path}/{key} unexpected: {value}"));
                }
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (x, y)) in a.iter().zip(b).enumerate() {
                compare(&format!("{path}/{i}"), x, y, subset, out);
            }
        }
        (Value::String(s), _) if s.starts_with('<') && s != "<nil>" => {}
        (a, b) if a == b || neutral(a) == neutral(b) => {}
        (a, b) => out.push(format!("{path}: expected {a}, have {b}")),
    }
}

fn compare_table(world: &World, step: &Value, place: &str, failures: &mut Vec<String>) {
    let Some([group, version, space, plural, name, _]) = split(str_of(step, "path")) else {
        return;
    };
    let Some(row) = world.registry.resource(&group, &version, &plural) else {
        return;
    };
    let prefix = format!("{}/{space}/{name}", row.storage);
    let objects = world
        .objects
        .iter()
        .filter(|(key, _)| key.starts_with(&prefix))
        .map(|(_, object)| object);
    let include = crate::table::IncludeObject::None;
    let table = crate::table::table(
        &*row.rules,
        json!({}),
        objects,
        include,
        true,
        "2026-01-01T00:00:00Z".parse().expect("a time"),
    );
    let expected = at(step, "/expect/body");
    let columns = |t: &Value| {
        list(t, "columnDefinitions")
            .iter()
            .map(|c| {
                (
                    str_of(c, "name").to_owned(),
                    str_of(c, "type").to_owned(),
                    c["format"].clone(),
                    c["priority"].clone(),
                )
            })
            .collect::<Vec<_>>()
    };
    if !list(expected, "columnDefinitions").is_empty() && columns(expected) != columns(&table) {
        failures.push(format!(
            "{place}: columns {:?}, expected {:?}",
            columns(&table),
            columns(expected)
        ));
    }
    let (wanted, have) = (list(expected, "rows"), list(&table, "rows"));
    if wanted.len() != have.len() {
        return;
    }
    for (a, b) in wanted.iter().zip(have) {
        let mut differences = Vec::new();
        for (i, (x, y)) in list(a, "cells").iter().zip(list(b, "cells")).enumerate() {
            compare(&format!("/cells/{i}"), x, y, false, &mut differences);
        }
        if !differences.is_empty() {
            failures.push(format!("{place}: {}", differences.join("; ")));
        }
    }
}

/// Group, version, namespace, resource, name, subresource of a path.
fn split(path: &str) -> Option<[String; 6]> {
    let path = path.split('?').next().unwrap_or("");
    let mut parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (group, version) = match parts.first()? {
        &"api" => (String::new(), parts.get(1)?.to_string()),
        _ => (parts.get(1)?.to_string(), parts.get(2)?.to_string()),
    };
    parts.drain(..if group.is_empty() { 2 } else { 3 });
    let mut space = String::new();
    if parts.first() == Some(&"namespaces") && parts.len() > 2 && !["finalize", "status"].contains(&parts[2]) {
        space = parts.get(1)?.to_string();
        parts.drain(..2);
    }
    let part = |i: usize| parts.get(i).map(|s| (*s).to_owned()).unwrap_or_default();
    Some([group, version, space, part(0), part(1), part(2)])
}

fn write(world: &mut World, step: &Value) -> Option<Answer> {
    let [group, version, space, plural, name, sub] = split(str_of(step, "path"))?;
    let row = world.registry.resource(&group, &version, &plural)?.clone();
    let body = at(step, "/body").clone();
    let dry_run = str_of(step, "path").contains("dryRun");
    let key = |name: &str| format!("{}/{space}/{name}", row.storage);
    match (str_of(step, "method"), sub.as_str()) {
        ("POST", "") => {
            let mut object = body;
            if !space.is_empty() {
                set(child(&mut object, "metadata"), "namespace", space.as_str());
            }
            let answer = create(&row, object);
            if let (Answer::Object(object, _), false) = (&answer, dry_run) {
                let mut stored = object.clone();
                row.rules.to_storage(&mut stored, &version);
                world.objects.insert(key(super::access::name(object)), stored);
            }
            Some(answer)
        }
        ("DELETE", "") => {
            world.objects.remove(&key(&name));
            None
        }
        ("PUT" | "PATCH", "" | "status" | "resize" | "ephemeralcontainers" | "approval" | "finalize") => {
            let mut old = world.objects.get(&key(&name))?.clone();
            row.rules.from_storage(&mut old, &version);
            let new = if str_of(step, "method") == "PUT" {
                body
            } else {
                patched(&row, &old, step, &body)?
            };
            let sub = Some(sub.as_str()).filter(|s| !s.is_empty());
            let unconditional =
                str_of(step, "method") == "PUT" && str_of(at(&new, "/metadata"), "resourceVersion").is_empty();
            if unconditional && !row.rules.allows_unconditional_update() {
                let path = crate::Path::new("metadata").child("resourceVersion");
                return Some(Answer::Causes(vec![
                    crate::field::invalid(&path, 0, "must be specified for an update").cause(),
                ]));
            }
            let answer = update(&row, new, &old, sub);
            if let (Answer::Object(object, _), false) = (&answer, dry_run) {
                let mut stored = object.clone();
                row.rules.to_storage(&mut stored, &version);
                world.objects.insert(key(&name), stored);
            }
            Some(answer)
        }
        _ => None,
    }
}

fn patched(row: &Resource, old: &Value, step: &Value, body: &Value) -> Option<Value> {
    match str_of(at(step, "/headers"), "content-type") {
        "application/json-patch+json" => patch::json_patch(old, body).ok(),
        "application/merge-patch+json" => {
            let mut doc = old.clone();
            patch::merge_patch(&mut doc, body).ok()?;
            Some(doc)
        }
        "application/strategic-merge-patch+json" => patch::strategic_merge(old, body, row.node()).ok(),
        _ => None,
    }
}

fn decoded(row: &Resource, object: &mut Value) -> bool {
    row.type_name
        .is_none_or(|name| codec::check_fields(object, name, Validation::Ignore).is_ok())
}

fn create(row: &Resource, mut object: Value) -> Answer {
    if !decoded(row, &mut object) {
        return Answer::Other;
    }
    let rules = &row.rules;
    rules.default(&mut object);
    let once = object.clone();
    rules.default(&mut object);
    assert_eq!(once, object, "defaults are idempotent");
    set(
        child(&mut object, "metadata"),
        "uid",
        "22222222-2222-2222-2222-222222222222",
    );
    if &*row.kind == "Pod" {
        set(child(&mut object, "spec"), "serviceAccountName", "default");
        rules.default(&mut object);
    }
    set(
        child(&mut object, "metadata"),
        "creationTimestamp",
        "2026-01-01T00:00:00Z",
    );
    rules.prepare_create(&mut object);
    let errors = rules.validate(&object);
    if !errors.is_empty() {
        return Answer::Causes(errors.iter().map(crate::FieldError::cause).collect());
    }
    let warnings = rules.warnings(&object, None);
    finish(row, object, warnings)
}

fn update(row: &Resource, mut object: Value, old: &Value, sub: Option<&str>) -> Answer {
    if !decoded(row, &mut object) {
        return Answer::Other;
    }
    let rules = &row.rules;
    if namespace(&object).is_empty() && !namespace(old).is_empty() {
        set(child(&mut object, "metadata"), "namespace", namespace(old));
    }
    rules.default(&mut object);
    rules.prepare_update(&mut object, old, sub);
    let errors = rules.validate_update(&object, old, sub);
    if !errors.is_empty() {
        return Answer::Causes(errors.iter().map(crate::FieldError::cause).collect());
    }
    let warnings = rules.warnings(&object, Some(old));
    finish(row, object, warnings)
}

fn finish(row: &Resource, mut object: Value, warnings: Vec<String>) -> Answer {
    if let Some(name) = row.type_name {
        codec::go_form(&mut object, name);
    }
    Answer::Object(object, warnings)
}

#[test]
fn autoscalers_survive_the_old_version() {
    let rules = super::rules_for("autoscaling", "HorizontalPodAutoscaler");
    let target = json!({"type": "AverageValue", "averageValue": "5"});
    let object = json!({"kind": "HorizontalPodAutoscaler", "apiVersion": "autoscaling/v2", "metadata": {"name": "x"}, "spec": {
        "maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d"}, "behavior": {"scaleDown": {"stabilizationWindowSeconds": 9}},
        "metrics": [
            {"type": "Pods", "pods": {"metric": {"name": "m"}, "target": target}},
            {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
        ],
    }});
    let mut new = object;
    rules.default(&mut new);
    let mut old = new.clone();
    rules.from_storage(&mut old, "v1");
    assert_eq!(at(&old, "/spec/targetCPUUtilizationPercentage"), &json!(50));
    assert!(at(&old, "/spec/metrics").is_null());
    rules.to_storage(&mut old, "v1");
    rules.default(&mut old);
    super::access::remove(child(&mut old, "status"), "currentReplicas");
    assert_eq!(old, new);
}

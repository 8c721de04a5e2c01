//! The recorded conversations that need nothing but this module, our own tables, and the two laws of apply.

use std::collections::BTreeMap;
use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::set::Set;
use super::*;
use crate::patch::{json_patch, merge_patch, strategic_merge};

const NOW: &str = "2026-01-01T00:00:00Z";
const LATER: &str = "2026-01-01T00:00:09Z";

fn type_name(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "ConfigMap" => "io.k8s.api.core.v1.ConfigMap",
        "Service" => "io.k8s.api.core.v1.Service",
        "Pod" => "io.k8s.api.core.v1.Pod",
        "ReplicationController" => "io.k8s.api.core.v1.ReplicationController",
        "Deployment" => "io.k8s.api.apps.v1.Deployment",
        "NetworkPolicy" => "io.k8s.api.networking.v1.NetworkPolicy",
        "ClusterRole" => "io.k8s.api.rbac.v1.ClusterRole",
        _ => return None,
    })
}

fn node(kind: &str) -> Node<'static> {
    Node::of_type(type_name(kind).expect("a kind of the table")).expect("a built-in type")
}

/// The objects of one conversation, by path.
#[derive(Default)]
struct Conversation {
    objects: BTreeMap<String, Value>,
    schema: Option<Value>,
    checked: usize,
}

enum Answer {
    Object(Box<Value>),
    Refused(ApiError),
    /// Not ours to answer.
    Unknown,
}

impl Conversation {
    fn step(&mut self, step: &Value) -> Answer {
        let (Some(method), Some(path)) = (step["method"].as_str(), step["path"].as_str()) else {
            return Answer::Unknown;
        };
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let parameter = |name: &str| {
            query
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value)
        };
        let body = &step["body"];
        if body["kind"] == "CustomResourceDefinition" {
            self.schema = body.pointer("/spec/versions/0/schema/openAPIV3Schema").cloned();
            return Answer::Unknown;
        }
        if method == "GET" {
            return self
                .objects
                .get(path)
                .cloned()
                .map_or(Answer::Unknown, |found| Answer::Object(found.into()));
        }
        let (path, subresource) = match path.rsplit_once('/') {
            Some((parent, sub @ ("status" | "scale"))) => (parent, sub),
            _ => (path, ""),
        };
        let key = match method {
            "POST" => format!(
                "{path}/{}",
                body.pointer("/metadata/name")
                    .and_then(Value::as_str)
                    .unwrap_or_default()
            ),
            _ => path.to_owned(),
        };
        let live = self.objects.get(&key).cloned();
        let kind = live.as_ref().unwrap_or(body)["kind"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let gv = live.as_ref().unwrap_or(body)["apiVersion"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let schema = self.schema.clone();
        let node = match (type_name(&kind), &schema) {
            (Some(name), _) => Node::of_type(name).expect("a built-in type"),
            (None, Some(schema)) => Node::structural(schema),
            _ => return Answer::Unknown,
        };
        let content = step
            .pointer("/headers/content-type")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let agent = step
            .pointer("/headers/user-agent")
            .and_then(Value::as_str)
            .unwrap_or("oracle");
        let manager = parameter("fieldManager").unwrap_or(agent.split('/').next().unwrap_or_default());
        let result = if content.contains("apply-patch") {
            if parameter("fieldManager").is_none() || step.get("text").is_some() {
                return Answer::Unknown;
            }
            let force = parameter("force") == Some("true");
            let request = ApplyRequest {
                live: live.as_ref(),
                applied: body,
                manager,
                force,
                gv: &gv,
                kind: &kind,
                subresource,
                now: NOW,
                node,
            };
            if subresource == "scale" {
                apply_scale(&request, &["spec", "replicas"])
            } else {
                apply(&request)
            }
        } else {
            let written = match (method, content, &live) {
                ("POST" | "PUT", _, _) => Ok(body.clone()),
                (_, "application/json-patch+json", Some(live)) => json_patch(live, body),
                (_, "application/merge-patch+json", Some(live)) => {
                    let mut new = live.clone();
                    merge_patch(&mut new, body).map(|()| new)
                }
                (_, "application/strategic-merge-patch+json", Some(live)) => strategic_merge(live, body, node),
                _ => return Answer::Unknown,
            };
            written.map(|mut new| {
                let before = live.as_ref();
                update_managed_fields(before, &mut new, manager, "Update", &gv, subresource, NOW, node);
                new
            })
        };
        match result {
            Ok(object) => {
                let expected = step.pointer("/expect/status").and_then(Value::as_u64).unwrap_or(200);
                if parameter("dryRun").is_none() && expected < 300 {
                    self.objects.insert(key, object.clone());
                }
                Answer::Object(object.into())
            }
            Err(error) => Answer::Refused(error),
        }
    }

    fn check(&mut self, label: &str, step: &Value) {
        // A Scale is another view of the object, which the server makes.
        if step["path"].as_str().is_some_and(|path| path.contains("/scale")) {
            return;
        }
        let answer = self.step(step);
        let expect = &step["expect"];
        let ignored = |pointer: &str| {
            step["ignore"]
                .as_array()
                .is_some_and(|list| list.iter().any(|item| item == pointer))
        };
        match answer {
            Answer::Unknown => {}
            Answer::Refused(error) => {
                assert_eq!(expect["status"], json!(error.code), "{label}: {}", error.message);
                let body = &expect["body"];
                if !ignored("/message") && body.get("message").is_some() {
                    assert_eq!(body["message"], json!(error.message), "{label}");
                }
                if step["select"].is_null() {
                    assert_eq!(
                        body.get("reason").and_then(Value::as_str).unwrap_or_default(),
                        error.reason,
                        "{label}"
                    );
                }
                if step["ignore"].is_null() && body.get("message").is_some() && step["select"].is_null() {
                    assert_eq!(body.get("details"), error.details.as_ref(), "{label}");
                }
                self.checked += 1;
            }
            Answer::Object(object) => {
                let Some(body) = expect
                    .get("body")
                    .filter(|body| body["kind"] != "Status" && body["status"] != "Failure")
                else {
                    return;
                };
                let differences = differences(body, &object);
                assert_eq!(differences, Vec::<String>::new(), "{label}:\n{object:#}\n{body:#}");
                self.checked += 1;
            }
        }
    }
}

/// Where `found` says something that `expected` does not (defaults may be missing), and every difference in
/// the managed fields of those who did not write defaults.
fn differences(expected: &Value, found: &Value) -> Vec<String> {
    let mut out = Vec::new();
    for (key, value) in found
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, _)| *key != "metadata")
    {
        if let Some(expected) = expected.get(key) {
            contained(expected, value, key, &mut out);
        }
    }
    let entries = |object: &Value| -> Option<Vec<Value>> {
        let mut list: Vec<Value> = object.pointer("/metadata/managedFields")?.as_array()?.clone();
        list.retain(|entry| entry["manager"] != "oracle" || object["kind"] == "ConfigMap");
        for entry in list.iter_mut().filter_map(Value::as_object_mut) {
            entry.entry("time").and_modify(|time| *time = "<time>".into());
        }
        list.sort_by_key(|entry| {
            (
                entry["manager"].to_string(),
                entry["operation"].to_string(),
                entry["subresource"].to_string(),
            )
        });
        Some(list)
    };
    if let Some(expected) = entries(expected) {
        let found = entries(found).unwrap_or_default();
        if expected != found {
            out.push(format!(
                "managed fields:\n{}\n{}",
                Value::Array(expected),
                Value::Array(found)
            ));
        }
    }
    out
}

fn contained(expected: &Value, found: &Value, path: &str, out: &mut Vec<String>) {
    match (expected, found) {
        (Value::Object(left), Value::Object(right)) => {
            for (key, value) in right {
                let empty = value.as_object().is_some_and(serde_json::Map::is_empty)
                    || value.as_array().is_some_and(Vec::is_empty)
                    || value.is_null();
                match left.get(key) {
                    Some(expected) => contained(expected, value, &format!("{path}.{key}"), out),
                    None if empty => {}
                    None => out.push(format!("{path}.{key} is not expected")),
                }
            }
        }
        (Value::Array(left), Value::Array(right)) if left.len() == right.len() => {
            for (position, (left, right)) in left.iter().zip(right).enumerate() {
                contained(left, right, &format!("{path}[{position}]"), out);
            }
        }
        (left, right) if left == right || left == "<time>" || left == "<ip>" => {}
        (left, right) => out.push(format!("{path}: expected {left}, found {right}")),
    }
}

#[test]
fn the_recorded_conversations() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/oracle/cases");
    let mut checked = 0;
    for area in ["apply", "patch", "crd"] {
        // The recordings lie beside the checkout; without them only our own tables run.
        let Ok(files) = std::fs::read_dir(root.join(area)) else {
            return;
        };
        for file in files.flatten() {
            let name = format!("{area}/{}", file.file_name().to_string_lossy());
            if area == "crd" && name != "crd/apply-list-map.json" {
                continue;
            }
            let text = std::fs::read_to_string(file.path()).expect("a readable case");
            let case: Value = serde_json::from_str(&text).expect("a case in JSON");
            let mut conversation = Conversation::default();
            for (position, step) in case["steps"].as_array().into_iter().flatten().enumerate() {
                conversation.check(&format!("{name} step {position}"), step);
            }
            checked += conversation.checked;
        }
    }
    assert!(checked > 80, "only {checked} steps were checked");
}

fn config_map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": data})
}

fn applied<'a>(live: Option<&'a Value>, body: &'a Value, manager: &'a str, now: &'a str) -> ApplyRequest<'a> {
    ApplyRequest {
        live,
        applied: body,
        manager,
        force: false,
        gv: "v1",
        kind: "ConfigMap",
        subresource: "",
        now,
        node: node("ConfigMap"),
    }
}

#[test]
fn the_first_apply_respects_what_was_there() {
    let live = config_map(json!({"a": "1"}));
    let body = config_map(json!({"a": "2"}));
    let error = apply(&applied(Some(&live), &body, "m", NOW)).expect_err("a conflict");
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .data.a"
    );
}

#[test]
fn kubectl_takes_over_from_its_annotation() {
    let mut live = config_map(json!({"a": "1"}));
    live["metadata"]["annotations"] =
        json!({"kubectl.kubernetes.io/last-applied-configuration": config_map(json!({"a": "1"})).to_string()});
    update_managed_fields(
        None,
        &mut live,
        "kubectl-client-side-apply",
        "Update",
        "v1",
        "",
        NOW,
        node("ConfigMap"),
    );
    let body = config_map(json!({"a": "2"}));
    assert!(apply(&applied(Some(&live), &body, "other", NOW)).is_err());
    let merged = apply(&applied(Some(&live), &body, "kubectl", NOW)).expect("no conflict");
    assert_eq!(merged["data"], json!({"a": "2"}));
    let annotation = merged
        .pointer("/metadata/annotations")
        .and_then(|map| map.as_object()?.values().next()?.as_str());
    assert_eq!(annotation, Some(format!("{body}\n").as_str()));
}

#[test]
fn old_writers_are_merged() {
    let mut live = config_map(json!({}));
    live["metadata"]["uid"] = "u".into();
    for number in 0..14 {
        let mut new = live.clone();
        new["data"][format!("k{number:02}")] = "v".into();
        let now = format!("2026-01-01T00:00:{number:02}Z");
        let before = (number > 0).then_some(&live);
        update_managed_fields(
            before,
            &mut new,
            &format!("m{number:02}"),
            "Update",
            "v1",
            "",
            &now,
            node("ConfigMap"),
        );
        live = new;
    }
    let entries = live
        .pointer("/metadata/managedFields")
        .and_then(Value::as_array)
        .expect("entries");
    assert_eq!(entries.len(), 10);
    assert_eq!(entries[0]["manager"], "ancient-changes");
    assert_eq!(entries[0]["fieldsV1"]["f:data"]["f:k04"], json!({}));
}

#[test]
fn a_create_owns_what_the_body_states() {
    let body = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x", "labels": {"a": "b"}},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "strategy": {"type": "Recreate"},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i", "resources": {}}]}}},
        "status": {"replicas": 3}});
    let mut new = body;
    update_managed_fields(
        None,
        &mut new,
        "kubectl",
        "Update",
        "apps/v1",
        "",
        NOW,
        node("Deployment"),
    );
    let expected = json!([{"manager": "kubectl", "operation": "Update", "apiVersion": "apps/v1", "time": NOW,
        "fieldsType": "FieldsV1", "fieldsV1": {
            "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
            "f:spec": {"f:replicas": {}, "f:selector": {}, "f:strategy": {"f:type": {}}, "f:template": {
                "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
                "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {}, "f:resources": {}}}}}}}}]);
    assert_eq!(new["metadata"]["managedFields"], expected);
}

#[test]
fn an_empty_list_of_managers_is_a_reset() {
    let live = apply(&applied(None, &config_map(json!({"a": "1"})), "m", NOW)).expect("applies");
    let entries = |sent: Value| {
        let mut new = config_map(json!({"a": "2"}));
        new["metadata"]["managedFields"] = sent;
        update_managed_fields(Some(&live), &mut new, "z", "Update", "v1", "", LATER, node("ConfigMap"));
        new["metadata"]["managedFields"].as_array().map_or(0, Vec::len)
    };
    for (sent, left) in [
        (json!([]), 0),
        (json!([{}]), 0),
        (Value::Null, 1),
        (json!([{"manager": "q"}]), 1),
        (live["metadata"]["managedFields"].clone(), 1),
    ] {
        assert_eq!(entries(sent.clone()), left, "{sent}");
    }
}

#[test]
fn sets_survive_encoding() {
    let text = json!({"f:metadata": {"f:finalizers": {"v:\"a/b\"": {}}, "f:labels": {".": {}, "f:x/y": {}}},
        "f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}}, "f:l": {"i:3": {}}}});
    let set = Set::decode(&text).expect("a set");
    assert_eq!(set.encode(), text);
    let expected = [
        ".metadata.labels",
        ".metadata.finalizers[=\"a/b\"]",
        ".metadata.labels.x/y",
        ".spec.l[3]",
        ".spec.ports[port=80,protocol=\"TCP\"]",
        ".spec.ports[port=80,protocol=\"TCP\"].port",
    ];
    assert_eq!(set.paths(), expected);
    for broken in [
        json!({"f": {}}),
        json!({"k:{": {}}),
        json!({"q:x": {}}),
        json!([]),
        json!({"f:a": 1}),
    ] {
        assert_eq!(Set::decode(&broken), None, "{broken}");
    }
}

#[test]
fn only_times_changing_is_no_change() {
    let old =
        json!({"metadata": {"name": "x", "resourceVersion": "1", "managedFields": [{"manager": "m", "time": NOW}]}});
    let mut new = json!({"metadata": {"name": "x", "managedFields": [{"manager": "m", "time": LATER}]}});
    assert!(keep_times_when_unchanged(&old, &mut new));
    assert_eq!(new["metadata"]["managedFields"], old["metadata"]["managedFields"]);
    let mut other = json!({"metadata": {"name": "y"}});
    assert!(!keep_times_when_unchanged(&old, &mut other));
}

fn pods() -> impl Strategy<Value = Value> {
    let container = (
        "[a-d]",
        "[a-c]{1,3}",
        proptest::collection::btree_map("[A-C]", "[x-z]", 0..3),
    )
        .prop_map(|(name, image, env)| {
            let env: Vec<Value> = env
                .into_iter()
                .map(|(name, value)| json!({"name": name, "value": value}))
                .collect();
            json!({"name": name, "image": image, "env": env})
        });
    let containers = proptest::collection::vec(container, 1..4).prop_map(|mut list| {
        list.sort_by_key(|item| item["name"].to_string());
        list.dedup_by_key(|item| item["name"].to_string());
        list
    });
    let labels = proptest::collection::btree_map("[a-e]", "[a-c]", 0..4);
    (containers, labels, proptest::collection::vec("[a-z]", 0..3)).prop_map(|(containers, labels, search)| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "labels": labels},
            "spec": {"containers": containers, "dnsConfig": {"searches": search}}})
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn applying_twice_is_applying_once(first in pods(), second in pods()) {
        let request = |live, body, manager, now| ApplyRequest {
            live, applied: body, manager, force: true, gv: "v1", kind: "Pod", subresource: "", now, node: node("Pod"),
        };
        let one = apply(&request(None, &first, "m", NOW)).expect("applies");
        let two = apply(&request(Some(&one), &second, "n", NOW)).expect("applies");
        let mut again = apply(&request(Some(&two), &second, "n", LATER)).expect("applies");
        keep_times_when_unchanged(&two, &mut again);
        prop_assert_eq!(&two, &again);
        let back = apply(&request(Some(&two), &first, "m", LATER)).expect("applies");
        let stated = back["spec"]["containers"].as_array().expect("containers");
        for container in first["spec"]["containers"].as_array().expect("containers") {
            let found = stated.iter().find(|other| other["name"] == container["name"]).expect("the container");
            prop_assert_eq!(&found["image"], &container["image"]);
        }
    }

    #[test]
    fn writing_the_same_is_nothing(body in pods()) {
        let mut live = body;
        live["metadata"]["uid"] = "u".into();
        update_managed_fields(None, &mut live, "m", "Update", "v1", "", NOW, node("Pod"));
        let mut new = live.clone();
        update_managed_fields(Some(&live), &mut new, "other", "Update", "v1", "", LATER, node("Pod"));
        prop_assert_eq!(live, new);
    }

    #[test]
    fn compare_and_remove_agree(before in pods(), after in pods()) {
        let node = node("Pod");
        let changes = compare::compare(node, &before, &after);
        let reverse = compare::compare(node, &after, &before);
        prop_assert_eq!(&changes.added, &reverse.removed);
        prop_assert_eq!(&changes.modified, &reverse.modified);
        prop_assert_eq!(changes.is_empty(), before["metadata"] == after["metadata"] && before["spec"] == after["spec"]);
    }
}

/// Managed fields of any form: read or refused, and what was read is written as it was.
#[test]
fn fuzz_fields_v1() {
    let seeds = vec![
        json!({"f:spec": {".": {}, "f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:image": {}}}}, "f:data": {}}),
        json!({"f:finalizers": {"v:\"a\"": {}, "v:1.5": {}, "v:null": {}}, "i:0": {"f:": {}}, "k:{\"a\":1,\"b\":true}": {}}),
        json!({}),
    ];
    let words = &[
        "f:",
        "k:{\"a\":1}",
        "v:\"x\"",
        "v:1e3",
        "i:4294967295",
        "i:-1",
        ".",
        "k:{}",
        "v:[1]",
    ];
    coxswain_fuzz::fuzz("fields-v1", seeds, words, |value: &Value| {
        let set = Set::decode(value).ok_or("not fields")?;
        let written = set.encode();
        assert_eq!(Set::decode(&written).as_ref(), Some(&set), "{written}");
        let _ = (
            set.paths(),
            set.clone().union(set.clone()) == set,
            set.difference(&set).is_empty(),
        );
        Ok(())
    });
}

use std::sync::Arc;

use coxswain_client::discovery::ResourceInfo;
use coxswain_client::k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use coxswain_client::{Change, ObjectKey, Relations};
use serde_json::json;

use super::graph::{Graph, Node};
use super::plan::{Dependent, OwnerState, Policy, Step, plan};

fn owner(uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: "v1".into(),
        kind: "ConfigMap".into(),
        name: uid.into(),
        uid: uid.into(),
        block_owner_deletion: Some(true),
        controller: None,
    }
}

fn meta(finalizers: &[&str], deleting: bool) -> ObjectMeta {
    serde_json::from_value(json!({
        "finalizers": finalizers,
        "deletionTimestamp": deleting.then_some("2026-01-01T00:00:00Z"),
    }))
    .expect("metadata")
}

#[test]
fn steps() {
    use OwnerState::{Gone, Solid, Unknown, Waiting};
    let check = |meta: &ObjectMeta, states: &[OwnerState], dependents: &[Dependent], expected: Step| {
        let owners: Vec<_> = states
            .iter()
            .enumerate()
            .map(|(i, s)| (owner(&i.to_string()), *s))
            .collect();
        assert_eq!(plan(meta, &owners, dependents), expected, "{states:?} {dependents:?}");
    };
    let plain = meta(&[], false);
    let dependent = |blocks, deleting| Dependent {
        uid: "d".into(),
        blocks,
        deleting,
        waits: false,
    };
    check(&plain, &[], &[], Step::Nothing);
    check(&plain, &[Solid], &[], Step::Nothing);
    check(&plain, &[Gone], &[], Step::Delete(Policy::Background));
    check(&plain, &[Gone, Unknown], &[], Step::Nothing);
    check(&plain, &[Gone, Solid], &[], Step::KeepOwners(vec![owner("1")]));
    check(&plain, &[Waiting], &[], Step::Delete(Policy::Background));
    check(
        &plain,
        &[Waiting],
        &[dependent(true, false)],
        Step::Delete(Policy::Foreground),
    );
    check(&meta(&["orphan"], false), &[Gone], &[], Step::Delete(Policy::Orphan));
    check(&meta(&["orphan"], true), &[], &[], Step::Orphan);
    let foreground = meta(&["foregroundDeletion"], true);
    check(&foreground, &[], &[], Step::FinishForeground);
    check(&foreground, &[], &[dependent(false, false)], Step::FinishForeground);
    check(
        &foreground,
        &[],
        &[dependent(true, false)],
        Step::LookAt(vec!["d".into()]),
    );
    check(&foreground, &[], &[dependent(true, true)], Step::LookAt(vec![]));
    check(&meta(&["x"], true), &[Gone], &[], Step::Nothing);
    // In a circle of waiting objects, the last one stops blocking its owner before it is deleted.
    let circle = Dependent {
        waits: true,
        ..dependent(true, true)
    };
    let owned = |blocks: bool| OwnerReference {
        block_owner_deletion: Some(blocks),
        ..owner("0")
    };
    let step = |blocks: bool| plan(&plain, &[(owned(blocks), Waiting)], std::slice::from_ref(&circle));
    assert_eq!(step(true), Step::KeepOwners(vec![owned(false)]));
    assert_eq!(step(false), Step::Delete(Policy::Foreground));
}

#[test]
fn what_wakes_whom() {
    let resource = Arc::new(ResourceInfo {
        group: String::new(),
        version: "v1".into(),
        plural: "configmaps".into(),
        kind: "ConfigMap".into(),
        namespaced: true,
        ..ResourceInfo::default()
    });
    let object = |name: &str, owners: &[&str], foreground: bool| -> Arc<Relations> {
        let owners: Vec<_> = owners.iter().map(|uid| owner(uid)).collect();
        let deleting = foreground.then_some("2026-01-01T00:00:00Z");
        let finalizers = if foreground { vec!["foregroundDeletion"] } else { vec![] };
        let value = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {
            "name": name, "namespace": "n", "uid": name, "ownerReferences": owners,
            "deletionTimestamp": deleting, "finalizers": finalizers}});
        Arc::new(serde_json::from_value(value).expect("metadata"))
    };
    let mut graph = Graph::default();
    let mut take = |name: &str, old: Option<Arc<Relations>>, new: Option<Arc<Relations>>| {
        let key = ObjectKey::new("n", name);
        let woken = graph.take(&resource, &Change { key, old, new });
        woken.iter().map(|uid| uid.to_string()).collect::<Vec<_>>()
    };
    let (a, b) = (object("a", &[], false), object("b", &["a"], false));
    assert_eq!(take("b", None, Some(b.clone())), ["b"], "its owner is unknown");
    assert!(take("a", None, Some(a.clone())).is_empty());
    assert!(
        take("b", Some(b.clone()), Some(b.clone())).is_empty(),
        "its owner is known"
    );
    let waiting = object("a", &[], true);
    assert_eq!(take("a", Some(a), Some(waiting.clone())), ["a"]);
    assert_eq!(take("b", Some(b.clone()), None), ["a"], "the waiting owner");
    take("b", None, Some(b));
    assert_eq!(take("a", Some(waiting), None), ["b"], "the dependent");
}

#[test]
fn who_is_meant() {
    let resource = |namespaced| {
        Arc::new(ResourceInfo {
            version: "v1".into(),
            kind: "ConfigMap".into(),
            namespaced,
            ..ResourceInfo::default()
        })
    };
    let check = |place: &str, change: fn(&mut OwnerReference), namespace: &str, expected: bool| {
        let value = json!({"metadata": {"name": "a", "namespace": place, "uid": "a"}});
        let node = Node {
            resource: resource(!place.is_empty()),
            object: Arc::new(serde_json::from_value(value).expect("metadata")),
        };
        let mut reference = owner("a");
        change(&mut reference);
        assert_eq!(
            node.is_meant(&reference, namespace),
            expected,
            "{place} {reference:?} {namespace}"
        );
    };
    check("n", |_| {}, "n", true);
    check("n", |_| {}, "other", false);
    check("n", |_| {}, "", false);
    check("", |_| {}, "n", true);
    check("n", |r| r.name = "b".into(), "n", false);
    check("n", |r| r.kind = "Secret".into(), "n", false);
    check("n", |r| r.api_version = "apps/v1".into(), "n", false);
    check("n", |r| r.api_version = "v2".into(), "n", true);
}

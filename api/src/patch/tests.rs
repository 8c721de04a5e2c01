//! Tables for the patch engines; the recorded conversations are replayed in [`crate::apply`]'s tests.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::schema::Node;

fn pod_spec() -> Node<'static> {
    Node::of_type("io.k8s.api.core.v1.PodSpec").expect("a built-in type")
}

#[test]
fn json_patch_operations() {
    let doc = json!({"a": [1, 2], "b": {"c": "d"}, "x/y": 1});
    let cases: [(Value, Result<Value, u16>); 16] = [
        (
            json!([{"op": "add", "path": "/a/1", "value": 9}]),
            Ok(json!({"a": [1, 9, 2], "b": {"c": "d"}, "x/y": 1})),
        ),
        (
            json!([{"op": "add", "path": "/a/-", "value": 9}]),
            Ok(json!({"a": [1, 2, 9], "b": {"c": "d"}, "x/y": 1})),
        ),
        (
            json!([{"op": "remove", "path": "/a/-1"}]),
            Ok(json!({"a": [1], "b": {"c": "d"}, "x/y": 1})),
        ),
        (
            json!([{"op": "replace", "path": "/a/0", "value": null}]),
            Ok(json!({"a": [null, 2], "b": {"c": "d"}, "x/y": 1})),
        ),
        (
            json!([{"op": "replace", "path": "/n", "value": 1}]),
            Ok(json!({"a": [1, 2], "b": {"c": "d"}, "n": 1, "x/y": 1})),
        ),
        (
            json!([{"op": "move", "from": "/b/c", "path": "/b/e"}]),
            Ok(json!({"a": [1, 2], "b": {"e": "d"}, "x/y": 1})),
        ),
        (
            json!([{"op": "copy", "from": "/b", "path": "/e"}]),
            Ok(json!({"a": [1, 2], "b": {"c": "d"}, "e": {"c": "d"}, "x/y": 1})),
        ),
        (
            json!([{"op": "remove", "path": "/x~1y"}]),
            Ok(json!({"a": [1, 2], "b": {"c": "d"}})),
        ),
        (json!([{"op": "test", "path": "/none", "value": null}]), Ok(doc.clone())),
        (json!([{"op": "test", "path": "/b", "value": {}}]), Err(422)),
        (json!([{"op": "add", "path": "/a/3", "value": 1}]), Err(422)),
        (json!([{"op": "add", "path": "/q/r", "value": 1}]), Err(422)),
        (json!([{"op": "remove", "path": "/q"}]), Err(422)),
        (json!([{"op": "add", "path": "a", "value": 1}]), Err(422)),
        (json!([{"op": "frob", "path": "/a"}]), Err(422)),
        (json!({"op": "add"}), Err(400)),
    ];
    for (patch, expected) in cases {
        assert_eq!(
            json_patch(&doc, &patch).map_err(|error| error.code),
            expected,
            "{patch}"
        );
    }
}

#[test]
fn json_patch_is_bounded() {
    let many = Value::Array(vec![
        json!({"op": "test", "path": "/none", "value": null});
        OPERATIONS_MAX + 1
    ]);
    assert_eq!(json_patch(&json!({}), &many).map_err(|error| error.code), Err(413));
    let doubling = Value::Array(vec![json!({"op": "copy", "from": "/a", "path": "/a/-"}); 40]);
    assert_eq!(
        json_patch(&json!({"a": ["0123456789"]}), &doubling).map_err(|error| error.code),
        Err(413)
    );
    let nesting = Value::Array(vec![json!({"op": "copy", "from": "/a", "path": "/a/a"}); 300]);
    assert_eq!(
        json_patch(&json!({"a": {}}), &nesting).map_err(|error| error.code),
        Err(422)
    );
}

#[test]
fn merge_patch_table() {
    let cases = [
        (json!({"a": "b"}), json!({"a": null}), json!({})),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (
            json!({"a": {"b": "c"}}),
            json!({"a": {"b": "d", "c": null}}),
            json!({"a": {"b": "d"}}),
        ),
        (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
    ];
    for (mut doc, patch, expected) in cases {
        merge_patch(&mut doc, &patch).expect("applies");
        assert_eq!(doc, expected, "{patch}");
    }
    assert_eq!(
        merge_patch(&mut json!({}), &json!([1])).map_err(|error| error.code),
        Err(400)
    );
}

#[test]
fn strategic_directives() {
    let doc = json!({"containers": [{"name": "a", "args": ["1"], "env": [{"name": "A", "value": "1"}]}, {"name": "b"}],
        "nodeSelector": {"x": "1"}, "volumes": [{"name": "v", "emptyDir": {}}]});
    let containers = |patch: Value| {
        strategic_merge(&doc, &json!({"containers": patch}), pod_spec()).map(|doc| doc["containers"].clone())
    };
    let cases = [
        (
            json!([{"name": "b", "image": "i"}]),
            Ok(json!([doc["containers"][0], {"name": "b", "image": "i"}])),
        ),
        (json!([{"name": "a", "$patch": "delete"}]), Ok(json!([{"name": "b"}]))),
        (
            json!([{"$patch": "replace"}, {"name": "c"}]),
            Ok(json!([{"name": "c"}])),
        ),
        (json!([{"name": "a", "$patch": "replace", "image": "i"}]), Ok(json!([]))),
        (
            json!([{"name": "a", "args": null, "env": [{"name": "B", "value": "2"}]}]),
            Ok(
                json!([{"name": "a", "env": [{"name": "B", "value": "2"}, {"name": "A", "value": "1"}]}, {"name": "b"}]),
            ),
        ),
        (
            json!([{"image": "i"}]),
            Err("map: map[image:i] does not contain declared merge key: name".to_owned()),
        ),
        (
            json!([{"$patch": "merge"}]),
            Err("merging lists cannot yet be specified in the patch".to_owned()),
        ),
    ];
    for (patch, expected) in cases {
        assert_eq!(
            containers(patch.clone()).map_err(|error| error.message),
            expected,
            "{patch}"
        );
    }
    let whole = |patch: Value| strategic_merge(&doc, &patch, pod_spec()).expect("applies");
    assert_eq!(
        whole(json!({"nodeSelector": {"$patch": "replace", "y": "2"}}))["nodeSelector"],
        json!({"y": "2"})
    );
    assert_eq!(
        whole(json!({"nodeSelector": {"$patch": "delete"}}))["nodeSelector"],
        json!({})
    );
    let retained =
        whole(json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/"}}]}));
    assert_eq!(retained["volumes"], json!([{"name": "v", "hostPath": {"path": "/"}}]));
    let bad = strategic_merge(
        &doc,
        &json!({"volumes": [{"name": "v", "$retainKeys": ["name"], "hostPath": {}}]}),
        pod_spec(),
    );
    assert_eq!(
        bad.map_err(|error| (error.code, error.message)),
        Err((400, "invalid patch format of retainKeys".to_owned()))
    );
}

#[test]
fn a_three_way_patch_keeps_what_others_added() {
    let original =
        json!({"containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "gone"}]});
    let modified = json!({"containers": [{"name": "a", "image": "2"}]});
    let current = json!({"containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
        {"name": "gone"}, {"name": "sidecar"}], "nodeName": "n"});
    let patch = three_way(&original, &modified, &current, pod_spec());
    let merged = strategic_merge(&current, &patch, pod_spec()).expect("applies");
    let expected = json!({"containers": [{"name": "a", "image": "2"}, {"name": "sidecar"}], "nodeName": "n"});
    // The whole env list was dropped by its owner, as with the reference implementation.
    assert_eq!(merged, expected, "{patch}");
}

fn specs() -> impl Strategy<Value = Value> {
    let env = proptest::collection::btree_map("[A-C]", "[x-z]", 0..3);
    let containers = proptest::collection::btree_map("[a-d]", ("[i-k]", env), 1..4);
    let selector = proptest::collection::btree_map("[a-c]", "[a-c]", 0..3);
    (containers, selector).prop_map(|(containers, selector)| {
        let containers: Vec<Value> = containers
            .into_iter()
            .map(|(name, (image, env))| {
                let env: Vec<Value> = env
                    .into_iter()
                    .map(|(name, value)| json!({"name": name, "value": value}))
                    .collect();
                json!({"name": name, "image": image, "env": env})
            })
            .collect();
        json!({"containers": containers, "nodeSelector": selector})
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn patching_with_itself_changes_nothing(doc in specs()) {
        prop_assert_eq!(&strategic_merge(&doc, &doc, pod_spec()).expect("applies"), &doc);
        let mut merged = doc.clone();
        merge_patch(&mut merged, &doc).expect("applies");
        prop_assert_eq!(merged, doc);
    }

    #[test]
    fn a_diff_leads_where_it_should(before in specs(), after in specs()) {
        let patch = strategic_diff(&before, &after, pod_spec());
        let merged = strategic_merge(&before, &patch, pod_spec()).expect("applies");
        prop_assert_eq!(merged, after, "{}", patch);
    }
}

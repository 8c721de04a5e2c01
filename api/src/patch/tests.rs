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
    let cases: [(Value, Result<Value, u16>); 18] = [
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
        // What is added from the end is counted in the list that comes out; the first slash begins the pointer.
        (
            json!([{"op": "add", "path": "/a/-1", "value": 9}]),
            Ok(json!({"a": [1, 2, 9], "b": {"c": "d"}, "x/y": 1})),
        ),
        (
            json!([{"op": "remove", "path": "any/b"}]),
            Ok(json!({"a": [1, 2], "x/y": 1})),
        ),
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
fn json_patch_failures_are_told_in_the_librarys_words() {
    let doc = json!({"a": [1], "b": "c"});
    let cases = [
        (json!({"op": "frob", "path": "/a"}), "Unexpected kind: frob"),
        (json!({"path": "/a"}), "Unexpected kind: unknown"),
        (
            json!({"op": "add"}),
            "add operation failed to decode path: missing value",
        ),
        (
            json!({"op": "test"}),
            "test operation failed to decode path: operation missing path field: missing value",
        ),
        (
            json!({"op": "move", "path": "/a"}),
            "move operation failed to decode from: operation, missing from field: missing value",
        ),
        (
            json!({"op": "add", "path": "/b/x"}),
            "add operation does not apply: doc is missing path: \"/b/x\": missing value",
        ),
        (
            json!({"op": "replace", "path": "/q/x"}),
            "replace operation does not apply: doc is missing path: /q/x: missing value",
        ),
        (
            json!({"op": "replace", "path": "/a/1"}),
            "replace operation does not apply: doc is missing key: /a/1: missing value",
        ),
        (
            json!({"op": "remove", "path": "/q"}),
            "error in remove for path: '/q': Unable to remove nonexistent key: q: missing value",
        ),
        (
            json!({"op": "remove", "path": "/a/1"}),
            "error in remove for path: '/a/1': Unable to access invalid index: 1: invalid index referenced",
        ),
        (
            json!({"op": "add", "path": "/a/x"}),
            "error in add for path: '/a/x': value was not a proper array index: 'x': strconv.Atoi: parsing \"x\": \
             invalid syntax",
        ),
        (
            json!({"op": "test", "path": "/b", "value": 1}),
            "testing value /b failed: test failed",
        ),
        (
            json!({"op": "test", "path": "/q/x"}),
            "test operation does not apply: is missing path: /q/x: missing value",
        ),
        (
            json!({"op": "copy", "from": "/q/x", "path": "/b"}),
            "copy operation does not apply: doc is missing from path: /q/x: missing value",
        ),
        (
            json!({"op": "copy", "from": "/b", "path": "/q/x"}),
            "copy operation does not apply: doc is missing destination path: /q/x: missing value",
        ),
    ];
    for (operation, expected) in cases {
        let error = json_patch(&doc, &json!([operation])).map_err(|error| error.message);
        let expected = format!("the server rejected our request due to an error in our request: {expected}");
        assert_eq!(error, Err(expected), "{operation}");
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
        Err(422)
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
        (
            json!({}),
            json!({"a": [{"b": null, "c": [{"d": null}]}]}),
            json!({"a": [{"c": [{}]}]}),
        ),
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
fn strategic_corners() {
    let meta = Node::of_type("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").expect("a built-in type");
    let doc = json!({"finalizers": ["a/b", "c/d"], "labels": {"x": "1"}});
    let cases = [
        // What was not there takes nothing from an object with a directive, and keeps what is no marker.
        (json!({"annotations": {"$patch": "replace", "y": "1"}}), Ok(doc.clone())),
        (
            json!({"annotations": {"$retainKeys": ["y"], "y": "1", "z": null}}),
            Ok(
                json!({"annotations": {"$retainKeys": ["y"], "y": "1"}, "finalizers": ["a/b", "c/d"], "labels": {"x": "1"}}),
            ),
        ),
        (
            json!({"$deleteFromPrimitiveList/finalizers": null}),
            Ok(json!({"labels": {"x": "1"}})),
        ),
        (json!({"$deleteFromPrimitiveList/finalizers": "a/b"}), Ok(doc.clone())),
        (
            json!({"$setElementOrder/finalizers": ["c/d", "a/b"], "$deleteFromPrimitiveList/finalizers": ["a/b"]}),
            Ok(json!({"finalizers": ["c/d"], "labels": {"x": "1"}})),
        ),
        (
            json!({"$setElementOrder/finalizers": "a/b"}),
            Err("expected a []interface {}, but received a string"),
        ),
        (
            json!({"$setElementOrder/finalizers": ["a/b"], "finalizers": null}),
            Err("expected a []interface {}, but received a %!s(<nil>)"),
        ),
        (
            json!({"$setElementOrder/finalizers": ["a/b"], "finalizers": ["q/r"]}),
            Err("The order in patch list:\n[q/r]\n doesn't match $setElementOrder list:\n[a/b]\n"),
        ),
        (
            json!({"$setElementOrder/nope": ["a/b"]}),
            Err("unable to find api field in struct ObjectMeta for the json field \"nope\""),
        ),
        (
            json!({"finalizers": [{"q": 1}]}),
            Err("list element types are not identical: [[a/b c/d] [map[q:1]]]"),
        ),
    ];
    for (patch, expected) in cases {
        let made = strategic_merge(&doc, &patch, meta).map_err(|error| error.message);
        assert_eq!(made, expected.map_err(str::to_owned), "{patch}");
    }
}

/// Matched pair by pair, each of these would take minutes.
#[test]
fn long_lists_are_matched_by_tables() {
    let named = |range: std::ops::Range<u32>| range.map(|n| json!({"name": n.to_string()})).collect::<Vec<_>>();
    let finalizers = |range: std::ops::Range<u32>| range.map(|n| n.to_string()).collect::<Vec<_>>();
    let node = Node::of_type("io.k8s.api.core.v1.Pod").expect("a built-in type");
    let doc = json!({"metadata": {"finalizers": finalizers(0..30_000)}, "spec": {"containers": named(0..30_000)}});
    let patch = json!({
        "metadata": {"finalizers": finalizers(20_000..40_000), "$deleteFromPrimitiveList/finalizers": finalizers(0..20_000)},
        "spec": {"containers": named(20_000..40_000), "$setElementOrder/containers": named(0..40_000)},
    });
    let merged = strategic_merge(&doc, &patch, node).expect("a patch");
    assert_eq!(merged["spec"]["containers"], json!(named(0..40_000)));
    assert_eq!(merged["metadata"]["finalizers"].as_array().map(Vec::len), Some(20_000));
    let doomed = named(0..30_000).into_iter().map(|mut item| {
        item["$patch"] = json!("delete");
        item
    });
    let patch = json!({"spec": {"containers": doomed.collect::<Vec<_>>()}});
    let merged = strategic_merge(&doc, &patch, node).expect("a patch");
    assert_eq!(merged["spec"]["containers"], json!([]));
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

//! Hostile input for every decoder and parser of this crate: whatever comes, there is an answer; what is accepted can be
//! written and read again; what was found once stays in the seeds.

use coxswain_fuzz::{Answer, fuzz, recorded};
use serde_json::{Value, json};

use crate::apply::{ApplyRequest, apply, keep_times_when_unchanged, update_managed_fields};
use crate::codec::tests::value_of;
use crate::codec::{self, Limits, Media, Validation, check_fields, decode_json, decode_object, decode_yaml, to_yaml};
use crate::registry::{Registry, split_api_version};
use crate::schema::{Node, Shape, type_ref};
use crate::selector::{FieldSelector, LabelSelector};
use crate::{Quantity, Resource, kinds, names, patch, quota, time};

const NOW: &str = "2026-01-02T03:04:05Z";

/// Words of objects: fields, directives and values that rules ask about.
const WORDS: &[&str] = &[
    "metadata",
    "name",
    "namespace",
    "labels",
    "annotations",
    "managedFields",
    "spec",
    "status",
    "$patch",
    "replace",
    "delete",
    "merge",
    "$retainKeys",
    "$setElementOrder/containers",
    "$deleteFromPrimitiveList/finalizers",
    "containers",
    "ports",
    "env",
    "f:spec",
    "k:{\"name\":\"a\"}",
    "v:1",
    "i:0",
    ".",
    "matchExpressions",
    "In",
    "NotIn",
    "Exists",
    "Always",
    "Never",
    "ClusterIP",
    "LoadBalancer",
    "NodePort",
    "ExternalName",
    "RollingUpdate",
    "Recreate",
    "Indexed",
    "IPv4",
    "IPv6",
    "TCP",
    "cpu",
    "memory",
    "ephemeral-storage",
    "hugepages-2Mi",
    "requests.cpu",
    "kubernetes.io/metadata.name",
    "x-kubernetes-list-type",
    "x-kubernetes-int-or-string",
    "x-kubernetes-preserve-unknown-fields",
    "additionalProperties",
    "properties",
    "items",
    "pattern",
    "format",
    "maxLength",
    "enum",
    "oneOf",
    "default",
    "type",
    "object",
    "array",
    "string",
    "integer",
];

fn limits() -> Limits {
    Limits::default()
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Bodies of recorded requests with a media type that contains `media`.
fn bodies(media: &str) -> Vec<String> {
    let all = recorded().into_iter().filter(|request| request.media.contains(media));
    let mut bodies: Vec<String> = all.filter_map(|request| request.body).collect();
    bodies.retain(|body| body.len() < 16 << 10);
    bodies.sort();
    bodies.dedup();
    bodies
}

fn row_of<'a>(registry: &'a Registry, object: &Value) -> Option<&'a Resource> {
    let (group, version) = split_api_version(object["apiVersion"].as_str()?);
    registry
        .by_kind(group, version, object["kind"].as_str()?)
        .map(|row| &**row)
}

/// An object of every served kind, filled in differently each time.
fn objects(each: u64) -> Vec<Value> {
    let registry = Registry::builtin();
    let rows = registry
        .resources()
        .filter_map(|row| Some((row, type_ref(row.type_name?)?)));
    let made = rows.flat_map(|(row, reference)| {
        (0..each).map(move |seed| {
            let mut seed = seed.wrapping_mul(77) ^ row.kind.len() as u64;
            let mut object = value_of(Shape::Object(reference), &mut seed, 0);
            object["apiVersion"] = row.api_version().into();
            object["kind"] = (*row.kind).into();
            object["metadata"]["name"] = "x".into();
            object
        })
    });
    made.collect()
}

/// Recorded objects and made ones.
fn all_objects() -> Vec<Value> {
    let texts = bodies("json");
    let mut found: Vec<Value> = texts
        .iter()
        .filter_map(|text| serde_json::from_str(text).ok())
        .filter(|value: &Value| value["kind"].is_string())
        .collect();
    found.extend(objects(1));
    found
}

fn taken(body: &[u8], media: Media) -> Answer {
    let registry = Registry::builtin();
    let pod = registry.by_kind("", "v1", "Pod").expect("pods");
    let decoded = decode_object(body, media, &pod.gvk(), pod.node(), Validation::Strict, &limits());
    decoded.map(|_| ()).map_err(|error| error.message)
}

#[test]
fn json() {
    let mut seeds = texts(&[
        "{}",
        "null",
        "[1,-0,1.50,1e3,\"\\ud83d\\ude00\",\"\\u0000\"]",
        "{\"a\":1,\"a\":2}",
        "{\"metadata\":{\"name\":\"x\"},\"kind\":\"Pod\",\"apiVersion\":\"v1\"}",
        "\"\\ud800\"",
        "1e400",
        "18446744073709551616",
    ]);
    seeds.extend(bodies("json").into_iter().map(String::into_bytes));
    fuzz(
        "json",
        seeds,
        &["\\u", "null", "true", "\"", "{\"a\":", "[", "]", "}", "e99"],
        |bytes: &Vec<u8>| {
            let _ = taken(bytes, Media::Json);
            let (value, _) = decode_json(bytes, &limits()).map_err(|error| error.message)?;
            let text = value.to_string();
            let (again, problems) = decode_json(text.as_bytes(), &limits()).expect("what was written can be read");
            assert_eq!((again, problems.len()), (value, 0));
            Ok(())
        },
    );
}

#[test]
fn yaml() {
    let mut seeds = texts(&[
        "a: &x [1, 0644, yes, ~, 1_000, 0x1F, .inf, 1:30, 2026-01-01, '''', \"\\u0041\"]\nb: *x\n<<: {c: d}\n",
        "a: |+\n  text\n\nb: >-\n  folded\n  text\n---\nsecond: 1\n...\n",
        "? [a, b]\n: c\n",
        "{a: {b: [c, {d: e}]}}",
        "- - - a\n- !!str 1\n- !x y\n",
        "%YAML 1.1\n---\na: b # c\n",
        "a:\n- b\n-\n  c: d\n",
        "a: \"\\x00\\ud800\"\n",
    ]);
    seeds.extend(bodies("yaml").into_iter().map(String::into_bytes));
    seeds.extend(all_objects().iter().take(200).map(|value| to_yaml(value).into_bytes()));
    fuzz(
        "yaml",
        seeds,
        &[
            "---\n",
            "...\n",
            "&a ",
            "*a",
            "<<: ",
            "!!binary ",
            "? ",
            "|2\n",
            "- ",
            ": ",
            "\t",
            "'",
            "\"",
        ],
        |bytes: &Vec<u8>| {
            if let Ok(text) = str::from_utf8(bytes) {
                let _ = codec::decode_yaml_documents(text);
            }
            let _ = taken(bytes, Media::Yaml);
            let (value, _) = decode_yaml(bytes, &limits()).map_err(|error| error.message)?;
            let text = to_yaml(&value);
            let (again, _) = decode_yaml(text.as_bytes(), &limits()).unwrap_or_else(|error| panic!("{error}\n{text}"));
            assert_eq!(again, value, "{text}");
            Ok(())
        },
    );
}

#[test]
fn protobuf() {
    let registry = Registry::builtin();
    let seeds = objects(2).iter().filter_map(codec::encode_protobuf).collect();
    fuzz(
        "protobuf",
        seeds,
        &["k8s\0", "v1", "Pod", "\u{a}\u{a}", "List"],
        |bytes: &Vec<u8>| {
            let _ = taken(bytes, Media::Protobuf);
            let mut value = codec::decode_protobuf(bytes, &limits()).map_err(|error| error.message)?;
            let row = row_of(&registry, &value).ok_or("not a stored kind")?;
            let name = row.type_name.ok_or("no type")?;
            check_fields(&mut value, name, Validation::Strict).map_err(|error| error.message)?;
            let body = codec::encode_protobuf(&value).expect("a kind with a protobuf form");
            let mut again = codec::decode_protobuf(&body, &limits()).expect("what was written can be read");
            check_fields(&mut again, name, Validation::Strict).expect("and has its types");
            assert_eq!(again, value);
            Ok(())
        },
    );
}

#[test]
fn selectors() {
    let labels = json!({"a": "b", "x/y": "", "n": "5"});
    let seeds = texts(&[
        "a=b,c!=d",
        "a in (b,c),!d",
        "x/y notin ()",
        "n>4,n<6",
        "a==b",
        "a in (",
        ",",
        "a=b c",
        "(a)",
        "é=1",
    ]);
    fuzz(
        "label-selectors",
        seeds,
        &[" in (", " notin (", "!", "=", "==", "!=", ">", "<", ",", ")"],
        |bytes: &Vec<u8>| {
            let selector = LabelSelector::parse(str::from_utf8(bytes).map_err(|error| error.to_string())?)?;
            selector.matches(&labels);
            assert!(!selector.is_everything() || selector.matches(&json!({})));
            Ok(())
        },
    );
    let seeds = texts(&["metadata.name=x", "a!=b,c==d", "a=b\\,c\\\\", "=", "a", "a=b=c", "\\"]);
    fuzz(
        "field-selectors",
        seeds,
        &["=", "!=", "==", ",", "\\,", "\\=", "metadata.namespace"],
        |bytes: &Vec<u8>| {
            let selector = FieldSelector::parse(str::from_utf8(bytes).map_err(|error| error.to_string())?)?;
            for requirement in selector.requirements() {
                selector.exact(&requirement.field);
            }
            selector.matches_with(|field| (field == "metadata.name").then_some("x"));
            Ok(())
        },
    );
    let seeds = vec![
        json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}),
        json!({"matchExpressions": [{"key": "n", "operator": "DoesNotExist"}]}),
    ];
    fuzz("selector-objects", seeds, WORDS, |value: &Value| {
        LabelSelector::from_value(value).map(|selector| assert!(selector.matches(&labels) || !selector.is_everything()))
    });
}

#[test]
fn small_languages() {
    let seeds = texts(&[
        "1",
        "100m",
        "1.5Gi",
        "1e3",
        "-0.5",
        ".5",
        "5.",
        "+1",
        "1E",
        "9223372036854775807Ei",
        "0.0000000001",
        "1e-400",
        "00012u",
    ]);
    fuzz(
        "quantities",
        seeds,
        &["Ki", "Ei", "m", "n", "e", "E", "-", ".", "0000000000"],
        |bytes: &Vec<u8>| {
            let text = str::from_utf8(bytes).map_err(|error| error.to_string())?;
            let quantity = Quantity::parse(text).map_err(|error| error.to_string())?;
            let _ = (
                quantity.milli(),
                quantity.value(),
                quantity.as_f64(),
                quantity.nano(),
                quantity.is_whole(),
            );
            let _ = (quantity.add(&quantity), quantity.sub(&Quantity::from_int(i64::MAX)));
            let printed = quantity.canonical();
            let again = Quantity::parse(&printed).expect("what was printed can be read");
            assert_eq!(again.canonical(), printed, "{text}");
            Quantity::printed(text).map(|_| ()).map_err(|error| error.to_string())
        },
    );
    let seeds = texts(&[
        "5 4 * * *",
        "@every 1h30m",
        "TZ=Europe/Berlin */5 0-5,22 1 jan mon-fri",
        "0 0 31 2 *",
        "@hourly",
        "59 23 L * ?",
    ]);
    fuzz(
        "schedules",
        seeds,
        &["*/", "-", ",", "@every ", "CRON_TZ=", "sun", "1h", "µs", "?"],
        |bytes: &Vec<u8>| kinds::cron::parse(str::from_utf8(bytes).map_err(|error| error.to_string())?).map(|_| ()),
    );
    let seeds = texts(&[
        NOW,
        "2026-01-02T03:04:05.123456789+23:59",
        "0000-01-01T00:00:00Z",
        "9999-12-31T23:59:60Z",
        "2026-02-29T00:00:00z",
    ]);
    fuzz(
        "times",
        seeds,
        &["T", "Z", "+00:00", ".999999999", "-"],
        |bytes: &Vec<u8>| {
            let text = str::from_utf8(bytes).map_err(|error| error.to_string())?;
            let _ = time::canonical_micro(text);
            let canonical = time::canonical(text).ok_or("no time")?;
            assert_eq!(time::canonical(&canonical).as_deref(), Some(&*canonical), "{text}");
            kinds::print::since(text, time::parse(NOW).expect("a time"));
            Ok(())
        },
    );
    let seeds = texts(&[
        "a",
        "a.b-c",
        "x.y/z",
        "*.a",
        "A_1",
        "a%2fb",
        "1.2.3.4",
        "::ffff:1.2.3.4",
        "http",
        "8080",
        "50%",
        "X-A",
    ]);
    fuzz(
        "names",
        seeds,
        &[".", "-", "/", "_", "*", ":", "%"],
        |bytes: &Vec<u8>| {
            let text = str::from_utf8(bytes).map_err(|error| error.to_string())?;
            let checks: &[fn(&str) -> Vec<String>] = &[
                names::dns1123_label,
                names::dns1123_subdomain,
                names::dns1123_subdomain_with_underscore,
                names::wildcard_dns1123_subdomain,
                names::dns1035_label,
                names::qualified_name,
                names::domain_prefixed_name,
                names::label_value,
                names::config_map_key,
                names::c_identifier,
                names::env_var_name,
                names::http_header_name,
                names::port_name,
                names::percent,
                names::path_segment,
                names::ip_address,
            ];
            let found: String = checks
                .iter()
                .map(|check| if check(text).is_empty() { 'y' } else { 'n' })
                .collect();
            if found.contains('y') { Err(found) } else { Ok(()) }
        },
    );
}

/// Pairs of a document and a patch.
fn pairs(media: &str) -> Vec<Value> {
    let doc = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "finalizers": ["a", "b"], "labels": {"a": "b"}},
        "spec": {"containers": [{"name": "a", "env": [{"name": "A"}], "ports": [{"containerPort": 1}]}, {"name": "b"}]}});
    let mut pairs: Vec<Value> = bodies(media)
        .iter()
        .filter_map(|text| serde_json::from_str::<Value>(text).ok())
        .map(|patch| json!([doc, patch]))
        .collect();
    pairs.push(json!([doc, doc]));
    pairs.push(json!([doc, {"$patch": "replace", "a": 1}]));
    pairs.push(json!([doc, {"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "$retainKeys": ["containers"],
        "containers": [{"name": "a", "$patch": "delete"}, {"name": "c", "image": "i"}]},
        "metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "$setElementOrder/finalizers": ["b"]}}]));
    pairs.push(json!([doc, [{"op": "add", "path": "/spec/containers/-1", "value": 1}, {"op": "move", "from": "/spec", "path": "/a~1b"},
        {"op": "copy", "from": "/metadata", "path": "/spec/x"}, {"op": "test", "path": "/a", "value": null}, {"op": "replace", "path": "", "value": {}},
        {"op": "remove", "path": "/metadata/labels/a"}]]));
    pairs
}

#[test]
fn patches() {
    let operations = &[
        "op",
        "add",
        "remove",
        "replace",
        "move",
        "copy",
        "test",
        "from",
        "path",
        "value",
        "/",
        "~0",
        "~1",
        "-",
        "/spec/containers/0",
        "/-",
    ];
    fuzz("json-patches", pairs("json-patch"), operations, |pair: &Value| {
        let patched = patch::json_patch(&pair[0], &pair[1]).map_err(|error| error.message)?;
        assert!(patched.to_string().len() < 64 << 20);
        Ok(())
    });
    fuzz("merge-patches", pairs("merge-patch"), WORDS, |pair: &Value| {
        let mut once = pair[0].clone();
        patch::merge_patch(&mut once, &pair[1]).map_err(|error| error.message)?;
        let mut twice = once.clone();
        patch::merge_patch(&mut twice, &pair[1]).map_err(|error| error.message)?;
        assert_eq!(once, twice, "a merge patch is idempotent");
        Ok(())
    });
    let node = Node::of_type("io.k8s.api.core.v1.Pod").expect("pods");
    fuzz("strategic-patches", pairs("strategic"), WORDS, |pair: &Value| {
        let _ = patch::three_way(&pair[0], &pair[1], &pair[0], node);
        patch::strategic_merge(&pair[0], &pair[1], node)
            .map(|_| ())
            .map_err(|error| error.message)
    });
}

#[test]
fn applies() {
    let registry = Registry::builtin();
    let mut seeds: Vec<Value> = all_objects().iter().map(|object| json!([object, object])).collect();
    seeds.push(
        json!([{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "managedFields": [
        {"manager": "m", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "time": NOW,
            "fieldsV1": {"f:data": {".": {}, "f:a": {}}}}]}, "data": {"a": "b", "c": "d"}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"c": "e"}}]),
    );
    let map =
        |finalizers: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"finalizers": finalizers}});
    seeds.push(json!([map(json!([])), map(json!([null]))]));
    fuzz("applies", seeds, WORDS, |pair: &Value| {
        let applied = &pair[1];
        let row = row_of(&registry, applied).ok_or("no kind")?;
        // As the server does: what is stored has been checked, and what is applied is merged into it as it came.
        let checked = |mut object: Value| {
            let name = row.type_name.ok_or("no type")?;
            check_fields(&mut object, name, Validation::Warn).map_err(|error| error.message)?;
            Ok::<_, String>(object)
        };
        let live = &checked(pair[0].clone())?;
        let gv = row.api_version();
        let request = ApplyRequest {
            live: Some(live),
            applied,
            manager: "m",
            force: true,
            gv: &gv,
            kind: &row.kind,
            subresource: "",
            now: NOW,
            node: row.node(),
        };
        let one = checked(apply(&request).map_err(|error| error.message)?)?;
        let again = apply(&ApplyRequest {
            live: Some(&one),
            ..request
        });
        let mut two = checked(again.expect("what was applied can be applied again")).expect("and is still an object");
        keep_times_when_unchanged(&one, &mut two);
        assert_eq!(one, two, "apply then apply is a no-op");
        let mut updated = applied.clone();
        update_managed_fields(Some(live), &mut updated, "u", "Update", &gv, "", NOW, row.node());
        Ok(())
    });
}

#[test]
fn kind_rules() {
    let registry = Registry::builtin();
    let now = time::parse(NOW).expect("a time");
    let seeds: Vec<Value> = all_objects().iter().map(|object| json!([object, object])).collect();
    fuzz("kind-rules", seeds, WORDS, |pair: &Value| {
        let row = row_of(&registry, &pair[0]).ok_or("no kind")?;
        let decode = |value: &Value| {
            let body = value.to_string();
            let decoded = decode_object(
                body.as_bytes(),
                Media::Json,
                &row.gvk(),
                row.node(),
                Validation::Warn,
                &limits(),
            );
            decoded.map(|decoded| decoded.value).map_err(|error| error.message)
        };
        let rules = &row.rules;
        let mut new = decode(&pair[0])?;
        rules.default(&mut new);
        let once = new.clone();
        rules.default(&mut new);
        assert_eq!(new, once, "defaults are idempotent");
        let mut old = decode(&pair[1]).unwrap_or_else(|_| new.clone());
        rules.default(&mut old);
        for sub in [
            None,
            Some("status"),
            Some("scale"),
            Some("resize"),
            Some("ephemeralcontainers"),
            Some("approval"),
            Some("finalize"),
        ] {
            let mut changed = new.clone();
            rules.prepare_update(&mut changed, &old, sub);
            let _ = rules.validate_update(&changed, &old, sub);
        }
        rules.prepare_create(&mut new);
        let errors = rules.validate(&new);
        let _ = rules.warnings(&new, Some(&old));
        assert_eq!(rules.row(&new, now).len(), rules.columns().len(), "a cell per column");
        let _ = (rules.row_conditions(&new), rules.selectable(&new));
        let _ = (quota::usage(&row.group, &row.plural, &new), quota::pod_resources(&new));
        rules.to_storage(&mut new, &row.version);
        rules.from_storage(&mut new, &row.version);
        match errors.first() {
            Some(error) => Err(error.body()),
            None => Ok(()),
        }
    });
}

#[test]
fn structural_schemas() {
    let seeds = vec![
        json!([{"type": "object", "properties": {"a": {"type": "string", "pattern": "^a+$", "maxLength": 3, "enum": ["a"]},
            "b": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                "items": {"type": "object", "required": ["k"], "properties": {"k": {"type": "integer", "minimum": 1}}}},
            "c": {"x-kubernetes-int-or-string": true}, "d": {"type": "object", "additionalProperties": {"type": "number", "multipleOf": 0.1}}}},
            {"a": "a", "b": [{"k": 1}], "c": "50%", "d": {"e": 1.5}}]),
        json!([{"type": "object", "x-kubernetes-preserve-unknown-fields": true, "allOf": [{"required": ["a"]}], "not": {"required": ["z"]}}, {"a": 1}]),
        json!([{"type": "string", "format": "date-time"}, NOW]),
    ];
    let definition = &Registry::builtin();
    let row = definition
        .by_kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition")
        .expect("definitions");
    fuzz("structural-schemas", seeds, WORDS, |pair: &Value| {
        let path = crate::Path::root();
        let errors = kinds::definition::check_value(&path, &pair[0], &pair[1]);
        let mut value = pair[1].clone();
        let _ = codec::check_value(&mut value, Node::structural(&pair[0]), codec::Reader::Converter);
        let mut object = json!({"metadata": {"name": "as.b.c"}, "spec": {"group": "b.c", "scope": "Namespaced",
            "names": {"plural": "as", "kind": "A"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": pair[0]}}]}});
        check_fields(&mut object, row.type_name.expect("built in"), Validation::Warn).map_err(|error| error.message)?;
        row.rules.default(&mut object);
        row.rules.prepare_create(&mut object);
        match errors.first().or(row.rules.validate(&object).first()) {
            Some(error) => Err(error.body()),
            None => Ok(()),
        }
    });
}

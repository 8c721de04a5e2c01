use serde_json::json;

use super::*;
use crate::codec::{Media, Validation, decode_object, go_form};
use crate::schema::{Node, Shape, types};

fn tag(number: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![(number << 3 | 2) as u8, body.len() as u8];
    bytes.extend(body);
    bytes
}

fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let meta = [tag(1, api_version.as_bytes()), tag(2, kind.as_bytes())].concat();
    [MAGIC, &tag(1, &meta), &tag(2, raw), &tag(3, b""), &tag(4, b"")].concat()
}

#[test]
fn objects_are_read() {
    let check = |bytes: &[u8], expected: Value| {
        assert_eq!(decode_protobuf(bytes, &Limits::default()), Ok(expected));
    };
    let label = [tag(1, b"a"), tag(2, b"b")].concat();
    let meta = [tag(1, b"x"), tag(8, b""), tag(11, &label)].concat();
    let namespace = [tag(1, &meta), tag(2, b""), tag(3, &tag(1, b""))].concat();
    check(
        &body("v1", "Namespace", &namespace),
        json!({"apiVersion": "v1", "kind": "Namespace", "status": {"phase": ""}, "spec": {},
            "metadata": {"name": "x", "creationTimestamp": null, "labels": {"a": "b"}}}),
    );
    let selector = [tag(1, &tag(1, b"config")), tag(2, b"key")].concat();
    let source = tag(3, &selector);
    let env = [tag(1, b"E"), tag(3, &source)].concat();
    let limit = [tag(1, b"cpu"), tag(2, &tag(1, b"5m"))].concat();
    let container = [tag(1, b"c"), tag(7, &env), tag(8, &tag(1, &limit))].concat();
    check(
        &body("v1", "Pod", &tag(2, &tag(2, &container))),
        json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "c",
            "env": [{"name": "E", "valueFrom": {"configMapKeyRef": {"name": "config", "key": "key"}}}],
            "resources": {"limits": {"cpu": "5m"}}}]}}),
    );
    let grace = [vec![8, 30], tag(4, b"Foreground")].concat();
    check(
        &body("v1", "DeleteOptions", &grace),
        json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 30,
            "propagationPolicy": "Foreground"}),
    );
}

#[test]
fn objects_are_written_as_go_writes_them() {
    let check = |value: Value, raw: &[u8]| {
        let (api_version, kind) = (
            value["apiVersion"].as_str().unwrap_or(""),
            value["kind"].as_str().unwrap_or(""),
        );
        assert_eq!(encode_protobuf(&value), Some(body(api_version, kind, raw)), "{value}");
    };
    // Names, a uid and a version that were never set are empty texts, the time an empty message, the generation zero.
    let meta = |name: &[u8]| {
        let texts = [
            tag(1, name),
            tag(2, b""),
            tag(3, b""),
            tag(4, b""),
            tag(5, b""),
            tag(6, b""),
        ]
        .concat();
        [texts, vec![7 << 3, 0], tag(8, b"")].concat()
    };
    let data = [tag(1, b"k"), tag(2, &[0, 255])].concat();
    check(
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "AP8="}}),
        &[tag(1, &meta(b"s")), tag(2, &data), tag(3, b"")].concat(),
    );
    check(
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}}),
        &[tag(1, &meta(b"n")), tag(2, b""), tag(3, &tag(1, b""))].concat(),
    );
    let list_meta = [tag(1, b""), tag(2, b"7"), tag(3, b"")].concat();
    check(
        json!({"apiVersion": "v1", "kind": "Status", "metadata": {"resourceVersion": "7"}, "status": "Failure",
            "message": "m", "reason": "Gone", "code": 410}),
        &[
            tag(1, &list_meta),
            tag(2, b"Failure"),
            tag(3, b"m"),
            tag(4, b"Gone"),
            vec![6 << 3, 0x9a, 3],
        ]
        .concat(),
    );
    let partial = tag(1, &meta(b"p"));
    check(
        json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": "p"}}),
        &partial,
    );
    check(
        json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList",
            "metadata": {"resourceVersion": "7"}, "items": [{"metadata": {"name": "p"}}]}),
        &[tag(1, &list_meta), tag(2, &partial)].concat(),
    );
    assert_eq!(
        encode_protobuf(&json!({"apiVersion": "a.b/v1", "kind": "Custom", "metadata": {}})),
        None
    );
}

#[test]
fn odd_values() {
    let check = |type_name: &str, value: Value, expected: &[u8]| {
        assert_eq!(message(&value, type_name), expected, "{value}");
    };
    let int = |number: u8, value: u8| vec![number << 3, value];
    let port = [int(1, 0), int(2, 80), tag(3, b"")].concat();
    let named = [int(1, 1), int(2, 0), tag(3, b"web")].concat();
    let action = "io.k8s.api.core.v1.TCPSocketAction";
    check(action, json!({"port": 80}), &[tag(1, &port), tag(2, b"")].concat());
    check(
        action,
        json!({"port": "web", "host": "h"}),
        &[tag(1, &named), tag(2, b"h")].concat(),
    );
    // A negative number takes ten bytes.
    let weight = [vec![1 << 3], vec![0xff; 9], vec![1]].concat();
    let term = "io.k8s.api.core.v1.PreferredSchedulingTerm";
    check(term, json!({"weight": -1}), &[weight, tag(2, b"")].concat());
    // Whole seconds, and microseconds.
    let lease = "io.k8s.api.coordination.v1.LeaseSpec";
    let micro = [int(1, 1), vec![2 << 3, 0xd0, 0x0f]].concat();
    check(
        lease,
        json!({"renewTime": "1970-01-01T00:00:01.000002Z"}),
        &tag(4, &micro),
    );
    let taint = "io.k8s.api.core.v1.Taint";
    let seconds = [int(1, 1), int(2, 0)].concat();
    let texts = [tag(1, b"k"), tag(2, b""), tag(3, b"")].concat();
    check(
        taint,
        json!({"key": "k", "timeAdded": "1970-01-01T00:00:01Z"}),
        &[texts, tag(4, &seconds)].concat(),
    );
}

#[test]
fn watch_frames_have_their_length_in_front() {
    let event = [tag(1, b"ADDED"), tag(2, &tag(1, b"object"))].concat();
    let expected = [&[0, 0, 0, event.len() as u8][..], &event].concat();
    assert_eq!(watch_frame("ADDED", b"object"), expected);
}

#[test]
fn a_list_in_pieces_is_the_list() {
    for count in [0, 1, 3] {
        let items: Vec<Value> = (0..count)
            .map(|n| json!({"metadata": {"name": format!("c{n}")}, "data": {"k": "v".repeat(n * 100)}}))
            .collect();
        let metadata = json!({"resourceVersion": "12"});
        let whole = json!({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": metadata, "items": items});
        let messages: Vec<Vec<u8>> = items
            .iter()
            .map(|item| message(item, "io.k8s.api.core.v1.ConfigMap"))
            .collect();
        let total = messages.iter().map(|one| item_bytes(one.len())).sum();
        let mut pieces = list_head("v1", "ConfigMapList", &metadata, total);
        for one in messages {
            pieces.extend(item_head(one.len()));
            pieces.extend(one);
        }
        pieces.extend(END);
        assert_eq!(Some(pieces), encode_protobuf(&whole));
    }
}

#[test]
fn nonsense_is_refused() {
    let good = body("v1", "Namespace", &tag(1, &tag(1, b"x")));
    for end in 0..good.len() {
        // Whatever is cut off, there is an answer.
        let _ = decode_protobuf(&good[..end], &Limits::default());
    }
    assert!(decode_protobuf(b"{}", &Limits::default()).is_err());
    assert!(decode_protobuf(&body("v1", "Nonsense", b""), &Limits::default()).is_err());
    assert!(decode_protobuf(&body("v1", "Pod", &[0x0a, 0xff]), &Limits::default()).is_err());
    // A schema in a schema in a schema.
    let mut deep = Vec::new();
    for _ in 0..200 {
        let mut outer = Vec::new();
        wire::bytes(28, &deep, &mut outer);
        deep = outer;
    }
    let mut left = read::Left {
        memory: Budget::new(usize::MAX),
        values: 1000,
        depth: 100,
    };
    let props = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
    let refused = read::object(&deep, type_ref(props).expect("a type"), &mut left);
    assert!(refused.expect_err("too deep").ends_with("it is nested too deeply"));
}

#[test]
fn bodies_of_another_kind() {
    let pod = Gvk::new("", "v1", "Pod");
    let node = Node::of_type("io.k8s.api.core.v1.Pod").expect("a type");
    let decode = |bytes: &[u8]| {
        let limits = Limits::default();
        decode_object(bytes, Media::Protobuf, &pod, node, Validation::Strict, &limits)
            .map(|decoded| decoded.value["metadata"]["name"].clone())
            .map_err(|error| error.message)
    };
    let named = tag(1, &tag(1, b"x"));
    let cases: [(Vec<u8>, Result<Value, &str>); 6] = [
        (body("v1", "Pod", &named), Ok(json!("x"))),
        (body("", "", &named), Ok(json!("x"))),
        (
            body("v1", "Secret", &named),
            Err(
                "Secret in version \"v1\" cannot be handled as a Pod: converting (v1.Secret) to (core.Pod): unknown conversion",
            ),
        ),
        (
            body("v1", "Chair", &named),
            Err(
                "Chair in version \"v1\" cannot be handled as a Pod: no kind \"Chair\" is registered for version \
                 \"v1\" in scheme \"pkg/api/legacyscheme/scheme.go:30\"",
            ),
        ),
        (
            b"{}".to_vec(),
            Err(
                "the object provided is unrecognized (must be of type Pod): provided data does not appear to be a \
                 protobuf message, expected prefix [107 56 115 0] ({})",
            ),
        ),
        (
            Vec::new(),
            Err("the object provided is unrecognized (must be of type Pod): empty data (<empty>)"),
        ),
    ];
    for (bytes, expected) in cases {
        assert_eq!(decode(&bytes), expected.map_err(str::to_owned));
    }
}

/// Numbers that look random and are the same every time (xorshift).
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn text(&mut self) -> String {
        ["", "a", "ein Wort", "käse\n", "0", "null", "ZGF0YQ=="][self.below(7) as usize].to_owned()
    }

    fn value(&mut self, shape: Shape, depth: usize) -> Value {
        match shape {
            Shape::String { .. } => self.text().into(),
            Shape::Integer { format: "int32" } => [0, 1, -1, i32::MAX, i32::MIN][self.below(5) as usize].into(),
            Shape::Integer { .. } => [0, 1, -1, i64::MAX, i64::MIN][self.below(5) as usize].into(),
            Shape::Number => [0.0, 1.5, -3.0e10][self.below(3) as usize].into(),
            Shape::Boolean => (self.below(2) == 1).into(),
            Shape::IntOrString if self.below(2) == 0 => self.text().into(),
            Shape::IntOrString => [0, 8080, -1][self.below(3) as usize].into(),
            Shape::Quantity => ["0", "5m", "1Gi", "1500"][self.below(4) as usize].into(),
            Shape::Time => ["2026-11-21T05:27:44Z", "1969-12-31T23:59:58Z"][self.below(2) as usize].into(),
            Shape::MicroTime => {
                ["2026-11-21T05:27:44.123456Z", "1970-01-01T00:00:00.000000Z"][self.below(2) as usize].into()
            }
            Shape::Bytes => ["", "AP8=", "ZGF0YQ=="][self.below(3) as usize].into(),
            Shape::Any | Shape::FieldsV1 => json!({"f:a": {".": {}, "k:{\"n\":1}": [1.5, null, "x"]}}),
            Shape::Object(reference) => self.object(reference, depth),
            Shape::Array(element) => (0..1 + self.below(2)).map(|_| self.value(*element, depth)).collect(),
            Shape::Map(element) => (0..1 + self.below(2))
                .map(|n| (format!("k{n}"), self.value(*element, depth)))
                .collect::<Map<_, _>>()
                .into(),
        }
    }

    fn object(&mut self, reference: TypeRef, depth: usize) -> Value {
        let mut made = Map::new();
        let row = reference.get();
        let schema = row.name.ends_with(".JSONSchemaProps");
        for field in &*row.fields {
            // Deep down only what holds no objects, so that it ends.
            let nests = schema || matches!(field.shape, Shape::Object(_) | Shape::Array(_) | Shape::Map(_));
            // Of a whole object these are in the envelope.
            let outside = matches!(field.name, "apiVersion" | "kind") && !has_number(reference, field.name);
            if (self.below(3) == 0 && (!field.required || nests)) || (depth == 0 && nests) || outside {
                continue;
            }
            let inner = |chance: &mut Self| {
                let mut made = chance.object(reference, depth.saturating_sub(2));
                go_form(&mut made, row.name);
                made
            };
            let value = match field.name {
                "items" if schema && self.below(2) == 0 => json!([inner(self), inner(self)]),
                "items" | "additionalItems" | "additionalProperties" if schema && self.below(2) == 0 => inner(self),
                "additionalItems" | "additionalProperties" if schema => (self.below(2) == 1).into(),
                "items" if schema => continue,
                "dependencies" if schema => json!({"a": ["x", "y"], "b": inner(self)}),
                _ => self.value(field.shape, depth.saturating_sub(1)),
            };
            made.insert(field.name.to_owned(), value);
        }
        Value::Object(made)
    }
}

fn has_number(reference: TypeRef, name: &str) -> bool {
    let slots = &table::message(reference).slots;
    slots
        .iter()
        .any(|slot| matches!(&slot.kind, table::SlotKind::Field { field, .. } if field.name == name))
}

#[test]
fn what_is_written_is_read_again() {
    let limits = Limits::default();
    for seed in 1..=3 {
        let mut chance = Chance(0x9e37_79b9_7f4a_7c15 ^ seed << 40);
        for row in types() {
            let reference = type_ref(row.name).expect("a type");
            if table::message(reference).slots.is_empty() {
                continue;
            }
            let mut value = chance.object(reference, 3);
            go_form(&mut value, row.name);
            let mut left = read::Left {
                values: limits.values_max,
                memory: Budget::new(limits.memory_max),
                depth: limits.depth_max,
            };
            let mut read = read::object(&message(&value, row.name), reference, &mut left)
                .unwrap_or_else(|why| panic!("{} seed {seed}: {why}\n{value}", row.name));
            let node = Node::of_type(row.name).expect("a type");
            crate::codec::check_value(&mut read, node, crate::codec::Reader::Decoder).expect("fits its type");
            go_form(&mut read, row.name);
            assert_eq!(read, value, "{} seed {seed}", row.name);
        }
    }
}

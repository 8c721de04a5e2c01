use super::*;
use proptest::prelude::*;
use serde_json::json;

fn decode(text: &str, media: Media, kind: (&str, &str, &str), validation: Validation) -> Result<Decoded, ApiError> {
    let gvk = Gvk::new(kind.0, kind.1, kind.2);
    let node = Node::of_type(gvk.type_name().unwrap()).unwrap();
    decode_object(text.as_bytes(), media, &gvk, node, validation, &Limits::default())
}

const CONFIG_MAP: (&str, &str, &str) = ("", "v1", "ConfigMap");
const DEPLOYMENT: (&str, &str, &str) = ("apps", "v1", "Deployment");

#[test]
fn duplicates_and_unknown_fields() {
    let text = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x","name":"x"},"data":{"a":"1","a":"2"}}"#;
    let why = decode(text, Media::Json, CONFIG_MAP, Validation::Strict).unwrap_err();
    assert_eq!(
        why.message,
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: duplicate field \"metadata.name\", duplicate field \"data.a\""
    );
    let decoded = decode(text, Media::Json, CONFIG_MAP, Validation::Warn).unwrap();
    assert_eq!(
        decoded.warnings,
        ["duplicate field \"metadata.name\"", "duplicate field \"data.a\""]
    );
    assert_eq!(decoded.value["data"]["a"], "2");
    assert!(
        decode(text, Media::Json, CONFIG_MAP, Validation::Ignore)
            .unwrap()
            .warnings
            .is_empty()
    );
}

#[test]
fn unknown_fields_in_document_order() {
    let text = r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"x"},"spec":{"selector":{},
        "template":{"spec":{"containers":[{"name":"c","imagePullPolice":"Always"}]}},"replcas":3}}"#;
    let decoded = decode(text, Media::Json, DEPLOYMENT, Validation::Warn).unwrap();
    assert_eq!(
        decoded.warnings,
        [
            "unknown field \"spec.template.spec.containers[0].imagePullPolice\"",
            "unknown field \"spec.replcas\""
        ]
    );
    assert_eq!(decoded.value["spec"]["replcas"], Value::Null);
}

#[test]
fn nobody_looks_inside_an_unknown_field() {
    let text = r#"{"dta":{"a":1,"a":2},"dtax":1,"data":{"a":"1","a":"2"}}"#;
    let decoded = decode(text, Media::Json, CONFIG_MAP, Validation::Warn).unwrap();
    let expected = [
        "unknown field \"dta\"",
        "unknown field \"dtax\"",
        "duplicate field \"data.a\"",
    ];
    assert_eq!(decoded.warnings, expected);
}

#[test]
fn wrong_types() {
    let cases = [
        (
            json!({"replicas": "3"}),
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            json!({"replicas": 1.5}),
            "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            json!({"template": []}),
            "json: cannot unmarshal array into Go struct field DeploymentSpec.spec.template of type v1.PodTemplateSpec",
        ),
        (
            json!({"paused": "true"}),
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.paused of type bool",
        ),
        // Types that decode themselves tell what they are made from.
        (
            json!({"strategy": {"rollingUpdate": {"maxSurge": true}}}),
            "json: cannot unmarshal bool into Go struct field RollingUpdateDeployment.spec.strategy.rollingUpdate.maxSurge \
             of type int32",
        ),
        (
            json!({"template": {"metadata": {"creationTimestamp": 5}}}),
            "json: cannot unmarshal number into Go struct field ObjectMeta.spec.template.metadata.creationTimestamp of \
             type string",
        ),
    ];
    for (spec, why) in cases {
        let body = json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": spec}).to_string();
        let error = decode(&body, Media::Json, DEPLOYMENT, Validation::Warn).unwrap_err();
        let expected = format!("Deployment in version \"v1\" cannot be handled as a Deployment: {why}");
        assert_eq!((error.code, error.message), (400, expected));
    }
}

#[test]
fn bodies_without_a_kind_to_find() {
    for (text, why) in [
        (
            "[]",
            "json: cannot unmarshal array into Go value of type struct { APIVersion string \
             \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" } (5b5d)",
        ),
        (
            "{\"kind\":[]}",
            "json: cannot unmarshal array into Go struct field .kind of type string ({\"kind\":[]})",
        ),
    ] {
        let error = decode(text, Media::Json, CONFIG_MAP, Validation::Strict).unwrap_err();
        let expected = format!(
            "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse \
             error: {why}"
        );
        assert_eq!(error.message, expected);
    }
}

#[test]
fn malformed_bodies() {
    let cases = [
        ("{", 400),
        ("[]", 400),
        ("\"x\"", 400),
        ("", 400),
        ("{\"apiVersion\":\"v9\",\"kind\":\"ConfigMap\"}", 400),
        ("{\"apiVersion\":\"v1\",\"kind\":\"Nope\"}", 400),
    ];
    for (text, code) in cases {
        let error = decode(text, Media::Json, CONFIG_MAP, Validation::Strict).unwrap_err();
        assert_eq!(error.code, code, "{text}: {}", error.message);
    }
    for text in ["null", "{}", "{\"kind\":\"ConfigMap\"}", "{\"apiVersion\":\"v1\"}"] {
        let decoded = decode(text, Media::Json, CONFIG_MAP, Validation::Strict).unwrap();
        assert_eq!(
            decoded.value,
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}}),
            "{text}"
        );
    }
    let deep = "[".repeat(5000);
    assert!(decode(&deep, Media::Json, CONFIG_MAP, Validation::Strict).is_err());
    assert!(decode(&deep, Media::Yaml, CONFIG_MAP, Validation::Strict).is_err());
    let invalid = [b'{', b'"', 0xff, b'"', b':', b'1', b'}'];
    assert_eq!(
        decode_json(&invalid, &Limits::default()).unwrap_err().message,
        "invalid UTF-8 at byte 2"
    );
}

#[test]
fn the_form_that_go_prints() {
    let cases = [
        (
            "io.k8s.api.core.v1.ConfigMap",
            json!({"data": {"a": null}}),
            json!({"data": {"a": ""}, "metadata": {}}),
        ),
        (
            "io.k8s.api.core.v1.ConfigMap",
            json!({"data": null, "binaryData": {}}),
            json!({"metadata": {}}),
        ),
        (
            "io.k8s.api.core.v1.ConfigMap",
            json!({"metadata": {"creationTimestamp": null, "labels": {"l": ""}, "finalizers": []}}),
            json!({"metadata": {"labels": {"l": ""}}}),
        ),
        (
            "io.k8s.api.apps.v1.DeploymentSpec",
            json!({"replicas": 0, "paused": false, "selector": {}, "template": {}}),
            json!({"replicas": 0, "selector": {}, "strategy": {}, "template": {"metadata": {}, "spec": {"containers": null}}}),
        ),
        (
            "io.k8s.api.core.v1.Container",
            json!({"name": "c", "command": [], "env": [{"name": "A", "value": ""}], "stdin": false}),
            json!({"name": "c", "env": [{"name": "A"}], "resources": {}}),
        ),
        (
            "io.k8s.api.core.v1.ResourceQuota",
            json!({"spec": {"hard": {"cpu": 2, "memory": "1024Mi", "x": "0.5"}}}),
            json!({"metadata": {}, "spec": {"hard": {"cpu": "2", "memory": "1Gi", "x": "500m"}}, "status": {}}),
        ),
        (
            "io.k8s.api.rbac.v1.ClusterRole",
            json!({}),
            json!({"metadata": {}, "rules": null}),
        ),
        (
            "io.k8s.api.core.v1.PersistentVolumeClaimSpec",
            json!({"storageClassName": ""}),
            json!({"resources": {}, "storageClassName": ""}),
        ),
    ];
    for (name, mut value, expected) in cases {
        check_fields(&mut value, name, Validation::Strict).unwrap();
        assert_eq!(value, expected, "{name}");
        let before = value.clone();
        go_form(&mut value, name);
        assert_eq!(value, before, "{name} again");
    }
}

#[test]
fn yaml_scalars() {
    let cases = [
        ("0644", json!(420)),
        ("0o17", json!(15)),
        ("0x10", json!(16)),
        ("010_0", json!(64)),
        ("08", json!(8)),
        ("1_000", json!(1000)),
        ("-5", json!(-5)),
        ("1.0", json!(1)),
        ("1.5", json!(1.5)),
        ("1e3", json!(1000)),
        ("yes", json!(true)),
        ("off", json!(false)),
        ("~", json!(null)),
        ("", json!(null)),
        ("1.2.3", json!("1.2.3")),
        ("10.0.0.1", json!("10.0.0.1")),
        ("2020-01-01", json!("2020-01-01")),
        ("-", json!("-")),
        ("1Gi", json!("1Gi")),
        ("100m", json!("100m")),
        (".", json!(".")),
    ];
    for (text, expected) in cases {
        assert_eq!(yaml::plain(text), expected, "{text}");
    }
}

#[test]
fn yaml_documents_with_places() {
    let text = "a: 1\nb:\n  - c: 2\n    d: \"yes\"\n---\n# nothing\n---\nx: &x {w: 1}\nz: *x\nm:\n  <<: *x\n  k: v\n";
    let documents = decode_yaml_documents(text).unwrap();
    assert_eq!(documents.len(), 2);
    assert_eq!(documents[0].value, json!({"a": 1, "b": [{"c": 2, "d": "yes"}]}));
    assert_eq!(documents[0].spans.get("b[0].d"), Some((4, 5)));
    assert_eq!(documents[0].spans.nearest("b[0].d.e"), Some((4, 5)));
    assert_eq!(
        documents[1].value,
        json!({"x": {"w": 1}, "z": {"w": 1}, "m": {"w": 1, "k": "v"}})
    );
    let noted = decode_yaml_documents("# head\na: 1 # one\n# between\nb: # two\n  # inner\n  - x # three\n").unwrap();
    assert_eq!(noted[0].value, json!({"a": 1, "b": ["x"]}));
    let error = decode_yaml_documents("a: 1\n b: [\n").unwrap_err();
    assert!(error.line >= 2, "{error}");
}

#[test]
fn yaml_refusals_have_the_words_of_go() {
    for (text, want) in [
        ("\ta: 1\n", "found character that cannot start any token"),
        ("a:\n\tb: 1\n", "line 2: found character that cannot start any token"),
        ("a:\n  \tb: 1\n", "line 2: found character that cannot start any token"),
        ("a:\n\t- 1\n", "line 2: found character that cannot start any token"),
        ("a: @x\n", "found character that cannot start any token"),
        ("a: b: c\n", "mapping values are not allowed in this context"),
        (
            "x: y\na: b: c\n",
            "line 2: mapping values are not allowed in this context",
        ),
        ("a:\n  b: 1\n c: 2\n", "line 2: did not find expected key"),
        ("a: b\n- c\n", "line 1: did not find expected key"),
        ("a: \"x\n", "line 2: found unexpected end of stream"),
    ] {
        let error = decode_yaml(text.as_bytes(), &Limits::default()).unwrap_err();
        let want = format!("error converting YAML to JSON: yaml: {want}");
        assert!(error.message.contains(&want), "{text:?}: {}", error.message);
    }
    // Where indentation does not count, a tab is a space.
    for text in [
        "a: [1,\t2]\n",
        "a:\t1\n",
        "a: |\n  x\n  \ty\n",
        "a: \"x\n  \ty\"\n",
        "# c\n\t\n\t# d\na: 1\n",
    ] {
        assert!(decode_yaml(text.as_bytes(), &Limits::default()).is_ok(), "{text:?}");
    }
}

#[test]
fn yaml_duplicates() {
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: strict\ndata:\n  a: \"1\"\n  a: \"2\"\n";
    let why = decode(text, Media::Yaml, CONFIG_MAP, Validation::Strict).unwrap_err();
    assert_eq!(
        why.message,
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: yaml: unmarshal errors:\n  line 7: key \"a\" already set in map"
    );
    let decoded = decode(text, Media::Yaml, CONFIG_MAP, Validation::Warn).unwrap();
    assert_eq!(decoded.warnings, ["line 7: key \"a\" already set in map"]);
}

#[test]
fn alias_bombs_are_bounded() {
    let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for level in 1..12 {
        let below = level - 1;
        let items = vec![format!("*a{below}"); 10].join(",");
        text.push_str(&format!("a{level}: &a{level} [{items}]\n"));
    }
    let error = decode_yaml(
        text.as_bytes(),
        &Limits {
            values_max: 10_000,
            ..Limits::default()
        },
    )
    .unwrap_err();
    assert!(error.message.contains("excessive aliasing"), "{}", error.message);
}

#[test]
fn printed_yaml() {
    let cases = [
        (json!({}), "{}\n"),
        (json!({"a": [], "b": {}, "c": null}), "a: []\nb: {}\nc: null\n"),
        (
            json!({"a": ["x", {"b": 1, "c": [1]}]}),
            "a:\n- x\n- b: 1\n  c:\n  - 1\n",
        ),
        (
            json!({"a": "true", "b": "1", "c": ""}),
            "a: \"true\"\nb: \"1\"\nc: \"\"\n",
        ),
        (
            json!({"a": "x: y", "b": "*", "c": "it's"}),
            "a: 'x: y'\nb: '*'\nc: it's\n",
        ),
        (
            json!({"a": "l1\nl2\n", "b": "l1\nl2"}),
            "a: |\n  l1\n  l2\nb: |-\n  l1\n  l2\n",
        ),
        (json!([[1, 2], []]), "- - 1\n  - 2\n- []\n"),
        (
            json!({"t": "2026-01-01T00:00:00Z", "q": "100m", "p": "25%"}),
            "p: 25%\nq: 100m\nt: \"2026-01-01T00:00:00Z\"\n",
        ),
    ];
    for (value, expected) in cases {
        assert_eq!(to_yaml(&value), expected);
    }
    // Readers give up on a long key unless it is announced.
    for below in [json!("v"), json!({"a": [1, {"b": []}]}), json!([[1], 2])] {
        let value = json!({"z": {"k".repeat(2_000): below, "y": 1}});
        let text = to_yaml(&value);
        assert!(text.contains("\n  ? kkk") && text.contains("\n  : "), "{text}");
        assert_eq!(
            decode_yaml(text.as_bytes(), &Limits::default()).unwrap().0,
            value,
            "{text}"
        );
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[ -~\\n\\té☃]{0,120}".prop_map(Value::from),
        "(yes|no|~|0x1f|01|1e5|1:30|- a|a: b|#c|\\?|null| lead|trail )".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::btree_map("[ -~]{1,12}", inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn json_round_trip(value in any_json()) {
        let (again, problems) = decode_json(&serde_json::to_vec(&value).unwrap(), &Limits::default()).unwrap();
        prop_assert_eq!(again, value);
        prop_assert!(problems.is_empty());
    }

    #[test]
    fn yaml_round_trip(value in any_json()) {
        let text = to_yaml(&value);
        let (again, _) = decode_yaml(text.as_bytes(), &Limits::default()).map_err(|e| TestCaseError::fail(format!("{e}\n{text}")))?;
        prop_assert_eq!(again, value, "{}", text);
    }

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_json(&bytes, &Limits::default());
        let _ = decode_yaml(&bytes, &Limits::default());
        let pod = Gvk::new("", "v1", "Pod");
        let node = Node::of_type("io.k8s.api.core.v1.Pod").unwrap();
        let body = protobuf::enclose("v1", "Pod", &bytes);
        let _ = decode_object(&body, Media::Protobuf, &pod, node, Validation::Warn, &Limits::default());
        let _ = decode_protobuf(&bytes, &Limits::default());
    }
}

/// A value of the given shape, chosen by the bits of a number.
pub(crate) fn value_of(shape: crate::schema::Shape, seed: &mut u64, depth: usize) -> Value {
    use crate::schema::Shape;
    *seed = seed
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    let pick = (*seed >> 33) as usize;
    let of = |choices: &[Value]| choices.get(pick % choices.len()).cloned().unwrap_or_default();
    match shape {
        Shape::String { .. } => of(&[json!(""), json!("x"), json!("yes")]),
        Shape::Integer { .. } | Shape::IntOrString => of(&[json!(0), json!(1), json!(-7)]),
        Shape::Number => of(&[json!(0), json!(1.5)]),
        Shape::Boolean => of(&[json!(true), json!(false)]),
        Shape::Quantity => of(&[json!("010"), json!("1024Mi"), json!("0.5"), json!(3), json!("1e3")]),
        Shape::Time => of(&[json!("2026-01-02T03:04:05.5+01:00"), json!("2026-01-02T03:04:05Z")]),
        Shape::MicroTime => json!("2026-01-02T03:04:05.123456Z"),
        Shape::Bytes => of(&[json!(""), json!("YQ==")]),
        Shape::Any | Shape::FieldsV1 => json!({"a": null}),
        Shape::Array(element) => (0..pick % 3).map(|_| value_of(*element, seed, depth + 1)).collect(),
        Shape::Map(element) => {
            let entries = (0..pick % 3).map(|at| (format!("k{at}"), value_of(*element, seed, depth + 1)));
            Value::Object(entries.collect())
        }
        Shape::Object(reference) => {
            let mut map = serde_json::Map::new();
            for field in &*reference.get().fields {
                *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                match (*seed >> 40) % 4 {
                    0 if depth < 6 => map.insert(field.name.into(), value_of(field.shape, seed, depth + 1)),
                    1 => map.insert(field.name.into(), Value::Null),
                    _ => None,
                };
            }
            Value::Object(map)
        }
    }
}

proptest! {
    #[test]
    fn checking_again_changes_nothing(which in any::<proptest::sample::Index>(), seed in any::<u64>()) {
        let row = which.get(crate::schema::types());
        let reference = type_ref(row.name).unwrap();
        let mut value = value_of(crate::schema::Shape::Object(reference), &mut { seed }, 0);
        let warnings = check_fields(&mut value, row.name, Validation::Warn).map_err(|e| TestCaseError::fail(e.message))?;
        prop_assert!(warnings.is_empty(), "{:?}", warnings);
        let once = value.clone();
        check_fields(&mut value, row.name, Validation::Strict).map_err(|e| TestCaseError::fail(e.message))?;
        prop_assert_eq!(&value, &once, "{}", row.name);
        let (again, _) = decode_json(&serde_json::to_vec(&value).unwrap(), &Limits::default()).unwrap();
        prop_assert_eq!(&again, &once);
    }
}

//! What long lists cost: no step of a write takes more than in proportion to what a client sends.
//!
//! Every list and map of every kind is filled, one at a time, with few items and with eight times as many, all different
//! and all alike, and taken through everything that a write does here. A step whose time grows with the square takes
//! sixty-four times as long; what takes longer than half of that, and long enough to be measured, fails.
//!
//! A run looks at every fortieth list. `COXSWAIN_COST_EVERY=1` looks at all of them, in some minutes, and
//! `COXSWAIN_COST_ITEMS=20000` at longer ones.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::apply::{ApplyRequest, apply, update_managed_fields};
use crate::codec::{Limits, Media, Validation, decode_json, decode_object, decode_yaml, encode_protobuf};
use crate::kinds::definition::value;
use crate::patch::{json_patch, strategic_merge};
use crate::registry::{Registry, Resource};
use crate::schema::{Node, Shape, Type, type_ref};
use crate::{quota, time};

const NOW: &str = "2026-01-02T03:04:05Z";
/// Nesting of types that is looked at.
const DEPTH_MAX: usize = 9;
/// Times below this say nothing.
const NOISE: Duration = Duration::from_millis(40);
/// Looks at what seems slow.
const LOOKS: usize = 5;

fn number(name: &str, default: usize) -> usize {
    let given = std::env::var(name).ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// One way from an object to a list or map; `*` is the first item of a list or entry of a map.
type Way = Vec<&'static str>;

/// The ways to all lists and maps of a type. Each type is looked into once: what its lists cost does not depend on where it is.
fn ways(row: &'static Type, way: &mut Way, seen: &mut BTreeSet<&'static str>, out: &mut Vec<(Way, Shape)>) {
    if way.len() > DEPTH_MAX || !seen.insert(row.name) {
        return;
    }
    for field in &*row.fields {
        way.push(field.name);
        below(field.shape, way, seen, out);
        way.pop();
    }
}

fn below(shape: Shape, way: &mut Way, seen: &mut BTreeSet<&'static str>, out: &mut Vec<(Way, Shape)>) {
    match shape {
        Shape::Object(reference) => ways(reference.get(), way, seen, out),
        Shape::Array(element) | Shape::Map(element) => {
            out.push((way.clone(), shape));
            way.push("*");
            below(*element, way, seen, out);
            way.pop();
        }
        _ => {}
    }
}

/// A value of a shape whose texts and numbers tell it from others by `number`.
fn value(shape: Shape, name: &str, number: usize, depth: usize) -> Value {
    match shape {
        Shape::String { .. } => match name {
            "operator" => ["In", "Exists", "Equal"][number % 2].into(),
            "protocol" => "TCP".into(),
            "effect" => "NoSchedule".into(),
            "kind" | "apiVersion" | "apiGroup" => "v1".into(),
            "mountPath" | "devicePath" | "path" => format!("/a/{number}").into(),
            "ip" | "addresses" | "cidr" => format!("10.{}.{}.1", number / 250 % 250, number % 250).into(),
            _ => format!("n{number}").into(),
        },
        Shape::Integer { .. } | Shape::IntOrString => (number % 60_000 + 1).into(),
        Shape::Number => (number as f64).into(),
        Shape::Boolean => true.into(),
        Shape::Quantity => (number + 1).to_string().into(),
        Shape::Time => NOW.into(),
        Shape::MicroTime => "2026-01-02T03:04:05.000000Z".into(),
        Shape::Bytes => "AP8=".into(),
        Shape::Any | Shape::FieldsV1 => json!({}),
        Shape::Array(element) => json!([value(*element, name, number, depth)]),
        Shape::Map(element) => json!({format!("k{number}"): value(*element, name, number, depth)}),
        Shape::Object(reference) => {
            let mut map = Map::new();
            for field in &*reference.get().fields {
                let nests = matches!(field.shape, Shape::Object(_) | Shape::Array(_) | Shape::Map(_));
                if !nests || (field.required && depth > 0) {
                    let below = value(field.shape, field.name, number, depth.saturating_sub(1));
                    map.insert(field.name.to_owned(), below);
                }
            }
            Value::Object(map)
        }
    }
}

/// Puts `count` items at the end of a way, and one of everything on the way there.
fn filled(row: &'static Type, way: &[&str], shape: Shape, count: usize, alike: bool) -> Value {
    let Some((first, rest)) = way.split_first() else {
        let number = |at: usize| if alike { 1 } else { at };
        let name = "";
        return match shape {
            Shape::Array(element) => (0..count).map(|at| value(*element, name, number(at), 2)).collect(),
            Shape::Map(element) => {
                let entries = (0..count).map(|at| (format!("k{at}"), value(*element, name, number(at), 2)));
                Value::Object(entries.collect())
            }
            _ => Value::Null,
        };
    };
    let Some(field) = row.field(first) else {
        return Value::Null;
    };
    let mut object = value(Shape::Object(type_ref(row.name).expect("a type")), "", 1, 1);
    object[*first] = inside(field.shape, rest, shape, count, alike);
    object
}

fn inside(of: Shape, way: &[&str], shape: Shape, count: usize, alike: bool) -> Value {
    match (of, way.split_first()) {
        (Shape::Object(reference), Some(_)) => filled(reference.get(), way, shape, count, alike),
        (Shape::Array(element), Some((_, rest))) => json!([inside(*element, rest, shape, count, alike)]),
        (Shape::Map(element), Some((_, rest))) => json!({"k1": inside(*element, rest, shape, count, alike)}),
        (_, None) => filled(
            type_ref("io.k8s.api.core.v1.Pod").expect("a type").get(),
            &[],
            shape,
            count,
            alike,
        ),
        _ => Value::Null,
    }
}

/// What each step of a write took.
type Steps = Vec<Step>;
type Step = (&'static str, Duration);

fn timed<T>(name: &'static str, steps: &mut Steps, run: impl FnOnce() -> T) -> T {
    let begin = Instant::now();
    let result = run();
    steps.push((name, begin.elapsed()));
    result
}

fn written(row: &Resource, object: &Value) -> Steps {
    let mut steps = Steps::new();
    let body = object.to_string();
    let gvk = row.gvk();
    let decoded = timed("decode", &mut steps, || {
        let limits = Limits::default();
        decode_object(
            body.as_bytes(),
            Media::Json,
            &gvk,
            row.node(),
            Validation::Warn,
            &limits,
        )
    });
    let Ok(decoded) = decoded else { return steps };
    let (mut new, rules) = (decoded.value, &row.rules);
    timed("default", &mut steps, || rules.default(&mut new));
    let gv = row.api_version();
    timed("managed", &mut steps, || {
        update_managed_fields(None, &mut new, "m", "Update", &gv, "", NOW, row.node());
    });
    timed("prepare", &mut steps, || rules.prepare_create(&mut new));
    let errors = timed("validate", &mut steps, || rules.validate(&new));
    timed("refuse", &mut steps, || {
        crate::ApiError::invalid("", "x", "x", errors).to_status().to_string()
    });
    timed("warn", &mut steps, || rules.warnings(&new, None));
    timed("selectable", &mut steps, || rules.selectable(&new));
    let now = time::parse(NOW).expect("a time");
    timed("row", &mut steps, || (rules.row(&new, now), rules.row_conditions(&new)));
    timed("quota", &mut steps, || {
        (quota::usage(&row.group, &row.plural, &new), quota::pod_resources(&new))
    });
    let old = new.clone();
    for sub in [
        None,
        Some("status"),
        Some("resize"),
        Some("ephemeralcontainers"),
        Some("approval"),
    ] {
        let mut changed = object.clone();
        changed["metadata"]["labels"] = json!({"a": "b"});
        let name = sub.unwrap_or("update");
        timed(name, &mut steps, || {
            rules.default(&mut changed);
            rules.prepare_update(&mut changed, &old, sub);
            rules.validate_update(&changed, &old, sub)
        });
        timed("update warnings", &mut steps, || rules.warnings(&changed, Some(&old)));
    }
    let _ = timed("strategic", &mut steps, || strategic_merge(&old, object, row.node()));
    let _ = timed("apply", &mut steps, || {
        apply(&ApplyRequest {
            live: Some(&old),
            applied: object,
            manager: "other",
            force: false,
            gv: &gv,
            kind: &row.kind,
            subresource: "",
            now: NOW,
            node: row.node(),
        })
    });
    timed("versions", &mut steps, || {
        rules.to_storage(&mut new, &row.version);
        rules.from_storage(&mut new, &row.version);
    });
    timed("protobuf", &mut steps, || encode_protobuf(&old));
    steps
}

/// Takes the shorter time of each step.
fn quicker(steps: &mut Steps, other: Steps) {
    if steps.is_empty() {
        *steps = other;
        return;
    }
    for (one, other) in steps.iter_mut().zip(other) {
        one.1 = one.1.min(other.1);
    }
}

/// The steps that took far longer than in proportion to an eighth of the items. Without times for those, all that took long.
fn grown(long: &[Step], short: &[Step]) -> Vec<String> {
    let short = |at: usize| short.get(at).map_or(Duration::ZERO, |(_, took)| *took);
    let slow = |(at, (_, long)): &(usize, &Step)| *long > NOISE && *long > short(*at) * 32;
    let slow = long.iter().enumerate().filter(slow);
    slow.map(|(at, (step, long))| format!("{step}: {:?} {long:?}", short(at)))
        .collect()
}

#[test]
fn no_step_of_a_write_costs_more_than_what_is_sent() {
    let registry = Registry::builtin();
    let (items, every) = (
        number("COXSWAIN_COST_ITEMS", 800),
        number("COXSWAIN_COST_EVERY", 40).max(1),
    );
    let (mut seen, mut slow, mut looked_at) = (BTreeSet::new(), Vec::new(), 0);
    for row in registry.resources() {
        let Some(reference) = row.type_name.and_then(type_ref) else {
            continue;
        };
        let mut found = Vec::new();
        // Metadata and the types inside are looked at once, from the first kind that has them; pods from themselves.
        let pods_first = |seen: &mut BTreeSet<&'static str>| {
            if &*row.plural == "pods" {
                seen.remove("io.k8s.api.core.v1.PodSpec");
            } else {
                seen.insert("io.k8s.api.core.v1.PodSpec");
            }
        };
        pods_first(&mut seen);
        seen.remove(reference.get().name);
        ways(reference.get(), &mut Way::new(), &mut seen, &mut found);
        for (way, shape) in found {
            for alike in [false, true] {
                looked_at += 1;
                if looked_at % every != 0 {
                    continue;
                }
                let object = |count: usize| {
                    let mut object = filled(reference.get(), &way, shape, count, alike);
                    object["apiVersion"] = row.api_version().into();
                    object["kind"] = (*row.kind).into();
                    if object["metadata"]["name"].is_null() {
                        object["metadata"]["name"] = "x".into();
                    }
                    object
                };
                let (mut long, mut short) = (written(row, &object(items)), Steps::new());
                // A machine that does other things makes anything slow: the quickest of some looks counts.
                for _ in 0..LOOKS {
                    if grown(&long, &short).is_empty() {
                        break;
                    }
                    quicker(&mut short, written(row, &object(items / 8)));
                    quicker(&mut long, written(row, &object(items)));
                }
                for line in grown(&long, &short) {
                    let line = format!("{} {} alike={alike} {line}", row.kind, way.join("."));
                    eprintln!("{line}");
                    slow.push(line);
                }
            }
        }
    }
    assert!(looked_at > 600, "{looked_at}");
    assert!(slow.is_empty(), "{} of {looked_at}:\n{}", slow.len(), slow.join("\n"));
}

/// JSON patches that move a million items for each of their operations are rejected, and before they have done so.
#[test]
fn json_patches_stop_when_they_cost_too_much() {
    let list = json!({"a": vec![Value::Null; 400_000], "b": {}});
    for operation in [
        json!({"op": "add", "path": "/a/0", "value": 1}),
        json!({"op": "remove", "path": "/a/0"}),
        json!({"op": "move", "from": "/a/0", "path": "/a/-"}),
        json!({"op": "copy", "from": "/b", "path": "/a/1"}),
        json!({"op": "move", "from": "/a", "path": "/c"}),
    ] {
        let back = json!({"op": "move", "from": "/c", "path": "/a"});
        let patch: Vec<Value> = (0..10_000)
            .map(|at| {
                if at % 2 == 1 && operation["path"] == "/c" {
                    &back
                } else {
                    &operation
                }
            })
            .cloned()
            .collect();
        let begin = Instant::now();
        let error = json_patch(&list, &Value::Array(patch)).expect_err("too much");
        assert_eq!(
            (error.code, error.reason),
            (413, "RequestEntityTooLarge"),
            "{operation}: {error}"
        );
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "{operation}: {:?}",
            begin.elapsed()
        );
    }
    // What people do stays possible: ten thousand operations on a list of some thousand.
    let list = json!({"a": (0..3000).collect::<Vec<_>>()});
    let patch: Vec<Value> = (0..10_000)
        .map(|_| json!({"op": "move", "from": "/a/0", "path": "/a/-"}))
        .collect();
    json_patch(&list, &Value::Array(patch)).expect("a patch");
}

/// Texts that make readers look back, or open what is never closed.
#[test]
fn reading_costs_what_the_text_is_long() {
    let repeated: &[(&str, &str, &str)] = &[
        ("", "[", ""),
        ("", "{", ""),
        ("[", "a,", ""),
        ("{", "a,", ""),
        ("{", "a: b, ", ""),
        ("", "- ", ""),
        ("", "? ", ""),
        ("", "- a\n", ""),
        ("a: ", "b ", ""),
        ("a: ", "b\n ", ""),
        ("a: >\n", " b\n\n", ""),
        ("", "# c\n", "a: b"),
        ("a: |\n", " b\n", ""),
        ("a: \"", "b\\n", "\""),
        ("a: '", "b''", "'"),
        ("", "---\n", ""),
        ("", "a: &b c\n", ""),
        ("a: &a b\nc: [", "*a,", "]"),
        ("a: &a {b: c}\nd: [", "{<<: *a},", "]"),
        ("", "!!str ", "a"),
        ("", "%TAG ! !\n", ""),
        ("", "\t", ""),
        ("a: ", "\n", ""),
        ("[", "1,", "1]"),
        ("{\"a\":[", "{\"\":0},", "0]}"),
        ("\"", "\\u0000", "\""),
        ("", "1", ""),
        ("", "-", ""),
        ("{\"a\":", "1e", "}"),
    ];
    let read = |text: &str| {
        let (mut steps, limits) = (Steps::new(), Limits::default());
        let _ = timed("YAML", &mut steps, || decode_yaml(text.as_bytes(), &limits));
        let _ = timed("JSON", &mut steps, || decode_json(text.as_bytes(), &limits));
        steps
    };
    let mut slow = Vec::new();
    for (before, part, after) in repeated {
        let text = |bytes: usize| format!("{before}{}{after}", part.repeat(bytes / part.len()));
        let (mut long, mut short) = (read(&text(128 << 10)), Steps::new());
        for _ in 0..LOOKS {
            if grown(&long, &short).is_empty() {
                break;
            }
            quicker(&mut short, read(&text(16 << 10)));
            quicker(&mut long, read(&text(128 << 10)));
        }
        let grown = grown(&long, &short).into_iter();
        slow.extend(grown.map(|line| format!("{before:?} {part:?} {line}")));
    }
    assert!(slow.is_empty(), "{}", slow.join("\n"));
}

/// One long key above many fields: nobody copies the way to each of them.
#[test]
fn fields_below_a_long_key_cost_what_they_are_long() {
    let body = |key: usize, fields: usize| {
        let fields: Map<String, Value> = (0..fields).map(|at| (format!("k{at}"), json!("v"))).collect();
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "y": 1, "z": 1,
            "data": {"k".repeat(key): fields}})
    };
    let schema = json!({"type": "object", "additionalProperties": {"type": "object", "additionalProperties": {"type": "object",
        "additionalProperties": {"type": "integer"}}}});
    let registry = Registry::builtin();
    let row = registry.by_kind("", "v1", "ConfigMap").expect("a row");
    let read = |key: usize| {
        let object = body(key, 8_000);
        let mut steps = Steps::new();
        let text = object.to_string();
        for validation in [Validation::Warn, Validation::Strict] {
            let limits = Limits::default();
            let _ = timed("decode", &mut steps, || {
                decode_object(
                    text.as_bytes(),
                    Media::Json,
                    &row.gvk(),
                    Node::Untyped,
                    validation,
                    &limits,
                )
            });
        }
        let path = crate::Path::new("x");
        let errors = timed("schema", &mut steps, || {
            value::check(&path, &schema, &json!({"a": object["data"]}))
        });
        timed("refuse", &mut steps, || {
            crate::ApiError::invalid("", "x", "x", errors).to_status().to_string()
        });
        let node = Node::structural(&schema);
        let request = |live: Option<&Value>| {
            let _ = apply(&ApplyRequest {
                live,
                applied: &object,
                manager: "m",
                force: false,
                gv: "v1",
                kind: "ConfigMap",
                subresource: "",
                now: NOW,
                node,
            });
        };
        timed("apply", &mut steps, || request(None));
        steps
    };
    // Two hundred times as long a key: copies of it for each field would be more than a gigabyte.
    let (mut short, mut long) = (read(1_000), read(200_000));
    for _ in 0..2 {
        quicker(&mut short, read(1_000));
        quicker(&mut long, read(200_000));
    }
    for ((step, long), (_, short)) in long.iter().zip(&short) {
        assert!(*long < *short * 4 + NOISE * 10, "{step}: {short:?} {long:?}");
    }
}

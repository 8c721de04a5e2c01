//! The fields of a type that hold numbers, quantities, durations and times, with the ends of what they can hold: for
//! tests of whatever acts on objects, which users and other machines write.

use serde_json::{Value, json};

use super::{Node, Shape};

/// An object with one field changed.
#[derive(Debug, Clone)]
pub struct Change {
    /// The field, such as `.spec.replicas`.
    pub field: String,
    /// What it has been set to.
    pub value: Value,
    /// The object.
    pub object: Value,
}

/// A base object of a built-in type with each field that holds a number set to each of its extremes; what is required on
/// the way to a field is filled in. Most of them no server would store.
pub fn changes(type_name: &str, base: &Value) -> Vec<Change> {
    let Some(root) = Node::of_type(type_name).and_then(|node| node.shape()) else {
        return Vec::new();
    };
    let mut places = Vec::new();
    walk(root, &mut Vec::new(), &mut places);
    let mut out = Vec::new();
    for (place, shape) in places {
        for value in extremes(shape) {
            let mut object = base.clone();
            set(&mut object, root, &place, value.clone());
            let field = text(&place);
            out.push(Change { field, value, object });
        }
    }
    out
}

/// Types nest in each other (a schema in a schema); deeper fields are the same again.
const DEPTH_MAX: usize = 14;

const INT32: &[i64] = &[i32::MIN as i64, -1, 0, 1, i32::MAX as i64];
/// With the numbers around which seconds overflow as nanoseconds, microseconds and milliseconds.
const INT64: &[i64] = &[
    i64::MIN,
    -1,
    0,
    1,
    i32::MAX as i64 + 1,
    9_223_372_036,
    9_223_372_037,
    9_223_372_036_855,
    9_223_372_036_854_776,
    i64::MAX,
];
const QUANTITIES: &[&str] = &[
    "0",
    "-1",
    "1n",
    "1e-30",
    "1E30",
    "9E",
    "9223372036854775807",
    "-9223372036854775808",
];
const TEXTS: &[&str] = &["0%", "100%", "-1%", "2147483647%", "9223372036854775807%", ""];
const TIMES: &[&str] = &[
    "0000-01-01T00:00:00Z",
    "0001-01-01T00:00:00Z",
    "1969-12-31T23:59:59Z",
    "9999-12-31T23:59:59Z",
];
const MICRO_TIMES: &[&str] = &[
    "0001-01-01T00:00:00.000000Z",
    "1969-12-31T23:59:59.999999Z",
    "9999-12-31T23:59:59.999999Z",
];

/// The extremes of a shape; none when it is no number.
fn extremes(shape: Shape) -> Vec<Value> {
    let texts = |texts: &[&str]| texts.iter().map(|text| json!(text)).collect::<Vec<Value>>();
    let numbers = |numbers: &[i64]| numbers.iter().map(|number| json!(number)).collect::<Vec<Value>>();
    match shape {
        Shape::Integer { format: "int64" } => numbers(INT64),
        Shape::Integer { .. } => numbers(INT32),
        Shape::Number => vec![json!(-1e308), json!(0.0), json!(5e-324), json!(1e308)],
        Shape::IntOrString => [numbers(INT32), texts(TEXTS)].concat(),
        Shape::Quantity => texts(QUANTITIES),
        Shape::Time => texts(TIMES),
        Shape::MicroTime => texts(MICRO_TIMES),
        _ => Vec::new(),
    }
}

#[derive(Clone, Copy)]
enum Step {
    Field(&'static str),
    Item,
    Key,
}

fn text(place: &[Step]) -> String {
    let word = |step: &Step| match step {
        Step::Field(name) => format!(".{name}"),
        Step::Item => "[0]".to_owned(),
        Step::Key => "{}".to_owned(),
    };
    place.iter().map(word).collect()
}

/// Collects the places of numbers below a shape.
fn walk(shape: Shape, place: &mut Vec<Step>, out: &mut Vec<(Vec<Step>, Shape)>) {
    if place.len() > DEPTH_MAX {
        return;
    }
    let mut below = |step: Step, shape: Shape| {
        place.push(step);
        walk(shape, place, out);
        place.pop();
    };
    match shape {
        Shape::Object(reference) => {
            for field in &reference.get().fields {
                below(Step::Field(field.name), field.shape);
            }
        }
        Shape::Array(element) => below(Step::Item, *element),
        Shape::Map(element) => below(Step::Key, *element),
        shape if !extremes(shape).is_empty() => out.push((place.clone(), shape)),
        _ => {}
    }
}

/// Sets a place, with whatever is required on the way to it.
fn set(object: &mut Value, shape: Shape, place: &[Step], value: Value) {
    let Some((step, rest)) = place.split_first() else {
        *object = value;
        return;
    };
    match (step, shape) {
        (Step::Field(name), Shape::Object(reference)) => {
            if !object.is_object() {
                *object = least(shape, 0);
            }
            if let Some(field) = reference.get().field(name) {
                set(&mut object[*name], field.shape, rest, value);
            }
        }
        (Step::Item, Shape::Array(element)) => {
            if object.as_array().is_none_or(Vec::is_empty) {
                *object = json!([Value::Null]);
            }
            if let Some(first) = object.get_mut(0) {
                set(first, *element, rest, value);
            }
        }
        (Step::Key, Shape::Map(element)) => {
            let key = match element {
                Shape::Quantity => "cpu",
                _ => "a",
            };
            let known = object.as_object().and_then(|map| map.keys().next().cloned());
            set(&mut object[known.as_deref().unwrap_or(key)], *element, rest, value);
        }
        _ => {}
    }
}

/// The least that a shape needs.
fn least(shape: Shape, depth: usize) -> Value {
    match shape {
        Shape::Object(reference) if depth < 6 => {
            let required = reference.get().fields.iter().filter(|field| field.required);
            required
                .map(|field| (field.name.to_owned(), least(field.shape, depth.saturating_add(1))))
                .collect()
        }
        Shape::Object(_) | Shape::Map(_) => json!({}),
        Shape::Array(element) => json!([least(*element, depth.saturating_add(1))]),
        Shape::Integer { .. } | Shape::Number | Shape::IntOrString => json!(1),
        Shape::Boolean => json!(true),
        Shape::Quantity => json!("1"),
        Shape::Time => json!("2026-01-01T00:00:00Z"),
        Shape::MicroTime => json!("2026-01-01T00:00:00.000000Z"),
        Shape::Bytes => json!("YQ=="),
        Shape::Any | Shape::FieldsV1 => json!({}),
        Shape::String { .. } => json!("a"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_set_where_they_belong() {
        let base = json!({"spec": {"template": {"spec": {"containers": [{"name": "c"}]}}}});
        let all = changes("io.k8s.api.batch.v1.Job", &base);
        let of = |field: &str| -> Vec<&Change> { all.iter().filter(|change| change.field == field).collect() };
        for (field, pointer, count) in [
            (
                ".spec.activeDeadlineSeconds",
                "/spec/activeDeadlineSeconds",
                INT64.len(),
            ),
            (".spec.parallelism", "/spec/parallelism", INT32.len()),
            (".status.startTime", "/status/startTime", TIMES.len()),
            (
                ".spec.template.spec.containers[0].resources.limits{}",
                "/spec/template/spec/containers/0/resources/limits/cpu",
                QUANTITIES.len(),
            ),
            (
                ".spec.template.spec.containers[0].livenessProbe.httpGet.port",
                "/spec/template/spec/containers/0/livenessProbe/httpGet/port",
                INT32.len() + TEXTS.len(),
            ),
        ] {
            let found = of(field);
            assert_eq!(found.len(), count, "{field}");
            for change in found {
                assert_eq!(change.object.pointer(pointer), Some(&change.value), "{field}");
                let name = change.object.pointer("/spec/template/spec/containers/0/name");
                assert_eq!(name, Some(&json!("c")), "what is there stays");
            }
        }
        assert!(all.len() > 1_000, "{}", all.len());
        assert!(changes("io.example.v1.Nothing", &base).is_empty());
    }
}

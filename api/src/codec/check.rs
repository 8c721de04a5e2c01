//! The type step: a value against its schema, in the words of Go's JSON decoder.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::{PROBLEMS_MAX, Problem, note};
use crate::quantity::Quantity;
use crate::schema::{Field, Node, Shape, Type};
use crate::time;

/// Drops unknown fields (noting them), refuses wrong types, makes quantities, times and bytes canonical and
/// drops nulls. The error is the sentence of whom `reader` names.
pub(super) fn check(
    value: &mut Value,
    node: Node<'_>,
    reader: Reader,
    problems: &mut Vec<Problem>,
) -> Result<(), String> {
    let mut walk = Walk {
        reader,
        path: String::new(),
        owner: "",
        fields: Vec::new(),
        problems,
    };
    walk.node(value, node)
}

/// Leaves an object of a built-in type as Go prints it: drops empty optional fields, adds the struct and
/// required fields that are printed even when empty. Idempotent; the value must have passed the type step.
pub fn go_form(value: &mut Value, type_name: &str) {
    if let Some(node) = Node::of_type(type_name) {
        complete(value, node);
    }
}

pub(super) fn complete(value: &mut Value, node: Node<'_>) {
    match (node.shape(), value) {
        (Some(Shape::Object(reference)), Value::Object(map)) => complete_struct(map, reference.get()),
        (Some(Shape::Array(element)), Value::Array(items)) => {
            for item in items {
                complete(
                    item,
                    Node::Builtin {
                        shape: *element,
                        field: None,
                    },
                );
            }
        }
        (Some(Shape::Map(element)), Value::Object(map)) => {
            for item in map.values_mut() {
                complete(
                    item,
                    Node::Builtin {
                        shape: *element,
                        field: None,
                    },
                );
            }
        }
        (None, Value::Object(map)) => {
            // A custom resource: only its metadata is of a built-in type.
            if let (Some(metadata), Some(inner @ Node::Builtin { .. })) =
                (map.get_mut("metadata"), node.field("metadata"))
            {
                complete(metadata, inner);
            }
        }
        _ => {}
    }
}

fn complete_struct(map: &mut Map<String, Value>, row: &'static Type) {
    for field in &*row.fields {
        let node = Node::Builtin {
            shape: field.shape,
            field: Some(field),
        };
        match map.get_mut(field.name) {
            Some(value) => {
                complete(value, node);
                if field.drops(value) {
                    map.remove(field.name);
                } else if field.null && row.forgets_empty() && value.as_array().is_some_and(Vec::is_empty) {
                    *value = Value::Null;
                }
            }
            None => {
                if let Some(mut zero) = field.printed_zero() {
                    complete(&mut zero, node);
                    map.insert(field.name.to_owned(), zero);
                }
            }
        }
    }
}

/// Who reads a value in Kubernetes, and has words of its own for a wrong type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// The JSON decoder.
    Decoder,
    /// What makes an object of a document in memory, after a strategic merge.
    Converter,
}

struct Walk<'p> {
    reader: Reader,
    /// The place of the value being looked at.
    path: String,
    /// The Go type that holds the field being looked at.
    owner: &'static str,
    /// The struct fields on the way here: what Go's decoder names, without list positions and map keys.
    fields: Vec<&'static str>,
    problems: &'p mut Vec<Problem>,
}

impl Walk<'_> {
    fn node(&mut self, value: &mut Value, node: Node<'_>) -> Result<(), String> {
        match node {
            Node::Untyped => Ok(()),
            Node::Builtin { shape, .. } => self.shape(value, shape),
            Node::Structural { .. } => self.structural(value, node),
        }
    }

    fn shape(&mut self, value: &mut Value, shape: Shape) -> Result<(), String> {
        match shape {
            Shape::Object(reference) => self.object(value, reference.get()),
            Shape::Array(element) => self.array(value, *element, shape),
            Shape::Map(element) => self.map(value, *element, shape),
            Shape::Any | Shape::FieldsV1 => Ok(()),
            _ => self.scalar(value, shape),
        }
    }

    fn object(&mut self, value: &mut Value, row: &'static Type) -> Result<(), String> {
        let Value::Object(map) = value else {
            return Err(self.wrong(value, go_type_of(row)));
        };
        let owner = std::mem::replace(&mut self.owner, short(row.name));
        let mut unknown: Vec<String> = Vec::new();
        let mut nulls: Vec<&'static str> = Vec::new();
        for (key, entry) in map.iter_mut() {
            let Some(field) = row.field(key) else {
                unknown.push(key.clone());
                continue;
            };
            if entry.is_null() {
                nulls.push(field.name);
                continue;
            }
            let length = self.enter(key);
            self.fields.push(field.name);
            self.shape(entry, field.shape)?;
            self.fields.pop();
            self.path.truncate(length);
        }
        for key in unknown {
            let length = self.enter(&key);
            self.note_unknown();
            self.path.truncate(length);
            map.remove(&key);
        }
        for key in nulls {
            map.remove(key);
        }
        self.owner = owner;
        Ok(())
    }

    fn array(&mut self, value: &mut Value, element: Shape, shape: Shape) -> Result<(), String> {
        let Value::Array(items) = value else {
            return Err(self.wrong(value, &go_type(shape)));
        };
        for (index, item) in items.iter_mut().enumerate() {
            let length = self.path.len();
            let _ = write!(self.path, "[{index}]");
            if item.is_null() {
                *item = zero_of(element);
            } else {
                self.shape(item, element)?;
            }
            self.path.truncate(length);
        }
        Ok(())
    }

    fn map(&mut self, value: &mut Value, element: Shape, shape: Shape) -> Result<(), String> {
        let Value::Object(map) = value else {
            return Err(self.wrong(value, &go_type(shape)));
        };
        for (key, item) in map.iter_mut() {
            let length = self.enter(key);
            if item.is_null() {
                *item = zero_of(element);
            } else {
                self.shape(item, element)?;
            }
            self.path.truncate(length);
        }
        Ok(())
    }

    fn scalar(&mut self, value: &mut Value, shape: Shape) -> Result<(), String> {
        match (shape, &*value) {
            (Shape::String { .. }, Value::String(_)) | (Shape::Boolean, Value::Bool(_)) => Ok(()),
            (Shape::Number, Value::Number(_)) | (Shape::IntOrString, Value::String(_)) => Ok(()),
            (Shape::Integer { format }, Value::Number(number)) => {
                let fits = match (format, number.as_i64()) {
                    (_, None) => false,
                    ("int32", Some(int)) => i32::try_from(int).is_ok(),
                    _ => true,
                };
                if fits {
                    Ok(())
                } else {
                    Err(self.wrong(value, &go_type(shape)))
                }
            }
            (Shape::IntOrString, Value::Number(number)) => match number.as_i64().map(i32::try_from) {
                Some(Ok(_)) => Ok(()),
                _ => Err(self.wrong_inside(value, "int32")),
            },
            (Shape::IntOrString, _) => Err(self.wrong_inside(value, "int32")),
            (Shape::Quantity, Value::String(_) | Value::Number(_)) => {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                *value = Quantity::printed(text.trim()).map_err(|why| why.to_string())?.into();
                Ok(())
            }
            (Shape::Quantity, _) => Err(Quantity::parse("").err().map(|why| why.to_string()).unwrap_or_default()),
            (Shape::Time, Value::String(text)) => {
                *value = time::canonical(text)
                    .ok_or_else(|| bad_time(text, "2006-01-02T15:04:05Z07:00"))?
                    .into();
                Ok(())
            }
            (Shape::MicroTime, Value::String(text)) => {
                let canonical = time::canonical_micro(text);
                *value = canonical
                    .ok_or_else(|| bad_time(text, "2006-01-02T15:04:05.000000Z07:00"))?
                    .into();
                Ok(())
            }
            (Shape::Time | Shape::MicroTime, _) => Err(self.wrong_inside(value, "string")),
            (Shape::Bytes, Value::String(text)) => {
                *value = canonical_base64(text)?.into();
                Ok(())
            }
            _ => Err(self.wrong(value, &go_type(shape))),
        }
    }

    /// A custom resource: undeclared fields are pruned, types are left to the schema's own validation.
    fn structural(&mut self, value: &mut Value, node: Node<'_>) -> Result<(), String> {
        match value {
            Value::Object(map) => {
                let keys: Vec<String> = map.keys().cloned().collect();
                for key in keys {
                    let length = self.enter(&key);
                    match node.field(&key) {
                        Some(Node::Builtin { .. }) if map.get(&key).is_some_and(Value::is_null) => {
                            map.remove(&key);
                        }
                        Some(inner) => {
                            if let Some(entry) = map.get_mut(&key) {
                                self.node(entry, inner)?;
                            }
                        }
                        None => {
                            self.note_unknown();
                            map.remove(&key);
                        }
                    }
                    self.path.truncate(length);
                }
            }
            Value::Array(items) => {
                let Some(element) = node.element() else { return Ok(()) };
                for (index, item) in items.iter_mut().enumerate() {
                    let length = self.path.len();
                    let _ = write!(self.path, "[{index}]");
                    self.node(item, element)?;
                    self.path.truncate(length);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn enter(&mut self, key: &str) -> usize {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(key);
        length
    }

    fn note_unknown(&mut self) {
        if self.problems.len() < PROBLEMS_MAX {
            let problem = Problem {
                path: self.path.clone(),
                text: format!("unknown field \"{}\"", self.path),
                from_yaml: false,
            };
            note(self.problems, problem);
        }
    }

    fn wrong(&self, value: &Value, wanted: &str) -> String {
        if self.reader == Reader::Converter {
            return unconverted(value, wanted);
        }
        self.wrong_inside(value, wanted)
    }

    /// As [`Walk::wrong`] of a type that decodes itself, from `wanted`.
    fn wrong_inside(&self, value: &Value, wanted: &str) -> String {
        let found = match value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            Value::Number(number) if wanted.starts_with("int") => format!("number {number}"),
            Value::Number(_) => "number".to_owned(),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        if self.fields.is_empty() || self.reader == Reader::Converter {
            return format!("json: cannot unmarshal {found} into Go value of type {wanted}");
        }
        let field = self.fields.join(".");
        format!(
            "json: cannot unmarshal {found} into Go struct field {}.{field} of type {wanted}",
            self.owner
        )
    }
}

impl Type {
    /// Whether an empty list is not told from an absent one: Kubernetes keeps objects in protobuf, but for
    /// definitions and API services. Lists of objects and reviews are not kept.
    fn forgets_empty(&self) -> bool {
        let review = ["io.k8s.api.authentication.", "io.k8s.api.authorization."];
        self.name.starts_with("io.k8s.api.")
            && !self.name.ends_with("List")
            && !review.iter().any(|package| self.name.starts_with(package))
    }
}

/// What the converter says of a value that is not of the Go type `wanted`.
fn unconverted(value: &Value, wanted: &str) -> String {
    let found = match value {
        Value::Null => "interface",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
    };
    let is_number = value.is_number();
    match wanted {
        _ if wanted.starts_with("map[") => format!("cannot restore map from {found}"),
        _ if wanted.starts_with('[') => format!("cannot restore slice from {found}"),
        _ if wanted.contains('.') => format!("cannot restore struct from: {found}"),
        // Go converts numbers to any of these, and means something else by it.
        "string" | "int32" | "int64" | "float64" if is_number => format!("cannot convert {found} to {wanted}"),
        _ => format!("unrecognized type: {wanted}"),
    }
}

impl Field {
    /// Whether Go leaves this value out when printing.
    fn drops(&self, value: &Value) -> bool {
        if self.required || self.zero {
            return value.is_null() && !self.null;
        }
        match value {
            Value::Null => !self.null,
            Value::String(text) => text.is_empty() && !self.pointer && !matches!(self.shape, Shape::Quantity),
            Value::Bool(flag) => !flag && !self.pointer,
            Value::Number(number) => {
                number.as_f64() == Some(0.0) && !self.pointer && !matches!(self.shape, Shape::IntOrString)
            }
            Value::Array(items) => items.is_empty() && !self.keeps_empty,
            Value::Object(map) => map.is_empty() && matches!(self.shape, Shape::Map(_)) && !self.keeps_empty,
        }
    }

    /// What Go prints for this field when it was never set.
    fn printed_zero(&self) -> Option<Value> {
        match self.shape {
            Shape::Object(_) if self.always => Some(Value::Object(Map::new())),
            Shape::String { .. } | Shape::Integer { .. } | Shape::Boolean | Shape::Quantity if self.zero => {
                Some(zero_of(self.shape))
            }
            _ if self.null => Some(Value::Null),
            _ => None,
        }
    }
}

/// Go's zero value, as it is printed inside lists and maps.
fn zero_of(shape: Shape) -> Value {
    match shape {
        Shape::String { .. } | Shape::Bytes => "".into(),
        Shape::Integer { .. } | Shape::Number | Shape::IntOrString => 0.into(),
        Shape::Boolean => false.into(),
        Shape::Quantity => "0".into(),
        Shape::Object(_) => Value::Object(Map::new()),
        _ => Value::Null,
    }
}

fn bad_time(text: &str, layout: &str) -> String {
    let text = crate::field::quote(text);
    format!("parsing time {text} as {layout:?}: cannot parse {text} as \"2006\"")
}

fn canonical_base64(text: &str) -> Result<String, String> {
    let compact: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    match STANDARD.decode(&compact) {
        Ok(bytes) => Ok(STANDARD.encode(bytes)),
        Err(error) => {
            let position = match error {
                base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                _ => compact.len(),
            };
            Err(format!("illegal base64 data at input byte {position}"))
        }
    }
}

fn short(name: &'static str) -> &'static str {
    name.rsplit('.').next().unwrap_or(name)
}

/// `v1.PodSpec` of `io.k8s.api.core.v1.PodSpec`.
fn go_type_of(row: &'static Type) -> &'static str {
    let mut dots = row.name.rmatch_indices('.');
    dots.nth(1)
        .and_then(|(at, _)| row.name.get(at + 1..))
        .unwrap_or(row.name)
}

fn go_type(shape: Shape) -> String {
    match shape {
        Shape::String { .. } => "string".into(),
        Shape::Integer { format: "" } => "int".into(),
        Shape::Integer { format } => format.into(),
        Shape::Number => "float64".into(),
        Shape::Boolean => "bool".into(),
        Shape::IntOrString => "intstr.IntOrString".into(),
        Shape::Quantity => "resource.Quantity".into(),
        Shape::Time => "v1.Time".into(),
        Shape::MicroTime => "v1.MicroTime".into(),
        Shape::Bytes => "[]uint8".into(),
        Shape::Object(reference) => go_type_of(reference.get()).into(),
        Shape::Array(element) => format!("[]{}", go_type(*element)),
        Shape::Map(element) => format!("map[string]{}", go_type(*element)),
        Shape::Any | Shape::FieldsV1 => "interface {}".into(),
    }
}

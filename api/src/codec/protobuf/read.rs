//! From the wire to a [`Value`].

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::table::{self, Form, Slot, SlotKind};
use super::wire::{Fields, Wire, read_varint};
use crate::codec::weight::{self, Budget, TooLarge};
use crate::codec::{Failure, Limits, go_form, json};
use crate::schema::{Shape, TypeRef};
use crate::time;

/// How much more may be read.
pub(super) struct Left {
    pub values: usize,
    pub memory: Budget,
    pub depth: usize,
}

impl Left {
    /// Charges for one value, which is about to be built.
    fn charge(&mut self, with: impl FnOnce(&mut Budget) -> Result<(), TooLarge>) -> Result<(), String> {
        self.values = self.values.checked_sub(1).ok_or("it holds too many values")?;
        with(&mut self.memory).map_err(|TooLarge| "its values take too much memory".to_owned())
    }

    /// Charges for the next item of a list.
    fn item(&mut self, place: &Value) -> Result<(), String> {
        self.charge(|memory| memory.item(place.as_array().map_or(0, Vec::len)))
    }

    /// Charges for the next field of an object.
    fn field(&mut self, place: &Map<String, Value>, name: &str) -> Result<(), String> {
        if place.contains_key(name) {
            return Ok(());
        }
        self.charge(|memory| memory.field(place.len(), name))
    }

    /// A text, once it is charged for.
    fn text(&mut self, bytes: &[u8]) -> Result<Value, String> {
        self.charge(|memory| memory.charge(bytes.len()))?;
        utf8(bytes).map(Value::String)
    }

    /// A JSON document inside the message.
    fn json(&mut self, bytes: &[u8]) -> Result<Value, String> {
        let limits = Limits {
            bytes_max: bytes.len(),
            depth_max: self.depth,
            values_max: self.values,
            memory_max: self.memory.left(),
        };
        let (value, _) = json::decode(bytes, &limits).map_err(|failure| match failure {
            Failure::Syntax(why) => why,
            Failure::TooLarge(_) | Failure::TooHeavy(_) => "its values take too much memory".to_owned(),
        })?;
        self.charge(|memory| memory.charge(weight::of(&value)))?;
        Ok(value)
    }
}

/// Reads one message of a type.
pub(super) fn object(bytes: &[u8], reference: TypeRef, left: &mut Left) -> Result<Value, String> {
    let mut object = Map::new();
    let message = table::message(reference);
    fields(bytes, &message.slots, &mut object, left).map_err(|why| {
        let name = reference.get().name;
        format!("{}: {why}", name.rsplit('.').next().unwrap_or(name))
    })?;
    Ok(Value::Object(object))
}

/// Reads the fields of one message into `object`. Numbers that are not known are skipped.
fn fields(bytes: &[u8], slots: &[Slot], object: &mut Map<String, Value>, left: &mut Left) -> Result<(), String> {
    left.depth = left.depth.checked_sub(1).ok_or("it is nested too deeply")?;
    for field in Fields(bytes) {
        let (number, wire) = field?;
        left.values = left.values.checked_sub(1).ok_or("it holds too many values")?;
        match table::find(slots, number).map(|slot| &slot.kind) {
            None => {}
            Some(SlotKind::Embedded(inner)) => fields(wire.bytes()?, inner, object, left)?,
            Some(SlotKind::Field { field, form, .. }) => {
                left.field(object, field.name)?;
                let place = object.entry(field.name).or_insert(Value::Null);
                formed(wire, *form, place, left).map_err(|why| format!("{}: {why}", field.name))?;
            }
        }
    }
    left.depth += 1;
    Ok(())
}

/// A schema inside a schema. JSON has no type there, so that nobody behind this would drop the zeros.
fn schema_object(bytes: &[u8], schema: TypeRef, left: &mut Left) -> Result<Value, String> {
    let mut made = object(bytes, schema, left)?;
    go_form(&mut made, schema.get().name);
    Ok(made)
}

fn formed(wire: Wire<'_>, form: Form, place: &mut Value, left: &mut Left) -> Result<(), String> {
    match form {
        Form::Shape(shape) => return take(wire, shape, place, left),
        Form::SchemaOrList(schema) => {
            for field in Fields(wire.bytes()?) {
                match field? {
                    (1, wire) => *place = schema_object(wire.bytes()?, schema, left)?,
                    (2, wire) => {
                        let item = schema_object(wire.bytes()?, schema, left)?;
                        left.item(place)?;
                        list(place).push(item);
                    }
                    _ => {}
                }
            }
        }
        Form::SchemaOrFlag(schema) => {
            *place = Value::Bool(false);
            for field in Fields(wire.bytes()?) {
                match field? {
                    (1, wire) if !place.is_object() => *place = Value::Bool(wire.number()? != 0),
                    (2, wire) => *place = schema_object(wire.bytes()?, schema, left)?,
                    _ => {}
                }
            }
        }
        Form::SchemasOrNames(schema) => {
            let (key, held) = pair(wire)?;
            let mut value = Value::Null;
            for field in held
                .map(|held| held.bytes())
                .transpose()?
                .map(Fields)
                .into_iter()
                .flatten()
            {
                match field? {
                    (1, wire) => value = schema_object(wire.bytes()?, schema, left)?,
                    (2, wire) => {
                        left.item(&value)?;
                        let name = left.text(wire.bytes()?)?;
                        list(&mut value).push(name);
                    }
                    _ => {}
                }
            }
            left.field(map(place), &key)?;
            map(place).insert(key, value);
        }
    }
    Ok(())
}

/// Reads one occurrence of a field into its place: lists and maps grow, everything else is replaced.
fn take(wire: Wire<'_>, shape: Shape, place: &mut Value, left: &mut Left) -> Result<(), String> {
    match (shape, wire) {
        (Shape::Array(Shape::Integer { .. } | Shape::Boolean), Wire::Bytes(packed)) => {
            let mut rest = packed;
            while !rest.is_empty() {
                left.item(place)?;
                let number = read_varint(&mut rest)?;
                let item = match shape {
                    Shape::Array(Shape::Boolean) => Value::Bool(number != 0),
                    _ => Value::from(number as i64),
                };
                list(place).push(item);
            }
        }
        (Shape::Array(element), _) => {
            left.item(place)?;
            let element = value(wire, *element, left)?;
            list(place).push(element);
        }
        (Shape::Map(element), _) => {
            let (key, held) = pair(wire)?;
            let value = match held {
                Some(wire) => entry(wire, *element, left)?,
                None => empty(*element),
            };
            left.field(map(place), &key)?;
            map(place).insert(key, value);
        }
        _ => *place = value(wire, shape, left)?,
    }
    Ok(())
}

/// Key and value of a map's entry.
fn pair(wire: Wire<'_>) -> Result<(String, Option<Wire<'_>>), String> {
    let (mut key, mut held) = (String::new(), None);
    for field in Fields(wire.bytes()?) {
        match field? {
            (1, wire) => key = utf8(wire.bytes()?)?,
            (2, wire) => held = Some(wire),
            _ => {}
        }
    }
    Ok((key, held))
}

/// A map's value. Lists come wrapped in a message of their own.
fn entry(wire: Wire<'_>, shape: Shape, left: &mut Left) -> Result<Value, String> {
    let Shape::Array(element) = shape else {
        return value(wire, shape, left);
    };
    let mut items = Vec::new();
    for field in Fields(wire.bytes()?) {
        if let (1, wire) = field? {
            left.charge(|memory| memory.item(items.len()))?;
            items.push(value(wire, *element, left)?);
        }
    }
    Ok(Value::Array(items))
}

/// What a map's value is when it was left out because it is zero.
fn empty(shape: Shape) -> Value {
    match shape {
        Shape::String { .. } | Shape::Bytes => Value::String(String::new()),
        Shape::Integer { .. } | Shape::IntOrString => Value::from(0),
        Shape::Boolean => Value::Bool(false),
        Shape::Quantity => Value::from("0"),
        Shape::Array(_) => Value::Array(Vec::new()),
        Shape::Object(_) => Value::Object(Map::new()),
        _ => Value::Null,
    }
}

fn list(place: &mut Value) -> &mut Vec<Value> {
    if !place.is_array() {
        *place = Value::Array(Vec::new());
    }
    match place {
        Value::Array(list) => list,
        // It has just been made one.
        _ => unreachable!(),
    }
}

fn map(place: &mut Value) -> &mut Map<String, Value> {
    if !place.is_object() {
        *place = Value::Object(Map::new());
    }
    match place {
        Value::Object(map) => map,
        // It has just been made one.
        _ => unreachable!(),
    }
}

fn value(wire: Wire<'_>, shape: Shape, left: &mut Left) -> Result<Value, String> {
    Ok(match shape {
        Shape::String { .. } => left.text(wire.bytes()?)?,
        Shape::Bytes => {
            let bytes = wire.bytes()?;
            left.charge(|memory| memory.charge(bytes.len().saturating_mul(4) / 3))?;
            Value::String(STANDARD.encode(bytes))
        }
        Shape::Integer { format: "int32" } => Value::from(wire.number()? as i32),
        Shape::Integer { .. } => Value::from(wire.number()? as i64),
        Shape::Boolean => Value::Bool(wire.number()? != 0),
        Shape::Number => Value::from(f64::from_bits(wire.number()?)),
        Shape::Quantity => match first(wire.bytes()?, 1)? {
            Some(text) => left.text(text.bytes()?)?,
            None => Value::String("0".to_owned()),
        },
        Shape::IntOrString => int_or_string(wire.bytes()?)?,
        Shape::Time => moment(wire.bytes()?)?.map_or(Value::Null, |at| Value::String(time::format(at))),
        Shape::MicroTime => moment(wire.bytes()?)?.map_or(Value::Null, |at| Value::String(time::format_micro(at))),
        Shape::Any | Shape::FieldsV1 => match first(wire.bytes()?, 1)? {
            Some(raw) => left.json(raw.bytes()?)?,
            None => Value::Null,
        },
        Shape::Object(reference) => object(wire.bytes()?, reference, left)?,
        Shape::Array(_) | Shape::Map(_) => {
            let mut place = Value::Null;
            take(wire, shape, &mut place, left)?;
            place
        }
    })
}

fn int_or_string(bytes: &[u8]) -> Result<Value, String> {
    let (mut is_text, mut number, mut text) = (false, 0, String::new());
    for field in Fields(bytes) {
        match field? {
            (1, wire) => is_text = wire.number()? == 1,
            (2, wire) => number = wire.number()? as i32,
            (3, wire) => text = utf8(wire.bytes()?)?,
            _ => {}
        }
    }
    Ok(if is_text {
        Value::String(text)
    } else {
        Value::from(number)
    })
}

/// A time; `None` for the zero time, which is an empty message.
fn moment(bytes: &[u8]) -> Result<Option<Timestamp>, String> {
    let (mut seconds, mut nanos) = (None, 0);
    for field in Fields(bytes) {
        match field? {
            (1, wire) => seconds = Some(wire.number()? as i64),
            (2, wire) => nanos = wire.number()? as i32,
            _ => {}
        }
    }
    match seconds {
        None => Ok(None),
        Some(seconds) => Timestamp::new(seconds, nanos)
            .map(Some)
            .map_err(|error| error.to_string()),
    }
}

fn first(bytes: &[u8], wanted: u64) -> Result<Option<Wire<'_>>, String> {
    for field in Fields(bytes) {
        let (number, wire) = field?;
        if number == wanted {
            return Ok(Some(wire));
        }
    }
    Ok(None)
}

pub(super) fn utf8(bytes: &[u8]) -> Result<String, String> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err("a text is not UTF-8".to_owned()),
    }
}

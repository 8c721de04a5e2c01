//! Bodies in Kubernetes' protobuf form, read into the same [`Value`]s as JSON.
//!
//! ```text
//!   "k8s\0" + Unknown { typeMeta { apiVersion, kind }, raw, contentEncoding, contentType }
//!                                                     raw: the message of that kind
//! ```
//!
//! What a message holds comes from the schema; which number a field has comes from `protobuf.tsv`, one line for each
//! type: `type <tab> number=name,...`. A name that starts with `+` is a message whose fields belong to the type
//! itself in JSON (its line is the type's package, the name and `+`). Go writes every plain field, so zeros arrive
//! here that JSON would leave out: the type step of [`super::decode_object`] drops them as it does for JSON.
//!
//! Does not write protobuf, and does not know custom resources (they have no protobuf form).

use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::Limits;
use crate::registry::{Gvk, split_api_version};
use crate::schema::{Shape, Type, lookup};
use crate::status::ApiError;
use crate::time;

const MAGIC: &[u8] = b"k8s\0";
const NUMBERS: &str = include_str!("protobuf.tsv");
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";

/// Reads a body into the object it holds, `apiVersion` and `kind` included.
///
/// # Errors
/// 400 when the bytes are not such a body, are too large or too deep, or hold a kind without protobuf form.
pub fn decode_protobuf(bytes: &[u8], limits: &Limits) -> Result<Value, ApiError> {
    if bytes.len() > limits.bytes_max {
        return Err(ApiError::too_large("the body is larger than the server accepts"));
    }
    read(bytes, limits).map_err(|why| ApiError::bad_request(format!("couldn't decode the protobuf body: {why}")))
}

fn read(bytes: &[u8], limits: &Limits) -> Result<Value, String> {
    let body = bytes
        .strip_prefix(MAGIC)
        .ok_or("it does not start with the prefix of Kubernetes' protobuf bodies")?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for field in Fields(body) {
        match field? {
            (1, Wire::Bytes(meta)) => {
                for field in Fields(meta) {
                    match field? {
                        (1, Wire::Bytes(text)) => api_version = utf8(text)?,
                        (2, Wire::Bytes(text)) => kind = utf8(text)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(object)) => raw = object,
            (3, Wire::Bytes(encoding)) if !encoding.is_empty() => return Err("its content is encoded".to_owned()),
            _ => {}
        }
    }
    let (group, version) = split_api_version(&api_version);
    let name = match kind.as_str() {
        "DeleteOptions" => Some(DELETE_OPTIONS),
        _ => Gvk::new(group, version, &kind).type_name(),
    };
    let known = name.and_then(|name| Some((name, lookup(name)?)));
    let (name, shape) = known.ok_or_else(|| format!("no kind {kind:?} is known in version {api_version:?}"))?;
    let mut object = Map::new();
    let mut left = limits.values_max;
    message(raw, name, shape, &mut object, limits.depth_max, &mut left)?;
    object.insert("apiVersion".to_owned(), Value::String(api_version));
    object.insert("kind".to_owned(), Value::String(kind));
    Ok(Value::Object(object))
}

/// The numbers of a type's fields: `1=metadata,2=spec`.
fn numbers(type_name: &str) -> Option<&'static str> {
    static LINES: OnceLock<Vec<(&'static str, &'static str)>> = OnceLock::new();
    let lines = LINES.get_or_init(|| {
        let mut lines: Vec<_> = NUMBERS.lines().filter_map(|line| line.split_once('\t')).collect();
        lines.sort_unstable();
        lines
    });
    let at = lines.binary_search_by(|(name, _)| (*name).cmp(type_name)).ok()?;
    lines.get(at).map(|(_, numbers)| *numbers)
}

fn name_of(numbers: &'static str, number: u64) -> Option<&'static str> {
    let pairs = numbers.split(',').filter_map(|pair| pair.split_once('='));
    let mut found = pairs.filter(|(n, _)| n.parse() == Ok(number));
    found.next().map(|(_, name)| name)
}

/// Reads the fields of one message into `object`; `line` names its numbers, `shape` its JSON form.
fn message(
    bytes: &[u8],
    line: &str,
    shape: &'static Type,
    object: &mut Map<String, Value>,
    depth: usize,
    left: &mut usize,
) -> Result<(), String> {
    let depth = depth.checked_sub(1).ok_or("it is nested too deeply")?;
    let Some(numbers) = numbers(line) else {
        return Ok(());
    };
    for field in Fields(bytes) {
        let (number, wire) = field?;
        *left = left.checked_sub(1).ok_or("it holds too many values")?;
        let Some(name) = name_of(numbers, number) else {
            continue;
        };
        if let Some(part) = name.strip_prefix('+') {
            let package = shape.name.rsplit_once('.').map_or("", |(package, _)| package);
            let inlined = format!("{package}.{part}+");
            message(wire.bytes()?, &inlined, shape, object, depth, left)?;
            continue;
        }
        let Some(field) = shape.field(name) else {
            continue;
        };
        take(
            wire,
            &field.shape,
            object.entry(name).or_insert(Value::Null),
            depth,
            left,
        )
        .map_err(|why| format!("{}.{name}: {why}", shape.name))?;
    }
    Ok(())
}

/// Reads one occurrence of a field into its place: lists and maps grow, everything else is replaced.
fn take(wire: Wire<'_>, shape: &Shape, place: &mut Value, depth: usize, left: &mut usize) -> Result<(), String> {
    match (shape, &wire) {
        (Shape::Array(Shape::Integer { .. }), Wire::Bytes(packed)) => {
            let mut rest = *packed;
            while !rest.is_empty() {
                let number = varint(&mut rest)?;
                list(place).push(Value::from(number as i64));
            }
        }
        (Shape::Array(element), _) => {
            let element = value(wire, element, depth, left)?;
            list(place).push(element);
        }
        (Shape::Map(element), _) => {
            let (mut key, mut held) = (String::new(), None);
            for field in Fields(wire.bytes()?) {
                match field? {
                    (1, Wire::Bytes(text)) => key = utf8(text)?,
                    (2, wire) => held = Some(entry(wire, element, depth, left)?),
                    _ => {}
                }
            }
            if !place.is_object() {
                *place = Value::Object(Map::new());
            }
            if let Some(map) = place.as_object_mut() {
                map.insert(key, held.unwrap_or_else(|| empty(element)));
            }
        }
        _ => *place = value(wire, shape, depth, left)?,
    }
    Ok(())
}

/// A map's value. Lists come wrapped in a message of their own.
fn entry(wire: Wire<'_>, shape: &Shape, depth: usize, left: &mut usize) -> Result<Value, String> {
    let Shape::Array(element) = shape else {
        return value(wire, shape, depth, left);
    };
    let mut items = Vec::new();
    for field in Fields(wire.bytes()?) {
        if let (1, wire) = field? {
            items.push(value(wire, element, depth, left)?);
        }
    }
    Ok(Value::Array(items))
}

/// What a map's value is when it was left out because it is zero.
fn empty(shape: &Shape) -> Value {
    match shape {
        Shape::String { .. } | Shape::Bytes => Value::String(String::new()),
        Shape::Integer { .. } => Value::from(0),
        Shape::Boolean => Value::Bool(false),
        Shape::Array(_) => Value::Array(Vec::new()),
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

fn value(wire: Wire<'_>, shape: &Shape, depth: usize, left: &mut usize) -> Result<Value, String> {
    Ok(match shape {
        Shape::String { .. } => Value::String(utf8(wire.bytes()?)?),
        Shape::Bytes => Value::String(STANDARD.encode(wire.bytes()?)),
        Shape::Integer { .. } => Value::from(wire.number()? as i64),
        Shape::Boolean => Value::Bool(wire.number()? != 0),
        Shape::Number => Value::from(f64::from_bits(wire.number()?)),
        Shape::Quantity => match first(wire.bytes()?, 1)? {
            Some(text) => Value::String(utf8(text.bytes()?)?),
            None => Value::String("0".to_owned()),
        },
        Shape::IntOrString => int_or_string(wire.bytes()?)?,
        Shape::Time => moment(wire.bytes()?)?.map_or(Value::Null, |at| Value::String(time::format(at))),
        Shape::MicroTime => moment(wire.bytes()?)?.map_or(Value::Null, |at| Value::String(time::format_micro(at))),
        Shape::Any | Shape::FieldsV1 => match first(wire.bytes()?, 1)? {
            Some(raw) => serde_json::from_slice(raw.bytes()?).map_err(|e| e.to_string())?,
            None => Value::Null,
        },
        Shape::Object(reference) => {
            let inner = reference.get();
            let mut object = Map::new();
            message(wire.bytes()?, inner.name, inner, &mut object, depth, left)?;
            Value::Object(object)
        }
        Shape::Array(_) | Shape::Map(_) => {
            let mut place = Value::Null;
            take(wire, shape, &mut place, depth, left)?;
            place
        }
    })
}

fn int_or_string(bytes: &[u8]) -> Result<Value, String> {
    let (mut is_text, mut number, mut text) = (false, 0, String::new());
    for field in Fields(bytes) {
        match field? {
            (1, wire) => is_text = wire.number()? == 1,
            (2, wire) => number = wire.number()? as i64,
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
        Some(seconds) => Timestamp::new(seconds, nanos).map(Some).map_err(|e| e.to_string()),
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

fn utf8(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "a text is not UTF-8".to_owned())
}

/// A field's value as it is on the wire.
#[derive(Clone, Copy, Debug)]
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Wire<'a> {
    fn bytes(self) -> Result<&'a [u8], String> {
        match self {
            Wire::Bytes(bytes) => Ok(bytes),
            Wire::Number(_) => Err("a number stands where a message or text belongs".to_owned()),
        }
    }

    fn number(self) -> Result<u64, String> {
        match self {
            Wire::Number(number) => Ok(number),
            Wire::Bytes(_) => Err("a message or text stands where a number belongs".to_owned()),
        }
    }
}

/// The fields of a message, in order.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Wire<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = next_field(&mut self.0);
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

fn next_field<'a>(rest: &mut &'a [u8]) -> Result<(u64, Wire<'a>), String> {
    let tag = varint(rest)?;
    let wire = match tag & 7 {
        0 => Wire::Number(varint(rest)?),
        1 => Wire::Number(fixed::<8>(rest)?),
        2 => {
            let length = usize::try_from(varint(rest)?).map_err(|_| "a length is too large")?;
            Wire::Bytes(split(rest, length)?)
        }
        5 => Wire::Number(fixed::<4>(rest)?),
        other => return Err(format!("wire type {other} is not used by Kubernetes")),
    };
    Ok((tag >> 3, wire))
}

fn split<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], String> {
    let (taken, left) = rest
        .split_at_checked(length)
        .ok_or("it ends in the middle of a field")?;
    *rest = left;
    Ok(taken)
}

fn fixed<const N: usize>(rest: &mut &[u8]) -> Result<u64, String> {
    let bytes = split(rest, N)?;
    Ok(bytes
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

fn varint(rest: &mut &[u8]) -> Result<u64, String> {
    let mut number = 0u64;
    for position in 0..10 {
        let (byte, left) = rest.split_first().ok_or("it ends in the middle of a number")?;
        *rest = left;
        number |= u64::from(byte & 0x7f) << (7 * position);
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err("a number is too long".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
    fn objects() {
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
    fn nonsense_is_refused() {
        let good = body("v1", "Namespace", &tag(1, &tag(1, b"x")));
        for end in 0..good.len() {
            // Whatever is cut off, there is an answer.
            let _ = decode_protobuf(&good[..end], &Limits::default());
        }
        assert!(decode_protobuf(b"{}", &Limits::default()).is_err());
        assert!(decode_protobuf(&body("v1", "Nonsense", b""), &Limits::default()).is_err());
        assert!(decode_protobuf(&body("v1", "Pod", &[0x0a, 0xff]), &Limits::default()).is_err());
    }

    #[test]
    fn every_name_in_the_table_is_in_the_schema() {
        for (name, numbers) in NUMBERS.lines().filter_map(|line| line.split_once('\t')) {
            let Some(shape) = lookup(name) else {
                continue;
            };
            for (_, field) in numbers.split(',').filter_map(|pair| pair.split_once('=')) {
                assert!(field.starts_with('+') || shape.field(field).is_some(), "{name}.{field}");
            }
        }
    }
}

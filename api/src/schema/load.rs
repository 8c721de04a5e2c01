//! Unpacks the tables that `build.rs` made.
//!
//! Shapes are written with one letter each: `s` text, `i` integer, `n` number, `b` boolean, `x` int or
//! string, `q` quantity, `t` time, `m` micro time, `y` bytes, `o` object of the named type, `[` list of,
//! `{` map of, `a` anything, `F` field set. A table that does not fit is a defect of the build; what cannot be
//! read is left out and the tests of this module see it.

use std::collections::BTreeMap;
use std::io::Read;

use serde_json::{Map, Value};

use super::facts::FACTS;
use super::go::{key_default, print_facts};
use super::{Field, ListFact, PatchFacts, Shape, Type, TypeRef};

static SCHEMA: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/schema.z"));
static DESCRIPTIONS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.z"));

/// Every type, sorted by name. The text stays in memory: names are slices of it.
pub(super) fn types() -> Vec<Type> {
    let text: &'static str = Box::leak(inflate(SCHEMA).into_boxed_str());
    let names: BTreeMap<&str, u16> = text
        .lines()
        .filter(|line| !line.starts_with('\t'))
        .enumerate()
        .filter_map(|(position, line)| Some((line.split('\t').next()?, u16::try_from(position).ok()?)))
        .collect();
    let facts: BTreeMap<&str, &'static str> = FACTS.iter().copied().collect();
    let mut types: Vec<Type> = Vec::with_capacity(names.len());
    let mut fields: Vec<Field> = Vec::new();
    let mut current: Option<&'static str> = None;
    for line in text.lines() {
        match line.strip_prefix('\t') {
            Some(rest) => fields.extend(current.and_then(|name| field(name, rest, &names, &facts))),
            None => {
                types.extend(current.map(|name| finish(name, std::mem::take(&mut fields), &facts)));
                current = line.split('\t').next();
            }
        }
    }
    types.extend(current.map(|name| finish(name, fields, &facts)));
    types
}

/// The descriptions of every type: `{type: {"": text, field: text}}`.
pub(super) fn descriptions() -> Value {
    let text = inflate(DESCRIPTIONS);
    let mut types = Map::new();
    let mut current = (String::new(), Map::new());
    for line in text.lines() {
        let (key, description) = line.trim_start_matches('\t').split_once('\t').unwrap_or((line, ""));
        let description = description.replace("\\n", "\n").replace("\\\\", "\\");
        if line.starts_with('\t') {
            current.1.insert(key.to_owned(), description.into());
        } else {
            let finished = std::mem::replace(&mut current, (key.to_owned(), Map::new()));
            types.insert(finished.0, finished.1.into());
            current.1.insert(String::new(), description.into());
        }
    }
    types.insert(current.0, current.1.into());
    types.remove("");
    Value::Object(types)
}

fn inflate(packed: &[u8]) -> String {
    let mut text = String::new();
    // Made by our own build; a damaged table shows as missing types, which every caller handles.
    let _ = flate2::read::ZlibDecoder::new(packed).read_to_string(&mut text);
    text
}

fn finish(name: &'static str, fields: Vec<Field>, facts: &BTreeMap<&str, &'static str>) -> Type {
    let map_atomic = fact(facts, name, ".").contains('X');
    Type {
        name,
        fields: fields.into_boxed_slice(),
        map_atomic,
    }
}

fn field(
    type_name: &'static str,
    line: &'static str,
    names: &BTreeMap<&str, u16>,
    facts: &BTreeMap<&str, &'static str>,
) -> Option<Field> {
    let mut parts = line.split('\t');
    let (name, shape_text, mark) = (parts.next()?, parts.next()?, parts.next()?);
    let shape = shape(shape_text, names);
    let fact = fact(facts, type_name, name);
    let printed = print_facts(type_name, name, shape, mark.contains('!'));
    Some(Field {
        name,
        shape,
        required: mark.contains('!'),
        list: list_fact(fact),
        patch: patch_facts(fact),
        map_atomic: fact.contains('X'),
        always: printed.always,
        pointer: printed.pointer,
        keeps_empty: printed.keeps_empty,
        zero: printed.zero,
        null: printed.null,
        default: key_default(type_name, name),
    })
}

fn fact(facts: &BTreeMap<&str, &'static str>, type_name: &str, field: &str) -> &'static str {
    let line = facts.get(type_name).copied().unwrap_or("");
    let found = line
        .split(' ')
        .find_map(|entry| entry.split_once('=').filter(|(name, _)| *name == field));
    found.map_or("", |(_, fact)| fact)
}

fn list_fact(fact: &'static str) -> ListFact {
    match fact.as_bytes().first() {
        Some(b'A') => ListFact::Atomic,
        Some(b'S') => ListFact::Set,
        Some(b'K') => {
            let keys: Vec<&'static str> = argument(fact, "K(").unwrap_or("").split(',').collect();
            ListFact::Map(Box::leak(keys.into_boxed_slice()))
        }
        _ => ListFact::Unset,
    }
}

fn patch_facts(fact: &'static str) -> PatchFacts {
    let merge_key = argument(fact, "M(");
    PatchFacts {
        merge: merge_key.is_some(),
        retain_keys: fact.contains('R'),
        merge_key: merge_key.unwrap_or(""),
    }
}

fn argument(fact: &'static str, opening: &str) -> Option<&'static str> {
    let begin = fact.find(opening)? + opening.len();
    fact.get(begin..)?.split(')').next()
}

fn shape(text: &'static str, names: &BTreeMap<&str, u16>) -> Shape {
    let rest = text.get(1..).unwrap_or("");
    match text.as_bytes().first() {
        Some(b's') => Shape::String { format: rest },
        Some(b'i') => Shape::Integer { format: rest },
        Some(b'n') => Shape::Number,
        Some(b'b') => Shape::Boolean,
        Some(b'x') => Shape::IntOrString,
        Some(b'q') => Shape::Quantity,
        Some(b't') => Shape::Time,
        Some(b'm') => Shape::MicroTime,
        Some(b'y') => Shape::Bytes,
        Some(b'F') => Shape::FieldsV1,
        Some(b'[') => Shape::Array(Box::leak(Box::new(shape(rest, names)))),
        Some(b'{') => Shape::Map(Box::leak(Box::new(shape(rest, names)))),
        Some(b'o') => names
            .get(rest)
            .map_or(Shape::Any, |position| Shape::Object(TypeRef(*position))),
        _ => Shape::Any,
    }
}

//! Which number every field has: `protobuf.tsv` joined with the schema.
//!
//! A line is `type <tab> number=name,...`. In JSON some Go structs lie flat in the one that embeds them; on the wire
//! they are messages of their own, and their fields have the numbers of the whole way: `2.1=hostPath`. The numbers
//! of the fields that are new in 1.36 (all of them behind gates that are off) follow the rule by which Kubernetes
//! gives them, the next one that is free.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use crate::schema::{Field, Shape, Type, TypeRef, type_ref, types};

const NUMBERS: &str = include_str!("../protobuf.tsv");
const SCHEMA_PROPS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

/// One message: its fields by rising number.
#[derive(Debug, Default)]
pub(super) struct Message {
    pub slots: Vec<Slot>,
}

/// One number of a message.
#[derive(Debug)]
pub(super) struct Slot {
    pub number: u32,
    pub kind: SlotKind,
}

#[derive(Debug)]
pub(super) enum SlotKind {
    Field {
        field: &'static Field,
        form: Form,
        /// Go has a plain value here, not a pointer: it is on the wire even when it was never set.
        plain: bool,
    },
    /// A message whose fields lie flat in JSON.
    Embedded(Vec<Slot>),
}

/// How a field's JSON becomes wire.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    Shape(Shape),
    /// `items` of a schema: one schema or a list of them.
    SchemaOrList(TypeRef),
    /// `additionalProperties`: a schema or a flag.
    SchemaOrFlag(TypeRef),
    /// `dependencies`: for each key a schema or a list of names.
    SchemasOrNames(TypeRef),
}

/// The message of a type.
pub(super) fn message(reference: TypeRef) -> &'static Message {
    static TABLE: OnceLock<Vec<Message>> = OnceLock::new();
    static NONE: Message = Message { slots: Vec::new() };
    TABLE
        .get_or_init(|| {
            let lines: BTreeMap<&str, &str> = NUMBERS.lines().filter_map(|line| line.split_once('\t')).collect();
            let numbers = |row: &Type| lines.get(row.name).copied().unwrap_or("");
            types().iter().map(|row| joined(row, numbers(row))).collect()
        })
        .get(reference.position())
        .unwrap_or(&NONE)
}

/// The slot with this number.
pub(super) fn find(slots: &[Slot], number: u64) -> Option<&Slot> {
    let at = slots
        .binary_search_by(|slot| u64::from(slot.number).cmp(&number))
        .ok()?;
    slots.get(at)
}

fn joined(row: &'static Type, numbers: &'static str) -> Message {
    let mut message = Message::default();
    for (path, name) in numbers.split(',').filter_map(|pair| pair.split_once('=')) {
        let path: Option<Vec<u32>> = path.split('.').map(|part| part.parse().ok()).collect();
        if let (Some(path), Some(field)) = (path, row.field(name)) {
            place(&mut message.slots, &path, row, field);
        }
    }
    message
}

fn place(slots: &mut Vec<Slot>, path: &[u32], row: &Type, field: &'static Field) {
    let Some((number, rest)) = path.split_first() else {
        return;
    };
    let at = match slots.binary_search_by_key(number, |slot| slot.number) {
        Ok(at) => at,
        Err(at) => {
            let kind = if rest.is_empty() {
                SlotKind::Field {
                    field,
                    form: form(row, field),
                    plain: plain(field),
                }
            } else {
                SlotKind::Embedded(Vec::new())
            };
            slots.insert(at, Slot { number: *number, kind });
            at
        }
    };
    if let Some(Slot {
        kind: SlotKind::Embedded(inner),
        ..
    }) = slots.get_mut(at)
    {
        place(inner, rest, row, field);
    }
}

fn form(row: &Type, field: &Field) -> Form {
    let Some(schema) = type_ref(SCHEMA_PROPS).filter(|_| row.name == SCHEMA_PROPS) else {
        return Form::Shape(field.shape);
    };
    match field.name {
        "items" => Form::SchemaOrList(schema),
        "additionalItems" | "additionalProperties" => Form::SchemaOrFlag(schema),
        "dependencies" => Form::SchemasOrNames(schema),
        _ => Form::Shape(field.shape),
    }
}

fn plain(field: &Field) -> bool {
    match field.shape {
        Shape::String { .. } => !field.pointer,
        Shape::Integer { .. } | Shape::Number | Shape::Boolean => !field.pointer || field.required || field.zero,
        Shape::Object(_) => field.always,
        Shape::Quantity | Shape::IntOrString => field.required || field.zero,
        Shape::Time | Shape::MicroTime => field.null || field.required || field.name == "creationTimestamp",
        Shape::Any => field.required,
        Shape::Bytes | Shape::Array(_) | Shape::Map(_) | Shape::FieldsV1 => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The version document is only ever served as JSON; the other one has no fields.
    const WITHOUT_FIELDS: &[&str] = &[
        "io.k8s.apimachinery.pkg.version.Info",
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceSubresourceStatus",
    ];

    #[test]
    fn every_type_and_field_of_the_schema_has_a_number() {
        fn names(slots: &[Slot], found: &mut Vec<&'static str>) {
            assert!(slots.is_sorted_by_key(|slot| slot.number));
            for slot in slots {
                match &slot.kind {
                    SlotKind::Field { field, .. } => found.push(field.name),
                    SlotKind::Embedded(inner) => names(inner, found),
                }
            }
        }
        for row in types().iter().filter(|row| !WITHOUT_FIELDS.contains(&row.name)) {
            let mut found = Vec::new();
            names(&message(type_ref(row.name).expect("a type")).slots, &mut found);
            found.sort_unstable();
            let kind = |name: &&str| matches!(*name, "apiVersion" | "kind");
            let mut expected: Vec<&str> = row.fields.iter().map(|field| field.name).collect();
            // Of a whole object they are in the envelope; of a reference they are fields like any other.
            if !found.iter().any(kind) {
                expected.retain(|name| !kind(name));
            }
            assert_eq!(found, expected, "{}", row.name);
        }
    }

    #[test]
    fn every_line_of_the_table_is_used() {
        for (name, numbers) in NUMBERS.lines().filter_map(|line| line.split_once('\t')) {
            let row = type_ref(name)
                .map(TypeRef::get)
                .unwrap_or_else(|| panic!("{name} is no type"));
            let mut seen = std::collections::BTreeSet::new();
            for pair in numbers.split(',') {
                let (path, field) = pair.split_once('=').expect("number=name");
                assert!(row.field(field).is_some(), "{name}.{field}");
                assert!(seen.insert(path), "{name} {path}");
            }
        }
    }
}

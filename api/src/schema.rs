//! What every built-in type looks like: fields, types, formats, list and patch facts.
//!
//! The tables are made at compile time from the definitions of `k8s-openapi` (see `build.rs`) and are
//! unpacked once, on first use, into plain static rows. Descriptions are kept compressed and are only
//! unpacked when somebody asks for OpenAPI. [`Node`] is the common view of a built-in type and of a custom
//! resource's structural schema; patch, apply and pruning walk objects with it.

use std::sync::OnceLock;

use serde_json::Value;

pub(crate) mod choices;
pub mod extremes;
mod facts;
mod go;
mod load;
mod node;

pub use choices::{choices, declared_default};
pub use node::{ListKind, Node, NodeKind};

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// Text; the format is `""` for plain text.
    String {
        format: &'static str,
    },
    /// A whole number; the format is `int32` or `int64`.
    Integer {
        format: &'static str,
    },
    Number,
    Boolean,
    IntOrString,
    Quantity,
    /// RFC 3339 with whole seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    /// Base64 text.
    Bytes,
    Object(TypeRef),
    Array(&'static Shape),
    Map(&'static Shape),
    /// Any JSON (RawExtension, JSON, free-form objects).
    Any,
    /// The field set of a managed fields entry.
    FieldsV1,
}

/// A reference to another type of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeRef(u16);

impl TypeRef {
    /// The type itself.
    pub fn get(self) -> &'static Type {
        let types = table();
        // The loader checks every reference; the first row is there in every table.
        types.get(usize::from(self.0)).unwrap_or(&types[0])
    }

    /// Where the type is in [`types`].
    pub(crate) fn position(self) -> usize {
        usize::from(self.0)
    }
}

/// One built-in type.
#[derive(Debug)]
pub struct Type {
    /// Such as `io.k8s.api.core.v1.Pod`.
    pub name: &'static str,
    /// Sorted by name.
    pub fields: Box<[Field]>,
    /// Server-side apply treats the whole value as one.
    pub map_atomic: bool,
}

/// One field of a built-in type.
#[derive(Debug)]
pub struct Field {
    pub name: &'static str,
    pub shape: Shape,
    pub required: bool,
    pub list: ListFact,
    pub patch: PatchFacts,
    /// The field's value is owned as a whole (`+mapType=atomic` on the field).
    pub map_atomic: bool,
    /// Printed as `{}` when empty (`resources: {}`).
    pub always: bool,
    /// Whether a zero (`0`, `false`, `""`) that was set is told from one that was not.
    pub pointer: bool,
    /// Whether an empty list or map is told from an absent one.
    pub keeps_empty: bool,
    /// Whether an absent required number, text or flag is printed as zero.
    pub zero: bool,
    /// Whether an absent list or map is printed as `null`.
    pub null: bool,
    /// A default that counts in the keys of associative lists (`protocol: TCP`).
    pub default: Option<&'static str>,
}

/// How server-side apply merges a list.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ListFact {
    /// Nothing is declared; treated as atomic.
    Unset,
    Atomic,
    Set,
    /// Items are identified by these fields.
    Map(&'static [&'static str]),
}

/// How a strategic merge patch treats a field.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PatchFacts {
    /// Lists are merged rather than replaced.
    pub merge: bool,
    /// Fields that the patch does not name are dropped.
    pub retain_keys: bool,
    /// The identifying field of the items of a merged list; empty for lists of plain values.
    pub merge_key: &'static str,
}

impl Type {
    /// The field called `name` (case matters).
    pub fn field(&self, name: &str) -> Option<&Field> {
        let position = self.fields.binary_search_by(|field| field.name.cmp(name)).ok()?;
        self.fields.get(position)
    }
}

/// The type called `name`.
pub fn lookup(name: &str) -> Option<&'static Type> {
    type_ref(name).map(TypeRef::get)
}

/// The reference to the type called `name`.
pub fn type_ref(name: &str) -> Option<TypeRef> {
    let types = table();
    let position = types.binary_search_by(|row| row.name.cmp(name)).ok()?;
    u16::try_from(position).ok().map(TypeRef)
}

/// Every type, sorted by name.
pub fn types() -> &'static [Type] {
    table()
}

/// The descriptions of every type and field, unpacked for this call: `(type, "" or field) -> text`.
/// Costs some milliseconds and about a megabyte; only OpenAPI asks.
pub fn descriptions() -> Value {
    load::descriptions()
}

fn table() -> &'static [Type] {
    static TABLE: OnceLock<Vec<Type>> = OnceLock::new();
    TABLE.get_or_init(load::types)
}

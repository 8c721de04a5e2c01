//! The Table form of objects (`application/json;as=Table`), made from each kind's columns and rows.

use crate::kinds::{Column, Rules};
use serde_json::{Value, json};

/// What a row carries of its object beside the cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// A PartialObjectMetadata, the default.
    Metadata,
    /// The whole object.
    Object,
}

/// The `columnDefinitions` of a kind.
pub fn column_definitions(columns: &[Column]) -> Value {
    columns
        .iter()
        .map(|c| json!({"name": c.name, "type": c.kind, "format": c.format, "description": c.description, "priority": c.priority}))
        .collect()
}

/// One `rows` element.
pub fn row(rules: &dyn Rules, object: &Value, include: IncludeObject, now: jiff::Timestamp) -> Value {
    let carried = match include {
        IncludeObject::None => Value::Null,
        IncludeObject::Metadata => json!({
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": object.get("metadata").cloned().unwrap_or(Value::Null),
        }),
        IncludeObject::Object => object.clone(),
    };
    let mut row = json!({"cells": rules.row(object, now), "object": carried});
    let conditions = rules.row_conditions(object);
    if let (false, Some(map)) = (conditions.is_empty(), row.as_object_mut()) {
        map.insert("conditions".to_owned(), Value::Array(conditions));
    }
    row
}

/// A Table of objects. `list_metadata` is the list's metadata (resourceVersion, continue, remainingItemCount) or,
/// for one object, its resourceVersion. Watch events after the first leave the columns out (`with_columns`).
pub fn table<'a>(
    rules: &dyn Rules,
    list_metadata: Value,
    objects: impl IntoIterator<Item = &'a Value>,
    include: IncludeObject,
    with_columns: bool,
    now: jiff::Timestamp,
) -> Value {
    let rows: Vec<Value> = objects
        .into_iter()
        .map(|object| row(rules, object, include, now))
        .collect();
    let columns = if with_columns {
        column_definitions(rules.columns())
    } else {
        Value::Null
    };
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": list_metadata,
        "columnDefinitions": columns,
        "rows": rows,
    })
}

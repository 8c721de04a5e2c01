//! Definitions: types as JSON schemas in either generation of the format.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::{Format, custom_name, kinds_of_types};
use crate::registry::{Gvk, Registry, Resource};
use crate::schema::{self, Field, ListFact, Shape, Type};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";

/// The definitions asked for so far, with everything they refer to.
pub(super) struct Definitions {
    format: Format,
    texts: Value,
    kinds: BTreeMap<&'static str, BTreeSet<Gvk>>,
    done: Map<String, Value>,
    wanted: Vec<&'static Type>,
}

impl Definitions {
    pub(super) fn new(registry: &Registry, format: Format) -> Self {
        let kinds = kinds_of_types(registry);
        Self {
            format,
            texts: schema::descriptions(),
            kinds,
            done: Map::new(),
            wanted: Vec::new(),
        }
    }

    /// Adds what a resource's operations send and receive.
    pub(super) fn add_resource(&mut self, row: &Resource) {
        for name in ["Status", "DeleteOptions"] {
            self.want(&format!("{META}{name}"));
        }
        self.add_patch();
        if let Some(name) = row.type_name {
            self.want(name);
            self.want(&format!("{name}List"));
        } else {
            self.add_custom(row);
        }
        for sub in &row.subresources {
            if let Some(name) = sub.kind.type_name() {
                self.want(name);
            }
        }
        self.drain();
    }

    /// Adds what paths refer to beside the kinds of resources: lists of versions and groups, events of watches.
    pub(super) fn add_referenced(&mut self, value: &Value) {
        match value {
            Value::Object(map) => {
                if let Some(name) = map.get("$ref").and_then(Value::as_str) {
                    let name = name.rsplit('/').next().unwrap_or_default();
                    if name.ends_with(".WatchEvent") {
                        self.add_watch_event();
                    }
                    self.want(name);
                    self.drain();
                }
                map.values().for_each(|inner| self.add_referenced(inner));
            }
            Value::Array(items) => items.iter().for_each(|inner| self.add_referenced(inner)),
            _ => {}
        }
    }

    fn add_watch_event(&mut self) {
        let name = format!("{META}WatchEvent");
        if self.done.contains_key(&name) {
            return;
        }
        let any = json!({"type": "object"});
        let mut object = self.special("io.k8s.apimachinery.pkg.runtime.RawExtension", any.clone(), any);
        if self.format == Format::V3 {
            object = json!({"allOf": [object]});
        }
        object["description"] = "Object is:\n * If Type is Added or Modified: the new state of the object.\n * If Type is Deleted: the state of the object immediately before deletion.\n * If Type is Error: *Status is recommended; other types may make sense\n   depending on context.".into();
        let mut event = json!({
            "description": "Event represents a single event to a watched resource.",
            "type": "object",
            "required": ["type", "object"],
            "properties": {"object": object, "type": {"type": "string"}},
        });
        if let Some(kinds) = self.kinds.get(format!("{META}DeleteOptions").as_str()) {
            let of_group = |gvk: &Gvk| {
                gvk_value(&Gvk {
                    kind: "WatchEvent".into(),
                    ..gvk.clone()
                })
            };
            event["x-kubernetes-group-version-kind"] = kinds.iter().map(of_group).collect();
        }
        self.done.insert(name, event);
    }

    pub(super) fn finish(self) -> Map<String, Value> {
        self.done
    }

    fn want(&mut self, name: &str) {
        if let (false, Some(row)) = (self.done.contains_key(name), schema::lookup(name)) {
            self.wanted.push(row);
        }
    }

    fn drain(&mut self) {
        while let Some(row) = self.wanted.pop() {
            if !self.done.contains_key(row.name) {
                let definition = self.definition(row);
                self.done.insert(row.name.to_owned(), definition);
            }
        }
    }

    fn definition(&mut self, row: &'static Type) -> Value {
        let mut out = Map::new();
        self.describe(&mut out, row.name, "");
        out.insert("type".into(), "object".into());
        let mut properties = Map::new();
        for field in &*row.fields {
            properties.insert(field.name.to_owned(), self.property(row, field));
        }
        if !properties.is_empty() {
            out.insert("properties".into(), properties.into());
        }
        let required: Vec<Value> = row
            .fields
            .iter()
            .filter(|field| field.required && field.name != "metadata")
            .map(|field| field.name.into())
            .collect();
        if !required.is_empty() {
            out.insert("required".into(), required.into());
        }
        if let Some(kinds) = self.kinds.get(row.name) {
            out.insert(
                "x-kubernetes-group-version-kind".into(),
                kinds.iter().map(gvk_value).collect(),
            );
        }
        if row.map_atomic {
            out.insert("x-kubernetes-map-type".into(), "atomic".into());
        }
        Value::Object(out)
    }

    fn property(&mut self, row: &'static Type, field: &'static Field) -> Value {
        let mut out = match self.shape(field.shape) {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        // A reference may not have neighbours in the third generation.
        let alone = if self.format == Format::V3 {
            out.remove("$ref")
        } else {
            None
        };
        if let Some(reference) = alone {
            out.insert("allOf".into(), json!([{"$ref": reference}]));
        }
        if self.format == Format::V3 {
            // The zeroes of texts and numbers are not told.
            let empty = || (field.always && out.contains_key("allOf")).then(|| json!({}));
            if let Some(default) = schema::declared_default(row.name, field.name).or_else(empty) {
                out.insert("default".into(), default);
            }
        }
        self.describe(&mut out, row.name, field.name);
        list_choices(&mut out, schema::choices(row.name, field.name));
        match field.list {
            ListFact::Unset => {}
            ListFact::Atomic => set(&mut out, "x-kubernetes-list-type", "atomic"),
            ListFact::Set => set(&mut out, "x-kubernetes-list-type", "set"),
            ListFact::Map(keys) => {
                set(&mut out, "x-kubernetes-list-type", "map");
                out.insert("x-kubernetes-list-map-keys".into(), keys.into());
            }
        }
        if field.map_atomic {
            set(&mut out, "x-kubernetes-map-type", "atomic");
        }
        let strategy = match (field.patch.merge, field.patch.retain_keys) {
            (true, true) => "merge,retainKeys",
            (true, false) => "merge",
            (false, true) => "retainKeys",
            (false, false) => "",
        };
        if !strategy.is_empty() {
            set(&mut out, "x-kubernetes-patch-strategy", strategy);
        }
        if !field.patch.merge_key.is_empty() {
            set(&mut out, "x-kubernetes-patch-merge-key", field.patch.merge_key);
        }
        Value::Object(out)
    }

    fn shape(&mut self, shape: Shape) -> Value {
        match shape {
            Shape::String { format: "" } => json!({"type": "string"}),
            Shape::String { format } => json!({"type": "string", "format": format}),
            Shape::Integer { format: "" } => json!({"type": "integer"}),
            Shape::Integer { format } => json!({"type": "integer", "format": format}),
            Shape::Number => json!({"type": "number", "format": "double"}),
            Shape::Boolean => json!({"type": "boolean"}),
            Shape::Bytes => json!({"type": "string", "format": "byte"}),
            Shape::Any => json!({"type": "object"}),
            Shape::Array(element) => json!({"type": "array", "items": self.shape(*element)}),
            Shape::Map(element) => json!({"type": "object", "additionalProperties": self.shape(*element)}),
            Shape::Object(reference) => {
                let row = reference.get();
                self.want(row.name);
                json!({"$ref": format!("{}{}", self.format.prefix(), row.name)})
            }
            Shape::Quantity => self.special(
                QUANTITY,
                json!({"type": "string"}),
                json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            ),
            Shape::IntOrString => self.special(
                INT_OR_STRING,
                json!({"type": "string", "format": "int-or-string"}),
                json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
            ),
            Shape::Time => self.time("Time"),
            Shape::MicroTime => self.time("MicroTime"),
            Shape::FieldsV1 => self.special(
                &format!("{META}FieldsV1"),
                json!({"type": "object"}),
                json!({"type": "object"}),
            ),
        }
    }

    fn time(&mut self, name: &str) -> Value {
        let definition = json!({"type": "string", "format": "date-time"});
        self.special(&format!("{META}{name}"), definition.clone(), definition)
    }

    /// A reference to a type that is no struct.
    fn special(&mut self, name: &str, v2: Value, v3: Value) -> Value {
        if !self.done.contains_key(name) {
            let definition = if self.format == Format::V2 { v2 } else { v3 };
            self.done.insert(name.to_owned(), definition);
        }
        json!({"$ref": format!("{}{name}", self.format.prefix())})
    }

    fn add_patch(&mut self) {
        let text = "Patch is provided to give a concrete name and type to the Kubernetes PATCH request body.";
        let definition = json!({"description": text, "type": "object"});
        self.done.entry(format!("{META}Patch")).or_insert(definition);
    }

    fn add_custom(&mut self, row: &Resource) {
        let gvk = row.gvk();
        let name = custom_name(&gvk);
        let mut schema = row
            .schema
            .as_deref()
            .cloned()
            .unwrap_or_else(|| json!({"type": "object"}));
        self.want(&format!("{META}ObjectMeta"));
        self.want(&format!("{META}ListMeta"));
        let prefix = self.format.prefix();
        let reference = |name: &str| json!({"$ref": format!("{prefix}{META}{name}")});
        let wrapped = |name: &str| match self.format {
            Format::V2 => reference(name),
            Format::V3 => json!({"allOf": [reference(name)]}),
        };
        if let Some(map) = schema.as_object_mut() {
            map.insert("x-kubernetes-group-version-kind".into(), json!([gvk_value(&gvk)]));
            let properties = map.entry("properties").or_insert_with(|| json!({}));
            if let Some(properties) = properties.as_object_mut() {
                properties.insert("apiVersion".into(), json!({"type": "string"}));
                properties.insert("kind".into(), json!({"type": "string"}));
                properties.insert("metadata".into(), wrapped("ObjectMeta"));
            }
        }
        let list_kind = Gvk {
            kind: row.list_kind.clone(),
            ..gvk.clone()
        };
        let list = json!({
            "description": format!("{} is a list of {}", row.list_kind, row.kind),
            "type": "object",
            "required": ["items"],
            "properties": {
                "apiVersion": {"type": "string"},
                "items": {"type": "array", "items": {"$ref": format!("{prefix}{name}")}},
                "kind": {"type": "string"},
                "metadata": wrapped("ListMeta"),
            },
            "x-kubernetes-group-version-kind": [gvk_value(&list_kind)],
        });
        self.done.insert(custom_name(&list_kind), list);
        self.done.insert(name, schema);
    }

    fn describe(&self, out: &mut Map<String, Value>, type_name: &str, field: &str) {
        let text = self
            .texts
            .get(type_name)
            .and_then(|fields| fields.get(field))
            .and_then(Value::as_str);
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            out.insert("description".into(), text.into());
        }
    }
}

/// A closed set of values, also at the end of the description; of a list, those of its items.
fn list_choices(out: &mut Map<String, Value>, values: &[&str]) {
    if values.is_empty() {
        return;
    }
    if let Some(items) = out.get_mut("items").and_then(Value::as_object_mut) {
        items.insert("enum".into(), values.into());
        return;
    }
    out.insert("enum".into(), values.into());
    let lines: String = values.iter().map(|value| format!("\n - `{value:?}`")).collect();
    let text = out.get("description").and_then(Value::as_str).unwrap_or("");
    let described = format!("{text}\n\nPossible enum values:{lines}");
    out.insert("description".into(), described.into());
}

/// A group-version-kind as the extension carries it.
pub(super) fn gvk_value(gvk: &Gvk) -> Value {
    json!({"group": &*gvk.group, "kind": &*gvk.kind, "version": &*gvk.version})
}

fn set(out: &mut Map<String, Value>, key: &str, value: &str) {
    out.insert(key.to_owned(), value.into());
}

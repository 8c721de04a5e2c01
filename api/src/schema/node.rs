//! One view of a place in a schema, whether the schema is a built-in type or a custom resource's.

use serde_json::Value;

use super::{Field, ListFact, PatchFacts, Shape, Type, TypeRef};

/// A place in a schema. Copying is free.
#[derive(Clone, Copy, Debug)]
pub enum Node<'a> {
    /// A built-in type or one of its fields.
    Builtin {
        shape: Shape,
        field: Option<&'static Field>,
    },
    /// A structural schema (`openAPIV3Schema` of a custom resource, or a part of it).
    Structural { schema: &'a Value, root: bool },
    /// Nothing is known: objects are deduced from what they hold, lists are atomic.
    Untyped,
}

/// The rough form of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    Scalar,
    /// An object with declared fields.
    Object,
    /// An object with free keys and values of one kind.
    Map,
    List,
    /// Anything.
    Untyped,
}

/// How server-side apply treats a list.
#[derive(Clone, Debug, PartialEq)]
pub enum ListKind<'a> {
    Atomic,
    Set,
    /// Items are identified by these fields.
    Map(Vec<&'a str>),
}

impl<'a> Node<'a> {
    /// The root of a built-in type.
    pub fn of_type(name: &str) -> Option<Node<'static>> {
        super::type_ref(name).map(|reference| Node::Builtin {
            shape: Shape::Object(reference),
            field: None,
        })
    }

    /// The root of a custom resource with this structural schema.
    pub fn structural(schema: &'a Value) -> Self {
        Self::Structural { schema, root: true }
    }

    /// The declared field `name`, or the value of a map's key `name`. `None` means not declared.
    pub fn field(&self, name: &str) -> Option<Node<'a>> {
        match *self {
            Self::Builtin {
                shape: Shape::Object(reference),
                ..
            } => reference.get().field(name).map(|field| Node::Builtin {
                shape: field.shape,
                field: Some(field),
            }),
            Self::Builtin {
                shape: Shape::Map(element),
                ..
            } => Some(Node::Builtin {
                shape: *element,
                field: None,
            }),
            Self::Builtin {
                shape: Shape::Any | Shape::FieldsV1,
                ..
            }
            | Self::Untyped => Some(Node::Untyped),
            Self::Builtin { .. } => None,
            Self::Structural { schema, root } => structural_field(schema, root, name),
        }
    }

    /// The node of a list's items.
    pub fn element(&self) -> Option<Node<'a>> {
        match *self {
            Self::Builtin {
                shape: Shape::Array(element),
                ..
            } => Some(Node::Builtin {
                shape: *element,
                field: None,
            }),
            Self::Builtin {
                shape: Shape::Any | Shape::FieldsV1,
                ..
            }
            | Self::Untyped => Some(Node::Untyped),
            Self::Builtin { .. } => None,
            Self::Structural { schema, .. } => match schema.get("items") {
                Some(items) => Some(Node::Structural {
                    schema: items,
                    root: false,
                }),
                None if preserves(schema) => Some(Node::Untyped),
                None => None,
            },
        }
    }

    /// The rough form.
    pub fn kind(&self) -> NodeKind {
        match *self {
            Self::Untyped => NodeKind::Untyped,
            Self::Builtin { shape, .. } => match shape {
                Shape::Object(_) => NodeKind::Object,
                Shape::Map(_) => NodeKind::Map,
                Shape::Array(_) => NodeKind::List,
                Shape::Any | Shape::FieldsV1 => NodeKind::Untyped,
                _ => NodeKind::Scalar,
            },
            Self::Structural { schema, .. } => structural_kind(schema),
        }
    }

    /// How server-side apply merges this list.
    pub fn list(&self) -> ListKind<'a> {
        match *self {
            Self::Builtin { field: Some(field), .. } => match field.list {
                ListFact::Unset | ListFact::Atomic => ListKind::Atomic,
                ListFact::Set => ListKind::Set,
                ListFact::Map(keys) => ListKind::Map(keys.to_vec()),
            },
            Self::Builtin { .. } | Self::Untyped => ListKind::Atomic,
            Self::Structural { schema, .. } => match text(schema, "x-kubernetes-list-type") {
                "set" => ListKind::Set,
                "map" => ListKind::Map(key_names(schema)),
                _ => ListKind::Atomic,
            },
        }
    }

    /// Whether server-side apply treats this object as one value.
    pub fn map_atomic(&self) -> bool {
        match *self {
            Self::Builtin { shape, field } => {
                field.is_some_and(|field| field.map_atomic)
                    || matches!(shape, Shape::Object(reference) if reference.get().map_atomic)
                    || matches!(shape, Shape::Any | Shape::FieldsV1)
            }
            Self::Structural { schema, .. } => text(schema, "x-kubernetes-map-type") == "atomic",
            Self::Untyped => false,
        }
    }

    /// How a strategic merge patch treats this field.
    pub fn patch(&self) -> PatchFacts {
        match *self {
            Self::Builtin { field: Some(field), .. } => field.patch,
            _ => PatchFacts::default(),
        }
    }

    /// The declared default.
    pub fn default_value(&self) -> Option<Value> {
        match *self {
            Self::Builtin { field: Some(field), .. } => field.default.map(Value::from),
            Self::Structural { schema, .. } => schema.get("default").cloned(),
            _ => None,
        }
    }

    /// The exact shape, for built-in types.
    pub fn shape(&self) -> Option<Shape> {
        match *self {
            Self::Builtin { shape, .. } => Some(shape),
            _ => None,
        }
    }

    /// The type, when this is an object of a built-in type.
    pub fn type_row(&self) -> Option<&'static Type> {
        match *self {
            Self::Builtin {
                shape: Shape::Object(reference),
                ..
            } => Some(TypeRef::get(reference)),
            _ => None,
        }
    }

    /// Whether undeclared fields are kept here.
    pub fn preserves_unknown(&self) -> bool {
        match *self {
            Self::Untyped => true,
            Self::Builtin { shape, .. } => matches!(shape, Shape::Any | Shape::FieldsV1),
            Self::Structural { schema, .. } => preserves(schema),
        }
    }
}

fn text<'a>(schema: &'a Value, key: &str) -> &'a str {
    schema.get(key).and_then(Value::as_str).unwrap_or("")
}

fn flag(schema: &Value, key: &str) -> bool {
    schema.get(key).and_then(Value::as_bool).unwrap_or(false)
}

fn preserves(schema: &Value) -> bool {
    flag(schema, "x-kubernetes-preserve-unknown-fields")
}

fn key_names(schema: &Value) -> Vec<&str> {
    let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
    keys.into_iter().flatten().filter_map(Value::as_str).collect()
}

fn structural_kind(schema: &Value) -> NodeKind {
    match text(schema, "type") {
        "object" if schema.get("properties").is_some() => NodeKind::Object,
        "object" if additional(schema).is_some() => NodeKind::Map,
        "object" if preserves(schema) => NodeKind::Untyped,
        "object" => NodeKind::Object,
        "array" => NodeKind::List,
        "" if flag(schema, "x-kubernetes-int-or-string") => NodeKind::Scalar,
        "" => NodeKind::Untyped,
        _ => NodeKind::Scalar,
    }
}

/// The schema of a map's values, when free keys are declared.
fn additional(schema: &Value) -> Option<&Value> {
    schema
        .get("additionalProperties")
        .filter(|value| value.is_object() || value.as_bool() == Some(true))
}

fn structural_field<'a>(schema: &'a Value, root: bool, name: &str) -> Option<Node<'a>> {
    if root || flag(schema, "x-kubernetes-embedded-resource") {
        match name {
            "metadata" => return Node::of_type("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"),
            "apiVersion" | "kind" => {
                return Some(Node::Builtin {
                    shape: Shape::String { format: "" },
                    field: None,
                });
            }
            _ => {}
        }
    }
    if let Some(property) = schema.get("properties").and_then(|properties| properties.get(name)) {
        return Some(Node::Structural {
            schema: property,
            root: false,
        });
    }
    match additional(schema) {
        Some(value) if value.is_object() => Some(Node::Structural {
            schema: value,
            root: false,
        }),
        Some(_) => Some(Node::Untyped),
        None if preserves(schema) => Some(Node::Untyped),
        None => None,
    }
}

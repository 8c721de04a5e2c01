//! Versions and schemas as error texts show them: the structs inside of Kubernetes, which hold everything that all
//! versions have in common once, and not in the versions.

use super::super::access::{flag, get, str_of};
use super::super::go::json_text;
use serde_json::Value;

/// What a member of a schema is when it is not there, and how it is shown when it is.
enum Member {
    /// Shown as it is; the text when missing.
    Plain(&'static str),
    Schema,
    Schemas,
    SchemaMap,
    SchemaOrList,
    SchemaOrBool,
    Rules,
}

use Member::{Plain, Rules, Schema, SchemaMap, SchemaOrBool, SchemaOrList, Schemas};

/// The members of a schema in the order of their struct: its name there, in JSON, what it is.
const MEMBERS: &[(&str, &str, Member)] = &[
    ("ID", "id", Plain("\"\"")),
    ("Schema", "$schema", Plain("\"\"")),
    ("Ref", "$ref", Plain("null")),
    ("Description", "description", Plain("\"\"")),
    ("Type", "type", Plain("\"\"")),
    ("Nullable", "nullable", Plain("false")),
    ("Format", "format", Plain("\"\"")),
    ("Title", "title", Plain("\"\"")),
    ("Default", "default", Plain("null")),
    ("Maximum", "maximum", Plain("null")),
    ("ExclusiveMaximum", "exclusiveMaximum", Plain("false")),
    ("Minimum", "minimum", Plain("null")),
    ("ExclusiveMinimum", "exclusiveMinimum", Plain("false")),
    ("MaxLength", "maxLength", Plain("null")),
    ("MinLength", "minLength", Plain("null")),
    ("Pattern", "pattern", Plain("\"\"")),
    ("MaxItems", "maxItems", Plain("null")),
    ("MinItems", "minItems", Plain("null")),
    ("UniqueItems", "uniqueItems", Plain("false")),
    ("MultipleOf", "multipleOf", Plain("null")),
    ("Enum", "enum", Plain("null")),
    ("MaxProperties", "maxProperties", Plain("null")),
    ("MinProperties", "minProperties", Plain("null")),
    ("Required", "required", Plain("null")),
    ("Items", "items", SchemaOrList),
    ("AllOf", "allOf", Schemas),
    ("OneOf", "oneOf", Schemas),
    ("AnyOf", "anyOf", Schemas),
    ("Not", "not", Schema),
    ("Properties", "properties", SchemaMap),
    ("AdditionalProperties", "additionalProperties", SchemaOrBool),
    ("PatternProperties", "patternProperties", SchemaMap),
    ("Dependencies", "dependencies", Plain("null")),
    ("AdditionalItems", "additionalItems", SchemaOrBool),
    ("Definitions", "definitions", SchemaMap),
    ("ExternalDocs", "externalDocs", Plain("null")),
    ("Example", "example", Plain("null")),
    (
        "XPreserveUnknownFields",
        "x-kubernetes-preserve-unknown-fields",
        Plain("null"),
    ),
    ("XEmbeddedResource", "x-kubernetes-embedded-resource", Plain("false")),
    ("XIntOrString", "x-kubernetes-int-or-string", Plain("false")),
    ("XListMapKeys", "x-kubernetes-list-map-keys", Plain("null")),
    ("XListType", "x-kubernetes-list-type", Plain("null")),
    ("XMapType", "x-kubernetes-map-type", Plain("null")),
    ("XValidations", "x-kubernetes-validations", Rules),
];

/// The name that the struct has for a member of the root of a schema, for every member that is set.
pub fn members_set(schema: &Value) -> Vec<&'static str> {
    let is_set = |key: &str| !matches!(schema.get(key), None | Some(Value::Null | Value::Bool(false)));
    MEMBERS.iter().filter(|m| is_set(m.1)).map(|m| m.0).collect()
}

fn object(members: impl Iterator<Item = (String, String)>) -> String {
    let shown: Vec<String> = members.map(|(key, value)| format!("{key}:{value}")).collect();
    format!("{{{}}}", shown.join(","))
}

fn quoted(name: &str) -> String {
    json_text(&Value::from(name))
}

fn array(items: &[Value], show: impl Fn(&Value) -> String) -> String {
    let shown: Vec<String> = items.iter().map(show).collect();
    format!("[{}]", shown.join(","))
}

/// A schema.
pub fn schema(v: &Value) -> String {
    object(MEMBERS.iter().map(|(name, key, member)| {
        let found = v.get(*key).filter(|x| !x.is_null());
        (
            quoted(name),
            found.map_or_else(|| missing(member), |x| shown(member, x)),
        )
    }))
}

fn missing(member: &Member) -> String {
    match member {
        Plain(text) => (*text).to_owned(),
        _ => "null".to_owned(),
    }
}

fn shown(member: &Member, v: &Value) -> String {
    match member {
        Plain(_) => json_text(v),
        Schema => schema(v),
        Schemas => array(v.as_array().map_or(&[], Vec::as_slice), schema),
        SchemaMap => {
            let members = v.as_object().into_iter().flatten();
            object(members.map(|(k, x)| (quoted(k), schema(x))))
        }
        SchemaOrList => match v.as_array() {
            Some(items) => format!("{{\"Schema\":null,\"JSONSchemas\":{}}}", array(items, schema)),
            None => format!("{{\"Schema\":{},\"JSONSchemas\":null}}", schema(v)),
        },
        SchemaOrBool => match v.as_bool() {
            Some(allows) => format!("{{\"Allows\":{allows},\"Schema\":null}}"),
            None => format!("{{\"Allows\":true,\"Schema\":{}}}", schema(v)),
        },
        Rules => array(v.as_array().map_or(&[], Vec::as_slice), rule),
    }
}

/// A rule of `x-kubernetes-validations`.
pub fn rule(v: &Value) -> String {
    let text = |key: &str| quoted(str_of(v, key));
    format!(
        "{{\"Rule\":{},\"Message\":{},\"MessageExpression\":{},\"Reason\":{},\"FieldPath\":{},\"OptionalOldSelf\":{}}}",
        text("rule"),
        text("message"),
        text("messageExpression"),
        json_text(get(v, "reason")),
        text("fieldPath"),
        json_text(get(v, "optionalOldSelf")),
    )
}

/// The versions of a definition; `own` says whether a version holds this member itself.
pub fn versions(items: &[Value], own: impl Fn(&str) -> bool) -> String {
    array(items, |v| {
        let held = |key: &str, show: &dyn Fn(&Value) -> String| match v.get(key).filter(|x| !x.is_null()) {
            Some(x) if own(key) => show(x),
            _ => "null".to_owned(),
        };
        format!(
            "{{\"Name\":{},\"Served\":{},\"Storage\":{},\"Deprecated\":{},\"DeprecationWarning\":{},\"Schema\":{},\
             \"Subresources\":{},\"AdditionalPrinterColumns\":{},\"SelectableFields\":{}}}",
            quoted(str_of(v, "name")),
            flag(v, "served"),
            flag(v, "storage"),
            flag(v, "deprecated"),
            json_text(get(v, "deprecationWarning")),
            held("schema", &|x| {
                let inside = x.get("openAPIV3Schema").map_or_else(|| "null".to_owned(), schema);
                format!("{{\"OpenAPIV3Schema\":{inside}}}")
            }),
            held("subresources", &subresources),
            held("additionalPrinterColumns", &|x| array(
                x.as_array().map_or(&[], Vec::as_slice),
                column
            )),
            held("selectableFields", &|x| array(
                x.as_array().map_or(&[], Vec::as_slice),
                |f| { format!("{{\"JSONPath\":{}}}", quoted(str_of(f, "jsonPath"))) }
            )),
        )
    })
}

fn subresources(v: &Value) -> String {
    let status = if v.get("status").is_some() { "{}" } else { "null" };
    let scale = v.get("scale").map_or_else(
        || "null".to_owned(),
        |s| {
            format!(
                "{{\"SpecReplicasPath\":{},\"StatusReplicasPath\":{},\"LabelSelectorPath\":{}}}",
                quoted(str_of(s, "specReplicasPath")),
                quoted(str_of(s, "statusReplicasPath")),
                json_text(get(s, "labelSelectorPath")),
            )
        },
    );
    format!("{{\"Status\":{status},\"Scale\":{scale}}}")
}

fn column(v: &Value) -> String {
    format!(
        "{{\"Name\":{},\"Type\":{},\"Format\":{},\"Description\":{},\"Priority\":{},\"JSONPath\":{}}}",
        quoted(str_of(v, "name")),
        quoted(str_of(v, "type")),
        quoted(str_of(v, "format")),
        quoted(str_of(v, "description")),
        v.get("priority").and_then(Value::as_i64).unwrap_or(0),
        quoted(str_of(v, "jsonPath")),
    )
}

//! `ctl explain`: what a kind's fields mean, from the server's OpenAPI documents.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::Value;

use crate::context::Ctx;
use crate::resources::Resources;

/// Where descriptions are wrapped.
const WIDTH: usize = 80;
/// Values of a field that are named in the list of fields.
const CHOICES_MAX: usize = 4;
/// Nesting shown by --recursive.
const DEPTH_MAX: usize = 32;

#[derive(Args)]
pub struct Explain {
    /// TYPE[.FIELD.FIELD]
    pub what: String,
    /// Names and types of all fields below, without their texts
    #[arg(long)]
    pub recursive: bool,
    /// The group and version, such as apps/v1
    #[arg(long)]
    pub api_version: Option<String>,
    /// Accepted for kubectl's sake: there is one form
    #[arg(long, default_value = "plaintext", value_parser = ["plaintext", "plaintext-openapiv2"])]
    pub output: String,
}

/// Runs the command.
///
/// # Errors
/// When the type or a field does not exist.
pub async fn run(ctx: &Ctx, args: &Explain) -> Result<ExitCode> {
    let resources = Resources::discover(ctx).await?;
    let (word, path) = split(&resources, &args.what)?;
    let mut resource = resources.find(&word)?;
    if let Some(version) = &args.api_version {
        resource = resources.of_kind(version, &resource.kind)?;
    }
    let prefix = if resource.group.is_empty() {
        "api".to_owned()
    } else {
        format!("apis/{}", resource.group)
    };
    let document = ctx.get(&format!("/openapi/v3/{prefix}/{}", resource.version)).await?;
    let schemas = &document["components"]["schemas"];
    let is_kind = |schema: &&Value| {
        schema["x-kubernetes-group-version-kind"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|k| {
                k["kind"] == *resource.kind
                    && k["group"].as_str().unwrap_or_default() == resource.group
                    && k["version"] == *resource.version
            })
    };
    let root = schemas.as_object().into_iter().flat_map(|s| s.values()).find(is_kind);
    let root = root.with_context(|| format!("the server does not describe {}", resource.kind))?;
    let mut out = String::new();
    if !resource.group.is_empty() {
        out.push_str(&format!("GROUP:      {}\n", resource.group));
    }
    out.push_str(&format!(
        "KIND:       {}\nVERSION:    {}\n\n",
        resource.kind, resource.version
    ));
    out.push_str(&explain(schemas, root, &path, args.recursive)?);
    print!("{out}");
    Ok(ExitCode::SUCCESS)
}

/// `deployments.apps.spec` may name a group or a field: the longest known type wins.
fn split(resources: &Resources, what: &str) -> Result<(String, Vec<String>)> {
    let parts: Vec<&str> = what.split('.').collect();
    for cut in (1..=parts.len()).rev() {
        let word = parts.get(..cut).unwrap_or_default().join(".");
        if resources.find(&word).is_ok() {
            return Ok((
                word,
                parts
                    .get(cut..)
                    .unwrap_or_default()
                    .iter()
                    .map(|p| (*p).to_owned())
                    .collect(),
            ));
        }
    }
    resources
        .find(parts.first().copied().unwrap_or_default())
        .map(|_| (String::new(), Vec::new()))
}

/// Follows references; a field's own text wins over its type's.
fn resolve<'a>(schemas: &'a Value, schema: &'a Value) -> &'a Value {
    let reference = schema["$ref"].as_str().or_else(|| schema["allOf"][0]["$ref"].as_str());
    match reference.and_then(|r| r.strip_prefix("#/components/schemas/")) {
        Some(name) => schemas.get(name).unwrap_or(schema),
        None => schema,
    }
}

/// The object whose fields a schema has: through lists and maps.
fn fields_of<'a>(schemas: &'a Value, schema: &'a Value) -> &'a Value {
    let schema = resolve(schemas, schema);
    if schema["type"] == "array" {
        return fields_of(schemas, &schema["items"]);
    }
    if schema["additionalProperties"].is_object() {
        return fields_of(schemas, &schema["additionalProperties"]);
    }
    schema
}

fn type_name(schemas: &Value, schema: &Value) -> String {
    let reference = schema["$ref"].as_str().or_else(|| schema["allOf"][0]["$ref"].as_str());
    let target = resolve(schemas, schema);
    if target["type"] == "array" {
        return format!("[]{}", type_name(schemas, &target["items"]));
    }
    if target["additionalProperties"].is_object() {
        return format!("map[string]{}", type_name(schemas, &target["additionalProperties"]));
    }
    if let (Some(reference), true) = (
        reference,
        target["properties"].is_object() || target["type"] == "object",
    ) {
        return reference.rsplit(['.', '/']).next().unwrap_or_default().to_owned();
    }
    if target["x-kubernetes-int-or-string"] == true || target["format"] == "int-or-string" || target["oneOf"].is_array()
    {
        return reference
            .and_then(|r| r.rsplit('.').next())
            .unwrap_or("IntOrString")
            .to_owned();
    }
    target["type"].as_str().unwrap_or("Object").to_owned()
}

fn description<'a>(schemas: &'a Value, schema: &'a Value) -> &'a str {
    schema["description"]
        .as_str()
        .or_else(|| resolve(schemas, schema)["description"].as_str())
        .unwrap_or("<empty>")
}

/// The values that a field may have, when there are only some.
fn choices<'a>(schemas: &'a Value, schema: &'a Value) -> Vec<&'a str> {
    let own = schema["enum"]
        .as_array()
        .or_else(|| resolve(schemas, schema)["enum"].as_array());
    let words = own.into_iter().flatten().filter_map(Value::as_str);
    words.map(|word| if word.is_empty() { "\"\"" } else { word }).collect()
}

fn explain(schemas: &Value, root: &Value, path: &[String], recursive: bool) -> Result<String> {
    let mut schema = root;
    let mut out = String::new();
    for (depth, name) in path.iter().enumerate() {
        let object = fields_of(schemas, schema);
        let Some(next) = object["properties"].get(name) else {
            bail!("field \"{name}\" does not exist")
        };
        schema = next;
        if depth + 1 == path.len() {
            out.push_str(&format!("FIELD: {name} <{}>\n", type_name(schemas, schema)));
            let choices = choices(schemas, schema);
            if choices.is_empty() {
                out.push('\n');
            } else {
                let rows = choices.iter().map(|c| format!("    {c}\n")).collect::<String>();
                out.push_str(&format!("ENUM:\n{rows}"));
            }
            out.push('\n');
        }
    }
    out.push_str("DESCRIPTION:\n");
    out.push_str(&wrap(description(schemas, schema), 4));
    let object = fields_of(schemas, schema);
    if path.is_empty() || object == schema || description(schemas, object) == description(schemas, schema) {
        // The type has nothing to add to the field's own text.
    } else if object["properties"].is_object() {
        out.push_str(&wrap(description(schemas, object), 4));
    }
    out.push_str("    \n");
    if object["properties"].is_object() {
        out.push_str("FIELDS:\n");
        fields(schemas, object, recursive, 1, &mut out);
    }
    out.push('\n');
    Ok(out)
}

fn fields(schemas: &Value, object: &Value, recursive: bool, depth: usize, out: &mut String) {
    let required: Vec<&str> = object["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    for (name, field) in object["properties"].as_object().into_iter().flatten() {
        let mark = if required.contains(&name.as_str()) {
            " -required-"
        } else {
            ""
        };
        out.push_str(&format!(
            "{}{name}\t<{}>{mark}\n",
            "  ".repeat(depth),
            type_name(schemas, field)
        ));
        let choices = choices(schemas, field);
        if !choices.is_empty() {
            let first = choices.iter().take(CHOICES_MAX).copied().collect::<Vec<_>>().join(", ");
            let more = if choices.len() > CHOICES_MAX { ", ...." } else { "" };
            out.push_str(&format!("{}enum: {first}{more}\n", "  ".repeat(depth)));
        }
        if recursive {
            let below = fields_of(schemas, field);
            if below["properties"].is_object() && depth < DEPTH_MAX && below != object {
                fields(schemas, below, true, depth + 1, out);
            }
        } else {
            out.push_str(&wrap(description(schemas, field), 4));
            out.push('\n');
        }
    }
}

fn wrap(text: &str, indent: usize) -> String {
    let pad = " ".repeat(indent);
    let mut out = String::new();
    for paragraph in text.lines() {
        // What is set in from the margin, such as the items of a list, stays so.
        let margin = &paragraph[..paragraph.len() - paragraph.trim_start().len()];
        let mut line = margin.to_owned();
        for word in paragraph.split_whitespace() {
            if !line.trim().is_empty() && line.len() + 1 + word.len() > WIDTH - indent {
                out.push_str(&format!("{pad}{line}\n"));
                line.clear();
            }
            if !line.trim().is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        out.push_str(&format!("{pad}{line}\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_kind_and_a_field() -> Result<()> {
        let schemas = json!({
            "io.x.Pod": {"type": "object", "description": "A pod.", "properties": {
                "kind": {"type": "string", "description": "The kind."},
                "spec": {"description": "What is wanted.", "allOf": [{"$ref": "#/components/schemas/io.x.PodSpec"}]}}},
            "io.x.PodSpec": {"type": "object", "description": "A spec.", "required": ["containers"], "properties": {
                "containers": {"type": "array", "description": "The containers.", "items": {"$ref": "#/components/schemas/io.x.Container"}}}},
            "io.x.Container": {"type": "object", "description": "One.", "properties": {"env": {"type": "object", "additionalProperties": {"type": "string"}}}}});
        let root = &schemas["io.x.Pod"];
        let path = |p: &[&str]| p.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let whole = explain(&schemas, root, &[], false)?;
        assert_eq!(
            whole,
            "DESCRIPTION:\n    A pod.\n    \nFIELDS:\n  kind\t<string>\n    The kind.\n\n  spec\t<PodSpec>\n    What is wanted.\n\n\n"
        );
        let field = explain(&schemas, root, &path(&["spec", "containers"]), false)?;
        assert!(
            field.starts_with("FIELD: containers <[]Container>\n\n\nDESCRIPTION:\n    The containers.\n    One.\n"),
            "{field}"
        );
        assert!(field.contains("  env\t<map[string]string>\n"), "{field}");
        let deep = explain(&schemas, root, &path(&["spec"]), true)?;
        assert!(
            deep.contains("  containers\t<[]Container> -required-\n    env\t<map[string]string>\n"),
            "{deep}"
        );
        assert!(explain(&schemas, root, &path(&["spec", "nope"]), false).is_err());
        Ok(())
    }
}

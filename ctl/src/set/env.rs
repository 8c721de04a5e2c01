//! `ctl set env`: variables of containers, given, taken from a ConfigMap or Secret, removed or listed.

use std::process::ExitCode;

use anyhow::{Result, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde_json::{Value, json};

use super::{nest, on_containers, pod_spec, pod_spec_pointer, split};
use crate::change::STRATEGIC;
use crate::context::Ctx;
use crate::pods::{list, text};
use crate::resources::Resources;
use crate::targets::Several;

#[derive(Args)]
pub struct Env {
    /// TYPE/NAME KEY=VALUE ... KEY- ...
    #[arg(value_name = "TYPE/NAME KEY=VALUE")]
    pub words: Vec<String>,
    /// KEY=VALUE
    #[arg(long, short = 'e', value_name = "KEY=VALUE")]
    pub env: Vec<String>,
    /// Containers: a name, or * for all
    #[arg(long, short = 'c', default_value = "*")]
    pub containers: String,
    /// configmap/NAME or secret/NAME to take the variables from
    #[arg(long, value_name = "TYPE/NAME")]
    pub from: Option<String>,
    /// Only these keys of --from
    #[arg(long, value_delimiter = ',')]
    pub keys: Vec<String>,
    /// Put in front of the names that come of --from
    #[arg(long, default_value = "")]
    pub prefix: String,
    /// Show the variables
    #[arg(long)]
    pub list: bool,
    /// With --list: look up what references lead to
    #[arg(long)]
    pub resolve: bool,
    /// Allow a value that is there to be replaced
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true")]
    pub overwrite: bool,
    #[command(flatten)]
    pub several: Several,
}

/// Runs the command.
///
/// # Errors
/// The server's answer, or what is wrong with the arguments.
pub async fn run(ctx: &Ctx, args: &Env) -> Result<ExitCode> {
    let (words, assignments) = split(&args.words, |word| word.contains('=') || word.ends_with('-'));
    let mut rows = rows(assignments.iter().chain(&args.env));
    if let Some(from) = &args.from {
        let (rest, warnings) = taken(&crate::pods::named(ctx, from).await?, &args.keys, &args.prefix)?;
        rows.extend(rest);
        warnings.iter().for_each(|warning| eprintln!("Warning: {warning}"));
    }
    if rows.is_empty() && !args.list {
        bail!("at least one environment variable must be provided");
    }
    let resources = Resources::discover(ctx).await?;
    let printer = args.several.change.printer()?;
    let found = args.several.objects(ctx, &resources, words).await?;
    for (resource, object) in &found.objects {
        let pointer = pod_spec_pointer(&resource.kind)?;
        let spec = pod_spec(object, resource);
        let mut after = object.clone();
        if !rows.is_empty() {
            if let Some(taken) = in_the_way(spec, &args.containers, &rows).filter(|_| !args.overwrite) {
                bail!("'{taken}' already has a value, and --overwrite is false");
            }
            let row = |container: &Value| json!({"env": rows, "$setElementOrder/env": order(container, &rows)});
            let patch = nest(pointer, on_containers(spec, &args.containers, row)?);
            after = args
                .several
                .patch(ctx, (resource, object), (STRATEGIC, &patch), "ctl-set-env")
                .await?;
        }
        if args.list {
            show(ctx, args, object, pod_spec(&after, resource)).await?;
        } else if !printer.says_words() || after["spec"] != object["spec"] {
            printer.changed(resource, "env updated", &after)?;
        }
    }
    Ok(if found.failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// `KEY=VALUE` sets, `KEY-` removes.
fn rows<'a>(words: impl Iterator<Item = &'a String>) -> Vec<Value> {
    words
        .map(|word| match word.split_once('=') {
            Some((key, value)) => json!({"name": key, "value": value}),
            None => json!({"name": word.strip_suffix('-').unwrap_or(word), "$patch": "delete"}),
        })
        .collect()
}

/// Variables stay where they are, new ones come last.
fn order(container: &Value, rows: &[Value]) -> Vec<Value> {
    let mut names: Vec<&Value> = Vec::new();
    for variable in list(container, "/env").iter().chain(rows) {
        if !names.contains(&&variable["name"]) {
            names.push(&variable["name"]);
        }
    }
    let removed = |name: &Value| rows.iter().any(|row| row["name"] == *name && row["$patch"] == "delete");
    names.retain(|name| !removed(name));
    names.into_iter().map(|name| json!({"name": name})).collect()
}

/// A variable that is there with another value.
fn in_the_way<'a>(spec: &'a Value, pattern: &str, rows: &[Value]) -> Option<&'a str> {
    let containers = list(spec, "/containers").iter().chain(list(spec, "/initContainers"));
    containers
        .filter(|container| super::matches(pattern, text(container, "/name")))
        .flat_map(|container| list(container, "/env"))
        .find(|there| {
            rows.iter()
                .any(|row| row["name"] == there["name"] && row["value"] != there["value"])
        })
        .map(|there| text(there, "/name"))
}

/// A reference for every key of a ConfigMap or Secret, and what happened to names that are no variables.
fn taken(source: &Value, keys: &[String], prefix: &str) -> Result<(Vec<Value>, Vec<String>)> {
    let reference = match text(source, "/kind") {
        "ConfigMap" => "configMapKeyRef",
        "Secret" => "secretKeyRef",
        other => bail!("unsupported resource specified in --from: {other}"),
    };
    let (mut rows, mut warnings) = (Vec::new(), Vec::new());
    for (key, _) in source["data"].as_object().into_iter().flatten() {
        if !keys.is_empty() && !keys.contains(key) {
            continue;
        }
        let name: String = key
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || c == '_' {
                    c.to_ascii_uppercase()
                } else {
                    '_'
                }
            })
            .collect();
        if name != *key {
            warnings.push(format!("key {key} transferred to {name}"));
        }
        rows.push(json!({"name": format!("{prefix}{name}"),
            "valueFrom": {reference: {"name": source["metadata"]["name"], "key": key}}}));
    }
    Ok((rows, warnings))
}

async fn show(ctx: &Ctx, args: &Env, object: &Value, spec: &Value) -> Result<()> {
    for container in list(spec, "/containers").iter().chain(list(spec, "/initContainers")) {
        let name = text(container, "/name");
        if !super::matches(&args.containers, name) {
            continue;
        }
        println!(
            "# {} {}, container {name}",
            text(object, "/kind"),
            text(object, "/metadata/name")
        );
        for variable in list(container, "/env") {
            let (name, from) = (text(variable, "/name"), &variable["valueFrom"]);
            if !from.is_object() {
                println!("{name}={}", text(variable, "/value"));
                continue;
            }
            let looked_up = if args.resolve {
                resolved(ctx, text(object, "/metadata/namespace"), from).await?
            } else {
                None
            };
            match looked_up {
                Some(value) => println!("{name}={value}"),
                None => println!("# {name} from {}", origin(from)),
            }
        }
    }
    Ok(())
}

/// Where a variable's value comes from.
fn origin(from: &Value) -> String {
    if let Some(field) = from.get("fieldRef") {
        return format!("field path {}", text(field, "/fieldPath"));
    }
    if let Some(field) = from.get("resourceFieldRef") {
        let container = text(field, "/containerName");
        let place = if container.is_empty() {
            String::new()
        } else {
            format!("{container}.")
        };
        return format!("resource field {place}{}", text(field, "/resource"));
    }
    if let Some(key) = from.get("configMapKeyRef") {
        return format!("configmap {}, key {}", text(key, "/name"), text(key, "/key"));
    }
    let key = &from["secretKeyRef"];
    format!("secret {}, key {}", text(key, "/name"), text(key, "/key"))
}

async fn resolved(ctx: &Ctx, namespace: &str, from: &Value) -> Result<Option<String>> {
    let (plural, key) = if from["configMapKeyRef"].is_object() {
        ("configmaps", &from["configMapKeyRef"])
    } else if from["secretKeyRef"].is_object() {
        ("secrets", &from["secretKeyRef"])
    } else {
        return Ok(None);
    };
    let path = format!("/api/v1/namespaces/{namespace}/{plural}/{}", text(key, "/name"));
    let source = ctx.get(&path).await?;
    let value = source["data"][text(key, "/key")]
        .as_str()
        .ok_or_else(|| anyhow!("{} has no key {}", text(key, "/name"), text(key, "/key")))?;
    if plural == "configmaps" {
        return Ok(Some(value.to_owned()));
    }
    Ok(Some(String::from_utf8_lossy(&STANDARD.decode(value)?).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_from_keys() {
        let map = json!({"kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a.b": "1", "C": "2"}});
        let (rows, warnings) = taken(&map, &[], "P_").expect("variables");
        let reference = |key: &str| json!({"configMapKeyRef": {"name": "m", "key": key}});
        assert_eq!(
            rows,
            [
                json!({"name": "P_C", "valueFrom": reference("C")}),
                json!({"name": "P_A_B", "valueFrom": reference("a.b")})
            ]
        );
        assert_eq!(warnings, ["key a.b transferred to A_B"]);
        assert!(taken(&json!({"kind": "Pod"}), &[], "").is_err());
    }

    #[test]
    fn new_variables_come_last() {
        let container = json!({"env": [{"name": "A"}, {"name": "B"}, {"name": "C"}]});
        let changes = rows(["B-", "D=1", "A=2"].map(str::to_owned).iter());
        let expected = ["A", "C", "D"].map(|name| json!({"name": name}));
        assert_eq!(order(&container, &changes), expected);
    }

    #[test]
    fn origins() {
        for (from, expected) in [
            (
                json!({"fieldRef": {"fieldPath": "metadata.name"}}),
                "field path metadata.name",
            ),
            (
                json!({"resourceFieldRef": {"resource": "limits.cpu"}}),
                "resource field limits.cpu",
            ),
            (json!({"secretKeyRef": {"name": "s", "key": "k"}}), "secret s, key k"),
            (
                json!({"configMapKeyRef": {"name": "c", "key": "k"}}),
                "configmap c, key k",
            ),
        ] {
            assert_eq!(origin(&from), expected);
        }
    }
}

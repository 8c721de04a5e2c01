//! Commands that change a few fields: `label`, `annotate`, `patch`.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::{Map, Value, json};

use crate::context::{Ctx, with_query};
use crate::print::{Format, document};
use crate::resources::{Resource, Resources};

pub const MERGE: &str = "application/merge-patch+json";
pub const STRATEGIC: &str = "application/strategic-merge-patch+json";

#[derive(Args)]
pub struct Mark {
    /// TYPE NAME ... KEY=VALUE ... KEY- ...
    #[arg(required = true, value_name = "TYPE NAME KEY=VALUE")]
    pub words: Vec<String>,
    /// Allow a value that is there to be replaced
    #[arg(long)]
    pub overwrite: bool,
    /// All objects of the type
    #[arg(long)]
    pub all: bool,
    #[arg(long, short = 'l')]
    pub selector: Option<String>,
    #[arg(long, short = 'A')]
    pub all_namespaces: bool,
    #[arg(long, short = 'o')]
    pub output: Option<String>,
    /// Show what is there instead of changing it
    #[arg(long)]
    pub list: bool,
    #[arg(long, num_args = 0..=1, default_missing_value = "client", require_equals = true)]
    pub dry_run: Option<String>,
}

/// Which of the two maps is changed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Labels,
    Annotations,
}

impl Kind {
    const fn field(self) -> &'static str {
        match self {
            Self::Labels => "labels",
            Self::Annotations => "annotations",
        }
    }
}

/// One asked-for change: a value, or none to remove the key.
fn changes(words: &[String]) -> (Vec<String>, Vec<(String, Option<String>)>) {
    let is_change = |w: &&String| w.contains('=') || (w.ends_with('-') && w.len() > 1);
    let first = words.iter().position(|w| is_change(&w)).unwrap_or(words.len());
    let (what, changes) = words.split_at(first);
    let changes = changes
        .iter()
        .map(|c| match c.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (c.strip_suffix('-').unwrap_or(c).to_owned(), None),
        })
        .collect();
    (what.to_vec(), changes)
}

/// Objects that a command names, or that its selector or `--all` reach: the resource, namespace and object.
///
/// # Errors
/// The server's answer, or what is wrong with the arguments.
pub async fn reach<'a>(
    ctx: &Ctx,
    resources: &'a Resources,
    words: &[String],
    selector: Option<&str>,
    all: bool,
    all_namespaces: bool,
) -> Result<Vec<(&'a Resource, Value)>> {
    let mut found = Vec::new();
    for (resource, names) in resources.select(words)? {
        if names.is_empty() {
            if !all && selector.is_none() {
                bail!("resource(s) were provided, but no name was specified");
            }
            let namespace = (!all_namespaces).then_some(ctx.namespace.as_str());
            let mut list = ctx
                .get(&with_query(
                    &resource.collection(namespace),
                    &[("labelSelector", selector)],
                ))
                .await?;
            found.extend(
                list["items"]
                    .as_array_mut()
                    .map(std::mem::take)
                    .unwrap_or_default()
                    .into_iter()
                    .map(|o| (resource, o)),
            );
        }
        for name in names {
            found.push((resource, ctx.get(&resource.object(&ctx.namespace, &name)).await?));
        }
    }
    Ok(found)
}

/// The path of an object that was fetched.
#[must_use]
pub fn path_of(resource: &Resource, object: &Value) -> String {
    let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
    resource.object(text("namespace"), text("name"))
}

/// `?fieldManager=...&dryRun=All` as the flags say.
#[must_use]
pub fn change_query(path: &str, manager: &str, dry_run: Option<&str>) -> String {
    with_query(
        path,
        &[
            ("fieldManager", Some(manager)),
            ("dryRun", (dry_run == Some("server")).then_some("All")),
        ],
    )
}

/// Runs `label` or `annotate`.
///
/// # Errors
/// The server's answer, or what is wrong with the arguments.
pub async fn mark(ctx: &Ctx, args: &Mark, kind: Kind) -> Result<ExitCode> {
    let (words, changes) = changes(&args.words);
    if changes.is_empty() && !args.list {
        bail!(
            "at least one {} update is required",
            if kind == Kind::Labels { "label" } else { "annotation" }
        );
    }
    let resources = Resources::discover(ctx).await?;
    let format = args.output.as_deref().map(|o| Format::parse(Some(o))).transpose()?;
    let mut failed = false;
    for (resource, object) in reach(
        ctx,
        &resources,
        &words,
        args.selector.as_deref(),
        args.all,
        args.all_namespaces,
    )
    .await?
    {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let now = object["metadata"][kind.field()]
            .as_object()
            .cloned()
            .unwrap_or_default();
        if args.list {
            for (key, value) in &now {
                println!("{key}={}", value.as_str().unwrap_or_default());
            }
            continue;
        }
        if let Some((key, value)) = changes
            .iter()
            .find(|(k, v)| v.is_some() && !args.overwrite && now.get(k).is_some_and(|n| n.as_str() != v.as_deref()))
        {
            let word = if kind == Kind::Labels { "label" } else { "annotation" };
            let _ = value;
            let there = now.get(key).and_then(Value::as_str).unwrap_or_default();
            if kind == Kind::Labels {
                eprintln!("error: '{key}' already has a value ({there}), and --overwrite is false");
            } else {
                eprintln!(
                    "error: --overwrite is false but found the following declared {word}(s): '{key}' already has a value ({there})"
                );
            }
            failed = true;
            continue;
        }
        let patch: Map<String, Value> = changes
            .iter()
            .map(|(k, v)| (k.clone(), v.as_ref().map_or(Value::Null, |v| json!(v))))
            .collect();
        let same = changes
            .iter()
            .all(|(k, v)| now.get(k).and_then(Value::as_str) == v.as_deref());
        let manager = if kind == Kind::Labels {
            "ctl-label"
        } else {
            "ctl-annotate"
        };
        let body = json!({"metadata": {kind.field(): patch}});
        let after = if same || args.dry_run.as_deref() == Some("client") {
            object.clone()
        } else {
            ctx.patch(
                &change_query(&path_of(resource, &object), manager, args.dry_run.as_deref()),
                MERGE,
                &body,
            )
            .await?
        };
        let removed = changes.iter().all(|(_, v)| v.is_none());
        let done = match (kind, same, removed) {
            (Kind::Labels, true, _) => "not labeled",
            (Kind::Labels, false, true) => "unlabeled",
            (Kind::Labels, false, false) => "labeled",
            (Kind::Annotations, ..) => "annotated",
        };
        print_change(resource, name, done, &after, format.as_ref())?;
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// `deployment.apps/web scaled`, or the object in the asked form.
///
/// # Errors
/// When the form cannot show one object.
pub fn print_change(
    resource: &Resource,
    name: &str,
    done: &str,
    object: &Value,
    format: Option<&Format>,
) -> Result<()> {
    match format {
        None => println!("{}/{name} {done}", resource.object_prefix()),
        Some(Format::Name) => println!("{}/{name}", resource.object_prefix()),
        Some(Format::Json) => print!("{}", document(object, false, false)),
        Some(Format::Yaml) => print!("{}", document(object, true, false)),
        Some(Format::JsonPath(template)) => print!("{}", template.render(object)),
        Some(_) => bail!("this command prints json, yaml, name or jsonpath"),
    }
    Ok(())
}

#[derive(Args)]
pub struct Patch {
    /// TYPE NAME or TYPE/NAME
    #[arg(required = true, value_name = "TYPE[/NAME]")]
    pub what: Vec<String>,
    /// The patch, JSON or YAML
    #[arg(long, short = 'p')]
    pub patch: Option<String>,
    #[arg(long, value_name = "FILE")]
    pub patch_file: Option<String>,
    /// strategic, merge or json
    #[arg(long = "type", default_value = "strategic")]
    pub kind: String,
    #[arg(long)]
    pub subresource: Option<String>,
    #[arg(long, short = 'o')]
    pub output: Option<String>,
    #[arg(long, num_args = 0..=1, default_missing_value = "client", require_equals = true)]
    pub dry_run: Option<String>,
}

/// Runs `patch`.
///
/// # Errors
/// The server's answer, or what is wrong with the arguments.
pub async fn patch(ctx: &Ctx, args: &Patch) -> Result<ExitCode> {
    let media_type = match args.kind.as_str() {
        "strategic" => STRATEGIC,
        "merge" => MERGE,
        "json" => "application/json-patch+json",
        other => bail!("--type must be one of [json merge strategic], not {other:?}"),
    };
    let text = match (&args.patch, &args.patch_file) {
        (Some(text), None) => text.clone(),
        (None, Some(file)) => std::fs::read_to_string(file).with_context(|| format!("read {file}"))?,
        _ => bail!("must specify --patch or --patch-file containing the contents of the patch"),
    };
    let documents = coxswain_api::codec::decode_yaml_documents(&text)
        .map_err(|e| anyhow::anyhow!("unable to parse the patch: {e}"))?;
    let body = documents
        .into_iter()
        .next()
        .map(|d| d.value)
        .context("the patch is empty")?;
    let format = args.output.as_deref().map(|o| Format::parse(Some(o))).transpose()?;
    let resources = Resources::discover(ctx).await?;
    for (resource, object) in reach(ctx, &resources, &args.what, None, false, false).await? {
        let mut path = path_of(resource, &object);
        if let Some(sub) = &args.subresource {
            path = format!("{path}/{sub}");
        }
        let after = ctx
            .patch(
                &change_query(&path, "ctl-patch", args.dry_run.as_deref()),
                media_type,
                &body,
            )
            .await?;
        let same = after["metadata"]["resourceVersion"] == object["metadata"]["resourceVersion"];
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        print_change(
            resource,
            name,
            if same { "patched (no change)" } else { "patched" },
            &after,
            format.as_ref(),
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_follow_the_names() {
        let words: Vec<String> = ["pod", "a", "b", "x=1", "y-", "z="].map(str::to_owned).into();
        let (what, changes) = changes(&words);
        assert_eq!(what, ["pod", "a", "b"]);
        let want = [("x", Some("1")), ("y", None), ("z", Some(""))];
        assert_eq!(changes, want.map(|(k, v)| (k.to_owned(), v.map(str::to_owned))));
    }
}

//! Commands that change a few fields: `label`, `annotate`, `patch`.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::{Map, Value, json};

use crate::change::{JSON, MERGE, STRATEGIC};
use crate::context::Ctx;
use crate::resources::Resources;
use crate::targets::Several;

#[derive(Args)]
pub struct Mark {
    /// TYPE NAME ... KEY=VALUE ... KEY- ...
    #[arg(value_name = "TYPE NAME KEY=VALUE")]
    pub words: Vec<String>,
    /// Allow a value that is there to be replaced
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub overwrite: bool,
    /// Only if the object is still of this version
    #[arg(long)]
    pub resource_version: Option<String>,
    /// Show what is there after the change, or without one
    #[arg(long)]
    pub list: bool,
    #[command(flatten)]
    pub several: Several,
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

    const fn singular(self) -> &'static str {
        match self {
            Self::Labels => "label",
            Self::Annotations => "annotation",
        }
    }
}

/// Asked-for changes in order: a key with its value, or none to remove it.
type Changes = Vec<(String, Option<String>)>;

fn changes(words: &[String]) -> (Vec<String>, Changes) {
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

/// The refusal to replace what is there, in kubectl's words.
fn in_the_way(kind: Kind, now: &Map<String, Value>, changes: &Changes) -> Option<String> {
    let taken: Vec<String> = changes
        .iter()
        .filter(|(key, value)| value.is_some() && now.get(key).is_some_and(|there| there.as_str() != value.as_deref()))
        .map(|(key, _)| {
            let there = now.get(key).and_then(Value::as_str).unwrap_or_default();
            format!("'{key}' already has a value ({there})")
        })
        .collect();
    match (kind, taken.first()) {
        (_, None) => None,
        (Kind::Labels, Some(first)) => Some(format!("error: {first}, and --overwrite is false")),
        (Kind::Annotations, _) => Some(format!(
            "error: --overwrite is false but found the following declared annotation(s): {}",
            taken.join("; ")
        )),
    }
}

fn list(map: &Map<String, Value>, indent: &str) {
    for (key, value) in map {
        println!("{indent}{key}={}", value.as_str().unwrap_or_default());
    }
}

/// Runs `label` or `annotate`.
///
/// # Errors
/// The server's answer, or what is wrong with the arguments.
pub async fn mark(ctx: &Ctx, args: &Mark, kind: Kind) -> Result<ExitCode> {
    let (words, changes) = changes(&args.words);
    if changes.is_empty() && !args.list {
        bail!("at least one {} update is required", kind.singular());
    }
    let resources = Resources::discover(ctx).await?;
    let printer = args.several.change.printer()?;
    let found = args.several.objects(ctx, &resources, &words).await?;
    let mut failed = found.failed;
    let only_one = found.objects.len() == 1;
    let map_of = |object: &Value| {
        object["metadata"][kind.field()]
            .as_object()
            .cloned()
            .unwrap_or_default()
    };
    for (resource, object) in found.objects {
        let now = map_of(&object);
        if let Some(refusal) = in_the_way(kind, &now, &changes).filter(|_| !args.overwrite) {
            eprintln!("{refusal}");
            failed = true;
            continue;
        }
        for (key, _) in changes
            .iter()
            .filter(|(key, value)| value.is_none() && !now.contains_key(key))
        {
            println!("{} {key:?} not found.", kind.singular());
        }
        let same = changes
            .iter()
            .all(|(key, value)| now.get(key).and_then(Value::as_str) == value.as_deref());
        let patch: Map<String, Value> = changes
            .iter()
            .map(|(key, value)| (key.clone(), value.as_ref().map_or(Value::Null, |v| json!(v))))
            .collect();
        let mut body = json!({"metadata": {kind.field(): patch}});
        if let Some(version) = &args.resource_version {
            body["metadata"]["resourceVersion"] = json!(version);
        }
        let after = if same {
            object.clone()
        } else {
            let manager = format!("ctl-{}", if kind == Kind::Labels { "label" } else { "annotate" });
            args.several
                .patch(ctx, (resource, &object), (MERGE, &body), &manager)
                .await?
        };
        if args.list {
            if !only_one {
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                println!(
                    "Listing {} for {}.{}/{name}:",
                    kind.field(),
                    resource.kind,
                    resource.group
                );
            }
            list(&map_of(&after), if only_one { "" } else { " " });
            continue;
        }
        let removed = changes.iter().all(|(_, value)| value.is_none());
        let done = match (kind, same, removed) {
            (Kind::Labels, true, _) => "not labeled",
            (Kind::Labels, false, true) => "unlabeled",
            (Kind::Labels, false, false) => "labeled",
            (Kind::Annotations, ..) => "annotated",
        };
        printer.changed(resource, done, &after)?;
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

#[derive(Args)]
pub struct Patch {
    /// TYPE NAME or TYPE/NAME
    #[arg(value_name = "TYPE[/NAME]")]
    pub what: Vec<String>,
    /// The patch, JSON or YAML
    #[arg(long, short = 'p')]
    pub patch: Option<String>,
    /// A file with the patch
    #[arg(long, value_name = "FILE")]
    pub patch_file: Option<String>,
    /// strategic, merge or json
    #[arg(long = "type", default_value = "strategic", value_parser = ["json", "merge", "strategic"])]
    pub kind: String,
    /// status, scale, resize, ...
    #[arg(long)]
    pub subresource: Option<String>,
    #[command(flatten)]
    pub several: Several,
}

/// Runs `patch`.
///
/// # Errors
/// The server's answer, or what is wrong with the arguments.
pub async fn patch(ctx: &Ctx, args: &Patch) -> Result<ExitCode> {
    let media_type = match args.kind.as_str() {
        "merge" => MERGE,
        "json" => JSON,
        _ => STRATEGIC,
    };
    let text = match (&args.patch, &args.patch_file) {
        (Some(text), None) => text.clone(),
        (None, Some(file)) => std::fs::read_to_string(file).with_context(|| format!("read {file}"))?,
        (Some(_), Some(_)) => bail!("cannot specify --patch and --patch-file together"),
        _ => bail!("must specify --patch or --patch-file containing the contents of the patch"),
    };
    let documents = coxswain_api::codec::decode_yaml_documents(&text)
        .map_err(|e| anyhow::anyhow!("unable to parse {text:?}: {e}"))?;
    let body = documents
        .into_iter()
        .next()
        .map(|d| d.value)
        .context("the patch is empty")?;
    let printer = args.several.change.printer()?;
    let resources = Resources::discover(ctx).await?;
    let found = args.several.objects(ctx, &resources, &args.what).await?;
    for (resource, object) in &found.objects {
        let after = match &args.subresource {
            Some(sub) if !args.several.local && !args.several.change.client_only() => {
                let path = format!("{}/{sub}", crate::change::path_of(resource, object));
                ctx.patch(&args.several.change.query(&path, "ctl-patch"), media_type, &body)
                    .await?
            }
            _ => {
                args.several
                    .patch(ctx, (resource, object), (media_type, &body), "ctl-patch")
                    .await?
            }
        };
        let same = if args.several.local || args.several.change.client_only() {
            after == *object
        } else {
            after["metadata"]["resourceVersion"] == object["metadata"]["resourceVersion"]
        };
        printer.changed(resource, if same { "patched (no change)" } else { "patched" }, &after)?;
    }
    Ok(if found.failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
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

//! `ctl apply`: server-side apply of manifests, then following what they started.

mod prune;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use clap::Args;
use coxswain_client::kube::Error;
use http::Method;
use serde_json::Value;

use crate::change::{Change, Validation};
use crate::context::{Ctx, Failed, duration, status_of};
use crate::follow::{Followed, follow, verdict::takes_time};
use crate::get::object_name;
use crate::manifest::{Files, Manifest};
use crate::resources::{Resource, Resources};

const MANAGER: &str = "ctl";

#[derive(Args)]
pub struct Apply {
    #[command(flatten)]
    pub files: Files,
    /// Return as soon as the objects are accepted
    #[arg(long)]
    pub detach: bool,
    /// Give up following after this time; 0 never
    #[arg(long, default_value = "5m", value_parser = duration)]
    pub timeout: Duration,
    /// Take fields that others manage
    #[arg(long)]
    pub force_conflicts: bool,
    /// Accepted for kubectl's sake: applying is always done by the server
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub server_side: Option<bool>,
    /// Accepted for kubectl's sake: the objects that --detach does not wait for are followed anyway
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub wait: Option<bool>,
    /// Delete what was applied earlier, has the labels of --selector, and is not in the manifests any more
    #[arg(long)]
    pub prune: bool,
    /// With --prune: objects of the whole selection, without --selector
    #[arg(long)]
    pub all: bool,
    /// With --prune: only these kinds, as GROUP/VERSION/KIND
    #[arg(long, value_name = "KIND")]
    pub prune_allowlist: Vec<String>,
    /// Only objects with these labels
    #[arg(long, short = 'l')]
    pub selector: Option<String>,
    #[command(flatten)]
    pub validation: Validation,
    #[command(flatten)]
    pub change: Change,
}

/// Leaves the manifests whose labels fit the selector.
///
/// # Errors
/// When the selector does not parse.
pub fn keep_selected(manifests: &mut Vec<Manifest>, selector: Option<&str>) -> Result<()> {
    if let Some(selector) = selector {
        let selector =
            coxswain_api::selector::LabelSelector::parse(selector).map_err(|e| anyhow!("--selector: {e}"))?;
        manifests.retain(|manifest| selector.matches(&manifest.object["metadata"]["labels"]));
    }
    Ok(())
}

/// Runs the command.
///
/// # Errors
/// Every mistake in the manifests with its place, the first refusal of the server, or the first failure of
/// what was started.
pub async fn run(ctx: &Ctx, args: &Apply) -> Result<ExitCode> {
    let mut manifests = args.files.read()?;
    keep_selected(&mut manifests, args.selector.as_deref())?;
    if args.prune && args.selector.is_none() && !args.all {
        bail!(
            "all resources selected for prune without explicitly passing --all. To prune all resources, pass the --all flag. If you did not mean to prune all resources, specify a label selector"
        );
    }
    let printer = args.change.printer()?;
    let mut resources = Resources::discover(ctx).await?;
    let mut applied = Vec::new();
    let mut followed = Vec::new();
    let mut failures = Vec::new();
    for manifest in &manifests {
        // A CustomResourceDefinition earlier in the files may have added the kind.
        if resources
            .of_kind(manifest.text("/apiVersion"), manifest.text("/kind"))
            .is_err()
        {
            resources = Resources::discover(ctx).await?;
        }
        match apply_one(ctx, args, &resources, manifest).await {
            Ok((object, change, resource)) => {
                let label = object_name(&object);
                applied.push(prune::identity(&object));
                let waits = takes_time(manifest.text("/apiVersion"), manifest.text("/kind"));
                if waits && !args.detach && args.change.dry_run == "none" && printer.says_words() {
                    followed.push(follow_entry(&object, resource, label, change));
                } else {
                    printer.done(&label, change, &object)?;
                }
            }
            Err(error) => failures.push(error),
        }
    }
    if !failures.is_empty() {
        for one in &followed {
            println!("{} {}", one.label, one.change);
        }
        for error in &failures {
            eprintln!("{}", crate::context::error_text(error));
        }
        return Ok(ExitCode::FAILURE);
    }
    if args.prune {
        prune::prune(ctx, args, &resources, &applied).await?;
    }
    if !followed.is_empty() {
        follow(ctx, &followed, args.timeout).await?;
    }
    Ok(ExitCode::SUCCESS)
}

fn follow_entry(object: &Value, resource: &Resource, label: String, change: &str) -> Followed {
    let text = |pointer: &str| {
        object
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let namespace = text("/metadata/namespace");
    Followed {
        kind: text("/kind"),
        uid: text("/metadata/uid"),
        collection: resource.path(Some(&namespace)),
        namespace,
        label,
        change: change.to_owned(),
    }
}

async fn apply_one<'r>(
    ctx: &Ctx,
    args: &Apply,
    resources: &'r Resources,
    manifest: &Manifest,
) -> Result<(Value, &'static str, &'r Resource)> {
    let resource = resources
        .of_kind(manifest.text("/apiVersion"), manifest.text("/kind"))
        .map_err(|error| anyhow!("{}: {error}", manifest.place("kind")))?;
    let namespace = namespace_of(ctx, manifest)?;
    let name = manifest.text("/metadata/name");
    if name.is_empty() {
        bail!(
            "{}: metadata.generateName cannot be applied; use `ctl create`",
            manifest.place("metadata.generateName")
        );
    }
    let path = resource.object(&namespace, name);
    let before = match ctx.get(&path).await {
        Ok(object) => Some(object),
        Err(error) if status_of(&error) == Some(404) => None,
        Err(error) => return Err(error),
    };
    if args.change.client_only() {
        return Ok((
            manifest.object.clone(),
            if before.is_some() { "configured" } else { "created" },
            resource,
        ));
    }
    let send = async |force: bool| {
        let path = args.change.query(&path, MANAGER);
        let force = if force { "&force=true" } else { "" };
        let path = format!("{path}&fieldValidation={}{force}", args.validation.parameter());
        let headers = [("content-type", "application/apply-patch+yaml")];
        ctx.call(Method::PATCH, &path, &headers, Some(&manifest.object)).await
    };
    let object = match send(args.force_conflicts).await {
        Err(error) => match own_conflicts(&error) {
            // What the user did by hand before gives way to the manifest, as with kubectl.
            Some(fields) => {
                let object = send(true).await;
                if let (Ok(after), Some(before)) = (&object, &before) {
                    let label = object_name(after);
                    for field in fields {
                        if let Some(change) = overwritten(manifest, &field, before, after) {
                            eprintln!("Warning: {label}: {change}");
                        }
                    }
                }
                object
            }
            None => Err(error),
        },
        sent => sent,
    };
    let object = object.map_err(|error| located(error, manifest))?;
    let revision = |object: &Value| object.pointer("/metadata/resourceVersion").cloned();
    let change = match &before {
        None => "created",
        Some(before) if revision(before) == revision(&object) => "unchanged",
        Some(_) => "configured",
    };
    Ok((object, change, resource))
}

/// The namespace of an object; the command line may not contradict the manifest.
pub fn namespace_of(ctx: &Ctx, manifest: &Manifest) -> Result<String> {
    let stated = manifest.text("/metadata/namespace");
    if stated.is_empty() {
        return Ok(ctx.namespace.clone());
    }
    if ctx.namespace_given && stated != ctx.namespace {
        bail!(
            "the namespace from the provided object \"{stated}\" does not match the namespace \"{}\". You must pass '--namespace={stated}' to perform this operation.",
            ctx.namespace
        );
    }
    Ok(stated.to_owned())
}

/// The fields in conflict, when all of them were last written by hand: by this program or kubectl.
fn own_conflicts(error: &anyhow::Error) -> Option<Vec<String>> {
    let Some(Error::Api(status)) = error.downcast_ref::<Failed>().map(|failed| &failed.source) else {
        return None;
    };
    let causes = &status.details.as_ref().filter(|_| status.code == 409)?.causes;
    let by_hand = |message: &str| {
        let manager = message.strip_prefix("conflict with \"").unwrap_or_default();
        ["ctl", "ctl-", "kubectl", "kubectl-"].iter().any(|name| {
            manager
                .strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('"') || name.ends_with('-'))
        })
    };
    let all = !causes.is_empty() && causes.iter().all(|cause| by_hand(&cause.message));
    all.then(|| {
        causes
            .iter()
            .map(|cause| cause.field.trim_start_matches('.').to_owned())
            .collect()
    })
}

/// What became of a field that somebody had changed by hand; nothing if it already was as the manifest has it.
fn overwritten(manifest: &Manifest, field: &str, before: &Value, after: &Value) -> Option<String> {
    let at = |object: &Value| object.pointer(&crate::manifest::pointer(object, field)).cloned();
    let (was, is) = (at(before), at(after));
    if was == is {
        return None;
    }
    let shown = |value: Option<Value>| match value {
        None | Some(Value::Null) => "unset".to_owned(),
        Some(Value::Object(_) | Value::Array(_)) => "changed".to_owned(),
        Some(other) => other.to_string(),
    };
    Some(format!(
        "{field} was set to {} by hand; {} sets it to {} (leave the field out of the manifest to keep changes made by hand)",
        shown(was),
        manifest.place(field),
        shown(is)
    ))
}

/// A refusal with the places of the fields that it names.
pub fn located(error: anyhow::Error, manifest: &Manifest) -> anyhow::Error {
    let Some(Error::Api(status)) = error.downcast_ref::<Failed>().map(|failed| &failed.source) else {
        return error;
    };
    let causes = status
        .details
        .as_ref()
        .map(|details| details.causes.clone())
        .unwrap_or_default();
    let conflict = status.code == 409;
    let lines: Vec<String> = causes
        .iter()
        .filter(|cause| !cause.field.is_empty())
        .map(|cause| {
            let field = cause.field.trim_start_matches('.');
            format!("{}: {field}: {}", manifest.place(field), cause.message)
        })
        .collect();
    if lines.is_empty() {
        return anyhow!("{}: {error}", manifest.place(""));
    }
    let hint = if conflict {
        "\nTo take these fields over, run the command again with --force-conflicts; or leave them out of the manifest."
    } else {
        ""
    };
    anyhow!("{}{hint}", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_changed_by_hand() {
        let manifest = Manifest::of_text("x.yaml", "kind: Deployment\nspec:\n  replicas: 2\n").expect("YAML");
        let object = |replicas: i64| json!({"spec": {"replicas": replicas}});
        assert_eq!(overwritten(&manifest, "spec.replicas", &object(2), &object(2)), None);
        assert_eq!(
            overwritten(&manifest, "spec.replicas", &object(5), &object(2)).as_deref(),
            Some(
                "spec.replicas was set to 5 by hand; x.yaml:3:3 sets it to 2 (leave the field out of the manifest to keep changes made by hand)"
            )
        );
    }
}

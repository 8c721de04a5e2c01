//! `ctl apply`: server-side apply of manifests, then following what they started.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use clap::Args;
use coxswain_client::kube::Error;
use http::Method;
use serde_json::Value;

use crate::context::{Ctx, Failed, duration, status_of, with_query};
use crate::follow::{Followed, follow, verdict::takes_time};
use crate::get::object_name;
use crate::manifest::{self, Manifest};
use crate::print::{Format, document};
use crate::resources::{Resource, Resources};

const MANAGER: &str = "ctl";

#[derive(Args)]
pub struct Apply {
    /// Files, directories, or - for standard input
    #[arg(long, short = 'f', value_name = "FILE", required = true)]
    pub filename: Vec<String>,
    /// Look into subdirectories too
    #[arg(long, short = 'R')]
    pub recursive: bool,
    /// Return as soon as the objects are accepted
    #[arg(long)]
    pub detach: bool,
    /// Give up following after this time; 0 never
    #[arg(long, default_value = "5m", value_parser = duration)]
    pub timeout: Duration,
    /// Take fields that others manage
    #[arg(long)]
    pub force_conflicts: bool,
    /// The name that owns the applied fields
    #[arg(long, default_value = MANAGER)]
    pub field_manager: String,
    /// none, server, or client
    #[arg(long, value_name = "MODE", default_value = "none", num_args = 0..=1, default_missing_value = "client")]
    pub dry_run: String,
    /// Accepted for kubectl's sake: applying is always done by the server
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub server_side: Option<bool>,
    /// name, yaml, json, jsonpath=...
    #[arg(long, short = 'o', value_name = "FORMAT")]
    pub output: Option<String>,
    /// Only objects with these labels
    #[arg(long, short = 'l')]
    pub selector: Option<String>,
    /// strict, warn or ignore
    #[arg(long, value_name = "MODE", default_value = "strict", num_args = 0..=1, default_missing_value = "strict")]
    pub validate: String,
}

/// Runs the command.
///
/// # Errors
/// Every mistake in the manifests with its place, the first refusal of the server, or the first failure of
/// what was started.
pub async fn run(ctx: &Ctx, args: &Apply) -> Result<ExitCode> {
    let mut manifests = manifest::read(&args.filename, args.recursive)?;
    if let Some(selector) = &args.selector {
        let selector =
            coxswain_api::selector::LabelSelector::parse(selector).map_err(|e| anyhow!("--selector: {e}"))?;
        manifests.retain(|manifest| selector.matches(&manifest.object["metadata"]["labels"]));
    }
    let format = Format::parse(args.output.as_deref())?;
    let mut resources = Resources::discover(ctx).await?;
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
                let waits = takes_time(manifest.text("/apiVersion"), manifest.text("/kind"));
                if waits && !args.detach && args.dry_run == "none" && format.wants_table() {
                    followed.push(follow_entry(&object, resource, label, change));
                } else {
                    report(&format, &object, &label, change, &args.dry_run);
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
        collection: resource.collection(Some(&namespace)),
        namespace,
        label,
        change: change.to_owned(),
    }
}

fn report(format: &Format, object: &Value, label: &str, change: &str, dry_run: &str) {
    match format {
        Format::Name => println!("{label}"),
        Format::Json => print!("{}", document(object, false, false)),
        Format::Yaml => print!("---\n{}", document(object, true, false)),
        Format::JsonPath(template) => println!("{}", template.render(object)),
        _ => {
            let suffix = if dry_run == "none" {
                String::new()
            } else {
                format!(" ({} dry run)", if dry_run == "server" { "server" } else { "client" })
            };
            println!("{label} {change}{suffix}");
        }
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
    if args.dry_run == "client" {
        return Ok((
            manifest.object.clone(),
            if before.is_some() { "configured" } else { "created" },
            resource,
        ));
    }
    let dry_run = (args.dry_run == "server").then_some("All");
    let validation = match args.validate.as_str() {
        "true" | "strict" => "Strict",
        "false" | "ignore" => "Ignore",
        _ => "Warn",
    };
    let send = async |force: bool| {
        let query = [
            ("fieldManager", Some(args.field_manager.as_str())),
            ("force", force.then_some("true")),
            ("dryRun", dry_run),
            ("fieldValidation", Some(validation)),
        ];
        let headers = [("content-type", "application/apply-patch+yaml")];
        ctx.call(
            Method::PATCH,
            &with_query(&path, &query),
            &headers,
            Some(&manifest.object),
        )
        .await
    };
    let object = match send(args.force_conflicts).await {
        Err(error) => match own_conflicts(&error) {
            // What the user did by hand before gives way to the manifest, as with kubectl.
            Some(fields) => {
                eprintln!(
                    "Warning: {} takes over what was changed by hand: {}",
                    manifest.text("/metadata/name"),
                    fields.join(", ")
                );
                send(true).await
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

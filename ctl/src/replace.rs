//! `ctl replace` and `ctl diff`: manifests against what the cluster has.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use http::Method;
use serde_json::Value;

use crate::apply::{located, namespace_of};
use crate::context::{Ctx, status_of, with_query};
use crate::get::object_name;
use crate::manifest;
use crate::resources::Resources;

#[derive(Args)]
pub struct Replace {
    /// Files, directories, or - for standard input
    #[arg(long, short = 'f', value_name = "FILE", required = true)]
    pub filename: Vec<String>,
    #[arg(long, short = 'R')]
    pub recursive: bool,
    /// Delete and create again
    #[arg(long)]
    pub force: bool,
}

#[derive(Args)]
pub struct Diff {
    /// Files, directories, or - for standard input
    #[arg(long, short = 'f', value_name = "FILE", required = true)]
    pub filename: Vec<String>,
    #[arg(long, short = 'R')]
    pub recursive: bool,
}

/// Runs `ctl replace`.
///
/// # Errors
/// Every mistake in the manifests, or the server's answer.
pub async fn replace(ctx: &Ctx, args: &Replace) -> Result<ExitCode> {
    let resources = Resources::discover(ctx).await?;
    for manifest in manifest::read(&args.filename, args.recursive)? {
        let resource = resources.of_kind(manifest.text("/apiVersion"), manifest.text("/kind"))?;
        let namespace = namespace_of(ctx, &manifest)?;
        let path = resource.object(&namespace, manifest.text("/metadata/name"));
        let query = [("fieldManager", Some("ctl-replace"))];
        if args.force {
            match ctx
                .call(
                    Method::DELETE,
                    &path,
                    &[],
                    Some(&serde_json::json!({"gracePeriodSeconds": 0})),
                )
                .await
            {
                Err(error) if status_of(&error) != Some(404) => return Err(error),
                _ => {}
            }
            let path = with_query(&resource.collection(Some(&namespace)), &query);
            ctx.call(Method::POST, &path, &[], Some(&manifest.object))
                .await
                .map_err(|error| located(error, &manifest))?;
        } else {
            let path = with_query(&path, &query);
            ctx.call(Method::PUT, &path, &[], Some(&manifest.object))
                .await
                .map_err(|error| located(error, &manifest))?;
        }
        println!("{} replaced", object_name(&manifest.object));
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs `ctl diff`: exit code 1 says that something would change.
///
/// # Errors
/// Every mistake in the manifests, or the server's answer.
pub async fn diff(ctx: &Ctx, args: &Diff) -> Result<ExitCode> {
    let resources = Resources::discover(ctx).await?;
    let mut changed = false;
    for manifest in manifest::read(&args.filename, args.recursive)? {
        let resource = resources.of_kind(manifest.text("/apiVersion"), manifest.text("/kind"))?;
        let path = resource.object(&namespace_of(ctx, &manifest)?, manifest.text("/metadata/name"));
        let before = match ctx.get(&path).await {
            Ok(object) => object,
            Err(error) if status_of(&error) == Some(404) => Value::Null,
            Err(error) => return Err(error),
        };
        let query = [
            ("fieldManager", Some("ctl")),
            ("force", Some("true")),
            ("dryRun", Some("All")),
        ];
        let headers = [("content-type", "application/apply-patch+yaml")];
        let after = ctx
            .call(
                Method::PATCH,
                &with_query(&path, &query),
                &headers,
                Some(&manifest.object),
            )
            .await
            .map_err(|error| located(error, &manifest))?;
        let lines = compare(&text_of(&before), &text_of(&after));
        if !lines.is_empty() {
            changed = true;
            println!(
                "--- live {0}\n+++ merged {0}\n{1}",
                object_name(&manifest.object),
                lines.join("\n")
            );
        }
    }
    Ok(ExitCode::from(u8::from(changed)))
}

/// YAML without what changes with every write.
fn text_of(object: &Value) -> String {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for key in [
            "managedFields",
            "resourceVersion",
            "generation",
            "uid",
            "creationTimestamp",
        ] {
            metadata.remove(key);
        }
    }
    if object.is_null() {
        String::new()
    } else {
        coxswain_api::codec::to_yaml(&object)
    }
}

/// Lines that are only in one of the texts, by the longest common subsequence.
fn compare(before: &str, after: &str) -> Vec<String> {
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let prefix = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let (old, new) = (&old[prefix..], &new[prefix..]);
    let suffix = old
        .iter()
        .rev()
        .zip(new.iter().rev())
        .take_while(|(a, b)| a == b)
        .count();
    let (old, new) = (&old[..old.len() - suffix], &new[..new.len() - suffix]);
    let mut lengths = vec![vec![0_u32; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            lengths[i][j] = if old[i] == new[j] {
                lengths[i + 1][j + 1] + 1
            } else {
                lengths[i + 1][j].max(lengths[i][j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut out = Vec::new();
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            out.push(format!(" {}", old[i]));
            i += 1;
            j += 1;
        } else if i < old.len() && (j == new.len() || lengths[i + 1][j] >= lengths[i][j + 1]) {
            out.push(format!("-{}", old[i]));
            i += 1;
        } else {
            out.push(format!("+{}", new[j]));
            j += 1;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences() {
        assert_eq!(compare("a\nb\nc\n", "a\nx\nc\n"), ["-b", "+x"]);
        assert_eq!(compare("a\n", "a\n"), Vec::<String>::new());
        assert_eq!(compare("", "a\n"), ["+a"]);
    }
}

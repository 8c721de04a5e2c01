//! `ctl replace` and `ctl diff`: manifests against what the cluster has.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use http::Method;
use serde_json::Value;

use crate::apply::{keep_selected, located, namespace_of};
use crate::change::{Change, Validation};
use crate::context::{Ctx, duration, status_of, with_query};
use crate::get::object_name;
use crate::manifest::{Files, Manifest};
use crate::resources::Resources;

/// How long a replaced object may take to end when the user sets no limit.
const WAIT_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Unchanged lines around a change.
const CONTEXT: usize = 3;
/// Most pairs of lines that are compared with each other.
const PAIRS_MAX: usize = 25_000_000;

#[derive(Args)]
pub struct Replace {
    #[command(flatten)]
    pub files: Files,
    /// With --force: seconds for the old object to end; -1 uses its own
    #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
    pub grace_period: i64,
    /// With --force: give up after this time; 0 never
    #[arg(long, default_value = "0", value_parser = duration)]
    pub timeout: Duration,
    /// status, scale or resize
    #[arg(long)]
    pub subresource: Option<String>,
    /// Put the file as it is at this path of the server
    #[arg(long, value_name = "PATH")]
    pub raw: Option<String>,
    #[command(flatten)]
    pub validation: Validation,
    #[command(flatten)]
    pub change: Change,
    /// Delete and create again
    #[arg(long)]
    pub force: bool,
}

#[derive(Args)]
pub struct Diff {
    #[command(flatten)]
    pub files: Files,
    #[arg(long, default_value = "ctl")]
    pub field_manager: String,
    /// Only objects with these labels
    #[arg(long, short = 'l')]
    pub selector: Option<String>,
    /// Accepted for kubectl's sake: the comparison is always made with the server
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub server_side: Option<bool>,
    /// Take fields that others manage
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub force_conflicts: Option<bool>,
    /// Keep managedFields in what is compared
    #[arg(long)]
    pub show_managed_fields: bool,
}

/// Runs `ctl replace`.
///
/// # Errors
/// Every mistake in the manifests, or the server's answer.
pub async fn replace(ctx: &Ctx, args: &Replace) -> Result<ExitCode> {
    if let Some(path) = &args.raw {
        let [file] = args.files.filename.as_slice() else {
            bail!("--raw can only use a single local file or stdin");
        };
        let body = std::fs::read(file).with_context(|| format!("open {file}"))?;
        print!(
            "{}",
            ctx.text(Method::PUT, path, &[("content-type", "application/yaml")], body)
                .await?
        );
        return Ok(ExitCode::SUCCESS);
    }
    let manifests = args.files.read()?;
    let resources = Resources::discover(ctx).await?;
    let printer = args.change.printer()?;
    let mut failed = false;
    for manifest in &manifests {
        match replace_one(ctx, args, &resources, manifest).await {
            Ok(object) => printer.done(&object_name(&manifest.object), "replaced", &object)?,
            Err(error) => {
                eprintln!("{}", crate::context::error_text(&located(error, manifest)));
                failed = true;
            }
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn replace_one(ctx: &Ctx, args: &Replace, resources: &Resources, manifest: &Manifest) -> Result<Value> {
    let resource = resources.of_kind(manifest.text("/apiVersion"), manifest.text("/kind"))?;
    let namespace = namespace_of(ctx, manifest)?;
    let name = manifest.text("/metadata/name");
    let mut path = resource.object(&namespace, name);
    if args.change.client_only() {
        ctx.get(&path).await?;
        return Ok(manifest.object.clone());
    }
    let sent = |path: &str| {
        let path = args.change.query(path, "ctl-replace");
        format!("{path}&fieldValidation={}", args.validation.parameter())
    };
    if args.force {
        let mut options = serde_json::json!({});
        if args.grace_period >= 0 {
            options["gracePeriodSeconds"] = args.grace_period.into();
        }
        match ctx.call(Method::DELETE, &path, &[], Some(&options)).await {
            Err(error) if status_of(&error) != Some(404) => return Err(error),
            Err(_) => {}
            Ok(_) => {
                let gone = crate::wait::reach(ctx, resource, &namespace, name, &crate::wait::Goal::Deleted);
                let limit = if args.timeout.is_zero() { WAIT_MAX } else { args.timeout };
                match tokio::time::timeout(limit, gone).await {
                    Ok(outcome) => outcome.map(|_| ())?,
                    Err(_) => bail!("timed out waiting for {} to end", object_name(&manifest.object)),
                }
            }
        }
        return ctx
            .call(
                Method::POST,
                &sent(&resource.path(Some(&namespace))),
                &[],
                Some(&manifest.object),
            )
            .await;
    }
    if let Some(sub) = &args.subresource {
        path = format!("{path}/{sub}");
    }
    ctx.call(Method::PUT, &sent(&path), &[], Some(&manifest.object)).await
}

/// Runs `ctl diff`: exit code 1 says that something would change.
///
/// # Errors
/// Every mistake in the manifests, or the server's answer.
pub async fn diff(ctx: &Ctx, args: &Diff) -> Result<ExitCode> {
    let mut manifests = args.files.read()?;
    keep_selected(&mut manifests, args.selector.as_deref())?;
    let resources = Resources::discover(ctx).await?;
    let mut changed = false;
    for manifest in manifests {
        let resource = resources.of_kind(manifest.text("/apiVersion"), manifest.text("/kind"))?;
        let path = resource.object(&namespace_of(ctx, &manifest)?, manifest.text("/metadata/name"));
        let before = match ctx.get(&path).await {
            Ok(object) => object,
            Err(error) if status_of(&error) == Some(404) => Value::Null,
            Err(error) => return Err(error),
        };
        let query = [
            ("fieldManager", Some(args.field_manager.as_str())),
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
        let lines = compare(
            &text_of(&before, args.show_managed_fields),
            &text_of(&after, args.show_managed_fields),
        );
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

/// YAML, as a rule without the record of who changed what.
fn text_of(object: &Value, managed_fields: bool) -> String {
    if object.is_null() {
        String::new()
    } else {
        crate::print::document(object, true, managed_fields)
    }
}

/// What differs, as hunks of a unified diff, by the longest common subsequence of lines.
fn compare(before: &str, after: &str) -> Vec<String> {
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    hunks(&edits(&old, &new))
}

/// Each line with `' '`, `'-'` or `'+'`.
fn edits<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<(char, &'a str)> {
    let prefix = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let (head, old, new) = (&old[..prefix], &old[prefix..], &new[prefix..]);
    let suffix = old
        .iter()
        .rev()
        .zip(new.iter().rev())
        .take_while(|(a, b)| a == b)
        .count();
    let tail = &old[old.len() - suffix..];
    let (old, new) = (&old[..old.len() - suffix], &new[..new.len() - suffix]);
    let mut out: Vec<(char, &str)> = head.iter().map(|line| (' ', *line)).collect();
    // Texts that differ almost everywhere are shown as replaced: a table of all pairs would be too large.
    if old.len().saturating_mul(new.len()) > PAIRS_MAX {
        out.extend(old.iter().map(|line| ('-', *line)));
        out.extend(new.iter().map(|line| ('+', *line)));
    } else {
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
        while i < old.len() || j < new.len() {
            if i < old.len() && j < new.len() && old[i] == new[j] {
                out.push((' ', old[i]));
                i += 1;
                j += 1;
            } else if i < old.len() && (j == new.len() || lengths[i + 1][j] >= lengths[i][j + 1]) {
                out.push(('-', old[i]));
                i += 1;
            } else {
                out.push(('+', new[j]));
                j += 1;
            }
        }
    }
    out.extend(tail.iter().map(|line| (' ', *line)));
    out
}

/// Changes with the lines around them, under `@@ -line,count +line,count @@`.
fn hunks(edits: &[(char, &str)]) -> Vec<String> {
    let mut out = Vec::new();
    let changes: Vec<usize> = (0..edits.len()).filter(|at| edits[*at].0 != ' ').collect();
    let mut rest = changes.as_slice();
    while let Some(first) = rest.first() {
        let count = 1 + rest
            .windows(2)
            .take_while(|pair| pair[1] - pair[0] <= 2 * CONTEXT)
            .count();
        let last = rest[count - 1];
        rest = &rest[count..];
        let (start, end) = (first.saturating_sub(CONTEXT), (last + 1 + CONTEXT).min(edits.len()));
        let lines = |range: &[(char, &str)], other: char| range.iter().filter(|(kind, _)| *kind != other).count();
        let place = |other: char| {
            let (before, count) = (lines(&edits[..start], other), lines(&edits[start..end], other));
            let line = if count == 0 { before } else { before + 1 };
            if count == 1 {
                line.to_string()
            } else {
                format!("{line},{count}")
            }
        };
        out.push(format!("@@ -{} +{} @@", place('+'), place('-')));
        out.extend(edits[start..end].iter().map(|(kind, line)| format!("{kind}{line}")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences() {
        let long: String = (0..20).map(|n| format!("{n}\n")).collect();
        let cases = [
            (
                "a\nb\nc\n",
                "a\nx\nc\n",
                vec!["@@ -1,3 +1,3 @@", " a", "-b", "+x", " c"],
            ),
            ("a\n", "a\n", vec![]),
            ("", "a\n", vec!["@@ -0,0 +1 @@", "+a"]),
            (
                long.as_str(),
                &long.replace("\n10\n", "\n"),
                vec!["@@ -8,7 +8,6 @@", " 7", " 8", " 9", "-10", " 11", " 12", " 13"],
            ),
        ];
        for (before, after, expected) in cases {
            assert_eq!(compare(before, after), expected);
        }
    }
}

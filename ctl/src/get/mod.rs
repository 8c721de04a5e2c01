//! `ctl get`: one or many resources, listed or watched, in any output form.

mod sort;
mod watch;

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::context::{Ctx, encode, error_text, status_of, with_query};
use crate::describe::since;
use crate::print::table::{Layout, Text, pick, render};
use crate::print::{Format, document};
use crate::resources::{Resource, Resources};
use crate::targets::{Target, Which};

/// Objects fetched in one request of a long list.
const CHUNK: u32 = 500;

#[derive(Args)]
pub struct Get {
    /// TYPE [NAME ...] or TYPE/NAME ...
    #[arg(value_name = "TYPE[/NAME]")]
    pub what: Vec<String>,
    #[command(flatten)]
    pub which: Which,
    /// wide, json, yaml, name, jsonpath=TEMPLATE, go-template=TEMPLATE, custom-columns=SPEC
    #[arg(long, short = 'o', value_name = "FORMAT")]
    pub output: Option<String>,
    /// A template file for -o go-template, or its text
    #[arg(long, value_name = "TEMPLATE")]
    pub template: Option<String>,
    /// After listing, watch for changes
    #[arg(long, short = 'w')]
    pub watch: bool,
    /// Watch for changes without listing first
    #[arg(long)]
    pub watch_only: bool,
    /// Say with each change what kind of change it is
    #[arg(long)]
    pub output_watch_events: bool,
    /// Labels to show as columns
    #[arg(long, short = 'L', value_delimiter = ',')]
    pub label_columns: Vec<String>,
    #[arg(long)]
    pub show_labels: bool,
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub no_headers: bool,
    /// Write names as TYPE/NAME
    #[arg(long)]
    pub show_kind: bool,
    /// Keep managedFields in JSON and YAML
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub show_managed_fields: bool,
    /// Columns as the server makes them; false shows name and age
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true")]
    pub server_print: bool,
    /// Sort by this JSONPath expression
    #[arg(long, value_name = "PATH")]
    pub sort_by: Option<String>,
    /// A missing object is not an error
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub ignore_not_found: bool,
    /// A key that a template names and an object lacks is not an error
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true")]
    pub allow_missing_template_keys: bool,
    /// Request this path and print what comes
    #[arg(long, value_name = "PATH")]
    pub raw: Option<String>,
    /// status, scale or resize
    #[arg(long, value_parser = ["status", "scale", "resize"])]
    pub subresource: Option<String>,
    /// Objects per request; 0 asks for all at once
    #[arg(long, default_value_t = CHUNK)]
    pub chunk_size: u32,
}

/// Runs the command.
///
/// # Errors
/// The server's answer, or what is wrong with the arguments.
pub async fn run(ctx: &Ctx, args: &Get) -> Result<ExitCode> {
    if let Some(path) = &args.raw {
        if !args.what.is_empty() || args.which.files.given() {
            bail!("arguments may not be passed when --raw is specified");
        }
        let text = ctx.text(http::Method::GET, path, &[], Vec::new()).await?;
        print!("{text}");
        return Ok(ExitCode::SUCCESS);
    }
    if args.what.is_empty() && !args.which.files.given() {
        bail!(
            "You must specify the type of resource to get. Use \"ctl api-resources\" for a complete list of supported resources.\n\nerror: Required resource not specified."
        );
    }
    let format = format(args)?;
    let resources = Resources::discover(ctx).await?;
    let targets = args.which.targets(ctx, &resources, &args.what)?;
    let kinds = targets
        .iter()
        .filter(|target| target.resource != targets[0].resource)
        .count();
    let prefixed = args.show_kind || kinds > 0 || args.what.first().is_some_and(|w| w == "all");
    if args.watch || args.watch_only {
        let [target] = targets.as_slice() else {
            bail!("you may only specify a single resource type to watch")
        };
        return watch::watch(ctx, args, target, &format, prefixed).await;
    }
    if format.wants_table() {
        tables(ctx, args, &targets, &format, prefixed).await
    } else {
        objects(ctx, args, &targets, &format).await
    }
}

/// The form asked for; `--template` completes `-o go-template` and its kin.
fn format(args: &Get) -> Result<Format> {
    let output = match (&args.output, &args.template) {
        (Some(output), Some(template)) if !output.contains('=') => Some(format!("{output}={template}")),
        (None, Some(template)) => Some(format!("go-template={template}")),
        (output, _) => output.clone(),
    };
    Format::parse(output.as_deref())
}

/// Fetches a list in chunks, or one object.
async fn fetch(ctx: &Ctx, args: &Get, target: &Target<'_>, table: bool) -> Result<Value> {
    let whole_rows = (table && args.sort_by.is_some()).then_some("Object");
    let get = async |path: String| {
        if table {
            ctx.table(&path).await
        } else {
            ctx.get(&path).await
        }
    };
    if target.name.is_some() {
        let mut path = target.path();
        if let Some(sub) = &args.subresource {
            path = format!("{path}/{}", encode(sub));
        }
        return get(with_query(&path, &[("includeObject", whole_rows)])).await;
    }
    if args.subresource.is_some() {
        bail!("subresource cannot be used when bulk resources are specified");
    }
    let limit = (args.chunk_size > 0).then(|| args.chunk_size.to_string());
    let items_key = if table { "rows" } else { "items" };
    let page_path = |next: Option<&str>| {
        let pairs = [
            ("limit", limit.as_deref()),
            ("continue", next),
            ("includeObject", whole_rows),
        ];
        args.which.list_path(&target.path(), &pairs)
    };
    let mut whole = get(page_path(None))
        .await
        .map_err(|error| unfit_selector(error, args, target))?;
    while let Some(next) = whole["metadata"]["continue"]
        .as_str()
        .filter(|c| !c.is_empty())
        .map(str::to_owned)
    {
        let mut page = get(page_path(Some(&next))).await?;
        let more = page[items_key].as_array_mut().map(std::mem::take).unwrap_or_default();
        if let Some(items) = whole[items_key].as_array_mut() {
            items.extend(more);
        }
        whole["metadata"] = page["metadata"].take();
    }
    Ok(whole)
}

/// A list that the server refuses for its selectors is reported with them, as kubectl does.
fn unfit_selector(error: anyhow::Error, args: &Get, target: &Target<'_>) -> anyhow::Error {
    let which = &args.which;
    if status_of(&error) != Some(400) || (which.selector.is_none() && which.field_selector.is_none()) {
        return error;
    }
    let message = error_text(&error);
    let (head, detail) = message.split_once(": ").unwrap_or(("Error from server", &message));
    anyhow::anyhow!(
        "{head}: Unable to find \"{}, Resource={}\" that match label selector {:?}, field selector {:?}: {detail}",
        if target.resource.group.is_empty() {
            format!("/{}", target.resource.version)
        } else {
            target.resource.api_version()
        },
        target.resource.plural,
        which.selector.as_deref().unwrap_or_default(),
        which.field_selector.as_deref().unwrap_or_default(),
    )
}

fn layout(args: &Get, target: &Resource, format: &Format, prefixed: bool) -> Layout {
    Layout {
        wide: matches!(format, Format::Table { wide: true }),
        no_headers: args.no_headers,
        namespaces: args.which.all_namespaces && target.namespaced,
        show_labels: args.show_labels,
        label_columns: args.label_columns.clone(),
        prefix: prefixed.then(|| target.object_prefix()),
    }
}

/// Name and age, for what the server has no columns for.
fn plain_table(object: &Value) -> Value {
    let now = jiff::Timestamp::now();
    let row = |object: &Value| {
        let age = since(
            object["metadata"]["creationTimestamp"].as_str().unwrap_or_default(),
            now,
        );
        json!({"cells": [object["metadata"]["name"], age], "object": object})
    };
    let rows: Vec<Value> = match object["items"].as_array() {
        Some(items) => items.iter().map(row).collect(),
        None => vec![row(object)],
    };
    json!({"kind": "Table", "metadata": object["metadata"], "rows": rows,
        "columnDefinitions": [{"name": "Name", "priority": 0}, {"name": "Age", "priority": 0}]})
}

/// As [`fetch`], as a Table.
async fn fetch_table(ctx: &Ctx, args: &Get, target: &Target<'_>) -> Result<Value> {
    let answer = fetch(ctx, args, target, args.server_print).await?;
    Ok(if answer["kind"] == "Table" {
        answer
    } else {
        plain_table(&answer)
    })
}

async fn tables(ctx: &Ctx, args: &Get, targets: &[Target<'_>], format: &Format, prefixed: bool) -> Result<ExitCode> {
    let mut groups: Vec<(&Resource, Layout, Text)> = Vec::new();
    let mut errors = Vec::new();
    for target in targets {
        let mut table = match fetch_table(ctx, args, target).await {
            Ok(table) => table,
            Err(error) if args.ignore_not_found && status_of(&error) == Some(404) => continue,
            Err(error) if targets.len() > 1 => {
                errors.push(error);
                continue;
            }
            Err(error) => return Err(error),
        };
        if let (Some(path), Some(rows)) = (&args.sort_by, table["rows"].as_array_mut()) {
            sort::by_path(rows, path, |row| &row["object"])?;
        }
        let layout = layout(args, target.resource, format, prefixed);
        let text = pick(&table, &layout, None);
        match groups.last_mut().filter(|(resource, ..)| *resource == target.resource) {
            Some((.., group)) => group.rows.extend(text.rows),
            None => groups.push((target.resource, layout, text)),
        }
    }
    groups.retain(|(.., text)| !text.rows.is_empty());
    let printed: Vec<String> = groups
        .iter()
        .map(|(_, layout, text)| render(text, layout.no_headers))
        .collect();
    print!("{}", printed.join("\n"));
    errors.iter().for_each(|error| eprintln!("{}", error_text(error)));
    if printed.is_empty() && errors.is_empty() && !args.ignore_not_found {
        let namespaced = targets.iter().all(|t| t.resource.namespaced);
        if namespaced && !args.which.all_namespaces {
            eprintln!("No resources found in {} namespace.", ctx.namespace);
        } else {
            eprintln!("No resources found");
        }
    }
    Ok(if errors.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn objects(ctx: &Ctx, args: &Get, targets: &[Target<'_>], format: &Format) -> Result<ExitCode> {
    let mut found: Vec<Value> = Vec::new();
    let mut errors = Vec::new();
    let single = targets.len() == 1 && targets.iter().all(|t| t.name.is_some());
    for target in targets {
        match fetch(ctx, args, target, false).await {
            Ok(object) if target.name.is_some() => found.push(object),
            Ok(mut list) => {
                // Items of a list leave their kind out; alone they need it.
                for mut item in list["items"].as_array_mut().map(std::mem::take).unwrap_or_default() {
                    item["kind"] = json!(target.resource.kind);
                    item["apiVersion"] = json!(target.resource.api_version());
                    found.push(item);
                }
            }
            Err(error) if args.ignore_not_found && status_of(&error) == Some(404) => {}
            Err(error) if targets.len() > 1 => errors.push(error),
            Err(error) => return Err(error),
        }
    }
    if single && found.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(path) = &args.sort_by {
        sort::by_path(&mut found, path, |object| object)?;
    }
    print!("{}", show(&found, single, format, args)?);
    errors.iter().for_each(|error| eprintln!("{}", error_text(error)));
    Ok(if errors.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The objects in one of the forms that need whole objects.
fn show(found: &[Value], single: bool, format: &Format, args: &Get) -> Result<String> {
    let list;
    let whole = match found.first() {
        Some(only) if single => only,
        _ => {
            list = json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": found});
            &list
        }
    };
    Ok(match format {
        Format::Json => document(whole, false, args.show_managed_fields),
        Format::Yaml => document(whole, true, args.show_managed_fields),
        Format::Template(template) => template.render(whole)?,
        Format::Columns(columns) => columns.render(&found.iter().collect::<Vec<_>>(), args.no_headers),
        Format::Name => found.iter().map(|o| object_name(o) + "\n").collect(),
        Format::Table { .. } => bail!("a table is rendered by the server"),
    })
}

/// `pod/web`, `deployment.apps/web`.
#[must_use]
pub fn object_name(object: &Value) -> String {
    let kind = object["kind"].as_str().unwrap_or_default().to_lowercase();
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    match object["apiVersion"].as_str().and_then(|v| v.split_once('/')) {
        Some((group, _)) => format!("{kind}.{group}/{name}"),
        None => format!("{kind}/{name}"),
    }
}

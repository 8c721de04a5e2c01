//! `ctl get`: one or many resources, listed or watched, in any output form.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use futures::AsyncBufReadExt as _;
use serde_json::{Value, json};

use crate::context::{Ctx, encode, error_text, status_of, with_query};
use crate::print::table::{Layout, Text, pick, render};
use crate::print::{Format, document};
use crate::resources::{Resource, Resources};

/// Objects fetched in one request of a long list.
const CHUNK: u32 = 500;

#[derive(Args)]
pub struct Get {
    /// TYPE [NAME ...] or TYPE/NAME ...
    #[arg(value_name = "TYPE[/NAME]")]
    pub what: Vec<String>,
    /// Files that name the objects
    #[arg(long, short = 'f', value_name = "FILE")]
    pub filename: Vec<String>,
    /// wide, json, yaml, name, jsonpath=TEMPLATE, custom-columns=SPEC
    #[arg(long, short = 'o', value_name = "FORMAT")]
    pub output: Option<String>,
    /// After listing, watch for changes
    #[arg(long, short = 'w')]
    pub watch: bool,
    /// Watch for changes without listing first
    #[arg(long)]
    pub watch_only: bool,
    /// All namespaces
    #[arg(long, short = 'A')]
    pub all_namespaces: bool,
    /// Label selector
    #[arg(long, short = 'l')]
    pub selector: Option<String>,
    /// Field selector
    #[arg(long)]
    pub field_selector: Option<String>,
    /// Labels to show as columns
    #[arg(long, short = 'L', value_delimiter = ',')]
    pub label_columns: Vec<String>,
    #[arg(long)]
    pub show_labels: bool,
    #[arg(long)]
    pub no_headers: bool,
    /// Write names as TYPE/NAME
    #[arg(long)]
    pub show_kind: bool,
    /// Keep managedFields in JSON and YAML
    #[arg(long)]
    pub show_managed_fields: bool,
    /// Sort by this JSONPath expression
    #[arg(long, value_name = "PATH")]
    pub sort_by: Option<String>,
    /// A missing object is not an error
    #[arg(long)]
    pub ignore_not_found: bool,
    /// Request this path and print what comes
    #[arg(long, value_name = "PATH")]
    pub raw: Option<String>,
    /// A subresource such as status or scale
    #[arg(long)]
    pub subresource: Option<String>,
    /// Objects per request; 0 asks for all at once
    #[arg(long, default_value_t = CHUNK)]
    pub chunk_size: u32,
}

/// A path to fetch, and what it holds.
struct Target<'a> {
    resource: &'a Resource,
    path: String,
    single: bool,
}

/// Runs the command.
///
/// # Errors
/// The server's answer, or what is wrong with the arguments.
pub async fn run(ctx: &Ctx, args: &Get) -> Result<ExitCode> {
    if let Some(path) = &args.raw {
        let text = ctx.text(http::Method::GET, path, &[], Vec::new()).await?;
        print!("{text}");
        return Ok(ExitCode::SUCCESS);
    }
    let format = Format::parse(args.output.as_deref())?;
    let resources = Resources::discover(ctx).await?;
    let words = if args.filename.is_empty() {
        args.what.clone()
    } else {
        crate::cli::names_in_files(&resources, &args.filename)?
    };
    let selected = resources.select(&words)?;
    let prefixed = args.show_kind || selected.len() > 1 || args.what.first().is_some_and(|w| w == "all");
    let targets = targets(ctx, args, &selected)?;
    if args.watch || args.watch_only {
        let [target] = targets.as_slice() else {
            bail!("you may only specify a single resource type to watch")
        };
        return watch(ctx, args, target, &format, prefixed).await;
    }
    if format.wants_table() {
        tables(ctx, args, &targets, &format, prefixed).await
    } else {
        objects(ctx, args, &targets, &format).await
    }
}

fn targets<'a>(ctx: &Ctx, args: &Get, selected: &[(&'a Resource, Vec<String>)]) -> Result<Vec<Target<'a>>> {
    let mut out = Vec::new();
    for (resource, names) in selected {
        if !names.is_empty() && args.all_namespaces && resource.namespaced {
            bail!("a resource cannot be retrieved by name across all namespaces");
        }
        if !names.is_empty() && args.selector.is_some() {
            bail!("name cannot be provided when a selector is specified");
        }
        let namespace = (!args.all_namespaces).then_some(ctx.namespace.as_str());
        if names.is_empty() {
            out.push(Target {
                resource,
                path: resource.collection(namespace),
                single: false,
            });
        }
        for name in names {
            let mut path = resource.object(&ctx.namespace, name);
            if let Some(sub) = &args.subresource {
                path = format!("{path}/{}", encode(sub));
            }
            out.push(Target {
                resource,
                path,
                single: true,
            });
        }
    }
    Ok(out)
}

fn list_path(args: &Get, path: &str, extra: &[(&str, Option<&str>)]) -> String {
    let mut pairs = vec![
        ("labelSelector", args.selector.as_deref()),
        ("fieldSelector", args.field_selector.as_deref()),
    ];
    pairs.extend(extra);
    with_query(path, &pairs)
}

/// Fetches a list in chunks, or one object.
async fn fetch(ctx: &Ctx, args: &Get, target: &Target<'_>, table: bool) -> Result<Value> {
    let get = async |path: String| {
        if table {
            ctx.table(&path).await
        } else {
            ctx.get(&path).await
        }
    };
    if target.single {
        return get(target.path.clone()).await;
    }
    let limit = (args.chunk_size > 0).then(|| args.chunk_size.to_string());
    let items_key = if table { "rows" } else { "items" };
    let mut whole = get(list_path(args, &target.path, &[("limit", limit.as_deref())])).await?;
    while let Some(next) = whole["metadata"]["continue"]
        .as_str()
        .filter(|c| !c.is_empty())
        .map(str::to_owned)
    {
        let mut page = get(list_path(
            args,
            &target.path,
            &[("limit", limit.as_deref()), ("continue", Some(&next))],
        ))
        .await?;
        let more = page[items_key].as_array_mut().map(std::mem::take).unwrap_or_default();
        if let Some(items) = whole[items_key].as_array_mut() {
            items.extend(more);
        }
        whole["metadata"] = page["metadata"].take();
    }
    Ok(whole)
}

fn layout(args: &Get, target: &Resource, format: &Format, prefixed: bool) -> Layout {
    Layout {
        wide: matches!(format, Format::Table { wide: true }),
        namespaces: args.all_namespaces && target.namespaced,
        show_labels: args.show_labels,
        label_columns: args.label_columns.clone(),
        prefix: prefixed.then(|| target.object_prefix()),
    }
}

async fn tables(ctx: &Ctx, args: &Get, targets: &[Target<'_>], format: &Format, prefixed: bool) -> Result<ExitCode> {
    let mut groups: Vec<(&Resource, Text)> = Vec::new();
    let mut failed = false;
    for target in targets {
        let mut table = match fetch(ctx, args, target, true).await {
            Ok(table) => table,
            Err(error) if args.ignore_not_found && status_of(&error) == Some(404) => continue,
            Err(error) if targets.len() > 1 => {
                eprintln!("{}", error_text(&error));
                failed = true;
                continue;
            }
            Err(error) => return Err(error),
        };
        if let (Some(path), Some(rows)) = (&args.sort_by, table["rows"].as_array_mut()) {
            let whole = fetch(ctx, args, target, false).await?;
            sort_rows(
                rows,
                whole["items"].as_array().map(Vec::as_slice).unwrap_or_default(),
                path,
            )?;
        }
        let text = pick(&table, &layout(args, target.resource, format, prefixed), None);
        match groups.last_mut().filter(|(r, _)| *r == target.resource) {
            Some((_, group)) => group.rows.extend(text.rows),
            None => groups.push((target.resource, text)),
        }
    }
    groups.retain(|(_, text)| !text.rows.is_empty());
    let printed: Vec<String> = groups.iter().map(|(_, text)| render(text, args.no_headers)).collect();
    print!("{}", printed.join("\n"));
    if printed.is_empty() && !failed && !args.ignore_not_found {
        let namespaced = targets.iter().any(|t| t.resource.namespaced);
        if namespaced && !args.all_namespaces {
            eprintln!("No resources found in {} namespace.", ctx.namespace);
        } else {
            eprintln!("No resources found");
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Orders the rows of a table as the objects themselves sort by `path`.
fn sort_rows(rows: &mut [Value], items: &[Value], path: &str) -> Result<()> {
    let template = crate::print::jsonpath::Template::parse(path)?;
    let key = |row: &Value| {
        let metadata = &row["object"]["metadata"];
        let item = items
            .iter()
            .find(|i| i["metadata"]["name"] == metadata["name"] && i["metadata"]["namespace"] == metadata["namespace"]);
        item.and_then(|i| template.values(i).first().map(|v| (*v).clone()))
    };
    rows.sort_by_cached_key(|row| match key(row) {
        None => (0, 0, String::new()),
        Some(Value::Number(n)) => (1, n.as_i64().unwrap_or(0), String::new()),
        Some(Value::String(text)) => (2, 0, text),
        Some(other) => (3, 0, other.to_string()),
    });
    Ok(())
}

async fn objects(ctx: &Ctx, args: &Get, targets: &[Target<'_>], format: &Format) -> Result<ExitCode> {
    let mut found: Vec<Value> = Vec::new();
    let single = targets.len() == 1 && targets.iter().all(|t| t.single);
    for target in targets {
        match fetch(ctx, args, target, false).await {
            Ok(object) if target.single => found.push(object),
            Ok(mut list) => {
                // Items of a list leave their kind out; alone they need it.
                for mut item in list["items"].as_array_mut().map(std::mem::take).unwrap_or_default() {
                    item["kind"] = json!(target.resource.kind);
                    item["apiVersion"] = json!(target.resource.api_version());
                    found.push(item);
                }
            }
            Err(error) if args.ignore_not_found && status_of(&error) == Some(404) => {}
            Err(error) => return Err(error),
        }
    }
    if single && found.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    print!("{}", show(&found, single, format, args)?);
    Ok(ExitCode::SUCCESS)
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
        Format::JsonPath(template) => template.render(whole),
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

/// Lists, then prints a line per change until the server or the user ends it.
async fn watch(ctx: &Ctx, args: &Get, target: &Target<'_>, format: &Format, prefixed: bool) -> Result<ExitCode> {
    let table = format.wants_table();
    let layout = layout(args, target.resource, format, prefixed);
    let first = fetch(ctx, args, target, table).await?;
    let mut widths = Vec::new();
    let definitions = first["columnDefinitions"].clone();
    if table {
        let text = pick(&first, &layout, None);
        let lines: Vec<&Vec<String>> = std::iter::once(&text.header).chain(&text.rows).collect();
        widths = crate::print::table::widths(&lines);
        if !args.watch_only {
            print!("{}", render(&text, args.no_headers));
        }
    } else if !args.watch_only {
        let items = first["items"]
            .as_array()
            .cloned()
            .unwrap_or_else(|| vec![first.clone()]);
        for item in &items {
            print!("{}", show(std::slice::from_ref(item), true, format, args)?);
        }
    }
    let version = first["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned();
    let (path, name) = match (target.single, target.path.rsplit_once('/')) {
        (true, Some((collection, name))) => (collection.to_owned(), Some(format!("metadata.name={name}"))),
        _ => (target.path.clone(), None),
    };
    let fields = name.or_else(|| args.field_selector.clone());
    let version = if target.single && table {
        first["metadata"]["resourceVersion"]
            .as_str()
            .map(str::to_owned)
            .unwrap_or(version)
    } else {
        version
    };
    let path = with_query(
        &path,
        &[
            ("watch", Some("true")),
            ("resourceVersion", Some(&version)),
            ("labelSelector", args.selector.as_deref()),
            ("fieldSelector", fields.as_deref()),
        ],
    );
    let mut lines = ctx.stream(&path, table).await?.lines();
    while let Some(line) = futures::StreamExt::next(&mut lines).await {
        let event: Value = serde_json::from_str(&line?)?;
        if event["type"] == "BOOKMARK" {
            continue;
        }
        if event["type"] == "ERROR" {
            bail!(
                "{}",
                event["object"]["message"]
                    .as_str()
                    .unwrap_or("the watch ended with an error")
            );
        }
        if table {
            let text = pick(&event["object"], &layout, Some(&definitions));
            for row in &text.rows {
                print!("{}", crate::print::table::lay_out(row, &widths));
            }
        } else {
            print!("{}", show(std::slice::from_ref(&event["object"]), true, format, args)?);
        }
        std::io::stdout().flush()?;
    }
    Ok(ExitCode::SUCCESS)
}

//! `ctl get --watch`: what is there, then a line per change until the server or the user ends it.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Result, bail};
use futures::AsyncBufReadExt as _;
use serde_json::{Value, json};

use super::{Get, fetch, fetch_table, layout, plain_table, show};
use crate::context::{Ctx, with_query};
use crate::print::Format;
use crate::print::table::{Layout, Text, lay_out, pick, widen};
use crate::targets::Target;

/// Lines of a table that comes bit by bit: columns only ever grow.
struct Lines {
    layout: Layout,
    definitions: Value,
    widths: Vec<usize>,
    headed: bool,
    events: bool,
}

impl Lines {
    fn print(&mut self, table: &Value, event: &str) {
        let text = pick(table, &self.layout, Some(&self.definitions));
        let Text { mut header, mut rows } = text;
        if self.events {
            header.insert(0, "EVENT".to_owned());
            rows.iter_mut().for_each(|row| row.insert(0, event.to_owned()));
        }
        if !self.headed && !rows.is_empty() && !self.layout.no_headers {
            rows.insert(0, header);
        }
        self.headed |= !rows.is_empty();
        widen(&mut self.widths, &rows);
        for row in &rows {
            print!("{}", lay_out(row, &self.widths));
        }
    }
}

pub(super) async fn watch(
    ctx: &Ctx,
    args: &Get,
    target: &Target<'_>,
    format: &Format,
    prefixed: bool,
) -> Result<ExitCode> {
    let table = format.wants_table();
    let first = if table {
        fetch_table(ctx, args, target).await?
    } else {
        fetch(ctx, args, target, false).await?
    };
    let mut lines = Lines {
        layout: layout(args, target.resource, format, prefixed),
        definitions: first["columnDefinitions"].clone(),
        widths: Vec::new(),
        headed: false,
        events: args.output_watch_events,
    };
    if !args.watch_only {
        if table {
            lines.print(&first, "ADDED");
        } else {
            let items = first["items"]
                .as_array()
                .cloned()
                .unwrap_or_else(|| vec![first.clone()]);
            for item in &items {
                print!("{}", shown(item, "ADDED", format, args)?);
            }
        }
    }
    let name = target.name.as_ref().map(|name| format!("metadata.name={name}"));
    let version = first["metadata"]["resourceVersion"].as_str().unwrap_or("0");
    let path = with_query(
        &target.resource.path(target.namespace.as_deref()),
        &[
            ("watch", Some("true")),
            ("resourceVersion", Some(version)),
            ("labelSelector", args.which.selector.as_deref()),
            (
                "fieldSelector",
                name.as_deref().or(args.which.field_selector.as_deref()),
            ),
        ],
    );
    let mut stream = ctx.stream(&path, table && args.server_print).await?.lines();
    std::io::stdout().flush()?;
    while let Some(line) = futures::StreamExt::next(&mut stream).await {
        let event: Value = serde_json::from_str(&line?)?;
        let kind = event["type"].as_str().unwrap_or_default();
        match kind {
            "BOOKMARK" => continue,
            "ERROR" => {
                let message = event["object"]["message"].as_str();
                bail!("{}", message.unwrap_or("the watch ended with an error"));
            }
            _ if !table => print!("{}", shown(&event["object"], kind, format, args)?),
            _ if event["object"]["kind"] == "Table" => lines.print(&event["object"], kind),
            _ => lines.print(&plain_table(&event["object"]), kind),
        }
        std::io::stdout().flush()?;
    }
    Ok(ExitCode::SUCCESS)
}

fn shown(object: &Value, event: &str, format: &Format, args: &Get) -> Result<String> {
    if args.output_watch_events && matches!(format, Format::Json | Format::Yaml) {
        let wrapped = json!({"type": event, "object": object});
        return show(&[wrapped], true, format, args);
    }
    let text = show(std::slice::from_ref(object), true, format, args)?;
    Ok(match format {
        Format::Yaml => format!("---\n{text}"),
        Format::Name if args.output_watch_events => format!("{event:<10} {text}"),
        _ => text,
    })
}

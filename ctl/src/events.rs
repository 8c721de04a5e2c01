//! `ctl events`: what happened, the newest last.

use std::process::ExitCode;

use anyhow::{Result, anyhow};
use clap::Args;
use futures::{AsyncBufReadExt as _, StreamExt as _};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::context::{Ctx, with_query};
use crate::describe::{last_seen, last_time};
use crate::pods::text;
use crate::print::table::{lay_out, widen};
use crate::print::{Format, document};
use crate::resources::Resources;

#[derive(Args)]
pub struct Events {
    /// Only events about this object
    #[arg(long = "for", value_name = "TYPE/NAME")]
    pub about: Option<String>,
    /// Only these types: Normal, Warning
    #[arg(long, value_delimiter = ',')]
    pub types: Vec<String>,
    #[arg(long, short = 'A')]
    pub all_namespaces: bool,
    /// After listing, wait for more
    #[arg(long, short = 'w')]
    pub watch: bool,
    #[arg(long)]
    pub no_headers: bool,
    /// json or yaml
    #[arg(long, short = 'o')]
    pub output: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// The server's answer, or what is wrong with the arguments.
pub async fn run(ctx: &Ctx, args: &Events) -> Result<ExitCode> {
    let format = Format::parse(args.output.as_deref())?;
    let mut selector = None;
    if let Some(word) = &args.about {
        let (kind, name) = word
            .split_once('/')
            .ok_or_else(|| anyhow!("--for must be in resource/name form"))?;
        let resources = Resources::discover(ctx).await?;
        let resource = resources.find(kind)?;
        selector = Some(format!(
            "involvedObject.kind={},involvedObject.name={name}",
            resource.kind
        ));
    }
    let path = if args.all_namespaces {
        "/api/v1/events".to_owned()
    } else {
        format!("/api/v1/namespaces/{}/events", ctx.namespace)
    };
    let list_path = with_query(&path, &[("fieldSelector", selector.as_deref())]);
    let mut list = ctx.get(&list_path).await?;
    let mut events = list["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
    let wanted = |event: &Value| {
        args.types.is_empty()
            || args
                .types
                .iter()
                .any(|kind| kind.eq_ignore_ascii_case(text(event, "/type")))
    };
    events.retain(|event| wanted(event));
    events.sort_by_key(last_time);
    if matches!(format, Format::Json | Format::Yaml) {
        for event in &mut events {
            event["apiVersion"] = "v1".into();
            event["kind"] = "Event".into();
        }
        let whole = json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": events});
        print!("{}", document(&whole, format == Format::Yaml, false));
        return Ok(ExitCode::SUCCESS);
    }
    if events.is_empty() && !args.watch {
        if args.all_namespaces {
            eprintln!("No events found.");
        } else {
            eprintln!("No events found in {} namespace.", ctx.namespace);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut widths = Vec::new();
    let mut rows = Vec::new();
    if !args.no_headers {
        let mut header = ["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]
            .map(str::to_owned)
            .to_vec();
        if args.all_namespaces {
            header.insert(0, "NAMESPACE".to_owned());
        }
        rows.push(header);
    }
    rows.extend(
        events
            .iter()
            .map(|event| row(event, args.all_namespaces, Timestamp::now())),
    );
    widen(&mut widths, &rows);
    rows.iter().for_each(|row| print!("{}", lay_out(row, &widths)));
    if !args.watch {
        return Ok(ExitCode::SUCCESS);
    }
    let pairs = [
        ("watch", Some("true")),
        ("fieldSelector", selector.as_deref()),
        ("resourceVersion", list["metadata"]["resourceVersion"].as_str()),
    ];
    let mut lines = ctx.stream(&with_query(&path, &pairs), false).await?.lines();
    while let Some(line) = lines.next().await {
        let change: Value = serde_json::from_str(&line?)?;
        let event = &change["object"];
        if matches!(change["type"].as_str(), Some("ADDED" | "MODIFIED")) && wanted(event) {
            let row = row(event, args.all_namespaces, Timestamp::now());
            widen(&mut widths, std::slice::from_ref(&row));
            print!("{}", lay_out(&row, &widths));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn row(event: &Value, namespaces: bool, now: Timestamp) -> Vec<String> {
    let object = &event["involvedObject"];
    let mut cells = vec![
        last_seen(event, now),
        text(event, "/type").to_owned(),
        text(event, "/reason").to_owned(),
        format!("{}/{}", text(object, "/kind"), text(object, "/name")),
        text(event, "/message").trim().to_owned(),
    ];
    if namespaces {
        cells.insert(0, text(event, "/metadata/namespace").to_owned());
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows() {
        let now = "2026-01-01T00:01:00Z".parse().expect("a time");
        let event = json!({"type": "Warning", "reason": "BackOff", "count": 3, "message": "again\n",
            "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:50Z",
            "metadata": {"namespace": "n"}, "involvedObject": {"kind": "Pod", "name": "p"}});
        assert_eq!(
            row(&event, true, now),
            ["n", "10s (x3 over 60s)", "Warning", "BackOff", "Pod/p", "again"]
        );
        assert_eq!(row(&event, false, now).len(), 5);
    }
}

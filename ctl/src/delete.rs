//! `ctl delete`: objects by name, selector or manifest; waits until they are gone.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use futures::{AsyncBufReadExt as _, StreamExt as _};
use http::Method;
use serde_json::{Value, json};

use crate::context::{Ctx, status_of, with_query};
use crate::resources::{Resource, Resources};

#[derive(Args)]
pub struct Delete {
    /// TYPE NAME ... or TYPE/NAME ...
    #[arg(value_name = "TYPE[/NAME]")]
    pub what: Vec<String>,
    #[arg(long, short = 'f', value_name = "FILE")]
    pub filename: Vec<String>,
    /// Label selector
    #[arg(long, short = 'l')]
    pub selector: Option<String>,
    #[arg(long)]
    pub field_selector: Option<String>,
    /// All objects of the given types
    #[arg(long)]
    pub all: bool,
    #[arg(long, short = 'A')]
    pub all_namespaces: bool,
    /// Seconds that a pod is given to end; negative leaves it to the object
    #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
    pub grace_period: i64,
    /// Remove at once, without waiting for the node's word
    #[arg(long)]
    pub force: bool,
    /// Same as --grace-period=1
    #[arg(long)]
    pub now: bool,
    /// What happens to objects that belong to the deleted ones
    #[arg(long, value_enum, default_value_t = Cascade::Background, num_args = 0..=1, default_missing_value = "background")]
    pub cascade: Cascade,
    /// Return when the objects are gone
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub wait: bool,
    /// Give up waiting after this time; 0 waits as long as it takes
    #[arg(long, default_value = "0", value_parser = crate::context::duration)]
    pub timeout: Duration,
    /// A missing object is not an error
    #[arg(long)]
    pub ignore_not_found: bool,
    /// "none", "server" or "client"
    #[arg(long, num_args = 0..=1, default_missing_value = "client", require_equals = true)]
    pub dry_run: Option<String>,
    /// "name" prints TYPE/NAME only
    #[arg(long, short = 'o')]
    pub output: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Cascade {
    Background,
    Foreground,
    Orphan,
}

/// An object that is to go.
struct Doomed<'a> {
    resource: &'a Resource,
    namespace: String,
    name: String,
}

/// Runs the command.
///
/// # Errors
/// The server's answer, or what is wrong with the arguments.
pub async fn run(ctx: &Ctx, args: &Delete) -> Result<ExitCode> {
    let resources = Resources::discover(ctx).await?;
    let words = if args.filename.is_empty() {
        args.what.clone()
    } else {
        crate::cli::names_in_files(&resources, &args.filename)?
    };
    let by_query = args.all || args.selector.is_some() || args.field_selector.is_some();
    let mut doomed = Vec::new();
    for (resource, names) in resources.select(&words)? {
        if names.is_empty() && !by_query {
            bail!("resource(s) were provided, but no name was specified");
        }
        if !names.is_empty() && by_query {
            bail!("name cannot be provided when a selector is specified");
        }
        doomed.extend(names.into_iter().map(|name| Doomed {
            resource,
            namespace: ctx.namespace.clone(),
            name,
        }));
        if by_query {
            doomed.extend(matching(ctx, args, resource).await?);
        }
    }
    if doomed.is_empty() {
        eprintln!("No resources found");
    }
    let mut failed = false;
    let mut going = Vec::new();
    for object in doomed {
        match remove(ctx, args, &object).await {
            Ok(uid) => {
                report(args, &object);
                going.push((object, uid));
            }
            Err(error) if args.ignore_not_found && status_of(&error) == Some(404) => {}
            Err(error) => {
                eprintln!("{}", crate::context::error_text(&error));
                failed = true;
            }
        }
    }
    if args.wait && args.dry_run.is_none() && !args.force {
        let limit = if args.timeout.is_zero() {
            Duration::from_secs(7 * 24 * 3600)
        } else {
            args.timeout
        };
        let gone = async {
            for (object, uid) in &going {
                wait_gone(ctx, object, uid).await?;
            }
            Ok::<(), anyhow::Error>(())
        };
        match tokio::time::timeout(limit, gone).await {
            Ok(result) => result?,
            Err(_) => bail!("timed out waiting for the condition"),
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn report(args: &Delete, object: &Doomed<'_>) {
    let prefix = object.resource.object_prefix();
    if args.output.as_deref() == Some("name") {
        println!("{prefix}/{}", object.name);
        return;
    }
    let how = if args.force { "force deleted" } else { "deleted" };
    let dry = args.dry_run.as_deref().map_or(String::new(), |d| {
        format!(" ({} dry run)", if d == "server" { "server" } else { "dry run" })
            .replace("(dry run dry run)", "(dry run)")
    });
    let place = if object.resource.namespaced {
        format!(" from {} namespace", object.namespace)
    } else {
        String::new()
    };
    println!("{prefix} \"{}\" {how}{place}{dry}", object.name);
}

async fn matching<'a>(ctx: &Ctx, args: &Delete, resource: &'a Resource) -> Result<Vec<Doomed<'a>>> {
    let namespace = (!args.all_namespaces).then_some(ctx.namespace.as_str());
    let path = with_query(
        &resource.collection(namespace),
        &[
            ("labelSelector", args.selector.as_deref()),
            ("fieldSelector", args.field_selector.as_deref()),
        ],
    );
    let list = ctx.get(&path).await?;
    let named = |item: &Value| Doomed {
        resource,
        namespace: item["metadata"]["namespace"].as_str().unwrap_or_default().to_owned(),
        name: item["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
    };
    Ok(list["items"].as_array().into_iter().flatten().map(named).collect())
}

/// Asks for the deletion; gives the uid of what was there.
async fn remove(ctx: &Ctx, args: &Delete, object: &Doomed<'_>) -> Result<String> {
    let path = object.resource.object(&object.namespace, &object.name);
    if args.dry_run.as_deref() == Some("client") {
        return Ok(ctx.get(&path).await?["metadata"]["uid"]
            .as_str()
            .unwrap_or_default()
            .to_owned());
    }
    let policy = match args.cascade {
        Cascade::Background => "Background",
        Cascade::Foreground => "Foreground",
        Cascade::Orphan => "Orphan",
    };
    let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": policy});
    let grace = match (args.force, args.now, args.grace_period) {
        (true, ..) => Some(0),
        (_, true, _) => Some(1),
        (.., seconds) if seconds >= 0 => Some(seconds.max(1)),
        _ => None,
    };
    if let Some(seconds) = grace {
        options["gracePeriodSeconds"] = json!(seconds);
    }
    if args.dry_run.as_deref() == Some("server") {
        options["dryRun"] = json!(["All"]);
    }
    let answer = ctx.call(Method::DELETE, &path, &[], Some(&options)).await?;
    let uid = if answer["kind"] == "Status" {
        &answer["details"]["uid"]
    } else {
        &answer["metadata"]["uid"]
    };
    Ok(uid.as_str().unwrap_or_default().to_owned())
}

/// Returns when the object with that uid is no more: told by a watch, not by asking again.
async fn wait_gone(ctx: &Ctx, object: &Doomed<'_>, uid: &str) -> Result<()> {
    loop {
        let now = match ctx.get(&object.resource.object(&object.namespace, &object.name)).await {
            Ok(now) => now,
            Err(error) if status_of(&error) == Some(404) => return Ok(()),
            Err(error) => return Err(error),
        };
        if now["metadata"]["uid"] != uid {
            return Ok(());
        }
        let field = format!("metadata.name={}", object.name);
        let path = with_query(
            &object.resource.collection(Some(&object.namespace)),
            &[
                ("watch", Some("true")),
                ("fieldSelector", Some(&field)),
                ("resourceVersion", now["metadata"]["resourceVersion"].as_str()),
            ],
        );
        let mut lines = ctx.stream(&path, false).await?.lines();
        while let Some(Ok(line)) = lines.next().await {
            let event: Value = serde_json::from_str(&line)?;
            if event["type"] == "DELETED" {
                return Ok(());
            }
        }
    }
}

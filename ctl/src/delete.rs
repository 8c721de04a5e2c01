//! `ctl delete`: objects by name, selector or manifest; waits until they are gone.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use futures::{AsyncBufReadExt as _, StreamExt as _};
use http::Method;
use serde_json::{Value, json};

use crate::change::Change;
use crate::context::{Ctx, status_of, with_query};
use crate::resources::{Resource, Resources};
use crate::targets::Which;

#[derive(Args)]
pub struct Delete {
    /// TYPE NAME ... or TYPE/NAME ...
    #[arg(value_name = "TYPE[/NAME]")]
    pub what: Vec<String>,
    #[command(flatten)]
    pub which: Which,
    /// All objects of the given types
    #[arg(long)]
    pub all: bool,
    /// Ask before anything is deleted
    #[arg(long, short = 'i')]
    pub interactive: bool,
    /// Delete this path of the server
    #[arg(long, value_name = "PATH")]
    pub raw: Option<String>,
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
    #[arg(long, value_enum, default_value_t = Cascade::Background, num_args = 0..=1, require_equals = true, default_missing_value = "background")]
    pub cascade: Cascade,
    /// Return when the objects are gone
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub wait: bool,
    /// Give up waiting after this time; 0 waits as long as it takes
    #[arg(long, default_value = "0", value_parser = crate::context::duration)]
    pub timeout: Duration,
    /// A missing object is not an error
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub ignore_not_found: bool,
    #[command(flatten)]
    pub change: Change,
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
    if let Some(path) = &args.raw {
        print!("{}", ctx.text(Method::DELETE, path, &[], Vec::new()).await?);
        return Ok(ExitCode::SUCCESS);
    }
    let resources = Resources::discover(ctx).await?;
    let by_query = args.all || args.which.selector.is_some() || args.which.field_selector.is_some();
    let mut doomed = Vec::new();
    for target in args.which.targets(ctx, &resources, &args.what)? {
        match &target.name {
            Some(_) if args.all => bail!("setting 'all' parameter but found a non empty selector or a name"),
            Some(name) => doomed.push(Doomed {
                resource: target.resource,
                namespace: target.namespace.clone().unwrap_or_default(),
                name: name.clone(),
            }),
            None if !by_query => bail!("resource(s) were provided, but no name was specified"),
            None => {
                let word = |object: &Value, key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
                doomed.extend(args.which.list(ctx, &target).await?.iter().map(|object| Doomed {
                    resource: target.resource,
                    namespace: word(object, "namespace"),
                    name: word(object, "name"),
                }));
            }
        }
    }
    if doomed.is_empty() {
        println!("No resources found");
    }
    if args.interactive && !doomed.is_empty() && !confirmed(&doomed)? {
        println!("deletion is cancelled");
        return Ok(ExitCode::SUCCESS);
    }
    if args.force {
        eprintln!(
            "Warning: Immediate deletion does not wait for confirmation that the running resource has been terminated. The resource may continue to run on the cluster indefinitely."
        );
    }
    let mut failed = false;
    let mut going = Vec::new();
    for object in doomed {
        match remove(ctx, args, &object).await {
            Ok(uid) => {
                report(args, &object);
                going.push((object, uid));
            }
            Err(error) if (args.ignore_not_found || args.all) && status_of(&error) == Some(404) => {}
            Err(error) => {
                eprintln!("{}", crate::context::error_text(&error));
                failed = true;
            }
        }
    }
    if args.wait && args.change.dry_run == "none" && !args.force {
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

fn confirmed(doomed: &[Doomed<'_>]) -> Result<bool> {
    println!("You are about to delete the following {} resource(s):", doomed.len());
    for object in doomed {
        println!("{}/{}", object.resource.object_prefix(), object.name);
    }
    print!("Do you want to continue? (y/N): ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn report(args: &Delete, object: &Doomed<'_>) {
    let prefix = object.resource.object_prefix();
    if args.change.output.as_deref() == Some("name") {
        println!("{prefix}/{}", object.name);
        return;
    }
    let how = if args.force { "force deleted" } else { "deleted" };
    let dry = match args.change.dry_run.as_str() {
        "server" => " (server dry run)",
        "client" => " (dry run)",
        _ => "",
    };
    let place = if object.resource.namespaced {
        format!(" from {} namespace", object.namespace)
    } else {
        String::new()
    };
    println!("{prefix} \"{}\" {how}{place}{dry}", object.name);
}

/// Asks for the deletion; gives the uid of what was there.
async fn remove(ctx: &Ctx, args: &Delete, object: &Doomed<'_>) -> Result<String> {
    let path = object.resource.object(&object.namespace, &object.name);
    if args.change.client_only() {
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
    if args.change.dry_run == "server" {
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
            &object.resource.path(Some(&object.namespace)),
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

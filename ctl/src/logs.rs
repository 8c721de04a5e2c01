//! `ctl logs`: what containers wrote.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use futures::{AsyncBufRead, AsyncBufReadExt as _};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::context::{Ctx, duration, encode, with_query};
use crate::pods::{self, text};

/// Lines per pod when a selector finds several.
const SELECTED_TAIL: i64 = 10;
/// Lines that wait to be printed.
const LINES_MAX: usize = 256;

#[derive(Args)]
pub struct Logs {
    /// POD or TYPE/NAME
    #[arg(value_name = "POD|TYPE/NAME")]
    pub what: Option<String>,
    /// The container
    #[arg(value_name = "CONTAINER")]
    pub container_word: Option<String>,
    /// The container
    #[arg(long, short = 'c')]
    pub container: Option<String>,
    /// Go on as lines are written
    #[arg(long, short = 'f')]
    pub follow: bool,
    /// Of the run before the last restart
    #[arg(long, short = 'p')]
    pub previous: bool,
    /// Only the last lines; -1 all
    #[arg(long, allow_hyphen_values = true)]
    pub tail: Option<i64>,
    /// Only what is newer than this, such as 5s or 2h
    #[arg(long, value_parser = duration)]
    pub since: Option<Duration>,
    /// Only what is newer than this time (RFC 3339)
    #[arg(long)]
    pub since_time: Option<String>,
    /// The time of each line
    #[arg(long)]
    pub timestamps: bool,
    /// At most this many bytes
    #[arg(long)]
    pub limit_bytes: Option<u64>,
    /// Every container of the pod
    #[arg(long)]
    pub all_containers: bool,
    /// Every pod of the workload
    #[arg(long)]
    pub all_pods: bool,
    /// Which pod and container each line is from
    #[arg(long)]
    pub prefix: bool,
    /// Pods with these labels
    #[arg(long, short = 'l')]
    pub selector: Option<String>,
    /// At most this many streams at once with a selector
    #[arg(long, default_value_t = 5)]
    pub max_log_requests: usize,
    /// Go on when one stream fails
    #[arg(long)]
    pub ignore_errors: bool,
}

/// One log to read.
struct Source {
    path: String,
    prefix: String,
}

/// Runs the command.
///
/// # Errors
/// The server's answer, or what is wrong with the arguments.
pub async fn run(ctx: &Ctx, args: &Logs) -> Result<ExitCode> {
    let sources = sources(ctx, args).await?;
    if args.follow && sources.len() > args.max_log_requests {
        bail!(
            "you are attempting to follow {} log streams, but maximum allowed concurrency is {}, use --max-log-requests to increase the limit",
            sources.len(),
            args.max_log_requests
        );
    }
    if args.follow && sources.len() > 1 {
        return together(ctx, sources).await;
    }
    for source in &sources {
        let outcome = match ctx.stream(&source.path, false).await {
            Ok(stream) => copy(stream, &source.prefix).await,
            Err(error) => Err(error),
        };
        match outcome {
            Err(error) if args.ignore_errors => eprintln!("{}", crate::context::error_text(&error)),
            other => other?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn sources(ctx: &Ctx, args: &Logs) -> Result<Vec<Source>> {
    let selected = args.selector.is_some();
    let pods = match (&args.what, &args.selector) {
        (Some(_), Some(_)) => bail!("only a selector (-l) or a POD name is allowed"),
        (None, Some(selector)) => pods::with_labels(ctx, selector).await?,
        (None, None) => bail!(
            "expected 'logs [-f] [-p] (POD | TYPE/NAME) [-c CONTAINER]'.\nPOD or TYPE/NAME is a required argument for the logs command"
        ),
        (Some(word), None) => {
            let object = pods::named(ctx, word).await?;
            let mut pods = pods::behind(ctx, &object).await?;
            if pods.is_empty() {
                bail!("no pods found for {word}");
            }
            if pods.len() > 1 && !args.all_pods {
                eprintln!(
                    "Found {} pods, using pod/{}",
                    pods.len(),
                    text(&pods[0], "/metadata/name")
                );
                pods.truncate(1);
            }
            pods
        }
    };
    if selected && pods.is_empty() {
        eprintln!("No resources found in {} namespace.", ctx.namespace);
    }
    let mut out = Vec::new();
    for pod in &pods {
        let asked = args.container.as_deref().or(args.container_word.as_deref());
        let containers: Vec<&str> = if args.all_containers {
            pods::containers(pod)
        } else {
            let (container, say) = pods::container(pod, asked)?;
            if say && !selected {
                eprintln!("{}", pods::defaulted(pod, container));
            }
            vec![container]
        };
        let name = text(pod, "/metadata/name");
        for container in containers {
            let prefix = if args.prefix || args.all_pods {
                format!("[pod/{name}/{container}] ")
            } else {
                String::new()
            };
            out.push(Source {
                path: path(ctx, args, pod, container, selected),
                prefix,
            });
        }
    }
    Ok(out)
}

fn path(ctx: &Ctx, args: &Logs, pod: &Value, container: &str, selected: bool) -> String {
    let flag = |on: bool| on.then_some("true");
    let tail = args
        .tail
        .or(selected.then_some(SELECTED_TAIL))
        .filter(|lines| *lines >= 0)
        .map(|lines| lines.to_string());
    let since = args.since.map(|since| since.as_secs().max(1).to_string());
    let limit = args.limit_bytes.map(|limit| limit.to_string());
    let base = format!(
        "/api/v1/namespaces/{}/pods/{}/log",
        ctx.namespace,
        encode(text(pod, "/metadata/name"))
    );
    with_query(
        &base,
        &[
            ("container", Some(container)),
            ("follow", flag(args.follow)),
            ("previous", flag(args.previous)),
            ("timestamps", flag(args.timestamps)),
            ("tailLines", tail.as_deref()),
            ("sinceSeconds", since.as_deref()),
            ("sinceTime", args.since_time.as_deref()),
            ("limitBytes", limit.as_deref()),
        ],
    )
}

async fn copy(mut stream: impl AsyncBufRead + Unpin, prefix: &str) -> Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        if stream.read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        let mut out = std::io::stdout().lock();
        out.write_all(prefix.as_bytes())?;
        out.write_all(&line)?;
        out.flush()?;
    }
}

/// Follows several logs at once; lines come as they are written.
async fn together(ctx: &Ctx, sources: Vec<Source>) -> Result<ExitCode> {
    let (sender, mut receiver) = mpsc::channel::<Vec<u8>>(LINES_MAX);
    for source in sources {
        let mut stream = ctx.stream(&source.path, false).await?;
        let sender = sender.clone();
        tokio::spawn(async move {
            loop {
                let mut line = source.prefix.clone().into_bytes();
                match stream.read_until(b'\n', &mut line).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) if sender.send(line).await.is_err() => return,
                    Ok(_) => {}
                }
            }
        });
    }
    drop(sender);
    while let Some(line) = receiver.recv().await {
        let mut out = std::io::stdout().lock();
        out.write_all(&line)?;
        out.flush()?;
    }
    Ok(ExitCode::SUCCESS)
}

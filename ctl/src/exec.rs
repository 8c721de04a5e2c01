//! `ctl exec` and `ctl attach`: a program in a container, with the user's terminal.

use std::process::ExitCode;

use anyhow::{Result, anyhow, bail};
use clap::Args;
use coxswain_client::kube::Error;
use coxswain_client::kube::api::{AttachParams, AttachedProcess, TerminalSize};
use futures::SinkExt as _;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::signal::unix::{SignalKind, signal};

use crate::context::{Ctx, Failed};
use crate::pods::{self, text};
use crate::terminal::{self, Raw};

/// Bytes that may be on their way in each direction.
const BUFFER: usize = 64 * 1024;

#[derive(Args)]
pub struct Exec {
    /// POD or TYPE/NAME
    #[arg(required = true, value_name = "POD|TYPE/NAME")]
    pub what: String,
    /// The container
    #[arg(long, short = 'c')]
    pub container: Option<String>,
    /// Pass standard input to the program
    #[arg(long, short = 'i')]
    pub stdin: bool,
    /// The program gets a terminal
    #[arg(long, short = 't')]
    pub tty: bool,
    /// Only print what the program prints
    #[arg(long, short = 'q')]
    pub quiet: bool,
    /// Words that belong after --
    #[arg(hide = true)]
    pub misplaced: Vec<String>,
    /// The program and its arguments, after --
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

#[derive(Args)]
pub struct Attach {
    /// POD or TYPE/NAME
    #[arg(required = true, value_name = "POD|TYPE/NAME")]
    pub what: String,
    /// The container
    #[arg(long, short = 'c')]
    pub container: Option<String>,
    /// Pass standard input to the program
    #[arg(long, short = 'i')]
    pub stdin: bool,
    /// The program has a terminal
    #[arg(long, short = 't')]
    pub tty: bool,
    /// Only print what the program prints
    #[arg(long, short = 'q')]
    pub quiet: bool,
}

/// Which streams the user asked for.
#[derive(Clone, Copy)]
pub struct Streams {
    pub stdin: bool,
    pub tty: bool,
}

/// Runs `ctl exec`.
///
/// # Errors
/// When the program cannot be started; its own exit code is passed on.
pub async fn exec(ctx: &Ctx, args: &Exec) -> Result<ExitCode> {
    if !args.misplaced.is_empty() {
        bail!("exec [POD] [COMMAND] is not supported anymore. Use exec [POD] -- [COMMAND] instead");
    }
    if args.command.is_empty() {
        bail!("you must specify at least one command for the container");
    }
    let pod = pods::one(ctx, &args.what).await?;
    let (container, say) = pods::container(&pod, args.container.as_deref())?;
    if say && !args.quiet {
        eprintln!("{}", pods::defaulted(&pod, container));
    }
    refuse_finished(&pod)?;
    let streams = Streams {
        stdin: args.stdin,
        tty: with_terminal(args.tty, args.stdin),
    };
    let params = params(container, streams);
    let api = ctx.client.namespaced::<Pod>(text(&pod, "/metadata/namespace"));
    let process = api
        .exec(text(&pod, "/metadata/name"), args.command.clone(), &params)
        .await
        .map_err(|e| failed(ctx, e))?;
    attend(process, streams).await
}

/// Runs `ctl attach`.
///
/// # Errors
/// When the container is not running.
pub async fn attach(ctx: &Ctx, args: &Attach) -> Result<ExitCode> {
    let pod = pods::one(ctx, &args.what).await?;
    let (container, say) = pods::container(&pod, args.container.as_deref())?;
    if say && !args.quiet {
        eprintln!("{}", pods::defaulted(&pod, container));
    }
    refuse_finished(&pod)?;
    attach_to(
        ctx,
        &pod,
        container,
        Streams {
            stdin: args.stdin,
            tty: with_terminal(args.tty, args.stdin),
        },
        args.quiet,
    )
    .await
}

/// Attaches to a running container.
///
/// # Errors
/// When the connection cannot be made.
pub async fn attach_to(ctx: &Ctx, pod: &Value, container: &str, streams: Streams, quiet: bool) -> Result<ExitCode> {
    if streams.stdin && streams.tty && !quiet {
        eprintln!("If you don't see a command prompt, try pressing enter.");
    }
    let api = ctx.client.namespaced::<Pod>(text(pod, "/metadata/namespace"));
    let process = api
        .attach(text(pod, "/metadata/name"), &params(container, streams))
        .await
        .map_err(|e| failed(ctx, e))?;
    attend(process, streams).await
}

fn failed(ctx: &Ctx, source: Error) -> anyhow::Error {
    match &source {
        // The node answers in plain text.
        Error::Api(status) if status.reason.contains("parse error") => {
            anyhow!("unable to upgrade connection: {}", status.message)
        }
        _ => Failed {
            server: ctx.server.clone(),
            source,
        }
        .into(),
    }
}

fn refuse_finished(pod: &Value) -> Result<()> {
    match text(pod, "/status/phase") {
        phase @ ("Succeeded" | "Failed") => Err(anyhow!(
            "cannot exec into a container in a completed pod; current phase is {phase}"
        )),
        _ => Ok(()),
    }
}

fn with_terminal(asked: bool, stdin: bool) -> bool {
    if asked && stdin && !terminal::is_present() {
        eprintln!("Unable to use a TTY - input is not a terminal or the right kind of file");
        return false;
    }
    asked
}

/// What to ask the server for; a terminal has one output stream.
#[must_use]
pub fn params(container: &str, streams: Streams) -> AttachParams {
    AttachParams::default()
        .container(container)
        .stdin(streams.stdin)
        .stdout(true)
        .stderr(!streams.tty)
        .tty(streams.tty)
        .max_stdin_buf_size(BUFFER)
        .max_stdout_buf_size(BUFFER)
        .max_stderr_buf_size(BUFFER)
}

/// Tells the remote terminal its size, now and whenever the local one changes.
async fn report_sizes(mut sizes: futures::channel::mpsc::Sender<TerminalSize>) {
    let Ok(mut changed) = signal(SignalKind::window_change()) else {
        return;
    };
    loop {
        if let Some((width, height)) = terminal::size()
            && sizes.send(TerminalSize { width, height }).await.is_err()
        {
            return;
        }
        changed.recv().await;
    }
}

/// Connects the user's streams to the remote program until it ends. Ends this process, because a read of
/// the user's standard input cannot be taken back.
async fn attend(mut process: AttachedProcess, streams: Streams) -> Result<ExitCode> {
    let raw = if streams.tty && streams.stdin {
        Some(Raw::enter()?)
    } else {
        None
    };
    if streams.tty
        && let Some(sizes) = process.terminal_size()
    {
        tokio::spawn(report_sizes(sizes));
    }
    if let Some(mut remote) = process.stdin() {
        tokio::spawn(async move {
            let mut local = tokio::io::stdin();
            let mut buffer = vec![0; 8192];
            loop {
                match local.read(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(count) => {
                        let Some(bytes) = buffer.get(..count) else { break };
                        if remote.write_all(bytes).await.is_err() || remote.flush().await.is_err() {
                            return;
                        }
                    }
                }
            }
            // The other side sees the end of input.
            let _ = remote.shutdown().await;
        });
    }
    let status = process.take_status();
    let stdout = process.stdout();
    let stderr = process.stderr();
    let out = async {
        if let Some(mut remote) = stdout {
            pour(&mut remote, &mut tokio::io::stdout()).await;
        }
    };
    let err = async {
        if let Some(mut remote) = stderr {
            pour(&mut remote, &mut tokio::io::stderr()).await;
        }
    };
    tokio::join!(out, err);
    let status = match status {
        Some(status) => status.await,
        None => None,
    };
    drop(raw);
    let code = match outcome(status.as_ref()) {
        Ok(0) => 0,
        Ok(code) => {
            eprintln!("command terminated with exit code {code}");
            code
        }
        Err(why) => {
            eprintln!("error: {why}");
            1
        }
    };
    std::process::exit(code)
}

async fn pour(from: &mut (impl tokio::io::AsyncRead + Unpin), to: &mut (impl tokio::io::AsyncWrite + Unpin)) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count) = from.read(&mut buffer).await {
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else {
            return;
        };
        if to.write_all(bytes).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
}

/// The exit code in the final status.
///
/// # Errors
/// Why the program could not run.
pub fn outcome(status: Option<&Status>) -> Result<i32, String> {
    let Some(status) = status else { return Ok(0) };
    if status.status.as_deref() == Some("Success") {
        return Ok(0);
    }
    let causes = status
        .details
        .as_ref()
        .and_then(|details| details.causes.as_deref())
        .unwrap_or_default();
    let code = causes
        .iter()
        .find(|cause| cause.reason.as_deref() == Some("ExitCode"))
        .and_then(|cause| cause.message.as_ref()?.parse().ok());
    code.ok_or_else(|| {
        status
            .message
            .clone()
            .unwrap_or_else(|| "the connection broke off".into())
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn exit_codes() {
        let cases = [
            (json!({"status": "Success"}), Ok(0)),
            (
                json!({"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": [{"reason": "ExitCode", "message": "7"}]}}),
                Ok(7),
            ),
            (
                json!({"status": "Failure", "message": "no such program"}),
                Err("no such program".to_owned()),
            ),
        ];
        for (status, expected) in cases {
            let status: Status = serde_json::from_value(status).expect("a Status");
            assert_eq!(outcome(Some(&status)), expected);
        }
        assert_eq!(outcome(None), Ok(0));
    }
}

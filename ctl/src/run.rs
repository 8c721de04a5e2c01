//! `ctl run`: one pod from flags, attached to if wanted.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use futures::{AsyncBufReadExt as _, StreamExt as _};
use http::Method;
use serde_json::{Value, json};

use crate::change::Change;
use crate::context::{Ctx, with_query};
use crate::create::send;
use crate::exec::{Streams, attach_to};
use crate::pods::text;
use crate::resources::Resources;

/// How long a pod may take to run before attaching is given up.
const START_MAX: Duration = Duration::from_secs(60);

/// Who owns the fields of the pod.
const MANAGER: &str = "ctl-run";

#[derive(Args)]
pub struct Run {
    pub name: String,
    #[arg(long, required = true)]
    pub image: String,
    #[arg(long)]
    pub port: Option<u16>,
    /// KEY=VALUE
    #[arg(long, short = 'e')]
    pub env: Vec<String>,
    /// KEY=VALUE,...
    #[arg(long, short = 'l')]
    pub labels: Option<String>,
    /// KEY=VALUE
    #[arg(long)]
    pub annotations: Vec<String>,
    /// Always, OnFailure or Never
    #[arg(long, default_value = "Always")]
    pub restart: String,
    #[arg(long)]
    pub image_pull_policy: Option<String>,
    /// The words after -- are the command, not arguments
    #[arg(long)]
    pub command: bool,
    #[arg(long, short = 'i')]
    pub stdin: bool,
    #[arg(long, short = 't')]
    pub tty: bool,
    #[arg(long)]
    pub attach: bool,
    /// Delete the pod when it ends
    #[arg(long)]
    pub rm: bool,
    #[arg(long, short = 'q')]
    pub quiet: bool,
    /// A JSON merge patch for the pod
    #[arg(long)]
    pub overrides: Option<String>,
    #[arg(last = true)]
    pub words: Vec<String>,
    /// Also create a Service for --port
    #[arg(long, requires = "port")]
    pub expose: bool,
    /// The container may do everything on its node
    #[arg(long)]
    pub privileged: bool,
    #[command(flatten)]
    pub change: Change,
}

/// Runs the command.
///
/// # Errors
/// What is wrong with the arguments, or the server's answer.
pub async fn run(ctx: &Ctx, args: &Run) -> Result<ExitCode> {
    let attach = args.attach || args.stdin;
    if args.rm && !attach {
        bail!("--rm should only be used for attached containers");
    }
    if attach && args.change.dry_run != "none" {
        bail!("--dry-run=[server|client] can't be used with attached containers options (--attach, --stdin, or --tty)");
    }
    let pod = pod(args)?;
    let resources = Resources::discover(ctx).await?;
    if let Some(port) = args.port.filter(|_| args.expose) {
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": args.name},
            "spec": {"ports": [{"port": port, "protocol": "TCP", "targetPort": port}], "selector": pod["metadata"]["labels"]}});
        send(ctx, &resources, service, &args.change, MANAGER).await?;
        if args.change.output.as_deref() == Some("yaml") {
            println!("---");
        }
    }
    if !attach {
        return send(ctx, &resources, pod, &args.change, MANAGER).await;
    }
    let collection = format!("/api/v1/namespaces/{}/pods", ctx.namespace);
    let path = with_query(&collection, &[("fieldManager", Some(MANAGER))]);
    let created = ctx.call(Method::POST, &path, &[], Some(&pod)).await?;
    let outcome = attached(ctx, args, &collection, &created).await;
    if args.rm {
        let path = format!("{collection}/{}", args.name);
        ctx.call(Method::DELETE, &path, &[], None).await?;
        eprintln!("pod \"{}\" deleted from {} namespace", args.name, ctx.namespace);
    }
    outcome
}

async fn attached(ctx: &Ctx, args: &Run, collection: &str, created: &Value) -> Result<ExitCode> {
    let selector = format!("metadata.name={}", args.name);
    let version = text(created, "/metadata/resourceVersion");
    let pairs = [
        ("watch", Some("true")),
        ("fieldSelector", Some(selector.as_str())),
        ("resourceVersion", Some(version)),
    ];
    let mut lines = ctx.stream(&with_query(collection, &pairs), false).await?.lines();
    let started = async {
        while let Some(line) = lines.next().await {
            let event: Value = serde_json::from_str(&line?)?;
            let phase = text(&event, "/object/status/phase");
            let waiting = text(&event, "/object/status/containerStatuses/0/state/waiting/message").to_owned();
            match phase {
                "Running" | "Succeeded" | "Failed" => return Ok(event["object"].clone()),
                _ if text(&event, "/object/status/containerStatuses/0/state/waiting/reason") == "ErrImagePull" => {
                    bail!("pod {}: {waiting}", args.name)
                }
                _ => {}
            }
        }
        bail!("the server closed the watch")
    };
    let Ok(pod) = tokio::time::timeout(START_MAX, started).await else {
        bail!("timed out waiting for the condition")
    };
    let mut pod = pod?;
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    if text(&pod, "/status/phase") != "Running" {
        let log = ctx
            .text(Method::GET, &format!("{collection}/{}/log", args.name), &[], Vec::new())
            .await?;
        print!("{log}");
        return Ok(if text(&pod, "/status/phase") == "Succeeded" {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        });
    }
    if args.rm {
        // Attaching ends this process, so the deletion is sent while the pod runs and takes effect when it ends.
        return attach_then_delete(ctx, args, collection, &pod).await;
    }
    attach_to(
        ctx,
        &pod,
        &args.name,
        Streams {
            stdin: args.stdin,
            tty: args.tty,
        },
        args.quiet,
    )
    .await
}

/// Attaches in a child of this program, which may end when the remote program does.
async fn attach_then_delete(ctx: &Ctx, args: &Run, _collection: &str, _pod: &Value) -> Result<ExitCode> {
    let mut command = tokio::process::Command::new(std::env::current_exe()?);
    // The child finds the same cluster in the same way.
    let own: Vec<String> = std::env::args().skip(1).collect();
    let connection = [
        "--kubeconfig",
        "--context",
        "--cluster",
        "--user",
        "--server",
        "-s",
        "--token",
    ];
    let mut words = own.iter().take_while(|word| *word != "--");
    while let Some(word) = words.next() {
        if connection.iter().any(|flag| word == flag) {
            command.arg(word).args(words.next());
        } else if connection.iter().any(|flag| word.starts_with(&format!("{flag}=")))
            || word == "--insecure-skip-tls-verify"
        {
            command.arg(word);
        }
    }
    command.args(["attach", &args.name, "-c", &args.name, "-n", &ctx.namespace]);
    for (flag, on) in [("-i", args.stdin), ("-t", args.tty), ("-q", args.quiet)] {
        if on {
            command.arg(flag);
        }
    }
    let status = command.status().await?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn pod(args: &Run) -> Result<Value> {
    let mut container = json!({"name": args.name, "image": args.image});
    if let Some(port) = args.port {
        container["ports"] = json!([{"containerPort": port}]);
    }
    let mut env = Vec::new();
    for word in &args.env {
        let Some((name, value)) = word.split_once('=') else {
            bail!("invalid env: {word}")
        };
        env.push(json!({"name": name, "value": value}));
    }
    if !env.is_empty() {
        container["env"] = Value::Array(env);
    }
    if !args.words.is_empty() {
        container[if args.command { "command" } else { "args" }] = json!(args.words);
    }
    if let Some(policy) = &args.image_pull_policy {
        container["imagePullPolicy"] = policy.clone().into();
    }
    if args.stdin {
        container["stdin"] = true.into();
        container["stdinOnce"] = true.into();
    }
    if args.privileged {
        container["securityContext"] = json!({"privileged": true});
    }
    if args.tty {
        container["tty"] = true.into();
    }
    let mut labels = json!({"run": args.name});
    for word in args.labels.iter().flat_map(|words| words.split(',')) {
        let Some((key, value)) = word.split_once('=') else {
            bail!("invalid label: {word}")
        };
        if labels["run"] == args.name.as_str() && labels.as_object().is_some_and(|map| map.len() == 1) {
            labels = json!({});
        }
        labels[key] = value.into();
    }
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": args.name, "labels": labels},
        "spec": {"containers": [container], "restartPolicy": args.restart, "dnsPolicy": "ClusterFirst"}});
    for word in &args.annotations {
        let Some((key, value)) = word.split_once('=') else {
            bail!("invalid annotation: {word}")
        };
        pod["metadata"]["annotations"][key] = value.into();
    }
    if let Some(overrides) = &args.overrides {
        let patch: Value = serde_json::from_str(overrides)?;
        coxswain_api::patch::merge_patch(&mut pod, &patch)?;
    }
    Ok(pod)
}

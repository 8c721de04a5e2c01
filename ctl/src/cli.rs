//! The commands. A command is a file with its flags and `run`, and one row here.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};

use crate::context::{Ctx, Global};
use crate::{
    apply, certificate, completion, config, cp, create, delete, describe, drain, edit, editor, events, exec, explain,
    expose, get, image, info, logs, manifest, port_forward, replace, rollout, run as run_pod, scale, set, top, wait,
};

/// ctl controls a Coxswain (or any Kubernetes) cluster.
#[derive(Parser)]
#[command(name = "ctl", version, about, disable_version_flag = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Display one or many resources
    Get(get::Get),
    /// Apply manifests and follow what they start
    Apply(apply::Apply),
    /// Show everything about objects
    Describe(describe::Describe),
    /// Print what containers wrote
    Logs(logs::Logs),
    /// Run a program in a container
    Exec(exec::Exec),
    /// Attach to a running container
    Attach(exec::Attach),
    /// Forward local ports to a pod
    PortForward(port_forward::PortForward),
    /// Wait for a condition
    Wait(wait::Wait),
    /// Create objects from manifests or flags
    Create(Box<create::Create>),
    /// Replace objects by manifests
    Replace(replace::Replace),
    /// Show what applying manifests would change
    Diff(replace::Diff),
    /// Run one pod
    Run(Box<run_pod::Run>),
    /// Put a Service in front of pods
    Expose(Box<expose::Expose>),
    /// Copy files to and from containers
    Cp(cp::Cp),
    /// Mark nodes as closed for new pods
    Cordon(drain::Cordon),
    /// Open nodes for new pods
    Uncordon(drain::Cordon),
    /// Move the pods away from nodes
    Drain(drain::Drain),
    /// Update the taints of nodes
    Taint(drain::Taint),
    /// Images on the nodes
    Image(image::Image),
    /// Print the script for a shell's completion
    Completion(completion::Completion),
    /// Change objects in an editor
    Edit(editor::Edit),
    /// List what happened
    Events(events::Events),
    /// Show what nodes and pods use
    Top(top::Top),
    /// Answer certificate signing requests
    Certificate(certificate::Certificate),
    /// Print the manifests of a directory with a kustomization.yaml
    Kustomize(manifest::Kustomize),
    /// Delete objects by name, selector or manifest
    Delete(delete::Delete),
    /// Update the labels of objects
    Label(edit::Mark),
    /// Update the annotations of objects
    Annotate(edit::Mark),
    /// Update fields of an object
    Patch(edit::Patch),
    /// Set a new size
    Scale(scale::Scale),
    /// Size a workload by its load
    Autoscale(scale::Autoscale),
    /// Change images, environment, resources and more
    Set(set::Set),
    /// Manage the rollout of a workload
    Rollout(rollout::Rollout),
    /// Explain the fields of a kind
    Explain(explain::Explain),
    /// List the resources that the server has
    ApiResources(info::ApiResources),
    /// List the API versions that the server has
    ApiVersions,
    /// Show where the cluster is
    ClusterInfo,
    /// Show this program's and the server's version
    Version(info::Version),
    /// Ask about permissions
    Auth(info::Auth),
    /// Show the kubeconfig in use
    Config(config::Config),
}

/// Runs one command.
///
/// # Errors
/// Whatever the command could not do.
pub async fn run(mut cli: Cli) -> Result<ExitCode> {
    if cli.command.has_own_user() {
        // There `--user` is the subject of a binding, not who asks.
        cli.global.user = None;
    }
    // What needs no server must work without one.
    match &cli.command {
        Command::Config(args) => return config::run(&cli.global, args),
        Command::Completion(args) => return completion::run(args),
        Command::Kustomize(args) => return manifest::print_kustomization(args),
        Command::Version(args) if args.client => return info::version(None, args).await,
        _ => {}
    }
    let ctx = Ctx::new(&cli.global).await?;
    let code = perform(&cli, &ctx).await?;
    if cli.global.warnings_as_errors && ctx.warnings() > 0 {
        bail!("{} warning(s) received", ctx.warnings());
    }
    Ok(code)
}

impl Command {
    fn has_own_user(&self) -> bool {
        match self {
            Self::Create(create) => matches!(
                create.what,
                Some(create::What::Rolebinding { .. } | create::What::Clusterrolebinding { .. })
            ),
            Self::Set(set) => matches!(set.what, set::What::Subject(_)),
            _ => false,
        }
    }
}

async fn perform(cli: &Cli, ctx: &Ctx) -> Result<ExitCode> {
    match &cli.command {
        Command::Get(args) => get::run(ctx, args).await,
        Command::Apply(args) => apply::run(ctx, args).await,
        Command::Describe(args) => describe::run(ctx, args).await,
        Command::Logs(args) => logs::run(ctx, args).await,
        Command::Exec(args) => exec::exec(ctx, args).await,
        Command::Attach(args) => exec::attach(ctx, args).await,
        Command::PortForward(args) => port_forward::run(ctx, args).await,
        Command::Wait(args) => wait::run(ctx, args).await,
        Command::Create(args) => create::run(ctx, args).await,
        Command::Replace(args) => replace::replace(ctx, args).await,
        Command::Diff(args) => replace::diff(ctx, args).await,
        Command::Run(args) => run_pod::run(ctx, args).await,
        Command::Expose(args) => expose::run(ctx, args).await,
        Command::Cp(args) => cp::run(ctx, args).await,
        Command::Cordon(args) => drain::cordon(ctx, args, true).await,
        Command::Uncordon(args) => drain::cordon(ctx, args, false).await,
        Command::Drain(args) => drain::drain(ctx, args).await,
        Command::Taint(args) => drain::taint(ctx, args).await,
        Command::Image(args) => image::run(ctx, args).await,
        Command::Completion(args) => completion::run(args),
        Command::Edit(args) => editor::run(ctx, args).await,
        Command::Events(args) => events::run(ctx, args).await,
        Command::Top(args) => top::run(ctx, args).await,
        Command::Certificate(args) => certificate::run(ctx, args).await,
        Command::Kustomize(args) => manifest::print_kustomization(args),
        Command::Delete(args) => delete::run(ctx, args).await,
        Command::Label(args) => edit::mark(ctx, args, edit::Kind::Labels).await,
        Command::Annotate(args) => edit::mark(ctx, args, edit::Kind::Annotations).await,
        Command::Patch(args) => edit::patch(ctx, args).await,
        Command::Scale(args) => scale::scale(ctx, args).await,
        Command::Autoscale(args) => scale::autoscale(ctx, args).await,
        Command::Set(args) => set::run(ctx, args).await,
        Command::Rollout(args) => rollout::run(ctx, args).await,
        Command::Explain(args) => explain::run(ctx, args).await,
        Command::ApiResources(args) => info::api_resources(ctx, args).await,
        Command::ApiVersions => info::api_versions(ctx).await,
        Command::ClusterInfo => info::cluster_info(ctx).await,
        Command::Version(args) => info::version(Some(ctx), args).await,
        Command::Auth(args) => info::auth(ctx, args).await,
        Command::Config(args) => config::run(&cli.global, args),
    }
}

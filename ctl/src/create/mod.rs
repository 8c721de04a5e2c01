//! `ctl create`: objects from manifests, or made from a few flags.

pub mod objects;

use std::process::ExitCode;

use anyhow::{Result, anyhow};
use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use crate::apply::{located, namespace_of};
use crate::context::{Ctx, duration, with_query};
use crate::get::object_name;
use crate::manifest;
use crate::print::{Format, document};
use crate::resources::Resources;
use objects::{Data, Rule};

/// Who owns the fields of created objects.
const MANAGER: &str = "ctl-create";

#[derive(Args)]
#[command(args_conflicts_with_subcommands = false, subcommand_negates_reqs = true)]
pub struct Create {
    #[command(subcommand)]
    pub what: Option<What>,
    /// Files, directories, or - for standard input
    #[arg(long, short = 'f', value_name = "FILE")]
    pub filename: Vec<String>,
    #[arg(long, short = 'R')]
    pub recursive: bool,
    /// strict, warn or ignore
    #[arg(long, value_name = "MODE", default_value = "strict", num_args = 0..=1, default_missing_value = "strict")]
    pub validate: String,
    #[command(flatten)]
    pub common: Common,
}

/// Flags of everything that creates.
#[derive(Args, Clone, Default)]
pub struct Common {
    /// none, server, or client
    #[arg(long, global = true, value_name = "MODE", default_value = "none", num_args = 0..=1, default_missing_value = "client")]
    pub dry_run: String,
    /// name, yaml, json, jsonpath=...
    #[arg(long, short = 'o', global = true, value_name = "FORMAT")]
    pub output: Option<String>,
}

#[derive(Subcommand)]
pub enum What {
    /// A namespace
    #[command(visible_alias = "ns")]
    Namespace { name: String },
    /// A config map from files or values
    #[command(visible_alias = "cm")]
    Configmap {
        name: String,
        #[command(flatten)]
        data: Data,
    },
    /// A secret
    Secret {
        #[command(subcommand)]
        kind: SecretKind,
    },
    /// A deployment
    #[command(visible_alias = "deploy")]
    Deployment {
        name: String,
        #[arg(long, required = true, value_delimiter = ',')]
        image: Vec<String>,
        #[arg(long, short = 'r', default_value_t = 1)]
        replicas: u32,
        #[arg(long)]
        port: Option<u16>,
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// A service
    #[command(visible_alias = "svc")]
    Service {
        #[command(subcommand)]
        kind: ServiceKind,
    },
    /// A service account
    #[command(visible_alias = "sa")]
    Serviceaccount { name: String },
    /// A token for a service account
    Token {
        name: String,
        #[arg(long, value_parser = duration)]
        duration: Option<std::time::Duration>,
        #[arg(long)]
        audience: Vec<String>,
    },
    /// A job
    Job {
        name: String,
        #[arg(long)]
        image: Option<String>,
        /// cronjob/NAME to take the job from
        #[arg(long)]
        from: Option<String>,
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// A cron job
    #[command(visible_alias = "cj")]
    Cronjob {
        name: String,
        #[arg(long, required = true)]
        image: String,
        #[arg(long, required = true)]
        schedule: String,
        #[arg(long, default_value = "OnFailure")]
        restart: String,
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// A role
    Role {
        name: String,
        #[command(flatten)]
        rule: Rule,
    },
    /// A cluster role
    Clusterrole {
        name: String,
        #[command(flatten)]
        rule: Rule,
    },
    /// A role binding
    Rolebinding {
        name: String,
        #[command(flatten)]
        subjects: objects::Subjects,
    },
    /// A cluster role binding
    Clusterrolebinding {
        name: String,
        #[command(flatten)]
        subjects: objects::Subjects,
    },
}

#[derive(Subcommand)]
pub enum SecretKind {
    /// From files or values
    Generic {
        name: String,
        #[command(flatten)]
        data: Data,
        #[arg(long = "type")]
        kind: Option<String>,
    },
    /// A certificate and its key
    Tls {
        name: String,
        #[arg(long, required = true)]
        cert: String,
        #[arg(long, required = true)]
        key: String,
    },
    /// Credentials for an image registry
    DockerRegistry {
        name: String,
        #[arg(long, default_value = "https://index.docker.io/v1/")]
        docker_server: String,
        #[arg(long, required = true)]
        docker_username: String,
        #[arg(long, required = true)]
        docker_password: String,
        #[arg(long, default_value = "")]
        docker_email: String,
    },
}

#[derive(Subcommand)]
pub enum ServiceKind {
    Clusterip(objects::ServicePorts),
    Nodeport(objects::ServicePorts),
    Loadbalancer(objects::ServicePorts),
    Externalname {
        name: String,
        #[arg(long, required = true)]
        external_name: String,
    },
}

/// Runs the command.
///
/// # Errors
/// What is wrong with the arguments or manifests, or the server's answer.
pub async fn run(ctx: &Ctx, args: &Create) -> Result<ExitCode> {
    let resources = Resources::discover(ctx).await?;
    let Some(what) = &args.what else {
        return from_files(ctx, args, &resources).await;
    };
    if let What::Token {
        name,
        duration,
        audience,
    } = what
    {
        return token(ctx, name, *duration, audience).await;
    }
    let object = match what {
        What::Job {
            name, from: Some(from), ..
        } => {
            let cron = crate::pods::named(ctx, from).await?;
            objects::job_from(name, &cron)
        }
        other => made(other, &resources)?,
    };
    send(ctx, &resources, object, &args.common).await
}

async fn from_files(ctx: &Ctx, args: &Create, resources: &Resources) -> Result<ExitCode> {
    let format = Format::parse(args.common.output.as_deref())?;
    let mut code = ExitCode::SUCCESS;
    for manifest in manifest::read(&args.filename, args.recursive)? {
        let resource = resources.of_kind(manifest.text("/apiVersion"), manifest.text("/kind"))?;
        let namespace = namespace_of(ctx, &manifest)?;
        if args.common.dry_run == "client" {
            show(&manifest.object, "created", &format, &args.common);
            continue;
        }
        let validation = match args.validate.as_str() {
            "true" | "strict" => "Strict",
            "false" | "ignore" => "Ignore",
            _ => "Warn",
        };
        let dry_run = (args.common.dry_run == "server").then_some("All");
        let query = [
            ("fieldManager", Some(MANAGER)),
            ("dryRun", dry_run),
            ("fieldValidation", Some(validation)),
        ];
        let path = with_query(&resource.collection(Some(&namespace)), &query);
        match ctx.call(Method::POST, &path, &[], Some(&manifest.object)).await {
            Ok(object) => show(&object, "created", &format, &args.common),
            Err(error) => {
                eprintln!("{}", crate::context::error_text(&located(error, &manifest)));
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

/// Creates one object in the namespace in use and says so.
///
/// # Errors
/// The server's answer.
pub async fn send(ctx: &Ctx, resources: &Resources, mut object: Value, common: &Common) -> Result<ExitCode> {
    let format = Format::parse(common.output.as_deref())?;
    let text = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
    let resource = resources.of_kind(&text("apiVersion"), &text("kind"))?;
    if resource.namespaced && ctx.namespace_given {
        object["metadata"]["namespace"] = ctx.namespace.clone().into();
    }
    if common.dry_run != "client" {
        let dry_run = (common.dry_run == "server").then_some("All");
        let query = [
            ("fieldManager", Some(MANAGER)),
            ("dryRun", dry_run),
            ("fieldValidation", Some("Strict")),
        ];
        let path = with_query(&resource.collection(Some(&ctx.namespace)), &query);
        object = ctx.call(Method::POST, &path, &[], Some(&object)).await?;
    }
    show(&object, "created", &format, common);
    Ok(ExitCode::SUCCESS)
}

fn show(object: &Value, done: &str, format: &Format, common: &Common) {
    match format {
        Format::Name => println!("{}", object_name(object)),
        Format::Json => print!("{}", document(object, false, false)),
        Format::Yaml => print!("{}", document(object, true, false)),
        Format::JsonPath(template) => println!("{}", template.render(object)),
        _ => {
            let suffix = match common.dry_run.as_str() {
                "server" => " (server dry run)",
                "client" => " (dry run)",
                _ => "",
            };
            println!("{} {done}{suffix}", object_name(object));
        }
    }
}

async fn token(ctx: &Ctx, name: &str, duration: Option<std::time::Duration>, audience: &[String]) -> Result<ExitCode> {
    let mut spec = json!({});
    if let Some(duration) = duration {
        spec["expirationSeconds"] = duration.as_secs().into();
    }
    if !audience.is_empty() {
        spec["audiences"] = json!(audience);
    }
    let path = format!(
        "/api/v1/namespaces/{}/serviceaccounts/{}/token",
        ctx.namespace,
        crate::context::encode(name)
    );
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    let answer = ctx.call(Method::POST, &path, &[], Some(&body)).await?;
    let token = answer
        .pointer("/status/token")
        .and_then(Value::as_str)
        .ok_or_else(|| anyhow!("the server gave no token"))?;
    println!("{token}");
    Ok(ExitCode::SUCCESS)
}

fn made(what: &What, resources: &Resources) -> Result<Value> {
    Ok(match what {
        What::Namespace { name } => json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
        What::Configmap { name, data } => objects::config_map(name, data)?,
        What::Secret { kind } => match kind {
            SecretKind::Generic { name, data, kind } => objects::secret(name, data, kind.as_deref())?,
            SecretKind::Tls { name, cert, key } => objects::tls_secret(name, cert, key)?,
            SecretKind::DockerRegistry {
                name,
                docker_server,
                docker_username,
                docker_password,
                docker_email,
            } => objects::registry_secret(name, docker_server, docker_username, docker_password, docker_email),
        },
        What::Deployment {
            name,
            image,
            replicas,
            port,
            command,
        } => objects::deployment(name, image, *replicas, *port, command)?,
        What::Service { kind } => match kind {
            ServiceKind::Clusterip(ports) => objects::service("ClusterIP", ports)?,
            ServiceKind::Nodeport(ports) => objects::service("NodePort", ports)?,
            ServiceKind::Loadbalancer(ports) => objects::service("LoadBalancer", ports)?,
            ServiceKind::Externalname { name, external_name } => json!({"apiVersion": "v1", "kind": "Service",
                "metadata": {"name": name, "labels": {"app": name}},
                "spec": {"type": "ExternalName", "externalName": external_name, "selector": {"app": name}}}),
        },
        What::Serviceaccount { name } => {
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})
        }
        What::Job {
            name, image, command, ..
        } => {
            let image = image
                .as_deref()
                .ok_or_else(|| anyhow!("either --image or --from must be specified"))?;
            json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": objects::job_spec(name, image, command, "Never")})
        }
        What::Cronjob {
            name,
            image,
            schedule,
            restart,
            command,
        } => json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": name},
            "spec": {"schedule": schedule, "jobTemplate": {"metadata": {"name": name}, "spec": objects::job_spec(name, image, command, restart)}}}),
        What::Role { name, rule } => objects::role("Role", name, rule, resources)?,
        What::Clusterrole { name, rule } => objects::role("ClusterRole", name, rule, resources)?,
        What::Rolebinding { name, subjects } => objects::binding("RoleBinding", name, subjects)?,
        What::Clusterrolebinding { name, subjects } => objects::binding("ClusterRoleBinding", name, subjects)?,
        What::Token { .. } => Value::Null,
    })
}

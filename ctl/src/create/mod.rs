//! `ctl create`: objects from manifests, or made from a few flags.

pub mod hash;
pub mod objects;
mod policies;

use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::{Args, Subcommand};
use coxswain_api::codec::go_form;
use coxswain_api::registry::type_name;
use http::Method;
use serde_json::{Value, json};

use crate::apply::{located, namespace_of};
use crate::change::{Change, Validation};
use crate::context::{Ctx, duration};
use crate::get::object_name;
use crate::manifest::Files;
use crate::resources::{Resource, Resources};
use objects::{Data, Rule};

/// Who owns the fields of created objects.
const MANAGER: &str = "ctl-create";

#[derive(Args)]
#[command(args_conflicts_with_subcommands = false, subcommand_negates_reqs = true)]
pub struct Create {
    #[command(subcommand)]
    pub what: Option<What>,
    #[command(flatten)]
    pub files: Files,
    /// Post the file as it is to this path of the server
    #[arg(long, value_name = "PATH")]
    pub raw: Option<String>,
    /// Only objects with these labels
    #[arg(long, short = 'l')]
    pub selector: Option<String>,
    #[command(flatten)]
    pub validation: Validation,
    #[command(flatten)]
    pub change: Change,
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
        /// The name ends with a hash of the contents
        #[arg(long)]
        append_hash: bool,
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
    Token(Token),
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
    /// An ingress
    #[command(visible_alias = "ing")]
    Ingress(policies::Ingress),
    /// A disruption budget
    #[command(visible_alias = "pdb", name = "poddisruptionbudget")]
    Budget(policies::Budget),
    /// A priority class
    #[command(visible_alias = "pc", name = "priorityclass")]
    Priority(policies::Priority),
    /// A resource quota
    #[command(visible_alias = "resourcequota")]
    Quota(policies::Quota),
    /// A role
    Role {
        name: String,
        #[command(flatten)]
        rule: Rule,
    },
    /// A cluster role
    Clusterrole {
        name: String,
        /// KEY=VALUE,... of the cluster roles whose rules it collects
        #[arg(long)]
        aggregation_rule: Option<String>,
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
        #[arg(long)]
        append_hash: bool,
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
        #[arg(long, required_unless_present = "from_file")]
        docker_username: Option<String>,
        #[arg(long, required_unless_present = "from_file")]
        docker_password: Option<String>,
        /// A finished .dockerconfigjson, as FILE or .dockerconfigjson=FILE
        #[arg(long)]
        from_file: Option<String>,
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
        /// PORT[:TARGET]
        #[arg(long, value_delimiter = ',', value_name = "PORT[:TARGET]")]
        tcp: Vec<String>,
    },
}

#[derive(Args)]
pub struct Token {
    pub name: String,
    #[arg(long, value_parser = duration)]
    pub duration: Option<std::time::Duration>,
    #[arg(long)]
    pub audience: Vec<String>,
    /// The token ends with this object: Pod, Secret or Node
    #[arg(long, value_parser = ["Pod", "Secret", "Node"])]
    pub bound_object_kind: Option<String>,
    #[arg(long, requires = "bound_object_kind")]
    pub bound_object_name: Option<String>,
    #[arg(long, requires = "bound_object_kind")]
    pub bound_object_uid: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// What is wrong with the arguments or manifests, or the server's answer.
pub async fn run(ctx: &Ctx, args: &Create) -> Result<ExitCode> {
    let Some(what) = &args.what else {
        return from_files(ctx, args).await;
    };
    let resources = Resources::discover(ctx).await?;
    let object = match what {
        What::Token(token) => return self::token(ctx, token, &args.change).await,
        What::Job {
            name, from: Some(from), ..
        } => {
            let cron = crate::pods::named(ctx, from).await?;
            objects::job_from(name, &cron)
        }
        other => made(other, &resources)?,
    };
    send(ctx, &resources, object, &args.change, MANAGER).await
}

async fn from_files(ctx: &Ctx, args: &Create) -> Result<ExitCode> {
    if let Some(path) = &args.raw {
        let [file] = args.files.filename.as_slice() else {
            bail!("--raw can only use a single local file or stdin");
        };
        let body = if file == "-" {
            std::io::read_to_string(std::io::stdin())?
        } else {
            std::fs::read_to_string(file).with_context(|| format!("open {file}"))?
        };
        let headers = [("content-type", "application/yaml")];
        print!("{}", ctx.text(Method::POST, path, &headers, body.into_bytes()).await?);
        return Ok(ExitCode::SUCCESS);
    }
    let mut manifests = args.files.read()?;
    crate::apply::keep_selected(&mut manifests, args.selector.as_deref())?;
    let resources = Resources::discover(ctx).await?;
    let printer = args.change.printer()?;
    let mut code = ExitCode::SUCCESS;
    for manifest in manifests {
        let created = async {
            let resource = resources
                .of_kind(manifest.text("/apiVersion"), manifest.text("/kind"))
                .map_err(|error| anyhow!("{}: {error}", manifest.place("kind")))?;
            let namespace = namespace_of(ctx, &manifest)?;
            if args.change.client_only() {
                return Ok(manifest.object.clone());
            }
            let path = args.change.query(&resource.path(Some(&namespace)), MANAGER);
            let path = format!("{path}&fieldValidation={}", args.validation.parameter());
            ctx.call(Method::POST, &path, &[], Some(&manifest.object))
                .await
                .map_err(|error| located(error, &manifest))
        };
        match created.await {
            Ok(object) => printer.done(&object_name(&object), "created", &object)?,
            Err(error) => {
                eprintln!("{}", crate::context::error_text(&error));
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
pub async fn send(ctx: &Ctx, resources: &Resources, object: Value, change: &Change, manager: &str) -> Result<ExitCode> {
    let printer = change.printer()?;
    let text = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
    let resource = resources.of_kind(&text("apiVersion"), &text("kind"))?;
    let object = made_or_planned(ctx, resource, object, change, manager).await?;
    printer.done(&object_name(&object), "created", &object)?;
    Ok(ExitCode::SUCCESS)
}

/// Creates one object in the namespace in use; with `--dry-run=client` only completes it as Go would print it.
///
/// # Errors
/// The server's answer.
pub async fn made_or_planned(
    ctx: &Ctx,
    resource: &Resource,
    mut object: Value,
    change: &Change,
    manager: &str,
) -> Result<Value> {
    if resource.namespaced && ctx.namespace_given {
        object["metadata"]["namespace"] = ctx.namespace.clone().into();
    }
    if change.client_only() {
        if let Some(name) = type_name(&resource.group, &resource.version, &resource.kind) {
            go_form(&mut object, name);
        }
        return Ok(object);
    }
    let path = change.query(&resource.path(Some(&ctx.namespace)), manager);
    let path = format!("{path}&fieldValidation=Strict");
    ctx.call(Method::POST, &path, &[], Some(&object)).await
}

async fn token(ctx: &Ctx, args: &Token, change: &Change) -> Result<ExitCode> {
    let mut spec = json!({});
    if let Some(duration) = args.duration {
        spec["expirationSeconds"] = duration.as_secs().into();
    }
    if !args.audience.is_empty() {
        spec["audiences"] = json!(args.audience);
    }
    if let Some(kind) = &args.bound_object_kind {
        let name = args
            .bound_object_name
            .as_ref()
            .ok_or_else(|| anyhow!("--bound-object-name is required if --bound-object-kind is provided"))?;
        spec["boundObjectRef"] = json!({"apiVersion": "v1", "kind": kind, "name": name});
        if let Some(uid) = &args.bound_object_uid {
            spec["boundObjectRef"]["uid"] = uid.as_str().into();
        }
    }
    let path = format!(
        "/api/v1/namespaces/{}/serviceaccounts/{}/token",
        ctx.namespace,
        crate::context::encode(&args.name)
    );
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    let answer = ctx.call(Method::POST, &path, &[], Some(&body)).await?;
    if change.output.is_some() {
        change.printer()?.done(&args.name, "created", &answer)?;
        return Ok(ExitCode::SUCCESS);
    }
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
        What::Configmap {
            name,
            append_hash,
            data,
        } => hash::named(objects::config_map(name, data)?, *append_hash),
        What::Secret { kind } => match kind {
            SecretKind::Generic {
                name,
                data,
                kind,
                append_hash,
            } => hash::named(objects::secret(name, data, kind.as_deref())?, *append_hash),
            SecretKind::Tls { name, cert, key } => objects::tls_secret(name, cert, key)?,
            SecretKind::DockerRegistry {
                name,
                docker_server,
                docker_username,
                docker_password,
                docker_email,
                from_file,
            } => {
                let login = [docker_username, docker_password].map(|word| word.as_deref().unwrap_or_default());
                objects::registry_secret(name, docker_server, login, docker_email, from_file.as_deref())?
            }
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
            ServiceKind::Externalname {
                name,
                external_name,
                tcp,
            } => objects::external_name(name, external_name, tcp)?,
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
        What::Clusterrole {
            name,
            aggregation_rule: Some(labels),
            ..
        } => json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name},
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": crate::expose::pairs(labels)?}]}, "rules": null}),
        What::Clusterrole { name, rule, .. } => objects::role("ClusterRole", name, rule, resources)?,
        What::Ingress(args) => policies::ingress(args)?,
        What::Budget(args) => policies::budget(args)?,
        What::Priority(args) => policies::priority(args),
        What::Quota(args) => policies::quota(args)?,
        What::Rolebinding { name, subjects } => objects::binding("RoleBinding", name, subjects)?,
        What::Clusterrolebinding { name, subjects } => objects::binding("ClusterRoleBinding", name, subjects)?,
        What::Token(_) => Value::Null,
    })
}

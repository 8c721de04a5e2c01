//! `ctl expose`: a Service in front of pods or a workload.

use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::change::Change;
use crate::context::Ctx;
use crate::manifest::Files;
use crate::pods::{list, text};
use crate::resources::Resources;
use crate::targets::Which;

#[derive(Args)]
pub struct Expose {
    /// TYPE NAME or TYPE/NAME
    #[arg(value_name = "TYPE[/NAME]")]
    pub what: Vec<String>,
    #[command(flatten)]
    pub files: Files,
    /// The Service's ports
    #[arg(long, value_delimiter = ',')]
    pub port: Vec<u16>,
    /// The container's port, by number or name
    #[arg(long)]
    pub target_port: Option<String>,
    #[arg(long)]
    pub protocol: Option<String>,
    /// The Service's name
    #[arg(long)]
    pub name: Option<String>,
    /// ClusterIP, NodePort, LoadBalancer
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Option<String>,
    #[arg(long)]
    pub cluster_ip: Option<String>,
    #[arg(long)]
    pub external_ip: Option<String>,
    #[arg(long)]
    pub load_balancer_ip: Option<String>,
    #[arg(long)]
    pub session_affinity: Option<String>,
    /// KEY=VALUE,... for the Service itself
    #[arg(long, short = 'l')]
    pub labels: Option<String>,
    /// KEY=VALUE,... of the pods
    #[arg(long)]
    pub selector: Option<String>,
    /// A JSON merge patch for the Service
    #[arg(long)]
    pub overrides: Option<String>,
    #[command(flatten)]
    pub change: Change,
}

/// Runs the command.
///
/// # Errors
/// What is missing, or the server's answer.
pub async fn run(ctx: &Ctx, args: &Expose) -> Result<ExitCode> {
    let resources = Resources::discover(ctx).await?;
    let which = Which {
        files: args.files.clone(),
        ..Which::default()
    };
    let found = which.objects(ctx, &resources, &args.what, false).await?;
    let services = resources.find("services")?;
    let printer = args.change.printer()?;
    let mut failed = found.failed;
    for (_, object) in &found.objects {
        let exposed = async {
            let service = service(args, object)?;
            crate::create::made_or_planned(ctx, services, service, &args.change, "ctl-expose").await
        };
        match exposed.await {
            Ok(made) => printer.changed(services, "exposed", &made)?,
            Err(error) if found.objects.len() == 1 => return Err(error),
            Err(error) => {
                eprintln!("{}", crate::context::error_text(&error));
                failed = true;
            }
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// `KEY=VALUE,...` as a map.
///
/// # Errors
/// When a word has no equal sign.
pub fn pairs(words: &str) -> Result<Value> {
    let pair = |word: &str| {
        word.split_once('=')
            .map(|(key, value)| (key.to_owned(), Value::from(value)))
    };
    let map: Option<serde_json::Map<String, Value>> = words.split(',').map(pair).collect();
    map.map(Value::Object)
        .ok_or_else(|| anyhow!("\"{words}\" is not KEY=VALUE,..."))
}

fn service(args: &Expose, object: &Value) -> Result<Value> {
    let kind = text(object, "/kind");
    let found = match kind {
        "Pod" => object.pointer("/metadata/labels"),
        "Service" | "ReplicationController" => object.pointer("/spec/selector"),
        "Deployment" | "ReplicaSet" | "StatefulSet" => {
            if !list(object, "/spec/selector/matchExpressions").is_empty() {
                bail!(
                    "couldn't retrieve selectors via --selector flag or introspection: cannot convert expressions to a plain selector"
                );
            }
            object.pointer("/spec/selector/matchLabels")
        }
        _ => bail!("cannot expose a {kind}"),
    };
    let selector = match &args.selector {
        Some(words) => pairs(words)?,
        None => found
            .filter(|map| map.as_object().is_some_and(|map| !map.is_empty()))
            .cloned()
            .ok_or_else(|| anyhow!("couldn't retrieve selectors via --selector flag or introspection: the {} has no labels and cannot be exposed", kind.to_lowercase()))?,
    };
    let target = |port: Value| {
        args.target_port.as_ref().map_or(port, |word| {
            word.parse::<u16>().map_or_else(|_| word.as_str().into(), Value::from)
        })
    };
    let row = |port: Value, protocol: &str| json!({"protocol": args.protocol.as_deref().unwrap_or(protocol), "port": port, "targetPort": target(port.clone())});
    let mut ports: Vec<Value> = match args.port.as_slice() {
        given @ [_, ..] => given.iter().map(|port| row((*port).into(), "TCP")).collect(),
        [] if kind == "Service" => list(object, "/spec/ports")
            .iter()
            .map(|port| row(port["port"].clone(), text(port, "/protocol")))
            .collect(),
        [] => {
            let containers = if kind == "Pod" {
                list(object, "/spec/containers")
            } else {
                list(object, "/spec/template/spec/containers")
            };
            let found = containers.iter().flat_map(|container| list(container, "/ports"));
            found
                .map(|port| {
                    row(
                        port["containerPort"].clone(),
                        if text(port, "/protocol").is_empty() {
                            "TCP"
                        } else {
                            text(port, "/protocol")
                        },
                    )
                })
                .collect()
        }
    };
    if ports.is_empty() {
        bail!("couldn't find port via --port flag or introspection");
    }
    if ports.len() > 1 {
        for (position, port) in ports.iter_mut().enumerate() {
            port["name"] = format!("port-{}", position + 1).into();
        }
    }
    let mut spec = json!({"selector": selector, "ports": ports});
    let flags = [
        ("type", &args.kind),
        ("clusterIP", &args.cluster_ip),
        ("loadBalancerIP", &args.load_balancer_ip),
        ("sessionAffinity", &args.session_affinity),
    ];
    for (key, value) in flags {
        if let Some(value) = value {
            spec[key] = value.clone().into();
        }
    }
    if let Some(ip) = &args.external_ip {
        spec["externalIPs"] = json!([ip]);
    }
    let name = args.name.as_deref().unwrap_or_else(|| text(object, "/metadata/name"));
    let mut metadata = json!({"name": name});
    let labels = match &args.labels {
        Some(words) => Some(pairs(words)?),
        None => object.pointer("/metadata/labels").cloned(),
    };
    if let Some(labels) = labels {
        metadata["labels"] = labels;
    }
    let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec});
    if let Some(overrides) = &args.overrides {
        let patch: Value = serde_json::from_str(overrides).context("--overrides")?;
        coxswain_api::patch::merge_patch(&mut service, &patch)?;
    }
    Ok(service)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(port: Option<u16>) -> Expose {
        Expose {
            what: Vec::new(),
            files: Files::default(),
            port: port.into_iter().collect(),
            target_port: Some("web".into()),
            protocol: None,
            name: None,
            kind: Some("NodePort".into()),
            cluster_ip: None,
            external_ip: None,
            load_balancer_ip: None,
            session_affinity: None,
            labels: None,
            selector: None,
            overrides: None,
            change: Change::default(),
        }
    }

    #[test]
    fn a_service_from_a_deployment() {
        let object = json!({"kind": "Deployment", "metadata": {"name": "d", "labels": {"l": "1"}},
            "spec": {"selector": {"matchLabels": {"app": "d"}}, "template": {"spec": {"containers": [{"ports": [{"containerPort": 80}]}]}}}});
        let expected = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "d", "labels": {"l": "1"}},
            "spec": {"type": "NodePort", "selector": {"app": "d"}, "ports": [{"port": 80, "targetPort": "web", "protocol": "TCP"}]}});
        assert_eq!(service(&args(None), &object).expect("a service"), expected);
        let bare = json!({"kind": "Pod", "metadata": {"name": "p"}, "spec": {}});
        assert!(
            service(&args(Some(1)), &bare)
                .expect_err("no labels")
                .to_string()
                .contains("the pod has no labels")
        );
    }
}

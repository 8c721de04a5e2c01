//! The Node object and its Lease: who this machine is, what it has, and that it is alive.
//!
//! Writes the Node's labels, addresses, capacity, conditions and images, and renews the Lease in
//! `kube-node-lease` every ten seconds. The status is written when it changes and every five minutes.
//! It does not touch taints, the pod range or conditions that others own.

#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss
    )
)]

pub mod capacity;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use coxswain_client::{Cache, Client, Failure, Scope, failure};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::cri::v1::{ListImagesRequest, VersionRequest};
use crate::runtime::Cri;
use crate::{AgentError, Config};
use capacity::Machine;

/// One that was deleted is back within ten seconds.
const LEASE_PERIOD: Duration = Duration::from_secs(9);
const LEASE_SECONDS: i32 = 40;
/// How long a new node waits for its range of pod addresses.
const CIDR_WITHIN: Duration = Duration::from_secs(30);
const STATUS_PERIOD: Duration = Duration::from_secs(300);
const IMAGES_MAX: usize = 50;

/// What the Node object is made from.
#[derive(Clone)]
pub struct Identity {
    /// The node's name.
    pub name: String,
    /// Its address.
    pub ip: IpAddr,
    /// Port of the kubelet-style server.
    pub port: u16,
    /// Range of its pods.
    pub pod_cidr: String,
    /// Topology zone.
    pub zone: Option<String>,
    /// Most pods.
    pub max_pods: Option<u32>,
    /// The machine.
    pub machine: Machine,
}

fn labels(identity: &Identity) -> BTreeMap<&'static str, String> {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let mut labels = BTreeMap::from([
        ("kubernetes.io/hostname", identity.name.clone()),
        ("kubernetes.io/os", "linux".to_string()),
        ("kubernetes.io/arch", arch.to_string()),
        ("beta.kubernetes.io/os", "linux".to_string()),
        ("beta.kubernetes.io/arch", arch.to_string()),
    ]);
    if let Some(zone) = &identity.zone {
        labels.insert("topology.kubernetes.io/zone", zone.clone());
    }
    labels
}

/// The version nodes report.
pub fn version() -> String {
    format!("v1.36.2-coxswain.{}", env!("CARGO_PKG_VERSION"))
}

/// The Node's status; times of conditions that did not change are kept from the old one.
pub fn status(
    identity: &Identity,
    runtime: &str,
    images: Value,
    old: &Value,
    problem: Option<&str>,
    now: Timestamp,
) -> Value {
    let machine = &identity.machine;
    let at = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let conditions: Vec<Value> = conditions(problem)
        .into_iter()
        .map(|(kind, holds, reason, message)| {
            let status = if holds { "True" } else { "False" };
            let before = old["conditions"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|c| c["type"] == kind);
            let since = before
                .filter(|condition| condition["status"] == status)
                .and_then(|condition| condition["lastTransitionTime"].as_str())
                .unwrap_or(&at);
            json!({"type": kind, "status": status, "reason": reason, "message": message,
                "lastHeartbeatTime": at, "lastTransitionTime": since})
        })
        .collect();
    json!({
        "addresses": [
            {"type": "InternalIP", "address": identity.ip.to_string()},
            {"type": "Hostname", "address": identity.name},
        ],
        "capacity": machine.capacity(identity.max_pods),
        "allocatable": machine.allocatable(identity.max_pods),
        "conditions": conditions,
        "daemonEndpoints": {"kubeletEndpoint": {"Port": identity.port}},
        "images": images,
        "nodeInfo": {
            "architecture": labels(identity)["kubernetes.io/arch"],
            "bootID": machine.boot_id, "machineID": machine.machine_id, "systemUUID": machine.system_uuid,
            "kernelVersion": machine.kernel, "osImage": machine.os_image, "operatingSystem": "linux",
            "containerRuntimeVersion": runtime, "kubeletVersion": version(), "kubeProxyVersion": "",
        },
    })
}

fn conditions(problem: Option<&str>) -> Vec<(&'static str, bool, &'static str, String)> {
    let calm = |kind, reason, message: &str| (kind, false, reason, message.to_string());
    let ready = match problem {
        None => (
            "Ready",
            true,
            "KubeletReady",
            "kubelet is posting ready status".to_string(),
        ),
        Some(problem) => ("Ready", false, "KubeletNotReady", problem.to_string()),
    };
    vec![
        calm(
            "MemoryPressure",
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available",
        ),
        calm(
            "DiskPressure",
            "KubeletHasNoDiskPressure",
            "kubelet has no disk pressure",
        ),
        calm(
            "PIDPressure",
            "KubeletHasSufficientPID",
            "kubelet has sufficient PID available",
        ),
        ready,
    ]
}

async fn images(runtime: &Cri) -> Value {
    let Ok(response) = runtime.images().list_images(ListImagesRequest::default()).await else {
        return json!([]);
    };
    let mut images = response.into_inner().images;
    images.sort_by_key(|image| std::cmp::Reverse(image.size));
    let list = images.into_iter().take(IMAGES_MAX).map(|image| {
        let names: Vec<String> = image.repo_digests.into_iter().chain(image.repo_tags).take(5).collect();
        json!({"names": names, "sizeBytes": image.size})
    });
    Value::Array(
        list.filter(|image| image["names"].as_array().is_some_and(|names| !names.is_empty()))
            .collect(),
    )
}

/// Creates the Node object or takes over the one that is there; tries until it succeeds.
pub async fn register(
    client: &Client,
    identity: &Identity,
    runtime: &Cri,
    token: &CancellationToken,
) -> Result<(), AgentError> {
    let api = client.api::<Node>();
    let body = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": identity.name, "labels": labels(identity),
            "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}},
        "spec": {"podCIDR": identity.pod_cidr, "podCIDRs": [identity.pod_cidr]},
    });
    let node: Node = serde_json::from_value(body.clone()).map_err(|error| AgentError::Node(error.to_string()))?;
    loop {
        let problem = match api.create(&PostParams::default(), &node).await {
            Ok(_) => break,
            Err(error) if failure(&error) == Failure::AlreadyExists => {
                let labels = json!({"metadata": {"labels": labels(identity)}});
                match api
                    .patch(&identity.name, &PatchParams::default(), &Patch::Merge(labels))
                    .await
                {
                    Ok(_) => break,
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        if matches!(failure(&problem), Failure::Invalid | Failure::Forbidden) {
            return Err(AgentError::Node(crate::pods::events::sentence(&problem)));
        }
        tracing::warn!(error = %problem, "registering the node");
        tokio::select! {
            () = token.cancelled() => return Ok(()),
            () = tokio::time::sleep(Duration::from_millis(300)) => {}
        }
    }
    report(client, identity, runtime)
        .await
        .map_err(|error| AgentError::Node(crate::pods::events::sentence(&error)))
}

/// The range of the node's pods: the configured one, or the one that the cluster gives to the Node, which is
/// created for that if need be.
pub async fn pod_cidr(config: &Config, token: &CancellationToken) -> Result<String, AgentError> {
    if !config.pod_cidr.is_empty() {
        return Ok(config.pod_cidr.clone());
    }
    let of = |node: &Node| node.spec.as_ref().and_then(|spec| spec.pod_cidr.clone());
    let name = config.node_name.clone();
    let scope = Scope::fields(&format!("metadata.name={name}"));
    let watching = token.child_token();
    let nodes = Cache::<Node>::spawn(&config.client, scope, watching.clone());
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
    let node: Node = serde_json::from_value(node).map_err(|error| AgentError::Node(error.to_string()))?;
    match config.client.api::<Node>().create(&PostParams::default(), &node).await {
        Err(error) if failure(&error) != Failure::AlreadyExists => {
            return Err(AgentError::Node(crate::pods::events::sentence(&error)));
        }
        _ => {}
    }
    let given = nodes
        .until(CIDR_WITHIN, |nodes| nodes.list().iter().any(|node| of(node).is_some()))
        .await;
    let cidr = nodes.list().first().and_then(|node| of(node)).filter(|_| given);
    watching.cancel();
    cidr.ok_or_else(|| AgentError::Node("the cluster gave this node no range of pod addresses".into()))
}

/// Writes the Node's status now.
pub async fn report(client: &Client, identity: &Identity, runtime: &Cri) -> Result<(), kube::Error> {
    let api = client.api::<Node>();
    let old = api.get(&identity.name).await?;
    let old = serde_json::to_value(&old.status).unwrap_or_default();
    let mut service = runtime.service();
    let (name, problem) = match service.version(VersionRequest::default()).await {
        Ok(response) => {
            let version = response.into_inner();
            (format!("{}://{}", version.runtime_name, version.runtime_version), None)
        }
        Err(error) => (
            "containerd://unknown".to_string(),
            Some(format!("container runtime is down: {}", error.message())),
        ),
    };
    let images = images(runtime).await;
    let status = status(identity, &name, images, &old, problem.as_deref(), Timestamp::now());
    let body = json!({"status": status});
    api.patch_status(&identity.name, &PatchParams::default(), &Patch::Strategic(body))
        .await?;
    Ok(())
}

/// Keeps the status current until cancelled; `changed` asks for a write at once.
pub async fn keep_status(
    client: Client,
    identity: Identity,
    runtime: std::sync::Arc<Cri>,
    changed: std::sync::Arc<tokio::sync::Notify>,
    token: CancellationToken,
) {
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            () = tokio::time::sleep(STATUS_PERIOD) => {}
            () = changed.notified() => {}
        }
        if let Err(error) = report(&client, &identity, &runtime).await {
            tracing::warn!(%error, "reporting the node's status");
            tokio::time::sleep(Duration::from_secs(2)).await;
            changed.notify_one();
        }
    }
}

/// Renews the node's Lease until cancelled.
pub async fn keep_lease(client: Client, name: String, token: CancellationToken) {
    let api = client.namespaced::<Lease>("kube-node-lease");
    loop {
        let at = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
        let spec = json!({"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": at});
        let patch = json!({"spec": spec});
        let mut pause = LEASE_PERIOD;
        if let Err(error) = api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
            pause = Duration::from_millis(500);
            if failure(&error) == Failure::NotFound {
                let owner = match client.api::<Node>().get(&name).await {
                    Ok(node) => json!([{"apiVersion": "v1", "kind": "Node", "name": name, "uid": node.metadata.uid}]),
                    Err(_) => json!([]),
                };
                let lease = json!({"metadata": {"name": name, "namespace": "kube-node-lease", "ownerReferences": owner}, "spec": spec});
                if let Ok(lease) = serde_json::from_value::<Lease>(lease)
                    && api.create(&PostParams::default(), &lease).await.is_ok()
                {
                    pause = LEASE_PERIOD;
                }
            } else {
                tracing::debug!(%error, "renewing the node's lease");
            }
        }
        tokio::select! {
            () = token.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

//! Makes `kube-system/kube-dns` exist as users expect it: a Service with the cluster DNS address
//! and its EndpointSlice, which names the gateway address where DNS answers, too.
//!
//! The Service has no selector, so no controller touches the slice. Tries until it is there, then
//! ends.

use super::addresses::Addresses;
use super::endpoints::SERVICE_LABEL;
use coxswain_client::{Client, Failure, failure};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-dns";
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Creates both objects, or brings them to what they should be.
pub async fn run(client: Client, addresses: Addresses, token: CancellationToken) {
    let mut pause = RETRY_FIRST;
    while let Err(error) = ensure(&client, &addresses).await {
        tracing::debug!(%error, "kube-dns could not be created yet");
        if token.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
        pause = (pause * 2).min(RETRY_MAX);
    }
}

async fn ensure(client: &Client, addresses: &Addresses) -> Result<(), kube::Error> {
    let (service, slice) = (service(addresses), slice(addresses));
    ensure_one(&client.namespaced::<Service>(NAMESPACE), service).await?;
    ensure_one(&client.namespaced::<EndpointSlice>(NAMESPACE), slice).await
}

async fn ensure_one<K>(api: &kube::Api<K>, body: Value) -> Result<(), kube::Error>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned + serde::Serialize,
{
    let object: K = serde_json::from_value(body.clone()).map_err(kube::Error::SerdeError)?;
    match api.create(&PostParams::default(), &object).await {
        Err(error) if failure(&error) == Failure::AlreadyExists => api
            .patch(NAME, &PatchParams::default(), &Patch::Merge(&body))
            .await
            .map(|_| ()),
        other => other.map(|_| ()),
    }
}

fn labels() -> Value {
    json!({
        "k8s-app": "kube-dns",
        "kubernetes.io/cluster-service": "true",
        "kubernetes.io/name": "CoreDNS",
    })
}

fn service(addresses: &Addresses) -> Value {
    let dns = addresses.dns.to_string();
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": NAME, "namespace": NAMESPACE, "labels": labels() },
        "spec": {
            "clusterIP": dns,
            "clusterIPs": [dns],
            "ports": [
                { "name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53 },
                { "name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53 },
            ],
        },
    })
}

fn slice(addresses: &Addresses) -> Value {
    let mut labels = labels();
    labels[SERVICE_LABEL] = json!(NAME);
    labels["endpointslice.kubernetes.io/managed-by"] = json!("coxswain-agent");
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": { "name": NAME, "namespace": NAMESPACE, "labels": labels },
        "addressType": "IPv4",
        "endpoints": [{
            "addresses": [addresses.gateway().to_string()],
            "conditions": { "ready": true, "serving": true, "terminating": false },
        }],
        "ports": [
            { "name": "dns", "port": 53, "protocol": "UDP" },
            { "name": "dns-tcp", "port": 53, "protocol": "TCP" },
        ],
    })
}

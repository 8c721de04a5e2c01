//! Makes `kube-system/kube-dns` exist as users expect it: a Service with the cluster DNS address
//! and its EndpointSlice, which names the gateway address where DNS answers, too.
//!
//! The Service has no selector, so no controller touches the slice. Watches both, and brings them back.

use super::addresses::Addresses;
use super::endpoints::SERVICE_LABEL;
use coxswain_client::{Cache, Client, Failure, ObjectKey, failure};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Patch, PatchParams, PostParams};
use serde::Serialize;
use serde_json::{Value, json};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-dns";
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Creates both objects, or brings them to what they should be; again when they were deleted or changed.
pub async fn run(
    client: Client,
    addresses: Addresses,
    services: Cache<Service>,
    slices: Cache<EndpointSlice>,
    token: CancellationToken,
) {
    let (mut of_services, mut of_slices) = (services.changes(), slices.changes());
    let own = ObjectKey::new(NAMESPACE, NAME);
    let keep = async {
        loop {
            let mut pause = RETRY_FIRST;
            while let Err(error) = ensure(&client, &addresses).await {
                tracing::debug!(%error, "kube-dns could not be created yet");
                tokio::time::sleep(pause).await;
                pause = pause.saturating_mul(2).min(RETRY_MAX);
            }
            loop {
                let changed = tokio::select! {
                    change = of_services.recv() => change.map(|change| {
                        change.key == own && !is_whole(change.new.as_deref(), &service(&addresses))
                    }),
                    change = of_slices.recv() => change.map(|change| {
                        change.key == own && !is_whole(change.new.as_deref(), &slice(&addresses))
                    }),
                };
                match changed {
                    Some(true) => break,
                    Some(false) => {}
                    // The watches have ended with the token.
                    None => return,
                }
            }
            // Not faster, whatever admission makes of what is written.
            tokio::time::sleep(RETRY_FIRST).await;
        }
    };
    token.run_until_cancelled(keep).await;
}

/// Whether an object exists and says everything that it should.
fn is_whole<K: Serialize>(live: Option<&K>, wanted: &Value) -> bool {
    let live = live.and_then(|live| serde_json::to_value(live).ok());
    live.is_some_and(|live| includes(&live, wanted))
}

fn includes(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => wanted
            .iter()
            .all(|(key, wanted)| live.get(key).is_some_and(|live| includes(live, wanted))),
        (Value::Array(live), Value::Array(wanted)) => {
            live.len() == wanted.len() && live.iter().zip(wanted).all(|(live, wanted)| includes(live, wanted))
        }
        _ => live == wanted,
    }
}

async fn ensure(client: &Client, addresses: &Addresses) -> Result<(), kube::Error> {
    let (service, slice) = (service(addresses), slice(addresses));
    ensure_one(&client.namespaced::<Service>(NAMESPACE), service).await?;
    ensure_one(&client.namespaced::<EndpointSlice>(NAMESPACE), slice).await
}

async fn ensure_one<K>(api: &kube::Api<K>, body: Value) -> Result<(), kube::Error>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned + Serialize,
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

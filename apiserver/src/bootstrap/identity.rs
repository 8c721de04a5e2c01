//! The Lease in `kube-system` by which an API server tells that it is there, and where. Each server clears away the Leases
//! of those that are gone for good: the ones that have expired.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use coxswain_api::kinds::access;
use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{body_of, refused, send};
use crate::StartError;
use crate::answer::now;
use crate::shared::Shared;

const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
/// The Leases of all API servers.
pub(super) const ALL: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases?labelSelector=apiserver.kubernetes.io%2Fidentity%3Dkube-apiserver";
/// Annotation: the member of the store that the server has.
pub(super) const MEMBER: &str = "coxswain.io/member";
/// Annotation: where the server can be reached.
pub(super) const ADDRESS: &str = "coxswain.io/address";
const VALID_S: u64 = 3600;
/// Seldom, so that a server without work has next to none.
const RENEW_AFTER: Duration = Duration::from_secs(VALID_S / 3);

/// Takes the Lease and keeps it until the server stops.
pub(super) async fn keep(shared: &Arc<Shared>) -> Result<(), StartError> {
    renew(shared).await?;
    clear_away(shared).await;
    let shared = shared.clone();
    tokio::spawn(async move {
        let stopping = shared.stopping.clone();
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(RENEW_AFTER) => {}
            }
            if let Err(error) = renew(&shared).await {
                tracing::warn!(%error, "the lease of this API server was not renewed");
            }
            clear_away(&shared).await;
        }
    });
    Ok(())
}

/// Whose Lease it is, by member and address.
pub(super) fn place(lease: &Value) -> Option<(u64, SocketAddr)> {
    let annotations = access::get(access::get(lease, "metadata"), "annotations");
    let [member, address] = [MEMBER, ADDRESS].map(|name| access::str_of(annotations, name));
    Some((member.parse().ok()?, address.parse().ok()?))
}

async fn clear_away(shared: &Arc<Shared>) {
    let leases = body_of(send(shared, Method::GET, ALL, &Value::Null).await).await;
    let now = now();
    for lease in access::list(&leases, "items")
        .iter()
        .filter(|lease| is_expired(lease, now))
    {
        // Not one that its server has renewed meanwhile.
        let when = json!({"preconditions": {"resourceVersion": access::text(lease, "/metadata/resourceVersion")}});
        send(
            shared,
            Method::DELETE,
            &format!("{PATH}/{}", access::name(lease)),
            &when,
        )
        .await;
    }
}

/// One that says nothing of its time has expired too.
fn is_expired(lease: &Value, now: Timestamp) -> bool {
    let spec = access::get(lease, "spec");
    let renewed: Option<Timestamp> = access::str_of(spec, "renewTime").parse().ok();
    let (Some(renewed), Some(valid_s)) = (renewed, access::int_of(spec, "leaseDurationSeconds")) else {
        return true;
    };
    renewed.as_second().saturating_add(valid_s) < now.as_second()
}

async fn renew(shared: &Arc<Shared>) -> Result<(), StartError> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    // Several servers may share a machine, but never an address and port.
    let (address, port) = shared.config.advertise;
    let digest = Sha256::digest(format!("{host} {address} {port}"));
    let letters: String = digest.iter().take(13).map(|byte| format!("{byte:02x}")).collect();
    let name = format!("apiserver-{letters}");
    let path = format!("{PATH}/{name}");
    let stamp = now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
    let member = shared.store.cluster().borrow().me;
    let live = body_of(send(shared, Method::GET, &path, &Value::Null).await).await;
    let started = shared.started.as_millisecond();
    let mut lease = json!({
        "metadata": {
            "name": name,
            "labels": {"apiserver.kubernetes.io/identity": "kube-apiserver", "kubernetes.io/hostname": host},
            "annotations": {MEMBER: member.to_string(), ADDRESS: SocketAddr::new(address, port).to_string()},
        },
        "spec": {"holderIdentity": format!("{name}_{started}"), "leaseDurationSeconds": VALID_S, "renewTime": stamp},
    });
    let known = access::text(&live, "/metadata/name") == name;
    let (method, target) = if known {
        (Method::PUT, path.as_str())
    } else {
        (Method::POST, PATH)
    };
    let acquired = live.pointer("/spec/acquireTime").cloned().filter(|_| known);
    access::set(
        access::child(&mut lease, "spec"),
        "acquireTime",
        acquired.unwrap_or_else(|| stamp.clone().into()),
    );
    let reply = send(shared, method, target, &lease).await;
    if reply.status().is_success() {
        return Ok(());
    }
    Err(refused(PATH, &name, reply).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_expire() {
        let lease =
            |renewed: Value, valid: Value| json!({"spec": {"renewTime": renewed, "leaseDurationSeconds": valid}});
        let now = "2026-01-01T01:00:01Z".parse().expect("a time");
        for (lease, expired) in [
            (lease(json!("2026-01-01T00:00:00.000000Z"), json!(3600)), true),
            (lease(json!("2026-01-01T00:00:01.000000Z"), json!(3600)), false),
            (lease(json!("2026-01-01T00:00:00.000000Z"), json!(i64::MAX)), false),
            (lease(Value::Null, json!(3600)), true),
            (lease(json!("2026-01-01T00:00:00.000000Z"), Value::Null), true),
            (json!({}), true),
        ] {
            assert_eq!(is_expired(&lease, now), expired, "{lease}");
        }
    }
}

//! The Lease in `kube-system` by which an API server tells that it is there, and where.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use coxswain_api::kinds::access;
use http::Method;
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

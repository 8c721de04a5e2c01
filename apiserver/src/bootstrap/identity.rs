//! The Lease in `kube-system` by which an API server tells that it is there, and where. Each server clears away the Leases
//! of those that are gone for good: the ones that have expired.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use coxswain_api::bounded::{after, until};
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
pub(super) const LEASES: &str = "leases.coordination.k8s.io";
pub(super) const NAMESPACE: &str = "kube-system";
const VALID_S: i64 = 3600;
/// Seldom, so that a server without work has next to none.
const RENEW_AFTER_S: i64 = VALID_S / 3;
/// After a write, also one that failed.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How long changes of Leases are collected before the next look at them.
const SETTLE: Duration = Duration::from_millis(500);
/// How often a write is tried again that met a change.
const ATTEMPTS_MAX: u32 = 5;

/// Takes the Lease, for the first time.
pub(super) async fn take(shared: &Arc<Shared>) -> Result<(), StartError> {
    renew(shared).await?;
    clear_away(shared).await;
    Ok(())
}

/// Keeps the Lease until the server stops: renews it in time, and at once when it was deleted or says something else.
pub(super) async fn keep(shared: Arc<Shared>) {
    loop {
        let own = Own::of(&shared);
        let snapshot = shared.store.snapshot();
        let revision = snapshot.revision();
        let live = snapshot.find(LEASES, NAMESPACE, &own.name).map(|stored| stored.value());
        let due = match live.as_deref().and_then(|lease| own.due(lease)) {
            Some(due) => until(due, now()).unwrap_or_default(),
            None => Duration::ZERO,
        };
        if due.is_zero() {
            if let Err(error) = renew(&shared).await {
                tracing::warn!(%error, "the lease of this API server was not renewed");
            }
            clear_away(&shared).await;
            // Not faster, whatever admission makes of what is written.
            tokio::time::sleep(AGAIN_AFTER).await;
            continue;
        }
        tokio::select! {
            () = shared.stopping.cancelled() => return,
            () = tokio::time::sleep(due) => {}
            going_on = shared.changed(revision, &[LEASES]) => {
                if !going_on {
                    // The store has stopped, and its own check says so.
                    return shared.stopping.cancelled().await;
                }
                // Nodes renew theirs all the time.
                tokio::time::sleep(SETTLE).await;
            }
        }
    }
}

/// What this server's Lease says.
struct Own {
    name: String,
    labels: Value,
    annotations: Value,
    holder: String,
}

impl Own {
    fn of(shared: &Shared) -> Own {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = host.trim();
        // Several servers may share a machine, but never an address and port.
        let (address, port) = shared.config.advertise;
        let digest = Sha256::digest(format!("{host} {address} {port}"));
        let letters: String = digest.iter().take(13).map(|byte| format!("{byte:02x}")).collect();
        let name = format!("apiserver-{letters}");
        let member = shared.store.cluster().borrow().me;
        let started = shared.started.as_millisecond();
        Own {
            labels: json!({"apiserver.kubernetes.io/identity": "kube-apiserver", "kubernetes.io/hostname": host}),
            annotations: json!({MEMBER: member.to_string(), ADDRESS: SocketAddr::new(address, port).to_string()}),
            holder: format!("{name}_{started}"),
            name,
        }
    }

    /// When a Lease is to be renewed; `None` when it says anything else than this server would.
    fn due(&self, lease: &Value) -> Option<Timestamp> {
        let metadata = access::get(lease, "metadata");
        let has = |field: &str, ours: &Value| {
            let theirs = access::get(metadata, field);
            let mut ours = ours.as_object().into_iter().flatten();
            ours.all(|(key, value)| theirs.get(key) == Some(value))
        };
        let spec = access::get(lease, "spec");
        let said = has("labels", &self.labels)
            && has("annotations", &self.annotations)
            && access::str_of(spec, "holderIdentity") == self.holder
            && access::int_of(spec, "leaseDurationSeconds") == Some(VALID_S);
        let renewed: Timestamp = access::str_of(spec, "renewTime").parse().ok()?;
        (said && renewed <= now()).then(|| after(renewed, RENEW_AFTER_S))
    }

    /// The Lease with this server's say; what others wrote beside that stays.
    fn renewed(&self, live: Option<&Value>, stamp: &str) -> Value {
        let mut lease = live
            .cloned()
            .unwrap_or_else(|| json!({"metadata": {"name": self.name}, "spec": {}}));
        let metadata = access::child(&mut lease, "metadata");
        for (field, ours) in [("labels", &self.labels), ("annotations", &self.annotations)] {
            let theirs = access::child(metadata, field);
            for (key, value) in ours.as_object().into_iter().flatten() {
                access::set(theirs, key, value.clone());
            }
        }
        let spec = access::child(&mut lease, "spec");
        if access::str_of(spec, "holderIdentity") != self.holder || access::str_of(spec, "acquireTime").is_empty() {
            access::set(spec, "acquireTime", stamp.to_owned());
        }
        access::set(spec, "holderIdentity", self.holder.clone());
        access::set(spec, "leaseDurationSeconds", VALID_S);
        access::set(spec, "renewTime", stamp.to_owned());
        lease
    }
}

/// Whether it is the Lease of an API server.
pub(super) fn is_server(lease: &Value) -> bool {
    access::text(lease, "/metadata/labels/apiserver.kubernetes.io~1identity") == "kube-apiserver"
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

/// Writes the Lease over what is there, by its version, as Kubernetes asks for: somebody else's change in between makes
/// it try again.
async fn renew(shared: &Arc<Shared>) -> Result<(), StartError> {
    let own = Own::of(shared);
    let path = format!("{PATH}/{}", own.name);
    let stamp = now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
    let mut attempts = 0..ATTEMPTS_MAX;
    loop {
        let found = send(shared, Method::GET, &path, &Value::Null).await;
        let live = match found.status().is_success() {
            true => Some(body_of(found).await),
            false => None,
        };
        let lease = own.renewed(live.as_ref(), &stamp);
        let reply = match live {
            Some(_) => send(shared, Method::PUT, &path, &lease).await,
            None => send(shared, Method::POST, PATH, &lease).await,
        };
        // Conflict: it was changed, deleted or made in between.
        let again = matches!(reply.status().as_u16(), 404 | 409) && attempts.next().is_some();
        if reply.status().is_success() {
            return Ok(());
        }
        if !again {
            return Err(refused(PATH, &own.name, reply).await);
        }
    }
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

    #[test]
    fn a_lease_is_due_in_time_or_when_it_says_something_else() {
        let own = Own {
            name: "apiserver-x".into(),
            labels: json!({"kubernetes.io/hostname": "h"}),
            annotations: json!({MEMBER: "1"}),
            holder: "apiserver-x_1".into(),
        };
        let live = json!({"metadata": {"name": "apiserver-x", "resourceVersion": "7", "labels": {"mine": "stays"}}});
        let lease = own.renewed(Some(&live), "2026-01-01T00:00:00.000000Z");
        assert_eq!(access::text(&lease, "/metadata/resourceVersion"), "7");
        assert_eq!(access::text(&lease, "/metadata/labels/mine"), "stays");
        let due = own.due(&lease).expect("it says what it should");
        assert_eq!(due.to_string(), "2026-01-01T00:20:00Z");
        for (path, wrong) in [
            ("/metadata/labels", json!({})),
            ("/metadata/annotations", json!({MEMBER: "2"})),
            ("/spec/holderIdentity", json!("somebody")),
            ("/spec/leaseDurationSeconds", json!(i32::MAX)),
            ("/spec/renewTime", json!("9999-12-31T23:59:59.000000Z")),
            ("/spec/renewTime", Value::Null),
        ] {
            let mut changed = lease.clone();
            *changed.pointer_mut(path).expect("a field") = wrong;
            assert_eq!(own.due(&changed), None, "{path}");
        }
    }
}

//! The Leases `kube-controller-manager` and `kube-scheduler` in `kube-system`: who leads, for people, monitoring and other
//! schedulers, which stand by while a Lease is held.
//!
//! Nothing here decides who leads: leadership of the store does ([`crate::leader`]), and it moves in less than a second.
//! So the Leases are long and seldom renewed; a new leader writes its name over the old one's at once.

use std::time::Duration;

use coxswain_client::{Client, ClientError, Failure};
use http::Method;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
const VALID_S: u64 = 3600;
const RENEW_AFTER: Duration = Duration::from_secs(VALID_S / 3);
/// After a write that failed.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Holds the Lease of a component for `holder` until `token` is cancelled.
pub async fn keep(client: &Client, component: &str, holder: &str, token: &CancellationToken) {
    let hold = async {
        loop {
            let pause = match claim(client, component, holder).await {
                Ok(()) => RENEW_AFTER,
                Err(error) => {
                    tracing::debug!(%error, component, "the lease was not renewed");
                    AGAIN_AFTER
                }
            };
            tokio::time::sleep(pause).await;
        }
    };
    token.run_until_cancelled(hold).await;
}

async fn claim(client: &Client, component: &str, holder: &str) -> Result<(), ClientError> {
    let path = format!("{PATH}/{component}");
    let live: Option<Value> = match client.get(&path).await {
        Ok(live) => Some(live),
        Err(error) if error.failure() == Failure::NotFound => None,
        Err(error) => return Err(error),
    };
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
    let lease = claimed(live.as_ref(), component, holder, &now);
    let (method, target) = match live {
        Some(_) => (Method::PUT, path.as_str()),
        None => (Method::POST, PATH),
    };
    client
        .request::<Value>(method, target, &[], Some(&lease))
        .await
        .map(drop)
}

/// The Lease in the hands of `holder`. It keeps what others wrote beside the specification.
fn claimed(live: Option<&Value>, component: &str, holder: &str, now: &str) -> Value {
    let spec = live.map_or(&Value::Null, |live| &live["spec"]);
    let mine = spec["holderIdentity"] == *holder;
    let transitions = spec["leaseTransitions"].as_i64().unwrap_or(0);
    let spec = json!({
        "holderIdentity": holder,
        "leaseDurationSeconds": VALID_S,
        "acquireTime": if mine { spec["acquireTime"].clone() } else { now.into() },
        "renewTime": now,
        "leaseTransitions": if mine || live.is_none() { transitions } else { transitions.saturating_add(1) },
    });
    let metadata = live.map_or_else(|| json!({"name": component}), |live| live["metadata"].clone());
    json!({"metadata": metadata, "spec": spec})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_passes_from_hand_to_hand() {
        let mut live: Option<Value> = None;
        for (holder, now, acquired, transitions) in [
            ("a", "1", "1", 0),
            ("a", "2", "1", 0),
            ("b", "3", "3", 1),
            ("b", "4", "3", 1),
            ("a", "5", "5", 2),
        ] {
            let lease = claimed(live.as_ref(), "kube-scheduler", holder, now);
            let want = json!({
                "metadata": {"name": "kube-scheduler"},
                "spec": {
                    "holderIdentity": holder, "leaseDurationSeconds": VALID_S, "acquireTime": acquired,
                    "renewTime": now, "leaseTransitions": transitions,
                },
            });
            assert_eq!(lease, want);
            live = Some(lease);
        }
    }
}

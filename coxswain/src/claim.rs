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
const VALID_S: i64 = 3600;
const RENEW_AFTER_S: i64 = VALID_S / 3;
/// How often the Lease is looked at: one that was deleted or taken is back within ten seconds.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Holds the Lease of a component for `holder` until `token` is cancelled.
pub async fn keep(client: &Client, component: &str, holder: &str, token: &CancellationToken) {
    let hold = async {
        loop {
            if let Err(error) = claim(client, component, holder).await {
                tracing::debug!(%error, component, "the lease was not renewed");
            }
            tokio::time::sleep(LOOK_EVERY).await;
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
    let now = jiff::Timestamp::now();
    if live.as_ref().is_some_and(|live| is_held(live, holder, now)) {
        return Ok(());
    }
    let now = now.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
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

/// Whether the holder has the Lease and need not renew it yet. A time that lies ahead counts as none.
fn is_held(live: &Value, holder: &str, now: jiff::Timestamp) -> bool {
    let spec = &live["spec"];
    let renewed = spec["renewTime"]
        .as_str()
        .and_then(|time| time.parse::<jiff::Timestamp>().ok());
    let passed_s = renewed.map(|renewed| now.duration_since(renewed).as_secs());
    spec["holderIdentity"] == *holder
        && spec["leaseDurationSeconds"] == VALID_S
        && passed_s.is_some_and(|passed_s| (0..RENEW_AFTER_S).contains(&passed_s))
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
    fn a_lease_is_written_when_it_is_due_or_somebody_elses() {
        let now = "2026-01-01T01:00:00Z".parse().expect("a time");
        let lease = |holder: &str, renewed: &str| json!({"spec": {"holderIdentity": holder, "leaseDurationSeconds": VALID_S, "renewTime": renewed}});
        for (live, held) in [
            (lease("a", "2026-01-01T00:50:00.000000Z"), true),
            (lease("a", "2026-01-01T00:39:00.000000Z"), false),
            (lease("a", "9999-12-31T23:59:59.000000Z"), false),
            (lease("a", "0001-01-01T00:00:00.000000Z"), false),
            (lease("a", ""), false),
            (lease("b", "2026-01-01T00:50:00.000000Z"), false),
            (json!({}), false),
        ] {
            assert_eq!(is_held(&live, "a", now), held, "{live}");
        }
    }

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

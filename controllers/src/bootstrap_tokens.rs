//! Removes bootstrap tokens that have expired.
//!
//! Watches the Secrets of that type in `kube-system`; each has a timer. Does not: make tokens.

use std::sync::Arc;
use std::time::Duration;

use coxswain_api::bounded;
use coxswain_client::k8s_openapi::api::core::v1::Secret;
use coxswain_client::{Cache, Next, ObjectKey, Queue, Scope};
use jiff::Timestamp;

use crate::context::Context;
use crate::error::ControllerError;
use crate::{single, writes};

const TYPE: &str = "bootstrap.kubernetes.io/token";
const NAMESPACE: &str = "kube-system";

struct Tokens {
    context: Context,
    secrets: Cache<Secret>,
}

/// Runs until cancelled.
pub(crate) async fn run(context: Context) {
    let scope = Scope {
        namespace: Some(NAMESPACE.to_string()),
        ..Scope::fields(&format!("type={TYPE}"))
    };
    let controller = Arc::new(Tokens {
        secrets: context.caches.scoped(scope),
        context: context.clone(),
    });
    controller.secrets.synced().await;
    let queue = Queue::new();
    let wake = single::wake(&controller.secrets, &queue, |change| vec![change.key.clone()]);
    let work = single::reconcile("token-cleaner", &context, &queue, &controller, |c, key| async move {
        c.reconcile(&key).await
    });
    tokio::join!(wake, work);
}

impl Tokens {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, ControllerError> {
        let Some(secret) = self.secrets.by_key(key) else {
            return Ok(Next::Done);
        };
        match left(&secret, Timestamp::now()) {
            None => Ok(Next::Done),
            Some(Duration::ZERO) => {
                let api = self.context.client.namespaced::<Secret>(NAMESPACE);
                writes::delete(&api, &secret.metadata, None).await?;
                Ok(Next::Done)
            }
            Some(left) => Ok(Next::After(left)),
        }
    }
}

/// How long a token is still good; `None`: for ever. One whose time cannot be read is not good.
fn left(secret: &Secret, now: Timestamp) -> Option<Duration> {
    let data = secret.data.as_ref()?;
    let text = String::from_utf8_lossy(&data.get("expiration")?.0).into_owned();
    let expires = text.parse::<Timestamp>().map_or(0, Timestamp::as_second);
    let seconds = expires.saturating_sub(now.as_second());
    Some(bounded::seconds(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn expiry() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        // Base64 of the times.
        for (expiration, want) in [
            (json!({}), None),
            (json!({"expiration": "MjAyNi0wMS0wMVQwMDowMDozMFo="}), Some(30)),
            (json!({"expiration": "MjAyNS0xMi0zMVQyMzo1OTo1OVo="}), Some(0)),
            (json!({"expiration": "bmV2ZXI="}), Some(0)),
        ] {
            let secret: Secret = serde_json::from_value(json!({"data": expiration})).expect("a secret");
            assert_eq!(left(&secret, now), want.map(Duration::from_secs));
        }
    }
}

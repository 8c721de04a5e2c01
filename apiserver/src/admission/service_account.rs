//! Gives pods their service account: its name, its pull secrets, and the volume with its token.

use std::time::Duration;

use coxswain_api::ApiError;
use coxswain_api::kinds::access;
use coxswain_store::Snapshot;
use rand::Rng;
use serde_json::{Value, json};

use super::Write;
use crate::call::Call;

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// How long a pod waits for the default service account of its namespace.
const DEFAULT_WAIT: Duration = Duration::from_secs(1);
/// A little more than an hour, so that agents renew after about an hour.
const TOKEN_SECONDS: i64 = 3607;

/// Fills in the service account of a new pod.
///
/// # Errors
/// 403 when the service account does not exist.
pub(super) fn mount(write: &Write<'_>, pod: &mut Value) -> Result<(), ApiError> {
    if access::has(
        access::get(access::get(pod, "metadata"), "annotations"),
        "kubernetes.io/config.mirror",
    ) {
        return Ok(());
    }
    let namespace = write.call.namespace();
    let name = access::name(pod).to_owned();
    let spec = access::child(pod, "spec");
    access::set_text_default(spec, "serviceAccountName", "default");
    let account_name = access::str_of(spec, "serviceAccountName").to_owned();
    access::set(spec, "serviceAccount", account_name.as_str());
    let Some(stored) = write.snapshot.find("serviceaccounts", namespace, &account_name) else {
        let why = format!(
            "error looking up service account {namespace}/{account_name}: serviceaccount {account_name:?} not found"
        );
        return Err(write.call.forbidden(&name, why));
    };
    let account = stored.value();
    let wants = spec
        .get("automountServiceAccountToken")
        .and_then(Value::as_bool)
        .or_else(|| account.get("automountServiceAccountToken").and_then(Value::as_bool))
        .unwrap_or(true);
    if wants {
        mount_token(spec);
    }
    if access::list(spec, "imagePullSecrets").is_empty() && !access::list(&account, "imagePullSecrets").is_empty() {
        access::copy(spec, &account, "imagePullSecrets");
    }
    Ok(())
}

/// Waits a moment for the default service account of a namespace that has just been made: its
/// controller may not have come to it yet.
pub(crate) async fn wait_for_default(call: &Call, pod: &Value) {
    let wanted = access::text(pod, "/spec/serviceAccountName");
    let namespace = call.namespace();
    let missing = |snapshot: &Snapshot| snapshot.find("serviceaccounts", namespace, "default").is_none();
    let snapshot = call.snapshot();
    if !matches!(wanted, "" | "default")
        || !missing(&snapshot)
        || snapshot
            .find("namespaces", "", namespace)
            .is_none_or(|stored| stored.head.deleting)
    {
        return;
    }
    let Ok(mut changes) = call.server.store.watch("serviceaccounts", snapshot.revision()) else {
        return;
    };
    let appears = async {
        while missing(&call.snapshot()) {
            if changes.next().await.is_err() {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(DEFAULT_WAIT, appears).await;
}

fn mount_token(spec: &mut Value) {
    let existing = access::list(spec, "volumes")
        .iter()
        .map(|volume| access::str_of(volume, "name"))
        .find(|name| name.starts_with("kube-api-access-"))
        .map(str::to_owned);
    let volume_name = existing
        .clone()
        .unwrap_or_else(|| format!("kube-api-access-{}", suffix()));
    let mut used = false;
    for field in ["initContainers", "containers"] {
        for container in access::each_mut(spec, field) {
            let mounted = access::list(container, "volumeMounts")
                .iter()
                .any(|mount| access::str_of(mount, "mountPath") == MOUNT_PATH);
            if mounted {
                continue;
            }
            used = true;
            let mount = json!({"name": volume_name, "readOnly": true, "mountPath": MOUNT_PATH});
            push(container, "volumeMounts", mount);
        }
    }
    if used && existing.is_none() {
        push(spec, "volumes", volume(&volume_name));
    }
}

fn volume(name: &str) -> Value {
    json!({
        "name": name,
        "projected": {
            "defaultMode": 420,
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{
                    "path": "namespace",
                    "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
                }]}},
            ],
        },
    })
}

fn push(object: &mut Value, field: &str, item: Value) {
    let mut items = access::list(object, field).to_vec();
    items.push(item);
    access::set(object, field, items);
}

fn suffix() -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut random = rand::rng();
    (0..5)
        .map(|_| {
            LETTERS
                .get(random.random_range(0..LETTERS.len()))
                .copied()
                .unwrap_or(b'x') as char
        })
        .collect()
}

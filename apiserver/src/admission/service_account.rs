//! Gives pods their service account: its name, its pull secrets, and the volume with its token.

use std::time::Duration;

use coxswain_api::ApiError;
use coxswain_api::kinds::access;
use coxswain_store::Snapshot;
use rand::Rng;
use serde_json::{Value, json};

use super::Write;
use crate::authz::node::visit_secrets;
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
    // Nothing is filled in of a mirror pod: its node has it as it is.
    if access::has(access::at(pod, "/metadata/annotations"), MIRROR) {
        return check(write, pod);
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

const MIRROR: &str = "kubernetes.io/config.mirror";
const MOUNTABLE_ONLY: &str = "/metadata/annotations/kubernetes.io~1enforce-mountable-secrets";

/// What a pod may refer to: a mirror pod neither accounts nor secrets, and a pod of an account that says so only the
/// secrets that the account lists. Also for ephemeral containers, which come later.
///
/// # Errors
/// 403.
pub(super) fn check(write: &Write<'_>, pod: &Value) -> Result<(), ApiError> {
    let spec = access::get(pod, "spec");
    let why = if access::has(access::at(pod, "/metadata/annotations"), MIRROR) {
        mirror_refers_to(spec).map(|what| format!("a mirror pod may not {what}"))
    } else {
        let name = access::str_of(spec, "serviceAccountName");
        let account = write.snapshot.find("serviceaccounts", write.call.namespace(), name);
        account.and_then(|account| unlisted(spec, &account.value()))
    };
    why.map_or(Ok(()), |why| Err(write.call.forbidden(access::name(pod), why)))
}

fn mirror_refers_to(spec: &Value) -> Option<&'static str> {
    if !access::str_of(spec, "serviceAccountName").is_empty() {
        return Some("reference service accounts");
    }
    let mut secrets = false;
    visit_secrets(spec, &mut |name| secrets |= !name.is_empty());
    if secrets {
        return Some("reference secrets");
    }
    let sources = access::list(spec, "volumes").iter();
    let mut sources = sources.flat_map(|volume| access::list_at(volume, "/projected/sources"));
    let tokens = sources.any(|source| access::has(source, "serviceAccountToken"));
    tokens.then_some("use ServiceAccountToken volume projections")
}

/// The first secret of a pod that its account would have to list and does not.
fn unlisted(spec: &Value, account: &Value) -> Option<String> {
    if access::text(account, MOUNTABLE_ONLY) != "true" {
        return None;
    }
    let lists = |field: &str, name: &str| {
        let mut listed = access::list(account, field).iter();
        listed.any(|reference| access::str_of(reference, "name") == name)
    };
    let wrong = |name: &str| !name.is_empty() && !lists("secrets", name);
    let because = format!(
        "is not allowed because service account {} does not reference that",
        access::name(account)
    );
    for volume in access::list(spec, "volumes") {
        let name = access::text(volume, "/secret/secretName");
        if wrong(name) {
            return Some(format!("volume with secret.secretName={name:?} {because} secret"));
        }
    }
    for (field, title) in [
        ("initContainers", "init container"),
        ("containers", "container"),
        ("ephemeralContainers", "ephemeral container"),
    ] {
        for container in access::list(spec, field) {
            let own = access::str_of(container, "name");
            for from in access::list(container, "env") {
                let name = access::text(from, "/valueFrom/secretKeyRef/name");
                if wrong(name) {
                    let variable = access::str_of(from, "name");
                    return Some(format!(
                        "{title} {own} with envVar {variable} referencing secret.secretName={name:?} {because} secret"
                    ));
                }
            }
            for from in access::list(container, "envFrom") {
                let name = access::text(from, "/secretRef/name");
                if wrong(name) {
                    return Some(format!(
                        "{title} {own} with envFrom referencing secret.secretName={name:?} {because} secret"
                    ));
                }
            }
        }
    }
    let mut pulls = access::list(spec, "imagePullSecrets").iter().enumerate();
    pulls.find_map(|(i, reference)| {
        let name = access::str_of(reference, "name");
        (!lists("imagePullSecrets", name))
            .then(|| format!("imagePullSecrets[{i}].name={name:?} {because} imagePullSecret"))
    })
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

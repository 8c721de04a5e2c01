//! What every namespace has from its first moment: the ServiceAccount `default` and the ConfigMap
//! `kube-root-ca.crt`.
//!
//! Watches Namespaces and those two names. Guarantees: both come back when they are deleted, the
//! ConfigMap also when it is changed. Does not: touch a namespace that is being deleted.

use std::collections::BTreeMap;
use std::sync::Arc;

use coxswain_client::k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use coxswain_client::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use coxswain_client::{Cache, Failure, Next, Queue, Scope, work};
#[cfg(test)]
use serde_json::json;

use crate::context::Context;
use crate::error::{ControllerError, call};
use crate::writes;

const ACCOUNT: &str = "default";
/// Service account that publishes the cluster's authority.
const PUBLISHER: &str = "root-ca-cert-publisher";
const ROOT_CA: &str = "kube-root-ca.crt";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when \
using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage \
is guaranteed across distributions of Kubernetes clusters.";

struct Basics {
    context: Context,
    namespaces: Cache<Namespace>,
    accounts: Cache<ServiceAccount>,
    maps: Cache<ConfigMap>,
}

/// What a namespace lacks.
#[derive(Debug, PartialEq, Eq, Default)]
struct Plan {
    account: bool,
    create_map: bool,
    repair_map: bool,
}

fn plan(namespace: &Namespace, account: Option<&ServiceAccount>, map: Option<&ConfigMap>, root_ca: &str) -> Plan {
    let phase = namespace.status.as_ref().and_then(|s| s.phase.as_deref());
    let deleting = namespace.metadata.deletion_timestamp.is_some();
    if deleting || phase == Some("Terminating") {
        return Plan::default();
    }
    let content = map.map(|m| m.data.as_ref().and_then(|d| d.get("ca.crt")));
    Plan {
        account: account.is_none(),
        create_map: !root_ca.is_empty() && content.is_none(),
        repair_map: !root_ca.is_empty() && content.is_some_and(|c| c.map(String::as_str) != Some(root_ca)),
    }
}

/// Runs until cancelled.
pub(crate) async fn run(context: Context) {
    let name = |name: &str| Scope::fields(&format!("metadata.name={name}"));
    let basics = Arc::new(Basics {
        namespaces: context.caches.of(),
        accounts: context.caches.scoped(name(ACCOUNT)),
        maps: context.caches.scoped(name(ROOT_CA)),
        context: context.clone(),
    });
    basics.namespaces.synced().await;
    basics.accounts.synced().await;
    basics.maps.synced().await;
    let queue: Queue<Arc<str>> = Queue::new();
    let reconciler = basics.clone();
    let worker = work(
        "serviceaccount",
        queue.clone(),
        2,
        context.token.clone(),
        move |name: Arc<str>| {
            let basics = reconciler.clone();
            async move { basics.reconcile(&name).await }
        },
    );
    let wake = async {
        let mut namespaces = basics.namespaces.changes();
        let mut accounts = basics.accounts.changes();
        let mut maps = basics.maps.changes();
        loop {
            let name = tokio::select! {
                change = namespaces.recv() => change.map(|c| c.key.name),
                change = accounts.recv() => change.map(|c| c.key.namespace),
                change = maps.recv() => change.map(|c| c.key.namespace),
            };
            match name {
                Some(name) => queue.add(name),
                None => return,
            }
        }
    };
    tokio::join!(worker, wake);
}

impl Basics {
    async fn reconcile(&self, name: &str) -> Result<Next, ControllerError> {
        let Some(namespace) = self.namespaces.get("", name) else {
            return Ok(Next::Done);
        };
        let account = self.accounts.get(name, ACCOUNT);
        let map = self.maps.get(name, ROOT_CA);
        let root_ca = &self.context.config.root_ca_pem;
        let plan = plan(&namespace, account.as_deref(), map.as_deref(), root_ca);
        let params = writes::creation();
        let (client, publisher) = (&self.context.client, self.context.account(PUBLISHER));
        if plan.account {
            let account = ServiceAccount {
                metadata: metadata(name, ACCOUNT),
                ..ServiceAccount::default()
            };
            let result = client.namespaced(name).create(&params, &account).await;
            settle(result, "creating the default service account")?;
        }
        if plan.create_map {
            let mut metadata = metadata(name, ROOT_CA);
            let note = ("kubernetes.io/description".to_string(), DESCRIPTION.to_string());
            metadata.annotations = Some(BTreeMap::from([note]));
            let map = ConfigMap {
                metadata,
                data: Some(BTreeMap::from([("ca.crt".to_string(), root_ca.clone())])),
                ..ConfigMap::default()
            };
            let result = publisher.namespaced(name).create(&params, &map).await;
            settle(result, "creating kube-root-ca.crt")?;
        }
        if let Some(map) = map.filter(|_| plan.repair_map) {
            let mut map = ConfigMap::clone(&map);
            map.data = Some(BTreeMap::from([("ca.crt".to_string(), root_ca.clone())]));
            map.binary_data = None;
            let result = publisher.namespaced(name).replace(ROOT_CA, &params, &map).await;
            settle(result, "repairing kube-root-ca.crt")?;
        }
        Ok(Next::Done)
    }
}

fn metadata(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_string()),
        namespace: Some(namespace.to_string()),
        ..ObjectMeta::default()
    }
}

/// Somebody else was faster, or the namespace is going: both are fine.
fn settle<K>(result: Result<K, coxswain_client::kube::Error>, operation: &str) -> Result<(), ControllerError> {
    match result.map_err(call(operation)) {
        Ok(_) => Ok(()),
        Err(error) => match error.failure() {
            Failure::AlreadyExists | Failure::Conflict | Failure::NamespaceTerminating | Failure::NotFound => Ok(()),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans() {
        let namespace = |phase: &str| -> Namespace {
            serde_json::from_value(json!({"metadata": {"name": "n"}, "status": {"phase": phase}})).expect("a namespace")
        };
        let map = |ca: &str| -> ConfigMap { serde_json::from_value(json!({"data": {"ca.crt": ca}})).expect("a map") };
        let all = |account, create_map, repair_map| Plan {
            account,
            create_map,
            repair_map,
        };
        let active = namespace("Active");
        let account = ServiceAccount::default();
        assert_eq!(plan(&active, None, None, "CA"), all(true, true, false));
        assert_eq!(plan(&active, Some(&account), Some(&map("CA")), "CA"), Plan::default());
        assert_eq!(
            plan(&active, Some(&account), Some(&map("x")), "CA"),
            all(false, false, true)
        );
        assert_eq!(plan(&active, None, None, ""), all(true, false, false));
        assert_eq!(plan(&namespace("Terminating"), None, None, "CA"), Plan::default());
    }
}

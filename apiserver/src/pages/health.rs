//! `/healthz`, `/livez`, `/readyz` and their single checks: what Kubernetes lists, and one for each task of the process
//! ([`Shared::keep`] and [`crate::ApiServer::supervisor`]), which fails while the task does not run.

use coxswain_api::ApiError;

use crate::answer::{self, Reply};
use crate::query::Query;
use crate::shared::Shared;

/// Names of the checks, in the order they are listed. Probes and monitoring ask for single checks by these names.
const CHECKS: &[&str] = &["ping", "log", "etcd"];

/// Names of what a Kubernetes server does when it starts. All of it is done here before the server is ready.
const STARTED: &[&str] = &[
    "poststarthook/apiservice-discovery-controller",
    "poststarthook/apiservice-openapi-controller",
    "poststarthook/apiservice-openapiv3-controller",
    "poststarthook/apiservice-registration-controller",
    "poststarthook/apiservice-status-local-available-controller",
    "poststarthook/apiservice-status-remote-available-controller",
    "poststarthook/apiservice-wait-for-first-sync",
    "poststarthook/bootstrap-controller",
    "poststarthook/crd-informer-synced",
    "poststarthook/generic-apiserver-start-informers",
    "poststarthook/kube-apiserver-autoregistration",
    "poststarthook/peer-endpoint-reconciler-controller",
    "poststarthook/priority-and-fairness-config-consumer",
    "poststarthook/priority-and-fairness-config-producer",
    "poststarthook/priority-and-fairness-filter",
    "poststarthook/rbac/bootstrap-roles",
    "poststarthook/scheduling/bootstrap-system-priority-classes",
    "poststarthook/start-apiextensions-controllers",
    "poststarthook/start-apiextensions-informers",
    "poststarthook/start-apiserver-admission-initializer",
    "poststarthook/start-cluster-authentication-info-controller",
    "poststarthook/start-kube-aggregator-informers",
    "poststarthook/start-kube-apiserver-identity-lease-controller",
    "poststarthook/start-kube-apiserver-identity-lease-garbage-collector",
    "poststarthook/start-kubernetes-service-cidr-controller",
    "poststarthook/start-legacy-token-tracking-controller",
    "poststarthook/start-service-ip-repair-controllers",
    "poststarthook/start-system-namespaces-controller",
    "poststarthook/storage-object-count-tracker-hook",
    "poststarthook/storage-readiness",
    "autoregister-completion",
];

/// The checks of an endpoint.
pub(super) fn checks(which: &str) -> Vec<&'static str> {
    let own: &[&str] = match which {
        "readyz" => &["informer-sync", "shutdown"],
        _ => &["loopback-serving-certificate"],
    };
    [CHECKS, STARTED, own].concat()
}

/// Answers one of the three endpoints (`which`) or one of its checks.
pub(super) fn answer(shared: &Shared, which: &str, rest: &[&str], query: &Query) -> Result<Reply, ApiError> {
    // Tasks come last: the others are what Kubernetes lists.
    let tasks = shared.supervisor.tasks();
    let names = checks(which).into_iter().chain(tasks.keys().map(String::as_str));
    if !rest.is_empty() {
        let wanted = rest.join("/");
        let Some(name) = names.into_iter().find(|name| **name == wanted) else {
            return Err(ApiError::page_not_found());
        };
        return Ok(match check(shared, which, name) {
            Ok(()) => answer::text(200, "ok"),
            Err(why) => answer::text(500, format!("internal server error: {why}\n")),
        });
    }
    let excluded: Vec<&str> = query.all("exclude").collect();
    let mut lines = String::new();
    let mut failed = false;
    for name in names {
        if excluded.contains(&name) {
            lines.push_str(&format!("[+]{name} excluded: ok\n"));
            continue;
        }
        match check(shared, which, name) {
            Ok(()) => lines.push_str(&format!("[+]{name} ok\n")),
            Err(_) => {
                failed = true;
                lines.push_str(&format!("[-]{name} failed: reason withheld\n"));
            }
        }
    }
    if failed {
        return Ok(answer::text(500, format!("{lines}{which} check failed\n")));
    }
    if query.flag("verbose").is_some() {
        return Ok(answer::text(200, format!("{lines}{which} check passed\n")));
    }
    Ok(answer::text(200, "ok"))
}

/// Whether one check of an endpoint passes, and why not.
pub(crate) fn check(shared: &Shared, which: &str, name: &str) -> Result<(), String> {
    match name {
        "etcd" => match shared.store.stopped().borrow().as_deref() {
            Some(why) => Err(format!("the store has stopped: {why}")),
            // It lives, but clients do better elsewhere.
            None if which == "readyz" && shared.store.cluster().borrow().leader.is_none() => {
                Err("the store has no leader within reach".to_owned())
            }
            None => Ok(()),
        },
        "shutdown" if shared.stopping.is_cancelled() => Err("process is shutting down".to_owned()),
        "informer-sync" if !shared.is_ready() => Err("not finished".to_owned()),
        name if STARTED.contains(&name) && !shared.is_ready() => Err("not finished".to_owned()),
        name => match shared.supervisor.tasks().remove(name).and_then(|task| task.failed) {
            Some(why) => Err(format!("the task does not run: {why}")),
            None => Ok(()),
        },
    }
}

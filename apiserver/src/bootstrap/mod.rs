//! What every cluster starts with: namespaces, the `kubernetes` Service, RBAC, flow control, APIServices.
//!
//! Objects go through the same pipeline as everybody's, made by an internal administrator, and
//! only what is missing is created: whatever people changed stays changed. Runs at every start; from
//! then on what is deleted comes back a moment later ([`upkeep`]). An object that is refused is
//! reported and skipped.

pub(crate) mod apiservices;
mod authentication;
mod endpoints;
mod flowcontrol;
mod identity;
mod rbac;
mod upkeep;

use std::sync::Arc;

use axum::body::Body;
use coxswain_api::kinds::access;
use coxswain_api::kinds::flow::MANDATORY as MANDATORY_FLOW;
use http::{Method, Request};
use serde_json::{Value, json};

use crate::answer::Reply;
use crate::pipeline::{self, Caller};
use crate::shared::Shared;
use crate::{StartError, User};

/// The collection of the `kubernetes` Service.
const SERVICE: &str = "/api/v1/namespaces/default/services";
const FLOW: &str = "/apis/flowcontrol.apiserver.k8s.io/";

/// The default flow schemas.
#[cfg(test)]
pub(crate) fn flow_schemas() -> Vec<Value> {
    let all = flowcontrol::objects().into_iter();
    all.filter(|(path, _)| path.ends_with("/flowschemas"))
        .map(|(_, object)| object)
        .collect()
}

/// The flow control that there must be, with the paths of its collections.
pub(crate) fn mandatory_flow() -> impl Iterator<Item = (String, Value)> {
    let objects = flowcontrol::objects().into_iter();
    objects.filter(|(path, object)| path.starts_with(FLOW) && MANDATORY_FLOW.contains(&access::name(object)))
}

/// The rules of a default cluster role.
pub(crate) fn rules_of(role: &str) -> Vec<Value> {
    let mut roles = rbac::objects().into_iter().map(|(_, object)| object);
    let found = roles.find(|object| access::name(object) == role && access::has(object, "rules"));
    found
        .map(|object| access::list(&object, "rules").to_vec())
        .unwrap_or_default()
}

/// Creates what is missing, and keeps it from then on.
pub(crate) async fn run(shared: &Arc<Shared>) -> Result<(), StartError> {
    for (path, value) in &objects(shared) {
        let exists = find(shared, path, value).await;
        if exists.status().is_success() {
            report(repair(shared, path, exists, value).await);
            continue;
        }
        match create_missing(shared, path, value).await {
            Err(error @ StartError::Bootstrap { unavailable: true, .. }) => return Err(error),
            // One object that is refused must not keep a cluster from starting.
            done => report(done),
        }
    }
    report(authentication::publish(shared).await);
    report(identity::take(shared).await);
    report(endpoints::add(shared).await);
    shared.keep("system-objects", upkeep::run);
    shared.keep("identity-lease", identity::keep);
    shared.keep("kubernetes-endpoints", endpoints::follow);
    Ok(())
}

/// What is not as it should be is tried again by the tasks that keep it.
fn report(done: Result<(), StartError>) {
    if let Err(error) = done {
        tracing::error!(%error, "a start object is not as it should be");
    }
}

/// What every cluster has from the start on, with the paths of the collections.
fn objects(shared: &Shared) -> Vec<(String, Value)> {
    let mut objects: Vec<(String, Value)> = Vec::new();
    for name in ["kube-system", "default", "kube-public", "kube-node-lease"] {
        objects.push(object("/api/v1/namespaces", json!({"metadata": {"name": name}})));
    }
    objects.push(service_cidr(shared));
    objects.push(object(SERVICE, kubernetes_service(shared)));
    objects.extend(rbac::objects());
    if !shared.config.bare {
        objects.extend(rbac::addons());
    }
    objects.extend(flowcontrol::objects());
    objects.extend(apiservices::objects(&shared.registry()));
    objects
}

/// The stored resource and the namespace of a collection's path.
fn place(path: &str) -> (String, String) {
    let words: Vec<&str> = path.split('/').skip(1).collect();
    let (group, rest) = match words.as_slice() {
        ["api", _, rest @ ..] => ("", rest),
        ["apis", group, _, rest @ ..] => (*group, rest),
        _ => ("", &[][..]),
    };
    let (namespace, plural) = match rest {
        ["namespaces", namespace, plural] => (*namespace, *plural),
        [plural] => ("", *plural),
        _ => ("", ""),
    };
    let dot = if group.is_empty() { "" } else { "." };
    (format!("{plural}{dot}{group}"), namespace.to_owned())
}

fn object(path: &str, value: Value) -> (String, Value) {
    (path.to_owned(), value)
}

fn service_cidr(shared: &Shared) -> (String, Value) {
    let (base, bits) = shared.config.service_cidr;
    let value = json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": [format!("{base}/{bits}")]}});
    object("/apis/networking.k8s.io/v1/servicecidrs", value)
}

/// The first address of the service range.
fn kubernetes_service(shared: &Shared) -> Value {
    let (base, bits) = shared.config.service_cidr;
    let mask = u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0);
    let first = std::net::Ipv4Addr::from((u32::from(base) & mask).saturating_add(1)).to_string();
    json!({
        "metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {
            "type": "ClusterIP", "clusterIP": first, "clusterIPs": [first], "sessionAffinity": "None",
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": shared.config.advertise.1}],
        },
    })
}

async fn find(shared: &Arc<Shared>, path: &str, value: &Value) -> Reply {
    send(
        shared,
        Method::GET,
        &format!("{path}/{}", access::name(value)),
        &Value::Null,
    )
    .await
}

async fn create_missing(shared: &Arc<Shared>, path: &str, value: &Value) -> Result<(), StartError> {
    let reply = send(shared, Method::POST, path, value).await;
    // Somebody else may have created it in between.
    match reply.status().as_u16() == 409 || !is_refused(&reply) {
        true => Ok(()),
        false => Err(refused(path, access::name(value), reply).await),
    }
}

/// Whether a write was not done.
fn is_refused(reply: &Reply) -> bool {
    !reply.status().is_success()
}

/// Default roles and bindings get back what they lack, flow control and APIServices the specification of this version,
/// unless people have said that they want it so.
async fn repair(shared: &Arc<Shared>, path: &str, exists: Reply, wanted: &Value) -> Result<(), StartError> {
    let reconciled = match path {
        path if path.starts_with("/apis/rbac.authorization.k8s.io/") => rbac::reconciled,
        path if path.starts_with(FLOW) => flowcontrol::reconciled,
        path if path.starts_with(apiservices::PATH) => apiservices::reconciled,
        _ => return Ok(()),
    };
    let current = body_of(exists).await;
    let Some(repaired) = reconciled(&current, wanted) else {
        return Ok(());
    };
    let name = access::name(wanted);
    let reply = send(shared, Method::PUT, &format!("{path}/{name}"), &repaired).await;
    match is_refused(&reply) {
        false => Ok(()),
        true => Err(refused(path, name, reply).await),
    }
}

async fn refused(path: &str, name: &str, reply: Reply) -> StartError {
    let code = reply.status().as_u16();
    let status = body_of(reply).await;
    let why = access::str_of(&status, "message").to_owned();
    StartError::Bootstrap {
        object: format!("{path}/{name}"),
        why: format!("{code} {why}"),
        unavailable: code >= 500,
    }
}

/// The object in an answer.
async fn body_of(reply: Reply) -> Value {
    let body = axum::body::to_bytes(reply.into_body(), 1 << 20)
        .await
        .unwrap_or_default();
    serde_json::from_slice(&body).unwrap_or_default()
}

pub(crate) async fn send(shared: &Arc<Shared>, method: Method, path: &str, value: &Value) -> Reply {
    let body = if value.is_null() {
        Body::empty()
    } else {
        Body::from(value.to_string())
    };
    let mut request = Request::new(body);
    let media = match method {
        Method::PATCH => "application/merge-patch+json",
        _ => "application/json",
    };
    *request.method_mut() = method;
    if let Ok(uri) = path.parse() {
        *request.uri_mut() = uri;
    }
    let headers = request.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(media));
    headers.insert(
        http::header::USER_AGENT,
        http::HeaderValue::from_static("kube-apiserver"),
    );
    pipeline::handle(shared.clone(), Caller::Local(administrator()), request).await
}

fn administrator() -> User {
    User {
        name: "system:apiserver".to_owned(),
        groups: vec!["system:authenticated".to_owned(), "system:masters".to_owned()],
        ..User::default()
    }
}

#[cfg(test)]
mod tests {
    use super::place;

    #[test]
    fn collections_are_stored_resources() {
        for (path, resource, namespace) in [
            ("/api/v1/namespaces", "namespaces", ""),
            ("/api/v1/namespaces/default/services", "services", "default"),
            (
                "/apis/rbac.authorization.k8s.io/v1/clusterroles",
                "clusterroles.rbac.authorization.k8s.io",
                "",
            ),
            (
                "/apis/rbac.authorization.k8s.io/v1/namespaces/x/roles",
                "roles.rbac.authorization.k8s.io",
                "x",
            ),
        ] {
            assert_eq!(place(path), (resource.to_owned(), namespace.to_owned()), "{path}");
        }
    }
}

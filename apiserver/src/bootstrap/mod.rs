//! What every cluster starts with: namespaces, the `kubernetes` Service, RBAC, flow control, APIServices.
//!
//! Objects go through the same pipeline as everybody's, made by an internal administrator, and
//! only what is missing is created: whatever people changed stays changed. Runs at every start. An
//! object that is refused is reported and skipped.

pub(crate) mod apiservices;
mod endpoints;
mod flowcontrol;
mod identity;
mod rbac;

use std::sync::Arc;

use axum::body::Body;
use coxswain_api::kinds::access;
use coxswain_api::kinds::flow::MANDATORY as MANDATORY_FLOW;
use http::{Method, Request};
use serde_json::{Value, json};

use crate::answer::Reply;
use crate::pipeline::{self, Caller};
use crate::shared::Shared;
use crate::{FrontProxy, StartError, User};

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

/// Creates what is missing.
pub(crate) async fn run(shared: &Arc<Shared>) -> Result<(), StartError> {
    let mut objects: Vec<(String, Value)> = Vec::new();
    for name in ["kube-system", "default", "kube-public", "kube-node-lease"] {
        objects.push(object("/api/v1/namespaces", json!({"metadata": {"name": name}})));
    }
    objects.push(service_cidr(shared));
    objects.push(object(
        "/api/v1/namespaces/default/services",
        kubernetes_service(shared),
    ));
    objects.extend(rbac::objects());
    if !shared.config.bare {
        objects.extend(rbac::addons());
    }
    objects.extend(flowcontrol::objects());
    objects.extend(apiservices::objects(&shared.registry()));
    for (path, value) in &objects {
        create_missing(shared, path, value).await?;
    }
    publish_authentication(shared).await?;
    if let Err(error) = identity::keep(shared).await {
        tracing::error!(%error, "this API server has no lease");
    }
    endpoints::keep(shared).await
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

/// What extension servers need to trust the same clients and the same front proxy.
fn authentication_config(shared: &Shared) -> Value {
    let mut data = json!({"client-ca-file": shared.config.client_ca_pem});
    for (key, value) in shared.config.front_proxy.iter().flat_map(FrontProxy::published) {
        data[key] = value.into();
    }
    json!({"metadata": {"name": "extension-apiserver-authentication"}, "data": data})
}

/// Creates ConfigMap `extension-apiserver-authentication`, or brings the one there up to date: authorities and names of
/// other servers of the cluster stay beside ours.
async fn publish_authentication(shared: &Arc<Shared>) -> Result<(), StartError> {
    let (collection, wanted) = (
        "/api/v1/namespaces/kube-system/configmaps",
        authentication_config(shared),
    );
    create_missing(shared, collection, &wanted).await?;
    let path = format!("{collection}/{}", access::name(&wanted));
    let mut current = body_of(send(shared, Method::GET, &path, &Value::Null).await).await;
    let before = current.clone();
    for (key, ours) in access::get(&wanted, "data").as_object().into_iter().flatten() {
        let theirs = access::str_of(access::get(&current, "data"), key).to_owned();
        current["data"][key] = with_ours(&theirs, ours.as_str().unwrap_or_default()).into();
    }
    if current != before {
        let reply = send(shared, Method::PUT, &path, &current).await;
        if !reply.status().is_success() {
            let error = refused(collection, access::name(&wanted), reply).await;
            tracing::error!(%error, "extension servers may not trust what this server trusts");
        }
    }
    Ok(())
}

/// The values of both: lists are joined, PEM texts follow each other.
fn with_ours(theirs: &str, ours: &str) -> String {
    let list = |text: &str| serde_json::from_str::<Vec<String>>(text).ok();
    match (list(theirs), list(ours)) {
        _ if theirs.trim().is_empty() => ours.to_owned(),
        (Some(mut joined), Some(ours)) => {
            let new: Vec<String> = ours.into_iter().filter(|item| !joined.contains(item)).collect();
            joined.extend(new);
            Value::from(joined).to_string()
        }
        (None, Some(_)) => ours.to_owned(),
        _ if theirs.contains(ours.trim()) => theirs.to_owned(),
        _ => format!("{}\n{ours}", theirs.trim_end()),
    }
}

async fn create_missing(shared: &Arc<Shared>, path: &str, value: &Value) -> Result<(), StartError> {
    let name = access::name(value).to_owned();
    let exists = send(shared, Method::GET, &format!("{path}/{name}"), &Value::Null).await;
    if exists.status().is_success() {
        return repair(shared, &format!("{path}/{name}"), exists, value).await;
    }
    let reply = send(shared, Method::POST, path, value).await;
    if reply.status().is_success() || reply.status().as_u16() == 409 {
        return Ok(());
    }
    let unavailable = reply.status().as_u16() >= 500;
    let error = refused(path, &name, reply).await;
    if unavailable {
        return Err(error);
    }
    // One object that is refused must not keep a cluster from starting.
    tracing::error!(%error, "a start object was refused");
    Ok(())
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
    let reply = send(shared, Method::PUT, path, &repaired).await;
    if !reply.status().is_success() {
        let error = refused(path, access::name(wanted), reply).await;
        tracing::error!(%error, "a start object was not repaired");
    }
    Ok(())
}

async fn refused(path: &str, name: &str, reply: Reply) -> StartError {
    let code = reply.status().as_u16();
    let status = body_of(reply).await;
    let why = access::str_of(&status, "message").to_owned();
    StartError::Bootstrap {
        object: format!("{path}/{name}"),
        why: format!("{code} {why}"),
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
    use super::with_ours;

    #[test]
    fn what_is_published_is_joined() {
        for (theirs, ours, want) in [
            ("", "A", "A"),
            ("A\n", "A", "A\n"),
            ("A\n", "B\n", "A\nB\n"),
            ("[\"a\"]", "[\"a\",\"b\"]", "[\"a\",\"b\"]"),
            ("[]", "[]", "[]"),
            ("broken", "[\"b\"]", "[\"b\"]"),
        ] {
            assert_eq!(with_ours(theirs, ours), want, "{theirs} {ours}");
        }
    }
}

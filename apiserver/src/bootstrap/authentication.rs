//! ConfigMap `extension-apiserver-authentication`: what extension servers need to trust the same clients and the same
//! front proxy.

use std::sync::Arc;

use coxswain_api::kinds::access;
use coxswain_store::Snapshot;
use http::Method;
use serde_json::{Value, json};

use super::{body_of, create_missing, find, is_refused, refused, send};
use crate::shared::Shared;
use crate::{FrontProxy, StartError};

const COLLECTION: &str = "/api/v1/namespaces/kube-system/configmaps";
pub(super) const RESOURCE: &str = "configmaps";

fn wanted(shared: &Shared) -> Value {
    let mut data = json!({"client-ca-file": shared.config.client_ca_pem});
    for (key, value) in shared.config.front_proxy.iter().flat_map(FrontProxy::published) {
        data[key] = value.into();
    }
    json!({"metadata": {"name": "extension-apiserver-authentication"}, "data": data})
}

/// Publishes it again when it was deleted or lacks what this server trusts.
pub(super) async fn keep(shared: &Arc<Shared>, snapshot: &Snapshot) -> Result<(), StartError> {
    let wanted = wanted(shared);
    let live = snapshot.find(RESOURCE, "kube-system", access::name(&wanted));
    let is_whole = live.is_some_and(|live| {
        let live = live.value();
        joined(&live, &wanted) == *live
    });
    if is_whole { Ok(()) } else { publish(shared).await }
}

/// Creates it, or brings the one there up to date: authorities and names of other servers of the cluster stay beside
/// ours.
///
/// # Errors
/// When it is refused.
pub(super) async fn publish(shared: &Arc<Shared>) -> Result<(), StartError> {
    let wanted = wanted(shared);
    let name = access::name(&wanted);
    let found = find(shared, COLLECTION, &wanted).await;
    if is_refused(&found) {
        return create_missing(shared, COLLECTION, &wanted).await;
    }
    let current = body_of(found).await;
    let joined = joined(&current, &wanted);
    if joined == current {
        return Ok(());
    }
    let reply = send(shared, Method::PUT, &format!("{COLLECTION}/{name}"), &joined).await;
    match is_refused(&reply) {
        false => Ok(()),
        true => Err(refused(COLLECTION, name, reply).await),
    }
}

/// The ConfigMap there is, with what this one says.
fn joined(current: &Value, wanted: &Value) -> Value {
    let mut joined = current.clone();
    for (key, ours) in access::get(wanted, "data").as_object().into_iter().flatten() {
        let theirs = access::str_of(access::get(current, "data"), key);
        let both = with_ours(theirs, ours.as_str().unwrap_or_default());
        access::set(access::child(&mut joined, "data"), key, both);
    }
    joined
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

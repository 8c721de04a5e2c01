//! `token`: issuing service account tokens.

use coxswain_api::ApiError;
use coxswain_api::field::{FieldError, Path};
use coxswain_api::kinds::access;
use coxswain_api::registry::Gvk;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::admission::node_restriction::check_token;
use crate::answer::{self, Reply, now_text};
use crate::authn::{Bound, Grant};
use crate::body;
use crate::call::Call;
use crate::options::WriteOptions;

const LIFETIME_DEFAULT_S: i64 = 3600;
const LIFETIME_MIN_S: i64 = 600;
const LIFETIME_MAX_S: i64 = 1 << 32;

/// Runs the request.
pub(super) async fn request(call: &Call) -> Result<Reply, ApiError> {
    let options = WriteOptions::from_call(call, "CreateOptions")?;
    let kind = Gvk::new("authentication.k8s.io", "v1", "TokenRequest");
    let mut request = body::decode_builtin(call, &kind, options.validation)?;
    let snapshot = call.snapshot();
    let account = &call.path.name;
    let name = access::name(&request);
    if !name.is_empty() && name != account {
        let path = Path::new("metadata").child("name");
        let error = FieldError::invalid(&path, name, "must match the service account name if specified");
        return Err(ApiError::invalid(&kind.group, &kind.kind, account, vec![error]));
    }
    let stored = snapshot
        .get(&call.key(account))
        .ok_or_else(|| call.not_found(account))?;
    let (given, uid) = (access::text(&request, "/metadata/uid"), &stored.head.uid);
    if !given.is_empty() && given != uid {
        let why =
            format!("the UID in the token request ({given}) does not match the UID of the service account ({uid})");
        return Err(ApiError::conflict(&kind.group, &kind.kind, account, &why));
    }
    check_token(call, &request, &snapshot)?;
    let spec = access::get(&request, "spec").clone();
    let lifetime_s = access::int_of(&spec, "expirationSeconds").unwrap_or(LIFETIME_DEFAULT_S);
    check_lifetime(lifetime_s)?;
    let tokens = &call.server.tokens;
    let mut audiences = access::texts(&spec, "audiences");
    if audiences.is_empty() {
        audiences.push(tokens.default_audience().to_owned());
    }
    let (bound, node) = bound_object(call, access::get(&spec, "boundObjectRef"))?;
    let now_s = answer::now().as_second();
    let grant = Grant {
        namespace: &call.path.namespace,
        account,
        account_uid: &stored.head.uid,
        audiences: &audiences,
        now_s,
        lifetime_s,
        bound: bound.as_ref(),
        node,
    };
    let token = tokens.issue(&grant).map_err(ApiError::internal)?;
    let expires = Timestamp::from_second(now_s.saturating_add(lifetime_s)).unwrap_or_default();
    let reference = spec.get("boundObjectRef").cloned().unwrap_or(Value::Null);
    access::set(
        &mut request,
        "metadata",
        json!({
            "name": account, "namespace": call.path.namespace, "uid": stored.head.uid, "creationTimestamp": now_text(),
        }),
    );
    access::set(
        &mut request,
        "spec",
        json!({"audiences": audiences, "expirationSeconds": lifetime_s, "boundObjectRef": reference}),
    );
    let expires = expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    access::set(
        &mut request,
        "status",
        json!({"token": token, "expirationTimestamp": expires}),
    );
    Ok(answer::plain(call, 201, &request))
}

fn check_lifetime(seconds: i64) -> Result<(), ApiError> {
    let detail = if seconds < LIFETIME_MIN_S {
        "may not specify a duration less than 10 minutes"
    } else if seconds > LIFETIME_MAX_S {
        "may not specify a duration larger than 2^32 seconds"
    } else {
        return Ok(());
    };
    let path = Path::new("spec").child("expirationSeconds");
    let error = FieldError::invalid(&path, seconds, detail);
    Err(ApiError::invalid(
        "authentication.k8s.io",
        "TokenRequest",
        "",
        vec![error],
    ))
}

/// The object the token is to be bound to, and for a pod its node.
type BoundAndNode = (Option<Bound>, Option<(String, String)>);

fn bound_object(call: &Call, reference: &Value) -> Result<BoundAndNode, ApiError> {
    if !reference.is_object() {
        return Ok((None, None));
    }
    let kind = access::str_of(reference, "kind");
    let name = access::str_of(reference, "name");
    let (resource, namespace) = match kind {
        "Pod" => ("pods", call.path.namespace.as_str()),
        "Secret" => ("secrets", call.path.namespace.as_str()),
        "Node" => ("nodes", ""),
        other => {
            let version = access::str_of(reference, "apiVersion");
            let separator = if version.contains('/') { "" } else { "/" };
            return Err(ApiError::bad_request(format!(
                "cannot bind token to object of type {separator}{version}, Kind={other}"
            )));
        }
    };
    let snapshot = call.snapshot();
    let stored = snapshot
        .find(resource, namespace, name)
        .ok_or_else(|| ApiError::not_found("", resource, name))?;
    let wanted = access::str_of(reference, "uid");
    if !wanted.is_empty() && wanted != stored.head.uid {
        let why = format!(
            "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been \
             deleted and then recreated"
        );
        // Named by its kind, as Kubernetes does here.
        return Err(ApiError::conflict("", kind, name, &why));
    }
    let mut node = None;
    if kind == "Pod" {
        let pod = stored.value();
        if access::text(&pod, "/spec/serviceAccountName") != call.path.name {
            let message = format!(
                "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                call.path.name
            );
            return Err(ApiError::bad_request(message));
        }
        let node_name = access::text(&pod, "/spec/nodeName");
        if !node_name.is_empty() {
            let uid = snapshot
                .find("nodes", "", node_name)
                .map(|node| node.head.uid.clone())
                .unwrap_or_default();
            node = Some((node_name.to_owned(), uid));
        }
    }
    Ok((
        Some(Bound {
            kind: kind.to_owned(),
            name: name.to_owned(),
            uid: stored.head.uid.clone(),
        }),
        node,
    ))
}

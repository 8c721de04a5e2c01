//! What lies below an object's path, and the resources that are not stored at all.

mod binding;
mod components;
mod connect;
mod eviction;
mod html;
pub(crate) mod kubelet;
mod proxy;
mod reviews;
mod scale;
mod token;

use coxswain_api::ApiError;
use http::Method;

use crate::admission;
use crate::answer::Reply;
use crate::call::Call;
use crate::verbs;

pub(crate) use binding::place;
pub(crate) use connect::connect;

/// Whether a subresource is a stream to a node and not an object.
pub(crate) fn connects(subresource: &str) -> bool {
    matches!(subresource, "log" | "exec" | "attach" | "portforward" | "proxy")
}

/// Runs a subresource that is an object.
pub(crate) async fn dispatch(call: &Call, method: &Method) -> Result<Reply, ApiError> {
    let sub = call.path.subresource.as_str();
    if *method == Method::POST {
        admission::enter(call, &call.snapshot(), &call.path.name)?;
    }
    match (sub, method) {
        ("scale", _) => scale::scale(call, method).await,
        ("binding", _) => binding::bind(call, &call.path.name).await,
        ("eviction", _) => eviction::evict(call).await,
        ("token", _) => token::request(call).await,
        (_, &Method::GET | &Method::HEAD) => verbs::get::get(call).await,
        (_, &Method::PUT) => verbs::update::update(call, Some(sub)).await,
        (_, &Method::PATCH) => verbs::patch::patch_object(call, Some(sub)).await,
        _ => Err(ApiError::method_not_allowed(
            &call.row.group,
            &call.row.plural,
            method.as_str(),
        )),
    }
}

/// Runs a resource that is not stored: reviews, bindings, component statuses.
pub(crate) async fn virtual_resource(call: &Call, verb: &str) -> Result<Reply, ApiError> {
    match &*call.row.plural {
        "bindings" => binding::bind_by_body(call).await,
        "componentstatuses" if verb == "list" => components::list(call),
        "componentstatuses" => components::get(call),
        _ => reviews::review(call).await,
    }
}

//! What a user may do.
//!
//! [`Attributes`] describe one request; an [`Authorizer`] answers. The server asks two, in order:
//! `system:masters` may do everything; everybody else is decided by RBAC from the roles and
//! bindings in the store.

mod rbac;

pub(crate) use rbac::{Rbac, covers};

use coxswain_api::ApiError;
use coxswain_store::Snapshot;

use crate::User;

/// One request as authorisation sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Attributes {
    /// `get`, `list`, `create`, ... or the lower-case method for paths outside the API.
    pub verb: String,
    /// The request is about a resource; otherwise only `verb` and `path` count.
    pub is_resource: bool,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub path: String,
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Decision {
    /// Allowed, with the reason when there is one to tell.
    Allow(String),
    /// Nothing allows it; somebody else may.
    NoOpinion,
}

/// Decides about requests.
pub(crate) trait Authorizer: Send + Sync {
    /// Whether `user` may do what `attributes` say, as of `snapshot`.
    fn decide(&self, user: &User, attributes: &Attributes, snapshot: &Snapshot) -> Decision;
}

/// Members of `system:masters` may do everything.
struct Masters;

impl Authorizer for Masters {
    fn decide(&self, user: &User, _attributes: &Attributes, _snapshot: &Snapshot) -> Decision {
        if user.groups.iter().any(|group| group == "system:masters") {
            Decision::Allow(String::new())
        } else {
            Decision::NoOpinion
        }
    }
}

/// Asks the authorisers in order.
pub(crate) fn decide(rbac: &Rbac, user: &User, attributes: &Attributes, snapshot: &Snapshot) -> Decision {
    let authorizers: [&dyn Authorizer; 2] = [&Masters, rbac];
    authorizers
        .iter()
        .map(|authorizer| authorizer.decide(user, attributes, snapshot))
        .find(|decision| *decision != Decision::NoOpinion)
        .unwrap_or(Decision::NoOpinion)
}

/// The 403 for a refused request.
pub(crate) fn refusal(user: &User, attributes: &Attributes) -> ApiError {
    let name = &user.name;
    if !attributes.is_resource {
        let why = format!("User {name:?} cannot {} path {:?}", attributes.verb, attributes.path);
        let mut error = ApiError::forbidden("", "", "", why);
        error.details = Some(serde_json::json!({}));
        return error;
    }
    let resource = if attributes.subresource.is_empty() {
        attributes.resource.clone()
    } else {
        format!("{}/{}", attributes.resource, attributes.subresource)
    };
    let place = if attributes.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {:?}", attributes.namespace)
    };
    let why = format!(
        "User {name:?} cannot {} resource {resource:?} in API group {:?} {place}",
        attributes.verb, attributes.group
    );
    ApiError::forbidden(&attributes.group, &attributes.resource, &attributes.name, why)
}

//! What a user may do.
//!
//! [`Attributes`] describe one request; an [`Authorizer`] answers. The server asks three, in order:
//! `system:masters` may do everything, nodes may do what their pods need ([`node`]), and everybody
//! is decided by RBAC from the roles and bindings in the store.

mod covers;
pub(crate) mod node;
mod rbac;
pub(crate) mod request;

pub(crate) use covers::{Spaced, missing};
pub(crate) use rbac::Rbac;

use coxswain_api::ApiError;
use coxswain_consensus::Store;
use coxswain_store::Snapshot;

use crate::User;
use node::NodeAuthorizer;

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
    /// Fields that the request's selector requires to have a value.
    pub fields: Vec<(String, String)>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Decision {
    /// Allowed, with the reason when there is one to tell.
    Allow(String),
    /// Nothing allows it; somebody else may. With the reason when there is one to tell.
    NoOpinion(String),
}

impl Decision {
    /// Whether it was allowed.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Decision::Allow(_))
    }
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
        if user.is_in("system:masters") {
            Decision::Allow(String::new())
        } else {
            Decision::NoOpinion(String::new())
        }
    }
}

/// All authorisers of a server.
pub(crate) struct Authorizers {
    pub rbac: Rbac,
    node: NodeAuthorizer,
}

impl Authorizers {
    /// The authorisers over a store.
    pub fn new(store: &Store) -> Self {
        Self {
            rbac: Rbac::default(),
            node: NodeAuthorizer::new(store.clone(), crate::bootstrap::rules_of("system:node")),
        }
    }

    /// Asks them in order; the first that allows ends it, refusals collect their reasons.
    pub fn decide(&self, user: &User, attributes: &Attributes, snapshot: &Snapshot) -> Decision {
        let authorizers: [&dyn Authorizer; 3] = [&Masters, &self.node, &self.rbac];
        let mut reasons: Vec<String> = Vec::new();
        for authorizer in authorizers {
            match authorizer.decide(user, attributes, snapshot) {
                Decision::Allow(reason) => return Decision::Allow(reason),
                Decision::NoOpinion(reason) if reason.is_empty() => {}
                Decision::NoOpinion(reason) => reasons.push(reason),
            }
        }
        Decision::NoOpinion(reasons.join("\n"))
    }
}

/// The 403 for a refused request.
pub(crate) fn refusal(user: &User, attributes: &Attributes, reason: &str) -> ApiError {
    let name = &user.name;
    let because = if reason.is_empty() {
        String::new()
    } else {
        format!(": {reason}")
    };
    if !attributes.is_resource {
        let why = format!(
            "User {name:?} cannot {} path {:?}{because}",
            attributes.verb, attributes.path
        );
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
        "User {name:?} cannot {} resource {resource:?} in API group {:?} {place}{because}",
        attributes.verb, attributes.group
    );
    ApiError::forbidden(&attributes.group, &attributes.resource, &attributes.name, why)
}

//! The one error of the API side and its rendering as a `metav1.Status`.
//!
//! Every refusal that a client can see is an [`ApiError`]; its texts are Kubernetes' texts because clients
//! match on them. It is turned into bytes once, at the edge.

use std::fmt::{self, Display};

use serde_json::{Map, Value, json};

use crate::field::{self, ErrorList};

/// A refusal with its HTTP status code, machine-readable reason and human sentence.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    pub code: u16,
    /// The `reason` of the Status; empty leaves it out.
    pub reason: &'static str,
    pub message: String,
    /// The `details` of the Status; `None` leaves them out, `{}` is printed as such.
    pub details: Option<Value>,
    /// What the `Retry-After` header should say, in seconds.
    pub retry_after_s: Option<u32>,
}

impl std::error::Error for ApiError {}

impl Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl ApiError {
    /// An error without details.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: None,
            retry_after_s: None,
        }
    }

    fn with_details(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }

    /// 404 for an object; `resource` is the plural.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        Self::new(
            404,
            "NotFound",
            format!("{} {} not found", qualified(resource, group), field::quote(name)),
        )
        .with_details(object_details(group, resource, name))
    }

    /// 404 for a resource or subresource that this server does not serve below a known prefix.
    pub fn unknown_resource() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource").with_details(json!({}))
    }

    /// 404 for a path outside the API; it is answered as text, see [`ApiError::is_plain_text`].
    pub fn page_not_found() -> Self {
        Self::new(404, "", "404 page not found\n")
    }

    /// True when the answer is the bare message as `text/plain; charset=utf-8` and not a Status.
    pub fn is_plain_text(&self) -> bool {
        self.code == 404 && self.reason.is_empty()
    }

    /// 409 on creating a name that is taken.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {} already exists", qualified(resource, group), field::quote(name));
        Self::new(409, "AlreadyExists", message).with_details(object_details(group, resource, name))
    }

    /// 409 because of a failed precondition or a lost race.
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let subject = qualified(resource, group);
        let message = format!(
            "Operation cannot be fulfilled on {subject} {}: {why}",
            field::quote(name)
        );
        Self::new(409, "Conflict", message).with_details(object_details(group, resource, name))
    }

    /// 409 because the resourceVersion sent is not the current one.
    pub fn modified(group: &str, resource: &str, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(group, resource, name, why)
    }

    /// 422 with one cause per field error.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: impl Into<ErrorList>) -> Self {
        let errors = errors.into();
        let subject = qualified(kind, group);
        let message = format!("{subject} {} is invalid: {}", field::quote(name), field::join(&errors));
        let causes: Vec<Value> = errors.iter().map(field::FieldError::cause).collect();
        let mut details = object_details(group, kind, name);
        if let (Some(map), false) = (details.as_object_mut(), causes.is_empty()) {
            map.insert("causes".into(), Value::Array(causes));
        }
        Self::new(422, "Invalid", message).with_details(details)
    }

    /// 400 with the given sentence.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 403 for an object (or for the whole resource when `name` is empty).
    pub fn forbidden(group: &str, resource: &str, name: &str, why: impl Display) -> Self {
        let subject = qualified(resource, group);
        let message = match (subject.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {why}"),
            (_, true) => format!("{subject} is forbidden: {why}"),
            _ => format!("{subject} {} is forbidden: {why}", field::quote(name)),
        };
        Self::new(403, "Forbidden", message).with_details(object_details(group, resource, name))
    }

    /// 405. The arguments only document the call: Kubernetes does not repeat them in its answer.
    pub fn method_not_allowed(_group: &str, _resource: &str, _verb: &str) -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(405, "MethodNotAllowed", message).with_details(json!({}))
    }

    /// 405 for a verb that the resource itself refuses, with the verb named.
    pub fn verb_not_supported(group: &str, resource: &str, verb: &str) -> Self {
        let message = format!(
            "{verb} is not supported on resources of kind {}",
            field::quote(&qualified(resource, group))
        );
        Self::new(405, "MethodNotAllowed", message).with_details(object_details(group, resource, ""))
    }

    /// 410 for a continue token or resourceVersion that is compacted; clients start over.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 410 for something that is gone for good.
    pub fn gone(message: impl Into<String>) -> Self {
        Self::new(410, "Gone", message)
    }

    /// 504: the request ran out of time.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(504, "Timeout", message)
    }

    /// 500 with the given cause.
    pub fn internal(message: impl Into<String>) -> Self {
        let cause = message.into();
        let causes = json!({"causes": [{"message": cause}]});
        Self::new(500, "InternalError", format!("Internal error occurred: {cause}")).with_details(causes)
    }

    /// 413 with the given sentence.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(413, "RequestEntityTooLarge", message)
    }

    /// 413 for a body above `bytes_max` bytes.
    pub fn body_too_large(bytes_max: usize) -> Self {
        Self::too_large(format!("Request entity too large: limit is {bytes_max}"))
    }

    /// 415; `accepted` lists what the body may be.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// 406; `accepted` lists what can be served.
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", accepted.join(", "));
        Self::new(406, "NotAcceptable", message)
    }

    /// 429; `retry_after_s` goes into the header and the details.
    pub fn too_many_requests(message: impl Into<String>, retry_after_s: u32) -> Self {
        let mut error = Self::new(429, "TooManyRequests", message);
        if retry_after_s > 0 {
            error.details = Some(json!({"retryAfterSeconds": retry_after_s}));
            error.retry_after_s = Some(retry_after_s);
        }
        error
    }

    /// 503: try again later.
    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// The `metav1.Status` object that the client receives.
    pub fn to_status(&self) -> Value {
        let mut status = Map::new();
        status.insert("kind".into(), "Status".into());
        status.insert("apiVersion".into(), "v1".into());
        status.insert("metadata".into(), json!({}));
        status.insert("status".into(), "Failure".into());
        if !self.message.is_empty() {
            status.insert("message".into(), self.message.clone().into());
        }
        if !self.reason.is_empty() {
            status.insert("reason".into(), self.reason.into());
        }
        if let Some(details) = &self.details {
            status.insert("details".into(), details.clone());
        }
        status.insert("code".into(), self.code.into());
        Value::Object(status)
    }
}

/// The Status of a successful request that returns no object, such as a finished delete.
pub fn success(details: Option<Value>) -> Value {
    let mut status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
    if let (Some(map), Some(details)) = (status.as_object_mut(), details) {
        map.insert("details".into(), details);
    }
    status
}

/// `deployments.apps`, or just `pods` for the core group.
fn qualified(resource: &str, group: &str) -> String {
    if group.is_empty() {
        resource.to_owned()
    } else {
        format!("{resource}.{group}")
    }
}

fn object_details(group: &str, kind: &str, name: &str) -> Value {
    let mut details = Map::new();
    for (key, value) in [("name", name), ("group", group), ("kind", kind)] {
        if !value.is_empty() {
            details.insert(key.into(), value.into());
        }
    }
    Value::Object(details)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::{Path, required};

    #[test]
    fn texts_are_kubernetes_texts() {
        let cases = [
            (ApiError::not_found("", "pods", "x"), "pods \"x\" not found"),
            (
                ApiError::not_found("apps", "deployments", "x"),
                "deployments.apps \"x\" not found",
            ),
            (ApiError::already_exists("", "pods", "x"), "pods \"x\" already exists"),
            (ApiError::forbidden("", "pods", "", "no"), "pods is forbidden: no"),
            (
                ApiError::forbidden("", "pods", "a", "no"),
                "pods \"a\" is forbidden: no",
            ),
        ];
        for (error, text) in cases {
            assert_eq!(error.message, text);
        }
    }

    #[test]
    fn invalid_lists_its_causes() {
        let error = ApiError::invalid("apps", "Deployment", "d", vec![required(&Path::new("spec"), "")]);
        assert_eq!(error.message, "Deployment.apps \"d\" is invalid: spec: Required value");
        let expected = json!({"name": "d", "group": "apps", "kind": "Deployment",
            "causes": [{"reason": "FieldValueRequired", "message": "Required value", "field": "spec"}]});
        assert_eq!(error.to_status()["details"], expected);
    }
}

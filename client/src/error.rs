//! What can go wrong between a client and the API server, and the few classes callers act on.

use thiserror::Error;

/// A failed call or a client that could not be built.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The kubeconfig or the credentials could not be used.
    #[error("cannot use the cluster configuration: {0}")]
    Config(String),
    /// The API server answered with an error, or could not be reached.
    #[error("{operation}: {source}")]
    Call {
        /// What was tried, for people.
        operation: String,
        /// The cause.
        #[source]
        source: Box<kube::Error>,
    },
    /// The answer was not what the path promises.
    #[error("{operation}: unexpected answer: {detail}")]
    Answer {
        /// What was tried, for people.
        operation: String,
        /// What was wrong with the answer.
        detail: String,
    },
}

/// The classes of failure that change what a caller does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The object (or its namespace) is not there (404).
    NotFound,
    /// An object of that name exists already (409 AlreadyExists).
    AlreadyExists,
    /// The object changed in between (409 Conflict).
    Conflict,
    /// The namespace is being emptied (403 with cause NamespaceTerminating).
    NamespaceTerminating,
    /// The object was refused as invalid (422).
    Invalid,
    /// Not allowed (401, 403).
    Forbidden,
    /// The requested revision is gone (410).
    Expired,
    /// Asked to come back later (429, for evictions: a disruption budget).
    TooManyRequests,
    /// Anything else: network, server error, timeout. Worth a retry.
    Other,
}

/// Classifies a failed call.
pub fn failure(error: &kube::Error) -> Failure {
    let kube::Error::Api(status) = error else {
        return Failure::Other;
    };
    let terminating = status
        .details
        .as_ref()
        .is_some_and(|d| d.causes.iter().any(|c| c.reason == "NamespaceTerminating"));
    match (status.code, status.reason.as_str()) {
        (403, _) if terminating => Failure::NamespaceTerminating,
        (404, _) => Failure::NotFound,
        (409, "AlreadyExists") => Failure::AlreadyExists,
        (409, _) => Failure::Conflict,
        (410, _) => Failure::Expired,
        (422, _) => Failure::Invalid,
        (429, _) => Failure::TooManyRequests,
        (401 | 403, _) => Failure::Forbidden,
        _ => Failure::Other,
    }
}

/// The message of a failed call as the server worded it.
pub fn message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

impl ClientError {
    /// The class of this failure.
    pub fn failure(&self) -> Failure {
        match self {
            ClientError::Call { source, .. } => failure(source),
            _ => Failure::Other,
        }
    }
}

//! What a reconcile can fail with; the queue logs it once and tries again.

use coxswain_client::{ClientError, Failure, failure};
use thiserror::Error;

/// A controller could not do its work.
#[derive(Debug, Error)]
pub enum ControllerError {
    /// A write or a read was refused or did not arrive.
    #[error("{operation}: {source}")]
    Call {
        /// What was tried.
        operation: String,
        /// Why it failed.
        #[source]
        source: Box<coxswain_client::kube::Error>,
    },
    /// A raw request failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The configuration cannot be used.
    #[error("{0}")]
    Config(String),
}

impl ControllerError {
    /// The class of the failure.
    pub(crate) fn failure(&self) -> Failure {
        match self {
            ControllerError::Call { source, .. } => failure(source),
            ControllerError::Client(error) => error.failure(),
            _ => Failure::Other,
        }
    }

    /// The server's own words.
    pub(crate) fn message(&self) -> String {
        match self {
            ControllerError::Call { source, .. } => coxswain_client::message(source),
            other => other.to_string(),
        }
    }
}

/// Names the operation that failed.
pub(crate) fn call(operation: impl Into<String>) -> impl FnOnce(coxswain_client::kube::Error) -> ControllerError {
    let operation = operation.into();
    move |source| ControllerError::Call {
        operation,
        source: Box::new(source),
    }
}

//! Certificate signing requests: approves those of nodes, signs what is approved, clears away what is old.
//!
//! Watches CertificateSigningRequests and Nodes. Client certificates of nodes are approved when the requester
//! may have them approved (an access review asks), serving certificates when they name only what their Node
//! reports as its addresses. Signs for the four `kubernetes.io/` signers, with the cluster's authority.
//! Does not: approve anything else, or renew the authority.

mod der;
mod request;
mod sign;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use coxswain_client::k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use coxswain_client::k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use coxswain_client::k8s_openapi::api::core::v1::Node;
use coxswain_client::kube::api::PostParams;
use coxswain_client::{Cache, Client, Failure, Next, ObjectKey, Queue};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::context::{Context, MANAGER};
use crate::error::{ControllerError, call};
use crate::{single, writes};
use request::{Age, Request, State};
pub use sign::Signer;

/// Who approves the serving certificates of nodes; in Kubernetes an add-on does.
const SERVING_APPROVER: &str = "kubelet-serving-approver";

struct Certificates {
    context: Context,
    requests: Cache<CertificateSigningRequest>,
    nodes: Cache<Node>,
    signer: Option<Signer>,
}

/// Runs until cancelled.
pub(crate) async fn run(context: Context) {
    let signer = match context.config.signer.as_ref().map(Signer::open) {
        Some(Err(error)) => {
            tracing::error!(%error, "certificate requests are not signed");
            None
        }
        Some(Ok(signer)) => Some(signer),
        None => None,
    };
    let controller = Arc::new(Certificates {
        requests: context.caches.of(),
        nodes: context.caches.of(),
        signer,
        context: context.clone(),
    });
    controller.requests.synced().await;
    controller.nodes.synced().await;
    let queue = Queue::new();
    let requests = controller.requests.clone();
    let wake = single::wake(&controller.requests, &queue, |change| vec![change.key.clone()]);
    // A node's addresses may be what a pending request waits for.
    let wake_nodes = single::wake(&controller.nodes, &queue, |_| {
        let pending = requests.list();
        let pending = pending.iter().filter(|csr| request::state(csr) == State::Pending);
        pending.map(|csr| ObjectKey::of(&csr.metadata)).collect()
    });
    let work = single::reconcile("certificates", &context, &queue, &controller, |c, key| async move {
        c.reconcile(&key).await
    });
    tokio::join!(wake, wake_nodes, work);
}

impl Certificates {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, ControllerError> {
        let Some(csr) = self.requests.by_key(key) else {
            return Ok(Next::Done);
        };
        let now = Timestamp::now();
        match request::age(&csr, now) {
            Age::Old => {
                let api = self.context.client.api::<CertificateSigningRequest>();
                writes::delete(&api, &csr.metadata, None).await?;
                Ok(Next::Done)
            }
            Age::Until(left) => match request::state(&csr) {
                State::Pending => {
                    self.approve(&csr).await?;
                    Ok(Next::After(left))
                }
                State::Approved => {
                    self.sign(&csr, now).await?;
                    Ok(Next::After(left))
                }
                State::Finished => Ok(Next::After(left)),
            },
        }
    }

    async fn approve(&self, csr: &CertificateSigningRequest) -> Result<(), ControllerError> {
        let Ok(request) = Request::parse(&csr.spec.request.0) else {
            return Ok(());
        };
        let (client, message) = match csr.spec.signer_name.as_str() {
            request::NODE_CLIENT if request::check(csr, &request).is_ok() => {
                let user = csr.spec.username.as_deref().unwrap_or_default();
                let own = request.common_name == user;
                let kinds: &[(&str, &str)] = if own {
                    &[
                        (
                            "selfnodeclient",
                            "Auto approving self kubelet client certificate after SubjectAccessReview.",
                        ),
                        (
                            "nodeclient",
                            "Auto approving kubelet client certificate after SubjectAccessReview.",
                        ),
                    ]
                } else {
                    &[(
                        "nodeclient",
                        "Auto approving kubelet client certificate after SubjectAccessReview.",
                    )]
                };
                let mut allowed = None;
                for (subresource, message) in kinds {
                    if allowed.is_none() && self.may(csr, subresource).await? {
                        allowed = Some(*message);
                    }
                }
                match allowed {
                    Some(message) => (self.context.client.clone(), message),
                    None => return Ok(()),
                }
            }
            request::NODE_SERVING if request::check(csr, &request).is_ok() => {
                let node = request.common_name.strip_prefix("system:node:").unwrap_or_default();
                let node = self.nodes.get("", node);
                if !node.is_some_and(|node| request::is_of_node(csr, &request, &node)) {
                    return Ok(());
                }
                let message = "Auto approving kubelet serving certificate: it names only the addresses of its node.";
                (self.context.account(SERVING_APPROVER), message)
            }
            _ => return Ok(()),
        };
        let condition = json!({"type": "Approved", "status": "True", "reason": "AutoApproved", "message": message});
        write(&client, csr, "approval", json!({"conditions": with(csr, condition)})).await
    }

    /// Whether the requester may have such a certificate.
    async fn may(&self, csr: &CertificateSigningRequest, subresource: &str) -> Result<bool, ControllerError> {
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: csr.spec.username.clone(),
                groups: csr.spec.groups.clone(),
                uid: csr.spec.uid.clone(),
                extra: csr.spec.extra.clone(),
                resource_attributes: Some(ResourceAttributes {
                    group: Some("certificates.k8s.io".to_string()),
                    resource: Some("certificatesigningrequests".to_string()),
                    verb: Some("create".to_string()),
                    subresource: Some(subresource.to_string()),
                    version: Some("*".to_string()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api = self.context.client.api::<SubjectAccessReview>();
        let answer = api.create(&PostParams::default(), &review).await;
        let answer = answer.map_err(call("asking whether a node's certificate may be approved"))?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }

    async fn sign(&self, csr: &CertificateSigningRequest, now: Timestamp) -> Result<(), ControllerError> {
        let Some(signer) = self.signer.as_ref().filter(|_| request::is_ours(&csr.spec.signer_name)) else {
            return Ok(());
        };
        let checked = Request::parse(&csr.spec.request.0).and_then(|request| {
            request::check(csr, &request)?;
            Ok(request)
        });
        let status = match checked {
            Ok(request) => {
                let pem = signer
                    .sign(&request, csr, now)
                    .map_err(|error| ControllerError::Config(format!("signing a certificate: {error}")))?;
                json!({"certificate": request::base64(pem.as_bytes()), "conditions": conditions(csr)})
            }
            Err(why) => {
                let condition =
                    json!({"type": "Failed", "status": "True", "reason": "SignerValidationFailure", "message": why});
                json!({"conditions": with(csr, condition)})
            }
        };
        write(&self.context.client, csr, "status", status).await
    }
}

fn conditions(csr: &CertificateSigningRequest) -> Value {
    json!(
        csr.status
            .as_ref()
            .and_then(|status| status.conditions.clone())
            .unwrap_or_default()
    )
}

fn with(csr: &CertificateSigningRequest, condition: Value) -> Value {
    let mut all = conditions(csr);
    if let Some(list) = all.as_array_mut() {
        list.push(condition);
    }
    all
}

/// Replaces a subresource; somebody else being faster is fine, their event is on its way.
async fn write(
    client: &Client,
    csr: &CertificateSigningRequest,
    subresource: &str,
    status: Value,
) -> Result<(), ControllerError> {
    let name = csr.metadata.name.as_deref().unwrap_or_default();
    let mut body = json!(csr);
    body["apiVersion"] = json!("certificates.k8s.io/v1");
    body["kind"] = json!("CertificateSigningRequest");
    body["status"] = status;
    let path =
        format!("/apis/certificates.k8s.io/v1/certificatesigningrequests/{name}/{subresource}?fieldManager={MANAGER}");
    let written = client
        .request::<Value>(http::Method::PUT, &path, &[], Some(&body))
        .await;
    match written {
        Ok(_) => Ok(()),
        Err(error) => match error.failure() {
            Failure::Conflict | Failure::NotFound => Ok(()),
            _ => Err(error.into()),
        },
    }
}

/// How long a request of a state is kept.
const KEPT: [(State, Duration); 2] = [
    (State::Pending, Duration::from_secs(24 * 3600)),
    (State::Finished, Duration::from_secs(3600)),
];

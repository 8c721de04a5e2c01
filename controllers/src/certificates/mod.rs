//! Certificate signing requests: approves those of nodes, signs what is approved, clears away what is old.
//!
//! Watches CertificateSigningRequests, Nodes, Services, and what tells where the API servers are. Client certificates of
//! nodes are approved when the requester may have them approved (an access review asks), serving certificates when they
//! name only the node itself, by what others than the node know of it (`serving`). A request of a node that is not approved
//! gets the condition `NotApproved`, and an event, which say why; a person may still approve it.
//! Signs for the four `kubernetes.io/` signers, with the cluster's CA. Does not: approve anything else, or renew the CA.

mod der;
mod request;
mod serving;
mod sign;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use coxswain_client::k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use coxswain_client::k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use coxswain_client::k8s_openapi::api::coordination::v1::Lease;
use coxswain_client::k8s_openapi::api::core::v1::{Node, Service};
use coxswain_client::k8s_openapi::api::discovery::v1::EndpointSlice;
use coxswain_client::kube::api::PostParams;
use coxswain_client::{Cache, Client, Failure, Next, ObjectKey, Queue, Scope};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::context::{Context, MANAGER};
use crate::error::{ControllerError, call};
use crate::{single, writes};
use request::{Age, Request, State};
use serving::Known;
pub use sign::Signer;

/// Who approves the serving certificates of nodes; in Kubernetes an add-on does.
const SERVING_APPROVER: &str = "kubelet-serving-approver";
/// Condition of a node's request that nobody but a person will approve as things are.
const NOT_APPROVED: &str = "NotApproved";

struct Certificates {
    context: Context,
    requests: Cache<CertificateSigningRequest>,
    nodes: Cache<Node>,
    services: Cache<Service>,
    servers: Cache<Lease>,
    slices: Cache<EndpointSlice>,
    signer: Option<Signer>,
}

/// What becomes of a pending request.
enum Verdict {
    /// By whom, and the message.
    Approve(Client, &'static str),
    /// The reason and the message.
    Refuse(&'static str, String),
    /// It is for a person alone.
    Leave,
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
    let servers = Scope {
        namespace: Some("kube-system".to_string()),
        labels: Some("apiserver.kubernetes.io/identity=kube-apiserver".to_string()),
        ..Scope::default()
    };
    let controller = Arc::new(Certificates {
        requests: context.caches.of(),
        nodes: context.caches.of(),
        services: context.caches.of(),
        servers: context.caches.scoped(servers),
        slices: context.caches.of(),
        signer,
        context: context.clone(),
    });
    controller.requests.synced().await;
    controller.nodes.synced().await;
    controller.services.synced().await;
    controller.servers.synced().await;
    controller.slices.synced().await;
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
        let (client, subresource, condition) = match self.verdict(csr).await? {
            Verdict::Leave => return Ok(()),
            Verdict::Approve(client, message) => {
                let condition =
                    json!({"type": "Approved", "status": "True", "reason": "AutoApproved", "message": message});
                (client, "approval", condition)
            }
            Verdict::Refuse(reason, message) => {
                let said = csr.status.iter().flat_map(|status| status.conditions.iter().flatten());
                let mut said = said.filter(|condition| condition.type_ == NOT_APPROVED);
                if said.any(|condition| condition.message.as_deref() == Some(&message)) {
                    return Ok(());
                }
                self.context.recorder.warning(csr, NOT_APPROVED, &message);
                let condition = json!({"type": NOT_APPROVED, "status": "True", "reason": reason, "message": message});
                (self.context.client.clone(), "status", condition)
            }
        };
        write(&client, csr, subresource, json!({"conditions": with(csr, condition)})).await
    }

    async fn verdict(&self, csr: &CertificateSigningRequest) -> Result<Verdict, ControllerError> {
        let signer = csr.spec.signer_name.as_str();
        if ![request::NODE_CLIENT, request::NODE_SERVING].contains(&signer) {
            return Ok(Verdict::Leave);
        }
        let request = match Request::parse(&csr.spec.request.0) {
            Ok(request) => request,
            Err(why) => return Ok(Verdict::Refuse("RequestNotReadable", why)),
        };
        if let Err(why) = request::check(csr, &request) {
            return Ok(Verdict::Refuse("RequestNotAllowed", why));
        }
        if signer == request::NODE_SERVING {
            return Ok(match serving::check(csr, &request, &self.known()) {
                Ok(()) => Verdict::Approve(
                    self.context.account(SERVING_APPROVER),
                    "Auto approving kubelet serving certificate: it names only its node, by addresses known from elsewhere.",
                ),
                Err(why) => Verdict::Refuse("NamesNotAllowed", why),
            });
        }
        let user = csr.spec.username.as_deref().unwrap_or_default();
        let kinds = [
            (
                "selfnodeclient",
                "Auto approving self kubelet client certificate after SubjectAccessReview.",
            ),
            (
                "nodeclient",
                "Auto approving kubelet client certificate after SubjectAccessReview.",
            ),
        ];
        let own = request.common_name == user;
        for (subresource, message) in kinds.into_iter().filter(|(kind, _)| own || *kind == "nodeclient") {
            if self.may(csr, subresource).await? {
                return Ok(Verdict::Approve(self.context.client.clone(), message));
            }
        }
        let why =
            format!("user {user:?} may not create certificatesigningrequests/nodeclient, nor ask for its own node");
        Ok(Verdict::Refuse("RequesterNotAllowed", why))
    }

    fn known(&self) -> Known {
        let of_servers = |slice: &EndpointSlice| {
            let labels = slice.metadata.labels.as_ref();
            labels
                .and_then(|labels| labels.get("kubernetes.io/service-name"))
                .map(String::as_str)
                == Some("kubernetes")
        };
        let slices = self.slices.list_in("default").into_iter();
        Known {
            nodes: self.nodes.list(),
            services: self.services.list(),
            servers: self.servers.list(),
            endpoints: slices.filter(|slice| of_servers(slice)).collect(),
        }
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

/// The conditions with one more, which takes the place of what was said before about not approving.
fn with(csr: &CertificateSigningRequest, condition: Value) -> Value {
    let mut all = conditions(csr);
    if let Some(list) = all.as_array_mut() {
        list.retain(|known| known["type"] != NOT_APPROVED);
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

//! The HTTP API: everything between a TLS connection and a proposal to the store.
//!
//! One pipeline serves every resource, built-in or custom. A connection is accepted and, when it
//! brings a client certificate, identified; each request gets an id, a panic boundary, an
//! identity, an authorisation verdict, and then runs the steps of its verb over one row of the
//! resource registry. Reads hand out the stored bytes; nothing is re-encoded unless the client
//! asked for another form (YAML, Table, PartialObjectMetadata).
//!
//! This crate is the only one that sees axum types, and it never decides *what* the cluster
//! should look like: controllers do, through the same API as everybody else.

mod admission;
mod answer;
mod audit;
mod authn;
mod authz;
mod body;
mod bootstrap;
mod call;
mod compress;
mod costly;
mod dial;
mod flow;
mod negotiate;
mod options;
mod pages;
mod pipeline;
mod query;
mod route;
mod select;
mod serve;
mod shared;
mod subresources;
mod verbs;

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use coxswain_consensus::Store;
use coxswain_supervise::Supervisor;
use http::{Request, Response};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use crate::audit::AuditConfig;
pub use crate::authn::FrontProxy;
pub use crate::dial::Reach;
use crate::pipeline::Caller;
pub use crate::serve::limits::ConnectionLimits;
use crate::shared::Shared;

/// Everything an [`ApiServer`] must be told. All key material is PEM text; nothing is read from
/// disk here.
#[derive(Clone)]
pub struct Config {
    /// Certificate chain the server presents.
    pub tls_cert_pem: String,
    /// Private key of [`Config::tls_cert_pem`].
    pub tls_key_pem: String,
    /// CA that signs client certificates.
    pub client_ca_pem: String,
    /// EC P-256 private key (PKCS#8) that signs and verifies service account tokens (ES256).
    pub service_account_key_pem: String,
    /// Issuer claim of service account tokens.
    pub issuer: String,
    /// Service addresses, network and prefix length.
    pub service_cidr: (Ipv4Addr, u8),
    /// First and last port of the NodePort range.
    pub node_port_range: (u16, u16),
    /// Client certificate presented to node agents. Its common name is nobody's at this server: requests with it are 401.
    pub kubelet_client_cert_pem: String,
    /// Private key of [`Config::kubelet_client_cert_pem`].
    pub kubelet_client_key_pem: String,
    /// CA that signs the serving certificates of node agents.
    pub kubelet_ca_pem: String,
    /// Address under which the cluster reaches this server (the `kubernetes` Service's endpoint).
    pub advertise: (IpAddr, u16),
    /// What this process listens on, and what it may reach beyond the rule.
    pub reach: Reach,
    /// CA that pods use to verify this server (`kube-root-ca.crt`).
    pub root_ca_pem: String,
    /// Leave out add-on objects: look like a freshly started Kubernetes control plane.
    pub bare: bool,
    /// The audit trail; none is kept without it.
    pub audit: Option<AuditConfig>,
    /// A proxy that names the user in headers.
    pub front_proxy: Option<FrontProxy>,
    /// Text of an `apiserver.config.k8s.io/v1` AuthenticationConfiguration (YAML or JSON).
    pub authentication: Option<String>,
    /// How long connections may take for what, and how many there may be.
    pub limits: ConnectionLimits,
    /// What `/version` tells beside the version.
    pub build: Build,
}

/// What a server was built from; what is not known is left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Build {
    /// The commit, in hexadecimal.
    pub commit: Option<&'static str>,
    /// `clean`, or `dirty` when the sources differed from the commit.
    pub tree: Option<&'static str>,
    /// When the commit was made (RFC 3339): the same sources give the same build.
    pub date: Option<&'static str>,
    /// Name and version of the compiler.
    pub compiler: Option<&'static str>,
}

/// Who makes a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// User name, e.g. `system:serviceaccount:default:builder`.
    pub name: String,
    /// Stable identifier, empty when the authenticator gives none.
    pub uid: String,
    /// Groups, including `system:authenticated`.
    pub groups: Vec<String>,
    /// Extra attributes by key.
    pub extra: std::collections::BTreeMap<String, Vec<String>>,
}

impl User {
    /// Whether the user is in a group.
    #[must_use]
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|name| name == group)
    }
}

/// Why a server cannot start. Each is one sentence.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Key material cannot be used.
    #[error("the {what} cannot be used: {why}")]
    Key {
        /// Which key or certificate.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The authentication configuration is wrong.
    #[error("the authentication configuration: {0}")]
    Authentication(String),
    /// The audit trail cannot be kept.
    #[error("the audit log cannot be kept: {0}")]
    Audit(String),
    /// An object every cluster starts with could not be created.
    #[error("cannot create {object}: {why}")]
    Bootstrap {
        /// Path of the object.
        object: String,
        /// The refusal.
        why: String,
        /// The server could not write at all, as opposed to one object that it rejected.
        unavailable: bool,
    },
}

/// One API server over a store. Clones are handles on the same server.
#[derive(Clone)]
pub struct ApiServer {
    shared: Arc<Shared>,
    tls: Arc<rustls::ServerConfig>,
}

impl ApiServer {
    /// Builds a server; nothing listens yet and nothing is written.
    ///
    /// # Errors
    /// When key material cannot be used.
    pub fn new(config: Config, store: Store) -> Result<Self, StartError> {
        let tls = serve::tls(&config)?;
        Ok(Self {
            shared: Arc::new(Shared::new(config, store)?),
            tls,
        })
    }

    /// Creates the objects every cluster starts with, as far as they are missing. [`ApiServer::serve`]
    /// does it too; call it before only to use [`ApiServer::in_process`] without serving.
    ///
    /// # Errors
    /// When one of them is refused.
    pub async fn bootstrap(&self) -> Result<(), StartError> {
        if !self.shared.is_ready() {
            boxed(bootstrap::run(&self.shared)).await?;
            self.shared.ready();
        }
        Ok(())
    }

    /// Serves until `token` is cancelled, then ends watches and lets open requests finish for a few
    /// seconds.
    ///
    /// # Errors
    /// When the start objects cannot be created.
    pub async fn serve(&self, listener: TcpListener, token: CancellationToken) -> Result<(), StartError> {
        self.bootstrap().await?;
        let stopping = self.shared.stopping.clone();
        self.shared.keep("flow-control", flow::upkeep::run);
        self.shared.keep("apiservices", bootstrap::apiservices::run);
        let mut run = boxed(serve::run(self.shared.clone(), self.tls.clone(), listener));
        tokio::select! {
            () = run.as_mut() => return Ok(()),
            () = token.cancelled() => stopping.cancel(),
        }
        run.await;
        if let Some(audit) = &self.shared.audit {
            audit.flush();
        }
        Ok(())
    }

    /// Has `/metrics` tell how many bytes somebody else in this process holds.
    pub fn report_memory(&self, holder: &'static str, bytes: impl Fn() -> u64 + Send + Sync + 'static) {
        let mut holders = self.shared.holders.write().unwrap_or_else(PoisonError::into_inner);
        holders.retain(|(known, _)| *known != holder);
        holders.push((holder, Box::new(bytes)));
    }

    /// The tasks that this server's health checks name. Whoever runs more in its process keeps them here.
    #[must_use]
    pub fn supervisor(&self) -> &Supervisor {
        &self.shared.supervisor
    }

    /// The same pipeline without a socket, for components in this process: `user` makes every
    /// request, and is authorised like anybody.
    pub fn in_process(&self, user: User) -> InProcess {
        InProcess {
            shared: self.shared.clone(),
            user,
        }
    }
}

/// A [`tower::Service`] that answers requests as one user, see [`ApiServer::in_process`].
#[derive(Clone)]
pub struct InProcess {
    shared: Arc<Shared>,
    user: User,
}

impl<B> tower::Service<Request<B>> for InProcess
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (shared, caller) = (self.shared.clone(), Caller::Local(self.user.clone()));
        local(shared, caller, request.map(Body::new))
    }
}

/// The part of a call in this process that does not depend on the type of its body.
fn local(
    shared: Arc<Shared>,
    caller: Caller,
    request: Request<Body>,
) -> <InProcess as tower::Service<Request<Body>>>::Future {
    Box::pin(async move { Ok(pipeline::handle(shared, caller, request).await) })
}

/// Erases a future's type where it leaves this crate: the server behind it is compiled here, once, and not in every
/// crate that calls it.
fn boxed<'a, T>(future: impl Future<Output = T> + Send + 'a) -> Pin<Box<dyn Future<Output = T> + Send + 'a>> {
    Box::pin(future)
}

//! Connections to node agents (TLS, with this server's client certificate) and to pods (plain), all of them by the
//! [`Dialer`], and the forwarding of one request over such a connection, upgrades included.
//!
//! A node says itself where its agent is, so the agent proves that it is that node's: its certificate is of the cluster's
//! CA, and its subject is the node. This server's own certificate has no rights at the API, whoever it is shown to.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use coxswain_api::ApiError;
use http::header::{AUTHORIZATION, CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use http::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::answer::Reply;
use crate::dial::{CONNECT_MAX, Dialer, unreachable};
use crate::serve::certificates;
use crate::{Config, StartError};

/// Headers that belong to one hop.
const HOP_HEADERS: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// How this server connects to node agents.
pub(crate) struct Kubelets {
    dialer: Dialer,
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    own: Arc<SingleCertAndKey>,
    /// To what a user asked to be led to by TLS: nobody vouches for its certificate.
    unverified: TlsConnector,
}

/// Where a proxied request goes.
pub(crate) struct Destination {
    pub at: SocketAddr,
    pub tls: bool,
}

/// The agent of a node, as far as the node says.
pub(crate) struct Agent {
    pub node: String,
    pub at: SocketAddr,
}

impl Kubelets {
    /// Reads certificates and keys.
    pub fn new(config: &Config) -> Result<Self, StartError> {
        let bad = |what: &'static str| move |why: String| StartError::Key { what, why };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&config.kubelet_ca_pem).map_err(bad("kubelet CA"))? {
            roots
                .add(certificate)
                .map_err(|error| bad("kubelet CA")(error.to_string()))?;
        }
        let chain = certificates(&config.kubelet_client_cert_pem).map_err(bad("kubelet client certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(config.kubelet_client_key_pem.as_bytes())
            .map_err(|error| bad("kubelet client key")(error.to_string()))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let own = CertifiedKey::from_der(chain, key, &provider)
            .map_err(|error| bad("kubelet client certificate")(error.to_string()))?;
        let unverified = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| bad("TLS versions")(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Peer {
                provider: provider.clone(),
                node: None,
            }))
            .with_no_client_auth();
        Ok(Self {
            dialer: Dialer::new(config),
            provider,
            roots: Arc::new(roots),
            own: Arc::new(SingleCertAndKey::from(own)),
            unverified: TlsConnector::from(Arc::new(unverified)),
        })
    }

    /// Sends a request to the agent of a node.
    ///
    /// # Errors
    /// 400 for an address that is never dialled, 503 when the agent cannot be reached or is not that node's.
    pub async fn forward(&self, agent: &Agent, request: Request<Body>) -> Result<Reply, ApiError> {
        let tls = self.to_node(&agent.node)?;
        let stream = handshake(&tls, self.dialer.dial_agent(agent.at).await?, agent.at).await?;
        exchange(stream, agent.at, request).await
    }

    /// Sends a request to an HTTP server in a pod or on a node that is no agent.
    ///
    /// # Errors
    /// 400 for an address that is never dialled, 503 when nothing answers there.
    pub async fn forward_to(&self, to: &Destination, request: Request<Body>) -> Result<Reply, ApiError> {
        let stream = self.dialer.dial(to.at).await?;
        match to.tls {
            true => exchange(handshake(&self.unverified, stream, to.at).await?, to.at, request).await,
            false => exchange(stream, to.at, request).await,
        }
    }

    /// TLS to one node. Sessions are not resumed: that would skip the look at the certificate.
    fn to_node(&self, node: &str) -> Result<TlsConnector, ApiError> {
        let verifier = Peer {
            provider: self.provider.clone(),
            node: Some((self.roots.clone(), format!("system:node:{node}"))),
        };
        let mut settings = ClientConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| ApiError::internal(format!("TLS versions: {error}")))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(self.own.clone());
        settings.resumption = Resumption::disabled();
        Ok(TlsConnector::from(Arc::new(settings)))
    }
}

async fn handshake(tls: &TlsConnector, stream: TcpStream, at: SocketAddr) -> Result<TlsStream<TcpStream>, ApiError> {
    let name = ServerName::IpAddress(at.ip().into());
    match tokio::time::timeout(CONNECT_MAX, tls.connect(name, stream)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(unreachable(&error)),
        Err(_) => Err(unreachable(&"net/http: TLS handshake timeout")),
    }
}

/// One request over a fresh connection. A switch of protocols joins both connections.
async fn exchange<S>(stream: S, at: SocketAddr, mut request: Request<Body>) -> Result<Reply, ApiError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |error: hyper::Error| unreachable(&error);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "proxied connection ended");
        }
    });
    let upgrade = request.headers().get(UPGRADE).cloned();
    let client = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
    clean(request.headers_mut(), upgrade.as_ref());
    if let Ok(host) = HeaderValue::from_str(&at.to_string()) {
        request.headers_mut().entry(HOST).or_insert(host);
    }
    *request.version_mut() = http::Version::HTTP_11;
    let mut response = sender.send_request(request).await.map_err(failed)?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let backend = hyper::upgrade::on(&mut response);
        if let Some(client) = client {
            tokio::spawn(async move {
                let (Ok(client), Ok(backend)) = (client.await, backend.await) else {
                    return;
                };
                let _ = copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(backend)).await;
            });
        }
        let (head, _) = response.into_parts();
        return Ok(Response::from_parts(head, Body::empty()));
    }
    let (mut head, body) = response.into_parts();
    clean(&mut head.headers, None);
    Ok(Response::from_parts(head, Body::new(body)))
}

/// Drops headers of one hop; keeps what an upgrade needs.
fn clean(headers: &mut HeaderMap, upgrade: Option<&HeaderValue>) {
    for name in HOP_HEADERS {
        headers.remove(HeaderName::from_static(name));
    }
    let secret = |name: &&HeaderName| *name == AUTHORIZATION || name.as_str().starts_with("impersonate-");
    let secrets: Vec<HeaderName> = headers.keys().filter(secret).cloned().collect();
    for name in secrets {
        headers.remove(name);
    }
    if let Some(upgrade) = upgrade {
        headers.insert(UPGRADE, upgrade.clone());
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    }
}

/// Judges the certificate of whoever answers: for a node that of its agent, otherwise any will do.
#[derive(Debug)]
struct Peer {
    provider: Arc<CryptoProvider>,
    /// Who signs for nodes, and the name that is meant.
    node: Option<(Arc<RootCertStore>, String)>,
}

impl ServerCertVerifier for Peer {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some((roots, name)) = &self.node {
            let parsed = ParsedCertificate::try_from(certificate)?;
            let algorithms = self.provider.signature_verification_algorithms.all;
            // The CA signs nodes itself: whatever comes between is not looked at.
            verify_server_cert_signed_by_trust_anchor(&parsed, roots, &[], now, algorithms)?;
            check_node(certificate, name).map_err(rustls::Error::General)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Refuses a serving certificate whose subject is not exactly the node that is meant.
fn check_node(certificate: &[u8], name: &str) -> Result<(), String> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    let subject = parsed.subject();
    let names: Vec<&str> = subject
        .iter_common_name()
        .filter_map(|part| part.as_str().ok())
        .collect();
    let groups: Vec<&str> = subject
        .iter_organization()
        .filter_map(|part| part.as_str().ok())
        .collect();
    match names == [name] && groups == ["system:nodes"] && subject.iter_attributes().count() == 2 {
        true => Ok(()),
        false => Err(format!(
            "the certificate is that of {subject:?}, not of {name}",
            subject = subject.to_string()
        )),
    }
}

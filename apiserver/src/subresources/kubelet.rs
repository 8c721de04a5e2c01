//! Connections to node agents (TLS, with this server's client certificate) and to pods (plain),
//! and the forwarding of one request over such a connection, upgrades included.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use coxswain_api::ApiError;
use http::header::{AUTHORIZATION, CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use http::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::answer::Reply;
use crate::serve::certificates;
use crate::{Config, StartError};

/// Time to reach a node or pod.
const CONNECT_MAX: Duration = Duration::from_secs(10);

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
    tls: TlsConnector,
    /// To what a user asked to be led to by TLS: nobody vouches for its certificate.
    unverified: TlsConnector,
}

/// Where a proxied request goes.
pub(crate) struct Destination {
    pub address: IpAddr,
    pub port: u16,
    pub tls: bool,
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
        let unverified = rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| bad("TLS versions")(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider.clone())))
            .with_no_client_auth();
        let settings = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| bad("TLS versions")(error.to_string()))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|error| bad("kubelet client certificate")(error.to_string()))?;
        Ok(Self {
            tls: TlsConnector::from(Arc::new(settings)),
            unverified: TlsConnector::from(Arc::new(unverified)),
        })
    }

    /// Sends a request to a node agent.
    ///
    /// # Errors
    /// 500 or 503 when the agent cannot be reached.
    pub async fn forward(&self, address: IpAddr, port: u16, request: Request<Body>) -> Result<Reply, ApiError> {
        let stream = handshake(&self.tls, address, port).await?;
        exchange(stream, address, port, request).await
    }

    /// Sends a request to an HTTP server in a pod or on a node that is no agent.
    pub async fn forward_to(&self, to: &Destination, request: Request<Body>) -> Result<Reply, ApiError> {
        match to.tls {
            true => {
                let stream = handshake(&self.unverified, to.address, to.port).await?;
                exchange(stream, to.address, to.port, request).await
            }
            false => exchange(dial(to.address, to.port).await?, to.address, to.port, request).await,
        }
    }
}

async fn handshake(tls: &TlsConnector, address: IpAddr, port: u16) -> Result<TlsStream<TcpStream>, ApiError> {
    let stream = dial(address, port).await?;
    let name = ServerName::IpAddress(address.into());
    match tokio::time::timeout(CONNECT_MAX, tls.connect(name, stream)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(unreachable(&error)),
        Err(_) => Err(unreachable(&"net/http: TLS handshake timeout")),
    }
}

async fn dial(address: IpAddr, port: u16) -> Result<TcpStream, ApiError> {
    match tokio::time::timeout(CONNECT_MAX, TcpStream::connect((address, port))).await {
        Ok(Ok(stream)) => {
            let _ = stream.set_nodelay(true);
            Ok(stream)
        }
        Ok(Err(error)) => {
            // The system's words, as every Kubernetes component writes them.
            let words = error.to_string().to_lowercase();
            let words = words.split(" (os error").next().unwrap_or_default();
            let at = SocketAddr::from((address, port));
            Err(unreachable(&format_args!("dial tcp {at}: connect: {words}")))
        }
        Err(_) => {
            let at = SocketAddr::from((address, port));
            Err(unreachable(&format_args!("dial tcp {at}: i/o timeout")))
        }
    }
}

fn unreachable(why: &dyn Display) -> ApiError {
    ApiError::service_unavailable(format!("error trying to reach service: {why}"))
}

/// One request over a fresh connection. A switch of protocols joins both connections.
async fn exchange<S>(stream: S, address: IpAddr, port: u16, mut request: Request<Body>) -> Result<Reply, ApiError>
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
    if let Ok(host) = HeaderValue::from_str(&SocketAddr::from((address, port)).to_string()) {
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

/// Takes any certificate.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

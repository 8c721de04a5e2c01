//! Connections to node agents (TLS, with this server's client certificate) and to pods (plain),
//! and the forwarding of one request over such a connection, upgrades included.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use coxswain_api::ApiError;
use http::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use http::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

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
        let settings = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| bad("TLS versions")(error.to_string()))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|error| bad("kubelet client certificate")(error.to_string()))?;
        Ok(Self {
            tls: TlsConnector::from(Arc::new(settings)),
        })
    }

    /// Sends a request to a node agent.
    ///
    /// # Errors
    /// 500 or 503 when the agent cannot be reached.
    pub async fn forward(&self, address: IpAddr, port: u16, request: Request<Body>) -> Result<Reply, ApiError> {
        let stream = dial(address, port).await?;
        let name = ServerName::IpAddress(address.into());
        let connecting = tokio::time::timeout(CONNECT_MAX, self.tls.connect(name, stream)).await;
        let stream = match connecting {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(unreachable(address, port, &error.to_string())),
            Err(_) => return Err(unreachable(address, port, "the TLS handshake took too long")),
        };
        exchange(stream, address, port, request).await
    }
}

/// Sends a request to a plain HTTP server in a pod.
pub(super) async fn forward_plain(address: IpAddr, port: u16, request: Request<Body>) -> Result<Reply, ApiError> {
    let stream = dial(address, port).await?;
    exchange(stream, address, port, request).await
}

async fn dial(address: IpAddr, port: u16) -> Result<TcpStream, ApiError> {
    match tokio::time::timeout(CONNECT_MAX, TcpStream::connect((address, port))).await {
        Ok(Ok(stream)) => {
            let _ = stream.set_nodelay(true);
            Ok(stream)
        }
        Ok(Err(error)) => Err(unreachable(address, port, &error.to_string())),
        Err(_) => Err(unreachable(address, port, "i/o timeout")),
    }
}

fn unreachable(address: IpAddr, port: u16, why: &str) -> ApiError {
    ApiError::service_unavailable(format!(
        "error trying to reach service: dial tcp {address}:{port}: {why}"
    ))
}

/// One request over a fresh connection. A switch of protocols joins both connections.
async fn exchange<S>(stream: S, address: IpAddr, port: u16, mut request: Request<Body>) -> Result<Reply, ApiError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |error: hyper::Error| unreachable(address, port, &error.to_string());
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
    if let Ok(host) = HeaderValue::from_str(&format!("{address}:{port}")) {
        request.headers_mut().insert(HOST, host);
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
    for name in [
        "authorization",
        "impersonate-user",
        "impersonate-group",
        "impersonate-uid",
    ] {
        headers.remove(HeaderName::from_static(name));
    }
    if let Some(upgrade) = upgrade {
        headers.insert(UPGRADE, upgrade.clone());
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    }
}

//! The TLS front: accepts connections and hands their requests to the pipeline.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::crypto::ring::cipher_suite;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, SupportedCipherSuite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use crate::pipeline::{self, Caller, Peer};
use crate::shared::Shared;
use crate::{Config, StartError};

/// Connections open at the same time.
const CONNECTIONS_MAX: usize = 16_384;
/// Streams of one HTTP/2 connection.
const STREAMS_MAX: u32 = 250;
/// Time for the TLS handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Time from one answer to the headers of the next request on an HTTP/1 connection, which may be idle until then:
/// kube-apiserver's idle time, so that clients that keep connections open do not lose a request.
const IDLE_MAX: Duration = Duration::from_secs(90);
/// Time that open requests get when the server stops.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Taken before all others, whatever the client would rather have: Go's clients ask for them and Go's servers prefer them
/// where there is hardware for AES, while OpenSSL and rustls ask for keys of 256 bits, which make a long list a tenth slower.
/// They are `ring`'s, which has code for vectors of 256 bits, beside aws-lc's for 512 alone (decision 006).
static CIPHERS_FIRST: [SupportedCipherSuite; 3] = [
    cipher_suite::TLS13_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
];

/// The TLS settings of the front.
pub(crate) fn tls(config: &Config) -> Result<Arc<rustls::ServerConfig>, StartError> {
    let bad = |what: &'static str| move |why: String| StartError::Key { what, why };
    let chain = certificates(&config.tls_cert_pem).map_err(bad("server certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(config.tls_key_pem.as_bytes())
        .map_err(|error| bad("server key")(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    let mut trusted = certificates(&config.client_ca_pem).map_err(bad("client CA"))?;
    if let Some(proxy) = &config.front_proxy {
        trusted.extend(certificates(&proxy.ca_pem).map_err(bad("front proxy CA"))?);
    }
    for certificate in trusted {
        roots
            .add(certificate)
            .map_err(|error| bad("client CA")(error.to_string()))?;
    }
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    let first = CIPHERS_FIRST.iter().map(|suite| suite.suite());
    let others = provider
        .cipher_suites
        .iter()
        .filter(|suite| !first.clone().any(|id| id == suite.suite()));
    provider.cipher_suites = CIPHERS_FIRST.iter().chain(others).copied().collect();
    let provider = Arc::new(provider);
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| bad("client CA")(error.to_string()))?;
    let mut settings = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| bad("TLS versions")(error.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| bad("server certificate")(error.to_string()))?;
    settings.ignore_client_order = true;
    settings.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(settings))
}

/// Every certificate of a PEM text.
pub(crate) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let all = all.map_err(|error| error.to_string())?;
    if all.is_empty() {
        Err("no certificate in the PEM text".to_owned())
    } else {
        Ok(all)
    }
}

/// Accepts connections until the server stops, then gives open requests a moment to end.
pub(crate) async fn run(shared: Arc<Shared>, tls: Arc<rustls::ServerConfig>, listener: TcpListener) {
    let acceptor = TlsAcceptor::from(tls);
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let connections = TaskTracker::new();
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            break;
        };
        let accepted = tokio::select! {
            () = shared.stopping.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (shared, acceptor) = (shared.clone(), acceptor.clone());
                connections.spawn(async move {
                    connection(shared, acceptor, stream).await;
                    drop(slot);
                });
            }
            Err(error) => {
                // Out of file descriptors or a connection that went away at once: go on, gently.
                tracing::debug!(%error, "accepting a connection failed");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    connections.close();
    let _ = tokio::time::timeout(DRAIN_MAX, connections.wait()).await;
}

async fn connection(shared: Arc<Shared>, acceptor: TlsAcceptor, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => return tracing::debug!("TLS handshake took too long"),
    };
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let certificate = shared.authn.certified(chain, UnixTime::now());
    let peer = Peer {
        address: stream.get_ref().0.peer_addr().ok().map(|address| address.ip()),
        certificate: certificate.map(Arc::new),
    };
    let stopping = shared.stopping.clone();
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let (shared, peer) = (shared.clone(), peer.clone());
        async move {
            let reply = pipeline::handle(shared, Caller::Remote(peer), request.map(Body::new)).await;
            Ok::<_, Infallible>(reply)
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(IDLE_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .adaptive_window(true);
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stopping.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

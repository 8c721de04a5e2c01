//! The published keys of one issuer, fetched over HTTPS when they are needed and kept.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use jsonwebtoken::jwk::JwkSet;
use rustls::RootCertStore;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;

use crate::serve::certificates;

/// One document, connecting included.
const FETCH_MAX: Duration = Duration::from_secs(10);
const BYTES_MAX: usize = 1 << 20;
/// The issuer is not asked more often, however many tokens with unknown keys come.
const PAUSE_S: i64 = 10;
/// Where systems keep the authorities that they trust.
const SYSTEM: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

/// Keys of an issuer.
pub(super) struct Keys {
    issuer: String,
    discovery: String,
    tls: TlsConnector,
    current: ArcSwapOption<JwkSet>,
    /// When the issuer was asked last, in seconds; held while asking.
    asked_s: Mutex<i64>,
}

impl Keys {
    /// Keys that are fetched later. Without an authority of its own the issuer is checked with the system's.
    pub fn new(issuer: &str, discovery: &str, ca_pem: &str) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        if ca_pem.is_empty() {
            let bundle = SYSTEM.iter().find_map(|path| std::fs::read_to_string(path).ok());
            for certificate in certificates(&bundle.unwrap_or_default()).unwrap_or_default() {
                // A bundle may hold authorities that are of no use here.
                let _ = roots.add(certificate);
            }
        } else {
            let bad = |why: String| format!("issuer.certificateAuthority: {why}");
            for certificate in certificates(ca_pem).map_err(bad)? {
                roots.add(certificate).map_err(|error| bad(error.to_string()))?;
            }
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let settings = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let discovery = if discovery.is_empty() {
            format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'))
        } else {
            discovery.to_owned()
        };
        Ok(Self {
            issuer: issuer.to_owned(),
            discovery,
            tls: TlsConnector::from(Arc::new(settings)),
            current: ArcSwapOption::empty(),
            asked_s: Mutex::new(0),
        })
    }

    /// The keys fetched last.
    pub fn current(&self) -> Option<Arc<JwkSet>> {
        self.current.load_full()
    }

    /// Newer keys; those there are when the issuer was asked just now.
    pub async fn refresh(&self, now_s: i64) -> Result<Arc<JwkSet>, String> {
        let mut asked_s = self.asked_s.lock().await;
        if now_s.saturating_sub(*asked_s) < PAUSE_S {
            return self
                .current()
                .ok_or_else(|| "the issuer's keys are not known".to_owned());
        }
        *asked_s = now_s;
        let set = tokio::time::timeout(FETCH_MAX, self.fetch_all())
            .await
            .map_err(|_| format!("{} did not answer in time", self.issuer))??;
        let set = Arc::new(set);
        self.current.store(Some(set.clone()));
        Ok(set)
    }

    async fn fetch_all(&self) -> Result<JwkSet, String> {
        let document = self.fetch(&self.discovery).await?;
        if document.get("issuer").and_then(Value::as_str) != Some(&self.issuer) {
            return Err(format!("{} is the document of another issuer", self.discovery));
        }
        let address = document.get("jwks_uri").and_then(Value::as_str).unwrap_or_default();
        let set = self.fetch(address).await?;
        serde_json::from_value(set).map_err(|error| format!("{address}: {error}"))
    }

    async fn fetch(&self, address: &str) -> Result<Value, String> {
        let failed = |why: &dyn std::fmt::Display| format!("{address}: {why}");
        let uri: http::Uri = address.parse().map_err(|error: http::uri::InvalidUri| failed(&error))?;
        let host = uri.host().filter(|_| uri.scheme_str() == Some("https"));
        let host = host.ok_or_else(|| failed(&"only https is used"))?;
        let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let stream = TcpStream::connect((name.clone(), uri.port_u16().unwrap_or(443)))
            .await
            .map_err(|error| failed(&error))?;
        let name = ServerName::try_from(name).map_err(|error| failed(&error))?;
        let stream = self.tls.connect(name, stream).await.map_err(|error| failed(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(&error))?;
        let connection = tokio::spawn(connection);
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::get(path)
            .header(http::header::HOST, host)
            .header(http::header::ACCEPT, "application/json")
            .body(Empty::<Bytes>::new())
            .map_err(|error| failed(&error))?;
        let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
        if !response.status().is_success() {
            return Err(failed(&response.status()));
        }
        let body = Limited::new(response.into_body(), BYTES_MAX).collect().await;
        connection.abort();
        let body = body.map_err(|error| failed(&error))?.to_bytes();
        serde_json::from_slice(&body).map_err(|error| failed(&error))
    }
}

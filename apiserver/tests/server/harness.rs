//! A server to test against: keys made on the spot, a temporary store, requests in process or over TLS.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use coxswain_apiserver::{ApiServer, Config, User};
use coxswain_consensus::{Config as StoreConfig, Store};
use http::{Method, Request};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower::Service;

pub type Issuer = CertifiedIssuer<'static, KeyPair>;

/// Certificate and key of one `CN=tester`.
pub fn leaf(issuer: &Issuer, organisation: &str, usage: ExtendedKeyUsagePurpose) -> (String, String) {
    named_leaf(issuer, "tester", organisation, usage)
}

/// Certificate and key with this subject.
pub fn named_leaf(issuer: &Issuer, name: &str, organisation: &str, usage: ExtendedKeyUsagePurpose) -> (String, String) {
    let mut parameters = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("names");
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters
        .distinguished_name
        .push(DnType::OrganizationName, organisation);
    parameters.extended_key_usages = vec![usage];
    let key = KeyPair::generate().expect("a key");
    (
        parameters.signed_by(&key, issuer).expect("a certificate").pem(),
        key.serialize_pem(),
    )
}

fn of_authority(name: &str) -> CertificateParams {
    let mut ca = CertificateParams::new(Vec::new()).expect("no names");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, name);
    ca
}

/// A new authority.
pub fn authority(name: &str) -> Issuer {
    CertifiedIssuer::self_signed(of_authority(name), KeyPair::generate().expect("a key")).expect("a CA")
}

/// An authority below another one.
pub fn intermediate(root: &Issuer, name: &str) -> Issuer {
    CertifiedIssuer::signed_by(of_authority(name), KeyPair::generate().expect("a key"), root).expect("a CA")
}

/// The common name of the server towards node agents.
pub const TOWARDS_AGENTS: &str = "kube-apiserver-kubelet-client";

pub fn config(port: u16, issuer: &Issuer) -> Config {
    let (tls_cert_pem, tls_key_pem) = leaf(issuer, "servers", ExtendedKeyUsagePurpose::ServerAuth);
    let (client, client_key) = named_leaf(issuer, TOWARDS_AGENTS, "servers", ExtendedKeyUsagePurpose::ClientAuth);
    let ca_pem = issuer.pem();
    Config {
        tls_cert_pem,
        tls_key_pem,
        client_ca_pem: ca_pem.clone(),
        service_account_key_pem: KeyPair::generate().expect("a key").serialize_pem(),
        issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
        service_cidr: (Ipv4Addr::new(10, 96, 0, 0), 16),
        node_port_range: (30000, 32767),
        kubelet_client_cert_pem: client,
        kubelet_client_key_pem: client_key,
        kubelet_ca_pem: ca_pem.clone(),
        reach: coxswain_apiserver::Reach::default(),
        advertise: (IpAddr::V4(Ipv4Addr::LOCALHOST), port),
        root_ca_pem: ca_pem,
        bare: true,
        audit: None,
        front_proxy: None,
        authentication: None,
        limits: coxswain_apiserver::ConnectionLimits::default(),
        build: coxswain_apiserver::Build::default(),
    }
}

/// A user with groups.
pub fn user(name: &str, groups: &[&str]) -> User {
    User {
        name: name.to_owned(),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        ..User::default()
    }
}

/// A server on loopback over a store of its own.
pub struct Running {
    pub server: ApiServer,
    pub config: Config,
    pub port: u16,
    /// The cluster's CA.
    pub issuer: Issuer,
    administrator: (String, String),
    token: CancellationToken,
    store: Store,
    _directory: tempfile::TempDir,
}

pub async fn start() -> Running {
    start_with(|_| {}).await
}

/// A server whose configuration was changed.
pub async fn start_with(change: impl FnOnce(&mut Config)) -> Running {
    start_over(change, |_| {}).await
}

/// A server whose configuration, and that of its store, was changed.
pub async fn start_over(change: impl FnOnce(&mut Config), change_store: impl FnOnce(&mut StoreConfig)) -> Running {
    let directory = tempfile::tempdir().expect("a directory");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let issuer = authority("cluster");
    let administrator = leaf(&issuer, "system:masters", ExtendedKeyUsagePurpose::ClientAuth);
    let mut config = config(port, &issuer);
    change(&mut config);
    let mut settings = StoreConfig::new(directory.path().join("store"));
    settings.segment_bytes = 1 << 20;
    change_store(&mut settings);
    let store = Store::open(settings).await.expect("a store");
    let server = ApiServer::new(config.clone(), store.clone()).expect("a server");
    server.bootstrap().await.expect("the start objects");
    let token = CancellationToken::new();
    let (serving, stop) = (server.clone(), token.clone());
    tokio::spawn(async move { serving.serve(listener, stop).await });
    Running {
        server,
        config,
        port,
        issuer,
        administrator,
        token,
        store,
        _directory: directory,
    }
}

impl Running {
    pub async fn stop(self) {
        self.token.cancel();
        self.store.shutdown().await;
    }

    /// One request of an administrator: code and body of the answer.
    pub async fn send(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        self.send_as(user("tester", &["system:masters"]), method, path, body)
            .await
    }

    /// One request of anybody.
    pub async fn send_as(&self, user: User, method: Method, path: &str, body: Value) -> (u16, Value) {
        let body = if body.is_null() {
            Body::empty()
        } else {
            Body::from(body.to_string())
        };
        let mut request = Request::new(body);
        let media = if method == Method::PATCH {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().expect("a path");
        request
            .headers_mut()
            .insert("content-type", media.parse().expect("a header"));
        let reply = self.server.in_process(user).call(request).await.expect("an answer");
        let code = reply.status().as_u16();
        let bytes = axum::body::to_bytes(reply.into_body(), 16 << 20).await.expect("a body");
        (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// The media type and the body of an answer in the form that `accept` asks for.
    pub async fn get_as(&self, path: &str, accept: &str) -> (String, Vec<u8>) {
        let user = user("tester", &["system:masters"]);
        let request = Request::get(path).header("accept", accept).body(Body::empty());
        let request = request.expect("a request");
        let reply = self.server.in_process(user).call(request).await.expect("an answer");
        let media = reply
            .headers()
            .get("content-type")
            .and_then(|media| media.to_str().ok());
        let media = media.unwrap_or_default().to_owned();
        let read = axum::body::to_bytes(reply.into_body(), 16 << 20);
        let bytes = tokio::time::timeout(Duration::from_secs(20), read).await;
        (media, bytes.expect("the end in time").expect("a body").to_vec())
    }

    /// A TLS connection, with the administrator's certificate or without any.
    pub async fn connect(&self, administrator: bool) -> tokio_rustls::client::TlsStream<TcpStream> {
        self.connect_with(administrator.then(|| self.administrator()), &[])
            .await
    }

    /// One GET by HTTP/1.1 with a certificate, if any, and these header lines: code, and the whole answer.
    pub async fn ask(&self, pair: Option<(String, String)>, path: &str, headers: &str) -> (u16, String) {
        let mut stream = self.connect_with(pair, &[]).await;
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut text = Vec::new();
        let _ = stream.read_to_end(&mut text).await;
        let text = String::from_utf8_lossy(&text).into_owned();
        let code = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        (code, text)
    }

    /// A TLS connection of an administrator that speaks HTTP/2.
    pub async fn connect_h2(&self) -> tokio_rustls::client::TlsStream<TcpStream> {
        self.connect_with(Some(self.administrator()), &[b"h2"]).await
    }

    /// Certificate and key of an administrator.
    pub fn administrator(&self) -> (String, String) {
        self.administrator.clone()
    }

    /// A TLS connection with a certificate and its key.
    pub async fn connect_with(
        &self,
        pair: Option<(String, String)>,
        protocols: &[&[u8]],
    ) -> tokio_rustls::client::TlsStream<TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(self.config.root_ca_pem.as_bytes()).expect("the CA");
        roots.add(ca).expect("the CA");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let settings = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("TLS")
            .with_root_certificates(roots);
        let mut settings = if let Some((certificate, key)) = pair {
            let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect();
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
            settings
                .with_client_auth_cert(chain.expect("certificates"), key)
                .expect("a pair")
        } else {
            settings.with_no_client_auth()
        };
        settings.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))
            .await
            .expect("a connection");
        let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
        tokio_rustls::TlsConnector::from(Arc::new(settings))
            .connect(name, stream)
            .await
            .expect("TLS")
    }

    /// One HTTP/1.1 request over TLS without a client certificate; the answer as text.
    pub async fn anonymous(&self, path: &str) -> String {
        let mut stream = self.connect(false).await;
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut text = Vec::new();
        let _ = stream.read_to_end(&mut text).await;
        String::from_utf8_lossy(&text).into_owned()
    }
}

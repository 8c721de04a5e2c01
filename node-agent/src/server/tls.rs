//! TLS of the node: the server that only lets the cluster's own clients in, and the client that
//! probes use, which trusts anybody because a probe only asks whether something answers.

use std::io::Cursor;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer, X509Certificate};

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_reader_iter(Cursor::new(pem.as_bytes().to_vec()))
        .collect::<Result<_, _>>()
        .map_err(|error| format!("certificate: {error}"))
}

/// The certificate that the node's server shows. Clones are handles on the same one; it may be set and
/// replaced while the server runs. Without one, handshakes fail.
#[derive(Clone, Default)]
pub struct ServingIdentity(Arc<ArcSwapOption<CertifiedKey>>);

impl ServingIdentity {
    /// Shows this certificate from now on, both PEM.
    ///
    /// # Errors
    /// When the two cannot be used or do not belong together.
    pub fn set(&self, cert_pem: &str, key_pem: &str) -> Result<(), String> {
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|error| format!("private key: {error}"))?;
        let pair = CertifiedKey::from_der(certificates(cert_pem)?, key, &provider())
            .map_err(|error| format!("serving certificate: {error}"))?;
        self.0.store(Some(Arc::new(pair)));
        Ok(())
    }
}

impl std::fmt::Debug for ServingIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ServingIdentity")
            .field(&self.0.load().is_some())
            .finish()
    }
}

impl ResolvesServerCert for ServingIdentity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

/// Common name of the certificate that API servers show to node agents.
pub const API_SERVER_NAME: &str = "kube-apiserver-kubelet-client";
/// Its organization. No role of a cluster is bound to it.
pub const API_SERVER_GROUP: &str = "coxswain:kube-apiservers";

/// Whether the subject of a verified client certificate is exactly the API server's; an administrator's is not.
pub fn is_api_server(der: &[u8]) -> bool {
    X509Certificate::from_der(der).is_ok_and(|(_, certificate)| {
        let subject = certificate.subject();
        let names = subject.iter_common_name().map(|part| part.as_str().ok());
        let groups = subject.iter_organization().map(|part| part.as_str().ok());
        names.eq([Some(API_SERVER_NAME)])
            && groups.eq([Some(API_SERVER_GROUP)])
            && subject.iter_attributes().count() == 2
    })
}

/// The server's configuration: clients must show a certificate of the authority.
pub fn server(identity: &ServingIdentity, client_ca_pem: &str) -> Result<ServerConfig, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(client_ca_pem)? {
        roots
            .add(certificate)
            .map_err(|error| format!("client authority: {error}"))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|error| format!("client authority: {error}"))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(identity.clone()));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// A TLS connection without any check of who answers.
pub async fn connect_unverified(
    stream: TcpStream,
    host: &str,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider())))
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_string()).map_err(|error| error.to_string())?;
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|error| error.to_string())
}

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

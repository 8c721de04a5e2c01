//! TLS between members: each shows a certificate that its own certificate authority (CA) signed.
//!
//! A member's certificate is for the name [`PEER_NAME`], and its common name says which member it is. It is believed when it
//! was signed by the CA that the [`Trust`] holds for that very member. A joiner has no certificate yet; it knows the CAs by the
//! digests in its token. Sessions are never resumed: a resumed one would skip the check.

use std::sync::{Arc, LazyLock};

use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};

use super::member_of;
use super::trust::Trust;

/// The name that every member's certificate is for.
pub const PEER_NAME: &str = "peer.coxswain.internal";

/// A member's certificate, its key, and its CA.
#[derive(Clone)]
pub struct Credentials {
    /// Certificate of the member's CA.
    pub ca_pem: String,
    /// The member's certificate, for client and server use.
    pub cert_pem: String,
    /// Its key.
    pub key_pem: String,
}

/// Credentials that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the certificate for other servers cannot be used: {0}")]
pub struct TlsError(String);

fn unusable(error: impl std::fmt::Display) -> TlsError {
    TlsError(error.to_string())
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    PROVIDER.clone()
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    all.map_err(unusable)
}

fn roots(ca_pem: &str) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca_pem)? {
        roots.add(certificate).map_err(unusable)?;
    }
    Ok(Arc::new(roots))
}

/// SHA-256 in lowercase hexadecimal.
pub(super) fn sha256_hex(bytes: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The digest by which a joiner knows a CA: SHA-256 of its certificate (DER), in hexadecimal.
///
/// # Errors
/// When it is not a certificate.
pub fn ca_digest(ca_pem: &str) -> Result<String, TlsError> {
    let all = certificates(ca_pem)?;
    let first = all.first().ok_or_else(|| unusable("the CA certificate is empty"))?;
    Ok(sha256_hex(first))
}

/// Checks that this is one CA certificate.
pub(super) fn check_ca(ca_pem: &str) -> Result<(), TlsError> {
    let all = certificates(ca_pem)?;
    let [ca] = all.as_slice() else {
        return Err(unusable("expected one CA certificate"));
    };
    let (_, parsed) = x509_parser::parse_x509_certificate(ca).map_err(unusable)?;
    if !parsed.is_ca() {
        return Err(unusable("the certificate is not one of a CA"));
    }
    roots(ca_pem).map(drop)
}

/// What this member shows on either side of a connection; replaced before it expires.
#[derive(Debug)]
struct Shown(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// This member's side of all connections.
#[derive(Clone)]
pub(crate) struct PeerTls {
    shown: Arc<Shown>,
    trust: Arc<Trust>,
}

impl PeerTls {
    pub fn new(credentials: &Credentials, trust: Arc<Trust>) -> Result<PeerTls, TlsError> {
        let shown = Shown(ArcSwap::from_pointee(credentials.certified()?));
        Ok(PeerTls {
            shown: Arc::new(shown),
            trust,
        })
    }

    pub fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    /// From now on new connections show these.
    pub fn renew(&self, credentials: &Credentials) -> Result<(), TlsError> {
        self.shown.0.store(Arc::new(credentials.certified()?));
        Ok(())
    }

    /// The side that listens. A client without a certificate gets in, and may only ask to join.
    pub fn server(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let verifier = MemberClients(Verifier(self.trust.clone()));
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(unusable)?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(self.shown.clone());
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }

    /// The side that connects to member `to`, and to nobody else.
    pub fn client(&self, to: u64) -> Result<Arc<ClientConfig>, TlsError> {
        let verifier = MemberServer {
            verifier: Verifier(self.trust.clone()),
            to,
        };
        let config = dangerous_client(Arc::new(verifier))?;
        Ok(finished(config.with_client_cert_resolver(self.shown.clone())))
    }

    /// The side of a member that asks for a new id: it shows its certificate, and knows the others by their CAs.
    pub fn rejoiner(&self, ca_digests: Vec<String>) -> Result<Arc<ClientConfig>, TlsError> {
        let config = dangerous_client(Arc::new(Pinned(ca_digests)))?;
        Ok(finished(config.with_client_cert_resolver(self.shown.clone())))
    }
}

type ClientBuilder = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

fn dangerous_client(verifier: Arc<dyn ServerCertVerifier>) -> Result<ClientBuilder, TlsError> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unusable)?;
    Ok(config.dangerous().with_custom_certificate_verifier(verifier))
}

fn finished(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// A joiner's side: any server that presents a certificate of a CA with one of these digests.
pub(super) fn joiner(ca_digests: Vec<String>) -> Result<Arc<ClientConfig>, TlsError> {
    Ok(finished(
        dangerous_client(Arc::new(Pinned(ca_digests)))?.with_no_client_auth(),
    ))
}

impl Credentials {
    /// The member's certificate followed by its CA's, which a joiner looks for.
    fn certified(&self) -> Result<CertifiedKey, TlsError> {
        let mut chain = certificates(&self.cert_pem)?;
        chain.extend(certificates(&self.ca_pem)?);
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(unusable)?;
        CertifiedKey::from_der(chain, key, &provider()).map_err(unusable)
    }
}

fn refusal(why: impl Into<String>) -> rustls::Error {
    rustls::Error::General(why.into())
}

/// Finds the CA that a certificate must be signed by: that of the member which it names.
#[derive(Debug)]
struct Verifier(Arc<Trust>);

impl std::fmt::Debug for Trust {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Trust")
    }
}

impl Verifier {
    fn roots_for(&self, end_entity: &CertificateDer<'_>) -> Result<(u64, Arc<RootCertStore>), rustls::Error> {
        let id = member_of(end_entity).ok_or_else(|| refusal("the certificate names no member"))?;
        let Some(ca_pem) = self.0.ca_pem(id) else {
            if self.0.believes(id) {
                self.0.note_unknown();
            }
            return Err(refusal(format!("member {id} was removed, or is not known here yet")));
        };
        let roots = roots(&ca_pem).map_err(|error| refusal(error.to_string()))?;
        Ok((id, roots))
    }
}

/// Verifies handshake signatures as the provider does; the same for every verifier of this module.
macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            let known = &provider().signature_verification_algorithms;
            rustls::crypto::verify_tls12_signature(message, certificate, signature, known)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            let known = &provider().signature_verification_algorithms;
            rustls::crypto::verify_tls13_signature(message, certificate, signature, known)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            provider().signature_verification_algorithms.supported_schemes()
        }
    };
}

/// Clients: members that are believed, and joiners without a certificate.
#[derive(Debug)]
struct MemberClients(Verifier);

impl ClientCertVerifier for MemberClients {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let (_, roots) = self.0.roots_for(end_entity)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
        let verifier = verifier.map_err(|error| refusal(error.to_string()))?;
        verifier.verify_client_cert(end_entity, intermediates, now)
    }

    signatures!();
}

/// The server of one member.
#[derive(Debug)]
struct MemberServer {
    verifier: Verifier,
    to: u64,
}

impl ServerCertVerifier for MemberServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let (id, roots) = self.verifier.roots_for(end_entity)?;
        if id != self.to {
            return Err(refusal(format!("member {id} is there instead of member {}", self.to)));
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider()).build();
        let verifier = verifier.map_err(|error| refusal(error.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp, now)
    }

    signatures!();
}

/// Trusts CAs by the digest of their certificate, which the server has to send along.
#[derive(Debug)]
struct Pinned(Vec<String>);

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let is_pinned = |known: &&CertificateDer<'_>| self.0.contains(&sha256_hex(known));
        let pinned = intermediates.iter().find(is_pinned);
        let pinned = pinned.ok_or_else(|| {
            refusal("the server's CA is none of those in the token; print a new one with 'coxswain members token'")
        })?;
        let mut roots = RootCertStore::empty();
        roots.add(pinned.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|error| refusal(error.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp, now)
    }

    signatures!();
}

//! The TLS settings of the front.

use std::sync::Arc;

use rustls::crypto::ring::cipher_suite;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, SupportedCipherSuite};

use crate::{Config, StartError};

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

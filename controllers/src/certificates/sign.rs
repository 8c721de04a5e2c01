//! Signing with the cluster's authority.
//!
//! The certificate is put together from the request's own bytes (subject, key, names), so that nothing of them
//! is lost, whatever the key's kind and however many organisations the subject has.

use std::time::Duration;

use coxswain_client::k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use jiff::Timestamp;
use rcgen::{KeyPair, SigningKey};
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::der;
use super::request::{self, Request};
use crate::context::Authority;

/// A year, what certificates get that ask for no other time.
const LIFETIME_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
const LIFETIME_MIN: Duration = Duration::from_secs(600);
/// Clocks differ a little.
const BACKDATE: Duration = Duration::from_secs(300);

const ECDSA_WITH_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const AUTHORITY_KEY: &[u8] = &[0x55, 0x1d, 0x23];
const ALTERNATIVE_NAMES: &[u8] = &[0x55, 0x1d, 0x11];

/// Key usages by their bit.
const USAGES: [(&str, u8); 10] = [
    ("signing", 0),
    ("digital signature", 0),
    ("content commitment", 1),
    ("key encipherment", 2),
    ("data encipherment", 3),
    ("key agreement", 4),
    ("cert sign", 5),
    ("crl sign", 6),
    ("encipher only", 7),
    ("decipher only", 8),
];
/// Extended key usages by the last number of `1.3.6.1.5.5.7.3`.
const EXTENDED: [(&str, u8); 7] = [
    ("server auth", 1),
    ("client auth", 2),
    ("code signing", 3),
    ("email protection", 4),
    ("s/mime", 4),
    ("timestamping", 8),
    ("ocsp signing", 9),
];

/// The authority, ready to sign.
pub struct Signer {
    key: KeyPair,
    /// Subject of the authority, DER.
    name: Vec<u8>,
    key_id: Option<Vec<u8>>,
    expires: Timestamp,
}

impl Signer {
    /// Reads the authority's certificate and key.
    pub(super) fn open(authority: &Authority) -> Result<Self, String> {
        let key = KeyPair::from_pem(&authority.key_pem).map_err(|error| format!("the authority's key: {error}"))?;
        if *key.algorithm() != rcgen::PKCS_ECDSA_P256_SHA256 {
            return Err("the authority's key is not a P-256 key".to_string());
        }
        let (_, pem) = x509_parser::pem::parse_x509_pem(authority.cert_pem.as_bytes())
            .map_err(|error| format!("the authority's certificate: {error}"))?;
        let (_, certificate) = X509Certificate::from_der(&pem.contents)
            .map_err(|error| format!("the authority's certificate: {error}"))?;
        let key_id = certificate
            .extensions()
            .iter()
            .find_map(|e| match e.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
                _ => None,
            });
        let expires = certificate.validity().not_after.timestamp();
        Ok(Signer {
            name: certificate.subject().as_raw().to_vec(),
            key_id,
            expires: Timestamp::from_second(expires).map_err(|error| error.to_string())?,
            key,
        })
    }

    /// The certificate for a request, PEM.
    pub(super) fn sign(
        &self,
        request: &Request,
        csr: &CertificateSigningRequest,
        now: Timestamp,
    ) -> Result<String, String> {
        let asked = csr.spec.expiration_seconds.and_then(|s| u64::try_from(s).ok());
        let lifetime = asked.map_or(LIFETIME_MAX, Duration::from_secs);
        let lifetime = lifetime.clamp(LIFETIME_MIN, LIFETIME_MAX);
        let from = now.checked_sub(BACKDATE).map_err(|error| error.to_string())?;
        let until = now.checked_add(lifetime).map_err(|error| error.to_string())?;
        let algorithm = der::sequence(&[&der::tlv(0x06, ECDSA_WITH_SHA256)]);
        let mut serial: [u8; 16] = rand::random();
        // Positive, and never shorter.
        serial[0] = (serial[0] & 0x7f) | 0x40;
        let body = der::sequence(&[
            &der::tlv(0xa0, &der::tlv(0x02, &[2])),
            &der::tlv(0x02, &serial),
            &algorithm,
            &self.name,
            &der::sequence(&[&der::time(from), &der::time(until.min(self.expires))]),
            &request.subject,
            &request.public_key,
            &der::tlv(0xa3, &self.extensions(request, csr)),
        ]);
        let signature = self.key.sign(&body).map_err(|error| error.to_string())?;
        let certificate = der::sequence(&[&body, &algorithm, &der::bits(&signature)]);
        Ok(pem(&certificate))
    }

    fn extensions(&self, request: &Request, csr: &CertificateSigningRequest) -> Vec<u8> {
        let usages = || csr.spec.usages.iter().flatten();
        let named = |table: &[(&str, u8)]| -> Vec<u8> {
            let mut found: Vec<u8> = usages()
                .filter_map(|usage| table.iter().find(|(name, _)| name == usage))
                .map(|(_, number)| *number)
                .collect();
            found.sort_unstable();
            found.dedup();
            found
        };
        let mut all = Vec::new();
        let (plain, extended) = (named(&USAGES), named(&EXTENDED));
        if !plain.is_empty() {
            all.push(der::extension(KEY_USAGE, true, &der::flags(&plain)));
        }
        if !extended.is_empty() {
            let oids: Vec<u8> = extended
                .iter()
                .flat_map(|last| der::tlv(0x06, &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, *last]))
                .collect();
            all.push(der::extension(EXTENDED_KEY_USAGE, false, &der::tlv(0x30, &oids)));
        }
        all.push(der::extension(BASIC_CONSTRAINTS, true, &der::sequence(&[])));
        if let Some(id) = &self.key_id {
            let value = der::sequence(&[&der::tlv(0x80, id)]);
            all.push(der::extension(AUTHORITY_KEY, false, &value));
        }
        if let Some(names) = &request.alternative_names {
            all.push(der::extension(ALTERNATIVE_NAMES, false, names));
        }
        der::tlv(0x30, &all.concat())
    }
}

fn pem(der: &[u8]) -> String {
    let text = request::base64(der);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

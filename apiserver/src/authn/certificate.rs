//! The user in a client certificate: common name is the name, organisations are the groups.
//!
//! TLS accepts certificates of two kinds of authority, of clients and of front proxies. Whose a certificate is decides
//! its whole chain: each kind is verified again by its own roots alone, so that an intermediate of one never vouches
//! for the other.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::AttributeTypeAndValue;

use crate::User;
use crate::serve::certificates;

/// Key of the extra attribute that names the credential.
pub(super) const CREDENTIAL: &str = "authentication.kubernetes.io/credential-id";
/// The attribute of a subject that holds the user's uid.
const UID: &str = "1.3.6.1.4.1.57683.2";

/// A certificate that TLS has verified.
#[derive(Clone, Debug)]
pub(crate) struct Certified {
    /// Whom it names, without the group of everybody who was identified, or why that cannot be said.
    pub user: Result<User, &'static str>,
    /// The authorities of clients vouch for it.
    pub client: bool,
    /// The authorities of front proxies vouch for it.
    pub proxy: bool,
    /// A connection may outlive the certificate it began with, in seconds since 1970.
    pub expires_s: i64,
}

/// The authorities of one kind.
pub(super) struct Authorities(Arc<dyn ClientCertVerifier>);

impl Authorities {
    /// Reads the certificates of a PEM text.
    pub fn new(pem: &str) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(pem)? {
            roots.add(certificate).map_err(|error| error.to_string())?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        Ok(Self(verifier.map_err(|error| error.to_string())?))
    }

    /// Whether they vouch for the first certificate of a chain, itself or by intermediates of that chain.
    pub fn vouch(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> bool {
        let verified =
            |(leaf, between): (&CertificateDer<'_>, _)| self.0.verify_client_cert(leaf, between, now).is_ok();
        chain.split_first().is_some_and(verified)
    }
}

/// Whom a verified certificate names, and when it expires.
pub(super) fn read(der: &[u8]) -> (Result<User, &'static str>, i64) {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return (Err("it is malformed"), i64::MAX);
    };
    let expires_s = certificate.validity().not_after.timestamp();
    let mut user = subject(&certificate);
    if let Ok(user) = &mut user {
        let digest: String = Sha256::digest(der).iter().map(|byte| format!("{byte:02x}")).collect();
        let credential = vec![format!("X509SHA256={digest}")];
        user.extra.insert(CREDENTIAL.to_owned(), credential);
    }
    (user, expires_s)
}

/// Reads a subject. Two names would mean one user here and another one elsewhere.
fn subject(certificate: &X509Certificate<'_>) -> Result<User, &'static str> {
    let subject = certificate.subject();
    let texts = |found: &mut dyn Iterator<Item = &AttributeTypeAndValue<'_>>| -> Result<Vec<String>, &'static str> {
        let read = |attribute: &AttributeTypeAndValue<'_>| match attribute.as_str() {
            Ok("") => Err("a field of its subject is empty"),
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err("a field of its subject is no text"),
        };
        found.map(read).collect()
    };
    let mut names = texts(&mut subject.iter_common_name())?;
    let is_uid = |attribute: &&AttributeTypeAndValue<'_>| attribute.attr_type().to_id_string() == UID;
    let mut uids = texts(&mut subject.iter_attributes().filter(is_uid))?;
    if names.len() != 1 || uids.len() > 1 {
        return Err("its subject does not have one common name and at most one uid");
    }
    Ok(User {
        name: names.pop().unwrap_or_default(),
        uid: uids.pop().unwrap_or_default(),
        groups: texts(&mut subject.iter_organization())?,
        ..User::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair};

    #[test]
    fn subjects_that_cannot_be_read_name_nobody() {
        let text = |text: &str| DnValue::Utf8String(text.to_owned());
        let teletex = || DnValue::TeletexString("ann".try_into().expect("ASCII"));
        let wide = || DnValue::BmpString("ann".try_into().expect("a text"));
        let (name, group) = (DnType::CommonName, DnType::OrganizationName);
        let uid = || DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 57683, 2]);
        let cases = [
            (vec![(name.clone(), text("ann"))], Some(("ann", "", 0))),
            (
                vec![(name.clone(), text("änn")), (group.clone(), text("grüppe"))],
                Some(("änn", "", 1)),
            ),
            (
                vec![(name.clone(), text("ann")), (uid(), text("7"))],
                Some(("ann", "7", 0)),
            ),
            (vec![(name.clone(), teletex())], None),
            (vec![(name.clone(), wide())], None),
            (vec![(name.clone(), text(""))], None),
            (vec![(name.clone(), text("ann")), (group.clone(), wide())], None),
            (vec![(name.clone(), text("ann")), (group.clone(), text(""))], None),
            (vec![(name.clone(), text("ann")), (uid(), wide())], None),
            (vec![(group, text("system:masters"))], None),
            (vec![], None),
        ];
        for (at, (parts, expected)) in cases.into_iter().enumerate() {
            let mut parameters = CertificateParams::default();
            parameters.distinguished_name = DistinguishedName::new();
            for (kind, value) in parts {
                parameters.distinguished_name.push(kind, value);
            }
            let made = parameters
                .self_signed(&KeyPair::generate().expect("a key"))
                .expect("a certificate");
            let (user, _) = read(made.der());
            let found = user
                .as_ref()
                .ok()
                .map(|user| (user.name.as_str(), user.uid.as_str(), user.groups.len()));
            assert_eq!(found, expected, "{at}: {user:?}");
        }
    }
}

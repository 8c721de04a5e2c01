//! The user in a client certificate: common name is the name, organisations are the groups.

use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::User;

/// Key of the extra attribute that names the credential.
pub(super) const CREDENTIAL: &str = "authentication.kubernetes.io/credential-id";

/// A certificate that TLS has verified.
#[derive(Clone, Debug)]
pub(crate) struct Certified {
    /// Without the group of everybody who was identified.
    pub user: User,
    /// A connection may outlive the certificate it began with, in seconds since 1970.
    pub expires_s: i64,
    /// It belongs to the proxy that names users in headers.
    pub proxy: bool,
}

/// Reads a verified certificate, `None` when it has no common name.
pub(super) fn certified(der: &[u8], proxy: bool) -> Option<Certified> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject
        .iter_organization()
        .filter_map(|organisation| organisation.as_str().ok().map(str::to_owned))
        .collect();
    let digest: String = Sha256::digest(der).iter().map(|byte| format!("{byte:02x}")).collect();
    let extra = [(CREDENTIAL.to_owned(), vec![format!("X509SHA256={digest}")])].into();
    Some(Certified {
        user: User {
            name,
            uid: String::new(),
            groups,
            extra,
        },
        expires_s: certificate.validity().not_after.timestamp(),
        proxy,
    })
}

//! The user in a client certificate: common name is the name, organisations are the groups.

use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::AUTHENTICATED;
use crate::User;

/// Key of the extra attribute that names the credential.
pub(super) const CREDENTIAL: &str = "authentication.kubernetes.io/credential-id";

/// The user of a verified certificate, `None` when it has no common name.
pub(crate) fn user_of_certificate(der: &[u8]) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let mut groups: Vec<String> = subject
        .iter_organization()
        .filter_map(|organisation| organisation.as_str().ok().map(str::to_owned))
        .collect();
    groups.push(AUTHENTICATED.to_owned());
    let digest: String = Sha256::digest(der).iter().map(|byte| format!("{byte:02x}")).collect();
    let extra = [(CREDENTIAL.to_owned(), vec![format!("X509SHA256={digest}")])].into();
    Some(User {
        name,
        uid: String::new(),
        groups,
        extra,
    })
}

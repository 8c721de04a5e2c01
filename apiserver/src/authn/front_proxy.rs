//! A proxy in front of the server: whoever holds a certificate of its authority names the user in headers.

use coxswain_api::ApiError;
use http::HeaderMap;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Certified;
use crate::query::decode;
use crate::serve::certificates;
use crate::{StartError, User};

const EXTRA: &str = "x-remote-extra-";

/// Who may name users in `X-Remote-User`, `X-Remote-Group`, `X-Remote-Uid` and `X-Remote-Extra-*`.
#[derive(Clone, Debug)]
pub struct FrontProxy {
    /// The authority that signs the proxy's certificates, PEM; it signs nobody else's.
    pub ca_pem: String,
    /// Common names that the proxy's certificate may have; any when empty.
    pub allowed_names: Vec<String>,
}

/// The authorities of the proxy, ready to be compared.
pub(super) struct Proxies {
    authorities: Vec<CertificateDer<'static>>,
    names: Vec<String>,
}

impl Proxies {
    /// Reads the configuration.
    pub fn new(config: &FrontProxy) -> Result<Self, StartError> {
        let authorities = certificates(&config.ca_pem).map_err(|why| StartError::Key {
            what: "front proxy CA",
            why,
        })?;
        Ok(Self {
            authorities,
            names: config.allowed_names.clone(),
        })
    }

    /// Whether one of the authorities has signed a certificate.
    pub fn signed(&self, der: &[u8]) -> bool {
        let Ok((_, certificate)) = X509Certificate::from_der(der) else {
            return false;
        };
        self.authorities.iter().any(|authority| {
            X509Certificate::from_der(authority).is_ok_and(|(_, authority)| {
                certificate.issuer() == authority.subject()
                    && certificate.verify_signature(Some(authority.public_key())).is_ok()
            })
        })
    }

    /// The user that the proxy names; `None` when it names none.
    ///
    /// # Errors
    /// 401 when the proxy's certificate has a name that is not allowed.
    pub fn user(&self, proxy: &Certified, headers: &HeaderMap) -> Result<Option<User>, ApiError> {
        let all = |name: &str| -> Vec<String> {
            let values = headers.get_all(name).iter();
            values
                .filter_map(|value| value.to_str().ok().map(str::to_owned))
                .collect()
        };
        let Some(name) = all("x-remote-user").into_iter().find(|name| !name.is_empty()) else {
            return Ok(None);
        };
        if !self.names.is_empty() && !self.names.contains(&proxy.user.name) {
            return Err(ApiError::unauthorized());
        }
        let mut user = User {
            name,
            uid: all("x-remote-uid").into_iter().next().unwrap_or_default(),
            groups: all("x-remote-group"),
            ..User::default()
        };
        for (header, value) in headers {
            if let (Some(key), Ok(value)) = (header.as_str().strip_prefix(EXTRA), value.to_str()) {
                let key = decode(key, false).to_ascii_lowercase();
                user.extra.entry(key).or_default().push(value.to_owned());
            }
        }
        Ok(Some(user))
    }
}

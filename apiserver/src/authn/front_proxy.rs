//! A proxy in front of the server: whoever holds a certificate of its authority names the user in headers.

use coxswain_api::ApiError;
use http::HeaderMap;
use rustls::pki_types::CertificateDer;
use serde_json::Value;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Certified;
use crate::query::decode;
use crate::serve::certificates;
use crate::{StartError, User};

/// Who may name users, and in which headers.
#[derive(Clone, Debug)]
pub struct FrontProxy {
    /// The authority that signs the proxy's certificates, PEM; it signs nobody else's.
    pub ca_pem: String,
    /// Common names that the proxy's certificate may have; any when empty.
    pub allowed_names: Vec<String>,
    /// The first of these headers with a value names the user.
    pub username_headers: Vec<String>,
    /// The first of these headers with a value is the user's uid.
    pub uid_headers: Vec<String>,
    /// Every value of these headers is a group.
    pub group_headers: Vec<String>,
    /// What follows one of these prefixes in a header's name is the key of an extra attribute.
    pub extra_header_prefixes: Vec<String>,
}

impl FrontProxy {
    /// With the usual headers (`X-Remote-User`, `X-Remote-Uid`, `X-Remote-Group`, `X-Remote-Extra-*`), for every name.
    #[must_use]
    pub fn new(ca_pem: String) -> Self {
        let usual = |name: &str| vec![name.to_owned()];
        Self {
            ca_pem,
            allowed_names: Vec::new(),
            username_headers: usual("X-Remote-User"),
            uid_headers: usual("X-Remote-Uid"),
            group_headers: usual("X-Remote-Group"),
            extra_header_prefixes: usual("X-Remote-Extra-"),
        }
    }

    /// What other servers have to know to trust the same proxy, as in ConfigMap `extension-apiserver-authentication`.
    pub(crate) fn published(&self) -> [(&'static str, String); 6] {
        let list = |items: &[String]| Value::from(items).to_string();
        [
            ("requestheader-client-ca-file", self.ca_pem.clone()),
            ("requestheader-allowed-names", list(&self.allowed_names)),
            ("requestheader-username-headers", list(&self.username_headers)),
            ("requestheader-uid-headers", list(&self.uid_headers)),
            ("requestheader-group-headers", list(&self.group_headers)),
            ("requestheader-extra-headers-prefix", list(&self.extra_header_prefixes)),
        ]
    }
}

/// The authorities of the proxy, ready to be compared.
pub(super) struct Proxies {
    authorities: Vec<CertificateDer<'static>>,
    config: FrontProxy,
}

impl Proxies {
    /// Reads the configuration.
    pub fn new(config: &FrontProxy) -> Result<Self, StartError> {
        let authorities = certificates(&config.ca_pem).map_err(|why| StartError::Key {
            what: "front proxy CA",
            why,
        })?;
        let is_header = |name: &String| http::HeaderName::try_from(name.as_str()).is_ok();
        let prefixes = config.extra_header_prefixes.iter();
        let mut names = [&config.username_headers, &config.uid_headers, &config.group_headers]
            .into_iter()
            .flatten()
            .chain(prefixes);
        if let Some(wrong) = names.find(|name| !is_header(name)) {
            return Err(StartError::Key {
                what: "front proxy header",
                why: format!("{wrong:?} is no header name"),
            });
        }
        Ok(Self {
            authorities,
            config: config.clone(),
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
        let all = |names: &[String]| -> Vec<String> {
            let values = names.iter().flat_map(|name| headers.get_all(name));
            values
                .filter_map(|value| value.to_str().ok())
                .filter(|value| !value.is_empty())
                .map(str::to_owned)
                .collect()
        };
        let config = &self.config;
        let Some(name) = all(&config.username_headers).into_iter().next() else {
            return Ok(None);
        };
        if !config.allowed_names.is_empty() && !config.allowed_names.contains(&proxy.user.name) {
            return Err(ApiError::unauthorized());
        }
        let mut user = User {
            name,
            uid: all(&config.uid_headers).into_iter().next().unwrap_or_default(),
            groups: all(&config.group_headers),
            ..User::default()
        };
        let prefixes: Vec<String> = config
            .extra_header_prefixes
            .iter()
            .map(|p| p.to_ascii_lowercase())
            .collect();
        for (header, value) in headers {
            let key = prefixes
                .iter()
                .find_map(|prefix| header.as_str().strip_prefix(prefix.as_str()));
            if let (Some(key), Ok(value)) = (key, value.to_str()) {
                let key = decode(key, false).to_ascii_lowercase();
                user.extra.entry(key).or_default().push(value.to_owned());
            }
        }
        Ok(Some(user))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(change: impl FnOnce(&mut FrontProxy)) -> Proxies {
        let mut config = FrontProxy::new(String::new());
        change(&mut config);
        Proxies {
            authorities: Vec::new(),
            config,
        }
    }

    fn named(name: &str) -> Certified {
        Certified {
            user: User {
                name: name.to_owned(),
                ..User::default()
            },
            expires_s: i64::MAX,
            proxy: true,
        }
    }

    #[test]
    fn headers_name_the_user() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-remote-user", "ann"),
            ("x-remote-uid", "7"),
            ("x-remote-group", "a"),
            ("x-remote-group", "b"),
            ("x-remote-extra-acme.com%2fscope", "one"),
            ("x-other-user", "bob"),
            ("x-other-extra-k", "v"),
        ] {
            headers.append(name, value.parse().expect("a value"));
        }
        let proxy = named("front");
        let usual = proxies(|_| {})
            .user(&proxy, &headers)
            .expect("allowed")
            .expect("a user");
        assert_eq!((usual.name.as_str(), usual.uid.as_str()), ("ann", "7"));
        assert_eq!(usual.groups, ["a", "b"]);
        assert_eq!(usual.extra["acme.com/scope"], ["one"]);
        let other = proxies(|config| {
            config.username_headers = vec!["X-Missing".to_owned(), "X-Other-User".to_owned()];
            config.group_headers = Vec::new();
            config.extra_header_prefixes = vec!["X-Other-Extra-".to_owned()];
        });
        let other = other.user(&proxy, &headers).expect("allowed").expect("a user");
        assert_eq!((other.name.as_str(), other.groups.len()), ("bob", 0));
        assert_eq!(other.extra["k"], ["v"]);
        let strict = proxies(|config| config.allowed_names = vec!["back".to_owned()]);
        assert!(strict.user(&proxy, &headers).is_err());
        assert!(strict.user(&named("back"), &headers).expect("allowed").is_some());
        assert_eq!(strict.user(&proxy, &HeaderMap::new()).expect("nobody"), None);
    }
}

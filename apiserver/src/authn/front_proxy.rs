//! A proxy in front of the server: whoever holds a certificate of its authority names the user in headers.

use coxswain_api::ApiError;
use http::HeaderMap;
use serde_json::Value;

use super::Certified;
use super::certificate::Authorities;
use super::headers::{Unreadable, add_extra, every, single};
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

/// The authorities of the proxy, ready to be asked.
pub(super) struct Proxies {
    pub authorities: Authorities,
    config: FrontProxy,
}

impl Proxies {
    /// Reads the configuration.
    pub fn new(config: &FrontProxy) -> Result<Self, StartError> {
        let authorities = Authorities::new(&config.ca_pem).map_err(|why| StartError::Key {
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

    /// Whether a header, in lowercase, says who somebody is.
    pub fn reads(&self, header: &str) -> bool {
        let config = &self.config;
        let names = [&config.username_headers, &config.uid_headers, &config.group_headers];
        let prefix = |prefix: &String| header.starts_with(&prefix.to_ascii_lowercase());
        names
            .into_iter()
            .flatten()
            .any(|name| header.eq_ignore_ascii_case(name))
            || config.extra_header_prefixes.iter().any(prefix)
    }

    /// The user that the proxy names; `None` when it names none.
    ///
    /// # Errors
    /// 401 when the proxy's certificate has a name that is not allowed, and when what it says cannot be read.
    pub fn user(&self, proxy: &Certified, headers: &HeaderMap) -> Result<Option<User>, ApiError> {
        let user = self.named(headers).map_err(|why| {
            tracing::warn!(%why, "a front proxy is refused");
            ApiError::unauthorized()
        })?;
        let allowed = &self.config.allowed_names;
        let named = |certificate: &User| allowed.contains(&certificate.name);
        if user.is_some() && !allowed.is_empty() && !proxy.user.as_ref().is_ok_and(named) {
            return Err(ApiError::unauthorized());
        }
        Ok(user)
    }

    fn named(&self, headers: &HeaderMap) -> Result<Option<User>, Unreadable> {
        let config = &self.config;
        let first = |names: &[String]| -> Result<Option<String>, Unreadable> {
            for name in names {
                if let Some(value) = single(headers, name)?.filter(|value| !value.is_empty()) {
                    return Ok(Some(value.to_owned()));
                }
            }
            Ok(None)
        };
        let Some(name) = first(&config.username_headers)? else {
            return Ok(None);
        };
        let mut user = User {
            name,
            uid: first(&config.uid_headers)?.unwrap_or_default(),
            ..User::default()
        };
        for name in &config.group_headers {
            user.groups.extend(every(headers, name)?);
        }
        user.groups.retain(|group| !group.is_empty());
        for prefix in &config.extra_header_prefixes {
            add_extra(&mut user, headers, &prefix.to_ascii_lowercase())?;
        }
        Ok(Some(user))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(change: impl FnOnce(&mut FrontProxy)) -> Proxies {
        let made = rcgen::generate_simple_self_signed(vec!["front".to_owned()]).expect("a certificate");
        let mut config = FrontProxy::new(made.cert.pem());
        change(&mut config);
        Proxies::new(&config).expect("a configuration")
    }

    fn named(name: &str) -> Certified {
        Certified {
            user: Ok(User {
                name: name.to_owned(),
                ..User::default()
            }),
            expires_s: i64::MAX,
            client: false,
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

    #[test]
    fn what_cannot_be_read_names_nobody() {
        let cases: &[&[(&str, &[u8])]] = &[
            &[("x-remote-user", b"\xe4nn")],
            &[("x-remote-user", b"ann"), ("x-remote-user", b"bob")],
            &[("x-remote-user", b""), ("x-remote-user", b"bob")],
            &[("x-remote-user", b"ann"), ("x-remote-group", b"\xff")],
            &[("x-remote-user", b"ann"), ("x-remote-uid", b"\xff")],
            &[
                ("x-remote-user", b"ann"),
                ("x-remote-uid", b"1"),
                ("x-remote-uid", b"2"),
            ],
            &[("x-remote-user", b"ann"), ("x-remote-extra-k", b"\xff")],
            &[("x-remote-user", b"ann"), ("x-remote-extra-k%zz", b"v")],
            &[("x-remote-user", b"ann"), ("x-remote-extra-k%ff", b"v")],
            &[("x-remote-user", b"ann"), ("x-remote-extra-k%", b"v")],
            &[("x-remote-user", b"ann"), ("x-remote-extra-", b"v")],
        ];
        for case in cases {
            let mut headers = HeaderMap::new();
            for (name, value) in *case {
                headers.append(*name, http::HeaderValue::from_bytes(value).expect("a value"));
            }
            let refused = proxies(|_| {}).user(&named("front"), &headers);
            assert_eq!(refused.map_err(|error| error.code), Err(401), "{case:?}");
        }
    }
}

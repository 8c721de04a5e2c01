//! Who makes a request: client certificates, a front proxy, tokens, impersonation.
//!
//! A certificate that the TLS layer has verified wins over a token. Without either the request is
//! anonymous; what anonymous requests may do is RBAC's decision, like everybody's. A credential that
//! does not check out, or that cannot be read, is a 401, never anonymous and never left out.

mod bootstrap_token;
mod certificate;
mod front_proxy;
#[cfg(test)]
mod fuzz_tests;
mod headers;
mod impersonation;
mod oidc;
mod token;

pub(crate) use certificate::Certified;
pub use front_proxy::FrontProxy;
pub(crate) use impersonation::{Impersonation, impersonation};
pub(crate) use token::{Bound, Grant, Tokens, Verified};

use coxswain_api::ApiError;
use coxswain_store::Snapshot;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use rustls::pki_types::{CertificateDer, UnixTime};

use crate::serve::certificates;
use crate::{Config, StartError, User};
use certificate::Authorities;
use front_proxy::Proxies;
use oidc::Structured;

/// Group of everybody who was identified.
pub(crate) const AUTHENTICATED: &str = "system:authenticated";

/// Group of everybody who was not.
pub(crate) const UNAUTHENTICATED: &str = "system:unauthenticated";

/// How users are identified, beside the server's own tokens.
pub(crate) struct Authn {
    clients: Authorities,
    proxies: Option<Proxies>,
    /// Other issuers, and whom to let in without credentials.
    pub structured: Option<Structured>,
    /// The common name that this server has towards node agents. It is nobody's here: a connection with it is one that this
    /// server, or another one of the cluster, was led into.
    pub towards_agents: Option<String>,
}

impl Authn {
    /// Reads the configuration.
    ///
    /// # Errors
    /// When key material cannot be used.
    pub fn new(config: &Config) -> Result<Self, StartError> {
        let clients =
            Authorities::new(&config.client_ca_pem).map_err(|why| StartError::Key { what: "client CA", why })?;
        Ok(Self {
            clients,
            proxies: config.front_proxy.as_ref().map(Proxies::new).transpose()?,
            structured: config
                .authentication
                .as_deref()
                .map(Structured::parse)
                .transpose()
                .map_err(StartError::Authentication)?,
            towards_agents: certificates(&config.kubelet_client_cert_pem)
                .ok()
                .and_then(|chain| Some(certificate::read(chain.first()?).0.ok()?.name)),
        })
    }

    /// What the chain of a verified client certificate says; `None` without a certificate.
    pub fn certified(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Option<Certified> {
        let (user, expires_s) = certificate::read(chain.first()?);
        Some(Certified {
            user,
            client: self.clients.vouch(chain, now),
            proxy: self
                .proxies
                .as_ref()
                .is_some_and(|proxies| proxies.authorities.vouch(chain, now)),
            expires_s,
        })
    }

    /// The user of a certificate, or the one whom the proxy with that certificate names; `None` when it is a proxy's
    /// that names nobody.
    ///
    /// # Errors
    /// 401 for a certificate that has expired meanwhile or cannot be read, for the one that is for node agents alone, and for a
    /// proxy that is not allowed or says what cannot be read.
    pub fn by_certificate(
        &self,
        certificate: Option<&Certified>,
        headers: &HeaderMap,
        now_s: i64,
    ) -> Result<Option<User>, ApiError> {
        let Some(certificate) = certificate else {
            return Ok(None);
        };
        if certificate.expires_s < now_s {
            return Err(ApiError::unauthorized());
        }
        if let (Some(own), Ok(user)) = (&self.towards_agents, &certificate.user)
            && *own == user.name
        {
            tracing::warn!(name = own, "refused a certificate that is for node agents alone");
            return Err(ApiError::unauthorized());
        }
        let named = match &self.proxies {
            Some(proxies) if certificate.proxy => proxies.user(certificate, headers)?,
            _ => None,
        };
        let user = match (named, &certificate.user) {
            (Some(user), _) => Some(user),
            (None, _) if !certificate.client => None,
            (None, Ok(user)) => Some(user.clone()),
            (None, Err(why)) => {
                tracing::debug!(%why, "client certificate refused");
                return Err(ApiError::unauthorized());
            }
        };
        Ok(user.map(|mut user| {
            if !user.is_in(AUTHENTICATED) && user.name != ANONYMOUS {
                user.groups.push(AUTHENTICATED.to_owned());
            }
            user
        }))
    }

    /// Whether a header says who somebody is: it is for this server alone, and goes no further.
    pub fn identifies(&self, header: &str) -> bool {
        header == AUTHORIZATION.as_str()
            || ["impersonate-", "x-remote-"]
                .iter()
                .any(|prefix| header.starts_with(prefix))
            || self.proxies.as_ref().is_some_and(|proxies| proxies.reads(header))
    }

    /// The user of a request without credentials.
    ///
    /// # Errors
    /// 401 where the configuration lets nobody in without.
    pub fn anonymous(&self, path: &str) -> Result<User, ApiError> {
        let rule = self
            .structured
            .as_ref()
            .and_then(|structured| structured.anonymous.as_ref());
        if rule.is_some_and(|rule| !rule.admits(path)) {
            return Err(ApiError::unauthorized());
        }
        Ok(User {
            name: ANONYMOUS.to_owned(),
            groups: vec![UNAUTHENTICATED.to_owned()],
            ..User::default()
        })
    }

    /// The user of a bearer token. The error is for people; it never reaches an unauthenticated client.
    pub async fn by_token(
        &self,
        tokens: &Tokens,
        token: &str,
        audiences: &[String],
        snapshot: &Snapshot,
        now_s: i64,
    ) -> Result<Verified, String> {
        let own = tokens.default_audience();
        let Some((id, secret)) = bootstrap_token::parts(token) else {
            if let Some(structured) = &self.structured
                && let Some(verified) = structured.verify(token, own, audiences, now_s).await
            {
                return verified;
            }
            return tokens.verify(token, audiences, snapshot, now_s);
        };
        if !audiences.is_empty() && !audiences.iter().any(|audience| audience == own) {
            return Err("the token is not for these audiences".to_owned());
        }
        let user = bootstrap_token::user(id, secret, snapshot, now_s)?;
        Ok(Verified {
            user,
            audiences: vec![own.to_owned()],
        })
    }
}

/// Name of a user without credentials.
pub(crate) const ANONYMOUS: &str = "system:anonymous";

/// The bearer token of a request; `None` when it has none, as with other schemes.
///
/// # Errors
/// 401 for a header that is there twice or cannot be read, and for the scheme without a token.
pub(crate) fn bearer(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let header = headers::single(headers, AUTHORIZATION.as_str()).map_err(|_| ApiError::unauthorized())?;
    let header = header.unwrap_or_default().trim();
    let (scheme, token) = header.split_once([' ', '\t']).unwrap_or((header, ""));
    match (scheme.eq_ignore_ascii_case("bearer"), token.trim()) {
        (false, _) => Ok(None),
        (true, "") => Err(ApiError::unauthorized()),
        (true, token) => Ok(Some(token)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bearer_tokens() {
        type Case<'c> = (&'c [&'c [u8]], Result<Option<&'c str>, u16>);
        let cases: &[Case<'_>] = &[
            (&[], Ok(None)),
            (&[b""], Ok(None)),
            (&[b"Basic YTpi"], Ok(None)),
            (&[b"Bearer x"], Ok(Some("x"))),
            (&[b"BEARER\tx"], Ok(Some("x"))),
            (&[b"Bearer"], Err(401)),
            (&[b"Bearer  "], Err(401)),
            (&[b"Bearer \xe4\xff"], Err(401)),
            (&[b"\xe4 x"], Err(401)),
            (&[b"Bearer x", b"Bearer y"], Err(401)),
            (&[b"Basic YTpi", b"Bearer y"], Err(401)),
        ];
        for (values, expected) in cases {
            let mut headers = HeaderMap::new();
            for value in *values {
                headers.append(AUTHORIZATION, http::HeaderValue::from_bytes(value).expect("a value"));
            }
            assert_eq!(bearer(&headers).map_err(|error| error.code), *expected, "{values:?}");
        }
    }
}

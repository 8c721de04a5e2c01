//! Who makes a request: client certificates, a front proxy, tokens, impersonation.
//!
//! A certificate that the TLS layer has verified wins over a token. Without either the request is
//! anonymous; what anonymous requests may do is RBAC's decision, like everybody's. A token that
//! does not check out is a 401, never anonymous.

mod bootstrap_token;
mod certificate;
mod front_proxy;
#[cfg(test)]
mod fuzz_tests;
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

use crate::{Config, StartError, User};
use front_proxy::Proxies;
use oidc::Structured;

/// Group of everybody who was identified.
pub(crate) const AUTHENTICATED: &str = "system:authenticated";

/// How users are identified, beside the server's own tokens.
pub(crate) struct Authn {
    proxies: Option<Proxies>,
    /// Other issuers, and whom to let in without credentials.
    pub structured: Option<Structured>,
}

impl Authn {
    /// Reads the configuration.
    ///
    /// # Errors
    /// When key material cannot be used.
    pub fn new(config: &Config) -> Result<Self, StartError> {
        Ok(Self {
            proxies: config.front_proxy.as_ref().map(Proxies::new).transpose()?,
            structured: config
                .authentication
                .as_deref()
                .map(Structured::parse)
                .transpose()
                .map_err(StartError::Authentication)?,
        })
    }

    /// What a verified client certificate says, `None` when it has no common name.
    pub fn certified(&self, der: &[u8]) -> Option<Certified> {
        let proxy = self.proxies.as_ref().is_some_and(|proxies| proxies.signed(der));
        certificate::certified(der, proxy)
    }

    /// The user of a certificate, or the one whom the proxy with that certificate names.
    ///
    /// # Errors
    /// 401 for a certificate that has expired meanwhile, and for a proxy that is not allowed.
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
        let user = match &self.proxies {
            Some(proxies) if certificate.proxy => proxies.user(certificate, headers)?,
            _ => Some(certificate.user.clone()),
        };
        Ok(user.map(|mut user| {
            if !user.is_in(AUTHENTICATED) && user.name != ANONYMOUS {
                user.groups.push(AUTHENTICATED.to_owned());
            }
            user
        }))
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
            groups: vec!["system:unauthenticated".to_owned()],
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

const ANONYMOUS: &str = "system:anonymous";

/// The bearer token of a request.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

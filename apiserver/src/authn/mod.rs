//! Who makes a request: client certificates, service account tokens, impersonation.
//!
//! A certificate that the TLS layer has verified wins over a token. Without either the request is
//! anonymous; what anonymous requests may do is RBAC's decision, like everybody's. A token that
//! does not check out is a 401, never anonymous.

mod certificate;
mod impersonation;
mod token;

pub(crate) use certificate::user_of_certificate;
pub(crate) use impersonation::impersonation;
pub(crate) use token::{Bound, Grant, Tokens};

use coxswain_api::ApiError;
use coxswain_store::Snapshot;
use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::User;

/// Group of everybody who was identified.
pub(crate) const AUTHENTICATED: &str = "system:authenticated";

/// The identity of a request without its impersonation.
///
/// # Errors
/// 401 for a bearer token that is not valid.
pub(crate) fn authenticate(
    certificate: Option<User>,
    headers: &HeaderMap,
    tokens: &Tokens,
    snapshot: &Snapshot,
    now_s: i64,
) -> Result<User, ApiError> {
    if let Some(user) = certificate {
        return Ok(user);
    }
    let Some(value) = headers.get(AUTHORIZATION) else {
        return Ok(anonymous());
    };
    let token = value
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    let Some(token) = token.filter(|token| !token.is_empty()) else {
        return Ok(anonymous());
    };
    let verified = tokens.verify(token, &[], snapshot, now_s).map_err(|why| {
        tracing::debug!(%why, "bearer token refused");
        ApiError::unauthorized()
    })?;
    let mut user = verified.user;
    user.groups.push(AUTHENTICATED.to_owned());
    Ok(user)
}

fn anonymous() -> User {
    User {
        name: "system:anonymous".to_owned(),
        groups: vec!["system:unauthenticated".to_owned()],
        ..User::default()
    }
}

//! Service account tokens: ES256 JWTs with the claims Kubernetes uses, bound to objects.
//!
//! A token is good while its signature, issuer, audience and times are, *and* the service account
//! and the object it is bound to still exist with the same uid. Nothing is remembered about issued
//! tokens.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use coxswain_store::Snapshot;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::certificate::CREDENTIAL;
use crate::{StartError, User};

/// Keys, issuer and audience of service account tokens.
pub(crate) struct Tokens {
    signing: EncodingKey,
    verifying: DecodingKey,
    issuer: String,
    key_id: String,
    jwk: Value,
}

/// The object a token lives and dies with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bound {
    /// `Pod`, `Secret` or `Node`.
    pub kind: String,
    pub name: String,
    pub uid: String,
}

/// What a good token says.
pub(crate) struct Verified {
    pub user: User,
    pub audiences: Vec<String>,
}

/// What a token is issued for.
pub(crate) struct Grant<'a> {
    pub namespace: &'a str,
    pub account: &'a str,
    pub account_uid: &'a str,
    pub audiences: &'a [String],
    pub now_s: i64,
    pub lifetime_s: i64,
    pub bound: Option<&'a Bound>,
    /// Name and uid of the node of a bound pod.
    pub node: Option<(String, String)>,
}

impl Tokens {
    /// Reads the P-256 key.
    pub fn new(key_pem: &str, issuer: &str) -> Result<Self, StartError> {
        let bad = |why: String| StartError::Key {
            what: "service account key",
            why,
        };
        let der = PrivatePkcs8KeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|error| bad(error.to_string()))?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der())
            .map_err(|error| bad(error.to_string()))?;
        let point = pair.public_key().as_ref();
        let (Some(x), Some(y)) = (point.get(1..33), point.get(33..65)) else {
            return Err(bad("not a P-256 key".to_owned()));
        };
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let key_id = URL_SAFE_NO_PAD.encode(Sha256::digest(point));
        Ok(Self {
            signing: EncodingKey::from_ec_pem(key_pem.as_bytes()).map_err(|error| bad(error.to_string()))?,
            verifying: DecodingKey::from_ec_components(&x, &y).map_err(|error| bad(error.to_string()))?,
            issuer: issuer.to_owned(),
            jwk: json!({"use": "sig", "kty": "EC", "kid": key_id, "crv": "P-256", "alg": "ES256", "x": x, "y": y}),
            key_id,
        })
    }

    /// The audience of tokens that name none.
    pub fn default_audience(&self) -> &str {
        &self.issuer
    }

    /// The public key set document (`/openid/v1/jwks`).
    pub fn key_set(&self) -> Value {
        json!({"keys": [self.jwk]})
    }

    /// Signs a token.
    pub fn issue(&self, grant: &Grant<'_>) -> Result<String, String> {
        let mut kubernetes = json!({
            "namespace": grant.namespace,
            "serviceaccount": {"name": grant.account, "uid": grant.account_uid},
        });
        if let (Some(bound), Some(claims)) = (grant.bound, kubernetes.as_object_mut()) {
            claims.insert(
                bound.kind.to_ascii_lowercase(),
                json!({"name": bound.name, "uid": bound.uid}),
            );
            if let Some((name, uid)) = &grant.node {
                claims.insert("node".to_owned(), json!({"name": name, "uid": uid}));
            }
        }
        let claims = json!({
            "aud": grant.audiences,
            "exp": grant.now_s.saturating_add(grant.lifetime_s),
            "iat": grant.now_s,
            "nbf": grant.now_s,
            "iss": self.issuer,
            "jti": uuid::Uuid::new_v4().to_string(),
            "kubernetes.io": kubernetes,
            "sub": format!("system:serviceaccount:{}:{}", grant.namespace, grant.account),
        });
        let header = Header {
            alg: Algorithm::ES256,
            kid: Some(self.key_id.clone()),
            typ: None,
            ..Header::default()
        };
        encode(&header, &claims, &self.signing).map_err(|error| error.to_string())
    }

    /// Checks a token against keys, times, audiences (the default one when empty) and the objects
    /// in the store. The error is for people; it never reaches an unauthenticated client.
    pub fn verify(
        &self,
        token: &str,
        audiences: &[String],
        snapshot: &Snapshot,
        now_s: i64,
    ) -> Result<Verified, String> {
        let mut rules = Validation::new(Algorithm::ES256);
        rules.validate_aud = false;
        rules.validate_exp = false;
        rules.required_spec_claims.clear();
        let claims = decode::<Value>(token, &self.verifying, &rules)
            .map_err(|_| "invalid bearer token".to_owned())?
            .claims;
        self.check_times(&claims, now_s)?;
        let audiences = self.check_audiences(&claims, audiences)?;
        let user = user_of(&claims, snapshot)?;
        Ok(Verified { user, audiences })
    }

    fn check_times(&self, claims: &Value, now_s: i64) -> Result<(), String> {
        let number = |name: &str| claims.get(name).and_then(Value::as_i64);
        if text(claims, "/iss") != self.issuer {
            return Err("invalid bearer token".to_owned());
        }
        if number("exp").is_none_or(|expires| expires <= now_s) {
            return Err("[invalid bearer token, service account token has expired]".to_owned());
        }
        if number("nbf").is_some_and(|from| from > now_s.saturating_add(60)) {
            return Err("[invalid bearer token, service account token is not valid yet]".to_owned());
        }
        Ok(())
    }

    /// The audiences that the token holds of those wanted.
    fn check_audiences(&self, claims: &Value, audiences: &[String]) -> Result<Vec<String>, String> {
        let listed = claims.get("aud").and_then(Value::as_array);
        let held: Vec<String> = listed
            .into_iter()
            .flatten()
            .filter_map(|item| item.as_str().map(str::to_owned))
            .collect();
        let default = [self.issuer.clone()];
        let wanted = if audiences.is_empty() { &default[..] } else { audiences };
        let matching: Vec<String> = wanted
            .iter()
            .filter(|audience| held.contains(audience))
            .cloned()
            .collect();
        if matching.is_empty() {
            return Err(format!(
                "[invalid bearer token, token audiences {} is invalid for the target audiences {}]",
                go_list(&held),
                go_list(wanted)
            ));
        }
        Ok(matching)
    }
}

/// Whether two secrets are equal, in a time that does not tell where they differ.
pub(super) fn same(a: &str, b: &str) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(a.as_bytes(), b.as_bytes()).is_ok()
}

fn text<'v>(claims: &'v Value, pointer: &str) -> &'v str {
    claims.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The user of a token whose account and bound object still exist.
fn user_of(claims: &Value, snapshot: &Snapshot) -> Result<User, String> {
    let namespace = text(claims, "/kubernetes.io/namespace");
    let account = text(claims, "/kubernetes.io/serviceaccount/name");
    let account_uid = text(claims, "/kubernetes.io/serviceaccount/uid");
    let alive = |resource: &str, namespace: &str, name: &str, uid: &str| {
        snapshot
            .find(resource, namespace, name)
            .is_some_and(|stored| stored.head.uid == uid)
    };
    if !alive("serviceaccounts", namespace, account, account_uid) {
        return Err("[invalid bearer token, service account has been deleted]".to_owned());
    }
    let mut extra = std::collections::BTreeMap::new();
    for (kind, resource, scope) in [
        ("pod", "pods", namespace),
        ("secret", "secrets", namespace),
        ("node", "nodes", ""),
    ] {
        let name = text(claims, &format!("/kubernetes.io/{kind}/name"));
        let uid = text(claims, &format!("/kubernetes.io/{kind}/uid"));
        if name.is_empty() {
            continue;
        }
        // The node of a bound pod is told, not required.
        let required = kind != "node" || text(claims, "/kubernetes.io/pod/name").is_empty();
        if required && !alive(resource, scope, name, uid) {
            return Err(format!(
                "[invalid bearer token, service account token has been invalidated: {kind} is gone]"
            ));
        }
        if kind != "secret" {
            for (key, value) in [("name", name), ("uid", uid)] {
                extra.insert(
                    format!("authentication.kubernetes.io/{kind}-{key}"),
                    vec![value.to_owned()],
                );
            }
        }
    }
    let id = text(claims, "/jti");
    if !id.is_empty() {
        extra.insert(CREDENTIAL.to_owned(), vec![format!("JTI={id}")]);
    }
    Ok(User {
        name: format!("system:serviceaccount:{namespace}:{account}"),
        uid: account_uid.to_owned(),
        groups: vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
        ],
        extra,
    })
}

/// A list of strings as Go prints it with `%q`.
fn go_list(items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|item| format!("{item:?}")).collect();
    format!("[{}]", items.join(" "))
}

//! Tokens of other issuers (OpenID Connect), by a structured `AuthenticationConfiguration`.
//!
//! A token is routed by its issuer claim, its signature checked with that issuer's published keys ([`keys`]),
//! its audience, times and required claims checked, and its claims mapped to a user. Does not: evaluate CEL
//! expressions; a configuration that has some is refused at start, with the place.

mod keys;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use coxswain_api::codec::{self, Limits};
use coxswain_api::kinds::access;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::Value;

use super::Verified;
use crate::User;
use keys::Keys;

const ALGORITHMS: [Algorithm; 8] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];
/// Clocks of issuers differ a little.
const LEEWAY_S: i64 = 10;
const VERSIONS: [&str; 3] = [
    "apiserver.config.k8s.io/v1",
    "apiserver.config.k8s.io/v1beta1",
    "apiserver.config.k8s.io/v1alpha1",
];

/// A structured authentication configuration.
pub(crate) struct Structured {
    issuers: Vec<Issuer>,
    /// `None`: as without a configuration; otherwise the paths where anonymous requests are let in (all when empty).
    pub anonymous: Option<Anonymous>,
}

/// Who may come without credentials.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Anonymous {
    enabled: bool,
    paths: Vec<String>,
}

impl Anonymous {
    /// Whether an anonymous request to a path is let in.
    pub fn admits(&self, path: &str) -> bool {
        self.enabled && (self.paths.is_empty() || self.paths.iter().any(|allowed| allowed == path))
    }
}

struct Issuer {
    rules: Rules,
    keys: Keys,
}

#[derive(Debug)]
struct Rules {
    url: String,
    audiences: Vec<String>,
    username: Mapped,
    groups: Option<Mapped>,
    uid: Option<String>,
    required: Vec<(String, String)>,
}

#[derive(Debug)]
struct Mapped {
    claim: String,
    prefix: String,
}

impl Structured {
    /// Reads a configuration (YAML or JSON).
    ///
    /// # Errors
    /// One sentence that names the field.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (value, _) = codec::decode_yaml(text.as_bytes(), &Limits::default()).map_err(|error| error.to_string())?;
        let version = access::str_of(&value, "apiVersion");
        if !VERSIONS.contains(&version) || access::str_of(&value, "kind") != "AuthenticationConfiguration" {
            return Err(format!("it must be an AuthenticationConfiguration of {}", VERSIONS[0]));
        }
        let mut issuers: Vec<Issuer> = Vec::new();
        for (at, entry) in access::list(&value, "jwt").iter().enumerate() {
            let place = |why: String| format!("jwt[{at}].{why}");
            let rules = Rules::parse(entry).map_err(place)?;
            if issuers.iter().any(|other| other.rules.url == rules.url) {
                return Err(place(format!("issuer.url: {:?} is there twice", rules.url)));
            }
            let issuer = access::get(entry, "issuer");
            let keys = Keys::new(
                &rules.url,
                access::str_of(issuer, "discoveryURL"),
                access::str_of(issuer, "certificateAuthority"),
            );
            issuers.push(Issuer {
                rules,
                keys: keys.map_err(place)?,
            });
        }
        let anonymous = value.get("anonymous").map(|anonymous| Anonymous {
            enabled: access::flag(anonymous, "enabled"),
            paths: access::list(anonymous, "conditions")
                .iter()
                .map(|condition| access::str_of(condition, "path").to_owned())
                .collect(),
        });
        Ok(Self { issuers, anonymous })
    }

    /// The user of a token; `None` when no issuer of ours made it.
    ///
    /// Such a token is good for the server itself, whose audience is `own`, and for nothing else.
    pub async fn verify(
        &self,
        token: &str,
        own: &str,
        audiences: &[String],
        now_s: i64,
    ) -> Option<Result<Verified, String>> {
        let wanted = issuer_of(token)?;
        let issuer = self.issuers.iter().find(|issuer| issuer.rules.url == wanted)?;
        if !audiences.is_empty() && !audiences.iter().any(|audience| audience == own) {
            return Some(Err("the token is not for these audiences".to_owned()));
        }
        let user = issuer.verify(token, now_s).await;
        Some(user.map(|user| Verified {
            user,
            audiences: vec![own.to_owned()],
        }))
    }
}

/// The issuer that a token claims, before anything is checked.
fn issuer_of(token: &str) -> Option<String> {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    claims.get("iss")?.as_str().map(str::to_owned)
}

impl Issuer {
    async fn verify(&self, token: &str, now_s: i64) -> Result<User, String> {
        let header = decode_header(token).map_err(|error| error.to_string())?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(format!("tokens signed with {:?} are not accepted", header.alg));
        }
        let kid = header.kid.unwrap_or_default();
        let known = self.keys.current();
        let mut claims = known.as_deref().and_then(|set| checked(token, header.alg, &kid, set));
        if claims.is_none() {
            // The issuer may have new keys.
            let fresh = self.keys.refresh(now_s).await?;
            claims = checked(token, header.alg, &kid, &fresh);
        }
        let claims = claims.ok_or("failed to verify signature: no key of the issuer has made it")?;
        self.rules.user(&claims, now_s)
    }
}

/// The claims of a token that one of the keys has signed.
fn checked(token: &str, algorithm: Algorithm, kid: &str, set: &JwkSet) -> Option<Value> {
    let mut rules = Validation::new(algorithm);
    rules.validate_aud = false;
    rules.validate_exp = false;
    rules.required_spec_claims.clear();
    let fits = |id: Option<&str>| kid.is_empty() || id.is_none_or(|id| id == kid);
    set.keys
        .iter()
        .filter(|key| fits(key.common.key_id.as_deref()))
        .filter_map(|key| DecodingKey::from_jwk(key).ok())
        .find_map(|key| decode::<Value>(token, &key, &rules).ok())
        .map(|token| token.claims)
}

impl Mapped {
    /// The values of a claim that holds one text or several; none when it is not there.
    fn names(&self, claims: &Value) -> Result<Vec<String>, String> {
        let odd = || format!("claim {:?} is neither a text nor a list of texts", self.claim);
        let names: Vec<&str> = match claims.get(&self.claim) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::String(one)) => vec![one.as_str()],
            Some(Value::Array(several)) => {
                let texts: Option<Vec<&str>> = several.iter().map(Value::as_str).collect();
                texts.ok_or_else(odd)?
            }
            Some(_) => return Err(odd()),
        };
        Ok(names.iter().map(|name| format!("{}{name}", self.prefix)).collect())
    }
}

impl Rules {
    fn parse(value: &Value) -> Result<Self, String> {
        let issuer = access::get(value, "issuer");
        let mappings = access::get(value, "claimMappings");
        check_fields(value)?;
        let url = access::str_of(issuer, "url").to_owned();
        check_url("issuer.url", &url)?;
        let discovery = access::str_of(issuer, "discoveryURL");
        if !discovery.is_empty() {
            check_url("issuer.discoveryURL", discovery)?;
            if discovery.trim_end_matches('/') == url.trim_end_matches('/') {
                return Err("issuer.discoveryURL: must be different from issuer.url".to_owned());
            }
        }
        let audiences = access::texts(issuer, "audiences");
        if audiences.is_empty() {
            return Err("issuer.audiences: at least one is required".to_owned());
        }
        if audiences.iter().any(String::is_empty) {
            return Err("issuer.audiences: an audience cannot be empty".to_owned());
        }
        match access::str_of(issuer, "audienceMatchPolicy") {
            "MatchAny" => {}
            "" if audiences.len() == 1 => {}
            "" => return Err("issuer.audienceMatchPolicy: must be MatchAny for multiple audiences".to_owned()),
            other => return Err(format!("issuer.audienceMatchPolicy: {other:?} is not MatchAny")),
        }
        no_expressions(value)?;
        let mapped = |field: &str| -> Result<Option<Mapped>, String> {
            let mapping = access::get(mappings, field);
            let claim = access::str_of(mapping, "claim").to_owned();
            if claim.is_empty() {
                return Ok(None);
            }
            let prefix = mapping.get("prefix").and_then(Value::as_str);
            let prefix = prefix.ok_or_else(|| {
                format!("claimMappings.{field}.prefix: required when claim is set; it may be the empty string")
            })?;
            Ok(Some(Mapped {
                claim,
                prefix: prefix.to_owned(),
            }))
        };
        let mut required: Vec<(String, String)> = Vec::new();
        for (at, rule) in access::list(value, "claimValidationRules").iter().enumerate() {
            let text = |field: &str| access::str_of(rule, field).to_owned();
            let (claim, wanted) = (text("claim"), text("requiredValue"));
            if claim.is_empty() {
                return Err(format!("claimValidationRules[{at}].claim: required"));
            }
            if required.iter().any(|(other, _)| *other == claim) {
                return Err(format!("claimValidationRules[{at}].claim: {claim:?} is there twice"));
            }
            required.push((claim, wanted));
        }
        Ok(Self {
            url,
            audiences,
            username: mapped("username")?.ok_or("claimMappings.username: a claim is required")?,
            groups: mapped("groups")?,
            uid: Some(access::text(mappings, "/uid/claim").to_owned()).filter(|claim| !claim.is_empty()),
            required,
        })
    }

    /// Checks the claims and maps them.
    fn user(&self, claims: &Value, now_s: i64) -> Result<User, String> {
        let number = |name: &str| claims.get(name).and_then(Value::as_f64);
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are far below 2^52")]
        let now = now_s as f64;
        #[expect(clippy::cast_precision_loss, reason = "a small constant")]
        let leeway = LEEWAY_S as f64;
        if number("exp").is_none_or(|at| at + leeway <= now) {
            return Err("the token has expired".to_owned());
        }
        if number("nbf").is_some_and(|at| at - leeway > now) {
            return Err("the token is not valid yet".to_owned());
        }
        let held: Vec<&str> = match claims.get("aud") {
            Some(Value::String(one)) => vec![one.as_str()],
            Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        if !self.audiences.iter().any(|audience| held.contains(&audience.as_str())) {
            return Err(format!("expected audience in {:?} got {held:?}", self.audiences));
        }
        for (claim, wanted) in &self.required {
            match claims.get(claim).and_then(Value::as_str) {
                Some(value) if value == wanted => {}
                Some(_) => return Err(format!("claim {claim:?} has another value than the required one")),
                None => return Err(format!("required claim {claim} not present in the token")),
            }
        }
        let name = claims.get(&self.username.claim).and_then(Value::as_str);
        let name = name.ok_or_else(|| format!("claim {:?} is not there", self.username.claim))?;
        let verified = claims.get("email_verified");
        if self.username.claim == "email" && verified.is_some_and(|value| value != true) {
            return Err("the email address is not verified".to_owned());
        }
        if name.is_empty() {
            return Err(format!("claim {:?} is empty", self.username.claim));
        }
        let groups = self
            .groups
            .as_ref()
            .map_or(Ok(Vec::new()), |mapped| mapped.names(claims))?;
        let uid = match self.uid.as_ref().map(|claim| (claim, claims.get(claim))) {
            None => None,
            Some((_, Some(Value::String(uid)))) => Some(uid.as_str()),
            Some((claim, _)) => return Err(format!("claim {claim:?} is no text")),
        };
        Ok(User {
            name: format!("{}{name}", self.username.prefix),
            uid: uid.unwrap_or_default().to_owned(),
            groups,
            ..User::default()
        })
    }
}

/// An address that tokens may name as their issuer.
fn check_url(field: &str, url: &str) -> Result<(), String> {
    let Some(rest) = url.strip_prefix("https://") else {
        return Err(format!("{field}: {url:?} must begin with https://"));
    };
    let host = rest.split('/').next().unwrap_or_default();
    match () {
        () if host.is_empty() => Err(format!("{field}: {url:?} names no host")),
        () if host.contains('@') => Err(format!("{field}: must not contain a username or password")),
        () if rest.contains('?') => Err(format!("{field}: must not contain a query")),
        () if rest.contains('#') => Err(format!("{field}: must not contain a fragment")),
        () => Ok(()),
    }
}

/// Refuses fields that there are not: a misspelt rule would let in more, or others, than its author meant.
fn check_fields(value: &Value) -> Result<(), String> {
    const MAPPED: &[&str] = &["claim", "prefix", "expression"];
    let known: [(&str, &[&str]); 6] = [
        (
            "",
            &["issuer", "claimValidationRules", "claimMappings", "userValidationRules"],
        ),
        (
            "/issuer",
            &[
                "url",
                "discoveryURL",
                "certificateAuthority",
                "audiences",
                "audienceMatchPolicy",
                "egressSelectorType",
            ],
        ),
        ("/claimMappings", &["username", "groups", "uid", "extra"]),
        ("/claimMappings/username", MAPPED),
        ("/claimMappings/groups", MAPPED),
        ("/claimMappings/uid", &["claim", "expression"]),
    ];
    let unknown = |at: &Value, fields: &[&str]| -> Option<String> {
        let mut keys = at.as_object().into_iter().flatten().map(|(key, _)| key);
        keys.find(|key| !fields.contains(&key.as_str())).cloned()
    };
    for (pointer, fields) in known {
        if let Some(key) = unknown(access::at(value, pointer), fields) {
            let place = format!("{}/{key}", pointer).trim_start_matches('/').replace('/', ".");
            return Err(format!("{place}: unknown field"));
        }
    }
    let rules = access::list(value, "claimValidationRules");
    let fields = &["claim", "requiredValue", "expression", "message"];
    match rules
        .iter()
        .enumerate()
        .find_map(|(at, rule)| Some((at, unknown(rule, fields)?)))
    {
        Some((at, key)) => Err(format!("claimValidationRules[{at}].{key}: unknown field")),
        None => Ok(()),
    }
}

/// Refuses what would silently let in more, or others, than its author meant.
fn no_expressions(value: &Value) -> Result<(), String> {
    let mut places: Vec<String> = Vec::new();
    for field in ["username", "groups", "uid"] {
        if access::has(access::at(value, &format!("/claimMappings/{field}")), "expression") {
            places.push(format!("claimMappings.{field}.expression"));
        }
    }
    if !access::list_at(value, "/claimMappings/extra").is_empty() {
        places.push("claimMappings.extra".to_owned());
    }
    let rules = access::list(value, "claimValidationRules").iter();
    if rules.into_iter().any(|rule| access::has(rule, "expression")) {
        places.push("claimValidationRules.expression".to_owned());
    }
    if !access::list(value, "userValidationRules").is_empty() {
        places.push("userValidationRules".to_owned());
    }
    match places.first() {
        Some(place) => Err(format!("{place}: CEL expressions are not supported")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const CONFIGURATION: &str = "
apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
jwt:
- issuer: {url: 'https://id.example', audiences: [cluster, other], audienceMatchPolicy: MatchAny}
  claimValidationRules: [{claim: hd, requiredValue: example.com}]
  claimMappings:
    username: {claim: email, prefix: 'oidc:'}
    groups: {claim: roles, prefix: ''}
    uid: {claim: sub}
anonymous: {enabled: true, conditions: [{path: /livez}]}
";

    #[test]
    fn claims_become_a_user() {
        let structured = Structured::parse(CONFIGURATION).expect("a configuration");
        let rules = &structured.issuers.first().expect("an issuer").rules;
        let good =
            json!({"exp": 200, "aud": "cluster", "hd": "example.com", "email": "a@b", "roles": ["r", "s"], "sub": "7"});
        let change = |field: &str, value: Value| {
            let mut claims = good.clone();
            claims[field] = value;
            claims
        };
        let cases = [
            (good.clone(), ""),
            (change("aud", json!(["x", "other"])), ""),
            (change("exp", json!(90)), "the token has expired"),
            (change("nbf", json!(150)), "the token is not valid yet"),
            (
                change("aud", json!(["x"])),
                "expected audience in [\"cluster\", \"other\"] got [\"x\"]",
            ),
            (
                change("hd", json!("evil")),
                "claim \"hd\" has another value than the required one",
            ),
            (change("hd", Value::Null), "required claim hd not present in the token"),
            (change("email", Value::Null), "claim \"email\" is not there"),
            (change("email", json!("")), "claim \"email\" is empty"),
            (
                change("roles", json!(["r", 1])),
                "claim \"roles\" is neither a text nor a list of texts",
            ),
            (change("sub", json!(7)), "claim \"sub\" is no text"),
            (
                change("email_verified", json!(false)),
                "the email address is not verified",
            ),
        ];
        for (claims, want) in cases {
            let found = rules.user(&claims, 100);
            assert_eq!(found.as_ref().err().map_or("", String::as_str), want, "{claims}");
            if let Ok(user) = found {
                assert_eq!((user.name.as_str(), user.uid.as_str()), ("oidc:a@b", "7"));
                assert_eq!(user.groups, ["r", "s"]);
            }
        }
        let anonymous = structured.anonymous.expect("a rule");
        assert!(anonymous.admits("/livez") && !anonymous.admits("/api"));
    }

    #[test]
    fn mistakes_are_named() {
        for (change, want) in [
            (
                ("https://id.example", "http://id.example"),
                "jwt[0].issuer.url: \"http://id.example\" must begin with https://",
            ),
            (
                ("audiences: [cluster, other]", "audiences: []"),
                "jwt[0].issuer.audiences: at least one is required",
            ),
            (
                (", prefix: 'oidc:'", ""),
                "jwt[0].claimMappings.username.prefix: required when claim is set; it may be the empty string",
            ),
            (
                ("claim: email", "expression: claims.x"),
                "jwt[0].claimMappings.username.expression: CEL expressions are not supported",
            ),
            (
                ("https://id.example", "https://me:secret@id.example"),
                "jwt[0].issuer.url: must not contain a username or password",
            ),
            (
                (
                    "url: 'https://id.example'",
                    "url: 'https://id.example', discoveryURL: 'https://id.example/'",
                ),
                "jwt[0].issuer.discoveryURL: must be different from issuer.url",
            ),
            (
                (", audienceMatchPolicy: MatchAny", ""),
                "jwt[0].issuer.audienceMatchPolicy: must be MatchAny for multiple audiences",
            ),
            (
                ("requiredValue: example.com", "requiredValues: example.com"),
                "jwt[0].claimValidationRules[0].requiredValues: unknown field",
            ),
            (
                ("uid: {claim: sub}", "uid: {claims: sub}"),
                "jwt[0].claimMappings.uid.claims: unknown field",
            ),
            (
                (
                    "[{claim: hd, requiredValue: example.com}]",
                    "[{claim: hd, expression: claims.hd}]",
                ),
                "jwt[0].claimValidationRules.expression: CEL expressions are not supported",
            ),
            (
                ("AuthenticationConfiguration", "Other"),
                "it must be an AuthenticationConfiguration of apiserver.config.k8s.io/v1",
            ),
        ] {
            let text = CONFIGURATION.replacen(change.0, change.1, 1);
            assert_eq!(Structured::parse(&text).err().as_deref(), Some(want), "{change:?}");
        }
    }
}

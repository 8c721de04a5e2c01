//! The paths that are about the API itself: versions, groups, the server's version and its token keys.

use serde_json::{Value, json};

use super::Format;
use super::paths::{BODY_TYPES, base, capital, responses, tag, words};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// One page: what is told, under which id, and the type of the answer (text without one).
struct Page {
    text: &'static str,
    id: String,
    tag: String,
    answer: String,
    types: &'static [&'static str],
}

/// The path of a page and its operation. `key` is as in the index of the third generation (`api`, `apis/apps`, `version`,
/// `api/v1`).
pub(super) fn page(key: &str, format: Format) -> (String, Value) {
    let parts: Vec<&str> = key.split('/').collect();
    let page = |text, id: String, tag: String, answer: &str| Page {
        text,
        id,
        tag,
        answer: format!("{META}{answer}"),
        types: &BODY_TYPES,
    };
    let versions = "get available API versions";
    let resources = "get available resources";
    let page = match parts.as_slice() {
        ["api"] => page(versions, "getCoreAPIVersions".into(), "core".into(), "APIVersions"),
        ["apis"] => page(versions, "getAPIVersions".into(), "apis".into(), "APIGroupList"),
        ["api", version] => page(
            resources,
            format!("getCore{}APIResources", capital(version)),
            format!("core_{version}"),
            "APIResourceList",
        ),
        ["apis", group] => page(
            "get information of a group",
            format!("get{}APIGroup", words(group)),
            tag(group),
            "APIGroup",
        ),
        ["apis", group, version] => page(
            resources,
            format!("get{}{}APIResources", words(group), capital(version)),
            format!("{}_{version}", tag(group)),
            "APIResourceList",
        ),
        [".well-known", ..] => Page {
            text: "get service account issuer OpenID configuration, also known as the 'OIDC discovery doc'",
            id: "getServiceAccountIssuerOpenIDConfiguration".into(),
            tag: "WellKnown".into(),
            answer: String::new(),
            types: &["application/json"],
        },
        ["openid", ..] => Page {
            text: "get service account issuer OpenID JSON Web Key Set (contains public token verification keys)",
            id: "getServiceAccountIssuerOpenIDKeyset".into(),
            tag: "openid".into(),
            answer: String::new(),
            types: &["application/jwk-set+json"],
        },
        _ => Page {
            text: "get the version information for this server",
            id: "getCodeVersion".into(),
            tag: "version".into(),
            answer: "io.k8s.apimachinery.pkg.version.Info".into(),
            types: &["application/json"],
        },
    };
    let schema = match page.answer.as_str() {
        "" => json!({"type": "string"}),
        name => json!({"$ref": format!("{}{name}", format.prefix())}),
    };
    let mut operation = json!({
        "description": page.text,
        "operationId": page.id,
        "tags": [page.tag],
        "responses": responses(&[("200", "OK")], page.types, &schema, format),
    });
    if format == Format::V2 {
        operation["produces"] = page.types.into();
        operation["schemes"] = json!(["https"]);
        if !page.answer.is_empty() {
            operation["consumes"] = page.types.into();
        }
    }
    (format!("/{key}/"), json!({"get": operation}))
}

/// The pages of all groups and versions.
pub(super) fn keys(registry: &super::Registry) -> Vec<String> {
    let fixed = [
        "api",
        "apis",
        "version",
        ".well-known/openid-configuration",
        "openid/v1/jwks",
    ];
    let mut keys: Vec<String> = fixed.map(str::to_owned).into();
    for group in registry.groups() {
        if !group.name.is_empty() {
            keys.push(format!("apis/{}", group.name));
        }
        let versions = group.versions.iter();
        keys.extend(versions.map(|version| base(&group.name, version).trim_start_matches('/').to_owned()));
    }
    keys
}

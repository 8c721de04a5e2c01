//! Bootstrap tokens: `ID.SECRET`, kept as Secrets in `kube-system`, for machines that join.

use coxswain_api::kinds::access;
use coxswain_store::Snapshot;
use serde_json::Value;

use super::token::same;
use crate::User;

const TYPE: &str = "bootstrap.kubernetes.io/token";
const GROUP: &str = "system:bootstrappers";
const GROUP_BYTES_MAX: usize = 255;

/// Identifier and secret of a text that has the form of a bootstrap token.
pub(super) fn parts(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    (id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret)).then_some((id, secret))
}

/// The user of a good token. The error is for people; it never reaches an unauthenticated client.
pub(super) fn user(id: &str, secret: &str, snapshot: &Snapshot, now_s: i64) -> Result<User, String> {
    let stored = snapshot
        .find("secrets", "kube-system", &format!("bootstrap-token-{id}"))
        .ok_or("no such bootstrap token")?;
    if stored.head.deleting {
        return Err("the bootstrap token is being deleted".to_owned());
    }
    read(&stored.value(), id, secret, now_s)
}

fn read(object: &Value, id: &str, secret: &str, now_s: i64) -> Result<User, String> {
    let data = |key: &str| -> String {
        let text = access::str_of(access::get(object, "data"), key);
        let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    if access::str_of(object, "type") != TYPE {
        return Err("not a bootstrap token".to_owned());
    }
    if !same(&data("token-secret"), secret) || data("token-id") != id {
        return Err("the bootstrap token's secret is another".to_owned());
    }
    let expiration = data("expiration");
    if !expiration.is_empty() {
        let expires: jiff::Timestamp = expiration
            .parse()
            .map_err(|_| "the expiration cannot be read".to_owned())?;
        if expires.as_second() <= now_s {
            return Err("the bootstrap token has expired".to_owned());
        }
    }
    if data("usage-bootstrap-authentication") != "true" {
        return Err("the bootstrap token is not for authentication".to_owned());
    }
    let mut groups = vec![GROUP.to_owned()];
    let extra = data("auth-extra-groups");
    for group in extra.split(',').filter(|group| !group.is_empty()) {
        if !is_group(group) {
            return Err(format!("{group:?} is no group for bootstrap tokens"));
        }
        groups.push(group.to_owned());
    }
    groups.sort();
    groups.dedup();
    Ok(User {
        name: format!("system:bootstrap:{id}"),
        groups,
        ..User::default()
    })
}

/// `system:bootstrappers:` and up to 256 letters, digits, colons and dashes, the last a letter or digit.
fn is_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix("system:bootstrappers:") else {
        return false;
    };
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    rest.len() <= GROUP_BYTES_MAX + 1
        && rest.bytes().all(|b| plain(b) || b == b':' || b == b'-')
        && rest.bytes().last().is_some_and(plain)
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use serde_json::json;

    use super::*;

    #[test]
    fn tokens() {
        let good = [
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-authentication", "true"),
            ("expiration", "2026-01-01T00:00:10Z"),
            ("auth-extra-groups", "system:bootstrappers:a:b,system:bootstrappers:c-1"),
        ];
        let secret = |change: (&str, &str)| {
            let mut data = serde_json::Map::new();
            for (key, value) in good.into_iter().chain([change]) {
                data.insert(
                    key.to_owned(),
                    json!(base64::engine::general_purpose::STANDARD.encode(value)),
                );
            }
            json!({"type": TYPE, "data": data})
        };
        let now = 1_767_225_600; // 2026-01-01T00:00:00Z
        let cases = [
            (("x", ""), ""),
            (("expiration", ""), ""),
            (
                ("token-secret", "0123456789abcdeg"),
                "the bootstrap token's secret is another",
            ),
            (("token-id", "abcdeg"), "the bootstrap token's secret is another"),
            (
                ("expiration", "2026-01-01T00:00:00Z"),
                "the bootstrap token has expired",
            ),
            (("expiration", "soon"), "the expiration cannot be read"),
            (
                ("usage-bootstrap-authentication", "yes"),
                "the bootstrap token is not for authentication",
            ),
            (
                ("auth-extra-groups", "system:masters"),
                "\"system:masters\" is no group for bootstrap tokens",
            ),
            (
                ("auth-extra-groups", "system:bootstrappers:a:"),
                "\"system:bootstrappers:a:\" is no group for bootstrap tokens",
            ),
        ];
        for (change, want) in cases {
            let found = read(&secret(change), "abcdef", "0123456789abcdef", now);
            assert_eq!(found.as_ref().err().map_or("", String::as_str), want, "{change:?}");
            if let Ok(user) = found {
                assert_eq!(user.name, "system:bootstrap:abcdef");
                assert_eq!(
                    user.groups,
                    [GROUP, "system:bootstrappers:a:b", "system:bootstrappers:c-1"]
                );
            }
        }
        for (text, is_token) in [
            ("abcdef.0123456789abcdef", true),
            ("Abcdef.0123456789abcdef", false),
            ("abcdef.0123", false),
            ("a.b.c", false),
        ] {
            assert_eq!(parts(text).is_some(), is_token, "{text}");
        }
    }
}

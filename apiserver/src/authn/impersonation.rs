//! `Impersonate-*` headers: acting as somebody else, for those who may.

use coxswain_api::{ApiError, names};
use http::{HeaderMap, HeaderName};

use super::headers::{Unreadable, add_extra, every, single};
use super::{AUTHENTICATED, UNAUTHENTICATED};
use crate::User;

/// Group, resource, namespace, name and subresource of a right.
type Need = (&'static str, &'static str, String, String, String);

/// An identity asked for by headers, and what must be allowed for it.
#[derive(Debug, PartialEq)]
pub(crate) struct Impersonation {
    pub user: User,
    /// Group, resource, namespace, name and subresource of each right that is needed (verb
    /// `impersonate`).
    pub needs: Vec<Need>,
}

/// Reads the headers.
///
/// # Errors
/// 400 when groups, uid or extra are given without a user, and when anything cannot be read: the request must not run
/// as the one who sent it.
pub(crate) fn impersonation(headers: &HeaderMap) -> Result<Option<Impersonation>, ApiError> {
    let is_impersonation = |name: &&HeaderName| name.as_str().starts_with(PREFIX);
    let mut names = headers.keys().filter(is_impersonation).peekable();
    if names.peek().is_none() {
        return Ok(None);
    }
    for name in names {
        let known = matches!(name.as_str(), USER | UID | GROUP) || name.as_str().starts_with(EXTRA);
        if !known {
            return Err(unreadable(Unreadable::new(
                name.as_str(),
                "says nothing that this server knows",
            )));
        }
    }
    let mut user = read(headers).map_err(unreadable)?;
    if user.name.is_empty() {
        return Err(nameless(&user));
    }
    let needs = needs(&user);
    if let Some((namespace, _)) = service_account(&user.name).filter(|_| user.groups.is_empty()) {
        user.groups = vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
        ];
    }
    let anonymous = user.name == "system:anonymous";
    let marker = if anonymous { UNAUTHENTICATED } else { AUTHENTICATED };
    // Who is to act as somebody without an identity does not get what all with one may do.
    if !user.is_in(marker) && (anonymous || !user.is_in(UNAUTHENTICATED)) {
        user.groups.push(marker.to_owned());
    }
    Ok(Some(Impersonation { user, needs }))
}

const PREFIX: &str = "impersonate-";
const USER: &str = "impersonate-user";
const UID: &str = "impersonate-uid";
const GROUP: &str = "impersonate-group";
const EXTRA: &str = "impersonate-extra-";

fn unreadable(why: Unreadable) -> ApiError {
    ApiError::bad_request(why.to_string())
}

/// The identity as the headers have it.
fn read(headers: &HeaderMap) -> Result<User, Unreadable> {
    let one = |name: &str| match single(headers, name)? {
        Some("") => Err(Unreadable::new(name, "is empty")),
        value => Ok(value.unwrap_or_default().to_owned()),
    };
    let mut user = User {
        name: one(USER)?,
        uid: one(UID)?,
        groups: every(headers, GROUP)?,
        ..User::default()
    };
    if user.groups.iter().any(String::is_empty) {
        return Err(Unreadable::new(GROUP, "is empty"));
    }
    add_extra(&mut user, headers, EXTRA)?;
    Ok(user)
}

/// 400: an identity without a name.
fn nameless(user: &User) -> ApiError {
    let extra: Vec<String> = user
        .extra
        .iter()
        .map(|(key, values)| format!("{key:?}:{}", strings_in_go(values)))
        .collect();
    let extra = if extra.is_empty() {
        String::from("(nil)")
    } else {
        format!("{{{}}}", extra.join(", "))
    };
    let groups = strings_in_go(&user.groups);
    ApiError::bad_request(format!(
        "requested &user.DefaultInfo{{Name:\"\", UID:{:?}, Groups:{groups}, Extra:map[string][]string{extra}}} without impersonating a user name",
        user.uid
    ))
}

/// Namespace and name in the user name of a service account. Names that no service account can have are those of
/// other users.
fn service_account(name: &str) -> Option<(&str, &str)> {
    let (namespace, account) = name.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    let valid = names::dns1123_label(namespace).is_empty() && names::dns1123_subdomain(account).is_empty();
    valid.then_some((namespace, account))
}

/// The rights that an identity needs.
fn needs(user: &User) -> Vec<Need> {
    const IDENTITY: &str = "authentication.k8s.io";
    let need = |group: &'static str, resource: &'static str, name: &str| {
        (group, resource, String::new(), name.to_owned(), String::new())
    };
    let mut out = vec![match service_account(&user.name) {
        Some((namespace, account)) => (
            "",
            "serviceaccounts",
            namespace.to_owned(),
            account.to_owned(),
            String::new(),
        ),
        None => need("", "users", &user.name),
    }];
    out.extend(user.groups.iter().map(|group| need("", "groups", group)));
    if !user.uid.is_empty() {
        out.push(need(IDENTITY, "uids", &user.uid));
    }
    for (key, values) in &user.extra {
        out.extend(
            values
                .iter()
                .map(|value| (IDENTITY, "userextras", String::new(), value.clone(), key.clone())),
        );
    }
    out
}

/// A list as Go's source would have it.
fn strings_in_go(items: &[String]) -> String {
    if items.is_empty() {
        return String::from("[]string(nil)");
    }
    let quoted: Vec<String> = items.iter().map(|item| format!("{item:?}")).collect();
    format!("[]string{{{}}}", quoted.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(pairs: &[(&str, &[u8])]) -> Result<Option<Impersonation>, ApiError> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name: HeaderName = name.parse().expect("a name");
            headers.append(name, http::HeaderValue::from_bytes(value).expect("a value"));
        }
        impersonation(&headers)
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let user = ("impersonate-user", b"a".as_slice());
        let cases: &[&[(&str, &[u8])]] = &[
            &[("impersonate-user", b"\xe4nn")],
            &[("impersonate-user", b"a\xff\xfeb")],
            &[("impersonate-user", b"")],
            &[user, user],
            &[("impersonate-user", b""), user],
            &[("impersonate-group", b"g")],
            &[("impersonate-group", b"")],
            &[("impersonate-uid", b"1")],
            &[("impersonate-uid", b"")],
            &[("impersonate-extra-k", b"v")],
            &[("impersonate-extra-", b"v")],
            &[("impersonate-foo", b"x")],
            &[user, ("impersonate-foo", b"x")],
            &[user, ("impersonate-group", b"")],
            &[user, ("impersonate-group", b"g"), ("impersonate-group", b"\xff")],
            &[user, ("impersonate-uid", b"\xff")],
            &[user, ("impersonate-uid", b"")],
            &[user, ("impersonate-uid", b"1"), ("impersonate-uid", b"2")],
            &[user, ("impersonate-extra-k", b"\xff")],
            &[user, ("impersonate-extra-k%zz", b"v")],
            &[user, ("impersonate-extra-k%ff", b"v")],
            &[user, ("impersonate-extra-k%", b"v")],
            &[user, ("impersonate-extra-", b"v")],
        ];
        for case in cases {
            assert_eq!(wanted(case).map_err(|error| error.code), Err(400), "{case:?}");
        }
    }

    /// User name, other headers, groups as the server has them, and the first right that is needed.
    #[test]
    fn identities() {
        let cases: &[(&str, &[&str], &[&str], &str)] = &[
            ("änn", &[], &["system:authenticated"], "users"),
            ("a", &["g"], &["g", "system:authenticated"], "users"),
            ("a", &["system:unauthenticated"], &["system:unauthenticated"], "users"),
            ("system:anonymous", &[], &["system:unauthenticated"], "users"),
            (
                "system:anonymous",
                &["system:authenticated"],
                &["system:authenticated", "system:unauthenticated"],
                "users",
            ),
            (
                "system:serviceaccount:foo:x",
                &[],
                &[
                    "system:serviceaccounts",
                    "system:serviceaccounts:foo",
                    "system:authenticated",
                ],
                "serviceaccounts",
            ),
            ("system:serviceaccount:foo:x:y", &[], &["system:authenticated"], "users"),
            ("system:serviceaccount::x", &[], &["system:authenticated"], "users"),
            ("system:serviceaccount:foo:", &[], &["system:authenticated"], "users"),
            ("system:serviceaccount:Foo:x", &[], &["system:authenticated"], "users"),
            ("system:serviceaccount:foo", &[], &["system:authenticated"], "users"),
        ];
        for (name, given, groups, resource) in cases {
            let mut headers = vec![("impersonate-user", name.as_bytes())];
            headers.extend(given.iter().map(|group| ("impersonate-group", group.as_bytes())));
            let found = wanted(&headers).expect("an identity").expect("somebody");
            assert_eq!(found.user.groups, *groups, "{name}");
            assert_eq!(found.needs.first().map(|need| need.1), Some(*resource), "{name}");
        }
        assert_eq!(wanted(&[("x-impersonate-user", b"a")]).expect("nothing"), None);
    }
}

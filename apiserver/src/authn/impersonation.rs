//! `Impersonate-*` headers: acting as somebody else, for those who may.

use coxswain_api::ApiError;
use http::HeaderMap;

use super::AUTHENTICATED;
use crate::User;
use crate::query::decode;

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
/// 400 when groups, uid or extra are given without a user.
pub(crate) fn impersonation(headers: &HeaderMap) -> Result<Option<Impersonation>, ApiError> {
    if !headers.keys().any(|name| name.as_str().starts_with("impersonate-")) {
        return Ok(None);
    }
    let one = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned()
    };
    let name = one("impersonate-user");
    let uid = one("impersonate-uid");
    let mut groups: Vec<String> = headers
        .get_all("impersonate-group")
        .iter()
        .filter_map(|value| value.to_str().ok().map(str::to_owned))
        .collect();
    let mut user = User {
        name: name.clone(),
        uid: uid.clone(),
        ..User::default()
    };
    for (header, value) in headers {
        let Some(key) = header.as_str().strip_prefix("impersonate-extra-") else {
            continue;
        };
        let Ok(value) = value.to_str() else { continue };
        user.extra
            .entry(decode(key, false).to_ascii_lowercase())
            .or_default()
            .push(value.to_owned());
    }
    if name.is_empty() {
        if groups.is_empty() && uid.is_empty() && user.extra.is_empty() {
            return Ok(None);
        }
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
        let groups = strings_in_go(&groups);
        return Err(ApiError::bad_request(format!(
            "requested &user.DefaultInfo{{Name:\"\", UID:{uid:?}, Groups:{groups}, Extra:map[string][]string{extra}}} without impersonating a user name"
        )));
    }
    let needs = needs(&name, &groups, &uid, &user);
    if let Some((namespace, _)) = service_account(&name).filter(|_| groups.is_empty()) {
        groups = vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
        ];
    }
    let anonymous = name == "system:anonymous";
    let marker = if anonymous {
        "system:unauthenticated"
    } else {
        AUTHENTICATED
    };
    if !groups.iter().any(|group| group == marker) {
        groups.push(marker.to_owned());
    }
    user.groups = groups;
    Ok(Some(Impersonation { user, needs }))
}

/// Namespace and name in the user name of a service account.
fn service_account(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix("system:serviceaccount:")
        .and_then(|rest| rest.split_once(':'))
}

/// The rights that an identity needs.
fn needs(name: &str, groups: &[String], uid: &str, user: &User) -> Vec<Need> {
    const IDENTITY: &str = "authentication.k8s.io";
    let need = |group: &'static str, resource: &'static str, name: &str| {
        (group, resource, String::new(), name.to_owned(), String::new())
    };
    let mut out = vec![match service_account(name) {
        Some((namespace, account)) => (
            "",
            "serviceaccounts",
            namespace.to_owned(),
            account.to_owned(),
            String::new(),
        ),
        None => need("", "users", name),
    }];
    out.extend(groups.iter().map(|group| need("", "groups", group)));
    if !uid.is_empty() {
        out.push(need(IDENTITY, "uids", uid));
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

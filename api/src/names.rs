//! The rules for names, keys and label values, with the sentences Kubernetes answers with.
//!
//! Every function returns the list of objections, empty when the text is fine. No regular expressions run
//! at run time: the patterns quoted in the sentences are checked by hand-written scanners.

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const SEARCH: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')";
const LABEL_1123: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const LABEL_KEY: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const WILDCARD: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const C_IDENTIFIER: &str = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')";
const ENV_NAME: &str =
    "a valid environment variable name must consist only of printable ASCII characters other than '='";
const HTTP_HEADER: &str = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
const PERCENT: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";

/// A DNS label of RFC 1123: at most 63 of `a-z0-9-`.
pub fn dns1123_label(text: &str) -> Vec<String> {
    let mut objections = Vec::new();
    if text.len() > 63 {
        objections.push(max_characters(63));
    }
    if !is_label(text) {
        objections.push(if is_subdomain(text) {
            "must not contain dots".into()
        } else {
            LABEL_1123.into()
        });
    }
    objections
}

/// What is wrong with a name of at most 253 characters, whether or not it is `formed` as `form` says.
fn subdomain(text: &str, formed: bool, form: &str) -> Vec<String> {
    let too_long = (text.len() > 253).then(|| max_characters(253));
    too_long.into_iter().chain((!formed).then(|| form.into())).collect()
}

/// A DNS name of RFC 1123: at most 253 of labels separated by dots.
pub fn dns1123_subdomain(text: &str) -> Vec<String> {
    subdomain(text, is_subdomain(text), SUBDOMAIN)
}

/// A subdomain with underscores inside its labels and at their beginning: what resolvers search.
pub fn dns1123_subdomain_with_underscore(text: &str) -> Vec<String> {
    let is_part = |label: &str| {
        let rest = label.strip_prefix('_').unwrap_or(label);
        rest.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
            && is_label(&rest.replace('_', "-"))
            && !rest.ends_with('_')
    };
    subdomain(text, text.split('.').all(is_part), SEARCH)
}

/// A subdomain whose first label is `*`.
pub fn wildcard_dns1123_subdomain(text: &str) -> Vec<String> {
    subdomain(text, text.strip_prefix("*.").is_some_and(is_subdomain), WILDCARD)
}

/// A DNS label of RFC 1035: begins with a letter.
pub fn dns1035_label(text: &str) -> Vec<String> {
    let mut objections = Vec::new();
    if text.len() > 63 {
        objections.push(max_characters(63));
    }
    if !(is_label(text) && text.starts_with(|first: char| first.is_ascii_lowercase())) {
        objections.push(LABEL_1035.into());
    }
    objections
}

/// A label key, annotation key, finalizer or resource name: an optional DNS prefix, a slash, a name.
pub fn qualified_name(text: &str) -> Vec<String> {
    let mut objections = Vec::new();
    let mut parts = text.split('/');
    let name = match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, _) => name,
        (Some(prefix), Some(name), None) => {
            if prefix.is_empty() {
                objections.push("prefix part must be non-empty".into());
            } else {
                objections.extend(
                    dns1123_subdomain(prefix)
                        .into_iter()
                        .map(|reason| format!("prefix part {reason}")),
                );
            }
            name
        }
        _ => {
            let suffix = " with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            objections.push(format!("a valid label key {LABEL_KEY}{suffix}"));
            return objections;
        }
    };
    if name.is_empty() {
        objections.push("name part must be non-empty".into());
    } else if name.len() > 63 {
        objections.push(format!("name part {}", max_bytes(63)));
    }
    if !is_loose_name(name) {
        objections.push(format!("name part {LABEL_KEY}"));
    }
    objections
}

/// A qualified name that must have its DNS prefix.
pub fn domain_prefixed_name(text: &str) -> Vec<String> {
    if text.contains('/') {
        qualified_name(text)
    } else {
        vec!["must be a domain-prefixed path (such as \"acme.io/foo\")".into()]
    }
}

/// A label value: empty, or at most 63 of `A-Za-z0-9-_.` beginning and ending alphanumeric.
pub fn label_value(text: &str) -> Vec<String> {
    let mut objections = Vec::new();
    if text.len() > 63 {
        objections.push(max_bytes(63));
    }
    if !text.is_empty() && !is_loose_name(text) {
        objections.push(LABEL_VALUE.into());
    }
    objections
}

/// A key of a ConfigMap or Secret, also a file name in a volume.
pub fn config_map_key(text: &str) -> Vec<String> {
    let mut objections = Vec::new();
    if text.len() > 253 {
        objections.push(max_characters(253));
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if text.is_empty() || !text.bytes().all(allowed) {
        objections.push(CONFIG_KEY.into());
    }
    objections.extend(not_dotted(text));
    objections
}

/// An identifier of the C language.
pub fn c_identifier(text: &str) -> Vec<String> {
    let begins = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    if begins && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        Vec::new()
    } else {
        vec![C_IDENTIFIER.into()]
    }
}

/// The name of an environment variable (the relaxed rule: printable ASCII without `=`).
pub fn env_var_name(text: &str) -> Vec<String> {
    if text.is_empty() {
        vec!["environment variable name must be non-empty".into()]
    } else if text.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b'=') {
        Vec::new()
    } else {
        vec![ENV_NAME.into()]
    }
}

/// The name of an HTTP header.
pub fn http_header_name(text: &str) -> Vec<String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        Vec::new()
    } else {
        vec![HTTP_HEADER.into()]
    }
}

/// The name of a port: at most 15 of `a-z0-9-` with a letter, no double or outer hyphens.
pub fn port_name(text: &str) -> Vec<String> {
    let mut objections: Vec<String> = Vec::new();
    if text.len() > 15 {
        objections.push(max_characters(15));
    }
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if text.is_empty() || !text.bytes().all(allowed) {
        objections.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        objections.push("must contain at least one letter (a-z)".into());
    }
    if text.contains("--") {
        objections.push("must not contain consecutive hyphens".into());
    }
    if text.starts_with('-') || text.ends_with('-') {
        objections.push("must not begin or end with a hyphen".into());
    }
    objections
}

/// A port number.
pub fn port_number(port: i64) -> Vec<String> {
    if (1..=65535).contains(&port) {
        Vec::new()
    } else {
        vec![in_range(1, 65535)]
    }
}

/// A percentage such as `25%`.
pub fn percent(text: &str) -> Vec<String> {
    let digits = text.strip_suffix('%').unwrap_or("");
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        Vec::new()
    } else {
        vec![PERCENT.into()]
    }
}

/// One element of a URL path: what names of RBAC objects and the like must be.
pub fn path_segment(text: &str) -> Vec<String> {
    match text {
        "." => return vec!["may not be '.'".into()],
        ".." => return vec!["may not be '..'".into()],
        _ => {}
    }
    ["/", "%"]
        .iter()
        .filter(|mark| text.contains(**mark))
        .map(|mark| format!("may not contain '{mark}'"))
        .collect()
}

/// An IPv4 or IPv6 address.
pub fn ip_address(text: &str) -> Vec<String> {
    if text.parse::<std::net::IpAddr>().is_ok() {
        Vec::new()
    } else {
        vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".into()]
    }
}

/// The objection to a text of more than `limit` characters.
pub fn max_characters(limit: usize) -> String {
    format!("must be no more than {limit} characters")
}

/// The objection to a text of more than `limit` bytes.
pub fn max_bytes(limit: usize) -> String {
    format!("must be no more than {limit} bytes")
}

/// The objection to a number outside `low..=high`.
pub fn in_range(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

fn not_dotted(text: &str) -> Vec<String> {
    match text {
        "." => vec!["must not be '.'".into()],
        ".." => vec!["must not be '..'".into()],
        _ if text.starts_with("..") => vec!["must not start with '..'".into()],
        _ => Vec::new(),
    }
}

fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

/// `([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]`
fn is_loose_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let outer = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    outer(bytes.first()) && outer(bytes.last()) && bytes.iter().all(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Rule = fn(&str) -> Vec<String>;

    #[test]
    fn accepted_and_refused() {
        let long = "a".repeat(64);
        let cases: &[(Rule, &str, usize)] = &[
            (dns1123_label, "a-1", 0),
            (dns1123_label, "A", 1),
            (dns1123_label, "-a", 1),
            (dns1123_label, "", 1),
            (dns1123_label, &long, 1),
            (dns1123_subdomain, "a.b-c.0", 0),
            (dns1123_subdomain, "a..b", 1),
            (dns1035_label, "a1", 0),
            (dns1035_label, "1a", 1),
            (qualified_name, "example.com/Name_1", 0),
            (qualified_name, "/x", 1),
            (qualified_name, "a/b/c", 1),
            (qualified_name, "a/", 2),
            (label_value, "", 0),
            (label_value, "-b", 1),
            (config_map_key, "a.b_C-d", 0),
            (config_map_key, "..a", 1),
            (port_name, "http-1", 0),
            (port_name, "12", 1),
            (port_name, "", 2),
            (dns1123_subdomain_with_underscore, "_a_b.c-d", 0),
            (dns1123_subdomain_with_underscore, "a_.b", 1),
            (dns1123_subdomain_with_underscore, "__a", 1),
            (port_name, "-a--b", 2),
            (env_var_name, "A.b", 0),
            (env_var_name, "A=b", 1),
            (percent, "25%", 0),
            (percent, "25", 1),
            (path_segment, "system:a", 0),
            (path_segment, "a/b%", 2),
        ];
        for (rule, text, objections) in cases {
            assert_eq!(rule(text).len(), *objections, "{text:?}: {:?}", rule(text));
        }
    }
}

//! Checks that many kinds share: names, numbers, enumerations, label selectors, immutability.

use super::access::{entries, get, has, list, same, str_of};
use super::go;
use crate::field::{ErrorList, Path, forbidden, invalid, not_supported, required, too_long};
use crate::names;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Text for values that never change.
pub const IMMUTABLE: &str = "field is immutable";
/// Text for integers below zero.
pub const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
/// Text for port numbers out of range.
pub const PORT_RANGE: &str = "must be between 1 and 65535, inclusive";

/// For each of these whether an equal one came before it. Found in a table: pair by pair a list as long as a body takes hours.
pub fn repeats<T: Ord>(items: impl IntoIterator<Item = T>) -> Vec<bool> {
    let mut seen = BTreeSet::new();
    items.into_iter().map(|item| !seen.insert(item)).collect()
}

/// The first of the items with each name.
pub fn by_name<'v>(items: impl IntoIterator<Item = &'v Value>) -> BTreeMap<&'v str, &'v Value> {
    let mut first = BTreeMap::new();
    for item in items {
        first.entry(str_of(item, "name")).or_insert(item);
    }
    first
}

/// One error per message.
pub fn each(errors: &mut ErrorList, path: &Path, value: &str, messages: Vec<String>) {
    errors.extend(messages.into_iter().map(|m| invalid(path, value, m)));
}

/// A DNS label (RFC 1123).
pub fn dns_label(errors: &mut ErrorList, path: &Path, value: &str) {
    each(errors, path, value, names::dns1123_label(value));
}

/// A DNS subdomain (RFC 1123).
pub fn dns_subdomain(errors: &mut ErrorList, path: &Path, value: &str) {
    each(errors, path, value, names::dns1123_subdomain(value));
}

/// A qualified name with optional prefix.
pub fn qualified(errors: &mut ErrorList, path: &Path, value: &str) {
    each(errors, path, value, names::qualified_name(value));
}

/// Required and, when there, a DNS subdomain.
pub fn required_subdomain(errors: &mut ErrorList, path: &Path, value: &str) {
    if value.is_empty() {
        errors.push(required(path, ""));
    } else {
        dns_subdomain(errors, path, value);
    }
}

/// An integer that may not be negative; missing is fine.
pub fn non_negative(errors: &mut ErrorList, path: &Path, value: Option<i64>) {
    if let Some(n) = value.filter(|n| *n < 0) {
        errors.push(invalid(path, n, NOT_NEGATIVE));
    }
}

/// Non-negative members of an object, in order.
pub fn non_negative_fields(errors: &mut ErrorList, path: &Path, v: &Value, fields: &[&str]) {
    for field in fields {
        non_negative(errors, &path.child(field), v.get(*field).and_then(Value::as_i64));
    }
}

/// A port number.
pub fn port(errors: &mut ErrorList, path: &Path, value: i64) {
    if !(1..=65535).contains(&value) {
        errors.push(invalid(path, value, PORT_RANGE));
    }
}

/// One of a closed set.
pub fn one_of(errors: &mut ErrorList, path: &Path, value: &str, supported: &[&str]) {
    if !supported.contains(&value) {
        errors.push(not_supported(path, value, supported));
    }
}

/// One of a closed set; missing and empty are fine.
pub fn one_of_if(errors: &mut ErrorList, path: &Path, value: &str, supported: &[&str]) {
    if !value.is_empty() {
        one_of(errors, path, value, supported);
    }
}

/// A closed set, with an error of its own when empty.
pub fn required_one_of(errors: &mut ErrorList, path: &Path, value: &str, supported: &[&str]) {
    if value.is_empty() {
        errors.push(required(path, ""));
    } else {
        one_of(errors, path, value, supported);
    }
}

/// A number or percentage: what `IntOrString` fields of rollouts accept.
pub fn int_or_percent(errors: &mut ErrorList, path: &Path, value: &Value) {
    match value {
        Value::String(s) if percent(s).is_none() => {
            errors.push(invalid(
                    path,
                    s.as_str(),
                    "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
                ));
        }
        Value::Number(n) => non_negative(errors, path, n.as_i64()),
        _ => {}
    }
}

/// A percentage above 100.
pub fn not_above_100_percent(errors: &mut ErrorList, path: &Path, value: &Value) {
    if let Some(s) = value.as_str().filter(|s| percent(s).is_some_and(|n| n > 100)) {
        errors.push(invalid(path, s, "must not be greater than 100%"));
    }
}

/// The number of a percentage.
pub fn percent(s: &str) -> Option<i64> {
    let digits = s.strip_suffix('%')?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse().unwrap_or(i64::MAX))
}

/// The number or percentage as a number, also a number that is written as a text; 0 for anything else.
pub fn int_or_percent_value(v: &Value) -> i64 {
    match v {
        Value::String(s) => percent(s).or_else(|| s.parse().ok()).unwrap_or(0),
        other => other.as_i64().unwrap_or(0),
    }
}

/// A port by number or by name.
pub fn port_or_name(errors: &mut ErrorList, path: &Path, value: &Value) {
    match value {
        Value::String(s) => each(errors, path, s, names::port_name(s)),
        other => port(errors, path, other.as_i64().unwrap_or(0)),
    }
}

/// Labels: keys and values.
pub fn labels(errors: &mut ErrorList, path: &Path, owner: &Value, key: &str) {
    for (name, value) in entries(owner, key) {
        each(errors, path, name, names::qualified_name(name));
        let value = value.as_str().unwrap_or("");
        each(errors, path, value, names::label_value(value));
    }
}

/// Annotations: keys, and the size of all together.
pub fn annotations(errors: &mut ErrorList, path: &Path, owner: &Value) {
    const BYTES_MAX: usize = 256 * 1024;
    let mut bytes = 0;
    for (name, value) in entries(owner, "annotations") {
        each(errors, path, name, names::qualified_name(&name.to_lowercase()));
        bytes += name.len() + value.as_str().map_or(0, str::len);
    }
    if bytes > BYTES_MAX {
        errors.push(too_long(path, BYTES_MAX));
    }
}

/// `example.com/anything`: a domain and a path.
pub fn domain_prefixed_path(errors: &mut ErrorList, path: &Path, value: &str) {
    const LETTERS: &str = "/-._~%!$&'()*+,;=:";
    if value.is_empty() {
        errors.push(required(path, ""));
        return;
    }
    let Some((host, rest)) = value
        .split_once('/')
        .filter(|(host, rest)| !host.is_empty() && !rest.is_empty())
    else {
        let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        errors.push(invalid(path, value, detail));
        return;
    };
    dns_subdomain(errors, path, host);
    if !rest.chars().all(|c| c.is_ascii_alphanumeric() || LETTERS.contains(c)) {
        let detail = "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
        errors.push(invalid(path, rest, detail));
    }
}

/// A label selector's own rules.
pub fn label_selector(errors: &mut ErrorList, path: &Path, selector: &Value) {
    labels(errors, &path.child("matchLabels"), selector, "matchLabels");
    for (i, expression) in list(selector, "matchExpressions").iter().enumerate() {
        label_expression(errors, &path.child("matchExpressions").index(i), expression);
    }
}

fn label_expression(errors: &mut ErrorList, path: &Path, expression: &Value) {
    if !requirement_values(errors, path, expression) {
        let operator = str_of(expression, "operator");
        errors.push(invalid(
            &path.child("operator"),
            operator,
            "not a valid selector operator",
        ));
    }
    label_requirement(errors, path, expression);
}

/// The key and the values of a requirement of labels.
pub fn label_requirement(errors: &mut ErrorList, path: &Path, requirement: &Value) {
    let key = str_of(requirement, "key");
    each(errors, &path.child("key"), key, names::qualified_name(key));
    let values = list(requirement, "values").iter().filter_map(Value::as_str);
    for (i, value) in values.enumerate() {
        each(errors, &path.child("values").index(i), value, names::label_value(value));
    }
}

/// Whether a requirement has values, as its operator says; false is returned for an operator that is not known.
pub fn requirement_values(errors: &mut ErrorList, path: &Path, requirement: &Value) -> bool {
    let values = list(requirement, "values");
    match str_of(requirement, "operator") {
        "In" | "NotIn" if values.is_empty() => errors.push(required(
            &path.child("values"),
            "must be specified when `operator` is 'In' or 'NotIn'",
        )),
        "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(forbidden(
            &path.child("values"),
            "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
        )),
        operator => return matches!(operator, "In" | "NotIn" | "Exists" | "DoesNotExist"),
    }
    true
}

/// A member that may not differ from the stored one.
pub fn immutable(errors: &mut ErrorList, path: &Path, new: Option<&Value>, old: Option<&Value>) {
    if !same(new, old) {
        errors.push(invalid(path, new.cloned().unwrap_or(Value::Null), IMMUTABLE));
    }
}

/// A label selector that may not differ from the stored one.
pub fn immutable_selector(errors: &mut ErrorList, path: &Path, new: &Value, old: &Value) {
    if !same(Some(new), Some(old)) {
        let shown = if new.is_null() {
            "null".to_owned()
        } else {
            go::label_selector(new)
        };
        errors.push(go::invalid_shown(path, &shown, IMMUTABLE));
    }
}

/// Whether labels satisfy a selector whose rules hold. An absent selector matches nothing, an empty one everything.
pub fn selects(selector: &Value, labels: &Value) -> bool {
    if selector.is_null() {
        return false;
    }
    entries(selector, "matchLabels").all(|(k, v)| labels.get(k) == Some(v))
        && list(selector, "matchExpressions").iter().all(|e| {
            let value = labels.get(str_of(e, "key"));
            let listed = value.is_some_and(|v| list(e, "values").contains(v));
            match str_of(e, "operator") {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// Whether a selector selects by nothing at all.
pub fn selector_is_empty(selector: &Value) -> bool {
    selector
        .get("matchLabels")
        .and_then(Value::as_object)
        .is_none_or(|m| m.is_empty())
        && list(selector, "matchExpressions").is_empty()
}

/// Whether a text is an absolute path.
pub fn is_absolute(path: &str) -> bool {
    path.starts_with('/')
}

/// An IP address in a spelling that every parser reads the same.
pub fn ip(errors: &mut ErrorList, path: &Path, value: &str) {
    let detail = match value.parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_some() => "must not be an IPv4-mapped IPv6 address",
        Ok(_) => return,
        Err(_) if without_zeros(value).parse::<IpAddr>().is_ok() => "must not have leading 0s",
        Err(_) => "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
    };
    errors.push(invalid(path, value, detail));
}

/// An address in any spelling that is read at all: zeros in front of decimal parts mean nothing.
pub fn lenient_ip(value: &str) -> Option<IpAddr> {
    let ip = value.parse().or_else(|_| without_zeros(value).parse()).ok()?;
    match ip {
        IpAddr::V6(v6) => Some(v6.to_ipv4_mapped().map_or(ip, IpAddr::V4)),
        IpAddr::V4(_) => Some(ip),
    }
}

/// An address whose decimal parts have no zeros in front. Old parsers took such zeros for octal, or dropped them.
fn without_zeros(value: &str) -> String {
    let (head, dotted) = value
        .rsplit_once(':')
        .map_or(("", value), |(head, dotted)| (head, dotted));
    let parts: Vec<&str> = dotted
        .split('.')
        .map(|part| match part.trim_start_matches('0') {
            "" if !part.is_empty() => "0",
            rest => rest,
        })
        .collect();
    let colon = if value.contains(':') { ":" } else { "" };
    format!("{head}{colon}{}", parts.join("."))
}

/// A network in CIDR notation, in a spelling that every parser reads the same.
pub fn cidr(errors: &mut ErrorList, path: &Path, value: &str) {
    let detail = match parse_cidr(value) {
        Some((IpAddr::V6(ip), _)) if ip.to_ipv4_mapped().is_some() => "must not have an IPv4-mapped IPv6 address",
        Some((ip, bits)) if network(ip, bits) != ip => "must not have bits set beyond the prefix length",
        Some(_)
            if value
                .rsplit_once('/')
                .is_some_and(|(_, bits)| bits.len() > 1 && bits.starts_with('0')) =>
        {
            LEADING
        }
        Some(_) => return,
        None if value
            .split_once('/')
            .is_some_and(|(ip, bits)| parse_cidr(&format!("{}/{bits}", without_zeros(ip))).is_some()) =>
        {
            LEADING
        }
        None => "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
    };
    errors.push(invalid(path, value, detail));
}

const LEADING: &str = "must not have leading 0s in IP or prefix length";

/// The first address of the network that an address is in.
fn network(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6((u128::from(v6) & mask).into())
        }
    }
}

/// A network in its one canonical spelling.
pub fn canonical_cidr(errors: &mut ErrorList, path: &Path, value: &str) {
    match parse_cidr(value) {
        None => cidr(errors, path, value),
        Some((ip, bits)) => {
            let canonical = format!("{}/{bits}", network(ip, bits));
            if canonical != value {
                errors.push(invalid(
                    path,
                    value,
                    format!("must be in canonical form ({canonical:?})"),
                ));
            }
        }
    }
}

/// Address and prefix length of a CIDR text.
pub fn parse_cidr(value: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = value.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let bits: u8 = bits.parse().ok()?;
    let bits_max = if address.is_ipv4() { 32 } else { 128 };
    (bits <= bits_max).then_some((address, bits))
}

/// What to say about an accepted address in an unusual spelling.
pub fn ip_warning(path: &Path, value: &str) -> Option<String> {
    let ip = value.parse::<std::net::Ipv6Addr>().ok()?;
    let canonical = ip.to_string();
    (canonical != value)
        .then(|| format!("{path}: IPv6 address {value:?} should be in RFC 5952 canonical format ({canonical:?})"))
}

/// What to say about an accepted network in an unusual spelling.
pub fn cidr_warning(path: &Path, value: &str) -> Option<String> {
    let (ip, bits) = parse_cidr(value).filter(|(ip, _)| ip.is_ipv6())?;
    let canonical = format!("{ip}/{bits}");
    (canonical != value)
        .then(|| format!("{path}: IPv6 CIDR value {value:?} should be in RFC 5952 canonical format ({canonical:?})"))
}

/// Fields that a `local object reference` needs.
pub fn has_name(v: &Value) -> bool {
    has(v, "name") && !str_of(v, "name").is_empty()
}

/// The values of a string list.
pub fn strings<'a>(v: &'a Value, key: &str) -> Vec<&'a str> {
    get(v, key)
        .as_array()
        .map_or_else(Vec::new, |a| a.iter().filter_map(Value::as_str).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(check: fn(&mut ErrorList, &Path, &str), value: &str) -> String {
        let mut errors = ErrorList::new();
        check(&mut errors, &Path::new("x"), value);
        errors.iter().map(|e| e.detail.clone()).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn addresses() {
        for (value, expected) in [
            ("10.0.0.1", ""),
            ("::1", ""),
            ("010.0.0.1", "must not have leading 0s"),
            ("::ffff:10.0.0.1", "must not be an IPv4-mapped IPv6 address"),
            (
                "10.0.0",
                "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ),
            ("", "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
        ] {
            assert_eq!(said(ip, value), expected, "{value}");
        }
    }

    #[test]
    fn networks() {
        for (value, expected) in [
            ("10.0.0.0/8", ""),
            ("::/0", ""),
            ("0.0.0.0/0", ""),
            ("10.0.0.1/8", "must not have bits set beyond the prefix length"),
            ("010.0.0.0/8", LEADING),
            ("10.0.0.0/08", LEADING),
            ("::ffff:10.0.0.0/104", "must not have an IPv4-mapped IPv6 address"),
            (
                "10.0.0.0/33",
                "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            ),
        ] {
            assert_eq!(said(cidr, value), expected, "{value}");
        }
        assert_eq!(
            said(canonical_cidr, "2001:DB8::/32"),
            "must be in canonical form (\"2001:db8::/32\")"
        );
    }

    #[test]
    fn paths_with_domains() {
        for (value, expected) in [
            ("example.com/a/b", ""),
            (
                "example.com",
                "must be a domain-prefixed path (such as \"acme.io/foo\")",
            ),
            (
                "example.com/a b",
                "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')",
            ),
        ] {
            assert_eq!(said(domain_prefixed_path, value), expected, "{value}");
        }
    }
}

//! Objections to the addresses of a Service and their families.

use super::is_headless;
use crate::field::{ErrorList, Path, duplicate, invalid, required};
use crate::kinds::access::{get, has, str_of};
use crate::kinds::check::{self, strings};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Addresses that no outside client could use.
pub fn not_special(errors: &mut ErrorList, path: &Path, text: &str) {
    let Some(ip) = check::lenient_ip(text) else {
        errors.push(invalid(path, text, "must be a valid IP address"));
        return;
    };
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    };
    let link_local_multicast = match ip {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    };
    if ip.is_unspecified() {
        errors.push(invalid(path, text, format!("may not be unspecified ({text})")));
    }
    for (found, detail) in [
        (
            ip.is_loopback(),
            "may not be in the loopback range (127.0.0.0/8, ::1/128)",
        ),
        (
            link_local,
            "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
        ),
        (
            link_local_multicast,
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
        ),
    ] {
        if found {
            errors.push(invalid(path, text, detail));
        }
    }
}

/// `clusterIP`, `clusterIPs`, `ipFamilies` and `ipFamilyPolicy` together. The API server also asks this before it
/// gives out addresses.
pub fn related_fields(spec: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    if str_of(spec, "type") == "ExternalName" {
        return errors;
    }
    let path = Path::new("spec");
    let (ip, ips, families) = (
        str_of(spec, "clusterIP"),
        strings(spec, "clusterIPs"),
        strings(spec, "ipFamilies"),
    );
    let at_ips = path.child("clusterIPs");
    let shown = get(spec, "clusterIPs").clone();
    match (ip, ips.first()) {
        ("", Some(_)) => errors.push(invalid(
            &at_ips,
            shown.clone(),
            "must be empty when `clusterIP` is not specified",
        )),
        ("", None) => {}
        (_, None) => errors.push(required(&at_ips, "")),
        (ip, Some(first)) if *first != ip => {
            errors.push(invalid(&at_ips, shown.clone(), "first value must match `clusterIP`"))
        }
        _ => {}
    }
    family_fields(&mut errors, &path, spec, &families);
    let mut broken = false;
    for (i, one) in ips.iter().enumerate() {
        if i == 0 && *one == "None" {
            if ips.len() > 1 {
                broken = true;
                errors.push(invalid(
                    &at_ips,
                    shown.clone(),
                    "'None' must be the first and only value",
                ));
            }
            continue;
        }
        let before = errors.len();
        check::ip(&mut errors, &at_ips.index(i), one);
        broken |= errors.len() != before;
    }
    if ips.len() > 2 {
        errors.push(invalid(&at_ips, shown.clone(), "may only hold up to 2 values"));
    }
    if broken {
        return errors;
    }
    let v6 = |ip: &str| ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6());
    if ips.len() == 2 && v6(ips[0]) == v6(ips[1]) {
        errors.push(invalid(
            &at_ips,
            shown,
            "may specify no more than one IP for each IP family",
        ));
    }
    if errors.is_empty() && !is_headless(spec) {
        for (i, (ip, family)) in ips.iter().zip(&families).enumerate() {
            if v6(ip) != (*family == "IPv6") {
                errors.push(invalid(
                    &at_ips.index(i),
                    *ip,
                    format!("expected an {family} value as indicated by `ipFamilies[{i}]`"),
                ));
            }
        }
    }
    errors
}

fn family_fields(errors: &mut ErrorList, path: &Path, spec: &Value, families: &[&str]) {
    let mut seen = BTreeSet::new();
    for (i, family) in families.iter().enumerate() {
        let at = path.child("ipFamilies").index(i);
        check::one_of(errors, &at, family, &["IPv4", "IPv6"]);
        if !seen.insert(family) {
            errors.push(duplicate(&at, *family));
        }
    }
    if has(spec, "ipFamilyPolicy") {
        let policies = ["PreferDualStack", "RequireDualStack", "SingleStack"];
        check::one_of(
            errors,
            &path.child("ipFamilyPolicy"),
            str_of(spec, "ipFamilyPolicy"),
            &policies,
        );
    }
}

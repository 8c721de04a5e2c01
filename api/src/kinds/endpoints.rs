//! Endpoints and EndpointSlices.

use super::access::{self, each_mut, get, has, int_of, list, same, set_default, set_text_default, str_of};
use super::check::{self, strings};
use super::print::{self, AGE, NAME, shown};
use super::service::not_special;
use super::{Column, Rules, access::child, tidy};
use crate::field::{ErrorList, Path, duplicate, invalid, required, too_many};
use crate::names;
use crate::schema::choices::PROTOCOLS;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The rules of Endpoints.
pub struct Endpoints;

impl Rules for Endpoints {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        tidy::drop_zero(obj, &["subsets"]);
        for subset in each_mut(obj, "subsets") {
            tidy::drop_zero(subset, &["addresses", "notReadyAddresses", "ports"]);
            for port in each_mut(subset, "ports") {
                tidy::drop_zero(port, &["name", "protocol"]);
                set_text_default(port, "protocol", "TCP");
            }
            for key in ["addresses", "notReadyAddresses"] {
                each_mut(subset, key).for_each(|a| tidy::drop_zero(a, &["hostname"]));
            }
        }
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        for (i, subset) in list(obj, "subsets").iter().enumerate() {
            let path = Path::new("subsets").index(i);
            if list(subset, "addresses").is_empty() && list(subset, "notReadyAddresses").is_empty() {
                errors.push(required(&path, "must specify `addresses` or `notReadyAddresses`"));
            }
            for key in ["addresses", "notReadyAddresses"] {
                for (j, address) in list(subset, key).iter().enumerate() {
                    endpoint_address(&mut errors, &path.child(key).index(j), address);
                }
            }
            let ports = list(subset, "ports");
            for (j, port) in ports.iter().enumerate() {
                endpoint_port(&mut errors, &path.child("ports").index(j), port, ports.len() > 1);
            }
        }
        errors
    }

    fn warnings(&self, _obj: &Value, _old: Option<&Value>) -> Vec<String> {
        vec!["v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".to_owned()]
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[NAME, shown("Endpoints", "string", "Addresses and ports."), AGE];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            json!(access::name(obj)),
            json!(endpoints_text(obj)),
            print::age(obj, now),
        ]
    }
}

fn endpoint_address(errors: &mut ErrorList, path: &Path, address: &Value) {
    let ip = str_of(address, "ip");
    check::ip(errors, &path.child("ip"), ip);
    if !str_of(address, "hostname").is_empty() {
        check::dns_label(errors, &path.child("hostname"), str_of(address, "hostname"));
    }
    if has(address, "nodeName") {
        check::dns_subdomain(errors, &path.child("nodeName"), str_of(address, "nodeName"));
    }
    not_special(errors, &path.child("ip"), ip);
}

fn endpoint_port(errors: &mut ErrorList, path: &Path, port: &Value, require_name: bool) {
    let name = str_of(port, "name");
    if name.is_empty() {
        if require_name {
            errors.push(required(&path.child("name"), ""));
        }
    } else {
        check::dns_label(errors, &path.child("name"), name);
    }
    check::port(errors, &path.child("port"), int_of(port, "port").unwrap_or(0));
    check::required_one_of(errors, &path.child("protocol"), str_of(port, "protocol"), PROTOCOLS);
    if has(port, "appProtocol") {
        check::qualified(errors, &path.child("appProtocol"), str_of(port, "appProtocol"));
    }
}

/// How many addresses a Table shows before it counts.
const SHOWN_MAX: usize = 3;

fn endpoints_text(obj: &Value) -> String {
    let mut all = Vec::new();
    for subset in list(obj, "subsets") {
        let ips = || list(subset, "addresses").iter().map(|a| str_of(a, "ip"));
        let ports = list(subset, "ports");
        if ports.is_empty() {
            all.extend(ips().map(str::to_owned));
        }
        for port in ports {
            all.extend(ips().map(|ip| joined(ip, int_of(port, "port").unwrap_or(0))));
        }
    }
    if list(obj, "subsets").is_empty() {
        "<none>".to_owned()
    } else {
        summary(&all)
    }
}

fn joined(ip: &str, port: i64) -> String {
    if ip.contains(':') {
        format!("[{ip}]:{port}")
    } else {
        format!("{ip}:{port}")
    }
}

/// The first few, and how many more there are.
fn summary(all: &[String]) -> String {
    let text = all.iter().take(SHOWN_MAX).cloned().collect::<Vec<_>>().join(",");
    if all.len() > SHOWN_MAX {
        format!("{text} + {} more...", all.len() - SHOWN_MAX)
    } else {
        text
    }
}

/// Written endpoints lose the topology of old. The name of a node that it held before becomes the endpoint's own.
fn drop_topology(new: &mut Value, old: &Value) {
    const TOPOLOGY: &str = "deprecatedTopology";
    let node = |e: &Value| str_of(get(e, TOPOLOGY), "kubernetes.io/hostname").to_owned();
    let known: Vec<String> = list(old, "endpoints").iter().map(node).collect();
    for endpoint in each_mut(new, "endpoints") {
        let name = node(endpoint);
        let keep = !name.is_empty() && known.contains(&name) && get(endpoint, "nodeName").is_null();
        if keep && names::dns1123_subdomain(&name).is_empty() {
            access::set(endpoint, "nodeName", name);
        }
        access::remove(endpoint, TOPOLOGY);
    }
}

fn or_unset(text: String) -> String {
    if text.is_empty() { "<unset>".to_owned() } else { text }
}

/// The rules of EndpointSlices.
pub struct EndpointSlice;

const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20_000;

impl Rules for EndpointSlice {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        for port in each_mut(obj, "ports") {
            set_default(port, "name", "");
            set_default(port, "protocol", "TCP");
        }
        for endpoint in each_mut(obj, "endpoints") {
            child(endpoint, "conditions");
        }
        for key in ["endpoints", "ports"] {
            if access::is_empty(get(obj, key)) {
                access::set(obj, key, Value::Null);
            }
        }
    }

    fn on_create(&self, obj: &mut Value) {
        drop_topology(obj, &Value::Null);
    }

    fn on_update(&self, new: &mut Value, old: &Value, _sub: Option<&str>) {
        if !same(new.get("endpoints"), old.get("endpoints")) {
            drop_topology(new, old);
        }
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let kind = str_of(obj, "addressType");
        let types = ["FQDN", "IPv4", "IPv6"];
        check::required_one_of(&mut errors, &Path::new("addressType"), kind, &types);
        if types.contains(&kind) {
            slice_endpoints(&mut errors, obj, kind);
        }
        slice_ports(&mut errors, list(obj, "ports"));
        errors
    }

    fn check_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> ErrorList {
        let mut errors = self.check(new);
        check::immutable(
            &mut errors,
            &Path::new("addressType"),
            new.get("addressType"),
            old.get("addressType"),
        );
        errors
    }

    fn desired_differs(&self, new: &Value, old: &Value) -> bool {
        ["endpoints", "ports", "addressType"]
            .iter()
            .any(|k| !same(new.get(*k), old.get(*k)))
            || !same(new.pointer("/metadata/labels"), old.pointer("/metadata/labels"))
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[
            NAME,
            shown("AddressType", "string", "Kind of the addresses."),
            shown("Ports", "string", "Ports of the endpoints."),
            shown("Endpoints", "string", "Addresses."),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let addresses: Vec<String> = list(obj, "endpoints")
            .iter()
            .flat_map(|e| strings(e, "addresses"))
            .map(str::to_owned)
            .collect();
        let port = |p| match (int_of(p, "port"), p.get("name").and_then(Value::as_str)) {
            (Some(number), _) => number.to_string(),
            (None, name) => name.unwrap_or("*").to_owned(),
        };
        let ports: Vec<String> = list(obj, "ports").iter().map(port).collect();
        vec![
            json!(access::name(obj)),
            json!(str_of(obj, "addressType")),
            json!(or_unset(summary(&ports))),
            json!(or_unset(summary(&addresses))),
            print::age(obj, now),
        ]
    }
}

fn slice_endpoints(errors: &mut ErrorList, obj: &Value, kind: &str) {
    let endpoints = list(obj, "endpoints");
    let path = Path::new("endpoints");
    if endpoints.len() > ENDPOINTS_MAX {
        errors.push(too_many(&path, endpoints.len(), ENDPOINTS_MAX));
        return;
    }
    for (i, endpoint) in endpoints.iter().enumerate() {
        let path = path.index(i);
        let addresses = strings(endpoint, "addresses");
        let at_addresses = path.child("addresses");
        if addresses.is_empty() {
            errors.push(required(&at_addresses, "must contain at least 1 address"));
        } else if addresses.len() > ADDRESSES_MAX {
            errors.push(too_many(&at_addresses, addresses.len(), ADDRESSES_MAX));
        }
        for (j, address) in addresses.iter().enumerate() {
            slice_address(errors, &at_addresses.index(j), address, kind);
        }
        if has(endpoint, "nodeName") {
            check::dns_subdomain(errors, &path.child("nodeName"), str_of(endpoint, "nodeName"));
        }
        check::labels(
            errors,
            &path.child("deprecatedTopology"),
            endpoint,
            "deprecatedTopology",
        );
        if has(endpoint, "hostname") {
            check::dns_label(errors, &path.child("hostname"), str_of(endpoint, "hostname"));
        }
        hints(errors, &path.child("hints"), get(endpoint, "hints"));
    }
}

/// Zones and nodes that an endpoint is meant for: a few, and each once.
fn hints(errors: &mut ErrorList, path: &Path, hints: &Value) {
    const HINTS_MAX: usize = 8;
    for key in ["forZones", "forNodes"] {
        let (path, all) = (path.child(key), list(hints, key));
        if all.len() > HINTS_MAX {
            errors.push(too_many(&path, all.len(), HINTS_MAX));
            return;
        }
        let mut seen = BTreeSet::new();
        for (i, hint) in all.iter().enumerate() {
            let (path, name) = (path.index(i).child("name"), str_of(hint, "name"));
            if !seen.insert(name) {
                errors.push(duplicate(&path, name));
            }
            if key == "forZones" {
                check::each(errors, &path, name, names::label_value(name));
            } else {
                check::dns_subdomain(errors, &path, name);
            }
        }
    }
}

/// A domain name of at least two labels, with or without a dot at its end.
fn domain(errors: &mut ErrorList, path: &Path, address: &str) {
    let name = address.strip_suffix('.').unwrap_or(address);
    let labels: Vec<&str> = name.split('.').collect();
    let messages = names::dns1123_subdomain(name);
    if address.is_empty() {
        errors.push(required(path, ""));
    } else if !messages.is_empty() {
        errors.push(invalid(path, name, messages.join(",")));
    } else if labels.len() < 2 {
        let detail = "should be a domain with at least two segments separated by dots";
        errors.push(invalid(path, name, detail));
    } else if let Some(long) = labels.iter().find(|label| !names::dns1123_label(label).is_empty()) {
        errors.push(invalid(path, *long, names::dns1123_label(long).join(",")));
    }
}

fn slice_address(errors: &mut ErrorList, path: &Path, address: &str, kind: &str) {
    if kind == "FQDN" {
        domain(errors, path, address);
        return;
    }
    let before = errors.len();
    check::ip(errors, path, address);
    if errors.len() != before {
        return;
    }
    match (kind, address.parse::<std::net::IpAddr>()) {
        ("IPv4", Ok(ip)) if ip.is_ipv4() => not_special(errors, path, address),
        ("IPv6", Ok(ip)) if ip.is_ipv6() => not_special(errors, path, address),
        (_, Err(_)) => {}
        (family, Ok(_)) => {
            errors.push(invalid(path, address, format!("must be an {family} address")));
            not_special(errors, path, address);
        }
    }
}

fn slice_ports(errors: &mut ErrorList, ports: &[Value]) {
    let path = Path::new("ports");
    if ports.len() > PORTS_MAX {
        errors.push(too_many(&path, ports.len(), PORTS_MAX));
        return;
    }
    let mut seen = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        let name = str_of(port, "name");
        if !name.is_empty() {
            check::dns_label(errors, &path.child("name"), name);
        }
        if !seen.insert(name) {
            errors.push(duplicate(&path.child("name"), name));
        }
        if let Some(number) = int_of(port, "port") {
            check::port(errors, &path.child("port"), number);
        }
        if has(port, "protocol") {
            check::one_of(errors, &path.child("protocol"), str_of(port, "protocol"), PROTOCOLS);
        } else {
            errors.push(required(&path.child("protocol"), ""));
        }
        if has(port, "appProtocol") {
            check::qualified(errors, &path.child("appProtocol"), str_of(port, "appProtocol"));
        }
    }
}

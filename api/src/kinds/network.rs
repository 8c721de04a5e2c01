//! Ingress, IngressClass, NetworkPolicy, IPAddress and ServiceCIDR.

use super::access::{self, at, child, each_mut, get, has, int_of, list, set, set_default, str_of};
use super::check::{self, strings};
use super::pod::PROTOCOLS;
use super::print::{self, AGE, NAME, shown};
use super::{Column, Rules, StatusRule, service, tidy};
use crate::field::{ErrorList, Path, forbidden, invalid, required};
use crate::names;
use jiff::Timestamp;
use serde_json::{Value, json};

/// The rules of Ingresses.
pub struct Ingress;

impl Rules for Ingress {
    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        const CLASS: &str = "kubernetes.io/ingress.class";
        if old.is_none() && has(at(obj, "/metadata/annotations"), CLASS) {
            return vec![format!(
                "annotation {CLASS:?} is deprecated, please use 'spec.ingressClassName' instead"
            )];
        }
        Vec::new()
    }

    fn looks_at_metadata_again(&self) -> bool {
        false
    }

    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        child(obj, "spec");
        child(child(obj, "status"), "loadBalancer");
    }

    fn on_create(&self, obj: &mut Value) {
        set(obj, "status", json!({"loadBalancer": {}}));
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (path, spec) = (Path::new("spec"), at(obj, "/spec"));
        if list(spec, "rules").is_empty() && !get(spec, "defaultBackend").is_object() {
            errors.push(invalid(
                &path,
                Value::Null,
                "either `defaultBackend` or `rules` must be specified",
            ));
        }
        if get(spec, "defaultBackend").is_object() {
            backend(&mut errors, &path.child("defaultBackend"), get(spec, "defaultBackend"));
        }
        for (i, rule) in list(spec, "rules").iter().enumerate() {
            ingress_rule(&mut errors, &path.child("rules").index(i), rule);
        }
        for (i, tls) in list(spec, "tls").iter().enumerate() {
            let path = path.child("tls").index(i);
            for (j, host) in strings(tls, "hosts").iter().enumerate() {
                host_name(&mut errors, &path.child("hosts").index(j), host);
            }
            if !str_of(tls, "secretName").is_empty() {
                check::dns_subdomain(&mut errors, &path.child("secretName"), str_of(tls, "secretName"));
            }
        }
        if has(spec, "ingressClassName") {
            check::dns_subdomain(
                &mut errors,
                &path.child("ingressClassName"),
                str_of(spec, "ingressClassName"),
            );
        }
        errors
    }

    fn check_update(&self, new: &Value, _old: &Value, sub: Option<&str>) -> ErrorList {
        if sub == Some("status") {
            service::load_balancer_status(at(new, "/status/loadBalancer"))
        } else {
            self.check(new)
        }
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[
            NAME,
            shown("Class", "string", "Class of the ingress."),
            shown("Hosts", "string", "Hosts that are served."),
            shown("Address", "string", "Addresses of the load balancer."),
            shown("Ports", "string", "Ports that are served."),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let spec = at(obj, "/spec");
        let hosts: Vec<&str> = list(spec, "rules")
            .iter()
            .map(|r| str_of(r, "host"))
            .filter(|h| !h.is_empty())
            .collect();
        let hosts = match hosts.len() {
            0 => "*".to_owned(),
            n if n > 3 => format!("{} + {} more...", hosts[..3].join(","), n - 3),
            _ => hosts.join(","),
        };
        let addresses: Vec<&str> = list(at(obj, "/status/loadBalancer"), "ingress")
            .iter()
            .map(|i| {
                if str_of(i, "ip").is_empty() {
                    str_of(i, "hostname")
                } else {
                    str_of(i, "ip")
                }
            })
            .collect();
        let ports = if list(spec, "tls").is_empty() { "80" } else { "80, 443" };
        vec![
            json!(access::name(obj)),
            print::text_or_none(spec, "/ingressClassName"),
            json!(hosts),
            json!(addresses.join(",")),
            json!(ports),
            print::age(obj, now),
        ]
    }

    fn status_rule(&self) -> StatusRule {
        StatusRule::Separate
    }

    fn has_generation(&self) -> bool {
        true
    }
}

fn host_name(errors: &mut ErrorList, path: &Path, host: &str) {
    if host.parse::<std::net::IpAddr>().is_ok() {
        errors.push(invalid(path, host, "must be a DNS name, not an IP address"));
        return;
    }
    let messages = if host.contains('*') {
        names::wildcard_dns1123_subdomain(host)
    } else {
        names::dns1123_subdomain(host)
    };
    check::each(errors, path, host, messages);
}

fn ingress_rule(errors: &mut ErrorList, path: &Path, rule: &Value) {
    if !str_of(rule, "host").is_empty() {
        host_name(errors, &path.child("host"), str_of(rule, "host"));
    }
    let http = get(rule, "http");
    if !http.is_object() {
        return;
    }
    let at_paths = path.child("http").child("paths");
    if list(http, "paths").is_empty() {
        errors.push(required(&at_paths, ""));
    }
    for (i, entry) in list(http, "paths").iter().enumerate() {
        let path = at_paths.index(i);
        ingress_path(errors, &path, entry);
        backend(errors, &path.child("backend"), get(entry, "backend"));
    }
}

fn ingress_path(errors: &mut ErrorList, path: &Path, entry: &Value) {
    const INNER: &[&str] = &["//", "/./", "/../", "%2f", "%2F"];
    let place = str_of(entry, "path");
    let at = path.child("path");
    if str_of(entry, "pathType").is_empty() {
        errors.push(required(&path.child("pathType"), "pathType must be specified"));
        return;
    }
    match str_of(entry, "pathType") {
        "Exact" | "Prefix" => {
            if !place.starts_with('/') {
                errors.push(invalid(&at, place, "must be an absolute path"));
            }
            for part in INNER.iter().filter(|p| place.contains(**p)) {
                errors.push(invalid(&at, place, format!("must not contain '{part}'")));
            }
            for end in ["/..", "/."].iter().filter(|e| place.ends_with(**e)) {
                errors.push(invalid(&at, place, format!("cannot end with '{end}'")));
            }
        }
        "ImplementationSpecific" => {
            if !place.is_empty() && !place.starts_with('/') {
                errors.push(invalid(&at, place, "must be an absolute path"));
            }
        }
        other => errors.push(crate::field::not_supported(
            &path.child("pathType"),
            other,
            &["Exact", "ImplementationSpecific", "Prefix"],
        )),
    }
}

fn backend(errors: &mut ErrorList, path: &Path, backend: &Value) {
    let (service, resource) = (get(backend, "service"), get(backend, "resource"));
    match (service.is_object(), resource.is_object()) {
        (true, true) => errors.push(invalid(path, "", "cannot set both resource and service backends")),
        (false, false) => errors.push(invalid(path, "", "resource or service backend is required")),
        (false, true) => {
            for key in ["kind", "name"] {
                if str_of(resource, key).is_empty() {
                    errors.push(required(&path.child("resource").child(key), ""));
                }
            }
        }
        (true, false) => {
            let at_service = path.child("service");
            let name = str_of(service, "name");
            if name.is_empty() {
                errors.push(required(&at_service.child("name"), ""));
            } else {
                check::dns_label(errors, &at_service.child("name"), name);
            }
            let port = get(service, "port");
            let (port_name, number) = (str_of(port, "name"), int_of(port, "number").unwrap_or(0));
            match (port_name.is_empty(), number) {
                (false, 0) => check::each(
                    errors,
                    &at_service.child("port").child("name"),
                    port_name,
                    names::port_name(port_name),
                ),
                (false, _) => errors.push(invalid(path, "", "cannot set both port name & port number")),
                (true, 0) => errors.push(required(path, "port name or number is required")),
                (true, n) => check::port(errors, &at_service.child("port").child("number"), n),
            }
        }
    }
}

/// The rules of IngressClasses.
pub struct IngressClass;

impl Rules for IngressClass {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        let parameters = child(obj, "spec");
        if let Some(p) = access::child_if(parameters, "parameters") {
            access::set_text_default(p, "scope", "Cluster");
        }
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("spec");
        let controller = str_of(at(obj, "/spec"), "controller");
        let at_controller = path.child("controller");
        if controller.len() > 250 {
            errors.push(crate::field::too_long(&at_controller, 250));
        }
        if !controller.contains('/')
            || !names::qualified_name(controller.rsplit_once('/').map_or("", |(_, n)| n)).is_empty()
        {
            errors.push(invalid(
                &at_controller,
                controller,
                "must be a domain-prefixed path (such as \"acme.io/foo\")",
            ));
        }
        let p = at(obj, "/spec/parameters");
        if p.is_object() {
            let path = path.child("parameters");
            for key in ["kind", "name"] {
                if str_of(p, key).is_empty() {
                    errors.push(required(&path.child(key), ""));
                }
            }
            let scope = str_of(p, "scope");
            check::required_one_of(&mut errors, &path.child("scope"), scope, &["Cluster", "Namespace"]);
            match (scope, has(p, "namespace")) {
                ("Namespace", false) => errors.push(required(
                    &path.child("namespace"),
                    "`parameters.scope` is set to 'Namespace'",
                )),
                ("Cluster", true) => errors.push(forbidden(
                    &path.child("namespace"),
                    "`parameters.scope` is set to 'Cluster'",
                )),
                _ => {}
            }
        }
        errors
    }

    fn check_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> ErrorList {
        let mut errors = self.check(new);
        let path = Path::new("spec").child("controller");
        check::immutable(
            &mut errors,
            &path,
            new.pointer("/spec/controller"),
            old.pointer("/spec/controller"),
        );
        errors
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[
            NAME,
            shown("Controller", "string", "Controller of the class."),
            shown("Parameters", "string", "Object with further settings."),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let p = at(obj, "/spec/parameters");
        let parameters = if p.is_object() {
            let group = str_of(p, "apiGroup");
            let dot = if group.is_empty() { "" } else { "." };
            format!("{}{dot}{group}/{}", str_of(p, "kind"), str_of(p, "name"))
        } else {
            "<none>".to_owned()
        };
        vec![
            json!(access::name(obj)),
            json!(str_of(at(obj, "/spec"), "controller")),
            json!(parameters),
            print::age(obj, now),
        ]
    }

    fn namespaced(&self) -> bool {
        false
    }

    fn has_generation(&self) -> bool {
        true
    }
}

/// The rules of NetworkPolicies.
pub struct NetworkPolicy;

impl Rules for NetworkPolicy {
    fn looks_at_metadata_again(&self) -> bool {
        false
    }

    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        let spec = child(obj, "spec");
        child(spec, "podSelector");
        for direction in ["ingress", "egress"] {
            for rule in each_mut(spec, direction) {
                each_mut(rule, "ports").for_each(|p| set_default(p, "protocol", "TCP"));
            }
        }
        if list(spec, "policyTypes").is_empty() {
            let types = if list(spec, "egress").is_empty() {
                json!(["Ingress"])
            } else {
                json!(["Ingress", "Egress"])
            };
            set(spec, "policyTypes", types);
        }
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (path, spec) = (Path::new("spec"), at(obj, "/spec"));
        check::label_selector(&mut errors, &path.child("podSelector"), get(spec, "podSelector"));
        for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
            for (i, rule) in list(spec, direction).iter().enumerate() {
                let path = path.child(direction).index(i);
                for (j, port) in list(rule, "ports").iter().enumerate() {
                    policy_port(&mut errors, &path.child("ports").index(j), port);
                }
                for (j, peer) in list(rule, peers).iter().enumerate() {
                    policy_peer(&mut errors, &path.child(peers).index(j), peer);
                }
            }
        }
        let types = strings(spec, "policyTypes");
        let at_types = path.child("policyTypes");
        if types.len() > 2 {
            errors.push(invalid(
                &at_types,
                get(spec, "policyTypes").clone(),
                "may not specify more than two policyTypes",
            ));
        } else {
            for (i, kind) in types.iter().enumerate() {
                check::one_of(&mut errors, &at_types.index(i), kind, &["Egress", "Ingress"]);
            }
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[
            NAME,
            shown("Pod-Selector", "string", "Pods that the policy is for."),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            json!(access::name(obj)),
            json!(print::selector(at(obj, "/spec/podSelector"))),
            print::age(obj, now),
        ]
    }

    fn has_generation(&self) -> bool {
        true
    }
}

fn policy_port(errors: &mut ErrorList, path: &Path, port: &Value) {
    if has(port, "protocol") {
        check::one_of(errors, &path.child("protocol"), str_of(port, "protocol"), PROTOCOLS);
    }
    let number = get(port, "port");
    if !number.is_null() {
        check::port_or_name(errors, &path.child("port"), number);
    }
    if let Some(end) = int_of(port, "endPort") {
        let at = path.child("endPort");
        match number {
            Value::Number(n) if n.as_i64().is_some_and(|n| end < n) => {
                errors.push(invalid(&at, end, "must be greater than or equal to `port`"));
            }
            Value::Number(_) => check::port(errors, &at, end),
            Value::String(_) => errors.push(invalid(&at, end, "may not be specified when `port` is non-numeric")),
            _ => errors.push(invalid(&at, end, "may not be specified when `port` is not specified")),
        }
    }
}

fn policy_peer(errors: &mut ErrorList, path: &Path, peer: &Value) {
    let mut count = 0;
    for key in ["podSelector", "namespaceSelector"] {
        if get(peer, key).is_object() {
            count += 1;
            check::label_selector(errors, &path.child(key), get(peer, key));
        }
    }
    let block = get(peer, "ipBlock");
    if block.is_object() {
        if count > 0 {
            errors.push(forbidden(path, "may not specify both ipBlock and another peer"));
        }
        count += 1;
        ip_block(errors, &path.child("ipBlock"), block);
    }
    if count == 0 {
        errors.push(required(path, "must specify a peer"));
    }
}

fn ip_block(errors: &mut ErrorList, path: &Path, block: &Value) {
    let range = str_of(block, "cidr");
    if range.is_empty() {
        errors.push(required(&path.child("cidr"), ""));
        return;
    }
    check::cidr(errors, &path.child("cidr"), range);
    let Some(outer) = check::parse_cidr(range) else { return };
    for (i, except) in strings(block, "except").iter().enumerate() {
        let at = path.child("except").index(i);
        match check::parse_cidr(except) {
            None => check::cidr(errors, &at, except),
            Some(inner) if inner.1 <= outer.1 || !contains(outer, inner.0) => {
                errors.push(invalid(
                    &at,
                    *except,
                    format!("must be a strict subset of `cidr`: {range:?}"),
                ));
            }
            Some(_) => {}
        }
    }
}

/// Whether a network contains an address.
fn contains((network, bits): (std::net::IpAddr, u8), address: std::net::IpAddr) -> bool {
    let number = |ip: std::net::IpAddr| match ip {
        std::net::IpAddr::V4(v4) => (u128::from(u32::from(v4)), 32u32),
        std::net::IpAddr::V6(v6) => (u128::from(v6), 128),
    };
    let ((a, width), (b, other)) = (number(network), number(address));
    let shift = width.saturating_sub(u32::from(bits));
    width == other && a.checked_shr(shift).unwrap_or(0) == b.checked_shr(shift).unwrap_or(0)
}

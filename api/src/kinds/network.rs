//! Ingress, IngressClass and NetworkPolicy.

use super::access::{self, at, child, each_mut, get, has, int_of, list, set, set_default, str_of};
use super::check::{self, strings};
use super::print::{self, AGE, NAME, shown};
use super::{Column, Rules, StatusRule, meta, service, tidy};
use crate::field::{ErrorList, Path, forbidden, invalid, required};
use crate::names;
use crate::schema::choices::PROTOCOLS;
use jiff::Timestamp;
use serde_json::{Value, json};

/// The annotation that named the class before there was a member for it.
const CLASS: &str = "kubernetes.io/ingress.class";

/// The rules of Ingresses.
pub struct Ingress;

impl Rules for Ingress {
    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
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
                domain(&mut errors, &path.child("hosts").index(j), host);
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

    /// What a new Ingress may not say, beside its own rules: a class in two ways.
    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = meta::validate(obj, self.name_rule(), true);
        errors.extend(self.check(obj));
        let class = str_of(at(obj, "/metadata/annotations"), CLASS);
        let named = at(obj, "/spec").get("ingressClassName").and_then(Value::as_str);
        if has(at(obj, "/metadata/annotations"), CLASS) && named.is_some_and(|named| named != class) {
            let path = Path::new("annotations").child(CLASS);
            let detail = "must match `ingressClassName` when both are specified";
            errors.push(invalid(&path, class, detail));
        }
        errors
    }

    fn check_update(&self, new: &Value, _old: &Value, sub: Option<&str>) -> ErrorList {
        if sub == Some("status") {
            service::load_balancer_status(at(new, "/status/loadBalancer"), service::Modes::Unknown)
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
        let ports = if list(spec, "tls").is_empty() { "80" } else { "80, 443" };
        vec![
            json!(access::name(obj)),
            print::text_or_none(spec, "/ingressClassName"),
            json!(hosts(list(spec, "rules"))),
            json!(print::balanced(obj).join(",")),
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

/// The first hosts of an Ingress. What is left out is counted in rules, with a host or without.
fn hosts(rules: &[Value]) -> String {
    const SHOWN_MAX: usize = 3;
    let named = |rule: &&Value| !str_of(rule, "host").is_empty();
    let shown: Vec<&str> = rules
        .iter()
        .filter(named)
        .map(|r| str_of(r, "host"))
        .take(SHOWN_MAX)
        .collect();
    let last = rules.iter().enumerate().filter(|(_, r)| named(r)).nth(SHOWN_MAX - 1);
    match last {
        _ if shown.is_empty() => "*".to_owned(),
        Some((at, _)) if at + 1 < rules.len() => {
            format!("{} + {} more...", shown.join(","), rules.len() - SHOWN_MAX)
        }
        _ => shown.join(","),
    }
}

fn domain(errors: &mut ErrorList, path: &Path, host: &str) {
    let messages = if host.contains('*') {
        names::wildcard_dns1123_subdomain(host)
    } else {
        names::dns1123_subdomain(host)
    };
    check::each(errors, path, host, messages);
}

fn ingress_rule(errors: &mut ErrorList, path: &Path, rule: &Value) {
    let host = str_of(rule, "host");
    if !host.is_empty() {
        if host.parse::<std::net::IpAddr>().is_ok() {
            errors.push(invalid(
                &path.child("host"),
                host,
                "must be a DNS name, not an IP address",
            ));
        }
        domain(errors, &path.child("host"), host);
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
        if ingress_path(errors, &path, entry) {
            backend(errors, &path.child("backend"), get(entry, "backend"));
        }
    }
}

/// A path of a rule. Without a type there is nothing more to say about it.
fn ingress_path(errors: &mut ErrorList, path: &Path, entry: &Value) -> bool {
    const INNER: &[&str] = &["//", "/./", "/../", "%2f", "%2F"];
    let place = str_of(entry, "path");
    let at = path.child("path");
    if str_of(entry, "pathType").is_empty() {
        errors.push(required(&path.child("pathType"), "pathType must be specified"));
        return false;
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
    true
}

fn backend(errors: &mut ErrorList, path: &Path, backend: &Value) {
    let (service, resource) = (get(backend, "service"), get(backend, "resource"));
    match (service.is_object(), resource.is_object()) {
        (true, true) => errors.push(invalid(path, "", "cannot set both resource and service backends")),
        (false, false) => errors.push(invalid(path, "", "resource or service backend is required")),
        (false, true) => typed_reference(errors, &path.child("resource"), resource),
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

/// Group, kind and name of another object.
fn typed_reference(errors: &mut ErrorList, path: &Path, reference: &Value) {
    if has(reference, "apiGroup") {
        check::dns_subdomain(errors, &path.child("apiGroup"), str_of(reference, "apiGroup"));
    }
    for key in ["kind", "name"] {
        match str_of(reference, key) {
            "" => errors.push(required(&path.child(key), "")),
            value => check::each(errors, &path.child(key), value, names::path_segment(value)),
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
        check::domain_prefixed_path(&mut errors, &at_controller, controller);
        let p = at(obj, "/spec/parameters");
        if p.is_object() {
            let path = path.child("parameters");
            typed_reference(&mut errors, &path, p);
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
                ("Namespace", true) => check::dns_label(&mut errors, &path.child("namespace"), str_of(p, "namespace")),
                _ => {}
            }
        }
        errors
    }

    fn check_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("spec").child("controller");
        check::immutable(
            &mut errors,
            &path,
            new.pointer("/spec/controller"),
            old.pointer("/spec/controller"),
        );
        errors.extend(self.check(new));
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
                check::one_of(&mut errors, &at_types.index(i), kind, &["Ingress", "Egress"]);
            }
        }
        errors
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
            for (i, rule) in list(at(obj, "/spec"), direction).iter().enumerate() {
                for (j, peer) in list(rule, peers).iter().enumerate() {
                    let path = Path::new("spec")
                        .child(direction)
                        .index(i)
                        .child(peers)
                        .index(j)
                        .child("ipBlock");
                    let block = get(peer, "ipBlock");
                    out.extend(check::cidr_warning(&path.child("cidr"), str_of(block, "cidr")));
                    for (k, except) in strings(block, "except").iter().enumerate() {
                        out.extend(check::cidr_warning(&path.child("except").index(k), except));
                    }
                }
            }
        }
        out
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
    let (number, end, at) = (get(port, "port"), int_of(port, "endPort"), path.child("endPort"));
    let stray = match number {
        Value::Null => Some("may not be specified when `port` is not specified"),
        Value::String(_) => Some("may not be specified when `port` is non-numeric"),
        _ => None,
    };
    if let (Some(detail), Some(end)) = (stray, end) {
        errors.push(invalid(&at, end, detail));
    }
    if !number.is_null() {
        check::port_or_name(errors, &path.child("port"), number);
    }
    if let (None, Some(end), Some(first)) = (stray, end, number.as_i64()) {
        if end < first {
            errors.push(invalid(&at, first, "must be greater than or equal to `port`"));
        }
        check::port(errors, &at, end);
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
        count += 1;
        ip_block(errors, &path.child("ipBlock"), block);
    }
    match count {
        0 => errors.push(required(path, "must specify a peer")),
        1 => {}
        _ if block.is_object() => errors.push(forbidden(path, "may not specify both ipBlock and another peer")),
        _ => {}
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
        check::cidr(errors, &at, except);
        let outside = |inner: (_, u8)| inner.1 <= outer.1 || !contains(outer, inner.0);
        if check::parse_cidr(except).is_some_and(outside) {
            errors.push(invalid(&at, *except, "must be a strict subset of `cidr`"));
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

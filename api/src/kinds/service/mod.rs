//! Services. Addresses and node ports are given out by the API server; here is everything that needs no state.

mod cells;
mod change;
mod families;

use crate::field::{ErrorList, Path, duplicate, forbidden, invalid, not_supported, required};
use crate::kinds::access::{
    self, at, child, each_mut, get, has, int_of, list, remove, set, set_default, set_text_default, str_of, text,
};
use crate::kinds::check::{self, strings};
use crate::kinds::print::{self, AGE, NAME, shown, wide};
use crate::kinds::{Column, Rules, StatusRule, meta, tidy};
use crate::schema::choices::PROTOCOLS;
pub use families::{not_special, related_fields};

use cells::{external_ips, ports_text};
use change::{
    cluster_ips_change, drop_what_the_type_has_not, health_check_port_change, keep_allocated,
    load_balancer_class_change, normalise_cluster_ips,
};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Longest client address affinity.
const AFFINITY_SECONDS_MAX: i64 = 86_400;

/// The rules of Services.
pub struct Service;

impl Rules for Service {
    fn looks_at_metadata_again(&self) -> bool {
        false
    }

    fn fill(&self, obj: &mut Value) {
        const PLAIN: &[&str] = &[
            "ports",
            "selector",
            "clusterIP",
            "clusterIPs",
            "externalIPs",
            "loadBalancerIP",
            "loadBalancerSourceRanges",
            "externalName",
            "externalTrafficPolicy",
            "healthCheckNodePort",
            "publishNotReadyAddresses",
            "ipFamilies",
            "sessionAffinity",
            "type",
        ];
        tidy::metadata(obj);
        let spec = child(obj, "spec");
        tidy::drop_zero(spec, PLAIN);
        set_text_default(spec, "sessionAffinity", "None");
        match str_of(spec, "sessionAffinity") {
            "ClientIP" => set_default(
                child(child(spec, "sessionAffinityConfig"), "clientIP"),
                "timeoutSeconds",
                10_800,
            ),
            "None" => {
                remove(spec, "sessionAffinityConfig");
            }
            _ => {}
        }
        set_text_default(spec, "type", "ClusterIP");
        each_mut(spec, "ports").for_each(default_port);
        if externally_accessible(spec) {
            set_text_default(spec, "externalTrafficPolicy", "Cluster");
        }
        if ["ClusterIP", "NodePort", "LoadBalancer"].contains(&str_of(spec, "type")) {
            set_default(spec, "internalTrafficPolicy", "Cluster");
        }
        if str_of(spec, "type") == "LoadBalancer" {
            set_default(spec, "allocateLoadBalancerNodePorts", true);
        }
        let balanced = text(obj, "/spec/type") == "LoadBalancer";
        let status = child(child(obj, "status"), "loadBalancer");
        for ingress in each_mut(status, "ingress").filter(|i| balanced && !str_of(i, "ip").is_empty()) {
            set_text_default(ingress, "ipMode", "VIP");
        }
    }

    fn on_create(&self, obj: &mut Value) {
        set(obj, "status", json!({"loadBalancer": {}}));
        let spec = child(obj, "spec");
        if !str_of(spec, "clusterIP").is_empty() && list(spec, "clusterIPs").is_empty() {
            let ip = str_of(spec, "clusterIP").to_owned();
            set(spec, "clusterIPs", json!([ip]));
        }
    }

    fn on_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        if sub.is_some() {
            return;
        }
        let old_spec = at(old, "/spec");
        let spec = child(new, "spec");
        keep_allocated(spec, old_spec);
        normalise_cluster_ips(spec, old_spec);
        drop_what_the_type_has_not(spec, old_spec);
        if str_of(old_spec, "type") == "LoadBalancer" && str_of(at(new, "/spec"), "type") != "LoadBalancer" {
            set(new, "status", json!({"loadBalancer": {}}));
        }
    }

    fn check(&self, obj: &Value) -> ErrorList {
        check_service(obj)
    }

    fn check_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> ErrorList {
        if sub == Some("status") {
            let status = at(new, "/status/loadBalancer");
            return if text(new, "/spec/type") == "LoadBalancer" || list(status, "ingress").is_empty() {
                load_balancer_status(status, Modes::Required)
            } else {
                let path = Path::new("status").child("loadBalancer").child("ingress");
                vec![forbidden(&path, "may only be used when `spec.type` is 'LoadBalancer'")].into()
            };
        }
        let related = related_fields(at(new, "/spec"));
        if !related.is_empty() {
            return related;
        }
        let mut errors = ErrorList::new();
        cluster_ips_change(&mut errors, at(new, "/spec"), at(old, "/spec"));
        load_balancer_class_change(&mut errors, at(new, "/spec"), at(old, "/spec"));
        load_balancer_class(&mut errors, &Path::new("spec"), at(new, "/spec"));
        health_check_port_change(&mut errors, at(new, "/spec"), at(old, "/spec"));
        errors.extend(check_service(new));
        errors
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        let (path, spec) = (Path::new("spec"), at(obj, "/spec"));
        let mut out = Vec::new();
        for key in ["clusterIPs", "externalIPs"] {
            if key == "externalIPs" && !list(spec, key).is_empty() {
                out.push("spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned());
            }
            for (i, ip) in strings(spec, key).iter().enumerate() {
                out.extend(check::ip_warning(&path.child(key).index(i), ip));
            }
        }
        let ip = str_of(spec, "loadBalancerIP");
        out.extend(check::ip_warning(&path.child("loadBalancerIP"), ip));
        for (i, range) in strings(spec, "loadBalancerSourceRanges").iter().enumerate() {
            out.extend(check::cidr_warning(
                &path.child("loadBalancerSourceRanges").index(i),
                range,
            ));
        }
        let external = str_of(spec, "type") == "ExternalName";
        if external && !list(spec, "externalIPs").is_empty() {
            out.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
        }
        if !external && !str_of(spec, "externalName").is_empty() {
            out.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
        }
        out
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[
            NAME,
            shown("Type", "string", "How the service is exposed."),
            shown("Cluster-IP", "string", "Address inside the cluster."),
            shown("External-IP", "string", "Addresses outside the cluster."),
            shown("Port(s)", "string", "Ports of the service."),
            AGE,
            wide("Selector", "string", "Labels of the pods behind the service."),
        ];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let spec = at(obj, "/spec");
        let ip = strings(spec, "clusterIPs").first().copied().unwrap_or("<none>");
        vec![
            json!(access::name(obj)),
            json!(str_of(spec, "type")),
            json!(ip),
            json!(external_ips(obj)),
            json!(ports_text(list(spec, "ports"))),
            print::age(obj, now),
            json!(print::labels(get(spec, "selector"))),
        ]
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["spec.clusterIP", "spec.type"]
    }

    fn selectable(&self, obj: &Value) -> Vec<(&'static str, String)> {
        vec![
            ("spec.clusterIP", text(obj, "/spec/clusterIP").to_owned()),
            ("spec.type", text(obj, "/spec/type").to_owned()),
        ]
    }

    fn name_rule(&self) -> meta::NameRule {
        meta::NameRule::Label
    }

    fn status_rule(&self) -> StatusRule {
        StatusRule::Separate
    }
}

fn default_port(port: &mut Value) {
    tidy::drop_zero(port, &["name", "nodePort", "protocol"]);
    set_text_default(port, "protocol", "TCP");
    let target = get(port, "targetPort");
    if target.is_null() || *target == json!(0) || *target == json!("") {
        let number = int_of(port, "port").unwrap_or(0);
        set(port, "targetPort", number);
    }
}

fn externally_accessible(spec: &Value) -> bool {
    match str_of(spec, "type") {
        "LoadBalancer" | "NodePort" => true,
        "ClusterIP" => !list(spec, "externalIPs").is_empty(),
        _ => false,
    }
}

fn needs_cluster_ip(spec: &Value) -> bool {
    str_of(spec, "type") != "ExternalName"
}

fn needs_node_port(spec: &Value) -> bool {
    match str_of(spec, "type") {
        "NodePort" => true,
        "LoadBalancer" => get(spec, "allocateLoadBalancerNodePorts").as_bool() != Some(false),
        _ => false,
    }
}

/// Whether the service has a node port for health checks.
pub fn needs_health_check_port(spec: &Value) -> bool {
    str_of(spec, "type") == "LoadBalancer" && str_of(spec, "externalTrafficPolicy") == "Local"
}

fn is_headless(spec: &Value) -> bool {
    strings(spec, "clusterIPs") == ["None"]
}

fn check_service(obj: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (path, spec) = (Path::new("spec"), at(obj, "/spec"));
    let kind = str_of(spec, "type");
    topology(&mut errors, at(obj, "/metadata/annotations"));
    if list(spec, "ports").is_empty() && !is_headless(spec) && kind != "ExternalName" {
        errors.push(required(&path.child("ports"), ""));
    }
    match kind {
        "LoadBalancer" | "NodePort" if is_headless(spec) => {
            let detail = format!("may not be set to 'None' for {kind} services");
            errors.push(invalid(&path.child("clusterIPs").index(0), "None", detail));
        }
        "ExternalName" => external_name(&mut errors, &path, spec),
        _ => {}
    }
    ports(&mut errors, &path.child("ports"), spec);
    check::labels(&mut errors, &path.child("selector"), spec, "selector");
    affinity(&mut errors, &path, spec);
    errors.extend(related_fields(spec));
    for (i, ip) in strings(spec, "externalIPs").iter().enumerate() {
        let at = path.child("externalIPs").index(i);
        let before = errors.len();
        check::ip(&mut errors, &at, ip);
        if errors.len() == before {
            not_special(&mut errors, &at, ip);
        }
    }
    let types = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    check::required_one_of(&mut errors, &path.child("type"), kind, &types);
    duplicate_ports(&mut errors, &path.child("ports"), spec, kind);
    load_balancer(&mut errors, &path, obj, spec, kind);
    traffic_policies(&mut errors, &path, spec);
    errors
}

/// The old and the new name of one annotation.
fn topology(errors: &mut ErrorList, annotations: &Value) {
    const OLD: &str = "service.kubernetes.io/topology-aware-hints";
    const NEW: &str = "service.kubernetes.io/topology-mode";
    if has(annotations, OLD) && has(annotations, NEW) && str_of(annotations, OLD) != str_of(annotations, NEW) {
        let path = Path::new("metadata").child("annotations").key(NEW);
        let detail = format!("must match annotations[{OLD}] when both are specified");
        errors.push(invalid(&path, str_of(annotations, NEW), detail));
    }
}

fn external_name(errors: &mut ErrorList, path: &Path, spec: &Value) {
    for key in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        if spec.get(key).is_some_and(|v| !access::is_empty(v)) {
            errors.push(forbidden(&path.child(key), "may not be set for ExternalName services"));
        }
    }
    let name = str_of(spec, "externalName");
    match name.strip_suffix('.').unwrap_or(name) {
        "" => errors.push(required(&path.child("externalName"), "")),
        name => check::dns_subdomain(errors, &path.child("externalName"), name),
    }
}

fn ports(errors: &mut ErrorList, path: &Path, spec: &Value) {
    let all = list(spec, "ports");
    let mut seen = BTreeSet::new();
    for (i, port) in all.iter().enumerate() {
        let path = path.index(i);
        let name = str_of(port, "name");
        if name.is_empty() {
            if all.len() > 1 {
                errors.push(required(&path.child("name"), ""));
            }
        } else {
            check::dns_label(errors, &path.child("name"), name);
            if !seen.insert(name) {
                errors.push(duplicate(&path.child("name"), name));
            }
        }
        check::port(errors, &path.child("port"), int_of(port, "port").unwrap_or(0));
        check::required_one_of(errors, &path.child("protocol"), str_of(port, "protocol"), PROTOCOLS);
        check::port_or_name(errors, &path.child("targetPort"), get(port, "targetPort"));
        if has(port, "appProtocol") {
            check::qualified(errors, &path.child("appProtocol"), str_of(port, "appProtocol"));
        }
    }
}

fn affinity(errors: &mut ErrorList, path: &Path, spec: &Value) {
    let kind = str_of(spec, "sessionAffinity");
    check::required_one_of(errors, &path.child("sessionAffinity"), kind, &["ClientIP", "None"]);
    let config = path.child("sessionAffinityConfig");
    if kind == "ClientIP" {
        const NEEDED: &str = "when session affinity type is ClientIP";
        let at_seconds = config.child("clientIP").child("timeoutSeconds");
        let client = at(spec, "/sessionAffinityConfig/clientIP");
        if !client.is_object() {
            let place = if has(spec, "sessionAffinityConfig") {
                config.child("clientIP")
            } else {
                config
            };
            errors.push(required(&place, NEEDED));
            return;
        }
        match access::int(spec, "/sessionAffinityConfig/clientIP/timeoutSeconds") {
            None => errors.push(required(&at_seconds, NEEDED)),
            Some(seconds) if !(1..=AFFINITY_SECONDS_MAX).contains(&seconds) => {
                errors.push(invalid(
                    &at_seconds,
                    seconds,
                    format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}"),
                ));
            }
            Some(_) => {}
        }
    } else if kind == "None" && has(spec, "sessionAffinityConfig") {
        errors.push(forbidden(&config, "must not be set when session affinity is None"));
    }
}

fn duplicate_ports(errors: &mut ErrorList, path: &Path, spec: &Value, kind: &str) {
    let (mut node_ports, mut ports) = (BTreeSet::new(), BTreeSet::new());
    let all = list(spec, "ports");
    if kind == "ClusterIP" {
        for (i, _) in all
            .iter()
            .enumerate()
            .filter(|(_, p)| int_of(p, "nodePort").unwrap_or(0) != 0)
        {
            errors.push(forbidden(
                &path.index(i).child("nodePort"),
                "may not be used when `type` is 'ClusterIP'",
            ));
        }
    }
    for (i, port) in all.iter().enumerate() {
        let number = int_of(port, "nodePort").unwrap_or(0);
        if number != 0 && !node_ports.insert((str_of(port, "protocol"), number)) {
            errors.push(duplicate(&path.index(i).child("nodePort"), number));
        }
    }
    for (i, port) in all.iter().enumerate() {
        let (protocol, number) = (str_of(port, "protocol"), int_of(port, "port").unwrap_or(0));
        if !ports.insert((protocol, number)) {
            let shown = format!(
                "{{\"Name\":\"\",\"Protocol\":{},\"AppProtocol\":null,\"Port\":{number},\"TargetPort\":0,\"NodePort\":0}}",
                json!(protocol)
            );
            errors.push(crate::kinds::go::duplicate_shown(&path.index(i), &shown));
        }
    }
}

const ONLY_BALANCED: &str = "may only be used when `type` is 'LoadBalancer'";

fn load_balancer(errors: &mut ErrorList, path: &Path, obj: &Value, spec: &Value, kind: &str) {
    const ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
    let ranges = strings(spec, "loadBalancerSourceRanges");
    let annotations = at(obj, "/metadata/annotations");
    let annotation = str_of(annotations, ANNOTATION).trim();
    if !ranges.is_empty() {
        let at = path.child("LoadBalancerSourceRanges");
        if kind != "LoadBalancer" {
            errors.push(forbidden(&at, ONLY_BALANCED));
        }
        for (i, range) in ranges.iter().enumerate() {
            check::cidr(errors, &at.index(i), range.trim());
        }
    } else if has(annotations, ANNOTATION) {
        let at = Path::new("metadata").child("annotations").key(ANNOTATION);
        if kind != "LoadBalancer" {
            errors.push(forbidden(&at, ONLY_BALANCED));
        }
        let ranges = annotation.split(',').filter(|_| !annotation.is_empty());
        ranges.for_each(|range| check::cidr(errors, &at, range.trim()));
    }
    if has(spec, "allocateLoadBalancerNodePorts") && kind != "LoadBalancer" {
        errors.push(forbidden(&path.child("allocateLoadBalancerNodePorts"), ONLY_BALANCED));
    }
    load_balancer_class(errors, path, spec);
}

fn load_balancer_class(errors: &mut ErrorList, path: &Path, spec: &Value) {
    if !has(spec, "loadBalancerClass") {
        return;
    }
    let at = path.child("loadBalancerClass");
    if str_of(spec, "type") == "LoadBalancer" {
        check::qualified(errors, &at, str_of(spec, "loadBalancerClass"));
    } else {
        errors.push(forbidden(&at, ONLY_BALANCED));
    }
}

fn traffic_policies(errors: &mut ErrorList, path: &Path, spec: &Value) {
    let external = str_of(spec, "externalTrafficPolicy");
    let at = path.child("externalTrafficPolicy");
    if externally_accessible(spec) {
        check::required_one_of(errors, &at, external, &["Cluster", "Local"]);
    } else if !external.is_empty() {
        errors.push(invalid(
            &at,
            external,
            "may only be set for externally-accessible services",
        ));
    }
    let health = int_of(spec, "healthCheckNodePort").unwrap_or(0);
    let at_health = path.child("healthCheckNodePort");
    if health != 0 {
        if needs_health_check_port(spec) {
            check::port(errors, &at_health, health);
        } else {
            let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            errors.push(invalid(&at_health, health, detail));
        }
    }
    let internal = str_of(spec, "internalTrafficPolicy");
    if has(spec, "internalTrafficPolicy") {
        check::one_of(
            errors,
            &path.child("internalTrafficPolicy"),
            internal,
            &["Cluster", "Local"],
        );
    } else if ["ClusterIP", "NodePort", "LoadBalancer"].contains(&str_of(spec, "type")) {
        errors.push(required(&path.child("internalTrafficPolicy"), ""));
    }
    if has(spec, "trafficDistribution") {
        let supported = ["PreferClose", "PreferSameZone", "PreferSameNode"];
        let value = str_of(spec, "trafficDistribution");
        if !supported.contains(&value) {
            errors.push(not_supported(&path.child("trafficDistribution"), value, &supported));
        }
    }
}

/// Whether addresses of a load balancer say how they work.
#[derive(Clone, Copy, PartialEq)]
pub enum Modes {
    Required,
    Unknown,
}

/// `status.loadBalancer` of Services and Ingresses.
pub fn load_balancer_status(status: &Value, modes: Modes) -> ErrorList {
    let mut errors = ErrorList::new();
    for (i, ingress) in list(status, "ingress").iter().enumerate() {
        let path = Path::new("status").child("loadBalancer").child("ingress").index(i);
        let (ip, host) = (str_of(ingress, "ip"), str_of(ingress, "hostname"));
        if !ip.is_empty() {
            check::ip(&mut errors, &path.child("ip"), ip);
        }
        let at_mode = path.child("ipMode");
        match (has(ingress, "ipMode"), ip.is_empty()) {
            _ if modes == Modes::Unknown => {}
            (false, false) => errors.push(required(&at_mode, "must be specified when `ip` is set")),
            (true, true) => errors.push(forbidden(&at_mode, "may not be specified when `ip` is not set")),
            (true, false) => check::one_of(&mut errors, &at_mode, str_of(ingress, "ipMode"), &["Proxy", "VIP"]),
            (false, true) => {}
        }
        if !host.is_empty() {
            check::dns_subdomain(&mut errors, &path.child("hostname"), host);
            if host.parse::<IpAddr>().is_ok() {
                errors.push(invalid(
                    &path.child("hostname"),
                    host,
                    "must be a DNS name, not an IP address",
                ));
            }
        }
    }
    errors
}

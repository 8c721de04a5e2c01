//! What an update of a Service keeps, drops and may not touch.

use super::{externally_accessible, is_headless, needs_cluster_ip, needs_health_check_port, needs_node_port};
use crate::field::{ErrorList, Path, forbidden, invalid};
use crate::kinds::access::{copy, each_mut, get, has, int_of, list, remove, same, set, str_of};
use crate::kinds::check::strings;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// An update that leaves out what was given out keeps it.
pub fn keep_allocated(spec: &mut Value, old: &Value) {
    if needs_cluster_ip(spec) && needs_cluster_ip(old) {
        if str_of(spec, "clusterIP").is_empty() {
            copy(spec, old, "clusterIP");
        }
        for key in ["clusterIPs", "ipFamilies"] {
            if list(spec, key).is_empty() && same_cluster_ip(spec, old) {
                copy(spec, old, key);
            }
        }
        if !has(spec, "ipFamilyPolicy") {
            copy(spec, old, "ipFamilyPolicy");
        }
    }
    if needs_node_port(spec) && needs_node_port(old) {
        keep_node_ports(spec, old);
    }
    if needs_health_check_port(spec)
        && needs_health_check_port(old)
        && int_of(spec, "healthCheckNodePort").unwrap_or(0) == 0
    {
        copy(spec, old, "healthCheckNodePort");
    }
}

fn same_cluster_ip(spec: &Value, old: &Value) -> bool {
    str_of(spec, "clusterIP") == str_of(old, "clusterIP")
}

fn keep_node_ports(spec: &mut Value, old: &Value) {
    let key = |p: &Value| (str_of(p, "protocol").to_owned(), int_of(p, "port"));
    let mut used: BTreeSet<(String, i64)> = list(spec, "ports")
        .iter()
        .map(|p| (str_of(p, "protocol").to_owned(), int_of(p, "nodePort").unwrap_or(0)))
        .collect();
    for port in each_mut(spec, "ports") {
        if int_of(port, "nodePort").unwrap_or(0) != 0 {
            continue;
        }
        let stored = list(old, "ports")
            .iter()
            .find(|o| key(o) == key(port))
            .and_then(|o| int_of(o, "nodePort"))
            .filter(|n| *n != 0);
        if let Some(number) = stored
            && used.insert((str_of(port, "protocol").to_owned(), number))
        {
            set(port, "nodePort", number);
        }
    }
}

/// Keeps `clusterIP` and `clusterIPs` in step for clients that know only one of them.
pub fn normalise_cluster_ips(spec: &mut Value, old: &Value) {
    let unchanged = same(spec.get("clusterIPs"), old.get("clusterIPs"));
    if same_cluster_ip(spec, old) {
        if list(spec, "clusterIPs").is_empty() && !list(old, "clusterIPs").is_empty() {
            copy(spec, old, "clusterIPs");
        }
    } else if str_of(spec, "clusterIP").is_empty() {
        if unchanged {
            remove(spec, "clusterIPs");
        }
    } else if unchanged || list(spec, "clusterIPs").is_empty() {
        let ip = str_of(spec, "clusterIP").to_owned();
        set(spec, "clusterIPs", json!([ip]));
    }
}

/// Drops members that a new type does not have, as long as the client did not change them.
pub fn drop_what_the_type_has_not(spec: &mut Value, old: &Value) {
    let unchanged = |spec: &Value, key: &str| same(spec.get(key), old.get(key));
    if needs_cluster_ip(old) && !needs_cluster_ip(spec) {
        if same_cluster_ip(spec, old) && unchanged(spec, "clusterIPs") {
            remove(spec, "clusterIP");
            remove(spec, "clusterIPs");
        }
        for key in ["ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
            if unchanged(spec, key) {
                remove(spec, key);
            }
        }
    }
    let node_ports = |s: &Value| {
        list(s, "ports")
            .iter()
            .map(|p| int_of(p, "nodePort").unwrap_or(0))
            .collect::<Vec<_>>()
    };
    if needs_node_port(old) && !needs_node_port(spec) && node_ports(old) == node_ports(spec) {
        each_mut(spec, "ports").for_each(|p| {
            remove(p, "nodePort");
        });
    }
    if needs_health_check_port(old) && !needs_health_check_port(spec) && unchanged(spec, "healthCheckNodePort") {
        remove(spec, "healthCheckNodePort");
    }
    if str_of(old, "type") == "LoadBalancer" && str_of(spec, "type") != "LoadBalancer" {
        for key in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if unchanged(spec, key) {
                remove(spec, key);
            }
        }
    }
    if externally_accessible(old) && !externally_accessible(spec) && unchanged(spec, "externalTrafficPolicy") {
        remove(spec, "externalTrafficPolicy");
    }
}

const FIXED: &str = "may not change once set";

/// Objections to a change of addresses: the first stays, and the second goes only when one is asked for.
pub fn cluster_ips_change(errors: &mut ErrorList, new: &Value, old: &Value) {
    let external = |s: &Value| str_of(s, "type") == "ExternalName";
    if external(new) || external(old) || (is_headless(new) && is_headless(old)) {
        return;
    }
    let (after, before) = (strings(new, "clusterIPs"), strings(old, "clusterIPs"));
    let path = Path::new("spec").child("clusterIPs");
    let shown = get(new, "clusterIPs").clone();
    let first_changed = matches!((after.first(), before.first()), (Some(a), Some(b)) if a != b);
    if after.len() == before.len() {
        for (i, _) in after.iter().zip(&before).enumerate().filter(|(_, (a, b))| a != b) {
            errors.push(invalid(&path.index(i), shown.clone(), FIXED));
        }
    } else {
        if after.is_empty() {
            errors.push(invalid(&path.index(0), json!([]), "primary clusterIP can not be unset"));
        }
        if first_changed {
            errors.push(invalid(&path.index(0), shown, FIXED));
        }
        if after.len() < before.len() && after.len() == 1 {
            released(errors, new, "clusterIP");
        }
    }
    if is_headless(new) == is_headless(old) {
        families_change(errors, new, old);
    }
}

fn released(errors: &mut ErrorList, new: &Value, noun: &str) {
    if str_of(new, "ipFamilyPolicy") != "SingleStack" {
        let detail = format!("must be set to 'SingleStack' when releasing the secondary {noun}");
        let path = Path::new("spec").child("ipFamilyPolicy");
        errors.push(invalid(&path, get(new, "ipFamilyPolicy").clone(), detail));
    }
}

fn families_change(errors: &mut ErrorList, new: &Value, old: &Value) {
    let (after, before) = (strings(new, "ipFamilies"), strings(old, "ipFamilies"));
    let path = Path::new("spec").child("ipFamilies").index(0);
    let shown = get(new, "ipFamilies").clone();
    if after.len() == before.len() {
        for _ in after.iter().zip(&before).filter(|(a, b)| a != b) {
            errors.push(invalid(&path, shown.clone(), FIXED));
        }
        return;
    }
    let shrinks = after.len() < before.len();
    if shrinks && list(new, "clusterIPs").is_empty() {
        errors.push(invalid(&path, shown, "primary ipFamily can not be unset"));
    }
    if matches!((after.first(), before.first()), (Some(a), Some(b)) if a != b) {
        errors.push(invalid(&path, get(new, "clusterIPs").clone(), FIXED));
    }
    if shrinks && after.len() == 1 {
        released(errors, new, "ipFamily");
    }
}

/// The port for health checks is given out once.
pub fn health_check_port_change(errors: &mut ErrorList, new: &Value, old: &Value) {
    let both = needs_health_check_port(new) && needs_health_check_port(old);
    if both && int_of(new, "healthCheckNodePort") != int_of(old, "healthCheckNodePort") {
        let path = Path::new("spec").child("healthCheckNodePort");
        errors.push(forbidden(&path, "field is immutable"));
    }
}

/// Objections to a change.
pub fn load_balancer_class_change(errors: &mut ErrorList, new: &Value, old: &Value) {
    let balanced = |s: &Value| str_of(s, "type") == "LoadBalancer";
    if balanced(new) && balanced(old) && !same(new.get("loadBalancerClass"), old.get("loadBalancerClass")) {
        errors.push(invalid(
            &Path::new("spec").child("loadBalancerClass"),
            get(new, "loadBalancerClass").clone(),
            FIXED,
        ));
    }
}

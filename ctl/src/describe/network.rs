//! Services, what is behind them, Ingresses and NetworkPolicies.

use serde_json::Value;

use super::parts::{annotations, head, labels, or_none, or_unset, shown, utc};
use super::writer::Writer;
use crate::pods::{list, selector_text, text};

/// A Service with the addresses behind each of its ports.
pub fn service(out: &mut Writer, object: &Value, slices: &[Value]) {
    head(out, object);
    labels(out, 0, "Labels", object.pointer("/metadata/labels"));
    annotations(out, 0, object.pointer("/metadata/annotations"));
    let selector = object.pointer("/spec/selector").map(selector_text).unwrap_or_default();
    out.pair(0, "Selector", or_none(&selector));
    out.pair(0, "Type", text(object, "/spec/type"));
    if !text(object, "/spec/ipFamilyPolicy").is_empty() {
        out.pair(0, "IP Family Policy", text(object, "/spec/ipFamilyPolicy"));
    }
    let joined = |pointer: &str| {
        list(object, pointer)
            .iter()
            .filter_map(Value::as_str)
            .collect::<Vec<_>>()
            .join(",")
    };
    out.pair(0, "IP Families", or_none(&joined("/spec/ipFamilies")));
    out.pair(0, "IP", text(object, "/spec/clusterIP"));
    out.pair(0, "IPs", or_none(&joined("/spec/clusterIPs")));
    if !joined("/spec/externalIPs").is_empty() {
        out.pair(0, "External IPs", &joined("/spec/externalIPs"));
    }
    for (name, pointer) in [
        ("Desired LoadBalancer IP", "/spec/loadBalancerIP"),
        ("External Name", "/spec/externalName"),
    ] {
        if !text(object, pointer).is_empty() {
            out.pair(0, name, text(object, pointer));
        }
    }
    let ingress: Vec<String> = list(object, "/status/loadBalancer/ingress")
        .iter()
        .map(|ingress| {
            let address = if text(ingress, "/ip").is_empty() {
                text(ingress, "/hostname")
            } else {
                text(ingress, "/ip")
            };
            let mode = text(ingress, "/ipMode");
            if mode.is_empty() {
                address.to_owned()
            } else {
                format!("{address} ({mode})")
            }
        })
        .collect();
    if !ingress.is_empty() {
        out.pair(0, "LoadBalancer Ingress", &ingress.join(", "));
    }
    for port in list(object, "/spec/ports") {
        let name = if text(port, "/name").is_empty() {
            "<unset>"
        } else {
            text(port, "/name")
        };
        let protocol = text(port, "/protocol");
        out.line(0, &format!("Port:\t{name}\t{}/{protocol}", shown(&port["port"])));
        out.pair(0, "TargetPort", &format!("{}/{protocol}", shown(&port["targetPort"])));
        if let Some(node_port) = port["nodePort"].as_i64() {
            out.line(0, &format!("NodePort:\t{name}\t{node_port}/{protocol}"));
        }
        out.pair(0, "Endpoints", &endpoints(slices, text(port, "/name")));
    }
    out.pair(0, "Session Affinity", text(object, "/spec/sessionAffinity"));
    for (name, pointer) in [
        ("External Traffic Policy", "/spec/externalTrafficPolicy"),
        ("Internal Traffic Policy", "/spec/internalTrafficPolicy"),
    ] {
        if !text(object, pointer).is_empty() {
            out.pair(0, name, text(object, pointer));
        }
    }
}

/// At most three addresses are shown.
fn endpoints(slices: &[Value], port: &str) -> String {
    let mut found = Vec::new();
    for slice in slices {
        for number in list(slice, "/ports").iter().filter(|p| text(p, "/name") == port) {
            for endpoint in list(slice, "/endpoints")
                .iter()
                .filter(|e| e.pointer("/conditions/ready") != Some(&Value::Bool(false)))
            {
                for address in list(endpoint, "/addresses").iter().filter_map(Value::as_str) {
                    let address = if address.contains(':') {
                        format!("[{address}]")
                    } else {
                        address.to_owned()
                    };
                    found.push(format!("{address}:{}", shown(&number["port"])));
                }
            }
        }
    }
    let more = found.len().saturating_sub(3);
    found.truncate(3);
    let shown = found.join(",");
    if more > 0 {
        format!("{shown} + {more} more...")
    } else {
        or_none(&shown).to_owned()
    }
}

/// The texts of a list, joined.
fn joined(object: &Value, pointer: &str, by: &str) -> String {
    let words: Vec<String> = list(object, pointer).iter().map(shown).collect();
    words.join(by)
}

/// An Ingress with the addresses behind its backends.
pub fn ingress(out: &mut Writer, object: &Value, slices: &[Value], services: &[Value]) {
    out.pair(0, "Name", text(object, "/metadata/name"));
    labels(out, 0, "Labels", object.pointer("/metadata/labels"));
    out.pair(0, "Namespace", text(object, "/metadata/namespace"));
    let addresses: Vec<&str> = list(object, "/status/loadBalancer/ingress")
        .iter()
        .map(|one| {
            if text(one, "/ip").is_empty() {
                text(one, "/hostname")
            } else {
                text(one, "/ip")
            }
        })
        .collect();
    out.pair(0, "Address", &addresses.join(","));
    out.pair(0, "Ingress Class", or_none(text(object, "/spec/ingressClassName")));
    let default = match object.pointer("/spec/defaultBackend") {
        Some(backend) => behind(backend, slices, services),
        None => "<default>".to_owned(),
    };
    out.pair(0, "Default backend", &default);
    let tls = list(object, "/spec/tls");
    if !tls.is_empty() {
        out.line(0, "TLS:");
        for row in tls {
            let (secret, hosts) = (text(row, "/secretName"), joined(row, "/hosts", ","));
            if secret.is_empty() {
                out.line(1, &format!("SNI routes {hosts}"));
            } else {
                out.line(1, &format!("{secret} terminates {hosts}"));
            }
        }
    }
    out.line(0, "Rules:");
    out.line(1, "Host\tPath\tBackends");
    out.line(1, "----\t----\t--------");
    let mut count = 0;
    for rule in list(object, "/spec/rules") {
        let host = text(rule, "/host");
        let paths = list(rule, "/http/paths");
        count += paths.len();
        if !paths.is_empty() {
            out.line(1, &format!("{}\t", if host.is_empty() { "*" } else { host }));
        }
        for path in paths {
            out.line(
                2,
                &format!(
                    "\t{} \t{}",
                    text(path, "/path"),
                    behind(&path["backend"], slices, services)
                ),
            );
        }
    }
    if count == 0 {
        out.line(1, &format!("*\t*\t{default}"));
    }
    annotations(out, 0, object.pointer("/metadata/annotations"));
}

/// `web:80 (10.0.0.1:80)`.
fn behind(backend: &Value, slices: &[Value], services: &[Value]) -> String {
    if let Some(resource) = backend.get("resource") {
        return format!(
            "APIGroup: {}, Kind: {}, Name: {}",
            or_none(text(resource, "/apiGroup")),
            text(resource, "/kind"),
            text(resource, "/name")
        );
    }
    let (name, port) = (text(backend, "/service/name"), &backend["service"]["port"]);
    let port_text = if port["number"].is_null() {
        text(port, "/name").to_owned()
    } else {
        shown(&port["number"])
    };
    let Some(service) = services.iter().find(|service| text(service, "/metadata/name") == name) else {
        return format!("{name}:{port_text} (<error: services \"{name}\" not found>)");
    };
    let row = list(service, "/spec/ports")
        .iter()
        .find(|row| row["port"] == port["number"] || (port["name"].is_string() && row["name"] == port["name"]));
    let own: Vec<Value> = slices
        .iter()
        .filter(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == name)
        .cloned()
        .collect();
    format!(
        "{name}:{port_text} ({})",
        endpoints(&own, row.map_or("", |row| text(row, "/name")))
    )
}

/// An IngressClass.
pub fn ingress_class(out: &mut Writer, object: &Value) {
    out.pair(0, "Name", text(object, "/metadata/name"));
    labels(out, 0, "Labels", object.pointer("/metadata/labels"));
    annotations(out, 0, object.pointer("/metadata/annotations"));
    out.pair(0, "Controller", text(object, "/spec/controller"));
    if let Some(parameters) = object.pointer("/spec/parameters") {
        out.line(0, "Parameters:");
        for (name, pointer) in [("APIGroup", "/apiGroup"), ("Kind", "/kind"), ("Name", "/name")] {
            if !text(parameters, pointer).is_empty() {
                out.pair(1, name, text(parameters, pointer));
            }
        }
    }
}

fn port_table(out: &mut Writer, level: usize, ports: &[Value]) {
    out.line(level, "Name\tPort\tProtocol");
    out.line(level, "----\t----\t--------");
    for port in ports {
        let number = if port["port"].is_null() {
            "<unset>".to_owned()
        } else {
            shown(&port["port"])
        };
        out.line(
            level,
            &format!(
                "{}\t{number}\t{}",
                or_unset(text(port, "/name")),
                text(port, "/protocol")
            ),
        );
    }
}

/// An Endpoints object.
pub fn endpoints_object(out: &mut Writer, object: &Value) {
    head(out, object);
    labels(out, 0, "Labels", object.pointer("/metadata/labels"));
    annotations(out, 0, object.pointer("/metadata/annotations"));
    out.line(0, "Subsets:");
    for subset in list(object, "/subsets") {
        for (name, pointer) in [("Addresses", "/addresses"), ("NotReadyAddresses", "/notReadyAddresses")] {
            let addresses: Vec<&str> = list(subset, pointer).iter().map(|one| text(one, "/ip")).collect();
            out.pair(1, name, or_none(&addresses.join(",")));
        }
        if !list(subset, "/ports").is_empty() {
            out.line(1, "Ports:");
            port_table(out, 2, list(subset, "/ports"));
        }
        out.line(0, "");
    }
}

/// An EndpointSlice.
pub fn endpoint_slice(out: &mut Writer, object: &Value) {
    head(out, object);
    labels(out, 0, "Labels", object.pointer("/metadata/labels"));
    annotations(out, 0, object.pointer("/metadata/annotations"));
    out.pair(0, "AddressType", text(object, "/addressType"));
    if list(object, "/ports").is_empty() {
        out.line(0, "Ports: <unset>");
    } else {
        out.line(0, "Ports:");
        port_table(out, 1, list(object, "/ports"));
    }
    if list(object, "/endpoints").is_empty() {
        out.line(0, "Endpoints: <none>");
        return;
    }
    out.line(0, "Endpoints:");
    for endpoint in list(object, "/endpoints") {
        out.pair(1, "- Addresses", or_none(&joined(endpoint, "/addresses", ",")));
        out.line(2, "Conditions:");
        let ready = &endpoint["conditions"]["ready"];
        out.pair(
            3,
            "Ready",
            &if ready.is_null() {
                "<unset>".to_owned()
            } else {
                shown(ready)
            },
        );
        out.pair(2, "Hostname", or_unset(text(endpoint, "/hostname")));
        if let Some(target) = endpoint.get("targetRef") {
            out.pair(
                2,
                "TargetRef",
                &format!("{}/{}", text(target, "/kind"), text(target, "/name")),
            );
        }
        out.pair(2, "NodeName", or_unset(text(endpoint, "/nodeName")));
        out.pair(2, "Zone", or_unset(text(endpoint, "/zone")));
    }
}

/// A NetworkPolicy.
pub fn network_policy(out: &mut Writer, object: &Value) {
    head(out, object);
    out.pair(0, "Created on", &utc(text(object, "/metadata/creationTimestamp")));
    labels(out, 0, "Labels", object.pointer("/metadata/labels"));
    annotations(out, 0, object.pointer("/metadata/annotations"));
    out.line(0, "Spec:");
    let selector = selector_text(&object["spec"]["podSelector"]);
    if selector.is_empty() {
        out.line(
            1,
            "PodSelector:     <none> (Allowing the specific traffic to all pods in this namespace)",
        );
    } else {
        out.line(1, &format!("PodSelector:     {selector}"));
    }
    let types = list(object, "/spec/policyTypes");
    let affects = |kind: &str, rules: &str| {
        types.iter().any(|one| *one == kind)
            || (types.is_empty() && (kind == "Ingress" || object["spec"][rules].is_array()))
    };
    for (kind, rules, peers, peer, end) in [
        ("Ingress", "ingress", "/from", "From", "source"),
        ("Egress", "egress", "/to", "To", "destination"),
    ] {
        if affects(kind, rules) {
            out.line(1, &format!("Allowing {rules} traffic:"));
            traffic(out, list(object, &format!("/spec/{rules}")), (peers, peer, end, rules));
        } else {
            out.line(1, &format!("Not affecting {rules} traffic"));
        }
    }
    out.line(
        1,
        &format!("Policy Types: {}", or_none(&joined(object, "/spec/policyTypes", ", "))),
    );
}

fn traffic(out: &mut Writer, rules: &[Value], (peers, peer, end, kind): (&str, &str, &str, &str)) {
    if rules.is_empty() {
        out.line(
            2,
            &format!("<none> (Selected pods are isolated for {kind} connectivity)"),
        );
    }
    for (position, rule) in rules.iter().enumerate() {
        if list(rule, "/ports").is_empty() {
            out.line(2, "To Port: <any> (traffic allowed to all ports)");
        }
        for port in list(rule, "/ports") {
            let protocol = if text(port, "/protocol").is_empty() {
                "TCP"
            } else {
                text(port, "/protocol")
            };
            let last = port["endPort"].as_i64().map_or(String::new(), |end| format!("-{end}"));
            let number = if port["port"].is_null() {
                "<any>".to_owned()
            } else {
                shown(&port["port"])
            };
            out.line(2, &format!("To Port: {number}{last}/{protocol}"));
        }
        if list(rule, peers).is_empty() {
            out.line(2, &format!("{peer}: <any> (traffic not restricted by {end})"));
        }
        for one in list(rule, peers) {
            out.line(2, &format!("{peer}:"));
            for (name, key) in [
                ("NamespaceSelector", "namespaceSelector"),
                ("PodSelector", "podSelector"),
            ] {
                if one[key].is_object() {
                    out.line(3, &format!("{name}: {}", or_none(&selector_text(&one[key]))));
                }
            }
            if let Some(block) = one.get("ipBlock") {
                out.line(3, "IPBlock:");
                out.line(4, &format!("CIDR: {}", text(block, "/cidr")));
                out.line(4, &format!("Except: {}", joined(block, "/except", ", ")));
            }
        }
        if position + 1 < rules.len() {
            out.line(2, "----------");
        }
    }
}

//! How Services show their ports and addresses in tables.

use crate::kinds::access::{at, int_of, str_of};
use crate::kinds::check::strings;
use crate::kinds::print;
use serde_json::Value;

pub(super) fn ports_text(ports: &[Value]) -> String {
    let shown: Vec<String> = ports
        .iter()
        .map(|p| {
            let (port, node, protocol) = (
                int_of(p, "port").unwrap_or(0),
                int_of(p, "nodePort").unwrap_or(0),
                str_of(p, "protocol"),
            );
            if node == 0 {
                format!("{port}/{protocol}")
            } else {
                format!("{port}:{node}/{protocol}")
            }
        })
        .collect();
    print::or_none(shown.join(","))
}

pub(super) fn external_ips(obj: &Value) -> String {
    let spec = at(obj, "/spec");
    let mut own = strings(spec, "externalIPs");
    match str_of(spec, "type") {
        "ExternalName" => str_of(spec, "externalName").to_owned(),
        "LoadBalancer" => {
            let mut balanced = print::balanced(obj);
            balanced.append(&mut own);
            if balanced.is_empty() {
                "<pending>".to_owned()
            } else {
                balanced.join(",")
            }
        }
        "ClusterIP" | "NodePort" => print::or_none(own.join(",")),
        _ => "<unknown>".to_owned(),
    }
}

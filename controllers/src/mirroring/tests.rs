use std::sync::Arc;

use coxswain_client::k8s_openapi::api::core::v1::Endpoints;
use serde_json::{Value, json};

use super::plan::{plan, wants_mirror};

fn endpoints(metadata: Value, subsets: Value) -> Endpoints {
    let mut value = json!({"metadata": {"name": "e", "namespace": "n", "uid": "u"}, "subsets": subsets});
    value["metadata"]
        .as_object_mut()
        .expect("metadata")
        .extend(metadata.as_object().expect("metadata").clone());
    serde_json::from_value(value).expect("endpoints")
}

#[test]
fn slices_repeat_the_subsets() {
    let check = |subsets: Value, expected: Value| {
        let made = plan(Some(&endpoints(json!({}), subsets.clone())), Vec::new());
        let shown: Vec<Value> = made
            .create
            .iter()
            .map(|slice| {
                let addresses: Vec<Value> = slice
                    .endpoints
                    .iter()
                    .flatten()
                    .map(|e| json!([e.addresses[0], e.conditions.as_ref().and_then(|c| c.ready)]))
                    .collect();
                let ports: Vec<_> = slice.ports.iter().flatten().filter_map(|p| p.port).collect();
                json!([slice.address_type, ports, addresses])
            })
            .collect();
        assert_eq!(json!(shown), expected, "{subsets}");
    };
    check(json!([]), json!([]));
    check(
        json!([{"addresses": [{"ip": "10.0.0.1"}], "notReadyAddresses": [{"ip": "10.0.0.2"}], "ports": [{"port": 80}]}]),
        json!([["IPv4", [80], [["10.0.0.1", true], ["10.0.0.2", false]]]]),
    );
    check(
        json!([{"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "ports": [{"port": 80}]},
            {"addresses": [{"ip": "10.0.0.3"}], "ports": [{"port": 81}]}]),
        json!([
            ["IPv4", [80], [["10.0.0.1", true]]],
            ["IPv4", [81], [["10.0.0.3", true]]],
            ["IPv6", [80], [["fd00::1", true]]]
        ]),
    );
    check(
        json!([{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]},
            {"addresses": [{"ip": "10.0.0.2"}], "ports": [{"port": 80}]}]),
        json!([["IPv4", [80], [["10.0.0.1", true], ["10.0.0.2", true]]]]),
    );
}

#[test]
fn existing_slices_are_kept_changed_or_dropped() {
    let of = |ip: &str| endpoints(json!({}), json!([{"addresses": [{"ip": ip}], "ports": [{"port": 80}]}]));
    let made = plan(Some(&of("10.0.0.1")), Vec::new()).create;
    let mut slice = made.first().expect("a slice").clone();
    slice.metadata.name = Some("e-abc".to_string());
    let slices = || vec![Arc::new(slice.clone())];
    let counts = |endpoints: Option<&Endpoints>| {
        let plan = plan(endpoints, slices());
        (plan.create.len(), plan.update.len(), plan.delete.len())
    };
    assert_eq!(counts(Some(&of("10.0.0.1"))), (0, 0, 0));
    assert_eq!(counts(Some(&of("10.0.0.2"))), (0, 1, 0));
    assert_eq!(counts(None), (0, 0, 1));
    let other = endpoints(
        json!({}),
        json!([{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 81}]}]),
    );
    assert_eq!(counts(Some(&other)), (1, 0, 1));
}

#[test]
fn some_are_left_alone() {
    let check = |metadata: Value, expected: bool| {
        assert_eq!(
            wants_mirror(&endpoints(metadata.clone(), json!([]))),
            expected,
            "{metadata}"
        );
    };
    check(json!({}), true);
    check(
        json!({"labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}}),
        false,
    );
    check(
        json!({"annotations": {"control-plane.alpha.kubernetes.io/leader": "{}"}}),
        false,
    );
}

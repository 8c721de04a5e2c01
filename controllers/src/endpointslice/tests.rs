use std::sync::Arc;

use coxswain_client::k8s_openapi::api::core::v1::{Pod, Service};
use coxswain_client::k8s_openapi::api::discovery::v1::EndpointSlice;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::plan::{ENDPOINTS_MAX, Plan, plan};

fn service(spec: Value) -> Service {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "n", "uid": "s", "labels": {"team": "x"}}, "spec": spec}))
    .expect("a service")
}

fn plain() -> Service {
    service(
        json!({"clusterIP": "10.96.0.9", "ipFamilies": ["IPv4"], "selector": {"a": "b"},
        "ports": [{"name": "http", "port": 80, "targetPort": "web"}]}),
    )
}

fn pod(index: usize, port: i32, ready: bool) -> Arc<Pod> {
    let value = json!({
        "metadata": {"name": format!("p{index}"), "namespace": "n", "uid": format!("u{index}")},
        "spec": {"nodeName": "one", "hostname": "h", "subdomain": "web",
            "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": port}]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": format!("10.0.{}.{}", index / 250, index % 250 + 1)}],
            "conditions": [{"type": "Ready", "status": if ready {"True"} else {"False"}}]}});
    Arc::new(serde_json::from_value(value).expect("a pod"))
}

/// Plans and carries it out.
fn turn(service: &Service, pods: &[Arc<Pod>], slices: &mut Vec<Arc<EndpointSlice>>, made: &mut usize) -> Plan {
    let zone = |_: &str| Some("z1".to_string());
    let done = plan(service, pods.to_vec(), slices.clone(), &zone);
    slices.retain(|s| !done.delete.iter().any(|d| d.metadata.name == s.metadata.name));
    for (old, new) in &done.update {
        if let Some(place) = slices.iter_mut().find(|s| s.metadata.name == old.metadata.name) {
            *place = Arc::new(new.clone());
        }
    }
    for slice in &done.create {
        *made += 1;
        let mut slice = slice.clone();
        slice.metadata.name = Some(format!("web-{made}"));
        slices.push(Arc::new(slice));
    }
    done
}

fn is_empty(plan: &Plan) -> bool {
    plan.create.is_empty() && plan.update.is_empty() && plan.delete.is_empty()
}

#[test]
fn a_slice_in_full() {
    let (mut slices, mut made) = (Vec::new(), 0);
    turn(&plain(), &[pod(0, 8080, true)], &mut slices, &mut made);
    let expected = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "generateName": "web-", "namespace": "n",
            "labels": {"team": "x", "kubernetes.io/service-name": "web",
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": "web", "uid": "s",
                "controller": true, "blockOwnerDeletion": true}]},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.0.0.1"], "hostname": "h", "nodeName": "one", "zone": "z1",
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "targetRef": {"kind": "Pod", "namespace": "n", "name": "p0", "uid": "u0"}}]});
    assert_eq!(json!(slices.first().map(|s| &**s)), expected);
}

#[test]
fn no_pods_one_empty_slice() {
    let (mut slices, mut made) = (Vec::new(), 0);
    turn(&plain(), &[], &mut slices, &mut made);
    assert_eq!(slices.len(), 1);
    assert!(is_empty(&turn(&plain(), &[], &mut slices, &mut made)));
    turn(&plain(), &[pod(0, 80, false)], &mut slices, &mut made);
    assert_eq!(slices.len(), 1);
    let external = service(json!({"type": "ExternalName", "externalName": "x", "selector": {"a": "b"}}));
    turn(&external, &[pod(0, 80, true)], &mut slices, &mut made);
    assert!(slices.is_empty());
}

#[test]
fn headless_without_ports() {
    let headless = service(json!({"clusterIP": "None", "selector": {"a": "b"}}));
    let (mut slices, mut made) = (Vec::new(), 0);
    turn(&headless, &[pod(0, 80, true)], &mut slices, &mut made);
    let slice = json!(slices.first().map(|s| &**s));
    assert_eq!(slice["metadata"]["labels"]["service.kubernetes.io/headless"], "");
    assert_eq!(slice["endpoints"][0]["hostname"], "h");
    assert_eq!(slice["ports"], Value::Null);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn every_ready_pod_once_and_then_nothing_to_do(
        rounds in proptest::collection::vec(proptest::collection::vec((0usize..260, any::<bool>(), any::<bool>()), 0..260), 1..4)
    ) {
        let (mut slices, mut made) = (Vec::new(), 0);
        for round in rounds {
            let mut pods: Vec<Arc<Pod>> = Vec::new();
            for (index, other_port, ready) in round {
                let pod = pod(index, if other_port { 8080 } else { 9090 }, ready);
                if !pods.iter().any(|p| p.metadata.uid == pod.metadata.uid) {
                    pods.push(pod);
                }
            }
            turn(&plain(), &pods, &mut slices, &mut made);
            let shown: usize = slices.iter().map(|s| s.endpoints.as_ref().map_or(0, Vec::len)).sum();
            prop_assert_eq!(shown, pods.len());
            prop_assert!(slices.iter().all(|s| s.endpoints.as_ref().map_or(0, Vec::len) <= ENDPOINTS_MAX));
            let again = turn(&plain(), &pods, &mut slices, &mut made);
            prop_assert!(is_empty(&again), "{again:?}");
        }
    }
}

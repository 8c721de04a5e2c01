//! What Tables say of objects in many states: an object and the cells it is shown with, ages left out.

use crate::registry::Registry;
use serde_json::{Value, json};

/// An object of a resource, and its cells from the second on up to the first that is not listed.
struct Shown {
    resource: (&'static str, &'static str),
    object: Value,
    cells: Value,
}

/// A pod with two init containers, the second of which keeps running, and two containers, in this status.
fn pod(status: Value) -> Value {
    json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}],
        "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]}, "status": status})
}

#[test]
fn cells() {
    let done = json!({"name": "i", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}, "restartCount": 4});
    let running = |name: &str| json!({"name": name, "ready": true, "started": true, "state": {"running": {}}});
    let balanced = json!([{"hostname": "z.example"}, {"ip": "192.0.2.9"}, {"ip": "192.0.2.1"}, {"ip": "192.0.2.9"}]);
    let table = [
        Shown {
            resource: ("", "pods"),
            object: pod(json!({"phase": "Pending", "initContainerStatuses": [
                {"name": "i", "state": {"waiting": {"reason": "PodInitializing"}}}]})),
            cells: json!(["0/3", "Init:0/2", "0"]),
        },
        Shown {
            resource: ("", "pods"),
            object: pod(json!({"phase": "Pending", "initContainerStatuses": [
                {"name": "i", "restartCount": 2, "state": {"terminated": {"exitCode": 1}}}]})),
            cells: json!(["0/3", "Init:ExitCode:1", "2"]),
        },
        Shown {
            resource: ("", "pods"),
            object: pod(
                json!({"phase": "Running", "initContainerStatuses": [done, running("s")],
                "containerStatuses": [running("a"), {"name": "b", "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
            ),
            cells: json!(["2/3", "CrashLoopBackOff", "3"]),
        },
        // Init containers that run again in a pod that was initialized: their restarts do not count.
        Shown {
            resource: ("", "pods"),
            object: pod(
                json!({"phase": "Running", "conditions": [{"type": "Initialized", "status": "True"}],
                "initContainerStatuses": [{"name": "i", "restartCount": 5, "state": {"running": {}}}],
                "containerStatuses": [{"name": "a", "restartCount": 1, "state": {"waiting": {}}}]}),
            ),
            cells: json!(["0/3", "Init:0/2", "1"]),
        },
        Shown {
            resource: ("", "services"),
            object: json!({"spec": {"type": "LoadBalancer", "clusterIPs": ["192.0.2.7"], "externalIPs": ["192.0.2.8"],
                "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}]}, "status": {"loadBalancer": {"ingress": balanced}}}),
            cells: json!([
                "LoadBalancer",
                "192.0.2.7",
                "192.0.2.1,192.0.2.9,z.example,192.0.2.8",
                "80:30080/TCP"
            ]),
        },
        Shown {
            resource: ("networking.k8s.io", "ingresses"),
            object: json!({"spec": {"rules": [{"host": "a"}, {"host": "b"}, {"host": "c"}, {"http": {}}], "tls": [{}]},
                "status": {"loadBalancer": {"ingress": balanced}}}),
            cells: json!([
                "<none>",
                "a,b,c + 1 more...",
                "192.0.2.1,192.0.2.9,z.example",
                "80, 443"
            ]),
        },
        Shown {
            resource: ("networking.k8s.io", "ingresses"),
            object: json!({"spec": {"rules": [{}, {"host": "a"}, {}, {"host": "b"}, {"host": "c"}]}}),
            cells: json!(["<none>", "a,b,c", "", "80"]),
        },
        Shown {
            resource: ("", "endpoints"),
            object: json!({"subsets": [{"addresses": [{"ip": "192.0.2.1"}, {"ip": "::1"}], "ports": [{"port": 80}, {"port": 81}]}]}),
            cells: json!(["192.0.2.1:80,[::1]:80,192.0.2.1:81 + 1 more..."]),
        },
        Shown {
            resource: ("", "endpoints"),
            object: json!({"subsets": [{"notReadyAddresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 80}]}]}),
            cells: json!([""]),
        },
        Shown {
            resource: ("discovery.k8s.io", "endpointslices"),
            object: json!({"addressType": "IPv4", "ports": [{"name": "web"}, {"port": 1}, {}], "endpoints": []}),
            cells: json!(["IPv4", "web,1,*", "<unset>"]),
        },
        Shown {
            resource: ("", "persistentvolumeclaims"),
            object: json!({"metadata": {"annotations": {"volume.beta.kubernetes.io/storage-class": "old"}},
                "spec": {"volumeName": "v", "storageClassName": "new"}, "status": {"phase": "Bound", "accessModes": ["ReadWriteMany"]}}),
            cells: json!(["Bound", "v", "0", "RWX", "old", "<unset>"]),
        },
        Shown {
            resource: ("certificates.k8s.io", "certificatesigningrequests"),
            object: json!({"spec": {"signerName": "a/b", "username": "u", "expirationSeconds": 3600},
                "status": {"conditions": [{"type": "Approved"}, {"type": "Denied"}, {"type": "Failed"}]}}),
            cells: json!([null, "a/b", "u", "60m", "Denied,Failed"]),
        },
        Shown {
            resource: ("autoscaling", "horizontalpodautoscalers"),
            object: json!({"spec": {"scaleTargetRef": {"kind": "D", "name": "d"}, "maxReplicas": 3, "metrics": [
                {"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}},
                {"type": "External", "external": {"metric": {"name": "q"}, "target": {"type": "AverageValue", "averageValue": "5"}}},
                {"type": "Pods", "pods": {"metric": {"name": "p"}, "target": {"type": "AverageValue", "averageValue": "7"}}}]},
                "status": {"currentReplicas": 1, "currentMetrics": [{"type": "Resource", "resource": {"name": "memory", "current": {"averageValue": "5Mi"}}}]}}),
            cells: json!(["D/d", "memory: 5Mi/1Gi, <unknown>/5 (avg) + 1 more...", "<unset>", 3, 1]),
        },
        Shown {
            resource: ("admissionregistration.k8s.io", "validatingadmissionpolicybindings"),
            object: json!({"spec": {"policyName": "p", "paramRef": {"name": "x"}}}),
            cells: json!(["p", "*/x"]),
        },
        Shown {
            resource: ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings"),
            object: json!({"spec": {"policyName": "p", "paramRef": {"selector": {"matchLabels": {"a": "b"},
                "matchExpressions": [{"key": "k", "operator": "In", "values": ["x", "y"]}]}}}}),
            cells: json!([
                "p",
                "&LabelSelector{MatchLabels:map[string]string{a: b,},MatchExpressions:[]LabelSelectorRequirement{LabelSelectorRequirement{Key:k,Operator:In,Values:[x y],},},}"
            ]),
        },
    ];
    let registry = Registry::builtin();
    let now = jiff::Timestamp::UNIX_EPOCH;
    for case in table {
        let (group, plural) = case.resource;
        let row = ["v2", "v1"]
            .into_iter()
            .find_map(|v| registry.resource(group, v, plural))
            .expect("a built-in resource");
        let cells = row.rules.row(&case.object, now);
        for (i, expected) in case.cells.as_array().into_iter().flatten().enumerate() {
            if !expected.is_null() {
                assert_eq!(cells.get(i + 1), Some(expected), "{plural}: {}", case.object);
            }
        }
    }
}

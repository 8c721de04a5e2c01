//! One line for each rule of the other kinds that the table over all kinds has no room for.

use super::changes::{CHANGED, Changed, change};
use super::refusals::{Refused, all_refused, clustered, job, named};
use serde_json::{Value, json};

fn claim(spec: Value) -> Value {
    let mut claim =
        named(json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}));
    crate::patch::merge_patch(&mut claim, &json!({"spec": spec})).expect("a patch");
    claim
}

fn stateful(spec: Value) -> Value {
    let mut set = named(json!({"spec": {
        "serviceName": "s",
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"hostname": "A_", "containers": [
            {"name": "c", "image": "i", "volumeMounts": [{"name": "data", "mountPath": "/d"}]}]}},
        "volumeClaimTemplates": [{"metadata": {"name": "data"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}],
    }}));
    crate::patch::merge_patch(&mut set, &json!({"spec": spec})).expect("a patch");
    set
}

/// A resource, a new object of it, and what is said against that.
type Case = (
    (&'static str, &'static str, &'static str),
    Value,
    &'static [&'static str],
);

#[test]
#[rustfmt::skip] // one line per case
fn refusals() {
    let core = |plural| ("", "v1", plural);
    let table: Vec<Case> = vec![
        (("apps", "v1", "statefulsets"), stateful(json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}]})),
            &["spec.volumeClaimTemplates[0].spec.resources[storage]: Required value"]),
        (("apps", "v1", "statefulsets"), stateful(json!({"volumeClaimTemplates": null, "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Odd"}})), &[
            "spec.persistentVolumeClaimRetentionPolicy.whenDeleted: Unsupported value: \"Odd\": supported values: \"Retain\", \"Delete\"",
            "spec.template.spec.containers[0].volumeMounts[0].name: Not found: \"data\"",
        ]),
        (("apps", "v1", "statefulsets"), stateful(json!({"serviceName": "A_b"})), &["spec.serviceName: Invalid value: \"A_b\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"]),
        (("apps", "v1", "controllerrevisions"), named(json!({"revision": 1, "data": [1]})), &["data: Required value: data must be a valid JSON object"]),
        (core("services"), named(json!({"spec": {"ports": [{"port": 80}], "trafficDistribution": "Odd"}})), &["spec.trafficDistribution: Unsupported value: \"Odd\": supported values: \"PreferClose\", \"PreferSameZone\", \"PreferSameNode\""]),
        (core("endpoints"), named(json!({"subsets": [{"addresses": [{"ip": "10.0.0"}]}]})), &[
            "subsets[0].addresses[0].ip: Invalid value: \"10.0.0\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            "subsets[0].addresses[0].ip: Invalid value: \"10.0.0\": must be a valid IP address",
        ]),
        (core("nodes"), clustered(json!({"status": {"declaredFeatures": ["B", "A", "a"], "nodeInfo": {"swap": {"capacity": 0}}}})), &[
            "metadata.nodeSwapStatus.capacity: Invalid value: 0: must be greater than zero",
            "status.declaredFeatures[1]: Invalid value: \"A\": list must be sorted alphabetically",
            "status.declaredFeatures[2]: Invalid value: \"a\": invalid feature name \"a\": must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes",
        ]),
        (core("persistentvolumes"), clustered(json!({"spec": {"capacity": {"storage": "-1"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/d"}}})), &[
            "spec.capacity[storage]: Invalid value: -1: must be a valid resource quantity",
            "spec.capacity[storage]: Invalid value: \"-1\": must be greater than zero",
        ]),
        (("batch", "v1", "jobs"), job(json!({"successPolicy": {"rules": [{"succeededCount": 1}]}})), &["spec.successPolicy: Invalid value: {\"Rules\":[{\"SucceededIndexes\":null,\"SucceededCount\":1}]}: requires indexed completion mode"]),
    ];
    let refused = |(resource, body, expected)| Refused { resource, body, expected };
    all_refused(table.into_iter().map(refused).collect());
}

#[test]
#[rustfmt::skip] // one line per case
fn changes() {
    let suspended = || job(json!({"suspend": true}));
    let status = Some("status");
    let table = [
        Changed { resource: ("apps", "statefulsets"), stored: stateful(json!({})), patch: json!({"spec": {"replicas": 2}}), leaves: &[("/spec/replicas", "2")], ..CHANGED },
        Changed { resource: ("apps", "statefulsets"), stored: stateful(json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 2}}})), patch: json!({}), leaves: &[("/spec/updateStrategy/rollingUpdate", "{\"partition\":0}")], ..CHANGED },
        // Nobody knows of sources but claims and snapshots under the old name, nor of other namespaces.
        Changed { resource: ("", "persistentvolumeclaims"), stored: claim(json!({"dataSource": {"apiGroup": "a.b", "kind": "K", "name": "n"}})), patch: json!({}), leaves: &[("/spec/dataSource", "null"), ("/spec/dataSourceRef", "null")], ..CHANGED },
        Changed { resource: ("", "persistentvolumeclaims"), stored: claim(json!({"dataSourceRef": {"apiGroup": "a.b", "kind": "K", "name": "n", "namespace": "m"}})), patch: json!({}), leaves: &[("/spec/dataSourceRef", "null")], ..CHANGED },
        Changed { resource: ("", "persistentvolumeclaims"), sub: status, stored: claim(json!({})), patch: json!({"status": {"allocatedResources": {"cpu": "1"}, "allocatedResourceStatuses": {"storage": "Odd"}}}), refused: &[
            "status.allocatedResourceStatuses: Unsupported value: \"storage\": supported values: \"ControllerResizeInProgress\", \"ControllerResizeInfeasible\", \"NodeResizeInProgress\", \"NodeResizeInfeasible\", \"NodeResizePending\"",
            "status.allocatedResources: Unsupported value: \"cpu\": supported values: \"storage\"",
        ], ..CHANGED },
        Changed { resource: ("batch", "jobs"), stored: suspended(), patch: json!({"spec": {"template": {"metadata": {"annotations": {"a": "b"}}, "spec": {"nodeSelector": {"a": "b"}}}}}), leaves: &[("/spec/template/spec/nodeSelector", "{\"a\":\"b\"}")], ..CHANGED },
        Changed { resource: ("batch", "jobs"), sub: status, stored: job(json!({"suspend": false})), patch: json!({"status": {"startTime": "2024-01-02T00:00:00Z", "completionTime": "2024-01-01T00:00:00Z"}}), refused: &[
            "status.completionTime: Invalid value: \"2024-01-01T00:00:00Z\": cannot set completionTime when there is no Complete=True condition",
            "status.completionTime: Invalid value: \"2024-01-01T00:00:00Z\": must be equal to or after `startTime`",
        ], ..CHANGED },
        // A write of a whole node is looked at twice.
        Changed { resource: ("", "nodes"), stored: clustered(json!({})), patch: json!({"spec": {"taints": [{"key": "a", "effect": ""}]}}), refused: &["metadata.taints[0].effect: Required value", "metadata.taints[0].effect: Required value"], ..CHANGED },
    ];
    table.iter().for_each(change);
}

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
        (("autoscaling", "v2", "horizontalpodautoscalers"), named(json!({"spec": {"maxReplicas": 2, "scaleTargetRef": {"apiVersion": "v1", "kind": "D", "name": "d"}, "metrics": [
            {"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"value": "0", "averageValue": "-1"}}}]}})), &[
            "spec.scaleTargetRef.apiVersion: Invalid value: \"v1\": apiVersion must specify API group",
            "spec.metrics[0].pods.target.type: Required value: must specify a metric target type",
            "spec.metrics[0].pods.target.type: Invalid value: \"\": must be either Utilization, Value, or AverageValue",
            "spec.metrics[0].pods.target.value: Invalid value: \"0\": must be positive",
            "spec.metrics[0].pods.target.averageValue: Invalid value: \"-1\": must be positive",
            "spec.metrics[0].pods.target.averageValue: Required value: must specify a positive target averageValue",
        ]),
        (("autoscaling", "v1", "horizontalpodautoscalers"), named(json!({"spec": {"maxReplicas": 2, "scaleTargetRef": {"apiVersion": "v1", "kind": "ReplicationController", "name": "d"}}})), &[]),
        (("storage.k8s.io", "v1", "csinodes"), clustered(json!({"spec": {"drivers": [
            {"name": "a.b", "nodeID": "n", "topologyKeys": ["k", "k", ""]}, {"name": "a.b", "nodeID": ""}]}})), &[
            "spec.drivers[0]: Duplicate value: \"k\"",
            "spec.drivers[0]: Required value",
            "spec.drivers[0]: Invalid value: \"\": name part must be non-empty",
            "spec.drivers[0]: Invalid value: \"\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            "spec.drivers[1].nodeID: Required value",
            "spec.drivers[1].name: Duplicate value: \"a.b\"",
        ]),
        (("storage.k8s.io", "v1", "csidrivers"), clustered(json!({"spec": {"volumeLifecycleModes": ["Odd"], "nodeAllocatableUpdatePeriodSeconds": 5, "tokenRequests": [{"audience": "a"}, {"audience": "a", "expirationSeconds": 1}]}})), &[
            "spec.tokenRequests[1].audience: Duplicate value: \"a\"",
            "spec.volumeLifecycleModes: Unsupported value: \"Odd\": supported values: \"Persistent\", \"Ephemeral\"",
            "spec.nodeAllocatableUpdatePeriodSeconds: Invalid value: 5: must be greater than or equal to 10 seconds",
        ]),
        (("storage.k8s.io", "v1", "volumeattachments"), clustered(json!({"spec": {"attacher": "a.b", "nodeName": "n", "source": {"inlineVolumeSpec": {
            "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1"}, "persistentVolumeReclaimPolicy": "Delete", "volumeMode": "Block", "hostPath": {"path": "/d"}}}}})), &[
            "spec.source.inlineVolumeSpec.capacity: Forbidden: may not be specified in the context of inline volumes",
            "spec.source.inlineVolumeSpec.csi: Required value: has to be specified in the context of inline volumes",
            "spec.source.inlineVolumeSpec.persistentVolumeReclaimPolicy: Forbidden: may only be Retain in the context of inline volumes",
            "spec.source.inlineVolumeSpec.volumeMode: Forbidden: may not specify volumeMode other than Filesystem in the context of inline volumes",
        ]),
        (("storage.k8s.io", "v1", "csistoragecapacities"), named(json!({"storageClassName": "c", "nodeTopology": {"matchExpressions": [{"key": "k", "operator": "In"}]}, "maximumVolumeSize": "-1"})), &["nodeTopology.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'"]),
        (("networking.k8s.io", "v1", "servicecidrs"), clustered(json!({"spec": {"cidrs": ["10.0.0.0/24", "10.0.1.0/24"]}})), &["spec.cidrs: Invalid value: {\"CIDRs\":[\"10.0.0.0/24\",\"10.0.1.0/24\"]}: may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"]),
        (("discovery.k8s.io", "v1", "endpointslices"), named(json!({"addressType": "FQDN", "endpoints": [{"addresses": ["a.b.", "local"]}]})), &["endpoints[0].addresses[1]: Invalid value: \"local\": should be a domain with at least two segments separated by dots"]),
        (("admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations"), clustered(json!({"webhooks": [{"name": "a.b.c", "sideEffects": "None",
            "clientConfig": {"url": "https://h"}, "admissionReviewVersions": ["v1", "v1"], "namespaceSelector": {"matchLabels": {"a_": "b"}},
            "rules": [{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*", "pods/*", "pods/log", "pods"]}],
            "matchConditions": [{"name": "", "expression": " "}]}]})), &[
            "webhooks[0].rules[0].resources[2]: Invalid value: \"pods/log\": if 'pods/*' is present, must not specify pods/log",
            "webhooks[0].rules[0].resources: Invalid value: [\"*\",\"pods/*\",\"pods/log\",\"pods\"]: if '*' is present, must not specify other resources without subresources",
            "webhooks[0].namespaceSelector.matchLabels: Invalid value: \"a_\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            "webhooks[0].matchConditions[0].expression: Required value",
            "webhooks[0].matchConditions[0].name: Required value",
            "webhooks[0].admissionReviewVersions[1]: Invalid value: \"v1\": duplicate version",
        ]),
        (("admissionregistration.k8s.io", "v1", "validatingadmissionpolicies"), clustered(json!({"spec": {
            "matchConstraints": {"resourceRules": [{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"], "resourceNames": ["a", "a"]}]},
            "validations": [{"expression": "true", "messageExpression": " ", "message": " ", "reason": "Unauthorized"}], "auditAnnotations": [{"key": "k l"}]}})), &[
            "spec.matchConstraints.resourceRules[0].resourceNames[1]: Duplicate value: \"a\"",
            "spec.validations[0].messageExpression: Invalid value: \" \": must be non-empty if specified",
            "spec.validations[0].message: Invalid value: \" \": message must be non-empty if specified",
            "spec.validations[0].reason: Unsupported value: \"Unauthorized\": supported values: \"Forbidden\", \"Invalid\", \"RequestEntityTooLarge\"",
            "spec.auditAnnotations[0].key: Invalid value: \"x/k l\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            "spec.auditAnnotations[0].valueExpression: Required value: valueExpression is not specified",
        ]),
        (("admissionregistration.k8s.io", "v1", "validatingadmissionpolicybindings"), clustered(json!({"spec": {"policyName": "p", "validationActions": ["Deny"], "paramRef": {"name": "n", "selector": {}, "parameterNotFoundAction": "Odd"}}})), &[
            "spec.paramRef.name: Forbidden: name and selector are mutually exclusive",
            "spec.paramRef.selector: Forbidden: name and selector are mutually exclusive",
            "spec.paramRef.parameterNotFoundAction: Unsupported value: \"Odd\": supported values: \"Deny\", \"Allow\"",
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
        // How much a driver can take may change; the rest of it may not.
        Changed { resource: ("storage.k8s.io", "csinodes"), stored: clustered(json!({"spec": {"drivers": [{"name": "a.b", "nodeID": "n", "topologyKeys": null}]}})), patch: json!({"spec": {"drivers": [{"name": "a.b", "nodeID": "n", "topologyKeys": null, "allocatable": {"count": 2}}]}}), leaves: &[("/spec/drivers/0/allocatable/count", "2")], ..CHANGED },
        Changed { resource: ("storage.k8s.io", "csinodes"), stored: clustered(json!({"spec": {"drivers": [{"name": "a.b", "nodeID": "n", "topologyKeys": null}]}})), patch: json!({"spec": {"drivers": [{"name": "a.b", "nodeID": "m", "topologyKeys": null}]}}), refused: &["spec.drivers: Invalid value: {\"Name\":\"a.b\",\"NodeID\":\"m\",\"TopologyKeys\":null,\"Allocatable\":null}: field is immutable"], ..CHANGED },
        Changed { resource: ("storage.k8s.io", "volumeattachments"), sub: status, stored: clustered(json!({"spec": {"attacher": "a.b", "nodeName": "n", "source": {"persistentVolumeName": "v"}}})), patch: json!({"status": {"attachError": {"errorCode": -1}}}), refused: &[
            "status.attachError.errorCode: Invalid value: -1: must be between 0 and 2147483647, inclusive",
            "status.attachError.errorCode: Invalid value: -1: must be between 0 and 2147483647, inclusive",
        ], ..CHANGED },
        Changed { resource: ("policy", "poddisruptionbudgets"), sub: status, stored: named(json!({"spec": {}})), patch: json!({"status": {"conditions": [{"type": "A", "status": "Odd"}], "expectedPods": -1}}), refused: &[
            "status.conditions[0].status: Unsupported value: \"Odd\": supported values: \"False\", \"True\", \"Unknown\"",
            "status.conditions[0].lastTransitionTime: Required value: must be set",
            "status.conditions[0].reason: Required value: must be set",
            "status.expectedPods: Invalid value: -1: must be greater than or equal to 0",
        ], ..CHANGED },
        Changed { resource: ("networking.k8s.io", "servicecidrs"), stored: clustered(json!({"spec": {"cidrs": ["10.0.0.0/24"]}})), patch: json!({"spec": {"cidrs": ["10.0.0.0/24", "2001:db8::/64"]}}), leaves: &[("/spec/cidrs/1", "\"2001:db8::/64\"")], ..CHANGED },
        Changed { resource: ("networking.k8s.io", "servicecidrs"), stored: clustered(json!({"spec": {"cidrs": ["10.0.0.0/24"]}})), patch: json!({"spec": {"cidrs": ["10.0.1.0/24"]}}), refused: &["spec.cidrs[0]: Invalid value: \"10.0.1.0/24\": field is immutable"], ..CHANGED },
        Changed { resource: ("certificates.k8s.io", "certificatesigningrequests"), sub: Some("approval"), stored: clustered(json!({"spec": {"request": "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KQUE9PQotLS0tLUVORCBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0K", "usages": ["any"], "signerName": "a.b/c"}})), patch: json!({"status": {"conditions": [{"type": "Approved", "status": "False"}, {"type": "Denied", "status": "True"}, {"type": "Odd", "status": "No"}]}}), refused: &[
            "status.conditions[0].status: Unsupported value: \"False\": supported values: \"True\"",
            "status.conditions: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive",
            "status.conditions[2].status: Unsupported value: \"No\": supported values: \"False\", \"True\", \"Unknown\"",
        ], ..CHANGED },
        // A write of a whole node is looked at twice.
        Changed { resource: ("", "nodes"), stored: clustered(json!({})), patch: json!({"spec": {"taints": [{"key": "a", "effect": ""}]}}), refused: &["metadata.taints[0].effect: Required value", "metadata.taints[0].effect: Required value"], ..CHANGED },
    ];
    table.iter().for_each(change);
}

#[test]
fn scaled_things_of_no_group_stay() {
    use crate::kinds::{Rules, autoscale::Autoscaler};
    let scaler = |version: &str, max: u32| {
        named(json!({"apiVersion": "autoscaling/v2", "spec": {
            "maxReplicas": max, "scaleTargetRef": {"apiVersion": version, "kind": "D", "name": "d"}}}))
    };
    for (new, old, count) in [("", "a/v1", 1), ("", "v1", 0), ("a/v1", "a/v1", 0)] {
        let errors = Autoscaler.check_update(&scaler(new, 3), &scaler(old, 2), None);
        assert_eq!(errors.len(), count, "{old} to {new}: {errors:?}");
    }
}

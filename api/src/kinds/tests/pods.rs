//! What is said against pods: one line for each rule that the table over all kinds has no room for.

use super::changes::{CHANGED, Changed, change};
use super::refusals::{Refused, all_refused, pod_spec, pod_with, volume_of};
use serde_json::{Value, json};

fn init(container: Value) -> Value {
    let pod = pod_with(container);
    let mut init = pod["spec"]["containers"][0].clone();
    init["name"] = json!("i");
    pod_spec(json!({"initContainers": [init]}))
}

fn file_of(volume: Value) -> Value {
    let variable = json!({"name": "A", "valueFrom": {"fileKeyRef": {"volumeName": "v", "path": "a/b", "key": "k"}}});
    pod_spec(json!({"volumes": [volume], "containers": [{"name": "c", "image": "i", "env": [variable]}]}))
}

#[test]
#[rustfmt::skip] // one line per case
fn pods() {
    let table: Vec<(Value, &'static [&'static str])> = vec![
        (volume_of(json!({"gcePersistentDisk": {"pdName": ""}})), &["spec.volumes[0].persistentDisk.pdName: Required value"]),
        (volume_of(json!({"emptyDir": {}, "downwardAPI": {}})), &["spec.volumes[0].downwarAPI: Forbidden: may not specify more than 1 volume type"]),
        (volume_of(json!({"emptyDir": {}, "cephfs": {"monitors": ["a"]}})), &["spec.volumes[0].cephFS: Forbidden: may not specify more than 1 volume type"]),
        (volume_of(json!({"iscsi": {"targetPortal": "p".repeat(63), "iqn": "eui.0123456789abcdef", "lun": 1, "initiatorName": "eui.0123456789abcdef"}})),
            &["spec.volumes[0].name: Invalid value: \"v\": Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified."]),
        (volume_of(json!({"image": {}})), &["spec.volumes[0].image.reference: Required value"]),
        (file_of(json!({"name": "w", "emptyDir": {}})), &["spec.containers[0].env[0].valueFrom.fileKeyRef.volumeName: Not found: \"v\""]),
        (file_of(json!({"name": "v", "hostPath": {"path": "/"}})), &["spec.containers[0].env[0].valueFrom.fileKeyRef.volumeName: Invalid value: \"v\": referenced volume must be of type emptyDir"]),
        (pod_with(json!({"env": [{"name": "A", "valueFrom": {"fileKeyRef": {"volumeName": "V", "path": "../b", "key": "k="}}}]})), &[
            "spec.containers[0].env[0].valueFrom.fileKeyRef.key: Invalid value: \"k=\": a valid environment variable name must consist only of printable ASCII characters other than '='",
            "spec.containers[0].env[0].valueFrom.fileKeyRef.volumeName: Invalid value: \"V\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
            "spec.containers[0].env[0].valueFrom.fileKeyRef.path: Invalid value: \"../b\": must not contain '..'",
            "spec.containers[0].env[0].valueFrom.fileKeyRef.volumeName: Not found: \"V\"",
        ]),
        (pod_with(json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "['x']"}}}]})), &["spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"['x']\": error converting fieldPath: field label not supported: ['x']"]),
        (pod_with(json!({"readinessProbe": {"tcpSocket": {"port": ""}}})), &[
            "spec.containers[0].readinessProbe.tcpSocket.port: Invalid value: \"\": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
            "spec.containers[0].readinessProbe.tcpSocket.port: Invalid value: \"\": must contain at least one letter (a-z)",
        ]),
        (init(json!({"resizePolicy": [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]})), &["spec.initContainers[0].resizePolicy[0].restartPolicy: Invalid value: \"RestartContainer\": must not be set to 'RestartContainer' for non-sidecar initContainers"]),
        (pod_spec(json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "i", "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]}]})),
            &["spec.containers[0].resizePolicy: Invalid value: \"RestartContainer\": must be 'NotRequired' when pod `restartPolicy` is 'Never'"]),
        (pod_spec(json!({"hostUsers": false, "hostPID": true, "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}],
            "containers": [{"name": "c", "image": "i", "volumeDevices": [{"name": "v", "devicePath": "/d"}]}]})), &[
            "spec.HostPID: Forbidden: when `hostUsers` is false",
            "spec.containers[0].volumeDevices: Forbidden: when `hostUsers` is false",
        ]),
        (pod_spec(json!({"hostnameOverride": "a".repeat(65), "setHostnameAsFQDN": true, "hostNetwork": true})), &[
            "spec.hostnameOverride: Forbidden: may not be specified when setHostnameAsFQDN is true",
            "spec.hostnameOverride: Forbidden: may not be specified when hostNetwork is true",
            "spec.hostnameOverride: Too long: may not be more than 64 bytes",
        ]),
        (pod_spec(json!({"tolerations": [{"key": "a", "operator": "Lt", "value": "5"}]})), &["spec.tolerations[0].operator: Unsupported value: \"Lt\": supported values: \"Equal\", \"Exists\", \"Lt\", \"Gt\""]),
        (pod_spec(json!({"os": {"name": "windows"}, "resources": {"requests": {"cpu": "1"}}})), &["spec.resources: Forbidden: may not be set for a windows pod"]),
        (pod_spec(json!({"os": {"name": ""}})), &["spec.os.name: Required value"]),
        (pod_spec(json!({"resources": {"limits": {"cpu": "1", "hugepages-2Mi": "2Mi"}}, "containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "1", "hugepages-2Mi": "4Mi"}}}]})), &[
            "spec.resources.requests[hugepages-2Mi]: Invalid value: \"2Mi\": must be greater than or equal to aggregate container requests of 4Mi",
            "spec.resources.limits[hugepages-2Mi]: Invalid value: \"2Mi\": must be greater than or equal to aggregate container limits of 4Mi",
            "spec.resources.containers[0][hugepages-2Mi].limits: Invalid value: \"4Mi\": must be less than or equal to pod limits of 2Mi",
        ]),
        (pod_spec(json!({"dnsConfig": {"searches": ["a_.b"]}})), &["spec.dnsConfig.searches[0]: Invalid value: \"a_.b\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')"]),
        // Let through: a name that ends like a beginning, and a claim that nobody asked for.
        (pod_with(json!({"envFrom": [{"configMapRef": {"name": "a-"}}], "image": ""})), &["spec.containers[0].image: Required value"]),
    ];
    let of_pods = |(body, expected)| Refused { resource: ("", "v1", "pods"), body, expected };
    all_refused(table.into_iter().map(of_pods).collect());
}

/// A change of a stored pod through a subresource, and what is said against it.
type Change = (&'static str, Value, Value, &'static [&'static str]);

#[test]
#[rustfmt::skip] // one line per case
fn changes_of_pods() {
    let limited = |name: &str, cpu: &str| json!({"name": name, "image": "i", "resources": {"limits": {"cpu": cpu}}});
    let two = || pod_spec(json!({"containers": [limited("c", "1")], "initContainers": [limited("i", "1")]}));
    let table: [Change; 12] = [
        ("resize", two(), json!({"spec": {"containers": [limited("d", "1")]}}), &["spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize"]),
        ("resize", two(), json!({"spec": {"initContainers": []}}), &["spec.initContainers: Forbidden: initContainers may not be added or removed on resize"]),
        ("resize", two(), json!({"spec": {"initContainers": [limited("i", "2")]}}), &[]),
        ("resize", two(), json!({"spec": {"containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "1", "memory": "1"}}, "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]}]}}),
            &["spec: Forbidden: only cpu and memory resources are mutable"]),
        ("resize", pod_spec(json!({"resources": {"requests": {"cpu": "1"}}})), json!({"spec": {"resources": {"requests": null, "limits": {"cpu": "2"}}}}), &[]),
        ("status", pod_spec(json!({"nodeName": "n"})), json!({"status": {"nominatedNodeName": "m"}}), &["status.nominatedNodeName: Forbidden: may not be set on pods that are already bound to a node"]),
        ("status", pod_spec(json!({})), json!({"status": {"observedGeneration": -1, "conditions": [{"type": "a b", "status": "True", "observedGeneration": -1}]}}), &[
            "status.conditions[0].observedGeneration: Invalid value: -1: must be a non-negative integer",
            "status.conditions[0].Type: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            "status.observedGeneration: Invalid value: -1: must be a non-negative integer",
        ]),
        ("status", pod_spec(json!({})), json!({"status": {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.1"}]}}),
            &["status.podIPs: Invalid value: [{\"IP\":\"10.0.0.1\"},{\"IP\":\"10.0.0.1\"}]: may specify no more than one IP for each IP family"]),
        ("status", pod_spec(json!({})), json!({"status": {"containerStatuses": [{"name": "c", "user": {"linux": {"uid": -1, "gid": 0}}, "allocatedResourcesStatus": [{"name": "a.b/c", "resources": [{"resourceID": "1", "health": "Odd"}, {"resourceID": "1"}]}]}]}}), &[
            "status.containerStatuses[0].user.linux.uid: Invalid value: -1: must be between 0 and 2147483647, inclusive",
            "status.containerStatuses[0].allocatedResourcesStatus[0].name: Invalid value: \"a.b/c\": must match one of the container's resource requests",
            "status.containerStatuses[0].allocatedResourcesStatus[0].resources[0].health: Unsupported value: \"Odd\": supported values: \"Healthy\", \"Unhealthy\", \"Unknown\"",
            "status.containerStatuses[0].allocatedResourcesStatus[0].resources[1].health: Unsupported value: \"\": supported values: \"Healthy\", \"Unhealthy\", \"Unknown\"",
            "status.containerStatuses[0].allocatedResourcesStatus[0].resources[1].resourceID: Duplicate value: \"1\"",
        ]),
        ("status", pod_spec(json!({})), json!({"status": {"extendedResourceClaimStatus": {"requestMappings": [{"containerName": "x", "resourceName": "a.b/c", "requestName": "r"}], "resourceClaimName": ""}}}), &[
            "status.extendedResourceClaimStatus.requestMappings[0].containerName: Invalid value: \"x\": must match the name of an entry in spec.initContainers.name or spec.containers.name",
            "status.extendedResourceClaimStatus.resourceClaimName: Required value",
        ]),
        ("", pod_spec(json!({})), json!({"metadata": {"annotations": {"container.apparmor.security.beta.kubernetes.io/c": "unconfined"}}}),
            &["metadata.annotations[container.apparmor.security.beta.kubernetes.io/c]: Forbidden: may not add AppArmor annotations"]),
        ("", pod_spec(json!({})), json!({"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "x"}}}), &[
            "metadata.annotations[controller.kubernetes.io/pod-deletion-cost]: Invalid value: \"x\": must be a 32bit integer",
            "metadata.annotations[controller.kubernetes.io/pod-deletion-cost]: Invalid value: \"x\": must be a 32bit integer",
        ]),
    ];
    for (sub, stored, patch, refused) in table {
        let sub = Some(sub).filter(|sub| !sub.is_empty());
        change(&Changed { resource: ("", "pods"), sub, stored, patch, refused, ..CHANGED });
    }
}

#[test]
fn ended_containers_come_back_as_their_rules_say() {
    let status = |state: Value| json!({"status": {"containerStatuses": [{"name": "c", "state": state}]}});
    let rules = json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]);
    let own = |policy: &str, rules: Value| json!({"name": "c", "image": "i", "restartPolicy": policy, "restartPolicyRules": rules});
    let plain = json!({"name": "c", "image": "i"});
    for (of_pod, container, code, comes_back) in [
        ("Always", &plain, 0, true),
        ("OnFailure", &plain, 0, false),
        ("OnFailure", &plain, 1, true),
        ("Never", &plain, 1, false),
        ("Never", &own("Always", json!([])), 0, true),
        ("Always", &own("Never", json!([])), 0, false),
        ("Never", &own("Never", rules.clone()), 42, true),
        ("Never", &own("Never", rules), 41, false),
    ] {
        let mut pod = pod_spec(json!({"restartPolicy": of_pod, "containers": [container]}));
        crate::kinds::pod::defaults::pod(&mut pod);
        let mut old = pod.clone();
        crate::patch::merge_patch(&mut old, &status(json!({"terminated": {"exitCode": code}}))).expect("a patch");
        crate::patch::merge_patch(&mut pod, &status(json!({"running": {}}))).expect("a patch");
        let errors = crate::kinds::rules_for("", "Pod").check_update(&pod, &old, Some("status"));
        assert_eq!(errors.is_empty(), comes_back, "{of_pod} {container} {code}: {errors:?}");
    }
}

//! What is said against objects: one table over all kinds.

use super::{Answer, create};
use crate::kinds::access::{set, str_of};
use crate::registry::Registry;
use serde_json::{Value, json};

/// A new object, and what is said against it.
pub(super) struct Refused {
    pub(super) resource: (&'static str, &'static str, &'static str),
    pub(super) body: Value,
    pub(super) expected: &'static [&'static str],
}

pub(super) fn pod_with(container: Value) -> Value {
    let mut c = json!({"name": "c", "image": "i"});
    for (key, value) in container.as_object().into_iter().flatten() {
        set(&mut c, key, value.clone());
    }
    json!({"metadata": {"name": "x", "namespace": "n"}, "spec": {"containers": [c]}})
}

pub(super) fn pod_spec(rest: Value) -> Value {
    let mut pod = pod_with(json!({}));
    for (key, value) in rest.as_object().into_iter().flatten() {
        set(&mut pod["spec"], key, value.clone());
    }
    pod
}

pub(super) fn volume_of(source: Value) -> Value {
    let mut volume = json!({"name": "v"});
    for (key, value) in source.as_object().into_iter().flatten() {
        set(&mut volume, key, value.clone());
    }
    pod_spec(json!({"volumes": [volume]}))
}

fn annotated(annotations: Value) -> Value {
    let mut pod = pod_with(json!({}));
    set(&mut pod["metadata"], "annotations", annotations);
    pod
}

pub(super) fn clustered(rest: Value) -> Value {
    let mut object = rest;
    set(&mut object, "metadata", json!({"name": "x"}));
    object
}

pub(super) fn job(rest: Value) -> Value {
    let mut spec =
        json!({"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}});
    for (key, value) in rest.as_object().into_iter().flatten() {
        set(&mut spec, key, value.clone());
    }
    json!({"metadata": {"name": "x", "namespace": "n"}, "spec": spec})
}

pub(super) fn workload(kind_spec: Value) -> Value {
    let mut spec = json!({"selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}});
    for (key, value) in kind_spec.as_object().into_iter().flatten() {
        set(&mut spec, key, value.clone());
    }
    json!({"metadata": {"name": "x", "namespace": "n"}, "spec": spec})
}

pub(super) fn named(rest: Value) -> Value {
    let mut object = rest;
    set(&mut object, "metadata", json!({"name": "x", "namespace": "n"}));
    object
}

#[test]
fn refusals() {
    const PODS: (&str, &str, &str) = ("", "v1", "pods");
    let table = [
        Refused {
            resource: PODS,
            body: pod_with(json!({"volumeMounts": [{"name": "v"}]})),
            expected: &[
                "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
                "spec.containers[0].volumeMounts[0].mountPath: Required value",
            ],
        },
        Refused {
            resource: PODS,
            body: pod_with(json!({"lifecycle": {"preStop": {"sleep": {"seconds": 60}}}})),
            expected: &[
                "spec.containers[0].lifecycle.preStop.sleep: Invalid value: 60: must be non-negative and less than terminationGracePeriodSeconds (30)",
            ],
        },
        Refused {
            resource: PODS,
            body: pod_with(json!({"securityContext": {"runAsUser": -1, "seccompProfile": {"type": "Localhost"}}})),
            expected: &[
                "spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
                "spec.containers[0].securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
            ],
        },
        Refused {
            resource: PODS,
            body: pod_with(json!({"resources": {"limits": {"hugepages-2Mi": "2Mi"}}})),
            expected: &["spec.containers[0].resources: Forbidden: HugePages require cpu or memory"],
        },
        Refused {
            resource: ("apps", "v1", "deployments"),
            body: workload(json!({"minReadySeconds": 9, "progressDeadlineSeconds": 9})),
            expected: &["spec.progressDeadlineSeconds: Invalid value: 9: must be greater than minReadySeconds"],
        },
        Refused {
            resource: ("apps", "v1", "statefulsets"),
            body: workload(
                json!({"podManagementPolicy": "Odd", "updateStrategy": {"type": "OnDelete", "rollingUpdate": {"partition": 1}}}),
            ),
            expected: &[
                "spec.podManagementPolicy: Invalid value: \"Odd\": must be 'OrderedReady' or 'Parallel'",
                "spec.updateStrategy.rollingUpdate: Invalid value: {\"Partition\":1,\"MaxUnavailable\":null}: only allowed for updateStrategy 'RollingUpdate'",
            ],
        },
        Refused {
            resource: ("apps", "v1", "daemonsets"),
            body: workload(
                json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0}}}),
            ),
            expected: &[
                "spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0",
            ],
        },
        Refused {
            resource: ("", "v1", "services"),
            body: named(
                json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 80}], "loadBalancerSourceRanges": ["10.0.0.0"]}}),
            ),
            expected: &[
                "spec.LoadBalancerSourceRanges[0]: Invalid value: \"10.0.0.0\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            ],
        },
        Refused {
            resource: ("networking.k8s.io", "v1", "networkpolicies"),
            body: named(
                json!({"spec": {"podSelector": {}, "ingress": [{"from": [{}], "ports": [{"port": 80, "endPort": 70}]}]}}),
            ),
            expected: &[
                "spec.ingress[0].ports[0].endPort: Invalid value: 80: must be greater than or equal to `port`",
                "spec.ingress[0].from[0]: Required value: must specify a peer",
            ],
        },
        Refused {
            resource: ("policy", "v1", "poddisruptionbudgets"),
            body: named(json!({"spec": {"maxUnavailable": "101%"}})),
            expected: &["spec.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%"],
        },
        Refused {
            resource: ("rbac.authorization.k8s.io", "v1", "rolebindings"),
            body: named(json!({"roleRef": {"kind": "Roll", "name": "r"}, "subjects": [{"kind": "Cat", "name": "c"}]})),
            expected: &[
                "roleRef.kind: Unsupported value: \"Roll\": supported values: \"Role\", \"ClusterRole\"",
                "subjects[0].kind: Unsupported value: \"Cat\": supported values: \"ServiceAccount\", \"User\", \"Group\"",
            ],
        },
        Refused {
            resource: ("", "v1", "secrets"),
            body: named(json!({"type": "kubernetes.io/tls", "data": {}})),
            expected: &["data[tls.crt]: Required value", "data[tls.key]: Required value"],
        },
        Refused {
            resource: ("coordination.k8s.io", "v1", "leases"),
            body: named(json!({"spec": {"leaseDurationSeconds": 0}})),
            expected: &["spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"],
        },
        Refused {
            resource: ("discovery.k8s.io", "v1", "endpointslices"),
            body: named(json!({"addressType": "IPv4", "endpoints": [{"addresses": ["127.0.0.1"]}, {"addresses": []}]})),
            expected: &[
                "endpoints[0].addresses[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
                "endpoints[1].addresses: Required value: must contain at least 1 address",
            ],
        },
        Refused {
            resource: PODS,
            body: volume_of(json!({"iscsi": {"targetPortal": "p", "iqn": "iqn.2001.com.example", "lun": 256}})),
            expected: &[
                "spec.volumes[0].iscsi.iqn: Invalid value: \"iqn.2001.com.example\": must be valid format",
                "spec.volumes[0].iscsi.lun: Invalid value: 256: must be between 0 and 255, inclusive",
            ],
        },
        Refused {
            resource: PODS,
            body: volume_of(json!({"nfs": {"server": "s"}})),
            expected: &[
                "spec.volumes[0].nfs.path: Required value",
                "spec.volumes[0].nfs.path: Invalid value: \"\": must be an absolute path",
            ],
        },
        Refused {
            resource: PODS,
            body: volume_of(json!({"csi": {"driver": "a.b", "nodePublishSecretRef": {}}})),
            expected: &["spec.volumes[0].csi.nodePublishSecretRef.name: Required value"],
        },
        Refused {
            resource: PODS,
            body: volume_of(json!({"flexVolume": {"driver": "d", "options": {"a.k8s.io/x": "1"}}})),
            expected: &[
                "spec.volumes[0].flexVolume.options[a.k8s.io/x]: Invalid value: \"a.k8s.io/x\": kubernetes.io and k8s.io namespaces are reserved",
            ],
        },
        Refused {
            resource: PODS,
            body: volume_of(
                json!({"ephemeral": {"volumeClaimTemplate": {"metadata": {"name": "n"}, "spec": {
                "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}}}),
            ),
            expected: &["spec.volumes[0].ephemeral.volumeClaimTemplate.metadata.name: Forbidden: cannot be set"],
        },
        Refused {
            resource: PODS,
            body: pod_with(json!({"restartPolicyRules": [{"action": "Stop", "exitCodes": {"operator": "Is"}}]})),
            expected: &[
                "spec.containers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used",
                "spec.containers[0].restartPolicyRules[0].action: Unsupported value: \"Stop\": supported values: \"Restart\", \"RestartAllContainers\"",
                "spec.containers[0].restartPolicyRules[0].exitCodes.operator: Unsupported value: \"Is\": supported values: \"In\", \"NotIn\"",
            ],
        },
        Refused {
            resource: PODS,
            body: pod_with(
                json!({"resources": {"requests": {"cpu": "1", "hugepages-2Mi": "3Mi"}, "limits": {"hugepages-2Mi": "3Mi"}}}),
            ),
            expected: &[
                "spec.containers[0].resources.limits[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer multiple of hugepages-2Mi",
                "spec.containers[0].resources.requests[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer multiple of hugepages-2Mi",
            ],
        },
        Refused {
            resource: PODS,
            body: pod_with(json!({"securityContext": {"privileged": true, "allowPrivilegeEscalation": false}})),
            expected: &[
                "spec.containers[0].securityContext: Invalid value: {\"Capabilities\":null,\"Privileged\":true,\"SELinuxOptions\":null,\"WindowsOptions\":null,\"RunAsUser\":null,\"RunAsGroup\":null,\"RunAsNonRoot\":null,\"ReadOnlyRootFilesystem\":null,\"AllowPrivilegeEscalation\":false,\"ProcMount\":null,\"SeccompProfile\":null,\"AppArmorProfile\":null}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            ],
        },
        Refused {
            resource: PODS,
            body: pod_spec(json!({"os": {"name": "windows"}, "hostPID": true, "securityContext": {"fsGroup": 1}})),
            expected: &[
                "spec.hostPID: Forbidden: cannot be set for a windows pod",
                "spec.securityContext.fsGroup: Forbidden: cannot be set for a windows pod",
            ],
        },
        Refused {
            resource: PODS,
            body: pod_spec(json!({"os": {"name": "beos"}})),
            expected: &["spec.os: Unsupported value: \"beos\": supported values: \"linux\", \"windows\""],
        },
        Refused {
            resource: PODS,
            body: pod_spec(
                json!({"hostNetwork": true, "securityContext": {"sysctls": [{"name": "net.core.somaxconn", "value": "1"}]}}),
            ),
            expected: &[
                "spec.securityContext.sysctls[0].name: Invalid value: \"net.core.somaxconn\": may not be specified when 'hostNetwork' is true",
            ],
        },
        Refused {
            resource: PODS,
            body: pod_spec(json!({"topologySpreadConstraints": [
                {"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule", "matchLabelKeys": ["k"]},
                {"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"},
            ]})),
            expected: &[
                "spec.topologySpreadConstraints[0].{topologyKey, whenUnsatisfiable}: Duplicate value: \"{z, DoNotSchedule}\"",
                "spec.topologySpreadConstraints[0].matchLabelKeys: Forbidden: must not be specified when labelSelector is not set",
            ],
        },
        Refused {
            resource: PODS,
            body: pod_spec(json!({"resources": {"requests": {"cpu": "1"}}, "containers": [
                {"name": "a", "image": "i", "resources": {"requests": {"cpu": "700m"}}},
                {"name": "b", "image": "i", "resources": {"requests": {"cpu": "700m"}}},
            ]})),
            expected: &[
                "spec.resources.requests[cpu]: Invalid value: \"1\": must be greater than or equal to aggregate container requests of 1400m",
            ],
        },
        Refused {
            resource: PODS,
            body: annotated(json!({
                "container.apparmor.security.beta.kubernetes.io/x": "odd",
                "controller.kubernetes.io/pod-deletion-cost": "+1",
            })),
            expected: &[
                "metadata.annotations[controller.kubernetes.io/pod-deletion-cost]: Invalid value: \"+1\": must be a 32bit integer",
                "metadata.annotations[container.apparmor.security.beta.kubernetes.io/x]: Invalid value: \"x\": container not found",
                "metadata.annotations[container.apparmor.security.beta.kubernetes.io/x]: Invalid value: \"odd\": invalid AppArmor profile name: \"odd\"",
            ],
        },
        Refused {
            resource: ("", "v1", "persistentvolumes"),
            body: clustered(
                json!({"spec": {"capacity": {"storage": "1Gi"}, "csi": {"driver": "", "volumeHandle": "h",
                "nodeStageSecretRef": {"name": "s"}, "nodePublishSecretRef": {"name": "s"}}, "volumeAttributesClassName": ""}}),
            ),
            expected: &[
                "spec.accessModes: Required value",
                "spec.csi.driver: Required value",
                "spec.csi.nodePublishSecretRef.namespace: Required value",
                "spec.volumeAttributesClassName: Required value: an empty string is disallowed",
            ],
        },
        Refused {
            resource: ("", "v1", "persistentvolumeclaims"),
            body: named(
                json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
                "dataSource": {"kind": "PersistentVolumeClaim", "name": "a"},
                "dataSourceRef": {"kind": "PersistentVolumeClaim", "name": "b"}}}),
            ),
            expected: &["spec: Invalid value: {}: must match dataSourceRef"],
        },
        Refused {
            resource: ("", "v1", "nodes"),
            body: clustered(json!({"spec": {"podCIDRs": ["10.0.0.0/24", "10.0.1.0/24"],
                "taints": [{"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoSchedule"}]}})),
            expected: &[
                "metadata.taints[1]: Duplicate value: {\"Key\":\"a\",\"Value\":\"\",\"Effect\":\"NoSchedule\",\"TimeAdded\":null}: taints must be unique by key and effect pair",
                "spec.podCIDRs: Invalid value: [\"10.0.0.0/24\",\"10.0.1.0/24\"]: may specify no more than one CIDR for each IP family",
            ],
        },
        Refused {
            resource: ("", "v1", "resourcequotas"),
            body: named(json!({"spec": {"hard": {"services": "1"}, "scopes": ["Terminating"]}})),
            expected: &["spec.scopes: Invalid value: [\"Terminating\"]: unsupported scope applied to resource"],
        },
        Refused {
            resource: ("", "v1", "limitranges"),
            body: named(json!({"spec": {"limits": [{"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}}]}})),
            expected: &[
                "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
                "spec.limits[0].defaultRequest[cpu]: Invalid value: \"1\": min value 2 is greater than default request value 1",
                "spec.limits[0].default[cpu]: Invalid value: \"2\": min value 2 is greater than default value 1",
            ],
        },
        Refused {
            resource: ("batch", "v1", "jobs"),
            body: job(
                json!({"completionMode": "Indexed", "completions": 3, "maxFailedIndexes": 4,
                "successPolicy": {"rules": [{"succeededIndexes": "2,1"}]},
                "podFailurePolicy": {"rules": [{"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [2, 0]}}]}}),
            ),
            expected: &[
                "spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified",
                "spec.maxFailedIndexes: Invalid value: 4: must be less than or equal to completions",
                "spec.podFailurePolicy.rules[0].action: Invalid value: \"FailIndex\": requires the backoffLimitPerIndex to be set",
                "spec.podFailurePolicy.rules[0].onExitCodes.values[1]: Invalid value: 0: must not be 0 for the In operator",
                "spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [2,0]: must be ordered",
                "spec.successPolicy.rules[0].succeededIndexes: Invalid value: \"2,1\": error parsing succeededIndexes: non-increasing order, previous: 2, current: 1",
            ],
        },
        Refused {
            resource: ("apps", "v1", "daemonsets"),
            body: workload(json!({"updateStrategy": {"type": "Odd"}, "selector": {}})),
            expected: &[
                "spec.selector: Invalid value: {}: empty selector is invalid for daemonset",
                "spec.updateStrategy: Unsupported value: {\"Type\":\"Odd\",\"RollingUpdate\":null}: supported values: \"RollingUpdate\", \"OnDelete\"",
            ],
        },
        Refused {
            resource: ("apps", "v1", "statefulsets"),
            body: {
                let mut set_ = workload(json!({}));
                set(&mut set_, "metadata", json!({"name": "x.y", "namespace": "n"}));
                set_
            },
            expected: &["metadata.name: Invalid value: \"x.y\": must not contain dots"],
        },
        Refused {
            resource: ("", "v1", "services"),
            body: named(
                json!({"spec": {"ports": [{"port": 80}], "externalIPs": ["010.0.0.1"], "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}}}),
            ),
            expected: &[
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 0: must be greater than 0 and less than 86400",
                "spec.externalIPs[0]: Invalid value: \"010.0.0.1\": must not have leading 0s",
            ],
        },
        Refused {
            resource: ("networking.k8s.io", "v1", "networkpolicies"),
            body: named(json!({"spec": {"podSelector": {}, "egress": [{"to": [
                {"ipBlock": {"cidr": "10.0.0.0/24", "except": ["10.0.0.0/24"]}, "podSelector": {}}]}]}})),
            expected: &[
                "spec.egress[0].to[0].ipBlock.except[0]: Invalid value: \"10.0.0.0/24\": must be a strict subset of `cidr`",
                "spec.egress[0].to[0]: Forbidden: may not specify both ipBlock and another peer",
            ],
        },
        Refused {
            resource: ("networking.k8s.io", "v1", "ingressclasses"),
            body: clustered(
                json!({"spec": {"controller": "example.com", "parameters": {"kind": "K", "name": "a/b", "scope": "Namespace"}}}),
            ),
            expected: &[
                "spec.controller: Invalid value: \"example.com\": must be a domain-prefixed path (such as \"acme.io/foo\")",
                "spec.parameters.name: Invalid value: \"a/b\": may not contain '/'",
                "spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'",
            ],
        },
        Refused {
            resource: ("autoscaling", "v2", "horizontalpodautoscalers"),
            body: named(
                json!({"spec": {"maxReplicas": 2, "scaleTargetRef": {"apiVersion": "a/v1", "kind": "D", "name": "d"}, "metrics": [
                {"type": "Pods", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 1}}}]}}),
            ),
            expected: &["spec.metrics[0].pods: Required value: must populate information for the given metric source"],
        },
        Refused {
            resource: ("storage.k8s.io", "v1", "storageclasses"),
            body: clustered(json!({"provisioner": "p", "allowedTopologies": [
                {"matchLabelExpressions": [{"key": "a", "values": ["1", "1"]}]},
                {"matchLabelExpressions": [{"key": "a", "values": ["1"]}]}]})),
            expected: &[
                "allowedTopologies[0].matchLabelExpressions[0].values[1]: Duplicate value: \"1\"",
                "allowedTopologies[1].matchLabelExpressions: Duplicate value: \"\"",
            ],
        },
        Refused {
            resource: ("storage.k8s.io", "v1", "csidrivers"),
            body: clustered(
                json!({"spec": {"tokenRequests": [{"audience": "a", "expirationSeconds": 1}, {"audience": "a"}]}}),
            ),
            expected: &[
                "spec.tokenRequests[0].expirationSeconds: Invalid value: 1: may not specify a duration less than 10 minutes",
                "spec.tokenRequests[1].audience: Duplicate value: \"a\"",
            ],
        },
        Refused {
            resource: ("node.k8s.io", "v1", "runtimeclasses"),
            body: clustered(json!({"handler": "h", "overhead": {"podFixed": {"x": "1"}},
                "scheduling": {"tolerations": [{"key": "a", "operator": "Exists"}, {"key": "a", "operator": "Exists"}]}})),
            expected: &[
                "overhead.limits[x]: Invalid value: \"x\": must be a standard resource type or fully qualified",
                "overhead.limits[x]: Invalid value: \"x\": must be a standard resource for containers",
                "scheduling.tolerations[1]: Duplicate value: {\"Key\":\"a\",\"Operator\":\"Exists\",\"Value\":\"\",\"Effect\":\"\",\"TolerationSeconds\":null}",
            ],
        },
        Refused {
            resource: ("certificates.k8s.io", "v1", "certificatesigningrequests"),
            body: clustered(json!({"spec": {"request": "", "usages": ["client auth"], "signerName": "nodots/x"}})),
            expected: &[
                "spec.request: Invalid value: \"\": PEM block type must be CERTIFICATE REQUEST",
                "spec.signerName: Invalid value: \"nodots\": should be a domain with at least two segments separated by dots",
            ],
        },
        Refused {
            resource: ("apiregistration.k8s.io", "v1", "apiservices"),
            body: {
                let mut service = json!({"spec": {"group": "a.b", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1,
                    "insecureSkipTLSVerify": true}});
                set(&mut service, "metadata", json!({"name": "v1.a.b"}));
                service
            },
            expected: &[
                "spec.insecureSkipTLSVerify: Invalid value: true: local APIServices may not have insecureSkipTLSVerify",
            ],
        },
        Refused {
            resource: ("", "v1", "secrets"),
            body: named(json!({"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "W10="}})),
            expected: &[
                "data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": json: cannot unmarshal array into Go value of type map[string]interface {}",
            ],
        },
        Refused {
            resource: ("", "v1", "replicationcontrollers"),
            body: named(json!({"spec": {"selector": {"a": "b"}}})),
            expected: &["spec.template: Required value"],
        },
        Refused {
            resource: ("batch", "v1", "jobs"),
            body: job(
                json!({"completionMode": "Indexed", "completions": 3, "selector": {"matchLabels": {"x": "y"}},
                "template": {"metadata": {"labels": {"job-name": "z"}},
                "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}),
            ),
            expected: &[
                "spec.template.metadata.labels[job-name]: Invalid value: {\"batch.kubernetes.io/controller-uid\":\"22222222-2222-2222-2222-222222222222\",\"batch.kubernetes.io/job-name\":\"x\",\"controller-uid\":\"22222222-2222-2222-2222-222222222222\",\"job-name\":\"z\"}: must be 'x'",
                "spec.selector: Invalid value: {\"matchLabels\":{\"batch.kubernetes.io/controller-uid\":\"22222222-2222-2222-2222-222222222222\",\"x\":\"y\"}}: `selector` not auto-generated",
                "spec.template.metadata.labels: Invalid value: {\"batch.kubernetes.io/controller-uid\":\"22222222-2222-2222-2222-222222222222\",\"batch.kubernetes.io/job-name\":\"x\",\"controller-uid\":\"22222222-2222-2222-2222-222222222222\",\"job-name\":\"z\"}: `selector` does not match template `labels`",
            ],
        },
        Refused {
            resource: ("admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations"),
            body: clustered(json!({"webhooks": [{
                "name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"],
                "clientConfig": {"service": {"name": "s", "namespace": "n", "path": "x/A//b/"}}
            }]})),
            expected: &[
                "webhooks[0].clientConfig.service.path: Invalid value: \"x/A//b/\": must start with a '/'",
                "webhooks[0].clientConfig.service.path: Invalid value: \"x/A//b/\": segment[0] may not be empty",
                "webhooks[0].clientConfig.service.path: Invalid value: \"x/A//b/\": segment[1]: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                "webhooks[0].clientConfig.service.path: Invalid value: \"x/A//b/\": segment[2] may not be empty",
            ],
        },
        Refused {
            resource: ("admissionregistration.k8s.io", "v1", "validatingadmissionpolicies"),
            body: clustered(
                json!({"spec": {"paramKind": {"apiVersion": "a/b/c", "kind": "K_"}, "variables": [{"name": "a b"}],
                "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]},
                "validations": [{"expression": "true"}]}}),
            ),
            expected: &[
                "spec.paramKind.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
                "spec.paramKind.kind: Invalid value: \"K_\": may have mixed case, but should otherwise match: a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')",
                "spec.variables[0].name: Invalid value: \"a b\": name is not a valid CEL identifier",
                "spec.variables[0].expression: Required value: expression is not specified",
            ],
        },
    ];
    all_refused(Vec::from(table));
}

/// Every object of the table is refused with exactly these words.
pub(super) fn all_refused(table: Vec<Refused>) {
    let registry = Registry::builtin();
    let mut wrong = Vec::new();
    for case in table {
        let (group, version, plural) = case.resource;
        let row = registry
            .resource(group, version, plural)
            .expect("a built-in resource")
            .clone();
        let errors = match create(&row, case.body) {
            Answer::Causes(causes) => causes,
            _ => Vec::new(),
        };
        let texts: Vec<String> = errors
            .iter()
            .map(|c| format!("{}: {}", str_of(c, "field"), str_of(c, "message")))
            .collect();
        if texts != case.expected {
            wrong.push(format!("{plural}: have {texts:#?}, expected {:#?}", case.expected));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

//! What a change of a stored object comes to: one table over kinds.

use super::refusals::{clustered, job, named, workload};
use super::{Answer, create, update};
use crate::kinds::access::{at, str_of};
use crate::patch;
use crate::registry::Registry;
use serde_json::{Value, json};

/// A merge patch of a stored object, through a subresource or not, and what is said against it, or what then is
/// where.
pub(super) struct Changed {
    pub(super) resource: (&'static str, &'static str),
    pub(super) sub: Option<&'static str>,
    pub(super) stored: Value,
    pub(super) patch: Value,
    pub(super) refused: &'static [&'static str],
    pub(super) leaves: &'static [(&'static str, &'static str)],
}

pub(super) const CHANGED: Changed = Changed {
    resource: ("", ""),
    sub: None,
    stored: Value::Null,
    patch: Value::Null,
    refused: &[],
    leaves: &[],
};

#[test]
fn changes() {
    let attachment =
        || clustered(json!({"spec": {"attacher": "a.b", "nodeName": "n", "source": {"persistentVolumeName": "v"}}}));
    let finished = json!({"status": {"conditions": [{"type": "Complete", "status": "True"}], "active": 1}});
    let table = [
        Changed {
            resource: ("", "persistentvolumes"),
            stored: clustered(json!({"spec": {
                "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"},
            }})),
            patch: json!({"spec": {"hostPath": {"path": "/y"}}}),
            refused: &[
                "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation\n\
                @@ -2,7 +2,7 @@\n  \"GCEPersistentDisk\": null,\n  \"AWSElasticBlockStore\": null,\n  \"HostPath\": {\n\
                -  \"Path\": \"/x\",\n+  \"Path\": \"/y\",\n   \"Type\": \"\"\n  },\n  \"Glusterfs\": null,\n",
            ],
            ..CHANGED
        },
        Changed {
            resource: ("", "nodes"),
            stored: clustered(json!({"spec": {"podCIDR": "192.0.2.0/24"}})),
            patch: json!({"spec": {"podCIDR": "198.51.100.0/24", "podCIDRs": ["198.51.100.0/24"]}}),
            refused: &["spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid"],
            ..CHANGED
        },
        Changed {
            resource: ("", "pods"),
            sub: Some("status"),
            stored: named(json!({"spec": {"containers": [{"name": "c", "image": "i"}]}})),
            patch: json!({"status": {"podIP": "192.0.2.1", "podIPs": [{"ip": "192.0.2.2"}]}}),
            leaves: &[
                ("/status/podIP", "\"192.0.2.1\""),
                ("/status/podIPs", "[{\"ip\":\"192.0.2.1\"}]"),
            ],
            ..CHANGED
        },
        Changed {
            resource: ("", "configmaps"),
            stored: named(json!({})),
            patch: json!({"metadata": {"deletionTimestamp": "2024-01-01T00:00:00Z"}}),
            refused: &[
                "metadata.deletionTimestamp: Invalid value: \"2024-01-01T00:00:00Z\": field is immutable",
                "metadata.deletionTimestamp: Invalid value: \"2024-01-01T00:00:00Z\": field is immutable",
            ],
            ..CHANGED
        },
        Changed {
            resource: ("storage.k8s.io", "csidrivers"),
            stored: clustered(json!({"spec": {}})),
            patch: json!({"spec": {"attachRequired": false}}),
            refused: &["spec.attachedRequired: Invalid value: false: field is immutable"],
            ..CHANGED
        },
        // A driver has no generation before it changes.
        Changed {
            resource: ("storage.k8s.io", "csidrivers"),
            stored: clustered(json!({"spec": {}})),
            patch: json!({"spec": {"podInfoOnMount": true}}),
            leaves: &[("/metadata/generation", "1")],
            ..CHANGED
        },
        Changed {
            resource: ("storage.k8s.io", "volumeattachments"),
            stored: attachment(),
            patch: json!({"spec": {"nodeName": "m"}}),
            refused: &[
                "spec: Invalid value: {\"Attacher\":\"a.b\",\"Source\":{\"PersistentVolumeName\":\"v\",\"InlineVolumeSpec\":null},\"NodeName\":\"m\"}: field is immutable",
            ],
            ..CHANGED
        },
        Changed {
            resource: ("storage.k8s.io", "volumeattachments"),
            sub: Some("status"),
            stored: attachment(),
            patch: json!({"metadata": {"labels": {"a": "b"}}, "status": {"attached": true}}),
            leaves: &[("/metadata/labels", "null"), ("/status/attached", "true")],
            ..CHANGED
        },
        Changed {
            resource: ("discovery.k8s.io", "endpointslices"),
            stored: named(json!({"addressType": "IPv4", "endpoints": [{"addresses": ["192.0.2.1"]}]})),
            patch: json!({"endpoints": [{"addresses": ["192.0.2.1"], "deprecatedTopology": {"a": "b"}}]}),
            leaves: &[("/endpoints/0/deprecatedTopology", "null")],
            ..CHANGED
        },
        Changed {
            resource: ("batch", "jobs"),
            sub: Some("status"),
            stored: job(json!({})),
            patch: finished,
            refused: &[
                "status.completionTime: Required value: completionTime is required for Complete jobs",
                "status.conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
                "status.active: Invalid value: 1: active>0 is invalid for finished job",
                "status.startTime: Required value: startTime is required for finished job",
            ],
            ..CHANGED
        },
        Changed {
            resource: ("batch", "jobs"),
            sub: Some("status"),
            stored: job(json!({"completionMode": "Indexed", "completions": 3, "backoffLimitPerIndex": 1})),
            patch: json!({"status": {"completedIndexes": "0-1", "failedIndexes": "1,7", "ready": 1}}),
            refused: &[
                "status.failedIndexes: Invalid value: \"1,7\": error parsing failedIndexes: too large index: \"7\"",
                "status.failedIndexes: Invalid value: \"1,7\": failedIndexes and completedIndexes overlap at index: 1",
                "status.ready: Invalid value: 1: cannot set more ready pods than active",
            ],
            ..CHANGED
        },
        Changed {
            resource: ("apps", "deployments"),
            sub: Some("status"),
            stored: workload(json!({})),
            patch: json!({"metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}}}),
            leaves: &[("/metadata/labels", "null"), ("/metadata/annotations/c", "\"d\"")],
            ..CHANGED
        },
    ];
    table.iter().for_each(change);
}

/// Makes the change and looks at what comes of it.
pub(super) fn change(case: &Changed) {
    let (group, plural) = case.resource;
    let registry = Registry::builtin();
    let row = registry
        .resource(group, "v1", plural)
        .expect("a built-in resource")
        .clone();
    let old = match create(&row, case.stored.clone()) {
        Answer::Object(old, _) => old,
        Answer::Causes(causes) => panic!("{plural}: the stored object is refused: {causes:?}"),
        Answer::Other => panic!("{plural}: the stored object is refused"),
    };
    let mut new = old.clone();
    patch::merge_patch(&mut new, &case.patch).expect("a patch");
    let (texts, object) = match update(&row, new, &old, case.sub) {
        Answer::Causes(causes) => (causes, Value::Null),
        Answer::Object(object, _) => (Vec::new(), object),
        Answer::Other => panic!("{plural}: {}", case.patch),
    };
    let texts: Vec<String> = texts
        .iter()
        .map(|c| format!("{}: {}", str_of(c, "field"), str_of(c, "message")))
        .collect();
    assert_eq!(texts, case.refused, "{plural}: {}", case.patch);
    for (pointer, expected) in case.leaves {
        assert_eq!(at(&object, pointer).to_string(), *expected, "{plural}: {pointer}");
    }
}

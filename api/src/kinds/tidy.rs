//! What Kubernetes leaves out of the wire form: members whose Go field is no pointer and holds its zero value.
//!
//! `hostNetwork: false` and `"subPath": ""` disappear, `automountServiceAccountToken: false` (a pointer) stays.
//! Each list below names the plain members of one struct that are `omitempty`.

use super::access::{child_if, each_mut, get, list, set, str_of};
use serde_json::{Value, json};

/// Removes the named members that are false, 0, "" or null, and those that are empty lists or maps.
pub fn drop_zero(v: &mut Value, names: &[&str]) {
    let Some(map) = v.as_object_mut() else { return };
    for name in names {
        let zero = match map.get(*name) {
            Some(Value::Null) => true,
            Some(Value::Bool(b)) => !*b,
            Some(Value::Number(n)) => n.as_i64() == Some(0),
            Some(Value::String(s)) => s.is_empty(),
            Some(Value::Array(a)) => a.is_empty(),
            Some(Value::Object(m)) => m.is_empty(),
            None => false,
        };
        if zero {
            map.remove(*name);
        }
    }
}

/// `metadata` of an object or a template.
pub fn metadata(v: &mut Value) {
    const PLAIN: &[&str] = &[
        "name",
        "generateName",
        "namespace",
        "selfLink",
        "uid",
        "resourceVersion",
        "generation",
        "labels",
        "annotations",
        "ownerReferences",
        "finalizers",
        "managedFields",
    ];
    if let Some(m) = child_if(v, "metadata") {
        drop_zero(m, PLAIN);
    }
}

/// A pod spec, without what is inside its containers.
pub fn pod_spec(spec: &mut Value) {
    const PLAIN: &[&str] = &[
        "volumes",
        "initContainers",
        "ephemeralContainers",
        "restartPolicy",
        "dnsPolicy",
        "nodeSelector",
        "serviceAccountName",
        "serviceAccount",
        "nodeName",
        "hostNetwork",
        "hostPID",
        "hostIPC",
        "imagePullSecrets",
        "hostname",
        "subdomain",
        "schedulerName",
        "tolerations",
        "hostAliases",
        "priorityClassName",
        "readinessGates",
        "overhead",
        "topologySpreadConstraints",
        "schedulingGates",
        "resourceClaims",
    ];
    drop_zero(spec, PLAIN);
    for toleration in each_mut(spec, "tolerations") {
        drop_zero(toleration, &["key", "operator", "value", "effect"]);
    }
    for volume in each_mut(spec, "volumes") {
        for (source, plain) in VOLUME_PLAIN {
            if let Some(source) = child_if(volume, source) {
                drop_zero(source, plain);
            }
        }
    }
}

const VOLUME_PLAIN: &[(&str, &[&str])] = &[
    ("emptyDir", &["medium"]),
    ("persistentVolumeClaim", &["readOnly"]),
    ("secret", &["secretName", "items"]),
    ("configMap", &["name", "items"]),
    ("downwardAPI", &["items"]),
    ("nfs", &["readOnly"]),
    ("image", &["reference", "pullPolicy"]),
];

/// A container.
pub fn container(c: &mut Value) {
    const PLAIN: &[&str] = &[
        "image",
        "command",
        "args",
        "workingDir",
        "ports",
        "envFrom",
        "env",
        "resizePolicy",
        "volumeMounts",
        "volumeDevices",
        "terminationMessagePath",
        "terminationMessagePolicy",
        "imagePullPolicy",
        "stdin",
        "stdinOnce",
        "tty",
        "targetContainerName",
    ];
    drop_zero(c, PLAIN);
    for port in each_mut(c, "ports") {
        drop_zero(port, &["name", "hostPort", "protocol", "hostIP"]);
    }
    for variable in each_mut(c, "env") {
        drop_zero(variable, &["value"]);
    }
    for source in each_mut(c, "envFrom") {
        drop_zero(source, &["prefix"]);
    }
    for mount in each_mut(c, "volumeMounts") {
        drop_zero(mount, &["readOnly", "subPath", "subPathExpr"]);
    }
    if let Some(resources) = child_if(c, "resources") {
        drop_zero(resources, &["limits", "requests", "claims"]);
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = child_if(c, name) {
            drop_zero(probe, &["initialDelaySeconds"]);
        }
    }
}

/// A member for older clients that is the first of a list, whose items have it under `key`: where both are given and
/// differ, it is the only item.
pub fn first_of(owner: &mut Value, one: &str, many: &str, key: Option<&str>) {
    let given = str_of(owner, one).to_owned();
    let first = list(owner, many).first().map(|item| {
        let text = key.map_or(item, |key| get(item, key));
        text.as_str().unwrap_or_default().to_owned()
    });
    match first {
        Some(first) if given.is_empty() => set(owner, one, first),
        Some(first) if first == given => {}
        _ if given.is_empty() => {}
        _ => {
            let only = key.map_or_else(|| json!(given), |key| json!({key: given}));
            set(owner, many, json!([only]));
        }
    }
}

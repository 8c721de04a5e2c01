//! Pod specs as Kubernetes prints them inside error texts: its unversioned structs as JSON.
//!
//! A refused pod update and a changed Job template show the whole spec, in the unversioned structs' field order,
//! with `null` and `""` for what is not set, and host namespaces inside the security context. The texts are part
//! of the wire, so the order of fields is kept here as tables.

mod difference;

use crate::kinds::access::get;
use serde_json::Value;

/// How one field prints.
#[derive(Clone, Copy)]
enum Print {
    /// A pointer, list or map of plain values: `null` when missing.
    Nullable,
    /// A string: `""` when missing.
    Text,
    /// A boolean: `false` when missing.
    Flag,
    /// A number: `0` when missing.
    Number,
    /// A struct inside its owner: always printed.
    Inline(&'static [Field]),
    /// A pointer to a struct: `null` when missing.
    Pointer(&'static [Field]),
    /// A list of structs: `null` when missing.
    List(&'static [Field]),
}

struct Field {
    /// Name in the unversioned struct.
    shown: &'static str,
    /// Name on the wire.
    wire: &'static str,
    print: Print,
}

const fn field(shown: &'static str, wire: &'static str, print: Print) -> Field {
    Field { shown, wire, print }
}

use Print::{Flag, Inline, List, Nullable, Number, Pointer, Text};

const RESOURCES: &[Field] = &[
    field("Limits", "limits", Nullable),
    field("Requests", "requests", Nullable),
    field("Claims", "claims", List(CLAIM)),
];
const CLAIM: &[Field] = &[field("Name", "name", Text), field("Request", "request", Text)];
const PORT: &[Field] = &[
    field("Name", "name", Text),
    field("HostPort", "hostPort", Number),
    field("ContainerPort", "containerPort", Number),
    field("Protocol", "protocol", Text),
    field("HostIP", "hostIP", Text),
];
const FIELD_REF: &[Field] = &[
    field("APIVersion", "apiVersion", Text),
    field("FieldPath", "fieldPath", Text),
];
const RESOURCE_REF: &[Field] = &[
    field("ContainerName", "containerName", Text),
    field("Resource", "resource", Text),
    field("Divisor", "divisor", Text),
];
const KEY_REF: &[Field] = &[
    field("Name", "name", Text),
    field("Key", "key", Text),
    field("Optional", "optional", Nullable),
];
const FILE_REF: &[Field] = &[
    field("VolumeName", "volumeName", Text),
    field("Path", "path", Text),
    field("Key", "key", Text),
    field("Optional", "optional", Nullable),
];
const VALUE_FROM: &[Field] = &[
    field("FieldRef", "fieldRef", Pointer(FIELD_REF)),
    field("ResourceFieldRef", "resourceFieldRef", Pointer(RESOURCE_REF)),
    field("ConfigMapKeyRef", "configMapKeyRef", Pointer(KEY_REF)),
    field("SecretKeyRef", "secretKeyRef", Pointer(KEY_REF)),
    field("FileKeyRef", "fileKeyRef", Pointer(FILE_REF)),
];
const ENV: &[Field] = &[
    field("Name", "name", Text),
    field("Value", "value", Text),
    field("ValueFrom", "valueFrom", Pointer(VALUE_FROM)),
];
const OBJECT_REF: &[Field] = &[field("Name", "name", Text), field("Optional", "optional", Nullable)];
const ENV_FROM: &[Field] = &[
    field("Prefix", "prefix", Text),
    field("ConfigMapRef", "configMapRef", Pointer(OBJECT_REF)),
    field("SecretRef", "secretRef", Pointer(OBJECT_REF)),
];
const RESIZE: &[Field] = &[
    field("ResourceName", "resourceName", Text),
    field("RestartPolicy", "restartPolicy", Text),
];
const RESTART_RULE: &[Field] = &[
    field("Action", "action", Text),
    field("ExitCodes", "exitCodes", Nullable),
];
const MOUNT: &[Field] = &[
    field("Name", "name", Text),
    field("ReadOnly", "readOnly", Flag),
    field("RecursiveReadOnly", "recursiveReadOnly", Nullable),
    field("MountPath", "mountPath", Text),
    field("SubPath", "subPath", Text),
    field("MountPropagation", "mountPropagation", Nullable),
    field("SubPathExpr", "subPathExpr", Text),
];
const DEVICE: &[Field] = &[field("Name", "name", Text), field("DevicePath", "devicePath", Text)];
const EXEC: &[Field] = &[field("Command", "command", Nullable)];
const HEADER: &[Field] = &[field("Name", "name", Text), field("Value", "value", Text)];
const HTTP: &[Field] = &[
    field("Path", "path", Text),
    field("Port", "port", Nullable),
    field("Host", "host", Text),
    field("Scheme", "scheme", Text),
    field("HTTPHeaders", "httpHeaders", List(HEADER)),
];
const TCP: &[Field] = &[field("Port", "port", Nullable), field("Host", "host", Text)];
const GRPC: &[Field] = &[field("Port", "port", Number), field("Service", "service", Nullable)];
const PROBE: &[Field] = &[
    field("Exec", "exec", Pointer(EXEC)),
    field("HTTPGet", "httpGet", Pointer(HTTP)),
    field("TCPSocket", "tcpSocket", Pointer(TCP)),
    field("GRPC", "grpc", Pointer(GRPC)),
    field("InitialDelaySeconds", "initialDelaySeconds", Number),
    field("TimeoutSeconds", "timeoutSeconds", Number),
    field("PeriodSeconds", "periodSeconds", Number),
    field("SuccessThreshold", "successThreshold", Number),
    field("FailureThreshold", "failureThreshold", Number),
    field(
        "TerminationGracePeriodSeconds",
        "terminationGracePeriodSeconds",
        Nullable,
    ),
];
const SLEEP: &[Field] = &[field("Seconds", "seconds", Number)];
const HANDLER: &[Field] = &[
    field("Exec", "exec", Pointer(EXEC)),
    field("HTTPGet", "httpGet", Pointer(HTTP)),
    field("TCPSocket", "tcpSocket", Pointer(TCP)),
    field("Sleep", "sleep", Pointer(SLEEP)),
];
const LIFECYCLE: &[Field] = &[
    field("PostStart", "postStart", Pointer(HANDLER)),
    field("PreStop", "preStop", Pointer(HANDLER)),
    field("StopSignal", "stopSignal", Nullable),
];
const CAPABILITIES: &[Field] = &[field("Add", "add", Nullable), field("Drop", "drop", Nullable)];
const SELINUX: &[Field] = &[
    field("User", "user", Text),
    field("Role", "role", Text),
    field("Type", "type", Text),
    field("Level", "level", Text),
];
const PROFILE: &[Field] = &[
    field("Type", "type", Text),
    field("LocalhostProfile", "localhostProfile", Nullable),
];
const SECURITY: &[Field] = &[
    field("Capabilities", "capabilities", Pointer(CAPABILITIES)),
    field("Privileged", "privileged", Nullable),
    field("SELinuxOptions", "seLinuxOptions", Pointer(SELINUX)),
    field("WindowsOptions", "windowsOptions", Nullable),
    field("RunAsUser", "runAsUser", Nullable),
    field("RunAsGroup", "runAsGroup", Nullable),
    field("RunAsNonRoot", "runAsNonRoot", Nullable),
    field("ReadOnlyRootFilesystem", "readOnlyRootFilesystem", Nullable),
    field("AllowPrivilegeEscalation", "allowPrivilegeEscalation", Nullable),
    field("ProcMount", "procMount", Nullable),
    field("SeccompProfile", "seccompProfile", Pointer(PROFILE)),
    field("AppArmorProfile", "appArmorProfile", Pointer(PROFILE)),
];
const CONTAINER: &[Field] = &[
    field("Name", "name", Text),
    field("Image", "image", Text),
    field("Command", "command", Nullable),
    field("Args", "args", Nullable),
    field("WorkingDir", "workingDir", Text),
    field("Ports", "ports", List(PORT)),
    field("EnvFrom", "envFrom", List(ENV_FROM)),
    field("Env", "env", List(ENV)),
    field("Resources", "resources", Inline(RESOURCES)),
    field("ResizePolicy", "resizePolicy", List(RESIZE)),
    field("RestartPolicy", "restartPolicy", Nullable),
    field("RestartPolicyRules", "restartPolicyRules", List(RESTART_RULE)),
    field("VolumeMounts", "volumeMounts", List(MOUNT)),
    field("VolumeDevices", "volumeDevices", List(DEVICE)),
    field("LivenessProbe", "livenessProbe", Pointer(PROBE)),
    field("ReadinessProbe", "readinessProbe", Pointer(PROBE)),
    field("StartupProbe", "startupProbe", Pointer(PROBE)),
    field("Lifecycle", "lifecycle", Pointer(LIFECYCLE)),
    field("TerminationMessagePath", "terminationMessagePath", Text),
    field("TerminationMessagePolicy", "terminationMessagePolicy", Text),
    field("ImagePullPolicy", "imagePullPolicy", Text),
    field("SecurityContext", "securityContext", Pointer(SECURITY)),
    field("Stdin", "stdin", Flag),
    field("StdinOnce", "stdinOnce", Flag),
    field("TTY", "tty", Flag),
];
const TARGET: Field = field("TargetContainerName", "targetContainerName", Text);
const ITEM: &[Field] = &[
    field("Key", "key", Text),
    field("Path", "path", Text),
    field("Mode", "mode", Nullable),
];
const DOWNWARD_ITEM: &[Field] = &[
    field("Path", "path", Text),
    field("FieldRef", "fieldRef", Pointer(FIELD_REF)),
    field("ResourceFieldRef", "resourceFieldRef", Pointer(RESOURCE_REF)),
    field("Mode", "mode", Nullable),
];
const TOKEN: &[Field] = &[
    field("Audience", "audience", Text),
    field("ExpirationSeconds", "expirationSeconds", Number),
    field("Path", "path", Text),
];
const PROJECTED_OBJECT: &[Field] = &[
    field("Name", "name", Text),
    field("Items", "items", List(ITEM)),
    field("Optional", "optional", Nullable),
];
const DOWNWARD_PROJECTION: &[Field] = &[field("Items", "items", List(DOWNWARD_ITEM))];
const PROJECTION: &[Field] = &[
    field("Secret", "secret", Pointer(PROJECTED_OBJECT)),
    field("DownwardAPI", "downwardAPI", Pointer(DOWNWARD_PROJECTION)),
    field("ConfigMap", "configMap", Pointer(PROJECTED_OBJECT)),
    field("ServiceAccountToken", "serviceAccountToken", Pointer(TOKEN)),
    field("ClusterTrustBundle", "clusterTrustBundle", Nullable),
    field("PodCertificate", "podCertificate", Nullable),
];
const PROJECTED: &[Field] = &[
    field("Sources", "sources", List(PROJECTION)),
    field("DefaultMode", "defaultMode", Nullable),
];
const HOST_PATH: &[Field] = &[field("Path", "path", Text), field("Type", "type", Nullable)];
const EMPTY_DIR: &[Field] = &[
    field("Medium", "medium", Text),
    field("SizeLimit", "sizeLimit", Nullable),
];
const SECRET_VOLUME: &[Field] = &[
    field("SecretName", "secretName", Text),
    field("Items", "items", List(ITEM)),
    field("DefaultMode", "defaultMode", Nullable),
    field("Optional", "optional", Nullable),
];
const CONFIG_VOLUME: &[Field] = &[
    field("Name", "name", Text),
    field("Items", "items", List(ITEM)),
    field("DefaultMode", "defaultMode", Nullable),
    field("Optional", "optional", Nullable),
];
const DOWNWARD_VOLUME: &[Field] = &[
    field("Items", "items", List(DOWNWARD_ITEM)),
    field("DefaultMode", "defaultMode", Nullable),
];
const CLAIM_VOLUME: &[Field] = &[
    field("ClaimName", "claimName", Text),
    field("ReadOnly", "readOnly", Flag),
];
const VOLUME: &[Field] = &[
    field("Name", "name", Text),
    field("HostPath", "hostPath", Pointer(HOST_PATH)),
    field("EmptyDir", "emptyDir", Pointer(EMPTY_DIR)),
    field("GCEPersistentDisk", "gcePersistentDisk", Nullable),
    field("AWSElasticBlockStore", "awsElasticBlockStore", Nullable),
    field("GitRepo", "gitRepo", Nullable),
    field("Secret", "secret", Pointer(SECRET_VOLUME)),
    field("NFS", "nfs", Nullable),
    field("ISCSI", "iscsi", Nullable),
    field("Glusterfs", "glusterfs", Nullable),
    field("PersistentVolumeClaim", "persistentVolumeClaim", Pointer(CLAIM_VOLUME)),
    field("RBD", "rbd", Nullable),
    field("Quobyte", "quobyte", Nullable),
    field("FlexVolume", "flexVolume", Nullable),
    field("Cinder", "cinder", Nullable),
    field("CephFS", "cephfs", Nullable),
    field("Flocker", "flocker", Nullable),
    field("DownwardAPI", "downwardAPI", Pointer(DOWNWARD_VOLUME)),
    field("FC", "fc", Nullable),
    field("AzureFile", "azureFile", Nullable),
    field("ConfigMap", "configMap", Pointer(CONFIG_VOLUME)),
    field("VsphereVolume", "vsphereVolume", Nullable),
    field("AzureDisk", "azureDisk", Nullable),
    field("PhotonPersistentDisk", "photonPersistentDisk", Nullable),
    field("Projected", "projected", Pointer(PROJECTED)),
    field("PortworxVolume", "portworxVolume", Nullable),
    field("ScaleIO", "scaleIO", Nullable),
    field("StorageOS", "storageos", Nullable),
    field("CSI", "csi", Nullable),
    field("Ephemeral", "ephemeral", Nullable),
    field("Image", "image", Nullable),
];
const SECRET_REF: &[Field] = &[field("Name", "name", Text)];
const TOLERATION: &[Field] = &[
    field("Key", "key", Text),
    field("Operator", "operator", Text),
    field("Value", "value", Text),
    field("Effect", "effect", Text),
    field("TolerationSeconds", "tolerationSeconds", Nullable),
];
const ALIAS: &[Field] = &[field("IP", "ip", Text), field("Hostnames", "hostnames", Nullable)];
const POD_SECURITY: &[Field] = &[
    field("HostNetwork", "hostNetwork", Flag),
    field("HostPID", "hostPID", Flag),
    field("HostIPC", "hostIPC", Flag),
    field("ShareProcessNamespace", "shareProcessNamespace", Nullable),
    field("HostUsers", "hostUsers", Nullable),
    field("SELinuxOptions", "seLinuxOptions", Pointer(SELINUX)),
    field("WindowsOptions", "windowsOptions", Nullable),
    field("RunAsUser", "runAsUser", Nullable),
    field("RunAsGroup", "runAsGroup", Nullable),
    field("RunAsNonRoot", "runAsNonRoot", Nullable),
    field("SupplementalGroups", "supplementalGroups", Nullable),
    field("SupplementalGroupsPolicy", "supplementalGroupsPolicy", Nullable),
    field("FSGroup", "fsGroup", Nullable),
    field("FSGroupChangePolicy", "fsGroupChangePolicy", Nullable),
    field("Sysctls", "sysctls", List(HEADER)),
    field("SeccompProfile", "seccompProfile", Pointer(PROFILE)),
    field("AppArmorProfile", "appArmorProfile", Pointer(PROFILE)),
    field("SELinuxChangePolicy", "seLinuxChangePolicy", Nullable),
];
const SPEC: &[Field] = &[
    field("Volumes", "volumes", List(VOLUME)),
    field("InitContainers", "initContainers", List(CONTAINER)),
    field("Containers", "containers", List(CONTAINER)),
    field("EphemeralContainers", "ephemeralContainers", List(CONTAINER)),
    field("RestartPolicy", "restartPolicy", Text),
    field(
        "TerminationGracePeriodSeconds",
        "terminationGracePeriodSeconds",
        Nullable,
    ),
    field("ActiveDeadlineSeconds", "activeDeadlineSeconds", Nullable),
    field("DNSPolicy", "dnsPolicy", Text),
    field("NodeSelector", "nodeSelector", Nullable),
    field("ServiceAccountName", "serviceAccountName", Text),
    field("AutomountServiceAccountToken", "automountServiceAccountToken", Nullable),
    field("NodeName", "nodeName", Text),
    field("SecurityContext", "securityContext", Pointer(POD_SECURITY)),
    field("ImagePullSecrets", "imagePullSecrets", List(SECRET_REF)),
    field("Hostname", "hostname", Text),
    field("Subdomain", "subdomain", Text),
    field("SetHostnameAsFQDN", "setHostnameAsFQDN", Nullable),
    field("Affinity", "affinity", Nullable),
    field("SchedulerName", "schedulerName", Text),
    field("Tolerations", "tolerations", List(TOLERATION)),
    field("HostAliases", "hostAliases", List(ALIAS)),
    field("PriorityClassName", "priorityClassName", Text),
    field("Priority", "priority", Nullable),
    field("PreemptionPolicy", "preemptionPolicy", Nullable),
    field("DNSConfig", "dnsConfig", Nullable),
    field("ReadinessGates", "readinessGates", Nullable),
    field("RuntimeClassName", "runtimeClassName", Nullable),
    field("Overhead", "overhead", Nullable),
    field("EnableServiceLinks", "enableServiceLinks", Nullable),
    field("TopologySpreadConstraints", "topologySpreadConstraints", Nullable),
    field("OS", "os", Nullable),
    field("SchedulingGates", "schedulingGates", List(SECRET_REF)),
    field("ResourceClaims", "resourceClaims", Nullable),
    field("Resources", "resources", Pointer(RESOURCES)),
    field("HostnameOverride", "hostnameOverride", Nullable),
    field("SchedulingGroup", "schedulingGroup", Nullable),
];

/// A value in printing order.
pub enum Dump {
    Plain(Value),
    Object(Vec<(String, Dump)>),
    List(Vec<Dump>),
}

/// A pod spec.
pub fn pod_spec(spec: &Value) -> Dump {
    let mut spec = spec.clone();
    let moved: Vec<(&str, Value)> = [
        "hostNetwork",
        "hostPID",
        "hostIPC",
        "shareProcessNamespace",
        "hostUsers",
    ]
    .into_iter()
    .filter_map(|key| spec.get(key).cloned().map(|v| (key, v)))
    .collect();
    let context = crate::kinds::access::child(&mut spec, "securityContext");
    for (key, value) in moved {
        crate::kinds::access::set(context, key, value);
    }
    let mut dump = object(&spec, SPEC);
    if let (Dump::Object(fields), Value::Array(containers)) = (&mut dump, get(&spec, "ephemeralContainers"))
        && let Some((_, slot)) = fields.iter_mut().find(|(name, _)| name == "EphemeralContainers")
    {
        *slot = Dump::List(containers.iter().map(ephemeral).collect());
    }
    dump
}

/// An ephemeral container.
pub fn ephemeral(container: &Value) -> Dump {
    let mut dump = object(container, CONTAINER);
    if let Dump::Object(fields) = &mut dump {
        fields.push((TARGET.shown.to_owned(), one(get(container, TARGET.wire), TARGET.print)));
    }
    dump
}

/// A pod template: its metadata as on the wire, its spec as here.
pub fn template(template: &Value) -> Dump {
    const METADATA: &[&str] = &[
        "name",
        "generateName",
        "namespace",
        "labels",
        "annotations",
        "ownerReferences",
        "finalizers",
    ];
    let metadata = get(template, "metadata");
    let mut fields: Vec<(String, Dump)> = METADATA
        .iter()
        .filter_map(|key| metadata.get(*key).map(|v| ((*key).to_owned(), Dump::Plain(v.clone()))))
        .collect();
    fields.push(("Spec".to_owned(), pod_spec(get(template, "spec"))));
    Dump::Object(fields)
}

fn object(v: &Value, fields: &[Field]) -> Dump {
    Dump::Object(
        fields
            .iter()
            .map(|f| (f.shown.to_owned(), one(get(v, f.wire), f.print)))
            .collect(),
    )
}

fn one(v: &Value, print: Print) -> Dump {
    match (print, v) {
        (Inline(fields), v) => object(v, fields),
        (Pointer(fields), v) if v.is_object() => object(v, fields),
        (List(fields), Value::Array(items)) if !items.is_empty() => {
            Dump::List(items.iter().map(|i| object(i, fields)).collect())
        }
        (Text, Value::Null) => Dump::Plain(Value::from("")),
        (Flag, Value::Null) => Dump::Plain(Value::from(false)),
        (Number, Value::Null) => Dump::Plain(Value::from(0)),
        (Nullable, v) if crate::kinds::access::is_empty(v) => Dump::Plain(Value::Null),
        (_, v) => Dump::Plain(v.clone()),
    }
}

impl Dump {
    /// On one line.
    pub fn compact(&self) -> String {
        match self {
            Self::Plain(v) => crate::kinds::go::json_text(v),
            Self::Object(fields) => {
                let shown: Vec<String> = fields.iter().map(|(k, v)| format!("\"{k}\":{}", v.compact())).collect();
                format!("{{{}}}", shown.join(","))
            }
            Self::List(items) => format!("[{}]", items.iter().map(Self::compact).collect::<Vec<_>>().join(",")),
        }
    }

    /// One member a line, one space of indentation a level.
    fn lines(&self, indent: usize, before: &str, after: &str, out: &mut Vec<String>) {
        let pad = " ".repeat(indent);
        let plain = |v: &Value| Dump::of(v);
        match self {
            Self::Plain(v) if v.is_object() || v.is_array() => match plain(v) {
                Self::Plain(v) => out.push(format!("{pad}{before}{}{after}", crate::kinds::go::json_text(&v))),
                other => other.lines(indent, before, after, out),
            },
            Self::Plain(v) => out.push(format!("{pad}{before}{}{after}", crate::kinds::go::json_text(v))),
            Self::Object(fields) => {
                out.push(format!("{pad}{before}{{"));
                for (i, (key, value)) in fields.iter().enumerate() {
                    let comma = if i + 1 < fields.len() { "," } else { "" };
                    value.lines(indent + 1, &format!("\"{key}\": "), comma, out);
                }
                out.push(format!("{pad}}}{after}"));
            }
            Self::List(items) => {
                out.push(format!("{pad}{before}["));
                for (i, item) in items.iter().enumerate() {
                    item.lines(indent + 1, "", if i + 1 < items.len() { "," } else { "" }, out);
                }
                out.push(format!("{pad}]{after}"));
            }
        }
    }

    /// A plain value opened up one level; empty containers stay plain.
    fn of(v: &Value) -> Dump {
        match v {
            Value::Object(map) if !map.is_empty() => {
                Self::Object(map.iter().map(|(k, v)| (k.clone(), Self::of(v))).collect())
            }
            Value::Array(items) if !items.is_empty() => Self::List(items.iter().map(Self::of).collect()),
            other => Self::Plain(other.clone()),
        }
    }
}

/// A unified difference with three lines around each change; nothing when they print the same.
pub fn diff(old: &Dump, new: &Dump) -> String {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    old.lines(0, "", "", &mut a);
    new.lines(0, "", "", &mut b);
    difference::unified(&a, &b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The server that refusals were recorded from mounted one more ConfigMap with one key into its pods.
    const EXTRA_SOURCE_LINES: usize = 18;

    /// The lines that a recorded refusal points at.
    #[test]
    fn lines_of_a_pod() {
        let toleration =
            |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
        let mut spec = json!({
            "volumes": [{"name": "kube-api-access-abcde", "projected": {"sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
            ], "defaultMode": 420}}],
            "containers": [{"name": "c", "image": "img.example/app:1", "resources": {},
                "volumeMounts": [{"name": "kube-api-access-abcde", "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}],
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File", "imagePullPolicy": "IfNotPresent"}],
            "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst", "serviceAccountName": "default",
            "securityContext": {}, "schedulerName": "none.example", "tolerations": [toleration("a"), toleration("b")], "priority": 0,
            "enableServiceLinks": true, "preemptionPolicy": "PreemptLowerPriority",
        });
        let mut lines = Vec::new();
        pod_spec(&spec).lines(0, "", "", &mut lines);
        let line = |text: &str| lines.iter().position(|l| l == text).map_or(0, |i| i + 1);
        assert_eq!(line(" \"EphemeralContainers\": null,"), 153 - EXTRA_SOURCE_LINES);
        let resources =
            json!({"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "200m", "memory": "64Mi"}});
        spec["containers"][0]["resources"] = resources;
        let old = pod_spec(&spec);
        spec["containers"][0]["resources"]["requests"]["cpu"] = json!("150m");
        let expected = "@@ -105,7 +105,7 @@\n      \"memory\": \"64Mi\"\n     },\n     \"Requests\": {\n-     \"cpu\": \"100m\",\n+     \"cpu\": \"150m\",\n      \"memory\": \"64Mi\"\n     },\n     \"Claims\": null\n";
        assert_eq!(diff(&old, &pod_spec(&spec)), expected);
    }
}

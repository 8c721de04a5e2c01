//! Text fields with a closed set of values, for OpenAPI (`enum`) and for naming the choices to a user; and the defaults
//! that types declare.

use serde_json::Value;

/// The values that a field, or an item of a list, may have, sorted; empty when it is open or unknown. `type_name` is the
/// full name of a built-in type.
pub fn choices(type_name: &str, field: &str) -> &'static [&'static str] {
    let owner = type_name.rsplit('.').next().unwrap_or(type_name);
    if !type_name.starts_with("io.k8s.") {
        return &[];
    }
    let found = TABLE
        .iter()
        .find(|(owners, name, _)| *name == field && owners.contains(&owner));
    found.map_or(&[], |(_, _, values)| values)
}

/// The default that a built-in type declares for a field.
pub fn declared_default(type_name: &str, field: &str) -> Option<Value> {
    let owner = type_name.rsplit('.').next().unwrap_or(type_name);
    if (owner, field) == ("AzureDiskVolumeSource", "readOnly") {
        return Some(Value::Bool(false));
    }
    let found = DEFAULTS
        .iter()
        .find(|(owners, name, _)| *name == field && owners.contains(&owner));
    found.map(|(_, _, value)| Value::from(*value))
}

/// `(types, field, default)`.
static DEFAULTS: &[(&[&str], &str, &str)] = &[
    (&["AzureDiskVolumeSource"], "cachingMode", "ReadWrite"),
    (&["AzureDiskVolumeSource"], "fsType", "ext4"),
    (&["AzureDiskVolumeSource"], "kind", "Shared"),
    (
        &[
            "ConfigMapEnvSource",
            "ConfigMapKeySelector",
            "ConfigMapProjection",
            "ConfigMapVolumeSource",
            "LocalObjectReference",
            "SecretEnvSource",
            "SecretKeySelector",
            "SecretProjection",
        ],
        "name",
        "",
    ),
    (&["ContainerPort", "ServicePort"], "protocol", "TCP"),
    (&["GRPCAction"], "service", ""),
    (
        &["ISCSIPersistentVolumeSource", "ISCSIVolumeSource"],
        "iscsiInterface",
        "default",
    ),
    (RBD, "keyring", "/etc/ceph/keyring"),
    (RBD, "pool", "rbd"),
    (RBD, "user", "admin"),
    (SCALE_IO, "fsType", "xfs"),
    (SCALE_IO, "storageMode", "ThinProvisioned"),
];

type Row = (&'static [&'static str], &'static str, &'static [&'static str]);

const RBD: &[&str] = &["RBDPersistentVolumeSource", "RBDVolumeSource"];
const SCALE_IO: &[&str] = &["ScaleIOPersistentVolumeSource", "ScaleIOVolumeSource"];
const PULL: &[&str] = &["Always", "IfNotPresent", "Never"];
pub(crate) const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];
pub(crate) const KEY_USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "PreferNoSchedule"];
pub(crate) const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const RECLAIM: &[&str] = &["Delete", "Recycle", "Retain"];
const PREEMPTION: &[&str] = &["Never", "PreemptLowerPriority"];
const HONOR: &[&str] = &["Honor", "Ignore"];
const MODES: &[&str] = &["Block", "Filesystem"];
pub(crate) const PROFILES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];
const CONTAINERS: &[&str] = &["Container", "EphemeralContainer"];
const WEBHOOKS: &[&str] = &["MutatingWebhook", "ValidatingWebhook"];

/// `(types, field, values)`.
static TABLE: &[Row] = &[
    (&["AppArmorProfile", "SeccompProfile"], "type", PROFILES),
    (
        &["AzureDiskVolumeSource"],
        "cachingMode",
        &["None", "ReadOnly", "ReadWrite"],
    ),
    (&["AzureDiskVolumeSource"], "kind", &["Dedicated", "Managed", "Shared"]),
    (&["CertificateSigningRequestSpec"], "usages", KEY_USAGES),
    (CONTAINERS, "imagePullPolicy", PULL),
    (
        CONTAINERS,
        "terminationMessagePolicy",
        &["FallbackToLogsOnError", "File"],
    ),
    (
        &[
            "ContainerPort",
            "EndpointPort",
            "IngressPortStatus",
            "NetworkPolicyPort",
            "PortStatus",
            "ServicePort",
        ],
        "protocol",
        PROTOCOLS,
    ),
    (&["CronJobSpec"], "concurrencyPolicy", &["Allow", "Forbid", "Replace"]),
    (
        &["DaemonSetUpdateStrategy", "StatefulSetUpdateStrategy"],
        "type",
        &["OnDelete", "RollingUpdate"],
    ),
    (&["DeploymentStrategy"], "type", &["Recreate", "RollingUpdate"]),
    (&["DeviceToleration"], "operator", &["Equal", "Exists"]),
    (&["EndpointSlice"], "addressType", &["FQDN", "IPv4", "IPv6"]),
    (&["HTTPGetAction"], "scheme", &["HTTP", "HTTPS"]),
    (
        &["HTTPIngressPath"],
        "pathType",
        &["Exact", "ImplementationSpecific", "Prefix"],
    ),
    (
        &["HostPathVolumeSource"],
        "type",
        &[
            "",
            "BlockDevice",
            "CharDevice",
            "Directory",
            "DirectoryOrCreate",
            "File",
            "FileOrCreate",
            "Socket",
        ],
    ),
    (&["ImageVolumeSource"], "pullPolicy", PULL),
    (&["JobSpec"], "completionMode", &["Indexed", "NonIndexed"]),
    (&["JobSpec"], "podReplacementPolicy", &["Failed", "TerminatingOrFailed"]),
    (
        &["MutatingAdmissionPolicySpec", "ValidatingAdmissionPolicySpec"],
        "failurePolicy",
        &["Fail", "Ignore"],
    ),
    (&["MatchResources"], "matchPolicy", &["Equivalent", "Exact"]),
    (WEBHOOKS, "failurePolicy", &["Fail", "Ignore"]),
    (WEBHOOKS, "matchPolicy", &["Equivalent", "Exact"]),
    (WEBHOOKS, "sideEffects", &["None", "NoneOnDryRun", "Some", "Unknown"]),
    (
        &["ModifyVolumeStatus"],
        "status",
        &["InProgress", "Infeasible", "Pending"],
    ),
    (
        &["MutatingAdmissionPolicySpec", "MutatingWebhook"],
        "reinvocationPolicy",
        &["IfNeeded", "Never"],
    ),
    (&["Mutation"], "patchType", &["ApplyConfiguration", "JSONPatch"]),
    (&["NamespaceStatus"], "phase", &["Active", "Terminating"]),
    (&["NetworkPolicySpec"], "policyTypes", &["Egress", "Ingress"]),
    (
        &["NodeSelectorRequirement"],
        "operator",
        &["DoesNotExist", "Exists", "Gt", "In", "Lt", "NotIn"],
    ),
    (&["NodeStatus"], "phase", &["Pending", "Running", "Terminated"]),
    (&["ParamRef"], "parameterNotFoundAction", &["Allow", "Deny"]),
    (
        &[
            "PersistentVolumeClaimSpec",
            "PersistentVolumeClaimStatus",
            "PersistentVolumeSpec",
        ],
        "accessModes",
        &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"],
    ),
    (
        &["PersistentVolumeClaimSpec", "PersistentVolumeSpec"],
        "volumeMode",
        MODES,
    ),
    (&["PersistentVolumeClaimStatus"], "phase", &["Bound", "Lost", "Pending"]),
    (&["PersistentVolumeSpec"], "persistentVolumeReclaimPolicy", RECLAIM),
    (
        &["PersistentVolumeStatus"],
        "phase",
        &["Available", "Bound", "Failed", "Pending", "Released"],
    ),
    (
        &["PodDisruptionBudgetSpec"],
        "unhealthyPodEvictionPolicy",
        &["AlwaysAllow", "IfHealthyBudget"],
    ),
    (
        &["PodFailurePolicyOnExitCodesRequirement"],
        "operator",
        &["In", "NotIn"],
    ),
    (
        &["PodFailurePolicyRule"],
        "action",
        &["Count", "FailIndex", "FailJob", "Ignore"],
    ),
    (
        &["PodSecurityContext"],
        "fsGroupChangePolicy",
        &["Always", "OnRootMismatch"],
    ),
    (
        &["PodSecurityContext"],
        "supplementalGroupsPolicy",
        &["Merge", "Strict"],
    ),
    (
        &["PodSpec"],
        "dnsPolicy",
        &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"],
    ),
    (&["PodSpec"], "restartPolicy", &["Always", "Never", "OnFailure"]),
    (&["PodSpec", "PriorityClass"], "preemptionPolicy", PREEMPTION),
    (
        &["PodStatus"],
        "phase",
        &["Failed", "Pending", "Running", "Succeeded", "Unknown"],
    ),
    (&["PodStatus"], "qosClass", &["BestEffort", "Burstable", "Guaranteed"]),
    (&["ResourceQuotaSpec"], "scopes", SCOPES),
    (
        &["RuleWithOperations", "NamedRuleWithOperations"],
        "operations",
        &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"],
    ),
    (
        &["RuleWithOperations", "NamedRuleWithOperations"],
        "scope",
        &["*", "Cluster", "Namespaced"],
    ),
    (
        &["ScopedResourceSelectorRequirement"],
        "operator",
        &["DoesNotExist", "Exists", "In", "NotIn"],
    ),
    (&["ScopedResourceSelectorRequirement"], "scopeName", SCOPES),
    (&["SecurityContext"], "procMount", &["Default", "Unmasked"]),
    (&["ServiceSpec"], "externalTrafficPolicy", &["Cluster", "Local"]),
    (&["ServiceSpec"], "internalTrafficPolicy", &["Cluster", "Local"]),
    (&["ServiceSpec"], "ipFamilies", &["", "IPv4", "IPv6"]),
    (
        &["ServiceSpec"],
        "ipFamilyPolicy",
        &["PreferDualStack", "RequireDualStack", "SingleStack"],
    ),
    (&["ServiceSpec"], "sessionAffinity", &["ClientIP", "None"]),
    (
        &["ServiceSpec"],
        "type",
        &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"],
    ),
    (
        &["StatefulSetSpec"],
        "podManagementPolicy",
        &["OrderedReady", "Parallel"],
    ),
    (&["StorageClass"], "reclaimPolicy", RECLAIM),
    (
        &["StorageClass"],
        "volumeBindingMode",
        &["Immediate", "WaitForFirstConsumer"],
    ),
    (&["Taint", "Toleration"], "effect", EFFECTS),
    (&["Toleration"], "operator", &["Equal", "Exists", "Gt", "Lt"]),
    (&["TopologySpreadConstraint"], "nodeAffinityPolicy", HONOR),
    (&["TopologySpreadConstraint"], "nodeTaintsPolicy", HONOR),
    (
        &["TopologySpreadConstraint"],
        "whenUnsatisfiable",
        &["DoNotSchedule", "ScheduleAnyway"],
    ),
    (
        &["ValidatingAdmissionPolicyBindingSpec"],
        "validationActions",
        &["Audit", "Deny", "Warn"],
    ),
    (
        &["VolumeMount"],
        "mountPropagation",
        &["Bidirectional", "HostToContainer", "None"],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Shape, types};

    #[test]
    fn every_row_names_fields_that_exist() {
        let values = TABLE.iter().map(|(owners, field, _)| (owners, field));
        for (owners, field) in values.chain(DEFAULTS.iter().map(|(owners, field, _)| (owners, field))) {
            for owner in *owners {
                let ending = format!(".{owner}");
                let found = types()
                    .iter()
                    .filter(|row| row.name.ends_with(&ending))
                    .filter_map(|row| row.field(field));
                let is_text = |shape: Shape| matches!(shape, Shape::String { .. });
                let texts = found
                    .filter(|found| is_text(found.shape) || matches!(found.shape, Shape::Array(item) if is_text(*item)))
                    .count();
                assert!(texts > 0, "{owner}.{field}");
            }
        }
        for (_, field, values) in TABLE {
            assert!(values.is_sorted(), "{field}");
        }
        assert_eq!(choices("io.k8s.api.core.v1.PodSpec", "restartPolicy").len(), 3);
        assert!(choices("io.k8s.api.core.v1.PodSpec", "nodeName").is_empty());
    }
}

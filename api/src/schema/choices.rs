//! Text fields with a closed set of values, for OpenAPI (`enum`) and for naming the choices to a user.

/// The values that a field may have, sorted; empty when the field is open or unknown. `type_name` is the full
/// name of a built-in type.
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

type Row = (&'static [&'static str], &'static str, &'static [&'static str]);

const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "PreferNoSchedule"];
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const RECLAIM: &[&str] = &["Delete", "Recycle", "Retain"];
const PREEMPTION: &[&str] = &["Never", "PreemptLowerPriority"];
const HONOR: &[&str] = &["Honor", "Ignore"];
const MODES: &[&str] = &["Block", "Filesystem"];
const PROFILES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];
const CONTAINERS: &[&str] = &["Container", "EphemeralContainer"];
const WEBHOOKS: &[&str] = &["MutatingWebhook", "ValidatingWebhook"];

/// `(types, field, values)`.
static TABLE: &[Row] = &[
    (&["AppArmorProfile", "SeccompProfile"], "type", PROFILES),
    (CONTAINERS, "imagePullPolicy", &["Always", "IfNotPresent", "Never"]),
    (
        CONTAINERS,
        "terminationMessagePolicy",
        &["FallbackToLogsOnError", "File"],
    ),
    (
        &[
            "ContainerPort",
            "EndpointPort",
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
    (&["MutatingWebhook"], "reinvocationPolicy", &["IfNeeded", "Never"]),
    (&["NamespaceStatus"], "phase", &["Active", "Terminating"]),
    (
        &["NodeSelectorRequirement"],
        "operator",
        &["DoesNotExist", "Exists", "Gt", "In", "Lt", "NotIn"],
    ),
    (&["NodeStatus"], "phase", &["Pending", "Running", "Terminated"]),
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
    (&["SecurityContext"], "procMount", &["Default", "Unmasked"]),
    (&["ServiceSpec"], "externalTrafficPolicy", &["Cluster", "Local"]),
    (&["ServiceSpec"], "internalTrafficPolicy", &["Cluster", "Local"]),
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
    (&["TopologySpreadConstraint"], "nodeAffinityPolicy", HONOR),
    (&["TopologySpreadConstraint"], "nodeTaintsPolicy", HONOR),
    (
        &["TopologySpreadConstraint"],
        "whenUnsatisfiable",
        &["DoNotSchedule", "ScheduleAnyway"],
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
        for (owners, field, values) in TABLE {
            for owner in *owners {
                let ending = format!(".{owner}");
                let found = types()
                    .iter()
                    .filter(|row| row.name.ends_with(&ending))
                    .filter_map(|row| row.field(field));
                let texts = found
                    .filter(|found| matches!(found.shape, Shape::String { .. }))
                    .count();
                assert!(texts > 0, "{owner}.{field}");
            }
            assert!(values.is_sorted(), "{field}");
        }
        assert_eq!(choices("io.k8s.api.core.v1.PodSpec", "restartPolicy").len(), 3);
        assert!(choices("io.k8s.api.core.v1.PodSpec", "nodeName").is_empty());
    }
}

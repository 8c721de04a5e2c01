//! How Go's encoder prints built-in types where the schema alone does not say it.
//!
//! Go tells pointers from values: a struct that is a value is printed even when it is empty, a zero behind a
//! pointer is printed although the field is optional, and a list without `omitempty` is printed as `null`.
//! The schema does not tell these apart, so the fields are listed here, by the short names of their types.

use super::Shape;

/// What is special about printing one field; see the fields of the same names in [`super::Field`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PrintFacts {
    pub always: bool,
    pub pointer: bool,
    pub keeps_empty: bool,
    pub zero: bool,
    pub null: bool,
}

/// The default of a field that may be left out of an item of an associative list although it is a key.
pub(super) fn key_default(type_name: &str, field: &str) -> Option<&'static str> {
    match (short(type_name), field) {
        ("ContainerPort" | "ServicePort", "protocol") => Some("TCP"),
        _ => None,
    }
}

/// How the field is printed.
pub(super) fn print_facts(type_name: &str, field: &str, shape: Shape, required: bool) -> PrintFacts {
    let owner = short(type_name);
    let is_number = matches!(shape, Shape::Integer { .. } | Shape::Number | Shape::Boolean);
    let pointer = match shape {
        _ if is_number => !listed(PLAIN_NUMBERS, owner, field) && !plain_read_only(owner, field),
        // The two endpoint ports share their short name; the old one has a plain name.
        Shape::String { .. } if type_name == "io.k8s.api.core.v1.EndpointPort" && field == "name" => false,
        Shape::String { .. } => listed(POINTER_TEXTS, owner, field),
        _ => true,
    };
    let null = prints_null(owner, field, shape, required);
    PrintFacts {
        always: matches!(shape, Shape::Object(_)) && always_printed(owner, field, required),
        pointer,
        keeps_empty: null,
        zero: required || listed(ZEROES, owner, field) || is_reporter(type_name, field),
        null,
    }
}

fn always_printed(owner: &str, field: &str, required: bool) -> bool {
    if listed(POINTER_STRUCTS, owner, field) {
        return false;
    }
    let nested_spec = matches!(field, "metadata" | "spec" | "status") && owner != "CustomResourceSubresources";
    required || nested_spec || listed(VALUE_STRUCTS, owner, field)
}

fn prints_null(owner: &str, field: &str, shape: Shape, required: bool) -> bool {
    match shape {
        Shape::Array(_) | Shape::Map(_) => required || listed(NULL_LISTS, owner, field),
        Shape::Time | Shape::MicroTime => {
            let condition = owner.ends_with("Condition")
                && matches!(field, "lastTransitionTime" | "lastUpdateTime" | "lastHeartbeatTime")
                || matches!(
                    (owner, field),
                    (
                        "PodCondition" | "JobCondition" | "PersistentVolumeClaimCondition",
                        "lastProbeTime"
                    )
                );
            condition || listed(NULL_TIMES, owner, field)
        }
        Shape::Object(_) => (owner, field) == ("TokenRequestSpec", "boundObjectRef"),
        _ => false,
    }
}

/// Who reported an event is printed in the core group only.
fn is_reporter(type_name: &str, field: &str) -> bool {
    type_name == "io.k8s.api.core.v1.Event" && matches!(field, "reportingComponent" | "reportingInstance")
}

/// `readOnly` of the volume sources is a value nearly everywhere.
fn plain_read_only(owner: &str, field: &str) -> bool {
    field == "readOnly" && !matches!(owner, "AzureDiskVolumeSource" | "CSIVolumeSource")
}

fn listed(table: &[(&str, &[&str])], owner: &str, field: &str) -> bool {
    table
        .iter()
        .any(|(name, fields)| *name == owner && fields.contains(&field))
}

/// `Pod` of `io.k8s.api.core.v1.Pod`.
fn short(type_name: &str) -> &str {
    type_name.rsplit('.').next().unwrap_or(type_name)
}

/// Required structs that are pointers.
static POINTER_STRUCTS: &[(&str, &[&str])] = &[
    ("DaemonSetSpec", &["selector"]),
    ("DeploymentSpec", &["selector"]),
    ("IPAddressSpec", &["parentRef"]),
    ("ReplicaSetSpec", &["selector"]),
    ("ScaleIOPersistentVolumeSource", &["secretRef"]),
    ("ScaleIOVolumeSource", &["secretRef"]),
    ("StatefulSetSpec", &["selector"]),
];

/// Optional structs that are values.
static VALUE_STRUCTS: &[(&str, &[&str])] = &[
    ("APIGroup", &["preferredVersion"]),
    ("AllocationResult", &["devices"]),
    ("Container", &["resources"]),
    ("ContainerStatus", &["lastState", "state"]),
    ("CustomResourceDefinitionStatus", &["acceptedNames"]),
    ("DaemonSetSpec", &["updateStrategy"]),
    ("DeploymentSpec", &["strategy"]),
    ("Endpoint", &["conditions"]),
    ("EphemeralContainer", &["resources"]),
    ("Event", &["source", "deprecatedSource", "regarding"]),
    ("IngressServiceBackend", &["port"]),
    ("IngressStatus", &["loadBalancer"]),
    ("LimitedPriorityLevelConfiguration", &["limitResponse"]),
    ("NetworkPolicySpec", &["podSelector"]),
    ("NodeDaemonEndpoints", &["kubeletEndpoint"]),
    ("NodeStatus", &["daemonEndpoints", "nodeInfo"]),
    ("PersistentVolumeClaimSpec", &["resources"]),
    ("PodTemplate", &["template"]),
    ("ReplicaSetSpec", &["template"]),
    ("ResourceClaimSpec", &["devices"]),
    ("SelfSubjectReviewStatus", &["userInfo"]),
    ("ServiceStatus", &["loadBalancer"]),
    ("StatefulSetSpec", &["updateStrategy"]),
    ("TokenReviewStatus", &["user"]),
];

/// Optional numbers and flags that are values: zero and absent are the same.
static PLAIN_NUMBERS: &[(&str, &[&str])] = &[
    ("APIServiceSpec", &["insecureSkipTLSVerify"]),
    ("AWSElasticBlockStoreVolumeSource", &["partition"]),
    ("Condition", &["observedGeneration"]),
    ("Container", &["stdin", "stdinOnce", "tty"]),
    ("ContainerImage", &["sizeBytes"]),
    ("ContainerPort", &["hostPort"]),
    ("ContainerStateTerminated", &["signal"]),
    ("CustomResourceColumnDefinition", &["priority"]),
    ("CustomResourceDefinitionCondition", &["observedGeneration"]),
    ("CustomResourceDefinitionSpec", &["preserveUnknownFields"]),
    ("CustomResourceDefinitionStatus", &["observedGeneration"]),
    ("CustomResourceDefinitionVersion", &["deprecated"]),
    ("DaemonSetSpec", &["minReadySeconds"]),
    (
        "DaemonSetStatus",
        &[
            "numberAvailable",
            "numberUnavailable",
            "observedGeneration",
            "updatedNumberScheduled",
        ],
    ),
    ("DeploymentSpec", &["minReadySeconds", "paused"]),
    (
        "DeploymentStatus",
        &[
            "availableReplicas",
            "observedGeneration",
            "readyReplicas",
            "replicas",
            "unavailableReplicas",
            "updatedReplicas",
        ],
    ),
    ("DeviceSubRequest", &["count"]),
    ("EphemeralContainer", &["stdin", "stdinOnce", "tty"]),
    ("Event", &["count", "deprecatedCount"]),
    ("EventSeries", &["count"]),
    ("ExactDeviceRequest", &["count"]),
    ("FlowSchemaSpec", &["matchingPrecedence"]),
    ("GCEPersistentDiskVolumeSource", &["partition"]),
    ("HorizontalPodAutoscalerStatus", &["currentReplicas"]),
    ("ISCSIPersistentVolumeSource", &["chapAuthDiscovery", "chapAuthSession"]),
    ("ISCSIVolumeSource", &["chapAuthDiscovery", "chapAuthSession"]),
    (
        "JSONSchemaProps",
        &[
            "exclusiveMaximum",
            "exclusiveMinimum",
            "nullable",
            "uniqueItems",
            "x-kubernetes-embedded-resource",
            "x-kubernetes-int-or-string",
        ],
    ),
    ("JobStatus", &["active", "failed", "succeeded"]),
    ("NodeSpec", &["unschedulable"]),
    ("ObjectMeta", &["generation"]),
    ("PodCondition", &["observedGeneration"]),
    ("PodDisruptionBudgetStatus", &["observedGeneration"]),
    ("PodSpec", &["hostIPC", "hostNetwork", "hostPID"]),
    ("PodStatus", &["observedGeneration"]),
    ("PriorityClass", &["globalDefault"]),
    (
        "Probe",
        &[
            "failureThreshold",
            "initialDelaySeconds",
            "periodSeconds",
            "successThreshold",
            "timeoutSeconds",
        ],
    ),
    ("QueuingConfiguration", &["handSize", "queueLengthLimit", "queues"]),
    ("ReplicaSetSpec", &["minReadySeconds"]),
    (
        "ReplicaSetStatus",
        &[
            "availableReplicas",
            "fullyLabeledReplicas",
            "observedGeneration",
            "readyReplicas",
        ],
    ),
    ("ReplicationControllerSpec", &["minReadySeconds"]),
    (
        "ReplicationControllerStatus",
        &[
            "availableReplicas",
            "fullyLabeledReplicas",
            "observedGeneration",
            "readyReplicas",
        ],
    ),
    ("ResourcePolicyRule", &["clusterScope"]),
    ("ScaleIOPersistentVolumeSource", &["sslEnabled"]),
    ("ScaleIOVolumeSource", &["sslEnabled"]),
    ("ScaleSpec", &["replicas"]),
    ("ServiceBackendPort", &["number"]),
    ("ServicePort", &["nodePort"]),
    ("ServiceSpec", &["healthCheckNodePort", "publishNotReadyAddresses"]),
    ("StatefulSetSpec", &["minReadySeconds"]),
    (
        "StatefulSetStatus",
        &[
            "currentReplicas",
            "observedGeneration",
            "readyReplicas",
            "updatedReplicas",
        ],
    ),
    ("Status", &["code"]),
    ("StatusDetails", &["retryAfterSeconds"]),
    ("SubjectAccessReviewStatus", &["denied"]),
    ("TokenReviewStatus", &["authenticated"]),
    ("ValidatingAdmissionPolicyStatus", &["observedGeneration"]),
];

/// Optional fields that are printed as zero when they were never set.
static ZEROES: &[(&str, &[&str])] = &[
    (
        "PodDisruptionBudgetStatus",
        &["currentHealthy", "desiredHealthy", "disruptionsAllowed", "expectedPods"],
    ),
    ("PriorityClass", &["value"]),
    ("ResourceFieldSelector", &["divisor"]),
    ("StatefulSetOrdinals", &["start"]),
    ("StatefulSetStatus", &["availableReplicas"]),
];

/// Optional texts behind a pointer: empty and absent differ.
static POINTER_TEXTS: &[(&str, &[&str])] = &[
    ("AppArmorProfile", &["localhostProfile"]),
    ("AzureDiskVolumeSource", &["cachingMode", "fsType", "kind"]),
    ("AzureFilePersistentVolumeSource", &["secretNamespace"]),
    ("CSIDriverSpec", &["fsGroupPolicy"]),
    ("CSIVolumeSource", &["fsType"]),
    ("ClusterTrustBundleProjection", &["name", "signerName"]),
    ("Container", &["restartPolicy"]),
    ("ContainerStatus", &["stopSignal"]),
    ("CronJobSpec", &["timeZone"]),
    ("CustomResourceDefinitionVersion", &["deprecationWarning"]),
    ("CustomResourceSubresourceScale", &["labelSelectorPath"]),
    ("DeleteOptions", &["propagationPolicy"]),
    ("DeviceAttribute", &["string", "version"]),
    ("Endpoint", &["hostname", "nodeName", "zone"]),
    ("EndpointAddress", &["nodeName"]),
    ("EndpointPort", &["appProtocol", "name", "protocol"]),
    ("EphemeralContainer", &["restartPolicy"]),
    ("GRPCAction", &["service"]),
    ("HPAScalingRules", &["selectPolicy"]),
    ("HTTPIngressPath", &["pathType"]),
    ("HostPathVolumeSource", &["type"]),
    ("ISCSIPersistentVolumeSource", &["initiatorName"]),
    ("ISCSIVolumeSource", &["initiatorName"]),
    ("IngressClassParametersReference", &["apiGroup", "namespace", "scope"]),
    ("IngressSpec", &["ingressClassName"]),
    (
        "JSONSchemaProps",
        &["$ref", "x-kubernetes-list-type", "x-kubernetes-map-type"],
    ),
    ("JobSpec", &["completionMode", "managedBy", "podReplacementPolicy"]),
    ("JobStatus", &["failedIndexes"]),
    ("LeaseSpec", &["holderIdentity", "preferredHolder", "strategy"]),
    ("Lifecycle", &["stopSignal"]),
    ("LoadBalancerIngress", &["ipMode"]),
    ("LocalVolumeSource", &["fsType"]),
    ("MatchResources", &["matchPolicy"]),
    (
        "MutatingWebhook",
        &["failurePolicy", "matchPolicy", "reinvocationPolicy", "sideEffects"],
    ),
    ("NetworkPolicyPort", &["protocol"]),
    ("ParamRef", &["parameterNotFoundAction"]),
    (
        "PersistentVolumeClaimSpec",
        &["storageClassName", "volumeAttributesClassName", "volumeMode"],
    ),
    ("PersistentVolumeClaimStatus", &["currentVolumeAttributesClassName"]),
    ("PersistentVolumeSpec", &["volumeAttributesClassName", "volumeMode"]),
    ("PodDNSConfigOption", &["value"]),
    ("PodDisruptionBudgetSpec", &["unhealthyPodEvictionPolicy"]),
    ("PodFailurePolicyOnExitCodesRequirement", &["containerName"]),
    ("PodFailurePolicyOnPodConditionsPattern", &["status"]),
    (
        "PodSecurityContext",
        &["fsGroupChangePolicy", "seLinuxChangePolicy", "supplementalGroupsPolicy"],
    ),
    ("PodSpec", &["hostnameOverride", "preemptionPolicy", "runtimeClassName"]),
    ("Preconditions", &["resourceVersion", "uid"]),
    ("PriorityClass", &["preemptionPolicy"]),
    ("ResourceSliceSpec", &["nodeName"]),
    ("RuleWithOperations", &["scope"]),
    ("SeccompProfile", &["localhostProfile"]),
    ("SecurityContext", &["procMount"]),
    ("ServicePort", &["appProtocol"]),
    ("ServiceReference", &["path"]),
    (
        "ServiceSpec",
        &[
            "internalTrafficPolicy",
            "ipFamilyPolicy",
            "loadBalancerClass",
            "trafficDistribution",
        ],
    ),
    ("StorageClass", &["reclaimPolicy", "volumeBindingMode"]),
    ("SuccessPolicyRule", &["succeededIndexes"]),
    ("TopologySpreadConstraint", &["nodeAffinityPolicy", "nodeTaintsPolicy"]),
    ("TypedLocalObjectReference", &["apiGroup"]),
    ("TypedObjectReference", &["apiGroup", "namespace"]),
    ("ValidatingAdmissionPolicySpec", &["failurePolicy"]),
    ("MutatingAdmissionPolicySpec", &["failurePolicy"]),
    ("ValidatingWebhook", &["failurePolicy", "matchPolicy", "sideEffects"]),
    ("Validation", &["reason"]),
    ("ValidationRule", &["reason"]),
    ("VolumeAttachmentSource", &["persistentVolumeName"]),
    ("VolumeMount", &["mountPropagation", "recursiveReadOnly"]),
    ("VolumeMountStatus", &["recursiveReadOnly"]),
    ("WebhookClientConfig", &["url"]),
    (
        "WindowsSecurityContextOptions",
        &["gmsaCredentialSpec", "gmsaCredentialSpecName", "runAsUserName"],
    ),
];

/// Optional lists and maps without `omitempty`: printed as `null` when absent.
static NULL_LISTS: &[(&str, &[&str])] = &[
    ("ClusterRole", &["rules"]),
    ("CustomResourceDefinitionStatus", &["conditions", "storedVersions"]),
    ("EndpointSlice", &["endpoints", "ports"]),
    ("HorizontalPodAutoscalerStatus", &["currentMetrics"]),
    ("Role", &["rules"]),
];

/// Times that are values without a rule for zero: printed as `null` when absent.
static NULL_TIMES: &[(&str, &[&str])] = &[
    ("ContainerStateRunning", &["startedAt"]),
    ("ContainerStateTerminated", &["finishedAt", "startedAt"]),
    (
        "Event",
        &[
            "deprecatedFirstTimestamp",
            "deprecatedLastTimestamp",
            "eventTime",
            "firstTimestamp",
            "lastTimestamp",
        ],
    ),
    ("EventSeries", &["lastObservedTime"]),
    ("TokenRequestStatus", &["expirationTimestamp"]),
    ("VolumeError", &["time"]),
];

//! Every resource that Kubernetes 1.36 serves with its default settings, in discovery order.

/// One served resource.
pub(super) struct Row {
    pub group: &'static str,
    pub version: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub kind: &'static str,
    pub namespaced: bool,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub verbs: &'static [&'static str],
    pub subresources: &'static [Sub],
}

/// A subresource: name, group, version and kind of its object (empty when the parent's), verbs.
pub(super) type Sub = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
);

const ALL: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];
const CREATE: &[&str] = &["create"];
const CHANGE: &[&str] = &["get", "patch", "update"];
const CONNECT: &[&str] = &["create", "get"];
const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];

const fn row(
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    singular: &'static str,
    kind: &'static str,
) -> Row {
    Row {
        group,
        version,
        plural,
        singular,
        kind,
        namespaced: true,
        short_names: &[],
        categories: &[],
        verbs: ALL,
        subresources: &[],
    }
}

const fn status(kind: &'static str) -> Sub {
    ("status", "", "", kind, CHANGE)
}

const SCALE: Sub = ("scale", "autoscaling", "v1", "Scale", CHANGE);

const ADMISSION: &str = "admissionregistration.k8s.io";
const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";
const CERTIFICATES: &str = "certificates.k8s.io";
const COORDINATION: &str = "coordination.k8s.io";
const DISCOVERY: &str = "discovery.k8s.io";
const EVENTS: &str = "events.k8s.io";
const EXTENSIONS: &str = "apiextensions.k8s.io";
const FLOW_CONTROL: &str = "flowcontrol.apiserver.k8s.io";
const NETWORKING: &str = "networking.k8s.io";
const NODE: &str = "node.k8s.io";
const RBAC: &str = "rbac.authorization.k8s.io";
const REGISTRATION: &str = "apiregistration.k8s.io";
const RESOURCE: &str = "resource.k8s.io";
const SCHEDULING: &str = "scheduling.k8s.io";
const STORAGE: &str = "storage.k8s.io";

pub(super) static ROWS: &[Row] = &[
    Row {
        verbs: CREATE,
        ..row("", "v1", "bindings", "binding", "Binding")
    },
    Row {
        namespaced: false,
        short_names: &["cs"],
        verbs: &["get", "list"],
        ..row("", "v1", "componentstatuses", "componentstatus", "ComponentStatus")
    },
    Row {
        short_names: &["cm"],
        ..row("", "v1", "configmaps", "configmap", "ConfigMap")
    },
    Row {
        short_names: &["ep"],
        ..row("", "v1", "endpoints", "endpoints", "Endpoints")
    },
    Row {
        short_names: &["ev"],
        ..row("", "v1", "events", "event", "Event")
    },
    Row {
        short_names: &["limits"],
        ..row("", "v1", "limitranges", "limitrange", "LimitRange")
    },
    Row {
        namespaced: false,
        short_names: &["ns"],
        verbs: &["create", "delete", "get", "list", "patch", "update", "watch"],
        subresources: &[("finalize", "", "", "Namespace", &["update"]), status("Namespace")],
        ..row("", "v1", "namespaces", "namespace", "Namespace")
    },
    Row {
        namespaced: false,
        short_names: &["no"],
        subresources: &[("proxy", "", "", "NodeProxyOptions", PROXY), status("Node")],
        ..row("", "v1", "nodes", "node", "Node")
    },
    Row {
        short_names: &["pvc"],
        subresources: &[status("PersistentVolumeClaim")],
        ..row(
            "",
            "v1",
            "persistentvolumeclaims",
            "persistentvolumeclaim",
            "PersistentVolumeClaim",
        )
    },
    Row {
        namespaced: false,
        short_names: &["pv"],
        subresources: &[status("PersistentVolume")],
        ..row("", "v1", "persistentvolumes", "persistentvolume", "PersistentVolume")
    },
    Row {
        short_names: &["po"],
        categories: &["all"],
        subresources: &[
            ("attach", "", "", "PodAttachOptions", CONNECT),
            ("binding", "", "", "Binding", CREATE),
            ("ephemeralcontainers", "", "", "Pod", CHANGE),
            ("eviction", "policy", "v1", "Eviction", CREATE),
            ("exec", "", "", "PodExecOptions", CONNECT),
            ("log", "", "", "Pod", &["get"]),
            ("portforward", "", "", "PodPortForwardOptions", CONNECT),
            ("proxy", "", "", "PodProxyOptions", PROXY),
            ("resize", "", "", "Pod", CHANGE),
            status("Pod"),
        ],
        ..row("", "v1", "pods", "pod", "Pod")
    },
    row("", "v1", "podtemplates", "podtemplate", "PodTemplate"),
    Row {
        short_names: &["rc"],
        categories: &["all"],
        subresources: &[SCALE, status("ReplicationController")],
        ..row(
            "",
            "v1",
            "replicationcontrollers",
            "replicationcontroller",
            "ReplicationController",
        )
    },
    Row {
        short_names: &["quota"],
        subresources: &[status("ResourceQuota")],
        ..row("", "v1", "resourcequotas", "resourcequota", "ResourceQuota")
    },
    row("", "v1", "secrets", "secret", "Secret"),
    Row {
        short_names: &["sa"],
        subresources: &[("token", AUTHENTICATION, "v1", "TokenRequest", CREATE)],
        ..row("", "v1", "serviceaccounts", "serviceaccount", "ServiceAccount")
    },
    Row {
        short_names: &["svc"],
        categories: &["all"],
        subresources: &[("proxy", "", "", "ServiceProxyOptions", PROXY), status("Service")],
        ..row("", "v1", "services", "service", "Service")
    },
    Row {
        namespaced: false,
        categories: &["api-extensions"],
        subresources: &[status("APIService")],
        ..row(REGISTRATION, "v1", "apiservices", "apiservice", "APIService")
    },
    row(
        "apps",
        "v1",
        "controllerrevisions",
        "controllerrevision",
        "ControllerRevision",
    ),
    Row {
        short_names: &["ds"],
        categories: &["all"],
        subresources: &[status("DaemonSet")],
        ..row("apps", "v1", "daemonsets", "daemonset", "DaemonSet")
    },
    Row {
        short_names: &["deploy"],
        categories: &["all"],
        subresources: &[SCALE, status("Deployment")],
        ..row("apps", "v1", "deployments", "deployment", "Deployment")
    },
    Row {
        short_names: &["rs"],
        categories: &["all"],
        subresources: &[SCALE, status("ReplicaSet")],
        ..row("apps", "v1", "replicasets", "replicaset", "ReplicaSet")
    },
    Row {
        short_names: &["sts"],
        categories: &["all"],
        subresources: &[SCALE, status("StatefulSet")],
        ..row("apps", "v1", "statefulsets", "statefulset", "StatefulSet")
    },
    Row {
        short_names: &["ev"],
        ..row(EVENTS, "v1", "events", "event", "Event")
    },
    Row {
        namespaced: false,
        verbs: CREATE,
        ..row(
            AUTHENTICATION,
            "v1",
            "selfsubjectreviews",
            "selfsubjectreview",
            "SelfSubjectReview",
        )
    },
    Row {
        namespaced: false,
        verbs: CREATE,
        ..row(AUTHENTICATION, "v1", "tokenreviews", "tokenreview", "TokenReview")
    },
    Row {
        verbs: CREATE,
        ..row(
            AUTHORIZATION,
            "v1",
            "localsubjectaccessreviews",
            "localsubjectaccessreview",
            "LocalSubjectAccessReview",
        )
    },
    Row {
        namespaced: false,
        verbs: CREATE,
        ..row(
            AUTHORIZATION,
            "v1",
            "selfsubjectaccessreviews",
            "selfsubjectaccessreview",
            "SelfSubjectAccessReview",
        )
    },
    Row {
        namespaced: false,
        verbs: CREATE,
        ..row(
            AUTHORIZATION,
            "v1",
            "selfsubjectrulesreviews",
            "selfsubjectrulesreview",
            "SelfSubjectRulesReview",
        )
    },
    Row {
        namespaced: false,
        verbs: CREATE,
        ..row(
            AUTHORIZATION,
            "v1",
            "subjectaccessreviews",
            "subjectaccessreview",
            "SubjectAccessReview",
        )
    },
    Row {
        short_names: &["hpa"],
        categories: &["all"],
        subresources: &[status("HorizontalPodAutoscaler")],
        ..row(
            "autoscaling",
            "v2",
            "horizontalpodautoscalers",
            "horizontalpodautoscaler",
            "HorizontalPodAutoscaler",
        )
    },
    Row {
        short_names: &["hpa"],
        categories: &["all"],
        subresources: &[status("HorizontalPodAutoscaler")],
        ..row(
            "autoscaling",
            "v1",
            "horizontalpodautoscalers",
            "horizontalpodautoscaler",
            "HorizontalPodAutoscaler",
        )
    },
    Row {
        short_names: &["cj"],
        categories: &["all"],
        subresources: &[status("CronJob")],
        ..row("batch", "v1", "cronjobs", "cronjob", "CronJob")
    },
    Row {
        categories: &["all"],
        subresources: &[status("Job")],
        ..row("batch", "v1", "jobs", "job", "Job")
    },
    Row {
        namespaced: false,
        short_names: &["csr"],
        subresources: &[
            ("approval", "", "", "CertificateSigningRequest", CHANGE),
            status("CertificateSigningRequest"),
        ],
        ..row(
            CERTIFICATES,
            "v1",
            "certificatesigningrequests",
            "certificatesigningrequest",
            "CertificateSigningRequest",
        )
    },
    Row {
        namespaced: false,
        ..row(NETWORKING, "v1", "ingressclasses", "ingressclass", "IngressClass")
    },
    Row {
        short_names: &["ing"],
        subresources: &[status("Ingress")],
        ..row(NETWORKING, "v1", "ingresses", "ingress", "Ingress")
    },
    Row {
        namespaced: false,
        short_names: &["ip"],
        ..row(NETWORKING, "v1", "ipaddresses", "ipaddress", "IPAddress")
    },
    Row {
        short_names: &["netpol"],
        ..row(NETWORKING, "v1", "networkpolicies", "networkpolicy", "NetworkPolicy")
    },
    Row {
        namespaced: false,
        subresources: &[status("ServiceCIDR")],
        ..row(NETWORKING, "v1", "servicecidrs", "servicecidr", "ServiceCIDR")
    },
    Row {
        short_names: &["pdb"],
        subresources: &[status("PodDisruptionBudget")],
        ..row(
            "policy",
            "v1",
            "poddisruptionbudgets",
            "poddisruptionbudget",
            "PodDisruptionBudget",
        )
    },
    Row {
        namespaced: false,
        ..row(
            RBAC,
            "v1",
            "clusterrolebindings",
            "clusterrolebinding",
            "ClusterRoleBinding",
        )
    },
    Row {
        namespaced: false,
        ..row(RBAC, "v1", "clusterroles", "clusterrole", "ClusterRole")
    },
    row(RBAC, "v1", "rolebindings", "rolebinding", "RoleBinding"),
    row(RBAC, "v1", "roles", "role", "Role"),
    Row {
        namespaced: false,
        ..row(STORAGE, "v1", "csidrivers", "csidriver", "CSIDriver")
    },
    Row {
        namespaced: false,
        ..row(STORAGE, "v1", "csinodes", "csinode", "CSINode")
    },
    row(
        STORAGE,
        "v1",
        "csistoragecapacities",
        "csistoragecapacity",
        "CSIStorageCapacity",
    ),
    Row {
        namespaced: false,
        short_names: &["sc"],
        ..row(STORAGE, "v1", "storageclasses", "storageclass", "StorageClass")
    },
    Row {
        namespaced: false,
        subresources: &[status("VolumeAttachment")],
        ..row(
            STORAGE,
            "v1",
            "volumeattachments",
            "volumeattachment",
            "VolumeAttachment",
        )
    },
    Row {
        namespaced: false,
        short_names: &["vac"],
        ..row(
            STORAGE,
            "v1",
            "volumeattributesclasses",
            "volumeattributesclass",
            "VolumeAttributesClass",
        )
    },
    Row {
        namespaced: false,
        categories: &["api-extensions"],
        ..row(
            ADMISSION,
            "v1",
            "mutatingadmissionpolicies",
            "mutatingadmissionpolicy",
            "MutatingAdmissionPolicy",
        )
    },
    Row {
        namespaced: false,
        categories: &["api-extensions"],
        ..row(
            ADMISSION,
            "v1",
            "mutatingadmissionpolicybindings",
            "mutatingadmissionpolicybinding",
            "MutatingAdmissionPolicyBinding",
        )
    },
    Row {
        namespaced: false,
        categories: &["api-extensions"],
        ..row(
            ADMISSION,
            "v1",
            "mutatingwebhookconfigurations",
            "mutatingwebhookconfiguration",
            "MutatingWebhookConfiguration",
        )
    },
    Row {
        namespaced: false,
        categories: &["api-extensions"],
        subresources: &[status("ValidatingAdmissionPolicy")],
        ..row(
            ADMISSION,
            "v1",
            "validatingadmissionpolicies",
            "validatingadmissionpolicy",
            "ValidatingAdmissionPolicy",
        )
    },
    Row {
        namespaced: false,
        categories: &["api-extensions"],
        ..row(
            ADMISSION,
            "v1",
            "validatingadmissionpolicybindings",
            "validatingadmissionpolicybinding",
            "ValidatingAdmissionPolicyBinding",
        )
    },
    Row {
        namespaced: false,
        categories: &["api-extensions"],
        ..row(
            ADMISSION,
            "v1",
            "validatingwebhookconfigurations",
            "validatingwebhookconfiguration",
            "ValidatingWebhookConfiguration",
        )
    },
    Row {
        namespaced: false,
        short_names: &["crd", "crds"],
        categories: &["api-extensions"],
        subresources: &[status("CustomResourceDefinition")],
        ..row(
            EXTENSIONS,
            "v1",
            "customresourcedefinitions",
            "customresourcedefinition",
            "CustomResourceDefinition",
        )
    },
    Row {
        namespaced: false,
        short_names: &["pc"],
        ..row(SCHEDULING, "v1", "priorityclasses", "priorityclass", "PriorityClass")
    },
    row(COORDINATION, "v1", "leases", "lease", "Lease"),
    Row {
        namespaced: false,
        ..row(NODE, "v1", "runtimeclasses", "runtimeclass", "RuntimeClass")
    },
    row(DISCOVERY, "v1", "endpointslices", "endpointslice", "EndpointSlice"),
    Row {
        namespaced: false,
        ..row(RESOURCE, "v1", "deviceclasses", "deviceclass", "DeviceClass")
    },
    Row {
        subresources: &[status("ResourceClaim")],
        ..row(RESOURCE, "v1", "resourceclaims", "resourceclaim", "ResourceClaim")
    },
    row(
        RESOURCE,
        "v1",
        "resourceclaimtemplates",
        "resourceclaimtemplate",
        "ResourceClaimTemplate",
    ),
    Row {
        namespaced: false,
        ..row(RESOURCE, "v1", "resourceslices", "resourceslice", "ResourceSlice")
    },
    Row {
        namespaced: false,
        subresources: &[status("FlowSchema")],
        ..row(FLOW_CONTROL, "v1", "flowschemas", "flowschema", "FlowSchema")
    },
    Row {
        namespaced: false,
        subresources: &[status("PriorityLevelConfiguration")],
        ..row(
            FLOW_CONTROL,
            "v1",
            "prioritylevelconfigurations",
            "prioritylevelconfiguration",
            "PriorityLevelConfiguration",
        )
    },
];

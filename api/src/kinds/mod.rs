//! The rules of every built-in kind: what Kubernetes fills in, refuses, protects and prints.
//!
//! A kind is one value that implements [`Rules`]; [`rules_for`] finds it. Everything here is a pure function of
//! the objects passed in: no clock, no randomness, no store. What needs the cluster's state (allocating addresses,
//! looking up a StorageClass, quota) belongs to the API server's admission steps, and what needs the schema
//! (unknown fields, wrong types, canonical quantities) is done before an object reaches this module.
//!
//! The order in the pipeline is
//! `default` -> (mutating admission, `default` again) -> `prepare_*` -> `validate*` -> `warnings`.

pub mod access;
mod address;
mod admit;
mod autoscale;
mod batch;
pub mod check;
mod claim;
mod conditions;
mod core;
pub mod cron;
mod cron_job;
mod csi;
pub mod definition;
mod device;
mod endpoints;
mod event;
pub mod flow;
mod go;
mod job_spec;
mod job_status;
pub mod meta;
mod network;
mod node;
mod node_table;
mod platform;
pub mod pod;
mod policy;
pub mod print;
mod quota;
mod rbac;
mod resources;
pub mod service;
mod signing;
mod storage;
mod tidy;
mod volume;
mod workload;

use crate::field::ErrorList;
use serde_json::Value;

/// One column of a kind's Table form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Heading as `kubectl` prints it before upper-casing.
    pub name: &'static str,
    /// OpenAPI type of the cells: `string`, `integer`, `number` or `boolean`. Serialised as `type`.
    pub kind: &'static str,
    /// OpenAPI format, `name` for the first column, else usually empty.
    pub format: &'static str,
    /// Explanation, as the Table carries it.
    pub description: &'static str,
    /// 0 is always shown, 1 only with `-o wide`.
    pub priority: i32,
}

/// How a write through the main resource and through `/status` are kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusRule {
    /// The kind has no separate status: a write sets everything.
    Whole,
    /// `status` changes only through `/status`, everything else only through the main resource; a new object has none.
    Separate,
    /// Like [`StatusRule::Separate`], but an object may be created with a status (nodes register themselves so).
    SeparateButCreatable,
}

/// The rules of one kind. `sub` is the subresource a write came through (`status`, `scale`, `resize`, ...), or
/// `None` for the resource itself.
///
/// Callers use the upper group; a kind implements mostly the lower group (`fill` to `generation_source`).
pub trait Rules: Sync + Send {
    /// Fills in defaults, pod templates included. Idempotent.
    fn default(&self, obj: &mut Value) {
        access::ensure_object(obj);
        self.fill(obj);
    }

    /// Drops what a client may not set on creation (status, server-owned fields) and sets `metadata.generation`
    /// for kinds that have one. Does not set uid, creation time or generated names: the caller stamps those before,
    /// because Jobs derive their selector from the uid.
    fn prepare_create(&self, obj: &mut Value) {
        meta::prepare_create(obj);
        if self.status_rule() == StatusRule::Separate {
            access::remove(obj, "status");
        }
        if self.has_generation() && self.begins_with_a_generation() {
            meta::set_generation(obj, 1);
        }
        self.on_create(obj);
    }

    /// Carries over what a write may not change (server-owned metadata, the other half of the status split) and
    /// raises `metadata.generation` when the desired state differs.
    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        meta::prepare_update(new, old);
        if self.status_rule() != StatusRule::Whole {
            meta::isolate_status(new, old, sub);
        }
        if sub == Some("status") && self.status_keeps_metadata() {
            meta::keep_metadata(new, old);
        }
        self.on_update(new, old, sub);
        // A write of the status says nothing about what is desired, even when it brings annotations along.
        if self.has_generation() && sub != Some("status") && self.desired_differs(new, old) {
            meta::set_generation(new, meta::generation(old).saturating_add(1));
        }
    }

    /// Every objection to a new object, metadata included. The name must have been generated before.
    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = meta::validate(obj, self.name_rule(), self.namespaced());
        errors.extend(self.check(obj));
        errors
    }

    /// Every objection to replacing `old` by `new`, metadata included. Metadata is looked at several times,
    /// generically and by the kind, and clients see every cause.
    fn validate_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> ErrorList {
        let of_change = meta::validate_update(new, old);
        let of_itself = meta::validate(new, self.name_rule(), self.namespaced());
        let mut errors = of_itself.clone();
        if self.compares_metadata_again() {
            errors.extend(of_change.iter().cloned());
        }
        errors.extend(of_change);
        if self.looks_at_metadata_again() {
            errors.extend(of_itself);
        }
        errors.extend(self.check_update(new, old, sub));
        errors
    }

    /// Whether the kind's own update rules repeat the comparison of metadata with the old one.
    fn compares_metadata_again(&self) -> bool {
        true
    }

    /// Whether the kind's own update rules repeat the rules of new metadata.
    fn looks_at_metadata_again(&self) -> bool {
        true
    }

    /// Whether an update without a resourceVersion is taken as one of the current version. Where it is not, such an
    /// update is refused: `metadata.resourceVersion: Invalid value: 0: must be specified for an update`.
    fn allows_unconditional_update(&self) -> bool {
        true
    }

    /// Texts for `Warning:` headers, in order.
    fn warnings(&self, _obj: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }

    /// Columns of the Table form.
    fn columns(&self) -> &'static [Column] {
        DEFAULT_COLUMNS
    }

    /// One cell per column. `now` gives ages.
    fn row(&self, obj: &Value, _now: jiff::Timestamp) -> Vec<Value> {
        vec![
            Value::from(access::name(obj)),
            Value::from(access::text(obj, "/metadata/creationTimestamp")),
        ]
    }

    /// Puts the objects of a list into the order of its Table, where that is not the order of their names.
    fn order_rows(&self, _objects: &mut [Value]) {}

    /// Conditions of a row (a finished pod is marked `Completed`).
    fn row_conditions(&self, _obj: &Value) -> Vec<Value> {
        Vec::new()
    }

    /// Field selector names beyond `metadata.name` and `metadata.namespace`.
    fn selectable_fields(&self) -> &'static [&'static str] {
        &[]
    }

    /// Values of [`Rules::selectable_fields`], in that order.
    fn selectable(&self, _obj: &Value) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// Turns an object of `version` into the form that is stored.
    fn to_storage(&self, _obj: &mut Value, _version: &str) {}

    /// Turns a stored object into `version`.
    #[allow(clippy::wrong_self_convention)] // the pair of `to_storage`
    fn from_storage(&self, _obj: &mut Value, _version: &str) {}

    /// Kind-specific defaults; called by [`Rules::default`].
    fn fill(&self, _obj: &mut Value) {}

    /// Kind-specific part of [`Rules::prepare_create`].
    fn on_create(&self, _obj: &mut Value) {}

    /// Kind-specific part of [`Rules::prepare_update`], after metadata and status were carried over and before
    /// the generation is compared.
    fn on_update(&self, _new: &mut Value, _old: &Value, _sub: Option<&str>) {}

    /// Kind-specific part of [`Rules::validate`].
    fn check(&self, _obj: &Value) -> ErrorList {
        ErrorList::new()
    }

    /// Kind-specific part of [`Rules::validate_update`].
    fn check_update(&self, new: &Value, _old: &Value, _sub: Option<&str>) -> ErrorList {
        self.check(new)
    }

    /// Which names the kind accepts.
    fn name_rule(&self) -> meta::NameRule {
        meta::NameRule::Subdomain
    }

    /// Whether objects live in namespaces.
    fn namespaced(&self) -> bool {
        true
    }

    /// Whether `status` is a separate half.
    fn status_rule(&self) -> StatusRule {
        StatusRule::Whole
    }

    /// Whether a write of the status leaves labels, annotations, finalizers and owners as they are.
    fn status_keeps_metadata(&self) -> bool {
        false
    }

    /// Whether `metadata.generation` counts changes of the desired state.
    fn has_generation(&self) -> bool {
        false
    }

    /// Whether a new object is generation 1. Where it is not, the first change makes it so.
    fn begins_with_a_generation(&self) -> bool {
        true
    }

    /// Whether the desired state changed, for the generation.
    fn desired_differs(&self, new: &Value, old: &Value) -> bool {
        !access::same(new.get("spec"), old.get("spec"))
    }
}

/// Columns of kinds that have no printer of their own.
pub static DEFAULT_COLUMNS: &[Column] = &[
    Column {
        name: "Name",
        kind: "string",
        format: "name",
        description: "Name must be unique within a namespace.",
        priority: 0,
    },
    Column {
        name: "Created At",
        kind: "date",
        format: "",
        description: "CreationTimestamp is a timestamp representing the server time when this object was created.",
        priority: 0,
    },
];

/// The rules of a built-in kind; kinds without rules of their own get the ones every object has.
pub fn rules_for(group: &str, kind: &str) -> &'static dyn Rules {
    RULES
        .iter()
        .find(|(g, k, _)| *g == group && *k == kind)
        .map_or(&Plain as &'static dyn Rules, |(_, _, rules)| *rules)
}

struct Plain;

impl Rules for Plain {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
    }
}

/// Group, kind and rules.
type Row = (&'static str, &'static str, &'static dyn Rules);

static RULES: &[Row] = &[
    ("", "Pod", &pod::Pod),
    ("", "PodTemplate", &pod::PodTemplate),
    ("", "Binding", &core::Binding),
    ("", "ComponentStatus", &platform::ComponentStatus),
    ("", "Namespace", &core::Namespace),
    ("", "Node", &node::Node),
    ("", "ServiceAccount", &core::ServiceAccount),
    ("", "ConfigMap", &core::ConfigMap),
    ("", "Secret", &core::Secret),
    ("", "Service", &service::Service),
    ("", "Endpoints", &endpoints::Endpoints),
    ("", "Event", &event::Event),
    ("", "PersistentVolumeClaim", &claim::Claim),
    ("", "ReplicationController", &workload::ReplicationController),
    ("apps", "ControllerRevision", &workload::ControllerRevision),
    ("apps", "DaemonSet", &workload::DaemonSet),
    ("apps", "Deployment", &workload::Deployment),
    ("apps", "ReplicaSet", &workload::ReplicaSet),
    ("apps", "StatefulSet", &workload::StatefulSet),
    ("batch", "CronJob", &cron_job::CronJob),
    ("batch", "Job", &batch::Job),
    ("coordination.k8s.io", "Lease", &core::Lease),
    ("discovery.k8s.io", "EndpointSlice", &endpoints::EndpointSlice),
    ("events.k8s.io", "Event", &event::NewEvent),
    ("", "LimitRange", &quota::LimitRange),
    ("", "PersistentVolume", &volume::PersistentVolume),
    ("", "ResourceQuota", &quota::ResourceQuota),
    (
        "admissionregistration.k8s.io",
        "MutatingAdmissionPolicy",
        &admit::policy::AdmissionPolicy { mutating: true },
    ),
    (
        "admissionregistration.k8s.io",
        "MutatingAdmissionPolicyBinding",
        &admit::policy::PolicyBinding { mutating: true },
    ),
    (
        "admissionregistration.k8s.io",
        "MutatingWebhookConfiguration",
        &admit::Webhooks { mutating: true },
    ),
    (
        "admissionregistration.k8s.io",
        "ValidatingAdmissionPolicy",
        &admit::policy::AdmissionPolicy { mutating: false },
    ),
    (
        "admissionregistration.k8s.io",
        "ValidatingAdmissionPolicyBinding",
        &admit::policy::PolicyBinding { mutating: false },
    ),
    (
        "admissionregistration.k8s.io",
        "ValidatingWebhookConfiguration",
        &admit::Webhooks { mutating: false },
    ),
    (
        "apiextensions.k8s.io",
        "CustomResourceDefinition",
        &definition::Definition,
    ),
    ("apiregistration.k8s.io", "APIService", &platform::ApiService),
    ("authentication.k8s.io", "SelfSubjectReview", &platform::Review),
    ("authentication.k8s.io", "TokenReview", &platform::Review),
    ("authorization.k8s.io", "SelfSubjectRulesReview", &platform::Review),
    (
        "authorization.k8s.io",
        "LocalSubjectAccessReview",
        &platform::AccessReview { of_somebody: true },
    ),
    (
        "authorization.k8s.io",
        "SelfSubjectAccessReview",
        &platform::AccessReview { of_somebody: false },
    ),
    (
        "authorization.k8s.io",
        "SubjectAccessReview",
        &platform::AccessReview { of_somebody: true },
    ),
    ("autoscaling", "HorizontalPodAutoscaler", &autoscale::Autoscaler),
    ("autoscaling", "Scale", &autoscale::Scale),
    (
        "certificates.k8s.io",
        "CertificateSigningRequest",
        &signing::SigningRequest,
    ),
    ("flowcontrol.apiserver.k8s.io", "FlowSchema", &flow::FlowSchema),
    (
        "flowcontrol.apiserver.k8s.io",
        "PriorityLevelConfiguration",
        &flow::PriorityLevel,
    ),
    ("networking.k8s.io", "IPAddress", &address::IpAddress),
    ("networking.k8s.io", "Ingress", &network::Ingress),
    ("networking.k8s.io", "IngressClass", &network::IngressClass),
    ("networking.k8s.io", "NetworkPolicy", &network::NetworkPolicy),
    ("networking.k8s.io", "ServiceCIDR", &address::ServiceCidr),
    ("node.k8s.io", "RuntimeClass", &policy::RuntimeClass),
    ("policy", "PodDisruptionBudget", &policy::DisruptionBudget),
    (
        "rbac.authorization.k8s.io",
        "ClusterRole",
        &rbac::Role { namespaced: false },
    ),
    (
        "rbac.authorization.k8s.io",
        "ClusterRoleBinding",
        &rbac::RoleBinding { namespaced: false },
    ),
    ("rbac.authorization.k8s.io", "Role", &rbac::Role { namespaced: true }),
    (
        "rbac.authorization.k8s.io",
        "RoleBinding",
        &rbac::RoleBinding { namespaced: true },
    ),
    ("resource.k8s.io", "DeviceClass", &device::Device { slice: false }),
    ("resource.k8s.io", "ResourceClaim", &device::ResourceClaim),
    (
        "resource.k8s.io",
        "ResourceClaimTemplate",
        &device::ResourceClaimTemplate,
    ),
    ("resource.k8s.io", "ResourceSlice", &device::Device { slice: true }),
    ("scheduling.k8s.io", "PriorityClass", &policy::PriorityClass),
    ("storage.k8s.io", "CSIDriver", &csi::CsiDriver),
    ("storage.k8s.io", "CSINode", &csi::CsiNode),
    ("storage.k8s.io", "CSIStorageCapacity", &csi::CsiStorageCapacity),
    ("storage.k8s.io", "StorageClass", &storage::StorageClass),
    ("storage.k8s.io", "VolumeAttachment", &storage::VolumeAttachment),
    (
        "storage.k8s.io",
        "VolumeAttributesClass",
        &storage::VolumeAttributesClass,
    ),
];

#[cfg(test)]
mod tests;

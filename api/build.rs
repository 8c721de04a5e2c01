//! Turns the Kubernetes 1.36 definitions of `k8s-openapi` into two compressed tables:
//! `schema.z` (types, fields, shapes) and `descriptions.z` (the texts, only read for OpenAPI).
//!
//! Line formats, both sorted by type name: a type is `name`, `list-name` lines carry synthetic list types,
//! a field is `\tname\tshape\trequired`. See `src/schema/load.rs` for the shapes' letters.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write as _;
use std::path::PathBuf;

use schemars::SchemaGenerator;
use serde_json::{Map, Value};

const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    name_sources();
    let mut generator = SchemaGenerator::default();
    let kinds = add_kinds(&mut generator);
    let definitions: BTreeMap<String, Value> = generator.take_definitions(false).into_iter().collect();
    let mut types: BTreeMap<String, Value> = definitions
        .into_iter()
        .filter(|(name, schema)| name.starts_with("io.k8s.") && !is_alias(name, schema))
        .collect();
    for kind in kinds {
        let list = list_of(&kind, &types);
        types.insert(format!("{kind}List"), list);
    }
    let mut shapes = String::new();
    let mut texts = String::new();
    for (name, schema) in &types {
        write_type(&mut shapes, &mut texts, name, schema, &types);
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    compress(&out.join("schema.z"), &shapes);
    compress(&out.join("descriptions.z"), &texts);
}

/// A text that is another one when what makes the OpenAPI documents is.
fn name_sources() {
    let mut hasher = DefaultHasher::new();
    let mut folders = vec![PathBuf::from("src/openapi"), PathBuf::from("src/schema")];
    let mut files = vec![PathBuf::from("build.rs")];
    while let Some(folder) = folders.pop() {
        println!("cargo::rerun-if-changed={}", folder.display());
        let entries = std::fs::read_dir(folder).expect("a folder of sources");
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.is_dir() { &mut folders } else { &mut files }.push(path);
        }
    }
    files.sort();
    for file in files {
        std::fs::read(file).expect("a source").hash(&mut hasher);
    }
    println!("cargo::rustc-env=OPENAPI_SOURCES={:016x}", hasher.finish());
}

/// Registers every served kind and everything they refer to; returns the schema names of the kinds.
fn add_kinds(g: &mut SchemaGenerator) -> Vec<String> {
    let mut names = Vec::new();
    macro_rules! add {
        ($($kind:ident),*) => {$(
            g.subschema_for::<$kind>();
            names.push(<$kind as schemars::JsonSchema>::schema_name().into_owned());
        )*};
    }
    {
        use k8s_openapi::api::core::v1::*;
        add!(
            Binding,
            ComponentStatus,
            ConfigMap,
            Endpoints,
            Event,
            LimitRange,
            Namespace,
            Node,
            PersistentVolumeClaim,
            PersistentVolume,
            Pod,
            PodTemplate,
            ReplicationController,
            ResourceQuota,
            Secret,
            ServiceAccount,
            Service
        );
    }
    {
        use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::*;
        add!(APIService);
    }
    {
        use k8s_openapi::api::apps::v1::*;
        add!(ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet);
    }
    {
        use k8s_openapi::api::events::v1::*;
        add!(Event);
    }
    {
        use k8s_openapi::api::authentication::v1::*;
        add!(SelfSubjectReview, TokenReview);
    }
    {
        use k8s_openapi::api::authorization::v1::*;
        add!(
            LocalSubjectAccessReview,
            SelfSubjectAccessReview,
            SelfSubjectRulesReview,
            SubjectAccessReview
        );
    }
    {
        use k8s_openapi::api::autoscaling::v2::*;
        add!(HorizontalPodAutoscaler);
    }
    {
        use k8s_openapi::api::autoscaling::v1::*;
        add!(HorizontalPodAutoscaler);
    }
    {
        use k8s_openapi::api::batch::v1::*;
        add!(CronJob, Job);
    }
    {
        use k8s_openapi::api::certificates::v1::*;
        add!(CertificateSigningRequest);
    }
    {
        use k8s_openapi::api::networking::v1::*;
        add!(IngressClass, Ingress, IPAddress, NetworkPolicy, ServiceCIDR);
    }
    {
        use k8s_openapi::api::policy::v1::*;
        add!(PodDisruptionBudget);
    }
    {
        use k8s_openapi::api::rbac::v1::*;
        add!(ClusterRoleBinding, ClusterRole, RoleBinding, Role);
    }
    {
        use k8s_openapi::api::storage::v1::*;
        add!(
            CSIDriver,
            CSINode,
            CSIStorageCapacity,
            StorageClass,
            VolumeAttachment,
            VolumeAttributesClass
        );
    }
    {
        use k8s_openapi::api::admissionregistration::v1::*;
        add!(
            MutatingAdmissionPolicy,
            MutatingAdmissionPolicyBinding,
            MutatingWebhookConfiguration,
            ValidatingAdmissionPolicy,
            ValidatingAdmissionPolicyBinding,
            ValidatingWebhookConfiguration
        );
    }
    {
        use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::*;
        add!(CustomResourceDefinition);
    }
    {
        use k8s_openapi::api::scheduling::v1::*;
        add!(PriorityClass);
    }
    {
        use k8s_openapi::api::coordination::v1::*;
        add!(Lease);
    }
    {
        use k8s_openapi::api::node::v1::*;
        add!(RuntimeClass);
    }
    {
        use k8s_openapi::api::discovery::v1::*;
        add!(EndpointSlice);
    }
    {
        use k8s_openapi::api::resource::v1::*;
        add!(DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice);
    }
    {
        use k8s_openapi::api::flowcontrol::v1::*;
        add!(FlowSchema, PriorityLevelConfiguration);
    }
    {
        use k8s_openapi::apimachinery::pkg::apis::meta::v1::*;
        g.subschema_for::<Status>();
        g.subschema_for::<DeleteOptions>();
        g.subschema_for::<APIGroup>();
        g.subschema_for::<APIGroupList>();
        g.subschema_for::<APIResourceList>();
        g.subschema_for::<APIVersions>();
        g.subschema_for::<LabelSelector>();
        g.subschema_for::<ListMeta>();
        g.subschema_for::<k8s_openapi::apimachinery::pkg::version::Info>();
        g.subschema_for::<k8s_openapi::api::policy::v1::Eviction>();
        g.subschema_for::<k8s_openapi::api::autoscaling::v1::Scale>();
        g.subschema_for::<k8s_openapi::api::authentication::v1::TokenRequest>();
    }
    names
}

/// The types that are shapes of their own rather than objects with fields.
fn is_alias(name: &str, schema: &Value) -> bool {
    special(name).is_some()
        || schema.get("properties").is_none() && schema.get("type").is_none_or(|kind| kind != "object")
}

fn special(name: &str) -> Option<&'static str> {
    Some(match name.rsplit('.').next().unwrap_or("") {
        "Quantity" => "q",
        "Time" => "t",
        "MicroTime" => "m",
        "IntOrString" => "x",
        "FieldsV1" => "F",
        "RawExtension" | "JSON" => "a",
        _ => return None,
    })
}

fn list_of(kind: &str, types: &BTreeMap<String, Value>) -> Value {
    let said = |field: &str| {
        types
            .get(kind)
            .map(|row| row["properties"][field]["description"].clone())
    };
    let short = kind.rsplit('.').next().unwrap_or(kind);
    serde_json::json!({
        "description": format!("{short}List is a list of {short} objects."),
        "properties": {
            "apiVersion": {"type": "string", "description": said("apiVersion")},
            "items": {"type": "array", "items": {"$ref": format!("#/$defs/{kind}")}, "description": "The objects of the list."},
            "kind": {"type": "string", "description": said("kind")},
            "metadata": {"$ref": format!("#/$defs/{LIST_META}"), "description": "Standard list metadata."},
        },
        "required": ["items"],
    })
}

fn write_type(shapes: &mut String, texts: &mut String, name: &str, schema: &Value, types: &BTreeMap<String, Value>) {
    let empty = Map::new();
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
    let required: Vec<&str> = schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    // An object without declared fields takes anything.
    let open = if properties.is_empty() { "\topen" } else { "" };
    writeln!(shapes, "{name}{open}").expect("writing to a string");
    writeln!(texts, "{name}\t{}", description(schema)).expect("writing to a string");
    let sorted: BTreeMap<&String, &Value> = properties.iter().collect();
    for (field, property) in sorted {
        let mark = if required.contains(&field.as_str()) { "!" } else { "" };
        writeln!(shapes, "\t{field}\t{}\t{mark}", shape(property, types)).expect("writing to a string");
        writeln!(texts, "\t{field}\t{}", description(property)).expect("writing to a string");
    }
}

fn description(schema: &Value) -> String {
    let text = schema.get("description").and_then(Value::as_str).unwrap_or("");
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('\t', " ")
}

fn shape(schema: &Value, types: &BTreeMap<String, Value>) -> String {
    if let Some(reference) = reference(schema) {
        if let Some(letter) = special(reference) {
            return letter.to_owned();
        }
        return if types.contains_key(reference) {
            format!("o{reference}")
        } else {
            "a".to_owned()
        };
    }
    let format = schema.get("format").and_then(Value::as_str).unwrap_or("");
    match schema.get("type").and_then(Value::as_str) {
        Some("string") if format == "byte" => "y".into(),
        Some("string") => format!("s{format}"),
        Some("integer") => format!("i{format}"),
        Some("number") => "n".into(),
        Some("boolean") => "b".into(),
        Some("array") => format!(
            "[{}",
            schema
                .get("items")
                .map_or_else(|| "a".into(), |items| shape(items, types))
        ),
        Some("object") => match schema.get("additionalProperties") {
            Some(value) if value.is_object() => format!("{{{}", shape(value, types)),
            _ => "a".into(),
        },
        _ => "a".into(),
    }
}

/// The type that a property refers to, directly or through `allOf`.
fn reference(schema: &Value) -> Option<&str> {
    let direct = schema.get("$ref").and_then(Value::as_str);
    let nested = || schema.get("allOf")?.get(0)?.get("$ref")?.as_str();
    direct.or_else(nested)?.strip_prefix("#/$defs/")
}

fn compress(path: &std::path::Path, text: &str) {
    let file = std::fs::File::create(path).expect("create a table in OUT_DIR");
    let mut encoder = flate2::write::ZlibEncoder::new(file, flate2::Compression::best());
    encoder
        .write_all(text.as_bytes())
        .and_then(|()| encoder.finish().map(drop))
        .expect("write a table in OUT_DIR");
}

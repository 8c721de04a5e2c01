//! Pod specs as Kubernetes prints them inside error texts: its unversioned structs as JSON.
//!
//! A refused pod update and a changed Job template show the whole spec, in the unversioned structs' field order,
//! with `null` and `""` for what is not set, and host namespaces inside the security context. The texts are part
//! of the wire. What a field holds comes from the schema; the schema is sorted, so the order is a table (`order`).

mod difference;
mod order;

use crate::kinds::access::{self, get};
use crate::schema::{self, Field, Shape, Type};
use serde_json::Value;

/// A value in printing order.
pub enum Dump {
    Plain(Value),
    Object(Vec<(String, Dump)>),
    List(Vec<Dump>),
}

/// A pod spec.
pub fn pod_spec(spec: &Value) -> Dump {
    let mut spec = spec.clone();
    let moved: Vec<(&str, Value)> = order::HOISTED
        .iter()
        .filter_map(|key| spec.get(*key).cloned().map(|v| (*key, v)))
        .collect();
    let context = access::child(&mut spec, "securityContext");
    for (key, value) in moved {
        access::set(context, key, value);
    }
    core("PodSpec", &spec)
}

/// A value of a core type, by the type's short name. Unknown names print as on the wire.
pub fn core(name: &str, v: &Value) -> Dump {
    match core_type(name) {
        Some(row) => object(v, row),
        None => Dump::of(v),
    }
}

fn core_type(name: &str) -> Option<&'static Type> {
    schema::lookup(&format!("io.k8s.api.core.v1.{name}"))
}

/// A pod template: its metadata as on the wire, its spec as here.
pub fn template(template: &Value) -> Dump {
    let mut fields = embedded_metadata(get(template, "metadata"));
    fields.push(("Spec".to_owned(), pod_spec(get(template, "spec"))));
    Dump::Object(fields)
}

fn embedded_metadata(metadata: &Value) -> Vec<(String, Dump)> {
    const METADATA: &[&str] = &[
        "name",
        "generateName",
        "namespace",
        "labels",
        "annotations",
        "ownerReferences",
        "finalizers",
    ];
    METADATA
        .iter()
        .filter_map(|key| metadata.get(*key).map(|v| ((*key).to_owned(), Dump::Plain(v.clone()))))
        .collect()
}

/// A struct in its field order; structs of other packages print as on the wire.
fn object(v: &Value, row: &'static Type) -> Dump {
    let Some(names) = order::of(row.name) else {
        return Dump::of(v);
    };
    let mut fields = Vec::new();
    for (shown, wire) in names {
        if shown == order::METADATA {
            fields.extend(embedded_metadata(get(v, &wire)));
            continue;
        }
        let field = row.field(&wire).or_else(|| core_type("PodSpec")?.field(&wire));
        fields.push((shown.to_owned(), member(get(v, &wire), field)));
    }
    Dump::Object(fields)
}

/// One member: absent values print as the zero of what the field holds.
fn member(v: &Value, field: Option<&Field>) -> Dump {
    let Some(field) = field else {
        return Dump::Plain(v.clone());
    };
    match (field.shape, v) {
        (Shape::Object(kind), v) if v.is_object() || field.always => object(v, kind.get()),
        (Shape::Array(Shape::Object(kind)), Value::Array(items)) if !items.is_empty() => {
            Dump::List(items.iter().map(|i| object(i, kind.get())).collect())
        }
        (Shape::String { .. }, Value::Null) if !field.pointer => Dump::Plain(Value::from("")),
        (Shape::Boolean, Value::Null) if !field.pointer => Dump::Plain(Value::from(false)),
        (Shape::Integer { .. } | Shape::Number, Value::Null) if !field.pointer => Dump::Plain(Value::from(0)),
        (_, v) if access::is_empty(v) => Dump::Plain(Value::Null),
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

    /// The order table names every field of every type that a pod spec reaches, and nothing else.
    #[test]
    fn order_is_complete() {
        let mut open = vec![
            "io.k8s.api.core.v1.PodSpec",
            "io.k8s.api.core.v1.EphemeralContainer",
            "io.k8s.api.core.v1.PersistentVolumeSpec",
        ];
        let mut seen = std::collections::BTreeSet::new();
        while let Some(name) = open.pop() {
            if !name.starts_with("io.k8s.api.core.v1.") || !seen.insert(name) {
                continue;
            }
            let row = schema::lookup(name).expect("a type of the schema");
            let mut wanted: Vec<&str> = row.fields.iter().map(|f| f.name).collect();
            let mut listed: Vec<String> = order::of(name)
                .unwrap_or_else(|| panic!("{name} has no order"))
                .into_iter()
                .map(|(_, wire)| wire)
                .collect();
            if name.ends_with(".PodSecurityContext") {
                wanted.extend(order::HOISTED);
            }
            if name.ends_with(".PodSpec") {
                wanted.retain(|f| !order::HOISTED.contains(f) && *f != "serviceAccount");
            }
            if name.ends_with(".PersistentVolumeSpec") {
                wanted = crate::kinds::pod::volumes::PERSISTENT.to_vec();
            }
            wanted.sort_unstable();
            listed.sort_unstable();
            assert_eq!(listed, wanted, "{name}");
            for field in row.fields.iter().filter(|field| wanted.contains(&field.name)) {
                match field.shape {
                    Shape::Object(kind) => open.push(kind.get().name),
                    Shape::Array(Shape::Object(kind)) => open.push(kind.get().name),
                    _ => {}
                }
            }
        }
    }

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

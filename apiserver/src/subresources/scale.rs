//! `scale`: the replica count of a workload as an object of its own.

use coxswain_api::field::{FieldError, Path};
use coxswain_api::kinds::{self, access};
use coxswain_api::registry::Gvk;
use coxswain_api::schema::Node;
use coxswain_api::selector::LabelSelector;
use coxswain_api::{ApiError, apply, patch};
use coxswain_store::Stored;
use http::Method;
use serde_json::{Value, json};

use crate::answer::{self, Reply, now_text};
use crate::body;
use crate::call::Call;
use crate::options::WriteOptions;
use crate::verbs::patch::PatchType;
use crate::verbs::update::{Change, Manage, change, misnamed, nameless};

/// Runs GET, PUT or PATCH.
pub(super) async fn scale(call: &Call, method: &Method) -> Result<Reply, ApiError> {
    let found = call.snapshot().get(&call.key(&call.path.name)).cloned();
    let live = found.ok_or_else(|| call.not_found(&call.path.name))?;
    match *method {
        Method::PUT => {
            let options = WriteOptions::from_call(call, "UpdateOptions")?;
            let wanted = body::decode_builtin(call, &kind(), options.validation)?;
            match access::name(&wanted) {
                "" => return Err(nameless(call)),
                name if name != call.path.name => return Err(misnamed(call, name)),
                _ => {}
            }
            write(call, &options, true, |_| Ok(wanted.clone())).await
        }
        Method::PATCH => {
            let options = WriteOptions::from_call(call, "PatchOptions")?;
            patched(call, &options).await
        }
        _ => shown(call, &live),
    }
}

/// The object's Scale in the form the call asked for.
fn shown(call: &Call, stored: &Stored) -> Result<Reply, ApiError> {
    let value = of_object(&call.present(stored));
    let gvk = kind();
    let rules = kinds::rules_for(&gvk.group, &gvk.kind);
    answer::viewed(call, 200, &value, rules, |value| value)
}

async fn patched(call: &Call, options: &WriteOptions) -> Result<Reply, ApiError> {
    let kind = PatchType::of(call)?;
    if kind == PatchType::Apply {
        return applied(call, options).await;
    }
    let (document, noted) = body::decode_patch(&call.body, kind, options.validation)?;
    let of_kind = (kind_node(), self::kind().type_name());
    write(call, options, false, |shown| {
        let mut made = match kind {
            PatchType::Json => patch::json_patch(shown, &document)?,
            PatchType::Strategic => patch::strategic_merge(shown, &document, kind_node())?,
            PatchType::Merge | PatchType::Apply => {
                let mut made = shown.clone();
                patch::merge_patch(&mut made, &document)?;
                made
            }
        };
        let merged = (kind == PatchType::Strategic).then_some(&document);
        body::check_patched(call, of_kind, options.validation, (merged, &noted), &mut made)?;
        Ok(made)
    })
    .await
}

/// Server-side apply of a Scale: an apply to the object that states only its replicas.
async fn applied(call: &Call, options: &WriteOptions) -> Result<Reply, ApiError> {
    if !options.manager_given {
        let errors = vec![FieldError::required(
            &Path::new("fieldManager"),
            "is required for apply patch",
        )];
        return Err(ApiError::invalid("meta.k8s.io", "PatchOptions", "", errors));
    }
    let (applied, problems) = body::decode_applied(&call.body)?;
    let (gv, now) = (call.group_version(), now_text());
    let change = Change {
        sub: Some("scale"),
        manage: Manage::Applied,
        check_uid: true,
        options,
    };
    let stored = self::change(call, &change, |shown, _| {
        let request = apply::ApplyRequest {
            live: Some(shown),
            applied: &applied,
            manager: &options.manager,
            force: options.force,
            gv: &gv,
            kind: &call.row.kind,
            subresource: "scale",
            now: &now,
            node: call.node(),
        };
        let made = apply::apply_scale(&request, &["spec", "replicas"])?;
        body::report(call, options.validation, &problems)?;
        check_replicas(call, access::int(&made, "/spec/replicas").unwrap_or(0))?;
        Ok(made)
    })
    .await?;
    shown(call, &stored)
}

fn check_replicas(call: &Call, replicas: i64) -> Result<(), ApiError> {
    if replicas >= 0 {
        return Ok(());
    }
    let path = Path::new("spec").child("replicas");
    let error = FieldError::invalid(&path, replicas, "must be greater than or equal to 0");
    Err(ApiError::invalid("autoscaling", "Scale", &call.path.name, vec![error]))
}

fn kind() -> Gvk {
    Gvk::new("autoscaling", "v1", "Scale")
}

fn kind_node() -> Node<'static> {
    kind().type_name().and_then(Node::of_type).unwrap_or(Node::Untyped)
}

/// Changes the object so that its scale becomes what `make` wants; with `by_uid`, of the object of the uid that it names.
async fn write(
    call: &Call,
    options: &WriteOptions,
    by_uid: bool,
    make: impl Fn(&Value) -> Result<Value, ApiError>,
) -> Result<Reply, ApiError> {
    let change = Change {
        sub: Some("scale"),
        manage: Manage::Update,
        check_uid: true,
        options,
    };
    let stored = self::change(call, &change, |shown, _| {
        let wanted = make(&of_object(shown))?;
        let replicas = wanted.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
        check_replicas(call, replicas)?;
        let mut object = shown.clone();
        access::set(access::child(&mut object, "spec"), "replicas", replicas);
        let metadata = access::child(&mut object, "metadata");
        access::copy(metadata, access::get(&wanted, "metadata"), "resourceVersion");
        if by_uid {
            access::copy(metadata, access::get(&wanted, "metadata"), "uid");
        }
        Ok(object)
    })
    .await?;
    shown(call, &stored)
}

/// The Scale of an object.
fn of_object(object: &Value) -> Value {
    let from = access::get(object, "metadata");
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        access::copy(&mut metadata, from, field);
    }
    let mut spec = json!({});
    let replicas = access::int(object, "/spec/replicas").unwrap_or(0);
    if replicas != 0 {
        access::set(&mut spec, "replicas", replicas);
    }
    let mut status = json!({"replicas": access::int(object, "/status/replicas").unwrap_or(0)});
    let selector = access::get(access::get(object, "spec"), "selector");
    let text = selector_text(selector);
    if !text.is_empty() {
        access::set(&mut status, "selector", text);
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status})
}

/// A selector in query form.
fn selector_text(selector: &Value) -> String {
    let structured = selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some();
    if !structured {
        let pairs: Vec<String> = selector
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
            .collect();
        return pairs.join(",");
    }
    // Parsing first drops what is no selector at all.
    if LabelSelector::from_value(selector).is_err() {
        return String::new();
    }
    let mut parts: Vec<(String, String)> = access::entries(selector, "matchLabels")
        .map(|(key, value)| (key.clone(), format!("{key}={}", value.as_str().unwrap_or_default())))
        .collect();
    for expression in access::list(selector, "matchExpressions") {
        let key = access::str_of(expression, "key");
        let mut values: Vec<&str> = access::list(expression, "values")
            .iter()
            .filter_map(Value::as_str)
            .collect();
        values.sort_unstable();
        let values = values.join(",");
        let text = match access::str_of(expression, "operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            _ => continue,
        };
        parts.push((key.to_owned(), text));
    }
    parts.sort();
    parts.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(",")
}

//! Reviews: questions about identity and rights, answered and not stored.

use std::collections::BTreeMap;

use coxswain_api::ApiError;
use coxswain_api::apply;
use coxswain_api::field::{ErrorList, FieldError, Path};
use coxswain_api::kinds::{access, check};
use serde_json::{Value, json};

use crate::User;
use crate::answer::{self, Reply, now_text};
use crate::authz::node::node_of;
use crate::authz::{Attributes, Decision};
use crate::body;
use crate::call::Call;
use crate::options::WriteOptions;

/// Answers a review.
pub(super) async fn review(call: &Call) -> Result<Reply, ApiError> {
    let options = WriteOptions::from_call(call, "CreateOptions")?;
    let mut review = body::decode_object(call, options.validation)?;
    let metadata = access::child(&mut review, "metadata");
    access::ensure_object(metadata);
    for set_by_servers in [
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "selfLink",
        "uid",
    ] {
        access::remove(metadata, set_by_servers);
    }
    if call.row.namespaced {
        access::set(metadata, "namespace", call.namespace());
    } else {
        access::remove(metadata, "namespace");
    }
    let status = match &*call.row.plural {
        "selfsubjectreviews" => {
            access::set(&mut review, "metadata", json!({"creationTimestamp": now_text()}));
            json!({"userInfo": user_info(&call.user)})
        }
        "tokenreviews" => {
            manage(call, &options, &mut review);
            token_review(call, &review).await?
        }
        "selfsubjectrulesreviews" => {
            let status = rules_review(call, &review)?;
            access::set(&mut review, "metadata", json!({}));
            access::set(&mut review, "spec", json!({}));
            status
        }
        "selfsubjectaccessreviews" | "subjectaccessreviews" | "localsubjectaccessreviews" => {
            let errors = refusals(&review, &call.row.plural);
            if !errors.is_empty() {
                return Err(ApiError::invalid("authorization.k8s.io", "", "", errors));
            }
            manage(call, &options, &mut review);
            let asked = subject(access::get(&review, "spec"));
            let own = &*call.row.plural == "selfsubjectaccessreviews";
            access_review(call, if own { &call.user } else { &asked }, &review)
        }
        _ => return Err(ApiError::unknown_resource()),
    };
    access::set(&mut review, "status", status);
    Ok(answer::plain(call, 201, &review))
}

/// Enters the question's fields as the asker's.
fn manage(call: &Call, options: &WriteOptions, review: &mut Value) {
    let (gv, now) = (call.group_version(), now_text());
    apply::update_managed_fields(None, review, &options.manager, "Update", &gv, "", &now, call.node());
}

/// The rules of a question about rights.
fn refusals(review: &Value, plural: &str) -> ErrorList {
    let (path, spec) = (Path::new("spec"), access::get(review, "spec"));
    let (resource, other) = (
        access::get(spec, "resourceAttributes"),
        access::get(spec, "nonResourceAttributes"),
    );
    let other_path = path.child("nonResourceAttributes");
    let shown = json!({"Path": access::str_of(other, "path"), "Verb": access::str_of(other, "verb")});
    let mut errors = ErrorList::new();
    if resource.is_object() && other.is_object() {
        let detail = "cannot be specified in combination with resourceAttributes";
        errors.push(FieldError::invalid(&other_path, shown.clone(), detail));
    } else if !resource.is_object() && !other.is_object() {
        let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        let path = path.child("resourceAttributes");
        errors.push(FieldError::invalid(&path, Value::Null, detail));
    }
    let named = !access::str_of(spec, "user").is_empty() || !access::list(spec, "groups").is_empty();
    if plural != "selfsubjectaccessreviews" && !named {
        let detail = "at least one of user or group must be specified";
        errors.push(FieldError::invalid(&path.child("user"), "", detail));
    }
    let path = path.child("resourceAttributes");
    for kind in ["fieldSelector", "labelSelector"] {
        check_selector(&mut errors, &path.child(kind), kind, access::get(resource, kind));
    }
    let local = plural == "localsubjectaccessreviews";
    let metadata = access::get(review, "metadata");
    let given = access::entries(review, "metadata").any(|(key, value)| {
        let expected = key == "managedFields" || local && key == "namespace";
        !expected && !access::is_empty(value) && value != ""
    });
    if given {
        let except = if local { " except for namespace" } else { "" };
        let detail = format!("must be empty{except}");
        errors.push(FieldError::invalid(&Path::new("metadata"), metadata.clone(), detail));
    }
    if local && resource.is_object() && access::str_of(resource, "namespace") != access::namespace(review) {
        let namespace = access::str_of(resource, "namespace");
        let detail = "must match metadata.namespace";
        errors.push(FieldError::invalid(&path.child("namespace"), namespace, detail));
    }
    if local && other.is_object() {
        let detail = "disallowed on this kind of request";
        errors.push(FieldError::invalid(&other_path, shown, detail));
    }
    errors
}

/// The rules of a selector inside a question; operators that are not known may come from newer clients.
fn check_selector(errors: &mut ErrorList, path: &Path, kind: &str, selector: &Value) {
    if !selector.is_object() {
        return;
    }
    let (raw, requirements) = (
        access::str_of(selector, "rawSelector"),
        access::list(selector, "requirements"),
    );
    if !raw.is_empty() && !requirements.is_empty() {
        let detail = "may not specified at the same time as requirements";
        errors.push(FieldError::invalid(&path.child("rawSelector"), raw, detail));
    }
    if raw.is_empty() && requirements.is_empty() {
        let detail = format!("when {path} is specified, requirements or rawSelector is required");
        errors.push(FieldError::required(&path.child("requirements"), detail));
    }
    for (i, requirement) in requirements.iter().enumerate() {
        let labels = kind == "labelSelector";
        let path = path.child("requirements").index(i);
        if !labels && access::str_of(requirement, "key").is_empty() {
            errors.push(FieldError::required(&path.child("key"), "must be specified"));
        }
        check::requirement_values(errors, &path, requirement);
        if labels {
            check::label_requirement(errors, &path, requirement);
        }
    }
}

fn subject(spec: &Value) -> User {
    let extra: BTreeMap<String, Vec<String>> = access::entries(spec, "extra")
        .map(|(key, values)| {
            let values = values
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|v| v.as_str().map(str::to_owned))
                .collect();
            (key.clone(), values)
        })
        .collect();
    User {
        name: access::str_of(spec, "user").to_owned(),
        uid: access::str_of(spec, "uid").to_owned(),
        groups: access::texts(spec, "groups"),
        extra,
    }
}

fn access_review(call: &Call, user: &User, review: &Value) -> Value {
    let spec = access::get(review, "spec");
    let resource = access::get(spec, "resourceAttributes");
    let attributes = if resource.is_object() {
        let text = |field: &str| access::str_of(resource, field).to_owned();
        Attributes {
            verb: text("verb"),
            is_resource: true,
            group: text("group"),
            resource: text("resource"),
            subresource: text("subresource"),
            namespace: text("namespace"),
            name: text("name"),
            path: String::new(),
            fields: selector_fields(resource),
        }
    } else {
        let other = access::get(spec, "nonResourceAttributes");
        Attributes {
            verb: access::str_of(other, "verb").to_owned(),
            path: access::str_of(other, "path").to_owned(),
            ..Attributes::default()
        }
    };
    let (allowed, reason) = match call.server.authz.decide(user, &attributes, &call.snapshot()) {
        Decision::Allow(reason) => (true, reason),
        Decision::NoOpinion(reason) => (false, reason),
    };
    let mut status = json!({"allowed": allowed});
    if !reason.is_empty() {
        access::set(&mut status, "reason", reason);
    }
    status
}

/// The fields that the question's selector requires to have a value.
fn selector_fields(attributes: &Value) -> Vec<(String, String)> {
    let selector = access::get(attributes, "fieldSelector");
    let required = access::list(selector, "requirements").iter().filter_map(|requirement| {
        let values = access::list(requirement, "values");
        let [value] = values else { return None };
        let equal = access::str_of(requirement, "operator") == "In";
        equal.then(|| {
            (
                access::str_of(requirement, "key").to_owned(),
                value.as_str().unwrap_or_default().to_owned(),
            )
        })
    });
    required.collect()
}

fn user_info(user: &User) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        access::set(&mut info, "uid", user.uid.as_str());
    }
    if !user.extra.is_empty() {
        access::set(&mut info, "extra", json!(user.extra));
    }
    info
}

async fn token_review(call: &Call, review: &Value) -> Result<Value, ApiError> {
    let token = access::text(review, "/spec/token");
    if token.is_empty() {
        return Err(ApiError::bad_request(
            "token is required for TokenReview in authentication",
        ));
    }
    let audiences = access::texts(access::get(review, "spec"), "audiences");
    Ok(match call.server.by_token(token, &audiences).await {
        Ok(verified) => {
            json!({"authenticated": true, "user": user_info(&verified.user), "audiences": verified.audiences})
        }
        Err(why) => json!({"user": {}, "error": why}),
    })
}

fn rules_review(call: &Call, review: &Value) -> Result<Value, ApiError> {
    let namespace = access::text(review, "/spec/namespace");
    if namespace.is_empty() {
        return Err(ApiError::bad_request("no namespace on request"));
    }
    let mut rules = call
        .server
        .authz
        .rbac
        .rules_for(&call.user, namespace, &call.snapshot());
    if call.user.groups.iter().any(|group| group == "system:masters") {
        rules.insert(0, json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        rules.insert(1, json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }
    let (mut resources, mut others) = (Vec::new(), Vec::new());
    for rule in rules {
        let list = if access::list(&rule, "nonResourceURLs").is_empty() {
            &mut resources
        } else {
            &mut others
        };
        list.push(rule);
    }
    let mut status = json!({"resourceRules": resources, "nonResourceRules": others, "incomplete": false});
    if node_of(&call.user).is_some() {
        access::set(&mut status, "incomplete", true);
        let why = "node authorizer does not support user rule resolution";
        access::set(&mut status, "evaluationError", why);
    }
    Ok(status)
}

//! Reviews: questions about identity and rights, answered and not stored.

use std::collections::BTreeMap;

use coxswain_api::ApiError;
use coxswain_api::codec::Validation;
use coxswain_api::field::{ErrorList, FieldError, Path};
use coxswain_api::kinds::access;
use serde_json::{Value, json};

use crate::User;
use crate::answer::{self, Reply, now_text};
use crate::authz::node::node_of;
use crate::authz::{Attributes, Decision};
use crate::body;
use crate::call::Call;

/// Answers a review.
pub(super) async fn review(call: &Call) -> Result<Reply, ApiError> {
    let mut review = body::decode_object(call, Validation::Ignore)?;
    let status = match &*call.row.plural {
        "selfsubjectreviews" => {
            access::set(&mut review, "metadata", json!({"creationTimestamp": now_text()}));
            json!({"userInfo": user_info(&call.user)})
        }
        "tokenreviews" => token_review(call, &review).await?,
        "selfsubjectrulesreviews" => rules_review(call, &review)?,
        "selfsubjectaccessreviews" => {
            let errors = check_attributes(access::get(&review, "spec"));
            refuse(errors)?;
            access_review(call, &call.user, &review)
        }
        "subjectaccessreviews" | "localsubjectaccessreviews" => {
            let spec = access::get(&review, "spec");
            let mut errors = check_attributes(spec);
            if access::str_of(spec, "user").is_empty() && access::list(spec, "groups").is_empty() {
                let detail = "at least one of user or group must be specified";
                errors.push(FieldError::invalid(&Path::new("spec").child("user"), "", detail));
            }
            refuse(errors)?;
            access_review(call, &subject(spec), &review)
        }
        _ => return Err(ApiError::unknown_resource()),
    };
    access::set(&mut review, "status", status);
    if !access::get(&review, "metadata").is_object() {
        access::set(&mut review, "metadata", json!({}));
    }
    Ok(answer::plain(call, 201, &review))
}

fn refuse(errors: ErrorList) -> Result<(), ApiError> {
    if errors.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid("authorization.k8s.io", "", "", errors))
    }
}

fn check_attributes(spec: &Value) -> ErrorList {
    let resource = access::has(spec, "resourceAttributes");
    let other = access::has(spec, "nonResourceAttributes");
    let path = Path::new("spec");
    match (resource, other) {
        (true, true) => {
            let attributes = access::get(spec, "nonResourceAttributes");
            let shown = json!({"Path": access::str_of(attributes, "path"), "Verb": access::str_of(attributes, "verb")});
            let detail = "cannot be specified in combination with resourceAttributes";
            vec![FieldError::invalid(&path.child("nonResourceAttributes"), shown, detail)]
        }
        (false, false) => {
            let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            vec![FieldError::invalid(
                &path.child("resourceAttributes"),
                Value::Null,
                detail,
            )]
        }
        _ => Vec::new(),
    }
}

fn strings(value: &Value, field: &str) -> Vec<String> {
    access::list(value, field)
        .iter()
        .filter_map(|item| item.as_str().map(str::to_owned))
        .collect()
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
        groups: strings(spec, "groups"),
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
    let audiences = strings(access::get(review, "spec"), "audiences");
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

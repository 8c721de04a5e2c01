//! Reviews: questions about identity and rights, answered and not stored.

use std::collections::BTreeMap;

use coxswain_api::ApiError;
use coxswain_api::codec::Validation;
use coxswain_api::field::{ErrorList, FieldError, Path};
use coxswain_api::kinds::access;
use serde_json::{Value, json};

use crate::User;
use crate::answer::{self, Reply, now_text};
use crate::authn::AUTHENTICATED;
use crate::authz::{self, Attributes, Decision};
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
        "tokenreviews" => token_review(call, &review)?,
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
        }
    } else {
        let other = access::get(spec, "nonResourceAttributes");
        Attributes {
            verb: access::str_of(other, "verb").to_owned(),
            path: access::str_of(other, "path").to_owned(),
            ..Attributes::default()
        }
    };
    match authz::decide(&call.server.rbac, user, &attributes, &call.snapshot()) {
        Decision::Allow(reason) if reason.is_empty() => json!({"allowed": true}),
        Decision::Allow(reason) => json!({"allowed": true, "reason": reason}),
        Decision::NoOpinion => json!({"allowed": false}),
    }
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

fn token_review(call: &Call, review: &Value) -> Result<Value, ApiError> {
    let token = access::text(review, "/spec/token");
    if token.is_empty() {
        return Err(ApiError::bad_request(
            "token is required for TokenReview in authentication",
        ));
    }
    let audiences = strings(access::get(review, "spec"), "audiences");
    let now_s = answer::now().as_second();
    Ok(
        match call.server.tokens.verify(token, &audiences, &call.snapshot(), now_s) {
            Ok(verified) => {
                let mut user = verified.user;
                user.groups.push(AUTHENTICATED.to_owned());
                json!({"authenticated": true, "user": user_info(&user), "audiences": verified.audiences})
            }
            Err(why) => json!({"user": {}, "error": why}),
        },
    )
}

fn rules_review(call: &Call, review: &Value) -> Result<Value, ApiError> {
    let namespace = access::text(review, "/spec/namespace");
    if namespace.is_empty() {
        return Err(ApiError::bad_request("no namespace on request"));
    }
    let mut rules = call.server.rbac.rules_for(&call.user, namespace, &call.snapshot());
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
    Ok(json!({"resourceRules": resources, "nonResourceRules": others, "incomplete": false}))
}

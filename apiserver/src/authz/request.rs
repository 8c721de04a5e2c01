//! What a request needs to be allowed, from its text alone.

use coxswain_api::selector::FieldSelector;
use coxswain_api::{ApiError, names};
use http::header::UPGRADE;
use http::{HeaderMap, Method};

use super::{Attributes, refusal};
use crate::User;
use crate::query::Query;
use crate::route::{ResourcePath, Target};

/// What authorisation has to know of a request.
pub(crate) fn attributes(target: &Target, method: &Method, path: &str, query: &Query) -> Attributes {
    let Target::Resource(resource) = target else {
        return Attributes {
            verb: method.as_str().to_ascii_lowercase(),
            path: path.to_owned(),
            ..Attributes::default()
        };
    };
    let verb = verb_of(resource, method, query);
    let collection = matches!(verb, "list" | "watch" | "deletecollection");
    let fields = if collection {
        required_fields(query.text("fieldSelector"))
    } else {
        Vec::new()
    };
    let mut name = resource.name.clone();
    // A list of one name is a right on that name; what deletes a collection, and the old way to watch, name nothing.
    let reads_names = matches!(verb, "list" | "watch") && !resource.watch && name.is_empty();
    let named = fields.iter().find(|(field, _)| field == "metadata.name");
    if let Some((_, value)) = named.filter(|(_, value)| reads_names && names::path_segment(value).is_empty()) {
        name.clone_from(value);
    }
    Attributes {
        verb: verb.to_owned(),
        is_resource: true,
        group: resource.group.clone(),
        resource: resource.resource.clone(),
        subresource: resource.subresource.clone(),
        namespace: resource.namespace.clone(),
        name,
        path: path.to_owned(),
        fields,
    }
}

/// The fields that a selector requires to have a value; none when it cannot be read.
fn required_fields(selector: &str) -> Vec<(String, String)> {
    if selector.is_empty() {
        return Vec::new();
    }
    let selector = FieldSelector::parse(selector).unwrap_or_default();
    let required = selector.requirements().iter().filter(|requirement| requirement.equals);
    required.map(|r| (r.field.clone(), r.value.clone())).collect()
}

fn verb_of(path: &ResourcePath, method: &Method, query: &Query) -> &'static str {
    let collection = path.name.is_empty();
    let watch = collection && query.flag("watch").unwrap_or(false);
    match *method {
        _ if path.watch => "watch",
        Method::GET | Method::HEAD if watch => "watch",
        Method::GET | Method::HEAD if collection => "list",
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if collection => "deletecollection",
        Method::DELETE => "delete",
        _ => "",
    }
}

/// The right to create that a request needs beside its own verb: whoever talks with a container, whichever method
/// began it, changes what runs there. Kubernetes asks it of every `exec`, `attach` and `portforward`; here it is asked
/// of upgraded connections through `proxy`, too, since a node's agent runs commands by them.
pub(crate) fn also_creates(attributes: &Attributes, headers: &HeaderMap) -> Option<Attributes> {
    let talks = match attributes.subresource.as_str() {
        "exec" | "attach" | "portforward" => true,
        "proxy" => headers.contains_key(UPGRADE),
        _ => false,
    };
    let asks = attributes.is_resource && talks && attributes.verb != "create";
    asks.then(|| Attributes {
        verb: "create".to_owned(),
        ..attributes.clone()
    })
}

/// The 403 for who may not also create. Kubernetes gives no reason but for its own verb.
pub(crate) fn refusal_of_stream(user: &User, create: &Attributes) -> ApiError {
    match create.subresource.as_str() {
        "proxy" => refusal(user, create, "connections that change their protocol need it"),
        _ => ApiError::forbidden(&create.group, &create.resource, &create.name, ""),
    }
}

//! The way of every request: id, panic boundary, identity, authorisation, verb.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use bytes::Bytes;
use coxswain_api::ApiError;
use futures::FutureExt;
use http::header::{ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, LengthLimitError, Limited};

use crate::User;
use crate::answer::{self, Reply};
use crate::authn;
use crate::authz::{self, Attributes, Decision};
use crate::body::BODY_BYTES_MAX;
use crate::call::Call;
use crate::compress;
use crate::negotiate::{self, Form, Offer, View};
use crate::pages;
use crate::query::Query;
use crate::route::{self, ResourcePath, Target};
use crate::shared::Shared;
use crate::subresources;
use crate::verbs;

/// Who sends a request, as far as the transport knows.
#[derive(Clone)]
pub(crate) enum Caller {
    /// Over TLS, with the user of the verified client certificate if there was one.
    Remote(Option<User>),
    /// In this process.
    Local(User),
}

/// Answers one request. Never fails and never panics.
pub(crate) async fn handle(shared: Arc<Shared>, caller: Caller, request: Request<Body>) -> Reply {
    shared.requests.fetch_add(1, Ordering::Relaxed);
    let id = uuid::Uuid::new_v4().to_string();
    let [agent, encodings, accept] =
        [USER_AGENT, ACCEPT_ENCODING, ACCEPT].map(|name| text_header(request.headers(), &name).to_owned());
    let asked = Query::parse(request.uri().query().unwrap_or_default());
    let pretty = negotiate::pretty(asked.text("pretty"), &agent);
    let answered = AssertUnwindSafe(answer(shared, caller, request)).catch_unwind().await;
    let mut reply = match answered {
        Ok(Ok(reply)) => reply,
        Ok(Err(error)) => {
            let form = Form {
                encoding: negotiate::plain_form(&accept).unwrap_or_default(),
                pretty,
                ..Form::default()
            };
            answer::error(&error, form)
        }
        Err(_) => {
            tracing::error!(request = %id, "a request panicked");
            let error = ApiError::internal(format!(
                "the request {id} hit a defect in the server; its log has the details"
            ));
            answer::error(&error, Form::default())
        }
    };
    if let Ok(value) = HeaderValue::from_str(&id) {
        reply.headers_mut().insert("audit-id", value);
    }
    reply
        .headers_mut()
        .entry(CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-cache, private"));
    compress::compressed(reply, &encodings)
}

async fn answer(shared: Arc<Shared>, caller: Caller, request: Request<Body>) -> Result<Reply, ApiError> {
    let target = route::parse(request.uri().path());
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let user = identify(&shared, caller, request.headers())?;
    let attributes = attributes(&target, request.method(), request.uri().path(), &query);
    authorize(&shared, &user, &attributes)?;
    match target {
        Target::Resource(path) => resource(shared, user, path, query, attributes.verb, request).await,
        other => pages::answer(&shared, &other, &query, request.method(), request.headers()),
    }
}

fn identify(shared: &Shared, caller: Caller, headers: &HeaderMap) -> Result<User, ApiError> {
    let snapshot = shared.store.snapshot();
    let user = match caller {
        Caller::Local(user) => user,
        Caller::Remote(certificate) => {
            let now_s = answer::now().as_second();
            authn::authenticate(certificate, headers, &shared.tokens, &snapshot, now_s)?
        }
    };
    let Some(wanted) = authn::impersonation(headers)? else {
        return Ok(user);
    };
    for (group, resource, namespace, name, subresource) in wanted.needs {
        let attributes = Attributes {
            verb: "impersonate".to_owned(),
            is_resource: true,
            group: group.to_owned(),
            resource: resource.to_owned(),
            namespace,
            name,
            subresource,
            ..Attributes::default()
        };
        authorize(shared, &user, &attributes)?;
    }
    Ok(wanted.user)
}

fn authorize(shared: &Shared, user: &User, attributes: &Attributes) -> Result<(), ApiError> {
    match authz::decide(&shared.rbac, user, attributes, &shared.store.snapshot()) {
        Decision::Allow(_) => Ok(()),
        Decision::NoOpinion => Err(authz::refusal(user, attributes)),
    }
}

/// What authorisation has to know of a request.
fn attributes(target: &Target, method: &Method, path: &str, query: &Query) -> Attributes {
    let Target::Resource(resource) = target else {
        return Attributes {
            verb: method.as_str().to_ascii_lowercase(),
            path: path.to_owned(),
            ..Attributes::default()
        };
    };
    let field = query.text("fieldSelector");
    let selected = field
        .split(',')
        .find_map(|part| part.strip_prefix("metadata.name="))
        .map(|name| name.trim_start_matches('='));
    let verb = verb_of(resource, method, query);
    let collection = matches!(verb, "list" | "watch" | "deletecollection");
    let name = if resource.name.is_empty() && collection {
        selected.unwrap_or_default().to_owned()
    } else {
        resource.name.clone()
    };
    Attributes {
        verb: verb.to_owned(),
        is_resource: true,
        group: resource.group.clone(),
        resource: resource.resource.clone(),
        subresource: resource.subresource.clone(),
        namespace: resource.namespace.clone(),
        name,
        path: path.to_owned(),
    }
}

fn verb_of(path: &ResourcePath, method: &Method, query: &Query) -> &'static str {
    let collection = path.name.is_empty();
    let watch = path.watch || (collection && query.flag("watch").unwrap_or(false));
    match *method {
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

async fn resource(
    shared: Arc<Shared>,
    user: User,
    path: ResourcePath,
    query: Query,
    verb: String,
    request: Request<Body>,
) -> Result<Reply, ApiError> {
    let registry = shared.registry();
    let row = registry
        .resource(&path.group, &path.version, &path.resource)
        .ok_or_else(ApiError::unknown_resource)?
        .clone();
    let misplaced = (!row.namespaced && !path.namespace.is_empty() && &*row.plural != "namespaces")
        || (row.namespaced && path.namespace.is_empty() && !path.name.is_empty());
    if misplaced {
        return Err(ApiError::unknown_resource());
    }
    check_verb(&row, &path, &verb)?;
    let headers = request.headers();
    let accept = text_header(headers, &ACCEPT).to_owned();
    let user_agent = text_header(headers, &USER_AGENT).to_owned();
    let content_type = text_header(headers, &CONTENT_TYPE).to_owned();
    let connects = subresources::connects(&path.subresource);
    let offer = Offer {
        builtin: row.type_name.is_some(),
        tables: row.is_stored() && !matches!(&*path.subresource, "binding" | "eviction" | "token")
            || &*row.plural == "componentstatuses",
        streams: path.name.is_empty() && matches!(&*verb, "list" | "watch") || path.watch,
    };
    let mut form = match negotiate::resource_form(&accept, offer) {
        Ok(form) => form,
        // Streams and proxied answers have types of their own.
        Err(_) if connects => Form::default(),
        Err(error) => return Err(error),
    };
    form.pretty = form.pretty || negotiate::pretty(query.text("pretty"), &user_agent);
    let mut call = Call {
        server: shared,
        registry: registry.clone(),
        row,
        path,
        user,
        query,
        form,
        user_agent,
        content_type,
        body: Bytes::new(),
        warnings: Mutex::default(),
    };
    if connects {
        return subresources::connect(&call, request).await;
    }
    if let Some(text) = deprecation(&call.row) {
        call.warn(text);
    }
    let method = request.method().clone();
    call.body = read_body(request.into_body()).await?;
    let call = Arc::new(call);
    let done = dispatch(call.clone(), &method, &verb).await;
    let reply = match done {
        Ok(reply) => reply,
        Err(error) => answer::error(
            &error,
            Form {
                encoding: negotiate::plain_form(&accept).unwrap_or_default(),
                view: View::Whole,
                ..call.form
            },
        ),
    };
    Ok(answer::with_warnings(reply, &call.take_warnings()))
}

/// The warning that using a deprecated resource brings.
fn deprecation(row: &coxswain_api::Resource) -> Option<&'static str> {
    match (&*row.group, &*row.version, &*row.plural) {
        ("", "v1", "endpoints") => Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
        ("", "v1", "componentstatuses") => Some("v1 ComponentStatus is deprecated in v1.19+"),
        _ => None,
    }
}

/// Refuses methods the resource or subresource does not have.
fn check_verb(row: &coxswain_api::Resource, path: &ResourcePath, verb: &str) -> Result<(), ApiError> {
    let refuse = || Err(ApiError::method_not_allowed(&path.group, &path.resource, verb));
    if !path.subresource.is_empty() {
        let Some(sub) = row.subresource(&path.subresource) else {
            return Err(ApiError::unknown_resource());
        };
        return if sub.verbs.contains(&verb) { Ok(()) } else { refuse() };
    }
    // A watch of one name is the old form of a watch with a field selector.
    let named = !path.name.is_empty();
    let wants_name = matches!(verb, "get" | "update" | "patch" | "delete");
    if !row.has_verb(verb) || (verb != "watch" && named != wants_name) {
        return refuse();
    }
    if row.namespaced && path.namespace.is_empty() && matches!(verb, "create" | "deletecollection") {
        return refuse();
    }
    Ok(())
}

async fn dispatch(call: Arc<Call>, method: &Method, verb: &str) -> Result<Reply, ApiError> {
    if !call.path.subresource.is_empty() {
        return subresources::dispatch(&call, method).await;
    }
    if !call.row.is_stored() {
        return subresources::virtual_resource(&call, verb).await;
    }
    match verb {
        "get" => verbs::get::get(&call).await,
        "list" => verbs::list::list(&call).await,
        "watch" => verbs::watch::watch(call).await,
        "create" => verbs::create::create(&call).await,
        "update" => verbs::update::update(&call, None).await,
        "patch" => verbs::patch::patch_object(&call, None).await,
        "delete" => verbs::delete::delete(&call).await,
        "deletecollection" => verbs::deletecollection::deletecollection(&call).await,
        _ => Err(ApiError::method_not_allowed(&call.row.group, &call.row.plural, verb)),
    }
}

async fn read_body(body: Body) -> Result<Bytes, ApiError> {
    match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.downcast_ref::<LengthLimitError>().is_some() => {
            Err(ApiError::body_too_large(BODY_BYTES_MAX))
        }
        Err(error) => Err(ApiError::bad_request(format!(
            "error reading the request body: {error}"
        ))),
    }
}

/// A header as text, empty when absent or not text.
pub(crate) fn text_header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

//! The way of every request: id, panic boundary, identity, authorisation, verb.

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use bytes::Bytes;
use coxswain_api::selector::FieldSelector;
use coxswain_api::{ApiError, AsStored};
use coxswain_store::Snapshot;
use futures::FutureExt;
use http::header::{ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use http::{HeaderMap, Method, Request};

use crate::User;
use crate::answer::{self, Reply};
use crate::audit::{Beginning, Trail};
use crate::authn::{self, Certified, Impersonation};
use crate::authz::{self, Attributes, Decision};
use crate::body;
use crate::call::Call;
use crate::compress;
use crate::costly;
use crate::flow::{self, Class, Refused};
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
    /// Over TLS.
    Remote(Peer),
    /// In this process.
    Local(User),
}

/// The other end of a connection.
#[derive(Clone, Default)]
pub(crate) struct Peer {
    pub address: Option<IpAddr>,
    /// The verified client certificate, if there was one.
    pub certificate: Option<Arc<Certified>>,
}

/// What accompanies a request to its answer.
#[derive(Default)]
struct Company {
    trail: Option<Arc<Trail>>,
    class: Option<Class>,
    streams: bool,
}

/// Answers one request. Never fails and never panics.
pub(crate) async fn handle(shared: Arc<Shared>, caller: Caller, request: Request<Body>) -> Reply {
    shared.requests.fetch_add(1, Ordering::Relaxed);
    let id = answer::new_uid();
    let [agent, encodings, accept] =
        [USER_AGENT, ACCEPT_ENCODING, ACCEPT].map(|name| text_header(request.headers(), &name).to_owned());
    let asked = Query::parse(request.uri().query().unwrap_or_default());
    let pretty = negotiate::pretty(asked.text("pretty"), &agent);
    let mut company = Company::default();
    let answered = AssertUnwindSafe(answer(shared, caller, request, asked, &id, &mut company))
        .catch_unwind()
        .await;
    let panicked = answered.is_err();
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
    if let Some(class) = &company.class {
        for (name, uid) in [
            ("x-kubernetes-pf-flowschema-uid", &class.schema_uid),
            ("x-kubernetes-pf-prioritylevel-uid", &class.level_uid),
        ] {
            if let Ok(value) = HeaderValue::from_str(uid) {
                reply.headers_mut().insert(name, value);
            }
        }
    }
    if let Some(trail) = company.trail {
        if panicked {
            trail.panicked();
        } else {
            reply = trail.answered(reply, company.streams).await;
        }
    }
    compress::compressed(reply, &encodings)
}

async fn answer(
    shared: Arc<Shared>,
    caller: Caller,
    request: Request<Body>,
    query: Query,
    id: &str,
    company: &mut Company,
) -> Result<Reply, ApiError> {
    let target = route::parse(request.uri().path());
    let mut request = request;
    let (local, source) = match &caller {
        Caller::Local(_) => {
            // A component of this process: its bodies wait for nobody's.
            request.extensions_mut().insert(costly::InProcess);
            (true, None)
        }
        Caller::Remote(peer) => (false, peer.address),
    };
    let (user, wanted) = identify(&shared, caller, request.headers(), request.uri().path()).await?;
    let attributes = attributes(&target, request.method(), request.uri().path(), &query);
    company.streams = stays(&attributes);
    if let Some(audit) = &shared.audit {
        let version = match &target {
            Target::Resource(path) => path.version.as_str(),
            _ => "",
        };
        let beginning = Beginning {
            id,
            uri: request.uri().path_and_query().map_or("", |uri| uri.as_str()),
            agent: text_header(request.headers(), &USER_AGENT),
            source,
            user: &user,
            impersonated: wanted.as_ref().map(|wanted| &wanted.user),
            attributes: &attributes,
            version,
        };
        company.trail = Trail::begin(audit, &beginning);
    }
    let user = impersonate(&shared, user, wanted)?;
    let snapshot = shared.store.snapshot();
    company.class = shared.flow.classify(&user, &attributes, &snapshot);
    let _seat = match &company.class {
        // A watch takes a seat until it has begun.
        Some(class) if !company.streams || attributes.verb == "watch" => {
            match class.seat(width(&shared, &attributes, &query, &snapshot)).await {
                Ok(seat) => Some(seat),
                Err(why) => return Ok(too_many(&why)),
            }
        }
        _ => None,
    };
    let decision = shared.authz.decide(&user, &attributes, &snapshot);
    let (Decision::Allow(reason) | Decision::NoOpinion(reason)) = &decision;
    if let Some(trail) = &company.trail {
        trail.decided(decision.is_allowed(), reason);
    }
    if !decision.is_allowed() {
        let error = authz::refusal(&user, &attributes, reason);
        if local {
            // A component of this process asks for more than its role gives: a defect.
            tracing::warn!(%error, "refused");
        }
        return Err(error);
    }
    match target {
        Target::Resource(path) => {
            let trail = company.trail.clone();
            resource(shared, user, path, query, attributes.verb, request, trail).await
        }
        Target::Other(parts) if parts.first().is_some_and(|first| first == "cluster") => {
            let words: Vec<&str> = parts.iter().skip(1).map(String::as_str).collect();
            pages::cluster::answer(&shared, &words, request.method()).await
        }
        other => pages::answer(&shared, &other, &query, request.method(), request.headers()),
    }
}

/// How many seats a request takes.
fn width(shared: &Shared, attributes: &Attributes, query: &Query, snapshot: &Snapshot) -> usize {
    let stored = || {
        let registry = shared.registry();
        let path = attributes.path.strip_prefix("/apis/").unwrap_or_default();
        let version = path.split('/').nth(1).unwrap_or("v1");
        let row = registry.resource(&attributes.group, version, &attributes.resource);
        let namespace = Some(attributes.namespace.as_str()).filter(|namespace| !namespace.is_empty());
        row.map_or(0, |row| snapshot.count(&row.storage, namespace))
    };
    let selects = !query.text("labelSelector").is_empty() || !query.text("fieldSelector").is_empty();
    flow::width(&attributes.verb, stored, query.text("limit").parse().ok(), selects)
}

/// Whether such a request goes on after its answer has begun.
fn stays(attributes: &Attributes) -> bool {
    attributes.is_resource
        && (attributes.verb == "watch"
            || matches!(
                attributes.subresource.as_str(),
                "exec" | "attach" | "portforward" | "proxy" | "log"
            ))
}

/// The answer when there is no seat: text, as in Kubernetes.
fn too_many(why: &Refused) -> Reply {
    tracing::debug!(?why, "too many requests");
    let mut reply = answer::text(429, "Too many requests, please try again later.\n");
    reply
        .headers_mut()
        .insert(http::header::RETRY_AFTER, HeaderValue::from_static("1"));
    reply
}

/// Who asks, and whom they want to act as.
async fn identify(
    shared: &Shared,
    caller: Caller,
    headers: &HeaderMap,
    path: &str,
) -> Result<(User, Option<Impersonation>), ApiError> {
    let user = match caller {
        Caller::Local(user) => user,
        Caller::Remote(peer) => shared.authenticate(peer.certificate.as_deref(), headers, path).await?,
    };
    Ok((user, authn::impersonation(headers)?))
}

/// The user acted as, when that is allowed.
fn impersonate(shared: &Shared, user: User, wanted: Option<Impersonation>) -> Result<User, ApiError> {
    let Some(wanted) = wanted else {
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
    match shared.authz.decide(user, attributes, &shared.store.snapshot()) {
        Decision::Allow(_) => Ok(()),
        Decision::NoOpinion(reason) => Err(authz::refusal(user, attributes, &reason)),
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
    let verb = verb_of(resource, method, query);
    let collection = matches!(verb, "list" | "watch" | "deletecollection");
    let fields = if collection {
        required_fields(query.text("fieldSelector"))
    } else {
        Vec::new()
    };
    let mut name = resource.name.clone();
    if name.is_empty()
        && let Some((_, value)) = fields.iter().find(|(field, _)| field == "metadata.name")
    {
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
    trail: Option<Arc<Trail>>,
) -> Result<Reply, ApiError> {
    let registry = shared.registry();
    let row = registry
        .resource(&path.group, &path.version, &path.resource)
        .ok_or_else(ApiError::unknown_resource)?
        .clone();
    let deeper = path.rest.len() > 1 && path.subresource != "proxy";
    let misplaced = deeper
        || (!row.namespaced && !path.namespace.is_empty() && &*row.plural != "namespaces")
        || (row.namespaced && path.namespace.is_empty() && !path.name.is_empty());
    if misplaced {
        return Err(ApiError::unknown_resource());
    }
    check_verb(&row, &path, &verb)?;
    let connects = subresources::connects(&path.subresource);
    // Only what is behind a proxy may have a head of its own.
    if request.method() == Method::HEAD && !connects {
        return Err(ApiError::method_not_allowed(&path.group, &path.resource, "head"));
    }
    let headers = request.headers();
    let accept = text_header(headers, &ACCEPT).to_owned();
    let user_agent = text_header(headers, &USER_AGENT).to_owned();
    let content_type = text_header(headers, &CONTENT_TYPE).to_owned();
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
    form.as_stored = request.extensions().get::<AsStored>().is_some();
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
        call.catch_up(&verb).await?;
        return subresources::connect(&call, request).await;
    }
    if let Some(text) = deprecation(&call.row) {
        call.warn(text);
    }
    let method = request.method().clone();
    let (body, _room) = body::read(&call, request).await?;
    call.body = body;
    if let Some(trail) = &trail {
        trail.request(&call.body);
    }
    let call = Arc::new(call);
    let done = match costly::weigh(&call, &verb) {
        None => dispatch(call.clone(), &method, &verb).await,
        Some(kib) => {
            let work = call.clone();
            let work = async move { dispatch(work, &method, &verb).await };
            call.server.costly.run(&call.user.name, kib, work).await
        }
    };
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
    call.catch_up(verb).await?;
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

/// A header as text, empty when absent or not text.
pub(crate) fn text_header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

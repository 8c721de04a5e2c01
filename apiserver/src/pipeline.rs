//! The way of every request: id, panic boundary, identity, authorisation, verb.

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use bytes::Bytes;
use coxswain_api::{ApiError, AsStored, names};
use coxswain_store::Snapshot;
use futures::FutureExt;
use http::header::{ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use http::{HeaderMap, Method, Request};
use http_body::Body as _;

use crate::User;
use crate::answer::{self, Reply};
use crate::audit::{Beginning, Failed, Trail};
use crate::authn::{self, Certified, Impersonation};
use crate::authz::{self, Attributes, Decision, request};
use crate::body::{self, RequestBody};
use crate::call::Call;
use crate::compress;
use crate::costly;
use crate::flow::{self, Class, Refused};
use crate::negotiate::{self, Form, Offer, View};
use crate::pages;
use crate::query::Query;
use crate::route::{self, ResourcePath, Target};
use crate::serve::connections::{Connection, RequestGuard};
use crate::serve::holder::Holder;
use crate::serve::response;
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
    /// The connection's place and limits.
    pub connection: Option<Arc<Connection>>,
}

/// Where a request comes from, among its extensions. What runs in this process is where this server is.
#[derive(Clone, Copy)]
struct Source(Option<IpAddr>);

/// What accompanies a request to its answer.
#[derive(Default)]
struct Company {
    trail: Option<Arc<Trail>>,
    class: Option<Class>,
    streams: bool,
    /// Whose memory a body and an answer are, where the client is another process.
    holder: Option<Holder>,
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
    let in_progress = match &caller {
        Caller::Remote(peer) => peer.connection.clone().map(RequestGuard::begin),
        Caller::Local(_) => None,
    };
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
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
    let held = match company
        .holder
        .as_ref()
        .map(|holder| holder.keep(&reply, company.streams, reads))
    {
        Some(Ok(held)) => Some(held),
        Some(Err(why)) => {
            reply = too_many(&why);
            None
        }
        None => None,
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
    let reply = compress::compressed(reply, &encodings);
    match in_progress {
        Some(in_progress) => response::metered(reply, in_progress, held, company.streams),
        None => reply,
    }
}

async fn answer(
    shared: Arc<Shared>,
    caller: Caller,
    request: Request<Body>,
    query: Query,
    id: &str,
    company: &mut Company,
) -> Result<Reply, ApiError> {
    let (local, source) = match &caller {
        Caller::Local(_) => (true, None),
        Caller::Remote(peer) => (false, peer.address),
    };
    let peer = match &caller {
        Caller::Local(_) => None,
        Caller::Remote(peer) => Some(peer.clone()),
    };
    let (mut head, body) = request.into_parts();
    let from = if local { Some(shared.config.advertise.0) } else { source };
    head.extensions.insert(Source(from));
    let path = route::decoded(head.uri.path());
    let readable = path.as_deref().unwrap_or_default();
    let target = route::parse(readable);
    let attributes = request::attributes(&target, &head.method, readable, &query);
    let mut why = String::new();
    let identified = identify(&shared, caller, &head.headers, head.uri.path(), &mut why).await;
    let (user, wanted) = match identified {
        Ok(identified) => identified,
        Err(error) => {
            if let Some(audit) = &shared.audit {
                audit.failed(&Failed {
                    id,
                    uri: head.uri.path_and_query().map_or("", |uri| uri.as_str()),
                    agent: text_header(&head.headers, &USER_AGENT),
                    source,
                    attributes: &attributes,
                    code: error.code,
                    reason: error.reason,
                    why: &why,
                });
            }
            return Err(error);
        }
    };
    path?;
    if let Some((peer, connection)) = peer.as_ref().and_then(|peer| Some((peer, peer.connection.as_ref()?))) {
        match Holder::of(peer, connection, &user) {
            Ok(holder) => company.holder = holder,
            Err(why) => return Ok(too_many(&why)),
        }
    }
    company.streams = stays(&attributes);
    if let Some(audit) = &shared.audit {
        let version = match &target {
            Target::Resource(path) => path.version.as_str(),
            _ => "",
        };
        let beginning = Beginning {
            id,
            uri: head.uri.path_and_query().map_or("", |uri| uri.as_str()),
            agent: text_header(&head.headers, &USER_AGENT),
            source,
            user: &user,
            impersonated: wanted.as_ref().map(|wanted| &wanted.user),
            attributes: &attributes,
            version,
        };
        company.trail = Trail::begin(audit, &beginning);
    }
    let user = impersonate(&shared, user, wanted)?;
    forget_identity(&shared, &mut head.headers);
    let snapshot = shared.store.snapshot();
    company.class = shared.flow.classify(&user, &attributes, &snapshot);
    // The body is in before the request takes a seat: who sends slowly holds nothing that others need.
    let passed = matches!(&target, Target::Resource(path) if subresources::connects(&path.subresource));
    let (body, _held) = if passed || !matches!(target, Target::Resource(_)) {
        (RequestBody::Passed(body), None)
    } else {
        if !body.is_end_stream() {
            // Nobody sends what is refused anyway.
            may(
                &shared,
                &user,
                &attributes,
                &head.headers,
                &snapshot,
                company.trail.as_deref(),
                local,
            )?;
        }
        let (body, held) = body::read(&head.headers, body, company.holder.as_ref()).await;
        (RequestBody::Received(body), held)
    };
    let snapshot = shared.store.snapshot();
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
    let reason = may(
        &shared,
        &user,
        &attributes,
        &head.headers,
        &snapshot,
        company.trail.as_deref(),
        local,
    )?;
    if let Some(trail) = &company.trail {
        trail.decided(true, &reason);
    }
    let request = Request::from_parts(head, body);
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

/// Whether the user may do this, with the reason; a refusal is told to the trail and, for a component of this process, to
/// the log.
fn may(
    shared: &Shared,
    user: &User,
    attributes: &Attributes,
    headers: &HeaderMap,
    snapshot: &Snapshot,
    trail: Option<&Trail>,
    local: bool,
) -> Result<String, ApiError> {
    let decision = shared.authz.decide(user, attributes, snapshot);
    let is_allowed = decision.is_allowed();
    let (Decision::Allow(reason) | Decision::NoOpinion(reason)) = decision;
    let mut refused = (!is_allowed).then(|| authz::refusal(user, attributes, &reason));
    if refused.is_none()
        && let Some(create) = request::also_creates(attributes, headers)
        && !shared.authz.decide(user, &create, snapshot).is_allowed()
    {
        refused = Some(request::refusal_of_stream(user, &create));
    }
    let Some(error) = refused else {
        return Ok(reason);
    };
    if let Some(trail) = trail {
        trail.decided(false, &reason);
    }
    if local {
        // A component of this process asks for more than its role gives: a defect.
        tracing::warn!(%error, "refused");
    }
    Err(error)
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
    why: &mut String,
) -> Result<(User, Option<Impersonation>), ApiError> {
    let user = match caller {
        Caller::Local(user) => user,
        Caller::Remote(peer) => {
            let certificate = peer.certificate.as_deref();
            shared.authenticate(certificate, headers, path, why).await?
        }
    };
    "attempted: impersonation".clone_into(why);
    Ok((user, authn::impersonation(headers)?))
}

/// Removes what says who somebody is: from here on that is decided, and nobody behind this server believes it.
fn forget_identity(shared: &Shared, headers: &mut HeaderMap) {
    let said = headers.keys().filter(|name| shared.authn.identifies(name.as_str()));
    let said: Vec<HeaderName> = said.cloned().collect();
    for name in said {
        headers.remove(name);
    }
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

async fn resource(
    shared: Arc<Shared>,
    user: User,
    path: ResourcePath,
    query: Query,
    verb: String,
    request: Request<RequestBody>,
    trail: Option<Arc<Trail>>,
) -> Result<Reply, ApiError> {
    let registry = shared.registry();
    let row = registry
        .resource(&path.group, &path.version, &path.resource)
        .ok_or_else(ApiError::unknown_resource)?
        .clone();
    if !path.leads_to(row.namespaced, row.has_verb("list")) {
        return Err(ApiError::unknown_resource());
    }
    check_verb(&row, &path, &verb)?;
    if path.watch && request.method() != Method::GET {
        let method = request.method().as_str().to_ascii_lowercase();
        return Err(ApiError::method_not_allowed(&path.group, &path.resource, &method));
    }
    let connects = subresources::connects(&path.subresource);
    // Only what is behind a proxy may have a head of its own.
    if request.method() == Method::HEAD && !connects {
        return Err(ApiError::method_not_allowed(&path.group, &path.resource, "head"));
    }
    check_names(&path)?;
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
        verb: verb.clone(),
        user,
        source: request.extensions().get().and_then(|Source(from)| *from),
        query,
        form,
        user_agent,
        content_type,
        body: Bytes::new(),
        warnings: Mutex::default(),
    };
    let (head, body) = request.into_parts();
    let body = match body {
        RequestBody::Received(body) => body,
        RequestBody::Passed(body) => {
            call.catch_up(&verb).await?;
            return subresources::connect(&call, Request::from_parts(head, body)).await;
        }
    };
    if let Some(text) = deprecation(&call.row) {
        call.warn(text);
    }
    let method = head.method.clone();
    call.body = body?;
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
    if row.namespaced && !path.below_namespace && !matches!(verb, "list" | "watch") {
        return refuse();
    }
    Ok(())
}

/// Refuses names that are no part of a path: nothing is stored under them.
fn check_names(path: &ResourcePath) -> Result<(), ApiError> {
    for (what, name) in [("Name", &path.name), ("Namespace", &path.namespace)] {
        let errors = names::path_segment(name);
        if !errors.is_empty() {
            let why = errors.join(", ");
            return Err(ApiError::bad_request(format!(
                "{what} parameter invalid: {name:?}: {why}"
            )));
        }
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

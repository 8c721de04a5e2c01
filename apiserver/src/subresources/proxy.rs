//! `proxy` of pods, services and nodes: a request goes on to an HTTP server behind the API server, and what comes back
//! is changed where it would lead its reader past the proxy.

use std::net::{IpAddr, SocketAddr};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use coxswain_api::ApiError;
use coxswain_api::kinds::access;
use coxswain_store::Snapshot;
use futures::StreamExt;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue, LOCATION, UPGRADE,
};
use http::{Method, Request, StatusCode, Uri};
use serde_json::Value;

use super::connect::agent;
use super::html;
use super::kubelet::{Agent, Destination};
use crate::answer::Reply;
use crate::call::Call;
use crate::query::encode_into;

/// Longest page whose links are changed; a longer one passes as it is.
const PAGE_MAX_BYTES: usize = 4 << 20;

/// Runs the subresource.
pub(super) async fn proxy(call: &Call, snapshot: &Snapshot, request: Request<Body>) -> Result<Reply, ApiError> {
    let to = match &*call.row.plural {
        "pods" => Some(pod(call, snapshot)?),
        "services" => Some(service(call, snapshot)?),
        _ => node(call, snapshot)?,
    };
    let (mut head, body) = request.into_parts();
    let upgrades = head.headers.contains_key(UPGRADE);
    if call.path.rest.is_empty() && !upgrades && matches!(head.method, Method::GET | Method::HEAD) {
        return moved(&head.uri);
    }
    let host = match head.uri.authority() {
        Some(authority) => authority.to_string(),
        None => header(head.headers.get(HOST)).to_owned(),
    };
    let prefix = prefix(call);
    let path = path(call);
    let place = path.split('?').next().unwrap_or_default();
    if let Ok(value) = HeaderValue::from_str(&format!("{prefix}{place}")) {
        head.headers.insert("x-forwarded-uri", value);
    }
    head.uri = path
        .parse::<Uri>()
        .map_err(|error| ApiError::bad_request(format!("invalid path {path:?}: {error}")))?;
    let Some(to) = to else {
        head.headers.remove(HOST);
        let agent = own_agent(call, snapshot)?;
        let request = Request::from_parts(head, body);
        return call.server.kubelets.forward(&agent, request).await;
    };
    if let Ok(value) = HeaderValue::from_str(&host) {
        head.headers.insert(HOST, value);
    }
    let reply = call
        .server
        .kubelets
        .forward_to(&to, Request::from_parts(head, body))
        .await?;
    let links = html::Links {
        prefix: &prefix,
        hosts: [&host, &to.at.to_string()],
    };
    back(reply, &links).await
}

fn header(value: Option<&HeaderValue>) -> &str {
    value.and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Relative links of a page need a directory to begin at.
fn moved(uri: &Uri) -> Result<Reply, ApiError> {
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let location = HeaderValue::from_str(&format!("{}/{query}", uri.path()));
    let location = location.map_err(|error| ApiError::bad_request(error.to_string()))?;
    let mut reply = Reply::new(Body::empty());
    *reply.status_mut() = StatusCode::MOVED_PERMANENTLY;
    reply.headers_mut().insert(LOCATION, location);
    Ok(reply)
}

/// The path under which the server behind is seen.
fn prefix(call: &Call) -> String {
    let path = &call.path;
    let namespace = match path.namespace.as_str() {
        "" => String::new(),
        namespace => format!("/namespaces/{namespace}"),
    };
    format!("/api/{}{namespace}/{}/{}/proxy", path.version, path.resource, path.name)
}

/// What is asked of the server behind.
fn path(call: &Call) -> String {
    let mut path = String::new();
    for part in call.path.rest.split('/').skip(1) {
        path.push('/');
        encode_into(&mut path, part);
    }
    if path.is_empty() {
        path.push('/');
    }
    let query = call.query.encode_without(&[]);
    match query.is_empty() {
        true => path,
        false => format!("{path}?{query}"),
    }
}

/// `[scheme:]name[:port]`: whether by TLS, the name, and the port if there is one.
fn split_name(text: &str) -> Option<(bool, &str, &str)> {
    let mut parts = text.split(':');
    let (scheme, name, port) = match (parts.next()?, parts.next(), parts.next(), parts.next()) {
        (name, None, ..) => ("", name, ""),
        (name, Some(port), None, _) => ("", name, port),
        (scheme, Some(name), Some(port), None) => (scheme, name, port),
        _ => return None,
    };
    let known = matches!(scheme, "" | "http" | "https") && !name.is_empty();
    known.then_some((scheme == "https", name, port))
}

fn named(call: &Call) -> Result<(bool, &str, &str), ApiError> {
    split_name(&call.path.name).ok_or_else(|| {
        let kind = call.row.kind.to_lowercase();
        ApiError::bad_request(format!("invalid {kind} request {:?}", call.path.name))
    })
}

fn port_of(text: &str) -> Result<u16, ApiError> {
    text.parse()
        .map_err(|_| ApiError::service_unavailable(format!("error trying to reach service: unknown port {text:?}")))
}

fn pod(call: &Call, snapshot: &Snapshot) -> Result<Destination, ApiError> {
    let (tls, name, port) = named(call)?;
    let stored = snapshot.find("pods", &call.path.namespace, name);
    let pod = stored.ok_or_else(|| call.not_found(name))?.value();
    let first = access::list_at(&pod, "/spec/containers")
        .iter()
        .find_map(|container| access::int_of(access::list(container, "ports").first()?, "containerPort"));
    let port = match (port, first) {
        ("", Some(port)) => u16::try_from(port).unwrap_or_default(),
        ("", None) => [80, 443][usize::from(tls)],
        (port, _) => port_of(port)?,
    };
    let address: IpAddr = access::text(&pod, "/status/podIP")
        .parse()
        .map_err(|_| ApiError::bad_request(format!("address not allowed: pod {name} has no IP address")))?;
    let at = SocketAddr::new(address, port);
    Ok(Destination { at, tls })
}

fn service(call: &Call, snapshot: &Snapshot) -> Result<Destination, ApiError> {
    let (tls, name, port) = named(call)?;
    let namespace = call.path.namespace.as_str();
    let stored = snapshot.find("services", namespace, name);
    let service = stored.ok_or_else(|| call.not_found(name))?.value();
    let port_name = match port.parse::<i64>() {
        Ok(number) => access::list_at(&service, "/spec/ports")
            .iter()
            .find(|entry| access::int_of(entry, "port") == Some(number))
            .map(|entry| access::str_of(entry, "name"))
            .ok_or_else(|| {
                ApiError::service_unavailable(format!("no service port {number} found for service {name:?}"))
            })?,
        Err(_) => port,
    };
    let found = endpoints(snapshot, namespace, name, port_name);
    let at = rand::random_range(0..found.len().max(1));
    let at = *found.get(at).ok_or_else(|| {
        ApiError::service_unavailable(format!("no endpoints available for service {:?}", call.path.name))
    })?;
    Ok(Destination { at, tls })
}

/// The ready endpoints of a service's port. Only pods of the namespace count: whoever may write endpoints must not be
/// led anywhere else from here.
fn endpoints(snapshot: &Snapshot, namespace: &str, service: &str, port_name: &str) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    let slices = snapshot.list("endpointslices.discovery.k8s.io", Some(namespace), None);
    for slice in slices.filter(|slice| slice.head.label("kubernetes.io/service-name") == Some(service)) {
        let slice = slice.value();
        let port = access::list(&slice, "ports")
            .iter()
            .find(|port| access::str_of(port, "name") == port_name)
            .and_then(|port| u16::try_from(access::int_of(port, "port")?).ok());
        let Some(port) = port else { continue };
        for endpoint in access::list(&slice, "endpoints") {
            let ready = endpoint.pointer("/conditions/ready").and_then(Value::as_bool);
            let address = access::list(endpoint, "addresses").first().and_then(Value::as_str);
            if let Some(address) = address.filter(|_| ready != Some(false))
                && is_pod(snapshot, namespace, endpoint, address)
                && let Ok(address) = address.parse()
            {
                found.push(SocketAddr::new(address, port));
            }
        }
    }
    found
}

fn is_pod(snapshot: &Snapshot, namespace: &str, endpoint: &Value, address: &str) -> bool {
    let target = access::get(endpoint, "targetRef");
    let Some(pod) = snapshot.find("pods", namespace, access::str_of(target, "name")) else {
        return false;
    };
    let pod = pod.value();
    access::list_at(&pod, "/status/podIPs")
        .iter()
        .any(|ip| access::str_of(ip, "ip") == address)
}

/// A port of a node that is not its agent's.
fn node(call: &Call, snapshot: &Snapshot) -> Result<Option<Destination>, ApiError> {
    let (tls, _, port) = named(call)?;
    let agent = own_agent(call, snapshot)?;
    if port.is_empty() || port == agent.at.port().to_string() {
        return Ok(None);
    }
    let at = SocketAddr::new(agent.at.ip(), port_of(port)?);
    Ok(Some(Destination { at, tls }))
}

fn own_agent(call: &Call, snapshot: &Snapshot) -> Result<Agent, ApiError> {
    let (_, name, _) = named(call)?;
    let found = snapshot.find("nodes", "", name).ok_or_else(|| call.not_found(name))?;
    agent(&found.value(), name)
}

/// What the client sees of an answer.
async fn back(reply: Reply, links: &html::Links<'_>) -> Result<Reply, ApiError> {
    let (mut head, body) = reply.into_parts();
    // Who may read this is the API server's to say.
    for name in [
        ACCESS_CONTROL_ALLOW_CREDENTIALS,
        ACCESS_CONTROL_ALLOW_HEADERS,
        ACCESS_CONTROL_ALLOW_METHODS,
        ACCESS_CONTROL_ALLOW_ORIGIN,
    ] {
        head.headers.remove(name);
    }
    if let Some(location) = head.headers.get(LOCATION) {
        if let Some(Ok(changed)) = links.change(header(Some(location))).map(HeaderValue::try_from) {
            head.headers.insert(LOCATION, changed);
        }
        return Ok(Reply::from_parts(head, body));
    }
    let kind = header(head.headers.get(CONTENT_TYPE))
        .split(';')
        .next()
        .unwrap_or_default();
    if kind.trim() != "text/html" || head.headers.contains_key(CONTENT_ENCODING) {
        return Ok(Reply::from_parts(head, body));
    }
    head.headers.remove(CONTENT_LENGTH);
    Ok(Reply::from_parts(head, changed(body, links).await?))
}

async fn changed(body: Body, links: &html::Links<'_>) -> Result<Body, ApiError> {
    let mut pieces = body.into_data_stream();
    let mut page = BytesMut::new();
    while let Some(piece) = pieces.next().await {
        let failed = |error| ApiError::service_unavailable(format!("error trying to reach service: {error}"));
        page.extend_from_slice(&piece.map_err(failed)?);
        if page.len() > PAGE_MAX_BYTES {
            let begin = futures::stream::iter([Ok::<Bytes, axum::Error>(page.freeze())]);
            return Ok(Body::from_stream(begin.chain(pieces)));
        }
    }
    Ok(Body::from(html::change(&page, links)))
}

#[cfg(test)]
mod tests {
    use super::split_name;

    #[test]
    fn names() {
        let cases = [
            ("x", Some((false, "x", ""))),
            ("x:80", Some((false, "x", "80"))),
            ("http:x:80", Some((false, "x", "80"))),
            ("https:x:name", Some((true, "x", "name"))),
            ("https:x:", Some((true, "x", ""))),
            (":x:80", Some((false, "x", "80"))),
            ("ftp:x:80", None),
            ("https::80", None),
            ("a:b:c:d", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(split_name(text), expected, "{text}");
        }
    }
}

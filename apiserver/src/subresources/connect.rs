//! `log`, `exec`, `attach` and `portforward`: streams to node agents.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::body::Body;
use coxswain_api::ApiError;
use coxswain_api::field::{ErrorList, FieldError, Path};
use coxswain_api::kinds::access;
use coxswain_store::Snapshot;
use http::header::{HOST, UPGRADE};
use http::{Request, StatusCode, Uri};
use serde_json::Value;

use super::kubelet::Agent;
use super::proxy;
use crate::answer::Reply;
use crate::call::Call;
use crate::query::encode_into;

/// Port of a node agent that reports none.
const AGENT_PORT: u16 = 10250;
/// Most of a node agent's refusal that is passed on.
const REFUSAL_MAX_BYTES: usize = 16 << 10;

/// Runs the subresource.
pub(crate) async fn connect(call: &Call, request: Request<Body>) -> Result<Reply, ApiError> {
    let snapshot = call.snapshot();
    match (&*call.row.plural, call.path.subresource.as_str()) {
        (_, "proxy") => proxy::proxy(call, &snapshot, request).await,
        ("pods", "log") => log(call, &snapshot, request).await,
        ("pods", "exec" | "attach") => exec(call, &snapshot, request).await,
        ("pods", "portforward") => {
            let pod = pod(call, &snapshot)?;
            let agent = host(call, &snapshot, &pod)?;
            check_upgrade(&request)?;
            let query = call.query.encode_without(&[]);
            let path = format!("/portForward/{}/{}?{query}", call.path.namespace, call.path.name);
            call.server.kubelets.forward(&agent, to(request, &path)?).await
        }
        _ => Err(ApiError::unknown_resource()),
    }
}

fn pod(call: &Call, snapshot: &Snapshot) -> Result<Arc<Value>, ApiError> {
    let name = &call.path.name;
    let stored = snapshot.find("pods", &call.path.namespace, name);
    Ok(stored.ok_or_else(|| call.not_found(name))?.value())
}

/// The agent of a pod's node.
fn host(call: &Call, snapshot: &Snapshot, pod: &Value) -> Result<Agent, ApiError> {
    let node = access::text(pod, "/spec/nodeName");
    if node.is_empty() {
        return Err(ApiError::bad_request(format!(
            "pod {} does not have a host assigned",
            call.path.name
        )));
    }
    let stored = snapshot
        .find("nodes", "", node)
        .ok_or_else(|| ApiError::not_found("", "nodes", node))?;
    agent(&stored.value(), node)
}

/// A node's agent, where the node says it is: the dialler decides whether anybody may be led there.
pub(super) fn agent(node: &Value, name: &str) -> Result<Agent, ApiError> {
    let address: IpAddr = access::list_at(node, "/status/addresses")
        .iter()
        .filter(|address| access::str_of(address, "type") == "InternalIP")
        .find_map(|address| access::str_of(address, "address").parse().ok())
        .ok_or_else(|| ApiError::internal(format!("node {name} has reported no InternalIP address")))?;
    let port =
        access::int(node, "/status/daemonEndpoints/kubeletEndpoint/Port").and_then(|port| u16::try_from(port).ok());
    let port = port.filter(|port| *port != 0).unwrap_or(AGENT_PORT);
    Ok(Agent {
        node: name.to_owned(),
        at: SocketAddr::new(address, port),
    })
}

/// The request again, to another path of another host.
fn to(request: Request<Body>, path: &str) -> Result<Request<Body>, ApiError> {
    let (mut head, body) = request.into_parts();
    head.headers.remove(HOST);
    head.uri = path
        .parse::<Uri>()
        .map_err(|error| ApiError::bad_request(format!("invalid path {path:?}: {error}")))?;
    Ok(Request::from_parts(head, body))
}

/// The container a request is about.
fn container(call: &Call, pod: &Value, wanted: &str) -> Result<String, ApiError> {
    let names = |field: &str| -> Vec<String> {
        access::list(access::get(pod, "spec"), field)
            .iter()
            .map(|c| access::str_of(c, "name").to_owned())
            .collect()
    };
    let (main, init, ephemeral) = (
        names("containers"),
        names("initContainers"),
        names("ephemeralContainers"),
    );
    let pod_name = &call.path.name;
    if !wanted.is_empty() {
        let known = [&main, &init, &ephemeral]
            .iter()
            .any(|list| list.iter().any(|name| name == wanted));
        if known {
            return Ok(wanted.to_owned());
        }
        return Err(ApiError::bad_request(format!(
            "container {wanted} is not valid for pod {pod_name}"
        )));
    }
    let annotation = access::get(
        access::get(access::get(pod, "metadata"), "annotations"),
        "kubectl.kubernetes.io/default-container",
    );
    if let Some(name) = annotation
        .as_str()
        .filter(|name| main.iter().any(|known| known == name))
    {
        return Ok(name.to_owned());
    }
    if let [only] = main.as_slice() {
        return Ok(only.clone());
    }
    Err(ApiError::bad_request(format!(
        "a container name must be specified for pod {pod_name}, choose one of: [{}]",
        [init, main, ephemeral].concat().join(" ")
    )))
}

async fn log(call: &Call, snapshot: &Snapshot, request: Request<Body>) -> Result<Reply, ApiError> {
    check_log_options(call)?;
    let pod = pod(call, snapshot)?;
    let container = container(call, &pod, call.query.text("container"))?;
    if access::text(&pod, "/spec/nodeName").is_empty() {
        let mut reply = Reply::new(Body::empty());
        *reply.status_mut() = StatusCode::NO_CONTENT;
        return Ok(reply);
    }
    let agent = host(call, snapshot, &pod)?;
    let query = call
        .query
        .encode_without(&["container", "pretty", "insecureSkipTLSVerifyBackend"]);
    let path = format!(
        "/containerLogs/{}/{}/{container}?{query}",
        call.path.namespace, call.path.name
    );
    let reply = call.server.kubelets.forward(&agent, to(request, &path)?).await?;
    refusal(reply).await
}

/// What a node agent answers, with its plain refusals as the errors that clients read.
async fn refusal(reply: Reply) -> Result<Reply, ApiError> {
    let code = reply.status();
    if !code.is_client_error() && !code.is_server_error() {
        return Ok(reply);
    }
    let text = axum::body::to_bytes(reply.into_body(), REFUSAL_MAX_BYTES).await;
    let text = text
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default();
    Err(match code {
        StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => ApiError::bad_request(text),
        _ => ApiError::internal(text),
    })
}

fn check_log_options(call: &Call) -> Result<(), ApiError> {
    let mut errors = ErrorList::new();
    let tail = call.query.integer("tailLines")?;
    let since = call.query.integer("sinceSeconds")?;
    let limit = call.query.integer("limitBytes")?;
    if let Some(lines) = tail.filter(|lines| *lines < 0) {
        errors.push(FieldError::invalid(
            &Path::new("tailLines"),
            lines,
            "must be greater than or equal to 0",
        ));
    }
    if let Some(bytes) = limit.filter(|bytes| *bytes < 1) {
        errors.push(FieldError::invalid(
            &Path::new("limitBytes"),
            bytes,
            "must be greater than 0",
        ));
    }
    if since.is_some() && !call.query.text("sinceTime").is_empty() {
        let detail = "at most one of `sinceTime` or `sinceSeconds` may be specified";
        errors.push(FieldError::forbidden(&Path::root(), detail));
    } else if let Some(seconds) = since.filter(|seconds| *seconds < 1) {
        errors.push(FieldError::invalid(
            &Path::new("sinceSeconds"),
            seconds,
            "must be greater than 0",
        ));
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid("", "PodLogOptions", &call.path.name, errors))
    }
}

/// Sessions need a connection of their own.
fn check_upgrade(request: &Request<Body>) -> Result<(), ApiError> {
    match request.headers().contains_key(UPGRADE) {
        true => Ok(()),
        false => Err(ApiError::bad_request("Upgrade request required")),
    }
}

async fn exec(call: &Call, snapshot: &Snapshot, request: Request<Body>) -> Result<Reply, ApiError> {
    let pod = pod(call, snapshot)?;
    let attach = call.path.subresource == "attach";
    let container = container(call, &pod, call.query.text("container"))?;
    let flag = |name: &str, default: bool| call.query.flag(name).unwrap_or(default);
    let mut query = String::new();
    for (name, asked) in [
        ("input", "stdin"),
        ("output", "stdout"),
        ("error", "stderr"),
        ("tty", "tty"),
    ] {
        // Without any stream named, output and errors are meant.
        let default = matches!(asked, "stdout" | "stderr")
            && call.query.get("stdin").is_none()
            && call.query.get("tty").is_none()
            && call.query.get("stdout").is_none()
            && call.query.get("stderr").is_none();
        if flag(asked, default) {
            query.push_str(&format!("{name}=1&"));
        }
    }
    if !attach {
        let mut commands = call.query.all("command").peekable();
        if commands.peek().is_none() {
            return Err(ApiError::bad_request(
                "you must specify at least 1 command for the container",
            ));
        }
        for command in commands {
            query.push_str("command=");
            encode_into(&mut query, command);
            query.push('&');
        }
    }
    let agent = host(call, snapshot, &pod)?;
    check_upgrade(&request)?;
    let kind = if attach { "attach" } else { "exec" };
    let path = format!(
        "/{kind}/{}/{}/{container}?{}",
        call.path.namespace,
        call.path.name,
        query.trim_end_matches('&')
    );
    call.server.kubelets.forward(&agent, to(request, &path)?).await
}

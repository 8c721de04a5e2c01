//! The kubelet-style HTTPS server of the node.
//!
//! Serves logs, exec, attach and port-forward to the API server, image loading to administrators, and
//! small read-only pages. Only the API server gets in, with a client certificate of the cluster's CA
//! whose subject is exactly its own: it has authorised whoever asks it. It reads pods from the agent's cache
//! and containers from the runtime; it changes neither.

mod container_logs;
mod input;
mod logs;
mod newcomers;
mod pages;
mod port_forward;
mod session;
mod spdy;
pub mod tls;
mod upgrade;
mod websocket;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coxswain_client::Cache;
use coxswain_client::supervise::Supervisor;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::containerd::Layout;
use crate::image::import::Importer;
use crate::pods::steps::Shared;
use crate::runtime::{Container, Cri, Runtime, State};
use crate::{AgentError, Config};
use newcomers::Newcomers;
use session::{Session, Wanted};
use upgrade::{is_websocket, offered, spdy_answer, websocket_answer};

/// An answer.
pub type Answer = Response<BoxBody<Bytes, Infallible>>;
/// A refusal: the code and the sentence.
pub type Refusal = (StatusCode, String);

const CONNECTIONS_MAX: usize = 1024;
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What requests are answered from.
pub struct Serving {
    shared: Arc<Shared<Cri>>,
    pods: Cache<Pod>,
    importer: Importer,
    images_changed: Arc<Notify>,
    run_dir: PathBuf,
    data_dir: PathBuf,
    supervisor: Supervisor,
}

/// A bound server.
pub struct Listening {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    state: Arc<Serving>,
}

/// Binds the server's address.
pub async fn listen(
    config: &Config,
    shared: Arc<Shared<Cri>>,
    pods: Cache<Pod>,
    importer: Importer,
    images_changed: Arc<Notify>,
) -> Result<Listening, AgentError> {
    let tls = tls::server(&config.serving, &config.client_ca_pem).map_err(AgentError::Server)?;
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|error| AgentError::Server(format!("cannot listen on {}: {error}", config.listen)))?;
    let run_dir = Layout::new(&config.data_dir).run;
    pages::remove_uploads(&config.data_dir);
    let state = Serving {
        shared,
        pods,
        importer,
        images_changed,
        run_dir,
        data_dir: config.data_dir.clone(),
        supervisor: config.supervisor.clone(),
    };
    Ok(Listening {
        listener,
        acceptor: TlsAcceptor::from(Arc::new(tls)),
        state: Arc::new(state),
    })
}

impl Listening {
    /// Serves until cancelled.
    pub async fn serve(self, token: CancellationToken) {
        let slots = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
        let newcomers = Newcomers::default();
        loop {
            let accepted = tokio::select! {
                () = token.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            let Ok((stream, address)) = accepted else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let Some(newcomer) = newcomers.admit(address.ip()) else {
                continue;
            };
            let _ = stream.set_nodelay(true);
            let slots = slots.clone();
            let (acceptor, state, token) = (self.acceptor.clone(), self.state.clone(), token.clone());
            tokio::spawn(async move {
                let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await else {
                    return;
                };
                let chain = stream.get_ref().1.peer_certificates();
                let allowed = chain
                    .and_then(|chain| chain.first())
                    .is_some_and(|own| tls::is_api_server(own));
                // Only who proved to be the API server takes a place among the connections; others get one answer.
                let (_slot, _newcomer) = match allowed {
                    true => (slots.acquire_owned().await.ok(), None),
                    false => (None, Some(newcomer)),
                };
                let service = hyper::service::service_fn(move |request| {
                    let state = state.clone();
                    async move { Ok::<_, Infallible>(answer(state, request, allowed).await) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .keep_alive(allowed)
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades();
                let patience = async {
                    match allowed {
                        true => std::future::pending().await,
                        false => tokio::time::sleep(HANDSHAKE).await,
                    }
                };
                tokio::select! {
                    () = token.cancelled() => {}
                    () = patience => {}
                    _ = connection => {}
                }
            });
        }
    }
}

/// A body that is there at once.
pub fn full(bytes: impl Into<Bytes>) -> BoxBody<Bytes, Infallible> {
    Full::new(bytes.into()).boxed()
}

async fn answer(state: Arc<Serving>, request: Request<Incoming>, allowed: bool) -> Answer {
    let answered = if allowed {
        route(state, request).await
    } else {
        Err((
            StatusCode::FORBIDDEN,
            "Forbidden: only the API server may ask".to_string(),
        ))
    };
    match answered {
        Ok(answer) => answer,
        Err((code, message)) => {
            let mut answer = Response::new(full(message));
            *answer.status_mut() = code;
            answer.headers_mut().insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("text/plain; charset=utf-8"),
            );
            answer
        }
    }
}

async fn route(state: Arc<Serving>, request: Request<Incoming>) -> Result<Answer, Refusal> {
    let path = request.uri().path().to_string();
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let query = query(request.uri().query().unwrap_or_default());
    match (request.method().clone(), parts.as_slice()) {
        (Method::GET, ["healthz" | "livez" | "readyz"]) => match state.supervisor.failed().as_slice() {
            [] => Ok(Response::new(full("ok"))),
            failed => {
                let lines: String = failed
                    .iter()
                    .map(|(name, why)| format!("[-]{name} failed: {why}\n"))
                    .collect();
                Err((StatusCode::INTERNAL_SERVER_ERROR, lines))
            }
        },
        (Method::GET, ["containerLogs", namespace, pod, container]) => {
            container_logs::answer(&state, request, namespace, pod, container, &query).await
        }
        (Method::GET | Method::POST, ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container]) => {
            interactive(&state, request, namespace, pod, container, &query, true).await
        }
        (
            Method::GET | Method::POST,
            ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container],
        ) => interactive(&state, request, namespace, pod, container, &query, false).await,
        (Method::GET | Method::POST, ["portForward", namespace, pod] | ["portForward", namespace, pod, _]) => {
            forward_ports(&state, request, namespace, pod, &query).await
        }
        (Method::POST, ["images", "load"]) => pages::load_image(&state, request).await,
        (Method::GET, ["pods"]) => Ok(pages::pods(&state)),
        (Method::GET, ["stats", "summary"]) => pages::summary(&state).await,
        (Method::GET, ["metrics"]) => Ok(pages::metrics(&state)),
        _ => Err((StatusCode::NOT_FOUND, "404 page not found".into())),
    }
}

fn query(text: &str) -> Vec<(String, String)> {
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (unescape(key), unescape(value))
        })
        .collect()
}

fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let hex = || {
            text.get(at + 1..at + 3)
                .and_then(|hex| u8::from_str_radix(hex, 16).ok())
        };
        match (byte, hex()) {
            (b'%', Some(value)) => {
                out.push(value);
                at += 3;
            }
            (b'+', _) => {
                out.push(b' ');
                at += 1;
            }
            (byte, _) => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn value<'a>(query: &'a [(String, String)], key: &str) -> Option<&'a str> {
    query
        .iter()
        .find(|(name, _)| name == key)
        .map(|(_, value)| value.as_str())
}

fn flag(query: &[(String, String)], names: &[&str]) -> bool {
    names.iter().any(|name| value(query, name).is_some_and(logs::truthy))
}

fn find_pod(state: &Serving, namespace: &str, name: &str) -> Result<Arc<Pod>, Refusal> {
    state
        .pods
        .get(namespace, name)
        .ok_or_else(|| (StatusCode::NOT_FOUND, format!("pod \"{name}\" does not exist")))
}

/// The containers of a name, newest first.
async fn find_containers(state: &Serving, pod: &Pod, name: &str) -> Result<Vec<Container>, Refusal> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let observed = state
        .shared
        .runtime
        .observe(uid)
        .await
        .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(observed
        .containers
        .into_iter()
        .filter(|container| container.name == name)
        .collect())
}

async fn interactive(
    state: &Arc<Serving>,
    mut request: Request<Incoming>,
    namespace: &str,
    pod_name: &str,
    name: &str,
    query: &[(String, String)],
    is_exec: bool,
) -> Result<Answer, Refusal> {
    let wanted = Wanted {
        command: if is_exec {
            query
                .iter()
                .filter(|(key, _)| key == "command")
                .map(|(_, value)| value.clone())
                .collect()
        } else {
            Vec::new()
        },
        stdin: flag(query, &["input", "stdin"]),
        stdout: flag(query, &["output", "stdout"]),
        stderr: flag(query, &["error", "stderr"]),
        tty: flag(query, &["tty"]),
    };
    let pod = find_pod(state, namespace, pod_name)?;
    let containers = find_containers(state, &pod, name).await?;
    let container = containers
        .into_iter()
        .next()
        .filter(|container| container.state == State::Running)
        .ok_or_else(|| (StatusCode::NOT_FOUND, format!("container not found (\"{name}\")")))?;
    let once = crate::pods::fields::find(&pod, name).is_some_and(|container| container.stdin_once == Some(true));
    let headers = request.headers().clone();
    let (answer, websocket, protocol) = if is_websocket(&headers) {
        let offers = offered(&headers, "sec-websocket-protocol");
        let protocol = websocket::COMMAND_PROTOCOLS
            .into_iter()
            .find(|known| offers.iter().any(|offer| offer == known) || (known.is_empty() && offers.is_empty()))
            .ok_or_else(|| {
                (
                    StatusCode::BAD_REQUEST,
                    "none of the offered protocols is supported".to_string(),
                )
            })?;
        (websocket_answer(&headers, protocol)?, true, protocol)
    } else {
        let offers = offered(&headers, "x-stream-protocol-version");
        let known = [
            "v4.channel.k8s.io",
            "v3.channel.k8s.io",
            "v2.channel.k8s.io",
            "channel.k8s.io",
        ];
        let protocol = known
            .into_iter()
            .find(|known| offers.iter().any(|offer| offer == known))
            .ok_or_else(|| {
                (
                    StatusCode::FORBIDDEN,
                    "unable to upgrade: none of the offered protocols is supported".to_string(),
                )
            })?;
        (spdy_answer(protocol)?, false, protocol)
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let (runtime, run_dir) = (state.shared.runtime.clone(), state.run_dir.clone());
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let session: Option<Session> = if websocket {
            Some(session::over_websocket(upgraded, websocket::framing(protocol), &wanted).await)
        } else {
            session::over_spdy(upgraded, protocol == "v4.channel.k8s.io", &wanted).await
        };
        let Some(session) = session else { return };
        if is_exec {
            session::run_command(runtime, run_dir, container.id, wanted, session).await;
        } else {
            session::attach(runtime, container.id, wanted, once, session).await;
        }
    });
    Ok(answer)
}

async fn forward_ports(
    state: &Arc<Serving>,
    mut request: Request<Incoming>,
    namespace: &str,
    pod_name: &str,
    query: &[(String, String)],
) -> Result<Answer, Refusal> {
    const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
    let pod = find_pod(state, namespace, pod_name)?;
    let namespace = network_namespace(state, &pod).await?;
    let headers = request.headers().clone();
    let upgrade = hyper::upgrade::on(&mut request);
    if !is_websocket(&headers) {
        tokio::spawn(async move {
            if let Ok(upgraded) = upgrade.await {
                port_forward::over_spdy(TokioIo::new(upgraded), namespace).await;
            }
        });
        return spdy_answer("portforward.k8s.io");
    }
    let offers = offered(&headers, "sec-websocket-protocol");
    if offers.iter().any(|offer| offer == TUNNEL) {
        tokio::spawn(async move {
            if let Ok(upgraded) = upgrade.await {
                let io = websocket::tunnel(websocket::accept(upgraded).await);
                port_forward::over_spdy(io, namespace).await;
            }
        });
        return websocket_answer(&headers, TUNNEL);
    }
    let protocol = [
        "v4.channel.k8s.io",
        "v4.base64.channel.k8s.io",
        "portforward.k8s.io",
        "",
    ]
    .into_iter()
    .find(|known| offers.iter().any(|offer| offer == known) || (known.is_empty() && offers.is_empty()))
    .ok_or_else(|| {
        (
            StatusCode::BAD_REQUEST,
            "none of the offered protocols is supported".to_string(),
        )
    })?;
    let ports: Vec<u16> = query
        .iter()
        .filter(|(key, _)| key == "port" || key == "ports")
        .flat_map(|(_, value)| value.split(','))
        .filter_map(|port| port.parse().ok())
        .collect();
    if ports.is_empty() {
        return Err((StatusCode::BAD_REQUEST, "query parameter \"port\" is required".into()));
    }
    let framing = websocket::framing(protocol);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            port_forward::over_websocket(websocket::accept(upgraded).await, framing, ports, namespace).await;
        }
    });
    websocket_answer(&headers, protocol)
}

/// Path of a pod's network namespace; absent with host networking.
async fn network_namespace(state: &Serving, pod: &Pod) -> Result<Option<String>, Refusal> {
    if pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false) {
        return Ok(None);
    }
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let internal = |message: String| (StatusCode::INTERNAL_SERVER_ERROR, message);
    let observed = state
        .shared
        .runtime
        .observe(uid)
        .await
        .map_err(|error| internal(error.to_string()))?;
    let sandbox = observed
        .ready_sandbox()
        .ok_or_else(|| internal("the pod's sandbox is not running".into()))?;
    let request = crate::cri::v1::PodSandboxStatusRequest {
        pod_sandbox_id: sandbox.id.clone(),
        verbose: true,
    };
    let response = state
        .shared
        .runtime
        .service()
        .pod_sandbox_status(request)
        .await
        .map_err(|status| internal(status.message().to_string()))?;
    let info = response.into_inner().info.remove("info").unwrap_or_default();
    let info: serde_json::Value = serde_json::from_str(&info).map_err(|error| internal(error.to_string()))?;
    let listed = info["runtimeSpec"]["linux"]["namespaces"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let path = listed
        .iter()
        .find(|entry| entry["type"] == "network")
        .and_then(|entry| entry["path"].as_str())
        .map(str::to_string);
    let path = path.or_else(|| info["pid"].as_u64().map(|pid| format!("/proc/{pid}/ns/net")));
    path.map(Some)
        .ok_or_else(|| internal("the runtime does not tell the pod's network namespace".into()))
}

//! Startup, readiness and liveness probes and lifecycle handlers: one small task for each probe of a
//! running container, and the checks themselves.
//!
//! A probe task writes what it finds into the pod's health table and wakes the pod's worker only when
//! the verdict changes. Redirects are followed by nobody, certificates are not checked, bodies are
//! bounded, as on every Kubernetes node.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use k8s_openapi::api::core::v1::{Container, ExecAction, HTTPGetAction, LifecycleHandler, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::events::PodEvents;
use super::plan::Health;
use crate::runtime::Runtime;

const BODY_MAX_BYTES: usize = 10 << 10;

/// Results by container id, shared between a pod's worker and its probes.
pub type HealthTable = Arc<Mutex<BTreeMap<String, Health>>>;

/// What a check of one container needs.
pub struct Target<R> {
    /// The runtime, for commands.
    pub runtime: Arc<R>,
    /// The runtime's id of the container.
    pub id: String,
    /// The container's specification.
    pub container: Container,
    /// The pod's address.
    pub ip: String,
    /// The pod's events.
    pub events: PodEvents,
}

/// The probes of one running container; dropping it ends them.
pub struct Probing {
    _stop: DropGuard,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Startup,
    Readiness,
    Liveness,
}

/// Starts the probes of a container and puts its first verdict into the table. `known_ready` is what
/// was reported before the agent restarted.
pub fn start<R: Runtime>(target: Target<R>, table: HealthTable, wake: Arc<Notify>, known_ready: bool) -> Probing {
    let token = CancellationToken::new();
    let container = &target.container;
    let health = Health {
        started: container.startup_probe.is_none() || known_ready,
        ready: container.readiness_probe.is_none() || known_ready,
        failed: None,
    };
    table
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(target.id.clone(), health);
    let target = Arc::new(target);
    let guard = token.clone().drop_guard();
    let probes = [
        (Kind::Startup, container_probe(&target, Kind::Startup)),
        (Kind::Readiness, container_probe(&target, Kind::Readiness)),
        (Kind::Liveness, container_probe(&target, Kind::Liveness)),
    ];
    for (kind, probe) in probes {
        let Some(probe) = probe else { continue };
        let (target, table, wake, token) = (target.clone(), table.clone(), wake.clone(), token.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = token.cancelled() => {}
                () = follow(kind, probe, target, table, wake) => {}
            }
        });
    }
    Probing { _stop: guard }
}

fn container_probe<R>(target: &Target<R>, kind: Kind) -> Option<Probe> {
    match kind {
        Kind::Startup => target.container.startup_probe.clone(),
        Kind::Readiness => target.container.readiness_probe.clone(),
        Kind::Liveness => target.container.liveness_probe.clone(),
    }
}

async fn follow<R: Runtime>(kind: Kind, probe: Probe, target: Arc<Target<R>>, table: HealthTable, wake: Arc<Notify>) {
    let seconds = |value: Option<i32>, default: u64| {
        value
            .and_then(|v| u64::try_from(v).ok())
            .filter(|v| *v > 0)
            .unwrap_or(default)
    };
    let period = Duration::from_secs(seconds(probe.period_seconds, 10));
    let limit = Duration::from_secs(seconds(probe.timeout_seconds, 1));
    let needed = seconds(probe.success_threshold, 1);
    let patience = seconds(probe.failure_threshold, 3);
    tokio::time::sleep(Duration::from_secs(seconds(probe.initial_delay_seconds, 0))).await;
    let (mut good, mut bad) = (0u64, 0u64);
    loop {
        let waiting = kind != Kind::Startup && !read(&table, &target.id, |health| health.started);
        if waiting {
            // The startup probe gates the others; look again soon after it passes.
            tokio::time::sleep(period.min(Duration::from_millis(500))).await;
            continue;
        }
        match check(&probe, &target, limit).await {
            Ok(()) => {
                good = good.saturating_add(1);
                bad = 0;
                if good >= needed && succeed(kind, &target, &table, &wake) {
                    return;
                }
            }
            Err(message) => {
                bad = bad.saturating_add(1);
                good = 0;
                let word = match kind {
                    Kind::Startup => "Startup",
                    Kind::Readiness => "Readiness",
                    Kind::Liveness => "Liveness",
                };
                let about = Some(target.container.name.as_str());
                target
                    .events
                    .warning(about, "Unhealthy", &format!("{word} probe failed: {message}"));
                if bad >= patience && fail(kind, &target, &table, &wake) {
                    return;
                }
            }
        }
        tokio::time::sleep(period).await;
    }
}

fn read(table: &HealthTable, id: &str, of: impl Fn(&Health) -> bool) -> bool {
    table
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get(id)
        .is_some_and(of)
}

/// Records a passed probe; true when the probe is done for good.
fn succeed<R>(kind: Kind, target: &Target<R>, table: &HealthTable, wake: &Notify) -> bool {
    let changed = update(table, &target.id, |health| match kind {
        Kind::Startup => !std::mem::replace(&mut health.started, true),
        Kind::Readiness => !std::mem::replace(&mut health.ready, true),
        Kind::Liveness => false,
    });
    if changed {
        wake.notify_one();
    }
    kind == Kind::Startup
}

/// Records a failed probe; true when the probe is done for good.
fn fail<R>(kind: Kind, target: &Target<R>, table: &HealthTable, wake: &Notify) -> bool {
    let name = &target.container.name;
    let changed = update(table, &target.id, |health| match kind {
        Kind::Readiness => std::mem::replace(&mut health.ready, false),
        Kind::Startup | Kind::Liveness => {
            let word = if kind == Kind::Startup { "startup" } else { "liveness" };
            health.failed = Some(format!("Container {name} failed {word} probe, will be restarted"));
            true
        }
    });
    if changed {
        wake.notify_one();
    }
    kind != Kind::Readiness
}

fn update(table: &HealthTable, id: &str, change: impl FnOnce(&mut Health) -> bool) -> bool {
    let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
    table.get_mut(id).is_some_and(change)
}

async fn check<R: Runtime>(probe: &Probe, target: &Target<R>, limit: Duration) -> Result<(), String> {
    let timeout = || {
        format!(
            "command timed out: \"{}\" timed out after {}s",
            target.container.name,
            limit.as_secs()
        )
    };
    if let Some(action) = &probe.exec {
        let text = tokio::time::timeout(
            limit.saturating_add(Duration::from_secs(1)),
            command(target, action, limit),
        )
        .await;
        return match text {
            Ok(Ok((0, _))) => Ok(()),
            Ok(Ok((_, output))) => Err(output),
            Ok(Err(message)) => Err(message),
            Err(_) => Err(timeout()),
        };
    }
    if let Some(action) = &probe.http_get {
        return http_get(target, action, limit, true).await;
    }
    if let Some(action) = &probe.tcp_socket {
        let host = action
            .host
            .clone()
            .filter(|host| !host.is_empty())
            .unwrap_or_else(|| target.ip.clone());
        let port = port(&target.container, &action.port)?;
        return match tokio::time::timeout(limit, TcpStream::connect((host.as_str(), port))).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(format!("dial tcp {host}:{port}: connect: {}", os_words(&error))),
            Err(_) => Err(format!("dial tcp {host}:{port}: i/o timeout")),
        };
    }
    if let Some(action) = &probe.grpc {
        let port = u16::try_from(action.port).map_err(|_| format!("invalid port {}", action.port))?;
        let service = action.service.clone().unwrap_or_default();
        return grpc(&target.ip, port, &service, limit).await;
    }
    Err("the probe has no handler".into())
}

async fn command<R: Runtime>(
    target: &Target<R>,
    action: &ExecAction,
    limit: Duration,
) -> Result<(i32, String), String> {
    let command = action.command.clone().unwrap_or_default();
    match target.runtime.exec(&target.id, &command, limit).await {
        Ok(outcome) => Ok((outcome.exit_code, outcome.output)),
        Err(error) => Err(error.to_string()),
    }
}

fn port(container: &Container, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|port| port.name.as_deref() == Some(name))
            .map(|port| port.container_port)
            .or_else(|| name.parse().ok()),
    };
    number
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number > 0)
        .ok_or_else(|| match port {
            IntOrString::Int(number) => format!("invalid port number: {number}"),
            IntOrString::String(name) => format!("couldn't find port: {name}"),
        })
}

pub(crate) fn os_words(error: &std::io::Error) -> String {
    error
        .to_string()
        .split(" (os error")
        .next()
        .unwrap_or_default()
        .to_lowercase()
}

async fn http_get<R>(
    target: &Target<R>,
    action: &HTTPGetAction,
    limit: Duration,
    check_status: bool,
) -> Result<(), String> {
    let host = action
        .host
        .clone()
        .filter(|host| !host.is_empty())
        .unwrap_or_else(|| target.ip.clone());
    let port = port(&target.container, &action.port)?;
    let scheme = action.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
    let path = action
        .path
        .clone()
        .filter(|path| !path.is_empty())
        .unwrap_or_else(|| "/".into());
    let path = if path.starts_with('/') {
        path
    } else {
        format!("/{path}")
    };
    let bracketed = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.clone()
    };
    let url = format!("{scheme}://{bracketed}:{port}{path}");
    let mut request = http::Request::get(&path).header(http::header::CONNECTION, "close");
    let mut has = (false, false, false);
    for header in action.http_headers.iter().flatten() {
        has.0 |= header.name.eq_ignore_ascii_case("host");
        has.1 |= header.name.eq_ignore_ascii_case("user-agent");
        has.2 |= header.name.eq_ignore_ascii_case("accept");
        request = request.header(header.name.as_str(), header.value.as_str());
    }
    if !has.0 {
        request = request.header(http::header::HOST, format!("{bracketed}:{port}"));
    }
    if !has.1 {
        request = request.header(http::header::USER_AGENT, "kube-probe/1.36");
    }
    if !has.2 {
        request = request.header(http::header::ACCEPT, "*/*");
    }
    let request = request
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|error| error.to_string())?;
    let failed = |reason: String| format!("Get \"{url}\": {reason}");
    let work = async {
        let stream = TcpStream::connect((host.as_str(), port))
            .await
            .map_err(|error| failed(format!("dial tcp {bracketed}:{port}: connect: {}", os_words(&error))))?;
        let stream: Box<dyn Stream> = if scheme == "https" {
            Box::new(
                crate::server::tls::connect_unverified(stream, &host)
                    .await
                    .map_err(&failed)?,
            )
        } else {
            Box::new(stream)
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream))
            .await
            .map_err(|error| failed(error.to_string()))?;
        let driver = tokio::spawn(connection);
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let status = response.status();
        let _ = Limited::new(response.into_body(), BODY_MAX_BYTES).collect().await;
        driver.abort();
        if check_status && !(200..400).contains(&status.as_u16()) {
            return Err(format!("HTTP probe failed with statuscode: {}", status.as_u16()));
        }
        Ok(())
    };
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(failed(
            "context deadline exceeded (Client.Timeout exceeded while awaiting headers)".into(),
        )),
    }
}

/// A byte stream in both directions.
pub trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send> Stream for T {}

/// The gRPC health checking protocol, its two messages written out.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

async fn grpc(ip: &str, port: u16, service: &str, limit: Duration) -> Result<(), String> {
    let host = if ip.contains(':') {
        format!("[{ip}]")
    } else {
        ip.to_string()
    };
    let work = async {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{host}:{port}"))
            .map_err(|error| error.to_string())?;
        let channel = endpoint
            .connect()
            .await
            .map_err(|_| format!("failed to connect service \"{host}:{port}\""))?;
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await.map_err(|error| error.to_string())?;
        let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
        let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
        let request = tonic::Request::new(HealthCheckRequest {
            service: service.to_string(),
        });
        let response = client.unary(request, path, codec).await.map_err(|status| {
            format!(
                "error: health rpc probe failed: rpc error: code = {:?} desc = {}",
                status.code(),
                status.message()
            )
        })?;
        match response.into_inner().status {
            1 => Ok(()),
            other => {
                let word = match other {
                    2 => "NOT_SERVING",
                    3 => "SERVICE_UNKNOWN",
                    _ => "UNKNOWN",
                };
                Err(format!("service unhealthy (responded with \"{word}\")"))
            }
        }
    };
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(format!(
            "timeout: failed to connect service \"{host}:{port}\" within {}s: context deadline exceeded",
            limit.as_secs()
        )),
    }
}

/// Runs a lifecycle handler; an error is what its event says.
pub async fn handle<R: Runtime>(target: &Target<R>, handler: &LifecycleHandler, limit: Duration) -> Result<(), String> {
    if let Some(action) = &handler.exec {
        return match command(target, action, limit).await? {
            (0, _) => Ok(()),
            (code, output) => Err(format!(
                "rpc error: code = Unknown desc = command '{}' exited with {code}: {output}",
                action.command.clone().unwrap_or_default().join(" ")
            )),
        };
    }
    if let Some(action) = &handler.http_get {
        return http_get(target, action, limit, false).await;
    }
    if let Some(action) = &handler.sleep {
        let seconds = u64::try_from(action.seconds).unwrap_or(0);
        tokio::time::sleep(Duration::from_secs(seconds).min(limit)).await;
        return Ok(());
    }
    Ok(())
}

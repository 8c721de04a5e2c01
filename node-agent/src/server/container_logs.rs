//! A container's log as an answer: which of its containers is meant, and the ways it is sent.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::stream::SplitStream;
use futures::{SinkExt, StreamExt};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc::Receiver;
use tokio_tungstenite::tungstenite::Message;

use super::upgrade::{is_websocket, offered, websocket_answer};
use super::{Answer, Refusal, Serving, find_containers, find_pod, flag, logs, websocket};
use crate::runtime::{Runtime, State};

/// How a WebSocket's messages carry a log.
const PROTOCOLS: [&str; 2] = ["binary.k8s.io", "base64.binary.k8s.io"];

/// Answers with a container's log: as a body, or as the messages of a WebSocket.
pub(super) async fn answer(
    state: &Arc<Serving>,
    mut request: Request<Incoming>,
    namespace: &str,
    pod_name: &str,
    name: &str,
    query: &[(String, String)],
) -> Result<Answer, Refusal> {
    let bad = |message: String| (StatusCode::BAD_REQUEST, message);
    let options = logs::Options::parse(query, Timestamp::now()).map_err(bad)?;
    let pod = find_pod(state, namespace, pod_name)?;
    if crate::pods::fields::find(&pod, name).is_none() {
        return Err(bad(format!("container {name} not found in pod {pod_name}_{namespace}")));
    }
    let containers = find_containers(state, &pod, name).await?;
    let previous = flag(query, &["previous"]);
    let chosen = if previous {
        let ended = containers
            .iter()
            .find(|container| container.state == State::Exited && Some(*container) != containers.first());
        ended.or_else(|| {
            containers
                .first()
                .filter(|container| container.state == State::Exited && is_waiting(&pod, name))
        })
    } else {
        containers.first()
    };
    let Some(container) = chosen.filter(|container| container.state != State::Created) else {
        return Err(bad(if previous {
            format!("previous terminated container \"{name}\" in pod \"{pod_name}\" not found")
        } else {
            format!(
                "container \"{name}\" in pod \"{pod_name}\" is waiting to start: {}",
                waiting_reason(&pod, name)
            )
        }));
    };
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<Bytes>(16);
    let (state, pod_uid, id) = (
        state.clone(),
        pod.metadata.uid.clone().unwrap_or_default(),
        container.id.clone(),
    );
    let path = PathBuf::from(&container.log_path);
    let running = container.state == State::Running;
    tokio::spawn(async move {
        let alive = || async {
            if !running {
                return false;
            }
            let observed = state.shared.runtime.observe(&pod_uid).await.unwrap_or_default();
            observed
                .containers
                .iter()
                .any(|container| container.id == id && container.state == State::Running)
        };
        if let Err(error) = logs::send(path, options, sender, alive).await {
            tracing::debug!(%error, "reading a log");
        }
    });
    let headers = request.headers().clone();
    if is_websocket(&headers) {
        let offers = offered(&headers, "sec-websocket-protocol");
        let known = |protocol: &&str| offers.iter().any(|offer| offer == protocol);
        let protocol = PROTOCOLS.into_iter().find(known).unwrap_or_default();
        let upgrade = hyper::upgrade::on(&mut request);
        let framing = websocket::framing(protocol);
        tokio::spawn(async move {
            if let Ok(upgraded) = upgrade.await {
                send_messages(websocket::accept(upgraded).await, framing.base64, receiver).await;
            }
        });
        return websocket_answer(&headers, protocol);
    }
    let stream = futures::stream::poll_fn(move |context| {
        receiver
            .poll_recv(context)
            .map(|bytes| bytes.map(|bytes| Ok::<_, Infallible>(hyper::body::Frame::data(bytes))))
    });
    let mut answer = Response::new(BodyExt::boxed(http_body_util::StreamBody::new(SyncStream::new(stream))));
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(answer)
}

/// Sends pieces of a log until there are no more or the client is gone.
async fn send_messages(socket: websocket::Socket, base64: bool, mut pieces: Receiver<Bytes>) {
    let (mut sink, mut source) = socket.split();
    let message = |bytes: Bytes| match base64 {
        true => Message::text(STANDARD.encode(&bytes)),
        false => Message::binary(bytes),
    };
    // An empty message tells the client that the log is open.
    let mut next = Some(Bytes::new());
    while let Some(bytes) = next {
        tokio::select! {
            sent = sink.send(message(bytes)) => if sent.is_err() { return },
            () = gone(&mut source) => return,
        }
        next = tokio::select! {
            piece = pieces.recv() => piece,
            () = gone(&mut source) => return,
        };
    }
    websocket::close(&mut sink).await;
}

/// Resolves when the client left.
async fn gone(source: &mut SplitStream<websocket::Socket>) {
    while let Some(Ok(message)) = source.next().await {
        if matches!(message, Message::Close(_)) {
            return;
        }
    }
}

use sync_stream::SyncStream;

/// A stream that may be shared between threads because only its owner polls it.
mod sync_stream {
    use std::pin::Pin;
    use std::sync::{Mutex, PoisonError};
    use std::task::{Context, Poll};

    use futures::Stream;

    pub struct SyncStream<S>(Mutex<S>);

    impl<S> SyncStream<S> {
        pub fn new(stream: S) -> SyncStream<S> {
            SyncStream(Mutex::new(stream))
        }
    }

    impl<S: Stream + Unpin> Stream for SyncStream<S> {
        type Item = S::Item;

        fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
            let stream = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
            Pin::new(stream).poll_next(context)
        }
    }
}

fn status_of<'a>(pod: &'a Pod, name: &str) -> Option<&'a k8s_openapi::api::core::v1::ContainerStatus> {
    let status = pod.status.as_ref()?;
    let all = status
        .container_statuses
        .iter()
        .flatten()
        .chain(status.init_container_statuses.iter().flatten())
        .chain(status.ephemeral_container_statuses.iter().flatten());
    all.into_iter().find(|status| status.name == name)
}

fn waiting_reason(pod: &Pod, name: &str) -> String {
    let waiting = status_of(pod, name).and_then(|status| status.state.as_ref()?.waiting.as_ref()?.reason.clone());
    match waiting.as_deref() {
        Some("ErrImagePull") => "image can't be pulled".into(),
        Some("ImagePullBackOff") => "trying and failing to pull image".into(),
        Some(reason) => reason.to_string(),
        None => "ContainerCreating".into(),
    }
}

fn is_waiting(pod: &Pod, name: &str) -> bool {
    status_of(pod, name)
        .and_then(|status| status.state.as_ref())
        .is_some_and(|state| state.waiting.is_some())
}

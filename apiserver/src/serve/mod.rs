//! The TLS front: accepts connections and hands their requests to the pipeline.
//!
//! Whatever a client does slowly has a limit ([`limits`]) and holds a place that is its own: connections are counted for
//! each user ([`connections`]), and so is the memory of what is received and sent ([`usage`]). Responses are sent in
//! pieces whose progress is known ([`response`]); HTTP/2 frames that only cost work are counted ([`frames`]).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::UnixTime;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::pipeline::{self, Caller, Peer};
use crate::shared::Shared;

pub(crate) mod connections;
mod frames;
mod guard;
pub(crate) mod holder;
pub(crate) mod limits;
pub(crate) mod response;
mod tls;
pub(crate) mod usage;

use connections::Connection;
pub(crate) use tls::{certificates, tls};

/// Streams of one HTTP/2 connection.
const STREAMS_MAX: u32 = 250;
/// Bytes that an HTTP/2 client may send ahead: of one body, and of all bodies of a connection.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// An HTTP/2 client is asked for a sign of life this often, and has so long for it.
const PING_EVERY: Duration = Duration::from_secs(30);
const PONG_MAX: Duration = Duration::from_secs(20);
/// Time that open requests get when the server stops.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Accepts connections until the server stops, then gives open requests a moment to end.
pub(crate) async fn run(shared: Arc<Shared>, tls: Arc<rustls::ServerConfig>, listener: TcpListener) {
    let acceptor = TlsAcceptor::from(tls);
    let tasks = TaskTracker::new();
    let stopped = CancellationToken::new();
    tokio::spawn(shared.connections.clone().watch(stopped.clone()));
    loop {
        let accepted = tokio::select! {
            () = shared.stopping.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = shared.connections.accept();
                tasks.spawn(serve(shared.clone(), acceptor.clone(), stream, connection));
            }
            Err(error) => {
                // Out of file descriptors or a connection that ended at once: continue, gently.
                tracing::debug!(%error, "accepting a connection failed");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    tasks.close();
    let _ = tokio::time::timeout(DRAIN_MAX, tasks.wait()).await;
    stopped.cancel();
}

async fn serve(shared: Arc<Shared>, acceptor: TlsAcceptor, stream: TcpStream, connection: Arc<Connection>) {
    let _ = stream.set_nodelay(true);
    let address = stream.peer_addr().ok().map(|address| address.ip());
    let socket = guard::Socket::new(stream, connection.clone());
    let stream = match connection.kill.run_until_cancelled(acceptor.accept(socket)).await {
        Some(Ok(stream)) => stream,
        Some(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
        None => return tracing::debug!("TLS handshake took too long"),
    };
    let session = stream.get_ref().1;
    let is_h2 = session.alpn_protocol() == Some(b"h2");
    let chain = session.peer_certificates().unwrap_or_default();
    let certificate = shared.authn.certified(chain, UnixTime::now());
    connection.opened(is_h2);
    let peer = Peer {
        address,
        certificate: certificate.map(Arc::new),
        connection: Some(connection.clone()),
    };
    let stream = guard::Plain::new(stream, connection.clone(), is_h2);
    tokio::select! {
        () = speak_http(shared, peer, stream, &connection, is_h2) => connection.left_http(),
        () = connection.kill.cancelled() => {}
    }
}

/// Answers requests until the connection ends or speaks another protocol.
async fn speak_http<S>(shared: Arc<Shared>, peer: Peer, stream: S, connection: &Connection, is_h2: bool)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let limits = &shared.connections.limits;
    let head_max = limits.idle.max(limits.head);
    let stopping = shared.stopping.clone();
    let told_to_end = async {
        tokio::select! {
            () = stopping.cancelled() => {}
            () = connection.retire.cancelled() => {}
        }
    };
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let (shared, peer) = (shared.clone(), peer.clone());
        async move {
            let reply = pipeline::handle(shared, Caller::Remote(peer), request.map(Body::new)).await;
            Ok::<_, Infallible>(reply)
        }
    });
    // What was agreed on with TLS is what is spoken: frames are counted only where they were agreed on.
    let ended = if is_h2 {
        let serving = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PONG_MAX)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(serving);
        tokio::select! {
            ended = serving.as_mut() => ended,
            () = told_to_end => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        }
    } else {
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(head_max)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        tokio::pin!(serving);
        tokio::select! {
            ended = serving.as_mut() => ended,
            () = told_to_end => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

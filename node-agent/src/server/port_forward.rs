//! Port forwarding: connections into a pod's network namespace, carried over SPDY or WebSocket.

use std::collections::HashMap;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use nix::sched::{CloneFlags, setns};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use super::input;
use super::spdy::{self, Outgoing, Stream};
use super::websocket::{self, Framing, Socket};
use crate::pods::probes::os_words;

const CONNECT: Duration = Duration::from_secs(10);
const REQUESTS_MAX: usize = 256;

/// Connects to a port on the loopback address of a network namespace; without one, of the node.
pub async fn connect(namespace: Option<String>, port: u16) -> Result<TcpStream, String> {
    let stream = tokio::task::spawn_blocking(move || -> Result<std::net::TcpStream, String> {
        // The namespace is a property of the thread: a fresh one, that ends with the connection.
        let work = move || -> Result<std::net::TcpStream, String> {
            if let Some(path) = namespace {
                let file = File::open(&path).map_err(|error| format!("{path}: {error}"))?;
                setns(&file, CloneFlags::CLONE_NEWNET).map_err(|error| format!("entering {path}: {error}"))?;
            }
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            std::net::TcpStream::connect_timeout(&address, CONNECT)
                .map_err(|error| format!("dial tcp4 {address}: connect: {}", os_words(&error)))
        };
        std::thread::spawn(work)
            .join()
            .map_err(|_| "connecting failed".to_string())?
    })
    .await
    .map_err(|error| error.to_string())??;
    stream.set_nonblocking(true).map_err(|error| error.to_string())?;
    TcpStream::from_std(stream).map_err(|error| error.to_string())
}

/// Serves forwarding over SPDY streams: pairs of a data and an error stream for each connection.
pub async fn over_spdy<T>(io: T, namespace: Option<String>)
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let closed = CancellationToken::new();
    let mut streams = spdy::serve(io, closed.clone());
    let mut errors: HashMap<String, Outgoing> = HashMap::new();
    let mut waiting: HashMap<String, Stream> = HashMap::new();
    while let Some(stream) = streams.recv().await {
        let header = |name: &str| stream.headers.get(name).cloned().unwrap_or_default();
        let request = header("requestid");
        if errors.len() + waiting.len() > REQUESTS_MAX {
            break;
        }
        let (data, error) = if header("streamtype") == "error" {
            let outgoing = stream.outgoing.clone();
            match waiting.remove(&request) {
                Some(data) => (data, outgoing),
                None => {
                    errors.insert(request, outgoing);
                    continue;
                }
            }
        } else {
            match errors.remove(&request) {
                Some(error) => (stream, error),
                None => {
                    waiting.insert(request, stream);
                    continue;
                }
            }
        };
        tokio::spawn(forward(data, error, namespace.clone()));
    }
    closed.cancel();
}

async fn forward(mut data: Stream, error: Outgoing, namespace: Option<String>) {
    let port: Option<u16> = data.headers.get("port").and_then(|port| port.parse().ok());
    let result = match port {
        Some(port) => match connect(namespace, port).await {
            Ok(stream) => {
                copy(stream, &mut data.incoming, &data.outgoing).await;
                Ok(())
            }
            Err(reason) => Err(format!("error forwarding port {port} to pod: {reason}")),
        },
        None => Err("the stream names no port".to_string()),
    };
    if let Err(reason) = result {
        error.send(Bytes::from(reason)).await;
    }
    data.outgoing.finish().await;
    error.finish().await;
}

async fn copy(stream: TcpStream, incoming: &mut input::Receiver, outgoing: &Outgoing) {
    let (mut reader, mut writer) = stream.into_split();
    let upload = async {
        while let Some(bytes) = incoming.recv().await {
            if writer.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = writer.shutdown().await;
        std::future::pending::<()>().await;
    };
    let download = async {
        let mut buffer = vec![0u8; 32 << 10];
        loop {
            match reader.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(n) => {
                    if !outgoing.send(Bytes::copy_from_slice(&buffer[..n])).await {
                        return;
                    }
                }
            }
        }
    };
    tokio::select! {
        () = upload => {}
        () = download => {}
    }
}

/// Serves forwarding over WebSocket channels: two for each port of the query, data and errors.
pub async fn over_websocket(socket: Socket, framing: Framing, ports: Vec<u16>, namespace: Option<String>) {
    let (mut sink, mut source) = socket.split();
    let (out, mut queue) = mpsc::channel::<(u8, Bytes)>(64);
    let mut inputs = Vec::new();
    let budget = input::Budget::default();
    for (index, port) in ports.into_iter().take(100).enumerate() {
        let channel = u8::try_from(index).unwrap_or(u8::MAX).saturating_mul(2);
        for channel in [channel, channel.saturating_add(1)] {
            let _ = sink
                .send(websocket::message(framing, channel, &port.to_le_bytes()))
                .await;
        }
        let (sender, receiver) = budget.queue();
        inputs.push(sender);
        tokio::spawn(channel_forward(channel, port, receiver, out.clone(), namespace.clone()));
    }
    drop(out);
    tokio::spawn(async move {
        while let Some(Ok(message)) = source.next().await {
            if matches!(message, Message::Close(_)) {
                break;
            }
            if let Some((channel, bytes)) = websocket::parse(framing, &message)
                && channel % 2 == 0
                && let Some(sender) = inputs.get(usize::from(channel / 2))
            {
                let _ = sender.send(bytes).await;
            }
        }
    });
    while let Some((channel, bytes)) = queue.recv().await {
        if sink.send(websocket::message(framing, channel, &bytes)).await.is_err() {
            break;
        }
    }
    websocket::close(&mut sink).await;
}

async fn channel_forward(
    channel: u8,
    port: u16,
    mut incoming: input::Receiver,
    out: mpsc::Sender<(u8, Bytes)>,
    namespace: Option<String>,
) {
    let stream = match connect(namespace, port).await {
        Ok(stream) => stream,
        Err(reason) => {
            let _ = out.send((channel.saturating_add(1), Bytes::from(reason))).await;
            return;
        }
    };
    let (mut reader, mut writer) = stream.into_split();
    tokio::spawn(async move {
        while let Some(bytes) = incoming.recv().await {
            if writer.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let mut buffer = vec![0u8; 32 << 10];
    while let Ok(n) = reader.read(&mut buffer).await {
        if n == 0 || out.send((channel, Bytes::copy_from_slice(&buffer[..n]))).await.is_err() {
            return;
        }
    }
}

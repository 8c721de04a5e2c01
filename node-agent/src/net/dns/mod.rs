//! Cluster DNS, answered on every node by the agent itself.
//!
//! Listens on the cluster DNS address and on the gateway address of the node's pods (both on
//! `cox0`), by UDP and TCP. Watches Services and EndpointSlices into an `index`; `answer` makes
//! replies from it; `forward` asks the host's resolvers about everything else.
//!
//! Guarantees: before the first full list it says SERVFAIL for cluster names, never a wrong
//! NXDOMAIN; every queue and time is bounded.
//!
//! Does not: transfer zones, or take updates.

mod answer;
mod forward;
mod index;
#[cfg(test)]
mod tests;

use super::addresses::Addresses;
use super::endpoints::Slices;
use super::{NetConfig, NetError};
use answer::{Reply, Zone};
use coxswain_client::{Cache, ObjectKey};
use forward::Forwarder;
use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use index::{Entry, Index};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const PORT: u16 = 53;
const STREAMS_MAX: usize = 128;
const STREAM_IDLE: Duration = Duration::from_secs(10);

/// The DNS server of this node, listening.
pub struct Dns {
    shared: Arc<Shared>,
    udp: Vec<Arc<UdpSocket>>,
    tcp: Vec<TcpListener>,
}

struct Shared {
    zone: Zone,
    index: RwLock<Index>,
    ready: AtomicBool,
    turn: AtomicUsize,
    forwarder: Forwarder,
    streams: Arc<Semaphore>,
}

impl Dns {
    /// Opens the sockets. The addresses must be on an interface already.
    pub async fn open(config: &NetConfig, addresses: &Addresses) -> Result<Dns, NetError> {
        let own = [addresses.dns, addresses.gateway()];
        let zone = Zone::new(&config.domain, addresses).ok_or_else(|| NetError::Config {
            what: "the cluster domain",
            value: config.domain.clone(),
            detail: "it is not a domain name".to_owned(),
        })?;
        let shared = Shared {
            zone,
            index: RwLock::default(),
            ready: AtomicBool::new(false),
            turn: AtomicUsize::new(0),
            forwarder: Forwarder::new(config.upstream_resolv_conf.clone(), own),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
        };
        let mut dns = Dns {
            shared: Arc::new(shared),
            udp: Vec::new(),
            tcp: Vec::new(),
        };
        for address in own {
            let address = SocketAddr::from((address, PORT));
            let failed = |source| NetError::DnsListen { address, source };
            dns.udp.push(Arc::new(UdpSocket::bind(address).await.map_err(failed)?));
            dns.tcp.push(TcpListener::bind(address).await.map_err(failed)?);
        }
        Ok(dns)
    }

    /// Answers, and follows the caches, until the token is cancelled.
    pub async fn run(self, services: Cache<Service>, slices: Cache<EndpointSlice>, token: CancellationToken) {
        let tasks = TaskTracker::new();
        for socket in self.udp {
            let (shared, token, inner) = (self.shared.clone(), token.clone(), tasks.clone());
            tasks.spawn(async move {
                token.run_until_cancelled(serve_datagrams(shared, socket, inner)).await;
            });
        }
        for listener in self.tcp {
            let (shared, token, inner) = (self.shared.clone(), token.clone(), tasks.clone());
            tasks.spawn(async move {
                let stop = token.clone();
                stop.run_until_cancelled(serve_streams(shared, listener, inner, token))
                    .await;
            });
        }
        token.run_until_cancelled(follow(&self.shared, services, slices)).await;
        tasks.close();
        tasks.wait().await;
    }
}

/// Keeps the index current.
async fn follow(shared: &Shared, services: Cache<Service>, slices: Cache<EndpointSlice>) {
    services.synced().await;
    slices.synced().await;
    let mut known = Slices::default();
    let mut service_changes = services.changes();
    let mut slice_changes = slices.changes();
    let mut dirty: BTreeSet<ObjectKey> = BTreeSet::new();
    loop {
        while let Some(change) = service_changes.try_recv() {
            dirty.insert(change.key);
        }
        while let Some(change) = slice_changes.try_recv() {
            dirty.extend(known.change(change));
        }
        for key in std::mem::take(&mut dirty) {
            let service = services.by_key(&key);
            let entry = service.and_then(|service| Entry::of(&service, &known.of(&key)));
            shared
                .index
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .set(&key, entry);
        }
        shared.ready.store(true, Ordering::Release);
        tokio::select! {
            Some(change) = service_changes.recv() => { dirty.insert(change.key); }
            Some(change) = slice_changes.recv() => { dirty.extend(known.change(change)); }
            else => return,
        }
    }
}

impl Shared {
    /// The reply to one request; `None` for what must not be answered.
    fn local(&self, request: &[u8]) -> Option<(Reply, Option<Message>)> {
        let message = match Message::from_vec(request) {
            Ok(message) => message,
            Err(_) => {
                // An answer needs at least the id, and must never go to another answer.
                let id = u16::from_be_bytes(request.get(0..2)?.try_into().ok()?);
                let question = request.get(2).is_some_and(|flags| flags & 0x80 == 0);
                let code = ResponseCode::FormErr;
                let refused = Message::error_msg(id, hickory_proto::op::OpCode::Query, code);
                return question.then(|| (Reply::Answer(Box::new(refused)), None));
            }
        };
        if message.metadata.message_type != MessageType::Query {
            return None;
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let mut reply = self.zone.reply(&index, &message, turn);
        if !self.ready.load(Ordering::Acquire) && !matches!(reply, Reply::Forward) {
            reply = Reply::Answer(Box::new(answer::refusal(&message, ResponseCode::ServFail)));
        }
        Some((reply, Some(message)))
    }

    /// Completes the answer of an alias with what the name it stands for has. One step only: a chain
    /// inside the cluster ends there; outside, the host's resolvers follow it.
    async fn follow(&self, mut message: Message, target: Query, by_tcp: bool) -> Message {
        let mut question = Message::query();
        question.metadata.recursion_desired = true;
        question.add_query(target);
        let inner = {
            let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
            self.zone.reply(&index, &question, 0)
        };
        let inner = match inner {
            Reply::Answer(inner) | Reply::Follow(inner, _) => Some(*inner),
            Reply::Forward => match question.to_vec() {
                Ok(bytes) => {
                    let answer = self.forwarder.ask(&bytes, by_tcp).await;
                    answer.and_then(|answer| Message::from_vec(&answer).ok())
                }
                Err(_) => None,
            },
        };
        match inner {
            Some(inner) => {
                message.metadata.response_code = inner.metadata.response_code;
                message.add_answers(inner.answers);
            }
            None => message.metadata.response_code = ResponseCode::ServFail,
        }
        message
    }

    async fn forward(&self, request: &[u8], message: &Message, by_tcp: bool) -> Option<Vec<u8>> {
        if let Some(answer) = self.forwarder.ask(request, by_tcp).await {
            return Some(answer);
        }
        let mut failed = answer::refusal(message, ResponseCode::ServFail);
        failed.metadata.recursion_available = true;
        failed.to_vec().ok()
    }
}

async fn serve_datagrams(shared: Arc<Shared>, socket: Arc<UdpSocket>, tasks: TaskTracker) {
    let mut buffer = vec![0u8; 4096];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                // Some earlier answer could not be delivered, or memory is short.
                tracing::debug!(%error, "receiving a DNS question failed");
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            }
        };
        let request = buffer.get(..length).unwrap_or_default();
        match shared.local(request) {
            Some((Reply::Answer(message), question)) => {
                let bytes_max = question.as_ref().map_or(512, answer::datagram_bytes_max);
                if let Some(bytes) = answer::encode(*message, bytes_max) {
                    let _ = socket.send_to(&bytes, from).await;
                }
            }
            Some((Reply::Follow(message, target), question)) => {
                let (shared, socket) = (shared.clone(), socket.clone());
                let bytes_max = question.as_ref().map_or(512, answer::datagram_bytes_max);
                tasks.spawn(async move {
                    let message = shared.follow(*message, target, false).await;
                    if let Some(bytes) = answer::encode(message, bytes_max) {
                        let _ = socket.send_to(&bytes, from).await;
                    }
                });
            }
            Some((Reply::Forward, Some(message))) => {
                let (shared, socket, request) = (shared.clone(), socket.clone(), request.to_vec());
                tasks.spawn(async move {
                    if let Some(bytes) = shared.forward(&request, &message, false).await {
                        let _ = socket.send_to(&bytes, from).await;
                    }
                });
            }
            Some((Reply::Forward, None)) | None => {}
        }
    }
}

async fn serve_streams(shared: Arc<Shared>, listener: TcpListener, tasks: TaskTracker, token: CancellationToken) {
    loop {
        let Ok(permit) = shared.streams.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (shared, token) = (shared.clone(), token.clone());
                tasks.spawn(async move {
                    let _permit = permit;
                    token.run_until_cancelled(serve_stream(&shared, stream)).await;
                });
            }
            Err(error) => {
                tracing::debug!(%error, "accepting a DNS connection failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve_stream(shared: &Shared, mut stream: TcpStream) -> Option<()> {
    loop {
        let length = tokio::time::timeout(STREAM_IDLE, stream.read_u16()).await.ok()?.ok()?;
        let mut request = vec![0u8; usize::from(length)];
        tokio::time::timeout(STREAM_IDLE, stream.read_exact(&mut request))
            .await
            .ok()?
            .ok()?;
        let bytes = match shared.local(&request)? {
            (Reply::Answer(message), _) => answer::encode(*message, usize::from(u16::MAX))?,
            (Reply::Follow(message, target), _) => {
                answer::encode(shared.follow(*message, target, true).await, usize::from(u16::MAX))?
            }
            (Reply::Forward, message) => shared.forward(&request, &message?, true).await?,
        };
        let length = u16::try_from(bytes.len()).ok()?;
        let write = async {
            stream.write_all(&length.to_be_bytes()).await?;
            stream.write_all(&bytes).await
        };
        tokio::time::timeout(STREAM_IDLE, write).await.ok()?.ok()?;
    }
}

//! The side that listens: messages of other members, and joiners.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use coxswain_proto::peers::peers_server::{Peers as Service, PeersServer};
use coxswain_proto::peers::{
    Closed, CreateTokenAnswer, CreateTokenRequest, Envelope, JoinAnswer, JoinRequest, Member, MembersAnswer,
    MembersRequest, RemoveAnswer, RemoveRequest,
};
use coxswain_store::{Op, Snapshot};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::{Request, Response, Status as Refusal, Streaming};
use tower::Service as _;

use super::admission::{Connections, Place};
use super::convert::from_wire;
use super::link::{FOR_MEMBER, Links, MOST_MESSAGE_BYTES, PING_EVERY, PING_WITHIN};
use super::roster::{self, Seat};
use super::{JoinFiles, member_of, tls, tokens};
use crate::{Outcome, Store};

/// How long a handshake may take.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);
/// How long a connection without a certificate may last: a joiner asks once.
const JOIN_WITHIN: Duration = Duration::from_secs(30);
/// What a joiner may send at most, in bytes.
const MOST_JOIN_BYTES: usize = 64 << 10;
/// What each direction of a member's connection may send ahead, in bytes.
const MEMBER_WINDOW: u32 = 4 << 20;
/// Longest names in a request to join, in bytes.
const MOST_NAME_BYTES: usize = 253;
/// Attempts at giving a joiner an id, when several join at once.
const MOST_TRIES: usize = 16;

/// Serves other members until `stop` is done.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    store: Store,
    links: Links,
    files: Arc<JoinFiles>,
    stop: impl Future<Output = ()>,
) {
    let service = Served { store, links, files };
    let acceptor = TlsAcceptor::from(tls);
    let places = Connections::default();
    let mut connections = JoinSet::new();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            // Members hold their connections for good: there is nothing to wait for.
            () = &mut stop => return,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((tcp, from)) => {
                    let (given, place) = oneshot::channel();
                    let task = connections.spawn(connection(tcp, acceptor.clone(), service.clone(), place));
                    let _ = given.send(places.admit(from.ip(), task));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection for other servers");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

/// One connection, from its handshake to its end.
async fn connection(tcp: TcpStream, acceptor: TlsAcceptor, service: Served, place: oneshot::Receiver<Place>) {
    let Ok(mut place) = place.await else { return };
    let _ = tcp.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE_WITHIN, acceptor.accept(tcp)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "a connection to the port for other servers was rejected"),
        Err(_) => return tracing::debug!("a handshake on the port for other servers timed out"),
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    match certificate.and_then(|certificate| member_of(certificate)) {
        Some(member) => {
            place.proven(member);
            requests(stream, Caller(Some(member)), service).await;
        }
        None => {
            let served = requests(stream, Caller(None), service);
            if tokio::time::timeout(JOIN_WITHIN, served).await.is_err() {
                tracing::debug!("a connection without a certificate was closed after {JOIN_WITHIN:?}");
            }
        }
    }
}

/// The requests of one connection. One without a certificate gets little memory.
async fn requests(stream: TlsStream<TcpStream>, caller: Caller, service: Served) {
    let is_member = caller.0.is_some();
    let (message_bytes, window, streams) = match is_member {
        true => (MOST_MESSAGE_BYTES, MEMBER_WINDOW, 100),
        false => (MOST_JOIN_BYTES, 1 << 16, 1),
    };
    let service = PeersServer::new(service)
        .max_decoding_message_size(message_bytes)
        .max_encoding_message_size(MOST_MESSAGE_BYTES);
    let handle = service_fn(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(caller);
        let mut service = service.clone();
        async move { service.call(request).await }
    });
    let served = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(PING_EVERY))
        .keep_alive_timeout(PING_WITHIN)
        .initial_stream_window_size(window)
        .initial_connection_window_size(window.saturating_mul(2))
        .max_concurrent_streams(streams)
        .max_header_list_size(16 << 10)
        .serve_connection(TokioIo::new(stream), handle)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection of another server has ended");
    }
}

/// Raft id of the member at the other end; none when it showed no certificate.
#[derive(Clone, Copy)]
struct Caller(Option<u64>);

#[derive(Clone)]
struct Served {
    store: Store,
    links: Links,
    files: Arc<JoinFiles>,
}

impl Served {
    /// The member that calls: one that has not been removed. Asked for each call.
    fn caller<T>(&self, request: &Request<T>) -> Result<u64, Refusal> {
        let caller = request.extensions().get::<Caller>().and_then(|caller| caller.0);
        let id = caller.ok_or_else(|| Refusal::unauthenticated("this needs the certificate of a member"))?;
        self.check(id)
    }

    fn check(&self, id: u64) -> Result<u64, Refusal> {
        if self.links.trust().believes(id) {
            Ok(id)
        } else {
            Err(removed(id))
        }
    }
}

fn removed(id: u64) -> Refusal {
    Refusal::permission_denied(format!("member {id} was removed from the cluster"))
}

fn invalid(what: impl std::fmt::Display) -> Refusal {
    Refusal::invalid_argument(what.to_string())
}

/// Seconds since 1970.
fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn unavailable(error: impl std::fmt::Display) -> Refusal {
    Refusal::unavailable(error.to_string())
}

#[tonic::async_trait]
impl Service for Served {
    async fn exchange(&self, request: Request<Streaming<Envelope>>) -> Result<Response<Closed>, Refusal> {
        let from = self.caller(&request)?;
        let me = self.store.cluster().borrow().me;
        let meant = request.metadata().get(FOR_MEMBER).and_then(|id| id.to_str().ok());
        if meant != Some(me.to_string().as_str()) {
            return Err(Refusal::failed_precondition(format!("this is member {me}")));
        }
        let mut messages = request.into_inner();
        while let Some(envelope) = messages.message().await? {
            self.check(from)?;
            match from_wire(envelope) {
                Some(message) => self.store.deliver(from, message),
                None => tracing::debug!(from, "a message of a kind not known here is ignored"),
            }
        }
        Ok(Response::new(Closed {}))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinAnswer>, Refusal> {
        let caller = match request.extensions().get::<Caller>().and_then(|caller| caller.0) {
            Some(_) => Some(self.caller(&request)?),
            None => None,
        };
        let request = request.into_inner();
        if request.name.is_empty() || request.name.len().max(request.address.len()) > MOST_NAME_BYTES {
            return Err(invalid("name and address must have 1 to 253 characters"));
        }
        tls::check_ca(&request.ca).map_err(invalid)?;
        let proof = match caller {
            Some(member) => Proof::Member(member),
            None => Proof::Secret(request.secret),
        };
        let seat = Seat {
            machine: request.name,
            address: request.address,
            leaving: false,
            ca_pem: request.ca,
        };
        let id = self.enrol(&seat, &proof).await?;
        tracing::info!(id, machine = seat.machine, address = seat.address, "a server joins");
        let snapshot = self.store.snapshot();
        super::update_trust(&self.store, &self.links, &snapshot);
        let rows = roster::roster(&snapshot).into_iter();
        Ok(Response::new(JoinAnswer {
            id,
            members: rows.map(|(id, seat)| member(id, &seat)).collect(),
            files: self.files.0.clone().into_iter().collect::<HashMap<_, _>>(),
        }))
    }

    async fn members(&self, request: Request<MembersRequest>) -> Result<Response<MembersAnswer>, Refusal> {
        self.caller(&request)?;
        if !request.get_ref().here {
            let gathered = super::gather(&self.store, Some(&self.links)).await;
            return gathered.map(Response::new).map_err(unavailable);
        }
        let status = self.store.status().await.map_err(unavailable)?;
        let rows = roster::roster(&self.store.snapshot());
        Ok(Response::new(super::answer(&status, &rows)))
    }

    async fn remove(&self, request: Request<RemoveRequest>) -> Result<Response<RemoveAnswer>, Refusal> {
        let caller = self.caller(&request)?;
        let id = request.into_inner().id;
        let snapshot = self.store.read_barrier().await.map_err(unavailable)?;
        let mut rows = roster::roster(&snapshot);
        if !rows.contains_key(&caller) {
            return Err(removed(caller));
        }
        let staying = rows
            .iter()
            .filter(|(other, seat)| **other != id && !seat.leaving)
            .count();
        let Some(mut seat) = rows.remove(&id) else {
            return Err(Refusal::not_found(format!("there is no member {id}")));
        };
        if staying == 0 {
            return Err(Refusal::failed_precondition("the last member cannot be removed"));
        }
        seat.leaving = true;
        if let Some(txn) = roster::seat(&snapshot, id, &seat) {
            self.store.propose(txn).await.map_err(unavailable)?;
        }
        Ok(Response::new(RemoveAnswer {}))
    }

    async fn create_token(&self, request: Request<CreateTokenRequest>) -> Result<Response<CreateTokenAnswer>, Refusal> {
        self.caller(&request)?;
        for _ in 0..MOST_TRIES {
            let mut bytes = [0u8; 16];
            aws_lc_rs::rand::fill(&mut bytes).map_err(|_| unavailable("no random numbers"))?;
            let secret: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let snapshot = self.store.read_barrier().await.map_err(unavailable)?;
            match self.store.propose(tokens::create(&snapshot, &secret, now_s())).await {
                Ok(Outcome::Committed { .. }) => return Ok(Response::new(CreateTokenAnswer { secret })),
                Ok(Outcome::Rejected { .. }) => {}
                Err(error) => return Err(unavailable(error)),
            }
        }
        Err(unavailable("too many tokens are created at once; try again"))
    }
}

impl Served {
    async fn enrol(&self, seat: &Seat, proof: &Proof) -> Result<u64, Refusal> {
        for _ in 0..MOST_TRIES {
            let snapshot = self.store.read_barrier().await.map_err(unavailable)?;
            let spent = proof.check(&snapshot, seat)?;
            let cluster = self.store.cluster().borrow().clone();
            let highest = cluster.voters.iter().chain(&cluster.learners).max();
            let (id, mut txn) = roster::enrol(&snapshot, highest.copied().unwrap_or(0), seat);
            txn.ops.extend(spent);
            match self.store.propose(txn).await {
                Ok(Outcome::Committed { .. }) => return Ok(id),
                Ok(Outcome::Rejected { .. }) => {}
                Err(error) => return Err(unavailable(error)),
            }
        }
        Err(unavailable("too many servers join at once; try again"))
    }
}

/// Why a joiner may have an id.
enum Proof {
    /// It has the secret of a token.
    Secret(String),
    /// It is this member, whose data was lost or damaged.
    Member(u64),
}

impl Proof {
    /// What has to be written together with the new member: the token is used up.
    fn check(&self, snapshot: &Snapshot, seat: &Seat) -> Result<Option<Op>, Refusal> {
        match self {
            Proof::Secret(secret) => tokens::spend(snapshot, secret, now_s()).map(Some).ok_or_else(|| {
                Refusal::permission_denied(
                    "the token is not one of this cluster, has been used, or is older than a day; print a new one with \
                     'coxswain members token' on a server of the cluster",
                )
            }),
            Proof::Member(id) => match roster::roster(snapshot).get(id) {
                Some(known) if known.machine == seat.machine && known.ca_pem == seat.ca_pem && !known.leaving => {
                    Ok(None)
                }
                Some(known) => Err(Refusal::permission_denied(format!(
                    "member {id} is the server {}, and may join again only as that one",
                    known.machine
                ))),
                None => Err(removed(*id)),
            },
        }
    }
}

fn member(id: u64, seat: &Seat) -> Member {
    Member {
        id,
        name: seat.machine.clone(),
        address: seat.address.clone(),
        ca: seat.ca_pem.clone(),
        ..Member::default()
    }
}

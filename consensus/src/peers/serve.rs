//! The side that listens: messages of other members, and joiners.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use coxswain_proto::peers::peers_server::{Peers as Service, PeersServer};
use coxswain_proto::peers::{
    Closed, Envelope, JoinAnswer, JoinRequest, Member, MembersAnswer, MembersRequest, RemoveAnswer, RemoveRequest,
};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Response, Status as Refusal, Streaming};
use tower::Service as _;

use super::convert::from_wire;
use super::link::{FOR_MEMBER, Links, MOST_MESSAGE_BYTES, PING_EVERY, PING_WITHIN};
use super::roster::{self, Seat};
use super::{Desk, member_of};
use crate::{Outcome, Store};

/// How long a handshake may take.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);
/// Connections at a time: a few for each member, and joiners.
const MOST_CONNECTIONS: usize = 256;
/// Attempts at giving a joiner an id, when several join at once.
const MOST_TRIES: usize = 16;

/// Serves other members until `stop` is done.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    store: Store,
    links: Links,
    desk: Arc<Desk>,
    stop: impl Future<Output = ()>,
) {
    let service = PeersServer::new(Served { store, links, desk })
        .max_decoding_message_size(MOST_MESSAGE_BYTES)
        .max_encoding_message_size(MOST_MESSAGE_BYTES);
    let acceptor = TlsAcceptor::from(tls);
    let mut connections = JoinSet::new();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            // Members hold their connections for good: there is nothing to wait for.
            () = &mut stop => return,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MOST_CONNECTIONS => match accepted {
                Ok((tcp, _)) => drop(connections.spawn(connection(tcp, acceptor.clone(), service.clone()))),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a member's connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

/// One connection, from its handshake to its end.
async fn connection(tcp: TcpStream, acceptor: TlsAcceptor, service: PeersServer<Served>) {
    let _ = tcp.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE_WITHIN, acceptor.accept(tcp)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::warn!(%error, "a connection from no member of this cluster is refused"),
        Err(_) => return tracing::debug!("a handshake takes too long"),
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let caller = Caller(certificate.and_then(|certificate| member_of(certificate)));
    let handle = service_fn(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(caller);
        let mut service = service.clone();
        async move { service.call(request).await }
    });
    let served = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(PING_EVERY))
        .keep_alive_timeout(PING_WITHIN)
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(8 << 20)
        .serve_connection(TokioIo::new(stream), handle)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a member's connection has ended");
    }
}

/// Raft id of the member at the other end; none when it showed no certificate.
#[derive(Clone, Copy)]
struct Caller(Option<u64>);

struct Served {
    store: Store,
    links: Links,
    desk: Arc<Desk>,
}

fn caller<T>(request: &Request<T>) -> Result<u64, Refusal> {
    let caller = request.extensions().get::<Caller>().and_then(|caller| caller.0);
    caller.ok_or_else(|| Refusal::unauthenticated("only members of the cluster may ask this"))
}

fn unavailable(error: impl std::fmt::Display) -> Refusal {
    Refusal::unavailable(error.to_string())
}

#[tonic::async_trait]
impl Service for Served {
    async fn exchange(&self, request: Request<Streaming<Envelope>>) -> Result<Response<Closed>, Refusal> {
        let from = caller(&request)?;
        let me = self.store.cluster().borrow().me;
        let meant = request.metadata().get(FOR_MEMBER).and_then(|id| id.to_str().ok());
        if meant != Some(me.to_string().as_str()) {
            return Err(Refusal::failed_precondition(format!("this is member {me}")));
        }
        let mut messages = request.into_inner();
        while let Some(envelope) = messages.message().await? {
            match from_wire(envelope) {
                Some(message) => self.store.deliver(from, message),
                None => tracing::debug!(from, "a message of a kind not known here is ignored"),
            }
        }
        Ok(Response::new(Closed {}))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinAnswer>, Refusal> {
        let request = request.into_inner();
        if verify_slices_are_equal(request.secret.as_bytes(), self.desk.secret.as_bytes()).is_err() {
            return Err(Refusal::permission_denied("the token is not one of this cluster"));
        }
        let seat = Seat {
            machine: request.name,
            address: request.address,
            leaving: false,
        };
        let id = self.enrol(&seat).await?;
        tracing::info!(id, machine = seat.machine, address = seat.address, "a server joins");
        self.links.learn([(id, seat.address.clone())]);
        let snapshot = self.store.snapshot();
        let rows = roster::roster(&snapshot).into_iter();
        Ok(Response::new(JoinAnswer {
            id,
            members: rows.map(|(id, seat)| member(id, &seat)).collect(),
            files: self.desk.files.clone().into_iter().collect::<HashMap<_, _>>(),
        }))
    }

    async fn members(&self, request: Request<MembersRequest>) -> Result<Response<MembersAnswer>, Refusal> {
        caller(&request)?;
        if !request.get_ref().here {
            let gathered = super::gather(&self.store, Some(&self.links)).await;
            return gathered.map(Response::new).map_err(unavailable);
        }
        let status = self.store.status().await.map_err(unavailable)?;
        let rows = roster::roster(&self.store.snapshot());
        Ok(Response::new(super::answer(&status, &rows)))
    }

    async fn remove(&self, request: Request<RemoveRequest>) -> Result<Response<RemoveAnswer>, Refusal> {
        caller(&request)?;
        let id = request.into_inner().id;
        let snapshot = self.store.read_barrier().await.map_err(unavailable)?;
        let mut rows = roster::roster(&snapshot);
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
}

impl Served {
    async fn enrol(&self, seat: &Seat) -> Result<u64, Refusal> {
        for _ in 0..MOST_TRIES {
            let snapshot = self.store.read_barrier().await.map_err(unavailable)?;
            let cluster = self.store.cluster().borrow().clone();
            let highest = cluster.voters.iter().chain(&cluster.learners).max();
            let (id, txn) = roster::enrol(&snapshot, highest.copied().unwrap_or(0), seat);
            match self.store.propose(txn).await {
                Ok(Outcome::Committed { .. }) => return Ok(id),
                Ok(Outcome::Rejected { .. }) => {}
                Err(error) => return Err(unavailable(error)),
            }
        }
        Err(unavailable("too many servers join at once; try again"))
    }
}

fn member(id: u64, seat: &Seat) -> Member {
    Member {
        id,
        name: seat.machine.clone(),
        address: seat.address.clone(),
        ..Member::default()
    }
}

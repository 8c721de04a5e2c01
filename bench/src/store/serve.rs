//! A member of our store behind the same protocol as etcd's, and nothing else: so that both are measured by the
//! same client, with the same work of reading requests and writing answers.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use coxswain_consensus::peers::{Credentials, JoinFiles, KnownMember, PEER_NAME, Peers, common_name};
use coxswain_consensus::{Config, Draft, Head, Key, NoPeers, Outcome, Precondition, Store};
use futures::StreamExt as _;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use prost::bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use super::wire::{self, Event, KeyValue, TxnAnswer, WatchAnswer};

/// One member.
#[derive(Clone, Debug, clap::Args)]
pub struct Serve {
    /// Its number, from 1
    #[arg(long)]
    pub id: u64,
    /// Where clients find it
    #[arg(long)]
    pub listen: SocketAddr,
    /// Where each member finds the others, in the order of their numbers; none for a member alone
    #[arg(long)]
    pub peers: Vec<SocketAddr>,
    /// Directory of the members' authority
    #[arg(long)]
    pub authority: PathBuf,
    /// Where it keeps its data
    #[arg(long)]
    pub data_dir: PathBuf,
}

/// Makes the members' authority.
///
/// # Errors
/// When it cannot be written.
pub fn make_authority(dir: &std::path::Path) -> Result<()> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    std::fs::write(dir.join("ca.key"), key.serialize_pem())?;
    std::fs::write(dir.join("ca.crt"), params.self_signed(&key)?.pem())?;
    Ok(())
}

fn credentials(dir: &std::path::Path, id: u64) -> Result<Credentials> {
    let ca_pem = std::fs::read_to_string(dir.join("ca.crt"))?;
    let ca_key = KeyPair::from_pem(&std::fs::read_to_string(dir.join("ca.key"))?)?;
    let issuer = Issuer::from_ca_cert_pem(&ca_pem, ca_key)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec![PEER_NAME.to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, common_name(id));
    let cert_pem = params.signed_by(&key, &issuer)?.pem();
    Ok(Credentials {
        ca_pem,
        cert_pem,
        key_pem: key.serialize_pem(),
    })
}

/// Serves until the process is killed.
///
/// # Errors
/// When the store or an address cannot be opened.
pub async fn serve(settings: Serve) -> Result<()> {
    std::fs::create_dir_all(&settings.data_dir)?;
    let config = Config {
        member: settings.id,
        voters: match settings.peers.len() as u64 {
            0 => vec![settings.id],
            count => (1..=count).collect(),
        },
        ..Config::new(settings.data_dir.join("store"))
    };
    let store = if settings.peers.is_empty() {
        Store::open_with_peers(config, Box::new(NoPeers)).await?
    } else {
        let known = |address: &SocketAddr| KnownMember {
            address: address.to_string(),
            // All share one CA.
            ca_pem: String::new(),
        };
        let members: BTreeMap<u64, KnownMember> = (1..).zip(settings.peers.iter().map(known)).collect();
        let own = settings
            .peers
            .get(settings.id as usize - 1)
            .context("no address of its own")?;
        let listener = TcpListener::bind(own).await?;
        let peers = Peers::new(&credentials(&settings.authority, settings.id)?, members)?;
        let store = Store::open_with_peers(config, peers.transport()).await?;
        let files = JoinFiles(BTreeMap::new());
        let of = store.clone();
        tokio::spawn(async move { peers.serve(listener, of, files, std::future::pending()).await });
        store
    };
    let listener = TcpListener::bind(settings.listen).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let store = store.clone();
        let service = hyper::service::service_fn(move |request| {
            let store = store.clone();
            async move { Ok::<_, Infallible>(route(store, request).await) }
        });
        tokio::spawn(async move {
            let builder = Builder::new(TokioExecutor::new()).http2_only();
            // A client that goes away is no news.
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn route(store: Store, request: http::Request<Incoming>) -> http::Response<Body> {
    match request.uri().path() {
        wire::TXN => {
            let answer = tower::service_fn(move |request| txn(store.clone(), request));
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<TxnAnswer, wire::Txn>::default());
            grpc.unary(answer, request).await
        }
        wire::WATCH => {
            let answer = tower::service_fn(move |request| watch(store.clone(), request));
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<WatchAnswer, wire::Watch>::default());
            grpc.streaming(answer, request).await
        }
        other => Status::unimplemented(other.to_owned()).into_http(),
    }
}

/// The parts of `/registry/RESOURCE/NAMESPACE/NAME`.
fn key_of(path: &[u8]) -> Result<Key> {
    let parts: Vec<&str> = std::str::from_utf8(path)?.split('/').collect();
    ensure!(parts.len() == 5, "not a key of an object");
    Ok(Key::new(parts[2], parts[3], parts[4]))
}

fn draft_of(txn: wire::Txn) -> Result<Draft> {
    let put = txn.success.into_iter().next().and_then(|op| op.put).context("no put")?;
    Ok(Draft::new(
        key_of(&put.key)?,
        serde_json::from_slice(&put.value)?,
        Head::default(),
    ))
}

async fn txn(store: Store, request: Request<wire::Txn>) -> Result<Response<TxnAnswer>, Status> {
    let draft = draft_of(request.into_inner()).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let done = store
        .propose(coxswain_consensus::Txn::put(draft, Precondition::Absent))
        .await;
    match done {
        Ok(outcome) => Ok(Response::new(TxnAnswer {
            succeeded: matches!(outcome, Outcome::Committed { .. }),
        })),
        Err(error) => Err(Status::unavailable(error.to_string())),
    }
}

type Answers = std::pin::Pin<Box<dyn futures::Stream<Item = Result<WatchAnswer, Status>> + Send>>;

async fn watch(store: Store, request: Request<Streaming<wire::Watch>>) -> Result<Response<Answers>, Status> {
    let mut requests = request.into_inner();
    let first = requests.next().await.transpose()?.and_then(|request| request.create);
    let first = first.ok_or_else(|| Status::invalid_argument("no watch is asked for"))?;
    let resource = std::str::from_utf8(&first.key).unwrap_or_default();
    let resource = resource.split('/').nth(2).unwrap_or_default().to_owned();
    let cursor = store.watch(&resource, store.snapshot().revision());
    let cursor = cursor.map_err(|error| Status::out_of_range(error.to_string()))?;
    let created = WatchAnswer {
        created: true,
        events: Vec::new(),
    };
    // The requests are held: their end would end the watch.
    let changes = futures::stream::unfold((cursor, requests), |(mut cursor, requests)| async move {
        let events = cursor.next().await.ok()?;
        let events = events.iter().map(|event| Event {
            kv: Some(KeyValue {
                key: Bytes::copy_from_slice(event.object.key.name.as_bytes()),
                value: event.object.bytes.clone(),
            }),
        });
        let answer = WatchAnswer {
            created: false,
            events: events.collect(),
        };
        Some((Ok(answer), (cursor, requests)))
    });
    Ok(Response::new(Box::pin(
        futures::stream::iter([Ok(created)]).chain(changes),
    )))
}

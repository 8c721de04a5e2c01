//! The port for other servers, attacked on loopback: floods of connections, members that were removed, tokens used twice,
//! certificates that another CA signed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coxswain_consensus::peers::{
    self, Credentials, JoinFiles, JoinProof, KnownMember, PEER_NAME, Peers, PeersError, Seat, common_name,
};
use coxswain_consensus::{Config, Draft, Head, Key, Precondition, Store, Txn};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

/// A CA of one server.
struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn new() -> Ca {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, "coxswain-peers");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let pem = params.self_signed(&key).expect("signed").pem();
        Ca {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    fn credentials(&self, id: u64) -> Credentials {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::new(vec![PEER_NAME.to_owned()]).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, common_name(id));
        Credentials {
            ca_pem: self.pem.clone(),
            cert_pem: params.signed_by(&key, &self.issuer).expect("signed").pem(),
            key_pem: key.serialize_pem(),
        }
    }
}

struct Server {
    id: u64,
    ca: Ca,
    address: String,
    store: Store,
    peers: Arc<Peers>,
    dir: tempfile::TempDir,
    tasks: tokio::task::JoinSet<()>,
}

impl Server {
    async fn open(
        id: u64,
        ca: Ca,
        listener: TcpListener,
        members: BTreeMap<u64, KnownMember>,
        machine: &str,
        dir: tempfile::TempDir,
    ) -> Server {
        let address = listener.local_addr().expect("address").to_string();
        let peers = Arc::new(Peers::new(&ca.credentials(id), members).expect("peers"));
        let config = Config {
            member: id,
            voters: if id == 1 { vec![1] } else { Vec::new() },
            segment_bytes: 64 << 10,
            ..Config::new(dir.path().join("store"))
        };
        let store = Store::open_with_peers(config, peers.transport()).await.expect("opened");
        let (serving, served) = (peers.clone(), store.clone());
        let files = JoinFiles(BTreeMap::from([("sa.key".to_owned(), b"shared".to_vec())]));
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move {
            let served = serving.serve(listener, served, files, std::future::pending()).await;
            served.expect("served");
        });
        let (keeping, kept) = (peers.clone(), store.clone());
        tasks.spawn(async move { keeping.keep(kept).await });
        let server = Server {
            id,
            ca,
            address,
            store,
            peers,
            dir,
            tasks,
        };
        server.store.read_barrier().await.expect("a majority");
        peers::take_seat(&server.store, id, &server.seat(machine))
            .await
            .expect("a row of the roster");
        server
    }

    async fn first() -> Server {
        Server::open(1, Ca::new(), listener().await, BTreeMap::new(), "one", directory()).await
    }

    /// Another server that joins at this one.
    async fn joined(&self, machine: &str) -> Server {
        let (ca, listener) = (Ca::new(), listener().await);
        let seat = seat(machine, &listener.local_addr().expect("address").to_string(), &ca.pem);
        let token = self.token().await;
        let joined = peers::join(&self.address, &JoinProof::Token(&token), seat)
            .await
            .expect("joined");
        assert_eq!(
            joined.files.keys().collect::<Vec<_>>(),
            ["sa.key"],
            "no key of a CA between servers"
        );
        Server::open(joined.id, ca, listener, joined.members, machine, directory()).await
    }

    /// Stops it, and returns what it is started again from.
    async fn stop(mut self) -> (Ca, String, tempfile::TempDir) {
        self.store.shutdown().await;
        self.tasks.shutdown().await;
        (self.ca, self.address, self.dir)
    }

    fn seat(&self, machine: &str) -> Seat {
        seat(machine, &self.address, &self.ca.pem)
    }

    async fn token(&self) -> String {
        let credentials = self.ca.credentials(self.id);
        peers::create_token(&self.address, &credentials, self.id)
            .await
            .expect("a token")
    }

    async fn has_voters(&self, voters: &[u64]) {
        within(Duration::from_secs(20), "the members", || {
            self.store.cluster().borrow().voters == voters
        })
        .await;
    }
}

fn seat(machine: &str, address: &str, ca_pem: &str) -> Seat {
    Seat {
        machine: machine.to_owned(),
        address: address.to_owned(),
        leaving: false,
        ca_pem: ca_pem.to_owned(),
    }
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("temporary directory")
}

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.expect("a port")
}

async fn within(limit: Duration, what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + limit;
    while !done() {
        assert!(Instant::now() < end, "{what} did not come about within {limit:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn reason<T>(result: Result<T, PeersError>) -> String {
    result.err().map(|error| error.to_string()).unwrap_or_default()
}

async fn write(store: &Store, name: &str) {
    let value = serde_json::json!({"metadata": {"name": name}});
    let draft = Draft::new(Key::new("configmaps", "default", name), value, Head::default());
    let txn = Txn::put(draft, Precondition::None);
    store.propose(txn).await.expect("written");
}

/// Connections that never begin a handshake, opened again as soon as they are closed, until aborted.
fn flood(address: &str, connections: usize) -> tokio::task::JoinSet<()> {
    let address: SocketAddr = address.parse().expect("address");
    let mut flood = tokio::task::JoinSet::new();
    for _ in 0..connections {
        flood.spawn(async move {
            loop {
                if let Ok(mut tcp) = TcpStream::connect(address).await {
                    let _ = tcp.read(&mut [0; 16]).await;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
    }
    flood
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_without_a_certificate_do_not_keep_members_apart() {
    let one = Server::first().await;
    let mut floods = vec![flood(&one.address, 1300)];
    // A member joins, gets its vote and reads what was written, all while the port is flooded from its own address.
    let began = Instant::now();
    let two = one.joined("two").await;
    one.has_voters(&[1, 2]).await;
    floods.push(flood(&two.address, 1300));
    for number in 0..20 {
        write(&two.store, &format!("written-{number}")).await;
    }
    let elapsed = began.elapsed();
    assert!(
        elapsed < Duration::from_secs(15),
        "{elapsed:?} for joining and 20 writes"
    );
    drop(floods);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_lets_one_server_in() {
    let one = Server::first().await;
    let token = one.token().await;
    let join = |token: String, machine: &'static str| {
        let address = one.address.clone();
        async move {
            let ca = Ca::new();
            peers::join(
                &address,
                &JoinProof::Token(&token),
                seat(machine, "127.0.0.1:1", &ca.pem),
            )
            .await
        }
    };
    let (first, second) = tokio::join!(join(token.clone(), "two"), join(token.clone(), "three"));
    assert_eq!(
        usize::from(first.is_ok()) + usize::from(second.is_ok()),
        1,
        "two joiners at once"
    );
    // A cluster whose member is starved of processor time may look for its leader meanwhile.
    let refused = |token: String, machine: &'static str| {
        let join = &join;
        async move {
            let end = Instant::now() + Duration::from_secs(20);
            loop {
                let why = reason(join(token.clone(), machine).await);
                if !why.contains("no leader") || Instant::now() > end {
                    return why;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    let again = refused(token.clone(), "four").await;
    assert!(again.contains("has been used"), "{again}");
    let forged = format!("{}.{}", token.split('.').next().unwrap_or_default(), "0".repeat(32));
    let why = refused(forged, "five").await;
    assert!(why.contains("not one of this cluster"), "{why}");
    let elsewhere = Server::first().await.token().await;
    let other = reason(join(elsewhere, "six").await);
    assert!(other.contains("none of those in the token"), "{other}");
    for malformed in ["", "x", "abc.def", &token.replace('.', "")] {
        assert!(
            matches!(join(malformed.to_owned(), "seven").await, Err(PeersError::Token)),
            "{malformed}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_member_has_no_power_left() {
    let one = Server::first().await;
    let two = one.joined("two").await;
    one.has_voters(&[1, 2]).await;
    let three = two.joined("three").await;
    one.has_voters(&[1, 2, 3]).await;
    // Its certificate is good for everything until then.
    let credentials = three.ca.credentials(3);
    peers::create_token(&three.address, &credentials, 3)
        .await
        .expect("a token while it is a member");
    peers::remove(&one.address, &one.ca.credentials(1), 1, 3)
        .await
        .expect("removed");
    one.has_voters(&[1, 2]).await;
    two.has_voters(&[1, 2]).await;
    // It joins as itself, as another member, with its own CA: each is rejected by every member.
    for server in [&one, &two] {
        let attempt = |credentials: Credentials, seat: Seat| async move {
            let proof = JoinProof::Member {
                credentials: &credentials,
                others: vec![server.ca.pem.clone()],
            };
            reason(peers::join(&server.address, &proof, seat).await)
        };
        for id in [3, 1, 2, 4] {
            let text = attempt(three.ca.credentials(id), three.seat("three")).await;
            assert!(!text.is_empty(), "as member {id} at {}", server.id);
        }
        let text = attempt(three.ca.credentials(3), server.seat("one")).await;
        assert!(!text.is_empty());
    }
    assert_eq!(one.store.cluster().borrow().voters, [1, 2]);
    write(&two.store, "after").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_ca_of_a_member_vouches_for_it() {
    let one = Server::first().await;
    let two = one.joined("two").await;
    one.has_voters(&[1, 2]).await;
    // A member signs for itself only: as another one it is nobody.
    for (signer, id) in [(&two.ca, 1), (&Ca::new(), 2), (&Ca::new(), 9)] {
        let proof = JoinProof::Member {
            credentials: &signer.credentials(id),
            others: vec![one.ca.pem.clone()],
        };
        let text = reason(peers::join(&one.address, &proof, two.seat("two")).await);
        assert!(!text.is_empty(), "member {id}");
    }
    // One whose data is damaged joins again in its own place, and as nothing else.
    let as_itself = JoinProof::Member {
        credentials: &two.ca.credentials(2),
        others: vec![one.ca.pem.clone()],
    };
    let renamed = reason(peers::join(&one.address, &as_itself, two.seat("three")).await);
    assert!(renamed.contains("is the server two"), "{renamed}");
    let other_ca = seat("two", &two.address, &Ca::new().pem);
    assert!(!reason(peers::join(&one.address, &as_itself, other_ca).await).is_empty());
    let again = peers::join(&one.address, &as_itself, two.seat("two"))
        .await
        .expect("joined again");
    assert_eq!(again.id, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_renewed_while_members_run() {
    let one = Server::first().await;
    let two = one.joined("two").await;
    one.has_voters(&[1, 2]).await;
    two.peers.renew(&two.ca.credentials(2)).expect("renewed");
    one.peers.renew(&one.ca.credentials(1)).expect("renewed");
    let standings = peers::members(&two.address, &two.ca.credentials(2), 2)
        .await
        .expect("members");
    assert_eq!(standings.len(), 2);
    write(&two.store, "after").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_away_learns_of_newer_ones() {
    let one = Server::first().await;
    let two = one.joined("two").await;
    one.has_voters(&[1, 2]).await;
    let three = one.joined("three").await;
    one.has_voters(&[1, 2, 3]).await;
    let known = BTreeMap::from([(
        1,
        KnownMember {
            address: one.address.clone(),
            ca_pem: one.ca.pem.clone(),
        },
    )]);
    let (ca, address, dir) = two.stop().await;
    // While it is away a fourth one joins and the cluster goes on without the first.
    let four = three.joined("four").await;
    one.has_voters(&[1, 2, 3, 4]).await;
    write(&one.store, "meanwhile").await;
    let listener = TcpListener::bind(&address).await.expect("its port");
    let two = Server::open(2, ca, listener, known, "two", dir).await;
    two.has_voters(&[1, 2, 3, 4]).await;
    let (_, _, _dir) = one.stop().await;
    write(&two.store, "after").await;
    write(&four.store, "and after").await;
}

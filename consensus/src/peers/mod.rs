//! Members on other machines: gRPC with certificates on both sides.
//!
//! Owns: the connections, one in each direction between any two members, on which all their messages
//! are multiplexed; the roster of who is to belong to the cluster, and whom to believe; tokens and joining. Guarantees
//! that a message is delivered as from the member whose certificate the connection has shown, and that nothing of a removed
//! member is.
//!
//! Does not: sign certificates, or know where they are kept. Order or delivery of messages beyond one
//! connection is not promised; the parts above repeat what is lost.

mod admission;
mod convert;
mod link;
mod roster;
mod serve;
mod tls;
mod tokens;
mod trust;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coxswain_proto::peers::{CreateTokenRequest, JoinRequest, Member, MembersAnswer, MembersRequest, RemoveRequest};
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::member::Cluster;
use crate::{Status, Store, Transport};
use link::LinkTransport;
pub(crate) use link::{Links, WeakLinks};
pub(crate) use roster::ROSTER;
pub use roster::Seat;
use tls::PeerTls;
pub use tls::{Credentials, PEER_NAME, TlsError, ca_digest};
pub use tokens::LIFETIME_S as TOKEN_LIFETIME_S;
pub(crate) use tokens::TOKENS;
pub use trust::KnownMember;
use trust::Trust;

/// Between two looks at a change of membership that is under way.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// How long a member may take to say how it stands.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// Between two requests to the others about members that are not known here.
const ASK_OTHERS_EVERY: Duration = Duration::from_secs(1);
/// A common name is this and the member's raft id.
const COMMON_NAME: &str = "member-";

/// Why members don't come together.
#[derive(Debug, thiserror::Error)]
pub enum PeersError {
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A member was asked and has refused, or could not be reached.
    #[error("{address}: {reason}")]
    Refused {
        /// Who was asked.
        address: String,
        /// What it said.
        reason: String,
    },
    /// The token is malformed.
    #[error(
        "invalid join token: expected <SHA-256 of each server's CA, 64 hex digits, separated by commas>.<secret>; print a \
         new one with 'coxswain members token' on a server of the cluster"
    )]
    Token,
}

/// Files of a server that a joiner is given, by path.
pub struct JoinFiles(pub BTreeMap<String, Vec<u8>>);

/// What a joiner has been given.
pub struct Joined {
    /// Its raft id.
    pub id: u64,
    /// The members, itself among them.
    pub members: BTreeMap<u64, KnownMember>,
    /// Files of a server, by path.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// The common name of a member's certificate.
pub fn common_name(id: u64) -> String {
    format!("{COMMON_NAME}{id}")
}

/// The member whose certificate this is.
fn member_of(certificate: &[u8]) -> Option<u64> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let mut names = certificate.subject().iter_common_name();
    names.next()?.as_str().ok()?.strip_prefix(COMMON_NAME)?.parse().ok()
}

/// This member's connections to the others.
pub struct Peers {
    tls: PeerTls,
    links: Links,
}

impl Peers {
    /// To be called on the runtime that is to carry the connections. Until the store has caught up, the others are
    /// known from `members`.
    pub fn new(credentials: &Credentials, members: BTreeMap<u64, KnownMember>) -> Result<Peers, PeersError> {
        let trust = Arc::new(Trust::new(credentials.ca_pem.clone(), members));
        let tls = PeerTls::new(credentials, trust)?;
        let links = Links::new(tls.clone());
        Ok(Peers { tls, links })
    }

    /// The transport for [`Store::open_with_peers`].
    pub fn transport(&self) -> Box<dyn Transport> {
        Box::new(LinkTransport(self.links.clone()))
    }

    /// New connections show these from now on.
    pub fn renew(&self, credentials: &Credentials) -> Result<(), PeersError> {
        Ok(self.tls.renew(credentials)?)
    }

    /// Serves the other members until `stop` is done.
    pub async fn serve(
        &self,
        listener: TcpListener,
        store: Store,
        files: JoinFiles,
        stop: impl Future<Output = ()>,
    ) -> Result<(), PeersError> {
        self.links.report_to(&store);
        update_trust(&store, &self.links, &store.snapshot());
        let tls = self.tls.server()?;
        serve::serve(listener, tls, store, self.links.clone(), Arc::new(files), stop).await;
        Ok(())
    }

    /// Keeps up to date who is believed and where they are, and on the leader brings the membership into line with
    /// the roster. Ends when the store does.
    pub async fn keep(&self, store: Store) {
        let mut cluster = store.cluster();
        let mut ask_at = Instant::now();
        loop {
            let snapshot = store.snapshot();
            let rows = update_trust(&store, &self.links, &snapshot);
            let me = cluster.borrow().me;
            for id in rows.keys().filter(|id| **id != me) {
                self.links.link(*id);
            }
            let settled = !*store.leader().borrow() || self.step(&store, &rows).await;
            let Ok(mut changes) = store.watch(ROSTER, snapshot.revision()) else {
                continue;
            };
            let unknown = async {
                self.links.trust().unknown_seen().await;
                tokio::time::sleep_until(ask_at).await;
            };
            tokio::select! {
                changed = cluster.changed() => if changed.is_err() { return },
                changed = changes.next() => if let Err(crate::Expired::Stopped) = changed { return },
                () = unknown => {
                    self.ask_others(me).await;
                    ask_at = Instant::now() + ASK_OTHERS_EVERY;
                }
                () = tokio::time::sleep(LOOK_AGAIN), if !settled => {}
            }
        }
    }

    /// Learns of members that joined while this one was away, from those that it knows.
    async fn ask_others(&self, me: u64) {
        let known = self.links.trust().members().into_keys().filter(|id| *id != me);
        let asked = known.map(|id| async move {
            let call = async {
                let mut client = self.links.call(id).await.ok()?;
                client.members(MembersRequest { here: true }).await.ok()
            };
            tokio::time::timeout(ANSWER_WITHIN, call).await.ok().flatten()
        });
        for answer in futures::future::join_all(asked).await.into_iter().flatten() {
            self.links.trust().learn(known_members(answer.into_inner().members));
        }
    }

    /// Takes one step towards the roster; true when there is none to take.
    async fn step(&self, store: &Store, rows: &roster::Roster) -> bool {
        let Ok(status) = store.status().await else {
            return true;
        };
        let done = match roster::plan(rows, &status) {
            None => return is_settled(rows, &status.cluster),
            Some(roster::Step::Change(change)) => {
                tracing::info!(?change, "the membership changes");
                store.change(change)
            }
            Some(roster::Step::Forget(id)) => store.propose(roster::forget(id)).await.map(drop),
        };
        if let Err(error) = done {
            tracing::debug!(%error, "the membership changes later");
        }
        false
    }
}

/// Whether nothing more is to be expected: no learner waits for its vote, nobody for leaving.
fn is_settled(rows: &roster::Roster, cluster: &Cluster) -> bool {
    cluster.learners.is_empty() && rows.values().all(|seat| !seat.leaving)
}

/// Takes in the roster and raft's membership as they are applied here. Returns the roster.
fn update_trust(store: &Store, links: &Links, snapshot: &crate::Snapshot) -> roster::Roster {
    let rows = roster::roster(snapshot);
    let cluster = store.cluster().borrow().clone();
    links.trust().update(&rows, roster::highest(snapshot), &cluster);
    rows
}

fn known_members(members: Vec<Member>) -> BTreeMap<u64, KnownMember> {
    let known = |member: Member| {
        let known = KnownMember {
            address: member.address,
            ca_pem: member.ca,
        };
        (member.id, known)
    };
    members.into_iter().map(known).collect()
}

/// Writes this member's own row of the roster, if it has changed.
pub async fn take_seat(store: &Store, id: u64, seat: &Seat) -> Result<(), crate::ProposeError> {
    let snapshot = store.read_barrier().await?;
    match roster::seat(&snapshot, id, seat) {
        Some(txn) => store.propose(txn).await.map(drop),
        None => Ok(()),
    }
}

/// The members, as the roster has them.
pub fn roster_members(snapshot: &crate::Snapshot) -> BTreeMap<u64, KnownMember> {
    let rows = roster::roster(snapshot).into_iter();
    rows.map(|(id, seat)| {
        let known = KnownMember {
            address: seat.address,
            ca_pem: seat.ca_pem,
        };
        (id, known)
    })
    .collect()
}

/// How a member of the cluster stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Raft id.
    pub id: u64,
    /// Name of its machine.
    pub name: String,
    /// Where the others reach it.
    pub address: String,
    /// `leader`, `voter` or `learner`.
    pub role: String,
    /// Raft's term, as it knows it itself if it has answered.
    pub term: u64,
    /// Index of the last entry that it knows to be committed; unknown when it has not answered.
    pub commit: Option<u64>,
    /// Index of the last entry applied; unknown when it has not answered.
    pub applied: Option<u64>,
    /// How many committed entries it has not applied, or does not hold if only that is known.
    pub lag: Option<u64>,
    /// Whether the leader has heard of it lately.
    pub alive: Option<bool>,
}

/// How the members stand: each is asked, and the leader for what it knows of all.
async fn gather(store: &Store, links: Option<&Links>) -> Result<MembersAnswer, crate::ProposeError> {
    let status = store.status().await?;
    let own = answer(&status, &roster::roster(&store.snapshot()));
    let me = status.cluster.me;
    let others = own.members.iter().map(|member| member.id).filter(|id| *id != me);
    let asked = others.map(|id| async move {
        let call = async {
            let mut client = links?.call(id).await.ok()?;
            client.members(MembersRequest { here: true }).await.ok()
        };
        let answered = tokio::time::timeout(ANSWER_WITHIN, call).await.ok().flatten();
        answered.map(|answer| (id, answer.into_inner()))
    });
    let mut answers: BTreeMap<u64, MembersAnswer> =
        futures::future::join_all(asked).await.into_iter().flatten().collect();
    answers.insert(me, own.clone());
    let leader = status.cluster.leader.and_then(|leader| answers.get(&leader));
    let mut best = leader.cloned().unwrap_or(own);
    for member in &mut best.members {
        let Some(said) = answers.get(&member.id) else {
            continue;
        };
        member.commit = Some(said.commit);
        member.applied = Some(said.applied);
        let itself = said.members.iter().find(|other| other.id == member.id);
        member.term = itself.map_or(member.term, |itself| itself.term);
    }
    Ok(best)
}

impl Store {
    /// How the members stand. Those that don't answer within half a second are told of as far as the
    /// leader knows.
    pub async fn members(&self) -> Result<Vec<Standing>, crate::ProposeError> {
        let links = self.links();
        let answer = gather(self, links.as_ref()).await?;
        Ok(standings(answer))
    }
}

/// The members of an answer.
#[must_use]
pub fn standings(answer: MembersAnswer) -> Vec<Standing> {
    let commit = answer.commit;
    let standing = |member: Member| Standing {
        lag: member.applied.or(member.matched).map(|has| commit.saturating_sub(has)),
        id: member.id,
        name: member.name,
        address: member.address,
        role: member.role,
        term: member.term,
        commit: member.commit,
        applied: member.applied,
        alive: member.alive,
    };
    answer.members.into_iter().map(standing).collect()
}

fn answer(status: &Status, rows: &roster::Roster) -> MembersAnswer {
    let cluster = &status.cluster;
    let ids = cluster.voters.iter().chain(&cluster.learners);
    let members = ids.map(|id| {
        let seat = rows.get(id).cloned().unwrap_or_default();
        let progress = status.progress.get(id);
        let role = match (Some(*id) == cluster.leader, cluster.voters.contains(id)) {
            (true, _) => "leader",
            (_, true) => "voter",
            _ => "learner",
        };
        Member {
            id: *id,
            name: seat.machine,
            address: seat.address,
            role: role.to_owned(),
            term: status.term,
            matched: progress.map(|(matched, _)| *matched),
            alive: progress.map(|(_, alive)| *alive),
            commit: None,
            applied: None,
            ca: seat.ca_pem,
        }
    });
    MembersAnswer {
        members: members.collect(),
        commit: status.commit,
        applied: status.applied,
    }
}

fn refused(address: &str) -> impl Fn(tonic::Status) -> PeersError {
    let address = address.to_owned();
    move |status| PeersError::Refused {
        address: address.clone(),
        reason: status.message().to_owned(),
    }
}

async fn client(
    address: &str,
    tls: Arc<rustls::ClientConfig>,
) -> Result<coxswain_proto::peers::peers_client::PeersClient<tonic::transport::Channel>, PeersError> {
    let channel = link::connect(address, tls).await;
    channel.map(link::client).map_err(|error| PeersError::Refused {
        address: address.to_owned(),
        reason: link::describe(&error),
    })
}

/// How a joiner proves that it may join.
pub enum JoinProof<'a> {
    /// The token that a member gave out.
    Token(&'a str),
    /// It is member `id`, whose data was lost or damaged; the others are known by their CAs.
    Member {
        /// Its own certificate.
        credentials: &'a Credentials,
        /// Certificates of the other members' CAs.
        others: Vec<String>,
    },
}

/// What a token says: digests of the members' CAs, and the secret.
fn token_parts(token: &str) -> Result<(Vec<String>, &str), PeersError> {
    let (digests, secret) = token.trim().split_once('.').ok_or(PeersError::Token)?;
    let digests: Vec<String> = digests.split(',').map(str::to_ascii_lowercase).collect();
    let is_digest = |digest: &String| digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
    if secret.is_empty() || !digests.iter().all(is_digest) {
        return Err(PeersError::Token);
    }
    Ok((digests, secret))
}

/// Asks the member at `address` for an id in its cluster. `seat` says what the joiner is.
pub async fn join(address: &str, proof: &JoinProof<'_>, seat: Seat) -> Result<Joined, PeersError> {
    let (tls, secret) = match proof {
        JoinProof::Token(token) => {
            let (digests, secret) = token_parts(token)?;
            (tls::joiner(digests)?, secret.to_owned())
        }
        JoinProof::Member { credentials, others } => {
            let digests: Result<Vec<String>, TlsError> = others.iter().map(|ca| ca_digest(ca)).collect();
            let trust = Arc::new(Trust::new(credentials.ca_pem.clone(), BTreeMap::new()));
            (PeerTls::new(credentials, trust)?.rejoiner(digests?)?, String::new())
        }
    };
    let mut client = client(address, tls).await?;
    let request = JoinRequest {
        secret,
        name: seat.machine,
        address: seat.address,
        ca: seat.ca_pem,
    };
    let answer = client.join(request).await.map_err(refused(address))?.into_inner();
    Ok(Joined {
        id: answer.id,
        members: known_members(answer.members),
        files: answer.files.into_iter().collect(),
    })
}

/// A connection of member `id` to its own server, for commands on its machine.
async fn to_itself(
    address: &str,
    credentials: &Credentials,
    id: u64,
) -> Result<coxswain_proto::peers::peers_client::PeersClient<tonic::transport::Channel>, PeersError> {
    let known = BTreeMap::from([(id, KnownMember::default())]);
    let trust = Arc::new(Trust::new(credentials.ca_pem.clone(), known));
    client(address, PeerTls::new(credentials, trust)?.client(id)?).await
}

/// How the members stand, as reported by member `id` at `address`.
pub async fn members(address: &str, credentials: &Credentials, id: u64) -> Result<Vec<Standing>, PeersError> {
    let mut client = to_itself(address, credentials, id).await?;
    let answer = client.members(MembersRequest { here: false }).await;
    Ok(standings(answer.map_err(refused(address))?.into_inner()))
}

/// Asks member `id` at `address` to have member `removed` removed.
pub async fn remove(address: &str, credentials: &Credentials, id: u64, removed: u64) -> Result<(), PeersError> {
    let mut client = to_itself(address, credentials, id).await?;
    let answer = client.remove(RemoveRequest { id: removed }).await;
    answer.map(drop).map_err(refused(address))
}

/// A new token with which another server can join once, within [`TOKEN_LIFETIME_S`], at any server of the cluster.
pub async fn create_token(address: &str, credentials: &Credentials, id: u64) -> Result<String, PeersError> {
    let mut client = to_itself(address, credentials, id).await?;
    let answer = client.create_token(CreateTokenRequest {}).await;
    let secret = answer.map_err(refused(address))?.into_inner().secret;
    let answer = client.members(MembersRequest { here: true }).await;
    let members = answer.map_err(refused(address))?.into_inner().members;
    let mut digests = vec![ca_digest(&credentials.ca_pem)?];
    for member in members.iter().filter(|member| !member.ca.is_empty()) {
        let digest = ca_digest(&member.ca)?;
        if !digests.contains(&digest) {
            digests.push(digest);
        }
    }
    Ok(format!("{}.{secret}", digests.join(",")))
}

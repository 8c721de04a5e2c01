//! Members on other machines: gRPC with certificates on both sides.
//!
//! Owns: the connections, one in each direction between any two members, on which everything they say
//! is multiplexed; the roster of who is to belong to the cluster; joining. Guarantees that a message is
//! delivered as from the member whose certificate the connection has shown.
//!
//! Does not: make certificates, or know where they are kept. Order or delivery of messages beyond one
//! connection is nobody's promise; the parts above repeat what is lost.

mod convert;
mod link;
mod roster;
mod serve;
mod tls;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coxswain_proto::peers::{JoinRequest, Member, MembersAnswer, MembersRequest, RemoveRequest};
use tokio::net::TcpListener;

use crate::member::Cluster;
use crate::{Status, Store, Transport};
use link::LinkTransport;
pub(crate) use link::{Links, WeakLinks};
pub(crate) use roster::ROSTER;
pub use roster::Seat;
pub use tls::{Credentials, PEER_NAME, TlsError};

/// Between two looks at a change of membership that is under way.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// How long a member may take to say how it stands.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
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
    #[error("the token is not one: it is the 64 digits of the authority's digest, a dot, and the secret")]
    Token,
}

/// What a joiner is given.
pub struct Desk {
    /// What it has to know.
    pub secret: String,
    /// Files of a server, by path.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// What a joiner has been given.
pub struct Joined {
    /// Its raft id.
    pub id: u64,
    /// Where the members are.
    pub addresses: BTreeMap<u64, String>,
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
    credentials: Credentials,
    links: Links,
}

impl Peers {
    /// To be called on the runtime that is to carry the connections. Where the others are is known
    /// from `addresses` until the store tells.
    pub fn new(credentials: Credentials, addresses: BTreeMap<u64, String>) -> Result<Peers, PeersError> {
        let links = Links::new(credentials.client()?, addresses);
        Ok(Peers { credentials, links })
    }

    /// The transport for [`Store::open_with_peers`].
    pub fn transport(&self) -> Box<dyn Transport> {
        Box::new(LinkTransport(self.links.clone()))
    }

    /// Serves the other members until `stop` is done.
    pub async fn serve(
        &self,
        listener: TcpListener,
        store: Store,
        desk: Desk,
        stop: impl Future<Output = ()>,
    ) -> Result<(), PeersError> {
        self.links.report_to(&store);
        let tls = self.credentials.server()?;
        serve::serve(listener, tls, store, self.links.clone(), Arc::new(desk), stop).await;
        Ok(())
    }

    /// Keeps addresses up to date, and on the leader brings the membership into line with the roster.
    /// Ends when the store does.
    pub async fn keep(&self, store: Store) {
        let mut cluster = store.cluster();
        loop {
            let snapshot = store.snapshot();
            let rows = roster::roster(&snapshot);
            self.links
                .learn(rows.iter().map(|(id, seat)| (*id, seat.address.clone())));
            let me = cluster.borrow().me;
            for id in rows.keys().filter(|id| **id != me) {
                self.links.link(*id);
            }
            let settled = !*store.leader().borrow() || self.step(&store, &rows).await;
            let Ok(mut changes) = store.watch(ROSTER, snapshot.revision()) else {
                continue;
            };
            tokio::select! {
                changed = cluster.changed() => if changed.is_err() { return },
                changed = changes.next() => if let Err(crate::Expired::Stopped) = changed { return },
                () = tokio::time::sleep(LOOK_AGAIN), if !settled => {}
            }
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

/// Writes this member's own row of the roster, if it has changed.
pub async fn take_seat(store: &Store, id: u64, machine: &str, address: &str) -> Result<(), crate::ProposeError> {
    let seat = Seat {
        machine: machine.to_owned(),
        address: address.to_owned(),
        leaving: false,
    };
    let snapshot = store.read_barrier().await?;
    match roster::seat(&snapshot, id, &seat) {
        Some(txn) => store.propose(txn).await.map(drop),
        None => Ok(()),
    }
}

/// Where the members are, as the roster has it.
pub fn addresses(snapshot: &crate::Snapshot) -> BTreeMap<u64, String> {
    let rows = roster::roster(snapshot).into_iter();
    rows.map(|(id, seat)| (id, seat.address)).collect()
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

/// Asks a member for a place in its cluster, with a token that a member gave out.
pub async fn join(address: &str, token: &str, machine: &str, own_address: &str) -> Result<Joined, PeersError> {
    let (digest, secret) = token.trim().split_once('.').ok_or(PeersError::Token)?;
    if digest.len() != 64 || secret.is_empty() {
        return Err(PeersError::Token);
    }
    let mut client = client(address, tls::joiner(digest)?).await?;
    let request = JoinRequest {
        secret: secret.to_owned(),
        name: machine.to_owned(),
        address: own_address.to_owned(),
    };
    let answer = client.join(request).await.map_err(refused(address))?.into_inner();
    let members = answer.members.into_iter();
    Ok(Joined {
        id: answer.id,
        addresses: members.map(|member| (member.id, member.address)).collect(),
        files: answer.files.into_iter().collect(),
    })
}

/// How the members stand, told by one of them.
pub async fn members(address: &str, credentials: &Credentials) -> Result<Vec<Standing>, PeersError> {
    let mut client = client(address, credentials.client()?).await?;
    let answer = client.members(MembersRequest { here: false }).await;
    Ok(standings(answer.map_err(refused(address))?.into_inner()))
}

/// Has a member removed.
pub async fn remove(address: &str, credentials: &Credentials, id: u64) -> Result<(), PeersError> {
    let mut client = client(address, credentials.client()?).await?;
    let answer = client.remove(RemoveRequest { id }).await;
    answer.map(drop).map_err(refused(address))
}

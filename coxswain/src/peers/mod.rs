//! This server among the members of its cluster.
//!
//! Owns `<data-dir>/member.json` (which member this is, where it listens, where the others were last and by which CAs they are
//! known) and `<data-dir>/pki/peers`. Joins a cluster, opens the store with its connections, and lets a member whose
//! data is damaged join again in its own place.
//!
//! Does not: decide about membership; that is the leader's part in `coxswain-consensus`.

mod args;
mod credentials;
mod members;

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use coxswain_consensus::peers::{self, JoinFiles, JoinProof, KnownMember, Peers, Seat};
use coxswain_consensus::{Config, OpenError, Store};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

pub use args::{Members, PeerArgs};
pub use members::run;

use crate::pki::write_secret;

/// Whether this server's damaged data is being replaced by the others'.
pub fn is_joining_again(data_dir: &Path) -> bool {
    matches!(Record::load(data_dir), Ok(Some(Record { rejoins: true, .. })))
}

/// What every server of a cluster shares, by path below `pki`: each signs certificates and tokens when its controllers run.
const SHARED_FILES: [&str; 3] = ["ca.crt", "ca.key", "sa.key"];
/// The port for other members is this much above the API server's.
const PORT_OFFSET: u16 = 1;

/// What is known of this member from its earlier runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    id: u64,
    listen: Option<SocketAddr>,
    #[serde(default)]
    addresses: BTreeMap<u64, String>,
    /// Certificates of the members' CAs.
    #[serde(default)]
    cas: BTreeMap<u64, String>,
    /// The data is damaged: it is to be put aside, and the others are to give this server another place.
    #[serde(default)]
    rejoins: bool,
}

impl Record {
    fn path(data_dir: &Path) -> PathBuf {
        data_dir.join("member.json")
    }

    fn load(data_dir: &Path) -> Result<Option<Record>> {
        let path = Record::path(data_dir);
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let record = serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))?;
        Ok(Some(record))
    }

    fn save(&self, data_dir: &Path) -> Result<()> {
        write_secret(&Record::path(data_dir), &serde_json::to_string(self)?)
    }

    fn members(&self) -> BTreeMap<u64, KnownMember> {
        let known = |(id, address): (&u64, &String)| {
            let known = KnownMember {
                address: address.clone(),
                ca_pem: self.cas.get(id).cloned().unwrap_or_default(),
            };
            (*id, known)
        };
        self.addresses.iter().map(known).collect()
    }

    fn set_members(&mut self, members: BTreeMap<u64, KnownMember>) {
        self.cas.clear();
        self.addresses.clear();
        for (id, known) in members {
            self.addresses.insert(id, known.address);
            self.cas.insert(id, known.ca_pem);
        }
    }
}

/// How this server is to take part.
pub struct Plan<'a> {
    pub data_dir: &'a Path,
    pub args: &'a PeerArgs,
    /// Where the API server listens, and the address that others reach this machine at.
    pub api: SocketAddr,
    pub ip: IpAddr,
    pub bare: bool,
}

/// A member that is about to open its store.
pub struct Member {
    data_dir: PathBuf,
    record: Record,
    machine: String,
    /// Where others reach it, if it listens at all.
    address: Option<String>,
    /// Whether writes in a damaged log are given up.
    accept_log_damage: bool,
}

/// Where a server that is not bare listens for others.
///
/// # Errors
/// When what the data directory says about it is damaged.
pub fn listens(data_dir: &Path, args: &PeerArgs, api: SocketAddr) -> Result<Option<SocketAddr>> {
    Ok(listen_of(args, Record::load(data_dir)?.as_ref(), Some(api)))
}

/// As it is told, as before, or beside the API server.
fn listen_of(args: &PeerArgs, known: Option<&Record>, api: Option<SocketAddr>) -> Option<SocketAddr> {
    let beside = |api: SocketAddr| SocketAddr::new(api.ip(), api.port().saturating_add(PORT_OFFSET));
    let earlier = || known.and_then(|record| record.listen);
    args.peer_listen.or_else(earlier).or_else(|| api.map(beside))
}

/// Decides which member this is, and joins a cluster if that is asked for. Comes before certificates are
/// made: a joiner is given the authority.
///
/// # Errors
/// When the cluster refuses, or the data directory belongs to another one already.
pub async fn prepare(plan: &Plan<'_>) -> Result<Member> {
    let known = Record::load(plan.data_dir)?;
    let is_wanted = !plan.bare || plan.args.join.is_some();
    let listen = listen_of(plan.args, known.as_ref(), is_wanted.then_some(plan.api));
    let machine = match &plan.args.member_name {
        Some(name) => name.clone(),
        None => crate::machine::name()?,
    };
    let address = listen.map(|listen| {
        let ip = if listen.ip().is_unspecified() {
            plan.ip
        } else {
            listen.ip()
        };
        SocketAddr::new(ip, listen.port()).to_string()
    });
    let mut member = Member {
        data_dir: plan.data_dir.to_owned(),
        record: known.clone().unwrap_or(Record {
            id: 1,
            listen,
            addresses: BTreeMap::new(),
            cas: BTreeMap::new(),
            rejoins: false,
        }),
        machine,
        address,
        accept_log_damage: plan.args.accept_log_damage,
    };
    member.record.listen = listen;
    if let (Some(cluster), None) = (&plan.args.join, &known) {
        if plan.data_dir.join("store").exists() {
            bail!(
                "{} holds a cluster of its own already; to join another one, choose an empty --data-dir",
                plan.data_dir.display()
            );
        }
        let token = plan.args.token.as_deref();
        let token =
            token.context("--join needs --token: `coxswain members token` on a server of the cluster shows it")?;
        member.join(cluster, &JoinProof::Token(token)).await?;
    }
    Ok(member)
}

impl Member {
    /// This server's row of the roster.
    fn seat(&self) -> Result<Seat> {
        let address = self
            .address
            .clone()
            .context("--peer-listen is needed to join other servers")?;
        Ok(Seat {
            machine: self.machine.clone(),
            address,
            leaving: false,
            ca_pem: credentials::ca_pem(&self.data_dir)?,
        })
    }

    /// Asks a server of the cluster for an id, and keeps what it gives.
    async fn join(&mut self, cluster: &str, proof: &JoinProof<'_>) -> Result<()> {
        let joined = peers::join(cluster, proof, self.seat()?)
            .await
            .with_context(|| format!("join the cluster at {cluster}"))?;
        for (name, content) in &joined.files {
            if !SHARED_FILES.contains(&name.as_str()) {
                continue;
            }
            let path = self.data_dir.join("pki").join(name);
            let dir = path.parent().unwrap_or(&self.data_dir);
            fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
            let text = std::str::from_utf8(content).with_context(|| format!("{name} is not text"))?;
            write_secret(&path, text)?;
        }
        self.record.id = joined.id;
        self.record.set_members(joined.members);
        self.record.save(&self.data_dir)
    }

    fn config(&self) -> Config {
        let id = self.record.id;
        Config {
            member: id,
            // Only the first one begins a cluster.
            voters: if id == 1 { vec![1] } else { Vec::new() },
            // The others have what is missing here, and may have gone on since.
            accept_log_damage: self.accept_log_damage && self.others().next().is_none(),
            ..Config::new(self.data_dir.join("store"))
        }
    }

    /// Opens the store, connects it with the other members and waits until they answer.
    ///
    /// # Errors
    /// When the store cannot be opened, or the address for members cannot be listened on.
    pub async fn open(mut self) -> Result<Store> {
        if self.record.rejoins {
            self.join_again().await?;
        }
        let store = match self.open_once().await {
            Err(error) if self.is_damaged(&error) => {
                tracing::error!(%error, "this member's data is damaged: it does not vote, and joins again in its own place");
                self.record.rejoins = true;
                self.record.save(&self.data_dir)?;
                self.join_again().await?;
                self.open_once().await?
            }
            other => other?,
        };
        loop {
            match store.read_barrier().await {
                Ok(_) => break,
                Err(coxswain_consensus::ProposeError::Stopped(reason)) => bail!("the store has stopped: {reason}"),
                Err(_) => tracing::warn!("waiting for a majority of the members"),
            }
        }
        if self.address.is_some() {
            peers::take_seat(&store, self.record.id, &self.seat()?).await?;
        }
        let rotated = store.clone();
        tokio::spawn(async move {
            // One that was interrupted when the server ended.
            if let Err(error) = rotated.finish_rotation().await {
                tracing::warn!(%error, "the rotation of the store's key has not ended");
            }
        });
        let (remembered, data_dir) = (store.clone(), self.data_dir.clone());
        tokio::spawn(async move { remember(remembered, data_dir, self.record).await });
        Ok(store)
    }

    fn is_damaged(&self, error: &anyhow::Error) -> bool {
        let is_damage = |error: &OpenError| error.is_damage() || matches!(error, OpenError::Removed);
        error.downcast_ref().is_some_and(is_damage) && self.others().next().is_some()
    }

    fn others(&self) -> impl Iterator<Item = &String> {
        let me = self.record.id;
        self.record
            .addresses
            .iter()
            .filter(move |(id, _)| **id != me)
            .map(|(_, address)| address)
    }

    /// Puts the damaged data aside and asks the others for a new place. The record says that this is to be
    /// done until it is, so that it goes on where a crash has cut it off.
    async fn join_again(&mut self) -> Result<()> {
        let store = self.data_dir.join("store");
        if store.exists() {
            let aside = |number: u32| self.data_dir.join(format!("store.damaged-{}.{number}", self.record.id));
            let free = (0..).map(aside).find(|path| !path.exists()).context("no free name")?;
            fs::rename(&store, &free).with_context(|| format!("rename {}", store.display()))?;
        }
        let credentials = credentials::issue(&self.data_dir, self.record.id)?;
        let cas = self.record.cas.iter().filter(|(id, _)| **id != self.record.id);
        let proof = JoinProof::Member {
            credentials: &credentials,
            others: cas.map(|(_, ca)| ca.clone()).filter(|ca| !ca.is_empty()).collect(),
        };
        let others: Vec<String> = self.others().cloned().collect();
        let mut refusal = anyhow::anyhow!("no other member is known");
        for address in others {
            match self.join(&address, &proof).await {
                Ok(()) => return Ok(()),
                Err(error) => refusal = error,
            }
        }
        Err(refusal.context(format!(
            "this server's data is damaged and was put aside ({}), and no other server of the cluster gives it back: start \
             the others; if the data of most of them is damaged or lost, restore a backup with `coxswain restore`",
            self.data_dir.join("store.damaged-*").display()
        )))
    }

    async fn open_once(&mut self) -> Result<Store> {
        let credentials = credentials::issue(&self.data_dir, self.record.id)?;
        let peers = Arc::new(Peers::new(&credentials, self.record.members())?);
        let listener = match self.record.listen {
            Some(listen) => Some(TcpListener::bind(listen).await.with_context(|| {
                format!("cannot listen for other members on {listen}; choose another address with --peer-listen")
            })?),
            None => None,
        };
        let store = Store::open_with_peers(self.config(), peers.transport()).await?;
        self.record.rejoins = false;
        self.record.save(&self.data_dir)?;
        if let Some(listener) = listener {
            let files = self.shared_files()?;
            let (serving, served) = (peers.clone(), store.clone());
            // Members hear each other until the store has ended: that is how leadership is handed over.
            let mut stopped = store.stopped();
            tokio::spawn(async move {
                let stop = async { drop(stopped.wait_for(Option::is_some).await) };
                if let Err(error) = serving.serve(listener, served, files, stop).await {
                    tracing::error!(%error, "other members cannot be served");
                }
            });
        }
        tokio::spawn(credentials::keep_fresh(
            self.data_dir.clone(),
            self.record.id,
            Arc::downgrade(&peers),
            store.clone(),
        ));
        let kept = store.clone();
        tokio::spawn(async move { peers.keep(kept).await });
        Ok(store)
    }

    fn shared_files(&self) -> Result<JoinFiles> {
        let pki = self.data_dir.join("pki");
        let mut files = BTreeMap::new();
        for name in SHARED_FILES {
            let path = pki.join(name);
            let content = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
            files.insert(name.to_owned(), content);
        }
        Ok(JoinFiles(files))
    }
}

/// Keeps the record of where the members are, for the next start.
async fn remember(store: Store, data_dir: PathBuf, mut record: Record) {
    let mut cluster = store.cluster();
    loop {
        let members = peers::roster_members(&store.snapshot());
        if !members.is_empty() && members != record.members() {
            record.set_members(members);
            if let Err(error) = record.save(&data_dir) {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "the addresses of the other servers were not saved"
                );
            }
        }
        if cluster.changed().await.is_err() {
            return;
        }
    }
}

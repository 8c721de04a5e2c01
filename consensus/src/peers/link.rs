//! Connections to other members, one for each, kept up for as long as there is something to say.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use coxswain_proto::peers::Envelope;
use coxswain_proto::peers::peers_client::PeersClient;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

use super::convert::to_wire;
use super::tls::{PEER_NAME, PeerTls};
use super::trust::Trust;
use crate::{Message, Store, Transport};

/// Messages that may wait for one member; more are dropped, which raft makes up for.
const MOST_WAITING: usize = 4096;
/// Waiting times between attempts to connect.
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_MOST: Duration = Duration::from_millis(500);
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// A connection on which nothing comes back for this long is given up.
pub(super) const PING_EVERY: Duration = Duration::from_secs(1);
pub(super) const PING_WITHIN: Duration = Duration::from_secs(2);
/// Largest message: an entry holds a transaction of 8 MiB at most, and a batch of 1 MiB more.
pub(super) const MOST_MESSAGE_BYTES: usize = 64 << 20;

/// Metadata that says whom a connection is for: on one address may be another member than before.
pub(super) const FOR_MEMBER: &str = "coxswain-member";

/// Links that go away with their last user.
pub(crate) struct WeakLinks(Weak<Shared>);

impl WeakLinks {
    pub fn get(&self) -> Option<Links> {
        self.0.upgrade().map(|shared| Links { shared })
    }
}

/// Where the members are, and the connections to them.
#[derive(Clone)]
pub(crate) struct Links {
    shared: Arc<Shared>,
}

struct Shared {
    tls: PeerTls,
    links: Mutex<BTreeMap<u64, mpsc::Sender<Message>>>,
    store: OnceLock<Store>,
    runtime: tokio::runtime::Handle,
}

impl Links {
    pub fn new(tls: PeerTls) -> Links {
        Links {
            shared: Arc::new(Shared {
                tls,
                links: Mutex::default(),
                store: OnceLock::new(),
                runtime: tokio::runtime::Handle::current(),
            }),
        }
    }

    /// Tells who is to know of processes that have ended, and may ask other members.
    pub fn report_to(&self, store: &Store) {
        let _ = self.shared.store.set(store.clone());
        store.connect(WeakLinks(Arc::downgrade(&self.shared)));
    }

    /// Who is believed, and where they are.
    pub fn trust(&self) -> &Arc<Trust> {
        self.shared.tls.trust()
    }

    /// Where a member is, if that is known.
    pub fn address(&self, id: u64) -> Option<String> {
        let known = self.trust().members().remove(&id)?;
        (!known.address.is_empty()).then_some(known.address)
    }

    /// The connection to a member, kept up from now on. Those who may have to vote for each other have one
    /// before that, so that an election waits for no handshake.
    pub fn link(&self, to: u64) -> mpsc::Sender<Message> {
        let mut links = self.shared.links.lock().unwrap_or_else(PoisonError::into_inner);
        let link = links.entry(to).or_insert_with(|| {
            let (sender, queue) = mpsc::channel(MOST_WAITING);
            self.shared.runtime.spawn(keep_up(self.clone(), to, queue));
            sender
        });
        link.clone()
    }

    /// A connection for single calls.
    pub async fn call(&self, id: u64) -> Result<PeersClient<Channel>, String> {
        let address = self.address(id).ok_or("its address is not known")?;
        let tls = self.shared.tls.client(id).map_err(|error| error.to_string())?;
        let channel = connect(&address, tls).await;
        channel.map(client).map_err(|error| describe(&error))
    }
}

/// The error and what caused it, in one line.
pub(super) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// A client with our limits.
pub(super) fn client(channel: Channel) -> PeersClient<Channel> {
    PeersClient::new(channel)
        .max_decoding_message_size(MOST_MESSAGE_BYTES)
        .max_encoding_message_size(MOST_MESSAGE_BYTES)
}

/// Connects to a member.
pub(super) async fn connect(address: &str, tls: Arc<ClientConfig>) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(CONNECT_WITHIN)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_WITHIN)
        .keep_alive_while_idle(true);
    let address = address.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let (address, tls) = (address.clone(), tls.clone());
        async move {
            let tcp = TcpStream::connect(&address).await?;
            tcp.set_nodelay(true)?;
            let name = ServerName::try_from(PEER_NAME).map_err(io::Error::other)?;
            let stream = TlsConnector::from(tls).connect(name, tcp).await?;
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    endpoint.connect_with_connector(connector).await
}

/// Sends by the links.
pub(super) struct LinkTransport(pub Links);

impl Transport for LinkTransport {
    fn send(&mut self, to: u64, message: Message) {
        let _ = self.0.link(to).try_send(message);
    }
}

/// Connects again and again, and sends what is queued. Ends with the transport.
async fn keep_up(links: Links, to: u64, mut queue: mpsc::Receiver<Message>) {
    let mut retry = RETRY_FIRST;
    loop {
        let Some(address) = links.address(to) else {
            if queue.recv().await.is_none() {
                return;
            }
            continue;
        };
        let tls = match links.shared.tls.client(to) {
            Ok(tls) => tls,
            Err(error) => return tracing::error!(to, %error, "no connection to a member"),
        };
        match connect(&address, tls).await {
            Ok(channel) => {
                retry = RETRY_FIRST;
                if !exchange(to, channel, &mut queue).await {
                    return;
                }
            }
            Err(error) => {
                if is_refused(&error)
                    && let Some(store) = links.shared.store.get()
                {
                    // Nobody listens there any more: the process has ended.
                    store.gone(to);
                }
                tracing::debug!(to, %address, error = describe(&error), "no connection to a member");
                tokio::time::sleep(retry).await;
                retry = (retry * 2).min(RETRY_MOST);
            }
        }
        // What has waited meanwhile is out of date.
        loop {
            match queue.try_recv() {
                Ok(_) => {}
                Err(mpsc::error::TryRecvError::Empty) => break,
                Err(mpsc::error::TryRecvError::Disconnected) => return,
            }
        }
    }
}

/// Sends until the connection breaks; false when there is nothing more to send.
async fn exchange(to: u64, channel: Channel, queue: &mut mpsc::Receiver<Message>) -> bool {
    let (sender, mut outgoing) = mpsc::channel::<Envelope>(64);
    let stream = futures::stream::poll_fn(move |context| outgoing.poll_recv(context));
    let mut client = client(channel);
    let mut request = tonic::Request::new(stream);
    request.metadata_mut().insert(FOR_MEMBER, to.into());
    let call = client.exchange(request);
    tokio::pin!(call);
    loop {
        tokio::select! {
            ended = &mut call => {
                if let Err(status) = ended {
                    tracing::debug!(to, %status, "the connection to a member has ended");
                }
                return true;
            }
            message = queue.recv() => match message {
                Some(message) => {
                    let sent = tokio::select! {
                        sent = sender.send(to_wire(message)) => sent.is_ok(),
                        _ = &mut call => false,
                    };
                    if !sent {
                        return true;
                    }
                }
                None => return false,
            },
        }
    }
}

fn is_refused(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut source = Some(error);
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<io::Error>()
            && io.kind() == io::ErrorKind::ConnectionRefused
        {
            return true;
        }
        source = cause.source();
    }
    false
}

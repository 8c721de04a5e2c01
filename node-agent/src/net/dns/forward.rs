//! Names outside the cluster: asks the host's own resolvers, with a small cache.
//!
//! Requests are passed on as they came, with an id of our own; answers likewise. Bounded: so many
//! questions at a time, so long per server, so many answers kept for so short a time that their
//! TTL need not be counted down.
//!
//! Does not: recurse, validate, or search: the pod's own resolver configuration does the latter.

use hickory_proto::op::{Message, ResponseCode};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

const QUESTIONS_MAX: usize = 512;
const SERVERS_MAX: usize = 3;
const PER_SERVER: Duration = Duration::from_secs(2);
const CACHE_ANSWERS_MAX: usize = 1024;
const CACHE_BYTES_MAX: usize = 1232;
const CACHE_SECONDS_MAX: u32 = 20;
const CACHE_SECONDS_NEGATIVE: u32 = 5;

/// Passes questions on.
pub struct Forwarder {
    resolv_conf: PathBuf,
    own: [Ipv4Addr; 2],
    servers: Mutex<(Option<SystemTime>, Vec<SocketAddr>)>,
    cache: Mutex<BTreeMap<Vec<u8>, Kept>>,
    free: Semaphore,
}

struct Kept {
    answer: Vec<u8>,
    until: Instant,
}

impl Forwarder {
    /// Uses the name servers of a `resolv.conf`, except our `own` addresses.
    pub fn new(resolv_conf: PathBuf, own: [Ipv4Addr; 2]) -> Forwarder {
        Forwarder {
            resolv_conf,
            own,
            servers: Mutex::default(),
            cache: Mutex::default(),
            free: Semaphore::new(QUESTIONS_MAX),
        }
    }

    /// The answer to a request, with the request's id; `None` when nobody answered in time.
    pub async fn ask(&self, request: &[u8], by_tcp: bool) -> Option<Vec<u8>> {
        let key = [&[u8::from(by_tcp)], request.get(2..)?].concat();
        if let Some(answer) = self.kept(&key, Instant::now()) {
            return Some(with_id(answer, request));
        }
        let Ok(_permit) = self.free.try_acquire() else {
            tracing::warn!(
                limit = QUESTIONS_MAX,
                "too many DNS questions wait for the host's resolvers"
            );
            return None;
        };
        for server in self.servers() {
            let mut question = request.to_vec();
            let id: [u8; 2] = rand::random();
            question.splice(0..2, id);
            let answer = match by_tcp {
                true => timeout(PER_SERVER, by_stream(server, &question)).await,
                false => timeout(PER_SERVER, by_datagram(server, &question)).await,
            };
            if let Ok(Ok(answer)) = answer
                && answer.get(0..2) == Some(&id)
                && !server_failed(&answer)
            {
                self.keep(key, &answer, Instant::now());
                return Some(with_id(answer, request));
            }
        }
        None
    }

    fn kept(&self, key: &[u8], now: Instant) -> Option<Vec<u8>> {
        let cache = self.cache.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        cache
            .get(key)
            .filter(|kept| kept.until > now)
            .map(|kept| kept.answer.clone())
    }

    fn keep(&self, key: Vec<u8>, answer: &[u8], now: Instant) {
        let Some(seconds) = seconds_to_keep(answer) else { return };
        let mut cache = self.cache.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if cache.len() >= CACHE_ANSWERS_MAX {
            cache.retain(|_, kept| kept.until > now);
        }
        if cache.len() < CACHE_ANSWERS_MAX {
            let until = now.checked_add(Duration::from_secs(u64::from(seconds))).unwrap_or(now);
            cache.insert(
                key,
                Kept {
                    answer: answer.to_vec(),
                    until,
                },
            );
        }
    }

    /// The host's name servers; the file is read again when it changed.
    fn servers(&self) -> Vec<SocketAddr> {
        let changed = std::fs::metadata(&self.resolv_conf)
            .and_then(|meta| meta.modified())
            .ok();
        let mut known = self.servers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if known.0 != changed || known.1.is_empty() {
            let text = std::fs::read_to_string(&self.resolv_conf).unwrap_or_default();
            *known = (changed, name_servers(&text, &self.own));
        }
        known.1.clone()
    }
}

/// The addresses of the `nameserver` lines.
pub fn name_servers(text: &str, own: &[Ipv4Addr]) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver")?.split_whitespace().next())
        .filter_map(|address| address.parse::<IpAddr>().ok())
        .filter(|address| !own.iter().any(|own| IpAddr::V4(*own) == *address))
        .take(SERVERS_MAX)
        .map(|address| SocketAddr::new(address, 53))
        .collect()
}

async fn by_datagram(server: SocketAddr, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut buffer = vec![0u8; 4096];
    let length = socket.recv(&mut buffer).await?;
    buffer.truncate(length);
    Ok(buffer)
}

async fn by_stream(server: SocketAddr, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(question.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), question].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0u8; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

fn server_failed(answer: &[u8]) -> bool {
    // SERVFAIL and REFUSED: the next server may know better.
    answer.get(3).is_none_or(|flags| matches!(flags & 0x0f, 2 | 5))
}

fn with_id(mut answer: Vec<u8>, request: &[u8]) -> Vec<u8> {
    for (to, from) in answer.iter_mut().zip(request).take(2) {
        *to = *from;
    }
    answer
}

fn seconds_to_keep(answer: &[u8]) -> Option<u32> {
    if answer.len() > CACHE_BYTES_MAX {
        return None;
    }
    let message = Message::from_vec(answer).ok()?;
    if message.metadata.truncation {
        return None;
    }
    let seconds = match message.metadata.response_code {
        ResponseCode::NoError if !message.answers.is_empty() => message
            .answers
            .iter()
            .map(|record| record.ttl)
            .min()?
            .min(CACHE_SECONDS_MAX),
        ResponseCode::NoError | ResponseCode::NXDomain => CACHE_SECONDS_NEGATIVE,
        _ => 0,
    };
    (seconds > 0).then_some(seconds)
}

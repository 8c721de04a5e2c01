//! From a question to the answer on the wire, for the names that are the cluster's own: pure.
//!
//! Everything under the cluster domain and every reverse name in the cluster's ranges is answered
//! here, with an SOA beside every negative answer. Other names are somebody else's: the caller
//! forwards them.

use super::super::addresses::Addresses;
use super::index::{Index, Meaning};
use hickory_proto::op::{Edns, Message, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use std::net::{IpAddr, Ipv4Addr};

/// Seconds for what only changes with the Service.
const TTL_SECONDS: u32 = 30;
/// Seconds for endpoints and for negative answers.
const TTL_SHORT_SECONDS: u32 = 5;
/// What we accept in a datagram, and offer.
const PAYLOAD_BYTES_MAX: u16 = 4096;
/// What a client without EDNS accepts.
const PAYLOAD_BYTES_PLAIN: u16 = 512;
/// The DNS specification of Kubernetes that is followed.
const SPECIFICATION: &str = "1.1.0";

/// The cluster's own zone.
#[derive(Debug, Clone)]
pub struct Zone {
    name: Name,
    /// With a leading dot, lower case, no trailing dot.
    suffix: String,
    addresses: Addresses,
}

/// What to do with a question.
#[derive(Debug)]
pub enum Reply {
    /// Send this.
    Answer(Box<Message>),
    /// It is an alias: send this together with what the other name has. Stub resolvers expect both.
    Follow(Box<Message>, Query),
    /// It is not about the cluster: ask the host's resolvers.
    Forward,
}

impl Zone {
    /// The zone of a domain such as `cluster.local`; `None` when that is no domain name.
    pub fn new(domain: &str, addresses: &Addresses) -> Option<Zone> {
        let domain = domain.trim_matches('.').to_ascii_lowercase();
        let name = Name::from_ascii(format!("{domain}.")).ok()?;
        Some(Zone {
            name,
            suffix: format!(".{domain}"),
            addresses: addresses.clone(),
        })
    }

    /// Answers one request. `turn` rotates the order of several addresses.
    pub fn reply(&self, index: &Index, request: &Message, turn: usize) -> Reply {
        let code = match (request.metadata.op_code, request.queries.as_slice()) {
            (OpCode::Query, [query]) => {
                let old = request.edns.as_ref().is_some_and(|edns| edns.version() > 0);
                match (old, query.query_class) {
                    (true, _) => ResponseCode::BADVERS,
                    (false, DNSClass::IN | DNSClass::ANY) => return self.question(index, request, query, turn),
                    (false, _) => ResponseCode::Refused,
                }
            }
            (OpCode::Query, _) => ResponseCode::FormErr,
            _ => ResponseCode::NotImp,
        };
        Reply::Answer(Box::new(refusal(request, code)))
    }

    fn question(&self, index: &Index, request: &Message, query: &Query, turn: usize) -> Reply {
        let text = query.name.to_ascii().to_ascii_lowercase();
        let text = text.strip_suffix('.').unwrap_or(&text);
        let mut out = Out {
            zone: self,
            message: blank(request),
            query,
            turn,
        };
        if let Some(relative) = text.strip_suffix(&self.suffix) {
            let labels: Vec<&str> = relative.split('.').collect();
            out.own(index, &labels);
        } else if *text == self.suffix[1..] {
            out.apex();
        } else if let Some(address) = reverse_address(text) {
            let names = index.names_of(IpAddr::V4(address));
            let ours = self.addresses.services.contains(address) || self.addresses.cluster.contains(address);
            if names.is_empty() && !ours {
                return Reply::Forward;
            }
            out.reverse(&names);
        } else {
            return Reply::Forward;
        }
        let alias = match out.message.answers.as_slice() {
            [record] if matches!(query.query_type, RecordType::A | RecordType::AAAA) => match &record.data {
                RData::CNAME(CNAME(target)) => Some(target.clone()),
                _ => None,
            },
            _ => None,
        };
        let message = Box::new(out.message);
        match alias {
            Some(target) => Reply::Follow(message, Query::query(target, query.query_type)),
            None => Reply::Answer(message),
        }
    }

    fn soa(&self) -> Record {
        let under = |label: &str| {
            Name::from_ascii(label)
                .and_then(|name| name.append_domain(&self.name))
                .unwrap_or_else(|_| self.name.clone())
        };
        let soa = SOA::new(
            under("ns.dns"),
            under("hostmaster"),
            1,
            7200,
            1800,
            86_400,
            TTL_SHORT_SECONDS,
        );
        Record::from_rdata(self.name.clone(), TTL_SHORT_SECONDS, RData::SOA(soa))
    }

    fn absolute(&self, relative: &str) -> Option<Name> {
        Name::from_ascii(format!("{relative}{}.", self.suffix)).ok()
    }
}

struct Out<'a> {
    zone: &'a Zone,
    message: Message,
    query: &'a Query,
    turn: usize,
}

impl Out<'_> {
    fn own(&mut self, index: &Index, labels: &[&str]) {
        match labels {
            ["ns", "dns"] => {
                let dns = IpAddr::V4(self.zone.addresses.dns);
                return self.addresses(&[dns], TTL_SECONDS);
            }
            ["dns"] => return self.nothing(ResponseCode::NoError),
            ["dns-version"] => {
                if self.wants(RecordType::TXT) {
                    let text = TXT::new(vec![SPECIFICATION.to_owned()]);
                    self.add(self.query.name.clone(), TTL_SECONDS, RData::TXT(text));
                    return;
                }
                return self.nothing(ResponseCode::NoError);
            }
            _ => {}
        }
        let ports = self.query.query_type == RecordType::SRV;
        match index.look_up(labels, ports) {
            Meaning::Nothing => self.nothing(ResponseCode::NXDomain),
            Meaning::Empty => self.nothing(ResponseCode::NoError),
            Meaning::Addresses { addresses, short } => self.addresses(&addresses, ttl(short)),
            Meaning::Alias(name) => match Name::from_ascii(format!("{}.", name.trim_end_matches('.'))) {
                Ok(name) => self.add(self.query.name.clone(), TTL_SECONDS, RData::CNAME(CNAME(name))),
                Err(_) => self.nothing(ResponseCode::NoError),
            },
            Meaning::Ports { targets, short } => {
                let weight = u16::try_from(100 / targets.len().max(1)).unwrap_or(1).max(1);
                for target in targets {
                    let Some(name) = self.zone.absolute(&target.name) else {
                        continue;
                    };
                    let srv = SRV::new(0, weight, target.port, name.clone());
                    self.add(self.query.name.clone(), ttl(short), RData::SRV(srv));
                    for address in target.addresses {
                        let record = Record::from_rdata(name.clone(), ttl(short), address_data(address));
                        self.message.add_additional(record);
                    }
                }
                if self.message.answers.is_empty() {
                    self.nothing(ResponseCode::NoError);
                }
            }
        }
    }

    fn apex(&mut self) {
        match self.query.query_type {
            RecordType::SOA => {
                let soa = self.zone.soa();
                self.message.add_answer(soa);
            }
            RecordType::NS => match self.zone.absolute("ns.dns") {
                Some(name) => self.add(self.query.name.clone(), TTL_SECONDS, RData::NS(NS(name))),
                None => self.nothing(ResponseCode::NoError),
            },
            _ => self.nothing(ResponseCode::NoError),
        }
    }

    fn reverse(&mut self, names: &[String]) {
        if names.is_empty() {
            return self.nothing(ResponseCode::NXDomain);
        }
        if !self.wants(RecordType::PTR) {
            return self.nothing(ResponseCode::NoError);
        }
        for name in names.iter().filter_map(|name| self.zone.absolute(name)) {
            self.add(self.query.name.clone(), TTL_SECONDS, RData::PTR(PTR(name)));
        }
    }

    fn addresses(&mut self, addresses: &[IpAddr], ttl: u32) {
        let shift = self.turn.checked_rem(addresses.len()).unwrap_or(0);
        for address in addresses.iter().cycle().skip(shift).take(addresses.len()) {
            let data = address_data(*address);
            if self.wants(data.record_type()) {
                self.add(self.query.name.clone(), ttl, data);
            }
        }
        if self.message.answers.is_empty() {
            self.nothing(ResponseCode::NoError);
        }
    }

    fn wants(&self, kind: RecordType) -> bool {
        self.query.query_type == kind || self.query.query_type == RecordType::ANY
    }

    fn add(&mut self, name: Name, ttl: u32, data: RData) {
        self.message.add_answer(Record::from_rdata(name, ttl, data));
    }

    fn nothing(&mut self, code: ResponseCode) {
        self.message.metadata.response_code = code;
        let soa = self.zone.soa();
        self.message.add_authority(soa);
    }
}

/// An answer without content, e.g. that the server failed.
pub fn refusal(request: &Message, code: ResponseCode) -> Message {
    let mut message = blank(request);
    message.metadata.authoritative = false;
    message.metadata.response_code = code;
    message
}

/// The bytes to send; what does not fit into `bytes_max` is left out and the answer says so.
pub fn encode(mut message: Message, bytes_max: usize) -> Option<Vec<u8>> {
    let whole = message.to_vec().ok()?;
    if whole.len() <= bytes_max {
        return Some(whole);
    }
    message.additionals.clear();
    loop {
        let bytes = message.to_vec().ok()?;
        if bytes.len() <= bytes_max {
            return Some(bytes);
        }
        message.metadata.truncation = true;
        if message.answers.is_empty() {
            message.authorities.clear();
            return message.to_vec().ok();
        }
        // At least a tenth goes each time, so that this ends soon.
        let keep = message.answers.len() * 9 / 10;
        message.answers.truncate(keep);
    }
}

/// What the client of a datagram accepts, in bytes.
pub fn datagram_bytes_max(request: &Message) -> usize {
    let offered = request.edns.as_ref().map_or(PAYLOAD_BYTES_PLAIN, Edns::max_payload);
    usize::from(offered.clamp(PAYLOAD_BYTES_PLAIN, PAYLOAD_BYTES_MAX))
}

fn blank(request: &Message) -> Message {
    let mut message = Message::response(request.metadata.id, request.metadata.op_code);
    message.metadata = Metadata::response_from_request(&request.metadata);
    message.metadata.authoritative = true;
    message.metadata.recursion_available = true;
    message.queries.clone_from(&request.queries);
    if request.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD_BYTES_MAX).set_version(0);
        message.set_edns(edns);
    }
    message
}

fn ttl(short: bool) -> u32 {
    if short { TTL_SHORT_SECONDS } else { TTL_SECONDS }
}

fn address_data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

/// The address of `4.3.2.1.in-addr.arpa`.
fn reverse_address(name: &str) -> Option<Ipv4Addr> {
    let labels: Vec<u8> = name
        .strip_suffix(".in-addr.arpa")?
        .split('.')
        .map(|label| label.parse().ok())
        .collect::<Option<_>>()?;
    let [d, c, b, a] = <[u8; 4]>::try_from(labels).ok()?;
    Some(Ipv4Addr::new(a, b, c, d))
}

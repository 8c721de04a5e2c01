//! The one place from which this server connects to what objects name: node agents, pods, the endpoints of Services.
//!
//! Addresses in objects are the word of whoever wrote them: a node reports its own, a user writes endpoints. None may lead
//! to where only this machine can go. [`Dialer::dial`] takes a socket address, never a name: a caller that has a name
//! resolves it once, and what was checked is what is dialled. The issuers of OIDC tokens are not dialled from here, since
//! the administrator names them on this machine.
//!
//! On one machine the node's address is the server's address, so "own address" alone is no reason to refuse: the ports on
//! which this process listens are, on whichever own address they are tried.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use coxswain_api::ApiError;
use tokio::net::TcpStream;

use crate::Config;

/// Time to reach a node or pod.
pub(crate) const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Where clouds answer whoever asks with the credentials of the machine, outside of the link-local range.
const METADATA: [IpAddr; 5] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// What this process listens on, and what it may reach beyond the rule.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// Ports on which this process listens, beside that of [`Config::advertise`] and that of `own_agent`.
    pub own_ports: Vec<u16>,
    /// The node agent in this process. It is reached there even when the administrator gave the node a loopback address.
    pub own_agent: Option<SocketAddr>,
    /// Loopback addresses may be reached: for tests whose nodes and pods are on loopback. Never in a cluster.
    pub loopback: bool,
}

/// Why an address is not dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forbidden {
    Unspecified,
    Loopback,
    LinkLocal,
    Multicast,
    Broadcast,
    Metadata,
    Service,
    OwnPort,
    NoPort,
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "it is an unspecified address",
            Self::Loopback => "it is a loopback address",
            Self::LinkLocal => "it is a link-local address",
            Self::Multicast => "it is a multicast address",
            Self::Broadcast => "it is a broadcast address",
            Self::Metadata => "it is the address of a cloud's metadata service",
            Self::Service => "it is an address for Services, which no node or pod has",
            Self::OwnPort => "it is this API server",
            Self::NoPort => "it has no port",
        })
    }
}

/// Connects to what may be reached.
pub(crate) struct Dialer {
    services: (Ipv4Addr, u8),
    own_ports: Vec<u16>,
    own_agent: Option<SocketAddr>,
    loopback: bool,
}

impl Dialer {
    /// The rules for one server.
    pub fn new(config: &Config) -> Self {
        let reach = &config.reach;
        let mut own_ports = reach.own_ports.clone();
        own_ports.push(config.advertise.1);
        Self {
            services: config.service_cidr,
            own_ports,
            own_agent: reach.own_agent,
            loopback: reach.loopback,
        }
    }

    /// Connects to a pod, an endpoint, or a port of a node.
    ///
    /// # Errors
    /// 400 for an address that is never dialled, 503 when nothing answers there within [`CONNECT_MAX`].
    pub async fn dial(&self, to: SocketAddr) -> Result<TcpStream, ApiError> {
        if let Some(why) = self.forbids(to) {
            return Err(refused(to, why));
        }
        connect(to).await
    }

    /// Connects to the agent of a node.
    ///
    /// # Errors
    /// As [`Dialer::dial`].
    pub async fn dial_agent(&self, to: SocketAddr) -> Result<TcpStream, ApiError> {
        match self.own_agent == Some(to) {
            true => connect(to).await,
            false => self.dial(to).await,
        }
    }

    /// Why an address is not dialled, if it is not.
    pub fn forbids(&self, to: SocketAddr) -> Option<Forbidden> {
        self.forbids_where(to, is_own)
    }

    fn forbids_where(&self, to: SocketAddr, is_own: impl Fn(IpAddr) -> bool) -> Option<Forbidden> {
        if to.port() == 0 {
            return Some(Forbidden::NoPort);
        }
        for ip in forms(to.ip()).into_iter().flatten() {
            let special = special(ip).filter(|why| !(self.loopback && *why == Forbidden::Loopback));
            if special.is_some() {
                return special;
            }
            if is_within(ip, self.services) {
                return Some(Forbidden::Service);
            }
            if self.own_ports.contains(&to.port()) && (ip.is_loopback() || is_own(ip)) {
                return Some(Forbidden::OwnPort);
            }
        }
        None
    }
}

/// An address, and the IPv4 address inside of it if it is the IPv6 form of one: mapped, compatible, NAT64, 6to4.
fn forms(ip: IpAddr) -> [Option<IpAddr>; 2] {
    let IpAddr::V6(v6) = ip else {
        return [Some(ip), None];
    };
    let part = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Some(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
    };
    let inner = match v6.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => part(high, low),
        _ => None,
    };
    [Some(ip), inner]
}

fn special(ip: IpAddr) -> Option<Forbidden> {
    let (unspecified, link_local, broadcast) = match ip {
        IpAddr::V4(v4) => (v4.octets()[0] == 0, v4.is_link_local(), v4.is_broadcast()),
        IpAddr::V6(v6) => (v6.is_unspecified(), v6.is_unicast_link_local(), false),
    };
    [
        (unspecified, Forbidden::Unspecified),
        (ip.is_loopback(), Forbidden::Loopback),
        (link_local, Forbidden::LinkLocal),
        (ip.is_multicast(), Forbidden::Multicast),
        (broadcast, Forbidden::Broadcast),
        (METADATA.contains(&ip), Forbidden::Metadata),
    ]
    .into_iter()
    .find_map(|(applies, why)| applies.then_some(why))
}

fn is_within(ip: IpAddr, (network, bits): (Ipv4Addr, u8)) -> bool {
    let IpAddr::V4(ip) = ip else { return false };
    let mask = u32::MAX.checked_shl(32_u32.saturating_sub(bits.into())).unwrap_or(0);
    u32::from(ip) & mask == u32::from(network) & mask
}

/// Whether a connection to the address would end on this machine. The routing table decides that, so it is asked: a
/// datagram socket that is connected sends nothing, and to an own address it goes from that very address.
fn is_own(ip: IpAddr) -> bool {
    let any: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let asked = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((ip, 9))?;
        socket.local_addr()
    });
    asked.is_ok_and(|from| from.ip() == ip)
}

fn refused(to: SocketAddr, why: Forbidden) -> ApiError {
    tracing::warn!(%to, %why, "not dialled");
    ApiError::bad_request(format!("address not allowed: {to} is never dialled, since {why}"))
}

async fn connect(to: SocketAddr) -> Result<TcpStream, ApiError> {
    match tokio::time::timeout(CONNECT_MAX, TcpStream::connect(to)).await {
        Ok(Ok(stream)) => {
            let _ = stream.set_nodelay(true);
            Ok(stream)
        }
        Ok(Err(error)) => {
            // The system's text, as every Kubernetes component writes it.
            let text = error.to_string().to_lowercase();
            let text = text.split(" (os error").next().unwrap_or_default();
            Err(unreachable(&format_args!("dial tcp {to}: connect: {text}")))
        }
        Err(_) => Err(unreachable(&format_args!("dial tcp {to}: i/o timeout"))),
    }
}

/// 503: a backend cannot be reached.
pub(crate) fn unreachable(why: &dyn fmt::Display) -> ApiError {
    ApiError::service_unavailable(format!("error trying to reach service: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const API: u16 = 6443;
    const PEERS: u16 = 6444;
    const AGENT: u16 = 10250;

    fn dialer(loopback: bool) -> Dialer {
        Dialer {
            services: (Ipv4Addr::new(10, 96, 0, 0), 16),
            own_ports: vec![PEERS, API],
            own_agent: None,
            loopback,
        }
    }

    fn forbidden(dialer: &Dialer, ip: &str, port: u16) -> Option<Forbidden> {
        let own: IpAddr = "192.0.2.1".parse().expect("an address");
        let own6: IpAddr = "2001:db8::1".parse().expect("an address");
        let to = SocketAddr::new(ip.parse().expect("an address"), port);
        dialer.forbids_where(to, |ip| ip == own || ip == own6)
    }

    #[test]
    fn special_addresses_are_never_dialled_in_any_form() {
        use Forbidden::{Broadcast, LinkLocal, Loopback, Metadata, Multicast, Service, Unspecified};
        for (ip, why) in [
            ("0.0.0.0", Unspecified),
            ("0.1.2.3", Unspecified),
            ("::", Unspecified),
            ("::ffff:0.0.0.0", Unspecified),
            ("127.0.0.1", Loopback),
            ("127.255.255.254", Loopback),
            ("::1", Loopback),
            ("::ffff:127.0.0.1", Loopback),
            ("::ffff:7f00:1", Loopback),
            ("::127.0.0.1", Loopback),
            ("::ffff:0:127.0.0.1", Loopback),
            ("64:ff9b::127.0.0.1", Loopback),
            ("2002:7f00:1::", Loopback),
            ("169.254.0.1", LinkLocal),
            ("169.254.169.254", LinkLocal),
            ("::ffff:169.254.169.254", LinkLocal),
            ("64:ff9b::a9fe:a9fe", LinkLocal),
            ("fe80::1", LinkLocal),
            ("febf::1", LinkLocal),
            ("224.0.0.1", Multicast),
            ("239.255.255.255", Multicast),
            ("ff02::1", Multicast),
            ("ff0e::1", Multicast),
            ("255.255.255.255", Broadcast),
            ("fd00:ec2::254", Metadata),
            ("fd20:ce::254", Metadata),
            ("100.100.100.200", Metadata),
            ("168.63.129.16", Metadata),
            ("::ffff:192.0.0.192", Metadata),
            ("10.96.0.1", Service),
            ("10.96.255.255", Service),
            ("::ffff:10.96.0.1", Service),
        ] {
            for port in [80, API, AGENT] {
                assert_eq!(forbidden(&dialer(false), ip, port), Some(why), "{ip}");
            }
        }
        for ip in [
            "192.0.2.1",
            "10.97.0.1",
            "10.244.0.7",
            "2001:db8::1",
            "fd00::1",
            "1.1.1.1",
        ] {
            assert_eq!(forbidden(&dialer(false), ip, AGENT), None, "{ip}");
        }
        assert_eq!(forbidden(&dialer(false), "192.0.2.2", 0), Some(Forbidden::NoPort));
    }

    #[test]
    fn own_ports_are_never_dialled_on_own_addresses() {
        let own = Some(Forbidden::OwnPort);
        for (ip, port, why) in [
            ("192.0.2.1", API, own),
            ("192.0.2.1", PEERS, own),
            ("192.0.2.1", AGENT, None),
            ("::ffff:192.0.2.1", API, own),
            ("2001:db8::1", API, own),
            ("192.0.2.2", API, None),
            ("127.0.0.1", API, own),
            ("127.9.9.9", API, own),
            ("::1", API, own),
            ("127.0.0.1", AGENT, None),
        ] {
            assert_eq!(forbidden(&dialer(true), ip, port), why, "{ip} {port}");
        }
    }

    #[test]
    fn the_routing_table_knows_what_is_own() {
        assert!(is_own(Ipv4Addr::LOCALHOST.into()));
        assert!(!is_own(Ipv4Addr::new(192, 0, 2, 77).into()));
    }

    /// Whoever proxies dials through this module: nothing else in this crate connects.
    #[test]
    fn nothing_else_connects() {
        let allowed = ["dial.rs", "keys.rs"];
        let mut directories = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
        let mut seen = 0;
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).expect("a directory").flatten() {
                let path = entry.path();
                if path.is_dir() {
                    directories.push(path);
                    continue;
                }
                seen += 1;
                let text = std::fs::read_to_string(&path).expect("text");
                let connects = ["TcpStream::connect", "TcpSocket::", "HttpConnector"];
                let name = entry.file_name();
                let may = allowed.iter().any(|allowed| name == *allowed);
                let found = connects.iter().find(|call| text.contains(**call));
                assert!(may || found.is_none(), "{} connects by {found:?}", path.display());
            }
        }
        assert!(seen > 50);
    }
}

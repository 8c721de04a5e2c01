//! Ends UDP flows whose endpoint is gone: connection tracking would keep sending them there for as
//! long as the client keeps talking.
//!
//! Speaks just enough ctnetlink for it: dump the IPv4 entries, delete those that match. Failing is
//! no error of the proxy (the flows run into their timeout); it is logged.
//!
//! Does not: touch TCP, whose connections notice by themselves.

use super::plan::UdpPath;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd as _, OwnedFd};

const MESSAGE_GET: u16 = 0x0101;
const MESSAGE_DELETE: u16 = 0x0102;
const MESSAGE_ERROR: u16 = 2;
const MESSAGE_DONE: u16 = 3;
const FLAG_REQUEST: u16 = 0x01;
const FLAG_ACK: u16 = 0x04;
const FLAG_DUMP: u16 = 0x300;
const FAMILY_IPV4: u8 = 2;
const ATTRIBUTE_ORIGINAL: u16 = 1;
const ATTRIBUTE_REPLY: u16 = 2;
const PROTOCOL_UDP: u8 = 17;
/// Flows deleted in one go; more run into their timeout.
const DELETIONS_MAX: usize = 10_000;

/// Deletes the entries of these paths.
pub async fn forget(paths: Vec<UdpPath>) {
    let done = tokio::task::spawn_blocking(move || forget_now(&paths.into_iter().collect())).await;
    match done {
        Ok(Ok(0)) | Err(_) => {}
        Ok(Ok(flows)) => tracing::debug!(flows, "UDP flows to endpoints that are gone were ended"),
        Ok(Err(error)) => tracing::debug!(%error, "UDP flows could not be ended"),
    }
}

fn forget_now(paths: &BTreeSet<UdpPath>) -> Result<usize, nix::Error> {
    let fd = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::new(2, 0))?;
    let originals = dump(&fd, paths)?;
    for original in &originals {
        send(
            fd.as_raw_fd(),
            &message(MESSAGE_DELETE, FLAG_ACK, original),
            MsgFlags::empty(),
        )?;
        let mut answer = [0u8; 4096];
        recv(fd.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    }
    Ok(originals.len())
}

/// The original-direction attributes of the entries that match.
fn dump(fd: &OwnedFd, paths: &BTreeSet<UdpPath>) -> Result<Vec<Vec<u8>>, nix::Error> {
    send(fd.as_raw_fd(), &message(MESSAGE_GET, FLAG_DUMP, &[]), MsgFlags::empty())?;
    let mut found = Vec::new();
    let mut buffer = vec![0u8; 1 << 16];
    loop {
        let length = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        while let Some((kind, body, next)) = split_message(rest) {
            match kind {
                MESSAGE_DONE | MESSAGE_ERROR => return Ok(found),
                _ => {
                    let original = matching(body, paths);
                    found.extend(original.filter(|_| found.len() < DELETIONS_MAX));
                }
            }
            rest = next;
        }
        if length == 0 {
            return Ok(found);
        }
    }
}

/// The entry's original tuple as an attribute, when the entry belongs to one of the paths.
fn matching(body: &[u8], paths: &BTreeSet<UdpPath>) -> Option<Vec<u8>> {
    // After the four bytes that say family, version and resource.
    let attributes = body.get(4..)?;
    let original = attribute(attributes, ATTRIBUTE_ORIGINAL)?;
    let (protocol, _, to) = tuple(original)?;
    let (_, from, _) = tuple(attribute(attributes, ATTRIBUTE_REPLY)?)?;
    if protocol != PROTOCOL_UDP {
        return None;
    }
    // Whoever answers under the very address that was asked was not translated.
    let endpoint = Some(from).filter(|from| *from != to);
    let candidates = [Some(*to.ip()), None].map(|address| UdpPath {
        address,
        port: to.port(),
        endpoint,
    });
    if !candidates.iter().any(|path| paths.contains(path)) {
        return None;
    }
    let length = u16::try_from(original.len() + 4).ok()?;
    let mut out = Vec::with_capacity(original.len() + 4);
    out.extend(length.to_ne_bytes());
    out.extend((ATTRIBUTE_ORIGINAL | 0x8000).to_ne_bytes());
    out.extend(original);
    out.resize(out.len().next_multiple_of(4), 0);
    Some(out)
}

/// Protocol, source and destination of a tuple.
fn tuple(bytes: &[u8]) -> Option<(u8, SocketAddrV4, SocketAddrV4)> {
    let (ip, proto) = (attribute(bytes, 1)?, attribute(bytes, 2)?);
    let address = |kind| Some(Ipv4Addr::from(<[u8; 4]>::try_from(attribute(ip, kind)?).ok()?));
    let port = |kind| Some(u16::from_be_bytes(attribute(proto, kind)?.try_into().ok()?));
    let protocol = *attribute(proto, 1)?.first()?;
    let from = SocketAddrV4::new(address(1)?, port(2)?);
    Some((protocol, from, SocketAddrV4::new(address(2)?, port(3)?)))
}

/// The content of the first attribute of a kind.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(bytes.get(0..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & 0x3fff;
        let content = bytes.get(4..length)?;
        if kind == wanted {
            return Some(content);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

fn split_message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(bytes.get(0..4)?.try_into().ok()?)).ok()?;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let body = bytes.get(16..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn message(kind: u16, flags: u16, attributes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(20 + attributes.len()).unwrap_or(20);
    let mut out = Vec::with_capacity(20 + attributes.len());
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend((FLAG_REQUEST | flags).to_ne_bytes());
    out.extend([0; 8]);
    out.extend([FAMILY_IPV4, 0, 0, 0]);
    out.extend(attributes);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(kind: u16, content: &[u8]) -> Vec<u8> {
        let mut out = u16::try_from(content.len() + 4).expect("short").to_ne_bytes().to_vec();
        out.extend(kind.to_ne_bytes());
        out.extend(content);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    fn one_way(kind: u16, protocol: u8, from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
        let ip = [nested(1, &from.ip().octets()), nested(2, &to.ip().octets())].concat();
        let ports = [
            nested(1, &[protocol]),
            nested(2, &from.port().to_be_bytes()),
            nested(3, &to.port().to_be_bytes()),
        ];
        nested(
            kind | 0x8000,
            &[nested(0x8001, &ip), nested(0x8002, &ports.concat())].concat(),
        )
    }

    fn entry(protocol: u8, client: &str, asked: &str, answers: &str) -> Vec<u8> {
        let [client, asked, answers] = [client, asked, answers].map(|text| text.parse().expect("an address"));
        let ways = [
            one_way(1, protocol, client, asked),
            one_way(2, protocol, answers, client),
        ];
        [vec![2, 0, 0, 0], ways.concat()].concat()
    }

    #[test]
    fn only_flows_of_the_given_paths_match() {
        let path = |address: Option<&str>, port, endpoint: Option<&str>| UdpPath {
            address: address.map(|ip| ip.parse().expect("an address")),
            port,
            endpoint: endpoint.map(|to| to.parse().expect("an address")),
        };
        let paths = BTreeSet::from([
            path(Some("10.96.0.9"), 53, Some("10.244.0.5:5353")),
            path(None, 30053, Some("10.244.0.5:5353")),
            path(Some("10.96.0.8"), 53, None),
        ]);
        let cases = [
            (entry(17, "10.244.0.9:4000", "10.96.0.9:53", "10.244.0.5:5353"), true),
            (entry(17, "10.244.0.9:4000", "10.96.0.9:53", "10.244.0.6:5353"), false),
            (entry(6, "10.244.0.9:4000", "10.96.0.9:53", "10.244.0.5:5353"), false),
            (entry(17, "1.2.3.4:4000", "192.0.2.2:30053", "10.244.0.5:5353"), true),
            (entry(17, "1.2.3.4:4000", "192.0.2.2:30054", "10.244.0.5:5353"), false),
            (entry(17, "10.244.0.9:4000", "10.96.0.8:53", "10.96.0.8:53"), true),
            (vec![2, 0, 0, 0, 255, 255], false),
        ];
        for (bytes, want) in cases {
            assert_eq!(matching(&bytes, &paths).is_some(), want, "{bytes:?}");
        }
    }
}

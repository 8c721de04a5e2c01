//! Which process listens on an address, from the kernel's tables in `/proc`.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A process that listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    pub pid: u32,
    pub name: String,
}

/// Whether two sockets cannot listen on these addresses at once.
#[must_use]
pub fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port() && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

/// The process that keeps others from listening on the address; absent when it cannot be told.
#[must_use]
pub fn find(address: SocketAddr) -> Option<Listener> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|t| fs::read_to_string(t).unwrap_or_default());
    let links: Vec<String> = tables
        .iter()
        .flat_map(|table| table.lines().filter_map(listening))
        .filter(|(at, _)| overlap(*at, address))
        .map(|(_, inode)| format!("socket:[{inode}]"))
        .collect();
    let holds = |pid: &u32| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        descriptors
            .filter_map(|d| fs::read_link(d.path()).ok())
            .any(|target| links.iter().any(|l| target.as_os_str() == l.as_str()))
    };
    let pid = fs::read_dir("/proc")
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .find(holds)?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(Listener {
        pid,
        name: name.trim().to_owned(),
    })
}

/// Address and inode of a row that is a listening socket.
fn listening(row: &str) -> Option<(SocketAddr, u64)> {
    const LISTEN: &str = "0A";
    let columns: Vec<&str> = row.split_whitespace().collect();
    let [_, local, _, state, _, _, _, _, _, inode, ..] = columns.as_slice() else {
        return None;
    };
    if *state != LISTEN {
        return None;
    }
    let (address, port) = local.split_once(':')?;
    // The kernel prints each 32 bits of the address as a number in the machine's own byte order.
    let words: Vec<[u8; 4]> = (0..address.len() / 8)
        .map(|at| u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok())
        .map(|word| word.map(u32::to_ne_bytes))
        .collect::<Option<_>>()?;
    let ip: IpAddr = match words.as_slice() {
        [v4] => Ipv4Addr::from(*v4).into(),
        v6 => Ipv6Addr::from(<[u8; 16]>::try_from(v6.concat()).ok()?).into(),
    };
    Some((
        SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?),
        inode.parse().ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listener_is_found_by_its_address() -> std::io::Result<()> {
        for ip in ["127.0.0.1", "0.0.0.0"] {
            let Ok(ip) = ip.parse::<IpAddr>() else { continue };
            let socket = TcpListener::bind((ip, 0))?;
            let asked = SocketAddr::from(([127, 0, 0, 1], socket.local_addr()?.port()));
            assert_eq!(find(asked).map(|l| l.pid), Some(std::process::id()));
            drop(socket);
            assert_eq!(find(asked), None);
        }
        Ok(())
    }

    #[test]
    fn rows_of_the_kernel() {
        let word = |octets: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(octets));
        let row = |address: &str, state: &str| {
            format!("   1: {address}:0035 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 0 0 4711 1 0")
        };
        let v6 = word([0, 0, 0, 0]).repeat(3) + &word([0, 0, 0, 1]);
        let cases = [
            (row(&word([10, 96, 0, 10]), "0A"), Some("10.96.0.10:53")),
            (row(&v6, "0A"), Some("[::1]:53")),
            (row(&word([10, 96, 0, 10]), "01"), None),
            (row("0A", "0A"), None),
            ("  sl  local_address rem_address   st".to_owned(), None),
        ];
        for (row, want) in cases {
            let want = want.and_then(|text| Some((text.parse().ok()?, 4711)));
            assert_eq!(listening(&row), want, "{row}");
        }
    }
}

//! Who this machine is: its name and the addresses others reach it at.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::{Context, Result, bail};

/// The host name in the form that a Node's name must have.
///
/// # Errors
/// When the system has no usable host name.
pub fn name() -> Result<String> {
    let raw = nix::unistd::gethostname().context("read the host name")?;
    let name: String = raw
        .to_string_lossy()
        .to_ascii_lowercase()
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '-' || c == '.' {
                c
            } else {
                '-'
            }
        })
        .collect();
    let name = name.trim_matches(|c| c == '-' || c == '.').to_owned();
    if name.is_empty() {
        bail!("this machine has no host name: set one, or give --node-name");
    }
    Ok(name)
}

/// Refuses to go on as anybody but root, before anything else fails for that reason.
///
/// # Errors
/// When the effective user is not root.
pub fn need_root() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!(crate::preflight::Finding::NotRoot);
    }
    Ok(())
}

/// The address of the default route's interface; without such a route the first address that is not loopback.
///
/// # Errors
/// When the machine has no address but loopback.
pub fn address() -> Result<IpAddr> {
    let probes: [(&str, &str); 2] = [("0.0.0.0:0", "192.88.99.1:9"), ("[::]:0", "[2001:db8::1]:9")];
    for (local, remote) in probes {
        // Connecting a datagram socket sends nothing: it only asks the routing table.
        let asked = UdpSocket::bind(local).and_then(|s| s.connect(remote).and_then(|()| s.local_addr()));
        if let Ok(address) = asked
            && !address.ip().is_loopback()
            && !address.ip().is_unspecified()
        {
            return Ok(address.ip());
        }
    }
    match addresses().into_iter().find(IpAddr::is_ipv4) {
        Some(ip) => Ok(ip),
        None => bail!("this machine has no network address but loopback: give --node-ip"),
    }
}

/// Every address of this machine that is neither loopback nor link-local.
#[must_use]
pub fn addresses() -> Vec<IpAddr> {
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let ours = interfaces.filter(|i| !i.interface_name.starts_with("cox"));
    let mut all: Vec<IpAddr> = ours
        .filter_map(|i| {
            let address = i.address?;
            let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
        })
        .filter(|ip| match ip {
            IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
            IpAddr::V6(v6) => !v6.is_loopback() && (v6.segments()[0] & 0xffc0) != 0xfe80,
        })
        .collect();
    all.sort();
    all.dedup();
    all
}

/// How a client on this machine, or on another one, writes the API server's address.
#[must_use]
pub fn server_url(listen: SocketAddr, node_ip: IpAddr) -> String {
    let ip = if listen.ip().is_unspecified() {
        node_ip
    } else {
        listen.ip()
    };
    format!("https://{}", SocketAddr::new(ip, listen.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_names_a_real_address() {
        let node = IpAddr::from([192, 0, 2, 7]);
        let cases = [
            ("0.0.0.0:6443", "https://192.0.2.7:6443"),
            ("127.0.0.1:7000", "https://127.0.0.1:7000"),
            ("[::]:6443", "https://192.0.2.7:6443"),
            ("[::1]:6443", "https://[::1]:6443"),
        ];
        for (listen, want) in cases {
            let listen: SocketAddr = listen.parse().expect("an address");
            assert_eq!(server_url(listen, node), want);
        }
    }
}

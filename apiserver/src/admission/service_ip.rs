//! Addresses and node ports of Services.
//!
//! An address is held by an IPAddress object of its name, written in the same transaction as the
//! Service with the condition that it did not exist: two Services can never get one address, and
//! the loser of a race tries another. Node ports are looked up among the Services of the snapshot;
//! the revision condition on the Service and the retry keep one writer honest, and
//! [`PORT_HOLDERS`] names the record that makes two writers collide.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr};

use coxswain_api::field::{FieldError, Path};
use coxswain_api::kinds::access;
use coxswain_api::{ApiError, Registry};
use coxswain_store::{Draft, Head, Key, Op, Precondition};
use rand::Rng;
use serde_json::{Value, json};

use super::{Operation, Write};
use crate::answer::now_text;
use crate::call::draft;

const ADDRESSES: &str = "ipaddresses.networking.k8s.io";
/// Storage name of the records that hold node ports; not an API resource.
const PORT_HOLDERS: &str = "internal.nodeports";
/// Random candidates tried before a scan of the range.
const RANDOM_TRIES: usize = 16;

/// Fills `clusterIP(s)`, `ipFamilies` and node ports of a Service and returns what holds them.
pub(super) fn allocate(write: &Write<'_>, service: &mut Value) -> Result<Vec<Op>, ApiError> {
    if write.operation == Operation::Delete || write.sub.is_some() {
        return Ok(Vec::new());
    }
    let mut ops = addresses(write, service)?;
    ops.extend(ports(write, service)?);
    Ok(ops)
}

/// Frees what a deleted Service held.
pub(super) fn release(write: &Write<'_>, service: &Value) -> Vec<Op> {
    let mut ops: Vec<Op> = cluster_ips(service)
        .iter()
        .filter_map(|ip| drop_address(write, ip))
        .collect();
    ops.extend(
        node_ports(service)
            .into_iter()
            .filter_map(|port| drop_port(write, port)),
    );
    ops
}

fn cluster_ips(service: &Value) -> Vec<String> {
    let spec = access::get(service, "spec");
    let mut ips = access::texts(spec, "clusterIPs");
    let single = access::str_of(spec, "clusterIP");
    if ips.is_empty() && !single.is_empty() {
        ips.push(single.to_owned());
    }
    ips.retain(|ip| ip != "None" && !ip.is_empty());
    ips
}

fn addresses(write: &Write<'_>, service: &mut Value) -> Result<Vec<Op>, ApiError> {
    let before = write.old.map(cluster_ips).unwrap_or_default();
    let kind = access::text(service, "/spec/type").to_owned();
    if kind == "ExternalName" {
        let spec = access::child(service, "spec");
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            access::remove(spec, field);
        }
        return Ok(before.iter().filter_map(|ip| drop_address(write, ip)).collect());
    }
    let name = access::name(service).to_owned();
    let spec = access::child(service, "spec");
    if access::str_of(spec, "clusterIP") == "None" {
        access::set(spec, "clusterIPs", json!(["None"]));
    }
    let errors = families(spec, write.old.map(|old| access::get(old, "spec")));
    if !errors.is_empty() {
        return Err(ApiError::invalid("", "Service", &name, errors));
    }
    if access::str_of(spec, "clusterIP") == "None" {
        return Ok(Vec::new());
    }
    let wanted = cluster_ips(service);
    if !before.is_empty() && wanted == before {
        return Ok(Vec::new());
    }
    let ip = match wanted.first() {
        Some(ip) => asked(write, service, ip)?,
        None => free(write).ok_or_else(|| ApiError::internal("failed to allocate a serviceIP: range is full"))?,
    };
    let spec = access::child(service, "spec");
    access::set(spec, "clusterIP", ip.to_string());
    access::set(spec, "clusterIPs", json!([ip.to_string()]));
    Ok(vec![hold_address(write, service, ip)])
}

/// Settles `ipFamilies` and `ipFamilyPolicy` where one family, IPv4, is served.
fn families(spec: &mut Value, old: Option<&Value>) -> Vec<FieldError> {
    const POLICY: &str = "ipFamilyPolicy";
    let path = Path::new("spec");
    // Any family may be asked for where nothing is served under an address of the cluster.
    let free = access::str_of(spec, "clusterIP") == "None" && access::is_empty(access::get(spec, "selector"));
    let before = old
        .map(|old| access::str_of(old, POLICY))
        .filter(|policy| !policy.is_empty());
    let policy = before.unwrap_or(if free { "RequireDualStack" } else { "SingleStack" });
    access::set_text_default(spec, POLICY, policy);
    let policy = access::str_of(spec, POLICY).to_owned();
    let (ips, mut families) = (access::texts(spec, "clusterIPs"), access::texts(spec, "ipFamilies"));
    if policy == "SingleStack" && old.is_some_and(|old| access::texts(old, "ipFamilies") == families) {
        families.truncate(1);
    }
    let mut errors = Vec::new();
    for (count, what) in [(ips.len(), "cluster IPs"), (families.len(), "IP families")] {
        if policy == "SingleStack" && count == 2 {
            let detail = format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified");
            errors.push(FieldError::invalid(&path.child(POLICY), policy.as_str(), detail));
        }
    }
    for (i, ip) in ips.iter().enumerate().skip(families.len()) {
        match ip.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => families.push("IPv4".to_owned()),
            Ok(IpAddr::V6(_)) => {
                let detail = "IPv6 is not configured on this cluster";
                errors.push(FieldError::invalid(
                    &path.child("clusterIPs").index(i),
                    json!(ips),
                    detail,
                ));
            }
            Err(_) => break,
        }
    }
    if errors.is_empty() && !free {
        if policy == "RequireDualStack" {
            let detail = "this cluster is not configured for dual-stack services";
            errors.push(FieldError::invalid(&path.child(POLICY), policy.as_str(), detail));
        }
        for (i, family) in families.iter().enumerate().filter(|(_, family)| *family != "IPv4") {
            let path = path.child("ipFamilies").index(i);
            errors.push(FieldError::invalid(
                &path,
                family.as_str(),
                "not configured on this cluster",
            ));
        }
    }
    if families.is_empty() {
        families.push("IPv4".to_owned());
    }
    if free && policy != "SingleStack" && families.len() == 1 {
        let other = if families[0] == "IPv4" { "IPv6" } else { "IPv4" };
        families.push(other.to_owned());
    }
    access::set(spec, "ipFamilies", json!(families));
    errors
}

fn network(write: &Write<'_>) -> (u32, u32) {
    let (base, bits) = write.call.server.config.service_cidr;
    let mask = u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0);
    let first = u32::from(base) & mask;
    (first, first | !mask)
}

fn taken(write: &Write<'_>, ip: Ipv4Addr) -> bool {
    write.snapshot.find(ADDRESSES, "", &ip.to_string()).is_some()
}

/// An address the client asked for.
fn asked(write: &Write<'_>, service: &Value, text: &str) -> Result<Ipv4Addr, ApiError> {
    let (first, last) = network(write);
    let refuse = |why: String| {
        let ips = Value::from(vec![text]);
        let path = Path::new("spec").child("clusterIPs");
        let error = FieldError::invalid(&path, ips, format!("failed to allocate IP {text}: {why}"));
        ApiError::invalid("", "Service", access::name(service), vec![error])
    };
    let Ok(ip) = text.parse::<Ipv4Addr>() else {
        return Err(refuse("the provided IP is not valid".to_owned()));
    };
    if u32::from(ip) <= first || u32::from(ip) >= last {
        return Err(refuse(
            "the provided network does not match the current range".to_owned(),
        ));
    }
    if taken(write, ip) {
        return Err(refuse("provided IP is already allocated".to_owned()));
    }
    Ok(ip)
}

/// A free address: random ones of the upper part of the range first, which leaves the lower part
/// to addresses that people choose.
fn free(write: &Write<'_>) -> Option<Ipv4Addr> {
    let (first, last) = network(write);
    let size = last.saturating_sub(first);
    let band = (size / 16).clamp(16.min(size), 256);
    let low = first + 1 + band.min(size.saturating_sub(2));
    let mut random = rand::rng();
    let candidates = (0..RANDOM_TRIES)
        .map(|_| random.random_range(low..last.max(low + 1)))
        .collect::<Vec<u32>>();
    candidates
        .into_iter()
        .chain(low..last)
        .chain(first + 1..low)
        .map(Ipv4Addr::from)
        .find(|ip| u32::from(*ip) < last && !taken(write, *ip))
}

fn hold_address(write: &Write<'_>, service: &Value, ip: Ipv4Addr) -> Op {
    let object = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": {
            "name": ip.to_string(),
            "uid": crate::answer::new_uid(),
            "creationTimestamp": now_text(),
            "labels": {
                "ipaddress.kubernetes.io/ip-family": "IPv4",
                "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
            },
        },
        "spec": {"parentRef": {
            "resource": "services", "namespace": write.call.namespace(), "name": access::name(service),
        }},
    });
    let registry = write.call.registry.clone();
    Op::Put {
        draft: address_draft(&registry, &object),
        when: Precondition::Absent,
    }
}

fn address_draft(registry: &Registry, object: &Value) -> Draft {
    match registry.resource("networking.k8s.io", "v1", "ipaddresses") {
        Some(row) => draft(row, object),
        None => Draft::new(
            Key::new(ADDRESSES, "", access::name(object)),
            object.clone(),
            Head::default(),
        ),
    }
}

fn drop_address(write: &Write<'_>, ip: &str) -> Option<Op> {
    let key = Key::new(ADDRESSES, "", ip);
    write.snapshot.get(&key).map(|stored| Op::Delete {
        key: key.clone(),
        when: Precondition::Revision(stored.revision),
    })
}

fn node_ports(service: &Value) -> Vec<u16> {
    let spec = access::get(service, "spec");
    let ports = access::list(spec, "ports")
        .iter()
        .filter_map(|port| access::int_of(port, "nodePort"));
    let (mut out, mut seen) = (Vec::new(), HashSet::new());
    for port in ports
        .chain(access::int_of(spec, "healthCheckNodePort"))
        .filter_map(|port| u16::try_from(port).ok())
    {
        if port != 0 && seen.insert(port) {
            out.push(port);
        }
    }
    out
}

/// Which node ports one Service may take.
struct Ports<'a> {
    write: &'a Write<'a>,
    /// What the Service held before.
    before: BTreeSet<u16>,
    /// What it has so far.
    chosen: HashSet<u16>,
}

impl Ports<'_> {
    fn held(&self, port: u16) -> bool {
        !self.before.contains(&port) && self.write.snapshot.find(PORT_HOLDERS, "", &port.to_string()).is_some()
    }

    /// Takes a number the client asked for.
    fn ask(&mut self, number: u16) -> Result<(), String> {
        let (low, high) = self.write.call.server.config.node_port_range;
        if !self.before.contains(&number) && (number < low || number > high) {
            return Err(format!(
                "provided port is not in the valid range. The range of valid ports is {low}-{high}"
            ));
        }
        if self.held(number) {
            return Err("provided port is already allocated".to_owned());
        }
        self.chosen.insert(number);
        Ok(())
    }

    /// Takes a free number, beginning at a random place of the range.
    fn take(&mut self) -> Result<u16, ApiError> {
        let (low, high) = self.write.call.server.config.node_port_range;
        let start = rand::rng().random_range(low..=high);
        let port = (start..=high)
            .chain(low..start)
            .find(|port| !self.chosen.contains(port) && !self.before.contains(port) && !self.held(*port))
            .ok_or_else(|| ApiError::internal("failed to allocate a nodePort: range is full"))?;
        self.chosen.insert(port);
        Ok(port)
    }
}

fn ports(write: &Write<'_>, service: &mut Value) -> Result<Vec<Op>, ApiError> {
    let before = write.old.map(node_ports).unwrap_or_default().into_iter().collect();
    let spec = access::get(service, "spec");
    let kind = access::str_of(spec, "type").to_owned();
    let balanced = kind == "LoadBalancer" && spec.get("allocateLoadBalancerNodePorts") != Some(&Value::Bool(false));
    let wants = kind == "NodePort" || balanced;
    let health = kind == "LoadBalancer" && access::str_of(spec, "externalTrafficPolicy") == "Local";
    let name = access::name(service).to_owned();
    let mut ports = Ports {
        write,
        before,
        chosen: HashSet::new(),
    };
    let mut given = SharedNumbers::new();
    for (index, port) in access::list(spec, "ports").iter().enumerate() {
        let Some(number) = port_number(port) else { continue };
        note_number(&mut given, port, number);
        ports.ask(number).map_err(|why| {
            let path = Path::new("spec").child("ports").index(index).child("nodePort");
            ApiError::invalid("", "Service", &name, vec![FieldError::invalid(&path, number, why)])
        })?;
    }
    let spec = access::child(service, "spec");
    for port in access::each_mut(spec, "ports").filter(|port| wants && port_number(port).is_none()) {
        let number = match shared_number(&given, port) {
            Some(number) => number,
            None => ports.take()?,
        };
        note_number(&mut given, port, number);
        access::set(port, "nodePort", number);
    }
    if health && access::int_of(spec, "healthCheckNodePort").unwrap_or(0) == 0 {
        let number = ports.take()?;
        access::set(spec, "healthCheckNodePort", number);
    }
    Ok(hold_ports(write, &ports.before, service))
}

fn port_number(port: &Value) -> Option<u16> {
    access::int_of(port, "nodePort")
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number != 0)
}

/// One number serves several protocols of one port, as for DNS.
fn shared_number(given: &SharedNumbers, own: &Value) -> Option<u16> {
    let numbers = given.get(&access::int_of(own, "port"))?;
    let protocol = access::str_of(own, "protocol");
    let others = numbers.iter().filter(|(of, _)| *of != protocol);
    others.map(|(_, number)| *number).next()
}

/// Node ports by port: with the protocol that each was given to first.
type SharedNumbers = BTreeMap<Option<i64>, BTreeMap<String, u16>>;

fn note_number(given: &mut SharedNumbers, port: &Value, number: u16) {
    let protocol = access::str_of(port, "protocol").to_owned();
    let of_port = given.entry(access::int_of(port, "port")).or_default();
    of_port.entry(protocol).or_insert(number);
}

/// The writes that hold the ports a Service has now and free those it no longer has.
fn hold_ports(write: &Write<'_>, before: &BTreeSet<u16>, service: &Value) -> Vec<Op> {
    let after = node_ports(service);
    let kept: HashSet<&u16> = after.iter().collect();
    let owner = format!("{}/{}", write.call.namespace(), access::name(service));
    let hold = |port: &u16| {
        let holder = json!({"metadata": {"name": port.to_string()}, "service": owner});
        let draft = Draft::new(Key::new(PORT_HOLDERS, "", port.to_string()), holder, Head::default());
        Op::Put {
            draft,
            when: Precondition::Absent,
        }
    };
    let mut ops: Vec<Op> = after.iter().filter(|port| !before.contains(*port)).map(hold).collect();
    ops.extend(
        before
            .iter()
            .filter(|port| !kept.contains(port))
            .filter_map(|port| drop_port(write, *port)),
    );
    ops
}

fn drop_port(write: &Write<'_>, port: u16) -> Option<Op> {
    let key = Key::new(PORT_HOLDERS, "", port.to_string());
    write.snapshot.get(&key).map(|_| Op::Delete {
        key: key.clone(),
        when: Precondition::Exists,
    })
}

#[cfg(test)]
mod tests {
    use super::families;
    use coxswain_api::kinds::access;
    use serde_json::{Value, json};

    #[test]
    fn families_of_one_stack() {
        let dual = "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services";
        let table: [(Value, Value, &[&str]); 7] = [
            (json!({"selector": {"a": "b"}}), json!(["SingleStack", ["IPv4"]]), &[]),
            (
                json!({"clusterIP": "None"}),
                json!(["RequireDualStack", ["IPv4", "IPv6"]]),
                &[],
            ),
            (
                json!({"clusterIP": "None", "ipFamilies": ["IPv6"]}),
                json!(["RequireDualStack", ["IPv6", "IPv4"]]),
                &[],
            ),
            (
                json!({"clusterIP": "None", "selector": {"a": "b"}}),
                json!(["SingleStack", ["IPv4"]]),
                &[],
            ),
            (
                json!({"ipFamilyPolicy": "PreferDualStack"}),
                json!(["PreferDualStack", ["IPv4"]]),
                &[],
            ),
            (
                json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]}),
                json!(["RequireDualStack", ["IPv6"]]),
                &[
                    dual,
                    "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster",
                ],
            ),
            (
                json!({"clusterIP": "::1", "clusterIPs": ["::1"]}),
                json!(["SingleStack", ["IPv4"]]),
                &["spec.clusterIPs[0]: Invalid value: [\"::1\"]: IPv6 is not configured on this cluster"],
            ),
        ];
        for (mut spec, expected, objections) in table {
            let given = spec.to_string();
            let errors: Vec<String> = families(&mut spec, None).iter().map(ToString::to_string).collect();
            assert_eq!(errors, objections, "{given}");
            let have = json!([access::get(&spec, "ipFamilyPolicy"), access::get(&spec, "ipFamilies")]);
            assert_eq!(have, expected, "{given}");
        }
    }
}

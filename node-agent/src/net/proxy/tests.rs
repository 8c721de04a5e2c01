//! Tables for the plan and the rule set, and one test with real sockets in a network namespace of
//! its own, which the kernel removes with the test's thread.

use super::plan::{Fragment, host_ports, service};
use super::ruleset::{Owner, Ruleset};
use super::{Addresses, nft};
use crate::net::addresses::Range;
use crate::net::links;
use coxswain_client::ObjectKey;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn addresses() -> Addresses {
    let range = |text| Range::parse("range", text).expect("valid");
    Addresses {
        node: [192, 0, 2, 2].into(),
        pods: range("10.244.0.0/24"),
        cluster: range("10.244.0.0/16"),
        services: range("10.96.0.0/16"),
        dns: [10, 96, 0, 10].into(),
    }
}

/// `ready`, `away` or `ending` and the node, by address.
type Ends<'a> = &'a [(&'a str, &'a str, &'a str)];

fn fragment(spec: Value, status: Value, ends: Ends) -> Fragment {
    fragment_of("web", spec, status, ends)
}

fn fragment_of(name: &str, spec: Value, status: Value, ends: Ends) -> Fragment {
    let object: Service = serde_json::from_value(json!({
        "metadata": { "name": name, "namespace": "shop" }, "spec": spec, "status": status,
    }))
    .expect("a Service");
    let endpoints: Vec<Value> = ends
        .iter()
        .map(|(address, state, node)| {
            let conditions = match *state {
                "ready" => json!({ "ready": true }),
                "ending" => json!({ "ready": false, "serving": true, "terminating": true }),
                _ => json!({ "ready": false, "serving": false }),
            };
            json!({ "addresses": [address], "conditions": conditions, "nodeName": node })
        })
        .collect();
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": { "name": "web-1" }, "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }, { "name": "dns", "port": 53, "protocol": "UDP" }],
    }))
    .expect("an EndpointSlice");
    service(&object, &[&slice], "here", &addresses())
}

/// The fragment as lines, without the hashes in names.
fn lines(fragment: &Fragment) -> Vec<String> {
    let strip = |text: &str| {
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find("-web").or_else(|| rest.find("-shop")) {
            let head = &rest[..at];
            let cut = head.len().saturating_sub(16);
            let is_hash = head
                .get(cut..)
                .is_some_and(|h| h.len() == 16 && h.chars().all(|c| c.is_ascii_hexdigit()));
            out.push_str(if is_hash {
                head.get(..cut).unwrap_or(head).trim_end_matches('-')
            } else {
                head
            });
            out.push_str(&rest[at..at + 1]);
            rest = &rest[at + 1..];
        }
        out + rest
    };
    let elements = fragment
        .elements
        .iter()
        .map(|(e, verdict)| format!("{:?} {} {verdict}", e.table, e.key));
    let chains = fragment
        .chains
        .iter()
        .flat_map(|(name, rules)| rules.iter().map(move |r| format!("{name}: {r}")));
    elements.chain(chains).map(|line| strip(line.trim())).collect()
}

const TCP: &str = "http";

fn port(name: &str) -> Value {
    match name {
        TCP => json!([{ "name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080 }]),
        _ => json!([{ "name": "dns", "port": 53, "protocol": "UDP" }]),
    }
}

#[test]
fn plans() {
    let ip = "10.96.0.20";
    let masq = "s-shop/web/http/tcp: ip saddr != 10.244.0.0/16 fib saddr type != local jump to_masquerade";
    let hairpin = "Hairpin 10.244.0.5 . 10.244.0.5";
    let one = "meta l4proto tcp dnat to 10.244.0.5:8080";
    let balancer = json!({ "loadBalancer": { "ingress": [{ "ip": "192.0.2.2", "ipMode": "VIP" }] } });
    let cases: Vec<(&str, Value, Value, Ends, Vec<String>)> = vec![
        (
            "one endpoint",
            json!({ "clusterIP": ip, "ports": port(TCP) }),
            Value::Null,
            &[("10.244.0.5", "ready", "here"), ("10.244.0.6", "away", "here")],
            vec![
                "Services 10.96.0.20 . tcp . 80 goto s-shop/web/http/tcp".into(),
                hairpin.into(),
                masq.into(),
                format!("s-shop/web/http/tcp: {one}"),
            ],
        ),
        (
            "only one that ends but still serves",
            json!({ "clusterIP": ip, "ports": port(TCP) }),
            Value::Null,
            &[("10.244.0.5", "ending", "here")],
            vec![
                "Services 10.96.0.20 . tcp . 80 goto s-shop/web/http/tcp".into(),
                hairpin.into(),
                masq.into(),
                format!("s-shop/web/http/tcp: {one}"),
            ],
        ),
        (
            "none, with a node port",
            json!({ "type": "NodePort", "clusterIP": ip, "ports": port(TCP) }),
            Value::Null,
            &[],
            vec![
                "Refused 10.96.0.20 . tcp . 80 goto refuse".into(),
                "RefusedPorts tcp . 30080 goto refuse".into(),
            ],
        ),
        (
            "internal traffic stays here, but there is none here",
            json!({ "clusterIP": ip, "ports": port(TCP), "internalTrafficPolicy": "Local" }),
            Value::Null,
            &[("10.244.0.5", "ready", "there")],
            vec!["Refused 10.96.0.20 . tcp . 80 drop".into()],
        ),
        (
            "load balancer with source ranges and an address outside",
            json!({
                "type": "LoadBalancer", "clusterIP": ip, "ports": port(TCP),
                "loadBalancerSourceRanges": ["203.0.113.0/24"], "externalIPs": ["198.51.100.7"],
            }),
            balancer.clone(),
            &[("10.244.0.5", "ready", "here")],
            vec![
                "Services 10.96.0.20 . tcp . 80 goto s-shop/web/http/tcp".into(),
                "Services 192.0.2.2 . tcp . 80 goto l-shop/web/http/tcp".into(),
                "Services 198.51.100.7 . tcp . 80 goto x-shop/web/http/tcp".into(),
                "NodePorts tcp . 30080 goto x-shop/web/http/tcp".into(),
                hairpin.into(),
                "l-shop/web/http/tcp: ip saddr 203.0.113.0/24 goto x-shop/web/http/tcp".into(),
                "l-shop/web/http/tcp: fib saddr type local goto x-shop/web/http/tcp".into(),
                "l-shop/web/http/tcp: drop".into(),
                masq.into(),
                format!("s-shop/web/http/tcp: {one}"),
                "x-shop/web/http/tcp: jump to_masquerade".into(),
                format!("x-shop/web/http/tcp: {one}"),
            ],
        ),
        (
            "headless",
            json!({ "clusterIP": "None", "ports": port(TCP) }),
            Value::Null,
            &[("10.244.0.5", "ready", "here")],
            vec![],
        ),
        (
            "external name",
            json!({ "type": "ExternalName", "externalName": "x.org" }),
            Value::Null,
            &[],
            vec![],
        ),
        (
            "cluster DNS itself is answered here",
            json!({ "clusterIP": "10.96.0.10", "ports": port("dns") }),
            Value::Null,
            &[("10.244.0.1", "ready", "here")],
            vec![],
        ),
    ];
    for (name, spec, status, ends, want) in cases {
        let mut got = lines(&fragment(spec, status, ends));
        let mut want = want;
        got.sort();
        want.sort();
        assert_eq!(got, want, "{name}");
    }
}

#[test]
fn traffic_from_outside_with_policy_local_keeps_its_source() {
    let spec = json!({
        "type": "NodePort", "clusterIP": "10.96.0.20", "ports": port(TCP), "externalTrafficPolicy": "Local",
    });
    let got = lines(&fragment(
        spec,
        Value::Null,
        &[("10.244.0.5", "ready", "here"), ("10.244.1.5", "ready", "there")],
    ));
    let outside: Vec<&String> = got.iter().filter(|line| line.starts_with("x-")).collect();
    assert_eq!(
        outside,
        [
            "x-shop/web/http/tcp: ip saddr 10.244.0.0/16 goto a-shop/web/http/tcp",
            "x-shop/web/http/tcp: fib saddr type local goto a-shop/web/http/tcp",
            "x-shop/web/http/tcp: meta l4proto tcp dnat to 10.244.0.5:8080",
        ]
    );
}

#[test]
fn host_ports_of_a_pod() {
    let pod = |network: bool, phase: &str| -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": "web", "namespace": "shop" },
            "spec": { "hostNetwork": network, "containers": [{ "name": "c", "ports": [
                { "containerPort": 80, "hostPort": 8080 },
                { "containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "192.0.2.2" },
                { "containerPort": 9 },
            ] }] },
            "status": { "phase": phase, "podIP": "10.244.0.5" },
        }))
        .expect("a Pod")
    };
    let got = host_ports(&pod(false, "Running"));
    let elements: Vec<String> = got
        .elements
        .keys()
        .map(|e| format!("{:?} {}", e.table, e.key))
        .collect();
    assert_eq!(
        elements,
        [
            "Services 192.0.2.2 . udp . 53",
            "NodePorts tcp . 8080",
            "Hairpin 10.244.0.5 . 10.244.0.5"
        ]
    );
    assert_eq!(got.udp.len(), 1);
    assert_eq!(host_ports(&pod(true, "Running")), Fragment::default());
    assert_eq!(host_ports(&pod(false, "Succeeded")), Fragment::default());
}

fn web(ip: &str, ends: Ends, affinity: bool) -> Fragment {
    web_of("web", ip, ends, affinity)
}

fn web_of(name: &str, ip: &str, ends: Ends, affinity: bool) -> Fragment {
    let affinity = if affinity { "ClientIP" } else { "None" };
    let spec = json!({ "type": "NodePort", "clusterIP": ip, "sessionAffinity": affinity, "ports": port(TCP) });
    fragment_of(name, spec, Value::Null, ends)
}

/// Applies rules in the network namespace of the calling thread.
pub async fn apply(rules: &str) -> Result<(), crate::net::NetError> {
    nft::apply(rules).await
}

/// A whole rule set with one Service of type NodePort, for tests of the network as a whole.
pub fn rules_of_one_service(node: &Addresses, ip: &str, endpoints: &[&str], node_port: u16) -> String {
    let ends: Vec<(&str, &str, &str)> = endpoints
        .iter()
        .filter_map(|to| to.split_once(':'))
        .map(|(address, _)| (address, "ready", "here"))
        .collect();
    let ports = json!([{ "name": "http", "port": 80, "protocol": "TCP", "nodePort": node_port }]);
    let spec = json!({ "type": "NodePort", "clusterIP": ip, "ports": ports });
    let mut rules = Ruleset::default();
    rules.replace(BTreeMap::from([(owner("web"), fragment(spec, Value::Null, &ends))]));
    rules.full(node)
}

fn owner(name: &str) -> Owner {
    Owner::Service(ObjectKey::new("shop", name))
}

#[test]
fn a_change_touches_only_what_changed() {
    let mut rules = Ruleset::default();
    let ends: Ends = &[("10.244.0.5", "ready", "here")];
    let first = rules.replace(BTreeMap::from([(owner("web"), web("10.96.0.20", ends, false))]));
    assert!(
        first
            .script
            .contains("add element ip coxswain services { 10.96.0.20 . tcp . 80 : goto s-")
    );
    let same = rules.replace(BTreeMap::from([(owner("web"), web("10.96.0.20", ends, false))]));
    assert_eq!(same.script, "");

    // The other one wants the same node port: it stays with the first and moves when that lets go.
    let other: Ends = &[("10.244.0.9", "ready", "here")];
    let second = rules.replace(BTreeMap::from([(owner("x"), web_of("x", "10.96.0.21", other, false))]));
    assert!(!second.script.contains("node_ports"), "{}", second.script);
    let third = rules.replace(BTreeMap::from([(owner("web"), Fragment::default())]));
    assert!(
        third
            .script
            .contains("delete element ip coxswain node_ports { tcp . 30080 : goto x-")
    );
    assert!(
        third
            .script
            .contains("add element ip coxswain node_ports { tcp . 30080 : goto x-")
    );
    let last = rules.replace(BTreeMap::from([(owner("x"), Fragment::default())]));
    assert!(
        last.script.ends_with("/tcp\n") && last.script.contains("delete chain"),
        "{}",
        last.script
    );
    assert_eq!(rules.len(), 0);
    assert!(!rules.full(&addresses()).contains("add element"));
}

mod with_a_kernel {
    use super::*;
    use std::collections::BTreeSet;
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::time::Duration;

    /// Who answers at an address; an error's kind in words otherwise.
    fn ask(address: &str) -> String {
        let address: SocketAddr = address.parse().expect("an address");
        let answer = TcpStream::connect_timeout(&address, Duration::from_secs(3)).and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(3)))?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        });
        answer.unwrap_or_else(|error| format!("{:?}", error.kind()))
    }

    fn listen(address: &'static str) {
        let listener = TcpListener::bind(address).expect("binds");
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = (&stream).write_all(address.as_bytes());
            }
        });
    }

    fn run(command: &[&str]) {
        let output = std::process::Command::new(command[0])
            .args(&command[1..])
            .output()
            .expect("runs");
        assert!(
            output.status.success(),
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    async fn in_namespace() {
        let node = addresses();
        run(&["ip", "link", "set", "lo", "up"]);
        for address in ["192.0.2.2/32", "10.244.0.5/32", "10.244.0.6/32"] {
            run(&["ip", "address", "add", address, "dev", "lo"]);
        }
        links::ensure(&node).await.expect("interface");
        links::ensure(&node).await.expect("interface, again");
        listen("10.244.0.5:8080");
        listen("10.244.0.6:8080");
        let both: Ends = &[("10.244.0.5", "ready", "here"), ("10.244.0.6", "ready", "here")];
        let mut rules = Ruleset::default();
        nft::apply(&rules.full(&node)).await.expect("empty rules");
        assert_eq!(ask("10.96.0.20:80"), "ConnectionRefused", "no such Service");

        let mut set = async |name: &str, fragment: Fragment| {
            let change = rules.replace(BTreeMap::from([(owner(name), fragment)]));
            nft::apply(&change.script)
                .await
                .unwrap_or_else(|error| panic!("{error}\n{}", change.script));
            rules.full(&node)
        };
        set("web", web("10.96.0.20", both, false)).await;
        let seen: BTreeSet<String> = (0..40).map(|_| ask("10.96.0.20:80")).collect();
        assert_eq!(Vec::from_iter(seen), ["10.244.0.5:8080", "10.244.0.6:8080"]);
        for address in ["192.0.2.2:30080", "127.0.0.1:30080"] {
            assert!(ask(address).ends_with(":8080"), "{address}: {}", ask(address));
        }

        // Affinity: always the same one, also by another way in; then that one goes away.
        set("web", web("10.96.0.20", both, true)).await;
        let seen: Vec<String> = (0..20).map(|_| ask("10.96.0.20:80")).collect();
        assert!(seen.iter().all(|who| *who == seen[0]), "{seen:?}");
        let left: Ends = match seen[0].as_str() {
            "10.244.0.5:8080" => &both[1..],
            _ => &both[..1],
        };
        set("web", web("10.96.0.20", left, true)).await;
        assert_eq!(ask("10.96.0.20:80"), format!("{}:8080", left[0].0));

        let full = set("web", web("10.96.0.20", &[], false)).await;
        assert_eq!(ask("10.96.0.20:80"), "ConnectionRefused", "no endpoints");
        assert_eq!(ask("192.0.2.2:30080"), "ConnectionRefused", "no endpoints");
        nft::apply(&full).await.expect("the same in one piece");
        set("web", web("10.96.0.20", both, false)).await;
        assert!(ask("10.96.0.20:80").ends_with(":8080"));
        set("web", Fragment::default()).await;
        assert_eq!(ask("10.96.0.20:80"), "ConnectionRefused", "gone");
        assert!(nft::exists().await.expect("nft runs"));
        nft::remove().await.expect("removed");
        nft::remove().await.expect("nothing to remove");
        assert!(!nft::exists().await.expect("nft runs"));
        super::super::conntrack::forget(Vec::new()).await;
        links::remove().await.expect("interface removed");
    }

    #[test]
    fn connections_follow_the_rules() {
        let test = std::thread::spawn(|| {
            if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_err() {
                eprintln!("this needs root: a network namespace could not be made");
                return;
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(in_namespace());
        });
        test.join().expect("the test in the namespace");
    }
}

use super::answer::{Reply, Zone, encode};
use super::forward::name_servers;
use super::index::{Entry, Index};
use crate::net::addresses::{Addresses, Range};
use coxswain_client::ObjectKey;
use hickory_proto::op::{Edns, Message, Query};
use hickory_proto::rr::{Name, RecordType};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

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

fn put(index: &mut Index, namespace: &str, name: &str, spec: Value, slice: Option<Value>) {
    let service: Service = serde_json::from_value(json!({
        "metadata": { "name": name, "namespace": namespace }, "spec": spec,
    }))
    .expect("a Service");
    let slice: Option<EndpointSlice> = slice.map(|slice| serde_json::from_value(slice).expect("an EndpointSlice"));
    let entry = Entry::of(&service, &slice.iter().collect::<Vec<_>>());
    index.set(&ObjectKey::new(namespace, name), entry);
}

fn index() -> Index {
    let mut index = Index::default();
    let ports = json!([
        { "name": "http", "port": 80, "protocol": "TCP" },
        { "name": "dns", "port": 53, "protocol": "UDP" },
    ]);
    put(
        &mut index,
        "shop",
        "web",
        json!({ "clusterIP": "10.96.0.20", "clusterIPs": ["10.96.0.20"], "ports": ports }),
        None,
    );
    let slice = json!({
        "metadata": { "name": "db-1" }, "addressType": "IPv4",
        "ports": [{ "name": "pg", "port": 5432, "protocol": "TCP" }],
        "endpoints": [
            { "addresses": ["10.244.0.5"], "hostname": "db-0" },
            { "addresses": ["10.244.0.6"], "conditions": { "ready": true } },
            { "addresses": ["10.244.0.7"], "hostname": "db-2", "conditions": { "ready": false } },
        ],
    });
    put(
        &mut index,
        "shop",
        "db",
        json!({ "clusterIP": "None" }),
        Some(slice.clone()),
    );
    let early = json!({ "clusterIP": "None", "publishNotReadyAddresses": true });
    put(&mut index, "shop", "early", early, Some(slice));
    put(&mut index, "shop", "none", json!({ "clusterIP": "None" }), None);
    put(
        &mut index,
        "shop",
        "out",
        json!({ "type": "ExternalName", "externalName": "db.example.org" }),
        None,
    );
    index
}

fn request(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
    message
}

fn answer(index: &Index, name: &str, kind: RecordType) -> String {
    let zone = Zone::new("cluster.local", &addresses()).expect("a domain");
    match zone.reply(index, &request(name, kind), 0) {
        Reply::Forward => "forward".to_owned(),
        Reply::Answer(message) | Reply::Follow(message, _) => {
            let text = |records: &[hickory_proto::rr::Record]| {
                records
                    .iter()
                    .map(|r| format!("{}/{}", r.data, r.ttl))
                    .collect::<Vec<_>>()
                    .join(" ")
            };
            let mut out = format!("{:?}", message.metadata.response_code);
            for part in [text(&message.answers), text(&message.additionals)] {
                if !part.is_empty() {
                    out = format!("{out} {part}");
                }
            }
            if !message.authorities.is_empty() {
                out.push_str(" +soa");
            }
            out
        }
    }
}

#[test]
fn names_have_their_answers() {
    use RecordType::{A, AAAA, CNAME, MX, NS, PTR, SRV, TXT};
    let index = index();
    let cases = [
        ("web.shop.svc.cluster.local.", A, "NoError 10.96.0.20/30"),
        ("WEB.Shop.SVC.cluster.LOCAL.", A, "NoError 10.96.0.20/30"),
        ("web.shop.svc.cluster.local.", AAAA, "NoError +soa"),
        ("web.shop.svc.cluster.local.", MX, "NoError +soa"),
        ("nope.shop.svc.cluster.local.", A, "NXDomain +soa"),
        ("web.nope.svc.cluster.local.", A, "NXDomain +soa"),
        ("shop.svc.cluster.local.", A, "NoError +soa"),
        ("nope.svc.cluster.local.", A, "NXDomain +soa"),
        ("svc.cluster.local.", A, "NoError +soa"),
        ("cluster.local.", NS, "NoError ns.dns.cluster.local./30"),
        ("web.shop.cluster.local.", A, "NXDomain +soa"),
        ("x.web.shop.svc.cluster.local.", A, "NXDomain +soa"),
        ("db.shop.svc.cluster.local.", A, "NoError 10.244.0.6/5 10.244.0.5/5"),
        ("db-0.db.shop.svc.cluster.local.", A, "NoError 10.244.0.5/5"),
        ("db-0.db.shop.svc.cluster.local.", AAAA, "NoError +soa"),
        ("10-244-0-6.db.shop.svc.cluster.local.", A, "NoError 10.244.0.6/5"),
        ("db-2.db.shop.svc.cluster.local.", A, "NXDomain +soa"),
        ("db-2.early.shop.svc.cluster.local.", A, "NoError 10.244.0.7/5"),
        ("none.shop.svc.cluster.local.", A, "NoError +soa"),
        ("out.shop.svc.cluster.local.", A, "NoError db.example.org./30"),
        ("out.shop.svc.cluster.local.", CNAME, "NoError db.example.org./30"),
        (
            "_http._tcp.web.shop.svc.cluster.local.",
            SRV,
            "NoError 0 100 80 web.shop.svc.cluster.local./30 10.96.0.20/30",
        ),
        ("_http._udp.web.shop.svc.cluster.local.", SRV, "NXDomain +soa"),
        ("_http._tcp.web.shop.svc.cluster.local.", A, "NoError +soa"),
        ("_tcp.web.shop.svc.cluster.local.", A, "NoError +soa"),
        (
            "_pg._tcp.db.shop.svc.cluster.local.",
            SRV,
            "NoError 0 50 5432 10-244-0-6.db.shop.svc.cluster.local./5 \
             0 50 5432 db-0.db.shop.svc.cluster.local./5 10.244.0.6/5 10.244.0.5/5",
        ),
        ("10-1-2-3.shop.pod.cluster.local.", A, "NoError 10.1.2.3/30"),
        ("10-1-2.shop.pod.cluster.local.", A, "NXDomain +soa"),
        (
            "20.0.96.10.in-addr.arpa.",
            PTR,
            "NoError web.shop.svc.cluster.local./30",
        ),
        ("5.0.244.10.in-addr.arpa.", A, "NoError +soa"),
        ("21.0.96.10.in-addr.arpa.", PTR, "NXDomain +soa"),
        ("1.2.0.192.in-addr.arpa.", PTR, "forward"),
        ("dns-version.cluster.local.", TXT, "NoError 1.1.0/30"),
        ("example.org.", A, "forward"),
        ("notcluster.local.", A, "forward"),
    ];
    for (name, kind, want) in cases {
        assert_eq!(answer(&index, name, kind), want, "{name} {kind}");
    }
}

#[test]
fn a_service_that_goes_away_takes_its_names_along() {
    let mut index = index();
    for name in ["web", "db", "early", "none", "out"] {
        index.set(&ObjectKey::new("shop", name), None);
    }
    assert_eq!(
        answer(&index, "web.shop.svc.cluster.local.", RecordType::A),
        "NXDomain +soa"
    );
    assert_eq!(
        answer(&index, "shop.svc.cluster.local.", RecordType::A),
        "NXDomain +soa"
    );
    assert_eq!(
        answer(&index, "5.0.244.10.in-addr.arpa.", RecordType::PTR),
        "NXDomain +soa"
    );
}

#[test]
fn long_answers_are_cut_for_datagrams_only() {
    let mut index = Index::default();
    let endpoints: Vec<Value> = (0..150)
        .map(|n| json!({ "addresses": [format!("10.244.1.{n}")] }))
        .collect();
    let slice = json!({ "metadata": { "name": "big-1" }, "addressType": "IPv4", "endpoints": endpoints, "ports": [] });
    put(&mut index, "shop", "big", json!({ "clusterIP": "None" }), Some(slice));
    let zone = Zone::new("cluster.local", &addresses()).expect("a domain");
    let mut question = request("big.shop.svc.cluster.local.", RecordType::A);
    let cases = [(None, 512, true), (Some(4096), 4096, false)];
    for (payload, bytes_max, cut) in cases {
        if let Some(payload) = payload {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            question.set_edns(edns);
        }
        assert_eq!(super::answer::datagram_bytes_max(&question), bytes_max);
        let Reply::Answer(message) = zone.reply(&index, &question, 3) else {
            panic!("not ours")
        };
        let bytes = encode(*message, bytes_max).expect("encodes");
        assert!(bytes.len() <= bytes_max);
        let back = Message::from_vec(&bytes).expect("decodes");
        assert_eq!(back.metadata.truncation, cut, "{} bytes", bytes.len());
        assert_eq!(back.answers.len() == 150, !cut);
        assert_eq!(back.edns.is_some(), payload.is_some());
    }
}

#[test]
fn name_servers_of_a_resolver_configuration() {
    let text = "# comment\nsearch lan\nnameserver 10.96.0.10\n nameserver 192.0.2.53 \nnameserver bad\n\
        nameserver fd00::1\noptions ndots:1\n";
    let got = name_servers(text, &[[10, 96, 0, 10].into(), [10, 244, 0, 1].into()]);
    assert_eq!(
        got.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["192.0.2.53:53", "[fd00::1]:53"]
    );
}

//! Where proxied requests never go, and who must answer where they do. On real TLS, on loopback.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Method;
use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::harness::{Running, TOWARDS_AGENTS, authority, named_leaf, start, start_with};

/// Addresses that lead to this machine or to where only it can go, as a node or pod may report them.
const FORBIDDEN: [&str; 27] = [
    "127.0.0.1",
    "127.0.0.2",
    "127.255.255.254",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:7f00:1",
    "::127.0.0.1",
    "64:ff9b::127.0.0.1",
    "2002:7f00:1::1",
    "0.0.0.0",
    "0.0.0.1",
    "::",
    "::ffff:0.0.0.0",
    "169.254.169.254",
    "169.254.0.7",
    "::ffff:169.254.169.254",
    "fe80::1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "100.100.100.200",
    "168.63.129.16",
    "224.0.0.1",
    "ff02::1",
    "255.255.255.255",
    "10.96.0.1",
    "::ffff:10.96.0.1",
    "239.1.2.3",
];

/// Whoever connects is counted. All addresses of this machine lead here.
async fn trap() -> (u16, Arc<AtomicUsize>) {
    let listener = match TcpListener::bind("[::]:0").await {
        Ok(listener) => listener,
        Err(_) => TcpListener::bind("0.0.0.0:0").await.expect("a port"),
    };
    let port = listener.local_addr().expect("an address").port();
    let caught = Arc::new(AtomicUsize::new(0));
    let counter = caught.clone();
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    (port, caught)
}

/// Makes a node, a pod of it, and a Service with that pod behind it, all at one address and port by their own word.
async fn place(running: &Running, address: &str, port: u16) {
    for path in [
        "/api/v1/nodes/fake",
        "/api/v1/namespaces/default/pods/fake?gracePeriodSeconds=0",
        "/api/v1/namespaces/default/services/fake",
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/fake",
    ] {
        running.send(Method::DELETE, path, Value::Null).await;
    }
    // It is there already after the first time.
    let account = json!({"metadata": {"name": "default"}});
    running
        .send(Method::POST, "/api/v1/namespaces/default/serviceaccounts", account)
        .await;
    let made = |(code, answer): (u16, Value)| assert!(code < 300, "{answer}");
    let node = json!({"metadata": {"name": "fake"}});
    made(running.send(Method::POST, "/api/v1/nodes", node).await);
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": address}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
    made(running.send(Method::PATCH, "/api/v1/nodes/fake/status", status).await);
    let pod = json!({"metadata": {"name": "fake", "labels": {"app": "fake"}}, "spec": {"nodeName": "fake",
        "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": port}]}]}});
    made(running.send(Method::POST, "/api/v1/namespaces/default/pods", pod).await);
    let status = json!({"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}});
    let path = "/api/v1/namespaces/default/pods/fake/status";
    // Not every form of an address may be written here; the node has it all the same.
    running.send(Method::PATCH, path, status).await;
    let service = json!({"metadata": {"name": "fake"}, "spec": {"ports": [{"name": "p", "port": 80}]}});
    made(
        running
            .send(Method::POST, "/api/v1/namespaces/default/services", service)
            .await,
    );
    let family = if address.contains(':') { "IPv6" } else { "IPv4" };
    let slice = json!({"metadata": {"name": "fake", "labels": {"kubernetes.io/service-name": "fake"}},
        "addressType": family, "ports": [{"name": "p", "port": port}],
        "endpoints": [{"addresses": [address], "targetRef": {"kind": "Pod", "name": "fake", "namespace": "default"}}]});
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    running.send(Method::POST, slices, slice).await;
}

/// Every way that leads through this server to somewhere else, with the port at the end of a name where there is one.
fn ways(port: u16) -> Vec<String> {
    let pods = "/api/v1/namespaces/default/pods";
    let services = "/api/v1/namespaces/default/services";
    vec![
        "/api/v1/nodes/fake/proxy/api/v1/secrets".to_owned(),
        format!("/api/v1/nodes/fake:{port}/proxy/api/v1/secrets"),
        format!("/api/v1/nodes/https:fake:{port}/proxy/api/v1/secrets"),
        format!("{pods}/fake/log"),
        format!("{pods}/fake/log?insecureSkipTLSVerifyBackend=true"),
        format!("{pods}/fake/exec?command=sh&stdout=1"),
        format!("{pods}/fake/attach?stdout=1"),
        format!("{pods}/fake/portforward?ports=80"),
        format!("{pods}/fake/proxy/api/v1/secrets"),
        format!("{pods}/fake:{port}/proxy/api/v1/secrets"),
        format!("{pods}/https:fake:{port}/proxy/api/v1/secrets"),
        format!("{services}/fake:p/proxy/api/v1/secrets"),
        format!("{services}/https:fake:p/proxy/api/v1/secrets"),
        format!("{services}/fake:80/proxy/api/v1/secrets"),
    ]
}

const UPGRADE: &str = "upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-protocol: v5.channel.k8s.io\r\n\
    sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// One way, as a client of TLS takes it: code and answer.
async fn take(running: &Running, way: &str) -> (u16, String) {
    let upgrades = ["/exec", "/attach", "/portforward"]
        .iter()
        .any(|part| way.contains(part));
    let headers = if upgrades { UPGRADE } else { "" };
    let asked = running.ask(Some(running.administrator()), way, headers);
    tokio::time::timeout(Duration::from_secs(20), asked)
        .await
        .expect("an answer in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reported_address_never_leads_to_where_only_this_machine_goes() {
    let running = start().await;
    let (port, caught) = trap().await;
    for address in FORBIDDEN {
        for port in [port, running.port] {
            place(&running, address, port).await;
            for way in ways(port) {
                let (code, answer) = take(&running, &way).await;
                // Services without an endpoint that may be there have none.
                let none = way.contains("/services/") && code == 503 && answer.contains("no endpoints available");
                let unknown = way.contains("/pods/fake") && answer.contains("has no IP address");
                let never = code == 400 && answer.contains("address not allowed");
                assert!(never || none || unknown, "{address} {port} {way}: {answer}");
                assert!(!answer.contains("SecretList"), "{address} {way}: {answer}");
            }
        }
    }
    assert_eq!(caught.load(Ordering::SeqCst), 0);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn this_server_is_never_dialled_where_loopback_may_be() {
    let (other, caught) = trap().await;
    let running = start_with(|config| {
        config.reach.loopback = true;
        config.reach.own_ports.push(other);
    })
    .await;
    for address in ["127.0.0.1", "127.0.0.9", "::1", "::ffff:127.0.0.1"] {
        for port in [running.port, other] {
            place(&running, address, port).await;
            for way in ways(port).iter().filter(|way| !way.contains("/services/")) {
                let (code, answer) = take(&running, way).await;
                let never =
                    code == 400 && (answer.contains("it is this API server") || answer.contains("no IP address"));
                assert!(never, "{address} {port} {way}: {answer}");
            }
        }
    }
    assert_eq!(caught.load(Ordering::SeqCst), 0);
    running.stop().await;
}

/// An agent with a certificate. What it is asked over a connection that it accepted, and by whom, is counted.
async fn agent(pair: (String, String), client_ca: &str) -> (u16, Arc<AtomicUsize>) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(client_ca.as_bytes()).expect("a CA"))
        .expect("a CA");
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let chain = CertificateDer::from_pem_slice(pair.0.as_bytes()).expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(pair.1.as_bytes()).expect("a key");
    let settings = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("TLS")
        .with_client_cert_verifier(verifier.build().expect("a verifier"))
        .with_single_cert(vec![chain], key)
        .expect("a pair");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(settings));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, counter) = (acceptor.clone(), counter.clone());
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                let mut request = [0; 4096];
                if stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                    counter.fetch_add(1, Ordering::SeqCst);
                    let _ = stream
                        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")
                        .await;
                    let _ = stream.shutdown().await;
                }
            });
        }
    });
    (port, asked)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_proves_that_it_is_the_node_that_was_meant() {
    let running = start_with(|config| config.reach.loopback = true).await;
    let (own, other) = (&running.issuer, authority("cluster"));
    let (node, group) = ("system:node:fake", "system:nodes");
    let mut two_names = rcgen::CertificateParams::new(vec!["fake".to_owned()]).expect("names");
    two_names.distinguished_name.push(rcgen::DnType::CommonName, node);
    two_names
        .distinguished_name
        .push(rcgen::DnType::OrganizationName, group);
    two_names
        .distinguished_name
        .push(rcgen::DnType::OrganizationalUnitName, "more");
    two_names.extended_key_usages = vec![ServerAuth];
    let key = rcgen::KeyPair::generate().expect("a key");
    let two_names = (
        two_names.signed_by(&key, own).expect("a certificate").pem(),
        key.serialize_pem(),
    );
    for (what, pair, good) in [
        ("its own", named_leaf(own, node, group, ServerAuth), true),
        (
            "another node's",
            named_leaf(own, "system:node:other", group, ServerAuth),
            false,
        ),
        ("without the prefix", named_leaf(own, "fake", group, ServerAuth), false),
        (
            "of another group",
            named_leaf(own, node, "developers", ServerAuth),
            false,
        ),
        (
            "the API server's",
            (running.config.tls_cert_pem.clone(), running.config.tls_key_pem.clone()),
            false,
        ),
        ("a client's", named_leaf(own, node, group, ClientAuth), false),
        ("of another CA", named_leaf(&other, node, group, ServerAuth), false),
        ("with more in its subject", two_names, false),
    ] {
        let (port, asked) = agent(pair, &running.config.kubelet_ca_pem).await;
        place(&running, "127.0.0.1", port).await;
        let logs = "/api/v1/namespaces/default/pods/fake/log";
        let unchecked = format!("{logs}?insecureSkipTLSVerifyBackend=true");
        for way in ["/api/v1/nodes/fake/proxy/pods", logs, unchecked.as_str()] {
            let (code, answer) = take(&running, way).await;
            assert_eq!(code == 200 && answer.ends_with("hello"), good, "{what} {way}: {answer}");
        }
        assert_eq!(asked.load(Ordering::SeqCst), if good { 3 } else { 0 }, "{what}");
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_identity_towards_agents_is_nobody_at_the_api() {
    let running = start().await;
    let config = &running.config;
    let shown = (
        config.kubelet_client_cert_pem.clone(),
        config.kubelet_client_key_pem.clone(),
    );
    // The one that earlier versions made is an administrator by its group.
    let older = named_leaf(&running.issuer, TOWARDS_AGENTS, "system:masters", ClientAuth);
    for pair in [shown, older] {
        for path in ["/api/v1/secrets", "/api", "/version", "/api/v1/namespaces/default/pods"] {
            let (code, answer) = running.ask(Some(pair.clone()), path, "").await;
            assert_eq!(code, 401, "{path}: {answer}");
        }
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_reaches_the_agent_in_its_own_process() {
    let issuer = authority("cluster");
    let pair = named_leaf(&issuer, "system:node:fake", "system:nodes", ServerAuth);
    let (port, _) = agent(pair, &issuer.pem()).await;
    let at = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    let running = start_with(|config| config.reach.own_agent = Some(at)).await;
    place(&running, "127.0.0.1", port).await;
    // It is dialled, and judged as every agent is: this one is of another CA. A pod is not led there.
    let (code, answer) = take(&running, "/api/v1/nodes/fake/proxy/pods").await;
    assert!(code == 503 && answer.contains("certificate"), "{answer}");
    let (code, answer) = take(&running, &format!("/api/v1/nodes/https:fake:{port}/proxy/pods")).await;
    assert!(code == 503, "{answer}");
    let (code, answer) = take(&running, "/api/v1/namespaces/default/pods/fake/proxy/x").await;
    assert!(code == 400 && answer.contains("address not allowed"), "{answer}");
    running.stop().await;
}

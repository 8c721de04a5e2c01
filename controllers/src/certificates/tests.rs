use std::sync::Arc;

use coxswain_client::k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use jiff::Timestamp;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, SanType};
use serde_json::json;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::request::{self, Age, Request, State};
use super::serving::{self, Known};
use super::sign::Signer;
use crate::context::Authority;

fn asked(organization: &str, name: &str, names: &[&str]) -> Vec<u8> {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.distinguished_name.push(DnType::OrganizationName, organization);
    params.distinguished_name.push(DnType::CommonName, name);
    for name in names {
        params.subject_alt_names.push(match name.parse() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) if name.contains('@') => SanType::Rfc822Name((*name).try_into().expect("a name")),
            Err(_) => SanType::DnsName((*name).try_into().expect("a name")),
        });
    }
    let key = KeyPair::generate().expect("a key");
    let request = params.serialize_request(&key).expect("a request");
    request.pem().expect("PEM").into_bytes()
}

fn csr(signer: &str, usages: &[&str], pem: &[u8], seconds: i32) -> CertificateSigningRequest {
    serde_json::from_value(json!({
        "metadata": {"name": "r", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"signerName": signer, "usages": usages, "request": request::base64(pem), "expirationSeconds": seconds,
            "username": "system:node:n1", "groups": ["system:nodes", "system:authenticated"]},
    }))
    .expect("a request")
}

/// Signer, usages, organisation, name, alternative names, and what is wrong.
type Case<'a> = (&'a str, &'a [&'a str], &'a str, &'a str, &'a [&'a str], &'a str);

#[test]
fn signers_have_rules() {
    let client = ["digital signature", "client auth"];
    let server = ["digital signature", "key encipherment", "server auth"];
    let cases: [Case<'_>; 10] = [
        (request::NODE_CLIENT, &client, "system:nodes", "system:node:n1", &[], ""),
        (
            request::NODE_CLIENT,
            &client,
            "system:masters",
            "system:node:n1",
            &[],
            "subject organization is not system:nodes",
        ),
        (
            request::NODE_CLIENT,
            &client,
            "system:nodes",
            "n1",
            &[],
            "subject common name does not begin with system:node: ",
        ),
        (
            request::NODE_CLIENT,
            &client,
            "system:nodes",
            "system:node:n1",
            &["n1"],
            "DNS subjectAltNames are not allowed",
        ),
        (
            request::NODE_CLIENT,
            &server,
            "system:nodes",
            "system:node:n1",
            &[],
            "usages did not match [\"client auth\", \"digital signature\"]",
        ),
        (
            request::NODE_SERVING,
            &server,
            "system:nodes",
            "system:node:n1",
            &["n1", "192.0.2.1"],
            "",
        ),
        (
            request::NODE_SERVING,
            &server,
            "system:nodes",
            "system:node:n1",
            &[],
            "DNS or IP subjectAltName is required",
        ),
        (
            request::NODE_SERVING,
            &server,
            "system:nodes",
            "system:node:n1",
            &["n1", "a@b"],
            "Email and URI subjectAltNames are not allowed",
        ),
        (request::CLIENT, &client, "team", "ann", &[], ""),
        (
            request::CLIENT,
            &server,
            "team",
            "ann",
            &[],
            "usages did not match [\"client auth\"]",
        ),
    ];
    for (signer, usages, organization, name, names, want) in cases {
        let pem = asked(organization, name, names);
        let request = Request::parse(&pem).expect("a request");
        let found = request::check(&csr(signer, usages, &pem, 3600), &request);
        assert_eq!(
            found.err().unwrap_or_default(),
            want,
            "{signer} {organization} {name} {names:?}"
        );
    }
}

fn object<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value).expect("an object"))
}

/// A cluster with one server, nodes that say more of themselves than is known, and Services.
fn known() -> Known {
    let node = |name: &str, source: &str, given: &str, reported: &[&str]| {
        let addresses: Vec<_> = reported
            .iter()
            .map(|a| json!({"type": "InternalIP", "address": a}))
            .collect();
        object(json!({"metadata": {"name": name, "annotations": {
                "coxswain.io/source-address": source, "coxswain.io/certificate-addresses": given}},
            "status": {"addresses": addresses}}))
    };
    let everything = [
        "192.0.2.1",
        "192.0.2.9",
        "192.0.2.100",
        "127.0.0.1",
        "10.96.0.1",
        "kubernetes",
        "web",
    ];
    let mut nodes = vec![
        node(
            "n1",
            "192.0.2.1",
            "198.51.100.1, 2001:db8::1,192.0.2.100,192.0.2.2,127.0.0.1,10.96.0.9,::1",
            &everything,
        ),
        node("n2", "192.0.2.2", "", &["192.0.2.2"]),
        node("n3", "127.0.0.1", "", &["127.0.0.1"]),
    ];
    let names = "kubernetes kubernetes.default.svc kubernetes-2 localhost a.localhost web web.shop web.shop.svc \
        web.shop.svc.cluster.local x.cluster.local master 192.0.2.1 a.svc.b";
    nodes.extend(names.split_whitespace().map(|name| node(name, "192.0.2.3", "", &[])));
    Known {
        nodes,
        services: vec![object(json!({"metadata": {"name": "web", "namespace": "shop"},
            "spec": {"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "externalIPs": ["198.51.100.9"]}}))],
        servers: vec![object(
            json!({"metadata": {"name": "apiserver-1", "namespace": "kube-system",
            "labels": {"kubernetes.io/hostname": "master"}, "annotations": {"coxswain.io/address": "192.0.2.100:6443"}}}),
        )],
        endpoints: vec![object(
            json!({"addressType": "IPv4", "metadata": {"name": "kubernetes", "namespace": "default"},
            "endpoints": [{"addresses": ["192.0.2.101"]}]}),
        )],
    }
}

#[test]
fn a_serving_certificate_names_only_what_others_know_of_its_node() {
    let known = known();
    // The node, the names that it asks for, and why it gets none.
    let cases: [(&str, &[&str], &str); 18] = [
        ("n1", &["n1", "192.0.2.1"], ""),
        ("n1", &["n1"], ""),
        ("n1", &["198.51.100.1", "2001:db8::1"], ""),
        ("n1", &["::ffff:192.0.2.1"], ""),
        // It reports this one, and nobody else says so.
        (
            "n1",
            &["n1", "192.0.2.9"],
            "not known to have the address 192.0.2.9: its requests come from 192.0.2.1",
        ),
        ("n1", &["n2"], "is not the name of node"),
        ("n1", &["n1", "kubernetes"], "is not the name of node"),
        ("n1", &["web.shop.svc"], "is not the name of node"),
        ("n1", &["*.n1"], "is not the name of node"),
        ("n1", &["N1"], "is not the name of node"),
        // These are known to be its own, and are not for it all the same.
        ("n1", &["192.0.2.100"], "192.0.2.100 is that of an API server"),
        ("n1", &["192.0.2.101"], "192.0.2.101 is that of an API server"),
        ("n1", &["192.0.2.2"], "192.0.2.2 is that of node \"n2\""),
        ("n1", &["10.96.0.9"], "10.96.0.9 is that of Service web"),
        ("n1", &["127.0.0.1"], "127.0.0.1 is of no use"),
        ("n1", &["::1"], "::1 is of no use"),
        ("n3", &["n3", "127.0.0.1"], "127.0.0.1 is of no use"),
        ("n9", &["n9"], "there is no node \"n9\""),
    ];
    let found = |asks: &str, node: &str, names: &[&str]| {
        let pem = asked("system:nodes", &format!("system:node:{node}"), names);
        let request = Request::parse(&pem).expect("a request");
        let mut csr = csr(request::NODE_SERVING, &["server auth"], &pem, 3600);
        csr.spec.username = Some(format!("system:node:{asks}"));
        serving::check(&csr, &request, &known).err().unwrap_or_default()
    };
    for (node, names, want) in cases {
        let why = found(node, node, names);
        assert_eq!(why.is_empty(), want.is_empty(), "{node} {names:?}: {why}");
        assert!(why.contains(want), "{node} {names:?}: {why}");
    }
    assert!(found("n2", "n1", &["n1"]).contains("only a node itself"));
    // Nodes may call themselves anything; these names are somebody else's.
    let others = known.nodes.iter().filter_map(|node| node.metadata.name.as_deref());
    let others: Vec<&str> = others.filter(|name| !["n1", "n2", "n3"].contains(name)).collect();
    assert_eq!(others.len(), 13);
    for name in others {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params
            .distinguished_name
            .push(DnType::CommonName, format!("system:node:{name}"));
        params.subject_alt_names = vec![SanType::DnsName(name.try_into().expect("a name"))];
        let pem = params.serialize_request(&KeyPair::generate().expect("a key"));
        let pem = pem.and_then(|request| request.pem()).expect("PEM").into_bytes();
        let request = Request::parse(&pem).expect("a request");
        let mut csr = csr(request::NODE_SERVING, &["server auth"], &pem, 3600);
        csr.spec.username = Some(format!("system:node:{name}"));
        let why = serving::check(&csr, &request, &known).err().unwrap_or_default();
        assert!(why.contains("approve by hand"), "{name}: {why:?}");
    }
}

#[test]
fn the_subject_of_a_node_is_exactly_its_name_and_group() {
    let name = |kind: DnType, text: &str| (kind, text.to_owned());
    let (cn, org) = (DnType::CommonName, DnType::OrganizationName);
    let unit = name(DnType::OrganizationalUnitName, "x");
    for (extra, common, want) in [
        (None, "system:node:n1", ""),
        (Some(unit), "system:node:n1", "subject may have no parts but"),
        (None, "system:node:", "subject common name is not that of a node"),
        (None, "system:node:N1", "subject common name is not that of a node"),
        (None, "system:node:a b", "subject common name is not that of a node"),
        (None, "system:node:n1.", "subject common name is not that of a node"),
        (
            None,
            "system:node:system:node:n1",
            "subject common name is not that of a node",
        ),
    ] {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(org.clone(), "system:nodes");
        params.distinguished_name.push(cn.clone(), common);
        if let Some((kind, text)) = extra {
            params.distinguished_name.push(kind, text);
        }
        let pem = params.serialize_request(&KeyPair::generate().expect("a key"));
        let pem = pem.and_then(|request| request.pem()).expect("PEM").into_bytes();
        let request = Request::parse(&pem).expect("a request");
        let csr = csr(request::NODE_CLIENT, &["digital signature", "client auth"], &pem, 3600);
        let why = request::check(&csr, &request).err().unwrap_or_default();
        assert!(
            why.is_empty() == want.is_empty() && why.contains(want),
            "{common}: {why}"
        );
    }
}

#[test]
fn what_is_signed_is_a_certificate_of_the_authority() {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "authority");
    let authority = params.self_signed(&key).expect("an authority");
    let authority = Authority {
        cert_pem: authority.pem(),
        key_pem: key.serialize_pem(),
    };
    let signer = Signer::open(&authority).expect("a signer");
    let pem = asked("system:nodes", "system:node:n1", &["n1", "192.0.2.1"]);
    let request = Request::parse(&pem).expect("a request");
    let now = Timestamp::from_second(1_800_000_000).expect("a time");
    for (asked, lifetime) in [(3600, 3600), (1, 600), (i32::MAX, 365 * 24 * 3600)] {
        let csr = csr(
            request::NODE_SERVING,
            &["digital signature", "server auth"],
            &pem,
            asked,
        );
        let made = signer.sign(&request, &csr, now).expect("a certificate");
        let (_, made) = x509_parser::pem::parse_x509_pem(made.as_bytes()).expect("PEM");
        let (rest, made) = X509Certificate::from_der(&made.contents).expect("a certificate");
        assert!(rest.is_empty());
        let (_, ca) = x509_parser::pem::parse_x509_pem(authority.cert_pem.as_bytes()).expect("PEM");
        let (_, ca) = X509Certificate::from_der(&ca.contents).expect("a certificate");
        made.verify_signature(Some(ca.public_key()))
            .expect("signed by the authority");
        assert_eq!(made.issuer(), ca.subject());
        assert_eq!(made.subject().as_raw(), request.subject);
        assert_eq!(made.validity().not_before.timestamp(), 1_800_000_000 - 300);
        assert_eq!(made.validity().not_after.timestamp(), 1_800_000_000 + lifetime);
        assert!(!made.is_ca());
        let names = made.subject_alternative_name().expect("valid").expect("there");
        assert_eq!(names.value.general_names.len(), 2);
        let usage = made.key_usage().expect("valid").expect("there");
        assert!(usage.critical && usage.value.digital_signature() && !usage.value.key_cert_sign());
        let usage = made.extended_key_usage().expect("valid").expect("there");
        assert!(usage.value.server_auth && !usage.value.client_auth);
    }
}

#[test]
fn old_requests_go() {
    let at = |text: &str| -> Timestamp { text.parse().expect("a time") };
    let pem = asked("o", "n", &[]);
    let mut csr = csr(request::CLIENT, &[], &pem, 600);
    assert_eq!(request::state(&csr), State::Pending);
    let left = Age::Until(std::time::Duration::from_secs(60));
    assert_eq!(request::age(&csr, at("2026-01-01T23:59:00Z")), left);
    assert_eq!(request::age(&csr, at("2026-01-02T00:00:00Z")), Age::Old);
    csr.status = serde_json::from_value(json!({"conditions": [
        {"type": "Denied", "status": "True", "lastUpdateTime": "2026-01-01T10:00:00Z"}]}))
    .expect("a status");
    assert_eq!(request::state(&csr), State::Finished);
    assert_eq!(request::age(&csr, at("2026-01-01T10:59:00Z")), left);
    assert_eq!(request::age(&csr, at("2026-01-01T11:00:00Z")), Age::Old);
}

#[test]
fn a_request_signed_by_another_key_is_refused() {
    let mut der = x509_parser::pem::parse_x509_pem(&asked("o", "n", &[]))
        .expect("PEM")
        .1
        .contents;
    let last = der.len() - 1;
    der[last] ^= 1;
    let pem = format!(
        "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
        request::base64(&der)
    );
    let error = Request::parse(pem.as_bytes()).expect_err("must fail");
    assert_eq!(error, "the request's signature is not its key's");
}

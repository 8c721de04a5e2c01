//! Credentials of any form: whatever comes, nobody becomes somebody, and what identifies people can be read again.

use coxswain_fuzz::fuzz;
use coxswain_store::Snapshot;
use futures::executor::block_on;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::pki_types::UnixTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::certificate::Authorities;
use super::front_proxy::Proxies;
use super::oidc::Structured;
use super::{Authn, FrontProxy, Grant, Tokens, bootstrap_token, certificate};

const CONFIGURATION: &str = "
apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
jwt:
- issuer: {url: 'https://127.0.0.1:1/x', audiences: [cluster]}
  claimValidationRules: [{claim: hd, requiredValue: example.com}]
  claimMappings: {username: {claim: email, prefix: 'oidc:'}, groups: {claim: roles, prefix: ''}, uid: {claim: sub}}
anonymous: {enabled: true, conditions: [{path: /livez}]}
";

#[test]
fn fuzz_certificates() {
    let mut parameters = CertificateParams::new(vec!["localhost".to_owned()]).expect("names");
    parameters.distinguished_name.push(DnType::CommonName, "tester");
    parameters.distinguished_name.push(DnType::OrganizationName, "people");
    let key = KeyPair::generate().expect("a key");
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(ca, KeyPair::generate().expect("a key")).expect("an authority");
    let made = parameters.signed_by(&key, &issuer).expect("a certificate");
    let proxies = Proxies::new(&FrontProxy::new(issuer.pem())).expect("an authority");
    let vouched = |der: &[u8]| proxies.authorities.vouch(&[der.to_vec().into()], UnixTime::now());
    assert!(vouched(made.der()));
    let (_, read) = X509Certificate::from_der(made.der()).expect("a certificate");
    let content = read.tbs_certificate.as_ref();
    let words = &["\u{2}\u{1}\0", "tester", "0\u{c}", "250101000000Z"];
    fuzz("certificates", vec![made.der().to_vec()], words, |der: &Vec<u8>| {
        let signed = vouched(der);
        // What stands around the signed part does not matter.
        let same = || X509Certificate::from_der(der).is_ok_and(|(_, read)| read.tbs_certificate.as_ref() == content);
        assert!(!signed || same(), "nobody else has the key");
        let (user, _) = certificate::read(der);
        user.map(|_| ()).map_err(str::to_owned)
    });
}

#[test]
fn fuzz_tokens() {
    let key = KeyPair::generate().expect("a key").serialize_pem();
    let tokens = Tokens::new(&key, "https://kubernetes.default.svc").expect("a key");
    let grant = Grant {
        namespace: "default",
        account: "robot",
        account_uid: "u",
        audiences: &[],
        bound: None,
        node: None,
        lifetime_s: 600,
        now_s: 100,
    };
    let good = tokens.issue(&grant).expect("a token");
    let made = rcgen::generate_simple_self_signed(vec!["clients".to_owned()]).expect("a certificate");
    let authn = Authn {
        clients: Authorities::new(&made.cert.pem()).expect("an authority"),
        towards_agents: None,
        proxies: None,
        structured: Some(Structured::parse(CONFIGURATION).expect("a configuration")),
    };
    let snapshot = Snapshot::empty(1);
    let seeds = [
        good.as_str(),
        "abcdef.0123456789abcdef",
        "e30.e30.e30",
        "eyJhbGciOiJub25lIn0.e30.",
    ];
    let seeds = seeds.iter().map(|token| token.as_bytes().to_vec()).collect();
    let words = &[
        "eyJhbGciOiJub25lIn0",
        "eyJhbGciOiJIUzI1NiJ9",
        ".",
        "..",
        "==",
        "abcdef.",
    ];
    fuzz("tokens", seeds, words, |bytes: &Vec<u8>| {
        let token = str::from_utf8(bytes).map_err(|error| error.to_string())?;
        let _ = bootstrap_token::parts(token);
        // There is no account, so that not even the good one is good.
        let verified = block_on(authn.by_token(&tokens, token, &[], &snapshot, 100));
        assert!(verified.is_err(), "{token}");
        Err(verified.err().unwrap_or_default())
    });
}

#[test]
fn fuzz_authentication_configurations() {
    let words = &[
        "jwt:",
        "- issuer: ",
        "claim: ",
        "expression: ",
        "prefix: ''",
        "https://",
        "extra:",
        "audiences: []",
    ];
    fuzz(
        "authentication-configurations",
        vec![CONFIGURATION.as_bytes().to_vec()],
        words,
        |bytes: &Vec<u8>| {
            let text = str::from_utf8(bytes).map_err(|error| error.to_string())?;
            Structured::parse(text).map(|_| ())
        },
    );
}

//! A bare API server on loopback with keys made on the spot, for replaying recorded cases.
//!
//! `bare DIR [PORT]` keeps its store in DIR/store and writes `ca.crt`, `admin.crt` and `admin.key`
//! to DIR. It ends with the process.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use coxswain_apiserver::{ApiServer, Config};
use coxswain_consensus::{Config as StoreConfig, Store};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().ok_or("usage: bare DIR [PORT]")?);
    let port: u16 = arguments.next().map_or(Ok(0), |port| port.parse())?;
    std::fs::create_dir_all(&directory)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let address = listener.local_addr()?;
    let config = config(&directory, address.port())?;
    let store = Store::open(StoreConfig::new(directory.join("store"))).await?;
    let server = ApiServer::new(config, store)?;
    println!("https://{address}");
    server.serve(listener, CancellationToken::new()).await?;
    Ok(())
}

fn config(directory: &std::path::Path, port: u16) -> Result<Config, Failure> {
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.distinguished_name.push(DnType::CommonName, "bare");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let issuer = CertifiedIssuer::self_signed(ca, KeyPair::generate()?)?;
    let leaf = |name: &str, organisation: &str, usage: ExtendedKeyUsagePurpose| -> Result<(String, String), Failure> {
        let mut parameters = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters
            .distinguished_name
            .push(DnType::OrganizationName, organisation);
        parameters.extended_key_usages = vec![usage];
        let key = KeyPair::generate()?;
        Ok((parameters.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
    };
    let (tls_cert_pem, tls_key_pem) = leaf("apiserver", "bare", ExtendedKeyUsagePurpose::ServerAuth)?;
    let (admin_cert, admin_key) = leaf("admin", "system:masters", ExtendedKeyUsagePurpose::ClientAuth)?;
    let agents = leaf(
        "kube-apiserver-kubelet-client",
        "bare",
        ExtendedKeyUsagePurpose::ClientAuth,
    )?;
    let ca_pem = issuer.pem();
    std::fs::write(directory.join("ca.crt"), &ca_pem)?;
    std::fs::write(directory.join("admin.crt"), &admin_cert)?;
    std::fs::write(directory.join("admin.key"), &admin_key)?;
    Ok(Config {
        tls_cert_pem,
        tls_key_pem,
        client_ca_pem: ca_pem.clone(),
        service_account_key_pem: KeyPair::generate()?.serialize_pem(),
        issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
        service_cidr: (Ipv4Addr::new(10, 96, 0, 0), 16),
        node_port_range: (30000, 32767),
        kubelet_client_cert_pem: agents.0,
        kubelet_client_key_pem: agents.1,
        kubelet_ca_pem: ca_pem.clone(),
        reach: coxswain_apiserver::Reach::default(),
        advertise: (IpAddr::V4(Ipv4Addr::LOCALHOST), port),
        root_ca_pem: ca_pem,
        bare: true,
        audit: None,
        front_proxy: None,
        authentication: None,
        limits: coxswain_apiserver::ConnectionLimits::default(),
        build: coxswain_apiserver::Build::default(),
    })
}

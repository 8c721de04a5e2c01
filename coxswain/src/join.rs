//! Joining a cluster, and staying in it.
//!
//! A machine knows an address, a bootstrap token and the hash of the cluster's authority. The first connection
//! is already verified: the server shows its authority's certificate, whose hash must be the one that is known.
//! With the token the node asks for a client certificate, with that for a serving certificate, as a kubelet
//! does; both are renewed long before they end, without a restart.
//!
//! A cluster may have several servers. A node knows them all, by the endpoints of the `kubernetes` Service, and goes on with
//! another when the one it uses is lost.
//!
//! Owns `<data-dir>/node` (0700): `server` (one address on each line, first the one that was joined), `ca.crt`, `client.crt`,
//! `client.key`. A machine that has joined needs neither address nor token again. Does not: follow a change of the authority.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use coxswain_client::k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use coxswain_client::k8s_openapi::api::core::v1::Node;
use coxswain_client::k8s_openapi::api::discovery::v1::EndpointSlice;
use coxswain_client::kube::api::PostParams;
use coxswain_client::{Cache, Client, Scope, Servers};
use coxswain_node_agent::ServingIdentity;
use rcgen::{CertificateParams, DnType, KeyPair, SanType};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::pki::{Identity, write_secret};
use crate::{cli, instance, secrets};

/// A certificate that nobody approves by then needs a person.
const ISSUED_WITHIN: Duration = Duration::from_secs(60);
/// The server must answer within this.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// What the node asks for; the cluster may give less.
const LIFETIME_S: i32 = 30 * 24 * 3600;
/// A certificate that the cluster says it doesn't approve may still be: what it knows of the node may be on its way.
const REFUSED_WITHIN: Duration = Duration::from_secs(5);
/// A node that serves with its name alone asks again for its address this often.
const ADDRESS_RETRY: Duration = Duration::from_secs(6 * 3600);
/// Condition of a request that only a person would approve.
const NOT_APPROVED: &str = "NotApproved";
/// After a renewal that failed.
const RETRY: Duration = Duration::from_secs(60);
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";

/// A node of a cluster elsewhere.
pub struct Joined {
    /// The address that was joined.
    pub url: String,
    pub ca_pem: String,
    /// Calls an API server as the node; follows renewals and goes on with another server when one is lost.
    pub client: Client,
    /// What the node's server shows; empty until the cluster has issued it.
    pub serving: ServingIdentity,
    servers: Servers,
    calls: Mutex<Calls>,
    folder: PathBuf,
    name: String,
    ip: IpAddr,
}

/// Where the servers are, and as whom they are called.
struct Calls {
    urls: Vec<String>,
    identity: Identity,
}

/// Joins the cluster, or comes back to the one that was joined.
///
/// # Errors
/// When the server cannot be reached, is another than the token says, or gives no certificate.
pub async fn join(args: &cli::Agent, name: &str, ip: IpAddr) -> Result<Joined> {
    let folder = args.place.data_dir.join("node");
    instance::create(&args.place.data_dir)?;
    secrets::create_dir(&folder)?;
    let read = |file: &str| fs::read_to_string(folder.join(file)).ok();
    let stored = match (read("server"), read("ca.crt"), read("client.crt"), read("client.key")) {
        (Some(url), Some(ca_pem), Some(cert_pem), Some(key_pem)) if is_of(&cert_pem, name) => {
            Some((url, ca_pem, Identity { cert_pem, key_pem }))
        }
        _ => None,
    };
    let (server, ca_pem, identity) = match (stored, &args.join, &args.token) {
        (Some(stored), _, _) => stored,
        (None, Some(address), Some(token)) => first_time(args, &folder, address, token, name).await?,
        _ => bail!(
            "this machine has not joined a cluster: give --join ADDR:PORT and --token TOKEN (`coxswain token create` on \
             the control plane prints both)"
        ),
    };
    let urls: Vec<String> = server.lines().map(str::to_owned).collect();
    let url = urls.first().cloned().unwrap_or_default();
    let calls = Calls { urls, identity };
    let (client, servers) = Client::of_servers(connected(&calls, &ca_pem).await?);
    Ok(Joined {
        url,
        ca_pem,
        client,
        serving: ServingIdentity::default(),
        servers,
        calls: Mutex::new(calls),
        folder,
        name: name.to_owned(),
        ip,
    })
}

/// A client of each server.
async fn connected(calls: &Calls, ca_pem: &str) -> Result<Vec<(String, Client)>> {
    let Calls { urls, identity } = calls;
    let mut all = Vec::new();
    for url in urls {
        let client = Client::from_parts(url, ca_pem, &identity.cert_pem, &identity.key_pem).await?;
        all.push((url.clone(), client));
    }
    Ok(all)
}

/// Where the servers are: the address that was joined, which may stand for all of them, and the Service's endpoints.
fn urls(joined: &str, slices: &[Arc<EndpointSlice>]) -> Vec<String> {
    let ready = |slice: &EndpointSlice| {
        let port = slice
            .ports
            .iter()
            .flatten()
            .find_map(|port| u16::try_from(port.port?).ok());
        let endpoints = slice.endpoints.iter().flatten();
        let ready = endpoints.filter(|e| e.conditions.as_ref().is_none_or(|c| c.ready != Some(false)));
        let addresses = ready.flat_map(|endpoint| endpoint.addresses.clone());
        let sockets = addresses.filter_map(|ip| Some(SocketAddr::new(ip.parse().ok()?, port?)));
        sockets.map(|socket| format!("https://{socket}")).collect::<Vec<_>>()
    };
    let mut others: Vec<String> = slices.iter().flat_map(|slice| ready(slice)).collect();
    others.retain(|url| url != joined);
    others.sort();
    others.dedup();
    others.insert(0, joined.to_owned());
    others
}

async fn first_time(
    args: &cli::Agent,
    folder: &Path,
    address: &str,
    token: &str,
    name: &str,
) -> Result<(String, String, Identity)> {
    let (token, hash) = match token.split_once('@') {
        Some((token, hash)) => (token, Some(hash)),
        None => (token, args.ca_hash.as_deref()),
    };
    let hash =
        hash.context("the token does not carry the hash of the cluster's authority: give --ca-hash sha256:HEX")?;
    let address = address.strip_prefix("https://").unwrap_or(address);
    let address = if address.contains(':') {
        address.to_owned()
    } else {
        format!("{address}:6443")
    };
    let url = format!("https://{address}");
    let ca_pem = pinned_authority(&address, hash)
        .await
        .with_context(|| format!("joining {address}"))?;
    let client = Client::from_token(&url, &ca_pem, token).await?;
    let identity = request(&client, CLIENT_SIGNER, name, None)
        .await
        .context("asking for the node's certificate")?;
    for (file, text) in [
        ("ca.crt", &ca_pem),
        ("client.key", &identity.key_pem),
        ("client.crt", &identity.cert_pem),
        ("server", &url),
    ] {
        write_secret(&folder.join(file), text)?;
    }
    Ok((url, ca_pem, identity))
}

impl Joined {
    /// Keeps both certificates good and the servers known until cancelled.
    ///
    /// # Errors
    /// When a renewed certificate cannot be used, or something not be stored.
    pub async fn keep(self, token: CancellationToken) -> Result<()> {
        let serving = self.keep_serving(&token);
        let client = self.keep_client(&token);
        let servers = self.keep_servers(&token);
        tokio::try_join!(serving, client, servers)?;
        Ok(())
    }

    async fn keep_servers(&self, token: &CancellationToken) -> Result<()> {
        let scope = Scope {
            namespace: Some("default".to_owned()),
            labels: Some("kubernetes.io/service-name=kubernetes".to_owned()),
            ..Scope::default()
        };
        let slices = Cache::<EndpointSlice>::spawn(&self.client, scope, token.clone());
        let mut changes = slices.changes();
        while token.run_until_cancelled(changes.recv()).await.flatten().is_some() {
            let urls = urls(&self.url, &slices.list());
            // Without any endpoint there is nothing better than what was known.
            if slices.is_empty() || urls == self.calls.lock().await.urls {
                continue;
            }
            write_secret(&self.folder.join("server"), &urls.join("\n"))?;
            tracing::info!(servers = urls.join(" "), "the servers of the cluster");
            self.call(|calls| calls.urls = urls).await?;
        }
        Ok(())
    }

    /// From now on these servers are called, or as this.
    async fn call(&self, change: impl FnOnce(&mut Calls)) -> Result<()> {
        let mut calls = self.calls.lock().await;
        change(&mut calls);
        self.servers.set(connected(&calls, &self.ca_pem).await?);
        Ok(())
    }

    async fn keep_serving(&self, token: &CancellationToken) -> Result<()> {
        // The cluster issues it for the addresses that the Node reports.
        let scope = Scope::fields(&format!("metadata.name={}", self.name));
        let nodes = Cache::<Node>::spawn(&self.client, scope, token.clone());
        let reported = |node: &Node| node.status.as_ref().is_some_and(|s| s.addresses.is_some());
        loop {
            nodes
                .until(ISSUED_WITHIN, |c| c.list().iter().any(|n| reported(n)))
                .await;
            let pause = match self.request_serving().await {
                Ok((identity, at_most)) => {
                    let set = self.serving.set(&identity.cert_pem, &identity.key_pem);
                    set.map_err(|error| anyhow!("the node's new {error}"))?;
                    until_renewal(&identity.cert_pem).min(at_most)
                }
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "no serving certificate yet");
                    RETRY
                }
            };
            if token.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return Ok(());
            }
        }
    }

    /// A serving certificate, and how long to be content with it. The API server knows the node by its name, so where the
    /// cluster can't tell that the address is the node's (behind a load balancer or NAT), the name alone will do.
    async fn request_serving(&self) -> Result<(Identity, Duration)> {
        let ask = |names| request(&self.client, SERVING_SIGNER, &self.name, Some(names));
        let name = SanType::DnsName(self.name.as_str().try_into()?);
        match ask(vec![name.clone(), SanType::IpAddress(self.ip)]).await {
            Ok(identity) => Ok((identity, Duration::MAX)),
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "the node's address is left out of its serving certificate"
                );
                Ok((ask(vec![name]).await?, ADDRESS_RETRY))
            }
        }
    }

    async fn keep_client(&self, token: &CancellationToken) -> Result<()> {
        let mut pause = until_renewal(&self.calls.lock().await.identity.cert_pem);
        loop {
            if token.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return Ok(());
            }
            pause = match request(&self.client, CLIENT_SIGNER, &self.name, None).await {
                Ok(identity) => {
                    write_secret(&self.folder.join("client.key"), &identity.key_pem)?;
                    write_secret(&self.folder.join("client.crt"), &identity.cert_pem)?;
                    let pause = until_renewal(&identity.cert_pem);
                    self.call(|calls| calls.identity = identity).await?;
                    tracing::info!("the node's certificate was renewed");
                    pause
                }
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "the node's certificate was not renewed");
                    RETRY
                }
            };
        }
    }
}

/// Asks the cluster for a certificate and waits until it is there. With names it is one to serve with.
async fn request(client: &Client, signer: &str, name: &str, serves: Option<Vec<SanType>>) -> Result<Identity> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params
        .distinguished_name
        .push(DnType::CommonName, format!("system:node:{name}"));
    let mut usages = vec!["digital signature", "client auth"];
    if let Some(names) = serves {
        params.subject_alt_names = names;
        usages = vec!["digital signature", "server auth"];
    }
    let pem = params.serialize_request(&key)?.pem()?;
    let body = json!({
        "metadata": {"generateName": "csr-"},
        "spec": {"signerName": signer, "usages": usages, "request": STANDARD.encode(pem), "expirationSeconds": LIFETIME_S},
    });
    let body: CertificateSigningRequest = serde_json::from_value(body)?;
    let made = client.api().create(&PostParams::default(), &body).await?;
    let name = made.metadata.name.unwrap_or_default();
    let watching = CancellationToken::new();
    let _stop = watching.clone().drop_guard();
    let scope = Scope::fields(&format!("metadata.name={name}"));
    let requests = Cache::<CertificateSigningRequest>::spawn(client, scope, watching);
    let outcome = |csr: &CertificateSigningRequest| -> Option<Result<String>> {
        let status = csr.status.as_ref()?;
        if let Some(certificate) = status.certificate.as_ref().filter(|c| !c.0.is_empty()) {
            return Some(String::from_utf8(certificate.0.clone()).map_err(Into::into));
        }
        let conditions = status.conditions.as_deref().unwrap_or_default();
        let refused = conditions.iter().find(|c| c.type_ == "Denied" || c.type_ == "Failed")?;
        let why = refused.message.clone().unwrap_or_default();
        Some(Err(anyhow!("the request {name} was refused: {} {why}", refused.type_)))
    };
    let decided = || requests.list().first().and_then(|csr| outcome(csr));
    let why_not = || -> Option<String> {
        let all = requests.list();
        let mut said = all.first()?.status.as_ref()?.conditions.iter().flatten();
        said.find(|c| c.type_ == NOT_APPROVED)
            .map(|c| c.message.clone().unwrap_or_default())
    };
    let heard = |_: &Cache<CertificateSigningRequest>| decided().is_some() || why_not().is_some();
    requests.until(ISSUED_WITHIN, heard).await;
    requests.until(REFUSED_WITHIN, |_| decided().is_some()).await;
    match (decided(), why_not()) {
        (None, Some(why)) => bail!("the cluster does not approve the request {name}: {why}"),
        (decided, _) => issued(decided, &key, &name),
    }
}

fn issued(decided: Option<Result<String>>, key: &KeyPair, name: &str) -> Result<Identity> {
    match decided {
        Some(certificate) => Ok(Identity {
            cert_pem: certificate?,
            key_pem: key.serialize_pem(),
        }),
        None => bail!(
            "nobody has approved the request {name} within {} s (`kubectl certificate approve {name}` does)",
            ISSUED_WITHIN.as_secs()
        ),
    }
}

fn parsed<T>(cert_pem: &str, read: impl Fn(&X509Certificate<'_>) -> T) -> Option<T> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(cert_pem.as_bytes()).ok()?;
    let (_, certificate) = X509Certificate::from_der(&pem.contents).ok()?;
    Some(read(&certificate))
}

/// Whether a stored certificate is this node's and still good.
fn is_of(cert_pem: &str, name: &str) -> bool {
    let wanted = format!("system:node:{name}");
    let now = jiff::Timestamp::now().as_second();
    parsed(cert_pem, |certificate| {
        let subject = certificate.subject().iter_common_name().next();
        subject.and_then(|n| n.as_str().ok()) == Some(&wanted) && certificate.validity().not_after.timestamp() > now
    })
    .unwrap_or(false)
}

/// Time until a certificate is to be renewed: somewhere between 70 and 90 % of its life, differently on each node.
fn until_renewal(cert_pem: &str) -> Duration {
    let now = jiff::Timestamp::now().as_second();
    let at = parsed(cert_pem, |certificate| {
        let from = certificate.validity().not_before.timestamp();
        let life = certificate.validity().not_after.timestamp().saturating_sub(from);
        from.saturating_add(life.saturating_mul(rand::random_range(70..90)) / 100)
    });
    Duration::from_secs(u64::try_from(at.unwrap_or(now).saturating_sub(now)).unwrap_or(0))
}

/// The hash by which an authority is known: of its public key, so that it outlives a renewed certificate.
pub fn hash_of(public_key: &[u8]) -> String {
    let digest: String = Sha256::digest(public_key).iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{digest}")
}

/// The hash of a PEM certificate's key.
pub fn hash_of_pem(cert_pem: &str) -> Option<String> {
    parsed(cert_pem, |certificate| hash_of(certificate.public_key().raw))
}

/// The certificate of the authority with this hash, from the server's own chain.
async fn pinned_authority(address: &str, hash: &str) -> Result<String> {
    if hash.len() != 71 || !hash.starts_with("sha256:") {
        bail!("{hash:?} is not a hash: it has the form sha256: and 64 hexadecimal digits");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let pin = Arc::new(Pin {
        hash: hash.to_ascii_lowercase(),
        provider: provider.clone(),
        found: std::sync::OnceLock::new(),
    });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(pin.clone())
        .with_no_client_auth();
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let connect = async {
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from(host).map_err(std::io::Error::other)?;
        tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
    };
    tokio::time::timeout(CONNECT_WITHIN, connect)
        .await
        .map_err(|_| anyhow!("no answer within {} s", CONNECT_WITHIN.as_secs()))??;
    let der = pin.found.get().context("the server showed no authority")?;
    let text = STANDARD.encode(der);
    let lines: Vec<String> = text
        .as_bytes()
        .chunks(64)
        .map(|l| String::from_utf8_lossy(l).into_owned())
        .collect();
    Ok(format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        lines.join("\n")
    ))
}

/// Trusts the authority with the known hash, and what it signed.
#[derive(Debug)]
struct Pin {
    hash: String,
    provider: Arc<CryptoProvider>,
    found: std::sync::OnceLock<Vec<u8>>,
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let is_known = |der: &&CertificateDer<'_>| {
            X509Certificate::from_der(der).is_ok_and(|(_, c)| hash_of(c.public_key().raw) == self.hash)
        };
        let Some(authority) = chain.iter().find(is_known) else {
            return Err(rustls::Error::General(
                "the server belongs to another cluster than the token: its authority has another hash".to_owned(),
            ));
        };
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let verified = verifier.verify_server_cert(end, chain, name, ocsp, now)?;
        let _ = self.found.set(authority.to_vec());
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_are_the_joined_one_and_the_ready_endpoints() {
        let slice = |ports: serde_json::Value, endpoints: serde_json::Value| {
            let value = json!({"addressType": "IPv4", "ports": ports, "endpoints": endpoints, "metadata": {}});
            Arc::new(serde_json::from_value::<EndpointSlice>(value).expect("a slice"))
        };
        let at = |ip: &str, ready: bool| json!({"addresses": [ip], "conditions": {"ready": ready}});
        let port = json!([{"name": "https", "port": 6443}]);
        let two = json!([
            at("10.0.0.2", true),
            at("10.0.0.1", true),
            at("10.0.0.3", false),
            at("name", true)
        ]);
        let six = json!([{"addresses": ["fd00::1"], "conditions": {}}]);
        for (joined, slices, want) in [
            ("https://vip:6443", vec![], vec!["https://vip:6443"]),
            (
                "https://vip:6443",
                vec![slice(port.clone(), two.clone()), slice(port.clone(), six)],
                vec![
                    "https://vip:6443",
                    "https://10.0.0.1:6443",
                    "https://10.0.0.2:6443",
                    "https://[fd00::1]:6443",
                ],
            ),
            (
                "https://10.0.0.2:6443",
                vec![slice(port.clone(), two.clone()), slice(port, two.clone())],
                vec!["https://10.0.0.2:6443", "https://10.0.0.1:6443"],
            ),
            ("https://a:1", vec![slice(json!([]), two)], vec!["https://a:1"]),
        ] {
            assert_eq!(urls(joined, &slices), want);
        }
    }
}

//! The server under load: its address and our credentials, from a kubeconfig.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use coxswain_api::codec::{Limits, decode_yaml};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;

/// How to reach a server, and as whom.
#[derive(Clone)]
pub struct Target {
    /// `HOST:PORT` to connect to.
    pub address: String,
    /// The `Authorization` header's line, or nothing with a client certificate.
    pub authorization: String,
    pub(crate) name: ServerName<'static>,
    pub(crate) tls: Arc<rustls::ClientConfig>,
}

impl Target {
    /// Reads the current context of a kubeconfig.
    ///
    /// # Errors
    /// What cannot be read or is missing in it; exec plug-ins are not run.
    pub fn from_kubeconfig(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let (config, _) = decode_yaml(&bytes, &Limits::default()).map_err(|e| anyhow::anyhow!("{}", e.message))?;
        let context = named(&config, "contexts", "context", config["current-context"].as_str())?;
        let cluster = named(&config, "clusters", "cluster", context["cluster"].as_str())?;
        let user = named(&config, "users", "user", context["user"].as_str())?;
        let server = cluster["server"].as_str().context("the cluster has no server")?;
        let Some(address) = server.strip_prefix("https://") else {
            bail!("{server} is not an https address");
        };
        let address = address.trim_end_matches('/');
        let address = if address.rsplit(']').next().unwrap_or(address).contains(':') {
            address.to_owned()
        } else {
            format!("{address}:443")
        };
        let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
        Ok(Self {
            name,
            authorization: user["token"]
                .as_str()
                .map(|token| format!("Authorization: Bearer {token}\r\n"))
                .unwrap_or_default(),
            tls: Arc::new(tls(cluster, user)?),
            address,
        })
    }
}

fn tls(cluster: &Value, user: &Value) -> Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    let ca = pem(cluster, "certificate-authority")?.context("the cluster has no certificate-authority")?;
    for certificate in CertificateDer::pem_slice_iter(&ca) {
        roots.add(certificate.map_err(|e| anyhow::anyhow!("certificate-authority: {e}"))?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let (Some(certificate), Some(key)) = (pem(user, "client-certificate")?, pem(user, "client-key")?) else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = CertificateDer::pem_slice_iter(&certificate)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| anyhow::anyhow!("client-certificate: {e}"))?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|e| anyhow::anyhow!("client-key: {e}"))?;
    Ok(builder.with_client_auth_cert(chain, key)?)
}

/// A credential given in place (`…-data`) or as a file's path.
fn pem(of: &Value, field: &str) -> Result<Option<Vec<u8>>> {
    if let Some(data) = of[format!("{field}-data")].as_str() {
        return Ok(Some(STANDARD.decode(data.trim()).with_context(|| field.to_owned())?));
    }
    let Some(path) = of[field].as_str() else {
        return Ok(None);
    };
    Ok(Some(std::fs::read(path).with_context(|| format!("read {path}"))?))
}

fn named<'a>(config: &'a Value, list: &str, field: &str, name: Option<&str>) -> Result<&'a Value> {
    let name = name.with_context(|| format!("no current name for {list}"))?;
    config[list]
        .as_array()
        .into_iter()
        .flatten()
        .find(|entry| entry["name"] == name)
        .map(|entry| &entry[field])
        .with_context(|| format!("{list} has no {name}"))
}

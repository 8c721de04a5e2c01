//! The server on this machine, asked as the cluster's administrator.

use std::path::Path;

use anyhow::{Context, Result, bail};
use coxswain_client::Client;
use coxswain_client::kube::client::Body;

use crate::pki;

/// Where a data directory's server can be reached, as it said when it started.
const ADDRESS: &str = "address";

/// Leaves the address for the commands that ask the server.
///
/// # Errors
/// When it cannot be written.
pub fn announce(data_dir: &Path, url: &str) -> Result<()> {
    pki::write_secret(&data_dir.join(ADDRESS), url)
}

/// Refuses a directory that no server has used.
///
/// # Errors
/// Says what to do.
pub fn check(data_dir: &Path) -> Result<()> {
    let path = data_dir.join(ADDRESS);
    match path.try_exists() {
        Ok(true) => Ok(()),
        Ok(false) => bail!(
            "no server has run in {}: run this on a machine of the control plane, with its --data-dir",
            data_dir.display()
        ),
        Err(error) => Err(error).with_context(|| format!("read {} (as root, perhaps?)", path.display())),
    }
}

/// Asks for something and returns the answer's body.
///
/// # Errors
/// When the server does not answer, or refuses.
pub async fn post(data_dir: &Path, path: &str) -> Result<Body> {
    let read = |name: &str| {
        let path = data_dir.join(name);
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    };
    let url = read(ADDRESS)?;
    let [ca, cert, key] = ["pki/ca.crt", "pki/admin.crt", "pki/admin.key"].map(read);
    let client = Client::from_parts(&url, &ca?, &cert?, &key?).await?;
    let request = http::Request::post(path).body(Body::empty())?;
    let answer = client.kube().send(request).await;
    let answer = answer.with_context(|| format!("the server at {url} cannot be asked; does it run?"))?;
    let (head, body) = answer.into_parts();
    if head.status.is_success() {
        return Ok(body);
    }
    let text = body.collect_bytes().await?;
    let status: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    let why = status["message"]
        .as_str()
        .map_or_else(|| head.status.to_string(), str::to_owned);
    bail!("the server at {url} refuses: {why}")
}

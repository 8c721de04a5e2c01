//! `coxswain token`: what machines join with.
//!
//! Tokens are Secrets of type `bootstrap.kubernetes.io/token`, as `kubeadm token` makes them; the one that is
//! printed carries the hash of the cluster's authority behind an `@`.

use anyhow::{Context, Result, bail};
use coxswain_client::k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Secret};
use coxswain_client::kube::Api;
use coxswain_client::kube::api::{DeleteParams, ListParams, PostParams};
use coxswain_client::{Client, Failure, failure};
use rand::Rng;
use serde_json::json;

use crate::report::line;
use crate::tasks::runtime;
use crate::{cli, join, kubeconfig};

const TYPE: &str = "bootstrap.kubernetes.io/token";
const PREFIX: &str = "bootstrap-token-";
const NAMESPACE: &str = "kube-system";
/// Members may ask for a node's certificate and have it approved.
const GROUP: &str = "system:bootstrappers:coxswain:default-node-token";

/// Runs the command.
///
/// # Errors
/// When the cluster cannot be reached or refuses.
pub fn run(args: &cli::Token) -> Result<()> {
    runtime()?.block_on(async {
        let file = args
            .kubeconfig
            .clone()
            .unwrap_or_else(|| kubeconfig::DEFAULT_PATH.into());
        let client = Client::from_kubeconfig(Some(&file))
            .await
            .with_context(|| format!("kubeconfig {}", file.display()))?;
        let secrets: Api<Secret> = client.namespaced(NAMESPACE);
        match &args.command {
            cli::TokenCommand::Create { hours, description } => create(&client, &secrets, *hours, description).await,
            cli::TokenCommand::List => list(&secrets).await,
            cli::TokenCommand::Delete { token } => delete(&secrets, token).await,
        }
    })
}

async fn create(client: &Client, secrets: &Api<Secret>, hours: u32, description: &str) -> Result<()> {
    let (id, secret) = (random(6), random(16));
    let mut data = json!({
        "token-id": id, "token-secret": secret, "description": description,
        "usage-bootstrap-authentication": "true", "usage-bootstrap-signing": "true", "auth-extra-groups": GROUP,
    });
    if hours > 0 {
        let expires = jiff::Timestamp::now().checked_add(jiff::SignedDuration::from_hours(hours.into()))?;
        data["expiration"] = json!(expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    }
    let body = json!({"metadata": {"name": format!("{PREFIX}{id}")}, "type": TYPE, "stringData": data});
    let body: Secret = serde_json::from_value(body)?;
    secrets
        .create(&PostParams::default(), &body)
        .await
        .context("storing the token")?;
    let map: ConfigMap = client.namespaced(NAMESPACE).get("kube-root-ca.crt").await?;
    let ca = map.data.unwrap_or_default().remove("ca.crt").unwrap_or_default();
    let hash = join::hash_of_pem(&ca).context("the cluster's authority cannot be read")?;
    line(&format!("{id}.{secret}@{hash}"));
    if let Some(address) = address(client).await {
        line(&format!(
            "Join a machine: coxswain agent --join {address} --token {id}.{secret}@{hash}"
        ));
    }
    Ok(())
}

/// Where the API server says it can be reached.
async fn address(client: &Client) -> Option<String> {
    let api: Api<Endpoints> = client.namespaced("default");
    let subset = api.get("kubernetes").await.ok()?.subsets?.into_iter().next()?;
    let ip = subset.addresses?.into_iter().next()?.ip;
    let port = subset.ports?.first()?.port;
    let ip: std::net::IpAddr = ip.parse().ok()?;
    Some(std::net::SocketAddr::new(ip, u16::try_from(port).ok()?).to_string())
}

async fn list(secrets: &Api<Secret>) -> Result<()> {
    let found = secrets
        .list(&ListParams::default().fields(&format!("type={TYPE}")))
        .await?;
    line(&format!("{:<8} {:<22} {}", "ID", "EXPIRES", "DESCRIPTION"));
    for secret in found {
        let data = secret.data.unwrap_or_default();
        let text = |key: &str| data.get(key).map(|v| String::from_utf8_lossy(&v.0).into_owned());
        line(&format!(
            "{:<8} {:<22} {}",
            text("token-id").unwrap_or_default(),
            text("expiration").unwrap_or_else(|| "never".to_owned()),
            text("description").unwrap_or_default()
        ));
    }
    Ok(())
}

async fn delete(secrets: &Api<Secret>, token: &str) -> Result<()> {
    let id = token.split(['.', '@']).next().unwrap_or(token);
    match secrets.delete(&format!("{PREFIX}{id}"), &DeleteParams::default()).await {
        Ok(_) => line(&format!("Token {id} deleted.")),
        Err(error) if failure(&error) == Failure::NotFound => {
            bail!("there is no token {id}: `coxswain token list` shows all")
        }
        Err(error) => return Err(error).context("deleting the token"),
    }
    Ok(())
}

fn random(length: usize) -> String {
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut random = rand::rng();
    (0..length)
        .filter_map(|_| LETTERS.get(random.random_range(0..LETTERS.len())).copied())
        .map(char::from)
        .collect()
}

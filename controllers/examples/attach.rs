//! Runs the controllers against any API server: `attach URL DIR`, where DIR holds `ca.crt`,
//! `admin.crt` and `admin.key`. Ends with Ctrl-C.

use std::path::PathBuf;

use coxswain_client::supervise::Supervisor;
use coxswain_client::{Caches, Client};
use coxswain_controllers::{Clients, Config, run};
use tokio_util::sync::CancellationToken;

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .init();
    let mut arguments = std::env::args().skip(1);
    let (Some(url), Some(directory)) = (arguments.next(), arguments.next()) else {
        return Err("usage: attach URL DIR".into());
    };
    let directory = PathBuf::from(directory);
    let read = |name: &str| std::fs::read_to_string(directory.join(name));
    let ca = read("ca.crt")?;
    let client = Client::from_parts(&url, &ca, &read("admin.crt")?, &read("admin.key")?).await?;
    let config = Config {
        root_ca_pem: ca,
        cluster_cidr: "10.244.0.0/16".to_string(),
        ..Config::default()
    };
    // One identity for all of them: an administrator's.
    let account = client.clone();
    let clients = Clients {
        manager: client,
        account: std::sync::Arc::new(move |_| account.clone()),
    };
    let token = CancellationToken::new();
    let supervisor = Supervisor::default();
    let caches = Caches::new(clients.manager.clone(), token.clone());
    tokio::select! {
        ended = run(clients, caches, config, &supervisor, token.clone()) => ended?,
        _ = tokio::signal::ctrl_c() => token.cancel(),
    }
    Ok(())
}

//! The kubelet-style HTTPS server.

pub mod tls;

use std::sync::Arc;

use coxswain_client::Cache;
use k8s_openapi::api::core::v1::Pod;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::image::import::Importer;
use crate::pods::steps::Shared;
use crate::runtime::Cri;
use crate::{AgentError, Config};

/// A bound server.
pub struct Listening {
    listener: TcpListener,
}

/// Binds.
pub async fn listen(
    config: &Config,
    _shared: Arc<Shared<Cri>>,
    _pods: Cache<Pod>,
    _importer: Importer,
    _changed: Arc<Notify>,
) -> Result<Listening, AgentError> {
    let listener = TcpListener::bind(config.listen).await.map_err(|error| AgentError::Server(error.to_string()))?;
    Ok(Listening { listener })
}

impl Listening {
    /// Serves.
    pub async fn serve(self, token: CancellationToken) {
        let _ = self.listener;
        token.cancelled().await;
    }
}

//! What every request shares: configuration, store, registry, keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use coxswain_api::{ApiError, Registry};
use coxswain_consensus::{ProposeError, Store};
use coxswain_store::{FormBudget, Outcome, Txn};
use tokio_util::sync::CancellationToken;

use crate::authn::Tokens;
use crate::authz::Rbac;
use crate::pages::discovery::DiscoveryCache;
use crate::pages::openapi::OpenApiCache;
use crate::subresources::kubelet::Kubelets;
use crate::{Config, StartError};

/// Most bytes of protobuf kept with stored objects; beyond that they are made again for every reader.
const FORM_BYTES_MAX: usize = 64 << 20;

/// State of one API server.
pub(crate) struct Shared {
    pub config: Config,
    pub store: Store,
    pub registry: ArcSwap<Registry>,
    pub tokens: Tokens,
    pub rbac: Rbac,
    pub kubelets: Kubelets,
    pub discovery: DiscoveryCache,
    pub openapi: OpenApiCache,
    /// When this server was made.
    pub started: jiff::Timestamp,
    /// What the protobuf forms kept with stored objects may take.
    pub forms: Arc<FormBudget>,
    /// Cancelled when the server is to stop: ends watches and idle connections.
    pub stopping: CancellationToken,
    pub requests: AtomicU64,
    first_revision: AtomicU64,
}

impl Shared {
    /// Checks the configuration and builds the state.
    pub fn new(config: Config, store: Store) -> Result<Self, StartError> {
        let tokens = Tokens::new(&config.service_account_key_pem, &config.issuer)?;
        let kubelets = Kubelets::new(&config)?;
        Ok(Self {
            tokens,
            kubelets,
            config,
            store,
            registry: ArcSwap::from_pointee(Registry::builtin()),
            rbac: Rbac::default(),
            discovery: DiscoveryCache::default(),
            openapi: OpenApiCache::default(),
            started: jiff::Timestamp::now(),
            forms: FormBudget::new(FORM_BYTES_MAX),
            stopping: CancellationToken::new(),
            requests: AtomicU64::new(0),
            first_revision: AtomicU64::new(0),
        })
    }

    /// Writes, with the store's refusals as API errors.
    pub async fn propose(&self, txn: Txn) -> Result<Outcome, ApiError> {
        self.store.propose(txn).await.map_err(|error| match error {
            ProposeError::TooLarge { limit, .. } => ApiError::body_too_large(limit),
            ProposeError::Overloaded => ApiError::too_many_requests(error.to_string(), 1),
            ProposeError::NoSpace => ApiError::new(507, "InternalError", error.to_string()),
            ProposeError::Unknown => ApiError::new(504, "Timeout", error.to_string()),
            ProposeError::NoLeader | ProposeError::Stopped(_) => ApiError::service_unavailable(error.to_string()),
        })
    }

    /// The revision at which this server became ready. Watches cannot begin before it.
    pub fn first_revision(&self) -> u64 {
        self.first_revision.load(Ordering::Relaxed)
    }

    /// Declares the server ready at the store's current revision.
    pub fn ready(&self) {
        self.first_revision
            .store(self.store.snapshot().revision(), Ordering::Relaxed);
    }

    /// Whether [`Shared::ready`] was called.
    pub fn is_ready(&self) -> bool {
        self.first_revision() > 0
    }

    /// The rows served now.
    pub fn registry(&self) -> Arc<Registry> {
        self.registry.load_full()
    }
}

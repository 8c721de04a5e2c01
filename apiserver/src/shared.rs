//! What every request shares: configuration, store, registry, keys.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use arc_swap::ArcSwap;
use coxswain_api::codec::protobuf;
use coxswain_api::{ApiError, Registry};
use coxswain_consensus::{Expired, ProposeError, Store};
use coxswain_store::{Draft, FormBudget, Op, Outcome, Snapshot, Txn};
use coxswain_supervise::Supervisor;
use http::HeaderMap;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::audit::Audit;
use crate::authn::{self, Authn, Certified, Tokens, Verified};
use crate::authz::Authorizers;
use crate::costly::Costly;
use crate::flow::Flow;
use crate::pages::cluster::BACKUPS_MAX;
use crate::pages::discovery::DiscoveryCache;
use crate::pages::openapi::OpenApiCache;
use crate::select::AllIndexes;
use crate::serve::connections::Connections;
use crate::subresources::kubelet::Kubelets;
use crate::{Config, StartError, User};

/// Most bytes of protobuf kept with stored objects; beyond that they are made again for every reader.
const FORM_BYTES_MAX: usize = 32 << 20;

/// Most bytes of a stored object: what etcd takes in one request.
const OBJECT_BYTES_MAX: usize = 3 << 19;
/// Most bytes of its JSON, however short it is in protobuf.
pub(crate) const OBJECT_JSON_BYTES_MAX: usize = 3 << 20;

/// 500 in the words of etcd, which clients know.
pub(crate) fn object_too_large() -> ApiError {
    ApiError::new(500, "", "etcdserver: request is too large")
}

/// The store's refusal as an API error.
pub(crate) fn refused(error: &ProposeError) -> ApiError {
    match error {
        ProposeError::TooLarge { limit, .. } => ApiError::body_too_large(*limit),
        ProposeError::Overloaded => ApiError::too_many_requests(error.to_string(), 1),
        ProposeError::NoSpace { .. } => ApiError::new(507, "InsufficientStorage", error.to_string()),
        ProposeError::Unknown => ApiError::new(504, "Timeout", error.to_string()),
        ProposeError::NoLeader | ProposeError::Stopped(_) => ApiError::service_unavailable(error.to_string()),
    }
}

/// A holder of memory by its name, and how many bytes it has.
pub(crate) type Holder = (&'static str, Box<dyn Fn() -> u64 + Send + Sync>);

/// State of one API server.
pub(crate) struct Shared {
    pub config: Config,
    pub store: Store,
    pub registry: ArcSwap<Registry>,
    pub tokens: Tokens,
    pub authn: Authn,
    pub authz: Authorizers,
    pub flow: Flow,
    pub costly: Costly,
    pub audit: Option<Arc<Audit>>,
    pub kubelets: Kubelets,
    pub connections: Arc<Connections>,
    /// Places for backups that are being taken.
    pub backups: Arc<Semaphore>,
    pub discovery: DiscoveryCache,
    pub openapi: OpenApiCache,
    /// When this server was made.
    pub started: jiff::Timestamp,
    /// What the protobuf forms kept with stored objects may take.
    pub forms: Arc<FormBudget>,
    /// Cancelled when the server is to stop: ends watches and idle connections.
    pub stopping: CancellationToken,
    /// The tasks of this server, and what else of the process its health checks are to name.
    pub supervisor: Supervisor,
    pub requests: AtomicU64,
    /// Holders of memory besides those here, for metrics: what each tells of its bytes.
    pub holders: RwLock<Vec<Holder>>,
    pub indexes: AllIndexes,
    first_revision: AtomicU64,
}

impl Shared {
    /// Checks the configuration and builds the state.
    pub fn new(config: Config, store: Store) -> Result<Self, StartError> {
        let tokens = Tokens::new(&config.service_account_key_pem, &config.issuer)?;
        let kubelets = Kubelets::new(&config)?;
        let audit = config.audit.as_ref().map(Audit::open).transpose();
        let audit = audit.map_err(StartError::Audit)?.map(Arc::new);
        Ok(Self {
            tokens,
            authn: Authn::new(&config)?,
            flow: Flow::default(),
            costly: Costly::default(),
            audit,
            kubelets,
            connections: Connections::new(config.limits.clone().within_open_files()),
            backups: Arc::new(Semaphore::new(BACKUPS_MAX)),
            authz: Authorizers::new(&store),
            config,
            store,
            registry: ArcSwap::from_pointee(Registry::builtin()),
            discovery: DiscoveryCache::default(),
            openapi: OpenApiCache::default(),
            started: jiff::Timestamp::now(),
            forms: FormBudget::new(FORM_BYTES_MAX),
            stopping: CancellationToken::new(),
            supervisor: Supervisor::default(),
            requests: AtomicU64::new(0),
            holders: RwLock::default(),
            indexes: AllIndexes::default(),
            first_revision: AtomicU64::new(0),
        })
    }

    /// The identity of a request without its impersonation. When there is none, `why` says what was tried and why it
    /// failed: for the audit trail, never for the client, and without the credential.
    ///
    /// # Errors
    /// 401 for a credential that is not valid.
    pub async fn authenticate(
        &self,
        certificate: Option<&Certified>,
        headers: &HeaderMap,
        path: &str,
        why: &mut String,
    ) -> Result<User, ApiError> {
        let now_s = crate::answer::now().as_second();
        "attempted: x509".clone_into(why);
        if let Some(user) = self.authn.by_certificate(certificate, headers, now_s)? {
            return Ok(user);
        }
        let Some(token) = authn::bearer(headers)? else {
            "no credentials provided".clone_into(why);
            // Whoever shows a certificate is not anonymous.
            return match certificate {
                Some(_) => Err(ApiError::unauthorized()),
                None => self.authn.anonymous(path),
            };
        };
        match self.by_token(token, &[]).await {
            Ok(verified) => Ok(verified.user),
            Err(reason) => {
                tracing::debug!(%reason, "bearer token refused");
                *why = format!("attempted: bearer: {}", reason.replace(token, "..."));
                Err(ApiError::unauthorized())
            }
        }
    }

    /// The user of a bearer token that is good for one of the audiences (the server's own when empty). The error
    /// is for people; it never reaches an unauthenticated client.
    pub async fn by_token(&self, token: &str, audiences: &[String]) -> Result<Verified, String> {
        let now_s = crate::answer::now().as_second();
        let snapshot = self.store.snapshot();
        let verified = self.authn.by_token(&self.tokens, token, audiences, &snapshot, now_s);
        let mut verified = verified.await?;
        verified.user.groups.push(authn::AUTHENTICATED.to_owned());
        Ok(verified)
    }

    /// Writes, with the store's refusals as API errors.
    ///
    /// # Errors
    /// 500 for an object that is larger than one may be, in the words of etcd; what the store refuses.
    pub async fn propose(&self, txn: Txn) -> Result<Outcome, ApiError> {
        for op in &txn.ops {
            if let Op::Put { draft, .. } = op {
                self.check_size(draft)?;
            }
        }
        self.store.propose(txn).await.map_err(|error| refused(&error))
    }

    /// An object may take what an etcd with its defaults takes. Kubernetes keeps built-in kinds in protobuf, which is often
    /// shorter than JSON: one that fits there fits here.
    fn check_size(&self, draft: &Draft) -> Result<(), ApiError> {
        let bytes = draft.body.len();
        if bytes <= OBJECT_BYTES_MAX {
            return Ok(());
        }
        let registry = self.registry();
        let row = registry.resources().find(|row| row.storage == draft.key.resource);
        let type_name = row
            .and_then(|row| row.type_name)
            .filter(|_| bytes <= OBJECT_JSON_BYTES_MAX);
        let shorter = type_name.map(|type_name| {
            let value = serde_json::from_slice(&draft.body).unwrap_or_default();
            protobuf::message(&value, type_name).len()
        });
        if shorter.unwrap_or(bytes) <= OBJECT_BYTES_MAX {
            return Ok(());
        }
        Err(object_too_large())
    }

    /// Waits until an object of one of the resources has changed after a revision; `false` when the store has stopped.
    pub async fn changed(&self, revision: u64, resources: &[&str]) -> bool {
        let cursors = resources.iter().map(|resource| self.store.watch(resource, revision));
        let Ok(mut cursors) = cursors.collect::<Result<Vec<_>, _>>() else {
            // So much has that the history of it is gone.
            return true;
        };
        let waits = cursors.iter_mut().map(|cursor| Box::pin(cursor.next()));
        let (first, _, _) = futures::future::select_all(waits).await;
        !matches!(first, Err(Expired::Stopped))
    }

    /// Runs a task of this server until it stops. One that panics is restarted; until then its check
    /// `apiserver/NAME` fails.
    pub fn keep<F, Fut>(self: &Arc<Self>, name: &'static str, task: F)
    where
        F: Fn(Arc<Self>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let shared = self.clone();
        tokio::spawn(async move {
            let start = || task(shared.clone());
            let name = format!("apiserver/{name}");
            shared.supervisor.keep(&name, &shared.stopping, start).await;
        });
    }

    /// Has a look at the store, and again whenever one of the resources that the look tells has changed, until the server stops.
    pub async fn look_again<F>(self: Arc<Self>, look: impl Fn(Arc<Self>, Snapshot) -> F)
    where
        F: Future<Output = &'static [&'static str]>,
    {
        let looking = async {
            loop {
                let snapshot = self.store.snapshot();
                let revision = snapshot.revision();
                let watched = look(self.clone(), snapshot).await;
                if !self.changed(revision, watched).await {
                    return;
                }
            }
        };
        self.stopping.run_until_cancelled(looking).await;
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

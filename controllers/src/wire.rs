//! Starts every controller and restarts one that panics, while the others go on.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use coxswain_client::k8s_openapi::api::apps::v1::ReplicaSet;
use coxswain_client::k8s_openapi::api::core::v1::ReplicationController;
use coxswain_client::supervise::Supervisor;
use coxswain_client::{Caches, Recorder};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::context::{Clients, Config, Context, MANAGER};
use crate::error::ControllerError;
use crate::inventory::Inventory;
use crate::{
    aggregation, autoscale, bootstrap_tokens, certificates, cronjob, daemonset, deployment, disruption, endpoints,
    endpointslice, garbage, job, mirroring, namespace, node, protection, replicaset, resourcequota, serviceaccount,
    statefulset,
};

const GONE_MAX: usize = 4096;

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;
/// Makes a controller's task: at the start, and again after one that panicked.
type Start = Box<dyn Fn() -> Task + Send + Sync>;
/// The namespaces of objects that went away, for the one controller that listens.
pub(crate) type Gone = Arc<Mutex<mpsc::Receiver<Arc<str>>>>;

/// Runs all controllers until the token is cancelled. One that ends on its own is restarted; until then the check
/// `controllers/NAME` of `supervisor` fails. They read from `caches`, which they may share with others of their process.
///
/// # Errors
/// When the configuration cannot be used.
pub async fn run(
    clients: Clients,
    caches: Caches,
    config: Config,
    supervisor: &Supervisor,
    token: CancellationToken,
) -> Result<(), ControllerError> {
    let client = clients.manager.clone();
    let cidrs =
        node::ipam::Cidrs::parse(&config.cluster_cidr, config.node_cidr_bits).map_err(ControllerError::Config)?;
    let context = Context {
        recorder: Recorder::new(&client, MANAGER, ""),
        caches,
        config,
        client: client.clone(),
        clients,
        token: token.clone(),
    };
    let all = controllers(&context, &Inventory::new(client, token.clone()), cidrs);
    let mut kept = JoinSet::new();
    for (name, start) in all {
        let (supervisor, token) = (supervisor.clone(), token.clone());
        kept.spawn(async move { supervisor.keep(&format!("controllers/{name}"), &token, start).await });
    }
    while kept.join_next().await.is_some() {}
    Ok(())
}

fn controllers(
    context: &Context,
    inventory: &Inventory,
    cidrs: Option<node::ipam::Cidrs>,
) -> Vec<(&'static str, Start)> {
    let (to_namespaces, gone) = mpsc::channel(GONE_MAX);
    let (to_quotas, given_back) = mpsc::channel(GONE_MAX);
    let (gone, given_back): (Gone, Gone) = (Arc::new(Mutex::new(gone)), Arc::new(Mutex::new(given_back)));
    let (emptied, collected) = (inventory.clone(), inventory.clone());
    let empty = move |context| namespace::run(context, emptied.clone(), gone.clone());
    let listeners = vec![to_namespaces, to_quotas];
    let collect = move |context| garbage::run(context, collected.clone(), listeners.clone());
    let count = move |context| resourcequota::run(context, given_back.clone());
    let of_nodes = move |context| node::run(context, cidrs);
    vec![
        (
            "serviceaccount",
            start(context, "serviceaccount-controller", serviceaccount::run),
        ),
        (
            "replicaset",
            start(context, "replicaset-controller", replicaset::run::<ReplicaSet>),
        ),
        (
            "replicationcontroller",
            start(
                context,
                "replication-controller",
                replicaset::run::<ReplicationController>,
            ),
        ),
        ("deployment", start(context, "deployment-controller", deployment::run)),
        (
            "endpointslice",
            start(context, "endpoint-slice-controller", endpointslice::run),
        ),
        ("endpoints", start(context, "endpoint-controller", endpoints::run)),
        ("namespace", start(context, "namespace-controller", empty)),
        ("garbage", start(context, "garbage-collector-controller", collect)),
        (
            "aggregation",
            start(context, "clusterrole-aggregation-controller", aggregation::run),
        ),
        (
            "protection",
            start(context, "pvc-protection-controller", protection::run),
        ),
        ("disruption", start(context, "controllermanager", disruption::run)),
        ("job", start(context, "job-controller", job::run)),
        ("autoscale", start(context, "horizontal-pod-autoscaler", autoscale::run)),
        ("cronjob", start(context, "cronjob-controller", cronjob::run)),
        ("daemonset", start(context, "daemonset-controller", daemonset::run)),
        (
            "mirroring",
            start(context, "endpoint-slice-mirroring-controller", mirroring::run),
        ),
        (
            "statefulset",
            start(context, "statefulset-controller", statefulset::run),
        ),
        ("resourcequota", start(context, "resourcequota-controller", count)),
        (
            "certificates",
            start(context, "certificate-controller", certificates::run),
        ),
        ("token-cleaner", start(context, "token-cleaner", bootstrap_tokens::run)),
        ("node", start(context, "node-controller", of_nodes)),
    ]
}

/// A controller that reports events as `component`.
fn start<F, Fut>(context: &Context, component: &str, run: F) -> Start
where
    F: Fn(Context) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let context = context.named(component);
    Box::new(move || Box::pin(run(context.clone())))
}

//! Starts every controller and keeps watch over them.

use std::future::Future;
use std::pin::Pin;

use coxswain_client::k8s_openapi::api::apps::v1::ReplicaSet;
use coxswain_client::k8s_openapi::api::core::v1::ReplicationController;
use coxswain_client::{Caches, Recorder};
use tokio::sync::mpsc;
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

/// Runs all controllers until the token is cancelled. One that ends on its own ends them all. They read from `caches`,
/// which they may share with others of their process.
pub async fn run(
    clients: Clients,
    caches: Caches,
    config: Config,
    token: CancellationToken,
) -> Result<(), ControllerError> {
    let client = clients.manager.clone();
    let cidrs =
        node::ipam::Cidrs::parse(&config.cluster_cidr, config.node_cidr_bits).map_err(ControllerError::Config)?;
    let running = token.child_token();
    let context = Context {
        recorder: Recorder::new(&client, MANAGER, ""),
        caches,
        config,
        client: client.clone(),
        clients,
        token: running.clone(),
    };
    let inventory = Inventory::new(client, running.clone());
    let (to_namespaces, gone) = mpsc::channel(GONE_MAX);
    let (to_quotas, given_back) = mpsc::channel(GONE_MAX);
    let named = |component: &str| context.named(component);
    let tasks: Vec<(&'static str, Task)> = vec![
        (
            "serviceaccount",
            Box::pin(serviceaccount::run(named("serviceaccount-controller"))),
        ),
        (
            "replicaset",
            Box::pin(replicaset::run::<ReplicaSet>(named("replicaset-controller"))),
        ),
        (
            "replicationcontroller",
            Box::pin(replicaset::run::<ReplicationController>(named(
                "replication-controller",
            ))),
        ),
        ("deployment", Box::pin(deployment::run(named("deployment-controller")))),
        (
            "endpointslice",
            Box::pin(endpointslice::run(named("endpoint-slice-controller"))),
        ),
        ("endpoints", Box::pin(endpoints::run(named("endpoint-controller")))),
        (
            "namespace",
            Box::pin(namespace::run(named("namespace-controller"), inventory.clone(), gone)),
        ),
        (
            "garbage",
            Box::pin(garbage::run(
                named("garbage-collector-controller"),
                inventory,
                vec![to_namespaces, to_quotas],
            )),
        ),
        (
            "aggregation",
            Box::pin(aggregation::run(named("clusterrole-aggregation-controller"))),
        ),
        (
            "protection",
            Box::pin(protection::run(named("pvc-protection-controller"))),
        ),
        ("disruption", Box::pin(disruption::run(named("controllermanager")))),
        ("job", Box::pin(job::run(named("job-controller")))),
        (
            "autoscale",
            Box::pin(autoscale::run(named("horizontal-pod-autoscaler"))),
        ),
        ("cronjob", Box::pin(cronjob::run(named("cronjob-controller")))),
        ("daemonset", Box::pin(daemonset::run(named("daemonset-controller")))),
        (
            "mirroring",
            Box::pin(mirroring::run(named("endpoint-slice-mirroring-controller"))),
        ),
        (
            "statefulset",
            Box::pin(statefulset::run(named("statefulset-controller"))),
        ),
        (
            "resourcequota",
            Box::pin(resourcequota::run(named("resourcequota-controller"), given_back)),
        ),
        (
            "certificates",
            Box::pin(certificates::run(named("certificate-controller"))),
        ),
        ("token cleaner", Box::pin(bootstrap_tokens::run(named("token-cleaner")))),
        ("node", Box::pin(node::run(named("node-controller"), cidrs))),
    ];
    let mut set = JoinSet::new();
    for (name, task) in tasks {
        set.spawn(async move {
            task.await;
            name
        });
    }
    let ended = tokio::select! {
        () = token.cancelled() => None,
        ended = set.join_next() => Some(match ended {
            Some(Ok(name)) => name,
            _ => "a",
        }),
    };
    running.cancel();
    match ended {
        Some(name) if !token.is_cancelled() => {
            set.abort_all();
            Err(ControllerError::Stopped(name))
        }
        _ => {
            while set.join_next().await.is_some() {}
            Ok(())
        }
    }
}

//! An operator made with kube-rs's runtime, as people write them, against a server without nodes: a controller with
//! owned objects, finalizers, server-side apply and events, and caches filled in both ways that the runtime knows.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use coxswain_e2e::Server;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::api::events::v1;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType, Recorder};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::{Controller, WatchStreamExt, finalizer, reflector, watcher};
use kube::{Api, Client, Config, Resource, ResourceExt};
use serde_json::json;

const NAMESPACE: &str = "default";
const PARENTS: usize = 12;
const WITHIN: Duration = Duration::from_secs(30);

/// What the operator works with, and whose ends it has seen.
struct Operator {
    client: Client,
    recorder: Recorder,
    cleaned: Mutex<BTreeSet<String>>,
}

type Finished = finalizer::Error<kube::Error>;

/// Every parent has a Secret of its name that repeats its word.
async fn reconcile(parent: Arc<ConfigMap>, operator: Arc<Operator>) -> Result<Action, Finished> {
    let parents: Api<ConfigMap> = Api::namespaced(operator.client.clone(), NAMESPACE);
    finalizer(&parents, "example.com/operator", parent, |event| async {
        match event {
            finalizer::Event::Apply(parent) => apply(&parent, &operator).await,
            finalizer::Event::Cleanup(parent) => {
                let mut cleaned = operator.cleaned.lock().expect("no panics");
                cleaned.insert(parent.name_any());
                Ok(Action::await_change())
            }
        }
    })
    .await
}

async fn apply(parent: &ConfigMap, operator: &Operator) -> Result<Action, kube::Error> {
    let secrets: Api<Secret> = Api::namespaced(operator.client.clone(), NAMESPACE);
    let word = parent.data.iter().flatten().find(|(key, _)| *key == "word");
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": parent.name_any(), "ownerReferences": [parent.controller_owner_ref(&())]},
        "stringData": {"word": word.map(|(_, word)| word)},
    });
    let params = PatchParams::apply("operator");
    secrets
        .patch(&parent.name_any(), &params, &Patch::Apply(&secret))
        .await?;
    let told = Event {
        type_: EventType::Normal,
        reason: "Repeated".into(),
        note: Some("the word is repeated".into()),
        action: "Repeat".into(),
        secondary: None,
    };
    operator.recorder.publish(&told, &parent.object_ref(&())).await?;
    Ok(Action::await_change())
}

fn parent(number: usize) -> Result<ConfigMap> {
    Ok(serde_json::from_value(json!({
        "metadata": {"name": format!("parent-{number}"), "labels": {"role": "parent"}},
        "data": {"word": format!("word-{number}")},
    }))?)
}

/// Waits until the operator's Secret has the word of its parent.
async fn repeated(secrets: &Api<Secret>, name: &str, word: &str) -> Result<Secret> {
    let has = |secret: Option<&Secret>| {
        let data = secret.and_then(|secret| secret.data.as_ref());
        data.and_then(|data| data.get("word"))
            .is_some_and(|found| found.0 == word.as_bytes())
    };
    let found = tokio::time::timeout(WITHIN, await_condition(secrets.clone(), name, has));
    let found = found.await.with_context(|| format!("{name} never says {word}"))??;
    found.context("a Secret")
}

async fn gone<K>(api: &Api<K>, object: &K) -> Result<()>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + Send + serde::de::DeserializeOwned + 'static,
{
    let (name, uid) = (object.name_any(), object.uid().context("a uid")?);
    let deleted = await_condition(api.clone(), &name, conditions::is_deleted(&uid));
    tokio::time::timeout(WITHIN, deleted)
        .await
        .with_context(|| format!("{name} never goes"))??;
    Ok(())
}

async fn connect(server: &Server) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(server.kubeconfig())?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

#[tokio::test]
async fn an_operator_reconciles() -> Result<()> {
    let server = Server::bare()?;
    let client = connect(&server).await?;
    let parents: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    let operator = Arc::new(Operator {
        client: client.clone(),
        recorder: Recorder::new(client.clone(), "operator".into()),
        cleaned: Mutex::default(),
    });
    // Some are there before the operator, the others come while it runs.
    for number in 0..PARENTS / 2 {
        parents.create(&PostParams::default(), &parent(number)?).await?;
    }
    let chosen = watcher::Config::default().labels("role=parent");
    let running = Controller::new(parents.clone(), chosen)
        .owns(secrets.clone(), watcher::Config::default().streaming_lists())
        .run(
            reconcile,
            |_, _, _| Action::requeue(Duration::from_millis(100)),
            operator.clone(),
        )
        .for_each(|_| async {});
    let running = tokio::spawn(running);
    for number in PARENTS / 2..PARENTS {
        parents.create(&PostParams::default(), &parent(number)?).await?;
    }
    for number in 0..PARENTS {
        repeated(&secrets, &format!("parent-{number}"), &format!("word-{number}")).await?;
    }

    // A changed parent, a deleted and a spoilt child: each brings the operator back.
    let merge = |word: &str| Patch::Merge(json!({"data": {"word": word}}));
    parents
        .patch("parent-0", &PatchParams::default(), &merge("changed"))
        .await?;
    repeated(&secrets, "parent-0", "changed").await?;
    let child = secrets.get("parent-1").await?;
    secrets.delete("parent-1", &DeleteParams::default()).await?;
    gone(&secrets, &child).await?;
    let again = repeated(&secrets, "parent-1", "word-1").await?;
    ensure!(again.uid() != child.uid(), "the deleted child is another one");
    let spoilt = Patch::Merge(json!({"stringData": {"word": "spoilt"}}));
    secrets.patch("parent-2", &PatchParams::default(), &spoilt).await?;
    repeated(&secrets, "parent-2", "word-2").await?;

    // A deleted parent waits for its operator, and takes its child with it.
    let (last, child) = (parents.get("parent-3").await?, secrets.get("parent-3").await?);
    parents.delete("parent-3", &DeleteParams::default()).await?;
    gone(&parents, &last).await?;
    gone(&secrets, &child).await?;
    let cleaned = operator.cleaned.lock().expect("no panics").clone();
    ensure!(cleaned == BTreeSet::from(["parent-3".to_owned()]), "{cleaned:?}");

    let events: Api<v1::Event> = Api::namespaced(client, NAMESPACE);
    let told = events.list(&ListParams::default().fields("reason=Repeated")).await?;
    let about: BTreeSet<_> = told
        .iter()
        .filter_map(|event| event.regarding.as_ref()?.name.clone())
        .collect();
    ensure!(about.len() == PARENTS, "events about {about:?}");
    running.abort();
    Ok(())
}

/// Names and words of objects.
fn contents<'a>(
    objects: impl IntoIterator<Item = &'a ConfigMap>,
) -> BTreeMap<String, Option<BTreeMap<String, String>>> {
    let objects = objects.into_iter();
    objects.map(|one| (one.name_any(), one.data.clone())).collect()
}

#[tokio::test]
async fn caches_follow_by_pages_and_by_streams() -> Result<()> {
    let server = Server::bare()?;
    let parents: Api<ConfigMap> = Api::namespaced(connect(&server).await?, NAMESPACE);
    for number in 0..PARENTS {
        parents.create(&PostParams::default(), &parent(number)?).await?;
    }
    let chosen = || watcher::Config::default().labels("role=parent");
    for config in [
        chosen().page_size(5),
        chosen().any_semantic(),
        chosen().streaming_lists(),
    ] {
        let shown = format!("{config:?}");
        let (cache, writer) = reflector::store();
        let follow = reflector(writer, watcher(parents.clone(), config)).applied_objects();
        let compare = async {
            cache.wait_until_ready().await?;
            let cached = || contents(cache.state().iter().map(|one| &**one));
            ensure!(cached().len() == PARENTS, "{:?}", cached());
            parents.create(&PostParams::default(), &parent(100)?).await?;
            parents.delete("parent-100", &DeleteParams::default()).await?;
            let word = Patch::Merge(json!({"data": {"word": shown}}));
            parents.patch("parent-5", &PatchParams::default(), &word).await?;
            let there = parents.list(&ListParams::default().labels("role=parent")).await?;
            let there = contents(&there);
            while cached() != there {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Ok(())
        };
        let mut follow = pin!(follow.for_each(|_| async {}));
        tokio::select! {
            () = &mut follow => anyhow::bail!("the watch ended: {shown}"),
            compared = tokio::time::timeout(WITHIN, compare) => {
                compared.with_context(|| format!("the cache never follows: {shown}"))??;
            }
        }
    }
    Ok(())
}

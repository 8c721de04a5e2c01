//! The steps a pod worker can take: each carries out one planned action and reports the outcome. No
//! choices here beyond what the plan says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use coxswain_beneath::Links;
use coxswain_client::{Cache, Client, Recorder};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Service};
use tokio_util::sync::CancellationToken;

use super::config::{self, PodPaths, Resolver};
use super::env::{self, Objects};
use super::events::PodEvents;
use super::fields::{self, NodeFacts};
use super::plan::Waiting;
use super::probes::{self, Target};
use super::{cgroup, files, images, resize, resources, security};
use crate::runtime::{Runtime, RuntimeError};
use crate::volumes::references::{Key, Pool, References, keys};
use crate::volumes::{self, Sources, Token, VolumeError, Volumes};

/// What all pod workers share.
pub struct Shared<R> {
    /// The container runtime.
    pub runtime: Arc<R>,
    /// The API server.
    pub client: Client,
    /// Where events go.
    pub recorder: Recorder,
    /// This node.
    pub node: NodeFacts,
    /// Name resolution.
    pub resolver: Resolver,
    /// `<data-dir>/agent/pods`.
    pub pods_dir: PathBuf,
    /// Where pod logs are.
    pub logs_dir: PathBuf,
    /// All Services, for environment variables.
    pub services: Cache<Service>,
    /// Watched ConfigMaps and Secrets.
    pub references: Pool,
    /// All pods of this node.
    pub pods: Cache<Pod>,
    /// Told when a pod leaves or asks for less: one that waits for room looks again.
    pub room: tokio::sync::Notify,
}

impl<R> Shared<R> {
    /// Where one pod's files are; `None` when its identity cannot be the name of a directory.
    pub fn paths(&self, pod: &Pod) -> Option<PodPaths> {
        let meta = &pod.metadata;
        let (namespace, name) = (meta.namespace.as_deref()?, meta.name.as_deref()?);
        PodPaths::new(&self.pods_dir, &self.logs_dir, namespace, name, meta.uid.as_deref()?)
    }
}

/// One pod as its steps see it.
pub struct Subject<R> {
    /// What all workers share.
    pub shared: Arc<Shared<R>>,
    /// The pod.
    pub pod: Arc<Pod>,
    /// Where its files are.
    pub paths: PodPaths,
    /// Its events.
    pub events: PodEvents,
    /// Its ConfigMaps and Secrets.
    pub references: Arc<References>,
    /// Its service account tokens.
    pub tokens: Arc<tokio::sync::Mutex<BTreeMap<String, Token>>>,
}

impl<R> Clone for Subject<R> {
    fn clone(&self) -> Self {
        Subject {
            shared: self.shared.clone(),
            pod: self.pod.clone(),
            paths: self.paths.clone(),
            events: self.events.clone(),
            references: self.references.clone(),
            tokens: self.tokens.clone(),
        }
    }
}

/// How a start ended.
#[derive(Debug)]
pub struct Started {
    /// The container's name.
    pub container: String,
    /// What went wrong, and the state after a while.
    pub result: Result<(), (Waiting, Option<Waiting>)>,
}

/// Makes or refreshes the volumes.
pub async fn make_volumes<R: Runtime>(subject: &Subject<R>) -> Result<Volumes, VolumeError> {
    let paths = &subject.paths;
    let images = match mount_images(subject, paths).await {
        Ok(images) => images,
        Err(error) => {
            subject.events.warning(None, "FailedMount", &error.to_string());
            return Err(error);
        }
    };
    let sources = Sources {
        images: &images,
        client: &subject.shared.client,
        node: &subject.shared.node,
        references: &subject.references,
        tokens: &subject.tokens,
        now: Timestamp::now(),
    };
    let result = match paths.open() {
        Ok(root) => volumes::ensure(&subject.pod, &paths.directory, &root, &sources).await,
        Err(error) => Err(VolumeError {
            volume: String::new(),
            reason: format!("{}: {error}", paths.directory.display()),
        }),
    };
    if let Err(error) = &result {
        subject.events.warning(None, "FailedMount", &error.to_string());
    }
    result
}

/// Brings and mounts the images that are volumes.
async fn mount_images<R: Runtime>(
    subject: &Subject<R>,
    paths: &PodPaths,
) -> Result<BTreeMap<String, PathBuf>, VolumeError> {
    let mut mounted = BTreeMap::new();
    let (shared, pod) = (&subject.shared, &subject.pod);
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let Some(source) = &volume.image else { continue };
        let path = paths.directory.join(volumes::IMAGES).join(&volume.name);
        let refuse = |reason: String| VolumeError {
            volume: volume.name.clone(),
            reason,
        };
        if !coxswain_beneath::is_component(&volume.name) {
            return Err(refuse(format!("{:?} is no name for a volume", volume.name)));
        }
        if !volumes::mounts::is_mounted(&path) {
            let wanted = Container {
                image: source.reference.clone(),
                image_pull_policy: source.pull_policy.clone(),
                ..Container::default()
            };
            let secrets = pull_secrets(subject).await;
            let image = images::ensure(&*shared.runtime, &wanted, &secrets, &subject.events).await;
            let image = image.map_err(|failure| refuse(failure.waiting.message))?;
            let place = Path::new(volumes::IMAGES).join(&volume.name);
            let made = paths.open().and_then(|root| root.ensure_dir(place, 0o755));
            made.map_err(|error| refuse(format!("{}: {error}", path.display())))?;
            let key = view_key(pod.metadata.uid.as_deref().unwrap_or_default(), &volume.name);
            let result = shared.runtime.mount_image(&image.id, &key, &path).await;
            result.map_err(|error| refuse(error.message))?;
        }
        mounted.insert(volume.name.clone(), path);
    }
    Ok(mounted)
}

/// What backs an image volume in the runtime.
fn view_key(uid: &str, volume: &str) -> String {
    format!("coxswain-{uid}-{volume}")
}

/// Makes the sandbox; stops dead ones of the pod first so that their addresses are free.
pub async fn make_sandbox<R: Runtime>(
    subject: &Subject<R>,
    attempt: u32,
    dead: Vec<String>,
) -> Result<(), RuntimeError> {
    let shared = &subject.shared;
    for id in dead {
        let _ = shared.runtime.stop_sandbox(&id).await;
    }
    let refuse = |error: RuntimeError, text: &str| {
        let message = format!("Failed to create pod sandbox: {text}");
        subject.events.warning(None, "FailedCreatePodSandBox", &message);
        error
    };
    let local = |message: String| {
        let error = RuntimeError {
            code: "Unknown".into(),
            message: message.clone(),
        };
        refuse(error, &message)
    };
    security::check_sandbox(&subject.pod).map_err(local)?;
    let paths = &subject.paths;
    paths
        .open()
        .map_err(|error| local(format!("{}: {error}", paths.directory.display())))?;
    crate::logs::make_directory(&paths.logs).map_err(|error| local(format!("{}: {error}", paths.logs.display())))?;
    cgroup::ensure(&subject.pod);
    let config = config::sandbox(&subject.pod, attempt, paths, &shared.resolver);
    let made = shared.runtime.run_sandbox(config).await;
    made.map(drop).map_err(|error| {
        let text = error.to_string();
        refuse(error, &text)
    })
}

/// Where a container is started.
#[derive(Clone, Debug)]
pub struct Place {
    /// The sandbox.
    pub sandbox_id: String,
    /// Its attempt.
    pub attempt: u32,
    /// The pod's addresses.
    pub ips: Vec<String>,
    /// The pod's volumes.
    pub volumes: Volumes,
    /// Ids of the pod's running containers by name.
    pub running: BTreeMap<String, String>,
}

/// Starts one container: image, configuration, creation, start, postStart hook.
pub async fn start<R: Runtime>(
    subject: &Subject<R>,
    wanted: &Container,
    restarts: u32,
    place: &Place,
    stop: &CancellationToken,
) -> Started {
    let result = tokio::select! {
        () = stop.cancelled() => Ok(()),
        result = start_inner(subject, wanted, restarts, place) => result,
    };
    Started {
        container: wanted.name.clone(),
        result,
    }
}

type StartResult = Result<(), (Waiting, Option<Waiting>)>;

async fn start_inner<R: Runtime>(
    subject: &Subject<R>,
    wanted: &Container,
    restarts: u32,
    place: &Place,
) -> StartResult {
    let Subject {
        shared, pod, events, ..
    } = subject;
    let about = Some(wanted.name.as_str());
    let refuse = |reason: &str, message: String| {
        events.warning(about, "Failed", &format!("Error: {message}"));
        (
            Waiting {
                reason: reason.into(),
                message,
            },
            None,
        )
    };
    let (objects, image) = tokio::join!(gather(subject), async {
        let secrets = pull_secrets(subject).await;
        images::ensure(&*shared.runtime, wanted, &secrets, events).await
    });
    let image = image.map_err(|failure| (failure.waiting, failure.then))?;
    let paths = &subject.paths;
    let mut view = (**pod).clone();
    view.status.get_or_insert_default().pod_ips = Some(
        place
            .ips
            .iter()
            .map(|ip| k8s_openapi::api::core::v1::PodIP { ip: ip.clone() })
            .collect(),
    );
    let env = env::environment(&view, wanted, &shared.node, &objects)
        .map_err(|message| refuse("CreateContainerConfigError", message))?;
    files::write_hosts(pod, &place.ips, paths, &shared.resolver).map_err(|error| {
        refuse(
            "CreateContainerConfigError",
            format!("{}: {error}", paths.hosts().display()),
        )
    })?;
    let mounts = files::mounts(pod, wanted, restarts, &place.volumes, &env, paths)
        .map_err(|message| refuse("CreateContainerConfigError", message))?;
    let inputs = config::Inputs {
        pod,
        container: wanted,
        restarts,
        image: &image,
        env,
        mounts,
        paths,
        node: &shared.node,
        target_id: target_id(pod, wanted, place),
    };
    let config = config::container(inputs).map_err(|message| refuse("CreateContainerConfigError", message))?;
    let sandbox = config::sandbox(pod, place.attempt, paths, &shared.resolver);
    crate::logs::clear_place(&paths.logs, &wanted.name, restarts).map_err(|error| {
        refuse(
            "CreateContainerConfigError",
            format!("{}: {error}", paths.logs.display()),
        )
    })?;
    let id = shared
        .runtime
        .create_container(&place.sandbox_id, config, sandbox)
        .await
        .map_err(|error| refuse("CreateContainerError", error.message))?;
    events.normal(about, "Created", "Container created");
    shared
        .runtime
        .start_container(&id)
        .await
        .map_err(|error| refuse("RunContainerError", error.message))?;
    events.normal(about, "Started", "Container started");
    if let Some(hook) = wanted
        .lifecycle
        .as_ref()
        .and_then(|lifecycle| lifecycle.post_start.as_ref())
    {
        let target = target(subject, wanted, id.clone(), &place.ips);
        if let Err(message) = probes::handle(&target, hook, Duration::from_secs(3600)).await {
            events.warning(
                about,
                "FailedPostStartHook",
                &format!("PostStartHook failed: {message}"),
            );
            events.normal(about, "Killing", "FailedPostStartHook");
            let grace = pod
                .spec
                .as_ref()
                .and_then(|spec| spec.termination_grace_period_seconds)
                .unwrap_or(30);
            let _ = shared.runtime.stop_container(&id, grace).await;
            return Err((
                Waiting {
                    reason: "PostStartHookError".into(),
                    message,
                },
                None,
            ));
        }
    }
    Ok(())
}

/// The container whose processes an ephemeral container wants to see.
fn target_id<'a>(pod: &Pod, wanted: &Container, place: &'a Place) -> Option<&'a str> {
    let ephemeral = pod.spec.as_ref()?.ephemeral_containers.as_ref()?;
    let named = ephemeral.iter().find(|container| container.name == wanted.name)?;
    place
        .running
        .get(named.target_container_name.as_ref()?)
        .map(String::as_str)
}

/// Gives running containers what the pod asks for: first the pod's own limits grow to hold both the old
/// and the new, then the containers change, then the pod's limits become the new ones.
pub async fn resize<R: Runtime>(
    subject: &Subject<R>,
    before: &Pod,
    containers: &[crate::runtime::Container],
) -> Result<resize::Actual, String> {
    let (shared, pod) = (&subject.shared, &subject.pod);
    let (old, new) = (resources::pod_limits(before), resources::pod_limits(pod));
    cgroup::set_limits(pod, &old.larger(&new));
    let mut given = resize::Actual::new();
    for container in containers {
        let Some(wanted) = fields::find(pod, &container.name) else {
            continue;
        };
        let amounts = resources::update(pod, &wanted, shared.node.memory_bytes);
        shared
            .runtime
            .update_resources(&container.id, amounts)
            .await
            .map_err(|error| format!("failed to resize container {}: {}", container.name, error.message))?;
        let asked = wanted.resources.clone().unwrap_or_default();
        files::note_given(&subject.paths, container, &asked);
        given.insert(container.id.clone(), asked);
    }
    cgroup::set_limits(pod, &new);
    Ok(given)
}

async fn gather<R>(subject: &Subject<R>) -> Objects {
    let mut objects = Objects::default();
    for key in keys(&subject.pod) {
        match key {
            Key::ConfigMap(name) => {
                if let Some(object) = subject.references.config_map(&name).await {
                    objects.config_maps.insert(name, object);
                }
            }
            Key::Secret(name) => {
                if let Some(object) = subject.references.secret(&name).await {
                    objects.secrets.insert(name, object);
                }
            }
        }
    }
    let services = &subject.shared.services;
    let _ = tokio::time::timeout(Duration::from_secs(5), services.synced()).await;
    let namespace = subject.pod.metadata.namespace.as_deref().unwrap_or_default();
    objects.services = services.list_in(namespace);
    if namespace != "default" {
        objects.services.extend(services.get("default", "kubernetes"));
    }
    objects
}

async fn pull_secrets<R>(subject: &Subject<R>) -> Vec<Arc<k8s_openapi::api::core::v1::Secret>> {
    let mut secrets = Vec::new();
    let names = subject
        .pod
        .spec
        .iter()
        .flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    for reference in names {
        secrets.extend(subject.references.secret(&reference.name).await);
    }
    secrets
}

/// What probes and hooks of a container need.
pub fn target<R>(subject: &Subject<R>, wanted: &Container, id: String, ips: &[String]) -> Target<R> {
    let host_network = subject
        .pod
        .spec
        .as_ref()
        .and_then(|spec| spec.host_network)
        .unwrap_or(false);
    let ips = if host_network { &subject.shared.node.ips } else { ips };
    Target {
        runtime: subject.shared.runtime.clone(),
        id,
        container: wanted.clone(),
        ip: ips.first().cloned().unwrap_or_else(|| "127.0.0.1".into()),
        events: subject.events.clone(),
    }
}

/// Ends one container: preStop hook, then the signal, then the kill; all within the grace.
pub async fn kill<R: Runtime>(subject: &Subject<R>, name: &str, id: &str, grace_s: i64, message: &str, ips: &[String]) {
    const LEAST_S: i64 = 2;
    subject.events.normal(Some(name), "Killing", message);
    let begun = std::time::Instant::now();
    let mut left = grace_s;
    if let Some(wanted) = &fields::find(&subject.pod, name)
        && let Some(hook) = wanted
            .lifecycle
            .as_ref()
            .and_then(|lifecycle| lifecycle.pre_stop.as_ref())
        && grace_s > 0
    {
        let limit = Duration::from_secs(u64::try_from(grace_s).unwrap_or(30));
        let target = target(subject, wanted, id.to_string(), ips);
        match tokio::time::timeout(limit, probes::handle(&target, hook, limit)).await {
            Ok(Ok(())) => {}
            Ok(Err(message)) => {
                subject.events.warning(
                    Some(name),
                    "FailedPreStopHook",
                    &format!("PreStopHook failed: {message}"),
                );
            }
            Err(_) => subject.events.warning(
                Some(name),
                "FailedPreStopHook",
                "PreStopHook failed: it did not end within the grace period",
            ),
        }
        let passed_s = i64::try_from(begun.elapsed().as_secs()).unwrap_or(i64::MAX);
        left = grace_s.saturating_sub(passed_s).max(LEAST_S);
    }
    if let Err(error) = subject.shared.runtime.stop_container(id, left).await
        && !error.is_not_found()
    {
        tracing::warn!(container = id, %error, "stopping");
    }
}

/// Removes a container that ended, with its logs and its termination message.
pub async fn remove_dead<R: Runtime>(runtime: &R, container: &crate::runtime::Container) {
    if let Err(error) = runtime.remove_container(&container.id).await
        && !error.is_not_found()
    {
        tracing::warn!(container = container.id, %error, "removing");
        return;
    }
    crate::logs::remove(Path::new(&container.log_path));
    if let Some(file) = container.annotations.get(crate::runtime::label::TERMINATION_FILE) {
        files::remove_message(Path::new(file), &container.id);
    }
}

/// Removes everything a pod left on the node: containers, sandboxes, mounts, files, cgroup, logs.
pub async fn clean<R: Runtime>(runtime: &R, uid: &str, paths: &PodPaths, cgroup: Option<&str>) -> Result<(), String> {
    let observed = runtime.observe(uid).await.map_err(|error| error.to_string())?;
    for sandbox in &observed.sandboxes {
        runtime
            .stop_sandbox(&sandbox.id)
            .await
            .map_err(|error| error.to_string())?;
    }
    for container in &observed.containers {
        if let Err(error) = runtime.remove_container(&container.id).await
            && !error.is_not_found()
        {
            return Err(error.to_string());
        }
    }
    for sandbox in &observed.sandboxes {
        if let Err(error) = runtime.remove_sandbox(&sandbox.id).await
            && !error.is_not_found()
        {
            return Err(error.to_string());
        }
    }
    let directory = paths.directory.clone();
    // A tree can be large: removing it must not keep the other pods waiting.
    let views = tokio::task::spawn_blocking(move || remove_directory(&directory))
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| format!("{}: {error}", paths.directory.display()))?;
    for view in views {
        let key = view_key(uid, &view);
        runtime.release_image(&key).await.map_err(|error| error.to_string())?;
    }
    let logs = paths.logs.clone();
    tokio::task::spawn_blocking(move || crate::logs::remove_directory(&logs))
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| format!("{}: {error}", paths.logs.display()))?;
    match cgroup {
        Some(cgroup) => cgroup::remove(cgroup),
        None => {
            for parent in ["/kubepods", "/kubepods/burstable", "/kubepods/besteffort"] {
                cgroup::remove(&format!("{parent}/pod{uid}"));
            }
        }
    }
    Ok(())
}

/// Removes a pod's directory with its mounts; returns the names of its image volumes.
fn remove_directory(directory: &Path) -> std::io::Result<Vec<String>> {
    const IMAGES_MAX: usize = 4096;
    let images = coxswain_beneath::divide(directory, 1)
        .and_then(|(root, name)| root.dir(name.join(volumes::IMAGES), Links::Refused))
        .and_then(|images| images.entries(IMAGES_MAX))
        .unwrap_or_default();
    volumes::remove(directory)?;
    Ok(images
        .into_iter()
        .map(|image| image.name.to_string_lossy().into_owned())
        .collect())
}

//! Puts the node together: which parts exist, in which order they start, and what stopping means.
//! Every task is named here; one that ends by itself is restarted, or ends the node with its name.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use coxswain_client::supervise::Supervisor;
use coxswain_client::{Cache, Recorder, Scope};
use k8s_openapi::api::core::v1::{Pod, Service};
use tokio::sync::{Mutex, Notify, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::containerd::{self, Containerd, Layout};
use crate::image::collect::Collector;
use crate::image::pause;
use crate::node::{self, Identity, capacity};
use crate::pods::config::Resolver;
use crate::pods::fields::NodeFacts;
use crate::pods::steps::{Shared, clean};
use crate::pods::{self, config::PodPaths};
use crate::runtime::{Cri, Runtime};
use crate::volumes::mounts;
use crate::volumes::references::Pool;
use crate::{AgentError, Config, Remains, Step, logs, net, server};

const RESOLV_CONF: &str = "/etc/resolv.conf";
const HAPPENINGS_MAX: usize = 1024;

/// Directories of one node.
struct Places {
    pods: PathBuf,
    logs: PathBuf,
    images: PathBuf,
    imported: PathBuf,
}

fn places(data_dir: &Path) -> Places {
    Places {
        pods: data_dir.join("agent/pods"),
        logs: PathBuf::from("/var/log/pods"),
        images: data_dir.join("images"),
        imported: data_dir.join("containerd/imported.json"),
    }
}

/// Runs the node until the token is cancelled.
pub async fn run(config: Config, progress: mpsc::Sender<Step>, token: CancellationToken) -> Result<(), AgentError> {
    let say = |name: &'static str, detail: String| {
        let _ = progress.try_send(Step { name, detail });
    };
    let layout = Layout::new(&config.data_dir);
    let places = places(&config.data_dir);
    for dir in [&places.pods, &places.logs, &places.images] {
        fs::create_dir_all(dir).map_err(|source| AgentError::File {
            path: dir.clone(),
            source,
        })?;
    }
    let mut tasks = Tasks {
        set: JoinSet::new(),
        supervisor: config.supervisor.clone(),
        token: token.clone(),
    };
    let scope = Scope::fields(&format!("spec.nodeName={}", config.node_name));
    let pod_cache: Cache<Pod> = Cache::spawn(&config.client, scope, token.clone());

    let config = Config {
        pod_cidr: node::pod_cidr(&config, &token).await?,
        ..config
    };
    let network = net::start(net_config(&config, &layout, &pod_cache), token.clone())
        .await
        .map_err(|error| AgentError::Network(error.to_string()))?;
    say(
        "network",
        format!("pods {}, services {}", config.pod_cidr, config.service_cidr),
    );

    let containerd = match &config.containerd_socket {
        Some(socket) => containerd::connect(socket).await?,
        None => containerd::ensure(&layout).await?,
    };
    if let Some(pid) = containerd.pid {
        // It follows one process: what it knows of that cannot be had again.
        let (layout, token) = (layout.clone(), token.clone());
        tasks.set.spawn(async move {
            containerd::supervise(layout, pid, token).await;
            "containerd supervisor"
        });
    }
    let runtime = Cri::new(containerd.channel.clone(), config.data_dir.display().to_string());
    let runtime = Arc::new(runtime.with_snapshotter(&containerd.importer.snapshotter));
    ensure_pause(&containerd, &runtime, &config.data_dir).await?;
    say(
        "containerd",
        format!(
            "{} with {}",
            containerd.importer.socket.display(),
            containerd.importer.snapshotter
        ),
    );

    let machine = capacity::read(&config.data_dir);
    let identity = Identity {
        name: config.node_name.clone(),
        ip: config.node_ip,
        port: config.listen.port(),
        pod_cidr: config.pod_cidr.clone(),
        zone: config.zone.clone(),
        max_pods: config.max_pods,
        machine: machine.clone(),
    };
    let shared = Arc::new(Shared {
        runtime: runtime.clone(),
        client: config.client.clone(),
        recorder: Recorder::new(&config.client, "kubelet", &config.node_name),
        node: NodeFacts {
            name: config.node_name.clone(),
            ips: vec![config.node_ip.to_string()],
            allocatable: machine.amounts(),
            memory_bytes: machine.memory_bytes,
            app_armor: machine.app_armor,
            thermal_throttle: machine.thermal_throttle.clone(),
        },
        resolver: resolver(&config),
        pods_dir: places.pods.clone(),
        logs_dir: places.logs.clone(),
        services: Cache::<Service>::spawn(&config.client, Scope::all(), token.clone()),
        references: Pool::new(config.client.clone()),
        pods: pod_cache.clone(),
        room: Notify::new(),
    });
    let status_changed = Arc::new(Notify::new());
    let listening = server::listen(
        &config,
        shared.clone(),
        pod_cache.clone(),
        containerd.importer.clone(),
        status_changed.clone(),
    )
    .await?;
    say("node server", format!("https://{}", config.listen));
    import_archives(&containerd, &places, &say).await;
    node::register(&config.client, &identity, &runtime, &token).await?;

    let (sender, receiver) = mpsc::channel(HAPPENINGS_MAX);
    let receiver = Arc::new(Mutex::new(receiver));
    let (stop, channel) = (token.clone(), containerd.channel);
    tasks.keep("containerd-events", move || {
        containerd::events::follow(channel.clone(), sender.clone(), stop.clone())
    });
    let stop = token.clone();
    tasks.keep("pods", move || {
        pods::run(shared.clone(), pod_cache.clone(), receiver.clone(), stop.clone())
    });
    let (stop, of) = (token.clone(), runtime.clone());
    tasks.keep("log-rotation", move || logs::keep_short(of.clone(), stop.clone()));
    let collector = Collector {
        runtime: runtime.clone(),
        recorder: Recorder::new(&config.client, "kubelet", &config.node_name),
        node: config.node_name.clone(),
        directory: config.data_dir.clone(),
        changed: status_changed.clone(),
    };
    let stop = token.clone();
    tasks.keep("image-collection", move || collector.clone().run(stop.clone()));
    let (stop, client, name) = (token.clone(), config.client.clone(), config.node_name.clone());
    tasks.keep("lease", move || {
        node::keep_lease(client.clone(), name.clone(), stop.clone())
    });
    let (stop, client) = (token.clone(), config.client.clone());
    tasks.keep("status", move || {
        let (identity, runtime, changed) = (identity.clone(), runtime.clone(), status_changed.clone());
        node::keep_status(client.clone(), identity, runtime, changed, stop.clone())
    });
    let serving = listening.serve(token.clone());
    tasks.set.spawn(async move {
        serving.await;
        "node server"
    });
    let mut tasks = tasks.set;
    let ended = tasks.join_next().await;
    if token.is_cancelled() {
        while tasks.join_next().await.is_some() {}
        network.stop().await;
        return Ok(());
    }
    match ended {
        Some(Ok(name)) => Err(AgentError::TaskEnded(name)),
        _ => Err(AgentError::TaskEnded("failing")),
    }
}

/// The node's tasks by name. One that is kept is restarted when it panics; the end of any other ends the node.
struct Tasks {
    set: JoinSet<&'static str>,
    supervisor: Supervisor,
    token: CancellationToken,
}

impl Tasks {
    fn keep<F, Fut>(&mut self, name: &'static str, start: F)
    where
        F: FnMut() -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let (supervisor, token) = (self.supervisor.clone(), self.token.clone());
        self.set.spawn(async move {
            supervisor.keep(&format!("node/{name}"), &token, start).await;
            name
        });
    }
}

fn net_config(config: &Config, layout: &Layout, pods: &Cache<Pod>) -> net::NetConfig {
    net::NetConfig {
        client: config.client.clone(),
        node_name: config.node_name.clone(),
        node_ip: config.node_ip,
        pod_cidr: config.pod_cidr.clone(),
        cluster_cidr: config.cluster_cidr.clone(),
        service_cidr: config.service_cidr.clone(),
        dns_ip: config.cluster_dns,
        domain: config.cluster_domain.clone(),
        cni_bin_dirs: vec![containerd::cni_bin_dir()],
        cni_conf_dir: layout.cni_conf_dir.clone(),
        upstream_resolv_conf: PathBuf::from(RESOLV_CONF),
        pods: Some(pods.clone()),
        balancer: config.balancer.clone(),
        addons: config.addons.clone(),
        supervisor: config.supervisor.clone(),
    }
}

fn resolver(config: &Config) -> Resolver {
    let text = fs::read_to_string(RESOLV_CONF).unwrap_or_default();
    let words = |key: &str| -> Vec<String> {
        let lines = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix(key))
            .filter(|rest| rest.starts_with([' ', '\t']));
        lines.flat_map(str::split_whitespace).map(str::to_string).collect()
    };
    Resolver {
        cluster_dns: config.cluster_dns.to_string(),
        cluster_domain: config.cluster_domain.clone(),
        node_servers: words("nameserver"),
        node_searches: words("search").into_iter().filter(|domain| domain != ".").collect(),
        node_options: words("options"),
    }
}

/// Imports the pause image unless it is there, and waits until the runtime sees it.
pub async fn ensure_pause(containerd: &Containerd, runtime: &Cri, data_dir: &Path) -> Result<(), AgentError> {
    let known = || async { runtime.image(pause::NAME).await.ok().flatten().is_some() };
    if known().await {
        return Ok(());
    }
    let bytes = pause::archive().map_err(AgentError::Containerd)?;
    let file = data_dir.join("containerd/pause.tar");
    fs::write(&file, bytes).map_err(|source| AgentError::File {
        path: file.clone(),
        source,
    })?;
    containerd
        .importer
        .import(&file)
        .await
        .map_err(AgentError::Containerd)?;
    for _ in 0..200 {
        if known().await {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err(AgentError::Containerd(
        "the pause image was imported but the runtime does not show it".into(),
    ))
}

/// The CRI learns of an import a moment later: a pod that came in between would try to pull the image.
async fn wait_known(containerd: &Containerd, line: &str) {
    let runtime = Cri::new(containerd.channel.clone(), String::new());
    let names = line.split_once(": ").map_or("", |(_, names)| names).split(", ");
    for name in names.filter_map(|name| crate::image::name::normalise(name).ok()) {
        for _ in 0..200 {
            if matches!(runtime.image(&name).await, Ok(Some(_))) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn import_archives(containerd: &Containerd, places: &Places, say: &impl Fn(&'static str, String)) {
    for line in containerd
        .importer
        .import_directory(&places.images, &places.imported)
        .await
    {
        match line {
            Ok(line) => {
                wait_known(containerd, &line).await;
                say("image", line);
            }
            Err(error) => say("image", format!("NOT imported, replace or remove it: {error}")),
        }
    }
}

/// Whether a containerd or containers of this data directory run.
pub fn is_left_running(data_dir: &Path) -> bool {
    let layout = Layout::new(data_dir);
    containerd::running(&layout).is_some() || containerd::left_containers(&layout)
}

/// Stops all pods of the node and its containerd, unmounts the pods' volumes and takes the network down; the next
/// start brings all of it up again.
pub async fn stop_everything(remains: &Remains) -> Result<(), AgentError> {
    let layout = Layout::new(&remains.data_dir);
    if containerd::running(&layout).is_none() && containerd::left_containers(&layout) {
        // Containers outlive a containerd that was killed, and only a containerd can end them.
        containerd::ensure(&layout).await?;
    }
    if containerd::running(&layout).is_some() {
        remove_pods(remains, &layout).await?;
        containerd::stop(&layout).await;
    }
    if !containerd::left_containers(&layout) {
        containerd::clear_run(&layout);
    }
    mounts::unmount_below(&places(&remains.data_dir).pods);
    net::take_down()
        .await
        .map_err(|error| AgentError::Network(error.to_string()))
}

/// Ends and removes all sandboxes that this node made. Volumes and logs of the pods stay.
async fn remove_pods(remains: &Remains, layout: &Layout) -> Result<(), AgentError> {
    let containerd = containerd::connect(&layout.socket()).await?;
    let runtime = Cri::new(containerd.channel, remains.data_dir.display().to_string());
    let sandboxes = runtime
        .sandboxes()
        .await
        .map_err(|error| AgentError::Containerd(error.to_string()))?;
    let ends = sandboxes.iter().map(|sandbox| async {
        pods::stop_containers(&runtime, &sandbox.uid).await;
        runtime.stop_sandbox(&sandbox.id).await
    });
    for end in futures::future::join_all(ends).await {
        if let Err(error) = end {
            tracing::warn!(%error, "stopping a sandbox");
        }
    }
    Ok(())
}

/// Stops all pods and removes everything of the node but its data directory.
pub async fn remove_everything(remains: &Remains) -> Result<(), AgentError> {
    let layout = Layout::new(&remains.data_dir);
    let places = places(&remains.data_dir);
    if layout.data.join("config.toml").exists() && containerd::running(&layout).is_none() {
        // Sandboxes hold network namespaces and mounts that only containerd can give back.
        let _ = containerd::ensure(&layout).await;
    }
    if containerd::running(&layout).is_some() {
        remove_pods(remains, &layout).await?;
        let containerd = containerd::connect(&layout.socket()).await?;
        let runtime = Cri::new(containerd.channel, remains.data_dir.display().to_string())
            .with_snapshotter(&containerd.importer.snapshotter);
        let sandboxes = runtime
            .sandboxes()
            .await
            .map_err(|error| AgentError::Containerd(error.to_string()))?;
        for sandbox in sandboxes {
            let (namespace, name) = (&sandbox.namespace, &sandbox.name);
            let Some(paths) = PodPaths::new(&places.pods, &places.logs, namespace, name, &sandbox.uid) else {
                continue;
            };
            if let Err(error) = clean(&runtime, &sandbox.uid, &paths, None).await {
                tracing::warn!(pod = sandbox.uid, %error, "removing a pod");
            }
        }
        containerd::stop(&layout).await;
    }
    for directory in [&places.pods, &layout.data] {
        mounts::unmount_below(directory);
    }
    net::remove(&layout.cni_conf_dir)
        .await
        .map_err(|error| AgentError::Network(error.to_string()))?;
    containerd::clear_run(&layout);
    remove_tree(&remains.data_dir.join("agent"))?;
    remove_tree(&layout.data)
}

/// Removes what pods and images could write into; a mount that stays is an error, and nothing is removed through it.
fn remove_tree(path: &Path) -> Result<(), AgentError> {
    crate::volumes::remove(path).map_err(|source| AgentError::File {
        path: path.to_path_buf(),
        source,
    })
}

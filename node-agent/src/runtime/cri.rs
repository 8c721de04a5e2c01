//! The runtime over containerd's CRI.
//!
//! Only sandboxes that carry this agent's mark are listed. What containerd said about a container that
//! ended is remembered, since it never changes again.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tonic::transport::Channel;

use super::{
    Answer, Container, Credentials, ExecOutcome, ImageFacts, Observed, Runtime, RuntimeError, Sandbox, State, cut,
    label,
};
use crate::containerd::{Layout, exec};
use crate::cri::v1::image_service_client::ImageServiceClient;
use crate::cri::v1::runtime_service_client::RuntimeServiceClient;
use crate::cri::v1::{self, ContainerConfig, LinuxContainerResources, PodSandboxConfig};

/// Bytes of each output stream of a probe's or hook's command that are kept.
const EXEC_OUTPUT_MAX: usize = 10 << 10;
/// Bytes of a container's message from the runtime that are kept; it can quote what the image says.
const MESSAGE_MAX: usize = 4096;

fn failed(code: &str, message: String) -> RuntimeError {
    RuntimeError {
        code: code.into(),
        message,
    }
}

/// The runtime over containerd's CRI.
#[derive(Debug)]
pub struct Cri {
    channel: Channel,
    owner: String,
    pub(super) snapshotter: String,
    /// Containers that ended never change again.
    ended: Mutex<HashMap<String, Container>>,
    /// Log files of containers that run.
    logs: Mutex<HashMap<String, PathBuf>>,
    /// Which pod a container or sandbox id belongs to.
    pods: Mutex<HashMap<String, Arc<str>>>,
}

impl Cri {
    /// Over an open connection; `owner` marks the sandboxes as this agent's.
    pub fn new(channel: Channel, owner: String) -> Cri {
        Cri {
            channel,
            owner,
            snapshotter: "overlayfs".into(),
            ended: Mutex::default(),
            logs: Mutex::default(),
            pods: Mutex::default(),
        }
    }

    /// With the snapshotter that images are unpacked with.
    pub fn with_snapshotter(mut self, snapshotter: &str) -> Cri {
        self.snapshotter = snapshotter.to_string();
        self
    }

    /// The runtime service's client.
    pub fn service(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone()).max_decoding_message_size(32 << 20)
    }

    /// The image service's client.
    pub fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone()).max_decoding_message_size(32 << 20)
    }

    /// The connection, for containerd's own services.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The uid of the pod that a container or sandbox belongs to, when it was observed before.
    pub fn pod_of(&self, id: &str) -> Option<Arc<str>> {
        self.pods
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(id)
            .cloned()
    }

    /// Log files of the observed containers that run, by container id.
    pub fn running_logs(&self) -> Vec<(String, PathBuf)> {
        let logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        logs.iter().map(|(id, path)| (id.clone(), path.clone())).collect()
    }

    /// Has the runtime open a container's log by its name again.
    pub async fn reopen_log(&self, id: &str) -> Answer<()> {
        let request = v1::ReopenContainerLogRequest {
            container_id: id.to_string(),
        };
        self.service().reopen_container_log(request).await?;
        Ok(())
    }

    /// Removes an image under all its names.
    pub async fn remove_image(&self, id: &str) -> Answer<()> {
        let image = Some(v1::ImageSpec {
            image: id.to_string(),
            annotations: HashMap::new(),
        });
        self.images().remove_image(v1::RemoveImageRequest { image }).await?;
        Ok(())
    }

    /// Notes whether a container's log may grow.
    fn follow_log(&self, container: &Container) {
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        if container.state != State::Running {
            logs.remove(&container.id);
        } else if !logs.contains_key(&container.id) {
            logs.insert(container.id.clone(), PathBuf::from(&container.log_path));
        }
    }

    fn remember(&self, id: &str, uid: &str) {
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        if !pods.contains_key(id) {
            pods.insert(id.to_string(), uid.into());
        }
    }

    fn forget(&self, id: &str) {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    async fn container(&self, listed: v1::Container) -> Answer<Option<Container>> {
        if let Some(known) = self
            .ended
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&listed.id)
        {
            return Ok(Some(known.clone()));
        }
        let request = v1::ContainerStatusRequest {
            container_id: listed.id.clone(),
            verbose: false,
        };
        let status = match self.service().container_status(request).await {
            Ok(response) => response.into_inner().status.unwrap_or_default(),
            Err(status) if status.code() == tonic::Code::NotFound => return Ok(None),
            Err(status) => return Err(status.into()),
        };
        let container = to_container(listed.pod_sandbox_id, status);
        self.follow_log(&container);
        if container.state == State::Exited {
            self.ended
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(container.id.clone(), container.clone());
        }
        Ok(Some(container))
    }

    /// When a container ended; `None` while it runs.
    pub async fn end_of(&self, id: &str) -> Answer<Option<Timestamp>> {
        let request = v1::ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: false,
        };
        let status = self.service().container_status(request).await?.into_inner().status;
        Ok(status.and_then(|status| from_nanos(status.finished_at)))
    }

    async fn list_sandboxes(&self, selector: HashMap<String, String>) -> Answer<Vec<v1::PodSandbox>> {
        let filter = Some(v1::PodSandboxFilter {
            id: String::new(),
            label_selector: selector,
        });
        Ok(self
            .service()
            .list_pod_sandbox(v1::ListPodSandboxRequest { filter })
            .await?
            .into_inner()
            .items)
    }

    async fn sandbox(&self, listed: v1::PodSandbox) -> Answer<Sandbox> {
        let mut sandbox = to_sandbox(&listed);
        if sandbox.ready {
            let request = v1::PodSandboxStatusRequest {
                pod_sandbox_id: listed.id,
                verbose: false,
            };
            match self.service().pod_sandbox_status(request).await {
                Ok(response) => {
                    let status = response.into_inner().status.unwrap_or_default();
                    sandbox.ready = status.state == v1::PodSandboxState::SandboxReady as i32;
                    if let Some(network) = status.network {
                        let all = std::iter::once(network.ip).chain(network.additional_ips.into_iter().map(|ip| ip.ip));
                        sandbox.ips = all.filter(|ip| !ip.is_empty()).collect();
                    }
                }
                Err(status) if status.code() == tonic::Code::NotFound => sandbox.ready = false,
                Err(status) => return Err(status.into()),
            }
        }
        Ok(sandbox)
    }
}

fn to_sandbox(listed: &v1::PodSandbox) -> Sandbox {
    let metadata = listed.metadata.clone().unwrap_or_default();
    Sandbox {
        id: listed.id.clone(),
        uid: metadata.uid,
        namespace: metadata.namespace,
        name: metadata.name,
        attempt: metadata.attempt,
        ready: listed.state == v1::PodSandboxState::SandboxReady as i32,
        created_at: from_nanos(listed.created_at).unwrap_or_default(),
        ips: Vec::new(),
    }
}

fn to_container(sandbox_id: String, status: v1::ContainerStatus) -> Container {
    let state = match v1::ContainerState::try_from(status.state) {
        Ok(v1::ContainerState::ContainerCreated) => State::Created,
        Ok(v1::ContainerState::ContainerRunning) => State::Running,
        Ok(v1::ContainerState::ContainerExited) => State::Exited,
        _ => State::Unknown,
    };
    let restarts = status
        .annotations
        .get(label::RESTART_COUNT)
        .and_then(|count| count.parse().ok())
        .unwrap_or(status.metadata.as_ref().map_or(0, |metadata| metadata.attempt));
    let mut container = Container {
        id: status.id,
        name: status.metadata.map(|metadata| metadata.name).unwrap_or_default(),
        sandbox_id,
        restarts,
        state,
        created_at: from_nanos(status.created_at).unwrap_or_default(),
        started_at: from_nanos(status.started_at),
        finished_at: from_nanos(status.finished_at),
        exit_code: status.exit_code,
        reason: status.reason,
        message: cut(&status.message, MESSAGE_MAX).to_string(),
        image: status.image.map(|image| image.image).unwrap_or_default(),
        image_ref: status.image_ref,
        annotations: status.annotations,
        log_path: status.log_path,
    };
    if state == State::Exited {
        let written = crate::pods::termination::message(&container);
        if !written.is_empty() {
            container.message = written;
        }
    }
    container
}

fn from_nanos(nanos: i64) -> Option<Timestamp> {
    (nanos > 0)
        .then(|| Timestamp::from_nanosecond(i128::from(nanos)).ok())
        .flatten()
}

impl Runtime for Cri {
    async fn sandboxes(&self) -> Answer<Vec<Sandbox>> {
        let listed = self.list_sandboxes(HashMap::new()).await?;
        let ours = listed
            .iter()
            .filter(|sandbox| sandbox.annotations.get(label::OWNER) == Some(&self.owner));
        Ok(ours
            .map(to_sandbox)
            .inspect(|sandbox| self.remember(&sandbox.id, &sandbox.uid))
            .collect())
    }

    async fn observe(&self, uid: &str) -> Answer<Observed> {
        let selector = HashMap::from([(label::POD_UID.to_string(), uid.to_string())]);
        let filter = v1::ContainerFilter {
            label_selector: selector.clone(),
            ..Default::default()
        };
        let mut service = self.service();
        let (sandboxes, containers) = tokio::join!(
            async {
                futures::future::try_join_all(
                    self.list_sandboxes(selector)
                        .await?
                        .into_iter()
                        .map(|s| self.sandbox(s)),
                )
                .await
            },
            async {
                let request = v1::ListContainersRequest { filter: Some(filter) };
                let listed = service.list_containers(request).await?.into_inner().containers;
                futures::future::try_join_all(listed.into_iter().map(|container| self.container(container))).await
            }
        );
        let mut observed = Observed {
            sandboxes: sandboxes?,
            containers: containers?.into_iter().flatten().collect(),
        };
        for id in observed
            .sandboxes
            .iter()
            .map(|s| &s.id)
            .chain(observed.containers.iter().map(|c| &c.id))
        {
            self.remember(id, uid);
        }
        observed
            .sandboxes
            .sort_by_key(|sandbox| std::cmp::Reverse((sandbox.attempt, sandbox.created_at)));
        observed
            .containers
            .sort_by_key(|container| std::cmp::Reverse((container.restarts, container.created_at)));
        Ok(observed)
    }

    async fn run_sandbox(&self, mut config: PodSandboxConfig) -> Answer<String> {
        config.annotations.insert(label::OWNER.to_string(), self.owner.clone());
        let uid = config
            .metadata
            .as_ref()
            .map(|metadata| metadata.uid.clone())
            .unwrap_or_default();
        let request = v1::RunPodSandboxRequest {
            config: Some(config),
            runtime_handler: String::new(),
        };
        let id = self
            .service()
            .run_pod_sandbox(request)
            .await?
            .into_inner()
            .pod_sandbox_id;
        self.remember(&id, &uid);
        Ok(id)
    }

    async fn stop_sandbox(&self, id: &str) -> Answer<()> {
        let request = v1::StopPodSandboxRequest {
            pod_sandbox_id: id.to_string(),
        };
        self.service().stop_pod_sandbox(request).await?;
        Ok(())
    }

    async fn remove_sandbox(&self, id: &str) -> Answer<()> {
        let request = v1::RemovePodSandboxRequest {
            pod_sandbox_id: id.to_string(),
        };
        self.service().remove_pod_sandbox(request).await?;
        self.forget(id);
        Ok(())
    }

    async fn create_container(&self, sandbox: &str, config: ContainerConfig, pod: PodSandboxConfig) -> Answer<String> {
        let uid = pod
            .metadata
            .as_ref()
            .map(|metadata| metadata.uid.clone())
            .unwrap_or_default();
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_string(),
            config: Some(config),
            sandbox_config: Some(pod),
        };
        let id = self
            .service()
            .create_container(request)
            .await?
            .into_inner()
            .container_id;
        self.remember(&id, &uid);
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> Answer<()> {
        self.service()
            .start_container(v1::StartContainerRequest {
                container_id: id.to_string(),
            })
            .await?;
        Ok(())
    }

    async fn stop_container(&self, id: &str, grace_s: i64) -> Answer<()> {
        let request = v1::StopContainerRequest {
            container_id: id.to_string(),
            timeout: grace_s,
        };
        self.service().stop_container(request).await?;
        Ok(())
    }

    async fn update_resources(&self, id: &str, amounts: LinuxContainerResources) -> Answer<()> {
        let request = v1::UpdateContainerResourcesRequest {
            container_id: id.to_string(),
            linux: Some(amounts),
        };
        self.service().update_container_resources(request).await?;
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Answer<()> {
        self.service()
            .remove_container(v1::RemoveContainerRequest {
                container_id: id.to_string(),
            })
            .await?;
        self.forget(id);
        Ok(())
    }

    async fn exec(&self, id: &str, command: &[String], limit: Duration) -> Answer<ExecOutcome> {
        let command = exec::Command {
            container: id.to_string(),
            argv: command.to_vec(),
            tty: false,
            stdin: false,
        };
        let (channel, run_dir) = (self.channel(), Layout::new(Path::new(&self.owner)).run);
        // Goes on when nobody waits for it any more: nothing of the command may stay.
        let run = async move { exec::run(channel, &run_dir, &command, limit, EXEC_OUTPUT_MAX).await };
        let ended = tokio::spawn(run)
            .await
            .map_err(|error| failed("Internal", error.to_string()))?;
        match ended.map_err(|message| failed("Unknown", format!("failed to exec in container: {message}")))? {
            exec::Ended::Exited(code, output) => Ok(ExecOutcome {
                exit_code: i32::try_from(code).unwrap_or(-1),
                output: String::from_utf8_lossy(&output).into_owned(),
            }),
            exec::Ended::TimedOut => Err(failed(
                "DeadlineExceeded",
                format!(
                    "failed to exec in container: timeout {}s exceeded: context deadline exceeded",
                    limit.as_secs()
                ),
            )),
        }
    }

    async fn image(&self, name: &str) -> Answer<Option<ImageFacts>> {
        let image = Some(v1::ImageSpec {
            image: name.to_string(),
            annotations: HashMap::new(),
        });
        let response = self
            .images()
            .image_status(v1::ImageStatusRequest { image, verbose: false })
            .await?;
        Ok(response.into_inner().image.map(|image| ImageFacts {
            id: image.id,
            uid: image.uid.map(|uid| uid.value),
            username: image.username,
            size: image.size,
            tags: image.repo_tags,
            digests: image.repo_digests,
        }))
    }

    async fn mount_image(&self, id: &str, key: &str, target: &Path) -> Answer<()> {
        self.mount_view(id, key, target).await
    }

    async fn release_image(&self, key: &str) -> Answer<()> {
        self.remove_view(key).await
    }

    async fn pull(&self, name: &str, credentials: Option<&Credentials>) -> Answer<String> {
        let auth = credentials.map(|credentials| v1::AuthConfig {
            username: credentials.username.clone(),
            password: credentials.password.clone(),
            auth: credentials.auth.clone(),
            ..Default::default()
        });
        let image = Some(v1::ImageSpec {
            image: name.to_string(),
            annotations: HashMap::new(),
        });
        let request = v1::PullImageRequest {
            image,
            auth,
            sandbox_config: None,
        };
        Ok(self.images().pull_image(request).await?.into_inner().image_ref)
    }
}

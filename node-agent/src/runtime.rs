//! The port to the container runtime: what pod workers may ask for.
//!
//! [`Runtime`] is implemented over containerd's CRI ([`Cri`]) and by a fake in the tests. It owns the
//! translation between the runtime's records and the agent's: which labels carry a pod's identity,
//! which annotations carry what must survive a restart of the agent. It decides nothing.

mod cri;
mod views;

use std::collections::HashMap;
use std::future::Future;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

use crate::cri::v1::{ContainerConfig, LinuxContainerResources, PodSandboxConfig};

pub use cri::Cri;

/// Labels and annotations that sandboxes and containers carry, as every Kubernetes node writes them.
pub mod label {
    /// The pod's name.
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    /// The pod's namespace.
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    /// The pod's uid.
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    /// The container's name in the pod.
    pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    /// Annotation: digest of the container's specification.
    pub const HASH: &str = "io.kubernetes.container.hash";
    /// Annotation: how often the container was started again.
    pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    /// Annotation: host file behind the termination message path.
    pub const TERMINATION_FILE: &str = "io.coxswain.container.terminationFile";
    /// Annotation: the termination message policy.
    pub const TERMINATION_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
    /// Annotation: the requests and limits the container was made with.
    pub const RESOURCES: &str = "io.coxswain.container.resources";
    /// Annotation on sandboxes: the data directory of the agent that owns the pod.
    pub const OWNER: &str = "io.coxswain.agent";
}

/// What the runtime could not do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rpc error: code = {code} desc = {message}")]
pub struct RuntimeError {
    /// The gRPC code's name.
    pub code: String,
    /// The runtime's words.
    pub message: String,
}

/// Bytes of the runtime's words that are kept: they can quote what a pod or an image says, at any length.
const ERROR_MAX: usize = 4096;

/// The beginning of a text, at most `max` bytes of it.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

impl From<tonic::Status> for RuntimeError {
    fn from(status: tonic::Status) -> RuntimeError {
        RuntimeError {
            code: format!("{:?}", status.code()),
            message: cut(status.message(), ERROR_MAX).to_string(),
        }
    }
}

impl RuntimeError {
    /// Whether the thing asked for does not exist (any more).
    pub fn is_not_found(&self) -> bool {
        self.code == "NotFound"
    }
}

/// One sandbox of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// The runtime's id.
    pub id: String,
    /// The pod's uid.
    pub uid: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// How many sandboxes the pod had before.
    pub attempt: u32,
    /// Its namespaces are alive.
    pub ready: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// Its addresses; empty with host networking.
    pub ips: Vec<String>,
}

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Made, not started.
    Created,
    /// Running.
    Running,
    /// Ended.
    Exited,
    /// The runtime does not know.
    Unknown,
}

/// One container of a pod; a restart makes a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// The runtime's id.
    pub id: String,
    /// The container's name in the pod.
    pub name: String,
    /// The sandbox it belongs to.
    pub sandbox_id: String,
    /// How many containers of this name came before it.
    pub restarts: u32,
    /// Where it is in its life.
    pub state: State,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// How it ended.
    pub exit_code: i32,
    /// The runtime's word for how it ended: Completed, Error, OOMKilled.
    pub reason: String,
    /// The runtime's sentence, or the termination message.
    pub message: String,
    /// Image name as the runtime resolved it.
    pub image: String,
    /// Image digest reference.
    pub image_ref: String,
    /// Annotations written when it was made.
    pub annotations: HashMap<String, String>,
    /// Its log file.
    pub log_path: String,
}

/// Everything the runtime has of one pod, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Sandboxes, newest first.
    pub sandboxes: Vec<Sandbox>,
    /// Containers, newest first.
    pub containers: Vec<Container>,
}

impl Observed {
    /// Whether any container runs.
    pub fn any_running(&self) -> bool {
        self.containers
            .iter()
            .any(|container| container.state == State::Running)
    }

    /// The newest container of a name.
    pub fn newest(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|container| container.name == name)
    }

    /// The one before the newest.
    pub fn previous(&self, name: &str) -> Option<&Container> {
        self.containers.iter().filter(|container| container.name == name).nth(1)
    }

    /// Whether the container or sandbox of this id has not ended yet.
    pub fn is_alive(&self, id: &str) -> bool {
        let alive = |state| matches!(state, State::Created | State::Running);
        self.containers.iter().any(|c| c.id == id && alive(c.state))
            || self.sandboxes.iter().any(|sandbox| sandbox.id == id && sandbox.ready)
    }

    /// The newest sandbox when it is alive.
    pub fn ready_sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.first().filter(|sandbox| sandbox.ready)
    }
}

/// How a command in a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecOutcome {
    /// Its exit code.
    pub exit_code: i32,
    /// Both output streams, bounded by the runtime.
    pub output: String,
}

/// An image that is present.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageFacts {
    /// The image's id.
    pub id: String,
    /// The numeric user its containers run as, if it says one.
    pub uid: Option<i64>,
    /// The user name its containers run as, if it says one.
    pub username: String,
    /// Bytes it takes.
    pub size: u64,
    /// Names.
    pub tags: Vec<String>,
    /// Names with digests.
    pub digests: Vec<String>,
}

/// Credentials for a registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
    /// Both, joined and encoded.
    pub auth: String,
}

type Answer<T> = Result<T, RuntimeError>;

/// What pod workers may ask the container runtime for.
pub trait Runtime: Send + Sync + 'static {
    /// All sandboxes that this agent made.
    fn sandboxes(&self) -> impl Future<Output = Answer<Vec<Sandbox>>> + Send;
    /// Everything there is of one pod.
    fn observe(&self, uid: &str) -> impl Future<Output = Answer<Observed>> + Send;
    /// Makes and starts a sandbox; returns its id.
    fn run_sandbox(&self, config: PodSandboxConfig) -> impl Future<Output = Answer<String>> + Send;
    /// Ends everything in a sandbox and takes its network away.
    fn stop_sandbox(&self, id: &str) -> impl Future<Output = Answer<()>> + Send;
    /// Removes a stopped sandbox with its containers.
    fn remove_sandbox(&self, id: &str) -> impl Future<Output = Answer<()>> + Send;
    /// Makes a container; returns its id.
    fn create_container(
        &self,
        sandbox_id: &str,
        config: ContainerConfig,
        sandbox: PodSandboxConfig,
    ) -> impl Future<Output = Answer<String>> + Send;
    /// Starts a made container.
    fn start_container(&self, id: &str) -> impl Future<Output = Answer<()>> + Send;
    /// Asks a container to end and kills it after the grace.
    fn stop_container(&self, id: &str, grace_s: i64) -> impl Future<Output = Answer<()>> + Send;
    /// Changes a running container's limits.
    fn update_resources(&self, id: &str, amounts: LinuxContainerResources) -> impl Future<Output = Answer<()>> + Send;
    /// Removes a container that ended.
    fn remove_container(&self, id: &str) -> impl Future<Output = Answer<()>> + Send;
    /// Runs a command in a container and waits for it.
    fn exec(&self, id: &str, command: &[String], limit: Duration) -> impl Future<Output = Answer<ExecOutcome>> + Send;
    /// The image of a name, if it is present.
    fn image(&self, name: &str) -> impl Future<Output = Answer<Option<ImageFacts>>> + Send;
    /// Mounts an image read-only at a directory; `key` names the mount's backing.
    fn mount_image(&self, id: &str, key: &str, target: &Path) -> impl Future<Output = Answer<()>> + Send;
    /// Gives back what a mount that is gone was backed by.
    fn release_image(&self, key: &str) -> impl Future<Output = Answer<()>> + Send;
    /// Fetches an image; returns its reference.
    fn pull(&self, name: &str, credentials: Option<&Credentials>) -> impl Future<Output = Answer<String>> + Send;
}

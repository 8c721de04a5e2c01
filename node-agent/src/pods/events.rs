//! Pod events: which object and field they are about, and API errors as one sentence.

use k8s_openapi::api::core::v1::{ObjectReference, Pod};

use coxswain_client::{EventType, Recorder, reference};

/// Bytes of an event's message: as much as Kubernetes' event API takes.
const MESSAGE_MAX: usize = 1024;

/// Records events about one pod and its containers.
#[derive(Clone)]
pub struct PodEvents {
    recorder: Recorder,
    about: ObjectReference,
    lists: Vec<(&'static str, String)>,
}

impl PodEvents {
    /// For one pod.
    pub fn new(recorder: &Recorder, pod: &Pod) -> PodEvents {
        let init = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
        let ephemeral = pod
            .spec
            .iter()
            .flat_map(|spec| spec.ephemeral_containers.iter().flatten());
        let init = init.map(|c| ("initContainers", c.name.clone()));
        let ephemeral = ephemeral.map(|c| ("ephemeralContainers", c.name.clone()));
        PodEvents {
            recorder: recorder.clone(),
            about: reference(pod),
            lists: init.chain(ephemeral).collect(),
        }
    }

    /// Something expected.
    pub fn normal(&self, container: Option<&str>, reason: &str, message: &str) {
        self.record(container, EventType::Normal, reason, message);
    }

    /// Something that may need attention.
    pub fn warning(&self, container: Option<&str>, reason: &str, message: &str) {
        self.record(container, EventType::Warning, reason, message);
    }

    fn record(&self, container: Option<&str>, kind: EventType, reason: &str, message: &str) {
        let mut about = self.about.clone();
        about.field_path = container.map(|name| {
            let list = self.lists.iter().find(|(_, known)| known == name);
            format!("spec.{}{{{name}}}", list.map_or("containers", |(list, _)| list))
        });
        self.recorder
            .record(about, kind, reason, crate::runtime::cut(message, MESSAGE_MAX));
    }
}

/// What the API server said, without the client library's framing.
pub fn sentence(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

//! What a pod's last status tells an agent that has just started. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::plan::{StartFailure, Waiting};

/// The statuses of all containers of a pod, of whatever sort.
pub fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    pod.status.iter().flat_map(|status| {
        let init = status.init_container_statuses.iter().flatten();
        let ephemeral = status.ephemeral_container_statuses.iter().flatten();
        init.chain(status.container_statuses.iter().flatten()).chain(ephemeral)
    })
}

/// Failed starts that the pod's status tells of, to be tried again now: an agent that starts shows the
/// same reasons until it knows better.
pub fn known_failures(pod: &Pod, now: Timestamp) -> BTreeMap<String, StartFailure> {
    const REASONS: [&str; 8] = [
        "ErrImagePull",
        "ImagePullBackOff",
        "ErrImageNeverPull",
        "InvalidImageName",
        "ImageInspectError",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RegistryUnavailable",
    ];
    statuses(pod)
        .filter_map(|status| {
            let waiting = status.state.as_ref()?.waiting.as_ref()?;
            let reason = waiting
                .reason
                .clone()
                .filter(|reason| REASONS.contains(&reason.as_str()))?;
            let failure = StartFailure {
                waiting: Waiting {
                    reason,
                    message: waiting.message.clone().unwrap_or_default(),
                },
                then: None,
                at: now,
                retry_at: now,
                failures: 0,
            };
            Some((status.name.clone(), failure))
        })
        .collect()
}

/// Whether the last reported status called this very container ready.
pub fn was_ready(pod: &Pod, id: &str) -> bool {
    let id = format!("containerd://{id}");
    statuses(pod).any(|status| status.container_id.as_deref() == Some(&id) && status.ready)
}

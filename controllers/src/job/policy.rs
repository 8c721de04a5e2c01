//! What the failure of a pod means for its Job.

use coxswain_api::bounded;
use coxswain_client::k8s_openapi::api::batch::v1::{JobSpec, PodFailurePolicyRule};
use coxswain_client::k8s_openapi::api::core::v1::{ContainerStatus, Pod};

/// What a failed pod does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It counts towards the backoff limit.
    Count,
    /// It does not count.
    Ignore,
    /// Its index has failed.
    FailIndex,
    /// The Job has failed, with this message.
    FailJob(String),
}

/// The first rule that matches decides; without one the failure counts.
pub(super) fn verdict(spec: &JobSpec, pod: &Pod) -> Verdict {
    let rules = spec
        .pod_failure_policy
        .as_ref()
        .map(|p| p.rules.as_slice())
        .unwrap_or_default();
    for (number, rule) in rules.iter().enumerate() {
        let Some(why) = matches(rule, pod) else { continue };
        return match rule.action.as_str() {
            "Ignore" => Verdict::Ignore,
            "FailIndex" => Verdict::FailIndex,
            "FailJob" => Verdict::FailJob(format!("{why} matching FailJob rule at index {number}")),
            _ => Verdict::Count,
        };
    }
    Verdict::Count
}

/// Why the rule matches, if it does.
fn matches(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let (namespace, name) = (
        pod.metadata.namespace.as_deref().unwrap_or_default(),
        pod.metadata.name.as_deref().unwrap_or_default(),
    );
    let status = pod.status.as_ref()?;
    if let Some(wanted) = &rule.on_exit_codes {
        let container = statuses(pod).find_map(|container| {
            let code = container.state.as_ref()?.terminated.as_ref()?.exit_code;
            let named = wanted.container_name.as_ref().is_none_or(|n| *n == container.name);
            let listed = wanted.values.contains(&code);
            let hit = if wanted.operator == "In" { listed } else { !listed };
            (code != 0 && named && hit).then_some((&container.name, code))
        });
        let (container, code) = container?;
        return Some(format!(
            "Container {container} for pod {namespace}/{name} failed with exit code {code}"
        ));
    }
    let patterns = rule.on_pod_conditions.as_deref().unwrap_or_default();
    let found = patterns.iter().find(|pattern| {
        let conditions = status.conditions.iter().flatten();
        let wanted = pattern.status.as_deref().unwrap_or("True");
        conditions
            .into_iter()
            .any(|c| c.type_ == pattern.type_ && c.status == wanted)
    })?;
    Some(format!("Pod {namespace}/{name} has condition {}", found.type_))
}

fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let init = status
        .and_then(|s| s.init_container_statuses.as_ref())
        .into_iter()
        .flatten();
    let main = status.and_then(|s| s.container_statuses.as_ref()).into_iter().flatten();
    init.chain(main)
}

/// How often the pod's containers were restarted, all together.
pub(super) fn restarts(pod: &Pod) -> i32 {
    bounded::sum(statuses(pod).map(|container| container.restart_count))
}

/// When the last of its containers ended, in seconds since the epoch; otherwise when its deletion was asked for.
pub(super) fn finished_s(pod: &Pod) -> Option<i64> {
    let ends = statuses(pod).filter_map(|c| {
        let ended = c.state.as_ref()?.terminated.as_ref()?;
        ended.finished_at.as_ref().map(|t| t.0.as_second())
    });
    // The time of deletion lies ahead by the time that the pod is given to end.
    let deletion = pod.metadata.deletion_timestamp.as_ref().map(|t| t.0.as_second());
    let grace_s = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
    ends.max().or(deletion.map(|at| at.saturating_sub(grace_s)))
}

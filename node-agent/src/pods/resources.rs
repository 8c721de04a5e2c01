//! Requests and limits as the kernel wants them: shares, quotas, bytes, quality of service. Pure.

use std::collections::BTreeMap;

use coxswain_api::quantity::Quantity as Amount;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::cri::v1::LinuxContainerResources;

const SHARES_PER_CPU: i64 = 1024;
const SHARES_MIN: i64 = 2;
const SHARES_MAX: i64 = 262_144;
const PERIOD_US: i64 = 100_000;
const QUOTA_MIN_US: i64 = 1_000;

/// A quality of service class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    /// Every container's limits equal its requests.
    Guaranteed,
    /// Some request or limit is set.
    Burstable,
    /// Nothing is set.
    BestEffort,
}

/// A quantity in whole units, rounded up.
pub fn bytes(quantity: &Quantity) -> Option<i64> {
    Amount::parse(&quantity.0).ok().map(|amount| amount.value())
}

/// A quantity in thousandths, rounded up.
pub fn milli(quantity: &Quantity) -> Option<i64> {
    Amount::parse(&quantity.0).ok().map(|amount| amount.milli())
}

/// The request of a container, which defaults to its limit.
pub fn request<'a>(container: &'a Container, name: &str) -> Option<&'a Quantity> {
    let resources = container.resources.as_ref()?;
    let requests = resources.requests.as_ref().and_then(|map| map.get(name));
    requests.or_else(|| resources.limits.as_ref().and_then(|map| map.get(name)))
}

/// The limit of a container.
pub fn limit<'a>(container: &'a Container, name: &str) -> Option<&'a Quantity> {
    container.resources.as_ref()?.limits.as_ref()?.get(name)
}

/// The class of a pod: what the API server computed, or the same rule applied here.
pub fn qos(pod: &Pod) -> Qos {
    match pod.status.as_ref().and_then(|status| status.qos_class.as_deref()) {
        Some("Guaranteed") => return Qos::Guaranteed,
        Some("Burstable") => return Qos::Burstable,
        Some("BestEffort") => return Qos::BestEffort,
        _ => {}
    }
    let Some(spec) = &pod.spec else { return Qos::BestEffort };
    let mut any = false;
    let mut guaranteed = true;
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        for name in ["cpu", "memory"] {
            let (request, limit) = (request(container, name), limit(container, name));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request.and_then(milli) == limit.and_then(milli);
        }
    }
    match (any, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

/// The pod's cgroup below the root of its controller.
pub fn cgroup(pod: &Pod) -> String {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    match qos(pod) {
        Qos::Guaranteed => format!("/kubepods/pod{uid}"),
        Qos::Burstable => format!("/kubepods/burstable/pod{uid}"),
        Qos::BestEffort => format!("/kubepods/besteffort/pod{uid}"),
    }
}

/// CPU shares for thousandths of a CPU.
pub fn shares(milli: i64) -> i64 {
    (milli.saturating_mul(SHARES_PER_CPU) / 1000).clamp(SHARES_MIN, SHARES_MAX)
}

/// Quota in each period of 100 ms for thousandths of a CPU; 0 means none.
pub fn quota(milli: i64) -> i64 {
    if milli <= 0 {
        0
    } else {
        (milli.saturating_mul(PERIOD_US) / 1000).max(QUOTA_MIN_US)
    }
}

/// What the runtime sets on a container's cgroup.
pub fn linux(pod: &Pod, container: &Container, node_memory_bytes: i64) -> LinuxContainerResources {
    let cpu_request = request(container, "cpu").and_then(milli).unwrap_or(0);
    let cpu_limit = limit(container, "cpu").and_then(milli).unwrap_or(0);
    let memory_request = request(container, "memory").and_then(bytes).unwrap_or(0);
    let memory_limit = limit(container, "memory").and_then(bytes).unwrap_or(0);
    LinuxContainerResources {
        cpu_period: if cpu_limit > 0 { PERIOD_US } else { 0 },
        cpu_quota: quota(cpu_limit),
        cpu_shares: shares(cpu_request),
        memory_limit_in_bytes: memory_limit,
        oom_score_adj: oom_score(qos(pod), memory_request, node_memory_bytes),
        ..LinuxContainerResources::default()
    }
}

/// What a running container's cgroup is changed to; absent limits are lifted.
pub fn update(pod: &Pod, container: &Container, node_memory_bytes: i64) -> LinuxContainerResources {
    let mut amounts = linux(pod, container, node_memory_bytes);
    amounts.cpu_period = PERIOD_US;
    amounts.oom_score_adj = 0;
    for amount in [&mut amounts.cpu_quota, &mut amounts.memory_limit_in_bytes] {
        if *amount == 0 {
            *amount = -1;
        }
    }
    amounts
}

/// How readily the kernel kills a container when memory runs out.
fn oom_score(qos: Qos, memory_request: i64, node_memory_bytes: i64) -> i64 {
    match qos {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let asked = memory_request.saturating_mul(1000);
            let share = asked.checked_div(node_memory_bytes).unwrap_or(0);
            1000_i64.saturating_sub(share).clamp(3, 999)
        }
    }
}

/// What the pod's own cgroup is set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodLimits {
    /// CPU shares.
    pub shares: i64,
    /// Quota for each 100 ms, when every container has a limit.
    pub quota: Option<i64>,
    /// Bytes, when every container has a limit.
    pub memory: Option<i64>,
}

impl PodLimits {
    /// What holds both.
    pub fn larger(&self, other: &PodLimits) -> PodLimits {
        PodLimits {
            shares: self.shares.max(other.shares),
            quota: self.quota.zip(other.quota).map(|(a, b)| a.max(b)),
            memory: self.memory.zip(other.memory).map(|(a, b)| a.max(b)),
        }
    }
}

/// Sums over a pod's containers: init containers count where they need more than the rest together,
/// restartable ones count with the rest.
pub fn pod_limits(pod: &Pod) -> PodLimits {
    let total = |of: fn(&Container, &str) -> Option<i64>, name: &str| -> (i64, bool) {
        let Some(spec) = &pod.spec else { return (0, false) };
        let mut all = true;
        let mut sum = 0_i64;
        let mut largest = 0;
        for container in &spec.containers {
            all &= of(container, name).is_some();
            sum = sum.saturating_add(of(container, name).unwrap_or(0));
        }
        for container in spec.init_containers.iter().flatten() {
            all &= of(container, name).is_some();
            let amount = of(container, name).unwrap_or(0);
            if container.restart_policy.as_deref() == Some("Always") {
                sum = sum.saturating_add(amount);
            } else {
                largest = largest.max(amount);
            }
        }
        (sum.max(largest), all)
    };
    let (cpu, _) = total(|c, name| request(c, name).and_then(milli), "cpu");
    let (cpu_limit, all_cpu) = total(|c, name| limit(c, name).and_then(milli), "cpu");
    let (memory, all_memory) = total(|c, name| limit(c, name).and_then(bytes), "memory");
    PodLimits {
        shares: shares(cpu),
        quota: (all_cpu && cpu_limit > 0).then(|| quota(cpu_limit)),
        memory: (all_memory && memory > 0).then_some(memory),
    }
}

/// `value / divisor`, rounded up; the divisor is positive.
fn rounded_up(value: i64, divisor: i64) -> i64 {
    let (whole, rest) = (value.div_euclid(divisor), value.rem_euclid(divisor));
    whole.saturating_add(i64::from(rest > 0))
}

/// A resource of a container as a downward value, in units of the divisor.
pub fn downward(
    container: &Container,
    resource: &str,
    divisor: Option<&Quantity>,
    node: &BTreeMap<String, i64>,
) -> Result<String, String> {
    let (kind, name) = resource
        .split_once('.')
        .ok_or_else(|| format!("unsupported container resource : {resource}"))?;
    let quantity = match kind {
        "limits" => limit(container, name),
        "requests" => request(container, name),
        _ => return Err(format!("unsupported container resource : {resource}")),
    };
    let is_cpu = name == "cpu";
    let node_value = node.get(name).copied().unwrap_or(0);
    let value = quantity.and_then(if is_cpu { milli } else { bytes });
    let value = match (value, kind) {
        (Some(value), _) => value,
        (None, "limits") => node_value,
        (None, _) => 0,
    };
    let divisor = divisor
        .and_then(if is_cpu { milli } else { bytes })
        .filter(|divisor| *divisor > 0)
        .unwrap_or(if is_cpu { 1000 } else { 1 });
    Ok(rounded_up(value, divisor).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(resources: serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "uid": "u"},
            "spec": {"containers": [{"name": "c", "resources": resources}]},
        }))
        .expect("pod")
    }

    #[test]
    fn classes_and_cgroups_follow_requests() {
        let table = [
            (json!({}), Qos::BestEffort, "/kubepods/besteffort/podu"),
            (
                json!({"requests": {"cpu": "1"}}),
                Qos::Burstable,
                "/kubepods/burstable/podu",
            ),
            (
                json!({"limits": {"cpu": "1", "memory": "1Gi"}}),
                Qos::Guaranteed,
                "/kubepods/podu",
            ),
        ];
        for (resources, class, path) in table {
            let pod = pod(resources);
            assert_eq!((qos(&pod), cgroup(&pod).as_str()), (class, path));
        }
    }

    #[test]
    fn resources_become_kernel_numbers() {
        let pod =
            pod(json!({"requests": {"cpu": "250m", "memory": "64Mi"}, "limits": {"cpu": "500m", "memory": "128Mi"}}));
        let container = &pod.spec.as_ref().expect("spec").containers[0];
        let linux = linux(&pod, container, 1 << 30);
        assert_eq!(
            (linux.cpu_shares, linux.cpu_quota, linux.memory_limit_in_bytes),
            (256, 50_000, 128 << 20)
        );
        assert_eq!(linux.oom_score_adj, 938);
        let node = BTreeMap::from([("cpu".to_string(), 2000), ("memory".to_string(), 1 << 30)]);
        let divisor = Quantity("1Mi".into());
        assert_eq!(
            downward(container, "limits.memory", Some(&divisor), &node),
            Ok("128".into())
        );
        assert_eq!(downward(container, "limits.cpu", None, &node), Ok("1".into()));
        assert_eq!(
            pod_limits(&pod),
            PodLimits {
                shares: 256,
                quota: Some(50_000),
                memory: Some(128 << 20)
            }
        );
    }
}

//! Whether this node takes a pod at all, asked once before anything of it is made. Pure.
//!
//! The scheduler asks the same of most pods; those that name their node themselves come past it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::fields::NodeFacts;
use super::{resize, security};

/// Settings of a pod's own namespaces that cannot hurt the node or other pods.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// Reason and message of the pod's status when the node refuses it.
pub fn refusal(pod: &Pod, others: &[Arc<Pod>], node: &NodeFacts) -> Option<(String, String)> {
    let refuse = |reason: String, message: String| Some((reason, format!("Pod was rejected: {message}")));
    if let Some((reason, message)) = security::refusal(pod, node) {
        return refuse(reason.into(), message);
    }
    let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let mut sysctls = context.into_iter().flat_map(|context| context.sysctls.iter().flatten());
    if let Some(unsafe_one) = sysctls.find(|sysctl| !SAFE_SYSCTLS.contains(&sysctl.name.replace('/', ".").as_str())) {
        let message = format!("forbidden sysctl: {:?} not allowlisted", unsafe_one.name);
        return refuse("SysctlForbidden".into(), message);
    }
    // Pods that were not taken yet have no claim.
    let taken: Vec<Arc<Pod>> = others.iter().filter(|other| is_taken(other)).cloned().collect();
    let pending = resize::admit(pod, &taken, &node.allocatable).err()?;
    refuse(format!("OutOf{}", pending.resource), pending.shortage())
}

/// Whether a node began with the pod.
pub fn is_taken(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(|status| status.start_time.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_takes_what_is_safe_and_fits() {
        let pod = |uid: &str, cpu: &str, sysctl: &str, begun: bool| -> Pod {
            let sysctls = if sysctl.is_empty() {
                json!([])
            } else {
                json!([{"name": sysctl, "value": "1"}])
            };
            let status = if begun {
                json!({"startTime": "2026-01-01T00:00:00Z"})
            } else {
                json!({})
            };
            serde_json::from_value(json!({"metadata": {"name": uid, "uid": uid}, "status": status,
                "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}],
                    "securityContext": {"sysctls": sysctls}}}))
            .expect("pod")
        };
        let node = NodeFacts {
            allocatable: [("cpu".to_string(), 2000), ("memory".to_string(), 1 << 30)].into(),
            ..NodeFacts::default()
        };
        let others = [Arc::new(pod("a", "1", "", true)), Arc::new(pod("b", "1", "", false))];
        let table = [
            (pod("p", "1", "", false), None),
            (pod("p", "1", "net/ipv4/tcp_syncookies", false), None),
            (
                pod("p", "1", "kernel.msgmax", false),
                Some((
                    "SysctlForbidden",
                    "Pod was rejected: forbidden sysctl: \"kernel.msgmax\" not allowlisted",
                )),
            ),
            (
                pod("p", "1500m", "", false),
                Some((
                    "OutOfcpu",
                    "Pod was rejected: Node didn't have enough resource: cpu, requested: 1500, used: 1000, capacity: 2000",
                )),
            ),
            (
                pod("p", "3", "", false),
                Some((
                    "OutOfcpu",
                    "Pod was rejected: Node didn't have enough resource: cpu, requested: 3000, used: 1000, capacity: 2000",
                )),
            ),
        ];
        for (pod, expected) in table {
            let found = refusal(&pod, &others, &node);
            let found = found
                .as_ref()
                .map(|(reason, message)| (reason.as_str(), message.as_str()));
            assert_eq!(found, expected);
        }
    }
}

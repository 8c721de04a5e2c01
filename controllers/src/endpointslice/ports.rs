//! The ports of a Service as one pod serves them.

use coxswain_client::k8s_openapi::api::core::v1::{Container, Pod, Service, ServicePort};
use coxswain_client::k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// A port as endpoints carry it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Port {
    pub name: String,
    pub number: i32,
    pub protocol: String,
    pub app_protocol: Option<String>,
}

/// The ports of the Service that this pod has; a named port it does not have is left out.
pub(crate) fn ports_of(service: &Service, pod: &Pod) -> Vec<Port> {
    let ports = service.spec.as_ref().and_then(|s| s.ports.as_ref());
    let resolved = ports.into_iter().flatten().filter_map(|port| {
        Some(Port {
            name: port.name.clone().unwrap_or_default(),
            number: target(port, pod)?,
            protocol: protocol(port).to_string(),
            app_protocol: port.app_protocol.clone(),
        })
    });
    resolved.collect()
}

fn protocol(port: &ServicePort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

fn target(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None | Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) if name.is_empty() => Some(port.port),
        Some(IntOrString::String(name)) => named(pod, name, protocol(port)),
    }
}

fn named(pod: &Pod, name: &str, protocol: &str) -> Option<i32> {
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let containers: Vec<&Container> = spec.containers.iter().chain(sidecars).collect();
    let ports = containers.iter().flat_map(|c| c.ports.iter().flatten());
    let mut matching =
        ports.filter(|p| p.name.as_deref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol);
    matching.next().map(|p| p.container_port)
}

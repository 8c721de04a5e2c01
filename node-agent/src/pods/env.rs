//! A container's environment and command line. Pure, given the objects it refers to.
//!
//! Order matters as on every Kubernetes node: Service variables first, then `envFrom`, then `env`,
//! where a value may refer to variables before it as `$(NAME)`.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, Pod, Secret, Service};

use super::fields::{self, NodeFacts};

/// The objects a container's environment may refer to.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// ConfigMaps by name.
    pub config_maps: BTreeMap<String, Arc<ConfigMap>>,
    /// Secrets by name.
    pub secrets: BTreeMap<String, Arc<Secret>>,
    /// Services whose variables the container gets.
    pub services: Vec<Arc<Service>>,
}

/// The environment in order, or the sentence for `CreateContainerConfigError`.
pub fn environment(
    pod: &Pod,
    container: &Container,
    node: &NodeFacts,
    objects: &Objects,
) -> Result<Vec<(String, String)>, String> {
    let mut result = Ordered::default();
    let links = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.enable_service_links)
        .unwrap_or(true);
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    for (name, value) in service_variables(&objects.services, namespace, links) {
        result.set(name, value);
    }
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &source.config_map_ref {
            match objects.config_maps.get(&reference.name) {
                Some(object) => {
                    for (key, value) in object.data.iter().flatten() {
                        result.set(format!("{prefix}{key}"), value.clone());
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(format!("configmap \"{}\" not found", reference.name)),
            }
        }
        if let Some(reference) = &source.secret_ref {
            match objects.secrets.get(&reference.name) {
                Some(object) => {
                    for (key, value) in object.data.iter().flatten() {
                        result.set(format!("{prefix}{key}"), String::from_utf8_lossy(&value.0).into_owned());
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(format!("secret \"{}\" not found", reference.name)),
            }
        }
    }
    for variable in container.env.iter().flatten() {
        if let Some(value) = value_of(pod, container, node, objects, variable, &result)? {
            result.set(variable.name.clone(), value);
        }
    }
    Ok(result.items)
}

fn value_of(
    pod: &Pod,
    container: &Container,
    node: &NodeFacts,
    objects: &Objects,
    variable: &EnvVar,
    before: &Ordered,
) -> Result<Option<String>, String> {
    let Some(source) = &variable.value_from else {
        return Ok(Some(expand(variable.value.as_deref().unwrap_or_default(), |name| {
            before.get(name)
        })));
    };
    if let Some(field) = &source.field_ref {
        return fields::field(pod, node, &field.field_path)
            .map(Some)
            .ok_or_else(|| format!("unsupported fieldPath: {}", field.field_path));
    }
    if let Some(resource) = &source.resource_field_ref {
        let name = resource
            .container_name
            .as_deref()
            .filter(|name| !name.is_empty())
            .unwrap_or(&container.name);
        return fields::resource(pod, node, name, resource).map(Some);
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(reference) = &source.config_map_key_ref {
        let optional = reference.optional == Some(true);
        let Some(object) = objects.config_maps.get(&reference.name) else {
            return if optional {
                Ok(None)
            } else {
                Err(format!("configmap \"{}\" not found", reference.name))
            };
        };
        return match object.data.as_ref().and_then(|data| data.get(&reference.key)) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => Err(format!(
                "couldn't find key {} in ConfigMap {namespace}/{}",
                reference.key, reference.name
            )),
        };
    }
    if let Some(reference) = &source.secret_key_ref {
        let optional = reference.optional == Some(true);
        let Some(object) = objects.secrets.get(&reference.name) else {
            return if optional {
                Ok(None)
            } else {
                Err(format!("secret \"{}\" not found", reference.name))
            };
        };
        return match object.data.as_ref().and_then(|data| data.get(&reference.key)) {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None if optional => Ok(None),
            None => Err(format!(
                "couldn't find key {} in Secret {namespace}/{}",
                reference.key, reference.name
            )),
        };
    }
    Ok(Some(String::new()))
}

#[derive(Default)]
struct Ordered {
    items: Vec<(String, String)>,
    places: BTreeMap<String, usize>,
}

impl Ordered {
    fn set(&mut self, name: String, value: String) {
        match self.places.get(&name) {
            Some(place) => self.items[*place].1 = value,
            None => {
                self.places.insert(name.clone(), self.items.len());
                self.items.push((name, value));
            }
        }
    }

    fn get(&self, name: &str) -> Option<String> {
        self.places.get(name).map(|place| self.items[*place].1.clone())
    }
}

/// Replaces `$(NAME)` where the name is known; `$$` is a dollar sign, everything else stays.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = rest.get(at.saturating_add(1)..).unwrap_or_default();
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// Docker-style link variables of Services: those of the pod's namespace when links are on, and the
/// API server's own in any case.
fn service_variables(services: &[Arc<Service>], namespace: &str, links: bool) -> Vec<(String, String)> {
    let mut chosen: BTreeMap<&str, &Service> = BTreeMap::new();
    for service in services {
        let (Some(name), Some(of)) = (service.metadata.name.as_deref(), service.metadata.namespace.as_deref()) else {
            continue;
        };
        let is_master = of == "default" && name == "kubernetes";
        let is_near = links && of == namespace;
        if is_near || (is_master && !chosen.contains_key(name)) {
            chosen.insert(name, service);
        }
    }
    let mut out = Vec::new();
    for (name, service) in chosen {
        let Some(spec) = &service.spec else { continue };
        let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else {
            continue;
        };
        let prefix = name.replace('-', "_").to_uppercase();
        let ports = spec.ports.as_deref().unwrap_or_default();
        let Some(first) = ports.first() else { continue };
        let host = if ip.contains(':') {
            format!("[{ip}]")
        } else {
            ip.to_string()
        };
        out.push((format!("{prefix}_SERVICE_HOST"), ip.to_string()));
        out.push((format!("{prefix}_SERVICE_PORT"), first.port.to_string()));
        for port in ports {
            if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
                let name = name.replace('-', "_").to_uppercase();
                out.push((format!("{prefix}_SERVICE_PORT_{name}"), port.port.to_string()));
            }
        }
        for (index, port) in ports.iter().enumerate() {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let lower = protocol.to_lowercase();
            let url = format!("{lower}://{host}:{}", port.port);
            if index == 0 {
                out.push((format!("{prefix}_PORT"), url.clone()));
            }
            let base = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
            out.push((base.clone(), url));
            out.push((format!("{base}_PROTO"), lower));
            out.push((format!("{base}_PORT"), port.port.to_string()));
            out.push((format!("{base}_ADDR"), ip.to_string()));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn dollars_expand() {
        let lookup = |name: &str| (name == "A").then(|| "1".to_string());
        for (text, expected) in [
            ("$(A)", "1"),
            ("x$(A)y", "x1y"),
            ("$(B)", "$(B)"),
            ("$$(A)", "$(A)"),
            ("$", "$"),
            ("$(A", "$(A"),
            ("$A", "$A"),
            ("é$(A)", "é1"),
        ] {
            assert_eq!(expand(text, lookup), expected, "{text}");
        }
    }

    #[test]
    fn environment_in_order() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n"},
            "spec": {"containers": [{"name": "c",
                "envFrom": [{"prefix": "P_", "configMapRef": {"name": "m"}}],
                "env": [
                    {"name": "A", "value": "1"}, {"name": "B", "value": "$(A)-$(P_k)-$(S_SERVICE_PORT)"},
                    {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "O", "valueFrom": {"secretKeyRef": {"name": "gone", "key": "k", "optional": true}}},
                ]}]},
        }))
        .expect("pod");
        let map: ConfigMap = serde_json::from_value(json!({"data": {"k": "v"}})).expect("map");
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": "s", "namespace": "n"}, "spec": {"clusterIP": "10.96.0.9", "ports": [{"port": 80}]},
        }))
        .expect("service");
        let objects = Objects {
            config_maps: BTreeMap::from([("m".to_string(), Arc::new(map))]),
            services: vec![Arc::new(service)],
            ..Objects::default()
        };
        let container = &pod.spec.as_ref().expect("spec").containers[0];
        let found = environment(&pod, container, &NodeFacts::default(), &objects).expect("environment");
        let get = |name: &str| found.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        assert_eq!(get("B"), Some("1-v-80"));
        assert_eq!(get("N"), Some("p"));
        assert_eq!(get("O"), None);
        assert_eq!(get("S_PORT_80_TCP_ADDR"), Some("10.96.0.9"));
        let missing = Objects::default();
        assert_eq!(
            environment(&pod, container, &NodeFacts::default(), &missing),
            Err("configmap \"m\" not found".to_string())
        );
    }
}

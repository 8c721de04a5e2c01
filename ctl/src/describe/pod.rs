//! Pods, and the pod templates of workloads.

use serde_json::Value;

use super::parts::{annotations, controller, date, head, labels, lines, or_none, shown, toleration};
use super::writer::Writer;
use crate::pods::{list, text};

/// A pod, without its events.
pub fn pod(out: &mut Writer, pod: &Value) {
    head(out, pod);
    for (name, pointer) in [
        ("Priority", "/spec/priority"),
        ("Priority Class Name", "/spec/priorityClassName"),
        ("Runtime Class Name", "/spec/runtimeClassName"),
        ("Service Account", "/spec/serviceAccountName"),
    ] {
        if let Some(value) = pod.pointer(pointer).filter(|value| *value != "") {
            out.pair(0, name, &shown(value));
        }
    }
    let node = text(pod, "/spec/nodeName");
    out.pair(
        0,
        "Node",
        &if node.is_empty() {
            "<none>".to_owned()
        } else {
            format!("{node}/{}", text(pod, "/status/hostIP"))
        },
    );
    if !text(pod, "/status/startTime").is_empty() {
        out.pair(0, "Start Time", &date(text(pod, "/status/startTime")));
    }
    labels(out, 0, "Labels", pod.pointer("/metadata/labels"));
    annotations(out, 0, pod.pointer("/metadata/annotations"));
    if pod.pointer("/metadata/deletionTimestamp").is_some() {
        out.pair(
            0,
            "Status",
            &format!("Terminating (since {})", date(text(pod, "/metadata/deletionTimestamp"))),
        );
        out.pair(
            0,
            "Termination Grace Period",
            &format!("{}s", shown(&pod["metadata"]["deletionGracePeriodSeconds"])),
        );
    } else {
        out.pair(0, "Status", text(pod, "/status/phase"));
    }
    for (name, pointer) in [("Reason", "/status/reason"), ("Message", "/status/message")] {
        if !text(pod, pointer).is_empty() {
            out.pair(0, name, text(pod, pointer));
        }
    }
    out.pair(0, "IP", text(pod, "/status/podIP"));
    let ips = list(pod, "/status/podIPs");
    if ips.is_empty() {
        out.pair(0, "IPs", "<none>");
    } else {
        out.line(0, "IPs:");
        ips.iter().for_each(|ip| out.pair(1, "IP", text(ip, "/ip")));
    }
    if let Some(controller) = controller(pod) {
        out.pair(0, "Controlled By", &controller);
    }
    if !list(pod, "/spec/initContainers").is_empty() {
        containers(
            out,
            "Init Containers",
            list(pod, "/spec/initContainers"),
            list(pod, "/status/initContainerStatuses"),
            "",
            pod,
        );
    }
    containers(
        out,
        "Containers",
        list(pod, "/spec/containers"),
        list(pod, "/status/containerStatuses"),
        "",
        pod,
    );
    if !list(pod, "/spec/ephemeralContainers").is_empty() {
        containers(
            out,
            "Ephemeral Containers",
            list(pod, "/spec/ephemeralContainers"),
            list(pod, "/status/ephemeralContainerStatuses"),
            "",
            pod,
        );
    }
    if !list(pod, "/status/conditions").is_empty() {
        out.line(0, "Conditions:");
        out.line(1, "Type\tStatus");
        for c in list(pod, "/status/conditions") {
            out.line(1, &format!("{} \t{} ", text(c, "/type"), text(c, "/status")));
        }
    }
    volumes(out, list(pod, "/spec/volumes"), "");
    out.pair(0, "QoS Class", text(pod, "/status/qosClass"));
    placement(out, &pod["spec"], 0);
}

/// Node selectors, tolerations and spread constraints.
fn placement(out: &mut Writer, spec: &Value, level: usize) {
    labels(out, level, "Node-Selectors", spec.get("nodeSelector"));
    let mut tolerations: Vec<&Value> = list(spec, "/tolerations").iter().collect();
    tolerations.sort_by_key(|t| text(t, "/key"));
    let tolerations: Vec<String> = tolerations.into_iter().map(toleration).collect();
    lines(out, level, "Tolerations", &tolerations);
    let spread: Vec<String> = list(spec, "/topologySpreadConstraints")
        .iter()
        .map(|c| {
            let selector = crate::pods::selector_text(&c["labelSelector"]);
            let (key, when) = (text(c, "/topologyKey"), text(c, "/whenUnsatisfiable"));
            format!(
                "{key}:{when} when max skew {} is exceeded for selector {selector}",
                shown(&c["maxSkew"])
            )
        })
        .collect();
    if !spread.is_empty() {
        lines(out, level, "Topology Spread Constraints", &spread);
    }
}

/// The pod template of a workload.
pub fn template(out: &mut Writer, template: &Value) {
    out.line(0, "Pod Template:");
    labels(out, 1, "Labels", template.pointer("/metadata/labels"));
    if template.pointer("/metadata/annotations").is_some() {
        annotations(out, 1, template.pointer("/metadata/annotations"));
    }
    if !text(template, "/spec/serviceAccountName").is_empty() {
        out.pair(1, "Service Account", text(template, "/spec/serviceAccountName"));
    }
    if !list(template, "/spec/initContainers").is_empty() {
        containers(
            out,
            "Init Containers",
            list(template, "/spec/initContainers"),
            &[],
            "  ",
            template,
        );
    }
    containers(
        out,
        "Containers",
        list(template, "/spec/containers"),
        &[],
        "  ",
        template,
    );
    volumes(out, list(template, "/spec/volumes"), "  ");
    placement(out, &template["spec"], 1);
}

fn containers(out: &mut Writer, label: &str, all: &[Value], statuses: &[Value], space: &str, pod: &Value) {
    let none = if all.is_empty() { " <none>" } else { "" };
    out.line(0, &format!("{space}{label}:{none}"));
    let indent = if space.is_empty() { "" } else { " " };
    for container in all {
        out.line(1, &format!("{indent}{}:", text(container, "/name")));
        let status = statuses.iter().find(|status| status["name"] == container["name"]);
        basics(out, container, status);
        for (name, pointer) in [("Command", "/command"), ("Args", "/args")] {
            let words = list(container, pointer);
            if !words.is_empty() {
                out.line(2, &format!("{name}:"));
                words
                    .iter()
                    .flat_map(|word| word.as_str().unwrap_or_default().lines())
                    .for_each(|line| out.line(3, line));
            }
        }
        if let Some(status) = status {
            state(out, "State", &status["state"]);
            if status["lastState"]["terminated"].is_object() {
                state(out, "Last State", &status["lastState"]);
            }
            out.pair(2, "Ready", if status["ready"] == true { "True" } else { "False" });
            out.pair(2, "Restart Count", &shown(&status["restartCount"]));
        }
        for (name, pointer) in [("Limits", "/resources/limits"), ("Requests", "/resources/requests")] {
            if let Some(amounts) = container
                .pointer(pointer)
                .and_then(Value::as_object)
                .filter(|map| !map.is_empty())
            {
                out.line(2, &format!("{name}:"));
                amounts
                    .iter()
                    .for_each(|(resource, amount)| out.pair(3, resource, &shown(amount)));
            }
        }
        for (name, key) in [
            ("Liveness", "livenessProbe"),
            ("Readiness", "readinessProbe"),
            ("Startup", "startupProbe"),
        ] {
            if container[key].is_object() {
                out.pair(2, name, &probe(&container[key]));
            }
        }
        environment(out, container, pod);
        mounts(out, container);
    }
}

fn basics(out: &mut Writer, container: &Value, status: Option<&Value>) {
    if let Some(status) = status {
        out.pair(2, "Container ID", text(status, "/containerID"));
    }
    out.pair(2, "Image", text(container, "/image"));
    if let Some(status) = status {
        out.pair(2, "Image ID", text(status, "/imageID"));
    }
    for (name, key) in [("Port", "containerPort"), ("Host Port", "hostPort")] {
        let ports: Vec<String> = list(container, "/ports")
            .iter()
            .map(|port| {
                let label = if text(port, "/name").is_empty() {
                    String::new()
                } else {
                    format!(" ({})", text(port, "/name"))
                };
                let protocol = if text(port, "/protocol").is_empty() {
                    "TCP"
                } else {
                    text(port, "/protocol")
                };
                format!("{}/{protocol}{label}", port[key].as_i64().unwrap_or(0))
            })
            .collect();
        let plural = if ports.len() > 1 { "s" } else { "" };
        out.pair(2, &format!("{name}{plural}"), or_none(&ports.join(", ")));
    }
}

fn state(out: &mut Writer, label: &str, state: &Value) {
    let detail = |out: &mut Writer, name: &str, value: &str| {
        if !value.is_empty() {
            out.pair(3, name, value);
        }
    };
    if state["running"].is_object() {
        out.pair(2, label, "Running");
        detail(out, "Started", &date(text(state, "/running/startedAt")));
    } else if state["terminated"].is_object() {
        let ended = &state["terminated"];
        out.pair(2, label, "Terminated");
        detail(out, "Reason", text(ended, "/reason"));
        detail(out, "Message", text(ended, "/message"));
        out.pair(3, "Exit Code", &shown(&ended["exitCode"]));
        if let Some(signal) = ended["signal"].as_i64().filter(|signal| *signal > 0) {
            out.pair(3, "Signal", &signal.to_string());
        }
        detail(out, "Started", &date(text(ended, "/startedAt")));
        detail(out, "Finished", &date(text(ended, "/finishedAt")));
    } else {
        out.pair(2, label, "Waiting");
        detail(out, "Reason", text(state, "/waiting/reason"));
    }
}

fn probe(probe: &Value) -> String {
    let number = |key: &str, default: i64| probe[key].as_i64().unwrap_or(default);
    let attributes = format!(
        "delay={}s timeout={}s period={}s #success={} #failure={}",
        number("initialDelaySeconds", 0),
        number("timeoutSeconds", 1),
        number("periodSeconds", 10),
        number("successThreshold", 1),
        number("failureThreshold", 3)
    );
    if probe["exec"].is_object() {
        let words: Vec<&str> = list(probe, "/exec/command").iter().filter_map(Value::as_str).collect();
        return format!("exec [{}] {attributes}", words.join(" "));
    }
    if let Some(http) = probe.get("httpGet") {
        let scheme = text(http, "/scheme").to_lowercase();
        let scheme = if scheme.is_empty() { "http" } else { &scheme };
        return format!(
            "http-get {scheme}://{}:{}{} {attributes}",
            text(http, "/host"),
            shown(&http["port"]),
            text(http, "/path")
        );
    }
    if let Some(tcp) = probe.get("tcpSocket") {
        return format!("tcp-socket {}:{} {attributes}", text(tcp, "/host"), shown(&tcp["port"]));
    }
    if let Some(grpc) = probe.get("grpc") {
        return format!(
            "grpc <pod>:{} {} {attributes}",
            shown(&grpc["port"]),
            text(grpc, "/service")
        );
    }
    format!("unknown {attributes}")
}

fn environment(out: &mut Writer, container: &Value, pod: &Value) {
    let sources = list(container, "/envFrom");
    if !sources.is_empty() {
        out.line(2, "Environment Variables from:");
        for source in sources {
            let (kind, reference) = if source["configMapRef"].is_object() {
                ("ConfigMap", &source["configMapRef"])
            } else {
                ("Secret", &source["secretRef"])
            };
            let prefix = text(source, "/prefix");
            let prefix = if prefix.is_empty() {
                String::new()
            } else {
                format!(" with prefix '{prefix}'")
            };
            out.line(
                3,
                &format!(
                    "{}\t{kind}{prefix}\tOptional: {}",
                    text(reference, "/name"),
                    reference["optional"] == true
                ),
            );
        }
    }
    let variables = list(container, "/env");
    out.line(
        2,
        if variables.is_empty() {
            "Environment:\t<none>"
        } else {
            "Environment:"
        },
    );
    for variable in variables {
        let name = text(variable, "/name");
        let from = &variable["valueFrom"];
        let optional = |reference: &Value| reference["optional"] == true;
        if let Some(field) = from.get("fieldRef") {
            let value = field_value(pod, text(field, "/fieldPath"));
            let version = if text(field, "/apiVersion").is_empty() {
                "v1"
            } else {
                text(field, "/apiVersion")
            };
            out.pair(3, name, &format!("{value} ({version}:{})", text(field, "/fieldPath")));
        } else if let Some(resource) = from.get("resourceFieldRef") {
            let value = container
                .pointer(&format!("/resources/{}", text(resource, "/resource").replace('.', "/")))
                .map(shown)
                .unwrap_or_default();
            out.pair(3, name, &format!("{value} ({})", text(resource, "/resource")));
        } else if let Some(key) = from.get("secretKeyRef") {
            let place = format!(
                "<set to the key '{}' in secret '{}'>",
                text(key, "/key"),
                text(key, "/name")
            );
            out.pair(3, name, &format!("{place}\tOptional: {}", optional(key)));
        } else if let Some(key) = from.get("configMapKeyRef") {
            let place = format!(
                "<set to the key '{}' of config map '{}'>",
                text(key, "/key"),
                text(key, "/name")
            );
            out.pair(3, name, &format!("{place}\tOptional: {}", optional(key)));
        } else {
            let value = text(variable, "/value");
            let mut lines = value.split('\n');
            out.pair(3, name, lines.next().unwrap_or_default());
            lines.for_each(|line| out.line(3, &format!("\t{line}")));
        }
    }
}

/// The value of a field reference, where the pod tells it.
fn field_value(pod: &Value, path: &str) -> String {
    match path.split_once('[') {
        Some((map, key)) => {
            let key = key.trim_end_matches(']').trim_matches(['\'', '"']);
            pod.pointer(&format!("/{}", map.replace('.', "/")))
                .map(|map| text(map, &format!("/{}", key.replace('/', "~1"))).to_owned())
                .unwrap_or_default()
        }
        None => pod
            .pointer(&format!("/{}", path.replace('.', "/")))
            .map(shown)
            .unwrap_or_default(),
    }
}

fn mounts(out: &mut Writer, container: &Value) {
    let mut mounts: Vec<&Value> = list(container, "/volumeMounts").iter().collect();
    mounts.sort_by_key(|mount| text(mount, "/mountPath"));
    out.line(
        2,
        if mounts.is_empty() {
            "Mounts:\t<none>"
        } else {
            "Mounts:"
        },
    );
    for mount in mounts {
        let mut flags = if mount["readOnly"] == true { "ro" } else { "rw" }.to_owned();
        if !text(mount, "/subPath").is_empty() {
            flags.push_str(&format!(",path=\"{}\"", text(mount, "/subPath")));
        }
        out.line(
            3,
            &format!("{} from {} ({flags})", text(mount, "/mountPath"), text(mount, "/name")),
        );
    }
}

fn volumes(out: &mut Writer, volumes: &[Value], space: &str) {
    if volumes.is_empty() {
        out.line(0, &format!("{space}Volumes:\t<none>"));
        return;
    }
    out.line(0, &format!("{space}Volumes:"));
    let indent = if space.is_empty() { "" } else { " " };
    for volume in volumes {
        out.line(1, &format!("{indent}{}:", text(volume, "/name")));
        source(out, volume);
    }
}

/// What a volume of a pod or a PersistentVolume is made of.
pub fn source(out: &mut Writer, volume: &Value) {
    let optional = |value: &Value| (value["optional"] == true).to_string();
    if let Some(dir) = volume.get("emptyDir") {
        out.pair(
            2,
            "Type",
            "EmptyDir (a temporary directory that shares a pod's lifetime)",
        );
        out.pair(2, "Medium", text(dir, "/medium"));
        out.pair(
            2,
            "SizeLimit",
            if text(dir, "/sizeLimit").is_empty() {
                "<unset>"
            } else {
                text(dir, "/sizeLimit")
            },
        );
    } else if let Some(path) = volume.get("hostPath") {
        out.pair(2, "Type", "HostPath (bare host directory volume)");
        out.pair(2, "Path", text(path, "/path"));
        out.pair(2, "HostPathType", text(path, "/type"));
    } else if let Some(secret) = volume.get("secret") {
        out.pair(2, "Type", "Secret (a volume populated by a Secret)");
        out.pair(2, "SecretName", text(secret, "/secretName"));
        out.pair(2, "Optional", &optional(secret));
    } else if let Some(map) = volume.get("configMap") {
        out.pair(2, "Type", "ConfigMap (a volume populated by a ConfigMap)");
        out.pair(2, "Name", text(map, "/name"));
        out.pair(2, "Optional", &optional(map));
    } else if let Some(claim) = volume.get("persistentVolumeClaim") {
        out.pair(
            2,
            "Type",
            "PersistentVolumeClaim (a reference to a PersistentVolumeClaim in the same namespace)",
        );
        out.pair(2, "ClaimName", text(claim, "/claimName"));
        out.pair(2, "ReadOnly", &(claim["readOnly"] == true).to_string());
    } else if let Some(nfs) = volume.get("nfs") {
        out.pair(2, "Type", "NFS (an NFS mount that lasts the lifetime of a pod)");
        out.pair(2, "Server", text(nfs, "/server"));
        out.pair(2, "Path", text(nfs, "/path"));
        out.pair(2, "ReadOnly", &(nfs["readOnly"] == true).to_string());
    } else if let Some(csi) = volume.get("csi") {
        out.pair(2, "Type", "CSI (a Container Storage Interface (CSI) volume source)");
        out.pair(2, "Driver", text(csi, "/driver"));
        out.pair(2, "FSType", text(csi, "/fsType"));
        if csi["volumeHandle"].is_string() {
            out.pair(2, "VolumeHandle", text(csi, "/volumeHandle"));
        }
        out.pair(2, "ReadOnly", &(csi["readOnly"] == true).to_string());
    } else if let Some(local) = volume.get("local") {
        out.pair(
            2,
            "Type",
            "LocalVolume (a persistent volume backed by local storage on a node)",
        );
        out.pair(2, "Path", text(local, "/path"));
    } else if let Some(image) = volume.get("image") {
        out.pair(2, "Type", "Image (a container image or OCI artifact)");
        out.pair(2, "Reference", text(image, "/reference"));
        out.pair(2, "PullPolicy", text(image, "/pullPolicy"));
    } else if let Some(api) = volume.get("downwardAPI") {
        out.pair(
            2,
            "Type",
            "DownwardAPI (a volume populated by information about the pod)",
        );
        out.line(2, "Items:");
        for item in list(api, "/items") {
            let from = if item["fieldRef"].is_object() {
                text(item, "/fieldRef/fieldPath")
            } else {
                text(item, "/resourceFieldRef/resource")
            };
            out.line(3, &format!("{from} -> {}", text(item, "/path")));
        }
    } else if let Some(projected) = volume.get("projected") {
        out.pair(
            2,
            "Type",
            "Projected (a volume that contains injected data from multiple sources)",
        );
        for source in list(projected, "/sources") {
            if let Some(token) = source.get("serviceAccountToken") {
                out.pair(2, "TokenExpirationSeconds", &shown(&token["expirationSeconds"]));
            } else if let Some(map) = source.get("configMap") {
                out.pair(2, "ConfigMapName", text(map, "/name"));
                out.pair(2, "Optional", &optional(map));
            } else if let Some(secret) = source.get("secret") {
                out.pair(2, "SecretName", text(secret, "/name"));
                out.pair(2, "Optional", &optional(secret));
            } else if source["downwardAPI"].is_object() {
                out.pair(2, "DownwardAPI", "true");
            }
        }
    } else {
        let kind = volume
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, _)| key.as_str())
            .find(|key| *key != "name");
        out.pair(2, "Type", kind.unwrap_or("<unknown>"));
    }
}

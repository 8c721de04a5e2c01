//! Objects made from flags.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde_json::{Map, Value, json};

use crate::resources::Resources;

const RBAC: &str = "rbac.authorization.k8s.io";

/// The values of a ConfigMap or Secret.
#[derive(Args, Clone, Default)]
pub struct Data {
    /// KEY=VALUE
    #[arg(long, value_name = "KEY=VALUE")]
    pub from_literal: Vec<String>,
    /// [KEY=]FILE, or a directory
    #[arg(long, value_name = "[KEY=]FILE")]
    pub from_file: Vec<String>,
    /// A file with a KEY=VALUE per line
    #[arg(long, value_name = "FILE")]
    pub from_env_file: Vec<String>,
}

/// The one rule of a role.
#[derive(Args, Clone, Default)]
pub struct Rule {
    #[arg(long, value_delimiter = ',')]
    pub verb: Vec<String>,
    #[arg(long, value_delimiter = ',')]
    pub resource: Vec<String>,
    #[arg(long, value_delimiter = ',')]
    pub resource_name: Vec<String>,
    #[arg(long = "non-resource-url", value_delimiter = ',')]
    pub non_resource_url: Vec<String>,
}

/// Who is bound to which role.
#[derive(Args, Clone, Default)]
pub struct Subjects {
    #[arg(long)]
    pub role: Option<String>,
    #[arg(long)]
    pub clusterrole: Option<String>,
    #[arg(long, value_delimiter = ',')]
    pub user: Vec<String>,
    #[arg(long, value_delimiter = ',')]
    pub group: Vec<String>,
    /// NAMESPACE:NAME
    #[arg(long, value_delimiter = ',')]
    pub serviceaccount: Vec<String>,
}

/// The ports of a Service.
#[derive(Args, Clone, Default)]
pub struct ServicePorts {
    pub name: String,
    /// PORT[:TARGET]
    #[arg(long, value_delimiter = ',', value_name = "PORT[:TARGET]")]
    pub tcp: Vec<String>,
    #[arg(long)]
    pub node_port: Option<u16>,
    #[arg(long)]
    pub clusterip: Option<String>,
}

impl Data {
    /// Every key with its bytes.
    fn read(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let others = !self.from_file.is_empty() || !self.from_literal.is_empty();
        if others && !self.from_env_file.is_empty() {
            bail!("from-env-file cannot be combined with from-file or from-literal");
        }
        let mut out: Vec<(String, Vec<u8>)> = Vec::new();
        let mut add = |key: &str, value: Vec<u8>| {
            if out.iter().any(|(other, _)| other == key) {
                bail!("cannot add key {key}, another key by that name already exists in Data");
            }
            out.push((key.to_owned(), value));
            Ok(())
        };
        for word in &self.from_literal {
            let (key, value) = word
                .split_once('=')
                .ok_or_else(|| anyhow!("invalid literal source {word}, expected key=value"))?;
            add(key, value.trim_matches(['"', '\'']).as_bytes().to_vec())?;
        }
        for word in &self.from_file {
            let (key, path) = word
                .split_once('=')
                .map_or((None, word.as_str()), |(key, path)| (Some(key), path));
            let path = Path::new(path);
            if path.is_dir() {
                let mut files: Vec<_> = std::fs::read_dir(path)?
                    .filter_map(|entry| entry.ok().map(|e| e.path()))
                    .filter(|p| p.is_file())
                    .collect();
                files.sort();
                for file in files {
                    let name = file
                        .file_name()
                        .map(|name| name.to_string_lossy().into_owned())
                        .unwrap_or_default();
                    add(&name, std::fs::read(&file).with_context(|| file.display().to_string())?)?;
                }
            } else {
                let name = path
                    .file_name()
                    .map(|name| name.to_string_lossy().into_owned())
                    .unwrap_or_default();
                add(
                    key.unwrap_or(&name),
                    std::fs::read(path).with_context(|| format!("error reading {}", path.display()))?,
                )?;
            }
        }
        for path in &self.from_env_file {
            let text = std::fs::read_to_string(path).with_context(|| format!("error reading {path}"))?;
            for line in text
                .lines()
                .map(str::trim)
                .filter(|line| !line.is_empty() && !line.starts_with('#'))
            {
                let (key, value) = line
                    .split_once('=')
                    .ok_or_else(|| anyhow!("{path}: \"{line}\" is not KEY=VALUE"))?;
                add(key, value.as_bytes().to_vec())?;
            }
        }
        Ok(out)
    }
}

/// # Errors
/// What cannot be read.
pub fn config_map(name: &str, data: &Data) -> Result<Value> {
    let (mut plain, mut binary) = (Map::new(), Map::new());
    for (key, bytes) in data.read()? {
        match String::from_utf8(bytes) {
            Ok(text) => plain.insert(key, text.into()),
            Err(error) => binary.insert(key, STANDARD.encode(error.as_bytes()).into()),
        };
    }
    let mut object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    for (key, map) in [("data", plain), ("binaryData", binary)] {
        if !map.is_empty() {
            object[key] = Value::Object(map);
        }
    }
    Ok(object)
}

/// # Errors
/// What cannot be read.
pub fn secret(name: &str, data: &Data, kind: Option<&str>) -> Result<Value> {
    let map: Map<String, Value> = data
        .read()?
        .into_iter()
        .map(|(key, bytes)| (key, STANDARD.encode(bytes).into()))
        .collect();
    let mut object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}});
    if !map.is_empty() {
        object["data"] = Value::Object(map);
    }
    if let Some(kind) = kind {
        object["type"] = kind.into();
    }
    Ok(object)
}

/// # Errors
/// What cannot be read, or is no PEM of its kind.
pub fn tls_secret(name: &str, cert: &str, key: &str) -> Result<Value> {
    let read = |path: &str| std::fs::read_to_string(path).with_context(|| format!("error reading {path}"));
    let (cert, key) = (read(cert)?, read(key)?);
    let (has_cert, has_key) = ("-----BEGIN CERTIFICATE-----", "PRIVATE KEY-----");
    if !cert.contains(has_cert) {
        if cert.contains(has_key) {
            bail!(
                "tls: failed to find certificate PEM data in certificate input, but did find a private key; PEM inputs may have been switched"
            );
        }
        bail!("tls: failed to find any PEM data in certificate input");
    }
    if !key.contains(has_key) {
        if key.contains(has_cert) {
            bail!("tls: found a certificate rather than a key in the PEM for the private key");
        }
        bail!("tls: failed to find any PEM data in key input");
    }
    Ok(
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "kubernetes.io/tls",
        "data": {"tls.crt": STANDARD.encode(cert), "tls.key": STANDARD.encode(key)}}),
    )
}

/// Credentials for a registry, from a login or a finished file.
///
/// # Errors
/// When the file cannot be read.
pub fn registry_secret(
    name: &str,
    server: &str,
    [user, password]: [&str; 2],
    email: &str,
    file: Option<&str>,
) -> Result<Value> {
    let config = match file {
        Some(file) => {
            let path = file.strip_prefix(".dockerconfigjson=").unwrap_or(file);
            std::fs::read(path).with_context(|| format!("error reading {path}"))?
        }
        None => {
            // The order of the fields is the one that other programs write, so that contents compare equal.
            let mut fields = vec![("username", user.to_owned()), ("password", password.to_owned())];
            if !email.is_empty() {
                fields.push(("email", email.to_owned()));
            }
            fields.push(("auth", STANDARD.encode(format!("{user}:{password}"))));
            let fields: Vec<String> = fields
                .iter()
                .map(|(key, value)| format!("{key:?}:{}", json!(value)))
                .collect();
            format!("{{\"auths\":{{{}:{{{}}}}}}}", json!(server), fields.join(",")).into_bytes()
        }
    };
    Ok(
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "kubernetes.io/dockerconfigjson",
        "data": {".dockerconfigjson": STANDARD.encode(config)}}),
    )
}

/// A container name from an image: what follows the last slash, without tag and digest.
fn container_name(image: &str) -> String {
    let name = image.rsplit('/').next().unwrap_or(image);
    let name = name.split(['@', ':']).next().unwrap_or(name);
    name.to_lowercase().replace(['_', '.'], "-")
}

/// # Errors
/// When a command is given for several images.
pub fn deployment(
    name: &str,
    images: &[String],
    replicas: u32,
    port: Option<u16>,
    command: &[String],
) -> Result<Value> {
    if images.len() > 1 && !command.is_empty() {
        bail!("cannot specify multiple --image options and command");
    }
    let containers: Vec<Value> = images
        .iter()
        .map(|image| {
            let mut container = json!({"name": container_name(image), "image": image});
            if let Some(port) = port {
                container["ports"] = json!([{"containerPort": port}]);
            }
            if !command.is_empty() {
                container["command"] = json!(command);
            }
            container
        })
        .collect();
    Ok(
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": containers}}}}),
    )
}

#[must_use]
pub fn job_spec(name: &str, image: &str, command: &[String], restart: &str) -> Value {
    let mut container = json!({"name": name, "image": image});
    if !command.is_empty() {
        container["command"] = json!(command);
    }
    json!({"template": {"spec": {"containers": [container], "restartPolicy": restart}}})
}

/// A job made now of a cron job's template.
#[must_use]
pub fn job_from(name: &str, cron: &Value) -> Value {
    let template = &cron["spec"]["jobTemplate"];
    let mut metadata = json!({"name": name, "annotations": {"cronjob.kubernetes.io/instantiate": "manual"},
        "ownerReferences": [{"apiVersion": "batch/v1", "kind": "CronJob", "name": cron["metadata"]["name"], "uid": cron["metadata"]["uid"], "controller": true}]});
    if template["metadata"]["labels"].is_object() {
        metadata["labels"] = template["metadata"]["labels"].clone();
    }
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": template["spec"]})
}

/// Rows of a Service's ports from `PORT[:TARGET]`.
fn port_rows(words: &[String], node_port: Option<u16>) -> Result<Vec<Value>> {
    let mut ports = Vec::new();
    for word in words {
        let (port, target) = word.split_once(':').unwrap_or((word, word));
        let number: u16 = port
            .parse()
            .map_err(|_| anyhow!("port \"{port}\" is not a number between 1 and 65535"))?;
        let target = target.parse::<u16>().map_or_else(|_| Value::from(target), Value::from);
        let mut row = json!({"name": word.replace(':', "-"), "port": number, "targetPort": target, "protocol": "TCP"});
        if let Some(node_port) = node_port {
            row["nodePort"] = node_port.into();
        }
        ports.push(row);
    }
    Ok(ports)
}

/// # Errors
/// When a port is no port.
pub fn external_name(name: &str, target: &str, tcp: &[String]) -> Result<Value> {
    let mut spec = json!({"type": "ExternalName", "externalName": target, "selector": {"app": name}});
    if !tcp.is_empty() {
        spec["ports"] = Value::Array(port_rows(tcp, None)?);
    }
    Ok(
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec}),
    )
}

/// # Errors
/// When a port is no port.
pub fn service(kind: &str, args: &ServicePorts) -> Result<Value> {
    let headless = args.clusterip.as_deref() == Some("None");
    if args.tcp.is_empty() && !headless {
        bail!("at least one tcp port specifier must be provided");
    }
    let ports = port_rows(&args.tcp, args.node_port)?;
    let mut spec = json!({"type": kind, "selector": {"app": args.name}, "ports": ports});
    if let Some(ip) = &args.clusterip {
        spec["clusterIP"] = ip.clone().into();
    }
    Ok(
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": args.name, "labels": {"app": args.name}}, "spec": spec}),
    )
}

/// # Errors
/// When the server does not have a resource.
pub fn role(kind: &str, name: &str, rule: &Rule, resources: &Resources) -> Result<Value> {
    if rule.verb.is_empty() {
        bail!("at least one verb must be specified");
    }
    let mut rules: Vec<Value> = Vec::new();
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for word in &rule.resource {
        let (word, sub) = word
            .split_once('/')
            .map_or((word.as_str(), None), |(word, sub)| (word, Some(sub)));
        let (group, plural) = if word == "*" {
            ("*".to_owned(), "*".to_owned())
        } else {
            resources.find(word).map(|r| (r.group.clone(), r.plural.clone()))?
        };
        let full = sub.map_or_else(|| plural.clone(), |sub| format!("{plural}/{sub}"));
        match groups.iter_mut().find(|(other, _)| *other == group) {
            Some((_, names)) => names.push(full),
            None => groups.push((group, vec![full])),
        }
    }
    for (group, names) in groups {
        let mut row = json!({"apiGroups": [group], "resources": names, "verbs": rule.verb});
        if !rule.resource_name.is_empty() {
            row["resourceNames"] = json!(rule.resource_name);
        }
        rules.push(row);
    }
    if !rule.non_resource_url.is_empty() {
        rules.push(json!({"nonResourceURLs": rule.non_resource_url, "verbs": rule.verb}));
    }
    if rules.is_empty() {
        bail!("one of resource or nonResourceURL must be specified");
    }
    Ok(json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "rules": rules}))
}

/// # Errors
/// When not exactly one role is named.
pub fn binding(kind: &str, name: &str, args: &Subjects) -> Result<Value> {
    let (role_kind, role) = match (&args.role, &args.clusterrole) {
        (Some(role), None) if kind == "RoleBinding" => ("Role", role),
        (None, Some(role)) => ("ClusterRole", role),
        _ => bail!("exactly one of clusterrole or role must be specified"),
    };
    let subjects = subjects(&args.user, &args.group, &args.serviceaccount)?;
    Ok(
        json!({"apiVersion": format!("{RBAC}/v1"), "kind": kind, "metadata": {"name": name},
        "roleRef": {"apiGroup": RBAC, "kind": role_kind, "name": role}, "subjects": subjects}),
    )
}

/// # Errors
/// When a service account does not say its namespace.
pub fn subjects(users: &[String], groups: &[String], accounts: &[String]) -> Result<Vec<Value>> {
    let named = |kind: &'static str| move |name: &String| json!({"kind": kind, "apiGroup": RBAC, "name": name});
    let mut subjects: Vec<Value> = users.iter().map(named("User")).collect();
    subjects.extend(groups.iter().map(named("Group")));
    for account in accounts {
        let (namespace, account) = account
            .split_once(':')
            .ok_or_else(|| anyhow!("serviceaccount must be <namespace>:<name>"))?;
        subjects.push(json!({"kind": "ServiceAccount", "namespace": namespace, "name": account}));
    }
    Ok(subjects)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_from_flags() {
        let data = Data {
            from_literal: vec!["a=b=c".into(), "q='x'".into()],
            ..Data::default()
        };
        assert_eq!(
            config_map("m", &data).expect("a map")["data"],
            json!({"a": "b=c", "q": "x"})
        );
        assert_eq!(
            secret("s", &data, None).expect("a secret")["data"],
            json!({"a": "Yj1j", "q": "eA=="})
        );
        let twice = Data {
            from_literal: vec!["a=1".into(), "a=2".into()],
            ..Data::default()
        };
        assert!(config_map("m", &twice).is_err());
        let bad = Data {
            from_literal: vec!["a".into()],
            ..Data::default()
        };
        assert_eq!(
            config_map("m", &bad).expect_err("bad").to_string(),
            "invalid literal source a, expected key=value"
        );
    }

    #[test]
    fn services_and_deployments() {
        let ports = ServicePorts {
            name: "s".into(),
            tcp: vec!["80:8080".into(), "443:tls".into()],
            ..ServicePorts::default()
        };
        let spec = service("ClusterIP", &ports).expect("a service")["spec"].clone();
        assert_eq!(
            spec["ports"],
            json!([
            {"name": "80-8080", "port": 80, "targetPort": 8080, "protocol": "TCP"},
            {"name": "443-tls", "port": 443, "targetPort": "tls", "protocol": "TCP"}])
        );
        let made = deployment("d", &["reg.example:5000/My_App:1".into()], 2, Some(80), &[]).expect("a deployment");
        assert_eq!(
            made["spec"]["template"]["spec"]["containers"],
            json!([{"name": "my-app", "image": "reg.example:5000/My_App:1", "ports": [{"containerPort": 80}]}])
        );
    }

    #[test]
    fn bindings() {
        let both = Subjects {
            role: Some("r".into()),
            clusterrole: Some("c".into()),
            ..Subjects::default()
        };
        assert!(binding("RoleBinding", "b", &both).is_err());
        let one = Subjects {
            clusterrole: Some("view".into()),
            serviceaccount: vec!["ns:sa".into()],
            ..Subjects::default()
        };
        assert_eq!(
            binding("RoleBinding", "b", &one).expect("a binding")["subjects"],
            json!([{"kind": "ServiceAccount", "namespace": "ns", "name": "sa"}])
        );
    }
}

//! `ctl create` for ingresses, disruption budgets, priority classes and quotas.

use anyhow::{Result, anyhow, bail};
use clap::Args;
use serde_json::{Map, Value, json};

use crate::expose::pairs;

#[derive(Args)]
pub struct Ingress {
    pub name: String,
    /// HOST/PATH=SERVICE:PORT[,tls[=SECRET]]; a path that ends with * is a prefix
    #[arg(long)]
    pub rule: Vec<String>,
    /// The ingress class
    #[arg(long)]
    pub class: Option<String>,
    /// SERVICE:PORT for what fits no rule
    #[arg(long)]
    pub default_backend: Option<String>,
    /// KEY=VALUE
    #[arg(long)]
    pub annotation: Vec<String>,
}

#[derive(Args)]
pub struct Budget {
    pub name: String,
    /// The pods, such as app=web
    #[arg(long, required = true)]
    pub selector: String,
    /// A number or a percentage
    #[arg(long, conflicts_with = "max_unavailable")]
    pub min_available: Option<String>,
    /// A number or a percentage
    #[arg(long)]
    pub max_unavailable: Option<String>,
}

#[derive(Args)]
pub struct Priority {
    pub name: String,
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub value: i32,
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub global_default: bool,
    #[arg(long)]
    pub description: Option<String>,
    /// PreemptLowerPriority or Never
    #[arg(long, default_value = "PreemptLowerPriority")]
    pub preemption_policy: String,
}

#[derive(Args)]
pub struct Quota {
    pub name: String,
    /// RESOURCE=AMOUNT,...
    #[arg(long, value_delimiter = ',')]
    pub hard: Vec<String>,
    #[arg(long, value_delimiter = ',')]
    pub scopes: Vec<String>,
}

fn backend(word: &str) -> Result<Value> {
    let (service, port) = word
        .split_once(':')
        .filter(|(service, port)| !service.is_empty() && !port.is_empty())
        .ok_or_else(|| anyhow!("{word:?} is not SERVICE:PORT"))?;
    let port = match port.parse::<u16>() {
        Ok(number) => json!({"number": number}),
        Err(_) => json!({"name": port}),
    };
    Ok(json!({"service": {"name": service, "port": port}}))
}

/// # Errors
/// When a rule or backend does not have its form.
pub fn ingress(args: &Ingress) -> Result<Value> {
    if args.rule.is_empty() && args.default_backend.is_none() {
        bail!(
            "not enough information provided: every ingress has to either specify a default-backend (which catches all traffic) or a list of rules (which catch specific paths)"
        );
    }
    let (mut rules, mut tls): (Vec<Value>, Vec<Value>) = (Vec::new(), Vec::new());
    for word in &args.rule {
        let wrong =
            || anyhow!("rule {word} is invalid and should be in format host/path=svcname:svcport[,tls[=secret]]");
        let (route, secret) = word
            .split_once(",tls")
            .map_or((word.as_str(), None), |(route, secret)| (route, Some(secret)));
        let (place, service) = route.split_once('=').ok_or_else(wrong)?;
        let (host, path) = place.split_once('/').ok_or_else(wrong)?;
        let kind = if path.ends_with('*') { "Prefix" } else { "Exact" };
        let path =
            json!({"path": format!("/{}", path.trim_end_matches('*')), "pathType": kind, "backend": backend(service)?});
        match rules
            .iter_mut()
            .find(|rule| rule["host"].as_str().unwrap_or_default() == host)
        {
            Some(rule) => {
                if let Some(paths) = rule["http"]["paths"].as_array_mut() {
                    paths.push(path);
                }
            }
            None => {
                let mut rule = json!({"http": {"paths": [path]}});
                if !host.is_empty() {
                    rule["host"] = host.into();
                }
                rules.push(rule);
            }
        }
        if let Some(secret) = secret {
            let mut row = json!({});
            if !host.is_empty() {
                row["hosts"] = json!([host]);
            }
            if let Some(name) = secret.strip_prefix('=') {
                row["secretName"] = name.into();
            }
            tls.push(row);
        }
    }
    let mut spec = json!({});
    for (key, rows) in [("rules", rules), ("tls", tls)] {
        if !rows.is_empty() {
            spec[key] = Value::Array(rows);
        }
    }
    if let Some(class) = &args.class {
        spec["ingressClassName"] = class.as_str().into();
    }
    if let Some(word) = &args.default_backend {
        spec["defaultBackend"] = backend(word)?;
    }
    let mut metadata = json!({"name": args.name});
    if !args.annotation.is_empty() {
        metadata["annotations"] = pairs(&args.annotation.join(","))?;
    }
    Ok(json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": metadata, "spec": spec}))
}

/// # Errors
/// When neither bound is given, or the selector does not have its form.
pub fn budget(args: &Budget) -> Result<Value> {
    let mut spec = json!({"selector": {"matchLabels": pairs(&args.selector)?}});
    let bound = |word: &str| word.parse::<i64>().map_or_else(|_| Value::from(word), Value::from);
    match (&args.min_available, &args.max_unavailable) {
        (Some(word), _) => spec["minAvailable"] = bound(word),
        (None, Some(word)) => spec["maxUnavailable"] = bound(word),
        (None, None) => bail!("one of min-available or max-unavailable must be specified"),
    }
    Ok(json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": args.name}, "spec": spec}))
}

#[must_use]
pub fn priority(args: &Priority) -> Value {
    let mut object = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": args.name},
        "value": args.value, "preemptionPolicy": args.preemption_policy});
    if args.global_default {
        object["globalDefault"] = true.into();
    }
    if let Some(text) = &args.description {
        object["description"] = text.as_str().into();
    }
    object
}

/// # Errors
/// When an amount does not have its form.
pub fn quota(args: &Quota) -> Result<Value> {
    let mut hard = Map::new();
    for word in &args.hard {
        let (name, amount) = word
            .split_once('=')
            .ok_or_else(|| anyhow!("invalid argument syntax {word:?}, expected <resource>=<value>"))?;
        coxswain_api::quantity::Quantity::parse(amount).map_err(|e| anyhow!("{word}: {e}"))?;
        hard.insert(name.to_owned(), amount.into());
    }
    let mut spec = json!({});
    if !hard.is_empty() {
        spec["hard"] = Value::Object(hard);
    }
    if !args.scopes.is_empty() {
        spec["scopes"] = json!(args.scopes);
    }
    Ok(json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": args.name}, "spec": spec}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_rules(rules: &[&str]) -> Result<Value> {
        ingress(&Ingress {
            name: "x".into(),
            rule: rules.iter().map(|rule| (*rule).to_owned()).collect(),
            class: None,
            default_backend: None,
            annotation: Vec::new(),
        })
    }

    #[test]
    fn rules_of_an_ingress() {
        let made = with_rules(&["a.b/c=s:80", "a.b/d*=t:http,tls=w", "/=u:1,tls"]).expect("an ingress");
        let service = |name: &str, port: Value| json!({"service": {"name": name, "port": port}});
        assert_eq!(
            made["spec"],
            json!({"rules": [
                {"host": "a.b", "http": {"paths": [
                    {"path": "/c", "pathType": "Exact", "backend": service("s", json!({"number": 80}))},
                    {"path": "/d", "pathType": "Prefix", "backend": service("t", json!({"name": "http"}))}]}},
                {"http": {"paths": [{"path": "/", "pathType": "Exact", "backend": service("u", json!({"number": 1}))}]}}],
                "tls": [{"hosts": ["a.b"], "secretName": "w"}, {}]})
        );
        for wrong in ["a.b=s:80", "a.b/c", "a.b/c=s"] {
            assert!(with_rules(&[wrong]).is_err(), "{wrong}");
        }
        assert!(with_rules(&[]).is_err());
    }
}

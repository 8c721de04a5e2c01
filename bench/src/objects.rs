//! The objects of the load, and requests about them as bytes made beforehand.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::http::{Connection, find};
use crate::target::Target;

/// Digits of a number inside a request.
const DIGITS: usize = 9;

/// Kinds that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// About 1 KB of data.
    ConfigMap,
    /// A realistic pod of two containers, about 3 KB as sent and 5 KB as stored.
    Pod,
}

impl Kind {
    /// Its name in a path.
    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmaps",
            Self::Pod => "pods",
        }
    }

    /// An object of this kind; `name` and `note` may hold a template's marks.
    #[must_use]
    pub fn object(self, name: &str, note: &str) -> Value {
        match self {
            Self::ConfigMap => json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": name},
                "data": {"note": note, "text": "All work and no play. ".repeat(43)},
            }),
            Self::Pod => pod(name, note),
        }
    }
}

fn pod(name: &str, note: &str) -> Value {
    let environment: Vec<Value> = (0..10)
        .map(|n| json!({"name": format!("SETTING_{n}"), "value": format!("http://service-{n}.example.svc.cluster.local:8080/path")}))
        .collect();
    let container = |name: &str| {
        json!({
            "name": name,
            "image": "registry.example.com/team/application:v1.2.3",
            "args": ["--listen=:8080", "--log-format=json"],
            "env": environment,
            "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
            "livenessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 10},
            "readinessProbe": {"httpGet": {"path": "/readyz", "port": "http"}, "periodSeconds": 5},
        })
    };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {"app.kubernetes.io/name": "application", "app.kubernetes.io/instance": "production", "tier": "web"},
            "annotations": {"bench.example.com/note": note},
        },
        "spec": {
            // No scheduler answers to this name: the load is on the API server alone.
            "schedulerName": "none",
            "serviceAccountName": "default",
            "automountServiceAccountToken": false,
            "containers": [container("application"), container("sidecar")],
        },
    })
}

/// A request with two numbers to be filled in at fixed places: which object, and how often it was written.
#[derive(Clone)]
pub struct Template {
    bytes: Vec<u8>,
    objects: Vec<usize>,
    rounds: Vec<usize>,
}

impl Template {
    /// Stands for the object's number, in a path or an object.
    pub const OBJECT: &'static str = "#########";
    /// Stands for the round's number.
    pub const ROUND: &'static str = "@@@@@@@@@";

    /// A request whose path and object hold the marks where the numbers go.
    ///
    /// # Errors
    /// When the object cannot be written as JSON.
    pub fn new(target: &Target, method: &str, path: &str, object: Option<&Value>) -> Result<Self> {
        let body = object.map(serde_json::to_vec).transpose()?.unwrap_or_default();
        let bytes = request(target, method, path, "application/json", &body);
        Ok(Self {
            objects: places(&bytes, Self::OBJECT),
            rounds: places(&bytes, Self::ROUND),
            bytes,
        })
    }

    /// The request with these numbers.
    pub fn with(&mut self, object: usize, round: usize) -> &[u8] {
        for (places, number) in [(&self.objects, object), (&self.rounds, round)] {
            let digits = format!("{number:0DIGITS$}");
            for place in places {
                self.bytes[*place..place + DIGITS].copy_from_slice(&digits.as_bytes()[..DIGITS]);
            }
        }
        &self.bytes
    }
}

fn places(bytes: &[u8], mark: &str) -> Vec<usize> {
    let mut places = Vec::new();
    let mut from = 0;
    while let Some(at) = find(&bytes[from..], mark.as_bytes()) {
        places.push(from + at);
        from += at + mark.len();
    }
    places
}

/// One whole HTTP/1.1 request.
#[must_use]
pub fn request(target: &Target, method: &str, path: &str, accept: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!(
        "{method} {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: coxswain-bench\r\n{}Accept: {accept}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        target.address,
        target.authorization,
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// Makes a namespace, or is content with the one there.
///
/// # Errors
/// When the server refuses.
pub async fn namespace(target: &Target, name: &str) -> Result<()> {
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    let body = serde_json::to_vec(&object)?;
    let request = request(target, "POST", "/api/v1/namespaces", "application/json", &body);
    let mut said = Vec::new();
    let answer = Connection::open(target)
        .await?
        .call(&request, |piece| said.extend_from_slice(piece))
        .await?;
    anyhow::ensure!(
        matches!(answer.status, 201 | 409),
        "namespace {name}: {}",
        String::from_utf8_lossy(&said)
    );
    Ok(())
}

/// Asks for the end of a namespace and all in it.
///
/// # Errors
/// When the server cannot be reached.
pub async fn remove_namespace(target: &Target, name: &str) -> Result<()> {
    let request = request(
        target,
        "DELETE",
        &format!("/api/v1/namespaces/{name}"),
        "application/json",
        b"",
    );
    Connection::open(target).await?.call(&request, |_| ()).await?;
    Ok(())
}

/// The resourceVersion of a list, to watch from.
///
/// # Errors
/// When the answer has none.
pub async fn version(target: &Target, path: &str) -> Result<String> {
    let request = request(target, "GET", &format!("{path}?limit=1"), "application/json", b"");
    let mut body = Vec::new();
    Connection::open(target)
        .await?
        .call(&request, |piece| body.extend_from_slice(piece))
        .await?;
    let list: Value = serde_json::from_slice(&body)?;
    let version = list["metadata"]["resourceVersion"].as_str();
    Ok(version
        .with_context(|| format!("{path} has no resourceVersion"))?
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_where_the_marks_are() {
        let mut template = Template {
            bytes: b"GET /a-######### @@@@@@@@@ #########".to_vec(),
            objects: places(b"GET /a-######### @@@@@@@@@ #########", Template::OBJECT),
            rounds: places(b"GET /a-######### @@@@@@@@@ #########", Template::ROUND),
        };
        assert_eq!(template.with(12, 3), b"GET /a-000000012 000000003 000000012");
        assert_eq!(template.with(7, 0), b"GET /a-000000007 000000000 000000007");
    }

    #[test]
    fn objects_have_the_sizes_they_promise() {
        for (kind, least, most) in [(Kind::ConfigMap, 900, 1200), (Kind::Pod, 2500, 4000)] {
            let bytes = kind.object("name", "note").to_string().len();
            assert!((least..=most).contains(&bytes), "{kind:?} has {bytes} bytes");
        }
    }
}

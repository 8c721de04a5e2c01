//! The client handle and its transports.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tower::{BoxError, Service};

use crate::error::ClientError;
use crate::servers::Servers;

/// A cheap, cloneable handle to one API server with one identity.
#[derive(Clone)]
pub struct Client {
    kube: kube::Client,
}

impl From<kube::Client> for Client {
    fn from(kube: kube::Client) -> Client {
        Client { kube }
    }
}

impl Client {
    /// Calls straight into an API server of this process: no socket, no TLS, no copy of the body.
    pub fn in_process<S, B>(service: S) -> Client
    where
        S: Service<Request<kube::client::Body>, Response = Response<B>> + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Client {
            kube: kube::Client::new(service, "default"),
        }
    }

    /// Reads a kubeconfig: the given file, or what `$KUBECONFIG` and the home directory say.
    pub async fn from_kubeconfig(path: Option<&Path>) -> Result<Client, ClientError> {
        let config = match path {
            Some(path) => Kubeconfig::read_from(path),
            None => Kubeconfig::read(),
        };
        let config = config.map_err(|e| ClientError::Config(e.to_string()))?;
        Client::connect(config).await
    }

    /// Connects with a cluster CA and a client certificate, all PEM.
    pub async fn from_parts(url: &str, ca_pem: &str, cert_pem: &str, key_pem: &str) -> Result<Client, ClientError> {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "x",
            "clusters": [{"name": "x", "cluster": {
                "server": url, "certificate-authority-data": STANDARD.encode(ca_pem)}}],
            "users": [{"name": "x", "user": {
                "client-certificate-data": STANDARD.encode(cert_pem),
                "client-key-data": STANDARD.encode(key_pem)}}],
            "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        });
        let config: Kubeconfig = serde_json::from_value(config).map_err(|e| ClientError::Config(e.to_string()))?;
        Client::connect(config).await
    }

    /// Connects with a cluster CA (PEM) and a bearer token.
    pub async fn from_token(url: &str, ca_pem: &str, token: &str) -> Result<Client, ClientError> {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "x",
            "clusters": [{"name": "x", "cluster": {
                "server": url, "certificate-authority-data": STANDARD.encode(ca_pem)}}],
            "users": [{"name": "x", "user": {"token": token}}],
            "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        });
        let config: Kubeconfig = serde_json::from_value(config).map_err(|e| ClientError::Config(e.to_string()))?;
        Client::connect(config).await
    }

    /// A client of several servers of one cluster, and the handle that says which they are.
    pub fn of_servers(all: Vec<(String, Client)>) -> (Client, Servers) {
        let servers = Servers::new(all);
        let sender = servers.clone();
        let service = tower::service_fn(move |request| sender.clone().send(request));
        (Client::in_process(service), servers)
    }

    /// Connects with a parsed kubeconfig and its current context.
    pub async fn connect(config: Kubeconfig) -> Result<Client, ClientError> {
        let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default())
            .await
            .map_err(|e| ClientError::Config(e.to_string()))?;
        Client::from_config(config)
    }

    /// Connects with a finished configuration. Idle watches are not cut by a read timeout.
    pub fn from_config(mut config: kube::Config) -> Result<Client, ClientError> {
        config.read_timeout = None;
        config.write_timeout = None;
        let kube = kube::Client::try_from(config).map_err(|e| ClientError::Config(e.to_string()))?;
        Ok(Client { kube })
    }

    /// The underlying client, for calls that have no typed form.
    pub fn kube(&self) -> kube::Client {
        self.kube.clone()
    }

    /// All objects of a kind: cluster-scoped ones, or the namespaced ones of every namespace.
    pub fn api<K>(&self) -> kube::Api<K>
    where
        K: kube::Resource,
        K::DynamicType: Default,
    {
        kube::Api::all(self.kube())
    }

    /// The objects of a kind in one namespace.
    pub fn namespaced<K>(&self, namespace: &str) -> kube::Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        kube::Api::namespaced(self.kube(), namespace)
    }

    /// One request with an optional JSON body; the answer decoded.
    pub async fn request<T: DeserializeOwned>(
        &self,
        method: http::Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<T, ClientError> {
        let operation = || format!("{method} {path}");
        let mut request = Request::builder().method(method.clone()).uri(path);
        if body.is_some() && !headers.iter().any(|(name, _)| *name == "content-type") {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let bytes = body.map(|b| b.to_string().into_bytes()).unwrap_or_default();
        let request = request.body(bytes).map_err(|e| ClientError::Answer {
            operation: operation(),
            detail: e.to_string(),
        })?;
        let text = self
            .kube
            .request_text(request)
            .await
            .map_err(|source| ClientError::Call {
                operation: operation(),
                source: Box::new(source),
            })?;
        serde_json::from_str(&text).map_err(|e| ClientError::Answer {
            operation: operation(),
            detail: e.to_string(),
        })
    }

    /// `GET path`, decoded.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.request(http::Method::GET, path, &[], None).await
    }
}

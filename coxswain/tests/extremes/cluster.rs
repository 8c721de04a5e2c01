//! A control plane in this process: store, API server, controllers and scheduler, without nodes.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use coxswain_apiserver::{ApiServer, Config, InProcess, User};
use coxswain_client::{Caches, Client};
use coxswain_consensus::{Config as StoreConfig, Store};
use coxswain_supervise::Supervisor;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::Service as _;

/// How long everybody may take to do what is waited for.
const WITHIN: Duration = Duration::from_secs(40);

pub struct Cluster {
    server: ApiServer,
    store: Store,
    token: CancellationToken,
    panics_before: u64,
    _directory: tempfile::TempDir,
}

fn user(name: &str, groups: &[&str]) -> User {
    User {
        name: name.to_owned(),
        groups: groups
            .iter()
            .chain(&["system:authenticated"])
            .map(|group| (*group).to_owned())
            .collect(),
        ..User::default()
    }
}

fn client(server: &ApiServer, name: &str, groups: &[&str]) -> Client {
    Client::in_process(server.in_process(user(name, groups)))
}

/// Panics that were caught; the one that a test of this process causes is not among them.
fn panics() -> u64 {
    let all = coxswain_supervise::panics();
    let counted = all.iter().filter(|(task, _)| *task != "controllers/canary");
    counted.map(|(_, count)| count).sum()
}

async fn request(server: &ApiServer, method: Method, path: &str, body: &Value) -> (u16, String) {
    let media = match method {
        Method::PATCH => "application/merge-patch+json",
        _ => "application/json",
    };
    let bytes = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", media);
    let request = request.body(Full::from(bytes)).expect("a request");
    let mut service: InProcess = server.in_process(user("tester", &["system:masters"]));
    let reply = service.call(request).await.expect("an answer");
    let code = reply.status().as_u16();
    let bytes = reply.into_body().collect().await.expect("a body").to_bytes();
    (code, String::from_utf8_lossy(&bytes).into_owned())
}

fn config(ca_pem: &str, ca: &CertifiedIssuer<'static, KeyPair>) -> Config {
    let key = KeyPair::generate().expect("a key");
    let mut names = CertificateParams::new(vec!["localhost".to_owned()]).expect("names");
    names
        .distinguished_name
        .push(rcgen::DnType::CommonName, "kube-apiserver-kubelet-client");
    let certificate = names.signed_by(&key, ca).expect("a certificate").pem();
    Config {
        tls_cert_pem: certificate.clone(),
        tls_key_pem: key.serialize_pem(),
        client_ca_pem: ca_pem.to_owned(),
        service_account_key_pem: KeyPair::generate().expect("a key").serialize_pem(),
        issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
        service_cidr: (Ipv4Addr::new(10, 96, 0, 0), 16),
        node_port_range: (30000, 32767),
        kubelet_client_cert_pem: certificate,
        kubelet_client_key_pem: key.serialize_pem(),
        kubelet_ca_pem: ca_pem.to_owned(),
        advertise: (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 6443),
        root_ca_pem: ca_pem.to_owned(),
        bare: true,
        audit: None,
        front_proxy: None,
        authentication: None,
        limits: coxswain_apiserver::ConnectionLimits::default(),
        reach: coxswain_apiserver::Reach::default(),
        build: coxswain_apiserver::Build::default(),
    }
}

impl Cluster {
    pub async fn start() -> Cluster {
        let directory = tempfile::tempdir().expect("a directory");
        let mut ca = CertificateParams::new(Vec::new()).expect("no names");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().expect("a key")).expect("a CA");
        let ca_pem = ca.pem();
        let mut settings = StoreConfig::new(directory.path().join("store"));
        settings.segment_bytes = 1 << 20;
        let store = Store::open(settings).await.expect("a store");
        let server = ApiServer::new(config(&ca_pem, &ca), store.clone()).expect("a server");
        server.bootstrap().await.expect("the start objects");
        let token = CancellationToken::new();
        let panics_before = panics();
        let account = {
            let server = server.clone();
            move |name: &str| {
                let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system"];
                client(&server, &format!("system:serviceaccount:kube-system:{name}"), &groups)
            }
        };
        let clients = coxswain_controllers::Clients {
            manager: client(&server, "system:kube-controller-manager", &[]),
            account: Arc::new(account),
        };
        let caches = Caches::new(clients.manager.clone(), token.clone());
        let settings = coxswain_controllers::Config {
            root_ca_pem: ca_pem.clone(),
            cluster_cidr: "10.244.0.0/16".to_owned(),
            signer: Some(coxswain_controllers::Authority {
                cert_pem: ca_pem,
                key_pem: ca.key().serialize_pem(),
            }),
            ..Default::default()
        };
        let (supervisor, stop, shared) = (server.supervisor().clone(), token.clone(), caches.clone());
        tokio::spawn(async move {
            let run = coxswain_controllers::run(clients, shared, settings, &supervisor, stop);
            run.await.expect("a usable configuration");
        });
        let (supervisor, stop) = (server.supervisor().clone(), token.clone());
        let scheduler = client(&server, "system:kube-scheduler", &[]);
        tokio::spawn(async move {
            let settings = coxswain_scheduler::Config::default();
            coxswain_scheduler::run(scheduler, caches, settings, &supervisor, stop).await;
        });
        Cluster {
            server,
            store,
            token,
            panics_before,
            _directory: directory,
        }
    }

    pub fn supervisor(&self) -> Supervisor {
        self.server.supervisor().clone()
    }

    /// Ends everything.
    pub async fn stop(self) {
        self.token.cancel();
        self.store.shutdown().await;
    }

    /// A node for pods, namespaces, and a limit on what objects without a limit of their own create.
    pub async fn prepare(&self) {
        let ready = json!([{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}]);
        let amounts = json!({"cpu": "1000", "memory": "1Ti", "pods": "100000"});
        let node = json!({"metadata": {"name": "n1"}, "status": {
            "conditions": ready, "capacity": amounts, "allocatable": amounts,
        }});
        let now = "2026-01-01T00:00:00.000000Z";
        let lease = json!({"metadata": {"name": "n1"}, "spec": {
            "holderIdentity": "n1", "leaseDurationSeconds": 40, "renewTime": now,
        }});
        let quota = json!({"metadata": {"name": "most"}, "spec": {"hard": {
            "count/pods": "40", "count/jobs.batch": "200", "count/controllerrevisions.apps": "300",
        }}});
        for (collection, object) in [
            ("/api/v1/nodes", node),
            ("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", lease),
            ("/api/v1/namespaces", json!({"metadata": {"name": "extremes"}})),
            ("/api/v1/namespaces", json!({"metadata": {"name": "extreme-pods"}})),
            ("/api/v1/namespaces", json!({"metadata": {"name": "canary"}})),
            ("/api/v1/namespaces/extremes/resourcequotas", quota),
        ] {
            let (code, answer) = self.send(Method::POST, collection, &object).await;
            assert_eq!(code, 201, "{collection}: {answer}");
        }
        self.keep_node();
        for namespace in ["extremes", "extreme-pods", "canary"] {
            // Pods are refused before.
            let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/default");
            self.until(&path, |(code, _)| *code == 200).await;
        }
    }

    /// Renews the node's Lease, as an agent does.
    fn keep_node(&self) {
        let (server, token) = (self.server.clone(), self.token.clone());
        tokio::spawn(async move {
            let path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1";
            for second in 0.. {
                let renewed = json!({"spec": {"renewTime": format!("2026-01-01T00:00:00.{second:06}Z")}});
                request(&server, Method::PATCH, path, &renewed).await;
                let pause = tokio::time::sleep(Duration::from_secs(1));
                if token.run_until_cancelled(pause).await.is_none() {
                    return;
                }
            }
        });
    }

    /// One request of an administrator: code and body of the answer.
    pub async fn send(&self, method: Method, path: &str, body: &Value) -> (u16, Value) {
        let (code, text) = request(&self.server, method, path, body).await;
        (code, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// A page as text.
    pub async fn page(&self, path: &str) -> (u16, String) {
        request(&self.server, Method::GET, path, &Value::Null).await
    }

    /// Waits until the answer to a GET is as wanted.
    pub async fn until(&self, path: &str, wanted: impl Fn(&(u16, String)) -> bool) -> Value {
        let mut last = (0, String::new());
        let reached = async {
            loop {
                last = self.page(path).await;
                if wanted(&last) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let reached = tokio::time::timeout(WITHIN, reached).await;
        assert!(
            reached.is_ok(),
            "{path} is never as wanted, but {} {}; tasks: {:?}",
            last.0,
            last.1,
            self.server.supervisor().tasks()
        );
        serde_json::from_str(&last.1).unwrap_or_default()
    }

    /// Waits until the object at a path is as wanted.
    pub async fn until_object(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.until(path, |(code, text)| {
            *code == 200 && serde_json::from_str(text).is_ok_and(|object: Value| wanted(&object))
        })
        .await
    }

    /// Nobody has panicked, nobody was restarted, and the server says that all is well.
    pub async fn assert_healthy(&self) {
        let tasks = self.server.supervisor().tasks();
        assert!(tasks.len() > 20, "every controller is kept: {tasks:?}");
        let restarted: Vec<_> = tasks
            .iter()
            .filter(|(_, task)| task.restarts > 0 || task.failed.is_some())
            .collect();
        assert!(restarted.is_empty(), "{restarted:?}");
        assert_eq!(
            panics(),
            self.panics_before,
            "panics: {:?}",
            coxswain_supervise::panics()
        );
        for page in ["/readyz", "/livez"] {
            let (code, text) = self.page(page).await;
            assert_eq!(code, 200, "{page}: {text}");
        }
    }
}

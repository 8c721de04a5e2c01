//! The control plane: store, API server, controllers and scheduler in one process.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use coxswain_apiserver::{ApiServer, AuditConfig, Build, FrontProxy, Reach, User};
use coxswain_client::{Caches, Client};
use coxswain_consensus::Store;
use tokio::net::TcpListener;

use crate::pki::{self, Pki};
use crate::report::{Report, line};
use crate::tasks::{Tasks, runtime, stop_requested};
use crate::{backup, cli, defaults, estate, housekeeping, instance, kubeconfig, leader, logging, machine, peers};

/// What the build script found out.
const BUILD: Build = Build {
    commit: option_env!("COXSWAIN_COMMIT"),
    tree: option_env!("COXSWAIN_TREE"),
    date: option_env!("COXSWAIN_DATE"),
    compiler: option_env!("COXSWAIN_COMPILER"),
};

/// What it is told.
pub struct Settings<'a> {
    pub data_dir: &'a Path,
    pub listen: SocketAddr,
    pub node_name: &'a str,
    pub node_ip: IpAddr,
    /// Where the node agent in this process listens, if there is one.
    pub agent: Option<SocketAddr>,
    pub bare: bool,
    pub peers: &'a peers::PeerArgs,
    pub audit: Option<AuditConfig>,
    pub authentication: Option<String>,
    pub front_proxy: Option<FrontProxy>,
    pub evictions: coxswain_controllers::EvictionLimits,
}

/// The running control plane.
#[derive(Clone)]
pub struct ControlPlane {
    pub api: ApiServer,
    pub store: Store,
    pub pki: Arc<Pki>,
    pub url: String,
}

impl ControlPlane {
    /// The identities of the controllers.
    fn controllers(&self) -> coxswain_controllers::Clients {
        let plane = self.clone();
        coxswain_controllers::Clients {
            manager: self.client("system:kube-controller-manager", &[]),
            account: Arc::new(move |name| plane.account(name)),
        }
    }

    /// A client with the identity of a service account in `kube-system`.
    pub fn account(&self, name: &str) -> Client {
        self.client(
            &format!("system:serviceaccount:kube-system:{name}"),
            &["system:serviceaccounts", "system:serviceaccounts:kube-system"],
        )
    }

    /// A client that calls the API server without a socket, as the given component.
    pub fn client(&self, name: &str, groups: &[&str]) -> Client {
        let groups = groups
            .iter()
            .chain(&["system:authenticated"])
            .map(|g| (*g).to_owned())
            .collect();
        Client::in_process(self.api.in_process(User {
            name: name.to_owned(),
            groups,
            ..User::default()
        }))
    }
}

/// Brings every part up, in order, and leaves their tasks in `tasks`.
///
/// # Errors
/// The first part that cannot start.
pub async fn start(settings: &Settings<'_>, tasks: &mut Tasks, report: &Report) -> Result<ControlPlane> {
    estate::check(settings.data_dir)?;
    let mut ips = machine::addresses();
    ips.push(settings.node_ip);
    let member = peers::prepare(&peers::Plan {
        data_dir: settings.data_dir,
        args: settings.peers,
        api: settings.listen,
        ip: settings.node_ip,
        bare: settings.bare,
    })
    .await?;
    let names = pki::Names {
        node_name: settings.node_name,
        node_ips: &ips,
        service_ip: defaults::API_SERVICE_IP.into(),
        domain: defaults::DOMAIN,
    };
    let pki = pki::ensure(&settings.data_dir.join("pki"), &names).context("certificates")?;
    report.step("certificates", &settings.data_dir.join("pki").display().to_string());

    let listener = TcpListener::bind(settings.listen).await.with_context(|| {
        format!(
            "the API server cannot listen on {} (`ss -ltnp` names who does; choose another with --listen)",
            settings.listen
        )
    })?;
    let store = member.open().await?;
    report.step("store", &format!("revision {}", store.snapshot().revision()));

    let peers = peers::listens(settings.data_dir, settings.peers, settings.listen)?;
    let reach = Reach {
        own_ports: peers.iter().map(SocketAddr::port).collect(),
        own_agent: settings.agent,
        ..Reach::default()
    };
    let api = ApiServer::new(api_config(settings, &pki, reach), store.clone()).context("API server")?;
    api.bootstrap().await.context("API server")?;
    estate::mark(settings.data_dir)?;
    let url = machine::server_url(settings.listen, settings.node_ip);
    backup::announce(settings.data_dir, &url)?;
    let (server, token) = (api.clone(), tasks.token.clone());
    tasks.spawn("API server", async move { server.serve(listener, token).await });
    report.step("API server", &url);
    tokio::spawn(housekeeping::run(store.clone(), tasks.token.clone()));

    let pki = Arc::new(pki);
    let plane = ControlPlane { api, store, pki, url };
    tasks.spawn(
        "controllers and scheduler",
        leader::follow(
            plane.store.leader(),
            leader::Parts {
                controllers: plane.controllers(),
                scheduler: plane.client("system:kube-scheduler", &[]),
                config: controllers_config(settings, &plane.pki),
                holder: format!("{}_{:016x}", settings.node_name, rand::random::<u64>()),
            },
            {
                let api = plane.api.clone();
                move |caches: &Caches| {
                    let bytes = caches.measure();
                    api.report_memory("caches", move || bytes() as u64);
                }
            },
            plane.api.supervisor().clone(),
            tasks.token.clone(),
        ),
    );
    report.step("controllers", "");
    report.step("scheduler", "");
    Ok(plane)
}

fn api_config(settings: &Settings<'_>, pki: &Pki, reach: Reach) -> coxswain_apiserver::Config {
    coxswain_apiserver::Config {
        // With the authority, so that a machine that only knows the authority's hash can join.
        tls_cert_pem: format!("{}{}", pki.api_server.cert_pem, pki.ca_pem),
        tls_key_pem: pki.api_server.key_pem.clone(),
        client_ca_pem: pki.ca_pem.clone(),
        service_account_key_pem: pki.service_account_key_pem.clone(),
        issuer: format!("https://kubernetes.default.svc.{}", defaults::DOMAIN),
        service_cidr: defaults::SERVICE_CIDR,
        node_port_range: defaults::NODE_PORTS,
        kubelet_client_cert_pem: pki.kubelet_client.cert_pem.clone(),
        kubelet_client_key_pem: pki.kubelet_client.key_pem.clone(),
        kubelet_ca_pem: pki.ca_pem.clone(),
        reach,
        advertise: (settings.node_ip, settings.listen.port()),
        root_ca_pem: pki.ca_pem.clone(),
        bare: settings.bare,
        audit: settings.audit.clone(),
        front_proxy: settings.front_proxy.clone(),
        authentication: settings.authentication.clone(),
        limits: coxswain_apiserver::ConnectionLimits::default(),
        build: BUILD,
    }
}

/// Where the audit trail goes and what it contains, from the command line.
///
/// # Errors
/// When the policy file cannot be read.
pub fn audit(serving: &cli::Serving) -> Result<Option<AuditConfig>> {
    let path = match serving.audit_log_path.as_deref() {
        Some(path) if path.as_os_str() == "none" => return Ok(None),
        Some(path) => path.to_owned(),
        None => serving.place.data_dir.join("audit/audit.log"),
    };
    let read = |file: &std::path::PathBuf| {
        std::fs::read_to_string(file).with_context(|| format!("the audit policy {}", file.display()))
    };
    let policy = serving.audit_policy_file.as_ref().map(read).transpose()?;
    Ok(Some(AuditConfig { path, policy }))
}

/// The authentication configuration from the command line.
///
/// # Errors
/// When the file cannot be read.
pub fn authentication(serving: &cli::Serving) -> Result<Option<String>> {
    let read = |file: &std::path::PathBuf| {
        std::fs::read_to_string(file).with_context(|| format!("the authentication configuration {}", file.display()))
    };
    serving.authentication_config.as_ref().map(read).transpose()
}

/// The front proxy from the command line; none without its authority.
///
/// # Errors
/// When the authority's file cannot be read.
pub fn front_proxy(args: &cli::FrontProxyArgs) -> Result<Option<FrontProxy>> {
    let Some(file) = &args.client_ca_file else {
        return Ok(None);
    };
    let ca_pem = std::fs::read_to_string(file)
        .with_context(|| format!("the authority of the front proxy {}", file.display()))?;
    let args = args.clone();
    Ok(Some(FrontProxy {
        ca_pem,
        allowed_names: args.allowed_names,
        username_headers: args.username_headers,
        uid_headers: args.uid_headers,
        group_headers: args.group_headers,
        extra_header_prefixes: args.extra_header_prefixes,
    }))
}

/// How fast pods are moved away from nodes that stopped reporting, from the command line.
pub fn evictions(args: &cli::NodeLifecycleArgs) -> coxswain_controllers::EvictionLimits {
    coxswain_controllers::EvictionLimits {
        unhealthy_zone_threshold: args.unhealthy_zone_threshold,
        node_eviction_rate: args.node_eviction_rate,
        secondary_node_eviction_rate: args.secondary_node_eviction_rate,
        large_cluster_size_threshold: args.large_cluster_size_threshold as usize,
    }
}

/// A bare control plane gives nodes no pod networks, as Kubernetes does without `--allocate-node-cidrs`.
fn controllers_config(settings: &Settings<'_>, pki: &Pki) -> coxswain_controllers::Config {
    let cluster_cidr = if settings.bare {
        String::new()
    } else {
        defaults::CLUSTER_CIDR.to_owned()
    };
    coxswain_controllers::Config {
        root_ca_pem: pki.ca_pem.clone(),
        cluster_cidr,
        evictions: settings.evictions,
        signer: Some(coxswain_controllers::Authority {
            cert_pem: pki.ca_pem.clone(),
            key_pem: pki.ca_key_pem.clone(),
        }),
        ..Default::default()
    }
}

/// `coxswain server`: the control plane until it is told to stop.
///
/// # Errors
/// Whatever keeps it from starting, or the first part that fails.
pub fn run(args: &cli::Server) -> Result<()> {
    logging::start();
    let serving = &args.serving;
    kubeconfig::check(serving.kubeconfig.as_deref())?;
    let _instance = instance::acquire(&serving.place.data_dir)?;
    let node_name = machine::name()?;
    let node_ip = if serving.listen.ip().is_unspecified() {
        machine::address()?
    } else {
        serving.listen.ip()
    };
    let settings = Settings {
        data_dir: &serving.place.data_dir,
        listen: serving.listen,
        node_name: &node_name,
        node_ip,
        agent: None,
        bare: args.bare,
        peers: &serving.peers,
        audit: audit(serving)?,
        authentication: authentication(serving)?,
        front_proxy: front_proxy(&serving.front_proxy)?,
        evictions: evictions(&serving.node_lifecycle),
    };
    runtime()?.block_on(async {
        let report = Report::new();
        let mut tasks = Tasks::default();
        let plane = start(&settings, &mut tasks, &report).await?;
        let text = kubeconfig::render(&plane.url, &plane.pki.ca_pem, &plane.pki.admin);
        let file = kubeconfig::install(serving.kubeconfig.as_deref(), &text, &serving.place.data_dir)?;
        // What a `coxswain agent` on this machine connects with.
        let node = kubeconfig::render(&plane.url, &plane.pki.ca_pem, &plane.pki.node_client);
        pki::write_secret(&serving.place.data_dir.join("node.kubeconfig"), &node)?;
        line(&format!(
            "Control plane ready in {} ms: {}, kubeconfig {}",
            report.elapsed().as_millis(),
            plane.url,
            file.path.display()
        ));
        file.note.iter().for_each(|note| line(note));
        let result = tokio::select! {
            requested = stop_requested() => requested,
            error = tasks.failed() => Err(error),
        };
        // Others take over before anything here ends.
        plane.store.hand_over().await;
        tasks.stop().await;
        plane.store.shutdown().await;
        result
    })
}

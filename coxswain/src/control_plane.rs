//! The control plane: store, API server, controllers and scheduler in one process.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result};
use coxswain_apiserver::{ApiServer, User};
use coxswain_client::Client;
use coxswain_consensus::Store;
use tokio::net::TcpListener;

use crate::pki::{self, Pki};
use crate::report::{Report, line};
use crate::tasks::{Tasks, runtime, stop_requested};
use crate::{cli, defaults, instance, kubeconfig, leader, logging, machine, peers};

/// What it is told.
pub struct Settings<'a> {
    pub data_dir: &'a Path,
    pub listen: SocketAddr,
    pub node_name: &'a str,
    pub node_ip: IpAddr,
    pub bare: bool,
    pub peers: &'a peers::PeerArgs,
}

/// The running control plane.
pub struct ControlPlane {
    pub api: ApiServer,
    pub store: Store,
    pub pki: Pki,
    pub url: String,
}

impl ControlPlane {
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

    let api = ApiServer::new(api_config(settings, &pki), store.clone()).context("API server")?;
    api.bootstrap().await.context("API server")?;
    let url = machine::server_url(settings.listen, settings.node_ip);
    let (server, token) = (api.clone(), tasks.token.clone());
    tasks.spawn("API server", async move { server.serve(listener, token).await });
    report.step("API server", &url);

    let plane = ControlPlane { api, store, pki, url };
    tasks.spawn(
        "controllers and scheduler",
        leader::follow(
            plane.store.leader(),
            plane.client("system:kube-controller-manager", &["system:masters"]),
            plane.client("system:kube-scheduler", &["system:masters"]),
            controllers_config(settings, &plane.pki),
            tasks.token.clone(),
        ),
    );
    report.step("controllers", "");
    report.step("scheduler", "");
    Ok(plane)
}

fn api_config(settings: &Settings<'_>, pki: &Pki) -> coxswain_apiserver::Config {
    coxswain_apiserver::Config {
        tls_cert_pem: pki.api_server.cert_pem.clone(),
        tls_key_pem: pki.api_server.key_pem.clone(),
        client_ca_pem: pki.ca_pem.clone(),
        service_account_key_pem: pki.service_account_key_pem.clone(),
        issuer: format!("https://kubernetes.default.svc.{}", defaults::DOMAIN),
        service_cidr: defaults::SERVICE_CIDR,
        node_port_range: defaults::NODE_PORTS,
        kubelet_client_cert_pem: pki.kubelet_client.cert_pem.clone(),
        kubelet_client_key_pem: pki.kubelet_client.key_pem.clone(),
        kubelet_ca_pem: pki.ca_pem.clone(),
        advertise: (settings.node_ip, settings.listen.port()),
        root_ca_pem: pki.ca_pem.clone(),
        bare: settings.bare,
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
        bare: args.bare,
        peers: &serving.peers,
    };
    runtime()?.block_on(async {
        let report = Report::new();
        let mut tasks = Tasks::default();
        let plane = start(&settings, &mut tasks, &report).await?;
        let text = kubeconfig::render(&plane.url, &plane.pki.ca_pem, &plane.pki.admin);
        let file = kubeconfig::install(serving.kubeconfig.as_deref(), &text)?;
        // What a `coxswain agent` on this machine connects with.
        let node = kubeconfig::render(&plane.url, &plane.pki.ca_pem, &plane.pki.node_client);
        pki::write_secret(&serving.place.data_dir.join("node.kubeconfig"), &node)?;
        line(&format!(
            "Control plane ready in {} ms: {}, kubeconfig {}",
            report.elapsed().as_millis(),
            plane.url,
            file.display()
        ));
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

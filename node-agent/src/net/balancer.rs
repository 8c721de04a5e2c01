//! Gives LoadBalancer Services the node's address.
//!
//! Watches Services and owns `status.loadBalancer` of those of type LoadBalancer that name no other
//! class. A port that something on this machine already listens on is not taken away from it: the
//! Service stays pending, with an event that says so, and is looked at again.
//!
//! Does not: clear addresses that another implementation wrote, or announce anything by ARP or BGP.

use coxswain_client::{Cache, Client, Next, Queue, Recorder, failure, work};
use coxswain_client::{Failure, ObjectKey};
use k8s_openapi::api::core::v1::Service;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The load balancer class this implements, besides none.
const CLASS: &str = "coxswain.io/node";
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// What to do about one Service.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Nothing,
    /// Write this as `status.loadBalancer`.
    Write(Value),
    /// This port is in use on the machine.
    PortTaken(u16),
}

/// Follows the Services until the token is cancelled.
pub async fn run(client: Client, node_ip: IpAddr, services: Cache<Service>, token: CancellationToken) {
    if token.run_until_cancelled(services.synced()).await.is_none() {
        return;
    }
    let queue: Queue<ObjectKey> = Queue::new();
    let recorder = Recorder::new(&client, "service-controller", "");
    let mut changes = services.changes();
    let reconcile = {
        let services = services.clone();
        move |key: ObjectKey| {
            let (client, services, recorder) = (client.clone(), services.clone(), recorder.clone());
            async move { reconcile(&client, &services, &recorder, node_ip, key).await }
        }
    };
    let worker = work("load-balancer", queue.clone(), 1, token.clone(), reconcile);
    let feed = async {
        while let Some(change) = changes.recv().await {
            let kinds = [&change.old, &change.new];
            if kinds
                .into_iter()
                .flatten()
                .any(|service| is_balancer(service) || ingress_of(service).is_some())
            {
                queue.add(change.key);
            }
        }
    };
    tokio::select! {
        () = token.cancelled() => {}
        () = feed => {}
        () = worker => {}
    }
    queue.close();
}

async fn reconcile(
    client: &Client,
    services: &Cache<Service>,
    recorder: &Recorder,
    node_ip: IpAddr,
    key: ObjectKey,
) -> Result<Next, kube::Error> {
    let Some(service) = services.by_key(&key) else {
        return Ok(Next::Done);
    };
    match plan(&service, node_ip, &listening()) {
        Plan::Nothing => Ok(Next::Done),
        Plan::PortTaken(port) => {
            let message = format!("port {port} is in use on the node {node_ip}; the Service gets no address");
            recorder.warning(&*service, "SyncLoadBalancerFailed", &message);
            Ok(Next::After(LOOK_AGAIN))
        }
        Plan::Write(balancer) => {
            let body = json!({
                "metadata": { "resourceVersion": service.metadata.resource_version },
                "status": { "loadBalancer": balancer },
            });
            let api = client.namespaced::<Service>(&key.namespace);
            match api
                .patch_status(&key.name, &PatchParams::default(), &Patch::Merge(&body))
                .await
            {
                Ok(_) => Ok(Next::Done),
                Err(error) => match failure(&error) {
                    Failure::NotFound => Ok(Next::Done),
                    Failure::Conflict => Ok(Next::Again),
                    _ => Err(error),
                },
            }
        }
    }
}

fn plan(service: &Service, node_ip: IpAddr, taken: &BTreeSet<u16>) -> Plan {
    if service.metadata.deletion_timestamp.is_some() {
        return Plan::Nothing;
    }
    let ours = json!([{ "ip": node_ip.to_string(), "ipMode": "VIP" }]);
    let current = ingress_of(service);
    if !is_balancer(service) {
        // The type changed: what we wrote goes.
        return if current == Some(ours) {
            Plan::Write(json!({ "ingress": null }))
        } else {
            Plan::Nothing
        };
    }
    let spec = service.spec.as_ref();
    if spec
        .and_then(|spec| spec.load_balancer_class.as_deref())
        .is_some_and(|class| class != CLASS)
    {
        return Plan::Nothing;
    }
    if current.as_ref() == Some(&ours) {
        return Plan::Nothing;
    }
    let ports = spec.into_iter().flat_map(|spec| spec.ports.iter().flatten());
    let mut ports = ports.filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP");
    match ports.find_map(|port| u16::try_from(port.port).ok().filter(|port| taken.contains(port))) {
        Some(port) => Plan::PortTaken(port),
        None => Plan::Write(json!({ "ingress": ours })),
    }
}

fn is_balancer(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("LoadBalancer")
}

/// The addresses in the status, as JSON.
fn ingress_of(service: &Service) -> Option<Value> {
    let ingress = service.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?;
    let ingress = ingress
        .iter()
        .map(|ingress| json!({ "ip": ingress.ip, "ipMode": ingress.ip_mode }));
    Some(ingress.collect()).filter(|ingress: &Value| ingress.as_array().is_some_and(|list| !list.is_empty()))
}

/// TCP ports that something on this machine listens on, except on loopback addresses only.
fn listening() -> BTreeSet<u16> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut ports = listening_in(&read("/proc/net/tcp"));
    ports.append(&mut listening_in(&read("/proc/net/tcp6")));
    ports
}

fn listening_in(table: &str) -> BTreeSet<u16> {
    let ports = table.lines().skip(1).filter_map(|line| {
        let mut columns = line.split_whitespace().skip(1);
        let (local, state) = (columns.next()?, columns.nth(1)?);
        let (address, port) = local.split_once(':')?;
        let loopback = (address.len() == 8 && address.ends_with("7F")) || address == "00000000000000000000000001000000";
        (state == "0A" && !loopback)
            .then(|| u16::from_str_radix(port, 16).ok())
            .flatten()
    });
    ports.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(value: Value) -> Service {
        serde_json::from_value(value).expect("a Service")
    }

    #[test]
    fn plans() {
        let node_ip: IpAddr = [192, 0, 2, 2].into();
        let taken = BTreeSet::from([22]);
        let ours = json!({ "ingress": [{ "ip": "192.0.2.2", "ipMode": "VIP" }] });
        let write = Plan::Write(ours.clone());
        let with = |kind: &str, class: Value, port: u16, status: Value| {
            service(json!({
                "metadata": { "name": "web", "namespace": "default" },
                "spec": { "type": kind, "loadBalancerClass": class, "ports": [{ "port": port }] },
                "status": { "loadBalancer": status },
            }))
        };
        let cases = [
            ("new", with("LoadBalancer", Value::Null, 80, json!({})), write),
            (
                "done",
                with("LoadBalancer", Value::Null, 80, ours.clone()),
                Plan::Nothing,
            ),
            (
                "other class",
                with("LoadBalancer", json!("x.io/y"), 80, json!({})),
                Plan::Nothing,
            ),
            (
                "taken",
                with("LoadBalancer", Value::Null, 22, json!({})),
                Plan::PortTaken(22),
            ),
            (
                "type changed",
                with("ClusterIP", Value::Null, 80, ours),
                Plan::Write(json!({ "ingress": null })),
            ),
            (
                "somebody else's",
                with(
                    "ClusterIP",
                    Value::Null,
                    80,
                    json!({ "ingress": [{ "ip": "192.0.2.9" }] }),
                ),
                Plan::Nothing,
            ),
        ];
        for (name, service, want) in cases {
            assert_eq!(plan(&service, node_ip, &taken), want, "{name}");
        }
    }

    #[test]
    fn listening_sockets_of_the_kernels_table() {
        let table = "  sl  local_address rem_address   st tx_queue\n\
            0: 00000000:0016 00000000:0000 0A 00000000:00000000\n\
            1: 0100007F:1F90 00000000:0000 0A 00000000:00000000\n\
            2: 020200C0:01BB 0A00000A:C350 01 00000000:00000000\n";
        assert_eq!(listening_in(table), BTreeSet::from([22]));
    }
}

//! `ctl port-forward`: local ports that lead to a pod's.

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::context::Ctx;
use crate::pods::{self, list, text};

#[derive(Args)]
pub struct PortForward {
    /// POD or TYPE/NAME (pod, service, deployment, ...)
    #[arg(required = true, value_name = "TYPE/NAME")]
    pub what: String,
    /// [LOCAL:]REMOTE; :REMOTE takes any free local port
    #[arg(required = true, value_name = "[LOCAL:]REMOTE")]
    pub ports: Vec<String>,
    /// Where to listen
    #[arg(long, value_delimiter = ',', default_value = "localhost")]
    pub address: Vec<String>,
}

/// One forwarded port.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Forward {
    /// 0 takes any.
    local: u16,
    /// As it is shown: the port that the user named.
    named: u16,
    /// The port of the pod.
    remote: u16,
}

/// Runs the command until it is interrupted.
///
/// # Errors
/// When a port cannot be had, or there is no pod.
pub async fn run(ctx: &Ctx, args: &PortForward) -> Result<ExitCode> {
    let object = pods::named(ctx, &args.what).await?;
    let pod = if object["kind"] == "Pod" {
        object.clone()
    } else {
        pods::one(ctx, &args.what).await?
    };
    if text(&pod, "/status/phase") != "Running" {
        bail!(
            "unable to forward port because pod is not running. Current status={}",
            text(&pod, "/status/phase")
        );
    }
    let forwards = args
        .ports
        .iter()
        .map(|port| parse(port, &object, &pod))
        .collect::<Result<Vec<_>>>()?;
    let mut tasks = Vec::new();
    for forward in &forwards {
        let mut taken = forward.local;
        let mut bound = 0;
        for address in addresses(&args.address)? {
            // The second family uses the port that the first one got.
            let listener = match TcpListener::bind(SocketAddr::new(address, taken)).await {
                Ok(listener) => listener,
                Err(error) if bound > 0 || (address.is_ipv6() && args.address.iter().any(|a| a == "localhost")) => {
                    tracing::debug!(%address, %error, "cannot listen here");
                    continue;
                }
                Err(error) => {
                    return Err(error).with_context(|| {
                        format!(
                            "unable to listen on port {}: {address}:{}",
                            forward.local, forward.local
                        )
                    });
                }
            };
            taken = listener.local_addr()?.port();
            bound += 1;
            println!(
                "Forwarding from {} -> {}",
                SocketAddr::new(address, taken),
                forward.named
            );
            tasks.push(serve(ctx, &pod, listener, forward));
        }
        if bound == 0 {
            bail!("unable to listen on any of the requested ports: {:?}", args.ports);
        }
    }
    futures::future::join_all(tasks).await;
    Ok(ExitCode::SUCCESS)
}

async fn serve(ctx: &Ctx, pod: &Value, listener: TcpListener, forward: &Forward) {
    let api = ctx.client.namespaced::<Pod>(text(pod, "/metadata/namespace"));
    let name = text(pod, "/metadata/name").to_owned();
    let (remote, named) = (forward.remote, forward.named);
    loop {
        let Ok((mut connection, _)) = listener.accept().await else {
            return;
        };
        println!(
            "Handling connection for {}",
            listener.local_addr().map_or(named, |a| a.port())
        );
        let (api, name) = (api.clone(), name.clone());
        tokio::spawn(async move {
            let mut forwarder = match api.portforward(&name, &[remote]).await {
                Ok(forwarder) => forwarder,
                Err(error) => return eprintln!("error: forwarding to pod {name}, port {remote}: {error}"),
            };
            let trouble = forwarder.take_error(remote);
            if let Some(mut stream) = forwarder.take_stream(remote) {
                // Either side may close first; both ends are done then.
                let _ = tokio::io::copy_bidirectional(&mut connection, &mut stream).await;
            }
            forwarder.abort();
            if let Some(trouble) = trouble
                && let Some(message) = trouble.await
            {
                eprintln!("error: an error occurred forwarding {named} -> {remote}: {message}");
            }
        });
    }
}

fn addresses(words: &[String]) -> Result<Vec<IpAddr>> {
    let mut out = Vec::new();
    for word in words {
        if word == "localhost" {
            out.extend([IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])]);
        } else {
            out.push(word.parse().map_err(|_| anyhow!("{word} is not a valid IP"))?);
        }
    }
    Ok(out)
}

/// Understands `8080:80`, `80`, `:80` and named ports; a Service's port leads to its target port.
fn parse(word: &str, object: &Value, pod: &Value) -> Result<Forward> {
    let (local, remote) = match word.split_once(':') {
        Some((local, remote)) => (Some(local), remote),
        None => (None, word),
    };
    let (named, remote) = if object["kind"] == "Service" {
        service_port(object, pod, remote)?
    } else {
        let port = pod_port(pod, remote)?;
        (port, port)
    };
    let local = match local {
        None => named,
        Some("") => 0,
        Some(text) => text.parse().map_err(|_| anyhow!("error parsing local port '{text}'"))?,
    };
    Ok(Forward { local, named, remote })
}

fn number(value: &Value) -> Option<u16> {
    value.as_u64().and_then(|port| u16::try_from(port).ok())
}

fn pod_port(pod: &Value, word: &str) -> Result<u16> {
    if let Ok(port) = word.parse::<u16>() {
        return if port == 0 {
            Err(anyhow!("remote port must be > 0"))
        } else {
            Ok(port)
        };
    }
    let ports = list(pod, "/spec/containers")
        .iter()
        .flat_map(|container| list(container, "/ports"));
    let found = ports
        .filter(|port| text(port, "/name") == word)
        .find_map(|port| number(&port["containerPort"]));
    found.ok_or_else(|| {
        anyhow!(
            "pod '{}' does not have a named port '{word}'",
            text(pod, "/metadata/name")
        )
    })
}

fn service_port(service: &Value, pod: &Value, word: &str) -> Result<(u16, u16)> {
    let wanted = word.parse::<u16>().ok();
    let port = list(service, "/spec/ports")
        .iter()
        .find(|port| text(port, "/name") == word || (wanted.is_some() && number(&port["port"]) == wanted))
        .ok_or_else(|| {
            anyhow!(
                "Service {} does not have a service port {word}",
                text(service, "/metadata/name")
            )
        })?;
    let named = number(&port["port"]).unwrap_or_default();
    let headless = text(service, "/spec/clusterIP") == "None";
    let target = match &port["targetPort"] {
        Value::String(name) => pod_port(pod, name)?,
        target if !headless || number(target).is_some() => number(target).unwrap_or(named),
        _ => named,
    };
    Ok((named, target))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ports_of_pods_and_services() {
        let pod = json!({"kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"ports": [{"name": "web", "containerPort": 8080}]}]}});
        let service = json!({"kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [
            {"name": "http", "port": 80, "targetPort": "web"}, {"name": "other", "port": 81, "targetPort": 9000}]}});
        let cases = [
            (&pod, "80", Ok((80, 80, 80))),
            (&pod, "3000:80", Ok((3000, 80, 80))),
            (&pod, ":80", Ok((0, 80, 80))),
            (&pod, "1:web", Ok((1, 8080, 8080))),
            (&pod, "0", Err("remote port must be > 0")),
            (&pod, "x:80", Err("error parsing local port 'x'")),
            (&service, "3000:80", Ok((3000, 80, 8080))),
            (&service, "http", Ok((80, 80, 8080))),
            (&service, "81", Ok((81, 81, 9000))),
            (&service, "82", Err("Service s does not have a service port 82")),
        ];
        for (object, word, expected) in cases {
            let found = parse(word, object, &pod)
                .map(|f| (f.local, f.named, f.remote))
                .map_err(|e| e.to_string());
            assert_eq!(found, expected.map_err(str::to_owned), "{word}");
        }
    }
}

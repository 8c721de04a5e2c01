//! Creates and updates, each durable before it is answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::figures::{Figures, Meter};
use crate::http::Connection;
use crate::objects::{Kind, Template};
use crate::process::Process;
use crate::target::Target;

/// What is written, by how many clients, for how long.
#[derive(Clone)]
pub struct Load {
    /// Namespace that exists.
    pub namespace: String,
    /// Kind of the objects.
    pub kind: Kind,
    /// Connections, each with one request at a time.
    pub clients: usize,
    /// For how long at most.
    pub lasting: Duration,
    /// How many at most.
    pub operations_max: usize,
}

/// Creates objects `PREFIX-000000000` and on.
///
/// # Errors
/// When the server cannot be reached.
pub async fn create(target: &Target, load: &Load, prefix: &str, process: Option<Process>) -> Result<Figures> {
    let path = format!("/api/v1/namespaces/{}/{}", load.namespace, load.kind.plural());
    let object = load.kind.object(&format!("{prefix}-{}", Template::OBJECT), "created");
    let template = Template::new(target, "POST", &path, Some(&object))?;
    let name = format!("create {}, {} clients", load.kind.plural(), load.clients);
    run(target, load, &template, (201, usize::MAX), name, process).await
}

/// Replaces the first `objects` objects that [`create`] made, in turn, each time by something new.
///
/// # Errors
/// When the server cannot be reached.
pub async fn update(
    target: &Target,
    load: &Load,
    prefix: &str,
    objects: usize,
    process: Option<Process>,
) -> Result<Figures> {
    let name = format!("{prefix}-{}", Template::OBJECT);
    let path = format!("/api/v1/namespaces/{}/{}/{name}", load.namespace, load.kind.plural());
    let object = load.kind.object(&name, Template::ROUND);
    let template = Template::new(target, "PUT", &path, Some(&object))?;
    let name = format!("update {}, {} clients", load.kind.plural(), load.clients);
    run(target, load, &template, (200, objects.max(1)), name, process).await
}

/// Sends the template with growing numbers; `expected` is the status and the number of objects to go round.
async fn run(
    target: &Target,
    load: &Load,
    template: &Template,
    expected: (u16, usize),
    name: String,
    process: Option<Process>,
) -> Result<Figures> {
    let mut connections = Vec::with_capacity(load.clients);
    for _ in 0..load.clients {
        connections.push(Connection::open(target).await?);
    }
    let (next, told) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (most, deadline) = (load.operations_max, Instant::now() + load.lasting);
    let (meter, start) = (Meter::start(process)?, Instant::now());
    let clients = connections.into_iter().map(|mut connection| {
        let (mut template, next, told) = (template.clone(), next.clone(), told.clone());
        let (status, objects) = expected;
        tokio::spawn(async move {
            let (mut micros, mut failed) = (Vec::new(), 0_usize);
            while Instant::now() < deadline {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= most {
                    break;
                }
                let begin = Instant::now();
                let answer = connection
                    .call(template.with(number % objects, number / objects), |_| ())
                    .await?;
                if answer.status == status {
                    micros.push(u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX));
                } else {
                    failed += 1;
                    if !told.swap(true, Ordering::Relaxed) {
                        why(&mut connection, template.with(number % objects, number / objects)).await?;
                    }
                }
            }
            anyhow::Ok((micros, failed))
        })
    });
    let (mut micros, mut failed) = (Vec::new(), 0);
    for client in clients.collect::<Vec<_>>() {
        let (part, refused) = client.await??;
        micros.extend(part);
        failed += refused;
    }
    let elapsed = start.elapsed();
    let cost = meter.stop()?;
    micros.sort_unstable();
    Ok(Figures {
        name,
        operations: micros.len(),
        failed,
        elapsed,
        micros,
        cost,
    })
}

/// Sends a refused request again to say what the server has against it.
async fn why(connection: &mut Connection, request: &[u8]) -> Result<()> {
    let mut said = Vec::new();
    let answer = connection.call(request, |piece| said.extend_from_slice(piece)).await?;
    eprintln!("{}: {}", answer.status, String::from_utf8_lossy(&said));
    Ok(())
}

//! Watch fan-out: many watchers of one resource, some of which never read.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::sync::Barrier;

use crate::figures::{Figures, Meter};
use crate::http::{Connection, find};
use crate::objects::{request, version};
use crate::process::Process;
use crate::target::Target;

/// Digits of the microseconds in each update.
const DIGITS: usize = 16;
const FIELD: &[u8] = b"\"sent\":\"";
/// What a healthy watcher gets to see the last update.
const LAST_WITHIN: Duration = Duration::from_secs(10);

/// How many watch what.
#[derive(Clone)]
pub struct Fan {
    /// Namespace that exists.
    pub namespace: String,
    /// Watchers in all.
    pub watchers: usize,
    /// Of these, watchers that read nothing.
    pub stalled: usize,
    /// Updates a second.
    pub rate: u32,
    /// For how long.
    pub lasting: Duration,
}

/// Runs it. `failed` counts updates that a healthy watcher did not see.
///
/// # Errors
/// When the server cannot be reached or refuses.
pub async fn run(target: &Target, fan: &Fan, process: Option<Process>) -> Result<Figures> {
    let path = format!("/api/v1/namespaces/{}/configmaps", fan.namespace);
    make(target, &path).await?;
    let from = version(target, &path).await?;
    let watch = request(
        target,
        "GET",
        &format!("{path}?watch=1&resourceVersion={from}&timeoutSeconds=3600"),
        "application/json",
        b"",
    );
    let healthy = fan.watchers.saturating_sub(fan.stalled);
    let updates = fan.rate as usize * usize::try_from(fan.lasting.as_secs())?;
    let (clock, open) = (Instant::now(), Arc::new(Barrier::new(healthy + 1)));
    let mut stalled = Vec::new();
    for _ in 0..fan.stalled {
        let mut connection = Connection::open(target).await?;
        connection.watch(&watch).await?;
        stalled.push(connection);
    }
    let mut watchers = Vec::with_capacity(healthy);
    for _ in 0..healthy {
        let mut connection = Connection::open(target).await?;
        connection.watch(&watch).await?;
        let open = open.clone();
        let limit = fan.lasting + LAST_WITHIN;
        watchers.push(tokio::spawn(async move {
            open.wait().await;
            let mut micros = Vec::with_capacity(updates);
            // What a watcher that was closed or is late did not see is counted below.
            let _ = tokio::time::timeout(limit, see(&mut connection, updates, clock, &mut micros)).await;
            micros
        }));
    }
    let meter = Meter::start(process)?;
    open.wait().await;
    let start = Instant::now();
    let mut tick = tokio::time::interval(Duration::from_secs(1) / fan.rate.max(1));
    let mut writer = Connection::open(target).await?;
    for _ in 0..updates {
        tick.tick().await;
        let body = body(u64::try_from(clock.elapsed().as_micros())?);
        let request = request(target, "PUT", &format!("{path}/fan"), "application/json", &body);
        let answer = writer.call(&request, |_| ()).await?;
        ensure!(answer.status == 200, "an update was answered with {}", answer.status);
    }
    let (mut micros, mut short) = (Vec::with_capacity(healthy * updates), 0);
    for watcher in watchers {
        let seen = watcher.await?;
        short += usize::from(seen.len() < updates);
        micros.extend(seen);
    }
    let elapsed = start.elapsed();
    let cost = meter.stop()?;
    micros.sort_unstable();
    drop(stalled);
    Ok(Figures {
        name: format!(
            "{} watchers ({} stalled), {} updates/s; {short} healthy ones fell short",
            fan.watchers, fan.stalled, fan.rate,
        ),
        operations: micros.len(),
        failed: healthy * updates - micros.len(),
        elapsed,
        micros,
        cost,
    })
}

/// Reads until `updates` updates were seen, and notes how old each was.
async fn see(connection: &mut Connection, updates: usize, clock: Instant, micros: &mut Vec<u64>) -> Result<()> {
    let mut pending = Vec::new();
    while micros.len() < updates {
        if connection
            .next(|piece| pending.extend_from_slice(piece))
            .await?
            .is_none()
        {
            return Ok(());
        }
        let Some(end) = pending.iter().rposition(|b| *b == b'\n') else {
            continue;
        };
        let now = u64::try_from(clock.elapsed().as_micros())?;
        micros.extend(
            pending[..end]
                .split(|b| *b == b'\n')
                .filter_map(sent)
                .map(|then| now.saturating_sub(then)),
        );
        pending.drain(..=end);
    }
    Ok(())
}

/// When the update in an event was sent.
fn sent(event: &[u8]) -> Option<u64> {
    let rest = &event[find(event, FIELD)? + FIELD.len()..];
    std::str::from_utf8(rest.get(..DIGITS)?).ok()?.parse().ok()
}

fn body(micros: u64) -> Vec<u8> {
    format!(
        "{{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{{\"name\":\"fan\"}},\
         \"data\":{{\"sent\":\"{micros:0DIGITS$}\"}}}}"
    )
    .into_bytes()
}

/// Makes the object that is watched, or is content with the one there.
async fn make(target: &Target, path: &str) -> Result<()> {
    let request = request(target, "POST", path, "application/json", &body(0));
    let answer = Connection::open(target).await?.call(&request, |_| ()).await?;
    ensure!(
        matches!(answer.status, 201 | 409),
        "{path} was answered with {}",
        answer.status
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_tells_when_it_was_sent() {
        assert_eq!(sent(&body(123_456)), Some(123_456));
        for event in ["", "{}", "\"sent\":\"12", "\"sent\":\"000000000000012x\""] {
            assert_eq!(sent(event.as_bytes()), None, "{event}");
        }
    }
}

//! LISTs, whole and in pages, alone and in parallel.

use std::time::Instant;

use anyhow::{Result, ensure};

use crate::figures::{Figures, Meter};
use crate::http::{Connection, find};
use crate::objects::request;
use crate::process::Process;
use crate::target::Target;

/// JSON, the answer's usual form.
pub const JSON: &str = "application/json";
/// What typed Go clients ask for.
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// One way to list.
#[derive(Clone)]
pub struct List {
    /// What the table calls it.
    pub name: String,
    /// Path with its query.
    pub path: String,
    /// Media type asked for.
    pub accept: &'static str,
    /// Clients at the same time.
    pub parallel: usize,
    /// Lists that each client makes, after one that is not counted.
    pub times: usize,
    /// Follow `continue` until the end; the whole walk is one operation. JSON only.
    pub pages: bool,
}

/// Lists as told.
///
/// # Errors
/// When the server cannot be reached or refuses.
pub async fn run(target: &Target, list: &List, process: Option<Process>) -> Result<Figures> {
    let mut connections = Vec::with_capacity(list.parallel);
    for _ in 0..list.parallel {
        connections.push(Connection::open(target).await?);
    }
    if let Some(first) = connections.first_mut() {
        once(target, list, first).await?;
    }
    let (meter, start) = (Meter::start(process)?, Instant::now());
    let clients = connections.into_iter().map(|mut connection| {
        let (target, list) = (target.clone(), list.clone());
        tokio::spawn(async move {
            let mut micros = Vec::with_capacity(list.times);
            for _ in 0..list.times {
                let begin = Instant::now();
                once(&target, &list, &mut connection).await?;
                micros.push(u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX));
            }
            anyhow::Ok(micros)
        })
    });
    let mut micros = Vec::new();
    for client in clients.collect::<Vec<_>>() {
        micros.extend(client.await??);
    }
    let elapsed = start.elapsed();
    let cost = meter.stop()?;
    micros.sort_unstable();
    Ok(Figures {
        name: list.name.clone(),
        operations: micros.len(),
        failed: 0,
        elapsed,
        micros,
        cost,
    })
}

async fn once(target: &Target, list: &List, connection: &mut Connection) -> Result<()> {
    let mut next = String::new();
    loop {
        let path = if next.is_empty() {
            list.path.clone()
        } else {
            format!("{}&continue={next}", list.path)
        };
        let bytes = request(target, "GET", &path, list.accept, b"");
        // The list's metadata stands at the beginning or the end, depending on the server.
        let (mut first, mut last) = (Vec::new(), Vec::new());
        let answer = connection
            .call(&bytes, |piece| {
                if list.pages {
                    if first.is_empty() {
                        first.extend_from_slice(&piece[..piece.len().min(2048)]);
                    }
                    last = piece[piece.len().saturating_sub(2048)..].to_vec();
                }
            })
            .await?;
        ensure!(answer.status == 200, "{path} was answered with {}", answer.status);
        match continued(&first).or_else(|| continued(&last)) {
            Some(token) if list.pages => next = token,
            _ => return Ok(()),
        }
    }
}

fn continued(bytes: &[u8]) -> Option<String> {
    const FIELD: &[u8] = b"\"continue\":\"";
    let rest = &bytes[find(bytes, FIELD)? + FIELD.len()..];
    let end = rest.iter().position(|b| *b == b'"')?;
    (end > 0).then(|| String::from_utf8_lossy(&rest[..end]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continue_tokens() {
        for (body, token) in [
            (r#"{"metadata":{"continue":"abc","remainingItemCount":3}}"#, Some("abc")),
            (r#"{"metadata":{"continue":""}}"#, None),
            (r#"{"metadata":{}}"#, None),
            (r#"{"metadata":{"continue":"cut o"#, None),
        ] {
            assert_eq!(continued(body.as_bytes()).as_deref(), token, "{body}");
        }
    }
}

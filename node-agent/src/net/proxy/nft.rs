//! Runs `nft`: one script in, one atomic transaction, one sentence when it is refused.
//!
//! Does not: retry, or know what the script means.

use super::super::NetError;
use super::ruleset::TABLE;
use std::process::Stdio;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// Applies a script; all of it or nothing.
pub async fn apply(script: &str) -> Result<(), NetError> {
    if script.is_empty() {
        return Ok(());
    }
    let mut child = command()
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(start_failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // When nft ends early its own message says why.
        let _ = stdin.write_all(script.as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(start_failed)?;
    if output.status.success() {
        return Ok(());
    }
    Err(NetError::Nft {
        detail: first_line(&output.stderr),
    })
}

/// The table exists in the kernel.
pub async fn exists() -> Result<bool, NetError> {
    let mut list = command();
    list.args(["-t", "list", "table"]).args(TABLE.split(' '));
    let status = list
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    Ok(status.await.map_err(start_failed)?.success())
}

/// Deletes the table, if it is there.
pub async fn remove() -> Result<(), NetError> {
    match apply(&format!("add table {TABLE}\ndelete table {TABLE}\n")).await {
        // Without nft nothing can have been made with it.
        Err(NetError::NftMissing) => Ok(()),
        other => other,
    }
}

fn command() -> Command {
    // Daemons are often started with a PATH that lacks the system directories.
    let places = ["/usr/sbin/nft", "/sbin/nft", "/usr/local/sbin/nft"];
    let found = places.iter().find(|path| std::path::Path::new(path).exists());
    Command::new(found.copied().unwrap_or("nft"))
}

fn start_failed(error: std::io::Error) -> NetError {
    match error.kind() {
        std::io::ErrorKind::NotFound => NetError::NftMissing,
        _ => NetError::Nft {
            detail: format!("it could not be started: {error}"),
        },
    }
}

fn first_line(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or("it gave no reason");
    match lines.next() {
        Some(second) => format!("{first}: {second}"),
        None => first.to_owned(),
    }
}

//! Memory and disk of the server: of what is stored, while it is deleted, and after it.
//!
//! Two loads leave next to nothing behind: a suite of tests (many short-lived objects, updates and lists), and a large
//! namespace that is deleted at once. Before them, Pods that stay tell what a stored Pod takes.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::http::Connection;
use crate::objects::{self, Kind};
use crate::process::Process;
use crate::target::Target;
use crate::writes::{self, Load};

/// What is measured, and how much of it.
#[derive(Clone)]
pub struct Churn {
    /// Prefix of the namespaces.
    pub namespace: String,
    /// The server's data directory, whose size is measured, if it is on this machine.
    pub data_dir: Option<PathBuf>,
    /// Numbers of Pods whose memory is measured, each in a namespace of its own.
    pub pods: Vec<usize>,
    /// Writes of the suite of tests.
    pub suite: usize,
    /// ConfigMaps and Pods of the large namespace.
    pub large: (usize, usize),
    /// How long to wait for the last figure.
    pub settle: Duration,
}

/// One figure beside its target.
#[derive(Debug)]
pub struct Row {
    what: String,
    measured: f64,
    unit: &'static str,
    most: f64,
}

/// The figures as a Markdown table.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let mut out = String::from("| what | measured | target at most | |\n|---|---|---|---|\n");
    for row in rows {
        let met = if row.measured <= row.most { "met" } else { "missed" };
        let (what, unit) = (&row.what, row.unit);
        out.push_str(&format!(
            "| {what} | {:.1} {unit} | {:.1} {unit} | {met} |\n",
            row.measured, row.most
        ));
    }
    out
}

/// Clients of a load.
const CLIENTS: usize = 64;
/// A deletion takes no longer.
const DELETED_WITHIN: Duration = Duration::from_secs(900);

/// Runs everything.
///
/// # Errors
/// When the server cannot be reached or its process is gone.
pub async fn run(target: &Target, churn: &Churn, process: Process) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for pods in &churn.pods {
        let namespace = format!("{}-{pods}", churn.namespace);
        let before = process.memory_mb()?.0;
        fill(target, &namespace, Kind::Pod, *pods).await?;
        tokio::time::sleep(Duration::from_secs(10)).await;
        let each = (process.memory_mb()?.0 - before) * 1000.0 / (*pods).max(1) as f64;
        rows.push(row(&format!("memory of each of {pods} Pods"), each, "KB", 12.0));
        delete(target, churn, &namespace, process, &mut rows).await?;
    }
    if churn.suite > 0 {
        suite(target, churn).await?;
        after(churn, process, "a suite of tests", stored_mb(target).await?, &mut rows).await?;
    }
    let (maps, pods) = churn.large;
    if maps + pods > 0 {
        let namespace = format!("{}-large", churn.namespace);
        fill(target, &namespace, Kind::ConfigMap, maps).await?;
        fill(target, &namespace, Kind::Pod, pods).await?;
        delete(target, churn, &namespace, process, &mut rows).await?;
    }
    if !churn.settle.is_zero() {
        tokio::time::sleep(churn.settle).await;
        let what = format!("memory {} s later", churn.settle.as_secs());
        rows.push(row(&what, process.memory_mb()?.0, "MB", 80.0));
    }
    Ok(rows)
}

fn row(what: &str, measured: f64, unit: &'static str, most: f64) -> Row {
    Row {
        what: what.to_owned(),
        measured,
        unit,
        most,
    }
}

async fn fill(target: &Target, namespace: &str, kind: Kind, objects: usize) -> Result<()> {
    objects::namespace(target, namespace).await?;
    let load = load(namespace, kind, objects);
    let figures = writes::create(target, &load, kind.plural(), None).await?;
    ensure!(figures.failed == 0, "{} creates failed", figures.failed);
    Ok(())
}

fn load(namespace: &str, kind: Kind, operations_max: usize) -> Load {
    Load {
        namespace: namespace.to_owned(),
        kind,
        clients: CLIENTS,
        lasting: Duration::from_secs(3600),
        operations_max,
    }
}

/// Deletes a namespace and measures meanwhile and after it.
async fn delete(target: &Target, churn: &Churn, namespace: &str, process: Process, rows: &mut Vec<Row>) -> Result<()> {
    let stored = stored_mb(target).await?;
    process.reset_peak()?;
    objects::remove_namespace(target, namespace).await?;
    let path = format!("/api/v1/namespaces/{namespace}");
    let begun = Instant::now();
    while status(target, &path).await? != 404 {
        ensure!(begun.elapsed() < DELETED_WITHIN, "{namespace} is not deleted");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let peak = process.memory_mb()?.1;
    let what = format!(
        "most memory while {stored:.0} MB were deleted in {:.0} s",
        begun.elapsed().as_secs_f64()
    );
    rows.push(row(&what, peak, "MB", 1.5 * stored + 100.0));
    after(
        churn,
        process,
        &format!("{namespace} was deleted"),
        stored_mb(target).await?,
        rows,
    )
    .await
}

async fn after(churn: &Churn, process: Process, what: &str, stored: f64, rows: &mut Vec<Row>) -> Result<()> {
    tokio::time::sleep(Duration::from_secs(10)).await;
    let memory = process.memory_mb()?.0;
    rows.push(row(&format!("memory 10 s after {what}"), memory, "MB", 150.0));
    if let Some(dir) = &churn.data_dir {
        tokio::time::sleep(Duration::from_secs(20)).await;
        let disk = size_mb(dir)?;
        rows.push(row(
            &format!("disk 30 s after {what}"),
            disk,
            "MB",
            4.0 * stored + 100.0,
        ));
    }
    Ok(())
}

/// Writes as a suite of tests does: namespaces come and go, objects are updated a few times, some are Pods.
async fn suite(target: &Target, churn: &Churn) -> Result<()> {
    /// Writes for each namespace: creates, updates, and the deletes at its end.
    const EACH: usize = 10_000;
    for round in 0..churn.suite.div_ceil(EACH) {
        let namespace = format!("{}-suite-{round}", churn.namespace);
        objects::namespace(target, &namespace).await?;
        for (kind, objects) in [(Kind::ConfigMap, 2000), (Kind::Pod, 1000)] {
            let created = writes::create(target, &load(&namespace, kind, objects), "t", None).await?;
            ensure!(created.failed == 0, "{} creates failed", created.failed);
            let updates = load(&namespace, kind, objects * 4 / 3);
            writes::update(target, &updates, "t", objects, None).await?;
            let path = format!("/api/v1/namespaces/{namespace}/{}", kind.plural());
            ensure!(status(target, &path).await? == 200, "{path} cannot be listed");
        }
        objects::remove_namespace(target, &namespace).await?;
    }
    let last = churn.suite.div_ceil(EACH).saturating_sub(1);
    let path = format!("/api/v1/namespaces/{}-suite-{last}", churn.namespace);
    let begun = Instant::now();
    while status(target, &path).await? != 404 {
        ensure!(begun.elapsed() < DELETED_WITHIN, "the last namespace is not deleted");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

async fn status(target: &Target, path: &str) -> Result<u16> {
    let request = objects::request(target, "GET", path, "application/json", b"");
    let answer = Connection::open(target).await?.call(&request, |_| ()).await?;
    Ok(answer.status)
}

/// MB of all stored objects, from the server's metrics.
async fn stored_mb(target: &Target) -> Result<f64> {
    let request = objects::request(target, "GET", "/metrics", "text/plain", b"");
    let mut text = Vec::new();
    Connection::open(target)
        .await?
        .call(&request, |piece| text.extend_from_slice(piece))
        .await?;
    let text = String::from_utf8_lossy(&text);
    let bytes = text.lines().find_map(|line| line.strip_prefix("coxswain_store_bytes "));
    let bytes = bytes.context("the server's metrics have no coxswain_store_bytes")?;
    Ok(bytes.trim().parse::<f64>()? / 1e6)
}

/// MB of the files in a directory.
fn size_mb(dir: &Path) -> Result<f64> {
    let mut bytes = 0.0;
    for entry in std::fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let entry = entry?;
        // A file may go in the meantime.
        let Ok(about) = entry.metadata() else { continue };
        if about.is_dir() {
            bytes += size_mb(&entry.path())? * 1e6;
        } else {
            #[expect(clippy::cast_precision_loss)]
            let length = about.len() as f64;
            bytes += length;
        }
    }
    Ok(bytes / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_beside_their_targets() {
        let rows = [row("a", 11.96, "KB", 12.0), row("b", 151.0, "MB", 150.0)];
        let text = table(&rows);
        assert!(text.contains("| a | 12.0 KB | 12.0 KB | met |"), "{text}");
        assert!(text.contains("| b | 151.0 MB | 150.0 MB | missed |"), "{text}");
    }

    #[test]
    fn sizes_are_of_all_files_below() -> Result<()> {
        let dir = std::env::temp_dir().join(format!("churn-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("sub"))?;
        std::fs::write(dir.join("a"), vec![0; 300_000])?;
        std::fs::write(dir.join("sub/b"), vec![0; 700_000])?;
        let size = size_mb(&dir);
        std::fs::remove_dir_all(&dir)?;
        assert!((size? - 1.0).abs() < 1e-9);
        Ok(())
    }
}

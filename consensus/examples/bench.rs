//! Durable writes a second, their latency, and the CPU they cost.
//!
//! `cargo run --example bench -- [clients] [seconds] [bytes] [directory]`

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use coxswain_consensus::{Config, Draft, Head, Key, Precondition, Store, Txn};
use serde_json::json;

fn draft(client: usize, number: u64, text: &str) -> Draft {
    let name = format!("object-{client}-{number}");
    let value = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default", "uid": "3b1a5c2e-0000-4000-8000-000000000000"},
        "data": {"text": text},
    });
    let head = Head {
        uid: "3b1a5c2e-0000-4000-8000-000000000000".into(),
        ..Head::default()
    };
    Draft::new(Key::new("configmaps", "default", name), value, head)
}

fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split(' ').collect();
    let ticks = |at: usize| -> u64 { fields.get(at).and_then(|f| f.parse().ok()).unwrap_or(0) };
    Duration::from_millis((ticks(12) + ticks(13)) * 10)
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: u64| -> u64 {
        let given = arguments.next().and_then(|text| text.parse().ok());
        given.unwrap_or(default)
    };
    let (clients, seconds, bytes) = (number(64), number(5), number(1000));
    let temporary = tempfile::tempdir()?;
    let dir = arguments
        .next()
        .map_or_else(|| temporary.path().join("store"), Into::into);

    let began = Instant::now();
    let store = Store::open(Config::new(&dir)).await?;
    let stats = store.stats();
    println!(
        "opened {} objects, {} MB in {:?} with {:?} of CPU; resident {} MiB",
        stats.objects,
        stats.stored_bytes / 1_000_000,
        began.elapsed(),
        cpu(),
        resident_mib()
    );

    let stop = Arc::new(AtomicBool::new(false));
    let text: Arc<str> = "x".repeat(bytes as usize).into();
    let run = stats.revision;
    let (began, cpu_before) = (Instant::now(), cpu());
    let mut tasks = Vec::new();
    for client in 0..clients as usize {
        let (store, stop, text) = (store.clone(), stop.clone(), text.clone());
        tasks.push(tokio::spawn(async move {
            let mut latencies = Vec::new();
            let mut number = run << 24;
            while !stop.load(Ordering::Relaxed) {
                let txn = Txn::put(draft(client, number, &text), Precondition::Absent);
                let asked = Instant::now();
                store.propose(txn).await.expect("written");
                latencies.push(asked.elapsed());
                number += 1;
            }
            latencies
        }));
    }
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    stop.store(true, Ordering::Relaxed);
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await?);
    }
    let (elapsed, cpu) = (began.elapsed(), cpu() - cpu_before);
    latencies.sort_unstable();
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
    let stats = store.stats();
    println!(
        "{} writes of {bytes} bytes by {clients} clients: {:.0}/s, {:.0} per CPU-second, p50 {:?}, p99 {:?}, max {:?}",
        latencies.len(),
        latencies.len() as f64 / elapsed.as_secs_f64(),
        latencies.len() as f64 / cpu.as_secs_f64(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
    println!(
        "{} records, {} MB of log, {} checkpoints; {} objects, {} MB; resident {} MiB",
        stats.records,
        stats.log_bytes / 1_000_000,
        stats.checkpoints,
        stats.objects,
        stats.stored_bytes / 1_000_000,
        resident_mib()
    );
    store.shutdown().await;
    Ok(())
}

//! A load whose state is known at every revision, and who watches it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use coxswain_bench::http::Connection;
use coxswain_bench::target::Target;
use coxswain_e2e::eventually;
use coxswain_e2e::load::{CONFIG_MAPS as MAPS, Requests};
use serde_json::{Value, json};

use crate::WITHIN;

/// Writers that create, change and delete ConfigMaps until told to stop.
pub struct Load {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    /// What each object must hold at least, by its writer's last acknowledged change.
    acknowledged: Arc<Mutex<BTreeMap<String, u64>>>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Load {
    pub fn start(kubeconfig: &Path) -> Load {
        let mut load = Load {
            stop: Arc::default(),
            written: Arc::default(),
            acknowledged: Arc::default(),
            threads: Vec::new(),
        };
        for writer in 0..3 {
            let (stop, written) = (load.stop.clone(), load.written.clone());
            let (acknowledged, kubeconfig) = (load.acknowledged.clone(), kubeconfig.to_owned());
            load.threads.push(std::thread::spawn(move || {
                let mut client = Requests::to(&kubeconfig)?;
                for number in 0_u64.. {
                    if stop.load(Ordering::Acquire) {
                        break;
                    }
                    if write(&mut client, writer, number, &acknowledged).is_ok() {
                        written.fetch_add(1, Ordering::AcqRel);
                    } else {
                        // The server is down: once more when it is back.
                        std::thread::sleep(Duration::from_millis(10));
                    }
                }
                Ok(())
            }));
        }
        load
    }

    /// Waits until this many more writes have been acknowledged.
    pub fn goes_on(&self, more: u64) -> Result<()> {
        let wanted = self.written.load(Ordering::Acquire) + more;
        eventually(WITHIN, "more writes", || {
            let written = self.written.load(Ordering::Acquire);
            ensure!(written >= wanted, "{written} of {wanted}");
            Ok(())
        })
    }

    pub fn finish(self) -> Result<BTreeMap<String, u64>> {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads {
            thread.join().ok().context("a writer failed")??;
        }
        Ok(self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// One change of one of a writer's objects: it is made if it is not there, deleted now and then.
fn write(client: &mut Requests, writer: u64, number: u64, acknowledged: &Mutex<BTreeMap<String, u64>>) -> Result<()> {
    let name = format!("w{writer}-{}", number % 40);
    let path = format!("{MAPS}/{name}");
    let object = json!({"metadata": {"name": name}, "data": {"number": number.to_string(), "text": "x".repeat(600)}});
    let set = |number: Option<u64>| {
        let mut acknowledged = acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        match number {
            Some(number) => acknowledged.insert(name.clone(), number),
            None => acknowledged.remove(&name),
        };
    };
    if number % 7 == 3 {
        // Whether it comes about or not, nothing is promised meanwhile.
        set(None);
        let (status, answer) = client.call("DELETE", &path, &Value::Null)?;
        ensure!(matches!(status, 200 | 404), "{status} {answer}");
        return Ok(());
    }
    let (status, answer) = client.call("PUT", &path, &object)?;
    if status == 404 {
        client.ask("POST", MAPS, &object)?;
    } else {
        ensure!(status == 200, "{status} {answer}");
    }
    set(Some(number));
    Ok(())
}

/// What the ConfigMaps hold, by name: revision and number.
pub type Maps = BTreeMap<String, (u64, u64)>;

fn entry(object: &Value) -> Option<(String, (u64, u64))> {
    let number = |value: &Value| value.as_str().and_then(|text| text.parse::<u64>().ok());
    let name = object["metadata"]["name"].as_str()?.to_owned();
    Some((
        name,
        (
            number(&object["metadata"]["resourceVersion"])?,
            number(&object["data"]["number"])?,
        ),
    ))
}

pub fn maps(client: &mut Requests) -> Result<(u64, Maps)> {
    let list = client.ask("GET", MAPS, &Value::Null)?;
    let revision = list["metadata"]["resourceVersion"]
        .as_str()
        .context("no revision")?
        .parse()?;
    let items = list["items"].as_array().context("no items")?;
    Ok((revision, items.iter().filter_map(entry).collect()))
}

/// Follows the ConfigMaps from the beginning, and keeps every event.
pub fn follow(kubeconfig: &Path, from: u64, seen: &Arc<Mutex<Vec<Value>>>) -> Result<JoinHandle<Result<()>>> {
    let (target, seen) = (Target::from_kubeconfig(kubeconfig)?, seen.clone());
    Ok(std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut connection = Connection::open(&target).await?;
            let path = format!("{MAPS}?watch=true&resourceVersion={from}");
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n{}\r\n", target.authorization);
            connection.watch(request.as_bytes()).await?;
            let mut text = Vec::new();
            while connection.next(|piece| text.extend_from_slice(piece)).await?.is_some() {
                while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                    let event = serde_json::from_slice(&text[..end])?;
                    text.drain(..=end);
                    seen.lock().unwrap_or_else(PoisonError::into_inner).push(event);
                }
            }
            Ok(())
        })
    }))
}

/// What there was at a revision, by the events up to it.
pub fn at_revision(events: &[Value], revision: u64) -> Maps {
    let mut maps = Maps::new();
    for event in events {
        let Some((name, (at, number))) = entry(&event["object"]) else {
            continue;
        };
        if at > revision {
            break;
        }
        match event["type"].as_str() {
            Some("DELETED") => drop(maps.remove(&name)),
            _ => drop(maps.insert(name, (at, number))),
        }
    }
    maps
}

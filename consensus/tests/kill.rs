//! A process that writes is killed again and again; whatever it had reported as written is there
//! after every restart, and revisions never go back.
//!
//! The writing process is this test binary itself, told by an environment variable where to write.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use coxswain_consensus::{Config, Draft, Head, Key, Outcome, Precondition, Store, Txn};

const TOLD_WHERE: &str = "COXSWAIN_TEST_WRITE_TO";

fn config(dir: &Path) -> Config {
    Config {
        segment_bytes: 256 << 10,
        checkpoint_bytes: 512 << 10,
        ..Config::new(dir)
    }
}

fn put(writer: u64, number: u64) -> Txn {
    let name = format!("w{writer}-{}", number % 300);
    let value = serde_json::json!({
        "metadata": {"name": name},
        "number": number,
        "text": "x".repeat(700),
    });
    let key = Key::new("configmaps", "default", name);
    Txn::put(Draft::new(key, value, Head::default()), Precondition::None)
}

/// The writing process: several writers, each reporting what was acknowledged.
#[test]
fn write_until_killed() {
    let Ok(dir) = std::env::var(TOLD_WHERE) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let store = Store::open(config(Path::new(&dir))).await.expect("opened");
        println!("open {}", store.snapshot().revision());
        let mut writers = Vec::new();
        for writer in 0..4 {
            let store = store.clone();
            writers.push(tokio::spawn(async move {
                for number in store.snapshot().revision().. {
                    match store.propose(put(writer, number)).await.expect("written") {
                        Outcome::Committed { revision, .. } => {
                            let line = format!("did {revision} {writer} {number}\n");
                            std::io::stdout().write_all(line.as_bytes()).expect("reported");
                        }
                        Outcome::Rejected { .. } => panic!("rejected"),
                    }
                }
            }));
        }
        for writer in writers {
            writer.await.expect("never ends by itself");
        }
    });
}

/// What a writer has reported last for each of its objects: revision and number.
type Reported = std::collections::BTreeMap<(u64, u64), (u64, u64)>;

fn run_and_kill(dir: &Path, life: Duration, reported: &mut Reported) -> u64 {
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "write_until_killed", "--nocapture", "--test-threads=1"])
        .env(TOLD_WHERE, dir)
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let reader = std::thread::spawn(move || {
        let mut seen = Vec::new();
        for line in lines {
            let Ok(line) = line else { break };
            seen.push(line);
        }
        seen
    });
    std::thread::sleep(life);
    child.kill().expect("killed");
    let status = child.wait().expect("gone");
    assert_eq!(status.code(), None, "it ended before it was killed");
    let mut opened_at = 0;
    for line in reader.join().expect("read") {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
        match (words[0], number(1), number(2), number(3)) {
            // The test harness writes to the same line before.
            (_, _, _, None) if line.contains("open ") => {
                let text = line.rsplit(' ').next().unwrap_or_default();
                opened_at = text.parse().unwrap_or(0);
            }
            ("did", Some(revision), Some(writer), Some(number)) => {
                reported.insert((writer, number % 300), (revision, number));
            }
            _ => {}
        }
    }
    opened_at
}

#[test]
fn survives_being_killed() {
    if std::env::var(TOLD_WHERE).is_ok() {
        return;
    }
    let temporary = tempfile::tempdir().expect("temporary directory");
    let dir = temporary.path().join("store");
    let mut reported = Reported::new();
    for round in 0..12u64 {
        let newest = reported.values().map(|(revision, _)| *revision).max();
        let life = Duration::from_millis(150 + round * 37 % 200);
        let opened_at = run_and_kill(&dir, life, &mut reported);
        assert!(
            opened_at == 0 || opened_at >= newest.unwrap_or(0),
            "round {round}: opened at revision {opened_at} after {newest:?}"
        );
    }
    assert!(reported.len() > 100, "only {} objects written", reported.len());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let store = Store::open(config(&dir)).await.expect("opened");
        let snapshot = store.snapshot();
        for ((writer, slot), (revision, number)) in &reported {
            let name = format!("w{writer}-{slot}");
            let object = snapshot.find("configmaps", "default", &name);
            let object = object.unwrap_or_else(|| panic!("{name} is lost"));
            assert!(object.revision >= *revision, "{name} went back");
            let kept = object.value()["number"].as_u64();
            assert!(kept >= Some(*number), "{name} holds {kept:?}, not {number}");
        }
        store.shutdown().await;
    });
}

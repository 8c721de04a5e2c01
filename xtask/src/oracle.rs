//! Replays the recorded exchanges with Kubernetes 1.36 (beside the checkout, in `../shared/oracle`) against a
//! fresh `coxswain server --bare`, and holds the result against `e2e/oracle-known-failures.txt`.
//!
//! The list is a ratchet: a case on it that passes, or one off it that fails, is a failure of this stage.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

const READY_WITHIN: Duration = Duration::from_secs(20);

/// How a replay went, held against what is known.
pub struct Report {
    passed: BTreeSet<String>,
    regressions: Vec<String>,
    now_passing: Vec<String>,
    known: BTreeSet<String>,
}

impl Report {
    /// Cases that passed.
    pub fn passed(&self) -> usize {
        self.passed.len()
    }

    /// Cases that differ from what is known, in either direction.
    pub fn failed(&self) -> usize {
        self.regressions.len() + self.now_passing.len()
    }
}

/// Ends the server it holds when it goes out of scope.
struct Server {
    child: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether the recorded cases are beside this checkout; a stranger's clone has none.
pub fn available() -> bool {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../shared/oracle/oracle.py")
        .exists()
}

/// Replays all cases, or those that `only` matches.
pub fn run(only: Option<&str>) -> Result<Report> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("no workspace root")?;
    let oracle = root.join("../shared/oracle");
    if !available() {
        bail!("the recorded cases are not beside this checkout (../shared/oracle)");
    }
    let binary = target_dir(root).join("debug/coxswain");
    let data = std::env::temp_dir().join(format!("coxswain-oracle-{}", std::process::id()));
    let result = replay(&oracle, &binary, &data, only);
    let _ = std::fs::remove_dir_all(&data);
    let mut report = result?;
    let known_path = root.join("e2e/oracle-known-failures.txt");
    let known_text = std::fs::read_to_string(&known_path).unwrap_or_default();
    report.known = known_text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
        .map(str::to_owned)
        .collect();
    report.regressions.retain(|label| !report.known.contains(label));
    report.now_passing = report.passed.intersection(&report.known).cloned().collect();
    for label in &report.regressions {
        println!("oracle: {label} fails and is not a known failure");
    }
    for label in &report.now_passing {
        println!("oracle: {label} passes now: take it off {}", known_path.display());
    }
    Ok(report)
}

fn target_dir(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}

fn replay(oracle: &Path, binary: &Path, data: &Path, only: Option<&str>) -> Result<Report> {
    std::fs::create_dir_all(data)?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let log = std::fs::File::create(data.join("server.log"))?;
    let child = Command::new(binary)
        .args(["server", "--bare", "--listen", &format!("127.0.0.1:{port}")])
        .arg("--data-dir")
        .arg(data.join("data"))
        .arg("--kubeconfig")
        .arg(data.join("kubeconfig"))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .with_context(|| format!("start {}", binary.display()))?;
    let mut server = Server { child };
    wait_ready(&mut server, port)?;
    let pki = data.join("data/pki");
    let mut command = Command::new("python3");
    command
        .arg(oracle.join("oracle.py"))
        .args([
            "replay",
            "-v",
            "--insecure",
            "--jobs",
            "4",
            "--server",
            &format!("https://127.0.0.1:{port}"),
        ])
        .arg("--cert")
        .arg(pki.join("admin.crt"))
        .arg("--key")
        .arg(pki.join("admin.key"));
    if let Some(glob) = only {
        command.args(["--only", glob]);
    }
    let output = command
        .arg(oracle.join("cases"))
        .stderr(Stdio::inherit())
        .output()
        .context("run the replay with python3")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut report = Report {
        passed: BTreeSet::new(),
        regressions: Vec::new(),
        now_passing: Vec::new(),
        known: BTreeSet::new(),
    };
    let mut areas: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for line in text.lines() {
        let (ok, rest) = match (line.strip_prefix("ok   "), line.strip_prefix("FAIL ")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => continue,
        };
        let label = rest.split([' ', ':']).next().unwrap_or(rest).to_owned();
        let area = label.split('/').next().unwrap_or("?").to_owned();
        let count = areas.entry(area).or_default();
        if ok {
            count.0 += 1;
            report.passed.insert(label);
        } else {
            count.1 += 1;
            println!("{line}");
            report.regressions.push(label);
        }
    }
    for (area, (passed, failed)) in &areas {
        println!("oracle: {area:16} {passed:3} of {:3}", passed + failed);
    }
    if areas.is_empty() {
        bail!("the replay ran no case: {text}");
    }
    Ok(report)
}

fn wait_ready(server: &mut Server, port: u16) -> Result<()> {
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Ok(());
        }
        if let Some(status) = server.child.try_wait()? {
            bail!("the server ended at once: {status}");
        }
        if Instant::now() > deadline {
            bail!("the server did not listen within {READY_WITHIN:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

//! What a node does for its pods, with real containers: every case is a pod that tells by its course or by
//! what it prints.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use coxswain_e2e::{Cluster, busybox, eventually, web};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);

fn cluster() -> Result<Cluster> {
    Cluster::up(&[web("nginx:1.19", 80, "welcome\n")?, busybox("busybox:1.35", &["sh"])?])
}

fn apply_file(cluster: &Cluster, path: &Path) -> Result<String> {
    cluster.kubectl(&["apply", "-f", &path.to_string_lossy()])
}

fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node").join(name)
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn restarts(pod: &Value) -> i64 {
    pod.pointer("/status/containerStatuses/0/restartCount")
        .and_then(Value::as_i64)
        .unwrap_or(-1)
}

fn is_ready(pod: &Value) -> bool {
    pod.pointer("/status/containerStatuses/0/ready") == Some(&Value::Bool(true))
}

const MAIN: &str = "/status/containerStatuses/0/state/";
const INIT: &str = "/status/initContainerStatuses/0/state/";

fn waits_for(pod: &Value, list: &str) -> String {
    text(pod, &format!("{list}waiting/reason")).to_string()
}

type Expectation = (&'static str, fn(&Value) -> bool);

/// One list of the pods answers all expectations; each must hold at some time.
fn expect(cluster: &Cluster, expectations: &[Expectation]) -> Result<()> {
    let mut open: Vec<&Expectation> = expectations.iter().collect();
    eventually(SOON, "every pod takes its course", || {
        let pods = cluster.object(&["pods"])?;
        let find = |name: &str| {
            let mut items = pods["items"].as_array().into_iter().flatten();
            items.find(|pod| text(pod, "/metadata/name") == name)
        };
        open.retain(|(name, holds)| !find(name).is_some_and(holds));
        let left: Vec<String> = open
            .iter()
            .map(|(name, _)| format!("{name}: {}", find(name).map_or(&Value::Null, |pod| &pod["status"])))
            .collect();
        ensure!(left.is_empty(), "{}", left.join("\n"));
        Ok(())
    })
}

fn log_is(cluster: &Cluster, pod: &str, expected: &str) -> Result<()> {
    eventually(SOON, pod, || {
        let log = cluster.kubectl(&["logs", pod])?;
        ensure!(log == expected, "{pod} printed {log:?} instead of {expected:?}");
        Ok(())
    })
}

/// Probes, hooks, init containers, sidecars, restart policies, images that are missing, deadlines.
#[test]
fn pods_take_their_course() -> Result<()> {
    let cluster = cluster()?;
    apply_file(&cluster, &here("lives.yaml"))?;
    expect(
        &cluster,
        &[
            ("live-exec", |pod| restarts(pod) >= 1),
            ("ready-http", |pod| is_ready(pod) && restarts(pod) == 0),
            ("never-ready", |pod| {
                text(pod, "/status/phase") == "Running" && !is_ready(pod) && restarts(pod) == 0
            }),
            ("startup-gates", |pod| is_ready(pod) && restarts(pod) == 0),
            ("startup-fails", |pod| restarts(pod) >= 1),
            ("post-start-fails", |pod| text(pod, "/status/phase") == "Failed"),
            ("init-fails", |pod| {
                text(pod, "/status/phase") == "Failed" && waits_for(pod, MAIN) == "PodInitializing"
            }),
            ("init-retries", |pod| {
                text(pod, "/status/phase") == "Pending" && waits_for(pod, INIT) == "CrashLoopBackOff"
            }),
            ("sidecar", |pod| {
                text(pod, "/status/phase") == "Succeeded"
                    && text(pod, &format!("{INIT}terminated/reason")) == "Completed"
            }),
            ("crash", |pod| waits_for(pod, MAIN) == "CrashLoopBackOff"),
            ("on-failure", |pod| {
                text(pod, "/status/phase") == "Succeeded" && restarts(pod) == 0
            }),
            ("last-words", |pod| {
                text(pod, &format!("{MAIN}terminated/message")) == "why\n"
            }),
            ("no-image", |pod| waits_for(pod, MAIN) == "ImagePullBackOff"),
            ("never-pull", |pod| waits_for(pod, MAIN) == "ErrImageNeverPull"),
            ("rejected", |pod| {
                text(pod, "/status/phase") == "Failed" && text(pod, "/status/reason") == "SysctlForbidden"
            }),
            ("deadline", |pod| text(pod, "/status/reason") == "DeadlineExceeded"),
        ],
    )?;
    log_is(&cluster, "post-start", "hooked\n")?;
    log_is(&cluster, "init-order", "a\nb\n")?;
    log_is(&cluster, "sidecar", "first\n")?;
    let last = cluster.kubectl(&["logs", "sidecar", "-c", "side"])?;
    ensure!(last == "last\n", "the sidecar was not asked to end: {last:?}");
    let previous = cluster.try_kubectl(&["logs", "ready-http", "--previous"])?;
    let words = "previous terminated container \"c\" in pod \"ready-http\" not found";
    ensure!(previous.stderr.contains(words), "{previous:?}");
    Ok(())
}

/// Volumes, environment, identities and names, as the containers see them.
#[test]
fn containers_see_what_their_pod_says() -> Result<()> {
    let cluster = cluster()?;
    apply_file(&cluster, &here("prints.yaml"))?;
    let table = [
        (
            "volumes",
            "first\nsecond\n440\n400\n0\n5120\nxyzzy\nred\n250\n1\nkept\nnamed\nfirst",
        ),
        ("environment", "second! second! $(A) $(NOPE)\nfirst xyzzy 64 default\n"),
        (
            "security",
            "uid=1001 gid=2000 groups=2000,3000,4000\ntouch: /file: Read-only file system\n2777 3000\n0\n\
             CapEff:0000000000000000\nNoNewPrivs:1\nSeccomp:2\n",
        ),
        (
            "names",
            "host.sub.default.svc.cluster.local\n192.0.2.1\talias\nsearch example.test\nnameserver 192.0.2.53\n\
             options ndots:3\n",
        ),
    ];
    for (pod, expected) in table {
        log_is(&cluster, pod, expected)?;
    }
    Ok(())
}

const SUBJECT: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: live}
data: {key: old}
---
apiVersion: v1
kind: Pod
metadata: {name: subject}
spec:
  terminationGracePeriodSeconds: 3600
  volumes: [{name: live, configMap: {name: live}}]
  containers:
    - name: c
      image: busybox:1.35
      command: [sh, -c, "trap 'exit 0' TERM; while true; do sleep 0.1; done"]
      resources: {requests: {cpu: 100m, memory: 32Mi}, limits: {cpu: 200m, memory: 64Mi}}
      volumeMounts: [{name: live, mountPath: /live}]
      lifecycle: {preStop: {exec: {command: [sh, -c, "echo goodbye > /proc/1/fd/1"]}}}
---
apiVersion: v1
kind: Pod
metadata: {name: listener}
spec:
  restartPolicy: Never
  containers: [{name: c, image: "busybox:1.35", command: [sh, -c, "cat; echo the end"], stdin: true, stdinOnce: true}]
"#;

/// What changes while a container runs: files, resources, debug containers, input, and the end.
#[test]
fn running_pods_can_be_worked_with() -> Result<()> {
    let cluster = cluster()?;
    let file = cluster.data_dir().join("subject.yaml");
    std::fs::write(&file, SUBJECT)?;
    apply_file(&cluster, &file)?;
    cluster.kubectl(&[
        "wait",
        "--for=condition=Ready",
        "pod/subject",
        "pod/listener",
        "--timeout=60s",
    ])?;

    cluster.kubectl(&["patch", "configmap", "live", "-p", r#"{"data":{"key":"new"}}"#])?;
    eventually(SOON, "the changed file", || {
        let seen = cluster.kubectl(&["exec", "subject", "--", "cat", "/live/key"])?;
        ensure!(seen == "new", "{seen}");
        Ok(())
    })?;

    let wanted = r#"{"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"150m"},"limits":{"cpu":"300m","memory":"96Mi"}}}]}}"#;
    cluster.kubectl(&["patch", "pod", "subject", "--subresource", "resize", "-p", wanted])?;
    eventually(SOON, "the new limits", || {
        let pod = cluster.object(&["pod", "subject"])?;
        let given = text(&pod, "/status/containerStatuses/0/resources/limits/memory").to_string();
        ensure!(given == "96Mi" && restarts(&pod) == 0, "{}", pod["status"]);
        Ok(())
    })?;
    let read = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max";
    let limit = cluster.kubectl(&["exec", "subject", "--", "sh", "-c", read])?;
    ensure!(limit.trim() == (96 << 20).to_string(), "the kernel's limit is {limit}");

    cluster.kubectl(&[
        "debug",
        "subject",
        "--image=busybox:1.35",
        "--target=c",
        "-c",
        "look",
        "--",
        "ps",
    ])?;
    eventually(SOON, "the debug container's log", || {
        let seen = cluster.kubectl(&["logs", "subject", "-c", "look"])?;
        ensure!(seen.contains("trap"), "the target's processes are not there: {seen}");
        Ok(())
    })?;

    end_of_input(&cluster)?;
    goodbye(&cluster)
}

/// The end of kubectl's input reaches the container, whose output still arrives.
fn end_of_input(cluster: &Cluster) -> Result<()> {
    let mut attach = cluster
        .command(Path::new("kubectl"))
        .args(["attach", "-i", "listener"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    attach.stdin.take().context("no input")?.write_all(b"one\ntwo\n")?;
    log_is(cluster, "listener", "one\ntwo\nthe end\n")?;
    attach.wait()?;
    Ok(())
}

/// The preStop hook runs before the container is asked to end; the grace is not waited for.
fn goodbye(cluster: &Cluster) -> Result<()> {
    let follow = cluster
        .command(Path::new("kubectl"))
        .args(["logs", "-f", "subject", "-c", "c"])
        .stdout(Stdio::piped())
        .spawn()?;
    cluster.kubectl(&["delete", "pod", "subject"])?;
    let log = String::from_utf8_lossy(&follow.wait_with_output()?.stdout).into_owned();
    ensure!(log == "goodbye\n", "{log}");
    Ok(())
}

fn waits(pod: &Value, container: &str) -> String {
    let statuses = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    let mut of_name = statuses.filter(|status| text(status, "/name") == container);
    let state = of_name.next().map(|status| &status["state"]["waiting"]);
    state.map_or_else(String::new, |waiting| {
        format!("{}: {}", text(waiting, "/reason"), text(waiting, "/message"))
    })
}

fn mounts_below(directory: &Path) -> Result<Vec<String>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let directory = format!("{}/agent/", directory.display());
    Ok(table
        .lines()
        .filter(|line| line.contains(&directory))
        .map(str::to_owned)
        .collect())
}

/// Pods that try to get out of their containers, or ask for what the node cannot enforce: nothing comes of it, the pod
/// says why, and nothing is left on the node, also after the agent was killed.
#[test]
fn hostile_pods_get_nowhere() -> Result<()> {
    let mut cluster = cluster()?;
    apply_file(&cluster, &here("hostile.yaml"))?;
    log_is(&cluster, "masked", "checked\n")?;
    log_is(&cluster, "privileged", "unmasked\n")?;
    expect(
        &cluster,
        &[
            ("parts", |pod| {
                let refused = |container, why: &str| {
                    let words =
                        format!("CreateContainerConfigError: failed to {why} for volumeMount \"v\" of container ");
                    waits(pod, container) == format!("{words}\"{container}\"")
                };
                refused("out", "prepare subPath") && refused("up", "create subPath directory")
            }),
            ("log-link", is_ready),
            ("strict-groups", |pod| {
                text(pod, "/status/reason") == "SupplementalGroupsPolicyNotSupported"
            }),
            ("recursive", |pod| {
                waits(pod, "c").contains("requested recursive read-only mode, but it is not supported by the runtime")
            }),
        ],
    )?;
    ensure!(
        !Path::new("/made-by-a-pod").exists(),
        "a pod made a directory on the node"
    );
    eventually(SOON, "the parts of the volume", || {
        let log = cluster.kubectl(&["logs", "parts", "-c", "inside"])?;
        ensure!(log == "text\n/new\nkeptkept\n", "{log}");
        Ok(())
    })?;
    let log = cluster.try_kubectl(&["logs", "log-link"])?;
    ensure!(
        !format!("{log:?}").contains("root:"),
        "a log led to the node's files: {log:?}"
    );
    eventually(SOON, "the reason why a pod has no sandbox", || {
        let events = cluster.kubectl(&["get", "events", "--field-selector", "involvedObject.name=own-users"])?;
        let words =
            "Failed to create pod sandbox: can't set `spec.hostUsers: false`, runtime does not support user namespaces";
        ensure!(events.contains(words), "{events}");
        Ok(())
    })?;
    let data_dir = std::fs::canonicalize(cluster.data_dir())?;
    let mounted = |mounts: Vec<String>| mounts.iter().any(|mount| mount.contains("volume-subpaths"));
    ensure!(mounted(mounts_below(&data_dir)?), "parts of volumes are mounted");
    cluster.crash()?;
    cluster.start()?;
    cluster.kubectl(&["delete", "pod", "parts", "log-link", "--timeout=60s"])?;
    eventually(SOON, "no mounts of parts of volumes", || {
        let left = mounts_below(&data_dir)?;
        ensure!(!left.iter().any(|mount| mount.contains("volume-subpaths")), "{left:#?}");
        Ok(())
    })?;
    cluster.kubectl(&["delete", "pods", "--all", "--wait=false"])?;
    apply_file(&cluster, &here("hostile.yaml"))?;
    eventually(SOON, "mounted parts again", || {
        ensure!(mounted(mounts_below(&data_dir)?));
        Ok(())
    })?;
    cluster.crash()?;
    cluster.down(true)?;
    let left = mounts_below(&data_dir)?;
    ensure!(left.is_empty(), "mounts are left: {left:#?}");
    ensure!(!data_dir.join("agent").exists(), "the agent's directory is left");
    Ok(())
}

/// Bytes of memory that a process holds.
fn memory(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line
        .and_then(|line| line.split_whitespace().next())
        .context("no VmRSS")?;
    Ok(kib.parse::<u64>()? << 10)
}

/// Probes, logs, last words and commands without measure: the pod's own outcome is right, and the node's memory stays.
#[test]
fn floods_cost_the_node_no_memory() -> Result<()> {
    const GROWTH_MAX: u64 = 96 << 20;
    let cluster = cluster()?;
    let pid = cluster.pid().context("not running")?;
    let before = memory(pid)?;
    apply_file(&cluster, &here("floods.yaml"))?;
    expect(
        &cluster,
        &[
            ("endless-probe", |pod| restarts(pod) >= 1),
            ("long-probe", is_ready),
            ("failing-probe", |pod| {
                text(pod, "/status/phase") == "Running" && !is_ready(pod) && restarts(pod) == 0
            }),
            ("endless-body", is_ready),
            ("long-line", |pod| text(pod, "/status/phase") == "Succeeded"),
            ("long-words", |pod| {
                let message = text(pod, &format!("{MAIN}terminated/message"));
                !message.is_empty() && message.len() <= 4096
            }),
            ("idle", is_ready),
        ],
    )?;
    eventually(SOON, "the event of a failing probe", || {
        let events = cluster.object(&[
            "events",
            "--field-selector",
            "involvedObject.name=failing-probe,reason=Unhealthy",
        ])?;
        let message = text(&events, "/items/0/message");
        let words = "Readiness probe failed: words\nwords\n";
        ensure!(
            message.starts_with(words) && message.len() <= 1024,
            "{} bytes: {message:.100}",
            message.len()
        );
        Ok(())
    })?;
    let last = cluster.kubectl(&["logs", "long-line", "--tail=1"])?;
    ensure!(last == "after\n", "{last:?}");

    // A client that asks for output without end and does not read it.
    let mut readers = Vec::new();
    for _ in 0..4 {
        let reader = cluster
            .command(Path::new("kubectl"))
            .args(["exec", "idle", "--", "yes", "nobody reads this"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        readers.push(reader);
    }
    let mut largest = 0;
    for _ in 0..30 {
        largest = memory(pid)?.max(largest);
        std::thread::sleep(Duration::from_millis(100));
    }
    for mut reader in readers {
        reader.kill()?;
        reader.wait()?;
    }
    eventually(SOON, "no command whose client left", || {
        let processes = cluster.kubectl(&["exec", "idle", "--", "ps"])?;
        ensure!(!processes.contains("nobody reads"), "{processes}");
        Ok(())
    })?;
    ensure!(
        largest < before + GROWTH_MAX,
        "{before} bytes before, {largest} at most"
    );
    println!("{before} bytes before, {largest} at most");
    Ok(())
}

/// Every example works as it is.
#[test]
fn every_example_runs() -> Result<()> {
    let cluster = Cluster::up(&[])?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/examples");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.sort();
    ensure!(!files.is_empty(), "{} is empty", folder.display());
    for file in &files {
        apply_file(&cluster, file)?;
    }
    eventually(SOON, "every example's pods", || {
        let pods = cluster.object(&["pods", "--all-namespaces"])?;
        let items = pods["items"].as_array().context("no list")?;
        ensure!(!items.is_empty());
        for pod in items {
            let fine = is_ready(pod) || text(pod, "/status/phase") == "Succeeded";
            ensure!(fine, "{}: {}", text(pod, "/metadata/name"), pod["status"]);
        }
        Ok(())
    })
}

//! Kubernetes' conformance descriptions of `[sig-cli]`, and kubectl's commands that need containers, each with an
//! unmodified kubectl. What needs none is in `kubectl.rs`.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use coxswain_e2e::script::{Step, kubectl_minor, play};
use coxswain_e2e::{Cluster, busybox, eventually, web};

const SOON: Duration = Duration::from_secs(30);

/// The descriptions, by their names, but for those of the proxy and of `replace`, which are functions below.
const DESCRIPTIONS: &[(&str, &[Step])] = &[
    (
        "Guestbook, application",
        &[
            ("deployment.apps/frontend created", "create -f FILES/guestbook.yaml"),
            ("successfully rolled out", "rollout status deployment/primary"),
            ("successfully rolled out", "rollout status deployment/replica"),
            ("successfully rolled out", "rollout status deployment/frontend"),
            (
                "nothing yet",
                "get --raw /api/v1/namespaces/default/services/frontend/proxy/cgi-bin/frontend",
            ),
            (
                "kept",
                "get --raw /api/v1/namespaces/default/services/frontend/proxy/cgi-bin/frontend?set=TestEntry",
            ),
            (
                "TestEntry",
                "get --raw /api/v1/namespaces/default/services/frontend/proxy/cgi-bin/frontend",
            ),
            (
                "deployment.apps \"frontend\" force deleted",
                "delete --grace-period=0 --force -f FILES/guestbook.yaml",
            ),
            (
                "No resources found",
                "get deployments,services,pods -l app=guestbook --no-headers",
            ),
        ],
    ),
    ("Kubectl, check version v1", &[("apps/v1\n|\nv1\n", "api-versions")]),
    (
        "Kubectl, cluster info",
        &[("control plane|is running at", "cluster-info")],
    ),
    (
        "Kubectl, describe pod or rc",
        &[
            (
                "replicationcontroller/primary created|service/primary created",
                "create -f FILES/primary.yaml",
            ),
            ("1/1|Running", "get pods -l app=primary"),
            (
                "Name:|Namespace:|Image:|IP:|Status:|Running|Controlled By:|ReplicationController/primary|Node:",
                "describe pod POD",
            ),
            (
                "Name:|Namespace:|Selector:|Labels:|1 current|1 desired|1 Running|Pod Template:|Image:|Created pod:",
                "describe rc primary",
            ),
            (
                "Type:|ClusterIP|IP:|Port:|80/TCP|Endpoints:|Session Affinity:",
                "describe service primary",
            ),
            (
                "Name:|Labels:|Annotations:|CreationTimestamp:|Conditions:|MemoryPressure|Addresses:|Capacity:|Version|Pods",
                "describe nodes",
            ),
            (
                "Name:|Labels:|Annotations:|Status:|Active",
                "describe namespace default",
            ),
        ],
    ),
    (
        "Kubectl, diff Deployment",
        &[
            (
                "deployment.apps/differs created",
                "create deployment differs --image=nginx:1.19 --replicas=0",
            ),
            (
                "-      - image: nginx:1.19|+      - image: busybox:1.35",
                "! diff -f FILES/deployment.yaml",
            ),
        ],
    ),
    (
        "Kubectl, create service, replication controller",
        &[
            (
                "service/second exposed",
                "expose rc primary --name=second --port=1234 --target-port=80",
            ),
            (
                "service/third exposed",
                "expose service second --name=third --port=2345 --target-port=80",
            ),
            (
                "1234/80",
                "get service second -o jsonpath={.spec.ports[0].port}/{.spec.ports[0].targetPort}",
            ),
            (
                "2345/80",
                "get service third -o jsonpath={.spec.ports[0].port}/{.spec.ports[0].targetPort}",
            ),
            (":80", "get endpoints third"),
            (
                "welcome",
                "get --raw /api/v1/namespaces/default/services/third:2345/proxy/",
            ),
        ],
    ),
    (
        "Kubectl, label update",
        &[
            ("labeled", "label pods POD testing-label=testing-label-value"),
            ("testing-label-value", "get pod POD -L testing-label"),
            ("1/1", "get pods -l testing-label=testing-label-value"),
            ("labeled", "label pods POD testing-label-"),
            ("No resources found", "get pods -l testing-label"),
        ],
    ),
    (
        "Kubectl, patch to annotate",
        &[
            (
                "patched",
                "patch pod POD -p {\"metadata\":{\"annotations\":{\"x\":\"y\"}}}",
            ),
            (
                "y",
                "get pods -l app=primary -o jsonpath={.items[*].metadata.annotations.x}",
            ),
        ],
    ),
    (
        "Kubectl, run pod",
        &[
            (
                "pod/e2e-test-httpd created",
                "run e2e-test-httpd --restart=Never --image=nginx:1.19 --labels=run=httpd",
            ),
            (
                "nginx:1.19",
                "get pod e2e-test-httpd -o jsonpath={.spec.containers[*].image}",
            ),
        ],
    ),
    (
        "Kubectl, server-side dry-run Pod",
        &[
            (
                "patched",
                "patch pod e2e-test-httpd --dry-run=server -p {\"spec\":{\"containers\":[{\"name\":\"e2e-test-httpd\",\"image\":\"busybox:1.35\"}]}}",
            ),
            (
                "nginx:1.19",
                "get pod e2e-test-httpd -o jsonpath={.spec.containers[*].image}",
            ),
            ("deleted", "delete pod e2e-test-httpd --now"),
        ],
    ),
    (
        "Kubectl, version",
        &[("Client Version: |Server Version: |1.36", "version")],
    ),
    (
        "Kubectl, replication controller; Kubectl, scale replication controller",
        &[
            ("scaled", "scale rc primary --replicas=2 --timeout=1m"),
            (
                "2/2",
                "get rc primary -o jsonpath={.status.replicas}/{.status.readyReplicas}",
            ),
            ("scaled", "scale rc primary --replicas=1 --timeout=1m"),
            (
                "1/1",
                "get rc primary -o jsonpath={.status.replicas}/{.status.readyReplicas}",
            ),
            ("scaled", "scale rc primary --current-replicas=1 --replicas=2"),
            (
                "2/2",
                "get rc primary -o jsonpath={.status.replicas}/{.status.readyReplicas}",
            ),
            (
                "Expected replicas to be 9, was 2",
                "! scale rc primary --current-replicas=9 --replicas=1",
            ),
            ("deleted", "delete rc primary --cascade=foreground"),
            ("No resources found", "get rc,pods -l app=primary --no-headers"),
        ],
    ),
    (
        "Kubectl, logs",
        &[
            ("pod/writer created", "create -f FILES/pods.yaml"),
            ("line 1\n|line 20\n", "logs writer main"),
            ("line 20\n", "logs writer --tail=1"),
            ("l", "logs writer --limit-bytes=1"),
            ("Z line 20\n", "logs writer --tail=1 --timestamps"),
            ("line 1\n|line 20\n", "logs writer --since=24h"),
        ],
    ),
];

const COMMANDS: &[Step] = &[
    ("condition met", "wait pod/shell --for=condition=Ready --timeout=60s"),
    ("in second", "logs shell -c second"),
    ("from before", "logs shell -c before"),
    (
        "[pod/shell/before] from before|[pod/shell/first] in first|[pod/shell/second] in second",
        "logs -l app=shell --all-containers --prefix --tail=1",
    ),
    ("is not valid for pod shell", "! logs shell -c nosuch"),
    ("an earlier life", "logs again --previous"),
    (
        "previous terminated container \"main\" in pod \"writer\" not found",
        "! logs writer --previous",
    ),
    ("hi", "exec shell -c second -- echo hi"),
    (
        "command terminated with exit code 7",
        "! exec shell -c second -- sh -c exit${IFS}7",
    ),
    (
        "container nosuch is not valid for pod shell",
        "! exec shell -c nosuch -- true",
    ),
    ("executable file not found in $PATH", "! exec shell -c first -- nosuch"),
    ("", "cp FILES/pods.yaml shell:/tmp/copied -c second"),
    ("kind: Pod", "exec shell -c second -- cat /tmp/copied"),
    // What has ended before kubectl attaches to it is shown by its log.
    (
        "hello|deleted",
        "run once --rm -i --image=busybox:1.35 --restart=Never -- echo hello",
    ),
    (
        "deployment.apps/web created",
        "create deployment web --image=nginx:1.19 --port=80 --replicas=2",
    ),
    ("successfully rolled out", "rollout status deployment/web"),
    ("service/web exposed", "expose deployment web"),
    (
        "dial tcp 10.244.|connect: connection refused",
        "! get --raw /api/v1/namespaces/default/pods/shell:81/proxy/",
    ),
    (
        "Upgrade request required",
        "! get --raw /api/v1/namespaces/default/pods/shell/portforward",
    ),
    ("image updated", "set image deployment/web nginx=nginx:1.20"),
    ("successfully rolled out", "rollout status deployment/web"),
    ("rolled back", "rollout undo deployment/web"),
    ("successfully rolled out", "rollout status deployment/web"),
    ("in first", "cluster-info dump"),
    (
        "pod/again evicted",
        "drain -l kubernetes.io/os=linux --ignore-daemonsets --force --pod-selector=app=again",
    ),
    ("SchedulingDisabled", "get nodes"),
    ("uncordoned", "uncordon -l kubernetes.io/os=linux"),
];

/// Commands that Debian's old kubectl does not have.
const SINCE_1_31: &[Step] = &[
    (
        "evicting pod default/shell (server dry run)",
        "drain -l kubernetes.io/os=linux --ignore-daemonsets --force --dry-run=server --pod-selector=app=shell",
    ),
    ("condition met", "wait pod/shell --for=jsonpath={.status.phase}=Running"),
    (
        "Targeting container",
        "debug shell --image=busybox:1.35 --target=second -c debugger -- echo beside it",
    ),
    ("beside it", "logs shell -c debugger"),
    (
        "",
        "debug shell --copy-to=copied --container=second -- sh -c echo${IFS}in${IFS}the${IFS}copy",
    ),
    ("in the copy", "logs copied -c second"),
    (
        "patched",
        "patch pod shell --subresource=resize -p {\"spec\":{\"containers\":[{\"name\":\"second\",\"resources\":{\"requests\":{\"cpu\":\"2m\"}}}]}}",
    ),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli")
}

fn cluster() -> Result<Cluster> {
    Cluster::up(&[
        web("nginx:1.19", 80, "welcome from nginx 1.19\n")?,
        web("nginx:1.20", 80, "welcome from nginx 1.20\n")?,
        busybox("busybox:1.35", &["sh"])?,
    ])
}

#[test]
fn the_descriptions_hold_and_commands_reach_containers() -> Result<()> {
    let Some(minor) = kubectl_minor()? else {
        println!("skipped: kubectl is not installed");
        return Ok(());
    };
    let cluster = cluster()?;
    let kubectl = || {
        let mut command = cluster.command(Path::new("timeout"));
        command.args(["120", "kubectl"]);
        command
    };
    for (name, steps) in DESCRIPTIONS {
        play(&kubectl, &folder(), steps).with_context(|| format!("{name}, kubectl 1.{minor}"))?;
    }
    let newer = if minor >= 31 { SINCE_1_31 } else { &[] };
    play(&kubectl, &folder(), &[COMMANDS, newer].concat()).with_context(|| format!("kubectl 1.{minor}"))?;
    replace(&cluster)?;
    proxy(&cluster)?;
    ports(&cluster)?;
    attach(&cluster)
}

/// "Kubectl, replace": a running pod gets another image.
fn replace(cluster: &Cluster) -> Result<()> {
    let file = cluster.data_dir().join("replaced.json");
    cluster.kubectl(&["run", "replaced", "--image=nginx:1.19"])?;
    cluster.kubectl(&["wait", "pod/replaced", "--for=condition=Ready", "--timeout=60s"])?;
    // Somebody else may write the status between the two.
    eventually(SOON, "the pod is replaced", || {
        let pod = cluster.kubectl(&["get", "pod", "replaced", "-o", "json"])?;
        std::fs::write(&file, pod.replace("nginx:1.19", "nginx:1.20"))?;
        cluster.kubectl(&["replace", "-f", &file.to_string_lossy()])
    })?;
    let pod = cluster.object(&["pod", "replaced"])?;
    ensure!(pod["spec"]["containers"][0]["image"] == "nginx:1.20", "{}", pod["spec"]);
    Ok(())
}

/// A kubectl that goes on: its first line, and the rest of its output, which must be able to come.
struct Running {
    child: Child,
    line: String,
    _output: BufReader<ChildStdout>,
}

impl Running {
    fn start(cluster: &Cluster, arguments: &[&str]) -> Result<Self> {
        let mut command: Command = cluster.kubectl_command();
        let mut child = command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut output = BufReader::new(child.stdout.take().context("no output")?);
        let mut line = String::new();
        output.read_line(&mut line)?;
        Ok(Self {
            child,
            line,
            _output: output,
        })
    }

    /// The address in it.
    fn address(&self) -> Result<&str> {
        let at = self.line.find("127.0.0.1:").with_context(|| self.line.clone())?;
        Ok(self.line[at..].split_whitespace().next().unwrap_or_default())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// "Kubectl, proxy port zero" and "Kubectl, proxy socket".
fn proxy(cluster: &Cluster) -> Result<()> {
    let on_port = Running::start(cluster, &["proxy", "--port=0"])?;
    let versions = cluster.fetch(&format!("http://{}/api/", on_port.address()?))?;
    ensure!(versions.contains("\"v1\""), "{versions}");
    let socket = cluster.data_dir().join("proxy.sock");
    let _on_socket = Running::start(cluster, &["proxy", &format!("--unix-socket={}", socket.display())])?;
    let output = Command::new("curl")
        .args(["-sS", "--fail", "--unix-socket"])
        .arg(&socket)
        .arg("http://localhost/api/")
        .output()?;
    let versions = String::from_utf8_lossy(&output.stdout);
    ensure!(versions.contains("\"v1\""), "{versions}");
    Ok(())
}

/// Ports of pods, and of what leads to pods.
fn ports(cluster: &Cluster) -> Result<()> {
    for target in ["pod/replaced", "service/web", "deployment/web"] {
        let forwarding = Running::start(cluster, &["port-forward", target, ":80"])?;
        let page = cluster.fetch(&format!("http://{}/", forwarding.address()?))?;
        ensure!(page.contains("welcome from nginx"), "{target}: {page}");
    }
    Ok(())
}

/// What is typed into a pod that was just made comes back from it, and the pod goes with the client.
fn attach(cluster: &Cluster) -> Result<()> {
    let mut command = cluster.kubectl_command();
    command.args([
        "run",
        "typed",
        "--rm",
        "-i",
        "--image=busybox:1.35",
        "--restart=Never",
        "--",
        "cat",
    ]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().context("no input")?.write_all(b"typed\n")?;
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success() && text.contains("typed\n"), "{text}");
    ensure!(text.contains("pod \"typed\" deleted"), "{text}");
    Ok(())
}

//! A stranger's first hour, with real containers and an unmodified kubectl.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use coxswain_bench::http::Connection;
use coxswain_bench::objects::{Kind, Template};
use coxswain_bench::target::Target;
use coxswain_e2e::{Cluster, busybox, eventually, web, workloads};

const SOON: Duration = Duration::from_secs(30);

fn images() -> Result<Vec<coxswain_oci::Image>> {
    Ok(vec![
        web("nginx:1.19", 80, "welcome from nginx 1.19\n")?,
        web("nginx:1.20", 80, "welcome from nginx 1.20\n")?,
        web("myasyncapp:latest", 8000, "hello from myasyncapp\n")?,
        web("mydockerhubuser/myasyncapp:latest", 8000, "hello from myasyncapp\n")?,
        busybox("busybox:1.35", &["sh"])?,
    ])
}

fn apply_text(cluster: &Cluster, text: &str) -> Result<String> {
    let file = cluster.data_dir().join("test.yaml");
    std::fs::write(&file, text)?;
    cluster.kubectl(&["apply", "-f", &file.to_string_lossy()])
}

fn rolled_out(cluster: &Cluster, deployment: &str) -> Result<()> {
    cluster
        .kubectl(&["rollout", "status", deployment, "--timeout=90s"])
        .map(drop)
}

/// The published manifests, unchanged, with both clients, and the commands that go with them.
#[test]
fn published_workloads_run_unchanged() -> Result<()> {
    let Some(folder) = workloads() else {
        println!("skipped: the published manifests are not beside this checkout");
        return Ok(());
    };
    let cluster = Cluster::up(&images()?)?;
    let file = |name: &str| folder.join(name).to_string_lossy().into_owned();
    for name in [
        "app/secret.yaml",
        "app/deployment-secret-refs.yaml",
        "app/service-loadbalancer.yaml",
    ] {
        cluster.kubectl(&["apply", "-f", &file(name)])?;
    }
    rolled_out(&cluster, "deployment/myasyncapp-deployment")?;
    let address = eventually(SOON, "a load balancer address", || {
        let service = cluster.object(&["service", "myasyncapp-service"])?;
        service["status"]["loadBalancer"]["ingress"][0]["ip"]
            .as_str()
            .map(str::to_owned)
            .context("none yet")
    })?;
    let page = eventually(SOON, "a page through the load balancer", || {
        cluster.fetch(&format!("http://{address}:80/"))
    })?;
    ensure!(page.contains("hello from myasyncapp"), "{page}");
    for name in ["app/deployment-env.yaml", "app/deployment-zone-spread.yaml"] {
        cluster.ctl(&["apply", "--force-conflicts", "-f", &file(name)])?;
        rolled_out(&cluster, "deployment/myasyncapp-deployment")?;
    }
    for name in [
        "pod",
        "replicaset",
        "deployment",
        "service-clusterip",
        "configmap",
        "secret",
        "service-blue-green",
    ] {
        cluster.ctl(&["apply", "--detach", "-f", &file(&format!("web/{name}.yaml"))])?;
        cluster.kubectl(&["apply", "-f", &file(&format!("web/{name}.yaml"))])?;
    }
    rolled_out(&cluster, "deployment/web-deployment")?;
    cluster.kubectl(&["scale", "deployment/web-deployment", "--replicas=5"])?;
    rolled_out(&cluster, "deployment/web-deployment")?;
    cluster.ctl(&["set", "image", "deployment/web-deployment", "nginx=nginx:1.20"])?;
    rolled_out(&cluster, "deployment/web-deployment")?;
    let history = cluster.kubectl(&["rollout", "history", "deployment/web-deployment"])?;
    ensure!(history.contains("REVISION") && history.contains('2'), "{history}");
    cluster.kubectl(&["rollout", "undo", "deployment/web-deployment"])?;
    rolled_out(&cluster, "deployment/web-deployment")?;
    let image = cluster.kubectl(&[
        "get",
        "deployment",
        "web-deployment",
        "-o",
        "jsonpath={.spec.template.spec.containers[0].image}",
    ])?;
    ensure!(image == "nginx:1.19", "{image}");
    for client in [Cluster::kubectl, Cluster::ctl] {
        let secret = client(
            &cluster,
            &["get", "secret", "app-secrets", "-o", "jsonpath={.data.db_password}"],
        )?;
        ensure!(secret == "cGFzc3dvcmQ=", "{secret}");
    }
    Ok(())
}

/// kubectl's everyday commands against a pod that is there for it.
#[test]
fn kubectl_talks_to_running_containers() -> Result<()> {
    let cluster = Cluster::up(&images()?)?;
    apply_text(
        &cluster,
        "apiVersion: v1\nkind: Pod\nmetadata: {name: shell, labels: {app: shell}}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
         containers:\n  - name: c\n    image: busybox:1.35\n    command: [sh, -c, 'echo first line; sleep 0.3; echo second line >&2; sleep 1000']\n",
    )?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/shell", "--timeout=60s"])?;
    let logs = eventually(SOON, "the log", || {
        let logs = cluster.kubectl(&["logs", "shell"])?;
        ensure!(logs.lines().count() == 2, "{logs}");
        Ok(logs)
    })?;
    ensure!(logs == "first line\nsecond line\n", "{logs}");
    for client in [Cluster::kubectl, Cluster::ctl] {
        ensure!(client(&cluster, &["logs", "--tail=1", "shell"])? == "second line\n");
        let out = client(&cluster, &["exec", "shell", "--", "sh", "-c", "echo $((6*7))"])?;
        ensure!(out == "42\n", "{out}");
        let listed = client(&cluster, &["get", "pods"])?;
        ensure!(
            listed.starts_with("NAME    READY   STATUS    RESTARTS   AGE\nshell   1/1     Running   0"),
            "{listed}"
        );
        let described = client(&cluster, &["describe", "pod", "shell"])?;
        ensure!(
            ["Successfully assigned default/shell", "Started", "busybox:1.35"]
                .iter()
                .all(|w| described.contains(w)),
            "{described}"
        );
    }
    let failing = cluster.try_kubectl(&["exec", "shell", "--", "sh", "-c", "exit 3"])?;
    ensure!(!failing.ok && failing.stderr.contains("exit code 3"), "{failing:?}");
    let source = cluster.data_dir().join("to-copy.txt");
    std::fs::write(&source, "copied\n")?;
    for (number, client) in [Cluster::kubectl, Cluster::ctl].into_iter().enumerate() {
        let inside = format!("/tmp/copy-{number}");
        client(&cluster, &["cp", &source.to_string_lossy(), &format!("shell:{inside}")])?;
        ensure!(cluster.kubectl(&["exec", "shell", "--", "cat", &inside])? == "copied\n");
        large_files_travel(&cluster, client, &inside)?;
    }
    for program in [cluster.kubectl_command(), cluster.ctl_command()?] {
        converse(program)?;
    }
    let explained = cluster.kubectl(&["explain", "pod.spec.containers.image"])?;
    // kubectl 1.20 pads the name.
    ensure!(
        explained.contains("FIELD:") && explained.contains("image <string>"),
        "{explained}"
    );
    let resources = cluster.kubectl(&["api-resources"])?;
    ensure!(
        resources.contains("deployments") && resources.contains("deploy "),
        "{resources}"
    );
    cluster.kubectl(&["delete", "pod", "shell"])?;
    Ok(())
}

/// More than any pipe or window holds, in both directions.
fn large_files_travel(cluster: &Cluster, client: fn(&Cluster, &[&str]) -> Result<String>, inside: &str) -> Result<()> {
    let (there, back) = (cluster.data_dir().join("large"), cluster.data_dir().join("large-back"));
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    std::fs::write(&there, &bytes)?;
    let inside = format!("shell:{inside}-large");
    client(cluster, &["cp", &there.to_string_lossy(), &inside])?;
    client(cluster, &["cp", &inside, &back.to_string_lossy()])?;
    ensure!(std::fs::read(&back)? == bytes, "what came back is not what was sent");
    Ok(())
}

/// An exec session answers while it runs: a line goes in, its echo comes out, and the end of the input ends it.
fn converse(mut client: Command) -> Result<()> {
    let mut session = client
        .args(["exec", "-i", "shell", "--", "sh", "-c", "echo ready; cat; exit 4"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let (stdin, stdout) = (session.stdin.take(), session.stdout.take());
    let (mut stdin, stdout) = (stdin.context("no input")?, stdout.context("no output")?);
    let (line, lines) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        for text in BufReader::new(stdout).lines().map_while(Result::ok) {
            let _ = line.send(text);
        }
    });
    let talked = (|| {
        ensure!(lines.recv_timeout(SOON)? == "ready");
        for said in ["first", "second"] {
            writeln!(stdin, "{said}")?;
            ensure!(lines.recv_timeout(SOON)? == said);
        }
        Ok(())
    })();
    drop(stdin);
    if talked.is_err() {
        let _ = session.kill();
    }
    let status = session.wait()?;
    let _ = reader.join();
    talked?;
    ensure!(status.code() == Some(4), "{status}");
    Ok(())
}

/// Names resolve, Services answer, from pods and from the machine.
#[test]
fn services_and_names_work() -> Result<()> {
    let cluster = Cluster::up(&images()?)?;
    cluster.kubectl(&["create", "deployment", "web", "--image=nginx:1.19", "--replicas=2"])?;
    cluster.kubectl(&["expose", "deployment", "web", "--port=80", "--type=NodePort"])?;
    rolled_out(&cluster, "deployment/web")?;
    let service = cluster.object(&["service", "web"])?;
    let cluster_ip = service["spec"]["clusterIP"].as_str().context("no cluster address")?;
    let node_port = service["spec"]["ports"][0]["nodePort"]
        .as_u64()
        .context("no node port")?;
    let nodes = cluster.object(&["nodes"])?;
    let node = nodes["items"][0]["status"]["addresses"][0]["address"]
        .as_str()
        .context("no node address")?;
    for url in [format!("http://{cluster_ip}/"), format!("http://{node}:{node_port}/")] {
        let page = eventually(SOON, &url, || cluster.fetch(&url))?;
        ensure!(page.contains("welcome from nginx"), "{page}");
    }
    let script = "wget -qO- http://web.default.svc.cluster.local/ && wget -qO- http://web/ && nslookup kubernetes.default.svc.cluster.local";
    apply_text(
        &cluster,
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: client}}\nspec:\n  restartPolicy: Never\n  containers:\n  - name: c\n    \
             image: busybox:1.35\n    command: [sh, -c, '{script}']\n"
        ),
    )?;
    eventually(SOON, "the client pod succeeds", || {
        let pod = cluster.object(&["pod", "client"])?;
        let phase = pod["status"]["phase"].as_str().unwrap_or_default().to_owned();
        ensure!(
            phase == "Succeeded",
            "{phase}: {}",
            cluster.kubectl(&["logs", "client"])?
        );
        Ok(())
    })?;
    let logs = cluster.kubectl(&["logs", "client"])?;
    ensure!(
        logs.matches("welcome from nginx").count() == 2 && logs.contains("10.96.0.1"),
        "{logs}"
    );
    Ok(())
}

fn containers(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let pods = cluster.object(&["pods", "-A"])?;
    let statuses = pods["items"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|p| p["status"]["containerStatuses"].as_array().into_iter().flatten());
    Ok(statuses
        .filter_map(|s| s["containerID"].as_str())
        .map(str::to_owned)
        .collect())
}

/// Writes from several clients until the server is gone; the names of what it acknowledged.
async fn write_until_gone(kubeconfig: &Path, round: usize) -> Result<Vec<String>> {
    const CLIENTS: usize = 4;
    let target = Target::from_kubeconfig(kubeconfig)?;
    let object = Kind::ConfigMap.object(&format!("c-{round}-{}", Template::OBJECT), "written before a crash");
    let template = Template::new(&target, "POST", "/api/v1/namespaces/default/configmaps", Some(&object))?;
    let clients = (0..CLIENTS).map(|client| {
        let (target, mut template) = (target.clone(), template.clone());
        tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            let Ok(mut connection) = Connection::open(&target).await else {
                return acknowledged;
            };
            for number in (client..).step_by(CLIENTS) {
                match connection.call(template.with(number, 0), |_| ()).await {
                    Ok(answer) if answer.status == 201 => acknowledged.push(format!("c-{round}-{number:09}")),
                    _ => break,
                }
                // A stream, not a flood: every object is read again after every crash.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            acknowledged
        })
    });
    let mut acknowledged = Vec::new();
    for client in clients.collect::<Vec<_>>() {
        acknowledged.extend(client.await?);
    }
    Ok(acknowledged)
}

/// kill -9 under a stream of writes: nothing acknowledged is lost, versions never go back, containers stay.
#[test]
fn killed_daemons_lose_nothing_and_containers_go_on() -> Result<()> {
    const ROUNDS: usize = 20;
    let writers = tokio::runtime::Runtime::new()?;
    let mut cluster = Cluster::up(&images()?)?;
    cluster.kubectl(&["create", "deployment", "web", "--image=nginx:1.19", "--replicas=2"])?;
    rolled_out(&cluster, "deployment/web")?;
    let before = containers(&cluster)?;
    ensure!(before.len() == 2, "{before:?}");
    let mut acknowledged: Vec<String> = Vec::new();
    let mut version = 0_u64;
    for round in 0..ROUNDS {
        let kubeconfig = cluster.kubeconfig();
        let writing = writers.spawn(async move { write_until_gone(&kubeconfig, round).await });
        // Another moment of the writes in every round.
        std::thread::sleep(Duration::from_millis(150 + 37 * round as u64));
        cluster.crash()?;
        let written = writers.block_on(writing)??;
        ensure!(!written.is_empty(), "nothing was written before crash {round}");
        acknowledged.extend(written);
        cluster.start()?;
        let list = cluster.object(&["configmaps"])?;
        let there: BTreeSet<&str> = list["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|c| c["metadata"]["name"].as_str())
            .collect();
        for name in &acknowledged {
            ensure!(
                there.contains(name.as_str()),
                "{name} was acknowledged and is gone after crash {round}"
            );
        }
        let raw: serde_json::Value = serde_json::from_str(&cluster.kubectl(&[
            "get",
            "--raw",
            "/api/v1/namespaces/default/configmaps?limit=1",
        ])?)?;
        let now: u64 = raw["metadata"]["resourceVersion"]
            .as_str()
            .context("no version")?
            .parse()?;
        ensure!(now > version, "version went from {version} to {now}");
        version = now;
        ensure!(
            containers(&cluster)? == before,
            "containers changed after crash {round}"
        );
    }
    Ok(())
}

/// Each mistake gives one clear sentence and a non-zero exit, and loses nothing.
#[test]
fn mistakes_are_explained() -> Result<()> {
    let cluster = Cluster::up(&images()?)?;
    let second = cluster.up_command()?.output()?;
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    ensure!(
        !second.status.success() && text.contains("a cluster already runs on") && text.trim().lines().count() == 1,
        "{text}"
    );

    let manifest = cluster.data_dir().join("typo.yaml");
    std::fs::write(
        &manifest,
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: typo}\nspec:\n  replicaz: 2\n  selector: {matchLabels: {a: b}}\n  \
         template:\n    metadata: {labels: {a: b}}\n    spec: {containers: [{name: c, image: 'nginx:1.19'}]}\n",
    )?;
    let path = manifest.to_string_lossy().into_owned();
    let typo = cluster.try_ctl(&["apply", "-f", &path])?;
    ensure!(
        !typo.ok && typo.stderr.contains("typo.yaml:5:3") && typo.stderr.contains("replicas"),
        "{typo:?}"
    );
    std::fs::write(&manifest, "apiVersion: v1\nkind: ConfigMap\nmetadata: [\n")?;
    let malformed = cluster.try_ctl(&["apply", "-f", &path])?;
    ensure!(
        !malformed.ok && malformed.stderr.contains("typo.yaml:"),
        "{malformed:?}"
    );

    std::fs::write(
        &manifest,
        "apiVersion: v1\nkind: Pod\nmetadata: {name: missing}\nspec: {containers: [{name: c, image: 'no.example/such:1'}]}\n",
    )?;
    let missing = cluster.try_ctl(&["apply", "-f", &path])?;
    ensure!(
        !missing.ok && missing.stderr.contains("no.example/such:1"),
        "{missing:?}"
    );
    ensure!(!missing.stderr.contains("panicked"), "{missing:?}");
    Ok(())
}

/// The sample applies, answers through its Service, and `down` leaves nothing behind.
#[test]
fn the_sample_runs_and_down_cleans_up() -> Result<()> {
    let mut cluster = Cluster::up(&[])?;
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/sample");
    let said = cluster.ctl(&["apply", "-f", &sample.to_string_lossy()])?;
    ensure!(!said.is_empty());
    let pods = cluster.object(&["pods"])?;
    let items = pods["items"].as_array().context("no pods")?;
    ensure!(
        items.len() == 3 && items.iter().all(|p| p["status"]["phase"] == "Running"),
        "{pods}"
    );
    let services = cluster.object(&["services"])?;
    let service = services["items"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|s| s["metadata"]["name"] != "kubernetes")
        .context("no Service")?;
    let (ip, port) = (
        service["spec"]["clusterIP"].as_str().context("no address")?,
        &service["spec"]["ports"][0]["port"],
    );
    let page = eventually(SOON, "the sample's page", || {
        cluster.fetch(&format!("http://{ip}:{port}/"))
    })?;
    let answered_by = items
        .iter()
        .filter_map(|p| p["metadata"]["name"].as_str())
        .any(|name| page.contains(name));
    ensure!(answered_by, "{page}");
    let data = cluster.data_dir();
    cluster.down(true)?;
    let left: Vec<_> = std::fs::read_dir(&data)
        .map(|d| d.flatten().map(|e| e.path()).collect())
        .unwrap_or_default();
    ensure!(left.is_empty(), "left behind: {left:?}");
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    if let Some(line) = mounts.lines().find(|l| l.contains(&*data.to_string_lossy())) {
        bail!("still mounted: {line}");
    }
    Ok(())
}

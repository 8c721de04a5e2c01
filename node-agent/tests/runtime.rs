//! The runtime layer against a real containerd of its own: an image made on the spot, a pod with host
//! networking, logs, a command, adoption, and nothing left at the end. Needs root, containerd and runc;
//! says so and passes where they are missing.

use std::path::Path;
use std::time::{Duration, Instant};

use coxswain_node_agent::containerd::events::Happening;
use coxswain_node_agent::containerd::exec::{self, Command};
use coxswain_node_agent::containerd::{self, Layout};
use coxswain_node_agent::image::pause;
use coxswain_node_agent::pods::config::{self, PodPaths, Resolver};
use coxswain_node_agent::pods::fields::NodeFacts;
use coxswain_node_agent::runtime::{Cri, Runtime, State};
use coxswain_oci::{File, Image, Layer};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const IMAGE: &str = "docker.io/library/agent-test:1";
type Outcome = Result<(), Box<dyn std::error::Error>>;

fn missing() -> Option<&'static str> {
    let has = |paths: &[&str]| paths.iter().any(|path| Path::new(path).exists());
    if !nix::unistd::geteuid().is_root() {
        return Some("root");
    }
    if !has(&["/usr/bin/containerd", "/usr/local/bin/containerd"]) {
        return Some("containerd");
    }
    (!has(&["/bin/busybox", "/usr/bin/busybox"])).then_some("busybox-static")
}

fn busybox_image() -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let path = if Path::new("/bin/busybox").exists() {
        "/bin/busybox"
    } else {
        "/usr/bin/busybox"
    };
    let files = vec![
        File::directory("etc", 0o755),
        File::executable("bin/busybox", std::fs::read(path)?),
        File::symlink("bin/sh", "busybox"),
    ];
    let image = Image {
        name: IMAGE.into(),
        layers: vec![Layer { files }],
        entrypoint: vec!["/bin/sh".into()],
        env: vec![("PATH".into(), "/bin".into())],
        ..Image::default()
    };
    Ok(image.to_archive()?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_lives_and_leaves_nothing() -> Outcome {
    if let Some(what) = missing() {
        eprintln!("skipped: needs {what}");
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let layout = Layout::new(dir.path());
    let result = scenario(dir.path(), &layout).await;
    containerd::stop(&layout).await;
    let remaining = std::fs::read_to_string("/proc/self/mountinfo")?;
    coxswain_node_agent::volumes::mounts::unmount_below(dir.path());
    coxswain_node_agent::volumes::mounts::unmount_below(&layout.run);
    let _ = std::fs::remove_dir_all(&layout.run);
    result?;
    let left: Vec<&str> = remaining
        .lines()
        .filter(|line| line.contains(&*dir.path().display().to_string()))
        .collect();
    assert!(left.is_empty(), "mounts left: {left:#?}");
    Ok(())
}

async fn scenario(dir: &Path, layout: &Layout) -> Outcome {
    let begun = Instant::now();
    let containerd = containerd::ensure(layout).await?;
    eprintln!("containerd ready after {:?}", begun.elapsed());
    let runtime = Cri::new(containerd.channel.clone(), dir.display().to_string());
    for (name, bytes) in [("pause.tar", pause::archive()?), ("busybox.tar", busybox_image()?)] {
        let file = dir.join(name);
        std::fs::write(&file, bytes)?;
        containerd.importer.import(&file).await?;
    }
    until("the images", || async {
        runtime.image(IMAGE).await.ok().flatten().is_some() && runtime.image(pause::NAME).await.ok().flatten().is_some()
    })
    .await?;

    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "00000000-test-agent-0001"},
        "spec": {"hostNetwork": true, "containers": [{"name": "c", "image": "agent-test:1",
            "command": ["/bin/sh", "-c", "echo hello $(WHO); sleep 1000"], "env": [{"name": "WHO", "value": "world"}]}]},
    }))?;
    let paths = PodPaths {
        directory: dir.join("pod"),
        logs: dir.join("logs"),
    };
    std::fs::create_dir_all(&paths.logs)?;
    let sandbox_config = config::sandbox(&pod, 0, &paths, &Resolver::default());
    let at = Instant::now();
    let sandbox = runtime.run_sandbox(sandbox_config.clone()).await?;
    eprintln!("sandbox after {:?}", at.elapsed());
    let image = runtime.image(IMAGE).await?.ok_or("image")?;
    let inputs = config::Inputs {
        pod: &pod,
        container: &pod.spec.as_ref().ok_or("spec")?.containers[0],
        restarts: 0,
        image: &image,
        env: vec![("WHO".into(), "world".into())],
        mounts: Vec::new(),
        paths: &paths,
        node: &NodeFacts {
            memory_bytes: 1 << 30,
            ..NodeFacts::default()
        },
        target_id: None,
    };
    let id = runtime
        .create_container(&sandbox, config::container(inputs)?, sandbox_config)
        .await?;
    runtime.start_container(&id).await?;
    eprintln!("container running after {:?}", at.elapsed());
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let observed = runtime.observe(uid).await?;
    assert_eq!(
        observed.newest("c").map(|container| container.state),
        Some(State::Running)
    );
    let log = paths.logs.join("c/0.log");
    until("the log", || async {
        std::fs::read_to_string(&log).is_ok_and(|text| text.ends_with("stdout F hello world\n"))
    })
    .await?;

    check_commands(&containerd, layout, &runtime, &id).await?;

    // Another agent finds the same containerd and the same container.
    let again = containerd::ensure(layout).await?;
    assert_eq!(again.pid, containerd.pid);
    let adopted = Cri::new(again.channel, dir.display().to_string()).observe(uid).await?;
    assert_eq!(
        adopted.containers.iter().map(|c| c.id.as_str()).collect::<Vec<_>>(),
        [id.as_str()]
    );

    let token = tokio_util::sync::CancellationToken::new();
    let (sender, mut happenings) = tokio::sync::mpsc::channel(16);
    tokio::spawn(containerd::events::follow(
        containerd.channel.clone(),
        sender,
        token.clone(),
    ));
    tokio::time::sleep(Duration::from_millis(200)).await;
    runtime.stop_container(&id, 1).await?;
    let happening = tokio::time::timeout(Duration::from_secs(5), happenings.recv()).await?;
    assert_eq!(happening, Some(Happening::Ended(id.clone())));
    token.cancel();
    let observed = runtime.observe(uid).await?;
    assert_eq!(
        observed
            .newest("c")
            .map(|container| (container.state, container.exit_code)),
        Some((State::Exited, 137))
    );
    coxswain_node_agent::pods::steps::clean(&runtime, uid, &paths, None).await?;
    assert!(runtime.observe(uid).await?.sandboxes.is_empty());
    assert!(runtime.sandboxes().await?.is_empty());
    Ok(())
}

async fn check_commands(containerd: &containerd::Containerd, layout: &Layout, runtime: &Cri, id: &str) -> Outcome {
    let sync = runtime
        .exec(
            id,
            &["/bin/sh".into(), "-c".into(), "echo out; exit 3".into()],
            Duration::from_secs(5),
        )
        .await?;
    assert_eq!((sync.exit_code, sync.output.as_str()), (3, "out\n"));
    // Input that ends, with output after its end.
    let command = Command {
        container: id.to_string(),
        argv: [
            "/bin/sh",
            "-c",
            "while read line; do echo got $line; done; echo end; exit 7",
        ]
        .map(String::from)
        .to_vec(),
        tty: false,
        stdin: true,
    };
    let at = Instant::now();
    let mut process = exec::start(containerd.channel.clone(), &layout.run, &command).await?;
    let mut stdin = process.stdin.take().ok_or("stdin")?;
    stdin.write_all(b"one\ntwo\n").await?;
    drop(stdin);
    let mut control = process.control();
    control.end_input().await;
    let mut text = String::new();
    let mut stdout = process.stdout.take().ok_or("stdout")?;
    tokio::time::timeout(Duration::from_secs(5), stdout.read_to_string(&mut text)).await??;
    let code = tokio::time::timeout(Duration::from_secs(5), control.wait()).await??;
    process.remove().await;
    eprintln!("command took {:?}", at.elapsed());
    assert_eq!((text.as_str(), code), ("got one\ngot two\nend\n", 7));
    Ok(())
}

async fn until<F, Fut>(what: &str, mut condition: F) -> Outcome
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition().await {
        if Instant::now() > deadline {
            return Err(format!("timed out waiting for {what}").into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

//! Pods, Services and DNS together, with the real CNI plugins and sockets, in network namespaces of
//! threads: the kernel removes all of it when the threads end.

use super::addresses::{Addresses, Range};
use super::{cni, links, proxy};
use serde_json::Value;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

type Job = Box<dyn FnOnce() -> String + Send>;

/// A thread in a network namespace of its own.
struct Namespace {
    path: String,
    jobs: Sender<Job>,
    results: Receiver<String>,
}

impl Namespace {
    fn new() -> Option<Namespace> {
        let (jobs, inbox) = channel::<Job>();
        let (outbox, results) = channel();
        std::thread::spawn(move || {
            let made = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_ok();
            let thread = nix::unistd::gettid();
            let path = format!("/proc/{}/task/{thread}/ns/net", std::process::id());
            let _ = outbox.send(if made { path } else { String::new() });
            for job in inbox {
                let _ = outbox.send(job());
            }
        });
        let path = results.recv().ok().filter(|path| !path.is_empty())?;
        Some(Namespace { path, jobs, results })
    }

    fn run(&self, job: impl FnOnce() -> String + Send + 'static) -> String {
        self.jobs.send(Box::new(job)).expect("the thread lives");
        self.results.recv().expect("the thread lives")
    }
}

/// What the server at an address says, which is the address that it sees us come from.
fn ask(address: &'static str) -> String {
    let address: SocketAddr = address.parse().expect("an address");
    let answer = TcpStream::connect_timeout(&address, Duration::from_secs(3)).and_then(|mut stream| {
        stream.set_read_timeout(Some(Duration::from_secs(3)))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    });
    answer.unwrap_or_else(|error| format!("{:?}", error.kind()))
}

/// Listens and tells everybody where they come from.
fn listen(address: &'static str) -> String {
    let listener = TcpListener::bind(address).expect("binds");
    std::thread::spawn(move || {
        while let Ok((mut stream, from)) = listener.accept() {
            let _ = stream.write_all(from.ip().to_string().as_bytes());
        }
    });
    String::new()
}

fn call(command: &[&str], input: &str, variables: &[(&str, &str)]) -> String {
    let mut call = Command::new(command[0]);
    call.args(&command[1..]).envs(variables.iter().copied());
    let child = call
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.expect("starts");
    child
        .stdin
        .take()
        .expect("piped")
        .write_all(input.as_bytes())
        .expect("written");
    let output = child.wait_with_output().expect("ends");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// Gives a pod its interface, as containerd would.
fn plug(directory: &Path, plugins: &Path, namespace: &str, name: &str) -> String {
    let text = std::fs::read_to_string(directory.join("10-coxswain.conflist")).expect("written");
    let list: Value = serde_json::from_str(&text).expect("JSON");
    let mut plugin = list["plugins"][0].clone();
    plugin["cniVersion"] = list["cniVersion"].clone();
    plugin["name"] = list["name"].clone();
    plugin["ipam"]["dataDir"] = Value::from(directory.join("ipam").display().to_string());
    let plugin_path = plugins.join("ptp").display().to_string();
    let variables = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", name),
        ("CNI_NETNS", namespace),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", plugins.to_str().expect("UTF-8")),
    ];
    let result = call(&[&plugin_path], &plugin.to_string(), &variables);
    let result: Value = serde_json::from_str(&result).expect("JSON");
    result["ips"][0]["address"].as_str().expect("an address").to_owned()
}

fn addresses() -> Addresses {
    let range = |text| Range::parse("range", text).expect("valid");
    Addresses {
        node: [192, 0, 2, 2].into(),
        pods: range("10.244.0.0/24"),
        cluster: range("10.244.0.0/16"),
        services: range("10.96.0.0/16"),
        dns: [10, 96, 0, 10].into(),
    }
}

fn prepare_node(directory: &Path) {
    call(&["ip", "link", "set", "lo", "up"], "", &[]);
    call(&["ip", "address", "add", "192.0.2.2/32", "dev", "lo"], "", &[]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        links::ensure(&addresses()).await.expect("interface");
        let rules = proxy::rules_of_one_service(&addresses(), "10.96.0.20", &["10.244.0.2:8080"], 30080);
        proxy::apply(&rules).await.expect("rules");
    });
    cni::ensure(directory, &addresses()).expect("configuration");
}

#[test]
fn pods_reach_pods_services_and_the_node() {
    let Ok(plugins) = cni::find_plugins(&["/usr/lib/cni".into(), "/opt/cni/bin".into()]) else {
        return eprintln!("this needs the CNI plugins");
    };
    let (Some(node), Some(one), Some(two)) = (Namespace::new(), Namespace::new(), Namespace::new()) else {
        return eprintln!("this needs root: a network namespace could not be made");
    };
    let directory = tempfile::tempdir().expect("a directory");
    let (path, first, second) = (directory.path().to_owned(), one.path.clone(), two.path.clone());
    let given = node.run(move || {
        prepare_node(&path);
        let first = plug(&path, &plugins, &first, "one");
        format!("{first} {}", plug(&path, &plugins, &second, "two"))
    });
    assert_eq!(given, "10.244.0.2/24 10.244.0.3/24");
    one.run(|| listen("10.244.0.2:8080"));
    node.run(|| listen("192.0.2.2:6443"));

    let cases: [(&str, &Namespace, &str, &str); 9] = [
        ("pod to pod keeps its source", &two, "10.244.0.2:8080", "10.244.0.3"),
        ("pod to Service keeps its source", &two, "10.96.0.20:80", "10.244.0.3"),
        ("pod to itself by its Service", &one, "10.96.0.20:80", "10.244.0.1"),
        ("pod to node", &two, "192.0.2.2:6443", "10.244.0.3"),
        ("pod to node port", &two, "192.0.2.2:30080", "10.244.0.1"),
        ("node to pod", &node, "10.244.0.2:8080", "10.244.0.1"),
        ("node to Service", &node, "10.96.0.20:80", "192.0.2.2"),
        ("node to node port on loopback", &node, "127.0.0.1:30080", "10.244.0.1"),
        (
            "pod to a port no Service has",
            &two,
            "10.96.0.20:81",
            "ConnectionRefused",
        ),
    ];
    for (name, from, address, want) in cases {
        assert_eq!(from.run(move || ask(address)), want, "{name}");
    }
}

//! Bodies and patches that ask for far more than they are long: each is answered with the right Status, a probe of another user
//! is answered meanwhile, and the process stays small.
//!
//! The attacks run in a process of their own, this test binary started again, so that its memory is theirs.
//! `COXSWAIN_HOSTILE_ROUNDS=20` repeats them.

use std::fmt::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use rcgen::ExtendedKeyUsagePurpose;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Issuer, Running, authority, leaf, start_with};

/// Set in the process that is attacked.
const CHILD: &str = "COXSWAIN_HOSTILE_CHILD";
const MEMORY_MIB_MAX: u64 = 400;
const PROBE_MAX: Duration = Duration::from_secs(1);
const ANSWER_MAX: Duration = Duration::from_secs(60);

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const JSON_PATCH: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

struct Attack {
    name: &'static str,
    method: Method,
    path: String,
    media: &'static str,
    body: Vec<u8>,
    codes: &'static [u16],
}

fn attack(
    name: &'static str,
    method: Method,
    path: impl Into<String>,
    media: &'static str,
    body: impl Into<Vec<u8>>,
    codes: &'static [u16],
) -> Attack {
    let (path, body) = (path.into(), body.into());
    Attack {
        name,
        method,
        path,
        media,
        body,
        codes,
    }
}

/// `one` as often as fits into `bytes`, with commas between.
fn many(one: &str, bytes: usize) -> String {
    vec![one; bytes / (one.len() + 1)].join(",")
}

const MIB: usize = 1 << 20;

fn yaml() -> Vec<Attack> {
    let refused: &[u16] = &[400, 413];
    let post = |name, body: String| attack(name, Method::POST, MAPS, YAML, body, refused);
    let large = "x".repeat(MIB);
    let aliases = format!("a: &a {large}\nb: [{}]\n", vec!["*a"; 1500].join(","));
    let lists = (1..12).fold(
        "a0: &a0 [xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx]\n".to_owned(),
        |mut text, level| {
            let items = vec![format!("*a{}", level - 1); 10].join(",");
            let _ = writeln!(text, "a{level}: &a{level} [{items}]");
            text
        },
    );
    let anchors: String = (0..100).map(|level| format!("&a{level} [")).collect();
    let anchors = format!("a: {anchors}{large}{}", "]".repeat(100));
    let merged = format!(
        "a: &a {{x: {large}}}\nb: {{\"<<\": [{}]}}\n",
        vec!["*a"; 1500].join(",")
    );
    let merges: String = (0..1500).map(|at| format!("b{at}: {{<<: *a}}\n")).collect();
    let merges = format!("a: &a {{x: {large}}}\n{merges}");
    let keys: String = (0..1500).map(|at| format!("b{at}: {{? *a : 1}}\n")).collect();
    let keys = format!("a: &a {large}\n{keys}");
    vec![
        post("a text aliased 1,500 times", aliases),
        post("lists of aliases of lists", lists),
        post("anchors inside anchors", anchors),
        post("a list of aliases to merge", merged),
        post("merge keys", merges),
        post("aliases as keys", keys),
        attack(
            "applied aliases",
            Method::PATCH,
            format!("{MAPS}/a?fieldManager=x"),
            APPLY,
            format!("a: &a {large}\nb: [{}]\n", vec!["*a"; 1500].join(",")),
            refused,
        ),
    ]
}

fn values() -> Vec<Attack> {
    let (most, of_a) = (3 * MIB - 4096, format!("{MAPS}/a"));
    let data = |items: String| format!("{{\"metadata\":{{\"name\":\"b\"}},\"data\":[{items}]}}");
    let tiny = many("{\"\":0}", most);
    // The field containers of a pod's spec, again and again.
    let containers: Vec<u8> = [0x12, 2, 0x12, 0].repeat(700_000);
    let length = |bytes: usize| {
        let mut out = Vec::new();
        let mut rest = bytes;
        while rest >= 0x80 {
            out.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        out.push(rest as u8);
        out
    };
    let meta = [&[0x0a, 2][..], b"v1", &[0x12, 3], b"Pod"].concat();
    let meta = [&[0x0a, meta.len() as u8][..], &meta].concat();
    let protobuf = [&b"k8s\0"[..], &meta, &[0x12], &length(containers.len()), &containers].concat();
    let long_key = "k".repeat(MIB);
    let below_long_key = (0..100_000).fold(String::new(), |mut text, at| {
        let _ = write!(text, "\"{at}\":0,");
        text
    });
    let below_long_key = format!("{{\"x\":{{\"{long_key}\":{{{below_long_key}\"z\":1,\"z\":1}}}},\"y\":0,\"y\":0}}");
    vec![
        attack("small objects", Method::POST, MAPS, JSON, data(tiny.clone()), &[413]),
        attack("small numbers", Method::POST, MAPS, JSON, data(many("0", most)), &[413]),
        attack(
            "empty lists",
            Method::POST,
            MAPS,
            JSON,
            data(many("[[]]", most)),
            &[413],
        ),
        attack("open lists", Method::POST, MAPS, JSON, "[".repeat(most), &[400]),
        attack(
            "fields below a long key",
            Method::POST,
            MAPS,
            JSON,
            below_long_key,
            &[201, 400, 422],
        ),
        attack(
            "small objects in a merge patch",
            Method::PATCH,
            &*of_a,
            MERGE,
            format!("{{\"x\":[{tiny}]}}"),
            &[413],
        ),
        attack(
            "small objects in a strategic patch",
            Method::PATCH,
            &*of_a,
            STRATEGIC,
            format!("{{\"x\":[{tiny}]}}"),
            &[413],
        ),
        attack(
            "small objects in a JSON patch",
            Method::PATCH,
            &*of_a,
            JSON_PATCH,
            format!("[{tiny}]"),
            &[413],
        ),
        attack("small containers", Method::POST, PODS, PROTOBUF, protobuf, &[400, 413]),
    ]
}

fn work() -> Vec<Attack> {
    let of_a = format!("{MAPS}/a");
    let list = format!(
        "{{\"op\":\"add\",\"path\":\"/x\",\"value\":[{}]}}",
        many("0", 3 * MIB / 2)
    );
    let moves = many("{\"op\":\"move\",\"from\":\"/x/0\",\"path\":\"/x/-\"}", MIB / 3);
    let copies = format!(
        "[{{\"op\":\"add\",\"path\":\"/x\",\"value\":{{\"a\":[{}]}}}},{}]",
        many("{\"\":0}", MIB / 8),
        many("{\"op\":\"copy\",\"from\":\"/x\",\"path\":\"/x/b\"}", 4096)
    );
    let keys: Vec<String> = (0..60_000).map(|at| format!("k{at}")).collect();
    let retained: serde_json::Map<String, Value> = keys.iter().map(|key| (key.clone(), "v".into())).collect();
    let mut retained = Value::Object(retained);
    retained["$retainKeys"] = json!(keys);
    let entries = |operation: &str, count: usize| -> Vec<Value> {
        let entry = |at: usize| {
            json!({"manager": format!("m{at}"), "operation": operation, "apiVersion": "v1",
            "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {format!("f:k{at}"): {}}}})
        };
        (0..count).map(entry).collect()
    };
    let managed = |name: &str, operation: &str, count: usize| {
        let data: serde_json::Map<String, Value> = (0..count).map(|at| (format!("k{at}"), "".into())).collect();
        json!({"metadata": {"name": name, "managedFields": entries(operation, count)}, "data": data}).to_string()
    };
    let values: serde_json::Map<String, Value> = (0..100_000).map(|at| (format!("v:{at}"), json!({}))).collect();
    let mut one = entries("Update", 1);
    one[0]["fieldsV1"] = json!({"f:data": values});
    let values = json!({"metadata": {"name": "values", "managedFields": one}}).to_string();
    let labels: serde_json::Map<String, Value> = (0..30_000).map(|at| (format!("label-{at}"), "!".into())).collect();
    let labels =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "labels", "labels": labels}}).to_string();
    let groups = format!(
        "{{\"spec\":{{\"user\":\"u\",\"groups\":[{}],\"resourceAttributes\":{{\"verb\":\"get\",\"resource\":\"pods\"}}}}}}",
        many("\"system:authenticated\"", 2 * MIB)
    );
    let containers = format!(
        "{{\"metadata\":{{\"name\":\"p\"}},\"spec\":{{\"containers\":[{}]}}}}",
        many("{\"name\":\"a\",\"image\":\"i\"}", MIB / 2)
    );
    let env: Vec<Value> = (0..15_000)
        .map(|at| json!({"name": format!("N{}", at % 7_000), "value": "v"}))
        .collect();
    let env = json!({"metadata": {"name": "env"}, "spec": {"containers": [{"name": "a", "image": "i", "env": env}]}});
    let tolerations: Vec<Value> = (0..8_000)
        .map(|at| json!({"key": format!("k{at}"), "operator": "Exists"}))
        .collect();
    let tolerations = json!({"metadata": {"name": "t"}, "spec": {"containers": [{"name": "a", "image": "i"}], "tolerations": tolerations}});
    vec![
        attack(
            "moves in a list of a million",
            Method::PATCH,
            &*of_a,
            JSON_PATCH,
            format!("[{list},{moves}]"),
            &[413],
        ),
        attack(
            "copies of copies",
            Method::PATCH,
            &*of_a,
            JSON_PATCH,
            copies,
            &[413, 422],
        ),
        attack(
            "keys to retain",
            Method::PATCH,
            &*of_a,
            STRATEGIC,
            json!({"data": retained}).to_string(),
            &[200, 400, 422],
        ),
        attack(
            "15,000 updaters",
            Method::POST,
            MAPS,
            JSON,
            managed("updaters", "Update", 10_000),
            &[201, 409],
        ),
        attack(
            "10,000 appliers",
            Method::POST,
            MAPS,
            JSON,
            managed("appliers", "Apply", 7_000),
            &[201, 409],
        ),
        attack(
            "an update beside 7,000 appliers",
            Method::PATCH,
            format!("{MAPS}/appliers"),
            MERGE,
            "{\"data\":{\"k1\":\"x\"}}",
            &[200],
        ),
        attack("values in another order", Method::POST, MAPS, JSON, values, &[201, 409]),
        attack(
            "labels that are none",
            Method::PATCH,
            format!("{MAPS}/labels?fieldManager=x"),
            APPLY,
            labels,
            &[422],
        ),
        attack("groups", Method::POST, REVIEWS, JSON, groups, &[201]),
        attack(
            "containers of one name",
            Method::POST,
            PODS,
            JSON,
            containers,
            &[403, 422],
        ),
        attack(
            "environment variables",
            Method::POST,
            format!("{PODS}?dryRun=All"),
            JSON,
            env.to_string(),
            &[201, 403],
        ),
        attack(
            "tolerations",
            Method::POST,
            format!("{PODS}?dryRun=All"),
            JSON,
            tolerations.to_string(),
            &[201, 403],
        ),
    ]
}

/// One request over TLS with a certificate: code, and the body as JSON.
async fn send(running: &Running, pair: &(String, String), attack: &Attack) -> (u16, Value) {
    let mut stream = running.connect_with(Some(pair.clone()), &[]).await;
    let head = format!(
        "{} {} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: {}\r\ncontent-length: {}\r\n\r\n",
        attack.method,
        attack.path,
        attack.media,
        attack.body.len()
    );
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(&attack.body).await;
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text).await;
    let text = String::from_utf8_lossy(&text);
    let code = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (code, serde_json::from_str(body).unwrap_or_else(|_| Value::from(body)))
}

/// Asks as another user again and again, on a runtime of its own, until told to stop; gives the longest wait.
fn probe(running: Arc<Running>, pair: (String, String), stop: Arc<AtomicBool>) -> std::thread::JoinHandle<Duration> {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let mut longest = Duration::ZERO;
        while !stop.load(Ordering::Relaxed) {
            let begin = Instant::now();
            let (code, text) = runtime.block_on(running.ask(Some(pair.clone()), &format!("{MAPS}/a"), ""));
            assert_eq!(code, 200, "the probe: {text}");
            longest = longest.max(begin.elapsed());
        }
        longest
    })
}

/// The most memory that this process ever had, in MiB.
fn memory_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap_or_default();
    let kib: u64 = line
        .split_whitespace()
        .nth(1)
        .and_then(|number| number.parse().ok())
        .unwrap_or(0);
    kib >> 10
}

/// A server, the certificate of one who attacks and of one who probes.
async fn attacked() -> (Arc<Running>, [(String, String); 2]) {
    let issuer: Issuer = authority("clients");
    let pairs =
        ["system:masters", "system:masters"].map(|group| leaf(&issuer, group, ExtendedKeyUsagePurpose::ClientAuth));
    let pem = issuer.pem();
    let running = start_with(move |config| config.client_ca_pem.push_str(&pem)).await;
    let (code, answer) = running
        .send(Method::POST, MAPS, json!({"metadata": {"name": "a"}}))
        .await;
    assert_eq!(code, 201, "{answer}");
    let account = json!({"metadata": {"name": "default"}});
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let (code, answer) = running.send(Method::POST, accounts, account).await;
    assert!(matches!(code, 201 | 409), "{answer}");
    (Arc::new(running), pairs)
}

/// Runs this test of this binary again, alone.
fn in_a_process_of_its_own(test: &str) {
    let binary = std::env::current_exe().expect("this binary");
    let output = Command::new(binary)
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .stdin(Stdio::null())
        .output()
        .expect("a process");
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    println!("{}", text[0]);
    assert!(output.status.success(), "{}\n{}", text[0], text[1]);
}

#[test]
fn bodies_and_patches_cost_what_they_are_long() {
    if std::env::var_os(CHILD).is_none() {
        return in_a_process_of_its_own("hostile_bodies::bodies_and_patches_cost_what_they_are_long");
    }
    let rounds: usize = std::env::var("COXSWAIN_HOSTILE_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let failures = runtime.block_on(async {
        let (running, [attacker, other]) = attacked().await;
        let mut failures = Vec::new();
        for attack in (0..rounds).flat_map(|_| [yaml(), values(), work()]).flatten() {
            let stop = Arc::new(AtomicBool::new(false));
            let probing = probe(running.clone(), other.clone(), stop.clone());
            let begin = Instant::now();
            // Twice at once: as many as there are workers.
            let both = async { tokio::join!(send(&running, &attacker, &attack), send(&running, &attacker, &attack)) };
            let answers = tokio::time::timeout(ANSWER_MAX, both).await;
            let took = begin.elapsed();
            stop.store(true, Ordering::Relaxed);
            let longest = tokio::task::spawn_blocking(move || probing.join())
                .await
                .expect("joined")
                .expect("a probe");
            let memory = memory_mib();
            println!(
                "{:?} after {took:?}, probe {longest:?}, {memory} MiB: {}",
                answers.as_ref().map(|(a, b)| (a.0, b.0)).ok(),
                attack.name
            );
            let Ok((first, second)) = answers else {
                failures.push(format!("{}: no answer in {ANSWER_MAX:?}", attack.name));
                continue;
            };
            for (code, answer) in [first, second] {
                // Of two that write the same object one may lose.
                if !attack.codes.contains(&code) && code != 409 {
                    let answer: String = answer.to_string().chars().take(300).collect();
                    failures.push(format!("{}: {code} {answer}", attack.name));
                }
                if code >= 400 && (answer["kind"] != "Status" || answer["code"] != code) {
                    failures.push(format!("{}: no Status with its {code}", attack.name));
                }
            }
            if longest > PROBE_MAX {
                failures.push(format!("{}: the probe waited {longest:?}", attack.name));
            }
            if memory > MEMORY_MIB_MAX {
                failures.push(format!("{}: {memory} MiB", attack.name));
            }
        }
        failures
    });
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Kubernetes keeps objects in etcd, which takes 1.5 MiB at once, and says so: recorded of 1.36 for every way to write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_have_the_size_limit_of_etcd() {
    let (running, [pair, _]) = attacked().await;
    let role = |bytes: usize| {
        let resources: Vec<String> = (0..bytes / 1000).map(|at| format!("{at:0>996}")).collect();
        let rules = json!([{"apiGroups": [""], "resources": resources, "verbs": ["get"]}]);
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "big"}, "rules": rules})
    };
    let of_big = format!("{ROLES}/big");
    let text = |value: &Value| value.to_string().into_bytes();
    let (code, answer) = send(
        &running,
        &pair,
        &attack("", Method::POST, ROLES, JSON, text(&role(1_500_000)), &[]),
    )
    .await;
    assert_eq!(code, 201, "{}", answer["message"]);
    let too_large = role(1_650_000);
    let grown = json!({"rules": too_large["rules"]});
    let added = json!([{"op": "add", "path": "/rules/-", "value": {"apiGroups": [""], "resources": ["y".repeat(100_000)], "verbs": ["get"]}}]);
    let mut another = too_large.clone();
    another["metadata"]["name"] = "another".into();
    for (name, method, path, media, body) in [
        ("create", Method::POST, ROLES.to_owned(), JSON, text(&another)),
        ("update", Method::PUT, of_big.clone(), JSON, text(&too_large)),
        ("JSON patch", Method::PATCH, of_big.clone(), JSON_PATCH, text(&added)),
        ("merge patch", Method::PATCH, of_big.clone(), MERGE, text(&grown)),
        (
            "strategic patch",
            Method::PATCH,
            of_big.clone(),
            STRATEGIC,
            text(&grown),
        ),
        (
            "apply",
            Method::PATCH,
            format!("{of_big}?fieldManager=x&force=true"),
            APPLY,
            text(&too_large),
        ),
        (
            "apply of a new one",
            Method::PATCH,
            format!("{ROLES}/another?fieldManager=x"),
            APPLY,
            text(&another),
        ),
    ] {
        let (code, answer) = send(&running, &pair, &attack("", method, path, media, body, &[])).await;
        let said = (
            code,
            answer["message"]
                .as_str()
                .map(|text| text.chars().take(200).collect::<String>()),
        );
        assert_eq!(
            said,
            (500, Some("etcdserver: request is too large".to_owned())),
            "{name}"
        );
        assert_eq!(
            (&answer["kind"], answer.get("reason")),
            (&json!("Status"), None),
            "{name}"
        );
    }
    // A whole megabyte in a ConfigMap is allowed, also where its JSON is longer than what is stored in Kubernetes.
    let lines = json!({"metadata": {"name": "lines"}, "data": {"a": "\n".repeat(MIB - 1)}});
    let (code, answer) = send(
        &running,
        &pair,
        &attack("", Method::POST, MAPS, JSON, text(&lines), &[]),
    )
    .await;
    assert_eq!(code, 201, "{}", answer["message"]);
}

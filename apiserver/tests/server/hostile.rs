//! Hostile input at the front: the right refusal with a Status, and everybody else undisturbed.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Running, start};

const LIMIT: Duration = Duration::from_secs(60);
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// One HTTP/1.1 request of an administrator over TLS: code, and the body as JSON.
async fn raw(running: &Running, head: &str, body: &[u8]) -> (u16, Value) {
    let exchange = async {
        let mut stream = running.connect(true).await;
        // The answer may come before everything is sent.
        let _ = stream.write_all(head.as_bytes()).await;
        let _ = stream.write_all(body).await;
        let mut text = Vec::new();
        let _ = stream.read_to_end(&mut text).await;
        String::from_utf8_lossy(&text).into_owned()
    };
    let text = tokio::time::timeout(LIMIT, exchange).await.expect("an answer in time");
    let code = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (
        code,
        serde_json::from_str(body).unwrap_or(Value::String(body.to_owned())),
    )
}

fn head(method: &str, path: &str, headers: &str, length: usize) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
    )
}

/// What it is, method, headers, body, and the codes it may be answered with.
type Case<'a> = (&'a str, &'a str, &'a str, Vec<u8>, &'a [u16]);

const JSON: &str = "content-type: application/json\r\n";
const YAML: &str = "content-type: application/yaml\r\n";
const PATCH: &str = "content-type: application/json-patch+json\r\n";

async fn is_well(running: &Running) {
    let (code, _) = running.send(Method::GET, MAPS, Value::Null).await;
    assert_eq!(code, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_ask_for_trouble() {
    let running = start().await;
    let named = json!({"metadata": {"name": "a"}});
    let (code, _) = running.send(Method::POST, MAPS, named).await;
    assert_eq!(code, 201);
    let deep = format!("{{\"metadata\":{}1{}}}", "{\"a\":".repeat(100_000), "}".repeat(100_000));
    let lists = format!("{{\"data\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let keys: String = (0..250_000).map(|i| format!("\"{i:07}\":1,")).collect();
    let keys = format!(
        "{{\"metadata\":{{\"name\":\"k\"}},\"data\":{{{}\"z\":1}}}}",
        &keys[..keys.len() / 2]
    );
    let operations = vec!["{\"op\":\"test\",\"path\":\"/data\",\"value\":null}"; 10_001].join(",");
    let operations = format!("[{operations}]");
    let aliases = (1..30).fold("a0: &a0 [x, x]\n".to_owned(), |text, i| {
        format!("{text}a{i}: &a{i} [*a{0}, *a{0}, *a{0}, *a{0}]\n", i - 1)
    });
    let packed = |text: &[u8]| {
        let mut packer = GzEncoder::new(Vec::new(), Compression::best());
        packer.write_all(text).expect("written");
        packer.finish().expect("packed")
    };
    let bomb = packed(&vec![b' '; 64 << 20]);
    let ten_million_keys = packed(format!("{{{}\"z\":1}}", "\"k\":1,".repeat(10_000_000)).as_bytes());
    let gzip = format!("{JSON}content-encoding: gzip\r\n");
    let of_a = format!("{MAPS}/a");
    let cases: Vec<Case<'_>> = vec![
        ("more than 3 MiB", "POST", JSON, vec![b' '; (3 << 20) + 1], &[413]),
        ("deep objects", "POST", JSON, deep.into_bytes(), &[400]),
        ("deep lists", "POST", JSON, lists.into_bytes(), &[400]),
        ("many keys", "POST", JSON, keys.into_bytes(), &[400, 422]),
        ("many operations", "PATCH", PATCH, operations.into_bytes(), &[413]),
        ("YAML aliases", "POST", YAML, aliases.into_bytes(), &[400]),
        ("a gzip bomb", "POST", &gzip, bomb, &[400, 413, 415]),
        ("ten million keys", "POST", &gzip, ten_million_keys, &[400, 413]),
        (
            "no UTF-8",
            "POST",
            JSON,
            b"{\"metadata\":{\"name\":\"\xff\xfe\"}}".to_vec(),
            &[400, 422],
        ),
        ("not JSON", "POST", JSON, b"{\"metadata\":".to_vec(), &[400]),
        (
            "a huge number",
            "POST",
            JSON,
            b"{\"metadata\":{\"generation\":1e999}}".to_vec(),
            &[400],
        ),
    ];
    for (what, method, headers, body, codes) in cases {
        let path = if method == "PATCH" { &of_a } else { MAPS };
        let (code, answer) = raw(&running, &head(method, path, headers, body.len()), &body).await;
        assert!(codes.contains(&code), "{what}: {code} {answer}");
        assert_eq!(answer["kind"], "Status", "{what}: {answer}");
        assert_eq!(answer["code"], code, "{what}: {answer}");
        is_well(&running).await;
    }
    // Announced but never sent: refused without waiting for it.
    let (code, answer) = raw(&running, &head("POST", MAPS, JSON, 1 << 40), b"").await;
    assert_eq!(
        (code, &answer["reason"]),
        (413, &json!("RequestEntityTooLarge")),
        "{answer}"
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_and_parameters_that_ask_for_trouble() {
    let running = start().await;
    let long = format!("/api/v1/namespaces/default/configmaps/{}", "a".repeat(8_000));
    let cases: Vec<(&str, &[u16])> = vec![
        ("/api/v1/namespaces/default/configmaps/..", &[400, 404]),
        ("/api/v1/namespaces/default/configmaps/%2e%2e", &[400, 404]),
        ("/api/v1/namespaces/default/configmaps/%2e%2e%2fsecrets", &[400, 404]),
        ("/api/v1/namespaces/%2e%2e/configmaps/x", &[400, 404]),
        ("/api/v1/namespaces/default/configmaps/%ff%fe", &[400, 404]),
        ("/api/v1/namespaces/default/configmaps/%00", &[400, 404]),
        ("/api/v1/namespaces/default/configmaps/a%zz", &[400, 404]),
        (&long, &[400, 404, 414]),
        ("/api/v1/configmaps?resourceVersion=-1", &[400, 422]),
        (
            "/api/v1/configmaps?resourceVersion=99999999999999999999999999",
            &[400, 422],
        ),
        ("/api/v1/configmaps?resourceVersion=1e3", &[400, 422]),
        ("/api/v1/configmaps?limit=-99999999999999999999", &[400]),
        ("/api/v1/configmaps?continue=%ff%00", &[400]),
        ("/api/v1/configmaps?labelSelector=%28%28%28", &[400]),
        ("/api/v1/configmaps?fieldSelector=a", &[400]),
        // What Kubernetes answers, too.
        ("/api/v1/configmaps?watch=1&resourceVersion=-5", &[500]),
        ("/api/v1/configmaps?watch=1&timeoutSeconds=x", &[400]),
    ];
    for (path, codes) in cases {
        let (code, answer) = raw(&running, &head("GET", path, "", 0), b"").await;
        let shown: String = path.chars().take(80).collect();
        assert!(codes.contains(&code), "{shown}: {code} {answer}");
        assert_eq!(answer["kind"], "Status", "{shown}: {answer}");
        assert_eq!(answer["status"], "Failure", "{shown}: {answer}");
    }
    // Heads that are too long or have too many lines never reach a verb.
    let long = format!("x: {}\r\n", "a".repeat(2 << 20));
    let many: String = (0..5_000).map(|i| format!("x-{i}: 1\r\n")).collect();
    for headers in [long, many] {
        let (code, answer) = raw(&running, &head("GET", MAPS, &headers, 0), b"").await;
        assert!(matches!(code, 0 | 400 | 431), "{code} {answer}");
    }
    is_well(&running).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_and_half_open_connections_disturb_nobody() {
    let running = start().await;
    let mut idle = Vec::new();
    for at in 0..300 {
        let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, running.port)).await else {
            break;
        };
        if at % 2 == 0 {
            // The beginning of a TLS record whose rest never comes.
            let _ = stream.write_all(&[0x16, 0x03, 0x01, 0x02]).await;
        }
        idle.push(stream);
    }
    let mut slow = Vec::new();
    for _ in 0..20 {
        let mut stream = running.connect(true).await;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost:").await.expect("sent");
        slow.push(stream);
    }
    let health = tokio::time::timeout(LIMIT, running.anonymous("/readyz"))
        .await
        .expect("an answer in time");
    assert!(health.starts_with("HTTP/1.1 200"), "{health}");
    is_well(&running).await;
    drop((idle, slow));
    running.stop().await;
}

/// Frames of HTTP/2 by hand: what a client that means harm sends.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a small frame").to_be_bytes();
    let mut out = length[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rapid_resets_end_the_connection_only() {
    let running = start().await;
    let stream = running.connect_h2().await;
    let mut text = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    text.extend(frame(4, 0, 0, &[]));
    // GET, https, and the path /api/v1/configmaps as a literal.
    let path = b"/api/v1/configmaps";
    let mut headers = vec![0x82, 0x87, 0x04, u8::try_from(path.len()).expect("short")];
    headers.extend(path);
    headers.extend([0x01, 9]);
    headers.extend(b"localhost");
    for stream_id in (1..20_001).step_by(2) {
        text.extend(frame(1, 0x5, stream_id, &headers));
        text.extend(frame(3, 0, stream_id, &[0, 0, 0, 8]));
    }
    let (mut read, mut write) = tokio::io::split(stream);
    let sending = tokio::spawn(async move {
        let _ = write.write_all(&text).await;
        // Open until the server ends it.
        std::future::pending::<()>().await;
    });
    let flood = async {
        let mut answer = Vec::new();
        let _ = read.read_to_end(&mut answer).await;
    };
    tokio::time::timeout(LIMIT, flood).await.expect("the connection ends");
    sending.abort();
    is_well(&running).await;
    running.stop().await;
}

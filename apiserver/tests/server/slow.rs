//! Clients that take their time, or that send what only costs work: each ends within its limit, and a request of another
//! plain user is answered within a second meanwhile.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use coxswain_apiserver::ConnectionLimits;
use http::Method;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::harness::{Issuer, Running, authority, start_with};
use crate::hostile::frame;

const LIMIT: Duration = Duration::from_secs(60);
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A server with short times, an attacker who may do a lot in it, and a plain user beside him.
struct Attacked {
    running: Running,
    attacker: (String, String),
    plain: (String, String),
}

fn pair(issuer: &Issuer, name: &str) -> (String, String) {
    let mut parameters = CertificateParams::new(Vec::new()).expect("no names");
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().expect("a key");
    let certificate = parameters.signed_by(&key, issuer).expect("a certificate");
    (certificate.pem(), key.serialize_pem())
}

/// Limits that a test can wait for; those that are not tried are long.
fn short() -> ConnectionLimits {
    ConnectionLimits {
        handshake: Duration::from_secs(30),
        head: Duration::from_secs(30),
        idle: Duration::from_secs(30),
        body_idle: Duration::from_secs(30),
        body: Duration::from_secs(30),
        stall: Duration::from_secs(30),
        ..ConnectionLimits::default()
    }
}

async fn start(limits: ConnectionLimits) -> Attacked {
    let users = authority("users");
    let (attacker, plain) = (pair(&users, "attacker"), pair(&users, "plain"));
    let running = start_with(|config| {
        config.client_ca_pem.push_str(&users.pem());
        config.limits = limits;
    })
    .await;
    let binding = json!({"metadata": {"name": "attacker"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "attacker"}]});
    let path = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    let (code, answer) = running.send(Method::POST, path, binding).await;
    assert_eq!(code, 201, "{answer}");
    Attacked {
        running,
        attacker,
        plain,
    }
}

impl Attacked {
    /// A few requests of the plain user, each over a new connection and within a second.
    async fn probe(&self, what: &str) {
        for _ in 0..3 {
            let begun = Instant::now();
            let asked = self.running.ask(Some(self.plain.clone()), "/version", "");
            let (code, text) = tokio::time::timeout(LIMIT, asked).await.expect("an answer in time");
            assert_eq!(code, 200, "{what}: {text}");
            assert!(
                begun.elapsed() < Duration::from_secs(1),
                "{what}: {:?}",
                begun.elapsed()
            );
        }
    }

    async fn h1(&self) -> TlsStream<TcpStream> {
        self.running.connect_with(Some(self.attacker.clone()), &[]).await
    }

    /// An HTTP/2 connection of the attacker on which the preface and these settings were sent.
    async fn h2(&self, settings: &[u8]) -> TlsStream<TcpStream> {
        let mut stream = self.running.connect_with(Some(self.attacker.clone()), &[b"h2"]).await;
        stream.write_all(PREFACE).await.expect("sent");
        stream.write_all(&frame(4, 0, 0, settings)).await.expect("sent");
        stream.flush().await.expect("sent");
        stream
    }
}

/// Reads to the end; false when that does not come within the time.
async fn ends<S: AsyncReadExt + Unpin>(stream: &mut S, within: Duration) -> bool {
    let mut rest = Vec::new();
    tokio::time::timeout(within, stream.read_to_end(&mut rest))
        .await
        .is_ok()
}

/// The header block of a request.
fn block(method: &str, path: &str) -> Vec<u8> {
    let mut out = match method {
        "GET" => vec![0x82, 0x87],
        _ => vec![0x83, 0x87],
    };
    for (name, value) in [(4u8, path), (1, "localhost")] {
        out.extend([name, u8::try_from(value.len()).expect("short")]);
        out.extend(value.bytes());
    }
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_bodies_hold_no_seats() {
    let limits = ConnectionLimits {
        body_idle: Duration::from_secs(3),
        body: Duration::from_secs(5),
        ..short()
    };
    let attacked = start(limits).await;
    // 720 streams on three connections: a byte, and nothing more, or another byte each second.
    let mut tasks = Vec::new();
    for drips in [false, false, true] {
        let mut stream = attacked.h2(&[]).await;
        let ids: Vec<u32> = (0..240).map(|at| 2 * at + 1).collect();
        for id in &ids {
            stream
                .write_all(&frame(1, 0x4, *id, &block("POST", MAPS)))
                .await
                .expect("sent");
            stream.write_all(&frame(0, 0, *id, b"{")).await.expect("sent");
        }
        // What TLS has buffered waits for the next write otherwise.
        stream.flush().await.expect("sent");
        let (mut read, mut write) = tokio::io::split(stream);
        let dripping = tokio::spawn(async move {
            if !drips {
                std::future::pending::<()>().await;
            }
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                for id in &ids {
                    if write.write_all(&frame(0, 0, *id, b" ")).await.is_err() {
                        return;
                    }
                }
            }
        });
        tasks.push(tokio::spawn(async move {
            let mut answered = 0;
            while answered < 240 {
                let mut header = [0; 9];
                read.read_exact(&mut header).await.expect("a frame");
                let [a, b, c, kind, ..] = header;
                let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
                read.read_exact(&mut payload).await.expect("a payload");
                answered += usize::from(kind == 1);
            }
            dripping.abort();
        }));
    }
    // And by HTTP/1.1.
    let mut slow = Vec::new();
    for _ in 0..50 {
        let mut stream = attacked.h1().await;
        let head = format!("POST {MAPS} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n{{");
        stream.write_all(head.as_bytes()).await.expect("sent");
        slow.push(stream);
    }
    attacked.probe("slow bodies").await;
    for task in tasks {
        tokio::time::timeout(Duration::from_secs(15), task)
            .await
            .expect("all are answered")
            .expect("a task");
    }
    for mut stream in slow {
        let mut text = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(15), stream.read_to_end(&mut text)).await;
        let text = String::from_utf8_lossy(&text);
        assert!(read.is_ok() && text.starts_with("HTTP/1.1 408"), "{text}");
        assert!(text.contains("did not arrive in time"), "{text}");
    }
    attacked.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_wait_take_seats_of_one_user_only() {
    let attacked = start(short()).await;
    // Each waits some seconds for a revision that does not come.
    let path = format!("{MAPS}?resourceVersion=999999999&resourceVersionMatch=NotOlderThan");
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut stream = attacked.h2(&[]).await;
        for id in (1..480).step_by(2) {
            let get = frame(1, 0x5, id, &block("GET", &path));
            stream.write_all(&get).await.expect("sent");
        }
        stream.flush().await.expect("sent");
        open.push(stream);
    }
    attacked.probe("requests that wait").await;
    attacked.probe("requests that still wait").await;
    drop(open);
    attacked.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_of_one_user_have_a_bound() {
    let limits = ConnectionLimits {
        body_bytes_per_user: 5 << 20,
        ..short()
    };
    let attacked = start(limits).await;
    // Two bodies of almost 3 MiB that do not end are too much: the one that comes in last is answered at once.
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut stream = attacked.h1().await;
        let length = 3 << 20;
        let head = format!("POST {MAPS} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("sent");
        let _ = stream.write_all(&vec![b' '; length - 1]).await;
        let _ = stream.flush().await;
        streams.push(stream);
    }
    let [one, other] = streams.as_mut_slice() else {
        panic!("two streams");
    };
    let (mut text, mut text_of_other) = ([0; 12], [0; 12]);
    let text = tokio::select! {
        read = one.read_exact(&mut text) => { read.expect("an answer"); text }
        read = other.read_exact(&mut text_of_other) => { read.expect("an answer"); text_of_other }
    };
    assert_eq!(String::from_utf8_lossy(&text), "HTTP/1.1 429");
    attacked.probe("large bodies").await;
    drop(streams);
    attacked.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_heads_and_idle_connections_end() {
    let second = Duration::from_secs(1);
    let limits = ConnectionLimits {
        handshake: 2 * second,
        head: 2 * second,
        idle: 2 * second,
        ..short()
    };
    let attacked = start(limits).await;
    let mut raw = Vec::new();
    for at in 0..100 {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, attacked.running.port))
            .await
            .expect("a connection");
        if at % 2 == 0 {
            stream.write_all(&[0x16, 0x03, 0x01, 0x02]).await.expect("sent");
        }
        raw.push(stream);
    }
    let mut open = Vec::new();
    for at in 0..60 {
        let stream = match at % 6 {
            // Nothing, a head that does not end, a head after an answer, nothing after an answer; frames and nothing.
            0 => attacked.h1().await,
            1 => {
                let mut stream = attacked.h1().await;
                stream.write_all(b"GET /version HTTP/1.1\r\nhost:").await.expect("sent");
                stream
            }
            2 | 3 => {
                let mut stream = attacked.h1().await;
                let whole = b"GET /version HTTP/1.1\r\nhost: localhost\r\n\r\n";
                stream.write_all(whole).await.expect("sent");
                if at % 6 == 2 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    stream.write_all(b"GET /version HTTP/1.1\r\nx: ").await.expect("sent");
                }
                stream
            }
            4 => attacked.h2(&[]).await,
            _ => {
                let mut stream = attacked.h2(&[]).await;
                // A header block that goes on in a frame that does not come.
                stream
                    .write_all(&frame(1, 0, 1, &block("GET", "/version")))
                    .await
                    .expect("sent");
                stream
            }
        };
        open.push((at % 6, stream));
    }
    attacked.probe("idle and half open connections").await;
    for stream in &mut raw {
        assert!(ends(stream, Duration::from_secs(15)).await, "a handshake");
    }
    for (kind, stream) in &mut open {
        assert!(ends(stream, Duration::from_secs(15)).await, "kind {kind}");
    }
    attacked.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_do_not_read_end() {
    let limits = ConnectionLimits {
        stall: Duration::from_secs(2),
        // What the sockets take in full leaves an idle connection.
        idle: Duration::from_secs(3),
        response_bytes_per_user: 16 << 20,
        ..short()
    };
    let attacked = start(limits).await;
    let text = "x".repeat(900_000);
    for number in 0..10 {
        let object = json!({"metadata": {"name": format!("big-{number}")}, "data": {"text": text}});
        let (code, answer) = attacked.running.send(Method::POST, MAPS, object).await;
        assert_eq!(code, 201, "{}", answer["message"]);
    }
    let one = format!("{MAPS}/big-0");
    let mut open = Vec::new();
    for _ in 0..3 {
        // HTTP/1.1: a long list that nobody reads.
        let mut stream = attacked.h1().await;
        let request = format!("GET {MAPS} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        stream.flush().await.expect("sent");
        open.push(stream);
        // HTTP/2: windows of nothing, of a byte, and the usual ones.
        for window in [0u8, 1] {
            let mut stream = attacked.h2(&[0, 4, 0, 0, 0, window]).await;
            for id in (1..400).step_by(2) {
                stream
                    .write_all(&frame(1, 0x5, id, &block("GET", &one)))
                    .await
                    .expect("sent");
            }
            stream.flush().await.expect("sent");
            open.push(stream);
        }
        let mut stream = attacked.h2(&[]).await;
        for id in (1..40).step_by(2) {
            stream
                .write_all(&frame(1, 0x5, id, &block("GET", MAPS)))
                .await
                .expect("sent");
        }
        stream.flush().await.expect("sent");
        open.push(stream);
    }
    attacked.probe("clients that do not read").await;
    assert!(resident_mb() < 400, "{} MB", resident_mb());
    // What the sockets hold may be read; then the connection is at its end.
    tokio::time::sleep(Duration::from_secs(4)).await;
    for (at, stream) in open.iter_mut().enumerate() {
        assert!(ends(stream, Duration::from_secs(15)).await, "connection {at}");
    }
    attacked.running.stop().await;
}

/// Resident memory of this process.
fn resident_mb() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: usize = text
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .expect("a number");
    pages * 4 / 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_frames_end_the_connection() {
    let attacked = start(short()).await;
    let head = block("GET", "/version");
    let large = {
        // A literal field of 4,000 bytes: more and more of them.
        let mut field = vec![0x40, 1, b'x', 0x7f, 0xa1, 0x1e];
        field.extend(vec![b'a'; 4_000]);
        field
    };
    let repeated = |frame: Vec<u8>| frame.repeat(1_000_000 / frame.len());
    let floods: Vec<(&str, Vec<u8>)> = vec![
        ("PING", repeated(frame(6, 0, 0, &[0; 8]))),
        ("SETTINGS", repeated(frame(4, 0, 0, &[0, 4, 0, 0, 255, 255]))),
        ("WINDOW_UPDATE", repeated(frame(8, 0, 0, &[0, 0, 0, 1]))),
        ("PRIORITY", repeated(frame(2, 0, 1, &[0, 0, 0, 0, 1]))),
        ("unknown frames", repeated(frame(77, 0, 0, &[1]))),
        (
            "empty DATA",
            [frame(1, 0x4, 1, &block("POST", MAPS)), repeated(frame(0, 0, 1, &[]))].concat(),
        ),
        (
            "CONTINUATION",
            [
                frame(1, 0, 1, &head),
                repeated(frame(9, 0, 1, &[0x40, 1, b'x', 1, b'y'])),
            ]
            .concat(),
        ),
        (
            "large header blocks",
            [frame(1, 0, 1, &head), frame(9, 0, 1, &large).repeat(300)].concat(),
        ),
    ];
    for (what, text) in floods {
        let (mut read, mut write) = tokio::io::split(attacked.h2(&[]).await);
        let sending = tokio::spawn(async move {
            let _ = write.write_all(&text).await;
            let _ = write.flush().await;
            // Open until the server ends it.
            std::future::pending::<()>().await;
        });
        attacked.probe(what).await;
        assert!(ends(&mut read, Duration::from_secs(15)).await, "{what}");
        sending.abort();
    }
    attacked.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_connections_of_unknown_clients_keep_nobody_out() {
    let wanted = std::env::var("COXSWAIN_IDLE_CONNECTIONS")
        .ok()
        .and_then(|text| text.parse().ok());
    let attacked = start(short()).await;
    let mut idle = Vec::new();
    for _ in 0..wanted.unwrap_or(2_600) {
        let Ok(stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, attacked.running.port)).await else {
            break;
        };
        idle.push(stream);
    }
    attacked.probe("idle connections").await;
    assert!(resident_mb() < 400, "{} MB", resident_mb());
    // The oldest had to go.
    if idle.len() > 2_100 {
        let mut first = idle.swap_remove(0);
        assert!(ends(&mut first, Duration::from_secs(15)).await);
    }
    drop(idle);
    attacked.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_authentications_and_refusals_are_in_the_trail() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("audit.log");
    let audit = coxswain_apiserver::AuditConfig {
        path: path.clone(),
        policy: None,
    };
    let running = start_with(|config| config.audit = Some(audit)).await;
    let (code, _) = running
        .ask(None, MAPS, "authorization: Bearer not.a-real.token\r\n")
        .await;
    assert_eq!(code, 401);
    let long = format!("{MAPS}?labelSelector={}", "a".repeat(20_000));
    let agent = format!("user-agent: {}\r\n", "b".repeat(20_000));
    let (code, _) = running.ask(None, &long, &agent).await;
    assert_eq!(code, 403);
    let mut stream = running.connect(false).await;
    let one = format!("GET {MAPS} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let (requests, mut answers) = (300, Vec::new());
    for _ in 0..requests {
        stream.write_all(one.as_bytes()).await.expect("sent");
        let head = crate::head(&mut stream).await;
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .expect("a length");
        answers.resize(length.parse().expect("a number"), 0);
        stream.read_exact(&mut answers).await.expect("a body");
    }
    running.stop().await;
    let read = || std::fs::read_to_string(&path).unwrap_or_default();
    let deadline = Instant::now() + LIMIT;
    while !read().contains("requests-not-written") && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let text = read();
    assert!(!text.contains("a-real"), "{text}");
    assert!(text.lines().all(|line| line.len() < 8_192));
    let events: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("an event"))
        .collect();
    let failed = events
        .iter()
        .find(|event| event["responseStatus"]["code"] == 401)
        .expect("the failure");
    assert_eq!(failed["user"], json!({}));
    assert_eq!(failed["sourceIPs"], json!(["127.0.0.1"]));
    let message = failed["responseStatus"]["message"].as_str().unwrap_or_default();
    assert!(
        message.starts_with("Authentication failed, attempted: bearer"),
        "{message}"
    );
    let refused = events
        .iter()
        .filter(|event| event["responseStatus"]["code"] == 403)
        .count();
    let counted = events.iter().find_map(|event| {
        event["annotations"]["audit.coxswain.io/requests-not-written"]
            .as_str()?
            .parse::<usize>()
            .ok()
    });
    assert!(refused < 100, "{refused}");
    assert_eq!(refused + counted.unwrap_or(0), requests + 1);
    assert!(events.iter().any(|event| {
        let agent = event["userAgent"].as_str().unwrap_or_default();
        agent.len() < 1100 && agent.ends_with("...TRUNCATED")
    }));
}

//! The sample's web server: says which pod on which node answers, and how many requests it has had.
//!
//! `GET /` answers with a page (or JSON for who asks for it, and at `/json`), `/healthz` with `ok`.
//! Knows its pod and node from `POD_NAME` and `NODE_NAME`. The standard library only, so that one
//! static binary is the whole image. One thread per connection, so many at a time, so long each.

mod signals;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

const HELP: &str = "sample: a small web server that says where it runs\n\n\
    usage: sample [--port PORT]\n\n\
    environment: PORT (8080), POD_NAME, POD_NAMESPACE, POD_IP, NODE_NAME, MESSAGE\n";
const CONNECTIONS_MAX: usize = 256;
const HEAD_BYTES_MAX: u64 = 16 * 1024;
const PATIENCE: Duration = Duration::from_secs(10);

static REQUESTS: AtomicU64 = AtomicU64::new(0);
static CONNECTIONS: AtomicUsize = AtomicUsize::new(0);

fn main() {
    signals::end_on_termination();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let port = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => variable("PORT", "8080"),
        ["--port", port] => (*port).to_owned(),
        ["--help" | "-h"] => return print!("{HELP}"),
        _ => {
            eprint!("{HELP}");
            std::process::exit(2);
        }
    };
    let listener = port
        .parse()
        .map_err(|_| format!("{port:?} is not a port"))
        .and_then(|port: u16| {
            TcpListener::bind(("0.0.0.0", port)).map_err(|error| format!("cannot listen on port {port}: {error}"))
        });
    match listener {
        Ok(listener) => serve(&listener, &port),
        Err(error) => {
            eprintln!("sample: {error}");
            std::process::exit(1);
        }
    }
}

fn serve(listener: &TcpListener, port: &str) {
    println!("sample: {} on {} listens on port {port}", pod(), node());
    for stream in listener.incoming().flatten() {
        if CONNECTIONS.fetch_add(1, Ordering::AcqRel) >= CONNECTIONS_MAX {
            CONNECTIONS.fetch_sub(1, Ordering::AcqRel);
            continue;
        }
        let started = std::thread::Builder::new().stack_size(128 * 1024).spawn(move || {
            // Whatever goes wrong on a connection is the client's to notice.
            let _ = connection(&stream);
            CONNECTIONS.fetch_sub(1, Ordering::AcqRel);
        });
        if started.is_err() {
            CONNECTIONS.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

fn connection(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = (&mut reader).take(HEAD_BYTES_MAX);
        let (mut first, mut json, mut last) = (String::new(), false, false);
        if head.read_line(&mut first)? == 0 {
            return Ok(());
        }
        let mut line = String::new();
        while head.read_line(&mut line)? > 0 {
            let header = line.trim().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            json |= header.starts_with("accept:") && header.contains("application/json");
            last |= header == "connection: close";
            line.clear();
        }
        let mut words = first.split_whitespace();
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        last |= words.next() != Some("HTTP/1.1");
        let (status, kind, body) = answer(method, path.split('?').next().unwrap_or_default(), json);
        let length = body.len();
        let end = if last { "close" } else { "keep-alive" };
        let body = if method == "HEAD" { "" } else { &body };
        let mut out = stream;
        write!(
            out,
            "HTTP/1.1 {status}\r\nContent-Type: {kind}; charset=utf-8\r\nContent-Length: {length}\r\nConnection: {end}\r\n\r\n{body}"
        )?;
        if last {
            return Ok(());
        }
    }
}

fn answer(method: &str, path: &str, json: bool) -> (&'static str, &'static str, String) {
    if !matches!(method, "GET" | "HEAD") {
        return ("405 Method Not Allowed", "text/plain", "only GET and HEAD\n".to_owned());
    }
    match path {
        "/healthz" | "/readyz" | "/livez" => ("200 OK", "text/plain", "ok\n".to_owned()),
        "/" | "/json" => {
            let count = REQUESTS.fetch_add(1, Ordering::Relaxed) + 1;
            println!("{method} {path} {count}");
            if json || path == "/json" {
                ("200 OK", "application/json", facts(count))
            } else {
                ("200 OK", "text/html", page(count))
            }
        }
        _ => (
            "404 Not Found",
            "text/plain",
            "there is /, /json and /healthz\n".to_owned(),
        ),
    }
}

fn facts(count: u64) -> String {
    let text = |value: &str| {
        let value: String = value.chars().filter(|c| !c.is_control()).collect();
        format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
    };
    format!(
        "{{\"message\":{},\"node\":{},\"pod\":{},\"requests\":{count}}}\n",
        text(&message()),
        text(&node()),
        text(&pod())
    )
}

fn page(count: u64) -> String {
    let safe = |text: String| text.replace('&', "&amp;").replace('<', "&lt;");
    format!(
        "<!doctype html>\n<title>Coxswain sample</title>\n<h1>{}</h1>\n<p>Pod <b>{}</b> on node <b>{}</b> has answered {count} requests.</p>\n",
        safe(message()),
        safe(pod()),
        safe(node())
    )
}

fn pod() -> String {
    let name = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    std::env::var("POD_NAME").unwrap_or_else(|_| name().trim().to_owned())
}

fn node() -> String {
    variable("NODE_NAME", "unknown")
}

fn message() -> String {
    variable("MESSAGE", "Coxswain steers")
}

fn variable(name: &str, default: &str) -> String {
    std::env::var(name)
        .ok()
        .filter(|value| !value.is_empty())
        .unwrap_or_else(|| default.to_owned())
}

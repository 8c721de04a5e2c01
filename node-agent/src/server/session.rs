//! Interactive sessions: a client's channels, whichever protocol they came by, joined to a command or
//! to a container's own streams.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use super::input;
use super::spdy;
use super::websocket::{self, Framing};
use crate::containerd::exec::{self, Command};
use crate::cri::v1::AttachRequest;
use crate::runtime::Cri;

const QUEUE: usize = 64;

/// The client's side of a session.
pub struct Session {
    /// What the user types; ends when the user ends it.
    pub stdin: input::Receiver,
    /// Terminal sizes, width and height.
    pub resize: mpsc::Receiver<(u32, u32)>,
    /// To the user.
    pub out: mpsc::Sender<Out>,
    /// Cancelled when the client is gone.
    pub closed: CancellationToken,
}

/// Something for the user.
#[derive(Clone, Debug)]
pub enum Out {
    /// Standard output.
    Stdout(Bytes),
    /// Standard error.
    Stderr(Bytes),
    /// How it ended; the last thing sent.
    Status(Value),
}

/// What a client asked for in its query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The command; empty for attach.
    pub command: Vec<String>,
    /// With standard input.
    pub stdin: bool,
    /// With standard output.
    pub stdout: bool,
    /// With standard error.
    pub stderr: bool,
    /// With a terminal.
    pub tty: bool,
}

/// The Status of a command that ended.
pub fn exit_status(code: u32) -> Value {
    if code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}})
}

/// The Status of a command that could not run.
pub fn error_status(message: &str) -> Value {
    json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
        "message": format!("Internal error occurred: {message}"), "details": {"causes": [{"message": message}]}})
}

/// A session over a WebSocket.
pub async fn over_websocket(upgraded: Upgraded, framing: Framing, wanted: &Wanted) -> Session {
    let socket = websocket::accept(upgraded).await;
    let (mut sink, mut source) = socket.split();
    let (out, mut queue) = mpsc::channel::<Out>(QUEUE);
    let (stdin_in, stdin) = input::Budget::default().queue();
    let (resize_in, resize) = mpsc::channel(QUEUE);
    let closed = CancellationToken::new();
    let stop = closed.clone();
    let tty = wanted.tty;
    tokio::spawn(async move {
        // Clients learn from an empty message which channels there are.
        while let Some(item) = queue.recv().await {
            let (channel, bytes) = match item {
                Out::Stdout(bytes) => (1, bytes),
                Out::Stderr(bytes) => (if tty { 1 } else { 2 }, bytes),
                Out::Status(status) => (3, status_bytes(&status, framing.status)),
            };
            if !bytes.is_empty() && sink.send(websocket::message(framing, channel, &bytes)).await.is_err() {
                break;
            }
        }
        websocket::close(&mut sink).await;
        stop.cancel();
    });
    let stop = closed.clone();
    tokio::spawn(async move {
        let mut stdin_in = Some(stdin_in);
        while let Some(Ok(message)) = source.next().await {
            if matches!(message, Message::Close(_)) {
                break;
            }
            if !matches!(message, Message::Binary(_) | Message::Text(_)) {
                continue;
            }
            match websocket::parse(framing, &message) {
                Some((0, bytes)) if !bytes.is_empty() => {
                    if let Some(sender) = &stdin_in {
                        let _ = sender.send(bytes).await;
                    }
                }
                Some((4, bytes)) => {
                    if let Some(size) = size(&bytes) {
                        let _ = resize_in.send(size).await;
                    }
                }
                Some((255, bytes)) if framing.can_close && bytes.first() == Some(&0) => stdin_in = None,
                _ => {}
            }
        }
        stop.cancel();
    });
    Session {
        stdin,
        resize,
        out,
        closed,
    }
}

fn status_bytes(status: &Value, structured: bool) -> Bytes {
    if structured {
        return Bytes::from(status.to_string());
    }
    let failed = status["status"] == "Failure";
    Bytes::from(if failed {
        status["message"].as_str().unwrap_or_default().to_string()
    } else {
        String::new()
    })
}

fn size(bytes: &[u8]) -> Option<(u32, u32)> {
    let value: Value = serde_json::from_slice(bytes).ok()?;
    let number = |key: &str| {
        value
            .get(key)
            .and_then(Value::as_u64)
            .and_then(|n| u32::try_from(n).ok())
    };
    Some((number("Width")?, number("Height")?))
}

/// A session over SPDY: waits until the client opened every stream it announced.
pub async fn over_spdy(upgraded: Upgraded, structured: bool, wanted: &Wanted) -> Option<Session> {
    let closed = CancellationToken::new();
    let mut streams = spdy::serve(TokioIo::new(upgraded), closed.clone());
    let mut missing = vec!["error"];
    for (kind, asked) in [
        ("stdin", wanted.stdin),
        ("stdout", wanted.stdout),
        ("stderr", wanted.stderr && !wanted.tty),
        ("resize", wanted.tty),
    ] {
        if asked {
            missing.push(kind);
        }
    }
    let mut found = std::collections::HashMap::new();
    let collect = async {
        while !missing.is_empty() {
            let Some(stream) = streams.recv().await else { break };
            let kind = stream.headers.get("streamtype").cloned().unwrap_or_default();
            missing.retain(|name| *name != kind);
            found.insert(kind, stream);
        }
    };
    if tokio::time::timeout(Duration::from_secs(30), collect).await.is_err() {
        closed.cancel();
        return None;
    }
    let (out, mut queue) = mpsc::channel::<Out>(QUEUE);
    let (resize_in, resize) = mpsc::channel(QUEUE);
    let (_, nothing) = input::Budget::default().queue();
    let stdin = found.remove("stdin").map_or(nothing, |stream| stream.incoming);
    if let Some(mut stream) = found.remove("resize") {
        tokio::spawn(async move {
            while let Some(bytes) = stream.incoming.recv().await {
                if let Some(size) = size(&bytes) {
                    let _ = resize_in.send(size).await;
                }
            }
        });
    }
    let mut ends = ["stdout", "stderr", "error"].map(|kind| found.remove(kind).map(|stream| stream.outgoing));
    tokio::spawn(async move {
        // The connection lives as long as its stream of new streams is watched.
        let _streams = streams;
        while let Some(item) = queue.recv().await {
            let (index, bytes) = match item {
                Out::Stdout(bytes) => (0, bytes),
                Out::Stderr(bytes) => (1, bytes),
                Out::Status(status) => {
                    let bytes = if status["status"] == "Success" && !structured {
                        Bytes::new()
                    } else {
                        status_bytes(&status, structured)
                    };
                    (2, bytes)
                }
            };
            if let Some(stream) = &ends[index]
                && !bytes.is_empty()
                && !stream.send(bytes).await
            {
                break;
            }
        }
        for stream in ends.iter_mut().filter_map(Option::take) {
            stream.finish().await;
        }
        // The client closes the connection when it has read everything.
        tokio::time::sleep(Duration::from_secs(10)).await;
    });
    Some(Session {
        stdin,
        resize,
        out,
        closed,
    })
}

/// Joins a session to a new command.
pub async fn run_command(
    runtime: Arc<Cri>,
    run_dir: std::path::PathBuf,
    container: String,
    wanted: Wanted,
    session: Session,
) {
    let Session {
        stdin,
        mut resize,
        out,
        closed,
    } = session;
    let command = Command {
        container,
        argv: wanted.command.clone(),
        tty: wanted.tty,
        stdin: wanted.stdin,
    };
    let mut process = match exec::start(runtime.channel(), &run_dir, &command).await {
        Ok(process) => process,
        Err(error) => {
            let _ = out
                .send(Out::Status(error_status(&format!(
                    "error executing command in container: {error}"
                ))))
                .await;
            return;
        }
    };
    let control = process.control();
    let input = tokio::spawn(feed(process.stdin.take(), stdin, control.clone()));
    let mut resizing = control.clone();
    let sizes = tokio::spawn(async move {
        while let Some((width, height)) = resize.recv().await {
            resizing.resize(width, height).await;
        }
    });
    let mut waiting = control.clone();
    let stdout = process.stdout.take();
    let stderr = process.stderr.take();
    let flows = async {
        let err = async {
            if let Some(stderr) = stderr {
                flow(stderr, &out, Out::Stderr).await;
            }
        };
        let text = async {
            if let Some(stdout) = stdout {
                flow(stdout, &out, Out::Stdout).await;
            }
        };
        tokio::join!(text, err);
    };
    tokio::pin!(flows);
    let code = tokio::select! {
        code = async {
            // Output goes out while the command runs.
            let wait = waiting.wait();
            tokio::pin!(wait);
            let code = tokio::select! {
                code = &mut wait => code,
                () = &mut flows => return wait.await,
            };
            // What is still in the pipes belongs to the output; a child that keeps them open does not.
            let _ = tokio::time::timeout(Duration::from_secs(2), &mut flows).await;
            code
        } => Some(code),
        () = closed.cancelled() => None,
    };
    input.abort();
    sizes.abort();
    match code {
        Some(Ok(code)) => {
            let _ = out.send(Out::Status(exit_status(code))).await;
        }
        Some(Err(error)) => {
            let _ = out.send(Out::Status(error_status(&error))).await;
        }
        None => {
            let mut control = control;
            control.kill().await;
            let _ = tokio::time::timeout(Duration::from_secs(2), control.wait()).await;
        }
    }
    process.remove().await;
}

async fn feed(pipe: Option<tokio::net::unix::pipe::Sender>, mut stdin: input::Receiver, mut control: exec::Control) {
    let Some(mut pipe) = pipe else { return };
    while let Some(bytes) = stdin.recv().await {
        if pipe.write_all(&bytes).await.is_err() {
            return;
        }
    }
    drop(pipe);
    control.end_input().await;
}

async fn flow(mut reader: impl AsyncRead + Unpin, out: &mpsc::Sender<Out>, wrap: fn(Bytes) -> Out) {
    let mut buffer = vec![0u8; 32 << 10];
    loop {
        match reader.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(n) => {
                if out.send(wrap(Bytes::copy_from_slice(&buffer[..n]))).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Joins a session to a container's own streams, through the runtime's streaming address. The runtime
/// learns of the end of input only by the end of a connection, so input has one of its own; it then ends
/// the container's input when the container wants it `once`, and the session otherwise.
pub async fn attach(runtime: Arc<Cri>, container: String, wanted: Wanted, once: bool, session: Session) {
    let Session {
        mut stdin,
        mut resize,
        out,
        closed,
    } = session;
    let status = match attach_sockets(&runtime, &container, &wanted).await {
        Ok((socket, mut input)) => {
            let begun = Timestamp::now();
            let framing = websocket::framing("v4.channel.k8s.io");
            let (mut sink, mut source) = socket.split();
            let mut said = false;
            let mut refused = None;
            let mut open = true;
            let mut sized = true;
            loop {
                tokio::select! {
                    () = closed.cancelled() => return,
                    bytes = stdin.recv(), if open => match bytes {
                        Some(bytes) => {
                            let message = websocket::message(framing, 0, &bytes);
                            let _ = match &mut input {
                                Some(input) => input.send(message).await,
                                None => sink.send(message).await,
                            };
                        }
                        None => {
                            open = false;
                            if let Some(input) = input.take() {
                                tokio::spawn(end_input(input));
                                if !once {
                                    break;
                                }
                            }
                        }
                    },
                    size = resize.recv(), if sized => match size {
                        Some((width, height)) => {
                            let text = json!({"Width": width, "Height": height}).to_string();
                            let _ = sink.send(websocket::message(framing, 4, text.as_bytes())).await;
                        }
                        None => sized = false,
                    },
                    message = source.next() => {
                        let Some(Ok(message)) = message else { break };
                        match websocket::parse(framing, &message) {
                            Some((1, bytes)) if !bytes.is_empty() => {
                                said = true;
                                let _ = out.send(Out::Stdout(bytes)).await;
                            }
                            Some((2, bytes)) if !bytes.is_empty() => {
                                said = true;
                                let _ = out.send(Out::Stderr(bytes)).await;
                            }
                            Some((3, bytes)) => refused = failure(&bytes).or(refused),
                            _ if matches!(message, Message::Close(_)) => break,
                            _ => {}
                        }
                    }
                }
            }
            match refused {
                Some(status) => status,
                None if !said && was_over(&runtime, &container, begun).await => {
                    error_status("error attaching to container: container is in CONTAINER_EXITED state")
                }
                None => exit_status(0),
            }
        }
        Err(error) => error_status(&format!("error attaching to container: {error}")),
    };
    let _ = out.send(Out::Status(status)).await;
}

/// The runtime's Status, when it is a refusal.
fn failure(bytes: &[u8]) -> Option<Value> {
    let status: Value = serde_json::from_slice(bytes).ok()?;
    (status["status"] == "Failure").then_some(status)
}

/// Whether a container had ended when somebody attached to it. The runtime learns of the end a moment later, lets
/// clients attach until then, and shows them nothing: they do better to read the log.
async fn was_over(runtime: &Cri, container: &str, begun: Timestamp) -> bool {
    let mut pause = Duration::from_millis(10);
    while pause < Duration::from_secs(2) {
        match runtime.end_of(container).await {
            Ok(Some(ended)) => return ended <= begun,
            Ok(None) => tokio::time::sleep(pause).await,
            Err(_) => return false,
        }
        pause = pause.saturating_mul(2);
    }
    false
}

/// Ends an input connection and reads it to its end: closed with something unread, it would take what was
/// sent last with it.
async fn end_input(mut input: Socket) {
    const PATIENCE: Duration = Duration::from_secs(30);
    let work = async {
        let _ = input.close(None).await;
        while let Some(Ok(_)) = input.next().await {}
    };
    let _ = tokio::time::timeout(PATIENCE, work).await;
}

type Socket = tokio_tungstenite::WebSocketStream<tokio::net::TcpStream>;

/// The connection of a container's output, and that of its input where it is another one.
async fn attach_sockets(runtime: &Cri, container: &str, wanted: &Wanted) -> Result<(Socket, Option<Socket>), String> {
    let apart = wanted.stdin && !wanted.tty && (wanted.stdout || wanted.stderr);
    // A connection without input would at once end the input of a container that wants it once: it has
    // one that nothing is sent on.
    let outputs = Wanted {
        stdin: true,
        ..wanted.clone()
    };
    let input = Wanted {
        stdin: true,
        ..Wanted::default()
    };
    let socket = attach_socket(runtime, container, &outputs).await?;
    let input = match apart {
        true => Some(attach_socket(runtime, container, &input).await?),
        false => None,
    };
    Ok((socket, input))
}

async fn attach_socket(runtime: &Cri, container: &str, wanted: &Wanted) -> Result<Socket, String> {
    use tokio_tungstenite::tungstenite::client::IntoClientRequest;
    let request = AttachRequest {
        container_id: container.to_string(),
        stdin: wanted.stdin,
        tty: wanted.tty,
        stdout: wanted.stdout,
        stderr: wanted.stderr && !wanted.tty,
    };
    let url = runtime
        .service()
        .attach(request)
        .await
        .map_err(|status| status.message().to_string())?
        .into_inner()
        .url;
    let uri: http::Uri = url
        .parse()
        .map_err(|_| format!("the runtime's streaming address {url:?} is malformed"))?;
    let authority = uri
        .authority()
        .ok_or("the runtime's streaming address has no host")?
        .to_string();
    let stream = tokio::net::TcpStream::connect(&authority)
        .await
        .map_err(|error| error.to_string())?;
    let mut request = url
        .replacen("http://", "ws://", 1)
        .into_client_request()
        .map_err(|error| error.to_string())?;
    let protocol = http::HeaderValue::from_static("v4.channel.k8s.io");
    request.headers_mut().insert("sec-websocket-protocol", protocol);
    let (socket, _) = tokio_tungstenite::client_async(request, stream)
        .await
        .map_err(|error| error.to_string())?;
    Ok(socket)
}

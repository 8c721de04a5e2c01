//! WebSocket connections of Kubernetes clients: numbered channels in one message stream, plain or in
//! base64, and the tunnel that carries SPDY.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

/// An accepted connection.
pub type Socket = WebSocketStream<TokioIo<Upgraded>>;

const MESSAGE_MAX_BYTES: usize = 4 << 20;

/// How channels are framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    /// Text messages in base64 instead of binary ones.
    pub base64: bool,
    /// The error channel carries a Status.
    pub status: bool,
    /// A message on channel 255 closes a channel.
    pub can_close: bool,
}

/// Protocols for commands, the preferred first.
pub const COMMAND_PROTOCOLS: [&str; 6] = [
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
    "",
];

/// The framing of a protocol.
pub fn framing(protocol: &str) -> Framing {
    Framing {
        base64: protocol.contains("base64"),
        status: protocol.starts_with("v4") || protocol.starts_with("v5"),
        can_close: protocol.starts_with("v5"),
    }
}

/// Takes over an upgraded connection.
pub async fn accept(upgraded: Upgraded) -> Socket {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_MAX_BYTES))
        .max_frame_size(Some(MESSAGE_MAX_BYTES));
    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await
}

/// One message for a channel.
pub fn message(framing: Framing, channel: u8, bytes: &[u8]) -> Message {
    if framing.base64 {
        let text = format!("{}{}", char::from(b'0'.wrapping_add(channel)), STANDARD.encode(bytes));
        return Message::text(text);
    }
    let mut out = Vec::with_capacity(bytes.len() + 1);
    out.push(channel);
    out.extend_from_slice(bytes);
    Message::binary(out)
}

/// The channel and bytes of a message; absent for anything malformed.
pub fn parse(framing: Framing, message: &Message) -> Option<(u8, Bytes)> {
    let data = message.clone().into_data();
    let (first, rest) = data.split_first()?;
    if framing.base64 {
        let bytes = STANDARD.decode(rest).ok()?;
        return Some((first.checked_sub(b'0')?, Bytes::from(bytes)));
    }
    Some((*first, Bytes::copy_from_slice(rest)))
}

/// Ends a connection in order.
pub async fn close(socket: &mut (impl SinkExt<Message> + Unpin)) {
    let frame = CloseFrame {
        code: CloseCode::Normal,
        reason: "".into(),
    };
    let _ = socket.send(Message::Close(Some(frame))).await;
    let _ = socket.close().await;
}

/// A plain byte stream tunnelled through binary messages.
pub fn tunnel(socket: Socket) -> DuplexStream {
    let (near, far) = tokio::io::duplex(256 << 10);
    let (mut sink, mut source) = socket.split();
    let (mut reader, mut writer) = tokio::io::split(far);
    tokio::spawn(async move {
        while let Some(Ok(message)) = source.next().await {
            let bytes = match message {
                Message::Binary(bytes) => bytes,
                Message::Close(_) => break,
                _ => continue,
            };
            if writer.write_all(&bytes).await.is_err() {
                break;
            }
        }
        let _ = writer.shutdown().await;
    });
    tokio::spawn(async move {
        let mut buffer = vec![0u8; 32 << 10];
        loop {
            match reader.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(n) => {
                    if sink.send(Message::binary(buffer[..n].to_vec())).await.is_err() {
                        break;
                    }
                }
            }
        }
        close(&mut sink).await;
    });
    near
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_survive_both_framings() {
        for protocol in COMMAND_PROTOCOLS {
            let framing = framing(protocol);
            assert_eq!(
                parse(framing, &message(framing, 3, b"abc")),
                Some((3, Bytes::from_static(b"abc"))),
                "{protocol}"
            );
        }
    }

    /// Messages of any bytes are read or ignored; connections of any bytes end.
    #[test]
    fn fuzz_messages() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        let config = || WebSocketConfig::default().max_message_size(Some(MESSAGE_MAX_BYTES));
        let seeds = vec![
            b"\x82\x84\0\0\0\0\x03abc\x88\x80\0\0\0\0".to_vec(),
            b"\x81\x85\x00\x00\x00\x003YWJj".to_vec(),
            b"\x89\x80\0\0\0\0".to_vec(),
        ];
        coxswain_fuzz::fuzz(
            "websocket",
            seeds,
            &["\u{2}\u{7e}", "\u{7f}", "0YWJj", "\u{0}"],
            |bytes: &Vec<u8>| {
                for protocol in COMMAND_PROTOCOLS {
                    let framing = framing(protocol);
                    let _ = parse(framing, &Message::binary(bytes.clone()));
                    let _ = parse(framing, &Message::text(String::from_utf8_lossy(bytes).into_owned()));
                }
                runtime.block_on(async {
                    let (near, mut far) = tokio::io::duplex(64 << 10);
                    far.write_all(bytes).await.map_err(|error| error.to_string())?;
                    far.shutdown().await.map_err(|error| error.to_string())?;
                    let mut socket = WebSocketStream::from_raw_socket(near, Role::Server, Some(config())).await;
                    let mut read = 0;
                    while let Some(message) = socket.next().await {
                        let message = message.map_err(|error| error.to_string())?;
                        // A close with a wrong code comes out with the library's own words in it.
                        if !message.is_close() {
                            read += message.len();
                        }
                    }
                    assert!(read <= bytes.len(), "more came out than went in");
                    Ok(())
                })
            },
        );
    }
}

//! SPDY/3.1, the part that Kubernetes clients use on upgraded connections: several byte streams over
//! one connection, opened by the peer, each with a few headers and a half-close in both directions.
//!
//! Flow control windows are not kept: the clients of this protocol never wait for them. Frames are
//! bounded, streams are bounded, what waits to be read is bounded by its bytes; a slow stream holds the connection back.

use std::collections::HashMap;
use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::input;

const FRAME_MAX_BYTES: usize = 1 << 20;
const HEADERS_MAX_BYTES: usize = 64 << 10;
const STREAMS_MAX: usize = 1024;
const QUEUE_FRAMES: usize = 64;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const FLAG_FIN: u8 = 1;

/// Names that the header dictionary starts with, each after its length.
const DICTIONARY_NAMES: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
content-length content-location content-md5 content-range content-type date etag expect expires from host if-match \
if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade user-agent \
vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie keep-alive origin";
const DICTIONARY_TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden\
404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable\
Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT\
chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,\
publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

fn dictionary() -> Vec<u8> {
    let mut out = Vec::with_capacity(1423);
    for name in DICTIONARY_NAMES.split_whitespace() {
        let name = name.replace('_', " ");
        out.put_u32(name.len() as u32);
        out.put_slice(name.as_bytes());
    }
    out.put_slice(DICTIONARY_TAIL.as_bytes());
    out
}

/// A stream that the peer opened.
#[derive(Debug)]
pub struct Stream {
    /// Its headers, names in lower case.
    pub headers: HashMap<String, String>,
    /// What the peer sends; ends when the peer closes its half.
    pub incoming: input::Receiver,
    /// Our half.
    pub outgoing: Outgoing,
}

/// Our half of a stream.
#[derive(Clone, Debug)]
pub struct Outgoing {
    id: u32,
    frames: mpsc::Sender<Frame>,
}

#[derive(Debug)]
enum Frame {
    Reply(u32),
    Data { id: u32, bytes: Bytes, fin: bool },
    Pong(u32),
}

impl Outgoing {
    /// Sends bytes; false when the connection is gone.
    pub async fn send(&self, bytes: Bytes) -> bool {
        self.frames
            .send(Frame::Data {
                id: self.id,
                bytes,
                fin: false,
            })
            .await
            .is_ok()
    }

    /// Closes our half.
    pub async fn finish(&self) {
        let _ = self
            .frames
            .send(Frame::Data {
                id: self.id,
                bytes: Bytes::new(),
                fin: true,
            })
            .await;
    }
}

/// Serves a connection: streams come out of the receiver until the connection ends or the token is
/// cancelled.
pub fn serve<T>(io: T, token: CancellationToken) -> mpsc::Receiver<Stream>
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let (reader, writer) = tokio::io::split(io);
    let (streams, receiver) = mpsc::channel(QUEUE_FRAMES);
    let (frames, queue) = mpsc::channel(QUEUE_FRAMES);
    let stop = token.clone();
    tokio::spawn(async move {
        // The writer goes on until every sender is gone, so that last words are not lost.
        if let Err(error) = write_frames(writer, queue).await {
            tracing::debug!(%error, "SPDY connection");
            stop.cancel();
        }
    });
    tokio::spawn(async move {
        tokio::select! {
            () = token.cancelled() => {}
            ended = read_frames(reader, &streams, &frames) => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "SPDY connection");
                }
            }
        }
        token.cancel();
    });
    receiver
}

async fn read_frames<T: AsyncRead>(
    reader: tokio::io::ReadHalf<T>,
    streams: &mpsc::Sender<Stream>,
    frames: &mpsc::Sender<Frame>,
) -> io::Result<()> {
    let mut reader = tokio::io::BufReader::new(reader);
    let mut inflate = Decompress::new(true);
    let mut open: HashMap<u32, input::Sender> = HashMap::new();
    let budget = input::Budget::default();
    loop {
        let mut head = [0u8; 8];
        if reader.read_exact(&mut head).await.is_err() {
            return Ok(());
        }
        let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let flags = head[4];
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        if length > FRAME_MAX_BYTES {
            return Err(io::Error::other("frame too large"));
        }
        let mut body = vec![0u8; length];
        reader.read_exact(&mut body).await?;
        let word = |at: usize| {
            body.get(at..at + 4)
                .map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]) & 0x7fff_ffff)
        };
        if first & 0x8000_0000 == 0 {
            if let Some(sender) = open.get(&first)
                && !body.is_empty()
            {
                let _ = sender.send(Bytes::from(body)).await;
            }
            if flags & FLAG_FIN != 0 {
                open.remove(&first);
            }
            continue;
        }
        match (first & 0xffff) as u16 {
            SYN_STREAM => {
                let id = word(0).ok_or_else(|| io::Error::other("short frame"))?;
                let headers = headers(&mut inflate, body.get(10..).unwrap_or_default())?;
                if open.len() >= STREAMS_MAX {
                    return Err(io::Error::other("too many streams"));
                }
                let (sender, incoming) = budget.queue();
                if flags & FLAG_FIN == 0 {
                    open.insert(id, sender);
                }
                let _ = frames.send(Frame::Reply(id)).await;
                let stream = Stream {
                    headers,
                    incoming,
                    outgoing: Outgoing {
                        id,
                        frames: frames.clone(),
                    },
                };
                if streams.send(stream).await.is_err() {
                    return Ok(());
                }
            }
            RST_STREAM => {
                if let Some(id) = word(0) {
                    open.remove(&id);
                }
            }
            PING => {
                if let Some(id) = word(0) {
                    let _ = frames.send(Frame::Pong(id)).await;
                }
            }
            GOAWAY => return Ok(()),
            _ => {}
        }
    }
}

/// Reads a compressed header block; the compression state lasts for the whole connection.
fn headers(inflate: &mut Decompress, block: &[u8]) -> io::Result<HashMap<String, String>> {
    let mut plain = Vec::with_capacity(4096);
    let mut rest = block;
    let mut had_dictionary = false;
    while !rest.is_empty() {
        if plain.len() >= HEADERS_MAX_BYTES {
            return Err(io::Error::other("headers too large"));
        }
        plain.reserve(4096);
        let before = inflate.total_in();
        let result = inflate.decompress_vec(rest, &mut plain, FlushDecompress::Sync);
        let used = usize::try_from(inflate.total_in() - before)
            .unwrap_or(rest.len())
            .min(rest.len());
        rest = &rest[used..];
        match result {
            Ok(_) if used == 0 && plain.capacity() > plain.len() => break,
            Ok(_) => {}
            Err(error) if error.needs_dictionary().is_some() && !had_dictionary => {
                had_dictionary = true;
                inflate
                    .set_dictionary(&dictionary())
                    .map_err(|error| io::Error::other(error.to_string()))?;
            }
            Err(error) => return Err(io::Error::other(error.to_string())),
        }
    }
    parse_headers(&plain).ok_or_else(|| io::Error::other("malformed headers"))
}

fn parse_headers(mut plain: &[u8]) -> Option<HashMap<String, String>> {
    fn number(plain: &mut &[u8]) -> Option<usize> {
        let (word, rest) = plain.split_first_chunk::<4>()?;
        *plain = rest;
        Some(u32::from_be_bytes(*word) as usize)
    }
    fn text(plain: &mut &[u8]) -> Option<String> {
        let length = number(plain)?;
        let (bytes, rest) = plain.split_at_checked(length)?;
        *plain = rest;
        Some(String::from_utf8_lossy(bytes).into_owned())
    }
    let count = number(&mut plain)?;
    let mut headers = HashMap::new();
    for _ in 0..count.min(256) {
        let name = text(&mut plain)?.to_lowercase();
        headers.insert(name, text(&mut plain)?);
    }
    Some(headers)
}

async fn write_frames<T: AsyncWrite>(
    mut writer: tokio::io::WriteHalf<T>,
    mut queue: mpsc::Receiver<Frame>,
) -> io::Result<()> {
    let mut deflate = Compress::new(Compression::fast(), true);
    deflate
        .set_dictionary(&dictionary())
        .map_err(|error| io::Error::other(error.to_string()))?;
    while let Some(frame) = queue.recv().await {
        let mut out = BytesMut::new();
        match frame {
            Frame::Reply(id) => {
                let mut block = Vec::with_capacity(256);
                deflate
                    .compress_vec(&0u32.to_be_bytes(), &mut block, FlushCompress::Sync)
                    .map_err(|error| io::Error::other(error.to_string()))?;
                control(&mut out, SYN_REPLY, 4 + block.len());
                out.put_u32(id);
                out.put_slice(&block);
            }
            Frame::Pong(id) => {
                control(&mut out, PING, 4);
                out.put_u32(id);
            }
            Frame::Data { id, bytes, fin } => {
                out.put_u32(id & 0x7fff_ffff);
                out.put_u32(u32::from(if fin { FLAG_FIN } else { 0 }) << 24 | bytes.len() as u32 & 0xff_ffff);
                out.put_slice(&bytes);
            }
        }
        writer.write_all(&out).await?;
        writer.flush().await?;
    }
    writer.shutdown().await
}

fn control(out: &mut BytesMut, kind: u16, length: usize) {
    out.put_u16(0x8003);
    out.put_u16(kind);
    out.put_u32(length as u32 & 0xff_ffff);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_compression_with_the_dictionary() -> io::Result<()> {
        assert_eq!(dictionary().len(), 1423);
        let mut plain = Vec::new();
        plain.put_u32(1);
        for text in ["streamType", "stdin"] {
            plain.put_u32(text.len() as u32);
            plain.put_slice(text.as_bytes());
        }
        let mut deflate = Compress::new(Compression::fast(), true);
        deflate.set_dictionary(&dictionary()).map_err(io::Error::other)?;
        let mut inflate = Decompress::new(true);
        for _ in 0..3 {
            let mut block = Vec::with_capacity(1024);
            deflate
                .compress_vec(&plain, &mut block, FlushCompress::Sync)
                .map_err(io::Error::other)?;
            let found = headers(&mut inflate, &block)?;
            assert_eq!(found.get("streamtype").map(String::as_str), Some("stdin"));
        }
        Ok(())
    }

    /// Connections of any bytes end, and what they open is bounded.
    #[test]
    fn fuzz_frames() {
        let mut deflate = Compress::new(Compression::fast(), true);
        deflate.set_dictionary(&dictionary()).expect("a dictionary");
        let mut plain = Vec::new();
        plain.put_u32(1);
        for text in ["streamType", "stdin"] {
            plain.put_u32(text.len() as u32);
            plain.put_slice(text.as_bytes());
        }
        let mut block = Vec::with_capacity(1024);
        deflate
            .compress_vec(&plain, &mut block, FlushCompress::Sync)
            .expect("compressed");
        let mut out = BytesMut::new();
        control(&mut out, SYN_STREAM, 10 + block.len());
        out.put_u32(1);
        out.put_slice(&[0; 6]);
        out.put_slice(&block);
        out.put_slice(&[0, 0, 0, 1, FLAG_FIN, 0, 0, 2, b'h', b'i']);
        control(&mut out, PING, 4);
        out.put_u32(7);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        let words = &["\u{80}\u{3}", "\0\u{3}\0\u{1}", "\0\0\0\u{1}"];
        coxswain_fuzz::fuzz("spdy", vec![out.to_vec(), plain.clone()], words, |bytes: &Vec<u8>| {
            let _ = parse_headers(bytes);
            runtime.block_on(async {
                let (near, mut far) = tokio::io::duplex(64 << 10);
                let mut streams = serve(near, CancellationToken::new());
                far.write_all(bytes).await.map_err(|error| error.to_string())?;
                far.shutdown().await.map_err(|error| error.to_string())?;
                let drain = tokio::spawn(async move { tokio::io::copy(&mut far, &mut tokio::io::sink()).await });
                let mut opened = 0;
                while let Some(mut stream) = streams.recv().await {
                    opened += 1;
                    tokio::spawn(async move { while stream.incoming.recv().await.is_some() {} });
                }
                let _ = drain.await;
                assert!(opened <= bytes.len() / 18, "streams out of nothing");
                if opened == 0 {
                    Err("nothing was opened".to_owned())
                } else {
                    Ok(())
                }
            })
        });
    }
}

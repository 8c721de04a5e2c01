//! A minimal HTTP/1.1 client: one connection, one request at a time, answers framed and not decoded.

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::target::Target;

/// Answer headers longer than this are refused.
const HEADERS_MAX: usize = 64 * 1024;
const READ_BYTES: usize = 64 * 1024;

/// One connection to the server.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    /// Bytes read and not used yet start at `at`.
    buffer: Vec<u8>,
    at: usize,
}

/// How an answer went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Bytes of its body.
    pub bytes: usize,
}

enum Framing {
    Length(usize),
    Chunked,
}

impl Connection {
    /// Connects and shakes hands.
    ///
    /// # Errors
    /// When the server does not answer or is not who it should be.
    pub async fn open(target: &Target) -> Result<Self> {
        let stream = TcpStream::connect(&target.address)
            .await
            .with_context(|| format!("connect to {}", target.address))?;
        stream.set_nodelay(true)?;
        let stream = TlsConnector::from(target.tls.clone())
            .connect(target.name.clone(), stream)
            .await?;
        Ok(Self {
            stream,
            buffer: Vec::with_capacity(READ_BYTES),
            at: 0,
        })
    }

    /// Sends a request and reads its answer to the end; `body` sees the body's bytes as they come.
    ///
    /// # Errors
    /// When the connection ends or the answer is not HTTP/1.1.
    pub async fn call(&mut self, request: &[u8], mut body: impl FnMut(&[u8])) -> Result<Answer> {
        let (status, framing) = self.send(request).await?;
        let mut bytes = 0;
        match framing {
            Framing::Length(length) => {
                while bytes < length {
                    let piece = self.some().await?;
                    let used = piece.len().min(length - bytes);
                    body(&piece[..used]);
                    bytes += used;
                    self.at += used;
                }
            }
            Framing::Chunked => {
                while let Some(length) = self.chunk(&mut body).await? {
                    bytes += length;
                }
            }
        }
        Ok(Answer { status, bytes })
    }

    /// Sends a watch; [`Connection::next`] reads its frames.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn watch(&mut self, request: &[u8]) -> Result<()> {
        let (status, framing) = self.send(request).await?;
        match (status, framing) {
            (200, Framing::Chunked) => Ok(()),
            _ => bail!("the watch was answered with {status}"),
        }
    }

    /// One chunk of a stream; `None` at its end.
    ///
    /// # Errors
    /// When the connection ends in the middle.
    pub async fn next(&mut self, mut body: impl FnMut(&[u8])) -> Result<Option<usize>> {
        self.chunk(&mut body).await
    }

    async fn send(&mut self, request: &[u8]) -> Result<(u16, Framing)> {
        self.stream.write_all(request).await?;
        self.stream.flush().await?;
        self.some().await?;
        let end = loop {
            if let Some(end) = find(&self.buffer[self.at..], b"\r\n\r\n") {
                break end;
            }
            if self.buffer.len() - self.at > HEADERS_MAX {
                bail!("the answer's headers do not end");
            }
            self.fill().await?;
        };
        let head = head(&self.buffer[self.at..self.at + end])?;
        self.at += end + 4;
        Ok(head)
    }

    async fn chunk(&mut self, body: &mut impl FnMut(&[u8])) -> Result<Option<usize>> {
        let line = loop {
            if let Some(line) = find(&self.buffer[self.at..], b"\r\n") {
                break line;
            }
            self.fill().await?;
        };
        let text = std::str::from_utf8(&self.buffer[self.at..self.at + line])?;
        let length = usize::from_str_radix(text.split(';').next().unwrap_or_default().trim(), 16)
            .with_context(|| format!("{text:?} is not the length of a chunk"))?;
        self.at += line + 2;
        let mut left = length;
        while left > 0 {
            let piece = self.some().await?;
            let used = piece.len().min(left);
            body(&piece[..used]);
            left -= used;
            self.at += used;
        }
        while self.buffer.len() - self.at < 2 {
            self.fill().await?;
        }
        self.at += 2;
        Ok((length > 0).then_some(length))
    }

    /// What was read and not used; at least one byte.
    async fn some(&mut self) -> Result<&[u8]> {
        if self.at == self.buffer.len() {
            self.fill().await?;
        }
        Ok(&self.buffer[self.at..])
    }

    async fn fill(&mut self) -> Result<()> {
        if self.at == self.buffer.len() {
            self.buffer.clear();
            self.at = 0;
        } else if self.at > READ_BYTES {
            self.buffer.drain(..self.at);
            self.at = 0;
        }
        self.buffer.reserve(READ_BYTES);
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            bail!("the server closed the connection");
        }
        Ok(())
    }
}

/// Status and framing from an answer's head, without its last empty line.
fn head(bytes: &[u8]) -> Result<(u16, Framing)> {
    let text = std::str::from_utf8(bytes)?;
    let mut lines = text.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1.1 "))
        .and_then(|rest| rest.get(..3))
        .and_then(|code| code.parse().ok())
        .with_context(|| format!("not an HTTP/1.1 answer: {:?}", text.lines().next().unwrap_or_default()))?;
    let mut framing = Framing::Length(0);
    for line in lines {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        if name.eq_ignore_ascii_case("content-length") {
            framing = Framing::Length(value.trim().parse()?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") && value.trim().eq_ignore_ascii_case("chunked") {
            return Ok((status, Framing::Chunked));
        }
    }
    Ok((status, framing))
}

/// Where `needle` begins in `hay`.
pub fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() -> Result<()> {
        for (text, status, length) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 12", 200, Some(12)),
            (
                "HTTP/1.1 201 Created\r\ncontent-type: x\r\ncontent-length:7",
                201,
                Some(7),
            ),
            ("HTTP/1.1 204 No Content", 204, Some(0)),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", 200, None),
        ] {
            let (got, framing) = head(text.as_bytes())?;
            assert_eq!(got, status, "{text}");
            let got = match framing {
                Framing::Length(length) => Some(length),
                Framing::Chunked => None,
            };
            assert_eq!(got, length, "{text}");
        }
        assert!(head(b"HTTP/2 200").is_err());
        assert!(head(b"").is_err());
        Ok(())
    }
}

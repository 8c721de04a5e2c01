//! What a connection's bytes go through: below TLS, where it is known whether the client takes what is written, and
//! above it, where heads and frames can be counted.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connections::Connection;
use super::frames::FrameBudget;

/// Bytes that a client has to take of what was written, lest it counts as stalled.
const TAKEN_BYTES_MIN: usize = 16 << 10;

/// The socket. The connection's place is given back when it is dropped.
pub(crate) struct Socket<S> {
    stream: S,
    connection: Arc<Connection>,
    /// Bytes taken since writing was blocked.
    taken: usize,
}

impl<S> Socket<S> {
    /// Guards the socket of a connection.
    pub fn new(stream: S, connection: Arc<Connection>) -> Self {
        Self {
            stream,
            connection,
            taken: 0,
        }
    }

    fn check(&self) -> io::Result<()> {
        if self.connection.kill.is_cancelled() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the connection took too long"));
        }
        Ok(())
    }

    /// Notes how much of `offered` bytes was taken.
    fn wrote(&mut self, polled: &Poll<io::Result<usize>>, offered: usize) {
        match polled {
            Poll::Pending => self.connection.blocked(true),
            Poll::Ready(Ok(bytes)) if self.connection.is_blocked() => {
                self.taken += bytes;
                if *bytes == offered || self.taken >= TAKEN_BYTES_MIN {
                    self.taken = 0;
                    self.connection.blocked(false);
                }
            }
            Poll::Ready(_) => {}
        }
    }
}

impl<S> Drop for Socket<S> {
    fn drop(&mut self) {
        self.connection.closed();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.connection.reader.register(context.waker());
        self.check()?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.connection.writer.register(context.waker());
        self.check()?;
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(&polled, bytes.len());
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.connection.writer.register(context.waker());
        self.check()?;
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.wrote(&polled, slices.iter().map(|slice| slice.len()).sum());
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The decrypted stream.
pub(crate) struct Plain<S> {
    stream: S,
    connection: Arc<Connection>,
    frames: Option<FrameBudget>,
}

impl<S> Plain<S> {
    /// Observes the stream of a connection that speaks HTTP/2 or not.
    pub fn new(stream: S, connection: Arc<Connection>, is_h2: bool) -> Self {
        let frames = is_h2.then(|| FrameBudget::new(connection.now_ms()));
        Self {
            stream,
            connection,
            frames,
        }
    }

    fn sent(&mut self, polled: &Poll<io::Result<usize>>) {
        if let (Some(frames), Poll::Ready(Ok(bytes))) = (&mut self.frames, polled) {
            frames.sent(*bytes);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Plain<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        let received = buffer.filled().get(before..).unwrap_or_default();
        if !matches!(polled, Poll::Ready(Ok(()))) || received.is_empty() {
            return polled;
        }
        let Self { frames, connection, .. } = &mut *self;
        match frames {
            None => connection.head_began(),
            Some(frames) => {
                frames.responded(connection.take_answered());
                if !frames.received(received, connection.now_ms()) {
                    tracing::debug!("connection ended: a flood of HTTP/2 frames");
                    connection.end();
                    return Poll::Ready(Err(io::Error::other("a flood of HTTP/2 frames")));
                }
            }
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Plain<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.sent(&polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.sent(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

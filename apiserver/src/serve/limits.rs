//! How long a connection may take for what, and how many there may be.

use std::time::Duration;

/// Limits of the connections of a server. The defaults are meant for clusters; tests set shorter times.
#[derive(Clone, Debug)]
pub struct ConnectionLimits {
    /// From accepting a connection to the end of the TLS handshake.
    pub handshake: Duration,
    /// From the end of the handshake to the first request, and from the first byte of a request's head to its last.
    pub head: Duration,
    /// Without a request in progress. Clients that keep connections open expect kube-apiserver's 90 seconds.
    pub idle: Duration,
    /// Without a byte of a request's body that has begun.
    pub body_idle: Duration,
    /// For a whole request body.
    pub body: Duration,
    /// Without 64 KiB of progress of a response that is ready to be sent.
    pub stall: Duration,
    /// The same for watches, logs, exec and port-forward, whose readers may pause.
    pub stall_long: Duration,
    /// Connections at the same time.
    pub connections: usize,
    /// Connections whose client has not been identified, or is anonymous. A new one takes the place of the oldest.
    pub unproven: usize,
    /// Connections of one user; a new one takes the place of an idle one.
    pub per_user: usize,
    /// Bytes of request bodies that are being received or worked on, and of each user's.
    pub body_bytes: usize,
    /// See [`ConnectionLimits::body_bytes`].
    pub body_bytes_per_user: usize,
    /// Bytes of responses that clients have not taken yet, and of each user's.
    pub response_bytes: usize,
    /// See [`ConnectionLimits::response_bytes`].
    pub response_bytes_per_user: usize,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(32),
            idle: Duration::from_secs(90),
            body_idle: Duration::from_secs(15),
            body: Duration::from_secs(60),
            stall: Duration::from_secs(30),
            stall_long: Duration::from_secs(300),
            connections: 16_384,
            unproven: 2_048,
            per_user: 1_024,
            body_bytes: 64 << 20,
            body_bytes_per_user: 24 << 20,
            response_bytes: 128 << 20,
            response_bytes_per_user: 48 << 20,
        }
    }
}

impl ConnectionLimits {
    /// At most as many connections as this process may have files open, and some for the rest of it.
    #[must_use]
    pub(crate) fn within_open_files(mut self) -> Self {
        if let Some(most) = open_files_max() {
            self.connections = self.connections.min(most / 4 * 3);
            self.unproven = self.unproven.min(most / 4);
        }
        self
    }
}

fn open_files_max() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = text.lines().find(|line| line.starts_with("Max open files"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

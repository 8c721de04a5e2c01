//! The wire: generated messages of the container runtime interface and of containerd's own services,
//! and the connection to a unix socket that both run over. Nothing here decides anything.

use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint};

/// Messages and clients of the container runtime interface, version 1.
#[allow(clippy::all, missing_docs, unused_qualifications)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

/// containerd's event stream.
#[allow(clippy::all, missing_docs, unused_qualifications)]
pub mod events {
    tonic::include_proto!("containerd.services.events.v1");
}

/// Processes inside running containers.
#[allow(clippy::all, missing_docs, unused_qualifications)]
pub mod tasks {
    tonic::include_proto!("containerd.services.tasks.v1");
}

/// containerd's container records.
#[allow(clippy::all, missing_docs, unused_qualifications)]
pub mod containers {
    tonic::include_proto!("containerd.services.containers.v1");
}

/// containerd's layered file systems.
#[allow(clippy::all, missing_docs, unused_qualifications)]
pub mod snapshots {
    tonic::include_proto!("containerd.services.snapshots.v1");
}

/// The containerd namespace that the runtime interface keeps its containers in.
pub const NAMESPACE: &str = "k8s.io";

/// Connects to a gRPC server on a unix socket.
pub async fn connect(socket: &Path) -> Result<Channel, tonic::transport::Error> {
    endpoint(socket)?.connect_with_connector(connector(socket)).await
}

fn endpoint(_socket: &Path) -> Result<Endpoint, tonic::transport::Error> {
    // The address is only a name; the connector ignores it.
    Endpoint::try_from("http://containerd.sock")
}

fn connector(
    socket: &Path,
) -> impl tower::Service<http::Uri, Response = TokioIo<tokio::net::UnixStream>, Error = std::io::Error, Future: Send>
+ Send
+ 'static {
    let path: PathBuf = socket.to_path_buf();
    tower::service_fn(move |_: http::Uri| {
        let path = path.clone();
        async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
    })
}

/// A request to one of containerd's own services, addressed to the runtime interface's namespace.
pub fn in_namespace<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert(
        "containerd-namespace",
        tonic::metadata::MetadataValue::from_static(NAMESPACE),
    );
    request
}

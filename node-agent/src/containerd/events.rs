//! containerd's task events as a stream of container ids: this container ended, look again. A trigger carries a key, never data.

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use prost::Message;

use crate::cri::events::events_client::EventsClient;
use crate::cri::events::{SubscribeRequest, TaskEvent};

/// What the stream tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happening {
    /// The first process of this container or sandbox ended.
    Ended(String),
    /// The stream broke and was opened again: events may be lost, look at everything.
    Reconnected,
}

/// Follows containerd's events until cancelled; opens the stream again whenever it breaks.
pub async fn follow(channel: Channel, out: mpsc::Sender<Happening>, token: CancellationToken) {
    let mut first = true;
    loop {
        let ended = tokio::select! {
            () = token.cancelled() => return,
            ended = follow_once(channel.clone(), &out, !first) => ended,
        };
        first = false;
        if let Err(error) = ended {
            tracing::warn!(%error, "containerd's event stream");
        }
        tokio::select! {
            () = token.cancelled() => return,
            () = tokio::time::sleep(std::time::Duration::from_millis(200)) => {}
        }
    }
}

async fn follow_once(channel: Channel, out: &mpsc::Sender<Happening>, again: bool) -> Result<(), tonic::Status> {
    let filters = vec![format!(
        "namespace==\"{}\",topic==\"/tasks/exit\"",
        crate::cri::NAMESPACE
    )];
    let mut stream = EventsClient::new(channel)
        .subscribe(SubscribeRequest { filters })
        .await?
        .into_inner();
    if again {
        let _ = out.send(Happening::Reconnected).await;
    }
    while let Some(envelope) = stream.message().await? {
        let Some(event) = envelope.event else { continue };
        // The end of a command in a container changes nothing about the container.
        if let Ok(TaskEvent { container_id, id }) = TaskEvent::decode(event.value.as_slice())
            && (id.is_empty() || id == container_id)
        {
            let _ = out.send(Happening::Ended(container_id)).await;
        }
    }
    Ok(())
}

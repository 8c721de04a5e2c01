//! One client for a cluster of several servers.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::StreamExt;
use http::{Request, Response, StatusCode};
use http_body::{Body as HttpBody, Frame};
use http_body_util::{BodyExt, StreamBody};
use kube::client::Body;
use tokio_util::sync::CancellationToken;
use tower::BoxError;

use crate::Client;

/// A server that has not begun to answer by then is left for the next one.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The servers behind a client of [`Client::of_servers`]: by address, in the order in which they are tried.
///
/// One is used until it cannot be reached, does not begin to answer within ten seconds, or says 503; then the next one is.
/// The request that found that out fails. What was still coming from the server that is left ends, so that no watch waits for
/// one that is gone.
#[derive(Clone)]
pub struct Servers(Arc<ArcSwap<Choice>>);

struct Choice {
    all: Arc<[(String, Client)]>,
    at: usize,
    /// Cancelled when the server in use is left.
    left: CancellationToken,
}

impl Servers {
    pub(crate) fn new(all: Vec<(String, Client)>) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(Choice {
            all: all.into(),
            at: 0,
            left: CancellationToken::new(),
        })))
    }

    /// From now on these are the servers. The one in use stays that if its address is among them: what begins from now on uses
    /// the new client for it, and what comes from it goes on.
    pub fn set(&self, all: Vec<(String, Client)>) {
        let before = self.0.load_full();
        let used = before.all.get(before.at);
        let at = used.and_then(|(used, _)| all.iter().position(|(address, _)| address == used));
        self.0.store(Arc::new(Choice {
            all: all.into(),
            at: at.unwrap_or(0),
            left: at.map_or_else(CancellationToken::new, |_| before.left.clone()),
        }));
        if at.is_none() {
            before.left.cancel();
        }
    }

    /// One request to the server in use.
    pub(crate) async fn send(
        self,
        request: Request<Body>,
    ) -> Result<Response<impl HttpBody<Data = Bytes, Error = BoxError> + Send + use<>>, BoxError> {
        let used = self.0.load_full();
        let (address, client) = used.all.get(used.at).ok_or("no server is known")?;
        let answer = match tokio::time::timeout(ANSWER_WITHIN, client.kube().send(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                self.leave(&used, &error.to_string());
                return Err(error.into());
            }
            Err(_) => {
                let why = format!("{address} has not answered within {} s", ANSWER_WITHIN.as_secs());
                self.leave(&used, &why);
                return Err(why.into());
            }
        };
        let mut left = used.left.clone();
        if answer.status() == StatusCode::SERVICE_UNAVAILABLE {
            self.leave(&used, "503 Service Unavailable");
            // Why it refuses is still worth reading.
            left = CancellationToken::new();
        }
        Ok(answer.map(|body| {
            let frames = body
                .into_data_stream()
                .map(|data| data.map(Frame::data).map_err(Into::into));
            StreamBody::new(frames.take_until(left.cancelled_owned()))
        }))
    }

    /// Goes on to the next server, unless that has been done.
    fn leave(&self, used: &Arc<Choice>, why: &str) {
        if used.all.len() < 2 {
            return;
        }
        let next = Arc::new(Choice {
            all: used.all.clone(),
            at: used.at.saturating_add(1).checked_rem(used.all.len()).unwrap_or(0),
            left: CancellationToken::new(),
        });
        if Arc::ptr_eq(&self.0.compare_and_swap(used, next.clone()), used) {
            used.left.cancel();
            let address = |choice: &Choice| choice.all.get(choice.at).map(|(address, _)| address.clone());
            tracing::warn!(
                left = address(used),
                next = address(&next),
                why,
                "another API server is used"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU16, Ordering};

    use super::*;

    /// A server that answers with what it is told: 0 refuses, 1 never answers, 2 begins an answer that does not end.
    fn server(name: &'static str) -> (Arc<AtomicU16>, (String, Client)) {
        let told = Arc::new(AtomicU16::new(200));
        let does = told.clone();
        let service = tower::service_fn(move |_: Request<Body>| {
            let does = does.load(Ordering::Relaxed);
            async move {
                let status = match does {
                    0 => return Err(BoxError::from("refused")),
                    1 => std::future::pending().await,
                    2 => StatusCode::OK,
                    code => StatusCode::from_u16(code)?,
                };
                let begun = futures::stream::iter([Ok::<_, BoxError>(Frame::data(Bytes::from(name)))]);
                let frames = match does {
                    2 => begun.chain(futures::stream::pending()).left_stream(),
                    _ => begun.right_stream(),
                };
                Ok(Response::builder().status(status).body(StreamBody::new(frames))?)
            }
        });
        (told, (name.to_owned(), Client::in_process(service)))
    }

    async fn ask(client: &Client) -> Result<(u16, String), String> {
        let request = Request::get("/").body(Vec::new()).expect("a request");
        let answer = client
            .kube()
            .send(request.map(Body::from))
            .await
            .map_err(|e| e.to_string())?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.map_err(|e| e.to_string())?;
        Ok((status, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_server_is_used_when_one_fails() {
        let (a, first) = server("a");
        let (b, second) = server("b");
        let (client, servers) = Client::of_servers(vec![first.clone(), second.clone()]);
        let got = |code, name: &str| Ok((code, name.to_owned()));
        assert_eq!(ask(&client).await, got(200, "a"));
        // An error of the request is none of the server.
        a.store(404, Ordering::Relaxed);
        assert_eq!(ask(&client).await, got(404, "a"));
        a.store(0, Ordering::Relaxed);
        assert!(ask(&client).await.is_err());
        assert_eq!(ask(&client).await, got(200, "b"));
        b.store(503, Ordering::Relaxed);
        assert_eq!(ask(&client).await, got(503, "b"));
        a.store(1, Ordering::Relaxed);
        assert!(ask(&client).await.is_err(), "it never answered");
        b.store(2, Ordering::Relaxed);
        // What comes from one that is kept goes on, what comes from one that is left ends.
        let mut watch = Box::pin(ask(&client));
        let waits = Duration::from_secs(600);
        assert!(tokio::time::timeout(waits, &mut watch).await.is_err());
        servers.set(vec![first.clone(), second]);
        assert!(tokio::time::timeout(waits, &mut watch).await.is_err());
        servers.set(vec![first]);
        assert_eq!(watch.await, got(200, "b"));
        a.store(503, Ordering::Relaxed);
        assert_eq!(ask(&client).await, got(503, "a"));
        assert_eq!(ask(&client).await, got(503, "a"), "there is no other");
    }
}

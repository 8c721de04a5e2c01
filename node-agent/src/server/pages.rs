//! Small pages of the node server: pods, usage, counters, and loading of image archives.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use futures::StreamExt;
use http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::{Answer, Refusal, Serving, full};
use crate::cri::v1::ListContainerStatsRequest;
use crate::runtime::label;

const ARCHIVE_MAX_BYTES: u64 = 16 << 30;

const UPLOAD_PREFIX: &str = "load-";

/// An archive on its way to the runtime; removed when dropped.
struct Upload(PathBuf);

impl Drop for Upload {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Removes archives that an agent left that was killed in the middle of an upload.
pub fn remove_uploads(data_dir: &Path) {
    let left = std::fs::read_dir(data_dir.join("agent"))
        .into_iter()
        .flatten()
        .flatten();
    for entry in left.filter(|entry| entry.file_name().to_string_lossy().starts_with(UPLOAD_PREFIX)) {
        let _ = std::fs::remove_file(entry.path());
    }
}

fn json_answer(value: &Value) -> Answer {
    let mut answer = Response::new(full(value.to_string()));
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    answer
}

/// Imports the archive in the request's body.
pub async fn load_image(state: &Serving, request: Request<Incoming>) -> Result<Answer, Refusal> {
    let internal = |message: String| (StatusCode::INTERNAL_SERVER_ERROR, message);
    let name = format!("{UPLOAD_PREFIX}{}.tar", uuid::Uuid::new_v4().simple());
    // Dropped with the request, also when the client leaves in the middle of it.
    let upload = Upload(state.data_dir.join("agent").join(name));
    let path = &upload.0;
    let result = async {
        let mut file = tokio::fs::File::create(path)
            .await
            .map_err(|error| internal(error.to_string()))?;
        let mut body = request.into_body().into_data_stream();
        let mut size = 0u64;
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
            size += chunk.len() as u64;
            if size > ARCHIVE_MAX_BYTES {
                return Err((
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "the archive is larger than 16 GiB".to_string(),
                ));
            }
            file.write_all(&chunk)
                .await
                .map_err(|error| internal(error.to_string()))?;
        }
        file.flush().await.map_err(|error| internal(error.to_string()))?;
        state
            .importer
            .import(path)
            .await
            .map_err(|error| (StatusCode::BAD_REQUEST, error))
    }
    .await;
    drop(upload);
    let names = result?;
    state.images_changed.notify_one();
    Ok(json_answer(&json!({"images": names})))
}

/// The pods of this node.
pub fn pods(state: &Serving) -> Answer {
    let items: Vec<Value> = state
        .pods
        .list()
        .iter()
        .filter_map(|pod| serde_json::to_value(&**pod).ok())
        .collect();
    json_answer(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
}

/// CPU and memory of every container, grouped by pod.
pub async fn summary(state: &Serving) -> Result<Answer, Refusal> {
    let response = state
        .shared
        .runtime
        .service()
        .list_container_stats(ListContainerStatsRequest::default())
        .await
        .map_err(|status| (StatusCode::INTERNAL_SERVER_ERROR, status.message().to_string()))?;
    let mut pods: BTreeMap<(String, String, String), Vec<Value>> = BTreeMap::new();
    for stats in response.into_inner().stats {
        let Some(attributes) = stats.attributes else { continue };
        let part = |name: &str| attributes.labels.get(name).cloned().unwrap_or_default();
        let key = (part(label::POD_NAMESPACE), part(label::POD_NAME), part(label::POD_UID));
        let cpu = stats
            .cpu
            .and_then(|cpu| cpu.usage_core_nano_seconds)
            .map_or(0, |value| value.value);
        let memory = stats
            .memory
            .and_then(|memory| memory.working_set_bytes)
            .map_or(0, |value| value.value);
        pods.entry(key)
            .or_default()
            .push(json!({"name": attributes.metadata.map(|m| m.name).unwrap_or_default(),
            "cpu": {"usageCoreNanoSeconds": cpu}, "memory": {"workingSetBytes": memory}}));
    }
    let pods: Vec<Value> = pods
        .into_iter()
        .map(|((namespace, name, uid), containers)| {
            json!({"podRef": {"namespace": namespace, "name": name, "uid": uid}, "containers": containers})
        })
        .collect();
    Ok(json_answer(
        &json!({"node": {"nodeName": state.shared.node.name}, "pods": pods}),
    ))
}

/// A few counters in the Prometheus text format.
pub fn metrics(state: &Serving) -> Answer {
    let text = format!(
        "# HELP kubelet_running_pods Number of pods on this node\n# TYPE kubelet_running_pods gauge\nkubelet_running_pods {}\n",
        state.pods.len()
    );
    Response::new(full(text))
}

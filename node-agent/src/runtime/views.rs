//! Images as read-only directories: a view of an image's file system in containerd, mounted by the agent.
//! containerd 1.6 offers no such volumes by its runtime interface.

use std::collections::HashMap;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use serde_json::Value;
use tonic::Code;

use super::{Answer, Cri, RuntimeError};
use crate::cri::snapshots::snapshots_client::SnapshotsClient;
use crate::cri::snapshots::{Mount, SnapshotRequest, ViewSnapshotRequest};
use crate::cri::{in_namespace, v1};

/// Without this label containerd would collect the view, and with it the image's layers.
const ROOT_LABEL: &str = "containerd.io/gc.root";

fn failed(message: String) -> RuntimeError {
    RuntimeError {
        code: "Unknown".into(),
        message,
    }
}

impl Cri {
    /// Mounts a view called `key` of an image at a directory that exists.
    pub(super) async fn mount_view(&self, image: &str, key: &str, target: &Path) -> Answer<()> {
        let mut client = SnapshotsClient::new(self.channel());
        let request = ViewSnapshotRequest {
            snapshotter: self.snapshotter.clone(),
            key: key.to_string(),
            parent: self.chain_id(image).await?,
            labels: HashMap::from([(ROOT_LABEL.to_string(), "coxswain".to_string())]),
        };
        let mounts = match client.view(in_namespace(request)).await {
            Err(status) if status.code() == Code::AlreadyExists => {
                client.mounts(in_namespace(self.view(key))).await?.into_inner().mounts
            }
            other => other?.into_inner().mounts,
        };
        for mount in &mounts {
            apply(mount, target).map_err(|error| failed(format!("mounting on {}: {error}", target.display())))?;
        }
        Ok(())
    }

    /// Removes a view that is not mounted any more.
    pub(super) async fn remove_view(&self, key: &str) -> Answer<()> {
        let mut client = SnapshotsClient::new(self.channel());
        match client.remove(in_namespace(self.view(key))).await {
            Err(status) if status.code() == Code::NotFound => Ok(()),
            other => other.map(drop).map_err(RuntimeError::from),
        }
    }

    fn view(&self, key: &str) -> SnapshotRequest {
        SnapshotRequest {
            snapshotter: self.snapshotter.clone(),
            key: key.to_string(),
        }
    }

    /// The name of an image's topmost layer.
    async fn chain_id(&self, image: &str) -> Answer<String> {
        let image = Some(v1::ImageSpec {
            image: image.to_string(),
            annotations: HashMap::new(),
        });
        let request = v1::ImageStatusRequest { image, verbose: true };
        let info = self.images().image_status(request).await?.into_inner().info;
        let info: Value = info
            .get("info")
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default();
        let chain = info.get("chainID").and_then(Value::as_str).map(str::to_string);
        chain.ok_or_else(|| failed("the runtime does not tell the image's layers".into()))
    }
}

fn apply(wanted: &Mount, target: &Path) -> nix::Result<()> {
    let mut flags = MsFlags::empty();
    let mut data = Vec::new();
    for option in &wanted.options {
        match option.as_str() {
            "ro" => flags |= MsFlags::MS_RDONLY,
            "bind" => flags |= MsFlags::MS_BIND,
            "rbind" => flags |= MsFlags::MS_BIND | MsFlags::MS_REC,
            other => data.push(other),
        }
    }
    let data = data.join(",");
    mount(
        Some(wanted.source.as_str()),
        target,
        Some(wanted.r#type.as_str()),
        flags,
        Some(data.as_str()),
    )?;
    if flags.contains(MsFlags::MS_BIND | MsFlags::MS_RDONLY) {
        // The kernel takes the second flag of a new bind mount only by mounting it again.
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        mount(None::<&str>, target, None::<&str>, flags, None::<&str>)?;
    }
    Ok(())
}

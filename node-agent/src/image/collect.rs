//! Images nobody uses go when the disk fills: from 85 % down to 80 %, the longest unused first.
//!
//! Never removed: what a container uses, what is pinned, what came less than two minutes ago, and what
//! was loaded into this node by hand, which no registry could bring back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use coxswain_client::{EventType, Recorder};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ObjectReference;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::pause;
use crate::cri::v1::{ListContainersRequest, ListImagesRequest};
use crate::runtime::Cri;

const HIGH_PERCENT: u64 = 85;
const LOW_PERCENT: u64 = 80;
const AGE_MIN: SignedDuration = SignedDuration::from_secs(120);
const PERIOD: Duration = Duration::from_secs(300);

/// One image that is present.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Its id.
    pub id: String,
    /// Bytes it takes.
    pub size: u64,
    /// It must stay: pinned, or without a registry to come back from.
    pub keep: bool,
}

/// What is remembered of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// When it was first seen.
    pub first: Timestamp,
    /// When a container last used it.
    pub used: Timestamp,
}

/// A file system's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// All.
    pub capacity: u64,
    /// Free for everybody.
    pub available: u64,
}

/// What to do about the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collection {
    /// Images to remove, in order.
    pub remove: Vec<String>,
    /// Bytes that should become free; 0 when the disk is not full.
    pub wanted_bytes: u64,
    /// Bytes that the images to remove take.
    pub found_bytes: u64,
}

/// Decides which images go.
pub fn collection(images: &[Image], seen: &BTreeMap<String, Seen>, disk: Disk, now: Timestamp) -> Collection {
    let mut collection = Collection::default();
    let used = disk.capacity.saturating_sub(disk.available);
    if disk.capacity == 0 || used.saturating_mul(100) < disk.capacity.saturating_mul(HIGH_PERCENT) {
        return collection;
    }
    let free_after = (disk.capacity / 100).saturating_mul(100 - LOW_PERCENT);
    collection.wanted_bytes = free_after.saturating_sub(disk.available);
    let mut candidates: Vec<(Seen, &Image)> = images
        .iter()
        .filter(|image| !image.keep)
        .filter_map(|image| Some((*seen.get(&image.id)?, image)))
        .filter(|(seen, _)| seen.used < now && now.duration_since(seen.first) >= AGE_MIN)
        .collect();
    candidates.sort_by_key(|(seen, image)| (seen.used, seen.first, image.id.clone()));
    for (_, image) in candidates {
        if collection.found_bytes >= collection.wanted_bytes {
            break;
        }
        collection.found_bytes = collection.found_bytes.saturating_add(image.size);
        collection.remove.push(image.id.clone());
    }
    collection
}

/// What the collector works with.
#[derive(Clone)]
pub struct Collector {
    /// The runtime.
    pub runtime: Arc<Cri>,
    /// For the event that says what could not be freed.
    pub recorder: Recorder,
    /// The node's name.
    pub node: String,
    /// A directory of the file system that holds images.
    pub directory: PathBuf,
    /// Told when images are gone.
    pub changed: Arc<Notify>,
}

impl Collector {
    /// Looks at the disk every five minutes until cancelled.
    pub async fn run(self, token: CancellationToken) {
        let mut seen = BTreeMap::new();
        loop {
            if let Err(error) = self.pass(&mut seen).await {
                tracing::warn!(%error, "collecting images");
            }
            tokio::select! {
                () = token.cancelled() => return,
                () = tokio::time::sleep(PERIOD) => {}
            }
        }
    }

    async fn pass(&self, seen: &mut BTreeMap<String, Seen>) -> Result<(), String> {
        let (images, in_use) = observe(&self.runtime)
            .await
            .map_err(|status| status.message().to_string())?;
        let now = Timestamp::now();
        remember(seen, &images, &in_use, now);
        let stat = rustix::fs::statvfs(&self.directory).map_err(|error| error.to_string())?;
        let disk = Disk {
            capacity: stat.f_blocks.saturating_mul(stat.f_frsize),
            available: stat.f_bavail.saturating_mul(stat.f_frsize),
        };
        let collection = collection(&images, seen, disk, now);
        for id in &collection.remove {
            self.runtime.remove_image(id).await.map_err(|error| error.to_string())?;
            tracing::info!(image = id, "removed: the disk is nearly full and nothing uses it");
        }
        if !collection.remove.is_empty() {
            self.changed.notify_one();
        }
        if collection.found_bytes < collection.wanted_bytes {
            let about = ObjectReference {
                kind: Some("Node".into()),
                name: Some(self.node.clone()),
                uid: Some(self.node.clone()),
                ..ObjectReference::default()
            };
            let message = format!(
                "Failed to garbage collect required amount of images. Attempted to free {} bytes, but only found {} \
                 bytes eligible to free.",
                collection.wanted_bytes, collection.found_bytes
            );
            self.recorder
                .record(about, EventType::Warning, "FreeDiskSpaceFailed", &message);
        }
        Ok(())
    }
}

async fn observe(runtime: &Cri) -> Result<(Vec<Image>, BTreeSet<String>), tonic::Status> {
    let listed = runtime
        .images()
        .list_images(ListImagesRequest::default())
        .await?
        .into_inner();
    let images = listed.images.into_iter().map(|image| Image {
        keep: image.pinned || image.repo_digests.is_empty() || image.repo_tags.iter().any(|tag| tag == pause::NAME),
        id: image.id,
        size: image.size,
    });
    let containers = runtime
        .service()
        .list_containers(ListContainersRequest::default())
        .await?
        .into_inner();
    let in_use = containers
        .containers
        .into_iter()
        .flat_map(|container| [container.image_ref, container.image.unwrap_or_default().image])
        .collect();
    Ok((images.collect(), in_use))
}

/// Notes what is new, what is used now, and forgets what is gone.
fn remember(seen: &mut BTreeMap<String, Seen>, images: &[Image], in_use: &BTreeSet<String>, now: Timestamp) {
    seen.retain(|id, _| images.iter().any(|image| image.id == *id));
    for image in images {
        let entry = seen.entry(image.id.clone()).or_insert(Seen {
            first: now,
            used: Timestamp::UNIX_EPOCH,
        });
        if in_use.contains(&image.id) {
            entry.used = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_unused_goes_first() {
        let now = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(10_000);
        let ago = |seconds| now - SignedDuration::from_secs(seconds);
        let seen = |first, used| Seen {
            first: ago(first),
            used: ago(used),
        };
        let image = |id: &str, keep| Image {
            id: id.into(),
            size: 30,
            keep,
        };
        let images = [
            image("kept", true),
            image("old", false),
            image("older", false),
            image("used", false),
            image("fresh", false),
        ];
        let known = BTreeMap::from([
            ("kept".to_string(), seen(9000, 9000)),
            ("old".to_string(), seen(9000, 1000)),
            ("older".to_string(), seen(9000, 2000)),
            ("used".to_string(), seen(9000, 0)),
            ("fresh".to_string(), seen(60, 10_000)),
        ]);
        let disk = |available| Disk {
            capacity: 1000,
            available,
        };
        let table: [(u64, &[&str], u64); 4] = [
            (151, &[], 0),
            (150, &["older", "old"], 50),
            (175, &[], 0),
            (100, &["older", "old"], 100),
        ];
        for (available, remove, wanted) in table {
            let found = collection(&images, &known, disk(available), now);
            assert_eq!(
                (
                    found.remove.iter().map(String::as_str).collect::<Vec<_>>(),
                    found.wanted_bytes
                ),
                (remove.to_vec(), wanted),
                "{available}"
            );
        }
    }
}

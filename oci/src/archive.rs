//! Reads an image archive: which images it holds, and its blobs one after the other.
//!
//! Accepts an OCI layout (`index.json`) and Docker's form (`manifest.json`). An archive is read
//! twice: [`describe`] finds the images, [`blobs`] hands every blob to a sink, so that an archive
//! of gigabytes never has to be in memory.
//!
//! Does not: verify digests (the content store does so while it writes), or unpack layers.

use crate::{OciError, tar};
use serde_json::Value;
use std::io::Read;

/// Largest `index.json` or `manifest.json`, in bytes.
const INDEX_BYTES_MAX: u64 = 4 << 20;

/// One image of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The reference it is to be listed under; empty when the archive names none.
    pub name: String,
    /// Digest of its manifest (or of an index of manifests), `sha256:<hex>`.
    pub digest: String,
    pub media_type: String,
    /// Size of that manifest in bytes.
    pub size: u64,
}

/// What an archive says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Description {
    /// Images of the OCI layout.
    pub images: Vec<Found>,
    /// Docker's `manifest.json`, when the archive has one and no OCI index.
    pub docker: Option<Value>,
}

/// Finds the images of an archive; reads it to the end.
pub fn describe(reader: impl Read) -> Result<Description, OciError> {
    let mut tar = tar::Reader::new(reader);
    let mut found = Description::default();
    let mut seen = false;
    while let Some(entry) = tar.next_entry()? {
        match entry.path.trim_start_matches("./") {
            "index.json" => {
                found.images = images_of(&parse("index.json", &tar.content(INDEX_BYTES_MAX)?)?);
                seen = true;
            }
            "manifest.json" => {
                found.docker = Some(parse("manifest.json", &tar.content(INDEX_BYTES_MAX)?)?);
                seen = true;
            }
            _ => {}
        }
    }
    if !seen {
        let detail = "it has neither an index.json nor a manifest.json".into();
        return Err(OciError::NotAnImage { detail });
    }
    if !found.images.is_empty() {
        found.docker = None;
    }
    Ok(found)
}

/// Hands every blob (`sha256:<hex>`, size, content) of an OCI layout to `sink`, in archive order.
pub fn blobs<R: Read, E: From<OciError>>(
    reader: R,
    mut sink: impl FnMut(&str, u64, &mut dyn Read) -> Result<(), E>,
) -> Result<(), E> {
    let mut tar = tar::Reader::new(reader);
    while let Some(entry) = tar.next_entry()? {
        let path = entry.path.trim_start_matches("./");
        if let Some(hex) = path.strip_prefix("blobs/sha256/")
            && entry.kind == tar::Kind::File
            && hex.len() == 64
        {
            sink(&format!("sha256:{hex}"), entry.size, &mut tar)?;
        }
    }
    Ok(())
}

fn parse(name: &str, bytes: &[u8]) -> Result<Value, OciError> {
    serde_json::from_slice(bytes).map_err(|error| OciError::Damaged {
        detail: format!("its {name} is not JSON: {error}"),
    })
}

fn images_of(index: &Value) -> Vec<Found> {
    let Some(manifests) = index["manifests"].as_array() else {
        return Vec::new();
    };
    manifests
        .iter()
        .filter_map(|manifest| {
            let note = |key: &str| manifest["annotations"][key].as_str();
            let name = note("io.containerd.image.name").or(note("org.opencontainers.image.ref.name"));
            Some(Found {
                name: name.unwrap_or_default().to_owned(),
                digest: manifest["digest"].as_str()?.to_owned(),
                media_type: manifest["mediaType"]
                    .as_str()
                    .unwrap_or(crate::MEDIA_TYPE_MANIFEST)
                    .to_owned(),
                size: manifest["size"].as_u64()?,
            })
        })
        .collect()
}

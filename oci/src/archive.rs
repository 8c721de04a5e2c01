//! Reads an image archive: which images it holds, and its blobs one after the other.
//!
//! Accepts an OCI layout (`index.json`) and Docker's form (`manifest.json`). An archive is read
//! twice: [`describe`] finds the images, [`blobs`] hands every blob to a sink, so that an archive
//! of gigabytes never has to be in memory.
//!
//! An archive comes from whoever built the image. Nothing here writes files by the names in it, but others may: an entry
//! that would lead outside of a directory it is unpacked in, a device, and a file that is there twice are refused.
//!
//! Does not: verify digests (the content store does so while it writes), or unpack layers.

use crate::{OciError, tar};
use serde_json::Value;
use std::collections::HashSet;
use std::io::Read;

/// Largest `index.json` or `manifest.json`, in bytes.
const INDEX_BYTES_MAX: u64 = 4 << 20;

/// Entries of one archive; an image has a few for each layer.
const ENTRIES_MAX: usize = 1 << 16;

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
    let mut files = HashSet::new();
    while let Some(entry) = tar.next_entry()? {
        let path = check(&entry, &mut files)?;
        match path.as_str() {
            _ if entry.kind != tar::Kind::File => {}
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
    let mut files = HashSet::new();
    while let Some(entry) = tar.next_entry()? {
        let path = check(&entry, &mut files)?;
        if let Some(hex) = path.strip_prefix("blobs/sha256/")
            && entry.kind == tar::Kind::File
            && is_digest(hex)
        {
            sink(&format!("sha256:{hex}"), entry.size, &mut tar)?;
        }
    }
    Ok(())
}

fn is_digest(hex: &str) -> bool {
    hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The path of an entry, without `.` and doubled slashes, when nothing about the entry is wrong.
fn check(entry: &tar::Entry, files: &mut HashSet<String>) -> Result<String, OciError> {
    let refuse = |why: &str| {
        Err(OciError::Damaged {
            detail: format!("its entry {:?} {why}", entry.path),
        })
    };
    let Some(path) = inside("", &entry.path) else {
        return refuse("leads out of the archive");
    };
    let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
    let link = match entry.kind {
        tar::Kind::Symlink => inside(parent, &entry.link),
        tar::Kind::HardLink => inside("", &entry.link),
        tar::Kind::Device => return refuse("is a device or a named pipe"),
        tar::Kind::Other => return refuse("is of a kind that image archives do not have"),
        tar::Kind::File | tar::Kind::Directory => Some(String::new()),
    };
    if link.is_none() {
        return refuse("is a link that leads out of the archive");
    }
    if entry.kind != tar::Kind::Directory && !files.insert(path.clone()) {
        return refuse("is there twice");
    }
    if files.len() > ENTRIES_MAX {
        return refuse(&format!("is one of more than {ENTRIES_MAX}"));
    }
    Ok(path)
}

/// Where a path leads from a directory of the archive; `None` when that is outside.
fn inside(from: &str, path: &str) -> Option<String> {
    if path.starts_with('/') || path.contains('\0') {
        return None;
    }
    let mut parts: Vec<&str> = from.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
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

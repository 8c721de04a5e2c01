//! Container images made without a registry, a builder or a container tool.
//!
//! Owns the few bytes between "these files, this entry point" and an OCI image archive that
//! containerd, skopeo or `docker load` accept: an OCI layout (`oci-layout`, `index.json`,
//! `blobs/sha256/...`) in one uncompressed tar, with Docker's `manifest.json` beside it.
//! The same input always gives the same bytes (no clock, owners are root, times are zero), so an
//! image that did not change keeps its digest.
//!
//! Also reads such archives back ([`archive::Reader`]), for whoever imports them into a content
//! store.
//!
//! Does not: compress layers, pull, push, or talk to a container runtime.

pub mod archive;
pub mod tar;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Media type of the image index, the manifest, the configuration and an uncompressed layer.
pub const MEDIA_TYPE_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of an image manifest.
pub const MEDIA_TYPE_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an image configuration.
pub const MEDIA_TYPE_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Media type of an uncompressed layer.
pub const MEDIA_TYPE_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// One image to be built. Everything that is not said here is empty or root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// Full reference under which a runtime lists it, e.g. `localhost/coxswain/sample:v1`.
    pub name: String,
    /// Layers, lowest first.
    pub layers: Vec<Layer>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// Environment as `NAME=value` pairs, in this order.
    pub env: Vec<(String, String)>,
    /// TCP ports that the image declares.
    pub ports: Vec<u16>,
    /// User as `uid[:gid]` or a name; empty means root.
    pub user: String,
    /// Working directory; empty means `/`.
    pub working_dir: String,
    /// Labels of the image configuration.
    pub labels: Vec<(String, String)>,
}

/// One layer: files in the order in which they are written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layer {
    pub files: Vec<File>,
}

/// One entry of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Path inside the image, with or without a leading slash. Missing parents become
    /// directories of mode 0755.
    pub path: String,
    /// Permission bits, e.g. `0o755`.
    pub mode: u32,
    pub content: Content,
}

/// What a layer entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    Bytes(Vec<u8>),
    Directory,
    /// A symbolic link to this target.
    Symlink(String),
}

/// Why an image could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    #[error("file name {path:?} does not fit into a tar header (255 bytes at most)")]
    NameTooLong { path: String },
    #[error("the archive is damaged: {detail}")]
    Damaged { detail: String },
    #[error("the archive is not an image: {detail}")]
    NotAnImage { detail: String },
    #[error("reading the archive failed")]
    Read(#[from] std::io::Error),
}

impl File {
    /// An executable file (mode 0755).
    pub fn executable(path: impl Into<String>, bytes: impl Into<Vec<u8>>) -> File {
        File {
            path: path.into(),
            mode: 0o755,
            content: Content::Bytes(bytes.into()),
        }
    }

    /// A plain file (mode 0644).
    pub fn plain(path: impl Into<String>, bytes: impl Into<Vec<u8>>) -> File {
        File {
            path: path.into(),
            mode: 0o644,
            content: Content::Bytes(bytes.into()),
        }
    }

    /// A directory with these permission bits.
    pub fn directory(path: impl Into<String>, mode: u32) -> File {
        File {
            path: path.into(),
            mode,
            content: Content::Directory,
        }
    }

    /// A symbolic link.
    pub fn symlink(path: impl Into<String>, target: impl Into<String>) -> File {
        File {
            path: path.into(),
            mode: 0o777,
            content: Content::Symlink(target.into()),
        }
    }
}

impl Image {
    /// An image of one static binary at `/<file name>`, which is also the entry point.
    pub fn of_binary(name: impl Into<String>, file_name: &str, bytes: impl Into<Vec<u8>>) -> Image {
        Image {
            name: name.into(),
            layers: vec![Layer {
                files: vec![File::executable(file_name, bytes)],
            }],
            entrypoint: vec![format!("/{}", file_name.trim_start_matches('/'))],
            ..Image::default()
        }
    }

    /// The whole image as one tar: an OCI layout with Docker's manifest beside it.
    ///
    /// Fails only when a file name does not fit into a tar header.
    pub fn to_archive(&self) -> Result<Vec<u8>, OciError> {
        let mut layers = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            layers.push(Blob::new(layer.to_tar()?));
        }
        let config = Blob::new(canonical(&self.config(&layers)));
        let manifest = Blob::new(canonical(&manifest(&config, &layers)));
        let index = canonical(&self.index(&manifest));
        let docker = canonical(&self.docker_manifest(&config, &layers));

        let mut out = tar::Writer::new();
        out.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        out.file("index.json", 0o644, &index)?;
        out.file("manifest.json", 0o644, &docker)?;
        out.directory("blobs/", 0o755)?;
        out.directory("blobs/sha256/", 0o755)?;
        let mut written: Vec<&str> = Vec::new();
        for blob in layers.iter().chain([&config, &manifest]) {
            // Two equal layers are one blob.
            if !written.contains(&blob.hex.as_str()) {
                out.file(&blob.path(), 0o644, &blob.bytes)?;
                written.push(&blob.hex);
            }
        }
        Ok(out.finish())
    }

    fn config(&self, layers: &[Blob]) -> Value {
        let mut run = serde_json::Map::new();
        if !self.entrypoint.is_empty() {
            run.insert("Entrypoint".into(), json!(self.entrypoint));
        }
        if !self.cmd.is_empty() {
            run.insert("Cmd".into(), json!(self.cmd));
        }
        let env: Vec<String> = self.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
        if !env.is_empty() {
            run.insert("Env".into(), json!(env));
        }
        if !self.ports.is_empty() {
            let ports: serde_json::Map<String, Value> = self
                .ports
                .iter()
                .map(|port| (format!("{port}/tcp"), json!({})))
                .collect();
            run.insert("ExposedPorts".into(), Value::Object(ports));
        }
        if !self.user.is_empty() {
            run.insert("User".into(), json!(self.user));
        }
        let dir = if self.working_dir.is_empty() {
            "/"
        } else {
            &self.working_dir
        };
        run.insert("WorkingDir".into(), json!(dir));
        if !self.labels.is_empty() {
            let labels: serde_json::Map<String, Value> =
                self.labels.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
            run.insert("Labels".into(), Value::Object(labels));
        }
        let diffs: Vec<String> = layers.iter().map(Blob::digest).collect();
        json!({
            "architecture": architecture(),
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": run,
            "rootfs": { "type": "layers", "diff_ids": diffs },
            "history": layers.iter().map(|_| json!({
                "created": "1970-01-01T00:00:00Z", "created_by": "coxswain"
            })).collect::<Vec<_>>(),
        })
    }

    fn index(&self, manifest: &Blob) -> Value {
        json!({
            "schemaVersion": 2,
            "mediaType": MEDIA_TYPE_INDEX,
            "manifests": [{
                "mediaType": MEDIA_TYPE_MANIFEST,
                "digest": manifest.digest(),
                "size": manifest.bytes.len(),
                "platform": { "architecture": architecture(), "os": "linux" },
                "annotations": {
                    "io.containerd.image.name": self.name,
                    "org.opencontainers.image.ref.name": tag_of(&self.name),
                },
            }],
        })
    }

    fn docker_manifest(&self, config: &Blob, layers: &[Blob]) -> Value {
        json!([{
            "Config": config.path(),
            "RepoTags": [self.name],
            "Layers": layers.iter().map(Blob::path).collect::<Vec<_>>(),
        }])
    }
}

impl Layer {
    /// The layer as an uncompressed tar.
    pub fn to_tar(&self) -> Result<Vec<u8>, OciError> {
        let mut out = tar::Writer::new();
        let mut made: Vec<String> = Vec::new();
        for file in &self.files {
            let path = file.path.trim_start_matches('/').trim_end_matches('/');
            for parent in parents(path) {
                if !made.contains(&parent) {
                    out.directory(&format!("{parent}/"), 0o755)?;
                    made.push(parent);
                }
            }
            match &file.content {
                Content::Bytes(bytes) => out.file(path, file.mode, bytes)?,
                Content::Symlink(target) => out.symlink(path, target)?,
                Content::Directory => {
                    out.directory(&format!("{path}/"), file.mode)?;
                    made.push(path.to_owned());
                }
            }
        }
        Ok(out.finish())
    }
}

/// `sha256:<hex>` of some bytes.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(bytes))
}

/// This machine's architecture in the words of an image index.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

struct Blob {
    hex: String,
    bytes: Vec<u8>,
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Blob {
        Blob {
            hex: hex(&bytes),
            bytes,
        }
    }

    fn digest(&self) -> String {
        format!("sha256:{}", self.hex)
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.hex)
    }
}

fn manifest(config: &Blob, layers: &[Blob]) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": MEDIA_TYPE_MANIFEST,
        "config": {
            "mediaType": MEDIA_TYPE_CONFIG, "digest": config.digest(), "size": config.bytes.len(),
        },
        "layers": layers.iter().map(|layer| json!({
            "mediaType": MEDIA_TYPE_LAYER, "digest": layer.digest(), "size": layer.bytes.len(),
        })).collect::<Vec<_>>(),
    })
}

fn canonical(value: &Value) -> Vec<u8> {
    // Maps are sorted and `Display` of a `Value` cannot fail.
    value.to_string().into_bytes()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

fn tag_of(name: &str) -> &str {
    let last = name.rsplit('/').next().unwrap_or(name);
    last.split_once(':').map_or("latest", |(_, tag)| tag)
}

fn parents(path: &str) -> Vec<String> {
    path.match_indices('/').map(|(at, _)| path[..at].to_owned()).collect()
}

#[cfg(test)]
mod tests;

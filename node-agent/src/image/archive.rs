//! Writes an OCI image as one uncompressed archive, in memory.
//!
//! Enough for images of a few static files: one layer, one manifest, an index that carries the full
//! image name so that containerd stores it under exactly that name. The bytes depend on the arguments
//! only, so the same image always has the same digest. It does not read images.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// One file or directory of an image.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// Path without the leading slash; a trailing slash makes it a directory.
    pub path: &'a str,
    /// Permission bits.
    pub mode: u32,
    /// Content; for a symbolic link (mode 0o120777) its target.
    pub content: &'a [u8],
}

/// What an image is made of.
#[derive(Clone, Debug)]
pub struct Image<'a> {
    /// Full name, registry and tag included.
    pub name: &'a str,
    /// Files in the order they are written; parents first.
    pub entries: &'a [Entry<'a>],
    /// The command containers run when the pod gives none.
    pub entrypoint: &'a [&'a str],
    /// Environment as `NAME=value`.
    pub env: &'a [&'a str],
}

const LINK: u32 = 0o120_000;

/// The image as an OCI layout in a tar archive.
pub fn write(image: &Image<'_>) -> Vec<u8> {
    let layer = tar(image.entries.iter().cloned());
    let layer_digest = digest(&layer);
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {"Entrypoint": image.entrypoint, "Env": image.env, "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
        "history": [{"created_by": "coxswain"}],
    })
    .to_string();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", config.as_bytes()),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    })
    .to_string();
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes());
    if let Some(fields) = entry.as_object_mut() {
        let tag = image.name.rsplit(':').next().unwrap_or("latest");
        fields.insert(
            "annotations".into(),
            json!({"io.containerd.image.name": image.name, "org.opencontainers.image.ref.name": tag}),
        );
        fields.insert(
            "platform".into(),
            json!({"architecture": architecture(), "os": "linux"}),
        );
    }
    let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", hex(bytes));
    let (layer_path, config_path, manifest_path) = (blob(&layer), blob(config.as_bytes()), blob(manifest.as_bytes()));
    let file = |path, content| Entry {
        path,
        mode: 0o644,
        content,
    };
    tar([
        file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.as_slice()),
        file(&layer_path, &layer),
        file(&config_path, config.as_bytes()),
        file(&manifest_path, manifest.as_bytes()),
        file("index.json", index.as_bytes()),
    ]
    .into_iter())
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(bytes))
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// A tar archive in the ustar format; names longer than its fields allow are split at a slash.
pub fn tar<'a>(entries: impl Iterator<Item = Entry<'a>>) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        let is_link = entry.mode & LINK == LINK;
        let is_dir = entry.path.ends_with('/');
        let body: &[u8] = if is_link || is_dir { &[] } else { entry.content };
        let mut header = [0u8; 512];
        let (prefix, name) = split_name(entry.path);
        put(&mut header, 0, 100, name.as_bytes());
        put(&mut header, 100, 8, format!("{:07o}", entry.mode & 0o7777).as_bytes());
        put(&mut header, 108, 8, b"0000000");
        put(&mut header, 116, 8, b"0000000");
        put(&mut header, 124, 12, format!("{:011o}", body.len()).as_bytes());
        put(&mut header, 136, 12, b"00000000000");
        put(&mut header, 148, 8, b"        ");
        header[156] = if is_link {
            b'2'
        } else if is_dir {
            b'5'
        } else {
            b'0'
        };
        if is_link {
            put(&mut header, 157, 100, entry.content);
        }
        put(&mut header, 257, 8, b"ustar\x0000");
        put(&mut header, 345, 155, prefix.as_bytes());
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        put(&mut header, 148, 8, format!("{sum:06o}\0 ").as_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(body);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

fn split_name(path: &str) -> (&str, &str) {
    if path.len() <= 100 {
        return ("", path);
    }
    let from = path.len() - 100;
    match path[from..].find('/') {
        Some(at) => (&path[..from + at], &path[from + at + 1..]),
        None => ("", path),
    }
}

fn put(header: &mut [u8; 512], at: usize, width: usize, bytes: &[u8]) {
    let n = bytes.len().min(width);
    header[at..at + n].copy_from_slice(&bytes[..n]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archive_is_deterministic_and_names_its_image() {
        let entries = [
            Entry {
                path: "bin/",
                mode: 0o755,
                content: b"",
            },
            Entry {
                path: "bin/a",
                mode: 0o755,
                content: b"x",
            },
        ];
        let image = Image {
            name: "example.test/a:1",
            entries: &entries,
            entrypoint: &["/bin/a"],
            env: &[],
        };
        let one = write(&image);
        assert_eq!(one, write(&image));
        assert_eq!(one.len() % 512, 0);
        let text = String::from_utf8_lossy(&one);
        assert!(text.contains("io.containerd.image.name") && text.contains("example.test/a:1"));
    }
}

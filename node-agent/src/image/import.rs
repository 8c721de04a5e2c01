//! Brings image archives into containerd.
//!
//! Archives in `<data-dir>/images/` are imported on start; an archive that was imported before and has
//! not changed is skipped, remembered in a file beside containerd's own data so that both disappear
//! together. One bad archive is reported and skipped. The work is done by `ctr`, which every
//! containerd package ships.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use tokio::process::Command;

use super::name::normalise;

/// How archives reach one containerd.
#[derive(Clone, Debug)]
pub struct Importer {
    /// Its socket.
    pub socket: PathBuf,
    /// The snapshotter layers are unpacked with.
    pub snapshotter: String,
}

impl Importer {
    /// Imports one archive, OCI layout or docker format, and returns the image names in it.
    pub async fn import(&self, archive: &Path) -> Result<Vec<String>, String> {
        let output = Command::new("ctr")
            .arg("--address")
            .arg(&self.socket)
            .args([
                "--namespace",
                crate::cri::NAMESPACE,
                "images",
                "import",
                "--snapshotter",
                &self.snapshotter,
            ])
            .arg(archive)
            .output()
            .await
            .map_err(|error| format!("cannot run ctr (package containerd): {error}"))?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let last = stderr
                .lines()
                .last()
                .unwrap_or("no output")
                .trim_start_matches("ctr: ")
                .to_string();
            return Err(format!("{}: {last}", archive.display()));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let names: Vec<String> = text
            .lines()
            .filter_map(|line| line.strip_prefix("unpacking "))
            .filter_map(|rest| rest.split(' ').next())
            .map(str::to_string)
            .collect();
        for name in &names {
            self.name_in_full(name).await?;
        }
        Ok(names)
    }

    /// Pods look images up by their full names: one stored as `nginx:1.19` gets that name too.
    async fn name_in_full(&self, name: &str) -> Result<(), String> {
        let Ok(full) = normalise(name) else { return Ok(()) };
        if full == name {
            return Ok(());
        }
        let output = Command::new("ctr")
            .arg("--address")
            .arg(&self.socket)
            .args([
                "--namespace",
                crate::cri::NAMESPACE,
                "images",
                "tag",
                "--force",
                name,
                &full,
            ])
            .output()
            .await
            .map_err(|error| format!("cannot run ctr (package containerd): {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!(
            "naming {name} {full}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ))
    }

    /// Imports every `*.tar` of a directory that is new or changed; returns one line for each.
    pub async fn import_directory(&self, directory: &Path, record: &Path) -> Vec<Result<String, String>> {
        let mut known: BTreeMap<String, (u64, u64)> = std::fs::read(record)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        let mut lines = Vec::new();
        let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
            .map(|entries| entries.filter_map(Result::ok).map(|entry| entry.path()).collect())
            .unwrap_or_default();
        files.sort();
        for file in files
            .into_iter()
            .filter(|file| file.extension().is_some_and(|ext| ext == "tar"))
        {
            let Some(stamp) = stamp(&file) else { continue };
            let name = file
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default();
            if known.get(&name) == Some(&stamp) {
                continue;
            }
            match self.import(&file).await {
                Ok(names) => {
                    lines.push(Ok(format!("{name}: {}", names.join(", "))));
                    known.insert(name, stamp);
                }
                Err(error) => lines.push(Err(error)),
            }
        }
        if let Ok(bytes) = serde_json::to_vec(&known)
            && let Err(error) = std::fs::write(record, bytes)
        {
            lines.push(Err(format!("{}: {error}", record.display())));
        }
        lines
    }
}

fn stamp(file: &Path) -> Option<(u64, u64)> {
    let meta = std::fs::metadata(file).ok()?;
    let modified = meta.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some((meta.len(), modified.as_nanos() as u64))
}

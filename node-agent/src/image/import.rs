//! Brings image archives into containerd.
//!
//! Archives in `<data-dir>/images/` are imported on start; an archive that was imported before and has
//! not changed is skipped, remembered in a file beside containerd's own data so that both disappear
//! together. One bad archive is reported and skipped. The work is done by `ctr`, which every
//! containerd package ships.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use coxswain_oci::archive::describe;
use flate2::bufread::MultiGzDecoder;
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
        let file = archive.to_path_buf();
        let checked = tokio::task::spawn_blocking(move || check(&file)).await;
        checked
            .map_err(|error| error.to_string())?
            .map_err(|error| format!("{}: {error}", archive.display()))?;
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

/// Reads an archive as `ctr` will, in bounded memory, and refuses one that is no image or names what no image has. One
/// that is compressed in a way other than gzip is left to `ctr`.
fn check(archive: &Path) -> Result<(), String> {
    let mut file = BufReader::new(std::fs::File::open(archive).map_err(|error| error.to_string())?);
    let head = file.fill_buf().map_err(|error| error.to_string())?;
    let is = |magic: &[u8]| head.starts_with(magic);
    let described = if is(&[0x1f, 0x8b]) {
        describe(MultiGzDecoder::new(file))
    } else if is(&[0x28, 0xb5, 0x2f, 0xfd]) {
        return Ok(());
    } else {
        describe(file)
    };
    described.map(drop).map_err(|error| error.to_string())
}

fn stamp(file: &Path) -> Option<(u64, u64)> {
    let meta = std::fs::metadata(file).ok()?;
    let modified = meta.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some((meta.len(), modified.as_nanos() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn archives_are_checked_before_they_are_imported() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let image = coxswain_oci::Image::of_binary("localhost/x:1", "x", b"x".to_vec()).to_archive()?;
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(&image)?;
        // A few bytes that unpack to an index of 64 MiB.
        let mut bomb = coxswain_oci::tar::Writer::new();
        bomb.file("index.json", 0o644, &vec![b' '; 64 << 20])?;
        let mut packed_bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed_bomb.write_all(&bomb.finish())?;
        let table = [
            ("plain", image, true),
            ("packed", packed.finish()?, true),
            ("bomb", packed_bomb.finish()?, false),
            ("empty", Vec::new(), false),
            ("text", b"hello".to_vec(), false),
            ("cut gzip", vec![0x1f, 0x8b], false),
        ];
        for (name, bytes, good) in table {
            let file = dir.path().join("archive.tar");
            std::fs::write(&file, bytes)?;
            assert_eq!(check(&file).is_ok(), good, "{name}: {:?}", check(&file));
        }
        Ok(())
    }
}

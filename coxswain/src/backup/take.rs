//! One backup: what the server tells, locked, in a file that is there as a whole or not at all.

use std::fmt::{self, Display, Formatter};
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use coxswain_consensus::backup::{self, Cluster, Frames, Head, Secret, Writer};
use futures::StreamExt;
use http_body_util::BodyExt;

use super::{FILES, server};

/// How the name of a backup that is not whole yet ends.
pub const UNFINISHED: &str = ".partial";

/// What has been taken.
pub struct Taken {
    head: Head,
    bytes: u64,
}

impl Display for Taken {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Head { revision, objects } = self.head;
        let mib = self.bytes as f64 / f64::from(1 << 20);
        write!(f, "Backup of revision {revision} with {objects} objects, {mib:.1} MiB")
    }
}

/// A file that is removed again unless it gets its name.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The name of a backup while it is not whole.
fn unfinished(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(UNFINISHED);
    name.into()
}

/// Refuses a place where no new file can be.
///
/// # Errors
/// Says why.
pub fn check(file: &Path) -> Result<()> {
    if file.symlink_metadata().is_ok() {
        bail!("{} is there already: choose another name, or remove it", file.display());
    }
    let folder = folder(file);
    if !folder.is_dir() {
        bail!("there is no directory {}", folder.display());
    }
    if file.file_name().is_none() {
        bail!("{} is no name for a file", file.display());
    }
    Ok(())
}

fn folder(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Takes a backup of the cluster whose server uses the data directory.
///
/// # Errors
/// Whatever is in the way; there is no file then.
pub async fn take(data_dir: &Path, secret: &Secret, file: &Path) -> Result<Taken> {
    check(file)?;
    let mut cluster = Cluster {
        taken: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        ..Cluster::default()
    };
    for name in FILES {
        let path = data_dir.join(name);
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        cluster.files.insert(name.to_owned(), text);
    }
    let mut answer = server::post(data_dir, "/cluster/backup").await?.into_data_stream();
    let temporary = Unfinished(unfinished(file));
    let written = || format!("write {}", temporary.0.display());
    let out = create(&temporary.0).with_context(written)?;
    let mut writer = Writer::begin(BufWriter::with_capacity(1 << 20, out), secret, &cluster).with_context(written)?;
    let mut frames = Frames::default();
    while let Some(bytes) = answer.next().await {
        let bytes = bytes.context("the server's answer broke off")?;
        frames.take(&bytes, |part| writer.part(part)).with_context(written)?;
    }
    let (mut out, head) = writer.finish().context("what the server told is not whole")?;
    out.flush().with_context(written)?;
    out.get_ref().sync_all().with_context(written)?;
    // A backup that cannot be read back is none.
    backup::verify(&temporary.0, secret).context("the backup does not read back as it was written")?;
    let bytes = out.get_ref().metadata().with_context(written)?.len();
    let named = || format!("give {} its name", file.display());
    check(file)?;
    fs::rename(&temporary.0, file).with_context(named)?;
    File::open(folder(file))
        .and_then(|folder| folder.sync_all())
        .with_context(named)?;
    Ok(Taken { head, bytes })
}

fn create(path: &Path) -> std::io::Result<File> {
    // One that was left by an interrupted attempt is of no use.
    if let Err(error) = fs::remove_file(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(error);
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

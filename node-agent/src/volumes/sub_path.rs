//! Parts of volumes as mounts. The runtime is never given a path inside a volume, because containers can change what such
//! a path leads to after it was checked: it is given a directory of the agent on which the opened part is mounted.
//!
//! ```text
//!   <pod>/volumes/<plugin>/<volume>/a/b                    opened beneath the volume, made when missing
//!   <pod>/volume-subpaths/<volume>/<container>/<index>     where it is mounted, and what the runtime gets
//! ```
//!
//! Mounts stay until the pod is removed; a start of the agent finds those of pods that are gone, as everything of theirs.

use std::io;
use std::path::{Path, PathBuf};

use coxswain_beneath::{Dir, Links, is_component};

use super::mounts;

/// One part of a volume that a container mounts.
#[derive(Clone, Copy, Debug)]
pub struct SubPath<'a> {
    /// The volume's directory on the node.
    pub volume: &'a Path,
    /// The volume's name in the pod.
    pub volume_name: &'a str,
    /// The container's name.
    pub container: &'a str,
    /// Which of the container's mounts it is.
    pub index: usize,
    /// The path inside the volume, expanded. Links in it are followed as long as they stay in the volume.
    pub path: &'a str,
}

/// Which half of the work failed: Kubernetes has a sentence for each.
#[derive(Debug, thiserror::Error)]
pub enum SubPathError {
    /// It was not there and could not be made.
    #[error("failed to create subPath directory")]
    Create(#[source] io::Error),
    /// It could not be opened beneath the volume, or not be mounted.
    #[error("failed to prepare subPath")]
    Prepare(#[source] io::Error),
}

/// Opens the part beneath its volume, makes directories with the volume's mode where it is missing, and mounts it below
/// the pod's directory. Returns the path of the mount.
pub fn prepare(part: SubPath<'_>, pod: &Dir, pod_path: &Path) -> Result<PathBuf, SubPathError> {
    let prepare = SubPathError::Prepare;
    if !is_component(part.volume_name) || !is_component(part.container) {
        let detail = format!("{:?} or {:?} is no name", part.volume_name, part.container);
        return Err(prepare(io::Error::new(io::ErrorKind::InvalidInput, detail)));
    }
    let volume = Dir::open(part.volume).map_err(prepare)?;
    let opened = match volume.find(part.path, Links::Inside) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mode = volume.mode().map_err(prepare)?;
            let made = volume.ensure(part.path, mode, Links::Inside);
            made.map_err(SubPathError::Create)?
        }
        other => other.map_err(prepare)?,
    };
    let parent = Path::new("volume-subpaths").join(part.volume_name).join(part.container);
    pod.ensure_dir(&parent, 0o750).map_err(prepare)?;
    let place = parent.join(part.index.to_string());
    mounts::bind(&opened, pod, &place).map_err(prepare)?;
    Ok(pod_path.join(place))
}

#[cfg(test)]
mod tests;

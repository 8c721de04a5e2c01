//! Files below a directory whose content others can change while it is being worked on.
//!
//! A container can rename what is in its volumes at any moment, and an archive can name any path. A path that was
//! checked and is then used by its name can therefore lead out of the volume. Here every path is resolved by the
//! kernel (`openat2`) starting from an open directory, in one step, and everything afterwards happens to the file
//! that was opened, never to its name.
//!
//! ```text
//!   Dir::open("/data/agent/pods/UID")        trusted: the path belongs to the program or its operator
//!     .dir("volumes/…", Links::Refused)      below it: never leaves the directory
//!     .file("key")                           a regular file, or an error; never a named pipe or a device
//! ```
//!
//! Guarantees: no path given to a [`Dir`] leaves it, through `..`, absolute names, symbolic links, or the kernel's
//! magic links; opening never blocks and has no side effect on devices; [`Dir::remove_all`] follows no link, enters no
//! other file system, and needs bounded memory and descriptors whatever the depth.
//!
//! Needs Linux 5.8 (`openat2`, mount points told by `statx`) and a mounted `/proc`.

mod remove;
mod walk;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;

pub use walk::Links;

/// An open directory; every method stays below it.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
}

/// Something that was found below a directory: opened, but neither readable nor writable yet.
#[derive(Debug)]
pub struct Handle {
    fd: OwnedFd,
    stat: Stat,
}

/// What an entry of a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Link,
    /// A named pipe.
    Pipe,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// Something this kernel does not name.
    Unknown,
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: OsString,
    /// What it was when it was listed.
    pub kind: Kind,
}

/// Whether a text can be one component of a path: not empty, at most 255 bytes, neither `.` nor `..`, without slash
/// and NUL. For names that become directories or files.
pub fn is_component(text: &str) -> bool {
    !text.is_empty() && text.len() <= 255 && text != "." && text != ".." && !text.contains(['/', '\0'])
}

/// Changes the mode of an open file.
pub fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::fchmod(file, Mode::from_raw_mode(mode & 0o7777))?)
}

/// Divides a path into the directory of its first components, which is opened as it is, and the last `untrusted`
/// components, which others can change and which are to be resolved below that directory.
pub fn divide(path: &Path, untrusted: usize) -> io::Result<(Dir, PathBuf)> {
    let root = path.ancestors().nth(untrusted);
    let divided = root.and_then(|root| Some((root, path.strip_prefix(root).ok()?)));
    let Some((root, rest)) = divided.filter(|(root, _)| root.is_absolute()) else {
        let detail = format!("{} has no absolute directory {untrusted} levels above", path.display());
        return Err(io::Error::new(ErrorKind::InvalidInput, detail));
    };
    Ok((Dir::open(root)?, rest.to_path_buf()))
}

impl Dir {
    /// Opens a directory by a path that is trusted: links in it are followed.
    pub fn open(path: &Path) -> io::Result<Dir> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| at(path, error))?;
        Ok(Dir { fd })
    }

    /// Like [`Dir::open`]; makes what is missing with mode 0755.
    pub fn create(path: &Path) -> io::Result<Dir> {
        std::fs::create_dir_all(path)?;
        Dir::open(path)
    }

    /// A directory below this one.
    pub fn dir(&self, path: impl AsRef<Path>, links: Links) -> io::Result<Dir> {
        self.find(path.as_ref(), links)?
            .into_dir()
            .map_err(|error| at(path.as_ref(), error))
    }

    /// Whatever a path names below this directory. The last component is not followed when it is a link and links are
    /// refused: the handle is then the link's own.
    pub fn find(&self, path: impl AsRef<Path>, links: Links) -> io::Result<Handle> {
        let path = path.as_ref();
        let fd = walk::open(self, relative(path)?, links).map_err(|error| at(path, error))?;
        let stat = rustix::fs::fstat(&fd)?;
        Ok(Handle { fd, stat })
    }

    /// The directory of this path below this one; missing ones are made with this mode, whatever the umask. Follows no
    /// links.
    pub fn ensure_dir(&self, path: impl AsRef<Path>, mode: u32) -> io::Result<Dir> {
        self.ensure(path.as_ref(), mode, Links::Refused)?
            .into_dir()
            .map_err(|error| at(path.as_ref(), error))
    }

    /// What a path names below this directory; when nothing is there, directories are made with this mode. Links may be
    /// followed as far as they stay below this directory.
    pub fn ensure(&self, path: impl AsRef<Path>, mode: u32, links: Links) -> io::Result<Handle> {
        let path = path.as_ref();
        let fd = walk::ensure(self, relative(path)?, mode, links).map_err(|error| at(path, error))?;
        let stat = rustix::fs::fstat(&fd)?;
        Ok(Handle { fd, stat })
    }

    /// A regular file for reading; anything else is refused without being opened. Follows no links.
    pub fn file(&self, path: impl AsRef<Path>) -> io::Result<File> {
        self.find(&path, Links::Refused)?
            .reopen(OFlags::RDONLY)
            .map_err(|error| at(path.as_ref(), error))
    }

    /// The content of a regular file of at most `bytes_max` bytes.
    pub fn read(&self, path: impl AsRef<Path>, bytes_max: u64) -> io::Result<Vec<u8>> {
        let file = self.file(&path)?;
        let mut bytes = Vec::new();
        file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > bytes_max {
            let detail = format!("{} is larger than {bytes_max} bytes", path.as_ref().display());
            return Err(io::Error::new(ErrorKind::FileTooLarge, detail));
        }
        Ok(bytes)
    }

    /// A new file with this mode, whatever the umask. Fails when the name is taken, also by a link.
    pub fn create_file(&self, path: impl AsRef<Path>, mode: u32) -> io::Result<File> {
        let path = path.as_ref();
        let (parent, name) = self.parent(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd =
            rustix::fs::openat(&parent.fd, name, flags, Mode::from_raw_mode(0o600)).map_err(|error| at(path, error))?;
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode & 0o7777))?;
        Ok(File::from(fd))
    }

    /// A new file with this content, mode, and, where they are given, owner and group. Fails when the name is taken.
    pub fn write_new(
        &self,
        path: impl AsRef<Path>,
        bytes: &[u8],
        mode: u32,
        user: Option<u32>,
        group: Option<u32>,
    ) -> io::Result<()> {
        let mut file = self.create_file(path, 0o600)?;
        file.write_all(bytes)?;
        rustix::fs::fchown(&file, user.map(Uid::from_raw), group.map(Gid::from_raw))?;
        Ok(rustix::fs::fchmod(&file, Mode::from_raw_mode(mode & 0o7777))?)
    }

    /// Writes a regular file in its place, so that whoever has it open or mounted sees the new content; makes it with
    /// this mode when it is missing. Refuses anything else that has the name.
    pub fn overwrite(&self, path: impl AsRef<Path>, bytes: &[u8], mode: u32) -> io::Result<()> {
        let path = path.as_ref();
        let mut file = self.emptied(path, mode)?;
        file.write_all(bytes)?;
        set_mode(&file, mode)
    }

    /// A regular file for writing, emptied; made with this mode when it is missing. Refuses anything else that has the
    /// name.
    pub fn emptied(&self, path: impl AsRef<Path>, mode: u32) -> io::Result<File> {
        let path = path.as_ref();
        match self.find(path, Links::Refused) {
            Ok(found) => found
                .reopen(OFlags::WRONLY | OFlags::TRUNC)
                .map_err(|error| at(path, error)),
            Err(error) if error.kind() == ErrorKind::NotFound => self.create_file(path, mode),
            Err(error) => Err(error),
        }
    }

    /// Makes a symbolic link; its target is only a text here.
    pub fn symlink(&self, target: impl AsRef<Path>, path: impl AsRef<Path>) -> io::Result<()> {
        let (parent, name) = self.parent(path.as_ref())?;
        rustix::fs::symlinkat(target.as_ref(), &parent.fd, name).map_err(|error| at(path.as_ref(), error))
    }

    /// The target of a symbolic link.
    pub fn read_link(&self, path: impl AsRef<Path>) -> io::Result<PathBuf> {
        let (parent, name) = self.parent(path.as_ref())?;
        let target = rustix::fs::readlinkat(&parent.fd, name, Vec::new()).map_err(|error| at(path.as_ref(), error))?;
        Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
    }

    /// Renames within this directory; replaces what has the new name.
    pub fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
        let (old, old_name) = self.parent(from.as_ref())?;
        let (new, new_name) = self.parent(to.as_ref())?;
        rustix::fs::renameat(&old.fd, old_name, &new.fd, new_name).map_err(|error| at(to.as_ref(), error))
    }

    /// Removes a file, a link (not what it leads to) or something special.
    pub fn remove_file(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let (parent, name) = self.parent(path.as_ref())?;
        rustix::fs::unlinkat(&parent.fd, name, AtFlags::empty()).map_err(|error| at(path.as_ref(), error))
    }

    /// Removes whatever has this path, with everything below it; nothing there is fine. Follows no links. A mounted file
    /// system is an error, never entered.
    pub fn remove_all(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let parted = match self.parent(path.as_ref()) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        remove::all(&parted.0, parted.1).map_err(|error| at(path.as_ref(), error))
    }

    /// Entries of this directory, at most `count_max` of them, in no order.
    pub fn entries(&self, count_max: usize) -> io::Result<Vec<Entry>> {
        let mut found = Vec::new();
        for entry in rustix::fs::Dir::new(self.readable()?)? {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_bytes() == b"." || name.to_bytes() == b".." {
                continue;
            }
            if found.len() >= count_max {
                break;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_or(Kind::Unknown, |stat| kind_of(&stat)),
                known => kind(known),
            };
            let name = OsStr::from_bytes(name.to_bytes()).to_owned();
            found.push(Entry { name, kind });
        }
        Ok(found)
    }

    /// Changes the mode of this directory.
    pub fn set_mode(&self, mode: u32) -> io::Result<()> {
        let fd = self.readable()?;
        Ok(rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode & 0o7777))?)
    }

    /// Changes owner and group of this directory where they are given.
    pub fn set_owner(&self, user: Option<u32>, group: Option<u32>) -> io::Result<()> {
        let (user, group) = (user.map(Uid::from_raw), group.map(Gid::from_raw));
        Ok(rustix::fs::chownat(&self.fd, c"", user, group, AtFlags::EMPTY_PATH)?)
    }

    /// The mode bits of this directory.
    pub fn mode(&self) -> io::Result<u32> {
        Ok(rustix::fs::fstat(&self.fd)?.st_mode & 0o7777)
    }

    /// Whether a file system or a bind mount begins here.
    pub fn is_mount_root(&self) -> io::Result<bool> {
        is_mount_root(self.fd.as_fd())
    }

    /// A path that leads to this open directory as long as it is open, wherever it is moved to.
    pub fn magic_path(&self) -> PathBuf {
        magic_path(self.fd.as_fd())
    }

    fn readable(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.fd, c".", flags, Mode::empty())?)
    }

    /// The directory that holds the last component of a path, and that component.
    fn parent<'a>(&self, path: &'a Path) -> io::Result<(Dir, &'a OsStr)> {
        let path = relative(path)?;
        let Some(name) = path.file_name() else {
            return Err(at(path, Errno::INVAL));
        };
        match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(parent) => Ok((self.dir(parent, Links::Refused)?, name)),
            None => Ok((self.try_clone()?, name)),
        }
    }

    /// Another descriptor of the same directory.
    pub fn try_clone(&self) -> io::Result<Dir> {
        let fd = self.fd.try_clone()?;
        Ok(Dir { fd })
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Handle {
    /// What it is.
    pub fn kind(&self) -> Kind {
        kind_of(&self.stat)
    }

    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        u64::try_from(self.stat.st_size).unwrap_or(0)
    }

    /// Device and inode number: two handles with the same ones are the same file.
    pub fn identity(&self) -> (u64, u64) {
        (self.stat.st_dev, self.stat.st_ino)
    }

    /// Its mode bits.
    pub fn mode(&self) -> u32 {
        self.stat.st_mode & 0o7777
    }

    /// Whether a file system or a bind mount begins here.
    pub fn is_mount_root(&self) -> io::Result<bool> {
        is_mount_root(self.fd.as_fd())
    }

    /// A path that leads to exactly this file as long as the handle lives: for system calls that take only paths.
    pub fn magic_path(&self) -> PathBuf {
        magic_path(self.fd.as_fd())
    }

    /// The directory that this is.
    pub fn into_dir(self) -> io::Result<Dir> {
        match self.kind() {
            Kind::Dir => Ok(Dir { fd: self.fd }),
            _ => Err(Errno::NOTDIR.into()),
        }
    }

    /// Opens a regular file; refuses everything else.
    fn reopen(&self, flags: OFlags) -> Result<File, Errno> {
        match self.kind() {
            Kind::File => {}
            Kind::Dir => return Err(Errno::ISDIR),
            Kind::Link => return Err(Errno::LOOP),
            _ => return Err(Errno::NXIO),
        }
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        let fd = rustix::fs::open(self.magic_path(), flags, Mode::empty())?;
        Ok(File::from(fd))
    }
}

fn is_mount_root(fd: BorrowedFd<'_>) -> io::Result<bool> {
    use rustix::fs::{StatxAttributes, StatxFlags};
    let found = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::empty())?;
    if !found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) {
        let detail = "the kernel does not tell mount points (Linux 5.8 or newer is needed)";
        return Err(io::Error::new(ErrorKind::Unsupported, detail));
    }
    Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

fn magic_path(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn kind(kind: FileType) -> Kind {
    match kind {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Dir,
        FileType::Symlink => Kind::Link,
        FileType::Fifo => Kind::Pipe,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        _ => Kind::Unknown,
    }
}

fn kind_of(stat: &Stat) -> Kind {
    kind(FileType::from_raw_mode(stat.st_mode))
}

/// A path without root and `..`; an empty one is the directory itself.
fn relative(path: &Path) -> io::Result<&Path> {
    let fits = |part: Component<'_>| match part {
        Component::Normal(name) => name.len() <= 255,
        Component::CurDir => true,
        _ => false,
    };
    if path.components().all(fits) {
        return Ok(path);
    }
    let detail = format!(
        "{} must be relative and must not contain '..' or a name of more than 255 bytes",
        path.display()
    );
    Err(io::Error::new(ErrorKind::InvalidInput, detail))
}

/// The system's error with the path it is about; keeps the error's kind.
fn at(path: &Path, error: impl Into<io::Error>) -> io::Error {
    let error: io::Error = error.into();
    let why = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::XDEV) => "it leads out of the directory or to another file system".to_owned(),
        Some(Errno::LOOP) => "it is or leads through a symbolic link".to_owned(),
        Some(Errno::NXIO) => "it is not a regular file".to_owned(),
        Some(Errno::NOSYS) => "the kernel has no openat2 (Linux 5.6 or newer is needed)".to_owned(),
        _ => error.to_string(),
    };
    io::Error::new(error.kind(), format!("{}: {why}", path.display()))
}

#[cfg(test)]
mod tests;

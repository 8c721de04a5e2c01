//! Unpacking what a container's `tar` sent. The container decides every byte of it, so nothing in it may lead outside of
//! the target: every path is resolved beneath the target, links are never made, and nothing but regular files is written.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use coxswain_beneath::{Dir, Kind as FileKind, Links, set_mode};

use crate::archive::{self, Entry, Kind};

const DIRECTORY_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o644;

/// Where entries go: a directory that exists, or a name that the archive makes a file or a directory of.
enum Target {
    Directory(Dir),
    Name(Dir, OsString),
}

/// Writes the entries below `prefix` to `target` and returns how many there were. Nothing is written outside of it.
///
/// # Errors
/// An archive that is damaged or names something outside, and what cannot be written.
pub fn unpack(input: &mut impl Read, prefix: &str, target: &Path, keep_modes: bool) -> Result<usize> {
    let mut place = open(target)?;
    let mut count = 0;
    while let Some(entry) = archive::read_header(input)? {
        let relative = relative(&entry.path, prefix)?;
        let shown = target.join(&relative);
        let mut content = input.by_ref().take(entry.size);
        match &entry.kind {
            Kind::Directory => drop(
                directory(&mut place)?
                    .ensure(&relative, DIRECTORY_MODE, Links::Inside)
                    .and_then(coxswain_beneath::Handle::into_dir)
                    .with_context(|| format!("create {shown:?}"))?,
            ),
            Kind::File => {
                let mut file = create(&mut place, &relative).with_context(|| format!("create {shown:?}"))?;
                io::copy(&mut content, &mut file).with_context(|| format!("write {shown:?}"))?;
                if keep_modes {
                    set_mode(&file, entry.mode & 0o777).with_context(|| format!("set the mode of {shown:?}"))?;
                }
            }
            Kind::Link(to) => eprintln!("warning: skipping symlink: {shown:?} -> {to:?}"),
            Kind::Other => eprintln!("warning: skipping {shown:?}: it is neither a file nor a directory"),
        }
        finish(content, &entry)?;
        archive::skip_padding(input, entry.size)?;
        count += 1;
    }
    Ok(count)
}

fn open(target: &Path) -> Result<Target> {
    if let Ok(directory) = Dir::open(target) {
        return Ok(Target::Directory(directory));
    }
    let Some(name) = target.file_name() else {
        bail!("{} is no directory and no name for a file", target.display());
    };
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let parent = Dir::create(parent).with_context(|| format!("create {}", parent.display()))?;
    Ok(Target::Name(parent, name.to_owned()))
}

/// The directory that entries go to; made when the target was only a name.
fn directory(place: &mut Target) -> Result<&Dir> {
    if let Target::Name(parent, name) = place {
        let made = parent.ensure_dir(&*name, DIRECTORY_MODE);
        *place = Target::Directory(made.with_context(|| format!("create {name:?}"))?);
    }
    match place {
        Target::Directory(directory) => Ok(directory),
        Target::Name(_, name) => bail!("create {name:?}"),
    }
}

/// The file of an entry, emptied. A link that has its name is replaced, not followed.
fn create(place: &mut Target, relative: &Path) -> Result<File> {
    let (parent, name) = match place {
        Target::Name(parent, name) if relative.as_os_str().is_empty() => (parent.try_clone()?, name.clone()),
        _ => {
            let name = relative.file_name().context("the target is a directory")?.to_owned();
            let above = relative.parent().unwrap_or(Path::new(""));
            let above = directory(place)?.ensure(above, DIRECTORY_MODE, Links::Inside)?;
            (above.into_dir()?, name)
        }
    };
    if parent
        .find(&name, Links::Refused)
        .is_ok_and(|found| found.kind() == FileKind::Link)
    {
        parent.remove_file(&name)?;
    }
    Ok(parent.emptied(&name, FILE_MODE)?)
}

/// The path of an entry below the target.
fn relative(path: &str, prefix: &str) -> Result<PathBuf> {
    let trimmed = path.trim_start_matches('/').trim_start_matches("./");
    let name = Path::new(trimmed);
    let below = match prefix {
        "." | "" => name,
        _ => name.strip_prefix(prefix).unwrap_or(name),
    };
    let mut inside = PathBuf::new();
    for part in below.components() {
        match part {
            Component::Normal(part) => inside.push(part),
            Component::CurDir => {}
            _ => bail!("the container's archive names {path:?}, which lies outside of the target"),
        }
    }
    Ok(inside)
}

/// Reads what is left of an entry; an archive that ends in the middle of one would leave a file cut short.
fn finish(mut content: io::Take<impl Read>, entry: &Entry) -> Result<()> {
    io::copy(&mut content, &mut io::sink())?;
    if content.limit() > 0 {
        bail!(
            "the container's archive ends in the middle of {:?}; copy it again",
            entry.path
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    struct Place(PathBuf);

    impl Place {
        /// A directory with a `secret` in it, and a name for the target below it.
        fn new(name: &str) -> Place {
            let base = std::env::temp_dir().join(format!("ctl-unpack-{}-{name}", std::process::id()));
            let _ = std::fs::remove_dir_all(&base);
            std::fs::create_dir_all(base.join("outside")).expect("directory");
            std::fs::write(base.join("outside/secret"), b"secret").expect("file");
            Place(base)
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// Path, kind and content of one entry.
    type Packed<'a> = (&'a str, Kind, &'a str);

    fn pack(entries: &[Packed<'_>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (path, kind, content) in entries {
            let entry = Entry {
                path: (*path).into(),
                kind: kind.clone(),
                mode: 0o640,
                size: content.len() as u64,
            };
            archive::write_header(&mut bytes, &entry).expect("writes");
            bytes.extend_from_slice(content.as_bytes());
            archive::pad(&mut bytes, entry.size).expect("writes");
        }
        archive::finish(&mut bytes).expect("writes");
        bytes
    }

    fn link(to: &str) -> Kind {
        Kind::Link(to.into())
    }

    /// Every way of an archive to write outside of its target that kubectl had to fix, and some more.
    #[test]
    fn archives_stay_inside_their_target() {
        let place = Place::new("inside");
        let outside = place.0.join("outside").display().to_string();
        let absolute = format!("{outside}/made");
        let hostile: [(&str, Vec<Packed<'_>>); 10] = [
            ("up", vec![("x/../../outside/made", Kind::File, "x")]),
            ("up at the start", vec![("../outside/made", Kind::File, "x")]),
            ("absolute", vec![(&absolute, Kind::File, "x")]),
            ("a directory above", vec![("../outside/made", Kind::Directory, "")]),
            (
                "through a link",
                vec![("l", link(&outside), ""), ("l/made", Kind::File, "x")],
            ),
            (
                "through a relative link",
                vec![("l", link("../outside"), ""), ("l/made", Kind::File, "x")],
            ),
            (
                "through two links",
                vec![
                    ("a", link("."), ""),
                    ("a/l", link("../outside"), ""),
                    ("a/l/made", Kind::File, "x"),
                ],
            ),
            (
                "over a link",
                vec![("l", link("../outside/secret"), ""), ("l", Kind::File, "x")],
            ),
            (
                "the target is a link",
                vec![("", link(&outside), ""), ("made", Kind::File, "x")],
            ),
            (
                "a directory through a link",
                vec![("l", link("../outside"), ""), ("l/made/er", Kind::Directory, "")],
            ),
        ];
        for (name, entries) in hostile {
            let target = place.0.join("target");
            let _ = unpack(&mut pack(&entries).as_slice(), ".", &target, true);
            assert!(!place.0.join("outside/made").exists(), "{name}");
            assert_eq!(
                std::fs::read(place.0.join("outside/secret")).expect("there"),
                b"secret",
                "{name}"
            );
            assert!(
                !target.is_symlink() && !target.join("l").is_symlink(),
                "{name}: a link was made"
            );
            let _ = std::fs::remove_dir_all(&target);
        }
    }

    /// Links that the user has in the target may lead further inside, never outside.
    #[test]
    fn links_of_the_user_are_followed_inside_only() {
        let place = Place::new("links");
        let target = place.0.join("target");
        std::fs::create_dir_all(target.join("real")).expect("directory");
        symlink("real", target.join("in")).expect("link");
        symlink("../outside", target.join("out")).expect("link");
        symlink("../outside/secret", target.join("file")).expect("link");
        nix::unistd::mkfifo(&target.join("pipe"), nix::sys::stat::Mode::S_IRWXU).expect("pipe");
        unpack(&mut pack(&[("in/f", Kind::File, "x")]).as_slice(), ".", &target, true).expect("unpacks");
        assert!(target.join("real/f").is_file());
        assert!(
            unpack(
                &mut pack(&[("out/made", Kind::File, "x")]).as_slice(),
                ".",
                &target,
                true
            )
            .is_err()
        );
        assert!(unpack(&mut pack(&[("pipe", Kind::File, "x")]).as_slice(), ".", &target, true).is_err());
        unpack(&mut pack(&[("file", Kind::File, "x")]).as_slice(), ".", &target, true).expect("replaces the link");
        assert_eq!(std::fs::read(place.0.join("outside/secret")).expect("there"), b"secret");
        assert!(!place.0.join("outside/made").exists());
    }

    #[test]
    fn files_and_directories_arrive_whole() {
        let place = Place::new("whole");
        let target = place.0.join("target");
        let archive = pack(&[
            ("etc/app", Kind::Directory, ""),
            ("etc/app/a", Kind::File, "one"),
            ("etc/app/d/b", Kind::File, "two"),
            ("etc/app/dev", Kind::Other, "skipped"),
            ("etc/app/c", Kind::File, "three"),
        ]);
        let count = unpack(&mut archive.as_slice(), "etc/app", &target, true).expect("unpacks");
        assert_eq!(count, 5);
        for (file, content) in [("a", "one"), ("d/b", "two"), ("c", "three")] {
            assert_eq!(
                std::fs::read_to_string(target.join(file)).expect("there"),
                content,
                "{file}"
            );
        }
        let single = place.0.join("new/name");
        let file = pack(&[("etc/hosts", Kind::File, "text")]);
        unpack(&mut file.as_slice(), "etc/hosts", &single, false).expect("unpacks");
        assert_eq!(std::fs::read_to_string(&single).expect("there"), "text");
        let cut = &archive[..512 * 2 + 1];
        assert!(
            unpack(&mut &cut[..], "etc/app", &target, true).is_err(),
            "a cut archive counted as whole"
        );
    }
}

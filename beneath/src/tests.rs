use super::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A directory with an `inside` to work in and an `outside` that nobody may touch.
fn places() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().expect("directory");
    let base = std::fs::canonicalize(dir.path()).expect("path");
    let (inside, outside) = (base.join("inside"), base.join("outside"));
    std::fs::create_dir(&inside).expect("directory");
    std::fs::create_dir(&outside).expect("directory");
    std::fs::write(outside.join("secret"), b"secret").expect("file");
    std::fs::set_permissions(&outside, std::fs::Permissions::from_mode(0o700)).expect("mode");
    (dir, inside, outside)
}

fn fifo(path: &Path) {
    rustix::fs::mknodat(rustix::fs::CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("named pipe");
}

#[test]
fn no_path_leads_out() {
    let (_keep, inside, outside) = places();
    std::fs::create_dir(inside.join("d")).expect("directory");
    std::fs::write(inside.join("d/f"), b"text").expect("file");
    for (name, target) in [
        ("absolute", outside.display().to_string()),
        ("up", "../outside".into()),
        ("chain", "absolute".into()),
        ("proc", "/proc/self/root".into()),
        ("good", "d".into()),
        ("good-up", "d/../d".into()),
        ("good-absolute", inside.join("d").display().to_string()),
        ("loop", "loop".into()),
    ] {
        symlink(target, inside.join(name)).expect("link");
    }
    let dir = Dir::open(&inside).expect("opens");
    let table = [
        ("d/f", true, true),
        ("./d/./f", true, true),
        ("/etc/hostname", false, false),
        ("../outside/secret", false, false),
        ("d/../../outside/secret", false, false),
        ("absolute/secret", false, false),
        ("up/secret", false, false),
        ("chain/secret", false, false),
        ("proc/etc/hostname", false, false),
        ("loop/x", false, false),
        ("good/f", false, true),
        ("good-up/f", false, true),
        ("good-absolute/f", false, true),
    ];
    for (path, refused, followed) in table {
        assert_eq!(dir.find(path, Links::Refused).is_ok(), refused, "{path} without links");
        assert_eq!(dir.find(path, Links::Inside).is_ok(), followed, "{path} with links");
    }
    for (path, allowed) in [
        ("new/a/b", true),
        ("good/x/y", true),
        ("absolute/x", false),
        ("up/x/y", false),
        ("../x", false),
        ("/x", false),
        ("d/f/x", false),
    ] {
        assert_eq!(dir.ensure(path, 0o755, Links::Inside).is_ok(), allowed, "making {path}");
    }
    assert!(dir.ensure_dir("good/z", 0o755).is_err(), "a link where none is allowed");
    let left: Vec<_> = std::fs::read_dir(&outside).expect("lists").collect();
    assert_eq!(left.len(), 1, "something was made outside: {left:?}");
}

#[test]
fn every_operation_refuses_links_pipes_and_devices() {
    let (_keep, inside, outside) = places();
    symlink(outside.join("secret"), inside.join("link")).expect("link");
    symlink(&outside, inside.join("dir")).expect("link");
    fifo(&inside.join("pipe"));
    std::fs::create_dir(inside.join("real")).expect("directory");
    let dir = Dir::open(&inside).expect("opens");
    for name in ["link", "pipe", "dir", "dir/secret", "real"] {
        assert!(dir.file(name).is_err(), "{name} was opened");
        assert!(dir.read(name, 10).is_err(), "{name} was read");
        assert!(dir.overwrite(name, b"x", 0o600).is_err(), "{name} was written");
        assert!(dir.create_file(name, 0o600).is_err(), "{name} was made");
    }
    assert!(dir.symlink("x", "dir/new").is_err());
    assert!(dir.rename("pipe", "dir/pipe").is_err());
    assert!(dir.remove_file("dir/secret").is_err());
    assert!(dir.remove_all("dir/secret").is_err());
    dir.remove_all("dir").expect("removes the link alone");
    dir.remove_file("link").expect("removes the link alone");
    assert_eq!(std::fs::read(outside.join("secret")).expect("still there"), b"secret");
    let device = Dir::open(Path::new("/dev")).expect("opens");
    assert!(device.file("null").is_err(), "a device was opened");
    assert!(device.overwrite("null", b"", 0o666).is_err(), "a device was written");
}

#[test]
fn files_have_the_mode_and_the_bound_that_were_asked_for() {
    let (_keep, inside, _) = places();
    let dir = Dir::open(&inside).expect("opens");
    dir.overwrite("f", b"one", 0o666).expect("writes");
    let inode = std::fs::metadata(inside.join("f")).expect("there").ino();
    dir.overwrite("f", b"2", 0o640).expect("writes again");
    let meta = std::fs::metadata(inside.join("f")).expect("there");
    assert_eq!((meta.ino(), meta.mode() & 0o7777, meta.len()), (inode, 0o640, 1));
    assert_eq!(dir.read("f", 1).expect("reads"), b"2");
    assert_eq!(dir.read("f", 0).expect_err("bounded").kind(), ErrorKind::FileTooLarge);
    dir.ensure_dir("a/b", 0o2777).expect("makes");
    assert_eq!(
        std::fs::metadata(inside.join("a")).expect("there").mode() & 0o7777,
        0o2777
    );
    let parted = divide(&inside.join("a/b"), 2).expect("divides");
    assert_eq!(parted.1, Path::new("a/b"));
    assert!(divide(Path::new("b"), 2).is_err());
}

#[test]
fn names_that_can_be_components() {
    for (text, fits) in [
        ("a", true),
        ("..data", true),
        ("", false),
        (".", false),
        ("..", false),
        ("a/b", false),
        ("a\0b", false),
    ] {
        assert_eq!(is_component(text), fits, "{text:?}");
    }
    assert!(!is_component(&"x".repeat(256)));
}

/// A tree that is deeper than any stack or any count of descriptors.
#[test]
fn deep_and_wide_trees_are_removed() {
    const LEVELS: usize = 5_000;
    let (_keep, inside, outside) = places();
    let root = Dir::open(&inside).expect("opens");
    let mut at = root.ensure_dir("deep", 0o755).expect("makes");
    for level in 0..LEVELS {
        at.symlink(&outside, "link").expect("links");
        at.overwrite("file", b"", 0o600).expect("writes");
        if level % 100 == 0 {
            at.ensure_dir("beside/x", 0o700).expect("makes");
        }
        at = at.ensure_dir("down", 0o755).expect("makes");
    }
    for number in 0..3_000 {
        root.create_file(format!("deep/{number}"), 0o600).expect("writes");
    }
    drop(at);
    root.remove_all("deep").expect("removes");
    assert!(root.entries(10).expect("lists").is_empty());
    assert!(outside.join("secret").exists(), "a link was followed");
    root.remove_all("deep").expect("nothing there is fine");
    root.remove_all("no/such/parent").expect("nothing there is fine");
}

/// Somebody exchanges a directory and a link that leads outside as fast as possible while paths through them are
/// resolved, made and removed: at least 100,000 exchanges, and no escape. COXSWAIN_RACE_SECONDS: how long at least.
#[test]
fn a_hundred_thousand_racing_swaps_lead_nowhere() {
    let (_keep, inside, outside) = places();
    let least = std::env::var("COXSWAIN_RACE_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    let least = Duration::from_secs(least.unwrap_or(0));
    for name in ["volume", "volume/a"] {
        std::fs::create_dir(inside.join(name)).expect("directory");
    }
    symlink(&outside, inside.join("volume/link")).expect("link");
    symlink("../../outside", inside.join("volume/a/up")).expect("link");
    let dir = Dir::open(&inside.join("volume")).expect("opens");
    let (stop, swaps) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut found, mut refused) = (0_u64, 0_u64);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let volume = rustix::fs::open(inside.join("volume"), OFlags::PATH, Mode::empty()).expect("opens");
            while !stop.load(Ordering::Relaxed) {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(&volume, "a", &volume, "link", flags).expect("exchanges");
                swaps.fetch_add(1, Ordering::Relaxed);
            }
        });
        let begun = Instant::now();
        let done = |found: u64| swaps.load(Ordering::Relaxed) >= 100_000 && found >= 200 && begun.elapsed() >= least;
        while !done(found) && begun.elapsed() < least + Duration::from_secs(10) {
            for links in [Links::Inside, Links::Refused] {
                match dir.ensure("a/b/c", 0o777, links) {
                    Ok(handle) => {
                        let real = std::fs::read_link(handle.magic_path()).expect("a path");
                        assert!(real.starts_with(&inside), "{} was opened", real.display());
                        found += 1;
                    }
                    Err(_) => refused += 1,
                }
                for path in ["a/secret", "a/up/secret", "link/secret", "a/b/../secret"] {
                    assert!(dir.find(path, links).is_err(), "{path} was found");
                }
            }
            let _ = dir.overwrite("a/file", b"x", 0o666);
            let _ = dir.remove_all("a/b");
            let _ = dir.remove_all("a/secret");
        }
        stop.store(true, Ordering::Relaxed);
    });
    let swaps = swaps.into_inner();
    println!("{swaps} exchanges, {found} paths opened, {refused} refused");
    assert!(
        swaps >= 100_000 && found > 0 && refused > 0,
        "{swaps} exchanges, {found} opened, {refused} refused"
    );
    let left: Vec<_> = std::fs::read_dir(&outside).expect("lists").collect();
    assert_eq!(left.len(), 1, "something was made outside: {left:?}");
    assert_eq!(
        std::fs::metadata(&outside).expect("there").mode() & 0o777,
        0o700,
        "the mode was changed"
    );
    assert_eq!(std::fs::read(outside.join("secret")).expect("still there"), b"secret");
}

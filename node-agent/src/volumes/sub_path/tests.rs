use super::*;
use crate::volumes;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Runs a test in a thread with mounts of its own; says so and passes where that is not allowed.
fn with_own_mounts(test: impl FnOnce() + Send + 'static) {
    let work = move || {
        let none = None::<&str>;
        let own = unshare(CloneFlags::CLONE_NEWNS)
            .and_then(|()| mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none));
        match own {
            Ok(()) => test(),
            Err(error) => eprintln!("skipped: no mounts of its own: {error}"),
        }
    };
    std::thread::spawn(work).join().expect("the test passes");
}

struct Places {
    _keep: tempfile::TempDir,
    volume: PathBuf,
    outside: PathBuf,
    pod: PathBuf,
}

fn places() -> Places {
    let keep = tempfile::tempdir().expect("directory");
    let base = fs::canonicalize(keep.path()).expect("path");
    let places = Places {
        volume: base.join("volume"),
        outside: base.join("outside"),
        pod: base.join("pods/uid"),
        _keep: keep,
    };
    for path in [&places.volume, &places.outside, &places.pod] {
        fs::create_dir_all(path).expect("directory");
    }
    fs::write(places.outside.join("secret"), b"secret").expect("file");
    fs::set_permissions(&places.outside, fs::Permissions::from_mode(0o700)).expect("mode");
    places
}

fn prepare_at(places: &Places, index: usize, path: &str) -> Result<PathBuf, SubPathError> {
    let part = SubPath {
        volume: &places.volume,
        volume_name: "v",
        container: "c",
        index,
        path,
    };
    prepare(part, &Dir::open(&places.pod).expect("opens"), &places.pod)
}

fn nothing_outside(places: &Places) {
    let left: Vec<_> = fs::read_dir(&places.outside).expect("lists").collect();
    assert_eq!(left.len(), 1, "something was made outside: {left:?}");
    let mode = fs::metadata(&places.outside).expect("there").mode() & 0o7777;
    assert_eq!(mode, 0o700, "the mode was changed");
    assert_eq!(fs::read(places.outside.join("secret")).expect("there"), b"secret");
}

#[test]
fn parts_of_volumes_are_mounted_or_refused() {
    with_own_mounts(|| {
        let places = places();
        let volume = &places.volume;
        fs::set_permissions(volume, fs::Permissions::from_mode(0o2775)).expect("mode");
        fs::create_dir(volume.join("d")).expect("directory");
        fs::write(volume.join("d/f"), b"text").expect("file");
        for (name, target) in [
            ("out", places.outside.display().to_string()),
            ("up", "../outside".to_owned()),
            ("in", "d".to_owned()),
            ("in-absolute", volume.join("d").display().to_string()),
            ("dangling", "nowhere".to_owned()),
        ] {
            symlink(target, volume.join(name)).expect("link");
        }
        let table = [
            ("d", true),
            ("d/f", true),
            ("in/f", true),
            ("in-absolute/f", true),
            ("new/deep/er", true),
            ("in/new", true),
            ("out", false),
            ("out/new/er", false),
            ("up/secret", false),
            ("up/new", false),
            ("dangling/x", false),
            ("../outside", false),
            ("/etc", false),
            ("d/f/x", false),
        ];
        for (index, (path, allowed)) in table.into_iter().enumerate() {
            let result = prepare_at(&places, index, path);
            assert_eq!(result.is_ok(), allowed, "{path}: {result:?}");
        }
        nothing_outside(&places);
        let at = |index: usize| places.pod.join(format!("volume-subpaths/v/c/{index}"));
        assert_eq!(fs::read(at(2)).expect("reads"), b"text");
        assert_eq!(
            fs::metadata(volume.join("new/deep")).expect("there").mode() & 0o7777,
            0o2775
        );

        // What was opened stays mounted, whatever its name leads to now; the next preparation follows the name again.
        fs::rename(volume.join("d"), volume.join("e")).expect("renames");
        symlink(&places.outside, volume.join("d")).expect("link");
        assert_eq!(fs::read(at(0).join("f")).expect("reads"), b"text");
        assert!(prepare_at(&places, 0, "d").is_err());
        fs::remove_file(volume.join("d")).expect("removes");
        fs::write(volume.join("d"), b"now a file").expect("file");
        prepare_at(&places, 0, "d").expect("prepares");
        assert_eq!(fs::read(at(0)).expect("reads"), b"now a file");
        prepare_at(&places, 0, "d").expect("finds it prepared");

        volumes::remove(&places.pod).expect("removes");
        assert!(!places.pod.exists(), "the pod's directory is left");
        assert_eq!(
            fs::read(volume.join("e/f")).expect("reads"),
            b"text",
            "the volume was emptied"
        );
    });
}

/// A mount that nobody took away, as after a crash of the agent: removing goes through it neither with the agent's
/// remover nor ever into a volume.
#[test]
fn a_mount_that_is_left_is_never_removed_through() {
    with_own_mounts(|| {
        let places = places();
        fs::create_dir(places.volume.join("d")).expect("directory");
        fs::write(places.volume.join("d/f"), b"text").expect("file");
        prepare_at(&places, 0, "d").expect("prepares");
        prepare_at(&places, 1, "d/f").expect("prepares");
        // Hidden below another mount.
        let below = places.pod.join("volume-subpaths");
        mount(Some("tmpfs"), &below, Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("mounts");
        let pods = Dir::open(places.pod.parent().expect("a parent")).expect("opens");
        assert!(pods.remove_all("uid").is_err(), "a mount was removed through");
        assert!(places.volume.join("d/f").exists(), "the volume was emptied");
        volumes::remove(&places.pod).expect("removes");
        assert!(!places.pod.exists());
        assert!(places.volume.join("d/f").exists(), "the volume was emptied");
    });
}

/// A container exchanges a directory of its volume and a link that leads outside as fast as it can while parts of the
/// volume are prepared, made and removed: at least 100,000 exchanges, and no escape. COXSWAIN_RACE_SECONDS: how long at
/// least.
#[test]
fn a_hundred_thousand_racing_swaps_mount_nothing_outside() {
    with_own_mounts(race);
}

fn race() {
    let least = std::env::var("COXSWAIN_RACE_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    let least = Duration::from_secs(least.unwrap_or(0));
    let places = places();
    fs::create_dir(places.volume.join("a")).expect("directory");
    symlink("../outside", places.volume.join("link")).expect("link");
    let (stop, swaps) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut mounted, mut refused) = (0_u64, 0_u64);
    let volume = Dir::open(&places.volume).expect("opens");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(&volume, "a", &volume, "link", flags).expect("exchanges");
                swaps.fetch_add(1, Ordering::Relaxed);
            }
        });
        let begun = Instant::now();
        let done = |mounted| swaps.load(Ordering::Relaxed) >= 100_000 && mounted >= 200 && begun.elapsed() >= least;
        while !done(mounted) && begun.elapsed() < least + Duration::from_secs(10) {
            for (index, path) in ["a", "a/b/c", "link/d", "a/secret"].into_iter().enumerate() {
                match prepare_at(&places, index, path) {
                    Ok(place) => {
                        mounted += 1;
                        let seen = fs::metadata(&place).expect("there");
                        assert_ne!(seen.mode() & 0o777, 0o700, "{path}: the directory outside was mounted");
                        assert!(
                            !place.join("secret").is_file(),
                            "{path}: the directory outside was mounted"
                        );
                        assert!(seen.is_dir(), "{path}: the file outside was mounted");
                    }
                    Err(_) => refused += 1,
                }
            }
            for path in ["a/b", "a/secret", "link/d", "link/b"] {
                let _ = volume.remove_all(path);
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    let swaps = swaps.into_inner();
    println!("{swaps} exchanges, {mounted} mounts, {refused} refused");
    assert!(
        swaps >= 100_000 && mounted > 0 && refused > 0,
        "{swaps} exchanges, {mounted} mounts, {refused} refused"
    );
    nothing_outside(&places);
    volumes::remove(&places.pod).expect("removes");
    nothing_outside(&places);
}

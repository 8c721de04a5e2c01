use super::*;
use crate::archive::{blobs, describe};
use std::io::Cursor;

fn sample() -> Image {
    Image {
        name: "localhost/coxswain/sample:v1".into(),
        layers: vec![Layer {
            files: vec![
                File::executable("/bin/serve", *b"\x7fELF-not-really"),
                File::plain("etc/deep/er/motd", "hello\n"),
                File::directory("tmp", 0o1777),
                File::symlink("bin/sh", "serve"),
            ],
        }],
        entrypoint: vec!["/bin/serve".into()],
        cmd: vec!["--port".into(), "80".into()],
        env: vec![("A".into(), "b=c".into())],
        ports: vec![80],
        ..Image::default()
    }
}

#[test]
fn archive_describes_its_image_and_its_blobs_have_their_digests() {
    let archive = sample().to_archive().expect("fits");
    assert_eq!(archive, sample().to_archive().expect("fits"), "same input, same bytes");
    let found = describe(Cursor::new(&archive)).expect("readable");
    assert_eq!(found.images.len(), 1);
    assert_eq!(found.images[0].name, "localhost/coxswain/sample:v1");
    let mut seen = Vec::new();
    blobs::<_, OciError>(Cursor::new(&archive), |name, size, content| {
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes)?;
        assert_eq!(bytes.len() as u64, size);
        assert_eq!(digest(&bytes), name);
        seen.push((name.to_owned(), bytes));
        Ok(())
    })
    .expect("readable");
    assert_eq!(seen.len(), 3, "layer, configuration, manifest");
    let (_, manifest) = seen
        .iter()
        .find(|(name, _)| *name == found.images[0].digest)
        .expect("present");
    let manifest: Value = serde_json::from_slice(manifest).expect("JSON");
    let config = manifest["config"]["digest"].as_str().expect("digest");
    let (_, config) = seen.iter().find(|(name, _)| name == config).expect("present");
    let config: Value = serde_json::from_slice(config).expect("JSON");
    assert_eq!(config["config"]["Entrypoint"], json!(["/bin/serve"]));
    assert_eq!(config["config"]["Env"], json!(["A=b=c"]));
    assert_eq!(config["config"]["ExposedPorts"], json!({"80/tcp": {}}));
    assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
}

#[test]
fn layer_has_parents_once_and_keeps_modes() {
    let tar = sample().layers[0].to_tar().expect("fits");
    let mut reader = tar::Reader::new(Cursor::new(tar));
    let mut got = Vec::new();
    while let Some(entry) = reader.next_entry().expect("sound") {
        got.push(format!("{:?} {:o} {}", entry.kind, entry.mode, entry.path));
    }
    let want = [
        "Directory 755 bin/",
        "File 755 bin/serve",
        "Directory 755 etc/",
        "Directory 755 etc/deep/",
        "Directory 755 etc/deep/er/",
        "File 644 etc/deep/er/motd",
        "Directory 1777 tmp/",
        "Symlink 777 bin/sh",
    ];
    assert_eq!(got, want);
}

#[test]
fn names_up_to_255_bytes_fit_longer_ones_are_refused() {
    let long = format!("{}/{}", "d".repeat(150), "f".repeat(100));
    let layer = Layer {
        files: vec![File::plain(long.clone(), "x")],
    };
    let tar = layer.to_tar();
    // The parent directory alone does not fit in one field with its slash, but splits.
    assert!(tar.is_err() || tar.is_ok_and(|tar| !tar.is_empty()));
    let layer = Layer {
        files: vec![File::plain("f".repeat(101), "x")],
    };
    assert!(matches!(layer.to_tar(), Err(OciError::NameTooLong { .. })));
}

#[test]
fn damaged_archives_are_refused_with_a_reason() {
    let archive = sample().to_archive().expect("fits");
    let cases: [(&str, Vec<u8>, &str); 4] = [
        ("cut in an entry", archive[..1100].to_vec(), "it ends inside"),
        ("cut in a header", archive[..300].to_vec(), "it ends inside a header"),
        ("noise", vec![7; 2048], "in a header is wrong"),
        ("empty", Vec::new(), "neither an index.json"),
    ];
    for (name, bytes, want) in cases {
        let error = describe(Cursor::new(bytes)).expect_err(name).to_string();
        assert!(error.contains(want), "{name}: {error}");
    }
}

#[test]
fn the_machines_own_tar_agrees() {
    let dir = std::env::temp_dir().join(format!("coxswain-oci-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("directory");
    let path = dir.join("image.tar");
    std::fs::write(&path, sample().to_archive().expect("fits")).expect("written");
    let listed = std::process::Command::new("tar").arg("tf").arg(&path).output();
    std::fs::remove_dir_all(&dir).expect("removed");
    let listed = listed.expect("tar runs");
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    assert!(String::from_utf8_lossy(&listed.stdout).contains("index.json\n"));
}

/// Archives of any content: read or refused, in bounded memory.
#[test]
fn fuzz_archives() {
    let mut docker = sample().to_archive().expect("fits");
    let at = docker
        .windows(10)
        .position(|part| part == b"index.json")
        .expect("an index");
    docker[at..at + 10].copy_from_slice(b"manifest.j");
    let seeds = vec![sample().to_archive().expect("fits"), docker, vec![0; 1024]];
    let words = &[
        "ustar",
        "index.json",
        "manifest.json",
        "blobs/sha256/",
        "../",
        "path=",
        "size=9999999999999\n",
        "77777777777",
    ];
    coxswain_fuzz::fuzz("archives", seeds, words, |bytes: &Vec<u8>| {
        let mut read = 0;
        let walked = blobs::<_, OciError>(Cursor::new(bytes), |_, _, content| {
            read += std::io::copy(content, &mut std::io::sink())?;
            Ok(())
        });
        assert!(read <= bytes.len() as u64, "more came out than is there");
        let described = describe(Cursor::new(bytes));
        walked.map_err(|error| error.to_string())?;
        described.map(|_| ()).map_err(|error| error.to_string())
    });
}

/// A header of any kind, with a sum that is right.
fn header(path: &str, kind: u8, link: &str, size: &[u8; 12]) -> Vec<u8> {
    let mut block = [0_u8; 512];
    block[..path.len()].copy_from_slice(path.as_bytes());
    block[100..107].copy_from_slice(b"0000644");
    block[124..136].copy_from_slice(size);
    block[148..156].copy_from_slice(b"        ");
    block[156] = kind;
    block[157..157 + link.len()].copy_from_slice(link.as_bytes());
    block[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block.to_vec()
}

/// What a hostile archive can hold beside an image, each with the words that refuse it.
#[test]
fn hostile_entries_are_refused() {
    const NOTHING: &[u8; 12] = b"00000000000\0";
    let plain = |path: &str, kind: u8, link: &str| header(path, kind, link, NOTHING);
    let image = sample().to_archive().expect("fits");
    let digest = "a".repeat(64);
    let blob = format!("blobs/sha256/{digest}");
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("up", plain("../x", b'0', ""), "leads out"),
        ("up later", plain("blobs/../../x", b'0', ""), "leads out"),
        ("absolute", plain("/etc/passwd", b'0', ""), "leads out"),
        ("directory above", plain("../x/", b'5', ""), "leads out"),
        ("link out", plain("a", b'2', "/etc/passwd"), "link that leads out"),
        ("link up", plain("a/b", b'2', "../../x"), "link that leads out"),
        ("hard link out", plain("a/b", b'1', "../x"), "link that leads out"),
        (
            "hard link to an absolute name",
            plain("a", b'1', "/etc/passwd"),
            "link that leads out",
        ),
        ("character device", plain("a", b'3', ""), "device"),
        ("block device", plain("a", b'4', ""), "device"),
        ("named pipe", plain("a", b'6', ""), "device"),
        ("sparse file", plain("a", b'S', ""), "of a kind"),
        ("index twice", plain("./index.json", b'0', ""), "twice"),
        (
            "blob twice",
            [plain(&blob, b'0', ""), plain(&blob, b'0', "")].concat(),
            "twice",
        ),
        (
            "huge",
            header("a", b'0', "", b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff"),
            "bytes",
        ),
        (
            "huge index",
            header("other.json", b'0', "", b"77777777777\0"),
            "ends inside",
        ),
        (
            "extensions without end",
            header("a", b'g', "", NOTHING).repeat(100),
            "extension headers",
        ),
    ];
    for (name, entries, want) in cases {
        // The hostile entries come first or, where they repeat something, last.
        let mut archive = image[..image.len() - 1024].to_vec();
        archive.extend_from_slice(&entries);
        archive.extend_from_slice(&[0; 1024]);
        let error = describe(Cursor::new(&archive)).expect_err(name).to_string();
        assert!(error.contains(want), "{name}: {error}");
        let walked = blobs::<_, OciError>(Cursor::new(&archive), |digest, _, content| {
            assert!(digest.starts_with("sha256:") && !digest.contains(['/', '.']));
            std::io::copy(content, &mut std::io::sink())?;
            Ok(())
        });
        assert!(walked.is_err(), "{name}");
    }
    // What `docker save` of old writes for a layer that two images share.
    let mut shared = image[..image.len() - 1024].to_vec();
    shared.extend_from_slice(&plain("two/layer.tar", b'2', "../one/layer.tar"));
    shared.extend_from_slice(&[0; 1024]);
    describe(Cursor::new(&shared)).expect("a link inside is fine");
    let mut odd = plain(&format!("blobs/sha256/{}/..", "a".repeat(61)), b'0', "");
    odd.extend_from_slice(&[0; 1024]);
    blobs::<_, OciError>(Cursor::new(&odd), |digest, _, _| panic!("{digest} is no digest")).expect("read");
}

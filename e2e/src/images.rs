//! Images from local parts: no registry is needed.

use anyhow::{Context, Result};
use coxswain_oci::{File, Image, Layer};

/// An image called `name` with a static busybox, its usual commands and a few folders.
///
/// # Errors
/// When busybox is not installed (Debian's `busybox-static`).
pub fn busybox(name: &str, cmd: &[&str]) -> Result<Image> {
    let program = ["/bin/busybox", "/usr/bin/busybox"]
        .iter()
        .find_map(|p| std::fs::read(p).ok())
        .context("install busybox-static: no /bin/busybox")?;
    let applets = [
        "sh", "ls", "cat", "echo", "sleep", "wget", "nslookup", "httpd", "tar", "true", "false", "id", "env",
        "hostname", "mkdir", "rm", "touch", "nc", "ps", "stat", "head", "tail", "grep", "date", "kill", "sync", "dd",
        "cp", "test", "ip", "ping", "seq", "find", "mount", "df", "wc", "printf", "readlink", "chmod", "vi", "sed",
        "tr", "cut", "sort", "trap", "yes", "od",
    ];
    let mut files = vec![
        File::executable("bin/busybox", program),
        File::directory("tmp", 0o1777),
        File::directory("root", 0o700),
        File::directory("etc", 0o755),
        File::plain(
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        ),
        File::plain("etc/group", "root:x:0:\nnobody:x:65534:\n"),
    ];
    files.extend(applets.map(|a| File::symlink(format!("bin/{a}"), "busybox")));
    Ok(Image {
        name: name.to_owned(),
        layers: vec![Layer { files }],
        cmd: cmd.iter().map(|s| (*s).to_owned()).collect(),
        env: vec![(
            "PATH".to_owned(),
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        )],
        ..Image::default()
    })
}

/// An image called `name` that serves `text` over HTTP on `port`.
///
/// # Errors
/// When busybox is not installed.
pub fn web(name: &str, port: u16, text: &str) -> Result<Image> {
    // The first process of a container gets no default action for signals: it must ask for the end.
    let serve = format!("trap 'exit 0' TERM INT; httpd -f -v -p {port} -h /www & wait");
    let mut image = busybox(name, &["sh", "-c", &serve])?;
    image.layers.push(Layer {
        files: vec![
            File::directory("www", 0o755),
            File::plain("www/index.html", text.as_bytes()),
        ],
    });
    image.ports = vec![port];
    Ok(image)
}

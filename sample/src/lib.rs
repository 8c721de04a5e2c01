//! The sample image of `manifests/sample`: built with the workspace, carried in the daemon.
//!
//! `build.rs` compiles `server/` to one static binary; this crate wraps it in an image archive that
//! a node imports. Nothing is fetched and no container tool is needed.
//!
//! Does not: import the image; the node agent does that with every archive in its image directory.

use coxswain_oci::{Image, OciError};

/// The name that manifests use is `coxswain/sample:v1`; this is what runtimes make of it.
pub const NAME: &str = "docker.io/coxswain/sample:v1";

/// The static server binary.
pub const SERVER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sample"));

/// The image as an OCI archive; the same bytes for the same build.
pub fn archive() -> Result<Vec<u8>, OciError> {
    image(NAME).to_archive()
}

/// The image under another name.
pub fn image(name: &str) -> Image {
    Image {
        ports: vec![8080],
        user: "65532:65532".to_owned(),
        ..Image::of_binary(name, "sample", SERVER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    struct Server(Child);

    impl Drop for Server {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn get(port: u16, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    #[test]
    fn the_server_says_where_it_runs_and_ends_when_asked() {
        let free = TcpListener::bind("127.0.0.1:0")
            .and_then(|l| l.local_addr())
            .expect("a port");
        let path = std::env::temp_dir().join(format!("coxswain-sample-{}", std::process::id()));
        std::fs::write(&path, SERVER).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
        let mut command = Command::new(&path);
        command
            .args(["--port", &free.port().to_string()])
            .env("POD_NAME", "sample-0")
            .env("NODE_NAME", "here");
        let server = command.stdout(Stdio::null()).spawn();
        let mut server = Server(server.expect("starts"));
        let deadline = Instant::now() + Duration::from_secs(20);
        while get(free.port(), "/healthz").is_err() {
            assert!(Instant::now() < deadline, "the server did not come up");
            std::thread::yield_now();
        }
        std::fs::remove_file(&path).expect("removed");
        for count in 1..=2 {
            let text = get(free.port(), "/json").expect("answers");
            let want = format!("\"node\":\"here\",\"pod\":\"sample-0\",\"requests\":{count}}}");
            assert!(text.contains(&want), "{text}");
        }
        assert!(get(free.port(), "/").expect("answers").contains("Pod <b>sample-0</b>"));
        assert!(get(free.port(), "/nope").expect("answers").starts_with("HTTP/1.1 404"));
        let kill = Command::new("kill").arg(server.0.id().to_string()).status();
        assert!(kill.expect("kill runs").success());
        assert!(server.0.wait().expect("ended").success());
    }

    #[test]
    fn the_archive_holds_one_image_of_that_name() {
        let archive = archive().expect("fits");
        let found = coxswain_oci::archive::describe(archive.as_slice()).expect("readable");
        assert_eq!(
            found.images.iter().map(|image| image.name.as_str()).collect::<Vec<_>>(),
            [NAME]
        );
    }
}

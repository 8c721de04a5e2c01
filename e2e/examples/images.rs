//! Writes the archives of the images that the tests use into a folder, to try things by hand:
//! `cargo run -p coxswain-e2e --example images -- /var/lib/coxswain/images`.

use anyhow::{Context, Result};
use coxswain_e2e::{busybox, web};

fn main() -> Result<()> {
    let folder = std::env::args().nth(1).context("usage: images FOLDER")?;
    let images = [
        web("nginx:1.19", 80, "welcome from nginx 1.19\n")?,
        web("nginx:1.20", 80, "welcome from nginx 1.20\n")?,
        web("myasyncapp:latest", 8000, "hello from myasyncapp\n")?,
        web("mydockerhubuser/myasyncapp:latest", 8000, "hello from myasyncapp\n")?,
        busybox("busybox:1.35", &["sh"])?,
    ];
    for (number, image) in images.iter().enumerate() {
        std::fs::write(format!("{folder}/{number}.tar"), image.to_archive()?)?;
    }
    Ok(())
}

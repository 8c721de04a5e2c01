//! Tells the daemon what it was built from and by. A release build names the commit and looks at the sources again when
//! one of them changes; other builds do not, so that an edit elsewhere builds nothing more than it did.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let version = said(&rustc, &["--version"]).unwrap_or_default();
    let version: Vec<&str> = version.split(' ').take(2).collect();
    println!("cargo::rustc-env=COXSWAIN_COMPILER={}", version.join(" "));
    if std::env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        name_commit();
    }
}

fn name_commit() {
    for folder in std::fs::read_dir("..").into_iter().flatten().flatten() {
        let sources = folder.path().join("src");
        if sources.is_dir() {
            println!("cargo::rerun-if-changed={}", sources.display());
        }
    }
    for file in ["HEAD", "logs/HEAD"] {
        if let Some(path) = said("git", &["rev-parse", "--git-path", file]) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    let Some(commit) = said("git", &["rev-parse", "HEAD"]) else {
        // Built from an archive of the sources.
        return;
    };
    let changes = said("git", &["status", "--porcelain", "--untracked-files=no"]);
    let tree = match changes.as_deref() {
        Some("") => "clean",
        _ => "dirty",
    };
    let form = "--date=format-local:%Y-%m-%dT%H:%M:%SZ";
    let date = said("git", &["log", "-1", "--format=%cd", form]).unwrap_or_default();
    for (name, value) in [("COMMIT", commit.as_str()), ("TREE", tree), ("DATE", &date)] {
        println!("cargo::rustc-env=COXSWAIN_{name}={value}");
    }
}

/// What a program prints, when it succeeds.
fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).env("TZ", "UTC").output().ok()?;
    let text = output
        .status
        .success()
        .then(|| String::from_utf8(output.stdout).ok())??;
    Some(text.trim().to_owned())
}

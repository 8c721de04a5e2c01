//! Builds the sample's server as one static binary, with the compiler that builds everything else.
//!
//! A separate compiler call rather than a dependency: the binary needs other flags (static, small)
//! than the rest of the workspace.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=server");
    println!("cargo:rerun-if-changed=build.rs");
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let out = PathBuf::from(variable("OUT_DIR")).join("sample");
    let source = PathBuf::from(variable("CARGO_MANIFEST_DIR")).join("server/main.rs");
    let target = variable("TARGET");
    let mut rustc = Command::new(variable("RUSTC"));
    rustc.args(["--edition", "2024", "--crate-name", "sample", "--target", &target]);
    rustc.args(["-C", "opt-level=s", "-C", "panic=abort", "-C", "strip=symbols"]);
    rustc.args(["-C", "target-feature=+crt-static", "-C", "relocation-model=static"]);
    rustc.arg(&source).arg("-o").arg(&out);
    let done = rustc.status().is_ok_and(|status| status.success());
    assert!(done, "the sample's server could not be built: {rustc:?}");
}

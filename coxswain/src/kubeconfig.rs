//! The administrator's kubeconfig: everything in one file, mode 0600.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::pki::{Identity, write_secret};

/// Where `ctl` looks when neither `--kubeconfig` nor `KUBECONFIG` is given.
pub const DEFAULT_PATH: &str = "/etc/coxswain/admin.kubeconfig";

/// The text of a kubeconfig for one cluster and one client certificate.
#[must_use]
pub fn render(server: &str, ca_pem: &str, identity: &Identity) -> String {
    let [ca, cert, key] = [ca_pem, &identity.cert_pem, &identity.key_pem].map(|pem| STANDARD.encode(pem));
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: coxswain\n  cluster:\n    server: {server}\n    \
         certificate-authority-data: {ca}\nusers:\n- name: admin\n  user:\n    client-certificate-data: {cert}\n    \
         client-key-data: {key}\ncontexts:\n- name: coxswain\n  context:\n    cluster: coxswain\n    user: admin\n\
         current-context: coxswain\npreferences: {{}}\n"
    )
}

/// Writes the kubeconfig to `path`, or to the default place, and makes it the default of `ctl` where that
/// takes nothing from another cluster. Returns where it was written.
///
/// # Errors
/// When a file or folder cannot be written.
pub fn install(path: Option<&Path>, text: &str) -> Result<PathBuf> {
    let default = Path::new(DEFAULT_PATH);
    let target = path.unwrap_or(default);
    for folder in [target.parent(), default.parent()]
        .into_iter()
        .flatten()
        .filter(|f| !f.as_os_str().is_empty())
    {
        std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    let target = std::path::absolute(target)?;
    if target == default && default.is_symlink() {
        std::fs::remove_file(default)?;
    }
    write_secret(&target, text)?;
    if target != default && !default.exists() {
        if default.is_symlink() {
            std::fs::remove_file(default)?;
        }
        std::os::unix::fs::symlink(&target, default).with_context(|| format!("link {DEFAULT_PATH}"))?;
    }
    Ok(target)
}

/// Whether `ctl` finds the kubeconfig at `path` by itself.
#[must_use]
pub fn is_default(path: &Path) -> bool {
    std::fs::canonicalize(DEFAULT_PATH).is_ok_and(|real| std::fs::canonicalize(path).is_ok_and(|p| p == real))
}

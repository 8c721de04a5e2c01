//! `ctl cp`: files and directories to and from containers, through `tar` in the container.

use std::io::{self, Read as _, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use coxswain_client::kube::api::AttachedProcess;
use k8s_openapi::api::core::v1::Pod;
use tokio::io::AsyncReadExt as _;
use tokio_util::io::SyncIoBridge;

use crate::archive::{self, Entry, Kind};
use crate::context::{Ctx, Failed};
use crate::exec::{Streams, outcome, params};
use crate::pods;
use crate::unpack::unpack;

/// What the container's tar may say when something goes wrong, in bytes.
const COMPLAINT_MAX: u64 = 16 * 1024;

#[derive(Args)]
pub struct Cp {
    /// FILE or [NAMESPACE/]POD:FILE
    pub from: String,
    /// FILE or [NAMESPACE/]POD:FILE
    pub to: String,
    #[arg(long, short = 'c')]
    pub container: Option<String>,
    /// Do not keep permissions
    #[arg(long)]
    pub no_preserve: bool,
}

/// One side of the copy.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Local(PathBuf),
    Remote {
        namespace: Option<String>,
        pod: String,
        path: String,
    },
}

fn place(word: &str) -> Result<Place> {
    let Some((pod, path)) = word.split_once(':') else {
        return Ok(Place::Local(word.into()));
    };
    // A colon after a slash at the beginning belongs to a local name.
    if pod.starts_with(['/', '.']) {
        return Ok(Place::Local(word.into()));
    }
    let (namespace, pod) = pod
        .split_once('/')
        .map_or((None, pod), |(namespace, pod)| (Some(namespace.to_owned()), pod));
    if pod.is_empty() || path.is_empty() {
        bail!("filespec must match the canonical format: [[namespace/]pod:]file/path");
    }
    Ok(Place::Remote {
        namespace,
        pod: pod.to_owned(),
        path: path.to_owned(),
    })
}

/// Runs the command.
///
/// # Errors
/// What cannot be read or written on either side.
pub async fn run(ctx: &Ctx, args: &Cp) -> Result<ExitCode> {
    match (place(&args.from)?, place(&args.to)?) {
        (Place::Local(from), Place::Remote { namespace, pod, path }) => {
            if !from.exists() {
                bail!("{} doesn't exist in local filesystem", from.display());
            }
            upload(ctx, args, namespace.as_deref(), &pod, &from, &path).await
        }
        (Place::Remote { namespace, pod, path }, Place::Local(to)) => {
            download(ctx, args, namespace.as_deref(), &pod, &path, &to).await
        }
        _ => bail!("one of src or dest must be a remote file specification"),
    }
}

async fn start(
    ctx: &Ctx,
    args: &Cp,
    namespace: Option<&str>,
    pod: &str,
    command: Vec<String>,
    stdin: bool,
) -> Result<AttachedProcess> {
    let namespace = namespace.unwrap_or(&ctx.namespace);
    let found = ctx
        .get(&format!(
            "/api/v1/namespaces/{namespace}/pods/{}",
            crate::context::encode(pod)
        ))
        .await?;
    let (container, say) = pods::container(&found, args.container.as_deref())?;
    if say {
        eprintln!("{}", pods::defaulted(&found, container));
    }
    let api = ctx.client.namespaced::<Pod>(namespace);
    let params = params(container, Streams { stdin, tty: false });
    api.exec(pod, command, &params).await.map_err(|source| {
        Failed {
            server: ctx.server.clone(),
            source,
        }
        .into()
    })
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

async fn upload(ctx: &Ctx, args: &Cp, namespace: Option<&str>, pod: &str, from: &Path, to: &str) -> Result<ExitCode> {
    // Into a directory that exists, otherwise under the new name.
    let mut probe = start(ctx, args, namespace, pod, words(&["test", "-d", to]), false).await?;
    let is_directory = finish(&mut probe).await.is_ok();
    let source_name = from
        .canonicalize()?
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let trimmed = to.trim_end_matches('/');
    let (directory, name) = if is_directory {
        (if trimmed.is_empty() { "/" } else { trimmed }.to_owned(), source_name)
    } else {
        match trimmed.rsplit_once('/') {
            Some((directory, name)) => (
                if directory.is_empty() { "/" } else { directory }.to_owned(),
                name.to_owned(),
            ),
            None => (".".to_owned(), trimmed.to_owned()),
        }
    };
    let mut command = words(&["tar", "-xmf", "-", "-C", &directory]);
    if args.no_preserve {
        command = words(&[
            "tar",
            "--no-same-permissions",
            "--no-same-owner",
            "-xmf",
            "-",
            "-C",
            &directory,
        ]);
    }
    let mut process = start(ctx, args, namespace, pod, command, true).await?;
    let remote = process
        .stdin()
        .ok_or_else(|| anyhow!("the server gave no input stream"))?;
    let from = from.to_owned();
    let packed = tokio::task::spawn_blocking(move || -> io::Result<()> {
        let mut out = io::BufWriter::new(SyncIoBridge::new(remote));
        pack(&mut out, &from, &name)?;
        archive::finish(&mut out)?;
        out.into_inner().map_err(io::IntoInnerError::into_error)?.shutdown()
    });
    let ended = finish(&mut process).await;
    ended.context("copying into the container")?;
    packed.await?.context("copying into the container")?;
    Ok(ExitCode::SUCCESS)
}

fn pack(out: &mut impl Write, path: &Path, name: &str) -> io::Result<()> {
    let metadata = path.symlink_metadata()?;
    let mode = metadata.permissions().mode();
    if metadata.is_symlink() {
        let target = path.read_link()?.to_string_lossy().into_owned();
        return archive::write_header(
            out,
            &Entry {
                path: name.to_owned(),
                kind: Kind::Link(target),
                mode,
                size: 0,
            },
        );
    }
    if metadata.is_dir() {
        archive::write_header(
            out,
            &Entry {
                path: format!("{name}/"),
                kind: Kind::Directory,
                mode,
                size: 0,
            },
        )?;
        let mut entries: Vec<_> = std::fs::read_dir(path)?.collect::<Result<_, _>>()?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            pack(
                out,
                &entry.path(),
                &format!("{name}/{}", entry.file_name().to_string_lossy()),
            )?;
        }
        return Ok(());
    }
    if !metadata.is_file() {
        eprintln!(
            "warning: {} is neither file nor directory and is left out",
            path.display()
        );
        return Ok(());
    }
    let size = metadata.len();
    archive::write_header(
        out,
        &Entry {
            path: name.to_owned(),
            kind: Kind::File,
            mode,
            size,
        },
    )?;
    let copied = io::copy(&mut std::fs::File::open(path)?.take(size), out)?;
    if copied < size {
        return Err(io::Error::other(format!(
            "{} became shorter while it was copied",
            path.display()
        )));
    }
    archive::pad(out, size)
}

async fn download(ctx: &Ctx, args: &Cp, namespace: Option<&str>, pod: &str, from: &str, to: &Path) -> Result<ExitCode> {
    let command = words(&["tar", "cf", "-", "--", from]);
    let mut process = start(ctx, args, namespace, pod, command, false).await?;
    let remote = process
        .stdout()
        .ok_or_else(|| anyhow!("the server gave no output stream"))?;
    let base = from
        .trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .to_owned();
    let target = if to.is_dir() && base != "." && !base.is_empty() {
        to.join(&base)
    } else {
        to.to_owned()
    };
    let prefix = from.trim_start_matches('/').trim_end_matches('/').to_owned();
    let keep_modes = !args.no_preserve;
    let unpacked =
        tokio::task::spawn_blocking(move || unpack(&mut SyncIoBridge::new(remote), &prefix, &target, keep_modes));
    let (ended, unpacked) = tokio::join!(finish(&mut process), unpacked);
    let count = unpacked??;
    ended.context("copying from the container")?;
    if count == 0 {
        bail!("{from}: no such file or directory in the container");
    }
    Ok(ExitCode::SUCCESS)
}

/// What the container says, without what would steer the terminal.
fn printable(text: &str) -> String {
    text.chars().filter(|c| *c == '\n' || !c.is_control()).collect()
}

/// Waits for the remote program and turns its failure into what it said.
async fn finish(process: &mut AttachedProcess) -> Result<()> {
    let mut said = String::new();
    if let Some(stderr) = process.stderr() {
        stderr.take(COMPLAINT_MAX).read_to_string(&mut said).await.ok();
    }
    let status = match process.take_status() {
        Some(status) => status.await,
        None => None,
    };
    match outcome(status.as_ref()) {
        Ok(0) => Ok(()),
        Ok(code) if said.trim().is_empty() => bail!("the program in the container exited with code {code}"),
        Ok(_) => bail!("{}", printable(said.trim())),
        Err(why) => bail!("{why}: copying needs `tar` in the container"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let remote = |namespace: Option<&str>, pod: &str, path: &str| Place::Remote {
            namespace: namespace.map(str::to_owned),
            pod: pod.into(),
            path: path.into(),
        };
        for (word, expected) in [
            ("a/b", Place::Local("a/b".into())),
            ("p:/x", remote(None, "p", "/x")),
            ("n/p:x", remote(Some("n"), "p", "x")),
            ("./a:b", Place::Local("./a:b".into())),
        ] {
            assert_eq!(place(word).expect("a place"), expected, "{word}");
        }
        assert!(place(":x").is_err());
    }
}

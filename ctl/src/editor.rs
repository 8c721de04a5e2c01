//! `ctl edit`: objects in the user's editor.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use http::Method;
use serde_json::Value;

use crate::change::{Change, path_of};
use crate::context::Ctx;
use crate::manifest::Files;
use crate::pods::text;
use crate::print::document;
use crate::resources::Resources;
use crate::targets::Which;

const HEADER: &str = "# Edit the object below. Lines that begin with # are left out. An empty file or one without\n# changes leaves the object as it is.\n#\n";

#[derive(Args)]
pub struct Edit {
    /// TYPE NAME or TYPE/NAME
    #[arg(value_name = "TYPE[/NAME]")]
    pub what: Vec<String>,
    #[command(flatten)]
    pub which: Which,
    /// status, scale or resize
    #[arg(long)]
    pub subresource: Option<String>,
    #[command(flatten)]
    pub change: Change,
}

/// Runs the command.
///
/// # Errors
/// When the editor fails, what was written is no manifest, or the server's answer; what was written is kept.
pub async fn run(ctx: &Ctx, args: &Edit) -> Result<ExitCode> {
    let resources = Resources::discover(ctx).await?;
    let printer = args.change.printer_of_words()?;
    let json = args.change.output.as_deref() == Some("json");
    let found = args.which.objects(ctx, &resources, &args.what, false).await?;
    for (resource, object) in &found.objects {
        let name = text(object, "/metadata/name");
        let before = format!("{HEADER}{}", document(object, !json, args.change.show_managed_fields));
        let path = scratch(name, if json { "json" } else { "yaml" });
        std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(before.as_bytes()))
            .with_context(|| format!("write {}", path.display()))?;
        open_editor(&path)?;
        let after = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let empty = after
            .lines()
            .all(|line| line.trim().is_empty() || line.starts_with('#'));
        if empty || after == before {
            let _ = std::fs::remove_file(&path);
            eprintln!("Edit cancelled, no changes made.");
            continue;
        }
        match replace(ctx, args, (resource, object), &path).await {
            Ok(after) => {
                let _ = std::fs::remove_file(&path);
                printer.changed(resource, "edited", &after)?;
            }
            Err(error) => {
                return Err(error.context(format!("what you wrote is kept in {:?}", path.display().to_string())));
            }
        }
    }
    Ok(if found.failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

async fn replace(
    ctx: &Ctx,
    args: &Edit,
    (resource, before): (&crate::resources::Resource, &Value),
    path: &std::path::Path,
) -> Result<Value> {
    let files = Files {
        filename: vec![path.display().to_string()],
        ..Files::default()
    };
    let manifests = files.read()?;
    let [manifest] = manifests.as_slice() else {
        bail!("one object is edited at a time");
    };
    for pointer in ["/kind", "/metadata/name", "/metadata/namespace"] {
        if text(&manifest.object, pointer) != text(before, pointer) {
            bail!(
                "{} cannot be changed by editing",
                pointer.trim_start_matches('/').replace('/', ".")
            );
        }
    }
    let mut place = path_of(resource, before);
    if let Some(sub) = &args.subresource {
        place = format!("{place}/{sub}");
    }
    let mut object = manifest.object.clone();
    if object["metadata"]["managedFields"].is_null() {
        object["metadata"]["managedFields"] = before["metadata"]["managedFields"].clone();
    }
    // The resourceVersion in the text refuses the change when somebody else was faster.
    let place = args.change.query(&place, "ctl-edit");
    ctx.call(Method::PUT, &place, &[], Some(&object))
        .await
        .map_err(|error| crate::apply::located(error, manifest))
}

fn scratch(name: &str, extension: &str) -> PathBuf {
    let name: String = name
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
        .collect();
    let nanoseconds = jiff::Timestamp::now().as_nanosecond();
    std::env::temp_dir().join(format!(
        "ctl-edit-{name}-{}-{nanoseconds}.{extension}",
        std::process::id()
    ))
}

/// The editor that the environment names, which may have arguments.
fn open_editor(path: &std::path::Path) -> Result<()> {
    let named = ["KUBE_EDITOR", "VISUAL", "EDITOR"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.trim().is_empty()));
    let editor = named.unwrap_or_else(|| "vi".to_owned());
    let status = Command::new("sh")
        .args(["-c", &format!("{editor} \"$1\""), "sh"])
        .arg(path)
        .status()
        .with_context(|| format!("start the editor {editor:?}"))?;
    if !status.success() {
        bail!("the editor {editor:?} failed; set KUBE_EDITOR to another one");
    }
    Ok(())
}

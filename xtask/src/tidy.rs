//! Rules about the shape of the code that no compiler knows: each is a test with its reason beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Crate, and the workspace crates that it may depend on. Order is the layering of ARCHITECTURE.md.
const EDGES: &[(&str, &[&str])] = &[
    ("api", &[]),
    ("oci", &[]),
    ("sample", &["oci"]),
    ("proto", &[]),
    ("store", &["api"]),
    ("supervise", &[]),
    ("consensus", &["store", "proto"]),
    ("apiserver", &["consensus", "store", "api", "supervise"]),
    ("client", &["api", "supervise"]),
    ("scheduler", &["client", "api"]),
    ("controllers", &["client", "api"]),
    ("beneath", &[]),
    ("node-agent", &["client", "api", "proto", "oci", "beneath"]),
    ("ctl", &["client", "api", "beneath"]),
    (
        "coxswain",
        &[
            "api",
            "store",
            "consensus",
            "apiserver",
            "client",
            "scheduler",
            "controllers",
            "node-agent",
            "oci",
            "sample",
            "beneath",
            "supervise",
        ],
    ),
    ("e2e", &["client", "api", "oci", "bench"]),
    ("bench", &["client", "api", "consensus"]),
    ("sim", &["consensus"]),
    ("fuzz", &[]),
    ("xtask", &[]),
];

/// Crate, and the outside crates that it must never see directly, with the reason.
const FORBIDDEN: &[(&str, &[&str], &str)] = &[
    (
        "api",
        &["tokio", "sled", "rand"],
        "the object model is synchronous, without clock or randomness",
    ),
    (
        "store",
        &["tokio", "sled", "rand"],
        "the state machine is replicated: it must be deterministic",
    ),
];

/// Outside crate, and the only workspace crates that may see it.
const CONFINED: &[(&str, &[&str])] = &[("axum", &["apiserver", "coxswain"]), ("raft", &["consensus"])];

/// Words that make a pure file impure.
const IMPURE: &[&str] = &[
    "async fn",
    ".await",
    "Instant::now",
    "SystemTime::now",
    "Timestamp::now",
    "Zoned::now",
    "thread_rng",
    "rand::",
];

/// Code whose files pods, images or archives can change while it works on them: it uses `coxswain-beneath`, which opens
/// by descriptor, and never a name that it checked before.
const BENEATH: &[&str] = &["node-agent/src/", "ctl/src/cp.rs", "ctl/src/unpack.rs"];

/// Files and directories there that may use names, with the reason: nothing they name comes from a pod.
const BY_NAME: &[(&str, &str)] = &[
    (
        "node-agent/src/containerd/",
        "its directories belong to the agent alone",
    ),
    (
        "node-agent/src/image/",
        "archives that the operator put into the data directory",
    ),
    ("node-agent/src/net/", "the node's own network configuration"),
    ("node-agent/src/node/capacity.rs", "facts that the kernel tells"),
    (
        "node-agent/src/pods/cgroup.rs",
        "the kernel's control groups, which have no links",
    ),
    (
        "node-agent/src/runtime/views.rs",
        "mounts on directories that no container sees",
    ),
    (
        "node-agent/src/server/pages.rs",
        "uploads, under names that the agent chose",
    ),
    (
        "node-agent/src/server/port_forward.rs",
        "network namespaces that the runtime named",
    ),
    (
        "node-agent/src/volumes/mounts.rs",
        "the kernel's table of mounts; everything else there is a descriptor",
    ),
    (
        "node-agent/src/wire.rs",
        "the agent's own directories, and the node's resolver configuration",
    ),
    (
        "ctl/src/cp.rs",
        "packs files of the user; what comes from a container is in unpack.rs",
    ),
];

/// What uses a file by its name.
const NAMED_FILES: &[&str] = &[
    "std::fs",
    "tokio::fs",
    "unix::fs",
    "rustix::fs",
    "nix::fcntl",
    "nix::mount",
    "nix::sys::stat",
    "nix::unistd",
    "File::open",
    "File::create",
    "File::options",
    "OpenOptions",
    "read_dir(",
    "symlink_metadata",
    "canonicalize",
    ".exists()",
    ".is_dir()",
    ".is_file()",
    ".is_symlink()",
    ".read_link()",
];

/// Lines that name only a type, whose own functions are found by [`NAMED_FILES`].
const FILE_TYPES: &[&str] = &[
    "use std::fs::File;",
    "use tokio::fs::File;",
    "use std::os::unix::fs::MetadataExt;",
    "use nix::mount::MsFlags;",
    "use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};",
];

/// What overflows or panics on values that users and other machines wrote, and no lint sees; with what to write instead.
const UNCHECKED: &[(&str, &str)] = &[
    ("Instant::now() +", "it panics on overflow: `supervise::deadline`"),
    (".sum()", "it overflows: `bounded::sum`"),
    (".sum::<", "it overflows: `bounded::sum`"),
    (".product(", "it overflows: a fold with `saturating_mul`"),
    (".abs()", "the least number has none: `saturating_abs`"),
    (".pow(", "it overflows: `saturating_pow`"),
    ("::from_secs_f", "it panics on what does not fit: `try_from_secs_f64`"),
    (
        ".mul_f",
        "it panics on what does not fit: `saturating_mul` by a whole number",
    ),
    (".div_f", "it panics on what does not fit: divide by a whole number"),
];

/// Folders that act on objects. Their plain operators on numbers are forbidden by clippy: the file beside each asks for it.
const CHECKED: &[(&str, &str)] = &[
    ("client/src/", "client/src/lib.rs"),
    ("controllers/src/", "controllers/src/lib.rs"),
    ("scheduler/src/", "scheduler/src/lib.rs"),
    ("supervise/src/", "supervise/src/lib.rs"),
    ("node-agent/src/node/", "node-agent/src/node/mod.rs"),
    ("node-agent/src/pods/", "node-agent/src/pods/mod.rs"),
    ("node-agent/src/volumes/", "node-agent/src/volumes/mod.rs"),
];

const LINES_MAX: usize = 600;

/// Modules whose `unsafe` was reviewed; each states at its top why it is sound.
const UNSAFE_MODULES: &[&str] = &["sample/server/signals.rs", "ctl/src/pipes.rs"];

const LICENCES: &[&str] = &[
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Unlicense",
    "Zlib",
    "Unicode-3.0",
    "0BSD",
    "CC0-1.0",
    "MIT-0",
    "OpenSSL",
    "MPL-2.0",
    "MPL-2.0+",
    "CDLA-Permissive-2.0",
    "BSL-1.0",
];

/// Runs every rule; prints one line per violation. True when there is none.
pub fn run() -> Result<bool> {
    let metadata = metadata()?;
    let root = PathBuf::from(metadata["workspace_root"].as_str().context("no workspace root")?);
    let mut violations = edges(&metadata)?;
    violations.extend(licences(&metadata));
    for file in rust_files(&root)? {
        let text = std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let name = file.strip_prefix(&root).unwrap_or(&file).to_string_lossy().into_owned();
        violations.extend(source(&name, &text));
        violations.extend(named_files(&name, &text));
        violations.extend(orphan(&file, &name));
    }
    for v in &violations {
        println!("tidy: {v}");
    }
    println!("tidy: {} violations", violations.len());
    Ok(violations.is_empty())
}

/// Names of the integration tests of the packages that are wanted.
pub fn test_targets(wanted: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let metadata = metadata()?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let ours = packages.filter(|package| package["source"].is_null());
    let wanted = ours.filter(|package| package["name"].as_str().is_some_and(&wanted));
    let targets = wanted.flat_map(|package| package["targets"].as_array().into_iter().flatten());
    let tests = targets.filter(|target| target["kind"][0] == "test");
    Ok(tests
        .filter_map(|target| target["name"].as_str().map(str::to_owned))
        .collect())
}

fn metadata() -> Result<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .output()?;
    if !output.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn folder(package: &Value) -> String {
    let manifest = Path::new(package["manifest_path"].as_str().unwrap_or_default());
    manifest
        .parent()
        .and_then(Path::file_name)
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn edges(metadata: &Value) -> Result<Vec<String>> {
    let members: BTreeSet<&str> = metadata["workspace_members"]
        .as_array()
        .context("no members")?
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let packages: Vec<&Value> = metadata["packages"]
        .as_array()
        .context("no packages")?
        .iter()
        .filter(|p| p["id"].as_str().is_some_and(|id| members.contains(id)))
        .collect();
    let folders: BTreeMap<&str, String> = packages
        .iter()
        .filter_map(|p| Some((p["name"].as_str()?, folder(p))))
        .collect();
    let mut out = Vec::new();
    for package in packages {
        let this = folder(package);
        let Some((_, allowed)) = EDGES.iter().find(|(c, _)| *c == this) else {
            out.push(format!(
                "{this}: a crate without a row in EDGES; say what it may depend on"
            ));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let name = dependency["name"].as_str().unwrap_or_default();
            let dev = dependency["kind"].as_str() == Some("dev");
            if let Some(target) = folders.get(name)
                && !dev
                && !allowed.contains(&target.as_str())
            {
                out.push(format!("{this} must not depend on {target}"));
            }
            for (_, names, why) in FORBIDDEN.iter().filter(|(c, _, _)| *c == this && !dev) {
                if names.contains(&name) {
                    out.push(format!("{this} must not depend on {name}: {why}"));
                }
            }
            for (_, only) in CONFINED.iter().filter(|(c, _)| *c == name && !dev) {
                if !only.contains(&this.as_str()) {
                    out.push(format!(
                        "{this} must not see {name}, which belongs to {}",
                        only.join(", ")
                    ));
                }
            }
        }
    }
    Ok(out)
}

fn licences(metadata: &Value) -> Vec<String> {
    let accepted = |expression: &str| {
        let expression = expression.replace('/', " OR ");
        expression.split(" AND ").all(|part| {
            part.trim_matches(|c| c == '(' || c == ')')
                .split(" OR ")
                .any(|l| LICENCES.contains(&l.trim_matches(|c| c == '(' || c == ')' || c == ' ')))
        })
    };
    metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|p| !accepted(p["license"].as_str().unwrap_or("none stated")))
        .map(|p| format!("{}: licence {} is not on the list", p["name"], p["license"]))
        .collect()
}

fn rust_files(root: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .current_dir(root)
        .args(["ls-files", "-co", "--exclude-standard", "*.rs"])
        .output()?;
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|l| root.join(l))
        .filter(|p| p.exists())
        .collect())
}

fn is_test(name: &str) -> bool {
    name.ends_with("tests.rs") || name.contains("/tests/") || name.starts_with("e2e/")
}

/// Code above the first `#[cfg(test)]`: what ships.
fn shipped(text: &str) -> &str {
    text.split("\n#[cfg(test)]").next().unwrap_or(text)
}

fn source(name: &str, text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let code = shipped(text);
    if !is_test(name) && code.lines().count() > LINES_MAX {
        out.push(format!(
            "{name}: {} lines, more than {LINES_MAX}: reshape it",
            code.lines().count()
        ));
    }
    let pure = !is_test(name)
        && (name.ends_with("/plan.rs")
            || name.starts_with("store/src/")
            || name.starts_with("api/src/")
            || name.starts_with("scheduler/src/core/"));
    if pure {
        for (number, line) in code
            .lines()
            .enumerate()
            .filter(|(_, l)| !l.trim_start().starts_with("//"))
        {
            for word in IMPURE.iter().filter(|w| line.contains(**w)) {
                out.push(format!("{name}:{}: {word:?} in code that must be pure", number + 1));
            }
        }
    }
    out.extend(unchecked(name, code));
    if !name.starts_with("xtask/") && code.contains("allow(unsafe_code)") && !UNSAFE_MODULES.contains(&name) {
        out.push(format!("{name}: unsafe outside the reviewed modules"));
    }
    let builds = name.ends_with("build.rs") || name.starts_with("xtask/");
    if !builds && !is_test(name) {
        for (number, line) in code.lines().enumerate() {
            for word in ["todo!(", "unimplemented!(", "dbg!("]
                .iter()
                .filter(|w| line.contains(**w))
            {
                out.push(format!("{name}:{}: {word} in code that ships", number + 1));
            }
        }
    }
    out
}

/// Uses of files by name where pods could have changed what the name leads to.
fn named_files(name: &str, text: &str) -> Vec<String> {
    let concerned = BENEATH.iter().any(|start| name.starts_with(start));
    let excused = BY_NAME.iter().any(|(start, _)| name.starts_with(start));
    if !concerned || excused || is_test(name) {
        return Vec::new();
    }
    let lines = shipped(text).lines().enumerate();
    let lines = lines.map(|(number, line)| (number, line.trim()));
    let lines = lines.filter(|(_, line)| !line.starts_with("//") && !FILE_TYPES.contains(line));
    let found = lines.filter_map(|(number, line)| {
        let word = NAMED_FILES.iter().find(|word| line.contains(**word))?;
        Some(format!(
            "{name}:{}: {word:?} uses a file by its name, which a pod may have changed: use coxswain-beneath",
            number + 1
        ))
    });
    found.collect()
}

/// Arithmetic that must not be done on outside values, in the folders that act on them.
fn unchecked(name: &str, code: &str) -> Vec<String> {
    let mut out = Vec::new();
    let linted = CHECKED.iter().any(|(_, file)| *file == name);
    if linted && !code.contains("clippy::arithmetic_side_effects") {
        out.push(format!(
            "{name}: `warn(clippy::arithmetic_side_effects)` is gone: one object with an extreme number stops everybody"
        ));
    }
    let checked = CHECKED.iter().any(|(folder, _)| name.starts_with(folder));
    let lines = code.lines().enumerate();
    for (number, line) in lines.filter(|(_, line)| !line.trim_start().starts_with("//")) {
        for (word, why) in UNCHECKED {
            let everywhere = *word == "Instant::now() +" && name.starts_with("apiserver/src/");
            if (checked || everywhere) && !is_test(name) && line.contains(word) {
                out.push(format!("{name}:{}: {word:?} on what others wrote: {why}", number + 1));
            }
        }
    }
    out
}

/// A file that no `mod` names is compiled by nobody.
fn orphan(file: &Path, name: &str) -> Option<String> {
    let stem = file.file_stem()?.to_str()?;
    let folder = file.parent()?;
    let is_root = ["lib", "main", "build"].contains(&stem)
        || ["tests", "examples", "benches", "bin"]
            .iter()
            .any(|d| folder.ends_with(d))
        || name.contains("fuzz_targets/");
    if is_root {
        return None;
    }
    let (module, parents) = if stem == "mod" {
        let up = folder.parent()?;
        (
            folder.file_name()?.to_str()?,
            vec![
                up.join("mod.rs"),
                up.join("lib.rs"),
                up.join("main.rs"),
                up.with_extension("rs"),
            ],
        )
    } else {
        (
            stem,
            vec![
                folder.join("mod.rs"),
                folder.join("lib.rs"),
                folder.join("main.rs"),
                folder.with_extension("rs"),
            ],
        )
    };
    let roots = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path());
    let in_tests = folder.parent().is_some_and(|p| p.ends_with("tests"));
    let extra: Vec<PathBuf> = if in_tests {
        folder.parent()?.read_dir().ok()?.flatten().map(|e| e.path()).collect()
    } else {
        roots.filter(|p| p != file).collect()
    };
    let declares = |path: &PathBuf| {
        std::fs::read_to_string(path).is_ok_and(|t| {
            t.lines().any(|l| {
                let l = l
                    .trim()
                    .trim_start_matches("pub(crate) ")
                    .trim_start_matches("pub(super) ")
                    .trim_start_matches("pub ");
                l == format!("mod {module};") || l.contains(&format!("{stem}.rs\""))
            })
        })
    };
    let found = parents.iter().chain(extra.iter()).any(declares);
    (!found).then(|| format!("{name}: no `mod {module};` names it, so nobody compiles it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_by_name_are_found_where_pods_can_change_them() {
        let table = [
            ("node-agent/src/volumes/new.rs", "fn f() { std::fs::read(path) }", 1),
            (
                "node-agent/src/pods/files.rs",
                "if path.exists() {\n std::fs::remove_dir_all(path)",
                2,
            ),
            (
                "node-agent/src/logs.rs",
                "use std::fs::File;\n// std::fs::read\nlet file = directory.file(name)?;",
                0,
            ),
            (
                "node-agent/src/logs.rs",
                "use std::fs::File;\nlet file = File::open(path)?;",
                1,
            ),
            (
                "node-agent/src/logs.rs",
                "fn f() {}\n#[cfg(test)]\nmod tests { use std::fs; }",
                0,
            ),
            ("node-agent/src/pods/tests.rs", "std::fs::read(path)", 0),
            ("node-agent/src/wire.rs", "std::fs::read(path)", 0),
            ("ctl/src/unpack.rs", "std::os::unix::fs::symlink(a, b)", 1),
            ("ctl/src/edit.rs", "std::fs::read(path)", 0),
        ];
        for (name, text, count) in table {
            assert_eq!(named_files(name, text).len(), count, "{name}: {text}");
        }
    }

    #[test]
    fn every_excuse_is_for_something_that_is_there() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for (name, _) in BY_NAME {
            assert!(root.join(name).exists(), "{name} is gone: its row too");
        }
    }
}

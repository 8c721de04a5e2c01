//! `ctl config`: the kubeconfig in use, shown and changed.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use coxswain_client::kube::config::Kubeconfig;
use serde_json::{Value, json};

use crate::change::Change;
use crate::context::{Global, kubeconfig, kubeconfig_path};
use crate::print::table::{Text, render};

#[derive(Args)]
pub struct Config {
    #[command(subcommand)]
    pub what: What,
}

#[derive(Subcommand)]
pub enum What {
    /// Show the configuration in use; credentials are hidden unless --raw
    View {
        #[arg(long)]
        raw: bool,
        /// Only what the current context uses
        #[arg(long)]
        minify: bool,
        /// Files that are named are put in
        #[arg(long)]
        flatten: bool,
        #[arg(long, short = 'o', default_value = "yaml")]
        output: String,
    },
    /// Name the current context
    CurrentContext,
    /// List the contexts
    GetContexts {
        name: Option<String>,
        /// name
        #[arg(long, short = 'o', value_parser = ["name"])]
        output: Option<String>,
        #[arg(long)]
        no_headers: bool,
    },
    /// List the clusters
    GetClusters,
    /// List the users
    GetUsers,
    /// Use another context from now on
    #[command(visible_alias = "use")]
    UseContext { name: String },
    /// Give a context another name
    RenameContext { old: String, new: String },
    /// Make or change a context from --cluster, --user and --namespace
    SetContext {
        name: Option<String>,
        /// The current context
        #[arg(long)]
        current: bool,
    },
    /// Make or change a cluster from --server, --certificate-authority, ...
    SetCluster {
        name: String,
        /// Put the contents of the file in
        #[arg(long)]
        embed_certs: bool,
    },
    /// Make or change a user from --token, --client-certificate, --client-key
    SetCredentials {
        name: String,
        /// Put the contents of the files in
        #[arg(long)]
        embed_certs: bool,
    },
    /// Remove a context
    DeleteContext { name: String },
    /// Remove a cluster
    DeleteCluster { name: String },
    /// Remove a user
    DeleteUser { name: String },
}

/// Runs the command.
///
/// # Errors
/// When no configuration is found, or it cannot be written.
pub fn run(global: &Global, args: &Config) -> Result<ExitCode> {
    match &args.what {
        What::View {
            raw,
            minify,
            flatten,
            output,
        } => {
            let mut value = value_of(&kubeconfig(global)?)?;
            if *minify {
                self::minify(&mut value, global.context.as_deref())?;
            }
            if *flatten {
                self::flatten(&mut value)?;
            }
            if !raw {
                hide(&mut value);
            }
            let change = Change {
                output: Some(output.clone()),
                show_managed_fields: true,
                ..Change::default()
            };
            change.printer()?.done("config", "", &value)?;
        }
        What::CurrentContext => match kubeconfig(global)?.current_context {
            Some(name) if !name.is_empty() => println!("{name}"),
            _ => bail!("current-context is not set"),
        },
        What::GetContexts {
            name,
            output,
            no_headers,
        } => {
            let config = kubeconfig(global)?;
            if let Some(name) = name
                .as_ref()
                .filter(|name| !config.contexts.iter().any(|c| c.name == **name))
            {
                bail!("context {name} not found");
            }
            let chosen = config
                .contexts
                .iter()
                .filter(|c| name.as_ref().is_none_or(|name| c.name == *name));
            if output.is_some() {
                chosen.for_each(|context| println!("{}", context.name));
            } else {
                print!("{}", contexts(&config, name.as_deref(), *no_headers));
            }
        }
        What::GetClusters => names(kubeconfig(global)?.clusters.iter().map(|c| c.name.as_str())),
        What::GetUsers => names(kubeconfig(global)?.auth_infos.iter().map(|u| u.name.as_str())),
        change => {
            let path = kubeconfig_path(global)?;
            let mut value = read(&path)?;
            let done = changed(&mut value, change, global)?;
            write(&path, &value)?;
            println!("{done}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn names<'a>(names: impl Iterator<Item = &'a str>) {
    println!("NAME");
    names.for_each(|name| println!("{name}"));
}

fn value_of(config: &Kubeconfig) -> Result<Value> {
    let mut value = serde_json::to_value(config)?;
    value["apiVersion"] = json!("v1");
    value["kind"] = json!("Config");
    drop_nulls(&mut value);
    Ok(value)
}

/// The file as it is; one that does not exist yet is empty.
fn read(path: &Path) -> Result<Value> {
    if !path.exists() {
        return Ok(
            json!({"apiVersion": "v1", "kind": "Config", "clusters": [], "contexts": [], "users": [], "current-context": ""}),
        );
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let documents = coxswain_api::codec::decode_yaml_documents(&text)
        .map_err(|e| anyhow!("{}:{}:{}: {}", path.display(), e.line, e.column, e.message))?;
    documents
        .into_iter()
        .next()
        .map(|document| document.value)
        .filter(Value::is_object)
        .ok_or_else(|| anyhow!("{} is no kubeconfig", path.display()))
}

/// Replaces the file in one step; only its owner may read it.
fn write(path: &Path, value: &Value) -> Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let beside = PathBuf::from(beside);
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        std::fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    }
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)
        .and_then(|mut file| {
            file.write_all(coxswain_api::codec::to_yaml(value).as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| std::fs::rename(&beside, path));
    written.map_err(|error| {
        // What is left of a failed attempt is of no use; that it cannot be removed either is no news.
        let _ = std::fs::remove_file(&beside);
        anyhow!("write {}: {error}", path.display())
    })
}

/// Makes one change and says what was done.
fn changed(value: &mut Value, change: &What, global: &Global) -> Result<String> {
    Ok(match change {
        What::UseContext { name } => {
            if position(value, "contexts", name).is_none() {
                bail!("no context exists with the name: {name:?}");
            }
            value["current-context"] = json!(name);
            format!("Switched to context {name:?}.")
        }
        What::RenameContext { old, new } => {
            if position(value, "contexts", new).is_some() {
                bail!("cannot rename the context {old:?}, the context {new:?} already exists");
            }
            let at = position(value, "contexts", old)
                .ok_or_else(|| anyhow!("cannot rename the context {old:?}, it's not in the kubeconfig"))?;
            value["contexts"][at]["name"] = json!(new);
            if value["current-context"] == *old {
                value["current-context"] = json!(new);
            }
            format!("Context {old:?} renamed to {new:?}.")
        }
        What::SetContext { name, current } => {
            let name = match (name, current) {
                (Some(name), false) => name.clone(),
                (None, true) => value["current-context"].as_str().unwrap_or_default().to_owned(),
                _ => bail!("give the name of a context, or --current"),
            };
            if name.is_empty() {
                bail!("no current context is set");
            }
            let fields = [
                ("cluster", global.cluster.clone()),
                ("user", global.user.clone()),
                ("namespace", global.namespace.clone()),
            ];
            let made = set(value, ("contexts", "context"), &name, &fields);
            format!("Context {name:?} {made}.")
        }
        What::SetCluster { name, embed_certs } => {
            let mut fields = vec![
                ("server", global.server.clone()),
                ("tls-server-name", global.tls_server_name.clone()),
            ];
            fields.push(file(
                "certificate-authority",
                "certificate-authority-data",
                &global.certificate_authority,
                *embed_certs,
            )?);
            let made = set(value, ("clusters", "cluster"), name, &fields);
            if global.insecure_skip_tls_verify
                && let Some(at) = position(value, "clusters", name)
            {
                value["clusters"][at]["cluster"]["insecure-skip-tls-verify"] = json!(true);
            }
            format!("Cluster {name:?} {}.", if made == "created" { "set" } else { made })
        }
        What::SetCredentials { name, embed_certs } => {
            let fields = [
                ("token", global.token.clone()),
                file(
                    "client-certificate",
                    "client-certificate-data",
                    &global.client_certificate,
                    *embed_certs,
                )?,
                file("client-key", "client-key-data", &global.client_key, *embed_certs)?,
            ];
            let made = set(value, ("users", "user"), name, &fields);
            format!("User {name:?} {}.", if made == "created" { "set" } else { made })
        }
        What::DeleteContext { name } => {
            remove(value, "contexts", name)?;
            if value["current-context"] == *name {
                eprintln!(
                    "warning: this removed your active context, use \"ctl config use-context\" to select a different one"
                );
            }
            format!("deleted context {name} from the kubeconfig")
        }
        What::DeleteCluster { name } => {
            remove(value, "clusters", name)?;
            format!("deleted cluster {name} from the kubeconfig")
        }
        What::DeleteUser { name } => {
            remove(value, "users", name)?;
            format!("deleted user {name} from the kubeconfig")
        }
        _ => String::new(),
    })
}

/// A field that names a file, or holds what is in it.
fn file(
    name: &'static str,
    data: &'static str,
    path: &Option<String>,
    embed: bool,
) -> Result<(&'static str, Option<String>)> {
    match path {
        Some(path) if embed => {
            let bytes = std::fs::read(path).with_context(|| format!("read {path}"))?;
            Ok((data, Some(STANDARD.encode(bytes))))
        }
        path => Ok((name, path.clone())),
    }
}

fn position(value: &Value, list: &str, name: &str) -> Option<usize> {
    value[list].as_array()?.iter().position(|entry| entry["name"] == name)
}

/// Sets fields of an entry, which is made when there is none: `created` or `modified`.
fn set(value: &mut Value, (list, inner): (&str, &str), name: &str, fields: &[(&str, Option<String>)]) -> &'static str {
    let (at, made) = match position(value, list, name) {
        Some(at) => (at, "modified"),
        None => {
            if !value[list].is_array() {
                value[list] = json!([]);
            }
            let entries = value[list].as_array_mut();
            let at = entries.map_or(0, |entries| {
                entries.push(json!({"name": name, inner: {}}));
                entries.len() - 1
            });
            (at, "created")
        }
    };
    for (key, text) in fields {
        if let Some(text) = text {
            value[list][at][inner][*key] = json!(text);
        }
    }
    made
}

fn remove(value: &mut Value, list: &str, name: &str) -> Result<()> {
    let at = position(value, list, name).ok_or_else(|| anyhow!("cannot delete {name}, it is not in the kubeconfig"))?;
    if let Some(entries) = value[list].as_array_mut() {
        entries.remove(at);
    }
    Ok(())
}

/// Leaves only what one context uses.
fn minify(value: &mut Value, context: Option<&str>) -> Result<()> {
    let name = context
        .or(value["current-context"].as_str())
        .unwrap_or_default()
        .to_owned();
    let at = position(value, "contexts", &name).ok_or_else(|| anyhow!("cannot locate context {name}"))?;
    let context = value["contexts"][at].clone();
    for (list, used) in [
        ("clusters", &context["context"]["cluster"]),
        ("users", &context["context"]["user"]),
    ] {
        if let Some(entries) = value[list].as_array_mut() {
            entries.retain(|entry| entry["name"] == *used);
        }
    }
    value["contexts"] = json!([context]);
    value["current-context"] = json!(name);
    Ok(())
}

/// Puts the contents of named files in their places.
fn flatten(value: &mut Value) -> Result<()> {
    for (list, inner, keys) in [
        ("clusters", "cluster", &["certificate-authority"][..]),
        ("users", "user", &["client-certificate", "client-key"][..]),
    ] {
        for entry in value[list].as_array_mut().into_iter().flatten() {
            let Some(fields) = entry[inner].as_object_mut() else {
                continue;
            };
            for key in keys {
                if let Some(Value::String(path)) = fields.remove(*key) {
                    let bytes = std::fs::read(&path).with_context(|| format!("read {path}"))?;
                    fields.insert(format!("{key}-data"), STANDARD.encode(bytes).into());
                }
            }
        }
    }
    Ok(())
}

/// Replaces credentials, as kubectl does.
fn hide(value: &mut Value) {
    for cluster in value["clusters"].as_array_mut().into_iter().flatten() {
        if cluster["cluster"]["certificate-authority-data"].is_string() {
            cluster["cluster"]["certificate-authority-data"] = json!("DATA+OMITTED");
        }
    }
    for user in value["users"].as_array_mut().into_iter().flatten() {
        for key in ["client-certificate-data", "client-key-data"] {
            if user["user"][key].is_string() {
                user["user"][key] = json!("DATA+OMITTED");
            }
        }
        for key in ["token", "password"] {
            if user["user"][key].is_string() {
                user["user"][key] = json!("REDACTED");
            }
        }
    }
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, v| !v.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn contexts(config: &Kubeconfig, only: Option<&str>, no_headers: bool) -> String {
    let rows = config
        .contexts
        .iter()
        .filter(|c| only.is_none_or(|only| c.name == only))
        .map(|c| {
            let mark = if Some(&c.name) == config.current_context.as_ref() {
                "*"
            } else {
                ""
            };
            let inner = c.context.clone().unwrap_or_default();
            vec![
                mark.to_owned(),
                c.name.clone(),
                inner.cluster,
                inner.user.unwrap_or_default(),
                inner.namespace.unwrap_or_default(),
            ]
        })
        .collect();
    let header = ["CURRENT", "NAME", "CLUSTER", "AUTHINFO", "NAMESPACE"]
        .map(str::to_owned)
        .into();
    render(&Text { header, rows }, no_headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Value {
        json!({"current-context": "a",
            "contexts": [{"name": "a", "context": {"cluster": "c", "user": "u"}}, {"name": "b", "context": {"cluster": "d"}}],
            "clusters": [{"name": "c", "cluster": {"server": "https://c"}}, {"name": "d", "cluster": {}}],
            "users": [{"name": "u", "user": {"token": "secret"}}]})
    }

    #[test]
    fn changes() {
        let global = Global {
            namespace: Some("n".into()),
            server: Some("https://x".into()),
            ..Global::default()
        };
        let named = |name: &str| name.to_owned();
        let check = |what: What, done: Result<&str, &str>, pointer: &str, expected: Value| {
            let mut value = sample();
            let got = changed(&mut value, &what, &global).map_err(|e| e.to_string());
            assert_eq!(got, done.map(str::to_owned).map_err(str::to_owned));
            assert_eq!(
                value.pointer(pointer).cloned().unwrap_or(Value::Null),
                expected,
                "{pointer}"
            );
        };
        check(
            What::UseContext { name: named("b") },
            Ok("Switched to context \"b\"."),
            "/current-context",
            json!("b"),
        );
        check(
            What::UseContext { name: named("z") },
            Err("no context exists with the name: \"z\""),
            "/current-context",
            json!("a"),
        );
        check(
            What::SetContext {
                name: None,
                current: true,
            },
            Ok("Context \"a\" modified."),
            "/contexts/0/context",
            json!({"cluster": "c", "user": "u", "namespace": "n"}),
        );
        check(
            What::SetContext {
                name: Some(named("e")),
                current: false,
            },
            Ok("Context \"e\" created."),
            "/contexts/2",
            json!({"name": "e", "context": {"namespace": "n"}}),
        );
        check(
            What::SetCluster {
                name: named("d"),
                embed_certs: false,
            },
            Ok("Cluster \"d\" modified."),
            "/clusters/1/cluster/server",
            json!("https://x"),
        );
        check(
            What::RenameContext {
                old: named("a"),
                new: named("z"),
            },
            Ok("Context \"a\" renamed to \"z\"."),
            "/current-context",
            json!("z"),
        );
        check(
            What::DeleteUser { name: named("u") },
            Ok("deleted user u from the kubeconfig"),
            "/users",
            json!([]),
        );
    }

    #[test]
    fn what_one_context_uses_without_its_secrets() {
        let mut value = sample();
        minify(&mut value, None).expect("a context");
        hide(&mut value);
        assert_eq!(
            value["clusters"],
            json!([{"name": "c", "cluster": {"server": "https://c"}}])
        );
        assert_eq!(value["users"], json!([{"name": "u", "user": {"token": "REDACTED"}}]));
        assert!(minify(&mut sample(), Some("z")).is_err());
    }
}

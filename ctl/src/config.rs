//! `ctl config`: the kubeconfig in use.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use coxswain_client::kube::config::Kubeconfig;
use serde_json::{Value, json};

use crate::context::{Global, kubeconfig};
use crate::print::document;
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
        #[arg(long, short = 'o', default_value = "yaml")]
        output: String,
    },
    /// Name the current context
    CurrentContext,
    /// List the contexts
    GetContexts,
}

/// Runs the command.
///
/// # Errors
/// When no configuration is found.
pub fn run(global: &Global, args: &Config) -> Result<ExitCode> {
    let config = kubeconfig(global)?;
    match &args.what {
        What::View { raw, output } => {
            let mut value = serde_json::to_value(&config)?;
            value["apiVersion"] = json!("v1");
            value["kind"] = json!("Config");
            if !raw {
                hide(&mut value);
            }
            drop_nulls(&mut value);
            print!("{}", document(&value, output != "json", true));
        }
        What::CurrentContext => match &config.current_context {
            Some(name) => println!("{name}"),
            None => bail!("current-context is not set"),
        },
        What::GetContexts => print!("{}", contexts(&config)),
    }
    Ok(ExitCode::SUCCESS)
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

fn contexts(config: &Kubeconfig) -> String {
    let rows = config
        .contexts
        .iter()
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
    render(&Text { header, rows }, false)
}

//! What every command that changes objects has in common: `--dry-run`, `-o`, and the line that says what was
//! done.

use std::cell::Cell;

use anyhow::Result;
use clap::Args;
use coxswain_api::patch::{json_patch, merge_patch, strategic_merge};
use coxswain_api::registry::type_name;
use coxswain_api::schema::Node;
use serde_json::Value;

use crate::context::{Ctx, with_query};
use crate::print::{Format, document};
use crate::resources::Resource;

pub const MERGE: &str = "application/merge-patch+json";
pub const STRATEGIC: &str = "application/strategic-merge-patch+json";
pub const JSON: &str = "application/json-patch+json";

/// Flags of everything that changes objects.
#[derive(Args, Clone, Default)]
pub struct Change {
    /// none, server or client
    #[arg(long, global = true, value_name = "MODE", default_value = "none", num_args = 0..=1, require_equals = true, default_missing_value = "client", value_parser = ["none", "server", "client"])]
    pub dry_run: String,
    /// name, yaml, json, jsonpath=..., go-template=...
    #[arg(long, short = 'o', global = true, value_name = "FORMAT")]
    pub output: Option<String>,
    /// Keep managedFields in JSON and YAML
    #[arg(long, global = true)]
    pub show_managed_fields: bool,
    /// The name that owns the changed fields
    #[arg(long, global = true, value_name = "NAME")]
    pub field_manager: Option<String>,
}

/// Whether fields that the server does not know are errors.
#[derive(Args, Clone, Default)]
pub struct Validation {
    /// strict, warn or ignore
    #[arg(long, value_name = "MODE", default_value = "strict", num_args = 0..=1, require_equals = true, default_missing_value = "strict", value_parser = ["strict", "true", "warn", "ignore", "false"])]
    pub validate: String,
}

impl Validation {
    /// The value of the `fieldValidation` parameter.
    #[must_use]
    pub fn parameter(&self) -> &'static str {
        match self.validate.as_str() {
            "warn" => "Warn",
            "ignore" | "false" => "Ignore",
            _ => "Strict",
        }
    }
}

impl Change {
    /// Nothing is sent to the server.
    #[must_use]
    pub fn client_only(&self) -> bool {
        self.dry_run == "client"
    }

    /// The path with the parameters that a change needs; `manager` unless the user named another.
    #[must_use]
    pub fn query(&self, path: &str, manager: &str) -> String {
        let manager = self.field_manager.as_deref().unwrap_or(manager);
        with_query(
            path,
            &[
                ("fieldManager", Some(manager)),
                ("dryRun", (self.dry_run == "server").then_some("All")),
            ],
        )
    }

    /// Patches an object at its path or below it, or only in memory when nothing is to be sent.
    ///
    /// # Errors
    /// The server's answer, or that the patch does not fit.
    pub async fn patch(
        &self,
        ctx: &Ctx,
        (resource, object): (&Resource, &Value),
        (media_type, patch): (&str, &Value),
        manager: &str,
    ) -> Result<Value> {
        if self.client_only() {
            return patched(resource, object, media_type, patch);
        }
        let path = self.query(&path_of(resource, object), manager);
        ctx.patch(&path, media_type, patch).await
    }

    /// What says results, for commands in which `-o` has another meaning.
    ///
    /// # Errors
    /// As [`Self::printer`].
    pub fn printer_of_words(&self) -> Result<Printer> {
        let plain = Self {
            output: None,
            ..self.clone()
        };
        plain.printer()
    }

    /// What shows results.
    ///
    /// # Errors
    /// When `-o` is not understood.
    pub fn printer(&self) -> Result<Printer> {
        Ok(Printer {
            format: Format::parse(self.output.as_deref())?,
            suffix: match self.dry_run.as_str() {
                "server" => " (server dry run)",
                "client" => " (dry run)",
                _ => "",
            },
            managed_fields: self.show_managed_fields,
            printed: Cell::new(0),
        })
    }
}

/// Shows changed objects one after the other.
pub struct Printer {
    format: Format,
    suffix: &'static str,
    managed_fields: bool,
    printed: Cell<usize>,
}

impl Printer {
    /// The user sees words, not objects.
    #[must_use]
    pub fn says_words(&self) -> bool {
        self.format.wants_table()
    }

    /// `deployment.apps/web scaled`, or the object in the asked form.
    ///
    /// # Errors
    /// When the form does not fit the object.
    pub fn done(&self, label: &str, what: &str, object: &Value) -> Result<()> {
        let number = self.printed.replace(self.printed.get() + 1);
        match &self.format {
            Format::Table { .. } => println!("{label} {what}{}", self.suffix),
            Format::Name => println!("{label}"),
            Format::Json => print!("{}", document(object, false, self.managed_fields)),
            Format::Yaml => {
                let divider = if number > 0 { "---\n" } else { "" };
                print!("{divider}{}", document(object, true, self.managed_fields));
            }
            Format::Template(template) => print!("{}", template.render(object)?),
            Format::Columns(columns) => print!("{}", columns.render(&[object], number > 0)),
        }
        Ok(())
    }

    /// As [`Self::done`] for an object of a known resource.
    ///
    /// # Errors
    /// As there.
    pub fn changed(&self, resource: &Resource, what: &str, object: &Value) -> Result<()> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        self.done(&format!("{}/{name}", resource.object_prefix()), what, object)
    }
}

/// The path of an object that was fetched.
#[must_use]
pub fn path_of(resource: &Resource, object: &Value) -> String {
    let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
    resource.object(text("namespace"), text("name"))
}

/// An object as the server would leave it after a patch, defaults and validation aside.
pub fn patched(resource: &Resource, object: &Value, media_type: &str, patch: &Value) -> Result<Value> {
    let node = type_name(&resource.group, &resource.version, &resource.kind).and_then(Node::of_type);
    let mut after = object.clone();
    match (media_type, node) {
        (JSON, _) => after = json_patch(object, patch)?,
        (STRATEGIC, Some(node)) => after = strategic_merge(object, patch, node)?,
        _ => merge_patch(&mut after, patch)?,
    }
    Ok(after)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn patches_in_memory() {
        let pods = Resource {
            version: "v1".into(),
            kind: "Pod".into(),
            ..Resource::default()
        };
        let pod = json!({"spec": {"containers": [{"name": "a", "image": "x"}, {"name": "b"}]}});
        let cases = [
            (
                STRATEGIC,
                json!({"spec": {"containers": [{"name": "a", "image": "y"}]}}),
                json!([{"name": "a", "image": "y"}, {"name": "b"}]),
            ),
            (
                MERGE,
                json!({"spec": {"containers": [{"name": "c"}]}}),
                json!([{"name": "c"}]),
            ),
            (
                JSON,
                json!([{"op": "remove", "path": "/spec/containers/0"}]),
                json!([{"name": "b"}]),
            ),
        ];
        for (media_type, patch, expected) in cases {
            let after = patched(&pods, &pod, media_type, &patch).expect("a patch that fits");
            assert_eq!(after["spec"]["containers"], expected, "{media_type}");
        }
    }
}

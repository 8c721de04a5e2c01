//! Which objects a command is about: `TYPE NAME`, `TYPE/NAME`, selectors, `--all`, or manifests.

use anyhow::{Result, bail};
use clap::Args;
use serde_json::Value;

use crate::apply::namespace_of;
use crate::change::{Change, patched};
use crate::context::{Ctx, error_text, with_query};
use crate::manifest::Files;
use crate::resources::{Resource, Resources};

/// The flags that choose objects.
#[derive(Args, Clone, Default)]
pub struct Which {
    #[command(flatten)]
    pub files: Files,
    /// Objects with these labels
    #[arg(long, short = 'l')]
    pub selector: Option<String>,
    /// Objects with these fields
    #[arg(long)]
    pub field_selector: Option<String>,
    /// In all namespaces
    #[arg(long, short = 'A')]
    pub all_namespaces: bool,
}

/// One object, or all of a resource that the selectors let through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target<'a> {
    pub resource: &'a Resource,
    /// `None` means all of them.
    pub namespace: Option<String>,
    pub name: Option<String>,
}

impl Target<'_> {
    /// Where it is on the server.
    #[must_use]
    pub fn path(&self) -> String {
        match &self.name {
            Some(name) => self
                .resource
                .object(self.namespace.as_deref().unwrap_or_default(), name),
            None => self.resource.path(self.namespace.as_deref()),
        }
    }
}

/// What [`Which::objects`] found.
pub struct Found<'a> {
    pub objects: Vec<(&'a Resource, Value)>,
    /// Some could not be had; the user has been told.
    pub failed: bool,
}

impl Which {
    /// What the words and flags name; nothing is asked of the server.
    ///
    /// # Errors
    /// kubectl's sentences for what does not fit.
    pub fn targets<'a>(&self, ctx: &Ctx, resources: &'a Resources, words: &[String]) -> Result<Vec<Target<'a>>> {
        let mut out = Vec::new();
        if self.files.given() {
            if !words.is_empty() {
                bail!(
                    "when paths, URLs, or stdin is provided as input, you may not specify resource arguments as well"
                );
            }
            for manifest in self.files.names()? {
                let resource = resources.of_kind(manifest.text("/apiVersion"), manifest.text("/kind"))?;
                out.push(Target {
                    resource,
                    namespace: Some(namespace_of(ctx, &manifest)?),
                    name: Some(manifest.text("/metadata/name").to_owned()),
                });
            }
            return Ok(out);
        }
        let selecting = self.selector.is_some() || self.field_selector.is_some();
        for (resource, names) in resources.select(words)? {
            if !names.is_empty() && self.all_namespaces && resource.namespaced {
                bail!("a resource cannot be retrieved by name across all namespaces");
            }
            if !names.is_empty() && selecting {
                bail!("name cannot be provided when a selector is specified");
            }
            let target = |name: Option<String>| Target {
                resource,
                namespace: (!self.all_namespaces).then(|| ctx.namespace.clone()),
                name,
            };
            if names.is_empty() {
                out.push(target(None));
            }
            out.extend(names.into_iter().map(|name| target(Some(name))));
        }
        Ok(out)
    }

    /// A list's path with the selectors.
    #[must_use]
    pub fn list_path(&self, path: &str, more: &[(&str, Option<&str>)]) -> String {
        let mut pairs = vec![
            ("labelSelector", self.selector.as_deref()),
            ("fieldSelector", self.field_selector.as_deref()),
        ];
        pairs.extend(more);
        with_query(path, &pairs)
    }

    /// Fetches what is named. Without names, a selector or `all` is needed.
    ///
    /// # Errors
    /// What does not fit, or the server's answer about the only object; of several, the missing ones are
    /// reported and the others returned.
    pub async fn objects<'a>(
        &self,
        ctx: &Ctx,
        resources: &'a Resources,
        words: &[String],
        all: bool,
    ) -> Result<Found<'a>> {
        let targets = self.targets(ctx, resources, words)?;
        let mut found = Found {
            objects: Vec::new(),
            failed: false,
        };
        for target in &targets {
            if target.name.is_some() {
                match ctx.get(&target.path()).await {
                    Ok(object) => found.objects.push((target.resource, object)),
                    Err(error) if targets.len() == 1 => return Err(error),
                    Err(error) => {
                        eprintln!("{}", error_text(&error));
                        found.failed = true;
                    }
                }
                continue;
            }
            if !all && self.selector.is_none() && self.field_selector.is_none() {
                bail!("resource(s) were provided, but no name was specified");
            }
            for object in self.list(ctx, target).await? {
                found.objects.push((target.resource, object));
            }
        }
        Ok(found)
    }

    /// The objects of a target without a name, complete with kind and version.
    ///
    /// # Errors
    /// The server's answer.
    pub async fn list(&self, ctx: &Ctx, target: &Target<'_>) -> Result<Vec<Value>> {
        let mut list = ctx.get(&self.list_path(&target.path(), &[])).await?;
        let mut items = list["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
        for item in &mut items {
            item["apiVersion"] = target.resource.api_version().into();
            item["kind"] = target.resource.kind.clone().into();
        }
        Ok(items)
    }
}

/// The flags of commands that change objects, one or many.
#[derive(Args, Clone, Default)]
pub struct Several {
    #[command(flatten)]
    pub which: Which,
    /// All objects of the type
    #[arg(long)]
    pub all: bool,
    /// Change the manifests that are given, without a server
    #[arg(long)]
    pub local: bool,
    #[command(flatten)]
    pub change: Change,
}

impl Several {
    /// As [`Which::objects`]; with `--local` the manifests themselves.
    ///
    /// # Errors
    /// As there.
    pub async fn objects<'a>(&self, ctx: &Ctx, resources: &'a Resources, words: &[String]) -> Result<Found<'a>> {
        if !self.local {
            return self.which.objects(ctx, resources, words, self.all).await;
        }
        let mut objects = Vec::new();
        for manifest in self.which.files.read()? {
            let resource = resources.of_kind(manifest.text("/apiVersion"), manifest.text("/kind"))?;
            objects.push((resource, manifest.object));
        }
        Ok(Found { objects, failed: false })
    }

    /// As [`Change::patch`]; with `--local` in memory.
    ///
    /// # Errors
    /// As there.
    pub async fn patch(
        &self,
        ctx: &Ctx,
        target: (&Resource, &Value),
        patch: (&str, &Value),
        manager: &str,
    ) -> Result<Value> {
        if self.local {
            return patched(target.0, target.1, patch.0, patch.1);
        }
        self.change.patch(ctx, target, patch, manager).await
    }
}

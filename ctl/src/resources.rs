//! What the server has, and how the command line names it: `po`, `deployments.apps`, `deploy/web`, `all`.

use anyhow::{Context as _, Result, anyhow, bail};
use coxswain_client::discovery::{ACCEPT, GroupList, PATHS};
use http::Method;

use crate::context::Ctx;

/// One resource in one version of its group.
pub use coxswain_client::discovery::ResourceInfo as Resource;

/// Everything that the server's discovery lists.
pub struct Resources(pub Vec<Resource>);

impl Resources {
    /// Asks the server: two requests.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn discover(ctx: &Ctx) -> Result<Self> {
        let mut all = Vec::new();
        for path in PATHS {
            let list = ctx.call(Method::GET, path, &[("accept", ACCEPT)], None).await?;
            let list: GroupList = serde_json::from_value(list).context("the server's discovery document")?;
            all.extend(list.resources());
        }
        Ok(Self(all))
    }

    /// The resource that a word on the command line means.
    ///
    /// # Errors
    /// kubectl's sentence when there is none.
    pub fn find(&self, word: &str) -> Result<&Resource> {
        let lower = word.to_lowercase();
        let (name, qualifier) = lower
            .split_once('.')
            .map_or((lower.as_str(), None), |(n, q)| (n, Some(q)));
        let named = |r: &&Resource| {
            r.plural == name
                || r.singular == name
                || r.kind.to_lowercase() == name
                || r.short_names.iter().any(|s| s == name)
        };
        let in_group = |r: &&Resource| match qualifier {
            None => true,
            Some(q) => {
                r.group == q || q == format!("{}.{}", r.version, r.group) || (r.group.is_empty() && q == r.version)
            }
        };
        // Exact plural names win over short names of other groups.
        self.0
            .iter()
            .find(|r| r.plural == name && in_group(r))
            .or_else(|| self.0.iter().find(|r| named(r) && in_group(r)))
            .ok_or_else(|| anyhow!("the server doesn't have a resource type \"{word}\""))
    }

    /// The resource of an object.
    ///
    /// # Errors
    /// When the server does not know its kind.
    pub fn of_kind(&self, api_version: &str, kind: &str) -> Result<&Resource> {
        self.0.iter().find(|r| r.kind == kind && r.api_version() == api_version).ok_or_else(|| {
            anyhow!("no matches for kind \"{kind}\" in version \"{api_version}\": ensure its CustomResourceDefinition is installed first")
        })
    }

    /// Splits `TYPE[,TYPE] [NAME ...]` and `TYPE/NAME ...` into resources with names (none: all objects).
    ///
    /// # Errors
    /// kubectl's sentences for what does not fit.
    pub fn select<'a>(&'a self, words: &[String]) -> Result<Vec<(&'a Resource, Vec<String>)>> {
        let Some(first) = words.first() else {
            bail!(
                "You must specify the type of resource to get. Use \"ctl api-resources\" for a complete list of supported resources."
            );
        };
        if words.iter().any(|w| w.contains('/')) {
            let mut out: Vec<(&Resource, Vec<String>)> = Vec::new();
            for word in words {
                let Some((kind, name)) = word.split_once('/') else {
                    bail!(
                        "there is no need to specify a resource type as a separate argument when passing arguments in resource/name form (e.g. 'ctl get resource/<resource_name>' instead of 'ctl get resource resource/<resource_name>'"
                    );
                };
                if name.is_empty() {
                    bail!("arguments in resource/name form must have a single resource and name");
                }
                let resource = self.find(kind)?;
                match out.iter_mut().find(|(r, _)| *r == resource) {
                    Some((_, names)) => names.push(name.to_owned()),
                    None => out.push((resource, vec![name.to_owned()])),
                }
            }
            return Ok(out);
        }
        let names: Vec<String> = words.get(1..).unwrap_or_default().to_vec();
        let mut out = Vec::new();
        for word in first.split(',').filter(|w| !w.is_empty()) {
            let mut category: Vec<&Resource> = Vec::new();
            for resource in self.0.iter().filter(|r| r.categories.iter().any(|c| c == word)) {
                // The first version of a group is the preferred one.
                if !category
                    .iter()
                    .any(|known| known.group == resource.group && known.plural == resource.plural)
                {
                    category.push(resource);
                }
            }
            if !category.is_empty() && self.find(word).is_err() {
                out.extend(category.into_iter().map(|r| (r, Vec::new())));
            } else {
                out.push((self.find(word)?, names.clone()));
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn some() -> Resources {
        let row = |resource: &str, kind: &str, short: &[&str], categories: &[&str]| {
            json!({"resource": resource, "singularResource": kind.to_lowercase(), "responseKind": {"kind": kind},
                   "scope": "Namespaced", "shortNames": short, "categories": categories, "verbs": ["get", "list"]})
        };
        let core = json!({"items": [{"metadata": {}, "versions": [{"version": "v1", "resources": [row("pods", "Pod", &["po"], &["all"]), row("events", "Event", &["ev"], &[])]}]}]});
        let apps = json!({"items": [
            {"metadata": {"name": "apps"}, "versions": [{"version": "v1", "resources": [row("deployments", "Deployment", &["deploy"], &["all"])]}]},
            {"metadata": {"name": "events.k8s.io"}, "versions": [{"version": "v1", "resources": [row("events", "Event", &["ev"], &[])]}]}]});
        let parse = |list| {
            serde_json::from_value::<GroupList>(list)
                .expect("a document")
                .resources()
        };
        Resources(parse(core).into_iter().chain(parse(apps)).collect())
    }

    #[test]
    fn words_on_the_command_line() {
        let check = |words: &[&str], want: Result<&str, &str>| {
            let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
            let all = some();
            let got = all.select(&words).map(|found| {
                found
                    .iter()
                    .map(|(r, names)| format!("{}:{}", r.qualified(), names.join("+")))
                    .collect::<Vec<_>>()
                    .join(" ")
            });
            match (got, want) {
                (Ok(got), Ok(want)) => assert_eq!(got, want),
                (Err(error), Err(want)) => assert!(error.to_string().contains(want), "{error}"),
                (got, want) => panic!("{words:?}: {got:?}, not {want:?}"),
            }
        };
        check(&["po"], Ok("pods:"));
        check(&["Pod", "a", "b"], Ok("pods:a+b"));
        check(&["po,deploy"], Ok("pods: deployments.apps:"));
        check(&["deploy/web", "po/a", "deploy/x"], Ok("deployments.apps:web+x pods:a"));
        check(&["events.events.k8s.io"], Ok("events.events.k8s.io:"));
        check(&["deployments.v1.apps"], Ok("deployments.apps:"));
        check(&["all"], Ok("pods: deployments.apps:"));
        check(&["nothing"], Err("the server doesn't have a resource type \"nothing\""));
        check(&["po/"], Err("must have a single resource and name"));
    }
}

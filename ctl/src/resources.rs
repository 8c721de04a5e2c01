//! What the server has, and how the command line names it: `po`, `deployments.apps`, `deploy/web`, `all`.

use anyhow::{Result, anyhow, bail};
use http::Method;
use serde_json::Value;

use crate::context::Ctx;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// One resource in the preferred version of its group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    pub group: String,
    pub version: String,
    pub plural: String,
    pub singular: String,
    pub kind: String,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub namespaced: bool,
    pub verbs: Vec<String>,
    pub subresources: Vec<String>,
}

impl Resource {
    /// `v1`, `apps/v1`.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `pods`, `deployments.apps`: as error texts and counts name it.
    #[must_use]
    pub fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.plural.clone()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// `pod`, `deployment.apps`: as changed objects are named.
    #[must_use]
    pub fn object_prefix(&self) -> String {
        let singular = if self.singular.is_empty() {
            self.kind.to_lowercase()
        } else {
            self.singular.clone()
        };
        if self.group.is_empty() {
            singular
        } else {
            format!("{singular}.{}", self.group)
        }
    }

    /// The path of the collection; `namespace` is ignored for what is cluster-scoped.
    #[must_use]
    pub fn collection(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        match namespace {
            Some(namespace) if self.namespaced => format!(
                "{root}/namespaces/{}/{}",
                crate::context::encode(namespace),
                self.plural
            ),
            _ => format!("{root}/{}", self.plural),
        }
    }

    /// The path of one object.
    #[must_use]
    pub fn object(&self, namespace: &str, name: &str) -> String {
        format!("{}/{}", self.collection(Some(namespace)), crate::context::encode(name))
    }
}

/// Everything that the server's discovery lists.
pub struct Resources(pub Vec<Resource>);

fn strings(value: &Value) -> Vec<String> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

impl Resources {
    /// Asks the server: two requests.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn discover(ctx: &Ctx) -> Result<Self> {
        let mut all = Vec::new();
        for path in ["/api", "/apis"] {
            let list = ctx.call(Method::GET, path, &[("accept", AGGREGATED)], None).await?;
            all.extend(Self::parse(&list));
        }
        Ok(Self(all))
    }

    fn parse(list: &Value) -> Vec<Resource> {
        let mut out: Vec<Resource> = Vec::new();
        for group in list["items"].as_array().into_iter().flatten() {
            for version in group["versions"].as_array().into_iter().flatten() {
                for r in version["resources"].as_array().into_iter().flatten() {
                    out.push(Resource {
                        group: text(&group["metadata"]["name"]),
                        version: text(&version["version"]),
                        plural: text(&r["resource"]),
                        singular: text(&r["singularResource"]),
                        kind: text(&r["responseKind"]["kind"]),
                        short_names: strings(&r["shortNames"]),
                        categories: strings(&r["categories"]),
                        namespaced: r["scope"] == "Namespaced",
                        verbs: strings(&r["verbs"]),
                        subresources: r["subresources"]
                            .as_array()
                            .into_iter()
                            .flatten()
                            .map(|s| text(&s["subresource"]))
                            .collect(),
                    });
                }
            }
        }
        out
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
        Resources(
            Resources::parse(&core)
                .into_iter()
                .chain(Resources::parse(&apps))
                .collect(),
        )
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

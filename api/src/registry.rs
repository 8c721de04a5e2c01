//! The table of served resources: one row per group, version and resource.
//!
//! Everything that is per resource comes from here: routes, verbs, scope, discovery, OpenAPI, which rules
//! apply and under which name objects are stored. Custom resources are rows added to a copy of the registry;
//! readers hold an `Arc` to one copy and never see a half-made change.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use serde_json::Value;

use crate::kinds::{self, Rules};
use crate::schema::{self, Node};

mod builtin;

/// Group, version and kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gvk {
    pub group: Arc<str>,
    pub version: Arc<str>,
    pub kind: Arc<str>,
}

impl Gvk {
    /// From its three parts.
    pub fn new(group: &str, version: &str, kind: &str) -> Self {
        Self {
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
        }
    }

    /// `apps/v1`, or `v1` for the core group.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    /// The schema name of this kind, when it is built in.
    pub fn type_name(&self) -> Option<&'static str> {
        type_name(&self.group, &self.version, &self.kind)
    }
}

/// The rules of a resource: built in, or made from a custom resource definition.
#[derive(Clone)]
pub enum RulesRef {
    Static(&'static dyn Rules),
    Shared(Arc<dyn Rules>),
}

impl Deref for RulesRef {
    type Target = dyn Rules;

    fn deref(&self) -> &(dyn Rules + 'static) {
        match self {
            Self::Static(rules) => *rules,
            Self::Shared(rules) => rules.as_ref(),
        }
    }
}

/// Something below an object's own path, such as `status` or `exec`.
#[derive(Clone, Debug)]
pub struct Subresource {
    pub name: Arc<str>,
    /// The kind of its objects, resolved (the parent's group and version where discovery leaves them out).
    pub kind: Gvk,
    /// Whether discovery names group and version (they differ from the parent's).
    pub foreign: bool,
    pub verbs: &'static [&'static str],
}

/// Kinds whose delete answers with the object instead of a Status.
const ANSWERS_WITH_OBJECT: &[(&str, &str)] = &[
    ("", "namespaces"),
    ("", "persistentvolumeclaims"),
    ("", "persistentvolumes"),
    ("", "pods"),
    ("", "podtemplates"),
    ("", "resourcequotas"),
    ("", "serviceaccounts"),
    ("", "services"),
    ("resource.k8s.io", "deviceclasses"),
    ("resource.k8s.io", "resourceclaims"),
    ("resource.k8s.io", "resourceclaimtemplates"),
    ("resource.k8s.io", "resourceslices"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "csistoragecapacities"),
    ("storage.k8s.io", "storageclasses"),
    ("storage.k8s.io", "volumeattachments"),
    ("storage.k8s.io", "volumeattributesclasses"),
];

/// One served resource of one version.
#[derive(Clone)]
pub struct Resource {
    pub group: Arc<str>,
    pub version: Arc<str>,
    pub kind: Arc<str>,
    pub list_kind: Arc<str>,
    pub plural: Arc<str>,
    pub singular: Arc<str>,
    pub short_names: Vec<Arc<str>>,
    pub categories: Vec<Arc<str>>,
    pub namespaced: bool,
    pub verbs: &'static [&'static str],
    pub subresources: Vec<Subresource>,
    /// The name under which the store keeps the objects: `pods`, `deployments.apps`. Versions and groups
    /// that show the same objects share it.
    pub storage: Arc<str>,
    /// The schema name, for built-in kinds.
    pub type_name: Option<&'static str>,
    /// The structural schema, for custom resources.
    pub schema: Option<Arc<Value>>,
    pub rules: RulesRef,
    /// The kind in which objects are stored.
    pub storage_gvk: Gvk,
}

impl Resource {
    /// `apps/v1`, or `v1` for the core group.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    /// The kind this row serves.
    pub fn gvk(&self) -> Gvk {
        Gvk {
            group: self.group.clone(),
            version: self.version.clone(),
            kind: self.kind.clone(),
        }
    }

    /// `deployments.apps`, or `pods` for the core group; how messages name the resource.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_string()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// The subresource called `name`.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|sub| &*sub.name == name)
    }

    /// Whether the resource itself has this verb.
    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }

    /// Whether a delete answers with the object that it deleted instead of a Status.
    pub fn deleting_shows_it(&self) -> bool {
        ANSWERS_WITH_OBJECT.contains(&(&*self.group, &*self.plural))
    }

    /// Whether objects are kept in the store; reviews and bindings are not.
    pub fn is_stored(&self) -> bool {
        self.has_verb("list") && &*self.plural != "componentstatuses"
    }

    /// The schema of this resource's objects.
    pub fn node(&self) -> Node<'_> {
        match (self.type_name, &self.schema) {
            (Some(name), _) => Node::of_type(name).unwrap_or(Node::Untyped),
            (None, Some(schema)) => Node::structural(schema),
            (None, None) => Node::Untyped,
        }
    }
}

/// A served API group.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Empty for the core group.
    pub name: Arc<str>,
    /// Preferred first.
    pub versions: Vec<Arc<str>>,
}

/// Every served resource. Cloning copies references.
#[derive(Clone)]
pub struct Registry {
    rows: Vec<Arc<Resource>>,
    /// Positions in `rows`, ordered by group, version and plural.
    by_path: Vec<usize>,
    /// Positions in `rows`, ordered by group, version and kind.
    by_kind: Vec<usize>,
}

impl Registry {
    /// The built-in resources.
    pub fn builtin() -> Self {
        Self::of(
            builtin::ROWS
                .iter()
                .map(|row| Arc::new(builtin_resource(row)))
                .collect(),
        )
    }

    /// A copy with more rows behind the present ones: groups by name, versions in Kubernetes' order of
    /// preference. A row for a group, version and plural that is already there is left out.
    #[must_use]
    pub fn with(&self, mut added: Vec<Resource>) -> Self {
        added.sort_by(|a, b| {
            let versions = || version_rank(&b.version).cmp(&version_rank(&a.version));
            a.group
                .cmp(&b.group)
                .then_with(versions)
                .then_with(|| a.plural.cmp(&b.plural))
        });
        let mut rows = self.rows.clone();
        for resource in added {
            if self
                .resource(&resource.group, &resource.version, &resource.plural)
                .is_none()
            {
                rows.push(Arc::new(resource));
            }
        }
        Self::of(rows)
    }

    fn of(rows: Vec<Arc<Resource>>) -> Self {
        let mut by_path: Vec<usize> = (0..rows.len()).collect();
        let mut by_kind = by_path.clone();
        by_path.sort_by(|a, b| rows.get(*a).map(path_key).cmp(&rows.get(*b).map(path_key)));
        by_kind.sort_by(|a, b| rows.get(*a).map(kind_key).cmp(&rows.get(*b).map(kind_key)));
        Self { rows, by_path, by_kind }
    }

    fn find(
        &self,
        index: &[usize],
        key: for<'a> fn(&'a Arc<Resource>) -> (&'a str, &'a str, &'a str),
        wanted: (&str, &str, &str),
    ) -> Option<&Arc<Resource>> {
        let begin = index.partition_point(|position| self.rows.get(*position).map(key) < Some(wanted));
        index
            .get(begin)
            .and_then(|position| self.rows.get(*position))
            .filter(|row| key(row) == wanted)
    }

    /// The resource at `/apis/<group>/<version>/.../<plural>`.
    pub fn resource(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.find(&self.by_path, path_key, (group, version, plural))
    }

    /// The resource that serves this kind.
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Resource>> {
        self.find(&self.by_kind, kind_key, (group, version, kind))
    }

    /// Every row, in discovery order.
    pub fn resources(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.rows.iter()
    }

    /// One row per stored collection (the first that shows it).
    pub fn stored(&self) -> Vec<&Arc<Resource>> {
        let mut seen = BTreeMap::new();
        for row in self.rows.iter().filter(|row| row.is_stored()) {
            seen.entry(row.storage.clone()).or_insert(row);
        }
        seen.into_values().collect()
    }

    /// The rows of one group and version.
    pub fn in_version<'a>(&'a self, group: &'a str, version: &'a str) -> impl Iterator<Item = &'a Arc<Resource>> {
        self.rows
            .iter()
            .filter(move |row| &*row.group == group && &*row.version == version)
    }

    /// Whether anything is served under this group and version.
    pub fn has_version(&self, group: &str, version: &str) -> bool {
        self.in_version(group, version).next().is_some()
    }

    /// The served groups in discovery order, the core group first.
    pub fn groups(&self) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        for row in &self.rows {
            match groups.iter_mut().find(|group| group.name == row.group) {
                Some(group) if group.versions.contains(&row.version) => {}
                Some(group) => group.versions.push(row.version.clone()),
                None => groups.push(Group {
                    name: row.group.clone(),
                    versions: vec![row.version.clone()],
                }),
            }
        }
        groups
    }
}

fn path_key(row: &Arc<Resource>) -> (&str, &str, &str) {
    (&row.group, &row.version, &row.plural)
}

fn kind_key(row: &Arc<Resource>) -> (&str, &str, &str) {
    (&row.group, &row.version, &row.kind)
}

/// `apps/v1`, or `v1` for the core group.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

/// How a version ranks; the preferred one is the greatest: `v2`, `v1`, `v1beta2`, `v1alpha1`, then other names
/// in alphabetical order.
pub fn version_rank(version: &str) -> impl Ord {
    let parsed = || {
        let rest = version.strip_prefix('v')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (major, stage) = rest.split_at(digits);
        let (class, minor) = match stage {
            "" => (3, "0"),
            _ => stage
                .strip_prefix("beta")
                .map(|minor| (2, minor))
                .or(stage.strip_prefix("alpha").map(|m| (1, m)))?,
        };
        Some((class, major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
    };
    let other = std::cmp::Reverse(version.to_owned());
    (parsed().unwrap_or((0, 0, 0)), other)
}

/// Splits `apps/v1` into group and version; `v1` has the empty group.
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// The schema name of a built-in kind.
pub fn type_name(group: &str, version: &str, kind: &str) -> Option<&'static str> {
    let package = match group {
        "" => "io.k8s.api.core".to_owned(),
        "apiextensions.k8s.io" => "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions".to_owned(),
        "apiregistration.k8s.io" => "io.k8s.kube-aggregator.pkg.apis.apiregistration".to_owned(),
        "meta.k8s.io" => "io.k8s.apimachinery.pkg.apis.meta".to_owned(),
        other => {
            let first = other.split('.').next().unwrap_or(other);
            // A custom group may share its first word with a built-in one, but not its ending.
            if other.contains('.') && !other.ends_with(".k8s.io") {
                return None;
            }
            format!("io.k8s.api.{first}")
        }
    };
    schema::lookup(&format!("{package}.{version}.{kind}")).map(|row| row.name)
}

fn builtin_resource(row: &builtin::Row) -> Resource {
    let (group, version): (Arc<str>, Arc<str>) = (row.group.into(), row.version.into());
    let subresources = row
        .subresources
        .iter()
        .map(|(name, sub_group, sub_version, kind, verbs)| Subresource {
            name: (*name).into(),
            kind: if sub_version.is_empty() {
                Gvk {
                    group: group.clone(),
                    version: version.clone(),
                    kind: (*kind).into(),
                }
            } else {
                Gvk::new(sub_group, sub_version, kind)
            },
            foreign: !sub_version.is_empty(),
            verbs,
        });
    let (storage, storage_gvk) = storage_of(row);
    Resource {
        kind: row.kind.into(),
        list_kind: format!("{}List", row.kind).into(),
        plural: row.plural.into(),
        singular: row.singular.into(),
        short_names: row.short_names.iter().map(|&name| name.into()).collect(),
        categories: row.categories.iter().map(|&name| name.into()).collect(),
        namespaced: row.namespaced,
        verbs: row.verbs,
        subresources: subresources.collect(),
        storage: storage.into(),
        type_name: type_name(row.group, row.version, row.kind),
        schema: None,
        rules: RulesRef::Static(kinds::rules_for(row.group, row.kind)),
        storage_gvk,
        group,
        version,
    }
}

/// Objects that several groups or versions show are stored once, in one form.
fn storage_of(row: &builtin::Row) -> (String, Gvk) {
    match (row.group, row.plural) {
        ("events.k8s.io" | "", "events") => ("events".into(), Gvk::new("", "v1", "Event")),
        ("autoscaling", plural) => (format!("{plural}.autoscaling"), Gvk::new("autoscaling", "v2", row.kind)),
        ("", plural) => (plural.into(), Gvk::new("", row.version, row.kind)),
        (group, plural) => (format!("{plural}.{group}"), Gvk::new(group, row.version, row.kind)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_rank_as_kubernetes_ranks_them() {
        let mut versions = [
            "foo10",
            "v1",
            "v11alpha2",
            "v10",
            "foo1",
            "v3beta1",
            "v12alpha1",
            "v11beta2",
            "v10beta3",
            "v2",
        ];
        versions.sort_by_key(|version| std::cmp::Reverse(version_rank(version)));
        let expected = [
            "v10",
            "v2",
            "v1",
            "v11beta2",
            "v10beta3",
            "v3beta1",
            "v12alpha1",
            "v11alpha2",
            "foo1",
            "foo10",
        ];
        assert_eq!(versions, expected);
    }

    #[test]
    fn added_rows_come_behind_in_order() {
        let base = Registry::builtin();
        let custom = |group: &str, version: &str| Resource {
            group: group.into(),
            version: version.into(),
            type_name: None,
            ..(**base.resource("", "v1", "configmaps").unwrap()).clone()
        };
        let registry = base.with(vec![
            custom("b.example.com", "v1beta1"),
            custom("a.example.com", "v1"),
            custom("b.example.com", "v1"),
        ]);
        let groups = registry.groups();
        let last: Vec<String> = groups
            .iter()
            .rev()
            .take(2)
            .map(|group| format!("{} {:?}", group.name, group.versions))
            .collect();
        assert_eq!(last, ["b.example.com [\"v1\", \"v1beta1\"]", "a.example.com [\"v1\"]"]);
        assert!(base.resource("a.example.com", "v1", "configmaps").is_none());
    }

    #[test]
    fn builtin_rows_are_complete() {
        let registry = Registry::builtin();
        for row in registry.resources() {
            assert!(row.type_name.is_some(), "{} has no schema", row.qualified());
            for sub in &row.subresources {
                let options = sub.kind.kind.ends_with("Options");
                assert!(
                    options || sub.kind.type_name().is_some(),
                    "{}/{}",
                    row.qualified(),
                    sub.name
                );
            }
        }
        let pods = registry.resource("", "v1", "pods").unwrap();
        assert_eq!((&*pods.kind, &*pods.storage, pods.namespaced), ("Pod", "pods", true));
        let deployment = registry.by_kind("apps", "v1", "Deployment").unwrap();
        assert_eq!(&*deployment.storage, "deployments.apps");
        assert_eq!(
            registry
                .groups()
                .iter()
                .map(|group| &*group.name)
                .take(3)
                .collect::<Vec<_>>(),
            ["", "apiregistration.k8s.io", "apps"]
        );
    }
}

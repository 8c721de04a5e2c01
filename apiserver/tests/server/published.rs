//! What the published rules say of one request: how Kubernetes reads a path, what RBAC allows, where resources stand.
//! Written for the matrix of rights beside the server's code, and without any of it.

use std::collections::BTreeMap;

use serde_json::Value;

/// One resource as discovery publishes it.
pub struct Kind {
    /// `/api/v1`, `/apis/GROUP/VERSION`
    pub root: &'static str,
    pub plural: &'static str,
    pub namespaced: bool,
    pub verbs: &'static [&'static str],
    pub subresources: &'static [(&'static str, &'static [&'static str])],
}

pub const ALL: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];
const SOME: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];
const CREATE: &[&str] = &["create"];
const READ_WRITE: &[&str] = &["get", "patch", "update"];
const TALK: &[&str] = &["create", "get"];
const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];
const STATUS: (&str, &[&str]) = ("status", READ_WRITE);

const fn kind(
    root: &'static str,
    plural: &'static str,
    namespaced: bool,
    verbs: &'static [&'static str],
    subresources: &'static [(&'static str, &'static [&'static str])],
) -> Kind {
    Kind {
        root,
        plural,
        namespaced,
        verbs,
        subresources,
    }
}

pub const KINDS: &[Kind] = &[
    kind("/api/v1", "configmaps", true, ALL, &[]),
    kind("/api/v1", "secrets", true, ALL, &[]),
    kind(
        "/api/v1",
        "pods",
        true,
        ALL,
        &[
            STATUS,
            ("log", &["get"]),
            ("exec", TALK),
            ("attach", TALK),
            ("portforward", TALK),
            ("proxy", PROXY),
            ("binding", CREATE),
            ("eviction", CREATE),
            ("resize", READ_WRITE),
        ],
    ),
    kind("/api/v1", "services", true, ALL, &[STATUS, ("proxy", PROXY)]),
    kind("/api/v1", "serviceaccounts", true, ALL, &[("token", CREATE)]),
    kind("/api/v1", "bindings", true, CREATE, &[]),
    kind(
        "/api/v1",
        "namespaces",
        false,
        SOME,
        &[STATUS, ("finalize", &["update"])],
    ),
    kind("/api/v1", "nodes", false, ALL, &[STATUS, ("proxy", PROXY)]),
    kind(
        "/apis/apps/v1",
        "deployments",
        true,
        ALL,
        &[STATUS, ("scale", READ_WRITE)],
    ),
    kind("/apis/rbac.authorization.k8s.io/v1", "roles", true, ALL, &[]),
    kind("/apis/rbac.authorization.k8s.io/v1", "clusterroles", false, ALL, &[]),
    kind("/apis/coordination.k8s.io/v1", "leases", true, ALL, &[]),
    kind("/apis/storage.k8s.io/v1", "storageclasses", false, ALL, &[]),
    kind(
        "/apis/authorization.k8s.io/v1",
        "subjectaccessreviews",
        false,
        CREATE,
        &[],
    ),
    kind(
        "/apis/authorization.k8s.io/v1",
        "localsubjectaccessreviews",
        true,
        CREATE,
        &[],
    ),
];

/// One request.
#[derive(Clone, Debug)]
pub struct Cell {
    pub user: &'static str,
    pub groups: &'static [&'static str],
    /// Whom the user wants to be.
    pub acts_as: Option<&'static str>,
    pub method: &'static str,
    pub path: String,
    pub query: &'static str,
    pub upgrade: bool,
}

/// How it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// 400: the path cannot be read, or is no name.
    Unreadable,
    /// 403: no rule allows it.
    Forbidden,
    /// 404: nothing stands there.
    NoPath,
    /// 405.
    NoMethod,
    /// A verb looked at it.
    Reached,
}

/// What is asked of the rules.
#[derive(Clone, Debug, Default)]
struct Asked {
    verb: String,
    /// Group, resource with subresource, namespace, name.
    resource: Option<(String, String, String, String)>,
    path: String,
}

/// The roles and bindings of a cluster, as they are stored.
pub struct Policy {
    /// Rules by namespace (empty for the cluster) and name.
    pub roles: BTreeMap<(String, String), Vec<Value>>,
    /// Namespace, and the binding.
    pub bindings: Vec<(String, Value)>,
}

fn texts<'a>(value: &'a Value, field: &str) -> Vec<&'a str> {
    let items = value[field].as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().filter_map(Value::as_str).collect()
}

impl Policy {
    fn allows(&self, user: &str, groups: &[String], asked: &Asked) -> bool {
        if groups.iter().any(|group| group == "system:masters") {
            return true;
        }
        let place = asked
            .resource
            .as_ref()
            .map_or("", |(_, _, namespace, _)| namespace.as_str());
        self.bindings.iter().any(|(home, binding)| {
            let holds = binding["subjects"].as_array().into_iter().flatten().any(|subject| {
                let name = subject["name"].as_str().unwrap_or_default();
                match subject["kind"].as_str() {
                    Some("User") => name == user,
                    Some("Group") => groups.iter().any(|group| group == name),
                    _ => {
                        let namespace = subject["namespace"].as_str().unwrap_or_default();
                        user == format!("system:serviceaccount:{namespace}:{name}")
                    }
                }
            });
            if !holds || !(home.is_empty() || home == place) {
                return false;
            }
            let role = &binding["roleRef"];
            let at = if role["kind"] == "Role" { home.as_str() } else { "" };
            let key = (at.to_owned(), role["name"].as_str().unwrap_or_default().to_owned());
            self.roles
                .get(&key)
                .is_some_and(|rules| rules.iter().any(|rule| matches(rule, asked)))
        })
    }
}

fn matches(rule: &Value, asked: &Asked) -> bool {
    let any = |field: &str, wanted: &str| texts(rule, field).iter().any(|item| *item == "*" || *item == wanted);
    if !any("verbs", &asked.verb) {
        return false;
    }
    let Some((group, resource, _, name)) = &asked.resource else {
        return texts(rule, "nonResourceURLs")
            .iter()
            .any(|url| match url.strip_suffix('*') {
                Some(beginning) => asked.path.starts_with(beginning),
                None => asked.path == *url,
            });
    };
    let sub = resource.split_once('/').map(|(_, sub)| format!("*/{sub}"));
    let names = texts(rule, "resourceNames");
    any("apiGroups", group)
        && (any("resources", resource) || sub.is_some_and(|sub| texts(rule, "resources").contains(&sub.as_str())))
        && (names.is_empty() || names.contains(&name.as_str()))
}

/// A path without its percent-encoding.
fn decoded(path: &str) -> Option<String> {
    let mut out = Vec::new();
    let mut parts = path.split('%');
    out.extend(parts.next()?.bytes());
    for part in parts {
        out.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        out.extend(part.get(2..)?.bytes());
    }
    String::from_utf8(out).ok()
}

/// A resource path taken apart: where in it the resource stands.
struct Place<'a> {
    root: String,
    group: &'a str,
    watch: bool,
    /// The namespace that the resource stands below.
    below: Option<&'a str>,
    /// Resource, name, subresource, and what follows.
    parts: Vec<&'a str>,
}

fn place(path: &str) -> Option<Place<'_>> {
    let words: Vec<&str> = path.strip_prefix('/')?.trim_end_matches('/').split('/').collect();
    let (group, front) = match *words.first()? {
        "api" => ("", 2),
        "apis" => (*words.get(1)?, 3),
        _ => return None,
    };
    let mut rest = words.get(front..).filter(|rest| !rest.is_empty())?;
    let watch = rest.first() == Some(&"watch") && rest.len() > 1;
    if watch {
        rest = &rest[1..];
    }
    let of_itself = matches!(rest.get(2), None | Some(&"status" | &"finalize"));
    let below = (rest.first() == Some(&"namespaces") && !of_itself).then(|| rest[1]);
    if below.is_some() {
        rest = &rest[2..];
    }
    Some(Place {
        root: format!("/{}", words[..front].join("/")),
        group,
        watch,
        below,
        parts: rest.to_vec(),
    })
}

/// What the rules say.
pub fn judge(policy: &Policy, cell: &Cell) -> End {
    let Some(path) = decoded(&cell.path) else {
        return End::Unreadable;
    };
    let mut groups: Vec<String> = cell.groups.iter().map(|group| (*group).to_owned()).collect();
    let mut user = cell.user;
    if let Some(other) = cell.acts_as {
        let resource = (String::new(), "users".to_owned(), String::new(), other.to_owned());
        let asked = Asked {
            verb: "impersonate".to_owned(),
            resource: Some(resource),
            path: String::new(),
        };
        if !policy.allows(user, &groups, &asked) {
            return End::Forbidden;
        }
        (user, groups) = (other, vec!["system:authenticated".to_owned()]);
    }
    let Some(found) = place(&path).filter(|_| !path.starts_with("//")) else {
        return judge_page(policy, user, &groups, cell, path);
    };
    let part = |at: usize| found.parts.get(at).copied().unwrap_or_default();
    let (resource, name, sub) = (part(0), part(1), part(2));
    let flag = |wanted: &str| cell.query.split('&').any(|pair| pair == wanted);
    let verb = match cell.method {
        _ if found.watch => "watch",
        "GET" | "HEAD" if !name.is_empty() => "get",
        "GET" | "HEAD" if flag("watch=1") || flag("watch") || flag("watch=yes") => "watch",
        "GET" | "HEAD" => "list",
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" if name.is_empty() => "deletecollection",
        "DELETE" => "delete",
        _ => "",
    };
    let reads = matches!(cell.method, "GET" | "HEAD") && !found.watch;
    let named = match name {
        "" if reads && flag("fieldSelector=metadata.name%3Done") => "one",
        name => name,
    };
    let itself = resource == "namespaces" && found.below.is_none();
    let namespace = found.below.unwrap_or(if itself { name } else { "" });
    let full = if sub.is_empty() {
        resource.to_owned()
    } else {
        format!("{resource}/{sub}")
    };
    let asked = Asked {
        verb: verb.to_owned(),
        resource: Some((found.group.to_owned(), full, namespace.to_owned(), named.to_owned())),
        path: path.clone(),
    };
    let talks = matches!(sub, "exec" | "attach" | "portforward") || (sub == "proxy" && cell.upgrade);
    let create = Asked {
        verb: "create".to_owned(),
        ..asked.clone()
    };
    if !policy.allows(user, &groups, &asked) || (talks && !policy.allows(user, &groups, &create)) {
        return End::Forbidden;
    }
    route(&found, verb, cell.method)
}

/// What stands at a place, for a verb that is allowed.
fn route(found: &Place<'_>, verb: &str, method: &str) -> End {
    let part = |at: usize| found.parts.get(at).copied().unwrap_or_default();
    let (resource, name, sub) = (part(0), part(1), part(2));
    let same = |kind: &&Kind| kind.root == found.root && kind.plural == resource;
    let Some(kind) = KINDS.iter().find(same) else {
        return End::NoPath;
    };
    let front = found.parts.len().min(if sub == "proxy" { 3 } else { 4 });
    let gap = found.parts[..front].contains(&"") || found.below == Some("");
    let across = kind.namespaced && found.below.is_none();
    let misplaced =
        !kind.namespaced && found.below.is_some() || across && !(name.is_empty() && kind.verbs.contains(&"list"));
    if gap || misplaced || (found.parts.len() > 3 && sub != "proxy") || (found.watch && !sub.is_empty()) {
        return End::NoPath;
    }
    let has = if !sub.is_empty() {
        let Some((_, verbs)) = kind.subresources.iter().find(|(known, _)| *known == sub) else {
            return End::NoPath;
        };
        verbs.contains(&verb)
    } else {
        let wants_name = matches!(verb, "get" | "update" | "patch" | "delete");
        let placed = found.watch || wants_name != name.is_empty();
        kind.verbs.contains(&verb) && placed && (!across || matches!(verb, "list" | "watch"))
    };
    let streams = matches!(sub, "log" | "exec" | "attach" | "portforward" | "proxy");
    if !has || (method == "HEAD" && !streams) || (found.watch && method != "GET") {
        return End::NoMethod;
    }
    let bad = |name: &str| matches!(name, "." | "..") || name.contains('%');
    if bad(name) || found.below.is_some_and(bad) {
        return End::Unreadable;
    }
    End::Reached
}

/// Paths outside the resources. Pages are known by their whole path.
fn judge_page(policy: &Policy, user: &str, groups: &[String], cell: &Cell, path: String) -> End {
    let verb = cell.method.to_ascii_lowercase();
    let asked = Asked {
        verb,
        resource: None,
        path,
    };
    if !policy.allows(user, groups, &asked) {
        return End::Forbidden;
    }
    let known = [
        "/version",
        "/version/",
        "/healthz",
        "/metrics",
        "/api",
        "/api/",
        "/apis",
        "/apis/",
        "/api/v1",
        "/apis/apps",
        "/apis/apps/v1",
    ];
    match known.contains(&asked.path.as_str()) {
        false => End::NoPath,
        true if matches!(cell.method, "GET" | "HEAD") => End::Reached,
        true => End::NoMethod,
    }
}

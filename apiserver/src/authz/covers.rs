//! Whether rules that somebody holds cover rules that they want to grant, as Kubernetes compares them.
//!
//! The wanted rules are taken apart into the smallest: one verb of one resource, of one name if there are names, or one
//! verb of one path. Each must be covered by one rule that is held. The values are compared as they are written, not as
//! requests: `pods/*` is no wildcard, an empty name is a name, and `*` is covered by nothing but `*`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use coxswain_api::kinds::access;
use serde_json::Value;

/// A list as Go prints it: quoted, with spaces between.
pub(crate) struct Spaced<'a>(pub &'a [String]);

impl fmt::Debug for Spaced<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted: Vec<String> = self.0.iter().map(|text| format!("{text:?}")).collect();
        write!(f, "[{}]", quoted.join(" "))
    }
}

/// A rule that is held.
struct Held {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    names: Vec<String>,
    urls: Vec<String>,
}

impl Held {
    fn new(rule: &Value) -> Self {
        let items = |field: &str| access::texts(rule, field);
        Self {
            verbs: items("verbs"),
            groups: items("apiGroups"),
            resources: items("resources"),
            names: items("resourceNames"),
            urls: items("nonResourceURLs"),
        }
    }

    fn covers_resource(&self, verb: &str, group: &str, resource: &str, name: Option<&str>) -> bool {
        let named = match name {
            None => self.names.is_empty(),
            Some(name) => self.names.is_empty() || has(&self.names, name),
        };
        named && any(&self.verbs, verb) && any(&self.groups, group) && covers_resource(&self.resources, resource)
    }

    fn covers_url(&self, verb: &str, url: &str) -> bool {
        let covers =
            |held: &String| held == url || (held.ends_with('*') && url.starts_with(held.trim_end_matches('*')));
        self.names.is_empty() && any(&self.verbs, verb) && self.urls.iter().any(covers)
    }
}

fn has(items: &[String], wanted: &str) -> bool {
    items.iter().any(|item| item == wanted)
}

fn any(items: &[String], wanted: &str) -> bool {
    has(items, "*") || has(items, wanted)
}

/// `*` covers everything, `*/scale` that subresource of anything.
fn covers_resource(held: &[String], wanted: &str) -> bool {
    let of_any = |(_, subresource): (&str, &str)| has(held, &format!("*/{subresource}"));
    any(held, wanted) || wanted.split_once('/').is_some_and(of_any)
}

/// The smallest of the `granted` rules that `held` does not cover, written as Kubernetes prints them, verbs of one
/// resource together, in the order of their texts.
pub(crate) fn missing(held: &[Value], granted: &[Value]) -> BTreeSet<String> {
    let held: Vec<Held> = held.iter().map(Held::new).collect();
    let mut lacking: BTreeMap<(&String, &String, Option<&String>), Vec<String>> = BTreeMap::new();
    let mut texts = BTreeSet::new();
    let granted: Vec<Held> = granted.iter().map(Held::new).collect();
    for rule in &granted {
        let names: Vec<Option<&String>> = match rule.names.as_slice() {
            [] => vec![None],
            names => names.iter().map(Some).collect(),
        };
        for (group, resource) in product(&rule.groups, &rule.resources) {
            for (verb, name) in rule
                .verbs
                .iter()
                .flat_map(|verb| names.iter().map(move |name| (verb, *name)))
            {
                let text = name.map(String::as_str);
                if !held
                    .iter()
                    .any(|held| held.covers_resource(verb, group, resource, text))
                {
                    lacking.entry((group, resource, name)).or_default().push(verb.clone());
                }
            }
        }
        for (url, verb) in product(&rule.urls, &rule.verbs) {
            if !held.iter().any(|held| held.covers_url(verb, url)) {
                texts.insert(format!("{{NonResourceURLs:[{url:?}], Verbs:[{verb:?}]}}"));
            }
        }
    }
    texts.extend(lacking.iter().map(|((group, resource, name), verbs)| {
        let names = name
            .map(|name| format!(", ResourceNames:[{name:?}]"))
            .unwrap_or_default();
        let verbs = Spaced(verbs);
        format!("{{APIGroups:[{group:?}], Resources:[{resource:?}]{names}, Verbs:{verbs:?}}}")
    }));
    texts
}

fn product<'a>(left: &'a [String], right: &'a [String]) -> impl Iterator<Item = (&'a String, &'a String)> {
    left.iter().flat_map(|l| right.iter().map(move |r| (l, r)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn granted(held: &Value, wanted: &Value) -> bool {
        missing(std::slice::from_ref(held), std::slice::from_ref(wanted)).is_empty()
    }

    fn check(held: &Value, cases: &[(Value, bool)]) {
        for (wanted, expected) in cases {
            assert_eq!(granted(held, wanted), *expected, "{held} grants {wanted}");
        }
    }

    /// Asked of Kubernetes 1.36.
    #[test]
    fn odd_values_are_compared_as_they_are_written() {
        let pods = |names: &[&str]| json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": names});
        check(
            &pods(&[""]),
            &[
                (pods(&[]), false),
                (pods(&[""]), true),
                (pods(&["x"]), false),
                (pods(&["", "x"]), false),
            ],
        );
        check(
            &pods(&["*"]),
            &[(pods(&[]), false), (pods(&["*"]), true), (pods(&["x"]), false)],
        );
        check(
            &pods(&[]),
            &[(pods(&[]), true), (pods(&[""]), true), (pods(&["*", "x"]), true)],
        );
        let of = |resource: &str| json!({"verbs": ["get"], "apiGroups": [""], "resources": [resource]});
        let several = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["*/scale", "pods"]});
        let taken = ["*/scale", "deployments/scale", "pods/scale", "/scale", "pods"];
        let refused = [
            "*/*",
            "*",
            "pods/*",
            "pods/",
            "a/b/scale",
            "*/scale/x",
            "",
            "pods/log",
            "scale",
        ];
        let cases =
            |list: &[&str], expected: bool| -> Vec<(Value, bool)> { list.iter().map(|r| (of(r), expected)).collect() };
        check(&several, &cases(&taken, true));
        check(&several, &cases(&refused, false));
        check(&of("pods/*"), &cases(&["pods/log", "*/log", "pods", "*"], false));
        check(&of("pods/*"), &cases(&["pods/*"], true));
        check(&of("*/*"), &cases(&["*/*", "pods/*"], true));
        check(&of("*/*"), &cases(&["pods/log", "*", "pods"], false));
        check(&of(""), &cases(&["pods", "pods/", "*"], false));
        check(&of("*"), &cases(&["*", "x", "*/scale", "x/y", ""], true));
        let wider = |field: &str, values: Value| {
            let mut rule = of("x");
            rule[field] = values;
            (rule, false)
        };
        check(
            &of("*"),
            &[
                wider("verbs", json!(["*"])),
                wider("apiGroups", json!(["*"])),
                wider("apiGroups", json!(["", "apps"])),
                wider("verbs", json!([""])),
                wider("verbs", json!(["get", "list"])),
            ],
        );
    }

    #[test]
    fn paths_are_covered_by_their_beginning() {
        let url = |url: &str| json!({"verbs": ["get"], "nonResourceURLs": [url]});
        let held = json!({"verbs": ["get"], "nonResourceURLs": ["/a/*", "/b", "/c**", "*/d"]});
        for (wanted, expected) in [
            ("/a/*", true),
            ("/a/b", true),
            ("/a/b/*", true),
            ("/a", false),
            ("/b/*", false),
            ("*", false),
            ("/c", true),
            ("/c*", true),
            ("/cx", true),
            ("*/d", true),
            ("/x/d", false),
            ("/", false),
            ("", false),
        ] {
            assert_eq!(granted(&held, &url(wanted)), expected, "{wanted}");
        }
        assert!(granted(&url("*"), &url("*")) && granted(&url("*"), &url("/x")) && granted(&url("*"), &url("")));
        let mut all_verbs = url("/a/*");
        all_verbs["verbs"] = json!(["*"]);
        assert!(!granted(&held, &all_verbs));
        // A rule for resources never covers paths, nor the other way round.
        let all = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]});
        assert!(!granted(&all, &url("/a")) && !granted(&url("*"), &all));
        let mut named = held.clone();
        named["resourceNames"] = json!(["x"]);
        assert!(!granted(&named, &url("/b")));
    }
}

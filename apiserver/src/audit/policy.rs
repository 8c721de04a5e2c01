//! Which requests are written, and how much of them: `audit.k8s.io/v1` Policy. Pure.
//!
//! The first rule that fits decides. Bodies of Secrets and of anything that holds a token are never written,
//! whatever a policy says.

use coxswain_api::codec::{self, Limits};
use coxswain_api::kinds::access;
use serde_json::Value;

use crate::User;
use crate::authz::Attributes;

/// How much is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Nothing.
    None,
    /// Who, what, when, with which result.
    Metadata,
    /// The request's body too.
    Request,
    /// The answer's body too.
    RequestResponse,
}

impl Level {
    /// As the API writes it.
    pub fn name(self) -> &'static str {
        match self {
            Level::None => "None",
            Level::Metadata => "Metadata",
            Level::Request => "Request",
            Level::RequestResponse => "RequestResponse",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Level::None, Level::Metadata, Level::Request, Level::RequestResponse]
            .into_iter()
            .find(|level| level.name() == text)
    }
}

/// What to do about one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub level: Level,
    pub omit_stages: Vec<String>,
    pub omit_managed_fields: bool,
}

/// Ordered rules.
#[derive(Debug)]
pub(crate) struct Policy {
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    verdict: Verdict,
    users: Vec<String>,
    groups: Vec<String>,
    verbs: Vec<String>,
    namespaces: Vec<String>,
    resources: Vec<Resources>,
    urls: Vec<String>,
}

#[derive(Debug)]
struct Resources {
    group: String,
    resources: Vec<String>,
    names: Vec<String>,
}

const STAGES: [&str; 4] = ["RequestReceived", "ResponseStarted", "ResponseComplete", "Panic"];

const BUILT_IN: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, nonResourceURLs: ["/healthz*", "/livez*", "/readyz*", "/version", "/metrics", "/openapi/*", "/api*"]}
- {level: None, resources: [{group: "", resources: [events]}, {group: events.k8s.io}]}
- {level: None, userGroups: ["system:nodes"], resources: [{group: coordination.k8s.io, resources: [leases]}]}
- level: None
  userGroups: ["system:nodes", "system:serviceaccounts:kube-system"]
  verbs: [get, list, watch]
- level: None
  users: ["system:kube-controller-manager", "system:kube-scheduler", "system:apiserver"]
  verbs: [get, list, watch]
- level: Metadata
"#;

impl Policy {
    /// What is written when nobody says otherwise.
    pub fn built_in() -> Self {
        Self::parse(BUILT_IN).unwrap_or(Self { rules: Vec::new() })
    }

    /// Reads a policy.
    ///
    /// # Errors
    /// One sentence that names the field.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (value, _) = codec::decode_yaml(text.as_bytes(), &Limits::default()).map_err(|error| error.to_string())?;
        let version = access::str_of(&value, "apiVersion");
        if version != "audit.k8s.io/v1" || access::str_of(&value, "kind") != "Policy" {
            return Err(format!(
                "it must be a Policy of audit.k8s.io/v1, not {:?} of {version:?}",
                access::str_of(&value, "kind")
            ));
        }
        let omitted = stages(&value, "omitStages")?;
        let managed = access::flag(&value, "omitManagedFields");
        let rules = access::list(&value, "rules");
        if rules.is_empty() {
            return Err("rules: at least one is required".to_owned());
        }
        let rules = rules
            .iter()
            .enumerate()
            .map(|(at, rule)| Rule::parse(rule, &omitted, managed).map_err(|why| format!("rules[{at}].{why}")));
        Ok(Self {
            rules: rules.collect::<Result<_, _>>()?,
        })
    }

    /// What to do about a request.
    pub fn verdict(&self, user: &User, attributes: &Attributes) -> Verdict {
        let rule = self.rules.iter().find(|rule| rule.fits(user, attributes));
        let mut verdict = rule.map_or(
            Verdict {
                level: Level::None,
                omit_stages: Vec::new(),
                omit_managed_fields: false,
            },
            |rule| rule.verdict.clone(),
        );
        if holds_secrets(attributes) {
            verdict.level = verdict.level.min(Level::Metadata);
        }
        verdict
    }
}

/// Whether bodies of such requests hold secrets.
fn holds_secrets(attributes: &Attributes) -> bool {
    let resource = (attributes.group.as_str(), attributes.resource.as_str());
    let token = attributes.subresource == "token";
    token || matches!(resource, ("", "secrets") | ("authentication.k8s.io", "tokenreviews"))
}

fn stages(value: &Value, field: &str) -> Result<Vec<String>, String> {
    let stages = access::texts(value, field);
    match stages.iter().find(|stage| !STAGES.contains(&stage.as_str())) {
        Some(wrong) => Err(format!(
            "{field}: {wrong:?} is no stage; stages are {}",
            STAGES.join(", ")
        )),
        None => Ok(stages),
    }
}

impl Rule {
    fn parse(value: &Value, omitted: &[String], managed: bool) -> Result<Self, String> {
        let level = access::str_of(value, "level");
        let level = Level::parse(level)
            .ok_or_else(|| format!("level: {level:?} is none of None, Metadata, Request, RequestResponse"))?;
        let mut omit_stages = omitted.to_vec();
        omit_stages.extend(stages(value, "omitStages")?);
        let resources: Vec<Resources> = access::list(value, "resources")
            .iter()
            .map(|entry| Resources {
                group: access::str_of(entry, "group").to_owned(),
                resources: access::texts(entry, "resources"),
                names: access::texts(entry, "resourceNames"),
            })
            .collect();
        let urls = access::texts(value, "nonResourceURLs");
        let about_resources = !resources.is_empty() || !access::list(value, "namespaces").is_empty();
        if !urls.is_empty() && about_resources {
            return Err(
                "nonResourceURLs: rules cannot apply to both regular resources and non-resource URLs".to_owned(),
            );
        }
        Ok(Self {
            verdict: Verdict {
                level,
                omit_stages,
                omit_managed_fields: value
                    .get("omitManagedFields")
                    .and_then(Value::as_bool)
                    .unwrap_or(managed),
            },
            users: access::texts(value, "users"),
            groups: access::texts(value, "userGroups"),
            verbs: access::texts(value, "verbs"),
            namespaces: access::texts(value, "namespaces"),
            resources,
            urls,
        })
    }

    fn fits(&self, user: &User, attributes: &Attributes) -> bool {
        let among = |list: &[String], text: &str| list.is_empty() || list.iter().any(|item| item == text);
        let people = self.groups.is_empty() || self.groups.iter().any(|group| user.is_in(group));
        if !among(&self.users, &user.name) || !people || !among(&self.verbs, &attributes.verb) {
            return false;
        }
        if !attributes.is_resource {
            let open = self.resources.is_empty() && self.namespaces.is_empty();
            return open && (self.urls.is_empty() || self.urls.iter().any(|url| fits_url(url, &attributes.path)));
        }
        self.urls.is_empty()
            && among(&self.namespaces, &attributes.namespace)
            && (self.resources.is_empty() || self.resources.iter().any(|entry| entry.fits(attributes)))
    }
}

fn fits_url(pattern: &str, path: &str) -> bool {
    pattern == path || pattern.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

impl Resources {
    fn fits(&self, attributes: &Attributes) -> bool {
        let names = self.names.is_empty() || self.names.contains(&attributes.name);
        let (resource, sub) = (attributes.resource.as_str(), attributes.subresource.as_str());
        let one = |item: &String| match item.split_once('/') {
            _ if item == "*" => true,
            Some((parent, wanted)) => {
                !sub.is_empty() && (parent == "*" || parent == resource) && (wanted == "*" || wanted == sub)
            }
            None => sub.is_empty() && item == resource,
        };
        self.group == attributes.group && names && (self.resources.is_empty() || self.resources.iter().any(one))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(verb: &str, group: &str, resource: &str, namespace: &str) -> Attributes {
        let (resource, sub) = resource.split_once('/').unwrap_or((resource, ""));
        Attributes {
            verb: verb.to_owned(),
            is_resource: !resource.is_empty(),
            group: group.to_owned(),
            resource: resource.to_owned(),
            subresource: sub.to_owned(),
            namespace: namespace.to_owned(),
            path: "/healthz/ping".to_owned(),
            ..Attributes::default()
        }
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let policy = Policy::parse(
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n\
             - {level: None, users: [robot], verbs: [watch]}\n\
             - {level: RequestResponse, resources: [{group: '', resources: [pods, secrets]}], namespaces: [default]}\n\
             - {level: Request, resources: [{group: '', resources: ['pods/*', 'serviceaccounts/token']}]}\n\
             - {level: None, nonResourceURLs: ['/healthz*']}\n\
             - {level: Metadata, userGroups: [team], omitStages: [Panic]}\n",
        )
        .expect("a policy");
        let cases = [
            ("robot", "watch", "", "pods", "default", Level::None),
            ("ann", "watch", "", "pods", "default", Level::RequestResponse),
            ("ann", "get", "", "secrets", "default", Level::Metadata),
            ("ann", "get", "", "pods", "other", Level::Metadata),
            ("ann", "get", "", "pods/log", "other", Level::Request),
            ("ann", "create", "", "serviceaccounts/token", "other", Level::Metadata),
            ("ann", "get", "apps", "pods", "default", Level::Metadata),
            ("ann", "get", "", "", "", Level::None),
        ];
        for (name, verb, group, resource, namespace, want) in cases {
            let user = User {
                name: name.to_owned(),
                groups: vec!["team".to_owned()],
                ..User::default()
            };
            let verdict = policy.verdict(&user, &request(verb, group, resource, namespace));
            assert_eq!(verdict.level, want, "{name} {verb} {resource} {namespace}");
        }
        let stranger = policy.verdict(&User::default(), &request("get", "apps", "deployments", ""));
        assert_eq!(stranger.level, Level::None);
    }

    #[test]
    fn mistakes_are_named() {
        let rules = |rules: &str| format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: {rules}\n");
        for (text, want) in [
            (rules("[]"), "rules: at least one is required"),
            (
                rules("[{level: Loud}]"),
                "rules[0].level: \"Loud\" is none of None, Metadata, Request, RequestResponse",
            ),
            (
                rules("[{level: None, omitStages: [X]}]"),
                "rules[0].omitStages: \"X\" is no stage; stages are RequestReceived, ResponseStarted, ResponseComplete, Panic",
            ),
            (
                "kind: Policy".to_owned(),
                "it must be a Policy of audit.k8s.io/v1, not \"Policy\" of \"\"",
            ),
        ] {
            assert_eq!(Policy::parse(&text).expect_err("must fail"), want);
        }
        assert_eq!(Policy::built_in().rules.len(), 6);
    }

    /// Policies of any text are read or refused; none shows what holds secrets.
    #[test]
    fn fuzz_policies() {
        let seeds = vec![BUILT_IN.as_bytes().to_vec()];
        let words = &[
            "omitStages: [RequestReceived]",
            "level: RequestResponse",
            "- ",
            "resources:",
            "\n  ",
            "*",
        ];
        coxswain_fuzz::fuzz("audit-policy", seeds, words, |bytes: &Vec<u8>| {
            let policy = Policy::parse(&String::from_utf8_lossy(bytes))?;
            for (resource, most) in [("secrets", Level::Metadata), ("pods/log", Level::RequestResponse)] {
                let verdict = policy.verdict(&User::default(), &request("get", "", resource, "default"));
                assert!(verdict.level <= most);
            }
            Ok(())
        });
    }
}

//! Label and node selectors over typed objects.

use std::collections::BTreeMap;

use coxswain_client::k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};
use coxswain_client::k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

pub type Labels = BTreeMap<String, String>;

/// Zone and region labels before they got their present names: a selector or topology key of either form means both.
const OLD_NAMES: [(&str, &str); 2] = [
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "topology.kubernetes.io/region",
    ),
];

/// A node's label, under its old name too.
#[must_use]
pub fn node_label<'a>(labels: &'a Labels, key: &str) -> Option<&'a String> {
    let renamed = || {
        OLD_NAMES
            .iter()
            .find(|(old, _)| *old == key)
            .and_then(|(_, new)| labels.get(*new))
    };
    labels.get(key).or_else(renamed)
}

/// Whether labels satisfy a selector; an absent selector matches nothing, an empty one everything.
#[must_use]
pub fn matches(selector: Option<&LabelSelector>, labels: &Labels) -> bool {
    let Some(selector) = selector else { return false };
    let equal = selector
        .match_labels
        .iter()
        .flatten()
        .all(|(k, v)| labels.get(k) == Some(v));
    equal
        && selector.match_expressions.iter().flatten().all(|e| {
            let values = e.values.as_deref().unwrap_or_default();
            holds(labels.get(&e.key), &e.operator, values)
        })
}

fn holds(value: Option<&String>, operator: &str, values: &[String]) -> bool {
    match operator {
        "In" => value.is_some_and(|v| values.contains(v)),
        "NotIn" => value.is_none_or(|v| !values.contains(v)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" | "Lt" => {
            let parsed = value
                .and_then(|v| v.parse::<i64>().ok())
                .zip(values.first().and_then(|v| v.parse::<i64>().ok()));
            parsed.is_some_and(|(have, limit)| if operator == "Gt" { have > limit } else { have < limit })
        }
        _ => false,
    }
}

/// Whether a node satisfies one term; an empty term matches no node.
#[must_use]
pub fn term_matches(term: &NodeSelectorTerm, name: &str, labels: &Labels) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let values = |r: &NodeSelectorRequirement| r.values.clone().unwrap_or_default();
    (!expressions.is_empty() || !fields.is_empty())
        && expressions
            .iter()
            .all(|r| holds(node_label(labels, &r.key), &r.operator, &values(r)))
        && fields.iter().all(|r| {
            let field = (r.key == "metadata.name").then(|| name.to_owned());
            holds(field.as_ref(), &r.operator, &values(r))
        })
}

/// Whether a node satisfies any term of a selector.
#[must_use]
pub fn node_matches(selector: &NodeSelector, name: &str, labels: &Labels) -> bool {
    selector
        .node_selector_terms
        .iter()
        .any(|t| term_matches(t, name, labels))
}

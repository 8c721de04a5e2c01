//! Which nodes a DaemonSet's pods belong on.

use std::collections::BTreeMap;

use coxswain_client::k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Taint, Toleration,
};

use crate::node::tolerates;

type Labels = BTreeMap<String, String>;

const NAME_FIELD: &str = "metadata.name";

/// What is to happen on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Belongs {
    /// A pod should be made there.
    pub run: bool,
    /// A pod that is there may stay.
    pub stay: bool,
}

/// The tolerations that every pod of a DaemonSet has: it belongs to a node in any state.
pub(super) fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut all = vec![
        ("not-ready", "NoExecute"),
        ("unreachable", "NoExecute"),
        ("disk-pressure", "NoSchedule"),
        ("memory-pressure", "NoSchedule"),
        ("pid-pressure", "NoSchedule"),
        ("unschedulable", "NoSchedule"),
    ];
    if spec.host_network == Some(true) {
        all.push(("network-unavailable", "NoSchedule"));
    }
    let made = all.into_iter().map(|(name, effect)| Toleration {
        key: Some(format!("node.kubernetes.io/{name}")),
        operator: Some("Exists".to_string()),
        effect: Some(effect.to_string()),
        ..Toleration::default()
    });
    made.collect()
}

/// Whether pods of a template belong on a node.
pub(super) fn belongs(template: &PodSpec, node: &Node) -> Belongs {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let none = Labels::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&none);
    let named = template
        .node_name
        .as_deref()
        .is_none_or(|wanted| wanted.is_empty() || wanted == name);
    let selected = template
        .node_selector
        .iter()
        .flatten()
        .all(|(key, value)| labels.get(key) == Some(value));
    let required = template.affinity.as_ref().and_then(|a| {
        a.node_affinity
            .as_ref()?
            .required_during_scheduling_ignored_during_execution
            .as_ref()
    });
    if !named || !selected || !required.is_none_or(|wanted| matches(wanted, name, labels)) {
        return Belongs {
            run: false,
            stay: false,
        };
    }
    let mut tolerated = template.tolerations.clone().unwrap_or_default();
    tolerated.extend(tolerations(template));
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    let kept_off = |effects: &[&str]| {
        let unwanted =
            |taint: &&Taint| effects.contains(&taint.effect.as_str()) && !tolerated.iter().any(|t| tolerates(t, taint));
        taints.iter().any(|taint| unwanted(&taint))
    };
    Belongs {
        run: !kept_off(&["NoSchedule", "NoExecute"]),
        stay: !kept_off(&["NoExecute"]),
    }
}

fn matches(selector: &NodeSelector, name: &str, labels: &Labels) -> bool {
    let term = |term: &NodeSelectorTerm| {
        let expressions = term.match_expressions.as_deref().unwrap_or_default();
        let fields = term.match_fields.as_deref().unwrap_or_default();
        (!expressions.is_empty() || !fields.is_empty())
            && expressions
                .iter()
                .all(|rule| holds(labels.get(&rule.key).map(String::as_str), rule))
            && fields
                .iter()
                .all(|rule| holds((rule.key == NAME_FIELD).then_some(name), rule))
    };
    selector.node_selector_terms.iter().any(term)
}

fn holds(value: Option<&str>, rule: &NodeSelectorRequirement) -> bool {
    let values = rule.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|v| values.iter().any(|x| x == v));
    match rule.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        order => {
            let number = |text: Option<&str>| text.and_then(|t| t.parse::<i64>().ok());
            let pair = number(value).zip(number(values.first().map(String::as_str)));
            pair.is_some_and(|(have, limit)| match order {
                "Gt" => have > limit,
                "Lt" => have < limit,
                _ => false,
            })
        }
    }
}

/// Makes a pod one for this node only; the scheduler still checks that it fits.
pub(super) fn pin(spec: &mut PodSpec, node: &str) {
    let rule = NodeSelectorRequirement {
        key: NAME_FIELD.to_string(),
        operator: "In".to_string(),
        values: Some(vec![node.to_string()]),
    };
    let affinity = spec
        .affinity
        .get_or_insert_default()
        .node_affinity
        .get_or_insert_default();
    let required = affinity
        .required_during_scheduling_ignored_during_execution
        .get_or_insert_default();
    if required.node_selector_terms.is_empty() {
        required.node_selector_terms.push(NodeSelectorTerm::default());
    }
    // The template's terms have been checked against this node already.
    for term in &mut required.node_selector_terms {
        *term = NodeSelectorTerm {
            match_expressions: None,
            match_fields: Some(vec![rule.clone()]),
        };
    }
    required.node_selector_terms.truncate(1);
}

/// The node that a pod is on, or is meant for.
pub(super) fn node_of(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    if let Some(name) = spec.node_name.as_deref().filter(|name| !name.is_empty()) {
        return Some(name);
    }
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let fields = required
        .node_selector_terms
        .iter()
        .filter_map(|term| term.match_fields.as_ref())
        .flatten();
    let mut named = fields.filter(|rule| rule.key == NAME_FIELD && rule.operator == "In");
    named.find_map(|rule| rule.values.as_ref()?.first().map(String::as_str))
}

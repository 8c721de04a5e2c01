//! Why nodes refused a pod, in the words that Kubernetes users know.

use std::collections::BTreeMap;
use std::fmt;

use coxswain_api::bounded;

/// Why one node cannot take a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    Unschedulable,
    WrongName,
    Taint,
    NodeAffinity,
    HostPorts,
    TooManyPods,
    /// The resource, and whether even the empty node would have too little.
    Insufficient {
        resource: String,
        always: bool,
    },
    Spread,
    SpreadLabelMissing,
    PodAffinity,
    PodAntiAffinity,
    ExistingAntiAffinity,
}

impl Refusal {
    /// Whether taking pods away from the node could change it.
    #[must_use]
    pub const fn preemption_could_help(&self) -> bool {
        match self {
            Self::Insufficient { always, .. } => !*always,
            Self::HostPorts | Self::TooManyPods | Self::Spread | Self::PodAntiAffinity | Self::ExistingAntiAffinity => {
                true
            }
            Self::Unschedulable
            | Self::WrongName
            | Self::Taint
            | Self::NodeAffinity
            | Self::SpreadLabelMissing
            | Self::PodAffinity => false,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unschedulable => "node(s) were unschedulable",
            Self::WrongName => "node(s) didn't match the requested node name",
            Self::Taint => "node(s) had untolerated taint(s)",
            Self::NodeAffinity => "node(s) didn't match Pod's node affinity/selector",
            Self::HostPorts => "node(s) didn't have free ports for the requested pod ports",
            Self::TooManyPods => "Too many pods",
            Self::Insufficient { resource, .. } => return write!(f, "Insufficient {resource}"),
            Self::Spread => "node(s) didn't match pod topology spread constraints",
            Self::SpreadLabelMissing => "node(s) didn't match pod topology spread constraints (missing required label)",
            Self::PodAffinity => "node(s) didn't match pod affinity rules",
            Self::PodAntiAffinity => "node(s) didn't match pod anti-affinity rules",
            Self::ExistingAntiAffinity => "node(s) didn't satisfy existing pods anti-affinity rules",
        })
    }
}

/// Why no node can take a pod: the reasons of each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Explain {
    pub nodes: BTreeMap<String, Vec<Refusal>>,
    /// What preemption found, a sentence.
    pub preemption: String,
}

impl fmt::Display for Explain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes.is_empty() {
            return f.write_str("no nodes available to schedule pods");
        }
        write!(
            f,
            "0/{} nodes are available: {}.",
            self.nodes.len(),
            count(self.nodes.values().flatten().map(ToString::to_string))
        )?;
        if !self.preemption.is_empty() {
            write!(f, " {}", self.preemption)?;
        }
        Ok(())
    }
}

/// `2 Insufficient cpu, 1 Too many pods`: reasons with their counts, in the order of their text.
fn count(reasons: impl Iterator<Item = String>) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for reason in reasons {
        bounded::count(counts.entry(reason).or_default());
    }
    let mut texts: Vec<String> = counts.into_iter().map(|(reason, n)| format!("{n} {reason}")).collect();
    texts.sort();
    texts.join(", ")
}

/// The sentence about preemption that follows the reasons, when it found no node.
#[must_use]
pub fn preemption_text(nodes: &BTreeMap<String, Vec<Refusal>>, never: bool) -> String {
    if never {
        return "no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never.".to_owned();
    }
    let verdict = |refusals: &Vec<Refusal>| {
        if refusals.iter().all(Refusal::preemption_could_help) {
            "No preemption victims found for incoming pod"
        } else {
            "Preemption is not helpful for scheduling"
        }
    };
    format!(
        "no new claims to deallocate, preemption: 0/{} nodes are available: {}.",
        nodes.len(),
        count(nodes.values().map(|r| verdict(r).to_owned()))
    )
}

//! The rules, one file each, in the order in which they are asked.
//!
//! A plugin prepares once per pod what does not depend on the node, then refuses nodes or scores them. A score is
//! 0 to 100; [`super::cycle`] weighs them.

pub mod fit;
pub mod inter_pod;
pub mod node_rules;
pub mod spread;

use super::explain::Refusal;
use super::node::NodeInfo;
use super::pod::PodInfo;
use super::snapshot::Snapshot;

/// Best score.
pub const SCORE_MAX: i64 = 100;

/// What all plugins prepared for one pod.
pub struct Prepared<'a> {
    pub pod: &'a PodInfo,
    spread: spread::Prepared,
    inter_pod: inter_pod::Prepared,
}

impl<'a> Prepared<'a> {
    #[must_use]
    pub fn new(pod: &'a PodInfo, snapshot: &Snapshot) -> Self {
        Self {
            pod,
            spread: spread::Prepared::new(pod, snapshot),
            inter_pod: inter_pod::Prepared::new(pod, snapshot),
        }
    }

    /// Why the node cannot take the pod; the first rule that refuses speaks.
    ///
    /// # Errors
    /// The reasons.
    pub fn filter(&self, node: &NodeInfo) -> Result<(), Vec<Refusal>> {
        let one = |r: Result<(), Refusal>| r.map_err(|refusal| vec![refusal]);
        one(node_rules::unschedulable(self.pod, node))?;
        one(node_rules::name(self.pod, node))?;
        one(node_rules::taints(self.pod, node))?;
        one(node_rules::affinity(self.pod, node))?;
        one(node_rules::ports(self.pod, node))?;
        fit::filter(self.pod, node)?;
        one(self.spread.filter(self.pod, node))?;
        one(self.inter_pod.filter(self.pod, node))
    }

    /// Weighted score of each of the nodes that passed.
    #[must_use]
    pub fn score(&self, nodes: &[&NodeInfo]) -> Vec<i64> {
        let mut total = vec![0_i64; nodes.len()];
        let mut add = |weight: i64, scores: Vec<i64>| {
            for (sum, score) in total.iter_mut().zip(scores) {
                *sum = sum.saturating_add(score.saturating_mul(weight));
            }
        };
        let each = |f: &dyn Fn(&NodeInfo) -> i64| nodes.iter().map(|n| f(n)).collect::<Vec<_>>();
        add(1, each(&|n| fit::least_allocated(self.pod, n)));
        add(1, each(&|n| fit::balanced(self.pod, n)));
        add(1, each(&|n| node_rules::image_locality(self.pod, n)));
        add(3, fewer_is_better(each(&|n| node_rules::soft_taints(self.pod, n))));
        add(
            2,
            more_is_better(each(&|n| node_rules::preferred_affinity(self.pod, n))),
        );
        add(2, fewer_is_better(each(&|n| self.spread.soft_skew(n))));
        add(2, more_is_better(each(&|n| self.inter_pod.preference(n))));
        total
    }
}

/// `value * factor / whole`, rounded towards zero, or the nearest number; 0 of nothing.
fn scaled(value: i64, factor: i64, whole: i64) -> i64 {
    let exact = i128::from(value)
        .saturating_mul(i128::from(factor))
        .checked_div(i128::from(whole))
        .unwrap_or(0);
    i64::try_from(exact).unwrap_or(if exact < 0 { i64::MIN } else { i64::MAX })
}

/// Scales raw values so that the largest is 100; negative values count from the smallest.
fn more_is_better(raw: Vec<i64>) -> Vec<i64> {
    let (Some(min), Some(max)) = (raw.iter().min().copied(), raw.iter().max().copied()) else {
        return raw;
    };
    let low = min.min(0);
    let range = max.saturating_sub(low);
    if range == 0 {
        return vec![0; raw.len()];
    }
    raw.into_iter()
        .map(|v| scaled(v.saturating_sub(low), SCORE_MAX, range))
        .collect()
}

/// Scales raw values so that the smallest is 100.
fn fewer_is_better(raw: Vec<i64>) -> Vec<i64> {
    let max = raw.iter().max().copied().unwrap_or(0);
    if max == 0 {
        return vec![SCORE_MAX; raw.len()];
    }
    raw.into_iter()
        .map(|v| SCORE_MAX.saturating_sub(scaled(v, SCORE_MAX, max)))
        .collect()
}

//! What a quota's status should say.

use std::collections::BTreeMap;

use coxswain_api::{Quantity, quota};
use serde_json::{Map, Value, json};

/// What must be known of one resource.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub group: String,
    pub plural: String,
    /// How many there are is enough; otherwise every object is needed.
    pub count_only: bool,
}

/// What has to be found out for a quota, one entry per resource.
pub(super) fn questions(quota: &Value) -> Vec<Question> {
    let scoped = quota::is_scoped(quota);
    let mut asked: BTreeMap<(&str, &str), bool> = BTreeMap::new();
    for (name, _) in hard(quota) {
        let (plural, group) = quota::counts_of(name);
        let pods = group.is_empty() && plural == "pods";
        if scoped && !quota::can_be_chosen(group, plural) {
            continue;
        }
        let by_number = name.starts_with("count/") || (name == plural && !pods);
        let count_only = asked.entry((group, plural)).or_insert(true);
        *count_only &= by_number && !scoped;
    }
    let question = |((group, plural), count_only): ((&str, &str), bool)| Question {
        group: group.to_string(),
        plural: plural.to_string(),
        count_only,
    };
    asked.into_iter().map(question).collect()
}

fn hard(quota: &Value) -> impl Iterator<Item = (&String, &Value)> {
    quota
        .pointer("/spec/hard")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
}

/// Adds what `objects` use to `used`.
pub(super) fn add(used: &mut BTreeMap<String, Quantity>, quota: &Value, question: &Question, objects: &[Value]) {
    for object in objects {
        if !quota::in_scope(quota, &question.group, &question.plural, object) {
            continue;
        }
        for (name, amount) in quota::usage(&question.group, &question.plural, object) {
            let sum = used.get(&name).map_or(amount, |sum| sum.add(&amount));
            used.insert(name, sum);
        }
    }
}

/// Notes that there are `count` objects.
pub(super) fn counted(used: &mut BTreeMap<String, Quantity>, question: &Question, count: i64) {
    let (group, plural) = (&question.group, &question.plural);
    let qualified = if group.is_empty() {
        plural.clone()
    } else {
        format!("{plural}.{group}")
    };
    used.insert(format!("count/{qualified}"), Quantity::from_int(count));
    if group.is_empty() {
        used.insert(plural.clone(), Quantity::from_int(count));
    }
}

/// The status, when it is not what the quota says already.
pub(super) fn status(quota: &Value, used: &BTreeMap<String, Quantity>) -> Option<Value> {
    let zero = Quantity::from_int(0);
    let shown: Map<String, Value> = hard(quota)
        .map(|(name, _)| (name.clone(), used.get(name).unwrap_or(&zero).canonical().into()))
        .collect();
    let hard: Map<String, Value> = hard(quota).map(|(name, limit)| (name.clone(), limit.clone())).collect();
    let status = json!({"hard": hard, "used": shown});
    (quota.get("status") != Some(&status)).then_some(status)
}

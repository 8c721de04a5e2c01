//! Capacity of devices that several claims share: which amounts can be asked for.

use super::super::access::{get, has, list, str_of};
use super::request::set;
use crate::Quantity;
use crate::field::{ErrorList, Path, forbidden, invalid, required};
use serde_json::Value;

const OPTIONS_MAX: usize = 10;

fn quantity(owner: &Value, key: &str) -> Option<Quantity> {
    Quantity::parse(str_of(owner, key)).ok()
}

/// Checks `requestPolicy` of one capacity; `old` is that capacity as it was.
pub fn policy(errors: &mut ErrorList, path: &Path, capacity: &Value, old: &Value) {
    let (policy, path) = (get(capacity, "requestPolicy"), path.child("requestPolicy"));
    let Some(all) = quantity(capacity, "value").filter(|_| policy.is_object()) else {
        return;
    };
    let options = list(policy, "validValues");
    let key = match (options.is_empty(), has(policy, "validRange")) {
        (false, true) => {
            let detail = "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time";
            errors.push(forbidden(&path, detail));
            return;
        }
        (false, false) => "validValues",
        (true, true) => "validRange",
        (true, false) => return,
    };
    let Some(usual) = quantity(policy, "default") else {
        let detail = format!("required when {key} is defined");
        errors.push(required(&path.child("default"), detail));
        return;
    };
    let place = path.child(key);
    if key == "validValues" {
        values(errors, &place, options, all, usual);
    } else if get(policy, key) != get(get(old, "requestPolicy"), key) {
        range(errors, &place, get(policy, key), all, usual);
    }
}

fn values(errors: &mut ErrorList, path: &Path, options: &[Value], all: Quantity, usual: Quantity) {
    let parsed: Vec<Quantity> = options
        .iter()
        .filter_map(|v| Quantity::parse(v.as_str()?).ok())
        .collect();
    for (i, pair) in parsed.windows(2).enumerate() {
        if let [first, second] = pair
            && first > second
        {
            let detail = "values must be sorted in ascending order";
            errors.push(invalid(&path.index(i + 1), second.canonical(), detail));
        }
    }
    let text = |v: &Value| Quantity::parse(v.as_str().unwrap_or("")).map_or_else(|_| String::new(), |q| q.canonical());
    set(
        errors,
        path,
        options,
        OPTIONS_MAX,
        |v| v.as_str().unwrap_or(""),
        |errors, path, v| {
            if Quantity::parse(v.as_str().unwrap_or("")).is_ok_and(|q| q > all) {
                let detail = format!("option is larger than capacity value: {}", all.canonical());
                errors.push(invalid(path, text(v), detail));
            }
        },
    );
    if options.len() > OPTIONS_MAX || !parsed.contains(&usual) {
        let detail = "default value is not valid according to the requestPolicy";
        errors.push(invalid(path, usual.canonical(), detail));
    }
}

fn range(errors: &mut ErrorList, path: &Path, range: &Value, all: Quantity, usual: Quantity) {
    let Some(min) = quantity(range, "min") else {
        errors.push(required(&path.child("min"), "required when validRange is defined"));
        return;
    };
    let mut wrong = |key: &str, value: &Quantity, detail: &str, limit: &Quantity| {
        let detail = format!("{detail}: {}", limit.canonical());
        errors.push(invalid(&path.child(key), value.canonical(), detail));
    };
    if min > all {
        wrong("min", &min, "min is larger than capacity value", &all);
    }
    if usual < min {
        wrong("min", &usual, "default is less than min", &min);
    }
    let max = quantity(range, "max");
    if let Some(max) = &max {
        if min > *max {
            wrong("max", &min, "min is larger than max", max);
        }
        if *max > all {
            wrong("max", max, "max is larger than capacity value", &all);
        }
        if usual > *max {
            wrong("max", &usual, "default is more than max", max);
        }
    }
    let Some(step) = quantity(range, "step") else { return };
    let place = path.child("step");
    if step <= Quantity::ZERO {
        errors.push(invalid(&place, step.canonical(), "must be greater than zero"));
        return;
    }
    let one = min.add(&step);
    if one > all {
        let (one, all) = (one.canonical(), all.canonical());
        let detail = format!("one step {one} is larger than capacity value: {all}");
        errors.push(invalid(&place, step.canonical(), detail));
    }
    for value in [Some(usual), max].into_iter().flatten() {
        if (value.value() - min.value()).checked_rem(step.value()) != Some(0) {
            let (step, min) = (step.canonical(), min.canonical());
            let detail = format!("value is not a multiple of a given step ({step}) from ({min})");
            errors.push(invalid(&place, value.canonical(), detail));
        }
    }
}

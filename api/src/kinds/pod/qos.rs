//! The quality-of-service class of a pod, from the requests and limits of its containers.

use crate::Quantity;
use crate::kinds::access::{at, get, list};
use serde_json::Value;

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub fn class(pod: &Value) -> &'static str {
    let spec = at(pod, "/spec");
    let pod_level = get(spec, "resources");
    let mut holders: Vec<&Value> = Vec::new();
    if pod_level.is_object() {
        holders.push(pod_level);
    } else {
        for name in ["containers", "initContainers"] {
            holders.extend(list(spec, name).iter().map(|c| get(c, "resources")));
        }
    }
    let mut any = false;
    let mut guaranteed = true;
    for resources in holders {
        for name in ["cpu", "memory"] {
            let request = positive(get(resources, "requests"), name);
            let limit = positive(get(resources, "limits"), name);
            any |= request.is_some() || limit.is_some();
            guaranteed &= match (&request, &limit) {
                (None, Some(_)) => true,
                (Some(r), Some(l)) => r == l,
                _ => false,
            };
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

fn positive(quantities: &Value, name: &str) -> Option<Quantity> {
    let quantity = Quantity::parse(quantities.get(name)?.as_str()?).ok()?;
    (quantity > Quantity::ZERO).then_some(quantity)
}

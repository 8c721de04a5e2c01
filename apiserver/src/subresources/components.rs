//! ComponentStatuses: what the parts of the control plane say about their health. All of them are in this process or, with
//! the leader, in one like it: they live as long as the store has a leader within reach.

use coxswain_api::ApiError;
use serde_json::{Value, json};

use crate::answer::{self, Reply};
use crate::call::Call;
use crate::options::ListOptions;
use crate::pages::health;
use crate::select::Selector;
use crate::verbs::list;

const COMPONENTS: &[&str] = &["controller-manager", "etcd-0", "scheduler"];

/// All that the selectors let through.
pub(super) fn list(call: &Call) -> Result<Reply, ApiError> {
    let options = ListOptions::from_call(call)?;
    Selector::new(call, &options)?;
    let chosen = COMPONENTS.iter().filter(|name| {
        options.labels.matches_pairs(&[])
            && options
                .fields
                .matches_with(|field| (field == "metadata.name").then_some(**name))
    });
    let items = chosen.map(|name| status(call, name)).collect();
    list::of_values(call, items, json!({}))
}

/// One of them.
pub(super) fn get(call: &Call) -> Result<Reply, ApiError> {
    let name = call.path.name.as_str();
    if !COMPONENTS.contains(&name) {
        return Err(ApiError::new(500, "", format!("Component not found: {name}")));
    }
    let mut found = status(call, name);
    found["apiVersion"] = call.group_version().into();
    found["kind"] = (&*call.row.kind).into();
    answer::object(call, 200, &found)
}

fn status(call: &Call, name: &str) -> Value {
    let condition = match health::check(&call.server, "readyz", "etcd") {
        Ok(()) => json!({"type": "Healthy", "status": "True", "message": "ok"}),
        Err(why) => json!({"type": "Healthy", "status": "False", "message": why, "error": why}),
    };
    json!({"metadata": {"name": name}, "conditions": [condition]})
}

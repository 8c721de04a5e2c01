//! `DELETE` of a collection: every object that the selectors choose, one after the other.

use coxswain_api::ApiError;
use coxswain_api::kinds::access;
use serde_json::{Value, json};

use crate::answer::{self, Reply};
use crate::call::Call;
use crate::options::{DeleteOptions, ListOptions};
use crate::select::Selector;
use crate::verbs::delete::delete_object;
use crate::verbs::list::list_object;

/// Runs the verb. The answer lists the objects as they were.
pub(crate) async fn deletecollection(call: &Call) -> Result<Reply, ApiError> {
    let mut options = DeleteOptions::from_call(call)?;
    let list = ListOptions::from_call(call)?;
    let selector = Selector::new(call, &list)?;
    let snapshot = call.snapshot();
    let chosen: Vec<_> = selector.choose(call, &snapshot, None).cloned().collect();
    // Preconditions name one object; they make no sense for many.
    options.uid = None;
    options.version = None;
    let mut items: Vec<Value> = Vec::with_capacity(chosen.len());
    for stored in &chosen {
        let scoped = call.in_namespace(&stored.key.namespace);
        match delete_object(&scoped, &stored.key.name, &options).await {
            Ok(_) => {}
            Err(error) if error.code == 404 => {}
            Err(error) => return Err(error),
        }
        let mut value = call.present(stored);
        if call.row.type_name.is_some() {
            access::remove(&mut value, "apiVersion");
            access::remove(&mut value, "kind");
        }
        items.push(value);
    }
    let metadata = json!({"resourceVersion": snapshot.revision().to_string()});
    let value = list_object(call, metadata, items);
    Ok(answer::plain(call, 200, &value))
}

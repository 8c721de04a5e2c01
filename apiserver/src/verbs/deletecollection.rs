//! `DELETE` of a collection: every object that the selectors choose, one after the other; with a limit, as many.

use std::sync::Arc;

use coxswain_api::ApiError;
use coxswain_store::{Snapshot, Stored};
use serde_json::json;

use crate::answer::Reply;
use crate::call::Call;
use crate::costly;
use crate::options::{DeleteOptions, ListOptions};
use crate::select::Selector;
use crate::verbs::delete::{delete_object, warn_of_orphans};
use crate::verbs::list;

/// Runs the verb. The answer lists the objects as they were.
pub(crate) async fn deletecollection(call: &Arc<Call>) -> Result<Reply, ApiError> {
    let mut options = DeleteOptions::from_call(call)?;
    warn_of_orphans(call, &options);
    let list = ListOptions::from_call(call)?;
    let selector = Selector::new(call, &list)?;
    let snapshot = call.snapshot();
    let most = if list.limit > 0 { list.limit } else { usize::MAX };
    let chosen = choose(call, selector, snapshot.clone(), most).await?;
    // Preconditions name one object; they make no sense for many.
    options.uid = None;
    options.version = None;
    for stored in &chosen {
        let scoped = call.in_namespace(&stored.key.namespace);
        match delete_object(&scoped, &stored.key.name, &options).await {
            Ok(_) => {}
            Err(error) if error.code == 404 => {}
            Err(error) => return Err(error),
        }
    }
    list::whole(
        call,
        chosen,
        json!({"resourceVersion": snapshot.revision().to_string()}),
    )
    .await
}

/// The objects that the selector chooses; beside the workers where that is many comparisons.
async fn choose(
    call: &Arc<Call>,
    selector: Selector,
    snapshot: Snapshot,
    most: usize,
) -> Result<Vec<Arc<Stored>>, ApiError> {
    let heavy = costly::is_heavy(call, &snapshot);
    let own = call.clone();
    let work = move || Ok(selector.choose(&own, &snapshot, None).take(most).cloned().collect());
    if heavy { call.aside(1024, work).await } else { work() }
}

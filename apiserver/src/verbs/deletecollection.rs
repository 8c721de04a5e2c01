//! `DELETE` of a collection: every object that the selectors choose, one after the other; with a limit, as many.

use std::sync::Arc;

use coxswain_api::ApiError;
use serde_json::json;

use crate::answer::Reply;
use crate::call::Call;
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
    let chosen: Vec<_> = selector.choose(call, &snapshot, None).take(most).cloned().collect();
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

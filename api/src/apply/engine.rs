//! The decisions of server-side apply: what is pruned, who conflicts, who owns what afterwards.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use crate::codec::{Validation, check_fields};
use crate::schema::Node;
use crate::status::ApiError;

use super::blank::{blank, settle};
use super::compare::{Changes, compare};
use super::extent::extent;
use super::managed::{Managed, ManagerId, Owned, list_of, set_list};
use super::merge::merge;
use super::remove::remove;
use super::reset::Reset;
use super::set::Set;
use super::validate::validate;
use super::{ApplyRequest, BEFORE_FIRST_APPLY, KUBECTL};

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Annotations may not be larger than this in total, in bytes.
const ANNOTATIONS_MAX: usize = 256 * 1024;

/// The paths of conflicts are listed up to this many bytes.
const CONFLICT_BYTES_MAX: usize = 256 * 1024;

/// Who makes a write that is not an apply.
#[derive(Clone, Copy, Debug)]
pub(super) struct Writer<'a> {
    pub manager: &'a str,
    pub operation: &'a str,
    pub gv: &'a str,
    pub subresource: &'a str,
    pub now: &'a str,
    pub node: Node<'a>,
}

/// Why an attempt to apply failed.
enum Refused {
    Conflicts(Vec<(ManagerId, Set)>),
    Error(ApiError),
}

pub(super) fn apply(request: &ApplyRequest<'_>) -> Result<Value, ApiError> {
    check_body(request)?;
    let live = request.live.map_or_else(|| json!({}), without_list);
    let mut managed = Managed::decode(request.live.and_then(list_of))
        .map_err(|why| plain_error(format!("failed to decode managed fields: {why}")))?;
    if let (true, Some(before)) = (managed.entries.is_empty(), request.live) {
        own_everything(&mut managed, before, request);
    }
    let outcome = match attempt(request, &live, managed.clone(), request.force) {
        Err(Refused::Conflicts(conflicts)) if request.manager == KUBECTL => {
            take_over(request, &live, managed, conflicts)
        }
        other => other,
    };
    let (mut object, managed) = outcome.map_err(|refused| match refused {
        Refused::Conflicts(conflicts) => conflict_error(&conflicts),
        Refused::Error(error) => error,
    })?;
    if request.manager == KUBECTL {
        refresh_last_applied(&mut object, request.applied);
    }
    if let (None, Some(metadata)) = (request.live, object.get_mut("metadata").and_then(Value::as_object_mut)) {
        // A version in the body is a precondition; there is nothing yet that could have it.
        metadata.remove("resourceVersion");
    }
    set_list(&mut object, managed.encode());
    Ok(object)
}

pub(super) fn record_update(live: Option<&Value>, new: &mut Value, writer: &Writer<'_>) {
    let (mut managed, from_live) = live_or_sent(live, new, writer);
    set_list(new, Vec::new());
    if managed.entries.is_empty() && live.is_some() {
        return;
    }
    let changes = match live {
        Some(live) => compare(writer.node, live, new),
        None => compare(writer.node, &blank(writer.node), new),
    };
    let changes = Reset::of(writer.node, writer.subresource).strip_changes(NEVER_TRACKED.strip_changes(changes));
    if changes.is_empty() && from_live {
        if let Some(list) = live.and_then(list_of).and_then(Value::as_array) {
            set_list(new, list.clone());
        }
        return;
    }
    own_changes(&mut managed, changes, writer);
    managed.cap();
    set_list(new, managed.encode());
}

/// The entries to start from, and whether they are the live object's.
fn live_or_sent(live: Option<&Value>, new: &Value, writer: &Writer<'_>) -> (Managed, bool) {
    let sent = list_of(new).filter(|_| writer.subresource.is_empty());
    if let Some(items) = sent.and_then(Value::as_array) {
        let blank = |item: &Value| item.as_object().is_some_and(Map::is_empty);
        if items.is_empty() || matches!(items.as_slice(), [item] if blank(item)) {
            return (Managed::default(), false);
        }
        match Managed::decode(sent) {
            Ok(managed) if !managed.entries.is_empty() => {
                let from_live = sent == live.and_then(list_of);
                return (managed, from_live);
            }
            _ => {}
        }
    }
    (Managed::decode(live.and_then(list_of)).unwrap_or_default(), true)
}

/// Gives the writer what it added or modified and takes it, and what is gone, from everybody.
fn own_changes(managed: &mut Managed, changes: Changes, writer: &Writer<'_>) {
    managed.subtract(&[&changes.added, &changes.modified, &changes.removed], None);
    let mut taken = changes.added.union(changes.modified);
    taken.subtract(&NEVER_OWNED);
    if taken.is_empty() {
        return;
    }
    let id = ManagerId::new(writer.manager, writer.operation, writer.gv, writer.subresource);
    let owned = managed.entries.entry(id).or_default();
    owned.set = std::mem::take(&mut owned.set).union(taken);
    owned.api_version = writer.gv.to_owned();
    owned.time = Some(writer.now.to_owned());
}

/// Everything that was there before the first apply belongs to a manager of its own.
fn own_everything(managed: &mut Managed, live: &Value, request: &ApplyRequest<'_>) {
    let writer = Writer {
        manager: BEFORE_FIRST_APPLY,
        operation: "Update",
        gv: request.gv,
        subresource: request.subresource,
        now: request.now,
        node: request.node,
    };
    let changes = compare(request.node, &blank(request.node), &without_list(live));
    let reset = Reset::of(request.node, request.subresource);
    own_changes(managed, reset.strip_changes(changes), &writer);
}

/// One try: the merged object (with its nulls settled) and the entries afterwards.
fn attempt(
    request: &ApplyRequest<'_>,
    live: &Value,
    mut managed: Managed,
    force: bool,
) -> Result<(Value, Managed), Refused> {
    let node = request.node;
    let reset = Reset::of(node, request.subresource);
    let id = ManagerId::new(request.manager, "Apply", request.gv, request.subresource);
    let merged = merge(node, live, request.applied)
        .map_err(|why| Refused::Error(plain_error(format!("failed to merge config: {why}"))))?;
    let last = managed.entries.get(&id).cloned();
    let mut stated = extent(node, request.applied);
    reset.strip(&mut stated);
    let time = last.as_ref().and_then(|owned| owned.time.clone());
    let owned = Owned {
        api_version: request.gv.to_owned(),
        time,
        set: stated,
    };
    managed.entries.insert(id.clone(), owned);
    let last = last.map(|owned| owned.set).filter(|set| !set.is_empty());
    let merged = match last {
        Some(last) => prune(node, merged, &last, &managed),
        None => merged,
    };
    let changes = reset.strip_changes(compare(node, live, &merged));
    let taken = changes.modified.union(changes.added);
    let conflicts: Vec<(ManagerId, Set)> = managed
        .entries
        .iter()
        .filter(|(other, _)| **other != id)
        .map(|(other, owned)| (other.clone(), owned.set.intersection(&taken)))
        .filter(|(_, set)| !set.is_empty())
        .collect();
    if !force && !conflicts.is_empty() {
        return Err(Refused::Conflicts(conflicts));
    }
    managed.subtract(&[&taken, &changes.removed], Some(&id));
    if let Some(owned) = managed.entries.get_mut(&id) {
        owned.set.subtract(&NEVER_OWNED);
        if merged != *live {
            owned.time = Some(request.now.to_owned());
        }
    }
    managed.entries.retain(|_, owned| !owned.set.is_empty());
    let mut merged = merged;
    if merged != *live {
        settle(Some(node), &mut merged);
        if let Some(row) = node.type_row() {
            // Quantities and the like in the form in which they are stored; what does not fit was refused above.
            check_fields(&mut merged, row.name, Validation::Ignore).map_err(Refused::Error)?;
        }
    }
    Ok((merged, managed))
}

/// Removes what the manager stated before and states no more, unless somebody owns it.
fn prune(node: Node<'_>, merged: Value, last: &Set, managed: &Managed) -> Value {
    let named = |set: &Set| set.with_named_fields(Some(node));
    let last = named(last);
    let merged_set = named(&extent(node, &merged));
    let pruned = remove(Some(node), &merged, &last);
    let owned = Set::union_all(managed.entries.values().map(|owned| owned.set.clone()).collect());
    let keep = named(&extent(node, &pruned)).union(named(&owned));
    let pruned = remove(Some(node), &merged, &merged_set.difference(&keep));
    let gone = merged_set
        .difference(&named(&extent(node, &pruned)))
        .intersection(&last);
    remove(Some(node), &merged, &gone)
}

/// `kubectl apply --server-side` takes over what `kubectl apply` wrote: conflicts on fields whose value is
/// still the one in the last-applied annotation do not count.
fn take_over(
    request: &ApplyRequest<'_>,
    live: &Value,
    managed: Managed,
    conflicts: Vec<(ManagerId, Set)>,
) -> Result<(Value, Managed), Refused> {
    let Some(allowed) = last_applied_fields(request.node, live) else {
        return Err(Refused::Conflicts(conflicts));
    };
    let rest: Vec<(ManagerId, Set)> = conflicts
        .into_iter()
        .map(|(id, set)| (id, set.difference(&allowed)))
        .filter(|(_, set)| !set.is_empty())
        .collect();
    if rest.is_empty() {
        attempt(request, live, managed, true)
    } else {
        Err(Refused::Conflicts(rest))
    }
}

fn last_applied_fields(node: Node<'_>, live: &Value) -> Option<Set> {
    let text = live.pointer("/metadata/annotations")?.get(LAST_APPLIED)?.as_str()?;
    let applied: Value = serde_json::from_str(text).ok()?;
    let changes = compare(node, &applied, live);
    let set = extent(node, &applied);
    Some(
        set.difference(&changes.modified)
            .difference(&changes.added)
            .difference(&changes.removed),
    )
}

/// Keeps the annotation of client-side apply in step, for tools that still read it.
fn refresh_last_applied(object: &mut Value, applied: &Value) {
    let Some(annotations) = object
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
    else {
        return;
    };
    if !annotations.contains_key(LAST_APPLIED) {
        return;
    }
    let mut applied = applied.clone();
    if let Some(inner) = applied
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
    {
        inner.remove(LAST_APPLIED);
    }
    let text = format!("{applied}\n");
    let others: usize = annotations
        .iter()
        .filter(|(key, _)| *key != LAST_APPLIED)
        .map(|(key, value)| key.len() + value.as_str().map_or(0, str::len))
        .sum();
    if others + LAST_APPLIED.len() + text.len() > ANNOTATIONS_MAX {
        annotations.remove(LAST_APPLIED);
    } else {
        annotations.insert(LAST_APPLIED.into(), text.into());
    }
}

fn check_body(request: &ApplyRequest<'_>) -> Result<(), ApiError> {
    let text = |key: &str| request.applied.get(key).and_then(Value::as_str).unwrap_or_default();
    let (gv, kind) = (text("apiVersion"), text("kind"));
    let qualified = if gv.contains('/') {
        gv.to_owned()
    } else {
        format!("/{gv}")
    };
    if gv != request.gv || kind != request.kind {
        return Err(ApiError::bad_request(format!(
            "invalid object type: {qualified}, Kind={kind}"
        )));
    }
    if list_of(request.applied).is_some_and(|list| !list.is_null()) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let problems = validate(request.node, request.applied);
    let problems = match problems.as_slice() {
        [] => return Ok(()),
        [single] => single.clone(),
        several => format!("errors:\n  {}", several.join("\n  ")),
    };
    let metadata = |key: &str| {
        request
            .applied
            .get("metadata")
            .and_then(|meta| meta.get(key))
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let (namespace, name) = (metadata("namespace"), metadata("name"));
    let subject = format!("{namespace}/{name}; {qualified}, Kind={kind}");
    Err(plain_error(format!(
        "failed to create typed patch object ({subject}): {problems}"
    )))
}

fn conflict_error(conflicts: &[(ManagerId, Set)]) -> ApiError {
    let mut left = CONFLICT_BYTES_MAX;
    let named: Vec<(String, Vec<String>)> = conflicts
        .iter()
        .map(|(id, set)| (id.to_string(), set.paths_within(&mut left)))
        .filter(|(_, paths)| !paths.is_empty())
        .collect();
    let count: usize = conflicts.iter().map(|(_, set)| set.count()).sum();
    let causes: Vec<Value> = named
        .iter()
        .flat_map(|(id, paths)| {
            paths.iter().map(move |path| {
            json!({"reason": "FieldManagerConflict", "message": format!("conflict with {id}"), "field": path})
        })
        })
        .collect();
    let message = match named.as_slice() {
        [(id, paths)] if count == 1 => format!("Apply failed with 1 conflict: conflict with {id}: {}", paths.concat()),
        _ => {
            let lines: Vec<String> = named
                .iter()
                .map(|(id, paths)| format!("conflicts with {id}:\n- {}", paths.join("\n- ")))
                .collect();
            format!("Apply failed with {count} conflicts: {}", lines.join("\n"))
        }
    };
    let mut error = ApiError::new(409, "Conflict", message);
    error.details = Some(json!({"causes": causes}));
    error
}

/// A 500 without a reason, as Kubernetes answers for errors of the patch machinery.
fn plain_error(message: String) -> ApiError {
    ApiError::new(500, "", message)
}

fn without_list(object: &Value) -> Value {
    let mut object = object.clone();
    set_list(&mut object, Vec::new());
    object
}

/// Fields that nobody owns because every request must state them or the server writes them.
static NEVER_OWNED: LazyLock<Set> = LazyLock::new(|| {
    let mut set = Set::default();
    for name in ["apiVersion", "kind", "metadata"] {
        set.insert_fields(&[name]);
    }
    let metadata = [
        "name",
        "namespace",
        "creationTimestamp",
        "selfLink",
        "uid",
        "clusterName",
        "generation",
        "managedFields",
        "resourceVersion",
    ];
    for name in metadata {
        set.insert_fields(&["metadata", name]);
    }
    set
});

/// Fields that are not even compared.
const NEVER_TRACKED: Reset = Reset::These(&[&["metadata", "managedFields"], &["metadata", "resourceVersion"]]);

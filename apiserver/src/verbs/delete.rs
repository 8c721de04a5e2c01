//! `DELETE` of one object: preconditions, grace, finalizers, propagation.
//!
//! [`decide`] is pure: given the live object and the options it says whether the object goes at
//! once, is marked as going, or stays as it is. The agent ends a pod's grace with a delete of
//! grace 0; a controller ends finalizers with updates, and the update that removes the last one
//! removes the object (see [`is_finished`]).

use std::sync::Arc;

use coxswain_api::ApiError;
use coxswain_api::kinds::access;
use coxswain_api::status;
use coxswain_store::{Op, Outcome, Precondition, Stored, Txn};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::admission::{self, Operation, Write};
use crate::answer::{self, Reply};
use crate::call::Call;
use crate::options::{DeleteOptions, Propagation};

/// Attempts before a delete that keeps losing races gives up.
const ATTEMPTS_MAX: usize = 64;

/// Runs the verb.
pub(crate) async fn delete(call: &Call) -> Result<Reply, ApiError> {
    let options = DeleteOptions::from_call(call)?;
    warn_of_orphans(call, &options);
    let deleted = delete_object(call, &call.path.name, &options).await?;
    let with_object = call.row.deleting_shows_it();
    if deleted.gone && !with_object {
        return Ok(answer::plain(call, 200, &success(call, &deleted.object)));
    }
    let versioned = call.to_versioned(deleted.object);
    answer::object(call, 200, &versioned)
}

/// Who deletes Jobs and does not say what becomes of their pods is told.
pub(crate) fn warn_of_orphans(call: &Call, options: &DeleteOptions) {
    if leaves_pods_unasked(&call.row.group, &call.row.plural, options) {
        call.warn(
            "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove \
             them or set propagationPolicy=Orphan to suppress this warning",
        );
    }
}

fn leaves_pods_unasked(group: &str, plural: &str, options: &DeleteOptions) -> bool {
    options.propagation.is_none() && (group, plural) == ("batch", "jobs")
}

/// The Status of a finished delete.
fn success(call: &Call, object: &Value) -> Value {
    let mut details = json!({"name": access::name(object), "kind": &*call.row.plural});
    if !call.row.group.is_empty() {
        access::set(&mut details, "group", &*call.row.group);
    }
    access::set(&mut details, "uid", access::text(object, "/metadata/uid"));
    status::success(Some(details))
}

/// What a delete did.
pub(crate) struct Deleted {
    /// The object is gone from the store.
    pub gone: bool,
    /// Its last state, in the rules' shape.
    pub object: Value,
}

/// Deletes one object of the call's resource.
pub(crate) async fn delete_object(call: &Call, name: &str, options: &DeleteOptions) -> Result<Deleted, ApiError> {
    let key = call.key(name);
    for _ in 0..ATTEMPTS_MAX {
        let snapshot = call.snapshot();
        let live = snapshot.get(&key).ok_or_else(|| call.not_found(name))?.clone();
        check_preconditions(call, name, &live, options)?;
        let old = call.internal(&live);
        let write = Write {
            call,
            operation: Operation::Delete,
            sub: None,
            old: Some(&old),
            snapshot: &snapshot,
        };
        admission::validate(&write, None)?;
        let verdict = decide(&facts(call), &old, options, answer::now());
        let when = Precondition::Revision(live.revision);
        let (op, object, gone) = match verdict {
            Verdict::Unchanged => {
                return Ok(Deleted {
                    gone: false,
                    object: old,
                });
            }
            Verdict::Gone(object) => (Op::Delete { key: key.clone(), when }, object, true),
            Verdict::Marked(object) => (
                Op::Put {
                    draft: call.draft(&object),
                    when,
                },
                object,
                false,
            ),
        };
        if options.dry_run {
            return Ok(Deleted { gone, object });
        }
        let mut ops = vec![op];
        if gone {
            ops.extend(admission::effects_of_delete(&write, &old));
        }
        match call.server.propose(Txn { ops }).await? {
            Outcome::Committed { objects, .. } => {
                let mut object = object;
                if let Some(stored) = objects.first() {
                    let version = stored.revision.to_string();
                    access::set(access::child(&mut object, "metadata"), "resourceVersion", version);
                }
                return Ok(Deleted { gone, object });
            }
            Outcome::Rejected { .. } => {}
        }
    }
    Err(ApiError::modified(&call.row.group, &call.row.plural, name))
}

pub(crate) fn check_preconditions(
    call: &Call,
    name: &str,
    live: &Arc<Stored>,
    options: &DeleteOptions,
) -> Result<(), ApiError> {
    let conflict = |why: String| Err(ApiError::conflict(&call.row.group, &call.row.kind, name, &why));
    if let Some(uid) = options.uid.as_ref().filter(|uid| **uid != live.head.uid) {
        return conflict(format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been deleted \
             and then recreated",
            live.head.uid
        ));
    }
    if let Some(version) = options
        .version
        .as_ref()
        .filter(|version| **version != live.revision.to_string())
    {
        return conflict(format!(
            "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({}). The object \
             might have been modified",
            live.revision
        ));
    }
    Ok(())
}

/// What the decision needs to know of the kind.
struct KindFacts {
    pod: bool,
    namespace: bool,
    /// Dependents are orphaned unless the client says otherwise.
    orphans: bool,
}

fn facts(call: &Call) -> KindFacts {
    let is = |group: &str, plural: &str| &*call.row.group == group && &*call.row.plural == plural;
    let orphans = is("", "replicationcontrollers") || is("batch", "jobs");
    KindFacts {
        pod: is("", "pods"),
        namespace: is("", "namespaces"),
        orphans,
    }
}

/// What becomes of an object that is to be deleted.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// It is removed; its last state as the client sees it.
    Gone(Value),
    /// It stays, marked as being deleted.
    Marked(Value),
    /// It is being deleted already and nothing changes.
    Unchanged,
}

fn decide(facts: &KindFacts, live: &Value, options: &DeleteOptions, now: Timestamp) -> Verdict {
    if facts.namespace {
        return decide_namespace(live, now);
    }
    let metadata = access::get(live, "metadata");
    let deleting = access::has(metadata, "deletionTimestamp");
    let finalizers = finalizers_after(facts, metadata, options);
    let finalizers_changed = json!(finalizers) != Value::from(access::list(metadata, "finalizers").to_vec());
    let old_grace = access::int_of(metadata, "deletionGracePeriodSeconds");
    let wanted_grace = if facts.pod { pod_grace(live, options) } else { 0 };

    let mut object = live.clone();
    let mut changed = finalizers_changed;
    set_finalizers(&mut object, &finalizers);
    if !deleting {
        mark(&mut object, now, wanted_grace);
        changed = true;
    } else if facts.pod {
        let asked = options.grace_s.map(|seconds| if seconds < 0 { 1 } else { seconds });
        let shorter = asked.filter(|asked| old_grace.is_none_or(|old| *asked < old));
        if let Some(grace) = shorter {
            shorten(&mut object, old_grace.unwrap_or(0), grace, now);
            changed = true;
        } else if old_grace.is_some() {
            return Verdict::Unchanged;
        }
    }
    let grace = access::int(&object, "/metadata/deletionGracePeriodSeconds").unwrap_or(0);
    if finalizers.is_empty() && grace == 0 {
        if !facts.pod && !deleting {
            // The last state of an object that goes at once was never marked.
            return Verdict::Gone(live.clone());
        }
        return Verdict::Gone(object);
    }
    if changed {
        Verdict::Marked(object)
    } else {
        Verdict::Unchanged
    }
}

/// The first delete of a namespace starts its end; the finalizers in its spec are taken off by
/// the namespace controller, and a delete after that removes it.
fn decide_namespace(live: &Value, now: Timestamp) -> Verdict {
    if !access::has(access::get(live, "metadata"), "deletionTimestamp") {
        let mut object = live.clone();
        access::set(access::child(&mut object, "metadata"), "deletionTimestamp", stamp(now));
        access::set(access::child(&mut object, "status"), "phase", "Terminating");
        return Verdict::Marked(object);
    }
    let held = !access::list_at(live, "/spec/finalizers").is_empty()
        || !access::list_at(live, "/metadata/finalizers").is_empty();
    if held {
        Verdict::Unchanged
    } else {
        Verdict::Gone(live.clone())
    }
}

/// Seconds of grace for a pod.
fn pod_grace(live: &Value, options: &DeleteOptions) -> i64 {
    let phase = access::text(live, "/status/phase");
    if access::text(live, "/spec/nodeName").is_empty() || phase == "Failed" || phase == "Succeeded" {
        return 0;
    }
    let own = access::int(live, "/spec/terminationGracePeriodSeconds").unwrap_or(30);
    let grace = options.grace_s.unwrap_or(own);
    if grace < 0 { 1 } else { grace }
}

fn finalizers_after(facts: &KindFacts, metadata: &Value, options: &DeleteOptions) -> Vec<String> {
    let current = access::texts(metadata, "finalizers");
    let has = |name: &str| current.iter().any(|finalizer| finalizer == name);
    let (orphan, foreground) = match options.propagation {
        Some(Propagation::Orphan) => (true, false),
        Some(Propagation::Foreground) => (false, true),
        Some(Propagation::Background) => (false, false),
        None if has("orphan") || has("foregroundDeletion") => (has("orphan"), has("foregroundDeletion")),
        None => (facts.orphans, false),
    };
    let mut out: Vec<String> = current
        .into_iter()
        .filter(|f| f != "orphan" && f != "foregroundDeletion")
        .collect();
    if orphan {
        out.push("orphan".to_owned());
    }
    if foreground {
        out.push("foregroundDeletion".to_owned());
    }
    out
}

fn set_finalizers(object: &mut Value, finalizers: &[String]) {
    let metadata = access::child(object, "metadata");
    if finalizers.is_empty() {
        access::remove(metadata, "finalizers");
    } else {
        access::set(metadata, "finalizers", json!(finalizers));
    }
}

fn mark(object: &mut Value, now: Timestamp, grace_s: i64) {
    let metadata = access::child(object, "metadata");
    let at = now
        .checked_add(SignedDuration::from_secs(grace_s.clamp(0, i64::from(i32::MAX))))
        .unwrap_or(now);
    access::set(metadata, "deletionTimestamp", stamp(at));
    access::set(metadata, "deletionGracePeriodSeconds", grace_s);
    bump_generation(metadata);
}

fn shorten(object: &mut Value, old_grace_s: i64, grace_s: i64, now: Timestamp) {
    let metadata = access::child(object, "metadata");
    let ends: Timestamp = access::str_of(metadata, "deletionTimestamp").parse().unwrap_or(now);
    let earlier = SignedDuration::from_secs(grace_s.saturating_sub(old_grace_s));
    access::set(
        metadata,
        "deletionTimestamp",
        stamp(ends.checked_add(earlier).unwrap_or(now)),
    );
    access::set(metadata, "deletionGracePeriodSeconds", grace_s);
}

fn bump_generation(metadata: &mut Value) {
    if let Some(generation) = access::int_of(metadata, "generation").filter(|generation| *generation > 0) {
        access::set(metadata, "generation", generation.saturating_add(1));
    }
}

fn stamp(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Whether an update leaves nothing that holds an object which is being deleted.
pub(crate) fn is_finished(new: &Value, live: &Stored) -> bool {
    if !live.head.deleting || !access::list_at(new, "/metadata/finalizers").is_empty() {
        return false;
    }
    if &*live.key.resource == "namespaces" {
        return access::list_at(new, "/spec/finalizers").is_empty();
    }
    access::int(&live.value(), "/metadata/deletionGracePeriodSeconds") == Some(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: KindFacts = KindFacts {
        pod: false,
        namespace: false,
        orphans: false,
    };
    const POD: KindFacts = KindFacts {
        pod: true,
        namespace: false,
        orphans: false,
    };

    fn outcome(facts: &KindFacts, live: Value, options: DeleteOptions) -> &'static str {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        match decide(facts, &live, &options, now) {
            Verdict::Gone(_) => "gone",
            Verdict::Marked(_) => "marked",
            Verdict::Unchanged => "unchanged",
        }
    }

    #[test]
    fn only_unasked_orphans_are_warned_of() {
        let check = |group: &str, plural: &str, propagation: Option<Propagation>, expected: bool| {
            let options = DeleteOptions {
                propagation,
                ..DeleteOptions::default()
            };
            let warns = leaves_pods_unasked(group, plural, &options);
            assert_eq!(warns, expected, "{group}/{plural} {propagation:?}");
        };
        check("batch", "jobs", None, true);
        check("batch", "jobs", Some(Propagation::Orphan), false);
        check("batch", "jobs", Some(Propagation::Background), false);
        check("batch", "cronjobs", None, false);
        check("", "replicationcontrollers", None, false);
    }

    #[test]
    fn decisions() {
        let none = DeleteOptions::default;
        let zero = || DeleteOptions {
            grace_s: Some(0),
            ..DeleteOptions::default()
        };
        let foreground = || DeleteOptions {
            propagation: Some(Propagation::Foreground),
            ..DeleteOptions::default()
        };
        let held = json!({"metadata": {"finalizers": ["a/b"]}});
        let going = json!({"metadata": {"finalizers": ["a/b"], "deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0}});
        let pod = json!({"metadata": {}, "spec": {"nodeName": "n"}});
        let pod_going = json!({
            "metadata": {"deletionTimestamp": "2026-01-01T00:00:30Z", "deletionGracePeriodSeconds": 30},
            "spec": {"nodeName": "n"},
        });
        assert_eq!(outcome(&PLAIN, json!({"metadata": {}}), none()), "gone");
        assert_eq!(outcome(&PLAIN, held, none()), "marked");
        assert_eq!(outcome(&PLAIN, going, none()), "unchanged");
        assert_eq!(outcome(&PLAIN, json!({"metadata": {}}), foreground()), "marked");
        assert_eq!(outcome(&POD, json!({"metadata": {}, "spec": {}}), none()), "gone");
        assert_eq!(outcome(&POD, pod.clone(), none()), "marked");
        assert_eq!(outcome(&POD, pod, zero()), "gone");
        assert_eq!(outcome(&POD, pod_going.clone(), none()), "unchanged");
        assert_eq!(outcome(&POD, pod_going.clone(), foreground()), "unchanged");
        assert_eq!(outcome(&POD, pod_going, zero()), "gone");
    }
}

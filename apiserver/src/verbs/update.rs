//! `PUT`, and the loop that every change of an existing object runs in.
//!
//! [`change`] reads the live object, lets the caller make the new one from it, runs the rules and
//! proposes the result under the revision it was made from. A lost race starts over, unless the
//! client itself named a resourceVersion: then it is a conflict.

use std::sync::Arc;

use coxswain_api::apply;
use coxswain_api::kinds::access;
use coxswain_api::{ApiError, Resource};
use coxswain_store::{Op, Outcome, Precondition, Stored, Txn};
use serde_json::Value;

use crate::admission::{self, Operation, Write};
use crate::answer::{self, Reply, now_text};
use crate::body;
use crate::call::Call;
use crate::options::WriteOptions;
use crate::verbs::{create, delete};

/// Attempts before a change that keeps losing races gives up.
const ATTEMPTS_MAX: usize = 64;

/// Runs the verb, on the object (`sub` is `None`) or on its status.
pub(crate) async fn update(call: &Call, sub: Option<&str>) -> Result<Reply, ApiError> {
    let options = WriteOptions::from_call(call, "UpdateOptions")?;
    let object = body::decode_object(call, options.validation)?;
    let name = access::name(&object);
    if name.is_empty() {
        return Err(nameless(call));
    }
    if name != call.path.name {
        return Err(misnamed(call, name));
    }
    finish(call, &options, sub, object).await
}

async fn finish(call: &Call, options: &WriteOptions, sub: Option<&str>, object: Value) -> Result<Reply, ApiError> {
    let exists = call.snapshot().get(&call.key(&call.path.name)).is_some();
    if !exists && sub.is_none() && creates_on_update(call) {
        if let Some(error) = must_not_exist(call, &object) {
            return Err(error);
        }
        let stored = create::create_object(call, options, Manage::Update, || Ok(object.clone())).await?;
        return answer::stored(call, 201, &stored);
    }
    let change = Change {
        sub,
        manage: Manage::Update,
        check_uid: true,
        options,
    };
    let stored = self::change(call, &change, |_, _| Ok(object.clone())).await?;
    answer::stored(call, 200, &stored)
}

/// The kinds Kubernetes creates when a `PUT` finds nothing.
fn creates_on_update(call: &Call) -> bool {
    match &*call.row.group {
        "" => ["endpoints", "events", "limitranges", "services"].contains(&&*call.row.plural),
        "events.k8s.io" => &*call.row.plural == "events",
        "coordination.k8s.io" => &*call.row.plural == "leases",
        "node.k8s.io" => &*call.row.plural == "runtimeclasses",
        "rbac.authorization.k8s.io" => true,
        _ => false,
    }
}

fn must_not_exist(call: &Call, object: &Value) -> Option<ApiError> {
    let version = access::text(object, "/metadata/resourceVersion");
    (!version.is_empty()).then(|| ApiError::modified(&call.row.group, &call.row.plural, &call.path.name))
}

/// How a change is entered into managed fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manage {
    /// As an update by the request's manager.
    Update,
    /// Already done by server-side apply.
    Applied,
}

/// What kind of change is being made.
pub(crate) struct Change<'a> {
    pub sub: Option<&'a str>,
    pub manage: Manage,
    /// A uid in the new object is a condition (and not just a field that may not change).
    pub check_uid: bool,
    pub options: &'a WriteOptions,
}

/// Changes the object named in the request's path. `make` gets the live object as the request's
/// version shows it, and its stored form, and returns the whole new object.
pub(crate) async fn change(
    call: &Call,
    change: &Change<'_>,
    make: impl Fn(&Value, &Stored) -> Result<Value, ApiError>,
) -> Result<Arc<Stored>, ApiError> {
    let key = call.key(&call.path.name);
    for _ in 0..ATTEMPTS_MAX {
        let snapshot = call.snapshot();
        let live = snapshot
            .get(&key)
            .ok_or_else(|| call.not_found(&call.path.name))?
            .clone();
        let old = call.internal(&live);
        let converted = call.converted().then(|| call.present(&live));
        let shown = converted.as_ref().unwrap_or(&old);
        let made = make(shown, &live)?;
        check_identity(call, change, &live, &made)?;
        let write = Write {
            call,
            operation: Operation::Update,
            sub: change.sub,
            old: Some(&old),
            snapshot: &snapshot,
        };
        let mut object = plan(&write, change, shown, made)?;
        let effects = admission::effects(&write, &mut object)?;
        let draft = call.draft(&object);
        let gone = delete::is_finished(&object, &live);
        if !gone && effects.is_empty() && live.same_content(&draft) {
            return Ok(live);
        }
        if change.options.dry_run {
            return Ok(Arc::new(Stored::from_draft(draft, live.revision)));
        }
        let when = Precondition::Revision(live.revision);
        let op = if gone {
            Op::Delete { key: key.clone(), when }
        } else {
            Op::Put {
                draft: draft.clone(),
                when,
            }
        };
        let mut ops = vec![op];
        ops.extend(if gone {
            admission::effects_of_delete(&write, &object)
        } else {
            effects
        });
        match call.server.propose(Txn { ops }).await? {
            Outcome::Committed { objects, .. } => {
                let stored = objects
                    .into_iter()
                    .next()
                    .ok_or_else(|| ApiError::internal("the store returned no object"))?;
                // A change that removed the last finalizer answers with the object it made.
                return Ok(if gone {
                    Arc::new(Stored::from_draft(draft, stored.revision))
                } else {
                    stored
                });
            }
            Outcome::Rejected { .. } => {}
        }
    }
    Err(ApiError::modified(&call.row.group, &call.row.plural, &call.path.name))
}

/// 409: the stored object is another one of that name. Kubernetes tells where it is stored.
pub(crate) fn other_object(row: &Resource, namespace: &str, name: &str, wanted: &str, uid: &str) -> ApiError {
    let own = |place: &str| format!("{}/{place}", row.group);
    let place = match (&*row.group, &*row.plural) {
        ("", "endpoints") => "services/endpoints".to_owned(),
        ("", "nodes") => "minions".to_owned(),
        ("", "replicationcontrollers") => "controllers".to_owned(),
        ("", "services") => "services/specs".to_owned(),
        ("networking.k8s.io", "ingresses") => "ingress".to_owned(),
        ("apiextensions.k8s.io" | "apiregistration.k8s.io", plural) => own(plural),
        (_, plural) if row.type_name.is_none() => own(plural),
        (_, plural) => plural.to_owned(),
    };
    let key = match namespace {
        _ if !row.namespaced => format!("/registry/{place}/{name}"),
        namespace => format!("/registry/{place}/{namespace}/{name}"),
    };
    let why = format!(
        "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: \
         Precondition failed: UID in precondition: {wanted}, UID in object meta: {uid}"
    );
    ApiError::conflict(&row.group, &row.plural, name, &why)
}

/// 400: the body has no name.
pub(crate) fn nameless(call: &Call) -> ApiError {
    ApiError::bad_request(format!(
        "the name of the object ({} based on URL) was undeterminable: name must be provided",
        call.path.name
    ))
}

/// 400: the body has another name than the path.
pub(crate) fn misnamed(call: &Call, name: &str) -> ApiError {
    ApiError::bad_request(format!(
        "the name of the object ({name}) does not match the name on the URL ({})",
        call.path.name
    ))
}

/// Checks uid and resourceVersion of a new object against the live one.
fn check_identity(call: &Call, change: &Change<'_>, live: &Stored, made: &Value) -> Result<(), ApiError> {
    let metadata = access::get(made, "metadata");
    let name = access::str_of(metadata, "name");
    if name.is_empty() {
        return Err(nameless(call));
    }
    if name != call.path.name {
        return Err(misnamed(call, name));
    }
    let namespace = access::str_of(metadata, "namespace");
    if call.row.namespaced && !namespace.is_empty() && namespace != call.namespace() {
        let message = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(ApiError::bad_request(message));
    }
    let version = access::str_of(metadata, "resourceVersion");
    if !version.is_empty() && version != "0" {
        if version.parse::<u64>().is_err() {
            let message = format!("strconv.ParseUint: parsing {version:?}: invalid syntax");
            return Err(ApiError::new(500, "", message));
        }
        if version != live.revision.to_string() {
            return Err(ApiError::modified(&call.row.group, &call.row.plural, &call.path.name));
        }
    } else if !call.row.rules.allows_unconditional_update() {
        let path = coxswain_api::Path::new("metadata").child("resourceVersion");
        let error = coxswain_api::field::invalid(&path, 0, "must be specified for an update");
        return Err(ApiError::invalid(
            &call.row.group,
            &call.row.plural,
            &call.path.name,
            vec![error],
        ));
    }
    let uid = access::str_of(metadata, "uid");
    if change.check_uid && !uid.is_empty() && uid != live.head.uid {
        return Err(other_object(
            &call.row,
            &call.path.namespace,
            &call.path.name,
            uid,
            &live.head.uid,
        ));
    }
    Ok(())
}

/// Defaults, admission, rules and managed fields; pure apart from the time stamp.
fn plan(write: &Write<'_>, change: &Change<'_>, shown: &Value, made: Value) -> Result<Value, ApiError> {
    let call = write.call;
    let rules = &*call.row.rules;
    let old = write
        .old
        .ok_or_else(|| ApiError::internal("an update without an old object"))?;
    let mut made = made;
    rules.default(&mut made);
    body::check_size(call, &made)?;
    let mut object = call.to_internal(made);
    if call.row.namespaced {
        access::set(access::child(&mut object, "metadata"), "namespace", call.namespace());
    }
    // Before the comparison with the live object: what admission puts back did not change.
    admission::mutate(write, &mut object)?;
    body::drop_doubled_owners(call, &mut object, body::AFTER_ADMISSION);
    rules.default(&mut object);
    rules.prepare_update(&mut object, old, change.sub);
    if change.manage == Manage::Update {
        let mut versioned = call.to_versioned(object);
        let (gv, sub) = (call.group_version(), change.sub.unwrap_or_default());
        let manager = &change.options.manager;
        apply::update_managed_fields(
            Some(shown),
            &mut versioned,
            manager,
            "Update",
            &gv,
            sub,
            &now_text(),
            call.node(),
        );
        object = call.to_internal(versioned);
    }
    admission::stamp(write, &mut object);
    let name = access::name(&object).to_owned();
    let errors = rules.validate_update(&object, old, change.sub);
    if !errors.is_empty() {
        return Err(ApiError::invalid(
            &call.row.storage_gvk.group,
            &call.row.storage_gvk.kind,
            &name,
            errors,
        ));
    }
    for warning in rules.warnings(&object, Some(old)) {
        call.warn(warning);
    }
    admission::validate(write, Some(&object))?;
    apply::keep_times_when_unchanged(old, &mut object);
    access::remove(access::child(&mut object, "metadata"), "resourceVersion");
    Ok(object)
}

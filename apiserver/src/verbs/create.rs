//! `POST` to a collection.

use coxswain_api::ApiError;
use coxswain_api::apply;
use coxswain_api::kinds::access;
use coxswain_store::{Op, Outcome, Precondition, Stored, Txn};
use rand::Rng;
use serde_json::Value;
use std::sync::Arc;

use crate::admission::{self, Operation, Write, service_account};
use crate::answer::{self, Reply, new_uid, now_text};
use crate::authz::{Attributes, Decision, refusal};
use crate::body;
use crate::call::Call;
use crate::options::WriteOptions;
use crate::verbs::update::Manage;

/// Attempts to find a free name for `generateName`, and to win races for addresses.
const ATTEMPTS_MAX: usize = 8;
/// Longest prefix kept of a `generateName`, so that the result stays a DNS label.
const GENERATED_PREFIX_MAX: usize = 58;

/// Runs the verb.
pub(crate) async fn create(call: &Call) -> Result<Reply, ApiError> {
    let options = WriteOptions::from_call(call, "CreateOptions")?;
    let stored = create_object(call, &options, Manage::Update, || {
        body::decode_object(call, options.validation)
    })
    .await?;
    let mut reply = answer::stored(call, 201, &stored)?;
    *reply.status_mut() = http::StatusCode::CREATED;
    Ok(reply)
}

/// Runs steps 2 to 6 for the object that `source` gives, again for each attempt, and returns it as stored. Also what
/// apply and create-on-update end in.
pub(crate) async fn create_object(
    call: &Call,
    options: &WriteOptions,
    manage: Manage,
    source: impl Fn() -> Result<Value, ApiError>,
) -> Result<Arc<Stored>, ApiError> {
    may_create(call)?;
    let mut object = source()?;
    let version = access::text(&object, "/metadata/resourceVersion");
    if manage == Manage::Update && !version.is_empty() && version != "0" {
        return Err(ApiError::new(
            500,
            "",
            "resourceVersion should not be set on objects to be created",
        ));
    }
    if &*call.row.storage == "pods" {
        service_account::wait_for_default(call, &object).await;
    }
    let mut attempt = 1;
    loop {
        let snapshot = call.snapshot();
        let write = Write {
            call,
            operation: Operation::Create,
            sub: None,
            old: None,
            snapshot: &snapshot,
        };
        let mut generated = false;
        let mut planned = plan(&write, options, manage, object, &mut generated)?;
        let effects = admission::effects(&write, &mut planned)?;
        let mut ops = vec![Op::Put {
            draft: call.draft(&planned),
            when: Precondition::Absent,
        }];
        ops.extend(effects);
        let name = access::name(&planned).to_owned();
        if options.dry_run {
            if let Some(current) = snapshot.get(&call.key(&name)) {
                return Err(taken(call, &name, current));
            }
            let Some(Op::Put { draft, .. }) = ops.into_iter().next() else {
                return Err(ApiError::internal("nothing to create"));
            };
            return Ok(Arc::new(Stored::from_draft(draft, 0)));
        }
        match call.server.propose(Txn { ops }).await? {
            Outcome::Committed { objects, .. } => {
                return objects
                    .into_iter()
                    .next()
                    .ok_or_else(|| ApiError::internal("the store returned no object"));
            }
            Outcome::Rejected { op: 0, current } if !generated || attempt >= ATTEMPTS_MAX => {
                return Err(match current {
                    Some(current) => taken(call, &name, &current),
                    None => ApiError::already_exists(&call.row.group, &call.row.plural, &name),
                });
            }
            Outcome::Rejected { op, .. } if attempt >= ATTEMPTS_MAX => {
                return Err(ApiError::internal(format!("operation {op} kept losing races")));
            }
            Outcome::Rejected { .. } => {
                attempt += 1;
                object = source()?;
            }
        }
    }
}

/// Whatever the request's verb is, an object is created only by who may `create` it: PUT and apply come here, too.
fn may_create(call: &Call) -> Result<(), ApiError> {
    if call.verb == "create" {
        return Ok(());
    }
    let attributes = Attributes {
        verb: "create".to_owned(),
        is_resource: true,
        group: call.row.group.to_string(),
        resource: call.row.plural.to_string(),
        namespace: call.path.namespace.clone(),
        name: call.path.name.clone(),
        ..Attributes::default()
    };
    match call.server.authz.decide(&call.user, &attributes, &call.snapshot()) {
        Decision::Allow(_) => Ok(()),
        Decision::NoOpinion(reason) => Err(refusal(&call.user, &attributes, &reason)),
    }
}

/// Everything from defaults to validation; pure apart from the stamps.
fn plan(
    write: &Write<'_>,
    options: &WriteOptions,
    manage: Manage,
    object: Value,
    generated: &mut bool,
) -> Result<Value, ApiError> {
    let call = write.call;
    let rules = &*call.row.rules;
    let mut object = object;
    let given = access::name(&object).to_owned();
    let prefix = access::text(&object, "/metadata/generateName").to_owned();
    rules.default(&mut object);
    body::check_size(call, &object)?;
    if manage == Manage::Update {
        let gv = call.group_version();
        apply::update_managed_fields(
            None,
            &mut object,
            &options.manager,
            "Update",
            &gv,
            "",
            &now_text(),
            call.node(),
        );
    }
    let mut object = call.to_internal(object);
    admission::mutate(write, &mut object)?;
    body::drop_doubled_owners(call, &mut object, body::AFTER_ADMISSION);
    rules.default(&mut object);

    if given.is_empty() && !prefix.is_empty() {
        access::set(access::child(&mut object, "metadata"), "name", generate_name(&prefix));
        *generated = true;
    }
    let metadata = access::child(&mut object, "metadata");
    if call.row.namespaced {
        access::set(metadata, "namespace", call.namespace());
    } else {
        access::remove(metadata, "namespace");
    }
    access::remove(metadata, "resourceVersion");
    access::set(metadata, "uid", new_uid());
    access::set(metadata, "creationTimestamp", now_text());
    // After name and uid: jobs derive their selector from them.
    rules.prepare_create(&mut object);
    admission::stamp(write, &mut object);

    let name = access::name(&object).to_owned();
    let errors = rules.validate(&object);
    if !errors.is_empty() {
        return Err(ApiError::invalid(
            &call.row.storage_gvk.group,
            &call.row.storage_gvk.kind,
            &name,
            errors,
        ));
    }
    for warning in rules.warnings(&object, None) {
        call.warn(warning);
    }
    admission::validate(write, Some(&object))?;
    Ok(object)
}

fn taken(call: &Call, name: &str, current: &Stored) -> ApiError {
    let mut error = ApiError::already_exists(&call.row.group, &call.row.plural, name);
    if current.head.deleting {
        error.message = format!("object is being deleted: {}", error.message);
    }
    error
}

/// A name with five random letters and digits (no vowels, nothing easily confused).
fn generate_name(prefix: &str) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut random = rand::rng();
    let mut name: String = prefix.chars().take(GENERATED_PREFIX_MAX).collect();
    for _ in 0..5 {
        let at = random.random_range(0..LETTERS.len());
        name.push(LETTERS.get(at).copied().unwrap_or(b'x') as char);
    }
    name
}

//! `PATCH`: JSON patch, merge patch, strategic merge patch and server-side apply.

use std::sync::Arc;

use coxswain_api::codec::Problem;
use coxswain_api::field::{FieldError, Path};
use coxswain_api::kinds::access;
use coxswain_api::{ApiError, apply, patch};
use coxswain_store::Stored;
use serde_json::Value;

use crate::answer::{self, Reply, now_text};
use crate::body;
use crate::call::Call;
use crate::options::WriteOptions;
use crate::verbs::create;
use crate::verbs::update::{Change, Manage, change};

/// The kinds of patch, by content type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PatchType {
    Json,
    Merge,
    Strategic,
    Apply,
}

impl PatchType {
    /// Reads the content type.
    ///
    /// # Errors
    /// 415.
    pub fn of(call: &Call) -> Result<Self, ApiError> {
        let media = call.content_type.split(';').next().unwrap_or_default().trim();
        match media {
            "application/json-patch+json" => Ok(Self::Json),
            "application/merge-patch+json" => Ok(Self::Merge),
            "application/strategic-merge-patch+json" if call.row.type_name.is_some() => Ok(Self::Strategic),
            "application/apply-patch+yaml" => Ok(Self::Apply),
            "application/strategic-merge-patch+json" => Err(ApiError::unsupported_media_type(&[
                "application/json-patch+json",
                "application/merge-patch+json",
                "application/apply-patch+yaml",
                "application/apply-patch+cbor",
            ])),
            _ => {
                let mut error = ApiError::new(415, "UnsupportedMediaType", "415: Unsupported Media Type");
                error.details = Some(serde_json::json!({}));
                Err(error)
            }
        }
    }
}

/// Runs the verb, on the object or on a subresource that shows the whole object.
pub(crate) async fn patch_object(call: &Call, sub: Option<&str>) -> Result<Reply, ApiError> {
    let (code, stored) = patch_stored(call, sub).await?;
    answer::stored(call, code, &stored)
}

async fn patch_stored(call: &Call, sub: Option<&str>) -> Result<(u16, Arc<Stored>), ApiError> {
    let kind = PatchType::of(call)?;
    let options = WriteOptions::from_call(call, "PatchOptions")?;
    if kind == PatchType::Apply {
        return apply_patch(call, &options, sub).await;
    }
    if options.force {
        let detail = "may not be specified for non-apply patch";
        let errors = vec![FieldError::forbidden(&Path::new("force"), detail)];
        return Err(ApiError::invalid("meta.k8s.io", "PatchOptions", "", errors));
    }
    if call.snapshot().get(&call.key(&call.path.name)).is_none() {
        return Err(call.not_found(&call.path.name));
    }
    let patch = body::decode_patch(&call.body, kind, options.validation)?;
    let change = Change {
        sub,
        manage: Manage::Update,
        check_uid: false,
        options: &options,
    };
    let stored = self::change(call, &change, |shown, _| apply_to(call, &options, kind, &patch, shown)).await?;
    Ok((200, stored))
}

/// Makes the patched object and checks it as a body would be.
fn apply_to(
    call: &Call,
    options: &WriteOptions,
    kind: PatchType,
    (patch, noted): &(Value, Vec<Problem>),
    shown: &Value,
) -> Result<Value, ApiError> {
    let mut made = match kind {
        PatchType::Json => patch::json_patch(shown, patch)?,
        PatchType::Merge => {
            let mut made = shown.clone();
            patch::merge_patch(&mut made, patch)?;
            made
        }
        PatchType::Strategic | PatchType::Apply => patch::strategic_merge(shown, patch, call.node())?,
    };
    if kind != PatchType::Strategic {
        body::check_patched_kind(call, &made)?;
    }
    let merged = (kind == PatchType::Strategic).then_some(patch);
    let of_kind = (call.node(), call.row.type_name);
    body::check_patched(call, of_kind, options.validation, (merged, noted), &mut made)?;
    Ok(made)
}

async fn apply_patch(call: &Call, options: &WriteOptions, sub: Option<&str>) -> Result<(u16, Arc<Stored>), ApiError> {
    if !options.manager_given {
        let errors = vec![FieldError::required(
            &Path::new("fieldManager"),
            "is required for apply patch",
        )];
        return Err(ApiError::invalid("meta.k8s.io", "PatchOptions", "", errors));
    }
    let (applied, problems) = body::decode_applied(&call.body)?;
    let gv = call.group_version();
    let now = now_text();
    let request = |live: Option<&Value>| {
        let object = apply::apply(&apply::ApplyRequest {
            live,
            applied: &applied,
            manager: &options.manager,
            force: options.force,
            gv: &gv,
            kind: &call.row.kind,
            subresource: sub.unwrap_or_default(),
            now: &now,
            node: call.node(),
        })?;
        body::report(call, options.validation, &problems)?;
        if live.is_none() {
            let uid = access::text(&object, "/metadata/uid");
            if !uid.is_empty() {
                let why =
                    format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
                let (group, plural) = (&call.row.group, &call.row.plural);
                return Err(ApiError::conflict(group, plural, &call.path.name, &why));
            }
        }
        body::check_applied(call, &object)?;
        Ok(object)
    };
    loop {
        if call.snapshot().get(&call.key(&call.path.name)).is_none() {
            if sub.is_some() {
                return Err(call.not_found(&call.path.name));
            }
            let object = request(None)?;
            match create::create_object(call, options, Manage::Applied, || Ok(object.clone())).await {
                Ok(stored) => return Ok((201, stored)),
                Err(error) if error.reason == "AlreadyExists" => continue,
                Err(error) => return Err(error),
            }
        }
        let change = Change {
            sub,
            manage: Manage::Applied,
            check_uid: true,
            options,
        };
        return match self::change(call, &change, |shown, _| request(Some(shown))).await {
            Ok(stored) => Ok((200, stored)),
            Err(error)
                if error.code == 404 && call.snapshot().get(&call.key(&call.path.name)).is_none() && sub.is_none() =>
            {
                continue;
            }
            Err(error) => Err(error),
        };
    }
}

//! Answers: objects, Status errors and texts as HTTP responses.
//!
//! Stored bytes go out as they are whenever plain JSON was asked for. Everything else (YAML, Table,
//! PartialObjectMetadata, indented JSON) is made here from the decoded object.

use axum::body::Body;
use bytes::Bytes;
use coxswain_api::codec::protobuf;
use coxswain_api::kinds::{Rules, access};
use coxswain_api::table::{self, IncludeObject};
use coxswain_api::{ApiError, codec};
use coxswain_store::Stored;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WARNING};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::call::{Call, encode};
use crate::negotiate::{Encoding, Form, View};

/// An HTTP answer.
pub(crate) type Reply = Response<Body>;

/// A response with a body and a content type.
pub(crate) fn raw(code: u16, content_type: &str, body: impl Into<Body>) -> Reply {
    let mut reply = Response::new(body.into());
    *reply.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Ok(value) = HeaderValue::from_str(content_type) {
        reply.headers_mut().insert(CONTENT_TYPE, value);
    }
    reply
}

/// A plain text answer.
pub(crate) fn text(code: u16, body: impl Into<Bytes>) -> Reply {
    let mut reply = raw(code, "text/plain; charset=utf-8", Body::from(body.into()));
    reply
        .headers_mut()
        .insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    reply
}

/// A document in the encoding asked for.
pub(crate) fn document(code: u16, value: &Value, encoding: Encoding, pretty: bool) -> Reply {
    let body = match (encoding, pretty) {
        (Encoding::Yaml, _) => Bytes::from(codec::to_yaml(value)),
        (Encoding::Protobuf, _) => match codec::encode_protobuf(value) {
            Some(body) => Bytes::from(body),
            // What has no such form (a version, a list of paths) is always JSON.
            None => return document(code, value, Encoding::Json, pretty),
        },
        (Encoding::Json, true) => {
            let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
            text.push(b'\n');
            Bytes::from(text)
        }
        (Encoding::Json, false) => {
            let mut text = serde_json::to_vec(value).unwrap_or_default();
            text.push(b'\n');
            Bytes::from(text)
        }
    };
    raw(code, encoding.media_type(), body)
}

/// An error as a Status (or as text, where Kubernetes answers text).
pub(crate) fn error(error: &ApiError, form: Form) -> Reply {
    if error.is_plain_text() {
        return text(error.code, error.message.clone());
    }
    let mut reply = document(error.code, &error.to_status(), form.encoding, form.pretty);
    if let Some(seconds) = error.retry_after_s {
        reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    reply
}

/// Letters of all warnings of an answer together, and of each once they are more than that.
const WARNINGS_LETTERS_MAX: usize = 4096;
const WARNING_LETTERS_MAX: usize = 256;

/// The warnings that are told: all, or when they are too long the beginnings of as many as fit.
fn fitting(warnings: &[String]) -> Vec<String> {
    let letters = |text: &String| text.chars().count();
    if warnings.iter().map(letters).sum::<usize>() <= WARNINGS_LETTERS_MAX {
        return warnings.to_vec();
    }
    let mut told = 0;
    let beginnings = warnings
        .iter()
        .map(|text| text.chars().take(WARNING_LETTERS_MAX).collect::<String>());
    beginnings
        .take_while(|text| {
            let fits = told < WARNINGS_LETTERS_MAX;
            told += letters(text);
            fits
        })
        .collect()
}

/// Puts the call's warnings into the answer's headers.
pub(crate) fn with_warnings(mut reply: Reply, warnings: &[String]) -> Reply {
    for warning in fitting(warnings) {
        let quoted: String = warning
            .chars()
            .filter(|c| !c.is_control())
            .flat_map(|c| match c {
                '"' | '\\' => vec!['\\', c],
                _ => vec![c],
            })
            .collect();
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            reply.headers_mut().append(WARNING, value);
        }
    }
    reply
}

/// One stored object in the form the call asked for.
pub(crate) fn stored(call: &Call, code: u16, stored: &Stored) -> Result<Reply, ApiError> {
    let form = call.form;
    if stored.revision == 0 {
        // What a dry run would have created has no version.
        let mut value = call.present(stored);
        access::remove(access::child(&mut value, "metadata"), "resourceVersion");
        return object(call, code, &value);
    }
    if form.view == View::Whole && form.encoding == Encoding::Protobuf {
        let body = protobuf::enclose(&call.group_version(), &call.row.kind, &call.message(stored));
        return Ok(raw(code, form.encoding.media_type(), body));
    }
    if form.view == View::Whole && form.encoding == Encoding::Json && !form.pretty && !call.converted() {
        let mut body = Vec::with_capacity(stored.bytes.len() + 64);
        for piece in call.object_bytes(stored) {
            body.extend_from_slice(&piece);
        }
        body.push(b'\n');
        return Ok(raw(code, "application/json", body));
    }
    object(call, code, &call.present(stored))
}

/// One object of the call's resource and version in the form the call asked for.
pub(crate) fn object(call: &Call, code: u16, value: &Value) -> Result<Reply, ApiError> {
    viewed(call, code, value, &*call.row.rules, |value| call.to_internal(value))
}

/// One object that is shown by `rules`, which know the form that `internal` makes of it.
pub(crate) fn viewed(
    call: &Call,
    code: u16,
    value: &Value,
    rules: &dyn Rules,
    internal: impl Fn(Value) -> Value,
) -> Result<Reply, ApiError> {
    let form = call.form;
    let value = match form.view {
        View::Whole => return Ok(document(code, value, form.encoding, form.pretty)),
        View::Partial => partial(value, form),
        View::Table => {
            let metadata = json!({"resourceVersion": access::text(value, "/metadata/resourceVersion")});
            let include = include_object(call)?;
            let mut table = table::table(rules, metadata, [&internal(value.clone())], include, true, now());
            set_versions(call, &mut table);
            table
        }
        View::PartialList => return Err(wrong_view(call)),
    };
    Ok(document(code, &value, form.encoding, form.pretty))
}

/// A Status or another object that has no views.
pub(crate) fn plain(call: &Call, code: u16, value: &Value) -> Reply {
    document(code, value, call.form.encoding, call.form.pretty)
}

/// 406 for metadata of one object asked of a list, or the other way round.
pub(crate) fn wrong_view(call: &Call) -> ApiError {
    // Kubernetes names its internal type, whose package is the first word of the group.
    let package = match call.row.storage_gvk.group.split('.').next() {
        None | Some("") | Some("events") => "core",
        Some(first) => first,
    };
    let message = match call.form.view {
        View::Partial => format!(
            "you requested PartialObjectMetadata, but the requested object is a list (*{package}.{})",
            call.row.list_kind
        ),
        _ => format!(
            "you requested PartialObjectMetadataList, but the requested object is not a list (*{package}.{})",
            call.row.kind
        ),
    };
    ApiError::new(406, "NotAcceptable", message)
}

/// Tables are made in the current version of their group, of objects in the rules' shape: brings both to the versions
/// that were asked for.
pub(crate) fn set_versions(call: &Call, table: &mut Value) {
    if !call.form.beta_view && !call.converted() {
        return;
    }
    access::set(table, "apiVersion", call.form.view_version());
    for row in table
        .get_mut("rows")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        match row.get_mut("object") {
            Some(object) if object["kind"] == "PartialObjectMetadata" => {
                access::set(object, "apiVersion", call.form.view_version());
            }
            Some(object) if object["kind"] == *call.row.storage_gvk.kind => *object = call.to_versioned(object.take()),
            _ => {}
        }
    }
}

/// The PartialObjectMetadata of an object.
pub(crate) fn partial(value: &Value, form: Form) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": form.view_version(),
        "metadata": access::get(value, "metadata"),
    })
}

/// What a Table row carries, from the `includeObject` parameter.
pub(crate) fn include_object(call: &Call) -> Result<IncludeObject, ApiError> {
    match call.query.text("includeObject") {
        "" | "Metadata" => Ok(IncludeObject::Metadata),
        "None" => Ok(IncludeObject::None),
        "Object" => Ok(IncludeObject::Object),
        other => Err(ApiError::bad_request(format!(
            "Unable to convert to Table as requested: includeObject: Invalid value: {other:?}: must be 'Metadata', 'Object', 'None', or empty"
        ))),
    }
}

/// The current time, for ages and stamps.
pub(crate) fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

/// A random identifier, from this thread's generator: asking the kernel for each takes ten times as long.
pub(crate) fn new_uid() -> String {
    uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string()
}

/// The current time as Kubernetes writes it in `creationTimestamp`: whole seconds, UTC.
pub(crate) fn now_text() -> String {
    format!("{:.0}", now())
}

/// Bytes of a single JSON line, for watch frames.
pub(crate) fn line(value: &Value) -> Bytes {
    let mut bytes = encode(value).to_vec();
    bytes.push(b'\n');
    Bytes::from(bytes)
}

#[cfg(test)]
mod tests {
    #[test]
    fn warnings_fit() {
        let long = |count: usize, letters: usize| vec!["x".repeat(letters); count];
        let cases = [
            (long(2, 2048), (2, 2048)),
            (long(2, 2049), (2, 256)),
            (long(100, 40), (100, 40)),
            (long(200, 40), (103, 40)),
            (long(20, 300), (16, 256)),
        ];
        for (warnings, expected) in cases {
            let told = super::fitting(&warnings);
            let longest = told.iter().map(String::len).max().unwrap_or(0);
            assert_eq!((told.len(), longest), expected, "{} warnings", warnings.len());
        }
    }
}

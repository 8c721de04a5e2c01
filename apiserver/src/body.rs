//! Request bodies: objects, patches and applied configurations.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use coxswain_api::ApiError;
use coxswain_api::codec::{self, Limits, Media, Problem, Reader, Validation};
use coxswain_api::field::{FieldError, Path};
use coxswain_api::kinds::access;
use coxswain_api::registry::Gvk;
use coxswain_api::schema::Node;
use http::Request;
use http::header::{CONTENT_LENGTH, EXPECT};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::Value;

use crate::call::Call;
use crate::negotiate::body_media;
use crate::pipeline::text_header;
use crate::verbs::update::misnamed;

/// Largest request body in bytes.
const BODY_BYTES_MAX: usize = 3 << 20;
/// Most bytes of a refused body that are thrown away, and for how long.
const DISCARDED_BYTES_MAX: usize = 16 << 20;
const DISCARDED_FOR_MAX: Duration = Duration::from_secs(1);

/// Reads a request's body to its end.
pub(crate) async fn read(request: Request<Body>) -> Result<Bytes, ApiError> {
    let announced = text_header(request.headers(), &CONTENT_LENGTH);
    let announced_too_much = announced.parse::<usize>().is_ok_and(|bytes| bytes > BODY_BYTES_MAX);
    let asks_first = request.headers().contains_key(EXPECT);
    let mut body = request.into_body();
    if announced_too_much {
        if !asks_first {
            discard(body).await;
        }
        return Err(ApiError::body_too_large(BODY_BYTES_MAX));
    }
    match Limited::new(&mut body, BODY_BYTES_MAX).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.downcast_ref::<LengthLimitError>().is_some() => {
            discard(body).await;
            Err(ApiError::body_too_large(BODY_BYTES_MAX))
        }
        Err(error) => Err(ApiError::bad_request(format!(
            "error reading the request body: {error}"
        ))),
    }
}

/// Throws away what a client still sends of a refused body, some of it and for a moment: a connection that is closed
/// under a client that writes loses the answer too.
async fn discard(mut body: Body) {
    let some = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > DISCARDED_BYTES_MAX {
                return;
            }
        }
    };
    // Whether it came to its end or not, the answer is the same.
    let _ = tokio::time::timeout(DISCARDED_FOR_MAX, some).await;
}

/// Reads the body as a bare value.
pub(crate) fn decode_value(call: &Call) -> Result<Value, ApiError> {
    let limits = Limits::default();
    Ok(match body_media(&call.content_type)? {
        Media::Json => codec::decode_json(&call.body, &limits)?.0,
        Media::Yaml => codec::decode_yaml(&call.body, &limits)?.0,
        Media::Protobuf => codec::decode_protobuf(&call.body, &limits)?,
    })
}

/// Reads the body as an object of the call's own kind and checks that it belongs to the request's
/// namespace.
pub(crate) fn decode_object(call: &Call, validation: Validation) -> Result<Value, ApiError> {
    let value = decode_kind(call, &call.row.gvk(), call.node(), validation)?;
    check_namespace(call, &value)?;
    Ok(value)
}

/// Reads the body as an object of another kind (a subresource's).
pub(crate) fn decode_kind(
    call: &Call,
    expected: &Gvk,
    node: Node<'_>,
    validation: Validation,
) -> Result<Value, ApiError> {
    let media = body_media(&call.content_type)?;
    let decoded = codec::decode_object(&call.body, media, expected, node, validation, &Limits::default())?;
    for warning in decoded.warnings {
        call.warn(warning);
    }
    Ok(decoded.value)
}

/// Reads the body as an object of a built-in kind.
pub(crate) fn decode_builtin(call: &Call, expected: &Gvk, validation: Validation) -> Result<Value, ApiError> {
    let node = expected.type_name().and_then(Node::of_type).unwrap_or(Node::Untyped);
    let value = decode_kind(call, expected, node, validation)?;
    check_namespace(call, &value)?;
    Ok(value)
}

fn check_namespace(call: &Call, value: &Value) -> Result<(), ApiError> {
    let given = access::namespace(value);
    if call.row.namespaced && !given.is_empty() && given != call.namespace() {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// Reads a patch, which is an object or (for JSON patches) a list.
pub(crate) fn decode_patch(body: &[u8], list: bool) -> Result<Value, ApiError> {
    let (value, _) = codec::decode_json(body, &Limits::default())?;
    let fits = if list { value.is_array() } else { value.is_object() };
    if fits {
        return Ok(value);
    }
    let wanted = if list { "an array of operations" } else { "an object" };
    Err(ApiError::bad_request(format!(
        "error decoding patch: the patch must be {wanted}"
    )))
}

/// A patch may take the version and kind away, but not change them.
pub(crate) fn check_patched_kind(call: &Call, made: &Value) -> Result<(), ApiError> {
    let (version, kind) = (access::str_of(made, "apiVersion"), access::str_of(made, "kind"));
    let fits = |given: &str, own: &str| given.is_empty() || given == own;
    if call.row.type_name.is_none() || fits(version, &call.group_version()) && fits(kind, &call.row.kind) {
        return Ok(());
    }
    let why = format!(
        "no kind {kind:?} is registered for version {version:?} in scheme \"pkg/api/legacyscheme/scheme.go:30\""
    );
    Err(unfit(made.to_string(), why))
}

/// Brings a patched object into the form a body of this type would have been brought into. `merged` is the strategic
/// merge patch that made it: what is wrong is then said in the words of Kubernetes' converter, and of the decoder
/// otherwise.
pub(crate) fn check_patched(
    call: &Call,
    (node, type_name): (Node<'_>, Option<&'static str>),
    validation: Validation,
    merged: Option<&Value>,
    made: &mut Value,
) -> Result<(), ApiError> {
    let whole = (validation == Validation::Strict && merged.is_none()).then(|| made.to_string());
    let reader = merged.map_or(Reader::Decoder, |_| Reader::Converter);
    let problems = codec::check_value(made, node, reader)
        .map_err(|why| unfit(merged.map_or_else(|| made.to_string(), go_form), why))?;
    if let Some(type_name) = type_name {
        codec::go_form(made, type_name);
    }
    if problems.is_empty() {
        return Ok(());
    }
    match validation {
        Validation::Ignore => Ok(()),
        Validation::Warn => {
            problems.into_iter().for_each(|problem| call.warn(problem.text));
            Ok(())
        }
        Validation::Strict => {
            let shown = whole.or(merged.map(go_form)).unwrap_or_default();
            Err(unfit(shown, codec::strict_sentence(&problems)))
        }
    }
}

/// 422 for a patch that makes no valid object: the strategic patch or, of others, what they made.
fn unfit(shown: String, why: String) -> ApiError {
    let errors = vec![FieldError::invalid(&Path::new("patch"), shown, why)];
    ApiError::invalid("", "", "", errors)
}

/// Duplicate keys of an applied configuration.
pub(crate) fn report(call: &Call, validation: Validation, problems: Vec<Problem>) -> Result<(), ApiError> {
    match validation {
        Validation::Strict if !problems.is_empty() => Err(ApiError::bad_request(format!(
            "error decoding YAML: {}",
            codec::strict_sentence(&problems)
        ))),
        Validation::Warn => {
            problems.into_iter().for_each(|problem| call.warn(problem.text));
            Ok(())
        }
        _ => Ok(()),
    }
}

/// An applied configuration must be about the object in the path.
pub(crate) fn check_applied(call: &Call, applied: &Value) -> Result<(), ApiError> {
    check_namespace(call, applied)?;
    let name = access::name(applied);
    if !name.is_empty() && name != call.path.name {
        return Err(misnamed(call, name));
    }
    Ok(())
}

/// A value as Go prints it with `%v`.
fn go_form(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(go_form).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let members: Vec<String> = map
                .iter()
                .map(|(key, value)| format!("{key}:{}", go_form(value)))
                .collect();
            format!("map[{}]", members.join(" "))
        }
        other => other.to_string(),
    }
}

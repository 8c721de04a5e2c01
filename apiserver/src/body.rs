//! Request bodies: objects, patches and applied configurations.

use std::collections::HashSet;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use coxswain_api::ApiError;
use coxswain_api::codec::{self, Limits, Media, Problem, Reader, Validation, json_type};
use coxswain_api::field::{FieldError, Path};
use coxswain_api::kinds::access;
use coxswain_api::registry::{Gvk, split_api_version};
use coxswain_api::schema::Node;
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, EXPECT};
use http_body::Body as _;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::Value;

use crate::call::Call;
use crate::negotiate::body_media;
use crate::pipeline::text_header;
use crate::serve::holder::{Holder, NotReceived, unreadable};
use crate::serve::usage::Reservation;
use crate::shared::{OBJECT_JSON_BYTES_MAX, object_too_large};
use crate::verbs::patch::PatchType;
use crate::verbs::update::{misnamed, nameless};

/// Largest request body in bytes.
const BODY_BYTES_MAX: usize = 3 << 20;
/// Bodies that nothing makes too large an object of.
const SMALL_BYTES: usize = 32 << 10;
/// Most members that are said to be unknown in one JSON patch.
const PROBLEMS_MAX: usize = 100;
/// Most bytes of a refused body that are thrown away, and for how long.
const DISCARDED_BYTES_MAX: usize = 16 << 20;
const DISCARDED_FOR_MAX: Duration = Duration::from_secs(1);

/// A request's body where a verb finds it.
pub(crate) enum RequestBody {
    /// It was received, or why it was not.
    Received(Result<Bytes, ApiError>),
    /// It goes on to another server as it comes.
    Passed(Body),
}

/// Reads a request's body to its end, for a holder whose memory it is (none in this process). What is held counts until the
/// second value is dropped.
pub(crate) async fn read(
    headers: &HeaderMap,
    mut body: Body,
    holder: Option<&Holder>,
) -> (Result<Bytes, ApiError>, Option<Reservation>) {
    let announced = text_header(headers, &CONTENT_LENGTH);
    let announced_too_much = announced.parse::<usize>().is_ok_and(|bytes| bytes > BODY_BYTES_MAX);
    let asks_first = headers.contains_key(EXPECT);
    if announced_too_much {
        if !asks_first {
            discard(body).await;
        }
        return (Err(ApiError::body_too_large(BODY_BYTES_MAX)), None);
    }
    if body.is_end_stream() {
        return (Ok(Bytes::new()), None);
    }
    let received = match holder {
        Some(holder) => match holder.receive(&mut body, BODY_BYTES_MAX).await {
            Ok((bytes, held)) => Ok((bytes, Some(held))),
            Err(why) => Err(why),
        },
        None => match Limited::new(&mut body, BODY_BYTES_MAX).collect().await {
            Ok(collected) => Ok((collected.to_bytes(), None)),
            Err(error) if error.downcast_ref::<LengthLimitError>().is_some() => Err(NotReceived::TooLarge),
            Err(error) => Err(NotReceived::Other(unreadable(&error))),
        },
    };
    match received {
        Ok((bytes, held)) => (Ok(bytes), held),
        Err(NotReceived::TooLarge) => {
            discard(body).await;
            (Err(ApiError::body_too_large(BODY_BYTES_MAX)), None)
        }
        Err(NotReceived::Other(error)) => (Err(error), None),
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
    let mut value = decode_kind(call, &call.row.gvk(), call.node(), validation)?;
    check_namespace(call, &value)?;
    drop_doubled_owners(call, &mut value, "");
    Ok(value)
}

/// Takes out owners that are named twice, with a warning that says `when`.
pub(crate) fn drop_doubled_owners(call: &Call, object: &mut Value, when: &str) {
    let owners = object
        .pointer_mut("/metadata/ownerReferences")
        .and_then(Value::as_array_mut);
    let Some(owners) = owners else { return };
    if owners.len() < 2 {
        return;
    }
    let mut seen = HashSet::with_capacity(owners.len());
    let mut doubled = Vec::new();
    owners.retain(|owner| {
        let is_new = seen.insert(owner.to_string());
        if !is_new {
            doubled.push(access::str_of(owner, "uid").to_owned());
        }
        is_new
    });
    if !doubled.is_empty() {
        call.warn(format!(
            ".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+, \
             and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
            doubled.join(", ")
        ));
    }
}

/// Says that owners were doubled when admission was done, which is the first look at those that a patch made.
pub(crate) const AFTER_ADMISSION: &str = " after mutating admission happens";

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

/// Reads a patch, with the keys that occur twice and the members that no operation of a JSON patch has.
///
/// # Errors
/// 400 in the words of the reader that Kubernetes asks.
pub(crate) fn decode_patch(
    body: &[u8],
    kind: PatchType,
    validation: Validation,
) -> Result<(Value, Vec<Problem>), ApiError> {
    let lenient = validation == Validation::Ignore;
    let refused = |why: &str| match (kind, lenient) {
        (PatchType::Merge, true) => ApiError::bad_request("Invalid JSON Patch"),
        (PatchType::Strategic, _) | (PatchType::Json, true) => ApiError::bad_request(why),
        _ => ApiError::bad_request(format!("error decoding patch: {why}")),
    };
    let (value, mut problems) = codec::decode_json(body, &Limits::default()).map_err(|error| match error.code {
        400 => refused(&error.message),
        _ => error,
    })?;
    let wrong = |value: &Value, go_type: &str| {
        let why = format!("json: cannot unmarshal {} into Go {go_type}", json_type(value));
        Err(refused(&why))
    };
    match (kind, value) {
        // Nothing to do is not wrong; but a merge patch would make nothing of the object.
        (PatchType::Json, Value::Null) => Ok((Value::Array(Vec::new()), problems)),
        (PatchType::Strategic, Value::Null) => Ok((Value::Object(serde_json::Map::new()), problems)),
        (PatchType::Merge, Value::Null) => Err(ApiError::bad_request("Invalid JSON Patch")),
        (PatchType::Json, Value::Array(operations)) => {
            let (element, member) = match lenient {
                true => ("value of type jsonpatch.Operation", None),
                false => ("value of type handlers.jsonPatchOp", Some("struct field jsonPatchOp")),
            };
            for operation in &operations {
                match operation {
                    Value::Null => {}
                    Value::Object(members) => {
                        let texts = ["op", "path", "from"].map(|name| (name, members.get(name)));
                        for (name, given) in texts {
                            match (member, given) {
                                (_, None | Some(Value::Null | Value::String(_))) | (None, _) => {}
                                (Some(of), Some(given)) => {
                                    return wrong(given, &format!("{of}.{name} of type string"));
                                }
                            }
                        }
                    }
                    other => return wrong(other, element),
                }
            }
            problems.extend(unknown_members(&operations));
            problems
                .iter_mut()
                .for_each(|problem| problem.text = format!("json patch {}", problem.text));
            Ok((Value::Array(operations), problems))
        }
        (PatchType::Json, other) if lenient => wrong(&other, "value of type jsonpatch.Patch"),
        (PatchType::Json, other) => wrong(&other, "value of type []handlers.jsonPatchOp"),
        (_, Value::Object(members)) => Ok((Value::Object(members), problems)),
        (_, other) => wrong(&other, "value of type map[string]interface {}"),
    }
}

/// What the operations of a JSON patch hold that means nothing.
fn unknown_members(operations: &[Value]) -> Vec<Problem> {
    const KNOWN: [&str; 4] = ["op", "path", "from", "value"];
    let members = operations.iter().enumerate().flat_map(|(index, operation)| {
        let members = operation.as_object().into_iter().flatten();
        members.map(move |(name, _)| (index, name))
    });
    members
        .filter(|(_, name)| !KNOWN.contains(&name.as_str()))
        .take(PROBLEMS_MAX)
        .map(|(index, name)| {
            let path = format!("[{index}].{name}");
            let text = format!("unknown field \"{path}\"");
            Problem {
                path,
                text,
                from_yaml: false,
            }
        })
        .collect()
}

/// A patch may take the version and kind away, but not change them.
pub(crate) fn check_patched_kind(call: &Call, made: &Value) -> Result<(), ApiError> {
    let own = call.row.gvk();
    let (group, version) = match access::str_of(made, "apiVersion") {
        "" => (&*own.group, &*own.version),
        given => split_api_version(given),
    };
    let kind = match access::str_of(made, "kind") {
        "" => &*own.kind,
        given => given,
    };
    let found = Gvk::new(group, version, kind);
    if call.row.type_name.is_none() || found == own {
        return Ok(());
    }
    let other_version = || format!("no kind {kind:?} is registered for version {:?}", found.api_version());
    let why = codec::unreadable_as(&found, &own).unwrap_or_else(other_version);
    Err(unfit(made.to_string(), why))
}

/// Brings a patched object into the form a body of this type would have been brought into. `merged` is the strategic
/// merge patch that made it: what is wrong is then said in the words of Kubernetes' converter, and of the decoder
/// otherwise. `noted` is what was wrong with the patch.
pub(crate) fn check_patched(
    call: &Call,
    (node, type_name): (Node<'_>, Option<&'static str>),
    validation: Validation,
    (merged, noted): (Option<&Value>, &[Problem]),
    made: &mut Value,
) -> Result<(), ApiError> {
    let whole = (validation == Validation::Strict && merged.is_none()).then(|| made.to_string());
    let reader = merged.map_or(Reader::Decoder, |_| Reader::Converter);
    let found = codec::check_value(made, node, reader)
        .map_err(|why| unfit(merged.map_or_else(|| made.to_string(), go_form), why))?;
    let problems = [noted, &found].concat();
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

/// Reads an applied configuration, with its duplicate keys.
///
/// # Errors
/// 400.
pub(crate) fn decode_applied(body: &[u8]) -> Result<(Value, Vec<Problem>), ApiError> {
    let refused = |why: &str| ApiError::bad_request(format!("error decoding YAML: {why}"));
    let (value, problems) = codec::decode_yaml(body, &Limits::default()).map_err(|error| match error.code {
        400 => refused(&error.message),
        _ => error,
    })?;
    match &value {
        Value::Null | Value::Object(_) => Ok((value, problems)),
        other => Err(refused(&format!(
            "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {} into Go value of type \
             map[string]interface {{}}",
            json_type(other)
        ))),
    }
}

/// Tells of the duplicate keys of an applied configuration.
pub(crate) fn report(call: &Call, validation: Validation, problems: &[Problem]) -> Result<(), ApiError> {
    let texts = || problems.iter().map(|problem| problem.text.clone());
    match validation {
        Validation::Strict if !problems.is_empty() => Err(ApiError::bad_request(format!(
            "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  {}",
            texts().collect::<Vec<_>>().join("\n  ")
        ))),
        Validation::Warn => {
            texts().for_each(|text| call.warn(text));
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Refuses an object that became larger than any may be before admission adds to it: what it adds to each container is
/// more than a container needs to say.
pub(crate) fn check_size(call: &Call, object: &Value) -> Result<(), ApiError> {
    if call.body.len() <= SMALL_BYTES || json_bytes(object) <= OBJECT_JSON_BYTES_MAX {
        return Ok(());
    }
    Err(object_too_large())
}

/// The length of a value's JSON.
fn json_bytes(value: &Value) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    // Neither counting nor a value can fail.
    let _ = serde_json::to_writer(&mut count, value);
    count.0
}

/// What was made of an applied configuration must be the object in the path.
pub(crate) fn check_applied(call: &Call, object: &Value) -> Result<(), ApiError> {
    check_namespace(call, object)?;
    match access::name(object) {
        "" => Err(nameless(call)),
        name if name != call.path.name => Err(misnamed(call, name)),
        _ => Ok(()),
    }
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

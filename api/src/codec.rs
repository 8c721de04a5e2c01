//! From request bytes to a checked object, and back.
//!
//! Decoding has two steps. The syntax step ([`decode_json`], [`decode_yaml`]) turns bytes into a [`Value`]
//! and notes keys that occur twice. The type step ([`check_fields`]) compares the value with its schema: it
//! drops unknown fields, refuses wrong types, and leaves the object in the form in which a Kubernetes server
//! would print it again (canonical quantities and times, no nulls, no empty optional fields).
//! [`decode_object`] does both and words the answer.
//!
//! Bounds: bytes, nesting depth, the number of values and the memory that they take are limited by [`Limits`]. All are
//! charged before a value is built, for every syntax, so that nothing that multiplies (aliases and merge keys of YAML,
//! the nodes of small objects) is ever larger than its limit.

use serde_json::Value;

use crate::registry::{Gvk, split_api_version};
use crate::schema::{Node, type_ref};
use crate::status::ApiError;

mod check;
mod emit;
mod json;
pub mod protobuf;
mod syntax;
pub mod weight;
mod yaml;

pub use check::{Reader, go_form};
pub use emit::to_yaml;
pub use protobuf::{decode_protobuf, encode_protobuf};
pub use yaml::{Document, Spans, YamlError, decode_yaml_documents};

/// What to do about unknown and duplicate fields (`fieldValidation`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validation {
    Strict,
    Warn,
    Ignore,
}

/// The syntax of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    Json,
    Yaml,
    /// Kubernetes' protobuf form, for built-in kinds.
    Protobuf,
}

/// How much is read before giving up.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub bytes_max: usize,
    /// Nesting of lists and objects.
    pub depth_max: usize,
    /// Values altogether, aliases expanded.
    pub values_max: usize,
    /// Bytes of memory that the values take, see [`weight`].
    pub memory_max: usize,
}

impl Default for Limits {
    /// What Kubernetes accepts: 3 MiB. Objects that people write take five to fifteen times their text as values.
    fn default() -> Self {
        Self {
            bytes_max: 3 * 1024 * 1024,
            depth_max: 120,
            values_max: 2_000_000,
            memory_max: 32 * 1024 * 1024,
        }
    }
}

/// Something tolerable that a client should know: a duplicate or unknown field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field, as `spec.containers[0].name`.
    pub path: String,
    /// Kubernetes' words, as in a Warning header.
    pub text: String,
    /// Whether the text came from the YAML reader, which words several at once differently.
    pub from_yaml: bool,
}

/// An object that passed both steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    pub value: Value,
    /// Texts for Warning headers.
    pub warnings: Vec<String>,
}

/// Most problems that are listed for one body, and the bytes of text after which no more are.
const PROBLEMS_MAX: usize = 100;
const PROBLEM_BYTES_MAX: usize = 64 * 1024;

/// Adds a problem as long as there are few.
fn note(problems: &mut Vec<Problem>, problem: Problem) {
    let told: usize = problems.iter().map(|problem| problem.text.len()).sum();
    if problems.len() < PROBLEMS_MAX && told < PROBLEM_BYTES_MAX {
        problems.push(problem);
    }
}

/// Reads JSON. A key that occurs twice keeps its last value and is a [`Problem`].
pub fn decode_json(bytes: &[u8], limits: &Limits) -> Result<(Value, Vec<Problem>), ApiError> {
    json::decode(bytes, limits).map_err(refuse)
}

/// Reads one YAML document (further documents are ignored, as Kubernetes does), with YAML 1.1 scalars:
/// `yes` is true, `0644` is octal. A key that occurs twice keeps its last value and is a [`Problem`].
pub fn decode_yaml(bytes: &[u8], limits: &Limits) -> Result<(Value, Vec<Problem>), ApiError> {
    yaml::decode(bytes, limits).map_err(refuse)
}

/// Compares an object with its type and leaves it as Kubernetes would print it. Unknown fields are dropped
/// and returned as warnings, or refused under [`Validation::Strict`].
pub fn check_fields(value: &mut Value, type_name: &str, validation: Validation) -> Result<Vec<String>, ApiError> {
    let node = Node::of_type(type_name).unwrap_or(Node::Untyped);
    let mut problems = Vec::new();
    check::check(value, node, Reader::Decoder, &mut problems).map_err(ApiError::bad_request)?;
    check::complete(value, node);
    match validation {
        Validation::Ignore => Ok(Vec::new()),
        Validation::Warn => Ok(texts(&problems)),
        Validation::Strict if problems.is_empty() => Ok(Vec::new()),
        Validation::Strict => Err(ApiError::bad_request(strict_sentence(&problems))),
    }
}

/// As [`check_fields`] without the final completion: for objects that will be merged further.
/// The error is the bare sentence of the reader; the problems are in sorted order of the fields.
pub fn check_value(value: &mut Value, node: Node<'_>, reader: Reader) -> Result<Vec<Problem>, String> {
    let mut problems = Vec::new();
    check::check(value, node, reader, &mut problems)?;
    Ok(problems)
}

/// Reads a whole request body as an object of the expected kind. A missing `apiVersion` or `kind` is
/// filled in; another kind or version is refused.
pub fn decode_object(
    bytes: &[u8],
    media: Media,
    expected: &Gvk,
    node: Node<'_>,
    validation: Validation,
    limits: &Limits,
) -> Result<Decoded, ApiError> {
    let decoded = match media {
        Media::Json => json::decode(bytes, limits),
        Media::Yaml => yaml::decode(bytes, limits),
        Media::Protobuf => Ok((from_protobuf(bytes, expected, limits)?, Vec::new())),
    };
    let (mut value, mut problems) = decoded.map_err(|failure| unrecognised(failure, expected, bytes))?;
    if value.is_null() {
        value = Value::Object(serde_json::Map::new());
    }
    let found = found_kind(&mut value, expected, bytes)?;
    let cannot = |why: String| {
        let subject = format!("{} in version {:?}", found.kind, &*found.version);
        ApiError::bad_request(format!("{subject} cannot be handled as a {}: {why}", expected.kind))
    };
    if let (true, Some(why)) = (expected.type_name().is_some(), unreadable_as(&found, expected)) {
        return Err(cannot(why));
    }
    if found.group != expected.group || found.version != expected.version {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({}) does not match the expected API version ({})",
            found.api_version(),
            expected.api_version()
        )));
    }
    if found.kind != expected.kind {
        return Err(cannot(format!(
            "no conversion from {} to {} is known",
            found.kind, expected.kind
        )));
    }
    let mut unknown = Vec::new();
    check::check(&mut value, node, Reader::Decoder, &mut unknown).map_err(cannot)?;
    check::complete(&mut value, node);
    // Nobody looks inside an unknown field.
    problems.retain(|problem| problem.from_yaml || !unknown.iter().any(|outer| is_inside(&problem.path, &outer.path)));
    problems.append(&mut unknown);
    if media == Media::Json && problems.len() > 1 {
        json::sort_by_position(bytes, &mut problems);
    }
    problems.truncate(PROBLEMS_MAX);
    let warnings = match validation {
        Validation::Ignore => Vec::new(),
        Validation::Warn => texts(&problems),
        Validation::Strict if problems.is_empty() => Vec::new(),
        Validation::Strict => return Err(cannot(strict_sentence(&problems))),
    };
    Ok(Decoded { value, warnings })
}

/// Why an object of one kind cannot be read as one of another, which is built in. `None` when there are versions of one
/// kind to convert.
pub fn unreadable_as(found: &Gvk, expected: &Gvk) -> Option<String> {
    let (kind, version) = (&*found.kind, &*found.version);
    let same = found.kind == expected.kind && (found.group == expected.group || kind == "Event");
    if found.type_name().is_none() && found != expected {
        return Some(format!(
            "no kind {kind:?} is registered for version {:?} in scheme \"pkg/api/legacyscheme/scheme.go:30\"",
            found.api_version()
        ));
    }
    let package = match &*expected.group {
        "" | "events.k8s.io" => "core",
        group => group.split('.').next().unwrap_or(group),
    };
    let to = format!("{package}.{}", expected.kind);
    (!same).then(|| format!("converting ({version}.{kind}) to ({to}): unknown conversion"))
}

/// Reads a protobuf body. An object of another kind than expected is not read, only named.
fn from_protobuf(bytes: &[u8], expected: &Gvk, limits: &Limits) -> Result<Value, ApiError> {
    if bytes.len() > limits.bytes_max {
        return Err(ApiError::body_too_large(limits.bytes_max));
    }
    let parts = protobuf::envelope(bytes).map_err(|why| {
        ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): {why} ({})",
            expected.kind,
            summary(bytes)
        ))
    })?;
    let (group, version) = match parts.api_version.as_str() {
        "" => (&*expected.group, &*expected.version),
        given => split_api_version(given),
    };
    let kind = if parts.kind.is_empty() {
        &expected.kind
    } else {
        parts.kind.as_str()
    };
    let read = match Gvk::new(group, version, kind).type_name().and_then(type_ref) {
        Some(reference) => parts.object(reference, limits),
        None if expected.type_name().is_some() => return Ok(protobuf::bare(&parts.api_version, &parts.kind)),
        None => Err(
            "object *unstructured.Unstructured does not implement the protobuf marshalling interface and \
             cannot be encoded to a protobuf message"
                .to_owned(),
        ),
    };
    read.map_err(|why| {
        let subject = format!("{kind} in version {version:?}");
        ApiError::bad_request(format!("{subject} cannot be handled as a {}: {why}", expected.kind))
    })
}

/// `strict decoding error: unknown field "a", duplicate field "b"`.
pub fn strict_sentence(problems: &[Problem]) -> String {
    let mut parts: Vec<String> = Vec::new();
    let yaml: Vec<&str> = problems
        .iter()
        .filter(|p| p.from_yaml)
        .map(|p| p.text.as_str())
        .collect();
    if !yaml.is_empty() {
        parts.push(format!("yaml: unmarshal errors:\n  {}", yaml.join("\n  ")));
    }
    parts.extend(problems.iter().filter(|p| !p.from_yaml).map(|p| p.text.clone()));
    format!("strict decoding error: {}", parts.join(", "))
}

/// Whether `path` is `outer` or below it.
fn is_inside(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// Why the syntax step failed.
#[derive(Debug)]
enum Failure {
    TooLarge(usize),
    /// The values would take more memory than this, in bytes.
    TooHeavy(usize),
    Syntax(String),
}

/// 413 for a document whose values take more than `memory_max` bytes of memory.
pub(crate) fn too_heavy(memory_max: usize) -> ApiError {
    ApiError::too_large(format!(
        "Request entity too large: its values take more than {memory_max} bytes of memory; send fewer or larger ones"
    ))
}

fn refuse(failure: Failure) -> ApiError {
    match failure {
        Failure::TooLarge(bytes_max) => ApiError::body_too_large(bytes_max),
        Failure::TooHeavy(memory_max) => too_heavy(memory_max),
        Failure::Syntax(why) => ApiError::bad_request(why),
    }
}

fn unrecognised(failure: Failure, expected: &Gvk, bytes: &[u8]) -> ApiError {
    match failure {
        Failure::TooLarge(_) | Failure::TooHeavy(_) => refuse(failure),
        Failure::Syntax(why) => ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): couldn't get version/kind; json parse error: {why} ({})",
            expected.kind,
            summary(bytes)
        )),
    }
}

/// The first 30 bytes in hexadecimal or as text, as Kubernetes quotes a body it cannot read.
fn summary(bytes: &[u8]) -> String {
    let head = bytes.get(..bytes.len().min(30)).unwrap_or(&[]);
    let more = if bytes.len() > 30 { " ..." } else { "" };
    match (bytes.is_empty(), bytes.first()) {
        (true, _) => "<empty>".into(),
        (_, Some(b'{')) => format!("{}{more}", String::from_utf8_lossy(head)),
        _ => head.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + more,
    }
}

/// What Kubernetes reads version and kind into, in Go's words.
const KINDS: &str = "struct { APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \
                     \"json:\\\"kind,omitempty\\\"\" }";

/// The type of a value as Go's reader of JSON names it.
pub fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Fills in a missing `apiVersion` and `kind`, and says what the object claims to be.
fn found_kind(value: &mut Value, expected: &Gvk, bytes: &[u8]) -> Result<Gvk, ApiError> {
    let Some(map) = value.as_object_mut() else {
        let why = format!(
            "json: cannot unmarshal {} into Go value of type {KINDS}",
            json_type(value)
        );
        return Err(unrecognised(Failure::Syntax(why), expected, bytes));
    };
    let text = |key: &str| match map.get(key) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(unrecognised(
            Failure::Syntax(format!(
                "json: cannot unmarshal {} into Go struct field .{key} of type string",
                json_type(other)
            )),
            expected,
            bytes,
        )),
    };
    let (mut api_version, mut kind) = (text("apiVersion")?, text("kind")?);
    if api_version.is_empty() {
        api_version = expected.api_version();
    }
    if kind.is_empty() {
        kind = expected.kind.to_string();
    }
    let (group, version) = split_api_version(&api_version);
    let found = Gvk::new(group, version, &kind);
    map.insert("apiVersion".into(), api_version.into());
    map.insert("kind".into(), kind.into());
    Ok(found)
}

fn texts(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(|problem| problem.text.clone()).collect()
}

#[cfg(test)]
mod recorded;
#[cfg(test)]
pub(crate) mod tests;

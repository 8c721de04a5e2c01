//! Field paths and field errors, in the words that Kubernetes clients parse.
//!
//! A [`Path`] names a place in an object (`spec.containers[0].name`, `metadata.labels[app]`); a
//! [`FieldError`] says what is wrong there. Both render exactly as Kubernetes renders them, because the
//! texts and the `causes` of a `Status` are part of the wire.

use std::collections::HashSet;
use std::fmt::{self, Display, Write};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::codec::weight;

/// A place in an object. Cloning is a reference count; paths share their prefixes.
#[derive(Clone, Default)]
pub struct Path(Option<Arc<Step>>);

struct Step {
    parent: Path,
    element: Element,
}

enum Element {
    Child(Box<str>),
    Index(usize),
    Key(Box<str>),
}

impl Path {
    /// The object itself; renders as the empty string.
    pub fn root() -> Self {
        Self(None)
    }

    /// The top-level field `name`.
    pub fn new(name: &str) -> Self {
        Self::root().child(name)
    }

    /// The field `name` below this place.
    pub fn child(&self, name: &str) -> Self {
        self.step(Element::Child(name.into()))
    }

    /// The list item at `index`.
    pub fn index(&self, index: usize) -> Self {
        self.step(Element::Index(index))
    }

    /// The map entry `key`.
    pub fn key(&self, key: &str) -> Self {
        self.step(Element::Key(key.into()))
    }

    /// The text, of which the end is left out when it is very long: every error below a long key has a copy.
    fn shown(&self) -> String {
        let mut out = Cut(String::new());
        // The error is that it was cut off.
        let _ = write!(out, "{self}");
        out.0
    }

    fn step(&self, element: Element) -> Self {
        Self(Some(Arc::new(Step {
            parent: self.clone(),
            element,
        })))
    }
}

/// A text that takes so many bytes and no more.
struct Cut(String);

impl Write for Cut {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = SHOWN_BYTES_MAX.saturating_sub(self.0.len());
        if text.len() <= room {
            self.0.push_str(text);
            return Ok(());
        }
        let end = (0..=room).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        self.0.push_str(text.get(..end).unwrap_or_default());
        self.0.push_str("...");
        Err(fmt::Error)
    }
}

impl Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut steps = Vec::new();
        let mut at = &self.0;
        while let Some(step) = at {
            steps.push(step);
            at = &step.parent.0;
        }
        for (position, step) in steps.iter().rev().enumerate() {
            match &step.element {
                // Kubernetes shows a nameless step like a list position without a number.
                Element::Child(name) if name.is_empty() => f.write_str("[]")?,
                Element::Child(name) if position == 0 => f.write_str(name)?,
                Element::Child(name) => write!(f, ".{name}")?,
                Element::Index(index) => write!(f, "[{index}]")?,
                Element::Key(key) => write!(f, "[{key}]")?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Path({self})")
    }
}

/// What kind of mistake a field holds; the `reason` of a Status cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    Required,
    Invalid,
    NotSupported,
    Duplicate,
    Forbidden,
    NotFound,
    TooLong,
    TooMany,
    TypeInvalid,
    Internal,
}

impl ErrorKind {
    /// The machine-readable reason of the Status cause.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::NotFound => "FieldValueNotFound",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::Internal => "InternalError",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Duplicate => "Duplicate value",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "Not found",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::Internal => "Internal error",
        }
    }

    fn shows_value(self) -> bool {
        !matches!(self, Self::Required | Self::Forbidden | Self::TooLong | Self::Internal)
    }
}

/// One mistake in one field. `Display` is the Kubernetes text with the field in front.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    pub kind: ErrorKind,
    /// The rendered path; empty means the whole object.
    pub field: String,
    /// The offending value; `None` leaves it out of the text.
    pub bad_value: Option<Value>,
    pub detail: String,
}

/// Most errors that are listed for one object, and the bytes of text after which no more are.
const ERRORS_MAX: usize = 1000;
const ERROR_BYTES_MAX: usize = 512 * 1024;
/// Paths and sets of choices are cut off here, in bytes: no name that is valid is longer.
const SHOWN_BYTES_MAX: usize = 16 * 1024;

/// What is wrong with an object, in the order of discovery. The first [`ERRORS_MAX`] of it: an object with a million bad
/// items needs no answer a hundred times its own size.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ErrorList {
    errors: Vec<FieldError>,
    bytes: usize,
}

impl ErrorList {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an error while there is room for it.
    pub fn push(&mut self, error: FieldError) {
        if self.is_full() {
            return;
        }
        let shown = error.bad_value.as_ref().map_or(0, weight::of);
        self.bytes += error.field.len() + error.detail.len() + shown;
        self.errors.push(error);
    }

    /// Whether it takes no more: whoever makes errors at great cost can stop.
    pub fn is_full(&self) -> bool {
        self.errors.len() >= ERRORS_MAX || self.bytes >= ERROR_BYTES_MAX
    }

    /// Keeps the errors that `keeps` likes.
    pub fn retain(&mut self, keeps: impl FnMut(&FieldError) -> bool) {
        self.errors.retain(keeps);
    }
}

impl Extend<FieldError> for ErrorList {
    fn extend<I: IntoIterator<Item = FieldError>>(&mut self, errors: I) {
        errors.into_iter().for_each(|error| self.push(error));
    }
}

impl FromIterator<FieldError> for ErrorList {
    fn from_iter<I: IntoIterator<Item = FieldError>>(errors: I) -> Self {
        let mut list = Self::new();
        list.extend(errors);
        list
    }
}

impl From<Vec<FieldError>> for ErrorList {
    fn from(errors: Vec<FieldError>) -> Self {
        errors.into_iter().collect()
    }
}

impl IntoIterator for ErrorList {
    type Item = FieldError;
    type IntoIter = std::vec::IntoIter<FieldError>;

    fn into_iter(self) -> Self::IntoIter {
        self.errors.into_iter()
    }
}

impl<'e> IntoIterator for &'e ErrorList {
    type Item = &'e FieldError;
    type IntoIter = std::slice::Iter<'e, FieldError>;

    fn into_iter(self) -> Self::IntoIter {
        self.errors.iter()
    }
}

impl Deref for ErrorList {
    type Target = [FieldError];

    fn deref(&self) -> &[FieldError] {
        &self.errors
    }
}

impl DerefMut for ErrorList {
    fn deref_mut(&mut self) -> &mut [FieldError] {
        &mut self.errors
    }
}

/// The constructors under the type's own name, for callers that import only the type.
impl FieldError {
    /// See [`required`].
    pub fn required(path: &Path, detail: impl Into<String>) -> Self {
        required(path, detail)
    }

    /// See [`invalid`].
    pub fn invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        invalid(path, value, detail)
    }

    /// See [`not_supported`].
    pub fn not_supported<S: AsRef<str>>(path: &Path, value: impl Into<Value>, supported: &[S]) -> Self {
        not_supported(path, value, supported)
    }

    /// See [`forbidden`].
    pub fn forbidden(path: &Path, detail: impl Into<String>) -> Self {
        forbidden(path, detail)
    }

    /// See [`too_long`].
    pub fn too_long(path: &Path, bytes_max: usize) -> Self {
        too_long(path, bytes_max)
    }
}

impl FieldError {
    /// The text without the field: `Invalid value: "x": must be ...`.
    pub fn body(&self) -> String {
        let mut text = String::from(self.kind.words());
        if let (true, Some(value)) = (self.kind.shows_value(), &self.bad_value) {
            text.push_str(": ");
            text.push_str(&show(value));
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }

    /// The `metav1.StatusCause` of this mistake.
    pub fn cause(&self) -> Value {
        json!({"reason": self.kind.reason(), "message": self.body(), "field": shown_field(&self.field)})
    }

    /// The same mistake seen from an enclosing object: puts `prefix` in front of the field.
    #[must_use]
    pub fn under(mut self, prefix: &Path) -> Self {
        let prefix = prefix.to_string();
        self.field = match (prefix.is_empty(), self.field.is_empty()) {
            (true, _) => self.field,
            (_, true) => prefix,
            _ if self.field.starts_with('[') => format!("{prefix}{}", self.field),
            _ => format!("{prefix}.{}", self.field),
        };
        self
    }
}

impl Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", shown_field(&self.field), self.body())
    }
}

/// Kubernetes calls the object as a whole `<nil>` in a field error.
fn shown_field(field: &str) -> &str {
    if field.is_empty() { "<nil>" } else { field }
}

/// A missing value that must be there.
pub fn required(path: &Path, detail: impl Into<String>) -> FieldError {
    error(ErrorKind::Required, path, None, detail)
}

/// A value that breaks a rule.
pub fn invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> FieldError {
    error(ErrorKind::Invalid, path, Some(value.into()), detail)
}

/// A value outside a closed set; the set is listed in the given order.
pub fn not_supported<S: AsRef<str>>(path: &Path, value: impl Into<Value>, supported: &[S]) -> FieldError {
    let mut detail = String::new();
    if !supported.is_empty() {
        detail.push_str("supported values: ");
        for (position, choice) in supported.iter().enumerate() {
            if position > 0 {
                detail.push_str(", ");
            }
            if detail.len() > SHOWN_BYTES_MAX {
                detail.push_str("...");
                break;
            }
            detail.push_str(&quote(choice.as_ref()));
        }
    }
    error(ErrorKind::NotSupported, path, Some(value.into()), detail)
}

/// A value that may occur only once.
pub fn duplicate(path: &Path, value: impl Into<Value>) -> FieldError {
    error(ErrorKind::Duplicate, path, Some(value.into()), "")
}

/// A value that is not allowed here or now.
pub fn forbidden(path: &Path, detail: impl Into<String>) -> FieldError {
    error(ErrorKind::Forbidden, path, None, detail)
}

/// A reference to something that is not there.
pub fn not_found(path: &Path, value: impl Into<Value>) -> FieldError {
    error(ErrorKind::NotFound, path, Some(value.into()), "")
}

/// A value above `bytes_max` bytes.
pub fn too_long(path: &Path, bytes_max: usize) -> FieldError {
    let noun = if bytes_max == 1 { "byte" } else { "bytes" };
    error(
        ErrorKind::TooLong,
        path,
        None,
        format!("may not be more than {bytes_max} {noun}"),
    )
}

/// A list of `count` items where at most `count_max` are allowed.
pub fn too_many(path: &Path, count: usize, count_max: usize) -> FieldError {
    let noun = if count_max == 1 { "item" } else { "items" };
    error(
        ErrorKind::TooMany,
        path,
        Some(Value::from(count)),
        format!("must have at most {count_max} {noun}"),
    )
}

/// A value of the wrong JSON type.
pub fn type_invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> FieldError {
    error(ErrorKind::TypeInvalid, path, Some(value.into()), detail)
}

/// Something went wrong on our side while looking at this field.
pub fn internal(path: &Path, detail: impl Into<String>) -> FieldError {
    error(ErrorKind::Internal, path, None, detail)
}

fn error(kind: ErrorKind, path: &Path, bad_value: Option<Value>, detail: impl Into<String>) -> FieldError {
    FieldError {
        kind,
        field: path.shown(),
        bad_value,
        detail: detail.into(),
    }
}

/// All mistakes as one sentence: the text itself when there is one, `[a, b]` when there are more.
/// Equal texts are said once.
pub fn join(errors: &[FieldError]) -> String {
    let mut said = HashSet::with_capacity(errors.len());
    let texts = errors.iter().map(FieldError::to_string);
    let texts: Vec<String> = texts.filter(|text| said.insert(text.clone())).collect();
    match texts.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::String(text) => quote(text),
        other => escape_html(&other.to_string()),
    }
}

/// Go's JSON encoder escapes these three everywhere, also in error texts.
fn escape_html(text: &str) -> String {
    text.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
}

/// A string literal as Go's `%q` prints it.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            other if (other as u32) < 0x20 || other as u32 == 0x7f => {
                let _ = write!(out, "\\x{:02x}", other as u32);
            }
            other if other.is_control() || is_unprintable(other) => {
                let code = other as u32;
                let _ = if code > 0xffff {
                    write!(out, "\\U{code:08x}")
                } else {
                    write!(out, "\\u{code:04x}")
                };
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

/// Code points that Go does not print as they are: separators, spaces other than U+0020, formatting marks.
fn is_unprintable(character: char) -> bool {
    matches!(character as u32, 0xad | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0xfeff | 0xfff0..=0xfffb
        | 0xe000..=0xf8ff | 0xf0000..=0x10ffff)
        || (character.is_whitespace() && character != ' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_render_as_kubernetes_writes_them() {
        let containers = Path::new("spec").child("containers").index(0);
        assert_eq!(containers.child("name").to_string(), "spec.containers[0].name");
        assert_eq!(
            Path::new("metadata").child("labels").key("a/b").to_string(),
            "metadata.labels[a/b]"
        );
        assert_eq!(Path::root().to_string(), "");
    }

    #[test]
    fn errors_render_as_kubernetes_writes_them() {
        let path = Path::new("spec").child("x");
        let cases = [
            (required(&path, ""), "spec.x: Required value"),
            (required(&path, "say it"), "spec.x: Required value: say it"),
            (invalid(&path, "a\"b", "no"), "spec.x: Invalid value: \"a\\\"b\": no"),
            (invalid(&path, -1, "no"), "spec.x: Invalid value: -1: no"),
            (invalid(&path, Value::Null, "no"), "spec.x: Invalid value: null: no"),
            (
                invalid(&path, json!({"a": "<"}), "no"),
                "spec.x: Invalid value: {\"a\":\"\\u003c\"}: no",
            ),
            (
                not_supported(&path, "q", &["A", "B"]),
                "spec.x: Unsupported value: \"q\": supported values: \"A\", \"B\"",
            ),
            (duplicate(&path, "q"), "spec.x: Duplicate value: \"q\""),
            (forbidden(&path, "no"), "spec.x: Forbidden: no"),
            (not_found(&path, "v"), "spec.x: Not found: \"v\""),
            (too_long(&path, 63), "spec.x: Too long: may not be more than 63 bytes"),
            (too_many(&path, 5, 3), "spec.x: Too many: 5: must have at most 3 items"),
        ];
        for (error, text) in cases {
            assert_eq!(error.to_string(), text);
        }
    }

    #[test]
    fn prefixes_join() {
        let error = required(&Path::new("name"), "").under(&Path::new("spec").index(1));
        assert_eq!(error.field, "spec[1].name");
    }
}

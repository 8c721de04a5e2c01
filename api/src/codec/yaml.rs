//! YAML with bounds and places: scalars as YAML 1.1 reads them (`yes`, `0644`), anchors and merge keys,
//! duplicate keys noted with their line.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use granit_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span, StrInput, StructureStyle, Tag};
use serde_json::{Map, Value};

use super::weight::{self, Budget, TooLarge};
use super::{Failure, Limits, PROBLEMS_MAX, Problem, note};

/// One document of a YAML stream.
#[derive(Clone, Debug)]
pub struct Document {
    pub value: Value,
    pub spans: Spans,
    /// Keys that occur twice.
    pub problems: Vec<Problem>,
    /// The line of the document's first content, from 1.
    pub line: usize,
}

/// Where the fields of a document stand.
#[derive(Clone, Debug, Default)]
pub struct Spans {
    places: BTreeMap<String, (usize, usize)>,
}

impl Spans {
    /// Line and column, both from 1, of the field's key (or of the list item) at `path`, such as
    /// `spec.containers[0].image`.
    pub fn get(&self, path: &str) -> Option<(usize, usize)> {
        self.places.get(path).copied()
    }

    /// As [`Spans::get`], falling back to the nearest enclosing field that has a place.
    pub fn nearest(&self, path: &str) -> Option<(usize, usize)> {
        let mut at = path;
        loop {
            if let Some(place) = self.get(at) {
                return Some(place);
            }
            let cut = at.rfind(['.', '['])?;
            at = at.get(..cut)?;
        }
    }
}

/// A text that is not YAML, with the place of the trouble (both from 1).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct YamlError {
    pub line: usize,
    pub column: usize,
    pub message: String,
}

/// Reads every document of a stream, with the place of every field. Empty documents are left out.
pub fn decode_yaml_documents(text: &str) -> Result<Vec<Document>, YamlError> {
    let limits = Limits {
        bytes_max: 64 * 1024 * 1024,
        memory_max: 1024 * 1024 * 1024,
        ..Limits::default()
    };
    if text.len() > limits.bytes_max {
        let message = format!("larger than {} bytes", limits.bytes_max);
        return Err(YamlError {
            line: 1,
            column: 1,
            message,
        });
    }
    let mut reader = Reader::new(text, &limits, true);
    let mut documents = Vec::new();
    while let Some(document) = reader.document()? {
        if !document.value.is_null() {
            documents.push(document);
        }
    }
    Ok(documents)
}

pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<(Value, Vec<Problem>), Failure> {
    if bytes.len() > limits.bytes_max {
        return Err(Failure::TooLarge(limits.bytes_max));
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|error| Failure::Syntax(format!("yaml: invalid UTF-8 at byte {}", error.valid_up_to())))?;
    let mut reader = Reader::new(text, limits, false);
    match reader.document() {
        Ok(Some(document)) => Ok((document.value, document.problems)),
        Ok(None) => Ok((Value::Null, Vec::new())),
        Err(_) if reader.too_heavy => Err(Failure::TooHeavy(limits.memory_max)),
        Err(error) => Err(Failure::Syntax(format!(
            "error converting YAML to JSON: yaml: {}",
            in_go_words(&error)
        ))),
    }
}

/// No token begins with a tab where a line's indentation counts.
const NO_TOKEN: &str = "found character that cannot start any token";

/// What the parser says, what Kubernetes says, and whether it does so of tokens: those lines it counts from one, the
/// others from nought, and nought it leaves out.
const IN_GO_WORDS: &[(&str, &str, bool)] = &[
    (NO_TOKEN, NO_TOKEN, true),
    ("tabs disallowed", NO_TOKEN, true),
    ("unexpected character", NO_TOKEN, true),
    ("found a tab", "found a tab character that violates indentation", true),
    (
        "mapping values are not allowed",
        "mapping values are not allowed in this context",
        true,
    ),
    ("quoted scalar", "found unexpected end of stream", true),
    ("did not find expected key", "did not find expected key", false),
    (
        "did not find expected '-'",
        "did not find expected '-' indicator",
        false,
    ),
    ("<document start>", "did not find expected <document start>", false),
];

fn in_go_words(error: &YamlError) -> String {
    let found = IN_GO_WORDS.iter().find(|(ours, _, _)| error.message.contains(ours));
    let (text, of_token) = found.map_or((error.message.as_str(), true), |(_, theirs, of_token)| {
        (*theirs, *of_token)
    });
    match error.line {
        0 | 1 => text.to_owned(),
        line if of_token => format!("line {line}: {text}"),
        line => format!("line {}: {text}", line - 1),
    }
}

struct Reader<'t> {
    parser: Parser<'t, StrInput<'t>>,
    limits: Limits,
    wants_spans: bool,
    values: usize,
    memory: Budget,
    /// Reading was given up because the values, aliases aside, would take too much memory.
    too_heavy: bool,
    path: String,
    anchors: HashMap<usize, Anchored>,
    spans: Spans,
    problems: Vec<Problem>,
    /// The lines whose indentation has a tab, with how many characters it is.
    tabbed: BTreeMap<usize, usize>,
    /// How many brackets are open; inside them indentation does not count.
    flow: usize,
}

struct Anchored {
    value: Value,
    /// How many values it expands to, and the bytes of memory that they take.
    values: usize,
    bytes: usize,
}

const ALIASES: &str = "document contains excessive aliasing";

impl<'t> Reader<'t> {
    fn new(text: &'t str, limits: &Limits, wants_spans: bool) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Self {
            parser: Parser::new_from_str(text),
            limits: *limits,
            wants_spans,
            values: 0,
            memory: Budget::new(limits.memory_max),
            too_heavy: false,
            path: String::new(),
            anchors: HashMap::new(),
            spans: Spans::default(),
            problems: Vec::new(),
            tabbed: tabbed(text),
            flow: 0,
        }
    }

    /// Refuses what begins after a tab at the start of a line; texts that go on there may.
    fn check_indentation(&mut self, event: &Event<'_>, span: Span) -> Result<(), YamlError> {
        let indented = |width: &usize| span.start.col() <= *width;
        match event {
            // Their place may be that of their text.
            Event::Scalar(_, ScalarStyle::Literal | ScalarStyle::Folded, ..) => {}
            Event::Scalar(..) | Event::Alias(..) | Event::SequenceStart(..) | Event::MappingStart(..)
                if self.flow == 0 && self.tabbed.get(&span.start.line()).is_some_and(indented) =>
            {
                return Err(at(span.start, NO_TOKEN));
            }
            Event::SequenceStart(style, ..) | Event::MappingStart(style, ..)
                if self.flow > 0 || *style == StructureStyle::Flow =>
            {
                self.flow += 1;
            }
            Event::SequenceEnd | Event::MappingEnd => self.flow = self.flow.saturating_sub(1),
            _ => {}
        }
        Ok(())
    }

    fn event(&mut self) -> Result<Option<(Event<'t>, Span)>, YamlError> {
        loop {
            let event = self
                .parser
                .next_event()
                .transpose()
                .map_err(|error| scan_error(&error))?;
            // Comments and other marginalia come as events of their own, anywhere, when another crate of the
            // build has switched them on.
            let Some((event, span)) = event else { return Ok(None) };
            let content = matches!(
                event,
                Event::StreamStart
                    | Event::StreamEnd
                    | Event::DocumentStart(..)
                    | Event::DocumentEnd
                    | Event::Alias(..)
                    | Event::Scalar(..)
                    | Event::SequenceStart(..)
                    | Event::SequenceEnd
                    | Event::MappingStart(..)
                    | Event::MappingEnd
            );
            if content {
                self.check_indentation(&event, span)?;
                return Ok(Some((event, span)));
            }
        }
    }

    fn document(&mut self) -> Result<Option<Document>, YamlError> {
        loop {
            match self.event()? {
                None | Some((Event::StreamEnd, _)) => return Ok(None),
                Some((Event::DocumentStart(..), _)) => break,
                Some(_) => {}
            }
        }
        self.anchors.clear();
        self.path.clear();
        let Some((event, span)) = self.event()? else {
            return Ok(None);
        };
        let line = span.start.line();
        if matches!(event, Event::DocumentEnd) {
            let spans = Spans::default();
            return Ok(Some(Document {
                value: Value::Null,
                spans,
                problems: Vec::new(),
                line,
            }));
        }
        let value = self.value(event, span, 0)?;
        let (spans, problems) = (std::mem::take(&mut self.spans), std::mem::take(&mut self.problems));
        Ok(Some(Document {
            value,
            spans,
            problems,
            line,
        }))
    }

    fn value(&mut self, event: Event<'t>, span: Span, depth: usize) -> Result<Value, YamlError> {
        let before = self.values;
        self.values += 1;
        self.check_bounds(span, depth)?;
        let (anchor, value) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.charge(span, |memory| memory.text(&text))?;
                (anchor, scalar(&text, style, tag.as_ref()))
            }
            Event::SequenceStart(_, anchor, _) => (anchor, self.sequence(depth)?),
            Event::MappingStart(_, anchor, _) => (anchor, self.mapping(depth)?),
            Event::Alias(id) => {
                let Some(anchored) = self.anchors.get(&id) else {
                    return Err(at(span.start, "an alias may not be inside the value it stands for"));
                };
                self.values = self.values.saturating_add(anchored.values);
                self.memory
                    .charge(anchored.bytes)
                    .map_err(|TooLarge| at(span.start, ALIASES))?;
                let value = anchored.value.clone();
                self.check_bounds(span, depth)?;
                (0, value)
            }
            _ => return Err(at(span.start, "a value is expected here")),
        };
        if anchor > 0 {
            let values = self.values.saturating_sub(before);
            self.anchor(anchor, &value, values, span)?;
        }
        Ok(value)
    }

    /// Keeps a value for its aliases, which takes as much memory again.
    fn anchor(&mut self, id: usize, value: &Value, values: usize, span: Span) -> Result<(), YamlError> {
        let bytes = weight::of(value);
        self.memory.charge(bytes).map_err(|TooLarge| at(span.start, ALIASES))?;
        let value = value.clone();
        self.anchors.insert(id, Anchored { value, values, bytes });
        Ok(())
    }

    /// Charges for what is about to be built.
    fn charge(&mut self, span: Span, with: impl FnOnce(&mut Budget) -> Result<(), TooLarge>) -> Result<(), YamlError> {
        with(&mut self.memory).map_err(|TooLarge| {
            self.too_heavy = true;
            at(span.start, "too many values")
        })
    }

    fn check_bounds(&self, span: Span, depth: usize) -> Result<(), YamlError> {
        if depth > self.limits.depth_max {
            return Err(at(span.start, "exceeded max depth"));
        }
        if self.values > self.limits.values_max {
            return Err(at(span.start, ALIASES));
        }
        Ok(())
    }

    fn sequence(&mut self, depth: usize) -> Result<Value, YamlError> {
        let mut items = Vec::new();
        loop {
            let Some((event, span)) = self.event()? else {
                return Ok(Value::Array(items));
            };
            if matches!(event, Event::SequenceEnd) {
                return Ok(Value::Array(items));
            }
            let length = self.path.len();
            self.path.push_str(&format!("[{}]", items.len()));
            self.note_place(span);
            let item = self.value(event, span, depth + 1)?;
            self.charge(span, |memory| memory.item(items.len()))?;
            items.push(item);
            self.path.truncate(length);
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Value, YamlError> {
        let mut map = Map::new();
        let mut merged: Vec<Value> = Vec::new();
        while let Some((event, span)) = self.event()? {
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let is_merge = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, _, _) if text == "<<");
            let key = self.key(event, span)?;
            self.charge(span, |memory| memory.field(map.len(), &key))?;
            let length = self.path.len();
            if length > 0 {
                self.path.push('.');
            }
            self.path.push_str(&key);
            if !is_merge && map.contains_key(&key) {
                self.note_duplicate(&key, span);
            }
            self.note_place(span);
            let Some((event, span)) = self.event()? else { break };
            let value = self.value(event, span, depth + 1)?;
            self.path.truncate(length);
            if is_merge {
                merged.push(value);
            } else {
                map.insert(key, value);
            }
        }
        for value in merged {
            let sources = if let Value::Array(list) = value {
                list
            } else {
                vec![value]
            };
            for source in sources {
                let Value::Object(entries) = source else { continue };
                for (key, entry) in entries {
                    map.entry(key).or_insert(entry);
                }
            }
        }
        Ok(Value::Object(map))
    }

    fn key(&mut self, event: Event<'t>, span: Span) -> Result<String, YamlError> {
        let value = match event {
            Event::Scalar(text, ScalarStyle::Plain, ..) if text == "<<" => return Ok(text.into_owned()),
            Event::Scalar(text, style, anchor, tag) => {
                let value = scalar(&text, style, tag.as_ref());
                if anchor > 0 {
                    self.anchor(anchor, &value, 1, span)?;
                }
                value
            }
            Event::Alias(id) => match self.anchors.get(&id) {
                // What is no key is not worth a copy. The key is charged for where it is put.
                Some(anchored) if !anchored.value.is_array() && !anchored.value.is_object() => anchored.value.clone(),
                _ => Value::Null,
            },
            _ => return Err(at(span.start, "a key must be a plain value")),
        };
        match value {
            Value::String(text) => Ok(text),
            Value::Number(number) => Ok(number.to_string()),
            Value::Bool(flag) => Ok(flag.to_string()),
            _ => Err(at(span.start, "a key must be a plain value")),
        }
    }

    fn note_place(&mut self, span: Span) {
        if self.wants_spans {
            self.spans.places.insert(self.path.clone(), place(span.start));
        }
    }

    fn note_duplicate(&mut self, key: &str, span: Span) {
        if self.problems.len() < PROBLEMS_MAX {
            let text = format!(
                "line {}: key {} already set in map",
                span.start.line(),
                crate::field::quote(key)
            );
            let problem = Problem {
                path: self.path.clone(),
                text,
                from_yaml: true,
            };
            note(&mut self.problems, problem);
        }
    }
}

fn tabbed(text: &str) -> BTreeMap<usize, usize> {
    let lines = text.lines().enumerate();
    let widths = lines.map(|(number, line)| {
        (
            number + 1,
            line,
            line.len() - line.trim_start_matches([' ', '\t']).len(),
        )
    });
    let indented = widths.filter(|(_, line, width)| line.get(..*width).is_some_and(|indent| indent.contains('\t')));
    indented.map(|(number, _, width)| (number, width)).collect()
}

fn place(marker: Marker) -> (usize, usize) {
    (marker.line(), marker.col() + 1)
}

fn at(marker: Marker, message: &str) -> YamlError {
    let (line, column) = place(marker);
    YamlError {
        line,
        column,
        message: message.into(),
    }
}

fn scan_error(error: &ScanError) -> YamlError {
    at(*error.marker(), &error.info())
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Cow<'_, Tag>>) -> Value {
    let forced = tag.and_then(|tag| tag.core_suffix());
    match (style, forced) {
        (_, Some("str" | "binary")) => text.into(),
        (ScalarStyle::Plain, _) | (_, Some("int" | "float" | "bool" | "null")) => plain(text),
        _ => text.into(),
    }
}

/// What a plain scalar of YAML 1.1 stands for.
pub(super) fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => return true.into(),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => return false.into(),
        _ => {}
    }
    if !text.starts_with(|first: char| first.is_ascii_digit() || matches!(first, '+' | '-' | '.')) {
        return text.into();
    }
    number(text).unwrap_or_else(|| text.into())
}

fn number(text: &str) -> Option<Value> {
    let compact = text.replace('_', "");
    let (negative, digits) = match compact.as_bytes().first()? {
        b'-' => (true, compact.get(1..)?),
        b'+' => (false, compact.get(1..)?),
        _ => (false, compact.as_str()),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, body) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, lower.get(2..)?),
        [b'0', b'b', ..] => (2, lower.get(2..)?),
        [b'0', b'o', ..] => (8, lower.get(2..)?),
        [b'0', _, ..] => (8, lower.get(1..)?),
        _ => (10, lower.as_str()),
    };
    if !body.starts_with(['+', '-'])
        && let Ok(magnitude) = i128::from_str_radix(body, radix)
    {
        let value = if negative { -magnitude } else { magnitude };
        if let Ok(int) = i64::try_from(value) {
            return Some(int.into());
        }
        if let Ok(int) = u64::try_from(value) {
            return Some(int.into());
        }
    }
    float(&compact, digits)
}

/// Decimal floats; whole ones become integers, as a round trip through JSON makes them.
fn float(text: &str, unsigned: &str) -> Option<Value> {
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent_fits = exponent.is_none_or(|text| {
        let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
        !digits.is_empty() && all_digits(digits)
    });
    if (whole.is_empty() && fraction.is_empty()) || !all_digits(whole) || !all_digits(fraction) || !exponent_fits {
        return None;
    }
    let value: f64 = text.strip_prefix('+').unwrap_or(text).parse().ok()?;
    if value.fract() == 0.0 && value.abs() < 9e15 {
        return Some((value as i64).into());
    }
    serde_json::Number::from_f64(value).map(Value::Number)
}

//! Values against a schema: what a custom resource, or a default in a schema, gets wrong.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};

use super::super::access::{flag, get, has, list, str_of};
use super::super::check::strings;
use super::super::go::json_text;
use super::formats;
use crate::field::{
    ErrorList, FieldError, Path, forbidden, invalid, not_supported, required, too_long, too_many, type_invalid,
};
use serde_json::{Value, json};

/// Steps that one check may take: values looked at, choices compared, patterns compiled. A schema that tries many parts on
/// every item of a long list takes the product of both.
const STEPS_MAX: usize = 2_000_000;
/// Steps that compiling one pattern counts as.
const PATTERN_STEPS: usize = 5_000;

/// Everything that is wrong with a value, as Kubernetes says it. `path` is the place of the value.
pub fn check(path: &Path, schema: &Value, value: &Value) -> ErrorList {
    let shared = Shared {
        left: Cell::new(STEPS_MAX),
        patterns: RefCell::default(),
    };
    let mut found = Found {
        path,
        name: String::new(),
        errors: ErrorList::new(),
        shared: &shared,
    };
    found.walk(schema, value);
    let mut errors = found.errors;
    if shared.left.get() == 0 {
        let detail = format!(
            "takes more than {STEPS_MAX} steps to check against the schema; make the object or its schema smaller"
        );
        errors.push(forbidden(path, detail));
    }
    errors
}

/// What the checks of all parts of a value have in common.
struct Shared {
    /// Steps that are left; at zero nothing more is looked at.
    left: Cell<usize>,
    patterns: RefCell<HashMap<String, Option<regex::Regex>>>,
}

impl Shared {
    /// Takes steps; `false` when there are not enough.
    fn charge(&self, steps: usize) -> bool {
        self.left.set(self.left.get().saturating_sub(steps));
        self.left.get() > 0
    }

    fn fits_pattern(&self, pattern: &str, text: &str) -> bool {
        let mut patterns = self.patterns.borrow_mut();
        let compiled = patterns.entry(pattern.to_owned()).or_insert_with(|| {
            self.charge(PATTERN_STEPS);
            formats::compile(pattern)
        });
        compiled.as_ref().is_some_and(|pattern| pattern.is_match(text))
    }
}

struct Found<'a> {
    path: &'a Path,
    /// The place of what is looked at, below `path`.
    name: String,
    errors: ErrorList,
    shared: &'a Shared,
}

/// The type of a value, as texts name it.
fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() && n.as_f64().is_some_and(|f| f.fract() != 0.0) => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The types a schema allows; none is any.
fn types(schema: &Value) -> Vec<&str> {
    if flag(schema, "x-kubernetes-int-or-string") {
        return vec!["integer", "string"];
    }
    match str_of(schema, "type") {
        "" => Vec::new(),
        kind => vec![kind],
    }
}

impl Found<'_> {
    fn at(&self) -> Path {
        if self.name.is_empty() {
            self.path.clone()
        } else {
            self.path.child(&self.name)
        }
    }

    fn say(&mut self, value: &Value, detail: &str) {
        let error = invalid(&self.at(), value.clone(), format!("{} in body {detail}", self.name));
        self.errors.push(error);
    }

    /// Says something about a value as a whole, which is not shown.
    fn say_whole(&mut self, detail: &str) {
        let detail = format!("{} {detail}", crate::field::quote(&self.name));
        self.errors.push(invalid(self.path, "", detail));
    }

    fn wrong_type(&mut self, wanted: &str, shown: &str) {
        let detail = format!(
            "{} in body must be of type {wanted}: {}",
            self.name,
            crate::field::quote(shown)
        );
        self.errors.push(type_invalid(&self.at(), shown, detail));
    }

    fn walk(&mut self, schema: &Value, value: &Value) {
        if !schema.is_object() || !self.shared.charge(1) {
            return;
        }
        let (allowed, kind) = (types(schema), type_of(value));
        let is_null = value.is_null();
        if is_null && (flag(schema, "nullable") || allowed.is_empty()) {
            return;
        }
        let fits = allowed.is_empty() || allowed.contains(&kind) || (kind == "integer" && allowed.contains(&"number"));
        if !fits {
            self.wrong_type(&allowed.join(","), kind);
        }
        if is_null {
            return;
        }
        self.junctors(schema, value);
        match value {
            Value::String(text) => self.text(schema, text),
            Value::Number(_) => self.number(schema, value),
            Value::Array(items) => self.items(schema, items),
            _ => {}
        }
        self.choices(schema, value);
        if value.is_object() {
            self.members(schema, value);
        }
    }

    fn choices(&mut self, schema: &Value, value: &Value) {
        let choices = list(schema, "enum");
        if choices.is_empty() || !self.shared.charge(choices.len()) || choices.contains(value) {
            return;
        }
        let shown: Vec<String> = choices
            .iter()
            .map(|c| c.as_str().map_or_else(|| json_text(c), str::to_owned))
            .collect();
        let error = not_supported(&self.at(), value.clone(), &shown);
        self.errors.push(error);
    }

    /// The mistakes of `value` against a part of the schema that may fail.
    fn tried(&self, schema: &Value, value: &Value) -> ErrorList {
        let mut inner = Found {
            path: self.path,
            name: self.name.clone(),
            errors: ErrorList::new(),
            shared: self.shared,
        };
        inner.walk(schema, value);
        inner.errors
    }

    fn junctors(&mut self, schema: &Value, value: &Value) {
        let tries = |key: &str| -> Vec<ErrorList> {
            let parts = list(schema, key).iter();
            parts.map(|schema| self.tried(schema, value)).collect()
        };
        let (any, one, all) = (tries("anyOf"), tries("oneOf"), tries("allOf"));
        let closest = |tried: Vec<ErrorList>| tried.into_iter().min_by_key(|e| e.len()).unwrap_or_default();
        if !any.is_empty() && !any.iter().any(|e| e.is_empty()) {
            self.say_whole("must validate at least one schema (anyOf)");
            self.errors.extend(closest(any));
        }
        let fitting = one.iter().filter(|e| e.is_empty()).count();
        if !one.is_empty() && fitting != 1 {
            let said = match fitting {
                0 => "Found none valid".to_owned(),
                n => format!("Found {n} valid alternatives"),
            };
            self.say_whole(&format!("must validate one and only one schema (oneOf). {said}"));
            if fitting == 0 {
                self.errors.extend(closest(one));
            }
        }
        if all.iter().any(|e| !e.is_empty()) {
            let said = if all.iter().any(|e| e.is_empty()) {
                ""
            } else {
                ". None validated"
            };
            self.errors.extend(all.into_iter().flatten());
            self.say_whole(&format!("must validate all the schemas (allOf){said}"));
        }
        let not = get(schema, "not");
        if not.is_object() && self.tried(not, value).is_empty() {
            self.say_whole("must not validate the schema (not)");
        }
    }

    fn text(&mut self, schema: &Value, text: &str) {
        let (length, value) = (text.chars().count(), Value::from(text));
        self.shared.charge(length / 64);
        if let Some(max) = size(schema, "maxLength").filter(|max| length > *max) {
            let error = too_long(&self.at(), max);
            self.errors.push(error);
        }
        if let Some(min) = size(schema, "minLength").filter(|min| length < *min) {
            self.say(&value, &format!("should be at least {min} chars long"));
        }
        let pattern = str_of(schema, "pattern");
        if !pattern.is_empty() && !self.shared.fits_pattern(pattern, text) {
            self.say(&value, &format!("should match '{pattern}'"));
        }
        let format = str_of(schema, "format");
        if !format.is_empty() && !formats::has_format(format, text) {
            let detail = format!(
                "{} in body must be of type {format}: {}",
                self.name,
                crate::field::quote(text)
            );
            let error = type_invalid(&self.at(), text, detail);
            self.errors.push(error);
        }
    }

    fn number(&mut self, schema: &Value, value: &Value) {
        let Some(found) = value.as_f64() else {
            return;
        };
        if let Some(by) = get(schema, "multipleOf").as_f64().filter(|by| *by > 0.0) {
            let times = found / by;
            if (times - times.round()).abs() > f64::EPSILON * times.abs().max(1.0) {
                let shown = json_text(get(schema, "multipleOf"));
                self.say(value, &format!("should be a multiple of {shown}"));
            }
        }
        let limits = [
            ("maximum", "exclusiveMaximum", "less than", 1.0),
            ("minimum", "exclusiveMinimum", "greater than", -1.0),
        ];
        for (key, exclusive, words, sign) in limits {
            let Some(limit) = get(schema, key).as_f64() else {
                continue;
            };
            let excess = (found - limit) * sign;
            let strict = flag(schema, exclusive);
            if excess > 0.0 || (strict && excess >= 0.0) {
                let or_equal = if strict { "" } else { " or equal to" };
                let shown = json_text(get(schema, key));
                self.say(value, &format!("should be {words}{or_equal} {shown}"));
            }
        }
    }

    fn items(&mut self, schema: &Value, items: &[Value]) {
        let item_schema = get(schema, "items");
        let length = self.name.len();
        for (i, item) in items.iter().enumerate() {
            self.name.push_str(&format!("[{i}]"));
            self.walk(item_schema, item);
            self.name.truncate(length);
        }
        if let Some(min) = size(schema, "minItems").filter(|min| items.len() < *min) {
            self.say(&json!(items), &format!("should have at least {min} items"));
        }
        if let Some(max) = size(schema, "maxItems").filter(|max| items.len() > *max) {
            let error = too_many(&self.at(), items.len(), max);
            self.errors.push(error);
        }
        let mut seen = HashSet::new();
        if flag(schema, "uniqueItems") && !items.iter().all(|item| seen.insert(item.to_string())) {
            self.say(&json!(items), "shouldn't contain duplicates");
        }
    }

    /// Looks at what `name` leads to from here.
    fn below(&mut self, name: &str, look: impl FnOnce(&mut Self)) {
        let length = self.name.len();
        if length > 0 {
            self.name.push('.');
        }
        self.name.push_str(name);
        look(self);
        self.name.truncate(length);
    }

    fn members(&mut self, schema: &Value, value: &Value) {
        let members = value.as_object().into_iter().flatten();
        let count = value.as_object().map_or(0, serde_json::Map::len);
        if let Some(min) = size(schema, "minProperties").filter(|min| count < *min) {
            self.say(value, &format!("should have at least {min} properties"));
        }
        if let Some(max) = size(schema, "maxProperties").filter(|max| count > *max) {
            let error = too_many(&self.at(), count, max);
            self.errors.push(error);
        }
        let wanted = strings(schema, "required");
        self.shared.charge(wanted.len());
        for key in wanted {
            if !has(value, key) && value.get(key).is_none() {
                self.below(key, |found| {
                    let error = required(&found.at(), "");
                    found.errors.push(error);
                });
            }
        }
        let (properties, more) = (get(schema, "properties"), get(schema, "additionalProperties"));
        for (key, member) in members {
            let part = properties.get(key).unwrap_or(more);
            self.below(key, |found| found.walk(part, member));
        }
    }
}

fn size(schema: &Value, key: &str) -> Option<usize> {
    get(schema, key).as_u64().and_then(|n| usize::try_from(n).ok())
}

/// Checks every default in a schema against the part of the schema that it stands in.
pub fn defaults(errors: &mut ErrorList, path: &Path, schema: &Value, pruned: bool) {
    if !schema.is_object() {
        return;
    }
    let default = get(schema, "default");
    if !default.is_null() {
        let place = path.child("default");
        if pruned && has_unknown(schema, default) {
            errors.push(unpruned(&place, default));
        }
        errors.extend(check(&place, schema, default));
    }
    defaults(errors, &path.child("items"), get(schema, "items"), pruned);
    for (name, property) in get(schema, "properties").as_object().into_iter().flatten() {
        defaults(errors, &path.child("properties").key(name), property, pruned);
    }
}

fn unpruned(path: &Path, default: &Value) -> FieldError {
    invalid(path, default.clone(), "must not have unknown fields")
}

/// Whether any default in a schema has fields that the schema does not know.
pub fn has_unpruned_default(schema: &Value) -> bool {
    super::schema::any(schema, &mut |s| has_unknown(s, get(s, "default")))
}

/// Whether a value has fields that would be pruned.
fn has_unknown(schema: &Value, value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(|item| has_unknown(get(schema, "items"), item)),
        Value::Object(members) => {
            let (properties, more) = (get(schema, "properties"), get(schema, "additionalProperties"));
            let keeps = flag(schema, "x-kubernetes-preserve-unknown-fields") || *more == json!(true);
            let embeds = flag(schema, "x-kubernetes-embedded-resource");
            members.iter().any(|(key, member)| {
                let is_meta = embeds && ["apiVersion", "kind", "metadata"].contains(&key.as_str());
                match properties.get(key).or(Some(more).filter(|m| m.is_object())) {
                    Some(part) => !is_meta && has_unknown(part, member),
                    None => !keeps && !is_meta,
                }
            })
        }
        _ => false,
    }
}

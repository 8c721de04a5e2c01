//! Field selectors: `status.phase=Running,metadata.name!=x`.

use crate::field::quote;

/// One condition on one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRequirement {
    pub field: String,
    /// True for `=` and `==`, false for `!=`.
    pub equals: bool,
    pub value: String,
}

/// A conjunction of conditions; without any, it matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    pub requirements: Vec<FieldRequirement>,
}

impl FieldSelector {
    /// Reads a query string. `\\`, `\,` and `\=` stand for the character. The error is Kubernetes' sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut requirements = Vec::new();
        for term in split_terms(text) {
            if term.is_empty() {
                continue;
            }
            let Some((field, equals, value)) = split_term(term) else {
                return Err(format!("invalid selector: '{text}'; can't understand '{term}'"));
            };
            let value = unescape(value).map_err(|why| format!("invalid field selector: {why}"))?;
            requirements.push(FieldRequirement {
                field: field.to_owned(),
                equals,
                value,
            });
        }
        Ok(Self { requirements })
    }

    /// The conditions, in the order written.
    pub fn requirements(&self) -> &[FieldRequirement] {
        &self.requirements
    }

    /// Whether everything matches.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether the fields that `find` knows fulfil every condition; a missing field counts as empty.
    pub fn matches_with<'a>(&self, find: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements
            .iter()
            .all(|wanted| (find(&wanted.field).unwrap_or("") == wanted.value) == wanted.equals)
    }

    /// The value that `field` must equal, when the selector says so (`metadata.name=x` is a lookup).
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.requirements
            .iter()
            .find(|wanted| wanted.equals && wanted.field == field)
            .map(|wanted| wanted.value.as_str())
    }
}

fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut begin, mut escaped) = (0, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => {
                terms.push(text.get(begin..at).unwrap_or(""));
                begin = at + 1;
            }
            _ => {}
        }
    }
    terms.push(text.get(begin..).unwrap_or(""));
    terms
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    for (at, _) in term.char_indices() {
        let rest = term.get(at..)?;
        for (operator, equals) in [("!=", false), ("==", true), ("=", true)] {
            if let Some(value) = rest.strip_prefix(operator) {
                return Some((term.get(..at)?, equals, value));
            }
        }
    }
    None
}

fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some(escaped @ ('\\' | ',' | '=')) => out.push(escaped),
                Some(other) => {
                    return Err(format!(
                        "invalid escape sequence {} in {}",
                        quote(&format!("\\{other}")),
                        quote(text)
                    ));
                }
                None => return Err(format!("trailing backslash in {}", quote(text))),
            },
            ',' | '=' => {
                return Err(format!(
                    "unescaped character {} in {}",
                    quote(&character.to_string()),
                    quote(text)
                ));
            }
            other => out.push(other),
        }
    }
    Ok(out)
}

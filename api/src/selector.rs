//! Label and field selectors: the query strings, the `LabelSelector` object, and matching.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::field::{self, ErrorList, Path};
use crate::names;

mod fields;
mod parse;

pub use fields::{FieldRequirement, FieldSelector};

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    In,
    NotIn,
    /// `=` and `==`
    Equals,
    NotEquals,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    pub values: BTreeSet<String>,
}

/// A conjunction of requirements; without any, it matches everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LabelSelector {
    pub requirements: Vec<Requirement>,
    /// The selector of an absent `LabelSelector`: matches nothing.
    pub nothing: bool,
}

impl LabelSelector {
    /// Reads a query string such as `app=web,tier in (a,b),!old`. The error is Kubernetes' sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        parse::labels(text)
    }

    /// Reads a `metav1.LabelSelector` object. Null matches nothing, an empty one everything.
    pub fn from_value(value: &Value) -> Result<Self, String> {
        if value.is_null() {
            return Ok(Self {
                requirements: Vec::new(),
                nothing: true,
            });
        }
        let mut requirements = Vec::new();
        for (key, label) in value
            .get("matchLabels")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            let label = label.as_str().unwrap_or("");
            requirements.push(Requirement::new(key, Operator::In, [label.to_owned()], &Path::root())?);
        }
        for expression in value
            .get("matchExpressions")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            requirements.push(from_expression(expression)?);
        }
        Ok(Self {
            requirements,
            nothing: false,
        })
    }

    /// Reads a plain map of labels (`spec.selector` of a Service).
    pub fn from_labels(labels: &Value) -> Self {
        let entries = labels.as_object().into_iter().flatten();
        let requirements = entries
            .map(|(key, value)| Requirement {
                key: key.clone(),
                operator: Operator::Equals,
                values: BTreeSet::from([value.as_str().unwrap_or("").to_owned()]),
            })
            .collect();
        Self {
            requirements,
            nothing: false,
        }
    }

    /// Whether the labels (a JSON object of strings, or null) fulfil every requirement.
    pub fn matches(&self, labels: &Value) -> bool {
        self.matches_with(|key| labels.get(key).and_then(Value::as_str))
    }

    /// Whether the labels, sorted by key, fulfil every requirement.
    pub fn matches_pairs(&self, labels: &[(String, String)]) -> bool {
        self.matches_with(|key| {
            let position = labels.binary_search_by(|(name, _)| name.as_str().cmp(key)).ok()?;
            labels.get(position).map(|(_, value)| value.as_str())
        })
    }

    /// Whether the labels that `find` knows fulfil every requirement.
    pub fn matches_with<'a>(&self, find: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing
            && self
                .requirements
                .iter()
                .all(|requirement| requirement.matches(find(&requirement.key)))
    }

    /// Whether everything matches.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }
}

impl Requirement {
    /// Checks key, operator and values together. The error is Kubernetes' sentence.
    pub fn new(
        key: &str,
        operator: Operator,
        values: impl IntoIterator<Item = String>,
        path: &Path,
    ) -> Result<Self, String> {
        let values: BTreeSet<String> = values.into_iter().collect();
        let mut errors = ErrorList::new();
        if let Some(objection) = objections(names::qualified_name(key)) {
            errors.push(field::invalid(&path.child("key"), key, objection));
        }
        let values_path = path.child("values");
        let listed = Value::from(values.iter().cloned().collect::<Vec<_>>());
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                let detail = "for 'in', 'notin' operators, values set can't be empty";
                errors.push(field::invalid(&values_path, listed, detail));
            }
            Operator::Equals | Operator::NotEquals if values.len() != 1 => {
                let detail = "exact-match compatibility requires one single value";
                errors.push(field::invalid(&values_path, listed, detail));
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                let detail = "values set must be empty for exists and does not exist";
                errors.push(field::invalid(&values_path, listed, detail));
            }
            Operator::GreaterThan | Operator::LessThan => errors.extend(check_bound(&values, &values_path, listed)),
            _ => {}
        }
        for (index, value) in values.iter().enumerate() {
            if let Some(objection) = objections(names::label_value(value)) {
                errors.push(field::invalid(
                    &values_path.index(index).key(key),
                    value.as_str(),
                    objection,
                ));
            }
        }
        if errors.is_empty() {
            Ok(Self {
                key: key.to_owned(),
                operator,
                values,
            })
        } else {
            Err(field::join(&errors))
        }
    }

    fn matches(&self, label: Option<&str>) -> bool {
        match self.operator {
            Operator::In | Operator::Equals => label.is_some_and(|value| self.values.contains(value)),
            Operator::NotIn | Operator::NotEquals => !label.is_some_and(|value| self.values.contains(value)),
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
            Operator::GreaterThan => self.compares(label, |found, bound| found > bound),
            Operator::LessThan => self.compares(label, |found, bound| found < bound),
        }
    }

    fn compares(&self, label: Option<&str>, holds: fn(i64, i64) -> bool) -> bool {
        let found = label.and_then(|text| text.parse().ok());
        let bound = self.values.iter().next().and_then(|text| text.parse().ok());
        matches!((found, bound), (Some(found), Some(bound)) if holds(found, bound))
    }
}

fn objections(list: Vec<String>) -> Option<String> {
    if list.is_empty() { None } else { Some(list.join("; ")) }
}

fn check_bound(values: &BTreeSet<String>, path: &Path, listed: Value) -> ErrorList {
    if values.len() != 1 {
        let detail = "for 'Gt', 'Lt' operators, exactly one value is required";
        return vec![field::invalid(path, listed, detail)].into();
    }
    let bad = values
        .iter()
        .enumerate()
        .filter(|(_, value)| value.parse::<i64>().is_err());
    bad.map(|(index, value)| {
        let detail = "for 'Gt', 'Lt' operators, the value must be an integer";
        field::invalid(&path.index(index), value.as_str(), detail)
    })
    .collect()
}

fn from_expression(expression: &Value) -> Result<Requirement, String> {
    let key = expression.get("key").and_then(Value::as_str).unwrap_or("");
    let name = expression.get("operator").and_then(Value::as_str).unwrap_or("");
    let operator = match name {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        _ => return Err(format!("{} is not a valid label selector operator", field::quote(name))),
    };
    let values = expression.get("values").and_then(Value::as_array).into_iter().flatten();
    let values = values.filter_map(|value| value.as_str().map(str::to_owned));
    Requirement::new(key, operator, values, &Path::root())
}

#[cfg(test)]
mod tests;

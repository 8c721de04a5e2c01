//! Filling a template in.

use anyhow::{Result, anyhow, bail};
use serde_json::Value;

use super::functions::{self, shown, truth};
use super::{Head, Node, Pipeline, Term};

/// The filled in text is at most this long, in bytes.
const OUTPUT_MAX: usize = 256 * 1024 * 1024;

/// Variables, the innermost last.
struct Scope(Vec<(String, Value)>);

/// How a list of nodes ended.
#[derive(PartialEq)]
enum Flow {
    Through,
    Break,
    Continue,
}

pub(super) fn render(nodes: &[Node], object: &Value) -> Result<String> {
    let mut out = String::new();
    let mut scope = Scope(vec![(String::new(), object.clone())]);
    run(nodes, object, &mut scope, &mut out)?;
    Ok(out)
}

fn run(nodes: &[Node], dot: &Value, scope: &mut Scope, out: &mut String) -> Result<Flow> {
    for node in nodes {
        if out.len() > OUTPUT_MAX {
            bail!("the output is larger than {OUTPUT_MAX} bytes");
        }
        let flow = match node {
            Node::Text(text) => {
                out.push_str(text);
                Flow::Through
            }
            Node::Print(pipeline) => {
                let value = evaluate(pipeline, dot, scope)?;
                match &pipeline.variable {
                    Some(name) => scope.set(name, value, pipeline.assigns)?,
                    None => out.push_str(&shown(&value)),
                }
                Flow::Through
            }
            Node::If(branches, otherwise) => {
                let depth = scope.0.len();
                let mut taken = otherwise;
                for (condition, body) in branches {
                    let value = evaluate(condition, dot, scope)?;
                    let holds = truth(&value);
                    scope.declare(condition.variable.as_deref(), value);
                    if holds {
                        taken = body;
                        break;
                    }
                }
                let flow = run(taken, dot, scope, out)?;
                scope.0.truncate(depth);
                flow
            }
            Node::With(pipeline, body, otherwise) => {
                let depth = scope.0.len();
                let value = evaluate(pipeline, dot, scope)?;
                scope.declare(pipeline.variable.as_deref(), value.clone());
                let flow = if truth(&value) {
                    run(body, &value, scope, out)?
                } else {
                    run(otherwise, dot, scope, out)?
                };
                scope.0.truncate(depth);
                flow
            }
            Node::Range {
                names,
                over,
                body,
                otherwise,
            } => {
                let items = items(evaluate(over, dot, scope)?)?;
                if items.is_empty() {
                    run(otherwise, dot, scope, out)?
                } else {
                    range(names, items, body, scope, out)?
                }
            }
            Node::Break => Flow::Break,
            Node::Continue => Flow::Continue,
        };
        if flow != Flow::Through {
            return Ok(flow);
        }
    }
    Ok(Flow::Through)
}

fn range(
    (key_name, value_name): &(Option<String>, Option<String>),
    items: Vec<(Value, Value)>,
    body: &[Node],
    scope: &mut Scope,
    out: &mut String,
) -> Result<Flow> {
    let depth = scope.0.len();
    for (key, value) in items {
        scope.declare(key_name.as_deref(), key);
        scope.declare(value_name.as_deref(), value.clone());
        let flow = run(body, &value, scope, out)?;
        scope.0.truncate(depth);
        if flow == Flow::Break {
            break;
        }
    }
    Ok(Flow::Through)
}

/// What a range goes over, with positions or keys.
fn items(value: Value) -> Result<Vec<(Value, Value)>> {
    Ok(match value {
        Value::Array(items) => items
            .into_iter()
            .enumerate()
            .map(|(at, item)| (at.into(), item))
            .collect(),
        Value::Object(fields) => fields.into_iter().map(|(key, value)| (key.into(), value)).collect(),
        Value::Null => Vec::new(),
        other => bail!("range can't iterate over {}", shown(&other)),
    })
}

fn evaluate(pipeline: &Pipeline, dot: &Value, scope: &Scope) -> Result<Value> {
    let mut last: Option<Value> = None;
    for command in &pipeline.commands {
        last = Some(match command.as_slice() {
            [Term(Head::Function(name), fields), rest @ ..] => {
                let mut arguments = Vec::new();
                for one in rest {
                    arguments.push(term(one, dot, scope)?);
                    // What cannot change the outcome any more is not looked at.
                    let decided = arguments.last().is_some_and(|value| match name.as_str() {
                        "and" => !truth(value),
                        "or" => truth(value),
                        _ => false,
                    });
                    if decided {
                        break;
                    }
                }
                arguments.extend(last);
                take(functions::call(name, &arguments)?, fields)?
            }
            [one] if last.is_none() => term(one, dot, scope)?,
            [one, ..] => bail!("can't give argument to non-function {one:?}"),
            [] => bail!("missing value for command"),
        });
    }
    Ok(last.unwrap_or(Value::Null))
}

fn term(Term(head, fields): &Term, dot: &Value, scope: &Scope) -> Result<Value> {
    match head {
        Head::Dot => take_of(dot, fields),
        Head::Variable(name) => take_of(scope.get(name)?, fields),
        Head::Literal(value) => Ok(value.clone()),
        Head::Function(name) => take(functions::call(name, &[])?, fields),
        Head::Group(pipeline) => take(evaluate(pipeline, dot, scope)?, fields),
    }
}

fn take(value: Value, fields: &[String]) -> Result<Value> {
    if fields.is_empty() {
        return Ok(value);
    }
    take_of(&value, fields)
}

fn take_of(value: &Value, fields: &[String]) -> Result<Value> {
    let mut value = value;
    for field in fields {
        value = match value {
            Value::Object(map) => map.get(field).unwrap_or(&Value::Null),
            Value::Null => bail!("nil pointer evaluating interface {{}}.{field}"),
            other => bail!("can't evaluate field {field} in {}", shown(other)),
        };
    }
    Ok(value.clone())
}

impl Scope {
    fn get(&self, name: &str) -> Result<&Value> {
        let found = self.0.iter().rev().find(|(known, _)| known == name);
        found
            .map(|(_, value)| value)
            .ok_or_else(|| anyhow!("undefined variable: ${name}"))
    }

    fn declare(&mut self, name: Option<&str>, value: Value) {
        if let Some(name) = name {
            self.0.push((name.to_owned(), value));
        }
    }

    fn set(&mut self, name: &str, value: Value, assigns: bool) -> Result<()> {
        if !assigns {
            self.declare(Some(name), value);
            return Ok(());
        }
        let found = self.0.iter_mut().rev().find(|(known, _)| known == name);
        let (_, place) = found.ok_or_else(|| anyhow!("undefined variable: ${name}"))?;
        *place = value;
        Ok(())
    }
}

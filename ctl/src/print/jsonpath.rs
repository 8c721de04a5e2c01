//! JSONPath templates in kubectl's dialect: `{.items[*].metadata.name}`, `{range}`…`{end}`, filters, slices, `..`.

use anyhow::{Result, bail};
use serde_json::Value;

/// A parsed template.
#[derive(Debug, Clone, PartialEq)]
pub struct Template(Vec<Node>);

impl Eq for Template {}

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Text(String),
    Path(Path),
    Range(Path, Vec<Node>),
}

type Path = Vec<Step>;

#[derive(Debug, Clone, PartialEq)]
enum Step {
    /// `$`: the root of the document instead of the current item.
    Root,
    Field(String),
    Wildcard,
    Descend,
    Slice(Option<i64>, Option<i64>, Option<i64>),
    Index(i64),
    Union(Vec<String>),
    Filter(Operand, Comparison, Operand),
    Exists(Operand),
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Path(Path),
    Value(Value),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Template text longer than this is refused.
const BYTES_MAX: usize = 64 * 1024;
const DEPTH_MAX: usize = 32;

impl Template {
    /// Parses a template; one without braces is taken as a single path, as kubectl does.
    ///
    /// # Errors
    /// A sentence about the part that does not parse.
    pub fn parse(text: &str) -> Result<Self> {
        if text.len() > BYTES_MAX {
            bail!("the template is longer than {BYTES_MAX} bytes");
        }
        let text = if text.contains('{') {
            text.to_owned()
        } else {
            format!("{{{}{text}}}", if text.starts_with(['.', '$', '[']) { "" } else { "." })
        };
        let mut rest = text.as_str();
        let nodes = parse_nodes(&mut rest, false, 0)
            .map_err(|error| anyhow::anyhow!("error parsing jsonpath {text}, {error}"))?;
        Ok(Self(nodes))
    }

    /// Fills the template in from `document`; what is missing prints nothing.
    #[must_use]
    pub fn render(&self, document: &Value) -> String {
        let mut out = String::new();
        render_nodes(&self.0, document, document, &mut out);
        out
    }

    /// The values that the template's paths reach, for sorting and columns.
    #[must_use]
    pub fn values<'a>(&self, document: &'a Value) -> Vec<&'a Value> {
        self.0
            .iter()
            .filter_map(|node| match node {
                Node::Path(path) => Some(walk(path, document, document)),
                Node::Text(_) | Node::Range(..) => None,
            })
            .flatten()
            .collect()
    }
}

fn parse_nodes(rest: &mut &str, in_range: bool, depth: usize) -> Result<Vec<Node>> {
    if depth > DEPTH_MAX {
        bail!("ranges are nested too deeply");
    }
    let mut nodes = Vec::new();
    while !rest.is_empty() {
        let Some(open) = rest.find('{') else {
            nodes.push(Node::Text(std::mem::take(rest).to_owned()));
            break;
        };
        if open > 0 {
            nodes.push(Node::Text(rest.get(..open).unwrap_or_default().to_owned()));
        }
        let body = rest.get(open + 1..).unwrap_or_default();
        let Some(close) = closing(body) else {
            bail!("unclosed action")
        };
        let action = body.get(..close).unwrap_or_default().trim();
        *rest = body.get(close + 1..).unwrap_or_default();
        if let Some(text) = quoted(action) {
            nodes.push(Node::Text(text));
        } else if let Some(path) = action.strip_prefix("range") {
            let path = parse_path(path.trim())?;
            nodes.push(Node::Range(path, parse_nodes(rest, true, depth + 1)?));
        } else if action == "end" {
            if !in_range {
                bail!("not in range, nothing to end");
            }
            return Ok(nodes);
        } else {
            nodes.push(Node::Path(parse_path(action)?));
        }
    }
    if in_range {
        bail!("unclosed range: {{end}} is missing");
    }
    Ok(nodes)
}

/// The position of the `}` that ends an action, outside quotes.
fn closing(body: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (i, c) in body.char_indices() {
        match (quote, c) {
            _ if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '}') => return Some(i),
            (None, _) => {}
        }
    }
    None
}

fn quoted(text: &str) -> Option<String> {
    let quote = text.chars().next().filter(|c| *c == '"' || *c == '\'')?;
    let inner = text.strip_prefix(quote)?.strip_suffix(quote)?;
    let mut out = String::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some('r') => out.push('\r'),
                Some(other) => out.push(other),
                None => {}
            },
            other => out.push(other),
        }
    }
    Some(out)
}

fn parse_path(text: &str) -> Result<Path> {
    let mut steps = Vec::new();
    let mut rest = text;
    if let Some(tail) = rest.strip_prefix('@') {
        rest = tail;
    } else if let Some(tail) = rest.strip_prefix('$') {
        steps.push(Step::Root);
        rest = tail;
    }
    while !rest.is_empty() {
        if let Some(tail) = rest.strip_prefix("..") {
            steps.push(Step::Descend);
            rest = tail;
            if !rest.starts_with('[') {
                rest = field(rest, &mut steps)?;
            }
        } else if let Some(tail) = rest.strip_prefix('.') {
            rest = if tail.is_empty() || tail.starts_with('[') {
                tail
            } else {
                field(tail, &mut steps)?
            };
        } else if let Some(tail) = rest.strip_prefix('[') {
            let Some(end) = bracket_end(tail) else {
                bail!("unterminated array")
            };
            steps.push(bracket(tail.get(..end).unwrap_or_default().trim())?);
            rest = tail.get(end + 1..).unwrap_or_default();
        } else if steps.is_empty() {
            rest = field(rest, &mut steps)?;
        } else {
            bail!("unexpected {rest:?}");
        }
    }
    Ok(steps)
}

/// Reads a field name, in which a backslash keeps the next character.
fn field<'a>(text: &'a str, steps: &mut Path) -> Result<&'a str> {
    let mut name = String::new();
    let mut chars = text.char_indices();
    let mut end = text.len();
    while let Some((i, c)) = chars.next() {
        match c {
            '\\' => name.extend(chars.next().map(|(_, c)| c)),
            '.' | '[' => {
                end = i;
                break;
            }
            ' ' | ',' | '(' | ')' | ']' => bail!("unrecognized character in action: {c:?}"),
            other => name.push(other),
        }
    }
    steps.push(if name == "*" { Step::Wildcard } else { Step::Field(name) });
    Ok(text.get(end..).unwrap_or_default())
}

fn bracket_end(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut quote = None;
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '[' | '(') => depth += 1,
            (None, ')') => depth = depth.saturating_sub(1),
            (None, ']') if depth == 0 => return Some(i),
            (None, ']') => depth -= 1,
            (None, _) => {}
        }
    }
    None
}

fn bracket(inner: &str) -> Result<Step> {
    if let Some(filter) = inner.strip_prefix("?(").and_then(|f| f.strip_suffix(')')) {
        return parse_filter(filter);
    }
    if inner == "*" {
        return Ok(Step::Wildcard);
    }
    if inner.starts_with(['"', '\'']) {
        let names = inner.split(',').map(|n| quoted(n.trim())).collect::<Option<Vec<_>>>();
        let Some(names) = names else {
            bail!("invalid key {inner}")
        };
        return Ok(Step::Union(names));
    }
    let number = |text: &str| -> Result<Option<i64>> {
        if text.is_empty() {
            Ok(None)
        } else {
            text.parse()
                .map(Some)
                .map_err(|_| anyhow::anyhow!("invalid array index {inner}"))
        }
    };
    let parts: Vec<&str> = inner.split(':').map(str::trim).collect();
    match parts.as_slice() {
        [one] => Ok(Step::Index(number(one)?.unwrap_or(0))),
        [from, to] => Ok(Step::Slice(number(from)?, number(to)?, None)),
        [from, to, step] => Ok(Step::Slice(number(from)?, number(to)?, number(step)?)),
        _ => bail!("invalid array index {inner}"),
    }
}

fn parse_filter(text: &str) -> Result<Step> {
    let operators = [
        ("==", Comparison::Equal),
        ("!=", Comparison::NotEqual),
        ("<=", Comparison::LessOrEqual),
        (">=", Comparison::GreaterOrEqual),
        ("<", Comparison::Less),
        (">", Comparison::Greater),
    ];
    for (word, comparison) in operators {
        if let Some((left, right)) = text.split_once(word) {
            return Ok(Step::Filter(operand(left.trim())?, comparison, operand(right.trim())?));
        }
    }
    Ok(Step::Exists(operand(text.trim())?))
}

fn operand(text: &str) -> Result<Operand> {
    if let Some(text) = quoted(text) {
        return Ok(Operand::Value(Value::String(text)));
    }
    if text.starts_with(['@', '$', '.']) {
        return Ok(Operand::Path(parse_path(text)?));
    }
    serde_json::from_str(text)
        .map(Operand::Value)
        .map_err(|_| anyhow::anyhow!("unrecognized operand {text}"))
}

fn render_nodes(nodes: &[Node], root: &Value, current: &Value, out: &mut String) {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Path(path) => {
                let values: Vec<String> = walk(path, root, current).into_iter().map(value_text).collect();
                out.push_str(&values.join(" "));
            }
            Node::Range(path, body) => {
                for item in walk(path, root, current) {
                    render_nodes(body, root, item, out);
                }
            }
        }
    }
}

fn value_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn walk<'a>(path: &[Step], root: &'a Value, current: &'a Value) -> Vec<&'a Value> {
    let mut now = vec![current];
    for step in path {
        now = now.into_iter().flat_map(|value| take(step, root, value)).collect();
    }
    now
}

fn take<'a>(step: &Step, root: &'a Value, value: &'a Value) -> Vec<&'a Value> {
    match step {
        Step::Root => vec![root],
        Step::Field(name) => value.get(name).into_iter().collect(),
        Step::Union(names) => names.iter().filter_map(|n| value.get(n)).collect(),
        Step::Wildcard => children(value),
        Step::Descend => {
            let mut all = Vec::new();
            descend(value, &mut all);
            all
        }
        Step::Index(index) => value
            .as_array()
            .and_then(|a| a.get(position(*index, a.len())?))
            .into_iter()
            .collect(),
        Step::Slice(from, to, step) => slice(value, *from, *to, *step),
        Step::Filter(left, comparison, right) => children(value)
            .into_iter()
            .filter(|item| compare(resolve(left, root, item), *comparison, resolve(right, root, item)))
            .collect(),
        Step::Exists(operand) => children(value)
            .into_iter()
            .filter(|item| resolve(operand, root, item).is_some())
            .collect(),
    }
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(fields) => fields.values().collect(),
        _ => Vec::new(),
    }
}

fn descend<'a>(value: &'a Value, out: &mut Vec<&'a Value>) {
    out.push(value);
    for child in children(value) {
        descend(child, out);
    }
}

fn position(index: i64, length: usize) -> Option<usize> {
    if index < 0 {
        length.checked_sub(usize::try_from(index.unsigned_abs()).ok()?)
    } else {
        usize::try_from(index).ok()
    }
}

fn slice(value: &Value, from: Option<i64>, to: Option<i64>, step: Option<i64>) -> Vec<&Value> {
    let Some(items) = value.as_array() else {
        return Vec::new();
    };
    let at = |index: Option<i64>, default: usize| {
        index.map_or(default, |i| position(i, items.len()).unwrap_or(0).min(items.len()))
    };
    let (from, to) = (at(from, 0), at(to, items.len()));
    let step = usize::try_from(step.unwrap_or(1)).unwrap_or(1).max(1);
    items.get(from..to).unwrap_or_default().iter().step_by(step).collect()
}

fn resolve<'a>(operand: &'a Operand, root: &'a Value, item: &'a Value) -> Option<&'a Value> {
    match operand {
        Operand::Value(value) => Some(value),
        Operand::Path(path) => walk(path, root, item).into_iter().next(),
    }
}

fn compare(left: Option<&Value>, comparison: Comparison, right: Option<&Value>) -> bool {
    let (Some(left), Some(right)) = (left, right) else {
        return false;
    };
    let order = match (left, right) {
        (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (a, b) => (a == b).then_some(std::cmp::Ordering::Equal),
    };
    match comparison {
        Comparison::Equal => order.is_some_and(std::cmp::Ordering::is_eq),
        Comparison::NotEqual => !order.is_some_and(std::cmp::Ordering::is_eq),
        Comparison::Less => order.is_some_and(std::cmp::Ordering::is_lt),
        Comparison::LessOrEqual => order.is_some_and(std::cmp::Ordering::is_le),
        Comparison::Greater => order.is_some_and(std::cmp::Ordering::is_gt),
        Comparison::GreaterOrEqual => order.is_some_and(std::cmp::Ordering::is_ge),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn templates_from_the_documentation() {
        let document = json!({
            "kind": "List",
            "items": [
                {"kind": "None", "metadata": {"name": "127.0.0.1", "labels": {"kubernetes.io/hostname": "a.b"}}, "status": {"capacity": {"cpu": "4"}}},
                {"kind": "None", "metadata": {"name": "127.0.0.2"}, "status": {"capacity": {"cpu": "8"}}, "n": 3}],
            "users": [{"name": "myself", "user": {}}, {"name": "e2e", "user": {"username": "admin", "password": "secret"}}]});
        let check = |template: &str, want: &str| {
            let got = Template::parse(template)
                .map(|t| t.render(&document))
                .map_err(|e| e.to_string());
            assert_eq!(got.as_deref().unwrap_or_else(|e| e), want, "{template}");
        };
        check("{.kind}", "List");
        check(".kind", "List");
        check("{['kind']}", "List");
        check("the object is {.kind}", "the object is List");
        check("{..name}", "127.0.0.1 127.0.0.2 myself e2e");
        check("{.items[*].metadata.name}", "127.0.0.1 127.0.0.2");
        check("{.users[0].name}", "myself");
        check("{.users[-1].name}", "e2e");
        check("{.users[-1:].name}", "e2e");
        check("{.items[*]['metadata.name']}", "");
        check("{.users[?(@.name==\"e2e\")].user.password}", "secret");
        check("{.items[?(@.n>2)].metadata.name}", "127.0.0.2");
        check("{.items[?(@.n)].metadata.name}", "127.0.0.2");
        check(
            "{range .items[*]}[{.metadata.name}, {.status.capacity.cpu}] {end}",
            "[127.0.0.1, 4] [127.0.0.2, 8] ",
        );
        check(
            "{range .items[*]}{.metadata.name}{'\\t'}{\"\\n\"}{end}",
            "127.0.0.1\t\n127.0.0.2\t\n",
        );
        check("{.items[0].metadata.labels.kubernetes\\.io/hostname}", "a.b");
        check("{.items[0].status.capacity}", "{\"cpu\":\"4\"}");
        check("{.missing}", "");
        check("{.items[99].x}", "");
        check(
            "{range .items[*]}x",
            "error parsing jsonpath {range .items[*]}x, unclosed range: {end} is missing",
        );
        check("{.items[*}", "error parsing jsonpath {.items[*}, unterminated array");
        check("{end}", "error parsing jsonpath {end}, not in range, nothing to end");
    }

    /// Templates of any text: parsed or refused, and rendered.
    #[test]
    fn fuzz_templates() {
        let seeds = [
            "{range .items[*]}[{.metadata.name}, {.status.capacity.cpu}] {end}",
            "{.users[?(@.name==\"e2e\")].user.password}",
            "{..name}",
            "{.users[-1:-2:0].x}",
            "{.a['b','c']}",
            "{.items[0].metadata.labels.kubernetes\\.io/hostname}",
            "{'\\t'}{\"\\n\"}",
        ];
        let seeds = seeds.iter().map(|text| text.as_bytes().to_vec()).collect();
        let words = &[
            "{range ", "{end}", "..", "[*]", "[?(@.", ")]", "[-1:", "==", "@", "$", "\\.",
        ];
        let document = serde_json::json!({"items": [{"metadata": {"name": "x"}, "n": 1.5}], "users": [{"name": "e2e"}, null], "a": {"b": [[1]]}});
        coxswain_fuzz::fuzz("jsonpath", seeds, words, |bytes: &Vec<u8>| {
            let text = str::from_utf8(bytes).map_err(|error| error.to_string())?;
            let template = Template::parse(text).map_err(|error| error.to_string())?;
            let _ = (template.values(&document).len(), template.render(&document).len());
            Ok(())
        });
    }
}

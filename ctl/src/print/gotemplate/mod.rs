//! Go templates as `-o go-template` takes them: fields, variables, pipelines, `if`, `range`, `with`, and the
//! functions that make sense for objects. No user-defined templates.

mod eval;
mod functions;

use anyhow::{Result, anyhow, bail};
use serde_json::Value;

/// Template text longer than this is refused.
const BYTES_MAX: usize = 64 * 1024;
/// Blocks and parentheses nest at most this deep.
const DEPTH_MAX: usize = 64;

/// A parsed template.
#[derive(Debug, Clone, PartialEq)]
pub struct Template(Vec<Node>);

impl Eq for Template {}

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Text(String),
    Print(Pipeline),
    /// The first branch whose pipeline is true, or the last part.
    If(Vec<(Pipeline, Vec<Node>)>, Vec<Node>),
    With(Pipeline, Vec<Node>, Vec<Node>),
    Range {
        /// Names of the variables for the key and the value.
        names: (Option<String>, Option<String>),
        over: Pipeline,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Break,
    Continue,
}

#[derive(Debug, Clone, PartialEq, Default)]
struct Pipeline {
    /// The variable that takes the result; then nothing is printed.
    variable: Option<String>,
    /// A variable that exists is changed, instead of a new one made.
    assigns: bool,
    commands: Vec<Vec<Term>>,
}

/// A term with the fields taken of it.
#[derive(Debug, Clone, PartialEq)]
struct Term(Head, Vec<String>);

#[derive(Debug, Clone, PartialEq)]
enum Head {
    Dot,
    Variable(String),
    Literal(Value),
    Function(String),
    Group(Pipeline),
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// What does not parse.
    pub fn parse(text: &str) -> Result<Self> {
        let parsed = if text.len() > BYTES_MAX {
            Err(anyhow!("the template is longer than {BYTES_MAX} bytes"))
        } else {
            Parser {
                pieces: pieces(text)?,
                at: 0,
                depth: 0,
            }
            .whole()
        };
        parsed
            .map(Self)
            .map_err(|e| anyhow!("error parsing template {text}, {e}"))
    }

    /// Fills it in.
    ///
    /// # Errors
    /// When an action does not fit the object.
    pub fn render(&self, object: &Value) -> Result<String> {
        eval::render(&self.0, object).map_err(|e| anyhow!("error executing template: {e}"))
    }
}

enum Piece {
    Text(String),
    Action(Vec<Token>),
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    /// `.a`, or `.` alone with an empty name; `true` when it directly follows what is before it.
    Field(String, bool),
    Variable(String),
    Word(String),
    Literal(Value),
    Mark(char),
    Declare,
}

/// Text and actions in turn; `{{-` and `-}}` take the blanks beside them away.
fn pieces(text: &str) -> Result<Vec<Piece>> {
    let mut out = Vec::new();
    let mut rest = text;
    let mut trim_next = false;
    loop {
        let (before, action) = match rest.split_once("{{") {
            Some((before, action)) => (before, Some(action)),
            None => (rest, None),
        };
        let mut before = if trim_next { before.trim_start() } else { before };
        let Some(action) = action else {
            out.push(Piece::Text(before.to_owned()));
            return Ok(out);
        };
        let end = closing(action).ok_or_else(|| anyhow!("unclosed action"))?;
        let (mut inside, after) = (&action[..end], &action[end + 2..]);
        if let Some(trimmed) = inside.strip_prefix('-').filter(|t| t.starts_with(char::is_whitespace)) {
            inside = trimmed;
            before = before.trim_end();
        }
        trim_next = inside.ends_with(" -") || inside.ends_with("\n-");
        if trim_next {
            inside = inside.trim_end_matches('-');
        }
        out.push(Piece::Text(before.to_owned()));
        let inside = inside.trim();
        if !(inside.starts_with("/*") && inside.ends_with("*/")) {
            out.push(Piece::Action(tokens(inside)?));
        }
        rest = after;
    }
}

/// Where the `}}` of an action is, outside quotes.
fn closing(action: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in action.char_indices() {
        match (quote, c) {
            _ if escaped => escaped = false,
            (Some('"' | '\''), '\\') => escaped = true,
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'' | '`') => quote = Some(c),
            (None, '}') if action[at..].starts_with("}}") => return Some(at),
            (None, _) => {}
        }
    }
    None
}

fn tokens(text: &str) -> Result<Vec<Token>> {
    let mut out = Vec::new();
    let mut chars = text.char_indices().peekable();
    let mut end_of_last = usize::MAX;
    while let Some((start, c)) = chars.next() {
        let word = |chars: &mut std::iter::Peekable<std::str::CharIndices<'_>>| {
            let mut name = String::new();
            while let Some((_, c)) = chars.next_if(|(_, c)| c.is_alphanumeric() || *c == '_') {
                name.push(c);
            }
            name
        };
        let token = match c {
            _ if c.is_whitespace() => continue,
            '.' => Token::Field(word(&mut chars), end_of_last == start),
            '$' => Token::Variable(word(&mut chars)),
            '(' | ')' | '|' | ',' | '=' => Token::Mark(c),
            ':' if chars.next_if(|(_, c)| *c == '=').is_some() => Token::Declare,
            '"' | '`' | '\'' => Token::Literal(Value::String(quoted(c, &mut chars)?)),
            '0'..='9' | '-' | '+' => {
                let mut number = String::from(c);
                while let Some((_, c)) = chars.next_if(|(_, c)| c.is_ascii_alphanumeric() || *c == '.') {
                    number.push(c);
                }
                let number = number.trim_start_matches('+');
                Token::Literal(serde_json::from_str(number).map_err(|_| anyhow!("bad number syntax: {number:?}"))?)
            }
            c if c.is_alphabetic() || c == '_' => {
                let name = format!("{c}{}", word(&mut chars));
                match name.as_str() {
                    "true" => Token::Literal(true.into()),
                    "false" => Token::Literal(false.into()),
                    "nil" => Token::Literal(Value::Null),
                    _ => Token::Word(name),
                }
            }
            c => bail!("unexpected {c:?} in command"),
        };
        out.push(token);
        end_of_last = chars.peek().map_or(text.len(), |(at, _)| *at);
    }
    Ok(out)
}

fn quoted(quote: char, chars: &mut std::iter::Peekable<std::str::CharIndices<'_>>) -> Result<String> {
    let mut out = String::new();
    while let Some((_, c)) = chars.next() {
        match c {
            c if c == quote => return Ok(out),
            '\\' if quote != '`' => match chars.next() {
                Some((_, 'n')) => out.push('\n'),
                Some((_, 't')) => out.push('\t'),
                Some((_, 'r')) => out.push('\r'),
                Some((_, other)) => out.push(other),
                None => break,
            },
            c => out.push(c),
        }
    }
    bail!("unterminated quoted string")
}

struct Parser {
    pieces: Vec<Piece>,
    at: usize,
    depth: usize,
}

/// What ended a block.
enum Ended {
    Text,
    Close,
    Else(Vec<Token>),
}

impl Parser {
    fn whole(mut self) -> Result<Vec<Node>> {
        match self.block()? {
            (nodes, Ended::Text) => Ok(nodes),
            (_, Ended::Close) => bail!("unexpected {{{{end}}}}"),
            (_, Ended::Else(_)) => bail!("unexpected {{{{else}}}}"),
        }
    }

    fn block(&mut self) -> Result<(Vec<Node>, Ended)> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            bail!("blocks are nested too deeply");
        }
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.get_mut(self.at) {
            self.at += 1;
            let tokens = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(std::mem::take(text)));
                    continue;
                }
                Piece::Action(tokens) => std::mem::take(tokens),
            };
            let word = match tokens.first() {
                Some(Token::Word(word)) => word.as_str(),
                _ => "",
            };
            let rest = tokens.get(1..).unwrap_or_default();
            match word {
                "end" | "else" => {
                    self.depth -= 1;
                    let end = if word == "end" {
                        Ended::Close
                    } else {
                        Ended::Else(rest.to_vec())
                    };
                    return Ok((nodes, end));
                }
                "if" => nodes.push(self.conditional(rest)?),
                "with" => {
                    let pipeline = pipeline(rest)?;
                    let (body, otherwise) = self.body_and_else()?;
                    nodes.push(Node::With(pipeline, body, otherwise));
                }
                "range" => nodes.push(self.range(rest)?),
                "break" => nodes.push(Node::Break),
                "continue" => nodes.push(Node::Continue),
                "define" | "template" | "block" => bail!("{word} is not supported here"),
                _ => nodes.push(Node::Print(pipeline(&tokens)?)),
            }
        }
        self.depth -= 1;
        Ok((nodes, Ended::Text))
    }

    fn conditional(&mut self, tokens: &[Token]) -> Result<Node> {
        let mut condition = pipeline(tokens)?;
        let mut branches = Vec::new();
        loop {
            let (body, end) = self.block()?;
            branches.push((condition, body));
            match end {
                Ended::Text => bail!("unexpected EOF"),
                Ended::Close => return Ok(Node::If(branches, Vec::new())),
                Ended::Else(tokens) => match tokens.split_first() {
                    Some((Token::Word(word), rest)) if word == "if" => condition = pipeline(rest)?,
                    Some(_) => bail!("unexpected words after else"),
                    None => {
                        let (otherwise, _) = self.body_and_else()?;
                        return Ok(Node::If(branches, otherwise));
                    }
                },
            }
        }
    }

    fn body_and_else(&mut self) -> Result<(Vec<Node>, Vec<Node>)> {
        let (body, end) = self.block()?;
        match end {
            Ended::Text => bail!("unexpected EOF"),
            Ended::Close => Ok((body, Vec::new())),
            Ended::Else(_) => match self.block()? {
                (otherwise, Ended::Close) => Ok((body, otherwise)),
                _ => bail!("expected end; found EOF or else"),
            },
        }
    }

    fn range(&mut self, tokens: &[Token]) -> Result<Node> {
        let (names, rest) = match tokens {
            [
                Token::Variable(key),
                Token::Mark(','),
                Token::Variable(value),
                Token::Declare,
                rest @ ..,
            ] => ((Some(key.clone()), Some(value.clone())), rest),
            [Token::Variable(value), Token::Declare, rest @ ..] => ((None, Some(value.clone())), rest),
            rest => ((None, None), rest),
        };
        let over = pipeline(rest)?;
        let (body, otherwise) = self.body_and_else()?;
        Ok(Node::Range {
            names,
            over,
            body,
            otherwise,
        })
    }
}

fn pipeline(tokens: &[Token]) -> Result<Pipeline> {
    let (variable, assigns, tokens) = match tokens {
        [Token::Variable(name), Token::Declare, rest @ ..] => (Some(name.clone()), false, rest),
        [Token::Variable(name), Token::Mark('='), rest @ ..] => (Some(name.clone()), true, rest),
        rest => (None, false, rest),
    };
    let mut at = 0;
    let mut parsed = commands(tokens, &mut at, 0)?;
    if at < tokens.len() {
        bail!("unexpected {:?} in operand", tokens.get(at));
    }
    parsed.variable = variable;
    parsed.assigns = assigns;
    Ok(parsed)
}

/// Commands up to the end or the parenthesis that closes them.
fn commands(tokens: &[Token], at: &mut usize, depth: usize) -> Result<Pipeline> {
    if depth > DEPTH_MAX {
        bail!("parentheses are nested too deeply");
    }
    let mut out = Pipeline {
        commands: vec![Vec::new()],
        ..Pipeline::default()
    };
    while let Some(token) = tokens.get(*at) {
        let head = match token {
            Token::Mark(')') => break,
            Token::Mark('|') => {
                *at += 1;
                out.commands.push(Vec::new());
                continue;
            }
            Token::Field(name, joined) => {
                *at += 1;
                let command = out.commands.last_mut();
                match (
                    command.and_then(|command| command.last_mut()).filter(|_| *joined),
                    name.is_empty(),
                ) {
                    (_, true) => Head::Dot,
                    (Some(term), false) => {
                        term.1.push(name.clone());
                        continue;
                    }
                    (None, false) => {
                        push(&mut out, Term(Head::Dot, vec![name.clone()]));
                        continue;
                    }
                }
            }
            Token::Variable(name) => Head::Variable(name.clone()),
            Token::Literal(value) => Head::Literal(value.clone()),
            Token::Word(name) if functions::exists(name) => Head::Function(name.clone()),
            Token::Word(name) => bail!("function {name:?} not defined"),
            Token::Mark('(') => {
                *at += 1;
                let inner = commands(tokens, at, depth + 1)?;
                if tokens.get(*at) != Some(&Token::Mark(')')) {
                    bail!("unclosed left paren");
                }
                Head::Group(inner)
            }
            other => bail!("unexpected {other:?} in operand"),
        };
        if !matches!(token, Token::Field(..)) {
            *at += 1;
        }
        push(&mut out, Term(head, Vec::new()));
    }
    if out.commands.iter().any(Vec::is_empty) {
        bail!("missing value for command");
    }
    Ok(out)
}

fn push(pipeline: &mut Pipeline, term: Term) {
    if let Some(command) = pipeline.commands.last_mut() {
        command.push(term);
    }
}

#[cfg(test)]
mod tests;

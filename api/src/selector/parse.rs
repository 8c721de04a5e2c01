//! The grammar of label selector strings, with Kubernetes' error sentences.

use super::{LabelSelector, Operator, Requirement};
use crate::field::{self, Path};
use crate::names;

/// Longest selector that is read, in bytes.
const TEXT_BYTES_MAX: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Token {
    Identifier,
    In,
    NotIn,
    Equals,
    DoubleEquals,
    NotEquals,
    Not,
    Greater,
    Less,
    Open,
    Close,
    Comma,
    End,
}

struct Parser<'a> {
    tokens: Vec<(Token, &'a str)>,
    at: usize,
}

pub(super) fn labels(text: &str) -> Result<LabelSelector, String> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(format!("selector is longer than {TEXT_BYTES_MAX} bytes"));
    }
    let mut parser = Parser {
        tokens: scan(text),
        at: 0,
    };
    let mut requirements = Vec::new();
    loop {
        match parser.look() {
            (Token::Identifier | Token::Not, _) => {
                let requirement = parser.requirement();
                requirements.push(requirement.map_err(|why| format!("unable to parse requirement: {why}"))?);
                match parser.take() {
                    (Token::End, _) => break,
                    (Token::Comma, _) => match parser.look() {
                        (Token::Identifier | Token::Not, _) => {}
                        (_, literal) => return Err(format!("found '{literal}', expected: identifier after ','")),
                    },
                    (_, literal) => return Err(format!("found '{literal}', expected: ',' or 'end of string'")),
                }
            }
            (Token::End, _) => break,
            (_, literal) => {
                return Err(format!(
                    "found '{literal}', expected: !, identifier, or 'end of string'"
                ));
            }
        }
    }
    requirements.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(LabelSelector {
        requirements,
        nothing: false,
    })
}

impl<'a> Parser<'a> {
    /// The next token where a key or value is expected: keywords are plain words there.
    fn look(&self) -> (Token, &'a str) {
        match self.tokens.get(self.at).copied().unwrap_or((Token::End, "")) {
            (Token::In | Token::NotIn, literal) => (Token::Identifier, literal),
            other => other,
        }
    }

    fn take(&mut self) -> (Token, &'a str) {
        let token = self.look();
        self.at += 1;
        token
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let (mut token, mut key) = self.take();
        let negated = token == Token::Not;
        if negated {
            (token, key) = self.take();
        }
        if token != Token::Identifier {
            return Err(format!("found '{key}', expected: identifier"));
        }
        let objections = names::qualified_name(key);
        if !objections.is_empty() {
            return Err(field::invalid(&Path::root(), key, objections.join("; ")).to_string());
        }
        if negated {
            return Requirement::new(key, Operator::DoesNotExist, [], &Path::root());
        }
        if matches!(self.look().0, Token::End | Token::Comma) {
            return Requirement::new(key, Operator::Exists, [], &Path::root());
        }
        let operator = self.operator()?;
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => vec![self.exact_value()?],
        };
        Requirement::new(key, operator, values, &Path::root())
    }

    fn operator(&mut self) -> Result<Operator, String> {
        let (token, literal) = self.tokens.get(self.at).copied().unwrap_or((Token::End, ""));
        self.at += 1;
        match token {
            Token::In => Ok(Operator::In),
            Token::NotIn => Ok(Operator::NotIn),
            Token::Equals | Token::DoubleEquals => Ok(Operator::Equals),
            Token::NotEquals => Ok(Operator::NotEquals),
            Token::Greater => Ok(Operator::GreaterThan),
            Token::Less => Ok(Operator::LessThan),
            _ => Err(format!("found '{literal}', expected: in, notin, =, ==, !=, gt, lt")),
        }
    }

    fn exact_value(&mut self) -> Result<String, String> {
        if matches!(self.look().0, Token::End | Token::Comma) {
            return Ok(String::new());
        }
        match self.take() {
            (Token::Identifier, literal) => Ok(literal.to_owned()),
            (_, literal) => Err(format!("found '{literal}', expected: identifier")),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        let (token, literal) = self.take();
        if token != Token::Open {
            return Err(format!("found '{literal}' expected: '('"));
        }
        match self.look() {
            (Token::Identifier | Token::Comma, literal) => {
                let list = self.value_list()?;
                match self.take() {
                    (Token::Close, _) => Ok(list),
                    _ => Err(format!("found '{literal}', expected: ')'")),
                }
            }
            (Token::Close, _) => {
                self.take();
                Ok(vec![String::new()])
            }
            (_, literal) => Err(format!("found '{literal}', expected: ',', ')' or identifier")),
        }
    }

    fn value_list(&mut self) -> Result<Vec<String>, String> {
        let mut list = Vec::new();
        loop {
            match self.take() {
                (Token::Identifier, literal) => {
                    list.push(literal.to_owned());
                    match self.look() {
                        (Token::Comma, _) => {}
                        (Token::Close, _) => return Ok(list),
                        (_, found) => return Err(format!("found '{found}', expected: ',' or ')'")),
                    }
                }
                (Token::Comma, _) => {
                    if list.is_empty() {
                        list.push(String::new());
                    }
                    match self.look().0 {
                        Token::Close => {
                            list.push(String::new());
                            return Ok(list);
                        }
                        Token::Comma => {
                            self.take();
                            list.push(String::new());
                        }
                        _ => {}
                    }
                }
                (_, literal) => return Err(format!("found '{literal}', expected: ',', or identifier")),
            }
        }
    }
}

fn scan(text: &str) -> Vec<(Token, &str)> {
    let is_symbol = |c: char| matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<');
    let is_space = |c: char| matches!(c, ' ' | '\t' | '\r' | '\n');
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(is_space);
        let Some(first) = rest.chars().next() else { break };
        let symbols = [
            ("==", Token::DoubleEquals),
            ("!=", Token::NotEquals),
            ("=", Token::Equals),
            ("!", Token::Not),
            (">", Token::Greater),
            ("<", Token::Less),
            ("(", Token::Open),
            (")", Token::Close),
            (",", Token::Comma),
        ];
        let (token, length) = if is_symbol(first) {
            let found = symbols.iter().find(|(symbol, _)| rest.starts_with(symbol));
            found.map_or((Token::Identifier, first.len_utf8()), |(symbol, token)| {
                (*token, symbol.len())
            })
        } else {
            let length = rest.find(|c| is_symbol(c) || is_space(c)).unwrap_or(rest.len());
            match rest.get(..length) {
                Some("in") => (Token::In, length),
                Some("notin") => (Token::NotIn, length),
                _ => (Token::Identifier, length),
            }
        };
        let (literal, after) = rest.split_at(length);
        tokens.push((token, literal));
        rest = after;
    }
    tokens
}

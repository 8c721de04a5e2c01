//! Regular expressions and formats of text, as Kubernetes' own libraries read them.

use jiff::Timestamp;
use jiff::civil::Date;
use regex_syntax::ast::{self, ErrorKind};
use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

/// The most repetitions that an expression may ask for at once.
const REPEAT_MAX: u32 = 1000;

/// Why a pattern is no regular expression, in the words of Kubernetes.
pub fn pattern_error(pattern: &str) -> Option<String> {
    let translated = translate(pattern);
    let parsed = ast::parse::Parser::new().parse(&translated);
    let why = match parsed {
        Ok(tree) => return too_often(&tree).map(|shown| format!("error parsing regexp: {shown}")),
        Err(error) => {
            let span = error.span();
            let part = translated.get(span.start.offset..span.end.offset).unwrap_or("");
            match error.kind() {
                ErrorKind::GroupUnclosed => format!("missing closing ): `{pattern}`"),
                ErrorKind::GroupUnopened => format!("unexpected ): `{pattern}`"),
                ErrorKind::ClassUnclosed => {
                    let rest = translated.get(span.start.offset..).unwrap_or(part);
                    format!("missing closing ]: `{rest}`")
                }
                ErrorKind::ClassRangeInvalid => format!("invalid character class range: `{part}`"),
                ErrorKind::RepetitionMissing => {
                    let rest = translated.get(span.start.offset..).unwrap_or("");
                    let end = if rest.starts_with('{') {
                        rest.find('}').map_or(1, |at| at + 1)
                    } else {
                        1
                    };
                    format!(
                        "missing argument to repetition operator: `{}`",
                        rest.get(..end).unwrap_or("")
                    )
                }
                ErrorKind::RepetitionCountInvalid | ErrorKind::RepetitionCountDecimalEmpty => {
                    format!("invalid repeat count: `{part}`")
                }
                ErrorKind::EscapeUnexpectedEof => "trailing backslash at end of expression: ``".to_owned(),
                ErrorKind::EscapeUnrecognized | ErrorKind::UnsupportedBackreference => {
                    format!("invalid escape sequence: `{part}`")
                }
                ErrorKind::UnsupportedLookAround => format!("invalid or unsupported Perl syntax: `{part}`"),
                ErrorKind::GroupNameInvalid | ErrorKind::GroupNameEmpty | ErrorKind::GroupNameUnexpectedEof => {
                    format!("invalid named capture: `{part}`")
                }
                ErrorKind::NestLimitExceeded(_) => format!("expression nests too deeply: `{pattern}`"),
                _ => format!("invalid or unsupported Perl syntax: `{part}`"),
            }
        }
    };
    Some(format!("error parsing regexp: {why}"))
}

/// A repetition that asks for too much, anywhere at the top of the tree.
fn too_often(tree: &ast::Ast) -> Option<String> {
    use ast::{Ast, RepetitionKind, RepetitionRange};
    match tree {
        Ast::Repetition(repeat) => {
            let bounds = match &repeat.op.kind {
                RepetitionKind::Range(RepetitionRange::Exactly(n) | RepetitionRange::AtLeast(n)) => Some((*n, *n)),
                RepetitionKind::Range(RepetitionRange::Bounded(low, high)) => Some((*low, *high)),
                _ => None,
            };
            match bounds {
                Some((low, high)) if high > REPEAT_MAX && low == high => {
                    Some(format!("invalid repeat count: `{{{low}}}`"))
                }
                Some((low, high)) if high > REPEAT_MAX => Some(format!("invalid repeat count: `{{{low},{high}}}`")),
                _ => too_often(&repeat.ast),
            }
        }
        Ast::Group(group) => too_often(&group.ast),
        Ast::Concat(parts) => parts.asts.iter().find_map(too_often),
        Ast::Alternation(parts) => parts.asts.iter().find_map(too_often),
        _ => None,
    }
}

/// The pattern as a compiled expression; `None` when it is none, or too large.
pub fn compile(pattern: &str) -> Option<regex::Regex> {
    regex::RegexBuilder::new(&translate(pattern))
        .size_limit(1 << 20)
        .build()
        .ok()
}

/// Writes an expression of Go as one of ours: classes hold no classes, `{` that starts no repetition is itself, and
/// the short classes hold ASCII only.
fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 8);
    let mut rest = pattern;
    // How many characters of the class were read; nothing outside of classes.
    let mut class: Option<usize> = None;
    while let Some(c) = rest.chars().next() {
        let tail = rest.get(c.len_utf8()..).unwrap_or("");
        let mut used = c.len_utf8();
        if c == '\\' {
            let escaped = tail.chars().next();
            used += escaped.map_or(0, char::len_utf8);
            short_class(&mut out, escaped, class.is_some());
            class = class.map(|n| n + 1);
        } else if let Some(read) = class {
            if rest.starts_with("[:") {
                let end = rest.find(":]").map_or(used, |at| at + 2);
                out.push_str(rest.get(..end).unwrap_or(""));
                used = end;
            } else if c == ']' && read > 0 {
                out.push(c);
                class = None;
                rest = tail;
                continue;
            } else if matches!(c, '[' | ']' | '&' | '~') || (c == '-' && tail.starts_with('-')) {
                out.push('\\');
                out.push(c);
            } else {
                out.push(c);
            }
            class = Some(read + 1);
        } else if c == '[' {
            out.push(c);
            if tail.starts_with('^') {
                out.push('^');
                used += 1;
            }
            class = Some(0);
        } else if c == '{' && !is_repetition(tail) {
            out.push_str("\\{");
        } else {
            out.push(c);
        }
        rest = rest.get(used..).unwrap_or("");
    }
    out
}

fn is_repetition(tail: &str) -> bool {
    let Some((inside, _)) = tail.split_once('}') else {
        return false;
    };
    let is_number = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    match inside.split_once(',') {
        None => is_number(inside),
        Some((low, high)) => is_number(low) && (high.is_empty() || is_number(high)),
    }
}

fn short_class(out: &mut String, escaped: Option<char>, in_class: bool) {
    let members = match escaped.map(|c| c.to_ascii_lowercase()) {
        Some('d') => "0-9",
        Some('w') => "0-9A-Za-z_",
        Some('s') => "\\t\\n\\f\\r ",
        _ => {
            out.push('\\');
            match escaped {
                // Word boundaries of our expressions; characters in those of Go.
                Some('<') => out.push_str("x3C"),
                Some('>') => out.push_str("x3E"),
                Some(c) => out.push(c),
                None => {}
            }
            return;
        }
    };
    let negated = escaped.is_some_and(|c| c.is_ascii_uppercase());
    // Writing to a string cannot fail.
    let _ = match (in_class, negated) {
        (true, false) => write!(out, "{members}"),
        (_, true) => write!(out, "[^{members}]"),
        (false, false) => write!(out, "[{members}]"),
    };
}

/// Whether text has a format; formats that are not known hold for every text.
pub fn has_format(format: &str, text: &str) -> bool {
    match format.replace('-', "").as_str() {
        "datetime" => text.contains(['T', 't']) && text.parse::<Timestamp>().is_ok(),
        "date" => text.len() == 10 && text.parse::<Date>().is_ok(),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => super::super::check::parse_cidr(text).is_some(),
        "mac" => {
            let parts: Vec<&str> = text.split([':', '-']).collect();
            parts.len() == 6 && parts.iter().all(|p| p.len() == 2 && is_hex(p))
        }
        "uuid" | "uuid3" | "uuid4" | "uuid5" => {
            let bare = text.replace('-', "");
            bare.len() == 32 && is_hex(&bare)
        }
        "byte" => {
            text.len().is_multiple_of(4)
                && text
                    .trim_end_matches('=')
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'))
        }
        "email" => text
            .split_once('@')
            .is_some_and(|(user, host)| !user.is_empty() && !host.is_empty()),
        _ => true,
    }
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_hexdigit())
}

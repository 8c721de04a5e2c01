//! YAML as `kubectl -o yaml` prints it: sorted keys, lists at the level of their key, long lines folded.

use serde_json::Value;

use super::yaml::plain;

const WIDTH: usize = 80;
/// Longest key that is written without `? ` in front, in bytes.
const SIMPLE_KEY_MAX: usize = 128;

/// The value as a YAML document that ends in a newline.
pub fn to_yaml(value: &Value) -> String {
    let mut out = Writer {
        text: String::new(),
        column: 0,
    };
    match value {
        Value::Object(map) if !map.is_empty() => out.map(value, 0),
        Value::Array(items) if !items.is_empty() => out.list(value, 0),
        _ => {
            out.scalar(value, 2, false);
            out.line();
        }
    }
    out.text
}

struct Writer {
    text: String,
    column: usize,
}

impl Writer {
    fn put(&mut self, text: &str) {
        self.text.push_str(text);
        self.column += text.chars().count();
    }

    fn line(&mut self) {
        self.text.push('\n');
        self.column = 0;
    }

    fn indent(&mut self, spaces: usize) {
        for _ in 0..spaces {
            self.text.push(' ');
        }
        self.column += spaces;
    }

    /// The entries of a map; the first one continues the current line.
    fn map(&mut self, value: &Value, indent: usize) {
        let Some(map) = value.as_object() else { return };
        for (position, (key, entry)) in map.iter().enumerate() {
            if position > 0 {
                self.indent(indent);
            }
            if key.len() > SIMPLE_KEY_MAX {
                self.long_key(key, entry, indent);
                continue;
            }
            self.string(key, indent, true);
            self.put(":");
            match entry {
                Value::Object(inner) if !inner.is_empty() => {
                    self.line();
                    self.indent(indent + 2);
                    self.map(entry, indent + 2);
                }
                Value::Array(inner) if !inner.is_empty() => {
                    self.line();
                    self.indent(indent);
                    self.list(entry, indent);
                }
                _ => {
                    self.put(" ");
                    self.scalar(entry, indent + 2, false);
                    self.line();
                }
            }
        }
    }

    /// A key that readers would not look for the end of is announced.
    fn long_key(&mut self, key: &str, entry: &Value, indent: usize) {
        self.put("? ");
        self.string(key, indent, true);
        self.line();
        self.indent(indent);
        self.put(": ");
        match entry {
            Value::Object(inner) if !inner.is_empty() => self.map(entry, indent + 2),
            Value::Array(inner) if !inner.is_empty() => self.list(entry, indent + 2),
            _ => {
                self.scalar(entry, indent + 2, false);
                self.line();
            }
        }
    }

    /// The items of a list; the first one continues the current line.
    fn list(&mut self, value: &Value, indent: usize) {
        let Some(items) = value.as_array() else { return };
        for (position, item) in items.iter().enumerate() {
            if position > 0 {
                self.indent(indent);
            }
            self.put("- ");
            match item {
                Value::Object(inner) if !inner.is_empty() => self.map(item, indent + 2),
                Value::Array(inner) if !inner.is_empty() => self.list(item, indent + 2),
                _ => {
                    self.scalar(item, indent + 2, false);
                    self.line();
                }
            }
        }
    }

    fn scalar(&mut self, value: &Value, indent: usize, key: bool) {
        match value {
            Value::Null => self.put("null"),
            Value::Bool(flag) => self.put(if *flag { "true" } else { "false" }),
            Value::Number(number) => self.put(&number.to_string()),
            Value::String(text) => self.string(text, indent, key),
            Value::Array(_) => self.put("[]"),
            Value::Object(_) => self.put("{}"),
        }
    }

    fn string(&mut self, text: &str, indent: usize, key: bool) {
        let looks_like_text = plain(text).is_string() && !is_base_60(text) && !is_time(text);
        if text.contains('\n') && !key && block_fits(text) {
            return self.block(text, indent);
        }
        if text.contains('\n') || !looks_like_text || has_special(text) {
            return self.double_quoted(text, indent, key);
        }
        if plain_fits(text) {
            self.folded(text, indent, key);
        } else {
            self.put("'");
            self.folded(&text.replace('\'', "''"), indent, key);
            self.put("'");
        }
    }

    /// Writes words, breaking at a single space once the line is full.
    fn folded(&mut self, text: &str, indent: usize, key: bool) {
        let characters: Vec<char> = text.chars().collect();
        for (position, character) in characters.iter().enumerate() {
            let around = [position.checked_sub(1), Some(position + 1)];
            let alone = around
                .iter()
                .flatten()
                .all(|at| characters.get(*at).is_some_and(|near| *near != ' '));
            if *character == ' ' && !key && alone && self.column > WIDTH {
                self.line();
                self.indent(indent);
            } else {
                self.text.push(*character);
                self.column += 1;
            }
        }
    }

    fn block(&mut self, text: &str, indent: usize) {
        self.put("|");
        if text.starts_with([' ', '\n', '\t']) {
            self.put("2");
        }
        let body = text.strip_suffix('\n');
        match body {
            None => self.put("-"),
            Some(body) if body.ends_with('\n') || body.is_empty() => self.put("+"),
            Some(_) => {}
        }
        for part in body.unwrap_or(text).split('\n') {
            self.line();
            if !part.is_empty() {
                self.indent(indent);
                self.put(part);
            }
        }
    }

    fn double_quoted(&mut self, text: &str, indent: usize, key: bool) {
        self.put("\"");
        let characters: Vec<char> = text.chars().collect();
        for (position, character) in characters.iter().enumerate() {
            let inner = position > 0 && position + 1 < characters.len();
            if *character == ' ' && !key && inner && self.column > WIDTH {
                self.line();
                self.indent(indent);
                if characters.get(position + 1) == Some(&' ') {
                    self.put("\\");
                }
                continue;
            }
            let escaped = escape(*character);
            match escaped {
                Some(escaped) => self.put(&escaped),
                None => {
                    self.text.push(*character);
                    self.column += 1;
                }
            }
        }
        self.put("\"");
    }
}

fn escape(character: char) -> Option<String> {
    Some(match character {
        '\0' => "\\0".into(),
        '\x07' => "\\a".into(),
        '\x08' => "\\b".into(),
        '\t' => "\\t".into(),
        '\n' => "\\n".into(),
        '\x0b' => "\\v".into(),
        '\x0c' => "\\f".into(),
        '\r' => "\\r".into(),
        '\x1b' => "\\e".into(),
        '"' => "\\\"".into(),
        '\\' => "\\\\".into(),
        '\u{85}' => "\\N".into(),
        '\u{a0}' => return None,
        '\u{2028}' => "\\L".into(),
        '\u{2029}' => "\\P".into(),
        other if is_special(other) => match other as u32 {
            code if code <= 0xff => format!("\\x{code:02X}"),
            code if code <= 0xffff => format!("\\u{code:04X}"),
            code => format!("\\U{code:08X}"),
        },
        _ => return None,
    })
}

fn is_special(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}'
        )
}

fn has_special(text: &str) -> bool {
    text.chars().any(|character| is_special(character) && character != '\n')
}

/// A literal block can hold any lines without odd characters or spaces at line ends.
fn block_fits(text: &str) -> bool {
    let odd = text
        .chars()
        .any(|character| is_special(character) && !matches!(character, '\n' | '\t'));
    !odd && !text.contains(" \n") && !text.ends_with(' ') && text.chars().any(|character| character != '\n')
}

/// Whether a text without odd characters can stand without quotes in a block.
fn plain_fits(text: &str) -> bool {
    let Some(first) = text.chars().next() else { return false };
    let second = text.chars().nth(1);
    let blank_after = second.is_none_or(char::is_whitespace);
    let first_fits = match first {
        '#' | ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@' | '`' => false,
        '-' | '?' | ':' => !blank_after,
        _ => true,
    };
    first_fits
        && !text.starts_with("---")
        && !text.starts_with("...")
        && !text.starts_with(' ')
        && !text.ends_with(' ')
        && !text.contains(": ")
        && !text.ends_with(':')
        && !text.contains(" #")
}

/// A date, with or without a time, is a time stamp to readers of YAML 1.1.
fn is_time(text: &str) -> bool {
    let shape = |from: usize, form: &str| {
        let part = text.as_bytes().get(from..from + form.len());
        part.is_some_and(|part| {
            part.iter()
                .zip(form.bytes())
                .all(|(b, f)| if f == b'0' { b.is_ascii_digit() } else { *b == f })
        })
    };
    shape(0, "0000-00-00")
        && (text.len() == 10 || matches!(text.as_bytes().get(10), Some(b'T' | b't' | b' ')) && shape(13, ":00"))
}

/// `1:30` is a number to readers of YAML 1.1.
fn is_base_60(text: &str) -> bool {
    let body = text.strip_prefix(['+', '-']).unwrap_or(text);
    let mut parts = body.split(':');
    let begins = parts.next().is_some_and(|part| {
        part.starts_with(|c: char| c.is_ascii_digit()) && part.bytes().all(|b| b.is_ascii_digit() || b == b'_')
    });
    let mut more = false;
    for part in parts {
        more = true;
        let whole = part.split('.').next().unwrap_or(part);
        if whole.is_empty()
            || whole.len() > 2
            || !part
                .bytes()
                .all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'_'))
        {
            return false;
        }
    }
    begins && more
}

//! What is wrong with a text that is no JSON, in the words of Go's scanner.

const END: &str = "unexpected end of JSON input";

/// The first fault of a text; `None` where this finds none.
pub(super) fn fault(text: &[u8]) -> Option<String> {
    let mut scan = Scan { text, at: 0 };
    scan.document().err()
}

struct Scan<'a> {
    text: &'a [u8],
    at: usize,
}

type Step = Result<(), String>;

impl Scan<'_> {
    fn document(&mut self) -> Step {
        // What is open, by its closing bracket.
        let mut open: Vec<u8> = Vec::new();
        loop {
            match self.next_solid()? {
                b'{' => {
                    open.push(b'}');
                    if self.peek_solid() != Some(b'}') {
                        self.key()?;
                        continue;
                    }
                }
                b'[' => {
                    open.push(b']');
                    if self.peek_solid() != Some(b']') {
                        continue;
                    }
                }
                b'"' => self.string()?,
                b't' => self.literal("true")?,
                b'f' => self.literal("false")?,
                b'n' => self.literal("null")?,
                first @ (b'-' | b'0'..=b'9') => self.number(first)?,
                other => return Err(invalid(other, "looking for beginning of value")),
            }
            if self.close(&mut open)? {
                break;
            }
        }
        match self.peek_solid() {
            None => Ok(()),
            Some(other) => Err(invalid(other, "after top-level value")),
        }
    }

    /// What follows a value: ends of what is open, until the next value begins. `true` at the end of everything.
    fn close(&mut self, open: &mut Vec<u8>) -> Result<bool, String> {
        while let Some(closing) = open.last().copied() {
            match self.next_solid()? {
                byte if byte == closing => drop(open.pop()),
                b',' if closing == b'}' => return self.key().map(|()| false),
                b',' => return Ok(false),
                other if closing == b'}' => return Err(invalid(other, "after object key:value pair")),
                other => return Err(invalid(other, "after array element")),
            }
        }
        Ok(true)
    }

    fn key(&mut self) -> Step {
        match self.next_solid()? {
            b'"' => self.string()?,
            other => return Err(invalid(other, "looking for beginning of object key string")),
        }
        match self.next_solid()? {
            b':' => Ok(()),
            other => Err(invalid(other, "after object key")),
        }
    }

    fn string(&mut self) -> Step {
        loop {
            match self.next()? {
                b'"' => return Ok(()),
                b'\\' => match self.next()? {
                    b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => {}
                    b'u' => {
                        for _ in 0..4 {
                            self.one(u8::is_ascii_hexdigit, "in \\u hexadecimal character escape")?;
                        }
                    }
                    other => return Err(invalid(other, "in string escape code")),
                },
                other @ 0..0x20 => return Err(invalid(other, "in string literal")),
                _ => {}
            }
        }
    }

    fn literal(&mut self, word: &str) -> Step {
        for expected in word.chars().skip(1) {
            let found = self.next()?;
            if char::from(found) != expected {
                return Err(invalid(found, &format!("in literal {word} (expecting '{expected}')")));
            }
        }
        Ok(())
    }

    fn number(&mut self, first: u8) -> Step {
        let mut first = first;
        if first == b'-' {
            first = self.one(u8::is_ascii_digit, "in numeric literal")?;
        }
        if first != b'0' {
            self.digits();
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.one(u8::is_ascii_digit, "after decimal point in numeric literal")?;
            self.digits();
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.one(u8::is_ascii_digit, "in exponent of numeric literal")?;
            self.digits();
        }
        Ok(())
    }

    fn digits(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
    }

    fn one(&mut self, is: impl Fn(&u8) -> bool, place: &str) -> Result<u8, String> {
        let found = self.next()?;
        match is(&found) {
            true => Ok(found),
            false => Err(invalid(found, place)),
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Result<u8, String> {
        let found = self.peek().ok_or(END)?;
        self.at += 1;
        Ok(found)
    }

    fn peek_solid(&mut self) -> Option<u8> {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
        self.peek()
    }

    fn next_solid(&mut self) -> Result<u8, String> {
        self.peek_solid();
        self.next()
    }
}

fn invalid(byte: u8, place: &str) -> String {
    let shown = match byte {
        b'\'' => "\\'".to_owned(),
        b'\\' => "\\\\".to_owned(),
        0x07 => "\\a".to_owned(),
        0x08 => "\\b".to_owned(),
        b'\t' => "\\t".to_owned(),
        b'\n' => "\\n".to_owned(),
        0x0b => "\\v".to_owned(),
        0x0c => "\\f".to_owned(),
        b'\r' => "\\r".to_owned(),
        0..0x20 | 0x7f => format!("\\x{byte:02x}"),
        0x80..0xa0 | 0xad => format!("\\u{byte:04x}"),
        _ => char::from(byte).to_string(),
    };
    format!("invalid character '{shown}' {place}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults() {
        let cases: &[(&str, &str)] = &[
            ("", END),
            ("  ", END),
            ("{", END),
            ("[1,", END),
            ("\"a", END),
            ("tru", END),
            ("-", END),
            ("1e", END),
            ("---\na: b", "invalid character '-' in numeric literal"),
            ("a: b", "invalid character 'a' looking for beginning of value"),
            ("{a", "invalid character 'a' looking for beginning of object key string"),
            ("{\"a\" 1", "invalid character '1' after object key"),
            ("{\"a\":1 \"b\"", "invalid character '\"' after object key:value pair"),
            (
                "{\"a\":1,}",
                "invalid character '}' looking for beginning of object key string",
            ),
            ("{\"a\":}", "invalid character '}' looking for beginning of value"),
            ("[1 2]", "invalid character '2' after array element"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("{}x", "invalid character 'x' after top-level value"),
            ("01", "invalid character '1' after top-level value"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
            ("1e+x", "invalid character 'x' in exponent of numeric literal"),
            ("nul!", "invalid character '!' in literal null (expecting 'l')"),
            ("\"\n\"", "invalid character '\\n' in string literal"),
            ("\"\\x\"", "invalid character 'x' in string escape code"),
            (
                "\"\\u12g4\"",
                "invalid character 'g' in \\u hexadecimal character escape",
            ),
            ("'a'", "invalid character '\\'' looking for beginning of value"),
            ("\u{e9}", "invalid character 'Ã' looking for beginning of value"),
        ];
        for (text, expected) in cases {
            assert_eq!(fault(text.as_bytes()).as_deref(), Some(*expected), "{text:?}");
        }
        for text in [
            "{}",
            " [ ] ",
            "[[],{\"a\":{}},-0.5e-3,1E9,\"\\u00e9\\n\",true,false,null]",
            "{\"a\":[1,2],\"b\":{\"c\":\"d\"}}\n",
        ] {
            assert_eq!(fault(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn finds_fault_with_what_another_reader_refuses() {
        let seeds = [
            "{\"a\":[1,-0.5e+9,true,false,null,\"\\u00e9\\n\"],\"b\":{}}",
            "[]",
            " 0 ",
            "tru",
            "1e",
            "\"\\ud8",
        ];
        let seeds = seeds.iter().map(|text| text.as_bytes().to_vec()).collect();
        let words = [
            "\\u", "null", "\"", "{\"a\":", "[", "]", "}", ",", "e9", "-", "0", ".", "\t",
        ];
        coxswain_fuzz::fuzz("json-faults", seeds, &words, |bytes: &Vec<u8>| {
            let read = serde_json::from_slice::<serde::de::IgnoredAny>(bytes).map(drop);
            let found = fault(bytes);
            assert_eq!(found.is_some(), read.is_err(), "{found:?} {read:?}");
            found.map_or(Ok(()), Err)
        });
    }
}

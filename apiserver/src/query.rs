//! Query strings: percent-decoding and the parameter conversions Kubernetes applies.
//!
//! Unknown parameters are ignored, a repeated one counts by its first value, and a value that does
//! not convert is refused in the words of the Go conversion that clients already know.

use coxswain_api::ApiError;

/// Decoded query parameters in the order they came.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Parses the part after `?`. Never fails: what is not valid percent-encoding stays as it is.
    pub fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(key, true), decode(value, true))
                })
                .collect(),
        )
    }

    /// The first value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// The first value of `key`, or the empty string.
    pub fn text(&self, key: &str) -> &str {
        self.get(key).unwrap_or_default()
    }

    /// Every value of `key`.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// A boolean parameter: absent is `None`; `0` and `false` are false, anything else is true.
    pub fn flag(&self, key: &str) -> Option<bool> {
        self.get(key)
            .map(|value| !matches!(value.to_ascii_lowercase().as_str(), "0" | "false"))
    }

    /// An integer parameter.
    ///
    /// # Errors
    /// 400 with the text of Go's `strconv.ParseInt`.
    pub fn integer(&self, key: &str) -> Result<Option<i64>, ApiError> {
        match self.get(key) {
            None | Some("") => Ok(None),
            Some(value) => value.parse::<i64>().map(Some).map_err(|_| {
                let digits = value.strip_prefix(['-', '+']).unwrap_or(value);
                let why = number_error(digits.as_bytes());
                ApiError::bad_request(format!("strconv.ParseInt: parsing {value:?}: {why}"))
            }),
        }
    }

    /// The parameters again, encoded, without those named in `without`.
    pub fn encode_without(&self, without: &[&str]) -> String {
        let mut out = String::new();
        for (key, value) in self.0.iter().filter(|(key, _)| !without.contains(&key.as_str())) {
            if !out.is_empty() {
                out.push('&');
            }
            encode_into(&mut out, key);
            out.push('=');
            encode_into(&mut out, value);
        }
        out
    }
}

/// Percent-decodes `text`; `plus` turns `+` into a space as in query strings. Invalid UTF-8 is replaced.
pub fn decode(text: &str, plus: bool) -> String {
    if !(text.contains('%') || plus && text.contains('+')) {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let hex = |offset: usize| bytes.get(at + offset).and_then(|b| (*b as char).to_digit(16));
        match (byte, hex(1), hex(2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (b'+', ..) if plus => {
                out.push(b' ');
                at += 1;
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Percent-decodes `text`; `None` for a percent sign that encodes nothing, and when the result is no UTF-8. For what
/// decides about rights: nothing of it is guessed.
pub fn decode_strict(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || (bytes.next()? as char).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        out.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(out).ok()
}

/// Percent-encodes `text` for a query string or a path segment.
pub fn encode_into(out: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}

/// What Go says of a number that it cannot read.
pub(crate) fn number_error(digits: &[u8]) -> &'static str {
    if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) {
        "value out of range"
    } else {
        "invalid syntax"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters() {
        let query = Query::parse("a=1&labelSelector=x%3Dy%2Cz+in+(q)&watch&b=false&c=0&bad=%zz&a=2");
        assert_eq!(query.get("a"), Some("1"));
        assert_eq!(query.all("a").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(query.text("labelSelector"), "x=y,z in (q)");
        assert_eq!(query.flag("watch"), Some(true));
        assert_eq!(query.flag("b"), Some(false));
        assert_eq!(query.flag("none"), None);
        assert_eq!(query.text("bad"), "%zz");
        assert_eq!(query.integer("a").ok(), Some(Some(1)));
        for (text, expected) in [
            (
                "n=99999999999999999999",
                "strconv.ParseInt: parsing \"99999999999999999999\": value out of range",
            ),
            (
                "n=-99999999999999999999",
                "strconv.ParseInt: parsing \"-99999999999999999999\": value out of range",
            ),
            ("n=1x", "strconv.ParseInt: parsing \"1x\": invalid syntax"),
        ] {
            let error = Query::parse(text).integer("n").expect_err("not a number");
            assert_eq!(error.message, expected);
        }
        let error = query.integer("labelSelector").expect_err("not a number");
        assert_eq!(error.code, 400);
        assert_eq!(
            Query::parse("command=a%20b&x=1").encode_without(&["x"]),
            "command=a%20b"
        );
    }
}

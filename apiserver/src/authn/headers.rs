//! Headers that say who somebody is. What cannot be read is an error, never absent: whoever drops such a header acts
//! as the one who sent it.

use std::fmt;

use http::{HeaderMap, HeaderValue};

use crate::User;
use crate::query::decode_strict;

/// A header about an identity that cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unreadable {
    header: String,
    why: &'static str,
}

impl Unreadable {
    pub fn new(header: &str, why: &'static str) -> Self {
        Self {
            header: header.to_owned(),
            why,
        }
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the header {:?} {}; correct it or leave it out",
            self.header, self.why
        )
    }
}

/// A value as text.
pub(super) fn text<'a>(header: &str, value: &'a HeaderValue) -> Result<&'a str, Unreadable> {
    str::from_utf8(value.as_bytes()).map_err(|_| Unreadable::new(header, "is not UTF-8"))
}

/// The value of a header that may be there once.
pub(super) fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Unreadable> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Unreadable::new(name, "is there more than once"));
    }
    text(name, value).map(Some)
}

/// Every value of a header.
pub(super) fn every(headers: &HeaderMap, name: &str) -> Result<Vec<String>, Unreadable> {
    let values = headers.get_all(name).iter();
    values.map(|value| text(name, value).map(str::to_owned)).collect()
}

/// Enters the values of every header with a prefix as attributes of a user; what follows the prefix is the key, in
/// percent-encoding, in lowercase.
pub(super) fn add_extra(user: &mut User, headers: &HeaderMap, prefix: &str) -> Result<(), Unreadable> {
    for (header, value) in headers {
        let name = header.as_str();
        let Some(key) = name.strip_prefix(prefix) else {
            continue;
        };
        let key = decode_strict(key).ok_or_else(|| Unreadable::new(name, "has a name in bad percent-encoding"))?;
        if key.is_empty() {
            return Err(Unreadable::new(name, "has no key in its name"));
        }
        let value = text(name, value)?.to_owned();
        user.extra.entry(key.to_lowercase()).or_default().push(value);
    }
    Ok(())
}

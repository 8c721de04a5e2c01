//! What can be mutated: bytes, and JSON values, whose mutants are still JSON.

use serde_json::{Map, Value};

use crate::Random;

/// Longest input that mutation makes.
const BYTES_MAX: usize = 16 << 10;
/// Deepest place of a value that mutation looks at.
const DEPTH_MAX: usize = 40;

/// Something that a target eats.
pub trait Input: Clone {
    /// Changes one thing. `other` is another input to take parts from.
    fn mutate(&mut self, random: &mut Random, words: &[&str], other: &Self);
    /// As it is saved.
    fn bytes(&self) -> Vec<u8>;
    /// Smaller inputs that may fail for the same reason, the smallest first.
    fn smaller(&self) -> Vec<Self>;
}

/// Texts that parsers of all kinds stumble over.
const TEXTS: &[&str] = &[
    "",
    " ",
    "0",
    "-1",
    "1",
    "2147483648",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551616",
    "1e999",
    "0x10",
    "1Ei",
    "0.000000001",
    "-0",
    "100%",
    "101%",
    "*",
    "**",
    "/",
    "//",
    "..",
    "../x",
    "a/b",
    "a/b/c",
    ".",
    "-",
    "=",
    ",",
    ":",
    "::1",
    "1.2.3.4",
    "1.2.3.4/33",
    "fe80::/10",
    "\0",
    "\u{feff}",
    "é",
    "☃",
    "\u{10ffff}",
    "\n",
    "\\",
    "\"",
    "{",
    "[",
    "$(",
    "$(A)",
    "{.a[*]}",
    "a.b.c",
    "A_B",
    "2026-01-02T03:04:05Z",
    "9999-99-99",
    "1h",
    "-5m",
    "1d",
    "@every 1s",
    "* * * * *",
    "null",
    "true",
    "io.k8s",
    "kubernetes.io/x",
    "in (a)",
    "!a",
    "a=b",
    "0s",
    "NaN",
    "inf",
];

/// Numbers at the edges.
const NUMBERS: &[i64] = &[
    0,
    1,
    -1,
    2,
    7,
    63,
    64,
    100,
    101,
    127,
    128,
    255,
    256,
    65_535,
    65_536,
    2_147_483_647,
    -2_147_483_648,
    2_147_483_648,
    1 << 53,
    i64::MAX,
    i64::MIN,
    i64::MAX - 1,
];

impl Input for Vec<u8> {
    fn mutate(&mut self, random: &mut Random, words: &[&str], other: &Self) {
        let at = random.below(self.len() + 1);
        let end = (at + random.below(32)).min(self.len());
        match random.below(12) {
            0 | 1 => {
                if let Some(byte) = self.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
            2 => {
                if let Some(byte) = self.get_mut(at) {
                    *byte = random.number() as u8;
                }
            }
            3 => drop(self.drain(at..end)),
            4 => self.truncate(at),
            5 => {
                let part = self[at..end].to_vec();
                let times = 1 + random.below(8);
                self.splice(at..at, part.repeat(times));
            }
            6 => {
                // A part many times: what nests, nests deeply.
                let part = self[at..(at + 1 + random.below(3)).min(self.len())].to_vec();
                let times = random.below(2_000);
                self.splice(at..at, part.repeat(times));
            }
            7 => {
                let from = random.below(other.len() + 1);
                let until = (from + random.below(64)).min(other.len());
                self.splice(at..end, other[from..until].iter().copied());
            }
            8 | 9 => {
                let word = random.of(words).copied().unwrap_or("");
                self.splice(at..at, word.bytes());
            }
            10 => {
                let text = random.of(TEXTS).copied().unwrap_or("");
                self.splice(at..end, text.bytes());
            }
            _ => {
                let number = random.of(NUMBERS).copied().unwrap_or(0);
                let width = 1 << random.below(4);
                let bytes = number.to_be_bytes();
                let bytes = if random.below(2) == 0 {
                    bytes[8 - width..].to_vec()
                } else {
                    number.to_le_bytes()[..width].to_vec()
                };
                let end = (at + width).min(self.len());
                self.splice(at..end, bytes);
            }
        }
        self.truncate(BYTES_MAX);
    }

    fn bytes(&self) -> Vec<u8> {
        self.clone()
    }

    fn smaller(&self) -> Vec<Self> {
        let mut found = Vec::new();
        let mut size = self.len().div_ceil(2);
        while size > 0 {
            for at in (0..self.len()).step_by(size) {
                let mut less = self.clone();
                less.drain(at..(at + size).min(self.len()));
                found.push(less);
            }
            if size == 1 {
                break;
            }
            size = size.div_ceil(2);
        }
        found
    }
}

impl Input for Value {
    fn mutate(&mut self, random: &mut Random, words: &[&str], other: &Self) {
        let part = pick(&mut other.clone(), random, 0).clone();
        let place = pick(self, random, 0);
        match (random.below(8), &mut *place) {
            (0, Value::Object(map)) if !map.is_empty() => {
                let key = map.keys().nth(random.below(map.len())).cloned().unwrap_or_default();
                map.remove(&key);
            }
            (1, Value::Object(map)) => {
                let key = random.of(words).or_else(|| TEXTS.first()).copied().unwrap_or("");
                map.insert(key.to_owned(), part);
            }
            (0, Value::Array(items)) if !items.is_empty() => drop(items.remove(random.below(items.len()))),
            (1, Value::Array(items)) => items.push(part),
            (2, Value::Array(items)) if items.len() < 2_000 => {
                let copies = items.clone();
                items.extend(copies);
            }
            (2, Value::Object(map)) if map.len() > 1 => swap(map, random),
            (3, place) => *place = part,
            (4, place) => *place = Value::Null,
            (_, Value::String(text)) => *text = odd_text(text, random, words),
            (_, Value::Number(_)) => *place = random.of(NUMBERS).copied().unwrap_or(0).into(),
            (_, Value::Bool(flag)) => *flag = !*flag,
            (5, place) => *place = Value::from(random.of(TEXTS).copied().unwrap_or("")),
            (6, place) => *place = random.of(NUMBERS).copied().unwrap_or(0).into(),
            (_, place @ Value::Object(_)) => *place = Value::Object(Map::new()),
            (_, place) => *place = Value::Array(Vec::new()),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        self.to_string().into_bytes()
    }

    fn smaller(&self) -> Vec<Self> {
        match self {
            Value::Object(map) => {
                let without = map.keys().map(|key| {
                    let mut less = map.clone();
                    less.remove(key);
                    Value::Object(less)
                });
                let inside = map.iter().flat_map(|(key, below)| {
                    below.smaller().into_iter().map(|less| {
                        let mut map = map.clone();
                        map.insert(key.clone(), less);
                        Value::Object(map)
                    })
                });
                without.chain(inside).collect()
            }
            Value::Array(items) => {
                let without = (0..items.len()).map(|at| {
                    let mut less = items.clone();
                    less.remove(at);
                    Value::Array(less)
                });
                let inside = items.iter().enumerate().flat_map(|(at, below)| {
                    below.smaller().into_iter().map(move |less| {
                        let mut items = items.clone();
                        items[at] = less;
                        Value::Array(items)
                    })
                });
                without.chain(inside).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// A place in a value, deep ones as likely as shallow ones.
fn pick<'a>(value: &'a mut Value, random: &mut Random, depth: usize) -> &'a mut Value {
    let children = match value {
        Value::Object(map) => map.len(),
        Value::Array(items) => items.len(),
        _ => 0,
    };
    if children == 0 || depth > DEPTH_MAX || random.below(5) == 0 {
        return value;
    }
    let at = random.below(children);
    let child = match value {
        Value::Object(map) => map.values_mut().nth(at),
        Value::Array(items) => items.get_mut(at),
        _ => None,
    };
    match child {
        Some(child) => pick(child, random, depth + 1),
        None => unreachable!("one of the children"),
    }
}

/// Two members change places.
fn swap(map: &mut Map<String, Value>, random: &mut Random) {
    let keys: Vec<String> = map.keys().cloned().collect();
    let (a, b) = (random.below(keys.len()), random.below(keys.len()));
    let (left, right) = (map[&keys[a]].clone(), map[&keys[b]].clone());
    map[&keys[a]] = right;
    map[&keys[b]] = left;
}

/// A text that is odd in some way: another one, a word, or the same one changed.
fn odd_text(text: &str, random: &mut Random, words: &[&str]) -> String {
    match random.below(5) {
        0 => random.of(words).copied().unwrap_or("").to_owned(),
        1 => random.of(TEXTS).copied().unwrap_or("").to_owned(),
        2 => text.repeat(1 + random.below(40)).chars().take(2_000).collect(),
        _ => {
            let mut bytes = text.as_bytes().to_vec();
            bytes.mutate(random, words, &b"a-b.c/d:e_1".to_vec());
            String::from_utf8_lossy(&bytes).into_owned()
        }
    }
}

//! JSON with bounds, and with a note of every key that occurs twice.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::weight::{Budget, TooLarge};
use super::{Failure, Limits, PROBLEMS_MAX, Problem, note, syntax};

pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<(Value, Vec<Problem>), Failure> {
    if bytes.len() > limits.bytes_max {
        return Err(Failure::TooLarge(limits.bytes_max));
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|error| Failure::Syntax(format!("invalid UTF-8 at byte {}", error.valid_up_to())))?;
    let notes = Notes {
        depth_max: limits.depth_max,
        memory: RefCell::new(Budget::new(limits.memory_max)),
        too_heavy: Cell::new(false),
        problems: RefCell::new(Vec::new()),
    };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let seed = Place {
        notes: &notes,
        parent: None,
        step: Step::Root,
        depth: 0,
    };
    let value = seed.deserialize(&mut deserializer).map_err(|error| {
        if notes.too_heavy.get() {
            return Failure::TooHeavy(limits.memory_max);
        }
        Failure::Syntax(words(&error, bytes))
    })?;
    deserializer
        .end()
        .map_err(|error| Failure::Syntax(words(&error, bytes)))?;
    Ok((value, notes.problems.into_inner()))
}

/// Puts problems in the order in which their fields stand in the document.
pub(super) fn sort_by_position(bytes: &[u8], problems: &mut [Problem]) {
    let mut scan = Scan {
        wanted: problems.iter().map(|problem| problem.path.clone()).collect(),
        positions: HashMap::new(),
        fields: 0,
        path: String::new(),
    };
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    // The bytes were read before, so this cannot fail; if it does, the order stays as it is.
    if (&mut scan).deserialize(&mut deserializer).is_ok() {
        let positions = scan.positions;
        problems.sort_by_key(|problem| positions.get(&problem.path).copied().unwrap_or(usize::MAX));
    }
}

fn words(error: &serde_json::Error, bytes: &[u8]) -> String {
    let fault = syntax::fault(bytes).filter(|_| !error.is_data());
    fault.unwrap_or_else(|| error.to_string())
}

struct Notes {
    depth_max: usize,
    memory: RefCell<Budget>,
    /// Reading was given up because the values would take too much memory.
    too_heavy: Cell<bool>,
    problems: RefCell<Vec<Problem>>,
}

impl Notes {
    /// Charges for a value before it is built.
    fn charge<E: serde::de::Error>(&self, with: impl FnOnce(&mut Budget) -> Result<(), TooLarge>) -> Result<(), E> {
        with(&mut self.memory.borrow_mut()).map_err(|TooLarge| {
            self.too_heavy.set(true);
            E::custom("too many values")
        })
    }
}

/// A place in the document, linked to its parents on the call stack; the path is only built when needed.
#[derive(Clone, Copy)]
struct Place<'a> {
    notes: &'a Notes,
    parent: Option<&'a Place<'a>>,
    step: Step<'a>,
    depth: usize,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Key(&'a str),
    Index(usize),
}

impl<'a> Place<'a> {
    fn below<'b>(&'b self, step: Step<'b>) -> Place<'b>
    where
        'a: 'b,
    {
        Place {
            notes: self.notes,
            parent: Some(self),
            step,
            depth: self.depth + 1,
        }
    }

    fn path(&self) -> String {
        let mut path = self.parent.map(Place::path).unwrap_or_default();
        match self.step {
            Step::Root => {}
            Step::Key(key) => {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(key);
            }
            Step::Index(index) => path.push_str(&format!("[{index}]")),
        }
        path
    }

    fn note_duplicate(&self) {
        let mut problems = self.notes.problems.borrow_mut();
        if problems.len() < PROBLEMS_MAX {
            let path = self.path();
            let text = format!("duplicate field \"{path}\"");
            if !problems.iter().any(|problem| problem.text == text) {
                let problem = Problem {
                    path,
                    text,
                    from_yaml: false,
                };
                note(&mut problems, problem);
            }
        }
    }
}

impl<'de> DeserializeSeed<'de> for Place<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if self.depth > self.notes.depth_max {
            return Err(D::Error::custom("exceeded max depth"));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Place<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        self.notes.charge(|memory| memory.text(value))?;
        Ok(value.into())
    }

    fn visit_string<E: serde::de::Error>(self, value: String) -> Result<Value, E> {
        self.notes.charge(|memory| memory.text(&value))?;
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self.below(Step::Index(list.len())))? {
            self.notes.charge(|memory| memory.item(list.len()))?;
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            self.notes.charge(|memory| memory.field(map.len(), &key))?;
            let place = self.below(Step::Key(&key));
            if map.contains_key(&key) {
                place.note_duplicate();
            }
            let value = entries.next_value_seed(place)?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// Notes where the fields of problems stand, counted in fields from the beginning.
struct Scan {
    wanted: Vec<String>,
    positions: HashMap<String, usize>,
    /// Fields so far.
    fields: usize,
    /// The place that is looked at.
    path: String,
}

impl Scan {
    /// Whether a problem is here. Compared from the end: what lies below one long key differs in its last bytes.
    fn wants(&self) -> bool {
        let path = self.path.as_bytes();
        let same = |wanted: &String| wanted.len() == path.len() && wanted.bytes().rev().eq(path.iter().rev().copied());
        self.wanted.iter().any(same)
    }
}

impl<'de> DeserializeSeed<'de> for &mut Scan {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &mut Scan {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let length = self.path.len();
        for index in 0.. {
            self.path.push_str(&format!("[{index}]"));
            let more = items.next_element_seed(&mut *self)?.is_some();
            self.path.truncate(length);
            if !more {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let length = self.path.len();
        while let Some(key) = entries.next_key::<String>()? {
            if length > 0 {
                self.path.push('.');
            }
            self.path.push_str(&key);
            if self.wants() {
                // A duplicate counts from its second place, an unknown field from its only one.
                self.positions.insert(self.path.clone(), self.fields);
            }
            self.fields += 1;
            entries.next_value_seed(&mut *self)?;
            self.path.truncate(length);
        }
        Ok(())
    }
}

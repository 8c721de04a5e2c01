//! A stored object: its final bytes, and the few facts about it that are read without decoding.
//!
//! A [`Draft`] is an object on its way in: canonical JSON in which the place for
//! `metadata.resourceVersion` is known but empty. Applying it splices the revision in, once, and
//! the result ([`Stored`]) is what every reader gets from then on.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::Key;

/// Facts for filtering and for decisions, parsed once when the object was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// `metadata.uid`.
    pub uid: String,
    /// Labels, sorted by name.
    pub labels: Vec<(String, String)>,
    /// Selectable fields beyond name and namespace, such as ("spec.nodeName", "a").
    pub fields: Vec<(String, String)>,
    /// Uids of the owners.
    pub owners: Vec<String>,
    /// Number of finalizers.
    pub finalizers: u32,
    /// Whether `metadata.deletionTimestamp` is set.
    pub deleting: bool,
    /// `metadata.generation`, 0 when absent.
    pub generation: i64,
}

impl Head {
    /// Value of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        lookup(&self.labels, name)
    }

    /// Value of a selectable field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

fn lookup<'a>(sorted: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let at = sorted.binary_search_by(|(key, _)| key.as_str().cmp(name)).ok()?;
    sorted.get(at).map(|(_, value)| value.as_str())
}

/// An object to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    /// Where it goes.
    pub key: Key,
    /// Canonical JSON with a `metadata` object that has no `resourceVersion`.
    pub body: Bytes,
    /// Offset in `body` at which the `resourceVersion` member is inserted.
    pub rv_at: usize,
    /// Facts about the object.
    pub head: Head,
}

impl Draft {
    /// Encodes `value` for storage. A `metadata.resourceVersion` in it is dropped; a value that
    /// is not an object, or has no `metadata` object, gets an empty one.
    pub fn new(key: Key, value: Value, head: Head) -> Draft {
        Draft::without(key, &value, &[], head)
    }

    /// The same, leaving members of the object out.
    pub fn without(key: Key, value: &Value, left_out: &[&str], head: Head) -> Draft {
        let given = value.as_object();
        let usable = given.filter(|map| map.get("metadata").is_some_and(Value::is_object));
        let made = usable.is_none().then(|| {
            let mut map = given.cloned().unwrap_or_default();
            map.insert("metadata".into(), Value::Object(Map::new()));
            map
        });
        let mut body = Vec::with_capacity(4096);
        let mut rv_at = 0;
        body.push(b'{');
        let members = usable.or(made.as_ref()).into_iter().flatten();
        for (name, member) in members.filter(|(name, _)| !left_out.contains(&name.as_str())) {
            if body.len() > 1 {
                body.push(b',');
            }
            write_json(&mut body, name);
            body.push(b':');
            match member {
                Value::Object(metadata) if name == "metadata" => {
                    rv_at = write_metadata(&mut body, metadata);
                }
                other => write_json(&mut body, other),
            }
        }
        body.push(b'}');
        Draft {
            key,
            body: body.into(),
            rv_at,
            head,
        }
    }
}

/// Writes the metadata object without its resourceVersion and returns where that belongs: before
/// the first member that sorts after it, or before the closing brace.
fn write_metadata(body: &mut Vec<u8>, metadata: &Map<String, Value>) -> usize {
    let mut rv_at = None;
    let mut first = true;
    body.push(b'{');
    for (name, member) in metadata {
        if name == "resourceVersion" {
            continue;
        }
        if !first {
            body.push(b',');
        }
        first = false;
        if rv_at.is_none() && name.as_str() > "resourceVersion" {
            rv_at = Some(body.len());
        }
        write_json(body, name);
        body.push(b':');
        write_json(body, member);
    }
    let rv_at = rv_at.unwrap_or(body.len());
    body.push(b'}');
    rv_at
}

fn write_json<T: serde::Serialize + ?Sized>(body: &mut Vec<u8>, value: &T) {
    // Writing a `Value` or a string into memory has no way to fail.
    let written = serde_json::to_writer(&mut *body, value);
    debug_assert!(written.is_ok());
}

/// One object as it is kept and served.
#[derive(Debug)]
pub struct Stored {
    /// Where it is.
    pub key: Key,
    /// Revision of its last write, the object's `metadata.resourceVersion`.
    pub revision: u64,
    /// Final canonical JSON, resourceVersion included.
    pub bytes: Bytes,
    /// Facts about it.
    pub head: Head,
    rv_at: u32,
    rv_len: u8,
    decoded: Mutex<Weak<Value>>,
    other: Mutex<Option<CountedForm>>,
}

/// Memory for other forms of objects, shared by many of them.
#[derive(Debug)]
pub struct FormBudget {
    used: AtomicUsize,
    bytes_max: usize,
}

impl FormBudget {
    /// A budget of `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Arc<FormBudget> {
        Arc::new(FormBudget {
            used: AtomicUsize::new(0),
            bytes_max,
        })
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: usize) -> bool {
        let fits = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.bytes_max);
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .is_ok()
    }
}

/// An encoded form of an object, counted in its budget as long as it is kept.
#[derive(Debug)]
pub(crate) struct CountedForm {
    bytes: Bytes,
    budget: Arc<FormBudget>,
}

impl CountedForm {
    /// Counts a form, if the budget has room for it.
    pub fn within(budget: &Arc<FormBudget>, bytes: &Bytes) -> Option<CountedForm> {
        budget.take(bytes.len()).then(|| CountedForm {
            bytes: bytes.clone(),
            budget: budget.clone(),
        })
    }

    /// The form.
    pub fn bytes(&self) -> Bytes {
        self.bytes.clone()
    }
}

impl Drop for CountedForm {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

impl PartialEq for Stored {
    fn eq(&self, other: &Stored) -> bool {
        self.key == other.key && self.revision == other.revision && self.bytes == other.bytes && self.head == other.head
    }
}

impl Stored {
    /// The object of a draft at a revision.
    pub fn from_draft(draft: Draft, revision: u64) -> Stored {
        let Draft { key, body, rv_at, head } = draft;
        Stored::splice(key, &body, rv_at, head, revision)
    }

    fn splice(key: Key, body: &[u8], rv_at: usize, head: Head, revision: u64) -> Stored {
        let rv_at = rv_at.min(body.len());
        let (before, after) = body.split_at(rv_at);
        let mut digits = [0u8; 20];
        let digits = decimal(revision, &mut digits);
        let (lead, trail): (&[u8], &[u8]) = match (before.last(), after.first()) {
            (Some(b'{'), Some(b'}')) => (b"", b""),
            (_, Some(b'}')) => (b",", b""),
            _ => (b"", b","),
        };
        const NAME: &[u8] = b"\"resourceVersion\":\"";
        let rv_len = lead.len() + NAME.len() + digits.len() + 1 + trail.len();
        let mut bytes = Vec::with_capacity(body.len() + rv_len);
        for part in [before, lead, NAME, digits, b"\"", trail, after] {
            bytes.extend_from_slice(part);
        }
        Stored {
            key,
            revision,
            bytes: bytes.into(),
            head,
            rv_at: rv_at as u32,
            rv_len: rv_len as u8,
            decoded: Mutex::default(),
            other: Mutex::default(),
        }
    }

    /// The same object carrying another revision: its last state at the moment of its delete.
    pub fn at_revision(&self, revision: u64) -> Stored {
        let (before, after) = self.split();
        let mut body = Vec::with_capacity(before.len() + after.len());
        body.extend_from_slice(before);
        body.extend_from_slice(after);
        Stored::splice(
            self.key.clone(),
            &body,
            self.rv_at as usize,
            self.head.clone(),
            revision,
        )
    }

    /// The bytes before and after the `resourceVersion` member. Two writes whose parts are equal
    /// differ in nothing but their revision.
    pub fn split(&self) -> (&[u8], &[u8]) {
        let at = (self.rv_at as usize).min(self.bytes.len());
        let end = (at + self.rv_len as usize).min(self.bytes.len());
        (&self.bytes[..at], &self.bytes[end..])
    }

    /// Whether writing `draft` over this object would change nothing.
    pub fn same_content(&self, draft: &Draft) -> bool {
        let (before, after) = self.split();
        draft.body.len() == before.len() + after.len() && draft.body.starts_with(before) && draft.body.ends_with(after)
    }

    /// The decoded object. Readers that hold it at the same time share one value; it is not kept
    /// beyond them, because a decoded object is ten times the size of its bytes.
    pub fn value(&self) -> Arc<Value> {
        let mut cell = match self.decoded.lock() {
            Ok(cell) => cell,
            Err(poisoned) => poisoned.into_inner(),
        };
        if let Some(value) = cell.upgrade() {
            return value;
        }
        let value = Arc::new(serde_json::from_slice(&self.bytes).unwrap_or_default());
        *cell = Arc::downgrade(&value);
        value
    }

    /// Another form of this object (there is one), from `make` on first use. It is kept with the object while `budget`
    /// has room, and made again for every reader when it has none.
    pub fn other_form(&self, budget: &Arc<FormBudget>, make: impl FnOnce() -> Bytes) -> Bytes {
        if let Some(form) = &*self.other() {
            return form.bytes();
        }
        let bytes = make();
        let counted = CountedForm::within(budget, &bytes);
        let mut other = self.other();
        if other.is_none() {
            *other = counted;
        }
        bytes
    }

    /// Keeps no other form from before: the object is stored no longer, and history does without.
    pub fn forget_form(&self) {
        *self.other() = None;
    }

    /// Whether its other form is kept: then it costs nothing to ask for it.
    pub fn has_other_form(&self) -> bool {
        self.other().is_some()
    }

    fn other(&self) -> MutexGuard<'_, Option<CountedForm>> {
        self.other.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Approximate memory of this object in bytes, for accounting.
    pub fn size(&self) -> usize {
        // Counts of the two shared pointers, the name, and what the bytes' owner needs.
        const COUNTS: usize = 64;
        let pairs = |list: &[(String, String)]| -> usize { list.iter().map(|(k, v)| 64 + k.len() + v.len()).sum() };
        let owners: usize = self.head.owners.iter().map(|uid| 24 + uid.len()).sum();
        let head = pairs(&self.head.labels) + pairs(&self.head.fields) + owners + self.head.uid.len();
        size_of::<Stored>() + COUNTS + self.key.name.len() + self.bytes.len() + head
    }

    pub(crate) fn rv_at(&self) -> u32 {
        self.rv_at
    }
}

/// Writes `number` into the end of `buffer` and returns its digits.
fn decimal(mut number: u64, buffer: &mut [u8; 20]) -> &[u8] {
    let mut at = buffer.len();
    for slot in buffer.iter_mut().rev() {
        *slot = b'0' + (number % 10) as u8;
        number /= 10;
        at -= 1;
        if number == 0 {
            break;
        }
    }
    &buffer[at..]
}

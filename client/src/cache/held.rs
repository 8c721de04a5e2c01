//! What a cache holds of one object: small kinds as they are, others as their text, decoded when somebody looks.
//!
//! A decoded Pod takes five times the memory of its text, and beside the store the text is the store's own. What was
//! decoded lately is kept, because several subscribers look at the same change; so an object that changes is decoded once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;

use crate::item::{Item, ObjectKey};

/// Bytes of text whose decoded objects are kept.
const RECENT_BYTES_MAX: usize = 2 << 20;
/// How many times the bytes of its text a decoded object takes, about.
pub(super) const DECODED_TIMES: usize = 5;

/// Labels by name.
pub type Labels = BTreeMap<String, String>;

/// One object of a cache.
#[derive(Debug)]
pub(crate) struct Held<K> {
    pub revision: u64,
    pub uid: Arc<str>,
    /// The uid of its controller.
    pub controller: Option<Arc<str>>,
    pub labels: Option<Arc<Labels>>,
    form: Form<K>,
}

#[derive(Debug)]
enum Form<K> {
    Whole(Arc<K>),
    Text { text: Bytes, decoded: Mutex<Weak<K>> },
}

impl<K: Item> Held<K> {
    /// Takes an object in, by its text if there is one; `recent` keeps it decoded for a while then.
    pub fn new(object: K, text: Option<Bytes>, recent: &Recent<K>) -> Held<K> {
        let labels = object.labels().filter(|labels| !labels.is_empty());
        Held {
            revision: object.revision(),
            uid: object.uid().into(),
            controller: object.controller().map(Into::into),
            labels: labels.map(|labels| Arc::new(labels.clone())),
            form: match text {
                None => Form::Whole(Arc::new(object)),
                Some(text) => {
                    let object = Arc::new(object);
                    let decoded = Mutex::new(Arc::downgrade(&object));
                    recent.keep(text.len(), object);
                    Form::Text { text, decoded }
                }
            },
        }
    }

    /// Makes it as small as it gets: under its key in the cache, and with what a neighbour has too held once.
    pub fn fit(&mut self, key: &ObjectKey, near: Option<&Held<K>>) {
        if let Form::Whole(object) = &mut self.form
            && let Some(object) = Arc::get_mut(object)
        {
            object.fit(key);
        }
        let Some(near) = near else { return };
        if self.labels == near.labels {
            self.labels.clone_from(&near.labels);
        }
        if self.controller == near.controller {
            self.controller.clone_from(&near.controller);
        }
    }

    /// The object, kept decoded for a while.
    pub fn object(&self, recent: &Recent<K>) -> Option<Arc<K>> {
        self.decoded(Some(recent))
    }

    /// The object, for a look at it.
    pub fn peek(&self) -> Option<Arc<K>> {
        self.decoded(None)
    }

    /// Bytes of the text, 0 for an object that is held as it is.
    pub fn text_bytes(&self) -> usize {
        match &self.form {
            Form::Whole(_) => 0,
            Form::Text { text, .. } => text.len(),
        }
    }

    /// Where the text is.
    #[cfg(test)]
    pub fn text_range(&self) -> Option<std::ops::Range<*const u8>> {
        match &self.form {
            Form::Whole(_) => None,
            Form::Text { text, .. } => Some(text.as_ptr_range()),
        }
    }

    fn decoded(&self, recent: Option<&Recent<K>>) -> Option<Arc<K>> {
        let (text, decoded) = match &self.form {
            Form::Whole(object) => return Some(object.clone()),
            Form::Text { text, decoded } => (text, decoded),
        };
        let mut cell = decoded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(object) = cell.upgrade() {
            return Some(object);
        }
        // It was decoded when it came, so it is decoded again.
        let object = std::str::from_utf8(text).ok().and_then(|text| K::decode(text).ok());
        let object = Arc::new(object?);
        *cell = Arc::downgrade(&object);
        drop(cell);
        if let Some(recent) = recent {
            recent.keep(text.len(), object.clone());
        }
        Some(object)
    }
}

/// The objects of one cache that were decoded last.
#[derive(Debug)]
pub(crate) struct Recent<K>(Mutex<Kept<K>>);

#[derive(Debug)]
struct Kept<K> {
    /// Oldest first, each with the bytes of its text.
    objects: VecDeque<(usize, Arc<K>)>,
    bytes: usize,
}

impl<K> Default for Recent<K> {
    fn default() -> Self {
        Recent(Mutex::new(Kept {
            objects: VecDeque::new(),
            bytes: 0,
        }))
    }
}

impl<K> Recent<K> {
    fn keep(&self, bytes: usize, object: Arc<K>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.bytes = kept.bytes.saturating_add(bytes);
        kept.objects.push_back((bytes, object));
        let mut surplus = Vec::new();
        while kept.bytes > RECENT_BYTES_MAX
            && let Some(oldest) = kept.objects.pop_front()
        {
            kept.bytes = kept.bytes.saturating_sub(oldest.0);
            surplus.push(oldest);
        }
        // Dropping a large object takes longer than everything else here.
        drop(kept);
        drop(surplus);
    }

    /// Keeps none, when the cache is empty.
    pub fn clear(&self) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let objects = std::mem::take(&mut kept.objects);
        kept.bytes = 0;
        drop(kept);
        drop(objects);
    }

    /// Bytes of the texts of the objects that are kept decoded.
    pub fn bytes(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).bytes
    }
}

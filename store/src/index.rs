//! Which objects of a resource have which value of a label or field.
//!
//! ```text
//!   snapshot --build--> Index (value, namespace, name) <--events-- the resource's ring
//!                          |
//!                          +--> places to look at, in the order of a list
//! ```
//!
//! Nothing is indexed that was not asked for, writes pay nothing: who selects builds the index of a column and brings
//! it forward by the events since. An index is a help, not a word. The places it names contain every object of the
//! snapshot that has one of the wanted values; whoever asks tests each object, as he would test all of them.
//!
//! Does not: decide what is selected, or know what columns mean.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use crate::{Compacted, Event, EventKind, Head, Key, Snapshot, Stored};

/// Columns indexed of one resource; the least used gives way.
const COLUMNS_MAX: usize = 8;
/// Fewer objects than this are looked at one by one.
const OBJECTS_MIN: usize = 1024;
/// When more than one object in this many is named, looking at all of them is faster.
const SHARE: usize = 4;

/// Something in an object's head that can be selected by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Column {
    /// A label by its key.
    Label(String),
    /// A selectable field by its name, beyond name and namespace.
    Field(String),
}

impl Column {
    fn of<'a>(&self, head: &'a Head) -> Option<&'a str> {
        match self {
            Self::Label(key) => head.label(key),
            // Selectors do not tell a missing field from an empty one.
            Self::Field(name) => Some(head.field(name).unwrap_or("")),
        }
    }
}

/// A condition that few objects may meet: the column has one of these values, or any at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Of what.
    pub column: Column,
    /// The values; `None` for any.
    pub values: Option<BTreeSet<String>>,
}

/// Namespace and name of an object that may be chosen.
pub type Place = (Arc<str>, Arc<str>);

/// The indexes of one resource.
#[derive(Debug, Default)]
pub struct Indexes {
    revision: u64,
    /// The least recently used first.
    columns: Vec<Index>,
}

impl Indexes {
    /// The places of a snapshot at which an object that meets all of `wanted` can be, and maybe some more; `None` when
    /// looking at all objects is no slower. `changes` gives the resource's events after one revision up to another.
    pub fn places(
        &mut self,
        snapshot: &Snapshot,
        resource: &str,
        wanted: &[Wanted],
        changes: impl FnOnce(u64, u64) -> Result<Vec<Arc<Event>>, Compacted>,
    ) -> Option<BTreeSet<Place>> {
        let objects = snapshot.count(resource, None);
        if objects < OBJECTS_MIN {
            self.columns.clear();
            return None;
        }
        if wanted.is_empty() {
            return None;
        }
        // A snapshot may be older than what another reader brought the indexes to: what changed in between may be
        // anything in it.
        let later = self.bring_to(snapshot.revision(), changes)?;
        let (mut best, mut fewest) = (None, objects / SHARE);
        for wanted in wanted.iter().take(COLUMNS_MAX) {
            let Some(at) = self.column(&wanted.column, snapshot, resource) else {
                continue;
            };
            let index = &self.columns[at];
            let count = index.named(wanted).take(fewest).count();
            if count < fewest {
                (best, fewest) = (Some(wanted), count);
            }
        }
        // Found again by its column: those looked at after it have changed places with it.
        let best = best?;
        let index = self.columns.iter().find(|index| index.column == best.column)?;
        let named = index.named(best);
        Some(named.map(|(_, place)| place.clone()).chain(later).collect())
    }

    /// Brings the indexes to a revision, or names what changed since it when they are beyond it.
    fn bring_to(
        &mut self,
        revision: u64,
        changes: impl FnOnce(u64, u64) -> Result<Vec<Arc<Event>>, Compacted>,
    ) -> Option<Vec<Place>> {
        if self.columns.is_empty() {
            self.revision = revision;
        }
        if revision < self.revision {
            let events = changes(revision, self.revision).ok()?;
            return Some(events.iter().map(|event| place(&event.object.key)).collect());
        }
        if revision > self.revision {
            match changes(self.revision, revision) {
                Ok(events) => events.iter().for_each(|event| {
                    self.columns.iter_mut().for_each(|column| column.take(event));
                }),
                Err(Compacted { .. }) => self.columns.clear(),
            }
            self.revision = revision;
        }
        Some(Vec::new())
    }

    /// Where the index of a column is, made if need be; `None` when it would have to be made of too old a snapshot.
    fn column(&mut self, column: &Column, snapshot: &Snapshot, resource: &str) -> Option<usize> {
        let index = match self.columns.iter().position(|index| index.column == *column) {
            Some(at) => self.columns.remove(at),
            None if snapshot.revision() == self.revision => {
                if self.columns.len() >= COLUMNS_MAX {
                    self.columns.remove(0);
                }
                Index::build(column.clone(), snapshot, resource)
            }
            None => return None,
        };
        self.columns.push(index);
        Some(self.columns.len() - 1)
    }
}

/// The objects that have a value in one column, by that value.
#[derive(Debug)]
struct Index {
    column: Column,
    /// Equal values share their text.
    places: BTreeSet<(Arc<str>, Place)>,
}

impl Index {
    fn build(column: Column, snapshot: &Snapshot, resource: &str) -> Self {
        let mut index = Self {
            column,
            places: BTreeSet::new(),
        };
        snapshot
            .list(resource, None, None)
            .for_each(|object| index.insert(object));
        index
    }

    fn take(&mut self, event: &Event) {
        if let Some(previous) = &event.previous {
            self.remove(previous);
        }
        if event.kind != EventKind::Deleted {
            self.insert(&event.object);
        }
    }

    fn insert(&mut self, object: &Stored) {
        if let Some(text) = self.column.of(&object.head) {
            let known = self.with(text).next().map(|(value, _)| value.clone());
            let value = known.unwrap_or_else(|| text.into());
            self.places.insert((value, place(&object.key)));
        }
    }

    fn remove(&mut self, object: &Stored) {
        if let Some(text) = self.column.of(&object.head) {
            self.places.remove(&(text.into(), place(&object.key)));
        }
    }

    /// What has this value.
    fn with(&self, text: &str) -> impl Iterator<Item = &(Arc<str>, Place)> {
        let (value, nothing): (Arc<str>, Arc<str>) = (text.into(), "".into());
        let first = (value.clone(), (nothing.clone(), nothing));
        let range = self.places.range((Bound::Included(first), Bound::Unbounded));
        range.take_while(move |(found, _)| *found == value)
    }

    /// What has one of the wanted values.
    fn named<'a>(&'a self, wanted: &'a Wanted) -> impl Iterator<Item = &'a (Arc<str>, Place)> {
        let any = wanted.values.is_none().then_some(self.places.iter());
        let some = wanted.values.iter().flatten().flat_map(|value| self.with(value));
        any.into_iter().flatten().chain(some)
    }
}

fn place(key: &Key) -> Place {
    (key.namespace.clone(), key.name.clone())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::{Draft, Op, Precondition, Ring, RingLimit, State, Txn};

    const PODS: &str = "pods";

    fn write(state: &mut State, ring: &mut Ring, object: usize, label: Option<u8>, field: u8) {
        let key = Key::new(PODS, format!("n{}", object % 3), format!("o{object}"));
        let when = Precondition::None;
        let op = if field == 0 {
            Op::Delete { key, when }
        } else {
            let head = Head {
                labels: label.map(|l| ("app".to_owned(), l.to_string())).into_iter().collect(),
                fields: vec![(
                    "phase".to_owned(),
                    if field == 1 { String::new() } else { field.to_string() },
                )],
                ..Head::default()
            };
            let draft = Draft::new(key, json!({"metadata": {}}), head);
            Op::Put { draft, when }
        };
        let (_, events) = state.apply(Txn { ops: vec![op] });
        events.into_iter().for_each(|event| ring.push(event));
    }

    fn meets(object: &Stored, wanted: &Wanted) -> bool {
        wanted.column.of(&object.head).is_some_and(|found| {
            let values = wanted.values.as_ref();
            values.is_none_or(|values| values.contains(found))
        })
    }

    fn wanted() -> impl Strategy<Value = Wanted> {
        let column = prop_oneof![
            Just(Column::Label("app".into())),
            Just(Column::Label("none".into())),
            Just(Column::Field("phase".into())),
            (0..20u8).prop_map(|n| Column::Field(format!("field-{n}"))),
        ];
        let value = prop_oneof![Just(String::new()), (0..9u8).prop_map(|n| n.to_string())];
        let values = proptest::option::of(proptest::collection::btree_set(value, 1..3));
        (column, values).prop_map(|(column, values)| Wanted { column, values })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Places named for any snapshot, early or late, hold everything that looking at all objects finds.
        #[test]
        fn nothing_chosen_is_missed(
            rounds in proptest::collection::vec((
                proptest::collection::vec((0..OBJECTS_MIN + 40, proptest::option::of(0..9u8), 0..9u8), 0..30),
                proptest::collection::vec(wanted(), 1..3),
                0..3usize,
            ), 1..12),
            events_max in 10..200usize,
        ) {
            let mut state = State::new();
            let mut ring = Ring::new(0, RingLimit { events: events_max, ..RingLimit::default() });
            for object in 0..OBJECTS_MIN + 30 {
                write(&mut state, &mut ring, object, Some((object % 7) as u8), 2);
            }
            let mut indexes = Indexes::default();
            let mut snapshots = vec![state.snapshot()];
            for (writes, wanted, back) in rounds {
                for (object, label, field) in writes {
                    write(&mut state, &mut ring, object, label, field);
                }
                snapshots.push(state.snapshot());
                let snapshot = &snapshots[snapshots.len().saturating_sub(1 + back)];
                let changes = |after, upto| {
                    let mut events = ring.after(after, usize::MAX)?;
                    events.retain(|event| event.revision <= upto);
                    Ok(events)
                };
                let Some(places) = indexes.places(snapshot, PODS, &wanted, changes) else {
                    continue;
                };
                for object in snapshot.list(PODS, None, None) {
                    let chosen = wanted.iter().all(|wanted| meets(object, wanted));
                    prop_assert!(!chosen || places.contains(&place(&object.key)), "{} {wanted:?}", object.key);
                }
            }
        }
    }

    #[test]
    fn a_value_that_none_has_names_nothing_and_a_common_one_is_not_worth_it() {
        let mut state = State::new();
        let mut ring = Ring::new(0, RingLimit::default());
        for object in 0..OBJECTS_MIN {
            write(&mut state, &mut ring, object, Some((object % 2) as u8), 1);
        }
        let mut indexes = Indexes::default();
        let snapshot = state.snapshot();
        let label = |value: &str| Wanted {
            column: Column::Label("app".into()),
            values: Some(BTreeSet::from([value.to_owned()])),
        };
        let phase = Wanted {
            column: Column::Field("phase".into()),
            values: Some(BTreeSet::from([String::new()])),
        };
        for (wanted, places) in [
            (vec![label("7")], Some(0)),
            (vec![label("1")], None),
            (vec![phase.clone()], None),
            (vec![phase, label("7")], Some(0)),
            (vec![], None),
        ] {
            let named = indexes.places(&snapshot, PODS, &wanted, |_, _| Ok(Vec::new()));
            assert_eq!(named.map(|places| places.len()), places, "{wanted:?}");
        }
    }
}

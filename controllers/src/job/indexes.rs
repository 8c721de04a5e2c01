//! Sets of completion indexes in the form `1,3-5,7` that Job statuses use.

use std::fmt;

use coxswain_api::bounded;

/// Sorted ranges that neither overlap nor touch.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Indexes(Vec<(i32, i32)>);

impl Indexes {
    /// Reads a status; what cannot be read, and what is not below `end`, is left out.
    pub fn parse(text: &str, end: i32) -> Indexes {
        let mut out = Indexes::default();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
                out.insert(first.max(0), last.min(end.saturating_sub(1)));
            }
        }
        out
    }

    /// Adds `first` to `last`, both included.
    pub fn insert(&mut self, first: i32, last: i32) {
        if first > last {
            return;
        }
        let apart = |&(a, b): &(i32, i32)| b.saturating_add(1) < first || last.saturating_add(1) < a;
        let (mut first, mut last) = (first, last);
        for &(a, b) in self.0.iter().filter(|range| !apart(range)) {
            (first, last) = (first.min(a), last.max(b));
        }
        self.0
            .retain(|&(a, b)| b.saturating_add(1) < first || last.saturating_add(1) < a);
        let at = self.0.partition_point(|&(a, _)| a < first);
        self.0.insert(at, (first, last));
    }

    pub fn contains(&self, index: i32) -> bool {
        let at = self.0.partition_point(|&(_, last)| last < index);
        self.0.get(at).is_some_and(|&(first, _)| first <= index)
    }

    /// The first index from `at` on that is not in it.
    pub fn free_from(&self, at: i32) -> i32 {
        let range = self.0.get(self.0.partition_point(|&(_, last)| last < at));
        range
            .filter(|(first, _)| *first <= at)
            .map_or(at, |(_, last)| last.saturating_add(1))
    }

    pub fn count(&self) -> i32 {
        bounded::sum(self.0.iter().map(|range| length(*range)))
    }

    /// How many of these are in `other` too.
    pub fn count_in(&self, other: &Indexes) -> i32 {
        let common = |&(a, b): &(i32, i32)| {
            let parts = other.0.iter().map(move |&(c, d)| length((a.max(c), b.min(d))));
            bounded::sum(parts)
        };
        bounded::sum(self.0.iter().map(common))
    }

    /// As a status says it; nothing for the empty set.
    pub fn text(&self) -> Option<String> {
        (!self.0.is_empty()).then(|| self.to_string())
    }
}

/// How many indexes a range has; none when it ends before it begins.
fn length((first, last): (i32, i32)) -> i32 {
    last.saturating_sub(first).saturating_add(1).max(0)
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (first, last)) in self.0.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            match last.saturating_sub(*first) {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

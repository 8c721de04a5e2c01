//! Watchers: each lists a resource at one member and follows it, at another when that one is gone.

use coxswain_consensus::{Cursor, EventKind, Store};

use crate::clients::{RESOURCES, change_of, values_of};
use crate::faults::Mutant;
use crate::history::{History, Sight, Watched};
use crate::random::Random;

/// A watcher.
pub struct Watcher {
    mutant: Option<Mutant>,
    /// The member it follows, in which life, and its place there.
    following: Option<(u64, u64, Cursor, Store)>,
    /// The unbroken watch so far.
    watched: Option<Watched>,
}

impl Watcher {
    /// A watcher that follows nothing.
    pub fn new(mutant: Option<Mutant>) -> Watcher {
        Watcher {
            mutant,
            following: None,
            watched: None,
        }
    }

    /// Goes on with what there is.
    pub fn poll(&mut self, alive: impl Fn(u64, u64) -> bool, random: &mut Random, history: &mut History) {
        let Some((machine, life, cursor, store)) = &mut self.following else {
            return;
        };
        if !alive(*machine, *life) || random.chance(5) {
            self.following = None;
            return;
        }
        let Some(watched) = &mut self.watched else {
            return;
        };
        if self.mutant == Some(Mutant::BookmarksAhead) {
            let place = watched.events.len();
            watched.bookmarks.push((store.snapshot().revision(), place));
        }
        match cursor.ready() {
            Ok(events) => {
                let each = events.iter();
                watched.events.extend(each.map(|event| {
                    let is_deleted = event.kind == EventKind::Deleted;
                    (event.revision, change_of(&event.object, is_deleted))
                }));
                if random.chance(100) {
                    let place = watched.events.len();
                    watched.bookmarks.push((cursor.revision(), place));
                }
            }
            // Too slow: it has to list again.
            Err(_) => self.stop(history),
        }
    }

    /// Whether it is to be sent to a member.
    pub fn is_idle(&self) -> bool {
        self.following.is_none()
    }

    /// Follows a member from where it was, or from a fresh list.
    pub fn follow(&mut self, at: (u64, u64), store: &Store, random: &mut Random, history: &mut History) {
        if let Some(watched) = &self.watched {
            let seen = watched.events.last().map_or(watched.after, |(revision, _)| *revision);
            let promised = watched
                .bookmarks
                .last()
                .map_or(seen, |(revision, _)| seen.max(*revision));
            let from = match self.mutant {
                Some(Mutant::SkipsOnResume) => promised + 1,
                Some(Mutant::RepeatsOnResume) => seen.saturating_sub(1),
                _ => promised,
            };
            match store.watch(watched.resource, from) {
                Ok(cursor) => self.following = Some((at.0, at.1, cursor, store.clone())),
                Err(_) => self.stop(history),
            }
            return;
        }
        let snapshot = store.snapshot();
        let resource = RESOURCES[random.below(2) as usize];
        let returned = history.now();
        history.sight(Sight {
            revision: snapshot.revision(),
            values: values_of(&snapshot),
            called: None,
            returned,
        });
        if let Ok(cursor) = store.watch(resource, snapshot.revision()) {
            self.following = Some((at.0, at.1, cursor, store.clone()));
            self.watched = Some(Watched {
                resource,
                after: snapshot.revision(),
                ..Watched::default()
            });
        }
    }

    /// Ends the watch.
    pub fn stop(&mut self, history: &mut History) {
        self.following = None;
        if let Some(watched) = self.watched.take() {
            history.watched(watched);
        }
    }
}

//! Priority and fairness: how many requests of whom run at the same time.
//!
//! A request is classified by the first FlowSchema that fits ([`schema`]) into a priority level. Each level has
//! its share of the server's seats. A request that finds a free seat takes it with one atomic addition; only when
//! a level is full do requests wait, in bounded queues that flows are spread over, served in turn
//! ([`level`]). What fits no queue is told to come back: 429. Levels lend each other idle seats. A LIST takes a seat for
//! every hundred objects that it may have to look at, a WATCH until it has begun; streams to nodes take none.
//!
//! Does not: weigh writes by how many watchers will hear of them.

mod level;
mod schema;
pub(crate) mod upkeep;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use coxswain_api::kinds::access;
use coxswain_store::Snapshot;

use crate::User;
use crate::authz::Attributes;
use level::{By, Group, Level, Shape};
pub(crate) use level::{Refused, Seat};
use schema::{Distinguisher, Schema};

pub(crate) const SCHEMAS: &str = "flowschemas.flowcontrol.apiserver.k8s.io";
pub(crate) const LEVELS: &str = "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io";

/// Seats of all levels together.
const SEATS: u64 = 600;
/// Longest wait in a queue.
const WAIT_MAX: Duration = Duration::from_secs(15);

/// Objects that one seat is good for.
const OBJECTS_A_SEAT: usize = 100;

/// The flow control of a server.
#[derive(Default)]
pub(crate) struct Flow {
    compiled: ArcSwapOption<Compiled>,
    group: Arc<Group>,
}

struct Compiled {
    built_from: [u64; 2],
    schemas: Vec<Schema>,
    levels: HashMap<String, (String, Arc<Level>)>,
}

/// What a request was classified as: the uids of its schema and level go into the answer's headers.
pub(crate) struct Class {
    pub schema_uid: String,
    pub level_uid: String,
    level: Arc<Level>,
    flow: u64,
    /// A number for the user.
    user: u64,
}

impl Flow {
    /// The class of a request; `None` while there is no flow control configuration.
    pub fn classify(&self, user: &User, attributes: &Attributes, snapshot: &Snapshot) -> Option<Class> {
        let compiled = self.compiled(snapshot);
        let schema = compiled.schemas.iter().find(|schema| schema.fits(user, attributes))?;
        let (level_uid, level) = compiled.levels.get(&schema.level)?;
        let flow = match schema.distinguisher {
            Distinguisher::None => schema::hash(&[&schema.name]),
            Distinguisher::User => schema::hash(&[&schema.name, &user.name]),
            Distinguisher::Namespace => schema::hash(&[&schema.name, &attributes.namespace]),
        };
        Some(Class {
            schema_uid: schema.uid.clone(),
            level_uid: level_uid.clone(),
            level: level.clone(),
            flow,
            user: schema::hash(&[&user.name]),
        })
    }

    fn compiled(&self, snapshot: &Snapshot) -> Arc<Compiled> {
        let built_from = [SCHEMAS, LEVELS].map(|resource| snapshot.changed(resource));
        let current = self.compiled.load_full();
        if let Some(current) = current.as_ref().filter(|current| current.built_from == built_from) {
            return current.clone();
        }
        let fresh = Arc::new(Compiled::build(snapshot, built_from, current.as_deref(), &self.group));
        self.group
            .set(fresh.levels.values().map(|(_, level)| Arc::downgrade(level)).collect());
        self.compiled.store(Some(fresh.clone()));
        fresh
    }
}

impl Class {
    /// Waits for `width` seats; they are given back when the [`Seat`] is dropped.
    ///
    /// # Errors
    /// When the level's queues are full, or the wait takes too long.
    pub async fn seat(&self, width: usize) -> Result<Seat, Refused> {
        let by = By {
            flow: self.flow,
            user: self.user,
        };
        self.level.seat(by, width, WAIT_MAX).await
    }
}

/// How many seats a request takes, estimated from what it may have to look at: all `stored` objects of its resource,
/// which are counted only for lists, or the page that it asked for when it leaves none of them out.
pub(crate) fn width(verb: &str, stored: impl FnOnce() -> usize, limit: Option<usize>, selects: bool) -> usize {
    if verb != "list" {
        return 1;
    }
    let looked_at = match limit {
        Some(limit) if limit > 0 && !selects => limit.min(stored()),
        _ => stored(),
    };
    looked_at.div_ceil(OBJECTS_A_SEAT).max(1)
}

impl Compiled {
    /// Levels that have not changed keep their seats and queues.
    fn build(snapshot: &Snapshot, built_from: [u64; 2], before: Option<&Compiled>, group: &Arc<Group>) -> Self {
        let mut schemas: Vec<Schema> = snapshot
            .list(SCHEMAS, None, None)
            .map(|stored| Schema::new(&stored.value()))
            .collect();
        schemas.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        let shares: u64 = snapshot
            .list(LEVELS, None, None)
            .map(|stored| shares(&stored.value()))
            .sum();
        let mut levels = HashMap::new();
        for stored in snapshot.list(LEVELS, None, None) {
            let value = stored.value();
            let shape = Shape::new(&value, SEATS, shares.max(1));
            let known = before.and_then(|before| before.levels.get(access::name(&value)));
            let level = match known {
                Some((_, level)) if *level.shape() == shape => level.clone(),
                _ => Arc::new(Level::new(shape, group.clone())),
            };
            levels.insert(access::name(&value).to_owned(), (stored.head.uid.clone(), level));
        }
        Self {
            built_from,
            schemas,
            levels,
        }
    }
}

fn shares(level: &serde_json::Value) -> u64 {
    let limited = access::int(level, "/spec/limited/nominalConcurrencyShares");
    let exempt = access::int(level, "/spec/exempt/nominalConcurrencyShares");
    let default = if access::text(level, "/spec/type") == "Limited" {
        30
    } else {
        0
    };
    u64::try_from(limited.or(exempt).unwrap_or(default)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::width;

    #[test]
    fn lists_are_as_wide_as_what_they_look_at() {
        for (verb, stored, limit, selects, want) in [
            ("get", 5_000, None, false, 1),
            ("list", 0, None, false, 1),
            ("list", 100, None, false, 1),
            ("list", 101, None, false, 2),
            ("list", 5_000, Some(500), false, 5),
            ("list", 5_000, Some(0), false, 50),
            ("list", 5_000, Some(500), true, 50),
            ("watch", 5_000, None, false, 1),
        ] {
            assert_eq!(
                width(verb, || stored, limit, selects),
                want,
                "{verb} {stored} {limit:?}"
            );
        }
    }
}

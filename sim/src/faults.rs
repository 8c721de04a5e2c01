//! What goes wrong.

use std::collections::BTreeSet;

use crate::random::Random;

/// A member, or the checkers' prey, with one promise taken away: each must be caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mutant {
    /// Syncs do nothing, so that answers are sent before what they promise is on disk.
    AcknowledgesBeforeSync,
    /// A leader answers reads without asking the others whether it still leads.
    ReadsWithoutConfirmation,
    /// A watch that goes on misses an event.
    SkipsOnResume,
    /// A forwarded write that comes twice is taken for two.
    TakesRepeatsForNew,
}

/// The network between the machines.
pub struct Network {
    /// Pairs (from, to) between which nothing gets through.
    pub cut: BTreeSet<(u64, u64)>,
    /// Messages in a thousand that get lost, come twice, or come late.
    pub lost: u64,
    pub twice: u64,
    pub late: u64,
}

impl Network {
    pub fn good() -> Network {
        Network {
            cut: BTreeSet::new(),
            lost: 0,
            twice: 0,
            late: 0,
        }
    }

    /// When copies of a message arrive, in microseconds from now.
    pub fn delays(&self, from: u64, to: u64, random: &mut Random) -> Vec<u64> {
        if self.cut.contains(&(from, to)) || random.chance(self.lost) {
            return Vec::new();
        }
        let copies = if random.chance(self.twice) { 2 } else { 1 };
        let delay = |random: &mut Random| match random.chance(self.late) {
            true => random.between(1_000, 2_000_000),
            false => random.between(100, 800),
        };
        (0..copies).map(|_| delay(random)).collect()
    }

    /// Cuts it apart in some way.
    pub fn part(&mut self, ids: &[u64], random: &mut Random) {
        let Some(one) = random.pick(ids) else {
            return;
        };
        let both = |a: u64, b: u64| [(a, b), (b, a)];
        let others = || ids.iter().copied().filter(move |id| *id != one);
        match random.below(5) {
            // One is alone.
            0 | 1 => self.cut.extend(others().flat_map(|id| both(one, id))),
            // One is not heard, or hears nothing.
            2 => self.cut.extend(others().map(|id| (one, id))),
            3 => self.cut.extend(others().map(|id| (id, one))),
            // Two don't see each other; a third sees both.
            _ => {
                let other = random.pick(&others().collect::<Vec<_>>());
                self.cut.extend(other.into_iter().flat_map(|other| both(one, other)));
            }
        }
    }

    /// Makes it worse or better.
    pub fn change_weather(&mut self, random: &mut Random) {
        let mut level = |most: u64| if random.chance(500) { 0 } else { random.below(most) };
        self.lost = level(200);
        self.twice = level(200);
        self.late = level(100);
    }
}

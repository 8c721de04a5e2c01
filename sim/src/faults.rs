//! What goes wrong.

use std::collections::BTreeSet;

use crate::random::Random;

/// A member, or the checkers' prey, with one promise taken away: each must be caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mutant {
    /// A damaged end of the log looks as if it had never been written, and the mark as if it had never been reached.
    TakesDamageForTorn,
    /// Syncs do nothing, so that answers are sent before what they promise is on disk.
    AcknowledgesBeforeSync,
    /// A leader answers reads without asking the others whether it still leads.
    ReadsWithoutConfirmation,
    /// The leader answers reads before it has committed an entry of its own term.
    ReadsBeforeOwnTerm,
    /// A write that is done is answered as refused.
    AppliesRefused,
    /// One member applies some entries differently.
    Diverges,
    /// A watch that goes on misses an event.
    SkipsOnResume,
    /// A watch that goes on repeats an event.
    RepeatsOnResume,
    /// A bookmark names a revision whose events have not been delivered.
    BookmarksAhead,
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

    /// When a message arrives and when once more, in microseconds from now.
    pub fn delays(&self, from: u64, to: u64, random: &mut Random) -> (Option<u64>, Option<u64>) {
        if self.cut.contains(&(from, to)) || random.chance(self.lost) {
            return (None, None);
        }
        let delay = |random: &mut Random| match random.chance(self.late) {
            true => random.between(1_000, 2_000_000),
            false => random.between(100, 800),
        };
        let again = random.chance(self.twice).then(|| delay(random));
        (Some(delay(random)), again)
    }

    /// Cuts it apart in some way, around one member or at random.
    pub fn part(&mut self, one: u64, ids: &[u64], random: &mut Random) {
        let both = |a: u64, b: u64| [(a, b), (b, a)];
        let others = || ids.iter().copied().filter(move |id| *id != one);
        let pairs = || ids.iter().flat_map(|a| ids.iter().map(move |b| (*a, *b)));
        match random.below(8) {
            // One is alone.
            0 | 1 => self.cut.extend(others().flat_map(|id| both(one, id))),
            // One is not heard, or hears nothing.
            2 => self.cut.extend(others().map(|id| (one, id))),
            3 => self.cut.extend(others().map(|id| (id, one))),
            // Two don't see each other; the others see both.
            4 => {
                let other = random.pick(&others().collect::<Vec<_>>());
                self.cut.extend(other.into_iter().flat_map(|other| both(one, other)));
            }
            // One sees everybody, and nobody else anybody.
            5 => self.cut.extend(pairs().filter(|(a, b)| *a != one && *b != one)),
            // Two halves.
            6 => {
                let side = random.next();
                let is_left = |id: u64| side >> (id % 64) & 1 == 1;
                self.cut.extend(pairs().filter(|(a, b)| is_left(*a) != is_left(*b)));
            }
            // Any directions.
            _ => {
                let some: Vec<_> = pairs().filter(|_| random.chance(300)).collect();
                self.cut.extend(some);
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

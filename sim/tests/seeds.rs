//! A bounded set of fixed seeds; `cargo xtask sim --hours N` runs many more.

use std::time::Duration;

use coxswain_sim::{Mutant, Report, run};

const LENGTH: Duration = Duration::from_secs(120);

#[test]
fn no_promise_is_broken() {
    let mut sum = Report::default();
    for seed in 0..24 {
        match run(seed, LENGTH, None) {
            Ok(report) => sum += report,
            Err(violation) => panic!("{violation}"),
        }
    }
    // The faults must have been there, and the clients.
    let least = [
        ("operations", sum.answered, 10_000),
        ("faults", sum.faults, 400),
        ("crashes", sum.crashes, 100),
        ("elections", sum.elections, 80),
        ("changes", sum.changes, 50),
        ("refusals to start with damaged files", sum.refusals, 5),
        ("last records damaged", sum.ends, 10),
    ];
    for (what, count, least) in least {
        assert!(count >= least, "only {count} {what}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let twice = [(); 2].map(|()| run(7, LENGTH, None).map_err(|violation| violation.to_string()));
    assert_eq!(twice[0], twice[1]);
    let other = run(8, LENGTH, None).map_err(|violation| violation.to_string());
    assert_ne!(twice[0], other);
}

/// With one promise taken away, the checkers say so within a few seeds, and in the words of the promise.
#[test]
fn mutants_are_caught() {
    let mutants = [
        (Mutant::AcknowledgesBeforeSync, 8, ""),
        (Mutant::TakesDamageForTorn, 24, "members differ at index"),
        (Mutant::ReadsWithoutConfirmation, 24, "had been answered"),
        (Mutant::ReadsBeforeOwnTerm, 24, "had been answered"),
        (Mutant::AppliesRefused, 4, "was refused and done"),
        (Mutant::Diverges, 4, "members differ at index"),
        (Mutant::SkipsOnResume, 4, "a watch of"),
        (Mutant::RepeatsOnResume, 4, "a watch of"),
        (Mutant::BookmarksAhead, 4, "a bookmark at"),
        (Mutant::TakesRepeatsForNew, 12, "was done twice"),
    ];
    for (mutant, seeds, words) in mutants {
        let mut violations = (0..seeds).filter_map(|seed| run(seed, LENGTH, Some(mutant)).err());
        let caught = violations.next();
        let what = caught.map(|violation| violation.what);
        assert!(
            what.as_ref().is_some_and(|what| what.contains(words)),
            "{mutant:?} goes unnoticed for {seeds} seeds, or is taken for something else: {what:?}"
        );
    }
}

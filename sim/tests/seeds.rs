//! A bounded set of fixed seeds; `cargo xtask sim --hours N` runs many more.

use std::time::Duration;

use coxswain_sim::{Mutant, run};

const LENGTH: Duration = Duration::from_secs(60);

#[test]
fn no_promise_is_broken() {
    let mut answered = 0;
    for seed in 0..24 {
        match run(seed, LENGTH, None) {
            Ok(report) => answered += report.answered,
            Err(violation) => panic!("{violation}"),
        }
    }
    assert!(answered > 10_000, "only {answered} operations were answered");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let twice = [(); 2].map(|()| run(7, LENGTH, None).map_err(|violation| violation.to_string()));
    assert_eq!(twice[0], twice[1]);
    let other = run(8, LENGTH, None).map_err(|violation| violation.to_string());
    assert_ne!(twice[0], other);
}

/// With one promise taken away, the checkers say so within a few seeds.
#[test]
fn mutants_are_caught() {
    let mutants = [
        (Mutant::AcknowledgesBeforeSync, 8),
        (Mutant::ReadsWithoutConfirmation, 24),
        (Mutant::SkipsOnResume, 4),
        (Mutant::TakesRepeatsForNew, 8),
    ];
    for (mutant, seeds) in mutants {
        let caught = (0..seeds).any(|seed| run(seed, LENGTH, Some(mutant)).is_err());
        assert!(caught, "{mutant:?} goes unnoticed for {seeds} seeds");
    }
}

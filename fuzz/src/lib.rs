//! A small fuzzer for the stable toolchain.
//!
//! A target is a test: [`fuzz`] feeds it the corpus as it is, then inputs made from the corpus by seeded mutations. A
//! target answers with what became of an input; an input with a new kind of answer joins the corpus, which is how the
//! fuzzer finds its way without instrumented code. A panic is a find: the input is made smaller, saved and printed.
//!
//! ```text
//!   plain `cargo test`      a few hundred inputs per target, always the same
//!   `cargo xtask fuzz`      as long as told, from a seed that is printed; the input at work is on disk, so that
//!                           an overflowing stack or an endless loop leaves it behind
//! ```
//!
//! Does not: measure coverage, run for a time without being told so, or know any format.

mod corpus;
mod input;
mod random;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub use corpus::{Recorded, recorded};
pub use input::Input;
pub use random::Random;

/// Inputs of a target in a plain test run.
const INPUTS_PLAIN: u64 = 300;
/// The seed of a plain test run.
const SEED_PLAIN: u64 = 1;
/// Most inputs that are kept because their answers were new.
const KEPT_MAX: usize = 2_000;
/// Tries to make a failing input smaller.
const SHRINK_TRIES: usize = 2_000;
/// One input may take this long before the process ends itself.
const STUCK_AFTER: Duration = Duration::from_secs(30);

/// What became of an input: taken, or refused for a reason.
pub type Answer = Result<(), String>;

/// How long, from where, and where finds go.
struct Plan {
    seconds: Option<f64>,
    seed: u64,
    folder: Option<PathBuf>,
}

impl Plan {
    fn from_environment() -> Self {
        let text = |name: &str| std::env::var(name).ok();
        Self {
            seconds: text("COXSWAIN_FUZZ_SECONDS").and_then(|value| value.parse().ok()),
            seed: text("COXSWAIN_FUZZ_SEED")
                .and_then(|value| value.parse().ok())
                .unwrap_or(SEED_PLAIN),
            folder: text("COXSWAIN_FUZZ_DIR").map(PathBuf::from),
        }
    }

    fn goes_on(&self, done: u64, start: Instant) -> bool {
        match self.seconds {
            Some(seconds) => start.elapsed().as_secs_f64() < seconds,
            None => done < INPUTS_PLAIN,
        }
    }
}

/// Feeds `target` with `seeds` and what mutation makes of them, with `words` thrown in.
///
/// # Panics
/// With the input when the target panics for one.
pub fn fuzz<I: Input>(name: &str, seeds: Vec<I>, words: &[&str], target: impl Fn(&I) -> Answer) {
    let plan = Plan::from_environment();
    let mut random = Random::new(plan.seed ^ hash(name));
    let watch = Watch::start(name, plan.folder.as_deref());
    let mut seen = std::collections::HashSet::new();
    let mut slowest = (Duration::ZERO, 0);
    let mut corpus = seeds.clone();
    let mut try_one = |input: &I| -> bool {
        watch.begins(input);
        let began = Instant::now();
        let answered = catch_unwind(AssertUnwindSafe(|| target(input)));
        let took = began.elapsed();
        if took > slowest.0 {
            slowest = (took, input.bytes().len());
        }
        match answered {
            Ok(answer) => seen.insert(class(&answer)),
            Err(panic) => fail(name, &plan, input, &target, &*panic),
        }
    };
    for seed in &seeds {
        try_one(seed);
    }
    let (start, mut done) = (Instant::now(), 0);
    while plan.goes_on(done, start) && !corpus.is_empty() {
        let mut input = corpus[random.below(corpus.len())].clone();
        for _ in 0..=random.below(4) {
            let other = corpus[random.below(corpus.len())].clone();
            input.mutate(&mut random, words, &other);
        }
        if try_one(&input) && corpus.len() < seeds.len() + KEPT_MAX {
            corpus.push(input);
        }
        done += 1;
    }
    let (took, length) = slowest;
    println!(
        "fuzz {name}: {} seeds, {done} inputs, {} answers, slowest {:.1} ms ({length} bytes)",
        seeds.len(),
        seen.len(),
        took.as_secs_f64() * 1e3
    );
}

/// An answer without what differs from input to input: numbers and quoted parts.
fn class(answer: &Answer) -> u64 {
    let Err(why) = answer else { return 0 };
    let mut quoted = false;
    let kept = why.chars().filter(|letter| {
        if matches!(letter, '"' | '\'' | '`') {
            quoted = !quoted;
        }
        !quoted && !letter.is_ascii_digit()
    });
    hash(&kept.take(200).collect::<String>())
}

fn hash(text: &str) -> u64 {
    // FNV-1a: the same in every process, unlike the standard library's.
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Makes a failing input smaller, saves it, and panics with it.
fn fail<I: Input>(
    name: &str,
    plan: &Plan,
    input: &I,
    target: &impl Fn(&I) -> Answer,
    panic: &(dyn std::any::Any + Send),
) -> ! {
    let fails = |input: &I| catch_unwind(AssertUnwindSafe(|| target(input))).is_err();
    // The tries are many, and say nothing new.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut smallest = input.clone();
    let mut tries = 0;
    'smaller: while tries < SHRINK_TRIES {
        for candidate in smallest.smaller() {
            tries += 1;
            if fails(&candidate) {
                smallest = candidate;
                continue 'smaller;
            }
            if tries >= SHRINK_TRIES {
                break 'smaller;
            }
        }
        break;
    }
    std::panic::set_hook(hook);
    let folder = plan.folder.clone().unwrap_or_else(std::env::temp_dir);
    let file = folder.join(format!("fuzz-{name}.failing"));
    let saved = std::fs::write(&file, smallest.bytes()).map_or_else(
        |error| format!("not saved: {error}"),
        |()| format!("saved as {}", file.display()),
    );
    let why = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without words");
    panic!(
        "fuzz {name} (seed {}): {why}\ninput ({saved}):\n{}",
        plan.seed,
        smallest.bytes().escape_ascii()
    );
}

/// Notes the input at work, and ends the process when it takes far too long.
struct Watch {
    current: Option<(PathBuf, File)>,
    count: Arc<AtomicU64>,
}

/// What the counter says when the target is done.
const DONE: u64 = u64::MAX;

impl Watch {
    fn start(name: &str, folder: Option<&Path>) -> Self {
        let current = folder.and_then(|folder| {
            let path = folder.join(format!("fuzz-{name}.current"));
            Some((path.clone(), File::create(path).ok()?))
        });
        let count = Arc::new(AtomicU64::new(0));
        let (counted, name) = (count.clone(), name.to_owned());
        std::thread::spawn(move || {
            let (mut last, mut since) = (0, Instant::now());
            loop {
                std::thread::sleep(Duration::from_millis(200));
                match counted.load(Ordering::Relaxed) {
                    DONE => return,
                    same if same == last && since.elapsed() > STUCK_AFTER => {
                        eprintln!("fuzz {name}: one input takes more than {STUCK_AFTER:?}");
                        std::process::abort();
                    }
                    same if same == last => {}
                    other => (last, since) = (other, Instant::now()),
                }
            }
        });
        Self { current, count }
    }

    fn begins(&self, input: &impl Input) {
        self.count.fetch_add(1, Ordering::Relaxed);
        if let Some((_, file)) = &self.current {
            // The find is what matters; without its file it still ends the process.
            let bytes = input.bytes();
            let _ = file.write_all_at(&bytes, 0);
            let _ = file.set_len(bytes.len() as u64);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.count.store(DONE, Ordering::Relaxed);
        if let Some((path, _)) = &self.current {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_find_is_made_small_and_named() {
        let seeds = vec![b"abcdefghijklmnop".to_vec()];
        let found = catch_unwind(|| {
            fuzz("own-test", seeds, &["magic"], |input: &Vec<u8>| {
                assert!(!input.windows(5).any(|part| part == b"magic"), "it is magic");
                Ok(())
            });
        });
        let panic = found.expect_err("a find");
        let text = panic.downcast_ref::<String>().expect("words");
        assert!(text.contains("it is magic") && text.ends_with("\nmagic"), "{text}");
        let saved = std::env::temp_dir().join("fuzz-own-test.failing");
        assert_eq!(std::fs::read(&saved).expect("saved"), b"magic");
        std::fs::remove_file(saved).expect("removed");
    }

    #[test]
    fn answers_differ_by_their_words_only() {
        let refused = |text: &str| class(&Err(text.to_owned()));
        assert_eq!(refused("field \"a\" at 12"), refused("field \"b\" at 7"));
        assert_ne!(refused("too long"), refused("too short"));
        assert_ne!(class(&Ok(())), refused("too long"));
    }
}

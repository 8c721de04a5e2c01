//! Tokens with which another server joins: good once, for a day.
//!
//! The store holds the SHA-256 of each secret that is still good, and until when. The write that gives the joiner its id also
//! takes the token away, so that of two joiners with one token the second is rejected.

use coxswain_store::{Draft, Head, Key, Op, Precondition, Snapshot, Txn};
use serde::{Deserialize, Serialize};

/// Storage name of the tokens.
pub(crate) const TOKENS: &str = "join-tokens.coxswain";
/// How long a token is good, in seconds.
pub const LIFETIME_S: u64 = 24 * 3600;
/// Tokens that are good at a time; a further one takes the place of the oldest.
const MOST_TOKENS: usize = 16;

/// What is kept of a token, under the hash of its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Token {
    /// Seconds since 1970.
    expires_s: u64,
}

fn name(secret: &str) -> String {
    super::tls::sha256_hex(secret.as_bytes())
}

/// The tokens, with the revision of each, soonest to expire first.
fn all(snapshot: &Snapshot) -> Vec<(String, Token, u64)> {
    let rows = snapshot.list(TOKENS, None, None);
    let mut all: Vec<_> = rows
        .filter_map(|object| {
            let token: Token = serde_json::from_slice(&object.bytes).ok()?;
            Some((object.key.name.to_string(), token, object.revision))
        })
        .collect();
    all.sort_by_key(|(_, token, _)| token.expires_s);
    all
}

fn removal(name: &str, revision: u64) -> Op {
    Op::Delete {
        key: Key::new(TOKENS, "", name),
        when: Precondition::Revision(revision),
    }
}

/// The write that makes a secret good from `now_s` (seconds since 1970) on. Expired tokens go with it.
pub(super) fn create(snapshot: &Snapshot, secret: &str, now_s: u64) -> Txn {
    let known = all(snapshot);
    let surplus = (known.len() + 1).saturating_sub(MOST_TOKENS);
    let stale = |(at, (_, token, _)): &(usize, &(String, Token, u64))| *at < surplus || token.expires_s <= now_s;
    let removals = known.iter().enumerate().filter(stale);
    let mut ops: Vec<Op> = removals
        .map(|(_, (name, _, revision))| removal(name, *revision))
        .collect();
    let name = name(secret);
    let value = serde_json::json!({
        "metadata": { "name": name },
        "expires_s": now_s.saturating_add(LIFETIME_S),
    });
    ops.push(Op::Put {
        draft: Draft::new(Key::new(TOKENS, "", name), value, Head::default()),
        when: Precondition::Absent,
    });
    Txn { ops }
}

/// The operation that uses a token up; none when it is not good (any more) at `now_s`.
pub(super) fn spend(snapshot: &Snapshot, secret: &str, now_s: u64) -> Option<Op> {
    let name = name(secret);
    let object = snapshot.find(TOKENS, "", &name)?;
    let token: Token = serde_json::from_slice(&object.bytes).ok()?;
    (now_s < token.expires_s).then(|| removal(&name, object.revision))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Outcome;

    fn applied(state: &mut coxswain_store::State, txn: Txn) -> bool {
        matches!(state.apply(txn).0, Outcome::Committed { .. })
    }

    #[test]
    fn a_token_is_good_once_and_for_a_day() {
        let mut state = coxswain_store::State::new();
        assert!(spend(&state.snapshot(), "a", 0).is_none(), "never made");
        let txn = create(&state.snapshot(), "a", 100);
        assert!(applied(&mut state, txn));
        assert!(spend(&state.snapshot(), "b", 100).is_none(), "another secret");
        assert!(spend(&state.snapshot(), "a", 100 + LIFETIME_S).is_none(), "expired");
        let first = spend(&state.snapshot(), "a", 99 + LIFETIME_S);
        let second = spend(&state.snapshot(), "a", 101);
        let outcomes = [first, second].map(|op| {
            applied(
                &mut state,
                Txn {
                    ops: op.into_iter().collect(),
                },
            )
        });
        assert_eq!(outcomes, [true, false], "two joiners at once");
        assert!(spend(&state.snapshot(), "a", 101).is_none(), "used");
    }

    #[test]
    fn expired_and_surplus_tokens_go() {
        let mut state = coxswain_store::State::new();
        for number in 0..40u64 {
            let txn = create(&state.snapshot(), &format!("s{number}"), number);
            assert!(applied(&mut state, txn));
        }
        assert_eq!(all(&state.snapshot()).len(), MOST_TOKENS);
        assert!(spend(&state.snapshot(), "s39", 40).is_some());
        assert!(spend(&state.snapshot(), "s23", 40).is_none());
        let txn = create(&state.snapshot(), "late", 10 * LIFETIME_S);
        assert!(applied(&mut state, txn));
        assert_eq!(all(&state.snapshot()).len(), 1);
    }
}

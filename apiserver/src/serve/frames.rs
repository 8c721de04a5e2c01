//! HTTP/2 frames that cost work and bring nothing: counted on their way in, and answered with the end of the connection.
//!
//! Floods of PING, SETTINGS, WINDOW_UPDATE, PRIORITY, RST_STREAM, CONTINUATION and empty DATA frames keep a server busy
//! with small packets. An honest client sends few of them for each request and each kilobyte that it receives, so each
//! such frame costs a unit, and requests, responses, received bytes and time pay for them. Pure.

/// Units at the beginning, and most that are saved.
const UNITS_MAX: u64 = 10_000;
/// Units for a second.
const UNITS_PER_SECOND: u64 = 200;
/// Units for a response that was sent to its end.
const UNITS_PER_RESPONSE: u64 = 8;
/// Bytes that were sent for one unit.
const BYTES_PER_UNIT: u64 = 1024;
/// DATA frames with fewer bytes than this cost a unit.
const DATA_BYTES_MIN: usize = 64;
/// What an HTTP/2 connection begins with.
const PREFACE_BYTES: usize = 24;
const HEADER_BYTES: usize = 9;

const DATA: u8 = 0;
const SETTINGS: u8 = 4;

/// Counts the frames of one connection.
pub(crate) struct FrameBudget {
    header: [u8; HEADER_BYTES],
    filled: usize,
    /// Bytes until the next frame begins.
    skip: usize,
    units: u64,
    refilled_ms: u64,
    sent_bytes: u64,
}

impl FrameBudget {
    /// A connection that begins now.
    pub fn new(now_ms: u64) -> Self {
        Self {
            header: [0; HEADER_BYTES],
            filled: 0,
            skip: PREFACE_BYTES,
            units: UNITS_MAX,
            refilled_ms: now_ms,
            sent_bytes: 0,
        }
    }

    fn earn(&mut self, units: u64) {
        self.units = self.units.saturating_add(units).min(UNITS_MAX);
    }

    /// Notes bytes that were sent.
    pub fn sent(&mut self, bytes: usize) {
        self.sent_bytes += bytes as u64;
        self.earn(self.sent_bytes / BYTES_PER_UNIT);
        self.sent_bytes %= BYTES_PER_UNIT;
    }

    /// Notes responses that were sent to their end.
    pub fn responded(&mut self, count: u64) {
        self.earn(count.saturating_mul(UNITS_PER_RESPONSE));
    }

    /// Takes in received bytes; false when the client has spent more than it has.
    pub fn received(&mut self, mut bytes: &[u8], now_ms: u64) -> bool {
        let passed_ms = now_ms.saturating_sub(self.refilled_ms);
        let earned = passed_ms.saturating_mul(UNITS_PER_SECOND) / 1000;
        if earned > 0 {
            self.earn(earned);
            self.refilled_ms = now_ms;
        }
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = bytes.split_at(skipped).1;
                continue;
            }
            let (taken, rest) = bytes.split_at((HEADER_BYTES - self.filled).min(bytes.len()));
            for byte in taken {
                if let Some(place) = self.header.get_mut(self.filled) {
                    *place = *byte;
                }
                self.filled += 1;
            }
            bytes = rest;
            if self.filled == HEADER_BYTES {
                self.filled = 0;
                let [high, middle, low, kind, ..] = self.header;
                let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                self.skip = length;
                let cost = match kind {
                    DATA if length >= DATA_BYTES_MIN => 0,
                    // Each setting has six bytes.
                    SETTINGS => 1 + length as u64 / 6,
                    _ => 1,
                };
                let Some(left) = self.units.checked_sub(cost) else {
                    return false;
                };
                self.units = left;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, length: usize) -> Vec<u8> {
        let bytes = u32::try_from(length).expect("small").to_be_bytes();
        let mut out = bytes[1..].to_vec();
        out.extend([kind, 0, 0, 0, 0, 1]);
        out.extend(std::iter::repeat_n(0, length));
        out
    }

    /// How many such frames a client can send at once, in pieces of so many bytes.
    fn most(kind: u8, length: usize, piece: usize) -> usize {
        let mut budget = FrameBudget::new(0);
        assert!(budget.received(&[b'x'; PREFACE_BYTES], 0));
        let text = frame(kind, length).repeat(20_000);
        let mut good = 0;
        for chunk in text.chunks(piece) {
            if !budget.received(chunk, 0) {
                return good / (HEADER_BYTES + length);
            }
            good += chunk.len();
        }
        usize::MAX
    }

    #[test]
    fn floods_of_every_kind_end() {
        for (kind, length) in [
            (0, 0),
            (0, 1),
            (1, 20),
            (2, 5),
            (3, 4),
            (4, 0),
            (4, 60),
            (5, 4),
            (6, 8),
            (7, 8),
            (8, 4),
            (9, 1),
            (77, 3),
        ] {
            for piece in [1, 7, 4096] {
                let most = most(kind, length, piece);
                assert!(most <= 10_010, "kind {kind} of {length}: {most}");
            }
        }
        assert_eq!(most(0, 1000, 4096), usize::MAX, "bodies are free");
    }

    #[test]
    fn honest_traffic_goes_on() {
        let mut budget = FrameBudget::new(0);
        assert!(budget.received(&[b'x'; PREFACE_BYTES], 0));
        // A long download: two window updates for every 4 KiB.
        for _ in 0..100_000 {
            budget.sent(4096);
            assert!(budget.received(&frame(8, 4).repeat(2), 0));
        }
        // Many small requests, each reset or acknowledged.
        for _ in 0..100_000 {
            assert!(budget.received(&[frame(1, 30), frame(3, 4), frame(8, 4)].concat(), 0));
            budget.responded(1);
        }
        // A hundred pings in a second, for an hour.
        for second in 0..3600 {
            assert!(budget.received(&frame(6, 8).repeat(100), second * 1000));
        }
    }
}

//! Times as the API writes them: RFC 3339 in UTC, whole seconds (`Time`) or microseconds (`MicroTime`).

use jiff::Timestamp;

/// The first second of the year 0, and of the year 10000.
const YEAR_0_S: i64 = -62_167_219_200;
const YEAR_10000_S: i64 = 253_402_300_800;

/// The canonical `Time` text of an RFC 3339 time in any offset; `None` when it is not one.
pub fn canonical(text: &str) -> Option<String> {
    parse(text).map(format)
}

/// The canonical `MicroTime` text of an RFC 3339 time in any offset; `None` when it is not one.
pub fn canonical_micro(text: &str) -> Option<String> {
    parse(text).map(format_micro)
}

/// Reads an RFC 3339 time. Stricter than ISO 8601: `T`, seconds and an offset must be there.
pub fn parse(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let digits_at = [0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18];
    let marks = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    let digits_fit = digits_at
        .iter()
        .all(|&at| bytes.get(at).is_some_and(u8::is_ascii_digit));
    let marks_fit = marks.iter().all(|&(at, mark)| bytes.get(at) == Some(&mark));
    let rest = text.get(19..)?;
    let offset_at = rest.find(['Z', '+', '-'])?;
    let (fraction, offset) = rest.split_at(offset_at);
    let fraction_fits = fraction.is_empty()
        || fraction
            .strip_prefix('.')
            .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|d| d.is_ascii_digit()));
    let offset_fits = offset == "Z" || (offset.len() == 6 && offset.as_bytes().get(3) == Some(&b':'));
    if !(digits_fit && marks_fit && fraction_fits && offset_fits) {
        return None;
    }
    let time: Timestamp = text.parse().ok()?;
    // The offset can lead out of the years that can be written.
    (YEAR_0_S..YEAR_10000_S).contains(&time.as_second()).then_some(time)
}

/// `2026-11-21T05:27:44Z`; fractions are cut off.
pub fn format(time: Timestamp) -> String {
    jiff::fmt::temporal::DateTimePrinter::new()
        .precision(Some(0))
        .timestamp_to_string(&floor(time, 1_000_000_000))
}

/// `2026-11-21T05:27:44.123456Z`; always six digits.
pub fn format_micro(time: Timestamp) -> String {
    jiff::fmt::temporal::DateTimePrinter::new()
        .precision(Some(6))
        .timestamp_to_string(&floor(time, 1_000))
}

fn floor(time: Timestamp, unit_ns: i128) -> Timestamp {
    let nanoseconds = time.as_nanosecond().div_euclid(unit_ns) * unit_ns;
    Timestamp::from_nanosecond(nanoseconds).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms() {
        let cases = [
            ("2026-01-02T03:04:05Z", Some("2026-01-02T03:04:05Z")),
            ("2026-01-02T03:04:05.987Z", Some("2026-01-02T03:04:05Z")),
            ("2026-01-02T03:04:05+02:00", Some("2026-01-02T01:04:05Z")),
            ("2026-01-02", None),
            ("2026-01-02 03:04:05Z", None),
            ("x", None),
            // In UTC it is a year that has no four digits.
            ("0000-01-01T00:00:09+23:59", None),
            ("9999-12-31T23:59:59-00:01", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(canonical(text).as_deref(), expected, "{text}");
        }
        assert_eq!(
            canonical_micro("2026-01-02T03:04:05.1Z").as_deref(),
            Some("2026-01-02T03:04:05.100000Z")
        );
    }
}

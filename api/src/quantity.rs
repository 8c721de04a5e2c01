//! Amounts such as `100m`, `1.5Gi` or `1e3`, with exactly the canonical form that Kubernetes prints.
//!
//! The value is kept as a whole number of 10^-9 units; smaller parts are rounded away from zero and values
//! beyond 2^63-1 are capped, both as Kubernetes does.

use std::cmp::Ordering;
use std::fmt::{self, Display};
use std::str::FromStr;

const NANO: i128 = 1_000_000_000;
const CAP: i128 = (i64::MAX as i128) * NANO;
const DECIMAL: [(&str, i32); 10] = [
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];
const BINARY: [(&str, u32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];

/// Longest text that is read, in bytes. Kubernetes has no limit of its own; nobody needs more.
const TEXT_BYTES_MAX: usize = 256;

/// The family of suffixes that a quantity was written with and is printed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `m`, `k`, `M`, ...
    DecimalSi,
    /// `Ki`, `Mi`, ...
    BinarySi,
    /// `e3`
    DecimalExponent,
}

/// An amount. Equality and order look at the value only.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

/// Why a text is not a quantity, in Kubernetes' words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse numeric part of quantity")]
    Number,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Quantity {
    /// Nothing, printed `0`.
    pub const ZERO: Self = Self {
        nano: 0,
        format: Format::DecimalSi,
    };

    /// Reads a quantity.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        if text.is_empty() || text.len() > TEXT_BYTES_MAX {
            return Err(QuantityError::Format);
        }
        let (negative, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (true, text.get(1..).unwrap_or("")),
            Some(b'+') => (false, text.get(1..).unwrap_or("")),
            _ => (false, text),
        };
        let number_end = unsigned
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(number_end);
        if number.is_empty() || !suffix_fits(suffix) {
            return Err(QuantityError::Format);
        }
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(QuantityError::Number);
        }
        let (scale, format) = read_suffix(suffix).ok_or(QuantityError::Suffix)?;
        let magnitude = scaled(whole, fraction, scale);
        let below_one = magnitude > 0 && magnitude < NANO;
        let format = if format == Format::BinarySi && below_one {
            Format::DecimalSi
        } else {
            format
        };
        Ok(Self {
            nano: if negative { -magnitude } else { magnitude },
            format,
        })
    }

    /// The text as Kubernetes prints it after reading it: the canonical form, except that a text which its
    /// quick check takes for canonical (`010`, `1.500`) is kept as it was written.
    pub fn printed(text: &str) -> Result<String, QuantityError> {
        let quantity = Self::parse(text)?;
        Ok(if passes_for_canonical(text, quantity.format) {
            text.to_owned()
        } else {
            quantity.canonical()
        })
    }

    /// A whole amount in decimal form.
    pub fn from_int(value: i64) -> Self {
        Self {
            nano: i128::from(value) * NANO,
            format: Format::DecimalSi,
        }
    }

    /// An amount of thousandths in decimal form.
    pub fn from_milli(value: i64) -> Self {
        Self {
            nano: i128::from(value) * (NANO / 1000),
            format: Format::DecimalSi,
        }
    }

    /// A whole amount (of bytes) in binary form.
    pub fn from_bytes(value: i64) -> Self {
        Self {
            nano: i128::from(value) * NANO,
            format: Format::BinarySi,
        }
    }

    /// The canonical text.
    pub fn canonical(&self) -> String {
        if self.nano == 0 {
            return "0".into();
        }
        let whole = self.nano % NANO == 0;
        let small = self.nano.abs() < 1024 * NANO;
        if self.format == Format::BinarySi && whole && !small {
            return self.canonical_binary();
        }
        let (mut mantissa, mut exponent) = (self.nano, -9);
        while mantissa % 10 == 0 {
            mantissa /= 10;
            exponent += 1;
        }
        while exponent % 3 != 0 {
            mantissa *= 10;
            exponent -= 1;
        }
        match self.format {
            Format::DecimalExponent if exponent == 0 => mantissa.to_string(),
            Format::DecimalExponent => format!("{mantissa}e{exponent}"),
            _ => {
                let suffix = DECIMAL
                    .iter()
                    .find(|(_, power)| *power == exponent)
                    .map_or("", |(suffix, _)| suffix);
                format!("{mantissa}{suffix}")
            }
        }
    }

    fn canonical_binary(&self) -> String {
        let (mut mantissa, mut steps) = (self.nano / NANO, 0_usize);
        while mantissa % 1024 == 0 && steps < BINARY.len() {
            mantissa /= 1024;
            steps += 1;
        }
        let suffix = steps
            .checked_sub(1)
            .and_then(|at| BINARY.get(at))
            .map_or("", |(suffix, _)| suffix);
        format!("{mantissa}{suffix}")
    }

    /// The sum, in the form of `self` unless that is zero. Saturates.
    #[must_use]
    pub fn add(&self, other: &Self) -> Self {
        let format = if self.nano == 0 { other.format } else { self.format };
        Self {
            nano: self.nano.saturating_add(other.nano).clamp(-CAP, CAP),
            format,
        }
    }

    /// The difference, in the form of `self` unless that is zero. Saturates.
    #[must_use]
    pub fn sub(&self, other: &Self) -> Self {
        self.add(&Self {
            nano: -other.nano,
            format: other.format,
        })
    }

    /// Thousandths, rounded away from zero, saturating.
    pub fn milli(&self) -> i64 {
        round_up(self.nano, NANO / 1000)
    }

    /// Whole units, rounded away from zero, saturating.
    pub fn value(&self) -> i64 {
        round_up(self.nano, NANO)
    }

    /// The value as a float, for ratios.
    pub fn as_f64(&self) -> f64 {
        self.nano as f64 / NANO as f64
    }

    /// Billionths, exact.
    pub fn nano(&self) -> i128 {
        self.nano
    }

    /// Whether the value is a whole number of units.
    pub fn is_whole(&self) -> bool {
        self.nano % NANO == 0
    }

    /// Whether the value is a whole number of thousandths.
    pub fn is_whole_milli(&self) -> bool {
        self.nano % (NANO / 1000) == 0
    }

    /// Whether this is nothing.
    pub fn is_zero(&self) -> bool {
        self.nano == 0
    }

    /// Whether this is below zero.
    pub fn is_negative(&self) -> bool {
        self.nano < 0
    }

    /// The form it is printed in.
    pub fn format(&self) -> Format {
        self.format
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

impl Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.canonical())
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        Self::parse(text)
    }
}

/// A power of ten or of two.
enum Scale {
    Ten(i32),
    Two(u32),
}

/// The check by which Kubernetes decides to keep a text: few digits, no obvious factor left to move into the
/// suffix. Leading zeros of the whole part are not looked at.
fn passes_for_canonical(text: &str, format: Format) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let number_end = unsigned
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(number_end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole = match whole.trim_start_matches('0') {
        "" => "0",
        digits => digits,
    };
    let (whole_digits, fraction_digits) = (whole.len() as i32, fraction.len() as i32);
    match read_suffix(suffix) {
        Some((Scale::Two(power), _)) => {
            let precision = 15 - whole_digits - (power as i32 * 3 / 10) - 1;
            let low_bits = whole.parse::<i64>().map_or(0, |value| value & 7);
            format == Format::BinarySi && fraction.is_empty() && precision >= 0 && low_bits != 0
        }
        Some((Scale::Ten(power), _)) => {
            let shifted = format!("{whole}{fraction}");
            let scale = power - fraction_digits;
            let fits = whole_digits + fraction_digits <= 18 && scale >= -9 && scale % 3 == 0;
            fits && !shifted.ends_with("000") && !shifted.starts_with('0')
        }
        None => false,
    }
}

fn suffix_fits(suffix: &str) -> bool {
    let letters_end = suffix
        .find(|c: char| !"eEinumkKMGTP".contains(c))
        .unwrap_or(suffix.len());
    let rest = suffix.get(letters_end..).unwrap_or("");
    let digits = rest.strip_prefix(['-', '+']).unwrap_or(rest);
    digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn read_suffix(suffix: &str) -> Option<(Scale, Format)> {
    if let Some((_, power)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Some((Scale::Ten(*power), Format::DecimalSi));
    }
    if let Some((_, power)) = BINARY.iter().find(|(name, _)| *name == suffix) {
        return Some((Scale::Two(*power), Format::BinarySi));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    // An exponent beyond this only says "nothing" or "too much".
    let power: i64 = exponent.parse().ok()?;
    Some((Scale::Ten(power.clamp(-1000, 1000) as i32), Format::DecimalExponent))
}

/// `whole.fraction` times the scale in billionths, rounded up and capped.
fn scaled(whole: &str, fraction: &str, scale: Scale) -> i128 {
    let (power_of_ten, factor) = match scale {
        Scale::Ten(power) => (power + 9, 1_i128),
        Scale::Two(power) => (9, 1_i128 << power),
    };
    let mut total: i128 = 0;
    let mut lost = false;
    // Digit `i` of the text counts 10^(whole.len() - 1 - i + power_of_ten) times `factor`.
    let digits = whole
        .bytes()
        .chain(fraction.bytes())
        .map(|byte| i128::from(byte.wrapping_sub(b'0')));
    let lowest = 0_i64 - fraction.len() as i64 + i64::from(power_of_ten);
    if lowest >= 0 {
        for digit in digits {
            total = total.saturating_mul(10).saturating_add(digit);
        }
        for _ in 0..lowest {
            total = total.saturating_mul(10).min(CAP.saturating_mul(16));
        }
        return total.saturating_mul(factor).min(CAP);
    }
    // Below the resolution: keep 30 significant digits, then divide and round up.
    let mut divisor_power = lowest.unsigned_abs();
    let mut kept = Vec::new();
    for digit in digits {
        kept.push(digit);
    }
    while kept.len() > 30 && divisor_power > 0 {
        lost |= kept.pop().is_some_and(|digit| digit != 0);
        divisor_power -= 1;
    }
    let mut mantissa: i128 = 0;
    for digit in kept {
        mantissa = mantissa.saturating_mul(10).saturating_add(digit);
    }
    // Multiply by the power of two in steps that divide out early, so that nothing overflows needlessly.
    let mut numerator = mantissa;
    let mut remaining = factor;
    while remaining > 1 {
        if numerator > i128::MAX / 4 {
            if divisor_power == 0 {
                return CAP;
            }
            lost |= numerator % 10 != 0;
            numerator /= 10;
            divisor_power -= 1;
        } else {
            numerator *= 2;
            remaining /= 2;
        }
    }
    for _ in 0..divisor_power.min(64) {
        lost |= numerator % 10 != 0;
        numerator /= 10;
    }
    numerator.saturating_add(i128::from(lost)).min(CAP)
}

fn round_up(nano: i128, unit: i128) -> i64 {
    let quotient = nano / unit;
    let away = if nano % unit == 0 { 0 } else { nano.signum() };
    (quotient + away).clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn canonical_forms() {
        let cases = [
            ("0", "0"),
            ("0Gi", "0"),
            ("1", "1"),
            ("1000m", "1"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("1.", "1"),
            ("100m", "100m"),
            ("1500m", "1500m"),
            ("1000", "1k"),
            ("1024", "1024"),
            ("1024Ki", "1Mi"),
            ("1.5Gi", "1536Mi"),
            ("512Ki", "512Ki"),
            ("1Ki", "1Ki"),
            ("0.5Ki", "512"),
            ("0.5Mi", "512Ki"),
            ("0.1Gi", "107374182400m"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("100e1", "1e3"),
            ("1e0", "1"),
            ("1E", "1E"),
            ("12e-2", "120e-3"),
            ("-1.5", "-1500m"),
            ("+1", "1"),
            ("0.0000000001", "1n"),
            ("1.0000000001", "1000000001n"),
            ("9223372036854775808", "9223372036854775807"),
            ("1000000000000000000000", "9223372036854775807"),
            ("100Ei", "9223372036854775807"),
            ("1000000Ki", "1000000Ki"),
            ("1048576Ki", "1Gi"),
        ];
        for (text, canonical) in cases {
            assert_eq!(
                Quantity::parse(text).map(|q| q.canonical()),
                Ok(canonical.to_owned()),
                "{text}"
            );
        }
    }

    #[test]
    fn printed_forms() {
        let cases = [
            ("010", "010"),
            ("1000", "1k"),
            ("1500m", "1500m"),
            ("1000m", "1"),
            ("1.500", "1.500"),
            ("1.5", "1500m"),
            ("0.5", "500m"),
            ("1024Mi", "1Gi"),
            ("1025Mi", "1025Mi"),
            ("1.5Gi", "1536Mi"),
            ("1e3", "1e3"),
            ("00", "0"),
        ];
        for (text, printed) in cases {
            assert_eq!(Quantity::printed(text).as_deref(), Ok(printed), "{text}");
        }
    }

    #[test]
    fn refused() {
        let cases = [
            ("", QuantityError::Format),
            ("x", QuantityError::Format),
            ("1 Gi", QuantityError::Format),
            ("1GiB", QuantityError::Format),
            ("1.2.3", QuantityError::Number),
            (".", QuantityError::Number),
            ("1mm", QuantityError::Suffix),
            ("1e", QuantityError::Suffix),
            ("1K", QuantityError::Suffix),
        ];
        for (text, error) in cases {
            assert_eq!(Quantity::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn arithmetic() {
        let sum = Quantity::from_milli(600).add(&Quantity::from_int(1));
        assert_eq!((sum.canonical().as_str(), sum.milli(), sum.value()), ("1600m", 1600, 2));
        assert_eq!(
            Quantity::from_bytes(1 << 30)
                .sub(&Quantity::from_bytes(1 << 29))
                .canonical(),
            "512Mi"
        );
    }

    proptest! {
        #[test]
        fn canonical_is_a_fixed_point(number in "-?[0-9]{1,22}(\\.[0-9]{0,12})?", suffix in "(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|e-?[0-9]{1,2})?") {
            let text = format!("{number}{suffix}");
            let quantity = Quantity::parse(&text).unwrap();
            let canonical = quantity.canonical();
            let again = Quantity::parse(&canonical).unwrap();
            prop_assert_eq!(again, quantity);
            prop_assert_eq!(again.canonical(), canonical);
        }

        #[test]
        fn never_panics(text in ".{0,40}") {
            let _ = Quantity::parse(&text);
        }
    }
}

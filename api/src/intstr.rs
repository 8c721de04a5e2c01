//! A number or a text: `targetPort: 80`, `targetPort: http`, `maxSurge: 25%`.

use serde_json::Value;

/// A parsed `IntOrString`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IntOrString {
    Int(i32),
    String(String),
}

impl IntOrString {
    /// Reads a JSON number that fits 32 bits, or a JSON string.
    pub fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => Some(Self::String(text.clone())),
            Value::Number(number) => number.as_i64().and_then(|int| i32::try_from(int).ok()).map(Self::Int),
            _ => None,
        }
    }

    /// The percentage, when it is one (`25%` gives 25).
    pub fn percent(&self) -> Option<i32> {
        match self {
            Self::String(text) => text.strip_suffix('%').and_then(|digits| digits.parse().ok()),
            Self::Int(_) => None,
        }
    }

    /// The number this stands for out of `total`: itself, or a share of `total` rounded up or down.
    /// `None` when it is a text that is not a percentage.
    pub fn scaled(&self, total: i32, round_up: bool) -> Option<i32> {
        match self {
            Self::Int(int) => Some(*int),
            Self::String(_) => {
                let product = i64::from(self.percent()?) * i64::from(total);
                let rounded = if round_up {
                    (product + 99).div_euclid(100)
                } else {
                    product.div_euclid(100)
                };
                i32::try_from(rounded).ok()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn shares() {
        let cases = [
            (json!(3), 10, true, Some(3)),
            (json!("25%"), 10, true, Some(3)),
            (json!("25%"), 10, false, Some(2)),
            (json!("0%"), 10, true, Some(0)),
            (json!("x"), 10, true, None),
        ];
        for (value, total, up, expected) in cases {
            assert_eq!(
                IntOrString::from_value(&value).and_then(|v| v.scaled(total, up)),
                expected,
                "{value}"
            );
        }
    }
}

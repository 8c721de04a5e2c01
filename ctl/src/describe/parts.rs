//! What several kinds have in common: labels, annotations, times, events, tolerations.

use jiff::Timestamp;
use serde_json::Value;

use super::writer::Writer;
use crate::pods::{list, text};

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Annotations longer than this are cut.
const ANNOTATION_MAX: usize = 140;

/// A scalar as it is shown.
#[must_use]
pub fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "<nil>".into(),
        other => other.to_string(),
    }
}

/// The text, or `<none>`.
#[must_use]
pub fn or_none(text: &str) -> &str {
    if text.is_empty() { "<none>" } else { text }
}

/// The text, or `<unset>`.
#[must_use]
pub fn or_unset(text: &str) -> &str {
    if text.is_empty() { "<unset>" } else { text }
}

/// A map on one line: `key=value,...`.
#[must_use]
pub fn flat(map: Option<&Value>) -> String {
    let pairs = map.and_then(Value::as_object).into_iter().flatten();
    let text = pairs
        .map(|(key, value)| format!("{key}={}", shown(value)))
        .collect::<Vec<_>>()
        .join(",");
    or_none(&text).to_owned()
}

/// `2006-01-02 15:04:05 +0000 UTC` for an RFC 3339 time.
#[must_use]
pub fn utc(text: &str) -> String {
    text.parse::<Timestamp>().map_or_else(
        |_| "<unknown>".into(),
        |time| time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string(),
    )
}

/// `Mon, 02 Jan 2006 15:04:05 +0000` for an RFC 3339 time.
#[must_use]
pub fn date(text: &str) -> String {
    text.parse::<Timestamp>().map_or_else(
        |_| "<unknown>".into(),
        |time| time.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string(),
    )
}

/// The time since, as kubectl shortens it; `<unknown>` for no time.
#[must_use]
pub fn since(text: &str, now: Timestamp) -> String {
    let Ok(time) = text.parse::<Timestamp>() else {
        return "<unknown>".into();
    };
    span(now.as_second() - time.as_second())
}

/// `45s`, `2m10s`, `3h`, `5d`.
#[must_use]
pub fn span(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let joined = |big: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 {
            format!("{big}{unit}")
        } else {
            format!("{big}{unit}{small}{small_unit}")
        }
    };
    match seconds {
        ..=-2 => "<invalid>".into(),
        -1..=0 => "0s".into(),
        1..=119 => format!("{seconds}s"),
        120..=599 => joined(minutes, "m", seconds % 60, "s"),
        600..=10_799 => format!("{minutes}m"),
        10_800..=28_799 => joined(hours, "h", minutes % 60, "m"),
        28_800..=172_799 => format!("{hours}h"),
        172_800..=691_199 => joined(days, "d", hours % 24, "h"),
        691_200..=63_071_999 => format!("{days}d"),
        _ => joined(days / 365, "y", days % 365, "d"),
    }
}

/// `Name:` and a line per item.
pub fn lines(out: &mut Writer, level: usize, name: &str, items: &[String]) {
    out.pair(level, name, items.first().map_or("<none>", String::as_str));
    for item in items.iter().skip(1) {
        out.line(level, &format!("\t{item}"));
    }
}

/// A map as `key=value` lines.
pub fn labels(out: &mut Writer, level: usize, name: &str, map: Option<&Value>) {
    let items: Vec<String> = map
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", shown(value)))
        .collect();
    lines(out, level, name, &items);
}

/// Annotations, without the configuration that kubectl keeps there.
pub fn annotations(out: &mut Writer, level: usize, map: Option<&Value>) {
    let mut items = Vec::new();
    for (key, value) in map
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter(|(key, _)| *key != LAST_APPLIED)
    {
        let value = shown(value);
        let value = value.trim_end();
        if value.chars().count() + key.len() + 2 > ANNOTATION_MAX || value.contains('\n') {
            items.push(format!("{key}:"));
            items.extend(value.lines().map(|line| format!("  {}", cut(line))));
        } else {
            items.push(format!("{key}: {value}"));
        }
    }
    lines(out, level, "Annotations", &items);
}

fn cut(line: &str) -> String {
    if line.chars().count() <= ANNOTATION_MAX {
        return line.to_owned();
    }
    line.chars().take(ANNOTATION_MAX).collect::<String>() + "..."
}

/// Name, namespace, labels and annotations, as most kinds begin.
pub fn head(out: &mut Writer, object: &Value) {
    out.pair(0, "Name", text(object, "/metadata/name"));
    if object.pointer("/metadata/namespace").is_some() {
        out.pair(0, "Namespace", text(object, "/metadata/namespace"));
    }
}

/// `ReplicaSet/web-1` of the controlling owner.
#[must_use]
pub fn controller(object: &Value) -> Option<String> {
    let owner = list(object, "/metadata/ownerReferences")
        .iter()
        .find(|owner| owner["controller"] == true)?;
    Some(format!("{}/{}", text(owner, "/kind"), text(owner, "/name")))
}

/// One toleration.
#[must_use]
pub fn toleration(value: &Value) -> String {
    let (key, effect) = (text(value, "/key"), text(value, "/effect"));
    let mut out = key.to_owned();
    if !text(value, "/value").is_empty() {
        out.push_str(&format!("={}", text(value, "/value")));
    }
    if !effect.is_empty() {
        out.push_str(&format!(":{effect}"));
    }
    if text(value, "/operator") == "Exists" && text(value, "/value").is_empty() {
        out.push_str(if out.is_empty() { "op=Exists" } else { " op=Exists" });
    }
    if let Some(seconds) = value["tolerationSeconds"].as_i64() {
        out.push_str(&format!(" for {seconds}s"));
    }
    out
}

/// Conditions with their reasons.
pub fn conditions(out: &mut Writer, object: &Value) {
    let found = list(object, "/status/conditions");
    if found.is_empty() {
        return;
    }
    out.line(0, "Conditions:");
    out.line(1, "Type\tStatus\tReason");
    out.line(1, "----\t------\t------");
    for c in found {
        out.line(
            1,
            &format!("{} \t{}\t{}", text(c, "/type"), text(c, "/status"), text(c, "/reason")),
        );
    }
}

/// Conditions with some of their fields as columns; nothing when there are none.
pub fn conditions_with(out: &mut Writer, conditions: &[Value], columns: &[&str]) {
    if conditions.is_empty() {
        return;
    }
    out.line(0, "Conditions:");
    out.line(1, &columns.join("\t"));
    out.line(
        1,
        &columns
            .iter()
            .map(|column| "-".repeat(column.len()))
            .collect::<Vec<_>>()
            .join("\t"),
    );
    for condition in conditions {
        let cells: Vec<String> = columns
            .iter()
            .map(|column| {
                let mut key = column[..1].to_lowercase();
                key.push_str(&column[1..]);
                let value = text(condition, &format!("/{key}"));
                if column.ends_with("Time") {
                    date(value)
                } else {
                    value.to_owned()
                }
            })
            .collect();
        out.line(1, &cells.join("\t"));
    }
}

/// When an event happened last.
#[must_use]
pub fn last_time(event: &Value) -> Option<Timestamp> {
    let candidates = [
        "/series/lastObservedTime",
        "/lastTimestamp",
        "/eventTime",
        "/firstTimestamp",
        "/metadata/creationTimestamp",
    ];
    candidates
        .iter()
        .find_map(|pointer| text(event, pointer).parse::<Timestamp>().ok())
}

/// `5s`, or `5s (x3 over 2m)` for an event that happened several times.
#[must_use]
pub fn last_seen(event: &Value, now: Timestamp) -> String {
    let event_time = text(event, "/eventTime");
    let first = since(
        if event_time.is_empty() {
            text(event, "/firstTimestamp")
        } else {
            event_time
        },
        now,
    );
    let count = event["count"].as_i64().unwrap_or(0);
    if event["series"].is_object() {
        format!(
            "{} (x{} over {first})",
            since(text(event, "/series/lastObservedTime"), now),
            event["series"]["count"]
        )
    } else if count > 1 {
        format!("{} (x{count} over {first})", since(text(event, "/lastTimestamp"), now))
    } else {
        first
    }
}

/// The events about an object, oldest first.
pub fn events(out: &mut Writer, events: &[Value], now: Timestamp) {
    if events.is_empty() {
        out.pair(0, "Events", "<none>");
        return;
    }
    out.flush();
    let mut sorted: Vec<&Value> = events.iter().collect();
    sorted.sort_by_key(|event| last_time(event));
    out.line(0, "Events:");
    out.line(1, "Type\tReason\tAge\tFrom\tMessage");
    out.line(1, "----\t------\t----\t----\t-------");
    for event in sorted {
        let age = last_seen(event, now);
        let component = text(event, "/source/component");
        let from = if component.is_empty() {
            text(event, "/reportingComponent")
        } else {
            component
        };
        let message = text(event, "/message").trim();
        out.line(
            1,
            &format!(
                "{}\t{}\t{age}\t{from}\t{message}",
                text(event, "/type"),
                text(event, "/reason")
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn spans_as_kubectl_shortens_them() {
        for (seconds, expected) in [
            (5, "5s"),
            (119, "119s"),
            (130, "2m10s"),
            (600, "10m"),
            (10_800, "3h"),
            (11_000, "3h3m"),
            (90_000, "25h"),
            (180_000, "2d2h"),
            (900_000, "10d"),
        ] {
            assert_eq!(span(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn tolerations_as_kubectl_writes_them() {
        let cases = [
            (json!({"operator": "Exists"}), "op=Exists"),
            (
                json!({"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}),
                "k:NoExecute op=Exists for 300s",
            ),
            (
                json!({"key": "k", "value": "v", "effect": "NoSchedule"}),
                "k=v:NoSchedule",
            ),
        ];
        for (value, expected) in cases {
            assert_eq!(toleration(&value), expected);
        }
    }

    #[test]
    fn times() {
        assert_eq!(date("2026-01-02T03:04:05Z"), "Fri, 02 Jan 2026 03:04:05 +0000");
        assert_eq!(date(""), "<unknown>");
    }
}

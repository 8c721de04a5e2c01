//! How Tables word ages, selectors and lists.

use super::Column;
use super::access::{at, entries, list, str_of, text};
use super::check::strings;
use jiff::Timestamp;
use serde_json::Value;
use std::collections::BTreeSet;

/// The name column that every kind starts with.
pub const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    description: "Name must be unique within a namespace. Is required when creating resources. Cannot be updated.",
    priority: 0,
};

/// The age column that almost every kind has.
pub const AGE: Column = shown("Age", "string", "Time since the object was created.");

/// The names in a pod template.
pub const CONTAINERS: Column = wide("Containers", "string", "Names of each container in the template.");

/// The images in a pod template.
pub const IMAGES: Column = wide(
    "Images",
    "string",
    "Images referenced by each container in the template.",
);

/// The pods of a workload.
pub const SELECTOR: Column = wide("Selector", "string", "Label selector of the pods.");

/// A column that is always shown.
pub const fn shown(name: &'static str, kind: &'static str, description: &'static str) -> Column {
    Column {
        name,
        kind,
        format: "",
        description,
        priority: 0,
    }
}

/// A column of the wide form.
pub const fn wide(name: &'static str, kind: &'static str, description: &'static str) -> Column {
    Column {
        name,
        kind,
        format: "",
        description,
        priority: 1,
    }
}

/// Age of an object.
pub fn age(obj: &Value, now: Timestamp) -> Value {
    Value::from(since(text(obj, "/metadata/creationTimestamp"), now))
}

/// Time since an RFC 3339 time, `<unknown>` when there is none.
pub fn since(time: &str, now: Timestamp) -> String {
    match crate::time::parse(time) {
        Some(then) => human(now.as_second() - then.as_second()),
        None => "<unknown>".to_owned(),
    }
}

/// A duration in seconds with two or three digits of meaning.
pub fn human(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 3600;
    const DAY: i64 = 24 * HOUR;
    let pair = |big: i64, big_unit: char, small: i64, small_unit: char| {
        if small == 0 {
            format!("{big}{big_unit}")
        } else {
            format!("{big}{big_unit}{small}{small_unit}")
        }
    };
    match seconds {
        s if s < -1 => "<invalid>".to_owned(),
        s if s < 0 => "0s".to_owned(),
        s if s < 2 * MINUTE => format!("{s}s"),
        s if s < 10 * MINUTE => pair(s / MINUTE, 'm', s % MINUTE, 's'),
        s if s < 3 * HOUR => format!("{}m", s / MINUTE),
        s if s < 8 * HOUR => pair(s / HOUR, 'h', s / MINUTE % 60, 'm'),
        s if s < 2 * DAY => format!("{}h", s / HOUR),
        s if s < 8 * DAY => pair(s / DAY, 'd', s / HOUR % 24, 'h'),
        s if s < 2 * 365 * DAY => format!("{}d", s / DAY),
        s if s < 8 * 365 * DAY => pair(s / DAY / 365, 'y', s / DAY % 365, 'd'),
        s => format!("{}y", s / DAY / 365),
    }
}

/// `a=b,c=d`, or `<none>`.
pub fn labels(labels: &Value) -> String {
    let parts: Vec<String> = labels.as_object().map_or_else(Vec::new, |m| {
        m.iter()
            .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or("")))
            .collect()
    });
    or_none(parts.join(","))
}

/// A label selector in one line, or `<none>`.
pub fn selector(selector: &Value) -> String {
    if !selector.is_object() {
        return "<none>".to_owned();
    }
    let mut parts: Vec<(String, String)> = entries(selector, "matchLabels")
        .map(|(k, v)| (k.clone(), format!("{k}={}", v.as_str().unwrap_or(""))))
        .collect();
    for expression in list(selector, "matchExpressions") {
        let key = str_of(expression, "key");
        let mut values = strings(expression, "values");
        values.sort_unstable();
        let shown = match str_of(expression, "operator") {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        };
        parts.push((key.to_owned(), shown));
    }
    parts.sort_by(|a, b| a.0.cmp(&b.0));
    or_none(parts.into_iter().map(|(_, s)| s).collect::<Vec<_>>().join(","))
}

/// Names and images of the containers of a pod spec.
pub fn containers(spec: &Value) -> (String, String) {
    let containers = list(spec, "containers");
    let join = |key: &str| containers.iter().map(|c| str_of(c, key)).collect::<Vec<_>>().join(",");
    (join("name"), join("image"))
}

/// The text, or `<none>` when it is empty.
pub fn or_none(text: String) -> String {
    if text.is_empty() { "<none>".to_owned() } else { text }
}

/// The string at a pointer, or `<none>`.
pub fn text_or_none(obj: &Value, pointer: &str) -> Value {
    Value::from(or_none(text(obj, pointer).to_owned()))
}

/// The integer at a pointer, 0 when missing.
pub fn number(obj: &Value, pointer: &str) -> Value {
    Value::from(at(obj, pointer).as_i64().unwrap_or(0))
}

/// Addresses of the load balancer in a status, each once, in their order as text.
pub fn balanced(obj: &Value) -> Vec<&str> {
    let address = |i| match str_of(i, "ip") {
        "" => str_of(i, "hostname"),
        ip => ip,
    };
    let addresses: BTreeSet<&str> = list(at(obj, "/status/loadBalancer"), "ingress")
        .iter()
        .map(address)
        .filter(|a| !a.is_empty())
        .collect();
    addresses.into_iter().collect()
}

/// The storage class of a claim or volume: an old annotation wins.
pub fn storage_class(obj: &Value) -> &str {
    let annotation = at(obj, "/metadata/annotations").get("volume.beta.kubernetes.io/storage-class");
    annotation
        .and_then(Value::as_str)
        .unwrap_or_else(|| text(obj, "/spec/storageClassName"))
}

/// Short forms of access modes.
pub fn access_modes(owner: &Value, key: &str) -> String {
    const SHORT: &[(&str, &str)] = &[
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let modes = strings(owner, key);
    SHORT
        .iter()
        .filter(|(mode, _)| modes.contains(mode))
        .map(|(_, short)| *short)
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    #[test]
    fn durations() {
        for (seconds, expected) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (121, "2m1s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (11_000, "3h3m"),
            (28_800, "8h"),
            (172_799, "47h"),
            (172_800, "2d"),
            (180_000, "2d2h"),
            (691_200, "8d"),
            (63_072_000, "2y"),
            (-5, "<invalid>"),
        ] {
            assert_eq!(super::human(seconds), expected, "{seconds}");
        }
    }
}

//! Schedules of CronJobs: five fields, ranges, lists, steps, names and `@` forms.
//!
//! Only the question whether a schedule can be read is answered here; when it fires is the controller's business.

/// One field of a schedule.
struct Bounds {
    low: u32,
    high: u32,
    names: &'static [&'static str],
}

const MONTHS: &[&str] = &[
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const FIELDS: [Bounds; 5] = [
    Bounds {
        low: 0,
        high: 59,
        names: &[],
    },
    Bounds {
        low: 0,
        high: 23,
        names: &[],
    },
    Bounds {
        low: 1,
        high: 31,
        names: &[],
    },
    Bounds {
        low: 1,
        high: 12,
        names: MONTHS,
    },
    Bounds {
        low: 0,
        high: 6,
        names: DAYS,
    },
];

/// Reads a schedule; the error is worded as cron libraries word it.
pub fn parse(schedule: &str) -> Result<(), String> {
    let schedule = match schedule.split_once(' ') {
        Some((zone, rest)) if zone.starts_with("TZ=") || zone.starts_with("CRON_TZ=") => {
            let name = zone.split_once('=').map_or("", |(_, name)| name);
            if !is_time_zone(name) {
                return Err(format!("provided bad location {name}: unknown time zone {name}"));
            }
            rest.trim()
        }
        _ => schedule,
    };
    if schedule.starts_with('@') {
        return descriptor(schedule);
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Err(format!(
            "expected exactly 5 fields, found {}: [{}]",
            fields.len(),
            fields.join(" ")
        ));
    }
    for (text, bounds) in fields.iter().zip(&FIELDS) {
        for part in text.split(',').filter(|p| !p.is_empty()) {
            range(part, bounds)?;
        }
    }
    Ok(())
}

fn descriptor(text: &str) -> Result<(), String> {
    const KNOWN: &[&str] = &[
        "@yearly",
        "@annually",
        "@monthly",
        "@weekly",
        "@daily",
        "@midnight",
        "@hourly",
    ];
    if KNOWN.contains(&text) {
        return Ok(());
    }
    match text.strip_prefix("@every ") {
        Some(duration) if is_duration(duration) => Ok(()),
        Some(duration) => Err(format!(
            "failed to parse duration {text}: time: invalid duration {}",
            crate::field::quote(duration)
        )),
        None => Err(format!("unrecognized descriptor: {text}")),
    }
}

/// `1h30m` and the like.
fn is_duration(text: &str) -> bool {
    let mut rest = text.trim_start_matches(['+', '-']);
    if rest.is_empty() {
        return false;
    }
    if rest == "0" {
        return true;
    }
    while !rest.is_empty() {
        let number = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        if number.len() == rest.len() {
            return false;
        }
        let Some(unit) = ["ns", "us", "µs", "ms", "s", "m", "h"]
            .iter()
            .filter(|u| number.starts_with(**u))
            .max_by_key(|u| u.len())
        else {
            return false;
        };
        rest = &number[unit.len()..];
    }
    true
}

/// `a`, `a-b`, `*`, each with `/step`.
fn range(text: &str, bounds: &Bounds) -> Result<(), String> {
    let mut halves = text.split('/');
    let (span, step_text) = (halves.next().unwrap_or(""), halves.next());
    if halves.next().is_some() {
        return Err(format!("too many slashes: {text}"));
    }
    let ends: Vec<&str> = span.split('-').collect();
    let single = ends.len() == 1;
    let (start, mut end) = match ends.as_slice() {
        ["*" | "?"] => (bounds.low, bounds.high),
        [one] => {
            let n = value(one, bounds)?;
            (n, n)
        }
        [low, high] => (value(low, bounds)?, value(high, bounds)?),
        _ => return Err(format!("too many hyphens: {text}")),
    };
    let step = match step_text {
        None => 1,
        Some(step) => {
            if single && !matches!(span, "*" | "?") {
                end = bounds.high;
            }
            number(step)?
        }
    };
    if start < bounds.low {
        return Err(format!(
            "beginning of range ({start}) below minimum ({}): {text}",
            bounds.low
        ));
    }
    if end > bounds.high {
        return Err(format!("end of range ({end}) above maximum ({}): {text}", bounds.high));
    }
    if start > end {
        return Err(format!(
            "beginning of range ({start}) beyond end of range ({end}): {text}"
        ));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {text}"));
    }
    Ok(())
}

fn value(text: &str, bounds: &Bounds) -> Result<u32, String> {
    let lower = text.to_lowercase();
    match bounds.names.iter().position(|n| *n == lower) {
        Some(i) => Ok(bounds.low + u32::try_from(i).unwrap_or(0)),
        None => number(text),
    }
}

fn number(text: &str) -> Result<u32, String> {
    match text.parse::<i64>() {
        Ok(n) if n < 0 => Err(format!("negative number ({n}) not allowed: {text}")),
        Ok(n) => Ok(u32::try_from(n).unwrap_or(u32::MAX)),
        Err(_) => {
            let quoted = crate::field::quote(text);
            Err(format!(
                "failed to parse int from {text}: strconv.Atoi: parsing {quoted}: invalid syntax"
            ))
        }
    }
}

/// Whether the time zone database knows a name.
pub fn is_time_zone(name: &str) -> bool {
    static NAMES: &str = include_str!("timezones.txt");
    NAMES.lines().any(|known| known == name)
}

#[cfg(test)]
mod tests {
    #[test]
    fn schedules() {
        for (schedule, expected) in [
            ("5 4 * * *", ""),
            ("@hourly", ""),
            ("CRON_TZ=Europe/Berlin 5 4 * * *", ""),
            (
                "TZ=Mars/One 5 4 * * *",
                "provided bad location Mars/One: unknown time zone Mars/One",
            ),
            ("@every 1h30m", ""),
            ("*/15 0-5,22 1 jan mon-fri", ""),
            ("bad", "expected exactly 5 fields, found 1: [bad]"),
            ("61 * * * *", "end of range (61) above maximum (59): 61"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            (
                "a * * * *",
                "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax",
            ),
            ("@never", "unrecognized descriptor: @never"),
        ] {
            assert_eq!(super::parse(schedule).err().unwrap_or_default(), expected, "{schedule}");
        }
        assert!(super::is_time_zone("Europe/Berlin") && super::is_time_zone("UTC") && !super::is_time_zone("Mars/One"));
    }
}

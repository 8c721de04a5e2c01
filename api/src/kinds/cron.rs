//! Schedules of CronJobs: five fields, ranges, lists, steps, names and `@` forms.
//!
//! Reading is done here; when a schedule fires is the controller's business.

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

/// When something is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// Again and again after so many seconds, at least 1.
    Every(i64),
    /// At the minutes whose parts are all among those chosen: bit `n` of a set stands for the value `n`.
    At {
        /// 0 to 59.
        minutes: u64,
        /// 0 to 23.
        hours: u64,
        /// 1 to 31.
        days: u64,
        /// 1 to 12.
        months: u64,
        /// 0 (Sunday) to 6.
        weekdays: u64,
        /// Both kinds of days are restricted: either will do.
        either_day: bool,
    },
}

/// Reads a schedule.
///
/// # Errors
/// What is wrong, worded as cron libraries word it.
pub fn parse(schedule: &str) -> Result<Schedule, String> {
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
    let mut sets = [0; 5];
    let mut restricted = [false; 5];
    for (at, (text, bounds)) in fields.iter().zip(&FIELDS).enumerate() {
        restricted[at] = true;
        for part in text.split(',').filter(|p| !p.is_empty()) {
            sets[at] |= range(part, bounds)?;
            restricted[at] &= !matches!(part, "*" | "?") && !part.starts_with("*/");
        }
    }
    let [minutes, hours, days, months, weekdays] = sets;
    Ok(Schedule::At {
        minutes,
        hours,
        days,
        months,
        weekdays,
        either_day: restricted[2] && restricted[4],
    })
}

fn descriptor(text: &str) -> Result<Schedule, String> {
    match text {
        "@yearly" | "@annually" => return parse("0 0 1 1 *"),
        "@monthly" => return parse("0 0 1 * *"),
        "@weekly" => return parse("0 0 * * 0"),
        "@daily" | "@midnight" => return parse("0 0 * * *"),
        "@hourly" => return parse("0 * * * *"),
        _ => {}
    }
    let Some(duration) = text.strip_prefix("@every ") else {
        return Err(format!("unrecognized descriptor: {text}"));
    };
    match duration_s(duration) {
        Some(seconds) => Ok(Schedule::Every(seconds.max(1))),
        None => Err(format!(
            "failed to parse duration {text}: time: invalid duration {}",
            crate::field::quote(duration)
        )),
    }
}

/// `1h30m` and the like in whole seconds.
fn duration_s(text: &str) -> Option<i64> {
    const UNITS: [(&str, f64); 7] = [
        ("ns", 1e-9),
        ("us", 1e-6),
        ("µs", 1e-6),
        ("ms", 1e-3),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3600.0),
    ];
    let negative = text.starts_with('-');
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    if rest == "0" {
        return Some(0);
    }
    let mut total = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let unit_text = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let number: f64 = rest.get(..rest.len() - unit_text.len())?.parse().ok()?;
        let known = UNITS.iter().filter(|(unit, _)| unit_text.starts_with(unit));
        let (unit, seconds) = known.max_by_key(|(unit, _)| unit.len())?;
        total += number * seconds;
        rest = unit_text.get(unit.len()..)?;
    }
    // A schedule that far ahead never fires; the cast keeps to the range of the type.
    #[allow(clippy::cast_possible_truncation)]
    let seconds = total as i64;
    Some(if negative { -seconds } else { seconds })
}

/// `a`, `a-b`, `*`, each with `/step`, as a set.
fn range(text: &str, bounds: &Bounds) -> Result<u64, String> {
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
    let chosen = (start..=end).step_by(usize::try_from(step).unwrap_or(usize::MAX));
    Ok(chosen.fold(0, |set, value| set | 1 << value))
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
        let every = |text: &str| super::parse(text).ok();
        assert_eq!(every("@every 1h30m"), Some(super::Schedule::Every(5400)));
        assert_eq!(every("@every 10ms"), Some(super::Schedule::Every(1)));
        assert_eq!(every("@hourly"), super::parse("0 * * * *").ok());
        assert!(super::is_time_zone("Europe/Berlin") && super::is_time_zone("UTC") && !super::is_time_zone("Mars/One"));
    }
}

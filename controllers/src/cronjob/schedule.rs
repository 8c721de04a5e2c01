//! When a schedule fires next.

use coxswain_api::kinds::cron::Schedule;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};

/// Days that are looked at: a 29th of February can be eight years away.
const DAYS_MAX: usize = 366 * 9;

/// The first time after `after`, if there is one within nine years.
pub(super) fn next(schedule: &Schedule, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
    match schedule {
        Schedule::Every(seconds) => {
            let next = after.checked_add(SignedDuration::from_secs(*seconds)).ok()?;
            Timestamp::from_second(next.as_second()).ok()
        }
        Schedule::At { .. } => {
            let local = zone.to_datetime(after);
            let mut date = local.date();
            for _ in 0..DAYS_MAX {
                if is_day(schedule, date)
                    && let Some(found) = on_day(schedule, zone, date, after)
                {
                    return Some(found);
                }
                date = date.checked_add(1.day()).ok()?;
            }
            None
        }
    }
}

fn has(set: u64, value: i8) -> bool {
    u32::try_from(value).is_ok_and(|bit| set >> bit & 1 == 1)
}

fn is_day(schedule: &Schedule, date: Date) -> bool {
    let Schedule::At {
        days,
        months,
        weekdays,
        either_day,
        ..
    } = *schedule
    else {
        return false;
    };
    let day = has(days, date.day());
    let weekday = has(weekdays, date.weekday().to_sunday_zero_offset());
    has(months, date.month()) && if either_day { day || weekday } else { day && weekday }
}

/// The first time on this day that lies after `after`. A time that the clocks skip is moved on by as much.
fn on_day(schedule: &Schedule, zone: &TimeZone, date: Date, after: Timestamp) -> Option<Timestamp> {
    let Schedule::At { minutes, hours, .. } = *schedule else {
        return None;
    };
    let chosen = (0..24).filter(|hour| has(hours, *hour));
    let times = chosen.flat_map(|hour| (0..60).filter(|m| has(minutes, *m)).map(move |m| (hour, m)));
    let mut moments = times.filter_map(|(hour, minute)| {
        let local: DateTime = date.at(hour, minute, 0, 0);
        zone.to_ambiguous_timestamp(local).compatible().ok()
    });
    moments.find(|moment| *moment > after)
}

/// A time zone by name, from the machine's database; `None` for an empty name is UTC.
pub(super) fn zone(name: Option<&str>) -> Option<TimeZone> {
    match name.unwrap_or_default() {
        "" | "UTC" | "Etc/UTC" => Some(TimeZone::UTC),
        // The API server accepts only names of its list; nothing else must reach the file system.
        name if coxswain_api::kinds::cron::is_time_zone(name) => {
            let bytes = std::fs::read(format!("/usr/share/zoneinfo/{name}")).ok()?;
            TimeZone::tzif(name, &bytes).ok()
        }
        _ => None,
    }
}

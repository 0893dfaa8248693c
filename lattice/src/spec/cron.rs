//! Cron expressions and the moments that they name in a time zone. Pure: whoever asks says since when, and every node
//! computes the same answer.
//!
//! Start at [`Cron::next_after`], which says what becomes of local times that a change of the clock skips or repeats.

use jiff::{
    Timestamp, ToSpan as _,
    civil::{Date, DateTime, Time},
    tz::{Offset, TimeZone, TimeZoneDatabase},
};
use std::{fmt, str::FromStr};

/// How far ahead a tick is looked for. The rarest are the 29ths of February that fall on a certain weekday: 28 years
/// apart, 40 around a year such as 2100.
const HORIZON_YEARS: i16 = 41;

/// A cron expression: minute, hour, day of month, month, day of week, and perhaps seconds in front.
#[derive(Clone, PartialEq, Eq)]
pub struct Cron {
    /// As it was written, with single spaces.
    text: String,
    seconds: Set,
    minutes: Set,
    hours: Set,
    days: Set,
    months: Set,
    /// 0 is Sunday.
    weekdays: Set,
    /// Both days are restricted: either suffices.
    either_day: bool,
}

/// Numbers below 64.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Set(u64);

impl Set {
    fn contains(self, value: i8) -> bool {
        u32::try_from(value).is_ok_and(|value| self.0.checked_shr(value).unwrap_or(0) & 1 == 1)
    }

    /// The least that is not below `from`.
    fn first_from(self, from: i8) -> Option<i8> {
        let skipped = u32::try_from(from).ok()?;
        let rest = self.0.checked_shr(skipped).filter(|rest| *rest != 0)?;
        i8::try_from(skipped + rest.trailing_zeros()).ok()
    }
}

/// One place of an expression.
struct Field {
    name: &'static str,
    least: u8,
    most: u8,
    /// What the values may be called, from `least` on.
    names: &'static [&'static str],
}

const SECOND: Field = Field { name: "second", least: 0, most: 59, names: &[] };
const MINUTE: Field = Field { name: "minute", least: 0, most: 59, names: &[] };
const HOUR: Field = Field { name: "hour", least: 0, most: 23, names: &[] };
const DAY: Field = Field { name: "day of month", least: 1, most: 31, names: &[] };
const MONTH: Field = Field {
    name: "month",
    least: 1,
    most: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
/// 7 is Sunday as well.
const WEEKDAY: Field =
    Field { name: "day of week", least: 0, most: 7, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] };

const MACROS: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

impl Field {
    fn parse(&self, text: &str) -> Result<Set, String> {
        let mut set = 0;
        for part in text.split(',') {
            set |= self.part(part)?;
        }
        Ok(Set(set))
    }

    /// `*`, `5`, `1-5`, each but the number with a step behind: `*/15`, `10-30/5`.
    fn part(&self, part: &str) -> Result<u64, String> {
        let name = self.name;
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (part, None),
        };
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (self.least, self.most),
            Some((from, to)) => (self.value(from)?, self.value(to)?),
            None if step.is_some() => {
                let most = self.most;
                return Err(format!("{name}: {part:?} has a step but no range; write {range}-{most}/… or */…"));
            }
            None => {
                let value = self.value(range)?;
                (value, value)
            }
        };
        if from > to {
            return Err(format!("{name}: {range:?} runs backwards; write two ranges with a comma between them"));
        }
        let step = match step {
            None => 1,
            Some(step) => match number(step) {
                Some(step) if (1..=self.most).contains(&step) => step,
                _ => return Err(format!("{name}: {step:?} is not a step; write a number from 1 to {}", self.most)),
            },
        };
        Ok((from..=to).step_by(step.into()).fold(0, |set, value| set | 1 << value))
    }

    fn value(&self, text: &str) -> Result<u8, String> {
        let Field { name, least, most, names } = self;
        if let Some(place) = names.iter().position(|name| name.eq_ignore_ascii_case(text)) {
            return Ok(least + u8::try_from(place).unwrap_or_default());
        }
        match number(text) {
            Some(value) if (*least..=*most).contains(&value) => Ok(value),
            Some(value) => Err(format!("{name}: {value} is not from {least} to {most}")),
            _ if names.is_empty() => Err(format!("{name}: {text:?} is not a number from {least} to {most}")),
            _ => {
                let first = names.first().unwrap_or(&"");
                Err(format!("{name}: {text:?} is neither a number from {least} to {most} nor a name such as {first}"))
            }
        }
    }
}

/// Digits alone: Rust's own reading takes a sign as well.
fn number(text: &str) -> Option<u8> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

impl FromStr for Cron {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        let expression = match MACROS.iter().find(|(name, _)| name.eq_ignore_ascii_case(&text)) {
            Some((_, expression)) => expression,
            None if text.starts_with('@') => {
                let names = MACROS.map(|(name, _)| name).join(", ");
                return Err(format!("{text:?} is not one of {names}"));
            }
            None => text.as_str(),
        };
        let mut fields: Vec<&str> = expression.split(' ').collect();
        if fields.len() == 5 {
            fields.insert(0, "0");
        }
        let [second, minute, hour, day, month, weekday] = fields[..] else {
            return Err(format!(
                "{text:?} has not five fields (minute, hour, day of month, month, day of week) or six (a second in front); \
                 write */5 * * * *"
            ));
        };
        let weekdays = WEEKDAY.parse(weekday)?;
        let cron = Cron {
            seconds: SECOND.parse(second)?,
            minutes: MINUTE.parse(minute)?,
            hours: HOUR.parse(hour)?,
            days: DAY.parse(day)?,
            months: MONTH.parse(month)?,
            weekdays: Set(weekdays.0 | weekdays.0 >> 7 & 1),
            either_day: !day.starts_with('*') && !weekday.starts_with('*'),
            text,
        };
        let from = Date::constant(2024, 1, 1);
        let until = Date::constant(2024 + HORIZON_YEARS, 1, 1);
        if cron.first_from(from.into(), until.into()).is_none() {
            return Err(format!("{:?} names a day that no year has", cron.text));
        }
        Ok(cron)
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Cron {
    /// The first tick after a moment; both in milliseconds since 1970. Ticks are whole seconds. `None` only where the
    /// calendar ends.
    ///
    /// Which moments are ticks does not depend on the one that is asked about. Where the clock changes:
    ///
    /// - An expression that names every hour goes by elapsed time. What is skipped is no tick; what is repeated is one
    ///   each time.
    /// - Any other names times of day. Those that are skipped are one tick together, at the moment of the change; those
    ///   that are repeated are ticks the first time only.
    pub fn next_after(&self, zone: &Zone, after_ms: u64) -> Option<u64> {
        let zone = &zone.zone;
        let after = Timestamp::from_second(i64::try_from(after_ms / 1000).ok()?).ok()?;
        let horizon = Timestamp::from_second(after.as_second() + i64::from(HORIZON_YEARS) * 366 * 86_400).ok()?;
        let by_elapsed_time = self.hours == Set((1 << 24) - 1);
        let mut offset = zone.to_offset(after);
        let mut local = offset.to_datetime(after).checked_add(1.second()).ok()?;
        if !by_elapsed_time
            && let Some(change) = zone.preceding(Timestamp::from_second(after.as_second() + 1).ok()?).next()
        {
            let before = zone.to_offset(Timestamp::from_second(change.timestamp().as_second() - 1).ok()?);
            local = local.max(before.to_datetime(change.timestamp()));
        }
        let mut changes = zone.following(after);
        loop {
            let change = changes.next().filter(|change| change.timestamp() < horizon);
            let end = change.as_ref().map_or(horizon, |change| change.timestamp());
            if let Some(found) = self.first_from(local, offset.to_datetime(end)) {
                return to_ms(offset, found);
            }
            let change = change?;
            let (before, next) = (offset.to_datetime(end), change.offset().to_datetime(end));
            offset = change.offset();
            local = next;
            if by_elapsed_time {
                continue;
            }
            if before < next && self.first_from(before, next).is_some() {
                return to_ms(offset, next);
            }
            local = next.max(before);
        }
    }

    /// The first local time that matches, from one up to and without another.
    fn first_from(&self, from: DateTime, until: DateTime) -> Option<DateTime> {
        let mut date = from.date();
        let mut time = Some(from.time());
        while date <= until.date() {
            if !self.months.contains(date.month()) {
                date = date.last_of_month().tomorrow().ok()?;
                time = None;
                continue;
            }
            if self.is_day(date)
                && let Some(found) = self.time_from(time.unwrap_or(Time::midnight()))
            {
                return Some(date.to_datetime(found)).filter(|found| *found < until);
            }
            date = date.tomorrow().ok()?;
            time = None;
        }
        None
    }

    fn is_day(&self, date: Date) -> bool {
        let day = self.days.contains(date.day());
        let weekday = self.weekdays.contains(date.weekday().to_sunday_zero_offset());
        if self.either_day { day || weekday } else { day && weekday }
    }

    fn time_from(&self, from: Time) -> Option<Time> {
        let at = |hour, minute, second| Time::new(hour, minute, second, 0).ok();
        let (first_minute, first_second) = (self.minutes.first_from(0)?, self.seconds.first_from(0)?);
        if self.hours.contains(from.hour()) {
            if self.minutes.contains(from.minute())
                && let Some(second) = self.seconds.first_from(from.second())
            {
                return at(from.hour(), from.minute(), second);
            }
            if let Some(minute) = self.minutes.first_from(from.minute() + 1) {
                return at(from.hour(), minute, first_second);
            }
        }
        at(self.hours.first_from(from.hour() + 1)?, first_minute, first_second)
    }
}

fn to_ms(offset: Offset, local: DateTime) -> Option<u64> {
    let second = offset.to_timestamp(local).ok()?.as_second();
    u64::try_from(second).ok()?.checked_mul(1000)
}

/// A time zone of the IANA database that comes with the program: the same on every node of one version, whatever is
/// installed there.
#[derive(Clone, PartialEq, Eq)]
pub struct Zone {
    name: String,
    zone: TimeZone,
}

impl Zone {
    pub fn is_utc(&self) -> bool {
        *self == Zone::default()
    }
}

impl Default for Zone {
    fn default() -> Self {
        Self { name: "UTC".into(), zone: TimeZone::UTC }
    }
}

impl FromStr for Zone {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let known = TimeZoneDatabase::bundled().get(text).ok().filter(|zone| !zone.is_unknown());
        let zone = known.ok_or_else(|| format!("{text:?} is not a time zone; write UTC or Europe/Berlin"))?;
        let name = zone.iana_name().unwrap_or(text).to_owned();
        Ok(Self { name, zone })
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(text: &str) -> u64 {
        u64::try_from(text.parse::<Timestamp>().unwrap().as_millisecond()).unwrap()
    }

    /// The ticks after a moment, in the zone's own time.
    fn ticks(cron: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let (cron, zone): (Cron, Zone) = (cron.parse().unwrap(), zone.parse().unwrap());
        let ticks = std::iter::successors(Some(ms(after)), |after| cron.next_after(&zone, *after)).skip(1).take(count);
        let local = |tick: u64| {
            let timestamp = Timestamp::from_millisecond(tick.try_into().unwrap()).unwrap();
            timestamp.to_zoned(zone.zone.clone()).strftime("%m-%d %H:%M:%S %:z").to_string()
        };
        ticks.map(local).collect()
    }

    #[track_caller]
    fn check(cron: &str, zone: &str, after: &str, expect: &[&str]) {
        assert_eq!(ticks(cron, zone, after, expect.len()), expect, "{cron} {zone} after {after}");
    }

    #[test]
    fn expressions() {
        let after = "2026-11-22T14:03:07.5Z"; // a Sunday
        check("*/5 * * * *", "UTC", after, &["11-22 14:05:00 +00:00", "11-22 14:10:00 +00:00"]);
        check("* * * * * *", "UTC", after, &["11-22 14:03:08 +00:00", "11-22 14:03:09 +00:00"]);
        check(
            "*/20 3 14 * * *",
            "UTC",
            after,
            &["11-22 14:03:20 +00:00", "11-22 14:03:40 +00:00", "11-23 14:03:00 +00:00"],
        );
        check(
            "5-10/5,50 2 * * *",
            "UTC",
            after,
            &["11-23 02:05:00 +00:00", "11-23 02:10:00 +00:00", "11-23 02:50:00 +00:00"],
        );
        check("0 9 * * MON-fri", "UTC", after, &["11-23 09:00:00 +00:00", "11-24 09:00:00 +00:00"]);
        check(
            "0 9 * * 5-7",
            "UTC",
            after,
            &["11-27 09:00:00 +00:00", "11-28 09:00:00 +00:00", "11-29 09:00:00 +00:00"],
        );
        check("@hourly", "UTC", after, &["11-22 15:00:00 +00:00"]);
        check("@Weekly", "UTC", after, &["11-29 00:00:00 +00:00"]);
        check(" 0  0\t1 jan * ", "Europe/Berlin", after, &["01-01 00:00:00 +01:00"]);
        // Either day where both are restricted, both where one is not.
        check(
            "0 0 25 * mon",
            "UTC",
            after,
            &["11-23 00:00:00 +00:00", "11-25 00:00:00 +00:00", "11-30 00:00:00 +00:00"],
        );
        check("0 0 */2 * mon", "UTC", after, &["11-23 00:00:00 +00:00", "12-07 00:00:00 +00:00"]);
        check("0 0 29 2 *", "UTC", after, &["02-29 00:00:00 +00:00"]);
        // The tick itself is not after itself, and what is between seconds is not before the next.
        check("* * * * * *", "UTC", "2026-01-01T00:00:00Z", &["01-01 00:00:01 +00:00"]);
        check("0 0 * * *", "UTC", "2025-12-31T23:59:59.999Z", &["01-01 00:00:00 +00:00"]);
    }

    #[test]
    fn skipped_times_of_day_are_one_tick_at_the_change() {
        // 02:00 becomes 03:00 at 01:00 UTC.
        let before = "2026-03-29T00:30:00Z";
        check("30 2 * * *", "Europe/Berlin", before, &["03-29 03:00:00 +02:00", "03-30 02:30:00 +02:00"]);
        check("*/20 2,3 * * *", "Europe/Berlin", before, &["03-29 03:00:00 +02:00", "03-29 03:20:00 +02:00"]);
        check("0 1,4 * * *", "Europe/Berlin", before, &["03-29 04:00:00 +02:00", "03-30 01:00:00 +02:00"]);
        check("*/30 * * * *", "Europe/Berlin", before, &["03-29 03:00:00 +02:00", "03-29 03:30:00 +02:00"]);
        // The same from the second before the change.
        check("30 2 * * *", "Europe/Berlin", "2026-03-29T00:59:59Z", &["03-29 03:00:00 +02:00"]);
        check("30 2 * * *", "Europe/Berlin", "2026-03-29T01:00:00Z", &["03-30 02:30:00 +02:00"]);
    }

    #[test]
    fn repeated_times_of_day_are_ticks_once_and_repeated_hours_twice() {
        // 03:00 becomes 02:00 at 01:00 UTC.
        let before = "2026-10-25T00:15:00Z";
        check("30 2 * * *", "Europe/Berlin", before, &["10-25 02:30:00 +02:00", "10-26 02:30:00 +01:00"]);
        check("30 2 * * *", "Europe/Berlin", "2026-10-25T01:10:00Z", &["10-26 02:30:00 +01:00"]);
        check("0 2,3 * * *", "Europe/Berlin", before, &["10-25 03:00:00 +01:00", "10-26 02:00:00 +01:00"]);
        let each = ["10-25 02:30:00 +02:00", "10-25 02:00:00 +01:00", "10-25 02:30:00 +01:00", "10-25 03:00:00 +01:00"];
        check("*/30 * * * *", "Europe/Berlin", before, &each);
        // Half an hour, in the other half of the year.
        check(
            "45 1 * * *",
            "Australia/Lord_Howe",
            "2026-04-04T14:00:00Z",
            &["04-05 01:45:00 +11:00", "04-06 01:45:00 +10:30"],
        );
    }

    #[test]
    fn errors_name_the_field() {
        for (text, expect) in [
            ("", "has not five fields"),
            ("* * * *", "has not five fields"),
            ("* * * * * * *", "has not five fields"),
            ("60 * * * *", "minute: 60 is not from 0 to 59"),
            ("* 24 * * *", "hour: 24 is not from 0 to 23"),
            ("* * 0 * *", "day of month: 0 is not from 1 to 31"),
            ("* * * foo *", "month: \"foo\" is neither a number from 1 to 12 nor a name such as jan"),
            ("* * * * 8", "day of week: 8 is not from 0 to 7"),
            ("* * * * fri-mon", "day of week: \"fri-mon\" runs backwards"),
            ("5/10 * * * *", "minute: \"5/10\" has a step but no range"),
            ("*/0 * * * *", "minute: \"0\" is not a step"),
            ("*/+5 * * * *", "is not a step"),
            ("+5 * * * *", "minute: \"+5\" is not a number"),
            ("999 * * * *", "minute: \"999\" is not a number from 0 to 59"),
            ("1,,2 * * * *", "minute: \"\" is not a number"),
            ("* * L * *", "day of month: \"L\" is not a number"),
            ("0 0 30 2 *", "names a day that no year has"),
            ("0 0 31 4,jun *", "names a day that no year has"),
            ("@often", "is not one of @yearly"),
        ] {
            let error = text.parse::<Cron>().unwrap_err();
            assert!(error.contains(expect), "{text}: {error}");
        }
        for bad in ["", "Mars/Base", "+01:00", "Etc/Unknown", "Europe/Berlin\0"] {
            assert!(bad.parse::<Zone>().is_err(), "{bad}");
        }
        assert_eq!("europe/berlin".parse::<Zone>().unwrap().to_string(), "Europe/Berlin");
        assert!("utc".parse::<Zone>().unwrap().is_utc());
    }

    proptest! {
        #[test]
        fn any_text_is_taken_or_refused(text in "[-*/,0-9a-z@ ]{0,32}|.{0,32}") {
            if let Ok(cron) = text.parse::<Cron>() {
                prop_assert!(cron.next_after(&Zone::default(), ms("2026-01-01T00:00:00Z")).is_some());
                prop_assert_eq!(cron.to_string().parse::<Cron>(), Ok(cron));
            }
        }

        /// The tick after a moment is the same whichever earlier moment without a tick in between is asked about.
        #[test]
        fn ticks_do_not_depend_on_who_asks(
            minute in 0_u8..60, hours in "\\*|[1-3]|[0-4],[5-9]|\\*/2", start in 0_u64..365 * 24 * 60, step in 1_u64..240,
        ) {
            let cron: Cron = format!("{minute},30 {hours} * * *").parse().unwrap();
            let zone: Zone = "Europe/Berlin".parse().unwrap();
            let from = ms("2026-01-01T00:00:00Z") + start * 60_000;
            let next = cron.next_after(&zone, from).unwrap();
            prop_assert!(next > from);
            let later = from + step * 60_000;
            if later < next {
                prop_assert_eq!(cron.next_after(&zone, later), Some(next));
            } else {
                prop_assert_eq!(cron.next_after(&zone, next - 1), Some(next));
            }
        }
    }
}

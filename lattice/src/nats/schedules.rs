//! Schedules in streams (ADR-51), as guests use them: when something is to be stored, in the words of the server, and what a message
//! says that is a schedule. What is promised is in `wit/nats/schedules.wit`.

use super::{Code, Failure, Message, PublishOptions, Stored};
use crate::{event::rfc3339, limits::one_line};
use std::time::Duration;

/// Headers of a message that is a schedule.
pub const SCHEDULE: &str = "Nats-Schedule";
pub const SCHEDULE_TARGET: &str = "Nats-Schedule-Target";
pub const SCHEDULE_TTL: &str = "Nats-Schedule-TTL";
pub const SCHEDULE_ZONE: &str = "Nats-Schedule-Time-Zone";

const CRON_BYTES_MAX: usize = 256;
const ZONE_BYTES_MAX: usize = 64;
const EVERY_MIN: Duration = Duration::from_secs(1);
/// Calendars that have a name.
const NAMED: [&str; 7] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];
/// Seconds, minutes, hours, days, months, days of the week.
const FIELDS: usize = 6;
/// Headers that tell the server what to do begin like this.
const OF_SERVER: &str = "nats-";

/// When a message is stored, as a server reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    pattern: String,
    zone: Option<String>,
    is_once: bool,
}

impl Timing {
    /// Nanoseconds since 1970; no sooner, and within a millisecond.
    pub fn at(nanos: u64) -> Self {
        let pattern = format!("@at {}", rfc3339(nanos.div_ceil(1_000_000)));
        Self { pattern, zone: None, is_once: true }
    }

    pub fn every(pause: Duration) -> Result<Self, Failure> {
        if pause < EVERY_MIN {
            return Err(invalid("every is at least one second"));
        }
        let seconds = pause.as_nanos().div_ceil(1_000_000_000);
        Ok(Self { pattern: format!("@every {seconds}s"), zone: None, is_once: false })
    }

    pub fn cron(cron: &str, zone: Option<String>) -> Result<Self, Failure> {
        let is_text = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
        let is_calendar = match cron.starts_with('@') {
            true => NAMED.contains(&cron),
            false => cron.split_ascii_whitespace().count() == FIELDS,
        };
        if cron.len() > CRON_BYTES_MAX || !is_text(cron) || !is_calendar {
            let shown = one_line(cron, 64);
            let names = NAMED.join(", ");
            return Err(invalid(&format!("{shown:?} has not {FIELDS} fields, seconds first, and is none of {names}")));
        }
        let is_zone = |zone: &String| {
            (1..=ZONE_BYTES_MAX).contains(&zone.len()) && zone.bytes().all(|byte| byte.is_ascii_graphic())
        };
        if let Some(zone) = &zone
            && !is_zone(zone)
        {
            return Err(invalid(&format!("{:?} is no time zone, as Europe/Berlin is one", one_line(zone, 64))));
        }
        Ok(Self { pattern: cron.to_owned(), zone, is_once: false })
    }

    /// What every server knows that knows schedules; the rest came later.
    pub fn is_once(&self) -> bool {
        self.is_once
    }

    /// Lines of the header that say it.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let zone = self.zone.as_deref().map(|zone| (SCHEDULE_ZONE, zone));
        [(SCHEDULE, self.pattern.as_str())].into_iter().chain(zone)
    }
}

/// Something to be stored later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scheduling {
    /// Of the schedule.
    pub subject: String,
    pub timing: Timing,
    /// With the subject that it is to be stored on.
    pub message: Message,
    /// How long it stays there.
    pub ttl: Option<Duration>,
    /// Of the schedule.
    pub options: PublishOptions,
}

/// A schedule as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scheduled {
    pub timing: String,
    /// With the subject that it is stored on.
    pub message: Message,
    pub sequence: u64,
    /// Nanoseconds since 1970, by the server's clock.
    pub time: u64,
}

impl TryFrom<Stored> for Scheduled {
    type Error = Failure;

    fn try_from(stored: Stored) -> Result<Self, Failure> {
        let Stored { mut message, sequence, time } = stored;
        let line = |wanted: &str| {
            let found = message.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
            found.map(|(_, value)| value.clone())
        };
        let (Some(timing), Some(target)) = (line(SCHEDULE), line(SCHEDULE_TARGET)) else {
            let text = format!("what is on {} is no schedule", one_line(&message.subject, 128));
            return Err(Failure::not(Code::Other, text));
        };
        let is_of_server =
            |name: &str| name.get(..OF_SERVER.len()).is_some_and(|it| it.eq_ignore_ascii_case(OF_SERVER));
        message.headers.retain(|(name, _)| !is_of_server(name));
        message.subject = target;
        Ok(Self { timing, message, sequence, time })
    }
}

fn invalid(text: &str) -> Failure {
    Failure::not(Code::Invalid("timing".into()), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(timing: &Timing) -> Vec<(&'static str, &str)> {
        timing.headers().collect()
    }

    #[test]
    fn times_are_as_a_server_reads_them() {
        for (nanos, expect) in [
            (0, "@at 1970-01-01T00:00:00.000Z"),
            (1, "@at 1970-01-01T00:00:00.001Z"),
            (1_795_426_200_000_000_000, "@at 2026-11-23T09:30:00.000Z"),
            (u64::MAX, "@at 2554-07-21T23:34:33.710Z"),
        ] {
            let timing = Timing::at(nanos);
            assert_eq!((lines(&timing), timing.is_once()), (vec![(SCHEDULE, expect)], true));
        }
        for (pause, expect) in [(1_000, "@every 1s"), (1_001, "@every 2s"), (90_000, "@every 90s")] {
            let timing = Timing::every(Duration::from_millis(pause)).unwrap();
            assert_eq!((lines(&timing), timing.is_once()), (vec![(SCHEDULE, expect)], false));
        }
        assert!(Timing::every(Duration::from_millis(999)).is_err());
    }

    #[test]
    fn a_calendar_has_six_fields_or_a_name() {
        for good in ["0 30 9 * * mon-fri", "*/5 * * * * *", "0  0 0 1,15 * 5", "@hourly", "@annually"] {
            let timing = Timing::cron(good, Some("Europe/Berlin".into())).unwrap();
            assert_eq!(lines(&timing), [(SCHEDULE, good), (SCHEDULE_ZONE, "Europe/Berlin")]);
            assert_eq!(lines(&Timing::cron(good, None).unwrap()), [(SCHEDULE, good)]);
        }
        let long = format!("{} * * * * *", "1,".repeat(200));
        for bad in [
            "",
            "30 9 * * *",
            "* * * * * * *",
            "@every 1s",
            "@at 2026-11-23T09:30:00Z",
            "0 0 0\r\n1 * *",
            "ü * * * * *",
            &long,
        ] {
            assert_eq!(Timing::cron(bad, None).unwrap_err().code, Code::Invalid("timing".into()), "{bad:?}");
        }
        for bad in ["", "Europe Berlin", "a\r\nb", "ü", &"x".repeat(65)] {
            assert!(Timing::cron("@daily", Some(bad.to_owned())).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_schedule_is_told_without_what_the_server_reads() {
        let line = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let stored = |headers: Vec<(String, String)>| Stored {
            message: Message { subject: "later.a".into(), headers, payload: "x".into(), reply: None },
            sequence: 7,
            time: 9,
        };
        let all = vec![
            line(SCHEDULE, "@every 90s"),
            line("Shape", "round"),
            line("nats-schedule-target", "tasks.a"),
            line("Nats-Rollup", "sub"),
        ];
        let message = Message {
            subject: "tasks.a".into(),
            headers: vec![line("Shape", "round")],
            payload: "x".into(),
            reply: None,
        };
        let expect = Scheduled { timing: "@every 90s".into(), message, sequence: 7, time: 9 };
        assert_eq!(Scheduled::try_from(stored(all)), Ok(expect));
        for bad in [vec![], vec![line(SCHEDULE, "@hourly")], vec![line(SCHEDULE_TARGET, "a")]] {
            assert_eq!(Scheduled::try_from(stored(bad)).unwrap_err().code, Code::Other);
        }
    }
}

//! When a service is started again, as a table of transitions. No clock, no tokio, no randomness: `service.rs` carries
//! out the [`Action`]s and says what happened.

use std::{collections::VecDeque, time::Duration};

/// When a service that has ended is started again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restart {
    /// Also when it ended as it should: its `run` returned without an error, or it exited with status 0. Default true;
    /// otherwise such an end is its last.
    pub after_success: bool,
    /// Delay before the first restart. It doubles with each further one within [`Restart::window`]. Default 200 ms.
    pub backoff_min: Duration,
    /// Longest delay. Default 30 s.
    pub backoff_max: Duration,
    /// Restarts within [`Restart::window`] after which the service is given up. Default 10.
    pub restarts_max: u32,
    /// Ends that lie further back are forgotten. Default 10 min.
    pub window: Duration,
}

impl Default for Restart {
    fn default() -> Self {
        Self {
            after_success: true,
            backoff_min: Duration::from_millis(200),
            backoff_max: Duration::from_secs(30),
            restarts_max: 10,
            window: Duration::from_secs(600),
        }
    }
}

/// How far a service has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Starting,
    Running,
    /// Ended; waits for its delay.
    Waiting,
    GivenUp,
    Done,
    Stopped,
}

/// What happened to a service. Times count from the start of its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// Its instance is there.
    Started,
    /// It ended, while it started or later. `random` spreads the restart.
    Ended {
        well: bool,
        at: Duration,
        random: u64,
    },
    /// The delay has passed.
    Due,
    Stop,
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    None,
    Start,
    /// Say [`Input::Due`] after this delay.
    Wait(Duration),
    /// It never runs again.
    End,
}

/// One service's life, from its first start to its end.
#[derive(Debug)]
pub(crate) struct Supervision {
    restart: Restart,
    phase: Phase,
    /// When it ended, within the window. At most [`Restart::restarts_max`] and one.
    ends: VecDeque<Duration>,
}

impl Supervision {
    /// It is to be started.
    pub(crate) fn new(restart: Restart) -> Self {
        Self { restart, phase: Phase::Starting, ends: VecDeque::new() }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// Take what happened; what to do. What does not fit the phase came too late, and changes nothing.
    pub(crate) fn on(&mut self, input: Input) -> Action {
        let (phase, action) = match (self.phase, input) {
            (Phase::Starting, Input::Started) => (Phase::Running, Action::None),
            (Phase::Starting | Phase::Running, Input::Ended { well: true, .. }) if !self.restart.after_success => {
                (Phase::Done, Action::End)
            }
            (Phase::Starting | Phase::Running, Input::Ended { at, random, .. }) => self.ended(at, random),
            (Phase::Waiting, Input::Due) => (Phase::Starting, Action::Start),
            (Phase::Starting | Phase::Running | Phase::Waiting, Input::Stop) => (Phase::Stopped, Action::End),
            (phase, _) => (phase, Action::None),
        };
        self.phase = phase;
        action
    }

    fn ended(&mut self, at: Duration, random: u64) -> (Phase, Action) {
        self.ends.retain(|end| at.saturating_sub(*end) < self.restart.window);
        self.ends.push_back(at);
        let restarts = u32::try_from(self.ends.len()).unwrap_or(u32::MAX);
        if restarts > self.restart.restarts_max {
            return (Phase::GivenUp, Action::End);
        }
        (Phase::Waiting, Action::Wait(self.backoff(restarts, random)))
    }

    /// Between half of the doubled delay and all of it, so that services that failed together do not start together.
    fn backoff(&self, restarts: u32, random: u64) -> Duration {
        let doubled = self.restart.backoff_min.saturating_mul(2_u32.saturating_pow(restarts.saturating_sub(1)));
        let delay = doubled.min(self.restart.backoff_max);
        let half = delay / 2;
        let spread = u64::try_from(half.as_micros()).unwrap_or(u64::MAX).saturating_add(1);
        half + Duration::from_micros(random % spread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: Input = ended(false, 0);

    const fn ended(well: bool, seconds: u64) -> Input {
        Input::Ended { well, at: Duration::from_secs(seconds), random: u64::MAX - 1 }
    }

    fn in_phase(phase: Phase, after_success: bool) -> Supervision {
        Supervision { phase, ..Supervision::new(Restart { after_success, ..Restart::default() }) }
    }

    /// The whole table, so that a change of it is seen.
    #[test]
    fn transitions() {
        use Phase::*;
        for (phase, expect) in [
            (Starting, [Running, Waiting, Waiting, Starting, Stopped]),
            (Running, [Running, Waiting, Waiting, Running, Stopped]),
            (Waiting, [Waiting, Waiting, Waiting, Starting, Stopped]),
            (GivenUp, [GivenUp; 5]),
            (Done, [Done; 5]),
            (Stopped, [Stopped; 5]),
        ] {
            for (input, expect) in
                [Input::Started, FAILED, ended(true, 0), Input::Due, Input::Stop].into_iter().zip(expect)
            {
                let mut service = in_phase(phase, true);
                let action = service.on(input);
                assert_eq!(service.phase(), expect, "{phase:?} {input:?}");
                let is_new = phase != expect;
                match expect {
                    Starting if is_new => assert_eq!(action, Action::Start),
                    Waiting if is_new => assert!(matches!(action, Action::Wait(_)), "{action:?}"),
                    Stopped if is_new => assert_eq!(action, Action::End),
                    _ => assert_eq!(action, Action::None, "{phase:?} {input:?}"),
                }
            }
        }
    }

    #[test]
    fn an_end_as_it_should_be_is_the_last_where_that_was_asked_for() {
        let mut service = in_phase(Phase::Running, false);
        assert_eq!((service.on(ended(true, 0)), service.phase()), (Action::End, Phase::Done));
        let mut service = in_phase(Phase::Running, false);
        assert!(matches!(service.on(FAILED), Action::Wait(_)));
    }

    /// One that ends `apart` seconds after each start: the delays, until it is given up or 100 restarts are done.
    fn delays(restart: Restart, apart: u64) -> (Vec<Duration>, Phase) {
        let ends_max = restart.restarts_max as usize + 1;
        let mut service = Supervision::new(restart);
        let mut delays = Vec::new();
        for end in 0..100 {
            service.on(Input::Started);
            match service.on(ended(false, end * apart)) {
                Action::Wait(delay) => delays.push(delay),
                _ => break,
            }
            assert_eq!(service.on(Input::Due), Action::Start);
            assert!(service.ends.len() <= ends_max, "bounded");
        }
        (delays, service.phase())
    }

    #[test]
    fn delays_double_and_end_in_giving_up() {
        let (waited, phase) = delays(Restart::default(), 1);
        assert_eq!((waited.len(), phase), (10, Phase::GivenUp));
        let full = [200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000].map(Duration::from_millis);
        for (delay, full) in waited.iter().zip(full) {
            assert!((full / 2..=full).contains(delay), "{delay:?} of {full:?}");
        }
    }

    #[test]
    fn what_lies_back_is_forgotten() {
        let (waited, phase) = delays(Restart::default(), 601);
        assert_eq!((waited.len(), phase), (100, Phase::Starting));
        assert!(waited.iter().all(|delay| *delay <= Duration::from_millis(200)));
    }

    #[test]
    fn no_delay_overflows() {
        let restart =
            Restart { restarts_max: 90, backoff_max: Duration::MAX, window: Duration::MAX, ..Restart::default() };
        assert_eq!(delays(restart, 0).0.len(), 90);
    }
}

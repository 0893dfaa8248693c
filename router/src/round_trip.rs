//! Whether what this node sends comes to the server, and back from there. A network can swallow one direction alone: then no
//! connection ends, news goes on arriving, and every request is sent into the void. So the node sends echoes to itself, over the
//! connection that its requests take and to the subscription that their answers come to.
//!
//! Pure: it is told when somebody looks and which echo came back, and says when one is to be sent. The IO is in `dispatch/way.rs`.

use std::{collections::VecDeque, time::Duration};

/// Between two looks.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(250);
/// An echo was sent, and nothing came back for so long: nothing gets through.
const PATIENCE: Duration = Duration::from_secs(1);
/// Most that one look counts for. A process that was stopped, or that gets its turn too rarely, looks at the clock before it has
/// read what came meanwhile: it takes as many looks as any other.
const LOOK_COUNTS_MAX: Duration = LOOK_EVERY;
/// From one echo to the next where no request waits for an answer.
const AT_REST_EVERY: Duration = Duration::from_secs(1);
/// The same where none came back lately. What waits in the connection comes back once that is mended, and need not be much.
const CLOSED_EVERY: Duration = Duration::from_millis(500);
/// Echoes that are remembered until they come back. Where more are under way, the oldest ones are forgotten.
const UNDER_WAY_MAX: usize = 64;

// Else one look could decide it.
const _: () = assert!(LOOK_COUNTS_MAX.as_millis() * 4 <= PATIENCE.as_millis());
// Else a way that is slow, and carries one echo after the other, would close again and again.
const _: () = assert!(CLOSED_EVERY.as_millis() * 2 <= PATIENCE.as_millis());

/// What echoes tell. All times are on one monotonic clock.
#[derive(Debug, Default)]
pub(crate) struct RoundTrip {
    /// Number of the echo that was sent last. The first one is 1.
    last: u64,
    /// Echoes that did not come back yet, and when they were sent.
    under_way: VecDeque<(u64, Duration)>,
    sent_at: Option<Duration>,
    looked_at: Option<Duration>,
    /// How long nothing came back although something was under way, by looks.
    silence: Duration,
    /// When the last one that came back was sent.
    came_back: Option<Duration>,
}

impl RoundTrip {
    /// To be called every [`LOOK_EVERY`] while there is a connection. `waits`: requests wait for answers. Answers with the number
    /// of an echo that is to be sent now.
    pub(crate) fn look(&mut self, now: Duration, waits: bool) -> Option<u64> {
        let looked_at = self.looked_at.replace(now).unwrap_or(now);
        self.silence = match self.under_way.is_empty() {
            true => Duration::ZERO,
            false => self.silence.saturating_add(now.saturating_sub(looked_at).min(LOOK_COUNTS_MAX)),
        };
        let every = match (self.is_open(), waits) {
            (true, true) => Duration::ZERO,
            (true, false) => AT_REST_EVERY,
            (false, _) => CLOSED_EVERY,
        };
        if self.sent_at.is_some_and(|sent| now.saturating_sub(sent) < every) {
            return None;
        }
        if self.under_way.len() >= UNDER_WAY_MAX {
            self.under_way.pop_front();
        }
        self.last += 1;
        self.under_way.push_back((self.last, now));
        self.sent_at = Some(now);
        Some(self.last)
    }

    /// An echo came back, however late: where a lot is under way before them, they do one after the other. A number that was not
    /// sent, or was heard before, says nothing.
    pub(crate) fn heard(&mut self, number: u64) {
        let Some(at) = self.under_way.iter().position(|(sent, _)| *sent == number) else { return };
        if let Some((_, sent)) = self.under_way.drain(..=at).next_back() {
            self.came_back = Some(sent);
        }
        self.silence = Duration::ZERO;
    }

    /// The connection was lost, or nobody listens: that is known otherwise, and what was under way says nothing any more.
    pub(crate) fn interrupt(&mut self) {
        self.under_way.clear();
        (self.sent_at, self.looked_at, self.silence) = (None, None, Duration::ZERO);
    }

    /// False once nothing came back for a second. True while it is not known.
    pub(crate) fn is_open(&self) -> bool {
        self.silence < PATIENCE
    }

    /// When the last echo that came back was sent: what was sent before it has left this node.
    pub(crate) fn came_back(&self) -> Option<Duration> {
        self.came_back
    }
}

/// Whether a request that has no sign of an answer is given up while nothing gets through. Only one that is not known to have
/// left (`sent` before an echo that `came_back`): else its answer may be on its way, since the other direction may work. And only
/// one whose method is idempotent: it may have left all the same, so that a guest may see it still, and to the client it is to look
/// like one that can be sent again.
pub(crate) fn is_given_up(is_idempotent: bool, sent: Duration, came_back: Option<Duration>) -> bool {
    is_idempotent && came_back.is_none_or(|echo| echo <= sent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Look every 250 ms from `from` to `to`, both included.
    fn look(trip: &mut RoundTrip, from: u64, to: u64, waits: bool) -> Vec<(u64, u64)> {
        let looks = (from..=to).step_by(250);
        looks.filter_map(|at| Some((at, trip.look(ms(at), waits)?))).collect()
    }

    #[test]
    fn silence_of_a_second_closes_the_way_and_the_first_echo_opens_it() {
        let mut trip = RoundTrip::default();
        assert_eq!(look(&mut trip, 0, 750, true), [(0, 1), (250, 2), (500, 3), (750, 4)]);
        assert!(trip.is_open());
        trip.look(ms(1000), true);
        assert!(!trip.is_open());
        // What comes back late, when the way is mended.
        trip.heard(1);
        assert!(trip.is_open());
        assert_eq!(trip.came_back(), Some(ms(0)));
        trip.heard(3);
        assert_eq!(trip.came_back(), Some(ms(500)));
    }

    #[test]
    fn at_rest_and_while_it_is_closed_echoes_are_rare() {
        let mut trip = RoundTrip::default();
        assert_eq!(look(&mut trip, 0, 0, false), [(0, 1)]);
        trip.heard(1);
        assert_eq!(look(&mut trip, 250, 2250, false), [(1000, 2), (2000, 3)]);
        assert!(!trip.is_open(), "nothing came back of the second one");
        assert_eq!(look(&mut trip, 2500, 3750, true), [(2500, 4), (3000, 5), (3500, 6)]);
        assert!(!trip.is_open());
    }

    #[test]
    fn a_way_that_is_slow_is_open() {
        let mut trip = RoundTrip::default();
        let mut under_way = Vec::new();
        for at in (0..10_000).step_by(250) {
            under_way.extend(trip.look(ms(at), true).map(|number| (at + 2500, number)));
            let back = under_way.iter().filter(|(due, _)| *due == at);
            back.for_each(|(_, number)| trip.heard(*number));
            assert_eq!(trip.is_open(), !(1000..2500).contains(&at), "{at}");
        }
    }

    #[test]
    fn a_node_that_did_not_look_does_not_know() {
        let mut trip = RoundTrip::default();
        look(&mut trip, 0, 250, true);
        trip.look(ms(60_000), true);
        assert!(trip.is_open(), "it was stopped for a minute, and has read nothing since");
        look(&mut trip, 60_250, 60_500, true);
        assert!(!trip.is_open());
        trip.interrupt();
        assert!(trip.is_open());
        trip.look(ms(60_750), true);
        assert!(trip.is_open());
    }

    #[test]
    fn what_was_not_sent_and_what_came_back_before_say_nothing() {
        let mut trip = RoundTrip::default();
        look(&mut trip, 0, 1000, true);
        for number in [0, 6, u64::MAX] {
            trip.heard(number);
        }
        assert!(!trip.is_open());
        trip.heard(2);
        look(&mut trip, 1250, 2000, true);
        trip.heard(1);
        trip.heard(2);
        assert_eq!((trip.is_open(), trip.came_back()), (false, Some(ms(250))));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut trip = RoundTrip::default();
        look(&mut trip, 0, 250_000, true);
        assert!(trip.under_way.len() <= UNDER_WAY_MAX && trip.last > 200);
        let newest = trip.last;
        trip.heard(newest);
        assert!(trip.is_open() && trip.under_way.is_empty());
    }

    #[test]
    fn only_what_may_be_sent_again_and_is_not_known_to_have_left_is_given_up() {
        for (is_idempotent, came_back, expect) in [
            (true, None, true),
            (true, Some(ms(900)), true),
            (true, Some(ms(1000)), true),
            (true, Some(ms(1001)), false),
            (false, None, false),
            (false, Some(ms(900)), false),
        ] {
            assert_eq!(is_given_up(is_idempotent, ms(1000), came_back), expect, "{is_idempotent} {came_back:?}");
        }
    }
}

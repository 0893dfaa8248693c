//! The least and the most of a number over the last while, in bounded room.

use std::{collections::VecDeque, time::Duration};

/// Parts that a span is kept in: so much of it may a number count for longer than it should.
const PARTS: u32 = 32;
const PART_MIN: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub(super) struct Window {
    since: Duration,
    /// Oldest first.
    parts: VecDeque<Part>,
}

#[derive(Debug, Clone, Copy)]
struct Part {
    begin: Duration,
    /// When a number was added last.
    end: Duration,
    least: u32,
    most: u32,
}

impl Window {
    pub(super) fn new(now: Duration) -> Self {
        Self { since: now, parts: VecDeque::new() }
    }

    /// `span` is what is asked for.
    pub(super) fn add(&mut self, now: Duration, number: u32, span: Duration) {
        let width = if span.is_zero() { span } else { (span / PARTS).max(PART_MIN) };
        match self.parts.back_mut().filter(|part| now.saturating_sub(part.begin) < width) {
            Some(part) => {
                *part = Part { end: now, least: part.least.min(number), most: part.most.max(number), ..*part };
            }
            None => self.parts.push_back(Part { begin: now, end: now, least: number, most: number }),
        }
        while self.parts.front().is_some_and(|part| now.saturating_sub(part.end) > span) {
            self.parts.pop_front();
        }
    }

    /// The least over the last while; none, if nothing is known of its beginning.
    pub(super) fn least(&self, now: Duration, span: Duration) -> Option<u32> {
        self.within(now, span)?.map(|part| part.least).min()
    }

    /// The most, likewise.
    pub(super) fn most(&self, now: Duration, span: Duration) -> Option<u32> {
        self.within(now, span)?.map(|part| part.most).max()
    }

    fn within(&self, now: Duration, span: Duration) -> Option<impl Iterator<Item = &Part>> {
        let is_covered = now.saturating_sub(self.since) >= span;
        is_covered.then(|| self.parts.iter().filter(move |part| now.saturating_sub(part.end) <= span))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn what_is_older_does_not_count_and_what_is_not_covered_is_not_known() {
        let mut window = Window::new(s(100));
        let span = s(60);
        window.add(s(100), 9, span);
        assert_eq!((window.least(s(100), s(0)), window.most(s(100), s(60))), (Some(9), None));
        for second in 101..=159 {
            window.add(s(second), 2, span);
        }
        assert_eq!((window.most(s(159), s(60)), window.most(s(160), s(60))), (None, Some(9)));
        assert_eq!(window.most(s(160), s(10)), Some(2));
        for second in 160..=165 {
            window.add(s(second), 3, span);
        }
        assert_eq!((window.least(s(165), s(30)), window.most(s(165), s(60))), (Some(2), Some(3)));
    }

    #[test]
    fn a_long_span_takes_little_room() {
        let mut window = Window::new(s(0));
        for second in 0..200_000 {
            window.add(s(second), u32::try_from(second % 7).unwrap(), s(86_400));
            assert!(window.parts.len() <= PARTS as usize + 2);
        }
        assert_eq!((window.least(s(200_000), s(3600)), window.most(s(200_000), s(86_400))), (Some(0), Some(6)));
    }
}

//! How long a node takes to answer, as one number: an average that follows a rise at once and forgets it slowly ("peak
//! EWMA", as the balancers of Finagle and Linkerd have it). A node that slows down is known by its first slow answer; one
//! that nobody asks any more is thought of better with time, so that it is asked again.

use std::time::Duration;

/// An answer of so long ago counts a third of what it did.
const DECAY: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct PeakEwma {
    seconds: f64,
    /// Of the last answer; nothing where there was none.
    at: Option<Duration>,
}

impl PeakEwma {
    pub(crate) fn observe(&mut self, now: Duration, took: Duration) {
        let took = took.as_secs_f64();
        self.seconds = match self.at {
            Some(at) if took <= self.seconds => {
                let weight = weight(now.saturating_sub(at));
                self.seconds * weight + took * (1.0 - weight)
            }
            _ => took,
        };
        self.at = Some(now);
    }

    /// In seconds; nothing where it is not known.
    pub(crate) fn read(&self, now: Duration) -> Option<f64> {
        Some(self.seconds * weight(now.saturating_sub(self.at?)))
    }
}

fn weight(elapsed: Duration) -> f64 {
    (-elapsed.as_secs_f64() / DECAY.as_secs_f64()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_at_once_and_falls_slowly() {
        let mut ewma = PeakEwma::default();
        let at = Duration::from_millis;
        assert_eq!(ewma.read(at(0)), None);
        ewma.observe(at(0), at(10));
        assert_eq!(ewma.read(at(0)), Some(0.01));
        ewma.observe(at(100), at(500));
        assert_eq!(ewma.read(at(100)), Some(0.5), "the peak");
        ewma.observe(at(200), at(10));
        assert!(ewma.read(at(200)).unwrap() > 0.48, "one good answer does not make it good");
        assert!(ewma.read(at(60_200)).unwrap() < 0.01, "a minute of silence does");
        ewma.observe(at(0), at(10)); // a clock that went back
        assert!(ewma.read(at(0)).unwrap().is_finite());
    }
}

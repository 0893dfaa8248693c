//! What the answers to one probe amount to: a verdict that changes only after several equal answers in a row.

/// What came of asking once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Passed,
    Failed,
    /// Nothing can be said: the node had no room to ask, or the time was up while others' requests went on. Neither passes nor
    /// fails, and does not interrupt a row of either.
    Unknown,
}

/// What answers amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Passes,
    Fails,
}

/// One probe of one unit.
#[derive(Debug, Clone)]
pub struct Probe {
    /// Answers in a row that make it pass, and that make it fail.
    successes: u32,
    failures: u32,
    /// The last answers, and how many of them were the same.
    row: Option<(Verdict, u32)>,
    verdict: Option<Verdict>,
}

impl Probe {
    /// `verdict` is what holds before the first answer, if anything does.
    pub fn new(successes: u32, failures: u32, verdict: Option<Verdict>) -> Self {
        Self { successes, failures, row: None, verdict }
    }

    /// Take an answer; the verdict, where it is another one than before.
    pub fn on(&mut self, answer: Answer) -> Option<Verdict> {
        let says = match answer {
            Answer::Passed => Verdict::Passes,
            Answer::Failed => Verdict::Fails,
            Answer::Unknown => return None,
        };
        let before = self.row.filter(|(row, _)| *row == says).map_or(0, |(_, count)| count);
        let count = before.saturating_add(1);
        self.row = Some((says, count));
        let needed = match says {
            Verdict::Passes => self.successes,
            Verdict::Fails => self.failures,
        };
        let is_news = count >= needed && self.verdict != Some(says);
        if is_news {
            self.verdict = Some(says);
        }
        is_news.then_some(says)
    }

    /// What holds now.
    pub fn verdict(&self) -> Option<Verdict> {
        self.verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `+` passed, `-` failed, `?` unknown; `P` and `F` where the verdict changed behind it.
    fn told(probe: &mut Probe, answers: &str) -> String {
        let mut told = String::new();
        for answer in answers.chars() {
            told.push(answer);
            let answer = match answer {
                '+' => Answer::Passed,
                '-' => Answer::Failed,
                _ => Answer::Unknown,
            };
            match probe.on(answer) {
                Some(Verdict::Passes) => told.push('P'),
                Some(Verdict::Fails) => told.push('F'),
                None => {}
            }
        }
        told
    }

    #[test]
    fn only_rows_count() {
        let mut ready = Probe::new(2, 3, None);
        assert_eq!(told(&mut ready, "+-++--+---+++"), "+-++P--+---F++P+");
        assert_eq!(told(&mut ready, "-?-??-"), "-?-??-F", "what says nothing breaks no row");
        let mut live = Probe::new(1, 2, Some(Verdict::Passes));
        assert_eq!(told(&mut live, "+-+--"), "+-+--F");
    }

    proptest! {
        #[test]
        fn a_verdict_follows_from_as_many_equal_answers(
            successes in 1u32..4,
            failures in 1u32..4,
            answers in proptest::collection::vec(0u8..3, 0..40),
        ) {
            let mut probe = Probe::new(successes, failures, None);
            let mut said = Vec::new();
            for answer in answers {
                let answer = [Answer::Passed, Answer::Failed, Answer::Unknown][usize::from(answer)];
                let before = probe.verdict();
                let news = probe.on(answer);
                if answer != Answer::Unknown {
                    said.push(answer);
                }
                let row = said.iter().rev().take_while(|other| **other == answer).count();
                match news {
                    None => prop_assert_eq!(probe.verdict(), before),
                    Some(verdict) => {
                        prop_assert_ne!(before, Some(verdict));
                        let (says, least) = match verdict {
                            Verdict::Passes => (Answer::Passed, successes),
                            Verdict::Fails => (Answer::Failed, failures),
                        };
                        prop_assert_eq!(answer, says);
                        prop_assert!(row >= least as usize);
                    }
                }
            }
        }
    }
}

//! How many of a workload's requests go to the replicas that run one of its templates. It follows from the records alone, so
//! that all routers share them out alike.

use super::{Rollout, RolloutState, SpecRecord};
use crate::id::Generation;
use std::{fmt, str::FromStr};

/// Of a workload's requests, `percent` go to replicas that run `template`, and all others to replicas that do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weighed {
    pub template: Generation,
    /// 0 to 100.
    pub percent: u32,
}

/// Which replicas of a workload may answer a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Among {
    /// Those that run this template.
    With(Generation),
    /// Those that run another one.
    Without(Generation),
}

impl Among {
    /// Whether a replica that runs `template` is among them.
    pub fn has(self, template: Generation) -> bool {
        match self {
            Among::With(asked) => template == asked,
            Among::Without(asked) => template != asked,
        }
    }
}

impl fmt::Display for Among {
    /// `7`, `!7`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Among::With(template) => write!(f, "{template}"),
            Among::Without(template) => write!(f, "!{template}"),
        }
    }
}

impl FromStr for Among {
    type Err = std::num::ParseIntError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix('!') {
            Some(template) => template.parse().map(|template| Among::Without(Generation(template))),
            None => text.parse().map(|template| Among::With(Generation(template))),
        }
    }
}

impl SpecRecord {
    /// How requests are shared out between what is new and what was there before; nothing where it does not matter what a
    /// replica runs. Of what was given up on its way by weight, replicas that still run it get nothing.
    pub fn weighed(&self, rollout: Option<&Rollout>) -> Option<Weighed> {
        let rollout = rollout.filter(|rollout| rollout.uid == self.uid);
        match rollout {
            Some(rollout) if rollout.is_of(self) => {
                let percent = match rollout.state {
                    // What was there before has had its time; it goes on until it stops.
                    RolloutState::Done => self.beside(Some(rollout)).map(|_| 100)?,
                    RolloutState::GivingUp => rollout.weight.map(|_| 0)?,
                    _ => rollout.weight?,
                };
                self.stable.as_ref()?;
                Some(Weighed { template: rollout.template, percent: percent.min(100) })
            }
            Some(rollout) if self.aborted.is_some() && rollout.template > self.template() => {
                rollout.weight.filter(|_| rollout.state != RolloutState::Done)?;
                Some(Weighed { template: rollout.template, percent: 0 })
            }
            // It has not begun.
            _ => {
                let first = Rollout::new(self).weight.filter(|_| self.stable.is_some())?;
                Some(Weighed { template: self.template(), percent: first })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{id::Digest, recipe::Recipe, spec};
    use std::collections::BTreeMap;

    fn spec(version: u32, steps: &str) -> spec::WorkloadSpec {
        let source = Digest::of(b"one");
        let text = format!(
            "name: a\ncomponents: [{{name: api, source: '{source}', env: {{V: '{version}'}}}}]\nreplicas: 4\n\
             rollout: {{steps: [{steps}]}}\n"
        );
        spec::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn what_is_new_gets_what_its_rollout_says_and_what_was_given_up_nothing() {
        let one = SpecRecord::new(spec(1, "{weight: 5}"), uuid::Uuid::from_u128(7), Generation::FIRST);
        let put = |before: &SpecRecord, spec| before.next(None, spec, Recipe::default(), BTreeMap::new(), 0);
        let two = put(&one, spec(2, "{weight: 5}"));
        let of = |template, percent| Some(Weighed { template: Generation(template), percent });
        assert_eq!(one.weighed(None), None);
        assert_eq!(two.weighed(None), of(2, 0));
        let mut rollout = Rollout::new(&two);
        assert_eq!(two.weighed(Some(&rollout)), of(2, 0));
        rollout.weight = Some(5);
        assert_eq!(two.weighed(Some(&rollout)), of(2, 5));
        let giving_up = Rollout { state: RolloutState::GivingUp, ..rollout.clone() };
        assert_eq!(two.weighed(Some(&giving_up)), of(2, 0));
        assert_eq!(two.abort("no", 0).unwrap().weighed(Some(&rollout)), of(2, 0));
        // Another one begins: replicas may run what was given up still, and are like any that are not new.
        let three = put(&two.abort("no", 0).unwrap(), spec(3, "{weight: 5}"));
        assert_eq!(three.weighed(Some(&rollout)), of(4, 0));
        let done = Rollout { state: RolloutState::Done, ..rollout.clone() };
        assert_eq!(two.weighed(Some(&done)), None);
        rollout.weight = None;
        assert_eq!(two.weighed(Some(&rollout)), None);
        // The second set answers until the first one runs it as well.
        let taken_over = Rollout { beside: Some(4), ..done };
        assert_eq!((two.weighed(Some(&taken_over)), two.beside(Some(&taken_over))), (of(2, 100), Some(4)));
        assert_eq!(put(&one, spec(2, "{replicas: 1}")).weighed(None), None);
        // Another life of the name.
        let other = SpecRecord { uid: uuid::Uuid::from_u128(8), ..one.clone() };
        assert_eq!(other.weighed(Some(&Rollout { weight: Some(5), ..rollout })), None);
    }

    #[test]
    fn who_may_answer_is_read_as_it_was_written() {
        for (among, text) in [(Among::With(Generation(7)), "7"), (Among::Without(Generation(7)), "!7")] {
            assert_eq!((among.to_string().as_str(), text.parse()), (text, Ok(among)));
        }
        for bad in ["", "!", "!!7", "-1", "7 "] {
            assert!(bad.parse::<Among>().is_err(), "{bad}");
        }
        assert!(Among::With(Generation(7)).has(Generation(7)) && !Among::Without(Generation(7)).has(Generation(7)));
    }
}

//! Micro services as the guests of one replica ask them: those alone that the spec names.

use super::{Network, nats::TIMEOUT};
use crate::inherited::Inherited;
use lattice::{
    limits::one_line,
    micro::{Answer, Verb},
    nats::{Code, Failure},
    spec::MicroName,
};
use std::time::Duration;

/// What answers may take in memory until they are read.
const ANSWERS_BYTES: usize = 1 << 20;

impl Network {
    /// What the instances of a service answer, or one of them.
    pub(crate) async fn nats_ask_service(
        &self,
        verb: Verb,
        (name, id): (&str, Option<&str>),
        wait: Duration,
        inherited: &Inherited,
    ) -> Result<Vec<Answer>, Failure> {
        let name = self.judge_service(name)?;
        let id = id.map(|id| MicroName::try_from(id.to_owned())).transpose();
        let id = id.map_err(|error| Failure::not(Code::Invalid("id".into()), error))?;
        let subject = verb.subject(name.as_str(), id.as_ref().map(MicroName::as_str));
        // Its answers come until the last moment.
        let wait = wait.min(TIMEOUT);
        let turn = self.nats_turn(Some(wait + TIMEOUT), (ANSWERS_BYTES, false), inherited).await?;
        let wait = wait.min(turn.left());
        let answers = turn.run(turn.link.ask_all(subject, id.is_some(), wait)).await.map_err(Failure::of_read)?;
        Ok(answers.iter().filter_map(|answer| Answer::parse(verb, answer)).collect())
    }

    fn judge_service(&self, name: &str) -> Result<&MicroName, Failure> {
        let parsed = MicroName::try_from(name.to_owned());
        let parsed = parsed.map_err(|error| Failure::not(Code::Invalid("name".into()), error))?;
        self.grants.nats.services.iter().find(|granted| **granted == parsed).ok_or_else(|| {
            let name = one_line(name, 64);
            self.denials.note(|| {
                format!(
                    "the micro service {name} was denied; to allow it add to the spec: grants: {{nats: {{services: [{name}]}}}}"
                )
            });
            Failure::not(Code::Denied, format!("no grant of this workload names a micro service {name}"))
        })
    }
}

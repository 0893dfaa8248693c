//! Schedules in streams as the guests of one replica have them: one grant of a stream covers the subjects of schedules, another what they
//! store.

use super::{Network, nats::not_a_subject, nats_streams::OpenStream};
use crate::inherited::Inherited;
use lattice::{
    limits::one_line,
    nats::{Code, Failure, Scheduling},
    spec::{
        Subject,
        stream_profile::{Storing, StreamOperation},
    },
};

/// The schedules of a stream as a guest has them.
#[derive(Clone)]
#[expect(unreachable_pub, reason = "the generated bindings pass it on as theirs")]
pub struct OpenSchedules(pub(crate) OpenStream);

impl Network {
    /// The schedules of a stream by the name that it is granted under.
    pub(crate) async fn nats_schedules(&self, name: &str, inherited: &Inherited) -> Result<OpenSchedules, Failure> {
        let open = self.nats_stream(name, inherited).await?;
        let turn = self.nats_turn(None, (0, false), inherited).await?;
        turn.run(open.stream.schedules()).await.map_err(Failure::of_read)?;
        Ok(OpenSchedules(open))
    }

    /// Whether the guest may do this with the schedule on a subject: what else is on it goes with it.
    pub(crate) fn judge_schedule(
        &self,
        OpenSchedules(open): &OpenSchedules,
        operation: StreamOperation,
        subject: &str,
    ) -> Result<(), Failure> {
        let name = &open.name;
        self.judge_operation(name, operation, Storing::default())?;
        let subject: Subject = subject.parse().map_err(|error| not_a_subject("subject", &error))?;
        if self.stream_grant(name)?.allow_schedule(&subject) {
            return Ok(());
        }
        let subject = one_line(subject.as_str(), 128);
        self.denials.note(|| {
            format!(
                "a schedule on {subject} in the stream {name} was denied; to allow it add the subject to the spec: \
                 grants.nats.streams.{name}.schedule"
            )
        });
        Err(Failure::not(Code::Denied, format!("no grant of schedules in the stream {name} covers {subject}")))
    }

    /// The same of one that is put, and whether it may store what it is to store; in the trace that it belongs to.
    pub(crate) fn judge_scheduling(
        &self,
        open: &OpenSchedules,
        scheduling: Scheduling,
        inherited: &Inherited,
    ) -> Result<Scheduling, Failure> {
        let Scheduling { subject, timing, message, ttl, options } = scheduling;
        self.judge_schedule(open, StreamOperation::Schedule, &subject)?;
        let message = self.judge_stored(&open.0.name, (message, &options), inherited)?;
        if message.subject == subject {
            let text = "a schedule stores on another subject than its own";
            return Err(Failure::not(Code::Invalid("message.subject".into()), text));
        }
        Ok(Scheduling { subject, timing, message, ttl, options })
    }
}

//! Streams of JetStream as the guests of one replica have them: what is granted of each.

use super::{
    Network,
    nats::{check_headers, in_trace, not_a_subject},
};
use crate::inherited::Inherited;
use lattice::{
    limits::one_line,
    nats::{Code, Failure, Message, Precondition, PublishOptions, Stored, Stream},
    spec::{StoreName, StreamGrant, Subject, SubjectError, SubjectPattern},
};
use std::sync::Arc;

const MESSAGE_ID_MAX: usize = 256;

/// A stream as a guest has it.
#[derive(Clone)]
#[expect(unreachable_pub, reason = "the generated bindings pass it on as theirs")]
pub struct OpenStream {
    pub(crate) name: StoreName,
    pub(crate) stream: Arc<dyn Stream>,
}

impl Network {
    /// A stream by the name that it is granted under.
    pub(crate) async fn nats_stream(&self, name: &str, inherited: &Inherited) -> Result<OpenStream, Failure> {
        let granted = self.grants.nats.stream(name);
        let Some((name, grant, cell)) =
            granted.and_then(|(name, grant)| Some((name.clone(), grant, self.nats.opened.get(&name)?)))
        else {
            let name = one_line(name, 64);
            self.denials.note(|| {
                format!(
                    "the stream {name:?} was denied; to allow it add to the spec: grants: {{nats: {{streams: {{{name}: \
                     {{stream: STREAM}}}}}}}}"
                )
            });
            return Err(Failure::not(Code::Denied, format!("no grant of this workload names a stream {name:?}")));
        };
        let turn = self.nats_turn(None, (0, false), inherited).await?;
        let open = cell.get_or_try_init(|| turn.link.stream(&grant.stream));
        let stream = turn.run(async { open.await.cloned() }).await.map_err(Failure::of_read)?;
        Ok(OpenStream { name, stream })
    }

    fn stream_grant(&self, name: &StoreName) -> Result<&StreamGrant, Failure> {
        let grant = self.grants.nats.streams.get(name);
        grant.ok_or_else(|| Failure::not(Code::Denied, format!("no grant of this workload names a stream {name}")))
    }

    /// Whether the guest may read all that a filter matches.
    pub(crate) fn judge_reading(&self, name: &StoreName, filter: &str) -> Result<(), Failure> {
        let pattern: SubjectPattern = filter.parse().map_err(|error| not_a_subject("filter", &error))?;
        if self.stream_grant(name)?.allow_read(&pattern) {
            return Ok(());
        }
        Err(self.deny_reading(name, filter))
    }

    /// Whether it may read anything of the stream. Which messages, [`Network::judge_read`] says.
    pub(crate) fn judge_any_reading(&self, name: &StoreName) -> Result<(), Failure> {
        if self.stream_grant(name)?.read.is_empty() { Err(self.deny_reading(name, ">")) } else { Ok(()) }
    }

    /// A message that was found by its sequence.
    pub(crate) fn judge_read(&self, name: &StoreName, stored: &Stored) -> Result<(), Failure> {
        let subject = &stored.message.subject;
        if self.stream_grant(name)?.allow_read_of(subject) { Ok(()) } else { Err(self.deny_reading(name, subject)) }
    }

    fn deny_reading(&self, name: &StoreName, filter: &str) -> Failure {
        let shown = one_line(filter, 128);
        self.denials.note(|| {
            format!(
                "reading {shown} in the stream {name} was denied; to allow it add the subject to the spec: \
                 grants.nats.streams.{name}.read"
            )
        });
        Failure::not(Code::Denied, format!("no grant to read the stream {name} covers it"))
    }

    /// A message as it may be stored, in the trace that it belongs to.
    pub(crate) fn judge_stored(
        &self,
        name: &StoreName,
        (message, options): (Message, &PublishOptions),
        inherited: &Inherited,
    ) -> Result<Message, Failure> {
        let grant = self.stream_grant(name)?;
        let subject: Subject = message.subject.parse().map_err(|error| not_a_subject("message.subject", &error))?;
        if !grant.allow_publish(&subject) {
            let subject = one_line(subject.as_str(), 128);
            self.denials.note(|| {
                format!(
                    "a message on {subject} for the stream {name} was denied; to allow it add the subject to the spec: \
                     grants.nats.streams.{name}.publish"
                )
            });
            return Err(Failure::not(Code::Denied, format!("no grant of the stream {name} covers {subject}")));
        }
        if message.reply.is_some() {
            return Err(invalid("message.reply-to", "a message that is stored has no reply-to"));
        }
        check_headers(&message.headers)?;
        if let Some(id) = &options.message_id {
            check_id("options.message-id", id)?;
        }
        match &options.precondition {
            Precondition::LastOnFilter(filter, _) => {
                let filter: SubjectPattern =
                    filter.parse().map_err(|error: SubjectError| not_a_subject("options.precondition", &error))?;
                if !filter.matches(&subject) {
                    let text = "the filter does not match the subject of the message";
                    return Err(invalid("options.precondition", text));
                }
                if !grant.allow_expectation(&filter) {
                    return Err(self.deny_reading(name, filter.as_str()));
                }
            }
            Precondition::None | Precondition::LastSequence(_) | Precondition::LastOnSubject(_) => {}
        }
        Ok(in_trace(message, inherited))
    }
}

fn invalid(argument: &str, text: &str) -> Failure {
    Failure::not(Code::Invalid(argument.to_owned()), text)
}

fn check_id(argument: &str, id: &str) -> Result<(), Failure> {
    let is_good = (1..=MESSAGE_ID_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
    if is_good { Ok(()) } else { Err(invalid(argument, "a message id is 1 to 256 printable characters of ASCII")) }
}

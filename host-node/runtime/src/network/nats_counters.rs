//! Counters in streams as the guests of one replica have them: what is granted of each stream says which they add to, and which they read.

use super::{
    Network,
    nats::in_trace,
    nats_streams::{OpenStream, check_id},
};
use crate::inherited::Inherited;
use lattice::{
    nats::{Failure, Integer, Message},
    spec::stream_profile::{Storing, StreamOperation},
};

/// The counters of a stream as a guest has them.
#[derive(Clone)]
#[expect(unreachable_pub, reason = "the generated bindings pass it on as theirs")]
pub struct OpenCounters(pub(crate) OpenStream);

/// Something that a guest may add, in the trace that it belongs to.
pub(crate) struct Adding {
    pub(crate) message: Message,
    pub(crate) by: Integer,
    pub(crate) message_id: Option<String>,
}

impl Network {
    /// The counters of a stream by the name that it is granted under.
    pub(crate) async fn nats_counters(&self, name: &str, inherited: &Inherited) -> Result<OpenCounters, Failure> {
        let open = self.nats_stream(name, inherited).await?;
        let turn = self.nats_turn(None, (0, false), inherited).await?;
        turn.run(open.stream.counts()).await.map_err(Failure::of_read)?;
        Ok(OpenCounters(open))
    }

    pub(crate) fn judge_adding(
        &self,
        OpenCounters(open): &OpenCounters,
        (subject, by, message_id): (String, &str, Option<String>),
        inherited: &Inherited,
    ) -> Result<Adding, Failure> {
        self.judge_operation(&open.name, StreamOperation::Add, Storing::default())?;
        self.judge_storing(&open.name, ("subject", &subject))?;
        let by = Integer::parse(by)?;
        if let Some(id) = &message_id {
            check_id("message-id", id)?;
        }
        let message = in_trace(Message { subject, ..Message::default() }, inherited);
        Ok(Adding { message, by, message_id })
    }
}

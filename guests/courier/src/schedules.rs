//! What is asked of `lattice:nats/schedules`.

use crate::{
    Answer, Asked,
    bindings::lattice::nats::{
        schedules::{self, Calendar, PutOptions, Schedules, Timing},
        types::{Failure, Message},
    },
    consistency,
};

pub(crate) async fn answer(asked: &Asked) -> Result<Answer, Failure> {
    let text = |text: String| Answer::Text(200, text.into_bytes());
    let open: Schedules = schedules::open(asked.text("stream")).await?;
    let subject = asked.text("subject");
    Ok(match asked.operation.as_str() {
        "schedule" => {
            let message = Message { subject: asked.text("target"), ..asked.message() };
            let options =
                PutOptions { ttl: asked.nanos("ttl"), message_id: asked.get("id"), expect: asked.number("last") };
            let stored = open.put(subject, timing(asked), message, options).await?;
            text(format!("{}{}", stored.sequence, if stored.duplicate { " duplicate" } else { "" }))
        }
        "cancel" => text(if open.cancel(subject).await? { "cancelled" } else { "nothing" }.to_owned()),
        _ => {
            let found = open.get(subject, consistency(asked)).await?;
            found.map_or(Answer::Text(404, Vec::new()), |found| {
                let payload = String::from_utf8_lossy(&found.message.payload);
                text(format!("{} {} {} {payload}", found.sequence, found.timing, found.message.subject))
            })
        }
    })
}

fn timing(asked: &Asked) -> Timing {
    match (asked.nanos("every"), asked.get("cron")) {
        (Some(pause), _) => Timing::Every(pause),
        (None, Some(cron)) => Timing::Cron(Calendar { cron, time_zone: asked.get("zone") }),
        (None, None) => Timing::At(asked.nanos("at").unwrap_or(0)),
    }
}

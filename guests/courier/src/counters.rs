//! What is asked of `lattice:nats/counters`.

use crate::{
    Answer, Asked,
    bindings::lattice::nats::{
        counters::{self, Count, Counters},
        types::Failure,
    },
    consistency,
};

pub(crate) async fn answer(asked: &Asked) -> Result<Answer, Failure> {
    let text = |text: String| Answer::Text(200, text.into_bytes());
    let open: Counters = counters::open(asked.text("stream")).await?;
    let from = consistency(asked);
    Ok(match asked.operation.as_str() {
        "add" => {
            let added = open.add(asked.text("subject"), asked.text("by"), asked.get("id")).await?;
            let total = added.total.unwrap_or_else(|| "unsaid".to_owned());
            text(format!("{total} {}{}", added.sequence, if added.duplicate { " duplicate" } else { "" }))
        }
        "count" | "count-any" => {
            let found = open.get(asked.text("subject"), from).await?;
            found.map_or(Answer::Text(404, Vec::new()), |found| text(line(&found)))
        }
        _ => {
            let found = open.get_many(asked.all("filter"), from).await?;
            let lines = found.counts.iter().map(|count| format!("{}\n", line(count)));
            text(format!("{}as of {}", lines.collect::<String>(), found.as_of))
        }
    })
}

fn line(count: &Count) -> String {
    format!("{} {} {}", count.subject, count.total, count.sequence)
}

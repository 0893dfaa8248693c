//! What is asked of `lattice:nats/services`.

use crate::{
    Answer, Asked, MILLI,
    bindings::lattice::nats::{
        services::{self, Instance, Reply},
        types::Failure,
    },
};

pub(crate) async fn answer(asked: &Asked) -> Result<Answer, Failure> {
    let (name, id) = (asked.text("name"), asked.get("id"));
    let wait = asked.nanos("ms").unwrap_or(500 * MILLI);
    let lines: String = match asked.operation.as_str() {
        "service-ping" => {
            let found = services::ping(name, id, wait).await?;
            found.iter().map(|instance| format!("{}\n", line(instance))).collect()
        }
        "service-info" => {
            let found = services::info(name, id, wait).await?;
            let told = |info: &services::ServiceInfo| {
                let endpoints = info.endpoints.iter();
                let endpoints = endpoints.map(|it| format!(" {}={}/{}", it.name, it.subject, it.queue_group));
                format!("{} {:?}{}\n", line(&info.instance), info.description, endpoints.collect::<String>())
            };
            found.iter().map(told).collect()
        }
        "service-stats" => {
            let found = services::stats(name, id, wait).await?;
            let told = |stats: &services::ServiceStats| {
                let endpoints = stats.endpoints.iter();
                let endpoints = endpoints.map(|it| format!(" {}={}/{}", it.endpoint.name, it.requests, it.errors));
                format!("{}{}\n", line(&stats.instance), endpoints.collect::<String>())
            };
            found.iter().map(told).collect::<String>()
        }
        _ => match services::request(asked.message(), asked.nanos("ms").unwrap_or(2_000 * MILLI)).await? {
            Reply::Answer(message) => String::from_utf8_lossy(&message.payload).into_owned(),
            Reply::Error(error) => format!("error {}: {}", error.code, error.text),
        },
    };
    Ok(Answer::Text(200, lines.into_bytes()))
}

fn line(instance: &Instance) -> String {
    format!("{} {} {}", instance.name, instance.version, instance.id)
}

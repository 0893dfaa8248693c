//! `lattice:nats/services`. Whom a guest may ask is in `network/nats_services.rs`.

use super::{Has, Outcome, Store, View, bindings::lattice::nats::services, called, outgoing, told, types};
use crate::{
    host::Host,
    operations::{Interface, Kind},
};
use lattice::{
    messaging::{SERVICE_ERROR, SERVICE_ERROR_CODE},
    micro::{Answer, AnsweredEndpoint, Verb},
    nats::{Failure, Message},
};
use std::time::Duration;

/// Which service, or which instance of it, and for how long its answers are waited for.
type Asked = (String, Option<String>, types::Duration);

async fn ask<T>(
    store: &Store<Host>,
    (verb, operation): (Verb, &'static str),
    (name, id, wait): Asked,
    read: fn(Answer) -> T,
) -> Outcome<Vec<T>> {
    let (network, inherited, operation) = called(store, (Interface::Services, Kind::Read, operation))?;
    let operation = operation.on(&name);
    let answers = network.nats_ask_service(verb, (&name, id.as_deref()), Duration::from_nanos(wait), &inherited).await;
    told(operation, answers.map(|answers| answers.into_iter().map(read).collect()))
}

fn instance(answer: &mut Answer) -> services::Instance {
    services::Instance {
        name: answer.name.clone(),
        id: answer.id.clone(),
        version: answer.version.clone(),
        metadata: answer.metadata().collect(),
    }
}

fn endpoint(endpoint: AnsweredEndpoint) -> services::Endpoint {
    let AnsweredEndpoint { name, subject, queue_group, .. } = endpoint;
    services::Endpoint { name, subject, queue_group }
}

fn info(mut answer: Answer) -> services::ServiceInfo {
    services::ServiceInfo {
        instance: instance(&mut answer),
        endpoints: answer.endpoints().map(endpoint).collect(),
        description: answer.description,
    }
}

fn stats(mut answer: Answer) -> services::ServiceStats {
    let of_endpoint = |it: AnsweredEndpoint| services::EndpointStats {
        requests: it.num_requests,
        errors: it.num_errors,
        last_error: it.last_error.clone(),
        processing_time: it.processing_time,
        endpoint: endpoint(it),
    };
    services::ServiceStats {
        instance: instance(&mut answer),
        endpoints: answer.endpoints().map(of_endpoint).collect(),
        started: answer.started,
    }
}

fn reply(message: Message) -> services::Reply {
    let line = |wanted: &str| {
        let found = message.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| value.clone())
    };
    let (code, text) = (line(SERVICE_ERROR_CODE), line(SERVICE_ERROR));
    if code.is_none() && text.is_none() {
        return services::Reply::Answer(message.into());
    }
    let code = code.and_then(|code| code.trim().parse().ok()).unwrap_or(0);
    services::Reply::Error(services::ServiceError { code, text: text.unwrap_or_default() })
}

impl services::Host for View<'_> {}

impl services::HostWithStore<Host> for Has {
    async fn ping(
        store: &Store<Host>,
        name: String,
        id: Option<String>,
        wait: types::Duration,
    ) -> Outcome<Vec<services::Instance>> {
        ask(store, (Verb::Ping, "ping"), (name, id, wait), |mut answer| instance(&mut answer)).await
    }

    async fn info(
        store: &Store<Host>,
        name: String,
        id: Option<String>,
        wait: types::Duration,
    ) -> Outcome<Vec<services::ServiceInfo>> {
        ask(store, (Verb::Info, "info"), (name, id, wait), info).await
    }

    async fn stats(
        store: &Store<Host>,
        name: String,
        id: Option<String>,
        wait: types::Duration,
    ) -> Outcome<Vec<services::ServiceStats>> {
        ask(store, (Verb::Stats, "stats"), (name, id, wait), stats).await
    }

    async fn request(
        store: &Store<Host>,
        message: types::Message,
        timeout: types::Duration,
    ) -> Outcome<services::Reply> {
        let (network, inherited, operation) = called(store, (Interface::Services, Kind::Request, "request"))?;
        let operation = outgoing(operation, &message);
        let answer: Result<Message, Failure> =
            network.nats_request(message.into(), Duration::from_nanos(timeout), &inherited).await;
        told(operation, answer.map(reply))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_with_a_code_is_an_error_of_the_service() {
        let message = |headers: &[(&str, &str)]| Message {
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            ..Message::default()
        };
        assert!(matches!(reply(message(&[("Shape", "round")])), services::Reply::Answer(_)));
        for (headers, code, text) in [
            (&[("Nats-Service-Error", "no"), ("Nats-Service-Error-Code", "404")][..], 404, "no"),
            (&[("nats-service-error-code", "500")], 500, ""),
            (&[("Nats-Service-Error", "no")], 0, "no"),
            (&[("Nats-Service-Error-Code", "none")], 0, ""),
        ] {
            let services::Reply::Error(error) = reply(message(headers)) else { panic!("{headers:?}") };
            assert_eq!((error.code, error.text.as_str()), (code, text));
        }
    }
}

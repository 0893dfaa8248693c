//! What instances of micro services answer, to be read: any program may have written it.

use super::Verb;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Endpoints and lines of metadata of one instance that are read.
const LISTED_MAX: usize = 256;

/// What an instance says. Of what it was not asked for there is nothing.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Answer {
    #[serde(rename = "type")]
    kind: String,
    pub name: String,
    pub id: String,
    #[serde(default)]
    pub version: String,
    #[serde(default)]
    metadata: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub description: String,
    #[serde(default)]
    pub started: String,
    #[serde(default)]
    endpoints: Option<Vec<AnsweredEndpoint>>,
}

/// What it says of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct AnsweredEndpoint {
    pub name: String,
    pub subject: String,
    #[serde(default)]
    pub queue_group: String,
    #[serde(default)]
    pub num_requests: u64,
    #[serde(default)]
    pub num_errors: u64,
    #[serde(default)]
    pub last_error: String,
    /// Nanoseconds.
    #[serde(default)]
    pub processing_time: u64,
}

impl Answer {
    /// `None` where it is no answer to that.
    pub fn parse(verb: Verb, text: &[u8]) -> Option<Self> {
        let answer: Self = serde_json::from_slice(text).ok()?;
        (answer.kind == verb.kind()).then_some(answer)
    }

    pub fn metadata(&mut self) -> impl Iterator<Item = (String, String)> + use<> {
        self.metadata.take().unwrap_or_default().into_iter().take(LISTED_MAX)
    }

    pub fn endpoints(&mut self) -> impl Iterator<Item = AnsweredEndpoint> + use<> {
        self.endpoints.take().unwrap_or_default().into_iter().take(LISTED_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_as_others_write_them() {
        // As the library for Go writes them: fields that this one does not know, and null for what is empty.
        let ping = br#"{"name":"a","id":"x","version":"1.0.0","metadata":null,"type":"io.nats.micro.v1.ping_response","more":1}"#;
        let mut answer = Answer::parse(Verb::Ping, ping).unwrap();
        assert_eq!((answer.metadata().count(), answer.endpoints().count()), (0, 0));
        assert_eq!((answer.name.as_str(), answer.version.as_str()), ("a", "1.0.0"));
        assert_eq!(Answer::parse(Verb::Info, ping), None, "it was asked for something else");
        let stats = br#"{"type":"io.nats.micro.v1.stats_response","name":"a","id":"x","started":"2026-11-23T09:30:00Z",
            "metadata":{"team":"shop"},"endpoints":[{"name":"e","subject":"a.*","queue_group":"q","num_requests":3,"num_errors":1,
            "last_error":"500:no","processing_time":7,"average_processing_time":2,"data":{}}]}"#;
        let mut answer = Answer::parse(Verb::Stats, stats).unwrap();
        assert_eq!(answer.metadata().collect::<Vec<_>>(), [("team".to_owned(), "shop".to_owned())]);
        let endpoint = answer.endpoints().next().unwrap();
        assert_eq!((endpoint.num_requests, endpoint.num_errors, endpoint.processing_time), (3, 1, 7));
        for bad in ["", "{}", "[]", r#"{"type":"io.nats.micro.v1.stats_response","name":1,"id":"x"}"#] {
            assert_eq!(Answer::parse(Verb::Stats, bad.as_bytes()), None, "{bad}");
        }
        let many = format!(
            r#"{{"type":"io.nats.micro.v1.info_response","name":"a","id":"x","endpoints":[{}]}}"#,
            vec![r#"{"name":"e","subject":"a"}"#; 1_000].join(",")
        );
        assert_eq!(Answer::parse(Verb::Info, many.as_bytes()).unwrap().endpoints().count(), LISTED_MAX);
    }
}

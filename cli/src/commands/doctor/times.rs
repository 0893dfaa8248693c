//! Whether clocks agree. No decision in the lattice hangs on them, but people compare times of logs and events. The
//! server stamps each event when it arrives; the event carries its node's time.

use super::{Check, jetstream};
use crate::client::Client;
use lattice::{event::CloudEvent, subject};
use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

const EVENTS_LOOKED_AT: u64 = 30;
const SKEW_MAX: Duration = Duration::from_secs(1);

pub(super) async fn check(client: &Client) -> Check {
    let what = "clocks";
    match skews(client).await {
        Err(error) => Check::doubtful(what, format!("can't be compared: {error:#}"), "look at the events stream"),
        Ok(skews) => judge(what, &skews),
    }
}

/// Seconds by which each clock is ahead of the server's, by name.
type Skews = BTreeMap<String, f64>;

async fn skews(client: &Client) -> anyhow::Result<Skews> {
    let stream = subject::events_stream(&client.lattice);
    let info = jetstream(client, format!("$JS.API.STREAM.INFO.{stream}"), "").await?;
    let mut skews = Skews::new();
    if let Some(server) = info.get("ts").and_then(|ts| ts.as_str()) {
        skews.insert("this machine".into(), ahead(SystemTime::now(), server)?);
    }
    let number = |path: &str| info.pointer(path).and_then(serde_json::Value::as_u64).unwrap_or_default();
    let (first, last) = (number("/state/first_seq").max(1), number("/state/last_seq"));
    for sequence in (first.max((last + 1).saturating_sub(EVENTS_LOOKED_AT))..=last).rev() {
        let body = format!("{{\"seq\":{sequence}}}");
        let Ok(message) = jetstream(client, format!("$JS.API.STREAM.MSG.GET.{stream}"), &body).await else { continue };
        let text = |path: &str| message.pointer(path).and_then(|value| value.as_str());
        let (Some(stamp), Some(data)) = (text("/message/time"), text("/message/data")) else { continue };
        let Some(event) = decode_base64(data).and_then(|bytes| serde_json::from_slice::<CloudEvent>(&bytes).ok())
        else {
            continue;
        };
        let Ok(sent) = humantime::parse_rfc3339(&event.time) else { continue };
        let node = event.source.rsplit('/').next().unwrap_or_default().to_owned();
        // Newest first: the first one of each node counts.
        if let Ok(skew) = ahead(sent, stamp) {
            skews.entry(node).or_insert(skew);
        }
    }
    Ok(skews)
}

fn ahead(time: SystemTime, of: &str) -> anyhow::Result<f64> {
    let of = humantime::parse_rfc3339(of)?;
    Ok(match time.duration_since(of) {
        Ok(ahead) => ahead.as_secs_f64(),
        Err(behind) => -behind.duration().as_secs_f64(),
    })
}

fn judge(what: &'static str, skews: &Skews) -> Check {
    let shown: Vec<String> = skews.iter().map(|(who, skew)| format!("{who} {skew:+.2} s")).collect();
    if shown.is_empty() {
        return Check::good(what, "nothing to compare yet");
    }
    let seen = format!("against the server's: {}", shown.join(", "));
    if skews.values().any(|skew| skew.abs() > SKEW_MAX.as_secs_f64()) {
        Check::doubtful(what, seen, "only times in logs and events suffer: run chrony or systemd-timesyncd")
    } else {
        Check::good(what, seen)
    }
}

/// RFC 4648 §4, as the server writes it.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        bits = bits << 6 | u32::from(value(byte)?);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::{super::Grade, *};

    #[test]
    fn base64_is_read() {
        for (text, bytes) in [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYmE=", "fooba")] {
            assert_eq!(decode_base64(text).unwrap(), bytes.as_bytes());
        }
        assert_eq!(decode_base64("Zm9v!"), None);
    }

    #[test]
    fn a_second_is_too_much() {
        let skew = ahead(SystemTime::UNIX_EPOCH + Duration::from_secs(2), "1970-01-01T00:00:04Z").unwrap();
        assert_eq!(skew, -2.0);
        assert_eq!(judge("clocks", &[("n1".to_owned(), skew)].into()).grade, Grade::Doubtful);
        assert_eq!(judge("clocks", &[("n1".to_owned(), 0.1)].into()).grade, Grade::Good);
        assert_eq!(judge("clocks", &Skews::new()).grade, Grade::Good);
    }
}

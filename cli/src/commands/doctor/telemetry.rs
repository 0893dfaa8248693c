//! Whether somebody listens where the environment of this process sends telemetry: that of a node that is started from here.

use super::Check;
use lattice_telemetry::{Settings, SettingsError};
use std::{collections::BTreeMap, time::Duration};
use tokio::{net::TcpStream, time::timeout};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const WHAT: &str = "telemetry";

/// Nothing where nothing is to be sent. It connects, and sends nothing: a collector would keep it.
pub(super) async fn check(settings: Result<Option<Settings>, SettingsError>) -> Option<Check> {
    let settings = match settings {
        Ok(settings) => settings?,
        Err(error) => {
            return Some(Check::bad(WHAT, error.to_string(), "correct this variable; no node starts with it"));
        }
    };
    let mut by_address = BTreeMap::<String, Vec<&str>>::new();
    for (signal, url) in settings.endpoints() {
        let port = url.port_u16().unwrap_or(if url.scheme_str() == Some("https") { 443 } else { 80 });
        let address = format!("{}:{port}", url.host().unwrap_or_default());
        by_address.entry(address).or_default().push(signal);
    }
    let mut seen = Vec::new();
    for (address, signals) in by_address {
        let signals = signals.join(", ");
        let why = match timeout(CONNECT_TIMEOUT, TcpStream::connect(&address)).await {
            Ok(Ok(_)) => {
                seen.push(format!("{signals} to {address}"));
                continue;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()),
        };
        let remedy = "is the collector there, with OTLP over HTTP, usually on port 4318? Nodes run without it, and drop what they would send";
        return Some(Check::doubtful(WHAT, format!("{signals} to {address}: {why}"), remedy));
    }
    Some(Check::good(WHAT, format!("{}: somebody listens", seen.join("; "))))
}

#[cfg(test)]
mod tests {
    use super::{super::Grade, *};

    fn settings(endpoint: &str) -> Result<Option<Settings>, SettingsError> {
        Settings::read(&|name| (name == "OTEL_EXPORTER_OTLP_ENDPOINT").then(|| endpoint.to_owned()))
    }

    #[tokio::test]
    async fn it_is_seen_whether_somebody_listens() {
        let collector = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = collector.local_addr().unwrap();
        let check_of = async |endpoint: &str| check(settings(endpoint)).await;
        let good = check_of(&format!("http://{address}")).await.unwrap();
        assert_eq!(
            (good.grade, good.seen),
            (Grade::Good, format!("traces, metrics, logs to {address}: somebody listens"))
        );
        drop(collector);
        let nobody = check_of(&format!("http://{address}")).await.unwrap();
        assert_eq!(nobody.grade, Grade::Doubtful, "{}", nobody.seen);
        let wrong = check_of("collector:4318").await.unwrap();
        assert!(wrong.grade == Grade::Bad && wrong.seen.contains("OTEL_EXPORTER_OTLP_ENDPOINT"), "{}", wrong.seen);
        assert!(check_of("").await.is_none());
    }
}

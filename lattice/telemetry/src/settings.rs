//! What the `OTEL_*` environment asks for. Reads all of it before anything starts: what is wrong, or not done here, is an
//! error that names the variable, never silently something else.

use http::{HeaderName, HeaderValue, Uri};
use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

/// Where signals go by default, once one is asked for by name.
const ENDPOINT_DEFAULT: &str = "http://localhost:4318";
/// Most items that may wait in one queue, whatever is asked for.
const QUEUE_MAX: u64 = 1 << 20;

/// What a node exports. Variables are those of the OpenTelemetry specification.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub(crate) traces: Option<Traces>,
    pub(crate) metrics: Option<Metrics>,
    pub(crate) logs: Option<Logs>,
}

/// A variable that can't be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable}={value:?}: {what}")]
pub struct SettingsError {
    pub variable: String,
    pub value: String,
    /// What is wrong, and what can be written instead.
    pub what: String,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Traces {
    pub(crate) exporter: Exporter,
    pub(crate) sampler: Sampler,
    pub(crate) batches: Batches,
    /// Attributes of one span, and bytes of one text in it.
    pub(crate) attributes_max: usize,
    pub(crate) text_bytes_max: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Metrics {
    pub(crate) exporter: Exporter,
    pub(crate) interval: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Logs {
    pub(crate) exporter: Exporter,
    pub(crate) batches: Batches,
}

/// How one signal is sent.
#[derive(Clone, PartialEq)]
pub(crate) struct Exporter {
    /// `traces`, `metrics` or `logs`.
    pub(crate) signal: &'static str,
    pub(crate) endpoint: Uri,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) timeout: Duration,
    pub(crate) gzip: bool,
    /// PEM files: authorities in place of the system's, and who this node is.
    pub(crate) authorities: Option<PathBuf>,
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

/// Headers are secrets as a rule.
impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Exporter({} to {})", self.signal, self.endpoint)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Batches {
    /// Items that may wait; more are dropped and counted.
    pub(crate) queue: usize,
    pub(crate) batch: usize,
    pub(crate) delay: Duration,
}

/// Which traces are recorded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sampler {
    /// What came before decides, where something did.
    parent_based: bool,
    root: Ratio,
}

/// Of the traces that begin here. Compared with the lower half of their ids, as the SDKs of OpenTelemetry do.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Ratio {
    All,
    Below(u64),
}

impl Sampler {
    pub(crate) fn records(&self, trace: u128, parent: Option<bool>) -> bool {
        match (parent, self.root) {
            (Some(parent), _) if self.parent_based => parent,
            (_, Ratio::All) => true,
            (_, Ratio::Below(bound)) => (trace as u64) >> 1 < bound,
        }
    }
}

impl Ratio {
    fn new(ratio: f64) -> Self {
        if ratio >= 1.0 { Ratio::All } else { Ratio::Below((ratio.max(0.0) * (1u64 << 63) as f64) as u64) }
    }
}

/// The environment, as far as it is asked for. What is empty is not set.
struct Env<'a>(&'a dyn Fn(&str) -> Option<String>);

type Outcome<T> = Result<T, SettingsError>;

impl Settings {
    /// What the environment of this process asks for; none where it asks for nothing.
    pub fn of_process() -> Outcome<Option<Self>> {
        Self::read(&|name| std::env::var(name).ok())
    }

    /// The same, of another environment.
    pub fn read(variables: &dyn Fn(&str) -> Option<String>) -> Outcome<Option<Self>> {
        let env = Env(variables);
        if env.is_true("OTEL_SDK_DISABLED")? {
            return Ok(None);
        }
        let (traces, metrics, logs) = (env.exporter("traces")?, env.exporter("metrics")?, env.exporter("logs")?);
        if traces.is_none() && metrics.is_none() && logs.is_none() {
            return Ok(None);
        }
        env.refuse_what_is_not_done_here()?;
        let traces = traces.map(|exporter| env.traces(exporter)).transpose()?;
        let metrics = metrics.map(|exporter| env.metrics(exporter)).transpose()?;
        let logs = logs.map(|exporter| env.logs(exporter)).transpose()?;
        Ok(Some(Self { traces, metrics, logs }))
    }
}

impl Settings {
    /// Where each signal that is exported goes.
    pub fn endpoints(&self) -> impl Iterator<Item = (&'static str, &Uri)> {
        let traces = self.traces.as_ref().map(|traces| &traces.exporter);
        let metrics = self.metrics.as_ref().map(|metrics| &metrics.exporter);
        let logs = self.logs.as_ref().map(|logs| &logs.exporter);
        [traces, metrics, logs].into_iter().flatten().map(|exporter| (exporter.signal, &exporter.endpoint))
    }
}

impl Env<'_> {
    fn get(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|value| !value.trim().is_empty())
    }

    /// That of the signal, else that of all.
    fn of_signal(&self, signal: &str, name: &str) -> Option<(String, String)> {
        let own = format!("OTEL_EXPORTER_OTLP_{}_{name}", signal.to_ascii_uppercase());
        let all = format!("OTEL_EXPORTER_OTLP_{name}");
        [own, all].into_iter().find_map(|variable| self.get(&variable).map(|value| (variable, value)))
    }

    fn is_true(&self, name: &str) -> Outcome<bool> {
        match self.get(name).as_deref() {
            None => Ok(false),
            Some(value) if value.eq_ignore_ascii_case("true") => Ok(true),
            Some(value) if value.eq_ignore_ascii_case("false") => Ok(false),
            Some(value) => wrong(name, value, "write true or false"),
        }
    }

    fn number(&self, name: &str, default: u64, least: u64, most: u64) -> Outcome<u64> {
        let Some(value) = self.get(name) else { return Ok(default) };
        match value.trim().parse() {
            Ok(number) if (least..=most).contains(&number) => Ok(number),
            _ => wrong(name, &value, format!("write a number from {least} to {most}")),
        }
    }

    fn millis(&self, name: &str, default: u64) -> Outcome<Duration> {
        Ok(Duration::from_millis(self.number(name, default, 1, 24 * 3600 * 1000)?))
    }

    /// How a signal is sent; none where nobody asks for it.
    fn exporter(&self, signal: &'static str) -> Outcome<Option<Exporter>> {
        let which = format!("OTEL_{}_EXPORTER", signal.to_ascii_uppercase());
        let asked = match self.get(&which).as_deref() {
            Some("none") => return Ok(None),
            Some("otlp") => true,
            Some(other) => return wrong(&which, other, "a node exports by otlp; write otlp or none"),
            None => false,
        };
        let Some((variable, endpoint)) = self.endpoint(signal, asked) else { return Ok(None) };
        let written = self.get(&variable).unwrap_or_else(|| endpoint.clone());
        let url = || match Uri::from_str(&endpoint) {
            _ if !written.contains("://") => {
                Err(format!("it does not begin with http:// or https://; write http://{}", written.trim()))
            }
            Ok(url) if url.authority().is_none_or(|authority| authority.host().is_empty()) => {
                Err("there is no host in it; write http://HOST:PORT".to_owned())
            }
            Ok(url) if matches!(url.scheme_str(), Some("http" | "https")) => Ok(url),
            Ok(_) => Err("write http://HOST:PORT or https://HOST:PORT".to_owned()),
            Err(error) => Err(format!("{error}; write http://HOST:PORT or https://HOST:PORT")),
        };
        let url = url().or_else(|what| wrong(&variable, &written, what))?;
        if let Some((variable, protocol)) = self.of_signal(signal, "PROTOCOL")
            && protocol != "http/protobuf"
        {
            return wrong(&variable, &protocol, "a node speaks http/protobuf, usually on port 4318; write that");
        }
        let gzip = match self.of_signal(signal, "COMPRESSION") {
            None => false,
            Some((_, value)) if value == "none" => false,
            Some((_, value)) if value == "gzip" => true,
            Some((variable, value)) => return wrong(&variable, &value, "write gzip or none"),
        };
        let headers = match self.of_signal(signal, "HEADERS") {
            None => Vec::new(),
            // A secret: the error does not repeat it.
            Some((variable, value)) => parse_headers(&value).or_else(|what| wrong(&variable, "…", what))?,
        };
        let timeout = match self.of_signal(signal, "TIMEOUT") {
            None => Duration::from_secs(10),
            Some((variable, _)) => self.millis(&variable, 10_000)?,
        };
        let file = |name| self.of_signal(signal, name).map(|(_, value)| PathBuf::from(value));
        let identity = match (file("CLIENT_CERTIFICATE"), file("CLIENT_KEY")) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) => return wrong("OTEL_EXPORTER_OTLP_CLIENT_KEY", "", "the certificate needs its key"),
            (None, Some(_)) => {
                return wrong("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "", "the key needs its certificate");
            }
        };
        let authorities = file("CERTIFICATE");
        Ok(Some(Exporter { signal, endpoint: url, headers, timeout, gzip, authorities, identity }))
    }

    /// The variable that names it, and the whole URL.
    fn endpoint(&self, signal: &str, asked: bool) -> Option<(String, String)> {
        let own = format!("OTEL_EXPORTER_OTLP_{}_ENDPOINT", signal.to_ascii_uppercase());
        if let Some(endpoint) = self.get(&own) {
            return Some((own, endpoint.trim().to_owned()));
        }
        let all = "OTEL_EXPORTER_OTLP_ENDPOINT".to_owned();
        let base = self.get(&all).or_else(|| asked.then(|| ENDPOINT_DEFAULT.to_owned()))?;
        Some((all, format!("{}/v1/{signal}", base.trim().trim_end_matches('/'))))
    }

    fn batches(&self, prefix: &str, delay: u64) -> Outcome<Batches> {
        let queue = self.number(&format!("{prefix}_MAX_QUEUE_SIZE"), 2048, 1, QUEUE_MAX)?;
        let name = format!("{prefix}_MAX_EXPORT_BATCH_SIZE");
        let batch = self.number(&name, queue.min(512), 1, queue)?;
        let delay = self.millis(&format!("{prefix}_SCHEDULE_DELAY"), delay)?;
        Ok(Batches { queue: queue as usize, batch: batch as usize, delay })
    }

    fn traces(&self, mut exporter: Exporter) -> Outcome<Traces> {
        exporter.timeout = exporter.timeout.min(self.millis("OTEL_BSP_EXPORT_TIMEOUT", 30_000)?);
        let count = self.number("OTEL_ATTRIBUTE_COUNT_LIMIT", 128, 1, 1024)?;
        let length = self.number("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", u64::MAX, 1, u64::MAX)?;
        let attributes_max = self.number("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", count, 1, 1024)? as usize;
        let text_bytes_max = self.number("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", length, 1, u64::MAX)?;
        Ok(Traces {
            exporter,
            sampler: self.sampler()?,
            batches: self.batches("OTEL_BSP", 5_000)?,
            attributes_max,
            text_bytes_max: usize::try_from(text_bytes_max).unwrap_or(usize::MAX),
        })
    }

    fn metrics(&self, mut exporter: Exporter) -> Outcome<Metrics> {
        exporter.timeout = exporter.timeout.min(self.millis("OTEL_METRIC_EXPORT_TIMEOUT", 30_000)?);
        Ok(Metrics { exporter, interval: self.millis("OTEL_METRIC_EXPORT_INTERVAL", 60_000)? })
    }

    fn logs(&self, mut exporter: Exporter) -> Outcome<Logs> {
        exporter.timeout = exporter.timeout.min(self.millis("OTEL_BLRP_EXPORT_TIMEOUT", 30_000)?);
        Ok(Logs { exporter, batches: self.batches("OTEL_BLRP", 1_000)? })
    }

    fn sampler(&self) -> Outcome<Sampler> {
        let name = "OTEL_TRACES_SAMPLER";
        let chosen = self.get(name).unwrap_or_else(|| "parentbased_always_on".to_owned());
        let (parent_based, root) = match chosen.strip_prefix("parentbased_") {
            Some(root) => (true, root),
            None => (false, chosen.as_str()),
        };
        let root = match root {
            "always_on" => Ratio::All,
            "always_off" => Ratio::new(0.0),
            "traceidratio" => Ratio::new(self.ratio()?),
            _ => {
                let what = "write always_on, always_off or traceidratio, or one of them behind parentbased_";
                return wrong(name, &chosen, what);
            }
        };
        Ok(Sampler { parent_based, root })
    }

    fn ratio(&self) -> Outcome<f64> {
        let name = "OTEL_TRACES_SAMPLER_ARG";
        let Some(value) = self.get(name) else { return Ok(1.0) };
        match value.trim().parse() {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
            _ => wrong(name, &value, "write a share of traces from 0 to 1"),
        }
    }

    fn refuse_what_is_not_done_here(&self) -> Outcome<()> {
        /// A variable, the values that mean what is done here, and what is done.
        const FIXED: [(&str, &[&str], &str); 5] = [
            (
                "OTEL_PROPAGATORS",
                &["tracecontext", "tracecontext,baggage", "baggage,tracecontext"],
                "a node speaks W3C Trace Context and passes baggage on untouched; write tracecontext,baggage",
            ),
            (
                "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
                &["cumulative"],
                "sums count from the start of the node; write cumulative",
            ),
            (
                "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
                &["explicit_bucket_histogram"],
                "histograms have fixed buckets; write explicit_bucket_histogram",
            ),
            ("OTEL_CONFIG_FILE", &[], "a node has no file of OpenTelemetry settings; use the other variables"),
            ("OTEL_EXPERIMENTAL_CONFIG_FILE", &[], "a node has no file of OpenTelemetry settings"),
        ];
        for (name, allowed, what) in FIXED {
            if let Some(value) = self.get(name)
                && !allowed.contains(&value.replace(' ', "").to_ascii_lowercase().as_str())
            {
                return wrong(name, &value, what);
            }
        }
        Ok(())
    }
}

fn wrong<T>(variable: &str, value: &str, what: impl Into<String>) -> Outcome<T> {
    Err(SettingsError { variable: variable.to_owned(), value: value.to_owned(), what: what.into() })
}

/// `name=value,name=value`, values percent-encoded.
fn parse_headers(text: &str) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let mut headers = Vec::new();
    for (number, pair) in (1..).zip(text.split(',')).filter(|(_, pair)| !pair.trim().is_empty()) {
        let bad = || format!("header {number} is not NAME=VALUE");
        let (name, value) = pair.split_once('=').ok_or_else(bad)?;
        let name = HeaderName::from_str(name.trim()).map_err(|_| bad())?;
        let mut value = HeaderValue::from_bytes(&percent_decode(value.trim())).map_err(|_| bad())?;
        value.set_sensitive(true);
        headers.push((name, value));
    }
    Ok(headers)
}

fn percent_decode(text: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let escaped = (*first == b'%').then(|| behind.get(..2)).flatten();
        let byte = escaped.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        decoded.push(byte.unwrap_or(*first));
        rest = behind.get(if byte.is_some() { 2 } else { 0 }..).unwrap_or_default();
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Outcome<Option<Settings>> {
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string());
        Settings::read(&find)
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector.test:4318/");

    #[test]
    fn nothing_is_exported_unless_it_is_asked_for() {
        for variables in [
            &[][..],
            &[("OTEL_TRACES_SAMPLER", "nonsense")],
            &[ENDPOINT, ("OTEL_SDK_DISABLED", "TRUE")],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")],
            &[
                ENDPOINT,
                ("OTEL_TRACES_EXPORTER", "none"),
                ("OTEL_METRICS_EXPORTER", "none"),
                ("OTEL_LOGS_EXPORTER", "none"),
            ],
        ] {
            assert_eq!(read(variables), Ok(None), "{variables:?}");
        }
        let only = read(&[("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "https://x.test/a/logs")]).unwrap().unwrap();
        assert!(only.traces.is_none() && only.metrics.is_none());
        assert_eq!(only.logs.unwrap().exporter.endpoint, "https://x.test/a/logs");
        let by_name = read(&[("OTEL_TRACES_EXPORTER", "otlp")]).unwrap().unwrap().traces.unwrap();
        assert_eq!(by_name.exporter.endpoint, "http://localhost:4318/v1/traces");
    }

    #[test]
    fn what_is_asked_for_is_done() {
        let settings = read(&[
            ENDPOINT,
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20x%3D,x-tenant = a "),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "7000"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "3000"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_LOGS_COMPRESSION", "none"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "100"),
            ("OTEL_BSP_SCHEDULE_DELAY", "50"),
            ("OTEL_BLRP_EXPORT_TIMEOUT", "2000"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "1000"),
            ("OTEL_PROPAGATORS", "tracecontext, baggage"),
        ]);
        let Settings { traces, metrics, logs } = settings.unwrap().unwrap();
        let (traces, metrics, logs) = (traces.unwrap(), metrics.unwrap(), logs.unwrap());
        let headers = &traces.exporter.headers;
        assert_eq!((headers[0].0.as_str(), headers[0].1.as_bytes()), ("authorization", &b"Bearer x="[..]));
        assert_eq!((headers[1].0.as_str(), headers[1].1.as_bytes()), ("x-tenant", &b"a"[..]));
        assert!(traces.exporter.gzip && metrics.exporter.gzip && !logs.exporter.gzip);
        let seconds = |exporter: &Exporter| exporter.timeout.as_secs();
        assert_eq!([&traces.exporter, &metrics.exporter, &logs.exporter].map(seconds), [3, 7, 2]);
        assert_eq!(traces.batches, Batches { queue: 100, batch: 100, delay: Duration::from_millis(50) });
        assert_eq!((logs.batches.queue, metrics.interval), (2048, Duration::from_secs(1)));
        assert_eq!(metrics.exporter.endpoint, "http://collector.test:4318/v1/metrics");
    }

    #[test]
    fn what_is_not_done_is_said_by_name() {
        for (name, value) in [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://collector"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_METRICS_EXPORTER", "prometheus"),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
            ("OTEL_PROPAGATORS", "b3"),
            ("OTEL_SDK_DISABLED", "yes"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4096"),
            ("OTEL_BLRP_SCHEDULE_DELAY", "0"),
            ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta"),
            ("OTEL_CONFIG_FILE", "otel.yaml"),
            ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "-1"),
        ] {
            let variables: Vec<_> = [(name, value), ENDPOINT].into();
            let error = read(&variables).unwrap_err();
            assert_eq!((error.variable.as_str(), error.value.as_str()), (name, value), "{error}");
        }
        for (written, told) in [
            ("collector:4318", "write http://collector:4318"),
            ("collector", "write http://collector"),
            ("http://", "write http://HOST:PORT"),
            ("ftp://collector", "write http://HOST:PORT"),
        ] {
            let error = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", written)]).unwrap_err();
            assert!(error.what.contains(told), "{written}: {error}");
        }
        let both = read(&[
            ENDPOINT,
            ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "https://x.test/a"),
            ("OTEL_METRICS_EXPORTER", "none"),
        ]);
        let both = both.unwrap().unwrap();
        let endpoints: Vec<(&str, String)> = both.endpoints().map(|(signal, url)| (signal, url.to_string())).collect();
        assert_eq!(
            endpoints,
            [("traces", "http://collector.test:4318/v1/traces".into()), ("logs", "https://x.test/a".into())]
        );
        let secret = read(&[ENDPOINT, ("OTEL_EXPORTER_OTLP_HEADERS", "hunter2")]).unwrap_err();
        assert!(!secret.to_string().contains("hunter2"), "{secret}");
        let ratio = [ENDPOINT, ("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "2")];
        assert_eq!(read(&ratio).unwrap_err().variable, "OTEL_TRACES_SAMPLER_ARG");
        let key = read(&[ENDPOINT, ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "c.pem")]).unwrap_err();
        assert_eq!(key.variable, "OTEL_EXPORTER_OTLP_CLIENT_KEY");
    }

    #[test]
    fn samplers_are_those_of_the_specification() {
        let sampler = |name: &str, ratio: &str| {
            let variables = [ENDPOINT, ("OTEL_TRACES_SAMPLER", name), ("OTEL_TRACES_SAMPLER_ARG", ratio)];
            read(&variables).unwrap().unwrap().traces.unwrap().sampler
        };
        let (low, high) = (1 << 64, u128::from(u64::MAX));
        // Without a parent: ids of a low and a high lower half; then with one that is not recorded, and one that is.
        for (name, ratio, expect) in [
            ("", "", [true, true, false, true]),
            ("always_on", "", [true, true, true, true]),
            ("always_off", "", [false, false, false, false]),
            ("traceidratio", "0.5", [true, false, true, true]),
            ("traceidratio", "0", [false, false, false, false]),
            ("traceidratio", "", [true, true, true, true]),
            ("parentbased_always_on", "", [true, true, false, true]),
            ("parentbased_always_off", "", [false, false, false, true]),
            ("parentbased_traceidratio", "0.5", [true, false, false, true]),
        ] {
            let sampler = sampler(name, ratio);
            let asked = [(low, None), (high, None), (low, Some(false)), (low, Some(true))];
            assert_eq!(asked.map(|(trace, parent)| sampler.records(trace, parent)), expect, "{name} {ratio}");
        }
    }
}

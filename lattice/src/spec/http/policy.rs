//! What is done to the requests of a route: rewrite, redirect, retry, CORS, split. Each is carried out by the node that
//! takes the request, so that it is the same wherever the component runs.

use super::{ExactPath, HeaderKey, HostPattern, MethodName, PathPrefix, Route};
use crate::{id::WorkloadName, spec::SpecError, units::Millis};
use ::http::Method;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Entries of one list of `cors`.
const CORS_ENTRIES_MAX: usize = 64;
/// Longest time that a browser may remember a preflight: they keep none for longer.
const CORS_MAX_AGE: Millis = Millis::from_secs(24 * 3600);
/// Workloads beside the one that holds the route.
const SHARES_MAX: usize = 8;
/// Most attempts of which components may have seen something.
const ATTEMPTS_MAX: u32 = 3;
/// What says that another attempt may do better, and is no answer to the request itself.
pub const ALLOWED_STATUSES: [u16; 4] = [500, 502, 503, 504];
const REDIRECT_STATUSES: [u16; 5] = [301, 302, 303, 307, 308];

/// Replaces the path that matched. The query stays. The component is told what it replaced in `x-forwarded-prefix`, and the
/// path that the client sent in `x-forwarded-uri`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RewriteSpec {
    /// Takes the place of the route's path: with `path: /api` and `rewrite: {prefix: /v2}` the component sees `/v2/x` for
    /// `/api/x`, with `{prefix: /}` it sees `/x`.
    pub prefix: PathPrefix,
}

/// What a redirect leads to. What is left out stays as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RedirectSpec {
    /// 301, 302, 303, 307 or 308. Default 302. Clients repeat the method with 307 and 308 only.
    #[serde(default = "found", skip_serializing_if = "is_found")]
    pub status: u16,
    /// `https` or `http`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<RedirectScheme>,
    /// Host, without a port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostPattern>,
    /// Default: the one that was asked for, unless `scheme` or `host` is set: then that of the scheme.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    /// The whole path. Not together with `prefix`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<ExactPath>,
    /// Takes the place of the route's path, as in `rewrite`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<PathPrefix>,
}

fn found() -> u16 {
    302
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_found(status: &u16) -> bool {
    *status == found()
}

/// A scheme that clients are sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RedirectScheme {
    Http,
    Https,
}

impl RedirectScheme {
    pub fn as_str(self) -> &'static str {
        match self {
            RedirectScheme::Http => "http",
            RedirectScheme::Https => "https",
        }
    }
}

/// When a request that a component may have seen is sent again. Only one whose method is idempotent (`GET`, `HEAD`,
/// `OPTIONS`, `PUT`, `DELETE`) and whose body can be sent again ever is; one that no component has seen goes elsewhere in any
/// case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RetrySpec {
    /// Times that components may see the request, the first included. 1 to 3; 1 is never again. Default 3.
    #[serde(default = "attempts", skip_serializing_if = "is_attempts")]
    #[schemars(range(min = 1, max = 3))]
    pub attempts: u32,
    /// Statuses of a component's response that are not passed on while there is an attempt left: of 500, 502, 503 and 504.
    /// Only where the route takes a method that is idempotent. Default: none, so that every response is passed on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub on: Vec<u16>,
}

impl Default for RetrySpec {
    fn default() -> Self {
        Self { attempts: attempts(), on: Vec::new() }
    }
}

/// Whether a request may be sent again that a component may have seen (RFC 9110 §9.2.2). `TRACE` is not served.
pub fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE)
}

fn attempts() -> u32 {
    ATTEMPTS_MAX
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_attempts(count: &u32) -> bool {
    *count == attempts()
}

/// Which scripts of other origins may call a route (<https://fetch.spec.whatwg.org/#http-cors-protocol>). It protects
/// users of browsers from other pages; it does not keep anybody else from sending requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CorsSpec {
    /// `https://app.example.org`, `https://*.example.org` (one or more labels in front), or `*`, which is all.
    #[schemars(length(min = 1, max = 64))]
    pub origins: Vec<CorsOrigin>,
    /// Methods that they may use. Default `GET`, `HEAD` and `POST`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub methods: Vec<MethodName>,
    /// Headers that they may set beside those that need no leave, or `*`, which is all. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub headers: Vec<CorsHeader>,
    /// Headers of a response that they may read beside those that need no leave, or `*`, which is all; with `credentials`
    /// they are named. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub expose: Vec<CorsHeader>,
    /// They may send cookies and other credentials. Not together with the origin `*`. Default `false`.
    #[serde(default, skip_serializing_if = "super::super::is_default")]
    pub credentials: bool,
    /// How long a browser may remember what a preflight was answered. Up to `24h`; browsers' own default is 5 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Millis>,
}

/// Whose scripts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CorsOrigin {
    Any,
    /// `https://`, and the labels and the port behind `*.`.
    Under {
        scheme: String,
        rest: String,
    },
    /// As browsers write it: lower case, no default port, no path.
    Exact(String),
}

impl CorsOrigin {
    /// Whether an `Origin` header's value is one of them.
    pub fn holds(&self, origin: &str) -> bool {
        match self {
            CorsOrigin::Any => true,
            CorsOrigin::Exact(text) => text == origin,
            CorsOrigin::Under { scheme, rest } => {
                let labels = origin.strip_prefix(scheme.as_str()).and_then(|host| host.strip_suffix(rest.as_str()));
                labels.and_then(|labels| labels.strip_suffix('.')).is_some_and(is_labels)
            }
        }
    }
}

/// Nothing that could end the host before the part that was compared.
fn is_labels(text: &str) -> bool {
    let is_good =
        |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    text.split('.').all(is_good)
}

impl FromStr for CorsOrigin {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(CorsOrigin::Any);
        }
        let bad = || format!("{text:?} is not an origin; write https://app.example.org, https://*.example.org or *");
        let lower = text.to_ascii_lowercase();
        let (scheme, default_port) = match lower.split_once("://").ok_or_else(bad)?.0 {
            "https" => ("https://", ":443"),
            "http" => ("http://", ":80"),
            _ => return Err(bad()),
        };
        let authority = lower.strip_prefix(scheme).ok_or_else(bad)?;
        let authority = authority.strip_suffix(default_port).unwrap_or(authority);
        let (host, port) = authority.rsplit_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
        let port_is_good = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
        let name = host.strip_prefix("*.").unwrap_or(host);
        if !port_is_good || !matches!(name.parse::<HostPattern>(), Ok(HostPattern::Exact(_))) || name.ends_with('.') {
            return Err(bad());
        }
        Ok(match authority.strip_prefix("*.") {
            Some(rest) => CorsOrigin::Under { scheme: scheme.to_owned(), rest: rest.to_owned() },
            None => CorsOrigin::Exact(format!("{scheme}{authority}")),
        })
    }
}

impl fmt::Display for CorsOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CorsOrigin::Any => f.write_str("*"),
            CorsOrigin::Under { scheme, rest } => write!(f, "{scheme}*.{rest}"),
            CorsOrigin::Exact(text) => f.write_str(text),
        }
    }
}

/// A header, or all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CorsHeader {
    Any,
    Named(HeaderKey),
}

impl FromStr for CorsHeader {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "*" { Ok(CorsHeader::Any) } else { text.parse().map(CorsHeader::Named) }
    }
}

impl fmt::Display for CorsHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CorsHeader::Any => f.write_str("*"),
            CorsHeader::Named(key) => key.fmt(f),
        }
    }
}

/// A workload that answers a part of a route's requests. It needs no route of its own. While none of its replicas is
/// ready, its part goes to the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Share {
    /// Name of the workload.
    pub workload: WorkloadName,
    /// How much of a hundred requests. 0 to 100, and all of `split` at most 100 together.
    #[schemars(range(max = 100))]
    pub percent: u32,
}

/// Requests that agree in it are answered by the same workload, as long as `split` stays as it is. A request that lacks it
/// goes where chance says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum SplitBy {
    /// The value of a header, such as a user's id.
    Header(HeaderKey),
    /// The value of a cookie, such as a session's.
    Cookie(String),
}

/// What types cannot say.
pub(super) fn check(field: &str, route: &Route, workload: &WorkloadName) -> Result<(), SpecError> {
    if let Some(redirect) = &route.redirect {
        check_redirect(&format!("{field}.redirect"), redirect)?;
    }
    if let Some(retry) = &route.retry {
        check_retry(&format!("{field}.retry"), retry, &route.methods)?;
    }
    if let Some(cors) = &route.cors {
        check_cors(&format!("{field}.cors"), cors)?;
    }
    check_split(field, route, workload)
}

fn check_redirect(field: &str, redirect: &RedirectSpec) -> Result<(), SpecError> {
    let RedirectSpec { status, scheme, host, port, path, prefix } = redirect;
    if !REDIRECT_STATUSES.contains(status) {
        let message = format!("{status} is none of {REDIRECT_STATUSES:?}");
        return Err(SpecError::new(format!("{field}.status"), message));
    }
    if scheme.is_none() && host.is_none() && port.is_none() && path.is_none() && prefix.is_none() {
        return Err(SpecError::new(field, "leads to what was asked for already")
            .hint("set one of scheme, host, port, path and prefix"));
    }
    if host.as_ref().is_some_and(|host| !matches!(host, HostPattern::Exact(_))) {
        return Err(SpecError::new(format!("{field}.host"), "is not one host").hint("write it without a wildcard"));
    }
    if *port == Some(0) {
        return Err(SpecError::new(format!("{field}.port"), "is not between 1 and 65535"));
    }
    if path.is_some() && prefix.is_some() {
        return Err(SpecError::new(format!("{field}.prefix"), "is set beside `path`, which is the whole path")
            .hint("leave one of them out"));
    }
    Ok(())
}

fn check_retry(field: &str, retry: &RetrySpec, methods: &[MethodName]) -> Result<(), SpecError> {
    if !(1..=ATTEMPTS_MAX).contains(&retry.attempts) {
        let message = format!("{} is not between 1 and {ATTEMPTS_MAX}", retry.attempts);
        return Err(SpecError::new(format!("{field}.attempts"), message));
    }
    for (i, status) in retry.on.iter().enumerate() {
        let field = format!("{field}.on[{i}]");
        if !ALLOWED_STATUSES.contains(status) {
            return Err(SpecError::new(field, format!("{status} is none of {ALLOWED_STATUSES:?}"))
                .hint("other statuses are answers to the request, which another attempt would get as well"));
        }
        if retry.on.iter().take(i).any(|other| other == status) {
            return Err(SpecError::new(field, format!("{status} is there twice")));
        }
    }
    if retry.attempts == 1 && !retry.on.is_empty() {
        return Err(SpecError::new(format!("{field}.on"), "has no effect with one attempt")
            .hint("set attempts to 2 or 3, or leave `on` out"));
    }
    if !retry.on.is_empty() && !methods.is_empty() && !methods.iter().any(|method| is_idempotent(method.method())) {
        return Err(SpecError::new(format!("{field}.on"), "has no effect: no method of the route is ever sent again")
            .hint("leave it out, or add one of GET, HEAD, OPTIONS, PUT and DELETE to `methods`"));
    }
    Ok(())
}

fn check_cors(field: &str, cors: &CorsSpec) -> Result<(), SpecError> {
    let CorsSpec { origins, methods, headers, expose, credentials, max_age } = cors;
    if origins.is_empty() {
        return Err(SpecError::new(format!("{field}.origins"), "names no origin")
            .hint("write [\"https://app.example.org\"], or leave `cors` out"));
    }
    let lists =
        [("origins", origins.len()), ("methods", methods.len()), ("headers", headers.len()), ("expose", expose.len())];
    for (name, count) in lists {
        if count > CORS_ENTRIES_MAX {
            return Err(SpecError::new(format!("{field}.{name}"), format!("at most {CORS_ENTRIES_MAX} are allowed")));
        }
    }
    if *credentials && origins.contains(&CorsOrigin::Any) {
        return Err(SpecError::new(
            format!("{field}.credentials"),
            "can't be had with the origin `*`: any page could then act as its reader",
        )
        .hint("name the origins"));
    }
    if *credentials && expose.contains(&CorsHeader::Any) {
        return Err(SpecError::new(
            format!("{field}.expose"),
            "`*` means nothing to browsers where there are credentials",
        )
        .hint("name the headers"));
    }
    if max_age.is_some_and(|age| age > CORS_MAX_AGE) {
        return Err(SpecError::new(format!("{field}.max-age"), format!("is more than {CORS_MAX_AGE}")));
    }
    Ok(())
}

fn check_split(field: &str, route: &Route, workload: &WorkloadName) -> Result<(), SpecError> {
    let Route { split, split_by, .. } = route;
    if split.len() > SHARES_MAX {
        return Err(SpecError::new(format!("{field}.split"), format!("at most {SHARES_MAX} are allowed")));
    }
    for (i, share) in split.iter().enumerate() {
        let field = format!("{field}.split[{i}].workload");
        if share.workload == *workload {
            return Err(SpecError::new(field, "is the workload that holds the route")
                .hint("leave it out: what the others don't get stays with it"));
        }
        if split.iter().take(i).any(|other| other.workload == share.workload) {
            return Err(SpecError::new(field, format!("{} is there twice", share.workload)));
        }
    }
    let total = split.iter().fold(0_u32, |sum, share| sum.saturating_add(share.percent));
    if total > 100 {
        return Err(SpecError::new(
            format!("{field}.split"),
            format!("is {total} percent in all; at most 100 are there"),
        ));
    }
    match split_by {
        Some(_) if split.is_empty() => {
            Err(SpecError::new(format!("{field}.split-by"), "has nothing to decide without `split`")
                .hint("leave it out, or write split: [{workload: shop-next, percent: 10}]"))
        }
        Some(SplitBy::Cookie(name)) if !is_cookie_name(name) => {
            Err(SpecError::new(format!("{field}.split-by.cookie"), format!("{name:?} is not the name of a cookie"))
                .hint("write its name alone, such as session"))
        }
        _ => Ok(()),
    }
}

/// A token (RFC 6265 §4.1.1).
fn is_cookie_name(name: &str) -> bool {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    (1..=256).contains(&name.len()) && name.bytes().all(is_token)
}

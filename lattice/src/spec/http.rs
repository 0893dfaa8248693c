//! `http`: which requests a workload answers, and what the router does to them on the way. Start at [`Route`]; what a
//! request must be like is in `matching.rs`, what is done to it in `policy.rs`. `docs/routes.md` is the guide.

mod matching;
mod policy;
#[cfg(test)]
mod tests;

pub use matching::{ExactPath, HeaderKey, MethodName, PathMatch, PathPrefix, ValueMatch};
pub use policy::{
    ALLOWED_STATUSES, CorsHeader, CorsOrigin, CorsSpec, RedirectScheme, RedirectSpec, RetrySpec, RewriteSpec, Share,
    SplitBy, is_idempotent,
};

use super::{SpecError, Sticky, WorkloadSpec, sticky};
use crate::{
    id::WorkloadName,
    limits::ROUTES_MAX,
    mesh,
    units::{Bytes, Millis},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, str::FromStr};

/// How HTTP reaches a workload.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct HttpSpec {
    /// Requests that the workload answers. No two workloads of a lattice may hold routes that the same request could
    /// take with equal right. Within a workload the first of such routes wins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub routes: Vec<Route>,
    /// Workloads whose components may send requests to this one by its name, `http://NAME.lattice`, and whose routes may
    /// leave it a share by `split`; `[]` is none. Components need a grant in their own spec as well. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub callers: Option<Vec<WorkloadName>>,
}

/// Which requests, and what is done to them. Of several routes that match a request the most telling one is taken: by
/// host (exact, then the longest wildcard, then `*`), then by path (exact, then the longest prefix), then one that names
/// methods, then the one with more `headers`, then with more `query`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Route {
    /// `shop.example.org`, `*.shop.example.org` (one or more labels in front), or `*` (any host). Compared without case,
    /// port or final dot. Not `lattice` or what is below it: no client is answered there.
    pub host: HostPattern,
    /// A path prefix, compared by whole segments: `/api` takes `/api` and `/api/x`, not `/apis`. Or `{exact: /api}`,
    /// which takes nothing else. Compared as it was sent, with case. Default `/`.
    #[serde(default)]
    pub path: PathMatch,
    /// Methods that it takes. Default: all. `GET` does not include `HEAD`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub methods: Vec<MethodName>,
    /// Headers that the request must have: `x-version: "2"` (exactly that value), `{prefix: "2."}` or `{present: true}`.
    /// Several lines of one header are joined by `, `. They are seen as the component sees them: what a stranger says in
    /// `x-forwarded-…` is not believed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub headers: BTreeMap<HeaderKey, ValueMatch>,
    /// Parameters that the query must have, in the same forms. Percent-encoding is undone; of a parameter that is there
    /// several times the first counts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub query: BTreeMap<String, ValueMatch>,
    /// Longest time until the head of the response, over nodes and queues. Default: `limits.wall`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Millis>,
    /// Largest request body; not more than `limits.body`, which is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_limit: Option<Bytes>,
    /// What the component sees in place of the path that matched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<RewriteSpec>,
    /// Answer with a redirect. A request for what it leads to is not redirected once more but goes to the component.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect: Option<RedirectSpec>,
    /// When a request that a component may have seen is sent again. Default: up to three attempts in all, where no
    /// response came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetrySpec>,
    /// Which scripts of other origins may call it. The router answers preflight requests, and says it in each response in
    /// place of the component.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cors: Option<CorsSpec>,
    /// Other workloads that answer a part of the requests. The rest stays with this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub split: Vec<Share>,
    /// What decides who of `split` answers. Default: chance, for each request anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split_by: Option<SplitBy>,
    /// Keep a client at one node: `{cookie: NAME}` or `{header: NAME}`. Default: each request goes where there is room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<Sticky>,
}

impl Route {
    /// Takes everything below a path of a host, with the default of everything else.
    pub fn new(host: HostPattern, path: impl Into<PathMatch>) -> Self {
        Self {
            host,
            path: path.into(),
            methods: Vec::new(),
            headers: BTreeMap::new(),
            query: BTreeMap::new(),
            timeout: None,
            body_limit: None,
            rewrite: None,
            redirect: None,
            retry: None,
            cors: None,
            split: Vec::new(),
            split_by: None,
            sticky: None,
        }
    }

    /// Whether host, a path prefix and a timeout are all that it says: what nodes of schemas 1 and 2 read.
    pub fn is_plain(&self) -> bool {
        // Names every field, so that a new one has to be decided about.
        let Self {
            host: _,
            path,
            methods,
            headers,
            query,
            timeout: _,
            body_limit,
            rewrite,
            redirect,
            retry,
            cors,
            split,
            split_by,
            sticky,
        } = self;
        matches!(path, PathMatch::Prefix(_))
            && methods.is_empty()
            && headers.is_empty()
            && query.is_empty()
            && body_limit.is_none()
            && rewrite.is_none()
            && redirect.is_none()
            && retry.is_none()
            && cors.is_none()
            && split.is_empty()
            && split_by.is_none()
            && sticky.is_none()
    }

    /// Whether it asks for more of a request than host and path.
    pub fn has_conditions(&self) -> bool {
        !(self.methods.is_empty() && self.headers.is_empty() && self.query.is_empty())
    }

    /// How telling it is among routes of the same host and path; the greater one is tried first.
    pub fn rank(&self) -> (bool, usize, usize) {
        (!self.methods.is_empty(), self.headers.len(), self.query.len())
    }

    /// Whether some request matches both, and neither of them is more telling.
    pub fn clashes(&self, other: &Route) -> bool {
        self.host == other.host
            && self.path == other.path
            && self.rank() == other.rank()
            && (self.methods.is_empty() || self.methods.iter().any(|method| other.methods.contains(method)))
            && agree(&self.headers, &other.headers)
            && agree(&self.query, &other.query)
    }
}

/// Whether one request can have what both ask for.
fn agree<K: Ord>(one: &BTreeMap<K, ValueMatch>, other: &BTreeMap<K, ValueMatch>) -> bool {
    one.iter().all(|(name, value)| other.get(name).is_none_or(|other| value.agrees(other)))
}

/// For people: `shop.test/api`, and what else a request must be like in braces.
impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.host, self.path.as_str())?;
        let exact = matches!(self.path, PathMatch::Exact(_)).then(|| "exact".to_owned());
        let methods = self.methods.iter().map(ToString::to_string);
        let headers = self.headers.iter().map(|(name, value)| format!("{name}{value}"));
        let query = self.query.iter().map(|(name, value)| format!("?{name}{value}"));
        let more: Vec<String> = exact.into_iter().chain(methods).chain(headers).chain(query).collect();
        if more.is_empty() { Ok(()) } else { write!(f, "{{{}}}", more.join(",")) }
    }
}

/// What types cannot say.
pub(super) fn check(spec: &WorkloadSpec) -> Result<(), SpecError> {
    let routes = &spec.http.routes;
    if routes.len() > ROUTES_MAX {
        return Err(SpecError::new("http.routes", format!("at most {ROUTES_MAX} routes are allowed")));
    }
    for (i, route) in routes.iter().enumerate() {
        let field = format!("http.routes[{i}]");
        let earlier =
            routes.iter().take(i).enumerate().find(|(_, earlier)| earlier.clashes(route) && takes_all(earlier, route));
        if let Some((j, earlier)) = earlier {
            let message = match earlier.methods == route.methods {
                true => format!("{route} is there twice"),
                false => format!("{route} would never be taken: http.routes[{j}] has all its requests"),
            };
            return Err(SpecError::new(field, message).hint("leave one of them out"));
        }
        check_host(&field, &route.host)?;
        if route.timeout.is_some_and(|timeout| timeout.0 == 0) {
            return Err(SpecError::new(format!("{field}.timeout"), "must be longer than zero"));
        }
        if let Some(limit) = route.body_limit
            && limit > spec.limits.body
        {
            let message = format!("{limit} is more than limits.body ({})", spec.limits.body);
            return Err(SpecError::new(format!("{field}.body-limit"), message).hint("raise limits.body as well"));
        }
        matching::check(&field, route)?;
        policy::check(&field, route, &spec.name)?;
        sticky::check(&field, route.sticky.as_ref())?;
    }
    Ok(())
}

/// No client reaches what is there: nodes answer 400.
fn check_host(field: &str, host: &HostPattern) -> Result<(), SpecError> {
    let (HostPattern::Exact(name) | HostPattern::Under(name)) = host else { return Ok(()) };
    if name != mesh::DOMAIN && !name.strip_suffix(mesh::DOMAIN).is_some_and(|rest| rest.ends_with('.')) {
        return Ok(());
    }
    let message = format!("{host} is for calls of components only: no client is answered there");
    Err(SpecError::new(format!("{field}.host"), message)
        .hint("choose another host; components call a workload as http://NAME.lattice/ without a route"))
}

/// Whether the first of two that clash leaves nothing for the second.
fn takes_all(first: &Route, second: &Route) -> bool {
    let methods = first.methods.is_empty() || second.methods.iter().all(|method| first.methods.contains(method));
    methods && first.headers == second.headers && first.query == second.query
}

/// A host, exact or with a wildcard in front. Kept in normal form: lower case, no port, no final dot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    Any,
    /// The labels behind `*.`.
    Under(String),
    Exact(String),
}

impl HostPattern {
    /// Whether it takes a host in normal form.
    pub fn covers(&self, host: &str) -> bool {
        match self {
            HostPattern::Any => true,
            HostPattern::Exact(name) => name == host,
            HostPattern::Under(name) => host
                .strip_suffix(name.as_str())
                .and_then(|rest| rest.strip_suffix('.'))
                .is_some_and(|rest| !rest.is_empty()),
        }
    }

    /// Orders the patterns that take one host: the first is tried first.
    pub fn telling(&self) -> impl Ord + use<> {
        let labels = |name: &str| name.split('.').count();
        std::cmp::Reverse(match self {
            HostPattern::Any => (0, 0),
            HostPattern::Under(name) => (1, labels(name)),
            HostPattern::Exact(name) => (2, labels(name)),
        })
    }
}

impl FromStr for HostPattern {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(HostPattern::Any);
        }
        let (wild, name) = match text.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        if !is_host_name(&name) {
            return Err(format!("{text:?} is not a host; write shop.example.org, *.example.org or *, without a port"));
        }
        Ok(if wild { HostPattern::Under(name) } else { HostPattern::Exact(name) })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Any => f.write_str("*"),
            HostPattern::Under(name) => write!(f, "*.{name}"),
            HostPattern::Exact(name) => f.write_str(name),
        }
    }
}

impl fmt::Debug for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whether it is a name in normal form but for its case: labels of 1 to 63 letters, digits, `-` and `_`, at most 253 bytes.
pub(super) fn is_host_name(name: &str) -> bool {
    let label_is_good = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label_is_good)
}

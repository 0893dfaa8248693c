//! What a request must be like for a route to take it. No regular expressions: which of two is more telling can't be
//! said of them, so that the order of routes would depend on who was there first; and what one costs is up to the client.

use super::Route;
use crate::spec::SpecError;
use ::http::{HeaderName, Method, header::HOST};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de};
use std::{borrow::Cow, cmp::Ordering, fmt, str::FromStr};

/// Conditions of one kind that a route may have.
const CONDITIONS_MAX: usize = 16;
/// Longest name of a parameter of a query, and longest value that is asked for, in bytes.
const TEXT_BYTES_MAX: usize = 1024;
/// Longest path that a route may ask for, in bytes.
const PATH_BYTES_MAX: usize = 1024;

/// Which paths.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathMatch {
    /// It, and all below it.
    Prefix(PathPrefix),
    /// It alone.
    Exact(ExactPath),
}

impl PathMatch {
    pub fn as_str(&self) -> &str {
        match self {
            PathMatch::Prefix(prefix) => prefix.as_str(),
            PathMatch::Exact(path) => path.as_str(),
        }
    }

    pub fn covers(&self, path: &str) -> bool {
        match self {
            PathMatch::Prefix(prefix) => prefix.covers(path),
            PathMatch::Exact(exact) => exact.as_str() == path,
        }
    }
}

impl Default for PathMatch {
    fn default() -> Self {
        PathMatch::Prefix(PathPrefix::default())
    }
}

impl From<PathPrefix> for PathMatch {
    fn from(prefix: PathPrefix) -> Self {
        PathMatch::Prefix(prefix)
    }
}

/// As in a spec: a prefix by itself, an exact path in braces.
impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PathMatch::Prefix(prefix) => prefix.fmt(f),
            PathMatch::Exact(path) => write!(f, "{{exact: {path}}}"),
        }
    }
}

impl fmt::Debug for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ExactForm {
    /// The whole path.
    exact: ExactPath,
}

impl Serialize for PathMatch {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            PathMatch::Prefix(prefix) => prefix.serialize(serializer),
            PathMatch::Exact(path) => ExactForm { exact: path.clone() }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for PathMatch {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = PathMatch;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path such as /api, or {exact: /api}")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<PathMatch, E> {
                text.parse().map(PathMatch::Prefix).map_err(E::custom)
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<PathMatch, A::Error> {
                let ExactForm { exact } = ExactForm::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(PathMatch::Exact(exact))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for PathMatch {
    fn schema_name() -> Cow<'static, str> {
        "PathMatch".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let (prefix, exact) = (generator.subschema_for::<PathPrefix>(), generator.subschema_for::<ExactForm>());
        schemars::json_schema!({ "anyOf": [prefix, exact] })
    }
}

/// A path prefix in normal form: starts with `/`, does not end with one unless it is the root.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathPrefix(String);

impl PathPrefix {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True if `path` is this prefix or lies below it.
    pub fn covers(&self, path: &str) -> bool {
        self.rest_of(path).is_some()
    }

    /// What is behind this prefix in a path that it covers: nothing, or what begins with `/`.
    pub fn rest_of<'a>(&self, path: &'a str) -> Option<&'a str> {
        if self.0 == "/" {
            return Some(path);
        }
        path.strip_prefix(self.0.as_str()).filter(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// This prefix in front of such a rest.
    pub fn joined(&self, rest: &str) -> String {
        match (self.0.as_str(), rest) {
            ("/", "") => "/".to_owned(),
            ("/", rest) => rest.to_owned(),
            (prefix, rest) => [prefix, rest].concat(),
        }
    }
}

impl Default for PathPrefix {
    fn default() -> Self {
        Self("/".into())
    }
}

fn check_path(text: &str, what: &str) -> Result<(), String> {
    let allowed = |b: u8| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'%' | b'\\' | b'*');
    if !text.starts_with('/') || text.len() > PATH_BYTES_MAX || !text.bytes().all(allowed) {
        return Err(format!("{text:?} is not a path{what}; write /api: it starts with / and has no ?, #, % or *"));
    }
    if text.split('/').any(|segment| segment == "." || segment == "..") || text.contains("//") {
        return Err(format!("{text:?} has a segment that is empty, `.` or `..`; write the plain path"));
    }
    Ok(())
}

impl FromStr for PathPrefix {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        check_path(text, " prefix")?;
        let trimmed = text.trim_end_matches('/');
        Ok(Self(if trimmed.is_empty() { "/".into() } else { trimmed.into() }))
    }
}

impl fmt::Display for PathPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PathPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A path as it is, with or without a slash at its end.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExactPath(String);

impl ExactPath {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ExactPath {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        check_path(text, "")?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for ExactPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ExactPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A method that nodes serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MethodName(Method);

impl MethodName {
    pub fn method(&self) -> &Method {
        &self.0
    }
}

impl From<Method> for MethodName {
    fn from(method: Method) -> Self {
        Self(method)
    }
}

impl FromStr for MethodName {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        // Methods have case, and nobody means `get`.
        let is_good = text.len() <= 32 && text.bytes().all(|b| b.is_ascii_uppercase() || b == b'-' || b == b'_');
        let method = Method::from_bytes(text.as_bytes()).ok().filter(|_| is_good);
        let method = method.ok_or_else(|| format!("{text:?} is not a method; write GET, in capitals"))?;
        if method == Method::CONNECT || method == Method::TRACE {
            return Err(format!("nodes do not serve {text}"));
        }
        Ok(Self(method))
    }
}

impl fmt::Display for MethodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

/// Name of a header, in lower case.
#[derive(Clone, PartialEq, Eq)]
pub struct HeaderKey(HeaderName);

impl HeaderKey {
    pub fn name(&self) -> &HeaderName {
        &self.0
    }
}

impl PartialOrd for HeaderKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for HeaderKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.as_str().cmp(other.0.as_str())
    }
}

impl FromStr for HeaderKey {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |_| format!("{text:?} is not the name of a header; write x-version");
        HeaderName::from_bytes(text.as_bytes()).map(Self).map_err(bad)
    }
}

impl fmt::Display for HeaderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

impl fmt::Debug for HeaderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

/// What a header or a parameter must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueMatch {
    Exact(String),
    Prefix(String),
    /// There, whatever it says.
    Present,
}

impl ValueMatch {
    pub fn holds(&self, value: &[u8]) -> bool {
        match self {
            ValueMatch::Exact(text) => text.as_bytes() == value,
            ValueMatch::Prefix(text) => value.starts_with(text.as_bytes()),
            ValueMatch::Present => true,
        }
    }

    /// Whether some value fulfils both.
    pub fn agrees(&self, other: &ValueMatch) -> bool {
        use ValueMatch::{Exact, Prefix, Present};
        match (self, other) {
            (Present, _) | (_, Present) => true,
            (Exact(one), Exact(other)) => one == other,
            (Exact(text), Prefix(prefix)) | (Prefix(prefix), Exact(text)) => text.starts_with(prefix.as_str()),
            (Prefix(one), Prefix(other)) => one.starts_with(other.as_str()) || other.starts_with(one.as_str()),
        }
    }

    fn text(&self) -> &str {
        match self {
            ValueMatch::Exact(text) | ValueMatch::Prefix(text) => text,
            ValueMatch::Present => "",
        }
    }
}

/// For people, behind a name, and as a part of names: `=2`, `=2*`, or nothing. No two are written alike.
impl fmt::Display for ValueMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ValueMatch::Exact(text) if text.contains(['*', ',', '"', '}']) => write!(f, "={text:?}"),
            ValueMatch::Prefix(text) if text.contains([',', '"', '}']) => write!(f, "={text:?}*"),
            ValueMatch::Exact(text) => write!(f, "={text}"),
            ValueMatch::Prefix(text) => write!(f, "={text}*"),
            ValueMatch::Present => Ok(()),
        }
    }
}

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct ValueForm {
    /// The value begins with this.
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix: Option<String>,
    /// `true`: it is there, whatever it says.
    #[serde(skip_serializing_if = "Option::is_none")]
    present: Option<bool>,
}

impl Serialize for ValueMatch {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            ValueMatch::Exact(text) => serializer.serialize_str(text),
            ValueMatch::Prefix(text) => ValueForm { prefix: Some(text.clone()), present: None }.serialize(serializer),
            ValueMatch::Present => ValueForm { prefix: None, present: Some(true) }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for ValueMatch {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = ValueMatch;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text (in quotes, if it looks like a number), {prefix: TEXT} or {present: true}")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<ValueMatch, E> {
                Ok(ValueMatch::Exact(text.to_owned()))
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<ValueMatch, A::Error> {
                match ValueForm::deserialize(de::value::MapAccessDeserializer::new(map))? {
                    ValueForm { prefix: Some(text), present: None } => Ok(ValueMatch::Prefix(text)),
                    ValueForm { prefix: None, present: Some(true) } => Ok(ValueMatch::Present),
                    _ => Err(de::Error::custom("write one of {prefix: TEXT} and {present: true}")),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for ValueMatch {
    fn schema_name() -> Cow<'static, str> {
        "ValueMatch".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let form = generator.subschema_for::<ValueForm>();
        schemars::json_schema!({
            "description": "The value itself, `{prefix: TEXT}` or `{present: true}`.",
            "anyOf": [{ "type": "string" }, form],
        })
    }
}

/// What types cannot say.
pub(super) fn check(field: &str, route: &Route) -> Result<(), SpecError> {
    let Route { methods, headers, query, .. } = route;
    for (name, count) in [("methods", methods.len()), ("headers", headers.len()), ("query", query.len())] {
        if count > CONDITIONS_MAX {
            return Err(SpecError::new(format!("{field}.{name}"), format!("at most {CONDITIONS_MAX} are allowed")));
        }
    }
    if let Some((i, method)) =
        methods.iter().enumerate().find(|(i, method)| methods.iter().take(*i).any(|m| m == *method))
    {
        return Err(SpecError::new(format!("{field}.methods[{i}]"), format!("{method} is there twice")));
    }
    if headers.keys().any(|key| *key.name() == HOST) {
        return Err(SpecError::new(format!("{field}.headers.host"), "is not for a header's condition")
            .hint("write it as the route's `host`"));
    }
    for (key, value) in headers {
        // What a header's value may be (RFC 9110 §5.5), without the bytes that nobody can type.
        let is_good = |b: u8| b == b' ' || b == b'\t' || b.is_ascii_graphic();
        let text = value.text();
        if text.len() > TEXT_BYTES_MAX || !text.bytes().all(is_good) || text.trim() != text {
            let message = "is not the value of a header: visible characters of ASCII, with no space at the ends";
            return Err(SpecError::new(format!("{field}.headers.{key}"), message));
        }
    }
    for (key, value) in query {
        if key.is_empty() || key.len() > TEXT_BYTES_MAX || value.text().len() > TEXT_BYTES_MAX {
            let message = format!("a name has 1 to {TEXT_BYTES_MAX} bytes, and a value at most as many");
            return Err(SpecError::new(format!("{field}.query"), message));
        }
    }
    Ok(())
}

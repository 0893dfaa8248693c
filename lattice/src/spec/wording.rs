//! What is wrong with a value, in words for who wrote it. serde says "invalid type: integer `1`, expected a string"; here
//! that becomes what was written and what to write instead, by the schema of the field. So it holds for every field, those to
//! come too, and for all that has a schema and is read strictly.

use super::SpecError;
use serde_json::Value;
use serde_path_to_error::{Path, Segment};
use std::fmt::Write as _;

/// Bytes of a value that a message shows.
const SHOWN_BYTES_MAX: usize = 60;
/// Bytes of what a hint tells of a field, where that is more than one sentence.
const ABOUT_BYTES_MAX: usize = 240;
/// How far a form is followed into what it is made of.
const DEPTH_MAX: usize = 4;
/// Names that a message lists.
const NAMES_MAX: usize = 24;

/// The error that a document gives, read by the types that `schema` was made from.
pub(super) fn error(document: &Value, schema: &Value, path: &Path, said: &str) -> SpecError {
    let place = Place::find(document, schema, path);
    if let Some(name) = said.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next()) {
        return place.unknown_field(name, &path.to_string());
    }
    if let Some(name) = said.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
        return place.missing_field(name);
    }
    if let Some(rest) = said.strip_prefix("unknown variant `")
        && let Some((name, expected)) = rest.split_once("`, expected ")
    {
        let known: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
        let error = SpecError::new(place.field, format!("{name:?} is none of {}", list(known.iter().copied())));
        return error.hint(nearest(name, known.iter().copied()).map_or_else(
            || format!("write {}", list(known.iter().copied())),
            |near| format!("did you mean `{near}`?"),
        ));
    }
    let wrong = said.strip_prefix("invalid type: ").or_else(|| said.strip_prefix("invalid value: "));
    match wrong.and_then(|wrong| wrong.split_once(", expected ")) {
        Some((_, expected)) => place.wrong_value(expected),
        None => SpecError::new(place.field, said),
    }
}

/// What the schema says of a field, such as `components[0].source`: as a hint where nothing better is known.
pub(super) fn about(root: &Value, field: &str) -> Option<String> {
    let mut form = root;
    for segment in field.split('.').filter(|segment| !segment.is_empty()) {
        let (name, items) =
            segment.split_once('[').map_or((segment, 0), |(name, rest)| (name, 1 + rest.matches('[').count()));
        form = property(root, form, name)?;
        for _ in 0..items {
            form = item(root, form)?;
        }
    }
    let said = (form != root).then(|| form.get("description").or_else(|| resolve(root, form).get("description")))??;
    let mut told = String::new();
    // Whole sentences, as many as a hint has room for.
    for sentence in said.as_str()?.split_inclusive(". ") {
        if !told.is_empty() && told.len() + sentence.len() > ABOUT_BYTES_MAX {
            break;
        }
        told.push_str(sentence);
    }
    let told = super::parse::one_line(&told);
    Some(told.trim_end_matches('.').to_owned())
}

/// Where in a document something is wrong, as far as the path leads in it.
struct Place<'a> {
    field: String,
    value: &'a Value,
    /// Nothing where the schema says less than the path.
    form: Option<&'a Value>,
    root: &'a Value,
}

impl<'a> Place<'a> {
    fn find(document: &'a Value, schema: &'a Value, path: &Path) -> Self {
        let mut place = Place { field: String::new(), value: document, form: Some(schema), root: schema };
        for segment in path.iter() {
            let (value, form) = match segment {
                Segment::Seq { index } => (place.value.get(*index), place.form.and_then(|form| item(place.root, form))),
                Segment::Map { key: name } | Segment::Enum { variant: name } => {
                    (place.value.get(name.as_str()), place.form.and_then(|form| property(place.root, form, name)))
                }
                Segment::Unknown => (None, None),
            };
            let Some(value) = value else { break };
            (place.value, place.form) = (value, form);
            match segment {
                Segment::Seq { index } => drop(write!(place.field, "[{index}]")),
                segment if place.field.is_empty() => place.field = segment.to_string(),
                segment => drop(write!(place.field, ".{segment}")),
            }
        }
        place
    }

    fn unknown_field(self, name: &str, path: &str) -> SpecError {
        // The path of an unknown field ends with its name, but at the top.
        let field = if path == "." { name.to_owned() } else { path.to_owned() };
        let parent = self.parent(path);
        let known = parent.map(|form| names(self.root, form)).unwrap_or_default();
        let message = format!("unknown field `{name}`");
        let hint = match nearest(name, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => {
                "a field that this version does not know is refused rather than ignored; see `lattice schema`"
                    .to_owned()
            }
            None => format!("the fields here are {}; see `lattice schema`", list(known.iter().copied())),
        };
        SpecError::new(field, message).hint(hint)
    }

    /// The form of the mapping that an unknown field is in.
    fn parent(&self, path: &str) -> Option<&'a Value> {
        let mut form = Some(self.root);
        let mut left = path.trim_start_matches('.');
        while let Some(end) = left.find(['.', '[']) {
            let (name, rest) = left.split_at(end);
            if !name.is_empty() {
                form = form.and_then(|form| property(self.root, form, name));
            }
            left = match rest.strip_prefix('[') {
                Some(rest) => {
                    form = form.and_then(|form| item(self.root, form));
                    rest.split_once(']').map_or("", |(_, rest)| rest)
                }
                None => rest.get(1..).unwrap_or_default(),
            };
        }
        form
    }

    fn missing_field(self, name: &str) -> SpecError {
        let form = self.form.and_then(|form| property(self.root, form, name)).map(|form| describe(self.root, form, 0));
        let error = SpecError::new(self.field, format!("missing field `{name}`"));
        match form {
            Some(form) => error.hint(format!("write `{name}`: {form}")),
            None => error,
        }
    }

    fn wrong_value(self, expected: &str) -> SpecError {
        // What types of ours say that they expect is better than what follows from their form.
        let form = match (is_serdes(expected), self.form) {
            (true, Some(form)) => describe(self.root, form, 0),
            (true, None) => plain(expected).to_owned(),
            (false, _) => expected.to_owned(),
        };
        let value = shown(self.value);
        let message = match (expected, self.value) {
            ("map with a single key", Value::Object(fields)) if fields.len() > 1 => {
                format!("{value} is more than one of them; write {form}")
            }
            (_, other) => format!("{value} is {}; write {form}", kind(other)),
        };
        let error = SpecError::new(self.field, message);
        match self.value {
            Value::Number(_) | Value::Bool(_) if form == "text" => error.hint(format!("put it in quotes: \"{value}\"")),
            _ => error.hint(format!("write {form}")),
        }
    }
}

fn resolve<'a>(root: &'a Value, form: &'a Value) -> &'a Value {
    let name = form.get("$ref").and_then(Value::as_str).and_then(|name| name.strip_prefix("#/$defs/"));
    name.and_then(|name| root.get("$defs")?.get(name)).unwrap_or(form)
}

/// The forms that something may have, but for its absence.
fn alternatives<'a>(root: &'a Value, form: &'a Value) -> Vec<&'a Value> {
    let mut forms = Vec::new();
    alternatives_within(root, form, 0, &mut forms);
    forms
}

fn alternatives_within<'a>(root: &'a Value, form: &'a Value, depth: usize, forms: &mut Vec<&'a Value>) {
    let form = resolve(root, form);
    let some = ["anyOf", "oneOf"].into_iter().find_map(|name| form.get(name).and_then(Value::as_array));
    match some {
        Some(some) if depth < DEPTH_MAX => {
            some.iter().for_each(|form| alternatives_within(root, form, depth + 1, forms));
        }
        _ if form.get("type").is_some_and(|name| name == "null") => {}
        _ => forms.push(form),
    }
}

fn property<'a>(root: &'a Value, form: &'a Value, name: &str) -> Option<&'a Value> {
    alternatives(root, form).into_iter().find_map(|form| {
        let named = form.get("properties").and_then(|properties| properties.get(name));
        named.or_else(|| form.get("additionalProperties").filter(|form| form.is_object()))
    })
}

fn item<'a>(root: &'a Value, form: &'a Value) -> Option<&'a Value> {
    alternatives(root, form).into_iter().find_map(|form| form.get("items"))
}

/// Of the fields of a mapping.
fn names<'a>(root: &'a Value, form: &'a Value) -> Vec<&'a str> {
    let forms = alternatives(root, form).into_iter();
    forms
        .filter_map(|form| form.get("properties")?.as_object())
        .flat_map(|fields| fields.keys())
        .map(String::as_str)
        .collect()
}

/// What to write.
fn describe(root: &Value, form: &Value, depth: usize) -> String {
    if depth > DEPTH_MAX {
        return "…".to_owned();
    }
    // Of the field itself, rather than of all that have its form.
    if let Some(example) = form.get("$ref").and_then(|_| example(form)) {
        return format!("text such as {example}");
    }
    let forms = alternatives(root, form);
    let words: Vec<&str> = forms.iter().flat_map(|form| words(form)).collect();
    let rest = forms.iter().filter(|form| words_are_empty(form));
    let rest = rest.map(|form| describe_one(root, form, depth));
    let words = (!words.is_empty()).then(|| list(words.iter().copied()));
    let all: Vec<String> = words.into_iter().chain(rest).collect();
    all.join(", or ")
}

fn words(form: &Value) -> Vec<&str> {
    let listed = form.get("enum").and_then(Value::as_array).into_iter().flatten();
    listed.chain(form.get("const")).filter_map(Value::as_str).collect()
}

fn words_are_empty(form: &Value) -> bool {
    words(form).is_empty()
}

fn describe_one(root: &Value, form: &Value, depth: usize) -> String {
    let number = |name: &str| form.get(name).and_then(Value::as_i64);
    let is = |name: &str| match form.get("type") {
        Some(Value::String(text)) => text == name,
        Some(Value::Array(some)) => some.iter().any(|one| one == name),
        _ => false,
    };
    if is("string") {
        return example(form).map_or_else(|| "text".to_owned(), |example| format!("text such as {example}"));
    }
    if is("integer") {
        return match (number("minimum"), number("maximum")) {
            (Some(least), Some(most)) => format!("a whole number from {least} to {most}"),
            (Some(least), None) if least != 0 => format!("a whole number, at least {least}"),
            (None, Some(most)) => format!("a whole number, at most {most}"),
            _ => "a whole number".to_owned(),
        };
    }
    if is("boolean") {
        return "true or false".to_owned();
    }
    if is("array") {
        let example = form.get("items").and_then(|item| sample(root, item, depth + 1));
        return example.map_or_else(|| "a list".to_owned(), |example| format!("a list such as [{example}]"));
    }
    match form.get("properties").and_then(Value::as_object) {
        Some(_) => sample(root, form, depth)
            .unwrap_or_else(|| format!("a mapping with some of {}", list(names(root, form).into_iter()))),
        None if is("object") => "a mapping of names to values".to_owned(),
        None => "a value".to_owned(),
    }
}

/// A value of this form, with `…` where anything goes; nothing where there would be nothing in it.
fn sample(root: &Value, form: &Value, depth: usize) -> Option<String> {
    if let Some(example) = form.get("$ref").and_then(|_| example(form)) {
        return Some(example.to_owned());
    }
    let form = alternatives(root, form).into_iter().next()?;
    if let Some(word) = words(form).first() {
        return Some((*word).to_owned());
    }
    if let Some(example) = example(form) {
        return Some(example.to_owned());
    }
    let fields = form.get("properties")?.as_object()?;
    let required: Vec<&str> =
        form.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    if required.is_empty() || depth > DEPTH_MAX {
        return None;
    }
    let value =
        |name: &str| fields.get(name).and_then(|form| sample(root, form, depth + 1)).unwrap_or_else(|| "…".to_owned());
    let fields: Vec<String> = required.iter().map(|name| format!("{name}: {}", value(name))).collect();
    Some(format!("{{{}}}", fields.join(", ")))
}

fn example(form: &Value) -> Option<&str> {
    form.get("examples")?.as_array()?.first()?.as_str()
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "no value",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a number with a fraction",
        Value::Number(number) if number.is_i64() && !number.is_u64() => "a negative number",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.get(..text.floor_char_boundary(SHOWN_BYTES_MAX)) {
        Some(start) if start.len() < text.len() => format!("{start}…"),
        _ => text,
    }
}

/// Words of serde itself for what a type expects.
fn is_serdes(expected: &str) -> bool {
    const STARTS: [&str; 5] = ["struct ", "enum ", "tuple", "variant ", "adjacently"];
    const WORDS: [&str; 17] = [
        "a string",
        "a borrowed string",
        "a boolean",
        "a sequence",
        "a map",
        "a character",
        "unit",
        "option",
        "string or map",
        "map with a single key",
        "newtype variant",
        "struct variant",
        "unit variant",
        "a number",
        "isize",
        "usize",
        "any value",
    ];
    let is_number = expected.strip_prefix(['u', 'i', 'f']).is_some_and(|bits| bits.parse::<u8>().is_ok());
    is_number || WORDS.contains(&expected) || STARTS.iter().any(|start| expected.starts_with(start))
}

/// The same for people, where there is no form to read.
fn plain(expected: &str) -> &str {
    match expected {
        "a string" | "a borrowed string" => "text",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        _ if expected.starts_with(['u', 'i']) => "a whole number",
        _ if expected.starts_with('f') => "a number",
        _ => "a mapping",
    }
}

/// `a`, `b` or `c`.
fn list<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    let count = names.len();
    let mut text = String::new();
    for (number, name) in names.take(NAMES_MAX).enumerate() {
        let between = match number {
            0 => "",
            _ if number + 1 == count => " or ",
            _ => ", ",
        };
        let _ = write!(text, "{between}`{name}`");
    }
    if count > NAMES_MAX {
        text.push_str(", …");
    }
    text
}

/// The name that was most likely meant.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let most = if name.len() < 4 { 1 } else { 2 };
    let near = known.map(|known| (distance(name, known), known)).filter(|(distance, _)| *distance <= most);
    near.min().map(|(_, known)| known)
}

/// Letters to add, drop or replace (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    // What is asked for may be as long as a spec.
    if one.len().abs_diff(other.len()) > 2 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (number, letter) in one.chars().enumerate() {
        let mut next = vec![number + 1];
        for (at, (others, pair)) in other.iter().zip(row.windows(2)).enumerate() {
            let (&[diagonal, above], Some(left)) = (pair, next.get(at)) else { return usize::MAX };
            next.push((diagonal + usize::from(letter != *others)).min(above + 1).min(left + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use crate::spec::parse;

    fn check(fields: &str, field: &str, message: &str, hint: &str) {
        let yaml = format!("name: a\ncomponents: [{{name: c, source: 'file:c'}}]\n{fields}\n");
        let error = parse(yaml.as_bytes()).expect_err(fields);
        assert_eq!((error.field.as_str(), error.message.as_str()), (field, message), "{fields}");
        let said = error.hint.unwrap_or_default();
        assert!(said.contains(hint), "{fields}: {said}");
    }

    fn route(field: &str, at: &str, message: &str, hint: &str) {
        check(&format!("http: {{routes: [{{host: a.test, {field}}}]}}"), &format!("http.routes[0]{at}"), message, hint);
    }

    #[test]
    fn what_was_written_and_what_to_write() {
        check("replicas: two", "replicas", "\"two\" is text; write a whole number from 0 to 10000", "write a whole");
        check("replicas: -1", "replicas", "-1 is a negative number; write a whole number from 0 to 10000", "10000");
        check(
            "limits: 1",
            "limits",
            "1 is a number; write a mapping with some of `body`, `concurrency`, `cpu`, `memory`, `queue` or `wall`",
            "write",
        );
        check(
            "limits: {memory: 128}",
            "limits.memory",
            "128 is a number; write text such as 512B, 64KiB, 128MiB or 2GiB",
            "text",
        );
        check("class: [strict]", "class", "[\"strict\"] is a list; write `available` or `strict`", "`strict`");
        check("class: strickt", "class", "\"strickt\" is none of `available` or `strict`", "did you mean `strict`?");
        check(
            "reuse: 3",
            "reuse",
            "3 is a number; write `on`, `off`, or a mapping such as {requests: 10000, max-instances: 64}",
            "`off`",
        );
        check(
            "http: {routes: {host: a.test}}",
            "http.routes",
            "{\"host\":\"a.test\"} is a mapping; write a list such as [{host: hello.test}]",
            "a list",
        );
        check(
            "volumes: [{name: v, mount: /v, files: {a: 1}}]",
            "volumes[0].files.a",
            "1 is a number; write text",
            "\"1\"",
        );
        check("placement: {daemon: yes}", "placement.daemon", "\"yes\" is text; write true or false", "true or false");
        check("schedule: [{cron: 5}]", "schedule[0].cron", "5 is a number; write text such as */5 * * * *", "text");
    }

    #[test]
    fn of_routes() {
        route("timeout: 1", ".timeout", "1 is a number; write text such as 150ms, 30s, 5m or 1h", "30s");
        route("rewrite: /x", ".rewrite", "\"/x\" is text; write {prefix: /api}", "{prefix: /api}");
        route(
            "split: [{workload: b, percent: 1.5}]",
            ".split[0].percent",
            "1.5 is a number with a fraction; write a whole number from 0 to 100",
            "100",
        );
        route("sticky: true", ".sticky", "true is a boolean; write {cookie: …}, or {header: x-version}", "{cookie");
        route("sticky: cookie", ".sticky", "\"cookie\" is text; write {cookie: …}, or {header: x-version}", "{cookie");
        route(
            "sticky: {cookie: a, header: b}",
            ".sticky",
            "{\"cookie\":\"a\",\"header\":\"b\"} is more than one of them; write {cookie: …}, or {header: x-version}",
            "{cookie",
        );
        route("sticky: {ip: a}", ".sticky", "\"ip\" is none of `cookie` or `header`", "write `cookie` or `header`");
        route("path: 1", ".path", "1 is a number; write a path such as /api, or {exact: /api}", "/api");
        route(
            "headers: {x-a: 1}",
            ".headers.x-a",
            "1 is a number; write a text (in quotes, if it looks like a number), {prefix: TEXT} or {present: true}",
            "text",
        );
        route("methods: GET", ".methods", "\"GET\" is text; write a list such as [GET]", "[GET]");
        route("timeuot: 1s", ".timeuot", "unknown field `timeuot`", "did you mean `timeout`?");
        route("weight: 1", ".weight", "unknown field `weight`", "the fields here are `body-limit`");
        route(
            "redirect: {status: '302'}",
            ".redirect.status",
            "\"302\" is text; write a whole number from 0 to 65535",
            "whole",
        );
        route(
            "cors: {}",
            ".cors",
            "missing field `origins`",
            "write `origins`: a list such as [https://app.example.org]",
        );
    }

    #[test]
    fn at_the_top_and_in_lists() {
        let error = parse(b"name: a").unwrap_err();
        assert_eq!((error.field.as_str(), error.message.as_str()), ("", "missing field `components`"));
        let hint = error.hint.unwrap();
        assert!(hint.contains("`components`: a list such as [{name: …, source: file:./hello.wasm}]"), "{hint}");
        check("replica: 2", "replica", "unknown field `replica`", "did you mean `replicas`?");
        check("services: [{nam: s}]", "services[0].nam", "unknown field `nam`", "did you mean `name`?");
        let long = format!("limits: {}", "x".repeat(500));
        let error =
            parse(format!("name: a\ncomponents: [{{name: c, source: 'file:c'}}]\n{long}").as_bytes()).unwrap_err();
        assert!(error.message.len() < 200, "{error}");
    }
}

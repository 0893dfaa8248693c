//! What a route may say, how it is written, and what is said when it is wrong.

use super::*;
use crate::spec::parse;

const C: &str = "name: a\ncomponents: [{name: a, source: 'file:a'}]\n";

fn text(route: &str) -> String {
    format!("{C}http: {{routes: [{{host: h.test, {route}}}]}}\n")
}

fn read(route: &str) -> Route {
    let spec = parse(text(route).as_bytes()).unwrap_or_else(|error| panic!("{route}: {error}"));
    let json = serde_json::to_vec(&spec).unwrap();
    assert_eq!(parse(&json).unwrap(), spec, "{}", String::from_utf8_lossy(&json));
    spec.http.routes.into_iter().next().unwrap()
}

fn refuse(text: &str, field: &str, message: &str) {
    let error = parse(text.as_bytes()).expect_err(text);
    assert_eq!(error.field, format!("http.routes{field}"), "{error:?} for {text}");
    assert!(error.message.contains(message), "{error:?} does not say {message:?} for {text}");
    assert!(error.hint.is_some(), "{error:?} for {text}");
}

#[test]
fn a_route_of_before_is_written_as_it_was() {
    let plain = read("path: /api/, timeout: 1s");
    let json = serde_json::to_string(&plain).unwrap();
    assert_eq!(json, r#"{"host":"h.test","path":"/api","timeout":"1s"}"#, "its hash must stay");
    assert_eq!(serde_json::to_string(&read("")).unwrap(), r#"{"host":"h.test","path":"/"}"#);
    assert!(plain.is_plain());
}

#[test]
fn everything_is_read_and_written() {
    let full = read(
        "path: {exact: /a/}, methods: [GET, PROPFIND], headers: {X-Version: '2', x-b: {prefix: a}, x-c: {present: true}}, \
         query: {beta: '', c: {present: true}}, timeout: 2s, body-limit: 1KiB, rewrite: {prefix: /b/}, \
         redirect: {status: 308, scheme: https, host: W.test, port: 8443, prefix: /c}, retry: {attempts: 2, on: [502, 503]}, \
         cors: {origins: ['HTTPS://A.test:443', 'http://*.b.test:8080'], methods: [PUT], headers: ['*'], expose: [X-A], \
         credentials: true, max-age: 10m}, split: [{workload: next, percent: 10}], split-by: {cookie: id}",
    );
    assert_eq!(full.to_string(), "h.test/a/{exact,GET,PROPFIND,x-b=a*,x-c,x-version=2,?beta=,?c}");
    assert_eq!(full.rank(), (true, 3, 2));
    assert!(!full.is_plain() && full.has_conditions());
    let cors = full.cors.unwrap();
    let origins: Vec<String> = cors.origins.iter().map(ToString::to_string).collect();
    assert_eq!(origins, ["https://a.test", "http://*.b.test:8080"]);
    assert_eq!(full.rewrite.unwrap().prefix.as_str(), "/b");
    let retry = read("retry: {}").retry.unwrap();
    assert_eq!((retry.attempts, retry.on.len()), (3, 0));
    assert_eq!(read("redirect: {scheme: https}").redirect.unwrap().status, 302);
    assert_eq!(read("").to_string(), "h.test/");
}

#[test]
fn what_is_wrong_is_named_with_its_path() {
    for (route, field, message) in [
        ("path: {exact: b}", ".path.exact", "not a path"),
        ("path: {exact: /a/../b}", ".path.exact", "segment"),
        ("path: {exakt: /b}", ".path.exakt", "unknown field"),
        ("path: {}", ".path", "missing field `exact`"),
        ("path: 7", ".path", "a path such as /api"),
        ("methods: [get]", ".methods[0]", "in capitals"),
        ("methods: [TRACE]", ".methods[0]", "do not serve"),
        ("methods: [GET, GET]", ".methods[1]", "twice"),
        ("headers: {'x y': a}", ".headers.x y", "not the name of a header"),
        ("headers: {Host: a}", ".headers.host", "not for a header"),
        ("headers: {x-a: 2}", ".headers.x-a", "in quotes"),
        ("headers: {x-a: {present: false}}", ".headers.x-a", "one of"),
        ("headers: {x-a: {prefix: a, present: true}}", ".headers.x-a", "one of"),
        ("headers: {x-a: {regex: a}}", ".headers.x-a.regex", "unknown field"),
        ("headers: {x-a: 'ü'}", ".headers.x-a", "not the value of a header"),
        ("headers: {x-a: ' a'}", ".headers.x-a", "not the value of a header"),
        ("query: {'': a}", ".query", "1 to 1024"),
        ("timeout: 0s", ".timeout", "longer than zero"),
        ("body-limit: 2GiB", ".body-limit", "limits.body"),
        ("rewrite: {prefix: x}", ".rewrite.prefix", "not a path"),
        ("rewrite: {path: /x}", ".rewrite.path", "unknown field"),
        ("redirect: {}", ".redirect", "asked for already"),
        ("redirect: {status: 300, port: 1}", ".redirect.status", "none of"),
        ("redirect: {scheme: ftp}", ".redirect.scheme", "none of"),
        ("redirect: {host: '*.a.test'}", ".redirect.host", "not one host"),
        ("redirect: {port: 0}", ".redirect.port", "65535"),
        ("redirect: {path: /a, prefix: /b}", ".redirect.prefix", "whole path"),
        ("retry: {attempts: 4}", ".retry.attempts", "between 1 and 3"),
        ("retry: {on: [404]}", ".retry.on[0]", "none of"),
        ("retry: {on: [503, 503]}", ".retry.on[1]", "twice"),
        ("retry: {attempts: 1, on: [503]}", ".retry.on", "no effect"),
        ("methods: [POST, PATCH], retry: {on: [503]}", ".retry.on", "ever sent again"),
        ("cors: {}", ".cors", "missing field `origins`"),
        ("cors: {origins: []}", ".cors.origins", "no origin"),
        ("cors: {origins: [a.test]}", ".cors.origins[0]", "not an origin"),
        ("cors: {origins: ['https://a.test/']}", ".cors.origins[0]", "not an origin"),
        ("cors: {origins: ['https://a.test.']}", ".cors.origins[0]", "not an origin"),
        ("cors: {origins: ['https://*']}", ".cors.origins[0]", "not an origin"),
        ("cors: {origins: ['https://*.*.a.test']}", ".cors.origins[0]", "not an origin"),
        ("cors: {origins: ['https://a.test:0']}", ".cors.origins[0]", "not an origin"),
        ("cors: {origins: ['null']}", ".cors.origins[0]", "not an origin"),
        ("cors: {origins: ['*'], credentials: true}", ".cors.credentials", "origin `*`"),
        ("cors: {origins: ['https://a.test'], credentials: true, expose: ['*']}", ".cors.expose", "means nothing"),
        ("cors: {origins: ['*'], max-age: 25h}", ".cors.max-age", "more than 24h"),
        ("split: [{workload: a, percent: 1}]", ".split[0].workload", "holds the route"),
        ("split: [{workload: b, percent: 1}, {workload: b, percent: 1}]", ".split[1].workload", "twice"),
        ("split: [{workload: b, percent: 60}, {workload: c, percent: 60}]", ".split", "120 percent"),
        ("split: [{workload: b, percent: 101}]", ".split", "101 percent"),
        ("split: [{workload: b, weight: 1}]", ".split[0].weight", "unknown field"),
        ("split-by: {cookie: id}", ".split-by", "without `split`"),
        ("split: [{workload: b, percent: 1}], split-by: {cookie: 'a=b'}", ".split-by.cookie", "not the name"),
        ("split: [{workload: b, percent: 1}], split-by: {address: x}", ".split-by", "none of"),
        ("weight: 10", ".weight", "unknown field"),
    ] {
        refuse(&text(route), &format!("[0]{field}"), message);
    }
    let routes = |routes: &str| format!("{C}http: {{routes: [{routes}]}}\n");
    for host in ["shop.lattice", "Lattice", "a.b.lattice.", "'*.lattice'", "'*.shop.lattice'"] {
        refuse(&routes(&format!("{{host: {host}}}")), "[0].host", "for calls of components");
    }
    read("methods: [POST, PUT], retry: {on: [503]}");
    let many = (0..17).map(|i| format!("x-{i}: a")).collect::<Vec<_>>().join(", ");
    refuse(&text(&format!("headers: {{{many}}}")), "[0].headers", "at most 16");
    refuse(&routes("{host: a, methods: [GET]}, {host: A., methods: [GET]}"), "[1]", "a/{GET} is there twice");
    refuse(&routes("{host: a, methods: [GET, PUT]}, {host: a, methods: [PUT]}"), "[1]", "http.routes[0] has all");
    for good in [
        "{host: a, methods: [PUT]}, {host: a, methods: [GET, PUT]}",
        "{host: a, methods: [GET]}, {host: a}",
        "{host: a, path: {exact: /b}}, {host: a, path: /b}, {host: a, path: {exact: /b/}}",
        "{host: a, headers: {x-a: '1'}}, {host: a, headers: {x-b: '1'}}",
    ] {
        assert!(parse(routes(good).as_bytes()).is_ok(), "{good}");
    }
}

#[test]
fn routes_clash_if_neither_is_more_telling_and_one_request_fits_both() {
    for (one, other, clash) in [
        ("", "", true),
        ("", "path: /b", false),
        ("path: /b", "path: {exact: /b}", false),
        ("path: {exact: /b}", "path: {exact: /b}", true),
        ("methods: [GET]", "", false),
        ("methods: [GET]", "methods: [PUT, GET]", true),
        ("methods: [GET]", "methods: [PUT]", false),
        ("headers: {x-a: '1'}", "headers: {x-a: '1'}", true),
        ("headers: {x-a: '1'}", "headers: {x-a: '2'}", false),
        ("headers: {x-a: '1'}", "headers: {x-b: '1'}", true),
        ("headers: {x-a: '1'}", "headers: {x-a: '1', x-b: '1'}", false),
        ("headers: {x-a: '12'}", "headers: {x-a: {prefix: '1'}}", true),
        ("headers: {x-a: '12'}", "headers: {x-a: {prefix: '2'}}", false),
        ("headers: {x-a: {prefix: '12'}}", "headers: {x-a: {prefix: '1'}}", true),
        ("headers: {x-a: {prefix: '12'}}", "headers: {x-a: {prefix: '13'}}", false),
        ("headers: {x-a: {present: true}}", "headers: {x-a: '1'}", true),
        ("query: {a: '1'}", "query: {a: '2'}", false),
        ("query: {a: '1'}", "headers: {a: '1'}", false),
        ("timeout: 1s, cors: {origins: ['*']}", "", true),
    ] {
        let (one, other) = (read(one), read(other));
        assert_eq!(one.clashes(&other), clash, "{one} {other}");
        assert_eq!(other.clashes(&one), clash, "{other} {one}");
    }
}

#[test]
fn path_prefixes_cover_whole_segments() {
    let api: PathPrefix = "/api/".parse().unwrap();
    assert_eq!(api.as_str(), "/api");
    for (path, rest) in [("/api", Some("")), ("/api/", Some("/")), ("/api/x", Some("/x")), ("/apis", None), ("/", None)]
    {
        assert_eq!(api.rest_of(path), rest, "{path}");
        assert_eq!(api.covers(path), rest.is_some(), "{path}");
    }
    assert!(PathPrefix::default().covers("/x"));
    let exact = PathMatch::Exact("/api/".parse().unwrap());
    assert!(exact.covers("/api/") && !exact.covers("/api") && !exact.covers("/api/x"));
}

#[test]
fn a_host_is_taken_by_patterns_from_the_most_telling_one_on() {
    let pattern = |text: &str| text.parse::<HostPattern>().unwrap();
    let mut patterns = ["*", "*.test", "a.b.test", "*.b.test", "b.test", "*.a.b.test"].map(pattern);
    patterns.sort_by_key(HostPattern::telling);
    let taking = |host: &str| -> Vec<String> {
        patterns.iter().filter(|pattern| pattern.covers(host)).map(ToString::to_string).collect()
    };
    assert_eq!(taking("a.b.test"), ["a.b.test", "*.b.test", "*.test", "*"]);
    assert_eq!(taking("b.test"), ["b.test", "*.test", "*"]);
    assert_eq!(taking("xb.test"), ["*.test", "*"]);
    assert_eq!(taking("other"), ["*"]);
}

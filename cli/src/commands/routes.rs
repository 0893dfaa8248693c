//! `lattice routes`: which requests lead where.

use crate::{
    Context,
    error::{Exit, Failure},
    output::{Cell, Table, Tone},
};
use lattice::{
    ctl::{RouteItem, RouteList, RouteShare},
    spec::{HostPattern, PathMatch, Route},
    subject::Topic,
};

/// List the routes of all workloads, or of a host as they are tried
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  lattice routes
  lattice routes shop.example.org         those that can take a request for it, as they are tried
  lattice routes shop.example.org/api/x   the same of a path: the first that fits takes the request
  lattice routes '*.example.org'          those that are written so
  lattice routes -o json | jq '.routes[] | select(.\"answered-by\"[0].ready == 0)'")]
pub struct Args {
    /// A host, perhaps with a path behind it, or a pattern as it stands in routes
    #[arg(value_name = "HOST[/PATH]|PATTERN")]
    host: Option<String>,
}

pub async fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let client = context.client().await?;
    let mut list: RouteList = client.ask(Topic::RouteList).await?;
    if let Some(asked) = &args.host {
        let asked = Asked::read(asked)?;
        asked.choose(&mut list.routes);
    }
    match list.routes.is_empty() {
        true => context.out.note("no such routes; `http.routes` of a spec makes them"),
        false if list.omitted > 0 => context.out.note(format_args!("and {} more routes", list.omitted)),
        false => {}
    }
    let names = || list.routes.iter().map(|item| item.route.to_string()).collect();
    let table = |paint| if list.routes.is_empty() { String::new() } else { table(&list.routes).render(paint) };
    context.out.show(&list, table, names)?;
    Ok(Exit::Ok)
}

/// Whose routes are shown.
#[derive(Debug, PartialEq)]
struct Asked {
    host: HostPattern,
    path: Option<String>,
}

impl Asked {
    fn read(text: &str) -> anyhow::Result<Self> {
        let text = text.split_once("://").map_or(text, |(_, rest)| rest);
        let (host, path) = text.find('/').and_then(|at| text.split_at_checked(at)).unwrap_or((text, ""));
        let path = path.split(['?', '#']).next().unwrap_or_default();
        let host = host.split_once(':').map_or(host, |(host, _port)| host);
        let host = host.parse().map_err(|error: String| Failure::usage(error))?;
        Ok(Self { host, path: (!path.is_empty()).then(|| path.to_owned()) })
    }

    fn choose(&self, routes: &mut Vec<RouteItem>) {
        routes.retain(|RouteItem { route, .. }| {
            let host = match &self.host {
                HostPattern::Exact(host) => route.host.covers(host),
                pattern => route.host == *pattern,
            };
            host && self.path.as_ref().is_none_or(|path| route.path.covers(path))
        });
        // Stable: those of one pattern stay in the order in which they are tried.
        routes.sort_by_key(|item| item.route.host.telling());
    }
}

fn table(routes: &[RouteItem]) -> Table {
    let mut table = Table::new(&["HOST", "PATH", "IF", "WORKLOAD", "READY", "DOES"]);
    for RouteItem { route, answered_by } in routes {
        let path = match &route.path {
            PathMatch::Prefix(prefix) => prefix.to_string(),
            PathMatch::Exact(path) => format!("{path} (exact)"),
        };
        let is_split = answered_by.len() > 1;
        let workload = |share: &RouteShare| match is_split {
            true => format!("{} {}%", share.workload, share.percent),
            false => share.workload.to_string(),
        };
        let ready = |share: &RouteShare| match share.replicas {
            _ if share.refused => "refused".to_owned(),
            Some(replicas) => format!("{}/{replicas}", share.ready),
            None => "missing".to_owned(),
        };
        let is_ready =
            |share: &RouteShare| !share.refused && share.replicas.is_some_and(|replicas| share.ready >= replicas);
        let all_ready = answered_by.iter().all(is_ready);
        table.row([
            route.host.to_string().into(),
            path.into(),
            or_dash(conditions(route).join(" ")),
            answered_by.iter().map(workload).collect::<Vec<_>>().join(", ").into(),
            Cell::new(
                answered_by.iter().map(ready).collect::<Vec<_>>().join(", "),
                if all_ready { Tone::Plain } else { Tone::Warn },
            ),
            or_dash(deeds(route).join(", ")),
        ]);
    }
    table
}

fn or_dash(text: String) -> Cell {
    if text.is_empty() { Cell::new("-", Tone::Dim) } else { text.into() }
}

/// What a request must be like beside host and path.
fn conditions(route: &Route) -> Vec<String> {
    let methods: Vec<String> = route.methods.iter().map(ToString::to_string).collect();
    let methods = Some(methods.join(",")).filter(|methods| !methods.is_empty());
    let headers = route.headers.iter().map(|(name, value)| format!("{name}{value}"));
    let query = route.query.iter().map(|(name, value)| format!("?{name}{value}"));
    methods.into_iter().chain(headers).chain(query).collect()
}

/// What is done to it.
fn deeds(route: &Route) -> Vec<String> {
    let rewrite = route.rewrite.as_ref().map(|rewrite| format!("rewrite {}", rewrite.prefix));
    let redirect = route.redirect.as_ref().map(|redirect| format!("redirect {}", redirect.status));
    let timeout = route.timeout.map(|timeout| format!("timeout {timeout}"));
    let limit = route.body_limit.map(|limit| format!("body-limit {limit}"));
    let retry = route.retry.as_ref().map(|retry| {
        let on: Vec<String> = retry.on.iter().map(ToString::to_string).collect();
        if on.is_empty() { format!("attempts {}", retry.attempts) } else { format!("retry {}", on.join("/")) }
    });
    let cors = route.cors.as_ref().map(|_| "cors".to_owned());
    let sticky = route.sticky.as_ref().map(|_| "sticky".to_owned());
    [rewrite, redirect, timeout, limit, retry, cors, sticky].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Paint;

    #[test]
    fn a_host_leads_to_the_routes_that_can_take_it() {
        let routes =
            "{host: '*'}, {host: '*.a.test', path: /x}, {host: b.a.test, path: /x/y}, {host: '*.test'}, {host: c.test}";
        let text = format!("name: shop\ncomponents: [{{name: a, source: 'file:a'}}]\nhttp: {{routes: [{routes}]}}");
        let routes = lattice::spec::parse(text.as_bytes()).unwrap().http.routes;
        let shown = |asked: &str| -> Vec<String> {
            let of = |route: &Route| RouteItem { route: route.clone(), answered_by: Vec::new() };
            let mut items: Vec<RouteItem> = routes.iter().map(of).collect();
            Asked::read(asked).unwrap().choose(&mut items);
            items.into_iter().map(|item| item.route.to_string()).collect()
        };
        assert_eq!(shown("B.a.test:8080"), ["b.a.test/x/y", "*.a.test/x", "*.test/", "*/"]);
        assert_eq!(shown("https://b.a.test/x/z?q"), ["*.a.test/x", "*.test/", "*/"]);
        assert_eq!(shown("d.a.test/x/y"), ["*.a.test/x", "*.test/", "*/"]);
        assert_eq!(shown("*.a.test"), ["*.a.test/x"]);
        assert_eq!(shown("*"), ["*/"]);
        assert_eq!(shown("localhost"), ["*/"]);
        assert!(Asked::read("a b").is_err());
    }

    #[test]
    fn one_line_a_route() {
        let text = b"name: shop\ncomponents: [{name: a, source: 'file:a'}]\nhttp: {routes: [\
            {host: a.test}, {host: a.test, path: {exact: /b}, methods: [GET, PUT], query: {q: {present: true}}, \
            rewrite: {prefix: /}, retry: {on: [502, 503]}, timeout: 1s, split: [{workload: next, percent: 10}]}]}";
        let routes = lattice::spec::parse(text).unwrap().http.routes;
        let share = |workload: &str, percent, replicas| RouteShare {
            workload: workload.parse().unwrap(),
            percent,
            ready: 1,
            replicas,
            refused: false,
        };
        let of = [vec![share("shop", 100, Some(1))], vec![share("shop", 90, Some(3)), share("next", 10, None)]];
        let items: Vec<RouteItem> =
            routes.into_iter().zip(of).map(|(route, answered_by)| RouteItem { route, answered_by }).collect();
        assert_eq!(
            table(&items).render(Paint::off()),
            "HOST    PATH        IF          WORKLOAD            READY         DOES\n\
             a.test  /           -           shop                1/1           -\n\
             a.test  /b (exact)  GET,PUT ?q  shop 90%, next 10%  1/3, missing  rewrite /, timeout 1s, retry 502/503\n"
        );
    }
}

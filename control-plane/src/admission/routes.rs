//! Which routes there are, and who answers them. Derived from the view.

use super::answers::cut_to_fit;
use lattice::{
    ctl::{RouteItem, RouteList, RouteShare},
    id::WorkloadName,
    record::SpecRecord,
    spec::{PathMatch, Route},
    view::LatticeView,
};
use std::cmp::Reverse;

/// `room`: bytes of the routes.
pub(super) fn list(view: &LatticeView, room: usize) -> RouteList {
    let of = |record: &SpecRecord| -> Vec<RouteItem> {
        record.spec.http.routes.iter().map(|route| item(view, &record.spec.name, route)).collect()
    };
    let mut routes: Vec<RouteItem> = view.specs.values().flat_map(|spec| of(&spec.record)).collect();
    // Stable: of routes that are as telling the first of a spec stays the first.
    routes.sort_by(|one, other| key(&one.route).cmp(&key(&other.route)));
    let omitted = cut_to_fit(&mut routes, room);
    RouteList { routes, omitted }
}

/// By host as people sort them, by its labels from the last; then in the order in which routes are tried.
fn key(route: &Route) -> impl Ord + use<'_> {
    let host = route.host.to_string();
    let labels: Vec<String> = host.rsplit('.').map(str::to_owned).collect();
    let is_prefix = matches!(route.path, PathMatch::Prefix(_));
    (labels, is_prefix, Reverse(route.path.as_str().len()), route.path.as_str(), Reverse(route.rank()))
}

fn item(view: &LatticeView, holder: &WorkloadName, route: &Route) -> RouteItem {
    let given = route.split.iter().fold(0_u32, |sum, share| sum.saturating_add(share.percent));
    let own = share(view, holder, holder, 100_u32.saturating_sub(given));
    let others = route.split.iter().map(|other| share(view, holder, &other.workload, other.percent));
    RouteItem { route: route.clone(), answered_by: [own].into_iter().chain(others).collect() }
}

fn share(view: &LatticeView, holder: &WorkloadName, workload: &WorkloadName, percent: u32) -> RouteShare {
    let spec = view.specs.get(workload).map(|spec| &spec.record);
    let lets = |spec: &SpecRecord| spec.spec.http.callers.as_ref().is_none_or(|callers| callers.contains(holder));
    let refused = spec.is_some_and(|spec| workload != holder && !lets(spec));
    let serves = |uid: uuid::Uuid| {
        view.slots_of(workload).filter(move |(_, slot)| slot.record.uid == uid && slot.record.serving().is_some())
    };
    let ready = spec.map_or(0, |spec| serves(spec.uid).count());
    RouteShare {
        workload: workload.clone(),
        percent,
        ready: u32::try_from(ready).unwrap_or(u32::MAX),
        replicas: spec.map(|spec| view.replicas(spec)),
        refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice::{
        id::{Generation, Revision},
        view::Versioned,
    };
    use std::sync::Arc;

    const ROOM: usize = 512 * 1024;

    fn view(workloads: &[(&str, &str)]) -> LatticeView {
        let mut view = LatticeView::default();
        for (name, routes) in workloads {
            let text =
                format!("name: {name}\ncomponents: [{{name: a, source: 'file:a'}}]\nhttp: {{routes: [{routes}]}}\n");
            let spec = lattice::spec::parse(text.as_bytes()).unwrap();
            let record = SpecRecord::new(spec, uuid::Uuid::nil(), Generation::FIRST);
            view.specs.insert(record.spec.name.clone(), Arc::new(Versioned { record, revision: Revision(1) }));
        }
        view
    }

    #[test]
    fn routes_are_listed_in_the_order_in_which_they_are_tried() {
        let routes = list(
            &view(&[
                ("a", "{host: b.test}, {host: '*.test'}, {host: a.test, path: /x}, {host: a.test}"),
                ("b", "{host: a.test, path: {exact: /}}, {host: a.test, path: /x, methods: [GET]}, {host: '*'}"),
                (
                    "c",
                    "{host: a.test, path: /x, headers: {a: b}, split: [{workload: gone, percent: 10}, {workload: d, percent: 1}]}",
                ),
                ("d", "], callers: [e"),
            ]),
            ROOM,
        );
        let shown: Vec<String> = routes.routes.iter().map(|item| item.route.to_string()).collect();
        let expect =
            ["*/", "*.test/", "a.test/{exact}", "a.test/x{GET}", "a.test/x{a=b}", "a.test/x", "a.test/", "b.test/"];
        assert_eq!(shown, expect);
        let split = &routes.routes[4].answered_by;
        let split: Vec<_> =
            split.iter().map(|share| (share.workload.as_str(), share.percent, share.replicas, share.refused)).collect();
        assert_eq!(split, [("c", 89, Some(1), false), ("gone", 10, None, false), ("d", 1, Some(1), true)]);
    }

    #[test]
    fn however_many_there_are_the_answer_fits_a_message() {
        let many: Vec<String> = (0..256).map(|i| format!("{{host: a.test, path: /{i}{}}}", "x".repeat(800))).collect();
        let many = many.join(", ");
        let names: Vec<String> = (0..4).map(|i| format!("w{i}")).collect();
        let all: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), many.as_str())).collect();
        let routes = list(&view(&all), ROOM);
        assert_eq!(routes.routes.len() + routes.omitted, 4 * 256);
        assert!(routes.omitted > 0 && serde_json::to_vec(&routes).unwrap().len() < 2 * ROOM);
    }
}

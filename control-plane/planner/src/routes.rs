//! Which workload holds a route. Admission refuses a spec that asks for one that is taken.

use lattice::{
    id::{Revision, WorkloadName},
    record::SpecRecord,
    spec::{Route, WorkloadSpec},
    view::LatticeView,
};

/// The first route of a spec that clashes with one of another workload: its index, and the workload.
///
/// Two specs that are admitted at the same moment on two nodes can still clash; the route table then decides by revision.
pub fn conflict(view: &LatticeView, spec: &WorkloadSpec) -> Option<(usize, WorkloadName)> {
    spec.http.routes.iter().enumerate().find_map(|(index, wanted)| {
        let clashes =
            |other: &WorkloadSpec| other.name != spec.name && other.http.routes.iter().any(|held| held.clashes(wanted));
        let other = view.specs.values().find(|other| clashes(&other.record.spec))?;
        Some((index, other.record.spec.name.clone()))
    })
}

/// Leave out the routes of a record that gives a rollout up which another workload has taken since they were this one's: of
/// all specs, or of those from before a revision. Whether there were some. What the record loses it had lost already, by the
/// spec that is given up.
pub fn leave_taken(view: &LatticeView, record: &mut SpecRecord, before: Option<Revision>) -> bool {
    let name = record.spec.name.clone();
    let is_earlier = |revision: Revision| before.is_none_or(|before| revision < before);
    let holds = |other: &WorkloadSpec, route: &Route| other.http.routes.iter().any(|held| held.clashes(route));
    record.lose_routes(|route| {
        let mut others = view.specs.iter().filter(|(other, spec)| **other != name && is_earlier(spec.revision));
        let (holder, _) = others.find(|(_, spec)| holds(&spec.record.spec, route))?;
        Some(holder.clone())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice::{id::Generation, view::Versioned};
    use std::sync::Arc;

    fn spec(name: &str, version: u32, routes: &str) -> WorkloadSpec {
        let text = format!(
            "name: {name}\ncomponents: [{{name: a, source: 'file:a', env: {{V: '{version}'}}}}]\nhttp: {{routes: [{routes}]}}\n"
        );
        lattice::spec::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn what_is_given_up_takes_no_route_from_who_has_it_now() {
        let first =
            SpecRecord::new(spec("a", 1, "{host: a.test}, {host: b.test}"), uuid::Uuid::nil(), Generation::FIRST);
        let next = first.next(None, spec("a", 2, "{host: a.test}"), Default::default(), Default::default(), 0);
        let other = SpecRecord::new(spec("other", 1, "{host: b.test}"), uuid::Uuid::nil(), Generation::FIRST);
        let mut view = LatticeView::default();
        let mut put = |record: &SpecRecord, revision| {
            let versioned = Versioned { record: record.clone(), revision: Revision(revision) };
            view.specs.insert(record.spec.name.clone(), Arc::new(versioned));
        };
        put(&next, 2);
        let back = next.abort("no", 0).unwrap();
        put(&other, 5);
        let shown =
            |record: &SpecRecord| -> Vec<String> { record.spec.http.routes.iter().map(ToString::to_string).collect() };
        for (before, left, loss) in [
            (None, vec!["a.test/"], Some("without b.test/, which other has taken")),
            (Some(6), vec!["a.test/"], Some("without b.test/, which other has taken")),
            (Some(4), vec!["a.test/", "b.test/"], None),
        ] {
            let mut record = back.clone();
            assert_eq!(leave_taken(&view, &mut record, before.map(Revision)), loss.is_some());
            assert_eq!(
                (shown(&record), record.aborted.as_ref().unwrap().loss().as_deref()),
                (left.iter().map(|route| (*route).to_owned()).collect(), loss)
            );
            assert_eq!(record.hash, record.spec.content_hash());
            assert_eq!(conflict(&view, &record.spec).is_some(), loss.is_none(), "admission would say so too");
            assert!(record.runs_like(&first), "only what is around the replicas differs");
        }
    }
}

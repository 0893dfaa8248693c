//! What in a spec is not as one may expect, and no error. What has no effect as things are: workloads may be put in any
//! order, and the other one may come. What is slow.

use super::{
    compose::Slow,
    explain::{Blame, field_of, kind_of},
};
use lattice::{
    account::Login,
    ctl::PutWarning,
    host::SlowCall,
    messaging::{BacklogError, Messaging},
    spec::{Share, WorkloadSpec},
    store::Platform,
    view::LatticeView,
};
use std::collections::BTreeMap;

pub(super) fn of(view: &LatticeView, spec: &WorkloadSpec) -> Vec<PutWarning> {
    let shares = spec.http.routes.iter().enumerate().flat_map(|(number, route)| {
        let field = move |share: usize| format!("http.routes[{number}].split[{share}].workload");
        route.split.iter().enumerate().map(move |(at, share)| (field(at), share))
    });
    shares.filter_map(|(field, share)| Some(PutWarning { field, message: of_share(view, spec, share)? })).collect()
}

fn of_share(view: &LatticeView, spec: &WorkloadSpec, Share { workload, percent }: &Share) -> Option<String> {
    let name = &spec.name;
    let Some(other) = view.specs.get(workload) else {
        return Some(format!("there is no workload {workload}: until there is, its {percent} % go to the others"));
    };
    let callers = other.record.spec.http.callers.as_ref()?;
    (!callers.contains(name)).then(|| {
        format!(
            "{workload} does not let {name} call it (http.callers): until it does, its {percent} % go to the others"
        )
    })
}

/// A consumer that is not there yet, or has another name.
pub(super) async fn of_backlog(
    platform: &Platform,
    messaging: &dyn Messaging,
    spec: &WorkloadSpec,
) -> Option<PutWarning> {
    let target = spec.autoscale.as_ref()?.target.pending()?;
    // One that can't be had has been told of as an error.
    let login = Login::of(platform, &spec.name, &spec.grants, &BTreeMap::new()).await.ok()?;
    let error = messaging.pending(&login, target).await.err()?;
    let until = match error {
        BacklogError::Missing { .. } => "until there is",
        BacklogError::Unknown { .. } => "until it can",
    };
    let message = format!("{error}: {until}, the number of replicas does not change");
    Some(PutWarning { field: "autoscale.target.pending".to_owned(), message })
}

/// Calls through the host that pass each byte of a list apart.
pub(super) fn of_slow_calls(spec: &WorkloadSpec, slow: &[Slow]) -> Vec<PutWarning> {
    let warning = |Slow { from, to, call: SlowCall { import, function } }: &Slow| PutWarning {
        field: field_of(spec, to, Blame::Role).unwrap_or_else(|| "components".into()),
        message: format!(
            "{from} calls {function} of {import} in {to}, which {}, and passes bytes within other values, one by one: that is \
             a thousand times slower than a `list<u8>` of its own, as a parameter or a result",
            kind_of(spec, to)
        ),
    };
    slow.iter().map(warning).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice::{
        id::{Generation, Revision},
        record::SpecRecord,
        view::Versioned,
    };
    use std::sync::Arc;

    fn spec(name: &str, http: &str) -> WorkloadSpec {
        let text = format!("name: {name}\ncomponents: [{{name: c, source: 'file:c'}}]\nhttp: {{{http}}}\n");
        lattice::spec::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn shares_of_nobody_and_of_who_is_not_let_are_told() {
        let mut view = LatticeView::default();
        for (name, http) in [("open", ""), ("closed", "callers: [other]"), ("named", "callers: [shop]")] {
            let record = SpecRecord::new(spec(name, http), uuid::Uuid::nil(), Generation::FIRST);
            view.specs.insert(name.parse().unwrap(), Arc::new(Versioned { record, revision: Revision(1) }));
        }
        let split = ["open", "closed", "named", "mispelt"].map(|name| format!("{{workload: {name}, percent: 5}}"));
        let shop =
            spec("shop", &format!("routes: [{{host: a.test}}, {{host: b.test, split: [{}]}}]", split.join(", ")));
        let told: Vec<(String, String)> =
            of(&view, &shop).into_iter().map(|warning| (warning.field, warning.message)).collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert_eq!(told[0].0, "http.routes[1].split[1].workload");
        assert!(told[0].1.contains("closed does not let shop call it"), "{told:?}");
        assert_eq!(told[1].0, "http.routes[1].split[3].workload");
        assert!(told[1].1.contains("there is no workload mispelt"), "{told:?}");
    }
}

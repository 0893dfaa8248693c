//! Whether components fit the profiles of NATS that their spec binds: what none of them has, a component that imports it would be
//! denied when it calls it.

use super::{compose::Made, put::Traits};
use lattice::{
    binding::misfit,
    ctl::{CtlError, ErrorCode},
    spec::WorkloadSpec,
};

/// `found`: in the components and services, in their order. What a sibling gives to a part is no matter of the node's.
pub(super) fn check(spec: &WorkloadSpec, found: &[Traits], made: Option<&Made>) -> Result<(), CtlError> {
    for (part, traits) in spec.parts().zip(found) {
        let (field, grants) = match part.grants {
            Some(grants) => (format!("{}.grants", part.field), grants),
            None => ("grants".to_owned(), &spec.grants),
        };
        let from_node =
            |interface: &String| made.is_none_or(|made| made.bound.contains(&(part.name.clone(), interface.clone())));
        let called = traits.bound.iter().filter(|called| from_node(&called.interface));
        let Some(misfit) = misfit(&grants.nats, called) else { continue };
        let error = CtlError::new(ErrorCode::Invalid, format!("{}: {}", part.name, misfit.text));
        return Err(error.field(format!("{field}.nats.{}", misfit.field)).hint(misfit.hint));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice::{binding::Called, ctl::Composed, id::Digest};

    #[test]
    fn each_part_is_held_to_its_grants_in_what_it_gets_from_the_node() {
        let kv = "lattice:nats/kv@0.1.0";
        let carts = "nats: {buckets: {carts: {bucket: b, profiles: [kv-reader]}}}";
        let source = Digest::of(b"one");
        let text = format!(
            "name: shop\ncomponents: [{{name: api, source: '{source}'}}, {{name: store, source: '{source}', isolate: true, \
             grants: {{{carts}}}}}]\n"
        );
        let spec = lattice::spec::parse(text.as_bytes()).unwrap();
        let called = Called { interface: kv.into(), function: "[method]bucket.put".into() };
        let writes = Traits { bound: [called].into(), ..Traits::default() };
        let made = |from_node: &[&str]| Made {
            recipe: Default::default(),
            uses_gpu: false,
            bound: from_node.iter().map(|part| (part.parse().unwrap(), kv.to_owned())).collect(),
            brief: Composed::new("api".parse().unwrap(), [].into_iter(), Vec::new()),
            slow: Vec::new(),
        };
        let found = [writes.clone(), writes];
        // The workload's own grants bind nothing.
        assert_eq!(check(&spec, &found, Some(&made(&["api"]))), Ok(()));
        let error = check(&spec, &found, Some(&made(&["api", "store"]))).unwrap_err();
        assert_eq!(error.field.as_deref(), Some("components[1].grants.nats.buckets.carts.profiles"));
        assert!(error.message.starts_with("store: the component imports `put`"), "{error}");
        // It is a sibling that takes the writes.
        assert_eq!(check(&spec, &found, Some(&made(&[]))), Ok(()));
    }
}

//! What a workload's guests may do with NATS through `lattice:nats`.

use super::{
    BucketName, MicroName, NatsAccount, ObjectsGrant, SpecError, StoreName, StreamGrant, StreamGrants, Subject,
    SubjectPattern, account, is_default,
    profile::{self, BucketGrant, CoreNeeds, CoreOperation, CoreProfile, Profile},
    streams,
};
use crate::limits::GRANTS_MAX;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Queue groups whose names begin like this are those of workloads that handle messages.
const RESERVED_GROUPS: &str = "lattice-";

/// What a guest may do through `lattice:nats`. Nothing, unless it is listed here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct NatsGrants {
    /// As whom its guests are connected. Default as all that name no account: in the one of the lattice, apart from its own traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<NatsAccount>,
    /// Subjects on which it may publish and send requests: `orders.new`, `orders.*` (one token), `orders.>` (one or more).
    /// Subjects that begin with `$`, `_INBOX`, `_R_` or `lattice` are refused whatever is granted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub publish: Vec<SubjectPattern>,
    /// Subjects to which it may subscribe, in any queue group. One of these covers all that its filter can match; a filter begins
    /// with a word, so that `>` here is every subject but those that are refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub subscribe: Vec<SubjectPattern>,
    /// Micro services that it may ask which instances they have, and what these have done. To send them requests, `publish` covers
    /// their subjects. Names that begin with `lattice` are those of nodes, and refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub services: Vec<MicroName>,
    /// How it behaves with core NATS: the worlds of `wit/nats` by these names say what each one promises. Operations that none of
    /// them has are refused when the spec is put, where the component imports them, and denied when they are called. Default:
    /// every operation.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub profiles: BTreeSet<CoreProfile>,
    /// What the server must be like when the spec is put.
    #[serde(default, skip_serializing_if = "is_default")]
    pub require: CoreNeeds,
    /// KV buckets, by the names that it opens them by: `{carts: {bucket: shop-carts, profiles: [kv-cas], require: {replicas: 3}}}`.
    /// Its keys are NATS's own; `grants.keyvalue`, which is for `wasi:keyvalue`, writes keys of any text into the same buckets in
    /// NATS's letters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 256))]
    pub buckets: BTreeMap<StoreName, BucketGrant>,
    /// Streams of JetStream, by the names that it opens them by: `{orders: {stream: ORDERS, publish: ["orders.>"], read: [">"]}}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 256))]
    pub streams: StreamGrants,
    /// Object stores, by the names that it opens them by: `{files: {bucket: shop-files, access: read-only}}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 256))]
    pub objects: BTreeMap<StoreName, ObjectsGrant>,
}

impl NatsGrants {
    pub fn is_empty(&self) -> bool {
        is_default(self)
    }

    pub fn allow_publish(&self, subject: &Subject) -> bool {
        self.publish.iter().any(|granted| granted.matches(subject))
    }

    /// Whether all that the filter matches may be listened to. A filter that begins with a wildcard takes in what is
    /// reserved.
    pub fn allow_subscribe(&self, filter: &SubjectPattern) -> bool {
        !filter.begins_with_wildcard() && self.subscribe.iter().any(|granted| granted.covers(filter))
    }

    pub fn bucket(&self, name: &str) -> Option<(StoreName, &BucketGrant)> {
        let name: StoreName = name.parse().ok()?;
        let grant = self.buckets.get(&name)?;
        Some((name, grant))
    }

    /// Whether its profiles of core NATS have this operation.
    pub fn has(&self, operation: CoreOperation) -> bool {
        profile::allows(&self.profiles, operation)
    }

    pub fn stream(&self, name: &str) -> Option<(StoreName, &StreamGrant)> {
        let name: StoreName = name.parse().ok()?;
        let grant = self.streams.get(&name)?;
        Some((name, grant))
    }

    pub fn objects(&self, name: &str) -> Option<(StoreName, &ObjectsGrant)> {
        let name: StoreName = name.parse().ok()?;
        let grant = self.objects.get(&name)?;
        Some((name, grant))
    }

    /// Whether nodes that know the eighth schema would not read it.
    pub(super) fn is_of_schema_9(&self) -> bool {
        !self.services.is_empty()
            || self.buckets.values().any(|grant| grant.profiles.contains(&Profile::KvTransact))
            || self.streams.values().any(StreamGrant::is_of_schema_9)
    }

    /// The buckets behind the names.
    pub fn buckets(&self) -> impl Iterator<Item = (&StoreName, &BucketName)> {
        self.buckets.iter().map(|(name, grant)| (name, &grant.bucket))
    }
}

/// Whether a guest may join this queue group: a name, and not one by which a workload's replicas share its messages.
pub fn is_joinable(group: &str) -> bool {
    !group.get(..RESERVED_GROUPS.len()).is_some_and(|front| front.eq_ignore_ascii_case(RESERVED_GROUPS))
}

pub(super) fn check(field: &str, grants: &NatsGrants) -> Result<(), SpecError> {
    let counts = [
        ("publish", grants.publish.len()),
        ("subscribe", grants.subscribe.len()),
        ("services", grants.services.len()),
        ("buckets", grants.buckets.len()),
        ("objects", grants.objects.len()),
    ];
    for (name, count) in counts {
        if count > GRANTS_MAX {
            return Err(SpecError::new(format!("{field}.{name}"), format!("at most {GRANTS_MAX} grants are allowed")));
        }
    }
    if let Some(account) = &grants.account {
        account::check(&format!("{field}.account"), account)?;
    }
    if let Some(index) = grants.services.iter().position(MicroName::is_reserved) {
        let text = "is none of a guest's to ask: services whose names begin with lattice are nodes";
        return Err(SpecError::new(format!("{field}.services[{index}]"), text));
    }
    check_profiles(field, grants)?;
    streams::check(&format!("{field}.streams"), &grants.streams)?;
    grants.buckets.iter().try_for_each(|(name, grant)| profile::check(&format!("{field}.buckets.{name}"), grant))
}

/// A profile without subjects could do nothing, and subjects that no profile uses are a mistake.
fn check_profiles(field: &str, grants: &NatsGrants) -> Result<(), SpecError> {
    let uses = |profiles: &[CoreProfile]| profiles.iter().any(|profile| grants.profiles.contains(profile));
    let lists = [
        ("publish", &grants.publish, &[CoreProfile::Publisher, CoreProfile::Requester][..]),
        ("subscribe", &grants.subscribe, &[CoreProfile::Subscriber]),
    ];
    for (name, subjects, profiles) in lists.into_iter().filter(|_| !grants.profiles.is_empty()) {
        let field = format!("{field}.{name}");
        let names = profile::listed(profiles.iter().map(|profile| profile.as_str()));
        match (uses(profiles), subjects.is_empty()) {
            (true, true) => {
                let text = format!("the profile {names} needs a subject");
                return Err(SpecError::new(field, text).hint(format!("write {name}: [orders.new]")));
            }
            (false, false) => {
                let text = "none of the profiles uses these subjects";
                return Err(SpecError::new(field, text).hint(format!("add to profiles: {names}")));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(subscribe: &[&str]) -> NatsGrants {
        let subscribe = subscribe.iter().map(|text| text.parse().unwrap()).collect();
        NatsGrants { subscribe, ..Default::default() }
    }

    #[test]
    fn a_filter_must_be_covered_whole() {
        for (granted, filter, expect) in [
            ("a.*", "a.b", true),
            ("a.*", "a.*", true),
            ("a.*", "a.>", false),
            ("a.>", "a.>", true),
            ("a.>", "a.*.c", true),
            ("a.>", "a", false),
            ("a.b", "a.*", false),
            (">", "a.>", true),
            (">", ">", false),
            (">", "*.a", false),
            ("*.a", "*.a", false),
            ("*.a", "b.a", true),
        ] {
            let filter = filter.parse().unwrap();
            assert_eq!(grants(&[granted]).allow_subscribe(&filter), expect, "{granted} {filter}");
        }
        // Two grants together are not one.
        assert!(!grants(&["a.b", "a.c"]).allow_subscribe(&"a.*".parse().unwrap()));
        assert!(!NatsGrants::default().allow_publish(&"a".parse().unwrap()));
    }

    #[test]
    fn groups_of_workloads_are_not_joined() {
        for (group, expect) in
            [("workers", true), ("lattice-default-shop", false), ("LATTICE-x", false), ("lattice", true)]
        {
            assert_eq!(is_joinable(group), expect, "{group}");
        }
    }
}

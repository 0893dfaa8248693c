//! Parts of a workload that are not composed into the whole: services, and components that are lazy or isolated. Each
//! has instances, an environment and a fate of its own; the node links them to the whole.

use super::{ComponentSpec, Grants, SecretRefs, Source, SpecError, VolumeSpec, WorkloadSpec, grants, is_default};
use crate::{
    id::{ComponentName, ConfigName},
    limits::{COMPONENTS_MAX, ENTRIES_MAX, INSTANCE_MEMORY_BYTES_MAX, QUEUE_MAX, WALL_MAX},
    units::{Bytes, Millis},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

/// Restarts after which a service may give up, at most.
const GIVE_UP_AFTER_MAX: u32 = 1000;

/// A component that lives as long as its replica: one instance, which all instances of the replica call, and which may
/// also run a program of its own (`wasi:cli/run`). It keeps what they share: connections, counters, caches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ServiceSpec {
    /// Name of the service, unique among the components and services of the workload.
    pub name: ComponentName,
    /// Where its bytes are: `sha256:…` in the lattice's object store, or `file:PATH` (the CLI uploads it).
    pub source: Source,
    /// Environment variables of the service. It sees no others, and nobody else sees them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// What the service reads through `wasi:config/store`. Its own, like `env`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub config: BTreeMap<String, String>,
    /// Names of configuration in the lattice whose entries are put under those of `config`, as for a component. At most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub config_from: Vec<ConfigName>,
    /// The same for `env`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub env_from: Vec<ConfigName>,
    /// Secrets of the lattice that the service gets through `wasmcloud:secrets/store`, by these keys, as for a component. Its own,
    /// like `env`. At most 64.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub secrets: SecretRefs,
    /// What it may reach outside, in place of the workload's `grants`; `{}` is nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grants: Option<Grants>,
    /// Names of the workload's `volumes` that it sees too, where the workload sees them. It is the same directory: what one
    /// writes the other reads, within one size. Default none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub volumes: Vec<ComponentName>,
    /// Bounds on what it may use.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: ServiceLimits,
    /// What happens when it ends: it traps, runs into a limit, or its program returns.
    #[serde(default, skip_serializing_if = "is_default")]
    pub restart: RestartSpec,
}

impl ServiceSpec {
    /// With the default of everything else.
    pub fn new(name: ComponentName, source: Source) -> Self {
        let (env, config) = (BTreeMap::new(), BTreeMap::new());
        let (limits, restart) = (ServiceLimits::default(), RestartSpec::default());
        let (config_from, env_from, secrets) = (Vec::new(), Vec::new(), BTreeMap::new());
        Self {
            name,
            source,
            env,
            config,
            config_from,
            env_from,
            secrets,
            grants: None,
            volumes: Vec::new(),
            limits,
            restart,
        }
    }
}

/// Bounds on what one service may use, beside those of the workload: `limits.wall` holds for each call of it, and so does
/// `limits.cpu` unless it runs a program of its own. Each is enforced by the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct ServiceLimits {
    /// Linear memory of its instance; the replica reserves it beside its own `limits.memory`. Default `128MiB`.
    pub memory: Bytes,
    /// Calls that wait for their turn; more fail at once. Up to 65536, default 256.
    #[schemars(range(max = 65_536))]
    pub queue: u32,
}

impl Default for ServiceLimits {
    fn default() -> Self {
        Self { memory: Bytes::mib(128), queue: 256 }
    }
}

/// How a service that ended is started again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RestartSpec {
    /// Delay before the first restart. It doubles with each further one within ten minutes. Default `200ms`.
    pub backoff: Millis,
    /// Longest delay before a restart. Up to `1h`, default `30s`.
    pub backoff_max: Millis,
    /// Restarts within ten minutes after which the service gives up. Its replica has failed then, and is started again as
    /// a whole, with a delay of its own. 1 to 1000, default 10.
    #[schemars(range(min = 1, max = 1000))]
    pub give_up_after: u32,
}

impl Default for RestartSpec {
    fn default() -> Self {
        Self { backoff: Millis(200), backoff_max: Millis::from_secs(30), give_up_after: 10 }
    }
}

/// Why a part is not composed into the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PartRole {
    /// One of `services`.
    Service,
    /// `lazy: true`.
    Lazy,
    /// `isolate: true`.
    Isolated,
}

/// What components and services have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartSpec<'a> {
    /// Where it stands in the spec: `components[0]`.
    pub field: String,
    pub name: &'a ComponentName,
    pub source: &'a Source,
    pub env: &'a BTreeMap<String, String>,
    pub config: &'a BTreeMap<String, String>,
    /// Its own, where it has any.
    pub grants: Option<&'a Grants>,
    /// Of the workload's, those that it sees beside the whole.
    pub volumes: &'a [ComponentName],
    /// `None`: it is composed into the whole.
    pub role: Option<PartRole>,
}

impl ComponentSpec {
    /// Why it is not composed into the whole, where it is not.
    pub fn role(&self) -> Option<PartRole> {
        match self {
            Self { lazy: true, .. } => Some(PartRole::Lazy),
            Self { isolate: true, .. } => Some(PartRole::Isolated),
            _ => None,
        }
    }
}

impl WorkloadSpec {
    /// Components and services, in the order in which they are written.
    pub fn parts(&self) -> impl Iterator<Item = PartSpec<'_>> {
        let components = self.components.iter().enumerate().map(|(i, component)| {
            let ComponentSpec { name, source, env, config, grants, volumes, .. } = component;
            let (field, grants, role) = (format!("components[{i}]"), grants.as_ref(), component.role());
            PartSpec { field, name, source, env, config, grants, volumes, role }
        });
        let services = self.services.iter().enumerate().map(|(i, service)| {
            let ServiceSpec { name, source, env, config, grants, volumes, .. } = service;
            let (field, grants, role) = (format!("services[{i}]"), grants.as_ref(), Some(PartRole::Service));
            PartSpec { field, name, source, env, config, grants, volumes, role }
        });
        components.chain(services)
    }

    /// Where the bytes of components and services are, each with the path of the field.
    pub fn sources_mut(&mut self) -> impl Iterator<Item = (String, &mut Source)> {
        let components = self.components.iter_mut().enumerate();
        let components = components.map(|(i, part)| (format!("components[{i}].source"), &mut part.source));
        let services = self.services.iter_mut().enumerate();
        components.chain(services.map(|(i, part)| (format!("services[{i}].source"), &mut part.source)))
    }

    /// Memory that one replica reserves of its node: `limits.memory` for the whole and again for each component that is
    /// lazy or isolated, and the `limits.memory` of each service.
    pub fn memory_reserved(&self) -> u64 {
        let own = self.limits.memory.0;
        let hosted = self.components.iter().filter(|component| component.role().is_some()).map(|_| own);
        let services = self.services.iter().map(|service| service.limits.memory.0);
        hosted.chain(services).fold(own, u64::saturating_add)
    }
}

/// What types cannot say about components and services.
pub(super) fn check(spec: &WorkloadSpec) -> Result<(), SpecError> {
    let (components, services) = (spec.components.len(), spec.services.len());
    if components > COMPONENTS_MAX {
        return Err(SpecError::new("components", format!("at most {COMPONENTS_MAX} components are allowed")));
    }
    if components.saturating_add(services) > COMPONENTS_MAX {
        let message = format!("at most {COMPONENTS_MAX} components and services are allowed together");
        return Err(SpecError::new("services", message));
    }
    let parts: Vec<PartSpec<'_>> = spec.parts().collect();
    for (i, part) in parts.iter().enumerate() {
        if let Some(other) = parts.iter().take(i).find(|other| other.name == part.name) {
            let message = format!("{:?} is there twice: {}.name is the same", part.name, other.field);
            return Err(SpecError::new(format!("{}.name", part.field), message));
        }
        for (what, entries) in [("env", part.env), ("config", part.config)] {
            check_entries(&format!("{}.{what}", part.field), entries)?;
        }
        if let Some(grants) = part.grants {
            let field = format!("{}.grants", part.field);
            if part.role.is_none() {
                let message =
                    "is for services, and for components that are lazy or isolated: others share one instance";
                return Err(SpecError::new(field, message)
                    .hint("write `isolate: true` beside it, or the `grants` of the workload"));
            }
            grants::check(&field, grants)?;
        }
        check_volumes(part, &spec.volumes)?;
    }
    for (i, component) in spec.components.iter().enumerate() {
        check_component(&format!("components[{i}]"), component, parts.len())?;
    }
    for (i, service) in spec.services.iter().enumerate() {
        check_service(&format!("services[{i}]"), service)?;
    }
    Ok(())
}

fn check_volumes(part: &PartSpec<'_>, volumes: &[VolumeSpec]) -> Result<(), SpecError> {
    let field = |i: usize| format!("{}.volumes[{i}]", part.field);
    if part.role.is_none() && !part.volumes.is_empty() {
        let message = "is for services, and for components that are lazy or isolated: others see all volumes";
        return Err(SpecError::new(format!("{}.volumes", part.field), message).hint("leave it out"));
    }
    for (i, name) in part.volumes.iter().enumerate() {
        if part.volumes.iter().take(i).any(|other| other == name) {
            return Err(SpecError::new(field(i), format!("{name} is there twice")));
        }
        if !volumes.iter().any(|volume| volume.name == *name) {
            let names: Vec<&str> = volumes.iter().map(|volume| volume.name.as_str()).collect();
            let there = if names.is_empty() { "none".into() } else { names.join(", ") };
            return Err(SpecError::new(field(i), format!("the workload has no volume {name}; it has {there}"))
                .hint(format!("volumes: [{{name: {name}, mount: /{name}, empty: {{size: 64MiB}}}}]")));
        }
    }
    Ok(())
}

fn check_entries(field: &str, entries: &BTreeMap<String, String>) -> Result<(), SpecError> {
    if entries.len() > ENTRIES_MAX {
        return Err(SpecError::new(field, format!("at most {ENTRIES_MAX} entries are allowed")));
    }
    if let Some(key) = entries.keys().find(|key| key.is_empty() || key.contains(['=', '\0'])) {
        return Err(SpecError::new(field, format!("{key:?} is not a name: it is empty or contains '='")));
    }
    if let Some((key, _)) = entries.iter().find(|(_, value)| value.contains('\0')) {
        return Err(SpecError::new(format!("{field}.{key}"), "the value contains a NUL character"));
    }
    Ok(())
}

fn check_component(field: &str, component: &ComponentSpec, parts: usize) -> Result<(), SpecError> {
    if component.lazy && component.isolate {
        let message = "is set beside `lazy`, which keeps it out of the composition already";
        return Err(SpecError::new(format!("{field}.isolate"), message).hint("leave one of them out"));
    }
    for (is_set, name) in [(component.lazy, "lazy"), (component.isolate, "isolate")] {
        if is_set && parts == 1 {
            let message = "is set on the only component, which answers the requests itself";
            return Err(SpecError::new(format!("{field}.{name}"), message).hint("leave it out"));
        }
    }
    match component.idle {
        Some(_) if !component.lazy => Err(SpecError::new(format!("{field}.idle"), "is for lazy components only")
            .hint("write `lazy: true` beside it, or leave it out")),
        Some(idle) if Duration::from(idle) > WALL_MAX => {
            Err(SpecError::new(format!("{field}.idle"), format!("{idle} is more than {} s", WALL_MAX.as_secs())))
        }
        _ => Ok(()),
    }
}

fn check_service(field: &str, service: &ServiceSpec) -> Result<(), SpecError> {
    let ServiceSpec { limits, restart, .. } = service;
    let error = |name: &str, message: String| SpecError::new(format!("{field}.{name}"), message);
    for (name, is_zero) in [("limits.memory", limits.memory.0 == 0), ("restart.backoff", restart.backoff.0 == 0)] {
        if is_zero {
            return Err(error(name, "must be more than zero".into()));
        }
    }
    if limits.memory.0 > INSTANCE_MEMORY_BYTES_MAX {
        let most = Bytes(INSTANCE_MEMORY_BYTES_MAX);
        return Err(error("limits.memory", format!("{} is more than {most}", limits.memory)));
    }
    if limits.queue > QUEUE_MAX {
        return Err(error("limits.queue", format!("{} is more than {QUEUE_MAX}", limits.queue)));
    }
    if Duration::from(restart.backoff_max) > WALL_MAX {
        let message = format!("{} is more than {} s", restart.backoff_max, WALL_MAX.as_secs());
        return Err(error("restart.backoff-max", message));
    }
    if restart.backoff > restart.backoff_max {
        let message = format!("{} is more than restart.backoff-max ({})", restart.backoff, restart.backoff_max);
        return Err(error("restart.backoff", message));
    }
    if !(1..=GIVE_UP_AFTER_MAX).contains(&restart.give_up_after) {
        let message = format!("{} is not between 1 and {GIVE_UP_AFTER_MAX}", restart.give_up_after);
        return Err(error("restart.give-up-after", message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::parse;

    const API: &str = "name: a\ncomponents:\n  - {name: api, source: 'file:a', env: {A: '1'}}\n";

    fn refuse(text: &str, field: &str, message: &str) {
        let error = parse(text.as_bytes()).expect_err(text);
        assert_eq!(error.field, field, "{error:?} for {text}");
        assert!(error.message.contains(message), "{error:?} does not say {message:?} for {text}");
        assert!(error.hint.is_some(), "{error:?} for {text}");
    }

    #[test]
    fn what_is_not_composed_sees_the_volumes_that_it_names() {
        let volumes = "volumes: [{name: state, mount: /state, empty: {size: 1MiB}}]\n";
        let service = |names: &str| format!("{API}services: [{{name: pool, source: 'file:s', volumes: [{names}]}}]\n");
        let spec = parse(format!("{}{volumes}", service("state")).as_bytes()).unwrap();
        let seen: Vec<usize> = spec.parts().map(|part| part.volumes.len()).collect();
        assert_eq!(seen, [0, 1]);
        assert_eq!(parse(&serde_json::to_vec(&spec).unwrap()).unwrap(), spec);
        refuse(&service("state"), "services[0].volumes[0]", "the workload has no volume state; it has none");
        let other = format!("{}{volumes}", service("stat"));
        refuse(&other, "services[0].volumes[0]", "the workload has no volume stat; it has state");
        let twice = parse(format!("{}{volumes}", service("state, state")).as_bytes()).unwrap_err();
        assert_eq!((twice.field.as_str(), twice.message.as_str()), ("services[0].volumes[1]", "state is there twice"));
        let component =
            |more: &str| format!("{API}  - {{name: rare, source: 'file:r', volumes: [state]{more}}}\n{volumes}");
        assert!(parse(component(", isolate: true").as_bytes()).is_ok());
        refuse(&component(""), "components[1].volumes", "others see all volumes");
    }

    #[test]
    fn what_is_not_composed_has_an_environment_and_memory_of_its_own() {
        let text = format!(
            "{API}  - {{name: rare, source: 'file:r', env: {{A: '2'}}, lazy: true, idle: 5s}}\n  \
             - {{name: apart, source: 'file:p', env: {{A: '3'}}, isolate: true}}\nlimits: {{memory: 10MiB}}\n\
             services:\n  - {{name: pool, source: 'file:s', env: {{A: '4'}}, limits: {{memory: 7MiB}}}}\n  \
             - {{name: clock, source: 'file:c', restart: {{backoff: 1s, give-up-after: 3}}}}\n\
             compose: {{links: [{{from: api, import: 'x:y/z', to: pool}}]}}\n"
        );
        let spec = parse(text.as_bytes()).unwrap();
        assert_eq!(spec.env(), BTreeMap::from([("A".to_owned(), "1".to_owned())]));
        assert_eq!(spec.memory_reserved(), (3 * 10 + 7 + 128) << 20);
        let parts: Vec<(String, &str, Option<PartRole>)> =
            spec.parts().map(|part| (part.field, part.name.as_str(), part.role)).collect();
        assert_eq!(
            parts,
            [
                ("components[0]".to_owned(), "api", None),
                ("components[1]".to_owned(), "rare", Some(PartRole::Lazy)),
                ("components[2]".to_owned(), "apart", Some(PartRole::Isolated)),
                ("services[0]".to_owned(), "pool", Some(PartRole::Service)),
                ("services[1]".to_owned(), "clock", Some(PartRole::Service)),
            ]
        );
        let restart = &spec.services[1].restart;
        assert_eq!((restart.backoff, restart.backoff_max, restart.give_up_after), (Millis(1000), Millis(30_000), 3));
        assert_eq!(parse(&serde_json::to_vec(&spec).unwrap()).unwrap(), spec);
        let mut sources = spec.clone();
        assert_eq!(sources.sources_mut().last().unwrap().0, "services[1].source");
        // What has none of this is written, and hashed, as it was before.
        let plain = serde_json::to_string(&parse(API.as_bytes()).unwrap()).unwrap();
        assert!(["lazy", "isolate", "idle", "services"].iter().all(|field| !plain.contains(field)), "{plain}");
    }

    #[test]
    fn what_is_wrong_with_a_part_is_named_with_its_path() {
        refuse(
            "name: a\ncomponents: [{name: a, source: 'file:a', lazy: true}]",
            "components[0].lazy",
            "only component",
        );
        refuse(
            "name: a\ncomponents: [{name: a, source: 'file:a', lazy: maybe}]",
            "components[0].lazy",
            "true or false",
        );
        let with = |component: &str| format!("{API}  - {{name: b, source: 'file:b', {component}}}\n");
        refuse(&with("lazy: true, isolate: true"), "components[1].isolate", "beside `lazy`");
        refuse(&with("idle: 5s"), "components[1].idle", "lazy components only");
        refuse(&with("lazy: true, idle: 2h"), "components[1].idle", "more than");
        let service = |service: &str| format!("{API}services: [{{name: s, source: 'file:s', {service}}}]\n");
        refuse(&format!("{API}services: [{{name: api, source: 'file:s'}}]"), "services[0].name", "components[0].name");
        refuse(&format!("{API}services: [{{name: s}}]"), "services[0]", "missing field `source`");
        refuse(&service("lazy: true"), "services[0].lazy", "unknown field");
        refuse(&service("env: {'': x}"), "services[0].env", "not a name");
        refuse(&service("limits: {memory: 0B}"), "services[0].limits.memory", "more than zero");
        refuse(&service("limits: {memory: 2GiB}"), "services[0].limits.memory", "more than 1GiB");
        refuse(&service("limits: {queue: 65537}"), "services[0].limits.queue", "more than 65536");
        refuse(&service("limits: {wall: 1s}"), "services[0].limits.wall", "unknown field");
        refuse(&service("restart: {backoff: 0ms}"), "services[0].restart.backoff", "more than zero");
        refuse(&service("restart: {backoff: 1m}"), "services[0].restart.backoff", "backoff-max (30s)");
        refuse(&service("restart: {backoff-max: 2h}"), "services[0].restart.backoff-max", "more than");
        refuse(&service("restart: {give-up-after: 0}"), "services[0].restart.give-up-after", "between 1 and 1000");
        refuse(&service("restart: never"), "services[0].restart", "is text");
        let many: String = (0..32).map(|i| format!("{{name: s{i}, source: 'file:s'}}, ")).collect();
        refuse(&format!("{API}services: [{many}]"), "services", "32 components and services");
        let link = |to: &str| format!("{}compose: {{links: [{{from: s, import: 'x:y/z', to: {to}}}]}}", service(""));
        assert!(parse(link("api").as_bytes()).is_ok());
        refuse(&link("nobody"), "compose.links[0].to", "no component or service nobody");
    }
}

//! The components of one unit, from a recipe to an assembly: fetched, compiled, linked. All of them or none.

use crate::revealed::{Given, Revealed, reveal_all};
use bytes::Bytes;
use lattice::{
    host::Configs,
    id::{ComponentName, Digest},
    recipe::{HostEdge, HostedPart, Recipe},
    spec::{Optimize, PartRole, WorkloadSpec},
    store::Platform,
};
use lattice_runtime::{Assembly, Component, Edge, Part, Restart, Runtime};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a lazy component's unused instance is kept where the spec does not say.
const IDLE: Duration = Duration::from_secs(30);

/// What a fetch brought.
pub(crate) struct Fetched {
    pieces: BTreeMap<Digest, Piece>,
    pub(crate) revealed: Arc<Revealed>,
    /// Goes with bytes.
    _permit: Option<OwnedSemaphorePermit>,
}

enum Piece {
    /// To be compiled.
    Bytes(Bytes),
    /// Nothing was to be fetched: another replica runs it, or its code is on disk.
    Component(Component),
}

/// How an object is compiled: only what is composed has borders within it.
fn effort(digest: Digest, spec: &WorkloadSpec, recipe: &Recipe) -> Optimize {
    if recipe.artifact == Some(digest) { spec.compose.optimize } else { Optimize::Default }
}

/// Bring what is not here. One permit is for all objects of a unit: two units that each wait for the other's second
/// would wait for ever. Together they are as large as a component can be.
pub(crate) async fn fetch(
    spec: &WorkloadSpec,
    recipe: &Recipe,
    runtime: &Runtime,
    (platform, configs): (&Platform, &Configs),
    fetches: Arc<Semaphore>,
) -> Result<Fetched, String> {
    if recipe.artifact.is_none() {
        return Err("the spec names no stored component".into());
    }
    let artifacts = &platform.artifacts;
    let revealed = reveal_all(platform, spec, configs).await?;
    let mut fetched = Fetched { revealed, pieces: BTreeMap::new(), _permit: None };
    for digest in recipe.digests() {
        let Some(component) = runtime.loaded_as(&digest, effort(digest, spec, recipe)) else { continue };
        fetched.pieces.insert(digest, Piece::Component(component));
    }
    if recipe.digests().all(|digest| fetched.pieces.contains_key(&digest)) {
        return Ok(fetched);
    }
    let permit = fetches.acquire_owned().await.map_err(|_| "the host has ended".to_owned())?;
    for digest in recipe.digests() {
        if fetched.pieces.contains_key(&digest) {
            continue;
        }
        // Asked again: another replica may have brought it meanwhile.
        let piece = match runtime.load_cached_as(digest, effort(digest, spec, recipe)).await {
            Some(component) => Piece::Component(component),
            None => match artifacts.get(digest).await {
                Ok(Some(bytes)) => Piece::Bytes(bytes),
                Ok(None) => return Err(format!("{digest} is not in the object store: deploy the workload again")),
                Err(error) => return Err(error.to_string()),
            },
        };
        fetched.pieces.insert(digest, piece);
    }
    Ok(Fetched { _permit: Some(permit), ..fetched })
}

/// Compile what was fetched, and link it.
pub(crate) async fn assemble(
    fetched: Fetched,
    spec: &WorkloadSpec,
    recipe: &Recipe,
    runtime: &Runtime,
) -> Result<Assembly, String> {
    let mut components = BTreeMap::new();
    let revealed = fetched.revealed;
    for (digest, piece) in fetched.pieces {
        let component = match piece {
            Piece::Component(component) => component,
            Piece::Bytes(bytes) => {
                let loaded = runtime.load_as(digest, bytes, effort(digest, spec, recipe)).await;
                loaded.map_err(|error| error.to_string())?
            }
        };
        components.insert(digest, component);
    }
    let component = |digest: &Digest| {
        components.get(digest).cloned().ok_or_else(|| format!("{digest} is not among what was fetched"))
    };
    let main = component(&recipe.artifact.ok_or("the spec names no stored component")?)?;
    let given = |hosted: &HostedPart| revealed.part(&hosted.name);
    let parts = recipe.parts.iter().map(|hosted| part(spec, hosted, component(&hosted.digest)?, given(hosted)));
    let parts = parts.collect::<Result<Vec<_>, String>>()?;
    let edge = |HostEdge { from, import, to, export }: &HostEdge| Edge {
        from: from.clone(),
        import: import.clone(),
        to: to.clone(),
        export: export.clone(),
    };
    let edges = recipe.edges.iter().map(edge).collect();
    runtime.assemble(main, parts, edges).map_err(|error| error.to_string())
}

/// A hosted part with its settings in the spec.
fn part(spec: &WorkloadSpec, hosted: &HostedPart, component: Component, given: Given) -> Result<Part, String> {
    let Given { secrets, account } = given;
    let HostedPart { name, role, .. } = hosted;
    let missing =
        |name: &ComponentName| format!("the spec has no {name}, which was admitted: deploy the workload again");
    if *role == PartRole::Service {
        let service = spec.services.iter().find(|service| service.name == *name).ok_or_else(|| missing(name))?;
        let restart = Restart {
            backoff_min: service.restart.backoff.into(),
            backoff_max: service.restart.backoff_max.into(),
            restarts_max: service.restart.give_up_after,
            ..Restart::default()
        };
        let role = lattice_runtime::PartRole::Service { restart };
        return Ok(Part {
            env: service.env.clone(),
            config: service.config.clone(),
            secrets,
            grants: service.grants.clone(),
            account,
            volumes: names(&service.volumes),
            memory_bytes: Some(service.limits.memory.0),
            queue_max: service.limits.queue,
            probes: spec.probes.functions(Some(name)).cloned().collect(),
            ..Part::new(name.clone(), component, role)
        });
    }
    let own = spec.components.iter().find(|component| component.name == *name).ok_or_else(|| missing(name))?;
    let role = match role {
        PartRole::Lazy => lattice_runtime::PartRole::Lazy { idle: own.idle.map_or(IDLE, Duration::from) },
        PartRole::Isolated | PartRole::Service => lattice_runtime::PartRole::Isolated,
    };
    let (env, config, grants) = (own.env.clone(), own.config.clone(), own.grants.clone());
    let volumes = names(&own.volumes);
    Ok(Part { env, config, secrets, grants, account, volumes, ..Part::new(name.clone(), component, role) })
}

fn names(volumes: &[ComponentName]) -> Vec<String> {
    volumes.iter().map(ComponentName::to_string).collect()
}

//! Requests that change a spec. Each is one compare-and-set on one key, answered after the store acknowledged it.

use super::{
    Admission,
    answers::{count, cut_by_rank},
    blocking, body, expected_revision, profiles, unavailable, warnings,
};
use crate::given::stamps;
use lattice::{
    Fut,
    binding::{self, Called},
    ctl::{CtlError, DeleteReply, ErrorCode, HEADER_DRY_RUN, PutReply, RollbackRequest, ScaleRequest},
    event::EventKind,
    host::{Providers, Role},
    id::{Digest, Generation, Revision, WorkloadName},
    interface,
    limits::COMPONENT_BYTES_MAX,
    recipe::Recipe,
    record::{DecodeError, Key, Record as _, Rollout, SpecRecord},
    spec::{self, AutoscaleSpec, ConfigUpdate, GpuSpec, Source, SpecError, WorkloadSpec},
    store::{Bucket, Entry, Message, Precondition, StoreError},
    view::LatticeView,
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// Tries of one request against other writers of the same spec.
pub(super) const ATTEMPTS: usize = 8;
/// How long a request waits for its own write to show in the view.
const ECHO: Duration = Duration::from_secs(1);
/// What a write says beside the record: subject, headers.
const WRITE_HEADER_BYTES: usize = 1024;

/// What was found in a component.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Traits {
    /// It imports `wasi:webgpu`.
    pub(super) uses_gpu: bool,
    /// What it imports of the interfaces that profiles are about. Few have any.
    pub(super) bound: Arc<[Called]>,
    /// What it needs of a node that runs it alone: [`Recipe::needs`].
    pub(super) needs: BTreeSet<String>,
}

impl Traits {
    fn of(bytes: &[u8]) -> Self {
        let functions = lattice_composer::functions(bytes).unwrap_or_default();
        let uses_gpu = functions.keys().any(|import| is_gpu(import));
        let needs = needs_of(bytes, |_| false);
        let bound = functions.into_iter().filter(|(interface, _)| binding::is_bound(interface));
        let called = |(interface, functions): (String, Vec<String>)| {
            functions.into_iter().map(move |function| Called { interface: interface.clone(), function })
        };
        Self { uses_gpu, bound: bound.flat_map(called).collect(), needs }
    }
}

/// What a component needs of its node: all that it imports but what others provide.
pub(super) fn needs_of(bytes: &[u8], is_provided: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let called = lattice_composer::called(bytes).into_iter().flatten();
    called.filter(|import| !is_provided(import)).map(|import| interface::need(&import)).collect()
}

/// Whether an import is one of `wasi:webgpu`.
pub(super) fn is_gpu(import: &str) -> bool {
    import.starts_with("wasi:webgpu/")
}

/// Whether some node says that it offers what an import asks for. One that does not say so may be as old as this one.
pub(super) fn is_offered(view: &LatticeView, import: &str) -> bool {
    let need = interface::need(import);
    view.sessions.values().any(|session| session.record.offers.as_ref().is_some_and(|offers| offers.has(&need)))
}

/// The spec with the claim that a workload has which uses a GPU and does not say what of it.
fn with_claim(spec: WorkloadSpec, uses_gpu: bool) -> Result<WorkloadSpec, SpecError> {
    if !uses_gpu || spec.gpu.is_some() {
        return Ok(spec);
    }
    let spec = WorkloadSpec { gpu: Some(GpuSpec::of_an_import()), ..spec };
    // It was checked without it.
    spec::parse_value(&serde_json::to_value(&spec).unwrap_or_default())
}

/// What is in force under a key.
pub(super) struct Current {
    pub(super) revision: Option<Revision>,
    pub(super) record: Option<SpecRecord>,
}

impl Admission {
    /// Boxed: it holds several specs, and all other requests would carry the room for them.
    pub(super) fn put<'a>(&'a self, message: &'a Message) -> Fut<'a, Result<PutReply, CtlError>> {
        Box::pin(self.put_spec(message))
    }

    async fn put_spec(&self, message: &Message) -> Result<PutReply, CtlError> {
        let spec = spec::parse(&message.payload)?;
        let dry_run = match message.headers.get(HEADER_DRY_RUN).map(String::as_str) {
            None | Some("false") => false,
            Some("true") => true,
            Some(other) => {
                let text = format!("{other:?} is neither true nor false");
                return Err(CtlError::new(ErrorCode::Invalid, text).field(HEADER_DRY_RUN));
            }
        };
        let found = self.check_components(&spec).await?;
        let uses_gpu = found.iter().any(|traits| traits.uses_gpu);
        Box::pin(self.check_stores(&spec)).await?;
        let expected = expected_revision(message)?;
        let made = self.made_of(&spec, !dry_run).await?;
        profiles::check(&spec, &found, made.as_ref())?;
        let entry = made.as_ref().map(|made| &made.brief.entry);
        self.check_concurrency(&spec, entry).await?;
        self.check_probes(&spec, entry).await?;
        let alone =
            || Recipe { needs: found.iter().flat_map(|traits| traits.needs.clone()).collect(), ..Recipe::default() };
        let recipe = made.as_ref().map_or_else(alone, |made| made.recipe.clone());
        let spec = with_claim(spec, made.as_ref().map_or(uses_gpu, |made| made.uses_gpu))?;
        let mut warnings = warnings::of(&*self.view()?, &spec);
        warnings.extend(made.iter().flat_map(|made| warnings::of_slow_calls(&spec, &made.slow)));
        warnings.extend(warnings::of_backlog(&self.platform, &*self.messaging, &spec).await);
        let reply = if dry_run {
            self.preview(spec, &recipe, expected).await?
        } else {
            Box::pin(self.admit(spec, recipe, expected)).await?
        };
        Ok(PutReply { composition: made.map(|made| made.brief), warnings, ..reply })
    }

    /// Every component is in the store, and can run or be part of what does. Answers what was found in each, in their order.
    async fn check_components(&self, spec: &WorkloadSpec) -> Result<Vec<Traits>, CtlError> {
        if let Some(error) = spec::unresolved(spec) {
            return Err(error.into());
        }
        let role = if spec.only().is_some() { Role::of_whole(spec) } else { Role::Part };
        let mut found = Vec::new();
        for part in spec.parts() {
            let Source::Stored(digest) = part.source else { continue };
            let field = format!("{}.source", part.field);
            let size = self.platform.artifacts.size(*digest).await.map_err(|error| unavailable(&error))?;
            let bad = |text: String| CtlError::new(ErrorCode::BadComponent, text).field(field.clone());
            let Some(size) = size else {
                return Err(bad(format!("{digest} is not in the object store")).hint(
                    "upload it first: `lattice deploy` does it, or put it there under its SHA-256 in hexadecimal",
                ));
            };
            if size > COMPONENT_BYTES_MAX {
                return Err(bad(format!("{size} bytes are more than {COMPONENT_BYTES_MAX}"))
                    .hint("strip it: release builds without debug information are much smaller"));
            }
            // What is inside was looked at before; that it is there had to be looked at again.
            let _turn = self.inspecting.lock().await;
            if let Some(traits) = self.inspected(*digest, role) {
                found.push(traits);
                continue;
            }
            let bytes = self.platform.artifacts.get(*digest).await.map_err(|error| unavailable(&error))?;
            let bytes = bytes.ok_or_else(|| bad(format!("{digest} vanished from the object store")))?;
            let (inspect, view) = (self.inspect.clone(), self.view.borrow().clone());
            let look = move || {
                let providers = Providers { elsewhere: &|import| is_offered(&view, import), ..Providers::NONE };
                inspect(&bytes, role, &providers).map_err(|unfit| unfit.message)?;
                Ok(Traits::of(&bytes))
            };
            let verdict = blocking(look).await.unwrap_or_else(|| Err("its structure made the check fail".into()));
            let hint = match role {
                Role::Whole | Role::Concurrent => {
                    "deploy a WebAssembly component that exports wasi:http/incoming-handler@0.2 or wasi:http/handler@0.3"
                }
                Role::Handler | Role::WholeAndHandler => {
                    "take `messages` out of the spec, or deploy a WebAssembly component that exports \
                     wasmcloud:messaging/handler@0.2, and one of wasi:http/incoming-handler@0.2 and wasi:http/handler@0.3 where \
                     routes, schedules or probes ask it over HTTP"
                }
                Role::Part | Role::Hosted { .. } => {
                    "build it as a WebAssembly component, for example for the target wasm32-wasip2"
                }
            };
            let traits = verdict.map_err(|why| bad(why).hint(hint))?;
            self.note_inspected(*digest, role, traits.clone());
            found.push(traits);
        }
        Ok(found)
    }

    /// What was found in a component that can be used in a role, if it was looked at.
    pub(super) fn inspected(&self, digest: Digest, role: Role) -> Option<Traits> {
        self.inspected.lock().ok()?.get(&(digest, role)).cloned()
    }

    pub(super) fn note_inspected(&self, digest: Digest, role: Role, traits: Traits) {
        if let Ok(mut inspected) = self.inspected.lock() {
            if inspected.len() >= 4096 {
                inspected.clear();
            }
            inspected.insert((digest, role), traits);
        }
    }

    pub(super) async fn current(&self, workload: &WorkloadName) -> Result<Current, CtlError> {
        let key = Key::Spec(workload.clone()).to_string();
        let entry = self.platform.store.get(Bucket::Specs, &key).await.map_err(|error| unavailable(&error))?;
        let Some(Entry { value, revision, .. }) = entry else { return Ok(Current { revision: None, record: None }) };
        let record = match SpecRecord::decode(&value) {
            Ok(record) => Some(record),
            Err(error @ DecodeError::Newer(_)) => {
                return Err(CtlError::new(ErrorCode::Conflict, format!("{workload}: {error}")));
            }
            // Corrupt: what is put now repairs it, after the last good generation that this node saw.
            Err(DecodeError::Malformed(_)) => self.view.borrow().specs.get(workload).map(|spec| spec.record.clone()),
        };
        Ok(Current { revision: Some(revision), record })
    }

    /// How far a spec has come. From the store: what is stable follows from it, and the view may be late.
    pub(super) async fn rollout(&self, spec: &SpecRecord) -> Result<Option<Rollout>, CtlError> {
        if spec.stable.is_none() {
            return Ok(None); // all of it is stable
        }
        Ok(self.versioned_rollout(&spec.spec.name).await?.map(|(rollout, _)| rollout))
    }

    pub(super) fn check_expected(current: &Current, expected: Option<Revision>) -> Result<(), CtlError> {
        let Some(expected) = expected else { return Ok(()) };
        let actual = current.revision.unwrap_or(Revision(0));
        if actual == expected {
            return Ok(());
        }
        Err(CtlError::new(ErrorCode::Conflict, format!("the spec is at revision {actual}, not {expected}"))
            .hint("somebody changed it first: get it, apply your change again, put it with the new revision"))
    }

    fn check_routes(&self, spec: &WorkloadSpec) -> Result<(), CtlError> {
        let view = self.view()?;
        let Some((index, holder)) = lattice_planner::conflict(&view, spec) else { return Ok(()) };
        let route = spec.http.routes.get(index).map(ToString::to_string).unwrap_or_default();
        let text = format!("{route} clashes with a route of workload {holder}: the same request could take either");
        Err(CtlError::new(ErrorCode::Conflict, text).field(format!("http.routes[{index}]")).hint(format!(
            "choose another host or path, ask for more of a request (methods, headers, query), let {holder} share its route \
             by `split`, or delete {holder} first"
        )))
    }

    async fn preview(
        &self,
        spec: WorkloadSpec,
        recipe: &Recipe,
        expected: Option<Revision>,
    ) -> Result<PutReply, CtlError> {
        let current = self.current(&spec.name).await?;
        Self::check_expected(&current, expected)?;
        self.check_routes(&spec)?;
        let hash = spec.content_hash();
        let changed =
            current.record.as_ref().is_none_or(|record| record.hash != hash || !record.recipe.runs_like(recipe));
        let generation = current
            .record
            .as_ref()
            .map_or(Generation::FIRST, |record| if changed { record.generation.next() } else { record.generation });
        let mut plan = lattice_planner::preview(&*self.view()?, &spec, recipe);
        let omitted = cut_by_rank(&mut plan, self.room(), |slot| (slot.node.is_some(), slot.stays));
        Ok(PutReply {
            workload: spec.name.clone(),
            generation,
            revision: current.revision.unwrap_or(Revision(0)),
            hash,
            changed,
            plan: Some(plan),
            plan_omitted: count(omitted),
            composition: None,
            warnings: Vec::new(),
        })
    }

    async fn admit(
        &self,
        spec: WorkloadSpec,
        recipe: Recipe,
        expected: Option<Revision>,
    ) -> Result<PutReply, CtlError> {
        self.check_routes(&spec)?;
        let name = spec.name.clone();
        let before = match self.current(&name).await?.record {
            Some(before) => Some((before.is_settled(self.rollout(&before).await?.as_ref()), before)),
            None => None,
        };
        let reply = self.change(&name, expected, |_| Ok((spec.clone(), recipe.clone()))).await?;
        if reply.changed {
            self.settle_routes(&spec, &reply, before).await?;
        }
        Ok(reply)
    }

    /// Two workloads with one route may have been admitted at the same time. All specs have one order: whoever finds an
    /// earlier one with the same route takes its own back, and only one of the two does. `before` is what was in force, and
    /// whether it was rolled out whole.
    async fn settle_routes(
        &self,
        spec: &WorkloadSpec,
        reply: &PutReply,
        before: Option<(bool, SpecRecord)>,
    ) -> Result<(), CtlError> {
        let mut view = self.view.clone();
        let shown =
            view.wait_for(|view| view.seen.get(&Bucket::Specs).is_some_and(|seen| seen.head >= reply.revision.0));
        let timeout = self.platform.clock.sleep(ECHO);
        tokio::select! { // cancel-safe: both only wait
            biased;
            _ = shown => {}
            () = timeout => {}
        }
        let Err(conflict) = self.check_routes(spec) else { return Ok(()) };
        let view = self.view()?;
        let holder = lattice_planner::conflict(&view, spec).and_then(|(_, holder)| view.specs.get(&holder).cloned());
        if holder.is_none_or(|holder| holder.revision > reply.revision) {
            return Ok(()); // the other one takes its own back
        }
        let key = Key::Spec(spec.name.clone()).to_string();
        let undone = match before {
            None => self.platform.store.delete(Bucket::Specs, &key, reply.revision).await,
            Some((was_settled, before)) => {
                let current = self.current(&spec.name).await?;
                let taken = current.record.filter(|_| current.revision == Some(reply.revision));
                let Some(taken) = taken else { return Err(conflict) }; // somebody put another one since
                let record = before.again(was_settled, &taken);
                let expect = Precondition::At(reply.revision);
                self.platform.store.write(Bucket::Specs, &key, record.encode(), expect).await
            }
        };
        match undone {
            Ok(_) => Err(conflict),
            Err(error) => Err(unavailable(&error)),
        }
    }

    /// Replace the spec, and what its components were made into, by what `edit` makes of the current one, against other
    /// writers.
    async fn change(
        &self,
        name: &WorkloadName,
        expected: Option<Revision>,
        edit: impl Fn(Option<&SpecRecord>) -> Result<(WorkloadSpec, Recipe), CtlError>,
    ) -> Result<PutReply, CtlError> {
        let key = Key::Spec(name.clone()).to_string();
        let mut unanswered: Option<SpecRecord> = None;
        for _ in 0..ATTEMPTS {
            let current = self.current(name).await?;
            if let (Some(sent), Some(revision)) = (&unanswered, current.revision)
                && current.record.as_ref() == Some(sent)
            {
                return Ok(self.admitted(sent, revision).await); // it landed
            }
            Self::check_expected(&current, expected)?;
            let (spec, recipe) = edit(current.record.as_ref())?;
            let hash = spec.content_hash();
            if let (Some(record), Some(revision)) = (&current.record, current.revision)
                && record.hash == hash
                && record.recipe.runs_like(&recipe)
            {
                let generation = record.generation;
                let (workload, plan, composition) = (name.clone(), None, None);
                let warnings = Vec::new();
                return Ok(PutReply {
                    workload,
                    generation,
                    revision,
                    hash,
                    changed: false,
                    plan,
                    plan_omitted: 0,
                    composition,
                    warnings,
                });
            }
            let now = self.platform.clock.unix_ms();
            let configs = stamps(&*self.view()?, &spec);
            let record = match &current.record {
                Some(before) => before.next(self.rollout(before).await?.as_ref(), spec, recipe, configs, now),
                None => {
                    let first = SpecRecord::new(spec, self.platform.rng.uuid(), Generation::FIRST);
                    SpecRecord { recipe, configs, admitted_at: now, ..first }
                }
            };
            let expect = current.revision.map_or(Precondition::Absent, Precondition::At);
            let bytes = record.encode();
            self.check_size(&record, bytes.len())?;
            match self.platform.store.write(Bucket::Specs, &key, bytes, expect).await {
                Ok(revision) => return Ok(self.admitted(&record, revision).await),
                Err(StoreError::Conflict { .. }) => {}
                Err(StoreError::OutcomeUnknown { .. }) => unanswered = Some(record),
                Err(error) => return Err(unavailable(&error)),
            }
        }
        Err(CtlError::new(ErrorCode::Conflict, format!("{name} is being changed by others all the time"))
            .hint("try again, with an expected revision if the order matters"))
    }

    /// A record is one message.
    fn check_size(&self, record: &SpecRecord, size: usize) -> Result<(), CtlError> {
        let limit = self.platform.bus.payload_bytes_max().saturating_sub(WRITE_HEADER_BYTES);
        if size <= limit {
            return Ok(());
        }
        let with =
            if record.stable.is_some() { ", with the one that replicas run until they run this one," } else { "" };
        let text = format!("the record of this spec{with} has {size} bytes: more than the {limit} that fit a message");
        let hint = "make it smaller, by `config-from` for example, or raise max_payload of the NATS server";
        Err(CtlError::new(ErrorCode::Invalid, text).hint(hint))
    }

    async fn admitted(&self, record: &SpecRecord, revision: Revision) -> PutReply {
        let SpecRecord { spec, generation, .. } = record;
        let text = match &spec.autoscale {
            _ if spec.placement.daemon => format!("generation {generation}, a replica on each node"),
            Some(scale) => format!("generation {generation}, {} to {} replicas", scale.min, scale.max),
            None if spec.replicas == 1 => format!("generation {generation}, 1 replica"),
            None => format!("generation {generation}, {} replicas", spec.replicas),
        };
        self.events.send(EventKind::WorkloadAdmitted, &spec.name, text).await;
        put_reply(record, revision)
    }

    pub(super) async fn scale(&self, name: &WorkloadName, message: &Message) -> Result<PutReply, CtlError> {
        let ScaleRequest { replicas } = body(&message.payload, r#"{"replicas": 3}"#)?;
        if replicas > lattice::limits::REPLICAS_MAX {
            let text = format!("{replicas} is more than {}", lattice::limits::REPLICAS_MAX);
            return Err(CtlError::new(ErrorCode::Invalid, text).field("replicas"));
        }
        self.change(name, expected_revision(message)?, |current| {
            let current = current.ok_or_else(|| not_found(name))?;
            if current.spec.placement.daemon {
                let error = CtlError::new(ErrorCode::Invalid, format!("{name} has one replica on each node"));
                return Err(error.field("replicas").hint("say which nodes by placement.require, or delete it"));
            }
            if let Some(scale) = &current.spec.autoscale {
                let AutoscaleSpec { min, max, .. } = scale;
                let text = format!("{name} scales itself between {min} and {max}: what is set by hand would not last");
                return Err(CtlError::new(ErrorCode::Invalid, text).field("replicas").hint(format!(
                    "deploy it with autoscale: {{min: {replicas}, max: {}}}, or with replicas: {replicas} and no autoscale",
                    replicas.max(1)
                )));
            }
            Ok((WorkloadSpec { replicas, ..current.spec.clone() }, current.recipe.clone()))
        })
        .await
    }

    pub(super) async fn rollback(&self, name: &WorkloadName, message: &Message) -> Result<PutReply, CtlError> {
        let RollbackRequest { to_generation } = body(&message.payload, r#"{"to-generation": 2}, or nothing"#)?;
        let history = self.records(name).await?;
        let current = history.last().ok_or_else(|| not_found(name))?;
        let is_under_way = !current.is_settled(self.rollout(current).await?.as_ref());
        let stable = current.stable.as_deref().filter(|_| is_under_way);
        if let Some(stable) = stable.filter(|stable| to_generation.is_none_or(|to| to == stable.generation)) {
            // A put of it would be made for the configuration that is there now, and so be rolled out as well.
            if stable.spec.config_update() == ConfigUpdate::Roll || stable.asks_like(current) {
                let (record, revision) = self.abort(name, expected_revision(message)?).await?;
                return Ok(put_reply(&record, revision));
            }
            return self.put_again(stable, message).await;
        }
        // What was given up is not what anybody wants back, in whichever generation it came.
        let given_up: BTreeSet<Generation> =
            history.iter().filter_map(|record| Some(record.aborted.as_ref()?.generation)).collect();
        let is_given_up = |record: &&SpecRecord| given_up.contains(&record.generation);
        let templates: BTreeSet<Generation> =
            history.iter().filter(is_given_up).map(SpecRecord::template).chain(given_up.iter().copied()).collect();
        let is_before = |record: &&SpecRecord| {
            let is_other = record.hash != current.hash || !record.recipe.runs_like(&current.recipe);
            record.generation < current.generation && is_other && !templates.contains(&record.template())
        };
        let before = || history.iter().rev().filter(is_before);
        let target = match to_generation {
            Some(generation) => history.iter().rev().find(|record| record.generation == generation),
            // Where nothing else ever ran, what asked for something else: another number of replicas, say.
            None => before().find(|record| !record.asks_like(current)).or_else(|| before().next()),
        };
        let target = target.ok_or_else(|| {
            let is_first = to_generation.is_none() && history.len() == 1;
            let text = match to_generation {
                Some(generation) => format!("{name} has no generation {generation} in its history"),
                None if is_first => format!("{name} has one generation only: there is none to go back to"),
                None => format!(
                    "{name} has no generation to go back to: those before {} asked for the same, or were given up",
                    current.generation
                ),
            };
            let hint = match is_first {
                true => format!("deploy it as it should be, or `lattice delete {name}`"),
                false => format!(
                    "`lattice history {name}` shows what there is; `lattice rollback {name} N` goes to any of them"
                ),
            };
            CtlError::new(ErrorCode::NotFound, text).hint(hint)
        })?;
        self.put_again(target, message).await
    }

    async fn put_again(&self, target: &SpecRecord, message: &Message) -> Result<PutReply, CtlError> {
        self.check_routes(&target.spec)?;
        let edit = |_: Option<&SpecRecord>| Ok((target.spec.clone(), target.recipe.clone()));
        self.change(&target.spec.name, expected_revision(message)?, edit).await
    }

    pub(super) async fn delete(&self, name: &WorkloadName, message: &Message) -> Result<DeleteReply, CtlError> {
        let expected = expected_revision(message)?;
        let key = Key::Spec(name.clone()).to_string();
        let mut deleted = false;
        for _ in 0..ATTEMPTS {
            let current = self.current(name).await?;
            let Some(revision) = current.revision else {
                return Ok(DeleteReply { workload: name.clone(), deleted });
            };
            Self::check_expected(&current, expected)?;
            match self.platform.store.delete(Bucket::Specs, &key, revision).await {
                Ok(_) => {
                    self.events.send(EventKind::WorkloadDeleted, name, "deleted").await;
                    return Ok(DeleteReply { workload: name.clone(), deleted: true });
                }
                Err(StoreError::Conflict { .. }) => {}
                // If it landed, the next look finds nothing and the answer is that it was deleted.
                Err(StoreError::OutcomeUnknown { .. }) => deleted = true,
                Err(error) => return Err(unavailable(&error)),
            }
        }
        Err(CtlError::new(ErrorCode::Conflict, format!("{name} is being changed by others all the time")))
    }
}

fn put_reply(record: &SpecRecord, revision: Revision) -> PutReply {
    PutReply {
        workload: record.spec.name.clone(),
        generation: record.generation,
        revision,
        hash: record.hash,
        changed: true,
        plan: None,
        plan_omitted: 0,
        composition: None,
        warnings: Vec::new(),
    }
}

pub(super) fn not_found(name: &WorkloadName) -> CtlError {
    CtlError::new(ErrorCode::NotFound, format!("there is no workload {name}")).hint("see `lattice list`")
}

#[cfg(test)]
mod tests {
    use super::{super::testing::admission, *};

    #[test]
    fn a_record_that_fits_no_message_is_refused_with_what_is_too_much() {
        let (admission, platform) = admission();
        let source = Digest::of(b"one");
        let spec = |version: u32| {
            let text = format!("name: a\ncomponents: [{{name: api, source: '{source}', env: {{V: '{version}'}}}}]");
            spec::parse(text.as_bytes()).unwrap()
        };
        let one = SpecRecord::new(spec(1), uuid::Uuid::nil(), Generation::FIRST);
        let two = one.next(None, spec(2), Recipe::default(), Default::default(), 0);
        let most = platform.bus.payload_bytes_max() - WRITE_HEADER_BYTES;
        assert_eq!(admission.check_size(&two, most), Ok(()));
        for (record, part) in [(&one, "this spec has"), (&two, "with the one that replicas run")] {
            let error = admission.check_size(record, most + 1).unwrap_err();
            assert_eq!(error.code, ErrorCode::Invalid);
            assert!(error.message.contains(part) && error.message.contains(&most.to_string()), "{error}");
        }
    }
}

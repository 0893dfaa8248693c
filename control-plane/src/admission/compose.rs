//! Several components to one, and what the host joins to it, before anything is written: nodes see only the result, in
//! the object store by its digest, and a recipe. The rules are in `lattice-composer`; here is where the bytes come from
//! and go to, and what a person is told.

use super::explain::{explain, explain_unfit};
use super::{
    Admission, blocking,
    put::{is_gpu, is_offered, needs_of},
    unavailable,
};
use crate::Inspector;
use lattice::{
    binding::is_bound,
    ctl::{Composed, ComposedEdge, CtlError, ErrorCode},
    host::{Linked, Providers, Role, SlowCall, Unfit},
    id::{ComponentName, Digest},
    limits::COMPONENT_BYTES_MAX,
    recipe::{HostedPart, Recipe},
    spec::{PartRole, PartSpec, Source, WorkloadSpec},
};
use lattice_composer::{ComposeError, Composition, Part};
use std::collections::BTreeSet;

/// Compositions that a node remembers. Each takes a kilobyte or so, and never more than 100.
const REMEMBERED: usize = 1024;

/// What was made of several components and services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Made {
    /// It has an artifact.
    pub(super) recipe: Recipe,
    /// Something of it imports `wasi:webgpu` from the node.
    pub(super) uses_gpu: bool,
    /// Interfaces that profiles are about and that come from the node, and which part imports them.
    pub(super) bound: BTreeSet<(ComponentName, String)>,
    /// For whoever put the spec.
    pub(super) brief: Composed,
    /// The same, of calls through the host.
    pub(super) slow: Vec<Slow>,
}

/// A call through the host that is slow, and who makes it to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slow {
    pub(super) from: ComponentName,
    pub(super) to: ComponentName,
    pub(super) call: SlowCall,
}

/// Why parts make no unit.
enum Refused {
    Compose(Box<ComposeError>),
    /// They can be composed, but no node can run the whole (`None`) or what is to be linked to it.
    Unfit(Box<Composition>, Option<ComponentName>, Unfit),
}

impl Admission {
    /// What nodes are to run for a spec whose components were checked: nothing is made where there is one component only.
    /// With `store` all objects are in the object store afterwards.
    pub(super) async fn made_of(&self, spec: &WorkloadSpec, store: bool) -> Result<Option<Made>, CtlError> {
        if spec.only().is_some() {
            return Ok(None);
        }
        let inputs = inputs(spec);
        let _turn = self.inspecting.lock().await;
        let known = self.composed.lock().ok().and_then(|composed| composed.get(&inputs).cloned());
        if let Some(made) = known
            && (!store || self.are_stored(&made.recipe).await?)
        {
            return Ok(Some(made));
        }
        let (composition, slow, needs) = self.compose(spec).await?;
        tracing::info!(
            workload = %spec.name, artifact = %composition.digest, entry = %composition.entry,
            used = ?composition.used, hosted = ?composition.hosted, unused = ?composition.dropped, "composed"
        );
        let uses_gpu = composition.open.iter().any(|open| is_gpu(&open.import));
        let bound = composition.open.iter().filter(|open| is_bound(&open.import));
        let bound = bound.map(|open| (open.part.clone(), open.import.clone())).collect();
        let made = Made {
            recipe: Recipe { needs, ..recipe(spec, &composition) },
            uses_gpu,
            bound,
            brief: brief(&composition),
            slow,
        };
        // A single part may be all that is composed, and that one is there.
        if store && !self.are_stored(&made.recipe).await? {
            self.platform.artifacts.put(composition.bytes).await.map_err(|error| unavailable(&error))?;
        }
        if let Ok(mut composed) = self.composed.lock() {
            if composed.len() >= REMEMBERED {
                composed.clear();
            }
            composed.insert(inputs, made.clone());
        }
        Ok(Some(made))
    }

    async fn are_stored(&self, recipe: &Recipe) -> Result<bool, CtlError> {
        for digest in recipe.digests() {
            let size = self.platform.artifacts.size(digest).await.map_err(|error| unavailable(&error))?;
            if size.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn compose(&self, spec: &WorkloadSpec) -> Result<(Composition, Vec<Slow>, BTreeSet<String>), CtlError> {
        let bad = |text: String| CtlError::new(ErrorCode::BadComponent, text).field("components");
        let mut parts = Vec::new();
        let mut total = 0;
        for PartSpec { field, name, source, role, .. } in spec.parts() {
            let Source::Stored(digest) = *source else { continue };
            let bytes = self.platform.artifacts.get(digest).await.map_err(|error| unavailable(&error))?;
            let vanished = || bad(format!("{digest} vanished from the object store")).field(format!("{field}.source"));
            let bytes = bytes.ok_or_else(vanished)?;
            total += bytes.len() as u64;
            if total > COMPONENT_BYTES_MAX {
                let text = format!("components and services are more than {COMPONENT_BYTES_MAX} bytes together");
                return Err(bad(text).hint("strip them: release builds without debug information are much smaller"));
            }
            parts.push(Part { name: name.clone(), bytes, role });
        }
        let (how, inspect, role) = (spec.compose.clone(), self.inspect.clone(), Role::of_whole(spec));
        let (view, probes) = (self.view.borrow().clone(), spec.probes.clone());
        // Megabytes must not hold up what else this thread does, and a panic in it costs this request only.
        let composing = blocking(move || {
            let composition = match how.script() {
                Some(script) => lattice_composer::compose_script(&parts, script),
                None => lattice_composer::compose(&parts, &how.links),
            };
            let composition = composition.map_err(|error| Refused::Compose(Box::new(error)))?;
            let is_probed = |name: &ComponentName| probes.functions(Some(name)).next().is_some();
            let elsewhere = |import: &str| is_offered(&view, import);
            match check(role, &parts, &composition, &inspect, (&elsewhere, &is_probed)) {
                Ok(slow) => {
                    let needs = needs(&parts, &composition);
                    Ok((composition, slow, needs))
                }
                Err((part, unfit)) => Err(Refused::Unfit(Box::new(composition), part, unfit)),
            }
        });
        match composing.await {
            Some(Ok((composition, ..))) if composition.bytes.len() as u64 > COMPONENT_BYTES_MAX => {
                Err(bad(format!("the composition has more than {COMPONENT_BYTES_MAX} bytes")))
            }
            Some(Ok(made)) => Ok(made),
            Some(Err(Refused::Compose(error))) => Err(explain(spec, &error)),
            Some(Err(Refused::Unfit(composition, part, unfit))) => {
                Err(explain_unfit(spec, &composition, part.as_ref(), unfit))
            }
            None => Err(bad("their structure made the composition fail".into())
                .hint("compose them beforehand, for example with `wac`, and deploy the result")),
        }
    }
}

/// What is so of something that is named.
type Is<'a, T> = &'a (dyn Fn(&T) -> bool + 'a);

/// Whether nodes can run the whole (`None`) and what is linked to it. Answers what is slow about it.
fn check(
    role: Role,
    parts: &[Part],
    composition: &Composition,
    inspect: &Inspector,
    (elsewhere, is_probed): (Is<'_, str>, Is<'_, ComponentName>),
) -> Result<Vec<Slow>, (Option<ComponentName>, Unfit)> {
    let linked = |from: Option<&ComponentName>| -> Vec<Linked> {
        let edges = composition.host_edges.iter().filter(|edge| edge.from.as_ref() == from);
        let role = |to: &ComponentName| parts.iter().find(|part| part.name == *to).and_then(|part| part.role);
        // What has no role is composed, and no edge leads there.
        edges.filter_map(|edge| Some(Linked { import: edge.import.clone(), to: role(&edge.to)? })).collect()
    };
    let found = |from: Option<&ComponentName>, calls: Vec<SlowCall>| -> Vec<Slow> {
        let edge = |call: &SlowCall| {
            let mut edges = composition.host_edges.iter();
            edges.find(|edge| edge.from.as_ref() == from && edge.import == call.import)
        };
        let named = |call: SlowCall| {
            let edge = edge(&call)?;
            Some(Slow { from: composition.caller(edge).clone(), to: edge.to.clone(), call })
        };
        calls.into_iter().filter_map(named).collect()
    };
    let calls = inspect(&composition.bytes, role, &Providers { linked: &linked(None), elsewhere })
        .map_err(|unfit| (None, unfit))?;
    let mut slow = found(None, calls);
    for part in parts.iter().filter(|part| composition.hosted.contains(&part.name)) {
        let Some(role) = part.role else { continue };
        let is_called = composition.host_edges.iter().any(|edge| edge.to == part.name) || is_probed(&part.name);
        let providers = Providers { linked: &linked(Some(&part.name)), elsewhere };
        let calls = inspect(&part.bytes, Role::Hosted { role, is_called }, &providers)
            .map_err(|unfit| (Some(part.name.clone()), unfit))?;
        slow.extend(found(Some(&part.name), calls));
    }
    Ok(slow)
}

/// What the whole and its hosted parts need of a node.
fn needs(parts: &[Part], composition: &Composition) -> BTreeSet<String> {
    let needs = |from: Option<&ComponentName>, bytes: &[u8]| {
        let is_linked = |import: &str| {
            composition.host_edges.iter().any(|edge| edge.from.as_ref() == from && edge.import == import)
        };
        needs_of(bytes, is_linked)
    };
    let hosted = parts.iter().filter(|part| composition.hosted.contains(&part.name));
    let of_parts = hosted.flat_map(|part| needs(Some(&part.name), &part.bytes));
    needs(None, &composition.bytes).into_iter().chain(of_parts).collect()
}

/// What nodes are told.
fn recipe(spec: &WorkloadSpec, composition: &Composition) -> Recipe {
    let mut parts: Vec<HostedPart> = spec
        .parts()
        .filter(|part| composition.hosted.contains(part.name))
        .filter_map(|part| match (part.source, part.role) {
            (Source::Stored(digest), Some(role)) => Some(HostedPart { name: part.name.clone(), digest: *digest, role }),
            _ => None,
        })
        .collect();
    parts.sort_by(|a, b| a.name.cmp(&b.name));
    let (artifact, edges) = (Some(composition.digest), composition.host_edges.clone());
    Recipe { artifact, parts, edges, needs: BTreeSet::new() }
}

/// What a person wants to know of a composition.
fn brief(composition: &Composition) -> Composed {
    let edge = |edge: &lattice_composer::Edge| {
        ComposedEdge::new(edge.from.clone(), &edge.import, edge.to.clone(), &edge.export)
    };
    Composed::new(composition.entry.clone(), composition.graph.iter().map(edge), composition.dropped.clone())
}

/// A digest of all that a composition depends on: equal for specs that differ in the order of their parts only.
fn inputs(spec: &WorkloadSpec) -> Digest {
    let mut parts: Vec<(&ComponentName, String, Option<PartRole>)> =
        spec.parts().map(|part| (part.name, part.source.to_string(), part.role)).collect();
    parts.sort();
    let mut links: Vec<_> = spec.compose.links.iter().collect();
    links.sort();
    // Names and text only: it can't fail.
    let probed: Vec<&ComponentName> = spec
        .services
        .iter()
        .map(|service| &service.name)
        .filter(|name| spec.probes.functions(Some(name)).next().is_some())
        .collect();
    Digest::of(&serde_json::to_vec(&(parts, links, &spec.compose.wac, probed)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{admission, message},
        *,
    };
    use lattice::{
        ctl::HEADER_DRY_RUN,
        id::WorkloadName,
        recipe::HostEdge,
        record::{Key, Record as _, SpecRecord},
        spec::GpuSpec,
        store::{Bucket, Platform},
    };
    use std::sync::Arc;

    /// A component that imports and exports instances with a function `f`.
    fn component(export: &str, import: Option<&str>) -> bytes::Bytes {
        let import = import.map_or_else(String::new, |import| {
            format!(r#"(import "{import}" (instance (export "f" (func (result u32)))))"#)
        });
        let text = format!(
            r#"(component {import}
                (core module $m (func (export "f") (result i32) (i32.const 1)))
                (core instance $i (instantiate $m))
                (func $f (result u32) (canon lift (core func $i "f")))
                (instance $own (export "f" (func $f)))
                (export "{export}" (instance $own)))"#
        );
        wat::parse_str(text).unwrap().into()
    }

    /// A spec of two components that fit together and a third that nothing needs, all in the object store.
    async fn hello(platform: &Platform) -> String {
        let front = component("wasi:http/incoming-handler@0.2.0", Some("x:y/z@1.0.0"));
        let front = platform.artifacts.put(front).await.unwrap();
        let back = platform.artifacts.put(component("x:y/z@1.0.0", None)).await.unwrap();
        let spare = platform.artifacts.put(component("x:y/w@1.0.0", None)).await.unwrap();
        let parts = [("front", front), ("back", back), ("spare", spare)];
        let parts: Vec<String> = parts.iter().map(|(name, at)| format!("{{name: {name}, source: '{at}'}}")).collect();
        format!("name: hello\ncomponents: [{}]\n", parts.join(", "))
    }

    async fn record(platform: &Platform) -> SpecRecord {
        let key = Key::Spec(WorkloadName::new("hello").unwrap()).to_string();
        SpecRecord::decode(&platform.store.get(Bucket::Specs, &key).await.unwrap().unwrap().value).unwrap()
    }

    #[tokio::test]
    async fn what_imports_webgpu_claims_a_gpu_whether_it_is_composed_or_not() {
        let (admission, platform) = admission();
        let http = "wasi:http/incoming-handler@0.2.0";
        let user = component(http, Some("wasi:webgpu/webgpu@0.3.0-rc.2"));
        let alone = platform.artifacts.put(user).await.unwrap();
        let front = platform.artifacts.put(component(http, Some("x:y/z@1.0.0"))).await.unwrap();
        let back = component("x:y/z@1.0.0", Some("wasi:webgpu/webgpu@0.3.0-rc.2"));
        let back = platform.artifacts.put(back).await.unwrap();
        let alone = format!("name: hello\ncomponents: [{{name: a, source: '{alone}'}}]\n");
        let both =
            format!("name: hello\ncomponents: [{{name: f, source: '{front}'}}, {{name: b, source: '{back}'}}]\n");
        for text in [alone.as_str(), &both] {
            assert!(admission.put(&message(text)).await.unwrap().changed, "{text}");
            assert_eq!(record(&platform).await.spec.gpu, Some(GpuSpec::of_an_import()), "{text}");
            assert!(!admission.put(&message(text)).await.unwrap().changed, "{text}");
        }
        // What is said is not changed, and what can't be had beside it is refused.
        let own = format!("{alone}gpu: {{memory: 1GiB}}\n");
        admission.put(&message(&own)).await.unwrap();
        assert_eq!(record(&platform).await.spec.gpu.map(|gpu| gpu.memory), Some(lattice::units::Bytes::mib(1024)));
        let watching = format!("{alone}config-update: watch\n");
        let error = admission.put(&message(&watching)).await.unwrap_err();
        assert_eq!(error.field.as_deref(), Some("config-update"));
        let plain = platform.artifacts.put(component(http, None)).await.unwrap();
        admission.put(&message(&format!("name: hello\ncomponents: [{{name: a, source: '{plain}'}}]"))).await.unwrap();
        assert_eq!(record(&platform).await.spec.gpu, None);
    }

    #[tokio::test]
    async fn what_is_put_is_composed_stored_and_recorded() {
        let (admission, platform) = admission();
        let text = hello(&platform).await;
        let parsed = spec(&text);

        let mut preview = message(&text);
        preview.headers.insert(HEADER_DRY_RUN.to_owned(), "true".to_owned());
        assert!(admission.put(&preview).await.unwrap().changed);
        let artifact = admission.made_of(&parsed, false).await.unwrap().unwrap().recipe.artifact.unwrap();
        assert_eq!(platform.artifacts.size(artifact).await.unwrap(), None, "a dry run stores nothing");

        let first = admission.put(&message(&text)).await.unwrap();
        assert!(first.changed);
        let name = |text: &str| ComponentName::new(text).unwrap();
        let edge = ComposedEdge::new(name("front"), "x:y/z@1.0.0", name("back"), "x:y/z@1.0.0");
        let expected = Composed::new(name("front"), [edge].into_iter(), vec![name("spare")]);
        assert_eq!(first.composition.as_ref(), Some(&expected));
        assert!(platform.artifacts.size(artifact).await.unwrap().is_some());
        let first = record(&platform).await;
        assert_eq!((first.recipe.artifact, first.runs().artifact), (Some(artifact), Some(artifact)));
        let again = admission.put(&message(&text)).await.unwrap();
        assert_eq!((again.changed, again.composition), (false, Some(expected)));
        assert!(!admission.put(&preview).await.unwrap().changed);

        admission.scale(&first.spec.name, &message(r#"{"replicas": 2}"#)).await.unwrap();
        let scaled = record(&platform).await;
        assert_eq!((scaled.recipe.artifact, scaled.spec.replicas), (Some(artifact), 2));
        admission.rollback(&first.spec.name, &message("")).await.unwrap();
        assert_eq!(record(&platform).await.recipe.artifact, Some(artifact));
    }

    #[tokio::test]
    async fn what_is_remembered_is_composed_again_when_the_object_store_lost_it() {
        let (admission, platform) = admission();
        let parsed = spec(&hello(&platform).await);
        let artifact = admission.made_of(&parsed, false).await.unwrap().unwrap().recipe.artifact.unwrap();
        // Remembered, but not stored.
        assert_eq!(admission.made_of(&parsed, true).await.unwrap().unwrap().recipe.artifact, Some(artifact));
        assert!(platform.artifacts.size(artifact).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn a_script_composes_in_place_of_the_rules() {
        let (admission, platform) = admission();
        let text = hello(&platform).await;
        let plain = admission.made_of(&spec(&text), false).await.unwrap().unwrap();
        let script = "package a:b; let front = new component:front { ... }; export front...;";
        let scripted = format!("{text}compose: {{wac: '{script}'}}\n");
        let apart = admission.made_of(&spec(&scripted), false).await.unwrap().unwrap();
        assert_ne!(
            apart.recipe.artifact, plain.recipe.artifact,
            "another script is another composition, also for what is remembered"
        );
        assert_eq!(apart.brief.dropped.len(), 2);
        let error = admission.put(&message(&scripted.replace("front...", "frond..."))).await.unwrap_err();
        assert_eq!((error.code, error.field.as_deref()), (ErrorCode::BadComponent, Some("compose.wac")));
        assert!(error.message.starts_with("line 1, column 62: "), "{error}");
        let file = admission.put(&message(&scripted.replace(script, "file:a.wac"))).await.unwrap_err();
        assert_eq!((file.code, file.field.as_deref()), (ErrorCode::Invalid, Some("compose.wac")));
    }

    #[tokio::test]
    async fn what_can_not_be_composed_changes_nothing() {
        let (admission, platform) = admission();
        let text = hello(&platform).await;
        let lone = text.replace("name: front", "name: z").replace("name: back", "name: y");
        let wrong = format!("{lone}compose: {{links: [{{from: y, import: 'a:b/c', to: z}}]}}\n");
        let error = admission.put(&message(&wrong)).await.unwrap_err();
        assert_eq!((error.code, error.field.as_deref()), (ErrorCode::BadComponent, Some("compose.links[0]")));
        let history = platform.store.history(Bucket::Specs, "spec.hello").await.unwrap();
        assert!(history.is_empty(), "{history:?}");
    }

    fn spec(text: &str) -> WorkloadSpec {
        let digest = Digest::of(b"");
        lattice::spec::parse(text.replace("DIGEST", &digest.to_string()).as_bytes()).unwrap()
    }

    const TWO: &str = "name: a\ncomponents: [{name: b, source: DIGEST}, {name: a, source: DIGEST}]\n\
                       compose: {links: [{from: a, import: 'x:y/z', to: b}]}";

    #[tokio::test]
    async fn what_is_hosted_is_recorded_and_asked_after() {
        let (mut admission, platform) = admission();
        let front = component("wasi:http/incoming-handler@0.2.0", Some("x:y/z@1.0.0"));
        let front = platform.artifacts.put(front).await.unwrap();
        let back = platform.artifacts.put(component("x:y/z@1.1.0", Some("x:y/w@1.0.0"))).await.unwrap();
        let deep = platform.artifacts.put(component("x:y/w@1.0.0", None)).await.unwrap();
        let text = format!(
            "name: hello\ncomponents: [{{name: front, source: '{front}'}}, {{name: deep, source: '{deep}', lazy: true}}]\n\
             services: [{{name: back, source: '{back}'}}]\n"
        );
        let asked = Arc::<std::sync::Mutex<Vec<String>>>::default();
        let log = asked.clone();
        admission.inspect = Arc::new(move |_, role, providers| {
            let linked = providers.linked;
            if role != Role::Part {
                let linked: Vec<_> = linked.iter().map(|linked| (&linked.import, linked.to)).collect();
                log.lock().unwrap().push(format!("{role:?} {linked:?}"));
            }
            match linked.iter().find(|linked| linked.import == "x:y/w@1.0.0") {
                Some(linked) => Err(Unfit {
                    message: "f passes a stream".into(),
                    missing: None,
                    uncrossable: Some(linked.import.clone()),
                }),
                None => Ok(Vec::new()),
            }
        });
        let error = admission.put(&message(&text)).await.unwrap_err();
        assert_eq!((error.code, error.field.as_deref()), (ErrorCode::BadComponent, Some("components[1].lazy")));
        assert_eq!(error.message, "back can't call deep, which is lazy: x:y/w@1.0.0: f passes a stream");
        assert_eq!(
            *asked.lock().unwrap(),
            [
                r#"Whole [("x:y/z@1.0.0", Service)]"#,
                "Hosted { role: Lazy, is_called: true } []",
                r#"Hosted { role: Service, is_called: true } [("x:y/w@1.0.0", Lazy)]"#
            ]
        );

        admission.inspect = Arc::new(|_, _, providers| {
            let slow = |linked: &Linked| SlowCall { import: linked.import.clone(), function: "f".into() };
            Ok(providers.linked.iter().map(slow).collect())
        });
        let reply = admission.put(&message(&text)).await.unwrap();
        let told: Vec<_> = reply.warnings.iter().map(|warning| (&*warning.field, &*warning.message)).collect();
        let [("services[0]", first), ("components[1].lazy", second)] = *told else { panic!("{told:?}") };
        assert!(first.starts_with("front calls f of x:y/z@1.0.0 in back, which is a service, and passes"), "{first}");
        assert!(second.starts_with("back calls f of x:y/w@1.0.0 in deep, which is lazy, and passes"), "{second}");
        assert_eq!(reply.composition.map(|brief| brief.edges.len()), Some(2));
        let name = |text: &str| ComponentName::new(text).unwrap();
        let edge = |from: Option<&str>, import: &str, to: &str, export: &str| HostEdge {
            from: from.map(name),
            import: import.into(),
            to: name(to),
            export: export.into(),
        };
        let expected = Recipe {
            artifact: Some(front),
            parts: vec![
                HostedPart { name: name("back"), digest: back, role: PartRole::Service },
                HostedPart { name: name("deep"), digest: deep, role: PartRole::Lazy },
            ],
            edges: vec![
                edge(None, "x:y/z@1.0.0", "back", "x:y/z@1.1.0"),
                edge(Some("back"), "x:y/w@1.0.0", "deep", "x:y/w@1.0.0"),
            ],
            needs: BTreeSet::new(),
        };
        assert_eq!(record(&platform).await.recipe, expected);
        assert!(!admission.put(&message(&text)).await.unwrap().changed);
        // The same components in another role are another workload.
        let isolated = text.replace("lazy: true", "isolate: true");
        assert!(admission.put(&message(&isolated)).await.unwrap().changed);
        assert_eq!(record(&platform).await.recipe.parts[1].role, PartRole::Isolated);
    }

    #[test]
    fn the_inputs_are_parts_and_links_in_whatever_order() {
        let swapped = TWO.replace(
            "{name: b, source: DIGEST}, {name: a, source: DIGEST}",
            "{name: a, source: DIGEST}, {name: b, source: DIGEST}",
        );
        assert_ne!(TWO, swapped);
        assert_eq!(inputs(&spec(TWO)), inputs(&spec(&swapped)));
        assert_eq!(inputs(&spec(TWO)), inputs(&spec(&format!("{TWO}\nreplicas: 3"))));
        assert_ne!(inputs(&spec(TWO)), inputs(&spec(&TWO.replace("x:y/z", "x:y/w"))));
        assert_ne!(
            inputs(&spec(TWO)),
            inputs(&spec(
                &TWO.replace("name: b, source: DIGEST", &format!("name: b, source: {}", Digest::of(b"other")))
            ))
        );
    }
}

//! Several components to one, before anything is written: nodes see only the result, in the object store by its digest.
//! The rules are in `lattice-composer`; here is where the bytes come from and go to, and what a person is told.

use super::{Admission, blocking, unavailable};
use lattice::{
    ctl::{Composed, ComposedEdge, CtlError, ErrorCode},
    host::{Role, Unfit},
    id::{ComponentName, Digest},
    limits::COMPONENT_BYTES_MAX,
    spec::{Source, WorkloadSpec},
};
use lattice_composer::{ComposeError, Composition, Part};

/// Compositions that a node remembers. Each takes a kilobyte or so, and never more than 100.
const REMEMBERED: usize = 1024;

/// What several components were composed into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Artifact {
    pub(super) digest: Digest,
    /// For whoever put the spec.
    pub(super) brief: Composed,
}

/// Why parts make no unit.
enum Refused {
    Compose(ComposeError),
    /// They can be composed, but no node can run what comes out.
    Whole(Box<Composition>, Unfit),
}

impl Admission {
    /// What nodes are to run for a spec whose components were checked: nothing of its own where there is one component.
    /// With `store` the object is in the object store afterwards.
    pub(super) async fn artifact(&self, spec: &WorkloadSpec, store: bool) -> Result<Option<Artifact>, CtlError> {
        if spec.only().is_some() {
            return Ok(None);
        }
        let inputs = inputs(spec);
        let _turn = self.inspecting.lock().await;
        let known = self.composed.lock().ok().and_then(|composed| composed.get(&inputs).cloned());
        if let Some(artifact) = known
            && (!store || self.is_stored(artifact.digest).await?)
        {
            return Ok(Some(artifact));
        }
        let composition = self.compose(spec).await?;
        tracing::info!(
            workload = %spec.name, artifact = %composition.digest, entry = %composition.entry,
            used = ?composition.used, unused = ?composition.dropped, "composed"
        );
        let artifact = Artifact { digest: composition.digest, brief: brief(&composition) };
        // A single part may be all that is used, and that one is there.
        if store && !self.is_stored(artifact.digest).await? {
            self.platform.artifacts.put(composition.bytes).await.map_err(|error| unavailable(&error))?;
        }
        if let Ok(mut composed) = self.composed.lock() {
            if composed.len() >= REMEMBERED {
                composed.clear();
            }
            composed.insert(inputs, artifact.clone());
        }
        Ok(Some(artifact))
    }

    async fn is_stored(&self, digest: Digest) -> Result<bool, CtlError> {
        let size = self.platform.artifacts.size(digest).await.map_err(|error| unavailable(&error))?;
        Ok(size.is_some())
    }

    async fn compose(&self, spec: &WorkloadSpec) -> Result<Composition, CtlError> {
        let bad = |text: String| CtlError::new(ErrorCode::BadComponent, text).field("components");
        let mut parts = Vec::new();
        let mut total = 0;
        for (i, component) in spec.components.iter().enumerate() {
            let Source::Stored(digest) = component.source else { continue };
            let bytes = self.platform.artifacts.get(digest).await.map_err(|error| unavailable(&error))?;
            let vanished = || bad(format!("{digest} vanished from the object store")).field(source_field(i));
            let bytes = bytes.ok_or_else(vanished)?;
            total += bytes.len() as u64;
            if total > COMPONENT_BYTES_MAX {
                let text = format!("the components are more than {COMPONENT_BYTES_MAX} bytes together");
                return Err(bad(text).hint("strip them: release builds without debug information are much smaller"));
            }
            parts.push(Part { name: component.name.clone(), bytes });
        }
        let (links, inspect) = (spec.compose.links.clone(), self.inspect.clone());
        // Megabytes must not hold up what else this thread does, and a panic in it costs this request only.
        let composing = blocking(move || {
            let composition = lattice_composer::compose(&parts, &links).map_err(Refused::Compose)?;
            match inspect(&composition.bytes, Role::Whole) {
                Ok(()) => Ok(composition),
                Err(unfit) => Err(Refused::Whole(Box::new(composition), unfit)),
            }
        });
        match composing.await {
            Some(Ok(composition)) if composition.bytes.len() as u64 > COMPONENT_BYTES_MAX => {
                Err(bad(format!("the composition has more than {COMPONENT_BYTES_MAX} bytes")))
            }
            Some(Ok(composition)) => Ok(composition),
            Some(Err(Refused::Compose(error))) => Err(explain(spec, &error)),
            Some(Err(Refused::Whole(composition, unfit))) => Err(explain_whole(spec, &composition, unfit)),
            None => Err(bad("their structure made the composition fail".into())
                .hint("compose them beforehand, for example with `wac`, and deploy the result")),
        }
    }
}

/// What a person wants to know of a composition.
fn brief(composition: &Composition) -> Composed {
    let edge = |edge: &lattice_composer::Edge| {
        ComposedEdge::new(edge.from.clone(), &edge.import, edge.to.clone(), &edge.export)
    };
    Composed::new(composition.entry.clone(), composition.graph.iter().map(edge), composition.dropped.clone())
}

/// A digest of all that a composition depends on: equal for specs that differ in the order of their components only.
fn inputs(spec: &WorkloadSpec) -> Digest {
    let mut parts: Vec<(&ComponentName, String)> =
        spec.components.iter().map(|part| (&part.name, part.source.to_string())).collect();
    parts.sort();
    let mut links: Vec<_> = spec.compose.links.iter().collect();
    links.sort();
    // Names and text only: it can't fail.
    Digest::of(&serde_json::to_vec(&(parts, links)).unwrap_or_default())
}

fn source_field(index: usize) -> String {
    format!("components[{index}].source")
}

fn field_of(spec: &WorkloadSpec, part: &ComponentName) -> Option<String> {
    spec.components.iter().position(|component| component.name == *part).map(source_field)
}

fn explain(spec: &WorkloadSpec, error: &ComposeError) -> CtlError {
    let linked = error.link().and_then(|(part, import)| {
        let links = &spec.compose.links;
        links.iter().position(|link| link.from == *part && link.import == import).map(|i| format!("compose.links[{i}]"))
    });
    let field = linked.or_else(|| field_of(spec, error.part()?)).unwrap_or_else(|| "components".into());
    CtlError::new(ErrorCode::BadComponent, error.to_string()).field(field).hint(error.hint())
}

/// Which part is to blame for what the whole lacks.
fn explain_whole(spec: &WorkloadSpec, composition: &Composition, unfit: Unfit) -> CtlError {
    let Unfit { message, missing } = unfit;
    let open = composition.open.iter().find(|open| Some(&open.import) == missing.as_ref());
    let Some(open) = open else {
        return CtlError::new(ErrorCode::BadComponent, format!("the composition can't run: {message}"))
            .field("components")
            .hint("deploy the components in question alone to see which one it is");
    };
    let text =
        format!("{} imports {}, which neither another component exports nor a node offers", open.part, open.import);
    let near: Vec<String> = open.near.iter().map(ToString::to_string).collect();
    let hint = if near.is_empty() {
        "add the component that exports it".to_owned()
    } else {
        format!("a version that does not fit is exported by {}", near.join(", "))
    };
    let field = field_of(spec, &open.part).unwrap_or_else(|| "components".into());
    CtlError::new(ErrorCode::BadComponent, text).field(field).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NodeOptions, Timing, events::Events};
    use lattice::{
        Fut,
        ctl::HEADER_DRY_RUN,
        id::{LatticeId, NodeId, WorkloadName},
        record::{Capacity, Key, Record as _, SpecRecord},
        store::{Bucket, Clock, Message, Platform, Rng},
        testing::MemoryLattice,
        view::{LatticeView, Seen},
    };
    use lattice_composer::{Exporter, OpenImport};
    use std::{collections::BTreeMap, sync::Arc, time::Duration};

    struct Fixed;

    impl Clock for Fixed {
        fn now(&self) -> Duration {
            Duration::ZERO
        }
        fn unix_ms(&self) -> u64 {
            0
        }
        fn sleep(&self, _: Duration) -> Fut<'static, ()> {
            Box::pin(std::future::ready(()))
        }
    }

    impl Rng for Fixed {
        fn u64(&self) -> u64 {
            7
        }
    }

    fn admission() -> (Admission, Platform) {
        let platform = MemoryLattice::new().platform(Arc::new(Fixed), Arc::new(Fixed));
        let options = Arc::new(NodeOptions {
            lattice: LatticeId::new("default").unwrap(),
            node: NodeId::new("n1").unwrap(),
            labels: BTreeMap::new(),
            version: String::new(),
            capacity: Capacity { memory: 1 << 30, slots: 4 },
            http: None,
            timing: Timing::DEV,
            drain: Duration::ZERO,
            data_dir: None,
        });
        let mut view = LatticeView::default();
        view.seen.extend(Bucket::ALL.map(|bucket| (bucket, Seen::default())));
        let view = tokio::sync::watch::channel(Arc::new(view)).1;
        let events = Events::new(&options, &platform);
        (Admission::new(options, platform.clone(), events, Arc::new(|_, _| Ok(())), view), platform)
    }

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

    fn message(payload: &str) -> Message {
        Message { payload: payload.to_owned().into(), ..Message::default() }
    }

    #[tokio::test]
    async fn what_is_put_is_composed_stored_and_recorded() {
        let (admission, platform) = admission();
        let text = hello(&platform).await;
        let parsed = spec(&text);

        let mut preview = message(&text);
        preview.headers.insert(HEADER_DRY_RUN.to_owned(), "true".to_owned());
        assert!(admission.put(&preview).await.unwrap().changed);
        let artifact = admission.artifact(&parsed, false).await.unwrap().unwrap().digest;
        assert_eq!(platform.artifacts.size(artifact).await.unwrap(), None, "a dry run stores nothing");

        let first = admission.put(&message(&text)).await.unwrap();
        assert!(first.changed);
        let name = |text: &str| ComponentName::new(text).unwrap();
        let edge = ComposedEdge::new(name("front"), "x:y/z@1.0.0", name("back"), "x:y/z@1.0.0");
        let expected = Composed::new(name("front"), [edge].into_iter(), vec![name("spare")]);
        assert_eq!(first.composition.as_ref(), Some(&expected));
        assert!(platform.artifacts.size(artifact).await.unwrap().is_some());
        let first = record(&platform).await;
        assert_eq!((first.artifact, first.runs()), (Some(artifact), Some(artifact)));
        let again = admission.put(&message(&text)).await.unwrap();
        assert_eq!((again.changed, again.composition), (false, Some(expected)));
        assert!(!admission.put(&preview).await.unwrap().changed);

        admission.scale(&first.spec.name, &message(r#"{"replicas": 2}"#)).await.unwrap();
        let scaled = record(&platform).await;
        assert_eq!((scaled.artifact, scaled.spec.replicas), (Some(artifact), 2));
        admission.rollback(&first.spec.name, &message("")).await.unwrap();
        assert_eq!(record(&platform).await.artifact, Some(artifact));
    }

    #[tokio::test]
    async fn what_is_remembered_is_composed_again_when_the_object_store_lost_it() {
        let (admission, platform) = admission();
        let parsed = spec(&hello(&platform).await);
        let artifact = admission.artifact(&parsed, false).await.unwrap().unwrap().digest;
        // Remembered, but not stored.
        assert_eq!(admission.artifact(&parsed, true).await.unwrap().unwrap().digest, artifact);
        assert!(platform.artifacts.size(artifact).await.unwrap().is_some());
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

    #[test]
    fn errors_name_the_field_and_the_remedy() {
        let spec = spec(TWO);
        let name = |text: &str| ComponentName::new(text).unwrap();
        let error = ComposeError::UnusedLink { part: name("a"), import: "x:y/z".into(), imports: vec!["x:y/w".into()] };
        let error = explain(&spec, &error);
        assert_eq!((error.code, error.field.as_deref()), (ErrorCode::BadComponent, Some("compose.links[0]")));
        assert_eq!(error.hint.as_deref(), Some("it imports x:y/w"));
        let error = explain(&spec, &ComposeError::Malformed { part: name("a"), why: "no".into() });
        assert_eq!(error.field.as_deref(), Some("components[1].source"));
        let error = explain(&spec, &ComposeError::NoEntry);
        assert_eq!(error.field.as_deref(), Some("components"));
        assert!(error.hint.is_some());

        let composition = Composition {
            bytes: Default::default(),
            digest: Digest::of(b""),
            entry: name("a"),
            graph: Vec::new(),
            used: vec![name("a")],
            dropped: vec![name("b")],
            open: vec![OpenImport {
                part: name("a"),
                import: "x:y/z@1.0.0".into(),
                near: vec![Exporter { part: name("b"), export: "x:y/z@2.0.0".into() }],
            }],
        };
        let unfit = |missing: &str| Unfit { message: "it lacks something".into(), missing: Some(missing.into()) };
        let error = explain_whole(&spec, &composition, unfit("x:y/z@1.0.0"));
        assert_eq!(error.field.as_deref(), Some("components[1].source"));
        assert!(error.message.starts_with("a imports x:y/z@1.0.0"), "{error}");
        assert!(error.hint.unwrap().contains("b (x:y/z@2.0.0)"));
        let error = explain_whole(&spec, &composition, unfit("other"));
        assert!(error.message.contains("it lacks something"), "{error}");
    }
}

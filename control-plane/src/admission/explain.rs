//! Why a spec's components can't be used, for the person who sent them: which field, which part, what to do.

use lattice::{
    ctl::{CtlError, ErrorCode},
    host::Unfit,
    id::ComponentName,
    recipe::HostEdge,
    spec::{PartRole, WorkloadSpec},
};
use lattice_composer::{ComposeError, Composition};

/// The field of a part that is to blame.
pub(super) fn field_of(spec: &WorkloadSpec, part: &ComponentName, blame: Blame) -> Option<String> {
    let part = spec.parts().find(|other| other.name == part)?;
    Some(match (blame, part.role) {
        (Blame::Role, Some(PartRole::Lazy)) => format!("{}.lazy", part.field),
        (Blame::Role, Some(PartRole::Isolated)) => format!("{}.isolate", part.field),
        (Blame::Role, Some(PartRole::Service)) => part.field,
        _ => format!("{}.source", part.field),
    })
}

/// What about a part is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blame {
    /// Its bytes.
    Source,
    /// That it is hosted.
    Role,
}

pub(super) fn explain(spec: &WorkloadSpec, error: &ComposeError) -> CtlError {
    let linked = error.link().and_then(|(part, import)| {
        let links = &spec.compose.links;
        links.iter().position(|link| link.from == *part && link.import == import).map(|i| format!("compose.links[{i}]"))
    });
    let blame = match error {
        ComposeError::HostedEntry { .. } | ComposeError::OnlyComposed { .. } => Blame::Role,
        _ => Blame::Source,
    };
    let script = || error.is_of_script().then(|| "compose.wac".to_owned());
    let field =
        linked.or_else(script).or_else(|| field_of(spec, error.part()?, blame)).unwrap_or_else(|| "components".into());
    CtlError::new(ErrorCode::BadComponent, error.to_string()).field(field).hint(error.hint())
}

/// Which part is to blame for what the whole, or one that is linked to it, lacks.
pub(super) fn explain_unfit(
    spec: &WorkloadSpec,
    composition: &Composition,
    part: Option<&ComponentName>,
    Unfit { message, missing, uncrossable }: Unfit,
) -> CtlError {
    let crosses = |edge: &&HostEdge| edge.from.as_ref() == part && Some(&edge.import) == uncrossable.as_ref();
    if let Some(edge) = composition.host_edges.iter().find(crosses) {
        return explain_crossing(spec, composition, edge, &message);
    }
    let asks = |asker: &ComponentName| part.map_or_else(|| composition.used.contains(asker), |part| part == asker);
    let mut open = composition.open.iter().filter(|open| asks(&open.part));
    let Some(open) = open.find(|open| Some(&open.import) == missing.as_ref()) else {
        let (who, field) = match part {
            Some(part) => (part.as_str(), field_of(spec, part, Blame::Source)),
            None => ("the composition", None),
        };
        return CtlError::new(ErrorCode::BadComponent, format!("{who} can't run: {message}"))
            .field(field.unwrap_or_else(|| "components".into()))
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
    let field = field_of(spec, &open.part, Blame::Source).unwrap_or_else(|| "components".into());
    CtlError::new(ErrorCode::BadComponent, text).field(field).hint(hint)
}

/// What passes over an edge can't leave its store.
fn explain_crossing(spec: &WorkloadSpec, composition: &Composition, edge: &HostEdge, why: &str) -> CtlError {
    let HostEdge { import, to, .. } = edge;
    let from = composition.caller(edge);
    let hint = match role_of(spec, to) {
        Some(PartRole::Lazy) => "leave `lazy` out, so that both are composed, or pass plain values",
        Some(PartRole::Isolated) => "leave `isolate` out, so that both are composed, or pass plain values",
        Some(PartRole::Service) | None => {
            "pass plain values (numbers, strings, lists, records, …), `stream<u8>`, or futures of plain values; a service is \
             given futures of results alone"
        }
    };
    let kind = kind_of(spec, to);
    CtlError::new(ErrorCode::BadComponent, format!("{from} can't call {to}, which {kind}: {import}: {why}"))
        .field(field_of(spec, to, Blame::Role).unwrap_or_else(|| "components".into()))
        .hint(hint)
}

fn role_of(spec: &WorkloadSpec, part: &ComponentName) -> Option<PartRole> {
    spec.parts().find(|other| other.name == part)?.role
}

/// What a part is that the host links, after "which".
pub(super) fn kind_of(spec: &WorkloadSpec, part: &ComponentName) -> &'static str {
    match role_of(spec, part) {
        Some(PartRole::Lazy) => "is lazy",
        Some(PartRole::Isolated) => "is isolated",
        Some(PartRole::Service) | None => "is a service",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice::id::Digest;
    use lattice_composer::{Exporter, OpenImport};

    #[test]
    fn errors_name_the_field_and_the_remedy() {
        let text = format!(
            "name: a\ncomponents: [{{name: b, source: {0}}}, {{name: a, source: {0}}}, {{name: r, source: {0}, lazy: true}}]\n\
             services: [{{name: s, source: {0}}}]\ncompose: {{links: [{{from: a, import: 'x:y/z', to: b}}]}}",
            Digest::of(b"")
        );
        let spec = lattice::spec::parse(text.as_bytes()).unwrap();
        let name = |text: &str| ComponentName::new(text).unwrap();
        let error = ComposeError::UnusedLink { part: name("a"), import: "x:y/z".into(), imports: vec!["x:y/w".into()] };
        let error = explain(&spec, &error);
        assert_eq!((error.code, error.field.as_deref()), (ErrorCode::BadComponent, Some("compose.links[0]")));
        assert_eq!(error.hint.as_deref(), Some("it imports x:y/w"));
        let error = explain(&spec, &ComposeError::Script { line: 3, column: 7, why: "no".into() });
        assert_eq!((error.field.as_deref(), error.message.as_str()), (Some("compose.wac"), "line 3, column 7: no"));
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
            hosted: Vec::new(),
            host_edges: Vec::new(),
            dropped: vec![name("b")],
            open: vec![OpenImport {
                part: name("a"),
                import: "x:y/z@1.0.0".into(),
                near: vec![Exporter { part: name("b"), export: "x:y/z@2.0.0".into() }],
            }],
        };
        let unfit = |missing: &str| Unfit {
            message: "it lacks something".into(),
            missing: Some(missing.into()),
            uncrossable: None,
        };
        let error = explain_unfit(&spec, &composition, None, unfit("x:y/z@1.0.0"));
        assert_eq!(error.field.as_deref(), Some("components[1].source"));
        assert!(error.message.starts_with("a imports x:y/z@1.0.0"), "{error}");
        assert!(error.hint.unwrap().contains("b (x:y/z@2.0.0)"));
        let error = explain_unfit(&spec, &composition, None, unfit("other"));
        assert!(error.message.contains("it lacks something"), "{error}");

        // What is hosted is blamed by what makes it so.
        let hosted = |part: &str, role| explain(&spec, &ComposeError::HostedEntry { part: name(part), role }).field;
        assert_eq!(hosted("r", PartRole::Lazy).as_deref(), Some("components[2].lazy"));
        assert_eq!(hosted("s", PartRole::Service).as_deref(), Some("services[0]"));
        let lacks = OpenImport { part: name("s"), import: "x:y/q".into(), near: Vec::new() };
        let composition = Composition { hosted: vec![name("s")], open: vec![lacks], ..composition };
        let error = explain_unfit(&spec, &composition, Some(&name("s")), unfit("x:y/q"));
        assert_eq!(error.field.as_deref(), Some("services[0].source"));
        assert!(error.message.starts_with("s imports x:y/q"), "{error}");
        let error = explain_unfit(&spec, &composition, None, unfit("x:y/q"));
        assert_eq!(error.field.as_deref(), Some("components"), "it is not the whole that lacks it");
    }
}

//! `rollout.preview`: how people reach what is new before others do.

use super::{SpecError, WorkloadSpec, http::HeaderKey};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Requests that go to what is new whatever its weight is: those with this header. Whoever knows header and value can
/// send it; the component sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PreviewSpec {
    /// The name of the header, such as `x-preview`.
    pub header: HeaderKey,
    /// Its value, compared byte by byte. 1 to 128 visible ASCII characters.
    #[schemars(length(min = 1, max = 128))]
    pub value: String,
}

/// Longest value, in bytes.
const VALUE_BYTES_MAX: usize = 128;

/// What types cannot say.
pub(super) fn check(spec: &WorkloadSpec) -> Result<(), SpecError> {
    let Some(preview) = &spec.rollout.preview else { return Ok(()) };
    if !spec.rollout.stops().iter().any(|step| step.weight.is_some()) {
        return Err(SpecError::new("rollout.preview", "no step has a weight: requests go to what is new anyway")
            .hint("write steps: [{replicas: 1, weight: 0}] for one replica that these requests alone reach"));
    }
    let is_visible = preview.value.bytes().all(|byte| byte.is_ascii_graphic());
    if preview.value.is_empty() || preview.value.len() > VALUE_BYTES_MAX || !is_visible {
        let message = format!("{:?} is not 1 to {VALUE_BYTES_MAX} visible ASCII characters", preview.value);
        return Err(SpecError::new("rollout.preview.value", message));
    }
    if preview.header.name().as_str().starts_with("lattice-") {
        return Err(SpecError::new("rollout.preview.header", "names that begin with lattice- are the lattice's own")
            .hint("write x-preview"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::spec;

    fn parse(preview: &str, step: &str) -> Result<spec::WorkloadSpec, String> {
        let digest = "0".repeat(64);
        let yaml = format!(
            "name: w\ncomponents: [{{name: c, source: 'sha256:{digest}'}}]\nreplicas: 2\n\
             rollout: {{steps: [{step}], preview: {preview}}}\n"
        );
        let spec = spec::parse(yaml.as_bytes()).map_err(|error| error.field)?;
        let read = serde_json::from_value::<spec::WorkloadSpec>(serde_json::to_value(&spec).unwrap()).unwrap();
        assert_eq!(read, spec);
        Ok(spec)
    }

    #[test]
    fn a_preview_names_a_header_and_its_value() {
        let weight = "{replicas: 1, weight: 0}";
        let spec = parse("{header: X-Preview, value: orange}", weight).unwrap();
        let preview = spec.rollout.preview.unwrap();
        assert_eq!((preview.header.name().as_str(), preview.value.as_str()), ("x-preview", "orange"));
        for (preview, step, field) in [
            ("{header: x-preview, value: orange}", "{replicas: 1}", "rollout.preview"),
            ("{header: x-preview, value: ''}", weight, "rollout.preview.value"),
            ("{header: x-preview, value: 'a b'}", weight, "rollout.preview.value"),
            ("{header: lattice-among, value: a}", weight, "rollout.preview.header"),
            ("{header: 'x y', value: a}", weight, "rollout.preview.header"),
            ("{header: x-preview}", weight, "rollout.preview"),
            ("{header: x-preview, value: a, host: b}", weight, "rollout.preview.host"),
        ] {
            assert_eq!(parse(preview, step).map(drop), Err(field.into()), "{preview} {step}");
        }
    }
}

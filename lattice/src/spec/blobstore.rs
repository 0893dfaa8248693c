//! Which object stores a workload's guests use, and under which names.

use super::{Access, BucketName, SpecError, WorkloadSpec, is_default};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An object store behind one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ObjectsGrant {
    /// The bucket of the JetStream object store, which must be there when the spec is put: `nats object add shop-files`
    /// makes one. Not one of the lattice's own.
    pub bucket: BucketName,
    /// `read-only`: what changes something is denied. Default `read-write`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub access: Access,
}

/// An operation of this interface holds up all else in its instance.
pub(super) fn check_concurrency(spec: &WorkloadSpec) -> Result<(), SpecError> {
    let concurrency = spec.reuse.settings().unwrap_or_default().concurrency;
    if concurrency <= 1 || spec.grants.blobstore.is_empty() {
        return Ok(());
    }
    let message = format!(
        "cannot be given to instances that have several requests at a time (reuse.concurrency: {concurrency}): an \
         operation on a container holds up everything else in its instance"
    );
    Err(SpecError::new("grants.blobstore", message).hint(
        "leave reuse.concurrency out, or move what uses the container into a component of its own: {isolate: true, \
         grants: {blobstore: …}}",
    ))
}

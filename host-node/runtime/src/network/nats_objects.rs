//! Object stores of `lattice:nats` as the guests of one replica have them: which ones are granted, and whether they may be changed.
//! How much of objects they may have in the node's memory is in `objects.rs`, together with `wasi:blobstore`'s.

use super::Network;
use crate::inherited::Inherited;
use lattice::{
    limits::one_line,
    nats::{Code, Failure},
    objects::Objects,
    spec::{Access, StoreName},
};
use std::sync::Arc;

/// An object store as a guest has it.
#[derive(Clone)]
#[expect(unreachable_pub, reason = "the generated bindings pass it on as theirs")]
pub struct OpenObjects {
    pub(crate) name: StoreName,
    access: Access,
    pub(crate) objects: Arc<dyn Objects>,
}

impl Network {
    /// An object store by the name that it is granted under.
    pub(crate) async fn nats_objects(&self, name: &str, inherited: &Inherited) -> Result<OpenObjects, Failure> {
        let granted = self.grants.nats.objects(name);
        let Some((name, grant, cell)) =
            granted.and_then(|(name, grant)| Some((name.clone(), grant, self.nats.stores.get(&name)?)))
        else {
            let name = one_line(name, 64);
            self.denials.note(|| {
                format!(
                    "the object store {name:?} was denied; to allow it add to the spec: grants: {{nats: {{objects: {{{name}: \
                     {{bucket: BUCKET}}}}}}}}"
                )
            });
            return Err(Failure::not(
                Code::Denied,
                format!("no grant of this workload names an object store {name:?}"),
            ));
        };
        let turn = self.nats_turn(None, (0, false), inherited).await?;
        let open = cell.get_or_try_init(|| turn.link.objects(&grant.bucket));
        let objects = turn.run(async { open.await.cloned() }).await.map_err(Failure::of_read)?;
        Ok(OpenObjects { name, access: grant.access, objects })
    }

    /// Whether it may be changed.
    pub(crate) fn judge_objects(&self, OpenObjects { name, access, .. }: &OpenObjects) -> Result<(), Failure> {
        if *access != Access::ReadOnly {
            return Ok(());
        }
        self.denials.note(|| {
            format!(
                "a change of the object store {name} was denied: grants.nats.objects.{name}.access of the spec is read-only"
            )
        });
        Err(Failure::not(Code::Denied, format!("the object store {name} is granted to be read only")))
    }
}

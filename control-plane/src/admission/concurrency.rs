//! Several requests at a time in one instance: only what exports `wasi:http/handler@0.3` can do that, and a person who
//! asks for it of another component is told so instead of wondering.

use super::{Admission, blocking, put::Traits, unavailable};
use lattice::{
    ctl::{CtlError, ErrorCode},
    host::{Providers, Role},
    id::ComponentName,
    spec::{Source, WorkloadSpec},
};

impl Admission {
    /// Checks the component that answers HTTP, where the spec asks for more than one request at a time. `entry` is that
    /// component where there are several. Their bytes are in the object store.
    pub(super) async fn check_concurrency(
        &self,
        spec: &WorkloadSpec,
        entry: Option<&ComponentName>,
    ) -> Result<(), CtlError> {
        let concurrency = spec.reuse.settings().map_or(1, |reuse| reuse.concurrency);
        let entry = spec.only().or_else(|| spec.components.iter().find(|part| Some(&part.name) == entry));
        let Some(Source::Stored(digest)) = entry.map(|part| &part.source) else { return Ok(()) };
        if concurrency <= 1 {
            return Ok(());
        }
        let _turn = self.inspecting.lock().await;
        if self.inspected(*digest, Role::Concurrent).is_some() {
            return Ok(());
        }
        let bad = |text: String| CtlError::new(ErrorCode::BadComponent, text).field("reuse.concurrency");
        let bytes = self.platform.artifacts.get(*digest).await.map_err(|error| unavailable(&error))?;
        let bytes = bytes.ok_or_else(|| bad(format!("{digest} vanished from the object store")))?;
        let inspect = self.inspect.clone();
        let verdict = blocking(move || {
            inspect(&bytes, Role::Concurrent, &Providers::NONE).map(drop).map_err(|unfit| unfit.message)
        })
        .await
        .unwrap_or_else(|| Err("its structure made the check fail".into()));
        verdict.map_err(|why| bad(why).hint("leave the field out, or build the component for wasi:http 0.3"))?;
        self.note_inspected(*digest, Role::Concurrent, Traits::default());
        Ok(())
    }
}

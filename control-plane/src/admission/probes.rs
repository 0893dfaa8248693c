//! Functions that probes call: that they are exported, and of a type that says how something does, is found out before anything
//! is written. A person who mistypes one is told so, instead of wondering why no replica becomes ready.

use super::{Admission, blocking, unavailable};
use lattice::{
    ctl::{CtlError, ErrorCode},
    id::ComponentName,
    spec::{Asks, FunctionName, Source, WorkloadSpec},
};

impl Admission {
    /// Checks what probes call. `entry` is the component that answers requests where there are several; where a script composes
    /// them, what the whole exports is its business, and nodes find out. The bytes are in the object store.
    pub(super) async fn check_probes(
        &self,
        spec: &WorkloadSpec,
        entry: Option<&ComponentName>,
    ) -> Result<(), CtlError> {
        for (name, probe) in [("ready", &spec.probes.ready), ("live", &spec.probes.live)] {
            let Some(Asks::Function { function, of }) = probe.as_ref().and_then(|probe| probe.asks()) else { continue };
            let source = match of {
                Some(of) => spec.services.iter().find(|service| service.name == *of).map(|service| &service.source),
                None if spec.compose.script().is_some() => continue,
                None => {
                    let entry = || spec.components.iter().find(|part| Some(&part.name) == entry);
                    spec.only().or_else(entry).map(|part| &part.source)
                }
            };
            if let Some(source) = source {
                self.check_asked(format!("probes.{name}.function"), function, source).await?;
            }
        }
        Ok(())
    }

    async fn check_asked(&self, field: String, function: &FunctionName, source: &Source) -> Result<(), CtlError> {
        let Source::Stored(digest) = *source else { return Ok(()) };
        let bad = |text: String| CtlError::new(ErrorCode::BadComponent, text).field(field.clone());
        let _turn = self.inspecting.lock().await;
        let bytes = self.platform.artifacts.get(digest).await.map_err(|error| unavailable(&error))?;
        let bytes = bytes.ok_or_else(|| bad(format!("{digest} vanished from the object store")))?;
        let asked = function.clone();
        let can = blocking(move || lattice_composer::can_be_asked(&bytes, &asked).unwrap_or(false)).await;
        if can == Some(true) {
            return Ok(());
        }
        let text = format!("{function} is not exported as a `func() -> bool` or `func() -> result<_, string>`");
        Err(bad(text).hint("`lattice inspect FILE.wasm` shows what a component exports"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{admission, message};
    use lattice::ctl::ErrorCode;

    /// Answers HTTP as far as admission looks, and says in four ways how it does.
    const ASKED: &str = r#"(component
        (core module $m
            (func (export "f") (result i32) (i32.const 1))
            (func (export "g") (param i32) (result i32) (i32.const 1)))
        (core instance $i (instantiate $m))
        (func $yes (result bool) (canon lift (core func $i "f")))
        (func $well (result (result)) (canon lift (core func $i "f")))
        (func $number (result u32) (canon lift (core func $i "f")))
        (func $of (param "a" u32) (result bool) (canon lift (core func $i "g")))
        (instance $health (export "yes" (func $yes)) (export "well" (func $well)) (export "number" (func $number))
            (export "of" (func $of)))
        (export "a:b/health@1.2.0" (instance $health))
        (export "plain" (func $yes))
        (export "wasi:http/incoming-handler@0.2.0" (instance $health)))"#;

    #[tokio::test]
    async fn what_probes_call_is_exported_with_the_right_type() {
        let (admission, platform) = admission();
        let digest = platform.artifacts.put(wat::parse_str(ASKED).unwrap().into()).await.unwrap();
        let text = |function: &str| {
            format!(
                "name: hello\ncomponents: [{{name: a, source: '{digest}'}}]\n\
                 services: [{{name: pool, source: '{digest}'}}]\nprobes: {{live: {{{function}}}}}"
            )
        };
        // The service is one that nobody calls but the probe.
        for good in ["function: 'a:b/health#yes'", "function: 'a:b/health@1.2.0#well'", "function: plain"] {
            let of_service = format!("{good}, of: pool");
            for function in [good, &of_service] {
                let spec = lattice::spec::parse(text(function).as_bytes()).unwrap();
                let entry = spec.components[0].name.clone();
                assert_eq!(admission.check_probes(&spec, Some(&entry)).await, Ok(()), "{function}");
            }
        }
        for bad in
            ["a:b/health#number", "a:b/health#of", "a:b/health#none", "a:b/health@1.0.0#yes", "none", "x:y/z#yes"]
        {
            let only = text(&format!("function: '{bad}'")).replace("services:", "# ");
            let error = admission.put(&message(&only)).await.unwrap_err();
            assert_eq!(
                (error.code, error.field.as_deref()),
                (ErrorCode::BadComponent, Some("probes.live.function")),
                "{bad}: {error}"
            );
        }
    }
}

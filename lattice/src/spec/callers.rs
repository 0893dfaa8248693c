//! Which other workloads may call one: `http.callers` of a spec.

use super::SpecError;
use crate::{id::WorkloadName, limits::CALLERS_MAX};

/// What types cannot say.
pub(super) fn check(callers: Option<&[WorkloadName]>) -> Result<(), SpecError> {
    let callers = callers.unwrap_or_default();
    if callers.len() > CALLERS_MAX {
        return Err(SpecError::new("http.callers", format!("at most {CALLERS_MAX} callers are allowed"))
            .hint("leave it out to let every workload call that has the grant"));
    }
    for (i, caller) in callers.iter().enumerate() {
        if callers.iter().take(i).any(|other| other == caller) {
            return Err(SpecError::new(format!("http.callers[{i}]"), format!("{caller} is there twice")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::spec;

    fn parse(callers: &str) -> Result<Option<Vec<String>>, String> {
        let digest = "0".repeat(64);
        let yaml = format!("name: w\ncomponents: [{{name: c, source: 'sha256:{digest}'}}]\nhttp: {{{callers}}}\n");
        let spec = spec::parse(yaml.as_bytes()).map_err(|error| error.field)?;
        let read = serde_json::from_value::<spec::WorkloadSpec>(serde_json::to_value(&spec).unwrap()).unwrap();
        assert_eq!(read, spec, "nobody and everybody are two");
        Ok(spec.http.callers.map(|callers| callers.iter().map(ToString::to_string).collect()))
    }

    #[test]
    fn nobody_everybody_or_these() {
        assert_eq!(parse(""), Ok(None));
        assert_eq!(parse("callers: []"), Ok(Some(vec![])));
        assert_eq!(parse("callers: [shop, cart]"), Ok(Some(vec!["shop".into(), "cart".into()])));
        assert_eq!(parse("callers: [shop, shop]"), Err("http.callers[1]".into()));
        assert_eq!(parse("callers: [Shop]"), Err("http.callers[0]".into()));
        let many: Vec<_> = (0..257).map(|i| format!("w{i}")).collect();
        assert_eq!(parse(&format!("callers: [{}]", many.join(", "))), Err("http.callers".into()));
    }
}

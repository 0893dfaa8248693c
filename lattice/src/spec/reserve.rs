//! `reserve`: what a replica takes of its node's capacity beyond its slot and the memory that its limits name.

use super::{SpecError, is_default};
use crate::units::Millicores;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// More than one machine has.
const CPU_MAX: Millicores = Millicores::cores(4_096);

/// What each replica reserves of its node, beside the memory that `limits` name. Default nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct ReserveSpec {
    /// Processors: `2`, `0.5` or `500m`. A replica is placed only where so many are left of what the node offers (`lattice
    /// node --cpus`). This is for placement alone: it neither gives a replica more time of a processor nor keeps it from
    /// taking more. Up to 4096. Default 0, which reserves nothing.
    #[serde(skip_serializing_if = "is_default")]
    pub cpu: Millicores,
}

/// What types cannot say.
pub(super) fn check(ReserveSpec { cpu }: &ReserveSpec) -> Result<(), SpecError> {
    if *cpu > CPU_MAX {
        return Err(SpecError::new("reserve.cpu", format!("{cpu} is more than {CPU_MAX}"))
            .hint("write processors, or thousandths of one with an m behind: 2, 0.5 or 500m"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::{
        id::Generation,
        record::{Record as _, SpecRecord},
        spec::{SpecError, WorkloadSpec, parse},
        units::Millicores,
    };

    fn read(more: &str) -> Result<WorkloadSpec, SpecError> {
        parse(format!("name: a\ncomponents: [{{name: a, source: 'file:a'}}]\n{more}").as_bytes())
    }

    #[test]
    fn processors_are_reserved_however_they_are_written() {
        let half = read("reserve: {cpu: 500m}").unwrap();
        assert_eq!(half.reserve.cpu, Millicores(500));
        for same in ["{cpu: 0.5}", "{cpu: '0.5'}", "{cpu: '0.500'}"] {
            let same = read(&format!("reserve: {same}")).unwrap();
            assert_eq!((same.content_hash(), &same), (half.content_hash(), &half));
        }
        assert_eq!(read("reserve: {cpu: 2}").unwrap().reserve.cpu, Millicores::cores(2));
        assert_eq!(parse(&serde_json::to_vec(&half).unwrap()).unwrap(), half);
    }

    #[test]
    fn who_reserves_nothing_is_written_as_without_the_field() {
        let without = read("").unwrap();
        assert!(!serde_json::to_string(&without).unwrap().contains("reserve"));
        for nothing in ["{}", "{cpu: 0}", "{cpu: '0'}", "{cpu: 0m}"] {
            let nothing = read(&format!("reserve: {nothing}")).unwrap();
            assert_eq!((nothing.content_hash(), &nothing), (without.content_hash(), &without));
        }
        let schema = |spec: WorkloadSpec| SpecRecord::new(spec, uuid::Uuid::nil(), Generation::FIRST).schema();
        assert_eq!(schema(without), 1);
        // A node that does not know the field would take the record for corrupt.
        assert_eq!(schema(read("reserve: {cpu: 1m}").unwrap()), 8);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_field() {
        for (bad, message) in [
            ("-1", "-1 is a negative number; write a number of processors such as 2, 0.5 or 500m"),
            ("half", "\"half\" is not a number of processors; write 2, 0.5 or 500m"),
            ("0.0005", "\"0.0005\" is not a number of processors"),
            ("'500000'", "500000 is more than 4096"),
            ("4097", "4097 is more than 4096"),
            ("true", "true is a boolean"),
            ("[1]", "is a list"),
        ] {
            let error = read(&format!("reserve: {{cpu: {bad}}}")).expect_err(bad);
            assert!(error.field == "reserve.cpu" && error.message.contains(message), "{error:?}");
            assert!(error.hint.is_some(), "{error:?}");
        }
        assert_eq!(read("reserve: {cpus: 1}").unwrap_err().field, "reserve.cpus");
        assert_eq!(read("reserve: 1").unwrap_err().field, "reserve");
    }
}

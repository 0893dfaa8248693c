//! Whether a component can be used at all, asked when a spec is put: nothing is compiled, nothing is written.

use lattice::{
    host::{Linked, Providers, Role, SlowCall, Unfit},
    spec::PartRole,
};
use lattice_runtime::{Kind, LoadError, admissible, crossing};

/// Whether bytes are a component that a node of this version can use in this role, where others provide some of its
/// imports: what is linked is called through the host. Answers which of those are slow.
pub fn inspect(bytes: &[u8], role: Role, providers: &Providers<'_>) -> Result<Vec<SlowCall>, Unfit> {
    let mut inspection = lattice_runtime::inspect(bytes).map_err(unfit)?;
    let mut slow = Vec::new();
    let Providers { linked, elsewhere } = providers;
    for Linked { import, to } in *linked {
        let crossing = crossing(bytes, import, *to == PartRole::Service).map_err(unfit)?;
        let functions = crossing.map_err(|why| Unfit {
            message: why.to_string(),
            missing: None,
            uncrossable: Some(import.clone()),
        })?;
        slow.extend(functions.into_iter().map(|function| SlowCall { import: import.clone(), function }));
    }
    inspection.missing.retain(|import| !linked.iter().any(|linked| linked.import == *import) && !elsewhere(import));
    let fits = match role {
        Role::Whole | Role::Handler | Role::WholeAndHandler => admissible(&inspection, role).map_err(unfit),
        Role::Concurrent => match inspection.kind {
            Kind::Http03 => Ok(()),
            _ => Err(unfit(LoadError::OneAtATime)),
        },
        Role::Part => Ok(()),
        Role::Hosted { role: PartRole::Service, is_called: true } if !inspection.service_can_be_called() => {
            let message = "it exports wasi:cli/run@0.2 and is called as well, but a component of WASI 0.2 does one thing \
                           at a time: export one of both, or wasi:cli/run@0.3";
            Err(Unfit { message: message.into(), missing: None, uncrossable: None })
        }
        Role::Hosted { .. } => match inspection.missing.into_iter().next() {
            Some(name) => Err(unfit(LoadError::MissingImport { name, near: Vec::new() })),
            None => Ok(()),
        },
    };
    fits.map(|()| slow)
}

fn unfit(error: LoadError) -> Unfit {
    let message = error.to_string();
    let missing = match error {
        LoadError::MissingImport { name, .. } => Some(name),
        _ => None,
    };
    Unfit { message, missing, uncrossable: None }
}

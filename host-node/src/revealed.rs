//! What of the lattice's secrets one unit is given: values by the keys of its spec, for the whole and for each part, and the
//! NATS accounts that their grants name. Read when the unit is made, and gone with it.

use lattice::{
    account::{Account, Login},
    host::Configs,
    id::ComponentName,
    secret::{Secrets, reveal},
    spec::{Grants, SecretRefs, WorkloadSpec},
    store::Platform,
};
use std::{collections::BTreeMap, sync::Arc};

/// Of one unit.
#[derive(Debug, Default)]
pub(crate) struct Revealed {
    pub(crate) whole: Given,
    parts: BTreeMap<ComponentName, Given>,
}

/// Of the whole, or of a part.
#[derive(Debug, Default, Clone)]
pub(crate) struct Given {
    pub(crate) secrets: Arc<Secrets>,
    pub(crate) account: Option<Arc<Account>>,
}

impl Revealed {
    pub(crate) fn part(&self, name: &ComponentName) -> Given {
        self.parts.get(name).cloned().unwrap_or_default()
    }
}

/// All that the spec names, in the versions of the assignment. The text says why not, and no value.
pub(crate) async fn reveal_all(
    platform: &Platform,
    spec: &WorkloadSpec,
    configs: &Configs,
) -> Result<Arc<Revealed>, String> {
    let given = async |secrets: &SecretRefs, grants: Option<&Grants>| {
        let mut revealed = Secrets::new();
        for (key, secret) in secrets {
            let (value, _) =
                reveal(platform, secret, configs.get(&secret.name)).await.map_err(|error| error.to_string())?;
            revealed.insert(key.to_string(), value);
        }
        let account = match grants {
            None => None,
            Some(grants) => {
                let login = Login::of(platform, &spec.name, grants, configs).await;
                login.map_err(|error| format!("grants.nats.account: {error}"))?.account
            }
        };
        Ok::<_, String>(Given { secrets: Arc::new(revealed), account })
    };
    let whole = given(&spec.secrets_of_whole(), Some(&spec.grants)).await?;
    let mut parts = BTreeMap::new();
    for component in spec.components.iter().filter(|component| component.role().is_some()) {
        parts.insert(component.name.clone(), given(&component.secrets, component.grants.as_ref()).await?);
    }
    for service in &spec.services {
        parts.insert(service.name.clone(), given(&service.secrets, service.grants.as_ref()).await?);
    }
    Ok(Arc::new(Revealed { whole, parts }))
}

//! Requests about secrets. The value is the body of a put, and in no answer, event or line of a log. It is written to the vault
//! first, under an id of its own, and counts once the record says so: one compare-and-set, as with configuration. A value that
//! no record speaks of, since its writer lost a race or was killed, is removed with the next change of the name.

use super::{
    Admission,
    answers::{NAMES_MAX, cut, cut_to_fit},
    body,
    config::{ATTEMPTS, Current, Kind, expect, in_words, is_asked_for, users},
    expected_revision, unavailable,
};
use lattice::{
    ctl::{CtlError, ErrorCode, SecretDeleteReply, SecretDeleteRequest, SecretItem, SecretList},
    event::{EventKind, rfc3339},
    id::{ConfigName, Generation, Revision},
    limits::{CONFIGS_MAX, SECRET_BYTES_MAX},
    record::{ConfigRecord, ConfigStamp, Key, Record as _},
    secret::Secret,
    store::{Bucket, Message, Precondition, StoreError},
    view::LatticeView,
};
use std::collections::BTreeMap;

impl Admission {
    pub(super) async fn put_secret(&self, name: &ConfigName, message: &Message) -> Result<SecretItem, CtlError> {
        let value = Secret::new(message.payload.to_vec());
        check_value(&value)?;
        let expected = expected_revision(message)?;
        // One for all attempts: whichever lands, the value is there.
        let id = self.platform.rng.uuid();
        let mut is_kept = false;
        for _ in 0..ATTEMPTS {
            let view = self.view()?;
            let current = self.current_config(name).await?;
            if let Current { record: Some(record), revision: Some(revision) } = &current
                && record.secret == Some(id)
            {
                return Ok(self.secret_changed(record, *revision, &view).await); // it landed
            }
            expect(&current, name, expected)?;
            Kind::Secret.refuse_other(&current)?;
            if let Current { record: Some(record), revision: Some(revision) } = &current
                && let Some(there) = record.secret
                && self.platform.vault.get(name, there).await.map_err(|error| unavailable(&error))?
                    == Some(value.clone())
            {
                return Ok(SecretItem { changed: Some(false), ..item(record, *revision, &view) });
            }
            if current.revision.is_none() && view.configs.len() >= CONFIGS_MAX {
                let text = format!("there are {CONFIGS_MAX} names of configuration and secrets already");
                return Err(CtlError::new(ErrorCode::Invalid, text)
                    .hint("delete what nobody uses: `lattice secret list`, `lattice config list`"));
            }
            let record = next(&current, name, id, self.platform.clock.unix_ms(), self.platform.rng.uuid(), &view)?;
            if !is_kept {
                self.platform.vault.put(name, id, value.clone()).await.map_err(|error| unavailable(&error))?;
                is_kept = true;
            }
            let key = Key::Config(name.clone()).to_string();
            let precondition = current.revision.map_or(Precondition::Absent, Precondition::At);
            match self.platform.store.write(Bucket::Specs, &key, record.encode(), precondition).await {
                Ok(revision) => return Ok(self.secret_changed(&record, revision, &view).await),
                // Whoever was first has removed the value that its record does not speak of.
                Err(StoreError::Conflict { .. }) => is_kept = false,
                Err(StoreError::OutcomeUnknown { .. }) => {}
                Err(error) => return Err(unavailable(&error)),
            }
        }
        Err(Kind::Secret.busy(name))
    }

    pub(super) fn list_secrets(&self) -> Result<SecretList, CtlError> {
        let view = self.view()?;
        let secrets = view.configs.values().filter(|config| config.record.secret.is_some());
        let mut secrets: Vec<_> = secrets.map(|config| item(&config.record, config.revision, &view)).collect();
        let omitted = cut_to_fit(&mut secrets, self.room());
        Ok(SecretList { secrets, omitted })
    }

    pub(super) async fn delete_secret(
        &self,
        name: &ConfigName,
        message: &Message,
    ) -> Result<SecretDeleteReply, CtlError> {
        let SecretDeleteRequest { force } = body(&message.payload, r#"{"force": true}, or nothing"#)?;
        let deleted = self.delete_name(Kind::Secret, name, force, message).await?;
        self.forget_values(name, &[]).await;
        Ok(SecretDeleteReply { name: name.clone(), deleted })
    }

    async fn secret_changed(&self, record: &ConfigRecord, revision: Revision, view: &LatticeView) -> SecretItem {
        self.forget_values(&record.name, &record.values()).await;
        let item = SecretItem { changed: Some(true), ..item(record, revision, view) };
        let users = &item.used_by;
        let by =
            if users.is_empty() { String::new() } else { format!(", for {}", in_words(users, item.used_by_omitted)) };
        self.events.send(EventKind::SecretChanged, &item.name, format!("version {}{by}", item.version)).await;
        item
    }

    /// What stays because this fails goes with the next change of the name.
    async fn forget_values(&self, name: &ConfigName, but: &[uuid::Uuid]) {
        if let Err(error) = self.platform.vault.keep_only(name, but).await {
            tracing::warn!(%name, %error, "values of a secret that are not needed any more stay in the store for now");
        }
    }
}

/// The record after the one that is there.
fn next(
    current: &Current,
    name: &ConfigName,
    id: uuid::Uuid,
    changed_at: u64,
    life: uuid::Uuid,
    view: &LatticeView,
) -> Result<ConfigRecord, CtlError> {
    let Some(record) = &current.record else {
        let stamp = ConfigStamp { uid: life, version: Generation::FIRST };
        let (entries, earlier) = (BTreeMap::new(), Vec::new());
        return Ok(ConfigRecord { name: name.clone(), stamp, entries, secret: Some(id), earlier, changed_at });
    };
    let all = || {
        let records =
            view.specs.values().flat_map(|spec| [Some(&spec.record), spec.record.stable.as_deref()]).flatten();
        records.map(|record| &record.spec)
    };
    let is_pinned = |stamp: &ConfigStamp| all().any(|spec| spec.pins(name, stamp));
    // The one before is kept for replicas that are being started with it at this moment.
    let is_kept =
        |stamp: &ConfigStamp| *stamp == record.stamp || is_pinned(stamp) || is_asked_for(view, name, record, stamp);
    let next = ConfigRecord { secret: Some(id), ..record.next(BTreeMap::new(), changed_at, is_kept) };
    let known = record.earlier.iter().map(|earlier| ConfigStamp { version: earlier.version, ..record.stamp });
    let lost =
        known.filter(|stamp| is_pinned(stamp) && next.value_at(stamp).is_none()).map(|stamp| stamp.version).max();
    match lost {
        None => Ok(next),
        Some(version) => {
            let users: Vec<_> = all()
                .filter(|spec| spec.pins(name, &ConfigStamp { version, ..record.stamp }))
                .map(|spec| spec.name.clone())
                .collect();
            let text = format!(
                "version {version} of secret {name} is named by {}, and no more earlier ones are kept",
                in_words(&users, 0)
            );
            Err(CtlError::new(ErrorCode::Conflict, text)
                .hint("deploy them with a later version first, or without a number"))
        }
    }
}

fn check_value(value: &Secret) -> Result<(), CtlError> {
    let bytes = value.reveal().len();
    if bytes == 0 {
        let error = CtlError::new(ErrorCode::Invalid, "the value is empty");
        return Err(error.hint("send the value itself as the body of the request"));
    }
    if bytes > SECRET_BYTES_MAX {
        return Err(CtlError::new(ErrorCode::Invalid, format!("{bytes} bytes are more than {SECRET_BYTES_MAX}")));
    }
    Ok(())
}

fn item(record: &ConfigRecord, revision: Revision, view: &LatticeView) -> SecretItem {
    let mut used_by = users(view, &record.name);
    let used_by_omitted = cut(&mut used_by, NAMES_MAX);
    SecretItem {
        name: record.name.clone(),
        version: record.stamp.version,
        revision,
        earlier: record.earlier.iter().map(|earlier| earlier.version).collect(),
        changed_at: rfc3339(record.changed_at),
        used_by,
        used_by_omitted,
        changed: None,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::admission, *};

    fn message(value: &str) -> Message {
        Message { payload: value.to_owned().into(), ..Message::default() }
    }

    #[tokio::test]
    async fn a_value_is_in_the_vault_and_nowhere_else() {
        let (admission, platform) = admission();
        let name: ConfigName = "shop-db".parse().unwrap();
        for (value, version, changed) in [("hunter2", 1, true), ("hunter2", 1, false), ("hunter3", 2, true)] {
            let item = admission.put_secret(&name, &message(value)).await.unwrap();
            assert_eq!((item.version, item.changed), (Generation(version), Some(changed)));
            assert!(!serde_json::to_string(&item).unwrap().contains("hunter"));
        }
        let entry = platform.store.get(Bucket::Specs, "config.shop-db").await.unwrap().unwrap();
        assert!(!String::from_utf8(entry.value.to_vec()).unwrap().contains("hunter"));
        let (value, stamp) = lattice::secret::reveal(&platform, &"shop-db".parse().unwrap(), None).await.unwrap();
        assert_eq!((value.reveal(), stamp.version), (&b"hunter3"[..], Generation(2)));
        // The one before is there still, by its number.
        let (value, _) = lattice::secret::reveal(&platform, &"shop-db@1".parse().unwrap(), None).await.unwrap();
        assert_eq!(value.reveal(), b"hunter2");
        admission.delete_secret(&name, &message("")).await.unwrap();
        let gone = lattice::secret::reveal(&platform, &"shop-db".parse().unwrap(), None).await.unwrap_err();
        assert_eq!(gone.to_string(), "there is no secret shop-db");
        let record = ConfigRecord::decode(&entry.value).unwrap();
        for id in record.values() {
            assert_eq!(platform.vault.get(&name, id).await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn a_name_is_of_a_secret_or_of_configuration() {
        let (admission, _) = admission();
        let (secret, config): (ConfigName, ConfigName) = ("a".parse().unwrap(), "b".parse().unwrap());
        admission.put_secret(&secret, &message("x")).await.unwrap();
        let entries = message(r#"{"entries": {"x": "y"}}"#);
        admission.put_config(&config, &entries).await.unwrap();
        for error in [
            admission.put_config(&secret, &entries).await.unwrap_err(),
            admission.get_config(&secret).await.unwrap_err(),
            admission.delete_config(&secret, &message("")).await.unwrap_err(),
            admission.put_secret(&config, &message("x")).await.unwrap_err(),
            admission.delete_secret(&config, &message("")).await.unwrap_err(),
        ] {
            assert_eq!(error.code, ErrorCode::Conflict, "{error}");
        }
        for bad in ["", &"x".repeat(SECRET_BYTES_MAX + 1)] {
            assert_eq!(admission.put_secret(&secret, &message(bad)).await.unwrap_err().code, ErrorCode::Invalid);
        }
    }
}

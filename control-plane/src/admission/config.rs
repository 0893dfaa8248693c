//! Requests about configuration by name. Each change is one compare-and-set on one key, answered after the store
//! acknowledged it. Workloads may name what is not there yet, so the order in which things are put is free.

use super::{
    Admission,
    answers::{NAMES_MAX, cut, cut_to_fit},
    body, expected_revision, unavailable,
};
use lattice::{
    ctl::{
        ConfigDeleteReply, ConfigDeleteRequest, ConfigItem, ConfigList, ConfigPutRequest, ConfigReply, CtlError,
        ErrorCode,
    },
    event::{EventKind, rfc3339},
    id::{ConfigName, Generation, Revision, WorkloadName},
    limits::CONFIGS_MAX,
    record::{ConfigRecord, ConfigStamp, DecodeError, Key, Record as _, SpecRecord, check_entries},
    spec::ConfigUpdate,
    store::{Bucket, Message, Precondition, StoreError},
    view::LatticeView,
};

/// Tries of one request against other writers.
pub(super) const ATTEMPTS: usize = 8;
/// Workloads that one sentence names.
const NAMED: usize = 16;

/// What is in force under a name.
pub(super) struct Current {
    pub(super) revision: Option<Revision>,
    pub(super) record: Option<ConfigRecord>,
}

/// What a name is of. Names of both are in one place: a name is one or the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Config,
    Secret,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Kind::Config => "config",
            Kind::Secret => "secret",
        }
    }

    fn deleted(self) -> EventKind {
        match self {
            Kind::Config => EventKind::ConfigDeleted,
            Kind::Secret => EventKind::SecretDeleted,
        }
    }

    pub(super) fn refuse_other(self, current: &Current) -> Result<(), CtlError> {
        let Some(ConfigRecord { name, secret, .. }) = &current.record else { return Ok(()) };
        let (text, hint) = match (self, secret.is_some()) {
            (Kind::Config, true) => (
                format!("{name} is a secret: its value is shown to nobody"),
                "choose another name; see `lattice secret --help`",
            ),
            (Kind::Secret, false) => {
                (format!("{name} is configuration"), "choose another name; see `lattice config list`")
            }
            (Kind::Config, false) | (Kind::Secret, true) => return Ok(()),
        };
        Err(CtlError::new(ErrorCode::Conflict, text).hint(hint))
    }

    pub(super) fn busy(self, name: &ConfigName) -> CtlError {
        let text = format!("{} {name} is being changed by others all the time", self.as_str());
        CtlError::new(ErrorCode::Conflict, text).hint("try again")
    }
}

impl Admission {
    pub(super) async fn put_config(&self, name: &ConfigName, message: &Message) -> Result<ConfigItem, CtlError> {
        let ConfigPutRequest { entries } = body(&message.payload, r#"{"entries": {"currency": "eur"}}"#)?;
        check_entries(&entries).map_err(|(field, text)| CtlError::new(ErrorCode::Invalid, text).field(field))?;
        let expected = expected_revision(message)?;
        let mut unanswered: Option<ConfigRecord> = None;
        for _ in 0..ATTEMPTS {
            let view = self.view()?;
            let current = self.current_config(name).await?;
            if let (Some(sent), Some(revision)) = (&unanswered, current.revision)
                && current.record.as_ref() == Some(sent)
            {
                return Ok(self.config_changed(sent, revision, &view).await); // it landed
            }
            expect(&current, name, expected)?;
            Kind::Config.refuse_other(&current)?;
            if let (Some(record), Some(revision)) = (&current.record, current.revision)
                && record.entries == entries
            {
                return Ok(ConfigItem { changed: Some(false), ..item(record, revision, &view) });
            }
            if current.revision.is_none() && view.configs.len() >= CONFIGS_MAX {
                let text = format!("there are {CONFIGS_MAX} names of configuration already");
                return Err(
                    CtlError::new(ErrorCode::Invalid, text).hint("delete what nobody uses: `lattice config list`")
                );
            }
            let (entries, changed_at) = (entries.clone(), self.platform.clock.unix_ms());
            let record = match &current.record {
                Some(record) => record.next(entries, changed_at, |stamp| is_asked_for(&view, name, record, stamp)),
                None => {
                    let stamp = ConfigStamp { uid: self.platform.rng.uuid(), version: Generation::FIRST };
                    ConfigRecord { name: name.clone(), stamp, entries, secret: None, earlier: Vec::new(), changed_at }
                }
            };
            let key = Key::Config(name.clone()).to_string();
            let precondition = current.revision.map_or(Precondition::Absent, Precondition::At);
            match self.platform.store.write(Bucket::Specs, &key, record.encode(), precondition).await {
                Ok(revision) => return Ok(self.config_changed(&record, revision, &view).await),
                Err(StoreError::Conflict { .. }) => {}
                Err(StoreError::OutcomeUnknown { .. }) => unanswered = Some(record),
                Err(error) => return Err(unavailable(&error)),
            }
        }
        Err(Kind::Config.busy(name))
    }

    pub(super) async fn get_config(&self, name: &ConfigName) -> Result<ConfigReply, CtlError> {
        let view = self.view()?;
        let current = self.current_config(name).await?;
        Kind::Config.refuse_other(&current)?;
        match current {
            Current { record: Some(record), revision: Some(revision) } => {
                Ok(ConfigReply { item: item(&record, revision, &view), entries: record.entries })
            }
            _ => Err(no_config(name)),
        }
    }

    pub(super) fn list_configs(&self) -> Result<ConfigList, CtlError> {
        Ok(list(&*self.view()?, self.room()))
    }

    pub(super) async fn delete_config(
        &self,
        name: &ConfigName,
        message: &Message,
    ) -> Result<ConfigDeleteReply, CtlError> {
        let ConfigDeleteRequest { force } = body(&message.payload, r#"{"force": true}, or nothing"#)?;
        let deleted = self.delete_name(Kind::Config, name, force, message).await?;
        Ok(ConfigDeleteReply { name: name.clone(), deleted })
    }

    /// Whether it was there.
    pub(super) async fn delete_name(
        &self,
        kind: Kind,
        name: &ConfigName,
        force: bool,
        message: &Message,
    ) -> Result<bool, CtlError> {
        let expected = expected_revision(message)?;
        let mut deleted = false;
        for _ in 0..ATTEMPTS {
            let view = self.view()?;
            let current = self.current_config(name).await?;
            let Some(revision) = current.revision else { return Ok(deleted) };
            expect(&current, name, expected)?;
            kind.refuse_other(&current)?;
            let users = users(&view, name);
            if !force && !users.is_empty() {
                let text = format!("{} {name} is named by {}", kind.as_str(), in_words(&users, 0));
                return Err(CtlError::new(ErrorCode::Conflict, text).hint(
                    "deploy them without it first, or delete it by force: what runs keeps its values, and nothing new starts",
                ));
            }
            let key = Key::Config(name.clone()).to_string();
            match self.platform.store.delete(Bucket::Specs, &key, revision).await {
                Ok(_) => {
                    self.events.send(kind.deleted(), name, "deleted").await;
                    return Ok(true);
                }
                Err(StoreError::Conflict { .. }) => {}
                // If it landed, the next look finds nothing and the answer is that it was deleted.
                Err(StoreError::OutcomeUnknown { .. }) => deleted = true,
                Err(error) => return Err(unavailable(&error)),
            }
        }
        Err(kind.busy(name))
    }

    pub(super) async fn current_config(&self, name: &ConfigName) -> Result<Current, CtlError> {
        let key = Key::Config(name.clone()).to_string();
        let entry = self.platform.store.get(Bucket::Specs, &key).await.map_err(|error| unavailable(&error))?;
        let Some(entry) = entry else { return Ok(Current { revision: None, record: None }) };
        let record = match ConfigRecord::decode(&entry.value) {
            Ok(record) => Some(record),
            Err(error @ DecodeError::Newer(_)) => {
                return Err(CtlError::new(ErrorCode::Conflict, format!("config {name}: {error}")));
            }
            // Corrupt: what is put now repairs it, after the last good version that this node saw.
            Err(DecodeError::Malformed(_)) => self.view.borrow().configs.get(name).map(|config| config.record.clone()),
        };
        Ok(Current { revision: Some(entry.revision), record })
    }

    async fn config_changed(&self, record: &ConfigRecord, revision: Revision, view: &LatticeView) -> ConfigItem {
        let item = ConfigItem { changed: Some(true), ..item(record, revision, view) };
        let users = &item.used_by;
        let by =
            if users.is_empty() { String::new() } else { format!(", for {}", in_words(users, item.used_by_omitted)) };
        let text = format!("version {}, {} entries{by}", item.version, item.sizes.len());
        self.events.send(EventKind::ConfigChanged, &item.name, text).await;
        item
    }
}

fn list(view: &LatticeView, room: usize) -> ConfigList {
    let configs = view.configs.values().filter(|config| config.record.secret.is_none());
    let mut configs: Vec<_> = configs.map(|config| item(&config.record, config.revision, view)).collect();
    let omitted = cut_to_fit(&mut configs, room);
    ConfigList { configs, omitted }
}

/// Some of the names, and how many there are beside them and `more`.
pub(super) fn in_words(users: &[WorkloadName], more: usize) -> String {
    let named: Vec<&str> = users.iter().take(NAMED).map(WorkloadName::as_str).collect();
    match users.len().saturating_sub(NAMED).saturating_add(more) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

pub(super) fn users(view: &LatticeView, name: &ConfigName) -> Vec<WorkloadName> {
    let names = |spec: &lattice::spec::WorkloadSpec| spec.has_configs() && spec.configs().contains(name);
    view.specs.values().filter(|spec| names(&spec.record.spec)).map(|spec| spec.record.spec.name.clone()).collect()
}

/// Whether replicas may be started with a version again: a generation was made for it, or is being made while it is in force.
pub(super) fn is_asked_for(view: &LatticeView, name: &ConfigName, now: &ConfigRecord, stamp: &ConfigStamp) -> bool {
    let records = view.specs.values().flat_map(|spec| [Some(&spec.record), spec.record.stable.as_deref()]).flatten();
    let asks = |record: &SpecRecord| {
        record.configs.get(name) == Some(stamp)
            || now.stamp == *stamp
                && record.spec.config_update() == ConfigUpdate::Roll
                && record.spec.configs().contains(name)
    };
    records.into_iter().any(asks)
}

fn item(record: &ConfigRecord, revision: Revision, view: &LatticeView) -> ConfigItem {
    let ConfigRecord { name, stamp, entries, secret: _, earlier: _, changed_at } = record;
    let mut used_by = users(view, name);
    let used_by_omitted = cut(&mut used_by, NAMES_MAX);
    ConfigItem {
        name: name.clone(),
        version: stamp.version,
        revision,
        sizes: entries.iter().map(|(key, value)| (key.clone(), value.len() as u64)).collect(),
        changed_at: rfc3339(*changed_at),
        used_by,
        used_by_omitted,
        changed: None,
    }
}

pub(super) fn expect(current: &Current, name: &ConfigName, expected: Option<Revision>) -> Result<(), CtlError> {
    let actual = current.revision.unwrap_or(Revision(0));
    match expected {
        Some(expected) if expected != actual => {
            let text = format!("{name} is at revision {actual}, not {expected}");
            Err(CtlError::new(ErrorCode::Conflict, text)
                .hint("somebody changed it first: get it, apply your change again, put it with the new revision"))
        }
        _ => Ok(()),
    }
}

fn no_config(name: &ConfigName) -> CtlError {
    CtlError::new(ErrorCode::NotFound, format!("there is no config {name}")).hint("see `lattice config list`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice::view::Versioned;

    #[test]
    fn a_list_fits_a_message_however_much_there_is() {
        let mut view = LatticeView::default();
        let entries: std::collections::BTreeMap<String, String> =
            (0..300).map(|i| (format!("{i:0>200}"), String::new())).collect();
        for i in 0..CONFIGS_MAX {
            let record = ConfigRecord {
                name: format!("c{i}").parse().unwrap(),
                stamp: ConfigStamp { uid: uuid::Uuid::nil(), version: Generation::FIRST },
                entries: entries.clone(),
                secret: None,
                earlier: Vec::new(),
                changed_at: 0,
            };
            view.configs.insert(record.name.clone(), std::sync::Arc::new(Versioned { record, revision: Revision(1) }));
        }
        let list = list(&view, 512 * 1024);
        assert!(serde_json::to_vec(&list).unwrap().len() < 1024 * 1024, "the least that servers let pass");
        assert!(!list.configs.is_empty());
        assert_eq!(list.configs.len() + list.omitted, CONFIGS_MAX);
    }
}

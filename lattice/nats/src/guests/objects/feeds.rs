//! Lists of objects, and watches: what describes them is read as the keys of a bucket are.

use super::Described;
use crate::guests::changes::NatsChanges;
use async_nats::jetstream::object_store::ObjectInfo;
use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use lattice::{
    Fut,
    nats::{Change, ChangeEvent, Entry, Failure, Feed},
    objects::{Object, ObjectEvent},
};

pub(super) struct NatsList(pub(super) NatsChanges);

impl Feed<Result<Object, Failure>> for NatsList {
    fn next(&mut self) -> Fut<'_, Option<Result<Object, Failure>>> {
        Box::pin(async {
            loop {
                match self.0.next().await? {
                    ChangeEvent::Changed(entry) => {
                        if let Some(ObjectEvent::Changed(object)) = described(entry) {
                            return Some(Ok(object));
                        }
                    }
                    ChangeEvent::CaughtUp => return None,
                    ChangeEvent::Resynchronised => {}
                    ChangeEvent::Failed(failure) => return Some(Err(failure)),
                }
            }
        })
    }
}

pub(super) struct NatsWatch(pub(super) NatsChanges);

impl Feed<ObjectEvent> for NatsWatch {
    fn next(&mut self) -> Fut<'_, Option<ObjectEvent>> {
        Box::pin(async {
            loop {
                let event = match self.0.next().await? {
                    ChangeEvent::Changed(entry) => described(entry),
                    ChangeEvent::CaughtUp => Some(ObjectEvent::CaughtUp),
                    ChangeEvent::Resynchronised => Some(ObjectEvent::Resynchronised),
                    ChangeEvent::Failed(failure) => Some(ObjectEvent::Failed(failure)),
                };
                if event.is_some() {
                    return event;
                }
            }
        })
    }
}

/// None where it is no object's.
fn described(entry: Entry) -> Option<ObjectEvent> {
    if entry.change != Change::Put {
        // A marker of a description whose time was up, which says nothing but whose.
        let name = URL_SAFE.decode(&entry.key).ok().and_then(|name| String::from_utf8(name).ok())?;
        return Some(ObjectEvent::Deleted(name));
    }
    let info: ObjectInfo = serde_json::from_slice(&entry.value).ok()?;
    if entry.key != URL_SAFE.encode(&info.name) {
        return None;
    }
    if info.deleted {
        return Some(ObjectEvent::Deleted(info.name));
    }
    Some(ObjectEvent::Changed(Described { info, revision: entry.revision, modified: entry.created }.into()))
}

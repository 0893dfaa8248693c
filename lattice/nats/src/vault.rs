//! [`lattice::secret::Vault`] over a JetStream KV bucket of its own, which the server republishes to nobody: one key a value,
//! `NAME.ID`, written once. What is removed is purged, so that no message of the stream has its bytes.

use crate::{connect::Nats, layout, store::is_deletion};
use async_nats::{
    HeaderMap,
    jetstream::{
        context::PublishErrorKind,
        stream::{LastRawMessageErrorKind, Stream},
    },
};
use futures_util::StreamExt as _;
use lattice::{
    Fut,
    id::{ConfigName, LatticeId},
    secret::{Secret, Vault},
    store::{Connection, StoreError},
    subject,
};
use std::time::Duration;
use uuid::Uuid;

const EXPECTED_SEQUENCE: &str = "Nats-Expected-Last-Subject-Sequence";
/// Of one operation.
const TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) struct NatsVault {
    nats: Nats,
    lattice: LatticeId,
}

impl NatsVault {
    pub(crate) fn new(nats: Nats, lattice: LatticeId) -> Self {
        Self { nats, lattice }
    }

    fn key(&self, name: &ConfigName, what: &str) -> String {
        format!("$KV.{}.{name}.{what}", subject::secrets_name(&self.lattice))
    }

    fn reachable(&self) -> Result<(), StoreError> {
        match self.nats.connection() {
            Connection::Up => Ok(()),
            // Sent now, it would wait in the client's buffer and land at some later time.
            Connection::Down => Err(StoreError::Unreachable("not connected to NATS".into())),
        }
    }

    /// The bucket, made where it is not there: a server may have lost it.
    async fn stream(&self) -> Result<Stream, StoreError> {
        self.reachable()?;
        let refused = |error: crate::ConnectError| StoreError::Refused(error.to_string());
        layout::ensure_secrets(&self.nats, &self.lattice, true).await.map_err(refused)
    }

    async fn write(&self, name: &ConfigName, id: Uuid, value: Secret) -> Result<(), StoreError> {
        self.stream().await?;
        let subject = self.key(name, &id.to_string());
        let mut headers = HeaderMap::new();
        headers.insert(EXPECTED_SEQUENCE, "0");
        let bytes = value.reveal().to_vec().into();
        let published = async { self.nats.jetstream.publish_with_headers(subject, headers, bytes).await?.await };
        let published = published.await.map(drop);
        published
            .or_else(|error| match error.kind() {
                // Ids are not given twice: it is there from a try that was not answered.
                PublishErrorKind::WrongLastSequence => Ok(()),
                kind => Err((kind, error)),
            })
            .map_err(|(kind, error)| match kind {
                PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => {
                    StoreError::OutcomeUnknown { doing: format!("writing the value of secret {name}") }
                }
                PublishErrorKind::StreamNotFound => StoreError::Unreachable(error.to_string()),
                _ => StoreError::Refused(error.to_string()),
            })
    }

    async fn read(&self, name: &ConfigName, id: Uuid) -> Result<Option<Secret>, StoreError> {
        self.reachable()?;
        let stream = self.nats.jetstream.get_stream_no_info(format!("KV_{}", subject::secrets_name(&self.lattice)));
        let stream = stream.await.map_err(|error| StoreError::Refused(error.to_string()))?;
        match stream.get_last_raw_message_by_subject(&self.key(name, &id.to_string())).await {
            Ok(message) if is_deletion(&message.headers) => Ok(None),
            Ok(message) => Ok(Some(Secret::new(message.payload.into()))),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(StoreError::Unreachable(error.to_string())),
        }
    }

    async fn purge(&self, name: &ConfigName, ids: &[Uuid]) -> Result<(), StoreError> {
        let stream = self.stream().await?;
        let failed = |error: &dyn std::fmt::Display| StoreError::Unreachable(error.to_string());
        let kept: Vec<String> = ids.iter().map(|id| self.key(name, &id.to_string())).collect();
        let found = stream.info_with_subjects(self.key(name, "*")).await;
        let mut found = found.map_err(|error| failed(&error))?;
        while let Some(subject) = found.next().await {
            let (subject, _) = subject.map_err(|error| failed(&error))?;
            if !kept.contains(&subject) {
                stream.purge().filter(subject).await.map_err(|error| failed(&error))?;
            }
        }
        Ok(())
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let late = || Err(StoreError::OutcomeUnknown { doing: "reading or writing a secret".into() });
    tokio::time::timeout(TIMEOUT, work).await.unwrap_or_else(|_| late())
}

impl Vault for NatsVault {
    fn put(&self, name: &ConfigName, id: Uuid, value: Secret) -> Fut<'_, Result<(), StoreError>> {
        let name = name.clone();
        Box::pin(in_time(async move { self.write(&name, id, value).await }))
    }

    fn get(&self, name: &ConfigName, id: Uuid) -> Fut<'_, Result<Option<Secret>, StoreError>> {
        let name = name.clone();
        Box::pin(in_time(async move { self.read(&name, id).await }))
    }

    fn keep_only(&self, name: &ConfigName, ids: &[Uuid]) -> Fut<'_, Result<(), StoreError>> {
        let (name, ids) = (name.clone(), ids.to_vec());
        Box::pin(in_time(async move { self.purge(&name, &ids).await }))
    }
}

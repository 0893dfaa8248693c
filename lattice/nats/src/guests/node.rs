//! What a node looks at over its own connection, for nobody's guests: whether buckets and streams are there. What is in
//! another account is looked at as that account's guests would.

use super::{GuestBuckets, Line, NatsBucket, objects::NatsObjects};
use crate::connect::Nats;
use lattice::{
    Fut,
    account::Login,
    bucket::{BucketError, Buckets, KeyValue},
    nats::{BucketInfo, Failure, Link, Links, LoginError},
    objects::Objects,
    spec::BucketName,
};
use std::{fmt, sync::Arc};

/// Opens buckets and streams over the connection of a node.
#[derive(Clone)]
pub(crate) struct NodeBuckets(pub(crate) Nats);

impl NodeBuckets {
    /// Who connects to accounts: none where a tool of an operator looks, which has none to connect to.
    fn of(&self, login: &Login) -> Option<&GuestBuckets> {
        login.account.as_ref()?;
        self.0.accounts.as_ref()
    }

    fn line() -> Arc<Line> {
        Arc::new(Line::new(None))
    }
}

impl fmt::Debug for NodeBuckets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeBuckets").finish_non_exhaustive()
    }
}

impl Buckets for NodeBuckets {
    fn open(&self, login: &Login, bucket: &BucketName) -> Fut<'_, Result<Arc<dyn KeyValue>, BucketError>> {
        if let Some(accounts) = self.of(login) {
            return accounts.open(login, bucket);
        }
        let bucket = bucket.clone();
        Box::pin(async move {
            let opened: Arc<dyn KeyValue> = Arc::new(NatsBucket::open(self.0.clone(), &bucket, Self::line()).await?);
            Ok(opened)
        })
    }

    fn info(&self, login: &Login, bucket: &BucketName) -> Fut<'_, Result<BucketInfo, BucketError>> {
        if let Some(accounts) = self.of(login) {
            return accounts.info(login, bucket);
        }
        let bucket = bucket.clone();
        Box::pin(async move { Ok(NatsBucket::open(self.0.clone(), &bucket, Self::line()).await?.opened_as()) })
    }

    fn open_objects(&self, login: &Login, bucket: &BucketName) -> Fut<'_, Result<Arc<dyn Objects>, Failure>> {
        if let Some(accounts) = self.of(login) {
            return accounts.open_objects(login, bucket);
        }
        let bucket = bucket.clone();
        Box::pin(async move {
            let opened: Arc<dyn Objects> = Arc::new(NatsObjects::open(self.0.clone(), &bucket, Self::line()).await?);
            Ok(opened)
        })
    }
}

impl Links for NodeBuckets {
    fn link(&self, login: &Login) -> Fut<'_, Result<Arc<dyn Link>, Failure>> {
        if let Some(accounts) = self.of(login) {
            return accounts.link(login);
        }
        Box::pin(std::future::ready(Ok(super::native::link(self.0.clone(), Self::line()))))
    }

    fn enter(&self, login: &Login) -> Fut<'_, Result<Arc<dyn Link>, LoginError>> {
        if let Some(accounts) = self.of(login) {
            return accounts.enter(login);
        }
        Box::pin(std::future::ready(Ok(super::native::link(self.0.clone(), Self::line()))))
    }
}

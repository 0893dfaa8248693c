//! Whether the buckets, streams and consumers that a spec names are there, and as it requires: a guest must not be the first to
//! find out.

use super::Admission;
use lattice::{
    account::{AccountError, Login},
    binding::{make, mend, shortfalls},
    bucket::BucketError,
    ctl::{Condition, ConditionKind, CtlError, ErrorCode, Reason},
    nats::{Code, Failure, Link, LoginError},
    secret::RevealError,
    spec::{BucketGrant, Grants, StreamGrant, WorkloadSpec},
    units::Bytes,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Buckets that are looked at for one status.
const BINDINGS_ASKED: usize = 16;
const BOUND_WITHIN: Duration = Duration::from_secs(2);

impl Admission {
    pub(super) async fn check_stores(&self, spec: &WorkloadSpec) -> Result<(), CtlError> {
        for (field, grants) in all_grants(spec) {
            let (login, link) = &self.enter(spec, &field, grants).await?;
            for (name, grant) in &grants.keyvalue {
                let opened = self.platform.buckets.open(login, &grant.bucket).await;
                let make = format!("nats kv add {}", grant.bucket);
                opened.map_err(|error| unusable(&error, make, format!("{field}.keyvalue.{name}.bucket")))?;
            }
            let payload_bytes_max = match link {
                Some(link) => link.payload_bytes_max() as u64,
                None => self.payload_bytes_max(),
            };
            check_payload(&field, grants, payload_bytes_max)?;
            for (name, grant) in &grants.nats.buckets {
                self.check_bucket(login, &format!("{field}.nats.buckets.{name}"), grant).await?;
            }
            for (name, grant) in &grants.blobstore {
                let bucket = &grant.bucket;
                let Err(failure) = self.platform.buckets.open_objects(login, bucket).await else { continue };
                let error = match failure.code {
                    Code::NotFound => CtlError::new(ErrorCode::Invalid, failure.detail)
                        .hint(format!("make it first: nats object add {bucket}")),
                    Code::Unsupported => CtlError::new(ErrorCode::Invalid, failure.detail),
                    _ => CtlError::new(ErrorCode::Unavailable, failure.detail).hint("look at NATS, then put it again"),
                };
                return Err(error.field(format!("{field}.blobstore.{name}.bucket")));
            }
            for (name, grant) in &grants.nats.streams {
                if let Err((of, error)) = self.check_stream(login, grant).await {
                    return Err(error.field(format!("{field}.nats.streams.{name}.{of}")));
                }
            }
        }
        Ok(())
    }

    /// Whether the buckets that a workload binds are still as it requires, as the server says now. Nothing where it requires
    /// nothing, or where no answer comes in time.
    pub(super) async fn bound(&self, spec: &WorkloadSpec) -> Option<Condition> {
        let bindings: Vec<_> = all_grants(spec)
            .flat_map(|(field, grants)| grants.nats.buckets.iter().map(move |bucket| (field.clone(), grants, bucket)))
            .filter(|(_, _, (_, grant))| grant.is_bound())
            .take(BINDINGS_ASKED)
            .collect();
        if bindings.is_empty() {
            return None;
        }
        let asking = async {
            // Held until all was looked at: else each look would connect anew.
            let mut held: Vec<(Login, Option<Arc<dyn Link>>)> = Vec::new();
            for (field, grants, (name, grant)) in bindings {
                held.push(self.enter(spec, &field, grants).await.ok()?);
                let Some((login, _)) = held.last() else { return None };
                match self.check_bucket(login, &format!("{field}.nats.buckets.{name}"), grant).await {
                    Err(error) if error.code == ErrorCode::Invalid => return Some(unfit(error)),
                    Err(_) => return None,
                    Ok(()) => {}
                }
            }
            Some(condition(true, Reason::AsAsked, "every bucket is as the spec requires".to_owned()))
        };
        tokio::select! { // cancel-safe: it only reads
            biased;
            told = asking => told,
            () = self.platform.clock.sleep(BOUND_WITHIN) => None,
        }
    }

    /// The field that is wrong, and why.
    async fn check_stream(&self, login: &Login, grant: &StreamGrant) -> Result<(), (String, CtlError)> {
        let StreamGrant { stream, consumers, .. } = grant;
        let error = |failure: Failure, absent: String, hint: String| match failure.code {
            Code::NotFound => CtlError::new(ErrorCode::Invalid, absent).hint(hint),
            Code::Disconnected | Code::NoResponders | Code::Timeout => {
                CtlError::new(ErrorCode::Unavailable, failure.detail).hint("look at NATS, then put it again")
            }
            _ => CtlError::new(ErrorCode::Invalid, failure.detail),
        };
        let opened = async { self.platform.nats.link(login).await?.stream(stream).await }.await;
        let opened = opened.map_err(|failure| {
            let hint = format!("make it first: nats stream add {stream} --subjects 'a.>'");
            ("stream".to_owned(), error(failure, format!("there is no stream {stream}"), hint))
        })?;
        for (index, consumer) in consumers.iter().enumerate() {
            opened.consumer(consumer).await.map_err(|failure| {
                let hint = format!("make it first: nats consumer add {stream} {consumer} --pull");
                let absent = format!("the stream {stream} has no consumer {consumer}");
                (format!("consumers[{index}]"), error(failure, absent, hint))
            })?;
        }
        Ok(())
    }

    /// As whom these grants have guests connected. Of an account of their own the connection as well: it is held while what is
    /// there is looked at, and shows that guests will have one.
    async fn enter(
        &self,
        spec: &WorkloadSpec,
        field: &str,
        grants: &Grants,
    ) -> Result<(Login, Option<Arc<dyn Link>>), CtlError> {
        let field = |of: &str| format!("{field}.nats.account.{of}");
        let login = Login::of(&self.platform, &spec.name, grants, &BTreeMap::new()).await.map_err(|error| {
            let code = match &error {
                AccountError::Secret(RevealError::Unreadable { .. }) => ErrorCode::Unavailable,
                _ => ErrorCode::Invalid,
            };
            let hint = match &error {
                AccountError::Secret(RevealError::Unreadable { .. }) => "look at NATS, then put it again",
                AccountError::Secret(_) => "put it first: lattice secret put NAME --file user.creds",
                AccountError::Credentials(..) => "put another value: lattice secret put NAME --file user.creds",
            };
            CtlError::new(code, error.to_string()).field(field("credentials")).hint(hint)
        })?;
        if login.account.is_none() {
            return Ok((login, None));
        }
        let link = self.platform.nats.enter(&login).await.map_err(|error| match &error {
            LoginError::Servers(text) => CtlError::new(ErrorCode::Invalid, text.clone()).field(field("servers")),
            LoginError::Authority(text) => CtlError::new(ErrorCode::Invalid, text.clone()).field(field("ca")),
            LoginError::Credentials(text) => {
                CtlError::new(ErrorCode::Invalid, text.clone()).field(field("credentials")).hint(
                    "put the credentials of a user whom these servers know: lattice secret put NAME --file user.creds",
                )
            }
            LoginError::Unreachable(text) => CtlError::new(ErrorCode::Unavailable, text.clone())
                .field(field("servers"))
                .hint("look at these servers, then put it again"),
        })?;
        Ok((login, Some(link)))
    }

    fn payload_bytes_max(&self) -> u64 {
        u64::try_from(self.platform.bus.payload_bytes_max()).unwrap_or(u64::MAX)
    }

    /// All that falls short is told at once; the field is that of the first.
    async fn check_bucket(&self, login: &Login, field: &str, grant: &BucketGrant) -> Result<(), CtlError> {
        let found = self.platform.buckets.info(login, &grant.bucket).await;
        let found = found.map_err(|error| unusable(&error, make(grant), format!("{field}.bucket")))?;
        let short = shortfalls(grant, &found, self.payload_bytes_max());
        let Some(first) = short.first() else { return Ok(()) };
        let bucket = &grant.bucket;
        let texts: Vec<String> = match short.as_slice() {
            [only] => vec![only.text.clone()],
            several => several.iter().map(|short| format!("{}: {}", short.field, short.text)).collect(),
        };
        let text = format!("the KV bucket {bucket} is not as required: {}", texts.join("; "));
        Err(CtlError::new(ErrorCode::Invalid, text)
            .field(format!("{field}.{}", first.field))
            .hint(mend(bucket, &short)))
    }
}

fn check_payload(field: &str, grants: &Grants, payload_bytes_max: u64) -> Result<(), CtlError> {
    let Some(least) = grants.nats.require.max_payload else { return Ok(()) };
    let most = Bytes(payload_bytes_max);
    if most >= least {
        return Ok(());
    }
    let text = format!("messages of {least} are required, and the server carries {most}");
    let error = CtlError::new(ErrorCode::Invalid, text).field(format!("{field}.nats.require.max-payload"));
    Err(error.hint("raise max_payload in the configuration of the NATS server"))
}

/// Of the workload, and of those of its parts that have some of their own.
fn all_grants(spec: &WorkloadSpec) -> impl Iterator<Item = (String, &Grants)> {
    let parts = spec.parts().filter_map(|part| Some((format!("{}.grants", part.field), part.grants?)));
    [("grants".to_owned(), &spec.grants)].into_iter().chain(parts)
}

fn condition(status: bool, reason: Reason, message: String) -> Condition {
    Condition { kind: ConditionKind::Bound, status, reason, message, since: None }
}

fn unfit(CtlError { message, field, hint, .. }: CtlError) -> Condition {
    let field = field.map_or_else(String::new, |field| format!("{field}: "));
    let hint = hint.map_or_else(String::new, |hint| format!("; {hint}"));
    condition(false, Reason::BucketUnfit, format!("{field}{message}{hint}"))
}

/// `make`: the command that makes what is absent.
fn unusable(error: &BucketError, make: String, field: String) -> CtlError {
    let text = error.to_string();
    let error = match error {
        BucketError::Unreachable(_) => {
            CtlError::new(ErrorCode::Unavailable, text).hint("look at NATS, then put it again")
        }
        BucketError::Absent(_) => CtlError::new(ErrorCode::Invalid, text).hint(format!("make it first: {make}")),
        _ => CtlError::new(ErrorCode::Invalid, text),
    };
    error.field(field)
}

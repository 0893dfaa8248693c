//! Whether the buckets, streams and consumers that a spec names are there, and as it requires: a guest must not be the first to
//! find out.

use super::Admission;
use lattice::{
    account::{AccountError, Login},
    binding::{Shortfall, make, make_stream, mend, mend_stream, shortfalls, stream_shortfalls},
    bucket::BucketError,
    ctl::{Condition, ConditionKind, CtlError, ErrorCode, Reason},
    nats::{Code, Failure, Link, LoginError},
    secret::RevealError,
    spec::{BucketGrant, BucketName, Grants, StreamGrant, WorkloadSpec},
    units::Bytes,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Buckets and streams that are looked at for one status.
const BINDINGS_ASKED: usize = 16;
const BOUND_WITHIN: Duration = Duration::from_secs(2);

impl Admission {
    pub(super) async fn check_stores(&self, spec: &WorkloadSpec) -> Result<(), CtlError> {
        for (field, grants) in all_grants(spec) {
            let entered = &self.enter(spec, &field, grants).await?;
            let login = &entered.login;
            for (name, grant) in &grants.keyvalue {
                let opened = self.platform.buckets.open(login, &grant.bucket).await;
                let make = format!("nats kv add {}", grant.bucket);
                opened.map_err(|error| unusable(&error, make, format!("{field}.keyvalue.{name}.bucket")))?;
            }
            check_payload(&field, grants, entered.payload_bytes_max)?;
            for (name, grant) in &grants.nats.buckets {
                self.check_bucket(entered, &format!("{field}.nats.buckets.{name}"), grant).await?;
            }
            for (name, grant) in &grants.blobstore {
                let opened = self.platform.buckets.open_objects(login, &grant.bucket).await;
                check_objects(opened.err(), &grant.bucket, || format!("{field}.blobstore.{name}.bucket"))?;
            }
            for (name, grant) in &grants.nats.objects {
                let opened = async { self.platform.nats.link(login).await?.objects(&grant.bucket).await }.await;
                check_objects(opened.err(), &grant.bucket, || format!("{field}.nats.objects.{name}.bucket"))?;
            }
            for (name, grant) in &grants.nats.streams {
                self.check_stream(entered, &format!("{field}.nats.streams.{name}"), grant).await?;
            }
        }
        Ok(())
    }

    /// Whether the buckets and streams that a workload binds are still as it requires, as the server says now. Nothing where it requires
    /// nothing, or where no answer comes in time.
    pub(super) async fn bound(&self, spec: &WorkloadSpec) -> Option<Condition> {
        let bindings: Vec<_> = all_grants(spec)
            .flat_map(|(of, grants)| {
                let bound = grants.nats.buckets.iter().filter(|(_, grant)| grant.is_bound());
                let buckets = bound.map(|(name, grant)| (format!("{of}.nats.buckets.{name}"), Binding::Bucket(grant)));
                let bound = grants.nats.streams.iter().filter(|(_, grant)| grant.is_bound());
                let streams = bound.map(|(name, grant)| (format!("{of}.nats.streams.{name}"), Binding::Stream(grant)));
                let bound: Vec<_> = buckets.chain(streams).collect();
                bound.into_iter().map(move |(field, binding)| (of.clone(), grants, field, binding))
            })
            .take(BINDINGS_ASKED)
            .collect();
        if bindings.is_empty() {
            return None;
        }
        let asking = async {
            // Until all was looked at.
            let mut held = Vec::new();
            for (of, grants, field, binding) in bindings {
                held.push(self.enter(spec, &of, grants).await.ok()?);
                let entered = held.last()?;
                let (found, reason) = match binding {
                    Binding::Bucket(grant) => (self.check_bucket(entered, &field, grant).await, Reason::BucketUnfit),
                    Binding::Stream(grant) => (self.check_stream(entered, &field, grant).await, Reason::StreamUnfit),
                };
                match found {
                    Err(error) if error.code == ErrorCode::Invalid => return Some(unfit(reason, error)),
                    Err(_) => return None,
                    Ok(()) => {}
                }
            }
            Some(condition(true, Reason::AsAsked, "every bucket and stream is as the spec requires".to_owned()))
        };
        tokio::select! { // cancel-safe: it only reads
            biased;
            told = asking => told,
            () = self.platform.clock.sleep(BOUND_WITHIN) => None,
        }
    }

    async fn check_stream(&self, entered: &Entered, field: &str, grant: &StreamGrant) -> Result<(), CtlError> {
        let StreamGrant { stream, consumers, .. } = grant;
        let error = |failure: Failure, absent: String, hint: String| match failure.code {
            Code::NotFound => CtlError::new(ErrorCode::Invalid, absent).hint(hint),
            Code::Disconnected | Code::NoResponders | Code::Timeout => {
                CtlError::new(ErrorCode::Unavailable, failure.detail).hint("look at NATS, then put it again")
            }
            _ => CtlError::new(ErrorCode::Invalid, failure.detail),
        };
        let unusable = |failure: Failure| {
            let hint = format!("make it first: {}", make_stream(grant));
            error(failure, format!("there is no stream {stream}"), hint).field(format!("{field}.stream"))
        };
        let opened = async { self.platform.nats.link(&entered.login).await?.stream(stream).await }.await;
        let opened = opened.map_err(unusable)?;
        for (index, consumer) in consumers.iter().enumerate() {
            opened.consumer(consumer).await.map_err(|failure| {
                let hint = format!("make it first: nats consumer add {stream} {consumer} --pull");
                let absent = format!("the stream {stream} has no consumer {consumer}");
                error(failure, absent, hint).field(format!("{field}.consumers[{index}]"))
            })?;
        }
        if !grant.is_bound() {
            return Ok(());
        }
        let found = opened.info().await.map_err(unusable)?;
        let short = stream_shortfalls(grant, &found, entered.payload_bytes_max);
        falls_short(field, &format!("the stream {stream}"), &short, || mend_stream(stream, &short))
    }

    /// As whom these grants have guests connected. That they can be is shown by a connection, where they have an account of
    /// their own.
    async fn enter(&self, spec: &WorkloadSpec, field: &str, grants: &Grants) -> Result<Entered, CtlError> {
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
            let payload_bytes_max = u64::try_from(self.platform.bus.payload_bytes_max()).unwrap_or(u64::MAX);
            return Ok(Entered { login, payload_bytes_max, _link: None });
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
        let payload_bytes_max = link.payload_bytes_max() as u64;
        Ok(Entered { login, payload_bytes_max, _link: Some(link) })
    }

    async fn check_bucket(&self, entered: &Entered, field: &str, grant: &BucketGrant) -> Result<(), CtlError> {
        let found = self.platform.buckets.info(&entered.login, &grant.bucket).await;
        let found = found.map_err(|error| unusable(&error, make(grant), format!("{field}.bucket")))?;
        let short = shortfalls(grant, &found, entered.payload_bytes_max);
        let bucket = &grant.bucket;
        falls_short(field, &format!("the KV bucket {bucket}"), &short, || mend(bucket, &short))
    }
}

/// As whom guests with certain grants are connected.
struct Entered {
    login: Login,
    /// The most that a message may have there.
    payload_bytes_max: u64,
    /// The connection, where they have an account of their own: held while what is there is looked at, which else would
    /// connect anew each time.
    _link: Option<Arc<dyn Link>>,
}

/// Something that a spec requires of the server.
enum Binding<'a> {
    Bucket(&'a BucketGrant),
    Stream(&'a StreamGrant),
}

/// All that falls short is told at once; the field is that of the first.
fn falls_short(field: &str, what: &str, short: &[Shortfall], mend: impl FnOnce() -> String) -> Result<(), CtlError> {
    let texts: Vec<String> = match short {
        [] => return Ok(()),
        [only] => vec![only.text.clone()],
        several => several.iter().map(|short| format!("{}: {}", short.field, short.text)).collect(),
    };
    let text = format!("{what} is not as required: {}", texts.join("; "));
    let first = short.first().map_or("", |short| short.field);
    Err(CtlError::new(ErrorCode::Invalid, text).field(format!("{field}.{first}")).hint(mend()))
}

/// Whether an object store could be opened.
fn check_objects(
    failure: Option<Failure>,
    bucket: &BucketName,
    field: impl FnOnce() -> String,
) -> Result<(), CtlError> {
    let Some(failure) = failure else { return Ok(()) };
    let error = match failure.code {
        Code::NotFound => {
            CtlError::new(ErrorCode::Invalid, failure.detail).hint(format!("make it first: nats object add {bucket}"))
        }
        Code::Unsupported => CtlError::new(ErrorCode::Invalid, failure.detail),
        _ => CtlError::new(ErrorCode::Unavailable, failure.detail).hint("look at NATS, then put it again"),
    };
    Err(error.field(field()))
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

fn unfit(reason: Reason, CtlError { message, field, hint, .. }: CtlError) -> Condition {
    let field = field.map_or_else(String::new, |field| format!("{field}: "));
    let hint = hint.map_or_else(String::new, |hint| format!("; {hint}"));
    condition(false, reason, format!("{field}{message}{hint}"))
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

//! Whether the buckets, streams and consumers that a spec names are there, and as it requires: a guest must not be the first to
//! find out.

use super::Admission;
use lattice::{
    binding::{Shortfall, make, make_stream, mend, mend_stream, shortfalls, stream_shortfalls},
    bucket::BucketError,
    ctl::{Condition, ConditionKind, CtlError, ErrorCode, Reason},
    id::WorkloadName,
    nats::{Code, Failure},
    spec::{BucketGrant, BucketName, Grants, StoreName, StreamGrant, WorkloadSpec},
    units::Bytes,
};
use std::time::Duration;

/// Buckets and streams that are looked at for one status.
const BINDINGS_ASKED: usize = 16;
const BOUND_WITHIN: Duration = Duration::from_secs(2);

impl Admission {
    pub(super) async fn check_stores(&self, spec: &WorkloadSpec) -> Result<(), CtlError> {
        for (field, grants) in all_grants(spec) {
            for (name, grant) in &grants.keyvalue {
                let opened = self.platform.buckets.open(&spec.name, &grant.bucket).await;
                let make = format!("nats kv add {}", grant.bucket);
                opened.map_err(|error| unusable(&error, make, format!("{field}.keyvalue.{name}.bucket")))?;
            }
            self.check_payload(&field, grants)?;
            for (name, grant) in &grants.nats.buckets {
                self.check_bucket(&spec.name, &format!("{field}.nats.buckets.{name}"), grant).await?;
            }
            for (name, grant) in &grants.blobstore {
                let opened = self.platform.buckets.open_objects(&spec.name, &grant.bucket).await;
                check_objects(opened.err(), &grant.bucket, || format!("{field}.blobstore.{name}.bucket"))?;
            }
            for (name, grant) in &grants.nats.objects {
                let opened = async { self.platform.nats.link(&spec.name).await?.objects(&grant.bucket).await }.await;
                check_objects(opened.err(), &grant.bucket, || format!("{field}.nats.objects.{name}.bucket"))?;
            }
            for (name, grant) in &grants.nats.streams {
                self.check_stream(&spec.name, &format!("{field}.nats.streams.{name}"), grant).await?;
            }
        }
        Ok(())
    }

    /// Whether the buckets and streams that a workload binds are still as it requires, as the server says now. Nothing where it requires
    /// nothing, or where no answer comes in time.
    pub(super) async fn bound(&self, spec: &WorkloadSpec) -> Option<Condition> {
        let bindings: Vec<(String, Binding<'_>)> = all_grants(spec)
            .flat_map(|(field, Grants { nats, .. })| {
                let bound = nats.buckets.iter().filter(|(_, grant)| grant.is_bound());
                let named = |kind: &str, name: &StoreName| format!("{field}.nats.{kind}.{name}");
                let buckets = bound.map(|(name, grant)| (named("buckets", name), Binding::Bucket(grant)));
                let bound = nats.streams.iter().filter(|(_, grant)| grant.is_bound());
                let streams = bound.map(|(name, grant)| (named("streams", name), Binding::Stream(grant)));
                buckets.chain(streams).collect::<Vec<_>>()
            })
            .take(BINDINGS_ASKED)
            .collect();
        if bindings.is_empty() {
            return None;
        }
        let asking = async {
            for (field, binding) in bindings {
                let (found, reason) = match binding {
                    Binding::Bucket(grant) => (self.check_bucket(&spec.name, &field, grant).await, Reason::BucketUnfit),
                    Binding::Stream(grant) => (self.check_stream(&spec.name, &field, grant).await, Reason::StreamUnfit),
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

    async fn check_stream(&self, workload: &WorkloadName, field: &str, grant: &StreamGrant) -> Result<(), CtlError> {
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
        let opened = async { self.platform.nats.link(workload).await?.stream(stream).await }.await;
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
        let short = stream_shortfalls(grant, &found, self.payload_bytes_max());
        falls_short(field, &format!("the stream {stream}"), &short, || mend_stream(stream, &short))
    }

    fn check_payload(&self, field: &str, grants: &Grants) -> Result<(), CtlError> {
        let Some(least) = grants.nats.require.max_payload else { return Ok(()) };
        let most = Bytes(self.payload_bytes_max());
        if most >= least {
            return Ok(());
        }
        let error = CtlError::new(
            ErrorCode::Invalid,
            format!("messages of {least} are required, and the server carries {most}"),
        );
        let error = error.field(format!("{field}.nats.require.max-payload"));
        Err(error.hint("raise max_payload in the configuration of the NATS server"))
    }

    fn payload_bytes_max(&self) -> u64 {
        u64::try_from(self.platform.bus.payload_bytes_max()).unwrap_or(u64::MAX)
    }

    async fn check_bucket(&self, workload: &WorkloadName, field: &str, grant: &BucketGrant) -> Result<(), CtlError> {
        let found = self.platform.buckets.info(workload, &grant.bucket).await;
        let found = found.map_err(|error| unusable(&error, make(grant), format!("{field}.bucket")))?;
        let short = shortfalls(grant, &found, self.payload_bytes_max());
        let bucket = &grant.bucket;
        falls_short(field, &format!("the KV bucket {bucket}"), &short, || mend(bucket, &short))
    }
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

//! Whether the buckets that a spec names are there: a guest must not be the first to find out.

use super::Admission;
use lattice::{
    bucket::BucketError,
    ctl::{CtlError, ErrorCode},
    spec::{Grants, WorkloadSpec},
};

impl Admission {
    pub(super) async fn check_stores(&self, spec: &WorkloadSpec) -> Result<(), CtlError> {
        let parts = spec.parts().filter_map(|part| Some((format!("{}.grants", part.field), part.grants?.clone())));
        let all: Vec<(String, Grants)> =
            [("grants".to_owned(), spec.grants.clone())].into_iter().chain(parts).collect();
        for (field, grants) in all {
            let stores = grants.keyvalue.iter().map(|(name, grant)| ("keyvalue", name, &grant.bucket));
            let buckets = grants.nats.buckets().map(|(name, bucket)| ("nats.buckets", name, bucket));
            for (of, name, bucket) in stores.chain(buckets) {
                let Err(error) = self.platform.buckets.open(&spec.name, bucket).await else { continue };
                let error = match error {
                    BucketError::Unreachable(_) => {
                        CtlError::new(ErrorCode::Unavailable, error.to_string()).hint("look at NATS, then put it again")
                    }
                    BucketError::Absent(_) => CtlError::new(ErrorCode::Invalid, error.to_string())
                        .hint(format!("make it first: nats kv add {bucket}")),
                    _ => CtlError::new(ErrorCode::Invalid, error.to_string()),
                };
                return Err(error.field(format!("{field}.{of}.{name}.bucket")));
            }
        }
        Ok(())
    }
}

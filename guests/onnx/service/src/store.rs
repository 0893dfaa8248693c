//! Models in the container `models`: `wasi:blobstore`.

use bindings::wasi::blobstore::{
    blobstore,
    container::Container,
    types::{IncomingValue, IncomingValueAsyncBody},
};
use bindings::wasi::io::streams::StreamError;

mod bindings {
    wasip3::wit_bindgen::generate!({
        path: "../../../wit/deps/blobstore",
        world: "wasi:blobstore/imports",
        runtime_path: "wasip3::wit_bindgen::rt",
        generate_all,
    });
}

const CONTAINER: &str = "models";
/// Bytes of one read.
const READ_BYTES: u64 = 1 << 20;

/// What tells an object from another, and from one that replaced it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    name: String,
    created_at: u64,
    size: u64,
}

fn container() -> Result<Container, (u16, String)> {
    let failed = |error| (500, format!("the container {CONTAINER:?}: {error}"));
    blobstore::get_container(CONTAINER).map_err(failed)
}

pub fn version(name: &str) -> Result<Version, (u16, String)> {
    let container = container()?;
    let failed = |error| (500, format!("the model {name:?}: {error}"));
    if !container.has_object(name).map_err(failed)? {
        return Err((404, format!("there is no model {name:?} in the container {CONTAINER:?}")));
    }
    let info = container.object_info(name).map_err(failed)?;
    Ok(Version { name: name.to_owned(), created_at: info.created_at, size: info.size })
}

pub fn read(version: &Version, bytes_max: usize) -> Result<Vec<u8>, (u16, String)> {
    if version.size > bytes_max as u64 {
        return Err((422, format!("the model has {} bytes, of at most {bytes_max}", version.size)));
    }
    let failed = |error| (500, format!("the model {:?}: {error}", version.name));
    let value = container()?.get_data(&version.name, 0, u64::MAX).map_err(failed)?;
    let stream: IncomingValueAsyncBody = IncomingValue::incoming_value_consume_async(value).map_err(failed)?;
    let mut bytes = Vec::with_capacity(usize::try_from(version.size).unwrap_or(0));
    loop {
        match stream.blocking_read(READ_BYTES) {
            // Another one may have come in its place meanwhile.
            Ok(chunk) if bytes.len() + chunk.len() > bytes_max => {
                return Err((422, format!("the model has more than {bytes_max} bytes")));
            }
            Ok(chunk) => bytes.extend(chunk),
            Err(StreamError::Closed) => return Ok(bytes),
            Err(StreamError::LastOperationFailed(error)) => return Err(failed(error.to_debug_string())),
        }
    }
}

//! The two maps of the interface. They live here, outside of the guest's memory, so they have bounds.

use crate::{
    bindings::webgpu::{HostRecordGpuPipelineConstantValue, HostRecordOptionGpuSize64},
    host::{
        GpuView, dropped,
        resources::{Constants, RequiredLimits},
    },
};
use std::collections::BTreeMap;
use wasmtime::{bail, component::Resource};

const ENTRIES_MAX: usize = 1_000;
const KEY_BYTES_MAX: usize = 256;

fn add<V>(map: &mut BTreeMap<String, V>, key: String, value: V) -> wasmtime::Result<()> {
    if key.len() > KEY_BYTES_MAX || (map.len() >= ENTRIES_MAX && !map.contains_key(&key)) {
        bail!("a map of webgpu has at most {ENTRIES_MAX} entries, and keys of at most {KEY_BYTES_MAX} bytes");
    }
    map.insert(key, value);
    Ok(())
}

macro_rules! map {
    ($interface:ident, $resource:ty, $value:ty) => {
        impl $interface for GpuView<'_> {
            fn new(&mut self) -> wasmtime::Result<Resource<$resource>> {
                Ok(self.table.push(BTreeMap::new())?)
            }

            fn add(&mut self, it: Resource<$resource>, key: String, value: $value) -> wasmtime::Result<()> {
                add(self.table.get_mut(&it)?, key, value)
            }

            fn get(&mut self, it: Resource<$resource>, key: String) -> wasmtime::Result<Option<$value>> {
                Ok(self.table.get(&it)?.get(&key).copied())
            }

            fn has(&mut self, it: Resource<$resource>, key: String) -> wasmtime::Result<bool> {
                Ok(self.table.get(&it)?.contains_key(&key))
            }

            fn remove(&mut self, it: Resource<$resource>, key: String) -> wasmtime::Result<()> {
                self.table.get_mut(&it)?.remove(&key);
                Ok(())
            }

            fn keys(&mut self, it: Resource<$resource>) -> wasmtime::Result<Vec<String>> {
                Ok(self.table.get(&it)?.keys().cloned().collect())
            }

            fn values(&mut self, it: Resource<$resource>) -> wasmtime::Result<Vec<$value>> {
                Ok(self.table.get(&it)?.values().copied().collect())
            }

            fn entries(&mut self, it: Resource<$resource>) -> wasmtime::Result<Vec<(String, $value)>> {
                Ok(self.table.get(&it)?.iter().map(|(key, value)| (key.clone(), *value)).collect())
            }

            dropped!($resource);
        }
    };
}

map!(HostRecordGpuPipelineConstantValue, Constants, f64);
map!(HostRecordOptionGpuSize64, RequiredLimits, Option<u64>);

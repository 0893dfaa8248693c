//! What wgpu has and WebGPU does not. Each is made with a validation error, and does nothing.

use wgpu::custom;

#[derive(Debug)]
pub(crate) struct Absent;

impl custom::BlasInterface for Absent {
    fn prepare_compact_async(&self, callback: custom::BlasCompactCallback) {
        callback(Err(wgpu::BlasAsyncError));
    }

    fn ready_for_compaction(&self) -> bool {
        false
    }
}

impl custom::TlasInterface for Absent {}

impl custom::ExternalTextureInterface for Absent {
    fn destroy(&self) {}
}

impl custom::PipelineCacheInterface for Absent {
    fn get_data(&self) -> Option<Vec<u8>> {
        None
    }
}

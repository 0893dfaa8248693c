//! Buffers and their mapping. What a guest sees of a mapping is decided here, where it calls; wgpu is asked afterwards, on
//! the device's thread, and only for what it accepts: it panics at ranges that are outside of a buffer.

use crate::{
    bindings::webgpu::*,
    device::{Fault, Gpu, Lane},
    host::{
        GpuView, HasGpu, dropped, labels,
        resources::{self as r, MapState, Mapping},
    },
    lock,
};
use std::{
    ops::Range,
    sync::{Arc, Mutex},
};
use tokio::sync::oneshot;
use wasmtime::component::{Accessor, Resource};

/// What one call may read: it is copied on its way.
const READ_BYTES_MAX: u64 = 32 << 20;

fn range_error<T>(kind: GetMappedRangeErrorKind, message: impl Into<String>) -> Result<T, GetMappedRangeError> {
    Err(GetMappedRangeError { kind, message: message.into() })
}

/// The range that a guest means, if it is in what is mapped.
fn mapped(
    buffer: &r::Buffer,
    offset: Option<u64>,
    size: Option<u64>,
) -> Result<(Range<u64>, bool), GetMappedRangeError> {
    use GetMappedRangeErrorKind::OperationError;
    let MapState::Mapped { range, write } = lock(&buffer.map).state.clone() else {
        return range_error(OperationError, "the buffer is not mapped");
    };
    let start = offset.unwrap_or(0);
    let end = match size {
        Some(size) => start.checked_add(size),
        None => Some(buffer.size.max(start)),
    };
    let Some(end) = end.filter(|end| range.start <= start && *end <= range.end) else {
        let message = format!("the range at {start} is not in what is mapped: {}..{}", range.start, range.end);
        return range_error(OperationError, message);
    };
    if !start.is_multiple_of(8) || !(end - start).is_multiple_of(4) {
        return range_error(OperationError, "an offset must be a multiple of 8, and a size of 4");
    }
    Ok((start..end, write))
}

impl HostGpuBuffer for GpuView<'_> {
    labels!(r::Buffer);
    dropped!(r::Buffer);

    fn size(&mut self, it: Resource<r::Buffer>) -> wasmtime::Result<u64> {
        Ok(self.table.get(&it)?.size)
    }

    fn usage(&mut self, it: Resource<r::Buffer>) -> wasmtime::Result<GpuBufferUsage> {
        Ok(self.table.get(&it)?.usage)
    }

    fn map_state(&mut self, it: Resource<r::Buffer>) -> wasmtime::Result<GpuBufferMapState> {
        Ok(match &lock(&self.table.get(&it)?.map).state {
            MapState::Unmapped => GpuBufferMapState::Unmapped,
            MapState::Pending => GpuBufferMapState::Pending,
            MapState::Mapped { .. } => GpuBufferMapState::Mapped,
        })
    }

    async fn get_mapped_range_get_with_copy(
        &mut self,
        it: Resource<r::Buffer>,
        offset: Option<u64>,
        size: Option<u64>,
    ) -> wasmtime::Result<Result<Vec<u8>, GetMappedRangeError>> {
        use GetMappedRangeErrorKind::{OperationError, RangeError};
        let buffer = self.table.get(&it)?;
        let range = match mapped(buffer, offset, size) {
            Ok((range, _)) => range,
            Err(error) => return Ok(Err(error)),
        };
        let length = range.end - range.start;
        if length > READ_BYTES_MAX {
            return Ok(range_error(RangeError, format!("one call reads at most {READ_BYTES_MAX} bytes")));
        }
        if length == 0 {
            return Ok(Ok(Vec::new()));
        }
        let (object, lane) = (buffer.object.clone(), buffer.lane.clone());
        let bytes = usize::try_from(length).unwrap_or(usize::MAX);
        let read = lane.ask(bytes, move |gpu| -> Result<Vec<u8>, String> {
            let buffer = object.get("the buffer").map_err(|fault| fault.message)?;
            let view = buffer.it.get_mapped_range(range).map_err(|error| error.to_string())?;
            gpu.shared.account.downloaded(view.len());
            Ok(view.to_vec())
        });
        let read = read.await.unwrap_or_else(|| Err("the device is lost".into()));
        Ok(read.or_else(|message| range_error(OperationError, message)))
    }

    async fn get_mapped_range_set_with_copy(
        &mut self,
        it: Resource<r::Buffer>,
        data: Vec<u8>,
        offset: Option<u64>,
        size: Option<u64>,
    ) -> wasmtime::Result<Result<(), GetMappedRangeError>> {
        use GetMappedRangeErrorKind::{OperationError, RangeError};
        let buffer = self.table.get(&it)?;
        let (range, write) = match mapped(buffer, offset, size) {
            Ok(mapped) => mapped,
            Err(error) => return Ok(Err(error)),
        };
        if !write {
            return Ok(range_error(OperationError, "the buffer is mapped to be read"));
        }
        let length = data.len();
        if length as u64 > range.end - range.start {
            return Ok(range_error(RangeError, format!("{length} bytes are more than the range has")));
        }
        if length == 0 {
            return Ok(Ok(()));
        }
        let (object, lane) = (buffer.object.clone(), buffer.lane.clone());
        let written = lane.ask(length, move |gpu| -> Result<(), String> {
            let buffer = object.get("the buffer").map_err(|fault| fault.message)?;
            // Whole words, which the range has: its size is a multiple of them.
            let end = range.start + (length as u64).next_multiple_of(4);
            let mut view = buffer.it.get_mapped_range_mut(range.start..end).map_err(|error| error.to_string())?;
            view.slice(..length).copy_from_slice(&data);
            gpu.shared.account.uploaded(length);
            Ok(())
        });
        let written = written.await.unwrap_or_else(|| Err("the device is lost".into()));
        Ok(written.or_else(|message| range_error(OperationError, message)))
    }

    async fn unmap(&mut self, it: Resource<r::Buffer>) -> wasmtime::Result<Result<(), UnmapError>> {
        let buffer = self.table.get(&it)?;
        let was = {
            let mut map = lock(&buffer.map);
            let was = map.state.clone();
            map.set(MapState::Unmapped);
            was
        };
        let (object, lane) = (buffer.object.clone(), buffer.lane.clone());
        let is_empty = matches!(&was, MapState::Mapped { range, .. } if range.is_empty());
        if was != MapState::Unmapped && !is_empty {
            lane.send(0, move |_| {
                if let Ok(buffer) = object.get("the buffer") {
                    buffer.it.unmap();
                }
            })
            .await;
        }
        Ok(Ok(()))
    }

    async fn destroy(&mut self, it: Resource<r::Buffer>) -> wasmtime::Result<()> {
        let buffer = self.table.get(&it)?;
        lock(&buffer.map).set(MapState::Unmapped);
        let (object, lane) = (buffer.object.clone(), buffer.lane.clone());
        lane.send(0, move |_| {
            if let Ok(buffer) = object.get("the buffer") {
                buffer.it.destroy();
                drop(lock(&buffer.charge).take());
            }
        })
        .await;
        Ok(())
    }
}

type Mapped = Result<(), (MapAsyncErrorKind, String)>;

/// A mapping that a guest wants, of which the buffer is there.
struct Wish {
    range: Range<u64>,
    write: bool,
    map: Arc<Mutex<Mapping>>,
    turn: u64,
}

impl Wish {
    /// Unless the guest unmapped it meanwhile.
    fn settle(&self, state: MapState) -> bool {
        let mut map = lock(&self.map);
        let is_wanted = map.turn == self.turn;
        if is_wanted {
            map.state = state;
        }
        is_wanted
    }
}

/// What the standard says of a mapping, before wgpu sees it.
fn check(
    gpu_usage: GpuBufferUsage,
    mode: GpuMapMode,
    buffer_size: u64,
    range: &Option<Range<u64>>,
) -> Result<bool, String> {
    let write = match (mode.contains(GpuMapMode::READ), mode.contains(GpuMapMode::WRITE)) {
        (true, false) => false,
        (false, true) => true,
        _ => return Err("a buffer is mapped either to be read or to be written".into()),
    };
    let needed = if write { GpuBufferUsage::MAP_WRITE } else { GpuBufferUsage::MAP_READ };
    if !gpu_usage.contains(needed) {
        return Err(format!("the buffer's usage does not have {}", if write { "map-write" } else { "map-read" }));
    }
    let Some(range) = range.as_ref().filter(|range| range.end <= buffer_size) else {
        return Err(format!("the range is not in the buffer of {buffer_size} bytes"));
    };
    if !range.start.is_multiple_of(8) || !(range.end - range.start).is_multiple_of(4) {
        return Err("an offset must be a multiple of 8, and a size of 4".into());
    }
    Ok(write)
}

fn map(gpu: &Gpu, object: &crate::device::Object<r::AllocatedBuffer>, wish: Wish, answer: oneshot::Sender<Mapped>) {
    let fail = |wish: &Wish, message: &str| {
        wish.settle(MapState::Unmapped);
        Err((MapAsyncErrorKind::OperationError, message.to_owned()))
    };
    let buffer = match object.get("the buffer") {
        Ok(buffer) if lock(&buffer.charge).is_some() => buffer,
        _ => {
            gpu.shared.report(Fault::validation("a buffer is mapped that is invalid or destroyed"));
            let _ = answer.send(fail(&wish, "the buffer is invalid or destroyed"));
            return;
        }
    };
    let mapped = MapState::Mapped { range: wish.range.clone(), write: wish.write };
    if wish.range.is_empty() {
        // wgpu has no empty mappings.
        wish.settle(mapped);
        let _ = answer.send(Ok(()));
        return;
    }
    let mode = if wish.write { wgpu::MapMode::Write } else { wgpu::MapMode::Read };
    let shared = gpu.shared.clone();
    shared.begin_map();
    buffer.it.map_async(mode, wish.range.clone(), move |result| {
        shared.end_map();
        let _ = answer.send(match result {
            Ok(()) if wish.settle(mapped) => Ok(()),
            Ok(()) => Err((MapAsyncErrorKind::AbortError, "the buffer was unmapped".into())),
            Err(_) => fail(&wish, "the buffer could not be mapped"),
        });
    });
}

impl<T: Send + 'static> HostGpuBufferWithStore<T> for HasGpu {
    async fn map_async(
        accessor: &Accessor<T, Self>,
        it: Resource<r::Buffer>,
        mode: GpuMapMode,
        offset: Option<u64>,
        size: Option<u64>,
    ) -> wasmtime::Result<Result<(), MapAsyncError>> {
        let begun = accessor.with(|mut access| {
            let view = access.get();
            wasmtime::error::Ok(begin(view.table.get(&it)?, mode, offset, size))
        });
        let (lane, object, wish) = match begun? {
            Ok(begun) => begun,
            Err((kind, message)) => return Ok(Err(MapAsyncError { kind, message })),
        };
        let (map_of, turn) = (wish.map.clone(), wish.turn);
        let answer = lane.ask_later(0, move |gpu, answer| map(gpu, &object, wish, answer)).await;
        let answer = answer.unwrap_or_else(|| Err((MapAsyncErrorKind::AbortError, "the device is lost".into())));
        Ok(answer.map_err(|(kind, message)| {
            let mut map = lock(&map_of);
            // Unmapped by the guest: that is an abort, whatever wgpu calls it.
            let kind = if map.turn == turn { kind } else { MapAsyncErrorKind::AbortError };
            if map.turn == turn && map.state == MapState::Pending {
                map.state = MapState::Unmapped;
            }
            MapAsyncError { kind, message }
        }))
    }
}

type Begun = (Lane, crate::device::Object<r::AllocatedBuffer>, Wish);

fn begin(
    buffer: &r::Buffer,
    mode: GpuMapMode,
    offset: Option<u64>,
    size: Option<u64>,
) -> Result<Begun, (MapAsyncErrorKind, String)> {
    let lane = buffer.lane.clone();
    let refuse = |message: String| {
        lane.report(Fault::validation(message.clone()));
        Err((MapAsyncErrorKind::OperationError, message))
    };
    let mut map = lock(&buffer.map);
    if map.state != MapState::Unmapped {
        return refuse("the buffer is mapped, or will be".into());
    }
    let start = offset.unwrap_or(0);
    let end = match size {
        Some(size) => start.checked_add(size),
        None => Some(buffer.size.max(start)),
    };
    let range = end.map(|end| start..end);
    match check(buffer.usage, mode, buffer.size, &range) {
        Err(message) => refuse(message),
        Ok(write) => {
            let turn = map.set(MapState::Pending);
            let range = range.unwrap_or_default();
            Ok((lane.clone(), buffer.object.clone(), Wish { range, write, map: buffer.map.clone(), turn }))
        }
    }
}

//! Buffers and their mapping. The interface copies: what is mapped to be read is copied when a view of it is taken, and what
//! is written goes to the host when the view is dropped.

use crate::{
    bindings::{GpuBuffer, GpuMapMode},
    device::Device,
    held::impl_held,
    shared::Shared,
};
use std::{cell::Cell, ops::Range, rc::Rc};
use wgpu::{
    BufferAsyncError, MapMode, MapRangeError, WriteOnly,
    custom::{self, BufferMapCallback, DispatchBufferMappedRange},
};

/// What one call copies at most. A host may refuse more.
const COPY_BYTES_MAX: u64 = 8 << 20;

#[derive(Debug)]
pub(crate) struct Buffer(pub(crate) Option<Rc<GpuBuffer>>, pub(crate) Rc<Shared>, pub(crate) Rc<Mapping>);

impl_held! { Buffer(Rc<GpuBuffer>): "buffer"; }

/// What is known here of a buffer's mapping.
#[derive(Debug, Default)]
pub(crate) struct Mapping {
    /// Whether it is, or will be, mapped to be written.
    writes: Cell<bool>,
    /// Whether nothing was written to it yet: it is zeros, and need not be read.
    is_new: Cell<bool>,
    /// It was asked for, and the host was not: it is, when the device is polled.
    is_unasked: Cell<bool>,
    /// Counts up with every end of a mapping. What a view of an earlier one holds is not written any more.
    turn: Cell<u64>,
}

impl Mapping {
    pub(crate) fn at_creation(is_mapped: bool) -> Rc<Self> {
        Rc::new(Self { writes: Cell::new(is_mapped), is_new: Cell::new(is_mapped), ..Self::default() })
    }

    fn end(&self) {
        self.is_new.set(false);
        self.turn.set(self.turn.get() + 1);
    }
}

fn pieces(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let end = range.end;
    let step = usize::try_from(COPY_BYTES_MAX).unwrap_or(usize::MAX);
    range.step_by(step).map(move |start| start..end.min(start + COPY_BYTES_MAX))
}

fn read(buffer: &GpuBuffer, range: Range<u64>) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    for piece in pieces(range) {
        let some = buffer.get_mapped_range_get_with_copy(Some(piece.start), Some(piece.end - piece.start)).ok()?;
        if all.is_empty() {
            all = some;
        } else {
            all.extend_from_slice(&some);
        }
    }
    Some(all)
}

/// wgpu makes this error itself, of a buffer that is not mapped, and lets nobody else make one.
fn not_mapped(shared: &Rc<Shared>) -> Result<DispatchBufferMappedRange, MapRangeError> {
    shared.makes_unmapped.set(true);
    let buffer = wgpu::Device::from_custom(Device(shared.clone())).create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 4,
        usage: wgpu::BufferUsages::empty(),
        mapped_at_creation: false,
    });
    shared.makes_unmapped.set(false);
    buffer.get_mapped_range(..)?;
    Ok(DispatchBufferMappedRange::custom(View::empty()))
}

impl custom::BufferInterface for Buffer {
    fn map_async(&self, mode: MapMode, range: Range<u64>, callback: BufferMapCallback) {
        let Some(buffer) = self.0.clone() else { return callback(Err(BufferAsyncError)) };
        let wanted = match mode {
            MapMode::Read => GpuMapMode::READ,
            MapMode::Write => GpuMapMode::WRITE,
        };
        let (mapping, turn) = (self.2.clone(), self.2.turn.get());
        mapping.writes.set(mode == MapMode::Write);
        mapping.is_unasked.set(true);
        self.1.begin(async move {
            if mapping.turn.get() != turn {
                return callback(Err(BufferAsyncError));
            }
            mapping.is_unasked.set(false);
            let mapped = buffer.map_async(wanted, Some(range.start), Some(range.end - range.start)).await;
            callback(mapped.ok().filter(|()| mapping.turn.get() == turn).ok_or(BufferAsyncError));
        });
    }

    fn get_mapped_range(&self, range: Range<u64>) -> Result<DispatchBufferMappedRange, MapRangeError> {
        // wgpu knows itself that it is not mapped.
        let Some(buffer) = self.0.clone() else { return Ok(DispatchBufferMappedRange::custom(View::empty())) };
        let bytes = if self.2.is_new.get() {
            usize::try_from(range.end - range.start).ok().map(|length| vec![0; length])
        } else {
            read(&buffer, range.clone())
        };
        let Some(bytes) = bytes else { return not_mapped(&self.1) };
        let turn = self.2.turn.get();
        let target = self.2.writes.get().then(|| Target { buffer, mapping: self.2.clone(), turn, start: range.start });
        Ok(DispatchBufferMappedRange::custom(View { bytes, target, is_written: false }))
    }

    fn unmap(&self) {
        self.2.end();
        if self.2.is_unasked.take() {
            return; // to the host nothing is mapped
        }
        if let Some(buffer) = &self.0 {
            // It fails where a mapping was on its way; its callback says so.
            let _ = buffer.unmap();
        }
    }

    fn destroy(&self) {
        self.2.end();
        if let Some(buffer) = &self.0 {
            buffer.destroy();
        }
    }
}

/// A copy of what is mapped.
#[derive(Debug)]
struct View {
    bytes: Vec<u8>,
    target: Option<Target>,
    is_written: bool,
}

/// Where a view goes that is written.
#[derive(Debug)]
struct Target {
    buffer: Rc<GpuBuffer>,
    mapping: Rc<Mapping>,
    turn: u64,
    start: u64,
}

impl View {
    fn empty() -> Self {
        Self { bytes: Vec::new(), target: None, is_written: false }
    }
}

impl custom::BufferMappedRangeInterface for View {
    fn len(&self) -> usize {
        self.bytes.len()
    }

    unsafe fn read_slice(&self) -> &[u8] {
        &self.bytes
    }

    unsafe fn write_slice(&mut self) -> WriteOnly<'_, [u8]> {
        self.is_written = true;
        WriteOnly::from_mut(&mut self.bytes)
    }
}

impl Drop for View {
    fn drop(&mut self) {
        let Some(target) = self.target.take().filter(|_| self.is_written) else { return };
        if target.mapping.turn.get() != target.turn {
            return;
        }
        target.mapping.is_new.set(false);
        let end = self.bytes.len() as u64;
        for piece in pieces(0..end) {
            let [start, end] = [piece.start, piece.end].map(|at| usize::try_from(at).unwrap_or(usize::MAX));
            let Some(bytes) = self.bytes.get(start..end) else { return };
            // Nobody is left who could be told. It fails where the device is lost, which is told otherwise.
            let at = target.start + piece.start;
            let _ = target.buffer.get_mapped_range_set_with_copy(bytes, Some(at), Some(piece.end - piece.start));
        }
    }
}

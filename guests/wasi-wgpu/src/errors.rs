//! Errors of a device, and its end.
//!
//! The host keeps the error scopes. Beside each there is one here, for errors that are found before the host is asked.

use crate::{
    bindings::{GpuDevice, GpuDeviceLostInfo, GpuDeviceLostReason, GpuError, GpuErrorKind},
    convert::enums,
};
use std::{
    cell::RefCell,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};
use wasip3::wit_bindgen::{FutureReader, StreamReader, StreamResult};
use wgpu::{DeviceLostReason, Error, ErrorFilter, UncapturedErrorHandler, custom::BoxDeviceLostCallback};

/// Errors that are read at once.
const READ: usize = 8;

pub(crate) struct Errors {
    scopes: RefCell<Vec<Scope>>,
    handler: RefCell<Option<Arc<dyn UncapturedErrorHandler>>>,
    /// None while it is read, and after its end.
    uncaptured: RefCell<Option<StreamReader<GpuError>>>,
    /// None while it is read, and once the end is known.
    lost: RefCell<Option<FutureReader<GpuDeviceLostInfo>>>,
    end: RefCell<Option<(DeviceLostReason, String)>>,
    on_lost: RefCell<Option<BoxDeviceLostCallback>>,
}

struct Scope {
    filter: ErrorFilter,
    first: Option<String>,
}

fn error(kind: ErrorFilter, message: String) -> Error {
    let source = message.clone().into();
    match kind {
        ErrorFilter::OutOfMemory => Error::OutOfMemory { source },
        ErrorFilter::Validation => Error::Validation { source, description: message },
        ErrorFilter::Internal => Error::Internal { source, description: message },
    }
}

fn of_host(fault: &GpuError) -> Error {
    let kind = match fault.kind() {
        GpuErrorKind::ValidationError => ErrorFilter::Validation,
        GpuErrorKind::OutOfMemoryError => ErrorFilter::OutOfMemory,
        GpuErrorKind::InternalError => ErrorFilter::Internal,
    };
    error(kind, fault.message())
}

impl Errors {
    pub(crate) fn of(device: &GpuDevice) -> Self {
        Self {
            scopes: RefCell::default(),
            handler: RefCell::default(),
            uncaptured: RefCell::new(Some(device.on_uncaptured_error())),
            lost: RefCell::new(Some(device.lost())),
            end: RefCell::default(),
            on_lost: RefCell::default(),
        }
    }

    /// A validation error that the host does not know of.
    pub(crate) fn report(&self, message: String) {
        let mut scopes = self.scopes.borrow_mut();
        if let Some(scope) = scopes.iter_mut().rev().find(|scope| scope.filter == ErrorFilter::Validation) {
            scope.first.get_or_insert(message);
            return;
        }
        drop(scopes);
        self.uncaught(error(ErrorFilter::Validation, message));
    }

    /// Without a handler it goes to the guest's standard error, as a browser's console has it: a trap would end a
    /// request for what may be a trifle.
    fn uncaught(&self, error: Error) {
        let handler = self.handler.borrow().clone();
        match handler {
            Some(handler) => handler(error),
            None => eprintln!("wgpu: an error that no scope caught: {error}"),
        }
    }

    pub(crate) fn handle(&self, handler: Arc<dyn UncapturedErrorHandler>) {
        self.handler.replace(Some(handler));
    }

    pub(crate) fn push(&self, device: &GpuDevice, filter: ErrorFilter) -> u32 {
        device.push_error_scope(enums::error_filter(filter));
        let mut scopes = self.scopes.borrow_mut();
        scopes.push(Scope { filter, first: None });
        u32::try_from(scopes.len() - 1).unwrap_or(u32::MAX)
    }

    /// The first error of that scope. Scopes within it that are still open end as well, and tell nobody.
    pub(crate) fn pop(&self, device: &GpuDevice, index: u32) -> Option<Error> {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        let mut first = None;
        loop {
            let mut scopes = self.scopes.borrow_mut();
            if scopes.len() <= index {
                return first;
            }
            let scope = scopes.pop()?;
            drop(scopes);
            let fault = device.pop_error_scope().ok().flatten();
            let here = scope.first.map(|message| error(scope.filter, message));
            first = fault.as_ref().map(of_host).or(here);
        }
    }

    pub(crate) fn on_lost(&self, callback: BoxDeviceLostCallback) {
        let end = self.end.borrow().clone();
        match end {
            Some((reason, message)) => callback(reason, message),
            None => {
                self.on_lost.replace(Some(callback));
            }
        }
    }

    /// Tells what the host has to tell by now. It does not wait, but must be called within a task.
    pub(crate) fn look(&self, context: &mut Context<'_>) {
        if let Some(mut stream) = self.uncaptured.take() {
            let (found, is_over) = read(&mut stream, context);
            if !is_over {
                self.uncaptured.replace(Some(stream));
            }
            found.iter().for_each(|fault| self.uncaught(of_host(fault)));
        }
        if let Some(reader) = self.lost.take() {
            match now(reader, context) {
                Err(reader) => {
                    self.lost.replace(Some(reader));
                }
                Ok(info) => self.lose(&info),
            }
        }
    }

    fn lose(&self, info: &GpuDeviceLostInfo) {
        let reason = match info.reason() {
            GpuDeviceLostReason::Unknown => DeviceLostReason::Unknown,
            GpuDeviceLostReason::Destroyed => DeviceLostReason::Destroyed,
        };
        let message = info.message();
        self.end.replace(Some((reason, message.clone())));
        if let Some(callback) = self.on_lost.take() {
            callback(reason, message);
        }
    }
}

/// What a stream has, and whether it is at its end.
fn read(stream: &mut StreamReader<GpuError>, context: &mut Context<'_>) -> (Vec<GpuError>, bool) {
    let mut all = Vec::new();
    loop {
        let mut reading = pin!(stream.read(Vec::with_capacity(READ)));
        let (result, some) = match reading.as_mut().poll(context) {
            Poll::Ready(read) => read,
            Poll::Pending => reading.as_mut().cancel(),
        };
        all.extend(some);
        match result {
            StreamResult::Complete(_) => {}
            StreamResult::Dropped => return (all, true),
            StreamResult::Cancelled => return (all, false),
        }
    }
}

/// What a future has, if it has it already.
fn now<T>(reader: FutureReader<T>, context: &mut Context<'_>) -> Result<T, FutureReader<T>> {
    let mut reading = pin!(reader.into_future());
    match Pin::as_mut(&mut reading).poll(context) {
        Poll::Ready(value) => Ok(value),
        Poll::Pending => reading.as_mut().cancel(),
    }
}

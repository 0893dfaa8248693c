//! What a guest calls. A function here looks handles up, charges what will be used, and sends a job to the device's thread;
//! what can be wrong with a call is found there, as the standard has it, and told through error scopes. Nothing here traps
//! but what the component model forbids: a handle that is not one, more handles than an instance may have.
//!
//! `resources.rs` is what handles refer to; the other files are the resources of the interface, by topic.

mod adapter;
mod buffer;
mod device;
mod device_store;
mod encoder;
mod errors_and_labels;
mod maps;
mod pipelines;
mod queue;
mod render;
pub(crate) mod resources;
mod shader;
mod texture;

use crate::{
    bindings::webgpu,
    device::{Fault, Lane, Object, recording::Ended},
    workspace::Workspace,
};
use resources::{Entry, Kept};
use std::sync::Arc;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};

/// What belongs to one instance. Without a workspace there is no adapter.
#[derive(Debug, Default)]
pub struct GpuCtx {
    workspace: Option<Arc<Workspace>>,
}

impl GpuCtx {
    pub fn new(workspace: Option<Arc<Workspace>>) -> Self {
        Self { workspace }
    }
}

/// What the functions need of an instance.
pub struct GpuView<'a> {
    pub ctx: &'a mut GpuCtx,
    pub table: &'a mut ResourceTable,
}

/// For `T`s from which a [`GpuView`] can be made.
pub struct HasGpu;

impl HasData for HasGpu {
    type Data<'a> = GpuView<'a>;
}

/// Only for engines with concurrency: the interface has async functions.
pub fn add_to_linker<T: Send + 'static>(
    linker: &mut Linker<T>,
    view: fn(&mut T) -> GpuView<'_>,
) -> wasmtime::Result<()> {
    webgpu::add_to_linker::<T, HasGpu>(linker, view)
}

impl webgpu::Host for GpuView<'_> {
    fn get_gpu(&mut self) -> wasmtime::Result<Resource<Entry>> {
        Ok(self.table.push(Entry)?)
    }
}

/// The two functions that every resource with a label has.
macro_rules! labels {
    ($resource:ty) => {
        fn label(&mut self, it: wasmtime::component::Resource<$resource>) -> wasmtime::Result<String> {
            Ok(self.table.get(&it)?.label.clone())
        }

        fn set_label(&mut self, it: wasmtime::component::Resource<$resource>, text: String) -> wasmtime::Result<()> {
            self.table.get_mut(&it)?.label = $crate::host::resources::label(Some(text));
            Ok(())
        }
    };
}
pub(crate) use labels;

/// A handle that goes is gone.
macro_rules! dropped {
    ($resource:ty) => {
        fn drop(&mut self, it: wasmtime::component::Resource<$resource>) -> wasmtime::Result<()> {
            self.table.delete(it)?;
            Ok(())
        }
    };
}
pub(crate) use dropped;

impl GpuView<'_> {
    /// A handle to something that the device's thread makes in its turn, and what that must fill.
    fn keep<T: Send + 'static>(
        &mut self,
        lane: &Lane,
        label: String,
    ) -> wasmtime::Result<(Resource<Kept<T>>, Object<T>)> {
        let object = lane.object();
        let kept = Kept { object: object.clone(), label, lane: lane.clone() };
        Ok((self.table.push(kept)?, object))
    }

    /// The object behind a handle.
    fn object<T: Send + 'static>(&self, it: &Resource<Kept<T>>) -> wasmtime::Result<Object<T>> {
        Ok(self.table.get(it)?.object.clone())
    }
}

/// An error at once, of a call to an encoder that has ended.
fn at_once(lane: &Lane, result: Result<(), Ended>) {
    if let Err(Ended(why)) = result {
        lane.report(Fault::validation(why));
    }
}

//! What a guest's handle refers to: something of wgpu that the device's thread makes in its turn, long after the guest has
//! its handle. Until then, and where it could not be made, there is nothing in it: the object is invalid, as WebGPU calls
//! it, and so is what uses it.

use crate::{
    device::{errors::Fault, lane::Sent},
    lock,
};
use std::sync::{Arc, Mutex, mpsc};

pub(crate) struct Object<T: Send + 'static>(Arc<Inner<T>>);

struct Inner<T: Send + 'static> {
    value: Mutex<Option<T>>,
    /// Of the thread that drops it.
    thread: mpsc::Sender<Sent>,
}

impl<T: Send + 'static> Clone for Object<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Send + 'static> Object<T> {
    pub(crate) fn new(thread: mpsc::Sender<Sent>) -> Self {
        Self(Arc::new(Inner { value: Mutex::new(None), thread }))
    }

    /// On the device's thread.
    pub(crate) fn set(&self, value: T) {
        *lock(&self.0.value) = Some(value);
    }

    /// On the device's thread. What is in it, which is not in it any more.
    pub(crate) fn take(&self) -> Option<T> {
        lock(&self.0.value).take()
    }
}

impl<T: Clone + Send + 'static> Object<T> {
    /// On the device's thread.
    pub(crate) fn get(&self, what: &str) -> Result<T, Fault> {
        lock(&self.0.value).clone().ok_or_else(|| Fault::validation(format!("{what} is invalid")))
    }
}

impl<T: Send + 'static> Drop for Inner<T> {
    fn drop(&mut self) {
        if let Some(value) = lock(&self.value).take() {
            let _ = self.thread.send(Sent::Dropped(Box::new(value)));
        }
    }
}

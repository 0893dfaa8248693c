//! Ends devices whose work takes too long. A thread for all of a node: the device's own may be the one that hangs.

use crate::{
    device::shared::{Lost, Shared},
    lock,
};
use std::{
    sync::{Arc, Mutex, Weak},
    thread,
    time::{Duration, Instant},
};

const EVERY: Duration = Duration::from_millis(100);

#[derive(Default)]
pub(crate) struct Watchdog(Arc<Mutex<Watched>>);

#[derive(Default)]
struct Watched {
    devices: Vec<Weak<Shared>>,
    /// There is a thread.
    runs: bool,
}

impl Watchdog {
    pub(crate) fn watch(&self, device: &Arc<Shared>) -> std::io::Result<()> {
        let mut watched = lock(&self.0);
        watched.devices.push(Arc::downgrade(device));
        if watched.runs {
            return Ok(());
        }
        let list = Arc::downgrade(&self.0);
        thread::Builder::new().name("gpu-watchdog".into()).spawn(move || run(&list))?;
        watched.runs = true;
        Ok(())
    }
}

/// Until there is nothing to watch.
fn run(list: &Weak<Mutex<Watched>>) {
    loop {
        thread::sleep(EVERY);
        let Some(list) = list.upgrade() else { return };
        let mut watched = lock(&list);
        let now = Instant::now();
        watched.devices.retain(|device| {
            let Some(device) = device.upgrade() else { return false };
            if let Some(message) = device.overdue(now) {
                device.lose(Lost { destroyed: false, message });
            }
            !device.is_lost()
        });
        if watched.devices.is_empty() {
            watched.runs = false;
            return;
        }
    }
}
